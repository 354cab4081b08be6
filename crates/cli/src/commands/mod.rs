//! One file per command.

pub(crate) mod agents;
pub(crate) mod doctor;
pub(crate) mod erase;
pub(crate) mod evidence;
pub(crate) mod hold;
pub(crate) mod init;
pub(crate) mod log;
pub(crate) mod migrate;
pub(crate) mod pin;
pub(crate) mod policy;
pub(crate) mod quickstart;
pub(crate) mod reconcile;
pub(crate) mod records;
pub(crate) mod replay;
pub(crate) mod report;
pub(crate) mod retention;
pub(crate) mod sample;
pub(crate) mod serve;
pub(crate) mod show;
pub(crate) mod signer;
pub(crate) mod tokens;
pub(crate) mod verify;
pub(crate) mod why;
pub(crate) mod witness;
pub(crate) mod wrap;
