//! Column names of `job_state`. State files have the engine's names, such as `count(Int64(1)) state`: users know an aggregate,
//! and a computed key, by its function.

use std::collections::HashSet;
use std::sync::Arc;

use datafusion::arrow::array::RecordBatch;
use datafusion::arrow::datatypes::{Field, Schema};

use crate::error::{Error, Result};

/// Separates an aggregate from the number of its state, if it has several.
const STATE: &str = " state";
/// The name of a key for which no rule gives one.
const NAMELESS: &str = "?column?";

/// The rows with such names for their columns.
///
/// # Errors
///
/// None that a caller could cause.
pub(crate) fn shown(rows: &RecordBatch) -> Result<RecordBatch> {
    let schema = rows.schema();
    let fields = schema.fields().iter();
    let names: Vec<&str> = fields.clone().map(|field| field.name().as_str()).collect();
    let fields = fields.zip(shown_names(&names));
    let fields = fields.map(|(field, name)| Field::clone(field).with_name(name));
    let schema = Schema::new_with_metadata(fields.collect::<Vec<_>>(), schema.metadata().clone());
    RecordBatch::try_new(Arc::new(schema), rows.columns().to_vec())
        .map_err(|error| Error::internal(error.to_string()))
}

fn shown_names(names: &[&str]) -> Vec<String> {
    let mut seen = HashSet::new();
    let mut shown = Vec::with_capacity(names.len());
    for (place, name) in names.iter().enumerate() {
        let mut name = shown_name(name);
        if !seen.insert(name.clone()) {
            name = format!("{name} ({})", place + 1);
            seen.insert(name.clone());
        }
        shown.push(name);
    }
    shown
}

fn shown_name(name: &str) -> String {
    if let Some((aggregate, number)) = name.rsplit_once(STATE) {
        // A suffix that makes equal names unique may follow.
        let number = number.split(" (").next().unwrap_or_default();
        let is_number = number.chars().all(|c| c == ' ' || c.is_ascii_digit());
        if is_number && let Some(function) = function_of(aggregate) {
            return format!("{function}{STATE}{number}");
        }
        return name.to_owned();
    }
    match function_of(name) {
        Some(function) if name.ends_with(')') => function.to_owned(),
        _ if has_literal(name) => NAMELESS.to_owned(),
        _ => name.to_owned(),
    }
}

/// The function name of a call.
fn function_of(call: &str) -> Option<&str> {
    let (function, _) = call.split_once('(')?;
    let is_name = function
        .chars()
        .all(|c| c == '_' || c.is_ascii_lowercase() || c.is_ascii_digit());
    (is_name && !function.is_empty()).then_some(function)
}

/// Whether the engine's name contains a literal with its type, as no column name does.
fn has_literal(name: &str) -> bool {
    [
        "Int64(",
        "Int32(",
        "UInt64(",
        "Float64(",
        "Utf8(",
        "Boolean(",
        "Decimal128(",
    ]
    .iter()
    .any(|literal| name.contains(literal))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn aggregates_and_computed_keys_are_named_by_their_functions() {
        let names = [
            "k",
            "date_trunc(Utf8(\"day\"),ticks.t)",
            "ticks.k % Int64(3)",
            "A key (of mine)",
            "window_end",
            "count(Int64(1)) state",
            "sum(ticks.v) state",
            "sum(ticks.w) state",
            "avg(ticks.v) state 1",
            "avg(ticks.v) state 2",
            "max(ticks.v) FILTER (WHERE ticks.v > Int64(1)) state",
            "the state",
        ];
        let shown = [
            "k",
            "date_trunc",
            "?column?",
            "A key (of mine)",
            "window_end",
            "count state",
            "sum state",
            "sum state (8)",
            "avg state 1",
            "avg state 2",
            "max state",
            "the state",
        ];
        assert_eq!(shown_names(&names), shown);
    }
}
