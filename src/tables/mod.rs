//! Tables: the providers over Kafka and Delta Lake.

pub mod bad_records;
pub mod delta;

pub mod json;
pub mod kafka;
pub mod options;
pub mod parquet;
pub mod side_output;
pub mod time;
