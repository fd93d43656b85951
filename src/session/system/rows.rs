//! Rows of the tables in the schema `system`, read from the jobs of a data directory.

use std::collections::BTreeMap;
use std::pin::pin;
use std::sync::Arc;

use datafusion::arrow::array::{
    Array as _, ArrayRef, AsArray as _, BooleanArray, Int32Array, Int64Array, RecordBatch,
    StringArray, TimestampMillisecondArray,
};
use datafusion::arrow::compute::{cast, concat_batches};
use datafusion::arrow::datatypes::{
    DataType, Int32Type, Int64Type, TimeUnit, TimestampMicrosecondType,
};
use futures::{StreamExt as _, TryStreamExt as _};
use tokio::sync::OnceCell;

use crate::core::jobs::{
    BatchCommit, BatchVersion, DeadLetter, JobHistory, MakingText, ObservedState, observed_state,
};
use crate::core::runs::{RepairingRun, text_version};
use crate::error::{Error, Result};
use crate::session::catalog::dead_letters;
use crate::session::system::scan_filter::ScanFilter;
use crate::state::decode_states;
use crate::state::late_schema;
use crate::store::{
    DataDir, FoundJob, JobId, JobStore, PackedBatch, RunStore, StoredRun, readable_runs,
    repairing_runs,
};
use crate::tables::bad_records::BadRecord;

/// The number of jobs that are read concurrently.
const READS_AT_ONCE: usize = 16;

/// The column with the run that has repaired a row.
pub(crate) const REPAIRED_BY: &str = "repaired_by";

/// The rows of a table, for these jobs and batches.
pub(super) async fn rows_of(
    data_dir: &str,
    name: &str,
    wanted: &ScanFilter,
) -> Result<RecordBatch> {
    if !DataDir::exists(data_dir) {
        return empty_of(name);
    }
    let store = JobStore::new(DataDir::open(data_dir)?);
    rows_in(&store, name, wanted).await
}

/// The same for the jobs of a store.
pub(super) async fn rows_in(
    store: &JobStore,
    name: &str,
    wanted: &ScanFilter,
) -> Result<RecordBatch> {
    let mut names = store.names().await?;
    if let Some(jobs) = &wanted.jobs {
        names.retain(|name| jobs.contains(name));
    }
    let jobs = store.found(names).await?;
    if name == "jobs" {
        return job_rows(store, jobs).await;
    }
    let (mut parts, runs) = (Vec::new(), OnceCell::new());
    for job in jobs {
        let (id, mut history) = job.found?;
        // For a restricted history only the selected batches are read.
        let all = std::mem::take(&mut history.batches).into_iter();
        let is_last_only = name == "partitions";
        let keeps = |of: &BatchCommit| is_last_only || wanted.batches.contains(&of.batch);
        history.batches = all.filter(keeps).collect();
        parts.push(rows_of_job((store, &runs), id, &history, name, wanted).await?);
    }
    concat_batches(&empty_of(name)?.schema(), &parts).map_err(internal)
}

/// `job`, `state`, `reason`, `batch`, `generation`, `committed_at`, `owner`: one row per job.
///
/// # Errors
///
/// The store does not answer.
#[expect(
    clippy::disallowed_methods,
    reason = "the system tables show signs of life by their age"
)]
pub async fn job_rows(store: &JobStore, jobs: Vec<FoundJob>) -> Result<RecordBatch> {
    let now = chrono::Utc::now().timestamp_millis();
    let seen = futures::stream::iter(jobs).map(|job| async move {
        Ok::<_, Error>(match job.found {
            Ok((id, history)) => {
                let heartbeat = store.heartbeat(id).await?;
                let seen = observed_state(&history, heartbeat.as_ref(), now);
                (job.name, Some(history), seen)
            }
            Err(error) => {
                let seen = ObservedState {
                    name: "FAILED",
                    reason: Some(error.with_its_help()),
                };
                (job.name, None, seen)
            }
        })
    });
    rows_of_jobs(&seen.buffered(READS_AT_ONCE).try_collect::<Vec<_>>().await?)
}

/// A job whose log cannot be read has no history.
fn rows_of_jobs(jobs: &[(String, Option<JobHistory>, ObservedState)]) -> Result<RecordBatch> {
    let names = jobs.iter().map(|(name, ..)| name);
    let names: ArrayRef = Arc::new(StringArray::from_iter_values(names));
    let states = jobs.iter().map(|(_, _, seen)| Some(seen.name));
    let states: ArrayRef = Arc::new(states.collect::<StringArray>());
    let reasons = jobs.iter().map(|(_, _, seen)| seen.reason.as_deref());
    let reasons: ArrayRef = Arc::new(reasons.collect::<StringArray>());
    let numbers = |value: fn(&JobHistory) -> u64| -> ArrayRef {
        let of_job = |job: &Option<JobHistory>| job.as_ref().map(|job| signed(value(job)));
        let numbers: Int64Array = jobs.iter().map(|(_, job, _)| of_job(job)).collect();
        Arc::new(numbers)
    };
    let lasts = jobs
        .iter()
        .map(|(_, job, _)| Some(job.as_ref()?.last()?.at));
    let owners = jobs.iter().map(|(_, job, _)| job.as_ref()?.owner.clone());
    let owners: ArrayRef = Arc::new(owners.collect::<StringArray>());
    batch(vec![
        ("job", names),
        ("state", states),
        ("reason", reasons),
        (
            "batch",
            numbers(|job| job.last().map_or(0, |last| last.batch)),
        ),
        ("generation", numbers(|job| job.generation)),
        ("committed_at", times(lasts)?),
        ("owner", owners),
    ])
}

/// `job`, `batch`, `generation`, `rows_in`, `rows_out`, `dead_letters`, `late_rows`, `watermark`, `offsets`, `published`,
/// `committed_at`, `milliseconds`, `sql_version`: one row per valid batch of the job.
///
/// # Errors
///
/// None that a caller could cause.
pub fn batch_rows(
    history: &JobHistory,
    batches: &[(BatchCommit, BatchVersion)],
) -> Result<RecordBatch> {
    rows_of_batches(&history.name, batches, text_versions(history, batches))
}

fn rows_of_batches(
    job: &str,
    batches: &[(BatchCommit, BatchVersion)],
    made_by: StringArray,
) -> Result<RecordBatch> {
    let numbers = |value: fn(&BatchVersion) -> u64| -> ArrayRef {
        Arc::new(Int64Array::from_iter_values(
            batches.iter().map(|(_, version)| signed(value(version))),
        ))
    };
    let offsets = batches.iter().map(|(_, version)| {
        let tables = version.sources.iter().map(|(table, partitions)| {
            let partitions: serde_json::Map<_, _> = partitions
                .iter()
                .map(|(partition, progress)| (partition.to_string(), progress.end.into()))
                .collect();
            (table.clone(), partitions.into())
        });
        serde_json::Value::Object(tables.collect()).to_string()
    });
    let published = batches.iter().map(|(_, version)| {
        let partitions = version.published.iter().map(|(partition, at)| {
            let range = serde_json::json!([at.start, at.end]);
            (partition.to_string(), range)
        });
        let partitions: serde_json::Map<_, _> = partitions.collect();
        (!partitions.is_empty()).then(|| serde_json::Value::from(partitions).to_string())
    });
    let published: StringArray = published.collect();
    let watermarks = batches.iter().map(|(_, version)| {
        let watermark = version.time.as_ref()?.watermark?;
        Some(watermark.div_euclid(1_000))
    });
    batch(vec![
        ("job", same(job, batches.len())),
        ("batch", numbers(|version| version.batch)),
        ("generation", numbers(|version| version.generation)),
        ("rows_in", numbers(|version| version.rows_in)),
        ("rows_out", numbers(|version| version.rows_out)),
        ("dead_letters", numbers(|version| version.dead_letters)),
        ("late_rows", numbers(|version| version.late_rows)),
        ("watermark", times(watermarks)?),
        ("offsets", Arc::new(StringArray::from_iter_values(offsets))),
        ("published", Arc::new(published)),
        (
            "committed_at",
            times(batches.iter().map(|(committed, _)| Some(committed.at)))?,
        ),
        ("milliseconds", numbers(|version| version.took)),
        ("sql_version", Arc::new(made_by)),
    ])
}

/// The versions of the statements that made these batches; none where the log no longer says which one.
fn text_versions(history: &JobHistory, batches: &[(BatchCommit, BatchVersion)]) -> StringArray {
    let present = text_version(&history.text, &history.tables);
    let replaced = history.texts.replaced.iter();
    let replaced: BTreeMap<u64, String> = replaced
        .map(|of| (of.until, text_version(&of.text, &of.tables)))
        .collect();
    let made_by = batches
        .iter()
        .map(|(committed, _)| match history.text_of(&committed.version) {
            MakingText::Present => Some(present.as_str()),
            MakingText::Replaced(of) => replaced.get(&of.until).map(String::as_str),
            MakingText::Unknown => None,
        });
    made_by.collect()
}

/// The valid batches of a job, each with the version it wrote.
///
/// # Errors
///
/// The store does not answer, or a version cannot be read.
pub async fn versions(
    store: &JobStore,
    id: JobId,
    history: &JobHistory,
) -> Result<Vec<(BatchCommit, BatchVersion)>> {
    let names = history.batches.iter().map(|batch| batch.version.clone());
    let mut read = pin!(store.versions(id, names.collect()));
    let mut versions = Vec::with_capacity(history.batches.len());
    for committed in &history.batches {
        let Some(version) = read.next().await else {
            break;
        };
        match version {
            Ok(version) => versions.push((committed.clone(), version)),
            // The job's runner may have removed the batch since the log was read.
            Err(_) if store.history(id).await?.oldest() > committed.batch => {}
            Err(error) => return Err(error),
        }
    }
    Ok(versions)
}

/// The older batches in the packs of the job, as far as the statement asks for them.
async fn packed(
    store: &JobStore,
    id: JobId,
    history: &JobHistory,
    wanted: &ScanFilter,
) -> Result<Vec<PackedBatch>> {
    let mut batches = Vec::new();
    for name in &history.packs {
        batches.extend(store.pack(id, name).await?.batches);
    }
    batches.retain(|packed| wanted.batches.contains(&packed.batch));
    Ok(batches)
}

/// The runs of the data directory, once a row asks for them.
type Runs = OnceCell<Vec<StoredRun>>;

async fn rows_of_job(
    (store, runs): (&JobStore, &Runs),
    id: JobId,
    history: &JobHistory,
    table: &str,
    wanted: &ScanFilter,
) -> Result<RecordBatch> {
    let name = history.name.as_str();
    match table {
        "partitions" => {
            let last = match history.last() {
                Some(last) => Some(store.version(id, &last.version).await?),
                None => None,
            };
            partition_rows(name, last.as_ref())
        }
        "batches" => batch_rows(history, &versions(store, id, history).await?),
        "dead_letters" => {
            let mut letters = Vec::new();
            for packed in packed(store, id, history, wanted).await? {
                letters.push((SetAsideIn::packed(&packed), packed.dead_letters));
            }
            for (of, version) in versions(store, id, history).await? {
                if version.dead_letters > 0 {
                    let found = store.dead_letters(id, &of.version, &version).await?;
                    letters.push((SetAsideIn::committed(&of), found));
                }
            }
            let has_rows = letters.iter().any(|(_, letters)| !letters.is_empty());
            let repairs = repairs((store, runs), id, wanted.repairs && has_rows).await?;
            dead_letter_rows(name, letters, &repairs)
        }
        _ => {
            let mut files = Vec::new();
            for packed in packed(store, id, history, wanted).await? {
                let batch = SetAsideIn::packed(&packed);
                files.extend(packed.late.map(|late| (batch, late)));
            }
            for (committed, version) in versions(store, id, history).await? {
                if version.late_rows > 0 {
                    let late = store.late(id, &committed.version, &version).await?;
                    files.push((SetAsideIn::committed(&committed), late));
                }
            }
            let repairs = repairs((store, runs), id, wanted.repairs && !files.is_empty()).await?;
            let mut parts = Vec::new();
            for (batch, bytes) in files {
                for rows in decode_states(&bytes, &late_schema())? {
                    parts.push(late_rows(name, batch, &rows, &repairs)?);
                }
            }
            concat_batches(&empty_of(table)?.schema(), &parts).map_err(internal)
        }
    }
}

/// The runs that may have repaired rows of a job, if there are any such rows.
async fn repairs(
    (store, runs): (&JobStore, &Runs),
    id: JobId,
    has_rows: bool,
) -> Result<Vec<RepairingRun>> {
    if !has_rows {
        return Ok(Vec::new());
    }
    let store = RunStore::beside(store);
    let runs = runs.get_or_try_init(|| readable_runs(&store)).await?;
    repairing_runs(&store, runs, id).await
}

/// The batch in which a job has set rows aside.
#[derive(Debug, Clone, Copy)]
struct SetAsideIn {
    number: u64,
    /// When it was committed, in milliseconds since 1970 UTC; none of a pack that does not say it.
    at: Option<i64>,
}

impl SetAsideIn {
    fn packed(of: &PackedBatch) -> Self {
        Self {
            number: of.batch,
            at: of.at,
        }
    }

    fn committed(of: &BatchCommit) -> Self {
        Self {
            number: of.batch,
            at: Some(of.at),
        }
    }

    /// The run that has repaired a row of this batch last.
    fn repaired_by(
        self,
        repairs: &[RepairingRun],
        has: impl Fn(&RepairingRun) -> bool,
    ) -> Option<&str> {
        let stays = |run: &RepairingRun| self.at.is_none_or(|at| run.stays_over(at));
        let mut repairs = repairs.iter();
        let found = repairs.find(|run| stays(run) && has(run));
        found.map(RepairingRun::run_id)
    }
}

/// A table without rows.
pub(super) fn empty_of(table: &str) -> Result<RecordBatch> {
    match table {
        "jobs" => rows_of_jobs(&[]),
        "partitions" => partition_rows("", None),
        "batches" => rows_of_batches("", &[], StringArray::new_null(0)),
        "dead_letters" => dead_letter_rows("", Vec::new(), &[]),
        _ => {
            let none = RecordBatch::new_empty(late_schema());
            let no_batch = SetAsideIn {
                number: 0,
                at: None,
            };
            late_rows("", no_batch, &none, &[])
        }
    }
}

fn partition_rows(job: &str, last: Option<&BatchVersion>) -> Result<RecordBatch> {
    let mut tables = Vec::new();
    let mut numbers = Vec::new();
    let mut offsets = Vec::new();
    let mut watermarks = Vec::new();
    let mut idle = Vec::new();
    let mut holds_back = Vec::new();
    if let Some(last) = last {
        for (table, partitions) in &last.sources {
            for (partition, progress) in partitions {
                tables.push(table.clone());
                numbers.push(*partition);
                offsets.push(progress.end);
                let time = last.time.as_ref();
                let own = time.and_then(|time| time.partition(table, *partition));
                watermarks.push(
                    own.and_then(|own| own.watermark)
                        .map(|at| at.div_euclid(1_000)),
                );
                idle.push(own.map(|own| own.idle));
                // A partition whose watermark is not ahead of the job's holds the job back.
                holds_back.push(
                    own.map(|own| {
                        !own.idle && own.watermark <= time.and_then(|time| time.watermark)
                    }),
                );
            }
        }
    }
    batch(vec![
        ("job", same(job, tables.len())),
        ("table", Arc::new(StringArray::from(tables))),
        ("partition", Arc::new(Int32Array::from(numbers))),
        ("offset", Arc::new(Int64Array::from(offsets))),
        ("watermark", times(watermarks.into_iter())?),
        ("idle", Arc::new(BooleanArray::from(idle))),
        ("holds_back", Arc::new(BooleanArray::from(holds_back))),
    ])
}

fn dead_letter_rows(
    job: &str,
    batches: Vec<(SetAsideIn, Vec<DeadLetter>)>,
    repairs: &[RepairingRun],
) -> Result<RecordBatch> {
    let mut records = Vec::new();
    let (mut numbers, mut tables, mut repaired) = (Vec::new(), Vec::new(), Vec::new());
    for (batch, letters) in batches {
        for letter in letters {
            repaired.push(batch.repaired_by(repairs, |run| {
                run.has_dead_letter(&letter.table, letter.partition, letter.offset)
            }));
            numbers.push(signed(batch.number));
            tables.push(letter.table);
            records.push(BadRecord {
                topic: letter.topic,
                partition: letter.partition,
                offset: letter.offset,
                timestamp: letter.timestamp,
                key: letter.key,
                value: letter.value,
                reason: letter.reason,
            });
        }
    }
    let mut columns = vec![
        ("job", same(job, records.len())),
        ("batch", Arc::new(Int64Array::from(numbers)) as ArrayRef),
        ("table", Arc::new(StringArray::from(tables))),
    ];
    columns.extend(dead_letters::columns(&records));
    columns.push((REPAIRED_BY, Arc::new(StringArray::from(repaired))));
    batch(columns)
}

fn late_rows(
    job: &str,
    of: SetAsideIn,
    rows: &RecordBatch,
    repairs: &[RepairingRun],
) -> Result<RecordBatch> {
    let count = rows.num_rows();
    let repaired = repairs_of(of, rows, repairs)?;
    let numbers = Int64Array::from(vec![signed(of.number); count]);
    let schema = late_schema();
    let mut columns = vec![
        ("job", same(job, count)),
        ("batch", Arc::new(numbers) as ArrayRef),
    ];
    for (field, column) in schema.fields().iter().zip(rows.columns()) {
        columns.push((field.name().as_str(), Arc::clone(column)));
    }
    columns.push((REPAIRED_BY, Arc::new(repaired)));
    batch(columns)
}

/// The run that has repaired each of these late rows of a batch.
fn repairs_of(of: SetAsideIn, rows: &RecordBatch, repairs: &[RepairingRun]) -> Result<StringArray> {
    let missing = || Error::internal("late rows in other columns");
    let column = |name: &str| rows.column_by_name(name).ok_or_else(missing);
    let topics = column("topic")?.as_string_opt::<i32>();
    let topics = topics.ok_or_else(missing)?;
    let partitions = column("partition")?.as_primitive_opt::<Int32Type>();
    let partitions = partitions.ok_or_else(missing)?;
    let offsets = column("offset")?.as_primitive_opt::<Int64Type>();
    let offsets = offsets.ok_or_else(missing)?;
    let bound = |name: &str| {
        let bound = column(name)?.as_primitive_opt::<TimestampMicrosecondType>();
        bound.ok_or_else(missing)
    };
    let (starts, ends) = (bound("window_start")?, bound("window_end")?);
    let repaired = (0..rows.num_rows()).map(|row| {
        let topic = topics.is_valid(row).then(|| topics.value(row))?;
        let has_window = starts.is_valid(row) && ends.is_valid(row);
        let window = has_window.then(|| (starts.value(row), ends.value(row)));
        let (partition, offset) = (partitions.value(row), offsets.value(row));
        of.repaired_by(repairs, |run| {
            run.has_late_row(topic, partition, offset, window)
        })
    });
    Ok(repaired.collect())
}

pub(super) fn same(text: &str, count: usize) -> ArrayRef {
    Arc::new(StringArray::from(vec![text; count]))
}

/// BIGINT is signed.
pub(super) fn signed(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

pub(super) fn times(millis: impl Iterator<Item = Option<i64>>) -> Result<ArrayRef> {
    let times: TimestampMillisecondArray = millis.collect();
    let zoned = DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into()));
    cast(&times, &zoned).map_err(internal)
}

pub(super) fn batch(columns: Vec<(&str, ArrayRef)>) -> Result<RecordBatch> {
    RecordBatch::try_from_iter_with_nullable(
        columns
            .into_iter()
            .map(|(name, column)| (name, column, true)),
    )
    .map_err(internal)
}

pub(super) fn internal(error: datafusion::arrow::error::ArrowError) -> Error {
    Error::internal(error.to_string())
}

#[cfg(test)]
mod tests {
    use anabranch_udfs::{AlignedWindows, WindowKind};
    use datafusion::arrow::array::{TimestampMicrosecondArray, new_null_array};
    use datafusion::prelude::{col, lit};

    use super::*;
    use crate::core::jobs::{LogEntry, SourceProgress};
    use crate::core::runs::spec::fixture;
    use crate::core::runs::{Emission, Grouping, OffsetSet, RunSpec, TIME_AXIS, TimeRange};
    use crate::store::simulated::{Faults, RecordedReads, SimulatedDisk};

    #[test]
    fn late_rows_name_the_run_that_has_repaired_them() {
        let windows = AlignedWindows::try_new(WindowKind::Tumble, 10, 10, 0).unwrap();
        let mut spec = RunSpec {
            grouping: Grouping::Aligned(windows),
            emission: Emission::Time(TimeRange::try_new(20, 30).unwrap().into()),
            selection: Some(OffsetSet::of([("visits".to_owned(), 0, 3..5)])),
            watermark: Some(100),
            ..fixture::spec("fix")
        };
        spec.asked.time = None;
        let progress = SourceProgress { start: 20, end: 30 };
        let last = BatchVersion {
            sources: [("visits".to_owned(), [(TIME_AXIS, progress)].into())].into(),
            ..BatchVersion::default()
        };
        let run = RepairingRun::new(spec, last, false, OffsetSet::default());
        let times = |of: [i64; 4]| -> ArrayRef {
            Arc::new(TimestampMicrosecondArray::from(of.to_vec()).with_timezone("UTC"))
        };
        let visits = Some("visits");
        let columns: Vec<ArrayRef> = vec![
            Arc::new(StringArray::from(vec![visits, visits, visits, None])),
            Arc::new(Int32Array::from(vec![0; 4])),
            Arc::new(Int64Array::from(vec![3, 3, 9, 3])),
            new_null_array(&DataType::Binary, 4),
            times([60; 4]),
            times([20, 30, 20, 20]),
            times([30, 40, 30, 30]),
        ];
        let rows = RecordBatch::try_new(late_schema(), columns).unwrap();
        // Another window, a row that the run was not asked for, and one of no topic.
        let expected = StringArray::from(vec![Some("fix"), None, None, None]);
        let runs = [run];
        let made_at = fixture::spec("fix").now / 1_000;
        let of = |at: Option<i64>| SetAsideIn { number: 1, at };
        for at in [None, Some(made_at)] {
            let shown = late_rows("j", of(at), &rows, &runs).unwrap();
            let repaired = shown.column_by_name("repaired_by").unwrap();
            assert_eq!(repaired.as_string::<i32>(), &expected, "{at:?}");
        }
        // The job has closed the window after the run was made, and put its own row over the run's.
        let later = late_rows("j", of(Some(made_at + 1)), &rows, &runs).unwrap();
        assert_eq!(later.column_by_name("repaired_by").unwrap().null_count(), 4);
        // Its version may be gone by now.
        let packed = PackedBatch {
            batch: 1,
            at: Some(made_at + 1),
            dead_letters: Vec::new(),
            late: None,
        };
        let later = late_rows("j", SetAsideIn::packed(&packed), &rows, &runs).unwrap();
        assert_eq!(later.column_by_name("repaired_by").unwrap().null_count(), 4);
        let none = late_rows("j", of(None), &rows, &[]).unwrap();
        assert_eq!(none.schema(), empty_of("late_rows").unwrap().schema());
        assert_eq!(none.column_by_name("repaired_by").unwrap().null_count(), 4);
    }

    /// A job with this many batches.
    async fn job(store: &JobStore, name: &str, batches: u64) -> JobId {
        let created = LogEntry::Created {
            name: name.to_owned(),
            text: String::new(),
            tables: vec![],
            at: 0,
        };
        let id = store.create(&created, name).await.unwrap().unwrap();
        for number in 1..=batches {
            let version = BatchVersion {
                batch: number,
                sequence: number,
                ..BatchVersion::default()
            };
            let name = format!("{number:010}-v");
            store.stage(id, &name, &version).await.unwrap();
            let committed = LogEntry::Committed {
                batch: number,
                version: name,
                at: 0,
            };
            assert!(store.append(id, number, &committed).await.unwrap());
        }
        id
    }

    /// The scan does not read jobs and batches that the statement does not ask for, and reads the state of a job without its
    /// batches.
    #[tokio::test]
    async fn unselected_columns_are_not_read() {
        const JOBS: usize = 30;
        const BATCHES: u64 = 20;
        let reads = Arc::new(RecordedReads::default());
        let dir = SimulatedDisk::default().seen_with(Arc::clone(&reads) as Arc<dyn Faults>);
        let store = JobStore::new(dir);
        let mut ids = Vec::new();
        for number in 0..JOBS {
            ids.push(job(&store, &format!("j{number}"), BATCHES).await);
        }
        let versions = |read: &[String]| -> Vec<String> {
            let versions = read.iter().filter(|path| path.contains("/versions/"));
            versions.cloned().collect()
        };
        reads.take();
        // SHOW JOBS, and system.jobs.
        let all = ScanFilter::default();
        assert_eq!(
            rows_in(&store, "jobs", &all).await.unwrap().num_rows(),
            JOBS
        );
        assert_eq!(versions(&reads.take()), Vec::<String>::new());
        // The last batch of each job tells the partitions of the job.
        rows_in(&store, "partitions", &all).await.unwrap();
        let last = format!("{BATCHES:010}-v.json");
        let read = versions(&reads.take());
        assert_eq!(read.len(), JOBS);
        assert!(read.iter().all(|path| path.ends_with(&last)), "{read:?}");
        // One batch of one job.
        let one = ScanFilter::by(&[col("job").eq(lit("j7")), col("batch").eq(lit(3_i64))]);
        for (table, rows) in [("batches", 1), ("dead_letters", 0), ("late_rows", 0)] {
            let found = rows_in(&store, table, &one).await.unwrap();
            assert_eq!(found.num_rows(), rows, "{table}");
            let read = reads.take();
            let of_job = |path: &String| {
                path == "jobs/names/j7" || path.starts_with(&format!("jobs/{}/", ids[7]))
            };
            assert!(read.iter().all(of_job), "{read:?}");
            let version = format!("jobs/{}/versions/0000000003-v.json", ids[7]);
            assert_eq!(versions(&read), [version], "{table}");
        }
    }
}
