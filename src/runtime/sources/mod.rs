//! The sources that a job can read. Each kind has a file of its own; this one alone tells them apart.

mod archive_now;
mod archived_topic;
mod delta;
mod kafka;
mod pinned_past;
mod pinned_topic;
mod pins;
pub(super) mod reprocessed;
#[cfg(test)]
mod reprocessed_tests;

use std::sync::Arc;

use crate::core::jobs::SourceStart;
use crate::error::{Error, Result};
use crate::runtime::source::JobSource;
use crate::streaming::{JobQuery, StreamTable};
use crate::tables::delta::DeltaJobSource;

pub(super) use archive_now::archive_now;
pub(super) use pinned_past::Pasts;
pub(super) use pins::{pin_source, times_of, undecoded_of};
pub(super) use reprocessed::ReprocessedSource;

/// The source that a table of a job's query is, with its archive if it is a topic that has one. Does not connect yet. `start` says where
/// a job begins that never read the table, instead of the table's options.
///
/// # Errors
///
/// Settings that the client of the table refuses; a start that the table does not have; an archive that is not a Delta table.
pub(super) fn open(
    query: &JobQuery,
    name: &str,
    table: &StreamTable,
    start: Option<SourceStart>,
) -> Result<Box<dyn JobSource>> {
    Ok(match table {
        StreamTable::Kafka(table) => {
            let archive = query.archive(name)?;
            let topic = kafka::TopicSource::try_new(Arc::clone(table), archive.clone(), start)?;
            match archive.filter(|archive| !query.writes(archive)) {
                Some(archive) => Box::new(archived_topic::ArchivedSource::new(topic, archive)),
                None => Box::new(topic),
            }
        }
        StreamTable::Delta(handle) => {
            let mut stream = handle.stream().unwrap_or_default();
            stream.starts_at_end = match start {
                None => stream.starts_at_end,
                Some(SourceStart::First) => false,
                Some(SourceStart::End) => true,
                // Statements are checked for this.
                Some(SourceStart::Offsets(_) | SourceStart::Time(_) | SourceStart::ArchiveEnd) => {
                    return Err(Error::internal("a Delta table has no offsets of records"));
                }
            };
            let source = DeltaJobSource::new(handle.clone(), stream);
            Box::new(delta::FileSource::new(source))
        }
    })
}
