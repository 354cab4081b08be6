//! The control plane: where people and the command line talk to a running gateway.
//!
//! | route | role | gives |
//! |---|---|---|
//! | `GET /healthz` | none | a sign of life |
//! | `GET /log/{tenant}/checkpoint`, `/log/{tenant}/tile/…` | none | the published log (C2SP tlog-tiles) |
//! | `GET /log/{tenant}/tile/entries/…` | auditor | entry bundles: they name agents and tools |
//! | `GET /api/v1/records`, `/records/{id}`, `…/proof`, `/consistency` | viewer | records and proofs |
//! | the same with private fields; `GET /api/v1/audit` | auditor | disclosures, calls in another shape |
//! | the rest of `/api/v1/…` | admin | agents, tokens, policy, pins, upstreams, reconciliation, erasure, retention, readings by the command line |
//!
//! A credential is the [`ControlToken`], which is an administrator's, or a named token ([`Tokens`]) with its
//! [`Role`]. What is not named here takes an administrator, unknown routes too, and any other credential is
//! refused everywhere: an agent has no route here at all. Every reading of records is itself a record.
//!
//! Out of scope: pages and logins of people, the data plane (crate `gateway`, reached through
//! [`Operator`]), publishing the log (crate `store`), listening and TLS (crate `cli`).

mod access;
mod acp;
mod answer;
mod api;
mod consistency;
mod cursor;
mod guard;
pub mod limits;
mod listing;
mod openapi;
mod operator;
mod params;
mod published;
mod read;
mod retention;
mod role;
mod token;
mod token_routes;
mod tokens;

use std::path::PathBuf;
use std::sync::Arc;

use axum::Router;
use axum::routing::get;
use countersign_store::{Reader, Store};

pub use access::{LocalAccess, ReadingCommand};
pub use operator::{BoxFuture, Operator, OperatorError, UpstreamSpec};
pub use retention::RestoreTest;
pub use role::Role;
pub use token::{ControlToken, TokenError};
pub use tokens::{NewToken, TokenInfo, TokenText, Tokens, TokensError};

/// The name under which changes made with the control token are recorded.
pub const ACTOR: &str = "control-token";

/// What a control plane is made of.
#[expect(missing_debug_implementations, reason = "key material")]
pub struct Setup {
    /// The ledger.
    pub store: Store,
    /// The same, for questions.
    pub reader: Reader,
    /// The folder of the published log.
    pub log: PathBuf,
    /// The administrator's token.
    pub control: ControlToken,
    /// All other tokens.
    pub tokens: Tokens,
    /// The data plane.
    pub operator: Arc<dyn Operator>,
    /// The names, without port, that a `Host` header may have besides those of loopback: any other is refused
    /// (DNS rebinding).
    pub hosts: Vec<String>,
}

/// What every route can reach.
pub(crate) struct Console {
    pub(crate) store: Store,
    pub(crate) reader: Reader,
    pub(crate) log: PathBuf,
    pub(crate) control: ControlToken,
    pub(crate) tokens: Tokens,
    pub(crate) operator: Arc<dyn Operator>,
    pub(crate) hosts: Vec<String>,
    /// The description of the API.
    pub(crate) openapi: String,
}

/// Makes the routes of the control plane.
pub fn router(setup: Setup) -> Router {
    let (api, openapi) = openapi::routes();
    let Setup { store, reader, log, control, tokens, operator, hosts } = setup;
    let console = Console { store, reader, log, control, tokens, operator, hosts, openapi };
    let console = Arc::new(console);
    Router::new()
        .route("/healthz", get(|| async { "ok\n" }))
        .merge(published::routes())
        .merge(api)
        .fallback(|| async { answer::ApiError::not_found("there is no such route") })
        .method_not_allowed_fallback(|| async { answer::ApiError::method_not_allowed() })
        .layer(axum::middleware::from_fn_with_state(Arc::clone(&console), guard::guard))
        .with_state(console)
}
