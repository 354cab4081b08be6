//! How the anchors fare: said when it changes, and kept in a file for `countersign doctor`.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use countersign_store::Clock as _;
use serde::{Deserialize, Serialize};
use tokio::time::Instant;

use super::age::Age;
use crate::clock::SystemClock;

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

/// All anchors of a gateway.
pub(super) struct Board {
    path: PathBuf,
    state: Mutex<State>,
}

struct State {
    statuses: Statuses,
    age: Age,
}

impl Board {
    /// Makes the board of these anchors; what an earlier gateway anchored stays anchored.
    pub(super) fn new(path: PathBuf, names: &[&'static str]) -> Self {
        let Statuses { mut anchors, .. } = read(&path);
        anchors.retain(|name, _| names.contains(&name.as_str()));
        anchors.values_mut().for_each(|status| status.error = None);
        let statuses = Statuses { anchors, refusing: false };
        let board =
            Self { path, state: Mutex::new(State { statuses, age: Age::new(Instant::now()) }) };
        board.write(&board.lock());
        board
    }

    /// Returns the age of the newest anchored checkpoint.
    pub(super) fn age(&self) -> Duration {
        self.lock().age.at(Instant::now())
    }

    /// Notes that a checkpoint is published; `written` was read before it.
    pub(super) fn published(&self, size: u64, written: u64) {
        self.lock().age.published(size, written, Instant::now());
    }

    /// Notes how many records there are, in the log and of this gateway.
    pub(super) fn records(&self, size: u64, written: u64) {
        self.lock().age.records(size, written, Instant::now());
    }

    /// Notes that calls are refused, or are not any more.
    pub(super) fn refusing(&self, refusing: bool) {
        let mut state = self.lock();
        state.statuses.refusing = refusing;
        self.write(&state);
    }

    /// Notes that an anchor took the first `size` records.
    pub(super) fn anchored(&self, name: &'static str, size: u64) {
        let mut state = self.lock();
        state.age.anchored(size);
        let (size, time_ms) = (Some(size), Some(SystemClock.now_ms()));
        let status = Status { size, time_ms, error: None };
        let before = state.statuses.anchors.insert(name.to_owned(), status);
        if before.is_some_and(|before| before.error.is_some()) {
            tracing::warn!(anchor = name, size, "the log is anchored again");
        }
        self.write(&state);
    }

    /// Notes that an anchor failed, and why.
    pub(super) fn failed(&self, name: &'static str, error: &str) {
        let mut state = self.lock();
        let status = state.statuses.anchors.entry(name.to_owned()).or_default();
        // Said once: the next reason may differ from this one in no more than a time.
        if status.error.replace(error.to_owned()).is_none() {
            tracing::warn!(anchor = name, "the log is not anchored: {error}");
        }
        self.write(&state);
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Leaves the state for `doctor`. Nothing depends on it, so it need not be durable.
    fn write(&self, state: &State) {
        let beside = self.path.with_extension("json.new");
        let text = serde_json::to_vec(&state.statuses).map_err(std::io::Error::other);
        let written = text
            .and_then(|text| std::fs::write(&beside, text))
            .and_then(|()| std::fs::rename(&beside, &self.path));
        if let Err(error) = written {
            tracing::debug!("{}: {error}", self.path.display());
        }
    }
}
