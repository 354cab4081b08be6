//! The MCP words that the generator and the echo upstream share.

use std::borrow::Cow;

use clap::ValueEnum;
use serde::{Deserialize, Serialize};

/// The revision of the modern era: every request describes itself, no session.
pub(crate) const MODERN_VERSION: &str = "2026-07-28";
/// The newest revision of the legacy era, the one offered and answered by default.
pub(crate) const LEGACY_VERSION: &str = "2025-11-25";
/// The revisions opened by `initialize` that the echo upstream accepts.
pub(crate) const LEGACY_VERSIONS: [&str; 4] =
    ["2024-11-05", "2025-03-26", "2025-06-18", LEGACY_VERSION];

pub(crate) const VERSION_HEADER: &str = "mcp-protocol-version";
pub(crate) const METHOD_HEADER: &str = "mcp-method";
pub(crate) const NAME_HEADER: &str = "mcp-name";
pub(crate) const SESSION_HEADER: &str = "mcp-session-id";

/// The two families of revisions, as seen by a client.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Era {
    Modern,
    Legacy,
}

/// The arguments of the `echo` tool.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Arguments<'a> {
    #[serde(borrow)]
    pub(crate) text: Cow<'a, str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) n: Option<u64>,
}

/// The `_meta` of a request, as far as the bench reads and writes it.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(crate) struct Meta<'a> {
    #[serde(
        rename = "io.modelcontextprotocol/protocolVersion",
        borrow,
        skip_serializing_if = "Option::is_none"
    )]
    pub(crate) protocol_version: Option<Cow<'a, str>>,
    #[serde(
        rename = "io.modelcontextprotocol/clientCapabilities",
        skip_serializing_if = "Option::is_none"
    )]
    pub(crate) client_capabilities: Option<Capabilities>,
    #[serde(
        rename = "dev.countersign/idempotency-key",
        borrow,
        skip_serializing_if = "Option::is_none"
    )]
    pub(crate) idempotency_key: Option<Cow<'a, str>>,
}

impl Meta<'_> {
    /// Reports whether there is nothing to send.
    pub(crate) fn is_empty(&self) -> bool {
        self.protocol_version.is_none()
            && self.client_capabilities.is_none()
            && self.idempotency_key.is_none()
    }
}

/// Client capabilities: the bench has none to offer and reads none.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(crate) struct Capabilities {}
