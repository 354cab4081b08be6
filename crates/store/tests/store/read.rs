//! Registry, bundles, reading, search and publication.

use std::collections::BTreeMap;

use crate::common::{World, recorded};
use countersign_ledger::{VerifierKey, proof};
use countersign_model::{Draft, Kind, NewAgent, OutcomeStatus, ReasonCode};
use countersign_store::{Query, Reader, Store, StoreError};
use serde_json::json;

fn bot(name: &str) -> NewAgent {
    NewAgent {
        name: name.into(),
        purpose: "answers mail".into(),
        owner: "owner@example.com".into(),
        environment: "prod".into(),
        roles: vec!["support".into()],
        key_expires: None,
    }
}

fn reason(store: &Store, key: &str) -> ReasonCode {
    store.authenticate(key).unwrap_err().reason
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_are_accepted_until_they_are_rotated_out_or_the_agent_is_disabled() {
    let world = World::new();
    let store = world.create().await;
    let (agent, key) = store.agents().add(bot("mail-bot"), "op@example.com").await.unwrap();
    let accepted = store.authenticate(&key.text).unwrap();
    assert_eq!((accepted.agent.id, &accepted.key_id), (agent.id, &key.id));
    let taken = store.agents().add(bot("mail-bot"), "op@example.com").await;
    assert!(matches!(taken, Err(StoreError::NameTaken(_))));
    let missing = store.agents().add(NewAgent::default(), "op@example.com").await;
    assert!(matches!(missing, Err(StoreError::NewAgent(_))));

    let other = key.text.replace("csk_prod", "csk_staging");
    let (head, last) = key.text.split_at(key.text.len() - 1);
    let wrong = format!("{head}{}", if last == "0" { "1" } else { "0" });
    for (credential, expected) in [
        ("", ReasonCode::CREDENTIAL_MISSING),
        ("csk_prod_0_0", ReasonCode::CREDENTIAL_INVALID),
        ("not a key", ReasonCode::CREDENTIAL_INVALID),
        (other.as_str(), ReasonCode::CREDENTIAL_INVALID),
        (wrong.as_str(), ReasonCode::CREDENTIAL_INVALID),
    ] {
        assert_eq!(reason(&store, credential), expected, "{credential}");
    }

    let second = store.agents().rotate_key("mail-bot", 1_000, "op@example.com").await.unwrap();
    world.clock.advance(999);
    assert!(store.authenticate(&key.text).is_ok());
    world.clock.advance(1);
    assert_eq!(reason(&store, &key.text), ReasonCode::CREDENTIAL_EXPIRED);
    store.shutdown().await.unwrap();

    let store = world.open().await;
    assert!(store.authenticate(&second.text).is_ok(), "keys survive a restart");
    assert_eq!(reason(&store, &key.text), ReasonCode::CREDENTIAL_EXPIRED);
    store.agents().disable("mail-bot", "op@example.com").await.unwrap();
    assert_eq!(reason(&store, &second.text), ReasonCode::AGENT_DISABLED);
    assert_eq!(store.agents().list().len(), 1);
    let unknown = store.agents().disable("nobody", "op@example.com").await;
    assert!(matches!(unknown, Err(StoreError::UnknownAgent(_))));

    let reader = Reader::open(&world.path(), None).await.unwrap();
    let changes = Query { kind: Some("change".into()), ..Query::default() };
    let actions: Vec<_> = reader
        .query(&changes)
        .await
        .unwrap()
        .records
        .iter()
        .map(|record| record.leaf["action"].as_str().unwrap().to_owned())
        .collect();
    assert_eq!(actions, ["disabled", "key_rotated", "added"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bundle_is_recorded_when_it_becomes_active() {
    let world = World::new();
    let store = world.create().await;
    let files = |text: &str| BTreeMap::from([("a.cedar".to_owned(), text.as_bytes().to_vec())]);
    let (one, two) = ("1".repeat(64), "2".repeat(64));
    assert!(store.put_bundle(&one, &files("x"), "op").await.unwrap().is_some());
    assert!(store.put_bundle(&one, &files("x"), "op").await.unwrap().is_none());
    assert!(store.put_bundle(&two, &files("y"), "op").await.unwrap().is_some());
    assert!(store.put_bundle(&one, &files("x"), "op").await.unwrap().is_some());
    assert_eq!(store.active_bundle().await.unwrap(), Some(one.clone()));
    assert_eq!(store.get_bundle(&two).await.unwrap(), Some(files("y")));
    assert_eq!(store.get_bundle(&"3".repeat(64)).await.unwrap(), None);
    assert!(store.put_bundle("XYZ", &files("x"), "op").await.is_err());
}

#[tokio::test(flavor = "multi_thread")]
async fn records_are_found_opened_and_proven_while_the_gateway_runs() {
    let world = World::new();
    let store = world.create().await;
    let large = "x".repeat(70_000);
    let mut intent = world.intent();
    intent.draft = intent.draft.sealed("large\0name", large.clone());
    let call = recorded(store.commit_intent(intent).await.unwrap()).evaluation_id();
    store.commit_outcome(world.outcome(call, OutcomeStatus::Executed, None)).await.unwrap();
    for _ in 0..300 {
        store.append(Draft::new(world.id(), Kind::Check)).await.unwrap();
    }

    let reader = Reader::open(&world.path(), None).await.unwrap();
    assert_eq!(reader.catch_up_index().await.unwrap(), 302);
    let record = reader.get(call).await.unwrap().unwrap();
    assert_eq!((record.index.0, &record.leaf["kind"]), (0, &json!("decision")));
    let opened = reader.disclosures(call).await.unwrap();
    let matched = countersign_ledger::disclosure::open_leaf(&record.body, &opened).unwrap();
    assert!(matched.closed.is_empty());
    let value =
        |name: &str| opened.iter().find(|d| d.name() == Some(name)).unwrap().value().clone();
    assert_eq!(value("principal"), "ada@example.com");
    assert_eq!(value("arguments.amount"), 12.5);
    assert_eq!(value("large\0name")["len"], 70_002);
    assert_eq!(reader.blob(call, "large\0name").await.unwrap(), Some(large.into()));
    let outcomes = reader.outcomes(call).await.unwrap();
    assert_eq!(outcomes.len(), 1);
    assert_eq!(outcomes[0].leaf["outcome"], "executed");

    let early = reader.inclusion_proof(record.index).await;
    assert!(matches!(early, Err(StoreError::Unavailable { .. })));
    assert_eq!(store.publish_now().await.unwrap(), 302);
    let text = reader.inclusion_proof(record.index).await.unwrap();
    let vkey = VerifierKey::parse(&store.vkey().unwrap()).unwrap();
    let checkpoint = proof::verify(&record.body, &text, &[vkey]).unwrap();
    assert_eq!(checkpoint.size.0, 302);
}

#[tokio::test(flavor = "multi_thread")]
async fn queries_combine_filters_and_page_from_the_newest() {
    let world = World::new();
    let store = world.create().await;
    for n in 0..10 {
        let call = recorded(store.commit_intent(world.intent()).await.unwrap()).evaluation_id();
        let status = if n % 2 == 0 { OutcomeStatus::Executed } else { OutcomeStatus::Failed };
        store.commit_outcome(world.outcome(call, status, None)).await.unwrap();
        world.clock.advance(10);
    }
    let reader = Reader::open(&world.path(), None).await.unwrap();
    let base = Query {
        kind: Some("decision".into()),
        agent: Some(crate::common::agent().to_string()),
        principal: Some("ada@example.com".into()),
        tool: Some("crm/update".into()),
        rule: Some("allow-crm".into()),
        decision: Some("allow".into()),
        limit: 4,
        ..Query::default()
    };
    let first = reader.query(&base).await.unwrap();
    let indexes = |page: &countersign_store::Page| {
        page.records.iter().map(|record| record.index.0).collect::<Vec<_>>()
    };
    assert_eq!(indexes(&first), [18, 16, 14, 12]);
    let second = Query { before: first.next, ..base.clone() };
    assert_eq!(indexes(&reader.query(&second).await.unwrap()), [10, 8, 6, 4]);
    let failed = Query { result: Some("failed".into()), limit: 0, ..base.clone() };
    assert_eq!(indexes(&reader.query(&failed).await.unwrap()), [18, 14, 10, 6, 2]);
    let times = Query {
        from_ms: Some(crate::common::START_MS + 10),
        until_ms: Some(crate::common::START_MS + 30),
        ..Query::default()
    };
    assert_eq!(indexes(&reader.query(&times).await.unwrap()), [5, 4, 3, 2]);
    for other in [
        Query { principal: Some("bob@example.com".into()), ..base.clone() },
        Query { tool: Some("crm/delete".into()), ..base.clone() },
        Query { rule: Some("other".into()), ..base.clone() },
        Query { agent: Some("other".into()), ..base.clone() },
        Query { decision: Some("deny".into()), ..base },
    ] {
        assert_eq!(reader.query(&other).await.unwrap().records, [], "{other:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_published_log_passes_the_offline_check_at_every_size() {
    use countersign_ledger::verify::{VerifyOptions, verify_log};
    let world = World::new();
    let store = world.create().await;
    let vkey = VerifierKey::parse(&store.vkey().unwrap()).unwrap();
    let options = VerifyOptions { keys: vec![vkey], ..VerifyOptions::default() };
    let mut size = 0;
    for step in [1_u64, 1, 254, 1, 43, 300] {
        for _ in 0..step {
            store.append(Draft::new(world.id(), Kind::Check)).await.unwrap();
        }
        size += step;
        assert_eq!(store.publish_now().await.unwrap(), size);
        let source = countersign_store::PublishedLog::new(&world.path());
        let report = verify_log(&source, &options, &mut |_| {}).unwrap();
        assert_eq!(report.size.0, size);
        assert!(report.unsigned.is_empty(), "{:?}", report.unsigned);
    }
    store.shutdown().await.unwrap();
    world.open().await.shutdown().await.unwrap();
}

/// A gateway that stops aborts its publisher and publishes once more itself.
#[tokio::test(flavor = "multi_thread")]
async fn a_publication_whose_caller_goes_away_does_not_meet_the_next_one() {
    let world = World::new();
    let store = world.create().await;
    for round in 0_u64..60 {
        store.append(Draft::new(world.id(), Kind::Check)).await.unwrap();
        let publishing = tokio::spawn({
            let store = store.clone();
            async move { store.publish_now().await }
        });
        // Somewhere in the middle: the rounds cover the whole length of a publication.
        tokio::time::sleep(std::time::Duration::from_micros(round * 100)).await;
        publishing.abort();
        store.publish_now().await.unwrap();
    }
    store.shutdown().await.unwrap();
    countersign_store::fsck::check(&world.path(), None, &mut |_, _| {}).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn t13_a_database_older_than_what_was_published_is_refused() {
    let world = World::new();
    let store = world.create().await;
    store.append(Draft::new(world.id(), Kind::Check)).await.unwrap();
    store.shutdown().await.unwrap();
    let backup = std::fs::read(world.database()).unwrap();

    let store = world.open().await;
    store.append(Draft::new(world.id(), Kind::Check)).await.unwrap();
    store.shutdown().await.unwrap();
    std::fs::write(world.database(), &backup).unwrap();
    let refused = Store::open(&world.path(), world.config()).await;
    assert!(matches!(refused, Err(StoreError::Behind { there: 2, here: 1, .. })), "{refused:?}");

    // The published log alone, then the signer's memory alone, are enough to notice.
    let memory = world.path().join("keys/signer-state");
    let kept = std::fs::read(&memory).unwrap();
    std::fs::remove_file(&memory).unwrap();
    let refused = Store::open(&world.path(), world.config()).await;
    assert!(matches!(refused, Err(StoreError::Behind { .. })), "{refused:?}");
    std::fs::write(&memory, kept).unwrap();
    std::fs::remove_file(world.path().join("log/checkpoint")).unwrap();
    let refused = Store::open(&world.path(), world.config()).await;
    assert!(matches!(refused, Err(StoreError::Behind { .. })), "{refused:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn r_072_each_day_is_closed_with_its_totals_and_a_wrong_total_is_found() {
    use countersign_ledger::verify::{VerifyOptions, verify_log};
    let world = World::new();
    let store = world.create().await;
    let vkey = VerifierKey::parse(&store.vkey().unwrap()).unwrap();
    let options = VerifyOptions { keys: vec![vkey], ..VerifyOptions::default() };
    let source = countersign_store::PublishedLog::new(&world.path());
    let day = 86_400_000;
    assert_eq!(store.close_days().await.unwrap(), 0, "an empty log has no day");
    for verdict in ["deny", "hold", "deny"] {
        let draft = Draft::new(world.id(), Kind::Decision).with("decision", verdict);
        store.append(draft.with("mode", "enforce").with("agent", "a1")).await.unwrap();
    }
    assert_eq!(store.close_days().await.unwrap(), 0, "the day goes on");
    // Nothing happens on the second day; on the third one there is a record again.
    world.clock.advance(2 * day + 600_000);
    store.append(Draft::new(world.id(), Kind::Check)).await.unwrap();
    assert_eq!(store.close_days().await.unwrap(), 2);
    assert_eq!(store.close_days().await.unwrap(), 0, "each day once");
    store.shutdown().await.unwrap();
    let store = world.open().await;
    assert_eq!(store.close_days().await.unwrap(), 0, "also after a restart");
    world.clock.advance(day);
    assert_eq!(store.close_days().await.unwrap(), 1);
    store.publish_now().await.unwrap();
    assert_eq!(verify_log(&source, &options, &mut |_| {}).unwrap().closes, 3);

    let reader = Reader::open(&world.path(), None).await.unwrap();
    let query = Query { kind: Some("close".to_owned()), ..Query::default() };
    let closes = reader.query(&query).await.unwrap().records;
    let totals: Vec<String> = closes
        .iter()
        .rev()
        .map(|close| format!("{} {}", close.leaf["day"], close.leaf["totals"]))
        .collect();
    assert_eq!(
        totals,
        [
            r#""2026-11-21" {"by_agent":{"a1":3},"by_decision":{"deny":2,"hold":1},"by_kind":{"decision":3},"by_mode":{"enforce":3},"first":0,"last":2,"other_agents":0,"records":3}"#,
            r#""2026-11-22" {"by_agent":{},"by_decision":{},"by_kind":{},"by_mode":{},"other_agents":0,"records":0}"#,
            r#""2026-11-23" {"by_agent":{},"by_decision":{},"by_kind":{"check":1,"close":2},"by_mode":{},"first":3,"last":5,"other_agents":0,"records":3}"#,
        ]
    );
    let wrong = Draft::new(world.id(), Kind::Close)
        .with("day", "2026-11-21")
        .with("totals", serde_json::json!({ "records": 2 }));
    store.append(wrong).await.unwrap();
    store.publish_now().await.unwrap();
    let problem = verify_log(&source, &options, &mut |_| {}).unwrap_err();
    assert_eq!(problem.index, Some(7));
    assert!(problem.reason.contains("the totals of 2026-11-21"), "{problem}");
}
