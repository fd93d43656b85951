//! SHOW CREATE JOB and EXPLAIN CREATE JOB as rows.

use std::sync::Arc;

use datafusion::arrow::array::{ArrayRef, Int64Array, RecordBatch, StringArray};

use crate::core::jobs::{JobHistory, MakingText, WatermarkPolicy};
use crate::core::runs::text_version;
use crate::error::{Error, Result, Subject};
use crate::planner::ast::Emit;
use crate::runtime::options::{JobOptions, OnExpressionError, StateTtl, Trigger};
use crate::runtime::startup;
use crate::streaming::{JobQuery, JobSinkTable, StreamQuery, StreamTable};

/// `job`, `definition`: the tables it uses, then the job itself.
pub(super) fn definition(history: &JobHistory) -> Result<RecordBatch> {
    batch(vec![
        ("job", text(&history.name)),
        ("definition", text(&script(&history.text, &history.tables))),
    ])
}

/// `job`, `batch`, `sql_version`, `definition`: the statements that made a batch.
///
/// # Errors
///
/// There is no such batch, or the log no longer says which statement made it.
pub(super) fn definition_as_of(history: &JobHistory, number: u64) -> Result<RecordBatch> {
    let job = &history.name;
    let found = history.batches.iter().find(|batch| batch.batch == number);
    let Some(found) = found else {
        let error = Error::not_found(format!("job {job} has no batch {number}"));
        let help = match (history.batches.first(), history.last()) {
            (Some(first), Some(last)) => {
                format!("it has the batches {} to {}", first.batch, last.batch)
            }
            _ => "it has not committed a batch yet".to_owned(),
        };
        return Err(error.about(Subject::job(job)).with_help(help));
    };
    let (making, tables) = match history.text_of(&found.version) {
        MakingText::Present => (&history.text, &history.tables),
        MakingText::Replaced(of) => (&of.text, &of.tables),
        MakingText::Unknown => {
            return Err(Error::not_found(format!(
                "it is unknown which statement made batch {number} of job {job}"
            ))
            .about(Subject::job(job))
            .with_help(
                "an earlier release has shortened the log of the job: the statements of later batches are there",
            ));
        }
    };
    batch(vec![
        ("job", text(job)),
        (
            "batch",
            Arc::new(Int64Array::from(vec![i64::try_from(number).ok()])),
        ),
        ("sql_version", text(&text_version(making, tables))),
        ("definition", text(&script(making, tables))),
    ])
}

/// The statements of a job, to be run in this order.
pub(super) fn script(job: &str, tables: &[String]) -> String {
    let statements = tables.iter().map(String::as_str).chain([job]);
    let statements: Vec<String> = statements.map(|text| format!("{text};")).collect();
    statements.join("\n")
}

/// A column of one text.
fn text(text: &str) -> ArrayRef {
    Arc::new(StringArray::from_iter_values([text]))
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
    let retention = options.retention;
    let (age, versions) = (length_text(retention.age), retention.versions);
    rows.push((
        "retention",
        format!("the last {versions} batches, {age} at most"),
    ));
    let of_runs = i64::try_from(options.retention_of_runs.as_millis()).unwrap_or(i64::MAX);
    rows.push((
        "retention.runs",
        format!(
            "reprocessing runs, {} after their end",
            length_text(of_runs)
        ),
    ));
    if options.on_expression_error == OnExpressionError::DeadLetter {
        let said = "dead_letter: the record goes to system.dead_letters, and the job goes on";
        rows.push(("on_expression_error", said.to_owned()));
    }
    if query.stream().is_some() {
        let limit = format!("{} MiB", options.state_max_memory >> 20);
        rows.push(("state.max_memory", limit));
        let on_change = match options.resets_on_change {
            true => {
                "reset: CREATE OR REPLACE JOB with other windows, keys or aggregates begins with an empty state"
            }
            false => "refuse: CREATE OR REPLACE JOB keeps the windows, keys and aggregates",
        };
        rows.push(("on_change", on_change.to_owned()));
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
    items(&rows)
}

/// A length in milliseconds, for the user.
fn length_text(millis: i64) -> String {
    const HOUR: i64 = 3_600_000;
    match millis % HOUR {
        0 => format!("{} hours", millis / HOUR),
        _ => format!("{millis} milliseconds"),
    }
}

/// `item`, `value`.
pub(super) fn items(rows: &[(&str, String)]) -> Result<RecordBatch> {
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

#[cfg(test)]
mod tests {
    use datafusion::arrow::array::AsArray as _;

    use super::*;
    use crate::planner::{Parameters, Script, Statement, parse_statement};
    use crate::runtime::options::OPTION_NAMES;
    use crate::runtime::statements::Jobs;
    use crate::session::{Session, SessionOptions, StatementOutcome};
    use crate::store::JobStore;

    const TABLES: &str = "
        CREATE EXTERNAL TABLE ticks (k BIGINT, t TIMESTAMP, WATERMARK FOR t AS t - INTERVAL '5 seconds')
          STORED AS KAFKA LOCATION 'ticks' OPTIONS ('kafka.bootstrap.servers' '127.0.0.1:1');
        CREATE EXTERNAL TABLE counts (k BIGINT, n BIGINT)
          STORED AS KAFKA LOCATION 'counts' OPTIONS ('kafka.bootstrap.servers' '127.0.0.1:1')";
    const WINDOWS: &str = "SELECT k, count(*) FROM TUMBLE(TABLE ticks, DESCRIPTOR(t), INTERVAL '10 seconds') \
                           GROUP BY k, window_start";
    const KEYS: &str = "SELECT k, count(*) FROM ticks GROUP BY k EMIT CHANGES";

    async fn session() -> Session {
        let session = Session::try_new(&SessionOptions::default()).unwrap();
        for raw in Script::new("tables", TABLES).split().unwrap() {
            let mut parsed = parse_statement(&raw).unwrap();
            Parameters::default().bind(&mut parsed).unwrap();
            session.execute(parsed).await.unwrap();
        }
        session
    }

    /// The rows of EXPLAIN CREATE JOB.
    async fn explained(session: &Session, query: &str, option: &str, value: &str) -> Vec<String> {
        let sql = format!(
            "EXPLAIN CREATE JOB j WITH ('{option}' '{value}') AS INSERT INTO counts {query}"
        );
        let raw = Script::new("job", sql.as_str()).split().unwrap().remove(0);
        let Statement::Job(job) = parse_statement(&raw).unwrap().statement else {
            panic!("{sql}")
        };
        let jobs = Jobs::new(JobStore::ephemeral());
        let begun = jobs.begin(session, *job, &sql).await;
        let StatementOutcome::Rows(rows) = begun.unwrap() else {
            panic!("{sql}")
        };
        let rows = rows.rows().await.unwrap();
        let column = |at: usize| rows.column(at).as_string::<i32>();
        let both = column(0).iter().flatten().zip(column(1).iter().flatten());
        both.map(|(item, value)| format!("{item}: {value}"))
            .collect()
    }

    #[tokio::test]
    async fn every_option_of_a_job_is_shown() {
        let session = session().await;
        for option in OPTION_NAMES {
            let (query, one, other) = match *option {
                "batch.max_bytes" => (WINDOWS, "64 MiB", "32 MiB"),
                "batch.max_rows" => (WINDOWS, "5", "6"),
                "on_change" => (WINDOWS, "refuse", "reset"),
                "on_expression_error" => (WINDOWS, "fail", "dead_letter"),
                "retention.age" | "retention.runs" => (WINDOWS, "1 day", "90 minutes"),
                "retention.versions" => (WINDOWS, "5", "6"),
                startup::OPTION => (WINDOWS, "earliest", "latest"),
                "state.max_memory" => (WINDOWS, "64 MiB", "32 MiB"),
                "state.ttl" => (KEYS, "none", "1 day"),
                "trigger" => (WINDOWS, "once", "1 second"),
                "watermark.max_drift" => (WINDOWS, "none", "1 hour"),
                unknown => panic!("the test has no values of {unknown}"),
            };
            let item = match *option {
                "retention.age" | "retention.versions" => "retention",
                option => option,
            };
            let first = explained(&session, query, option, one).await;
            let second = explained(&session, query, option, other).await;
            let differ: Vec<&String> = second.iter().filter(|row| !first.contains(row)).collect();
            let begins = format!("{item}: ");
            assert_eq!(differ.len(), 1, "{option}: {differ:?}");
            assert!(differ[0].starts_with(&begins), "{option}: {differ:?}");
        }
    }
}
