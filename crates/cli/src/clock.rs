//! The only place that reads the system's clock and makes random ids.

use std::sync::Arc;

use countersign_store::{Clock, IdSource};
use uuid::Uuid;

/// The system's clock.
#[derive(Clone, Copy, Debug)]
pub(crate) struct SystemClock;

impl Clock for SystemClock {
    #[expect(clippy::disallowed_methods, reason = "this is the clock module")]
    fn now_ms(&self) -> i64 {
        let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
        // A clock before 1970 is as wrong as one that stands still; the ledger notices either.
        since.ok().and_then(|since| i64::try_from(since.as_millis()).ok()).unwrap_or(0)
    }
}

/// Makes `UUIDv7` ids.
#[expect(clippy::disallowed_methods, reason = "this is the source of ids")]
pub(crate) fn ids() -> IdSource {
    Arc::new(Uuid::now_v7)
}
