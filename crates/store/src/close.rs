//! The daily close: a record with the totals of a day (UTC), against which any list of it can be counted.

use std::sync::atomic::Ordering;

use countersign_ledger::close::{DAY_MS, DayTotals, day_of};
use countersign_ledger::{Leaf, LeafIndex};
use countersign_model::{Draft, Kind};
use serde_json::Value;

use crate::db::Column;
use crate::publish::{load_frontier, read_bodies};
use crate::{Store, StoreError};

/// How long after midnight a day is closed: by then its last records have their places in the log.
const CLOSED_AFTER_MS: u64 = 5 * 60_000;

/// Leaves that are read at a time.
const PAGE: u64 = 1_000;

/// Where the next close goes on.
struct Next {
    /// The first day that is not closed, counted from the Unix epoch.
    day: u64,
    /// No leaf before this index is of that day or a later one.
    from: u64,
}

impl Store {
    /// Records the totals of each day that ended and is not closed, also of days without records; returns
    /// how many there were.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`], [`StoreError::Database`], [`StoreError::Corrupt`].
    pub async fn close_days(&self) -> Result<u64, StoreError> {
        let now = u64::try_from(self.now_ms()).unwrap_or(0);
        if now < self.inner.next_close_ms.load(Ordering::Relaxed) {
            return Ok(0);
        }
        let Some(mut next) = self.first_open_day().await? else { return Ok(0) };
        let mut closed = 0;
        while (next.day + 1) * DAY_MS + CLOSED_AFTER_MS <= now {
            let (totals, from) = self.totals(&next).await?;
            let draft = Draft::new(self.new_id(), Kind::Close)
                .with("day", day_of(next.day * DAY_MS))
                .with("totals", totals.to_json())
                .with("next", from);
            self.append(draft).await?;
            next = Next { day: next.day + 1, from };
            closed += 1;
        }
        let due = (next.day + 1) * DAY_MS + CLOSED_AFTER_MS;
        self.inner.next_close_ms.store(due, Ordering::Relaxed);
        Ok(closed)
    }

    /// Returns the day after the last closed one, or that of the first record; `None` in an empty log.
    async fn first_open_day(&self) -> Result<Option<Next>, StoreError> {
        let (db, tenant) = (&self.inner.read, self.inner.config.tenant.as_str());
        let sql = "SELECT body FROM intake WHERE tenant = $1 AND kind = 'close'";
        let mut last: Option<(String, u64)> = None;
        for row in db.fetch_all(sql, &[Column::Text(tenant)]).await? {
            let body: Vec<u8> = row.get(0)?;
            let leaf: Value = serde_json::from_slice(&body).map_err(|_| damaged())?;
            let day = leaf.get("day").and_then(Value::as_str).ok_or_else(damaged)?.to_owned();
            let next = leaf.get("next").and_then(Value::as_u64).ok_or_else(damaged)?;
            last = last.max(Some((day, next)));
        }
        let (from, closed) = last.map_or((0, None), |(day, next)| (next, Some(day)));
        let size = load_frontier(db, tenant).await?.size().0;
        let mut index = from;
        while index < size {
            for body in read_bodies(db, tenant, index, (index + PAGE).min(size)).await? {
                let day = parse(&body)?.time.ms / DAY_MS;
                // Days without any record between the last close and this one are closed too.
                let first = match &closed {
                    None => Some(day),
                    Some(closed) => after(closed, day),
                };
                if let Some(day) = first {
                    return Ok(Some(Next { day, from }));
                }
            }
            index += PAGE;
        }
        Ok(None)
    }

    /// Counts the records of a day, and finds where the next one begins.
    async fn totals(&self, next: &Next) -> Result<(DayTotals, u64), StoreError> {
        let (db, tenant) = (&self.inner.read, self.inner.config.tenant.as_str());
        let size = load_frontier(db, tenant).await?.size().0;
        let (mut totals, mut later, mut index) = (DayTotals::default(), None, next.from);
        while index < size {
            for body in read_bodies(db, tenant, index, (index + PAGE).min(size)).await? {
                let leaf = parse(&body)?;
                let day = leaf.time.ms / DAY_MS;
                if day == next.day {
                    totals.add(&leaf, LeafIndex(index));
                } else if day > next.day {
                    later.get_or_insert(index);
                }
                index += 1;
                // Streams differ by less than this.
                if leaf.time.ms >= (next.day + 1) * DAY_MS + CLOSED_AFTER_MS {
                    return Ok((totals, later.unwrap_or(index)));
                }
            }
        }
        Ok((totals, later.unwrap_or(index)))
    }
}

/// Returns the day after a closed one, if a record of `day` comes after it.
fn after(closed: &str, day: u64) -> Option<u64> {
    let mut next = day;
    while next > 0 && day_of((next - 1) * DAY_MS).as_str() > closed {
        next -= 1;
    }
    (day_of(day * DAY_MS).as_str() > closed).then_some(next)
}

fn parse(body: &[u8]) -> Result<Leaf, StoreError> {
    Leaf::parse(body).map_err(|error| StoreError::corrupt(format!("a leaf: {error}")))
}

fn damaged() -> StoreError {
    StoreError::corrupt("the leaf of a daily close")
}
