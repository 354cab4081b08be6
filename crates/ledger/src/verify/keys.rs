//! The keys whose signatures count: those that were given, and those that `key` leaves add.
//!
//! A `key` leaf has a statement that the old and the new key signed. From that leaf on, whoever trusts
//! the old key trusts the new one. Whoever trusts the new one accepts the old one on checkpoints of
//! earlier sizes, which all are beginnings of a tree that the new key vouches for. On a tree with the leaf
//! the old key counts for nothing, even if it was given: it may have been replaced because it was stolen.

use std::fmt;

use serde::Serialize;

use super::compare::Bundle;
use super::listing::Listing;
use super::{EntryFormat, LogSource, Problem, read};
use crate::checkpoint::{Checkpoint, CheckpointError};
use crate::leaf::Leaf;
use crate::limits::{KEY_LEAVES_MAX, TILE_WIDTH};
use crate::note::{NoteError, VerifierKey};
use crate::rotation::{KEY, Rotation};
use crate::tile::{TileKind, width_at};
use crate::tree::{LeafIndex, TreeSize};

/// How an entry of kind `key` shows in canonical JSON.
const MARK: &str = "\"kind\":\"key\"";

/// Why a key is trusted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Trust {
    /// Whoever checks brought it.
    Given,
    /// A `key` leaf names it as the one that takes a trusted key's place, from that leaf on.
    Successor,
    /// A `key` leaf names it as the one whose place a trusted key takes, up to that leaf.
    Predecessor,
}

/// A key that is trusted, and why.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct TrustedKey {
    /// The key, as `name+id+base64`.
    pub vkey: String,
    /// Why it is trusted.
    pub trust: Trust,
    /// The `key` leaf that says so.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub leaf: Option<LeafIndex>,
}

impl fmt::Display for TrustedKey {
    /// Writes name and id, and why the key is trusted.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Base64 may have a `+`, a name has none.
        let end = self.vkey.match_indices('+').nth(1).map_or(self.vkey.len(), |(at, _)| at);
        let name = self.vkey.get(..end).unwrap_or_default();
        let leaf = self.leaf.map(|leaf| leaf.to_string()).unwrap_or_default();
        match self.trust {
            Trust::Given => write!(f, "{name}, given"),
            Trust::Successor => write!(f, "{name}, which took over by leaf {leaf}"),
            Trust::Predecessor => write!(f, "{name}, which was replaced by leaf {leaf}"),
        }
    }
}

/// A `key` leaf.
#[derive(Debug, Clone, PartialEq, Eq)]
struct KeyLeaf {
    index: u64,
    rotation: Rotation,
}

/// The keys that were given, and the `key` leaves.
pub(super) struct Keys<'a> {
    given: &'a [VerifierKey],
    /// All `key` leaves, if they were looked for before the pass over the log.
    ahead: Option<Vec<KeyLeaf>>,
    /// Those that the pass has met.
    met: Vec<KeyLeaf>,
}

impl<'a> Keys<'a> {
    pub(super) fn new(given: &'a [VerifierKey]) -> Self {
        Self { given, ahead: None, met: Vec::new() }
    }

    /// Takes note of a leaf that the pass meets; says what is wrong with one of kind `key`.
    pub(super) fn meet(&mut self, leaf: &Leaf, index: u64, origin: &str) -> Result<(), String> {
        let Some(leaf) = key_leaf(leaf, index, origin)? else { return Ok(()) };
        if self.met.len() == KEY_LEAVES_MAX {
            return Err(format!("the log has more than {KEY_LEAVES_MAX} key leaves"));
        }
        self.met.push(leaf);
        Ok(())
    }

    /// Opens a checkpoint of `size`, which one of the keys must have signed that count for it. Reads ahead
    /// for `key` leaves if none of those that are known has.
    pub(super) fn open<S: LogSource>(
        &mut self,
        source: &S,
        ahead: &Ahead<'_>,
        path: &str,
    ) -> Result<Checkpoint, Problem> {
        let note = read(source, path)?;
        let failed = |error: &CheckpointError| Problem::file(path, &error.to_string());
        let size = match unverified(&note) {
            Ok(point) => point.size,
            Err(error) => return Err(failed(&error)),
        };
        match Checkpoint::open(&note, &self.counting_for(size)) {
            Err(error) if is_unknown(&error) && self.look_ahead(source, ahead)? => {
                Checkpoint::open(&note, &self.counting_for(size)).map_err(|error| failed(&error))
            }
            done => done.map_err(|error| failed(&error)),
        }
    }

    /// Finds all `key` leaves, unless that was done; returns whether there are any.
    pub(super) fn look_ahead<S: LogSource>(
        &mut self,
        source: &S,
        ahead: &Ahead<'_>,
    ) -> Result<bool, Problem> {
        if self.ahead.is_some() || ahead.entries == EntryFormat::Opaque {
            return Ok(false);
        }
        let mut found = Vec::new();
        for bundle in 0..ahead.size.0.div_ceil(u64::from(TILE_WIDTH)) {
            find_in_bundle(source, ahead, bundle, &mut found)?;
        }
        let some = !found.is_empty();
        self.ahead = Some(found);
        Ok(some)
    }

    fn leaves(&self) -> &[KeyLeaf] {
        self.ahead.as_deref().unwrap_or(&self.met)
    }

    /// Returns the keys that count for a checkpoint of `size`.
    pub(super) fn counting_for(&self, size: TreeSize) -> Vec<VerifierKey> {
        let counts = |key: &(VerifierKey, Trust, u64)| match key.1 {
            Trust::Given => true,
            Trust::Successor => key.2 < size.0,
            Trust::Predecessor => key.2 >= size.0,
        };
        let retired = self.retired();
        let replaced =
            |key: &VerifierKey| retired.iter().any(|(old, index)| old == key && *index < size.0);
        let all = self.all().into_iter().filter(counts).map(|(key, ..)| key);
        all.filter(|key| !replaced(key)).collect()
    }

    /// Returns the keys that were replaced, and by which leaf.
    fn retired(&self) -> Vec<(VerifierKey, u64)> {
        let valid = self.valid();
        valid.iter().map(|leaf| (leaf.rotation.old.clone(), leaf.index)).collect()
    }

    /// Returns the `key` leaves that stand in a chain: a key is replaced once, so whoever stole one that
    /// was replaced cannot name another successor.
    fn valid(&self) -> Vec<&KeyLeaf> {
        let mut valid: Vec<&KeyLeaf> = Vec::new();
        for leaf in self.leaves() {
            if valid.iter().all(|earlier| earlier.rotation.old != leaf.rotation.old) {
                valid.push(leaf);
            }
        }
        valid
    }

    /// Returns every trusted key, with why and by which leaf.
    fn all(&self) -> Vec<(VerifierKey, Trust, u64)> {
        let mut all: Vec<_> = self.given.iter().map(|key| (key.clone(), Trust::Given, 0)).collect();
        let valid = self.valid();
        let forward = valid.iter().map(|leaf| {
            let Rotation { old, new } = &leaf.rotation;
            (old, new, Trust::Successor, leaf.index)
        });
        let backward = valid.iter().rev().map(|leaf| {
            let Rotation { old, new } = &leaf.rotation;
            (new, old, Trust::Predecessor, leaf.index)
        });
        for (known, other, trust, index) in forward.chain(backward) {
            let has = |key: &VerifierKey| all.iter().any(|(there, ..)| there == key);
            if has(known) && !has(other) {
                all.push((other.clone(), trust, index));
            }
        }
        all
    }

    /// Returns every trusted key for the report.
    pub(super) fn report(&self) -> Vec<TrustedKey> {
        let all = self.all().into_iter();
        let named = all.map(|(key, trust, index)| TrustedKey {
            vkey: key.to_string(),
            trust,
            leaf: (trust != Trust::Given).then_some(LeafIndex(index)),
        });
        named.collect()
    }

    /// Returns whether the pass met the `key` leaves that were found ahead of it.
    pub(super) fn agree(&self) -> bool {
        self.ahead.as_ref().is_none_or(|ahead| *ahead == self.met)
    }
}

/// What is read to look ahead for `key` leaves.
pub(super) struct Ahead<'a> {
    pub(super) listing: &'a Listing,
    pub(super) size: TreeSize,
    pub(super) origin: &'a str,
    pub(super) entries: EntryFormat,
}

/// Reads a checkpoint whose signatures were not looked at.
pub(super) fn unverified(note: &[u8]) -> Result<Checkpoint, CheckpointError> {
    Checkpoint::parse(crate::note::Note::parse(note)?.text())
}

fn is_unknown(error: &CheckpointError) -> bool {
    matches!(error, CheckpointError::Note(NoteError::NoKnownKey))
}

fn find_in_bundle<S: LogSource>(
    source: &S,
    ahead: &Ahead<'_>,
    bundle: u64,
    found: &mut Vec<KeyLeaf>,
) -> Result<(), Problem> {
    let kind = TileKind::Entries;
    let files = ahead.listing.files(kind, bundle, ahead.size)?;
    let Some(path) = files.first() else { return Ok(()) };
    let (name, first) = (path.to_string(), bundle * u64::from(TILE_WIDTH));
    let bytes = read(source, &name)?;
    let signed = width_at(kind, bundle, ahead.size).map_or(0, usize::from);
    let entries = Bundle::read(path, &bytes).entries;
    for (index, entry) in (first..).zip(entries.into_iter().take(signed)) {
        // What is no leaf is for the pass to tell.
        let marked = str::from_utf8(entry).is_ok_and(|text| text.contains(MARK));
        let Some(Ok(leaf)) = marked.then(|| Leaf::parse(entry)) else { continue };
        let leaf = key_leaf(&leaf, index, ahead.origin)
            .map_err(|reason| Problem::at(&name, index, &reason))?;
        found.extend(leaf);
        if found.len() > KEY_LEAVES_MAX {
            let reason = format!("the log has more than {KEY_LEAVES_MAX} key leaves");
            return Err(Problem::at(&name, index, &reason));
        }
    }
    Ok(())
}

/// Reads the statement of a leaf of kind `key`, which both keys must have signed.
fn key_leaf(leaf: &Leaf, index: u64, origin: &str) -> Result<Option<KeyLeaf>, String> {
    if leaf.kind != KEY {
        return Ok(None);
    }
    let statement = leaf.rotation.as_deref().ok_or("the key leaf has no statement")?;
    let rotation = Rotation::open(statement).map_err(|error| error.to_string())?;
    if rotation.origin() != origin {
        return Err(format!("the key leaf is of the log `{}`", rotation.origin()));
    }
    Ok(Some(KeyLeaf { index, rotation }))
}
