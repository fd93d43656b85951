//! What statements about runs work with: the jobs of a data directory, the runs beside them, and the session of the statement.

use std::time::Duration;

use crate::core::jobs::{JobHistory, JobPhase};
use crate::core::runs::RunSpec;
use crate::error::{Error, ErrorKind, Result, Subject};
use crate::runtime::definitions::{JobDefinition, check_secrets, define, job_definition};
use crate::runtime::job_status::RunOptions;
use crate::runtime::statements::Jobs;
use crate::session::Session;
use crate::store::{JobId, RunStore, StoredRun};
use crate::streaming::JobQuery;

/// How long one table may take to open.
const PATIENCE: Duration = Duration::from_secs(30);

/// The place where a statement about runs runs.
#[derive(Debug)]
pub struct RunHost<'a> {
    pub(super) jobs: &'a Jobs,
    pub(super) session: &'a Session,
    /// Stop signal, status and metrics of the runs that the statement runs.
    pub(super) options: RunOptions,
    pub(super) store: RunStore,
}

/// The job of a run, as it is now.
pub(super) enum JobOfRun {
    /// It is there.
    Present(Box<PresentJob>),
    /// It was dropped: the query that the run was made of.
    Dropped(Box<JobQuery>),
    /// Another job has its name.
    Another,
}

/// A job as it is defined now.
pub(super) struct PresentJob {
    pub(super) id: JobId,
    pub(super) history: JobHistory,
    pub(super) query: JobQuery,
}

impl<'a> RunHost<'a> {
    /// The runs beside these jobs, for a statement of this session.
    pub fn new(jobs: &'a Jobs, session: &'a Session) -> Self {
        Self {
            store: RunStore::beside(&jobs.store),
            jobs,
            session,
            options: RunOptions::default(),
        }
    }

    /// The same with a stop signal, a status and metrics for the runs.
    #[must_use]
    pub fn with_options(self, options: RunOptions) -> Self {
        Self { options, ..self }
    }

    /// The runs.
    pub fn store(&self) -> &RunStore {
        &self.store
    }

    /// The run of a run id.
    ///
    /// # Errors
    ///
    /// There is none, or the store does not answer.
    pub(super) async fn find(&self, run_id: &str) -> Result<StoredRun> {
        match self.store.find(run_id).await? {
            Some(run) => Ok(run),
            None => Err(self.no_such_run(run_id).await),
        }
    }

    async fn no_such_run(&self, run_id: &str) -> Error {
        let error =
            Error::not_found(format!("there is no run '{run_id}'")).about(Subject::text(run_id));
        let Ok(names) = self.store.jobs().names().await else {
            return error;
        };
        match crate::core::suggest::closest(run_id, names.iter().map(String::as_str)) {
            Some(near) => error.with_help(format!("did you mean '{near}'?")),
            None => error.with_help("SHOW RUNS lists the runs"),
        }
    }

    /// A session with tables and views of these definitions, and with the rights of the statement.
    ///
    /// # Errors
    ///
    /// A definition that cannot be read or opened.
    pub(super) async fn session_with(&self, definitions: &[String]) -> Result<Session> {
        let session = self.session.fork_alike()?;
        check_secrets(&session, definitions)?;
        define(&session, definitions, PATIENCE).await?;
        Ok(session)
    }

    /// The job of this name, planned as it runs.
    ///
    /// # Errors
    ///
    /// There is no such job, or it was dropped; it cannot be planned.
    pub(super) async fn job(&self, name: &str) -> Result<PresentJob> {
        let (id, history) = self.jobs.find(name).await?;
        if history.phase == JobPhase::Dropped {
            return Err(Error::new(
                ErrorKind::NotFound,
                format!("job {name} was dropped"),
            ));
        }
        let query = self.planned(&history.text, &history.tables).await?;
        Ok(PresentJob { id, history, query })
    }

    /// The job that a run was made of, planned as it runs now, or as it ran when the run was made if it was dropped.
    ///
    /// # Errors
    ///
    /// It cannot be planned; the store does not answer.
    pub(super) async fn job_of(&self, spec: &RunSpec) -> Result<JobOfRun> {
        let found = self.jobs.store.find(&spec.job).await?;
        Ok(match found {
            Some((id, _)) if id.to_string() != spec.job_id => JobOfRun::Another,
            Some((id, history)) if history.phase != JobPhase::Dropped => {
                let query = self.planned(&history.text, &history.tables).await?;
                JobOfRun::Present(Box::new(PresentJob { id, history, query }))
            }
            _ => JobOfRun::Dropped(Box::new(self.planned(&spec.text, &spec.tables).await?)),
        })
    }

    /// The query of a job with this statement and these tables.
    async fn planned(&self, text: &str, tables: &[String]) -> Result<JobQuery> {
        let session = self.session_with(tables).await?;
        let JobDefinition {
            options,
            insert,
            emit,
        } = job_definition(text)?;
        let (_, query) = self.jobs.planned(&session, &options, insert, emit).await?;
        Ok(query)
    }
}
