//! The hash chain of each stream `(tenant, replica, epoch)`.
//!
//! A leaf's `gw.seq` counts from 1 without a hole, and its `gw.prev` is the SHA-256 of the stream's
//! previous leaf bytes in base64url; 32 zero bytes stand there in the first leaf of an epoch. Its time is
//! later than that of the leaf before it.

use std::collections::BTreeMap;

use crate::leaf::{Leaf, LeafError, Time, prev_hash};
use crate::limits::STREAMS_MAX;

/// Why a leaf does not continue its stream.
#[derive(Debug, thiserror::Error)]
pub enum StreamError {
    /// The entry is no leaf.
    #[error(transparent)]
    Leaf(#[from] LeafError),
    /// A leaf of the stream is missing, doubled or out of order.
    #[error("stream `{stream}` has sequence {found}, expected {expected}")]
    WrongSequence {
        /// Tenant, replica and epoch.
        stream: String,
        /// The leaf's sequence.
        found: u64,
        /// The next one of the stream.
        expected: u64,
    },
    /// The previous leaf of the stream is not the one that this leaf was chained to.
    #[error("stream `{stream}` is broken before sequence {seq}: the previous leaf is another one")]
    WrongPrevious {
        /// Tenant, replica and epoch.
        stream: String,
        /// The leaf's sequence.
        seq: u64,
    },
    /// The leaf is not later than the stream's previous one: its time was set back.
    #[error("stream `{stream}` has sequence {seq} no later than the leaf before it")]
    NotLater {
        /// Tenant, replica and epoch.
        stream: String,
        /// The leaf's sequence.
        seq: u64,
    },
    /// There are more streams than one check follows.
    #[error("more than {STREAMS_MAX} streams")]
    TooManyStreams,
}

/// Follows every stream of a log, leaf by leaf.
#[derive(Debug, Default)]
pub struct StreamChecker {
    tails: BTreeMap<(String, String, u64), Tail>,
}

/// The end of a stream so far.
#[derive(Debug)]
struct Tail {
    seq: u64,
    time: Time,
    /// What the next leaf must have as `prev`.
    hash: String,
}

impl StreamChecker {
    /// Knows no stream yet.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Checks that `leaf_bytes` continues its stream, and returns the leaf.
    ///
    /// # Errors
    /// [`StreamError`]; the stream then stays where it was.
    pub fn check(&mut self, leaf_bytes: &[u8]) -> Result<Leaf, StreamError> {
        let leaf = Leaf::parse(leaf_bytes)?;
        let key = (leaf.tenant.clone(), leaf.gw.replica.clone(), leaf.gw.epoch);
        let tail = self.tails.get(&key);
        if tail.is_none() && self.tails.len() >= STREAMS_MAX {
            return Err(StreamError::TooManyStreams);
        }
        let stream = || format!("{}/{}/{}", key.0, key.1, key.2);
        let (seq, expected) = (leaf.gw.seq, tail.map_or(0, |tail| tail.seq).saturating_add(1));
        if seq != expected {
            return Err(StreamError::WrongSequence { stream: stream(), found: seq, expected });
        }
        if leaf.gw.prev != tail.map_or_else(|| prev_hash(None), |tail| tail.hash.clone()) {
            return Err(StreamError::WrongPrevious { stream: stream(), seq });
        }
        if tail.is_some_and(|tail| leaf.time <= tail.time) {
            return Err(StreamError::NotLater { stream: stream(), seq });
        }
        let (time, hash) = (leaf.time, prev_hash(Some(leaf_bytes)));
        self.tails.insert(key, Tail { seq, time, hash });
        Ok(leaf)
    }
}

#[cfg(test)]
mod tests;
