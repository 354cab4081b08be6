//! The state folder of a witness: its key, its lock, and one file per log.

use std::fmt::Write as _;
use std::fs::{self, File, TryLockError};
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail, ensure};
use countersign_ledger::SigningKey;

/// The key file: 32 bytes of secret seed (RFC 8032), then the witness's name.
const KEY: &str = "key";
const LOCK: &str = "lock";
const LOGS: &str = "logs";
/// Longest origin as a file name; file systems end at 255 bytes.
const FILE_NAME_BYTES_MAX: usize = 230;

/// A state folder that this process alone uses.
pub(super) struct StateFolder {
    folder: PathBuf,
    /// Held as long as the witness runs.
    _lock: File,
}

impl StateFolder {
    /// Opens the folder and gives the witness's key; makes both if they are not there.
    pub(super) fn open(folder: &Path, name: Option<&str>) -> anyhow::Result<(Self, SigningKey)> {
        make_folder(folder)?;
        make_folder(&folder.join(LOGS))?;
        let lock = lock(folder)?;
        let key = match (read_key(folder)?, name) {
            (Some(key), Some(name)) if key.name() != name => {
                let folder = folder.display();
                bail!(
                    "{folder} has the key of `{}`, not of `{name}`: leave --name out, or choose another --state",
                    key.name()
                )
            }
            (Some(key), _) => key,
            (None, Some(name)) => make_key(folder, name)?,
            (None, None) => bail!(
                "{} has no key yet: name the witness with --name, for example `witness.example/w1`",
                folder.display()
            ),
        };
        Ok((Self { folder: folder.to_owned(), _lock: lock }, key))
    }

    /// Gives the path of the checkpoint that was cosigned last.
    pub(super) fn checkpoint(&self, origin: &str) -> PathBuf {
        self.path(origin, "checkpoint")
    }

    fn path(&self, origin: &str, suffix: &str) -> PathBuf {
        self.folder.join(LOGS).join(format!("{}.{suffix}", file_name(origin)))
    }

    /// Reads what was cosigned last.
    pub(super) fn read(&self, origin: &str) -> anyhow::Result<Option<Vec<u8>>> {
        let length = file_name(origin).len();
        ensure!(length <= FILE_NAME_BYTES_MAX, "the origin `{origin}` is too long for a file name");
        read_if_there(&self.checkpoint(origin))
    }

    /// Stores what is cosigned; it is durable when this returns.
    pub(super) fn write(&self, origin: &str, note: &[u8]) -> anyhow::Result<()> {
        write_durably(&self.checkpoint(origin), note, 0o644)
    }

    /// Keeps the first checkpoint by which a log contradicts itself, and gives its path.
    pub(super) fn keep_fork(&self, origin: &str, note: &[u8]) -> anyhow::Result<PathBuf> {
        let path = self.path(origin, "fork");
        if !path.exists() {
            write_durably(&path, note, 0o644)?;
        }
        Ok(path)
    }
}

/// Reads the key, if there is one.
pub(super) fn read_key(folder: &Path) -> anyhow::Result<Option<SigningKey>> {
    let path = folder.join(KEY);
    let Some(bytes) = read_if_there(&path)? else { return Ok(None) };
    let key = bytes.split_first_chunk::<32>().and_then(|(seed, name)| {
        SigningKey::cosigner_from_seed(str::from_utf8(name).ok()?, seed).ok()
    });
    let key =
        key.with_context(|| format!("{} is damaged: restore it from your backup", path.display()))?;
    Ok(Some(key))
}

fn make_key(folder: &Path, name: &str) -> anyhow::Result<SigningKey> {
    let mut seed = [0; 32];
    getrandom::fill(&mut seed).context("there is no randomness")?;
    let key = SigningKey::cosigner_from_seed(name, &seed)?;
    write_durably(&folder.join(KEY), &[&seed, name.as_bytes()].concat(), 0o600)?;
    Ok(key)
}

fn lock(folder: &Path) -> anyhow::Result<File> {
    let path = folder.join(LOCK);
    let file = File::options().create(true).write(true).truncate(false).mode(0o600).open(&path);
    let file = file.with_context(|| format!("cannot open {}", path.display()))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => {
            bail!(
                "another witness runs on {}: two would cosign against each other",
                folder.display()
            )
        }
        Err(TryLockError::Error(error)) => {
            Err(error).with_context(|| format!("cannot lock {}", path.display()))
        }
    }
}

fn make_folder(path: &Path) -> anyhow::Result<()> {
    let made = fs::DirBuilder::new().recursive(true).mode(0o700).create(path);
    made.with_context(|| format!("cannot make {}", path.display()))?;
    // The new folder itself has to outlast a power failure.
    let named = path.parent().filter(|parent| !parent.as_os_str().is_empty());
    let parent = named.unwrap_or(Path::new("."));
    File::open(parent)
        .and_then(|parent| parent.sync_all())
        .with_context(|| format!("cannot sync {}", parent.display()))
}

fn read_if_there(path: &Path) -> anyhow::Result<Option<Vec<u8>>> {
    match fs::read(path) {
        Ok(bytes) => Ok(Some(bytes)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error).with_context(|| format!("cannot read {}", path.display())),
    }
}

/// Replaces a file: written beside it, synced, renamed, folder synced.
fn write_durably(path: &Path, bytes: &[u8], mode: u32) -> anyhow::Result<()> {
    let write = || {
        let folder = path.parent().unwrap_or(Path::new("."));
        let beside = path.with_added_extension("new");
        let mut options = File::options();
        options.write(true).create(true).truncate(true).mode(mode);
        let mut file = options.open(&beside)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        fs::rename(&beside, path)?;
        File::open(folder)?.sync_all()
    };
    let written: io::Result<()> = write();
    written.with_context(|| format!("cannot write {}", path.display()))
}

/// Turns an origin into a file name: whatever is not a small letter, a digit, `.`, `-` or `_` becomes
/// `%` and two digits, so that no two origins share a file on any file system.
fn file_name(origin: &str) -> String {
    let mut name = String::new();
    for byte in origin.bytes() {
        match byte {
            b'a'..=b'z' | b'0'..=b'9' | b'.' | b'-' | b'_' => name.push(char::from(byte)),
            // Writing to a `String` cannot fail.
            _ => drop(write!(name, "%{byte:02x}")),
        }
    }
    name
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn origins_become_file_names_of_their_own() {
        for (origin, name) in [
            ("log.example.com/acme", "log.example.com%2facme"),
            ("log.example.com/Acme", "log.example.com%2f%41cme"),
            ("../../etc", "..%2f..%2fetc"),
            ("a%2fb", "a%252fb"),
        ] {
            assert_eq!(file_name(origin), name);
        }
    }
}
