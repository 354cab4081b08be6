//! Connections to MCP servers: both eras, over stdio and Streamable HTTP.
//!
//! [`Upstreams`] holds one session per server and owner. A call is sent at most once, only with a
//! [`Permit`](crate::permit::Permit), and what comes back is an [`Exchange`] of events.
//!
//! Out of scope: deciding, recording, bridging between the eras of client and server, addresses that
//! may not be reached.

mod config;
mod error;
mod exchange;
mod http;
pub mod limits;
mod link;
mod mux;
mod pool;
mod probe;
mod session;
mod sse;
mod stdio;
mod wire;

pub use config::{ClientIdentity, StdioCommand, Transport, UpstreamConfig};
pub use error::{LostReason, UpstreamError};
pub use exchange::{Event, Exchange};
pub use mux::SessionEvent;
pub use pool::Upstreams;
pub use session::{
    ClientNotification, ClientProfile, Era, Housekeeping, OwnerKey, Request, Session,
};
