//! Ranges of event time, in microseconds since 1970 UTC.

use std::fmt;

use chrono::{DateTime, SecondsFormat};

/// A range of event time that is not empty: `from` is in it, `to` is not.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct TimeRange {
    from: i64,
    to: i64,
}

impl TimeRange {
    /// The range `from..to`; `None` if it is empty.
    pub fn try_new(from: i64, to: i64) -> Option<Self> {
        (from < to).then_some(Self { from, to })
    }

    /// The first instant.
    pub fn from(&self) -> i64 {
        self.from
    }

    /// The first instant after the range.
    pub fn to(&self) -> i64 {
        self.to
    }

    /// Whether an instant is in the range.
    pub fn contains(&self, time: i64) -> bool {
        self.from <= time && time < self.to
    }
}

impl fmt::Display for TimeRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} to {}", time_text(self.from), time_text(self.to))
    }
}

/// An instant as text, in UTC; a number if it is beyond the calendar.
pub fn time_text(time: i64) -> String {
    match DateTime::from_timestamp_micros(time) {
        Some(time) => time.to_rfc3339_opts(SecondsFormat::AutoSi, true),
        None => format!("{time} microseconds since 1970"),
    }
}

/// Ranges in the order of time, with a distance between each two.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct TimeRanges(Vec<TimeRange>);

impl TimeRanges {
    /// The instants of these ranges, which come in any order. Two that are at most `distance` apart become one, with what lies
    /// between them.
    pub fn joined(mut ranges: Vec<TimeRange>, distance: i64) -> Self {
        ranges.sort_unstable();
        let mut joined: Vec<TimeRange> = Vec::with_capacity(ranges.len());
        for range in ranges {
            match joined.last_mut() {
                Some(last) if range.from <= last.to.saturating_add(distance) => {
                    last.to = last.to.max(range.to);
                }
                _ => joined.push(range),
            }
        }
        Self(joined)
    }

    /// The ranges, ascending.
    pub fn as_slice(&self) -> &[TimeRange] {
        &self.0
    }

    /// Whether there is no range.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl From<TimeRange> for TimeRanges {
    fn from(range: TimeRange) -> Self {
        Self(vec![range])
    }
}

impl fmt::Display for TimeRanges {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        /// Ranges that are shown.
        const SHOWN: usize = 5;
        let shown: Vec<String> = self.0.iter().take(SHOWN).map(ToString::to_string).collect();
        f.write_str(&shown.join(", "))?;
        match self.0.len().saturating_sub(SHOWN) {
            0 => Ok(()),
            more => write!(f, " and {more} more"),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn range(from: i64, to: i64) -> TimeRange {
        TimeRange::try_new(from, to).unwrap()
    }

    #[test]
    fn ranges_are_shown_in_utc() {
        assert_eq!(TimeRange::try_new(5, 5), None);
        let hour = range(1_756_980_000_000_000, 1_756_983_600_000_000);
        let text = "2025-09-04T10:00:00Z to 2025-09-04T11:00:00Z";
        assert_eq!(hour.to_string(), text);
        let many = (0..7).map(|at| range(at * 10, at * 10 + 1)).collect();
        let text = TimeRanges::joined(many, 0).to_string();
        assert!(text.ends_with(" and 2 more"), "{text}");
        let far = format!("{} microseconds since 1970", i64::MAX);
        assert_eq!(time_text(i64::MAX), far);
    }

    proptest! {
        #[test]
        fn joined_ranges_have_the_same_instants(
            ranges in prop::collection::vec((0_i64..60, 1_i64..9), 0..8), distance in 0_i64..6,
        ) {
            let ranges: Vec<TimeRange> =
                ranges.iter().map(|(from, length)| range(*from, from + length)).collect();
            let joined = TimeRanges::joined(ranges.clone(), distance);
            for pair in joined.as_slice().windows(2) {
                prop_assert!(pair[0].to() + distance < pair[1].from());
            }
            for time in -1..80 {
                let is_in = |ranges: &[TimeRange]| ranges.iter().any(|range| range.contains(time));
                // Instants between ranges that were joined have neighbours near on both sides.
                let is_between = ranges.iter().any(|range| range.to() <= time && time < range.to() + distance)
                    && ranges.iter().any(|range| time < range.from() && range.from() - distance <= time);
                prop_assert!(!is_in(&ranges) || is_in(joined.as_slice()));
                prop_assert!(is_in(&ranges) || is_between || !is_in(joined.as_slice()));
            }
        }
    }
}
