//! Signs checkpoints and remembers the last one in a file of its own, so that it never signs a fork or a
//! rollback, whatever the database says.

use std::fs::{File, TryLockError};
use std::path::{Path, PathBuf};

use countersign_ledger::{Checkpoint, Hash, Note, SigningKey, TreeSize, VerifierKey, empty_root};

use crate::StoreError;
use crate::files::{Access, AtPath as _, open_lock, read_if_there, write_atomic};
use crate::publish::extends;

/// The signing key with its memory.
pub(crate) struct Signer {
    path: PathBuf,
    key: SigningKey,
    size: u64,
    root: Hash,
}

impl Signer {
    /// Reads the memory; a signer without one has signed nothing.
    pub(crate) fn open(path: PathBuf, key: SigningKey) -> Result<Self, StoreError> {
        let (size, root) = read_memory(&path, &key)?;
        Ok(Self { path, key, size, root })
    }

    /// Keeps other processes from signing meanwhile, and reads what the last one signed.
    pub(crate) fn remember(&mut self) -> Result<File, StoreError> {
        let path = self.path.with_extension("lock");
        let lock = open_lock(&path)?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                return Err(StoreError::unavailable("another process signs now"));
            }
            Err(TryLockError::Error(error)) => return Err(error).at(&path),
        }
        (self.size, self.root) = read_memory(&self.path, &self.key)?;
        Ok(lock)
    }

    /// Returns the key that signatures are checked with.
    pub(crate) fn verifier_key(&self) -> VerifierKey {
        self.key.verifier_key()
    }

    /// Returns how many leaves the last signed checkpoint has.
    pub(crate) fn size(&self) -> u64 {
        self.size
    }

    /// Returns what the database must agree with, if anything was signed.
    pub(crate) fn claim(&self) -> Option<(&'static str, u64, Hash)> {
        (self.size > 0).then_some(("the signer's memory", self.size, self.root))
    }

    /// Signs a tree that extends the last signed one; the memory is durable before the signature is
    /// handed out.
    pub(crate) fn sign(
        &mut self,
        size: TreeSize,
        root: Hash,
        proof: &[Hash],
    ) -> Result<Note, StoreError> {
        extends((self.size, self.root), (size, root), proof)?;
        let checkpoint = Checkpoint { origin: self.key.name().to_owned(), size, root };
        write_atomic(&self.path, checkpoint.to_string().as_bytes(), Access::Private)?;
        (self.size, self.root) = (size.0, root);
        checkpoint.sign(&self.key).map_err(|error| StoreError::invalid(error.to_string()))
    }
}

/// Reads size and root of the last signed tree; a signer without a memory has signed nothing.
fn read_memory(path: &Path, key: &SigningKey) -> Result<(u64, Hash), StoreError> {
    let Some(bytes) = read_if_there(path)? else { return Ok((0, empty_root())) };
    let memory = str::from_utf8(&bytes)
        .ok()
        .and_then(|text| Checkpoint::parse(text).ok())
        .filter(|memory| memory.origin == key.name());
    let Some(memory) = memory else {
        let what = format!("{}: it is not the memory of `{}`", path.display(), key.name());
        return Err(StoreError::corrupt(what));
    };
    Ok((memory.size.0, memory.root))
}
