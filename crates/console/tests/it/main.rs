//! The control plane over a real listener and a real store.
#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::print_stderr,
    reason = "tests may panic, and say what they covered"
)]

mod openapi;
mod reading;
mod roles;
mod router;
mod world;
