//! Running a job: taken over, recovered, then one batch after the other until it is told to stop.

use std::collections::BTreeMap;
use std::future::Future;
use std::time::Duration;

use tokio::time::Instant;
use tracing::Instrument as _;

use crate::core::jobs::{BatchVersion, DeadLetter, Entry, JobHistory, Partitions, Phase};
use crate::error::{Error, ErrorKind, Result};
use crate::runtime::batch::{Ends, Ranges, group_offsets};
use crate::runtime::blame::{Aside, Suspects, forget};
use crate::runtime::environment::Environment;
use crate::runtime::failpoint;
use crate::runtime::metrics::{JobMetrics, JobState};
use crate::runtime::options::Trigger;
use crate::runtime::pace::Pace;
use crate::runtime::phases::{BatchPhase, BatchPhases};
use crate::runtime::retention::Sweeper;
use crate::runtime::sink::{JobSink, Pending};
use crate::runtime::source::{JobSource, Look};
use crate::runtime::statements::{ReadyJob, STATEMENT};
use crate::runtime::takeover::{ATTEMPTS, append, take_over, taken_over};
use crate::runtime::told::{JobStatus, Report, RunOptions};
use crate::runtime::windows::{Silence, Windows, known};
use crate::state::JobStore;
use crate::tables::bad_records::BadRecord;

/// The first pause after a fault that may pass; doubled each time, up to the last.
const FIRST_BACKOFF: Duration = Duration::from_millis(200);
const LAST_BACKOFF: Duration = Duration::from_secs(30);
/// A sink that is there confirms a batch sooner.
const LONG_COMMIT: Duration = Duration::from_secs(10);
/// After so long without a record a batch is committed without any: brokers forget groups and transactional ids, by default
/// after a week.
const REMEMBERED: Duration = Duration::from_secs(24 * 60 * 60);

/// Why a run of a job ended without an error.
enum Ended {
    Stopped,
    CaughtUp,
    Paused(Option<String>),
    /// Somebody else's statement took the job over for a moment, or a batch is to be tried with fewer records.
    Again,
    /// Another runner has the job.
    TakenOver(String),
    /// For good; the log says so.
    Failed(Error),
}

/// One job at work.
pub(super) struct JobRunner<'a> {
    store: &'a JobStore,
    job: &'a ReadyJob,
    options: &'a RunOptions,
    owner: String,
    environment: &'a Environment,
    /// Empty until the job is taken over, and after a fault.
    sources: BTreeMap<String, JobSource>,
    /// Where the topics ended when the run began.
    goal: Option<Ends>,
    silence: Silence,
    /// By table.
    idle_after: BTreeMap<String, Duration>,
    /// Whether it has had the job.
    has_owned: bool,
    pace: Pace,
    /// Records of the batch that is being run.
    in_hand: Option<u64>,
    /// Records that are to be set aside when they are read, by table.
    aside: Aside,
    report: Report,
    metrics: JobMetrics,
}

impl<'a> JobRunner<'a> {
    pub(super) fn try_new(
        store: &'a JobStore,
        job: &'a ReadyJob,
        options: &'a RunOptions,
    ) -> Result<Self> {
        Ok(Self {
            store,
            job,
            options,
            owner: super::statements::owner(),
            environment: &job.environment,
            sources: BTreeMap::new(),
            goal: None,
            silence: Silence::new(),
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
            metrics: JobMetrics::try_new(options.metrics.as_ref(), &job.name)?,
        })
    }

    /// Who it is, in the job's log.
    pub(super) fn owner(&self) -> &str {
        &self.owner
    }

    /// Runs until the job is stopped, paused, caught up (if that is wanted), or fails for good.
    ///
    /// Faults that may pass, a broker that is away, are waited out. One that does not is written to the log: the job is
    /// paused with its reason.
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
                    self.metrics.state(None);
                    return Ok(self.report);
                }
                Ok(Ended::Paused(reason)) => {
                    self.metrics.state(Some(match &reason {
                        Some(_) => JobState::Failed,
                        None => JobState::Paused,
                    }));
                    let why = reason.map_or(String::new(), |reason| format!(": {reason}"));
                    return Err(
                        Error::invalid(format!("job {} is paused{why}", self.job.name))
                            .with_help(format!("RESUME JOB {} lets it go on", self.job.name)),
                    );
                }
                Ok(Ended::Again) => {}
                Ok(Ended::TakenOver(owner)) => {
                    self.metrics.state(None);
                    return Err(Error::unavailable(format!(
                        "job {} was taken over by {owner}",
                        self.job.name
                    )));
                }
                Ok(Ended::Failed(error)) => {
                    self.metrics.failed();
                    return Err(error);
                }
                Err(error) if error.kind() == ErrorKind::Unavailable => {
                    self.tell(|status| status.waiting = Some(error.message().to_owned()));
                    self.metrics.retry();
                    tracing::warn!(job = self.job.name, %error, "waiting {} ms", backoff.as_millis());
                    let pause = backoff + self.environment.jitter(backoff);
                    tokio::select! {
                        () = self.environment.sleep(pause) => {}
                        () = self.options.stop.wait() => return Ok(self.report),
                    }
                    backoff = (backoff * 2).min(LAST_BACKOFF);
                    // Clients that met the fault may not get over it: a new one is as good as a new process.
                    self.sources.clear();
                }
                Err(error) => {
                    self.metrics.failed();
                    return Err(error);
                }
            }
        }
    }

    /// What follows from an error. An error again, if that cannot be told yet, or the error may pass.
    async fn failed(&mut self, error: Error) -> Result<Ended> {
        if error.kind() == ErrorKind::Unavailable {
            return Err(error);
        }
        let history = self.store.history(self.job.id).await?;
        let owner = history.owner.unwrap_or_default();
        let is_mine = owner == self.owner;
        if !is_mine && (self.has_owned || error.kind() == ErrorKind::Cancelled) {
            // A statement has the job for a moment only.
            return Ok(match owner.starts_with(STATEMENT) {
                true => Ended::Again,
                false => Ended::TakenOver(owner),
            });
        }
        // The next takeover says that the job is gone.
        if history.phase == Phase::Dropped && error.kind() == ErrorKind::Cancelled {
            return Ok(Ended::Again);
        }
        // What is said in the log of a job is for whoever runs it.
        if !is_mine || history.phase == Phase::Dropped {
            return Ok(Ended::Failed(error));
        }
        if error.kind() == ErrorKind::Cancelled {
            return self.timed_out();
        }
        // Who looks later must know what to do as well.
        let reason = match error.help() {
            Some(help) => format!("{}; {help}", error.message()),
            None => error.message().to_owned(),
        };
        let reason = Entry::Paused {
            reason: Some(reason),
            at: self.environment.now(),
        };
        append(self.store, self.job.id, &reason).await?;
        Ok(Ended::Failed(error))
    }

    /// The sink has fenced this runner off, and nobody else has the job: the transaction was open for too long.
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

    /// Takes the job over and runs its batches.
    async fn own(&mut self) -> Result<Ended> {
        let (mut history, mut sink) = take_over(self.store, self.job, &self.owner).await?;
        self.has_owned = true;
        match &history.phase {
            Phase::Active => {}
            Phase::Paused(reason) => return Ok(Ended::Paused(reason.clone())),
            // Nobody takes over what is gone.
            Phase::Dropped => return Ok(Ended::Again),
        }
        // Here, where a source that cannot be read is an end of the job that its log tells.
        if self.sources.is_empty() {
            let starts_at_end = self.job.options.starts_at_end;
            self.sources = self.environment.sources(&self.job.query, starts_at_end)?;
        }
        let mut last = match history.last() {
            Some(last) => Some((
                last.version.clone(),
                self.store.version(self.job.id, &last.version).await?,
            )),
            None => None,
        };
        let mut windows = match self.job.query.stream() {
            Some(query) => {
                let version = last.as_ref().map(|(_, version)| version);
                Some(Windows::load(self.store, self.job, query, version).await?)
            }
            None => None,
        };
        let mut remembered = self.environment.instant();
        self.tell(|status| status.waiting = None);
        self.metrics.state(Some(JobState::Running));
        self.metrics.windows(windows.as_ref());
        let retention = self.job.options.retention;
        let mut sweeper = Sweeper::new(self.store, self.job.id, &self.job.name, retention);
        loop {
            sweeper.go_on(&mut history, self.environment.now()).await?;
            let began = self.environment.instant();
            let phases = BatchPhases::begin(&self.job.name, &history, &self.metrics);
            let version = last.as_ref().map(|(_, version)| version);
            let ends = self.ends(version, history.skipping_lost);
            let ends = phases.look(ends).await?;
            self.goal.get_or_insert_with(|| ends.clone());
            let ends_once =
                self.options.until_caught_up || matches!(self.job.options.trigger, Trigger::Once);
            let lag = Ranges::lag(version, &ends);
            self.tell(|status| status.lag = lag);
            self.metrics.lag(version, &ends);
            let known = known(&ends);
            let idle = self.silence.idle(version, &ends, &self.idle_after, began);
            let waiting = match (&windows, self.job.options.max_drift) {
                (Some(windows), Some(max_drift)) => windows.waiting(&idle, max_drift),
                _ => Partitions::new(),
            };
            let mut ranges = Ranges::after(
                version,
                &ends,
                &self.sources,
                self.pace.rows(self.job.options.rows_of_batch(version)),
                &waiting,
                history.skipping_lost,
            )?;
            // A topic that was made anew ends before the place where the job stands: that is not all there was.
            let is_behind = windows.as_ref().is_some_and(Windows::is_behind);
            let goal = self.goal.as_ref().unwrap_or(&ends);
            let has_nothing_to_keep = ranges.skipped.is_empty() && !ranges.begins;
            let has_all = has_nothing_to_keep && Ranges::is_caught_up(version, goal);
            if ends_once && !is_behind && has_all {
                sweeper.finish(&mut history, self.environment.now()).await?;
                return Ok(Ended::CaughtUp);
            }
            let moves = windows
                .as_ref()
                .is_some_and(|windows| windows.would_move(&known, &idle));
            let is_forgotten_soon =
                sink.forgets() && self.environment.since(remembered) >= REMEMBERED;
            if ranges.is_empty() && !moves && !is_forgotten_soon {
                // Nothing is there to read: a statement about the job may be.
                if !self.store.is_free(self.job.id, history.next).await? {
                    return Ok(Ended::Again);
                }
                self.rest(began).await;
                continue;
            }
            phases.chosen();
            ranges.aside = self.aside.clone();
            let chosen = ranges.clone();
            let outcome = self
                .batch(
                    &mut history,
                    &mut sink,
                    last.take(),
                    ranges,
                    windows.as_mut().map(|windows| (windows, known, idle)),
                    &phases,
                )
                .instrument(phases.span())
                .await;
            let committed = match outcome {
                Ok(committed) => committed,
                Err(error) => {
                    let looks = "a batch fails; looking for a record that makes it fail";
                    self.tell(|status| status.waiting = Some(looks.to_owned()));
                    let suspects = Suspects {
                        job: self.job,
                        sources: &self.sources,
                        windows: windows.as_ref(),
                        sink: &sink,
                    };
                    self.aside = suspects.blame(error, &chosen).await?;
                    return Ok(Ended::Again);
                }
            };
            forget(&mut self.aside, &committed.1);
            self.metrics.lag(Some(&committed.1), &ends);
            self.metrics.windows(windows.as_ref());
            remembered = self.environment.instant();
            let watermark = windows.as_ref().and_then(Windows::watermark);
            let state_rows = windows.as_ref().map_or(0, Windows::rows);
            self.tell(|status| {
                status.watermark = watermark;
                status.state_rows = state_rows as u64;
            });
            if history.phase != Phase::Active || history.owner.as_deref() != Some(&self.owner) {
                return Ok(Ended::Again);
            }
            last = Some(committed);
            self.rest(began).await;
        }
    }

    fn tell(&self, change: impl FnOnce(&mut JobStatus)) {
        self.options.statuses.update(&self.job.name, change);
    }

    /// Waits for the next time to look.
    async fn rest(&self, began: Instant) {
        /// How soon a job that is to run at once looks again.
        const SOON: Duration = Duration::from_millis(5);
        let pause = match self.job.options.trigger {
            Trigger::Every(interval) if !self.options.until_caught_up => interval,
            _ => SOON,
        };
        let pause = pause.saturating_sub(self.environment.since(began));
        self.environment.sleep(pause).await;
    }

    async fn ends(&self, last: Option<&BatchVersion>, skipping_lost: bool) -> Result<Ends> {
        let mut ends = Ends::new();
        for (name, source) in &self.sources {
            let look = Look {
                table: name,
                last,
                max_rows: self.pace.rows(self.job.options.rows_of_batch(last)),
                skipping_lost,
            };
            ends.insert(name.clone(), source.ends(look).await?);
        }
        Ok(ends)
    }

    async fn batch(
        &mut self,
        history: &mut JobHistory,
        sink: &mut JobSink,
        last: Option<(String, BatchVersion)>,
        ranges: Ranges,
        mut windows: Option<(&mut Windows, Partitions, Partitions)>,
        phases: &BatchPhases,
    ) -> Result<(String, BatchVersion)> {
        let (began, started_at) = (self.environment.instant(), self.environment.now());
        let (batch, sequence) = (history.next_batch(), history.next);
        let mut guard = Guard {
            sink,
            pending: None,
            armed: true,
        };
        let name = JobStore::version_name(sequence);
        let rows = ranges.records();
        self.in_hand = Some(rows);
        let outcome = async {
            let run = async {
                let (plan, prepared) = match &windows {
                    None => {
                        let sources = ranges.of_sources(&self.sources, &BTreeMap::new())?;
                        (self.job.query.batch(sources).await?, None)
                    }
                    Some((windows, known, idle)) => {
                        let prepared = windows.prepare(
                            self.job,
                            &self.sources,
                            &ranges,
                            known,
                            idle,
                            started_at,
                        );
                        let prepared = prepared.await?;
                        let (plan, withdrawn) = prepared.output(self.job).await?;
                        (plan, Some((prepared, withdrawn)))
                    }
                };
                let withdrawn = prepared
                    .as_ref()
                    .and_then(|(_, withdrawn)| withdrawn.as_ref());
                guard.pending = Some(guard.sink.write(withdrawn, &plan).await?);
                plan.read_to_end().await?;
                Ok((plan, prepared))
            };
            let (plan, prepared) = phases.time(BatchPhase::Run, run).await?;
            failpoint::reach("written");
            let parent = last
                .as_ref()
                .map(|(name, version)| (name.as_str(), version));
            let mut version = ranges.version(parent, batch, history.generation, sequence);
            (version.rows_in, version.bytes_in) = plan.read();
            version.rows_out = guard.pending.as_ref().map_or(0, Pending::rows);
            version.published = guard
                .pending
                .as_ref()
                .map(Pending::published)
                .unwrap_or_default();
            version.files = guard
                .pending
                .as_ref()
                .map(Pending::files)
                .unwrap_or_default();
            let bad_records = match &prepared {
                Some((prepared, _)) => prepared.front().take_bad_records(),
                None => plan.take_bad_records(),
            };
            version.dead_letters = bad_records.into_iter().map(dead_letter).collect();
            version.started_at = started_at;
            version.took =
                u64::try_from(self.environment.since(began).as_millis()).unwrap_or(u64::MAX);
            let stage = async {
                let mut applied = None;
                if let (Some((windows, ..)), Some((prepared, _)), Some(query)) =
                    (&windows, prepared, self.job.query.stream())
                {
                    let (store, id) = (self.store, self.job.id);
                    let stage = windows.stage(store, id, query, prepared, &name, &mut version);
                    applied = Some(stage.await?);
                }
                self.store.stage(self.job.id, &name, &version).await?;
                Ok(applied)
            };
            let applied = phases.time(BatchPhase::Stage, stage).await?;
            failpoint::reach("staged");
            let offsets = group_offsets(&version, &self.sources, self.job.query.sink());
            if let Some(pending) = guard.pending.take() {
                let commit = guard.sink.commit(pending, &offsets, batch, sequence, &name);
                let commit = self.confirmed(commit);
                phases.time(BatchPhase::Commit, commit).await?;
            }
            failpoint::reach("committed");
            Ok((applied, version))
        }
        .await;
        guard.armed = false;
        let timeout = guard.sink.timeout();
        let (applied, version) = match outcome {
            Ok(done) => done,
            Err(error) => {
                let pending = guard.pending.take();
                guard.sink.abort(pending).await;
                return Err(error);
            }
        };
        self.in_hand = None;
        let took = self.environment.since(began);
        self.pace.committed(rows, took, timeout);
        let log = self.append_committed(history, batch, &name);
        phases.time(BatchPhase::Log, log).await?;
        failpoint::reach("logged");
        if let (Some((windows, ..)), Some(applied)) = (&mut windows, applied) {
            windows.apply(applied)?;
        }
        self.report.batches += 1;
        self.report.rows_in += version.rows_in;
        self.report.rows_out += version.rows_out;
        let (report, took) = (self.report, self.environment.since(began));
        self.metrics
            .committed(&version, phases.elapsed(), self.environment.now());
        self.tell(|status| {
            status.report = report;
            status.last_batch = took;
            status.lag = status.lag.saturating_sub(version.rows_in);
        });
        tracing::info!(
            job = self.job.name,
            batch,
            generation = version.generation,
            rows_in = version.rows_in,
            rows_out = version.rows_out,
            dead = version.dead_letters.len(),
            late = version.late_rows,
            state_rows = windows.as_ref().map_or(0, |(windows, ..)| windows.rows()),
            milliseconds =
                u64::try_from(self.environment.since(began).as_millis()).unwrap_or(u64::MAX),
            "batch committed"
        );
        Ok((name, version))
    }

    /// Waits for the sink's word; says so when that takes long. Nobody but the sink knows whether the batch is in it.
    async fn confirmed(&self, commit: impl Future<Output = Result<()>>) -> Result<()> {
        tokio::pin!(commit);
        tokio::select! {
            done = &mut commit => return done,
            () = self.environment.sleep(LONG_COMMIT) => {}
        }
        let waiting = "the sink has not confirmed the batch yet; its broker or store may be away";
        self.tell(|status| status.waiting = Some(waiting.to_owned()));
        self.metrics.state(Some(JobState::Waiting));
        let done = commit.await;
        self.tell(|status| status.waiting = None);
        self.metrics.state(Some(JobState::Running));
        done
    }

    /// The batch is in the sink: the log must say so, also when statements about the job are written at the same time.
    async fn append_committed(
        &self,
        history: &mut JobHistory,
        batch: u64,
        version: &str,
    ) -> Result<()> {
        let parent = history.last().cloned();
        for _ in 0..ATTEMPTS {
            let entry = Entry::Committed {
                batch,
                version: version.to_owned(),
                at: self.environment.now(),
            };
            if self.store.append(self.job.id, history.next, &entry).await? {
                history.apply(&entry);
                return Ok(());
            }
            *history = self.store.history(self.job.id).await?;
            let is_mine =
                history.owner.as_deref() == Some(&self.owner) && history.phase != Phase::Dropped;
            if !is_mine || history.last() != parent.as_ref() {
                return Err(taken_over());
            }
        }
        Err(Error::unavailable(
            "the job's log is written to by others all the time",
        ))
    }
}

/// Takes the transaction back when a batch is dropped half-way.
struct Guard<'s> {
    sink: &'s mut JobSink,
    pending: Option<Pending>,
    armed: bool,
}

impl Drop for Guard<'_> {
    fn drop(&mut self) {
        if self.armed {
            // Stopped: the batch's future is gone, and nobody waits for its rows to be taken back.
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
