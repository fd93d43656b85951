//! Kafka tables: topics read by bounded offset ranges and written with keys and headers.
//!
//! The only module that names rdkafka.

mod client;
mod definition;
mod headers;
mod metadata;
pub mod mock;
mod pool;
mod provider;
mod range;
mod record;
mod scan;
mod sink;
mod source;
mod time;
mod transaction;

pub use definition::{
    Delivery, KafkaColumn, KafkaTable, KafkaTableSpec, MetadataKey, OPTION_NAMES, OnError, Startup,
};
pub use pool::ConsumerPool;
pub use provider::KafkaTableProvider;
pub use range::OffsetRange;
pub use scan::KafkaScanExec;
pub use source::{KafkaJobSource, PartitionEnds};
pub use transaction::{KafkaJobSink, PublishedRows, TopicOffset};
