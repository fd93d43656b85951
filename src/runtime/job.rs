//! A job that a process can run.

use std::sync::Arc;

use crate::core::jobs::JobHistory;
use crate::runtime::environment::Environment;
use crate::runtime::options::JobOptions;
use crate::store::JobId;
use crate::streaming::JobQuery;

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

    /// Whether it still agrees with the job in the log.
    pub(super) fn is_of(&self, history: &JobHistory) -> bool {
        history.text == self.text && history.tables == self.tables
    }
}
