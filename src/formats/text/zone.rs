//! Time zone of a table: conversion between wall clock times and instants.
//!
//! Where a clock is set back, a time that occurs twice means its first occurrence; where it is set
//! forward, a time that does not occur is read with the offset before the change, which shifts it
//! forward by the length of the gap (`02:30` becomes `03:30`). These are also Java's and Spark's
//! rules.

use chrono::{DateTime, NaiveDateTime, Offset, TimeZone};
use chrono_tz::{TZ_VARIANTS, Tz};

use crate::core::suggest::closest;
use crate::error::{Error, Result, Subject};

/// A time zone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Zone {
    Utc,
    /// Seconds east of Greenwich.
    Fixed(i32),
    Named(Tz),
}

impl Zone {
    /// `UTC`, `Z`, an offset (`+02:00`) or an IANA name (`Europe/Paris`).
    pub(crate) fn parse(text: &str) -> Result<Self> {
        Self::find(text).ok_or_else(|| {
            let error = Error::invalid(format!("unknown time zone '{text}' in option 'timezone'"))
                .about(Subject::option("timezone"));
            match closest(text, TZ_VARIANTS.iter().map(|zone| zone.name())) {
                Some(name) => error.with_help(format!("did you mean '{name}'?")),
                None => error
                    .with_help("use UTC, an offset like +02:00, or an IANA name like Europe/Paris"),
            }
        })
    }

    /// The same, if it is one.
    pub(crate) fn find(text: &str) -> Option<Self> {
        if matches!(text, "UTC" | "utc" | "Z") {
            return Some(Zone::Utc);
        }
        if let Some(seconds) = super::offset::parse_offset(text.as_bytes()) {
            return Some(Zone::Fixed(seconds));
        }
        text.parse::<Tz>().ok().map(Zone::Named)
    }

    /// Seconds east of Greenwich at a local time, given as if it were UTC.
    fn offset_of_local(self, local: i64) -> i32 {
        match self {
            Zone::Utc => 0,
            Zone::Fixed(seconds) => seconds,
            Zone::Named(zone) => offset_of_local(zone, local),
        }
    }

    /// Seconds east of Greenwich at an instant.
    fn offset_of_utc(self, instant: i64) -> i32 {
        match self {
            Zone::Utc => 0,
            Zone::Fixed(seconds) => seconds,
            Zone::Named(zone) => zone
                .offset_from_utc_datetime(&naive(instant))
                .fix()
                .local_minus_utc(),
        }
    }
}

/// The offsets of one zone, remembering the last one: neighbouring records are close in time.
#[derive(Debug, Clone)]
pub(crate) struct ZoneOffsets {
    zone: Zone,
    local: CachedOffset,
    utc: CachedOffset,
}

#[derive(Debug, Clone, Copy, Default)]
struct CachedOffset {
    /// A span of time without a change of the clock, if one is known.
    bucket: Option<i64>,
    offset: i32,
}

/// Shorter than the time between any two changes of a clock, so that equal offsets at both ends of
/// a bucket mean that there is none in it.
const BUCKET_SECONDS: i64 = 900;

impl ZoneOffsets {
    pub(crate) fn new(zone: Zone) -> Self {
        Self {
            zone,
            local: CachedOffset::default(),
            utc: CachedOffset::default(),
        }
    }

    /// Seconds east of Greenwich at a local time, given as if it were UTC.
    pub(crate) fn of_local(&mut self, local: i64) -> i32 {
        let zone = self.zone;
        self.local.get(zone, local, Zone::offset_of_local)
    }

    /// Seconds east of Greenwich at an instant.
    pub(crate) fn of_utc(&mut self, instant: i64) -> i32 {
        let zone = self.zone;
        self.utc.get(zone, instant, Zone::offset_of_utc)
    }

    pub(crate) fn is_utc(&self) -> bool {
        self.zone == Zone::Utc
    }
}

impl CachedOffset {
    fn get(&mut self, zone: Zone, seconds: i64, compute: fn(Zone, i64) -> i32) -> i32 {
        match zone {
            Zone::Utc => return 0,
            Zone::Fixed(offset) => return offset,
            Zone::Named(_) => {}
        }
        let bucket = seconds.div_euclid(BUCKET_SECONDS);
        if self.bucket == Some(bucket) {
            return self.offset;
        }
        let offset = compute(zone, seconds);
        let start = bucket.saturating_mul(BUCKET_SECONDS);
        let end = start.saturating_add(BUCKET_SECONDS - 1);
        if compute(zone, start) == offset && compute(zone, end) == offset {
            *self = Self {
                bucket: Some(bucket),
                offset,
            };
        }
        offset
    }
}

fn offset_of_local(zone: Tz, local: i64) -> i32 {
    const STEP: i64 = 900;
    /// No clock was ever set forward by more than a day.
    const STEPS: i64 = 26 * 3600 / STEP;
    for step in 0..=STEPS {
        // The first step that resolves after a gap lies just before it.
        let before = zone.offset_from_local_datetime(&naive(local.saturating_sub(step * STEP)));
        let found = if step == 0 {
            before.earliest()
        } else {
            before.latest()
        };
        if let Some(offset) = found {
            return offset.fix().local_minus_utc();
        }
    }
    zone.offset_from_utc_datetime(&naive(local))
        .fix()
        .local_minus_utc()
}

/// Times beyond chrono's range have the offset at its ends.
fn naive(seconds: i64) -> NaiveDateTime {
    const DAY: i64 = 86_400;
    let first = NaiveDateTime::MIN.and_utc().timestamp() + 2 * DAY;
    let last = NaiveDateTime::MAX.and_utc().timestamp() - 2 * DAY;
    DateTime::from_timestamp(seconds.clamp(first, last), 0)
        .unwrap_or_default()
        .naive_utc()
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn seconds(text: &str) -> i64 {
        NaiveDateTime::parse_from_str(text, "%Y-%m-%d %H:%M:%S")
            .unwrap()
            .and_utc()
            .timestamp()
    }

    #[test]
    fn overlap_takes_the_first_occurrence_and_gap_shifts_forward() {
        let mut paris = ZoneOffsets::new(Zone::parse("Europe/Paris").unwrap());
        assert_eq!(paris.of_local(seconds("2025-01-01 12:00:00")), 3600);
        assert_eq!(paris.of_local(seconds("2025-07-01 12:00:00")), 7200);
        // 02:00 to 03:00 occurs twice on this day.
        assert_eq!(paris.of_local(seconds("2025-10-26 02:30:00")), 7200);
        assert_eq!(paris.of_local(seconds("2025-10-26 03:00:00")), 3600);
        // 02:00 to 03:00 does not occur on this one.
        for text in [
            "2025-03-30 02:00:00",
            "2025-03-30 02:30:00",
            "2025-03-30 02:59:59",
        ] {
            assert_eq!(paris.of_local(seconds(text)), 3600, "{text}");
        }
        assert_eq!(paris.of_local(seconds("2025-03-30 03:00:00")), 7200);
        // A whole day was left out.
        let mut apia = ZoneOffsets::new(Zone::parse("Pacific/Apia").unwrap());
        assert_eq!(apia.of_local(seconds("2011-12-30 12:00:00")), -10 * 3600);
    }

    #[test]
    fn invalid_zones_get_a_suggestion() {
        assert_eq!(Zone::parse("Z").unwrap(), Zone::Utc);
        assert_eq!(Zone::parse("+05:30").unwrap(), Zone::Fixed(19_800));
        let error = Zone::parse("Europe/Pari").unwrap_err();
        assert_eq!(error.help(), Some("did you mean 'Europe/Paris'?"));
        assert!(
            Zone::parse("Mars")
                .unwrap_err()
                .help()
                .unwrap()
                .contains("IANA")
        );
    }

    proptest! {
        #[test]
        fn the_offset_cache_does_not_change_results(
            zone in prop::sample::select(vec!["Europe/Paris", "America/New_York", "Asia/Kathmandu", "Australia/Lord_Howe", "Pacific/Apia"]),
            times in prop::collection::vec(-5_000_000_000_i64..5_000_000_000, 1..20),
            steps in prop::collection::vec(0_i64..4000, 1..20),
        ) {
            let zone = Zone::parse(zone).unwrap();
            let mut offsets = ZoneOffsets::new(zone);
            for time in times {
                for step in &steps {
                    prop_assert_eq!(offsets.of_local(time + step), zone.offset_of_local(time + step));
                    prop_assert_eq!(offsets.of_utc(time + step), zone.offset_of_utc(time + step));
                }
            }
        }
    }
}
