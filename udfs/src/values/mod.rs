//! Functions of values: message headers, JSON, intervals and lists.

mod array_has;
mod as_typed;
mod header;
mod header_types;
mod interval;
mod json;
mod json_casts;
mod json_operators;
mod json_paths;
mod json_values;
mod map_extract;
mod per_row;
mod quantified;
mod signed_results;

pub(crate) use array_has::array_has;
pub(crate) use as_typed::{TYPED_KEY, as_typed};
pub use header::{header, headers_list, headers_map};
pub use interval::{IntervalPlanner, interval_times};
pub use json::to_json;
pub(crate) use json_casts::JsonCasts;
pub use json_casts::{is_json_type, times_json_is_read};
pub(crate) use json_operators::JsonOperators;
pub use json_values::JSON_VALUES;
pub(crate) use json_values::{JSON_BY_PATH, JsonCall, json_values};
pub(crate) use map_extract::map_extract;
pub(crate) use per_row::{PER_ROW, per_row};
pub(crate) use quantified::list_compare;
pub(crate) use signed_results::{signed, signed_functions};
