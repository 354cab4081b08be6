//! The one pass over a log.

use super::compare::{Bundle, tile_differs};
use super::keys::{Ahead, Keys, unverified};
use super::listing::Listing;
use super::tally::Tally;
use super::{
    CHECKPOINT_PATH, CHECKPOINTS_PREFIX, COSIGNED_PREFIX, EntryFormat, LogSource, Problem,
    Progress, Report, VerifyOptions, read,
};
use crate::checkpoint::Checkpoint;
use crate::hash::{Hash, leaf_hash};
use crate::limits::TILE_WIDTH;
use crate::note::VerifierKey;
use crate::stream::StreamChecker;
use crate::tile::{TileKind, TilePath, subtree_root, width_at};
use crate::tree::{Frontier, LeafIndex};

/// What the pass knows so far.
pub(super) struct Pass<'a, S> {
    source: &'a S,
    options: &'a VerifyOptions,
    listing: Listing,
    keys: Keys<'a>,
    checkpoint: Checkpoint,
    frontier: Frontier,
    /// The hashes of the tile that is being filled, per level.
    filling: Vec<Vec<Hash>>,
    streams: StreamChecker,
    tally: Tally,
    checkpoints: u64,
    conflict: Option<Conflict>,
}

/// The first published file that differs from what the entries lead to: it is bad, or the entries are.
struct Conflict {
    problem: Problem,
    /// The leaf that it is about, if one can be told.
    leaf: Option<u64>,
}

impl<'a, S: LogSource> Pass<'a, S> {
    /// Opens the newest checkpoint and lists the files.
    pub(super) fn begin(source: &'a S, options: &'a VerifyOptions) -> Result<Self, Problem> {
        let listing = Listing::read(source)?;
        let newest = unverified(&read(source, CHECKPOINT_PATH)?)
            .map_err(|error| Problem::file(CHECKPOINT_PATH, &error.to_string()))?;
        let (size, origin, entries) = (newest.size, newest.origin.as_str(), options.entries);
        let ahead = Ahead { listing: &listing, size, origin, entries };
        let mut keys = Keys::new(&options.keys);
        let checkpoint = keys.open(source, &ahead, CHECKPOINT_PATH)?;
        let newest = listing.checkpoints.last().copied().unwrap_or(0);
        let newest = options.pinned.as_ref().map_or(newest, |pinned| newest.max(pinned.size.0));
        if checkpoint.size.0 < newest {
            let reason = format!("size {} is behind {newest}", checkpoint.size);
            return Err(Problem::file(CHECKPOINT_PATH, &reason));
        }
        if let Some(cosigned) = listing.cosigned.last().filter(|last| **last > checkpoint.size.0) {
            let reason = format!("the log has only {} records", checkpoint.size);
            return Err(Problem::file(&format!("{COSIGNED_PREFIX}{cosigned}"), &reason));
        }
        if options.pinned.as_ref().is_some_and(|pinned| pinned.origin != checkpoint.origin) {
            let reason = "it is not of the origin of the pinned checkpoint";
            return Err(Problem::file(CHECKPOINT_PATH, reason));
        }
        Ok(Self {
            source,
            options,
            listing,
            keys,
            checkpoint,
            frontier: Frontier::new(),
            filling: Vec::new(),
            streams: StreamChecker::new(),
            tally: Tally::default(),
            checkpoints: 0,
            conflict: None,
        })
    }

    /// Checks everything.
    pub(super) fn run(mut self, progress: &mut dyn FnMut(Progress)) -> Result<Report, Problem> {
        let size = self.checkpoint.size;
        self.check_checkpoints()?;
        for bundle in 0..size.0.div_ceil(u64::from(TILE_WIDTH)) {
            self.check_bundle(bundle)?;
            progress(Progress { checked: self.frontier.size(), size });
        }
        for level in 0..self.filling.len() {
            self.check_tile(level, true)?;
        }
        self.conclude()
    }

    /// Checks bundle `index` in all its files, and what its entries lead to.
    fn check_bundle(&mut self, index: u64) -> Result<(), Problem> {
        let kind = TileKind::Entries;
        let files = self.listing.files(kind, index, self.checkpoint.size)?;
        let Some((widest, narrower)) = files.split_first() else { return Ok(()) };
        let bytes = self.read(widest)?;
        let bundle = Bundle::read(widest, &bytes);
        let first = index * u64::from(TILE_WIDTH);
        for file in narrower {
            if let Some(entry) = bundle.differs(&self.read(file)?, file.width()) {
                let reason = "the entry differs from the wider file of the same bundle";
                self.conflict(
                    Problem::at(&file.to_string(), first + entry, reason),
                    Some(first + entry),
                );
            }
        }
        let signed = width_at(kind, index, self.checkpoint.size).map_or(0, usize::from);
        let entries: Vec<&[u8]> = bundle.entries.iter().copied().take(signed).collect();
        let hashes: Vec<Hash> = entries.iter().map(|entry| leaf_hash(entry)).collect();
        self.compare_tile(0, index, &hashes)?;
        if let Some(fault) = bundle.fault {
            let entry = u64::try_from(bundle.entries.len()).unwrap_or(u64::MAX);
            let last = first + u64::from(widest.width()) - 1;
            return Err(self.bad_entry(widest, (first + entry).min(last), fault));
        }
        for ((leaf, entry), hash) in (first..).zip(&entries).zip(&hashes) {
            self.check_entry(entry, LeafIndex(leaf))
                .map_err(|reason| self.bad_entry(widest, leaf, &reason))?;
            self.grow(*hash)?;
        }
        Ok(())
    }

    /// Checks what an entry says about itself and its stream.
    fn check_entry(&mut self, entry: &[u8], index: LeafIndex) -> Result<(), String> {
        match self.options.entries {
            EntryFormat::Opaque => Ok(()),
            EntryFormat::Records => {
                let leaf = self.streams.check(entry).map_err(|error| error.to_string())?;
                self.keys.meet(&leaf, index.0, &self.checkpoint.origin)?;
                self.tally.add(leaf, index)
            }
        }
    }

    /// Names the bad entry: where it shows first, be it in a conflict with a tile before its content.
    fn bad_entry(&self, file: &TilePath, leaf: u64, reason: &str) -> Problem {
        match self.conflict.as_ref().and_then(|conflict| conflict.leaf) {
            Some(earlier) if earlier <= leaf => self.entry_problem(earlier, reason),
            Some(_) | None => Problem::at(&file.to_string(), leaf, reason),
        }
    }

    /// Names entry `leaf` in the file that was read for it.
    fn entry_problem(&self, leaf: u64, reason: &str) -> Problem {
        let bundle = leaf / u64::from(TILE_WIDTH);
        match self.listing.files(TileKind::Entries, bundle, self.checkpoint.size).as_deref() {
            Ok([widest, ..]) => Problem::at(&widest.to_string(), leaf, reason),
            Ok([]) | Err(_) => Problem::at(super::TILES_PREFIX, leaf, reason),
        }
    }

    /// Appends a leaf to the tree, and checks the tiles that it fills and the checkpoints of the new size.
    fn grow(&mut self, leaf: Hash) -> Result<(), Problem> {
        self.frontier.push(leaf);
        let (mut hash, mut level) = (leaf, 0);
        loop {
            if self.filling.len() == level {
                self.filling.push(Vec::new());
            }
            let Some(hashes) = self.filling.get_mut(level) else { break };
            hashes.push(hash);
            if hashes.len() < usize::from(TILE_WIDTH) {
                break;
            }
            let Some(root) = subtree_root(hashes.clone()) else { break };
            self.check_tile(level, false)?;
            (hash, level) = (root, level + 1);
        }
        self.check_checkpoints()
    }

    /// Checks the tile that was being filled on `level`, full or, `at_end` of the log, partial.
    fn check_tile(&mut self, level: usize, at_end: bool) -> Result<(), Problem> {
        let hashes = self.filling.get_mut(level).map(std::mem::take).unwrap_or_default();
        // Those of level 0 were compared with their bundle.
        let Some(level) = u8::try_from(level).ok().filter(|level| *level > 0) else {
            return Ok(());
        };
        if hashes.is_empty() {
            return Ok(());
        }
        let complete = self.frontier.size().0 >> (8 * u32::from(level));
        let index = complete / u64::from(TILE_WIDTH) - u64::from(!at_end);
        self.compare_tile(level, index, &hashes)
    }

    /// Compares every file of a tile with the tree's `hashes`.
    fn compare_tile(&mut self, level: u8, index: u64, hashes: &[Hash]) -> Result<(), Problem> {
        let kind = TileKind::Hashes(level);
        for file in self.listing.files(kind, index, self.checkpoint.size)? {
            if let Some(place) = tile_differs(&file, &self.read(&file)?, hashes) {
                let hash = index * u64::from(TILE_WIDTH) + place;
                let leaf = hash << (8 * u32::from(level));
                let reason = "the hash is not that of the entries below it";
                self.conflict(Problem::at(&file.to_string(), hash, reason), Some(leaf));
            }
        }
        Ok(())
    }

    /// Compares the root at the present size with the checkpoints of that size.
    fn check_checkpoints(&mut self) -> Result<(), Problem> {
        let size = self.frontier.size();
        let root = self.frontier.root();
        let pinned = self.options.pinned.as_ref().filter(|pinned| pinned.size == size);
        if pinned.is_some_and(|pinned| pinned.root != root) {
            let reason = format!("the log does not extend the pinned checkpoint of size {size}");
            self.conflict(Problem::file(CHECKPOINT_PATH, &reason), None);
        }
        if self.listing.checkpoints.contains(&size.0) {
            self.check_checkpoint(CHECKPOINTS_PREFIX, root)?;
            self.checkpoints += 1;
        }
        if self.listing.cosigned.contains(&size.0) {
            self.check_checkpoint(COSIGNED_PREFIX, root)?;
        }
        Ok(())
    }

    /// Checks the file of a checkpoint of the present size, whose root must be `root`.
    fn check_checkpoint(&mut self, prefix: &str, root: Hash) -> Result<(), Problem> {
        let size = self.frontier.size();
        let path = format!("{prefix}{size}");
        let Checkpoint { size: all, origin, .. } = &self.checkpoint;
        let (listing, entries) = (&self.listing, self.options.entries);
        let ahead = Ahead { listing, size: *all, origin, entries };
        let stored = self.keys.open(self.source, &ahead, &path)?;
        if stored.size != size || stored.origin != self.checkpoint.origin {
            return Err(Problem::file(&path, "it is of another size or log than its path says"));
        }
        if stored.root != root {
            let reason = "the entries up to its size do not have its root";
            self.conflict(Problem::file(&path, reason), None);
        }
        Ok(())
    }

    /// Keeps the first conflict, or the first that tells the leaf.
    fn conflict(&mut self, problem: Problem, leaf: Option<u64>) {
        let vague = self.conflict.as_ref().is_none_or(|kept| kept.leaf.is_none() && leaf.is_some());
        if vague {
            self.conflict = Some(Conflict { problem, leaf });
        }
    }

    /// Decides with the signed root which side of a conflict is bad.
    fn conclude(mut self) -> Result<Report, Problem> {
        let entries_hold = self.frontier.root() == self.checkpoint.root;
        match (entries_hold, self.conflict.take()) {
            (true, None) if !self.keys.agree() => {
                let reason = "its entries changed while they were read";
                Err(Problem::file(super::TILES_PREFIX, reason))
            }
            (true, None) => self.check_signer().map(|()| self.report()),
            (true, Some(conflict)) | (false, Some(conflict @ Conflict { leaf: None, .. })) => {
                Err(conflict.problem)
            }
            (false, Some(Conflict { leaf: Some(leaf), problem })) => {
                let reason = format!(
                    "the entries do not have the signed root; they part with `{}`",
                    problem.object
                );
                Err(self.entry_problem(leaf, &reason))
            }
            (false, None) => {
                let reason = "entries and tiles agree, but do not have the signed root";
                Err(Problem::file(CHECKPOINT_PATH, reason))
            }
        }
    }

    /// Checks again who signed the newest checkpoint, now that all `key` leaves are known.
    fn check_signer(&self) -> Result<(), Problem> {
        let note = read(self.source, CHECKPOINT_PATH)?;
        let counting = self.keys.counting_for(self.checkpoint.size);
        Checkpoint::open(&note, &counting).map(drop).map_err(|error| {
            let reason = format!("no key that was not replaced has signed it: {error}");
            Problem::file(CHECKPOINT_PATH, &reason)
        })
    }

    fn report(self) -> Report {
        Report {
            size: self.checkpoint.size,
            root: self.checkpoint.root,
            checkpoints: self.checkpoints,
            population: self.tally.population(),
            first_ms: self.tally.first_ms,
            last_ms: self.tally.last_ms,
            decisions_without_outcome: self.tally.decisions_without_outcome(),
            outcomes_without_decision: self.tally.outcomes_without_decision(),
            closes: self.tally.closes,
            gaps: self.tally.gaps,
            keys: self.keys.report(),
            unsigned: self.listing.past(self.checkpoint.size),
            origin: self.checkpoint.origin,
        }
    }

    /// Returns the keys that count for the newest checkpoint, which one of them must have signed.
    ///
    /// Looks for `key` leaves even if a given key signed it: another may sign beside it, and replace it.
    pub(super) fn current_keys(mut self) -> Result<Vec<VerifierKey>, Problem> {
        let Checkpoint { size, origin, .. } = &self.checkpoint;
        let (listing, entries) = (&self.listing, self.options.entries);
        self.keys.look_ahead(self.source, &Ahead { listing, size: *size, origin, entries })?;
        self.check_signer()?;
        Ok(self.keys.counting_for(*size))
    }

    fn read(&self, path: &TilePath) -> Result<Vec<u8>, Problem> {
        read(self.source, &path.to_string())
    }
}
