//! Delta tables through DataFusion: the calls that a statement makes, without the statements.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod dml;
mod foreign;
mod interop;
mod maintain;
mod prune;
mod s3;
mod s3_lies;
mod table;
mod travel;

use std::path::Path;
use std::sync::Arc;

use anabranch::tables::delta::{DeltaColumn, DeltaSpec, DeltaTableHandle, TimeTravel};
use datafusion::arrow::array::{
    Int32Array, Int64Array, RecordBatch, StringArray, TimestampMicrosecondArray,
};
use datafusion::arrow::datatypes::{DataType, Field, Schema, TimeUnit};
use datafusion::arrow::util::pretty::pretty_format_batches;
use datafusion::datasource::MemTable;
use datafusion::physical_plan::{ExecutionPlan, collect};
use datafusion::prelude::{SessionConfig, SessionContext};

/// 2025-09-04T00:00:00Z.
const DAY: i64 = 1_756_944_000_000_000;
const HOUR: i64 = 3_600_000_000;

fn timestamp() -> DataType {
    DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into()))
}

fn column(name: &str, data_type: DataType) -> DeltaColumn {
    DeltaColumn {
        name: name.into(),
        data_type,
        nullable: true,
        generated: None,
        comment: None,
    }
}

fn generated(name: &str, data_type: DataType, text: &str) -> DeltaColumn {
    DeltaColumn {
        generated: Some(text.into()),
        ..column(name, data_type)
    }
}

/// The raw archive of the documentation: partitioned by the parts of the event time.
fn archive(location: &Path) -> DeltaSpec {
    let part = |part: &str| {
        let text = format!("CAST(date_part('{part}', event_time) AS INT)");
        generated(part, DataType::Int32, &text)
    };
    DeltaSpec {
        location: location.display().to_string(),
        columns: Some(vec![
            column("value", DataType::Utf8),
            column("partition", DataType::Int32),
            column("offset", DataType::Int64),
            column("event_time", timestamp()),
            part("year"),
            part("month"),
            part("day"),
            part("hour"),
        ]),
        partition_by: ["year", "month", "day", "hour"].map(String::from).to_vec(),
        ..DeltaSpec::default()
    }
}

fn open(location: &Path) -> DeltaSpec {
    DeltaSpec {
        location: location.display().to_string(),
        ..DeltaSpec::default()
    }
}

/// Records as they are inserted into an [`archive`]; `None` is a record without an event time.
fn records(first_offset: i64, times: &[Option<i64>]) -> RecordBatch {
    let rows = times.len() as i64;
    let schema = Schema::new(vec![
        Field::new("value", DataType::Utf8, true),
        Field::new("partition", DataType::Int32, true),
        Field::new("offset", DataType::Int64, true),
        Field::new("event_time", timestamp(), true),
    ]);
    let offsets = first_offset..first_offset + rows;
    RecordBatch::try_new(
        Arc::new(schema),
        vec![
            Arc::new(StringArray::from_iter_values(
                offsets.clone().map(|o| format!("{{\"n\":{o}}}")),
            )),
            Arc::new(Int32Array::from_iter_values(
                offsets.clone().map(|o| (o % 3) as i32),
            )),
            Arc::new(Int64Array::from_iter_values(offsets)),
            Arc::new(TimestampMicrosecondArray::from(times.to_vec()).with_timezone("UTC")),
        ],
    )
    .unwrap()
}

/// A session in which the newest version of the table is `t`.
async fn session(handle: &DeltaTableHandle) -> SessionContext {
    let context = SessionContext::new_with_config(SessionConfig::new().with_target_partitions(2));
    context
        .register_table("t", handle.snapshot(TimeTravel::Latest).await.unwrap())
        .unwrap();
    context
}

async fn run(context: &SessionContext, sql: &str) -> anabranch::error::Result<Vec<RecordBatch>> {
    Ok(context.sql(sql).await?.collect().await?)
}

/// Runs `sql` over the newest version and shows its rows.
async fn query(handle: &DeltaTableHandle, sql: &str) -> String {
    let batches = run(&session(handle).await, sql).await.unwrap();
    pretty_format_batches(&batches).unwrap().to_string()
}

/// The single number that `sql` gives.
async fn number(handle: &DeltaTableHandle, sql: &str) -> i64 {
    let batches = run(&session(handle).await, sql).await.unwrap();
    batches[0]
        .column(0)
        .as_any()
        .downcast_ref::<Int64Array>()
        .unwrap()
        .value(0)
}

/// `INSERT INTO t (columns) SELECT columns FROM the batches`; gives the count.
async fn insert(
    handle: &DeltaTableHandle,
    columns: &str,
    batches: Vec<RecordBatch>,
) -> anabranch::error::Result<u64> {
    use datafusion::arrow::array::UInt64Array;
    let context = session(handle).await;
    let schema = batches[0].schema();
    let halves = batches.len().div_ceil(2);
    let (left, right) = batches.split_at(halves);
    let source = MemTable::try_new(schema, vec![left.to_vec(), right.to_vec()])?;
    context.register_table("src", Arc::new(source))?;
    let counts = run(
        &context,
        &format!("INSERT INTO t ({columns}) SELECT {columns} FROM src"),
    )
    .await?;
    Ok(counts[0]
        .column(0)
        .as_any()
        .downcast_ref::<UInt64Array>()
        .unwrap()
        .value(0))
}

const RECORD: &str = "value, partition, \"offset\", event_time";

/// Rows and files read by a query over the newest version.
async fn scanned(handle: &DeltaTableHandle, sql: &str) -> (usize, usize) {
    let context = session(handle).await;
    let plan = context
        .sql(sql)
        .await
        .unwrap()
        .create_physical_plan()
        .await
        .unwrap();
    let batches = collect(Arc::clone(&plan), context.task_ctx())
        .await
        .unwrap();
    let rows = batches.iter().map(RecordBatch::num_rows).sum();
    (
        rows,
        files_of(&plan).expect("the plan reads no Delta table"),
    )
}

fn files_of(plan: &Arc<dyn ExecutionPlan>) -> Option<usize> {
    let own = plan
        .metrics()
        .and_then(|metrics| metrics.sum_by_name("count_files_scanned"))
        .map(|value| value.as_usize());
    own.or_else(|| {
        plan.children()
            .into_iter()
            .filter_map(files_of)
            .reduce(|a, b| a + b)
    })
}

/// The data files below a folder.
fn data_files(folder: &Path) -> Vec<String> {
    let mut found = Vec::new();
    let mut folders = vec![folder.to_path_buf()];
    while let Some(next) = folders.pop() {
        for entry in std::fs::read_dir(next).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if path
                .extension()
                .is_some_and(|extension| extension == "parquet")
            {
                found.push(path.strip_prefix(folder).unwrap().display().to_string());
            }
        }
    }
    found.sort();
    found
}

/// The actions of one commit.
fn log(folder: &Path, version: u64) -> Vec<serde_json::Value> {
    let path = folder.join(format!("_delta_log/{version:020}.json"));
    let text = std::fs::read_to_string(path).unwrap();
    text.lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect()
}
