//! Retention with the real program, on a ledger whose first records are years old.
#![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests may panic")]

use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use countersign_model::{Draft, Kind, RecordId, TenantId};
use countersign_store::{Clock, Store, StoreConfig};
use serde_json::Value;
use uuid::Uuid;

const PROGRAM: &str = env!("CARGO_BIN_EXE_countersign");
const ADA: &str = "ada@example.com";
const BOB: &str = "bob@example.com";
/// 2024-01-15T00:00:00Z.
const THEN_MS: i64 = 1_705_276_800_000;
/// How long something that happens by itself may take.
const PATIENCE: Duration = Duration::from_secs(60);

/// A clock that stands still.
struct Then;

impl Clock for Then {
    fn now_ms(&self) -> i64 {
        THEN_MS
    }
}

struct Project {
    folder: tempfile::TempDir,
    root: PathBuf,
}

struct Gateway(Child);

impl Drop for Gateway {
    fn drop(&mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }
}

impl Project {
    /// An installation with records of two people, made in 2024; returns one of each.
    async fn new(config: &str) -> (Self, [RecordId; 2]) {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path().join("project");
        std::fs::create_dir(&root).unwrap();
        let project = Self { folder, root };
        text(&project.run(&["init"]));
        let listen = "listen = \"127.0.0.1:0\"";
        let planes = format!("[data_plane]\n{listen}\n[control_plane]\n{listen}\n{config}");
        std::fs::write(project.root.join("countersign.toml"), planes).unwrap();
        let data = project.root.join("countersign-data");
        std::fs::remove_dir_all(&data).unwrap();
        let ids = AtomicU64::new(1);
        let ids = move || {
            let n = u128::from(ids.fetch_add(1, Ordering::SeqCst));
            Uuid::from_u128(0x018d_0000_0000_7000_8000_0000_0000_0000 | n)
        };
        let config = StoreConfig::new(TenantId("default".into()), Arc::new(Then), Arc::new(ids));
        Store::create(&data, &config).await.unwrap();
        let store = Store::open(&data, config).await.unwrap();
        let mut made = Vec::new();
        for n in 0..600 {
            let id = RecordId((store.config().ids)());
            let person = if n % 2 == 0 { ADA } else { BOB };
            let draft = Draft::new(id, Kind::Detection).about(person).sealed("note", n.to_string());
            made.push(store.append(draft).await.unwrap().record_id);
        }
        store.shutdown().await.unwrap();
        (project, [made[0], made[1]])
    }

    fn run(&self, args: &[&str]) -> Output {
        Command::new(PROGRAM).arg("--dir").arg(&self.root).args(args).output().unwrap()
    }

    fn json(&self, args: &[&str]) -> Value {
        serde_json::from_str(&text(&self.run(args))).unwrap()
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
}

fn text(output: &Output) -> String {
    let talk = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{talk}{}", String::from_utf8_lossy(&output.stdout));
    String::from_utf8(output.stdout.clone()).unwrap()
}

fn until(mut done: impl FnMut() -> bool) {
    let started = Instant::now();
    while !done() {
        assert!(started.elapsed() < PATIENCE, "it does not happen");
        std::thread::sleep(Duration::from_millis(100));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn r_156_private_fields_go_when_their_time_has_come_and_a_hold_keeps_them() {
    let (project, [ada, bob]) = Project::new("").await;
    text(&project.run(&["hold", "add", "--subject", BOB, "--reason", "litigation 7"]));
    let shown = text(&project.run(&["retention", "show"]));
    for said in ["550 days", "due now           300 records, 300 sections", "held              300"]
    {
        assert!(shown.contains(said), "{shown}");
    }
    let unsaid = project.run(&["retention", "purge"]);
    assert!(!unsaid.status.success(), "it says --yes or --dry-run");
    let dry = text(&project.run(&["retention", "purge", "--dry-run"]));
    assert!(dry.contains("300 records with 300 private sections are due; held=300"), "{dry}");

    // For two years no day of this log was closed.
    let refused = project.run(&["retention", "purge", "--yes"]);
    let said = String::from_utf8(refused.stderr).unwrap();
    assert!(!refused.status.success() && said.contains("went from 2024-01-15 to"), "{said}");
    let purged = project.json(&["retention", "purge", "--yes", "--clock-is-right", "--json"]);
    assert_eq!((&purged["records"], &purged["held"]), (&300.into(), &300.into()));
    let job = purged["job"].as_str().unwrap();
    let shown = text(&project.run(&["show", &ada.to_string()]));
    assert!(shown.contains("purged on ") && shown.contains(job), "{shown}");
    assert!(text(&project.run(&["show", &bob.to_string()])).contains(BOB));
    let verified = project.json(&["verify", "--json"]);
    assert_eq!(verified["database"]["purge_jobs"][job], 300, "{verified}");
    let said = text(&project.run(&["verify"]));
    assert!(said.contains(&format!("300 records under job {job}")), "{said}");
    let again = text(&project.run(&["retention", "purge", "--yes"]));
    assert_eq!(again, "nothing is due; held=300\n");

    std::fs::write(project.root.join("countersign.toml"), "[retention]\nsections_days = 90\n")
        .unwrap();
    let refused = project.run(&["retention", "show"]);
    let said = String::from_utf8(refused.stderr).unwrap();
    assert!(said.contains("retention.sections_days") && said.contains("BELOW_FLOOR"), "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gateway_purges_by_itself_and_its_archive_is_tested() {
    let archive = tempfile::tempdir().unwrap();
    let table = format!(
        "[retention]\nsections_days = 400\n\
         [anchors.object_store]\nurl = \"file://{}\"\ninterval = \"1s\"\n",
        archive.path().display()
    );
    let (project, _) = Project::new(&table).await;
    for person in [ADA, BOB] {
        text(&project.run(&["hold", "add", "--subject", person, "--reason", "not yet"]));
    }
    let gateway = project.serve();
    let early = project.run(&["retention", "purge", "--yes"]);
    let said = String::from_utf8(early.stderr).unwrap();
    assert!(said.contains("--clock-is-right"), "{said}");
    let none = text(&project.run(&["retention", "purge", "--yes", "--clock-is-right"]));
    assert_eq!(none, "nothing is due; held=600\n");
    drop(gateway);
    for person in [ADA, BOB] {
        text(&project.run(&["hold", "lift", "--subject", person]));
    }
    let gateway = project.serve();
    let status = || project.json(&["retention", "show", "--json"]);
    // What was set only now is shorter, and no matter for records from before.
    until(|| status()["jobs"][0]["records"] == 600);
    assert_eq!(status()["settings"][1]["days"], 400);
    assert_eq!(project.json(&["retention", "purge", "--yes", "--json"])["job"], Value::Null);
    until(|| {
        archive.path().join("tile/0/001").exists() && archive.path().join("checkpoint").exists()
    });
    for _ in 0..4 {
        let tested = project.json(&["retention", "restore-test", "--json"]);
        assert_eq!(tested["ok"], true, "{tested}");
        assert!(tested["count"].as_u64().unwrap() <= 256);
    }
    drop(gateway);

    for bundle in files(&archive.path().join("tile/entries")) {
        let mut bytes = std::fs::read(&bundle).unwrap();
        let last = bytes.len() - 1;
        bytes[last] ^= 1;
        std::fs::write(&bundle, bytes).unwrap();
    }
    let failed = project.run(&["retention", "restore-test"]);
    let said = String::from_utf8(failed.stdout.clone()).unwrap();
    assert!(!failed.status.success() && said.contains("is not under its checkpoint"), "{said}");
    let found = text(&project.run(&["records", "query", "--kind", "check", "--json"]));
    let results = |word: &str| found.matches(&format!("\"result\":\"{word}\"")).count();
    assert_eq!((results("pass"), results("fail")), (4, 1), "{found}");
    let left = std::fs::read_dir(project.folder.path().join("project/countersign-data")).unwrap();
    let names = left.map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned());
    assert!(!names.into_iter().any(|name| name.contains("restore-test")), "scratch is gone");
    text(&project.run(&["verify"]));
}

fn files(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() { found.extend(files(&path)) } else { found.push(path) }
    }
    found
}
