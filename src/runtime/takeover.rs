//! Taking a job over: first in its log, then in its sink; and entries of the log that others write to as well.

use futures::TryStreamExt as _;

use crate::core::jobs::recovery::recover;
use crate::core::jobs::{Decision, Entry, JobHistory, Phase};
use crate::error::{Error, ErrorKind, Result};
use crate::runtime::failpoint;
use crate::runtime::sink::JobSink;
use crate::runtime::statements::ReadyJob;
use crate::state::{JobId, JobStore};

/// How often a log entry is tried again that others write to as well.
pub(super) const ATTEMPTS: usize = 20;

/// The files that versions have added to a Delta table.
pub(super) async fn files_of(
    store: &JobStore,
    id: JobId,
    versions: &[String],
) -> Result<Vec<String>> {
    let versions: Vec<_> = store.versions(id, versions.to_vec()).try_collect().await?;
    Ok(versions
        .into_iter()
        .flat_map(|version| version.files)
        .collect())
}

/// Appends an entry whose place in the log does not matter.
pub(super) async fn append(store: &JobStore, id: JobId, entry: &Entry) -> Result<JobHistory> {
    for _ in 0..ATTEMPTS {
        let mut history = store.history(id).await?;
        if history.phase == Phase::Dropped {
            let dropped = format!("job {} was dropped", history.name);
            return Err(Error::new(ErrorKind::NotFound, dropped)
                .with_help("CREATE JOB makes it anew, from the beginning"));
        }
        if store.append(id, history.next, entry).await? {
            history.apply(entry);
            return Ok(history);
        }
    }
    Err(Error::unavailable(
        "the job's log is written to by others all the time",
    ))
}

/// Makes this process the one that runs the job: first in the log, then in the sink; then the log is brought up to what the
/// sink has. Gives the history after that.
pub(super) async fn take_over(
    store: &JobStore,
    job: &ReadyJob,
    owner: &str,
) -> Result<(JobHistory, JobSink)> {
    let (id, environment) = (job.id, &job.environment);
    let before = store.history(id).await?;
    let takeover = Entry::Takeover {
        owner: owner.to_owned(),
        at: environment.now(),
    };
    let taken = append(store, id, &takeover).await?;
    failpoint::reach("taken-over");
    let (sink, of_delta) = environment
        .take_over(&job.query, id, taken.next - 1)
        .await?;
    // Before the sink was fenced somebody else may have taken over as well, and even run batches.
    let mut history = store.history(id).await?;
    if history.owner.as_deref() != Some(owner) {
        return Err(taken_over());
    }
    let staged = store.staged(id, &history).await?;
    let witness = sink.witness(of_delta, &history, &staged).await?;
    match recover(
        &history,
        before.owner.is_none(),
        witness.as_deref(),
        &staged,
    ) {
        Decision::GoOn => {}
        Decision::AppendCommitted { batch, version } => {
            let entry = Entry::Committed {
                batch,
                version,
                at: environment.now(),
            };
            if !store.append(id, history.next, &entry).await? {
                return Err(taken_over());
            }
            history.apply(&entry);
        }
        Decision::Unclear { batch, reason } => {
            // What the sink has may be of whoever took the job over since.
            if store.history(id).await?.owner.as_deref() != Some(owner) {
                return Err(taken_over());
            }
            return Err(Error::data(format!(
                "job {}: whether batch {batch} is in the sink cannot be told: {reason}",
                history.name
            ))
            .with_help(format!(
                "look into the sink, then say RESUME JOB {0} ASSUMING BATCH {batch} COMMITTED, or NOT COMMITTED",
                history.name
            )));
        }
    }
    // A rewind that died half-way is brought to its end.
    sink.take_back(&files_of(store, id, &history.abandoned).await?)
        .await?;
    sink.mark(&history).await?;
    // What is left was never committed and never will be: its writers are fenced.
    for left in staged {
        if !history.was_committed(&left.name) {
            store.discard(id, &left.name).await?;
        }
    }
    Ok((history, sink))
}

/// Why a runner that was fenced off stops.
pub(super) fn taken_over() -> Error {
    Error::new(
        ErrorKind::Cancelled,
        "another runner has taken the job over",
    )
}
