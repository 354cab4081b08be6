//! The nouns of Countersign: agents, principals, calls, facts, decisions and record drafts.
//!
//! Everything here is plain data, parsed at the edge and passed by value or reference between the
//! other crates.
//!
//! Out of scope: deciding (crate `decision`), the bytes of a leaf and its proofs (crate `ledger`),
//! storing (crate `store`), reading clocks or random numbers (crate `cli` and its callers).
#![warn(missing_docs)]

mod agent;
mod decision;
mod facts;
mod id;
mod name;
mod reason;
mod record;

pub use agent::{Agent, AgentStatus, NewAgent, NewAgentError};
pub use decision::{Decision, DeterminingRule, Mode, Reason, Stage, Verdict};
pub use facts::{AgentFacts, CallFacts, Facts, Principal, PrincipalType, Provenance};
pub use id::{AgentId, RecordId, TenantId, TimestampMs};
pub use name::{
    AgentName, Environment, NameError, SLUG_BYTES_MAX, ServerName, TOOL_NAME_BYTES_MAX, ToolName,
};
pub use reason::ReasonCode;
pub use record::{Draft, Kind, OutcomeStatus, Private};
