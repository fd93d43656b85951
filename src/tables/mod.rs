//! Tables: the providers over Kafka and Delta Lake.

pub mod archive;
pub mod bad_records;
pub(crate) mod boxed_methods;
pub(crate) mod csv;
pub mod delta;
mod exact_source;
pub mod read_metrics;

pub mod json;
pub mod kafka;
mod number_texts;
pub mod options;
pub mod parquet;
pub mod side_output;
pub mod stream_scans;
#[cfg(test)]
pub(crate) mod test_scan;
pub mod time;
