//! Keeping an eye on the servers: their tools against the pins, at the start and ever after.

use std::sync::Arc;

use countersign_model::{Draft, Kind, ServerName};
use serde_json::Value;
use serde_json::value::RawValue;

use crate::envelope::string;
use crate::gateway::Gateway;
use crate::limits::{PIN_CHECK_INTERVAL, PIN_RETRY_INTERVAL, TOOLS_PER_SERVER_MAX};
use crate::mcp::{self, List};
use crate::rules::Observed;
use crate::upstream::{ClientProfile, OwnerKey};

/// Whose upstream sessions the comparison uses.
const OWNER: &str = "pins";
/// Everything a client can declare: servers list some tools only to clients that can serve them.
const CAPABILITIES: &str = r#"{"sampling":{},"elicitation":{"form":{},"url":{}},"roots":{}}"#;

/// Why a server could not be compared.
#[derive(Debug, thiserror::Error)]
pub enum WatchError {
    /// The server did not answer.
    #[error("cannot list the tools of `{server}`: {reason}")]
    Unreachable {
        /// The server.
        server: ServerName,
        /// What happened.
        reason: String,
    },
    /// The server offers more tools than the gateway takes.
    #[error("`{server}` offers more than {TOOLS_PER_SERVER_MAX} tools")]
    TooMany {
        /// The server.
        server: ServerName,
    },
    /// The pins could not be written or loaded.
    #[error(transparent)]
    Rules(#[from] crate::rules::RulesError),
    /// The change could not be recorded.
    #[error("the change could not be recorded")]
    NotRecorded(#[source] countersign_store::StoreError),
}

/// What a server offers now.
struct Live {
    instructions: Option<String>,
    tools: Vec<Box<RawValue>>,
}

/// Compares a server with its pins for as long as the gateway runs.
pub async fn watch(gateway: Arc<Gateway>, server: ServerName) {
    loop {
        let pause = match compare(&gateway, &server).await {
            Ok(_) => PIN_CHECK_INTERVAL,
            Err(error) => {
                tracing::warn!(%server, error = %error, "could not compare a server with its pins");
                PIN_RETRY_INTERVAL
            }
        };
        tokio::time::sleep(pause).await;
    }
}

/// Compares a server with its pins once; the first sight of a server pins its tools.
///
/// # Errors
///
/// Fails if the server does not answer or the change cannot be recorded.
pub async fn compare(gateway: &Gateway, server: &ServerName) -> Result<Observed, WatchError> {
    let live = live(gateway, server).await?;
    let observed = gateway.rules().observe(server, live.instructions.as_deref(), &live.tools)?;
    match &observed {
        Observed::Unchanged => {}
        Observed::Pinned { tools } => {
            tracing::info!(%server, tools, "pinned the tools of a new server");
            record_pins(gateway, server, *tools, "pinned_at_first_sight", "countersign").await?;
        }
        Observed::Drifted { tools, news: false } => {
            tracing::warn!(%server, ?tools, "tools differ from their pins");
        }
        Observed::Drifted { tools, news: true } => {
            tracing::warn!(%server, ?tools, "tools differ from their pins and are refused");
            let tools: Vec<_> = tools.iter().map(|tool| Value::from(tool.as_str())).collect();
            let draft = Draft::new(gateway.record_id(), Kind::Detection)
                .with("type", "tool_pin_mismatch")
                .with("server", server.as_str())
                .sealed("tools", tools);
            gateway.store().append(draft).await.map_err(WatchError::NotRecorded)?;
        }
    }
    Ok(observed)
}

/// Pins what a server offers now, on an operator's word.
///
/// # Errors
///
/// As [`compare`].
pub async fn pin(gateway: &Gateway, server: &ServerName, actor: &str) -> Result<usize, WatchError> {
    let live = live(gateway, server).await?;
    gateway.rules().pin(server, live.instructions.as_deref(), &live.tools)?;
    record_pins(gateway, server, live.tools.len(), "pinned", actor).await?;
    Ok(live.tools.len())
}

/// Records new pins, and the bundle that they are part of.
async fn record_pins(
    gateway: &Gateway,
    server: &ServerName,
    tools: usize,
    event: &str,
    actor: &str,
) -> Result<(), WatchError> {
    let draft = Draft::new(gateway.record_id(), Kind::Change)
        .with("object", "tool_pins")
        .with("event", event)
        .with("server", server.as_str())
        .with("tools", u64::try_from(tools).unwrap_or(u64::MAX))
        .sealed("actor", actor);
    gateway.store().append(draft).await.map_err(WatchError::NotRecorded)?;
    gateway.keep_bundle(actor).await.map_err(WatchError::NotRecorded)
}

/// Asks a server for everything it offers.
async fn live(gateway: &Gateway, server: &ServerName) -> Result<Live, WatchError> {
    let unreachable = |error: &dyn std::fmt::Display| WatchError::Unreachable {
        server: server.clone(),
        reason: error.to_string(),
    };
    let capabilities = mcp::raw(CAPABILITIES.to_owned());
    let profile = ClientProfile { capabilities, version: None };
    let owner = OwnerKey::new(OWNER);
    let session = gateway.upstreams.session(server, &owner, &profile).await;
    let session = session.map_err(|error| unreachable(&error))?;
    let tools = mcp::collect(&session, List::Tools).await.map_err(|error| unreachable(&error))?;
    let instructions = session.instructions().and_then(|raw| string(raw).ok());
    if tools.len() > TOOLS_PER_SERVER_MAX {
        return Err(WatchError::TooMany { server: server.clone() });
    }
    Ok(Live { instructions: instructions.map(std::borrow::Cow::into_owned), tools })
}
