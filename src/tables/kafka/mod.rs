//! Kafka tables: topics read by bounded offset ranges and written with keys and headers.
//!
//! The only module that names rdkafka.

mod aside;
mod client;
mod codes;
mod definition;
mod ends;
mod fetch;
mod headers;
mod identity;
mod marks;
mod metadata;
pub mod mock;
mod native;
mod pool;
mod progress;
mod provider;
mod publisher;
mod range;
mod reader;
#[cfg(test)]
mod reader_tests;
mod reading;
mod record;
mod rules;
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
mod transaction;
mod under_way;

pub use definition::{
    Delivery, KafkaColumn, KafkaTable, KafkaTableSpec, MetadataKey, OPTION_NAMES, OnError, Startup,
};
pub use pool::ConsumerPool;
pub use provider::KafkaTableProvider;
pub use range::OffsetRange;
pub use scan::KafkaScanExec;
pub use source::KafkaJobSource;
pub(crate) use transaction::KafkaJobSink;
pub use transaction::{PublishedRows, TopicOffset, job_witness};
pub use under_way::wait_for_inserts;
