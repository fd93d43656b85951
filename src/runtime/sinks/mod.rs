//! The sinks that a job can write to. Each kind has a file of its own; this one tells them apart, and `published`, which reads what they
//! show.

pub(super) mod delta;
mod kafka;
pub(super) mod numbered;
pub(super) mod published;
pub(super) mod subscriber;

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::core::jobs::Identity;
use crate::core::runs::{Emission, Finality, Grouping, Removal, RunOptions, RunSpec};
use crate::error::{Error, Result, Subject};
use crate::runtime::sink::OpenSink;
use crate::runtime::sinks::delta::{CoveredColumns, DeltaWrite};
use crate::store::JobId;
use crate::streaming::{JobQuery, JobSinkTable, StreamTable};
use crate::tables::delta::DeltaTableHandle;
use crate::tables::kafka::{AddedHeaders, KafkaJobSource};

/// The sink that a table is, for the job with this id and name, which reads these sources. Does not connect yet.
///
/// # Errors
///
/// The rows go to a subscriber, which is no table.
pub(super) fn open(
    table: &JobSinkTable,
    id: JobId,
    name: &str,
    sources: &BTreeMap<String, StreamTable>,
) -> Result<Box<dyn OpenSink>> {
    Ok(match table {
        JobSinkTable::Kafka(table) => {
            Box::new(kafka::OpenTopic::new(Arc::clone(table), id, sources))
        }
        JobSinkTable::Delta(handle) => Box::new(delta::OpenTable::new(handle.clone(), id, name)),
        JobSinkTable::Subscriber => return Err(Error::internal("the job has no sink")),
    })
}

/// The sink of a query for the run with this id, which rests on `spec`. Records of a topic get the headers `added`. Does not connect yet.
///
/// # Errors
///
/// The run cannot put its rows into a Delta table.
pub(super) fn open_for_run<'a>(
    query: &JobQuery,
    id: JobId,
    spec: &RunSpec,
    added: impl IntoIterator<Item = (&'a str, String)>,
) -> Result<Box<dyn OpenSink>> {
    match query.sink() {
        JobSinkTable::Kafka(table) => {
            let added = AddedHeaders::new(added);
            let topic = kafka::OpenTopic::of_run(Arc::clone(table), id, added);
            Ok(Box::new(topic))
        }
        JobSinkTable::Delta(handle) => {
            let write = delta_write(query, handle, spec)?;
            let table = delta::OpenTable::with(handle.clone(), id, &spec.run_id, write);
            Ok(Box::new(table))
        }
        JobSinkTable::Subscriber => Err(Error::internal("the job has no sink")),
    }
}

/// Checks that a run can put its rows into the sink of its query.
///
/// # Errors
///
/// It cannot.
pub(super) fn check_for_run(query: &JobQuery, spec: &RunSpec) -> Result<()> {
    match query.sink() {
        JobSinkTable::Delta(handle) => delta_write(query, handle, spec).map(drop),
        JobSinkTable::Kafka(_) | JobSinkTable::Subscriber => Ok(()),
    }
}

/// Whether a run with these options removes rows of its range that it does not have. A row of a Delta table does not say who has written
/// it, so there it is `'overwrite'` that replaces all of the range.
pub(super) fn removes_gone(table: &JobSinkTable, options: RunOptions) -> bool {
    match table {
        JobSinkTable::Delta(_) => options.overwrite && !options.append,
        JobSinkTable::Kafka(_) | JobSinkTable::Subscriber => options.withdraw,
    }
}

/// How a run with these options removes rows of its range that it does not have, if it does.
pub(super) fn removal(query: &JobQuery, options: RunOptions) -> Option<Removal> {
    let sink = query.sink();
    let withdraws = options.withdraw;
    let overwrites = matches!(sink, JobSinkTable::Delta(_)) && removes_gone(sink, options);
    // A key by which rows are merged takes the place of the option if it tells windows apart.
    let has_no_key = || sink.primary_key().is_empty() || query.check_key().is_err();
    (withdraws || overwrites).then(|| Removal {
        withdraws,
        overwrites,
        needs_overwrite: overwrites && has_no_key(),
    })
}

/// How a run puts its rows into a Delta table: it merges them by the table's key, or replaces what a chunk covers by the columns with
/// the times of its results.
fn delta_write(query: &JobQuery, handle: &DeltaTableHandle, spec: &RunSpec) -> Result<DeltaWrite> {
    let RunOptions {
        append,
        overwrite,
        withdraw,
        ..
    } = spec.options;
    if withdraw && !overwrite {
        return Err(Error::invalid(format!(
            "a run cannot withdraw rows of Delta table '{}': a row there does not say whether the job has written it, or others have",
            handle.location()
        ))
        .about(Subject::option("withdraw"))
        .with_help(
            "pause the job, and write WITH ('overwrite' 'true'): it removes all rows of the range that the run does not have",
        ));
    }
    if append {
        return Ok(DeltaWrite::AppendPart);
    }
    let key = handle.primary_key_names();
    if !key.is_empty() {
        return Ok(DeltaWrite::Merge { key: key.to_vec() });
    }
    let columns = query.time_columns()?;
    let is_told = spec
        .grouping
        .is_told_by(columns.start.is_some(), columns.end.is_some());
    let why = match (&spec.emission, &spec.selection) {
        (Emission::Offsets(_), _) | (_, Some(_)) => {
            "rows of selected offsets do not tell which rows of the table they replace"
        }
        _ if matches!(spec.grouping, Grouping::Sessions { .. }) => {
            "sessions that were published may lie across the edge of its range, and are found by their key alone"
        }
        _ if !is_told => "none of its columns is just the time of a result",
        _ if !overwrite => {
            "rows of its range that the job or others have written meanwhile would be taken out as well"
        }
        _ => {
            return Ok(DeltaWrite::Replace(CoveredColumns {
                start: columns.start,
                end: columns.end,
                finality: Finality::new(spec.grouping, spec.watermark),
            }));
        }
    };
    Err(Error::invalid(format!(
        "a run cannot replace rows of Delta table '{}': {why}, and it has no PRIMARY KEY",
        handle.location()
    ))
    .about(Subject::location(handle.location()))
    .with_help(
        "declare a PRIMARY KEY (…) NOT ENFORCED for the table, or write WITH ('write' 'append'), which adds the rows to those that are there; \
         where a column is the time of a result, and the job is paused and has read all, WITH ('overwrite' 'true') replaces all rows of the range",
    ))
}

/// Which topic or table a sink is now (IDENT-1). Nothing is written.
///
/// # Errors
///
/// There is no such topic or table, or it does not answer.
pub(super) async fn identity_of(table: &JobSinkTable) -> Result<Identity> {
    match table {
        JobSinkTable::Kafka(table) => KafkaJobSource::try_new(Arc::clone(table))?.identity().await,
        JobSinkTable::Delta(handle) => handle.identity().await,
        JobSinkTable::Subscriber => Err(Error::internal("the job has no sink")),
    }
}
