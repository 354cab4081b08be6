//! Limits of the control plane; each is checked before work is done.

use std::time::Duration;

/// Most bytes of a request body.
pub const BODY_BYTES_MAX: usize = 64 * 1024;

/// Longest wait for a request body.
pub const BODY_READ_TIMEOUT: Duration = Duration::from_secs(10);

/// Most bytes of a file of the published log: a bundle of 256 entries of 65,535 bytes each, with their
/// lengths (C2SP tlog-tiles).
pub const LOG_FILE_BYTES_MAX: u64 = 256 * (65_535 + 2);

/// Longest wait for an answer of the gateway: loading a bundle, asking a server for its tools.
pub const OPERATOR_TIMEOUT: Duration = Duration::from_secs(30);

/// Longest overlap of an agent's old and new key, in milliseconds: 90 days.
pub const OVERLAP_MS_MAX: u64 = 90 * 24 * 60 * 60 * 1_000;

/// Most bytes of an operator's reason.
pub const REASON_BYTES_MAX: usize = 2_000;

/// Longest name of an account of the operating system, in bytes.
pub const ACCOUNT_BYTES_MAX: usize = 256;

/// Records on a page unless the request says otherwise.
pub const PAGE_RECORDS: u32 = 100;

/// Most records on a page.
pub const PAGE_RECORDS_MAX: u32 = 1_000;

/// Most bytes of a query string.
pub const QUERY_BYTES_MAX: usize = 8 * 1024;

/// Named tokens that are kept, revoked ones included.
pub const TOKENS_MAX: usize = 1_000;

/// Longest name of a token, in bytes.
pub const TOKEN_NAME_BYTES_MAX: usize = 64;
