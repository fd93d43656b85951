//! The timestamp parser and writer against chrono.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use chrono::{DateTime, NaiveDateTime, SecondsFormat, TimeZone, Utc};
use proptest::prelude::*;

use super::*;

const MICRO: TimeUnit = TimeUnit::Microsecond;

fn read(zone: &str, text: &str) -> Option<i64> {
    TimestampReader::new(Zone::parse(zone).unwrap()).read(text, MICRO)
}

fn write(format: TimestampFormat, zone: &str, micros: i64) -> String {
    let mut out = Vec::new();
    TimestampWriter::new(format, Zone::parse(zone).unwrap()).write(micros, MICRO, &mut out);
    String::from_utf8(out).unwrap()
}

fn micros(text: &str) -> i64 {
    DateTime::parse_from_rfc3339(text)
        .unwrap()
        .timestamp_micros()
}

#[test]
fn accepted_forms() {
    let noon = micros("2025-09-04T12:00:00Z");
    for text in [
        "2025-09-04T12:00:00Z",
        "2025-09-04t12:00:00z",
        "2025-09-04 12:00:00Z",
        "2025-09-04T12:00Z",
        "2025-09-04T12:00:00.0000000000001Z",
        "2025-09-04T14:00:00+02:00",
        "2025-09-04T14:00:00+0200",
        "2025-09-04T14:00:00 +02",
        "2025-09-04T06:30:00-05:30",
        "2025-09-04T14:00:00",
        "2025-09-04 14:00:00.000",
    ] {
        assert_eq!(read("Europe/Paris", text), Some(noon), "{text}");
    }
    assert_eq!(
        read("Europe/Paris", "2025-09-04"),
        Some(micros("2025-09-03T22:00:00Z"))
    );
    assert_eq!(
        read("UTC", "2025-09-04T12:00:00.123456789Z"),
        Some(noon + 123_456)
    );
    assert_eq!(read("UTC", "1969-12-31T23:59:59.999999999Z"), Some(-1));
}

#[test]
fn refused_forms() {
    for text in [
        "",
        "2025",
        "2025-09",
        "2025-9-4",
        "2025-02-29",
        "2025-13-01",
        "2025-00-01",
        "2025-01-00",
        "2025-09-04T",
        "2025-09-04T12",
        "2025-09-04T24:00:00",
        "2025-09-04T12:60",
        "2025-09-04T12:00:60",
        "2025-09-04T12:00:00.",
        "2025-09-04T12:00:00.Z",
        "2025-09-04T12:00:00 ",
        "2025-09-04T12:00:00ZZ",
        "2025-09-04T12:00:00+24:00",
        "2025-09-04T12:00:00+2",
        "2025-09-04T12:00:00+02:0",
        " 2025-09-04",
        "2025-09-04X12:00:00",
        "٢025-09-04",
        "+999999-01-01",
    ] {
        assert_eq!(read("UTC", text), None, "{text:?}");
    }
}

#[test]
fn written_forms() {
    let at = micros("2025-09-04T05:00:00Z");
    assert_eq!(
        write(TimestampFormat::Iso, "UTC", at),
        "2025-09-04T05:00:00.000Z"
    );
    assert_eq!(
        write(TimestampFormat::Iso, "UTC", at + 1),
        "2025-09-04T05:00:00.000001Z"
    );
    assert_eq!(
        write(TimestampFormat::Iso, "Europe/Paris", at),
        "2025-09-04T07:00:00.000+02:00"
    );
    assert_eq!(
        write(TimestampFormat::IsoMillis, "Europe/Paris", at + 1999),
        "2025-09-04T07:00:00.001+02:00"
    );
    assert_eq!(
        write(TimestampFormat::IsoMicros, "-03:30", at),
        "2025-09-04T01:30:00.000000-03:30"
    );
    assert_eq!(
        write(TimestampFormat::Sql, "Europe/Paris", at),
        "2025-09-04 07:00:00.000000"
    );
    assert_eq!(write(TimestampFormat::EpochSeconds, "UTC", -1), "-1");
    assert_eq!(
        write(TimestampFormat::EpochMillis, "UTC", at),
        (at / 1000).to_string()
    );
    assert_eq!(
        write(TimestampFormat::EpochMicros, "Europe/Paris", at),
        at.to_string()
    );
}

#[test]
fn dates_and_times() {
    assert_eq!(parse_date("1970-01-02"), Some(1));
    assert_eq!(parse_date("1970-01-02T00:00"), None);
    for (days, text) in [
        (i32::MAX, "+5881580-07-11"),
        (i32::MIN, "-5877641-06-23"),
        (364_522_972, "+1000000-01-01"),
        (364_522_971, "+999999-12-31"),
    ] {
        let mut out = Vec::new();
        write_date(i64::from(days), &mut out);
        assert_eq!(String::from_utf8(out).unwrap(), text);
        assert_eq!(parse_date(text), Some(days));
    }
    assert_eq!(parse_time("00:00:01.5"), Some(1_500_000_000));
    assert_eq!(
        parse_time("23:59"),
        Some((23 * 3600 + 59 * 60) * NANOS_PER_SECOND)
    );
    assert_eq!(parse_time("24:00"), None);
    let mut out = Vec::new();
    write_time(3_661_000_001_000, &mut out);
    assert_eq!(String::from_utf8(out).unwrap(), "01:01:01.000001");
}

proptest! {
    #[test]
    fn reads_what_chrono_writes(
        value in -62_167_219_200_000_000_i64..253_402_300_799_999_999,
        offset in -86_340_i32 / 60..86_340 / 60,
        digits in prop::sample::select(vec![
            SecondsFormat::Secs, SecondsFormat::Millis, SecondsFormat::Micros, SecondsFormat::Nanos,
        ]),
    ) {
        let zone = chrono::FixedOffset::east_opt(offset * 60).unwrap();
        let text = zone.timestamp_micros(value).unwrap().to_rfc3339_opts(digits, true);
        // chrono writes years beyond four digits in its own way.
        prop_assume!(text.as_bytes()[4] == b'-' && text.as_bytes()[0].is_ascii_digit());
        prop_assert_eq!(read("UTC", &text), Some(micros(&text)), "{}", text);
    }

    #[test]
    fn agrees_with_chrono_on_near_misses(text in "[0-9]{4}-[01][0-9]-[0-3][0-9]T[0-2][0-9]:[0-6][0-9]:[0-6][0-9](\\.[0-9]{1,9})?(Z|[+-][0-2][0-9]:[0-6][0-9])") {
        // A leap second is a time to chrono, not to SQL.
        prop_assume!(&text[17..19] != "60");
        let expected = DateTime::parse_from_rfc3339(&text).ok().map(|time| time.timestamp_micros());
        prop_assert_eq!(read("UTC", &text), expected);
    }

    #[test]
    fn writes_what_chrono_writes(value in -62_167_219_200_000_000_i64..253_402_300_799_999_999) {
        let time: DateTime<Utc> = DateTime::from_timestamp_micros(value).unwrap();
        prop_assert_eq!(
            write(TimestampFormat::IsoMicros, "UTC", value),
            time.to_rfc3339_opts(SecondsFormat::Micros, true)
        );
        let paris = time.with_timezone(&chrono_tz::Europe::Paris);
        prop_assert_eq!(
            write(TimestampFormat::Sql, "Europe/Paris", value),
            paris.format("%Y-%m-%d %H:%M:%S%.6f").to_string()
        );
    }

    #[test]
    fn every_timestamp_reads_back(
        value in any::<i64>(),
        zone in prop::sample::select(vec!["UTC", "Europe/Paris", "America/New_York", "+05:45"]),
        unit in prop::sample::select(vec![TimeUnit::Millisecond, MICRO, TimeUnit::Nanosecond]),
    ) {
        // Years are written with up to six digits.
        let value = if unit == TimeUnit::Millisecond { value / 1000 } else { value };
        let zone = Zone::parse(zone).unwrap();
        let mut out = Vec::new();
        TimestampWriter::new(TimestampFormat::Iso, zone).write(value, unit, &mut out);
        let text = String::from_utf8(out).unwrap();
        let zero = Zone::Utc;
        prop_assert_eq!(TimestampReader::new(zero).read(&text, unit), Some(value), "{}", text);
    }

    #[test]
    fn every_date_and_time_reads_back(days in any::<i32>(), nanos in 0_i64..86_400_000_000_000) {
        let mut out = Vec::new();
        write_date(i64::from(days), &mut out);
        prop_assert_eq!(parse_date(&String::from_utf8(out).unwrap()), Some(days));
        let mut out = Vec::new();
        write_time(nanos, &mut out);
        prop_assert_eq!(parse_time(&String::from_utf8(out).unwrap()), Some(nanos));
    }

    #[test]
    fn any_text_is_read_or_refused(text in "\\PC{0,30}", digits in "[-+:.TZ 0-9]{0,30}") {
        let mut reader = TimestampReader::new(Zone::parse("Europe/Paris").unwrap());
        for text in [text, digits] {
            reader.read(&text, MICRO);
            parse_date(&text);
            parse_time(&text);
        }
    }

    #[test]
    fn local_text_agrees_with_chrono(seconds in 0_i64..4_000_000_000) {
        let local: NaiveDateTime = DateTime::from_timestamp(seconds, 0).unwrap().naive_utc();
        let text = local.format("%Y-%m-%d %H:%M:%S").to_string();
        let zone = chrono_tz::America::New_York;
        if let Some(expected) = zone.from_local_datetime(&local).earliest() {
            prop_assert_eq!(read("America/New_York", &text), Some(expected.timestamp_micros()));
        } else {
            // A local time within a gap stands for the time an hour later.
            let later = zone.from_local_datetime(&(local + chrono::Duration::hours(1))).unwrap();
            prop_assert_eq!(read("America/New_York", &text), Some(later.timestamp_micros()));
        }
    }
}

#[test]
fn a_comma_and_the_name_of_a_zone_are_read() {
    let mut utc = TimestampReader::new(Zone::Utc);
    let mut read = |text: &str| utc.read(text, TimeUnit::Millisecond);
    let ten = read("2025-07-01T10:00:00.123Z");
    assert!(ten.is_some());
    for same in [
        "2025-07-01T10:00:00,123",
        "2025-07-01 12:00:00,123+02:00",
        "2025-07-01T12:00:00.123+02:00[Europe/Paris]",
        "2025-07-01T12:00:00.123[Europe/Paris]",
        "2025-07-01T10:00:00.123Z[UTC]",
        // The offset decides; the name of the zone does not count.
        "2025-07-01T12:00:00.123+02:00[Asia/Tokyo]",
    ] {
        assert_eq!(read(same), ten, "{same}");
    }
    for wrong in [
        "2025-07-01T10:00:00[Mars/City]",
        "2025-07-01T10:00:00]",
        "[UTC]",
        "2025-07-01T10:00:00,",
    ] {
        assert_eq!(read(wrong), None, "{wrong}");
    }
}
