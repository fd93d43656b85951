//! Check of sinks: compares each sink with the log of its job, without taking it over, so that the job may run meanwhile.

use std::time::Duration;

use futures::TryStreamExt as _;

use crate::core::jobs::recovery::{BEGINNING, recover};
use crate::core::jobs::{Decision, Identity, JobHistory, Phase, Sameness};
use crate::error::{Error, ErrorKind, Result};
use crate::planner::{JobStatement, Parameters, Script, Statement, parse_statement};
use crate::runtime::check::{CheckReport, Finding};
use crate::runtime::sink::{application_of, group_of, numbered_witness, rows_up_to};
use crate::runtime::takeover::files_of_number;
use crate::session::Session;
use crate::store::{DataDir, FoundJob, JobId, JobStore};
use crate::streaming::JobSinkTable;
use crate::tables::delta::RowsUpTo;
use crate::tables::kafka::job_witness;

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
        if history.phase == Phase::Dropped {
            continue;
        }
        let finding = match settled(&store, id, history, session).await {
            Ok(None) => continue,
            Ok(Some(finding)) => finding,
            Err(error) if error.kind() == ErrorKind::Internal => return Err(error),
            Err(error) => Difference {
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
) -> Result<Option<Difference>> {
    let found = check_sink(store, id, &history, session).await?;
    if found.is_none() {
        return Ok(None);
    }
    tokio::time::sleep(SETTLING).await;
    let history = store.history(id).await?;
    if history.phase == Phase::Dropped {
        return Ok(None);
    }
    check_sink(store, id, &history, session).await
}

struct Difference {
    problem: String,
    lost: String,
    help: String,
}

async fn check_sink(
    store: &JobStore,
    id: JobId,
    history: &JobHistory,
    session: &Session,
) -> Result<Option<Difference>> {
    let session = session.fork_alike()?;
    for definition in &history.tables {
        // Tables that do not open are reported by the statement that needs them.
        let _ = session.restore(parsed(definition)?, PATIENCE).await;
    }
    let text = parsed(&history.text)?;
    let Statement::Job(job) = text.statement else {
        return Err(Error::internal("the text of a job is no job"));
    };
    let JobStatement::Create { insert, .. } = *job else {
        return Err(Error::internal("the text of a job does not create it"));
    };
    let staged = store.staged_for_next(id, history).await?;
    let (witness, missing) = match session.sink_of(&insert).await? {
        JobSinkTable::Kafka(table) => (job_witness(table, &group_of(id)).await?, None),
        JobSinkTable::Delta(handle) => {
            let application = application_of(id, 0);
            let number = handle.transaction_version(&application.witness).await?;
            let files = files_of_number(store, id, number, history, &staged).await;
            let number = match rows_up_to(&handle, &application.witness, number, &files).await? {
                RowsUpTo::Number(number) => number,
                RowsUpTo::Untold(version) => return Ok(Some(untold(history, version))),
            };
            let witness = numbered_witness(number, history, &staged);
            (
                Some(witness),
                Some(lacks(store, id, history, number, &handle.identity().await?).await?),
            )
        }
        JobSinkTable::Subscriber => return Ok(None),
    };
    // The job may have gone on since.
    let now = store.history(id).await?;
    if now.next != history.next {
        return Ok(None);
    }
    if let Some(Some(batch)) = missing {
        return Ok(Some(older(history, batch)));
    }
    let last = history.last().map(|last| last.version.as_str());
    let witness = witness.as_deref();
    Ok(
        match recover(history, history.owner.is_none(), witness, &staged) {
            Decision::Unclear { batch, reason } => Some(Difference {
                problem: reason,
                lost: format!("whether batch {batch} is in it cannot be told"),
                help: format!(
                    "look into it; then RESUME JOB {0} ASSUMING BATCH {batch} COMMITTED, or NOT COMMITTED",
                    history.name
                ),
            }),
            Decision::OlderLog { batch, witness } => Some(Difference {
                problem: format!(
                    "it has {witness}, which the log does not have: the data directory is older than the sink"
                ),
                lost: format!("the job would run batch {batch} and those after it again"),
                help: "restore the newer data directory, or a sink of the same time".to_owned(),
            }),
            // The next runner brings the log up to date.
            Decision::AppendCommitted { .. } => None,
            Decision::GoOn => match (witness, last) {
                (Some(witness), Some(last)) if missing.is_none() && witness != last => {
                    let named = history
                        .batches
                        .iter()
                        .find(|batch| batch.version == witness);
                    let is_known = witness != BEGINNING && named.is_none();
                    // After a rewind it names an abandoned batch until the next commit.
                    match is_known && history.abandoned.iter().any(|one| one == witness) {
                        true => None,
                        false => Some(older(history, named.map_or(0, |batch| batch.batch) + 1)),
                    }
                }
                (None, Some(_)) if missing.is_none() => Some(Difference {
                    problem: "it does not say which batch of the job it has: the offsets of the job's group have expired, or it is another topic".to_owned(),
                    lost: "nothing, if the rows are there".to_owned(),
                    help: "look into it: a job that starts goes by its log, and asks where that says too little".to_owned(),
                }),
                _ => None,
            },
        },
    )
}

/// The first batch with rows whose number a table does not have, although the log says that it was committed to this table.
async fn lacks(
    store: &JobStore,
    id: JobId,
    history: &JobHistory,
    number: Option<i64>,
    sink: &Identity,
) -> Result<Option<u64>> {
    let newest_first = history.batches.iter().rev();
    let names = newest_first.map(|batch| batch.version.clone()).collect();
    let mut versions = std::pin::pin!(store.versions(id, names));
    let number = number.and_then(|number| u64::try_from(number).ok());
    let mut lacking = None;
    while let Some(version) = versions.try_next().await? {
        // Batches before it were written to another table.
        let written_to = version.sink.as_ref();
        let is_other = written_to.is_some_and(|then| then.compare(sink) == Sameness::Other);
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
fn older(history: &JobHistory, from: u64) -> Difference {
    let last = history.last().map_or(0, |last| last.batch);
    Difference {
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
fn untold(history: &JobHistory, version: u64) -> Difference {
    let last = history.last().map_or(0, |last| last.batch);
    Difference {
        problem: format!(
            "version {version} has restored it to an earlier state, of which its log tells nothing any more"
        ),
        lost: format!("whether rows up to batch {last} are in it cannot be told"),
        help: format!(
            "look into it; restore it to the version before {version}, or RESUME JOB {} ASSUMING BATCH {last} COMMITTED",
            history.name
        ),
    }
}

fn parsed(text: &str) -> Result<crate::planner::ParsedStatement> {
    let mut statements = Script::new("job", text).split()?.into_iter();
    let statement = statements.next();
    let raw = statement.ok_or_else(|| Error::internal("the text of a job is empty"))?;
    let mut parsed = parse_statement(&raw)?;
    Parameters::default().bind(&mut parsed)?;
    Ok(parsed)
}
