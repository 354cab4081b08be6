//! Limits of what this crate reads and writes; each is checked before decoding.

/// Largest entry we write, in bytes.
pub const ENTRY_BYTES_MAX: usize = 16 * 1024;

/// Largest entry a bundle can hold, in bytes: its length is a `u16` (C2SP tlog-tiles).
pub const BUNDLE_ENTRY_BYTES_MAX: usize = 65_535;

/// Hashes in a full tile, and entries in a full bundle (C2SP tlog-tiles).
pub const TILE_WIDTH: u16 = 256;

/// Largest signed note we read, in bytes.
pub const NOTE_BYTES_MAX: usize = 256 * 1024;

/// Most signature lines in one note; signed-note asks for at least 16.
pub const NOTE_SIGNATURES_MAX: usize = 64;

/// Most hashes in one proof: a tree of 2^64 leaves needs no more (C2SP tlog-witness says 63).
pub const PROOF_HASHES_MAX: usize = 64;

/// Largest tlog-proof we read, in bytes.
pub const PROOF_BYTES_MAX: usize = NOTE_BYTES_MAX + 64 * 1024;

/// Largest value that a disclosure holds, in bytes of JSON; larger ones are stored apart.
pub const DISCLOSED_VALUE_BYTES_MAX: usize = 64 * 1024;

/// Largest encoded disclosure, in bytes: the value in base64url with salt and name.
pub const DISCLOSURE_BYTES_MAX: usize = 96 * 1024;

/// Most disclosures in one section.
pub const SECTION_DISCLOSURES_MAX: usize = 1024;

/// Smallest and largest integer of a leaf: those that a double holds exactly, ±(2^53 − 1).
pub const INTEGER_MAX: u64 = (1 << 53) - 1;

/// Most replacements of its signing key that one log has.
pub const KEY_LEAVES_MAX: usize = 1024;

/// Most streams `(tenant, replica, epoch)` that one check follows.
pub const STREAMS_MAX: usize = 1 << 20;
