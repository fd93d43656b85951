//! ABORT RUN: ends a run. One that was being written is taken over first: so its log has every chunk that is in the sink.

use crate::core::jobs::{JobHistory, RunEvent};
use crate::core::runs::{AbortDecision, RunState, decide_abort};
use crate::error::{Error, ErrorKind, Result};
use crate::runtime::owner::{STATEMENT, now, owner};
use crate::runtime::runs::host::RunHost;
use crate::runtime::runs::ready::{Purpose, ready};
use crate::runtime::sources::Pasts;
use crate::runtime::takeover::{TakenOver, take_over};
use crate::store::StoredRun;

/// What ABORT RUN has decided.
pub(super) struct EndedRun {
    pub(super) decision: AbortDecision,
    /// A batch of which it is unknown whether the sink has it, for the user.
    pub(super) doubt: Option<String>,
}

/// Ends a run, by the newest state of its log.
///
/// # Errors
///
/// The store does not answer; or the sink does not, and a chunk may be there that the log does not have.
pub(super) async fn end_run(host: &RunHost<'_>, run: &mut StoredRun) -> Result<EndedRun> {
    let me = format!("{STATEMENT}{}", owner());
    let mut doubt = None;
    for _ in 0..StoredRun::ATTEMPTS {
        let decision = decide_abort(&run.state());
        if decision != AbortDecision::Abort {
            return Ok(EndedRun { decision, doubt });
        }
        if doubt.is_none() && may_have_written(&run.state()) {
            match recovered(host, run, &me).await {
                Ok(history) => run.history = history,
                Err(error) => {
                    let before = run.history.next;
                    run.history = host.store.jobs().history(run.id).await?;
                    if error.kind() == ErrorKind::Cancelled {
                        let is_mine = run.history.owner.as_deref() == Some(&me);
                        if is_mine || run.history.next == before {
                            return Err(error);
                        }
                        // A runner was faster, and may have written one more chunk.
                        continue;
                    }
                    doubt = doubt_of(host, run, &error).await?;
                }
            }
            // A statement may have ended it before this process took it over.
            if decide_abort(&run.state()) != AbortDecision::Abort {
                continue;
            }
        }
        if host.store.append(run, RunEvent::Aborted, now()).await? {
            let decision = AbortDecision::Abort;
            return Ok(EndedRun { decision, doubt });
        }
        run.history = host.store.jobs().history(run.id).await?;
    }
    Err(run.busy())
}

/// Whether a process may have written a chunk of a run in this state.
fn may_have_written(state: &RunState) -> bool {
    matches!(
        state,
        RunState::Running
            | RunState::Failed {
                was_running: true,
                ..
            }
    )
}

/// Takes the run over as its runner does: the process that writes it now is fenced off, and a chunk that the sink has comes into the log.
async fn recovered(host: &RunHost<'_>, run: &StoredRun, me: &str) -> Result<JobHistory> {
    let job = ready(host, run, Purpose::End, Pasts::new()).await?.job;
    let TakenOver { history, .. } = take_over(host.store.jobs(), &job, me, None).await?;
    Ok(history)
}

/// What remains unknown of a run that cannot be taken over; none if no chunk can be in the sink that the log does not have.
///
/// # Errors
///
/// The fault may pass: then the user tries again.
async fn doubt_of(host: &RunHost<'_>, run: &StoredRun, error: &Error) -> Result<Option<String>> {
    let staged = host.store.jobs();
    let staged = staged.staged_for_next(run.id, &run.history).await?;
    let Some(chunk) = staged.iter().map(|version| version.batch).max() else {
        return Ok(None);
    };
    let doubt = format!("it is not known whether chunk {chunk} is in the sink");
    if error.may_pass() {
        return Err(Error::new(
            error.kind(),
            format!(
                "run '{}' is not aborted, since {doubt}: {}",
                run.spec.run_id,
                error.message()
            ),
        )
        .about_cause(error)
        .with_help("run the statement again when the sink answers"));
    }
    Ok(Some(format!("{doubt}: {}", error.message())))
}
