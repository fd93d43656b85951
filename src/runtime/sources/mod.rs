//! The sources that a job can read. Each kind has a file of its own; this one alone tells them apart.

mod delta;
mod kafka;

use std::sync::Arc;

use crate::error::Result;
use crate::runtime::source::JobSource;
use crate::streaming::StreamTable;
use crate::tables::delta::DeltaJobSource;

/// The source that a table is. Does not connect yet. If `starts_at_end` is set, it decides where a job begins that never read the
/// table, instead of the table's options.
///
/// # Errors
///
/// Settings that the client of the table refuses.
pub(super) fn open(table: &StreamTable, starts_at_end: Option<bool>) -> Result<Box<dyn JobSource>> {
    Ok(match table {
        StreamTable::Kafka(table) => Box::new(kafka::TopicSource::try_new(
            Arc::clone(table),
            starts_at_end,
        )?),
        StreamTable::Delta(handle) => {
            let mut stream = handle.stream().unwrap_or_default();
            stream.starts_at_end = starts_at_end.unwrap_or(stream.starts_at_end);
            let source = DeltaJobSource::new(handle.clone(), stream);
            Box::new(delta::FileSource::new(source))
        }
    })
}
