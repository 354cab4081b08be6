//! Paths of tiles and bundles.

use std::fmt;
use std::str::FromStr;

use super::TileError;
use crate::limits::TILE_WIDTH;

/// Highest level that a path can name (C2SP tlog-tiles).
const LEVEL_MAX: u8 = 63;

/// Longest path: that of an entry bundle with seven groups of digits and a width.
const PATH_BYTES_MAX: usize = 52;

/// What a tile holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum TileKind {
    /// Hashes of the subtrees of 256^level leaves.
    Hashes(u8),
    /// The entries under a tile of level 0.
    Entries,
}

/// The path of a tile or entry bundle below the log's prefix, as `tile/0/x001/x234/067.p/5` or
/// `tile/entries/000`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TilePath {
    kind: TileKind,
    index: u64,
    width: u16,
}

impl TilePath {
    /// Names tile `index` of `kind` with `width` hashes or entries; `None` if the width is not in
    /// 1..=256 or the level above 63.
    #[must_use]
    pub fn new(kind: TileKind, index: u64, width: u16) -> Option<Self> {
        let level_fits = !matches!(kind, TileKind::Hashes(level) if level > LEVEL_MAX);
        (level_fits && (1..=TILE_WIDTH).contains(&width)).then_some(Self { kind, index, width })
    }

    /// Names a hash tile; `None` as for [`TilePath::new`].
    #[must_use]
    pub fn hashes(level: u8, index: u64, width: u16) -> Option<Self> {
        Self::new(TileKind::Hashes(level), index, width)
    }

    /// Names an entry bundle; `None` as for [`TilePath::new`].
    #[must_use]
    pub fn entries(index: u64, width: u16) -> Option<Self> {
        Self::new(TileKind::Entries, index, width)
    }

    /// Reads a path.
    ///
    /// # Errors
    /// [`TileError::MalformedPath`] if it is not exactly as [`TilePath`] writes it.
    pub fn parse(text: &str) -> Result<Self, TileError> {
        let malformed = || TileError::MalformedPath(text.chars().take(PATH_BYTES_MAX).collect());
        let path = Self::parse_parts(text).ok_or_else(malformed)?;
        // One spelling per tile: leading groups of zeros and the like do not come back equal.
        if path.to_string() == text { Ok(path) } else { Err(malformed()) }
    }

    fn parse_parts(text: &str) -> Option<Self> {
        if text.len() > PATH_BYTES_MAX {
            return None;
        }
        let (level, rest) = text.strip_prefix("tile/")?.split_once('/')?;
        let kind = match level {
            "entries" => TileKind::Entries,
            level => TileKind::Hashes(level.parse().ok()?),
        };
        let (number, width) = match rest.split_once(".p/") {
            Some((number, width)) => (number, width.parse().ok().filter(|w| *w < TILE_WIDTH)?),
            None => (rest, TILE_WIDTH),
        };
        let index = number.split('/').try_fold(0_u64, |index, group| {
            let digits = group.strip_prefix('x').unwrap_or(group);
            index.checked_mul(1000)?.checked_add(digits.parse().ok()?)
        })?;
        Self::new(kind, index, width)
    }

    /// Returns what the tile holds.
    #[must_use]
    pub fn kind(&self) -> TileKind {
        self.kind
    }

    /// Returns the tile's position on its level.
    #[must_use]
    pub fn index(&self) -> u64 {
        self.index
    }

    /// Returns the number of hashes or entries, 1 to 256.
    #[must_use]
    pub fn width(&self) -> u16 {
        self.width
    }

    /// Returns the level of a hash tile, `None` for a bundle.
    #[must_use]
    pub fn level(&self) -> Option<u8> {
        match self.kind {
            TileKind::Hashes(level) => Some(level),
            TileKind::Entries => None,
        }
    }

    /// Returns whether the tile is full, so that it will never change.
    #[must_use]
    pub fn is_full(&self) -> bool {
        self.width == TILE_WIDTH
    }
}

impl fmt::Display for TilePath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.kind {
            TileKind::Hashes(level) => write!(f, "tile/{level}")?,
            TileKind::Entries => write!(f, "tile/entries")?,
        }
        let mut groups = vec![self.index % 1000];
        let mut rest = self.index / 1000;
        while rest > 0 {
            groups.push(rest % 1000);
            rest /= 1000;
        }
        let last = groups.len() - 1;
        for (place, group) in groups.iter().rev().enumerate() {
            write!(f, "/{}{group:03}", if place < last { "x" } else { "" })?;
        }
        if self.is_full() { Ok(()) } else { write!(f, ".p/{}", self.width) }
    }
}

impl FromStr for TilePath {
    type Err = TileError;

    fn from_str(text: &str) -> Result<Self, TileError> {
        Self::parse(text)
    }
}
