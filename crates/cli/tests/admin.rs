//! The commands of operators: with and without a running gateway.
#![expect(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "tests may panic")]

use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};

use assert_cmd::Command;
use serde_json::Value;

const PROGRAM: &str = env!("CARGO_BIN_EXE_countersign");

/// A project in a temporary folder, listening on free ports.
struct Project {
    folder: tempfile::TempDir,
}

struct Ran {
    code: i32,
    out: String,
    talk: String,
}

impl Ran {
    fn json(&self) -> Value {
        serde_json::from_str(&self.out).unwrap_or_else(|_| panic!("{}\n{}", self.out, self.talk))
    }
}

impl Project {
    fn empty() -> Self {
        Self { folder: tempfile::tempdir().unwrap() }
    }

    fn init() -> Self {
        let project = Self::empty();
        assert_eq!(project.run(&["init"]).code, 0);
        let listen =
            "[data_plane]\nlisten = \"127.0.0.1:0\"\n\n[control_plane]\nlisten = \"127.0.0.1:0\"\n";
        std::fs::write(project.path().join("countersign.toml"), listen).unwrap();
        project
    }

    /// A project with the starter bundle.
    fn starter() -> Self {
        let project = Self::init();
        let from = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../policies/starter");
        std::fs::remove_dir_all(project.policies()).unwrap();
        copy(&from, &project.policies());
        project
    }

    fn path(&self) -> &Path {
        self.folder.path()
    }

    fn policies(&self) -> PathBuf {
        self.path().join("policies")
    }

    fn run(&self, args: &[&str]) -> Ran {
        let output =
            Command::new(PROGRAM).arg("--dir").arg(self.path()).args(args).output().unwrap();
        Ran {
            code: output.status.code().unwrap(),
            out: String::from_utf8(output.stdout).unwrap(),
            talk: String::from_utf8(output.stderr).unwrap(),
        }
    }

    fn serve(&self) -> Gateway {
        let mut child = std::process::Command::new(PROGRAM)
            .arg("--dir")
            .arg(self.path())
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

struct Gateway(Child);

impl Drop for Gateway {
    fn drop(&mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }
}

fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let to = to.join(entry.file_name());
        if entry.path().is_dir() {
            copy(&entry.path(), &to);
        } else {
            std::fs::copy(entry.path(), to).unwrap();
        }
    }
}

const ADD: [&str; 12] = [
    "agents",
    "add",
    "--name",
    "bot",
    "--purpose",
    "answers tickets",
    "--owner",
    "ada@example.com",
    "--environment",
    "prod",
    "--role",
    "support-agent",
];

#[test]
fn init_makes_a_project_that_checks_out_and_overwrites_nothing() {
    let project = Project::empty();
    let made = project.run(&["init", "--json"]).json();
    assert!(made["vkey"].as_str().unwrap().starts_with("localhost/default+"));
    let config = std::fs::read(project.path().join("countersign.toml")).unwrap();

    let again = project.run(&["init"]);
    assert_eq!(again.code, 1);
    assert!(again.talk.contains("exists already; nothing was changed"), "{}", again.talk);
    assert_eq!(std::fs::read(project.path().join("countersign.toml")).unwrap(), config);

    let checked = project.run(&["policy", "check", "--json"]);
    assert_eq!((checked.code, &checked.json()["diagnostics"]), (0, &Value::Array(vec![])));
    let tested = project.run(&["policy", "test"]);
    assert_eq!(tested.code, 0, "{}", tested.out);
    assert!(tested.out.ends_with(" 0 failed\n"), "{}", tested.out);
    assert_eq!(project.run(&["agents", "list", "--json"]).json()["agents"], Value::Array(vec![]));
}

#[test]
fn r_020_an_agent_without_its_fields_is_refused_with_all_of_them() {
    let project = Project::init();
    let absent = project.run(&["agents", "add", "--name", "bot"]);
    assert_eq!(absent.code, 2);
    for field in ["--purpose", "--owner", "--environment"] {
        assert!(absent.talk.contains(field), "{}", absent.talk);
    }
    let blank = project.run(&[
        "agents",
        "add",
        "--name",
        "bot",
        "--purpose",
        "",
        "--owner",
        " ",
        "--environment",
        "prod",
    ]);
    assert_eq!(blank.code, 1);
    assert!(blank.talk.contains("an agent needs purpose, owner"), "{}", blank.talk);
    assert_eq!(project.run(&["agents", "list", "--json"]).json()["agents"], Value::Array(vec![]));
}

/// The same commands, whether they go through a gateway or open the ledger.
fn agents_live(project: &Project) {
    let added = project.run(&ADD);
    assert_eq!(added.code, 0, "{}", added.talk);
    assert!(added.out.starts_with("csk_prod_") && added.out.lines().count() == 1, "{}", added.out);
    assert!(added.talk.contains("not shown again"));
    let taken = project.run(&ADD);
    assert!(taken.code == 1 && taken.talk.contains("was given before"), "{}", taken.talk);

    let listed = project.run(&["agents", "list", "--json"]).json();
    assert_eq!(listed["agents"][0]["name"], "bot");
    assert_eq!(listed["agents"].as_array().unwrap().len(), 1);
    assert!(project.run(&["agents", "list"]).out.contains("bot   active    prod"));
    let rotated = project.run(&["agents", "rotate-key", "bot", "--overlap", "1h", "--json"]).json();
    assert_ne!(rotated["key"].as_str(), Some(added.out.trim()));
    assert_eq!(project.run(&["agents", "disable", "bot"]).code, 0);
    let shown = project.run(&["agents", "show", "bot", "--json"]).json();
    assert_eq!(shown["agent"]["status"], "disabled");
    let unknown = project.run(&["agents", "disable", "nobody"]);
    assert!(unknown.code == 1 && unknown.talk.contains("no agent `nobody`"), "{}", unknown.talk);
}

#[test]
fn r_001_agents_are_managed_without_a_gateway() {
    agents_live(&Project::init());
}

#[test]
fn r_001_agents_are_managed_through_a_running_gateway() {
    let project = Project::init();
    let _gateway = project.serve();
    agents_live(&project);
    let reloaded = project.run(&["policy", "reload", "--json"]);
    assert_eq!(
        reloaded.json()["bundle"],
        project.run(&["policy", "check", "--json"]).json()["bundle"]
    );
    let unknown = project.run(&["pin", "nobody"]);
    assert_eq!(unknown.code, 1);
    let doctor = project.run(&["doctor", "--json"]).json();
    let found = doctor["findings"].as_array().unwrap();
    let gateway = found.iter().find(|one| one["check"] == "gateway").unwrap();
    assert!(gateway["says"].as_str().unwrap().contains("serves http://127.0.0.1:"), "{gateway}");
}

#[test]
fn what_needs_a_gateway_says_so() {
    let project = Project::init();
    for args in [&["pin", "crm"][..], &["policy", "reload"]] {
        let ran = project.run(args);
        assert_eq!(ran.code, 1);
        assert!(ran.talk.contains("start it with `countersign serve`"), "{}", ran.talk);
    }
}

#[test]
fn policy_check_shows_the_place() {
    let project = Project::init();
    let policy = "@id(\"a\")\npermit (principal, action in Action::\"tag:mony\", resource);\n";
    std::fs::write(project.policies().join("policies/40-own.cedar"), policy).unwrap();
    let checked = project.run(&["policy", "check"]);
    assert_eq!(checked.code, 1);
    assert!(checked.out.contains("  --> policies/40-own.cedar:2:"), "{}", checked.out);
    assert!(checked.out.contains("   |  permit (principal"), "{}", checked.out);
    assert_eq!(project.run(&["doctor"]).code, 1);
}

#[test]
fn policy_test_fails_with_its_tests() {
    let project = Project::init();
    let test = "[[test]]\nname = \"wishful\"\nagent = { name = \"bot\", environment = \"prod\" }\n\
                tool = \"crm/query\"\nexpect = \"allow\"\n";
    std::fs::write(project.policies().join("tests/own.toml"), test).unwrap();
    let tested = project.run(&["policy", "test"]);
    assert_eq!(tested.code, 1);
    assert!(tested.out.contains("FAILED tests/own.toml: wishful"), "{}", tested.out);
}

#[test]
fn r_033_policy_explain_names_the_deciding_rule() {
    let project = Project::starter();
    assert_eq!(project.run(&["policy", "test"]).code, 0);
    assert!(project.run(&["policy", "schema"]).out.contains("crm/refund"));
    let ask = |extra: &[&str]| {
        let call = ["policy", "explain", "--agent", "bot", "--tool", "crm/query", "--json"];
        let arguments = ["--arguments", r#"{"query": "Ada"}"#];
        project.run(&[&call[..], &arguments, extra].concat())
    };
    let unknown = ask(&[]);
    assert!(unknown.code == 1 && unknown.talk.contains("make one up"), "{}", unknown.talk);
    let made_up = ask(&["--environment", "staging", "--role", "support-agent"]).json();
    assert_eq!(made_up["verdict"], "deny");
    assert_eq!(project.run(&ADD).code, 0);
    let registered = ask(&[]).json();
    assert_eq!(registered["verdict"], "allow");
    assert_eq!(made_up["bundle"], registered["bundle"]);
    let determining = |explained: &Value| -> Vec<String> {
        let policies = explained["policies"].as_array().unwrap().iter();
        let policies = policies.filter(|one| one["determining"] == true);
        policies.map(|one| one["id"].as_str().unwrap().to_owned()).collect()
    };
    assert_eq!(determining(&made_up), ["environment-scope"]);
    assert_eq!(determining(&registered), ["support-agent"]);
}

#[test]
fn pin_accepts_what_a_server_offers() {
    let project = Project::init();
    let config = project.path().join("countersign.toml");
    let listen = std::fs::read_to_string(&config).unwrap();
    let upstream = format!("{listen}\n[upstreams.crm]\ncommand = ['{PROGRAM}', 'demo-server']\n");
    std::fs::write(&config, upstream).unwrap();
    let _gateway = project.serve();
    let pinned = project.run(&["pin", "crm", "--json"]);
    assert_eq!(pinned.code, 0, "{}", pinned.talk);
    let tools = pinned.json()["tools"].as_u64().unwrap();
    assert!(tools > 0);
    let checked = project.run(&["policy", "check"]);
    assert!(checked.out.contains(&format!("1 servers, {tools} tools")), "{}", checked.out);
}

#[test]
fn doctor_is_content_with_a_new_project_and_names_what_is_wrong() {
    let project = Project::init();
    let well = project.run(&["doctor", "--json"]);
    assert_eq!(well.code, 0, "{}", well.out);
    let checks: Vec<_> = well.json()["findings"]
        .as_array()
        .unwrap()
        .iter()
        .map(|one| one["check"].as_str().unwrap().to_owned())
        .collect();
    for check in [
        "config",
        "permissions",
        "ledger",
        "checkpoint",
        "clock",
        "signer",
        "policy",
        "upstream",
        "disk space",
        "disk speed",
        "gateway",
        "port",
    ] {
        assert!(checks.iter().any(|one| one == check), "{check} of {checks:?}");
    }
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt as _;
        let key = project.path().join("countersign-data/keys/log.key");
        std::fs::set_permissions(&key, std::fs::Permissions::from_mode(0o644)).unwrap();
        let ill = project.run(&["doctor"]);
        assert_eq!(ill.code, 1);
        assert!(ill.out.contains("→ chmod 600 "), "{}", ill.out);
    }
    std::fs::write(
        project.path().join("countersign.toml"),
        "[upstreams.crm]\ncommand = [\"/no/program\"]\n",
    )
    .unwrap();
    let ill = project.run(&["doctor"]);
    assert!(ill.out.contains("crm: there is no program `/no/program`"), "{}", ill.out);
    let limits = project.run(&["doctor", "--limits", "--json"]).json();
    assert_eq!(limits["ledger.ENTRY_BYTES_MAX"], "16384");
}

#[test]
fn doctor_says_that_there_is_no_project() {
    let ran = Project::empty().run(&["doctor"]);
    assert_eq!(ran.code, 1);
    assert!(ran.out.contains("countersign init"), "{}", ran.out);
}
