//! Tiles and entry bundles, the published form of a log (C2SP tlog-tiles).

mod bundle;
mod path;
mod reader;

pub(crate) use bundle::split_entry;
pub use bundle::{decode_bundle, encode_bundle};
pub use path::{TileKind, TilePath};
pub(crate) use reader::subtree_root;
pub use reader::{TileHashReader, TileReader, tile_bytes};

use crate::hash::Hash;
use crate::limits::TILE_WIDTH;
use crate::tree::{TreeError, TreeSize};

/// Levels of hash tiles that a tree of 2^64 leaves has.
const LEVELS: u8 = 8;

/// Why a tile, a bundle or a path cannot be read or written.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TileError {
    /// The text is no tile path.
    #[error("`{0}` is not a tile path")]
    MalformedPath(String),
    /// The tile does not have 32 bytes per hash of its width.
    #[error("a tile of width {width} has {found} bytes, expected {expected}")]
    WrongTileLength {
        /// Hashes that its path promises.
        width: u16,
        /// Bytes found.
        found: usize,
        /// Bytes expected.
        expected: usize,
    },
    /// The entry is larger than we write.
    #[error("an entry has {found} bytes, at most {limit} are allowed")]
    EntryTooLarge {
        /// Its length.
        found: usize,
        /// The limit.
        limit: usize,
    },
    /// The bundle has more entries than a full one.
    #[error("a bundle has more than {TILE_WIDTH} entries")]
    TooManyEntries,
    /// The bundle ends inside an entry.
    #[error("the bundle ends inside entry {entry}")]
    TruncatedBundle {
        /// The entry's position in the bundle.
        entry: usize,
    },
    /// The path names a bundle where a hash tile is asked for.
    #[error("`{0}` is not a hash tile")]
    NotHashes(String),
    /// A hash of the tile is not known.
    #[error(transparent)]
    Tree(#[from] TreeError),
}

/// Returns the hash tiles, full and partial, of all levels that growing from `old` to `new` creates,
/// lowest level first; none if the log does not grow.
///
/// Partial tiles of sizes in between are left out: they were never published.
#[must_use]
pub fn tiles_for_growth(old: TreeSize, new: TreeSize) -> Vec<TilePath> {
    let mut tiles = Vec::new();
    for level in 0..LEVELS {
        let (before, after) = (old.0 >> (8 * level), new.0 >> (8 * level));
        push_growth(&mut tiles, TileKind::Hashes(level), before, after);
    }
    tiles
}

/// Returns the entry bundles, full and partial, that growing from `old` to `new` creates.
#[must_use]
pub fn bundles_for_growth(old: TreeSize, new: TreeSize) -> Vec<TilePath> {
    let mut bundles = Vec::new();
    push_growth(&mut bundles, TileKind::Entries, old.0, new.0);
    bundles
}

/// Returns the width that tile `index` of `kind` has in a tree of `size` leaves; `None` if it has none.
#[must_use]
pub fn width_at(kind: TileKind, index: u64, size: TreeSize) -> Option<u16> {
    let level = match kind {
        TileKind::Entries => 0,
        TileKind::Hashes(level) => level,
    };
    let hashes = size.0.checked_shr(8 * u32::from(level)).unwrap_or(0);
    let rest = hashes.saturating_sub(index.checked_mul(u64::from(TILE_WIDTH))?);
    u16::try_from(rest.min(u64::from(TILE_WIDTH))).ok().filter(|width| *width > 0)
}

/// Splits the bytes of the hash tile `path` into its hashes.
///
/// # Errors
/// [`TileError::WrongTileLength`] if there are not 32 bytes per hash.
pub fn decode_tile(path: &TilePath, bytes: &[u8]) -> Result<Vec<Hash>, TileError> {
    let expected = usize::from(path.width()) * 32;
    if bytes.len() != expected {
        let (width, found) = (path.width(), bytes.len());
        return Err(TileError::WrongTileLength { width, found, expected });
    }
    Ok(bytes.chunks_exact(32).filter_map(Hash::from_slice).collect())
}

/// Adds the tiles of one level whose `before` hashes become `after`.
fn push_growth(tiles: &mut Vec<TilePath>, kind: TileKind, before: u64, after: u64) {
    if after <= before {
        return;
    }
    let width = u64::from(TILE_WIDTH);
    let full = (before / width..after / width).filter_map(|n| TilePath::new(kind, n, TILE_WIDTH));
    tiles.extend(full);
    let rest = u16::try_from(after % width).unwrap_or(0);
    tiles.extend(TilePath::new(kind, after / width, rest));
}

#[cfg(test)]
mod tests;
