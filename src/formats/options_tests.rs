//! Options: which ones are accepted, and which are refused with which message.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::sync::Arc;

use arrow::datatypes::{DataType, Field, Schema};

use super::*;
use crate::error::ErrorKind;

fn options(list: &[(&str, &str)], fields: Vec<Field>) -> Result<FormatOptions> {
    FormatOptions::from_options(list.iter().copied(), Arc::new(Schema::new(fields)))
}

fn text(name: &str) -> Field {
    Field::new(name, DataType::Utf8, true)
}

#[test]
fn json_is_the_default_and_unknown_options_are_ignored() {
    let format = options(
        &[("kafka.bootstrap.servers", "b:9092"), ("fromat", "x")],
        vec![text("a")],
    );
    assert_eq!(format.unwrap().kind(), FormatKind::Json);
}

#[test]
fn typos_in_options_get_a_suggestion() {
    for (name, value, help) in [
        ("format", "jsn", "did you mean 'json'?"),
        (
            "json.timestamp_unit",
            "milisecond",
            "did you mean 'milliseconds'?",
        ),
        (
            "json.timestamp_format",
            "iso_milis",
            "did you mean 'iso_millis'?",
        ),
        ("json.nulls", "keep", "use one of omit, write"),
        ("timezone", "Europe/Pariss", "did you mean 'Europe/Paris'?"),
    ] {
        let error = options(&[(name, value)], vec![text("a")]).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Invalid);
        assert!(
            error.message().contains(value) && error.message().contains(name),
            "{error}"
        );
        assert_eq!(error.help(), Some(help));
    }
}

#[test]
fn planned_formats_are_refused_as_not_supported_yet() {
    for name in ["protobuf", "debezium"] {
        let error = options(&[("format", name)], vec![text("a")]).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unsupported);
        assert_eq!(
            error.message(),
            format!("format '{name}' is not supported yet")
        );
    }
}

#[test]
fn an_option_of_another_format_is_refused() {
    let error = options(
        &[("format", "raw"), ("json.nulls", "write")],
        vec![text("a")],
    )
    .unwrap_err();
    assert_eq!(
        error.message(),
        "option 'json.nulls' is of format 'json', the table has format 'raw'"
    );
}

#[test]
fn columns_a_format_cannot_hold_are_named() {
    let error = options(&[("format", "raw")], vec![text("a"), text("b")]).unwrap_err();
    assert_eq!(
        error.message(),
        "format 'raw' takes exactly one value column, 2 are declared"
    );
    let number = Field::new("n", DataType::Int64, true);
    let error = options(&[("format", "raw")], vec![number]).unwrap_err();
    assert_eq!(
        error.message(),
        "format 'raw' takes a VARCHAR or BINARY column, n is a BIGINT"
    );
    let inner = Field::new(
        "i",
        DataType::Interval(arrow::datatypes::IntervalUnit::DayTime),
        true,
    );
    let outer = Field::new("o", DataType::Struct(vec![inner].into()), true);
    let error = options(&[], vec![outer]).unwrap_err();
    assert!(
        error.message().starts_with("column o.i: a Interval"),
        "{error}"
    );
}

#[test]
fn an_undeclared_column_is_not_decoded() {
    let format = options(&[], vec![text("a")]).unwrap();
    assert_eq!(
        format.decoder(&[1], false).err().map(|error| error.kind()),
        Some(ErrorKind::Internal)
    );
}
