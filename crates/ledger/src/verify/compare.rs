//! Published bytes against what they should be.

use crate::hash::Hash;
use crate::tile::TilePath;

/// A bundle's bytes, taken apart as far as they go.
pub(super) struct Bundle<'a> {
    /// The entries that can be read, at most as many as the path promises.
    pub(super) entries: Vec<&'a [u8]>,
    /// Where each of them ends.
    ends: Vec<usize>,
    /// Why the rest cannot be read.
    pub(super) fault: Option<&'static str>,
    bytes: &'a [u8],
}

impl<'a> Bundle<'a> {
    /// Takes the bytes of `path` apart.
    pub(super) fn read(path: &TilePath, bytes: &'a [u8]) -> Self {
        let mut bundle = Self { entries: Vec::new(), ends: Vec::new(), fault: None, bytes };
        let mut rest = bytes;
        while bundle.entries.len() < usize::from(path.width()) {
            let Some((entry, after)) = crate::tile::split_entry(rest) else {
                bundle.fault = Some("the bundle ends before its last entry");
                return bundle;
            };
            rest = after;
            bundle.entries.push(entry);
            bundle.ends.push(bytes.len() - rest.len());
        }
        if !rest.is_empty() {
            bundle.fault = Some("the bundle goes on after its last entry");
        }
        bundle
    }

    /// Returns the first entry in which `other`, a narrower file of the same bundle with `width` entries,
    /// differs from this one.
    pub(super) fn differs(&self, other: &[u8], width: u16) -> Option<u64> {
        let end = self.ends.get(usize::from(width).checked_sub(1)?).copied()?;
        let place = first_difference(self.bytes.get(..end)?, other)?;
        let entry = self.ends.iter().position(|end| place < *end).unwrap_or(self.ends.len());
        Some(entry.min(usize::from(width) - 1)).and_then(|entry| u64::try_from(entry).ok())
    }
}

/// Returns the first hash in which the bytes of the tile `path` differ from the tree's `hashes`; those
/// past the end of `hashes` are not compared.
pub(super) fn tile_differs(path: &TilePath, bytes: &[u8], hashes: &[Hash]) -> Option<u64> {
    let mut published = bytes.chunks(32);
    let width = usize::from(path.width());
    let differing = hashes.iter().take(width).position(|hash| {
        let same = published.next() == Some(hash.as_bytes().as_slice());
        !same
    });
    let wrong_length = (bytes.len() != width * 32).then(|| (bytes.len() / 32).min(width - 1));
    differing.or(wrong_length).and_then(|place| u64::try_from(place).ok())
}

/// Returns the first place in which two byte strings differ, their lengths included.
fn first_difference(a: &[u8], b: &[u8]) -> Option<usize> {
    let differing = a.iter().zip(b).position(|(a, b)| a != b);
    differing.or_else(|| (a.len() != b.len()).then(|| a.len().min(b.len())))
}
