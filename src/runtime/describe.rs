//! SHOW CREATE JOB and EXPLAIN CREATE JOB as rows.

use std::sync::Arc;

use datafusion::arrow::array::{ArrayRef, RecordBatch, StringArray};

use crate::core::jobs::{JobHistory, WatermarkPolicy};
use crate::error::{Error, Result};
use crate::planner::ast::Emit;
use crate::runtime::options::{JobOptions, OnExpressionError, StateTtl, Trigger};
use crate::runtime::startup;
use crate::streaming::{JobQuery, JobSinkTable, StreamQuery, StreamTable};

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

/// `item`, `value`: the sources, steps, sink and guarantees of the job.
pub(super) async fn explanation(query: &JobQuery, options: &JobOptions) -> Result<RecordBatch> {
    let mut rows: Vec<(&str, String)> = Vec::new();
    for (name, table) in query.sources() {
        let what = match table {
            StreamTable::Kafka(table) => format!("topic '{}'", table.topic()),
            StreamTable::Delta(handle) => {
                format!(
                    "Delta table '{}', as its files are added",
                    handle.location()
                )
            }
        };
        rows.push(("source", format!("{name}: {what}")));
        let archive = query.archive(name)?;
        if let Some(archive) = archive.filter(|archive| !query.writes(archive)) {
            let archive = archive.name();
            let what = format!(
                "{name}: Delta table {archive} gives the records that the topic no longer has"
            );
            rows.push(("archive", what));
        }
    }
    if let Some(startup) = &options.startup {
        for name in query.sources().keys() {
            let start = startup::described(startup, name);
            rows.push((startup::OPTION, format!("{name}: {start}")));
        }
    }
    for (name, what) in query.static_tables() {
        rows.push(("static table", format!("{name}: {what}")));
    }
    let windowed = query.stream().filter(|stream| !stream.is_keyed());
    for (name, table) in query.sources() {
        if let (Some(_), Some(time)) = (windowed, table.event_time()) {
            let rule = match time.policy {
                WatermarkPolicy::Lowest => "the lowest partition",
                WatermarkPolicy::Highest => "the highest partition of the batches before",
            };
            let (column, expr) = (&time.column, &time.expr);
            rows.push(("watermark", format!("{name}.{column} AS {expr}, of {rule}")));
        }
    }
    match query.stream() {
        None => {
            let operator = match query.emit() {
                Emit::PerBatch => "row by row, aggregates over each batch alone",
                Emit::OnWindowClose | Emit::Changes => "row by row",
            };
            rows.push(("operator", operator.to_owned()));
            rows.push(("state", "none: offsets only".to_owned()));
        }
        Some(stream) => {
            rows.push(("operator", stream.window().to_owned()));
            let aggregate = query.aggregate().await?;
            let columns: Vec<String> = aggregate
                .state_schema()
                .fields()
                .iter()
                .map(|field| format!("{} {}", field.name(), field.data_type()))
                .collect();
            if let Some(unit) = stream.state_unit() {
                rows.push(("state rows", unit));
            }
            rows.push(("state", columns.join(", ")));
            let emit = match query.emit() {
                Emit::Changes if aggregate.uses_is_final() => {
                    "CHANGES: a row per group that a batch touched, and one more when its window closes"
                }
                Emit::Changes => "CHANGES: a row per group that a batch touched",
                _ => "ON WINDOW CLOSE: each group once",
            };
            rows.push(("emit", emit.to_owned()));
        }
    }
    let (sink, delivery) = match query.sink() {
        JobSinkTable::Kafka(table) => (
            format!("{}: topic '{}'", table.name(), table.topic()),
            "exactly once for read_committed consumers: one transaction per batch",
        ),
        JobSinkTable::Delta(handle) => (
            match handle.primary_key_names() {
                [] => format!("Delta table '{}'", handle.location()),
                key => format!(
                    "Delta table '{}', merged by {}",
                    handle.location(),
                    key.join(", ")
                ),
            },
            "exactly once: one commit per batch, with the job's application transaction",
        ),
        JobSinkTable::Subscriber => (
            "the client".to_owned(),
            "as long as the client reads; nothing is kept for the next one",
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
    let limit = format!("about {} MiB of records", options.max_bytes >> 20);
    rows.push(("batch.max_bytes", limit));
    let (retention, hour) = (options.retention, 3_600_000);
    let age = match retention.age {
        age if age % hour == 0 => format!("{} hours", age / hour),
        age => format!("{age} milliseconds"),
    };
    let versions = retention.versions;
    rows.push((
        "retention",
        format!("the last {versions} batches, {age} at most"),
    ));
    if options.on_expression_error == OnExpressionError::DeadLetter {
        let said = "dead_letter: the record goes to system.dead_letters, and the job goes on";
        rows.push(("on_expression_error", said.to_owned()));
    }
    if query.stream().is_some() {
        let limit = format!("{} MiB", options.state_max_memory >> 20);
        rows.push(("state.max_memory", limit));
    }
    if windowed.is_some() {
        let drift = match options.max_drift {
            Some(drift) => format!(
                "partitions more than {} milliseconds ahead of the slowest wait",
                drift.as_millis()
            ),
            None => "none: partitions do not wait for each other".to_owned(),
        };
        rows.push(("watermark.max_drift", drift));
    }
    match options.state_ttl {
        Some(StateTtl::After(ttl)) => rows.push((
            "state.ttl",
            format!(
                "a key that no batch has touched for {} seconds is forgotten",
                ttl.as_secs_f64()
            ),
        )),
        Some(StateTtl::Never) => rows.push(("state.ttl", "none: all keys are kept".to_owned())),
        None => {}
    }
    rows.extend(
        warnings(query)
            .into_iter()
            .map(|warning| ("warning", warning)),
    );
    let items = rows.iter().map(|(item, _)| *item);
    let values = rows.iter().map(|(_, value)| value.as_str());
    batch(vec![
        ("item", Arc::new(StringArray::from_iter_values(items))),
        ("value", Arc::new(StringArray::from_iter_values(values))),
    ])
}

/// Warnings for the user who creates this job.
pub(super) fn warnings(query: &JobQuery) -> Vec<String> {
    let has_key = !query.sink().primary_key().is_empty();
    let withdraws = query.stream().is_some_and(StreamQuery::withdraws);
    if query.emit() == Emit::Changes && withdraws && !has_key {
        let why = match query.sink() {
            JobSinkTable::Subscriber => "a subscriber gets no withdrawals",
            _ => "the sink has no PRIMARY KEY by which they could be withdrawn",
        };
        return vec![format!(
            "groups that were emitted can change their identity (a session that grows at its start or merges, a row that no \
             longer passes HAVING), and {why}"
        )];
    }
    Vec::new()
}

fn batch(columns: Vec<(&str, ArrayRef)>) -> Result<RecordBatch> {
    RecordBatch::try_from_iter_with_nullable(
        columns
            .into_iter()
            .map(|(name, column)| (name, column, true)),
    )
    .map_err(|error| Error::internal(error.to_string()))
}
