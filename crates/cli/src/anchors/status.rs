//! How the anchors fare: said when it changes, and kept in a file for `countersign doctor`.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use countersign_store::Clock as _;
use serde::{Deserialize, Serialize};
use tokio::sync::{oneshot, watch};
use tokio::time::{Instant, timeout};

use super::age::Age;
use crate::clock::SystemClock;

/// How long a write of the file may take before it is said that it hangs.
const WRITE_WAIT: Duration = Duration::from_secs(5);

/// How one anchor fares.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Status {
    /// The size of the log that was anchored last.
    pub(crate) size: Option<u64>,
    /// When that was, in Unix milliseconds.
    pub(crate) time_ms: Option<i64>,
    /// Why the last round failed, if it did.
    pub(crate) error: Option<String>,
}

/// How all of them fare.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Statuses {
    /// By name.
    #[serde(flatten)]
    pub(crate) anchors: BTreeMap<String, Status>,
    /// Whether calls are refused because none of them has taken a checkpoint for too long.
    #[serde(default)]
    pub(crate) refusing: bool,
}

/// Reads what a gateway left behind about its anchors.
pub(crate) fn read(path: &Path) -> Statuses {
    let text = std::fs::read(path).unwrap_or_default();
    serde_json::from_slice(&text).unwrap_or_default()
}

impl Statuses {
    /// Reads what an earlier gateway left behind about these anchors: what they took stays anchored.
    pub(super) fn left(path: &Path, names: &[&'static str]) -> Self {
        let Self { mut anchors, .. } = read(path);
        anchors.retain(|name, _| names.contains(&name.as_str()));
        anchors.values_mut().for_each(|status| status.error = None);
        Self { anchors, refusing: false }
    }

    /// Returns how many records of a log of `size` are anchored. More than it has are none.
    pub(super) fn anchored(&self, size: u64) -> u64 {
        let sizes = self.anchors.values().filter_map(|status| status.size);
        sizes.filter(|anchored| *anchored <= size).max().unwrap_or(0)
    }
}

/// All anchors of a gateway. Nothing here waits for the disk.
pub(super) struct Board {
    age: Mutex<Age>,
    statuses: watch::Sender<Statuses>,
}

impl Board {
    /// Makes the board with what an earlier gateway left of its anchors, and the age of what waits for them.
    pub(super) fn new(path: &Path, statuses: Statuses, age: Age) -> Self {
        write(path, &statuses);
        Self { age: Mutex::new(age), statuses: watch::Sender::new(statuses) }
    }

    /// Returns the age of the newest anchored checkpoint.
    pub(super) fn age(&self) -> Duration {
        self.lock().at(Instant::now())
    }

    /// Notes that a checkpoint is published; `written` was read before it.
    pub(super) fn published(&self, size: u64, written: u64) {
        self.lock().published(size, written, Instant::now());
    }

    /// Notes how many records there are, in the log and of this gateway.
    pub(super) fn records(&self, size: u64, written: u64) {
        self.lock().records(size, written, Instant::now());
    }

    /// Notes that calls are refused, or are not any more.
    pub(super) fn refusing(&self, refusing: bool) {
        self.statuses.send_modify(|statuses| statuses.refusing = refusing);
    }

    /// Notes that an anchor took the first `size` records.
    pub(super) fn anchored(&self, name: &'static str, size: u64) {
        self.lock().anchored(size);
        let (size, time_ms) = (Some(size), Some(SystemClock.now_ms()));
        let status = Status { size, time_ms, error: None };
        let mut before = None;
        self.statuses.send_modify(|all| before = all.anchors.insert(name.to_owned(), status));
        if before.is_some_and(|before| before.error.is_some()) {
            tracing::warn!(anchor = name, size, "the log is anchored again");
        }
    }

    /// Notes that an anchor failed, and why.
    pub(super) fn failed(&self, name: &'static str, error: &str) {
        let mut before = None;
        self.statuses.send_modify(|all| {
            let status = all.anchors.entry(name.to_owned()).or_default();
            before = status.error.replace(error.to_owned());
        });
        // Said once: the next reason may differ from this one in no more than a time.
        if before.is_none() {
            tracing::warn!(anchor = name, "the log is not anchored: {error}");
        }
    }

    /// Leaves what the board says in a file for `doctor`, whenever it changes, for as long as the board is there.
    pub(super) fn keep(&self, path: PathBuf) -> impl Future<Output = ()> + use<> {
        let mut statuses = self.statuses.subscribe();
        async move {
            while statuses.changed().await.is_ok() {
                let now = statuses.borrow_and_update().clone();
                write_beside(&path, now).await;
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, Age> {
        self.age.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Writes the file in a thread of its own, for which no stop of the program waits; one at a time.
async fn write_beside(path: &Path, statuses: Statuses) {
    let (done, mut written) = oneshot::channel();
    let file = path.to_owned();
    let thread = std::thread::Builder::new().spawn(move || {
        write(&file, &statuses);
        let _ = done.send(());
    });
    if let Err(error) = thread {
        tracing::warn!("{}: {error}", path.display());
    }
    if timeout(WRITE_WAIT, &mut written).await.is_err() {
        tracing::warn!("{}: the disk hangs, so `doctor` reads what was before", path.display());
        let _ = written.await;
    }
}

/// Writes the file. Nothing depends on it, so it need not be durable.
fn write(path: &Path, statuses: &Statuses) {
    let beside = path.with_extension("json.new");
    let text = serde_json::to_vec(statuses).map_err(std::io::Error::other);
    let written = text
        .and_then(|text| std::fs::write(&beside, text))
        .and_then(|()| std::fs::rename(&beside, path));
    if let Err(error) = written {
        tracing::debug!("{}: {error}", path.display());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_anchored_counts_as_far_as_the_log_has_it() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("anchors.json");
        let left = |text: &str| {
            std::fs::write(&path, text).unwrap();
            Statuses::left(&path, &["git", "witnesses"]).anchored(9)
        };
        assert_eq!(left(r#"{"git": {"size": 7}, "witnesses": {"size": 9}}"#), 9);
        assert_eq!(left(r#"{"git": {"size": 7}, "witnesses": {"size": 10}}"#), 7);
        assert_eq!(left(r#"{"timestamp": {"size": 9}}"#), 0, "that anchor is no more");
        assert_eq!(left("damaged"), 0);
    }

    #[tokio::test]
    async fn a_disk_that_hangs_holds_up_nobody() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("anchors.json");
        let age = Age::new(0, Duration::ZERO, Instant::now());
        let board = Board::new(&path, Statuses::default(), age);
        let keeper = tokio::spawn(board.keep(path.clone()));
        // Opening it for writing waits until somebody reads.
        let stalled = path.with_extension("json.new");
        let made = std::process::Command::new("mkfifo").arg(&stalled).status().unwrap();
        assert!(made.success());
        let started = Instant::now();
        for size in 0..3 {
            board.anchored("git", size);
            board.failed("git", "it is away");
            board.refusing(true);
            tokio::task::yield_now().await;
            assert!(board.age() < Duration::from_secs(60));
        }
        assert!(started.elapsed() < WRITE_WAIT, "somebody waited for the disk");
        assert!(!read(&path).refusing);

        // It is back: what is newest is written.
        let first = tokio::task::spawn_blocking(move || std::fs::read(stalled));
        assert!(!first.await.unwrap().unwrap().is_empty());
        drop(board);
        keeper.await.unwrap();
        let left = read(&path);
        assert!(left.refusing && left.anchors["git"].size == Some(2), "{left:?}");
    }
}
