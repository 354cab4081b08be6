//! How the anchors fare: said when it changes, and kept in a file for `countersign doctor`.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use countersign_store::Clock as _;
use serde::{Deserialize, Serialize};
use tokio::time::Instant;

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

/// Reads what a gateway left behind about its anchors, by name.
pub(crate) fn read(path: &Path) -> BTreeMap<String, Status> {
    let text = std::fs::read(path).unwrap_or_default();
    serde_json::from_slice(&text).unwrap_or_default()
}

/// All anchors of a gateway.
pub(super) struct Board {
    path: PathBuf,
    state: Mutex<State>,
}

struct State {
    anchors: BTreeMap<String, Status>,
    anchored: Instant,
}

impl Board {
    /// Makes the board of these anchors; what an earlier gateway anchored stays anchored.
    pub(super) fn new(path: PathBuf, names: &[&'static str]) -> Self {
        let mut anchors = read(&path);
        anchors.retain(|name, _| names.contains(&name.as_str()));
        anchors.values_mut().for_each(|status| status.error = None);
        Self { path, state: Mutex::new(State { anchors, anchored: Instant::now() }) }
    }

    /// Returns the time since any anchor took a checkpoint, or since the start.
    pub(super) fn age(&self) -> Duration {
        self.lock().anchored.elapsed()
    }

    /// Notes that an anchor took the first `size` records.
    pub(super) fn anchored(&self, name: &'static str, size: u64) {
        let mut state = self.lock();
        state.anchored = Instant::now();
        let (size, time_ms) = (Some(size), Some(SystemClock.now_ms()));
        let before = state.anchors.insert(name.to_owned(), Status { size, time_ms, error: None });
        if before.is_some_and(|before| before.error.is_some()) {
            tracing::warn!(anchor = name, size, "the log is anchored again");
        }
        self.write(&state);
    }

    /// Notes that an anchor failed, and why.
    pub(super) fn failed(&self, name: &'static str, error: &str) {
        let mut state = self.lock();
        let status = state.anchors.entry(name.to_owned()).or_default();
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
        let text = serde_json::to_vec(&state.anchors).map_err(std::io::Error::other);
        let written = text
            .and_then(|text| std::fs::write(&beside, text))
            .and_then(|()| std::fs::rename(&beside, &self.path));
        if let Err(error) = written {
            tracing::debug!("{}: {error}", self.path.display());
        }
    }
}
