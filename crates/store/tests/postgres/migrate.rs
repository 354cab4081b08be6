//! A ledger moves from SQLite to PostgreSQL: all of it, once, and what was proven stays proven.

use std::time::Duration;

use countersign_ledger::verify::{VerifyOptions, verify_log};
use countersign_ledger::{Checkpoint, LeafIndex, VerifierKey, proof};
use countersign_model::{Draft, Kind, NewAgent, OutcomeStatus, RecordId};
use countersign_store::{
    Committed, Database, MigrateError, Migrated, PublishedLog, Query, Reader, Record, Step, Store,
    StoreConfig, StoreError, fsck, migrate,
};

use crate::common::{World, raw, recorded};
use crate::gateways::Site;

const ADA: &str = "ada@example.com";
const BOB: &str = "bob@example.com";
const CAROL: &str = "carol@example.com";
/// The key of the call with an argument that is too large to be disclosed as such.
const LONG: &str = "k1";

impl Site {
    /// The settings once `store.url` is set; folder and keys are those of the SQLite ledger.
    fn moved(&self) -> StoreConfig {
        let database = Database::Postgres(vec![self.url.clone()]);
        StoreConfig { database, commit_deadline: Duration::from_secs(5), ..self.world.config() }
    }

    async fn migrate(&self) -> Result<Migrated, MigrateError> {
        migrate(&self.world.path(), &self.moved(), &mut |_, _, _| {}).await
    }

    async fn reader(&self) -> Reader {
        Reader::of(&self.world.path(), &self.moved()).await.unwrap()
    }

    /// What the target has: nothing at all, or how many rows in each table.
    fn target(&self) -> String {
        if self.sql("SELECT to_regclass('countersign.stream') IS NULL") == "t" {
            return String::new();
        }
        let tables = ["intake", "leaf", "sealed", "agent", "stream", "position", "frontier"];
        let count = |table| format!("(SELECT count(*) FROM countersign.{table})");
        self.sql(&format!("SELECT concat_ws(' ', {})", tables.map(count).join(", ")))
    }
}

impl Site {
    fn marker(&self) -> std::path::PathBuf {
        self.world.path().join("moved.json")
    }

    /// Makes the tables, so that a test can put something into a move's way.
    async fn with_tables(&self) {
        Store::create(&self.world.folder.path().join("g2"), &self.moved()).await.unwrap();
    }

    /// Lets the end of the next move that inserts into `table` run some PL/pgSQL.
    fn at_commit(&self, table: &str, body: &str) {
        self.sql(&format!(
            "CREATE OR REPLACE FUNCTION countersign.at_commit() RETURNS trigger LANGUAGE plpgsql AS
             $$ BEGIN {body}; RETURN NULL; END $$;
             CREATE CONSTRAINT TRIGGER at_commit AFTER INSERT ON countersign.{table}
             DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION countersign.at_commit()"
        ));
    }

    async fn stays_closed(&self) {
        let old = Store::open(&self.world.path(), self.world.config()).await;
        let Err(StoreError::Elsewhere { to, .. }) = old else { panic!("{old:?}") };
        let (_, place) = self.url.split_once('@').unwrap();
        assert_eq!(to, format!("postgres://{place}"));
    }

    /// The ledger in SQLite is what counts, as if nothing had been tried.
    async fn goes_on_here(&self) {
        assert!(!self.marker().exists());
        let store = self.world.open().await;
        world_note(self, &store).await;
        store.shutdown().await.unwrap();
    }
}

impl World {
    /// The writer has a thread of its own, which may outlive the runtime by a moment.
    fn wait_until_released(&self) {
        std::fs::File::open(self.path().join("lock")).unwrap().lock().unwrap();
    }

    async fn call(&self, store: &Store, person: &str, key: &str) -> RecordId {
        let mut intent = self.claiming(key, 1);
        intent.draft = Draft::new(self.id(), Kind::Decision)
            .with("decision", "allow")
            .with("tool", "crm/update")
            .about(person)
            .sealed("arguments.name", format!("name of {person}"))
            .sealed("arguments.long", "x".repeat(if key == LONG { 100_000 } else { 10 }));
        recorded(store.commit_intent(intent).await.unwrap()).evaluation_id()
    }

    async fn executed(&self, store: &Store, person: &str, key: &str) -> RecordId {
        let call = self.call(store, person, key).await;
        let mut outcome =
            self.outcome(call, OutcomeStatus::Executed, Some(&format!("\"of {key}\"")));
        outcome.draft = outcome.draft.about(person).sealed("result", format!("of {key}"));
        store.commit_outcome(outcome).await.unwrap();
        call
    }
}

/// A ledger with something in every table, and what people keep of it.
struct Kept {
    api_key: String,
    calls: Vec<RecordId>,
    erased: RecordId,
    unknown: RecordId,
    open: RecordId,
    /// A record, its proof, and a checkpoint, from half-way.
    body: Vec<u8>,
    proof: String,
    checkpoint: String,
    keys: Vec<VerifierKey>,
    size: u64,
    records: Vec<Record>,
}

/// Crashes with a call open, is started again, and stops with another one open.
fn history(world: &World) -> Kept {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let unknown = runtime.block_on(async {
        let store = world.create().await;
        world.call(&store, BOB, "unknown").await
    });
    runtime.shutdown_timeout(Duration::from_secs(5));
    world.wait_until_released();
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(fill(world, unknown))
}

async fn fill(world: &World, unknown: RecordId) -> Kept {
    let store = world.open().await;
    let new = NewAgent {
        name: "bot".into(),
        purpose: "p".into(),
        owner: "o".into(),
        environment: "prod".into(),
        roles: vec!["r".into()],
        key_expires: None,
    };
    let (_, key) = store.agents().add(new, "op").await.unwrap();
    let files = [("a.cedar".to_owned(), b"permit".to_vec())].into();
    store.put_bundle(&"a".repeat(64), &files, "op").await.unwrap();
    let erased = world.executed(&store, ADA, "ada").await;
    store.set_hold(CAROL, "litigation", "op").await.unwrap();
    let mut calls = Vec::new();
    for n in 0..100 {
        calls.push(world.executed(&store, BOB, &format!("k{n}")).await);
    }
    store.publish_now().await.unwrap();
    let (point, note) = store.published_checkpoint().await.unwrap().unwrap();
    store.put_cosignature(point.size, note.signatures().first().unwrap()).await.unwrap();
    let reader = Reader::open(&world.path(), None).await.unwrap();
    let middle = reader.get(calls[50]).await.unwrap().unwrap();
    let proof = reader.inclusion_proof(middle.index).await.unwrap();
    let checkpoint = reader.checkpoint().unwrap().unwrap();
    store.erase(ADA, "DSR-1", None, "op").await.unwrap();
    // Under a later name of hers, since the first one was erased.
    calls.push(world.executed(&store, ADA, "ada again").await);
    for n in 100..120 {
        calls.push(world.executed(&store, CAROL, &format!("k{n}")).await);
    }
    let open = world.call(&store, BOB, "open").await;
    store.publish_now().await.unwrap();
    let keys = store.log_keys();
    store.shutdown().await.unwrap();
    let size = reader.size().await.unwrap();
    let records = reader.range(LeafIndex(0), 1_000).await.unwrap();
    reader.close().await;
    let (api_key, body) = (key.text.to_string(), middle.body);
    Kept { api_key, calls, erased, unknown, open, body, proof, checkpoint, keys, size, records }
}

fn verify(site: &Site, kept: &Kept) -> u64 {
    let pinned = Some(Checkpoint::open(kept.checkpoint.as_bytes(), &kept.keys).unwrap());
    let options = VerifyOptions { keys: kept.keys.clone(), pinned, ..VerifyOptions::default() };
    let log = PublishedLog::new(&site.world.path());
    let report = verify_log(&log, &options, &mut |_| {});
    proof::verify(&kept.body, &kept.proof, &kept.keys).unwrap();
    report.unwrap().size.0
}

#[test]
fn everything_moves_and_what_was_proven_stays_proven() {
    let site = Site::new();
    let kept = history(&site.world);
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(async {
        let mut steps = Vec::new();
        let mut progress = |step, done, all| {
            steps.push(step);
            assert!(done <= all, "{step:?} {done} of {all}");
        };
        let moved = migrate(&site.world.path(), &site.moved(), &mut progress).await.unwrap();
        steps.dedup();
        assert_eq!(steps, [Step::Check, Step::Copy, Step::Verify]);
        assert_eq!(moved.leaves, kept.size);
        for (table, rows) in &moved.rows {
            assert!(*rows > 0, "the test has no row of `{table}`");
        }
        read_as_before(&site, &kept, &moved).await;
        goes_on(&site, &kept).await;
    });
}

/// Every record, private field, hold and search is as it was; the move itself is recorded.
async fn read_as_before(site: &Site, kept: &Kept, moved: &Migrated) {
    let reader = site.reader().await;
    let records = reader.range(LeafIndex(0), 1_000).await.unwrap();
    let (before, after) = records.split_at(kept.records.len());
    assert_eq!(before, kept.records);
    let of: Vec<_> = after.iter().map(|it| it.leaf["kind"].as_str().unwrap()).collect();
    assert_eq!(of, ["outcome", "change"], "the open call's, and the move's");
    let (unknown, change) = (&after[0].leaf, &after[1].leaf);
    assert_eq!(
        (&unknown["outcome"], &unknown["parent"]),
        (&"unknown".into(), &kept.open.to_string().into())
    );
    assert_eq!((&change["object"], &change["action"]), (&"store".into(), &"moved".into()));
    assert_eq!((&change["size"], &change["root"]), (&kept.size.into(), &moved.root.clone().into()));
    assert_eq!(change["record_id"], moved.record_id.to_string());
    let epoch = |record: &Record| record.leaf["gw"]["epoch"].as_u64().unwrap();
    assert_eq!(epoch(&after[0]), epoch(before.last().unwrap()) + 1);
    assert_eq!(moved.published, kept.size + 2);
    assert_eq!(verify(site, kept), moved.published);

    for call in &kept.calls {
        let opened = reader.disclosures(*call).await.unwrap();
        assert_eq!(opened.len(), 3, "{call}");
        assert_eq!(reader.outcomes(*call).await.unwrap().len(), 1);
    }
    let long = reader.blob(kept.calls[1], "arguments.long").await.unwrap().unwrap();
    assert_eq!(long.as_str().unwrap().len(), 100_000);
    let refused = reader.disclosures(kept.erased).await.unwrap_err();
    assert!(refused.to_string().contains("ticket `DSR-1`"), "{refused}");
    assert_eq!(reader.holds().await.unwrap().len(), 1);
    let query =
        Query { principal: Some(ADA.into()), kind: Some("decision".into()), ..Query::default() };
    assert_eq!(reader.query(&query).await.unwrap().records.len(), 2);
    assert!(reader.cosigned_checkpoint().await.unwrap().is_some());
    reader.close().await;
}

/// Keys, claims, erasures and further gateways work, and the tree grows.
async fn goes_on(site: &Site, kept: &Kept) {
    let (world, folder) = (&site.world, site.world.path());
    let store = Store::open(&folder, site.moved()).await.unwrap();
    assert!(store.authenticate(&kept.api_key).is_ok());
    assert_eq!(store.active_bundle().await.unwrap().unwrap(), "a".repeat(64));
    let second =
        StoreConfig { replica: "g2".into(), keys: Some(folder.join("keys")), ..site.moved() };
    Store::create(&site.world.folder.path().join("g2"), &second).await.unwrap();
    let second = Store::open(&site.world.folder.path().join("g2"), second).await.unwrap();
    for store in [&store, &second] {
        let again = store.commit_intent(world.claiming("k7", 1)).await.unwrap();
        let Committed::Replayed(stored) = again else { panic!("{again:?}") };
        assert_eq!(stored.result.unwrap(), "\"of k7\"");
        for key in ["unknown", "open"] {
            let again = store.commit_intent(world.claiming(key, 1)).await.unwrap();
            assert!(matches!(again, Committed::Refused { .. }), "{again:?}");
        }
    }
    store.reconcile(kept.unknown, OutcomeStatus::Executed, "op", "seen").await.unwrap();
    let held = store.erase(CAROL, "DSR-2", None, "op").await;
    assert!(matches!(held, Err(StoreError::Held(_))), "{held:?}");
    let erased = store.erase(BOB, "DSR-3", None, "op").await.unwrap();
    assert_eq!(erased.records, 202, "the outcomes have private fields too");
    let again = store.commit_intent(world.claiming("k7", 1)).await.unwrap();
    let Committed::Refused { code, .. } = again else { panic!("{again:?}") };
    assert_eq!(code.as_str(), "IDEMPOTENCY_RESULT_GONE", "it was erased with the person");
    let new = world.executed(&store, BOB, "new").await;
    let size = store.publish_now().await.unwrap();
    store.shutdown().await.unwrap();
    second.shutdown().await.unwrap();

    let reader = site.reader().await;
    assert_eq!(reader.disclosures(new).await.unwrap().len(), 3);
    assert!(reader.disclosures(kept.calls[3]).await.is_err(), "erased in the new place");
    reader.close().await;
    assert_eq!(verify(site, kept), size);
    let report = fsck::check_shared(&folder, &site.moved(), &mut |_, _| {}).await.unwrap();
    assert!(report.leaves >= size);
    // Nobody goes on with the old database by mistake, not even if nothing tells what was signed since.
    site.stays_closed().await;
    std::fs::remove_file(folder.join("keys/signer-state")).unwrap();
    std::fs::remove_dir_all(folder.join("log")).unwrap();
    site.stays_closed().await;
}

#[test]
fn a_ledger_whose_gateway_was_killed_moves_and_says_so() {
    let site = Site::new();
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let call = runtime.block_on(async {
        let store = site.world.create().await;
        store.publish_now().await.unwrap();
        site.world.call(&store, BOB, "k").await
    });
    runtime.shutdown_timeout(Duration::from_secs(5));
    site.world.wait_until_released();
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(async {
        let moved = site.migrate().await.unwrap();
        assert_eq!((moved.leaves, moved.published), (1, 4));
        let reader = site.reader().await;
        let records = reader.range(LeafIndex(1), 10).await.unwrap();
        let of: Vec<_> = records.iter().map(|it| it.leaf["kind"].as_str().unwrap()).collect();
        assert_eq!(of, ["gap", "outcome", "change"]);
        assert_eq!(records[0].leaf["last"]["epoch"], 1);
        assert_eq!(records[0].leaf["last"]["seq"], 1);
        assert_eq!(records[1].leaf["parent"], call.to_string());
        reader.close().await;
    });
}

#[tokio::test(flavor = "multi_thread")]
async fn a_ledger_of_a_gateway_that_changed_its_name_moves() {
    let site = Site::new();
    let store = site.world.create().await;
    world_note(&site, &store).await;
    world_note(&site, &store).await;
    store.shutdown().await.unwrap();
    let renamed = StoreConfig { replica: "g7".into(), ..site.world.config() };
    let store = Store::open(&site.world.path(), renamed).await.unwrap();
    world_note(&site, &store).await;
    store.shutdown().await.unwrap();

    let moved = StoreConfig { replica: "g7".into(), ..site.moved() };
    migrate(&site.world.path(), &moved, &mut |_, _, _| {}).await.unwrap();
    let streams =
        "SELECT string_agg(concat_ws(' ', s.replica, number, s.epoch, p.epoch, p.seq), ', '
                     ORDER BY number)
                     FROM countersign.stream s JOIN countersign.position p USING (tenant, replica)";
    assert_eq!(site.sql(streams), "g7 0 3 3 1, g1 1 2 1 2");
    // Under the first name again, it goes on after its own last record.
    let store = Store::open(&site.world.path(), site.moved()).await.unwrap();
    world_note(&site, &store).await;
    store.publish_now().await.unwrap();
    store.shutdown().await.unwrap();
    assert_eq!(site.sql(streams), "g7 0 3 3 1, g1 1 3 3 1");
    let report = fsck::check_shared(&site.world.path(), &moved, &mut |_, _| {}).await.unwrap();
    assert_eq!(report.leaves, 5);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_used_target_is_refused_and_unchanged() {
    let site = Site::new();
    let store = site.world.create().await;
    world_note(&site, &store).await;
    store.shutdown().await.unwrap();
    let other = site.gateway("g9").await;
    other.append(Draft::new(site.world.id(), Kind::Detection)).await.unwrap();
    other.shutdown().await.unwrap();
    let before = site.target();
    let refused = site.migrate().await;
    let Err(MigrateError::NotEmpty { tenant, table, rows }) = refused else {
        panic!("{refused:?}")
    };
    assert_eq!((tenant.as_str(), table, rows), ("acme", "intake", 1));
    assert_eq!(site.target(), before);

    // Moved once, it is not moved again.
    let site = Site::new();
    let store = site.world.create().await;
    world_note(&site, &store).await;
    store.shutdown().await.unwrap();
    site.migrate().await.unwrap();
    let before = site.target();
    let refused = site.migrate().await;
    assert!(matches!(refused, Err(MigrateError::NotEmpty { .. })), "{refused:?}");
    assert_eq!(site.target(), before);
}

async fn world_note(site: &Site, store: &Store) {
    store.append(Draft::new(site.world.id(), Kind::Detection).with("n", 1)).await.unwrap();
}

/// Each of them leaves a fresh database without so much as a table.
#[tokio::test(flavor = "multi_thread")]
async fn a_ledger_in_use_damaged_or_restored_is_refused() {
    let site = Site::new();
    let (world, folder) = (&site.world, site.world.path());
    let store = world.create().await;
    world_note(&site, &store).await;
    world.executed(&store, BOB, "k").await;
    let refused = site.migrate().await;
    assert!(matches!(refused, Err(MigrateError::Store(StoreError::Locked(_)))), "{refused:?}");
    store.shutdown().await.unwrap();
    assert_eq!(site.target(), "");

    let sound = std::fs::read(world.database()).unwrap();
    // One bit of a leaf.
    let place = sound.windows(9).position(|bytes| bytes == b"\"kind\":\"d").unwrap();
    let mut damaged = sound.clone();
    damaged[place + 8] ^= 1;
    std::fs::write(world.database(), &damaged).unwrap();
    let refused = site.migrate().await;
    let Err(MigrateError::Damaged(problem)) = refused else { panic!("{refused:?}") };
    assert_eq!((problem.object.as_str(), problem.column.as_str()), ("intake", "body"));
    std::fs::write(world.database(), &sound).unwrap();
    let mut db = raw(&world.database()).await;
    sqlx::query("UPDATE idempotency SET status = 'failed'").execute(&mut db).await.unwrap();
    drop(db);
    let refused = site.migrate().await;
    let Err(MigrateError::Damaged(problem)) = refused else { panic!("{refused:?}") };
    assert_eq!((problem.object.as_str(), problem.column.as_str()), ("idempotency", "status"));
    for beside in ["countersign.db-wal", "countersign.db-shm"] {
        let _ = std::fs::remove_file(folder.join(beside));
    }
    std::fs::write(world.database(), &sound).unwrap();
    assert_eq!(site.target(), "");

    let store = world.open().await;
    world_note(&site, &store).await;
    store.shutdown().await.unwrap();
    std::fs::write(world.database(), &sound).unwrap();
    let refused = site.migrate().await;
    let Err(MigrateError::Damaged(problem)) = refused else { panic!("{refused:?}") };
    assert!(problem.to_string().contains("leaves"), "an old backup: {problem}");
    let mut other = site.moved();
    other.tenant = countersign_model::TenantId("other".into());
    let refused = migrate(&folder, &other, &mut |_, _, _| {}).await;
    assert!(refused.is_err());
    assert_eq!(site.target(), "");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_breaks_off_half_way_leaves_nothing() {
    let site = Site::new();
    let store = site.world.create().await;
    for n in 0..20 {
        site.world.executed(&store, BOB, &format!("k{n}")).await;
    }
    let files = [("a.cedar".to_owned(), b"permit".to_vec())].into();
    store.put_bundle(&"a".repeat(64), &files, "op").await.unwrap();
    store.shutdown().await.unwrap();
    // A gateway's `init` made the tables; the last of them takes no row.
    site.with_tables().await;
    let before = site.target();
    let name = "countersign.active_bundle";
    site.sql(&format!("ALTER TABLE {name} ADD CONSTRAINT no CHECK (tenant = '') NOT VALID"));
    let refused = site.migrate().await;
    assert!(matches!(refused, Err(MigrateError::Store(StoreError::Database(_)))), "{refused:?}");
    assert_eq!(site.target(), before);
    site.goes_on_here().await;
    // A row that is not what was written is noticed before it counts.
    site.sql(&format!(
        "ALTER TABLE {name} DROP CONSTRAINT no;
         CREATE FUNCTION countersign.alter_row() RETURNS trigger LANGUAGE plpgsql AS
         $$ BEGIN NEW.status = 'unknown'; RETURN NEW; END $$;
         CREATE TRIGGER alter_row BEFORE INSERT ON countersign.idempotency
         FOR EACH ROW EXECUTE FUNCTION countersign.alter_row()"
    ));
    let refused = site.migrate().await;
    let Err(MigrateError::Differs { what }) = refused else { panic!("{refused:?}") };
    assert_eq!(what, "table `idempotency`");
    assert_eq!(site.target(), before);
    site.goes_on_here().await;
    site.sql("DROP TRIGGER alter_row ON countersign.idempotency");
    // The server undoes the copy when it is to be committed, and says so.
    site.at_commit("active_bundle", "RAISE 'no' USING ERRCODE = 'check_violation'");
    let refused = site.migrate().await;
    assert!(matches!(refused, Err(MigrateError::Store(StoreError::Database(_)))), "{refused:?}");
    assert_eq!(site.target(), before);
    site.goes_on_here().await;
    site.sql("DROP TRIGGER at_commit ON countersign.active_bundle");
    site.migrate().await.unwrap();
}

/// A site whose ledger has one executed call, stopped, and a target with tables.
async fn ready() -> Site {
    let site = Site::new();
    let store = site.world.create().await;
    site.world.executed(&store, BOB, "k").await;
    store.shutdown().await.unwrap();
    site.with_tables().await;
    site
}

#[tokio::test(flavor = "multi_thread")]
async fn while_the_end_of_a_commit_is_unknown_nobody_goes_on_in_sqlite() {
    let site = ready().await;
    let (before, folder) = (site.target(), site.world.path());
    site.at_commit("intake", "PERFORM pg_terminate_backend(pg_backend_pid())");
    let broken = site.migrate().await;
    assert!(matches!(broken, Err(MigrateError::Unknown(_))), "{broken:?}");
    assert_eq!(site.target(), before);
    site.stays_closed().await;
    assert_eq!(fsck::check(&folder, None, &mut |_, _| {}).await.unwrap().leaves, 2);
    let marker = std::fs::read_to_string(site.marker()).unwrap();
    assert!(marker.contains("\"size\":2") && !marker.contains("countersign@"), "{marker}");

    // Elsewhere it is not even tried, and what fails again changes nothing.
    let elsewhere = Database::Postgres(vec![Site::new().url]);
    let elsewhere = StoreConfig { database: elsewhere, ..site.moved() };
    let refused = migrate(&folder, &elsewhere, &mut |_, _, _| {}).await;
    assert!(matches!(refused, Err(MigrateError::Elsewhere { .. })), "{refused:?}");
    let broken = site.migrate().await;
    assert!(matches!(broken, Err(MigrateError::Unknown(_))), "{broken:?}");
    site.sql(
        "DROP TRIGGER at_commit ON countersign.intake;
         ALTER TABLE countersign.leaf ADD CONSTRAINT no CHECK (tenant = '') NOT VALID",
    );
    let refused = site.migrate().await;
    assert!(matches!(refused, Err(MigrateError::Store(_))), "{refused:?}");
    site.stays_closed().await;

    site.sql("ALTER TABLE countersign.leaf DROP CONSTRAINT no");
    let moved = site.migrate().await.unwrap();
    assert_eq!((moved.leaves, moved.published), (2, 3));
    site.stays_closed().await;
}

/// As after a crash between the commit and the first record.
#[tokio::test(flavor = "multi_thread")]
async fn a_move_that_was_committed_and_not_recorded_is_found_and_recorded() {
    let site = ready().await;
    site.sql(
        "CREATE FUNCTION countersign.no() RETURNS trigger LANGUAGE plpgsql AS
         $$ BEGIN RAISE 'no'; END $$;
         CREATE TRIGGER no BEFORE UPDATE ON countersign.stream FOR EACH ROW
         WHEN (OLD.instance <> NEW.instance) EXECUTE FUNCTION countersign.no()",
    );
    for _ in 0..2 {
        let broken = site.migrate().await;
        assert!(matches!(broken, Err(MigrateError::NotRecorded(_))), "{broken:?}");
        site.stays_closed().await;
    }
    site.sql("DROP TRIGGER no ON countersign.stream");
    let moved = site.migrate().await.unwrap();
    assert_eq!((moved.leaves, moved.published), (2, 3));
    assert!(moved.rows.contains(&("leaf", 2)), "{moved:?}");
    site.stays_closed().await;
    let store = Store::open(&site.world.path(), site.moved()).await.unwrap();
    let again = store.commit_intent(site.world.claiming("k", 1)).await.unwrap();
    assert!(matches!(again, Committed::Replayed(_)), "{again:?}");
    store.shutdown().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_move_that_another_process_has_yet_to_sign_says_so() {
    let site = ready().await;
    site.sql("UPDATE countersign.coord SET leader = 'g9', beat = now() + interval '1 hour'");
    let unsigned = site.migrate().await;
    let Err(MigrateError::NotRecorded(why)) = unsigned else { panic!("{unsigned:?}") };
    assert!(why.to_string().contains("another process"), "{why}");
    site.stays_closed().await;
    // The gateway takes the lead when nobody has it any more; nothing was lost.
    site.sql("UPDATE countersign.coord SET beat = now() - interval '1 hour'");
    let store = Store::open(&site.world.path(), site.moved()).await.unwrap();
    assert_eq!(store.publish_now().await.unwrap(), 3);
    store.shutdown().await.unwrap();
}
