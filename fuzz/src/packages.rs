//! Evidence packages: altered ones are refused, and ours are accepted, whatever the records say.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use countersign_evidence::folder::LogFolder;
use countersign_evidence::package::{
    Filters, Options, Request, SampleRequest, Scope, build, verify,
};
use countersign_ledger::note::verify_note;
use countersign_ledger::verify::{VerifyOptions, verify_log};
use tempfile::TempDir;

use super::world::{KEYS, LOG_KEY, Log, RECORDS, START_MS, Stream, replacement};

/// Most records of a log that a target makes.
const RECORDS_MAX: usize = 64;

thread_local! {
    /// Made once per thread, and deleted with it.
    static PACKAGE: Package = Package::new();
}

/// A package in a folder, and its files as they were built.
struct Package {
    folder: TempDir,
    files: BTreeMap<String, Vec<u8>>,
}

impl Package {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let root = make(&RECORDS, folder.path()).unwrap();
        let mut files = BTreeMap::new();
        collect(&root, &root, &mut files);
        assert!(is_sound(&root));
        Self { folder, files }
    }
}

/// Builds a package of all that a log recorded in a day; `None` if it has none.
fn make(log: &Log, folder: &Path) -> Option<PathBuf> {
    let (from, to) = (folder.join("log"), folder.join("package"));
    log.write(&from);
    let from_ms = i64::try_from(START_MS).unwrap();
    let scope = Scope { from_ms, to_ms: from_ms + 86_400_000, filters: Filters::default() };
    let sample = SampleRequest { draw: Some("4711".to_owned()), n: 2 };
    let request = Request { scope, sample, generator: "1.2.3".to_owned() };
    let log = LogFolder::open(&from).unwrap();
    build(&log, &KEYS, Some(&LOG_KEY), &request, &to, &mut |_, _| {}).ok().map(|_| to)
}

/// Reads all files below a folder.
fn collect(root: &Path, folder: &Path, files: &mut BTreeMap<String, Vec<u8>>) {
    for path in fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()) {
        if path.is_dir() {
            collect(root, &path, files);
        } else {
            let name = path.strip_prefix(root).unwrap().to_str().unwrap().to_owned();
            files.insert(name, fs::read(&path).unwrap());
        }
    }
}

/// Returns every file in its own place, but for those that are only hashed.
pub(crate) fn seeds() -> Vec<Vec<u8>> {
    PACKAGE.with(|package| {
        let places = (0_u8..).zip(&package.files);
        let told =
            places.filter(|(_, (path, _))| !["README.md", "verify.py"].contains(&path.as_str()));
        told.map(|(place, (_, bytes))| [&[place], bytes.as_slice()].concat()).collect()
    })
}

fn is_sound(root: &Path) -> bool {
    let options = Options { keys: KEYS.clone(), ..Options::default() };
    verify(root, &options, &mut |_, _| {}).is_ok_and(|verdict| verdict.is_sound())
}

/// A package with one file replaced.
pub(crate) fn package(bytes: &[u8]) {
    PACKAGE.with(|package| {
        let Some((path, content)) = replacement(&package.files, bytes) else { return };
        let Some(built) = package.files.get(path) else { return };
        let root = package.folder.path().join("package");
        fs::write(root.join(path), content).unwrap();
        let sound = is_sound(&root);
        fs::write(root.join(path), built).unwrap();
        let same_signed = |content: &[u8]| {
            let text = |note| verify_note(note, &KEYS).ok().map(|note| note.text().to_owned());
            text(content).is_some() && text(content) == text(built)
        };
        // Signatures of keys that nobody knows change nothing.
        let harmless = content == built || path == "manifest.sig" && same_signed(content);
        assert_eq!(sound, harmless, "{path}");
    });
}

/// Records, a line of JSON each, in a log that holds: its package holds too.
pub(crate) fn package_entries(bytes: &[u8]) {
    let mut stream = Stream::default();
    for line in bytes.split(|byte| *byte == b'\n').take(RECORDS_MAX) {
        if let Ok(fields) = serde_json::from_slice(line) {
            stream.add(fields);
        }
    }
    let size = u64::try_from(stream.leaves.len()).unwrap();
    if size == 0 || stream.leaves.iter().any(|leaf| leaf.len() > 16_384) {
        return;
    }
    let log = Log::publish(stream.leaves, &[size]);
    let options = VerifyOptions { keys: KEYS.clone(), ..VerifyOptions::default() };
    let holds = verify_log(&log, &options, &mut |_| {}).is_ok();
    let folder = tempfile::tempdir().unwrap();
    if let Some(package) = make(&log, folder.path()) {
        assert_eq!(is_sound(&package), holds);
    }
}
