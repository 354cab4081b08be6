//! Has others vouch for the log's checkpoints: a list of anchors, each asked again and again.
//!
//! Nothing here holds up a call: every anchor runs beside the gateway, with deadlines of its own, and one
//! that fails is tried again later and later, at most once in its interval. What came of each is in
//! `anchors.json`, where `countersign doctor` reads it. Once the newest anchored checkpoint is too old, the log
//! file says so and, if the operator wants it, calls are refused until there is a newer one.

mod age;
mod git;
mod http;
pub(crate) mod objects;
pub(crate) mod status;
pub(crate) mod timestamp;
mod witnesses;

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use countersign_console::BoxFuture;
use countersign_gateway::Gate;
use countersign_ledger::tree::verify_consistency;
use countersign_ledger::{Checkpoint, LeafIndex, Note};
use countersign_store::{Clock as _, Reader, Store};
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::Instant;

use crate::clock::SystemClock;
use crate::config;
use crate::paths::Paths;
use age::Age;
use http::Http;
use status::{Board, Statuses};

/// The first pause after a failure; it doubles with each further one, up to the anchor's interval.
const BACKOFF: Duration = Duration::from_secs(5);
/// The pause between two looks for a first checkpoint, or at the age of the one that is anchored.
const LOOK: Duration = Duration::from_secs(1);
/// Time limit for reading what the log has now, below `LOOK`: a read that stalls keeps no gate open.
const READ_WAIT: Duration = Duration::from_millis(500);
/// The least `max_unanchored_age` that is taken if none is configured.
const UNANCHORED_AGE: Duration = Duration::from_secs(600);

/// A way to have a checkpoint kept, or vouched for, outside of the operator's control.
trait Anchor: Send {
    /// The name of its kind.
    fn name(&self) -> &'static str;

    /// Anchors the published checkpoint; returns the size of the log that is anchored now. It has a
    /// deadline of its own, and may be dropped at any time.
    fn anchor<'a>(
        &'a mut self,
        checkpoint: &'a Checkpoint,
        note: &'a Note,
    ) -> BoxFuture<'a, anyhow::Result<u64>>;
}

/// Starts what `[anchors]` names; `None` if that is nothing.
pub(crate) async fn start(
    store: &Store,
    reader: &Reader,
    config: &config::Anchors,
    paths: &Paths,
    gate: &Gate,
) -> anyhow::Result<Option<JoinHandle<()>>> {
    let anchors = list(store, reader, config, paths)?;
    let shortest = anchors.iter().map(|(_, interval)| *interval).min();
    let refuse_after = config.refuse_unanchored_after.map(|age| age.0);
    if let Some(after) = refuse_after {
        let least = shortest.context("anchors.refuse_unanchored_after needs an anchor")? * 2;
        ensure!(
            after >= least,
            "anchors.refuse_unanchored_after is below two intervals, {least:?}"
        );
    }
    let Some(shortest) = shortest else {
        // What an earlier gateway left is of anchors that are no more.
        let _ = std::fs::remove_file(paths.anchors());
        return Ok(None);
    };
    let names: Vec<_> = anchors.iter().map(|(anchor, _)| anchor.name()).collect();
    let left = Statuses::left(&paths.anchors(), &names);
    let age = age_of(reader, &left).await?;
    let board = Arc::new(Board::new(&paths.anchors(), left, age));
    if refuse_after.is_some_and(|after| board.age() > after) {
        gate.set_closed(true);
        board.refusing(true);
        tracing::error!("calls are refused: the log has not been anchored for long");
    }
    let oldest = config.max_unanchored_age.map_or(UNANCHORED_AGE.max(2 * shortest), |age| age.0);
    let mut running = JoinSet::new();
    running.spawn(board.keep(paths.anchors()));
    let records = reader.size().await?;
    for (anchor, interval) in anchors {
        running.spawn(run(anchor, interval, records, store.clone(), Arc::clone(&board)));
    }
    let watched = Watched { board, store: store.clone(), reader: reader.clone() };
    running.spawn(watch(watched, oldest, refuse_after, gate.clone()));
    Ok(Some(tokio::spawn(async move { while running.join_next().await.is_some() {} })))
}

/// Makes the anchors that are configured, with the pause between two rounds of each.
fn list(
    store: &Store,
    reader: &Reader,
    config: &config::Anchors,
    paths: &Paths,
) -> anyhow::Result<Vec<(Box<dyn Anchor>, Duration)>> {
    let mut anchors: Vec<(Box<dyn Anchor>, Duration)> = Vec::new();
    let (http, root) = (Http::new(), &paths.root);
    if let Some(policy) = &config.policy {
        let witnesses = witnesses::Witnesses::new(store, &root.join(policy), &http)?;
        anchors.push((Box::new(witnesses), config.interval.0));
    }
    if let Some(timestamp) = &config.timestamp {
        let authority = timestamp::Authority::new(store, timestamp, paths, &http)?;
        anchors.push((Box::new(authority), timestamp.interval.0));
    }
    if let Some(git) = &config.git {
        let remote = git::Remote::new(store, reader, git, paths.anchor_repository())?;
        anchors.push((Box::new(remote), git.interval.0));
    }
    if let Some(objects) = &config.object_store {
        let copy = objects::Copy::new(store, objects, paths.log())?;
        anchors.push((Box::new(copy), objects.interval.0));
    }
    Ok(anchors)
}

/// Returns the age of the first record that no anchor has taken, as the ledger tells its time. A file that is
/// missing, or older than it was, makes it no younger.
async fn age_of(reader: &Reader, left: &Statuses) -> anyhow::Result<Age> {
    let anchored = left.anchored(reader.size().await?);
    let waiting = reader.at(LeafIndex(anchored)).await?;
    let ms = waiting.and_then(|record| record.leaf.pointer("/time/ms")?.as_i64());
    let before = ms.map_or(0, |ms| SystemClock.now_ms().saturating_sub(ms));
    let before = Duration::from_millis(u64::try_from(before).unwrap_or(0));
    Ok(Age::new(anchored, before, Instant::now()))
}

/// Checks that the log of now extends a checkpoint of it that is kept elsewhere.
async fn extends(
    store: &Store,
    place: &'static str,
    kept: &Checkpoint,
    now: &Checkpoint,
) -> anyhow::Result<()> {
    ensure!(
        kept.size <= now.size,
        "{place} is ahead, with {} records of this log, which has only {}: \
         the log was rolled back, or another one runs under its key",
        kept.size,
        now.size,
    );
    let proof = store.consistency_proof(kept.size, now.size).await?;
    verify_consistency(kept.size, &kept.root, now.size, &now.root, &proof)
        .with_context(|| format!("{place} has a checkpoint of another history of this log"))
}

/// Anchors what is published, again and again; soon again until the first `records` are, for what is
/// published at the start may be older than they are.
async fn run(
    mut anchor: Box<dyn Anchor>,
    interval: Duration,
    records: u64,
    store: Store,
    board: Arc<Board>,
) {
    let (name, mut failures) = (anchor.name(), 0_u32);
    loop {
        let pause = match round(anchor.as_mut(), &store, &board).await {
            Ok(Some(size)) => {
                board.anchored(name, size);
                failures = 0;
                if size < records { LOOK.min(interval) } else { interval }
            }
            Ok(None) => LOOK.min(interval),
            Err(error) => {
                board.failed(name, &format!("{error:#}"));
                failures = failures.saturating_add(1);
                backoff(failures).min(interval)
            }
        };
        tokio::time::sleep(pause).await;
    }
}

/// Anchors the published checkpoint; returns the anchored size, or `None` before the first checkpoint.
async fn round(
    anchor: &mut dyn Anchor,
    store: &Store,
    board: &Board,
) -> anyhow::Result<Option<u64>> {
    let written = store.written();
    let Some((checkpoint, note)) = store.published_checkpoint().await? else { return Ok(None) };
    board.published(checkpoint.size.0, written);
    anchor.anchor(&checkpoint, &note).await.map(Some)
}

fn backoff(failures: u32) -> Duration {
    BACKOFF.saturating_mul(2_u32.saturating_pow(failures.saturating_sub(1)))
}

/// What the age of the newest anchored checkpoint is seen from.
struct Watched {
    board: Arc<Board>,
    store: Store,
    reader: Reader,
}

impl Watched {
    /// Returns the age; what cannot be read now, or not in time, makes it no smaller.
    async fn age(&self) -> Duration {
        let written = self.store.written();
        if let Some(Some((checkpoint, _))) = in_time(self.store.published_checkpoint()).await {
            self.board.published(checkpoint.size.0, written);
        }
        let written = self.store.written();
        if let Some(size) = in_time(self.reader.size()).await {
            self.board.records(size, written);
        }
        self.board.age()
    }
}

/// Returns what a read gave, if it succeeded within [`READ_WAIT`].
async fn in_time<T, E>(read: impl Future<Output = Result<T, E>>) -> Option<T> {
    tokio::time::timeout(READ_WAIT, read).await.ok()?.ok()
}

/// Says when the newest anchored checkpoint is too old, and when that is over; closes and opens the gate.
async fn watch(watched: Watched, oldest: Duration, refuse_after: Option<Duration>, gate: Gate) {
    let mut late = false;
    loop {
        tokio::time::sleep(LOOK).await;
        let age = watched.age().await;
        if (age > oldest) != late {
            late = !late;
            if late {
                tracing::warn!(seconds = age.as_secs(), "no anchor has taken a checkpoint so long");
            } else {
                tracing::warn!("checkpoints are anchored again");
            }
        }
        let closed = refuse_after.is_some_and(|after| age > after);
        if gate.set_closed(closed) {
            watched.board.refusing(closed);
            if closed {
                tracing::error!(
                    seconds = age.as_secs(),
                    "calls are refused: the log is not anchored"
                );
            } else {
                tracing::warn!("calls go on: the log is anchored again");
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_read_that_stalls_or_fails_is_given_up() {
        let stalled = std::future::pending::<Result<u64, ()>>();
        assert_eq!(in_time(stalled).await, None);
        assert_eq!(in_time(std::future::ready(Err::<u64, ()>(()))).await, None);
        assert_eq!(in_time(std::future::ready(Ok::<u64, ()>(7))).await, Some(7));
    }

    #[test]
    fn pauses_after_failures_grow() {
        assert_eq!([1, 2, 3, 10].map(|n| backoff(n).as_secs()), [5, 10, 20, 2_560]);
        assert!(backoff(u32::MAX) > Duration::from_secs(1 << 32));
    }
}
