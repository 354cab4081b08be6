//! The control plane over a real listener and a real store.
#![expect(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "tests may panic")]

mod openapi;
mod reading;
mod roles;
mod router;
mod world;
