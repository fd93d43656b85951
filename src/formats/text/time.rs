//! Conversion of dates, times and timestamps from and to text: ISO 8601 and SQL forms, without allocation.
//!
//! Why not chrono: its parser of RFC 3339 lacks the SQL forms, texts without an offset and names of zones. Alone it reads 1.7 times as
//! many texts per second as ours with the CSV record around each (`BENCH_ONLY=formats`).

use anabranch_udfs::calendar::{civil, days, days_in_month};
use arrow::datatypes::TimeUnit;

use super::offset::{parse_offset, take_two};
use super::zone::{Zone, ZoneOffsets};

const NANOS_PER_SECOND: i64 = 1_000_000_000;
const SECONDS_PER_DAY: i64 = 86_400;

/// How a timestamp is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) enum TimestampFormat {
    /// ISO 8601 with the offset and the fewest of 3, 6 or 9 fraction digits that keep the value.
    #[default]
    Iso,
    /// ISO 8601 with 3 fraction digits; finer ones are cut off.
    IsoMillis,
    /// ISO 8601 with 6 fraction digits; finer ones are cut off.
    IsoMicros,
    /// `YYYY-MM-DD HH:MM:SS.ffffff` in the table's zone, without offset.
    Sql,
    EpochSeconds,
    EpochMillis,
    EpochMicros,
}

impl TimestampFormat {
    /// Whether it is written as a number.
    pub(crate) fn is_epoch(self) -> bool {
        matches!(
            self,
            Self::EpochSeconds | Self::EpochMillis | Self::EpochMicros
        )
    }
}

/// Reads timestamps, those without an offset in a zone.
#[derive(Debug, Clone)]
pub(crate) struct TimestampReader {
    offsets: ZoneOffsets,
}

impl TimestampReader {
    pub(crate) fn new(zone: Zone) -> Self {
        Self {
            offsets: ZoneOffsets::new(zone),
        }
    }

    /// `text` in `unit` since the epoch. Fraction digits finer than the unit are truncated. `None` if it is not a timestamp or
    /// is out of range. Java's form, with the name of a zone at the end, is accepted too: an offset before the name takes
    /// precedence, and without one the zone applies.
    pub(crate) fn read(&mut self, text: &str, unit: TimeUnit) -> Option<i64> {
        let (text, zone) = match text.strip_suffix(']') {
            Some(text) => {
                let (text, zone) = text.rsplit_once('[')?;
                (text, Some(Zone::find(zone)?))
            }
            None => (text, None),
        };
        let parsed = parse_datetime(text.as_bytes())?;
        let offset = match (parsed.offset, zone) {
            (Some(offset), _) => offset,
            (None, Some(zone)) => ZoneOffsets::new(zone).of_local(parsed.local_seconds),
            (None, None) => self.offsets.of_local(parsed.local_seconds),
        };
        to_unit(parsed.local_seconds - i64::from(offset), parsed.nanos, unit)
    }
}

/// Writes timestamps in a zone.
#[derive(Debug, Clone)]
pub(crate) struct TimestampWriter {
    format: TimestampFormat,
    offsets: ZoneOffsets,
}

impl TimestampWriter {
    pub(crate) fn new(format: TimestampFormat, zone: Zone) -> Self {
        Self {
            format,
            offsets: ZoneOffsets::new(zone),
        }
    }

    /// Writes `value`, in `unit` since the epoch, without quotes.
    pub(crate) fn write(&mut self, value: i64, unit: TimeUnit, out: &mut Vec<u8>) {
        let per_second = units_per_second(unit);
        let seconds = value.div_euclid(per_second);
        let nanos = value.rem_euclid(per_second) * (NANOS_PER_SECOND / per_second);
        match self.format {
            TimestampFormat::EpochSeconds => return write_integer(i128::from(seconds), out),
            TimestampFormat::EpochMillis => {
                return write_integer(
                    i128::from(seconds) * 1000 + i128::from(nanos / 1_000_000),
                    out,
                );
            }
            TimestampFormat::EpochMicros => {
                return write_integer(
                    i128::from(seconds) * 1_000_000 + i128::from(nanos / 1000),
                    out,
                );
            }
            _ => {}
        }
        let offset = self.offsets.of_utc(seconds);
        let local = seconds + i64::from(offset);
        write_date(local.div_euclid(SECONDS_PER_DAY), out);
        out.push(if self.format == TimestampFormat::Sql {
            b' '
        } else {
            b'T'
        });
        write_clock(local.rem_euclid(SECONDS_PER_DAY), out);
        out.push(b'.');
        let digits = match self.format {
            TimestampFormat::IsoMillis => 3,
            TimestampFormat::Iso if nanos % 1_000_000 == 0 => 3,
            TimestampFormat::Iso if nanos % 1000 != 0 => 9,
            _ => 6,
        };
        write_fraction(nanos, digits, out);
        if self.format == TimestampFormat::Sql {
            return;
        }
        if self.offsets.is_utc() {
            out.push(b'Z');
        } else {
            write_offset(offset, out);
        }
    }
}

/// Seconds and nanoseconds since the epoch in `unit`, finer digits cut off.
pub(crate) fn to_unit(seconds: i64, nanos: u32, unit: TimeUnit) -> Option<i64> {
    let per_second = units_per_second(unit);
    let fraction = i64::from(nanos) / (NANOS_PER_SECOND / per_second);
    // The product alone may be out of range where the sum is not.
    let value = i128::from(seconds) * i128::from(per_second) + i128::from(fraction);
    i64::try_from(value).ok()
}

/// How many of `unit` make a second.
pub(crate) fn units_per_second(unit: TimeUnit) -> i64 {
    match unit {
        TimeUnit::Second => 1,
        TimeUnit::Millisecond => 1000,
        TimeUnit::Microsecond => 1_000_000,
        TimeUnit::Nanosecond => NANOS_PER_SECOND,
    }
}

/// `YYYY-MM-DD` as days since the epoch.
pub(crate) fn parse_date(text: &str) -> Option<i32> {
    let (days, rest) = take_date(text.as_bytes())?;
    if rest.is_empty() {
        i32::try_from(days).ok()
    } else {
        None
    }
}

/// `HH:MM[:SS[.f…]]`, with a point or a comma, as nanoseconds since midnight.
pub(crate) fn parse_time(text: &str) -> Option<i64> {
    let (seconds, nanos, rest) = take_time(text.as_bytes())?;
    rest.is_empty()
        .then_some(seconds * NANOS_PER_SECOND + i64::from(nanos))
}

/// `YYYY-MM-DD` of `days` since the epoch. Years outside 0 to 9999 are signed, with six digits, or seven where those are not enough.
pub(crate) fn write_date(days: i64, out: &mut Vec<u8>) {
    let (year, month, day) = civil(days);
    if (0..=9999).contains(&year) {
        write_padded(year as u64, 4, out);
    } else {
        out.push(if year < 0 { b'-' } else { b'+' });
        let size = year.unsigned_abs();
        write_padded(size, if size < 1_000_000 { 6 } else { 7 }, out);
    }
    out.push(b'-');
    write_padded(month.unsigned_abs(), 2, out);
    out.push(b'-');
    write_padded(day.unsigned_abs(), 2, out);
}

/// `HH:MM:SS`, with 3, 6 or 9 fraction digits if there are any, of nanoseconds since midnight.
pub(crate) fn write_time(nanos_of_day: i64, out: &mut Vec<u8>) {
    write_clock(nanos_of_day.div_euclid(NANOS_PER_SECOND), out);
    let nanos = nanos_of_day.rem_euclid(NANOS_PER_SECOND);
    if nanos != 0 {
        out.push(b'.');
        let digits = match nanos {
            n if n % 1_000_000 == 0 => 3,
            n if n % 1000 == 0 => 6,
            _ => 9,
        };
        write_fraction(nanos, digits, out);
    }
}

struct DateTimeText {
    /// The wall clock as if it were UTC.
    local_seconds: i64,
    nanos: u32,
    /// Seconds east of Greenwich, if the text has an offset.
    offset: Option<i32>,
}

/// A date, then optionally `T` or a space, a time, and `Z` or an offset.
fn parse_datetime(text: &[u8]) -> Option<DateTimeText> {
    let (days, rest) = take_date(text)?;
    let midnight = days * SECONDS_PER_DAY;
    let clock = match rest {
        [] => {
            return Some(DateTimeText {
                local_seconds: midnight,
                nanos: 0,
                offset: None,
            });
        }
        [b'T' | b't' | b' ', clock @ ..] => clock,
        _ => return None,
    };
    let (seconds, nanos, rest) = take_time(clock)?;
    let rest = match rest {
        [b' ', zone @ ..] if !zone.is_empty() => zone,
        rest => rest,
    };
    let offset = match rest {
        [] => None,
        [b'Z' | b'z'] => Some(0),
        rest => Some(parse_offset(rest)?),
    };
    Some(DateTimeText {
        local_seconds: midnight + seconds,
        nanos,
        offset,
    })
}

/// Days since the epoch, and the rest of the text after the date.
fn take_date(text: &[u8]) -> Option<(i64, &[u8])> {
    let (year, rest) = match text.first()? {
        sign @ (b'+' | b'-') => {
            let digits = text[1..].iter().take_while(|b| b.is_ascii_digit()).count();
            if !(4..=7).contains(&digits) {
                return None;
            }
            let size = text[1..=digits]
                .iter()
                .fold(0, |n, b| n * 10 + i64::from(b - b'0'));
            (
                if *sign == b'-' { -size } else { size },
                &text[1 + digits..],
            )
        }
        _ => {
            let (century, rest) = take_two(text)?;
            let (year, rest) = take_two(rest)?;
            (i64::from(century * 100 + year), rest)
        }
    };
    let (month, rest) = take_two(rest.strip_prefix(b"-")?)?;
    let (day, rest) = take_two(rest.strip_prefix(b"-")?)?;
    let (month, day) = (i64::from(month), i64::from(day));
    if !(1..=12).contains(&month) || day < 1 || day > days_in_month(year, month) {
        return None;
    }
    Some((days(year, month, day), rest))
}

/// Seconds and nanoseconds since midnight, and the rest of the text after the time.
fn take_time(text: &[u8]) -> Option<(i64, u32, &[u8])> {
    let (hours, rest) = take_two(text)?;
    let (minutes, rest) = take_two(rest.strip_prefix(b":")?)?;
    let (seconds, rest) = match rest {
        [b':', rest @ ..] => take_two(rest)?,
        rest => (0, rest),
    };
    if hours > 23 || minutes > 59 || seconds > 59 {
        return None;
    }
    let total = i64::from(hours * 3600 + minutes * 60 + seconds);
    // ISO 8601 allows both, and loggers of Java write the comma.
    let [b'.' | b',', fraction @ ..] = rest else {
        return Some((total, 0, rest));
    };
    let mut nanos = 0_u32;
    let mut digits = 0;
    while let Some(digit) = fraction.get(digits).filter(|b| b.is_ascii_digit()) {
        if digits < 9 {
            nanos = nanos * 10 + u32::from(digit - b'0');
        }
        digits += 1;
    }
    if digits == 0 {
        return None;
    }
    for _ in digits..9 {
        nanos *= 10;
    }
    Some((total, nanos, &fraction[digits..]))
}

fn write_clock(seconds_of_day: i64, out: &mut Vec<u8>) {
    let seconds = seconds_of_day as u64;
    write_padded(seconds / 3600, 2, out);
    out.push(b':');
    write_padded(seconds / 60 % 60, 2, out);
    out.push(b':');
    write_padded(seconds % 60, 2, out);
}

fn write_fraction(nanos: i64, digits: usize, out: &mut Vec<u8>) {
    let divisor = match digits {
        3 => 1_000_000,
        6 => 1000,
        _ => 1,
    };
    write_padded((nanos / divisor) as u64, digits, out);
}

fn write_offset(offset: i32, out: &mut Vec<u8>) {
    out.push(if offset < 0 { b'-' } else { b'+' });
    let seconds = u64::from(offset.unsigned_abs());
    write_padded(seconds / 3600, 2, out);
    out.push(b':');
    write_padded(seconds / 60 % 60, 2, out);
    // Local mean times of the nineteenth century have seconds.
    if seconds % 60 != 0 {
        out.push(b':');
        write_padded(seconds % 60, 2, out);
    }
}

/// `value` with leading zeros to `width` digits.
fn write_padded(value: u64, width: usize, out: &mut Vec<u8>) {
    let start = out.len();
    out.resize(start + width, b'0');
    let mut rest = value;
    for digit in out[start..].iter_mut().rev() {
        *digit = b'0' + (rest % 10) as u8;
        rest /= 10;
    }
}

fn write_integer(value: i128, out: &mut Vec<u8>) {
    use std::io::Write;
    // Writing to a vector cannot fail.
    let _ = write!(out, "{value}");
}

#[cfg(test)]
#[path = "time_tests.rs"]
mod tests;
