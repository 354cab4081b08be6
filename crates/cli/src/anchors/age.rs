//! How long records have been waiting to be anchored.
//!
//! The age is that of the newest anchored checkpoint, counted from when it was published: one that is anchored
//! again gets no younger, so a log that is not published any more ages too. It is zero while there are no
//! newer records.

use std::collections::VecDeque;
use std::time::Duration;

use tokio::time::Instant;

/// Published checkpoints that are remembered until one of them is anchored: a quarter of an hour's.
const SEEN_MAX: usize = 1_024;

/// A published checkpoint, when it was first seen.
#[derive(Clone, Copy, Debug)]
struct Seen {
    size: u64,
    at: Instant,
    /// The records that this gateway had written just before.
    written: u64,
}

/// What is anchored, and what waits for it.
#[derive(Debug)]
pub(super) struct Age {
    anchored: Seen,
    /// Newer than `anchored`, ascending.
    seen: VecDeque<Seen>,
    /// When nothing waited the last time, else when what is anchored was published.
    since: Instant,
    /// How much older what waits was at `since`.
    before: Duration,
}

impl Age {
    /// Counts on from a start at which `size` records are anchored, and the first one after them is as old as
    /// `before`.
    pub(super) fn new(size: u64, before: Duration, now: Instant) -> Self {
        let anchored = Seen { size, at: now, written: 0 };
        Self { anchored, seen: VecDeque::new(), since: now, before }
    }

    /// Notes that a checkpoint of `size` is published; `written` was read before it.
    pub(super) fn published(&mut self, size: u64, written: u64, now: Instant) {
        let newest = self.seen.back().unwrap_or(&self.anchored);
        if size <= newest.size {
            return;
        }
        if self.seen.len() >= SEEN_MAX {
            self.seen.pop_front();
        }
        self.seen.push_back(Seen { size, at: now, written });
    }

    /// Notes that the first `size` records are anchored.
    pub(super) fn anchored(&mut self, size: u64) {
        while let Some(seen) = self.seen.pop_front_if(|seen| seen.size <= size) {
            self.anchored = seen;
            self.count_from(self.since.max(seen.at));
        }
    }

    /// Notes how many records the log has, and how many this gateway has written: of several that share
    /// one, what is written comes to the log a moment later.
    pub(super) fn records(&mut self, size: u64, written: u64, now: Instant) {
        if size <= self.anchored.size && written <= self.anchored.written {
            self.count_from(now);
        }
    }

    fn count_from(&mut self, since: Instant) {
        (self.since, self.before) = (since, Duration::ZERO);
    }

    /// Returns the age.
    pub(super) fn at(&self, now: Instant) -> Duration {
        now.saturating_duration_since(self.since).saturating_add(self.before)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Seconds of age at a second after the start.
    fn at(age: &Age, start: Instant, second: u64) -> u64 {
        age.at(start + Duration::from_secs(second)).as_secs()
    }

    #[test]
    fn the_age_counts_from_the_start_until_something_is_anchored() {
        let start = Instant::now();
        let after = |second| start + Duration::from_secs(second);
        let mut age = Age::new(0, Duration::ZERO, start);
        age.published(5, 5, after(1));
        age.records(5, 5, after(7));
        assert_eq!(at(&age, start, 7), 7);
        age.anchored(5);
        assert_eq!(at(&age, start, 7), 6, "it was published at 1");
        age.records(5, 5, after(30));
        assert_eq!(at(&age, start, 31), 1, "nothing waited at 30");
    }

    #[test]
    fn a_restart_makes_nothing_younger() {
        let start = Instant::now();
        let after = |second| start + Duration::from_secs(second);
        let mut age = Age::new(5, Duration::from_secs(100), start);
        // What was anchored before is anchored again.
        age.published(5, 0, after(1));
        age.anchored(5);
        age.records(6, 0, after(2));
        assert_eq!(at(&age, start, 2), 102);
        age.published(7, 1, after(3));
        age.anchored(7);
        assert_eq!(at(&age, start, 4), 1, "it was published at 3");

        let mut age = Age::new(5, Duration::from_secs(100), start);
        age.records(5, 0, after(1));
        assert_eq!(at(&age, start, 2), 1, "nothing waited");
    }

    #[test]
    fn a_checkpoint_that_is_anchored_again_gets_no_younger() {
        let start = Instant::now();
        let after = |second| start + Duration::from_secs(second);
        let mut age = Age::new(0, Duration::ZERO, start);
        age.published(5, 5, after(1));
        age.anchored(5);
        // Records are written, and nothing is published any more.
        for second in 2..60 {
            age.published(5, 9, after(second));
            age.anchored(5);
            age.records(9, 9, after(second));
        }
        assert_eq!(at(&age, start, 60), 59);
        // The same with several gateways, where what is written is not in the log yet.
        age.records(5, 9, after(61));
        assert_eq!(at(&age, start, 61), 60);
        age.published(9, 9, after(62));
        assert_eq!(at(&age, start, 62), 61);
        age.anchored(9);
        assert_eq!(at(&age, start, 62), 0);
    }

    #[test]
    fn of_many_published_checkpoints_the_newest_anchored_one_counts() {
        let start = Instant::now();
        let mut age = Age::new(0, Duration::ZERO, start);
        for second in 1..=3_000 {
            age.published(second, second, start + Duration::from_secs(second));
        }
        age.anchored(100);
        assert_eq!(at(&age, start, 3_000), 3_000, "so old a one is not remembered");
        age.anchored(2_990);
        assert_eq!(at(&age, start, 3_000), 10);
        age.anchored(10);
        assert_eq!(at(&age, start, 3_000), 10, "another anchor is behind");
    }
}
