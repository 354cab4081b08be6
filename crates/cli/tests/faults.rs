//! T4, T5: the ledger cannot be written for a while, in five ways. Calls must be refused in time, none
//! of them may reach the server, and service must resume by itself.
//!
//! A fault that this machine does not allow (mounting needs root) is named on standard error as not run.

#![cfg(test)]

mod harness {
    pub(crate) mod caller;
    pub(crate) mod history;
    pub(crate) mod project;
    pub(crate) mod settings;
}

use std::collections::HashSet;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use countersign_testkit::{Behaviour, FakeUpstream};
use harness::caller::{Answer, Caller};
use harness::history::{self, History};
use harness::project::{Gateway, Project};
use harness::settings::{say, setting};
use sqlx::{Connection as _, SqliteConnection};

/// Agents that call at the same time.
const CALLERS: usize = 64;
/// The time that a commit may take, and what a loaded machine adds to it.
const REFUSED_WITHIN: Duration = Duration::from_millis(2_000 + 3_000);
/// How soon after the fault the first call must go through.
const RESUMED_WITHIN: Duration = Duration::from_secs(10);
/// What the gateway's memory may grow by while calls are refused, in KiB.
const GROWTH_KIB_MAX: u64 = 64 * 1024;

/// How long a fault lasts: `COUNTERSIGN_FAULT_SECONDS`.
fn fault_time() -> Duration {
    Duration::from_secs(setting("COUNTERSIGN_FAULT_SECONDS", 5))
}

/// A gateway that served well until now.
struct Scene {
    name: &'static str,
    upstream: FakeUpstream,
    project: Project,
    caller: Caller,
    gateway: Gateway,
    /// Calls that were answered with a result.
    answered: usize,
}

impl Scene {
    async fn new(name: &'static str, root: &Path) -> Self {
        Self::with(name, root, Project::serve).await
    }

    async fn with(name: &'static str, root: &Path, serve: fn(&Project) -> Gateway) -> Self {
        let upstream = FakeUpstream::start().await.unwrap();
        let project = Project::new(root, &upstream.url()).await;
        let (caller, gateway) = (Caller::new(&project.key), serve(&project));
        let mut scene = Self { name, upstream, project, caller, gateway, answered: 0 };
        for number in 0..3 {
            let answer = scene.call(&format!("before-{number}")).await;
            assert!(answer.is_result(), "{answer:?}");
            scene.answered += 1;
        }
        scene
    }

    async fn call(&self, key: &str) -> Answer {
        self.caller.echo(&self.gateway.url, key, key).await.unwrap()
    }

    /// Calls in waves while the fault lasts; every call must be refused in time. Returns the keys.
    async fn all_refused(&self) -> Vec<String> {
        let (started, memory) = (Instant::now(), self.memory_kib());
        let (mut keys, mut slowest) = (Vec::new(), Duration::ZERO);
        while keys.is_empty() || started.elapsed() < fault_time() {
            let wave: Vec<_> = (0..CALLERS).map(|n| format!("during-{}", keys.len() + n)).collect();
            let calls = wave.iter().map(|key| {
                let (caller, url) = (self.caller.clone(), self.gateway.url.clone());
                let key = key.clone();
                tokio::spawn(async move {
                    let started = Instant::now();
                    (caller.echo(&url, &key, &key).await.unwrap(), started.elapsed())
                })
            });
            for call in calls.collect::<Vec<_>>() {
                let (answer, took) = call.await.unwrap();
                assert_eq!((answer.status, answer.code.as_str()), (503, "AUDIT_UNAVAILABLE"));
                assert!(took < REFUSED_WITHIN, "a refusal took {took:?}");
                slowest = slowest.max(took);
            }
            keys.extend(wave);
        }
        assert_eq!(self.upstream.calls().len(), self.answered, "a refused call was forwarded");
        let grown = self.memory_kib().saturating_sub(memory);
        assert!(grown < GROWTH_KIB_MAX, "memory grew by {grown} KiB");
        say(&format!(
            "{}: {} calls refused in {:.1?}, the slowest after {slowest:.1?}; 0 forwarded; memory \
             grew by {grown} KiB",
            self.name,
            keys.len(),
            started.elapsed(),
        ));
        keys
    }

    /// Waits until calls go through again, then repeats the refused ones, and closes the books.
    async fn resumes(mut self, refused: &[String]) {
        let ended = Instant::now();
        let mut tries = 0;
        while !self.call(&format!("after-{tries}")).await.is_result() {
            assert!(ended.elapsed() < RESUMED_WITHIN, "service did not resume");
            tries += 1;
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        say(&format!("{}: resumed {:.1?} after the fault ended", self.name, ended.elapsed()));
        self.answered += 1;
        for key in refused.iter().step_by(refused.len() / 20 + 1) {
            let answer = self.call(key).await;
            assert!(answer.is_result() && !answer.replayed, "{key} repeated: {answer:?}");
            self.answered += 1;
        }
        self.gateway.stop();
        let calls = history::reached(&self.upstream);
        assert_eq!(calls.len(), self.answered);
        let history = History::read(&self.project.data()).await;
        let mut keys = HashSet::new();
        for call in &calls {
            assert!(keys.insert(&call.idempotency_key), "forwarded twice: {call:?}");
            assert!(history.allows(&call.evaluation_id), "{call:?}");
            assert_eq!(history.outcome(&call.evaluation_id), Some("executed"), "{call:?}");
        }
        let executed = |id: &&String| history.outcome(id) == Some("executed");
        assert_eq!(history.outcomes.keys().filter(executed).count(), calls.len());
        let report = history::sound(&self.project.data()).await;
        assert_eq!(report.decisions_without_outcome, []);
    }

    fn memory_kib(&self) -> u64 {
        let path = format!("/proc/{}/status", self.gateway.child.id());
        let status = std::fs::read_to_string(path).unwrap_or_default();
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
        line.and_then(|line| line.split_whitespace().next()?.parse().ok()).unwrap_or(0)
    }
}

/// Runs a program of the system; its complaint is the error.
fn system(program: &str, args: &[&str]) -> Result<(), String> {
    let output = Command::new(program)
        .args(args)
        .output()
        .map_err(|error| format!("`{program}` cannot be run: {error}"))?;
    let complaint = String::from_utf8_lossy(&output.stderr);
    if output.status.success() { Ok(()) } else { Err(format!("{program}: {}", complaint.trim())) }
}

/// A file system of its own, as long as it lives.
struct Mount {
    path: PathBuf,
    frozen: bool,
    _folder: tempfile::TempDir,
}

impl Mount {
    /// Mounts a file system in memory.
    fn memory(size: &str) -> Result<Self, String> {
        Self::new(|_, path| system("mount", &["-t", "tmpfs", "-o", size, "tmpfs", path]))
    }

    /// Mounts an ext4 image.
    fn image() -> Result<Self, String> {
        Self::new(|folder, path| {
            let image = folder.join("image");
            let file = std::fs::File::create(&image).map_err(|error| error.to_string())?;
            file.set_len(64 << 20).map_err(|error| error.to_string())?;
            let image = image.to_str().unwrap();
            system("mkfs.ext4", &["-q", image])?;
            system("mount", &["-o", "loop", image, path])
        })
    }

    fn new(mount: impl FnOnce(&Path, &str) -> Result<(), String>) -> Result<Self, String> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("mounted");
        std::fs::create_dir(&path).unwrap();
        mount(folder.path(), path.to_str().unwrap())?;
        Ok(Self { path, frozen: false, _folder: folder })
    }

    fn project(&self) -> PathBuf {
        let root = self.path.join("project");
        std::fs::create_dir_all(&root).unwrap();
        root
    }

    /// Stops every write, until they are let go on.
    fn freeze(&mut self, frozen: bool) {
        let what = if frozen { "-f" } else { "-u" };
        system("fsfreeze", &[what, self.path.to_str().unwrap()]).unwrap();
        self.frozen = frozen;
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        let path = self.path.to_str().unwrap();
        if self.frozen {
            let _ = system("fsfreeze", &["-u", path]);
        }
        // A gateway that a failed test left behind may still be ending.
        let _ = system("umount", &[path]).or_else(|_| system("umount", &["-l", path]));
    }
}

/// Gives what a fault needs, or says that the test was not run.
fn needed<T>(name: &str, got: Result<T, String>) -> Option<T> {
    got.map_err(|reason| say(&format!("{name}: NOT RUN, {reason}"))).ok()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn t4_r_060_a_full_disk_refuses_calls_and_service_resumes_when_space_is_freed() {
    let name = "disk full";
    let Some(mount) = needed(name, Mount::memory("size=16m")) else { return };
    let scene = Scene::new(name, &mount.project()).await;
    let ballast = mount.path.join("ballast");
    let mut file = std::fs::File::create(&ballast).unwrap();
    while file.write_all(&[0; 4_096]).is_ok() {}
    drop(file);
    let refused = scene.all_refused().await;
    std::fs::remove_file(ballast).unwrap();
    scene.resumes(&refused).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn t4_r_060_failing_writes_refuse_calls_and_service_resumes() {
    // Needs no rights: no file may grow past one byte, and the signal that says so is ignored.
    let name = "writes fail";
    let folder = tempfile::tempdir().unwrap();
    let scene = Scene::with(name, folder.path(), serve_without_xfsz).await;
    let pid = scene.gateway.child.id().to_string();
    let limit = |bytes: &str| system("prlimit", &["--pid", &pid, &format!("--fsize={bytes}:")]);
    let Some(()) = needed(name, limit("1")) else { return };
    let refused = scene.all_refused().await;
    limit("unlimited").unwrap();
    scene.resumes(&refused).await;
}

/// Starts the gateway as a process that a write past the limit of file sizes does not end.
fn serve_without_xfsz(project: &Project) -> Gateway {
    let serve = project.command(&["serve", "--json"]);
    let mut command = Command::new("sh");
    command.args(["-c", "trap '' XFSZ; exec \"$@\"", "sh"]);
    command.arg(serve.get_program()).args(serve.get_args());
    let mut gateway = Gateway::spawn(command);
    gateway.ready();
    gateway
}

/// Makes files unchangeable, also for those who have them open; undone at the end.
struct Immutable(Vec<PathBuf>);

impl Immutable {
    fn set(files: Vec<PathBuf>) -> Result<Self, String> {
        let made = Self(files);
        made.change("+i").map(|()| made)
    }

    fn change(&self, how: &str) -> Result<(), String> {
        let files = self.0.iter().map(|file| file.to_str().unwrap());
        system("chattr", &[how].into_iter().chain(files).collect::<Vec<_>>())
    }
}

impl Drop for Immutable {
    fn drop(&mut self) {
        let _ = self.change("-i");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn t4_r_060_a_database_that_turns_read_only_refuses_calls_and_service_resumes() {
    let name = "read-only database";
    let folder = tempfile::tempdir().unwrap();
    let probe = folder.path().join("probe");
    std::fs::write(&probe, "").unwrap();
    let Some(immutable) = needed(name, Immutable::set(vec![probe.clone()])) else { return };
    if std::fs::write(&probe, "x").is_ok() {
        return say(&format!("{name}: NOT RUN, this file system ignores chattr +i"));
    }
    drop(immutable);
    std::fs::remove_file(probe).unwrap();

    let scene = Scene::new(name, folder.path()).await;
    let database = scene.project.data().join("countersign.db");
    let wal = scene.project.data().join("countersign.db-wal");
    let immutable = Immutable::set(vec![database, wal]).unwrap();
    let refused = scene.all_refused().await;
    drop(immutable);
    scene.resumes(&refused).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn t5_a_locked_database_refuses_calls_at_the_deadline_and_service_resumes() {
    let folder = tempfile::tempdir().unwrap();
    let scene = Scene::new("locked database", folder.path()).await;
    let lock = Lock::take(&scene.project).await;
    let refused = scene.all_refused().await;
    lock.release().await;
    scene.resumes(&refused).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn t5_a_stalled_disk_refuses_calls_at_the_deadline_and_service_resumes() {
    let name = "stalled disk";
    let Some(mut mount) = needed(name, Mount::image()) else { return };
    let scene = Scene::new(name, &mount.project()).await;
    mount.freeze(true);
    let refused = scene.all_refused().await;
    mount.freeze(false);
    scene.resumes(&refused).await;
}

/// The database's only write lock.
struct Lock(SqliteConnection);

impl Lock {
    async fn take(project: &Project) -> Self {
        let path = project.data().join("countersign.db");
        let options = sqlx::sqlite::SqliteConnectOptions::new().filename(path);
        let mut conn = SqliteConnection::connect_with(&options).await.unwrap();
        sqlx::raw_sql("BEGIN IMMEDIATE").execute(&mut conn).await.unwrap();
        Self(conn)
    }

    async fn release(mut self) {
        sqlx::raw_sql("ROLLBACK").execute(&mut self.0).await.unwrap();
        self.0.close().await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_answer_whose_outcome_cannot_be_recorded_is_withheld_and_the_call_is_not_repeated() {
    let folder = tempfile::tempdir().unwrap();
    let upstream = FakeUpstream::start().await.unwrap();
    upstream.behave(Behaviour::Late(Duration::from_millis(500)));
    let project = Project::new(folder.path(), &upstream.url()).await;
    let (caller, gateway) = (Caller::new(&project.key), project.serve());
    let call = tokio::spawn({
        let (caller, url) = (caller.clone(), gateway.url.clone());
        async move { caller.echo(&url, "pay", "once").await.unwrap() }
    });
    upstream.wait_for_calls(1).await;
    let lock = Lock::take(&project).await;
    let answer = call.await.unwrap();
    assert_eq!((answer.status, answer.code.as_str()), (503, "AUDIT_UNAVAILABLE"));
    lock.release().await;

    // How the call ended is recorded as soon as it can be; what it gave is gone.
    let again = caller.echo(&gateway.url, "pay", "once").await.unwrap();
    assert_eq!((again.status, again.code.as_str()), (410, "IDEMPOTENCY_RESULT_GONE"));
    gateway.stop();
    assert_eq!(upstream.calls().len(), 1);
    let history = History::read(&project.data()).await;
    assert_eq!(history.outcome(&answer.evaluation_id), Some("executed"));
    history::sound(&project.data()).await;
}
