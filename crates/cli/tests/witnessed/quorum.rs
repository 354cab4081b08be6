//! What an auditor does with cosignatures: a policy of his own, and `verify --policy`.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::Output;

use countersign_ledger::policy::Unsatisfied;
use countersign_ledger::{Checkpoint, Note, Policy, SigningKey, TlogProof};
use countersign_store::{Keystore, Reader};
use countersign_testkit::FakeUpstream;
use serde_json::Value;
use tempfile::TempDir;

use crate::harness::caller::Caller;
use crate::harness::project::Project;
use crate::{Running, anchored_above, key_of};

/// An installation whose log one witness has cosigned; it does not run any more.
struct World {
    folder: TempDir,
    project: Project,
    witness: Running,
    /// A decision under a cosigned checkpoint.
    record: String,
}

impl World {
    async fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path().join("project");
        std::fs::create_dir(&root).unwrap();
        let upstream = FakeUpstream::start().await.unwrap();
        let project = Project::new(&root, &upstream.url()).await;
        let key = Keystore::open(&project.data().join("keys")).unwrap();
        let key = key.log_key("localhost/default").unwrap().verifier_key();
        let witness = Running::start(&folder.path().join("w"), &key);
        let policy = format!("witness w1 {} {}\nquorum w1\n", witness.key, witness.url);
        std::fs::write(root.join("witnesses.policy"), policy).unwrap();
        let mut config = std::fs::read_to_string(root.join("countersign.toml")).unwrap();
        config
            .write_str("\n[anchors]\npolicy = \"witnesses.policy\"\ninterval = \"1s\"\n")
            .unwrap();
        std::fs::write(root.join("countersign.toml"), config).unwrap();
        let gateway = project.serve();
        let caller = Caller::new(&project.key);
        let answer = caller.echo(&gateway.url, "one", "one").await.unwrap();
        assert!(answer.is_result(), "{answer:?}");
        let reader = Reader::open(&project.data(), None).await.unwrap();
        let decision = answer.evaluation_id.parse().unwrap();
        let outcome = reader.outcomes(decision).await.unwrap()[0].index;
        reader.close().await;
        let first = witness_size(&anchored_above(&project, 0).await);
        // A second cosigned checkpoint needs records that are newer than the first.
        caller.echo(&gateway.url, "two", "two").await.unwrap();
        anchored_above(&project, first.max(outcome.0)).await;
        gateway.stop();
        Self { folder, project, witness, record: answer.evaluation_id }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Writes an auditor's policy, with the witness and one that never cosigned.
    fn policy(&self, name: &str, quorum: &str) -> PathBuf {
        let away = SigningKey::cosigner_from_seed("witness.example/away", &[9; 32]).unwrap();
        let text = format!(
            "log {}\nwitness mine {}\nwitness away {}\n{quorum}\n",
            key_of(&self.project),
            self.witness.key,
            away.verifier_key()
        );
        let path = self.path(name);
        std::fs::write(&path, text).unwrap();
        path
    }

    fn run(&self, args: &[&str]) -> Output {
        self.project.command(args).output().unwrap()
    }

    /// Runs `verify`, which must end as it should; gives what it says.
    fn verify(&self, args: &[&str], sound: bool) -> String {
        let output = self.run(&[&["verify"], args].concat());
        let said = String::from_utf8(output.stdout).unwrap();
        let talk = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(i32::from(!sound)), "{args:?}: {said}{talk}");
        said
    }

    fn json(&self, args: &[&str]) -> Value {
        serde_json::from_str(&self.verify(&[args, &["--json"]].concat(), true)).unwrap()
    }

    /// The cosigned checkpoints that are published, ascending.
    fn cosigned(&self) -> Vec<u64> {
        let folder = self.project.data().join("log/cosigned");
        let name = |path: PathBuf| path.file_name().unwrap().to_str().unwrap().parse().unwrap();
        let mut sizes: Vec<u64> = crate::files(&folder).into_iter().map(name).collect();
        sizes.sort_unstable();
        sizes
    }
}

fn witness_size(note: &Note) -> u64 {
    Checkpoint::parse(note.text()).unwrap().size.0
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// Checks what JSON says about the one witness.
fn by_the_witness(world: &World, witnessed: &Value) {
    let cosigned = witnessed["cosigned"].as_array().unwrap();
    assert_eq!(cosigned.len(), 1, "{witnessed}");
    assert_eq!(cosigned[0]["witness"], "mine");
    assert_eq!(cosigned[0]["vkey"], world.witness.key.to_string());
    let time = cosigned[0]["time"].as_str().unwrap();
    assert!(time.starts_with("20") && time.ends_with('Z'), "{time}");
}

/// What is said of the policy that asks for both witnesses.
const MISSING: &str = "missing 1 of away (group `all2`); cosigned by mine";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn r_065_an_auditor_sees_that_the_quorum_of_his_policy_cosigned() {
    let world = World::new().await;
    let one = world.policy("one", "group any1 any mine away\nquorum any1");
    let both = world.policy("both", "group all2 all mine away\nquorum all2");
    a_record_is_witnessed(&world, &one, &both);
    a_log_is_witnessed(&world, &one, &both);
    a_key_beside_the_policy_is_the_only_one(&world, &one);
    packages_are_witnessed(&world, &one, &both);
    a_forged_or_withheld_cosignature_is_none(&world, &one);
}

/// With `--vkey` beside it, a policy gives witnesses and quorum only.
fn a_key_beside_the_policy_is_the_only_one(world: &World, one: &Path) {
    let (log, key) = (world.project.data().join("log"), key_of(&world.project).to_string());
    let verify = |policy: &Path, key: &str, sound| {
        let args = ["--log", text(&log), "--policy", text(policy), "--vkey", key];
        world.verify(&args, sound)
    };
    let lines = std::fs::read_to_string(one).unwrap();
    let keyless = world.path("keyless");
    std::fs::write(&keyless, lines.split_once('\n').unwrap().1).unwrap();
    for policy in [one, &keyless] {
        let said = verify(policy, &key, true);
        assert!(said.contains("witnessed "), "{said}");
    }
    let other = SigningKey::from_seed("localhost/default", &[3; 32]).unwrap().verifier_key();
    let said = verify(one, &other.to_string(), false);
    assert!(said.contains("no signature of a known key"), "{said}");
}

fn a_record_is_witnessed(world: &World, one: &Path, both: &Path) {
    let record = world.path("record.json");
    let shown = world.run(&["show", &world.record, "--proof", text(&record)]);
    assert!(shown.status.success(), "{}", String::from_utf8_lossy(&shown.stderr));
    let file: Value = serde_json::from_slice(&std::fs::read(&record).unwrap()).unwrap();
    let proof = TlogProof::parse(file["proof"].as_str().unwrap()).unwrap();
    assert_eq!(proof.checkpoint.signatures().len(), 2, "the log's and the witness's");
    let verified = world.json(&["--record", text(&record), "--policy", text(one)]);
    by_the_witness(world, &verified["record"]["record"]["witnessed"]);
    by_the_witness(world, &verified["record"]["outcomes"][0]["witnessed"]);
    let said = world.verify(&["--record", text(&record), "--policy", text(one)], true);
    assert!(said.contains("  cosigned by            mine at 20"), "{said}");
    let said = world.verify(&["--record", text(&record), "--policy", text(both)], false);
    assert!(said.contains(MISSING) && said.contains(" records: "), "{said}");
    world.verify(&["--record", text(&record), "--vkey", &key_of(&world.project).to_string()], true);
}

/// The stop of the gateway was added to the log after the last cosignature.
fn a_log_is_witnessed(world: &World, one: &Path, both: &Path) {
    let log = world.project.data().join("log");
    let newest = *world.cosigned().last().unwrap();
    let verified = world.json(&["--log", text(&log), "--policy", text(one)]);
    by_the_witness(world, &verified["witnessed"]);
    assert_eq!(verified["witnessed"]["size"], newest);
    let size = verified["log"]["size"].as_u64().unwrap();
    assert!(size > newest);
    assert_eq!(verified["witnessed"]["records_after"], size - newest);
    let said = world.verify(&["--log", text(&log), "--policy", text(both)], false);
    assert!(said.contains(&format!("`cosigned/{newest}`")) && said.contains(MISSING), "{said}");
    world.verify(&["--policy", text(one)], true);
}

/// A package ends at what was cosigned if the period was over by then, and else says so.
fn packages_are_witnessed(world: &World, one: &Path, both: &Path) {
    let newest = *world.cosigned().last().unwrap();
    let package = |name: &str, more: &[&str]| {
        let out = world.path(name);
        let args = ["evidence", "package", "--from", "2020-01-01", "--out", text(&out), "--json"];
        let built = world.run(&[&args, more].concat());
        assert!(built.status.success(), "{}", String::from_utf8_lossy(&built.stderr));
        out
    };
    let (past, at) = (["--to", "2021-01-01"], newest.to_string());
    for (name, more) in [("past", &past[..]), ("at", &["--to", "2100-01-01", "--at", &at])] {
        let folder = package(name, more);
        let over = name == "past";
        let args = ["--package", text(&folder), "--policy", text(one)];
        let said = world.verify(&args, over);
        assert!(said.contains("PASS         log/checkpoint: cosigned by mine"), "{said}");
        assert_ne!(said.contains("FAILED: `period`: it was not over"), over, "{said}");
        let verified = world.verify(&[&args[..], &["--json"]].concat(), over);
        let verified: Value = serde_json::from_str(&verified).unwrap();
        by_the_witness(world, &verified["package"]["witnessed"]);
        assert_eq!(verified["package"]["manifest"]["checkpoint_end"]["size"], newest, "{name}");
        let said = world.verify(&["--package", text(&folder), "--policy", text(both)], false);
        assert!(said.contains("FAILED: `log/checkpoint`") && said.contains(MISSING), "{said}");
        let again = package(&format!("{name}2"), more);
        let read = |folder: &Path| std::fs::read(folder.join("manifest.json")).unwrap();
        assert_eq!(read(&folder), read(&again), "{name}");
    }
    let open = package("open", &["--to", "2100-01-01"]);
    let said = world.verify(&["--package", text(&open), "--policy", text(one)], false);
    assert!(said.contains("cosigned by none"), "{said}");
    let key = key_of(&world.project).to_string();
    let said = world.verify(&["--package", text(&open), "--vkey", &key], true);
    assert!(said.contains("NOT-CHECKED  period: it was not over: records after 20"), "{said}");
    assert!(said.contains("as of                    20"), "{said}");
}

fn a_forged_or_withheld_cosignature_is_none(world: &World, one: &Path) {
    let log = world.project.data().join("log");
    let newest = *world.cosigned().last().unwrap();
    // A cosignature over another checkpoint, or with another time, is none.
    let file = log.join(format!("cosigned/{newest}"));
    let good = std::fs::read_to_string(&file).unwrap();
    let mut later = Note::new(Note::parse(good.as_bytes()).unwrap().text()).unwrap();
    later.add(Note::parse(good.as_bytes()).unwrap().signatures()[0].clone());
    let old = world.cosigned()[0];
    let old = std::fs::read(log.join(format!("cosigned/{old}"))).unwrap();
    later.add(Note::parse(&old).unwrap().signatures()[1].clone());
    std::fs::write(&file, later.to_bytes()).unwrap();
    let policy = Policy::parse(&std::fs::read_to_string(one).unwrap()).unwrap();
    let refused = policy.satisfied(&later.to_bytes()).unwrap_err();
    assert!(matches!(refused, Unsatisfied::Checkpoint(_)), "{refused}");
    let verified = world.json(&["--log", text(&log), "--policy", text(one)]);
    assert!(verified["witnessed"]["size"].as_u64().unwrap() < newest);

    // Whoever has the log's key and cuts it off below what was cosigned is caught by the witness.
    std::fs::write(&file, good).unwrap();
    let first = world.cosigned()[0];
    std::fs::copy(log.join(format!("checkpoints/{first}")), log.join("checkpoint")).unwrap();
    for stored in crate::files(&log.join("checkpoints")) {
        if stored != log.join(format!("checkpoints/{first}")) {
            std::fs::remove_file(stored).unwrap();
        }
    }
    let key = key_of(&world.project).to_string();
    for trust in [["--vkey", &key], ["--policy", text(one)]] {
        let said = world.verify(&[&["--log", text(&log)], &trust[..]].concat(), false);
        assert!(said.contains(&format!("`cosigned/{newest}`: the log has only {first}")), "{said}");
    }
}

#[tokio::test]
async fn a_policy_gives_the_key_or_stands_beside_it() {
    let folder = tempfile::tempdir().unwrap();
    let log = crate::Log::new(3, u64::MAX);
    let record = folder.path().join("r.json");
    std::fs::write(&record, "{}").unwrap();
    let policy = folder.path().join("p");
    let verify = |text: &str| {
        std::fs::write(&policy, text).unwrap();
        let mut command = std::process::Command::new(crate::PROGRAM);
        command.args(["verify", "--record"]).arg(&record).arg("--policy").arg(&policy);
        let output = command.output().unwrap();
        String::from_utf8([output.stdout, output.stderr].concat()).unwrap()
    };
    let said = verify("quorum none\n");
    assert!(said.contains("no `log` line"), "{said}");
    let said = verify("quorum nobody\n");
    assert!(said.contains("line 1: `nobody` is not defined"), "{said}");
    let said = verify(&format!("log {}\nquorum none\n", log.key.verifier_key()));
    assert!(said.contains("FAILED"), "{said}");
}
