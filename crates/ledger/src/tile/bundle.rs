//! Entry bundles: up to 256 entries, each after its length (C2SP tlog-tiles).

use super::TileError;
use crate::limits::{ENTRY_BYTES_MAX, TILE_WIDTH};

/// Encodes `entries` as a sequence of `u16be length ‖ entry`.
///
/// # Errors
/// [`TileError::EntryTooLarge`] above [`ENTRY_BYTES_MAX`]; [`TileError::TooManyEntries`] above 256.
pub fn encode_bundle<E: AsRef<[u8]>>(
    entries: impl IntoIterator<Item = E>,
) -> Result<Vec<u8>, TileError> {
    let mut bundle = Vec::new();
    for (position, entry) in entries.into_iter().enumerate() {
        let entry = entry.as_ref();
        let too_large = TileError::EntryTooLarge { found: entry.len(), limit: ENTRY_BYTES_MAX };
        if position >= usize::from(TILE_WIDTH) {
            return Err(TileError::TooManyEntries);
        }
        if entry.len() > ENTRY_BYTES_MAX {
            return Err(too_large);
        }
        let length = u16::try_from(entry.len()).map_err(|_| too_large)?;
        bundle.extend_from_slice(&length.to_be_bytes());
        bundle.extend_from_slice(entry);
    }
    Ok(bundle)
}

/// Splits a bundle into its entries, of any length that the format allows.
///
/// # Errors
/// [`TileError::TruncatedBundle`] if it ends inside an entry; [`TileError::TooManyEntries`] above 256.
pub fn decode_bundle(bundle: &[u8]) -> Result<Vec<&[u8]>, TileError> {
    let mut entries = Vec::new();
    let mut rest = bundle;
    while !rest.is_empty() {
        if entries.len() >= usize::from(TILE_WIDTH) {
            return Err(TileError::TooManyEntries);
        }
        let (entry, after) =
            split_entry(rest).ok_or(TileError::TruncatedBundle { entry: entries.len() })?;
        entries.push(entry);
        rest = after;
    }
    Ok(entries)
}

/// Splits off the first entry, `None` if the bytes end before it does.
pub(crate) fn split_entry(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let (length, rest) = bytes.split_first_chunk::<2>()?;
    rest.split_at_checked(usize::from(u16::from_be_bytes(*length)))
}
