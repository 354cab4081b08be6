//! Erasing a person and legal holds with the real program: beside a running gateway and without one.
#![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests may panic")]

use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::{Mutex, PoisonError};

use serde_json::Value;

const PROGRAM: &str = env!("CARGO_BIN_EXE_countersign");
/// The owner of the agents of `quickstart`.
const PERSON: &str = "you@example.com";

/// What `quickstart` leaves behind, listening on free ports from now on.
struct Project {
    _folder: tempfile::TempDir,
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
    fn new() -> Self {
        // Two at a time might both find the default ports free.
        static ALONE: Mutex<()> = Mutex::new(());
        let alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
        let folder = tempfile::tempdir().unwrap();
        text(&run(folder.path(), &["quickstart", "--exit", "--json"]));
        drop(alone);
        let root = folder.path().join("countersign-quickstart");
        let config = std::fs::read_to_string(root.join("countersign.toml")).unwrap();
        let lines = config
            .lines()
            .map(|line| if line.starts_with("listen") { "listen = \"127.0.0.1:0\"" } else { line });
        let config: Vec<&str> = lines.collect();
        std::fs::write(root.join("countersign.toml"), config.join("\n")).unwrap();
        Self { _folder: folder, root }
    }

    fn run(&self, args: &[&str]) -> Output {
        run(&self.root, args)
    }

    fn json(&self, args: &[&str]) -> Value {
        serde_json::from_str(&text(&self.run(args))).unwrap()
    }

    /// Runs a command that must fail, and gives what it says.
    fn refused(&self, args: &[&str]) -> String {
        let output = self.run(args);
        assert!(!output.status.success(), "{args:?}");
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

    /// The newest decision about the person.
    fn decision(&self) -> String {
        let query = ["records", "query", "--kind", "decision", "--principal", PERSON, "--json"];
        let found = text(&self.run(&query));
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

/// The same errand, whether a gateway runs or not.
fn hold_and_erase(project: &Project) {
    let of_person = ["--subject", PERSON];
    let erase = ["erase", "--subject", PERSON, "--ticket", "DSR-17"];
    let unknown = project.refused(&["erase", "--subject", "nobody", "--ticket", "DSR-17"]);
    assert!(unknown.contains("no record concerns `nobody`"), "{unknown}");
    let ticket = project.refused(&["erase", "--subject", PERSON, "--ticket", PERSON]);
    assert!(ticket.contains("a ticket has"), "{ticket}");

    text(&project.run(&[&["hold", "add"][..], &of_person, &["--reason", "litigation 7"]].concat()));
    let holds = project.json(&["hold", "list", "--json"]);
    assert_eq!(holds["holds"][0]["person"], PERSON);
    assert_eq!(holds["holds"][0]["reason"], "litigation 7");
    let listed = text(&project.run(&["hold", "list"]));
    assert!(listed.contains(PERSON) && listed.contains("litigation 7"), "{listed}");
    let held = project.refused(&erase);
    assert!(held.contains("under a legal hold"), "{held}");
    text(&project.run(&[&["hold", "lift"][..], &of_person].concat()));
    let none = text(&project.run(&["hold", "list"]));
    assert_eq!(none, "no person is under a legal hold\n");

    let erased = text(&project.run(&erase));
    for said in ["Erased, under ticket DSR-17", "pseudonym", "30 days", "owner of"] {
        assert!(erased.contains(said), "{erased}");
    }
}

/// What the readers say afterwards.
fn says_erased(project: &Project, call: &str) {
    let shown = text(&project.run(&["show", call]));
    assert!(!shown.contains(PERSON), "{shown}");
    // The registry still names the owner of the agent, as `erase` says.
    let why = text(&project.run(&["why", call]));
    assert!(!why.contains(&format!("on behalf of {PERSON}")), "{why}");
    for said in [shown, why] {
        assert!(said.contains("erased on ") && said.contains("ticket `DSR-17`"), "{said}");
    }
    let replayed = project.run(&["replay", call, "--json"]);
    let replayed = String::from_utf8(replayed.stdout).unwrap();
    assert!(replayed.contains("UNAVAILABLE") && replayed.contains("erased on "), "{replayed}");
    let query = ["records", "query", "--principal", PERSON, "--json"];
    assert!(text(&project.run(&query)).contains(call), "found by the pseudonym");
}

#[test]
fn r_066_t15_an_erased_person_is_gone_and_every_proof_holds() {
    let project = Project::new();
    let call = project.decision();
    let (before, after) = (project.root.join("before.json"), project.root.join("after.json"));
    let proof = |path: &Path| {
        text(&project.run(&["show", &call, "--proof", path.to_str().unwrap()]));
        serde_json::from_slice::<Value>(&std::fs::read(path).unwrap()).unwrap()
    };
    assert!(!proof(&before)["disclosures"].as_array().unwrap().is_empty());
    hold_and_erase(&project);
    says_erased(&project, &call);
    assert!(proof(&after)["disclosures"].as_array().unwrap().is_empty());
    let vkey = text(&project.run(&["log", "vkey"]));
    // On a desk without the installation: both the file from before and the new one.
    for file in [&before, &after] {
        let args = ["verify", "--record", file.to_str().unwrap(), "--vkey", vkey.trim()];
        text(&run(tempfile::tempdir().unwrap().path(), &args));
    }
    let verified = project.json(&["verify", "--json"]);
    assert!(verified.to_string().contains("\"records_erased\":"), "{verified}");
    let again = project.json(&["erase", "--subject", PERSON, "--ticket", "DSR-18", "--json"]);
    assert_eq!((&again["records"], &again["keystore_backup_days"]), (&0.into(), &30.into()));
}

#[test]
fn a_person_is_erased_beside_a_running_gateway() {
    let project = Project::new();
    let call = project.decision();
    let gateway = project.serve();
    hold_and_erase(&project);
    says_erased(&project, &call);
    drop(gateway);
    text(&project.run(&["verify"]));
}
