//! The whole gateway: real store, real sockets, a fake upstream that counts what it saw.
#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "helpers of tests may panic as tests may"
)]

mod call;
mod mcp;
mod world;
