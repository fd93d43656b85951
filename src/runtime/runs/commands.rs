//! What statements about runs do.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::core::jobs::RunEvent;
use crate::core::runs::order::RunOrder;
use crate::core::runs::{
    AbortDecision, ApplyDecision, Foundations, RunMatch, RunRequest, RunState, decide_apply, moved,
    same_run,
};
use crate::error::{Error, ErrorKind, Result, Subject};
use crate::runtime::job_status::RunOptions;
use crate::runtime::owner::{new_run_id, now};
use crate::runtime::run::run_job;
use crate::runtime::runs::abort::{EndedRun, end_run};
use crate::runtime::runs::foundation::{
    Foundation, asked_by_text, check_chunks, foundation, items_of,
};
use crate::runtime::runs::host::{JobOfRun, PresentJob, RunHost};
use crate::runtime::runs::outcome::{RunOutcome, RunPreview};
use crate::runtime::runs::planner::plan_run;
use crate::runtime::runs::published::settled_by_now;
use crate::runtime::runs::ready::{Purpose, ReadyRun, ready};
use crate::runtime::runs::sweep::sweep_runs;
use crate::runtime::sources::{self, Pasts};
use crate::store::{RunCreation, StoredRun, run_position, run_row};

/// `EXPLAIN REPROCESS JOB`: what the run would read and emit. Nothing is computed and nothing is kept.
///
/// # Errors
///
/// The job cannot be run over this part of its past; a table does not answer.
pub async fn explain(host: &RunHost<'_>, order: &RunOrder) -> Result<RunPreview> {
    let job = host.job(&order.job).await?;
    let run_id = order.run_id.as_deref().unwrap_or_default();
    let found = foundation(host, &job, order, run_id).await?;
    Ok(RunPreview {
        items: items_of(&found.spec),
        warnings: found.warnings,
    })
}

/// `PLAN REPROCESS JOB`: makes the run and computes its rows. Nothing is written to the sink.
///
/// # Errors
///
/// As [`explain`]; another run has the run id; a chunk cannot be computed.
pub async fn plan(host: &RunHost<'_>, order: &RunOrder) -> Result<RunOutcome> {
    let OrderedRun {
        mut run,
        warnings,
        pasts,
    } = ordered(host, order).await?;
    let run_id = run.spec.run_id.clone();
    let said = match run.state() {
        RunState::Planning => {
            let ready = ready(host, &run, Purpose::Plan, pasts).await?;
            plan_run(host, &mut run, &ready).await?;
            format!("run '{run_id}' is planned: APPLY RUN '{run_id}' writes it")
        }
        RunState::Planned => format!("run '{run_id}' was planned before"),
        RunState::Running => format!("run '{run_id}' is being written"),
        RunState::Complete => format!("run '{run_id}' is complete: there is nothing to do"),
        state @ (RunState::Failed { .. } | RunState::Aborted) => return Err(ended(&run, &state)),
    };
    let run = run_row(&host.store, &run).await?;
    Ok(RunOutcome {
        run,
        said,
        warnings,
    })
}

/// `REPROCESS JOB`: makes the run and writes it at once.
///
/// # Errors
///
/// As [`explain`] and [`apply`]; another run has the run id.
pub async fn reprocess(host: &RunHost<'_>, order: &RunOrder) -> Result<RunOutcome> {
    let OrderedRun {
        run,
        warnings,
        pasts,
    } = ordered(host, order).await?;
    if run.state() == RunState::Planned {
        check_foundations(host, &run).await?;
    }
    let outcome = write(host, run, pasts, true).await?;
    Ok(RunOutcome {
        warnings: [warnings, outcome.warnings].concat(),
        ..outcome
    })
}

/// `APPLY RUN`: writes the rows of a planned run, or goes on with one that was interrupted.
///
/// # Errors
///
/// There is no such run; its plan is not complete, or what it rests on has moved; a chunk cannot be written.
pub async fn apply(host: &RunHost<'_>, run_id: &str) -> Result<RunOutcome> {
    let run = host.find(run_id).await?;
    if run.state() == RunState::Planned {
        check_foundations(host, &run).await?;
    }
    write(host, run, Pasts::new(), false).await
}

/// `ABORT RUN`: ends a run. Chunks that are in the sink stay there, and the log has all of them.
///
/// # Errors
///
/// There is no such run; the store does not answer; or the sink does not, and it may have a chunk that the log does not have.
pub async fn abort(host: &RunHost<'_>, run_id: &str) -> Result<RunOutcome> {
    let mut run = host.find(run_id).await?;
    let EndedRun { decision, doubt } = end_run(host, &mut run).await?;
    let run = run_row(&host.store, &run).await?;
    let mut said = match decision {
        AbortDecision::Abort => match run.chunks {
            0 if doubt.is_some() => format!("run '{run_id}' is aborted"),
            0 => format!("run '{run_id}' is aborted: it has written nothing"),
            1 => format!(
                "run '{run_id}' is aborted: 1 chunk with {} rows stays in the sink",
                run.rows_out
            ),
            chunks => format!(
                "run '{run_id}' is aborted: {chunks} chunks with {} rows stay in the sink",
                run.rows_out
            ),
        },
        AbortDecision::Aborted => format!("run '{run_id}' was aborted before"),
        AbortDecision::Complete => {
            format!("run '{run_id}' is complete: there is nothing to abort")
        }
    };
    if let Some(doubt) = doubt {
        said += &format!("\nwarning: {doubt}");
    }
    Ok(RunOutcome {
        run,
        said,
        warnings: Vec::new(),
    })
}

/// The run that an order means, and what the user should know.
struct OrderedRun {
    run: StoredRun,
    warnings: Vec<String>,
    /// The pasts of its sources, if it is new.
    pasts: Pasts,
}

/// The run that an order means: that of its run id if it is the same, or a new one.
async fn ordered(host: &RunHost<'_>, order: &RunOrder) -> Result<OrderedRun> {
    let run_id = order.run_id.clone().unwrap_or_else(new_run_id);
    let found = match order.run_id {
        Some(_) => host.store.find(&run_id).await?,
        None => None,
    };
    let job = host.job(&order.job).await?;
    let mut warnings = Vec::new();
    let mut run = match found {
        Some(run) => run,
        None => {
            let Foundation {
                mut spec,
                warnings: of_order,
                pasts,
            } = foundation(host, &job, order, &run_id).await?;
            warnings = of_order;
            spec.settled = settled_by_now(&host.jobs.store, job.id, &host.store, &spec).await?;
            match host.store.create(spec, now()).await? {
                RunCreation::Created(run) => {
                    sweep_runs(&host.jobs.store, now()).await;
                    return Ok(OrderedRun {
                        run,
                        warnings,
                        pasts,
                    });
                }
                RunCreation::Exists(run) => run,
            }
        }
    };
    let request = RunRequest {
        job_id: job.id.to_string(),
        asked: asked_by_text(&job.query, &order.asked)?,
        options: order.options(run.spec.options.emit),
    };
    let state = run.state();
    match same_run(&run.spec, &state, &request) {
        RunMatch::Continues | RunMatch::Complete => {
            run.spec.options = order.options.paced(run.spec.options);
            if order.options.chunk.is_some() {
                let spec = &run.spec;
                check_chunks(spec.grouping, &spec.emission, spec.options)?;
            }
            Ok(OrderedRun {
                run,
                warnings,
                pasts: Pasts::new(),
            })
        }
        RunMatch::Aborted => Err(ended(&run, &state)),
        RunMatch::Exists(differences) => Err(Error::new(
            ErrorKind::Exists,
            format!(
                "run '{run_id}' exists already, and is another one: it differs in {}",
                differences.join(", ")
            ),
        )
        .about(Subject::text(run_id))
        .with_help("choose another 'run_id'")),
    }
}

/// Writes the chunks of a run that are not in the sink yet. `is_at_once`: the same statement has made it.
async fn write(
    host: &RunHost<'_>,
    mut run: StoredRun,
    pasts: Pasts,
    is_at_once: bool,
) -> Result<RunOutcome> {
    let run_id = run.spec.run_id.clone();
    let mut said = format!("run '{run_id}' is complete");
    match decide_apply(&run.state(), is_at_once) {
        ApplyDecision::Complete => said += ": it was before",
        ApplyDecision::Refuse(why) => return Err(refused(&run, why)),
        ApplyDecision::Approve | ApplyDecision::Resume | ApplyDecision::Continue => {
            // A run that cannot be planned is not approved.
            let job = Arc::new(ready(host, &run, Purpose::Write, pasts).await?.job);
            match host.store.apply(&mut run, is_at_once, now()).await? {
                ApplyDecision::Refuse(why) => return Err(refused(&run, why)),
                ApplyDecision::Complete => said += ": it was before",
                _ => {
                    // The id of a run may be the name of a job: their status and metrics are apart.
                    let options = RunOptions {
                        until_caught_up: true,
                        statuses: host.options.statuses.of_runs(),
                        metrics: None,
                        ..host.options.clone()
                    };
                    let query = Arc::clone(&job.query);
                    let ended = run_job(host.store.jobs().clone(), job, options).await;
                    ended.map_err(|error| query.shown(error))?;
                    if !finish(host, &mut run).await? {
                        said = format!(
                            "run '{run_id}' was stopped: APPLY RUN '{run_id}' continues it"
                        );
                    }
                }
            }
        }
    }
    Ok(RunOutcome {
        run: run_row(&host.store, &run).await?,
        said,
        warnings: Vec::new(),
    })
}

/// Writes to the log that the sink has all of a run, if that is so; false if chunks are left.
///
/// # Errors
///
/// The run was aborted; the store does not answer.
async fn finish(host: &RunHost<'_>, run: &mut StoredRun) -> Result<bool> {
    for _ in 0..StoredRun::ATTEMPTS {
        run.history = host.store.jobs().history(run.id).await?;
        match run.state() {
            RunState::Complete => return Ok(true),
            state @ RunState::Aborted => return Err(ended(run, &state)),
            _ => {}
        }
        if !run_position(&host.store, run).await?.is_complete {
            return Ok(false);
        }
        if host.store.append(run, RunEvent::Completed, now()).await? {
            return Ok(true);
        }
    }
    Err(run.busy())
}

/// Refuses a plan that rests on what has moved since.
async fn check_foundations(host: &RunHost<'_>, run: &StoredRun) -> Result<()> {
    let spec = &run.spec;
    let (query, text, tables, is_dropped) = match host.job_of(spec).await? {
        JobOfRun::Present(job) => {
            let PresentJob { history, query, .. } = *job;
            (query, history.text, history.tables, false)
        }
        JobOfRun::Dropped(query) => (*query, spec.text.clone(), spec.tables.clone(), true),
        JobOfRun::Another => {
            let what = format!("job {} was dropped, and another one has its name", spec.job);
            return Err(has_moved(run, &[what]));
        }
    };
    let mut archives = BTreeMap::new();
    for (table, pin) in &spec.sources {
        // A source that the job no longer reads is a change of its text.
        if query.sources().contains_key(table) {
            let now = sources::archive_now(&query, table, pin).await?;
            archives.insert(table.clone(), now);
        }
    }
    let ReadyRun { comparison, .. } = ready(host, run, Purpose::Plan, Pasts::new()).await?;
    let keys_published_since = match comparison {
        Some(comparison) => comparison.keys_moved(run).await?,
        None => 0,
    };
    let now = Foundations {
        text,
        tables,
        archives,
        statics: query.static_pins().await?.pins,
        keys_published_since,
    };
    let moved = moved(spec, &now);
    if moved.is_empty() {
        return Ok(());
    }
    let mut what: Vec<String> = moved.iter().map(ToString::to_string).collect();
    if is_dropped {
        what.push(format!(
            "job {} was dropped, and its log no longer says where its rows are",
            spec.job
        ));
    }
    Err(has_moved(run, &what))
}

/// The error for a plan that rests on what has moved since.
fn has_moved(run: &StoredRun, what: &[String]) -> Error {
    Error::invalid(format!(
        "run '{}' was planned over what has moved since: {}",
        run.spec.run_id,
        what.join("; ")
    ))
    .with_help("plan it again with another 'run_id'")
}

/// The error for a run that does not go on.
fn ended(run: &StoredRun, state: &RunState) -> Error {
    let run_id = &run.spec.run_id;
    match state {
        RunState::Failed { reason, .. } => {
            Error::invalid(format!("run '{run_id}' has failed: {reason}"))
                .with_help(format!("APPLY RUN '{run_id}' tries again"))
        }
        _ => Error::invalid(format!("run '{run_id}' was aborted"))
            .with_help("a run over the same range needs another 'run_id'"),
    }
}

fn refused(run: &StoredRun, why: &str) -> Error {
    let run_id = &run.spec.run_id;
    Error::invalid(format!("run '{run_id}' cannot be applied: {why}")).with_help(
        match run.state() {
            RunState::Planning => {
                "run PLAN REPROCESS JOB with the same 'run_id' again: it continues where it stands"
            }
            _ => "a run over the same range needs another 'run_id'",
        },
    )
}

#[cfg(test)]
#[path = "commands_tests.rs"]
mod tests;
