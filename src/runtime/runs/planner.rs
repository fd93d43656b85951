//! PLAN: computes the rows of a run chunk by chunk, and writes none to its sink. The log of the run keeps what was found, so a plan that
//! was interrupted goes on behind its last chunk.

use std::collections::BTreeMap;

use crate::core::jobs::{
    BatchVersion, ChangeCounts, ChunkExtent, ComparedChunk, Gaps, LogEntry, Partitions, RunEvent,
    RunStage, SourceProgress,
};
use crate::core::runs::{OffsetSet, RunState, TIME_AXIS, chunk_extent, compared_to};
use crate::error::{Error, ErrorKind, Result};
use crate::runtime::adaptive_batch_size::AdaptiveBatchSize;
use crate::runtime::batch::{BatchChoice, BatchRanges};
use crate::runtime::environment::{Environment, GIVES_WAY};
use crate::runtime::failpoint;
use crate::runtime::heartbeat::HeartbeatTask;
use crate::runtime::identities::Identities;
use crate::runtime::job::ReadyJob;
use crate::runtime::owner::{now, owner};
use crate::runtime::runs::chunk_comparison::{ChunkComparison, ChunkPart};
use crate::runtime::runs::host::RunHost;
use crate::runtime::runs::ready::ReadyRun;
use crate::runtime::source::{JobSources, SourcePlans, SourcePoll};
use crate::runtime::source_ends;
use crate::runtime::takeover::append_to;
use crate::store::StoredRun;

/// Computes the chunks of a run that no plan has computed yet, until the plan is complete.
///
/// # Errors
///
/// A chunk cannot be computed, which the same statement tries again; another process plans or ends the run.
pub(super) async fn plan_run(
    host: &RunHost<'_>,
    run: &mut StoredRun,
    ready: &ReadyRun,
) -> Result<()> {
    let job = &ready.job;
    let owner = owner();
    let takeover = LogEntry::Takeover {
        owner: owner.clone(),
        at: now(),
    };
    let store = host.store.jobs();
    run.history = append_to(store, run.id, run.history.clone(), &takeover).await?;
    // A statement was faster while this one prepared its plan.
    if run.state() != RunState::Planning {
        return Err(other_process(run));
    }
    let heart = HeartbeatTask {
        store: store.clone(),
        id: run.id,
        name: job.name.clone(),
        owner: owner.clone(),
        statuses: host.options.statuses.of_runs(),
    };
    let mut planner = Planner {
        host,
        job,
        comparison: ready.comparison.as_deref(),
        sources: job.environment.tables.sources(&job.query, None)?,
        owner,
        pace: AdaptiveBatchSize::default(),
    };
    let steps = async {
        while planner.step(run).await? {}
        Ok::<(), Error>(())
    };
    let planned = tokio::select! {
        planned = steps => planned,
        () = heart.beat() => Err(Error::internal("the heartbeats have ended")),
    };
    heart.stop().await;
    planned
}

struct Planner<'a> {
    host: &'a RunHost<'a>,
    job: &'a ReadyJob,
    comparison: Option<&'a ChunkComparison>,
    sources: JobSources,
    /// The name of this process in the run's log.
    owner: String,
    pace: AdaptiveBatchSize,
}

impl Planner<'_> {
    /// Computes the next chunk; false if the plan is complete.
    async fn step(&mut self, run: &mut StoredRun) -> Result<bool> {
        let before = self.before(run);
        let max_rows = self.pace.rows(self.job.options.rows_of_batch(None));
        let mut plans = SourcePlans::new();
        for (table, source) in &self.sources {
            let look = SourcePoll {
                table,
                last: before.as_ref(),
                max_rows,
                skipping: None,
                began_at: None,
                is_replacement: false,
            };
            plans.insert(table.clone(), source.plan(look).await?);
        }
        let ends = source_ends::of_plans(&plans);
        if source_ends::is_caught_up(before.as_ref(), &ends) {
            return self.append(run, RunEvent::Planned).await.map(|()| false);
        }
        self.give_way(run).await?;
        let ranges = BatchRanges::choose(BatchChoice {
            last: before.as_ref(),
            plans: &plans,
            max_rows,
            waiting: &Partitions::new(),
            skipping: &Gaps::new(),
            identities: &Identities::default(),
        })?;
        let extent = extent_of(run, &ranges)?;
        let event = match self.compute(run, extent, &plans, &ranges).await {
            Ok(event) => event,
            Err(error) if error.kind() == ErrorKind::Exhausted => {
                let size = ranges.records().min(max_rows);
                if !self.pace.too_large(size) {
                    return Err(error);
                }
                self.pace.does_not_fit(size);
                return Ok(true);
            }
            Err(error) => return Err(self.job.query.shown(error)),
        };
        self.append(run, event).await?;
        failpoint::reach("compared");
        let lag = source_ends::lag(self.before(run).as_ref(), &ends);
        let statuses = self.host.options.statuses.of_runs();
        statuses.update(&self.job.name, |status| {
            status.report.batches += 1;
            status.lag = lag;
        });
        Ok(true)
    }

    /// Waits while the running job falls behind.
    async fn give_way(&self, run: &StoredRun) -> Result<()> {
        let Environment { clock, tables } = &self.job.environment;
        let statuses = self.host.options.statuses.of_runs();
        let name = &self.job.name;
        let mut waits = false;
        while let Some(reason) = tables.wait_reason().await {
            statuses.update(name, |status| status.waiting = Some(reason));
            waits = true;
            // A statement has written an entry: the next one of this plan says whether it goes on.
            let store = self.host.store.jobs();
            if !store.is_free(run.id, run.history.next).await? {
                break;
            }
            clock.sleep(GIVES_WAY).await;
        }
        if waits {
            statuses.update(name, |status| status.waiting = None);
        }
        Ok(())
    }

    /// Where the plan stands, as the version of a batch says it; none before the first chunk.
    fn before(&self, run: &StoredRun) -> Option<BatchVersion> {
        let (last, position) = compared_to(&run.history);
        let sources = match last? {
            ChunkExtent::Offsets(_) => position,
            ChunkExtent::Time { from, to } => {
                let at = SourceProgress {
                    start: *from,
                    end: *to,
                };
                let tables = self.sources.keys();
                tables
                    .map(|table| (table.clone(), [(TIME_AXIS, at)].into()))
                    .collect()
            }
        };
        Some(BatchVersion {
            sources,
            ..BatchVersion::default()
        })
    }

    /// Computes the rows of a chunk, and compares them with those of the sink. Gives the event that says what was found.
    async fn compute(
        &self,
        run: &StoredRun,
        extent: ChunkExtent,
        plans: &SourcePlans,
        ranges: &BatchRanges,
    ) -> Result<RunEvent> {
        let sources = ranges.of_plans(plans, &BTreeMap::new())?;
        let read = match &extent {
            ChunkExtent::Offsets(of) => OffsetSet::read_by(of),
            ChunkExtent::Time { .. } => OffsetSet::default(),
        };
        let batch = self.job.query.batch(sources).await?;
        let rows = batch.rows().await?;
        let left = batch.finish().await?.left;
        let (counts, changes) = match self.comparison {
            Some(comparison) => {
                let has_left = left.count() > 0;
                let part = ChunkPart::of(batch.chunk.as_ref(), &read);
                let compared = comparison.compare(&rows, part, has_left);
                let compared = compared.await?;
                (compared.counts, comparison.keep(run, &compared).await?)
            }
            None => {
                // Without a key it is not known which rows are published.
                let counts = ChangeCounts {
                    unknown: rows.num_rows() as u64,
                    ..ChangeCounts::default()
                };
                (counts, None)
            }
        };
        Ok(RunEvent::Compared(ComparedChunk {
            extent,
            counts,
            changes,
            left,
        }))
    }

    /// Appends an event, also when statements about the run write entries at the same time.
    async fn append(&self, run: &mut StoredRun, event: RunEvent) -> Result<()> {
        while !self.host.store.append(run, event.clone(), now()).await? {
            run.history = self.host.store.jobs().history(run.id).await?;
            if run.history.is_over() {
                return Err(Error::invalid(format!(
                    "run '{}' was aborted",
                    run.spec.run_id
                )));
            }
            let stage = run.history.run.as_ref().map(|run| run.stage);
            let is_planned = stage.is_some_and(|stage| stage != RunStage::Planning);
            if is_planned || run.history.owner.as_ref() != Some(&self.owner) {
                return Err(other_process(run));
            }
        }
        Ok(())
    }
}

/// The error for a run that another process plans, applies or ends.
fn other_process(run: &StoredRun) -> Error {
    Error::unavailable(format!(
        "another process plans, applies or ends run '{}'",
        run.spec.run_id
    ))
    .with_help("SHOW RUNS shows how far it has come")
}

/// What a chunk covers that reads these ranges.
fn extent_of(run: &StoredRun, ranges: &BatchRanges) -> Result<ChunkExtent> {
    let sources = ranges.planned.iter().map(|(table, ranges)| {
        let partitions = ranges.iter().map(|range| {
            let progress = SourceProgress {
                start: range.start,
                end: range.end,
            };
            (range.partition, progress)
        });
        (table.clone(), partitions.collect())
    });
    let version = BatchVersion {
        sources: sources.collect(),
        ..BatchVersion::default()
    };
    chunk_extent(&run.spec.emission, &version)
        .ok_or_else(|| Error::internal("the sources of a run choose chunks of their own"))
}
