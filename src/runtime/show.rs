//! SHOW JOBS, SHOW BATCHES and SHOW CREATE JOB as rows.

use std::sync::Arc;

use datafusion::arrow::array::{
    ArrayRef, Int64Array, RecordBatch, StringArray, TimestampMillisecondArray,
};
use datafusion::arrow::compute::cast;
use datafusion::arrow::datatypes::{DataType, TimeUnit};

use crate::core::jobs::{BatchVersion, JobHistory, Phase};
use crate::error::{Error, Result};
use crate::planner::ast::Emit;
use crate::runtime::options::{JobOptions, Trigger};
use crate::session::{JobQuery, JobSinkTable};
use crate::state::JobId;

/// `job`, `state`, `reason`, `batch`, `generation`, `committed_at`, `owner`: one row per job.
pub(super) fn jobs(jobs: &[(JobId, JobHistory)]) -> Result<RecordBatch> {
    let of = |value: fn(&JobHistory) -> Option<String>| -> ArrayRef {
        let values: StringArray = jobs.iter().map(|(_, job)| value(job)).collect();
        Arc::new(values)
    };
    let states = of(|job| {
        let state = match &job.phase {
            Phase::Active => "ACTIVE",
            Phase::Paused(None) => "PAUSED",
            Phase::Paused(Some(_)) => "FAILED",
            Phase::Dropped => "DROPPED",
        };
        Some(state.to_owned())
    });
    let reasons = of(|job| match &job.phase {
        Phase::Paused(reason) => reason.clone(),
        _ => None,
    });
    let numbers = |value: fn(&JobHistory) -> u64| -> ArrayRef {
        Arc::new(Int64Array::from_iter_values(
            jobs.iter().map(|(_, job)| signed(value(job))),
        ))
    };
    batch(vec![
        ("job", of(|job| Some(job.name.clone()))),
        ("state", states),
        ("reason", reasons),
        (
            "batch",
            numbers(|job| job.last().map_or(0, |last| last.batch)),
        ),
        ("generation", numbers(|job| job.generation)),
        (
            "committed_at",
            times(jobs.iter().map(|(_, job)| job.last().map(|last| last.at)))?,
        ),
        ("owner", of(|job| job.owner.clone())),
    ])
}

/// `batch`, `generation`, `rows_in`, `rows_out`, `dead_letters`, `offsets`, `committed_at`, `milliseconds`: one row per
/// batch that counts.
pub(super) fn batches(history: &JobHistory, versions: &[BatchVersion]) -> Result<RecordBatch> {
    let numbers = |value: fn(&BatchVersion) -> u64| -> ArrayRef {
        Arc::new(Int64Array::from_iter_values(
            versions.iter().map(|version| signed(value(version))),
        ))
    };
    let offsets = versions.iter().map(|version| {
        let tables = version.sources.iter().map(|(table, partitions)| {
            let partitions: serde_json::Map<_, _> = partitions
                .iter()
                .map(|(partition, progress)| (partition.to_string(), progress.end.into()))
                .collect();
            (table.clone(), partitions.into())
        });
        serde_json::Value::Object(tables.collect()).to_string()
    });
    batch(vec![
        ("batch", numbers(|version| version.batch)),
        ("generation", numbers(|version| version.generation)),
        ("rows_in", numbers(|version| version.rows_in)),
        ("rows_out", numbers(|version| version.rows_out)),
        (
            "dead_letters",
            numbers(|version| version.dead_letters.len() as u64),
        ),
        ("offsets", Arc::new(StringArray::from_iter_values(offsets))),
        (
            "committed_at",
            times(history.batches.iter().map(|committed| Some(committed.at)))?,
        ),
        ("milliseconds", numbers(|version| version.took)),
    ])
}

/// `job`, `definition`: the tables it uses, then the job itself.
pub(super) fn definition(history: &JobHistory) -> Result<RecordBatch> {
    let statements = history.tables.iter().chain([&history.text]);
    let text: Vec<String> = statements.map(|text| format!("{text};")).collect();
    batch(vec![
        (
            "job",
            Arc::new(StringArray::from_iter_values([&history.name])),
        ),
        (
            "definition",
            Arc::new(StringArray::from_iter_values([text.join("\n")])),
        ),
    ])
}

/// `item`, `value`: what the job reads, does and writes, and what it guarantees.
pub(super) fn explanation(
    query: &JobQuery,
    options: &JobOptions,
    emit: Emit,
) -> Result<RecordBatch> {
    let mut rows: Vec<(&str, String)> = Vec::new();
    for (name, table) in query.sources() {
        rows.push(("source", format!("{name}: topic '{}'", table.topic())));
    }
    rows.push((
        "operator",
        match emit {
            Emit::PerBatch => "row by row, aggregates over each batch alone".to_owned(),
            Emit::OnWindowClose | Emit::Changes => "row by row".to_owned(),
        },
    ));
    rows.push(("state", "none: offsets only".to_owned()));
    let (sink, delivery) = match query.sink() {
        JobSinkTable::Kafka(table) => (
            format!("{}: topic '{}'", table.name(), table.topic()),
            "exactly once for read_committed consumers: one transaction per batch",
        ),
        JobSinkTable::Delta(handle) => (
            format!("Delta table '{}'", handle.location()),
            "exactly once: one commit per batch, with the job's application transaction",
        ),
    };
    rows.push(("sink", sink));
    rows.push(("delivery", delivery.to_owned()));
    rows.push((
        "trigger",
        match options.trigger {
            Trigger::Every(interval) => format!("every {} milliseconds", interval.as_millis()),
            Trigger::AsFastAsPossible => "as fast as possible".to_owned(),
            Trigger::Once => "once".to_owned(),
        },
    ));
    rows.push((
        "batch.max_rows",
        format!("{} records of each table", options.max_rows),
    ));
    let items = rows.iter().map(|(item, _)| *item);
    let values = rows.iter().map(|(_, value)| value.as_str());
    batch(vec![
        ("item", Arc::new(StringArray::from_iter_values(items))),
        ("value", Arc::new(StringArray::from_iter_values(values))),
    ])
}

/// SQL's BIGINT has a sign.
fn signed(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

fn times(millis: impl Iterator<Item = Option<i64>>) -> Result<ArrayRef> {
    let times: TimestampMillisecondArray = millis.collect();
    let zoned = DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into()));
    cast(&times, &zoned).map_err(|error| Error::internal(error.to_string()))
}

fn batch(columns: Vec<(&str, ArrayRef)>) -> Result<RecordBatch> {
    RecordBatch::try_from_iter_with_nullable(
        columns
            .into_iter()
            .map(|(name, column)| (name, column, true)),
    )
    .map_err(|error| Error::internal(error.to_string()))
}
