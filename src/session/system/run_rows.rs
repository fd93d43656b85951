//! Rows of `system.runs` and `system.run_changes`, read from the reprocessing runs of a data directory.

use std::collections::{BTreeSet, VecDeque};
use std::io::Cursor;
use std::sync::Arc;

use datafusion::arrow::array::{
    Array as _, ArrayRef, AsArray as _, Float64Array, Int64Array, RecordBatch, StringArray,
    StructArray, new_null_array,
};
use datafusion::arrow::compute::kernels::zip::zip;
use datafusion::arrow::compute::{cast, concat_batches, is_not_null};
use datafusion::arrow::datatypes::{DataType, Field, Fields, Float64Type, TimeUnit};
use datafusion::arrow::error::ArrowError;
use datafusion::arrow::ipc::reader::FileReader;
use futures::{Stream, StreamExt as _, TryStreamExt as _};

use crate::core::jobs::{ChangeCounts, ComparedChunk};
use crate::core::runs::difference::changes::{AFTER, BEFORE, END, KEYS, KIND, START};
use crate::core::runs::extent_text;
use crate::error::{Error, Result};
use crate::formats::json::value_text::json_text;
use crate::session::system::rows::{batch, internal, same, signed, times};
use crate::session::system::scan_filter::ScanFilter;
use crate::store::{DataDir, FoundRun, RunRow, RunStore, StoredRun, run_row};

/// The number of runs that are read concurrently.
const READS_AT_ONCE: usize = 16;

/// The runs of a data directory; none if there is no such directory.
///
/// # Errors
///
/// It cannot be opened.
pub(super) fn store_in(data_dir: &str) -> Result<Option<RunStore>> {
    match DataDir::exists(data_dir) {
        true => Ok(Some(RunStore::new(&DataDir::open(data_dir)?))),
        false => Ok(None),
    }
}

/// The rows of `system.runs`, for the wanted runs.
pub(super) async fn rows_of(data_dir: &str, wanted: &ScanFilter) -> Result<RecordBatch> {
    match store_in(data_dir)? {
        Some(store) => rows_in(&store, wanted).await,
        None => empty_of("runs"),
    }
}

/// The same for the runs of a store.
async fn rows_in(store: &RunStore, wanted: &ScanFilter) -> Result<RecordBatch> {
    let mut runs = store.found(wanted_ids(store, wanted).await?).await?;
    runs.retain(|run| match (&wanted.jobs, &run.found) {
        (Some(jobs), Ok(found)) => jobs.contains(&found.spec.job),
        (Some(_), Err(_)) | (None, _) => true,
    });
    run_rows(store, runs).await
}

async fn wanted_ids(store: &RunStore, wanted: &ScanFilter) -> Result<Vec<String>> {
    let mut ids = store.run_ids().await?;
    if let Some(runs) = &wanted.runs {
        ids.retain(|id| runs.contains(id));
    }
    Ok(ids)
}

/// The rows of `system.run_changes` for the wanted runs and kinds: a file is read when the rows before it are.
pub(super) fn changes(
    store: Option<RunStore>,
    wanted: ScanFilter,
) -> impl Stream<Item = Result<RecordBatch>> + Send + 'static {
    let unread = UnreadChanges {
        store,
        wanted,
        run_ids: None,
        current: None,
    };
    futures::stream::try_unfold(unread, UnreadChanges::read_next)
}

/// Chunks of a run, by number.
type NumberedChunks = VecDeque<(u64, ComparedChunk)>;

/// The files of changes that are still to be read.
struct UnreadChanges {
    store: Option<RunStore>,
    wanted: ScanFilter,
    /// The runs behind the current one; none until they are looked up.
    run_ids: Option<VecDeque<String>>,
    current: Option<(StoredRun, NumberedChunks)>,
}

impl UnreadChanges {
    /// The rows of the next file.
    async fn read_next(mut self) -> Result<Option<(RecordBatch, Self)>> {
        let Some(store) = self.store.clone() else {
            return Ok(None);
        };
        loop {
            if let Some((run, mut chunks)) = self.current.take() {
                let Some((number, chunk)) = chunks.pop_front() else {
                    continue;
                };
                let mut rows = change_rows(&store, &run, number, &chunk).await;
                if rows.is_err() && matches!(store.is_swept(&run, &chunk).await, Ok(true)) {
                    rows = Ok(None);
                }
                self.current = Some((run, chunks));
                match rows? {
                    Some(rows) => return Ok(Some((rows, self))),
                    None => continue,
                }
            }
            let mut run_ids = match self.run_ids.take() {
                Some(run_ids) => run_ids,
                None => wanted_ids(&store, &self.wanted).await?.into(),
            };
            let next = run_ids.pop_front();
            self.run_ids = Some(run_ids);
            let Some(run_id) = next else {
                return Ok(None);
            };
            self.current = wanted_chunks(&store, run_id, &self.wanted).await?;
        }
    }
}

/// A run with its chunks that have changes of the wanted kinds; none if it is not wanted, or is not there any more.
async fn wanted_chunks(
    store: &RunStore,
    run_id: String,
    wanted: &ScanFilter,
) -> Result<Option<(StoredRun, NumberedChunks)>> {
    let Some(FoundRun { found, .. }) = store.found(vec![run_id]).await?.pop() else {
        return Ok(None);
    };
    let run = found?;
    let jobs = wanted.jobs.as_ref();
    if jobs.is_some_and(|jobs| !jobs.contains(&run.spec.job)) {
        return Ok(None);
    }
    let kinds = wanted.kinds.as_ref();
    let compared = run.history.run.iter().flat_map(|run| &run.compared);
    let chunks = (1..).zip(compared);
    let chunks = chunks.filter(|(_, chunk)| kinds.is_none_or(|kinds| has_kind(chunk, kinds)));
    let chunks: NumberedChunks = chunks
        .map(|(number, chunk)| (number, chunk.clone()))
        .collect();
    Ok(Some((run, chunks)))
}

/// Whether a chunk has rows of one of these kinds.
fn has_kind(chunk: &ComparedChunk, kinds: &BTreeSet<String>) -> bool {
    let mut kept = chunk.counts.differing().into_iter();
    kept.any(|(kind, count)| count > 0 && kinds.contains(kind))
}

/// A table without rows.
pub(super) fn empty_of(name: &str) -> Result<RecordBatch> {
    match name {
        "runs" => rows_of_runs(&[]),
        _ => rows_of_changes(("", ""), 0, "", ShownChanges::default()),
    }
}

/// A run, or the error if it cannot be read.
struct ListedRun {
    run_id: String,
    found: Result<RunRow>,
}

/// `run_id`, `job`, `state`, `reason`, `asked`, `reads`, `emits`, `emit`, `chunks_compared`, `same`, `changed`, `new`, `gone`,
/// `unknown`, `chunks`, `rows_in`, `rows_out`, `position`, `done`, `sql_version`, `created_at`, `since`, `owner`, `heartbeat_at`: one row per run.
///
/// # Errors
///
/// The store does not answer.
#[expect(
    clippy::disallowed_methods,
    reason = "the system tables show heartbeats by their age"
)]
pub async fn run_rows(store: &RunStore, runs: Vec<FoundRun>) -> Result<RecordBatch> {
    let now = chrono::Utc::now().timestamp_millis();
    let listed = futures::stream::iter(runs).map(|FoundRun { run_id, found }| async move {
        let found = match found {
            Ok(run) => run_row(store, &run).await.map(|run| run.as_of(now)),
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
            Ok(run) => run.reason().map(str::to_owned),
            Err(error) => Some(error.with_its_help()),
        })
        .collect();
    let beats = runs.iter().map(|run| known(run)?.heartbeat_at);
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
        ("heartbeat_at", times(beats)?),
    ])
}

/// The compared rows by kind; none as long as no chunk was compared.
fn counts(run: &RunRow) -> Option<ChangeCounts> {
    (run.chunks_compared > 0).then_some(run.counts)
}

/// The rows of a compared chunk that differ from the published ones: `run_id`, `job`, `chunk`, `range`, `kind`, `key`, `window_start`,
/// `window_end`, `before`, `after`. None if all are the same. Key and rows are JSON.
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
    let range = extent_text(&chunk.extent);
    let of_run = (run.spec.run_id.as_str(), run.spec.job.as_str());
    let mut parts = Vec::new();
    for rows in FileReader::try_new(Cursor::new(bytes), None).map_err(damaged)? {
        let changes = shown_changes(&rows.map_err(damaged)?).map_err(damaged)?;
        parts.push(rows_of_changes(of_run, number, &range, changes)?);
    }
    let schema = empty_of("run_changes")?.schema();
    concat_batches(&schema, &parts).map(Some).map_err(internal)
}

/// Changes as they are shown.
struct ShownChanges {
    kinds: StringArray,
    keys: StringArray,
    starts: ArrayRef,
    ends: ArrayRef,
    before: StringArray,
    after: StringArray,
}

impl Default for ShownChanges {
    fn default() -> Self {
        let none = || StringArray::new_null(0);
        Self {
            kinds: none(),
            keys: none(),
            starts: new_null_array(&instant(), 0),
            ends: new_null_array(&instant(), 0),
            before: none(),
            after: none(),
        }
    }
}

fn instant() -> DataType {
    DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into()))
}

fn rows_of_changes(
    (run_id, job): (&str, &str),
    number: u64,
    range: &str,
    changes: ShownChanges,
) -> Result<RecordBatch> {
    let count = changes.kinds.len();
    let numbers = Int64Array::from(vec![signed(number); count]);
    batch(vec![
        ("run_id", same(run_id, count)),
        ("job", same(job, count)),
        ("chunk", Arc::new(numbers)),
        ("range", same(range, count)),
        ("kind", Arc::new(changes.kinds)),
        ("key", Arc::new(changes.keys)),
        ("window_start", changes.starts),
        ("window_end", changes.ends),
        ("before", Arc::new(changes.before)),
        ("after", Arc::new(changes.after)),
    ])
}

fn shown_changes(rows: &RecordBatch) -> Result<ShownChanges, ArrowError> {
    let part = |name: &str| {
        let column = rows.column_by_name(name);
        column.ok_or_else(|| ArrowError::SchemaError(format!("it has no column {name}")))
    };
    let row = |name: &str| {
        let rows = part(name)?.as_struct_opt();
        rows.ok_or_else(|| ArrowError::SchemaError(format!("column {name} has no rows")))
    };
    let schema = rows.schema();
    let places = |name: &str| -> Result<Vec<usize>, ArrowError> {
        let places = schema.metadata().get(name);
        let places = places.into_iter().flat_map(|places| places.split(','));
        let places = places.map(|place| place.parse().map_err(|error| wrong_place(name, error)));
        places.collect()
    };
    let kinds = cast(part(KIND)?, &DataType::Utf8)?;
    let (before, after) = (row(BEFORE)?, row(AFTER)?);
    let key = places(KEYS)?;
    let keys = match key.is_empty() {
        true => StringArray::new_null(rows.num_rows()),
        false => {
            let published = row_texts(&columns_of(before, |at| key.contains(&at))?)?;
            let computed = row_texts(&columns_of(after, |at| key.contains(&at))?)?;
            let both = computed.iter().zip(&published);
            both.map(|(computed, published)| computed.or(published))
                .collect()
        }
    };
    let instants = |name: &str| -> Result<ArrayRef, ArrowError> {
        match places(name)?.first() {
            None => Ok(new_null_array(&instant(), rows.num_rows())),
            Some(at) => {
                let of = |rows: &StructArray| {
                    let column = rows.columns().get(*at);
                    let column =
                        column.ok_or_else(|| wrong_place(name, "it has no such column"))?;
                    cast(column, &instant())
                };
                zip(&is_not_null(after)?, &of(after)?, &of(before)?)
            }
        }
    };
    Ok(ShownChanges {
        kinds: kinds.as_string::<i32>().clone(),
        keys,
        starts: instants(START)?,
        ends: instants(END)?,
        before: row_texts(&columns_of(before, |_| true)?)?,
        after: row_texts(&columns_of(after, |_| true)?)?,
    })
}

fn wrong_place(name: &str, reason: impl std::fmt::Display) -> ArrowError {
    ArrowError::SchemaError(format!("{name}: {reason}"))
}

/// The rows with the columns that are wanted. JSON has no number that is not finite: columns with one become text.
fn columns_of(
    rows: &StructArray,
    is_wanted: impl Fn(usize) -> bool,
) -> Result<StructArray, ArrowError> {
    let mut fields = Vec::new();
    let mut columns = Vec::new();
    for (at, (field, column)) in rows.fields().iter().zip(rows.columns()).enumerate() {
        if !is_wanted(at) {
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

#[cfg(test)]
#[path = "run_rows_tests.rs"]
pub(crate) mod tests;
