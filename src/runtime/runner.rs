//! Runner of a job: takes it over, recovers it, then runs one batch after the other until it is stopped.

use std::collections::BTreeMap;
use std::time::Duration;

use tokio::time::Instant;
use tracing::Instrument as _;

use crate::core::jobs::{BatchVersion, Entry, Identity, JobHistory, Phase, Remedy, remedy};
use crate::error::{Error, ErrorKind, Result, Subject};
use crate::runtime::aside::{Aside, forget};
use crate::runtime::batch::{Choice, Ranges};
use crate::runtime::batch_phase::BatchPhase;
use crate::runtime::batch_run::{BatchRun, ChosenBatch};
use crate::runtime::blame::{Blame, Suspects};
use crate::runtime::clock::Clock;
use crate::runtime::ends::{self, Ends};
use crate::runtime::environment::Environment;
use crate::runtime::failpoint;
use crate::runtime::identities::Identities;
use crate::runtime::job::ReadyJob;
use crate::runtime::job_clock::RunningClock;
use crate::runtime::job_status::{Report, RunOptions};
use crate::runtime::metrics::{JobMetrics, JobState};
use crate::runtime::observer::Observer;
use crate::runtime::options::Trigger;
use crate::runtime::owner::{STATEMENT, owner};
use crate::runtime::pace::Pace;
use crate::runtime::phases::BatchPhases;
use crate::runtime::retention::Sweeper;
use crate::runtime::search::may_blame;
use crate::runtime::silence::Silence;
use crate::runtime::sink::JobSink;
use crate::runtime::source::{JobSources, Look, SourcePlans};
use crate::runtime::takeover::{append_to, dropped, take_over};
use crate::runtime::windows::Windows;
use crate::store::JobStore;

/// The first pause after a fault that may pass; doubled each time, up to the last.
const FIRST_BACKOFF: Duration = Duration::from_millis(200);
const LAST_BACKOFF: Duration = Duration::from_secs(30);
/// After so long without a record a batch is committed without any: brokers forget groups and transactional ids, by default
/// after a week.
const REMEMBERED: Duration = Duration::from_secs(24 * 60 * 60);

/// How often the runner checks whether a partition that was silent on another machine is idle here.
const UNSURE: Duration = Duration::from_millis(200);
/// A statement that takes the job over gets so much time before the job's runner takes it back.
const STATEMENT_TAKES: Duration = Duration::from_secs(1);

/// Why a run of a job ended without an error.
enum Ended {
    Stopped,
    CaughtUp,
    Paused(Option<String>),
    /// A statement of another process took the job over for a moment, or the batch is retried with fewer records.
    Again,
    /// Another runner has the job.
    TakenOver(String),
    /// The job has failed for good; its log has the reason.
    Failed(Error),
}

/// The runner of one job.
pub(super) struct JobRunner<'a> {
    store: &'a JobStore,
    job: &'a ReadyJob,
    options: &'a RunOptions,
    owner: String,
    environment: &'a Environment,
    machine: &'a dyn Clock,
    /// Empty until the job is taken over, and after a fault.
    sources: JobSources,
    /// The sources were checked for the records that were read last.
    has_checked_records: bool,
    /// Where the topics ended when the run began.
    goal: Option<Ends>,
    silence: Silence,
    /// By which keys are forgotten and batches trimmed.
    clock: RunningClock<'a>,
    /// By table.
    idle_after: BTreeMap<String, Duration>,
    /// Whether this runner has owned the job before.
    has_owned: bool,
    pace: Pace,
    /// Records of the batch that is being run.
    in_hand: Option<u64>,
    /// Records that the scans set aside as dead letters, by table.
    aside: Aside,
    report: Report,
    observer: Observer<'a>,
}

impl<'a> JobRunner<'a> {
    pub(super) fn try_new(
        store: &'a JobStore,
        job: &'a ReadyJob,
        options: &'a RunOptions,
    ) -> Result<Self> {
        let machine = &*job.environment.clock;
        Ok(Self {
            store,
            job,
            options,
            owner: owner(),
            environment: &job.environment,
            machine,
            sources: BTreeMap::new(),
            has_checked_records: false,
            goal: None,
            silence: Silence::default(),
            clock: RunningClock::new(&job.name, machine),
            idle_after: job
                .query
                .sources()
                .iter()
                .filter_map(|(name, table)| Some((name.clone(), table.event_time()?.idle_after)))
                .collect(),
            has_owned: false,
            pace: Pace::default(),
            in_hand: None,
            aside: Aside::new(),
            report: Report::default(),
            observer: Observer {
                job: &job.name,
                clock: machine,
                statuses: &options.statuses,
                metrics: JobMetrics::try_new(options.metrics.as_ref(), &job.name)?,
            },
        })
    }

    /// The name of this runner in the job's log.
    pub(super) fn owner(&self) -> &str {
        &self.owner
    }

    /// Runs until the job is stopped, paused, caught up (if that is the goal), or fails for good.
    ///
    /// The runner waits and retries after faults that may pass, such as a broker or store that does not answer for a while. Any
    /// other fault is written to the log: the job is paused with its reason.
    pub(super) async fn run(mut self) -> Result<Report> {
        let mut backoff = FIRST_BACKOFF;
        loop {
            let batches = self.report.batches;
            let stop = self.options.stop.clone();
            let ended = tokio::select! {
                ended = self.own() => ended,
                () = stop.wait() => Ok(Ended::Stopped),
            };
            if self.report.batches > batches {
                backoff = FIRST_BACKOFF;
            }
            let ended = match ended {
                Err(error) => self.failed(error).await,
                ended => ended,
            };
            match ended {
                Ok(Ended::Stopped | Ended::CaughtUp) => {
                    self.observer.metrics.state(None);
                    return Ok(self.report);
                }
                Ok(Ended::Paused(reason)) => {
                    self.observer.metrics.state(Some(match &reason {
                        Some(_) => JobState::Failed,
                        None => JobState::Paused,
                    }));
                    let why = reason.map_or(String::new(), |reason| format!(": {reason}"));
                    return Err(
                        Error::invalid(format!("job {} is paused{why}", self.job.name))
                            .about(Subject::job(&self.job.name))
                            .with_help(format!("RESUME JOB {} lets it go on", self.job.name)),
                    );
                }
                Ok(Ended::Again) => {}
                Ok(Ended::TakenOver(owner)) => {
                    self.observer.metrics.state(None);
                    return Err(Error::unavailable(format!(
                        "job {} was taken over by {owner}",
                        self.job.name
                    ))
                    .about(Subject::job(&self.job.name)));
                }
                Ok(Ended::Failed(error)) => {
                    self.observer.metrics.failed();
                    return Err(error);
                }
                Err(error) if error.may_pass() => {
                    self.silence.interrupt(self.machine.instant());
                    self.observer
                        .tell(|status| status.waiting = Some(error.with_its_help()));
                    self.observer.metrics.retry();
                    tracing::warn!(job = self.job.name, %error, "waiting {} ms", backoff.as_millis());
                    let pause = backoff + self.machine.jitter(backoff);
                    tokio::select! {
                        () = self.machine.sleep(pause) => {}
                        () = self.options.stop.wait() => return Ok(self.report),
                    }
                    backoff = (backoff * 2).min(LAST_BACKOFF);
                    // The fault may have left the clients in a bad state: new ones are as good as a new process.
                    self.sources.clear();
                    self.has_checked_records = false;
                }
                Err(error) => {
                    self.observer.metrics.failed();
                    return Err(error);
                }
            }
        }
    }

    /// Decides how the run goes on after an error. Returns an error again if that cannot be decided yet or the error may pass.
    async fn failed(&mut self, error: Error) -> Result<Ended> {
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
                false => Ended::TakenOver(owner),
            });
        }
        // DROP JOB deletes the job's files one after the other: so a read error of one of them only follows from the drop.
        if history.phase == Phase::Dropped {
            // DROP JOB has deleted the job's files; this runner deletes those that it has written since.
            if let Err(error) = self.store.clear(self.job.id, history).await {
                tracing::warn!(job = self.job.name, %error, "some of its files are left");
            }
            return Ok(Ended::Failed(dropped(&self.job.name)));
        }
        // Only the owner of a job writes its faults to the log.
        if !is_mine {
            return Ok(Ended::Failed(error));
        }
        if error.kind() == ErrorKind::Cancelled {
            return self.timed_out();
        }
        let reason = Entry::Paused {
            reason: Some(error.with_its_help()),
            reported: error.report().cloned(),
            at: self.machine.now(),
        };
        append_to(self.store, self.job.id, history, &reason).await?;
        Ok(Ended::Failed(error))
    }

    /// The sink has fenced this runner off although no other process owns the job: the transaction was open for too long.
    fn timed_out(&mut self) -> Result<Ended> {
        let Some(rows) = self.in_hand.take() else {
            return Ok(Ended::Again);
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
        Ok(Ended::Again)
    }

    /// Chooses how to go on after a batch of so many records did not fit into memory, or made values that are too large
    /// together.
    ///
    /// # Errors
    ///
    /// Others hold the memory, which may pass; or only a change by the user helps.
    fn too_large(&mut self, error: &Error, rows: u64) -> Result<Ended> {
        let shortage = self.job.query.take_shortage();
        let has_fewer = self.pace.too_large(rows);
        let job = &self.job.name;
        match remedy(shortage.filter(|_| error.is_of_pool()), has_fewer) {
            Remedy::Wait => Err(Error::unavailable(format!(
                "others hold memory that a batch needs: {}",
                error.message()
            ))
            .about_cause(error)),
            Remedy::Fewer => {
                self.pace.does_not_fit(rows);
                tracing::warn!(job, %error, "a batch is too large: a smaller one is tried");
                Ok(Ended::Again)
            }
            Remedy::Fail => Err(Error::new(
                error.kind(),
                format!("a batch that can be no smaller is too large: {}", error.message()),
            )
            .about_cause(error)
            .with_help(
                "give jobs more memory (--memory-limit, and --job-memory of a server), or change the job with CREATE OR REPLACE \
                 JOB, so that a record makes less, or is joined with less; then RESUME JOB",
            )),
        }
    }

    /// Takes the job over and runs its batches.
    async fn own(&mut self) -> Result<Ended> {
        if let Some(ended) = self.may_not().await? {
            return Ok(ended);
        }
        let taken = take_over(self.store, self.job, &self.owner, None);
        let away = "the sink has not answered yet; its broker or store may be away";
        let taken = self.observer.answered(away, taken).await?;
        let (mut history, mut sink, sink_identity) = (taken.history, taken.sink, taken.identity);
        let mut last = taken.last;
        self.has_owned = true;
        match &history.phase {
            Phase::Active => {}
            Phase::Paused(reason) => return Ok(Ended::Paused(reason.clone())),
            // A dropped job is not taken over.
            Phase::Dropped => return Ok(Ended::Again),
        }
        // A statement changed the job while this runner took its sink over.
        if !self.job.is_of(&history) {
            return Ok(Ended::Again);
        }
        if last
            .as_ref()
            .is_some_and(|(_, last)| last.identities.is_empty())
        {
            tracing::warn!(
                job = self.job.name,
                "the last batch is of an earlier release: whether the sources and the sink are still those it read and wrote cannot \
                 be told"
            );
        }
        // Opened here, because a source that cannot be read is a failure of the job that goes into its log.
        if self.sources.is_empty() {
            let starts_at_end = self.job.options.starts_at_end;
            let tables = &self.environment.tables;
            self.sources = tables.sources(&self.job.query, starts_at_end)?;
        }
        let version = last.as_ref().map(|(_, version)| version);
        let mut windows = Windows::load(self.store, self.job, version).await?;
        let silent_by = self.environment.tables.silent_by(version);
        self.silence.go_on(silent_by, &self.machine.steady());
        self.clock
            .begin(version, history.last().map(|last| last.at));
        let mut remembered = self.machine.instant();
        self.observer.tell(|status| status.waiting = None);
        self.observer.metrics.state(Some(JobState::Running));
        self.observer.metrics.windows(&windows);
        let retention = self.job.options.retention;
        let mut sweeper = Sweeper::new(self.store, self.job.id, &self.job.name, retention);
        loop {
            sweeper.go_on(&mut history, self.clock.time().at).await?;
            let (began, now) = (self.machine.instant(), self.clock.time());
            let phases = BatchPhases::begin(&self.job.name, &history, &self.observer.metrics);
            let version = last.as_ref().map(|(_, version)| version);
            let look = self.look(version, sink_identity.as_ref(), &history);
            let (plans, identities) = phases.look(look).await?;
            let ends = ends::of_plans(&plans);
            self.has_checked_records = true;
            self.goal.get_or_insert_with(|| ends.clone());
            let ends_once =
                self.options.until_caught_up || matches!(self.job.options.trigger, Trigger::Once);
            let lag = ends::lag(version, &ends);
            self.observer.tell(|status| status.lag = lag);
            self.observer.metrics.lag(version, &ends);
            for table in identities.new_tables() {
                self.silence.begin_anew(table);
            }
            let known = ends::known(&ends);
            let known = self.environment.tables.partitions(known, version);
            let idle = self.silence.idle(version, &ends, &self.idle_after, began);
            let waiting = windows.waiting(&idle, self.job.options.max_drift);
            let max_rows = self.pace.rows(self.job.options.rows_of_batch(version));
            let mut ranges = Ranges::choose(Choice {
                last: version,
                plans: &plans,
                max_rows,
                waiting: &waiting,
                skipping: &history.skipping,
                identities: &identities,
            })?;
            // A topic that was deleted and created again ends before the job's position: then the job is not caught up.
            let is_behind = windows.is_behind();
            let goal = self.goal.as_ref().unwrap_or(&ends);
            let has_nothing_to_keep = ranges.skipped.is_empty() && !ranges.begins;
            let has_all = has_nothing_to_keep && ends::is_caught_up(version, goal);
            // Idle partitions decide which windows close: so the runner waits until it knows and does not guess.
            let perhaps = self.silence.perhaps_idle(&idle);
            let is_unsure = perhaps != idle && windows.would_move(&known, &perhaps);
            let moves = windows.would_move(&known, &idle);
            // A run that ends as soon as it is caught up would see a partition that came since the last batch as new each time,
            // unless a batch stores how long it has been silent.
            let is_to_be_told = ends_once && {
                let with_new = self.silence.with_new(version, &perhaps);
                with_new != perhaps && windows.would_move(&known, &with_new)
            };
            if ends_once && !is_behind && has_all && !is_unsure && !moves && !is_to_be_told {
                sweeper.finish(&mut history, now.at).await?;
                return Ok(Ended::CaughtUp);
            }
            let is_forgotten_soon = sink.forgets() && self.machine.since(remembered) >= REMEMBERED;
            if ranges.is_empty() && !moves && !is_forgotten_soon && !is_to_be_told {
                // There are no records, but perhaps a statement about the job.
                if !self.store.is_free(self.job.id, history.next).await? {
                    return self.give_way().await;
                }
                self.rest(began).await;
                if is_unsure {
                    self.machine.sleep(UNSURE).await;
                }
                continue;
            }
            phases.chosen();
            for table in identities.new_tables() {
                windows.begin_anew(table);
            }
            ranges.aside = self.aside.clone();
            let chosen = ChosenBatch {
                phases: &phases,
                identities: &identities,
                plans: &plans,
                ranges: &ranges,
                known: &known,
                idle: &idle,
                silent: match windows.keep_state() {
                    true => self.silence.lasts(began),
                    false => BTreeMap::new(),
                },
                clock: now,
                // Offsets of files do not count their rows.
                rows: ranges.records().min(max_rows),
            };
            // Forgets a shortage of an earlier batch.
            self.job.query.take_shortage();
            let outcome = self
                .batch(
                    &mut history,
                    &mut *sink,
                    &mut windows,
                    last.as_ref(),
                    &chosen,
                )
                .instrument(phases.span())
                .await;
            let committed = match outcome {
                Ok(committed) => committed,
                Err(error) => {
                    let rows = chosen.rows;
                    let blame = match may_blame(&error) {
                        true => {
                            let looks = "a batch fails; looking for a record that makes it fail";
                            self.observer
                                .tell(|status| status.waiting = Some(looks.to_owned()));
                            let suspects = Suspects {
                                job: self.job,
                                sources: &self.sources,
                                plans: &plans,
                                windows: &windows,
                                sink: &*sink,
                            };
                            suspects.blame(error, &ranges).await
                        }
                        false => Err(error),
                    };
                    return match blame {
                        Ok(Blame::Aside(aside)) => {
                            self.aside = aside;
                            Ok(Ended::Again)
                        }
                        Ok(Blame::Together(error)) => self.too_large(&error, rows),
                        Err(error) if error.is_of_pool() => self.too_large(&error, rows),
                        Err(error) => Err(error),
                    };
                }
            };
            forget(&mut self.aside, &committed.1);
            self.observer.metrics.lag(Some(&committed.1), &ends);
            self.observer.metrics.windows(&windows);
            remembered = self.machine.instant();
            let (watermark, state_rows) = (windows.watermark(), windows.rows());
            self.observer.tell(|status| {
                status.watermark = watermark;
                status.state_rows = state_rows as u64;
            });
            if history.phase != Phase::Active
                || history.owner.as_deref() != Some(&self.owner)
                || !self.job.is_of(&history)
            {
                return Ok(Ended::Again);
            }
            last = Some(committed);
            self.rest(began).await;
        }
    }

    /// Reason why this process does not take the job over: another runner has taken it over since, or a statement has changed
    /// the job.
    async fn may_not(&self) -> Result<Option<Ended>> {
        let history = self.store.history(self.job.id).await?;
        if history.phase == Phase::Dropped {
            return Ok(None);
        }
        if !self.job.is_of(&history) {
            let name = &self.job.name;
            let changed = Error::invalid(format!(
                "job {name} has another statement now: another process has changed it"
            ))
            .about(Subject::job(name))
            .with_help("run the job's new file, or start this process again");
            return Ok(Some(Ended::Failed(changed)));
        }
        Ok(match history.owner {
            Some(owner)
                if self.has_owned && owner != self.owner && !owner.starts_with(STATEMENT) =>
            {
                Some(Ended::TakenOver(owner))
            }
            _ => None,
        })
    }

    /// Gives way to an entry of another process: a runner keeps the job from now on, a statement only until it is done.
    async fn give_way(&self) -> Result<Ended> {
        let owner = self.store.history(self.job.id).await?.owner;
        match owner {
            Some(owner) if owner.starts_with(STATEMENT) => Ok(self.leave_to_statement().await),
            Some(owner) if owner != self.owner => Ok(Ended::TakenOver(owner)),
            _ => Ok(Ended::Again),
        }
    }

    /// Waits while a statement of another process owns the job.
    async fn leave_to_statement(&self) -> Ended {
        self.machine.sleep(STATEMENT_TAKES).await;
        Ended::Again
    }

    /// Waits until the sources are checked again.
    async fn rest(&self, began: Instant) {
        /// The pause of a job that runs as fast as possible.
        const SOON: Duration = Duration::from_millis(5);
        let pause = match self.job.options.trigger {
            Trigger::Every(interval) if !self.options.until_caught_up => interval,
            _ => SOON,
        };
        let pause = pause.saturating_sub(self.machine.since(began));
        self.machine.sleep(pause).await;
    }

    async fn plans(
        &self,
        last: Option<&BatchVersion>,
        history: &JobHistory,
        identities: &Identities,
    ) -> Result<SourcePlans> {
        let mut plans = SourcePlans::new();
        for (name, source) in &self.sources {
            let look = Look {
                table: name,
                last: last.filter(|_| !identities.is_new(name)),
                max_rows: self.pace.rows(self.job.options.rows_of_batch(last)),
                skipping: history.skipping.get(name),
            };
            plans.insert(name.clone(), source.plan(look).await?);
        }
        Ok(plans)
    }

    /// What the sources have, and their identities.
    async fn look(
        &self,
        last: Option<&BatchVersion>,
        sink: Option<&Identity>,
        history: &JobHistory,
    ) -> Result<(SourcePlans, Identities)> {
        // Before any record is read: a position does not apply to another source (IDENT-1).
        let ask = Identities::ask(&self.sources, sink, last, history);
        let (identities, plans) = if history.accepted.is_empty() {
            let unknown = Identities::default();
            let plans = self.plans(last, history, &unknown);
            let (identities, plans) = tokio::join!(ask, plans);
            // If a source is another one, its ends do not relate to the position.
            (identities?, plans?)
        } else {
            let identities = ask.await?;
            let plans = self.plans(last, history, &identities).await?;
            (identities, plans)
        };
        identities.check_partitions(last, &plans)?;
        let (skipping, begins) = (&history.skipping, !self.has_checked_records);
        identities
            .check_records(&self.sources, last, &plans, skipping, begins)
            .await?;
        Ok((plans, identities))
    }

    /// Runs a batch until it is in the log.
    async fn batch(
        &mut self,
        history: &mut JobHistory,
        sink: &mut dyn JobSink,
        windows: &mut Windows,
        last: Option<&(String, BatchVersion)>,
        chosen: &ChosenBatch<'_>,
    ) -> Result<(String, BatchVersion)> {
        let began = self.machine.instant();
        self.in_hand = Some(chosen.rows);
        let run = self.batch_run();
        let outcome = run.until_committed(history, sink, windows, last, chosen);
        let outcome = outcome.await;
        let timeout = sink.timeout();
        if timeout.is_none()
            || !matches!(&outcome, Err(error) if error.kind() == ErrorKind::Cancelled)
        {
            self.in_hand = None;
        }
        let committed = outcome?;
        let took = self.machine.since(began);
        self.pace.committed(chosen.rows, took, timeout);
        let run = self.batch_run();
        let log = run.append_committed(history, &committed);
        chosen.phases.time(BatchPhase::Log, log).await?;
        failpoint::reach("logged");
        windows.apply(committed.staged)?;
        let (name, version) = (committed.name, committed.version);
        self.report.batches += 1;
        self.report.rows_in += version.rows_in;
        self.report.rows_out += version.rows_out;
        let (report, took) = (self.report, self.machine.since(began));
        let elapsed = chosen.phases.elapsed();
        let metrics = &self.observer.metrics;
        metrics.committed(&version, elapsed, self.machine.now());
        self.observer.tell(|status| {
            status.report = report;
            status.last_batch = took;
            status.lag = status.lag.saturating_sub(version.rows_in);
        });
        tracing::info!(
            job = self.job.name,
            batch = version.batch,
            generation = version.generation,
            rows_in = version.rows_in,
            rows_out = version.rows_out,
            dead = version.dead_letters,
            late = version.late_rows,
            state_rows = windows.rows(),
            milliseconds = u64::try_from(took.as_millis()).unwrap_or(u64::MAX),
            "batch committed"
        );
        Ok((name, version))
    }

    fn batch_run(&self) -> BatchRun<'_> {
        BatchRun {
            store: self.store,
            job: self.job,
            owner: &self.owner,
            sources: &self.sources,
            clock: &self.clock,
            observer: &self.observer,
        }
    }
}
