//! How long private sections are kept: what was set, when, and what that means for a record.

use countersign_ledger::close::DAY_MS;
use serde_json::Value;

use super::text;

/// Shortest retention of private sections, in days: an audit looks back over twelve months.
pub const SECTIONS_DAYS_MIN: u32 = 365;

/// Default retention of private sections, in days: twelve months and the fieldwork after them.
pub const SECTIONS_DAYS: u32 = 550;

/// Longest retention of private sections, in days: a hundred years.
pub const SECTIONS_DAYS_MAX: u32 = 36_525;

/// Clocks of several gateways differ by less than this, in milliseconds.
pub(crate) const SKEW_MS: i64 = 10 * 60_000;

/// What a `change` record of retention names as its object.
pub(crate) const OBJECT: &str = "retention";
/// The only class so far.
pub(crate) const CLASS: &str = "sections";

/// How long records' private sections are kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Retention {
    sections_days: u32,
}

/// A retention that is shorter or longer than is allowed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "it is {days} days: at least {SECTIONS_DAYS_MIN} (BELOW_FLOOR) and at most {SECTIONS_DAYS_MAX}"
)]
pub struct OutOfBounds {
    /// The days that were asked for.
    pub days: u32,
}

impl Default for Retention {
    fn default() -> Self {
        Self { sections_days: SECTIONS_DAYS }
    }
}

impl Retention {
    /// Keeps private sections for so many days.
    ///
    /// # Errors
    /// [`OutOfBounds`] below [`SECTIONS_DAYS_MIN`] or above [`SECTIONS_DAYS_MAX`].
    pub fn new(sections_days: u32) -> Result<Self, OutOfBounds> {
        if (SECTIONS_DAYS_MIN..=SECTIONS_DAYS_MAX).contains(&sections_days) {
            Ok(Self { sections_days })
        } else {
            Err(OutOfBounds { days: sections_days })
        }
    }

    /// Returns how many days private sections are kept.
    #[must_use]
    pub fn sections_days(self) -> u32 {
        self.sections_days
    }
}

/// A retention that was set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Setting {
    /// When its `change` record was made, in Unix milliseconds; `None` for the default before any.
    pub since_ms: Option<i64>,
    /// The days.
    pub days: u32,
}

impl Setting {
    /// Returns whether it was made before a time, whatever gateway's clock is ahead.
    fn is_before(&self, ms: i64) -> bool {
        self.since_ms.is_none_or(|since| since.saturating_add(SKEW_MS) < ms)
    }
}

/// All settings that the log has, oldest first.
///
/// A setting holds for the records after it, and a longer one also for those before it. The clocks of
/// several gateways differ: what was recorded at about the same time counts as before.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Schedule {
    settings: Vec<Setting>,
}

impl Schedule {
    /// Reads the settings among `change` leaves, which are in the order of their times.
    pub(crate) fn of<'a>(changes: impl IntoIterator<Item = &'a Value>) -> Self {
        let set = changes
            .into_iter()
            .filter(|leaf| text(leaf, "object") == OBJECT && text(leaf, "class") == CLASS)
            .filter_map(|leaf| {
                let days = u32::try_from(leaf.get("days")?.as_u64()?).ok()?;
                Some(Setting { since_ms: Some(leaf.pointer("/time/ms")?.as_i64()?), days })
            });
        let default = Setting { since_ms: None, days: SECTIONS_DAYS };
        Self { settings: std::iter::once(default).chain(set).collect() }
    }

    /// Returns the schedule with one more setting, made at a time.
    pub(crate) fn with(mut self, since_ms: i64, days: u32) -> Self {
        self.settings.push(Setting { since_ms: Some(since_ms), days });
        self
    }

    /// Returns the settings, oldest first; the first is the default.
    pub(crate) fn settings(&self) -> &[Setting] {
        &self.settings
    }

    /// Returns the last setting.
    pub(crate) fn current(&self) -> u32 {
        self.settings.last().map_or(SECTIONS_DAYS, |setting| setting.days)
    }

    /// Returns the schedule as it was known everywhere at a time.
    pub(crate) fn at(&self, ms: i64) -> Self {
        let known = |setting: &&Setting| setting.is_before(ms);
        Self { settings: self.settings.iter().filter(known).copied().collect() }
    }

    /// Returns how many days the private sections of a record are kept: the longest of what was in force
    /// when it was recorded and of everything set since.
    pub(crate) fn days(&self, recorded_ms: i64) -> u32 {
        let since =
            self.settings.iter().rposition(|setting| setting.is_before(recorded_ms)).unwrap_or(0);
        let in_force = self.settings.iter().skip(since).map(|set| set.days);
        in_force.max().unwrap_or(SECTIONS_DAYS).max(SECTIONS_DAYS_MIN)
    }

    /// Returns when the private sections of a record are due, in Unix milliseconds.
    pub(crate) fn due_ms(&self, recorded_ms: i64) -> i64 {
        recorded_ms.saturating_add(days_ms(self.days(recorded_ms)))
    }
}

/// Returns days in milliseconds.
pub(crate) fn days_ms(days: u32) -> i64 {
    i64::from(days).saturating_mul(i64::try_from(DAY_MS).unwrap_or(i64::MAX))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    /// Settings at hours after the beginning.
    fn schedule(changes: &[(i64, u32)]) -> Schedule {
        let leaves = changes.iter().map(|(hour, days)| {
            let time = json!({"ms": hour * HOUR_MS, "n": 0});
            json!({"object": OBJECT, "class": CLASS, "days": days, "time": time})
        });
        Schedule::of(&leaves.collect::<Vec<_>>())
    }

    const HOUR_MS: i64 = 3_600_000;

    #[test]
    fn raising_holds_for_all_and_lowering_for_what_comes_after() {
        let schedule = schedule(&[(10, 730), (20, 400)]);
        for (hour, days) in [(0, 730), (10, 730), (15, 730), (20, 730), (21, 400), (99, 400)] {
            assert_eq!(schedule.days(hour * HOUR_MS), days, "hour {hour}");
        }
        assert_eq!(schedule.at(20 * HOUR_MS).days(99 * HOUR_MS), 730, "before the lowering");
        assert_eq!(schedule.at(10 * HOUR_MS).days(99 * HOUR_MS), SECTIONS_DAYS);
        assert_eq!(schedule.current(), 400);
    }

    #[test]
    fn below_the_floor_is_refused() {
        assert_eq!(Retention::new(364), Err(OutOfBounds { days: 364 }));
        assert!(Retention::new(364).unwrap_err().to_string().contains("BELOW_FLOOR"));
        assert!(Retention::new(SECTIONS_DAYS_MAX + 1).is_err());
        assert_eq!(Retention::new(365).unwrap().sections_days(), 365);
        assert_eq!(Retention::default().sections_days(), 550);
    }

    type Changes = Vec<(i64, u32)>;

    fn changes(days: std::ops::Range<u32>) -> impl Strategy<Value = Changes> {
        let changes = prop::collection::btree_map(0_i64..100, days, 0..8);
        changes.prop_map(|changes| changes.into_iter().collect())
    }

    proptest! {
        #[test]
        fn nothing_is_due_before_its_floor(changes in changes(0..5_000), hour in 0_i64..120) {
            let recorded = hour * HOUR_MS;
            let due = schedule(&changes).due_ms(recorded);
            prop_assert!(due >= recorded + days_ms(SECTIONS_DAYS_MIN));
        }

        #[test]
        fn no_later_setting_shortens_what_a_record_had(
            changes in changes(365..5_000), hour in 0_i64..120,
        ) {
            let (whole, recorded) = (schedule(&changes), hour * HOUR_MS);
            let mut before = 0;
            // As time goes on, its days never become fewer.
            for now in hour..=121 {
                let days = whole.at(now * HOUR_MS).days(recorded);
                prop_assert!(days >= before, "{days} after {before} at {now}");
                before = days;
            }
            prop_assert_eq!(before, whole.days(recorded));
            prop_assert!(before >= whole.current(), "raising holds for all");
        }

        #[test]
        fn an_older_record_is_kept_at_least_as_many_days(
            changes in changes(365..5_000), hour in 0_i64..120,
        ) {
            let schedule = schedule(&changes);
            prop_assert!(schedule.days(hour * HOUR_MS) >= schedule.days((hour + 1) * HOUR_MS));
        }
    }
}
