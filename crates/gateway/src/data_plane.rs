//! The listener of the data plane.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::http::StatusCode;
use axum::routing::get;
use countersign_model::AgentStatus;
use tokio::net::TcpListener;

use crate::gate::Gate;
use crate::gateway::Gateway;
use crate::mcp;
use crate::mcp::session_owner;

/// Pause between two looks for sessions to close. Disabling an agent ends its sessions within it.
const SESSION_SWEEP_INTERVAL: Duration = Duration::from_millis(500);

/// Serves the data plane until `stop` resolves, then lets running requests end.
///
/// # Errors
///
/// Fails if the listener does.
pub async fn serve(
    gateway: Arc<Gateway>,
    listener: TcpListener,
    stop: impl Future<Output = ()> + Send + 'static,
) -> std::io::Result<()> {
    let watching: Vec<_> = gateway
        .upstreams
        .servers()
        .into_iter()
        .map(|server| tokio::spawn(crate::watch::watch(Arc::clone(&gateway), server)))
        .collect();
    let sweeping = tokio::spawn(sweep(Arc::clone(&gateway)));
    let served =
        axum::serve(listener, router(Arc::clone(&gateway))).with_graceful_shutdown(stop).await;
    watching.into_iter().chain([sweeping]).for_each(|task| task.abort());
    served
}

fn router(gateway: Arc<Gateway>) -> Router {
    let gate = gateway.gate().clone();
    Router::new()
        .route("/healthz", get(|| async { "ok\n" }))
        .route("/readyz", get(move || async move { readiness(&gate) }))
        .merge(mcp::router(gateway))
}

/// A gateway that listens has opened its ledger and loaded a bundle; what else it needs is anchors, if it
/// is told to refuse calls without.
fn readiness(gate: &Gate) -> (StatusCode, &'static str) {
    if gate.is_closed() {
        return (StatusCode::SERVICE_UNAVAILABLE, "calls are refused: the log is not anchored\n");
    }
    (StatusCode::OK, "ready\n")
}

/// Closes sessions that nobody uses and those of disabled agents.
async fn sweep(gateway: Arc<Gateway>) {
    loop {
        tokio::time::sleep(SESSION_SWEEP_INTERVAL).await;
        let agents = gateway.store().agents().list();
        let may_act =
            |id| agents.iter().any(|agent| agent.id == id && agent.status == AgentStatus::Active);
        for session in gateway.sessions.close_stale(gateway.now_ms(), may_act) {
            gateway.upstreams.close_owner(&session_owner(&session.id)).await;
        }
    }
}
