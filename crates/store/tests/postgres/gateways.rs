//! Several gateways on one PostgreSQL: one log, nothing lost, nothing twice, nobody in another's place.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::LazyLock;
use std::time::Duration;

use countersign_ledger::verify::{VerifyOptions, verify_log};
use countersign_ledger::{LeafIndex, SigningKey, TlogProof, VerifierKey};
use countersign_model::{Draft, Kind, NewAgent, OutcomeStatus};
use countersign_store::{
    CommitWarnings, Committed, Database, PublishedLog, Query, Reader, SignerFolder, Store,
    StoreConfig, StoreError, fsck,
};
use countersign_testkit::Postgres;
use serde_json::Value;
use sqlx::Connection as _;

use crate::common::{World, recorded};

/// One cluster for all tests; each has a database of its own.
static CLUSTER: LazyLock<Postgres> = LazyLock::new(|| Postgres::start().unwrap());

/// A store hears the server's warnings by the program's subscriber.
static LISTENING: LazyLock<()> = LazyLock::new(|| {
    use tracing_subscriber::layer::SubscriberExt as _;
    use tracing_subscriber::util::SubscriberInitExt as _;
    tracing_subscriber::registry().with(CommitWarnings::layer()).init();
});

/// Gateways with one database and one keystore; clock and ids are common too.
pub(crate) struct Site {
    pub(crate) world: World,
    cluster: &'static Postgres,
    pub(crate) url: String,
}

impl Site {
    pub(crate) fn new() -> Self {
        Self::on(&CLUSTER)
    }

    fn on(cluster: &'static Postgres) -> Self {
        LazyLock::force(&LISTENING);
        Self { world: World::new(), cluster, url: cluster.database().unwrap() }
    }

    fn config(&self, replica: &str) -> StoreConfig {
        StoreConfig {
            database: Database::Postgres(vec![self.url.clone()]),
            commit_deadline: Duration::from_secs(5),
            keys: Some(self.world.folder.path().join("keys")),
            replica: replica.to_owned(),
            ..self.world.config()
        }
    }

    fn folder(&self, replica: &str) -> std::path::PathBuf {
        self.world.folder.path().join(replica)
    }

    pub(crate) async fn gateway(&self, replica: &str) -> Store {
        let config = self.config(replica);
        Store::create(&self.folder(replica), &config).await.unwrap();
        Store::open(&self.folder(replica), config).await.unwrap()
    }

    pub(crate) fn sql(&self, sql: &str) -> String {
        self.cluster.sql(&self.url, sql).unwrap()
    }

    /// Checks the log that a gateway publishes; returns its records.
    async fn records(&self, replica: &str) -> Vec<Value> {
        let config = self.config(replica);
        let reader = Reader::of(&self.folder(replica), &config).await.unwrap();
        let (mut leaves, mut from) = (Vec::new(), 0);
        loop {
            let page = reader.range(LeafIndex(from), 1_000).await.unwrap();
            let Some(last) = page.last() else { break };
            from = last.index.0 + 1;
            leaves.extend(page.into_iter().map(|record| record.leaf));
        }
        reader.close().await;
        leaves
    }

    fn verified(&self, store: &Store) -> u64 {
        let key: VerifierKey = store.vkey().unwrap().parse().unwrap();
        let options = VerifyOptions { keys: vec![key], ..VerifyOptions::default() };
        let report = verify_log(&PublishedLog::new(store.folder()), &options, &mut |_| {});
        report.unwrap().size.0
    }
}

fn note(site: &Site, n: usize) -> Draft {
    Draft::new(site.world.id(), Kind::Detection).with("n", n)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_is_recorded_ordered_published_and_opened() {
    let site = Site::new();
    let store = site.gateway("g1").await;
    let receipt = recorded(store.commit_intent(site.world.claiming("k", 1)).await.unwrap());
    assert_eq!(receipt.index(), None, "the sequencer orders, not the writer");
    let call = receipt.evaluation_id();
    let outcome = site.world.outcome(call, OutcomeStatus::Executed, Some("\"done\""));
    store.commit_outcome(outcome).await.unwrap();
    assert_eq!(store.publish_now().await.unwrap(), 2);
    assert_eq!(site.verified(&store), 2);

    let reader = Reader::of(&site.folder("g1"), &site.config("g1")).await.unwrap();
    let found = reader.get(call).await.unwrap().unwrap();
    assert_eq!(found.leaf["gw"]["replica"], "g1");
    assert_eq!(reader.disclosures(call).await.unwrap().len(), 3);
    assert_eq!(reader.outcomes(call).await.unwrap().len(), 1);
    let query = Query { principal: Some("ada@example.com".to_owned()), ..Query::default() };
    assert_eq!(reader.query(&query).await.unwrap().records.len(), 1);
    store.shutdown().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn r_036_a_key_is_claimed_once_among_three_gateways_and_its_result_given_everywhere() {
    let site = Site::new();
    let mut stores = Vec::new();
    for replica in ["g1", "g2", "g3"] {
        stores.push(site.gateway(replica).await);
    }
    for round in 0..10 {
        let key = format!("k{round}");
        let calls: Vec<_> = (0..50)
            .map(|n| {
                let (store, intent) = (stores[n % 3].clone(), site.world.claiming(&key, 1));
                tokio::spawn(async move { store.commit_intent(intent).await.unwrap() })
            })
            .collect();
        let (mut won, mut first) = (Vec::new(), BTreeSet::new());
        for call in calls {
            match call.await.unwrap() {
                Committed::Recorded(receipt) => won.push(receipt),
                Committed::InFlight { evaluation_id } => drop(first.insert(evaluation_id)),
                other @ (Committed::Replayed(_) | Committed::Refused { .. }) => panic!("{other:?}"),
            }
        }
        assert_eq!(won.len(), 1);
        let call = won.remove(0).evaluation_id();
        assert_eq!(first, BTreeSet::from([call]));
        let waiting: Vec<_> = stores
            .iter()
            .map(|store| {
                let store = store.clone();
                tokio::spawn(async move { store.wait_outcome(call, Duration::from_secs(20)).await })
            })
            .collect();
        let owner = site.sql("SELECT replica FROM countersign.open_call WHERE state = 'open'");
        let owner = &stores[owner.trim_start_matches('g').parse::<usize>().unwrap() - 1];
        let outcome = site.world.outcome(call, OutcomeStatus::Executed, Some("\"paid\""));
        owner.commit_outcome(outcome).await.unwrap();
        for waiting in waiting {
            assert!(waiting.await.unwrap(), "every gateway hears of the outcome");
        }
        for store in &stores {
            let again = store.commit_intent(site.world.claiming(&key, 1)).await.unwrap();
            let Committed::Replayed(stored) = again else { panic!("{again:?}") };
            assert_eq!(stored.result.unwrap(), "\"paid\"");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn three_gateways_write_one_log_and_each_publishes_it() {
    let site = Site::new();
    let mut stores = Vec::new();
    for replica in ["g1", "g2", "g3"] {
        stores.push(site.gateway(replica).await);
    }
    let writers: Vec<_> = (0..600)
        .map(|n| {
            let (store, draft) = (stores[n % 3].clone(), note(&site, n));
            tokio::spawn(async move { store.append(draft).await.unwrap() })
        })
        .collect();
    for writer in writers {
        writer.await.unwrap();
    }
    for store in &stores {
        store.publish_now().await.unwrap();
    }
    let leaves = site.records("g2").await;
    let seen: BTreeSet<u64> = leaves.iter().filter_map(|leaf| leaf["n"].as_u64()).collect();
    assert_eq!((leaves.len(), seen.len()), (600, 600), "each of them once");
    for store in &stores {
        assert_eq!(site.verified(store), 600);
    }
    let [a, b, c] = ["g1", "g2", "g3"].map(|replica| {
        std::fs::read_to_string(site.folder(replica).join("log/checkpoint")).unwrap()
    });
    assert!(a == b && b == c, "one signed checkpoint");
}

/// Each of two processes in turn loses its lease while it works, as a frozen process does.
#[tokio::test(flavor = "multi_thread")]
async fn t12_two_leaders_never_fork_the_log() {
    let trials = trials("COUNTERSIGN_SEQUENCER_TRIALS", 20);
    let site = Site::new();
    let (one, two) = (site.gateway("g1").await, site.gateway("g2").await);
    for n in 0..trials {
        one.append(note(&site, 2 * n)).await.unwrap();
        two.append(note(&site, 2 * n + 1)).await.unwrap();
        let publish = |store: &Store| {
            let store = store.clone();
            tokio::spawn(async move { store.publish_now().await })
        };
        let (a, b) = (publish(&one), publish(&two));
        site.sql("UPDATE countersign.coord SET beat = now() - interval '1 minute'");
        let (c, d) = (publish(&one), publish(&two));
        for done in [a, b, c, d] {
            match done.await.unwrap() {
                // Whoever lost the lease, or met the other one signing, has published nothing.
                Ok(_)
                | Err(
                    StoreError::Unavailable { .. }
                    | StoreError::Moved { .. }
                    | StoreError::Database(_),
                ) => {}
                Err(error) => panic!("trial {n}: {error}"),
            }
        }
    }
    let all = 2 * u64::try_from(trials).unwrap();
    for store in [&one, &two] {
        // Whoever has not heard yet that it lost the lease hears it now.
        while store.publish_now().await.ok() != Some(all) {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        assert_eq!(site.verified(store), all);
    }
    let epoch: usize = site.sql("SELECT epoch FROM countersign.coord").parse().unwrap();
    assert!(epoch > trials / 4, "the lead changed hands {epoch} times");
    let notes = site.sql("SELECT count(DISTINCT size), count(*) FROM countersign.checkpoint");
    let (sizes, all) = notes.split_once('|').unwrap();
    assert_eq!(sizes, all);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gateway_that_is_gone_is_closed_by_another_and_may_come_back() {
    let site = Site::new();
    let (lost, other) = (site.gateway("g1").await, site.gateway("g2").await);
    let call = recorded(lost.commit_intent(site.world.claiming("k", 1)).await.unwrap());
    let call = call.evaluation_id();
    site.sql("UPDATE countersign.stream SET beat = now() - interval '1 hour' WHERE replica = 'g1'");
    let publisher = tokio::spawn({
        let other = other.clone();
        async move { other.publisher().await }
    });
    assert!(other.wait_outcome(call, Duration::from_secs(20)).await);
    publisher.abort();

    // It was only frozen: it goes on in a new epoch, and its call has an outcome already.
    let late = site.world.outcome(call, OutcomeStatus::Executed, None);
    // It may have noticed by itself: it says now and then that it is alive.
    let first = lost.commit_outcome(late).await;
    let noticed = matches!(first, Err(StoreError::Invalid { .. }));
    assert!(noticed || matches!(first, Err(StoreError::Unavailable { .. })), "{first:?}");
    let late = site.world.outcome(call, OutcomeStatus::Executed, None);
    let again = lost.commit_outcome(late).await;
    assert!(matches!(again, Err(StoreError::Invalid { .. })), "{again:?}");
    lost.append(note(&site, 1)).await.unwrap();
    other.publish_now().await.unwrap();
    lost.publish_now().await.unwrap();
    assert_eq!(site.verified(&other), site.verified(&lost));
    let leaves = site.records("g2").await;
    let gap = leaves.iter().find(|leaf| leaf["kind"] == "gap").unwrap();
    assert_eq!((&gap["gap"], &gap["gw"]["replica"]), (&"gateway_lost".into(), &"g2".into()));
    assert_eq!(gap["last"]["replica"], "g1");
    let outcome = leaves.iter().find(|leaf| leaf["kind"] == "outcome").unwrap();
    assert_eq!(outcome["outcome"], "unknown");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_process_of_the_same_name_fences_the_first() {
    let site = Site::new();
    let first = site.gateway("g1").await;
    first.append(note(&site, 1)).await.unwrap();
    std::fs::create_dir(site.folder("elsewhere")).unwrap();
    let second = Store::open(&site.folder("elsewhere"), site.config("g1")).await.unwrap();
    second.append(note(&site, 2)).await.unwrap();
    for _ in 0..3 {
        let refused = first.append(note(&site, 3)).await;
        assert!(matches!(refused, Err(StoreError::Unavailable { .. })), "{refused:?}");
    }
    second.append(note(&site, 4)).await.unwrap();
    second.publish_now().await.unwrap();
    second.publish_now().await.unwrap();
    let leaves = site.records("g1").await;
    let seen: Vec<_> = leaves.iter().filter_map(|leaf| leaf["n"].as_u64()).collect();
    assert_eq!(seen, [1, 2, 4]);
}

#[tokio::test(flavor = "multi_thread")]
async fn t16_connections_cut_while_committing_leave_one_decision_for_each_key() {
    let operations = trials("COUNTERSIGN_CUT_OPERATIONS", 300);
    let site = Site::new();
    let (one, two) = (site.gateway("g1").await, site.gateway("g2").await);
    let stop = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(false));
    let cutter = std::thread::spawn({
        let (stop, url) = (std::sync::Arc::clone(&stop), site.url.clone());
        move || {
            let mut cuts = 0_usize;
            while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                let cut = "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity
                            WHERE datname = current_database() AND application_name = 'countersign'
                              AND query LIKE ANY (ARRAY['COMMIT', '%WITH fence%'])";
                cuts += CLUSTER.sql(&url, cut).unwrap().parse::<usize>().unwrap();
                // Long enough to connect and record something.
                std::thread::sleep(Duration::from_millis(20));
            }
            cuts
        }
    });
    let mut calls = Vec::new();
    for worker in 0..8 {
        let (store, world) = (if worker % 2 == 0 { &one } else { &two }, &site.world);
        calls.push(async move {
            for n in 0..operations / 8 {
                let key = format!("{worker}/{n}");
                let call = loop {
                    match store.commit_intent(world.claiming(&key, 1)).await {
                        Ok(Committed::Recorded(receipt)) => break receipt.evaluation_id(),
                        // An attempt that was refused, though it is durable, is closed in a moment.
                        Ok(Committed::InFlight { .. }) | Err(_) => {
                            tokio::time::sleep(Duration::from_millis(5)).await;
                        }
                        Ok(other @ (Committed::Replayed(_) | Committed::Refused { .. })) => {
                            panic!("{other:?}")
                        }
                    }
                };
                loop {
                    let outcome = world.outcome(call, OutcomeStatus::Executed, None);
                    match store.commit_outcome(outcome).await {
                        // Refused, and yet durable.
                        Ok(_) | Err(StoreError::Invalid { .. }) => break,
                        Err(_) => tokio::time::sleep(Duration::from_millis(5)).await,
                    }
                }
            }
        });
    }
    futures_util::future::join_all(calls).await;
    stop.store(true, std::sync::atomic::Ordering::Relaxed);
    let cuts = cutter.join().unwrap();
    assert!(cuts > operations / 20, "{cuts} connections were cut");
    settle(&site, &[&one, &two]).await;

    let leaves = site.records("g1").await;
    let mut executed: BTreeMap<&str, usize> = BTreeMap::new();
    let decisions: BTreeMap<&str, &str> = leaves
        .iter()
        .filter(|leaf| leaf["kind"] == "decision")
        .map(|leaf| (leaf["record_id"].as_str().unwrap(), leaf["idem"].as_str().unwrap()))
        .collect();
    for leaf in leaves.iter().filter(|leaf| leaf["outcome"] == "executed") {
        *executed.entry(decisions[leaf["parent"].as_str().unwrap()]).or_default() += 1;
    }
    assert_eq!(executed.len(), operations / 8 * 8, "every key was executed");
    assert!(executed.values().all(|times| *times == 1), "and none of them twice");
}

/// Waits until every call has its outcome, and checks the log.
async fn settle(site: &Site, stores: &[&Store]) {
    for _ in 0..200 {
        for store in stores {
            // A record of its own makes the writer settle what it owes.
            let _ = store.append(note(site, 0)).await;
        }
        if site.sql("SELECT count(*) FROM countersign.open_call WHERE state = 'open'") == "0" {
            break;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert_eq!(site.sql("SELECT count(*) FROM countersign.open_call WHERE state = 'open'"), "0");
    for store in stores {
        while store.publish_now().await.is_err() {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        store.publish_now().await.unwrap();
        site.verified(store);
    }
}

/// A failover that loses what was acknowledged, or a restored backup, under a running gateway.
#[tokio::test(flavor = "multi_thread")]
async fn a_database_that_goes_back_behind_what_was_published_permits_no_call() {
    let site = Site::new();
    let store = site.gateway("g1").await;
    store.append(note(&site, 1)).await.unwrap();
    store.publish_now().await.unwrap();
    site.sql("CREATE TABLE public.earlier AS SELECT * FROM countersign.frontier");
    store.append(note(&site, 2)).await.unwrap();
    store.publish_now().await.unwrap();
    drop(recorded(store.commit_intent(site.world.intent()).await.unwrap()));
    store.publish_now().await.unwrap();
    site.sql(
        "UPDATE countersign.frontier f SET size = e.size, edge = e.edge, root = e.root
           FROM public.earlier e",
    );
    while let Ok(size) = store.publish_now().await {
        assert_eq!(size, 3, "until the lease is renewed");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    let refused = store.commit_intent(site.world.intent()).await;
    assert!(matches!(refused, Err(StoreError::Unavailable { .. })), "{refused:?}");
}

/// Somebody cancels a commit that waits for its standby: it is visible, and lost with the server.
#[tokio::test(flavor = "multi_thread")]
async fn a_commit_whose_wait_for_a_standby_is_cancelled_is_refused() {
    static ALONE: LazyLock<Postgres> = LazyLock::new(|| Postgres::start().unwrap());
    let site = Site::on(&ALONE);
    let store = site.gateway("g1").await;
    store.append(note(&site, 1)).await.unwrap();
    site.sql("ALTER SYSTEM SET synchronous_standby_names = 'nobody'");
    site.sql("SELECT pg_reload_conf()");
    let waiting = tokio::spawn({
        let (store, intent) = (store.clone(), site.world.claiming("k", 1));
        async move { store.commit_intent(intent).await }
    });
    let cancel = "SELECT count(pg_cancel_backend(pid)) FROM pg_stat_activity
                   WHERE datname = current_database() AND wait_event = 'SyncRep'";
    await_that(|| site.sql(cancel) != "0").await;
    let refused = waiting.await.unwrap();
    assert!(matches!(refused, Err(StoreError::Unavailable { .. })), "{refused:?}");
    site.sql("ALTER SYSTEM RESET synchronous_standby_names");
    site.sql("SELECT pg_reload_conf()");
    settle(&site, &[&store]).await;
    let leaves = site.records("g1").await;
    let outcome = leaves.iter().find(|leaf| leaf["kind"] == "outcome").unwrap();
    assert_eq!(outcome["outcome"], "not_forwarded");
    let again = recorded(store.commit_intent(site.world.claiming("k", 1)).await.unwrap());
    assert_ne!(again.evaluation_id().to_string(), outcome["parent"].as_str().unwrap());
}

#[tokio::test(flavor = "multi_thread")]
async fn r_063_no_running_role_changes_the_ledger_or_sees_another_tenant() {
    let site = Site::new();
    let store = site.gateway("g1").await;
    store.append(note(&site, 1)).await.unwrap();
    store.publish_now().await.unwrap();
    let roles = [
        "countersign_gateway",
        "countersign_sequencer",
        "countersign_reader",
        "countersign_retention",
    ];
    for table in ["intake", "leaf", "checkpoint"] {
        for change in [
            format!("UPDATE countersign.{table} SET tenant = tenant"),
            format!("DELETE FROM countersign.{table}"),
            format!("TRUNCATE countersign.{table}"),
        ] {
            for role in roles {
                let sql = format!("SET ROLE {role}; SET countersign.tenant = 'acme'; {change}");
                let error = CLUSTER.sql(&site.url, &sql).unwrap_err().to_string();
                assert!(error.contains("permission denied"), "{role}: {change}: {error}");
            }
            let error = CLUSTER.sql(&site.url, &change).unwrap_err().to_string();
            assert!(error.contains("append-only"), "the owner: {change}: {error}");
        }
    }
    for role in roles.into_iter().take(3) {
        let count = |tenant: &str| {
            site.sql(&format!(
                "SET ROLE {role}; SET countersign.tenant = '{tenant}'; SELECT count(*) FROM countersign.intake"
            ))
        };
        assert_eq!(
            (count("acme"), count("other"), count("")),
            ("1".into(), "0".into(), "0".into())
        );
        let forged = format!(
            "SET ROLE {role}; SET countersign.tenant = 'other';
             INSERT INTO countersign.intake VALUES ('acme', 'g1', 9, 1, '', '', '', '')"
        );
        CLUSTER.sql(&site.url, &forged).unwrap_err();
    }
    assert_eq!(site.sql("SELECT count(*) FROM countersign.intake"), "1", "nothing has changed");
}

#[tokio::test(flavor = "multi_thread")]
async fn agents_and_erasures_are_known_to_every_gateway_in_a_moment() {
    let site = Site::new();
    let (one, two) = (site.gateway("g1").await, site.gateway("g2").await);
    let publishers = [&one, &two].map(|store| {
        let store = store.clone();
        tokio::spawn(async move { store.publisher().await })
    });
    let new: NewAgent = serde_json::from_value(serde_json::json!({
        "name": "billing-bot", "purpose": "billing", "owner": "ada@example.com", "environment": "prod",
    }))
    .unwrap();
    let (_, key) = one.agents().add(new, "test").await.unwrap();
    await_that(|| two.authenticate(&key.text).is_ok()).await;
    two.agents().disable("billing-bot", "test").await.unwrap();
    await_that(|| one.authenticate(&key.text).is_err()).await;

    let before = recorded(two.commit_intent(site.world.intent()).await.unwrap()).evaluation_id();
    one.erase("ada@example.com", "T-1", None, "test").await.unwrap();
    let after = recorded(two.commit_intent(site.world.intent()).await.unwrap()).evaluation_id();
    await_that(|| site.sql("SELECT count(*) > 5 FROM countersign.leaf") == "t").await;
    let reader = Reader::of(&site.folder("g2"), &site.config("g2")).await.unwrap();
    let erased = reader.disclosures(before).await.unwrap_err();
    assert!(erased.to_string().contains("erased on"), "{erased}");
    assert_eq!(reader.disclosures(after).await.unwrap().len(), 3, "a new key for new records");
    publishers.iter().for_each(tokio::task::JoinHandle::abort);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_due_in_a_shared_log_is_purged_by_its_leader() {
    let site = Site::new();
    let (one, two) = (site.gateway("g1").await, site.gateway("g2").await);
    let private =
        |who: &str| Draft::new(site.world.id(), Kind::Detection).about(who).sealed("note", "x");
    for n in 0..6 {
        let store = if n % 2 == 0 { &one } else { &two };
        store.append(private("ada@example.com")).await.unwrap();
        store.append(private("bob@example.com")).await.unwrap();
    }
    two.set_hold("bob@example.com", "litigation", "test").await.unwrap();
    one.publish_now().await.unwrap();
    two.publish_now().await.unwrap();
    let refused = two.purge_now().await.unwrap_err();
    assert!(refused.to_string().contains("leads the log"), "{refused}");
    site.world.clock.advance(551 * 86_400_000);
    one.confirm_clock("ada@example.com").await.unwrap();
    site.sql("CREATE TABLE public.kept AS SELECT * FROM countersign.sealed");
    let purged = one.purge_now().await.unwrap();
    assert_eq!((purged.records, purged.sections, purged.held), (6, 6, 7));
    let left = site.sql("SELECT count(*) FROM countersign.sealed");
    assert_eq!(left, "8", "those on hold, and who vouched for the clock");
    let checked =
        async || fsck::check_shared(&site.folder("g1"), &site.config("g1"), &mut |_, _| {}).await;
    one.append(note(&site, 1)).await.unwrap();
    one.publish_now().await.unwrap();
    let report = checked().await.unwrap();
    assert_eq!((report.records_purged, report.purge_jobs.len()), (6, 1));
    assert_eq!(report.gone_unsigned, Some(0));
    let elsewhere = StoreConfig { keys: Some(site.folder("none")), ..site.config("g1") };
    let report = fsck::check_shared(&site.folder("g1"), &elsewhere, &mut |_, _| {}).await.unwrap();
    assert_eq!(report.gone_unsigned, None, "without the keys no signature says anything");

    site.sql("INSERT INTO countersign.sealed SELECT * FROM public.kept ON CONFLICT DO NOTHING");
    let problem = checked().await.unwrap_err();
    assert!(problem.reason.contains("`private` is there, and job"), "{problem}");
    site.sql("DELETE FROM countersign.sealed");
    let problem = checked().await.unwrap_err();
    assert!(problem.reason.contains("no erasure tells of it"), "{problem}");
}

/// Puts a large value back from a copy with one column changed, and with the sum that its row has then.
fn resummed(column: &str, value: &str) -> String {
    let names = ["tenant", "record", "section", "subject", "period", "nonce", "ciphertext", "dek"];
    let values = names.map(|name| if name == column { value } else { name });
    let hashes: Vec<_> = std::iter::zip(names, values)
        .map(|(name, value)| match name {
            "record" | "nonce" | "ciphertext" | "dek" => format!("sha256('b' || {value})"),
            _ => format!("sha256(convert_to('t' || {value}, 'UTF8'))"),
        })
        .collect();
    let pieces: Vec<_> = hashes.iter().map(|hash| format!("substr({hash}, 1, 2)")).collect();
    let (values, hashes, pieces) = (values.join(", "), hashes.join(" || "), pieces.join(" || "));
    format!(
        "INSERT INTO countersign.sealed SELECT {values},
                    substr(sha256('sealed\\000'::bytea || {hashes}), 1, 16) || {pieces}
               FROM public.sealed WHERE section = 'blob/note'"
    )
}

#[tokio::test(flavor = "multi_thread")]
async fn damage_to_what_is_sealed_or_summed_in_a_shared_ledger_is_named() {
    let site = Site::new();
    let (one, two) = (site.gateway("g1").await, site.gateway("g2").await);
    let private = |note: String| {
        Draft::new(site.world.id(), Kind::Detection).about("ada@example.com").sealed("note", note)
    };
    one.append(private("x".repeat(100_000))).await.unwrap();
    two.append(private("y".to_owned())).await.unwrap();
    let call = recorded(one.commit_intent(site.world.claiming("k", 1)).await.unwrap());
    let outcome =
        site.world.outcome(call.evaluation_id(), OutcomeStatus::Executed, Some("\"done\""));
    one.commit_outcome(outcome).await.unwrap();
    one.commit_intent(site.world.claiming("open", 1)).await.unwrap();
    one.publish_now().await.unwrap();
    let checked =
        async || fsck::check_shared(&site.folder("g1"), &site.config("g1"), &mut |_, _| {}).await;
    let report = checked().await.unwrap();
    assert_eq!((report.sections_closed, report.records_purged), (0, 0));
    let sections = site.sql("SELECT count(*) FROM countersign.sealed");
    assert_eq!(report.sections_opened.to_string(), sections);
    assert_eq!(report.rows, report.sections_opened + 6, "{report:?}");

    // With the right sum, the cipher and the leaves tell.
    let gone = "DELETE FROM countersign.sealed WHERE section = 'blob/note'";
    let flipped = "set_byte(ciphertext, 9, get_byte(ciphertext, 9) # 1)";
    let unsummed = |table: &str, set: &str| format!("UPDATE countersign.{table} SET {set}");
    let tables = ["sealed", "subject", "replay", "idempotency", "open_call"];
    for table in tables {
        site.sql(&format!("CREATE TABLE public.{table} AS SELECT * FROM countersign.{table}"));
    }
    for (damage, place, says) in [
        (format!("{gone}; {}", resummed("nonce", "nonce")), ("", ""), ""),
        (gone.to_owned(), ("sealed", "section"), "`blob/note` is missing"),
        (
            format!("{gone}; {}", resummed("ciphertext", flipped)),
            ("sealed", "ciphertext"),
            "the cipher refuses",
        ),
        (
            resummed("record", "decode(repeat('ab', 16), 'hex')"),
            ("sealed", "record"),
            "there is no such record",
        ),
        (unsummed("sealed", &format!("ciphertext = {flipped}")), ("sealed", "ciphertext"), "sum"),
        (unsummed("subject", "slot = slot + 1"), ("subject", "slot"), "sum"),
        (unsummed("replay", "expires_ms = 0"), ("replay", "expires_ms"), "sum"),
        (unsummed("idempotency", "status = 'failed'"), ("idempotency", "status"), "sum"),
        (unsummed("open_call", "state = 'unknown'"), ("open_call", "state"), "sum"),
    ] {
        site.sql(&damage);
        let found = checked().await;
        if says.is_empty() {
            assert_eq!(found.unwrap(), report, "the sums here are those of the store");
        } else {
            let problem = found.unwrap_err();
            assert_eq!((&*problem.object, &*problem.column), place, "{problem}");
            assert!(problem.reason.contains(says), "{problem}");
        }
        for table in tables {
            site.sql(&format!(
                "DELETE FROM countersign.{table};
                 INSERT INTO countersign.{table} SELECT * FROM public.{table}"
            ));
        }
    }
    for store in [one, two] {
        store.shutdown().await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hold_that_another_gateway_sets_while_a_purge_is_under_way_is_heeded() {
    let site = Site::new();
    let (one, two) = (site.gateway("g1").await, site.gateway("g2").await);
    let private = Draft::new(site.world.id(), Kind::Detection).about("ada@example.com");
    one.append(private.sealed("note", "x")).await.unwrap();
    one.publish_now().await.unwrap();
    site.world.clock.advance(551 * 86_400_000);
    one.confirm_clock("ada@example.com").await.unwrap();
    // Whoever sets a hold, and whoever purges, waits for this one, in the order of coming.
    let mut lock = sqlx::PgConnection::connect(&site.url).await.unwrap();
    sqlx::raw_sql("BEGIN; SELECT 1 FROM countersign.registry_version FOR UPDATE")
        .execute(&mut lock)
        .await
        .unwrap();
    let waiting = |n: &str| {
        let sql = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()
                    AND wait_event_type = 'Lock'";
        site.sql(sql) == n
    };
    let hold = tokio::spawn({
        let two = two.clone();
        async move { two.set_hold("ada@example.com", "litigation", "test").await }
    });
    await_that(|| waiting("1")).await;
    let purge = tokio::spawn({
        let one = one.clone();
        async move { one.purge_now().await }
    });
    await_that(|| purge.is_finished() || waiting("2")).await;
    sqlx::raw_sql("COMMIT").execute(&mut lock).await.unwrap();
    hold.await.unwrap().unwrap();
    let purged = purge.await.unwrap().unwrap();
    assert_eq!((purged.records, purged.held), (0, 1), "it looked again");
    assert_eq!(site.sql("SELECT count(*) FROM countersign.sealed"), "3");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_row_that_no_stream_has_tells_of_no_purge() {
    let site = Site::new();
    let store = site.gateway("g1").await;
    let private = Draft::new(site.world.id(), Kind::Detection).about("ada@example.com");
    store.append(private.sealed("note", "x")).await.unwrap();
    store.append(note(&site, 1)).await.unwrap();
    store.publish_now().await.unwrap();
    site.world.clock.advance(600 * 86_400_000);
    let checked =
        async || fsck::check_shared(&site.folder("g1"), &site.config("g1"), &mut |_, _| {}).await;
    checked().await.unwrap();

    let ms = store.config().clock.now_ms();
    let forged = format!(
        r#"{{"cause":"retention","job":"j","kind":"erasure","periods":["../tenant"],"phase":"purged","ranges":[[0,1]],"records":1,"time":{{"ms":{ms},"n":0}}}}"#
    );
    let insert = |replica: &str, epoch: u64| {
        site.sql(&format!(
            "INSERT INTO countersign.intake (tenant, replica, epoch, seq, record, kind, prev, body)
             SELECT tenant, '{replica}', {epoch}, 90, decode(repeat('ab', 16), 'hex'), 'erasure', prev,
                    convert_to('{forged}', 'UTF8')
               FROM countersign.intake WHERE seq = 1 LIMIT 1"
        ))
    };
    insert("nobody", 1);
    let problem = checked().await.unwrap_err();
    assert_eq!((problem.object.as_str(), problem.key.as_str()), ("intake", "nobody/1/90"));
    let reader = Reader::of(&site.folder("g1"), &site.config("g1")).await.unwrap();
    let status = reader.retention(store.config().retention, ms).await.unwrap();
    assert_eq!((status.pending, status.due_records), (None, 1));
    reader.close().await;
    insert("g1", 0);
    let problem = checked().await.unwrap_err();
    assert_eq!(problem.key, "g1/0/90");
    store.confirm_clock("ada@example.com").await.unwrap();
    store.purge_now().await.unwrap();
    assert!(site.world.folder.path().join("keys/tenant.kek").exists());
    store.shutdown().await.unwrap();
}

async fn await_that(mut done: impl FnMut() -> bool) {
    for _ in 0..200 {
        if done() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    panic!("it does not happen");
}

/// Returns how often a trial is made: as often as the environment says, or a few times.
#[expect(clippy::disallowed_methods, reason = "longer runs are asked for from outside")]
fn trials(name: &str, default: usize) -> usize {
    std::env::var(name).map_or(default, |n| n.parse().unwrap())
}

#[tokio::test(flavor = "multi_thread")]
async fn the_key_of_a_shared_log_is_replaced() {
    let site = Site::new();
    let (leader, follower) = (site.gateway("g1").await, site.gateway("g2").await);
    let publish = async || {
        leader.append(note(&site, 1)).await.unwrap();
        follower.append(note(&site, 2)).await.unwrap();
        let size = leader.publish_now().await.unwrap();
        assert_eq!(follower.publish_now().await.unwrap(), size);
    };
    publish().await;
    let keys = site.world.folder.path().join("keys");
    let signer = SignerFolder::of_keystore(&keys, &leader.config().origin);
    let (old, new) = signer.rotate().unwrap();
    publish().await;
    publish().await;
    assert_eq!(signer.finish().unwrap(), new);
    publish().await;
    assert_eq!(follower.log_keys(), [old.clone(), new.clone()], "it learns of the new key");

    // Whoever leads next signs with the new key.
    leader.shutdown().await.unwrap();
    follower.append(note(&site, 3)).await.unwrap();
    follower.publish_now().await.unwrap();
    for (store, key) in [(&leader, &old), (&leader, &new), (&follower, &old), (&follower, &new)] {
        let options = VerifyOptions { keys: vec![key.clone()], ..VerifyOptions::default() };
        let report = verify_log(&PublishedLog::new(store.folder()), &options, &mut |_| {});
        let report = report.unwrap_or_else(|bad| panic!("{key}: {bad}"));
        let found = report.population.iter().find(|one| one.kind == "key");
        assert_eq!(found.map(|one| one.count), Some(1), "recorded once");
    }
    follower.shutdown().await.unwrap();
    let config = site.config("g2");
    let checked = fsck::check_shared(&site.folder("g2"), &config, &mut |_, _| {}).await;
    checked.unwrap_or_else(|bad| panic!("the database: {bad}"));
}

#[tokio::test(flavor = "multi_thread")]
async fn r_035_the_view_has_one_row_per_agent_and_key_and_one_tenant() {
    let site = Site::new();
    let store = site.gateway("g1").await;
    let shown = |columns: &str| {
        site.sql(&format!(
            "SET ROLE countersign_reader; SET countersign.tenant = 'acme';
             SELECT {columns} FROM countersign.exogram_executions ORDER BY evaluation_id"
        ))
    };
    let first = recorded(store.commit_intent(site.world.claiming("k", 1)).await.unwrap());
    let call = first.evaluation_id();
    assert_eq!(shown("status"), "EVALUATED");
    let other = store.commit_intent(site.world.claiming("k", 2)).await.unwrap();
    assert!(matches!(other, Committed::Refused { .. }));
    let done = site.world.outcome(call, OutcomeStatus::Executed, Some("\"done\""));
    store.commit_outcome(done).await.unwrap();
    let again = store.commit_intent(site.world.claiming("k", 1)).await.unwrap();
    assert!(matches!(again, Committed::Replayed(_)));
    assert_eq!(
        shown(
            "evaluation_id, length(idempotency_key), user_id, action_type, status,
             context_snapshot ->> 'decision', executed_at AT TIME ZONE 'UTC', pg_typeof(executed_at)"
        ),
        format!(
            "{call}|43|{}|crm/update|EXECUTED|allow|2026-11-21 00:00:00|timestamp with time zone",
            crate::common::agent()
        )
    );
    let lost = recorded(store.commit_intent(site.world.claiming("l", 1)).await.unwrap());
    let outcome = site.world.outcome(lost.evaluation_id(), OutcomeStatus::NotForwarded, None);
    store.commit_outcome(outcome).await.unwrap();
    site.world.clock.advance(1);
    let open = recorded(store.commit_intent(site.world.claiming("l", 1)).await.unwrap());
    let unsent = recorded(store.commit_intent(site.world.intent()).await.unwrap());
    let outcome = site.world.outcome(unsent.evaluation_id(), OutcomeStatus::NotForwarded, None);
    store.commit_outcome(outcome).await.unwrap();
    let denial = Draft::new(site.world.id(), Kind::Decision).with("decision", "deny");
    store.append(denial).await.unwrap();
    assert_eq!(open.index(), None);
    assert_eq!(shown("status"), "EXECUTED\nEVALUATED\nBLOCKED\nBLOCKED");
    let columns = "SELECT string_agg(attname, ' ' ORDER BY attnum) FROM pg_attribute
                    WHERE attrelid = 'countersign.exogram_executions'::regclass";
    let expected =
        "evaluation_id idempotency_key user_id action_type status context_snapshot executed_at";
    assert_eq!(site.sql(columns), expected);
    // Another tenant sees nothing, the gateway's own role has no view, and nobody writes it.
    let count = "SELECT count(*) FROM countersign.exogram_executions";
    let other = format!("SET ROLE countersign_reader; SET countersign.tenant = 'other'; {count}");
    assert_eq!(site.sql(&other), "0");
    for (role, sql, why) in [
        ("countersign_gateway", count, "permission denied"),
        ("countersign_reader", "DELETE FROM countersign.exogram_executions", "cannot delete"),
        (
            "countersign",
            "UPDATE countersign.exogram_executions SET status = 'BLOCKED'",
            "cannot update",
        ),
    ] {
        let refused = site.cluster.sql(&site.url, &format!("SET ROLE {role}; {sql}")).unwrap_err();
        let refused = refused.to_string();
        assert!(refused.contains(why) || refused.contains("permission denied"), "{refused}");
    }
    store.shutdown().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gateway_keeps_what_others_sign() {
    let site = Site::new();
    let store = site.gateway("g1").await;
    store.append(note(&site, 1)).await.unwrap();
    store.publish_now().await.unwrap();
    let (checkpoint, signed) = store.published_checkpoint().await.unwrap().unwrap();
    let witness = SigningKey::cosigner_from_seed("witness.example/w1", &[1; 32]).unwrap();
    let cosignature = witness.cosign(signed.text(), 77).unwrap();
    for _ in 0..2 {
        store.put_cosignature(checkpoint.size, &cosignature).await.unwrap();
    }
    assert_eq!(site.sql("SELECT count(*) FROM countersign.anchor"), "1");
    let reader = Reader::of(&site.folder("g1"), &site.config("g1")).await.unwrap();
    let newest = reader.cosigned_checkpoint().await.unwrap().unwrap();
    let proof = reader.inclusion_proof(LeafIndex(0)).await.unwrap();
    for note in [newest, TlogProof::parse(&proof).unwrap().checkpoint] {
        assert_eq!(note.signatures().last(), Some(&cosignature), "{note}");
    }
    reader.close().await;
    let epochs = site.sql("SELECT count(DISTINCT epoch) FROM countersign.intake");
    store.append(note(&site, 2)).await.unwrap();
    assert_eq!(site.sql("SELECT count(DISTINCT epoch) FROM countersign.intake"), epochs);
    store.shutdown().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn tables_of_an_earlier_version_are_brought_up_to_date() {
    let site = Site::new();
    let store = site.gateway("g1").await;
    store.append(note(&site, 1)).await.unwrap();
    store.shutdown().await.unwrap();
    site.sql(
        "DROP VIEW countersign.exogram_executions; DROP INDEX countersign.intake_change;
         DROP INDEX countersign.leaf_place;
         REVOKE INSERT, UPDATE ON countersign.anchor FROM countersign_gateway;
         DELETE FROM countersign.schema_version WHERE version > 1",
    );
    let (one, other) = tokio::join!(site.gateway("g1"), site.gateway("g2"));
    assert_eq!(site.sql("SELECT max(version), count(*) FROM countersign.schema_version"), "5|5");
    one.append(note(&site, 2)).await.unwrap();
    one.shutdown().await.unwrap();
    other.shutdown().await.unwrap();
}
