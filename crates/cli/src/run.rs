//! Starting and stopping a gateway: both planes, the publisher, the upstream servers.

use std::net::SocketAddr;
use std::sync::Arc;

use anyhow::Context as _;
use countersign_console::{
    BoxFuture, ControlToken, Operator, OperatorError, Setup, Tokens, UpstreamSpec,
};
use countersign_gateway::Gateway;
use countersign_model::ServerName;
use countersign_store::{Reader, Store, StoreConfig};
use serde_json::json;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::anchors;
use crate::clock::{SystemClock, ids};
use crate::config::{Config, Upstream, default_environment};
use crate::paths::Paths;

/// A gateway that serves.
pub(crate) struct Running {
    /// Where agents call.
    pub(crate) data_plane: SocketAddr,
    /// Where people and the command line call.
    pub(crate) control_plane: SocketAddr,
    /// The ledger.
    pub(crate) store: Store,
    /// The data plane.
    pub(crate) gateway: Arc<Gateway>,
    /// The ledger, as the control plane reads it.
    reader: Reader,
    paths: Paths,
    stop: watch::Sender<bool>,
    planes: Vec<JoinHandle<std::io::Result<()>>>,
    publisher: JoinHandle<()>,
    anchors: Option<JoinHandle<()>>,
}

/// Gives the settings of an installation's ledger.
pub(crate) fn store_config(config: &Config) -> StoreConfig {
    let mut store = StoreConfig::new(config.tenant(), Arc::new(SystemClock), ids());
    store.origin = config.origin();
    store.database = config.store.database();
    store.replica.clone_from(&config.store.replica);
    store.signer.clone_from(&config.signer.socket);
    store.retention = config.retention.sections_days.0;
    store
}

/// Starts a gateway.
pub(crate) async fn start(paths: &Paths, config: &Config) -> anyhow::Result<Running> {
    let store = Store::open(&paths.data, store_config(config)).await.with_context(|| {
        format!("cannot open the ledger in {} (`countersign init` makes one)", paths.data.display())
    })?;
    let started = serve(paths, config, store.clone()).await;
    if started.is_err() {
        // Else the next start would take this one for a crash.
        if let Err(error) = store.shutdown().await {
            tracing::error!(%error, "the ledger did not close cleanly");
        }
    }
    started
}

async fn serve(paths: &Paths, config: &Config, store: Store) -> anyhow::Result<Running> {
    let gateway =
        Gateway::new(config.gateway(paths)?, store.clone(), Arc::new(SystemClock), ids())?;
    gateway.keep_bundle("countersign").await.context("cannot record the policy bundle")?;
    let reader =
        Reader::of(&paths.data, &store_config(config)).await.context("cannot read the ledger")?;
    let anchors = anchors::start(&store, &reader, &config.anchors, paths, gateway.gate()).await?;

    let data_listener = listen(&config.data_plane.listen).await?;
    let control_listener = listen(&config.control_plane.listen).await?;
    let (data_plane, control_plane) = (data_listener.local_addr()?, control_listener.local_addr()?);

    let (stop, stopped) = watch::channel(false);
    let console = countersign_console::router(Setup {
        store: store.clone(),
        reader: reader.clone(),
        log: paths.log(),
        control: ControlToken::read_or_create(&paths.token())?,
        tokens: Tokens::open(&paths.data, &paths.keys())?,
        operator: Arc::new(GatewayOperator { gateway: Arc::clone(&gateway) }),
        hosts: config.control_plane.hosts.clone(),
    });
    store.record_retention().await.context("cannot record the retention that is set")?;
    store.record_start().await.context("cannot record the start")?;
    let planes = vec![
        tokio::spawn(countersign_gateway::serve(
            Arc::clone(&gateway),
            data_listener,
            until_stopped(stopped.clone()),
        )),
        tokio::spawn(async move {
            axum::serve(control_listener, console)
                .with_graceful_shutdown(until_stopped(stopped))
                .await
        }),
    ];
    let publisher = tokio::spawn({
        let store = store.clone();
        async move { store.publisher().await }
    });
    let addresses = json!({
        "data_plane": format!("http://{data_plane}"),
        "control_plane": format!("http://{control_plane}"),
        "pid": std::process::id(),
    });
    std::fs::write(paths.serve(), addresses.to_string())?;
    let paths = paths.clone();
    Ok(Running {
        data_plane,
        control_plane,
        store,
        gateway,
        reader,
        paths,
        stop,
        planes,
        publisher,
        anchors,
    })
}

impl Running {
    /// Lets running calls end, publishes what is durable and closes the ledger.
    pub(crate) async fn stop(self) -> anyhow::Result<()> {
        let _ = std::fs::remove_file(self.paths.serve());
        self.stop.send_replace(true);
        let grace = countersign_gateway::limits::SHUTDOWN_GRACE;
        for plane in self.planes {
            let abort = plane.abort_handle();
            if tokio::time::timeout(grace, plane).await.is_err() {
                abort.abort();
            }
        }
        self.gateway.shutdown().await;
        self.publisher.abort();
        self.anchors.inspect(JoinHandle::abort);
        if let Err(error) = self.store.record_stop().await {
            tracing::error!(%error, "the stop cannot be recorded; it will look like a gap");
        }
        self.reader.close().await;
        self.store.shutdown().await.context("the ledger did not close cleanly")
    }
}

async fn listen(address: &str) -> anyhow::Result<TcpListener> {
    TcpListener::bind(address).await.with_context(|| {
        format!("cannot listen on {address} (another gateway? set `listen` in countersign.toml)")
    })
}

async fn until_stopped(mut stopped: watch::Receiver<bool>) {
    let _ = stopped.wait_for(|stopped| *stopped).await;
}

/// What the control plane may ask of the data plane.
struct GatewayOperator {
    gateway: Arc<Gateway>,
}

impl Operator for GatewayOperator {
    fn reload_policy<'a>(&'a self, actor: &'a str) -> BoxFuture<'a, Result<String, OperatorError>> {
        Box::pin(async move {
            self.gateway.rules().reload().map_err(refused)?;
            self.gateway.keep_bundle(actor).await.map_err(failed)?;
            Ok(self.gateway.rules().current().bundle.hash().to_owned())
        })
    }

    fn pin<'a>(
        &'a self,
        server: &'a ServerName,
        actor: &'a str,
    ) -> BoxFuture<'a, Result<usize, OperatorError>> {
        Box::pin(async move {
            if !self.gateway.has_server(server) {
                return Err(OperatorError::Unknown(format!("no upstream is named `{server}`")));
            }
            countersign_gateway::watch::pin(&self.gateway, server, actor).await.map_err(failed)
        })
    }

    fn add_upstream<'a>(
        &'a self,
        upstream: UpstreamSpec,
        actor: &'a str,
    ) -> BoxFuture<'a, Result<(), OperatorError>> {
        Box::pin(async move {
            let config = Upstream {
                command: upstream.command,
                env: upstream.env,
                cwd: upstream.cwd,
                ..Upstream::default()
            };
            let config = config.config(&upstream.name).map_err(refused)?;
            let environment = default_environment().map_err(refused)?;
            self.gateway.add_upstream(config, environment, actor).await.map_err(failed)
        })
    }
}

fn refused(error: impl std::fmt::Display) -> OperatorError {
    OperatorError::Invalid(error.to_string())
}

fn failed(error: impl std::fmt::Display) -> OperatorError {
    OperatorError::Unavailable(error.to_string())
}
