//! The store on a PostgreSQL of its own, which the tests start and end.
//!
//! Apart from the tests on SQLite, whose deadlines would suffer from the load of these.

#[cfg(test)]
#[path = "../store/common.rs"]
mod common;
#[cfg(test)]
mod gateways;
#[cfg(test)]
mod migrate;
