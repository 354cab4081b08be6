//! Reading by the command line is recorded before anything is shown (`access`).

use std::os::unix::fs::MetadataExt as _;
use std::process::Command;

use anyhow::Context as _;
use countersign_console::{LocalAccess, ReadingCommand};
use serde_json::{Map, Value};

use crate::control::{Control, with_store};
use crate::paths::Paths;

/// What a command is about to show.
pub(crate) struct Reading {
    pub(crate) command: ReadingCommand,
    /// How many records, if that is known before they are read.
    pub(crate) count: Option<u64>,
    /// How many records the log had, as far as the answer depends on it.
    pub(crate) tree_size: u64,
    /// What was asked for; what is null was not.
    pub(crate) filters: Value,
}

impl Reading {
    /// Records the reading, durably: through the running gateway, or else in the ledger itself.
    ///
    /// # Errors
    /// Without the record nothing may be shown.
    pub(crate) async fn record(self, paths: &Paths) -> anyhow::Result<()> {
        let Self { command, count, tree_size, filters } = self;
        let mut filters = if let Value::Object(filters) = filters { filters } else { Map::new() };
        filters.retain(|_, value| !value.is_null());
        let access = LocalAccess { account: account(), command, count, tree_size, filters };
        let recorded = match Control::find(paths).await {
            Some(control) => {
                let body = serde_json::to_value(&access)?;
                control.post("/api/v1/access", &body).await.map(drop)
            }
            None => {
                with_store(paths, async |store| Ok(access.record(store, None).await.map(drop)?))
                    .await
            }
        };
        recorded.context("the reading cannot be recorded, so nothing is shown")
    }
}

/// Returns the account that runs this program, as the system names it, or its number.
fn account() -> String {
    let named = Command::new("id").arg("-un").output().ok().filter(|it| it.status.success());
    let name = named.and_then(|it| String::from_utf8(it.stdout).ok());
    let name = name.map(|name| name.trim().to_owned()).filter(|name| !name.is_empty());
    // A system without `id`, or a number without a name: the owner of this process.
    name.unwrap_or_else(|| match std::fs::metadata("/proc/self") {
        Ok(process) => format!("uid {}", process.uid()),
        Err(_) => "unknown".to_owned(),
    })
}
