//! Whether the clock is believed: a purge cannot be undone, and under a clock that is years ahead it would
//! come years early.
//!
//! The log says by itself how time went on in it: each day that ended was closed soon after its end. A day that
//! was closed long after, or is not closed though it ended long ago, means that no gateway ran or that the clock
//! jumped. Only a person can tell which, and a record keeps that word.

use countersign_ledger::Leaf;
use countersign_ledger::close::day_of;
use countersign_model::{Draft, Kind};
use serde_json::Value;

use super::schedule::days_ms;
use super::text;
use crate::erase::{CHANGES, CLOSES, time};
use crate::limits::CLOCK_GAP_DAYS;
use crate::publish::read_bodies;
use crate::{Store, StoreError};

/// What a `change` record of the clock names as its object.
const OBJECT: &str = "clock";

/// A time in which no day was closed.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Gap {
    /// The day (UTC) before it.
    from: String,
    /// The day after it.
    to: String,
}

/// Looks for a gap of more than [`CLOCK_GAP_DAYS`] between a day and a time at which it was the last one, unless
/// somebody vouched for the clock in between or since.
fn gap(day: &str, ms: i64, confirmed_ms: i64) -> Option<Gap> {
    let earliest = ms.saturating_sub(days_ms(CLOCK_GAP_DAYS));
    let is_gap = confirmed_ms < earliest && day < utc_day(earliest).as_str();
    is_gap.then(|| Gap { from: day.to_owned(), to: utc_day(ms) })
}

fn utc_day(ms: i64) -> String {
    day_of(u64::try_from(ms).unwrap_or(0))
}

/// Looks for the first gap among `close` leaves, and between the last of them, or else the first day of the
/// log, and now.
fn first_gap(
    closes: &[Value],
    first_day: Option<&str>,
    now_ms: i64,
    confirmed: i64,
) -> Option<Gap> {
    let late = |leaf: &Value| gap(text(leaf, "day"), time(leaf).0, confirmed);
    let last = closes.iter().map(|leaf| text(leaf, "day")).max().or(first_day);
    closes.iter().find_map(late).or_else(|| gap(last?, now_ms, confirmed))
}

impl Store {
    /// Records that the clock is right, if there is a doubt: purges go on then.
    ///
    /// # Errors
    /// As [`Store::append`]; [`StoreError::Database`].
    pub async fn confirm_clock(&self) -> Result<(), StoreError> {
        let Some(Gap { from, to }) = self.clock_gap().await? else { return Ok(()) };
        let draft = Draft::new(self.new_id(), Kind::Change)
            .with("object", OBJECT)
            .with("action", "confirmed")
            .with("from", from)
            .with("to", to);
        self.append(draft).await.map(drop)
    }

    /// Refuses to go on under a clock that may have jumped.
    pub(super) async fn must_believe_clock(&self) -> Result<(), StoreError> {
        match self.clock_gap().await? {
            None => Ok(()),
            Some(Gap { from, to }) => Err(StoreError::ClockGap { from, to }),
        }
    }

    async fn clock_gap(&self) -> Result<Option<Gap>, StoreError> {
        let (db, tenant) = (&self.inner.read, self.inner.config.tenant.as_str());
        let changes = CHANGES.read(db, tenant).await?;
        let confirmed = changes.iter().filter(|leaf| text(leaf, "object") == OBJECT).map(time);
        let confirmed_ms = confirmed.max().map_or(i64::MIN, |(ms, _)| ms);
        let first = read_bodies(db, tenant, 0, 1).await?;
        let first = first.first().map(|body| Leaf::parse(body)).transpose();
        let first = first.map_err(|error| StoreError::corrupt(format!("leaf 0: {error}")))?;
        let first_day = first.map(|leaf| day_of(leaf.time.ms));
        let closes = CLOSES.read(db, tenant).await?;
        Ok(first_gap(&closes, first_day.as_deref(), self.now_ms(), confirmed_ms))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const DAY: i64 = 86_400_000;

    /// Closes of days, each at an hour after its end.
    fn closes(days: &[(i64, i64)]) -> Vec<Value> {
        let close = |(day, hours): &(i64, i64)| {
            let ms = (day + 1) * DAY + hours * 3_600_000;
            json!({"day": utc_day(day * DAY), "time": {"ms": ms, "n": 0}})
        };
        days.iter().map(close).collect()
    }

    #[test]
    fn a_gap_is_a_day_that_was_closed_late_or_is_not_closed_long_after() {
        let month = i64::from(CLOCK_GAP_DAYS) * 24;
        let found = |days: &[(i64, i64)], first: i64, now: i64, confirmed: i64| {
            let first_day = utc_day(first * DAY);
            let gap = first_gap(&closes(days), Some(&first_day), now * DAY, confirmed * DAY);
            gap.map(|gap| (gap.from, gap.to))
        };
        let pair = |from: i64, to: i64| Some((utc_day(from * DAY), utc_day(to * DAY)));
        // Without any close the first record counts.
        assert_eq!(found(&[], 100, 131, -1), None);
        assert_eq!(found(&[], 100, 132, -1), pair(100, 132));
        assert_eq!(found(&[(100, 1), (101, 1)], 100, 132, -1), None);
        assert_eq!(found(&[(100, 1), (101, 1)], 100, 133, -1), pair(101, 133));
        assert_eq!(found(&[(100, 1), (101, 1)], 100, 133, 110), None, "vouched for meanwhile");
        assert_eq!(found(&[(100, 1), (101, 1)], 100, 150, 110), pair(101, 150), "but long ago");
        // Once the days are closed the gap still shows, until somebody vouches for it.
        assert_eq!(found(&[(100, 1), (101, month)], 100, 134, -1), pair(101, 133));
        assert_eq!(found(&[(100, 1), (101, month)], 100, 134, 134), None);
        assert_eq!(first_gap(&[], None, 900 * DAY, -1), None, "an empty log has nothing to purge");
    }
}
