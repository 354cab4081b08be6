//! Limits of what is read of a package, and of what one may ask for.

/// Largest manifest that is read, in bytes: a log of ten million records has about 80,000 files.
pub(crate) const MANIFEST_BYTES_MAX: u64 = 64 << 20;

/// Longest row that is read, in bytes: a leaf has at most 16 KiB, and a cell doubles each of its quotes.
pub(crate) const ROW_BYTES_MAX: u64 = 1 << 20;

/// Most records in a sample.
pub(crate) const SAMPLE_MAX: usize = 10_000;

/// Decoded bundles that are kept while rows look for their outcomes.
pub(crate) const BUNDLES_KEPT: usize = 64;
