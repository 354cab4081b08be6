//! a gateway that is told so refuses calls while its log is not anchored, and goes on by itself.

use std::fmt::Write as _;
use std::path::Path;
use std::time::{Duration, Instant};

use countersign_ledger::SigningKey;
use countersign_store::{Keystore, Reader};
use countersign_testkit::FakeUpstream;
use serde_json::Value;

use crate::harness::caller::{Answer, Caller};
use crate::harness::project::{Gateway, Project};
use crate::{PATIENCE, Running, anchored_above};

/// What `anchors` asks for; the bound is at least twice the interval.
const TABLE: &str = "\n[anchors]\npolicy = \"witnesses.policy\"\ninterval = \"1s\"\n\
    refuse_unanchored_after = \"3s\"\n";

/// An agent that calls again and again, each time with another key.
struct Agent<'a> {
    caller: Caller,
    gateway: &'a Gateway,
    upstream: &'a FakeUpstream,
    calls: u32,
    /// Calls that went through.
    done: usize,
}

impl Agent<'_> {
    async fn call(&mut self) -> (String, Answer) {
        self.calls += 1;
        let key = format!("key-{}", self.calls);
        let answer = self.caller.echo(&self.gateway.url, &key, &key).await.unwrap();
        self.done += usize::from(answer.is_result());
        assert_eq!(self.upstream.calls().len(), self.done, "a refused call was forwarded");
        (key, answer)
    }

    /// Calls until calls are refused, or go through; gives the first such call.
    async fn until(&mut self, refused: bool) -> (String, Answer) {
        let started = Instant::now();
        loop {
            let (key, answer) = self.call().await;
            if answer.is_result() != refused {
                return (key, answer);
            }
            assert!(started.elapsed() < PATIENCE, "still {answer:?}");
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }

    /// Checks that a call was refused for want of an anchor, and that this is recorded.
    async fn denied(&self, answer: &Answer, data: &Path) {
        assert_eq!((answer.status, &*answer.code), (503, "AUDIT_UNAVAILABLE"), "{answer:?}");
        let reader = Reader::open(data, None).await.unwrap();
        let id = answer.evaluation_id.parse().unwrap();
        let record = reader.get(id).await.unwrap().unwrap();
        let leaf: Value = serde_json::from_slice(&record.body).unwrap();
        assert_eq!(leaf["decision"], "deny", "{leaf}");
        assert_eq!(leaf["reasons"], serde_json::json!(["AUDIT_UNAVAILABLE"]));
        assert!(reader.outcomes(id).await.unwrap().is_empty());
        reader.close().await;
    }

    /// Asks whether the gateway is ready.
    async fn ready(&self) -> u16 {
        let url = self.gateway.url.replace("/mcp/up", "/readyz");
        let request = hyper::Request::get(url).body(http_body_util::Full::default()).unwrap();
        let http =
            hyper_util::client::legacy::Client::builder(hyper_util::rt::TokioExecutor::new());
        let http = http.build_http::<http_body_util::Full<hyper::body::Bytes>>();
        http.request(request).await.unwrap().status().as_u16()
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn r_065_calls_are_refused_while_the_log_is_not_anchored() {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path().join("project");
    std::fs::create_dir(&root).unwrap();
    let upstream = FakeUpstream::start().await.unwrap();
    let project = Project::new(&root, &upstream.url()).await;
    let data = project.data();
    let key = Keystore::open(&data.join("keys")).unwrap();
    let key = key.log_key("localhost/default").unwrap().verifier_key();
    let state = folder.path().join("w");
    let mut witness = Running::start(&state, &key);
    let policy = format!("witness w {} {}\nquorum w\n", witness.key, witness.url);
    std::fs::write(root.join("witnesses.policy"), policy).unwrap();
    let mut config = std::fs::read_to_string(root.join("countersign.toml")).unwrap();
    config.write_str(TABLE).unwrap();
    std::fs::write(root.join("countersign.toml"), config).unwrap();
    let gateway = project.serve();
    let caller = Caller::new(&project.key);
    let mut agent = Agent { caller, gateway: &gateway, upstream: &upstream, calls: 0, done: 0 };
    let doctor = || {
        let output = project.command(&["doctor"]).output().unwrap();
        String::from_utf8(output.stdout).unwrap()
    };

    // The first anchor may have to come first: the log had records before.
    agent.until(false).await;
    anchored_above(&project, 0).await;
    // Nothing is newer than what is anchored for longer than the bound: that is no reason to refuse.
    tokio::time::sleep(Duration::from_secs(5)).await;
    assert!(agent.call().await.1.is_result());
    assert_eq!(agent.ready().await, 200);
    assert!(!doctor().contains("calls are refused"));

    // The witness is away.
    let listen = witness.url.strip_prefix("http://").unwrap().to_owned();
    witness.kill();
    let (refused, answer) = agent.until(true).await;
    agent.denied(&answer, &data).await;
    assert_eq!(agent.ready().await, 503);
    assert!(doctor().contains("ERROR    anchors     calls are refused"), "{}", doctor());
    for _ in 0..3 {
        let (_, answer) = agent.call().await;
        agent.denied(&answer, &data).await;
    }
    let why = project.command(&["why", &answer.evaluation_id]).output().unwrap();
    let why = String::from_utf8(why.stdout).unwrap();
    assert!(why.contains("Policy allowed it") && why.contains("not been anchored"), "{why}");

    // It is back, at the same place and with what it remembers.
    let witness = Running::start_at(&listen, &state, &key);
    agent.until(false).await;
    let again = agent.caller.echo(&gateway.url, &refused, &refused).await.unwrap();
    assert!(again.is_result() && !again.replayed, "a refused call claims no key: {again:?}");
    agent.done += 1;
    assert_eq!(upstream.count_key(&refused), 1);

    // Nothing is published any more: the witness cosigns the same checkpoint again, and it gets no younger.
    let blocked = data.join("log/.checkpoint.new");
    std::fs::create_dir(&blocked).unwrap();
    let (_, answer) = agent.until(true).await;
    agent.denied(&answer, &data).await;
    std::fs::remove_dir(&blocked).unwrap();
    agent.until(false).await;
    gateway.stop();
    drop(witness);

    // A restart does not make younger what waits for an anchor.
    tokio::time::sleep(Duration::from_secs(4)).await;
    let gateway = project.serve();
    let caller = Caller::new(&project.key);
    let mut late = Agent { caller, gateway: &gateway, upstream: &upstream, calls: 1_000, done: 0 };
    late.done = upstream.calls().len();
    let (_, refused) = late.call().await;
    late.denied(&refused, &data).await;
    gateway.stop();
    let replay = project.command(&["replay", &answer.evaluation_id]).output().unwrap();
    let said = String::from_utf8_lossy(&replay.stdout).into_owned();
    assert!(replay.status.success(), "{said}{}", String::from_utf8_lossy(&replay.stderr));
    let verified = project.command(&["verify"]).output().unwrap();
    assert!(verified.status.success(), "{}", String::from_utf8_lossy(&verified.stdout));
}

#[tokio::test]
async fn a_bound_that_cannot_be_kept_stops_the_start() {
    let folder = tempfile::tempdir().unwrap();
    let upstream = FakeUpstream::start().await.unwrap();
    let project = Project::new(folder.path(), &upstream.url()).await;
    let file = folder.path().join("countersign.toml");
    let config = std::fs::read_to_string(&file).unwrap();
    let key = |seed| {
        let key = SigningKey::cosigner_from_seed(&format!("witness.example/{seed}"), &[seed; 32]);
        key.unwrap().verifier_key()
    };
    let witnesses = format!("witness a {} http://127.0.0.1:1\nwitness b {}\n", key(1), key(2));
    for (name, quorum) in [("none", "quorum none"), ("away", "group all all a b\nquorum all")] {
        std::fs::write(folder.path().join(name), format!("{witnesses}{quorum}\n")).unwrap();
    }
    for (table, says) in [
        ("[anchors]\nrefuse_unanchored_after = \"1h\"\n", "needs an anchor"),
        ("[anchors]\npolicy = \"none\"\n", "`quorum none` asks for no cosignature"),
        ("[anchors]\npolicy = \"away\"\n", "without a URL: missing 1 of b (group `all`)"),
        (
            "[anchors]\nrefuse_unanchored_after = \"1m\"\n\
             [anchors.object_store]\nurl = \"file:///nowhere\"\ninterval = \"40s\"\n",
            "below two intervals, 80s",
        ),
    ] {
        let copy = format!("file://{}", folder.path().join("copy").display());
        let table = table.replace("file:///nowhere", &copy);
        std::fs::write(&file, format!("{config}\n{table}")).unwrap();
        let output = project.command(&["serve"]).output().unwrap();
        let said = String::from_utf8(output.stderr).unwrap();
        assert!(!output.status.success() && said.contains(says), "{said}");
    }
}
