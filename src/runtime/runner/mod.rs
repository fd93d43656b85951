//! Runner of a job: takes it over, recovers it, then runs one batch after the other until it is stopped.

mod faults;
mod outlook;

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::time::Duration;

use tokio::time::Instant;
use tracing::Instrument as _;

use crate::core::jobs::{BatchVersion, Identity, JobHistory, JobPhase, Offsets};
use crate::error::{Error, ErrorKind, Result};
use crate::runtime::adaptive_batch_size::AdaptiveBatchSize;
use crate::runtime::batch_phase::BatchPhase;
use crate::runtime::batch_run::{BatchRun, ChosenBatch};
use crate::runtime::clock::Clock;
use crate::runtime::environment::{Environment, GIVES_WAY};
use crate::runtime::failpoint;
use crate::runtime::idle_tracker::IdleTracker;
use crate::runtime::job::ReadyJob;
use crate::runtime::job_clock::RunningClock;
use crate::runtime::job_status::{RunOptions, RunReport};
use crate::runtime::metrics::{JobMetrics, JobState};
use crate::runtime::observer::Observer;
use crate::runtime::options::Trigger;
use crate::runtime::owner::{STATEMENT, owner};
use crate::runtime::phases::BatchPhases;
use crate::runtime::retention::{SweepRule, Sweeper};
use crate::runtime::set_aside_records::{SetAsideRecords, forget};
use crate::runtime::sink::JobSink;
use crate::runtime::source::JobSources;
use crate::runtime::source_ends::SourceEnds;
use crate::runtime::takeover::take_over;
use crate::runtime::window_state::WindowState;
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
enum EndReason {
    Stopped,
    CaughtUp,
    /// It is a run, and a statement has ended it.
    Over,
    Paused(Option<String>),
    /// A statement of another process took the job over for a moment, or the batch is retried with fewer records.
    Retry,
    /// Another runner has the job.
    TakenOver(String),
    /// The job has failed for good; its log has the reason.
    Failed(Error),
}

/// A job that this runner owns.
struct Owned {
    history: JobHistory,
    sink: Box<dyn JobSink>,
    /// Which topic or table the sink is.
    sink_identity: Option<Identity>,
    /// The version where the job stands, with its name.
    last: Option<(String, BatchVersion)>,
    /// Of a job that was rewound to its beginning: where it began.
    began_at: Option<Offsets>,
    windows: WindowState,
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
    goal: Option<SourceEnds>,
    silence: IdleTracker,
    /// By which keys are forgotten and batches trimmed.
    clock: RunningClock<'a>,
    /// By table.
    idle_after: BTreeMap<String, Duration>,
    /// Whether this runner has owned the job before.
    has_owned: bool,
    pace: AdaptiveBatchSize,
    /// Records of the batch that is being run.
    in_hand: Option<u64>,
    /// Records that the scans set aside as dead letters, by table.
    aside: SetAsideRecords,
    report: RunReport,
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
            silence: IdleTracker::default(),
            clock: RunningClock::new(&job.name, machine),
            idle_after: job
                .query
                .sources()
                .iter()
                .filter_map(|(name, table)| Some((name.clone(), table.event_time()?.idle_after)))
                .collect(),
            has_owned: false,
            pace: AdaptiveBatchSize::default(),
            in_hand: None,
            aside: SetAsideRecords::new(),
            report: RunReport::default(),
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
    pub(super) async fn run(mut self) -> Result<RunReport> {
        let mut backoff = FIRST_BACKOFF;
        loop {
            let batches = self.report.batches;
            let stop = self.options.stop.clone();
            let ended = tokio::select! {
                ended = self.own() => ended,
                () = stop.wait() => Ok(EndReason::Stopped),
            };
            if self.report.batches > batches {
                backoff = FIRST_BACKOFF;
            }
            let ended = match ended {
                Err(error) => self.failed(error).await,
                ended => ended,
            };
            match ended {
                Ok(EndReason::Stopped | EndReason::CaughtUp | EndReason::Over) => {
                    self.observer.metrics.state(None);
                    return Ok(self.report);
                }
                Ok(EndReason::Paused(reason)) => {
                    self.observer.metrics.state(Some(match &reason {
                        Some(_) => JobState::Failed,
                        None => JobState::Paused,
                    }));
                    let why = reason.map_or(String::new(), |reason| format!(": {reason}"));
                    let said = self.job.said();
                    return Err(Error::invalid(format!("{said} is paused{why}"))
                        .about(self.job.subject())
                        .with_help(self.job.next_step()));
                }
                Ok(EndReason::Retry) => {}
                Ok(EndReason::TakenOver(owner)) => {
                    self.observer.metrics.state(None);
                    let said = self.job.said();
                    return Err(
                        Error::unavailable(format!("{said} was taken over by {owner}"))
                            .about(self.job.subject()),
                    );
                }
                Ok(EndReason::Failed(error)) => {
                    self.observer.metrics.failed();
                    return Err(error);
                }
                Err(error) if error.may_pass() => {
                    self.silence.interrupt(self.machine.instant());
                    self.observer
                        .update_status(|status| status.waiting = Some(error.with_its_help()));
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

    /// Takes the job over and loads its state.
    async fn begin(&mut self) -> Result<ControlFlow<EndReason, Owned>> {
        if let Some(ended) = self.reason_not_to_run().await? {
            return Ok(ControlFlow::Break(ended));
        }
        let taken = take_over(self.store, self.job, &self.owner, None);
        let away = "the sink has not answered yet; its broker or store may be down";
        let taken = self.observer.answered(away, taken).await?;
        self.has_owned = true;
        if taken.history.is_over() {
            return Ok(ControlFlow::Break(EndReason::Over));
        }
        match &taken.history.phase {
            JobPhase::Active => {}
            JobPhase::Paused(reason) => {
                return Ok(ControlFlow::Break(EndReason::Paused(reason.clone())));
            }
            // A dropped job is not taken over.
            JobPhase::Dropped => return Ok(ControlFlow::Break(EndReason::Retry)),
        }
        // A statement changed the job while this runner took its sink over.
        if !self.job.is_of(&taken.history) {
            return Ok(ControlFlow::Break(EndReason::Retry));
        }
        let version = taken.last.as_ref().map(|(_, version)| version);
        if version.is_some_and(|version| version.identities.is_empty()) {
            tracing::warn!(
                job = self.job.name,
                "the last batch is of an earlier release: it is unknown whether the sources and the sink are still those \
                 that it read and wrote"
            );
        }
        // Opened here, because a source that cannot be read is a failure of the job that goes into its log.
        if self.sources.is_empty() {
            let startup = self.job.options.startup.as_ref();
            let tables = &self.environment.tables;
            self.sources = tables.sources(&self.job.query, startup)?;
        }
        let windows = WindowState::load(self.store, self.job, version).await?;
        let silent_by = self.environment.tables.silent_by(version);
        self.silence.go_on(silent_by, &self.machine.steady());
        let committed_at = taken.history.last().map(|last| last.at);
        self.clock.begin(version, committed_at);
        self.observer.update_status(|status| status.waiting = None);
        self.observer.metrics.state(Some(JobState::Running));
        self.observer.metrics.windows(&windows);
        Ok(ControlFlow::Continue(Owned {
            history: taken.history,
            sink: taken.sink,
            sink_identity: taken.identity,
            last: taken.last,
            began_at: taken.began_at,
            windows,
        }))
    }

    /// Takes the job over and runs its batches.
    async fn own(&mut self) -> Result<EndReason> {
        let mut owned = match self.begin().await? {
            ControlFlow::Break(ended) => return Ok(ended),
            ControlFlow::Continue(owned) => owned,
        };
        let mut remembered = self.machine.instant();
        let rule = SweepRule {
            retention: self.job.options.retention,
            reach: self.job.query.reach(),
        };
        let mut sweeper = Sweeper::new(self.store, self.job.id, &self.job.name, rule);
        let mut gives_way = false;
        loop {
            sweeper
                .go_on(&mut owned.history, self.clock.time().at)
                .await?;
            let (began, now) = (self.machine.instant(), self.clock.time());
            let metrics = &self.observer.metrics;
            let phases = BatchPhases::begin(&self.job.name, &owned.history, metrics);
            let outlook = self.outlook(&owned, &phases, began).await?;
            if outlook.is_caught_up {
                sweeper.finish(&mut owned.history, now.at).await?;
                return Ok(EndReason::CaughtUp);
            }
            let is_forgotten_soon =
                owned.sink.loses_old_witness() && self.machine.since(remembered) >= REMEMBERED;
            if !outlook.is_due && !is_forgotten_soon {
                // There are no records, but perhaps a statement about the job.
                if !self.store.is_free(self.job.id, owned.history.next).await? {
                    return self.yield_to_other().await;
                }
                self.rest(began).await;
                if outlook.is_unsure {
                    self.machine.sleep(UNSURE).await;
                }
                continue;
            }
            let wait = self.environment.tables.wait_reason().await;
            if wait.is_some() || gives_way {
                gives_way = wait.is_some();
                let state = match gives_way {
                    true => JobState::Waiting,
                    false => JobState::Running,
                };
                self.observer.metrics.state(Some(state));
                self.observer.update_status(|status| status.waiting = wait);
            }
            if gives_way {
                if !self.store.is_free(self.job.id, owned.history.next).await? {
                    self.observer.update_status(|status| status.waiting = None);
                    return self.yield_to_other().await;
                }
                self.machine.sleep(GIVES_WAY).await;
                continue;
            }
            phases.chosen();
            for table in outlook.identities.new_tables() {
                owned.windows.forget_table(table);
            }
            let chosen = ChosenBatch {
                phases: &phases,
                identities: &outlook.identities,
                plans: &outlook.plans,
                ranges: &outlook.ranges,
                known: &outlook.known,
                idle: &outlook.idle,
                silent: match owned.windows.keep_state() {
                    true => self.silence.lasts(began),
                    false => BTreeMap::new(),
                },
                clock: now,
                rows: outlook.rows,
            };
            // Forgets a shortage of an earlier batch.
            self.job.query.take_shortage();
            let batch = self.batch(&mut owned, &chosen);
            let outcome = batch.instrument(phases.span()).await;
            let (name, version) = match outcome {
                Ok(committed) => committed,
                Err(error) => return self.batch_failed(error, &owned, &chosen).await,
            };
            forget(&mut self.aside, &version);
            self.observer.metrics.lag(Some(&version), &outlook.ends);
            self.observer.metrics.windows(&owned.windows);
            remembered = self.machine.instant();
            let (watermark, state_rows) = (owned.windows.watermark(), owned.windows.rows());
            self.observer.update_status(|status| {
                status.watermark = watermark;
                status.state_rows = state_rows as u64;
            });
            if owned.history.phase != JobPhase::Active
                || owned.history.owner.as_deref() != Some(&self.owner)
                || !self.job.is_of(&owned.history)
                || owned.history.is_over()
            {
                return Ok(EndReason::Retry);
            }
            owned.last = Some((name, version));
            self.rest(began).await;
        }
    }

    /// Reason why this process does not take the job over: another runner has taken it over since, or a statement has changed
    /// the job.
    async fn reason_not_to_run(&self) -> Result<Option<EndReason>> {
        let history = self.store.history(self.job.id).await?;
        if history.phase == JobPhase::Dropped {
            return Ok(None);
        }
        if !self.job.is_of(&history) {
            let changed = Error::invalid(format!(
                "{} has another statement now: another process has changed it",
                self.job.said()
            ))
            .about(self.job.subject())
            .with_help("run the job's new file, or start this process again");
            return Ok(Some(EndReason::Failed(changed)));
        }
        if history.is_over() {
            return Ok(Some(EndReason::Over));
        }
        Ok(match history.owner {
            Some(owner)
                if self.has_owned && owner != self.owner && !owner.starts_with(STATEMENT) =>
            {
                Some(EndReason::TakenOver(owner))
            }
            _ => None,
        })
    }

    /// Gives way to an entry of another process: a runner keeps the job from now on, a statement only until it is done.
    async fn yield_to_other(&self) -> Result<EndReason> {
        let owner = self.store.history(self.job.id).await?.owner;
        match owner {
            Some(owner) if owner.starts_with(STATEMENT) => Ok(self.leave_to_statement().await),
            Some(owner) if owner != self.owner => Ok(EndReason::TakenOver(owner)),
            _ => Ok(EndReason::Retry),
        }
    }

    /// Waits while a statement of another process owns the job.
    async fn leave_to_statement(&self) -> EndReason {
        self.machine.sleep(STATEMENT_TAKES).await;
        EndReason::Retry
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

    /// Runs a batch until it is in the log.
    async fn batch(
        &mut self,
        owned: &mut Owned,
        chosen: &ChosenBatch<'_>,
    ) -> Result<(String, BatchVersion)> {
        let Owned {
            history,
            sink,
            last,
            windows,
            ..
        } = owned;
        let began = self.machine.instant();
        self.in_hand = Some(chosen.rows);
        let run = self.batch_run();
        let outcome = run.until_committed(history, &mut **sink, windows, last.as_ref(), chosen);
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
        self.observer.update_status(|status| {
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
