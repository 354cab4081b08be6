//! Where derived lines go: into files, or against files that are there.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, BufRead as _, BufReader, BufWriter, Read as _, Write as _};
use std::path::{Path, PathBuf};

use countersign_ledger::Hash;
use sha2::{Digest as _, Sha256};

use super::PackageError;
use super::limits::ROW_BYTES_MAX;
use super::manifest::FileEntry;

/// Takes the lines of files, several of which may be open at once.
pub(crate) trait Sink {
    /// Takes the next line of a file, with its end.
    fn line(&mut self, path: &str, line: &[u8]) -> Result<(), PackageError>;

    /// Ends a file.
    fn end(&mut self, path: &str) -> Result<(), PackageError>;
}

/// Hashes and counts what goes to a sink.
pub(crate) struct Output<'a, K> {
    sink: &'a mut K,
    open: BTreeMap<String, (Sha256, u64)>,
    /// The files that are complete.
    pub(crate) files: BTreeMap<String, FileEntry>,
}

impl<'a, K: Sink> Output<'a, K> {
    pub(crate) fn new(sink: &'a mut K) -> Self {
        Self { sink, open: BTreeMap::new(), files: BTreeMap::new() }
    }

    pub(crate) fn line(&mut self, path: &str, line: &[u8]) -> Result<(), PackageError> {
        if !self.open.contains_key(path) {
            self.open.insert(path.to_owned(), (Sha256::new(), 0));
        }
        if let Some((hash, bytes)) = self.open.get_mut(path) {
            hash.update(line);
            *bytes += u64::try_from(line.len()).unwrap_or(u64::MAX);
        }
        self.sink.line(path, line)
    }

    /// Ends a file; one without a line is made empty.
    pub(crate) fn end(&mut self, path: &str) -> Result<(), PackageError> {
        let (hash, bytes) = self.open.remove(path).unwrap_or_default();
        let entry = FileEntry {
            path: path.to_owned(),
            sha256: Hash(hash.finalize().into()).to_string(),
            bytes,
        };
        self.files.insert(path.to_owned(), entry);
        self.sink.end(path)
    }

    /// Takes a whole file.
    pub(crate) fn text(&mut self, path: &str, text: &str) -> Result<(), PackageError> {
        for line in text.split_inclusive('\n') {
            self.line(path, line.as_bytes())?;
        }
        self.end(path)
    }
}

/// Counts the lines of lists and keeps none.
pub(crate) struct Nowhere;

impl Sink for Nowhere {
    fn line(&mut self, _: &str, _: &[u8]) -> Result<(), PackageError> {
        Ok(())
    }

    fn end(&mut self, _: &str) -> Result<(), PackageError> {
        Ok(())
    }
}

/// Writes files below a folder.
pub(crate) struct Folder {
    root: PathBuf,
    open: BTreeMap<String, BufWriter<File>>,
}

impl Folder {
    pub(crate) fn new(root: &Path) -> Self {
        Self { root: root.to_owned(), open: BTreeMap::new() }
    }

    fn create(&self, path: &str) -> Result<BufWriter<File>, PackageError> {
        let full = self.root.join(path);
        if let Some(folder) = full.parent() {
            fs::create_dir_all(folder).map_err(PackageError::io(folder))?;
        }
        Ok(BufWriter::new(File::create_new(&full).map_err(PackageError::io(&full))?))
    }
}

impl Sink for Folder {
    fn line(&mut self, path: &str, line: &[u8]) -> Result<(), PackageError> {
        if !self.open.contains_key(path) {
            self.open.insert(path.to_owned(), self.create(path)?);
        }
        let Some(file) = self.open.get_mut(path) else { return Ok(()) };
        file.write_all(line).map_err(PackageError::io(&self.root.join(path)))
    }

    fn end(&mut self, path: &str) -> Result<(), PackageError> {
        let file = match self.open.remove(path) {
            Some(file) => file,
            None => self.create(path)?,
        };
        let done = file.into_inner().map_err(io::IntoInnerError::into_error);
        done.and_then(|file| file.sync_all()).map_err(PackageError::io(&self.root.join(path)))
    }
}

/// What is wrong with a row.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct BadRow {
    /// From 1; a table's header is row 1.
    pub(crate) row: u64,
    pub(crate) reason: String,
}

/// Compares with the files below a folder; remembers the first bad row of each.
pub(crate) struct Against {
    root: PathBuf,
    open: BTreeMap<String, Option<BufReader<File>>>,
    /// The rows of each file, and what is wrong with the first bad one.
    pub(crate) found: BTreeMap<String, (u64, Option<BadRow>)>,
}

impl Against {
    pub(crate) fn new(root: &Path) -> Self {
        Self { root: root.to_owned(), open: BTreeMap::new(), found: BTreeMap::new() }
    }

    /// Reads the next line of a file; nothing after its end, or if there is no such file.
    fn next(&mut self, path: &str) -> Result<Vec<u8>, PackageError> {
        let full = self.root.join(path);
        if !self.open.contains_key(path) {
            let file = match File::open(&full) {
                Ok(file) => Some(BufReader::new(file)),
                Err(error) if error.kind() == io::ErrorKind::NotFound => None,
                Err(error) => return Err(PackageError::io(&full)(error)),
            };
            self.open.insert(path.to_owned(), file);
        }
        let mut line = Vec::new();
        if let Some(Some(file)) = self.open.get_mut(path) {
            let mut file = file.take(ROW_BYTES_MAX);
            file.read_until(b'\n', &mut line).map_err(PackageError::io(&full))?;
        }
        Ok(line)
    }
}

impl Sink for Against {
    fn line(&mut self, path: &str, line: &[u8]) -> Result<(), PackageError> {
        if matches!(self.found.get(path), Some((_, Some(_)))) {
            return Ok(());
        }
        let found = self.next(path)?;
        let (rows, bad) = self.found.entry(path.to_owned()).or_default();
        *rows += 1;
        if found != line {
            *bad = Some(BadRow { row: *rows, reason: difference(line, &found) });
        }
        Ok(())
    }

    fn end(&mut self, path: &str) -> Result<(), PackageError> {
        let sound = !matches!(self.found.get(path), Some((_, Some(_))));
        if sound {
            let rest = self.next(path)?;
            let there = matches!(self.open.get(path), Some(Some(_)));
            let (rows, bad) = self.found.entry(path.to_owned()).or_default();
            let row = *rows + 1;
            if !there {
                *bad = Some(BadRow { row, reason: "the file is missing".to_owned() });
            } else if !rest.is_empty() {
                *bad = Some(BadRow { row, reason: difference(&[], &rest) });
            }
        }
        self.open.remove(path);
        Ok(())
    }
}

/// Says how a row differs from the one that the log leads to.
fn difference(own: &[u8], found: &[u8]) -> String {
    match (leaf_index(own), leaf_index(found)) {
        _ if found.is_empty() => match leaf_index(own) {
            Some(own) => format!("leaf {own} is missing; the file ends before it"),
            None => "the file ends too early".to_owned(),
        },
        (Some(own), Some(found)) if found > own => format!("leaf {own} is missing"),
        (own, Some(found)) if own.is_none_or(|own| found < own) => {
            format!("leaf {found} does not belong here")
        }
        _ => format!("it is not what the log leads to{}", first_cell(own, found)),
    }
}

/// Returns the leaf's position, which lines of records and rows of tables begin with.
fn leaf_index(line: &[u8]) -> Option<u64> {
    let rest = line.strip_prefix(b"{\"index\":").or_else(|| line.strip_prefix(b"\""))?;
    let end = rest.iter().position(|byte| !byte.is_ascii_digit())?;
    str::from_utf8(rest.get(..end)?).ok()?.parse().ok()
}

/// Names the first cell that differs between two rows of a table.
fn first_cell(own: &[u8], found: &[u8]) -> String {
    let read = |line: &[u8]| {
        let mut reader = csv::ReaderBuilder::new().has_headers(false).from_reader(line);
        reader.records().next().and_then(Result::ok)
    };
    if !own.starts_with(b"\"") {
        return String::new();
    }
    let (Some(own), Some(found)) = (read(own), read(found)) else { return String::new() };
    let differs = own.iter().zip(&found).position(|(own, found)| own != found);
    differs.map_or_else(String::new, |cell| {
        let cut = |text: Option<&str>| crate::cut(&crate::shown(text.unwrap_or_default()), 60);
        format!(
            ", column {}: `{}` instead of `{}`",
            cell + 1,
            cut(found.get(cell)),
            cut(own.get(cell))
        )
    })
}

/// Returns the SHA-256 and the length of a file.
pub(crate) fn digest(path: &Path) -> Result<(String, u64), PackageError> {
    let mut file = File::open(path).map_err(PackageError::io(path))?;
    let mut hash = Sha256::new();
    let mut buffer = vec![0; 64 << 10];
    let mut bytes = 0;
    loop {
        let read = file.read(&mut buffer).map_err(PackageError::io(path))?;
        let Some(part) = buffer.get(..read).filter(|part| !part.is_empty()) else { break };
        hash.update(part);
        bytes += u64::try_from(read).unwrap_or(u64::MAX);
    }
    Ok((Hash(hash.finalize().into()).to_string(), bytes))
}
