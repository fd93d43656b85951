//! Codecs between the bytes of a Kafka record's value and Arrow columns.
//!
//! A [`RecordDecoder`] turns a batch of payloads into one [`Decoded`] batch: one row per payload, one column per projected
//! value column. A payload that cannot be read does not fail the batch: its row is null and is listed in [`Decoded::bad`], and
//! the caller decides how to handle it. A [`RecordEncoder`] turns rows into payloads. [`FormatOptions`] creates both.
//!
//! Text without a zone is read in the table's zone, and a [`TIMESTAMP`](crate) is microseconds in
//! UTC inside (law TIMEZONE-1).
//!
//! This layer does no Kafka I/O; the only thing it may call is a schema registry.

pub(crate) mod avro;
mod codec;
mod column;
mod column_spelling;
mod csv;
mod decode_rows;
mod excerpt;
pub(crate) mod json;
mod map_keys;
mod number_texts;
mod options;
mod raw;
mod registry;
mod settings;
pub(crate) mod text;
mod type_name;

pub use crate::formats::registry::http::{HttpRegistryOptions, HttpSchemaRegistry};
pub use codec::{BadRow, Decoded, EncodedRows, RecordDecoder, RecordEncoder};
pub use column_spelling::{plain_field, renamed, typed_as, typed_name};
pub(crate) use number_texts::{is_exact, numbers};
pub use options::{FormatKind, FormatOptions, OPTION_NAMES};
pub use registry::SchemaRegistry;
pub(crate) use type_name::sql_name;
