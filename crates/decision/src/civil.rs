//! Dates of the proleptic Gregorian calendar, as Cedar spells them.

const DAY_MS: i64 = 86_400_000;
/// Days of 400 years.
const ERA_DAYS: i64 = 146_097;
/// Days from 0000-03-01 to 1970-01-01.
const EPOCH_DAYS: i64 = 719_468;

/// Spells milliseconds since the Unix epoch as `YYYY-MM-DDThh:mm:ss.SSSZ`.
///
/// `None` outside the years 0 to 9999, which Cedar cannot spell.
pub(crate) fn datetime(ms: i64) -> Option<String> {
    let (year, month, day) = date(ms.div_euclid(DAY_MS));
    if !(0..=9999).contains(&year) {
        return None;
    }
    let ms = ms.rem_euclid(DAY_MS);
    let (hour, minute, second) = (ms / 3_600_000, ms / 60_000 % 60, ms / 1000 % 60);
    let ms = ms % 1000;
    Some(format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{ms:03}Z"))
}

/// Returns year, month and day of a count of days since 1970-01-01.
///
/// Years are counted from March, so that the leap day is the last of its year.
fn date(days: i64) -> (i64, i64, i64) {
    let days = days.saturating_add(EPOCH_DAYS);
    let (era, day_of_era) = (days.div_euclid(ERA_DAYS), days.rem_euclid(ERA_DAYS));
    let year_of_era =
        (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let march_month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * march_month + 2) / 5 + 1;
    let month = if march_month < 10 { march_month + 3 } else { march_month - 9 };
    (year_of_era + era * 400 + i64::from(month <= 2), month, day)
}

/// Returns milliseconds since the Unix epoch of a UTC date and time of day.
pub(crate) fn timestamp_ms((year, month, day): (i64, i64, i64), time_of_day_ms: i64) -> i64 {
    let year = year - i64::from(month <= 2);
    let (era, year_of_era) = (year.div_euclid(400), year.rem_euclid(400));
    let march_month = (month + 9) % 12;
    let day_of_year = (153 * march_month + 2) / 5 + day - 1;
    let day_of_era = year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year;
    (era * ERA_DAYS + day_of_era - EPOCH_DAYS) * DAY_MS + time_of_day_ms
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spells_known_instants() {
        for (ms, text) in [
            (0, Some("1970-01-01T00:00:00.000Z")),
            (951_782_400_123, Some("2000-02-29T00:00:00.123Z")),
            (1_709_251_199_999, Some("2024-02-29T23:59:59.999Z")),
            (-1, Some("1969-12-31T23:59:59.999Z")),
            (i64::MAX, None),
            (i64::MIN, None),
        ] {
            assert_eq!(datetime(ms).as_deref(), text, "{ms}");
        }
    }

    #[test]
    fn days_go_there_and_back() {
        for days in (-200_000..2_000_000).step_by(97) {
            assert_eq!(timestamp_ms(date(days), 0), days * DAY_MS);
        }
    }
}
