//! Tests of the forms of `'scan.startup'`, and of the offsets that follow from them.

use std::fmt::Write as _;

use proptest::prelude::*;

use super::*;
use crate::core::archive::OffsetSpan;

fn partitions(starts: &[(i32, StartOffset)]) -> BTreeMap<i32, StartOffset> {
    starts.iter().copied().collect()
}

fn ends(partition: i32, low: i64, high: i64, latest: i64) -> PartitionEnds {
    PartitionEnds {
        partition,
        low,
        high,
        latest,
        unread: None,
        behind_hole: None,
    }
}

#[test]
fn offsets_are_read_as_spark_writes_them() {
    let json = r#"{"visits":{"0":23,"1":-2,"10":-1}, "clicks":{"0":9223372036854775807}}"#;
    let visits = [
        (0, StartOffset::At(23)),
        (1, StartOffset::First),
        (10, StartOffset::End),
    ];
    let expected = StartOffsets::from([
        ("visits".to_owned(), partitions(&visits)),
        (
            "clicks".to_owned(),
            partitions(&[(0, StartOffset::At(i64::MAX))]),
        ),
    ]);
    assert_eq!(parse_start_offsets(json).unwrap(), expected);
}

#[test]
fn mistakes_in_offsets_are_named_with_their_place() {
    for (json, expected) in [
        ("{", "EOF while parsing an object at line 1 column 1"),
        ("[]", r#"expected offsets by table and partition"#),
        ("{}", "no table is named"),
        (r#"{"t":{}}"#, "no partition is named"),
        (
            r#"{"t":5}"#,
            "invalid type: integer `5`, expected offsets by partition",
        ),
        (
            r#"{"0":5}"#,
            "invalid type: integer `5`, expected offsets by partition",
        ),
        (
            r#"{"t":{"0":-3}}"#,
            "invalid value: integer `-3`, expected an offset, -2 for the first record, or -1 for the end",
        ),
        (r#"{"t":{"0":1.5}}"#, "floating point `1.5`"),
        (
            r#"{"t":{"0":"1"}}"#,
            r#"string "1", expected an offset, -2 for the first record, or -1 for the end at line 1"#,
        ),
        (r#"{"t":{"0":null}}"#, "null"),
        (
            r#"{"t":{"0":9223372036854775808}}"#,
            "integer `9223372036854775808`",
        ),
        (
            r#"{"t":{"x":1}}"#,
            r#"string "x", expected the number of a partition"#,
        ),
        (r#"{"t":{"-1":1}}"#, r#"string "-1""#),
        (r#"{"t":{"01":1}}"#, r#"string "01""#),
        (r#"{"t":{"+1":1}}"#, r#"string "+1""#),
        (r#"{"t":{"2147483648":1}}"#, r#"string "2147483648""#),
        (r#"{"t":{"0":1,"0":1}}"#, "partition 0 is named twice"),
        (r#"{"t":{"0":1},"t":{"1":1}}"#, "t is named twice"),
        (r#"{"t":{"0":1}} {"#, "trailing characters"),
    ] {
        let error = parse_start_offsets(json).unwrap_err().to_string();
        assert!(error.contains(expected), "{json}: {error}");
    }
}

#[test]
fn a_topic_stands_for_the_one_table_that_reads_it() {
    let offsets = |names: &[&str]| {
        let at = partitions(&[(0, StartOffset::First)]);
        let named = names.iter().map(|name| ((*name).to_owned(), at.clone()));
        named.collect::<StartOffsets>()
    };
    let tables = [
        ("visits", Some("raw")),
        ("clicks", Some("events")),
        ("views", Some("events")),
        ("raw_again", Some("clicks")),
        ("files", None),
    ];
    let by = |names: &[&str]| by_table(offsets(names), &tables);
    assert_eq!(by(&["visits", "views"]), Ok(offsets(&["visits", "views"])));
    assert_eq!(by(&["raw"]), Ok(offsets(&["visits"])));
    // The name of a table comes first.
    assert_eq!(by(&["clicks"]), Ok(offsets(&["clicks"])));
    assert_eq!(
        by(&["visit"]),
        Err(StartNameFault::Unknown("visit".to_owned()))
    );
    assert_eq!(
        by(&["events"]),
        Err(StartNameFault::Ambiguous {
            topic: "events".to_owned(),
            tables: vec!["clicks".to_owned(), "views".to_owned()],
        })
    );
    assert_eq!(
        by(&["raw", "visits"]),
        Err(StartNameFault::Twice("visits".to_owned()))
    );
    assert_eq!(
        by(&["files"]),
        Err(StartNameFault::NoTopic("files".to_owned()))
    );
}

#[test]
fn all_partitions_are_named_and_have_their_offsets() {
    let there = [ends(0, 5, 9, 9), ends(1, 0, 3, 6), ends(2, 4, 4, 4)];
    let of = |starts: &[(i32, StartOffset)]| {
        start_offsets(&partitions(starts), &there, &BTreeMap::new())
    };
    let (first, end, at) = (StartOffset::First, StartOffset::End, StartOffset::At);
    assert_eq!(
        of(&[(0, first), (1, end), (2, at(4))]),
        Ok(BTreeMap::from([(0, 5), (1, 3), (2, 4)]))
    );
    for (offset, is_there) in [(4, false), (5, true), (9, true), (10, false)] {
        let begins = of(&[(0, at(offset)), (1, first), (2, first)]);
        let expected = match is_there {
            true => Ok(BTreeMap::from([(0, offset), (1, 0), (2, 4)])),
            false => Err(StartFault::OutOfRange {
                partition: 0,
                offset,
                low: 5,
                end: 9,
            }),
        };
        assert_eq!(begins, expected, "{offset}");
    }
    // The end of an open transaction cannot be reached yet.
    for offset in 4..=6 {
        assert_eq!(
            of(&[(0, end), (1, at(offset)), (2, end)]),
            Err(StartFault::BehindTransaction {
                partition: 1,
                offset,
                high: 3
            })
        );
    }
    assert_eq!(
        of(&[(0, end), (3, end), (7, end)]),
        Err(StartFault::NoSuchPartitions(vec![3, 7]))
    );
    assert_eq!(of(&[(0, end)]), Err(StartFault::NotNamed(vec![1, 2])));
}

fn covered(ranges: &[(i64, i64)]) -> OffsetRanges {
    let ranges = ranges.iter();
    ranges
        .map(|(from, to)| OffsetRange::new(*from, *to))
        .collect()
}

#[test]
fn arch_1_offsets_may_be_those_of_the_archive() {
    // The topic has 20 to 29; records of an open transaction are behind it, and another writer has archived them.
    let there = [ends(0, 20, 30, 40), ends(1, 5, 9, 9)];
    let archived = BTreeMap::from([(0, covered(&[(3, 10), (15, 35)]))]);
    let of = |start: StartOffset| {
        let begins = [(0, start), (1, StartOffset::First)];
        start_offsets(&partitions(&begins), &there, &archived)
    };
    let out_of_range = |offset| {
        Err(StartFault::OutOfRange {
            partition: 0,
            offset,
            low: 3,
            end: 40,
        })
    };
    let in_gap = |offset| {
        Err(StartFault::InGap {
            partition: 0,
            offset,
            next: 15,
        })
    };
    assert_eq!(of(StartOffset::First), Ok(BTreeMap::from([(0, 3), (1, 5)])));
    assert_eq!(of(StartOffset::End).unwrap()[&0], 30);
    for offset in [3, 9, 15, 19, 20, 30] {
        assert_eq!(of(StartOffset::At(offset)).unwrap()[&0], offset);
    }
    assert_eq!(of(StartOffset::At(2)), out_of_range(2));
    assert_eq!(of(StartOffset::At(10)), in_gap(10));
    assert_eq!(of(StartOffset::At(14)), in_gap(14));
    assert_eq!(
        of(StartOffset::At(31)),
        Err(StartFault::BehindTransaction {
            partition: 0,
            offset: 31,
            high: 30
        })
    );
    assert_eq!(of(StartOffset::At(41)), out_of_range(41));
}

#[test]
fn arch_1_a_time_does_not_leave_out_archived_records_without_timestamps() {
    let there = [ends(0, 20, 30, 30)];
    let archived = BTreeMap::from([(0, covered(&[(3, 25)]))]);
    let check = |found, first| check_found_by_time(&[(0, found)], &[(0, first)], &there, &archived);
    let unknown = Err(StartFault::NoTimestamps { partition: 0 });
    // The first record of the topic is too early: those before it are not looked at.
    assert_eq!(check(Some(23), Some(21)), Ok(()));
    assert_eq!(check(None, Some(21)), Ok(()));
    assert_eq!(check(Some(21), Some(21)), unknown);
    // The topic has no record.
    assert_eq!(check(None, None), unknown);
    let none = BTreeMap::from([(0, covered(&[(20, 25)]))]);
    for archived in [BTreeMap::new(), none] {
        let found = [(0, Some(21))];
        assert_eq!(
            check_found_by_time(&found, &found, &there, &archived),
            Ok(())
        );
    }
}

#[test]
fn a_time_begins_at_the_first_record_that_is_late_enough_or_at_the_end() {
    let before = [ends(0, 5, 9, 9), ends(1, 0, 3, 6)];
    // Partition 2 has come since the ends were asked for: it is read from its first record.
    let found = [(0, Some(7)), (1, None), (2, None)];
    assert_eq!(
        start_at_time(&found, &before),
        BTreeMap::from([(0, 7), (1, 3)])
    );
}

#[test]
fn a_partition_begins_behind_what_its_archive_has() {
    let spans = |of: &[(i32, i64, i64)]| {
        let spans = of.iter().map(|(partition, first, last)| {
            let span = OffsetSpan {
                first: *first,
                last: *last,
                rows: 1,
            };
            (*partition, span)
        });
        ArchiveOffsets::of([&spans.collect()])
    };
    let there = [ends(0, 5, 9, 9), ends(1, 3, 8, 8), ends(2, 4, 4, 4)];
    // Partition 0 continues where the archive ends, of partition 1 records were removed before they were archived, and partition 2
    // was never archived.
    let archive = spans(&[(0, 0, 6), (1, 0, 1)]);
    assert_eq!(
        start_behind_archive(&archive, &there),
        Ok(BTreeMap::from([(0, 7), (1, 2), (2, 4)]))
    );
    let whole = spans(&[(0, 0, 8)]);
    assert_eq!(start_behind_archive(&whole, &there).unwrap()[&0], 9);
    let beyond = start_behind_archive(&spans(&[(0, 0, 9)]), &there);
    assert_eq!(
        beyond,
        Err(StartFault::NotThePast(NotThePast::Beyond {
            partition: 0,
            last: 9,
            end: 9
        }))
    );
    let other = start_behind_archive(&spans(&[(7, 0, 1)]), &there);
    let no_partition = NotThePast::NoPartition { partition: 7 };
    assert_eq!(other, Err(StartFault::NotThePast(no_partition)));
    // Another writer has archived records of a transaction that is still open.
    let early = start_behind_archive(&spans(&[(0, 0, 7)]), &[ends(0, 5, 6, 9)]);
    assert_eq!(
        early,
        Err(StartFault::BehindTransaction {
            partition: 0,
            offset: 8,
            high: 6
        })
    );
}

#[test]
fn times_are_whole_milliseconds_above_zero() {
    for (micros, expected) in [
        (i64::MIN, SourceStart::First),
        (-1_000, SourceStart::First),
        (0, SourceStart::First),
        (1, SourceStart::Time(1)),
        (1_000, SourceStart::Time(1)),
        (1_001, SourceStart::Time(2)),
        (1_999, SourceStart::Time(2)),
        (2_000, SourceStart::Time(2)),
        (i64::MAX, SourceStart::Time(i64::MAX / 1_000 + 1)),
    ] {
        assert_eq!(Startup::Time(micros).of("t"), Some(expected), "{micros}");
    }
}

#[test]
fn a_table_that_is_not_named_begins_as_it_is_declared() {
    let at = partitions(&[(0, StartOffset::At(3))]);
    let startup = Startup::Offsets(StartOffsets::from([("t".to_owned(), at.clone())]));
    assert_eq!(startup.of("t"), Some(SourceStart::Offsets(at)));
    assert_eq!(startup.of("u"), None);
    assert_eq!(Startup::Earliest.of("u"), Some(SourceStart::First));
    assert_eq!(Startup::Latest.of("u"), Some(SourceStart::End));
}

fn start() -> impl Strategy<Value = StartOffset> {
    prop_oneof![
        Just(StartOffset::First),
        Just(StartOffset::End),
        (0..i64::MAX).prop_map(StartOffset::At),
        (0_i64..12).prop_map(StartOffset::At),
    ]
}

/// The text of offsets, written by hand.
fn written(offsets: &StartOffsets) -> String {
    let mut json = "{".to_owned();
    for (index, (table, partitions)) in offsets.iter().enumerate() {
        let comma = if index > 0 { "," } else { "" };
        write!(json, "{comma}\"{table}\": {{").unwrap();
        for (index, (partition, start)) in partitions.iter().enumerate() {
            let comma = if index > 0 { "," } else { "" };
            let number = match start {
                StartOffset::First => -2,
                StartOffset::End => -1,
                StartOffset::At(offset) => *offset,
            };
            write!(json, "{comma} \"{partition}\" : {number}").unwrap();
        }
        json.push('}');
    }
    json + "}"
}

proptest! {
    #[test]
    fn what_is_written_is_read_back(
        offsets in prop::collection::btree_map(
            "[a-z.]{1,6}",
            prop::collection::btree_map(0..i32::MAX, start(), 1..5),
            1..4,
        ),
    ) {
        let json = written(&offsets);
        prop_assert_eq!(parse_start_offsets(&json).unwrap(), offsets, "{}", json);
    }

    #[test]
    fn no_text_panics(text in ".*", near in r#"\{("(a|0)":(-?[0-9]{1,20}|\{("[01]":-?[0-9]{1,20},?)*\}),?)*\}"#) {
        let _ = parse_start_offsets(&text);
        let _ = parse_start_offsets(&near);
    }

    /// A job begins where its statement says, and never outside of the records that the partition has.
    #[test]
    fn what_is_chosen_is_what_was_said_and_there(
        starts in prop::collection::vec(start(), 1..5),
        lows in prop::collection::vec(0_i64..10, 5),
        kept in prop::collection::vec(0_i64..10, 5),
    ) {
        let there: Vec<PartitionEnds> = (0..)
            .zip(&starts)
            .zip(lows.iter().zip(&kept))
            .map(|((partition, _), (low, kept))| ends(partition, *low, low + kept, low + kept))
            .collect();
        let named: BTreeMap<i32, StartOffset> = (0..).zip(starts.iter().copied()).collect();
        let are_there = named.iter().zip(&there).all(|((_, start), ends)| match start {
            StartOffset::At(offset) => ends.low <= *offset && *offset <= ends.high,
            _ => true,
        });
        match start_offsets(&named, &there, &BTreeMap::new()) {
            Ok(begins) => {
                prop_assert!(are_there);
                for ends in &there {
                    let begin = begins[&ends.partition];
                    prop_assert!(ends.low <= begin && begin <= ends.high);
                    match named[&ends.partition] {
                        StartOffset::First => prop_assert_eq!(begin, ends.low),
                        StartOffset::End => prop_assert_eq!(begin, ends.high),
                        StartOffset::At(offset) => prop_assert_eq!(begin, offset),
                    }
                }
            }
            Err(fault) => prop_assert!(!are_there, "{:?}", fault),
        }
    }
}
