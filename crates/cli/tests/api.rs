//! The read API of the real program: an auditor's script, and the same answers as the command line.

#![cfg(test)]

mod harness {
    pub(crate) mod caller;
    pub(crate) mod project;
    pub(crate) mod settings;
}

use std::path::Path;
use std::time::{Duration, Instant};

use countersign_testkit::FakeUpstream;
use harness::caller::Caller;
use harness::project::Project;
use harness::settings::say;
use http_body_util::{BodyExt as _, Full};
use hyper::body::Bytes;
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use serde_json::{Value, json};

/// How long a checkpoint may take.
const PATIENCE: Duration = Duration::from_secs(40);

/// The control plane of a running gateway.
struct Control {
    http: Client<HttpConnector, Full<Bytes>>,
    url: String,
}

struct Answer {
    status: u16,
    next: Option<String>,
    body: Vec<u8>,
}

impl Answer {
    fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap()
    }
}

impl Control {
    fn of(project: &Project) -> Self {
        let said = std::fs::read(project.data().join("serve.json")).unwrap();
        let said: Value = serde_json::from_slice(&said).unwrap();
        let url = said["control_plane"].as_str().unwrap().to_owned();
        Self { http: Client::builder(TokioExecutor::new()).build_http(), url }
    }

    async fn get(&self, path: &str, token: &str) -> Answer {
        let request = hyper::Request::get(format!("{}{path}", self.url))
            .header("authorization", format!("Bearer {token}"))
            .body(Full::default())
            .unwrap();
        let (parts, body) = self.http.request(request).await.unwrap().into_parts();
        let next = parts.headers.get("link").map(|link| {
            let link = link.to_str().unwrap().strip_prefix('<').unwrap();
            link.strip_suffix(r#">; rel="next""#).unwrap().to_owned()
        });
        let body = body.collect().await.unwrap().to_bytes().to_vec();
        Answer { status: parts.status.as_u16(), next, body }
    }

    /// Asks until a checkpoint covers what was asked for.
    async fn get_covered(&self, path: &str, token: &str) -> Answer {
        let started = Instant::now();
        loop {
            let answer = self.get(path, token).await;
            if answer.status != 503 {
                return answer;
            }
            assert!(started.elapsed() < PATIENCE, "{path} is not covered");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
}

fn run(project: &Project, args: &[&str]) -> (bool, Vec<u8>) {
    let output = project.command(args).output().unwrap();
    if !output.status.success() {
        return (false, output.stderr);
    }
    (true, output.stdout)
}

fn json_of(project: &Project, args: &[&str]) -> Value {
    let (done, out) = run(project, args);
    assert!(done, "{args:?}: {}", String::from_utf8_lossy(&out));
    serde_json::from_slice(&out).unwrap()
}

fn add(project: &Project, name: &str, role: &str) -> String {
    let made = json_of(project, &["tokens", "add", name, "--role", role, "--json"]);
    made["secret"].as_str().unwrap().to_owned()
}

async fn upstream(root: &Path) -> (Project, FakeUpstream) {
    let upstream = FakeUpstream::start().await.unwrap();
    (Project::new(root, &upstream.url()).await, upstream)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_auditor_reads_what_the_command_line_reads() {
    let folder = tempfile::tempdir().unwrap();
    let (project, _upstream) = upstream(folder.path()).await;
    // One token from before the gateway ran, one made through it.
    let viewer = add(&project, "siem", "viewer");
    let gateway = project.serve();
    let auditor = add(&project, "acme-audit", "auditor");
    let caller = Caller::new(&project.key);
    let mut calls = Vec::new();
    for n in 0..7 {
        let answer = caller.echo(&gateway.url, &format!("text {n}"), &format!("key-{n}")).await;
        let answer = answer.unwrap();
        assert!(answer.is_result() && !answer.replayed, "{answer:?}");
        calls.push(answer.evaluation_id);
    }
    let control = Control::of(&project);

    // Page by page, every call once, newest first.
    let mut found = Vec::new();
    let mut next = Some("/api/v1/records?kind=decision&tool=up/echo&limit=3".to_owned());
    while let Some(path) = next {
        let page = control.get(&path, &viewer).await;
        assert_eq!(page.status, 200, "{path}");
        let rows = page.json()["records"].as_array().unwrap().clone();
        found.extend(rows.iter().map(|row| row["record_id"].as_str().unwrap().to_owned()));
        next = page.next;
    }
    calls.reverse();
    assert_eq!(found, calls);

    // R-150: the same bytes.
    let table = control.get("/api/v1/records?kind=decision&limit=5&format=csv", &viewer).await;
    let query = ["records", "query", "--kind", "decision", "--limit", "5", "--csv"];
    assert_eq!((true, table.body), run(&project, &query));

    // The same file, but for the checkpoint, which is newer each time.
    let id = &calls[0];
    let path = format!("/api/v1/records/{id}/proof?disclose=*");
    let proof = control.get_covered(&path, &auditor).await;
    let files = [folder.path().join("api.json"), folder.path().join("cli.json")];
    std::fs::write(&files[0], &proof.body).unwrap();
    let written = files[1].to_str().unwrap();
    assert!(run(&project, &["show", id, "--proof", written]).0);
    let mut read = files
        .clone()
        .map(|file| -> Value { serde_json::from_slice(&std::fs::read(file).unwrap()).unwrap() });
    for file in &mut read {
        file["proof"] = json!(null);
        file["outcomes"][0]["proof"] = json!(null);
    }
    assert_eq!(read[0], read[1]);
    let vkey = String::from_utf8(run(&project, &["log", "vkey"]).1).unwrap();
    for file in &files {
        let verify = ["verify", "--record", file.to_str().unwrap(), "--vkey", vkey.trim()];
        let (done, out) = run(&project, &verify);
        assert!(done, "{}", String::from_utf8_lossy(&out));
    }
    assert_eq!(control.get(&path, &viewer).await.status, 403);
    assert_eq!(control.get(&path, &project.key).await.status, 401);

    let shaped = control.get(&format!("/api/v1/records/{id}?shape=acp"), &auditor).await.json();
    assert_eq!(shaped["sub"], "dana");
    assert_eq!((&shaped["tool"], &shaped["result"]), (&json!("up/echo"), &json!("success")));
    assert_eq!(shaped["input"], json!({"text": "text 6"}));

    // Revoked through the gateway, at once.
    assert_eq!(json_of(&project, &["tokens", "revoke", "siem", "--json"])["token"]["name"], "siem");
    assert_eq!(control.get("/api/v1/records", &viewer).await.status, 401);
    gateway.stop();

    // What was read is in the ledger, under the token's name.
    let by = ["records", "query", "--kind", "access", "--principal", "token:acme-audit", "--csv"];
    let (_, rows) = run(&project, &by);
    assert!(String::from_utf8(rows).unwrap().lines().count() >= 3);
    let (done, out) = run(&project, &["verify"]);
    assert!(done, "{}", String::from_utf8_lossy(&out));
    say(&format!("{} calls read by both", calls.len()));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tokens_are_managed_without_a_gateway() {
    let folder = tempfile::tempdir().unwrap();
    let (project, _upstream) = upstream(folder.path()).await;
    let listed = json_of(&project, &["tokens", "list", "--json"]);
    assert_eq!(listed, json!({"tokens": []}));
    let (done, out) =
        run(&project, &["tokens", "add", "siem", "--role", "viewer", "--expires", "2999-12-31"]);
    let text = String::from_utf8(out).unwrap();
    assert!(done && text.starts_with("cst_") && text.lines().count() == 1, "{text}");
    let listed = json_of(&project, &["tokens", "list", "--json"]);
    assert_eq!(listed["tokens"][0]["role"], "viewer");
    assert_eq!(listed["tokens"][0]["expires_at"], "3000-01-01T00:00:00.000Z");
    for (args, said) in [
        (&["tokens", "add", "siem", "--role", "viewer"][..], "was given before"),
        (&["tokens", "add", "ops", "--role", "owner"], "expected `viewer`, `auditor` or `admin`"),
        (&["tokens", "add", "Ops", "--role", "admin"], "may only have lower-case letters"),
        (&["tokens", "revoke", "no"], "there is no token `no`"),
    ] {
        let (done, out) = run(&project, args);
        let out = String::from_utf8(out).unwrap();
        assert!(!done && out.contains(said), "{args:?}: {out}");
    }
    assert!(run(&project, &["tokens", "revoke", "siem"]).0);
    let (_, table) = run(&project, &["tokens", "list"]);
    assert!(String::from_utf8(table).unwrap().contains("revoked"));
    let changes = ["records", "query", "--kind", "change", "--limit", "2", "--json"];
    let (_, changes) = run(&project, &changes);
    let changes = String::from_utf8(changes).unwrap();
    assert!(changes.contains(r#""action":"revoked""#) && changes.contains(r#""object":"token""#));
    assert!(!changes.contains("siem"), "{changes}");
    let (done, out) = run(&project, &["doctor"]);
    assert!(done, "{}", String::from_utf8_lossy(&out));
}
