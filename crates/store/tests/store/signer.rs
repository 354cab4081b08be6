//! The signer as a process of its own, asked over its socket as any program could.

use std::path::{Path, PathBuf};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use countersign_ledger::verify::{Problem, Report, VerifyOptions, verify_log};
use countersign_ledger::{Checkpoint, Hash, MemoryTree, TreeSize, VerifierKey, leaf_hash, tree};
use countersign_model::{Draft, Kind};
use countersign_store::{
    Keystore, PublishedLog, SignerFolder, Store, StoreConfig, StoreError, fsck, serve_signer,
};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

use crate::common::World;

const ORIGIN: &str = "localhost/acme";

/// A signer that answers.
struct Running {
    socket: PathBuf,
    stop: Option<oneshot::Sender<()>>,
    task: JoinHandle<()>,
}

impl Running {
    fn start(folder: &Path, socket: &Path) -> Self {
        let signer = SignerFolder::open(folder).unwrap();
        let _ = std::fs::remove_file(socket);
        let listener = UnixListener::bind(socket).unwrap();
        let (stop, stopped) = oneshot::channel();
        let task = tokio::spawn(serve_signer(signer, listener, async {
            let _ = stopped.await;
        }));
        Self { socket: socket.to_owned(), stop: Some(stop), task }
    }

    async fn end(mut self) {
        self.stop.take().unwrap().send(()).unwrap();
        self.task.await.unwrap();
    }

    /// Sends one line and gives the answer.
    async fn ask(&self, request: &Value) -> Value {
        self.send(format!("{request}\n").as_bytes()).await
    }

    async fn send(&self, bytes: &[u8]) -> Value {
        let mut stream = UnixStream::connect(&self.socket).await.unwrap();
        // The signer may answer before it has read all.
        let _ = stream.write_all(bytes).await;
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer).await;
        serde_json::from_slice(&answer).unwrap_or(Value::Null)
    }
}

fn tree_of(leaves: &[&str]) -> MemoryTree {
    leaves.iter().map(|leaf| leaf_hash(leaf.as_bytes())).collect()
}

/// Asks for a signature under the tree of `leaves`, with the proof from its first `old` leaves.
fn sign(leaves: &[&str], old: u64, origin: &str) -> Value {
    let tree = tree_of(leaves);
    let size = tree.size();
    let proof = tree::consistency_proof(&tree, TreeSize(old), size).unwrap();
    let proof: Vec<String> = proof.iter().map(Hash::to_base64).collect();
    let root = tree.root_at(size).unwrap().to_base64();
    json!({"do": "sign", "origin": origin, "old": old, "size": size.0, "root": root, "proof": proof})
}

fn code(answer: &Value) -> &str {
    answer["refused"]["code"].as_str().unwrap_or("none")
}

struct Place {
    folder: tempfile::TempDir,
}

impl Place {
    fn new() -> Self {
        let place = Self { folder: tempfile::tempdir().unwrap() };
        SignerFolder::create(&place.keys(), ORIGIN).unwrap();
        place
    }

    fn keys(&self) -> PathBuf {
        self.folder.path().join("signer")
    }

    fn socket(&self) -> PathBuf {
        self.folder.path().join("signer.sock")
    }

    fn start(&self) -> Running {
        Running::start(&self.keys(), &self.socket())
    }

    /// A store whose log this signer signs.
    fn config(&self, world: &World) -> StoreConfig {
        StoreConfig { signer: Some(self.socket()), ..world.config() }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_signer_signs_what_extends_the_last_tree_and_nothing_else() {
    let place = Place::new();
    let signer = place.start();
    let key = SignerFolder::open(&place.keys()).unwrap().vkeys().unwrap();
    let signed = signer.ask(&sign(&["a", "b"], 0, ORIGIN)).await;
    let point = Checkpoint::open(signed["note"].as_str().unwrap().as_bytes(), &key).unwrap();
    assert_eq!(point.size, TreeSize(2));
    let again = signer.ask(&sign(&["a", "b"], 2, ORIGIN)).await;
    assert_eq!(again, signed, "the same tree is signed again");

    let mut without_proof = sign(&["a", "b", "c"], 2, ORIGIN);
    without_proof["proof"] = json!([]);
    let mut rollback = sign(&["a"], 0, ORIGIN);
    rollback["old"] = json!(2);
    let mut forked = sign(&["x", "y", "c"], 2, ORIGIN);
    for (name, request, expected) in [
        ("a fork", forked.clone(), "fork"),
        ("another tree of the same size", sign(&["a", "c"], 2, ORIGIN), "fork"),
        ("no proof", without_proof, "fork"),
        ("a rollback", rollback, "rollback"),
        ("a proof from nothing", sign(&["a", "b", "c"], 0, ORIGIN), "moved"),
        ("a proof from an earlier size", sign(&["a", "b", "c"], 1, ORIGIN), "moved"),
        ("another log", sign(&["a", "b", "c"], 2, "localhost/other"), "origin"),
    ] {
        let answer = signer.ask(&request).await;
        assert_eq!(code(&answer), expected, "{name}: {answer}");
        assert!(answer.get("note").is_none(), "{name}");
    }
    let good = signer.ask(&sign(&["a", "b", "c"], 2, ORIGIN)).await;
    assert!(good["note"].is_string(), "{good}");

    // A restart remembers.
    signer.end().await;
    let signer = place.start();
    let status = signer.ask(&json!({"do": "status", "origin": ORIGIN})).await;
    assert_eq!(status["status"]["size"], 3, "{status}");
    assert_eq!(status["status"]["vkeys"], json!([key[0].to_string()]));
    forked["old"] = json!(3);
    assert_eq!(code(&signer.ask(&forked).await), "fork");
    assert_eq!(code(&signer.ask(&sign(&["x", "y", "z", "c"], 0, ORIGIN)).await), "moved");
    signer.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_request_is_refused() {
    let place = Place::new();
    let signer = place.start();
    let hash = "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=";
    let mut long = sign(&["a"], 0, ORIGIN);
    long["proof"] = json!(vec![hash; 65]);
    let mut root = sign(&["a"], 0, ORIGIN);
    root["root"] = json!("AAAA");
    let mut more = sign(&["a"], 0, ORIGIN);
    more["force"] = json!(true);
    for (name, bytes, expected) in [
        ("no JSON", b"sign it\n".to_vec(), "malformed"),
        ("not UTF-8", b"\xff\xfe\n".to_vec(), "malformed"),
        ("nothing", b"\n".to_vec(), "malformed"),
        ("an unknown question", br#"{"do":"key","origin":"localhost/acme"}"#.to_vec(), "malformed"),
        ("an unknown field", more.to_string().into_bytes(), "malformed"),
        ("a root of three bytes", root.to_string().into_bytes(), "invalid"),
        ("a proof that is too long", long.to_string().into_bytes(), "invalid"),
        ("an oversized line", vec![b'x'; 80 * 1024], "malformed"),
        (
            "a leaf of no rotation",
            json!({"do": "recorded", "origin": ORIGIN, "index": 0, "leaf": "e30=", "proof": []})
                .to_string()
                .into_bytes(),
            "invalid",
        ),
    ] {
        let answer = signer.send(&[&bytes[..], b"\n"].concat()).await;
        assert_eq!(code(&answer), expected, "{name}: {answer}");
    }
    let status = signer.ask(&json!({"do": "status", "origin": ORIGIN})).await;
    assert_eq!(status["status"]["size"], 0, "nothing was signed: {status}");
    signer.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stalled_client_does_not_keep_others_waiting() {
    let place = Place::new();
    let signer = place.start();
    let mut stalled = Vec::new();
    for _ in 0..8 {
        let mut stream = UnixStream::connect(&signer.socket).await.unwrap();
        stream.write_all(b"{\"do\":").await.unwrap();
        stalled.push(stream);
    }
    let request = sign(&["a"], 0, ORIGIN);
    let asked = tokio::time::timeout(Duration::from_secs(2), signer.ask(&request));
    let answer = asked.await.unwrap();
    assert!(answer["note"].is_string(), "{answer}");
    // Those that stall are hung up on.
    for mut stream in stalled {
        let mut rest = Vec::new();
        stream.read_to_end(&mut rest).await.unwrap();
        assert!(rest.is_empty());
    }
    signer.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_signer_without_its_memory_does_not_start() {
    let place = Place::new();
    std::fs::remove_file(place.keys().join("signer-state")).unwrap();
    let refused = SignerFolder::open(&place.keys());
    assert!(matches!(refused, Err(StoreError::Missing(_))), "{refused:?}");
    let refused = SignerFolder::create(&place.keys(), ORIGIN);
    assert!(matches!(refused, Err(StoreError::Exists(_))), "{refused:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn publication_waits_for_a_signer_that_is_away_and_calls_go_on() {
    let (world, place) = (World::new(), Place::new());
    let signer = place.start();
    let config = place.config(&world);
    Store::create(&world.path(), &config).await.unwrap();
    let store = Store::open(&world.path(), config.clone()).await.unwrap();
    assert!(!world.path().join("keys/log.key").exists(), "the gateway has no signing key");
    store.append(Draft::new(world.id(), Kind::Check)).await.unwrap();
    assert_eq!(store.publish_now().await.unwrap(), 1);

    signer.end().await;
    store.append(Draft::new(world.id(), Kind::Check)).await.unwrap();
    let refused = store.publish_now().await;
    assert!(matches!(refused, Err(StoreError::Signer(_))), "{refused:?}");
    store.commit_intent(world.intent()).await.unwrap();
    let signer = place.start();
    assert_eq!(store.publish_now().await.unwrap(), 3);
    let keys = SignerFolder::open(&place.keys()).unwrap().vkeys().unwrap();
    assert_eq!(store.log_keys(), keys);
    store.shutdown().await.unwrap();
    signer.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_database_that_was_rolled_back_is_refused_by_the_signer() {
    let (world, place) = (World::new(), Place::new());
    let signer = place.start();
    let config = place.config(&world);
    Store::create(&world.path(), &config).await.unwrap();
    let store = Store::open(&world.path(), config.clone()).await.unwrap();
    store.append(Draft::new(world.id(), Kind::Check)).await.unwrap();
    store.shutdown().await.unwrap();
    let backup = std::fs::read(world.database()).unwrap();
    let store = Store::open(&world.path(), config.clone()).await.unwrap();
    store.append(Draft::new(world.id(), Kind::Check)).await.unwrap();
    store.shutdown().await.unwrap();

    // Whoever has the gateway's account can take back all that it has, but not the signer's memory.
    std::fs::write(world.database(), &backup).unwrap();
    std::fs::remove_dir_all(world.path().join("log")).unwrap();
    let refused = Store::open(&world.path(), config).await;
    assert!(matches!(refused, Err(StoreError::Behind { there: 2, here: 1, .. })), "{refused:?}");
    signer.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_signer_with_another_key_is_refused() {
    let (world, place) = (World::new(), Place::new());
    let signer = place.start();
    let config = place.config(&world);
    Store::create(&world.path(), &config).await.unwrap();
    Store::open(&world.path(), config.clone()).await.unwrap().shutdown().await.unwrap();
    signer.end().await;
    std::fs::remove_dir_all(place.keys()).unwrap();
    SignerFolder::create(&place.keys(), ORIGIN).unwrap();
    let signer = place.start();
    let config = StoreConfig { commit_deadline: Duration::from_millis(500), ..config };
    let refused = Store::open(&world.path(), config).await;
    assert!(
        matches!(&refused, Err(StoreError::Signer(reason)) if reason.contains("does not know")),
        "{refused:?}"
    );
    signer.end().await;
}

/// Verifies the published log with these keys alone.
fn verify(world: &World, keys: &[VerifierKey]) -> Result<Report, Problem> {
    let options = VerifyOptions { keys: keys.to_vec(), ..VerifyOptions::default() };
    verify_log(&PublishedLog::new(&world.path()), &options, &mut |_| {})
}

async fn verify_with_each(world: &World, keys: &[VerifierKey]) {
    for key in keys {
        verify(world, std::slice::from_ref(key)).unwrap_or_else(|bad| panic!("{key}: {bad}"));
    }
    verify(world, keys).unwrap();
    let checked = fsck::check(&world.path(), None, &mut |_, _| {}).await;
    checked.unwrap_or_else(|bad| panic!("the database: {bad}"));
}

async fn append_and_publish(world: &World, store: &Store) {
    store.append(Draft::new(world.id(), Kind::Check)).await.unwrap();
    store.publish_now().await.unwrap();
}

fn key_leaves(world: &World) -> u64 {
    let report = verify(world, &known_keys(world)).unwrap();
    let found = report.population.iter().find(|one| one.kind == "key");
    found.map_or(0, |one| one.count)
}

/// The keys that a store's own keystore knows.
fn known_keys(world: &World) -> Vec<VerifierKey> {
    Keystore::open(&world.path().join("keys")).unwrap().log_keys(ORIGIN).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_signing_key_is_replaced_and_auditors_with_either_key_go_on() {
    let world = World::new();
    let store = world.create().await;
    append_and_publish(&world, &store).await;
    let signer = SignerFolder::of_keystore(&world.path().join("keys"), ORIGIN);
    let refused = signer.finish().unwrap_err().to_string();
    assert!(refused.contains("not being replaced"), "{refused}");

    let (old, new) = signer.rotate().unwrap();
    assert_eq!(
        signer.rotate().unwrap(),
        (old.clone(), new.clone()),
        "it goes on with what it began"
    );
    let refused = signer.finish().unwrap_err().to_string();
    assert!(refused.contains("no signed record"), "{refused}");
    append_and_publish(&world, &store).await;
    assert!(signer.finish().is_err(), "the leaf is there, and not signed yet");
    store.publish_now().await.unwrap();
    let keys = [old.clone(), new.clone()];
    assert_eq!(store.log_keys(), keys);
    let (_, overlap) = store.published_checkpoint().await.unwrap().unwrap();
    assert_eq!(overlap.signatures().len(), 2, "both sign");
    verify_with_each(&world, &keys).await;

    assert_eq!(signer.finish().unwrap(), new);
    append_and_publish(&world, &store).await;
    let (_, after) = store.published_checkpoint().await.unwrap().unwrap();
    let ids: Vec<_> = after.signatures().iter().map(|one| one.id()).collect();
    assert_eq!(ids, [new.id()], "the new key signs alone");
    assert_eq!(signer.vkeys().unwrap(), keys, "the old public key stays known");
    verify_with_each(&world, &keys).await;
    assert_eq!(key_leaves(&world), 1);
    store.shutdown().await.unwrap();

    // A second replacement, begun while the gateway is stopped.
    let (_, third) = signer.rotate().unwrap();
    let store = world.open().await;
    append_and_publish(&world, &store).await;
    store.publish_now().await.unwrap();
    assert_eq!(signer.finish().unwrap(), third);
    append_and_publish(&world, &store).await;
    store.shutdown().await.unwrap();
    let keys = [old, new, third];
    assert_eq!(signer.vkeys().unwrap(), keys);
    verify_with_each(&world, &keys).await;
    assert_eq!(key_leaves(&world), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replacement_goes_on_after_a_crash_at_any_step() {
    let world = World::new();
    let store = world.create().await;
    append_and_publish(&world, &store).await;
    let folder = world.path().join("keys");
    let signer = SignerFolder::of_keystore(&folder, ORIGIN);
    let known = std::fs::read(folder.join("log.vkeys")).unwrap();
    let (old, new) = signer.rotate().unwrap();
    let keys = [old.clone(), new.clone()];

    // The new key is made, and not in the list of public keys yet.
    std::fs::write(folder.join("log.vkeys"), known).unwrap();
    assert_eq!(signer.rotate().unwrap(), (old.clone(), new.clone()));
    // The gateway stops after it has recorded the replacement, and before that is signed.
    append_and_publish(&world, &store).await;
    drop(store);
    let store = reopened(&world).await;
    store.publish_now().await.unwrap();
    drop(store);
    // It stops again before it has shown the leaf, if it has not yet.
    let store = reopened(&world).await;
    append_and_publish(&world, &store).await;
    assert!(signer.status().unwrap().rotation.unwrap().leaf.is_some());

    // The new key took the old one's place, and the last file is not removed yet.
    let next = std::fs::read(folder.join("log-next.key")).unwrap();
    signer.finish().unwrap();
    std::fs::write(folder.join("log-next.key"), next).unwrap();
    append_and_publish(&world, &store).await;
    assert!(!folder.join("log-next.key").exists());
    assert!(signer.status().unwrap().rotation.is_none());
    assert_eq!(signer.vkeys().unwrap(), keys);
    store.shutdown().await.unwrap();
    verify_with_each(&world, &keys).await;
    assert_eq!(key_leaves(&world), 1, "recorded once");
}

/// Opens a store whose last owner was dropped; its writer may still be at work.
async fn reopened(world: &World) -> Store {
    loop {
        match Store::open(&world.path(), world.config()).await {
            Err(StoreError::Locked(_)) => tokio::task::yield_now().await,
            opened => return opened.unwrap(),
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_signer_of_its_own_replaces_its_key_while_it_runs() {
    let (world, place) = (World::new(), Place::new());
    let running = place.start();
    let config = place.config(&world);
    Store::create(&world.path(), &config).await.unwrap();
    let store = Store::open(&world.path(), config).await.unwrap();
    append_and_publish(&world, &store).await;
    let signer = SignerFolder::open(&place.keys()).unwrap();
    let (old, new) = signer.rotate().unwrap();

    // A leaf that is in no signed tree does not count, whoever shows it.
    let statement = signer.status().unwrap().rotation.unwrap().statement;
    let leaf = json!({
        "v": 1, "kind": "key", "record_id": "r", "tenant": "acme", "rotation": statement,
        "gw": {"replica": "g1", "epoch": 1, "seq": 1, "prev": ""}, "time": {"ms": 1, "n": 0},
    });
    let leaf = countersign_ledger::jcs::canonicalize(&leaf).unwrap();
    let shown = json!({
        "do": "recorded", "origin": ORIGIN, "index": 0, "leaf": STANDARD.encode(leaf), "proof": [],
    });
    assert_eq!(code(&running.ask(&shown).await), "invalid");
    assert!(signer.finish().is_err());

    append_and_publish(&world, &store).await;
    store.publish_now().await.unwrap();
    assert_eq!(signer.finish().unwrap(), new);
    append_and_publish(&world, &store).await;
    store.shutdown().await.unwrap();
    running.end().await;
    let keys = [old, new];
    assert_eq!(known_keys(&world), keys);
    verify_with_each(&world, &keys).await;
}
