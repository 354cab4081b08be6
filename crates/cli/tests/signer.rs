//! The signer as a process of its own, and the replacement of its key, with the real program.
#![cfg(test)]

mod harness {
    #[expect(dead_code, reason = "some of it is for longer tests")]
    pub(crate) mod caller;
    pub(crate) mod project;
    #[expect(dead_code, reason = "some of it is for longer tests")]
    pub(crate) mod settings;
}

use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use countersign_ledger::{Checkpoint, Note};
use countersign_testkit::FakeUpstream;
use harness::caller::Caller;
use harness::project::Project;

const PROGRAM: &str = env!("CARGO_BIN_EXE_countersign");
/// How long anything may take that a process does beside the test.
const PATIENCE: Duration = Duration::from_secs(30);
const PAUSE: Duration = Duration::from_millis(50);

/// A signer's process; dropped, it dies as in a crash.
struct Signer(Child);

impl Signer {
    fn start(folder: &Path, socket: &Path) -> Self {
        let mut child = program(folder, &["signer", "--json", "--socket"])
            .arg(socket)
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        assert!(line.contains("vkey"), "{line}");
        Self(child)
    }
}

impl Drop for Signer {
    fn drop(&mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }
}

fn program(dir: &Path, args: &[&str]) -> Command {
    let mut command = Command::new(PROGRAM);
    command.arg("--dir").arg(dir).args(args);
    command
}

fn run(dir: &Path, args: &[&str]) -> Output {
    program(dir, args).output().unwrap()
}

fn text(dir: &Path, args: &[&str]) -> String {
    let output = run(dir, args);
    let talk = String::from_utf8_lossy(&output.stderr);
    let out = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{args:?}: {talk}{out}");
    out.into_owned()
}

fn refused(dir: &Path, args: &[&str]) -> String {
    let output = run(dir, args);
    assert!(!output.status.success(), "{args:?}");
    String::from_utf8(output.stderr).unwrap()
}

/// How many leaves the published checkpoint has, and how many signatures.
fn published(log: &Path) -> (u64, usize) {
    let Ok(note) = std::fs::read(log.join("checkpoint")) else { return (0, 0) };
    let note = Note::parse(&note).unwrap();
    (Checkpoint::parse(note.text()).unwrap().size.0, note.signatures().len())
}

async fn eventually(what: &str, mut done: impl FnMut() -> bool) {
    let started = Instant::now();
    while !done() {
        assert!(started.elapsed() < PATIENCE, "{what}");
        tokio::time::sleep(PAUSE).await;
    }
}

/// Gives the key of an installation to a signer, as docs/operations/signer.md says.
fn move_key(data: &Path, signer: &Path) {
    std::fs::create_dir(signer).unwrap();
    std::fs::copy(data.join("keys/log.vkeys"), signer.join("log.vkeys")).unwrap();
    for file in ["log.key", "signer-state"] {
        std::fs::rename(data.join("keys").join(file), signer.join(file)).unwrap();
    }
}

fn copy_database(from: &Path, to: &Path) {
    for file in ["countersign.db", "countersign.db-wal", "countersign.db-shm"] {
        let _ = std::fs::remove_file(to.join(file));
        if from.join(file).exists() {
            std::fs::copy(from.join(file), to.join(file)).unwrap();
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_signer_of_its_own_is_killed_and_replaces_its_key_and_the_log_verifies() {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path().join("gateway");
    std::fs::create_dir(&root).unwrap();
    let upstream = FakeUpstream::start().await.unwrap();
    let project = Project::new(&root, &upstream.url()).await;
    let (data, log) = (project.data(), project.data().join("log"));
    let log_path = log.to_str().unwrap().to_owned();
    let old = text(&root, &["log", "vkey"]).trim().to_owned();
    let backup = folder.path().join("backup");
    std::fs::create_dir(&backup).unwrap();
    copy_database(&data, &backup);

    let keys = folder.path().join("signer");
    move_key(&data, &keys);
    let socket = folder.path().join("signer.sock");
    let config = root.join("countersign.toml");
    let lines = std::fs::read_to_string(&config).unwrap();
    let table = format!("\n[signer]\nsocket = {:?}\n", socket.to_str().unwrap());
    std::fs::write(&config, lines + &table).unwrap();
    let signer = Signer::start(&keys, &socket);
    let gateway = project.serve();
    let (caller, mut calls) = (Caller::new(&project.key), 0);
    let mut call = async || {
        calls += 1;
        let text = format!("call {calls}");
        assert!(caller.echo(&gateway.url, &text, &text).await.unwrap().is_result(), "{text}");
    };
    let before = published(&log).0;
    call().await;
    eventually("the call is published", || published(&log).0 > before).await;
    assert!(!data.join("keys/log.key").exists(), "the gateway has no signing key");

    // While the signer is away, calls go on; after a crash it signs what has come since.
    drop(signer);
    let before = published(&log).0;
    call().await;
    assert!(text_of_doctor(&root).contains("start `countersign signer`"));
    assert_eq!(published(&log).0, before, "nothing is published unsigned");
    let signer = Signer::start(&keys, &socket);
    eventually("what came meanwhile is published", || published(&log).0 > before).await;

    // The key is replaced while both run.
    let hint = refused(&root, &["log", "rotate-key"]);
    assert!(hint.contains("countersign signer rotate-key"), "{hint}");
    text(&keys, &["signer", "rotate-key"]);
    let new = text(&keys, &["signer", "vkey"]).trim().to_owned();
    assert_ne!(new, old);
    call().await;
    eventually("both keys sign", || published(&log).1 == 2).await;
    let finish = ["signer", "rotate-key", "--finish"];
    eventually("the replacement is recorded", || run(&keys, &finish).status.success()).await;
    call().await;
    eventually("the new key signs alone", || published(&log).1 == 1).await;
    assert_eq!(text(&root, &["log", "vkey", "--all"]), format!("{old}\n{new}\n"));
    gateway.stop();

    text(&root, &["verify"]);
    let of_old = text(&root, &["verify", "--log", &log_path, "--vkey", &old]);
    assert!(of_old.contains("which took over by leaf"), "{of_old}");
    let of_new = text(&root, &["verify", "--log", &log_path, "--vkey", &new]);
    assert!(of_new.contains("which was replaced by leaf"), "{of_new}");
    text(&root, &["verify", "--log", &log_path, "--vkey", &old, "--vkey", &new]);

    // An old backup of all that the gateway has is refused: the signer remembers.
    copy_database(&backup, &data);
    std::fs::remove_dir_all(&log).unwrap();
    let refusal = refused(&root, &["serve"]);
    assert!(refusal.contains("the signer's memory"), "{refusal}");
    drop(signer);
}

fn text_of_doctor(root: &Path) -> String {
    String::from_utf8(run(root, &["doctor"]).stdout).unwrap()
}

#[test]
fn an_installation_is_made_for_a_signer_that_runs() {
    use std::os::unix::fs::PermissionsExt as _;
    let folder = tempfile::tempdir().unwrap();
    let (keys, socket) = (folder.path().join("signer"), folder.path().join("signer.sock"));
    assert!(refused(&keys, &["signer", "--socket", "/x"]).contains("countersign signer init"));
    let init = ["signer", "init", "--origin", "log.example.com/acme"];
    let vkey = text(&keys, &init);
    assert!(vkey.starts_with("log.example.com/acme+"), "{vkey}");
    assert!(refused(&keys, &init).contains("exists already"));
    let _signer = Signer::start(&keys, &socket);
    let mode = std::fs::metadata(&socket).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode, 0o660);

    let root = folder.path().join("gateway");
    let socket = socket.to_str().unwrap();
    let with = ["--signer", socket, "--origin", "log.example.com/acme"];
    let made = text(&root, &[&["init"], &with[..]].concat());
    assert!(made.contains(vkey.trim()), "{made}");
    assert!(!root.join("countersign-data/keys/log.key").exists());
    assert_eq!(text(&root, &["log", "vkey"]), vkey);
    assert!(text_of_doctor(&root).contains("a process of its own"));

    let other = folder.path().join("other");
    let refusal = refused(&other, &["init", "--signer", socket]);
    assert!(refusal.contains("this is the signer of `log.example.com/acme`"), "{refusal}");
}

#[test]
fn the_key_of_a_gateway_that_signs_itself_is_replaced() {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path().join("gateway");
    text(&root, &["init"]);
    let listen =
        "[data_plane]\nlisten = \"127.0.0.1:0\"\n\n[control_plane]\nlisten = \"127.0.0.1:0\"\n";
    std::fs::write(root.join("countersign.toml"), listen).unwrap();
    let old = text(&root, &["log", "vkey"]);
    let begun = text(&root, &["log", "rotate-key"]);
    assert!(begun.contains(old.trim()), "{begun}");
    let new = text(&root, &["log", "vkey"]);
    assert_ne!(new, old);
    let early = refused(&root, &["log", "rotate-key", "--finish"]);
    assert!(early.contains("no signed record of the new key yet"), "{early}");
    // The gateway that starts records it.
    for _ in 0..2 {
        let mut gateway = program(&root, &["serve", "--json", "--idle-exit", "1"])
            .env("COUNTERSIGN_LOG", "error")
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        assert!(gateway.wait().unwrap().success());
    }
    assert!(text(&root, &["log", "rotate-key", "--finish"]).contains(new.trim()));
    assert_eq!(text(&root, &["log", "vkey", "--all"]), format!("{old}{new}"));
    text(&root, &["verify"]);
}
