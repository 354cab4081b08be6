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

    // A package ends before the record that it was built.
    let kept = desk.path().join("kept.checkpoint");
    std::fs::copy(project.join("countersign-data/log/checkpoint"), &kept).unwrap();
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
    let kept = ["--pinned", kept.to_str().unwrap()];
    let said = text(&run(desk.path(), &[&verify[..], &kept].concat()));
    assert!(
        said.contains("PASS         pinned checkpoint") && said.contains("NOT-CHECKED"),
        "{said}"
    );
    let second = Command::new("python3")
        .args([&package.join("verify_evidence.py"), Path::new("package"), &package])
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

/// The rows of the recorder's coverage in a package, without the header: state, cause, length in ms.
fn coverage(package: &Path) -> Vec<(String, String, i64)> {
    let table = std::fs::read_to_string(package.join("coverage/recorder.csv")).unwrap();
    let row = |line: &str| {
        let cells: Vec<&str> = line.split(',').map(|cell| cell.trim_matches('"')).collect();
        assert_eq!(cells[0], "g1");
        (cells[1].to_owned(), cells[7].to_owned(), cells[6].parse().unwrap())
    };
    table.lines().skip(1).map(row).collect()
}

#[tokio::test]
async fn the_recorders_coverage_tells_a_crash_from_a_stop_and_fills_the_period() {
    let folder = tempfile::tempdir().unwrap();
    let upstream = FakeUpstream::start().await.unwrap();
    let project = Project::new(folder.path(), &upstream.url()).await;
    let caller = Caller::new(&project.key);
    project.serve().stop();
    let mut gateway = project.serve();
    assert!(caller.echo(&gateway.url, "x", "before the crash").await.unwrap().is_result());
    gateway.kill();
    // Long enough to be seen in milliseconds.
    std::thread::sleep(std::time::Duration::from_millis(300));
    let gateway = project.serve();
    assert!(caller.echo(&gateway.url, "y", "after the crash").await.unwrap().is_result());
    gateway.stop();

    let dir = folder.path();
    let report = json(&run(
        dir,
        &["report", "coverage", "--from", "2020-01-01", "--to", "2100-01-01", "--json"],
    ));
    assert_eq!(report["period_is_over"], false, "it ends now");
    let intervals = report["intervals"].as_array().unwrap();
    let told: Vec<_> = intervals
        .iter()
        .map(|it| format!("{} {}", it["state"].as_str().unwrap(), it["cause"].as_str().unwrap()))
        .collect();
    // The first start pins the tools.
    let expected = [
        "down not_started",
        "up started",
        "down stopped",
        "up started",
        "down stopped",
        "up started",
        "gap unclean_stop",
        "up started",
        "down stopped",
    ];
    assert_eq!(told, expected);
    assert_eq!(intervals[0]["from"], "2020-01-01T00:00:00.000Z");
    for pair in intervals.windows(2) {
        assert_eq!(pair[0]["to"], pair[1]["from"]);
    }
    assert_eq!(intervals[8]["to"], report["to"]);
    assert!(intervals[6]["duration_ms"].as_i64() >= Some(300), "{report}");
    let said =
        text(&run(dir, &["report", "coverage", "--from", "2020-01-01", "--to", "2100-01-01"]));
    assert!(said.contains("unclean_stop") && said.contains("g1: up "), "{said}");

    let desk = tempfile::tempdir().unwrap();
    let package = desk.path().join("evidence");
    let out = package.to_str().unwrap();
    text(&run(dir, &[&["evidence", "package", "--out", out], &ALL[..]].concat()));
    let rows = coverage(&package);
    let states: Vec<_> = rows.iter().map(|(state, cause, _)| format!("{state} {cause}")).collect();
    // A package knows nothing after its last record, the stop.
    assert_eq!(states[..8], expected[..8]);
    assert_eq!(states.last().unwrap(), "gap log_ends");
    let sheet = std::fs::read_to_string(package.join("ipe/recorder.json")).unwrap();
    let sheet: Value = serde_json::from_str(&sheet).unwrap();
    let period: i64 = rows.iter().map(|(_, _, ms)| ms).sum();
    assert_eq!(sheet["control_totals"]["period_ms"], period, "the rows add up");

    let vkey = text(&run(dir, &["log", "vkey"]));
    let verify = ["verify", "--package", out, "--vkey", vkey.trim()];
    let said = text(&run(desk.path(), &verify));
    assert!(said.contains("PASS         coverage/recorder.csv: it fills the period"), "{said}");
    let table = package.join("coverage/recorder.csv");
    let edited = std::fs::read_to_string(&table).unwrap().replacen("\"gap\"", "\"down\"", 1);
    std::fs::write(&table, edited).unwrap();
    let refused = run(desk.path(), &verify);
    let said = String::from_utf8(refused.stdout).unwrap();
    let last = said.lines().last().unwrap();
    assert!(last.starts_with("FAILED: `coverage/recorder.csv`, row 8: "), "{last}");
    assert!(last.contains("column 2: `down` instead of `gap`"), "{last}");
}

/// Every file below a folder with its bytes.
fn contents(root: &Path) -> std::collections::BTreeMap<std::path::PathBuf, Vec<u8>> {
    let (mut found, mut folders) = (std::collections::BTreeMap::new(), vec![root.to_owned()]);
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().path()) {
            if entry.is_dir() {
                folders.push(entry);
            } else {
                let name = entry.strip_prefix(root).unwrap().to_owned();
                found.insert(name, std::fs::read(&entry).unwrap());
            }
        }
    }
    found
}

#[tokio::test]
async fn reading_by_the_command_line_is_recorded_before_anything_is_shown() {
    let folder = tempfile::tempdir().unwrap();
    let project = history(folder.path()).await;
    let dir = folder.path();
    let desk = tempfile::tempdir().unwrap();
    let package = |name: &str| desk.path().join(name).to_str().unwrap().to_owned();
    let (first, second) = (package("first"), package("second"));

    // Without a gateway.
    text(&run(dir, &[&["evidence", "package", "--out", &first], &ALL[..]].concat()));
    text(&run(dir, &[&["evidence", "list", "--kind", "decisions"], &ALL[..]].concat()));
    text(&run(dir, &["sample", "--n", "3", "--draw", "7"]));
    text(&run(dir, &["records", "query", "--principal", "dana", "--kind", "decision", "--csv"]));
    // With one.
    let gateway = project.serve();
    let tail = text(&run(dir, &["records", "tail", "-n", "2"]));
    assert_eq!(tail.lines().count(), 2, "its own reading comes after: {tail}");
    text(&run(dir, &["report", "coverage", "--from", "2020-01-01", "--to", "2100-01-01"]));
    let told = run(dir, &["records", "query", "--kind", "access", "--json"]);
    let mut records: Vec<Value> =
        text(&told).lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    records.reverse();
    let commands: Vec<_> = records.iter().map(|it| it["command"].as_str().unwrap()).collect();
    let expected = [
        "evidence-package",
        "evidence-list",
        "sample",
        "records-query",
        "records-tail",
        "report-coverage",
    ];
    assert_eq!(commands, expected, "one each, and not yet the one of this query");
    let counts: Vec<_> = records.iter().map(|it| it["count"].as_u64()).collect();
    assert_eq!(counts, [None, Some(7), Some(3), Some(7), Some(2), None]);
    for record in &records {
        assert_eq!((&record["plane"], &record["role"]), (&"local".into(), &"admin".into()));
        assert_eq!(record["identity"], "claimed");
        assert_eq!(record["principal"], records[0]["principal"], "one account ran all of them");
    }
    let account = Command::new("id").arg("-un").output().unwrap();
    let account = format!("account:{}", text(&account).trim());
    let shown = json(&run(dir, &["show", records[3]["record_id"].as_str().unwrap(), "--json"]));
    let shown = shown.to_string();
    assert!(shown.contains(&account), "{shown}");
    assert!(!shown.contains("dana"), "a person who is asked for is a pseudonym: {shown}");

    // The end of a period is left out, here as in packages; a day that is meant as the last one is no answer.
    let day = ["records", "query", "--from", "2026-03-15", "--to", "2026-03-15"];
    let empty = run(dir, &day);
    assert_eq!(empty.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&empty.stderr).contains("for one day, name the next one"));

    // A gateway that hangs records nothing, so nothing is shown.
    let pid = gateway.child.id().to_string();
    let signal =
        |name: &str| Command::new("kill").args([name, pid.as_str()]).status().unwrap().success();
    assert!(signal("-STOP"));
    let refused = run(dir, &["records", "query", "--kind", "decision"]);
    assert!(signal("-CONT"));
    assert_eq!((refused.status.code(), refused.stdout.as_slice()), (Some(1), &b""[..]));
    let said = String::from_utf8(refused.stderr).unwrap();
    assert!(said.contains("the reading cannot be recorded, so nothing is shown"), "{said}");
    gateway.stop();

    // Who builds on the same checkpoint later gets the same bytes, and that is recorded too.
    let manifest = std::fs::read(Path::new(&first).join("manifest.json")).unwrap();
    let manifest: Value = serde_json::from_slice(&manifest).unwrap();
    let size = manifest["checkpoint_end"]["size"].to_string();
    assert_eq!(records[0]["tree_size"].to_string(), size);
    let again = ["evidence", "package", "--out", &second, "--at", &size];
    text(&run(dir, &[&again[..], &ALL].concat()));
    assert!(contents(Path::new(&first)) == contents(Path::new(&second)));
    text(&run(dir, &["verify"]));
}
