//! The `avro` format: records in Confluent's wire format to columns and back.

pub(crate) mod conform;
pub(crate) mod decode;
mod empty;
pub(crate) mod encode;
pub(crate) mod schema;
pub(crate) mod union;
