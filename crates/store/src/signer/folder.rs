//! The signing key and the memory of what it signed, in a folder.
//!
//! | file | content |
//! |---|---|
//! | `log.key` | Ed25519 seed that signs checkpoints |
//! | `log-next.key` | while the key is replaced: the new seed, and where the `key` leaf is |
//! | `log.vkeys` | the public keys that ever signed, oldest first |
//! | `signer-state` | the last signed checkpoint's text |
//!
//! Every operation reads the files again under a lock, so that the command that replaces the key works
//! beside a process that signs. The folder of a process of its own must have a memory; in a keystore
//! nothing signed yet leaves none.

use std::fs::{File, TryLockError};
use std::path::{Path, PathBuf};
use std::thread::sleep;
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use countersign_ledger::rotation::{KEY, Rotation};
use countersign_ledger::tree::{verify_consistency, verify_inclusion};
use countersign_ledger::{
    Checkpoint, Leaf, LeafIndex, SigningKey, TreeSize, VerifierKey, empty_root, leaf_hash,
};
use zeroize::Zeroizing;

use super::{PendingRotation, Recorded, SignerStatus, ToSign};
use crate::StoreError;
use crate::files::{
    Access, AtPath as _, make_folder, open_lock, read_if_there, sync_folder, write_apart,
    write_atomic,
};
use crate::keystore::{overwrite, random, read_key};

pub(crate) const LOG_KEY: &str = "log.key";
pub(crate) const MEMORY: &str = "signer-state";
pub(crate) const VKEYS: &str = "log.vkeys";
const NEXT_KEY: &str = "log-next.key";

/// How long an operation waits for another process that uses the folder.
const LOCK_WAIT: Duration = Duration::from_secs(1);
/// The pause between two looks at the lock.
const LOCK_PAUSE: Duration = Duration::from_millis(5);

/// A folder with a signing key and its memory.
#[derive(Clone, Debug)]
pub struct SignerFolder {
    folder: PathBuf,
    origin: String,
    /// Whether a missing memory is a fault.
    must_remember: bool,
}

/// What the files say, while their lock is held.
struct State {
    _lock: File,
    memory: Checkpoint,
    key: SigningKey,
    next: Option<Next>,
}

/// A key that takes the place of the present one.
struct Next {
    seed: Zeroizing<[u8; 32]>,
    key: SigningKey,
    since: u64,
    leaf: Option<u64>,
}

#[expect(clippy::needless_pass_by_value, reason = "an argument of `map_err`")]
fn unusable(error: impl ToString) -> StoreError {
    StoreError::invalid(error.to_string())
}

impl SignerFolder {
    /// Makes the folder of a signer for the log `origin`, with a fresh key.
    ///
    /// # Errors
    /// [`StoreError::Exists`] if it has a key; [`StoreError::Invalid`] if `origin` cannot name one.
    pub fn create(folder: &Path, origin: &str) -> Result<Self, StoreError> {
        let this = Self::at(folder, origin, true);
        if folder.join(LOG_KEY).exists() {
            return Err(StoreError::Exists(folder.join(LOG_KEY)));
        }
        SigningKey::from_seed(origin, &[0; 32]).map_err(unusable)?;
        make_folder(folder)?;
        this.remember(&Checkpoint {
            origin: origin.to_owned(),
            size: TreeSize(0),
            root: empty_root(),
        })?;
        make_log_key(folder)?;
        this.keep_vkeys(&this.load()?)?;
        Ok(this)
    }

    /// Opens the folder of a signer of its own; its memory says which log it signs.
    ///
    /// # Errors
    /// [`StoreError::Missing`] without a memory, [`StoreError::Corrupt`], [`StoreError::NoKey`].
    pub fn open(folder: &Path) -> Result<Self, StoreError> {
        let path = folder.join(MEMORY);
        let bytes = read_if_there(&path)?.ok_or_else(|| StoreError::Missing(path.clone()))?;
        let memory = str::from_utf8(&bytes).ok().and_then(|text| Checkpoint::parse(text).ok());
        let memory = memory
            .ok_or_else(|| StoreError::corrupt(format!("{} is no checkpoint", path.display())))?;
        let this = Self::at(folder, &memory.origin, true);
        this.load().map(|_| this)
    }

    /// Uses the key in a keystore.
    #[must_use]
    pub fn of_keystore(folder: &Path, origin: &str) -> Self {
        Self::at(folder, origin, false)
    }

    fn at(folder: &Path, origin: &str, must_remember: bool) -> Self {
        Self { folder: folder.to_owned(), origin: origin.to_owned(), must_remember }
    }

    /// Returns the origin of the log.
    #[must_use]
    pub fn origin(&self) -> &str {
        &self.origin
    }

    /// Returns the public keys that ever signed the log, oldest first. Blocks on the disk, as all of these.
    ///
    /// # Errors
    /// [`StoreError::NoKey`], [`StoreError::Corrupt`].
    pub fn vkeys(&self) -> Result<Vec<VerifierKey>, StoreError> {
        self.all_keys(&self.load()?)
    }

    /// Says what was signed last, and whether the key is being replaced.
    ///
    /// # Errors
    /// As [`SignerFolder::vkeys`].
    pub fn status(&self) -> Result<SignerStatus, StoreError> {
        let state = self.load()?;
        let rotation = match &state.next {
            None => None,
            Some(next) => Some(PendingRotation {
                statement: state.statement(next)?,
                since: next.since,
                leaf: next.leaf,
            }),
        };
        let keys = self.all_keys(&state)?;
        Ok(SignerStatus { size: state.memory.size.0, root: state.memory.root, keys, rotation })
    }

    /// Signs a tree that extends the last signed one, with every key that is in use; the memory is durable
    /// before the signature is handed out.
    pub(crate) fn sign(&self, what: &ToSign) -> Result<String, StoreError> {
        let state = self.load()?;
        let last = &state.memory;
        if what.old != last.size.0 {
            return Err(StoreError::Moved { size: last.size.0 });
        }
        if what.size < last.size {
            let (there, here) = (last.size.0, what.size.0);
            return Err(StoreError::Behind { what: MEMORY_NAME, there, here });
        }
        verify_consistency(last.size, &last.root, what.size, &what.root, &what.proof)
            .map_err(|_| StoreError::Forked { what: MEMORY_NAME, size: last.size.0 })?;
        let point = Checkpoint { origin: self.origin.clone(), size: what.size, root: what.root };
        let mut note = point.sign(&state.key).map_err(unusable)?;
        if let Some(next) = &state.next {
            let second = point.sign(&next.key).map_err(unusable)?;
            second.signatures().iter().for_each(|one| note.add(one.clone()));
        }
        self.remember(&point)?;
        Ok(note.to_string())
    }

    /// Notes that the `key` leaf is in the last signed tree: from now on the old key can go.
    pub(crate) fn recorded(&self, what: &Recorded) -> Result<(), StoreError> {
        let state = self.load()?;
        let Some(next) = &state.next else { return Err(unusable(NO_ROTATION)) };
        let statement = state.statement(next)?;
        let leaf = Leaf::parse(&what.leaf).map_err(unusable)?;
        if leaf.kind != KEY || leaf.rotation.as_deref() != Some(statement.as_str()) {
            return Err(unusable("the leaf is not that of the key that takes the place"));
        }
        let (hash, index) = (leaf_hash(&what.leaf), LeafIndex(what.index));
        let Checkpoint { size, root, .. } = &state.memory;
        verify_inclusion(&hash, index, *size, &what.proof, root).map_err(unusable)?;
        self.keep_next(&next.seed, next.since, Some(what.index))
    }

    /// Makes the key that takes the place of the present one; until [`SignerFolder::finish`] both sign. Goes
    /// on with a replacement that was begun. Returns the old and the new key.
    ///
    /// # Errors
    /// [`StoreError::Random`], [`StoreError::Io`]; otherwise as [`SignerFolder::vkeys`].
    pub fn rotate(&self) -> Result<(VerifierKey, VerifierKey), StoreError> {
        let mut state = self.load()?;
        if state.next.is_none() {
            let known = self.all_keys(&state)?;
            let (seed, key) = loop {
                let seed = Zeroizing::new(random::<32>()?);
                let key = SigningKey::from_seed(&self.origin, &seed).map_err(unusable)?;
                // An id is a hint of four bytes, and must tell the log's keys apart.
                if known.iter().all(|known| known.id() != key.id()) {
                    break (seed, key);
                }
            };
            let since = state.memory.size.0;
            self.keep_next(&seed, since, None)?;
            state.next = Some(Next { seed, key, since, leaf: None });
        }
        self.keep_vkeys(&state)?;
        let new = state.next.as_ref().map(|next| next.key.verifier_key());
        Ok((state.key.verifier_key(), new.ok_or_else(|| unusable(NO_ROTATION))?))
    }

    /// Destroys the old key: only the new one signs from now on. Returns it.
    ///
    /// # Errors
    /// [`StoreError::Invalid`] if no replacement goes on, or the log has no signed `key` leaf of it yet.
    pub fn finish(&self) -> Result<VerifierKey, StoreError> {
        let state = self.load()?;
        let Some(next) = &state.next else { return Err(unusable(NO_ROTATION)) };
        if next.leaf.is_none() {
            return Err(unusable(
                "the log has no signed record of the new key yet; a running gateway makes it within a minute",
            ));
        }
        self.keep_vkeys(&state)?;
        let path = self.folder.join(LOG_KEY);
        let old = File::options().write(true).open(&path).at(&path)?;
        let seed = encoded(&next.seed);
        write_atomic(&path, seed.as_bytes(), Access::Private)?;
        overwrite(old, seed.as_bytes()).at(&path)?;
        self.drop_next()?;
        Ok(next.key.verifier_key())
    }

    /// Returns the present signing key.
    ///
    /// # Errors
    /// [`StoreError::NoKey`], [`StoreError::Invalid`].
    pub fn signing_key(&self) -> Result<SigningKey, StoreError> {
        let seed = read_key(&self.folder.join(LOG_KEY))?;
        SigningKey::from_seed(&self.origin, &seed).map_err(unusable)
    }

    /// Keeps other processes from using the folder meanwhile, and reads its files.
    fn load(&self) -> Result<State, StoreError> {
        let lock = self.lock()?;
        let key = self.signing_key()?;
        let mut next = self.read_next()?;
        if next.as_ref().is_some_and(|next| next.key.id() == key.id()) {
            // It took the old one's place, and the last step was not done.
            self.drop_next()?;
            next = None;
        }
        let newest = read_vkeys(&self.folder, &self.origin)?.and_then(|keys| keys.last().cloned());
        let known =
            |key: &SigningKey| newest.as_ref().is_none_or(|newest| *newest == key.verifier_key());
        if !known(&key) && !next.as_ref().is_some_and(|next| known(&next.key)) {
            return Err(StoreError::Signer(format!(
                "{LOG_KEY} is not the newest key of {VKEYS}: it was put back from before it was replaced, \
                 or {NEXT_KEY} was left behind"
            )));
        }
        Ok(State { _lock: lock, memory: self.read_memory()?, key, next })
    }

    fn lock(&self) -> Result<File, StoreError> {
        let path = self.folder.join(MEMORY).with_extension("lock");
        let lock = open_lock(&path)?;
        let until = Instant::now() + LOCK_WAIT;
        loop {
            match lock.try_lock() {
                Ok(()) => return Ok(lock),
                Err(TryLockError::Error(error)) => return Err(error).at(&path),
                Err(TryLockError::WouldBlock) if Instant::now() < until => sleep(LOCK_PAUSE),
                Err(TryLockError::WouldBlock) => {
                    return Err(StoreError::unavailable("another process signs now"));
                }
            }
        }
    }

    /// Reads the last signed tree.
    fn read_memory(&self) -> Result<Checkpoint, StoreError> {
        let path = self.folder.join(MEMORY);
        let Some(bytes) = read_if_there(&path)? else {
            if self.must_remember {
                return Err(StoreError::Missing(path));
            }
            let origin = self.origin.clone();
            return Ok(Checkpoint { origin, size: TreeSize(0), root: empty_root() });
        };
        let memory = str::from_utf8(&bytes)
            .ok()
            .and_then(|text| Checkpoint::parse(text).ok())
            .filter(|memory| memory.origin == self.origin);
        memory.ok_or_else(|| {
            let what = format!("{}: it is not the memory of `{}`", path.display(), self.origin);
            StoreError::corrupt(what)
        })
    }

    fn remember(&self, signed: &Checkpoint) -> Result<(), StoreError> {
        let path = self.folder.join(MEMORY);
        write_atomic(&path, signed.to_string().as_bytes(), Access::Private)
    }

    fn read_next(&self) -> Result<Option<Next>, StoreError> {
        let path = self.folder.join(NEXT_KEY);
        let Some(bytes) = read_if_there(&path)?.map(Zeroizing::new) else { return Ok(None) };
        let read = || {
            let mut lines = str::from_utf8(&bytes).ok()?.lines();
            let decoded = Zeroizing::new(STANDARD.decode(lines.next()?).ok()?);
            let seed = Zeroizing::new(<[u8; 32]>::try_from(decoded.as_slice()).ok()?);
            let since = lines.next()?.strip_prefix("since ")?.parse().ok()?;
            let leaf = match lines.next() {
                None => None,
                Some(line) => Some(line.strip_prefix("leaf ")?.parse().ok()?),
            };
            let key = SigningKey::from_seed(&self.origin, &seed).ok()?;
            Some(Next { seed, key, since, leaf })
        };
        read().map(Some).ok_or_else(|| StoreError::NoKey(path.display().to_string()))
    }

    fn keep_next(&self, seed: &[u8; 32], since: u64, leaf: Option<u64>) -> Result<(), StoreError> {
        let leaf = leaf.map(|leaf| format!("leaf {leaf}\n")).unwrap_or_default();
        let text = Zeroizing::new(format!("{}since {since}\n{leaf}", *encoded(seed)));
        write_atomic(&self.folder.join(NEXT_KEY), text.as_bytes(), Access::Private)
    }

    fn drop_next(&self) -> Result<(), StoreError> {
        let path = self.folder.join(NEXT_KEY);
        std::fs::remove_file(&path).at(&path)?;
        sync_folder(&self.folder)
    }

    fn all_keys(&self, state: &State) -> Result<Vec<VerifierKey>, StoreError> {
        let mut keys = read_vkeys(&self.folder, &self.origin)?.unwrap_or_default();
        let next = state.next.as_ref().map(|next| next.key.verifier_key());
        for key in std::iter::once(state.key.verifier_key()).chain(next) {
            if !keys.contains(&key) {
                keys.push(key);
            }
        }
        Ok(keys)
    }

    fn keep_vkeys(&self, state: &State) -> Result<(), StoreError> {
        write_vkeys(&self.folder, &self.all_keys(state)?)
    }
}

/// What errors call the memory.
const MEMORY_NAME: &str = "the signer's memory";
const NO_ROTATION: &str = "the signing key is not being replaced";

impl State {
    /// Returns what both keys say about the replacement; the same bytes each time (RFC 8032).
    fn statement(&self, next: &Next) -> Result<String, StoreError> {
        Rotation::sign(&self.key, &next.key).map(|note| note.to_string()).map_err(unusable)
    }
}

/// Makes a signing key in `folder`.
pub(crate) fn make_log_key(folder: &Path) -> Result<(), StoreError> {
    let seed = Zeroizing::new(random::<32>()?);
    write_atomic(&folder.join(LOG_KEY), encoded(&seed).as_bytes(), Access::Private)
}

fn encoded(seed: &[u8; 32]) -> Zeroizing<String> {
    Zeroizing::new(format!("{}\n", STANDARD.encode(seed)))
}

/// Reads the list of public keys, if there is one.
pub(crate) fn read_vkeys(
    folder: &Path,
    origin: &str,
) -> Result<Option<Vec<VerifierKey>>, StoreError> {
    let path = folder.join(VKEYS);
    let Some(bytes) = read_if_there(&path)? else { return Ok(None) };
    let keys = String::from_utf8_lossy(&bytes);
    let keys = keys.lines().map(|line| VerifierKey::parse(line).ok());
    let keys = keys.map(|key| key.filter(|key| key.name() == origin));
    keys.collect::<Option<Vec<_>>>().map(Some).ok_or_else(|| {
        StoreError::corrupt(format!("{}: it has not the keys of `{origin}`", path.display()))
    })
}

/// Writes the list of public keys, one a line.
pub(crate) fn write_vkeys(folder: &Path, keys: &[VerifierKey]) -> Result<(), StoreError> {
    let text: String = keys.iter().map(|key| format!("{key}\n")).collect();
    write_apart(&folder.join(VKEYS), text.as_bytes(), Access::Private)
}
