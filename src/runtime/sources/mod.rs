//! The sources that a job can read. Each kind has a file of its own; this one alone tells them apart.

mod archived_topic;
mod delta;
mod kafka;

use std::sync::Arc;

use crate::error::Result;
use crate::runtime::source::JobSource;
use crate::streaming::StreamTable;
use crate::tables::archive::JobArchive;
use crate::tables::delta::DeltaJobSource;

/// The source that a table is, with its archive if it is a topic that has one. Does not connect yet. If `starts_at_end` is set, it decides where a job begins that never read the
/// table, instead of the table's options.
///
/// # Errors
///
/// Settings that the client of the table refuses.
pub(super) fn open(
    table: &StreamTable,
    archive: Option<JobArchive>,
    starts_at_end: Option<bool>,
) -> Result<Box<dyn JobSource>> {
    Ok(match table {
        StreamTable::Kafka(table) => {
            let topic = kafka::TopicSource::try_new(Arc::clone(table), starts_at_end)?;
            match archive {
                Some(archive) => Box::new(archived_topic::ArchivedSource::new(topic, archive)),
                None => Box::new(topic),
            }
        }
        StreamTable::Delta(handle) => {
            let mut stream = handle.stream().unwrap_or_default();
            stream.starts_at_end = starts_at_end.unwrap_or(stream.starts_at_end);
            let source = DeltaJobSource::new(handle.clone(), stream);
            Box::new(delta::FileSource::new(source))
        }
    })
}
