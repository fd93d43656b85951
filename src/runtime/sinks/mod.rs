//! The sinks that a job can write to. Each kind has a file of its own; this one alone tells them apart.

pub(super) mod delta;
mod kafka;
pub(super) mod numbered;
pub(super) mod subscriber;

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::core::jobs::Identity;
use crate::error::{Error, Result, Subject};
use crate::runtime::sink::OpenSink;
use crate::store::JobId;
use crate::streaming::{JobSinkTable, StreamTable};
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

/// The sink that a table is for the run with this id. Records of a topic get the headers `added`. Does not connect yet.
///
/// # Errors
///
/// A run cannot write to such a table.
pub(super) fn open_for_run<'a>(
    table: &JobSinkTable,
    id: JobId,
    added: impl IntoIterator<Item = (&'a str, String)>,
) -> Result<Box<dyn OpenSink>> {
    match table {
        JobSinkTable::Kafka(table) => {
            let added = AddedHeaders::new(added);
            let topic = kafka::OpenTopic::of_run(Arc::clone(table), id, added);
            Ok(Box::new(topic))
        }
        JobSinkTable::Delta(handle) => Err(Error::unsupported(format!(
            "a run does not write to Delta tables yet: '{}' is one",
            handle.location()
        ))
        .about(Subject::location(handle.location()))
        .with_help(
            "delete the rows of the range, and INSERT them again with a SELECT over the archive",
        )),
        JobSinkTable::Subscriber => Err(Error::internal("the job has no sink")),
    }
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
