//! What a job and its runs have published: where the rows are by their logs, and the rows as the sink has them now.

use std::collections::BTreeMap;
use std::ops::RangeInclusive;
use std::sync::Arc;

use datafusion::arrow::array::RecordBatch;
use datafusion::execution::memory_pool::MemoryReservation;
use futures::{StreamExt as _, TryStreamExt as _};

use crate::core::archive::{OffsetRange, OffsetRanges, PartitionOffsets, common_offsets};
use crate::core::jobs::log::sequence_of;
use crate::core::jobs::{BatchVersion, Identity, JobHistory, SourceProgress};
use crate::core::runs::{Emission, GivenOut, PublishedBatches, RunSpec, chunk_extent};
use crate::error::{Error, ErrorKind, Result};
use crate::runtime::sinks::published::{ReadRecords, WantedRows, rows_of};
use crate::store::{FoundRun, JobId, JobStore, RunStore, StoredRun};
use crate::streaming::JobQuery;

/// Logs of runs that are read at the same time.
const READS_AT_ONCE: usize = 4;

/// The logs of a job and of its runs, as a run of the job reads them.
#[derive(Debug)]
pub struct PublishedLogs {
    /// The store that has the job.
    pub jobs: JobStore,
    /// The job.
    pub job: JobId,
    /// The store of runs.
    pub runs: RunStore,
    /// How long after the highest watermark windows of the job may end ([`GivenOut::of_batch`]).
    pub reach: Option<i64>,
    /// The run. Rows in another topic than its sink do not count, and only what was published of records that it reads may be gone.
    pub spec: Arc<RunSpec>,
}

/// Where the rows of a job and of its runs are in the sink's topic.
#[derive(Debug, Default)]
pub struct PublishedPast {
    job: LogOfRows,
    /// By run id.
    runs: BTreeMap<String, LogOfRows>,
    /// What the logs have said when the run was made ([`RunSpec::settled`]).
    settled: PartitionOffsets,
    /// The id of the run, if its chunks are offsets.
    by_offsets: Option<String>,
}

/// What the log of a job or of a run says of its rows.
#[derive(Debug, Default)]
struct LogOfRows {
    batches: PublishedBatches,
    /// The offsets of batches that have read no other records than the run reads, as far as they have written all rows there.
    settled: BTreeMap<i32, OffsetRanges>,
    /// Its rows are in another topic.
    is_elsewhere: bool,
    /// It is not read again: its run has ended, or is of another job.
    is_over: bool,
}

/// Rows of the sink as they are now.
#[derive(Debug)]
pub struct PublishedRows {
    /// The last row of each key, in the columns of the sink: first those that may be gone.
    pub rows: RecordBatch,
    /// How many may be gone: those that the job or a run has published of records that this run reads. Of a run by offsets, none of whose
    /// rows are gone: how many it has written itself.
    pub settled: usize,
    /// The first offset that each partition of a topic has; none of a table, which has all rows.
    pub low: Option<BTreeMap<i32, i64>>,
    /// The offsets where they are in a topic, and those of the rows that may be gone.
    pub ranges: [BTreeMap<i32, OffsetRanges>; 2],
    /// The records of a topic that were read, to be read on.
    pub records: Option<ReadRecords>,
}

impl PublishedPast {
    /// Reads what the logs say now that they did not say before: the job, and runs beside this one, publish all the time. A run whose log
    /// cannot be read may have published rows of any time, of any job.
    ///
    /// # Errors
    ///
    /// The store does not answer; the log of the job cannot be read.
    pub async fn refresh(&mut self, logs: &PublishedLogs) -> Result<()> {
        self.settled.clone_from(&logs.spec.settled);
        let is_by_offsets = matches!(logs.spec.emission, Emission::Offsets(_));
        self.by_offsets = is_by_offsets.then(|| logs.spec.run_id.clone());
        let history = logs.jobs.history(logs.job).await?;
        let before = std::mem::take(&mut self.job);
        self.job = read_on((&logs.jobs, logs.job), &history, before, (logs, None)).await?;
        // The rows that this run has written are of other results, if its key tells these apart: two records of one key have one time.
        let is_apart =
            matches!(logs.spec.emission, Emission::Time(_)) && !logs.spec.options.overwrite;
        let is_left_out = |run_id: &str| is_apart && run_id == logs.spec.run_id;
        let is_over = |run_id: &str| self.runs.get(run_id).is_some_and(|log| log.is_over);
        let run_ids = logs.runs.run_ids().await?.into_iter();
        let open = run_ids.filter(|run_id| !is_left_out(run_id) && !is_over(run_id));
        let open: Vec<String> = open.collect();
        let found = logs.runs.found(open).await?.into_iter();
        let found: Vec<(FoundRun, LogOfRows)> = found
            .map(|run| {
                let before = self.runs.remove(&run.run_id);
                (run, before.unwrap_or_default())
            })
            .collect();
        let read = futures::stream::iter(found).map(|(run, before)| of_run(logs, run, before));
        let read: Vec<(String, LogOfRows)> = read.buffered(READS_AT_ONCE).try_collect().await?;
        self.runs.extend(read);
        Ok(())
    }

    fn logs(&self) -> impl Iterator<Item = &LogOfRows> {
        let all = std::iter::once(&self.job).chain(self.runs.values());
        all.filter(|log| !log.is_elsewhere)
    }

    /// The offsets that have all published rows of the windows and sessions with these ends.
    pub fn offsets_of(&self, ends: &RangeInclusive<i64>) -> BTreeMap<i32, OffsetRanges> {
        let mut all: BTreeMap<i32, OffsetRanges> = BTreeMap::new();
        for log in self.logs() {
            for (partition, ranges) in log.batches.index.offsets_of(ends) {
                all.entry(partition).or_default().extend(ranges.ranges());
            }
        }
        all
    }

    /// The offsets whose rows may be gone, as far as the logs say it or have said it when the run was made.
    fn settled(&self) -> PartitionOffsets {
        let mut all = self.settled.clone();
        for (partition, ranges) in self.logs().flat_map(|log| &log.settled) {
            all.entry(*partition).or_default().extend(ranges.ranges());
        }
        all
    }

    /// The part of these offsets whose rows the run may have to tell from others: those that may be gone. Of a run by offsets none is gone,
    /// and it is the part that the run has written itself.
    fn own_part(&self, of: &BTreeMap<i32, OffsetRanges>) -> BTreeMap<i32, OffsetRanges> {
        let Some(run_id) = &self.by_offsets else {
            return self.settled_in(of);
        };
        let written = self.runs.get(run_id).map(|log| &log.settled);
        written.map_or_else(PartitionOffsets::new, |written| common_offsets(written, of))
    }

    /// The part of these offsets whose rows may be gone: that of batches which have read no other records than the run reads.
    fn settled_in(&self, of: &BTreeMap<i32, OffsetRanges>) -> BTreeMap<i32, OffsetRanges> {
        common_offsets(&self.settled(), of)
    }

    /// Reads the rows of the sink with these ends, and others. `end` is the column of that time
    /// ([`ResultColumns::known_by`](crate::core::runs::ResultColumns::known_by)). Rows that were read `before` are given again if they are
    /// those of the same offsets of a topic, and read on if all that is new lies behind them. `memory` has the bytes of the rows that are
    /// given.
    ///
    /// # Errors
    ///
    /// The sink cannot be read, or does not answer; too little memory.
    pub async fn rows(
        &self,
        query: &JobQuery,
        end: Option<(usize, i64)>,
        ends: &RangeInclusive<i64>,
        (before, memory): (Option<PublishedRows>, &MemoryReservation),
    ) -> Result<PublishedRows> {
        let offsets = self.offsets_of(ends);
        let ranges = [self.own_part(&offsets), offsets];
        let before = match before {
            Some(rows) if rows.low.is_some() && rows.ranges == ranges => return Ok(rows),
            Some(rows) => rows.records,
            None => None,
        };
        memory.free();
        let [settled, offsets] = &ranges;
        let wanted = WantedRows {
            ranges: offsets,
            own: settled,
            ends,
            end,
            memory,
            before,
        };
        let found = rows_of(query.sink(), &query.reading_state(), wanted).await?;
        Ok(PublishedRows {
            rows: found.rows,
            settled: found.own,
            low: found.low,
            ranges,
            records: found.records,
        })
    }

    /// Whether the sink still has all that was published of windows or sessions with these ends.
    pub fn is_readable(&self, rows: &PublishedRows, ends: &RangeInclusive<i64>) -> bool {
        let Some(low) = &rows.low else {
            return true;
        };
        let mut logs = self.logs();
        logs.all(|log| log.batches.index.is_readable(ends, low))
    }
}

/// Where in the sink's topic a new run may remove rows, by the logs as they are now ([`RunSpec::settled`]); empty if it removes none.
///
/// # Errors
///
/// As of [`PublishedPast::refresh`].
pub(super) async fn settled_by_now(
    jobs: &JobStore,
    job: JobId,
    runs: &RunStore,
    spec: &RunSpec,
) -> Result<PartitionOffsets> {
    let is_by_time = matches!(spec.emission, Emission::Time(_));
    let is_topic = matches!(spec.sink, Identity::Topic { .. });
    if !(spec.options.withdraw && is_by_time && is_topic) {
        return Ok(PartitionOffsets::new());
    }
    let logs = PublishedLogs {
        jobs: jobs.clone(),
        job,
        runs: runs.clone(),
        // It says which windows rows are of, and here all count.
        reach: None,
        spec: Arc::new(spec.clone()),
    };
    let mut past = PublishedPast::default();
    past.refresh(&logs).await?;
    Ok(past.settled())
}

/// What a run has published, if it is one of this job.
async fn of_run(
    logs: &PublishedLogs,
    run: FoundRun,
    before: LogOfRows,
) -> Result<(String, LogOfRows)> {
    let FoundRun { run_id, found } = run;
    let log = match found {
        Ok(StoredRun { id, spec, history }) if spec.job_id == logs.job.to_string() => {
            let log = read_on(
                (logs.runs.jobs(), id),
                &history,
                before,
                (logs, Some(&spec)),
            );
            LogOfRows {
                is_over: history.is_over(),
                ..log.await?
            }
        }
        Ok(_) => LogOfRows {
            is_over: true,
            ..LogOfRows::default()
        },
        Err(error) => {
            if before.batches.index.missing().is_none() {
                tracing::warn!(run = run_id, %error, "what the run has published is not known");
            }
            let mut log = LogOfRows::default();
            log.batches.index.miss(GivenOut::AnyTime);
            log
        }
    };
    Ok((run_id, log))
}

/// Adds what a log says that it did not say `before`: the versions that are there, abandoned ones included; and at first what was kept when
/// earlier ones were trimmed. `run` is the spec of its run; none of the job.
async fn read_on(
    (jobs, id): (&JobStore, JobId),
    history: &JobHistory,
    before: LogOfRows,
    (logs, run): (&PublishedLogs, Option<&RunSpec>),
) -> Result<LogOfRows> {
    let names: Vec<String> = history.known().map(str::to_owned).collect();
    let first = names.first().and_then(|name| sequence_of(name));
    let has_begun = before.batches.up_to > 0;
    // Later versions were trimmed since: the file of the job has these.
    let is_behind = first.is_some_and(|first| first > before.batches.up_to);
    let is_first = !has_begun || is_behind;
    let mut log = match is_first {
        true => {
            let batches = jobs.published(id).await?.unwrap_or_default();
            let is_replaced = before.batches.are_elsewhere(batches.sink.as_ref());
            LogOfRows {
                batches,
                // The versions that said so are gone, and their rows are where they were.
                settled: match is_replaced {
                    true => BTreeMap::new(),
                    false => before.settled,
                },
                ..LogOfRows::default()
            }
        }
        false => before,
    };
    let known = log.batches.up_to;
    let is_unread = |name: &String| is_first || sequence_of(name).is_none_or(|own| own >= known);
    let names: Vec<String> = names.into_iter().filter(is_unread).collect();
    let versions = jobs.versions(id, names.clone());
    let mut versions = futures::stream::iter(names).zip(versions);
    let mut begins = is_first;
    while let Some((name, version)) = versions.next().await {
        match version {
            Ok(version) => {
                if std::mem::take(&mut begins) {
                    log.begin_at((&name, &version), (logs, run));
                }
                log.take_in((&name, &version), (logs, run));
            }
            Err(error) if error.kind() == ErrorKind::Data => {
                tracing::warn!(%id, version = name, %error, "what the version has published is not known");
                log.batches.index.miss(GivenOut::AnyTime);
            }
            Err(error) => return Err(error),
        }
    }
    log.is_elsewhere = log.batches.are_elsewhere(Some(&logs.spec.sink));
    Ok(log)
}

impl LogOfRows {
    /// Begins with the oldest version that there is.
    fn begin_at(
        &mut self,
        (name, version): (&str, &BatchVersion),
        (logs, run): (&PublishedLogs, Option<&RunSpec>),
    ) {
        let reach = match run {
            None => logs.reach,
            Some(_) => None,
        };
        let follows_all = sequence_of(name).is_some_and(|own| own >= self.batches.up_to);
        self.batches.begin_at((name, version), reach);
        // All that was trimmed had read what this version builds on, and no more.
        if run.is_none() && follows_all && logs.spec.reads_all_before(version) {
            let index = &self.batches.index;
            let closed = index.closed().flat_map(|of| &of.offsets);
            for (partition, of) in closed.chain(index.any_time()) {
                settle(&mut self.settled, *partition, *of);
            }
        }
    }

    /// Takes in the next version.
    fn take_in(
        &mut self,
        (name, version): (&str, &BatchVersion),
        (logs, run): (&PublishedLogs, Option<&RunSpec>),
    ) {
        let batches = &mut self.batches;
        let is_known = sequence_of(name).is_some_and(|own| own < batches.up_to);
        let is_replaced = batches.are_elsewhere(version.sink.as_ref());
        let is_settled = match run {
            None => {
                batches.take_in_batch(name, version, logs.reach);
                logs.spec.reads_all_of(version)
            }
            Some(spec) => {
                let extent = chunk_extent(&spec.emission, version);
                let given_out = extent.map_or(GivenOut::AnyTime, |extent| {
                    GivenOut::of_chunk(&extent, spec.grouping)
                });
                batches.take_in_chunk(name, version, given_out);
                logs.spec.reads_all_of_run(spec)
            }
        };
        if is_known {
            return;
        }
        if is_replaced {
            self.settled.clear();
        }
        let is_own = run.is_some_and(|run| run.run_id == logs.spec.run_id);
        if is_own || (is_settled && has_no_other_rows(version)) {
            for (partition, of) in &version.published {
                settle(&mut self.settled, *partition, *of);
            }
        }
    }
}

/// Whether all records in the ranges of a version are its own: it has written as many as there are offsets. Other writers may have written
/// at the same time, and then it is unknown which records are its own.
fn has_no_other_rows(version: &BatchVersion) -> bool {
    let offsets = version.published.values();
    let offsets = offsets.map(|of| OffsetRange::new(of.start, of.end).count());
    offsets.sum::<u64>() == version.rows_out
}

fn settle(settled: &mut BTreeMap<i32, OffsetRanges>, partition: i32, of: SourceProgress) {
    let range = OffsetRange::new(of.start, of.end);
    settled.entry(partition).or_default().insert(range);
}

/// The error of a sink without a key.
pub(super) fn no_key(sink: &str) -> Error {
    Error::invalid(format!(
        "{sink} has no PRIMARY KEY, by which its rows could be compared with others"
    ))
    .with_help("declare the table with PRIMARY KEY (…) NOT ENFORCED, or use EMIT ALL")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::jobs::{JobTime, LogEntry};
    use crate::core::runs::spec::fixture::spec;
    use crate::core::runs::{PinnedAt, PublishedIndex, TIME_AXIS};
    use crate::store::{DataDir, RunCreation};

    const HOUR: i64 = 3_600_000_000;

    impl From<PublishedIndex> for PublishedPast {
        /// What the index says, and no more.
        fn from(index: PublishedIndex) -> Self {
            let batches = PublishedBatches {
                index,
                ..PublishedBatches::default()
            };
            Self {
                job: LogOfRows {
                    batches,
                    ..LogOfRows::default()
                },
                ..Self::default()
            }
        }
    }

    fn version(sequence: u64, published: (i64, i64)) -> BatchVersion {
        let (start, end) = published;
        BatchVersion {
            batch: sequence,
            sequence,
            published: [(0, SourceProgress { start, end })].into(),
            rows_out: start.abs_diff(end),
            sink: Some(spec("r").sink),
            ..BatchVersion::default()
        }
    }

    fn created() -> LogEntry {
        LogEntry::Created {
            name: "j".into(),
            text: String::new(),
            tables: vec![],
            at: 0,
        }
    }

    async fn created_run(runs: &RunStore, run_id: &str, job_id: &str) -> StoredRun {
        let spec = RunSpec {
            job_id: job_id.to_owned(),
            ..spec(run_id)
        };
        match runs.create(spec, 0).await.unwrap() {
            RunCreation::Created(run) => run,
            RunCreation::Exists(_) => panic!("{run_id} is there already"),
        }
    }

    /// The logs as a run with this spec reads them.
    fn logs_of((jobs, job): (&JobStore, JobId), runs: &RunStore, spec: RunSpec) -> PublishedLogs {
        PublishedLogs {
            jobs: jobs.clone(),
            job,
            runs: runs.clone(),
            reach: Some(0),
            spec: Arc::new(spec),
        }
    }

    async fn commit(store: &JobStore, id: JobId, history: &mut JobHistory, version: &BatchVersion) {
        let name = format!("{:010}-v", history.next);
        store.stage(id, &name, version).await.unwrap();
        let entry = LogEntry::Committed {
            batch: history.next_batch(),
            version: name,
            at: 0,
        };
        assert!(store.append_next(id, history, &entry).await.unwrap());
    }

    /// A batch of the job that has closed the windows of this hour.
    async fn commit_hour(
        store: &JobStore,
        id: JobId,
        history: &mut JobHistory,
        hour: i64,
        published: (i64, i64),
    ) {
        let time = JobTime {
            watermark: Some((hour + 1) * HOUR),
            closed_by: Some((hour + 1) * HOUR),
            ..JobTime::default()
        };
        let version = BatchVersion {
            parent: history.last().map(|last| last.version.clone()),
            time: Some(time),
            ..version(history.next, published)
        };
        commit(store, id, history, &version).await;
    }

    fn ranges(past: &PublishedPast, hour: i64) -> Vec<(i64, i64)> {
        let end = hour * HOUR + 7;
        let offsets = past.offsets_of(&(end..=end));
        let ranges = offsets.values().flat_map(OffsetRanges::ranges);
        ranges.map(|OffsetRange { from, to }| (from, to)).collect()
    }

    #[tokio::test]
    async fn rows_of_the_job_and_of_its_runs_are_found() {
        let folder = tempfile::tempdir().unwrap();
        let dir = DataDir::open(&folder.path().display().to_string()).unwrap();
        let (jobs, runs) = (JobStore::new(dir.clone()), RunStore::new(&dir));
        let id = jobs.create(&created(), "j").await.unwrap().unwrap();
        let mut history = jobs.history(id).await.unwrap();
        for hour in 0..4 {
            let published = (hour * 10, hour * 10 + 5);
            commit_hour(&jobs, id, &mut history, hour, published).await;
        }
        // The first two are trimmed; what they have published was kept before.
        let mut kept = PublishedBatches::default();
        let names: Vec<String> = history.known().map(str::to_owned).collect();
        for name in &names[..2] {
            let version = jobs.version(id, name).await.unwrap();
            kept.take_in_batch(name, &version, Some(0));
        }
        kept.go_on_from(&names[1], 3);
        jobs.put_published(id, history.next, &kept).await.unwrap();
        let trimmed = LogEntry::Trimmed {
            oldest: 3,
            packs: vec![],
            at: 0,
        };
        assert!(jobs.append_next(id, &mut history, &trimmed).await.unwrap());
        // The last one is abandoned, and its rows stay.
        let rewound = LogEntry::Rewound { to: 3, at: 0 };
        assert!(jobs.append_next(id, &mut history, &rewound).await.unwrap());
        for (run_id, job_id, start) in [("own", id.to_string(), 100), ("other", "x".into(), 200)] {
            let mut run = created_run(&runs, run_id, &job_id).await;
            let chunk = SourceProgress {
                start: 2 * HOUR,
                end: 3 * HOUR,
            };
            let version = BatchVersion {
                sources: [("visits".to_owned(), [(TIME_AXIS, chunk)].into())].into(),
                ..version(1, (start, start + 3))
            };
            commit(runs.jobs(), run.id, &mut run.history, &version).await;
        }
        let logs = logs_of((&jobs, id), &runs, spec("r"));
        let mut past = PublishedPast::default();
        past.refresh(&logs).await.unwrap();
        // A run over sessions may have withdrawn earlier ones.
        assert_eq!(ranges(&past, 0), [(0, 5), (100, 103)]);
        assert_eq!(ranges(&past, 1), [(10, 15), (100, 103)]);
        assert_eq!(ranges(&past, 2), [(20, 25), (100, 103)]);
        assert_eq!(ranges(&past, 3), [(30, 35), (100, 103)]);
        let rows = |low| PublishedRows {
            rows: RecordBatch::new_empty(Arc::new(datafusion::arrow::datatypes::Schema::empty())),
            settled: 0,
            low: Some([(0, low)].into()),
            ranges: Default::default(),
            records: None,
        };
        let readable = |past: &PublishedPast, low, hour: i64| {
            past.is_readable(&rows(low), &(hour * HOUR..=hour * HOUR))
        };
        assert!(readable(&past, 0, 1) && readable(&past, 20, 3) && !readable(&past, 21, 3));
        assert!(!readable(&past, 4, 1));
        // The job commits a batch, and the run 'beside' a chunk: the next refresh adds their offsets, and keeps those of the trimmed batches.
        commit_hour(&jobs, id, &mut history, 4, (40, 45)).await;
        let mut beside = created_run(&runs, "beside", &id.to_string()).await;
        let chunk = version(1, (300, 303));
        commit(runs.jobs(), beside.id, &mut beside.history, &chunk).await;
        past.refresh(&logs).await.unwrap();
        assert_eq!(ranges(&past, 0), [(0, 5), (100, 103), (300, 303)]);
        assert_eq!(ranges(&past, 4), [(40, 45), (100, 103), (300, 303)]);
        // The rows of a run are no other rows for itself.
        let of_beside = |spec: RunSpec| logs_of((&jobs, id), &runs, spec);
        let mut own = PublishedPast::default();
        own.refresh(&of_beside(spec("beside"))).await.unwrap();
        assert_eq!(ranges(&own, 4), [(40, 45), (100, 103)]);
        // But for one whose chunks may have one key.
        let mut by_offsets = spec("beside");
        by_offsets.emission = Emission::Offsets(Default::default());
        let mut own = PublishedPast::default();
        own.refresh(&of_beside(by_offsets)).await.unwrap();
        assert_eq!(ranges(&own, 4), [(40, 45), (100, 103), (300, 303)]);
        // A run that cannot be read may have written rows of any time.
        assert!(readable(&past, 0, 9));
        let file = format!("runs/jobs/{}/spec.json", beside.id);
        std::fs::write(folder.path().join(file), "{").unwrap();
        past.refresh(&logs).await.unwrap();
        assert!(!readable(&past, 0, 9));
        // Another topic has none of it.
        let other = RunSpec {
            sink: Identity::Topic {
                topic: "other".into(),
                cluster: None,
                id: None,
            },
            ..spec("r")
        };
        let logs = logs_of((&jobs, id), &runs, other);
        let mut past = PublishedPast::default();
        past.refresh(&logs).await.unwrap();
        assert!(ranges(&past, 2).is_empty());
    }

    #[tokio::test]
    async fn only_what_was_published_of_records_that_the_run_reads_may_be_gone() {
        let folder = tempfile::tempdir().unwrap();
        let dir = DataDir::open(&folder.path().display().to_string()).unwrap();
        let (jobs, runs) = (JobStore::new(dir.clone()), RunStore::new(&dir));
        let id = jobs.create(&created(), "j").await.unwrap().unwrap();
        let mut history = jobs.history(id).await.unwrap();
        // The run reads up to offset 99.
        for (start, end, published) in [(0, 60, (0, 5)), (60, 99, (7, 9)), (99, 120, (20, 25))] {
            let version = BatchVersion {
                parent: history.last().map(|last| last.version.clone()),
                sources: [(
                    "visits".to_owned(),
                    [(0, SourceProgress { start, end })].into(),
                )]
                .into(),
                ..version(history.next, published)
            };
            commit(&jobs, id, &mut history, &version).await;
        }
        for (run_id, end, start) in [("before", 98, 100), ("after", 101, 200)] {
            let mut pinned = spec(run_id);
            let tail = pinned.sources.get_mut("visits").unwrap().tail.as_mut();
            tail.unwrap().at = PinnedAt::Ends([(0, end)].into());
            pinned.job_id = id.to_string();
            let RunCreation::Created(mut run) = runs.create(pinned, 0).await.unwrap() else {
                panic!("{run_id} is there already");
            };
            let chunk = version(1, (start, start + 3));
            commit(runs.jobs(), run.id, &mut run.history, &chunk).await;
        }
        let logs = logs_of((&jobs, id), &runs, spec("r"));
        let settled = |past: &PublishedPast| -> Vec<(i64, i64)> {
            let offsets = past.offsets_of(&(i64::MIN..=i64::MAX));
            let settled = past.settled_in(&offsets);
            let ranges = settled.values().flat_map(OffsetRanges::ranges);
            ranges.map(|OffsetRange { from, to }| (from, to)).collect()
        };
        let mut past = PublishedPast::default();
        past.refresh(&logs).await.unwrap();
        assert_eq!(settled(&past), [(0, 5), (7, 9), (100, 103)]);
        let kept_with_spec = settled_by_now(&jobs, id, &runs, &spec("r")).await.unwrap();
        // The first one is trimmed: of it the index is known.
        let mut kept = PublishedBatches::default();
        let names: Vec<String> = history.known().map(str::to_owned).collect();
        let first = jobs.version(id, &names[0]).await.unwrap();
        kept.take_in_batch(&names[0], &first, None);
        kept.go_on_from(&names[0], 2);
        jobs.put_published(id, history.next, &kept).await.unwrap();
        let trimmed = LogEntry::Trimmed {
            oldest: 2,
            packs: vec![],
            at: 0,
        };
        assert!(jobs.append_next(id, &mut history, &trimmed).await.unwrap());
        let mut past = PublishedPast::default();
        past.refresh(&logs).await.unwrap();
        assert_eq!(settled(&past), [(0, 5), (7, 9), (100, 103)]);
        // All but the last one are trimmed before the run looks again: it knows what was settled.
        for (start, end, published) in [(120, 130, (30, 35)), (130, 140, (40, 45))] {
            let progress = SourceProgress { start, end };
            let version = BatchVersion {
                parent: history.last().map(|last| last.version.clone()),
                sources: [("visits".to_owned(), [(0, progress)].into())].into(),
                ..version(history.next, published)
            };
            commit(&jobs, id, &mut history, &version).await;
        }
        let names: Vec<String> = history.known().map(str::to_owned).collect();
        let (last, earlier) = names.split_last().unwrap();
        for name in earlier {
            let version = jobs.version(id, name).await.unwrap();
            kept.take_in_batch(name, &version, None);
        }
        kept.go_on_from(earlier.last().unwrap(), sequence_of(last).unwrap());
        jobs.put_published(id, history.next, &kept).await.unwrap();
        let trimmed = LogEntry::Trimmed {
            oldest: 5,
            packs: vec![],
            at: 0,
        };
        assert!(jobs.append_next(id, &mut history, &trimmed).await.unwrap());
        past.refresh(&logs).await.unwrap();
        assert_eq!(settled(&past), [(0, 5), (7, 9), (100, 103)]);
        // A process that resumes the run has not seen these versions: the run says what was settled when it was made.
        let mut resumed = PublishedPast::default();
        resumed.refresh(&logs).await.unwrap();
        assert_eq!(settled(&resumed), [(100, 103)]);
        let made = RunSpec {
            settled: kept_with_spec,
            ..spec("r")
        };
        let logs = logs_of((&jobs, id), &runs, made);
        let mut resumed = PublishedPast::default();
        resumed.refresh(&logs).await.unwrap();
        assert_eq!(settled(&resumed), [(0, 5), (7, 9), (100, 103)]);
        // A run that removes nothing does not keep it.
        let mut keeping = spec("r");
        keeping.options.withdraw = false;
        let nothing = settled_by_now(&jobs, id, &runs, &keeping).await.unwrap();
        assert!(nothing.is_empty());
    }

    #[tokio::test]
    async fn rows_beside_those_of_other_writers_are_not_gone() {
        let folder = tempfile::tempdir().unwrap();
        let dir = DataDir::open(&folder.path().display().to_string()).unwrap();
        let (jobs, runs) = (JobStore::new(dir.clone()), RunStore::new(&dir));
        let id = jobs.create(&created(), "j").await.unwrap().unwrap();
        let mut history = jobs.history(id).await.unwrap();
        // Of the second batch's ten records, two are of another writer.
        for (published, rows_out) in [((0, 5), 5), ((6, 16), 8), ((17, 19), 2)] {
            let version = BatchVersion {
                parent: history.last().map(|last| last.version.clone()),
                rows_out,
                ..version(history.next, published)
            };
            commit(&jobs, id, &mut history, &version).await;
        }
        let settled = settled_by_now(&jobs, id, &runs, &spec("r")).await.unwrap();
        let ranges: Vec<(i64, i64)> = settled[&0].ranges().map(|of| (of.from, of.to)).collect();
        assert_eq!(ranges, [(0, 5), (17, 19)]);
    }
}
