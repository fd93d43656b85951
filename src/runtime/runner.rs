//! Runner of a job: takes it over, recovers it, then runs one batch after the other until it is stopped.

use std::collections::BTreeMap;
use std::future::Future;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;
use tracing::Instrument as _;

use crate::core::jobs::{
    BatchVersion, ClockReading, DeadLetter, Entry, Identity, JobClock, JobHistory, Partitions,
    Phase, Remedy, Wall, remedy,
};
use crate::error::{Error, ErrorKind, Result, Subject};
use crate::runtime::batch::{Choice, Ends, Ranges, group_offsets};
use crate::runtime::blame::{Aside, Blame, Suspects, forget, may_blame};
use crate::runtime::environment::Environment;
use crate::runtime::failpoint;
use crate::runtime::identities::Identities;
use crate::runtime::job_status::{JobStatus, Report, RunOptions};
use crate::runtime::metrics::{JobMetrics, JobState};
use crate::runtime::options::Trigger;
use crate::runtime::pace::Pace;
use crate::runtime::phases::{BatchPhase, BatchPhases};
use crate::runtime::retention::Sweeper;
use crate::runtime::sink::{JobSink, Pending};
use crate::runtime::source::{JobSource, Look};
use crate::runtime::statements::{ReadyJob, STATEMENT};
use crate::runtime::takeover::{ATTEMPTS, append_to, dropped, take_over, taken_over};
use crate::runtime::windows::{Silence, Windows, known};
use crate::store::JobStore;
use crate::streaming::LastRecords;
use crate::tables::bad_records::BadRecord;

/// The first pause after a fault that may pass; doubled each time, up to the last.
const FIRST_BACKOFF: Duration = Duration::from_millis(200);
const LAST_BACKOFF: Duration = Duration::from_secs(30);
/// After so long the status shows that the runner waits for the sink: a sink that can be reached confirms a batch sooner.
const LONG_COMMIT: Duration = Duration::from_secs(10);
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
    /// Empty until the job is taken over, and after a fault.
    sources: BTreeMap<String, JobSource>,
    /// The sources were checked for the records that were read last.
    has_checked_records: bool,
    /// Where the topics ended when the run began.
    goal: Option<Ends>,
    silence: Silence,
    /// The job's clock, by which keys are forgotten and batches trimmed.
    clock: Mutex<JobClock>,
    /// How the wall clock compared with the job's clock at the last look.
    wall: Mutex<Wall>,
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
            has_checked_records: false,
            goal: None,
            silence: Silence::default(),
            clock: Mutex::default(),
            wall: Mutex::new(Wall::Believed),
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
                            .about(Subject::job(&self.job.name))
                            .with_help(format!("RESUME JOB {} lets it go on", self.job.name)),
                    );
                }
                Ok(Ended::Again) => {}
                Ok(Ended::TakenOver(owner)) => {
                    self.metrics.state(None);
                    return Err(Error::unavailable(format!(
                        "job {} was taken over by {owner}",
                        self.job.name
                    ))
                    .about(Subject::job(&self.job.name)));
                }
                Ok(Ended::Failed(error)) => {
                    self.metrics.failed();
                    return Err(error);
                }
                Err(error) if error.may_pass() => {
                    self.silence.interrupt(self.environment.instant());
                    self.tell(|status| status.waiting = Some(error.with_its_help()));
                    self.metrics.retry();
                    tracing::warn!(job = self.job.name, %error, "waiting {} ms", backoff.as_millis());
                    let pause = backoff + self.environment.jitter(backoff);
                    tokio::select! {
                        () = self.environment.sleep(pause) => {}
                        () = self.options.stop.wait() => return Ok(self.report),
                    }
                    backoff = (backoff * 2).min(LAST_BACKOFF);
                    // The fault may have left the clients in a bad state: new ones are as good as a new process.
                    self.sources.clear();
                    self.has_checked_records = false;
                }
                Err(error) => {
                    self.metrics.failed();
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
            at: self.environment.now(),
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
        let taken = self.answered(away, taken).await?;
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
            self.sources = self.environment.sources(&self.job.query, starts_at_end)?;
        }
        let mut windows = match self.job.query.stream() {
            Some(query) => {
                let version = last.as_ref().map(|(_, version)| version);
                Some(Windows::load(self.store, self.job, query, version).await?)
            }
            None => None,
        };
        let version = last.as_ref().map(|(_, version)| version);
        let silent_by = version;
        #[cfg(test)]
        let silent_by = self.environment.silent_by(silent_by);
        self.silence.go_on(silent_by, &self.environment.steady());
        self.begin_clock(version, history.last().map(|last| last.at));
        let mut remembered = self.environment.instant();
        self.tell(|status| status.waiting = None);
        self.metrics.state(Some(JobState::Running));
        self.metrics.windows(windows.as_ref());
        let retention = self.job.options.retention;
        let mut sweeper = Sweeper::new(self.store, self.job.id, &self.job.name, retention);
        loop {
            sweeper.go_on(&mut history, self.time().at).await?;
            let (began, now) = (self.environment.instant(), self.time());
            let phases = BatchPhases::begin(&self.job.name, &history, &self.metrics);
            let version = last.as_ref().map(|(_, version)| version);
            let look = self.look(version, sink_identity.as_ref(), &history);
            let (ends, identities) = phases.look(look).await?;
            self.has_checked_records = true;
            self.goal.get_or_insert_with(|| ends.clone());
            let ends_once =
                self.options.until_caught_up || matches!(self.job.options.trigger, Trigger::Once);
            let lag = Ranges::lag(version, &ends);
            self.tell(|status| status.lag = lag);
            self.metrics.lag(version, &ends);
            for table in identities.new_tables() {
                self.silence.begin_anew(table);
            }
            let known = known(&ends);
            #[cfg(test)]
            let known = self.environment.partitions(known, version);
            let idle = self.silence.idle(version, &ends, &self.idle_after, began);
            let waiting = match (&windows, self.job.options.max_drift) {
                (Some(windows), Some(max_drift)) => windows.waiting(&idle, max_drift),
                _ => Partitions::new(),
            };
            let max_rows = self.pace.rows(self.job.options.rows_of_batch(version));
            let mut ranges = Ranges::choose(Choice {
                last: version,
                ends: &ends,
                sources: &self.sources,
                max_rows,
                waiting: &waiting,
                skipping: &history.skipping,
                identities: &identities,
            })?;
            // A topic that was deleted and created again ends before the job's position: then the job is not caught up.
            let is_behind = windows.as_ref().is_some_and(Windows::is_behind);
            let goal = self.goal.as_ref().unwrap_or(&ends);
            let has_nothing_to_keep = ranges.skipped.is_empty() && !ranges.begins;
            let has_all = has_nothing_to_keep && Ranges::is_caught_up(version, goal);
            // Idle partitions decide which windows close: so the runner waits until it knows and does not guess.
            let perhaps = self.silence.perhaps_idle(&idle);
            let is_unsure = windows
                .as_ref()
                .is_some_and(|windows| perhaps != idle && windows.would_move(&known, &perhaps));
            let moves = windows
                .as_ref()
                .is_some_and(|windows| windows.would_move(&known, &idle));
            // A run that ends as soon as it is caught up would see a partition that came since the last batch as new each time,
            // unless a batch stores how long it has been silent.
            let is_to_be_told = ends_once
                && windows.as_ref().is_some_and(|windows| {
                    let with_new = self.silence.with_new(version, &perhaps);
                    with_new != perhaps && windows.would_move(&known, &with_new)
                });
            if ends_once && !is_behind && has_all && !is_unsure && !moves && !is_to_be_told {
                sweeper.finish(&mut history, now.at).await?;
                return Ok(Ended::CaughtUp);
            }
            let is_forgotten_soon =
                sink.forgets() && self.environment.since(remembered) >= REMEMBERED;
            if ranges.is_empty() && !moves && !is_forgotten_soon && !is_to_be_told {
                // There are no records, but perhaps a statement about the job.
                if !self.store.is_free(self.job.id, history.next).await? {
                    return self.give_way().await;
                }
                self.rest(began).await;
                if is_unsure {
                    self.environment.sleep(UNSURE).await;
                }
                continue;
            }
            phases.chosen();
            if let Some(windows) = &mut windows {
                for table in identities.new_tables() {
                    windows.begin_anew(table);
                }
            }
            let context = BatchContext {
                phases: &phases,
                identities: &identities,
                silent: match &windows {
                    Some(_) => self.silence.lasts(began),
                    None => BTreeMap::new(),
                },
                clock: now,
                // Offsets of a Delta table do not count its rows.
                rows: ranges.records().min(max_rows),
            };
            ranges.aside = self.aside.clone();
            let chosen = ranges.clone();
            // Forgets a shortage of an earlier batch.
            self.job.query.take_shortage();
            let outcome = self
                .batch(
                    &mut history,
                    &mut sink,
                    last.take(),
                    ranges,
                    windows.as_mut().map(|windows| (windows, known, idle)),
                    &context,
                )
                .instrument(phases.span())
                .await;
            let committed = match outcome {
                Ok(committed) => committed,
                Err(error) => {
                    let rows = context.rows;
                    let blame = match may_blame(&error) {
                        true => {
                            let looks = "a batch fails; looking for a record that makes it fail";
                            self.tell(|status| status.waiting = Some(looks.to_owned()));
                            let suspects = Suspects {
                                job: self.job,
                                sources: &self.sources,
                                windows: windows.as_ref(),
                                sink: &sink,
                            };
                            suspects.blame(error, &chosen).await
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
            self.metrics.lag(Some(&committed.1), &ends);
            self.metrics.windows(windows.as_ref());
            remembered = self.environment.instant();
            let watermark = windows.as_ref().and_then(Windows::watermark);
            let state_rows = windows.as_ref().map_or(0, Windows::rows);
            self.tell(|status| {
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
        self.environment.sleep(STATEMENT_TAKES).await;
        Ended::Again
    }

    /// Starts the job's clock from the reading in the last version.
    fn begin_clock(&self, version: Option<&BatchVersion>, committed_at: Option<i64>) {
        let mut clock = lock(&self.clock);
        if *clock != JobClock::default() {
            return;
        }
        let reading = version.and_then(|version| version.clock.as_ref());
        let keyed = version.and_then(|version| version.time.as_ref()?.clock);
        // A version of an earlier release has no reading.
        let at = keyed.map(|at| at.div_euclid(1_000)).max(committed_at);
        *clock = JobClock::after(reading, at);
    }

    /// The job's clock now.
    fn time(&self) -> ClockReading {
        let (steady, wall) = (self.environment.steady(), self.environment.now());
        let (at, seen) = lock(&self.clock).look(wall, &steady);
        let before = std::mem::replace(&mut *lock(&self.wall), seen);
        if std::mem::discriminant(&before) != std::mem::discriminant(&seen) {
            let job = &self.job.name;
            match seen {
                Wall::Believed => tracing::info!(job, "the job's clock is the wall clock again"),
                Wall::Off(by) => tracing::warn!(
                    job,
                    milliseconds = by,
                    "the wall clock is off from the time that has passed: the job goes by the time that has passed"
                ),
                Wall::Unconfirmed(by) => tracing::warn!(
                    job,
                    milliseconds = by,
                    "the wall clock is ahead of the job's, which ran on another machine or before this one was started again, and no \
                     record confirms it yet: keys and old batches are kept until one does"
                ),
            }
        }
        ClockReading { at, steady }
    }

    /// Passes the timestamps of the last records to the job's clock.
    fn saw_records(&self, last: &LastRecords) {
        let times = last.values().flat_map(BTreeMap::values);
        if let Some(latest) = times.filter_map(|mark| mark.timestamp).max() {
            lock(&self.clock).saw_record(latest);
        }
    }

    fn tell(&self, change: impl FnOnce(&mut JobStatus)) {
        self.options.statuses.update(&self.job.name, change);
    }

    /// Waits until the sources are checked again.
    async fn rest(&self, began: Instant) {
        /// The pause of a job that runs as fast as possible.
        const SOON: Duration = Duration::from_millis(5);
        let pause = match self.job.options.trigger {
            Trigger::Every(interval) if !self.options.until_caught_up => interval,
            _ => SOON,
        };
        let pause = pause.saturating_sub(self.environment.since(began));
        self.environment.sleep(pause).await;
    }

    async fn ends(
        &self,
        last: Option<&BatchVersion>,
        history: &JobHistory,
        identities: &Identities,
    ) -> Result<Ends> {
        let mut ends = Ends::new();
        for (name, source) in &self.sources {
            let look = Look {
                table: name,
                last: last.filter(|_| !identities.is_new(name)),
                max_rows: self.pace.rows(self.job.options.rows_of_batch(last)),
                skipping: history.skipping.get(name),
            };
            ends.insert(name.clone(), source.ends(look).await?);
        }
        Ok(ends)
    }

    /// Identities of the sources, and where they end.
    async fn look(
        &self,
        last: Option<&BatchVersion>,
        sink: Option<&Identity>,
        history: &JobHistory,
    ) -> Result<(Ends, Identities)> {
        // Before any record is read: a position does not apply to another source (IDENT-1).
        let ask = Identities::ask(&self.sources, sink, last, history);
        let (identities, ends) = if history.accepted.is_empty() {
            let unknown = Identities::default();
            let ends = self.ends(last, history, &unknown);
            let (identities, ends) = tokio::join!(ask, ends);
            // If a source is another one, its ends do not relate to the position.
            (identities?, ends?)
        } else {
            let identities = ask.await?;
            let ends = self.ends(last, history, &identities).await?;
            (identities, ends)
        };
        identities.check_partitions(last, &ends)?;
        let (skipping, begins) = (&history.skipping, !self.has_checked_records);
        identities
            .check_records(&self.sources, last, &ends, skipping, begins)
            .await?;
        Ok((ends, identities))
    }

    async fn batch(
        &mut self,
        history: &mut JobHistory,
        sink: &mut JobSink,
        last: Option<(String, BatchVersion)>,
        ranges: Ranges,
        mut windows: Option<(&mut Windows, Partitions, Partitions)>,
        context: &BatchContext<'_>,
    ) -> Result<(String, BatchVersion)> {
        let (phases, identities) = (context.phases, context.identities);
        let (began, started_at) = (self.environment.instant(), self.environment.now());
        let (batch, sequence) = (history.next_batch(), history.next);
        let mut guard = Guard {
            sink,
            pending: None,
            armed: true,
        };
        let name = JobStore::version_name(sequence);
        let rows = context.rows;
        self.in_hand = Some(rows);
        let outcome: Result<_> = async {
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
                            |read| {
                                self.saw_records(read);
                                self.time().at
                            },
                        );
                        let prepared = prepared.await?;
                        match prepared.output(self.job).await {
                            Ok((plan, withdrawn)) => (plan, Some((prepared, withdrawn))),
                            Err(error) => {
                                return Err(prepared.of_group(self.job, guard.sink, error).await);
                            }
                        }
                    }
                };
                let withdrawn = prepared
                    .as_ref()
                    .and_then(|(_, withdrawn)| withdrawn.as_ref());
                guard.pending = Some(match guard.sink.write(withdrawn, &plan).await {
                    Ok(pending) => pending,
                    Err(error) => {
                        return Err(match &prepared {
                            Some((of, _)) => of.of_group(self.job, guard.sink, error).await,
                            None => error,
                        });
                    }
                });
                let sides = plan.finish().await?;
                Ok((plan, prepared, sides))
            };
            let (plan, mut prepared, sides) = phases.time(BatchPhase::Run, run).await?;
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
            let (dead_letters, last_records) = match &mut prepared {
                Some((prepared, _)) => {
                    let letters = prepared.take_dead_letters();
                    (letters, prepared.last_records().clone())
                }
                None => (sides.dead_letters, sides.last_records),
            };
            self.saw_records(&last_records);
            for (table, marks) in last_records {
                if !marks.is_empty() {
                    version.marks.entry(table).or_default().extend(marks);
                }
            }
            let letters: Vec<DeadLetter> = dead_letters.into_iter().map(dead_letter).collect();
            version.dead_letters = letters.len() as u64;
            version.clock = Some(context.clock.clone());
            version.silent = context.silent.clone();
            version.started_at = started_at;
            version.took =
                u64::try_from(self.environment.since(began).as_millis()).unwrap_or(u64::MAX);
            let stage = async {
                let mut applied = None;
                if !letters.is_empty() {
                    let put = self.store.put_dead_letters(self.job.id, &name, &letters);
                    version.dead_letters_crc32 = Some(put.await?);
                }
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
            // The records may come from a source that replaced the checked one meanwhile.
            let (sources, writes) = (&self.sources, &*guard.sink);
            let stage = async { tokio::try_join!(stage, identities.check_again(sources, writes)) };
            let (applied, ()) = phases.time(BatchPhase::Stage, stage).await?;
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
        if timeout.is_none()
            || !matches!(&outcome, Err(error) if error.kind() == ErrorKind::Cancelled)
        {
            self.in_hand = None;
        }
        let (applied, version) = match outcome {
            Ok(done) => done,
            Err(error) => {
                let pending = guard.pending.take();
                guard.sink.abort(pending).await;
                return Err(error);
            }
        };
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
            dead = version.dead_letters,
            late = version.late_rows,
            state_rows = windows.as_ref().map_or(0, |(windows, ..)| windows.rows()),
            milliseconds =
                u64::try_from(self.environment.since(began).as_millis()).unwrap_or(u64::MAX),
            "batch committed"
        );
        Ok((name, version))
    }

    /// Waits until the sink confirms a batch: only the sink knows whether it has the batch.
    async fn confirmed(&self, commit: impl Future<Output = Result<()>>) -> Result<()> {
        let away = "the sink has not confirmed the batch yet; its broker or store may be away";
        self.answered(away, commit).await
    }

    /// Waits for an answer; if it takes long, the job's status shows `waiting`.
    async fn answered<T>(
        &self,
        waiting: &str,
        answer: impl Future<Output = Result<T>>,
    ) -> Result<T> {
        tokio::pin!(answer);
        tokio::select! {
            done = &mut answer => return done,
            () = self.environment.sleep(LONG_COMMIT) => {}
        }
        self.tell(|status| status.waiting = Some(waiting.to_owned()));
        self.metrics.state(Some(JobState::Waiting));
        let done = answer.await?;
        self.tell(|status| status.waiting = None);
        self.metrics.state(Some(JobState::Running));
        Ok(done)
    }

    /// Appends the commit of a batch that is in the sink, also when statements about the job write entries at the same time.
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
                at: self.time().at,
            };
            if self.store.append_next(self.job.id, history, &entry).await? {
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

/// Context of one batch.
struct BatchContext<'a> {
    phases: &'a BatchPhases,
    identities: &'a Identities,
    /// The job's clock when the sources were checked.
    clock: ClockReading,
    /// How long each partition had been silent by then.
    silent: BTreeMap<String, BTreeMap<i32, u64>>,
    /// How many records the batch may have of the table that has most.
    rows: u64,
}

fn lock<T>(of: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    of.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Aborts the sink's transaction when the batch is dropped half-way.
struct Guard<'s> {
    sink: &'s mut JobSink,
    pending: Option<Pending>,
    armed: bool,
}

impl Drop for Guard<'_> {
    fn drop(&mut self) {
        if self.armed {
            // The runner was stopped: the batch's future was dropped, so the abort runs in the background.
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
