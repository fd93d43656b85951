//! What a job learns of an archive before it reads it: which offsets are covered, and whether it is the past of the topic.

use std::collections::BTreeMap;
use std::sync::Arc;

use datafusion::arrow::array::{ArrayRef, StringArray, TimestampMicrosecondArray};
use datafusion::arrow::datatypes::{DataType, TimeUnit};
use datafusion::prelude::{SessionConfig, SessionContext};

use super::covered_files::CoveredFiles;
use super::job_archive::{CoveredArchive, JobArchive};
use super::log_scan_tests::{append, archive, archive_with, insert, runtime, table_with, value};
use crate::core::jobs::{Identity, PartitionEnds, RecordMark};
use crate::tables::delta::DeltaTableHandle;
use crate::tables::kafka::ComparedParts;

/// The rows of the archive in the tests, file by file.
const FILES: [&[(i32, i64)]; 3] = [
    &[(0, 3), (0, 4), (0, 5)],
    &[(0, 9), (1, 2), (0, 8)],
    &[(1, 3)],
];

/// The newest version of the archive, as the job pins it whose table has these options.
async fn pinned(handle: &DeltaTableHandle, options: &[(&str, &str)]) -> CoveredArchive {
    let state = SessionContext::new().state();
    let archive = JobArchive::new(table_with(options), handle.clone(), state);
    archive.pin(&topic()).await.unwrap()
}

fn topic() -> Identity {
    Identity::Topic {
        topic: "t".to_owned(),
        cluster: None,
        id: Some("one".to_owned()),
    }
}

async fn filled(folder: &tempfile::TempDir) -> DeltaTableHandle {
    let handle = archive(&folder.path().join("raw")).await;
    for rows in FILES {
        append(&handle, rows).await;
    }
    handle
}

fn covered(archive: &CoveredArchive, partition: i32) -> Vec<(i64, i64)> {
    let ranges = archive.covered(partition).into_iter();
    let ranges = ranges.flat_map(|ranges| ranges.ranges().collect::<Vec<_>>());
    ranges.map(|range| (range.from, range.to)).collect()
}

fn ends(partition: i32, low: i64, high: i64) -> PartitionEnds {
    PartitionEnds {
        partition,
        low,
        high,
        latest: high,
        unread: None,
        behind_hole: None,
    }
}

#[test]
fn loss_1_offsets_between_rows_are_covered_if_the_table_accepts_gaps() {
    runtime().block_on(async {
        let folder = tempfile::tempdir().unwrap();
        let handle = filled(&folder).await;
        let strict = pinned(&handle, &[]).await;
        assert_eq!(covered(&strict, 0), [(3, 6), (8, 10)]);
        assert_eq!(covered(&strict, 1), [(2, 4)]);
        assert!(covered(&strict, 2).is_empty());
        let accepting = pinned(&handle, &[("archive.gaps", "accept")]).await;
        assert_eq!(covered(&accepting, 0), [(3, 10)]);
        assert_eq!(covered(&accepting, 1), [(2, 4)]);
    });
}

#[test]
fn files_that_were_read_for_their_offsets_are_not_read_again() {
    runtime().block_on(async {
        let folder = tempfile::tempdir().unwrap();
        let handle = filled(&folder).await;
        let kept = Arc::new(CoveredFiles::default());
        let keeping = || SessionConfig::new().with_extension(Arc::clone(&kept));
        let pin = async |config: SessionConfig| {
            let state = SessionContext::new_with_config(config).state();
            let archive = JobArchive::new(table_with(&[]), handle.clone(), state);
            archive.pin(&topic()).await
        };
        let first = pin(keeping()).await.unwrap();
        for file in std::fs::read_dir(folder.path().join("raw")).unwrap() {
            let file = file.unwrap().path();
            if file.extension().is_some_and(|kind| kind == "parquet") {
                std::fs::remove_file(file).unwrap();
            }
        }
        let second = pin(keeping()).await.unwrap();
        assert_eq!(covered(&second, 0), [(3, 6), (8, 10)]);
        for partition in [0, 1, 2] {
            assert_eq!(covered(&second, partition), covered(&first, partition));
        }
        // Where a job begins that is to follow the archive is known by the same files.
        let state = SessionContext::new_with_config(keeping()).state();
        let archive = JobArchive::new(table_with(&[]), handle.clone(), state);
        let next = archive.offsets().await.unwrap().next_offsets();
        assert_eq!(next, [(0, 10), (1, 4)].into());
        assert!(pin(SessionConfig::new()).await.is_err());
    });
}

#[test]
fn arch_1_rows_of_other_topics_are_no_records() {
    runtime().block_on(async {
        let folder = tempfile::tempdir().unwrap();
        let more = [("topic", DataType::Utf8)];
        let handle = archive_with(&folder.path().join("raw"), &more).await;
        let topics = |topics: &[Option<&str>]| -> Vec<ArrayRef> {
            vec![Arc::new(StringArray::from(topics.to_vec()))]
        };
        // A file of both topics, one of the other topic, and one of this topic.
        let both = topics(&[Some("t"), Some("u"), None]);
        insert(&handle, &[(0, 3), (0, 3), (0, 4)], both).await;
        let other = topics(&[Some("u"), Some("u")]);
        insert(&handle, &[(0, 4), (5, 9)], other).await;
        let own = topics(&[Some("t"), Some("t")]);
        insert(&handle, &[(0, 5), (1, 2)], own).await;
        let pinned = pinned(&handle, &[]).await;
        assert_eq!(covered(&pinned, 0), [(3, 6)]);
        assert_eq!(covered(&pinned, 1), [(2, 3)]);
        assert!(covered(&pinned, 5).is_empty());
        let ends = [ends(0, 0, 6), ends(1, 0, 3)];
        assert!(pinned.check_ends(&ends).is_ok());
        let last = pinned.last_in_topic(&ends, ComparedParts::ALL).await;
        let last = last.unwrap().into_iter();
        let last: Vec<(i32, i64)> = last.map(|(of, mark)| (of, mark.offset)).collect();
        assert_eq!(last, [(0, 5), (1, 2)]);
        let offsets = async |options: &[(&str, &str)]| {
            let state = SessionContext::new().state();
            JobArchive::new(table_with(options), handle.clone(), state)
                .offsets()
                .await
        };
        let next = offsets(&[]).await.unwrap().next_offsets();
        assert_eq!(next, [(0, 6), (1, 3)].into());
        let all = offsets(&[("archive.topic", "none")]).await.unwrap_err();
        assert!(all.to_string().contains("more than once"), "{all}");
    });
}

#[test]
fn ident_1_an_archive_beyond_its_topic_is_refused() {
    runtime().block_on(async {
        let folder = tempfile::tempdir().unwrap();
        let archive = pinned(&filled(&folder).await, &[]).await;
        let check = |ends: &[PartitionEnds]| {
            let checked = archive.check_ends(ends);
            checked.map_err(|error| error.message().to_owned())
        };
        assert_eq!(
            check(&[ends(0, 10, 10), ends(1, 0, 4), ends(2, 0, 0)]),
            Ok(())
        );
        let refused = "archive raw is not the past of topic 't': it has";
        assert_eq!(
            check(&[ends(0, 0, 9), ends(1, 0, 4)]),
            Err(format!(
                "{refused} offset 9 of partition 0, and the topic ends at offset 9"
            ))
        );
        assert_eq!(
            check(&[ends(0, 0, 10)]),
            Err(format!(
                "{refused} partition 1, which the topic does not have"
            ))
        );
        // Records of an open transaction count as reached.
        let open = PartitionEnds {
            latest: 10,
            ..ends(0, 0, 8)
        };
        assert_eq!(check(&[open, ends(1, 0, 4)]), Ok(()));
    });
}

#[test]
fn ident_1_the_last_records_of_an_archive_are_those_of_its_topic() {
    runtime().block_on(async {
        let folder = tempfile::tempdir().unwrap();
        let archive = pinned(&filled(&folder).await, &[]).await;
        // The archive has neither keys nor timestamps.
        let parts = ComparedParts {
            key: false,
            value: true,
            timestamp: false,
        };
        assert_eq!(archive.compared(), Some(parts));
        let mark = |partition, offset| RecordMark {
            offset,
            timestamp: None,
            checksum: RecordMark::checksum_of(None, Some(value((partition, offset)).as_bytes())),
        };
        // Of partition 1 the topic has none of the archived records left.
        let topic = [ends(0, 4, 20), ends(1, 4, 9)];
        let last = archive.last_in_topic(&topic, parts).await.unwrap();
        assert_eq!(last, BTreeMap::from([(0, mark(0, 9))]));
        // The topic's end may not be stable there.
        let unstable = [ends(0, 4, 9), ends(1, 0, 4)];
        let last = archive.last_in_topic(&unstable, parts).await.unwrap();
        assert_eq!(last, BTreeMap::from([(0, mark(0, 8)), (1, mark(1, 3))]));
        assert!(archive.check_records(&last, &last).is_ok());
        assert!(archive.check_records(&last, &BTreeMap::new()).is_ok());
        let other = BTreeMap::from([(1, mark(0, 3))]);
        let error = archive.check_records(&last, &other).unwrap_err();
        let said = "it has another record than the topic at offset 3 of partition 1";
        assert!(error.message().contains(said), "{error}");

        let offsets = BTreeMap::from([(0, 4), (1, 7)]);
        let found = archive.marks_at(&offsets, parts).await.unwrap();
        assert_eq!(found, BTreeMap::from([(0, mark(0, 4))]));
    });
}

#[test]
fn arch_1_a_time_is_looked_up_among_the_records_that_the_topic_has_lost() {
    runtime().block_on(async {
        let folder = tempfile::tempdir().unwrap();
        let time = DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into()));
        let handle = archive_with(&folder.path().join("raw"), &[("timestamp", time)]).await;
        // Partition and offset of each record, and its timestamp in milliseconds, if the archive has it.
        let files = [
            [(0, 3, Some(500)), (0, 4, Some(300)), (1, 7, Some(900))],
            [(0, 5, Some(800)), (0, 6, Some(950)), (1, 6, None)],
        ];
        for rows in files {
            let places = rows.map(|(partition, offset, _)| (partition, offset));
            let times = rows.map(|(_, _, millis)| millis.map(|millis: i64| millis * 1_000));
            let times = TimestampMicrosecondArray::from(times.to_vec()).with_timezone("UTC");
            insert(&handle, &places, vec![Arc::new(times)]).await;
        }
        let archive = pinned(&handle, &[]).await;
        assert!(archive.has_timestamps());
        // The topic has the record with offset 6 of partition 0.
        let topic = [ends(0, 6, 20), ends(1, 9, 9), ends(2, 0, 0)];
        for (millis, expected) in [
            (100, &[(0, 3), (1, 7)][..]),
            (500, &[(0, 3), (1, 7)]),
            (501, &[(0, 5), (1, 7)]),
            (801, &[(1, 7)]),
            (901, &[]),
        ] {
            let found = archive.first_since(millis, &topic).await.unwrap();
            let expected: BTreeMap<i32, i64> = expected.iter().copied().collect();
            assert_eq!(found, expected, "{millis}");
        }
        let plain = pinned(&archive_with(&folder.path().join("plain"), &[]).await, &[]).await;
        assert!(!plain.has_timestamps());
    });
}
