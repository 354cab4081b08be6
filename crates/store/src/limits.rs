//! Limits of the store; each is checked before work is done.

/// Most records in one transaction.
pub const BATCH_RECORDS_MAX: usize = 256;

/// Records that may wait for the writer; more are refused.
pub const QUEUE_RECORDS_MAX: usize = 4_096;

/// Default time that a caller waits for its commit, in milliseconds.
pub const COMMIT_DEADLINE_MS: u64 = 2_000;

/// How long PostgreSQL may take for one batch before its connection is given up, in milliseconds:
/// longer than callers wait, shorter than they would be without a ledger after a failover.
pub const COMMIT_GIVEN_UP_MS: u64 = 10_000;

/// Default silence of a gateway after which it records a heartbeat, in milliseconds.
pub const HEARTBEAT_MS: u64 = 60_000;

/// How often an idle gateway tells others that it is alive, in milliseconds.
pub const STREAM_BEAT_MS: u64 = 1_000;

/// Bytes of a leaf that the ledger itself adds in the writer: `gw` and `time`.
pub const LEAF_PLACE_BYTES_MAX: usize = 400;

/// Largest private value that is disclosed as such, in bytes of JSON; larger ones become blobs.
pub const DISCLOSED_VALUE_BYTES_MAX: usize = 64 * 1024;

/// Longest idempotency key, in bytes.
pub const IDEMPOTENCY_KEY_BYTES_MAX: usize = 256;

/// How long the result of a call is kept for replay, in milliseconds.
pub const RESULT_KEPT_MS: i64 = 24 * 60 * 60 * 1_000;

/// A clock that steps back further than this is recorded as a detection, in milliseconds.
pub const CLOCK_STEP_MS: i64 = 1_000;

/// Days of a log without a close after which its clock is not believed, and nothing is purged by age.
pub const CLOCK_GAP_DAYS: u32 = 31;

/// Bytes written after which the writer moves the write-ahead log into the database. Callers wait
/// meanwhile: little and often keeps that wait to a few milliseconds.
pub const WAL_PASSIVE_BYTES: usize = 4 * 1024 * 1024;

/// Bytes of write-ahead log that a commit takes besides its records: some eight pages of tables and
/// indexes that it touches.
pub const WAL_COMMIT_BYTES: usize = 32 * 1024;

/// Pages of write-ahead log above which it is also truncated (64 MiB at 4 KiB each).
pub const WAL_TRUNCATE_PAGES: i64 = 16 * 1024;

/// Most bytes in the files of one bundle.
pub const BUNDLE_BYTES_MAX: usize = 16 * 1024 * 1024;

/// Most bytes of a presented credential.
pub const CREDENTIAL_BYTES_MAX: usize = 256;

/// Most records that one query returns.
pub const QUERY_RECORDS_MAX: u32 = 1_000;

/// Records of one stream that one transaction of the sequencer orders.
pub const SEQUENCED_RECORDS_MAX: i64 = 4_096;

/// How often the sequencer renews its lease when nothing is to be ordered, in milliseconds.
pub const LEASE_RENEWED_MS: u64 = 1_000;
