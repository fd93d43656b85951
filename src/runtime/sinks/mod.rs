//! The sinks that a job can write to. Each kind has a file of its own; this one tells them apart, and `published`, which reads what they
//! show.

mod delta;
mod kafka;
pub(super) mod numbered;
pub(super) mod published;
pub(super) mod subscriber;

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::error::{Error, Result};
use crate::runtime::sink::OpenSink;
use crate::store::JobId;
use crate::streaming::{JobSinkTable, StreamTable};

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
