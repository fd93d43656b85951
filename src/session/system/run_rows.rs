//! Rows of `system.runs` and `system.run_changes`, read from the reprocessing runs of a data directory.

use std::io::Cursor;
use std::sync::Arc;

use datafusion::arrow::array::{
    Array as _, ArrayRef, AsArray as _, Float64Array, Int64Array, RecordBatch, StringArray,
    StructArray,
};
use datafusion::arrow::compute::{cast, concat_batches};
use datafusion::arrow::datatypes::{DataType, Field, Fields, Float64Type};
use datafusion::arrow::error::ArrowError;
use datafusion::arrow::ipc::reader::FileReader;
use futures::{StreamExt as _, TryStreamExt as _};

use crate::core::jobs::{ChangeCounts, ComparedChunk};
use crate::core::runs::difference::changes::{AFTER, BEFORE, KIND};
use crate::core::runs::{RunSpec, RunState, extent_text};
use crate::error::{Error, Result};
use crate::formats::json::value_text::json_text;
use crate::planner::effect::effect;
use crate::planner::{
    JobStatement, ParsedStatement, Script, Statement, Writes, normalize, parse_statement,
};
use crate::session::system::rows::{batch, internal, same, signed, times};
use crate::session::system::scan_filter::ScanFilter;
use crate::store::{DataDir, FoundRun, RunRow, RunStore, StoredRun, run_row};

/// The number of runs that are read concurrently.
const READS_AT_ONCE: usize = 16;

/// The rows of a table of runs, for the wanted runs.
pub(super) async fn rows_of(
    data_dir: &str,
    name: &str,
    wanted: &ScanFilter,
) -> Result<RecordBatch> {
    if !DataDir::exists(data_dir) {
        return empty_of(name);
    }
    rows_in(&RunStore::new(&DataDir::open(data_dir)?), name, wanted).await
}

/// The same for the runs of a store.
pub(super) async fn rows_in(
    store: &RunStore,
    name: &str,
    wanted: &ScanFilter,
) -> Result<RecordBatch> {
    let mut ids = store.run_ids().await?;
    if let Some(runs) = &wanted.runs {
        ids.retain(|id| runs.contains(id));
    }
    let mut runs = store.found(ids).await?;
    runs.retain(|run| match (&wanted.jobs, &run.found) {
        (Some(jobs), Ok(found)) => jobs.contains(&found.spec.job),
        (Some(_), Err(_)) | (None, _) => true,
    });
    if name == "runs" {
        return run_rows(store, runs).await;
    }
    let mut parts = Vec::new();
    for run in runs {
        let run = run.found?;
        let compared = run.history.run.iter().flat_map(|run| &run.compared);
        for (number, chunk) in (1..).zip(compared) {
            parts.extend(change_rows(store, &run, number, chunk).await?);
        }
    }
    concat_batches(&empty_of(name)?.schema(), &parts).map_err(internal)
}

/// A table without rows.
pub(super) fn empty_of(name: &str) -> Result<RecordBatch> {
    match name {
        "runs" => rows_of_runs(&[]),
        _ => rows_of_changes(("", ""), 0, "", [0; 4].map(StringArray::new_null)),
    }
}

/// A run, or the error if it cannot be read.
struct ListedRun {
    run_id: String,
    found: Result<RunRow>,
}

/// `run_id`, `job`, `state`, `reason`, `asked`, `reads`, `emits`, `emit`, `chunks_compared`, `same`, `changed`, `new`, `gone`,
/// `unknown`, `chunks`, `rows_in`, `rows_out`, `position`, `done`, `sql_version`, `created_at`, `since`, `owner`: one row per run.
///
/// # Errors
///
/// The store does not answer.
pub async fn run_rows(store: &RunStore, runs: Vec<FoundRun>) -> Result<RecordBatch> {
    let listed = futures::stream::iter(runs).map(|FoundRun { run_id, found }| async move {
        let found = match found {
            Ok(run) => run_row(store, &run).await,
            Err(error) => Err(error),
        };
        match found {
            Err(error) if error.may_pass() => Err(error),
            found => Ok(ListedRun { run_id, found }),
        }
    });
    rows_of_runs(
        &listed
            .buffered(READS_AT_ONCE)
            .try_collect::<Vec<_>>()
            .await?,
    )
}

fn known(run: &ListedRun) -> Option<&RunRow> {
    run.found.as_ref().ok()
}

/// A run that cannot be read has its id only, and the reason.
fn rows_of_runs(runs: &[ListedRun]) -> Result<RecordBatch> {
    let texts = |of: fn(&RunRow) -> Option<&str>| -> ArrayRef {
        let texts = runs.iter().map(|run| of(known(run)?));
        Arc::new(texts.collect::<StringArray>())
    };
    let numbers = |of: fn(&RunRow) -> Option<u64>| -> ArrayRef {
        let numbers = runs.iter().map(|run| of(known(run)?).map(signed));
        Arc::new(numbers.collect::<Int64Array>())
    };
    let instants = |of: fn(&RunRow) -> i64| times(runs.iter().map(|run| known(run).map(of)));
    let ids = runs.iter().map(|run| run.run_id.as_str());
    let states = runs
        .iter()
        .map(|run| known(run).map_or("FAILED", |run| run.state.name()));
    let reasons: StringArray = runs
        .iter()
        .map(|run| match &run.found {
            Ok(run) => match &run.state {
                RunState::Failed { reason, .. } => Some(reason.clone()),
                _ => None,
            },
            Err(error) => Some(error.with_its_help()),
        })
        .collect();
    let done = runs
        .iter()
        .map(|run| Some(f64::from(known(run)?.done) / 1_000.0));
    batch(vec![
        ("run_id", Arc::new(StringArray::from_iter_values(ids))),
        ("job", texts(|run| Some(&run.job))),
        ("state", Arc::new(StringArray::from_iter_values(states))),
        ("reason", Arc::new(reasons)),
        ("asked", texts(|run| Some(&run.asked))),
        ("reads", texts(|run| Some(&run.reads))),
        ("emits", texts(|run| Some(&run.emits))),
        ("emit", texts(|run| Some(&run.emit))),
        ("chunks_compared", numbers(|run| Some(run.chunks_compared))),
        ("same", numbers(|run| counts(run).map(|of| of.same))),
        ("changed", numbers(|run| counts(run).map(|of| of.changed))),
        ("new", numbers(|run| counts(run).map(|of| of.new))),
        ("gone", numbers(|run| counts(run).map(|of| of.gone))),
        ("unknown", numbers(|run| counts(run).map(|of| of.unknown))),
        ("chunks", numbers(|run| Some(run.chunks))),
        ("rows_in", numbers(|run| Some(run.rows_in))),
        ("rows_out", numbers(|run| Some(run.rows_out))),
        ("position", texts(|run| run.position.as_deref())),
        ("done", Arc::new(done.collect::<Float64Array>())),
        ("sql_version", texts(|run| Some(&run.text_version))),
        ("created_at", instants(|run| run.created_at)?),
        (
            "since",
            instants(|run| run.since.unwrap_or(run.created_at))?,
        ),
        ("owner", texts(|run| run.owner.as_deref())),
    ])
}

/// The compared rows by kind; none as long as no chunk was compared.
fn counts(run: &RunRow) -> Option<ChangeCounts> {
    (run.chunks_compared > 0).then_some(run.counts)
}

/// The rows of a compared chunk that differ from the published ones: `run_id`, `job`, `chunk`, `range`, `kind`, `key`, `before`,
/// `after`. None if all are the same.
///
/// # Errors
///
/// They are missing or damaged, or the store does not answer.
pub async fn change_rows(
    store: &RunStore,
    run: &StoredRun,
    number: u64,
    chunk: &ComparedChunk,
) -> Result<Option<RecordBatch>> {
    let Some(file) = &chunk.changes else {
        return Ok(None);
    };
    let bytes = store.changes(run, file).await?;
    let damaged = |reason: ArrowError| {
        Error::data(format!(
            "the changes of chunk {number} of run '{}' cannot be read: {reason}",
            run.spec.run_id
        ))
    };
    let key = sink_key(&run.spec);
    let range = extent_text(&chunk.extent);
    let of_run = (run.spec.run_id.as_str(), run.spec.job.as_str());
    let mut parts = Vec::new();
    for rows in FileReader::try_new(Cursor::new(bytes), None).map_err(damaged)? {
        let change = change_texts(&rows.map_err(damaged)?, &key).map_err(damaged)?;
        parts.push(rows_of_changes(of_run, number, &range, change)?);
    }
    let schema = empty_of("run_changes")?.schema();
    concat_batches(&schema, &parts).map(Some).map_err(internal)
}

/// Kind, key, published and computed row of each change; rows are JSON.
type ChangeTexts = [StringArray; 4];

fn rows_of_changes(
    (run_id, job): (&str, &str),
    number: u64,
    range: &str,
    [kinds, keys, before, after]: ChangeTexts,
) -> Result<RecordBatch> {
    let count = kinds.len();
    let numbers = Int64Array::from(vec![signed(number); count]);
    batch(vec![
        ("run_id", same(run_id, count)),
        ("job", same(job, count)),
        ("chunk", Arc::new(numbers)),
        ("range", same(range, count)),
        ("kind", Arc::new(kinds)),
        ("key", Arc::new(keys)),
        ("before", Arc::new(before)),
        ("after", Arc::new(after)),
    ])
}

fn change_texts(rows: &RecordBatch, key: &[String]) -> Result<ChangeTexts, ArrowError> {
    let part = |name: &str| {
        let column = rows.column_by_name(name);
        column.ok_or_else(|| ArrowError::SchemaError(format!("it has no column {name}")))
    };
    let row = |name: &str| {
        let rows = part(name)?.as_struct_opt();
        rows.ok_or_else(|| ArrowError::SchemaError(format!("column {name} has no rows")))
    };
    let kinds = cast(part(KIND)?, &DataType::Utf8)?;
    let (before, after) = (row(BEFORE)?, row(AFTER)?);
    let keys = match key.is_empty() {
        true => StringArray::new_null(rows.num_rows()),
        false => {
            let is_key = |name: &str| key.iter().any(|of| of == name);
            let published = row_texts(&columns_of(before, is_key)?)?;
            let computed = row_texts(&columns_of(after, is_key)?)?;
            let both = computed.iter().zip(&published);
            both.map(|(computed, published)| computed.or(published))
                .collect()
        }
    };
    Ok([
        kinds.as_string::<i32>().clone(),
        keys,
        row_texts(&columns_of(before, |_| true)?)?,
        row_texts(&columns_of(after, |_| true)?)?,
    ])
}

/// The rows with the columns that are wanted. JSON has no number that is not finite: columns with one become text.
fn columns_of(
    rows: &StructArray,
    is_wanted: impl Fn(&str) -> bool,
) -> Result<StructArray, ArrowError> {
    let mut fields = Vec::new();
    let mut columns = Vec::new();
    for (field, column) in rows.fields().iter().zip(rows.columns()) {
        if !is_wanted(field.name()) {
            continue;
        }
        let column = match has_not_finite(column)? {
            true => cast(column, &DataType::Utf8)?,
            false => Arc::clone(column),
        };
        fields.push(Field::new(field.name(), column.data_type().clone(), true));
        columns.push(column);
    }
    StructArray::try_new_with_length(
        Fields::from(fields),
        columns,
        rows.nulls().cloned(),
        rows.len(),
    )
}

fn has_not_finite(column: &ArrayRef) -> Result<bool, ArrowError> {
    if !column.data_type().is_floating() {
        return Ok(false);
    }
    let numbers = cast(column, &DataType::Float64)?;
    let numbers = numbers.as_primitive::<Float64Type>();
    Ok(numbers.iter().flatten().any(|number| !number.is_finite()))
}

fn row_texts(rows: &StructArray) -> Result<StringArray, ArrowError> {
    let rows: ArrayRef = Arc::new(rows.clone());
    json_text(&rows).map_err(|error| ArrowError::JsonError(error.to_string()))
}

/// The columns of the sink's PRIMARY KEY, by the texts of the run: none if it has no key.
fn sink_key(spec: &RunSpec) -> Vec<String> {
    let statement = |text: &str| -> Option<ParsedStatement> {
        let raw = Script::new("job", text).split().ok()?.into_iter().next()?;
        parse_statement(&raw).ok()
    };
    let sink = || {
        let Statement::Job(job) = statement(&spec.text)?.statement else {
            return None;
        };
        let JobStatement::Create { insert, .. } = *job else {
            return None;
        };
        match effect(&Statement::Sql(insert)).ok()?.writes {
            Writes::Rows { table, .. } => table,
            _ => None,
        }
    };
    let Some(sink) = sink() else {
        return Vec::new();
    };
    let tables = spec.tables.iter().filter_map(|text| statement(text));
    let mut own = tables.filter(|table| table.effect.created_name() == Some(sink.as_str()));
    match own.next().map(|table| table.statement) {
        Some(Statement::CreateTable(table)) => table.primary_key.iter().map(normalize).collect(),
        _ => Vec::new(),
    }
}

#[cfg(test)]
#[path = "run_rows_tests.rs"]
pub(crate) mod tests;
