//! Keyed state of a job: windows or keys and event time, loaded from a version and carried from batch to batch, and its files.

use std::collections::BTreeMap;
use std::io::{Read, Seek};
use std::sync::Arc;
use std::time::Duration;

use anabranch_udfs::IncrementalAggregate;
use datafusion::arrow::array::RecordBatch;
use datafusion::physical_plan::collect_partitioned;

use crate::core::jobs::fingerprint::newer_version;
use crate::core::jobs::{
    AGGREGATE, BatchVersion, JobTime, OperatorState, Partitions, PlannedRange, StateFile,
    WatermarkPolicy, waiting,
};
use crate::error::{Error, Result};
use crate::planner::ast::Emit;
use crate::runtime::batch::BatchRanges;
use crate::runtime::job::ReadyJob;
use crate::runtime::source::SourcePlans;
use crate::runtime::version::StateFacts;
use crate::runtime::window_state::prepared::Emitted;
use crate::state::{
    StateChange, StateTable, StepResult, StepRule, encode_states, read_state_file, step,
};
use crate::store::{JobId, JobStore, check_crc32, crc32, crc32_of};
use crate::streaming::{LastRecords, StreamQuery};
use crate::tables::time::BatchTime;

/// After so many changelogs a batch writes the whole state, if they have at least a quarter of its rows.
const MANY_CHANGELOGS: usize = 100;
/// After so many changelogs a batch writes the whole state in any case.
const MAX_CHANGELOGS: usize = 300;

/// The windows or keys of a job and its event time, as they are after the last batch.
pub(in crate::runtime) struct KeyedState {
    pub(in crate::runtime) aggregate: IncrementalAggregate,
    pub(in crate::runtime) table: StateTable,
    files: Vec<StateFile>,
    pub(in crate::runtime) time: JobTime,
    policy: WatermarkPolicy,
}

/// State changes to apply when the batch is committed.
pub(in crate::runtime) struct StateUpdate {
    change: StateChange,
    files: Vec<StateFile>,
    time: JobTime,
}

impl KeyedState {
    /// Loads the state of a version; empty if the job has committed nothing.
    pub(super) async fn load(
        store: &JobStore,
        job: &ReadyJob,
        query: &StreamQuery,
        version: Option<&BatchVersion>,
    ) -> Result<Self> {
        let aggregate = job.query.aggregate().await?;
        let schema = Arc::clone(aggregate.state_schema());
        let mut state = Self {
            table: StateTable::try_new(schema, aggregate.key_columns())?,
            aggregate,
            files: Vec::new(),
            time: JobTime::default(),
            policy: query.policy(),
        };
        let Some(version) = version else {
            return Ok(state);
        };
        let time = version.time.clone().unwrap_or_default();
        // The clock of keys does not apply to windows, nor their watermark to keys.
        if time.clock.is_some() == query.is_keyed() {
            state.time = time;
        }
        if !can_continue_from(&job.name, Some(query), version)? {
            if job.options.resets_on_change {
                return Ok(state);
            }
            return Err(changed(&job.name, Some(query), version));
        }
        let kept = version.state_of(AGGREGATE);
        for file in kept.map_or(&[][..], |state| state.files.as_slice()) {
            state.read(store, job.id, file).await?;
            state.files.push(file.clone());
        }
        Ok(state)
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

    /// The job's watermark, in microseconds since 1970 UTC.
    pub(super) fn watermark(&self) -> Option<i64> {
        self.time.watermark
    }

    /// Resets a table that has another identity now: its partitions begin at the job's watermark.
    pub(super) fn forget_table(&mut self, table: &str) {
        self.time.forget_table(table);
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
        plans: &SourcePlans,
        ranges: &BatchRanges,
        known: &Partitions,
        idle: &Partitions,
        clock: impl FnOnce(&LastRecords) -> i64,
    ) -> Result<Emitted> {
        let times = self.times(ranges);
        let front = job.query.front(ranges.of_plans(plans, &times)?).await?;
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
        let StepResult {
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
                "raise the limit with CREATE OR REPLACE JOB, then RESUME JOB; nothing is lost",
            ));
        }
        Ok(Emitted {
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
        plans: &SourcePlans,
        ranges: &BatchRanges,
    ) -> Result<()> {
        let times = self.times(ranges);
        let front = job.query.front(ranges.of_plans(plans, &times)?).await?;
        let plan = Arc::clone(&front.front.plan);
        collect_partitioned(plan, Arc::clone(&front.context)).await?;
        Ok(())
    }

    fn times(&self, ranges: &BatchRanges) -> BTreeMap<String, Arc<BatchTime>> {
        let of_table = |table: &String, partitions: &[PlannedRange]| {
            if self.aggregate.is_keyed() {
                return Arc::new(BatchTime::without_time());
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

    /// Writes the state and late rows of the batch under `name`, the name of its version.
    pub(super) async fn stage(
        &self,
        store: &JobStore,
        id: JobId,
        query: &StreamQuery,
        emitted: Emitted,
        name: &str,
    ) -> Result<(StateFacts, StateUpdate)> {
        let mut facts = StateFacts {
            time: Some(emitted.time.clone()),
            ..StateFacts::default()
        };
        if let Some(late) = &emitted.sides.late {
            let bytes = encode_states(&late.schema(), std::slice::from_ref(late))?;
            facts.late_rows = late.num_rows() as u64;
            facts.late_crc32 = Some(crc32(&bytes));
            store.put_late(id, name, bytes).await?;
        }
        let mut files = self.files.clone();
        let closed_by = emitted.time.closed_by;
        if self.is_snapshot_due(&emitted) {
            let open = self.table.rows_after(&emitted.change)?;
            files = vec![self.write(store, id, name, &open, true, closed_by).await?];
        } else if emitted.log.num_rows() > 0 || closed_by > self.time.closed_by {
            let log = std::slice::from_ref(&emitted.log);
            files.push(self.write(store, id, name, log, false, closed_by).await?);
        }
        let state = OperatorState {
            fingerprint: Some(query.fingerprint().to_owned()),
            files: files.clone(),
        };
        facts.operators.insert(AGGREGATE.to_owned(), state);
        let applied = StateUpdate {
            change: emitted.change,
            files,
            time: emitted.time,
        };
        Ok((facts, applied))
    }

    /// Applies the changes of a committed batch.
    pub(super) fn apply(&mut self, applied: StateUpdate) -> Result<()> {
        self.table.apply(applied.change)?;
        self.files = applied.files;
        self.time = applied.time;
        Ok(())
    }

    fn is_snapshot_due(&self, emitted: &Emitted) -> bool {
        let logs = self.files.iter().filter(|file| !file.is_snapshot);
        let (count, logged) =
            logs.fold((0, 0), |(count, rows), file| (count + 1, rows + file.rows));
        let rows_after = emitted.rows_after as u64;
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

/// Whether the job withdraws rows that it emitted: the sink must have a key.
fn withdraws(job: &ReadyJob) -> bool {
    let has_key = !job.query.sink().primary_key().is_empty();
    has_key && job.query.stream().is_some_and(StreamQuery::withdraws)
}

/// Whether the job `name` can go on from the state of a version: both have none, or its stateful part is the one that the state was
/// made by.
///
/// # Errors
///
/// A newer release has written the state: it may well be that of the same text.
pub(in crate::runtime) fn can_continue_from(
    name: &str,
    query: Option<&StreamQuery>,
    version: &BatchVersion,
) -> Result<bool> {
    let made_by = state_fingerprint(version);
    if let Some(newer) = made_by.and_then(newer_version) {
        return Err(Error::unsupported(format!(
            "the state of job {name} was written by a newer release (fingerprint v{newer})"
        ))
        .with_help("run the job with that release, or a newer one"));
    }
    Ok(match (query, made_by) {
        (Some(query), Some(made_by)) => query.matches_fingerprint(made_by),
        (query, made_by) => query.is_none() && made_by.is_none(),
    })
}

/// The fingerprint of the state of a version.
fn state_fingerprint(version: &BatchVersion) -> Option<&str> {
    version.state_of(AGGREGATE)?.fingerprint.as_deref()
}

/// The stateful part of a job's text is another one than the state of a version was made by.
pub(in crate::runtime) fn changed(
    name: &str,
    query: Option<&StreamQuery>,
    version: &BatchVersion,
) -> Error {
    let both = query.zip(state_fingerprint(version));
    let what = match both.is_some_and(|(query, made_by)| query.matches_window_fingerprint(made_by))
    {
        true => {
            format!(
                "the state of job {name} is by window, as an earlier release or another query kept it, and not by slice"
            )
        }
        false => {
            format!("the windows, keys or aggregates of job {name} are not those of its state")
        }
    };
    Error::invalid(what).with_help(
        "WITH ('on_change' 'reset') continues from the same offsets with an empty state; \
         DROP JOB and CREATE JOB start over",
    )
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

    use datafusion::arrow::array::{ArrayRef, Int64Array};
    use datafusion::arrow::datatypes::{DataType, Field, Schema};

    use super::*;
    use crate::error::ErrorKind;

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
        let error = can_continue_from("j", None, &version(Some("v3:01"))).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unsupported);
        assert!(error.message().contains("newer release"), "{error}");
        assert!(!error.help().unwrap().contains("reset"), "{error}");
        for (kept, goes_on) in [
            (Some("v2:01"), false),
            (Some("TUMBLE: …"), false),
            (None, true),
        ] {
            assert_eq!(
                can_continue_from("j", None, &version(kept)).unwrap(),
                goes_on
            );
        }
    }

    #[test]
    fn a_damaged_state_file_is_detected_before_its_lengths_are_used() {
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
}
