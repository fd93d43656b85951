//! Check of sinks: compares each sink with the log of its job, without taking it over, so that the job may run meanwhile.

use std::collections::BTreeMap;
use std::time::Duration;

use futures::TryStreamExt as _;

use crate::core::jobs::log::sequence_of;
use crate::core::jobs::recovery::{BEGINNING, recover};
use crate::core::jobs::{Identity, IdentityMatch, JobHistory, JobPhase, RecoveryDecision};
use crate::error::{Error, ErrorKind, Result};
use crate::planner::{JobStatement, Parameters, Script, Statement, parse_statement};
use crate::runtime::consistency_check::{CheckReport, Finding};
use crate::runtime::sink::JobLog;
use crate::runtime::sinks;
use crate::session::Session;
use crate::store::{DataDir, FoundJob, JobId, JobStore};

/// How long a sink may take to answer.
const PATIENCE: Duration = Duration::from_secs(30);
/// A running job writes to its sink before its log. A difference that lasts so long is not a batch that is being committed.
const SETTLING: Duration = Duration::from_secs(2);

/// Compares the sink of one job, or of all, with the job's log.
///
/// # Errors
///
/// The data directory does not answer. A sink that does not answer is a finding.
pub async fn check_sinks(
    dir: &DataDir,
    job: Option<&str>,
    session: &Session,
    report: &mut CheckReport,
) -> Result<()> {
    let store = JobStore::new(dir.clone());
    let names = match job {
        Some(name) => vec![name.to_owned()],
        None => store.names().await?,
    };
    for FoundJob { name, found } in store.found(names).await? {
        // Jobs that cannot be read were reported already.
        let Ok((id, history)) = found else { continue };
        if history.phase == JobPhase::Dropped {
            continue;
        }
        let finding = match settled(&store, id, history, session).await {
            Ok(None) => continue,
            Ok(Some(finding)) => finding,
            Err(error) if error.kind() == ErrorKind::Internal => return Err(error),
            Err(error) => SinkDifference {
                problem: format!("it cannot be compared: {}", error.message()),
                lost: "nothing is known".to_owned(),
                help: error
                    .help()
                    .unwrap_or("try again when it answers")
                    .to_owned(),
            },
        };
        report.findings.push(Finding {
            job: Some(name),
            place: "sink".to_owned(),
            problem: finding.problem,
            lost: finding.lost,
            help: finding.help,
        });
    }
    Ok(())
}

/// The difference between a sink and the job's log that exists now and a moment later.
#[expect(
    clippy::disallowed_methods,
    reason = "a person asked, and waits a moment for a sink that is being written"
)]
async fn settled(
    store: &JobStore,
    id: JobId,
    history: JobHistory,
    session: &Session,
) -> Result<Option<SinkDifference>> {
    let found = check_sink(store, id, &history, session).await?;
    if found.is_none() {
        return Ok(None);
    }
    tokio::time::sleep(SETTLING).await;
    let history = store.history(id).await?;
    if history.phase == JobPhase::Dropped {
        return Ok(None);
    }
    check_sink(store, id, &history, session).await
}

struct SinkDifference {
    problem: String,
    lost: String,
    help: String,
}

async fn check_sink(
    store: &JobStore,
    id: JobId,
    history: &JobHistory,
    session: &Session,
) -> Result<Option<SinkDifference>> {
    let session = session.fork_alike()?;
    for definition in &history.tables {
        // Tables that do not open are reported by the statement that needs them.
        let _ = session.restore(parsed(definition)?, PATIENCE).await;
    }
    let text = parsed(&history.text)?;
    let Statement::Job(job) = text.statement else {
        return Err(Error::internal("the stored statement is not a job"));
    };
    let JobStatement::Create { insert, .. } = *job else {
        return Err(Error::internal(
            "the stored statement does not create the job",
        ));
    };
    let staged = store.staged_for_next(id, history).await?;
    // Which topics the job reads plays no part while it writes nothing.
    let table = session.sink_of(&insert).await?;
    let sink = sinks::open(&table, id, &history.name, &BTreeMap::new())?;
    let log = JobLog {
        store,
        id,
        history,
        staged: &staged,
    };
    let told = sink.witness(log).await?;
    if let Some(version) = told.untold_since {
        return Ok(Some(unknown_restore(history, version)));
    }
    let (witness, missing) = match (&told.rows, sink.identity_before().await?) {
        (Some(rows), Some(identity)) => {
            let missing = first_missing_batch(log, rows, &identity).await?;
            (told.version, Some(missing))
        }
        _ => (told.version, None),
    };
    // The job may have gone on since.
    let now = store.history(id).await?;
    if now.next != history.next {
        return Ok(None);
    }
    if let Some(Some(batch)) = missing {
        return Ok(Some(older_sink(history, batch)));
    }
    let last = history.last().map(|last| last.version.as_str());
    let witness = witness.as_deref();
    Ok(
        match recover(history, history.owner.is_none(), witness, &staged) {
            RecoveryDecision::Unclear { batch, reason } => Some(SinkDifference {
                problem: reason,
                lost: format!("it is unknown whether batch {batch} is in it"),
                help: format!(
                    "inspect it; then RESUME JOB {0} ASSUMING BATCH {batch} COMMITTED, or NOT COMMITTED",
                    history.name
                ),
            }),
            RecoveryDecision::OlderLog { batch, witness } => Some(SinkDifference {
                problem: format!(
                    "it has {witness}, which the log does not have: the data directory is older than the sink"
                ),
                lost: format!("the job would run batch {batch} and those after it again"),
                help: "restore the newer data directory, or a backup of the sink from the same time".to_owned(),
            }),
            // The next runner brings the log up to date.
            RecoveryDecision::AppendCommitted { .. } => None,
            RecoveryDecision::Continue => match (witness, last) {
                (Some(witness), Some(last)) if missing.is_none() && witness != last => {
                    let named = history
                        .batches
                        .iter()
                        .find(|batch| batch.version == witness);
                    let is_known = witness != BEGINNING && named.is_none();
                    // After a rewind it names an abandoned batch until the next commit.
                    match is_known && history.abandoned.iter().any(|one| one == witness) {
                        true => None,
                        false => Some(older_sink(history, named.map_or(0, |batch| batch.batch) + 1)),
                    }
                }
                (None, Some(_)) if missing.is_none() => Some(SinkDifference {
                    problem: "it does not say which batch of the job it has: the offsets of the job's group have expired, or it is another topic".to_owned(),
                    lost: "nothing, if the rows are there".to_owned(),
                    help: "inspect it: a job that starts uses its log, and asks the user if the log is not sufficient".to_owned(),
                }),
                _ => None,
            },
        },
    )
}

/// The first batch with rows that a sink lacks, although the log says that it was committed to this sink, which has the rows up to
/// a version.
async fn first_missing_batch(log: JobLog<'_>, rows: &str, sink: &Identity) -> Result<Option<u64>> {
    let newest_first = log.history.batches.iter().rev();
    let names = newest_first.map(|batch| batch.version.clone()).collect();
    let mut versions = std::pin::pin!(log.store.versions(log.id, names));
    let number = sequence_of(rows);
    let mut lacking = None;
    while let Some(version) = versions.try_next().await? {
        // Batches before it were written to another table.
        let written_to = version.sink.as_ref();
        let is_other = written_to.is_some_and(|then| then.compare(sink) == IdentityMatch::Other);
        if is_other || number.is_some_and(|number| version.sequence <= number) {
            break;
        }
        if version.rows_out > 0 {
            lacking = Some(version.batch);
        }
    }
    Ok(lacking)
}

/// Difference of a sink that was restored to an earlier state, or of a log that belongs to another sink.
fn older_sink(history: &JobHistory, from: u64) -> SinkDifference {
    let last = history.last().map_or(0, |last| last.batch);
    SinkDifference {
        problem: format!("it is older than the job's log: it does not have batch {from}"),
        lost: format!("rows of batches {from} to {last}"),
        help: format!(
            "restore it as it was after batch {last}, or REWIND JOB {} TO BATCH {}",
            history.name,
            from.saturating_sub(1)
        ),
    }
}

/// Difference of a sink that was restored to a state that its log no longer describes.
fn unknown_restore(history: &JobHistory, version: u64) -> SinkDifference {
    let last = history.last().map_or(0, |last| last.batch);
    SinkDifference {
        problem: format!(
            "version {version} has restored it to an earlier state, which its log no longer describes"
        ),
        lost: format!("it is unknown whether rows up to batch {last} are in it"),
        help: format!(
            "inspect it; restore it to the version before {version}, or RESUME JOB {} ASSUMING BATCH {last} COMMITTED",
            history.name
        ),
    }
}

pub(super) fn parsed(text: &str) -> Result<crate::planner::ParsedStatement> {
    let mut statements = Script::new("job", text).split()?.into_iter();
    let statement = statements.next();
    let raw = statement.ok_or_else(|| Error::internal("the text of a job is empty"))?;
    let mut parsed = parse_statement(&raw)?;
    Parameters::default().bind(&mut parsed)?;
    Ok(parsed)
}
