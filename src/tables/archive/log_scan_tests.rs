//! Ranges of offsets out of an archive, as the scan of a batch reads them: in the order of the logs, each record once, reported to their
//! ends.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use anabranch_udfs::SideOutput;
use datafusion::arrow::array::{
    ArrayRef, AsArray as _, Int32Array, Int64Array, RecordBatch, StringArray,
};
use datafusion::arrow::compute::cast;
use datafusion::arrow::datatypes::{DataType, Field, Int32Type, Int64Type, TimeUnit};
use datafusion::catalog::TableProvider as _;
use datafusion::datasource::memory::MemorySourceConfig;
use datafusion::logical_expr::dml::InsertOp;
use datafusion::physical_plan::{ExecutionPlanProperties as _, collect};
use datafusion::prelude::{SessionConfig, SessionContext};
use futures::TryStreamExt as _;
use proptest::prelude::*;

use super::pinned_archive::PinnedArchive;
use crate::tables::delta::{DeltaColumn, DeltaSpec, DeltaTableHandle, TimeTravel};
use crate::tables::kafka::{
    EarlierParts, EarlierRecords, KafkaColumn, KafkaScanExec, KafkaTable, KafkaTableProvider,
    KafkaTableSpec, MetadataKey, OffsetRange,
};
use crate::tables::side_output::{check_reports, reports};
use crate::tables::time::{BatchTime, ROW_COLUMN, ROW_WATERMARK};

fn table() -> Arc<KafkaTable> {
    table_with(&[])
}

/// A table over a topic, whose archive is `raw`, with more options.
pub(super) fn table_with(more: &[(&str, &str)]) -> Arc<KafkaTable> {
    let column = |name: &str, data_type, metadata| KafkaColumn {
        field: Field::new(name, data_type, true),
        metadata,
    };
    let micros = DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into()));
    let options = [
        ("kafka.bootstrap.servers", "localhost:1"),
        ("archive", "raw"),
    ];
    let spec = KafkaTableSpec {
        name: "t".to_owned(),
        topic: "t".to_owned(),
        columns: vec![
            column("n", DataType::Int64, None),
            column("at", micros, None),
            column("p", DataType::Int32, Some(MetadataKey::Partition)),
            column("o", DataType::Int64, Some(MetadataKey::Offset)),
        ],
        primary_key: Vec::new(),
        watermark: Some(("at".to_owned(), "at".to_owned(), 0)),
        options: options
            .iter()
            .chain(more)
            .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()))
            .collect(),
    };
    Arc::new(KafkaTable::try_new(spec).unwrap())
}

pub(super) async fn archive(folder: &Path) -> DeltaTableHandle {
    archive_with(folder, &[]).await
}

/// A Delta table with more columns behind those of value, partition and offset.
pub(super) async fn archive_with(folder: &Path, more: &[(&str, DataType)]) -> DeltaTableHandle {
    let column = |name: &str, data_type| DeltaColumn {
        name: name.to_owned(),
        data_type,
        nullable: true,
        generated: None,
        comment: None,
    };
    let mut columns = vec![
        column("value", DataType::Utf8),
        column("partition", DataType::Int32),
        column("offset", DataType::Int64),
    ];
    let more = more.iter();
    columns.extend(more.map(|(name, data_type)| column(name, data_type.clone())));
    let spec = DeltaSpec {
        location: folder.display().to_string(),
        columns: Some(columns),
        ..DeltaSpec::default()
    };
    DeltaTableHandle::create_or_open(spec).await.unwrap()
}

/// The value of a record: its number goes by its place, and later offsets are of later times.
pub(super) fn value((partition, offset): (i32, i64)) -> String {
    format!(
        r#"{{"n":{},"at":"1970-01-01T00:00:{:02}Z"}}"#,
        i64::from(partition) * 100 + offset,
        offset % 60
    )
}

pub(super) async fn append(handle: &DeltaTableHandle, rows: &[(i32, i64)]) {
    insert(handle, rows, Vec::new()).await;
}

/// Appends rows with more columns.
pub(super) async fn insert(handle: &DeltaTableHandle, rows: &[(i32, i64)], more: Vec<ArrayRef>) {
    let values: Vec<String> = rows.iter().map(|row| value(*row)).collect();
    insert_values(handle, rows, &values, more).await;
}

/// The same with these values.
pub(super) async fn insert_values(
    handle: &DeltaTableHandle,
    rows: &[(i32, i64)],
    values: &[String],
    more: Vec<ArrayRef>,
) {
    let provider = handle.snapshot(TimeTravel::Latest).await.unwrap();
    let columns: [ArrayRef; 3] = [
        Arc::new(StringArray::from_iter_values(values)),
        Arc::new(Int32Array::from_iter_values(rows.iter().map(|row| row.0))),
        Arc::new(Int64Array::from_iter_values(rows.iter().map(|row| row.1))),
    ];
    let schema = provider.schema();
    let columns = columns.iter().chain(&more).zip(schema.fields());
    let columns = columns.map(|(column, field)| cast(column, field.data_type()).unwrap());
    let batch = RecordBatch::try_new(Arc::clone(&schema), columns.collect()).unwrap();
    let input = MemorySourceConfig::try_new_exec(&[vec![batch]], schema, None).unwrap();
    let context = SessionContext::new();
    let state = context.state();
    let plan = provider.insert_into(&state, input, InsertOp::Append);
    collect(plan.await.unwrap(), context.task_ctx())
        .await
        .unwrap();
}

/// The rows of each stream of a batch over these ranges, in their order: partition, offset, number, watermark.
async fn read(
    pinned: &Arc<PinnedArchive>,
    ranges: &[OffsetRange],
) -> crate::error::Result<Vec<Vec<(i32, i64, i64, i64)>>> {
    let output: Arc<SideOutput> = Arc::default();
    let config = SessionConfig::new()
        .with_batch_size(7)
        .with_target_partitions(3);
    let context = SessionContext::new_with_config(config.with_extension(Arc::clone(&output)));
    let time = Arc::new(BatchTime::default());
    // All of them come from the archive: no broker is asked.
    let earlier = EarlierParts {
        records: Arc::clone(pinned) as Arc<dyn EarlierRecords>,
        borders: ranges
            .iter()
            .map(|range| (range.partition, range.end))
            .collect(),
    };
    let table = Arc::clone(pinned.table());
    let provider = KafkaTableProvider::for_batch(table, ranges.to_vec(), None)
        .with_time(time)
        .with_earlier(earlier);
    let plan = provider.scan(&context.state(), None, &[], None).await?;
    let mut streams = Vec::new();
    for stream in 0..plan.output_partitioning().partition_count() {
        let batches = plan.execute(stream, context.task_ctx())?;
        let batches: Vec<RecordBatch> = batches.try_collect().await?;
        let rows = batches.iter().flat_map(|batch| {
            let hidden = batch.column_by_name(ROW_COLUMN).unwrap().as_struct();
            let watermarks = hidden.column_by_name(ROW_WATERMARK).unwrap();
            let watermarks = watermarks.as_primitive::<Int64Type>().values();
            let numbers = batch.column(0).as_primitive::<Int64Type>().values();
            let partitions = batch.column(2).as_primitive::<Int32Type>().values();
            let offsets = batch.column(3).as_primitive::<Int64Type>().values();
            let rows = (0..batch.num_rows())
                .map(|row| (partitions[row], offsets[row], numbers[row], watermarks[row]));
            rows.collect::<Vec<_>>()
        });
        streams.push(rows.collect());
    }
    if let Some(scan) = plan.downcast_ref::<KafkaScanExec>() {
        check_reports(&scan.expected(), &reports(&output.take())?)?;
    }
    Ok(streams)
}

pub(super) fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .worker_threads(2)
        .build()
        .unwrap()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn arch_1_ranges_come_in_the_order_of_the_logs(
        logs in prop::collection::vec(prop::collection::btree_set(0..40_i64, 0..20), 1..6),
        bounds in prop::collection::vec((0..42_i64, 0..42_i64), 6),
        cut in 1..40_usize,
        seed in any::<u64>(),
    ) {
        let mut rows: Vec<(i32, i64)> = (0..)
            .zip(&logs)
            .flat_map(|(partition, log)| log.iter().map(move |offset| (partition, *offset)))
            .collect();
        // Files have rows in any order.
        rows.sort_by_key(|(partition, offset)| {
            (seed ^ (*partition as u64)).wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(*offset as u32)
        });
        let ranges: Vec<OffsetRange> = (0..)
            .zip(&bounds)
            .take(logs.len())
            .map(|(partition, (from, to))| OffsetRange { partition, start: *from, end: *to })
            .collect();
        let streams = runtime().block_on(async {
            let folder = tempfile::tempdir().unwrap();
            let handle = archive(&folder.path().join("raw")).await;
            for file in rows.chunks(cut) {
                append(&handle, file).await;
            }
            let pinned = PinnedArchive::open(table(), &handle, TimeTravel::Latest).await.unwrap();
            let context = SessionContext::new();
            let next = pinned.offsets(&context.state()).await.unwrap().next_offsets();
            let expected: BTreeMap<i32, i64> = (0..)
                .zip(&logs)
                .filter_map(|(partition, log)| Some((partition, log.last()? + 1)))
                .collect();
            assert_eq!(next, expected);
            read(&Arc::new(pinned), &ranges).await.unwrap()
        });
        let mut all = Vec::new();
        for stream in streams {
            prop_assert!(stream.is_sorted_by_key(|(partition, offset, _, _)| (*partition, *offset)));
            all.extend(stream);
        }
        all.sort_unstable();
        let mut expected = Vec::new();
        for (range, log) in ranges.iter().zip(&logs) {
            let mut met = i64::MIN;
            for offset in log.iter().filter(|offset| (range.start..range.end).contains(*offset)) {
                let number = i64::from(range.partition) * 100 + offset;
                expected.push((range.partition, *offset, number, met));
                met = met.max(offset % 60 * 1_000_000);
            }
        }
        prop_assert_eq!(all, expected);
    }
}

#[test]
fn a_record_that_is_there_twice_stops_a_batch() {
    runtime().block_on(async {
        let folder = tempfile::tempdir().unwrap();
        let handle = archive(&folder.path().join("raw")).await;
        append(&handle, &[(0, 1), (0, 5), (1, 1)]).await;
        append(&handle, &[(0, 9), (0, 5)]).await;
        let pinned = PinnedArchive::open(table(), &handle, TimeTravel::Latest).await;
        let pinned = Arc::new(pinned.unwrap());
        let range = |start, end| OffsetRange {
            partition: 0,
            start,
            end,
        };
        let error = read(&pinned, &[range(0, 10)]).await.unwrap_err();
        let said = "archive raw has offset 5 of partition 0 more than once";
        assert!(error.to_string().contains(said), "{error}");
        assert_eq!(
            read(&pinned, &[range(6, 10)]).await.unwrap().concat().len(),
            1
        );
    });
}
