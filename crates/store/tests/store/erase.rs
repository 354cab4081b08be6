//! Erasing a person leaves nothing that could be read, and every proof (T15).

use std::collections::HashSet;
use std::path::{Path, PathBuf};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use countersign_ledger::disclosure::open_leaf;
use countersign_ledger::verify::{VerifyOptions, verify_log};
use countersign_ledger::{SigningKey, VerifierKey, proof};
use countersign_model::{Draft, Kind, OutcomeStatus, RecordId};
use countersign_store::fsck::{Report, check};
use countersign_store::{
    Committed, Intent, Keystore, Outcome, PublishedLog, Query, Reader, Store, StoreError,
};
use serde_json::json;
use sqlx::Row as _;

use crate::common::{World, raw, recorded};

const ADA: &str = "ada.canary-77ea@example.com";
const BOB: &str = "bob.canary-19cf@example.com";
const TICKET: &str = "DSR-17";
/// Bytes of a wrapped key in a shard file (spec/ledger.md, sealed sections).
const WRAPPED: usize = 72;

impl World {
    /// An allowed call of a person, with canaries in arguments, names and facts.
    fn call_of(&self, person: &str, n: usize, key: &str) -> Intent {
        let mut intent = self.claiming(key, 1);
        intent.draft = Draft::new(self.id(), Kind::Decision)
            .with("decision", "allow")
            .with("tool", "crm/update")
            .about(person)
            .sealed(format!("arguments.field-of-{person}"), format!("value {n} of {person}"))
            .sealed("facts", json!({ "v": 1, "whom": person }));
        intent
    }

    fn end_of(&self, call: RecordId, person: &str) -> Outcome {
        let result = format!("\"result for {person}\"");
        let mut outcome = self.outcome(call, OutcomeStatus::Executed, Some(&result));
        outcome.draft = outcome.draft.about(person).sealed("result", result);
        outcome
    }

    async fn fsck(&self) -> Report {
        check(&self.path(), None, &mut |_, _| {}).await.unwrap()
    }

    fn log_key(&self) -> VerifierKey {
        let keys = Keystore::open(&self.path().join("keys")).unwrap();
        SigningKey::verifier_key(&keys.log_key(&self.config().origin).unwrap())
    }
}

/// Records `calls` calls of a person, each with its outcome.
async fn record(world: &World, store: &Store, person: &str, calls: usize) -> Vec<RecordId> {
    let mut ids = Vec::new();
    for n in 0..calls {
        let intent = world.call_of(person, n, &world.id().to_string());
        let call = recorded(store.commit_intent(intent).await.unwrap()).evaluation_id();
        store.commit_outcome(world.end_of(call, person)).await.unwrap();
        ids.push(call);
    }
    ids
}

/// Every file below a folder.
fn files(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() { found.extend(files(&path)) } else { found.push(path) }
    }
    found
}

/// The forms in which bytes may stand in a file: raw, hexadecimal, and base64url at each alignment.
fn forms(bytes: &[u8]) -> Vec<Vec<u8>> {
    let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    let mut forms = vec![bytes.to_vec(), hex.to_uppercase().into_bytes(), hex.into_bytes()];
    for skipped in 0..3 {
        let whole = &bytes[skipped..];
        let whole = &whole[..whole.len() / 3 * 3];
        forms.push(URL_SAFE_NO_PAD.encode(whole).into_bytes());
    }
    forms
}

/// The files below a folder that hold one of the secrets in any form.
pub(crate) fn leaks(folder: &Path, secrets: &[Vec<u8>]) -> Vec<PathBuf> {
    let needles: Vec<Vec<u8>> = secrets.iter().flat_map(|secret| forms(secret)).collect();
    let heads: HashSet<[u8; 8]> = needles.iter().map(|it| it[..8].try_into().unwrap()).collect();
    let mut found = files(folder);
    found.retain(|path| {
        let bytes = std::fs::read(path).unwrap();
        bytes.array_windows().enumerate().any(|(place, head)| {
            heads.contains(head) && needles.iter().any(|it| bytes[place..].starts_with(it))
        })
    });
    found
}

/// What an attacker would look for: parts of the ciphertexts and wrapped keys of a subject.
async fn traces(world: &World, subject: &str) -> Vec<Vec<u8>> {
    let mut db = raw(&world.database()).await;
    let sql = "SELECT ciphertext, dek, slot FROM sealed JOIN subject USING (subject)
               WHERE subject = $1 ORDER BY sealed.rowid LIMIT 20";
    let rows = sqlx::query(sql).bind(subject).fetch_all(&mut db).await.unwrap();
    let mut traces = Vec::new();
    for row in &rows {
        let (ciphertext, dek): (Vec<u8>, Vec<u8>) = (row.get(0), row.get(1));
        traces.push(ciphertext[..32].to_vec());
        traces.push(dek[40..72].to_vec());
    }
    let place = usize::try_from(rows[0].get::<i64, _>(2)).unwrap() * WRAPPED;
    let shard = std::fs::read(world.path().join("keys/subjects/0.keks")).unwrap();
    traces.push(shard[place..place + WRAPPED].to_vec());
    traces
}

#[tokio::test(flavor = "multi_thread")]
async fn t15_after_an_erasure_nothing_of_the_person_is_left_and_every_proof_holds() {
    let world = World::new();
    let store = world.create().await;
    let bobs = record(&world, &store, BOB, 20).await;
    let adas = record(&world, &store, ADA, 500).await;
    let subject = store.pseudonym(ADA).unwrap();
    store.publish_now().await.unwrap();

    let reader = Reader::open(&world.path(), None).await.unwrap();
    let (first, key) = (reader.get(adas[0]).await.unwrap().unwrap(), world.log_key());
    let (kept, proof) = (
        reader.disclosures(adas[0]).await.unwrap(),
        reader.inclusion_proof(first.index).await.unwrap(),
    );
    let holds = |proof: &str, leaf: &[u8]| {
        proof::verify(leaf, proof, std::slice::from_ref(&key)).unwrap();
    };
    let traces = traces(&world, &subject).await;
    assert!(!leaks(&world.path(), &traces).is_empty(), "before, there is something to find");

    let erased = store.erase(ADA, TICKET, Some("asked by letter"), "op").await.unwrap();
    assert_eq!((erased.records, erased.sections), (1_000, 1_500));
    assert_eq!((erased.subject.as_str(), erased.ticket.as_str()), (subject.as_str(), TICKET));
    // While the store is open, its write-ahead log included.
    let mut secrets = traces;
    secrets.push(ADA.as_bytes().to_vec());
    secrets.push(b"canary-77ea".to_vec());
    assert_eq!(leaks(&world.path(), &secrets), Vec::<PathBuf>::new());

    // New proofs show digests only; the file that an auditor has still holds.
    let said = reader.disclosures(adas[0]).await.unwrap_err().to_string();
    assert!(said.ends_with("erased on 2026-11-21, ticket `DSR-17`"), "{said}");
    assert_eq!(reader.blob(adas[0], "facts").await.unwrap(), None);
    holds(&proof, &first.body);
    assert!(open_leaf(&first.body, &kept).unwrap().closed.is_empty());
    store.publish_now().await.unwrap();
    for call in adas.iter().chain(&bobs).step_by(40) {
        let record = reader.get(*call).await.unwrap().unwrap();
        let proof = reader.inclusion_proof(record.index).await.unwrap();
        holds(&proof, &record.body);
    }
    for call in &bobs {
        let opened = reader.disclosures(*call).await.unwrap();
        assert!(opened.iter().any(|field| field.value() == BOB));
    }
    let of_ada = Query { principal: Some(ADA.into()), ..Query::default() };
    assert_eq!(reader.query(&of_ada).await.unwrap().records.len(), 1_000, "found by pseudonym");
    let options = VerifyOptions { keys: vec![key.clone()], ..VerifyOptions::default() };
    verify_log(&PublishedLog::new(&world.path()), &options, &mut |_| {}).unwrap();
    store.shutdown().await.unwrap();
    let report = world.fsck().await;
    assert_eq!((report.records_erased, report.sections_closed), (1_000, 0));
    assert_eq!(leaks(&world.path(), &secrets), Vec::<PathBuf>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_comes_back_is_recorded_under_another_key() {
    let world = World::new();
    let store = world.create().await;
    record(&world, &store, ADA, 1).await;
    let slot = async || -> i64 {
        let mut db = raw(&world.database()).await;
        let sql = "SELECT slot FROM subject WHERE subject = $1";
        let subject = Keystore::open(&world.path().join("keys")).unwrap().pseudonym(ADA).unwrap();
        sqlx::query_scalar(sql).bind(subject).fetch_one(&mut db).await.unwrap()
    };
    let mut slots = vec![slot().await];
    for round in 0..3 {
        let erased = store.erase(ADA, TICKET, None, "op").await.unwrap();
        assert_eq!((erased.records, erased.sections), (2, 3), "round {round}");
        let again = record(&world, &store, ADA, 1).await;
        let reader = Reader::open(&world.path(), None).await.unwrap();
        assert!(!reader.disclosures(again[0]).await.unwrap().is_empty());
        slots.push(slot().await);
    }
    assert!(slots.is_sorted_by(|a, b| a < b), "{slots:?}");
    store.erase(ADA, TICKET, None, "op").await.unwrap();
    store.shutdown().await.unwrap();

    // The highest slot is destroyed and its mapping gone: it is not given again after a restart either.
    let store = world.open().await;
    let again = record(&world, &store, ADA, 1).await;
    assert!(slot().await > slots[3]);
    store.shutdown().await.unwrap();
    let reader = Reader::open(&world.path(), None).await.unwrap();
    assert!(!reader.disclosures(again[0]).await.unwrap().is_empty());
    assert_eq!(world.fsck().await.records_erased, 8);
}

#[tokio::test(flavor = "multi_thread")]
async fn erasing_twice_is_fine_and_a_stranger_is_an_error() {
    let world = World::new();
    let store = world.create().await;
    record(&world, &store, ADA, 1).await;
    store.erase(ADA, TICKET, None, "op").await.unwrap();
    let again = store.erase(ADA, "DSR-18", None, "op").await.unwrap();
    assert_eq!((again.records, again.sections), (0, 0));
    let unknown = store.erase("nobody@example.com", TICKET, None, "op").await;
    assert!(matches!(unknown, Err(StoreError::UnknownSubject(_))));
    for ticket in ["", "ada@example.com", "a b", &"x".repeat(101)] {
        let refused = store.erase(ADA, ticket, None, "op").await;
        assert!(matches!(refused, Err(StoreError::Invalid { .. })), "{ticket}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_repeated_call_of_an_erased_person_gets_no_result() {
    let world = World::new();
    let store = world.create().await;
    let first = store.commit_intent(world.call_of(ADA, 0, "k")).await.unwrap();
    store.commit_outcome(world.end_of(recorded(first).evaluation_id(), ADA)).await.unwrap();
    let repeated = store.commit_intent(world.call_of(ADA, 0, "k")).await.unwrap();
    assert!(matches!(repeated, Committed::Replayed(kept) if kept.result.is_some()));
    store.erase(ADA, TICKET, None, "op").await.unwrap();
    let repeated = store.commit_intent(world.call_of(ADA, 0, "k")).await.unwrap();
    assert!(matches!(repeated, Committed::Refused { .. }), "{repeated:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_legal_hold_forbids_the_erasure_until_it_is_lifted() {
    let world = World::new();
    let store = world.create().await;
    let calls = record(&world, &store, ADA, 1).await;
    assert!(matches!(store.lift_hold(ADA, None, "op").await, Err(StoreError::Hold(_))));
    let place = store.set_hold(ADA, "litigation 7", "op").await.unwrap();
    assert!(matches!(store.set_hold(ADA, "again", "op").await, Err(StoreError::Hold(_))));
    let held = store.erase(ADA, TICKET, None, "op").await;
    assert!(matches!(held, Err(StoreError::Held(_))));
    store.shutdown().await.unwrap();

    let store = world.open().await;
    let held = store.erase(ADA, TICKET, None, "op").await;
    assert!(matches!(held, Err(StoreError::Held(_))), "it outlives a restart");
    let reader = Reader::open(&world.path(), None).await.unwrap();
    let holds = reader.holds().await.unwrap();
    assert_eq!(holds.len(), 1);
    assert_eq!(
        (holds[0].record_id, &holds[0].subject),
        (place.record_id, &store.pseudonym(ADA).unwrap())
    );
    assert!(!reader.disclosures(calls[0]).await.unwrap().is_empty());
    let erasures = Query { kind: Some("erasure".into()), ..Query::default() };
    assert!(reader.query(&erasures).await.unwrap().records.is_empty());

    store.lift_hold(ADA, Some("settled"), "op").await.unwrap();
    assert!(reader.holds().await.unwrap().is_empty());
    assert_eq!(store.erase(ADA, TICKET, None, "op").await.unwrap().records, 4);
    store.shutdown().await.unwrap();
    assert_eq!(world.fsck().await.records_erased, 4);
}

/// How far an erasure had come when the store stopped.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Stage {
    Requested,
    Destroyed,
    HalfPurged,
    Purged,
    Unmapped,
}

/// Brings a store, whose erasure ended after the request, to a later stage.
async fn advance(world: &World, subject: &str, stage: Stage) {
    let mut db = raw(&world.database()).await;
    let sql = "SELECT slot FROM subject WHERE subject = $1";
    let slot: i64 = sqlx::query_scalar(sql).bind(subject).fetch_one(&mut db).await.unwrap();
    if stage >= Stage::Destroyed {
        let path = world.path().join("keys/subjects/0.keks");
        let mut shard = std::fs::read(&path).unwrap();
        let place = usize::try_from(slot).unwrap() * WRAPPED;
        shard[place..place + WRAPPED].fill(0);
        std::fs::write(&path, shard).unwrap();
    }
    let mut deletions = Vec::new();
    if stage >= Stage::HalfPurged {
        deletions.push("DELETE FROM sealed WHERE subject = $1 AND rowid % 2 = 0");
    }
    if stage >= Stage::Purged {
        deletions.push("DELETE FROM sealed WHERE subject = $1");
        deletions.push("DELETE FROM replay WHERE subject = $1");
    }
    if stage >= Stage::Unmapped {
        deletions.push("DELETE FROM subject WHERE subject = $1");
    }
    for sql in deletions {
        sqlx::query(sql).bind(subject).execute(&mut db).await.unwrap();
    }
    sqlx::Connection::close(db).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_crash_cut_off_is_carried_on_at_the_next_start() {
    for stage in
        [Stage::Requested, Stage::Destroyed, Stage::HalfPurged, Stage::Purged, Stage::Unmapped]
    {
        let world = World::new();
        let store = world.create().await;
        let (adas, bobs) =
            (record(&world, &store, ADA, 5).await, record(&world, &store, BOB, 1).await);
        let subject = store.pseudonym(ADA).unwrap();
        // A folder where the new shard is to be written: the key cannot be destroyed.
        let obstacle = world.path().join("keys/subjects/.0.keks.new");
        std::fs::create_dir(&obstacle).unwrap();
        let failed = store.erase(ADA, TICKET, None, "op").await;
        assert!(matches!(failed, Err(StoreError::Io { .. })), "{failed:?}");
        let held = store.set_hold(ADA, "too late", "op").await;
        assert!(matches!(held, Err(StoreError::Hold(_))));
        // Meanwhile the person is recorded, under another key.
        let since = record(&world, &store, ADA, 1).await;
        store.shutdown().await.unwrap();
        std::fs::remove_dir(&obstacle).unwrap();
        advance(&world, &subject, stage).await;
        assert!(world.fsck().await.records_erased <= 10, "{stage:?}: no damage meanwhile");

        let store = world.open().await;
        let reader = Reader::open(&world.path(), None).await.unwrap();
        let said = reader.disclosures(adas[0]).await.unwrap_err().to_string();
        assert!(said.ends_with("erased on 2026-11-21, ticket `DSR-17`"), "{stage:?}: {said}");
        for call in since.iter().chain(&bobs) {
            assert!(!reader.disclosures(*call).await.unwrap().is_empty(), "{stage:?}");
        }
        let again = record(&world, &store, ADA, 1).await;
        assert!(!reader.disclosures(again[0]).await.unwrap().is_empty(), "{stage:?}");
        let erasures = Query { kind: Some("erasure".into()), ..Query::default() };
        let leaves = reader.query(&erasures).await.unwrap().records;
        assert_eq!(leaves.len(), 2, "{stage:?}");
        assert_eq!(leaves[0].leaf["phase"], "done");
        assert_eq!(
            (&leaves[0].leaf["records"], &leaves[0].leaf["sections"]),
            (&json!(10), &json!(15))
        );
        store.shutdown().await.unwrap();
        let report = world.fsck().await;
        assert_eq!((report.records_erased, report.sections_closed), (10, 0), "{stage:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_erasure_that_the_stop_overtakes_is_done_after_the_next_start() {
    for wait_us in (0..16).map(|n| n * 700) {
        let world = World::new();
        let store = world.create().await;
        let adas = record(&world, &store, ADA, 3).await;
        let erasing = {
            let store = store.clone();
            tokio::spawn(async move { store.erase(ADA, TICKET, None, "op").await })
        };
        tokio::time::sleep(std::time::Duration::from_micros(wait_us)).await;
        store.shutdown().await.unwrap();
        let ended = erasing.await.unwrap();
        drop(store);
        let store = world.open().await;
        let reader = Reader::open(&world.path(), None).await.unwrap();
        let erasures = Query { kind: Some("erasure".into()), ..Query::default() };
        let leaves = reader.query(&erasures).await.unwrap().records;
        // Not begun, or done: nothing in between is left.
        let phases: Vec<_> = leaves.iter().map(|leaf| leaf.leaf["phase"].as_str()).collect();
        let opened = reader.disclosures(adas[0]).await;
        match phases.as_slice() {
            [] => assert!(ended.is_err() && opened.is_ok(), "{wait_us}"),
            [Some("done"), Some("requested")] => assert!(opened.is_err(), "{wait_us}"),
            other => panic!("{wait_us}: {other:?}"),
        }
        store.shutdown().await.unwrap();
        world.fsck().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn calls_of_the_person_go_on_while_they_are_erased() {
    let world = World::new();
    let store = world.create().await;
    record(&world, &store, ADA, 20).await;
    let calling = async {
        for n in 100..160 {
            let intent = world.call_of(ADA, n, &n.to_string());
            let call = recorded(store.commit_intent(intent).await.unwrap()).evaluation_id();
            store.commit_outcome(world.end_of(call, ADA)).await.unwrap();
        }
    };
    let erasing = async {
        for _ in 0..5 {
            store.erase(ADA, TICKET, None, "op").await.unwrap();
        }
    };
    tokio::join!(calling, erasing);
    let reader = Reader::open(&world.path(), None).await.unwrap();
    let of_ada = Query { principal: Some(ADA.into()), ..Query::default() };
    for record in reader.query(&of_ada).await.unwrap().records {
        match reader.disclosures(record.record_id).await {
            Ok(opened) => assert!(!opened.is_empty()),
            Err(error) => assert!(error.to_string().contains("erased on"), "{error}"),
        }
    }
    store.shutdown().await.unwrap();
    world.fsck().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_section_that_is_gone_without_an_erasure_is_damage() {
    let world = World::new();
    let store = world.create().await;
    let calls = record(&world, &store, ADA, 2).await;
    store.shutdown().await.unwrap();
    let mut db = raw(&world.database()).await;
    let sql = "DELETE FROM sealed WHERE record = $1";
    sqlx::query(sql).bind(calls[0].0.as_bytes().to_vec()).execute(&mut db).await.unwrap();
    sqlx::Connection::close(db).await.unwrap();
    let problem = check(&world.path(), None, &mut |_, _| {}).await.unwrap_err();
    assert_eq!((problem.object.as_str(), problem.key), ("sealed", calls[0].to_string()));
    let reader = Reader::open(&world.path(), None).await.unwrap();
    let said = reader.disclosures(calls[0]).await.unwrap_err().to_string();
    assert!(said.ends_with("the section or its keys are missing"), "{said}");
}
