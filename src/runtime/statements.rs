//! Statements about jobs, such as CREATE JOB, PAUSE JOB, REWIND JOB and SUBSCRIBE.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use datafusion::sql::parser::Statement as SqlStatement;
use datafusion::sql::sqlparser::ast::Ident;

use crate::core::jobs::{AcceptedChange, Gaps, JobHistory, JobPhase, LogEntry};
use crate::error::{Error, ErrorKind, Result, Subject};
use crate::planner::ast::Emit;
use crate::planner::{JobStatement, TableOption, normalize};
use crate::runtime::describe;
use crate::runtime::environment::Environment;
use crate::runtime::failpoint;
use crate::runtime::job::ReadyJob;
use crate::runtime::job_status::{RunOptions, RunReport};
use crate::runtime::options::JobOptions;
use crate::runtime::owner::now;
use crate::runtime::run::run_job;
use crate::runtime::subscribe::subscribe;
use crate::runtime::takeover::append_to;
use crate::runtime::window_state::keyed::{can_continue_from, changed};
use crate::session::{PlannedStatement, Session, StatementOutcome, batch_rows, job_rows, versions};
use crate::store::{JobId, JobStore};
use crate::streaming::{JobQuery, JobSinkTable};
use crate::tables::kafka::Delivery;

/// The jobs of a data directory, for statements.
#[derive(Debug)]
pub struct Jobs {
    pub(super) store: JobStore,
    /// Whether a job may write to a topic without transactions.
    allows_repeats: bool,
    /// Jobs that a statement of this process has created or confirmed: those that it can run.
    pub(super) ready: tokio::sync::Mutex<BTreeMap<String, Arc<ReadyJob>>>,
}

/// The next action of a process for a job.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NextAction {
    /// Run it.
    Run,
    /// Leave it: it is paused or has failed, or another process has dropped it and may create it again.
    Nothing,
    /// Make it ready again: the job has changed.
    MakeReady,
    /// Forget it: it was dropped.
    Forget,
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
    ) -> Result<StatementOutcome> {
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
    ) -> Result<PlannedStatement> {
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
                    return session.report(describe::explanation(&query, &options).await?);
                }
                let name = normalize(&name);
                self.create(name, or_replace, options, query, text).await
            }
            JobStatement::Pause(name) => {
                let (id, history) = self.find(&normalize(&name)).await?;
                let done = format!("job {} paused", history.name);
                if history.phase == JobPhase::Active {
                    let entry = LogEntry::Paused {
                        reason: None,
                        reported: None,
                        at: now(),
                    };
                    append_to(&self.store, id, history, &entry).await?;
                }
                Ok(PlannedStatement::Done(done))
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
                    done += "\nwarning: it has reported no lost offsets, and skips none; if it reports some now, run the statement again";
                }
                let entry = LogEntry::Resumed {
                    skipping_lost,
                    lost,
                    accepting,
                    assuming,
                    at: now(),
                };
                append_to(&self.store, id, history, &entry).await?;
                Ok(PlannedStatement::Done(done))
            }
            JobStatement::Drop {
                name,
                if_exists,
                cascade,
            } => {
                let name = normalize(&name);
                match self.store.find(&name).await? {
                    None if if_exists => Ok(PlannedStatement::Done(format!("no job {name}"))),
                    None => Err(self.no_such_job(&name).await),
                    Some((id, history)) => {
                        self.check_drop(id, &history, cascade).await?;
                        // A DROP JOB that was interrupted is completed.
                        if history.phase != JobPhase::Dropped {
                            let dropped = LogEntry::Dropped { at: now() };
                            append_to(&self.store, id, history, &dropped).await?;
                        }
                        failpoint::reach("drop-logged");
                        self.store.forget(&name, id).await?;
                        self.ready.lock().await.remove(&name);
                        failpoint::reach("dropped");
                        if let Err(error) = self.store.sweep_dropped().await {
                            tracing::warn!(job = name, %error, "its files are left to the next DROP JOB");
                        }
                        Ok(PlannedStatement::Done(format!("dropped job {name}")))
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
                let rows = batch_rows(&history, &versions)?;
                let but_job: Vec<usize> = (1..rows.num_columns()).collect();
                let rows = rows.project(&but_job);
                session.report(rows.map_err(|error| Error::internal(error.to_string()))?)
            }
            JobStatement::Describe { name, batch } => {
                let (_, history) = self.find(&normalize(&name)).await?;
                session.report(match batch {
                    None => describe::definition(&history)?,
                    Some(batch) => describe::definition_as_of(&history, batch_number(&batch)?)
                        .map_err(|error| error.at(batch.span))?,
                })
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
                Ok(PlannedStatement::Rows(planned))
            }
        }
    }

    /// Runs the jobs that this process has created or confirmed, in parallel. Returns the outcome of each by name.
    pub async fn run(&self, options: &RunOptions) -> Vec<(String, Result<RunReport>)> {
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
    pub async fn run_one(&self, name: &str, options: &RunOptions) -> Option<Result<RunReport>> {
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
    pub async fn next_action(&self, name: &str) -> Result<NextAction> {
        let ready = self.ready.lock().await.get(name).cloned();
        // A job that this process has dropped is no longer ready.
        let Some(job) = ready else {
            return Ok(NextAction::Forget);
        };
        let found = self.store.find(name).await?;
        let found = found.filter(|(_, history)| history.phase != JobPhase::Dropped);
        let Some((id, history)) = found else {
            return Ok(NextAction::Nothing);
        };
        if id != job.id || !job.is_of(&history) {
            let mut all = self.ready.lock().await;
            // A statement of this process may have made the changed job ready meanwhile.
            if all.get(name).is_some_and(|now| Arc::ptr_eq(now, &job)) {
                all.remove(name);
                return Ok(NextAction::MakeReady);
            }
        }
        Ok(match history.phase {
            JobPhase::Active => NextAction::Run,
            _ => NextAction::Nothing,
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
        let options = options.with_sources(query.sources(), given)?;
        Ok((options, query))
    }

    pub(super) fn check_delivery(&self, sink: &JobSinkTable) -> Result<()> {
        match sink {
            JobSinkTable::Kafka(table)
                if table.delivery() == Delivery::AtLeastOnce && !self.allows_repeats =>
            {
                Err(Error::invalid(format!(
                    "jobs are exactly once, and the table of topic '{}' says 'delivery' 'at_least_once'",
                    table.topic()
                ))
                .about(Subject::location(table.topic()))
                .with_help("remove the option: it is for the demo's broker, which has no transactions"))
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
    ) -> Result<PlannedStatement> {
        let tables = query.definitions();
        let found = match self.store.find(&name).await? {
            // The process that dropped it died half-way: this completes the drop, so that the name is free.
            Some((id, history)) if history.phase == JobPhase::Dropped => {
                self.store.forget(&name, id).await?;
                None
            }
            found => found,
        };
        let (id, done) = match found {
            None => {
                let created = LogEntry::Created {
                    name: name.clone(),
                    text: text.to_owned(),
                    tables: tables.clone(),
                    at: now(),
                };
                let id = self.store.create(&created, &name).await?.ok_or_else(|| {
                    Error::unavailable(format!("job {name} is being created by another process"))
                        .about(Subject::job(&name))
                })?;
                (id, format!("job {name}"))
            }
            // A script with CREATE JOB can be run again and again.
            Some((id, history)) if history.text == text && history.tables == tables => {
                (id, format!("job {name}"))
            }
            Some((id, history)) if or_replace => {
                self.check_replacement(id, &history, &query, &options)
                    .await?;
                let replaced = LogEntry::Replaced {
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
                    "CREATE OR REPLACE JOB changes it and continues where it stands; DROP JOB deletes it",
                ));
            }
        };
        let mut done = done;
        for warning in describe::warnings(&query) {
            done += &format!("\nwarning: {warning}");
        }
        let ready = ReadyJob {
            id,
            name: name.clone(),
            text: text.to_owned(),
            tables,
            options,
            query: Arc::new(query),
            environment: Environment::real(),
        };
        self.ready.lock().await.insert(name, Arc::new(ready));
        Ok(PlannedStatement::Done(done))
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
        options: &JobOptions,
    ) -> Result<()> {
        let Some(last) = history.last() else {
            return Ok(());
        };
        let version = self.store.version(id, &last.version).await?;
        if version.sources.keys().eq(query.sources().keys()) {
            if !can_continue_from(&history.name, query.stream(), &version)?
                && !options.resets_on_change
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
            "job {} reads {}, and its replacement {}: the position to continue from is not known",
            history.name,
            names(version.sources.keys().collect()),
            names(query.sources().keys().collect()),
        ))
        .about(Subject::job(&history.name))
        .with_help("drop the job and create it again"))
    }

    /// The job of this name.
    pub(super) async fn find(&self, name: &str) -> Result<(JobId, JobHistory)> {
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
) -> Result<BTreeMap<String, AcceptedChange>> {
    let mut accepted = BTreeMap::new();
    for (table, is_moved) in accepting {
        let name = normalize(table);
        let Some(identity) = history.reported.others.get(&name) else {
            let others: Vec<&str> = history.reported.others.keys().map(String::as_str).collect();
            let help = match others.is_empty() {
                true => "RESUME JOB alone continues it; the job checks its tables first".to_owned(),
                false => format!("it has reported {}", others.join(", ")),
            };
            let message = format!(
                "job {} has not reported that table {name} was replaced",
                history.name
            );
            return Err(Error::invalid(message).with_help(help).at(table.span));
        };
        let identity = identity.clone();
        let is_moved = *is_moved;
        accepted.insert(name, AcceptedChange { identity, is_moved });
    }
    Ok(accepted)
}

fn batch_number(text: &crate::planner::TextValue) -> Result<u64> {
    text.value.parse().map_err(|_| {
        Error::invalid(format!("invalid batch number '{}'", text.value))
            .about(Subject::text(&text.value))
            .at(text.span)
    })
}

#[cfg(test)]
#[path = "statements_tests.rs"]
mod tests;
