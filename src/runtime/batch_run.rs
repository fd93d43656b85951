//! The steps of one batch: read and write, stage the version, commit in the sink, append to the log.

use std::collections::BTreeMap;

use crate::core::jobs::{
    BatchVersion, ClockReading, DeadLetter, JobHistory, JobPhase, LogEntry, Partitions,
};
use crate::error::{Error, Result};
use crate::runtime::batch::BatchRanges;
use crate::runtime::batch_phase::BatchPhase;
use crate::runtime::failpoint;
use crate::runtime::identities::Identities;
use crate::runtime::job::ReadyJob;
use crate::runtime::job_clock::RunningClock;
use crate::runtime::observer::Observer;
use crate::runtime::phases::BatchPhases;
use crate::runtime::sink::{JobSink, PendingRows};
use crate::runtime::source::{JobSources, SourcePlans};
use crate::runtime::takeover::{ATTEMPTS, taken_over};
use crate::runtime::version::{BatchFacts, BatchNumber, DeadLetterFile, TimeFacts};
use crate::runtime::window_state::{Staged, WindowState};
use crate::store::JobStore;
use crate::tables::bad_records::BadRecord;

/// The runner whose batch it is.
pub(super) struct BatchRun<'a> {
    pub(super) store: &'a JobStore,
    pub(super) job: &'a ReadyJob,
    /// The name of the runner in the job's log.
    pub(super) owner: &'a str,
    pub(super) sources: &'a JobSources,
    pub(super) clock: &'a RunningClock<'a>,
    pub(super) observer: &'a Observer<'a>,
}

/// What a batch is to do.
pub(super) struct ChosenBatch<'a> {
    pub(super) phases: &'a BatchPhases,
    pub(super) identities: &'a Identities,
    /// What the sources have.
    pub(super) plans: &'a SourcePlans,
    /// What of that is read.
    pub(super) ranges: &'a BatchRanges,
    /// The partitions that count for event time.
    pub(super) known: &'a Partitions,
    /// Those that hold the watermark back no longer.
    pub(super) idle: &'a Partitions,
    /// The job's clock when the sources were checked.
    pub(super) clock: ClockReading,
    /// How long each partition had been silent by then.
    pub(super) silent: BTreeMap<String, BTreeMap<i32, u64>>,
    /// How many records the batch may have of the table that has most.
    pub(super) rows: u64,
}

/// A batch that is in the sink, and not in the log yet.
pub(super) struct CommittedBatch {
    /// The name of its version.
    pub(super) name: String,
    pub(super) version: BatchVersion,
    pub(super) staged: Staged,
}

impl BatchRun<'_> {
    /// Runs a batch until it is in the sink. The version `last` is the one that it builds on.
    ///
    /// # Errors
    ///
    /// The batch failed, and its rows are aborted; or the sink did not answer, and only its witness tells whether it has them.
    pub(super) async fn until_committed(
        &self,
        history: &JobHistory,
        sink: &mut dyn JobSink,
        windows: &WindowState,
        last: Option<&(String, BatchVersion)>,
        chosen: &ChosenBatch<'_>,
    ) -> Result<CommittedBatch> {
        let machine = &self.job.environment.clock;
        let (began, started_at) = (machine.instant(), machine.now());
        let number = BatchNumber {
            batch: history.next_batch(),
            generation: history.generation,
            sequence: history.next,
        };
        let name = JobStore::version_name(number.sequence);
        let mut guard = AbortGuard {
            sink,
            pending: None,
            armed: true,
        };
        let phases = chosen.phases;
        let outcome: Result<_> = async {
            let run = async {
                let prepared = windows.prepare(
                    self.job,
                    chosen.plans,
                    chosen.ranges,
                    chosen.known,
                    chosen.idle,
                    |read| {
                        self.clock.observe_records(read);
                        self.clock.time().at
                    },
                );
                let mut prepared = prepared.await?;
                let output = match prepared.output(self.job).await {
                    Ok(output) => output,
                    Err(error) => {
                        return Err(prepared.of_group(self.job, &*guard.sink, error).await);
                    }
                };
                guard.sink.expects(&chosen.ranges.planned);
                let written = guard.sink.write(output.withdrawn.as_ref(), &output.plan);
                guard.pending = Some(match written.await {
                    Ok(pending) => pending,
                    Err(error) => {
                        return Err(prepared.of_group(self.job, &*guard.sink, error).await);
                    }
                });
                let input = prepared.finish(&output).await?;
                Ok((prepared, input))
            };
            let (prepared, mut input) = phases.time(BatchPhase::Run, run).await?;
            failpoint::reach("written");
            self.clock.observe_records(&input.last_records);
            let bad_records = std::mem::take(&mut input.bad_records);
            let letters: Vec<DeadLetter> = bad_records.into_iter().map(dead_letter).collect();
            let written = guard.pending.as_ref().map(|pending| pending.written());
            let took = machine.since(began).as_millis();
            let time = TimeFacts {
                clock: chosen.clock.clone(),
                silent: chosen.silent.clone(),
                started_at,
                took: u64::try_from(took).unwrap_or(u64::MAX),
            };
            let stage = async {
                let mut dead_letters = DeadLetterFile {
                    count: letters.len() as u64,
                    crc32: None,
                };
                if !letters.is_empty() {
                    let put = self.store.put_dead_letters(self.job.id, &name, &letters);
                    dead_letters.crc32 = Some(put.await?);
                }
                let (state, staged) = windows.stage(self.store, self.job, prepared, &name).await?;
                let facts = BatchFacts {
                    last: last.map(|(name, version)| (name.as_str(), version)),
                    number,
                    ranges: chosen.ranges.clone(),
                    input,
                    dead_letters,
                    written: written.unwrap_or_default(),
                    state,
                    time,
                };
                let version = facts.version();
                self.store.stage(self.job.id, &name, &version).await?;
                Ok((version, staged))
            };
            // The records may come from a source that replaced the checked one meanwhile.
            let check = chosen.identities.check_again(self.sources, &*guard.sink);
            let stage = async { tokio::try_join!(stage, check) };
            let ((version, staged), ()) = phases.time(BatchPhase::Stage, stage).await?;
            failpoint::reach("staged");
            if let Some(pending) = guard.pending.take() {
                // Only the sink knows whether it has the batch.
                let away =
                    "the sink has not confirmed the batch yet; its broker or store may be down";
                let commit = guard.sink.commit(pending, &name, &version);
                let commit = self.observer.answered(away, commit);
                phases.time(BatchPhase::Commit, commit).await?;
            }
            failpoint::reach("committed");
            Ok((version, staged))
        }
        .await;
        guard.armed = false;
        match outcome {
            Ok((version, staged)) => Ok(CommittedBatch {
                name,
                version,
                staged,
            }),
            Err(error) => {
                let pending = guard.pending.take();
                guard.sink.abort(pending).await;
                Err(error)
            }
        }
    }

    /// Appends the commit of a batch that is in the sink, also when statements about the job write entries at the same time.
    ///
    /// # Errors
    ///
    /// Another runner has taken the job over; the store does not answer.
    pub(super) async fn append_committed(
        &self,
        history: &mut JobHistory,
        committed: &CommittedBatch,
    ) -> Result<()> {
        let parent = history.last().cloned();
        for _ in 0..ATTEMPTS {
            let entry = LogEntry::Committed {
                batch: committed.version.batch,
                version: committed.name.clone(),
                at: self.clock.time().at,
            };
            if self.store.append_next(self.job.id, history, &entry).await? {
                return Ok(());
            }
            *history = self.store.history(self.job.id).await?;
            let is_mine =
                history.owner.as_deref() == Some(self.owner) && history.phase != JobPhase::Dropped;
            if !is_mine || history.last() != parent.as_ref() {
                return Err(taken_over());
            }
        }
        Err(Error::unavailable(
            "other processes keep writing to the job's log",
        ))
    }
}

/// Aborts the rows of a batch that is dropped half-way.
struct AbortGuard<'s> {
    sink: &'s mut dyn JobSink,
    pending: Option<Box<dyn PendingRows>>,
    armed: bool,
}

impl Drop for AbortGuard<'_> {
    fn drop(&mut self) {
        // The runner was stopped: the batch's future was dropped, so the abort runs in the background.
        if self.armed && tokio::runtime::Handle::try_current().is_ok() {
            self.sink.abandon(self.pending.take());
        }
    }
}

fn dead_letter((table, record): (String, BadRecord)) -> DeadLetter {
    DeadLetter {
        table,
        topic: record.topic,
        partition: record.partition,
        offset: record.offset,
        timestamp: record.timestamp,
        key: record.key,
        value: record.value,
        reason: record.reason,
    }
}
