//! Rows of `system.runs` and `system.run_changes`, read from the reprocessing runs of a data directory.

use std::io::Cursor;
use std::sync::Arc;

use datafusion::arrow::array::{
    Array as _, ArrayRef, AsArray as _, Int64Array, RecordBatch, StringArray, StructArray,
};
use datafusion::arrow::compute::{cast, concat_batches};
use datafusion::arrow::datatypes::{DataType, Field, Fields, Float64Type};
use datafusion::arrow::error::ArrowError;
use datafusion::arrow::ipc::reader::FileReader;
use futures::{StreamExt as _, TryStreamExt as _};

use crate::core::jobs::{ChangeCounts, ComparedChunk, RunHistory};
use crate::core::runs::difference::changes::{AFTER, BEFORE, KIND};
use crate::core::runs::time_range::time_text;
use crate::core::runs::{RunSpec, RunState, chunk_extent, compared_to, extent_text, position_of};
use crate::error::{Error, Result};
use crate::formats::json::value_text::json_text;
use crate::planner::effect::effect;
use crate::planner::{
    JobStatement, ParsedStatement, Script, Statement, Writes, normalize, parse_statement,
};
use crate::session::system::rows::{batch, internal, same, signed, times};
use crate::session::system::scan_filter::ScanFilter;
use crate::store::{DataDir, FoundRun, RunStore, StoredRun};

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
        for (number, chunk) in (1..).zip(compared(&run)) {
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

/// A run with the instant or the offsets at which it stands.
struct RunPlace {
    run_id: String,
    found: Result<(StoredRun, Option<String>)>,
}

/// `run_id`, `job`, `state`, `reason`, `emit`, `asked`, `emitted`, `sql_version`, `chunks`, `position`, `same`, `changed`, `new`,
/// `gone`, `unknown`, `created_at`, `since`, `owner`: one row per run.
///
/// # Errors
///
/// The store does not answer.
pub async fn run_rows(store: &RunStore, runs: Vec<FoundRun>) -> Result<RecordBatch> {
    let places = futures::stream::iter(runs).map(|FoundRun { run_id, found }| async move {
        let found = match found {
            Ok(run) => match position(store, &run).await {
                Ok(position) => Ok((run, position)),
                Err(error) if error.may_pass() => return Err(error),
                Err(error) => Err(error),
            },
            Err(error) => Err(error),
        };
        Ok::<_, Error>(RunPlace { run_id, found })
    });
    rows_of_runs(
        &places
            .buffered(READS_AT_ONCE)
            .try_collect::<Vec<_>>()
            .await?,
    )
}

/// Where a run stands, for the user: behind the last chunk that is in the sink, or that was compared while it is planned. None before
/// its first chunk.
async fn position(store: &RunStore, run: &StoredRun) -> Result<Option<String>> {
    let extent = match run.history.last() {
        Some(last) => {
            let version = store.jobs().version(run.id, &last.version).await?;
            chunk_extent(&run.spec.emission, &version)
        }
        None => compared_to(&run.history).0.cloned(),
    };
    Ok(extent.map(|extent| match position_of(Some(&extent)) {
        Some(instant) => time_text(instant),
        None => extent_text(&extent),
    }))
}

/// The chunks of a run that were compared, in order.
fn compared(run: &StoredRun) -> &[ComparedChunk] {
    run.history.run.as_ref().map_or(&[], |run| &run.compared)
}

/// The number of rows of each kind in all chunks that were compared; none before the first.
pub fn compared_rows(run: &StoredRun) -> Option<ChangeCounts> {
    let counts = compared(run).iter().map(|chunk| chunk.counts);
    counts.reduce(ChangeCounts::plus)
}

/// A run that cannot be read has its id only, and the reason.
fn rows_of_runs(runs: &[RunPlace]) -> Result<RecordBatch> {
    let known = |run: &RunPlace| run.found.as_ref().ok();
    let texts = |of: &dyn Fn(&StoredRun) -> Option<String>| -> ArrayRef {
        let texts = runs.iter().map(|run| of(&known(run)?.0));
        Arc::new(texts.collect::<StringArray>())
    };
    let numbers = |of: &dyn Fn(&StoredRun) -> Option<u64>| -> ArrayRef {
        let numbers = runs.iter().map(|run| of(&known(run)?.0).map(signed));
        Arc::new(numbers.collect::<Int64Array>())
    };
    let counts = |of: fn(ChangeCounts) -> u64| numbers(&|run| compared_rows(run).map(of));
    let ids = runs.iter().map(|run| run.run_id.as_str());
    let states = runs.iter().map(|run| match known(run) {
        Some((run, _)) => run.state().name(),
        None => "FAILED",
    });
    let reasons: StringArray = runs
        .iter()
        .map(|run| match &run.found {
            Ok((run, _)) => match run.state() {
                RunState::Failed { reason, .. } => Some(reason),
                _ => None,
            },
            Err(error) => Some(error.with_its_help()),
        })
        .collect();
    let positions = runs.iter().map(|run| known(run)?.1.as_deref());
    let created = runs
        .iter()
        .map(|run| Some(known(run)?.0.history.created_at));
    let since = runs.iter().map(|run| {
        let history = &known(run)?.0.history;
        let own: Option<&RunHistory> = history.run.as_ref();
        Some(own.map_or(0, |own| own.since).max(history.created_at))
    });
    batch(vec![
        ("run_id", Arc::new(StringArray::from_iter_values(ids))),
        ("job", texts(&|run| Some(run.spec.job.clone()))),
        ("state", Arc::new(StringArray::from_iter_values(states))),
        ("reason", Arc::new(reasons)),
        (
            "emit",
            texts(&|run| Some(run.spec.options.emit.to_string())),
        ),
        ("asked", texts(&|run| Some(run.spec.asked.to_string()))),
        (
            "emitted",
            texts(&|run| Some(run.spec.emission.emitted_text(run.spec.grouping))),
        ),
        ("sql_version", texts(&|run| Some(run.spec.text_version()))),
        (
            "chunks",
            numbers(&|run| Some(run.history.last().map_or(0, |last| last.batch))),
        ),
        ("position", Arc::new(positions.collect::<StringArray>())),
        ("same", counts(|counts| counts.same)),
        ("changed", counts(|counts| counts.changed)),
        ("new", counts(|counts| counts.new)),
        ("gone", counts(|counts| counts.gone)),
        ("unknown", counts(|counts| counts.unknown)),
        ("created_at", times(created)?),
        ("since", times(since)?),
        ("owner", texts(&|run| run.history.owner.clone())),
    ])
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
    let published = row_texts(&columns_of(before, |name| is_of(key, name))?)?;
    let computed = row_texts(&columns_of(after, |name| is_of(key, name))?)?;
    let keys = computed.iter().zip(&published);
    let keys = keys.map(|(computed, published)| match key.is_empty() {
        true => None,
        false => computed.or(published),
    });
    Ok([
        kinds.as_string::<i32>().clone(),
        keys.collect(),
        row_texts(&columns_of(before, |_| true)?)?,
        row_texts(&columns_of(after, |_| true)?)?,
    ])
}

fn is_of(key: &[String], name: &str) -> bool {
    key.iter().any(|of| of == name)
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
