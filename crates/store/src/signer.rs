//! Signs checkpoints and remembers the last one in a file of its own, so that it never signs a fork or a
//! rollback, whatever the database says.
//!
//! The rules are those of a [`SignerFolder`]. A gateway has one itself, or asks a process that has one, of
//! another user, over a Unix socket.

mod client;
mod folder;
mod server;
mod wire;

use std::path::{Path, PathBuf};

use countersign_ledger::{Hash, TreeSize, VerifierKey};

pub use folder::SignerFolder;
pub(crate) use folder::{LOG_KEY, MEMORY, make_log_key, read_vkeys, write_vkeys};
pub use server::serve_signer;

use crate::StoreError;
use crate::subject::blocking;
use client::Socket;

/// What a signer says about itself.
#[derive(Clone, Debug)]
pub struct SignerStatus {
    /// How many leaves the last signed checkpoint has; 0 if nothing was signed.
    pub size: u64,
    /// The root that it has.
    pub root: Hash,
    /// All keys that ever signed the log, oldest first.
    pub keys: Vec<VerifierKey>,
    /// The replacement of the key that is going on.
    pub rotation: Option<PendingRotation>,
}

impl SignerStatus {
    /// Asks the signer of `origin` that answers on `socket`.
    ///
    /// # Errors
    /// [`StoreError::Signer`] if it does not answer, or is for another log.
    pub async fn ask(socket: &Path, origin: &str) -> Result<Self, StoreError> {
        Socket::new(socket, origin).status().await
    }
}

/// A replacement of the signing key that is going on: both keys sign.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PendingRotation {
    /// What both keys signed, as it stands in the `key` leaf.
    pub statement: String,
    /// How many leaves were signed when it began: the `key` leaf is not among them.
    pub since: u64,
    /// The `key` leaf, once the signer has seen that it is in a signed tree.
    pub leaf: Option<u64>,
}

/// What is to be signed.
#[derive(Clone, Debug)]
pub(crate) struct ToSign {
    /// The size that the proof starts from: that of the last signed checkpoint.
    pub(crate) old: u64,
    pub(crate) size: TreeSize,
    pub(crate) root: Hash,
    pub(crate) proof: Vec<Hash>,
}

/// Shows that the `key` leaf is in the last signed tree.
#[derive(Clone, Debug)]
pub(crate) struct Recorded {
    pub(crate) index: u64,
    pub(crate) leaf: Vec<u8>,
    pub(crate) proof: Vec<Hash>,
}

/// Where a gateway gets its signatures.
pub(crate) enum Signer {
    /// In this process.
    Here(SignerFolder),
    /// From a process of its own.
    There(Socket),
}

impl Signer {
    /// Uses the signer behind `socket`, or else the key in the keystore's folder.
    pub(crate) fn new(keys: &Path, origin: &str, socket: Option<&PathBuf>) -> Self {
        match socket {
            None => Self::Here(SignerFolder::of_keystore(keys, origin)),
            Some(path) => Self::There(Socket::new(path, origin)),
        }
    }

    /// Asks what was signed last, and for the log's public keys.
    pub(crate) async fn status(&self) -> Result<SignerStatus, StoreError> {
        match self {
            Self::Here(folder) => {
                let folder = folder.clone();
                blocking(move || folder.status()).await
            }
            Self::There(socket) => socket.status().await,
        }
    }

    /// Gets a tree signed that extends the last signed one; returns the signed checkpoint.
    pub(crate) async fn sign(&self, what: ToSign) -> Result<String, StoreError> {
        match self {
            Self::Here(folder) => {
                let folder = folder.clone();
                blocking(move || folder.sign(&what)).await
            }
            Self::There(socket) => socket.sign(what).await,
        }
    }

    /// Shows the signer that the `key` leaf is in the tree that it signed last.
    pub(crate) async fn recorded(&self, what: Recorded) -> Result<(), StoreError> {
        match self {
            Self::Here(folder) => {
                let folder = folder.clone();
                blocking(move || folder.recorded(&what)).await
            }
            Self::There(socket) => socket.recorded(what).await,
        }
    }
}
