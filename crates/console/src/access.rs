//! What the ledger says about those who read it: an `access` record for every request (people.md, 6).
//!
//! Public are the token's id and role, the route, how many records were given and of which tree. Sealed are
//! the token's name (the record's principal), the filters and the names of the private fields that were
//! opened: each may name a person.
//!
//! The command line reads the files of the installation itself and needs no token: it records a
//! [`LocalAccess`] before it prints anything.

use countersign_model::{Draft, Kind, RecordId};
use countersign_store::{Appended, Store, StoreError};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use utoipa::ToSchema;

use crate::Console;
use crate::answer::ApiError;
use crate::limits::ACCOUNT_BYTES_MAX;
use crate::role::{Caller, Role};

/// What somebody read.
#[derive(Default)]
pub(crate) struct Access {
    /// The route, as the API's description has it.
    pub(crate) route: &'static str,
    /// How many records were given.
    pub(crate) count: usize,
    /// The record that was asked for, if it was one.
    pub(crate) record: Option<String>,
    /// How many records the log had, as far as the answer depends on it.
    pub(crate) tree_size: Option<u64>,
    /// The filters; a person stands in them as a pseudonym.
    pub(crate) filters: Map<String, Value>,
    /// The private fields that were opened, by name.
    pub(crate) disclosed: Vec<String>,
}

/// A command that reads the ledger.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum ReadingCommand {
    /// `countersign evidence package`.
    EvidencePackage,
    /// `countersign evidence list`.
    EvidenceList,
    /// `countersign sample`.
    Sample,
    /// `countersign records query`.
    RecordsQuery,
    /// `countersign records tail`.
    RecordsTail,
    /// `countersign report coverage`.
    ReportCoverage,
}

impl ReadingCommand {
    /// Returns the command's name, as records have it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::EvidencePackage => "evidence-package",
            Self::EvidenceList => "evidence-list",
            Self::Sample => "sample",
            Self::RecordsQuery => "records-query",
            Self::RecordsTail => "records-tail",
            Self::ReportCoverage => "report-coverage",
        }
    }
}

/// What somebody read with the command line: whoever has the files of an installation is its administrator.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct LocalAccess {
    /// The account of the operating system, as the command line says it: a claim.
    pub account: String,
    /// What was run.
    pub command: ReadingCommand,
    /// How many records were given; absent if they are given while they are counted.
    pub count: Option<u64>,
    /// How many records the log had, as far as the answer depends on it.
    pub tree_size: u64,
    /// What was asked for; a person is recorded as a pseudonym.
    #[schema(value_type = Object)]
    pub filters: Map<String, Value>,
}

impl LocalAccess {
    /// Records the reading; `key_id` is that of the named token by which it came, if it did.
    ///
    /// # Errors
    /// [`StoreError::Invalid`] if the account's name is empty or too long; otherwise as [`Store::append`].
    pub async fn record(self, store: &Store, key_id: Option<&str>) -> Result<Appended, StoreError> {
        let Self { account, command, count, tree_size, mut filters } = self;
        if account.is_empty() || account.len() > ACCOUNT_BYTES_MAX {
            let reason = format!("an account has 1 to {ACCOUNT_BYTES_MAX} bytes");
            return Err(StoreError::Invalid { reason });
        }
        if let Some(person) = filters.get_mut("principal") {
            let pseudonym = person.as_str().map(|person| store.pseudonym(person)).transpose()?;
            *person = pseudonym.into();
        }
        let mut draft = Draft::new(RecordId((store.config().ids)()), Kind::Access)
            .with("result", "read")
            .with("plane", "local")
            .with("role", Role::Admin.as_str())
            .with("identity", "claimed")
            .with("command", command.as_str())
            .with("disclosed_fields", 0)
            .with("tree_size", tree_size)
            .with_some("count", count)
            .with_some("key_id", key_id)
            .about(format!("account:{account}"));
        if !filters.is_empty() {
            draft = draft.sealed("filters", filters);
        }
        store.append(draft).await
    }
}

/// Records that somebody read; without that nothing is answered.
///
/// # Errors
/// [`ApiError`] if the ledger cannot record now.
pub(crate) async fn record(
    console: &Console,
    caller: &Caller,
    access: Access,
) -> Result<(), ApiError> {
    let mut draft = draft(console, caller, "read")
        .with("route", access.route)
        .with("count", access.count)
        .with("disclosed_fields", access.disclosed.len())
        .with_some("read_record", access.record)
        .with_some("tree_size", access.tree_size);
    if !access.filters.is_empty() {
        draft = draft.sealed("filters", access.filters);
    }
    if !access.disclosed.is_empty() {
        draft = draft.sealed("disclosed", access.disclosed);
    }
    console.store.append(draft).await?;
    Ok(())
}

/// Records that somebody asked for more than the role allows. The refusal does not depend on it.
pub(crate) async fn record_refusal(console: &Console, caller: &Caller, needed: Role, path: &str) {
    // A path may hold anything, so it is no public text.
    let draft =
        draft(console, caller, "refused").with("needs", needed.as_str()).sealed("path", path);
    if let Err(error) = console.store.append(draft).await {
        tracing::warn!(%error, "a refused request cannot be recorded");
    }
}

fn draft(console: &Console, caller: &Caller, result: &str) -> Draft {
    Draft::new(RecordId((console.store.config().ids)()), Kind::Access)
        .with("result", result)
        .with("plane", "control")
        .with("role", caller.role.as_str())
        .with_some("key_id", caller.key_id.as_deref())
        .about(caller.actor.as_str())
}
