use countersign_decision::Recorded;
use countersign_evidence::case::find;
use countersign_evidence::replay::{Change, Outcome, Replayed, Replayer};
use countersign_model::{Mode, Verdict};
use serde_json::json;

use crate::world::{POLICIES, World, draft, files};

async fn replay(world: &World, id: impl ToString, policies: Option<&str>) -> Replayed {
    let reader = world.reader().await;
    let record = find(&reader, &id.to_string()).await.unwrap();
    Replayer::new(&reader, policies.map(files)).replay(&record).await.unwrap()
}

#[tokio::test]
async fn r_033_every_recorded_decision_matches() {
    let world = World::new().await;
    let reader = world.reader().await;
    let mut ids = Vec::new();
    for amount in [10, 60, 200] {
        let facts = world.facts(0, "ada@example.com", "crm/refund", json!({"amount": amount}));
        ids.push(world.call(&facts, None).await);
    }
    for (tool, arguments) in
        [("crm/wipe", json!({"all": true})), ("crm/refund", json!({})), ("crm/none", json!({}))]
    {
        let facts = world.facts(1, "ada@example.com", tool, arguments);
        ids.push(world.call(&facts, None).await);
    }
    let mut replayer = Replayer::new(&reader, None);
    for id in ids {
        let record = find(&reader, &id.to_string()).await.unwrap();
        let replayed = replayer.replay(&record).await.unwrap();
        assert_eq!(replayed.result, Outcome::Match, "{replayed:?}");
    }
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
