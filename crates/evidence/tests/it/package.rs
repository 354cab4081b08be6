//! Packages out of a real log: complete, the same every time, and nothing in them can be altered.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use countersign_evidence::folder::LogFolder;
use countersign_evidence::package::{
    Filters, List, Manifest, Options, PackageError, Request, SampleRequest, Scope, Status, Verdict,
    build, rank, survey, verify,
};
use countersign_evidence::{Record, time};
use countersign_ledger::hash::sha256;
use countersign_ledger::{Checkpoint, LeafIndex, SigningKey, TreeSize};
use countersign_model::{Draft, Kind};
use countersign_store::{Keystore, SignerFolder};
use serde_json::{Value, json};

use crate::world::World;

/// What spreadsheets take for formulas.
const FORMULAS: [&str; 6] = ["=cmd|' /C calc'!A0", "+1", "-1", "@SUM(A1)", "\t=1", "\r=1"];

struct Case {
    world: World,
    folder: tempfile::TempDir,
    records: Vec<Record>,
}

impl Case {
    /// A log with calls of both agents, a credential that was refused, and texts that bite.
    async fn new() -> Self {
        let world = World::new().await;
        world.store.publish_now().await.unwrap();
        for round in 0..12 {
            let amount = [10, 70, 200][round % 3];
            let facts = world.facts(round % 2, "alice", "crm/refund", json!({"amount": amount}));
            world.call(&facts, None).await;
            let facts = world.facts(round % 2, "bob", "crm/query", json!({"text": "x"}));
            world.call(&facts, None).await;
        }
        world.auth("rejected").await;
        for text in FORMULAS {
            let draft = Draft::new(world.id(), Kind::Decision)
                .with("decision", "deny")
                .with("agent_name", text)
                .with("session", text);
            world.store.append(draft).await.unwrap();
        }
        world.store.publish_now().await.unwrap();
        let reader = world.reader().await;
        let records = reader.range(LeafIndex(0), 1_000).await.unwrap();
        reader.close().await;
        let records = records.into_iter().map(Record::from).collect();
        Self { world, folder: tempfile::tempdir().unwrap(), records }
    }

    fn log(&self) -> LogFolder {
        LogFolder::open(&self.world.store.folder().join("log")).unwrap()
    }

    fn key(&self) -> SigningKey {
        let keys = Keystore::open(&self.world.store.folder().join("keys")).unwrap();
        keys.log_key(self.world.key().name()).unwrap()
    }

    fn all(&self) -> Request {
        let day = |text| time::parse(text, time::Edge::Start).unwrap();
        request(day("2026-03-01"), day("2026-04-01"))
    }

    fn build(&self, name: &str, request: &Request) -> (PathBuf, Manifest) {
        let to = self.folder.path().join(name);
        let keys = [self.world.key()];
        let built = build(&self.log(), &keys, Some(&self.key()), request, &to, &mut |_, _| {});
        (to, built.unwrap())
    }

    fn verify(&self, package: &Path) -> Verdict {
        let options = Options { keys: vec![self.world.key()], ..Options::default() };
        verify(package, &options, &mut |_, _| {}).unwrap()
    }

    fn sound(&self, package: &Path) {
        let verdict = self.verify(package);
        assert!(verdict.is_sound(), "{:#?}", verdict.first_bad());
        assert!(verdict.checks.iter().filter(|check| check.status == Status::Pass).count() > 20);
    }

    /// Asserts that a package is refused because of a file, and gives the row and the reason.
    fn refused(&self, package: &Path, object: &str) -> (Option<u64>, String) {
        let verdict = self.verify(package);
        assert!(!verdict.is_sound(), "{object} passes");
        let bad = verdict.first_bad().unwrap();
        assert_eq!(bad.object, object, "{verdict:#?}");
        (bad.row, bad.detail.clone())
    }
}

fn request(from_ms: i64, to_ms: i64) -> Request {
    let scope = Scope { from_ms, to_ms, filters: Filters::default() };
    let sample = SampleRequest { draw: Some("4711".to_owned()), n: 5 };
    Request { scope, sample, generator: "1.2.3".to_owned() }
}

fn filtered(request: &Request, filters: Filters) -> Request {
    let mut request = request.clone();
    request.scope.filters = filters;
    request
}

fn files(root: &Path) -> BTreeMap<String, Vec<u8>> {
    fn walk(root: &Path, folder: &Path, found: &mut BTreeMap<String, Vec<u8>>) {
        for entry in fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()) {
            if entry.is_dir() {
                walk(root, &entry, found);
            } else {
                let name = entry.strip_prefix(root).unwrap().to_str().unwrap().to_owned();
                found.insert(name, fs::read(&entry).unwrap());
            }
        }
    }
    let mut found = BTreeMap::new();
    walk(root, root, &mut found);
    found
}

fn copy(from: &Path, to: &Path) {
    for (path, bytes) in files(from) {
        let to = to.join(path);
        fs::create_dir_all(to.parent().unwrap()).unwrap();
        fs::write(to, bytes).unwrap();
    }
}

/// Makes the manifest fit the files again, as someone without the key would: the signature goes.
fn forge(package: &Path) {
    let path = package.join("manifest.json");
    let mut manifest: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    let listed = files(package).into_iter().filter(|(path, _)| !path.starts_with("manifest"));
    manifest["files"] = listed
        .map(|(path, bytes)| {
            json!({"path": path, "sha256": sha256(&bytes).to_string(), "bytes": bytes.len()})
        })
        .collect();
    let manifest: Manifest = serde_json::from_value(manifest).unwrap();
    fs::write(&path, serde_json::to_string_pretty(&manifest).unwrap() + "\n").unwrap();
    fs::remove_file(package.join("manifest.sig")).unwrap();
}

fn indexes(package: &Path, list: &str) -> Vec<u64> {
    let text = fs::read_to_string(package.join(format!("records/{list}.jsonl"))).unwrap();
    let line = |line: &str| serde_json::from_str::<Value>(line).unwrap()["index"].as_u64().unwrap();
    text.lines().map(line).collect()
}

fn edit(path: &Path, edit: impl FnOnce(String) -> String) {
    let text = fs::read_to_string(path).unwrap();
    let edited = edit(text.clone());
    assert_ne!(text, edited);
    fs::write(path, edited).unwrap();
}

#[tokio::test]
async fn r_153_a_package_holds_everything_of_its_period_and_verifies() {
    let case = Case::new().await;
    let (package, manifest) = case.build("all", &case.all());
    case.sound(&package);
    let listed: u64 = manifest.lists.iter().map(|entry| entry.totals.rows).sum();
    assert_eq!(listed, u64::try_from(case.records.len()).unwrap(), "all records of the log");
    let mut all: Vec<u64> =
        List::ALL.iter().flat_map(|list| indexes(&package, list.name())).collect();
    all.sort_unstable();
    assert_eq!(all, (0..listed).collect::<Vec<_>>());
    for entry in &manifest.lists {
        let table = fs::read_to_string(package.join(format!("csv/{}.csv", entry.list.name())));
        let rows = u64::try_from(table.unwrap().matches("\r\n").count()).unwrap() - 1;
        assert_eq!(rows, entry.totals.rows, "{:?}", entry.list);
        for counts in [&entry.totals.by_day, &entry.totals.by_result, &entry.totals.by_agent] {
            assert_eq!(counts.values().sum::<u64>(), entry.totals.rows);
        }
    }
    assert_eq!(manifest.checkpoint_start, None, "the log begins within the period");
    assert!(!manifest.period_is_over);
    let attestation = fs::read_to_string(package.join("attestation.txt")).unwrap();
    assert!(attestation.contains(&format!("all {listed} records")), "{attestation}");
}

#[tokio::test]
async fn r_153_the_same_checkpoint_gives_the_same_bytes() {
    let case = Case::new().await;
    let (first, manifest) = case.build("first", &case.all());
    let (second, _) = case.build("second", &case.all());
    assert_eq!(files(&first), files(&second));
    // Also when the log has grown since.
    case.world.auth("rejected").await;
    case.world.store.publish_now().await.unwrap();
    let size = TreeSize(manifest.checkpoint_end.size);
    let log = LogFolder::open_at(&case.world.store.folder().join("log"), size).unwrap();
    let third = case.folder.path().join("third");
    build(&log, &[case.world.key()], Some(&case.key()), &case.all(), &third, &mut |_, _| {})
        .unwrap();
    assert_eq!(files(&first), files(&third));
    let (fourth, _) = case.build("fourth", &case.all());
    assert_ne!(files(&first), files(&fourth), "the newest checkpoint is another one");
}

#[tokio::test]
async fn a_period_without_records_is_complete_and_says_so() {
    let case = Case::new().await;
    let day = |text| time::parse(text, time::Edge::Start).unwrap();
    let later = request(day("2030-01-01"), day("2030-02-01"));
    let (package, manifest) = case.build("none", &later);
    case.sound(&package);
    let size = u64::try_from(case.records.len()).unwrap();
    for list in List::ALL {
        assert_eq!(manifest.totals(list).unwrap().rows, 0);
        assert_eq!(fs::read(package.join(format!("records/{}.jsonl", list.name()))).unwrap(), b"");
        let table = fs::read_to_string(package.join(format!("csv/{}.csv", list.name()))).unwrap();
        assert!(table.starts_with("\u{feff}\"leaf_index\","), "{table}");
        assert_eq!(table.matches("\r\n").count(), 1, "the header and nothing else");
        let sheet = fs::read(package.join(format!("ipe/{}.json", list.name()))).unwrap();
        let sheet: Value = serde_json::from_slice(&sheet).unwrap();
        assert_eq!(sheet["row_count"], 0);
    }
    let excluded: u64 = manifest.excluded.values().map(|kind| kind.outside_period).sum();
    assert_eq!(excluded, size, "every record of the log is accounted for");
    assert_eq!(manifest.checkpoint_start.as_ref().unwrap().size, size);
    assert!(package.join("log/tile/entries").is_dir(), "the excluded ones can be seen");
    // The same question without a package.
    let counted = survey(&case.log(), &[case.world.key()], &later, &mut |_, _| {}).unwrap();
    assert_eq!(counted, Manifest { files: Vec::new(), ..manifest });
}

#[tokio::test]
async fn the_period_has_its_first_moment_and_not_its_last() {
    let case = Case::new().await;
    let calls: Vec<&Record> =
        case.records.iter().filter(|record| record.kind() == "decision").collect();
    let (from, to) = (calls[3].time_ms(), calls[9].time_ms());
    let (package, manifest) = case.build("part", &request(from, to));
    case.sound(&package);
    let expected = |kind: &str| -> Vec<u64> {
        let of_kind = case.records.iter().filter(|record| record.kind() == kind);
        let within = of_kind.filter(|record| (from..to).contains(&record.time_ms()));
        within.map(Record::index).collect()
    };
    assert_eq!(indexes(&package, "decisions"), expected("decision"));
    assert_eq!(indexes(&package, "outcomes"), expected("outcome"));
    assert!(indexes(&package, "decisions").contains(&calls[3].index()));
    assert!(!indexes(&package, "decisions").contains(&calls[9].index()));
    assert!(manifest.period_is_over);
    let start = manifest.checkpoint_start.unwrap();
    assert!(start.size > 0 && start.size <= calls[3].index());
    assert!(package.join("checkpoints/start").exists());
}

#[tokio::test]
async fn late_outcomes_are_listed_apart_and_joined() {
    let case = Case::new().await;
    let outcome = case.records.iter().find(|record| record.kind() == "outcome").unwrap();
    let (package, _) = case.build("late", &request(0, outcome.time_ms()));
    case.sound(&package);
    assert_eq!(indexes(&package, "outcomes"), Vec::<u64>::new());
    assert_eq!(indexes(&package, "late_outcomes"), [outcome.index()]);
    let table = fs::read_to_string(package.join("csv/decisions.csv")).unwrap();
    let row = table.lines().find(|row| row.contains(outcome.evaluation_id())).unwrap();
    assert!(row.contains("\"executed\"") && row.contains(outcome.id()), "{row}");
}

#[tokio::test]
async fn filters_ask_for_public_fields_and_outcomes_follow_their_decision() {
    let case = Case::new().await;
    let agent = case.world.agents[0].id.to_string();
    let of_agent = |record: &&Record| record.text("agent") == Some(agent.as_str());
    let some = |text: &str| Some(text.to_owned());
    let filters = [
        Filters { agent: Some(agent.clone()), ..Filters::default() },
        Filters { tool: some("crm/query"), ..Filters::default() },
        Filters { decision: some("allow"), ..Filters::default() },
        Filters { decision: some("hold"), tool: some("crm/refund"), agent: Some(agent.clone()) },
        Filters { tool: some("crm/nothing"), ..Filters::default() },
    ];
    for (n, filters) in filters.into_iter().enumerate() {
        let (package, _) =
            case.build(&format!("filter-{n}"), &filtered(&case.all(), filters.clone()));
        case.sound(&package);
        let matches = |record: &&Record| {
            (filters.agent.is_none() || of_agent(record))
                && filters.tool.as_deref().is_none_or(|tool| record.text("tool") == Some(tool))
                && filters.decision.as_deref().is_none_or(|it| record.text("decision") == Some(it))
        };
        let decisions: Vec<&Record> =
            case.records.iter().filter(|it| it.kind() == "decision").collect();
        let decisions: Vec<&Record> = decisions.into_iter().filter(matches).collect();
        let ids: BTreeSet<&str> = decisions.iter().map(|record| record.id()).collect();
        let indexes_of =
            |records: &[&Record]| records.iter().map(|it| it.index()).collect::<Vec<_>>();
        assert_eq!(indexes(&package, "decisions"), indexes_of(&decisions), "{filters:?}");
        let outcomes: Vec<&Record> = case
            .records
            .iter()
            .filter(|it| ids.contains(it.evaluation_id()) && it.kind() == "outcome")
            .collect();
        assert_eq!(indexes(&package, "outcomes"), indexes_of(&outcomes), "{filters:?}");
    }
}

#[tokio::test]
async fn no_cell_of_any_table_is_a_formula() {
    let case = Case::new().await;
    let (package, _) = case.build("formulas", &case.all());
    let mut prefixed = 0;
    for (path, bytes) in files(&package).into_iter().filter(|(path, _)| path.starts_with("csv/")) {
        let text = String::from_utf8(bytes).unwrap();
        for row in text.strip_prefix('\u{feff}').unwrap().split_terminator("\r\n") {
            assert!(!row.contains(['\r', '\n', '\t']), "{path}: {row}");
            let cells = row.trim_matches('"').split("\",\"");
            for cell in cells {
                assert!(!cell.starts_with(['=', '+', '-', '@', '\t', '\r']), "{path}: {row}");
            }
            prefixed += usize::from(row.ends_with("agent_name session_id\""));
        }
    }
    assert_eq!(prefixed, FORMULAS.len(), "their columns are named");
}

#[tokio::test]
async fn an_omitted_added_or_edited_row_is_named_even_with_a_forged_manifest() {
    let case = Case::new().await;
    let only = Filters { decision: Some("deny".to_owned()), ..Filters::default() };
    let (good, _) = case.build("good", &filtered(&case.all(), only));
    let (all, _) = case.build("everything", &case.all());
    let allowed = fs::read_to_string(all.join("records/decisions.jsonl")).unwrap();
    let allowed = allowed.lines().find(|line| line.contains("\"decision\":\"allow\"")).unwrap();
    let table = fs::read_to_string(good.join("csv/decisions.csv")).unwrap();
    let third = table.split_inclusive("\r\n").nth(3).unwrap();
    let listed = indexes(&good, "decisions");
    type Edit<'a> = Box<dyn Fn(String) -> String + 'a>;
    let cases: [(&str, Edit<'_>, u64, String); 6] = [
        (
            "records/decisions.jsonl",
            Box::new(|text| {
                let kept = text.split_inclusive('\n').enumerate().filter(|(n, _)| *n != 2);
                kept.map(|(_, line)| line).collect()
            }),
            3,
            format!("leaf {} is missing", listed[2]),
        ),
        (
            "records/decisions.jsonl",
            Box::new(|text| format!("{text}{allowed}\n")),
            u64::try_from(listed.len()).unwrap() + 1,
            "does not belong here".to_owned(),
        ),
        (
            "records/decisions.jsonl",
            Box::new(|text| text.replacen("\"decision\":\"deny\"", "\"decision\":\"hold\"", 1)),
            1,
            "not what the log leads to".to_owned(),
        ),
        (
            "csv/decisions.csv",
            Box::new(|text| text.replacen("\"deny\"", "\"hold\"", 1)),
            2,
            "column 8: `hold` instead of `deny`".to_owned(),
        ),
        (
            "csv/decisions.csv",
            Box::new(|text| text.replace(third, "")),
            4,
            format!("leaf {} is missing", listed[2]),
        ),
        (
            "csv/auth.csv",
            Box::new(|text| format!("{text}\"0\",\"x\"\r\n")),
            2,
            "leaf 0 does not belong here".to_owned(),
        ),
    ];
    for (n, (file, change, row, reason)) in cases.into_iter().enumerate() {
        let bad = case.folder.path().join(format!("bad-{n}"));
        copy(&good, &bad);
        edit(&bad.join(file), change);
        let (found, detail) = case.refused(&bad, file);
        assert_eq!(found, Some(row), "{file}: {detail}");
        assert!(detail.contains(&reason), "{file}: {detail}");
        forge(&bad);
        assert_eq!(case.refused(&bad, file), (Some(row), detail));
    }
}

#[tokio::test]
async fn a_flipped_byte_in_any_file_is_named() {
    let case = Case::new().await;
    let outcome = case.records.iter().rfind(|record| record.kind() == "outcome").unwrap();
    let (package, _) =
        case.build("flipped", &request(outcome.time_ms(), i64::from(i32::MAX) * 1_000));
    case.sound(&package);
    for (path, good) in files(&package) {
        let empty = good.is_empty();
        let mut bad = good.clone();
        if empty {
            bad.push(b'x');
        } else {
            bad[good.len() / 2] ^= 1;
        }
        fs::write(package.join(&path), &bad).unwrap();
        let verdict = case.verify(&package);
        let named = verdict.checks.iter().any(|it| it.status == Status::Fail && it.object == path);
        assert!(named, "{path}: {:#?}", verdict.checks);
        fs::write(package.join(&path), &good).unwrap();
    }
    case.sound(&package);
}

#[tokio::test]
async fn files_that_come_and_go_and_edited_totals_are_named() {
    let case = Case::new().await;
    let (good, _) = case.build("whole", &case.all());
    let bad = |name: &str| {
        let bad = case.folder.path().join(name);
        copy(&good, &bad);
        bad
    };
    let more = bad("more");
    fs::write(more.join("csv/extra.csv"), "x").unwrap();
    case.refused(&more, "csv/extra.csv");
    forge(&more);
    assert_eq!(case.refused(&more, "csv/extra.csv").1, "it is no part of a package");
    let less = bad("less");
    fs::remove_file(less.join("csv/gaps.csv")).unwrap();
    case.refused(&less, "csv/gaps.csv");
    forge(&less);
    case.refused(&less, "csv/gaps.csv");
    let totals = bad("totals");
    edit(&totals.join("manifest.json"), |text| text.replacen("\"rows\": ", "\"rows\": 1", 1));
    case.refused(&totals, "manifest.sig");
    fs::remove_file(totals.join("manifest.sig")).unwrap();
    assert!(case.refused(&totals, "manifest.json").0.is_some());
    let period = bad("period");
    edit(&period.join("manifest.json"), |text| text.replacen("2026-03-01", "2026-03-15", 1));
    fs::remove_file(period.join("manifest.sig")).unwrap();
    // The sheets still tell the period that was built.
    assert!(!case.verify(&period).is_sound());
}

#[tokio::test]
async fn a_package_of_another_history_does_not_extend_the_pinned_checkpoint() {
    let case = Case::new().await;
    let (package, manifest) = case.build("pinned", &case.all());
    let keys = vec![case.world.key()];
    let end = Checkpoint::open(&fs::read(package.join("checkpoints/end")).unwrap(), &keys).unwrap();
    let other = Checkpoint { root: sha256(b"another history"), ..end.clone() };
    for (pinned, sound) in [(end, true), (other, false)] {
        let options = Options { keys: keys.clone(), pinned: Some(pinned), ..Options::default() };
        let verdict = verify(&package, &options, &mut |_, _| {}).unwrap();
        assert_eq!(verdict.is_sound(), sound, "{verdict:#?}");
    }
    let stranger = SigningKey::from_seed(&manifest.origin, &[9; 32]).unwrap().verifier_key();
    let options = Options { keys: vec![stranger], ..Options::default() };
    assert!(!verify(&package, &options, &mut |_, _| {}).unwrap().is_sound());
}

#[tokio::test]
async fn r_160_the_sample_is_that_of_the_rule_and_each_item_has_its_proof() {
    let case = Case::new().await;
    let (package, manifest) = case.build("sample", &case.all());
    let decisions = case.records.iter().filter(|record| record.kind() == "decision");
    let mut ranked: Vec<_> = decisions.map(|it| (rank("4711", it.id()), it)).collect();
    ranked.sort_by_key(|(rank, _)| *rank);
    let drawn: Vec<&str> =
        manifest.sample.items.iter().map(|item| item.record_id.as_str()).collect();
    let expected: Vec<&str> = ranked.iter().take(5).map(|(_, record)| record.id()).collect();
    assert_eq!(drawn, expected);
    for (_, record) in ranked.iter().take(5) {
        let proof = package.join(format!("proofs/{}.tlog-proof", record.id()));
        let proof = fs::read_to_string(proof).unwrap();
        countersign_ledger::proof::verify(record.body(), &proof, &[case.world.key()]).unwrap();
    }
}

#[tokio::test]
async fn a_package_that_cannot_be_built_leaves_nothing() {
    let case = Case::new().await;
    let to = case.folder.path().join("taken");
    let attempt = |log: &LogFolder, request: &Request| {
        build(log, &[case.world.key()], None, request, &to, &mut |_, _| {}).unwrap_err()
    };
    let empty = attempt(&case.log(), &request(5, 5));
    assert!(matches!(empty, PackageError::Request(_)), "{empty}");
    let root = case.folder.path().join("damaged");
    copy(&case.world.store.folder().join("log"), &root);
    let bundles = files(&root).into_iter().filter(|(path, _)| path.starts_with("tile/entries/"));
    let (bundle, mut bytes) = bundles.max_by_key(|(_, bytes)| bytes.len()).unwrap();
    let place = bytes.len() - 3;
    bytes[place] ^= 1;
    fs::write(root.join(&bundle), bytes).unwrap();
    attempt(&LogFolder::open(&root).unwrap(), &case.all());
    assert_eq!(fs::read_dir(case.folder.path()).unwrap().count(), 1, "only the damaged log");
    fs::create_dir(&to).unwrap();
    assert!(matches!(attempt(&case.log(), &case.all()), PackageError::Exists(_)));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_package_of_a_log_whose_key_was_replaced_verifies_with_either_key() {
    let case = Case::new().await;
    let keys = case.world.store.folder().join("keys");
    let signer = SignerFolder::of_keystore(&keys, case.world.key().name());
    let (old, new) = signer.rotate().unwrap();
    for _ in 0..2 {
        case.world.auth("rejected").await;
        case.world.store.publish_now().await.unwrap();
    }
    signer.finish().unwrap();
    case.world.auth("rejected").await;
    case.world.store.publish_now().await.unwrap();

    let (package, _) = case.build("rotated", &case.all());
    let (old, new) = (old.to_string(), new.to_string());
    for (given, other) in [(&old, &new), (&new, &old)] {
        let keys = vec![given.parse().unwrap()];
        let options = Options { keys, ..Options::default() };
        let verdict = verify(&package, &options, &mut |_, _| {}).unwrap();
        assert!(verdict.is_sound(), "{given}: {:#?}", verdict.first_bad());
        let of = |object: &str| {
            let check = verdict.checks.iter().find(|check| check.object == object);
            check.map_or("", |check| check.detail.as_str())
        };
        assert!(of("manifest.sig").starts_with("the manifest is signed by"), "{given}");
        // The package has the checkpoint before its period, from before the replacement.
        let (name, rest) = other.split_once('+').unwrap();
        let named = format!("{name}+{}", rest.split_once('+').unwrap().0);
        assert!(of("keys").contains(&named), "{given}: {}", of("keys"));
    }
}
