//! What the ledger says about those who read it: an `access` record for every request (people.md, 6).
//!
//! Public are the token's id and role, the route, how many records were given and of which tree. Sealed are
//! the token's name (the record's principal), the filters and the names of the private fields that were
//! opened: each may name a person.

use countersign_model::{Draft, Kind, RecordId};
use serde_json::{Map, Value};

use crate::Console;
use crate::answer::ApiError;
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
