//! What callers ask the writer to record, and what they get back.

use std::fmt;

use countersign_ledger::{Hash, LeafIndex};
use countersign_model::{AgentId, Draft, OutcomeStatus, ReasonCode, RecordId};
use serde_json::{Map, Value};

/// Makes the public fields of the denial that is recorded when an intent loses its claim.
///
/// The denial keeps the intent's record id, principal and private fields.
pub type DenialFields = Box<dyn FnOnce(&ReasonCode) -> Map<String, Value> + Send + Sync>;

/// An allow-decision that is to be durable before its call is forwarded.
pub struct Intent {
    /// The decision record; `decision` is `allow`.
    pub draft: Draft,
    /// Makes the denial's public fields if the claim is lost.
    pub denial: DenialFields,
    /// The idempotency key that the call claims, if it has one.
    pub idempotency: Option<IdempotencyClaim>,
}

impl fmt::Debug for Intent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Intent")
            .field("draft", &self.draft)
            .field("idempotency", &self.idempotency)
            .finish_non_exhaustive()
    }
}

/// The right to be the only call with a key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IdempotencyClaim {
    /// Whose key it is.
    pub agent: AgentId,
    /// The key as the caller sent it, at most [`crate::limits::IDEMPOTENCY_KEY_BYTES_MAX`] bytes.
    pub key: String,
    /// SHA-256 of the tool and its canonical arguments; stored as a keyed hash.
    pub digest: [u8; 32],
}

/// Proof that an allow-decision is durable: the permission to forward one call, once.
///
/// Only [`crate::Store::commit_intent`] makes one, and it cannot be copied.
#[derive(Debug, PartialEq, Eq)]
#[must_use = "a recorded intent is owed an outcome"]
pub struct Receipt {
    place: Appended,
}

impl Receipt {
    pub(crate) fn new(place: Appended) -> Self {
        Self { place }
    }

    /// Returns the id of the decision record.
    #[must_use]
    pub fn evaluation_id(&self) -> RecordId {
        self.place.record_id
    }

    /// Returns the decision's position in the log; `None` if a sequencer has yet to give it one.
    #[must_use]
    pub fn index(&self) -> Option<LeafIndex> {
        self.place.index
    }

    /// Returns the hash of the decision's leaf.
    #[must_use]
    pub fn leaf_hash(&self) -> Hash {
        self.place.leaf_hash
    }
}

/// The place of a durable record that permits nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Appended {
    /// The record.
    pub record_id: RecordId,
    /// Its position in the log; `None` if a sequencer has yet to give it one.
    pub index: Option<LeafIndex>,
    /// The hash of its leaf.
    pub leaf_hash: Hash,
}

/// What became of an intent.
#[derive(Debug)]
pub enum Committed {
    /// The decision is durable and the claim, if any, is won: forward the call.
    Recorded(Receipt),
    /// A call with the same key and payload has ended: give its result again. Nothing was recorded.
    Replayed(StoredResult),
    /// A call with the same key and payload is running; see [`crate::Store::wait_outcome`]. Nothing was
    /// recorded.
    InFlight {
        /// The running call.
        evaluation_id: RecordId,
    },
    /// The claim is lost; the denial is durable.
    Refused {
        /// Why the claim is lost.
        code: ReasonCode,
        /// The call that holds the key.
        first: RecordId,
        /// The denial's place.
        receipt: Appended,
    },
}

/// The kept result of an earlier call.
#[derive(Clone, PartialEq, Eq)]
pub struct StoredResult {
    /// The call that was executed.
    pub evaluation_id: RecordId,
    /// How it ended.
    pub status: OutcomeStatus,
    /// The JSON text given to [`crate::Store::commit_outcome`]; absent if the result is not kept.
    pub result: Option<String>,
}

impl fmt::Debug for StoredResult {
    /// Leaves the result out: it is private.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StoredResult")
            .field("evaluation_id", &self.evaluation_id)
            .field("status", &self.status)
            .finish_non_exhaustive()
    }
}

/// What came of a forwarded call.
#[derive(Debug)]
pub struct Outcome {
    /// The call's decision record.
    pub evaluation_id: RecordId,
    /// The outcome record; `parent` and `outcome` are filled in where they are missing.
    pub draft: Draft,
    /// How the call ended.
    pub status: OutcomeStatus,
    /// The JSON text that a repeated call gets, if the call claimed a key.
    pub result: Option<String>,
}
