//! Dates of the proleptic Gregorian calendar as numbers of days: the only calendar arithmetic that is written by hand.
//!
//! The dates of chrono end in the year 262,142, and its conversions give `None` beyond. A TIMESTAMP reaches the year 294,247 and a DATE
//! the year 5,881,580, and what was read has to be written again (VALUE-1).

/// Days from 0000-03-01 to 1970-01-01.
const SHIFT: i64 = 719_468;

/// Days of 400 years.
const ERA: i64 = 146_097;

/// Year, month (1 to 12) and day of the month of the given number of days since 1970-01-01.
///
/// After Howard Hinnant's `civil_from_days`: <https://howardhinnant.github.io/date_algorithms.html>.
pub fn civil(days: i64) -> (i64, i64, i64) {
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
pub fn days(year: i64, month: i64, day: i64) -> i64 {
    let year = year - i64::from(month <= 2);
    let era = year.div_euclid(400);
    let year = year.rem_euclid(400);
    let month = if month > 2 { month - 3 } else { month + 9 };
    let day = (153 * month + 2) / 5 + day - 1;
    era * ERA + year * 365 + year / 4 - year / 100 + day - SHIFT
}

/// The number of days in a month (1 to 12).
pub fn days_in_month(year: i64, month: i64) -> i64 {
    let is_leap = year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
    match month {
        2 if is_leap => 29,
        2 => 28,
        4 | 6 | 9 | 11 => 30,
        _ => 31,
    }
}

#[cfg(test)]
mod tests {
    use chrono::{Datelike as _, NaiveDate};

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
        // Far beyond chrono as well: all days of a DATE.
        let all = i64::from(i32::MIN)..i64::from(i32::MAX);
        for number in (-800_000..3_000_000).step_by(97).chain(all.step_by(9_973)) {
            let (year, month, day) = civil(number);
            assert_eq!(days(year, month, day), number);
            assert!((1..=days_in_month(year, month)).contains(&day));
        }
    }

    #[test]
    fn days_are_those_of_chrono() {
        let mut date = NaiveDate::from_ymd_opt(-1000, 1, 1).unwrap();
        while date < NaiveDate::from_ymd_opt(3000, 1, 1).unwrap() {
            let number = (date - NaiveDate::default()).num_days();
            let (year, month, day) = (date.year(), date.month(), date.day());
            let expected = (i64::from(year), i64::from(month), i64::from(day));
            assert_eq!(civil(number), expected);
            assert_eq!(days(expected.0, expected.1, expected.2), number);
            let next = date + chrono::Duration::days(1);
            let is_last = days_in_month(expected.0, expected.1) == expected.2;
            assert_eq!(is_last, next.month() != month, "{date}");
            date += chrono::Duration::days(17);
        }
    }
}
