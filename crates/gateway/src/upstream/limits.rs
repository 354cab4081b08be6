//! Limits of connections to upstream servers.

use std::time::Duration;

/// How long a stdio child may take to answer `server/discover` before `initialize` is sent too:
/// some legacy servers never answer what they do not know.
pub const DISCOVER_TIMEOUT: Duration = Duration::from_secs(1);
/// How long opening a session may take in all.
pub const OPEN_TIMEOUT: Duration = Duration::from_secs(30);
/// How long a closed child may take to exit before it is killed.
pub const CHILD_EXIT_GRACE: Duration = Duration::from_secs(2);
/// How long ending an HTTP session or sending a cancellation may take.
pub const GOODBYE_TIMEOUT: Duration = Duration::from_secs(2);
/// Sessions without a call for this long are closed.
pub const SESSION_IDLE_MAX: Duration = Duration::from_mins(10);
/// How often idle sessions are looked for.
pub const IDLE_SWEEP_INTERVAL: Duration = Duration::from_secs(30);
/// Default limit of open sessions with one server.
pub const SESSIONS_MAX: usize = 256;
/// Default limit of calls in flight with one server.
pub const CALLS_MAX: usize = 1024;
/// How long the answer to `server/discover` of an HTTP server is used for new sessions.
pub const DISCOVERY_AGE_MAX: Duration = Duration::from_mins(5);

/// First wait before a crashed child is started again; doubles with every crash.
pub const RESTART_DELAY_MIN: Duration = Duration::from_millis(250);
/// Longest wait before a crashed child is started again.
pub const RESTART_DELAY_MAX: Duration = Duration::from_secs(30);
/// A child that lived this long starts again without memory of earlier crashes.
pub const STABLE_AFTER: Duration = Duration::from_mins(1);

/// Messages that wait for one exchange's reader; one more place is kept for the answer.
pub const EXCHANGE_QUEUE_MAX: usize = 64;
/// Session-level messages that wait for one subscriber; older ones are dropped.
pub const EVENT_QUEUE_MAX: usize = 128;
/// Lines that wait for a child's standard input.
pub const LINE_QUEUE_MAX: usize = 64;

/// Room for the envelope around a result, in bytes.
pub const ENVELOPE_BYTES_MAX: usize = 4 << 10;
/// Size limit of the body of a refusal (status 400 and above), in bytes.
pub const ERROR_BODY_BYTES_MAX: usize = 64 << 10;
/// Length limit of one logged line of a child's standard error, in bytes.
pub const STDERR_LINE_BYTES_MAX: usize = 2 << 10;
/// Limit of a child's standard error that is logged, in bytes; the rest is dropped.
pub const STDERR_BYTES_MAX: usize = 1 << 20;

/// Wait before a broken legacy stream is resumed, unless the server says another one.
pub const RESUME_DELAY: Duration = Duration::from_secs(1);
/// Longest wait before a resumption that a server may ask for.
pub const RESUME_DELAY_MAX: Duration = Duration::from_secs(30);
/// Failed resumptions in a row before a stream is given up.
pub const RESUME_ATTEMPTS_MAX: u32 = 3;
/// Idle time after which a pooled connection is closed.
pub const POOL_IDLE_MAX: Duration = Duration::from_secs(60);
