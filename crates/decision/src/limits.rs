//! Limits of a bundle, checked before its files are decoded.

/// How many files a bundle may have.
pub const BUNDLE_FILES_MAX: usize = 10_000;
/// Length limit of one file of a bundle, in bytes.
pub const BUNDLE_FILE_BYTES_MAX: usize = 4 << 20;
/// How many policies a bundle may have.
pub const POLICIES_MAX: usize = 20_000;
/// Length limit of a policy's `@id` or `@approval`, in bytes: both stand in records.
pub const POLICY_ID_BYTES_MAX: usize = 128;
/// Length limit of a policy's `@reason`, in bytes: callers are shown it.
pub const REASON_BYTES_MAX: usize = 512;
/// How many tools one server may have pinned.
pub const SERVER_TOOLS_MAX: usize = 2_000;
/// How deep a tool's input schema may nest.
pub const SCHEMA_DEPTH_MAX: usize = 64;
/// How many JSON values a tool's input schema may consist of.
pub const SCHEMA_VALUES_MAX: usize = 20_000;
/// How deep the typed arguments of a tool nest; what lies deeper is left out.
pub const ARGUMENT_TYPE_DEPTH_MAX: usize = 16;
/// Backtracking steps of one `pattern` of an input schema before the arguments are refused.
pub const PATTERN_BACKTRACK_MAX: usize = 100_000;
/// Size limit of one compiled `pattern`, in bytes.
pub const PATTERN_BYTES_MAX: usize = 1 << 20;
