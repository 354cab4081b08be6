//! A ledger moves from SQLite to PostgreSQL with the real program, and its installation goes on.
#![expect(clippy::unwrap_used, reason = "tests may panic")]

use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};

use countersign_testkit::Postgres;
use serde_json::Value;

const PROGRAM: &str = env!("CARGO_BIN_EXE_countersign");

/// What `quickstart` leaves behind, listening on free ports from now on.
struct Project {
    _folder: tempfile::TempDir,
    root: PathBuf,
}

struct Gateway(Child);

impl Gateway {
    fn stop(mut self) {
        let pid = self.0.id().to_string();
        assert!(Command::new("kill").args(["-TERM", &pid]).status().unwrap().success());
        assert!(self.0.wait().unwrap().success());
    }
}

impl Drop for Gateway {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Project {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        text(&run(folder.path(), &["quickstart", "--exit", "--json"]));
        let root = folder.path().join("countersign-quickstart");
        let config = std::fs::read_to_string(root.join("countersign.toml")).unwrap();
        let lines = config
            .lines()
            .map(|line| if line.starts_with("listen") { "listen = \"127.0.0.1:0\"" } else { line });
        let config: Vec<&str> = lines.collect();
        std::fs::write(root.join("countersign.toml"), config.join("\n")).unwrap();
        Self { _folder: folder, root }
    }

    fn run(&self, args: &[&str]) -> String {
        text(&run(&self.root, args))
    }

    fn refused(&self, args: &[&str]) -> String {
        let output = run(&self.root, args);
        assert_eq!(output.status.code(), Some(1), "{args:?}");
        String::from_utf8(output.stderr).unwrap()
    }

    fn serve(&self) -> Gateway {
        let mut child = Command::new(PROGRAM)
            .arg("--dir")
            .arg(&self.root)
            .args(["serve", "--json"])
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        assert!(line.contains("control_plane"), "{line}");
        Gateway(child)
    }

    fn decision(&self) -> String {
        let query = ["records", "query", "--kind", "decision", "--json"];
        let found = self.run(&query);
        let id = found.split("\"record_id\":\"").nth(1).unwrap();
        id.split('"').next().unwrap().to_owned()
    }
}

fn run(dir: &Path, args: &[&str]) -> Output {
    Command::new(PROGRAM).arg("--dir").arg(dir).args(args).output().unwrap()
}

fn text(output: &Output) -> String {
    let talk = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{talk}{}", String::from_utf8_lossy(&output.stdout));
    String::from_utf8(output.stdout.clone()).unwrap()
}

/// A database whose owner is no superuser: row-level security holds for the owner too.
fn owned_database(cluster: &Postgres) -> String {
    let url = cluster.database().unwrap();
    let name = url.rsplit('/').next().unwrap();
    cluster.sql("postgres", "CREATE ROLE owner LOGIN CREATEROLE").unwrap();
    cluster.sql("postgres", &format!("ALTER DATABASE {name} OWNER TO owner")).unwrap();
    url.replace("countersign@", "owner@")
}

#[test]
fn an_installation_moves_to_postgresql_and_goes_on() {
    let cluster = Postgres::start().unwrap();
    let url = owned_database(&cluster);
    let project = Project::new();
    let call = project.decision();
    project.run(&["tokens", "add", "auditor", "--role", "auditor"]);
    let proof = project.root.join("proof.json");
    project.run(&["show", &call, "--proof", proof.to_str().unwrap()]);
    let pinned = project.root.join("pinned.checkpoint");
    std::fs::write(&pinned, project.run(&["log", "checkpoint"])).unwrap();
    let (vkey, why) = (project.run(&["log", "vkey"]), project.run(&["why", &call]));
    let data = project.root.join("countersign-data");
    let from = format!("sqlite://{}", data.display());
    let migrate = ["migrate", "--from", &from, "--to", &url, "--json"];

    let gateway = project.serve();
    let used = project.refused(&migrate);
    assert!(used.contains("stop it first"), "{used}");
    gateway.stop();
    let elsewhere = project.refused(&["migrate", "--from", "sqlite:///tmp", "--to", &url]);
    assert!(elsewhere.contains("not the data folder of this installation"), "{elsewhere}");
    let fresh = "SELECT to_regclass('countersign.stream') IS NULL";
    assert_eq!(cluster.sql(&url, fresh).unwrap(), "t");

    let moved: Value = serde_json::from_str(&project.run(&migrate)).unwrap();
    let leaves = moved["leaves"].as_u64().unwrap();
    assert_eq!(moved["ok"], true);
    assert_eq!(moved["rows"]["leaf"], leaves);
    assert_eq!(moved["published"].as_u64().unwrap(), leaves + 1);
    let again = project.refused(&migrate);
    assert!(again.contains("is not empty there") && again.contains("set store.url"), "{again}");
    // The old file goes on for nobody, even before store.url is set; it can still be read.
    let old = project.refused(&["serve", "--json"]);
    assert!(old.contains("moved to `postgres://127.0.0.1:") && old.contains("store.url"), "{old}");
    let marker = std::fs::read_to_string(data.join("moved.json")).unwrap();
    assert!(marker.contains(moved["root"].as_str().unwrap()), "{marker}");
    assert!(project.run(&["log", "checkpoint"]).contains(&(leaves + 1).to_string()));

    let config = project.root.join("countersign.toml");
    let text = std::fs::read_to_string(&config).unwrap();
    std::fs::write(&config, format!("{text}\n[store]\nurl = [\"{url}\"]\n")).unwrap();
    // Nothing of it is read any more.
    for file in ["countersign.db", "countersign.db-wal", "countersign.db-shm"] {
        let _ = std::fs::remove_file(data.join(file));
    }
    project.serve().stop();
    // The same words, and a proof in a larger tree.
    let paragraph = |text: &str| text.split_once("\n\n").unwrap().0.to_owned();
    assert_eq!(paragraph(&project.run(&["why", &call])), paragraph(&why));
    let shown = project.run(&["show", moved["record_id"].as_str().unwrap()]);
    assert!(shown.contains("moved") && shown.contains("postgresql"), "{shown}");
    let verified = ["verify", "--json", "--checkpoint", pinned.to_str().unwrap()];
    let verified: Value = serde_json::from_str(&project.run(&verified)).unwrap();
    assert!(verified["database"]["leaves"].as_u64().unwrap() > leaves + 1, "{verified}");
    assert!(project.run(&["tokens", "list"]).contains("auditor"));
    assert_eq!(project.run(&["log", "vkey"]), vkey);
    let args = ["verify", "--record", proof.to_str().unwrap(), "--vkey", vkey.trim()];
    elsewhere_verified(&args);
}

/// Verifies on a desk without the installation.
fn elsewhere_verified(args: &[&str]) {
    text(&run(tempfile::tempdir().unwrap().path(), args));
}
