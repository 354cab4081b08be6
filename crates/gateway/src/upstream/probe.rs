//! Which era a server speaks, and the opening of a session in it.

use countersign_model::ServerName;
use serde::Deserialize;
use serde_json::value::RawValue;
use tokio::time::{Instant, timeout_at};

use super::error::{LostReason, UpstreamError};
use super::exchange::Event;
use super::http::{METHOD, PROTOCOL_VERSION};
use super::limits::{DISCOVER_TIMEOUT, OPEN_TIMEOUT};
use super::link::{Link, Outgoing};
use super::session::{ClientProfile, Era};
use super::wire::{
    self, LEGACY_NEWEST, LEGACY_VERSIONS, MODERN_NEWEST, MODERN_VERSIONS, MetaPlan, ModernMeta,
};

/// What a server said of itself when the session was opened.
#[derive(Clone, Debug)]
pub(super) struct Opening {
    pub(super) era: Era,
    pub(super) capabilities: Option<Box<RawValue>>,
    pub(super) server_info: Option<Box<RawValue>>,
    pub(super) instructions: Option<Box<RawValue>>,
}

/// The answers to `initialize` and `server/discover`, as far as the gateway needs them.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Said {
    protocol_version: Option<String>,
    supported_versions: Vec<String>,
    capabilities: Option<Box<RawValue>>,
    server_info: Option<Box<RawValue>>,
    instructions: Option<Box<RawValue>>,
    #[serde(rename = "_meta")]
    meta: SaidMeta,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct SaidMeta {
    #[serde(rename = "io.modelcontextprotocol/serverInfo")]
    server_info: Option<Box<RawValue>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct SaidError {
    code: i64,
    message: String,
    data: Option<Box<RawValue>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Supported {
    supported: Vec<String>,
}

const HEADER_MISMATCH: i64 = -32020;
const MISSING_CLIENT_CAPABILITY: i64 = -32021;
const UNSUPPORTED_VERSION: i64 = -32022;

/// What the probe told.
enum Verdict {
    Opened(Opening),
    /// The server is modern and names another version.
    TryVersion(&'static str),
    Legacy,
    Failed(UpstreamError),
}

/// Opens a session on a fresh connection.
pub(super) struct Opener<'a> {
    pub(super) server: &'a ServerName,
    pub(super) link: &'a Link,
    pub(super) profile: &'a ClientProfile,
    pub(super) client_info: &'a str,
    pub(super) deadline: Instant,
}

impl<'a> Opener<'a> {
    pub(super) fn new(
        server: &'a ServerName,
        link: &'a Link,
        profile: &'a ClientProfile,
        client_info: &'a str,
    ) -> Self {
        Self { server, link, profile, client_info, deadline: Instant::now() + OPEN_TIMEOUT }
    }

    /// Finds the era out and opens the session in it.
    pub(super) async fn probe(&self) -> Result<Opening, UpstreamError> {
        let mut version = MODERN_NEWEST;
        for _ in 0..2 {
            let verdict = match self.link {
                Link::Stdio(_) => self.discover_or_initialize(version).await,
                Link::Http(_) => self.verdict(self.discover(version, self.deadline).await),
            };
            match verdict {
                Verdict::Opened(opening) => return Ok(opening),
                Verdict::TryVersion(named) => version = named,
                Verdict::Legacy => return self.initialize().await,
                Verdict::Failed(error) => return Err(error),
            }
        }
        Err(self.incompatible("the server refuses the versions that it names"))
    }

    /// Opens a legacy session.
    pub(super) async fn initialize(&self) -> Result<Opening, UpstreamError> {
        let event = self.link.ask(self.initialize_request()?, self.deadline).await;
        self.initialized(event).await
    }

    /// Asks a child for its era; one that stays silent gets `initialize` as well, and the first good
    /// answer counts, so that a slow start of a modern server is no verdict.
    async fn discover_or_initialize(&self, version: &'static str) -> Verdict {
        let mut discover = std::pin::pin!(self.discover(version, self.deadline));
        let patience = Instant::now() + DISCOVER_TIMEOUT;
        if let Ok(event) = timeout_at(patience, &mut discover).await {
            return self.verdict(event);
        }
        let request = match self.initialize_request() {
            Ok(request) => request,
            Err(error) => return Verdict::Failed(error),
        };
        let mut initialize = std::pin::pin!(self.link.ask(request, self.deadline));
        tokio::select! {
            biased;
            event = &mut discover => {
                let verdict = self.verdict(event);
                if matches!(verdict, Verdict::Legacy) {
                    self.legacy(initialize.await).await
                } else {
                    verdict
                }
            }
            event = &mut initialize => {
                if event.is_unsupported_version() {
                    self.verdict(event)
                } else {
                    self.legacy(event).await
                }
            }
        }
    }

    /// Takes the answer to `initialize` as the verdict.
    async fn legacy(&self, event: Event) -> Verdict {
        match self.initialized(event).await {
            Ok(opening) => Verdict::Opened(opening),
            Err(error) => Verdict::Failed(error),
        }
    }

    async fn discover(&self, version: &str, deadline: Instant) -> Event {
        let modern = ModernMeta {
            version,
            client_info: self.client_info,
            capabilities: self.profile.capabilities.get(),
        };
        let plan = MetaPlan { allow: &[], modern: Some(modern) };
        let method = "server/discover";
        let headers = [(PROTOCOL_VERSION, version), (METHOD, method)];
        let headers = headers
            .into_iter()
            .filter_map(|(name, value)| wire::header_value(value).map(|value| (name, value)));
        match self.outgoing(method, None, &plan) {
            Ok(request) => {
                let request = Outgoing { headers: headers.collect(), ..request };
                self.link.ask(request, deadline).await
            }
            Err(error) => {
                Event::Lost { reason: LostReason::Unreadable(error.to_string()), sent: false }
            }
        }
    }

    fn verdict(&self, event: Event) -> Verdict {
        match event {
            Event::Result(result) => self.discovered(&result),
            Event::Error(error) => self.refused_discovery(error),
            Event::Lost { reason: LostReason::Status(status), .. } => match status {
                401 | 403 | 407 | 429 | 500.. => Verdict::Failed(self.incompatible_status(status)),
                _ => Verdict::Legacy,
            },
            Event::Lost { reason: LostReason::Unreadable(_) | LostReason::SessionGone, .. } => {
                Verdict::Legacy
            }
            Event::Lost { reason, .. } => Verdict::Failed(self.not_sent(reason)),
            Event::Notification { .. } | Event::ServerRequest { .. } => Verdict::Legacy,
        }
    }

    fn discovered(&self, result: &RawValue) -> Verdict {
        let Ok(said) = serde_json::from_str::<Said>(result.get()) else { return Verdict::Legacy };
        match common(&said.supported_versions) {
            Some(version) => {
                let era = Era::Modern { version: version.to_owned() };
                Verdict::Opened(said.opening(era))
            }
            None => Verdict::Legacy,
        }
    }

    fn refused_discovery(&self, error: Box<RawValue>) -> Verdict {
        let said: SaidError = serde_json::from_str(error.get()).unwrap_or_default();
        match said.code {
            UNSUPPORTED_VERSION => {
                let data = said.data.as_deref().map_or("null", RawValue::get);
                let Supported { supported } = serde_json::from_str(data).unwrap_or_default();
                match common(&supported) {
                    Some(version) => Verdict::TryVersion(version),
                    None if supported.is_empty() || supported.iter().any(|v| is_legacy(v)) => {
                        Verdict::Legacy
                    }
                    None => {
                        Verdict::Failed(self.incompatible(&format!(
                            "the server speaks {} only",
                            supported.join(", ")
                        )))
                    }
                }
            }
            HEADER_MISMATCH | MISSING_CLIENT_CAPABILITY => {
                Verdict::Failed(UpstreamError::Refused { server: self.server.clone(), error })
            }
            _ => Verdict::Legacy,
        }
    }

    fn initialize_request(&self) -> Result<Outgoing, UpstreamError> {
        let version = self.profile.version.as_deref().filter(|version| is_legacy(version));
        let params = format!(
            "{{\"protocolVersion\":\"{}\",\"capabilities\":{},\"clientInfo\":{}}}",
            version.unwrap_or(LEGACY_NEWEST),
            self.profile.capabilities.get(),
            self.client_info
        );
        let params = RawValue::from_string(params)
            .map_err(|error| self.incompatible(&format!("client capabilities: {error}")))?;
        let plan = MetaPlan { allow: &[], modern: None };
        self.outgoing("initialize", Some(&params), &plan)
    }

    async fn initialized(&self, event: Event) -> Result<Opening, UpstreamError> {
        let server = self.server.clone();
        let result = match event {
            Event::Result(result) => result,
            Event::Error(error) => return Err(UpstreamError::Refused { server, error }),
            Event::Lost { reason: LostReason::Status(status), .. } => {
                return Err(self.incompatible_status(status));
            }
            Event::Lost { reason, .. } => return Err(self.not_sent(reason)),
            Event::Notification { .. } | Event::ServerRequest { .. } => {
                return Err(self.incompatible("`initialize` has no result"));
            }
        };
        let mut said: Said = serde_json::from_str(result.get())
            .map_err(|error| self.incompatible(&format!("result of `initialize`: {error}")))?;
        let version = said.protocol_version.take().unwrap_or_default();
        if !is_legacy(&version) {
            return Err(self.incompatible(&format!("the server chose version `{version}`")));
        }
        if let Link::Http(link) = self.link {
            link.negotiated(&version);
        }
        let note = wire::notification("notifications/initialized", None);
        let sent = timeout_at(self.deadline, self.link.send(note)).await;
        sent.unwrap_or(Err(LostReason::Timeout)).map_err(|reason| self.not_sent(reason))?;
        if let Link::Http(link) = self.link {
            link.listen();
        }
        Ok(said.opening(Era::Legacy { version }))
    }

    fn outgoing(
        &self,
        method: &str,
        params: Option<&RawValue>,
        plan: &MetaPlan<'_>,
    ) -> Result<Outgoing, UpstreamError> {
        let id = self.link.mux().next_id();
        let body = wire::request(id, method, params, plan)?.body;
        Ok(Outgoing { id, body, token: None, governed: false, opening: true, headers: Vec::new() })
    }

    /// Nothing of a call was sent: only the opening was.
    fn not_sent(&self, reason: LostReason) -> UpstreamError {
        UpstreamError::NotSent { server: self.server.clone(), reason }
    }

    fn incompatible(&self, reason: &str) -> UpstreamError {
        UpstreamError::Incompatible { server: self.server.clone(), reason: reason.to_owned() }
    }

    fn incompatible_status(&self, status: u16) -> UpstreamError {
        self.not_sent(LostReason::Status(status))
    }
}

impl Said {
    fn opening(self, era: Era) -> Opening {
        Opening {
            era,
            capabilities: self.capabilities,
            server_info: self.server_info.or(self.meta.server_info),
            instructions: self.instructions,
        }
    }
}

impl Event {
    /// Whether the server refuses the version of the request: its era is not what was assumed.
    pub(super) fn is_unsupported_version(&self) -> bool {
        let Self::Error(error) = self else { return false };
        let said: SaidError = serde_json::from_str(error.get()).unwrap_or_default();
        said.code == UNSUPPORTED_VERSION
    }
}

/// Returns the newest modern version that is in `supported`.
fn common(supported: &[String]) -> Option<&'static str> {
    MODERN_VERSIONS.into_iter().rev().find(|version| supported.iter().any(|s| s == version))
}

fn is_legacy(version: &str) -> bool {
    LEGACY_VERSIONS.contains(&version)
}
