//! Private sections are kept for as long as is set and no longer, and their purge is proved.

use countersign_ledger::verify::{VerifyOptions, verify_log};
use countersign_model::{Draft, Kind, RecordId};
use countersign_store::fsck::{Problem, Report, check, check_at};
use countersign_store::{
    Clock as _, PublishedLog, Purged, Query, Reader, Retention, Store, StoreConfig, StoreError,
};
use sqlx::Connection as _;

use crate::common::{World, raw};
use crate::erase::leaks;

const ADA: &str = "ada@example.com";
const BOB: &str = "bob@example.com";
const DAY: i64 = 86_400_000;

impl World {
    fn kept_for(&self, days: u32) -> StoreConfig {
        StoreConfig { retention: Retention::new(days).unwrap(), ..self.config() }
    }

    async fn reopen(&self, store: Store, days: u32) -> Store {
        store.shutdown().await.unwrap();
        drop(store);
        let store = Store::open(&self.path(), self.kept_for(days)).await.unwrap();
        store.record_retention().await.unwrap();
        store
    }

    async fn checked(&self) -> Result<Report, Problem> {
        check(&self.path(), None, &mut |_, _| {}).await
    }

    fn days(&self, days: i64) {
        self.clock.advance(days * DAY);
    }
}

/// Records something private of a person, and something public after it.
async fn record(world: &World, store: &Store, person: &str) -> RecordId {
    let id = world.id();
    let draft =
        Draft::new(id, Kind::Detection).about(person).sealed("note", format!("of {person}"));
    store.append(draft).await.unwrap();
    store.append(Draft::new(world.id(), Kind::Check)).await.unwrap();
    id
}

/// Purges, on the word that the clock, which the tests move on by months, is right.
async fn purge(store: &Store) -> Result<Purged, StoreError> {
    store.confirm_clock("ada@example.com").await?;
    store.purge_now().await
}

async fn opens(world: &World, record: RecordId) -> Result<(), String> {
    let reader = Reader::open(&world.path(), None).await.unwrap();
    let opened = reader.disclosures(record).await.map(drop).map_err(|error| error.to_string());
    reader.close().await;
    opened
}

async fn count(world: &World, sql: &'static str) -> i64 {
    let mut db = raw(&world.database()).await;
    let count = sqlx::query_scalar(sql).fetch_one(&mut db).await.unwrap();
    db.close().await.unwrap();
    count
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_due_is_purged_with_its_keys_and_every_proof_holds() {
    let world = World::new();
    let store = world.create().await;
    let (ada, bob) = (record(&world, &store, ADA).await, record(&world, &store, BOB).await);
    world.days(100);
    let later = record(&world, &store, ADA).await;
    world.days(449);
    assert_eq!(purge(&store).await.unwrap().job, None, "a day too early");
    world.days(1);
    let purged = purge(&store).await.unwrap();
    assert_eq!((purged.records, purged.sections, purged.held), (2, 2, 0));
    assert_eq!(purged.keys, ["2026-11-standard"]);
    assert!(!world.path().join("keys/periods/2026-11-standard.kek").exists());
    let job = purged.job.unwrap();
    for gone in [ada, bob] {
        let said = opens(&world, gone).await.unwrap_err();
        let ends = format!("purged on 2028-05-24 when their time had come, job `{job}`");
        assert!(said.ends_with(&ends), "{said}");
    }
    opens(&world, later).await.unwrap();
    assert_eq!(purge(&store).await.unwrap().job, None, "nothing is left to do");

    store.publish_now().await.unwrap();
    let options = VerifyOptions { keys: store.log_keys(), ..VerifyOptions::default() };
    verify_log(&PublishedLog::new(&world.path()), &options, &mut |_| {}).unwrap();
    store.shutdown().await.unwrap();
    let report = world.checked().await.unwrap();
    assert_eq!((report.records_purged, report.records_erased), (2, 0));
    assert_eq!(report.purge_jobs.into_iter().collect::<Vec<_>>(), [(job, 2)]);
    let at = async |ms| check_at(&world.path(), None, ms, &mut |_, _| {}).await;
    at(world.clock.now_ms()).await.unwrap();
    let problem = at(world.clock.now_ms() - DAY).await.unwrap_err();
    assert!(problem.reason.contains("at a time that is to come"), "{problem}");
}

#[tokio::test(flavor = "multi_thread")]
async fn after_a_purge_no_byte_of_it_is_in_any_file() {
    let world = World::new();
    let store = world.create().await;
    for n in 0..300 {
        let note = format!("canary-5d1e {n} {}", "x".repeat(n * 20));
        let draft = Draft::new(world.id(), Kind::Detection).about(ADA).sealed("note", note);
        store.append(draft).await.unwrap();
    }
    let mut db = raw(&world.database()).await;
    let sql = "SELECT substr(ciphertext, 1, 32) FROM sealed UNION ALL SELECT dek FROM sealed";
    let mut secrets: Vec<Vec<u8>> = sqlx::query_scalar(sql).fetch_all(&mut db).await.unwrap();
    db.close().await.unwrap();
    secrets.push(std::fs::read(world.path().join("keys/periods/2026-11-standard.kek")).unwrap());
    assert!(!leaks(&world.path(), &secrets).is_empty(), "before, there is something to find");
    secrets.push(b"canary-5d1e".to_vec());
    world.days(600);
    assert_eq!(purge(&store).await.unwrap().records, 300);
    // While the store is open, its write-ahead log included.
    assert_eq!(leaks(&world.path(), &secrets), Vec::<std::path::PathBuf>::new());
    store.shutdown().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_transaction_of_a_purge_is_bounded_by_bytes_and_keys_are_named_before_they_go() {
    let world = World::new();
    let store = world.create().await;
    for _ in 0..12 {
        let draft = Draft::new(world.id(), Kind::Detection).about(ADA);
        store.append(draft.sealed("note", "x".repeat(1 << 20))).await.unwrap();
    }
    world.days(600);
    let purged = purge(&store).await.unwrap();
    assert_eq!((purged.records, purged.sections), (12, 24));
    let reader = Reader::open(&world.path(), None).await.unwrap();
    let erasures = Query { kind: Some("erasure".into()), ..Query::default() };
    let leaves = reader.query(&erasures).await.unwrap().records;
    reader.close().await;
    let phases: Vec<&str> =
        leaves.iter().rev().map(|leaf| leaf.leaf["phase"].as_str().unwrap()).collect();
    // Three records of well over a mebibyte each are more than 4 MiB.
    assert_eq!(phases, ["purged", "purged", "purged", "purged", "keys", "done"]);
    assert_eq!(leaves[1].leaf["keys"], leaves[0].leaf["keys"]);
    assert_eq!(leaves[0].leaf["keys"][0], "2026-11-standard");
    store.shutdown().await.unwrap();
    let report = world.checked().await.unwrap();
    assert_eq!((report.records_purged, report.purge_jobs.len()), (12, 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_legal_hold_keeps_what_is_due_until_it_is_lifted() {
    let world = World::new();
    let store = world.create().await;
    let mut adas = Vec::new();
    for _ in 0..3 {
        adas.push(record(&world, &store, ADA).await);
        record(&world, &store, BOB).await;
    }
    store.set_hold(ADA, "litigation 7", "op").await.unwrap();
    world.days(551);
    let purged = purge(&store).await.unwrap();
    // The hold is a record about her, too.
    assert_eq!((purged.records, purged.held), (3, 4));
    assert!(purged.keys.is_empty(), "the month's key opens what is held");
    for held in &adas {
        opens(&world, *held).await.unwrap();
    }
    assert_eq!(purge(&store).await.unwrap().held, 4);
    store.lift_hold(ADA, None, "op").await.unwrap();
    let purged = purge(&store).await.unwrap();
    assert_eq!((purged.records, purged.held, purged.keys.len()), (4, 0, 1));
    assert!(opens(&world, adas[0]).await.is_err());
    store.shutdown().await.unwrap();
    assert_eq!(world.checked().await.unwrap().records_purged, 7);
}

#[tokio::test(flavor = "multi_thread")]
async fn lowering_holds_for_later_records_and_raising_for_all() {
    let world = World::new();
    let store = world.create().await;
    let first = record(&world, &store, ADA).await;
    let store = world.reopen(store, 730).await;
    let second = record(&world, &store, ADA).await;
    let store = world.reopen(store, 365).await;
    world.days(1);
    let third = record(&world, &store, ADA).await;
    world.days(365);
    assert_eq!(purge(&store).await.unwrap().records, 1, "of the third alone");
    assert!(opens(&world, third).await.is_err());
    world.days(363);
    assert_eq!(purge(&store).await.unwrap().records, 0);
    world.days(1);
    assert_eq!(purge(&store).await.unwrap().records, 2, "both had 730 days");
    assert!(opens(&world, first).await.is_err() && opens(&world, second).await.is_err());
    store.shutdown().await.unwrap();
    let report = world.checked().await.unwrap();
    assert_eq!((report.records_purged, report.purge_jobs.len()), (3, 2));

    let reader = Reader::open(&world.path(), None).await.unwrap();
    let status = reader.retention(Retention::new(365).unwrap(), 0).await.unwrap();
    let days: Vec<_> = status.settings.iter().map(|setting| setting.days).collect();
    assert_eq!(days, [550, 730, 365]);
    assert_eq!(status.jobs.len(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_purge_by_itself_goes_on_where_a_stop_cut_it_off() {
    let world = World::new();
    let mut store = world.create().await;
    let appends = (0..1_100).map(|_| {
        let draft = Draft::new(world.id(), Kind::Detection).about(ADA).sealed("note", "x");
        store.append(draft)
    });
    for appended in futures_util::future::join_all(appends).await {
        appended.unwrap();
    }
    world.days(600);
    store.confirm_clock("ada@example.com").await.unwrap();
    let mut config = world.config();
    config.publish_every = std::time::Duration::from_millis(5);
    let batches = "SELECT count(*) FROM intake WHERE kind = 'erasure'";
    for n in 1..=2 {
        // Ends after a batch or two: nothing that happens between its steps is waited for.
        store.shutdown().await.unwrap();
        store = Store::open(&world.path(), config.clone()).await.unwrap();
        let publisher = tokio::spawn({
            let store = store.clone();
            async move { store.publisher().await }
        });
        while count(&world, batches).await < n {
            tokio::task::yield_now().await;
        }
        publisher.abort();
        let _ = publisher.await;
        world.checked().await.unwrap();
    }
    store.shutdown().await.unwrap();
    let store = world.open().await;
    purge(&store).await.unwrap();
    let reader = Reader::open(&world.path(), None).await.unwrap();
    let erasures = Query { kind: Some("erasure".into()), ..Query::default() };
    let leaves = reader.query(&erasures).await.unwrap().records;
    assert_eq!(leaves[0].leaf["phase"], "done");
    assert_eq!(leaves[0].leaf["records"], 1_100, "one job: {:?}", leaves[0].leaf);
    assert_eq!(count(&world, "SELECT count(*) FROM sealed").await, 1, "who vouched for the clock");
    store.shutdown().await.unwrap();
    let report = world.checked().await.unwrap();
    assert_eq!((report.records_purged, report.purge_jobs.len()), (1_100, 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_obstacle_to_the_end_of_a_purge_is_overcome_later() {
    let world = World::new();
    let store = world.create().await;
    record(&world, &store, ADA).await;
    world.days(600);
    store.confirm_clock("ada@example.com").await.unwrap();
    let (key, aside) = (world.path().join("keys/periods"), world.path().join("keys/aside"));
    std::fs::rename(&key, &aside).unwrap();
    assert!(matches!(store.purge_now().await, Err(StoreError::Io { .. })));
    assert_eq!(count(&world, "SELECT count(*) FROM sealed").await, 1, "and it is recorded");
    std::fs::rename(&aside, &key).unwrap();
    // The key may be gone already, and the record of it missing.
    std::fs::remove_file(key.join("2026-11-standard.kek")).unwrap();
    let purged = purge(&store).await.unwrap();
    assert_eq!((purged.records, purged.keys.len()), (1, 1), "the same job");
    store.shutdown().await.unwrap();
    assert_eq!(world.checked().await.unwrap().purge_jobs.len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_section_that_no_purge_tells_of_or_that_a_purge_denies_is_damage() {
    let world = World::new();
    let store = world.create().await;
    let due = record(&world, &store, ADA).await;
    world.days(300);
    let kept = record(&world, &store, ADA).await;
    world.days(300);
    store.confirm_clock("ada@example.com").await.unwrap();
    let mut db = raw(&world.database()).await;
    let copy = "CREATE TEMP TABLE copy AS SELECT * FROM sealed";
    sqlx::raw_sql(copy).execute(&mut db).await.unwrap();
    store.publish_now().await.unwrap();
    purge(&store).await.unwrap();
    let report = world.checked().await.unwrap();
    assert_eq!(
        (report.records_purged, report.gone_unsigned),
        (1, Some(1)),
        "only the tail says so"
    );
    store.shutdown().await.unwrap();
    assert_eq!(world.checked().await.unwrap().gone_unsigned, Some(0));
    sqlx::raw_sql("INSERT OR IGNORE INTO sealed SELECT * FROM copy")
        .execute(&mut db)
        .await
        .unwrap();
    let problem = world.checked().await.unwrap_err();
    assert_eq!(problem.key, due.to_string());
    assert!(problem.reason.contains("`private` is there, and job"), "{problem}");
    let others =
        "DELETE FROM sealed WHERE record IN (SELECT record FROM intake WHERE kind = 'detection')";
    sqlx::raw_sql(others).execute(&mut db).await.unwrap();
    let problem = world.checked().await.unwrap_err();
    assert_eq!(problem.key, kept.to_string(), "{problem}");
    assert!(problem.reason.contains("no erasure tells of it"), "{problem}");
    db.close().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_large_value_that_is_gone_or_left_behind_is_damage() {
    let world = World::new();
    let store = world.create().await;
    let large = "x".repeat(100_000);
    let draft = Draft::new(world.id(), Kind::Detection).about(ADA).sealed("note", large);
    let record = store.append(draft).await.unwrap().record_id;
    let alike = serde_json::json!({"sha256": "x", "len": 7});
    let draft = Draft::new(world.id(), Kind::Detection).about(ADA).sealed("note", alike.clone());
    let alike = (store.append(draft).await.unwrap().record_id, alike);
    world.days(300);
    store.append(Draft::new(world.id(), Kind::Check)).await.unwrap();
    let reader = Reader::open(&world.path(), None).await.unwrap();
    assert_eq!(reader.blob(alike.0, "note").await.unwrap(), Some(alike.1), "it is kept apart");
    reader.close().await;
    world.checked().await.unwrap();
    let mut db = raw(&world.database()).await;
    let remove = "CREATE TEMP TABLE copy AS SELECT * FROM sealed;
         DELETE FROM sealed WHERE section = 'blob/note' AND length(ciphertext) > 90000";
    sqlx::raw_sql(remove).execute(&mut db).await.unwrap();
    let problem = world.checked().await.unwrap_err();
    assert_eq!((problem.key, problem.column.as_str()), (record.to_string(), "section"));
    assert!(problem.reason.contains("`blob/note` is missing"), "{}", problem.reason);
    let restore = "INSERT OR IGNORE INTO sealed SELECT * FROM copy";
    sqlx::raw_sql(restore).execute(&mut db).await.unwrap();
    world.checked().await.unwrap();
    world.days(300);
    assert_eq!(purge(&store).await.unwrap().sections, 4);
    store.shutdown().await.unwrap();
    world.checked().await.unwrap();
    let left = "INSERT INTO sealed SELECT * FROM copy WHERE section = 'blob/note'";
    sqlx::raw_sql(left).execute(&mut db).await.unwrap();
    let problem = world.checked().await.unwrap_err();
    assert!(problem.reason.contains("`blob/note` is there, and job"), "{problem}");
    db.close().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_purged_under_a_clock_that_jumped_until_somebody_says_it_is_right() {
    let world = World::new();
    let store = world.create().await;
    record(&world, &store, ADA).await;
    world.days(600);
    let refused = async |store: &Store| {
        let error = store.purge_now().await.unwrap_err();
        assert!(matches!(error, StoreError::ClockGap { .. }), "{error}");
        let said = error.to_string();
        assert!(said.contains("from 2026-11-21 to 2028-07-13"), "{said}");
    };
    refused(&store).await;
    // Not what is recorded under that clock makes it right, nor the next start.
    record(&world, &store, BOB).await;
    refused(&store).await;
    store.shutdown().await.unwrap();
    let mut config = world.config();
    config.publish_every = std::time::Duration::from_millis(5);
    let store = Store::open(&world.path(), config).await.unwrap();
    let publisher = tokio::spawn({
        let store = store.clone();
        async move { store.publisher().await }
    });
    // The last of the 600 days is closed five minutes after its end.
    while count(&world, "SELECT count(*) FROM intake WHERE kind = 'close'").await < 599 {
        tokio::task::yield_now().await;
    }
    for _ in 0..3 {
        // Every round purges, too, if it may.
        let before = count(&world, "SELECT count(*) FROM checkpoint").await;
        store.append(Draft::new(world.id(), Kind::Check)).await.unwrap();
        while count(&world, "SELECT count(*) FROM checkpoint").await == before {
            tokio::task::yield_now().await;
        }
    }
    publisher.abort();
    let _ = publisher.await;
    refused(&store).await;
    assert_eq!(count(&world, "SELECT count(*) FROM sealed").await, 2);

    assert_eq!(purge(&store).await.unwrap().records, 1);
    store.confirm_clock("ada@example.com").await.unwrap();
    let confirmed = "SELECT count(*) FROM intake WHERE kind = 'change' AND CAST(body AS TEXT) LIKE '%\"clock\"%'";
    assert_eq!(count(&world, confirmed).await, 1, "once");
    for _ in 0..40 {
        world.days(1);
        store.close_days().await.unwrap();
    }
    store.purge_now().await.unwrap();
    store.shutdown().await.unwrap();
    world.checked().await.unwrap();
}
