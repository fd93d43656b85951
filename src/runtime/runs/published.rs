//! What a job and its runs have published: where the rows are by their logs, and the rows as the sink has them now.

use std::collections::BTreeMap;
use std::ops::RangeInclusive;

use datafusion::arrow::array::RecordBatch;
use futures::{StreamExt as _, TryStreamExt as _};

use crate::core::archive::OffsetRanges;
use crate::core::jobs::{BatchVersion, Identity, IdentityMatch, JobHistory};
use crate::core::runs::{GivenOut, PublishedBatches, ResultColumns, chunk_extent};
use crate::error::{Error, ErrorKind, Result};
use crate::runtime::sinks::published::{WantedRows, rows_of};
use crate::store::{JobId, JobStore, RunStore, StoredRun};
use crate::streaming::JobQuery;

/// Logs of runs that are read at the same time.
const READS_AT_ONCE: usize = 4;

/// Where the rows of a job and of its runs are in the sink's topic.
#[derive(Debug, Clone, Default)]
pub struct PublishedPast {
    of: Vec<PublishedBatches>,
}

/// Rows of the sink as they are now.
#[derive(Debug, Clone)]
pub struct PublishedRows {
    /// The last row of each key, in the columns of the sink.
    pub rows: RecordBatch,
    /// The first offset that each partition of a topic has; none of a table, which has all rows.
    pub low: Option<BTreeMap<i32, i64>>,
    /// The offsets where they are in a topic.
    pub ranges: BTreeMap<i32, OffsetRanges>,
}

impl PublishedPast {
    /// Reads the logs of the job `id` and of its runs. Rows in another topic than `sink` do not count. `reach` is how long after the
    /// highest watermark its windows may end ([`GivenOut::of_batch`]).
    ///
    /// # Errors
    ///
    /// The store does not answer; the log of the job cannot be read.
    pub async fn load(
        (jobs, id): (&JobStore, JobId),
        runs: &RunStore,
        reach: Option<i64>,
        sink: &Identity,
    ) -> Result<Self> {
        let history = jobs.history(id).await?;
        let mut of = vec![of_job((jobs, id), &history, reach).await?];
        let job = id.to_string();
        let found = runs.all().await?.into_iter();
        let own = found.filter_map(|run| match run.found {
            Ok(stored) => (stored.spec.job_id == job).then_some(stored),
            Err(error) => {
                tracing::warn!(run = run.run_id, %error, "what the run has published is not known");
                None
            }
        });
        let of_runs = futures::stream::iter(own).map(|run| of_run(runs, run));
        let of_runs: Vec<PublishedBatches> = of_runs.buffered(READS_AT_ONCE).try_collect().await?;
        of.extend(of_runs);
        let is_other = |batches: &PublishedBatches| {
            let known = batches.sink.as_ref();
            known.is_some_and(|known| known.compare(sink) == IdentityMatch::Other)
        };
        of.retain(|batches| !is_other(batches));
        Ok(Self { of })
    }

    /// The offsets that have all published rows of the windows and sessions with these ends.
    pub fn offsets_of(&self, ends: &RangeInclusive<i64>) -> BTreeMap<i32, OffsetRanges> {
        let mut all: BTreeMap<i32, OffsetRanges> = BTreeMap::new();
        for batches in &self.of {
            for (partition, ranges) in batches.index.offsets_of(ends) {
                all.entry(partition).or_default().extend(ranges.ranges());
            }
        }
        all
    }

    /// Reads the rows of the sink with these ends, and others. `columns` are those of the sink. Rows that were read `before` are given
    /// again if they are those of the same offsets of a topic.
    ///
    /// # Errors
    ///
    /// The sink cannot be read, or does not answer.
    pub async fn rows(
        &self,
        query: &JobQuery,
        columns: &ResultColumns,
        ends: &RangeInclusive<i64>,
        before: Option<PublishedRows>,
    ) -> Result<PublishedRows> {
        let ranges = self.offsets_of(ends);
        let are_same = |rows: &PublishedRows| rows.low.is_some() && rows.ranges == ranges;
        if let Some(rows) = before.filter(are_same) {
            return Ok(rows);
        }
        let wanted = WantedRows {
            ranges: &ranges,
            ends,
            end: columns.end,
        };
        let found = rows_of(query.sink(), &query.reading_state(), wanted).await?;
        Ok(PublishedRows {
            rows: found.rows,
            low: found.low,
            ranges,
        })
    }

    /// Whether the sink still has all that was published of windows or sessions with these ends.
    pub fn is_readable(&self, rows: &PublishedRows, ends: &RangeInclusive<i64>) -> bool {
        let Some(low) = &rows.low else {
            return true;
        };
        let mut of = self.of.iter();
        of.all(|batches| batches.index.is_readable(ends, low))
    }
}

impl From<Vec<PublishedBatches>> for PublishedPast {
    fn from(of: Vec<PublishedBatches>) -> Self {
        Self { of }
    }
}

/// What a job has published: what was kept when its versions were trimmed, and the versions that are there, abandoned ones included.
async fn of_job(
    (jobs, id): (&JobStore, JobId),
    history: &JobHistory,
    reach: Option<i64>,
) -> Result<PublishedBatches> {
    let take_in = |published: &mut PublishedBatches, name: &str, version: &BatchVersion| {
        published.take_in_batch(name, version, reach);
    };
    collected((jobs, id), history, reach, take_in).await
}

async fn of_run(runs: &RunStore, run: StoredRun) -> Result<PublishedBatches> {
    let spec = &run.spec;
    let take_in = |published: &mut PublishedBatches, name: &str, version: &BatchVersion| {
        let extent = chunk_extent(&spec.emission, version);
        let given_out = extent.map_or(GivenOut::AnyTime, |extent| {
            GivenOut::of_chunk(&extent, spec.grouping)
        });
        published.take_in_chunk(name, version, given_out);
    };
    collected((runs.jobs(), run.id), &run.history, None, take_in).await
}

async fn collected(
    (jobs, id): (&JobStore, JobId),
    history: &JobHistory,
    reach: Option<i64>,
    take_in: impl Fn(&mut PublishedBatches, &str, &BatchVersion),
) -> Result<PublishedBatches> {
    let mut published = jobs.published(id).await?.unwrap_or_default();
    let names: Vec<String> = history.known().map(str::to_owned).collect();
    let versions = jobs.versions(id, names.clone());
    let mut versions = futures::stream::iter(names).zip(versions);
    let mut is_first = true;
    while let Some((name, version)) = versions.next().await {
        match version {
            Ok(version) => {
                if std::mem::take(&mut is_first) {
                    published.begin_at((&name, &version), reach);
                }
                take_in(&mut published, &name, &version);
            }
            Err(error) if error.kind() == ErrorKind::Data => {
                tracing::warn!(%id, version = name, %error, "what the version has published is not known");
                published.index.miss(GivenOut::AnyTime);
            }
            Err(error) => return Err(error),
        }
    }
    Ok(published)
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
    use crate::core::archive::OffsetRange;
    use crate::core::jobs::{JobTime, LogEntry, SourceProgress};
    use crate::core::runs::TIME_AXIS;
    use crate::core::runs::spec::fixture::spec;
    use crate::store::{DataDir, RunCreation};

    const HOUR: i64 = 3_600_000_000;

    fn version(sequence: u64, published: (i64, i64)) -> BatchVersion {
        let (start, end) = published;
        BatchVersion {
            batch: sequence,
            sequence,
            published: [(0, SourceProgress { start, end })].into(),
            sink: Some(spec("r").sink),
            ..BatchVersion::default()
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
        let created = LogEntry::Created {
            name: "j".into(),
            text: String::new(),
            tables: vec![],
            at: 0,
        };
        let id = jobs.create(&created, "j").await.unwrap().unwrap();
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
            let spec = crate::core::runs::RunSpec {
                job_id,
                ..spec(run_id)
            };
            let RunCreation::Created(mut run) = runs.create(spec, 0).await.unwrap() else {
                panic!("{run_id} is there already");
            };
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
        let sink = spec("r").sink;
        let past = PublishedPast::load((&jobs, id), &runs, Some(0), &sink);
        let past = past.await.unwrap();
        assert_eq!(ranges(&past, 0), [(0, 5)]);
        assert_eq!(ranges(&past, 1), [(10, 15)]);
        assert_eq!(ranges(&past, 2), [(20, 25), (100, 103)]);
        assert_eq!(ranges(&past, 3), [(30, 35), (100, 103)]);
        let rows = |low| PublishedRows {
            rows: RecordBatch::new_empty(std::sync::Arc::new(
                datafusion::arrow::datatypes::Schema::empty(),
            )),
            low: Some([(0, low)].into()),
            ranges: BTreeMap::new(),
        };
        let readable = |low, hour: i64| past.is_readable(&rows(low), &(hour * HOUR..=hour * HOUR));
        assert!(readable(0, 1) && readable(20, 3) && !readable(21, 3));
        assert!(!readable(4, 1));
        // Another topic has none of it.
        let other = Identity::Topic {
            topic: "other".into(),
            cluster: None,
            id: None,
        };
        let past = PublishedPast::load((&jobs, id), &runs, Some(0), &other);
        assert!(past.await.unwrap().of.is_empty());
    }
}
