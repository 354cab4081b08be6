//! A session of one owner with one server.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use hyper::http::{HeaderName, HeaderValue};
use serde_json::value::RawValue;
use tokio::sync::{Semaphore, broadcast};
use tokio::time::{Instant, timeout};

use super::config::UpstreamConfig;
use super::error::{LostReason, UpstreamError};
use super::exchange::{Event, Exchange};
use super::http::{METHOD, NAME, PROTOCOL_VERSION};
use super::limits::GOODBYE_TIMEOUT;
use super::link::{Link, Outgoing};
use super::mux::SessionEvent;
use super::probe::Opening;
use super::wire::{self, MetaPlan, ModernMeta};
use crate::permit::Permit;

/// The era and version in which a session speaks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Era {
    /// Opened by `initialize` (2024-11-05 to 2025-11-25).
    Legacy {
        /// The negotiated version.
        version: String,
    },
    /// Every request describes itself (2026-07-28 and later).
    Modern {
        /// The version of every request.
        version: String,
    },
}

impl Era {
    /// Returns the protocol version.
    #[must_use]
    pub fn version(&self) -> &str {
        match self {
            Self::Legacy { version } | Self::Modern { version } => version,
        }
    }

    /// Whether every request describes itself.
    #[must_use]
    pub fn is_modern(&self) -> bool {
        matches!(self, Self::Modern { .. })
    }
}

/// Whose session it is: a downstream session or, for stateless callers, an agent.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct OwnerKey(Arc<str>);

impl OwnerKey {
    /// Makes the key of an owner; two owners must never have the same text.
    #[must_use]
    pub fn new(key: impl Into<Arc<str>>) -> Self {
        Self(key.into())
    }
}

/// What the server is told of the client behind the gateway.
#[derive(Clone, Debug)]
pub struct ClientProfile {
    /// The client's capabilities as it declared them: an object.
    pub capabilities: Box<RawValue>,
    /// The version of the client's own session; a legacy one is offered to legacy servers.
    pub version: Option<String>,
}

/// A request that needs a [`Permit`].
#[derive(Debug)]
pub struct Request<'a> {
    /// The method, for example `tools/call`.
    pub method: &'a str,
    /// The parameters with the server's own names; `_meta` is filtered and completed on the way.
    pub params: Option<Box<RawValue>>,
    /// `Mcp-Name` of a modern request: the tool, prompt, URI or task in `params`.
    pub name: Option<&'a str>,
    /// `Mcp-Param-*` of a modern request, taken from the arguments; values are encoded here.
    pub param_headers: Vec<(HeaderName, String)>,
    /// Capabilities of this very request (modern); the session's if there are none.
    pub client_capabilities: Option<&'a RawValue>,
    /// The request's own time limit.
    pub timeout: Option<Duration>,
}

impl<'a> Request<'a> {
    /// Makes a request without name, headers and limits of its own.
    #[must_use]
    pub fn new(method: &'a str, params: Box<RawValue>) -> Self {
        Self {
            method,
            params: Some(params),
            name: None,
            param_headers: Vec::new(),
            client_capabilities: None,
            timeout: None,
        }
    }
}

/// The requests that have no effect and need no permit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Housekeeping {
    /// `tools/list`.
    ToolsList,
    /// `prompts/list`.
    PromptsList,
    /// `resources/list`.
    ResourcesList,
    /// `resources/templates/list`.
    ResourceTemplatesList,
    /// `ping`; the modern era has none.
    Ping,
    /// `logging/setLevel`; the modern era has none.
    SetLogLevel,
}

impl Housekeeping {
    fn method(self) -> &'static str {
        match self {
            Self::ToolsList => "tools/list",
            Self::PromptsList => "prompts/list",
            Self::ResourcesList => "resources/list",
            Self::ResourceTemplatesList => "resources/templates/list",
            Self::Ping => "ping",
            Self::SetLogLevel => "logging/setLevel",
        }
    }

    fn is_legacy_only(self) -> bool {
        matches!(self, Self::Ping | Self::SetLogLevel)
    }
}

/// The notifications of a client that the gateway sends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClientNotification {
    /// `notifications/roots/list_changed`; the modern era has none, so nothing is sent.
    RootsListChanged,
}

/// An open session.
#[derive(Debug)]
pub struct Session {
    config: Arc<UpstreamConfig>,
    client_info: Arc<str>,
    link: Link,
    opening: Opening,
    profile: ClientProfile,
    slots: Arc<Semaphore>,
    opened: Instant,
    last_used: Mutex<Instant>,
    in_flight: AtomicUsize,
}

impl Session {
    pub(super) fn new(
        config: Arc<UpstreamConfig>,
        client_info: Arc<str>,
        link: Link,
        opening: Opening,
        profile: ClientProfile,
        slots: Arc<Semaphore>,
    ) -> Arc<Self> {
        let now = Instant::now();
        Arc::new(Self {
            config,
            client_info,
            link,
            opening,
            profile,
            slots,
            opened: now,
            last_used: Mutex::new(now),
            in_flight: AtomicUsize::new(0),
        })
    }

    /// Returns the era and version that server and gateway speak.
    #[must_use]
    pub fn era(&self) -> &Era {
        &self.opening.era
    }

    /// Returns the server's capabilities as it sent them.
    #[must_use]
    pub fn capabilities(&self) -> Option<&RawValue> {
        self.opening.capabilities.as_deref()
    }

    /// Returns the server's name and version as it sent them.
    #[must_use]
    pub fn server_info(&self) -> Option<&RawValue> {
        self.opening.server_info.as_deref()
    }

    /// Returns the server's instructions as it sent them: a JSON string.
    #[must_use]
    pub fn instructions(&self) -> Option<&RawValue> {
        self.opening.instructions.as_deref()
    }

    /// Subscribes to messages that belong to no call; slow subscribers lose the oldest.
    #[must_use]
    pub fn events(&self) -> broadcast::Receiver<SessionEvent> {
        self.link.mux().subscribe()
    }

    /// Whether the connection is over; [`Upstreams::session`](super::Upstreams::session) opens
    /// another one.
    #[must_use]
    pub fn is_dead(&self) -> bool {
        self.link.mux().is_dead()
    }

    /// Begins a governed request, once; it is never repeated by itself.
    ///
    /// # Errors
    ///
    /// Every error means that nothing was sent. What goes wrong later comes as [`Event::Lost`].
    pub async fn call(
        self: &Arc<Self>,
        permit: Permit,
        request: Request<'_>,
    ) -> Result<Exchange, UpstreamError> {
        let slots = Arc::clone(&self.slots);
        let slot =
            slots.try_acquire_owned().map_err(|_| self.not_sent(LostReason::Busy("calls")))?;
        let limit = request.timeout.unwrap_or(self.config.request_timeout);
        let outgoing = self.outgoing(&request, true)?;
        let id = outgoing.id;
        tracing::debug!(
            evaluation_id = %permit.evaluation_id(), server = %self.config.name,
            method = request.method, upstream_id = id, "forwarding"
        );
        self.touch();
        let flow = match timeout(limit, self.link.start(outgoing)).await {
            Ok(flow) => flow.map_err(|reason| self.not_sent(reason))?,
            Err(_) => return Err(self.not_sent(LostReason::Timeout)),
        };
        // A subscription lasts until somebody ends it.
        let lasting = request.method == "subscriptions/listen";
        let deadline = deadline(if lasting { Duration::MAX } else { limit });
        Ok(Exchange::new(Arc::clone(self), id, flow, deadline, slot))
    }

    /// Sends one request without effect and returns its result: a list is a single page.
    ///
    /// # Errors
    ///
    /// `Unsupported` if the server's era has no such method, `Refused` with the server's error.
    pub async fn housekeeping(
        &self,
        method: Housekeeping,
        params: Option<Box<RawValue>>,
    ) -> Result<Box<RawValue>, UpstreamError> {
        if self.era().is_modern() && method.is_legacy_only() {
            return Err(UpstreamError::Unsupported { method: method.method() });
        }
        let request = Request {
            method: method.method(),
            params,
            name: None,
            param_headers: Vec::new(),
            client_capabilities: None,
            timeout: None,
        };
        self.touch();
        let outgoing = self.outgoing(&request, false)?;
        let server = self.config.name.clone();
        let event = self.link.ask(outgoing, deadline(self.config.request_timeout)).await;
        self.learn(&event);
        match event {
            Event::Result(result) => Ok(result),
            Event::Error(error) => Err(UpstreamError::Refused { server, error }),
            Event::Lost { reason, sent: false } => Err(UpstreamError::NotSent { server, reason }),
            Event::Lost { reason, sent: true } => Err(UpstreamError::Lost { server, reason }),
            Event::Notification { .. } | Event::ServerRequest { .. } => {
                let reason = LostReason::Closed("no answer".to_owned());
                Err(UpstreamError::Lost { server, reason })
            }
        }
    }

    /// Sends a notification of the client.
    ///
    /// # Errors
    ///
    /// `Lost` if the server could not be told.
    pub async fn notify(&self, notification: ClientNotification) -> Result<(), UpstreamError> {
        let method = match notification {
            ClientNotification::RootsListChanged => "notifications/roots/list_changed",
        };
        if self.era().is_modern() {
            return Ok(());
        }
        self.send(wire::notification(method, None)).await
    }

    /// Answers a request of the server by its id as written.
    ///
    /// # Errors
    ///
    /// `Lost` if the server could not be told.
    pub async fn answer(
        &self,
        id: &RawValue,
        answer: Result<Box<RawValue>, Box<RawValue>>,
    ) -> Result<(), UpstreamError> {
        self.send(wire::answer(id, &answer)).await
    }

    async fn send(&self, body: String) -> Result<(), UpstreamError> {
        let sent =
            timeout(self.config.request_timeout.min(GOODBYE_TIMEOUT * 5), self.link.send(body));
        sent.await
            .unwrap_or(Err(LostReason::Timeout))
            .map_err(|reason| UpstreamError::Lost { server: self.config.name.clone(), reason })
    }

    fn outgoing(&self, request: &Request<'_>, governed: bool) -> Result<Outgoing, UpstreamError> {
        let id = self.link.mux().next_id();
        let capabilities = request.client_capabilities.unwrap_or(&self.profile.capabilities);
        let modern = match self.era() {
            Era::Legacy { .. } => None,
            Era::Modern { version } => Some(ModernMeta {
                version,
                client_info: &self.client_info,
                capabilities: capabilities.get(),
            }),
        };
        let plan = MetaPlan { allow: &self.config.meta_allow, modern };
        let built = wire::request(id, request.method, request.params.as_deref(), &plan)?;
        let headers = match modern {
            Some(modern) if matches!(self.link, Link::Http(_)) => {
                modern_headers(modern.version, request)?
            }
            _ => Vec::new(),
        };
        let (body, token) = (built.body, built.token);
        Ok(Outgoing { id, body, token, governed, opening: false, headers })
    }

    fn not_sent(&self, reason: LostReason) -> UpstreamError {
        UpstreamError::NotSent { server: self.config.name.clone(), reason }
    }

    pub(super) fn link(&self) -> &Link {
        &self.link
    }

    /// Gives the session up if the server shows that its era is another one.
    pub(super) fn learn(&self, event: &Event) {
        if event.is_unsupported_version() {
            self.link.mux().mark_dead();
        }
    }

    pub(super) fn begin(&self) {
        self.in_flight.fetch_add(1, Ordering::AcqRel);
    }

    pub(super) fn end(&self) {
        self.in_flight.fetch_sub(1, Ordering::AcqRel);
        self.touch();
    }

    pub(super) fn touch(&self) {
        *self.last_used.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now();
    }

    pub(super) fn last_used(&self) -> Instant {
        *self.last_used.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether nobody waits for anything on this session.
    pub(super) fn is_idle(&self) -> bool {
        self.in_flight.load(Ordering::Acquire) == 0 && !self.link.mux().has_subscribers()
    }

    pub(super) fn age(&self) -> Duration {
        self.opened.elapsed()
    }
}

/// Builds the headers of a modern request from what its body says.
fn modern_headers(
    version: &str,
    request: &Request<'_>,
) -> Result<Vec<(HeaderName, HeaderValue)>, UpstreamError> {
    let mut headers = Vec::with_capacity(3 + request.param_headers.len());
    let mut push = |name: HeaderName, value: &str| match wire::header_value(value) {
        Some(value) => {
            headers.push((name, value));
            Ok(())
        }
        None => Err(UpstreamError::Header { name: name.to_string() }),
    };
    push(PROTOCOL_VERSION, version)?;
    push(METHOD, request.method)?;
    if let Some(name) = request.name {
        push(NAME, name)?;
    }
    for (name, value) in &request.param_headers {
        push(name.clone(), value)?;
    }
    Ok(headers)
}

/// Returns the time `after` from now; a limit beyond measure is one of thirty years.
fn deadline(after: Duration) -> Instant {
    let now = Instant::now();
    now.checked_add(after).unwrap_or(now + Duration::from_hours(24 * 365 * 30))
}
