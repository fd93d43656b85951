//! Tests of the forms of `'scan.startup'`, and of the offsets that follow from them.

use proptest::prelude::*;

use super::*;
use crate::core::archive::{OffsetRange, OffsetSpan};

fn partitions(starts: &[(i32, NamedOffset)]) -> BTreeMap<i32, NamedOffset> {
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
fn a_topic_stands_for_the_one_table_that_reads_it() {
    let offsets = |names: &[&str]| {
        let at = partitions(&[(0, NamedOffset::First)]);
        let named = names.iter().map(|name| ((*name).to_owned(), at.clone()));
        named.collect::<NamedOffsets>()
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
    let of = |starts: &[(i32, NamedOffset)]| {
        start_offsets(&partitions(starts), &there, &BTreeMap::new())
    };
    let (first, end, at) = (NamedOffset::First, NamedOffset::End, NamedOffset::At);
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
    let of = |start: NamedOffset| {
        let begins = [(0, start), (1, NamedOffset::First)];
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
    assert_eq!(of(NamedOffset::First), Ok(BTreeMap::from([(0, 3), (1, 5)])));
    assert_eq!(of(NamedOffset::End).unwrap()[&0], 30);
    for offset in [3, 9, 15, 19, 20, 30] {
        assert_eq!(of(NamedOffset::At(offset)).unwrap()[&0], offset);
    }
    assert_eq!(of(NamedOffset::At(2)), out_of_range(2));
    assert_eq!(of(NamedOffset::At(10)), in_gap(10));
    assert_eq!(of(NamedOffset::At(14)), in_gap(14));
    assert_eq!(
        of(NamedOffset::At(31)),
        Err(StartFault::BehindTransaction {
            partition: 0,
            offset: 31,
            high: 30
        })
    );
    assert_eq!(of(NamedOffset::At(41)), out_of_range(41));
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
    let at = partitions(&[(0, NamedOffset::At(3))]);
    let startup = Startup::Offsets(NamedOffsets::from([("t".to_owned(), at.clone())]));
    assert_eq!(startup.of("t"), Some(SourceStart::Offsets(at)));
    assert_eq!(startup.of("u"), None);
    assert_eq!(Startup::Earliest.of("u"), Some(SourceStart::First));
    assert_eq!(Startup::Latest.of("u"), Some(SourceStart::End));
}

fn start() -> impl Strategy<Value = NamedOffset> {
    prop_oneof![
        Just(NamedOffset::First),
        Just(NamedOffset::End),
        (0..i64::MAX).prop_map(NamedOffset::At),
        (0_i64..12).prop_map(NamedOffset::At),
    ]
}

proptest! {
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
        let named: BTreeMap<i32, NamedOffset> = (0..).zip(starts.iter().copied()).collect();
        let are_there = named.iter().zip(&there).all(|((_, start), ends)| match start {
            NamedOffset::At(offset) => ends.low <= *offset && *offset <= ends.high,
            _ => true,
        });
        match start_offsets(&named, &there, &BTreeMap::new()) {
            Ok(begins) => {
                prop_assert!(are_there);
                for ends in &there {
                    let begin = begins[&ends.partition];
                    prop_assert!(ends.low <= begin && begin <= ends.high);
                    match named[&ends.partition] {
                        NamedOffset::First => prop_assert_eq!(begin, ends.low),
                        NamedOffset::End => prop_assert_eq!(begin, ends.high),
                        NamedOffset::At(offset) => prop_assert_eq!(begin, offset),
                    }
                }
            }
            Err(fault) => prop_assert!(!are_there, "{:?}", fault),
        }
    }
}
