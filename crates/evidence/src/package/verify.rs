//! Checks a package offline: everything in it is derived again from its log, and compared.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

use countersign_ledger::hash::sha256;
use countersign_ledger::limits::NOTE_BYTES_MAX;
use countersign_ledger::note::verify_note;
use countersign_ledger::tile::{TilePath, bundles_for_growth, tiles_for_growth};
use countersign_ledger::verify::{
    CHECKPOINTS_PREFIX, Problem, Trust, VerifyOptions, current_keys, verify_log,
};
use countersign_ledger::{Checkpoint, Policy, TreeSize, VerifierKey};
use serde::Serialize;

use super::PackageError;
use super::build::{VERIFIERS, opened};
use super::derive::derive;
use super::limits::MANIFEST_BYTES_MAX;
use super::list::List;
use super::manifest::{FORMAT, FileEntry, Manifest, signed_text};
use super::output::{Against, Output, digest};
use super::recorder;
use crate::folder::{LogFolder, walk};
use crate::time::utc;
use crate::timestamp::{self, Roots};
use crate::witnessed::Witnessed;

/// What to check a package against.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// The keys of the log.
    pub keys: Vec<VerifierKey>,
    /// A checkpoint kept from elsewhere, already verified.
    pub pinned: Option<Checkpoint>,
    /// The roots of the timestamp authorities that are trusted.
    pub roots: Option<Roots>,
    /// Which witnesses must have cosigned the last checkpoint.
    pub policy: Option<Policy>,
}

/// Whether something holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "SCREAMING-KEBAB-CASE")]
pub enum Status {
    /// It holds.
    Pass,
    /// It does not.
    Fail,
    /// Nobody looked, and why.
    NotChecked,
}

/// One thing that was looked at.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Check {
    /// Whether it holds.
    pub status: Status,
    /// The file, or what else it is.
    pub object: String,
    /// The first bad row, from 1; a table's header is row 1.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub row: Option<u64>,
    /// What was found.
    pub detail: String,
}

/// All that was looked at.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Verdict {
    /// In the order of the check.
    pub checks: Vec<Check>,
    /// The manifest, once its lists were derived again.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub manifest: Option<Manifest>,
    /// Who cosigned the last checkpoint, if somebody said whom to trust for it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub witnessed: Option<Witnessed>,
}

impl Verdict {
    /// Returns whether nothing failed.
    #[must_use]
    pub fn is_sound(&self) -> bool {
        self.first_bad().is_none()
    }

    /// Returns the first thing that does not hold, with its row if one is known.
    #[must_use]
    pub fn first_bad(&self) -> Option<&Check> {
        let mut bad = self.checks.iter().filter(|check| check.status == Status::Fail);
        let first = bad.next()?;
        let precise = bad.find(|check| check.object == first.object && check.row.is_some());
        Some(precise.filter(|_| first.row.is_none()).unwrap_or(first))
    }

    fn push(&mut self, status: Status, object: &str, detail: impl Into<String>) {
        let (object, detail) = (object.to_owned(), detail.into());
        self.checks.push(Check { status, object, row: None, detail });
    }

    fn pass(&mut self, object: &str, detail: impl Into<String>) {
        self.push(Status::Pass, object, detail);
    }

    fn fail(&mut self, object: &str, detail: impl Into<String>) {
        self.push(Status::Fail, object, detail);
    }

    fn not_checked(&mut self, object: &str, detail: impl Into<String>) {
        self.push(Status::NotChecked, object, detail);
    }
}

/// Checks the package in a folder; reads nothing else. `progress` gets the leaves done and all leaves,
/// once for the log and once for the lists.
///
/// # Errors
/// [`PackageError`] if the folder has no manifest or cannot be read; what is wrong with the package is in the
/// [`Verdict`].
pub fn verify(
    root: &Path,
    options: &Options,
    progress: &mut dyn FnMut(u64, u64),
) -> Result<Verdict, PackageError> {
    let mut verdict = Verdict::default();
    if !check_kinds(root, &mut verdict)? {
        return Ok(verdict);
    }
    let Some((manifest, bytes)) = read_manifest(root, &mut verdict)? else { return Ok(verdict) };
    let disk = check_files(root, &manifest, &mut verdict)?;
    // A key that took the place of one that was given signs too; the check of the log says how.
    let current = LogFolder::open(&root.join("log")).ok();
    let current = current.and_then(|log| current_keys(&log, &options.keys).ok());
    let keys = current.unwrap_or_else(|| options.keys.clone());
    check_signature(root, &manifest, &bytes, &keys, &mut verdict)?;
    if check_log(root, options, &mut verdict, progress)? {
        check_witnesses(root, options, &keys, &mut verdict);
        check_lists(root, &manifest, &bytes, &disk, &keys, &mut verdict, progress)?;
        check_end(options, &mut verdict);
    } else {
        verdict.not_checked(
            "records/, csv/, coverage/, ipe/, proofs/",
            "the log in the package does not hold",
        );
    }
    verdict.not_checked("README.md, verify*.py", "only their hashes: they are for people to read");
    verdict.not_checked("private fields", "the package opens none of them");
    verdict.not_checked("approvals, incidents", "they are not recorded by this version");
    Ok(verdict)
}

/// Checks that the package has files and folders only: a link leads out of it, a pipe may never end.
fn check_kinds(root: &Path, verdict: &mut Verdict) -> Result<bool, PackageError> {
    let mut paths = Vec::new();
    walk(root, "", &mut paths).map_err(PackageError::io(root))?;
    for path in &paths {
        let path = path.trim_start_matches('/');
        let full = root.join(path);
        let found = fs::symlink_metadata(&full).map_err(PackageError::io(&full))?;
        if !found.is_file() {
            verdict.fail(path, "it is neither a file nor a folder");
        }
    }
    Ok(verdict.is_sound())
}

fn read_manifest(
    root: &Path,
    verdict: &mut Verdict,
) -> Result<Option<(Manifest, Vec<u8>)>, PackageError> {
    let path = root.join("manifest.json");
    let size = fs::metadata(&path).map_err(PackageError::io(&path))?.len();
    if size > MANIFEST_BYTES_MAX {
        verdict.fail("manifest.json", format!("it has more than {MANIFEST_BYTES_MAX} bytes"));
        return Ok(None);
    }
    let bytes = fs::read(&path).map_err(PackageError::io(&path))?;
    match serde_json::from_slice::<Manifest>(&bytes) {
        Ok(manifest) if manifest.format == FORMAT => Ok(Some((manifest, bytes))),
        Ok(manifest) => {
            let format = crate::shown(&manifest.format);
            verdict.fail("manifest.json", format!("its format is `{format}`, expected `{FORMAT}`"));
            Ok(None)
        }
        Err(error) => {
            verdict.fail("manifest.json", format!("it is no manifest: {error}"));
            Ok(None)
        }
    }
}

/// Compares the files with the manifest; returns what is there.
fn check_files(
    root: &Path,
    manifest: &Manifest,
    verdict: &mut Verdict,
) -> Result<BTreeMap<String, FileEntry>, PackageError> {
    let mut paths = Vec::new();
    walk(root, "", &mut paths).map_err(PackageError::io(root))?;
    let mut disk = BTreeMap::new();
    for path in paths {
        let path = path.trim_start_matches('/').to_owned();
        if path == "manifest.json" || path == "manifest.sig" {
            continue;
        }
        let (sha256, bytes) = digest(&root.join(&path))?;
        disk.insert(path.clone(), FileEntry { path, sha256, bytes });
    }
    let listed: BTreeMap<_, _> = manifest.files.iter().map(|file| (&file.path, file)).collect();
    let before = verdict.checks.len();
    for (path, file) in &listed {
        match disk.get(*path) {
            None => verdict.fail(path, "the manifest lists it, but it is missing"),
            Some(found) if found != *file => {
                verdict.fail(path, "its bytes are not those that the manifest lists");
            }
            Some(_) => {}
        }
    }
    for path in disk.keys().filter(|path| !listed.contains_key(path)) {
        verdict.fail(path, "the manifest does not list it");
    }
    if verdict.checks.len() == before {
        verdict.pass("files", format!("{} files, as the manifest lists them", disk.len()));
    }
    Ok(disk)
}

fn check_signature(
    root: &Path,
    manifest: &Manifest,
    bytes: &[u8],
    keys: &[VerifierKey],
    verdict: &mut Verdict,
) -> Result<(), PackageError> {
    const OBJECT: &str = "manifest.sig";
    let path = root.join(OBJECT);
    if !path.exists() {
        verdict.not_checked(OBJECT, "the manifest is not signed");
        return Ok(());
    }
    let size = fs::metadata(&path).map_err(PackageError::io(&path))?.len();
    if !usize::try_from(size).is_ok_and(|size| size <= NOTE_BYTES_MAX) {
        verdict.fail(OBJECT, format!("it has more than {NOTE_BYTES_MAX} bytes"));
        return Ok(());
    }
    let note = fs::read(&path).map_err(PackageError::io(&path))?;
    match verify_note(&note, keys) {
        Err(error) => verdict.fail(OBJECT, error.to_string()),
        Ok(signed) => {
            let text = signed_text(&manifest.origin, &sha256(bytes).to_string());
            if signed.text() != text {
                verdict.fail(OBJECT, "it signs another manifest than `manifest.json`");
            } else if !signed.is_signed_by(&manifest.origin) {
                verdict.fail(OBJECT, format!("`{}` itself did not sign", manifest.origin));
            } else {
                verdict.pass(OBJECT, format!("the manifest is signed by {}", manifest.origin));
            }
        }
    }
    Ok(())
}

/// Checks the log in the package, and the copies of its checkpoints.
fn check_log(
    root: &Path,
    options: &Options,
    verdict: &mut Verdict,
    progress: &mut dyn FnMut(u64, u64),
) -> Result<bool, PackageError> {
    let folder = match LogFolder::open(&root.join("log")) {
        Ok(folder) => folder,
        Err(error) => {
            verdict.fail("log", error.to_string());
            return Ok(false);
        }
    };
    let pinned = options.pinned.clone();
    let check = VerifyOptions { keys: options.keys.clone(), pinned, ..VerifyOptions::default() };
    let checked = verify_log(&folder, &check, &mut |now| progress(now.checked.0, now.size.0));
    let report = match checked {
        Ok(report) => report,
        Err(Problem { object, index, reason }) => {
            let place = index.map(|index| format!("index {index}: ")).unwrap_or_default();
            verdict.fail(&format!("log/{object}"), format!("{place}{reason}"));
            return Ok(false);
        }
    };
    let root_hash = report.root.to_base64();
    verdict.pass("log", format!("{} records lead to the signed root {root_hash}", report.size));
    let tied = report.keys.iter().filter(|key| key.trust != Trust::Given);
    let tied: Vec<String> = tied.map(ToString::to_string).collect();
    if !tied.is_empty() {
        verdict.pass("keys", tied.join("; "));
    }
    match &options.pinned {
        Some(pinned) => {
            let detail = format!("the log extends the one that was kept, size {}", pinned.size);
            verdict.pass("pinned checkpoint", detail);
        }
        None => verdict.not_checked("pinned checkpoint", "none was given (--pinned)"),
    }
    check_timestamps(&folder, options.roots.as_ref(), verdict);
    Ok(true)
}

/// Checks that the quorum cosigned the last checkpoint of a log that holds: all of it is under that.
fn check_witnesses(root: &Path, options: &Options, keys: &[VerifierKey], verdict: &mut Verdict) {
    const OBJECT: &str = "log/checkpoint";
    let Some(policy) = &options.policy else {
        return verdict.not_checked("cosignatures", "no policy was given (--policy)");
    };
    let note = LogFolder::open(&root.join("log")).ok();
    let note = note.as_ref().and_then(LogFolder::checkpoint).unwrap_or_default();
    match Witnessed::check(note, policy, keys) {
        Ok(witnessed) => {
            verdict.pass(OBJECT, format!("cosigned by {}", witnessed.says()));
            verdict.witnessed = Some(witnessed);
        }
        Err(error) => verdict.fail(OBJECT, error.to_string()),
    }
}

/// Says if the log in a package ends before the period does: what came later may have been left out, and a
/// policy asks for all of it.
fn check_end(options: &Options, verdict: &mut Verdict) {
    let open = verdict.manifest.as_ref().filter(|manifest| !manifest.period_is_over);
    let Some(as_of) = open.map(|manifest| manifest.as_of.clone()) else { return };
    let status = if options.policy.is_some() { Status::Fail } else { Status::NotChecked };
    let detail = format!("it was not over: records after {as_of} are not in this package");
    verdict.push(status, "period", detail);
}

/// Checks the timestamps of a log whose checkpoints hold.
fn check_timestamps(log: &LogFolder, roots: Option<&Roots>, verdict: &mut Verdict) {
    const OBJECT: &str = "log/timestamps/";
    let found = timestamp::sizes(log).map(|sizes| sizes.len());
    let checked = match (found, roots) {
        (Ok(0), None) => return,
        (Ok(0), Some(_)) => return verdict.not_checked(OBJECT, "the package has none"),
        (Ok(_), None) => return verdict.not_checked(OBJECT, "no roots were given (--tsa-roots)"),
        (Ok(_), Some(roots)) => timestamp::check_folder(log, roots),
        (Err(problem), _) => Err(problem),
    };
    match checked {
        Ok(stamped) => {
            for one in stamped {
                let (time, authority) = (utc(one.timestamp.time_ms), &one.timestamp.authority);
                let detail = format!("{} records were there at {time}, says {authority}", one.size);
                verdict.pass(&format!("log/{}", timestamp::token_path(one.size)), detail);
            }
        }
        Err(problem) => verdict.fail(&format!("log/{}", problem.object), problem.reason),
    }
}

/// Derives lists, tables, sheets, proofs, attestation and manifest again.
fn check_lists(
    root: &Path,
    manifest: &Manifest,
    bytes: &[u8],
    disk: &BTreeMap<String, FileEntry>,
    keys: &[VerifierKey],
    verdict: &mut Verdict,
    progress: &mut dyn FnMut(u64, u64),
) -> Result<(), PackageError> {
    let folder = LogFolder::open(&root.join("log"))?;
    let mut against = Against::new(root);
    let mut out = Output::new(&mut against);
    let derived = manifest.request().and_then(|request| {
        let log = opened(&folder, keys)?;
        derive(&log, &request, &mut out, progress)
    });
    let (mut derived, files) = match derived {
        Ok(derived) => (derived, out.files),
        Err(error @ PackageError::Io { .. }) => return Err(error),
        Err(error) => {
            verdict.fail("manifest.json", error.to_string());
            return Ok(());
        }
    };
    report_lists(&derived, &against, verdict);
    check_places(root, &derived, &files, disk, verdict)?;
    // Whatever is not derived is compared with the disk elsewhere.
    let listed = manifest.files.iter().map(|file| (file.path.clone(), file.clone()));
    let mut all: BTreeMap<String, FileEntry> = listed.collect();
    all.extend(files);
    derived.files = all.into_values().collect();
    match differing_line(&derived.text()?, bytes) {
        None => verdict.pass("manifest.json", "its period, totals and hashes are derived again"),
        Some(row) => verdict.checks.push(Check {
            status: Status::Fail,
            object: "manifest.json".to_owned(),
            row: Some(row),
            detail: "it is not what the log leads to".to_owned(),
        }),
    }
    derived.files.clear();
    verdict.manifest = Some(derived);
    Ok(())
}

/// Says of each derived file whether it is as derived.
fn report_lists(derived: &Manifest, against: &Against, verdict: &mut Verdict) {
    for (path, (_, bad)) in &against.found {
        let Some(bad) = bad else { continue };
        let (object, row) = (path.clone(), Some(bad.row));
        verdict.checks.push(Check {
            status: Status::Fail,
            object,
            row,
            detail: bad.reason.clone(),
        });
    }
    let good = |path: &String| matches!(against.found.get(path), Some((_, None)));
    for list in List::ALL {
        let rows = derived.totals(list).map_or(0, |totals| totals.rows);
        if good(&list.records()) {
            let detail =
                format!("{rows} rows: all that match of {} leaves", derived.checkpoint_end.size);
            verdict.pass(&list.records(), detail);
        }
        for path in list.tables().iter().filter(|path| good(path)) {
            verdict.pass(path, format!("{rows} rows, derived again byte for byte"));
        }
    }
    if good(&recorder::PATH.to_owned()) {
        verdict.pass(recorder::PATH, "it fills the period, derived again byte for byte");
    }
    for (folder, what) in [
        ("ipe/", "sheets, derived again byte for byte"),
        ("proofs/", "proofs of the sample, which was drawn again"),
        ("attestation.txt", "statement, derived again byte for byte"),
    ] {
        let mut files =
            against.found.iter().filter(|(path, _)| path.starts_with(folder)).peekable();
        if files.peek().is_some() || folder == "proofs/" {
            let files: Vec<_> = files.collect();
            if files.iter().all(|(_, (_, bad))| bad.is_none()) {
                verdict.pass(folder, format!("{} {what}", files.len()));
            }
        }
    }
}

/// Checks that every file has its place, and that copies are copies.
fn check_places(
    root: &Path,
    derived: &Manifest,
    files: &BTreeMap<String, FileEntry>,
    disk: &BTreeMap<String, FileEntry>,
    verdict: &mut Verdict,
) -> Result<(), PackageError> {
    let size = TreeSize(derived.checkpoint_end.size);
    let mut copies = vec![("checkpoints/end", "log/checkpoint".to_owned())];
    if let Some(start) = &derived.checkpoint_start {
        copies.push(("checkpoints/start", format!("log/checkpoints/{}", start.size)));
    }
    let mut places = BTreeSet::from(["README.md".to_owned()]);
    places.extend(VERIFIERS.map(|(path, _)| path.to_owned()));
    places.extend(files.keys().cloned());
    let tiles = tiles_for_growth(TreeSize(0), size);
    let bundles = bundles_for_growth(TreeSize(0), size);
    places.extend(tiles.iter().chain(&bundles).map(|path: &TilePath| format!("log/{path}")));
    for (copy, original) in copies {
        let read = |path: &str| {
            let full = root.join(path);
            fs::read(&full).map_err(PackageError::io(&full))
        };
        let there = disk.contains_key(copy) && disk.contains_key(&original);
        if !there || read(copy)? != read(&original)? {
            verdict.fail(copy, format!("it is not a copy of `{original}`"));
        }
        places.extend([copy.to_owned(), original]);
    }
    for stamped in
        disk.keys().filter_map(|path| timestamp::stamped_size(path.strip_prefix("log/")?))
    {
        let checkpoint = format!("log/{CHECKPOINTS_PREFIX}{stamped}");
        places.extend([checkpoint, format!("log/{}", timestamp::token_path(stamped))]);
    }
    for path in disk.keys().filter(|path| !places.contains(*path)) {
        verdict.fail(path, "it is no part of a package");
    }
    Ok(())
}

/// Returns the first line, from 1, in which a text differs from what was found.
fn differing_line(own: &str, found: &[u8]) -> Option<u64> {
    if own.as_bytes() == found {
        return None;
    }
    let found = found.split_inclusive(|byte| *byte == b'\n');
    let same = own.as_bytes().split_inclusive(|byte| *byte == b'\n').zip(found);
    let same = same.take_while(|(own, found)| own == found).count();
    Some(u64::try_from(same).unwrap_or(u64::MAX).saturating_add(1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn links_are_not_followed() {
        for name in ["manifest.json", "manifest.sig", "records", "log"] {
            let folder = tempfile::tempdir().unwrap();
            fs::write(folder.path().join("manifest.json"), "{}").unwrap();
            let link = folder.path().join(name);
            let _ = fs::remove_file(&link);
            // Whoever reads this, never ends.
            std::os::unix::fs::symlink("/dev/zero", &link).unwrap();
            let verdict = verify(folder.path(), &Options::default(), &mut |_, _| {}).unwrap();
            let bad = verdict.first_bad().map(|bad| bad.object.as_str());
            assert_eq!(bad, Some(name));
        }
    }
}
