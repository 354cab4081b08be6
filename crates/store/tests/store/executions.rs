//! The view `exogram_executions` on SQLite.

use countersign_model::{Draft, Kind, OutcomeStatus};
use countersign_store::{Committed, Store, StoreError};
use serde_json::Value;
use sqlx::Row as _;

use crate::common::{World, agent, raw, recorded};

/// The seven columns, in their order.
const COLUMNS: [&str; 7] = [
    "evaluation_id",
    "idempotency_key",
    "user_id",
    "action_type",
    "status",
    "context_snapshot",
    "executed_at",
];

/// The rows, oldest call first: columns by their order.
async fn rows(world: &World) -> Vec<[Option<String>; 7]> {
    let mut conn = raw(&world.database()).await;
    let found = sqlx::query("SELECT * FROM exogram_executions ORDER BY evaluation_id");
    let found = found.fetch_all(&mut conn).await.unwrap();
    for row in &found {
        let names: Vec<_> = row.columns().iter().map(sqlx::Column::name).collect();
        assert_eq!(names, COLUMNS);
    }
    found.iter().map(|row| std::array::from_fn(|column| row.get(column))).collect()
}

async fn statuses(world: &World) -> Vec<String> {
    rows(world).await.into_iter().map(|row| row[4].clone().unwrap()).collect()
}

async fn settle(
    world: &World,
    store: &Store,
    call: countersign_model::RecordId,
    end: OutcomeStatus,
) {
    store.commit_outcome(world.outcome(call, end, None)).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn r_035_the_view_has_one_row_per_agent_and_key_and_two_transitions() {
    let world = World::new();
    let store = world.create().await;
    let first = recorded(store.commit_intent(world.claiming("k", 1)).await.unwrap());
    let first = first.evaluation_id();
    assert_eq!(statuses(&world).await, ["EVALUATED"]);
    // The key is in flight, and asked for with other arguments.
    let again = store.commit_intent(world.claiming("k", 1)).await.unwrap();
    assert!(matches!(again, Committed::InFlight { .. }));
    let other = store.commit_intent(world.claiming("k", 2)).await.unwrap();
    assert!(matches!(other, Committed::Refused { .. }));
    assert_eq!(statuses(&world).await, ["EVALUATED"]);
    let done = world.outcome(first, OutcomeStatus::Executed, Some("\"done\""));
    store.commit_outcome(done).await.unwrap();
    let again = store.commit_intent(world.claiming("k", 1)).await.unwrap();
    assert!(matches!(again, Committed::Replayed(_)));
    let found = rows(&world).await;
    let [row] = found.as_slice() else { panic!("{found:?}") };
    let [id, key, user, action, status, snapshot, at] = row.clone().map(Option::unwrap);
    let snapshot: Value = serde_json::from_str(&snapshot).unwrap();
    assert_eq!((id, user), (first.to_string(), agent().to_string()));
    assert_eq!((action.as_str(), status.as_str()), ("crm/update", "EXECUTED"));
    assert_eq!((snapshot["idem"].as_str(), &snapshot["decision"]), (Some(&*key), &"allow".into()));
    assert!(key.len() == 43 && !key.contains("k\""), "the key is a keyed hash: {key}");
    assert_eq!(at, "2026-11-21T00:00:00.000Z");

    // What is settled stays so, and nobody writes the view.
    let twice = store.commit_outcome(world.outcome(first, OutcomeStatus::Failed, None)).await;
    assert!(matches!(twice, Err(StoreError::Invalid { .. })), "{twice:?}");
    let mut conn = raw(&world.database()).await;
    for sql in [
        "UPDATE exogram_executions SET status = 'BLOCKED'",
        "DELETE FROM exogram_executions",
        "INSERT INTO exogram_executions (status) VALUES ('EXECUTED')",
    ] {
        let error = sqlx::raw_sql(sql).execute(&mut conn).await.unwrap_err().to_string();
        assert!(error.contains("because it is a view"), "{error}");
    }
    assert_eq!(statuses(&world).await, ["EXECUTED"]);

    // A key that was given back is taken by the next attempt: still one row, and it never goes back.
    let lost = recorded(store.commit_intent(world.claiming("l", 1)).await.unwrap());
    settle(&world, &store, lost.evaluation_id(), OutcomeStatus::NotForwarded).await;
    assert_eq!(statuses(&world).await, ["EXECUTED", "EVALUATED"]);
    world.clock.advance(1);
    let next = recorded(store.commit_intent(world.claiming("l", 1)).await.unwrap());
    assert_eq!(statuses(&world).await, ["EXECUTED", "EVALUATED"]);
    settle(&world, &store, next.evaluation_id(), OutcomeStatus::Unknown).await;
    assert_eq!(statuses(&world).await, ["EXECUTED", "EVALUATED"]);
    let (call, done) = (next.evaluation_id(), OutcomeStatus::Executed);
    store.reconcile(call, done, "ada", "seen in the books").await.unwrap();
    assert_eq!(statuses(&world).await, ["EXECUTED", "EXECUTED"]);

    // Without a key every decision is a row: refused, held, not forwarded.
    for verdict in ["deny", "hold"] {
        let draft = Draft::new(world.id(), Kind::Decision)
            .with("decision", verdict)
            .with("agent", agent().to_string())
            .with("method", "tools/list");
        store.append(draft).await.unwrap();
    }
    let unsent = recorded(store.commit_intent(world.intent()).await.unwrap());
    settle(&world, &store, unsent.evaluation_id(), OutcomeStatus::NotForwarded).await;
    let found = rows(&world).await;
    let shown: Vec<_> = found.iter().skip(2).map(|row| row[4].as_deref().unwrap()).collect();
    assert_eq!(shown, ["BLOCKED", "EVALUATED", "BLOCKED"]);
    assert!(found.iter().skip(2).all(|row| row[1].is_none() && row[6].is_none()));
    assert_eq!(found[2][3].as_deref(), Some("tools/list"));
    store.shutdown().await.unwrap();
    countersign_store::fsck::check(&world.path(), None, &mut |_, _| {}).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_ledger_of_an_earlier_version_gets_the_view_when_it_is_opened() {
    let world = World::new();
    let store = world.create().await;
    let call = recorded(store.commit_intent(world.claiming("k", 1)).await.unwrap());
    settle(&world, &store, call.evaluation_id(), OutcomeStatus::Executed).await;
    store.shutdown().await.unwrap();
    let earlier = "DROP VIEW exogram_executions; DROP INDEX intake_change; PRAGMA user_version = 3";
    let mut conn = raw(&world.database()).await;
    sqlx::raw_sql(earlier).execute(&mut conn).await.unwrap();
    sqlx::Connection::close(conn).await.unwrap();
    let store = world.open().await;
    assert_eq!(statuses(&world).await, ["EXECUTED"]);
    store.shutdown().await.unwrap();
}
