//! Time and ids: both are handed in, so that tests and replays are reproducible.

use std::sync::Arc;

use uuid::Uuid;

use crate::limits::CLOCK_STEP_MS;

/// Tells the time.
pub trait Clock: Send + Sync {
    /// Returns milliseconds since the Unix epoch, UTC.
    fn now_ms(&self) -> i64;
}

/// Makes record ids: `UUIDv7` in production.
pub type IdSource = Arc<dyn Fn() -> Uuid + Send + Sync>;

/// A hybrid logical time: it never goes back, whatever the clock does.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Hlc {
    pub(crate) ms: i64,
    pub(crate) n: u64,
}

impl Hlc {
    /// Returns the time after `self` when the clock says `now`.
    pub(crate) fn next(self, now: i64) -> Self {
        if now > self.ms { Self { ms: now, n: 0 } } else { Self { ms: self.ms, n: self.n + 1 } }
    }
}

/// Returns by how much a clock stepped back between two readings, if that is worth a record.
pub(crate) fn step_back(before_ms: i64, now_ms: i64) -> Option<i64> {
    let back = before_ms.saturating_sub(now_ms);
    (back > CLOCK_STEP_MS).then_some(back)
}

#[cfg(test)]
mod tests {
    use super::{Hlc, step_back};

    #[test]
    fn time_never_goes_back() {
        let start = Hlc { ms: 1_000, n: 4 };
        assert_eq!(start.next(1_001), Hlc { ms: 1_001, n: 0 });
        assert_eq!(start.next(1_000), Hlc { ms: 1_000, n: 5 });
        assert_eq!(start.next(10), Hlc { ms: 1_000, n: 5 });
    }

    #[test]
    fn only_large_steps_back_are_reported() {
        assert_eq!(step_back(10_000, 9_000), None);
        assert_eq!(step_back(10_000, 8_999), Some(1_001));
    }
}
