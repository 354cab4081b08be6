use std::collections::{BTreeSet, HashMap};
use std::hash::{BuildHasher, RandomState};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use serde_json::Value;
use tokio::sync::{mpsc, oneshot};
use tokio::task::AbortHandle;

use crate::era::{LEGACY_VERSIONS, NEWEST_LEGACY};
use crate::jsonrpc::text_at;
use crate::sync::locked;

/// Messages of one answer that may wait for the transport.
pub(crate) const STREAM_QUEUE: usize = 64;

/// What a running request gives to its transport.
#[derive(Debug)]
pub(crate) enum Frame {
    /// A notification or a request of the server, before the answer.
    Message(Value),
    /// The answer, with its HTTP status where the transport has one.
    Answer(u16, Value),
    /// Ends the connection before the answer; the client may resume (2025-11-25).
    HangUp,
}

/// A stream that was closed on purpose and waits for its client to come back.
#[derive(Debug)]
pub(crate) struct Parked {
    pub(crate) frames: mpsc::Receiver<Frame>,
    pub(crate) next_event: u64,
}

/// The state of one legacy session.
#[derive(Debug)]
pub(crate) struct Session {
    pub(crate) version: String,
    pub(crate) capabilities: Value,
    pub(crate) log_level: Mutex<Option<String>>,
    pub(crate) subscribed: Mutex<BTreeSet<String>>,
    pub(crate) parked: Mutex<HashMap<String, Parked>>,
    running: Mutex<HashMap<String, AbortHandle>>,
    waiting: Mutex<HashMap<u64, oneshot::Sender<Value>>>,
    next_request: AtomicU64,
}

impl Session {
    /// Opens a session from the params of `initialize`.
    pub(crate) fn open(params: &Value) -> Self {
        let offered = text_at(params, "/protocolVersion");
        let known = LEGACY_VERSIONS.iter().find(|version| **version == offered);
        Self {
            version: (*known.unwrap_or(&NEWEST_LEGACY)).to_owned(),
            capabilities: params.get("capabilities").cloned().unwrap_or(Value::Null),
            log_level: Mutex::default(),
            subscribed: Mutex::default(),
            parked: Mutex::default(),
            running: Mutex::default(),
            waiting: Mutex::default(),
            next_request: AtomicU64::new(1),
        }
    }

    /// True if the client knows priming events and planned closes (2025-11-25).
    pub(crate) fn can_resume(&self) -> bool {
        self.version.as_str() >= NEWEST_LEGACY
    }

    /// Remembers a running request, so that it can be cancelled.
    pub(crate) fn started(&self, id: &Value, task: AbortHandle) {
        let mut running = locked(&self.running);
        running.retain(|_, task| !task.is_finished());
        running.insert(id.to_string(), task);
    }

    /// Stops the request that a `notifications/cancelled` names.
    pub(crate) fn cancel(&self, message: &Value) {
        let id = message.pointer("/params/requestId").map(Value::to_string).unwrap_or_default();
        if let Some(task) = locked(&self.running).remove(&id) {
            task.abort();
        }
    }

    /// Reserves an id for a request to the client and a place for its answer.
    pub(crate) fn expect_answer(&self) -> (u64, oneshot::Receiver<Value>) {
        let id = self.next_request.fetch_add(1, Ordering::Relaxed);
        let (sender, receiver) = oneshot::channel();
        locked(&self.waiting).insert(id, sender);
        (id, receiver)
    }

    /// Delivers a client's answer; false if nobody waits for it.
    pub(crate) fn deliver(&self, answer: Value) -> bool {
        let Some(id) = answer.get("id").and_then(Value::as_u64) else { return false };
        let Some(sender) = locked(&self.waiting).remove(&id) else { return false };
        sender.send(answer).is_ok()
    }
}

/// An id nobody can guess from an earlier one; it need not resist attackers.
pub(crate) fn random_id() -> String {
    let state = RandomState::new();
    format!("{:016x}{:016x}", state.hash_one(1_u8), state.hash_one(2_u8))
}
