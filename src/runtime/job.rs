//! A job that a process can run.

use std::sync::Arc;

use crate::core::jobs::JobHistory;
use crate::error::{Error, Subject};
use crate::runtime::environment::Environment;
use crate::runtime::options::JobOptions;
use crate::store::JobId;
use crate::streaming::JobQuery;

/// A job or a reprocessing run of this name, for the user.
pub(super) fn named(name: &str, is_run: bool) -> String {
    match is_run {
        true => format!("run '{name}'"),
        false => format!("job {name}"),
    }
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

impl ReadyJob {
    /// The name in SQL.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its name, for the user: that of a job or of a reprocessing run.
    pub(super) fn said(&self) -> String {
        named(&self.name, self.is_run())
    }

    /// By what an error that is about it finds it in a text.
    pub(super) fn subject(&self) -> Subject {
        match self.is_run() {
            true => Subject::text(&self.name),
            false => Subject::job(&self.name),
        }
    }

    /// An error as its user is told it: no statement about jobs helps a run.
    pub(super) fn told(&self, error: Error) -> Error {
        let is_of_jobs = error.help().is_some_and(|help| help.contains(" JOB"));
        match self.is_run() && is_of_jobs {
            true => error.with_other_help(self.next_step()),
            false => error,
        }
    }

    /// The statement that continues it after a failure.
    pub(super) fn next_step(&self) -> String {
        let name = &self.name;
        match self.is_run() {
            true => format!(
                "APPLY RUN '{name}' continues it when the cause is gone; ABORT RUN '{name}' gives it up"
            ),
            false => format!("RESUME JOB {name} continues it"),
        }
    }

    fn is_run(&self) -> bool {
        self.environment.tables.are_of_run()
    }

    /// Whether it still agrees with the job in the log.
    pub(super) fn is_of(&self, history: &JobHistory) -> bool {
        history.text == self.text && history.tables == self.tables
    }
}
