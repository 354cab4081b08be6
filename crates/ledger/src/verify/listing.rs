//! What is published: the files of a log by what they hold.

use std::collections::{BTreeMap, BTreeSet};

use super::{CHECKPOINTS_PREFIX, COSIGNED_PREFIX, LogSource, Problem, TILES_PREFIX};
use crate::checkpoint::parse_decimal;
use crate::limits::TILE_WIDTH;
use crate::tile::{TileKind, TilePath, width_at};
use crate::tree::TreeSize;

/// The files of a log.
pub(super) struct Listing {
    /// The published widths of each tile and bundle.
    widths: BTreeMap<(TileKind, u64), BTreeSet<u16>>,
    /// The sizes of the stored checkpoints.
    pub(super) checkpoints: BTreeSet<u64>,
    /// The sizes of those that witnesses cosigned.
    pub(super) cosigned: BTreeSet<u64>,
}

impl Listing {
    /// Lists the files of `source`; a file that should not be there is a problem.
    pub(super) fn read<S: LogSource>(source: &S) -> Result<Self, Problem> {
        let mut widths: BTreeMap<_, BTreeSet<_>> = BTreeMap::new();
        let list =
            |prefix| source.list(prefix).map_err(|error| Problem::file(prefix, &error.to_string()));
        for path in list(TILES_PREFIX)? {
            let tile =
                TilePath::parse(&path).map_err(|error| Problem::file(&path, &error.to_string()))?;
            widths.entry((tile.kind(), tile.index())).or_default().insert(tile.width());
        }
        let sizes = |prefix| -> Result<BTreeSet<u64>, Problem> {
            let size = |path: &String| {
                let size = path.strip_prefix(prefix).and_then(parse_decimal);
                size.ok_or_else(|| Problem::file(path, "its name is not a tree size"))
            };
            list(prefix)?.iter().map(size).collect()
        };
        let (checkpoints, cosigned) = (sizes(CHECKPOINTS_PREFIX)?, sizes(COSIGNED_PREFIX)?);
        Ok(Self { widths, checkpoints, cosigned })
    }

    /// Returns the published files of a tile that the tree of `size` leaves has, widest first.
    pub(super) fn files(
        &self,
        kind: TileKind,
        index: u64,
        size: TreeSize,
    ) -> Result<Vec<TilePath>, Problem> {
        let needed = width_at(kind, index, size).unwrap_or(TILE_WIDTH);
        let widths = self.widths.get(&(kind, index)).into_iter().flatten().rev();
        let files: Vec<_> = widths.filter_map(|w| TilePath::new(kind, index, *w)).collect();
        if files.first().is_some_and(|widest| widest.width() >= needed) {
            return Ok(files);
        }
        let missing = TilePath::new(kind, index, needed).map(|path| path.to_string());
        Err(Problem::file(&missing.unwrap_or_default(), "the file is missing"))
    }

    /// Returns the files that reach past the first `size` leaves.
    pub(super) fn past(&self, size: TreeSize) -> Vec<String> {
        let mut past = Vec::new();
        for ((kind, index), widths) in &self.widths {
            let signed = width_at(*kind, *index, size).unwrap_or(0);
            let wider = widths.iter().filter(|width| **width > signed);
            past.extend(wider.filter_map(|w| TilePath::new(*kind, *index, *w)));
        }
        past.iter().map(TilePath::to_string).collect()
    }
}
