//! The data plane: listeners, MCP, upstreams and the pipeline of one call.
//!
//! Start reading at [`pipeline`].
//!
//! Out of scope: deciding (crate `decision`), the ledger's formats and SQL (crates `ledger` and
//! `store`), pages and the control plane (crate `console`), configuration files (crate `cli`).

pub mod envelope;
pub mod gateway;
pub mod identity;
pub mod limits;
pub mod mcp;
pub mod permit;
pub mod pipeline;
pub mod refusal;
pub mod rules;
pub mod upstream;
pub mod watch;

mod data_plane;
mod forward;
mod gate;
mod questions;
mod records;

pub use data_plane::serve;
pub use gate::Gate;
pub use gateway::{Gateway, GatewayConfig};
