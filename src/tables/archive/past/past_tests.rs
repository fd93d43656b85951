//! A past on a real Delta table and a real topic: each record once, from the half that has it; files of other times are not read.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use anabranch_udfs::SideOutput;
use datafusion::arrow::array::{
    ArrayRef, AsArray as _, Int64Array, RecordBatch, TimestampMicrosecondArray,
};
use datafusion::arrow::datatypes::{DataType, Int32Type, Int64Type, TimeUnit};
use datafusion::catalog::TableProvider as _;
use datafusion::common::ScalarValue;
use datafusion::logical_expr::{Expr, col, lit};
use datafusion::physical_plan::collect;
use datafusion::prelude::{SessionConfig, SessionContext};
use proptest::prelude::*;
use proptest::test_runner::TestRunner;

use super::PinnedPast;
use crate::core::archive::{OffsetRange, OffsetRanges, PartitionOffsets, PastParts, divide_past};
use crate::core::jobs::Identity;
use crate::error::{ErrorKind, Result};
use crate::tables::archive::job_archive::{CoveredArchive, JobArchive};
use crate::tables::archive::log_scan_tests::{
    append, archive, archive_with, insert, insert_values, runtime, table_with, value,
};
use crate::tables::delta::DeltaTableHandle;
use crate::tables::kafka::embedded_broker::EmbeddedBroker;
use crate::tables::side_output::dead_letters;
use crate::tables::time::{OFFSET_COLUMN, PARTITION_COLUMN};

fn topic() -> Identity {
    Identity::Topic {
        topic: "t".to_owned(),
        cluster: None,
        id: None,
    }
}

pub(super) async fn pinned(handle: &DeltaTableHandle, options: &[(&str, &str)]) -> CoveredArchive {
    let state = SessionContext::new().state();
    let archive = JobArchive::new(table_with(options), handle.clone(), state);
    archive.pin(&topic()).await.unwrap()
}

fn set(ranges: &[(i64, i64)]) -> OffsetRanges {
    let ranges = ranges.iter();
    ranges
        .map(|(from, to)| OffsetRange::new(*from, *to))
        .collect()
}

/// The past up to these ends, from offset 0 on.
fn past(archive: &CoveredArchive, ends: &[(i32, i64)]) -> PinnedPast {
    let nothing = OffsetRanges::default();
    let parts = ends.iter().map(|(partition, end)| {
        let covered = archive.covered(*partition).unwrap_or(&nothing);
        (*partition, divide_past(covered, OffsetRange::new(0, *end)))
    });
    PinnedPast::new(archive, parts.collect(), true)
}

/// The past of what the archive has.
pub(super) fn archived(archive: &CoveredArchive) -> PinnedPast {
    let parts = archive.partitions().iter().map(|(partition, covered)| {
        let parts = PastParts {
            archive: covered.clone(),
            topic: OffsetRanges::default(),
        };
        (*partition, parts)
    });
    PinnedPast::new(archive, parts.collect(), true)
}

/// Partition and offset of the rows that its scan gives.
async fn read(past: &PinnedPast, filters: &[Expr]) -> Result<Vec<(i32, i64)>> {
    read_with(past, filters, &[]).await
}

/// The same of a scan that gives more columns.
async fn read_with(past: &PinnedPast, filters: &[Expr], more: &[usize]) -> Result<Vec<(i32, i64)>> {
    let config = SessionConfig::new().with_target_partitions(3);
    let context = SessionContext::new_with_config(config);
    let (state, columns) = (context.state(), [&[2, 3], more].concat());
    let plan = past.scan(&state, Some(&columns), filters, None);
    let mut rows = Vec::new();
    for batch in collect(plan.await?, context.task_ctx()).await? {
        let partitions = batch.column(0).as_primitive::<Int32Type>().values();
        let offsets = batch.column(1).as_primitive::<Int64Type>().values();
        rows.extend(partitions.iter().copied().zip(offsets.iter().copied()));
    }
    rows.sort_unstable();
    Ok(rows)
}

fn seconds(at: i64) -> Expr {
    lit(ScalarValue::TimestampMicrosecond(
        Some(at * 1_000_000),
        Some("UTC".into()),
    ))
}

/// Event times in these seconds, the last excluded.
fn between(from: i64, to: i64) -> Vec<Expr> {
    vec![col("at").gt_eq(seconds(from)), col("at").lt(seconds(to))]
}

fn rows(partition: i32, offsets: std::ops::Range<i64>) -> Vec<(i32, i64)> {
    offsets.map(|offset| (partition, offset)).collect()
}

/// An archive with a file for each ten seconds of event time, which a column claims.
async fn by_time(folder: &tempfile::TempDir) -> DeltaTableHandle {
    let time = DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into()));
    let handle = archive_with(&folder.path().join("raw"), &[("at", time)]).await;
    for file in 0..5 {
        let rows = rows(0, file * 10..file * 10 + 10);
        let times = rows.iter().map(|(_, offset)| offset % 60 * 1_000_000);
        let times = TimestampMicrosecondArray::from_iter_values(times).with_timezone("UTC");
        insert(&handle, &rows, vec![Arc::new(times) as ArrayRef]).await;
    }
    handle
}

#[test]
fn its_rows_tell_their_places() {
    runtime().block_on(async {
        let folder = tempfile::tempdir().unwrap();
        let handle = archive(&folder.path().join("raw")).await;
        append(&handle, &[(0, 1), (1, 5), (0, 2)]).await;
        let past = archived(&pinned(&handle, &[]).await);
        let hidden = [PARTITION_COLUMN, OFFSET_COLUMN];
        let hidden = hidden.map(|name| past.schema().index_of(name).unwrap());
        assert_eq!(hidden, [4, 5]);
        let context = SessionContext::new();
        let plan = past.scan(&context.state(), None, &[], None).await.unwrap();
        let batches = collect(plan, context.task_ctx()).await.unwrap();
        let count: usize = batches.iter().map(RecordBatch::num_rows).sum();
        assert_eq!(count, 3);
        for rows in &batches {
            let partitions = |column| rows.column(column).as_primitive::<Int32Type>().values();
            let offsets = |column| rows.column(column).as_primitive::<Int64Type>().values();
            assert_eq!(partitions(4), partitions(2));
            assert_eq!(offsets(5), offsets(3));
        }
    });
}

#[test]
fn no_file_of_another_time_is_read() {
    runtime().block_on(async {
        let folder = tempfile::tempdir().unwrap();
        let archive = pinned(&by_time(&folder).await, &[]).await;
        let past = archived(&archive);
        // Filters above the scan remove single rows: the scan may give all those of the files that it reads.
        for (from, to, files) in [(12, 18, 10..20), (19, 21, 10..30)] {
            let found = read(&past, &between(from, to)).await.unwrap();
            let is_of_files = |row: &(i32, i64)| files.contains(&row.1);
            assert!(found.iter().all(is_of_files), "{from}: {found:?}");
            let asked = rows(0, from..to);
            assert!(
                asked.iter().all(|row| found.contains(row)),
                "{from}: {found:?}"
            );
        }
        assert_eq!(read(&past, &between(100, 200)).await.unwrap(), []);
        assert_eq!(read(&past, &[]).await.unwrap(), rows(0, 0..50));
    });
}

#[test]
fn the_highest_times_and_those_of_rows_are_found() {
    runtime().block_on(async {
        let folder = tempfile::tempdir().unwrap();
        let handle = archive(&folder.path().join("raw")).await;
        append(&handle, &[(0, 7), (0, 50), (1, 3)]).await;
        append(&handle, &[(0, 51), (1, 61)]).await;
        let past = archived(&pinned(&handle, &[]).await);
        let reached = past.reached_times(i64::MAX).await.unwrap();
        let highest = BTreeMap::from([(0, 51_000_000), (1, 3_000_000)]);
        assert_eq!((reached.highest, reached.beyond.len()), (highest, 0));
        // A record of a later time is too far ahead, and is named.
        let reached = past.reached_times(50_000_000).await.unwrap();
        let highest = BTreeMap::from([(0, 50_000_000), (1, 3_000_000)]);
        let beyond: PartitionOffsets = [(0, set(&[(51, 52)]))].into();
        assert_eq!((reached.highest, reached.beyond), (highest, beyond));
        let selected: PartitionOffsets =
            [(0, set(&[(7, 8), (50, 60)])), (1, set(&[(61, 62)]))].into();
        let timed = past.restricted_to(&selected).event_times().await.unwrap();
        assert_eq!(timed.times, [1_000_000, 7_000_000, 50_000_000, 51_000_000]);
        // Of the selected offsets, those that there are.
        let there = [(0, set(&[(7, 8), (50, 52)])), (1, set(&[(61, 62)]))];
        assert_eq!(timed.offsets, PartitionOffsets::from(there));
    });
}

#[test]
fn the_highest_times_are_in_few_files_if_the_archive_says_where_later_ones_are() {
    runtime().block_on(async {
        let folder = tempfile::tempdir().unwrap();
        let table = folder.path().join("raw");
        let time = DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into()));
        let handle = archive_with(&table, &[("at", time)]).await;
        let mut earlier: Vec<std::path::PathBuf> = Vec::new();
        for (offsets, second) in [(0..5_000, 10_i64), (5_000..10_000, 20)] {
            if offsets.start > 0 {
                let files = std::fs::read_dir(&table).unwrap();
                let files = files.map(|file| file.unwrap().path());
                earlier.extend(files.filter(|file| file.extension().is_some()));
            }
            let rows = rows(0, offsets);
            let values =
                vec![format!(r#"{{"n":1,"at":"1970-01-01T00:00:{second}Z"}}"#); rows.len()];
            let times = TimestampMicrosecondArray::from(vec![second * 1_000_000; rows.len()]);
            let times = Arc::new(times.with_timezone("UTC")) as ArrayRef;
            insert_values(&handle, &rows, &values, vec![times]).await;
        }
        let past = archived(&pinned(&handle, &[]).await);
        let unclaimed = archived(&pinned(&handle, &[("archive.event_time", "none")]).await);
        assert_eq!(earlier.len(), 1, "{earlier:?}");
        std::fs::remove_file(&earlier[0]).unwrap();
        let reached = past.reached_times(i64::MAX).await.unwrap();
        assert_eq!(reached.highest, BTreeMap::from([(0, 20_000_000)]));
        // Of this one, older records may have later times.
        unclaimed.reached_times(i64::MAX).await.unwrap_err();
    });
}

#[test]
fn partitions_that_end_with_late_records_are_looked_at_further() {
    runtime().block_on(async {
        let folder = tempfile::tempdir().unwrap();
        let time = DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into()));
        let handle = archive_with(&folder.path().join("raw"), &[("at", time)]).await;
        // By partition: one record, and so many behind it that are an hour and a half earlier.
        let hour = 3_600_000_000_i64;
        for (partition, late) in [(0, 0), (1, 5_000)] {
            let rows = rows(partition, 0..late + 1);
            let at = |offset: i64| match offset {
                0 => 2 * hour,
                _ => hour / 2,
            };
            let times: Vec<i64> = rows.iter().map(|(_, offset)| at(*offset)).collect();
            let value = |time: &i64| {
                let time = chrono::DateTime::from_timestamp_micros(*time).unwrap();
                let time = time.to_rfc3339_opts(chrono::SecondsFormat::Secs, true);
                format!(r#"{{"n":1,"at":"{time}"}}"#)
            };
            let values: Vec<String> = times.iter().map(value).collect();
            let times = TimestampMicrosecondArray::from(times).with_timezone("UTC");
            insert_values(&handle, &rows, &values, vec![Arc::new(times) as ArrayRef]).await;
        }
        let past = archived(&pinned(&handle, &[]).await);
        let reached = past.reached_times(i64::MAX).await.unwrap();
        let highest = [(0, 2 * hour), (1, 2 * hour)];
        assert_eq!(reached.highest, BTreeMap::from(highest));
    });
}

#[test]
fn records_that_an_archive_of_decoded_rows_lacks_are_found() {
    runtime().block_on(async {
        let folder = tempfile::tempdir().unwrap();
        let time = DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into()));
        let columns = [("n", DataType::Int64), ("at", time)];
        let handle = archive_with(&folder.path().join("raw"), &columns).await;
        let places = [(0, 1), (0, 2), (0, 5)];
        let numbers: ArrayRef = Arc::new(Int64Array::from_iter_values([1, 2, 5]));
        let seconds = [1, 2, 5].map(|at| at * 1_000_000);
        let times = TimestampMicrosecondArray::from_iter_values(seconds).with_timezone("UTC");
        insert(&handle, &places, vec![numbers, Arc::new(times) as ArrayRef]).await;
        // The job that archives has read offsets 0 to 8, and the rest is in the topic.
        let parts = PastParts {
            archive: set(&[(0, 9)]),
            topic: set(&[(9, 20)]),
        };
        let parts = BTreeMap::from([(0, parts)]);
        let decoded = pinned(&handle, &[("archive.value", "none")]).await;
        let past = PinnedPast::new(&decoded, parts.clone(), false);
        let missing = past.undecoded().await.unwrap();
        let expected = set(&[(0, 1), (3, 5), (6, 9)]);
        assert_eq!(missing, PartitionOffsets::from([(0, expected)]));
        let selected = PartitionOffsets::from([(0, set(&[(2, 4), (10, 11)]))]);
        let missing = past.restricted_to(&selected).undecoded().await.unwrap();
        assert_eq!(missing, PartitionOffsets::from([(0, set(&[(3, 4)]))]));
        // An archive of records has those too that cannot be decoded.
        let raw = pinned(&handle, &[]).await;
        let past = PinnedPast::new(&raw, parts, false);
        assert!(past.undecoded().await.unwrap().is_empty());
    });
}

#[test]
fn a_record_that_is_there_twice_stops_a_run() {
    runtime().block_on(async {
        let folder = tempfile::tempdir().unwrap();
        let handle = archive(&folder.path().join("raw")).await;
        append(&handle, &[(0, 1), (0, 5)]).await;
        append(&handle, &[(0, 9), (0, 5)]).await;
        let past = archived(&pinned(&handle, &[]).await);
        let error = read(&past, &[]).await.unwrap_err();
        let said = "archive raw has offset 5 of partition 0 more than once";
        assert!(error.to_string().contains(said), "{error}");
    });
}

#[test]
fn a_file_that_is_gone_is_named_with_its_version() {
    runtime().block_on(async {
        let folder = tempfile::tempdir().unwrap();
        let handle = archive(&folder.path().join("raw")).await;
        append(&handle, &[(0, 1), (0, 2)]).await;
        let state = SessionContext::new().state();
        let job_archive = JobArchive::new(table_with(&[]), handle.clone(), state);
        let covered = job_archive.pin_at(1, &topic()).await.unwrap();
        let past = archived(&covered);
        assert_eq!(read(&past, &[]).await.unwrap(), rows(0, 1..3));
        for entry in std::fs::read_dir(folder.path().join("raw")).unwrap() {
            let path = entry.unwrap().path();
            if path.extension().is_some_and(|kind| kind == "parquet") {
                std::fs::remove_file(path).unwrap();
            }
        }
        let error = read(&past, &[]).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::NotFound, "{error}");
        let says = "a file of version 1 of archive raw, on which the run rests, is gone";
        assert!(error.message().contains(says), "{error}");
        assert!(error.message().contains(".parquet"), "{error}");
        let error = job_archive.pin_at(9, &topic()).await.unwrap_err();
        let says = "version 9 of archive raw, on which the run rests, is gone";
        assert!(error.message().contains(says), "{error}");
    });
}

#[test]
fn rows_that_a_job_sets_aside_by_their_time_are_left_out() {
    runtime().block_on(async {
        let folder = tempfile::tempdir().unwrap();
        let time = DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into()));
        let handle = archive_with(&folder.path().join("raw"), &[("timestamp", time)]).await;
        let places = rows(0, 0..4);
        let values = [
            value(places[0]),
            r#"{"n":1}"#.to_owned(),
            // More than a day past the time of the record.
            r#"{"n":2,"at":"1970-01-03T00:00:00Z"}"#.to_owned(),
            "{".to_owned(),
        ];
        let written = TimestampMicrosecondArray::from(vec![0; 4]).with_timezone("UTC");
        insert_values(&handle, &places, &values, vec![Arc::new(written)]).await;
        let archive = pinned(&handle, &[]).await;
        assert_eq!(read(&archived(&archive), &[]).await.unwrap(), rows(0, 0..1));
        // A job without windows looks at no time. A record that cannot be decoded is left out all the same.
        let parts = archived(&archive).parts().clone();
        let timeless = PinnedPast::new(&archive, parts, false);
        let decoded = read_with(&timeless, &[], &[0]).await;
        assert_eq!(decoded.unwrap(), rows(0, 0..3));
    });
}

/// A broker whose topic has records with the offsets from 0 to `count` in each partition.
fn broker(partitions: i32, count: i64) -> EmbeddedBroker {
    let broker = EmbeddedBroker::start().unwrap();
    broker.create_topic("t", partitions).unwrap();
    let places = (0..partitions).flat_map(|partition| rows(partition, 0..count));
    broker.send("t", places.map(|place| (place.0, value(place))));
    broker
}

#[test]
fn arch_1_the_topic_fills_what_the_archive_does_not_have() {
    runtime().block_on(async {
        let broker = broker(2, 30);
        let folder = tempfile::tempdir().unwrap();
        let handle = archive(&folder.path().join("raw")).await;
        append(&handle, &rows(0, 4..9)).await;
        append(&handle, &rows(0, 12..20)).await;
        let servers = broker.bootstrap_servers();
        let options = [("kafka.bootstrap.servers", servers.as_str())];
        let archive = pinned(&handle, &options).await;
        let whole = past(&archive, &[(0, 25), (1, 30)]);
        let parts = whole.parts();
        assert_eq!(parts[&0].archive, set(&[(4, 9), (12, 20)]));
        assert_eq!(parts[&0].topic, set(&[(0, 4), (9, 12), (20, 25)]));
        assert_eq!(parts[&1].topic, set(&[(0, 30)]));
        let all = [rows(0, 0..25), rows(1, 0..30)].concat();
        assert_eq!(read(&whole, &[]).await.unwrap(), all);
        let selected: PartitionOffsets = [(0, set(&[(3, 5), (10, 11), (19, 22)]))].into();
        let found = read(&whole.restricted_to(&selected), &[]).await.unwrap();
        assert_eq!(found, [(0, 3), (0, 4), (0, 10), (0, 19), (0, 20), (0, 21)]);
        let left: BTreeSet<(i32, i64)> = all.iter().copied().collect();
        let without = read(&whole.without(&selected), &[]).await.unwrap();
        let without: BTreeSet<(i32, i64)> = without.into_iter().collect();
        let found: BTreeSet<(i32, i64)> = found.into_iter().collect();
        assert_eq!(without, &left - &found);
        let highest = whole.reached_times(i64::MAX).await.unwrap().highest;
        assert_eq!(highest, BTreeMap::from([(0, 24_000_000), (1, 29_000_000)]));
        let later: PartitionOffsets = [(0, set(&[(7, 25)]))].into();
        let later = whole.restricted_to(&later);
        let first = later.first_times(&[0, 1].into(), i64::MAX).await.unwrap();
        assert_eq!(first, BTreeMap::from([(0, 7_000_000)]));
        let none = later.first_times(&[0].into(), 6_000_000).await.unwrap();
        assert_eq!(none, BTreeMap::new());
    });
}

#[test]
fn bad_records_between_the_selected_ones_are_no_dead_letters() {
    runtime().block_on(async {
        let broker = EmbeddedBroker::start().unwrap();
        broker.create_topic("t", 1).unwrap();
        let values = (0..6).map(|offset| match offset {
            1 | 3 => "{".to_owned(),
            _ => value((0, offset)),
        });
        broker.send("t", values.map(|value| (0, value)));
        let folder = tempfile::tempdir().unwrap();
        let handle = archive(&folder.path().join("raw")).await;
        let servers = broker.bootstrap_servers();
        let options = [("kafka.bootstrap.servers", servers.as_str())];
        let archive = pinned(&handle, &options).await;
        // The topic is read from the first to the last one.
        let selected: PartitionOffsets = [(0, set(&[(0, 2), (4, 6)]))].into();
        let selected = past(&archive, &[(0, 6)]).restricted_to(&selected);
        let selected = selected.with_dead_letters("t", Arc::default());
        let output: Arc<SideOutput> = Arc::default();
        let config = SessionConfig::new().with_extension(Arc::clone(&output));
        let context = SessionContext::new_with_config(config);
        let columns = vec![0];
        let state = context.state();
        let plan = selected.scan(&state, Some(&columns), &[], None);
        let rows = collect(plan.await.unwrap(), context.task_ctx()).await;
        let count: usize = rows.unwrap().iter().map(RecordBatch::num_rows).sum();
        assert_eq!(count, 3);
        let dead = dead_letters(&output.take()).unwrap();
        let dead: Vec<i64> = dead.iter().map(|(_, record)| record.offset).collect();
        assert_eq!(dead, [1]);
    });
}

/// ARCH-1: any part of the topic may be archived, each record up to the ends is read once.
#[test]
fn arch_1_each_record_is_read_once_wherever_the_border_lies() {
    let (runtime, broker) = (runtime(), broker(2, 40));
    let servers = broker.bootstrap_servers();
    let options = [("kafka.bootstrap.servers", servers.as_str())];
    let stored = prop::collection::btree_set((0..2_i32, 0..40_i64), 0..60);
    let mut runner = TestRunner::new(ProptestConfig::with_cases(12));
    let checked = runner.run(
        &(stored, 0..41_i64, 0..41_i64),
        |(stored, first, second)| {
            let stored: Vec<(i32, i64)> = stored.into_iter().collect();
            let found = runtime.block_on(async {
                let folder = tempfile::tempdir().unwrap();
                let handle = archive(&folder.path().join("raw")).await;
                for file in stored.chunks(7) {
                    append(&handle, file).await;
                }
                let archive = pinned(&handle, &options).await;
                read(&past(&archive, &[(0, first), (1, second)]), &[]).await
            });
            let expected = [rows(0, 0..first), rows(1, 0..second)].concat();
            prop_assert_eq!(found.unwrap(), expected);
            Ok(())
        },
    );
    checked.unwrap();
}

#[test]
fn a_long_tail_is_read_where_its_times_are() {
    runtime().block_on(async {
        // The times of records go around every 60 offsets: each block has all of them.
        let broker = broker(1, 20_000);
        let folder = tempfile::tempdir().unwrap();
        let handle = archive(&folder.path().join("raw")).await;
        let servers = broker.bootstrap_servers();
        let options = [("kafka.bootstrap.servers", servers.as_str())];
        let whole = past(&pinned(&handle, &options).await, &[(0, 20_000)]);
        assert_eq!(read(&whole, &between(5, 6)).await.unwrap().len(), 20_000);
        assert_eq!(read(&whole, &between(60, 70)).await.unwrap(), []);
    });
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(16))]

    /// Any selection of an archive's rows, of any number of ranges, gives these rows.
    #[test]
    fn any_part_of_an_archive_is_read(
        offsets in prop::collection::btree_set((0..3_i32, 0..400_i64), 1..60),
        picked in prop::collection::btree_set((0..3_i32, 0..400_i64), 0..60),
        cut in 1..30_usize,
    ) {
        let stored: Vec<(i32, i64)> = offsets.iter().copied().collect();
        let (found, left) = runtime().block_on(async {
            let folder = tempfile::tempdir().unwrap();
            let handle = archive(&folder.path().join("raw")).await;
            for file in stored.chunks(cut) {
                append(&handle, file).await;
            }
            let past = archived(&pinned(&handle, &[]).await);
            let mut selected = PartitionOffsets::new();
            for (partition, offset) in &picked {
                selected.entry(*partition).or_default().insert(OffsetRange::new(*offset, offset + 1));
            }
            let found = read(&past.restricted_to(&selected), &[]).await.unwrap();
            (found, read(&past.without(&selected), &[]).await.unwrap())
        });
        let both: Vec<(i32, i64)> = offsets.intersection(&picked).copied().collect();
        prop_assert_eq!(found, both);
        let others: Vec<(i32, i64)> = offsets.difference(&picked).copied().collect();
        prop_assert_eq!(left, others);
    }
}
