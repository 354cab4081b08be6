//! Tree hashes out of tiles, and tiles out of tree hashes.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::fmt;

use super::{TileError, TileKind, TilePath, decode_tile, width_at};
use crate::hash::{Hash, node_hash};
use crate::limits::TILE_WIDTH;
use crate::tree::{HashReader, TreeError, TreeSize};

/// Reads published tiles; the bytes are not trusted.
pub trait TileReader {
    /// Why a tile could not be read.
    type Error;

    /// Returns the bytes of the tile at `path`, `None` if it does not exist.
    ///
    /// # Errors
    /// The reader's own, if it cannot tell.
    fn tile(&self, path: &TilePath) -> Result<Option<Vec<u8>>, Self::Error>;
}

/// Reads tree hashes from the tiles of a tree of a known size, each tile once.
///
/// The hashes are as good as the tiles: check what is computed from them against a signed root.
pub struct TileHashReader<T> {
    tiles: T,
    size: TreeSize,
    cache: RefCell<BTreeMap<TilePath, Vec<Hash>>>,
}

impl<T: TileReader> TileHashReader<T> {
    /// Reads the tiles that the tree of `size` leaves has.
    #[must_use]
    pub fn new(tiles: T, size: TreeSize) -> Self {
        Self { tiles, size, cache: RefCell::default() }
    }

    /// Returns the hashes `from..to` of a tile; `None` if they cannot be had.
    fn hashes(&self, path: TilePath, from: usize, to: usize) -> Option<Vec<Hash>> {
        if let Some(tile) = self.cache.borrow().get(&path) {
            return tile.get(from..to).map(<[Hash]>::to_vec);
        }
        let bytes = self.tiles.tile(&path).ok()??;
        let tile = decode_tile(&path, &bytes).ok()?;
        let hashes = tile.get(from..to).map(<[Hash]>::to_vec);
        self.cache.borrow_mut().insert(path, tile);
        hashes
    }
}

impl<T: TileReader> HashReader for TileHashReader<T> {
    fn node(&self, level: u8, index: u64) -> Option<Hash> {
        let (tile_level, height) = (level / 8, level % 8);
        let first = index.checked_shl(u32::from(height)).filter(|f| f >> height == index)?;
        let kind = TileKind::Hashes(tile_level);
        let tile_index = first / u64::from(TILE_WIDTH);
        let width = width_at(kind, tile_index, self.size)?;
        let from = usize::try_from(first % u64::from(TILE_WIDTH)).ok()?;
        let path = TilePath::new(kind, tile_index, width)?;
        subtree_root(self.hashes(path, from, from + (1 << height))?)
    }
}

impl<T> fmt::Debug for TileHashReader<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TileHashReader").field("size", &self.size).finish_non_exhaustive()
    }
}

/// Returns the root over `hashes`, a power of two of them; `None` if there are none.
pub(crate) fn subtree_root(mut hashes: Vec<Hash>) -> Option<Hash> {
    while hashes.len() > 1 {
        hashes = hashes.as_chunks().0.iter().map(|[left, right]| node_hash(left, right)).collect();
    }
    hashes.first().copied()
}

/// Returns the bytes of the hash tile `path` from tree hashes.
///
/// # Errors
/// [`TileError::NotHashes`] for a bundle; [`TileError::Tree`] if `reader` lacks a hash.
pub fn tile_bytes<R: HashReader>(reader: &R, path: &TilePath) -> Result<Vec<u8>, TileError> {
    let level = path.level().ok_or_else(|| TileError::NotHashes(path.to_string()))?;
    let first = path.index().saturating_mul(u64::from(TILE_WIDTH));
    let mut bytes = Vec::with_capacity(usize::from(path.width()) * 32);
    for index in (first..).take(usize::from(path.width())) {
        let level = level.saturating_mul(8);
        let hash = reader.node(level, index).ok_or(TreeError::MissingNode { level, index })?;
        bytes.extend_from_slice(&hash.0);
    }
    Ok(bytes)
}
