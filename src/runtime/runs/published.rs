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

    /// Reads the rows of the sink with these ends, and others. `columns` are those of the sink.
    ///
    /// # Errors
    ///
    /// The sink cannot be read, or does not answer.
    pub async fn rows(
        &self,
        query: &JobQuery,
        columns: &ResultColumns,
        ends: &RangeInclusive<i64>,
    ) -> Result<PublishedRows> {
        let wanted = WantedRows {
            ranges: self.offsets_of(ends),
            ends,
            end: columns.end,
        };
        let found = rows_of(query.sink(), &query.reading_state(), wanted).await?;
        Ok(PublishedRows {
            rows: found.rows,
            low: found.low,
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
