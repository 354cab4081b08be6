//! The requests in flight on one connection, and where each incoming message belongs.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use serde_json::value::RawValue;
use tokio::sync::{broadcast, mpsc};

use super::error::LostReason;
use super::exchange::Event;
use super::limits::{EVENT_QUEUE_MAX, EXCHANGE_QUEUE_MAX};
use super::wire;
use crate::envelope::{Edit, Envelope, MessageKind, edit_object, member};

/// A message of a server that belongs to no request.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum SessionEvent {
    /// For example `notifications/tools/list_changed`.
    Notification {
        /// The method.
        method: Arc<str>,
        /// The parameters as they came.
        params: Option<Arc<RawValue>>,
    },
    /// A request to the client outside a call; [`Session::answer`](super::Session::answer) is due.
    ServerRequest {
        /// The server's id as written.
        id: Arc<RawValue>,
        /// The method.
        method: Arc<str>,
        /// The parameters as they came.
        params: Option<Arc<RawValue>>,
    },
    /// The session ended; nothing follows.
    Closed(LostReason),
}

/// One request in flight.
#[derive(Debug)]
struct Entry {
    tx: mpsc::Sender<Event>,
    /// The client's progress token, which stands for our id.
    token: Option<Box<RawValue>>,
    /// A governed call; only these get requests of the server.
    governed: bool,
    sent: bool,
}

#[derive(Debug, Default)]
struct State {
    calls: BTreeMap<u64, Entry>,
    closed: Option<LostReason>,
}

/// Routes the messages of one connection.
#[derive(Debug)]
pub(super) struct Mux {
    state: Mutex<State>,
    events: broadcast::Sender<SessionEvent>,
    next_id: AtomicU64,
    dead: AtomicBool,
}

impl Mux {
    pub(super) fn new() -> Arc<Self> {
        Arc::new(Self {
            state: Mutex::default(),
            events: broadcast::Sender::new(EVENT_QUEUE_MAX),
            next_id: AtomicU64::new(1),
            dead: AtomicBool::new(false),
        })
    }

    /// Returns an id that this connection has not used.
    pub(super) fn next_id(&self) -> u64 {
        self.next_id.fetch_add(1, Ordering::Relaxed)
    }

    /// Adds request `id`; the reason if the connection is closed.
    pub(super) fn register(
        self: &Arc<Self>,
        id: u64,
        token: Option<Box<RawValue>>,
        governed: bool,
    ) -> Result<(mpsc::Receiver<Event>, Registration), LostReason> {
        let mut state = self.lock();
        if let Some(reason) = &state.closed {
            return Err(reason.clone());
        }
        // INVARIANT: one place more than notifications may take, so that the answer always fits.
        let (tx, rx) = mpsc::channel(EXCHANGE_QUEUE_MAX + 1);
        state.calls.insert(id, Entry { tx, token, governed, sent: false });
        Ok((rx, Registration { mux: Arc::clone(self), id }))
    }

    /// Marks request `id` as written; false if nobody waits for it any more.
    pub(super) fn mark_sent(&self, id: u64) -> bool {
        let mut state = self.lock();
        state.calls.get_mut(&id).map(|entry| entry.sent = true).is_some()
    }

    /// Ends every request in flight; later ones are refused.
    pub(super) fn close(&self, reason: &LostReason) {
        self.dead.store(true, Ordering::Release);
        let mut state = self.lock();
        if state.closed.is_some() {
            return;
        }
        state.closed = Some(reason.clone());
        for entry in std::mem::take(&mut state.calls).into_values() {
            let lost = Event::Lost { reason: reason.clone(), sent: entry.sent };
            // Fails only if the reader went away or has its answer already.
            let _ = entry.tx.try_send(lost);
        }
        let _ = self.events.send(SessionEvent::Closed(reason.clone()));
    }

    /// Lets running requests end, but no session is handed out with this connection again.
    pub(super) fn mark_dead(&self) {
        self.dead.store(true, Ordering::Release);
    }

    pub(super) fn is_dead(&self) -> bool {
        self.dead.load(Ordering::Acquire)
    }

    pub(super) fn subscribe(&self) -> broadcast::Receiver<SessionEvent> {
        self.events.subscribe()
    }

    pub(super) fn has_subscribers(&self) -> bool {
        self.events.receiver_count() > 0
    }

    /// Hands a message to whom it belongs; returns what must be answered at once.
    pub(super) fn route(&self, envelope: &Envelope<'_>) -> Option<String> {
        match (envelope.kind(), envelope.id) {
            (MessageKind::Request, Some(id)) => self.route_request(id, envelope),
            (MessageKind::Notification, _) | (MessageKind::Request, None) => {
                self.route_notification(envelope);
                None
            }
            (MessageKind::Response, id) => {
                self.route_response(id, envelope);
                None
            }
        }
    }

    fn route_response(&self, id: Option<&RawValue>, envelope: &Envelope<'_>) {
        let mut state = self.lock();
        let id = match id {
            Some(id) => id.get().parse().ok(),
            // An error without id can only be meant for the one request in flight.
            None if state.calls.len() == 1 => state.calls.keys().next().copied(),
            None => None,
        };
        let Some(entry) = id.and_then(|id| state.calls.remove(&id)) else {
            tracing::debug!("answer to no request in flight");
            return;
        };
        if let Some(answer) = Event::answer_of(envelope) {
            let _ = entry.tx.try_send(answer);
        }
    }

    fn route_notification(&self, envelope: &Envelope<'_>) {
        let method = envelope.method.as_deref().unwrap_or_default();
        let state = self.lock();
        let target = match method {
            "notifications/progress" => match progress_entry(&state, envelope.params) {
                Some(target) => Some(target),
                None => return,
            },
            "notifications/message" => only(&state),
            "notifications/cancelled" => latest(&state),
            _ => subscription(envelope.params).and_then(|id| state.calls.get(&id)),
        };
        let Some(entry) = target else {
            drop(state);
            let (method, params) = (method.into(), envelope.params.map(shared));
            let _ = self.events.send(SessionEvent::Notification { method, params });
            return;
        };
        offer(entry, notification(method, envelope.params, entry.token.as_deref()));
    }

    fn route_request(&self, id: &RawValue, envelope: &Envelope<'_>) -> Option<String> {
        let method = envelope.method.as_deref().unwrap_or_default();
        if method == "ping" {
            return Some(wire::pong(id));
        }
        let state = self.lock();
        if let Some(entry) = latest(&state) {
            let (method, params) = (method.to_owned(), envelope.params.map(ToOwned::to_owned));
            let taken = offer(entry, Event::ServerRequest { id: id.to_owned(), method, params });
            return (!taken).then(|| wire::refusal(id, -32603, "too many requests at once"));
        }
        drop(state);
        let (method, params) = (method.into(), envelope.params.map(shared));
        let event = SessionEvent::ServerRequest { id: shared(id), method, params };
        let heard = self.events.send(event).is_ok();
        (!heard).then(|| wire::refusal(id, -32601, "nobody answers this outside a call"))
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Keeps a request in the table as long as somebody waits for its answer.
#[derive(Debug)]
pub(super) struct Registration {
    mux: Arc<Mux>,
    id: u64,
}

impl Drop for Registration {
    fn drop(&mut self) {
        self.mux.lock().calls.remove(&self.id);
    }
}

/// Makes the event of a notification, with the client's own progress token in it.
pub(super) fn notification(
    method: &str,
    params: Option<&RawValue>,
    token: Option<&RawValue>,
) -> Event {
    let restored = match (method, params, token) {
        ("notifications/progress", Some(params), Some(token)) => {
            edit_object(params, &[Edit::set(&["progressToken"], token)]).ok()
        }
        _ => None,
    };
    let params = restored.or_else(|| params.map(ToOwned::to_owned));
    Event::Notification { method: method.to_owned(), params }
}

/// Returns our id that a progress notification names.
pub(super) fn progress_id(params: Option<&RawValue>) -> Option<u64> {
    member(params?, "progressToken")?.get().parse().ok()
}

/// Returns the entry of a progress notification whose request asked for progress.
fn progress_entry<'s>(state: &'s State, params: Option<&RawValue>) -> Option<&'s Entry> {
    state.calls.get(&progress_id(params)?).filter(|entry| entry.token.is_some())
}

fn subscription(params: Option<&RawValue>) -> Option<u64> {
    let meta = member(params?, "_meta")?;
    member(meta, wire::META_SUBSCRIPTION)?.get().trim_matches('"').parse().ok()
}

/// Returns the governed call that a message without correlation belongs to most likely.
fn latest(state: &State) -> Option<&Entry> {
    state.calls.values().rev().find(|entry| entry.governed)
}

/// Returns the governed call if there is just one.
fn only(state: &State) -> Option<&Entry> {
    let mut governed = state.calls.values().filter(|entry| entry.governed);
    governed.next().filter(|_| governed.next().is_none())
}

/// Queues an event that may be dropped; false if it was.
fn offer(entry: &Entry, event: Event) -> bool {
    let room = entry.tx.capacity() > 1;
    let taken = room && entry.tx.try_send(event).is_ok();
    if !taken {
        tracing::debug!("message of a server dropped: its reader is too slow");
    }
    taken
}

fn shared(raw: &RawValue) -> Arc<RawValue> {
    raw.to_owned().into()
}
