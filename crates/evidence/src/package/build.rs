//! Builds a package into a folder.

use std::fs;
use std::path::{Path, PathBuf};

use countersign_ledger::tile::{TilePath, bundles_for_growth, tiles_for_growth};
use countersign_ledger::verify::{CHECKPOINT_PATH, CHECKPOINTS_PREFIX, LogSource as _};
use countersign_ledger::{Checkpoint, LeafIndex, Note, SigningKey, TreeSize, VerifierKey};

use super::derive::{Log, Request, derive};
use super::leaves::Leaves;
use super::list::Scope;
use super::manifest::{Manifest, signed_text};
use super::output::{Folder, Output, Sink as _};
use super::{PackageError, text};
use crate::Record;
use crate::folder::LogFolder;
use crate::timestamp::{self, token_path};

/// The independent verifiers, of logs and of packages, and what both need: nothing else but Python.
pub(super) const VERIFIERS: [(&str, &str); 4] = [
    ("verify.py", include_str!("../../../../spec/verify.py")),
    ("verify_evidence.py", include_str!("../../../../spec/verify_evidence.py")),
    ("verify_lists.py", include_str!("../../../../spec/verify_lists.py")),
    ("verify_signatures.py", include_str!("../../../../spec/verify_signatures.py")),
];

/// How far the time in a record's id may be from the time of the record, with room to spare, in milliseconds.
const ID_SLACK_MS: i64 = 60_000;

/// Builds the package that is asked for from a published log. `keys` check its checkpoints; `signer` signs
/// the manifest, if there is one. `progress` gets the leaves done and all leaves.
///
/// # Errors
/// [`PackageError`]; nothing is left behind then.
pub fn build(
    log: &LogFolder,
    keys: &[VerifierKey],
    signer: Option<&SigningKey>,
    request: &Request,
    to: &Path,
    progress: &mut dyn FnMut(u64, u64),
) -> Result<Manifest, PackageError> {
    if to.symlink_metadata().is_ok() {
        return Err(PackageError::Exists(to.to_owned()));
    }
    let part = part(to);
    fs::create_dir(&part).map_err(PackageError::io(&part))?;
    let built = fill(log, keys, signer, request, &part, progress).and_then(|manifest| {
        fs::rename(&part, to).map_err(PackageError::io(to)).map(|()| manifest)
    });
    if built.is_err() {
        // What went wrong matters more than what is left of it.
        let _ = fs::remove_dir_all(&part);
    }
    built
}

/// Returns the folder in which a package grows, beside its place.
fn part(to: &Path) -> PathBuf {
    let mut name = to.file_name().unwrap_or_default().to_owned();
    name.push(".part");
    to.with_file_name(name)
}

/// Goes back to the newest checkpoint that witnesses cosigned, if the log as of then has the whole period and
/// something later; else a package of the period ends at the newest checkpoint of all.
///
/// # Errors
/// [`PackageError`] if the log cannot be read.
pub fn witnessed(log: LogFolder, scope: &Scope) -> Result<LogFolder, PackageError> {
    let (Some(newest), Some(size)) = (log.size(), log.cosigned_sizes().last().copied()) else {
        return Ok(log);
    };
    let cosigned = log.clone().at(size)?;
    if size == newest {
        return Ok(cosigned);
    }
    let Some(last) = size.0.checked_sub(1).filter(|_| size < newest) else { return Ok(log) };
    let mut leaves = Leaves::new(&log, newest);
    if leaves.record(LeafIndex(last))?.time_ms() < scope.to_ms {
        return Ok(log);
    }
    for index in size.0..newest.0 {
        if may_belong(&leaves.record(LeafIndex(index))?, scope) {
            return Ok(log);
        }
    }
    Ok(cosigned)
}

/// Returns whether a record that came later may stand in a package of the period: itself, or as the late
/// outcome of a decision, whose id tells its time (UUID version 7).
fn may_belong(record: &Record, scope: &Scope) -> bool {
    let decided = || {
        let hex: String = record.text("parent")?.chars().filter(|c| *c != '-').take(12).collect();
        i64::from_str_radix(&hex, 16).ok()
    };
    let late = || decided().is_none_or(|ms| ms < scope.to_ms.saturating_add(ID_SLACK_MS));
    scope.contains(record.time_ms()) || (record.kind() == "outcome" && late())
}

/// Takes a log up to its checkpoint, which one of the keys must have signed.
pub(crate) fn opened<'a>(
    log: &'a LogFolder,
    keys: &[VerifierKey],
) -> Result<Log<'a, LogFolder>, PackageError> {
    let bytes = log.checkpoint().ok_or(PackageError::NoCheckpoint)?;
    let unsound = |reason: String| PackageError::Unsound(format!("its checkpoint: {reason}"));
    let end = Checkpoint::open(bytes, keys).map_err(|error| unsound(error.to_string()))?;
    let note = Note::parse(bytes).map_err(|error| unsound(error.to_string()))?;
    let stored = log.stored().filter(|size| *size <= end.size).collect();
    Ok(Log { source: log, note, end, stored })
}

fn fill(
    folder: &LogFolder,
    keys: &[VerifierKey],
    signer: Option<&SigningKey>,
    request: &Request,
    to: &Path,
    progress: &mut dyn FnMut(u64, u64),
) -> Result<Manifest, PackageError> {
    let log = opened(folder, keys)?;
    let mut sink = Folder::new(to);
    let mut out = Output::new(&mut sink);
    let mut manifest = derive(&log, request, &mut out, progress)?;
    let start = manifest.checkpoint_start.as_ref().map(|start| TreeSize(start.size));
    copy_log(&log, start, &mut out)?;
    out.text("README.md", &text::readme(&manifest, signer.is_some()))?;
    for (path, program) in VERIFIERS {
        out.text(path, program)?;
    }
    manifest.files = out.files.into_values().collect();
    let text = manifest.text()?;
    let hash = countersign_ledger::hash::sha256(text.as_bytes()).to_string();
    sink.line("manifest.json", text.as_bytes())?;
    sink.end("manifest.json")?;
    if let Some(signer) = signer {
        let note = signer.sign_note(&signed_text(&log.end.origin, &hash))?;
        sink.line("manifest.sig", &note.to_bytes())?;
        sink.end("manifest.sig")?;
    }
    Ok(manifest)
}

/// Copies the log as of its checkpoint, with the one before the period and those that were time-stamped since.
fn copy_log(
    log: &Log<'_, LogFolder>,
    start: Option<TreeSize>,
    out: &mut Output<'_, Folder>,
) -> Result<(), PackageError> {
    let mut copy = |path: &str, to: &[&str]| -> Result<(), PackageError> {
        let missing = || PackageError::Unsound(format!("`{path}` is missing"));
        let bytes = log.source.read(path)?.ok_or_else(missing)?;
        to.iter().try_for_each(|to| out.line(to, &bytes).and_then(|()| out.end(to)))
    };
    let bundles = bundles_for_growth(TreeSize(0), log.end.size);
    let tiles = tiles_for_growth(TreeSize(0), log.end.size);
    for path in tiles.iter().chain(&bundles).map(TilePath::to_string) {
        copy(&path, &[&format!("log/{path}")])?;
    }
    copy(CHECKPOINT_PATH, &["log/checkpoint", "checkpoints/end"])?;
    if let Some(start) = start {
        let path = format!("{CHECKPOINTS_PREFIX}{start}");
        copy(&path, &[&format!("log/{path}"), "checkpoints/start"])?;
    }
    let stamped = timestamp::sizes(log.source);
    let stamped = stamped.map_err(|problem| PackageError::Unsound(problem.to_string()))?;
    for size in stamped.into_iter().filter(|size| start.is_none_or(|start| *size > start)) {
        for path in [token_path(size), format!("{CHECKPOINTS_PREFIX}{size}")] {
            copy(&path, &[&format!("log/{path}")])?;
        }
    }
    Ok(())
}
