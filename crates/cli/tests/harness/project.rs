//! A whole installation for a test: project folder, agent, upstream in the test's own process, and the
//! real program as the gateway.

use std::fs::File;
use std::io::{BufRead as _, BufReader, Read as _, Seek as _};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

use super::settings::setting;

/// The program under test, unless `COUNTERSIGN_TEST_PROGRAM` names another build of it.
const PROGRAM: &str = env!("CARGO_BIN_EXE_countersign");

/// The server's name in the configuration.
pub(crate) const SERVER: &str = "up";
/// What the agent of every test may do: everything that the server offers.
const PERMIT: &str = "@id(\"test-permit\")\n\
    permit (principal in Role::\"tester\", action in Action::\"tools\", resource == Server::\"up\");\n";
/// Bytes of a gateway's last words that a failed test shows.
const TALK_SHOWN: usize = 4_096;
/// How long a gateway may take from its start to its first word.
const START_TIMEOUT: Duration = Duration::from_secs(20);

/// An installation with one agent, in a folder of the test's choice.
pub(crate) struct Project {
    root: PathBuf,
    /// The agent's key.
    pub(crate) key: String,
}

impl Project {
    /// Makes an installation in an existing empty folder, and pins the tools of its server.
    pub(crate) async fn new(root: &Path, upstream: &str) -> Self {
        let mut project = Self { root: root.to_owned(), key: String::new() };
        project.run(&["init"]);
        project.use_upstream(upstream);
        std::fs::write(root.join("policies/policies/50-test.cedar"), PERMIT).unwrap();
        let role = ["--role", "tester", "--environment", "prod"];
        let who = ["agents", "add", "--name", "bot", "--purpose", "tests", "--owner", "dana"];
        project.key = project.run(&[&who[..], &role[..]].concat()).trim().to_owned();
        // The tools are pinned at the first sight of the server.
        let gateway = project.serve();
        project.wait_until_pinned().await;
        gateway.stop();
        project
    }

    /// Points the configuration at a server; the next start of the gateway reads it.
    pub(crate) fn use_upstream(&self, url: &str) {
        let config = format!(
            "[data_plane]\nlisten = \"127.0.0.1:0\"\n\n[control_plane]\nlisten = \"127.0.0.1:0\"\n\n\
             [upstreams.{SERVER}]\nurl = \"{url}\"\n"
        );
        std::fs::write(self.root.join("countersign.toml"), config).unwrap();
    }

    async fn wait_until_pinned(&self) {
        let pins = self.data().join("pins");
        let started = Instant::now();
        while std::fs::read_dir(&pins).map_or(0, Iterator::count) == 0 {
            assert!(started.elapsed() < START_TIMEOUT, "the server's tools were not pinned");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// The data folder.
    pub(crate) fn data(&self) -> PathBuf {
        self.root.join("countersign-data")
    }

    /// A command of the program on this installation.
    pub(crate) fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(setting("COUNTERSIGN_TEST_PROGRAM", PROGRAM.to_owned()));
        command.arg("--dir").arg(&self.root).args(args);
        command
    }

    /// Runs a command to its end and gives what it printed; it must succeed.
    fn run(&self, args: &[&str]) -> String {
        let output = self.command(args).output().unwrap();
        assert!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    }

    /// Starts the gateway without waiting for it.
    pub(crate) fn start(&self) -> Gateway {
        Gateway::spawn(self.command(&["serve", "--json"]))
    }

    /// Starts the gateway and waits until it serves.
    pub(crate) fn serve(&self) -> Gateway {
        let mut gateway = self.start();
        gateway.ready();
        gateway
    }
}

/// A running gateway; it is killed when it is dropped.
pub(crate) struct Gateway {
    pub(crate) child: Child,
    /// What it says on standard error.
    talk: File,
    /// The MCP endpoint, once it is ready.
    pub(crate) url: String,
    /// How long the start took.
    pub(crate) started_in: Duration,
    since: Instant,
}

impl Gateway {
    /// Starts a gateway; what it says is not read yet.
    pub(crate) fn spawn(mut command: Command) -> Self {
        let talk = tempfile::tempfile().unwrap();
        command.stdout(Stdio::piped()).stderr(talk.try_clone().unwrap());
        let (child, since) = (command.spawn().unwrap(), Instant::now());
        Self { child, talk, url: String::new(), started_in: Duration::ZERO, since }
    }

    /// Waits until it says where it serves.
    pub(crate) fn ready(&mut self) {
        let mut line = String::new();
        BufReader::new(self.child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        self.started_in = self.since.elapsed();
        assert!(!line.is_empty(), "the gateway did not start: {}", self.end());
        assert!(self.started_in < START_TIMEOUT, "the start took {:?}", self.started_in);
        let said: Value = serde_json::from_str(&line).unwrap();
        self.url = format!("{}/{SERVER}", said["mcp"].as_str().unwrap());
    }

    /// Stops it as an operator would; it must end cleanly.
    pub(crate) fn stop(mut self) {
        let pid = self.child.id().to_string();
        assert!(Command::new("kill").args(["-TERM", &pid]).status().unwrap().success());
        let end = self.end();
        assert!(end.starts_with("exit status: 0"), "the gateway did not stop cleanly: {end}");
    }

    /// Waits until it ended, and gives how, with the end of what it said.
    fn end(&mut self) -> String {
        let status = self.child.wait().unwrap();
        let mut said = Vec::new();
        self.talk.rewind().and_then(|()| self.talk.read_to_end(&mut said)).unwrap();
        let last = said.get(said.len().saturating_sub(TALK_SHOWN)..).unwrap_or_default();
        format!("{status}\n{}", String::from_utf8_lossy(last))
    }

    /// Ends it with SIGKILL, at once; one that ended already stays so.
    pub(crate) fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

impl Drop for Gateway {
    fn drop(&mut self) {
        self.kill();
    }
}
