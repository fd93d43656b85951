//! Windows or keys of a job at run time: their state and event time, loaded from a version and carried from batch to batch.

use std::collections::BTreeMap;
use std::io::{Read, Seek};
use std::sync::Arc;
use std::time::Duration;

use anabranch_udfs::IncrementalAggregate;
use datafusion::arrow::array::{Array, ArrayRef, BooleanArray, RecordBatch};
use datafusion::arrow::compute::{concat_batches, filter_record_batch};
use datafusion::arrow::row::{RowConverter, SortField};
use datafusion::physical_plan::collect_partitioned;
use tokio::time::Instant;

use crate::core::jobs::fingerprint::newer_version;
use crate::core::jobs::{
    AGGREGATE, BatchVersion, JobTime, OperatorState, Partitions, PlannedRange, StateFile,
    SteadyTime, WatermarkPolicy, waiting,
};
use crate::error::{Error, Result};
use crate::planner::ast::Emit;
use crate::runtime::batch::{Ends, Ranges};
use crate::runtime::blame::{fault, halve, may_blame};
use crate::runtime::sink::JobSink;
use crate::runtime::source::JobSource;
use crate::runtime::statements::ReadyJob;
use crate::state::{StateChange, StateTable, Step, StepRule, encode_states, read_state_file, step};
use crate::store::{JobId, JobStore, check_crc32, crc32, crc32_of};
use crate::streaming::{BatchPlan, BatchSides, FrontBatch, LastRecords, StreamQuery};
use crate::tables::bad_records::BadRecord;
use crate::tables::time::BatchTime;

/// After so many changelogs a batch writes the whole state, if they have at least a quarter of its rows.
const MANY_CHANGELOGS: usize = 100;
/// After so many changelogs a batch writes the whole state in any case.
const MAX_CHANGELOGS: usize = 300;

/// The state and time of a job with windows, as they are after the last batch.
pub(super) struct Windows {
    aggregate: IncrementalAggregate,
    table: StateTable,
    files: Vec<StateFile>,
    time: JobTime,
    policy: WatermarkPolicy,
}

/// A batch with windows that was run and is not committed yet.
pub(super) struct Prepared {
    front: FrontBatch,
    /// The rows to be written.
    emitted: RecordBatch,
    /// The rows that earlier batches emitted for the groups that this batch touched.
    before: RecordBatch,
    log: RecordBatch,
    sides: BatchSides,
    time: JobTime,
    change: StateChange,
    rows_after: usize,
}

/// State changes to apply when the batch is committed.
pub(super) struct Applied {
    change: StateChange,
    files: Vec<StateFile>,
    time: JobTime,
}

impl Windows {
    /// Loads the state of a version; empty if the job has committed nothing.
    pub(super) async fn load(
        store: &JobStore,
        job: &ReadyJob,
        query: &StreamQuery,
        version: Option<&BatchVersion>,
    ) -> Result<Self> {
        let aggregate = job.query.aggregate().await?;
        let schema = Arc::clone(aggregate.state_schema());
        let mut windows = Self {
            table: StateTable::try_new(schema, aggregate.key_columns())?,
            aggregate,
            files: Vec::new(),
            time: JobTime::default(),
            policy: query.policy(),
        };
        let Some(version) = version else {
            return Ok(windows);
        };
        let time = version.time.clone().unwrap_or_default();
        // The clock of keys does not apply to windows, nor their watermark to keys.
        if time.clock.is_some() == query.is_keyed() {
            windows.time = time;
        }
        if !goes_on_from(&job.name, Some(query), version)? {
            if job.options.resets_on_change {
                return Ok(windows);
            }
            return Err(changed(&job.name, Some(query), version));
        }
        let state = version.state_of(AGGREGATE);
        for file in state.map_or(&[][..], |state| state.files.as_slice()) {
            windows.read(store, job.id, file).await?;
            windows.files.push(file.clone());
        }
        Ok(windows)
    }

    async fn read(&mut self, store: &JobStore, id: JobId, file: &StateFile) -> Result<()> {
        let opened = store.open_state(id, &file.name).await?;
        let closes_at = |rows: &RecordBatch| self.aggregate.closes_at(rows);
        read_checked(&mut self.table, file, opened, closes_at)
    }

    /// Rows of state.
    pub(super) fn rows(&self) -> usize {
        self.table.len()
    }

    /// Bytes of state in memory.
    pub(super) fn bytes(&self) -> usize {
        self.table.size()
    }

    /// The groups that are held, as the aggregate gives them.
    #[cfg(test)]
    pub(super) fn groups(&self) -> RecordBatch {
        let rows = self.table.rows().unwrap();
        let closed_by = self.time.closed_by;
        self.aggregate.evaluate_open(&rows, closed_by).unwrap()
    }

    /// The job's watermark, in microseconds since 1970 UTC.
    pub(super) fn watermark(&self) -> Option<i64> {
        self.time.watermark
    }

    /// Resets a table that has another identity now: its partitions begin at the job's watermark.
    pub(super) fn begin_anew(&mut self, table: &str) {
        self.time.begin_anew(table);
    }

    /// Whether the watermark is already past windows that are still open.
    pub(super) fn is_behind(&self) -> bool {
        !self.aggregate.is_keyed() && self.time.is_behind()
    }

    /// Whether a batch without records would move the watermark, or close windows that it has passed.
    pub(super) fn would_move(&self, known: &Partitions, idle: &Partitions) -> bool {
        // A key that expires emits nothing: its removal waits for a batch with records.
        if self.aggregate.is_keyed() {
            return false;
        }
        let after = self.time.after(self.policy, known, &BTreeMap::new(), idle);
        after.watermark > self.time.watermark || self.time.is_behind()
    }

    /// The partitions that are too far ahead of the others to be read now.
    pub(super) fn waiting(&self, idle: &Partitions, max_drift: Duration) -> Partitions {
        let max_drift = i64::try_from(max_drift.as_micros()).unwrap_or(i64::MAX);
        waiting(&self.time, idle, max_drift)
    }

    /// Runs a batch up to the rows it emits; `clock` gets the last records that were read and returns the batch's time, in
    /// milliseconds since 1970 UTC. Changes no state.
    pub(super) async fn prepare(
        &self,
        job: &ReadyJob,
        sources: &BTreeMap<String, JobSource>,
        ranges: &Ranges,
        known: &Partitions,
        idle: &Partitions,
        clock: impl FnOnce(&LastRecords) -> i64,
    ) -> Result<Prepared> {
        let times = self.times(ranges);
        let front = job.query.front(ranges.of_sources(sources, &times)?).await?;
        let partitions =
            collect_partitioned(Arc::clone(&front.front.plan), Arc::clone(&front.context)).await?;
        let sides = front.finish().await?;
        let aggregate = &front.front.aggregate;
        let time = if aggregate.is_keyed() {
            let now = clock(&sides.last_records);
            self.time.at(now.saturating_mul(1_000), job.options.ttl())
        } else {
            self.time.after(self.policy, known, &sides.reached(), idle)
        };
        let clock = time.clock.unwrap_or_default();
        let partials = partitions
            .iter()
            .flatten()
            .filter(|batch| batch.num_rows() > 0)
            .map(|batch| Ok(aggregate.as_states(batch, clock)?))
            .collect::<Result<Vec<_>>>()?;
        let changes = job.query.emit() == Emit::Changes;
        let rule = StepRule {
            changes,
            withdraws: changes && withdraws(job),
            closed_before: self.time.closed_by,
            closed_by: time.closed_by,
        };
        let Step {
            emitted,
            before,
            log,
            change,
            rows_after,
        } = step(&self.table, aggregate, &partials, rule)?;
        let held = self.table.size() + log.get_array_memory_size();
        if held > job.options.state_max_memory {
            return Err(Error::data(format!(
                "the job's state takes {held} bytes, more than 'state.max_memory' allows ({})",
                job.options.state_max_memory
            ))
            .with_help(
                "give it more with CREATE OR REPLACE JOB, then RESUME JOB; nothing is lost",
            ));
        }
        Ok(Prepared {
            front,
            emitted,
            before,
            log,
            sides,
            time,
            change,
            rows_after,
        })
    }

    /// Runs the steps of a batch that process records, and keeps no result.
    pub(super) async fn rehearse(
        &self,
        job: &ReadyJob,
        sources: &BTreeMap<String, JobSource>,
        ranges: &Ranges,
    ) -> Result<()> {
        let times = self.times(ranges);
        let front = job.query.front(ranges.of_sources(sources, &times)?).await?;
        let plan = Arc::clone(&front.front.plan);
        collect_partitioned(plan, Arc::clone(&front.context)).await?;
        Ok(())
    }

    fn times(&self, ranges: &Ranges) -> BTreeMap<String, Arc<BatchTime>> {
        let of_table = |table: &String, partitions: &[PlannedRange]| {
            if self.aggregate.is_keyed() {
                return Arc::new(BatchTime::not_kept());
            }
            let rules = partitions.iter().map(|range| {
                let rule = self.time.row_watermark(self.policy, table, range.partition);
                let before = self.time.partition(table, range.partition);
                (range.partition, (rule, before.copied().unwrap_or_default()))
            });
            Arc::new(BatchTime::new(rules.collect()))
        };
        ranges
            .planned
            .iter()
            .map(|(table, partitions)| (table.clone(), of_table(table, partitions)))
            .collect()
    }

    /// Writes the state and late rows of the batch and names them in its version, which has the name `name`.
    pub(super) async fn stage(
        &self,
        store: &JobStore,
        id: JobId,
        query: &StreamQuery,
        prepared: Prepared,
        name: &str,
        version: &mut BatchVersion,
    ) -> Result<Applied> {
        (version.rows_in, version.bytes_in) = prepared.front.read();
        version.time = Some(prepared.time.clone());
        if let Some(late) = &prepared.sides.late {
            let bytes = encode_states(&late.schema(), std::slice::from_ref(late))?;
            version.late_rows = late.num_rows() as u64;
            version.late_crc32 = Some(crc32(&bytes));
            store.put_late(id, name, bytes).await?;
        }
        let mut files = self.files.clone();
        let closed_by = prepared.time.closed_by;
        if self.is_snapshot_due(&prepared) {
            let open = self.table.rows_after(&prepared.change)?;
            files = vec![self.write(store, id, name, &open, true, closed_by).await?];
        } else if prepared.log.num_rows() > 0 || closed_by > self.time.closed_by {
            let log = std::slice::from_ref(&prepared.log);
            files.push(self.write(store, id, name, log, false, closed_by).await?);
        }
        let state = OperatorState {
            fingerprint: Some(query.fingerprint().to_owned()),
            files: files.clone(),
        };
        version.operators.insert(AGGREGATE.to_owned(), state);
        Ok(Applied {
            change: prepared.change,
            files,
            time: prepared.time,
        })
    }

    /// Applies the changes of a committed batch.
    pub(super) fn apply(&mut self, applied: Applied) -> Result<()> {
        self.table.apply(applied.change)?;
        self.files = applied.files;
        self.time = applied.time;
        Ok(())
    }

    fn is_snapshot_due(&self, prepared: &Prepared) -> bool {
        let logs = self.files.iter().filter(|file| !file.is_snapshot);
        let (count, logged) =
            logs.fold((0, 0), |(count, rows), file| (count + 1, rows + file.rows));
        let rows_after = prepared.rows_after as u64;
        // Reading the changes must not take longer than reading the state several times, and writing the state must not take
        // longer than writing the changes did.
        count >= MAX_CHANGELOGS
            || (count >= MANY_CHANGELOGS && 4 * logged >= rows_after)
            || (count > 10 && logged > 4 * rows_after.max(1_000))
    }

    async fn write(
        &self,
        store: &JobStore,
        id: JobId,
        name: &str,
        rows: &[RecordBatch],
        is_snapshot: bool,
        closed_by: Option<i64>,
    ) -> Result<StateFile> {
        let bytes = encode_states(self.table.schema(), rows)?;
        let file = StateFile {
            name: name.to_owned(),
            is_snapshot,
            closed_by,
            rows: rows.iter().map(|rows| rows.num_rows() as u64).sum(),
            bytes: bytes.len() as u64,
            crc32: Some(crc32(&bytes)),
        };
        store.put_state(id, name, bytes).await?;
        Ok(file)
    }
}

impl Prepared {
    /// Takes the dead letters, with the table of each.
    pub(super) fn take_dead_letters(&mut self) -> Vec<(String, BadRecord)> {
        std::mem::take(&mut self.sides.dead_letters)
    }

    /// The last record that was read of each partition.
    pub(super) fn last_records(&self) -> &LastRecords {
        &self.sides.last_records
    }

    /// The rows to be written, and the rows whose keys are to be withdrawn, both in the sink's columns.
    pub(super) async fn output(&self, job: &ReadyJob) -> Result<(BatchPlan, Option<RecordBatch>)> {
        let plan = job.query.back(&self.emitted).await?;
        if self.before.num_rows() == 0 {
            return Ok((plan, None));
        }
        let now = collect(&plan).await?;
        let before = collect(&job.query.back(&self.before).await?).await?;
        let withdrawn = without(&before, &now, job.query.sink().primary_key())?;
        // Writes exactly the rows that were compared.
        Ok((plan.with_rows(now)?, withdrawn))
    }

    /// Adds to an error of the plan above the aggregate the group that causes it, if one of them fails alone.
    pub(super) async fn of_group(&self, job: &ReadyJob, sink: &JobSink, error: Error) -> Error {
        if !may_blame(&error) {
            return error;
        }
        match self.failing_group(job, sink).await {
            Ok(Some((group, error))) => error
                .with_help(
                    "a group cannot be set aside: change the expression with CREATE OR REPLACE JOB, then RESUME JOB",
                )
                .context(group)
                .of_record(),
            // No single group is to blame, or the search failed.
            Ok(None) | Err(_) => error,
        }
    }

    /// The first group for which no row can be written, and its error.
    async fn failing_group(
        &self,
        job: &ReadyJob,
        sink: &JobSink,
    ) -> Result<Option<(String, Error)>> {
        let rows = self.emitted.num_rows() as u64;
        if rows == 0 || self.fault(job, sink, 0, rows).await?.is_none() {
            return Ok(None);
        }
        let found = halve(0, rows, |from, to| self.fault(job, sink, from, to)).await?;
        let alone = self.fault(job, sink, found, found + 1).await?;
        let query = job.query.stream();
        Ok(query
            .zip(alone)
            .map(|(query, error)| (query.group_of(&self.emitted, row(found)), error)))
    }

    /// The error of a range of the emitted rows, if they fail without the others. No result is kept.
    async fn fault(
        &self,
        job: &ReadyJob,
        sink: &JobSink,
        from: u64,
        to: u64,
    ) -> Result<Option<Error>> {
        let rows = self.emitted.slice(row(from), row(to - from));
        let written = async {
            let plan = job.query.back(&rows).await?;
            sink.rehearse(&plan).await
        };
        fault(written).await
    }
}

/// A position among rows in memory.
fn row(position: u64) -> usize {
    usize::try_from(position).unwrap_or(usize::MAX)
}

/// Whether the job withdraws rows that it emitted: the sink must have a key.
fn withdraws(job: &ReadyJob) -> bool {
    let has_key = !job.query.sink().primary_key().is_empty();
    has_key && job.query.stream().is_some_and(StreamQuery::withdraws)
}

async fn collect(plan: &BatchPlan) -> Result<RecordBatch> {
    let schema = plan.plan.schema();
    let batches =
        datafusion::physical_plan::collect(Arc::clone(&plan.plan), Arc::clone(&plan.context))
            .await?;
    concat_batches(&schema, &batches).map_err(|error| Error::internal(error.to_string()))
}

/// The rows of `before` whose key, in these columns, is in no row of `now`; none if there are no such rows.
fn without(before: &RecordBatch, now: &RecordBatch, key: &[usize]) -> Result<Option<RecordBatch>> {
    let internal = |error: datafusion::arrow::error::ArrowError| Error::internal(error.to_string());
    let fields = key
        .iter()
        .map(|index| SortField::new(before.column(*index).data_type().clone()))
        .collect();
    let converter = RowConverter::new(fields).map_err(internal)?;
    let columns = |rows: &RecordBatch| -> Vec<ArrayRef> {
        key.iter()
            .map(|index| Arc::clone(rows.column(*index)))
            .collect()
    };
    let kept = converter.convert_columns(&columns(now)).map_err(internal)?;
    let kept: std::collections::HashSet<&[u8]> = kept.iter().map(|row| row.data()).collect();
    let candidates = converter
        .convert_columns(&columns(before))
        .map_err(internal)?;
    let mut seen = std::collections::HashSet::new();
    let gone: BooleanArray = candidates
        .iter()
        .map(|row| Some(!kept.contains(row.data()) && seen.insert(row.data())))
        .collect();
    if gone.true_count() == 0 {
        return Ok(None);
    }
    filter_record_batch(before, &gone)
        .map(Some)
        .map_err(internal)
}

/// Whether the job `name` can go on from the state of a version: both have none, or its stateful part is the one that the state was
/// made by.
///
/// # Errors
///
/// A newer release has written the state: it may well be that of the same text.
pub(super) fn goes_on_from(
    name: &str,
    query: Option<&StreamQuery>,
    version: &BatchVersion,
) -> Result<bool> {
    let made_by = made_by(version);
    if let Some(newer) = made_by.and_then(newer_version) {
        return Err(Error::unsupported(format!(
            "the state of job {name} was written by a newer release (fingerprint v{newer})"
        ))
        .with_help("run the job with that release, or a newer one"));
    }
    Ok(match (query, made_by) {
        (Some(query), Some(made_by)) => query.is_made_by(made_by),
        (query, made_by) => query.is_none() && made_by.is_none(),
    })
}

/// The fingerprint of the state of a version.
fn made_by(version: &BatchVersion) -> Option<&str> {
    version.state_of(AGGREGATE)?.fingerprint.as_deref()
}

/// The stateful part of a job's text is another one than the state of a version was made by.
pub(super) fn changed(name: &str, query: Option<&StreamQuery>, version: &BatchVersion) -> Error {
    let both = query.zip(made_by(version));
    let what = match both.is_some_and(|(query, made_by)| query.was_kept_by_window(made_by)) {
        true => {
            format!(
                "the state of job {name} is by window, as an earlier release or another text kept it, and not by slice"
            )
        }
        false => {
            format!(
                "the windows, keys or aggregates of job {name} are not those its state was made by"
            )
        }
    };
    Error::invalid(what).with_help(
        "WITH ('on_change' 'reset') goes on from the same offsets with an empty state; \
         DROP JOB and CREATE JOB begin anew",
    )
}

/// Tracks how long each partition has been silent.
///
/// The observations of earlier processes count: a version stores how long each partition had had no record to read. If the
/// job's position is still at the end of the partition, no record has come since.
#[derive(Debug, Default)]
pub(super) struct Silence {
    since: BTreeMap<(String, i32), Silent>,
    /// Silence by the last version, for partitions that were not checked since.
    before: BTreeMap<(String, i32), Duration>,
    /// The time since that version is unknown: another machine wrote it.
    is_gap_unknown: bool,
    /// The sources did not answer meanwhile: the silence in the version does not extend to the present.
    is_interrupted: bool,
}

/// One partition.
#[derive(Debug, Clone, Copy)]
struct Silent {
    since: Instant,
    /// Silence before that, as far as it is known.
    before: Duration,
    /// The version says that it was silent; it may have been silent for longer since than is known.
    is_unsure: bool,
}

impl Silent {
    fn lasts(&self, now: Instant) -> Duration {
        now.duration_since(self.since).saturating_add(self.before)
    }
}

impl Silence {
    /// Continues from a version, unless partitions were checked already; `now` is a reading of the monotonic clock.
    pub(super) fn go_on(&mut self, version: Option<&BatchVersion>, now: &SteadyTime) {
        let is_first = self.since.is_empty() && !self.is_interrupted;
        let Some(version) = version.filter(|_| is_first) else {
            return;
        };
        let clock = version.clock.as_ref();
        let passed = clock.and_then(|clock| now.since(&clock.steady));
        self.is_gap_unknown = passed.is_none();
        let passed = passed.unwrap_or(0);
        self.before = version
            .silent
            .iter()
            .flat_map(|(table, partitions)| {
                partitions.iter().map(move |(partition, silent)| {
                    let lasts = Duration::from_millis(silent.saturating_add(passed));
                    ((table.clone(), *partition), lasts)
                })
            })
            .collect();
    }

    /// Restarts the count after brokers did not answer: producers may have waited as well, so the time until now does not count
    /// as silence.
    pub(super) fn interrupt(&mut self, now: Instant) {
        self.is_interrupted = true;
        self.before.clear();
        for silent in self.since.values_mut() {
            *silent = Silent {
                since: now,
                before: Duration::ZERO,
                is_unsure: false,
            };
        }
    }

    /// Forgets a table that has another identity now: its observed silence no longer applies.
    pub(super) fn begin_anew(&mut self, table: &str) {
        self.since.retain(|(of, _), _| of != table);
        self.before.retain(|(of, _), _| of != table);
    }

    /// The partitions that had no record to read and no open transaction for the time that their table's options set (TIME-1).
    /// They end at `ends` now, and `version` is the job's last version.
    pub(super) fn idle(
        &mut self,
        version: Option<&BatchVersion>,
        ends: &Ends,
        idle_after: &BTreeMap<String, Duration>,
        now: Instant,
    ) -> Partitions {
        let mut idle = Partitions::new();
        self.since.retain(|(table, partition), _| {
            let ends = ends.get(table).into_iter().flatten();
            ends.map(|ends| ends.partition).any(|one| one == *partition)
        });
        for (table, partitions) in ends {
            for end in partitions {
                let key = (table.clone(), end.partition);
                let next = version.and_then(|version| version.next_offset(table, end.partition));
                let is_at_end = end.is_at_end(next.unwrap_or(end.low));
                let before = self.before.remove(&key);
                let silent = self.since.entry(key).or_insert(Silent {
                    since: now,
                    before: before.unwrap_or_default(),
                    is_unsure: before.is_some() && self.is_gap_unknown,
                });
                if !is_at_end {
                    *silent = Silent {
                        since: now,
                        before: Duration::ZERO,
                        is_unsure: false,
                    };
                }
                let patience = idle_after.get(table).copied().unwrap_or(Duration::MAX);
                if is_at_end && silent.lasts(now) >= patience {
                    idle.entry(table.clone()).or_default().insert(end.partition);
                }
            }
        }
        idle
    }

    /// How long each partition has had no record to read, in milliseconds.
    pub(super) fn lasts(&self, now: Instant) -> BTreeMap<String, BTreeMap<i32, u64>> {
        let mut lasts: BTreeMap<String, BTreeMap<i32, u64>> = BTreeMap::new();
        for ((table, partition), silent) in &self.since {
            let milliseconds = u64::try_from(silent.lasts(now).as_millis()).unwrap_or(u64::MAX);
            let of_table = lasts.entry(table.clone()).or_default();
            of_table.insert(*partition, milliseconds);
        }
        lasts
    }

    /// The idle partitions, and those that were silent on another machine: these may be idle, but that is known only when they
    /// have been silent for long enough here.
    pub(super) fn perhaps_idle(&self, idle: &Partitions) -> Partitions {
        let mut perhaps = idle.clone();
        for ((table, partition), silent) in &self.since {
            if silent.is_unsure {
                let of_table = perhaps.entry(table.clone()).or_default();
                of_table.insert(*partition);
            }
        }
        perhaps
    }

    /// The idle partitions, and those that came after the last batch: a process that continues from that version would start to
    /// count from zero for them.
    pub(super) fn with_new(&self, version: Option<&BatchVersion>, idle: &Partitions) -> Partitions {
        let mut with_new = idle.clone();
        for (table, partition) in self.since.keys() {
            if version.is_some_and(|version| !says_silence(version, table, *partition)) {
                let of_table = with_new.entry(table.clone()).or_default();
                of_table.insert(*partition);
            }
        }
        with_new
    }
}

/// Whether a version stores how long a partition had been silent. A version of an earlier release stores it for none, and then
/// nothing has to be added.
fn says_silence(version: &BatchVersion, table: &str, partition: i32) -> bool {
    let of_table = version.silent.get(table);
    version.silent.is_empty() || of_table.is_some_and(|of| of.contains_key(&partition))
}

/// All partitions that exist.
pub(super) fn known(ends: &Ends) -> Partitions {
    ends.iter()
        .map(|(table, partitions)| {
            let numbers = partitions.iter().map(|ends| ends.partition);
            (table.clone(), numbers.collect())
        })
        .collect()
}

/// Adds the rows of a state file to `table`. Lengths in a damaged file may have any value: so the checksum of its bytes is
/// verified before any of them is used.
fn read_checked(
    table: &mut StateTable,
    file: &StateFile,
    mut opened: impl Read + Seek,
    closes_at: impl Fn(&RecordBatch) -> datafusion::error::Result<Vec<i64>>,
) -> Result<()> {
    let damaged = |error: &dyn std::fmt::Display| {
        Error::data(format!(
            "the state file {} of the job cannot be read: {error}",
            file.name
        ))
        .with_help("REWIND JOB … TO BATCH n goes back to a batch before it")
    };
    // Files of the first release have no checksum.
    if file.crc32.is_some() {
        let found = crc32_of(&mut opened).map_err(|error| damaged(&error))?;
        check_crc32(found, file.crc32).map_err(|reason| damaged(&reason))?;
    }
    let rows = read_state_file(table, opened, file.closed_by, closes_at);
    let rows = rows.map_err(|error| damaged(&error))?;
    if rows as u64 != file.rows {
        return Err(damaged(&format!("it has {rows} rows of {}", file.rows)));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::io::Cursor;

    use datafusion::arrow::array::Int64Array;
    use datafusion::arrow::datatypes::{DataType, Field, Schema};

    use super::*;
    use crate::error::ErrorKind;
    use crate::tables::kafka::PartitionEnds;

    #[test]
    fn state_of_a_newer_release_is_refused_and_not_reset() {
        let version = |fingerprint: Option<&str>| BatchVersion {
            operators: [(
                AGGREGATE.to_owned(),
                OperatorState {
                    fingerprint: fingerprint.map(str::to_owned),
                    files: vec![],
                },
            )]
            .into(),
            ..BatchVersion::default()
        };
        let error = goes_on_from("j", None, &version(Some("v3:01"))).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unsupported);
        assert!(error.message().contains("newer release"), "{error}");
        assert!(!error.help().unwrap().contains("reset"), "{error}");
        for (kept, goes_on) in [
            (Some("v2:01"), false),
            (Some("TUMBLE: …"), false),
            (None, true),
        ] {
            assert_eq!(goes_on_from("j", None, &version(kept)).unwrap(), goes_on);
        }
    }

    #[test]
    fn a_damaged_state_file_is_named_before_its_lengths_are_believed() {
        let fields = ["key", "count"].map(|name| Field::new(name, DataType::Int64, false));
        let schema = Arc::new(Schema::new(fields.to_vec()));
        let column = || Arc::new(Int64Array::from_iter_values(0..20)) as ArrayRef;
        let rows = RecordBatch::try_new(Arc::clone(&schema), vec![column(), column()]).unwrap();
        let bytes = encode_states(&schema, &[rows]).unwrap();
        let file = StateFile {
            name: "a-state-file".to_owned(),
            is_snapshot: true,
            closed_by: None,
            rows: 20,
            bytes: bytes.len() as u64,
            crc32: Some(crc32(&bytes)),
        };
        let read = |bytes: &[u8]| {
            let mut table = StateTable::try_new(Arc::clone(&schema), 1).unwrap();
            let closes_at = |rows: &RecordBatch| Ok(vec![i64::MAX; rows.num_rows()]);
            read_checked(&mut table, &file, Cursor::new(bytes), closes_at).map(|()| table.len())
        };
        assert_eq!(read(&bytes).unwrap(), 20);
        for bit in 0..8 * bytes.len() {
            let mut damaged = bytes.clone();
            damaged[bit / 8] ^= 1 << (bit % 8);
            let error = read(&damaged).unwrap_err();
            assert!(
                error.message().contains("a-state-file"),
                "bit {bit}: {error}"
            );
            assert!(error.message().contains("checksum"), "bit {bit}: {error}");
        }
        for length in 0..bytes.len() {
            let error = read(&bytes[..length]).unwrap_err();
            assert!(
                error.message().contains("a-state-file"),
                "{length}: {error}"
            );
        }
    }

    #[test]
    fn time_1_an_open_transaction_is_no_silence() {
        let start = Instant::now();
        let after = Duration::from_secs(10);
        let patience = BTreeMap::from([("t".to_owned(), after)]);
        let mut silence = Silence::default();
        let mut idle = |high, latest, seconds| {
            let ends = PartitionEnds {
                partition: 0,
                low: 0,
                high,
                latest,
                unread: None,
            };
            let ends = BTreeMap::from([("t".to_owned(), vec![ends])]);
            let now = start + Duration::from_secs(seconds);
            !silence.idle(None, &ends, &patience, now).is_empty()
        };
        assert!(!idle(0, 0, 0));
        assert!(idle(0, 0, 10));
        // Records of an open transaction: they cannot be read yet, and must not be ignored.
        assert!(!idle(0, 21, 30));
        assert!(!idle(0, 21, 60));
        // It was aborted, and retention has deleted it all: the silence begins now.
        assert!(!idle(0, 0, 61));
        assert!(idle(0, 0, 71));
    }

    #[test]
    fn time_1_a_time_without_brokers_is_no_silence() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let patience = BTreeMap::from([("t".to_owned(), Duration::from_secs(10))]);
        let ends = PartitionEnds {
            partition: 0,
            low: 0,
            high: 0,
            latest: 0,
            unread: None,
        };
        let ends = BTreeMap::from([("t".to_owned(), vec![ends])]);
        let mut silence = Silence::default();
        assert!(silence.idle(None, &ends, &patience, at(0)).is_empty());
        silence.interrupt(at(30));
        assert!(silence.idle(None, &ends, &patience, at(31)).is_empty());
        assert!(silence.idle(None, &ends, &patience, at(39)).is_empty());
        assert!(!silence.idle(None, &ends, &patience, at(40)).is_empty());
    }

    #[test]
    fn time_1_a_partition_that_came_after_the_last_batch_is_new() {
        let start = Instant::now();
        let patience = BTreeMap::from([("t".to_owned(), Duration::from_secs(10))]);
        let ends = [0, 1].map(|partition| PartitionEnds {
            partition,
            low: 0,
            high: 0,
            latest: 0,
            unread: None,
        });
        let ends = BTreeMap::from([("t".to_owned(), ends.to_vec())]);
        let silent = BTreeMap::from([("t".to_owned(), BTreeMap::from([(0, 3_000)]))]);
        let version = BatchVersion {
            silent,
            ..BatchVersion::default()
        };
        let mut silence = Silence::default();
        let idle = silence.idle(Some(&version), &ends, &patience, start);
        assert!(idle.is_empty());
        let new = Partitions::from([("t".to_owned(), [1].into())]);
        assert_eq!(silence.with_new(Some(&version), &idle), new);
        // A version of an earlier release stores silence for no partition.
        let earlier = BatchVersion::default();
        assert_eq!(silence.with_new(Some(&earlier), &idle), idle);
        assert_eq!(silence.with_new(None, &idle), idle);
    }
}
