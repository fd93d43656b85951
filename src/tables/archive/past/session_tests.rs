//! Sessions that are completed over a past: which files of the archive are opened.

use std::path::Path;
use std::sync::Arc;

use anabranch_udfs::{CompleteSessions, CompleteSessionsExec, CompletionRange};
use datafusion::arrow::array::{ArrayRef, AsArray as _, Int32Array, RecordBatch};
use datafusion::arrow::datatypes::{DataType, Int64Type};
use datafusion::common::Column;
use datafusion::datasource::provider_as_source;
use datafusion::logical_expr::{Expr, LogicalPlanBuilder};
use datafusion::physical_plan::{ExecutionPlan, collect};
use datafusion::prelude::{SessionConfig, SessionContext};

use super::PinnedPast;
use super::past_tests::{archived, pinned};
use crate::tables::archive::log_scan_tests::{insert_values, runtime};
use crate::tables::delta::{DeltaColumn, DeltaSpec, DeltaTableHandle};

const MINUTE: i64 = 60_000_000;
const HOUR: i64 = 60 * MINUTE;
/// The parts of the event time by which the archive is partitioned.
const PARTS: &str = "year, month, day, hour";
/// The visitor of a long session: from 8:06 to 12:24.
const LONG: i64 = 1;

/// An archive of one day with two files for each hour; each has a visitor of its own.
async fn by_hour(folder: &Path) -> DeltaTableHandle {
    let column = |name: &str, data_type| DeltaColumn {
        name: name.to_owned(),
        data_type,
        nullable: true,
        generated: None,
        comment: None,
    };
    let parts: Vec<String> = PARTS.split(", ").map(str::to_owned).collect();
    let mut columns = vec![
        column("value", DataType::Utf8),
        column("partition", DataType::Int32),
        column("offset", DataType::Int64),
    ];
    columns.extend(parts.iter().map(|part| column(part, DataType::Int32)));
    let spec = DeltaSpec {
        location: folder.display().to_string(),
        columns: Some(columns),
        partition_by: parts,
        ..DeltaSpec::default()
    };
    let handle = DeltaTableHandle::create_or_open(spec).await.unwrap();
    let mut next = 0;
    for file in 0..48 {
        let hour = file / 2;
        let mut visits = vec![(100 + file, hour * 60 + 20 + file % 2)];
        if file % 2 == 0 {
            let long = (8 * 60 + 6_i64..12 * 60 + 30).step_by(6);
            let of_hour = long.filter(|minute| minute / 60 == hour);
            visits.extend(of_hour.map(|minute| (LONG, minute)));
        }
        let value = |(visitor, minute): &(i64, i64)| {
            let (hour, minute) = (minute / 60, minute % 60);
            format!(r#"{{"n":{visitor},"at":"1970-01-01T{hour:02}:{minute:02}:00Z"}}"#)
        };
        let values: Vec<String> = visits.iter().map(value).collect();
        let rows: Vec<(i32, i64)> = (next..).take(values.len()).map(|at| (0, at)).collect();
        next += rows.len() as i64;
        let part = |value: i32| -> ArrayRef { Arc::new(Int32Array::from(vec![value; rows.len()])) };
        let more = [1970, 1, 1, i32::try_from(hour).unwrap()].map(part);
        insert_values(&handle, &rows, &values, more.to_vec()).await;
    }
    handle
}

/// The completed sessions of the eleventh hour: visitor, and minutes of start and end, of each row; and what was read: slices and files.
async fn completed(past: PinnedPast) -> (Vec<(i64, i64, i64)>, [usize; 2]) {
    let mut config = SessionConfig::new().with_target_partitions(3);
    // Also small scans are divided among the partitions.
    config.options_mut().optimizer.repartition_file_min_size = 0;
    let context = SessionContext::new_with_config(config);
    let input = LogicalPlanBuilder::scan("t", provider_as_source(Arc::new(past)), None).unwrap();
    let column = |name: &str| Expr::Column(Column::new(Some("t"), name));
    let range = CompletionRange {
        from: 10 * HOUR,
        to: 11 * HOUR,
        max_extension: 24 * HOUR,
    };
    let node = CompleteSessions::try_new(
        input.build().unwrap(),
        vec![column("n")],
        column("at"),
        10 * MINUTE,
        range,
    );
    let node = node.unwrap().passing_over_nulls();
    let plan: Arc<dyn ExecutionPlan> =
        Arc::new(CompleteSessionsExec::try_new(&node, context.state()).unwrap());
    let batches = collect(Arc::clone(&plan), context.task_ctx())
        .await
        .unwrap();
    let rows = batches.iter().flat_map(|batch: &RecordBatch| {
        let visitors = batch
            .column(0)
            .as_primitive::<Int64Type>()
            .values()
            .to_vec();
        let ends = ["window_start", "window_end"].map(|name| {
            let times = batch.column_by_name(name).unwrap();
            let times = datafusion::arrow::compute::cast(times, &DataType::Int64).unwrap();
            times.as_primitive::<Int64Type>().values().to_vec()
        });
        let [starts, ends] = ends;
        let times = starts.into_iter().zip(ends);
        let rows = visitors.into_iter().zip(times);
        rows.map(|(visitor, (start, end))| (visitor, start / MINUTE, end / MINUTE))
            .collect::<Vec<_>>()
    });
    let mut rows: Vec<(i64, i64, i64)> = rows.collect();
    rows.sort_unstable();
    let metrics = plan.metrics().unwrap();
    let read = ["slices", "files_read"].map(|name| metrics.sum_by_name(name).unwrap().as_usize());
    (rows, read)
}

#[test]
fn sess_2_no_file_is_opened_twice_and_none_of_an_hour_without_sessions() {
    runtime().block_on(async {
        let folder = tempfile::tempdir().unwrap();
        let handle = by_hour(&folder.path().join("raw")).await;
        let archive = pinned(&handle, &[("archive.event_time", PARTS)]).await;
        let (rows, [slices, files]) = completed(archived(&archive)).await;
        let (start, last) = (8 * 60 + 6, 12 * 60 + 24);
        let count = usize::try_from((last - start) / 6 + 1).unwrap();
        let mut expected = vec![(LONG, start, last + 10); count];
        let others = [(120, 620), (121, 621)];
        expected.extend(others.map(|(visitor, at)| (visitor, at, at + 10)));
        assert_eq!(rows, expected);
        // A visit at 7:56 or at 12:34 would belong to the long session.
        assert_eq!((slices, files), (4, 2 * 6), "hours 7 to 12");
    });
}
