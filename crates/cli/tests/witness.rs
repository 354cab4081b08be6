//! a witness of someone else's cosigns what extends a log and nothing else; the gateway asks it.

#![cfg(test)]

mod harness {
    pub(crate) mod caller;
    pub(crate) mod project;
    pub(crate) mod settings;
}

mod witnessed {
    mod quorum;
    mod refusal;
}

use std::fmt::Write as _;
use std::io::{BufRead as _, BufReader, Read as _};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use countersign_ledger::note::Note;
use countersign_ledger::tree::{MemoryTree, TreeSize};
use countersign_ledger::witness::{AddCheckpoint, read_answer};
use countersign_ledger::{Checkpoint, Policy, SigningKey, VerifierKey, leaf_hash};
use countersign_store::{Keystore, Reader};
use countersign_testkit::FakeUpstream;
use harness::caller::Caller;
use harness::project::Project;
use harness::settings::setting;
use http_body_util::{BodyExt as _, Full};
use hyper::body::Bytes;
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use serde_json::Value;

const PROGRAM: &str = env!("CARGO_BIN_EXE_countersign");
const ORIGIN: &str = "log.example/acme";
const NAME: &str = "witness.example/w1";
/// How long something that happens by itself may take.
const PATIENCE: Duration = Duration::from_secs(40);

/// A witness that runs; it is killed when it is dropped.
struct Running {
    child: Child,
    state: PathBuf,
    url: String,
    key: VerifierKey,
    http: Client<HttpConnector, Full<Bytes>>,
}

/// What a witness answered.
#[derive(Debug)]
struct Answer {
    status: u16,
    kind: String,
    body: String,
}

fn command(state: &Path, more: &[&str]) -> Command {
    command_at("127.0.0.1:0", state, more)
}

fn command_at(listen: &str, state: &Path, more: &[&str]) -> Command {
    let mut command = Command::new(setting("COUNTERSIGN_TEST_PROGRAM", PROGRAM.to_owned()));
    command.args(["witness", "--listen", listen, "--json", "--state"]).arg(state).args(more);
    command
}

impl Running {
    fn start(state: &Path, log: &VerifierKey) -> Self {
        Self::start_at("127.0.0.1:0", state, log)
    }

    fn start_at(listen: &str, state: &Path, log: &VerifierKey) -> Self {
        let mut command = command_at(listen, state, &["--name", NAME, "--log", &log.to_string()]);
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        if line.is_empty() {
            let mut talk = String::new();
            child.stderr.take().unwrap().read_to_string(&mut talk).unwrap();
            panic!("the witness did not start: {talk}");
        }
        let said: Value = serde_json::from_str(&line).unwrap();
        Self {
            child,
            state: state.to_owned(),
            url: said["url"].as_str().unwrap().to_owned(),
            key: said["vkey"].as_str().unwrap().parse().unwrap(),
            http: Client::builder(TokioExecutor::new()).build_http(),
        }
    }

    /// Asks for a cosignature; an error is a connection that broke.
    async fn post(&self, body: String) -> Result<Answer, String> {
        let request = hyper::Request::post(format!("{}/add-checkpoint", self.url));
        let request = request.body(Full::from(body)).unwrap();
        let response = self.http.request(request).await.map_err(|error| error.to_string())?;
        let (head, body) = response.into_parts();
        let body = body.collect().await.map_err(|error| error.to_string())?.to_bytes();
        let kind = head.headers.get("content-type").map_or("", |kind| kind.to_str().unwrap());
        Ok(Answer {
            status: head.status.as_u16(),
            kind: kind.to_owned(),
            body: String::from_utf8(body.to_vec()).unwrap(),
        })
    }

    async fn add(&self, request: &AddCheckpoint) -> Answer {
        self.post(request.to_string()).await.unwrap()
    }

    /// Asks for a cosignature, which must come and hold.
    async fn cosigns(&self, request: &AddCheckpoint) {
        let answer = self.add(request).await;
        assert_eq!(answer.status, 200, "{answer:?}");
        read_answer(answer.body.as_bytes(), request.checkpoint.text(), &self.key).unwrap();
    }

    fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// The only log's remembered checkpoint.
    fn remembered(&self) -> PathBuf {
        let mut files = files(&self.state.join("logs"));
        files.retain(|path| path.extension().is_some_and(|suffix| suffix == "checkpoint"));
        files.pop().unwrap()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.kill();
    }
}

fn files(folder: &Path) -> Vec<PathBuf> {
    std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect()
}

/// A log in memory, of `size` leaves; from leaf `fork` on it is another one.
struct Log {
    tree: MemoryTree,
    key: SigningKey,
}

impl Log {
    fn new(size: u64, fork: u64) -> Self {
        let leaf = |index| leaf_hash(format!("{index} {}", index >= fork).as_bytes());
        let key = SigningKey::from_seed(ORIGIN, &[1; 32]).unwrap();
        Self { tree: (0..size).map(leaf).collect(), key }
    }

    fn checkpoint(&self, size: u64) -> Note {
        let (size, root) = (TreeSize(size), self.tree.root_at(TreeSize(size)).unwrap());
        Checkpoint { origin: self.key.name().to_owned(), size, root }.sign(&self.key).unwrap()
    }

    fn request(&self, old: u64, new: u64) -> AddCheckpoint {
        let old = TreeSize(old);
        let proof = self.tree.consistency_proof(old, TreeSize(new)).unwrap_or_default();
        AddCheckpoint { old, proof, checkpoint: self.checkpoint(new) }
    }
}

#[tokio::test]
async fn r_065_a_witness_cosigns_only_what_extends_the_log() {
    let folder = tempfile::tempdir().unwrap();
    let (log, fork) = (Log::new(20, u64::MAX), Log::new(20, 3));
    let witness = Running::start(&folder.path().join("w"), &log.key.verifier_key());
    witness.cosigns(&log.request(0, 5)).await;
    witness.cosigns(&log.request(5, 9)).await;
    witness.cosigns(&log.request(9, 9)).await;

    let state = std::fs::read(witness.remembered()).unwrap();
    let keys = [log.key.verifier_key(), witness.key.clone()];
    let (point, verified) = Checkpoint::open_verified(&state, &keys).unwrap();
    assert_eq!((point.size, verified.signers().len()), (TreeSize(9), 2));

    let mut unproven = log.request(9, 12);
    unproven.proof.pop();
    let mut stranger = Log::new(20, u64::MAX);
    stranger.key = SigningKey::from_seed(ORIGIN, &[2; 32]).unwrap();
    let mut unknown = Log::new(20, u64::MAX);
    unknown.key = SigningKey::from_seed("log.example/other", &[1; 32]).unwrap();
    for (why, request, status) in [
        ("rolled back", log.request(5, 7), 409),
        ("another old size", log.request(10, 12), 409),
        ("old above new", AddCheckpoint { old: TreeSize(9), ..log.request(0, 7) }, 400),
        ("unproven", unproven, 422),
        ("forked", fork.request(9, 12), 422),
        ("forked at the same size", fork.request(9, 9), 422),
        ("another key", stranger.request(9, 12), 403),
        ("another log", unknown.request(0, 12), 404),
    ] {
        let answer = witness.add(&request).await;
        assert_eq!(answer.status, status, "{why}: {answer:?}");
        if status == 409 {
            assert_eq!((&*answer.kind, &*answer.body), ("text/x.tlog.size", "9\n"), "{why}");
        }
        assert_eq!(std::fs::read(witness.remembered()).unwrap(), state, "{why}");
    }
    assert_eq!(witness.post("old nine\n".to_owned()).await.unwrap().status, 400);

    // The log's own words against it are kept, and hold for whoever has its key.
    let kept = std::fs::read(witness.remembered().with_extension("fork")).unwrap();
    let other = Checkpoint::open(&kept, &keys).unwrap();
    assert!(other.size == point.size && other.root != point.root);
    witness.cosigns(&log.request(9, 20)).await;
}

#[tokio::test]
async fn r_065_a_killed_witness_forgets_nothing_that_it_cosigned() {
    let folder = tempfile::tempdir().unwrap();
    let log = Log::new(400, u64::MAX);
    let key = log.key.verifier_key();
    let (mut size, mut answered) = (0, 0);
    for round in 1..=setting("COUNTERSIGN_WITNESS_KILLS", 8_u64) {
        let mut witness = Running::start(&folder.path().join("w"), &key);
        let asked = witness.add(&log.request(0, 400)).await;
        if size > 0 {
            assert_eq!((asked.status, asked.body), (409, format!("{size}\n")), "round {round}");
        } else {
            assert_eq!(asked.status, 200);
            size = 400;
        }
        // The log grows while the witness is killed, at another moment each time.
        let grown = Log::new(400 + 10 * round, u64::MAX);
        let (http, url) = (witness.http.clone(), format!("{}/add-checkpoint", witness.url));
        let body = grown.request(size, 400 + 10 * round).to_string();
        let asking = tokio::spawn(async move {
            let request = hyper::Request::post(url).body(Full::<Bytes>::from(body)).unwrap();
            http.request(request).await.is_ok_and(|response| response.status() == 200)
        });
        tokio::time::sleep(Duration::from_millis(2 * round)).await;
        witness.kill();
        let cosigned = asking.await.unwrap();
        answered += u64::from(cosigned);
        drop(witness);

        let witness = Running::start(&folder.path().join("w"), &key);
        let asked = witness.add(&log.request(0, 400)).await;
        assert_eq!(asked.status, 409);
        let known: u64 = asked.body.trim_end().parse().unwrap();
        assert!(
            known == 400 + 10 * round || (known == size && !cosigned),
            "round {round}: {known}"
        );
        witness.cosigns(&grown.request(known, 400 + 10 * round)).await;
        size = 400 + 10 * round;
    }
    harness::settings::say(&format!("{answered} requests were answered before the kill"));
}

#[test]
fn a_state_folder_has_one_key_and_one_witness() {
    let folder = tempfile::tempdir().unwrap();
    let state = folder.path().join("w");
    let log = Log::new(1, u64::MAX).key.verifier_key().to_string();
    let refused = |more: &[&str]| {
        let output = command(&state, more).output().unwrap();
        assert!(!output.status.success(), "{more:?}");
        String::from_utf8(output.stderr).unwrap()
    };
    let nameless = refused(&["--log", &log]);
    assert!(nameless.contains("--name"), "{nameless}");
    let mut running = Running::start(&state, &log.parse().unwrap());
    let second = refused(&["--log", &log]);
    assert!(second.contains("another witness runs"), "{second}");
    let mut vkey = Command::new(PROGRAM);
    let vkey = vkey.args(["witness", "vkey", "--state"]).arg(&state).output().unwrap();
    assert_eq!(String::from_utf8(vkey.stdout).unwrap().trim(), running.key.to_string());
    let mode = std::fs::metadata(state.join("key")).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);

    let pid = running.child.id().to_string();
    assert!(Command::new("kill").args(["-TERM", &pid]).status().unwrap().success());
    assert!(running.child.wait().unwrap().success());
    let renamed = refused(&["--log", &log, "--name", "witness.example/other"]);
    assert!(renamed.contains("not of `witness.example/other`"), "{renamed}");
    let no_log_key = refused(&["--log", &String::from_utf8_lossy(&vkey_of(&state))]);
    assert!(no_log_key.contains("no Ed25519 key"), "{no_log_key}");
    std::fs::write(state.join("logs/log.example%2facme.checkpoint"), "damaged").unwrap();
    let damaged = refused(&["--log", &log]);
    assert!(damaged.contains("damaged, or of another witness"), "{damaged}");
}

fn vkey_of(state: &Path) -> Vec<u8> {
    let mut command = Command::new(PROGRAM);
    let mut vkey = command.args(["witness", "vkey", "--state"]).arg(state).output().unwrap().stdout;
    vkey.pop();
    vkey
}

/// Waits until a witness has cosigned more than `size` records, as the gateway's store says.
async fn anchored_above(project: &Project, size: u64) -> Note {
    let started = Instant::now();
    let reader = Reader::open(&project.data(), None).await.unwrap();
    loop {
        if let Some(note) = reader.cosigned_checkpoint().await.unwrap()
            && Checkpoint::parse(note.text()).unwrap().size.0 > size
        {
            reader.close().await;
            return note;
        }
        assert!(started.elapsed() < PATIENCE, "nothing above {size} was anchored");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn r_065_a_gateways_log_is_cosigned_and_its_own_key_cannot_rewrite_it() {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path().join("project");
    std::fs::create_dir(&root).unwrap();
    let upstream = FakeUpstream::start().await.unwrap();
    let project = Project::new(&root, &upstream.url()).await;
    let key = Keystore::open(&project.data().join("keys")).unwrap();
    let key = key.log_key("localhost/default").unwrap();
    let witness = Running::start(&folder.path().join("w"), &key.verifier_key());
    // A second witness is named with a key that is not its own: its cosignature is not taken.
    let liar = Running::start(&folder.path().join("liar"), &key.verifier_key());
    let other = SigningKey::cosigner_from_seed("witness.example/liar", &[9; 32]).unwrap();
    let policy = format!(
        "witness honest {} {}\nwitness liar {} {}/\nquorum honest\n",
        witness.key,
        witness.url,
        other.verifier_key(),
        liar.url,
    );
    std::fs::write(root.join("witnesses.policy"), &policy).unwrap();
    let mut config = std::fs::read_to_string(root.join("countersign.toml")).unwrap();
    config.write_str("\n[anchors]\npolicy = \"witnesses.policy\"\ninterval = \"1s\"\n").unwrap();
    std::fs::write(root.join("countersign.toml"), config).unwrap();

    let caller = Caller::new(&project.key);
    let (mut size, mut last) = (0, None);
    // The second gateway does not know what the witness cosigned for the first: it is told by a 409.
    for run in 0..2 {
        let gateway = project.serve();
        for call in 0..3 {
            let key = format!("{run} {call}");
            let answer = caller.echo(&gateway.url, &key, &key).await.unwrap();
            assert!(answer.is_result() && !answer.replayed, "{answer:?}");
            let note = anchored_above(&project, size).await;
            let policy = Policy::parse(&policy).unwrap();
            let logs = [key_of(&project)];
            let satisfied = policy.satisfied_with(&note.to_bytes(), &logs).unwrap();
            assert!(satisfied.cosigned.contains_key("honest"));
            assert_eq!(satisfied.cosigned.len(), 1, "{note}");
            size = satisfied.checkpoint.size.0;
            last = Some(satisfied.checkpoint);
        }
        gateway.stop();
    }
    let remembered = witness.remembered();
    let verified = project.command(&["verify", "--checkpoint"]).arg(&remembered).output().unwrap();
    assert!(verified.status.success(), "{}", String::from_utf8_lossy(&verified.stderr));

    // Whoever has the log's key signs another history.
    let state = std::fs::read(&remembered).unwrap();
    let known = witness_size(&state);
    assert!(known >= last.unwrap().size.0);
    for (why, size, old, status) in
        [("rewritten", known, known, 422), ("extended", known + 9, known, 422), ("cut", 2, 2, 409)]
    {
        let (origin, root) = (key.name().to_owned(), leaf_hash(b"another history"));
        let forged = Checkpoint { origin, size: TreeSize(size), root }.sign(&key).unwrap();
        let request = AddCheckpoint { old: TreeSize(old), proof: vec![], checkpoint: forged };
        assert_eq!(witness.add(&request).await.status, status, "{why}");
        assert_eq!(std::fs::read(&remembered).unwrap(), state, "{why}");
    }
}

fn key_of(project: &Project) -> VerifierKey {
    let output = project.command(&["log", "vkey"]).output().unwrap();
    String::from_utf8(output.stdout).unwrap().trim().parse().unwrap()
}

fn witness_size(note: &[u8]) -> u64 {
    Checkpoint::parse(Note::parse(note).unwrap().text()).unwrap().size.0
}
