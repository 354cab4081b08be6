//! What can go wrong between the gateway and a server.

use serde_json::value::RawValue;

use countersign_model::ServerName;

use crate::envelope::EnvelopeError;

/// Says why something was not done, or may have been.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum UpstreamError {
    /// No server of this name is configured.
    #[error("no upstream server `{server}`")]
    UnknownServer {
        /// The name that was asked for.
        server: ServerName,
    },
    /// No byte of the request was written: it is certain that nothing was executed.
    #[error("`{server}` was not reached: {reason}")]
    NotSent {
        /// The server.
        server: ServerName,
        /// Why.
        reason: LostReason,
    },
    /// The request was written and its answer is unknown: it may have been executed.
    #[error("the answer of `{server}` was lost: {reason}")]
    Lost {
        /// The server.
        server: ServerName,
        /// Why.
        reason: LostReason,
    },
    /// The server answered with a JSON-RPC error.
    #[error("`{server}` answered with an error")]
    Refused {
        /// The server.
        server: ServerName,
        /// The error object as it came.
        error: Box<RawValue>,
    },
    /// No common protocol version, or an opening that is none.
    #[error("no MCP session with `{server}`: {reason}")]
    Incompatible {
        /// The server.
        server: ServerName,
        /// What was found.
        reason: String,
    },
    /// The era of the server does not have this method.
    #[error("`{method}` does not exist in the protocol version of the server")]
    Unsupported {
        /// The method.
        method: &'static str,
    },
    /// The parameters to forward are no object.
    #[error("unreadable parameters")]
    Params(#[from] EnvelopeError),
    /// A header value that HTTP cannot carry.
    #[error("header `{name}` has no valid value")]
    Header {
        /// The header's name.
        name: String,
    },
}

impl UpstreamError {
    /// Whether it is certain that the server executed nothing.
    #[must_use]
    pub fn is_not_sent(&self) -> bool {
        !matches!(self, Self::Lost { .. } | Self::Refused { .. })
    }
}

/// Says why an answer will not come.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum LostReason {
    /// The server could not be connected or started.
    #[error("cannot connect: {0}")]
    Connect(String),
    /// The connection or the child ended.
    #[error("the connection closed: {0}")]
    Closed(String),
    /// The time of the request was up.
    #[error("the request timed out")]
    Timeout,
    /// The server does not know the session any more (HTTP 404): it refused without executing.
    #[error("the server ended the session")]
    SessionGone,
    /// The exchange was cancelled.
    #[error("the request was cancelled")]
    Cancelled,
    /// The answer is larger than configured.
    #[error("the answer has more than {bytes_max} bytes")]
    TooLarge {
        /// The limit in bytes.
        bytes_max: usize,
    },
    /// An HTTP status without a JSON-RPC error.
    #[error("the server answered with HTTP status {0}")]
    Status(u16),
    /// The answer is no JSON-RPC message of this request.
    #[error("unreadable answer: {0}")]
    Unreadable(String),
    /// Too many sessions or calls.
    #[error("too many {0} with this server")]
    Busy(&'static str),
    /// The child crashed and is not started again yet.
    #[error("the server crashed and is started again later")]
    Backoff,
    /// The gateway ended the session.
    #[error("the session was closed")]
    Stopped,
}
