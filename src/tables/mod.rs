//! Tables: definitions, and the providers over Kafka and Delta Lake.

pub mod delta;
