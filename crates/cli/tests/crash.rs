//! T1: the gateway dies by SIGKILL again and again while agents call, and the ledger, the server's log
//! and the agents' memories must still agree.
//!
//! The size of the run comes from the environment: `COUNTERSIGN_CRASH_KILLS`, `…_CLIENTS`, `…_SEED`,
//! `…_LIFE_MS` (the longest time from start to kill). docs/operations/durability.md says more.

#![cfg(test)]

mod harness {
    pub(crate) mod caller;
    pub(crate) mod history;
    pub(crate) mod project;
    pub(crate) mod random;
    pub(crate) mod settings;
}

use std::collections::{HashMap, HashSet};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use countersign_ledger::Checkpoint;
use countersign_testkit::{Behaviour, FakeUpstream};
use harness::caller::{Answer, Caller};
use harness::history::{self, History, Reached};
use harness::project::{Gateway, Project};
use harness::random::Random;
use harness::settings::{say, setting};
use tokio::sync::watch;
use tokio::time::timeout;

/// Kills after which the gateway gets a new server, since each remembers a bounded number of requests.
const KILLS_PER_UPSTREAM: usize = 10;
/// Every so many-th kill comes before the gateway says that it serves.
const START_UP_KILL: usize = 6;
/// One attempt of so many ends with the agent hanging up.
const HANG_UP: u64 = 20;
/// How long the server takes, so that many calls are under way at any time.
const SERVER_TIME: Duration = Duration::from_millis(15);
/// How long an agent may have to repeat itself until it knows where it stands.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(120);
/// How long an agent waits for one answer: another program may have got a dead gateway's address, and
/// never answer.
const ATTEMPT_TIMEOUT: Duration = Duration::from_secs(30);
/// The longest time that a restart may take after a crash.
const RESTART_MAX: Duration = Duration::from_secs(10);

struct Plan {
    kills: usize,
    clients: usize,
    seed: u64,
    life_ms: u64,
}

impl Plan {
    fn read() -> Self {
        Self {
            kills: setting("COUNTERSIGN_CRASH_KILLS", 12),
            clients: setting("COUNTERSIGN_CRASH_CLIENTS", 64),
            seed: setting("COUNTERSIGN_CRASH_SEED", u64::from(std::process::id())),
            life_ms: setting("COUNTERSIGN_CRASH_LIFE_MS", 1_500),
        }
    }
}

/// What all agents of a run share.
struct Agents {
    caller: Caller,
    url: watch::Receiver<String>,
    done: AtomicBool,
    broken: AtomicUsize,
    hung_up: AtomicUsize,
    refused: AtomicUsize,
}

/// What an agent knows of one key in the end.
enum End {
    /// It has the result of the call with this evaluation id.
    Result { evaluation_id: String, replayed: bool },
    /// It was told by a recorded refusal that nobody knows.
    Unknown { evaluation_id: String },
}

impl Agents {
    /// Calls with one new key after the other until the run is over.
    async fn call(self: Arc<Self>, number: usize, seed: u64) -> Vec<(String, End)> {
        let mut random = Random::new(seed);
        let mut ends = Vec::new();
        while !self.done.load(Ordering::Relaxed) {
            let key = format!("agent-{number}-call-{}", ends.len());
            let mut heard = String::from("nothing");
            let end = timeout(ANSWER_TIMEOUT, self.settle(&key, &mut random, &mut heard)).await;
            let never = |_| panic!("`{key}` was never settled; what it heard last: {heard}");
            ends.push((key.clone(), end.unwrap_or_else(never)));
        }
        ends
    }

    /// Repeats a call with the same key until its end is known; keeps what it heard last.
    async fn settle(&self, key: &str, random: &mut Random, heard: &mut String) -> End {
        let mut url = self.url.clone();
        loop {
            let now = url.borrow_and_update().clone();
            if now.is_empty() {
                url.changed().await.unwrap();
                continue;
            }
            let attempt = self.caller.echo(&now, key, key);
            let answer = if random.below(HANG_UP) == 0 {
                let patience = Duration::from_millis(random.below(40));
                let Ok(answer) = timeout(patience, attempt).await else {
                    self.hung_up.fetch_add(1, Ordering::Relaxed);
                    continue;
                };
                answer
            } else {
                timeout(ATTEMPT_TIMEOUT, attempt).await.unwrap_or_else(|late| Err(late.to_string()))
            };
            let Ok(answer) = answer else {
                self.broken.fetch_add(1, Ordering::Relaxed);
                // The gateway is most likely dead: its successor has another address.
                let _ = timeout(Duration::from_millis(500), url.changed()).await;
                continue;
            };
            *heard = format!("{answer:?} from {now}");
            match end(&answer) {
                Some(end) => return end,
                None => self.refused.fetch_add(1, Ordering::Relaxed),
            };
        }
    }
}

/// Reads an answer: `None` if it says that repeating the call may help.
fn end(answer: &Answer) -> Option<End> {
    let Answer { evaluation_id, replayed, .. } = answer.clone();
    match answer.code.as_str() {
        "" if answer.is_result() => Some(End::Result { evaluation_id, replayed }),
        "IDEMPOTENCY_OUTCOME_UNKNOWN" => Some(End::Unknown { evaluation_id }),
        "AUDIT_UNAVAILABLE" | "IDEMPOTENCY_IN_FLIGHT" | "UPSTREAM_UNREACHABLE" => None,
        _ => panic!("an answer that nobody expects: {answer:?}"),
    }
}

/// Starts a gateway after a crash; it must serve within seconds.
fn restart(project: &Project, slowest: &mut Duration) -> Gateway {
    let gateway = project.serve();
    *slowest = gateway.started_in.max(*slowest);
    assert!(gateway.started_in < RESTART_MAX, "the restart took {:?}", gateway.started_in);
    gateway
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn t1_r_062_kill_9_at_random_moments_under_parallel_callers() {
    let plan = Plan::read();
    let started = Instant::now();
    let mut random = Random::new(plan.seed);
    let folder = tempfile::tempdir().unwrap();
    let mut upstreams = vec![upstream().await];
    let project = Project::new(folder.path(), &upstreams[0].url()).await;
    let (urls, url) = watch::channel(String::new());
    let agents = Arc::new(Agents {
        caller: Caller::new(&project.key),
        url,
        done: AtomicBool::new(false),
        broken: AtomicUsize::new(0),
        hung_up: AtomicUsize::new(0),
        refused: AtomicUsize::new(0),
    });
    let callers: Vec<_> = (0..plan.clients)
        .map(|number| tokio::spawn(Arc::clone(&agents).call(number, random.below(u64::MAX))))
        .collect();
    let killed = kill_again_and_again(&plan, &mut random, &project, &mut upstreams, &urls).await;
    agents.done.store(true, Ordering::Relaxed);
    let mut ends = Vec::new();
    for caller in callers {
        ends.extend(caller.await.unwrap());
    }
    killed.last.stop();

    let history = History::read(&project.data()).await;
    let reached: Vec<_> = upstreams.iter().flat_map(history::reached).collect();
    let counts = agree(&history, &reached, &ends);
    let report = history::sound(&project.data()).await;
    assert_eq!(report.decisions_without_outcome, []);
    assert_eq!(report.outcomes_without_decision, []);
    checkpoints_were_kept(&project.data(), &killed.checkpoints);
    say(&format!(
        "T1: {} kills and {} during the start, {} callers, seed {}, {:.0?}\n\
         T1: {} keys settled: {counts}\n\
         T1: {} calls reached the server; {} attempts broke, {} hung up, {} were refused\n\
         T1: {} leaves, {} checkpoints, {} of them public at a kill, {} gaps; slowest restart {:.2?}",
        plan.kills,
        plan.kills / START_UP_KILL,
        plan.clients,
        plan.seed,
        started.elapsed(),
        ends.len(),
        reached.len(),
        agents.broken.load(Ordering::Relaxed),
        agents.hung_up.load(Ordering::Relaxed),
        agents.refused.load(Ordering::Relaxed),
        report.size,
        report.checkpoints,
        killed.checkpoints.len(),
        report.gaps.len(),
        killed.slowest_restart,
    ));
    assert!(counts.results > plan.kills, "the run was too small to say anything");
    assert!(report.gaps.len() >= plan.kills, "a kill left no gap record");
}

/// What is left after the last kill.
struct Killed {
    last: Gateway,
    /// The checkpoints that were public when the gateway died.
    checkpoints: Vec<Vec<u8>>,
    slowest_restart: Duration,
}

/// Kills the gateway at random moments, some of them during its start, and restarts it each time.
async fn kill_again_and_again(
    plan: &Plan,
    random: &mut Random,
    project: &Project,
    upstreams: &mut Vec<FakeUpstream>,
    urls: &watch::Sender<String>,
) -> Killed {
    let (mut checkpoints, mut slowest_restart) = (Vec::new(), Duration::ZERO);
    let mut gateway = restart(project, &mut slowest_restart);
    urls.send_replace(gateway.url.clone());
    for kill in 1..=plan.kills {
        tokio::time::sleep(Duration::from_millis(random.below(plan.life_ms))).await;
        gateway.kill();
        checkpoints.extend(std::fs::read(project.data().join("log/checkpoint")).ok());
        if kill % START_UP_KILL == 0 {
            let mut early = project.start();
            tokio::time::sleep(Duration::from_millis(random.below(300))).await;
            early.kill();
        }
        if kill % KILLS_PER_UPSTREAM == 0 {
            upstreams.push(upstream().await);
            project.use_upstream(&upstreams.last().unwrap().url());
        }
        gateway = restart(project, &mut slowest_restart);
        urls.send_replace(gateway.url.clone());
    }
    Killed { last: gateway, checkpoints, slowest_restart }
}

async fn upstream() -> FakeUpstream {
    let upstream = FakeUpstream::start().await.unwrap();
    upstream.behave(Behaviour::Late(SERVER_TIME));
    upstream
}

#[derive(Default)]
struct Counts {
    results: usize,
    replayed: usize,
    unknown: usize,
    open_at_a_kill: usize,
    open_but_reached: usize,
}

impl std::fmt::Display for Counts {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { results, replayed, unknown, open_at_a_kill, open_but_reached } = self;
        write!(
            f,
            "{results} with a result ({replayed} replayed), {unknown} unknown; {open_at_a_kill} \
             decisions ended `unknown`, {open_but_reached} of them had reached the server"
        )
    }
}

/// Compares the ledger with what the server saw and what the agents were told.
fn agree(history: &History, reached: &[Reached], ends: &[(String, End)]) -> Counts {
    let mut counts = Counts::default();
    let (mut by_key, mut ids) = (HashMap::new(), HashSet::new());
    for call in reached {
        let id = call.evaluation_id.as_str();
        assert!(history.allows(id), "forwarded without a decision in the log: {call:?}");
        let outcome = history.outcome(id);
        assert!(
            matches!(outcome, Some("executed" | "unknown")),
            "{call:?}: {:?}",
            history.outcomes.get(id)
        );
        assert!(ids.insert(id), "forwarded twice: {call:?}");
        let other = by_key.insert(call.idempotency_key.as_str(), id);
        assert_eq!(other, None, "forwarded twice for one key: {call:?}");
    }
    for (key, end) in ends {
        match end {
            End::Result { evaluation_id: id, replayed } => {
                assert_eq!(
                    by_key.get(key.as_str()),
                    Some(&id.as_str()),
                    "{key}: a result from nowhere"
                );
                assert_eq!(history.outcome(id), Some("executed"), "{key}: answered, not recorded");
                counts.results += 1;
                counts.replayed += usize::from(*replayed);
            }
            End::Unknown { evaluation_id: id } => {
                let verdict = history.verdicts.get(id).map(String::as_str);
                assert_eq!(verdict, Some("deny"), "{key}: refused without a record");
                if let Some(first) = by_key.get(key.as_str()) {
                    assert_eq!(history.outcome(first), Some("unknown"), "{key}");
                }
                counts.unknown += 1;
            }
        }
    }
    for id in history.verdicts.keys().filter(|id| history.allows(id)) {
        let outcomes = history.outcomes.get(id);
        match history.outcome(id) {
            Some("executed") => assert!(ids.contains(id.as_str()), "{id}: executed, says the log"),
            Some("not_forwarded") => assert!(!ids.contains(id.as_str()), "{id}: it was forwarded"),
            Some("unknown") => {
                counts.open_at_a_kill += 1;
                counts.open_but_reached += usize::from(ids.contains(id.as_str()));
            }
            _ => panic!("{id}: one outcome was expected, not {outcomes:?}"),
        }
    }
    counts
}

/// Checks that every checkpoint that was public at a kill is still part of the log, which is verified:
/// its root follows from the entries at that size.
fn checkpoints_were_kept(data: &Path, kept: &[Vec<u8>]) {
    let key = [history::vkey(data)];
    for note in kept {
        let then = Checkpoint::open(note, &key).unwrap();
        let now = std::fs::read(data.join("log/checkpoints").join(then.size.to_string())).unwrap();
        let now = Checkpoint::open(&now, &key).unwrap();
        assert_eq!((now.size, now.root), (then.size, then.root), "a published checkpoint changed");
    }
}

/// Waits until the ledger has an allowed call, and gives its id.
async fn allowed_call(data: &Path) -> String {
    let started = Instant::now();
    loop {
        let history = History::read(data).await;
        if let Some(id) = history.verdicts.keys().find(|id| history.allows(id)) {
            return id.clone();
        }
        assert!(started.elapsed() < RESTART_MAX, "no call was allowed");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Calls, kills the gateway when the server at `url` has the call or never will, restarts it with
/// another server, and checks what it says of the call.
async fn killed_in_the_middle(url: &str, forwarded: impl AsyncFnOnce()) {
    let folder = tempfile::tempdir().unwrap();
    let second = FakeUpstream::start().await.unwrap();
    let project = Project::new(folder.path(), &second.url()).await;
    let caller = Caller::new(&project.key);
    project.use_upstream(url);
    let mut gateway = project.serve();
    let call = tokio::spawn({
        let (caller, url) = (caller.clone(), gateway.url.clone());
        async move { caller.echo(&url, "pay", "one").await }
    });
    let id = allowed_call(&project.data()).await;
    forwarded().await;
    assert!(!call.is_finished(), "the call was over before the kill");
    gateway.kill();
    assert!(call.await.unwrap().is_err(), "nobody answers from the grave");

    project.use_upstream(&second.url());
    let gateway = project.serve();
    for _ in 0..3 {
        let again = caller.echo(&gateway.url, "pay", "one").await.unwrap();
        assert_eq!((again.status, again.code.as_str()), (409, "IDEMPOTENCY_OUTCOME_UNKNOWN"));
    }
    gateway.stop();
    let history = History::read(&project.data()).await;
    assert_eq!(history.outcome(&id), Some("unknown"));
    assert!(second.calls().is_empty(), "the call was made a second time");
    assert_eq!(history::sound(&project.data()).await.gaps.len(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn r_030_killed_between_decision_and_forward_the_server_sees_nothing() {
    // Whoever connects waits for ever: the decision is durable, the call has nowhere to go.
    let server = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/mcp", server.local_addr().unwrap());
    killed_in_the_middle(&url, async || {}).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn r_030_killed_after_forwarding_no_second_call_is_made() {
    let server = FakeUpstream::start().await.unwrap();
    server.behave(Behaviour::Stall);
    killed_in_the_middle(&server.url(), async || server.wait_for_calls(1).await).await;
    assert_eq!(server.calls().len(), 1);
}
