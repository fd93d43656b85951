//! Kafka tables: topics read by bounded offset ranges and written with keys and headers.
//!
//! The only module that names rdkafka.

mod archive_options;
mod archived_records;
#[cfg(test)]
mod archived_simulation;
mod blocking;
mod client;
mod definition;
mod earlier_records;
pub mod embedded_broker;
mod error_codes;
mod fetcher;
mod headers;
mod identity;
mod in_flight;
mod last_records;
mod librdkafka;
mod metadata;
mod metadata_key;
mod partition_ends;
mod pool;
mod progress;
mod provider;
mod publisher;
mod queue_sizes;
mod queue_statistics;
mod range;
mod range_reading;
mod read_marks;
mod reader;
#[cfg(test)]
mod reader_tests;
mod record;
mod scan;
#[cfg(test)]
mod simulation;
mod sink;
#[cfg(test)]
mod sink_simulation;
#[cfg(test)]
mod sink_tests;
mod source;
mod time;
mod topic_rules;
mod transaction;

pub(crate) use archive_options::option_of;
pub use archive_options::{ArchiveColumn, ArchiveEventTime, ArchiveOptions};
pub(crate) use archived_records::{
    ArchiveOutput, ArchiveReading, ArchivedReader, HeaderColumns, RecordColumns, TimeCheck,
};
pub use definition::{
    Delivery, KafkaColumn, KafkaTable, KafkaTableSpec, MetadataKey, OPTION_NAMES, OnError, Startup,
};
pub(crate) use earlier_records::{EarlierParts, EarlierRecords, EarlierRows, EarlierScan};
pub use headers::AddedHeaders;
pub use in_flight::wait_for_inserts;
pub use last_records::{ReadRecords, TopicRows, last_rows};
pub use pool::ConsumerPool;
pub use provider::KafkaTableProvider;
pub use range::OffsetRange;
pub(crate) use range::bounds as row_bounds;
pub(crate) use read_marks::ComparedParts;
pub use scan::KafkaScanExec;
pub use source::KafkaJobSource;
pub(crate) use transaction::KafkaJobSink;
pub use transaction::{PublishedRows, TopicOffset, job_witness};
