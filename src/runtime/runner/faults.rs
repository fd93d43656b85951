//! How a run goes on after a fault: of its job, of a batch, of the sink, or of the memory.

use crate::core::jobs::{JobPhase, LogEntry, ShortageRemedy, remedy};
use crate::error::{Error, ErrorKind, Result};
use crate::runtime::batch_run::ChosenBatch;
use crate::runtime::halving_search::may_be_caused_by_record;
use crate::runtime::owner::STATEMENT;
use crate::runtime::record_search::{FailedBatch, SearchOutcome};
use crate::runtime::runner::{EndReason, JobRunner, Owned};
use crate::runtime::takeover::{append_to, job_dropped};

impl JobRunner<'_> {
    /// Decides how the run goes on after an error. Returns an error again if that cannot be decided yet or the error may pass.
    pub(super) async fn failed(&mut self, error: Error) -> Result<EndReason> {
        let error = self.job.told(error);
        if error.may_pass() {
            return Err(error);
        }
        let history = self.store.history(self.job.id).await?;
        let owner = history.owner.clone().unwrap_or_default();
        let is_mine = owner == self.owner;
        if !is_mine && (self.has_owned || error.kind() == ErrorKind::Cancelled) {
            // A statement owns the job only for a moment.
            return Ok(match owner.starts_with(STATEMENT) {
                true => self.leave_to_statement().await,
                false => EndReason::TakenOver(owner),
            });
        }
        // DROP JOB deletes the job's files one after the other: so a read error of one of them only follows from the drop.
        if history.phase == JobPhase::Dropped {
            // DROP JOB has deleted the job's files; this runner deletes those that it has written since.
            if let Err(error) = self.store.clear(self.job.id, history).await {
                tracing::warn!(job = self.job.name, %error, "some of its files are left");
            }
            return Ok(EndReason::Failed(job_dropped(&self.job.name)));
        }
        // Only the owner of a job writes its faults to the log.
        if !is_mine {
            return Ok(EndReason::Failed(error));
        }
        if error.kind() == ErrorKind::Cancelled {
            return self.timed_out();
        }
        let reason = LogEntry::Paused {
            reason: Some(error.with_its_help()),
            reported: error.report().cloned(),
            at: self.machine.now(),
        };
        append_to(self.store, self.job.id, history, &reason).await?;
        Ok(EndReason::Failed(error))
    }

    /// The sink has fenced this runner off although no other process owns the job: the transaction was open for too long.
    fn timed_out(&mut self) -> Result<EndReason> {
        let Some(rows) = self.in_hand.take() else {
            return Ok(EndReason::Retry);
        };
        if !self.pace.timed_out(rows) {
            return Err(Error::unavailable(
                "the transaction of a single record has timed out",
            ));
        }
        let rows = self.pace.rows(rows);
        tracing::warn!(
            job = self.job.name,
            rows,
            "a transaction has timed out: fewer records"
        );
        Ok(EndReason::Retry)
    }

    /// Chooses how to go on after a batch of so many records did not fit into memory, or made values that are too large
    /// together.
    ///
    /// # Errors
    ///
    /// Others hold the memory, which may pass; or only a change by the user helps.
    fn too_large(&mut self, error: &Error, rows: u64) -> Result<EndReason> {
        let shortage = self.job.query.take_shortage();
        let has_fewer = self.pace.too_large(rows);
        let job = &self.job.name;
        match remedy(shortage.filter(|_| error.is_exhausted_pool()), has_fewer) {
            ShortageRemedy::Wait => Err(Error::unavailable(format!(
                "other work holds memory that a batch needs: {}",
                error.message()
            ))
            .about_cause(error)),
            ShortageRemedy::FewerRecords => {
                self.pace.does_not_fit(rows);
                tracing::warn!(job, %error, "a batch is too large: a smaller one is tried");
                Ok(EndReason::Retry)
            }
            ShortageRemedy::Fail => Err(Error::new(
                error.kind(),
                format!("a batch of the smallest size is too large: {}", error.message()),
            )
            .about_cause(error)
            .with_help(
                "give jobs more memory (--memory-limit, and --job-memory of a server), or change the job with CREATE OR REPLACE \
                 JOB, so that a record produces fewer rows, or is joined with fewer; then RESUME JOB",
            )),
        }
    }

    /// Chooses how to go on after a batch has failed: without the records that make it fail, or with fewer.
    ///
    /// # Errors
    ///
    /// The batch's own error, with the failing record if there is one.
    pub(super) async fn batch_failed(
        &mut self,
        error: Error,
        owned: &Owned,
        chosen: &ChosenBatch<'_>,
    ) -> Result<EndReason> {
        let blame = match may_be_caused_by_record(&error) {
            true => {
                let looks = "a batch fails; looking for a record that makes it fail";
                self.observer
                    .update_status(|status| status.waiting = Some(looks.to_owned()));
                let suspects = FailedBatch {
                    job: self.job,
                    sources: &self.sources,
                    plans: chosen.plans,
                    windows: &owned.windows,
                    sink: &*owned.sink,
                };
                suspects.blame(error, chosen.ranges).await
            }
            false => Err(error),
        };
        match blame {
            Ok(SearchOutcome::SetAside(aside)) => {
                self.aside = aside;
                Ok(EndReason::Retry)
            }
            Ok(SearchOutcome::Together(error)) => self.too_large(&error, chosen.rows),
            Err(error) if error.is_exhausted_pool() => self.too_large(&error, chosen.rows),
            Err(error) => Err(error),
        }
    }
}
