//! The fake world that Countersign's tests run against: an MCP server that speaks both eras, and
//! upstreams that stall, lie and hang up.
//!
//! [`Fixture`] is an MCP server with the tools, resources and prompts that the official
//! conformance suite looks for. It serves Streamable HTTP ([`serve_http`]) and stdio
//! ([`serve_stdio`]), legacy revisions (`initialize`, sessions, requests from server to client)
//! and the modern one (self-describing requests, `input_required`), or one of them only.
//! [`FakeUpstream`] is the same server with a [`Behaviour`] that a test can change, and a log of
//! everything it executed. [`Postgres`] is a real cluster that ends with the test,
//! [`TimestampAuthority`] a real RFC 3161 authority. The binary `mcp-fixture` runs the fixture outside a test.
//!
//! Out of scope: being a good MCP server. Nothing here is meant for anything but tests.
#![warn(missing_docs)]

mod authority;
mod call_log;
mod era;
mod fake;
mod fixture;
mod headers;
mod http;
mod jsonrpc;
mod postgres;
mod session;
mod stdio;
mod sync;

pub use authority::TimestampAuthority;
pub use call_log::{CallLog, CallRecord};
pub use era::EraMode;

pub use fake::{Behaviour, FakeUpstream, SeenRequest};
pub use fixture::Fixture;
pub use http::serve_http;
pub use postgres::Postgres;
pub use stdio::serve_stdio;
