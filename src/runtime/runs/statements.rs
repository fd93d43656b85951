//! Statements about runs: each is read here, and carried out by the functions of this room.

use crate::core::runs::{AbortDecision, RunOrder};
use crate::error::{Error, Result, Subject};
use crate::planner::{Reprocess, RunStatement, TextValue, WordSpans, normalize};
use crate::runtime::owner::now;
use crate::runtime::runs::description::description;
use crate::runtime::runs::run_order::{checked_run_id, run_order};
use crate::runtime::runs::selected_rows::selected_rows;
use crate::runtime::statements::Jobs;
use crate::session::{PlannedStatement, Session, StatementOutcome, run_rows};
use crate::store::{RunStore, StoredRun};

impl Jobs {
    /// Runs a statement about runs; starts it if it returns rows. `places` are those of its text.
    ///
    /// # Errors
    ///
    /// As [`Self::execute_run`].
    pub(crate) async fn begin_run(
        &self,
        session: &Session,
        statement: RunStatement,
        places: &WordSpans,
    ) -> Result<StatementOutcome> {
        session.begin_ready(self.execute_run(session, statement, places).await?)
    }

    /// Runs a statement about runs; plans it if it returns rows.
    ///
    /// # Errors
    ///
    /// A part of the statement that cannot be read, with its place; there is no such job or run; the errors of the run.
    pub(crate) async fn execute_run(
        &self,
        session: &Session,
        statement: RunStatement,
        places: &WordSpans,
    ) -> Result<PlannedStatement> {
        match statement {
            RunStatement::Explain(asked)
            | RunStatement::Plan(asked)
            | RunStatement::Reprocess(asked) => {
                let order = ordered(session, asked, places).await?;
                let (_, history) = self.find(&order.job).await?;
                Err(Error::unsupported(format!(
                    "a run of job {} does not run yet",
                    history.name
                )))
            }
            RunStatement::Apply(run_id) => {
                let run = self.run(&run_id).await?;
                Err(Error::unsupported(format!(
                    "run '{}' does not run yet",
                    run.spec.run_id
                )))
            }
            RunStatement::Abort(run_id) => {
                let mut run = self.run(&run_id).await?;
                let decision = self.runs().abort(&mut run, now()).await?;
                let id = &run.spec.run_id;
                let written = run.history.batches.len();
                Ok(PlannedStatement::Done(match decision {
                    AbortDecision::Abort if written == 0 => {
                        format!("run '{id}' aborted: nothing of it was written")
                    }
                    AbortDecision::Abort => {
                        format!("run '{id}' aborted: the {written} chunks that are written stay")
                    }
                    AbortDecision::Aborted => format!("run '{id}' was aborted before"),
                    AbortDecision::Complete => {
                        format!("run '{id}' is complete: there is nothing to abort")
                    }
                }))
            }
            RunStatement::Show(job) => {
                let store = self.runs();
                let mut runs = store.all().await?;
                if let Some(job) = job {
                    let job = normalize(&job);
                    runs.retain(|run| match &run.found {
                        Ok(run) => run.spec.job == job,
                        Err(_) => false,
                    });
                    if runs.is_empty() {
                        // A job without runs is there; the runs of a job that was dropped stay.
                        self.find(&job).await?;
                    }
                }
                session.report(run_rows(&store, runs).await?)
            }
            RunStatement::Describe(run_id) => {
                let run = self.run(&run_id).await?;
                session.report(description(&self.runs(), &run).await?)
            }
        }
    }

    /// The runs in the data directory of the jobs.
    fn runs(&self) -> RunStore {
        RunStore::beside(&self.store)
    }

    /// The run of an id that a statement gives.
    async fn run(&self, run_id: &TextValue) -> Result<StoredRun> {
        let id = checked_run_id(run_id)?;
        let store = self.runs();
        match store.find(id).await? {
            Some(run) => Ok(run),
            None => Err(no_such_run(&store, id).await.at(run_id.span)),
        }
    }
}

/// The order of a run, with the rows that the query of FOR gives.
async fn ordered(session: &Session, asked: Reprocess, places: &WordSpans) -> Result<RunOrder> {
    let mut order = run_order(&asked)?;
    if let Some(rows) = asked.rows {
        order.asked.rows = Some(selected_rows(session, rows, places).await?);
    }
    Ok(order)
}

async fn no_such_run(store: &RunStore, id: &str) -> Error {
    let error = Error::not_found(format!("no run has the id '{id}'")).about(Subject::text(id));
    let Ok(ids) = store.run_ids().await else {
        return error;
    };
    match crate::core::suggest::closest(id, ids.iter().map(String::as_str)) {
        Some(near) => error.with_help(format!("did you mean '{near}'?")),
        None if ids.is_empty() => error.with_help("the data directory has no runs"),
        None => error.with_help("SHOW RUNS lists them"),
    }
}

#[cfg(test)]
#[path = "statements_tests.rs"]
mod tests;
