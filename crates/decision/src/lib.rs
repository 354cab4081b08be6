//! Decides: a bundle of rules and the facts of one call give one decision.
//!
//! A [`Bundle`] is loaded from plain files (Cedar policies, server manifests, pinned tool
//! definitions); [`decide`] applies it to [`countersign_model::Facts`]. Everything here is pure: the
//! same bundle and the same facts give the same decision, on any machine, at any time ([`replay`]).
//!
//! Out of scope: reading directories (crate `cli`), gathering facts (crate `gateway`), storing
//! bundles (crate `store`), content scanning.
#![warn(missing_docs)]

mod argument_types;
mod bundle;
mod catalog;
mod civil;
mod decide;
mod diagnostic;
mod digest;
mod explain;
mod index;
mod input_schema;
mod limits;
mod policy;
mod policy_tests;
mod reads;
mod replay;
mod request;
mod schema;
mod validate;
mod visibility;

pub use bundle::{Bundle, BundleFiles};
pub use catalog::{IdempotencyMode, Server, Tool};
pub use decide::decide;
pub use diagnostic::{Diagnostic, Severity};
pub use digest::{arguments_digest, pin};
pub use explain::{Considered, Explanation, PolicyResult, explain};
pub use limits::*;
pub use policy::{Effect, PolicyInfo};
pub use policy_tests::{TestReport, TestResult, run_tests};
pub use replay::{Recorded, Replay, replay};
pub use request::action_of;
