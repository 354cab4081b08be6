//! The store from outside, on a SQLite file in a temporary folder, and on a PostgreSQL of its own.

#[cfg(test)]
mod commit;
#[cfg(test)]
mod common;
#[cfg(test)]
mod erase;
#[cfg(test)]
mod fsck;
#[cfg(test)]
mod postgres;
#[cfg(test)]
mod read;
