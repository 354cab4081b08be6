//! What the control plane asks of the data plane.

use std::collections::BTreeMap;
use std::fmt;
use std::future::Future;
use std::path::PathBuf;
use std::pin::Pin;

use countersign_model::ServerName;

/// A future that can be sent and named.
pub type BoxFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// Changes a running gateway. Console and gateway do not know each other: the program that runs both
/// implements this. Every change is recorded under `actor` before the future is ready.
pub trait Operator: Send + Sync {
    /// Reads the policy bundle again and returns the hash of the one now in force; on errors the old
    /// one stays.
    fn reload_policy<'a>(&'a self, actor: &'a str) -> BoxFuture<'a, Result<String, OperatorError>>;

    /// Pins the tools that a server offers now, and returns how many.
    fn pin<'a>(
        &'a self,
        server: &'a ServerName,
        actor: &'a str,
    ) -> BoxFuture<'a, Result<usize, OperatorError>>;

    /// Puts a stdio server behind the gateway until it stops.
    fn add_upstream<'a>(
        &'a self,
        upstream: UpstreamSpec,
        actor: &'a str,
    ) -> BoxFuture<'a, Result<(), OperatorError>>;
}

/// A stdio server to be put behind the gateway.
#[derive(Clone, PartialEq, Eq)]
pub struct UpstreamSpec {
    /// The name by which agents know it.
    pub name: ServerName,
    /// The program and its arguments; not empty.
    pub command: Vec<String>,
    /// Its environment.
    pub env: BTreeMap<String, String>,
    /// Its working directory, if not the gateway's.
    pub cwd: Option<PathBuf>,
}

impl fmt::Debug for UpstreamSpec {
    /// Names the variables without their values, which may be secrets.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("UpstreamSpec")
            .field("name", &self.name)
            .field("command", &self.command)
            .field("env", &self.env.keys())
            .field("cwd", &self.cwd)
            .finish()
    }
}

/// Says why the data plane did not change. The texts are for operators.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum OperatorError {
    /// There is no such server.
    #[error("{0}")]
    Unknown(String),
    /// What was asked for contradicts what is there: the name is taken.
    #[error("{0}")]
    Conflict(String),
    /// What was asked for cannot be used: the bundle has errors, the command is empty.
    #[error("{0}")]
    Invalid(String),
    /// The ledger cannot record it, or the server does not answer.
    #[error("{0}")]
    Unavailable(String),
}
