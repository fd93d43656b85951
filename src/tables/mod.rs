//! Tables: the providers over Kafka and Delta Lake.

pub mod delta;
pub mod kafka;
pub mod options;
