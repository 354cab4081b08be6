//! Every limit of the data plane, by name.

use std::time::Duration;

/// Size limit of a request body or stdio line, in bytes.
pub const BODY_BYTES_MAX: usize = 4 << 20;
/// Deadline for reading a request body.
pub const BODY_READ_TIMEOUT: Duration = Duration::from_secs(30);
/// Legacy sessions that one agent may hold open.
pub const SESSIONS_PER_AGENT_MAX: usize = 1_024;
/// Legacy sessions that the gateway holds open.
pub const SESSIONS_MAX: usize = 16_384;
/// A legacy session that nobody used for this long is closed.
pub const SESSION_IDLE: Duration = Duration::from_secs(30 * 60);
/// Messages to a client that may wait on one stream before the sender waits.
pub const STREAM_QUEUE: usize = 64;
/// How long a call waits for the client's answer to a server's question.
pub const INPUT_TIMEOUT: Duration = Duration::from_secs(10 * 60);
/// Calls that may wait for a client's answer at the same time.
pub const PARKED_MAX: usize = 4_096;
/// Questions that a server may ask within one call.
pub const INPUT_ROUNDS_MAX: u32 = 8;
/// How long a repeat with the same idempotency key waits for the first call to end.
pub const IN_FLIGHT_WAIT: Duration = Duration::from_secs(25);
/// Repeats of a call whose key is derived count as the same call within this time, in milliseconds.
pub const DERIVED_WINDOW_MS: i64 = 60_000;
/// Length limit of an idempotency key, in bytes.
pub const IDEMPOTENCY_KEY_BYTES_MAX: usize = 256;
/// How long a cancelled call waits for the upstream to end before its outcome is called unknown.
pub const CANCEL_GRACE: Duration = Duration::from_secs(10);
/// Pause between two keep-alive comments on an event stream.
pub const KEEP_ALIVE: Duration = Duration::from_secs(15);
/// Pages of one upstream list that are read before it is called endless.
pub const LIST_PAGES_MAX: usize = 100;
/// Tools that one server may offer.
pub const TOOLS_PER_SERVER_MAX: usize = 1_000;
/// How long a federated list waits for one server before it leaves that server out.
pub const LIST_SERVER_TIMEOUT: Duration = Duration::from_secs(10);
/// Pause between two comparisons of a server's live tools with their pins.
pub const PIN_CHECK_INTERVAL: Duration = Duration::from_secs(300);
/// Pause before a server that could not be reached is tried again.
pub const PIN_RETRY_INTERVAL: Duration = Duration::from_secs(10);
/// Length limit of an identity claim that is kept in an `auth` record, in bytes.
pub const CLAIM_BYTES_MAX: usize = 256;
/// Time that running calls have to end when the gateway stops.
pub const SHUTDOWN_GRACE: Duration = Duration::from_secs(10);
/// How long a server has to acknowledge a subscription.
pub const SUBSCRIBE_TIMEOUT: Duration = Duration::from_secs(10);
/// Resource URIs that one subscription may name, and that one legacy session may subscribe to at
/// servers of the stateless era.
pub const SUBSCRIBED_URIS_MAX: usize = 256;
