//! The control plane: where people and the command line talk to a running gateway.
//!
//! | route | credential | gives |
//! |---|---|---|
//! | `GET /healthz` | none | a sign of life |
//! | `GET /log/{tenant}/checkpoint`, `/log/{tenant}/tile/…` | none | the published log (C2SP tlog-tiles) |
//! | `GET /log/{tenant}/tile/entries/…` | control token | entry bundles: they name agents and tools |
//! | `/api/v1/…` | control token | agents, policy, pins, upstreams, reconciliation |
//!
//! Whatever is not on the public list needs the [`ControlToken`], unknown routes too, and a credential
//! that is not the control token is refused everywhere: an agent has no route here at all.
//!
//! Out of scope: pages and logins of people, the data plane (crate `gateway`, reached through
//! [`Operator`]), publishing the log (crate `store`), listening and TLS (crate `cli`).

mod answer;
mod api;
mod guard;
pub mod limits;
mod operator;
mod published;
mod token;

use std::path::PathBuf;
use std::sync::Arc;

use axum::Router;
use axum::routing::get;
use countersign_store::Store;

pub use operator::{BoxFuture, Operator, OperatorError, UpstreamSpec};
pub use token::{ControlToken, TokenError};

/// The name under which changes made with the control token are recorded.
pub const ACTOR: &str = "control-token";

/// What every route can reach.
pub(crate) struct Console {
    pub(crate) store: Store,
    pub(crate) log: PathBuf,
    pub(crate) token: ControlToken,
    pub(crate) operator: Arc<dyn Operator>,
    pub(crate) hosts: Vec<String>,
}

/// Makes the routes of the control plane.
///
/// `log` is the folder of the published log. `hosts` are the names, without port, that a `Host` header
/// may have besides those of loopback: any other is refused (DNS rebinding).
pub fn router(
    store: Store,
    log: PathBuf,
    token: ControlToken,
    operator: Arc<dyn Operator>,
    hosts: Vec<String>,
) -> Router {
    let console = Arc::new(Console { store, log, token, operator, hosts });
    Router::new()
        .route("/healthz", get(|| async { "ok\n" }))
        .merge(published::routes())
        .nest("/api/v1", api::routes())
        .fallback(|| async { answer::ApiError::not_found("there is no such route") })
        .method_not_allowed_fallback(|| async { answer::ApiError::method_not_allowed() })
        .layer(axum::middleware::from_fn_with_state(Arc::clone(&console), guard::guard))
        .with_state(console)
}
