//! A published log in a folder, also one that a gateway goes on publishing while it is checked.

use std::fs;
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};
use std::time::Duration;

use countersign_ledger::checkpoint::Checkpoint;
use countersign_ledger::limits::TILE_WIDTH;
use countersign_ledger::tile::{TileKind, TilePath, decode_bundle, encode_bundle};
use countersign_ledger::verify::{
    CHECKPOINT_PATH, CHECKPOINTS_PREFIX, COSIGNED_PREFIX, LogSource, SourceError,
};
use countersign_ledger::{Note, TreeSize};

/// How often the checkpoint is read again while a newer one is being published.
const ATTEMPTS: u32 = 20;

/// The pause between two attempts.
const PAUSE: Duration = Duration::from_millis(50);

/// Largest file of a log that is read, in bytes: a bundle of 256 entries, each with its length before it.
const FILE_BYTES_MAX: u64 = 256 * (2 + 65_535);

/// The log in a folder, as of the checkpoint that was there when it was opened.
///
/// Files that are written later are not an error. A partial tile that a full one has replaced since is read
/// from the full one (C2SP tlog-tiles, "Partial Tiles").
#[derive(Clone, Debug)]
pub struct LogFolder {
    root: PathBuf,
    checkpoint: Option<Vec<u8>>,
    checkpoints: Vec<String>,
    /// The sizes whose checkpoints witnesses cosigned, ascending.
    cosigned: Vec<TreeSize>,
}

impl LogFolder {
    /// Takes the newest checkpoint of the log in a folder; may wait a second for one that is being published.
    ///
    /// # Errors
    /// [`SourceError`] if the folder cannot be read.
    pub fn open(root: &Path) -> Result<Self, SourceError> {
        let mut log = Self {
            root: root.to_owned(),
            checkpoint: None,
            checkpoints: Vec::new(),
            cosigned: Vec::new(),
        };
        if !root.is_dir() {
            return Err(SourceError(format!("`{}` is not a folder", root.display())));
        }
        for _ in 0..ATTEMPTS {
            // The lists before the checkpoint: what is published in between cannot be behind it.
            log.cosigned = log.files(COSIGNED_PREFIX)?.iter().filter_map(cosigned_size).collect();
            log.cosigned.sort_unstable();
            log.checkpoints = log.files(CHECKPOINTS_PREFIX)?;
            log.checkpoint = log.bytes(CHECKPOINT_PATH)?;
            if log.is_newest() {
                break;
            }
            std::thread::sleep(PAUSE);
        }
        Ok(log)
    }

    /// Takes the log as of the checkpoint of `size` that it published earlier, with the cosignatures of
    /// witnesses if it has them; none is there if it never did.
    ///
    /// # Errors
    /// [`SourceError`] if the folder cannot be read.
    pub fn open_at(root: &Path, size: TreeSize) -> Result<Self, SourceError> {
        Self::open(root)?.at(size)
    }

    /// Goes back to the checkpoint of `size`.
    pub(crate) fn at(mut self, size: TreeSize) -> Result<Self, SourceError> {
        let stored = match self.bytes(&format!("{CHECKPOINTS_PREFIX}{size}"))? {
            None if self.size() == Some(size) => self.checkpoint.clone(),
            stored => stored,
        };
        let cosigned = self.cosigned(size)?;
        let cosigned = cosigned.filter(|note| self.is_cosigned(note, stored.as_deref(), size));
        self.checkpoint = cosigned.or(stored);
        self.checkpoints.retain(|path| stored_size(path).is_some_and(|stored| stored <= size));
        self.cosigned.retain(|cosigned| *cosigned <= size);
        Ok(self)
    }

    /// Returns whether a note is the `stored` checkpoint with more signatures; if none is stored, whether it says
    /// that it is one of this log and of `size`: whoever opens it checks who signed.
    fn is_cosigned(&self, note: &[u8], stored: Option<&[u8]>, size: TreeSize) -> bool {
        let Ok(note) = Note::parse(note) else { return false };
        if let Some(stored) = stored {
            let signed = |stored: &Note| {
                stored.signatures().iter().any(|one| note.signatures().contains(one))
            };
            return Note::parse(stored)
                .is_ok_and(|stored| stored.text() == note.text() && signed(&stored));
        }
        let own = self.checkpoint.as_deref().and_then(|own| Note::parse(own).ok());
        let own = own.and_then(|own| Checkpoint::parse(own.text()).ok());
        let (Some(own), Ok(point)) = (own, Checkpoint::parse(note.text())) else { return false };
        point.size == size && point.origin == own.origin
    }

    /// Returns the sizes whose checkpoints witnesses cosigned, ascending.
    #[must_use]
    pub fn cosigned_sizes(&self) -> &[TreeSize] {
        &self.cosigned
    }

    /// Returns the checkpoint of `size` with the cosignatures of witnesses, if it has them.
    ///
    /// # Errors
    /// [`SourceError`] if the file cannot be read.
    pub fn cosigned(&self, size: TreeSize) -> Result<Option<Vec<u8>>, SourceError> {
        self.bytes(&format!("{COSIGNED_PREFIX}{size}"))
    }

    /// Returns the sizes of the stored checkpoints, in any order.
    pub(crate) fn stored(&self) -> impl Iterator<Item = TreeSize> {
        self.checkpoints.iter().filter_map(|path| stored_size(path))
    }

    /// Returns the checkpoint that was taken.
    #[must_use]
    pub fn checkpoint(&self) -> Option<&[u8]> {
        self.checkpoint.as_deref()
    }

    /// Returns the size that the checkpoint says, whoever signed it.
    #[must_use]
    pub fn size(&self) -> Option<TreeSize> {
        let note = Note::parse(self.checkpoint.as_deref()?).ok()?;
        Checkpoint::parse(note.text()).ok().map(|point| point.size)
    }

    /// Returns whether no stored checkpoint is newer; the check of the log says what is wrong if one is.
    fn is_newest(&self) -> bool {
        let stored = self.stored();
        self.size().is_none_or(|size| stored.max().is_none_or(|newest| newest <= size))
    }

    fn bytes(&self, path: &str) -> Result<Option<Vec<u8>>, SourceError> {
        let path = self.root.join(path);
        let read = fs::metadata(&path).and_then(|found| {
            // A pipe or a device may never end.
            if !found.is_file() || found.len() > FILE_BYTES_MAX {
                let reason = format!("it is no file of at most {FILE_BYTES_MAX} bytes");
                return Err(io::Error::new(ErrorKind::InvalidData, reason));
            }
            fs::read(&path)
        });
        match read {
            Ok(bytes) => Ok(Some(bytes)),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
            Err(error) => Err(SourceError(error.to_string())),
        }
    }

    fn files(&self, prefix: &str) -> Result<Vec<String>, SourceError> {
        let mut found = Vec::new();
        let start = prefix.trim_end_matches('/');
        walk(&self.root.join(start), start, &mut found)
            .map_err(|error| SourceError(format!("{start}: {error}")))?;
        Ok(found)
    }

    /// Reads a partial tile out of the full one that replaced it.
    fn part_of_full(&self, path: &str) -> Result<Option<Vec<u8>>, SourceError> {
        let Ok(partial) = TilePath::parse(path) else { return Ok(None) };
        let full = TilePath::new(partial.kind(), partial.index(), TILE_WIDTH);
        let Some(full) = full.filter(|_| !partial.is_full()) else { return Ok(None) };
        let Some(mut bytes) = self.bytes(&full.to_string())? else { return Ok(None) };
        let width = usize::from(partial.width());
        match partial.kind() {
            TileKind::Hashes(_) => bytes.truncate(width * 32),
            TileKind::Entries => {
                let damaged =
                    |error: countersign_ledger::tile::TileError| SourceError(error.to_string());
                let entries = decode_bundle(&bytes).map_err(damaged)?;
                bytes = encode_bundle(entries.into_iter().take(width)).map_err(damaged)?;
            }
        }
        Ok(Some(bytes))
    }
}

impl LogSource for LogFolder {
    fn read(&self, path: &str) -> Result<Option<Vec<u8>>, SourceError> {
        if path == CHECKPOINT_PATH {
            return Ok(self.checkpoint.clone());
        }
        match self.bytes(path)? {
            None => self.part_of_full(path),
            found => Ok(found),
        }
    }

    fn list(&self, prefix: &str) -> Result<Vec<String>, SourceError> {
        let cosigned = |size: &TreeSize| format!("{COSIGNED_PREFIX}{size}");
        match prefix {
            CHECKPOINTS_PREFIX => Ok(self.checkpoints.clone()),
            COSIGNED_PREFIX => Ok(self.cosigned.iter().map(cosigned).collect()),
            _ => self.files(prefix),
        }
    }
}

/// Returns the size in the path of a stored checkpoint.
fn stored_size(path: &str) -> Option<TreeSize> {
    path.strip_prefix(CHECKPOINTS_PREFIX)?.parse().ok().map(TreeSize)
}

/// Returns the size in the path of a cosigned checkpoint; anything else there counts for nothing.
fn cosigned_size(path: &String) -> Option<TreeSize> {
    let size = TreeSize(path.strip_prefix(COSIGNED_PREFIX)?.parse().ok()?);
    (format!("{COSIGNED_PREFIX}{size}") == *path).then_some(size)
}

/// Lists the files below a folder; one that goes away meanwhile is left out, and so are files that are
/// being written, whose names begin with a dot.
pub(crate) fn walk(folder: &Path, prefix: &str, found: &mut Vec<String>) -> io::Result<()> {
    let entries = match fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error),
    };
    for entry in entries {
        let entry = entry?;
        let name = entry.file_name().to_string_lossy().into_owned();
        if name.starts_with('.') {
            continue;
        }
        let path = format!("{prefix}/{name}");
        if entry.file_type()?.is_dir() {
            walk(&entry.path(), &path, found)?;
        } else {
            found.push(path);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use countersign_ledger::SigningKey;

    use super::*;

    #[test]
    fn a_note_that_is_not_the_stored_checkpoint_does_not_stand_for_it() {
        let key = SigningKey::from_seed("log.example/acme", &[1; 32]).unwrap();
        let other = SigningKey::from_seed("log.example/other", &[1; 32]).unwrap();
        let witness = SigningKey::cosigner_from_seed("w.example", &[2; 32]).unwrap();
        let note = |size, key: &SigningKey, leaf: &[u8]| {
            let root = countersign_ledger::leaf_hash(leaf);
            let point = Checkpoint { origin: key.name().to_owned(), size: TreeSize(size), root };
            let mut note = point.sign(key).unwrap();
            note.add(witness.cosign(&point.to_string(), 7).unwrap());
            note
        };
        let good = note(3, &key, b"3");
        let mut stored = Note::new(good.text()).unwrap();
        stored.add(good.signatures()[0].clone());
        let mut unsigned = Note::new(good.text()).unwrap();
        unsigned.add(good.signatures()[1].clone());
        let folder = tempfile::tempdir().unwrap();
        let write = |path: &str, note: &Note| {
            let path = folder.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, note.to_bytes()).unwrap();
        };
        write("checkpoint", &note(5, &key, b"5"));
        let taken = || {
            let log = LogFolder::open_at(folder.path(), TreeSize(3)).unwrap();
            log.checkpoint().map(<[u8]>::to_vec)
        };
        for (cosigned, alone, beside) in [
            (&good, true, true),
            (&note(3, &key, b"forked"), true, false),
            (&note(4, &key, b"3"), false, false),
            (&note(3, &other, b"3"), false, false),
            (&unsigned, true, false),
        ] {
            let bytes = cosigned.to_bytes();
            write("cosigned/3", cosigned);
            let _ = fs::remove_file(folder.path().join("checkpoints/3"));
            assert_eq!(taken(), alone.then(|| bytes.clone()), "{cosigned}");
            write("checkpoints/3", &stored);
            assert_eq!(taken(), Some(if beside { bytes } else { stored.to_bytes() }), "{cosigned}");
        }
    }

    #[test]
    fn what_never_ends_is_not_read() {
        let folder = tempfile::tempdir().unwrap();
        let checkpoint = folder.path().join(CHECKPOINT_PATH);
        std::os::unix::fs::symlink("/dev/zero", &checkpoint).unwrap();
        assert!(LogFolder::open(folder.path()).is_err());
        fs::remove_file(&checkpoint).unwrap();
        let large = fs::File::create(&checkpoint).unwrap();
        large.set_len(FILE_BYTES_MAX + 1).unwrap();
        assert!(LogFolder::open(folder.path()).is_err());
    }
}
