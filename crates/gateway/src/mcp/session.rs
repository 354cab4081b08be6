//! Sessions of the stateful era (MCP up to 2025-11-25).
//!
//! A session id is ours, random, and bound to the agent and credential that opened it: it is no
//! authentication, and with another credential it does not exist.

use std::collections::HashMap;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock, Weak};

use countersign_model::{AgentId, ServerName};
use serde_json::value::RawValue;
use tokio::sync::{mpsc, oneshot};

use super::link::CancelSignal;
use super::message::random_token;
use super::route::Route;
use crate::identity::Caller;
use crate::limits::{
    SESSION_IDLE, SESSIONS_MAX, SESSIONS_PER_AGENT_MAX, STREAM_QUEUE, SUBSCRIBED_URIS_MAX,
};
use crate::upstream::{ClientProfile, Session};

/// A client's answer to a question: a result or a JSON-RPC error.
pub(super) type ClientAnswer = Result<Box<RawValue>, Box<RawValue>>;

/// One client's session.
pub struct LegacySession {
    /// The id that the client sends in `Mcp-Session-Id`.
    pub id: String,
    /// The endpoint that the session was opened on.
    pub route: Route,
    /// The negotiated protocol version.
    pub version: String,
    /// What the client declared about itself.
    pub profile: ClientProfile,
    agent: AgentId,
    credential: String,
    last_used_ms: AtomicI64,
    next_request: AtomicU64,
    answers: Mutex<HashMap<String, oneshot::Sender<ClientAnswer>>>,
    running: Mutex<HashMap<String, Arc<CancelSignal>>>,
    stream: Mutex<Option<mpsc::Sender<String>>>,
    upstreams: Mutex<HashMap<ServerName, Weak<Session>>>,
    log_level: Mutex<Option<String>>,
    /// Resources subscribed to at servers of the stateless era; dropping the sender ends one.
    subscriptions: Mutex<HashMap<(ServerName, String), oneshot::Sender<()>>>,
}

impl std::fmt::Debug for LegacySession {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("LegacySession").field("route", &self.route).finish_non_exhaustive()
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl LegacySession {
    /// Registers a question to the client; gives the id to ask under, and where its answer comes.
    pub fn expect_answer(&self) -> (String, oneshot::Receiver<ClientAnswer>) {
        let id = format!("countersign-{}", self.next_request.fetch_add(1, Ordering::Relaxed));
        let (sender, receiver) = oneshot::channel();
        lock(&self.answers).insert(id.clone(), sender);
        (id, receiver)
    }

    /// Gives up on a question.
    pub fn forget(&self, id: &str) {
        lock(&self.answers).remove(id);
    }

    /// Delivers a client's answer; `false` if nothing was asked under this id.
    pub fn answer(&self, id: &str, answer: ClientAnswer) -> bool {
        lock(&self.answers).remove(id).is_some_and(|waiting| waiting.send(answer).is_ok())
    }

    /// Registers a running call under the client's request id.
    pub fn start(&self, id: &RawValue) -> Arc<CancelSignal> {
        let signal = Arc::<CancelSignal>::default();
        lock(&self.running).insert(id.get().to_owned(), Arc::clone(&signal));
        signal
    }

    /// Takes a call off the list of running ones.
    pub fn end(&self, id: &RawValue) {
        lock(&self.running).remove(id.get());
    }

    /// Cancels the running call with the client's request id, if there is one.
    pub fn cancel(&self, id: &RawValue) {
        if let Some(signal) = lock(&self.running).get(id.get()) {
            signal.cancel();
        }
    }

    /// Opens the session's stream for messages outside any call; an older stream ends.
    pub fn open_stream(&self) -> mpsc::Receiver<String> {
        let (sender, receiver) = mpsc::channel(STREAM_QUEUE);
        *lock(&self.stream) = Some(sender);
        receiver
    }

    /// Sends a message outside any call; dropped if nobody listens or the stream is full.
    pub fn push(&self, message: String) {
        let stream = lock(&self.stream).clone();
        if let Some(stream) = stream
            && stream.try_send(message).is_err()
        {
            tracing::debug!("dropped a message for a client that does not read its stream");
        }
    }

    /// Notes the upstream session that serves this one; `false` if its messages are listened to
    /// already.
    pub fn start_listening(&self, server: &ServerName, session: &Arc<Session>) -> bool {
        let mut upstreams = lock(&self.upstreams);
        let known = upstreams.get(server).and_then(Weak::upgrade);
        if known.is_some_and(|known| Arc::ptr_eq(&known, session)) {
            return false;
        }
        upstreams.insert(server.clone(), Arc::downgrade(session));
        true
    }

    /// Returns the upstream sessions that serve this one.
    pub fn upstreams(&self) -> Vec<Arc<Session>> {
        lock(&self.upstreams).values().filter_map(Weak::upgrade).collect()
    }

    /// Returns the client's log level, if it set one.
    pub fn log_level(&self) -> Option<String> {
        lock(&self.log_level).clone()
    }

    /// Sets the client's log level.
    pub fn set_log_level(&self, level: String) {
        *lock(&self.log_level) = Some(level);
    }

    /// Starts a subscription that lasts until the receiver ends, in place of an older one to the same
    /// resource; `false` if the session has [`SUBSCRIBED_URIS_MAX`].
    pub fn subscribed(
        &self,
        server: &ServerName,
        uri: &str,
        start: impl FnOnce(oneshot::Receiver<()>),
    ) -> bool {
        let mut subscriptions = lock(&self.subscriptions);
        let key = (server.clone(), uri.to_owned());
        if subscriptions.len() >= SUBSCRIBED_URIS_MAX && !subscriptions.contains_key(&key) {
            return false;
        }
        let (end, ended) = oneshot::channel();
        subscriptions.insert(key, end);
        start(ended);
        true
    }

    /// Ends a subscription.
    pub fn unsubscribed(&self, server: &ServerName, uri: &str) {
        lock(&self.subscriptions).remove(&(server.clone(), uri.to_owned()));
    }

    fn belongs_to(&self, caller: &Caller, route: &Route) -> bool {
        self.agent == caller.agent.id
            && self.credential == caller.credential
            && self.route == *route
    }
}

/// All sessions of this gateway.
#[derive(Debug, Default)]
pub struct Sessions {
    open: RwLock<HashMap<String, Arc<LegacySession>>>,
}

impl Sessions {
    /// Opens a session; `None` if the agent or the gateway has too many, or without randomness.
    pub fn open(
        &self,
        caller: &Caller,
        route: Route,
        version: String,
        profile: ClientProfile,
        now_ms: i64,
    ) -> Option<Arc<LegacySession>> {
        let session = Arc::new(LegacySession {
            id: random_token()?,
            route,
            version,
            profile,
            agent: caller.agent.id,
            credential: caller.credential.clone(),
            last_used_ms: AtomicI64::new(now_ms),
            next_request: AtomicU64::new(1),
            answers: Mutex::default(),
            running: Mutex::default(),
            stream: Mutex::default(),
            upstreams: Mutex::default(),
            log_level: Mutex::default(),
            subscriptions: Mutex::default(),
        });
        let mut open = self.open.write().unwrap_or_else(PoisonError::into_inner);
        let of_agent = open.values().filter(|other| other.agent == session.agent).count();
        if open.len() >= SESSIONS_MAX || of_agent >= SESSIONS_PER_AGENT_MAX {
            return None;
        }
        open.insert(session.id.clone(), Arc::clone(&session));
        Some(session)
    }

    /// Finds a caller's session. One that another credential opened does not exist.
    pub fn find(
        &self,
        id: &str,
        caller: &Caller,
        route: &Route,
        now_ms: i64,
    ) -> Option<Arc<LegacySession>> {
        let open = self.open.read().unwrap_or_else(PoisonError::into_inner);
        let session = open.get(id).filter(|session| session.belongs_to(caller, route))?;
        session.last_used_ms.store(now_ms, Ordering::Relaxed);
        Some(Arc::clone(session))
    }

    /// Closes a session.
    pub fn close(&self, id: &str) {
        let mut open = self.open.write().unwrap_or_else(PoisonError::into_inner);
        open.remove(id);
    }

    /// Closes and returns the sessions that nobody used for [`SESSION_IDLE`] or whose agent may not
    /// act any more.
    pub fn close_stale(
        &self,
        now_ms: i64,
        may_act: impl Fn(AgentId) -> bool,
    ) -> Vec<Arc<LegacySession>> {
        let idle_ms = i64::try_from(SESSION_IDLE.as_millis()).unwrap_or(i64::MAX);
        let stale = |session: &LegacySession| {
            let idle = now_ms.saturating_sub(session.last_used_ms.load(Ordering::Relaxed));
            idle > idle_ms || !may_act(session.agent)
        };
        let mut open = self.open.write().unwrap_or_else(PoisonError::into_inner);
        open.extract_if(|_, session| stale(session)).map(|(_, session)| session).collect()
    }

    /// Returns every open session.
    pub fn all(&self) -> Vec<Arc<LegacySession>> {
        self.open.read().unwrap_or_else(PoisonError::into_inner).values().cloned().collect()
    }
}
