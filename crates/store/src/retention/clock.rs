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

/// What is known to be right: the days before one, and what the log says before some close.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Believed {
    day: String,
    closes: usize,
}

impl Believed {
    /// Reads the word that somebody gave. It says by itself when that was: the times of records never go back,
    /// and those of another gateway's may have jumped.
    fn read(leaf: &Value) -> Option<Self> {
        let (at_ms, closes) = (leaf.get("at_ms")?.as_i64()?, leaf.get("closes")?.as_u64()?);
        Some(Self { day: utc_day(at_ms), closes: usize::try_from(closes).ok()? })
    }
}

/// Looks for a gap of more than [`CLOCK_GAP_DAYS`] between a day and a time at which it was the last one.
fn gap(day: &str, ms: i64) -> Option<Gap> {
    let earliest = ms.saturating_sub(days_ms(CLOCK_GAP_DAYS));
    let is_gap = day < utc_day(earliest).as_str();
    is_gap.then(|| Gap { from: day.to_owned(), to: utc_day(ms) })
}

fn utc_day(ms: i64) -> String {
    day_of(u64::try_from(ms).unwrap_or(0))
}

/// Looks for the first gap since what is believed: among `close` leaves, and between the last of them and now.
///
/// Days that were closed before somebody gave his word, later ones than that of the word too, say nothing more.
fn first_gap(closes: &[Value], believed: &Believed, now_ms: i64) -> Option<Gap> {
    let day = |leaf| text(leaf, "day");
    let since: Vec<&Value> = closes
        .iter()
        .skip(believed.closes)
        .filter(|leaf| day(*leaf) >= believed.day.as_str())
        .collect();
    let last = since.iter().map(|leaf| day(leaf)).max().unwrap_or(&believed.day);
    since.iter().find_map(|leaf| gap(day(leaf), time(leaf).0)).or_else(|| gap(last, now_ms))
}

impl Store {
    /// Records somebody's word that the clock is right, if there is a doubt: purges go on then.
    ///
    /// # Errors
    /// As [`Store::append`]; [`StoreError::Database`].
    pub async fn confirm_clock(&self, actor: &str) -> Result<(), StoreError> {
        let now_ms = self.now_ms();
        let (closes, gap) = self.clock_gap(now_ms).await?;
        let Some(Gap { from, to }) = gap else { return Ok(()) };
        let draft = Draft::new(self.new_id(), Kind::Change)
            .with("object", OBJECT)
            .with("action", "confirmed")
            .with("from", from)
            .with("to", to)
            .with("at_ms", now_ms)
            .with("closes", closes)
            .sealed("actor", actor);
        self.append(draft).await.map(drop)
    }

    /// Refuses to go on at a time that may have been reached by a jump.
    pub(super) async fn must_believe_clock(&self, now_ms: i64) -> Result<(), StoreError> {
        match self.clock_gap(now_ms).await?.1 {
            None => Ok(()),
            Some(Gap { from, to }) => Err(StoreError::ClockGap { from, to }),
        }
    }

    /// Returns also how many days were closed.
    async fn clock_gap(&self, now_ms: i64) -> Result<(usize, Option<Gap>), StoreError> {
        let (db, tenant) = (&self.inner.read, self.inner.config.tenant.as_str());
        let changes = CHANGES.read(db, tenant).await?;
        let words = changes.iter().filter(|leaf| text(leaf, "object") == OBJECT);
        let closes = CLOSES.read(db, tenant).await?;
        let believed = match words.filter_map(Believed::read).next_back() {
            Some(believed) => believed,
            None => {
                let first = read_bodies(db, tenant, 0, 1).await?;
                let Some(body) = first.first() else { return Ok((0, None)) };
                let leaf = Leaf::parse(body)
                    .map_err(|error| StoreError::corrupt(format!("leaf 0: {error}")))?;
                Believed { day: day_of(leaf.time.ms), closes: 0 }
            }
        };
        let gap = first_gap(&closes, &believed, now_ms);
        Ok((closes.len(), gap))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const DAY: i64 = 86_400_000;

    /// Closes of days, each so many hours after its end.
    fn closes(days: &[(i64, i64)]) -> Vec<Value> {
        let close = |(day, hours): &(i64, i64)| {
            let ms = (day + 1) * DAY + hours * 3_600_000;
            json!({"day": utc_day(day * DAY), "time": {"ms": ms, "n": 0}})
        };
        days.iter().map(close).collect()
    }

    fn believed(day: i64, closes: usize) -> Believed {
        Believed { day: utc_day(day * DAY), closes }
    }

    fn pair(from: i64, to: i64) -> Option<(String, String)> {
        Some((utc_day(from * DAY), utc_day(to * DAY)))
    }

    fn found(days: &[(i64, i64)], believed: &Believed, now: i64) -> Option<(String, String)> {
        first_gap(&closes(days), believed, now * DAY).map(|gap| (gap.from, gap.to))
    }

    #[test]
    fn a_gap_is_a_day_that_was_closed_late_or_is_not_closed_long_after() {
        let month = i64::from(CLOCK_GAP_DAYS) * 24;
        let first = believed(100, 0);
        // Without any close the first record counts.
        assert_eq!(found(&[], &first, 131), None);
        assert_eq!(found(&[], &first, 132), pair(100, 132));
        assert_eq!(found(&[(100, 1), (101, 1)], &first, 132), None);
        assert_eq!(found(&[(100, 1), (101, 1)], &first, 133), pair(101, 133));
        // Once the days are closed the gap still shows, until somebody vouches for it.
        assert_eq!(found(&[(100, 1), (101, month)], &first, 134), pair(101, 133));
        assert_eq!(found(&[(100, 1), (101, month)], &believed(134, 2), 134), None);
        // Days before the word may be closed after it.
        assert_eq!(found(&[(100, 1), (101, month), (102, month)], &believed(134, 1), 134), None);
    }

    #[test]
    fn a_word_holds_for_what_was_before_it_and_not_for_the_next_jump() {
        // On day 110 the clock jumped to 700 and closed all days until then; on day 111 it was right again.
        let mut jumped: Vec<_> = (100..110).map(|day| (day, 1)).collect();
        jumped.extend((110..700).map(|day| (day, (700 - day - 1) * 24)));
        assert_eq!(found(&jumped, &believed(100, 0), 111), pair(110, 700));
        let word = believed(111, jumped.len());
        assert_eq!(found(&jumped, &word, 112), None);
        // Nothing is closed until day 700, so somebody has to say again that time goes on.
        assert_eq!(found(&jumped, &word, 143), pair(111, 143));
        // The same jump again.
        assert_eq!(found(&jumped, &word, 700), pair(111, 700));
        // Where another gateway has days to close with a clock that is right, they say so.
        jumped.extend([(111, 1), (112, 1)]);
        assert_eq!(found(&jumped, &word, 143), None);
    }
}
