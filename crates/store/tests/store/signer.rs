//! The signer as a process of its own, asked over its socket as any program could.

use std::path::{Path, PathBuf};
use std::time::Duration;

use countersign_ledger::{Checkpoint, Hash, MemoryTree, TreeSize, leaf_hash, tree};
use countersign_model::{Draft, Kind};
use countersign_store::{SignerFolder, Store, StoreConfig, StoreError, serve_signer};
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
