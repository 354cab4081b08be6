//! Times as people and files write them; everything is UTC.

use jiff::civil::{Date, Weekday};
use jiff::tz::TimeZone;
use jiff::{Timestamp, ToSpan as _};

use crate::EvidenceError;

/// Writes a time as RFC 3339 in UTC with milliseconds: `2026-03-15T03:00:07.142Z`.
#[must_use]
pub fn utc(ms: i64) -> String {
    Timestamp::from_millisecond(ms).map_or_else(|_| format!("{ms} ms"), |at| format!("{at:.3}"))
}

/// Writes a time as people say it: `Sunday, 15 March 2026 at 03:00:07.142 UTC`.
#[must_use]
pub fn spoken(ms: i64) -> String {
    let Ok(at) = Timestamp::from_millisecond(ms) else { return format!("{ms} ms") };
    let at = at.to_zoned(TimeZone::UTC);
    at.strftime("%A, %-d %B %Y at %H:%M:%S%.3f UTC").to_string()
}

/// Returns the day of the week of a time, in UTC.
#[must_use]
pub fn weekday(ms: i64) -> &'static str {
    let at = Timestamp::from_millisecond(ms).unwrap_or(Timestamp::UNIX_EPOCH);
    match at.to_zoned(TimeZone::UTC).weekday() {
        Weekday::Monday => "Monday",
        Weekday::Tuesday => "Tuesday",
        Weekday::Wednesday => "Wednesday",
        Weekday::Thursday => "Thursday",
        Weekday::Friday => "Friday",
        Weekday::Saturday => "Saturday",
        Weekday::Sunday => "Sunday",
    }
}

/// Writes a duration: `142 ms`, `3.2 s`, `2 min 5 s`.
#[must_use]
pub fn duration(ms: i64) -> String {
    match ms {
        ..1_000 => format!("{ms} ms"),
        1_000..60_000 => format!("{}.{} s", ms / 1_000, ms % 1_000 / 100),
        60_000..3_600_000 => format!("{} min {} s", ms / 60_000, ms % 60_000 / 1_000),
        3_600_000..172_800_000 => format!("{} h {} min", ms / 3_600_000, ms % 3_600_000 / 60_000),
        172_800_000.. => format!("{} days", ms / 86_400_000),
    }
}

/// Which end of a day a date without a time stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Edge {
    /// The first moment of the day.
    Start,
    /// The first moment after the day.
    End,
}

/// Reads a time in RFC 3339, or a date, whose `edge` in UTC is meant; returns Unix milliseconds.
///
/// # Errors
/// [`EvidenceError::BadTime`].
pub fn parse(text: &str, edge: Edge) -> Result<i64, EvidenceError> {
    let bad = || EvidenceError::BadTime(text.to_owned());
    if let Ok(at) = text.parse::<Timestamp>() {
        return Ok(at.as_millisecond());
    }
    // Ten characters: a date and nothing else.
    let date: Date = text.parse().ok().filter(|_| text.len() == 10).ok_or_else(bad)?;
    let date = match edge {
        Edge::Start => date,
        Edge::End => date.checked_add(1.day()).map_err(|_| bad())?,
    };
    date.to_zoned(TimeZone::UTC).map(|at| at.timestamp().as_millisecond()).map_err(|_| bad())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times() {
        for (text, edge, expected) in [
            ("1970-01-01T00:00:01Z", Edge::Start, Some(1_000)),
            ("1970-01-01T01:00:01.5+01:00", Edge::Start, Some(1_500)),
            ("1970-01-02", Edge::Start, Some(86_400_000)),
            ("1970-01-02", Edge::End, Some(2 * 86_400_000)),
            ("yesterday", Edge::Start, None),
            ("1970-01-02T00:00:00", Edge::Start, None),
            ("", Edge::Start, None),
        ] {
            assert_eq!(parse(text, edge).ok(), expected, "{text}");
        }
    }

    #[test]
    fn texts() {
        let ms = parse("2026-03-15T03:00:07.142Z", Edge::Start).unwrap();
        assert_eq!(utc(ms), "2026-03-15T03:00:07.142Z");
        assert_eq!(utc(0), "1970-01-01T00:00:00.000Z");
        assert_eq!(spoken(ms), "Sunday, 15 March 2026 at 03:00:07.142 UTC");
        assert_eq!(weekday(ms), "Sunday");
        assert_eq!(
            [999, 3_210, 125_000, 3_660_000, 259_200_000].map(duration),
            ["999 ms", "3.2 s", "2 min 5 s", "1 h 1 min", "3 days"]
        );
    }
}
