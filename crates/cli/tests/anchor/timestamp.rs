//! Timestamps of a real authority, `openssl ts`, behind a small HTTP server.

use std::net::Ipv4Addr;
use std::path::Path;
use std::process::Stdio;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use axum::Router;
use axum::body::Bytes;
use axum::http::StatusCode;
use countersign_testkit::TimestampAuthority;
use tokio::net::TcpListener;

use crate::harness::settings::say;
use crate::{PATIENCE, World, copy};

/// What the authority does with a request.
#[derive(Clone, Debug)]
enum Behaviour {
    Answers,
    Stalls,
    Says(StatusCode, Vec<u8>),
    /// Answers to this request instead.
    AnswersTo(Vec<u8>),
}

struct Server {
    url: String,
    behaviour: Arc<Mutex<Behaviour>>,
    asked: Arc<AtomicUsize>,
}

impl Server {
    async fn start(authority: TimestampAuthority) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let url = format!("http://{}/tsa", listener.local_addr().unwrap());
        let behaviour = Arc::new(Mutex::new(Behaviour::Answers));
        let (now, authority) = (Arc::clone(&behaviour), Arc::new(Mutex::new(authority)));
        let asked = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&asked);
        let app = Router::new().fallback(move |request: Bytes| async move {
            count.fetch_add(1, Ordering::Relaxed);
            let behaviour = now.lock().unwrap().clone();
            let request = match behaviour {
                Behaviour::Answers => request.to_vec(),
                Behaviour::Stalls => std::future::pending().await,
                Behaviour::Says(status, body) => return (status, body),
                Behaviour::AnswersTo(other) => other,
            };
            let reply = authority.lock().unwrap().reply(&request);
            reply.map_or((StatusCode::BAD_REQUEST, vec![]), |reply| (StatusCode::OK, reply))
        });
        tokio::spawn(async move { axum::serve(listener, app).await });
        Self { url, behaviour, asked }
    }

    fn now(&self, behaviour: Behaviour) {
        *self.behaviour.lock().unwrap() = behaviour;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn r_065_checkpoints_are_time_stamped_and_checked_offline() {
    let folder = tempfile::tempdir().unwrap();
    let authority = TimestampAuthority::new(folder.path(), "ec:P-256").unwrap();
    let roots = authority.roots();
    let other = countersign_evidence::timestamp::request(b"something else", 7).unwrap();
    let server = Server::start(authority).await;
    let table = format!(
        "\n[anchors.timestamp]\nurl = \"{}\"\nroots = \"{}\"\ninterval = \"1s\"\n",
        server.url,
        roots.display()
    );
    let world = World::new(&table).await;
    let gateway = world.project.serve();
    let first = world.anchored_above("timestamp", 0).await;
    let mut size = first;
    // While the authority misbehaves, calls go through, nothing is kept, and the reason is shown.
    let tokens = || std::fs::read_dir(world.log().join("timestamps")).unwrap().count();
    tokio::time::sleep(Duration::from_secs(3)).await;
    let asked = server.asked.load(Ordering::Relaxed);
    assert_eq!(asked, tokens(), "a checkpoint was stamped twice");
    for (behaviour, error) in [
        (Behaviour::AnswersTo(other), "the imprint differs"),
        (Behaviour::Says(StatusCode::OK, b"<html>".to_vec()), "not encoded as RFC 3161"),
        (Behaviour::Says(StatusCode::OK, vec![b' '; 1 << 20]), "length limit exceeded"),
        (Behaviour::Says(StatusCode::BAD_GATEWAY, b"busy".to_vec()), "502 Bad Gateway: busy"),
        (Behaviour::Stalls, "did not answer within"),
    ] {
        server.now(behaviour);
        // What has a token already is not asked about.
        world.call(&gateway, &format!("before {error}")).await;
        world.failed("timestamp", error).await;
        let before = tokens();
        world.call(&gateway, error).await;
        assert_eq!(tokens(), before, "{error}");
        let (_, said) = world.run(&["doctor"]);
        assert!(said.contains(error), "{said}");
        server.now(Behaviour::Answers);
        size = world.anchored_above("timestamp", size).await;
    }
    gateway.stop();

    let (sound, said) = world.run(&["verify"]);
    assert!(sound && said.contains(&format!("  {size} records")), "{said}");

    // The auditor has a copy, the log's key, and the roots.
    let (log, vkey) = (world.folder.path().join("copy"), world.vkey());
    copy(&world.log(), &log);
    let (log_path, roots) = (log.to_str().unwrap().to_owned(), roots.to_str().unwrap().to_owned());
    let check = [&["verify", "--log", &log_path, "--vkey", &vkey, "--tsa-roots"][..], &[&roots]];
    let check = check.concat();
    let (sound, said) = world.run(&check);
    assert!(sound && said.contains("says CN=Authority"), "{said}");

    // A package of everything has the tokens.
    let package = world.folder.path().join("package").to_str().unwrap().to_owned();
    let ever = ["--from", "2026-01-01", "--to", "2100-01-01", "--out", &package];
    let (built, said) = world.run(&[&["evidence", "package"][..], &ever].concat());
    assert!(built, "{said}");
    let of_package = ["verify", "--package", &package, "--vkey", &vkey];
    let (sound, said) = world.run(&[&of_package[..], &["--tsa-roots", &roots]].concat());
    assert!(
        sound && said.contains(&format!("log/timestamps/{size}.tsr: {size} records")),
        "{said}"
    );
    let (sound, said) = world.run(&of_package);
    assert!(sound && said.contains("no roots were given"), "{said}");

    damaged_tokens_fail_by_their_names(&world, &log, &check, first, size);
    say(&format!("{} tokens, the last of {size} records", tokens()));
}

fn damaged_tokens_fail_by_their_names(
    world: &World,
    log: &Path,
    check: &[&str],
    first: u64,
    size: u64,
) {
    // One that is changed, of another checkpoint, or whose checkpoint is gone.
    let token = log.join(format!("timestamps/{size}.tsr"));
    let good = std::fs::read(&token).unwrap();
    let (mut flipped, last) = (good.clone(), good.len() - 1);
    flipped[last] ^= 1;
    let earlier = std::fs::read(log.join(format!("timestamps/{first}.tsr"))).unwrap();
    for bad in [flipped, earlier, Vec::new()] {
        std::fs::write(&token, bad).unwrap();
        let (sound, said) = world.run(check);
        assert!(!sound && said.contains(&format!("FAILED: `timestamps/{size}.tsr`")), "{said}");
    }
    std::fs::write(&token, good).unwrap();
    std::fs::remove_file(log.join(format!("checkpoints/{size}"))).unwrap();
    let (sound, said) = world.run(check);
    assert!(!sound && said.contains(&format!("`checkpoints/{size}` is missing")), "{said}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_wrong_is_said_once() {
    let folder = tempfile::tempdir().unwrap();
    let authority = TimestampAuthority::new(folder.path(), "ec:P-256").unwrap();
    let roots = authority.roots();
    let server = Server::start(authority).await;
    server.now(Behaviour::Says(StatusCode::SERVICE_UNAVAILABLE, vec![]));
    let table = format!(
        "\n[anchors]\nmax_unanchored_age = \"2s\"\n\n[anchors.timestamp]\nurl = \"{}\"\n\
         roots = \"{}\"\ninterval = \"1s\"\n",
        server.url,
        roots.display()
    );
    let world = World::new(&table).await;
    let talk = folder.path().join("talk");
    let mut serve = world.project.command(&["serve"]);
    serve.stdout(Stdio::null()).stderr(std::fs::File::create(&talk).unwrap());
    let mut gateway = serve.spawn().unwrap();
    let said = |text: &str| std::fs::read_to_string(&talk).unwrap().matches(text).count();
    let until = async |what: &str, holds: &dyn Fn() -> bool| {
        let started = Instant::now();
        while !holds() {
            assert!(started.elapsed() < PATIENCE, "{what}");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    until("five rounds", &|| server.asked.load(Ordering::Relaxed) >= 5).await;
    until("a warning", &|| said("no anchor has taken a checkpoint so long") == 1).await;
    assert_eq!(said("the log is not anchored: it answered 503"), 1);
    server.now(Behaviour::Answers);
    until("an end of it", &|| said("checkpoints are anchored again") == 1).await;
    gateway.kill().unwrap();
    gateway.wait().unwrap();
    assert_eq!(said("the log is anchored again"), 1);
    assert_eq!(said("no anchor has taken a checkpoint so long"), 1);
}
