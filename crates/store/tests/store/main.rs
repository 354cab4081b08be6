//! The store from outside, on a SQLite file in a temporary folder.

#[cfg(test)]
mod commit;
#[cfg(test)]
mod common;
#[cfg(test)]
mod erase;
#[cfg(test)]
mod executions;
#[cfg(test)]
mod fsck;
#[cfg(test)]
mod read;
#[cfg(test)]
mod retention;
#[cfg(test)]
mod signer;
