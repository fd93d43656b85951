//! Takeover of a job: first in its log, then in its sink; and appends to the log beside other writers.

use futures::TryStreamExt as _;

use crate::core::jobs::log::sequence_of;
use crate::core::jobs::recovery::{StagedVersion, recover, recover_in_new_sink};
use crate::core::jobs::startup::began_at;
use crate::core::jobs::{
    BatchVersion, Identity, IdentityMatch, IdentityStatus, JobHistory, JobPhase, LogEntry,
    MissingBatches, Offsets, RecoveryDecision, missing_in_sink,
};
use crate::error::{Error, ErrorKind, Result, Subject};
use crate::runtime::failpoint;
use crate::runtime::identities::check_sink;
use crate::runtime::job::{ReadyJob, named};
use crate::runtime::sink::{JobLog, JobSink, Witness};
use crate::store::{JobId, JobStore};

/// How often the append of a log entry is retried when other processes write as well.
pub(super) const ATTEMPTS: usize = 20;

/// The files that versions have added to a table.
pub(super) fn files_of<'v>(versions: impl IntoIterator<Item = &'v BatchVersion>) -> Vec<String> {
    let files = versions.into_iter().flat_map(|version| &version.files);
    files.cloned().collect()
}

/// The files of those versions that were written to this sink.
pub(super) fn files_in<'v>(
    versions: impl IntoIterator<Item = &'v BatchVersion>,
    sink: Option<&Identity>,
) -> Vec<String> {
    let is_in = |version: &&BatchVersion| match version.sink.as_ref().zip(sink) {
        Some((then, now)) => then.compare(now) != IdentityMatch::Other,
        None => true,
    };
    files_of(versions.into_iter().filter(is_in))
}

/// Error for a job that was dropped.
pub(super) fn job_dropped(job: &str) -> Error {
    Error::new(ErrorKind::NotFound, format!("job {job} was dropped"))
        .about(Subject::job(job))
        .with_help("CREATE JOB creates it again, from the beginning")
}

/// Appends an entry, whose place in the log does not matter, to a log that has been read; the log is read again only if it has
/// grown since.
pub(super) async fn append_to(
    store: &JobStore,
    id: JobId,
    mut history: JobHistory,
    entry: &LogEntry,
) -> Result<JobHistory> {
    for _ in 0..ATTEMPTS {
        if history.phase == JobPhase::Dropped {
            return Err(job_dropped(&history.name));
        }
        if store.append_next(id, &mut history, entry).await? {
            return Ok(history);
        }
        history = store.history(id).await?;
    }
    let said = named(&history.name, history.run.is_some());
    Err(Error::unavailable(format!(
        "other processes keep writing to the log of {said}"
    )))
}

/// A job that this process has taken over.
pub(super) struct TakenOver {
    pub(super) history: JobHistory,
    pub(super) sink: Box<dyn JobSink>,
    /// Which topic or table the sink is.
    pub(super) identity: Option<Identity>,
    /// The version where the job stands, with its name.
    pub(super) last: Option<(String, BatchVersion)>,
    /// The batches that the sink lacks, if it was restored to an earlier state and a rewind repairs that.
    pub(super) missing: Option<MissingBatches>,
    /// Of a job that was rewound to its beginning: where it began.
    pub(super) began_at: Option<Offsets>,
}

/// Makes this process the owner of the job: first in the log, then in the sink. Then it brings the log up to date with the sink
/// and returns the history after that.
///
/// A rewind goes back to batch `rewinds_to`: the sink need not have later batches.
pub(super) async fn take_over(
    store: &JobStore,
    job: &ReadyJob,
    owner: &str,
    rewinds_to: Option<u64>,
) -> Result<TakenOver> {
    let (id, environment) = (job.id, &job.environment);
    let before = store.history(id).await?;
    let takeover = LogEntry::Takeover {
        owner: owner.to_owned(),
        at: environment.clock.now(),
    };
    let is_first = before.owner.is_none();
    let taken = append_to(store, id, before, &takeover).await?;
    failpoint::reach("taken-over");
    let sink = environment.tables.sink(&job.query, id, &job.name)?;
    if let Some(now) = sink.identity_before().await? {
        let last = last_version(store, id, owner, &taken).await?;
        check_sink(sink_name(job), &now, version_of(last.as_ref()), &taken)?;
    }
    let mut sink = sink.take_over(taken.next - 1).await?;
    // Before this process fenced the sink, another one may have taken over as well, and even run batches.
    let mut history = store.history(id).await?;
    if history.owner.as_deref() != Some(owner) {
        return Err(taken_over());
    }
    let mut last = last_version(store, id, owner, &history).await?;
    let identity = sink.identity().await?;
    let standing = match &identity {
        Some(now) => check_sink(sink_name(job), now, version_of(last.as_ref()), &history)?,
        None => IdentityStatus::NotStored,
    };
    let staged = store.staged(id, &history).await?;
    let log = JobLog {
        store,
        id,
        history: &history,
        staged: &staged,
    };
    let witness = sink.witness(log).await?;
    if let Some(version) = witness.untold_since {
        let last = history.last().map_or(0, |last| last.batch);
        if history.assuming != Some((last, true)) {
            return Err(unknown_restore(job, last, version));
        }
    }
    let mut missing = None;
    let decision = match standing {
        // It has no row of batches that were staged for the sink before it; of a batch that was staged for it, it may have all
        // rows.
        IdentityStatus::New => {
            let own = staged_for(store, id, &staged, identity.as_ref()).await?;
            recover_in_new_sink(&history, witness.version.as_deref(), &own)
        }
        _ => {
            missing = missing_batches(log, &witness, identity.as_ref()).await?;
            recover(&history, is_first, witness.version.as_deref(), &staged)
        }
    };
    if let Some(lacked) = missing {
        let is_mended = rewinds_to.is_some_and(|to| to < lacked.first);
        if history.assuming == Some((lacked.last, true)) {
            missing = None;
        } else if !is_mended {
            return Err(restored_sink(job, lacked));
        }
    }
    match decision {
        RecoveryDecision::Continue => {}
        RecoveryDecision::AppendCommitted { batch, version } => {
            let staged = store.version(id, &version).await?;
            let entry = LogEntry::Committed {
                batch,
                version,
                at: match &staged.clock {
                    Some(clock) => clock.at,
                    None => environment.clock.now(),
                },
            };
            if !store.append_next(id, &mut history, &entry).await? {
                return Err(taken_over());
            }
            last = last_version(store, id, owner, &history).await?;
        }
        unsure => {
            // The sink's rows may come from a process that has taken the job over since.
            if store.history(id).await?.owner.as_deref() != Some(owner) {
                return Err(taken_over());
            }
            return Err(unclear(job, unsure));
        }
    }
    // A rewind that was interrupted is completed.
    let abandoned = store.versions(id, history.abandoned.clone());
    let abandoned: Vec<BatchVersion> = abandoned.try_collect().await?;
    sink.forget_after(version_of(last.as_ref())).await?;
    sink.take_back(&files_of(&abandoned)).await?;
    if missing.is_none() {
        sink.mark(&history).await?;
    }
    // The remaining versions were never committed and never will be: their writers are fenced.
    for left in staged {
        if !history.was_committed(&left.name) {
            store.discard(id, &left.name).await?;
        }
    }
    // All versions of a job that was rewound to its beginning are abandoned, and they are kept until it commits a batch again.
    let first = abandoned.iter().filter(|version| version.batch == 1);
    let first = first.max_by_key(|version| version.sequence);
    Ok(TakenOver {
        history,
        sink,
        identity,
        began_at: first.filter(|_| last.is_none()).map(began_at),
        last,
        missing,
    })
}

/// The staged versions whose rows go to this sink.
async fn staged_for(
    store: &JobStore,
    id: JobId,
    staged: &[StagedVersion],
    sink: Option<&Identity>,
) -> Result<Vec<StagedVersion>> {
    let mut own = Vec::new();
    for version in staged {
        let written_to = store.version(id, &version.name).await?.sink;
        let is_own = written_to.zip(sink);
        if is_own.is_some_and(|(then, now)| then.compare(now) != IdentityMatch::Other) {
            own.push(version.clone());
        }
    }
    Ok(own)
}

/// The batches of the log that the sink lacks.
async fn missing_batches(
    log: JobLog<'_>,
    witness: &Witness,
    sink: Option<&Identity>,
) -> Result<Option<MissingBatches>> {
    let JobLog {
        store, id, history, ..
    } = log;
    let keeps_all = witness.rows.is_none();
    let Some(witness) = witness.rows.as_ref().or(witness.version.as_ref()) else {
        return Ok(None);
    };
    let last = history.last().map(|last| last.version.as_str());
    if last.is_none() || last == Some(witness.as_str()) {
        return Ok(None);
    }
    let names: Vec<String> = history
        .batches
        .iter()
        .rev()
        .map(|batch| batch.version.clone())
        .collect();
    let mut rows = Vec::new();
    let mut versions = std::pin::pin!(store.versions(id, names));
    while let Some(version) = versions.try_next().await? {
        let written_to = version.sink.as_ref().zip(sink);
        let is_same =
            written_to.is_some_and(|(then, now)| then.compare(now) != IdentityMatch::Other);
        if !is_same || sequence_of(witness).is_some_and(|known| version.sequence <= known) {
            break;
        }
        rows.push(version.rows_out);
    }
    Ok(missing_in_sink(history, witness, keeps_all, &rows))
}

fn restored_sink(of: &ReadyJob, missing: MissingBatches) -> Error {
    let (said, job) = (of.said(), &of.name);
    let MissingBatches { first, last, .. } = missing;
    let before = first.saturating_sub(1);
    Error::data(format!(
        "{said}: the log has batches {first} to {last} and the sink does not: the sink was restored to an earlier state"
    ))
    .about(of.subject())
    .with_help(format!(
        "REWIND JOB {job} TO BATCH {before} runs them again, as far as their records are there; RESUME JOB {job} ASSUMING BATCH \
         {last} COMMITTED continues without their rows; or restore the newer sink, then RESUME JOB {job}"
    ))
}

/// Error if the log of the sink does not show which batches it lacks.
fn unknown_restore(of: &ReadyJob, last: u64, version: u64) -> Error {
    let (said, job) = (of.said(), &of.name);
    Error::data(format!(
        "{said}: it is unknown whether batch {last} is in the sink: version {version} has restored it to an earlier state, which \
         its log no longer describes"
    ))
    .about(of.subject())
    .with_help(format!(
        "inspect the sink; RESUME JOB {job} ASSUMING BATCH {last} COMMITTED continues, and rows that are not there are missing; or \
         restore the sink to the version before {version}, then RESUME JOB {job}"
    ))
}

/// Error for a job that cannot find out which batches the sink has.
fn unclear(of: &ReadyJob, decision: RecoveryDecision) -> Error {
    let (said, job) = (of.said(), &of.name);
    match decision {
        RecoveryDecision::OlderLog { batch, witness } => Error::data(format!(
            "{said}: the data directory is older than the sink, which has {witness}; the log's next batch is {batch}"
        ))
        .about(of.subject())
        .with_help(format!(
            "restore the newer data directory, or a backup of the sink from the same time, then RESUME JOB {job}; RESUME JOB {job} ASSUMING BATCH \
             {batch} NOT COMMITTED runs batch {batch} and those after it again, and their rows are in the sink twice"
        )),
        RecoveryDecision::Unclear { batch, reason } => Error::data(format!(
            "{said}: it is unknown whether batch {batch} is in the sink: {reason}"
        ))
        .about(of.subject())
        .with_help(format!(
            "inspect the sink, then run RESUME JOB {job} ASSUMING BATCH {batch} COMMITTED, or NOT COMMITTED"
        )),
        RecoveryDecision::Continue | RecoveryDecision::AppendCommitted { .. } => Error::internal("a decision that is clear"),
    }
}

async fn last_version(
    store: &JobStore,
    id: JobId,
    owner: &str,
    history: &JobHistory,
) -> Result<Option<(String, BatchVersion)>> {
    let Some(last) = history.last() else {
        return Ok(None);
    };
    match store.version(id, &last.version).await {
        Ok(version) => Ok(Some((last.version.clone(), version))),
        Err(error) => {
            // If this runner stalled here, another one may have gone on and swept files that the log named when this runner
            // read it.
            let is_mine = store.history(id).await?.owner.as_deref() == Some(owner);
            Err(if is_mine { error } else { taken_over() })
        }
    }
}

fn version_of(last: Option<&(String, BatchVersion)>) -> Option<&BatchVersion> {
    last.map(|(_, version)| version)
}

fn sink_name(job: &ReadyJob) -> &str {
    job.query.sink_name().unwrap_or_default()
}

/// Error for a runner that was fenced off.
pub(super) fn taken_over() -> Error {
    Error::new(
        ErrorKind::Cancelled,
        "another runner has taken the job over",
    )
}
