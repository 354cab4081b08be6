//! How a server is reached.

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use hyper::Uri;
use hyper::http::{HeaderName, HeaderValue};

use countersign_model::ServerName;

use super::limits::{CALLS_MAX, SESSION_IDLE_MAX, SESSIONS_MAX};

/// One upstream server.
#[derive(Clone, Debug)]
pub struct UpstreamConfig {
    /// The name by which the gateway knows it.
    pub name: ServerName,
    /// What carries the messages.
    pub transport: Transport,
    /// Longest time of one request; progress does not extend it.
    pub request_timeout: Duration,
    /// Longest time to connect over TCP.
    pub connect_timeout: Duration,
    /// Size limit of one answer, in bytes.
    pub result_bytes_max: usize,
    /// Keys of `_meta` that go on to this server; a trailing `*` stands for any rest. `traceparent`
    /// and `tracestate` always go on, `progressToken` is replaced by the gateway's own.
    pub meta_allow: Vec<String>,
    /// Limit of sessions open at once.
    pub sessions_max: usize,
    /// Limit of calls in flight at once.
    pub calls_max: usize,
    /// Sessions without a call for this long are closed.
    pub session_idle_max: Duration,
}

impl UpstreamConfig {
    /// Returns a configuration with the default limits.
    #[must_use]
    pub fn new(name: ServerName, transport: Transport) -> Self {
        Self {
            name,
            transport,
            request_timeout: Duration::from_mins(1),
            connect_timeout: Duration::from_secs(5),
            result_bytes_max: 8 << 20,
            meta_allow: Vec::new(),
            sessions_max: SESSIONS_MAX,
            calls_max: CALLS_MAX,
            session_idle_max: SESSION_IDLE_MAX,
        }
    }
}

/// What carries the messages.
#[derive(Clone, Debug)]
pub enum Transport {
    /// A child process per session.
    Stdio(StdioCommand),
    /// Streamable HTTP.
    Http {
        /// The endpoint; no redirect is followed.
        url: Uri,
        /// Headers of every request, for example `authorization`; never logged.
        headers: Vec<(HeaderName, HeaderValue)>,
    },
}

/// The command line of a child.
#[derive(Clone, Default)]
pub struct StdioCommand {
    /// The program and its arguments.
    pub command: Vec<String>,
    /// The whole environment: nothing is inherited, so `PATH` and `HOME` belong here if the child
    /// needs them.
    pub env: BTreeMap<String, String>,
    /// The working directory, if not the gateway's.
    pub cwd: Option<PathBuf>,
}

impl fmt::Debug for StdioCommand {
    /// Names the variables without their values, which may be secrets.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StdioCommand")
            .field("command", &self.command)
            .field("env", &self.env.keys())
            .field("cwd", &self.cwd)
            .finish()
    }
}

/// How the gateway introduces itself to servers.
#[derive(Clone, Debug)]
pub struct ClientIdentity {
    /// The name, for example `countersign`.
    pub name: String,
    /// The version.
    pub version: String,
}
