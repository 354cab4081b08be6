//! R-065: checkpoints are time-stamped, pushed and copied elsewhere while the gateway serves, and an
//! auditor checks each kind of anchor with what lies outside the installation.

#![cfg(test)]

mod harness {
    pub(crate) mod caller;
    pub(crate) mod project;
    pub(crate) mod settings;
}

mod anchor {
    mod git;
    mod objects;
    mod timestamp;
}

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use countersign_testkit::FakeUpstream;
use harness::caller::Caller;
use harness::project::{Gateway, Project};
use serde_json::Value;
use tempfile::TempDir;

/// How long something that happens by itself may take.
const PATIENCE: Duration = Duration::from_secs(60);

/// An installation whose anchors are tested.
struct World {
    folder: TempDir,
    project: Project,
    caller: Caller,
    _upstream: FakeUpstream,
}

impl World {
    /// Makes an installation, and adds a table to its configuration.
    async fn new(table: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path().join("project");
        std::fs::create_dir(&root).unwrap();
        let upstream = FakeUpstream::start().await.unwrap();
        let project = Project::new(&root, &upstream.url()).await;
        let caller = Caller::new(&project.key);
        let world = Self { folder, project, caller, _upstream: upstream };
        let file = world.root().join("countersign.toml");
        let mut config = std::fs::read_to_string(&file).unwrap();
        config.write_str(table).unwrap();
        std::fs::write(file, config).unwrap();
        world
    }

    fn root(&self) -> PathBuf {
        self.folder.path().join("project")
    }

    fn log(&self) -> PathBuf {
        self.project.data().join("log")
    }

    /// Makes a call, which must go through at once.
    async fn call(&self, gateway: &Gateway, key: &str) {
        let started = Instant::now();
        let answer = self.caller.echo(&gateway.url, key, key).await.unwrap();
        assert!(answer.is_result() && !answer.replayed, "{answer:?}");
        assert!(started.elapsed() < Duration::from_secs(5), "an anchor held up a call");
    }

    /// Runs a command of the program; gives whether it succeeded, and what it printed.
    fn run(&self, args: &[&str]) -> (bool, String) {
        let output = self.project.command(args).output().unwrap();
        let said = [output.stdout, output.stderr].concat();
        (output.status.success(), String::from_utf8(said).unwrap())
    }

    /// Writes the log's public key to a file, as an auditor keeps it.
    fn vkey(&self) -> String {
        let file = self.folder.path().join("log.vkey");
        let (_, vkey) = self.run(&["log", "vkey"]);
        std::fs::write(&file, vkey).unwrap();
        file.to_str().unwrap().to_owned()
    }

    /// What the gateway says of an anchor.
    fn status(&self, anchor: &str) -> Value {
        let text = std::fs::read(self.project.data().join("anchors.json")).unwrap_or_default();
        serde_json::from_slice::<Value>(&text).unwrap_or_default()[anchor].clone()
    }

    /// Waits until an anchor has taken more than `size` records; gives how many.
    async fn anchored_above(&self, anchor: &str, size: u64) -> u64 {
        let found = |status: &Value| status["size"].as_u64().filter(|now| *now > size);
        let status = self.until(anchor, |status| found(status).is_some()).await;
        found(&status).unwrap()
    }

    /// Waits until an anchor has failed with an error that contains this.
    async fn failed(&self, anchor: &str, error: &str) {
        self.until(anchor, |status| {
            status["error"].as_str().is_some_and(|said| said.contains(error))
        })
        .await;
    }

    async fn until(&self, anchor: &str, holds: impl Fn(&Value) -> bool) -> Value {
        let started = Instant::now();
        loop {
            let status = self.status(anchor);
            if holds(&status) {
                return status;
            }
            assert!(started.elapsed() < PATIENCE, "{anchor}: {status}");
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }
}

/// Copies a folder.
fn copy(from: &Path, to: &Path) {
    let done = Command::new("cp").arg("-r").arg(from).arg(to).status().unwrap();
    assert!(done.success());
}
