//! Files that are written whole or not at all.

use std::fs::{self, File};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

use crate::StoreError;
use crate::keystore::random;

/// Mode of folders that hold secrets or records.
const FOLDER_MODE: u32 = 0o700;

/// Who may read a file.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Access {
    /// The owner alone.
    Private,
    /// Whoever may enter the folder: a published log.
    Shared,
}

pub(crate) trait AtPath<T> {
    /// Names the file in the error.
    fn at(self, path: &Path) -> Result<T, StoreError>;
}

impl<T> AtPath<T> for io::Result<T> {
    fn at(self, path: &Path) -> Result<T, StoreError> {
        self.map_err(|source| StoreError::Io { path: path.to_owned(), source })
    }
}

/// Makes a folder and its parents, for the owner alone.
pub(crate) fn make_folder(path: &Path) -> Result<(), StoreError> {
    let mut builder = fs::DirBuilder::new();
    builder.recursive(true);
    #[cfg(unix)]
    std::os::unix::fs::DirBuilderExt::mode(&mut builder, FOLDER_MODE);
    builder.create(path).at(path)
}

/// Replaces `path` by `bytes`: written beside it, synced, renamed, folder synced.
pub(crate) fn write_atomic(path: &Path, bytes: &[u8], access: Access) -> Result<(), StoreError> {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    write_staged(path, &path.with_file_name(format!(".{name}.new")), bytes, access)
}

/// Opens a file that is only there to be locked.
pub(crate) fn open_lock(path: &Path) -> Result<File, StoreError> {
    let mut options = File::options();
    options.create(true).write(true).truncate(false);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    options.open(path).at(path)
}

/// Makes `path` with `bytes` unless it is there: of several processes that try, one does.
pub(crate) fn write_once(path: &Path, bytes: &[u8]) -> Result<(), StoreError> {
    let beside = beside(path)?;
    write_file(&beside, bytes, Access::Private)?;
    let linked = fs::hard_link(&beside, path);
    fs::remove_file(&beside).at(&beside)?;
    match linked {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error).at(path),
        Ok(()) | Err(_) => {}
    }
    sync_folder(path.parent().unwrap_or(Path::new(".")))
}

/// Replaces `path` by `bytes` like [`write_atomic`], where processes that share the folder may do the same at
/// the same moment.
pub(crate) fn write_apart(path: &Path, bytes: &[u8], access: Access) -> Result<(), StoreError> {
    write_staged(path, &beside(path)?, bytes, access)
}

/// Names a file beside `path` that no other process takes, in another container neither.
fn beside(path: &Path) -> Result<PathBuf, StoreError> {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let random = u128::from_be_bytes(random()?);
    Ok(path.with_file_name(format!(".{name}.{random:032x}")))
}

/// Replaces `path` by `bytes`, written to `beside` first, which is in the same file system.
pub(crate) fn write_staged(
    path: &Path,
    beside: &Path,
    bytes: &[u8],
    access: Access,
) -> Result<(), StoreError> {
    write_file(beside, bytes, access)?;
    fs::rename(beside, path).at(path)?;
    sync_folder(path.parent().unwrap_or(Path::new(".")))
}

fn write_file(path: &Path, bytes: &[u8], access: Access) -> Result<(), StoreError> {
    let mut options = File::options();
    options.write(true).create(true).truncate(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(
        &mut options,
        match access {
            Access::Private => 0o600,
            Access::Shared => 0o644,
        },
    );
    let mut file = options.open(path).at(path)?;
    file.write_all(bytes).and_then(|()| file.sync_all()).at(path)
}

/// Makes renames and new files in a folder durable.
pub(crate) fn sync_folder(folder: &Path) -> Result<(), StoreError> {
    File::open(folder).and_then(|folder| folder.sync_all()).at(folder)
}

/// Reads a file if it exists.
pub(crate) fn read_if_there(path: &Path) -> Result<Option<Vec<u8>>, StoreError> {
    match fs::read(path) {
        Ok(bytes) => Ok(Some(bytes)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error).at(path),
    }
}
