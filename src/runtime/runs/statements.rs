//! Statements about runs: from their parts to what they do, and from that to their rows.

use crate::core::runs::RunOrder;
use crate::error::{Error, ErrorKind, Result};
use crate::planner::{Reprocess, RunStatement, WordSpans, normalize};
use crate::runtime::job_status::RunOptions;
use crate::runtime::runs::description::{
    description, outcome_rows, preview_rows, rows_without_run,
};
use crate::runtime::runs::host::RunHost;
use crate::runtime::runs::outcome::RunOutcome;
use crate::runtime::runs::rows_query::checked_rows;
use crate::runtime::runs::run_order::{checked_run_id, run_order};
use crate::runtime::runs::{abort, apply, explain, plan, reprocess};
use crate::runtime::statements::Jobs;
use crate::session::{PlannedStatement, Session, run_rows};

impl Jobs {
    /// Runs a statement about runs; plans it if it returns rows. `places` are those of its text. A run that it runs is stopped by
    /// `options`, and updates their status.
    ///
    /// # Errors
    ///
    /// A part of the statement that cannot be read, with its place; there is no such job or run; the errors of the run.
    pub(crate) async fn execute_run(
        &self,
        session: &Session,
        statement: RunStatement,
        places: &WordSpans,
        options: &RunOptions,
    ) -> Result<PlannedStatement> {
        let host = RunHost::new(self, session).with_options(options.clone());
        match statement {
            RunStatement::Explain(asked) => {
                let order = ordered(session, *asked, places).await?;
                match explain(&host, &order).await {
                    Ok(preview) => session.report(preview_rows(&preview)?),
                    Err(error) => without_run(session, error),
                }
            }
            RunStatement::Plan(asked) => {
                let order = ordered(session, *asked, places).await?;
                // A plan writes nothing that it would have to end.
                let planned = tokio::select! {
                    planned = plan(&host, &order) => planned,
                    () = options.stop.wait() => return Err(stopped()),
                };
                match planned {
                    Ok(planned) => rows_of(&host, planned).await,
                    Err(error) => without_run(session, error),
                }
            }
            RunStatement::Reprocess(asked) => {
                let order = ordered(session, *asked, places).await?;
                match reprocess(&host, &order).await {
                    Ok(outcome) => rows_of(&host, outcome).await,
                    Err(error) => without_run(session, error),
                }
            }
            RunStatement::Apply(run_id) => {
                let outcome = apply(&host, checked_run_id(&run_id)?).await?;
                rows_of(&host, outcome).await
            }
            RunStatement::Abort(run_id) => {
                let outcome = abort(&host, checked_run_id(&run_id)?).await?;
                Ok(PlannedStatement::Done(outcome.said))
            }
            RunStatement::Show(job) => {
                let mut runs = host.store().all().await?;
                if let Some(job) = job {
                    let job = normalize(&job);
                    runs.retain(|run| run.found.as_ref().is_ok_and(|run| run.spec.job == job));
                    if runs.is_empty() {
                        // The runs of a job that was dropped stay; a job that was never there has none.
                        self.find(&job).await?;
                    }
                }
                session.report(run_rows(host.store(), runs).await?)
            }
            RunStatement::Describe(run_id) => {
                let run = host.find(checked_run_id(&run_id)?).await?;
                session.report(description(host.store(), &run).await?)
            }
        }
    }
}

/// The rows of a statement that has made or moved a run.
async fn rows_of(host: &RunHost<'_>, outcome: RunOutcome) -> Result<PlannedStatement> {
    let run = host.find(&outcome.run.run_id).await?;
    let rows = outcome_rows(host.store(), &run, &outcome).await?;
    host.session.report(rows)
}

/// The rows of a statement that asks for a run and makes none, since nothing is left to do.
///
/// # Errors
///
/// Any other error.
fn without_run(session: &Session, error: Error) -> Result<PlannedStatement> {
    match error.has_nothing_to_do() {
        true => session.report(rows_without_run(&error)?),
        false => Err(error),
    }
}

fn stopped() -> Error {
    Error::new(ErrorKind::Cancelled, "the plan was stopped")
        .with_help("the same statement with its 'run_id' continues it")
}

/// The order of a run, with the text of the query of FOR.
async fn ordered(session: &Session, asked: Reprocess, places: &WordSpans) -> Result<RunOrder> {
    let mut order = run_order(&asked)?;
    if let Some(rows) = asked.rows {
        order.asked.rows = Some(checked_rows(session, rows, places).await?);
    }
    Ok(order)
}

#[cfg(test)]
#[path = "statements_tests.rs"]
mod tests;
