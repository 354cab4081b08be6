use std::collections::BTreeMap;
use std::sync::Arc;

use countersign_decision::Recorded;
use countersign_evidence::case::find;
use countersign_evidence::query::{Filter, Rows};
use countersign_evidence::replay::{Change, Outcome, Replayed, Replayer};
use countersign_model::{Facts, Mode, Verdict};
use serde_json::json;

use crate::world::{POLICIES, World, draft, files};

async fn replay(world: &World, id: impl ToString, policies: Option<&str>) -> Replayed {
    let reader = world.reader().await;
    let record = find(&reader, &id.to_string()).await.unwrap();
    Replayer::new(&reader, policies.map(files)).replay(&record).await.unwrap()
}

/// A call that is allowed, denied, held, refused by its schema, or unknown, depending on `n`.
fn varied(world: &World, n: usize) -> Facts {
    let (agent, person) = (n % 2, format!("person-{}@example.com", n % 7));
    match n % 5 {
        0 => world.facts(agent, &person, "crm/query", json!({"text": format!("row {n}")})),
        1 | 2 => world.facts(agent, &person, "crm/refund", json!({"amount": n % 211})),
        3 => world.facts(agent, &person, "crm/refund", json!({})),
        _ => world.facts(agent, &person, "crm/none", json!({"n": n})),
    }
}

#[tokio::test]
async fn r_033_a_thousand_recorded_decisions_match() {
    let world = Arc::new(World::new().await);
    let mut calls = tokio::task::JoinSet::new();
    for n in 0..1_000 {
        let world = Arc::clone(&world);
        calls.spawn(async move { world.call(&varied(&world, n), None).await });
    }
    calls.join_all().await;
    let reader = world.reader().await;
    let filter = Filter { kind: Some("decision".into()), ..Filter::default() };
    let mut rows = Rows::open(&reader, filter).await.unwrap();
    let mut replayer = Replayer::new(&reader, None);
    let mut verdicts = BTreeMap::<String, u32>::new();
    while let Some(record) = rows.next().await.unwrap() {
        let replayed = replayer.replay(&record).await.unwrap();
        assert_eq!(replayed.result, Outcome::Match, "{replayed:?}");
        *verdicts.entry(record.result().to_owned()).or_default() += 1;
    }
    assert_eq!(verdicts.values().sum::<u32>(), 1_000);
    assert_eq!(verdicts.len(), 3, "{verdicts:?}");
}

#[tokio::test]
async fn a_claim_lost_in_the_store_is_no_matter_of_policy() {
    let world = World::new().await;
    let facts = world.facts(0, "ada@example.com", "crm/refund", json!({"amount": 10}));
    world.call(&facts, Some("k1")).await;
    let facts = world.facts(0, "ada@example.com", "crm/refund", json!({"amount": 11}));
    let second = world.call(&facts, Some("k1")).await;
    let reader = world.reader().await;
    let record = find(&reader, &second.to_string()).await.unwrap();
    assert_eq!(record.list("reasons"), ["IDEMPOTENCY_PAYLOAD_MISMATCH"]);
    assert_eq!(replay(&world, second, None).await.result, Outcome::Match);
}

#[tokio::test]
async fn r_033_another_bundle_says_which_policy_differs_and_what_changes() {
    let world = World::new().await;
    let facts = world.facts(0, "ada@example.com", "crm/refund", json!({"amount": 60}));
    let held = world.call(&facts, None).await;
    let facts = world.facts(0, "ada@example.com", "crm/query", json!({"text": "x"}));
    let same = world.call(&facts, None).await;
    let stricter = POLICIES.replace("amount > 100", "amount > 55");

    let replayed = replay(&world, held, Some(&stricter)).await;
    assert!(!replayed.is_equal());
    let Outcome::BundleHashMismatch { recorded, found, differences, changes, rules, decided } =
        replayed.result
    else {
        panic!("{replayed:?}");
    };
    assert_eq!((recorded.as_str(), found == recorded, decided), (world.bundle.hash(), false, true));
    assert_eq!(differences, ["changed policy refund-bounds"]);
    assert_eq!(rules, ["refund-bounds"]);
    let verdict = Change { field: "decision", recorded: "hold".into(), now: "deny".into() };
    assert_eq!(changes.first(), Some(&verdict));

    let replayed = replay(&world, same, Some(&stricter)).await;
    assert!(replayed.is_equal(), "{replayed:?}");
    assert!(matches!(replayed.result, Outcome::BundleHashMismatch { .. }));
    assert_eq!(replay(&world, held, Some(POLICIES)).await.result, Outcome::Match);
}

#[tokio::test]
async fn a_record_that_was_not_what_the_bundle_decides_differs() {
    let world = World::new().await;
    let facts = world.facts(0, "ada@example.com", "crm/refund", json!({"amount": 200}));
    let forged = Recorded {
        decision: Verdict::Hold,
        would_be: None,
        mode: Mode::Enforce,
        rules: vec!["refund-bounds".into()],
        codes: vec!["BOUNDS".into()],
        bundle: world.bundle.hash().to_owned(),
        tool_pin: countersign_decision::decide(&world.bundle, &facts).tool_pin,
    };
    world.store.append(draft(&facts, &forged, &json!([]))).await.unwrap();
    let replayed = replay(&world, facts.evaluation_id, None).await;
    let change = Change { field: "decision", recorded: "hold".into(), now: "deny".into() };
    assert_eq!(replayed.result, Outcome::Differs { changes: vec![change] });
    assert!(!replayed.is_equal());
}

#[tokio::test]
async fn a_stored_bundle_under_a_wrong_hash_does_not_decide() {
    let world = World::new().await;
    let wrong = "0".repeat(64);
    let others = files(&POLICIES.replace("100", "101"));
    world.store.put_bundle(&wrong, &others.0, "eve@example.com").await.unwrap();
    let facts = world.facts(0, "ada@example.com", "crm/query", json!({"text": "x"}));
    let recorded = Recorded {
        bundle: wrong.clone(),
        ..Recorded::from(&countersign_decision::decide(&world.bundle, &facts))
    };
    let forged = Recorded { decision: Verdict::Deny, ..recorded };
    world.store.append(draft(&facts, &forged, &json!([]))).await.unwrap();
    let replayed = replay(&world, facts.evaluation_id, None).await;
    let Outcome::BundleHashMismatch { recorded, found, decided, .. } = &replayed.result else {
        panic!("{replayed:?}");
    };
    assert_eq!((recorded, found, *decided), (&wrong, &others.hash(), false));
    assert!(!replayed.is_equal());
}

#[tokio::test]
async fn a_bundle_that_is_not_there_is_said() {
    let world = World::new().await;
    let facts = world.facts(0, "ada@example.com", "crm/wipe", json!({"all": true}));
    let recorded = Recorded {
        bundle: "1".repeat(64),
        ..Recorded::from(&countersign_decision::decide(&world.bundle, &facts))
    };
    world.store.append(draft(&facts, &recorded, &json!([]))).await.unwrap();
    let replayed = replay(&world, facts.evaluation_id, None).await;
    assert!(matches!(replayed.result, Outcome::Unavailable { .. }), "{replayed:?}");
    assert!(!replayed.is_equal());
}
