//! Dates of the proleptic Gregorian calendar as numbers of days.

/// Days from 0000-03-01 to 1970-01-01.
const SHIFT: i64 = 719_468;

/// Days of 400 years.
const ERA: i64 = 146_097;

/// Year, month (1 to 12) and day of the month of the given number of days since 1970-01-01.
///
/// After Howard Hinnant's `civil_from_days`: <https://howardhinnant.github.io/date_algorithms.html>.
pub(super) fn civil(days: i64) -> (i64, i64, i64) {
    let shifted = days + SHIFT;
    let era = shifted.div_euclid(ERA);
    let day = shifted.rem_euclid(ERA);
    let year = (day - day / 1460 + day / 36_524 - day / 146_096) / 365;
    let day = day - (365 * year + year / 4 - year / 100);
    let month = (5 * day + 2) / 153;
    let day = day - (153 * month + 2) / 5 + 1;
    let month = if month < 10 { month + 3 } else { month - 9 };
    (year + era * 400 + i64::from(month <= 2), month, day)
}

/// Days since 1970-01-01 of a date; the inverse of [`civil`].
pub(super) fn days(year: i64, month: i64, day: i64) -> i64 {
    let year = year - i64::from(month <= 2);
    let era = year.div_euclid(400);
    let year = year.rem_euclid(400);
    let month = if month > 2 { month - 3 } else { month + 9 };
    let day = (153 * month + 2) / 5 + day - 1;
    era * ERA + year * 365 + year / 4 - year / 100 + day - SHIFT
}

/// The number of days in a month.
pub(super) fn days_in_month(year: i64, month: i64) -> i64 {
    let (next_year, next) = if month == 12 {
        (year + 1, 1)
    } else {
        (year, month + 1)
    };
    days(next_year, next, 1) - days(year, month, 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn days_and_dates_are_each_others_inverse() {
        for (date, number) in [
            ((1970, 1, 1), 0),
            ((1, 1, 1), -719_162),
            ((9999, 12, 31), 2_932_896),
            ((2000, 2, 29), 11_016),
        ] {
            assert_eq!(civil(number), date);
            assert_eq!(days(date.0, date.1, date.2), number);
        }
        for number in (-800_000..3_000_000).step_by(97) {
            let (year, month, day) = civil(number);
            assert_eq!(days(year, month, day), number);
            assert!((1..=days_in_month(year, month)).contains(&day));
        }
    }
}
