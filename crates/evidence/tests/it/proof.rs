use countersign_evidence::case::{find, gather};
use countersign_evidence::proof::{ProvenRecord, RecordFile};
use countersign_evidence::why::Why;
use countersign_ledger::SigningKey;
use serde_json::json;

use crate::world::World;

async fn file(world: &World) -> RecordFile {
    let facts = world.facts(0, "ada@example.com", "crm/refund", json!({"amount": 10}));
    let id = world.call(&facts, None).await;
    world.store.publish_now().await.unwrap();
    let reader = world.reader().await;
    let record = find(&reader, &id.to_string()).await.unwrap();
    let case = gather(&reader, record, &[world.key()]).await.unwrap();
    RecordFile::of(&reader, &case, &[world.key()]).await.unwrap()
}

#[tokio::test]
async fn a_record_file_proves_itself_with_the_key_alone() {
    let world = World::new().await;
    let bytes = serde_json::to_vec_pretty(&file(&world).await).unwrap();
    let verified = RecordFile::parse(&bytes).unwrap().verify(&[world.key()], None).unwrap();
    assert_eq!(verified.record.leaf["decision"], "allow");
    assert_eq!(verified.record.opened["arguments.amount"], 10);
    assert_eq!(verified.record.closed, 0);
    assert_eq!(verified.outcomes.len(), 1);
    assert_eq!(verified.outcomes[0].leaf["outcome"], "executed");
}

#[tokio::test]
async fn fields_may_be_left_closed() {
    let world = World::new().await;
    let mut file = file(&world).await;
    file.record.disclosures.truncate(1);
    let verified = file.verify(&[world.key()], None).unwrap();
    assert_eq!((verified.record.opened.len(), verified.record.closed > 0), (1, true));
}

#[tokio::test]
async fn every_part_of_a_record_file_is_proven() {
    let world = World::new().await;
    let good = file(&world).await;
    let key = world.key();
    let other = SigningKey::from_seed(key.name(), &[7; 32]).unwrap().verifier_key();
    assert!(good.verify(&[other], None).is_err(), "another key");
    assert!(good.verify(&[], None).is_err(), "no key");
    type Damage = fn(&mut ProvenRecord);
    let damages: [(&str, Damage); 5] = [
        ("leaf", |it| it.leaf = it.leaf.replacen("ey", "fy", 1)),
        ("proof", |it| it.proof = it.proof.replacen("index ", "index 1", 1)),
        ("id", |it| it.record_id.replace_range(0..1, "f")),
        ("disclosure", |it| it.disclosures[0].push('A')),
        ("disclosure twice", |it| it.disclosures.push(it.disclosures[0].clone())),
    ];
    for (what, damage) in damages {
        let mut file = good.clone();
        damage(&mut file.record);
        assert!(file.verify(std::slice::from_ref(&key), None).is_err(), "{what}");
    }
    let mut file = good.clone();
    file.outcomes[0] = file.record.clone();
    let error = file.verify(&[key], None).unwrap_err();
    assert!(error.to_string().contains("no outcome of the record"), "{error}");
}

#[tokio::test]
async fn why_tells_who_what_and_by_which_rule() {
    let world = World::new().await;
    let facts = world.facts(0, "ada@example.com", "crm/refund", json!({"amount": 200}));
    let id = world.call(&facts, None).await;
    let reader = world.reader().await;
    let record = find(&reader, &id.to_string()).await.unwrap();
    let case = gather(&reader, record.clone(), &[world.key()]).await.unwrap();
    let why = Why::of(&case);
    assert!(why.no_proof.is_some(), "nothing is published yet");
    world.store.publish_now().await.unwrap();
    let why = Why::of(&gather(&reader, record, &[world.key()]).await.unwrap());
    assert_eq!(why.proof.as_ref().unwrap().vkey, world.store.vkey().unwrap());
    let bundle: String = world.bundle.hash().chars().take(12).collect();
    assert_eq!(
        why.paragraph.replace(&bundle, "<bundle>").split_once(" UTC, ").unwrap().1,
        "agent `backup-bot` (purpose: the work of backup-bot; owner: owner-of-backup-bot@example.com; \
         environment: prod), acting on behalf of ada@example.com, asked for `crm/refund` with arguments \
         {\"amount\":200}. It was denied under policy bundle <bundle>, by rule `refund-bounds` \
         (forbid, policies/a.cedar:5): amount>100 (BOUNDS at bounds). Nothing was forwarded."
    );
    assert!(why.paragraph.starts_with("On Sunday, 15 March 2026 at 03:00:"), "{}", why.paragraph);
}

#[tokio::test]
async fn the_id_of_an_outcome_finds_its_call() {
    let world = World::new().await;
    let facts = world.facts(0, "ada@example.com", "crm/query", json!({"text": "x"}));
    let id = world.call(&facts, None).await;
    let reader = world.reader().await;
    let outcome = reader.outcomes(id).await.unwrap().remove(0);
    let found = find(&reader, &outcome.record_id.to_string()).await.unwrap();
    assert_eq!(found.id(), id.to_string());
}
