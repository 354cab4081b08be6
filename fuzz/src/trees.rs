//! Tile paths, bundles, proofs, and whole published logs.

use std::sync::LazyLock;

use countersign_ledger::limits::{ENTRY_BYTES_MAX, TILE_WIDTH};
use countersign_ledger::tile::{
    TileKind, bundles_for_growth, decode_bundle, encode_bundle, tiles_for_growth, width_at,
};
use countersign_ledger::verify::{EntryFormat, Report, VerifyOptions, verify_log};
use countersign_ledger::{TilePath, TlogProof, TreeSize};

use super::world::{KEYS, Log, OPAQUE, RECORDS, replacement};

/// The path of a tile: one spelling per tile, and a tree that has it.
pub(crate) fn tile_path(bytes: &[u8]) {
    let Ok(text) = str::from_utf8(bytes) else { return };
    let Ok(path) = TilePath::parse(text) else { return };
    assert_eq!(path.to_string(), text);
    assert_eq!(TilePath::new(path.kind(), path.index(), path.width()), Some(path));
    assert!((1..=TILE_WIDTH).contains(&path.width()));
    assert_eq!(path.is_full(), !text.contains(".p/"));
    // The smallest tree with this tile, if it has fewer than 2^64 leaves.
    let level = path.level().unwrap_or(0);
    let hashes = u128::from(path.index()) * u128::from(TILE_WIDTH) + u128::from(path.width());
    let size = hashes
        .checked_shl(8 * u32::from(level))
        .filter(|size| size >> (8 * level.min(15)) == hashes);
    let Some(size) = size.and_then(|size| u64::try_from(size).ok()) else { return };
    assert_eq!(width_at(path.kind(), path.index(), TreeSize(size)), Some(path.width()));
    let growth = (TreeSize(size - 1), TreeSize(size));
    let made = match path.kind() {
        TileKind::Entries => bundles_for_growth(growth.0, growth.1),
        TileKind::Hashes(_) => tiles_for_growth(growth.0, growth.1),
    };
    assert!(made.contains(&path));
}

/// An entry bundle: one spelling per list of entries.
pub(crate) fn bundle(bytes: &[u8]) {
    let Ok(entries) = decode_bundle(bytes) else { return };
    assert!(entries.len() <= usize::from(TILE_WIDTH));
    let too_large = entries.iter().any(|entry| entry.len() > ENTRY_BYTES_MAX);
    match encode_bundle(&entries) {
        Ok(encoded) => assert_eq!(encoded, bytes),
        Err(_) => assert!(too_large),
    }
}

/// A tlog-proof: one spelling, and nothing is proven that the log does not have.
pub(crate) fn tlog_proof(bytes: &[u8]) {
    let Ok(text) = str::from_utf8(bytes) else { return };
    let Ok(proof) = TlogProof::parse(text) else { return };
    assert_eq!(proof.to_string(), text);
    for (index, entry) in (0..).zip(&RECORDS.entries) {
        if let Ok(checkpoint) = proof.verify(entry, &KEYS) {
            assert_eq!(proof.index.0, index);
            assert_eq!(checkpoint, RECORDS.checkpoint_at(checkpoint.size.0));
        }
    }
}

/// The reports of both logs, unaltered.
static REPORTS: LazyLock<[Report; 2]> =
    LazyLock::new(|| [report(&RECORDS, true).unwrap(), report(&OPAQUE, false).unwrap()]);

/// A published log with one file replaced: it is refused, or is the log that was signed.
pub(crate) fn log(bytes: &[u8]) {
    let Some((choice, rest)) = bytes.split_first() else { return };
    let records = choice % 2 == 0;
    let good: &Log = if records { &RECORDS } else { &OPAQUE };
    let Some((path, content)) = replacement(&good.files, rest) else { return };
    let mut altered = good.clone();
    altered.files.insert(path.to_owned(), content.to_vec());
    if let Some(found) = report(&altered, records) {
        let [of_records, of_opaque] = &*REPORTS;
        assert_eq!(&found, if records { of_records } else { of_opaque });
        let same = good.files.get(path).is_some_and(|bytes| bytes == content);
        assert!(same || path.starts_with("checkpoint"), "{path} is not checked");
    }
}

fn report(log: &Log, records: bool) -> Option<Report> {
    let entries = if records { EntryFormat::Records } else { EntryFormat::Opaque };
    let options = VerifyOptions { keys: KEYS.clone(), entries, ..VerifyOptions::default() };
    verify_log(log, &options, &mut |_| {}).ok()
}
