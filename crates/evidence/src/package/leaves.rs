//! The entries of a published log, bundle by bundle.

use std::collections::HashMap;

use countersign_ledger::limits::TILE_WIDTH;
use countersign_ledger::tile::{TileKind, TilePath, TileReader, decode_bundle, width_at};
use countersign_ledger::verify::{LogSource, SourceError};
use countersign_ledger::{LeafIndex, TreeSize};

use super::PackageError;
use super::limits::BUNDLES_KEPT;
use crate::Record;

/// The entries of the tree of one size.
pub(crate) struct Leaves<'a, S> {
    source: &'a S,
    size: TreeSize,
    kept: HashMap<u64, Vec<Vec<u8>>>,
}

impl<'a, S: LogSource> Leaves<'a, S> {
    pub(crate) fn new(source: &'a S, size: TreeSize) -> Self {
        Self { source, size, kept: HashMap::new() }
    }

    /// Returns how many bundles there are.
    pub(crate) fn bundles(&self) -> u64 {
        self.size.0.div_ceil(u64::from(TILE_WIDTH))
    }

    /// Reads the entries of a bundle, as many as the tree has.
    pub(crate) fn bundle(&self, index: u64) -> Result<Vec<Vec<u8>>, PackageError> {
        let width = width_at(TileKind::Entries, index, self.size).unwrap_or(0);
        let Some(path) = TilePath::entries(index, width) else { return Ok(Vec::new()) };
        let missing = || PackageError::Unsound(format!("`{path}` is missing or too short"));
        let bytes = self.source.read(&path.to_string())?.ok_or_else(missing)?;
        let entries = decode_bundle(&bytes)
            .map_err(|error| PackageError::Unsound(format!("`{path}`: {error}")))?;
        if entries.len() != usize::from(width) {
            return Err(missing());
        }
        Ok(entries.into_iter().map(<[u8]>::to_vec).collect())
    }

    /// Reads one record; its bundle is kept for those around it.
    pub(crate) fn record(&mut self, index: LeafIndex) -> Result<Record, PackageError> {
        let (bundle, place) = (index.0 / u64::from(TILE_WIDTH), index.0 % u64::from(TILE_WIDTH));
        if !self.kept.contains_key(&bundle) {
            if self.kept.len() >= BUNDLES_KEPT {
                self.kept.clear();
            }
            self.kept.insert(bundle, self.bundle(bundle)?);
        }
        let entries = self.kept.get(&bundle).zip(usize::try_from(place).ok());
        let entry = entries.and_then(|(entries, place)| entries.get(place));
        let missing = || PackageError::Unsound(format!("there is no leaf {index}"));
        Ok(Record::parse(index.0, entry.ok_or_else(missing)?.clone())?)
    }
}

/// The hash tiles of a log.
pub(crate) struct Tiles<'a, S>(pub(crate) &'a S);

impl<S: LogSource> TileReader for Tiles<'_, S> {
    type Error = SourceError;

    fn tile(&self, path: &TilePath) -> Result<Option<Vec<u8>>, SourceError> {
        self.0.read(&path.to_string())
    }
}
