//! An auditor's errand with the real program: build a package, check it elsewhere with two programs, draw
//! a sample and draw it again with Python.
#![cfg(test)]

#[expect(dead_code, reason = "shared with tests that need more of it")]
mod harness {
    pub(crate) mod caller;
    pub(crate) mod project;
    pub(crate) mod settings;
}

use std::io::Write as _;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use countersign_testkit::FakeUpstream;
use harness::caller::Caller;
use harness::project::Project;
use serde_json::Value;

const PROGRAM: &str = env!("CARGO_BIN_EXE_countersign");

/// A period with everything that the program can record today, and one before its time.
const ALL: [&str; 4] = ["--from", "2020-01-01", "--to", "2100-01-01"];
const NEVER: [&str; 4] = ["--from", "2020-01-01", "--to", "2020-02-01"];

fn run(dir: &Path, args: &[&str]) -> Output {
    Command::new(PROGRAM).arg("--dir").arg(dir).args(args).output().unwrap()
}

fn text(output: &Output) -> String {
    let talk = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{talk}{}", String::from_utf8_lossy(&output.stdout));
    String::from_utf8(output.stdout.clone()).unwrap()
}

fn json(output: &Output) -> Value {
    serde_json::from_str(&text(output)).unwrap()
}

/// Runs Python with a program on its standard input.
fn python(program: &str, argument: &Path) -> String {
    let mut child = Command::new("python3")
        .arg("-")
        .arg(argument)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(program.as_bytes()).unwrap();
    text(&child.wait_with_output().unwrap())
}

/// An installation with six calls that were let through, and one that was refused.
async fn history(folder: &Path) -> Project {
    let upstream = FakeUpstream::start().await.unwrap();
    let project = Project::new(folder, &upstream.url()).await;
    let caller = Caller::new(&project.key);
    let gateway = project.serve();
    for number in 0..6 {
        let key = format!("call-{number}");
        assert!(caller.echo(&gateway.url, &key, &key).await.unwrap().is_result());
    }
    let reused = caller.echo(&gateway.url, "another text", "call-0").await.unwrap();
    assert!(!reused.is_result(), "{reused:?}");
    gateway.stop();
    project
}

#[tokio::test]
async fn r_066_r_153_r_160_an_auditor_checks_a_package_and_draws_a_sample_offline() {
    let folder = tempfile::tempdir().unwrap();
    let _project = history(folder.path()).await;
    let project = folder.path();
    // The auditor's machine has the package and the key, and no installation.
    let desk = tempfile::tempdir().unwrap();
    let vkey = text(&run(project, &["log", "vkey"]));
    let vkey = vkey.trim();
    let package = desk.path().join("evidence");
    let out = package.to_str().unwrap();

    let built = [&["evidence", "package", "--out", out, "--json"], &ALL[..]].concat();
    let built = json(&run(project, &built));
    let listed = built["manifest"]["lists"].as_array().unwrap().iter();
    let rows: u64 = listed.map(|list| list["rows"].as_u64().unwrap()).sum();
    let size = &built["manifest"]["checkpoint_end"]["size"];
    assert_eq!(size.as_u64(), Some(rows), "every record is in a list");
    let again = run(project, &[&["evidence", "package", "--out", out], &ALL[..]].concat());
    assert_eq!(again.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&again.stderr).contains("name a folder that does not exist"));

    let verify = ["verify", "--package", out, "--vkey", vkey];
    let verified = json(&run(desk.path(), &[&verify[..], &["--json"]].concat()));
    assert_eq!(verified["ok"], true, "{verified}");
    let kept = project.join("countersign-data/log/checkpoint");
    let kept = ["--pinned", kept.to_str().unwrap()];
    let said = text(&run(desk.path(), &[&verify[..], &kept].concat()));
    assert!(
        said.contains("PASS         pinned checkpoint") && said.contains("NOT-CHECKED"),
        "{said}"
    );
    let second = Command::new("python3")
        .args([&package.join("verify.py"), Path::new("log"), &package.join("log")])
        .args(["--vkey", vkey, "--json"])
        .output();
    let second = json(&second.unwrap());
    let root = &built["manifest"]["checkpoint_end"]["root"];
    assert_eq!((&second["log"]["root"], &second["log"]["size"]), (root, size), "both agree");

    let draw = ["sample", "--n", "4", "--draw", "4711 \"é\\"];
    let drawn = json(&run(project, &[&draw[..], &ALL, &["--json"]].concat()));
    let items = drawn["items"].as_array().unwrap().iter();
    let ids: Vec<&str> = items.map(|item| item["record_id"].as_str().unwrap()).collect();
    assert_eq!(ids.len(), 4);
    let printed = text(&run(desk.path(), &[&draw[..], &["--package", out]].concat()));
    let (before, script) = printed.split_once("import hashlib").unwrap();
    let shown: Vec<&str> = before.lines().skip(2).take(4).collect();
    assert_eq!(shown, ids, "the package gives the same sample as the log");
    assert_eq!(script.lines().count(), 8, "eight lines");
    let script = format!("import hashlib{script}");
    let rows = package.join("records/decisions.jsonl");
    assert_eq!(python(&script, &rows).lines().collect::<Vec<_>>(), ids);
    let queried = text(&run(project, &["records", "query", "--kind", "decision", "--json"]));
    let file = desk.path().join("decisions.jsonl");
    std::fs::write(&file, queried).unwrap();
    assert_eq!(python(&script, &file).lines().collect::<Vec<_>>(), ids);

    let table = package.join("csv/decisions.csv");
    let edited = std::fs::read_to_string(&table).unwrap().replacen("\"allow\"", "\"deny\"", 1);
    std::fs::write(&table, edited).unwrap();
    let refused = run(desk.path(), &verify);
    assert_eq!(refused.status.code(), Some(1));
    let said = String::from_utf8(refused.stdout).unwrap();
    let last = said.lines().last().unwrap();
    assert!(last.starts_with("FAILED: `csv/decisions.csv`, row "), "{last}");
    assert!(last.contains("`deny` instead of `allow`"), "{last}");
}

#[tokio::test]
async fn a_list_is_counted_also_if_nothing_is_on_it() {
    let folder = tempfile::tempdir().unwrap();
    let _project = history(folder.path()).await;
    let project = folder.path();
    let list = |more: &[&str]| {
        run(project, &[&["evidence", "list", "--kind", "decisions"], more].concat())
    };
    let denied = json(&list(&[&ALL[..], &["--decision", "deny", "--json"]].concat()));
    let all = json(&list(&[&ALL[..], &["--json"]].concat()));
    assert_eq!(denied["totals"]["rows"], all["totals"]["by_result"]["deny"]);
    assert!(denied["totals"]["rows"].as_u64() > Some(0));
    let none = json(&list(&[&NEVER[..], &["--json"]].concat()));
    assert_eq!(none["totals"]["rows"], 0);
    assert_eq!(none["period_is_over"], true);
    assert_eq!(none["excluded"]["decision"]["outside_period"], all["totals"]["rows"]);
    let said = text(&list(&NEVER));
    assert!(said.contains("rows                     0\n"), "{said}");
    let nobody = list(&[&ALL[..], &["--agent", "nobody"]].concat());
    assert_eq!(nobody.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&nobody.stderr).contains("no agent `nobody`"));
}
