//! The look before a batch: what the sources have, which partitions are idle, what the batch would read, and whether it is due.

use tokio::time::Instant;

use crate::core::jobs::Partitions;
use crate::error::Result;
use crate::runtime::batch::{BatchChoice, BatchRanges};
use crate::runtime::identities::Identities;
use crate::runtime::options::Trigger;
use crate::runtime::phases::BatchPhases;
use crate::runtime::runner::{JobRunner, Owned};
use crate::runtime::source::{SourcePlans, SourcePoll};
use crate::runtime::source_ends::{self, SourceEnds};

/// What the next batch would do.
pub(super) struct Outlook {
    pub(super) plans: SourcePlans,
    pub(super) ends: SourceEnds,
    pub(super) identities: Identities,
    /// The partitions that count for event time.
    pub(super) known: Partitions,
    /// Those that hold the watermark back no longer.
    pub(super) idle: Partitions,
    pub(super) ranges: BatchRanges,
    /// How many records the batch may have of the table that has most.
    pub(super) rows: u64,
    /// Whether it has something to read, to move, or to store.
    pub(super) is_due: bool,
    /// Whether the runner does not know yet which partitions are idle, and that matters.
    pub(super) is_unsure: bool,
    /// Whether a run that ends when it has caught up has nothing more to do.
    pub(super) is_caught_up: bool,
}

impl JobRunner<'_> {
    /// Looks at the sources, and chooses what the next batch reads; the look began at `began`.
    ///
    /// # Errors
    ///
    /// A source does not answer, is another one than before (IDENT-1), or has lost records (LOSS-1).
    pub(super) async fn outlook(
        &mut self,
        owned: &Owned,
        phases: &BatchPhases,
        began: Instant,
    ) -> Result<Outlook> {
        let (history, windows) = (&owned.history, &owned.windows);
        let version = owned.last.as_ref().map(|(_, version)| version);
        let look = self.look(owned);
        let (plans, identities) = phases.look(look).await?;
        let ends = source_ends::of_plans(&plans);
        self.has_checked_records = true;
        self.goal.get_or_insert_with(|| ends.clone());
        let ends_once =
            self.options.until_caught_up || matches!(self.job.options.trigger, Trigger::Once);
        let lag = source_ends::lag(version, &ends);
        self.observer.update_status(|status| status.lag = lag);
        self.observer.metrics.lag(version, &ends);
        for table in identities.new_tables() {
            self.silence.forget_table(table);
        }
        let tables = &self.environment.tables;
        let known = tables.partitions(source_ends::known(&ends), version);
        let idle = self.silence.idle(version, &ends, &self.idle_after, began);
        let waiting = windows.waiting(&idle, self.job.options.max_drift);
        let max_rows = self.pace.rows(self.job.options.rows_of_batch(version));
        let mut ranges = BatchRanges::choose(BatchChoice {
            last: version,
            plans: &plans,
            max_rows,
            waiting: &waiting,
            skipping: &history.skipping,
            identities: &identities,
        })?;
        let backlog = source_ends::left_by(&ranges.planned, &ends);
        self.observer
            .update_status(|status| status.backlog = Some(backlog));
        // A topic that was deleted and created again ends before the job's position: then the job is not caught up.
        let is_behind = windows.is_behind();
        let goal = self.goal.as_ref().unwrap_or(&ends);
        let has_nothing_to_keep = ranges.skipped.is_empty() && !ranges.begins;
        let has_all = has_nothing_to_keep && source_ends::is_caught_up(version, goal);
        // Idle partitions decide which windows close: so the runner waits until it knows and does not guess.
        let perhaps = self.silence.maybe_idle(&idle);
        let is_unsure = perhaps != idle && windows.would_move(&known, &perhaps);
        let moves = windows.would_move(&known, &idle);
        // A run that ends as soon as it is caught up would see a partition that came since the last batch as new each time,
        // unless a batch stores how long it has been silent.
        let is_to_be_told = ends_once && {
            let with_new = self.silence.with_new(version, &perhaps);
            with_new != perhaps && windows.would_move(&known, &with_new)
        };
        let is_at_rest = !is_behind && has_all && !is_unsure && !moves && !is_to_be_told;
        // The scans leave out records that are set aside.
        ranges.aside = self.aside.clone();
        Ok(Outlook {
            is_due: !ranges.is_empty() || moves || is_to_be_told,
            is_caught_up: ends_once && is_at_rest,
            is_unsure,
            // Offsets of files do not count their rows.
            rows: ranges.records().min(max_rows),
            plans,
            ends,
            identities,
            known,
            idle,
            ranges,
        })
    }

    async fn plans(&self, owned: &Owned, identities: &Identities) -> Result<SourcePlans> {
        let (history, began_at) = (&owned.history, owned.began_at.as_ref());
        let last = owned.last.as_ref().map(|(_, version)| version);
        let mut plans = SourcePlans::new();
        for (name, source) in &self.sources {
            let look = SourcePoll {
                table: name,
                last: last.filter(|_| !identities.is_new(name)),
                max_rows: self.pace.rows(self.job.options.rows_of_batch(last)),
                skipping: history.skipping.get(name),
                began_at: began_at.and_then(|tables| tables.get(name)),
                is_replacement: identities.is_new(name),
            };
            plans.insert(name.clone(), source.plan(look).await?);
        }
        Ok(plans)
    }

    /// What the sources have, and their identities.
    async fn look(&self, owned: &Owned) -> Result<(SourcePlans, Identities)> {
        let (history, sink) = (&owned.history, owned.sink_identity.as_ref());
        let last = owned.last.as_ref().map(|(_, version)| version);
        // Before any record is read: a position does not apply to another source (IDENT-1).
        let ask = Identities::ask(&self.sources, sink, last, history);
        let (identities, plans) = if history.accepted.is_empty() {
            let unknown = Identities::default();
            let plans = self.plans(owned, &unknown);
            let (identities, plans) = tokio::join!(ask, plans);
            // If a source is another one, its ends do not relate to the position.
            (identities?, plans?)
        } else {
            let identities = ask.await?;
            let plans = self.plans(owned, &identities).await?;
            (identities, plans)
        };
        identities.check_partitions(last, &plans)?;
        let (skipping, begins) = (&history.skipping, !self.has_checked_records);
        identities
            .check_records(&self.sources, last, &plans, skipping, begins)
            .await?;
        Ok((plans, identities))
    }
}
