//! Functions of values: message headers and JSON.

mod header;
mod header_types;
mod json;

pub use header::{header, headers_list, headers_map};
pub use json::to_json;
