//! Commits, claims, deadlines and restarts.

use std::time::Duration;

use crate::common::{World, raw, recorded};
use countersign_model::{Draft, Kind, OutcomeStatus, ReasonCode};
use countersign_store::{Committed, Store, StoreError};
use serde_json::Value;

async fn leaves(world: &World) -> Vec<Value> {
    let mut db = raw(&world.database()).await;
    let rows: Vec<Vec<u8>> = sqlx::query_scalar(
        "SELECT body FROM leaf JOIN intake USING (tenant, replica, epoch, seq) ORDER BY idx",
    )
    .fetch_all(&mut db)
    .await
    .unwrap();
    rows.iter().map(|body| serde_json::from_slice(body).unwrap()).collect()
}

async fn count(world: &World, kind: &str, field: &str, value: &str) -> usize {
    let leaves = leaves(world).await;
    leaves.iter().filter(|leaf| leaf["kind"] == kind && leaf[field] == value).count()
}

#[tokio::test(flavor = "multi_thread")]
async fn an_intent_and_its_outcome_are_two_leaves() {
    let world = World::new();
    let store = world.create().await;
    let receipt = recorded(store.commit_intent(world.intent()).await.unwrap());
    assert_eq!(receipt.index().unwrap().0, 0);
    let call = receipt.evaluation_id();
    let outcome = world.outcome(call, OutcomeStatus::Executed, None);
    assert_eq!(store.commit_outcome(outcome).await.unwrap().index.unwrap().0, 1);
    let again = world.outcome(call, OutcomeStatus::Failed, None);
    assert!(matches!(store.commit_outcome(again).await, Err(StoreError::Invalid { .. })));
    store.shutdown().await.unwrap();

    let leaves = leaves(&world).await;
    assert_eq!(leaves.len(), 2);
    let decision = &leaves[0];
    assert_eq!(decision["gw"]["seq"], 1);
    assert_eq!(decision["_sd"].as_array().unwrap().len(), 3, "two fields and the principal");
    assert!(!decision.to_string().contains("ada@"), "{decision}");
    assert_eq!(decision["principal"], store.pseudonym("ada@example.com").unwrap());
    assert_eq!(leaves[1]["parent"], call.to_string());
    assert_eq!(leaves[1]["outcome"], "executed");
}

#[tokio::test(flavor = "multi_thread")]
async fn r_036_fifty_parallel_claims_are_recorded_once() {
    let world = World::new();
    let store = world.create().await;
    let calls: Vec<_> = (0..50)
        .map(|_| {
            let (store, intent) = (store.clone(), world.claiming("k", 1));
            tokio::spawn(async move { store.commit_intent(intent).await.unwrap() })
        })
        .collect();
    let (mut won, mut in_flight) = (Vec::new(), Vec::new());
    for call in calls {
        match call.await.unwrap() {
            Committed::Recorded(receipt) => won.push(receipt.evaluation_id()),
            Committed::InFlight { evaluation_id } => in_flight.push(evaluation_id),
            other @ (Committed::Replayed(_) | Committed::Refused { .. }) => panic!("{other:?}"),
        }
    }
    assert_eq!((won.len(), in_flight.len()), (1, 49));
    assert!(in_flight.iter().all(|call| *call == won[0]));

    assert!(!store.wait_outcome(won[0], Duration::from_millis(20)).await);
    let waiting: Vec<_> = (0..5)
        .map(|_| {
            let (store, call) = (store.clone(), won[0]);
            tokio::spawn(async move { store.wait_outcome(call, Duration::from_secs(5)).await })
        })
        .collect();
    let outcome = world.outcome(won[0], OutcomeStatus::Executed, Some(r#"{"ok":true}"#));
    store.commit_outcome(outcome).await.unwrap();
    for wait in waiting {
        assert!(wait.await.unwrap());
    }
    let committed = store.commit_intent(world.claiming("k", 1)).await.unwrap();
    let Committed::Replayed(stored) = committed else { panic!("{committed:?}") };
    assert_eq!(stored.evaluation_id, won[0]);
    assert_eq!(stored.status, OutcomeStatus::Executed);
    assert_eq!(stored.result.as_deref(), Some(r#"{"ok":true}"#));
    assert_eq!(leaves(&world).await.len(), 2, "neither waiting nor replaying is recorded");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_large_result_is_replayed_to_the_byte() {
    let world = World::new();
    let store = world.create().await;
    let text = serde_json::json!({ "text": "ä\u{1}\"x".repeat(60_000) }).to_string();
    let call = recorded(store.commit_intent(world.claiming("k", 1)).await.unwrap()).evaluation_id();
    store.commit_outcome(world.outcome(call, OutcomeStatus::Failed, Some(&text))).await.unwrap();
    let committed = store.commit_intent(world.claiming("k", 1)).await.unwrap();
    let Committed::Replayed(stored) = committed else { panic!("{committed:?}") };
    assert_eq!(stored.result, Some(text));
    assert_eq!(stored.status, OutcomeStatus::Failed);
}

async fn refusal(store: &Store, world: &World, digest: u8) -> ReasonCode {
    let committed = store.commit_intent(world.claiming("k", digest)).await.unwrap();
    let Committed::Refused { code, .. } = committed else { panic!("{committed:?}") };
    code
}

#[tokio::test(flavor = "multi_thread")]
async fn claims_that_are_lost_are_recorded_as_denials() {
    let world = World::new();
    let store = world.create().await;
    let call = recorded(store.commit_intent(world.claiming("k", 1)).await.unwrap()).evaluation_id();
    assert_eq!(refusal(&store, &world, 2).await, ReasonCode::IDEMPOTENCY_PAYLOAD_MISMATCH);
    store.commit_outcome(world.outcome(call, OutcomeStatus::Executed, Some("1"))).await.unwrap();
    assert_eq!(refusal(&store, &world, 2).await, ReasonCode::IDEMPOTENCY_PAYLOAD_MISMATCH);
    world.clock.advance(24 * 60 * 60 * 1_000);
    assert_eq!(refusal(&store, &world, 1).await, ReasonCode::IDEMPOTENCY_RESULT_GONE);
    assert_eq!(count(&world, "decision", "decision", "deny").await, 3);
    assert_eq!(count(&world, "decision", "decision", "allow").await, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_that_was_not_forwarded_gives_its_key_back() {
    let world = World::new();
    let store = world.create().await;
    let call = recorded(store.commit_intent(world.claiming("k", 1)).await.unwrap()).evaluation_id();
    store.commit_outcome(world.outcome(call, OutcomeStatus::NotForwarded, None)).await.unwrap();
    let next = recorded(store.commit_intent(world.claiming("k", 1)).await.unwrap());
    assert_ne!(next.evaluation_id(), call);
}

/// Opens a store in a runtime of its own, does something, and kills the runtime.
fn crash_after(world: &World, create: bool, work: impl AsyncFnOnce(&Store)) {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(async {
        let store = if create { world.create().await } else { world.open().await };
        work(&store).await;
    });
    runtime.shutdown_timeout(Duration::from_secs(5));
}

#[test]
fn after_a_crash_the_outcome_is_unknown_until_it_is_reconciled() {
    let world = World::new();
    let mut call = None;
    crash_after(&world, true, async |store| {
        let committed = store.commit_intent(world.claiming("k", 1)).await.unwrap();
        call = Some(recorded(committed).evaluation_id());
    });
    let call = call.unwrap();
    tokio::runtime::Runtime::new().unwrap().block_on(async {
        let store = world.open().await;
        let found = leaves(&world).await;
        let kinds: Vec<_> = found.iter().map(|leaf| leaf["kind"].as_str().unwrap()).collect();
        assert_eq!(kinds, ["decision", "gap", "outcome"]);
        assert_eq!(found[1]["last"]["epoch"], 1);
        assert_eq!(found[1]["last"]["seq"], 1);
        assert_eq!(
            (&found[2]["outcome"], &found[2]["gw"]["epoch"]),
            (&"unknown".into(), &2.into())
        );
        let code = refusal(&store, &world, 1).await;
        assert_eq!(code, ReasonCode::IDEMPOTENCY_OUTCOME_UNKNOWN);
        let executed = OutcomeStatus::Executed;
        store.reconcile(call, executed, "op@example.com", "seen in the CRM").await.unwrap();
        let again = store.reconcile(call, executed, "op@example.com", "again").await;
        assert!(matches!(again, Err(StoreError::Invalid { .. })));
        assert_eq!(refusal(&store, &world, 1).await, ReasonCode::IDEMPOTENCY_RESULT_GONE);
        store.shutdown().await.unwrap();
        let store = world.open().await;
        store.shutdown().await.unwrap();
        assert_eq!(count(&world, "gap", "gap", "unclean_stop").await, 1, "a clean stop is no gap");
    });
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stalled_writer_refuses_at_the_deadline_and_recovers() {
    let world = World::new();
    Store::create(&world.path(), &world.config()).await.unwrap();
    let mut config = world.config();
    config.commit_deadline = Duration::from_millis(200);
    config.queue = 8;
    let store = Store::open(&world.path(), config).await.unwrap();
    let mut other = raw(&world.database()).await;
    sqlx::raw_sql("BEGIN IMMEDIATE").execute(&mut other).await.unwrap();
    let started = std::time::Instant::now();
    let calls: Vec<_> = (0..40)
        .map(|_| {
            let (store, intent) = (store.clone(), world.intent());
            tokio::spawn(async move { store.commit_intent(intent).await })
        })
        .collect();
    for call in calls {
        assert!(matches!(call.await.unwrap(), Err(StoreError::Unavailable { .. })));
    }
    assert!(started.elapsed() < Duration::from_secs(2), "{:?}", started.elapsed());
    sqlx::raw_sql("ROLLBACK").execute(&mut other).await.unwrap();
    let recovered = async { while store.commit_intent(world.intent()).await.is_err() {} };
    tokio::time::timeout(Duration::from_secs(5), recovered).await.unwrap();
    store.shutdown().await.unwrap();
}

/// What a full disk looks like to the writer: writes fail, then work again.
#[tokio::test(flavor = "multi_thread")]
async fn t4_a_failing_database_refuses_and_service_resumes_by_itself() {
    let world = World::new();
    let store = world.create().await;
    let before = recorded(store.commit_intent(world.intent()).await.unwrap());
    let mut other = raw(&world.database()).await;
    let fault =
        "CREATE TRIGGER fault BEFORE INSERT ON leaf BEGIN SELECT RAISE(ABORT, 'fault'); END";
    sqlx::raw_sql(fault).execute(&mut other).await.unwrap();
    for _ in 0..3 {
        let refused = store.commit_intent(world.claiming("k", 1)).await;
        assert!(matches!(refused, Err(StoreError::Unavailable { .. })), "{refused:?}");
    }
    sqlx::raw_sql("DROP TRIGGER fault").execute(&mut other).await.unwrap();
    let after = recorded(store.commit_intent(world.claiming("k", 1)).await.unwrap());
    assert_eq!(
        after.index().unwrap().0,
        before.index().unwrap().0 + 2,
        "a gap record tells of the fault; nothing of the failed batches is left"
    );
    store.shutdown().await.unwrap();
    assert_eq!(count(&world, "gap", "gap", "database_failed").await, 1);
    countersign_store::fsck::check(&world.path(), None, &mut |_, _| {}).await.unwrap();
}

/// A commit that becomes durable after its caller was refused must not look like an executed call.
#[tokio::test(flavor = "multi_thread")]
async fn a_caller_that_hangs_up_during_the_commit_leaves_a_call_that_was_not_forwarded() {
    let world = World::new();
    let store = world.create().await;
    for _ in 0..40 {
        let (caller, intent) = (store.clone(), world.claiming("k", 1));
        let call = tokio::spawn(async move {
            if let Ok(Committed::Recorded(receipt)) = caller.commit_intent(intent).await {
                return Some(receipt.evaluation_id());
            }
            None
        });
        tokio::task::yield_now().await;
        call.abort();
        if let Ok(Some(call)) = call.await {
            let status = OutcomeStatus::NotForwarded;
            store.commit_outcome(world.outcome(call, status, None)).await.unwrap();
        }
    }
    store.shutdown().await.unwrap();
    let allowed = count(&world, "decision", "decision", "allow").await;
    assert_eq!(count(&world, "outcome", "outcome", "not_forwarded").await, allowed);
}

#[tokio::test(flavor = "multi_thread")]
async fn records_that_break_the_rules_are_refused() {
    let world = World::new();
    let store = world.create().await;
    let draft = |kind| Draft::new(world.id(), kind);
    for bad in [
        draft(Kind::Decision).with("decision", "allow"),
        draft(Kind::Outcome),
        draft(Kind::Change).with("gw", 1),
        draft(Kind::Change).with("share", 0.5),
        draft(Kind::Change).sealed("_sd", 1),
    ] {
        let refused = store.append(bad.clone()).await;
        assert!(matches!(refused, Err(StoreError::Invalid { .. })), "{bad:?}");
    }
    let large = store.append(draft(Kind::Change).with("text", "x".repeat(17_000))).await;
    assert!(matches!(large, Err(StoreError::TooLarge { .. })));
    assert_eq!(leaves(&world).await.len(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_clock_that_steps_back_is_recorded_and_time_goes_on() {
    let world = World::new();
    let store = world.create().await;
    store.append(Draft::new(world.id(), Kind::Check)).await.unwrap();
    world.clock.advance(-5_000);
    store.append(Draft::new(world.id(), Kind::Check)).await.unwrap();
    store.append(Draft::new(world.id(), Kind::Check)).await.unwrap();
    let times: Vec<_> = leaves(&world)
        .await
        .iter()
        .map(|leaf| (leaf["kind"].clone(), leaf["time"]["ms"].as_i64(), leaf["time"]["n"].as_u64()))
        .collect();
    let now = Some(crate::common::START_MS);
    assert_eq!(
        times,
        [
            ("check".into(), now, Some(0)),
            ("detection".into(), now, Some(1)),
            ("check".into(), now, Some(2)),
            ("check".into(), now, Some(3)),
        ]
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn append_only_tables_refuse_changes() {
    let world = World::new();
    let store = world.create().await;
    store.append(Draft::new(world.id(), Kind::Check)).await.unwrap();
    store.publish_now().await.unwrap();
    let mut other = raw(&world.database()).await;
    for sql in [
        "UPDATE intake SET kind = 'gap'",
        "DELETE FROM intake",
        "UPDATE leaf SET idx = 9",
        "DELETE FROM leaf",
        "UPDATE checkpoint SET note = ''",
        "DELETE FROM checkpoint",
    ] {
        let error = sqlx::raw_sql(sql).execute(&mut other).await.unwrap_err();
        assert!(error.to_string().contains("append-only"), "{sql}: {error}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_process_is_locked_out_and_a_reopened_tree_goes_on() {
    let world = World::new();
    let store = world.create().await;
    for _ in 0..5 {
        store.append(Draft::new(world.id(), Kind::Check)).await.unwrap();
    }
    let second = Store::open(&world.path(), world.config()).await;
    assert!(matches!(second, Err(StoreError::Locked(_))));
    store.shutdown().await.unwrap();
    let refused = store.append(Draft::new(world.id(), Kind::Check)).await;
    assert!(matches!(refused, Err(StoreError::Unavailable { .. })));
    let store = world.open().await;
    let sixth = store.append(Draft::new(world.id(), Kind::Check)).await.unwrap();
    assert_eq!(sixth.index.unwrap().0, 5);
    store.shutdown().await.unwrap();

    let mut tree = countersign_ledger::Frontier::new();
    for leaf in leaves(&world).await {
        tree.push(countersign_ledger::leaf_hash(
            &countersign_ledger::jcs::canonicalize(&leaf).unwrap(),
        ));
    }
    let mut db = raw(&world.database()).await;
    let root: Vec<u8> =
        sqlx::query_scalar("SELECT root FROM frontier").fetch_one(&mut db).await.unwrap();
    assert_eq!(root, tree.root().0);
}
