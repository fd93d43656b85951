//! Statements about jobs, such as CREATE JOB, PAUSE JOB, REWIND JOB and SUBSCRIBE.

use std::any::Any;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::panic::AssertUnwindSafe;
use std::sync::Arc;

use datafusion::sql::parser::Statement as SqlStatement;
use datafusion::sql::sqlparser::ast::Ident;
use futures::{FutureExt as _, TryStreamExt as _};

use crate::core::jobs::log::sequence_of;
use crate::core::jobs::{
    Accepted, BatchVersion, Entry, Gaps, Identity, JobHistory, Phase, Sameness, SourceProgress,
};
use crate::error::{Error, ErrorKind, Result, Subject};
use crate::planner::ast::Emit;
use crate::planner::{JobStatement, TableOption, normalize};
use crate::runtime::batch::{Ends, check_readable};
use crate::runtime::environment::Environment;
use crate::runtime::failpoint;
use crate::runtime::heartbeat::Heart;
use crate::runtime::job_status::{Report, RunOptions};
use crate::runtime::options::JobOptions;
use crate::runtime::runner::JobRunner;
use crate::runtime::show;
use crate::runtime::source::{JobSource, Look};
use crate::runtime::subscribe::subscribe;
use crate::runtime::takeover::{TakenOver, append_to, files_in, files_of, take_over};
use crate::runtime::windows::{changed, goes_on_from};
use crate::session::{Outcome, Ready, Session, batch_rows, job_rows, versions};
use crate::store::{JobId, JobStore};
use crate::streaming::{JobQuery, JobSinkTable};
use crate::tables::kafka::Delivery;

/// Prefix of the owner's name in the log when a statement owns the job for a moment.
pub(super) const STATEMENT: &str = "statement ";

/// The jobs of a data directory, for statements.
#[derive(Debug)]
pub struct Jobs {
    pub(super) store: JobStore,
    /// Whether a job may write to a topic without transactions.
    allows_repeats: bool,
    /// Jobs that a statement of this process has created or confirmed: those that it can run.
    pub(super) ready: tokio::sync::Mutex<BTreeMap<String, Arc<ReadyJob>>>,
}

/// A job that this process can run.
#[derive(Debug)]
pub struct ReadyJob {
    pub(super) id: JobId,
    pub(super) name: String,
    /// The statement that creates it.
    pub(super) text: String,
    /// The statements that create its tables.
    pub(super) tables: Vec<String>,
    pub(super) options: JobOptions,
    pub(super) query: Arc<JobQuery>,
    pub(super) environment: Environment,
}

/// The next action of a process for a job.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ToDo {
    /// Run it.
    Run,
    /// Leave it: it is paused or has failed, or another process has dropped it and may create it again.
    Rest,
    /// Make it ready again: the job has changed.
    MakeReady,
    /// Forget it: it was dropped.
    Forget,
}

impl ReadyJob {
    /// The name in SQL.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Whether it still agrees with the job in the log.
    pub(super) fn is_of(&self, history: &JobHistory) -> bool {
        history.text == self.text && history.tables == self.tables
    }
}

impl Jobs {
    /// The jobs of `store`.
    pub fn new(store: JobStore) -> Self {
        Self {
            store,
            allows_repeats: false,
            ready: tokio::sync::Mutex::default(),
        }
    }

    /// Jobs with one that can be run.
    #[cfg(test)]
    pub(super) fn with_ready(store: JobStore, job: ReadyJob) -> Self {
        let ready = BTreeMap::from([(job.name.clone(), Arc::new(job))]);
        Self {
            ready: tokio::sync::Mutex::new(ready),
            ..Self::new(store)
        }
    }

    /// Allows at-least-once delivery: for the embedded broker, which has no transactions.
    #[must_use]
    pub fn allowing_repeats(mut self) -> Self {
        self.allows_repeats = true;
        self
    }

    /// Runs a statement about jobs; starts it if it returns rows.
    ///
    /// # Errors
    ///
    /// As [`Self::execute`].
    pub async fn begin(
        &self,
        session: &Session,
        statement: JobStatement,
        text: &str,
    ) -> Result<Outcome> {
        session.begin_ready(self.execute(session, statement, text).await?)
    }

    /// Runs a statement about jobs; plans it if it returns rows. `text` is the statement without secrets.
    ///
    /// # Errors
    ///
    /// The job does not exist, or exists already; a job cannot run the query; the store does not answer.
    pub async fn execute(
        &self,
        session: &Session,
        statement: JobStatement,
        text: &str,
    ) -> Result<Ready> {
        match statement {
            JobStatement::Create {
                explain,
                name,
                or_replace,
                options,
                insert,
                emit,
            } => {
                let (options, query) = self.planned(session, &options, *insert, emit).await?;
                if explain {
                    return session.report(show::explanation(&query, &options).await?);
                }
                let name = normalize(&name);
                self.create(name, or_replace, options, query, text).await
            }
            JobStatement::Pause(name) => {
                let (id, history) = self.find(&normalize(&name)).await?;
                let done = format!("job {} paused", history.name);
                if history.phase == Phase::Active {
                    let entry = Entry::Paused {
                        reason: None,
                        reported: None,
                        at: now(),
                    };
                    append_to(&self.store, id, history, &entry).await?;
                }
                Ok(Ready::Done(done))
            }
            JobStatement::Resume {
                name,
                skipping_lost,
                accepting,
                assuming,
            } => {
                let (id, history) = self.find(&normalize(&name)).await?;
                let accepting = accepted(&history, &accepting)?;
                let lost = match skipping_lost {
                    true => history.reported.lost.clone(),
                    false => Gaps::new(),
                };
                let assuming = match assuming {
                    Some((batch, committed)) => Some((batch_number(&batch)?, committed)),
                    None => None,
                };
                let mut done = format!("job {} resumed", history.name);
                if skipping_lost && lost.is_empty() {
                    done += "\nwarning: it has reported nothing lost, and skips nothing; if it reports something now, say it again";
                }
                let entry = Entry::Resumed {
                    skipping_lost,
                    lost,
                    accepting,
                    assuming,
                    at: now(),
                };
                append_to(&self.store, id, history, &entry).await?;
                Ok(Ready::Done(done))
            }
            JobStatement::Drop {
                name,
                if_exists,
                cascade,
            } => {
                let name = normalize(&name);
                match self.store.find(&name).await? {
                    None if if_exists => Ok(Ready::Done(format!("no job {name}"))),
                    None => Err(self.no_such_job(&name).await),
                    Some((id, history)) => {
                        self.check_drop(id, &history, cascade).await?;
                        // A DROP JOB that was interrupted is completed.
                        if history.phase != Phase::Dropped {
                            let dropped = Entry::Dropped { at: now() };
                            append_to(&self.store, id, history, &dropped).await?;
                        }
                        failpoint::reach("drop-logged");
                        self.store.forget(&name, id).await?;
                        self.ready.lock().await.remove(&name);
                        failpoint::reach("dropped");
                        if let Err(error) = self.store.sweep_dropped().await {
                            tracing::warn!(job = name, %error, "its files are left to the next DROP JOB");
                        }
                        Ok(Ready::Done(format!("dropped job {name}")))
                    }
                }
            }
            JobStatement::ShowJobs => {
                let jobs = self.store.all().await?;
                session.report(job_rows(&self.store, jobs).await?)
            }
            JobStatement::ShowBatches(name) => {
                let (id, history) = self.find(&normalize(&name)).await?;
                let versions = versions(&self.store, id, &history).await?;
                let rows = batch_rows(&history.name, &versions)?;
                let but_job: Vec<usize> = (1..rows.num_columns()).collect();
                let rows = rows.project(&but_job);
                session.report(rows.map_err(|error| Error::internal(error.to_string()))?)
            }
            JobStatement::Describe(name) => {
                let (_, history) = self.find(&normalize(&name)).await?;
                session.report(show::definition(&history)?)
            }
            JobStatement::Rewind { name, batch } => {
                let (number, span) = (batch_number(&batch)?, batch.span);
                self.rewind(&normalize(&name), number)
                    .await
                    .map_err(|error| error.at(span))
            }
            JobStatement::Subscribe {
                options,
                query,
                emit,
            } => {
                let planned = subscribe(session, &options, *query, emit).await?;
                Ok(Ready::Rows(planned))
            }
            other @ JobStatement::Reprocess { .. } => Err(Error::unsupported(format!(
                "{} does not run yet",
                other.verb()
            ))),
        }
    }

    /// Runs the jobs that this process has created or confirmed, in parallel. Returns the outcome of each by name.
    pub async fn run(&self, options: &RunOptions) -> Vec<(String, Result<Report>)> {
        let ready: Vec<_> = self.ready.lock().await.values().cloned().collect();
        let mut names = HashMap::new();
        let mut runs = tokio::task::JoinSet::new();
        for job in ready {
            let name = job.name.clone();
            let run = run_job(self.store.clone(), job, options.clone());
            names.insert(runs.spawn(run).id(), name);
        }
        let mut outcomes = Vec::with_capacity(names.len());
        while let Some(ended) = runs.join_next_with_id().await {
            let (task, outcome) = match ended {
                Ok(ended) => ended,
                Err(error) => (error.id(), Err(Error::internal(error.to_string()))),
            };
            outcomes.push((names.remove(&task).unwrap_or_default(), outcome));
        }
        outcomes.sort_by(|(one, _), (other, _)| one.cmp(other));
        outcomes
    }

    /// Runs one of these jobs as [`Self::run`] does; `None` if there is none of that name.
    pub async fn run_one(&self, name: &str, options: &RunOptions) -> Option<Result<Report>> {
        let job = self.ready.lock().await.get(name).cloned()?;
        Some(run_job(self.store.clone(), job, options.clone()).await)
    }

    /// The names of the jobs that this process can run.
    pub async fn ready_names(&self) -> Vec<String> {
        self.ready.lock().await.keys().cloned().collect()
    }

    /// The next action of a process for a job that it can run. It can no longer run a job that another process has changed, or
    /// dropped and created again: such a job has to be made ready again.
    ///
    /// # Errors
    ///
    /// The store does not answer.
    pub async fn to_do(&self, name: &str) -> Result<ToDo> {
        let ready = self.ready.lock().await.get(name).cloned();
        // A job that this process has dropped is no longer ready.
        let Some(job) = ready else {
            return Ok(ToDo::Forget);
        };
        let found = self.store.find(name).await?;
        let found = found.filter(|(_, history)| history.phase != Phase::Dropped);
        let Some((id, history)) = found else {
            return Ok(ToDo::Rest);
        };
        if id != job.id || !job.is_of(&history) {
            let mut all = self.ready.lock().await;
            // A statement of this process may have made the changed job ready meanwhile.
            if all.get(name).is_some_and(|now| Arc::ptr_eq(now, &job)) {
                all.remove(name);
                return Ok(ToDo::MakeReady);
            }
        }
        Ok(match history.phase {
            Phase::Active => ToDo::Run,
            _ => ToDo::Rest,
        })
    }

    /// The options and the query of a CREATE JOB, over the tables of `session`.
    pub(super) async fn planned(
        &self,
        session: &Session,
        given: &[TableOption],
        insert: SqlStatement,
        emit: Emit,
    ) -> Result<(JobOptions, JobQuery)> {
        let options = JobOptions::parse(given)?;
        let query = JobQuery::try_new(session, insert, emit).await?;
        self.check_delivery(query.sink())?;
        options.check(query.stream(), given)?;
        options.check_sources(query.sources(), given)?;
        Ok((options, query))
    }

    fn check_delivery(&self, sink: &JobSinkTable) -> Result<()> {
        match sink {
            JobSinkTable::Kafka(table)
                if table.delivery() == Delivery::AtLeastOnce && !self.allows_repeats =>
            {
                Err(Error::invalid(format!(
                    "jobs are exactly once, and the table of topic '{}' says 'delivery' 'at_least_once'",
                    table.topic()
                ))
                .about(Subject::location(table.topic()))
                .with_help("leave the option out: it is for the demo's broker, which keeps no transactions"))
            }
            _ => Ok(()),
        }
    }

    /// Whether there is a job to run.
    pub async fn has_ready(&self) -> bool {
        !self.ready.lock().await.is_empty()
    }

    async fn create(
        &self,
        name: String,
        or_replace: bool,
        options: JobOptions,
        query: JobQuery,
        text: &str,
    ) -> Result<Ready> {
        let tables = query.definitions();
        let found = match self.store.find(&name).await? {
            // The process that dropped it died half-way: this completes the drop, so that the name is free.
            Some((id, history)) if history.phase == Phase::Dropped => {
                self.store.forget(&name, id).await?;
                None
            }
            found => found,
        };
        let (id, done) = match found {
            None => {
                let created = Entry::Created {
                    name: name.clone(),
                    text: text.to_owned(),
                    tables: tables.clone(),
                    at: now(),
                };
                let id = self.store.create(&created, &name).await?.ok_or_else(|| {
                    Error::unavailable(format!("job {name} is being made by somebody else"))
                        .about(Subject::job(&name))
                })?;
                (id, format!("job {name}"))
            }
            // A script with CREATE JOB can be run again and again.
            Some((id, history)) if history.text == text && history.tables == tables => {
                (id, format!("job {name}"))
            }
            Some((id, history)) if or_replace => {
                self.check_replacement(id, &history, &query, options)
                    .await?;
                let replaced = Entry::Replaced {
                    text: text.to_owned(),
                    tables: tables.clone(),
                    at: now(),
                };
                append_to(&self.store, id, history, &replaced).await?;
                (id, format!("job {name} replaced"))
            }
            Some((_, history)) => {
                let what = if history.text == text {
                    "with other tables"
                } else {
                    "with another statement"
                };
                return Err(Error::new(
                    ErrorKind::Exists,
                    format!("job {name} exists already, {what}"),
                )
                .about(Subject::job(&name))
                .with_help(
                    "CREATE OR REPLACE JOB changes it and goes on where it stands; DROP JOB forgets it",
                ));
            }
        };
        let mut done = done;
        for warning in show::warnings(&query) {
            done += &format!("\nwarning: {warning}");
        }
        let ready = ReadyJob {
            id,
            name: name.clone(),
            text: text.to_owned(),
            tables,
            options,
            query: Arc::new(query),
            environment: Environment::default(),
        };
        self.ready.lock().await.insert(name, Arc::new(ready));
        Ok(Ready::Done(done))
    }

    /// Refuses to drop a job with state unless CASCADE is given, so that state is not lost by accident.
    async fn check_drop(&self, id: JobId, history: &JobHistory, cascade: bool) -> Result<()> {
        let Some(last) = history.last().filter(|_| !cascade) else {
            return Ok(());
        };
        let version = self.store.version(id, &last.version).await?;
        if version.state_files().next().is_none() {
            return Ok(());
        }
        Err(Error::invalid(format!("job {} keeps state", history.name))
            .about(Subject::job(&history.name))
            .with_help(format!(
                "DROP JOB {} CASCADE drops it with its state; PAUSE JOB only stops it",
                history.name
            )))
    }

    /// Checks a replacement: a job with committed batches can only be replaced by one that reads the same tables and continues
    /// from the same state.
    async fn check_replacement(
        &self,
        id: JobId,
        history: &JobHistory,
        query: &JobQuery,
        options: JobOptions,
    ) -> Result<()> {
        let Some(last) = history.last() else {
            return Ok(());
        };
        let version = self.store.version(id, &last.version).await?;
        if version.sources.keys().eq(query.sources().keys()) {
            if !goes_on_from(&history.name, query.stream(), &version)? && !options.resets_on_change
            {
                return Err(changed(&history.name, query.stream(), &version));
            }
            return Ok(());
        }
        let names = |keys: Vec<&String>| {
            keys.into_iter()
                .map(String::as_str)
                .collect::<Vec<_>>()
                .join(", ")
        };
        Err(Error::invalid(format!(
            "job {} reads {}, and its replacement {}: where it would go on is not known",
            history.name,
            names(version.sources.keys().collect()),
            names(query.sources().keys().collect()),
        ))
        .about(Subject::job(&history.name))
        .with_help("drop the job and create it anew"))
    }

    pub(super) async fn rewind(&self, name: &str, to: u64) -> Result<Ready> {
        let (id, history) = self.find(name).await?;
        check_batch(&history, to)?;
        let ready = self.ready.lock().await.get(name).cloned();
        let Some(job) = ready.filter(|job| job.id == id) else {
            return Err(Error::invalid(format!(
                "REWIND JOB {name} needs the job's file: its sink is taken over"
            ))
            .about(Subject::job(name))
            .with_help(format!(
                "run it with the files of the job: anabranch sql -f tables.sql -f job.sql -c 'REWIND JOB {name} TO BATCH {to}'"
            )));
        };
        let me = format!("{STATEMENT}{}", owner());
        let TakenOver {
            mut history,
            sink,
            missing,
            identity,
            ..
        } = take_over(&self.store, &job, &me, Some(to)).await?;
        // The job's runner may have committed batches until the takeover.
        check_batch(&history, to)?;
        let mut abandoned = history.clone();
        let entry = Entry::Rewound { to, at: now() };
        abandoned.apply(&entry);
        // Rows that a restored sink lacks cannot be removed from it.
        let is_there = |version: &str| {
            missing.is_none_or(|missing| sequence_of(version) <= Some(missing.known))
        };
        let behind = history.batches.iter().filter(|batch| batch.batch > to);
        let behind: BTreeSet<&str> = behind.map(|batch| batch.version.as_str()).collect();
        let read = self.abandoned(id, &abandoned, |version| {
            is_there(version) || behind.contains(version)
        });
        let read = read.await?;
        let there = read.iter().filter(|(name, _)| is_there(name));
        let there: Vec<&BatchVersion> = there.map(|(_, version)| version).collect();
        let files = files_of(there.iter().copied());
        // Rows that were written to an earlier table, which this one has replaced, are not in it.
        let own = files_in(there, identity.as_ref());
        sink.check_take_back(&own).await?;
        // A sink in an earlier state has rows again that were removed from it: those of batches that were abandoned before.
        let again: Vec<String> = match missing {
            Some(missing) => history
                .known()
                .filter(|version| sequence_of(version) <= Some(missing.known))
                .filter(|version| {
                    !history
                        .batches
                        .iter()
                        .any(|batch| batch.version == *version)
                })
                .filter(|version| !abandoned.abandoned.iter().any(|one| one == version))
                .map(str::to_owned)
                .collect(),
            None => Vec::new(),
        };
        let again: Vec<BatchVersion> = self.store.versions(id, again).try_collect().await?;
        let again = files_in(&again, identity.as_ref());
        sink.check_take_back(&again).await?;
        let behind = read
            .iter()
            .filter(|(name, _)| behind.contains(name.as_str()));
        let behind: Vec<&BatchVersion> = behind.map(|(_, version)| version).collect();
        let published = self.check_rewind(&job, &history, to, &behind).await?;
        sink.take_back(&again).await?;
        // From here on the rewind is in the log: the next runner that takes the job over completes it.
        let mut rewound = history.clone();
        if !self.store.append_next(id, &mut rewound, &entry).await? {
            return Err(Error::unavailable(format!(
                "job {name} was taken over by a runner at the same time"
            ))
            .about(Subject::job(name))
            .with_help("say it again"));
        }
        failpoint::reach("rewound");
        let batches = history.batches.len() - abandoned.batches.len();
        history = rewound;
        sink.take_back(&files).await?;
        sink.mark(&history).await?;
        let rows = match job.query.sink() {
            JobSinkTable::Kafka(table) if !published.is_empty() => {
                let ranges: Vec<String> = published
                    .iter()
                    .map(|(partition, at)| {
                        format!("{partition} from {} to {}", at.start, at.end - 1)
                    })
                    .collect();
                format!(
                    "what they published stays in the topic '{}': partition {}",
                    table.topic(),
                    ranges.join(", ")
                )
            }
            JobSinkTable::Kafka(_) => "they published nothing".to_owned(),
            JobSinkTable::Delta(_) => "their rows are no longer in the table".to_owned(),
            JobSinkTable::Subscriber => String::new(),
        };
        Ok(Ready::Done(format!(
            "job {name} goes on from batch {to}; {batches} batches are abandoned, and {rows}"
        )))
    }

    /// The abandoned versions that are wanted, by name; each is read once.
    async fn abandoned(
        &self,
        id: JobId,
        history: &JobHistory,
        is_wanted: impl Fn(&str) -> bool,
    ) -> Result<Vec<(String, BatchVersion)>> {
        let names = history.abandoned.iter().filter(|name| is_wanted(name));
        let names: Vec<String> = names.cloned().collect();
        let versions: Vec<BatchVersion> =
            self.store.versions(id, names.clone()).try_collect().await?;
        Ok(names.into_iter().zip(versions).collect())
    }

    /// Checks that the batches after `to`, which have these versions, can be run again; returns the ranges of their rows in the
    /// sink's topic.
    async fn check_rewind(
        &self,
        job: &ReadyJob,
        history: &JobHistory,
        to: u64,
        versions: &[&BatchVersion],
    ) -> Result<BTreeMap<i32, SourceProgress>> {
        let mut published: BTreeMap<i32, SourceProgress> = BTreeMap::new();
        for version in versions {
            for (partition, at) in &version.published {
                let all = published.entry(*partition).or_insert(*at);
                all.start = all.start.min(at.start);
                all.end = all.end.max(at.end);
            }
        }
        if let (Some(first), Some(newest)) = (versions.first(), versions.last()) {
            let mut ends = Ends::new();
            let stands = match history.batches.iter().find(|batch| batch.batch == to) {
                Some(last) => Some(self.store.version(job.id, &last.version).await?),
                None => None,
            };
            for (table, source) in job.environment.sources(&job.query, None)? {
                check_same_source(&table, &source, &first.identities).await?;
                let look = Look {
                    table: &table,
                    last: stands.as_ref(),
                    max_rows: 1,
                    skipping: None,
                };
                let found = source.ends(look).await?;
                // A stream of files begins with all files that the table has at that time.
                if stands.is_some() || source.planned().is_none() {
                    ends.insert(table, found);
                }
            }
            check_readable(first, newest, &ends)?;
        }
        Ok(published)
    }

    async fn find(&self, name: &str) -> Result<(JobId, JobHistory)> {
        match self.store.find(name).await? {
            Some(found) => Ok(found),
            None => Err(self.no_such_job(name).await),
        }
    }

    async fn no_such_job(&self, name: &str) -> Error {
        let error = Error::not_found(format!("no job is named {name}")).about(Subject::job(name));
        let Ok(names) = self.store.names().await else {
            return error;
        };
        match crate::core::suggest::closest(name, names.iter().map(String::as_str)) {
            Some(near) => error.with_help(format!("did you mean {near}?")),
            None if names.is_empty() => error.with_help("the data directory has no jobs"),
            None => error.with_help(format!("there are {}", names.join(", "))),
        }
    }
}

/// The user's decisions about tables with another identity: they refer to the identities that the job has reported.
fn accepted(
    history: &JobHistory,
    accepting: &[(Ident, bool)],
) -> Result<BTreeMap<String, Accepted>> {
    let mut accepted = BTreeMap::new();
    for (table, is_moved) in accepting {
        let name = normalize(table);
        let Some(identity) = history.reported.others.get(&name) else {
            let others: Vec<&str> = history.reported.others.keys().map(String::as_str).collect();
            let help = match others.is_empty() {
                true => {
                    "RESUME JOB alone lets it go on; it looks whether its tables are those it knows"
                        .to_owned()
                }
                false => format!("it has reported {}", others.join(", ")),
            };
            let message = format!(
                "job {} has not reported that {name} is another table than it was",
                history.name
            );
            return Err(Error::invalid(message).with_help(help).at(table.span));
        };
        let identity = identity.clone();
        let is_moved = *is_moved;
        accepted.insert(name, Accepted { identity, is_moved });
    }
    Ok(accepted)
}

/// Checks that the present source is the one that the batches have read, so that they can be run again.
async fn check_same_source(
    table: &str,
    source: &JobSource,
    identities: &BTreeMap<String, Identity>,
) -> Result<()> {
    let Some(read) = identities.get(table) else {
        return Ok(());
    };
    let now = source.identity().await?;
    if read.compare(&now) != Sameness::Other {
        return Ok(());
    }
    Err(Error::data(format!(
        "{table}: the batches have read another source: {}",
        read.difference(&now)
    ))
    .about(Subject::table(table))
    .with_help(
        "they cannot be run again; REWIND to a later batch, or DROP JOB and CREATE JOB to begin with what is there",
    ))
}

/// Checks the target of a rewind: a batch that the job still has, or its beginning while all batches are kept.
fn check_batch(history: &JobHistory, to: u64) -> Result<()> {
    let (name, oldest) = (&history.name, history.oldest());
    let newest = history.last().map_or(0, |last| last.batch);
    if (oldest..=newest).contains(&to) {
        return Ok(());
    }
    if to < oldest {
        let gone = format!(
            "job {name} no longer has batch {to}; the oldest it can go back to is {oldest}"
        );
        return Err(Error::not_found(gone).about(Subject::job(name)).with_help(
            "the options 'retention.versions' and 'retention.age' of CREATE JOB say how many are kept; \
             to begin anew, DROP JOB and CREATE JOB, or reprocess from an archive",
        ));
    }
    Err(Error::not_found(format!(
        "job {name} has no batch {to}; it has {} to {newest}",
        oldest.max(1)
    ))
    .about(Subject::job(name)))
}

/// Runs a job and writes its heartbeats.
async fn run_job(store: JobStore, job: Arc<ReadyJob>, options: RunOptions) -> Result<Report> {
    let runner = JobRunner::try_new(&store, &job, &options)?;
    let heart = Heart {
        store: store.clone(),
        id: job.id,
        name: job.name.clone(),
        owner: runner.owner().to_owned(),
        statuses: options.statuses.clone(),
    };
    let run = AssertUnwindSafe(runner.run()).catch_unwind();
    let outcome = tokio::select! {
        outcome = run => outcome.map_err(|panic| said_by(&*panic)),
        () = heart.beat() => Ok(Err(Error::internal("the signs of life have ended"))),
    };
    let outcome = match outcome {
        Ok(outcome) => outcome,
        Err(said) => Err(panicked(&store, job.id, &heart.owner, &said).await),
    };
    heart.stop().await;
    outcome
}

/// The message of a panic.
fn said_by(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().copied();
    let text = text.or_else(|| panic.downcast_ref::<String>().map(String::as_str));
    text.unwrap_or("it gave no message").to_owned()
}

/// Records a panic of this program in the job's log, unless another process runs the job by now.
async fn panicked(store: &JobStore, id: JobId, owner: &str, said: &str) -> Error {
    let error = Error::internal(format!("the program has failed: {said}"));
    let paused = Entry::Paused {
        reason: Some(error.message().to_owned()),
        reported: None,
        at: now(),
    };
    if let Ok(history) = store.history(id).await
        && history.owner.as_deref() == Some(owner)
        && let Err(failure) = append_to(store, id, history, &paused).await
    {
        tracing::warn!(%failure, "the job's log does not say why it ended");
    }
    error
}

fn batch_number(text: &crate::planner::Text) -> Result<u64> {
    text.value.parse().map_err(|_| {
        Error::invalid(format!("'{}' is no number of a batch", text.value))
            .about(Subject::text(&text.value))
            .at(text.span)
    })
}

/// Name of this process in the log: host, process id and a random part.
#[expect(
    clippy::disallowed_methods,
    reason = "a random part tells two runners of a process apart"
)]
pub(super) fn owner() -> String {
    let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    let random = uuid::Uuid::new_v4().simple().to_string();
    format!("{}/{}/{}", host.trim(), std::process::id(), &random[..8])
}

/// Milliseconds since 1970 UTC.
#[expect(
    clippy::disallowed_methods,
    reason = "the clock of statements about jobs, which have no environment"
)]
pub(super) fn now() -> i64 {
    chrono::Utc::now().timestamp_millis()
}

#[cfg(test)]
#[path = "statements_tests.rs"]
mod tests;
