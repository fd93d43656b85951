//! ABORT RUN: ends a run. One that was being written is taken over first: so its log has every chunk that is in the sink.

use async_trait::async_trait;

use crate::core::jobs::heartbeat::is_recent;
use crate::core::jobs::{JobHistory, RunEvent};
use crate::core::runs::{AbortDecision, RunState, decide_abort};
use crate::error::{Error, ErrorKind, Result};
use crate::runtime::job::ReadyJob;
use crate::runtime::owner::{STATEMENT, now, owner};
use crate::runtime::runs::host::RunHost;
use crate::runtime::runs::ready::{Purpose, ready};
use crate::runtime::sources::Pasts;
use crate::runtime::takeover::{TakenOver, take_over};
use crate::store::{RunStore, StoredRun};

/// What ABORT RUN has decided.
pub(in crate::runtime) struct EndedRun {
    pub(in crate::runtime) decision: AbortDecision,
    /// What the log may lack of the sink, for the user.
    pub(in crate::runtime) doubt: Option<String>,
}

/// The runs of a process that ends one of them.
#[async_trait]
pub(in crate::runtime) trait EndingProcess: Sync {
    /// The runs.
    fn runs(&self) -> &RunStore;

    /// A run, ready to be taken over.
    async fn ready_to_end(&self, run: &StoredRun) -> Result<ReadyJob>;
}

#[async_trait]
impl EndingProcess for RunHost<'_> {
    fn runs(&self) -> &RunStore {
        &self.store
    }

    async fn ready_to_end(&self, run: &StoredRun) -> Result<ReadyJob> {
        Ok(ready(self, run, Purpose::End, Pasts::new()).await?.job)
    }
}

/// Ends a run, by the newest state of its log.
///
/// # Errors
///
/// The store does not answer; or the sink does not, and a chunk may be there that the log does not have, or may come there yet.
pub(in crate::runtime) async fn end_run(
    process: &impl EndingProcess,
    run: &mut StoredRun,
) -> Result<EndedRun> {
    let me = format!("{STATEMENT}{}", owner());
    let store = process.runs();
    let mut doubt = None;
    let is_other = |history: &JobHistory| history.owner.as_ref().is_some_and(|owner| *owner != me);
    let mut has_other = false;
    for _ in 0..StoredRun::ATTEMPTS {
        has_other |= is_other(&run.history);
        let decision = decide_abort(&run.state());
        if decision != AbortDecision::Abort {
            return Ok(EndedRun { decision, doubt });
        }
        if doubt.is_none() && may_have_written(&run.state()) {
            match recovered(process, run, &me).await {
                Ok(history) => run.history = history,
                Err(error) => {
                    let before = run.history.next;
                    run.history = store.jobs().history(run.id).await?;
                    // Of what came since, only its own takeover is of this process.
                    has_other |= is_other(&run.history) || run.history.next > before + 1;
                    if error.kind() == ErrorKind::Cancelled {
                        let is_mine = run.history.owner.as_deref() == Some(&me);
                        if is_mine || run.history.next == before {
                            return Err(error);
                        }
                        // A runner was faster, and may have written one more chunk.
                        continue;
                    }
                    doubt = doubt_of(store, run, &error, has_other).await?;
                }
            }
            // A statement may have ended it before this process took it over.
            if decide_abort(&run.state()) != AbortDecision::Abort {
                continue;
            }
        }
        if store.append(run, RunEvent::Aborted, now()).await? {
            let decision = AbortDecision::Abort;
            return Ok(EndedRun { decision, doubt });
        }
        run.history = store.jobs().history(run.id).await?;
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
async fn recovered(process: &impl EndingProcess, run: &StoredRun, me: &str) -> Result<JobHistory> {
    let job = process.ready_to_end(run).await?;
    let TakenOver { history, .. } = take_over(process.runs().jobs(), &job, me, None).await?;
    Ok(history)
}

/// What remains unknown of a run that cannot be taken over: whether the sink has a chunk that the log does not have, or gets one yet.
///
/// # Errors
///
/// The fault may pass: then the user tries again, unless no process can have written the run. One that was not fenced off may commit one
/// more chunk, since it looks at the log only after that. `has_other`: another process has taken the run over before.
async fn doubt_of(
    store: &RunStore,
    run: &StoredRun,
    error: &Error,
    has_other: bool,
) -> Result<Option<String>> {
    let staged = store.jobs().staged_for_next(run.id, &run.history).await?;
    let doubt = match staged.iter().map(|version| version.batch).max() {
        Some(chunk) => Some(format!(
            "it is not known whether chunk {chunk} is in the sink"
        )),
        None => {
            let beat = store.jobs().heartbeat(run.id).await?;
            let is_alive = beat.is_some_and(|beat| is_recent(beat.at, now()));
            is_alive.then(|| {
                "the process that writes it is not fenced off, and may write one more chunk"
                    .to_owned()
            })
        }
    };
    if error.may_pass() && (has_other || doubt.is_some()) {
        let why = doubt.as_deref();
        let why = why.unwrap_or("the process that wrote it may not be fenced off");
        return Err(Error::new(
            error.kind(),
            format!(
                "run '{}' is not aborted, since {why}: {}",
                run.spec.run_id,
                error.message()
            ),
        )
        .about_cause(error)
        .with_help("run the statement again when the sink answers"));
    }
    Ok(doubt.map(|doubt| format!("{doubt}: {}", error.message())))
}
