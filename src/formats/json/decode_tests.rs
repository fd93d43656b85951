//! JSON records to columns: every type, every kind of bad record.

#![expect(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test fails by panicking"
)]

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray};
use arrow::datatypes::{DataType, Field, Fields, Schema, TimeUnit, TimestampMicrosecondType};
use arrow::util::display::{ArrayFormatter, FormatOptions as DisplayOptions};

use crate::formats::codec::Decoded;
use crate::formats::{FormatOptions, typed_as};

fn timestamp() -> DataType {
    DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into()))
}

pub(super) fn format(fields: Vec<Field>, options: &[(&str, &str)]) -> FormatOptions {
    FormatOptions::from_options(options.iter().copied(), Arc::new(Schema::new(fields))).unwrap()
}

pub(super) fn nullable(name: &str, data_type: DataType) -> Field {
    Field::new(name, data_type, true)
}

/// Decodes messages with all columns of `format`.
pub(super) fn decode<T: AsRef<[u8]>>(
    format: &FormatOptions,
    lenient: bool,
    messages: &[T],
) -> Decoded {
    let projection: Vec<usize> = (0..format.declared().fields().len()).collect();
    let payloads: Vec<Option<&[u8]>> = messages
        .iter()
        .map(|message| Some(message.as_ref()))
        .collect();
    let decoded = format
        .decoder(&projection, lenient)
        .unwrap()
        .decode(&payloads)
        .unwrap();
    assert_eq!(decoded.columns.num_rows(), messages.len());
    decoded
}

/// The cells of a column as text, `-` for NULL.
fn cells(column: &ArrayRef) -> Vec<String> {
    let options = DisplayOptions::default().with_null("-");
    let formatter = ArrayFormatter::try_new(column, &options).unwrap();
    (0..column.len())
        .map(|row| formatter.value(row).to_string())
        .collect()
}

/// The text of one value in a column named `v`, or the reason why it is bad.
fn one(data_type: DataType, value: &str, options: &[(&str, &str)]) -> Result<String, String> {
    let format = format(vec![nullable("v", data_type)], options);
    let decoded = decode(&format, false, &[format!("{{\"v\":{value}}}")]);
    match decoded.bad.first() {
        Some(bad) => {
            assert_eq!(cells(decoded.columns.column(0)), ["-"]);
            Err(bad.reason.clone())
        }
        None => Ok(cells(decoded.columns.column(0)).remove(0)),
    }
}

fn good(data_type: DataType, value: &str) -> String {
    one(data_type, value, &[]).unwrap()
}

fn bad(data_type: DataType, value: &str) -> String {
    one(data_type, value, &[]).unwrap_err()
}

#[test]
fn integers() {
    assert_eq!(
        good(DataType::Int64, "9223372036854775807"),
        "9223372036854775807"
    );
    assert_eq!(good(DataType::Int64, "-1.20e2"), "-120");
    assert_eq!(good(DataType::Int64, "\"42\""), "42");
    assert_eq!(
        good(DataType::UInt64, "18446744073709551615"),
        "18446744073709551615"
    );
    assert_eq!(good(DataType::Int8, "-128"), "-128");
    assert_eq!(good(DataType::Int64, "null"), "-");
    assert_eq!(bad(DataType::Int64, "1.5"), "column v: 1.5 is not a BIGINT");
    assert_eq!(
        bad(DataType::Int64, "9223372036854775808"),
        "column v: 9223372036854775808 is not a BIGINT"
    );
    assert_eq!(bad(DataType::Int8, "128"), "column v: 128 is not a TINYINT");
    assert_eq!(
        bad(DataType::UInt8, "-1"),
        "column v: -1 is not a TINYINT UNSIGNED"
    );
    assert_eq!(
        bad(DataType::Int32, "\"x\""),
        "column v: \"x\" is not a INT"
    );
    assert_eq!(bad(DataType::Int32, "true"), "column v: true is not a INT");
    assert_eq!(
        bad(DataType::Int32, "{\"a\":1}"),
        "column v: {\"a\":1} is not a INT"
    );
}

#[test]
fn floats_booleans_and_decimals() {
    assert_eq!(good(DataType::Float64, "1e300"), "1e300");
    assert_eq!(good(DataType::Float64, "3"), "3.0");
    assert_eq!(good(DataType::Float64, "\"NaN\""), "NaN");
    assert_eq!(good(DataType::Float32, "\"-Infinity\""), "-inf");
    assert!(bad(DataType::Float32, "1e300").contains("REAL"));
    assert_eq!(good(DataType::Float32, "\"Infinity\""), "inf");
    // Just below the middle of two numbers, where the nearest DOUBLE is the middle.
    let below = "1.00000017881393432617187499";
    assert_eq!(good(DataType::Float32, below), "1.0000001");
    assert_eq!(
        good(DataType::Float32, &format!("\"{below}\"")),
        "1.0000001"
    );
    assert!(bad(DataType::Float64, "\"inf\"").contains("DOUBLE"));
    assert_eq!(good(DataType::Boolean, "true"), "true");
    assert_eq!(good(DataType::Boolean, "\"false\""), "false");
    assert_eq!(bad(DataType::Boolean, "1"), "column v: 1 is not a BOOLEAN");
    let decimal = DataType::Decimal128(5, 2);
    assert_eq!(good(decimal.clone(), "123.45"), "123.45");
    assert_eq!(good(decimal.clone(), "\"-0.005\""), "-0.01");
    assert_eq!(good(decimal.clone(), "1e2"), "100.00");
    assert_eq!(
        bad(decimal.clone(), "1000"),
        "column v: 1000 is not a DECIMAL(5, 2)"
    );
    assert_eq!(
        bad(decimal, "999.999"),
        "column v: 999.999 is not a DECIMAL(5, 2)"
    );
    let wide = "12345678901234567890123456789012345678.125";
    assert_eq!(good(DataType::Decimal256(50, 3), wide), wide);
    let exact = "0.12345678901234567890123456789012345678";
    assert_eq!(good(DataType::Decimal128(38, 38), exact), exact);
}

#[test]
fn text_columns_take_any_json_value_unchanged() {
    for data_type in [DataType::Utf8, DataType::Utf8View, DataType::LargeUtf8] {
        assert_eq!(
            good(data_type.clone(), "\"a\\u00e9\\n\\ud83d\\ude00\""),
            "aé\n😀"
        );
        assert_eq!(good(data_type.clone(), "1.50"), "1.50");
        assert_eq!(good(data_type.clone(), "true"), "true");
        assert_eq!(
            good(data_type.clone(), "[1, {\"a\": 2}]"),
            "[1, {\"a\": 2}]"
        );
        assert_eq!(
            good(data_type.clone(), "\"a text that is longer than a view\""),
            "a text that is longer than a view"
        );
        assert!(bad(data_type, "\"\\ud800\"").contains("not one JSON object"));
    }
}

#[test]
fn binary_is_base64() {
    for data_type in [
        DataType::Binary,
        DataType::BinaryView,
        DataType::LargeBinary,
    ] {
        assert_eq!(good(data_type.clone(), "\"AP+A\""), "00ff80");
        assert_eq!(good(data_type.clone(), "\"AA==\""), "00");
        assert_eq!(good(data_type.clone(), "\"AA\""), "00");
        assert_eq!(
            bad(data_type.clone(), "\"A*\""),
            "column v: \"A*\" is not a BINARY"
        );
        assert!(bad(data_type, "12").contains("BINARY"));
    }
    // A value that fails half-way adds nothing to the column.
    let format = format(vec![nullable("v", DataType::Binary)], &[]);
    let decoded = decode(
        &format,
        true,
        &[r#"{"v":"AAAAAAAAAAA*"}"#, r#"{"v":"AQ=="}"#],
    );
    assert_eq!(cells(decoded.columns.column(0)), ["-", "01"]);
}

#[test]
fn dates_and_times() {
    assert_eq!(good(DataType::Date32, "\"2024-02-29\""), "2024-02-29");
    assert!(bad(DataType::Date32, "\"2023-02-29\"").contains("DATE"));
    assert!(bad(DataType::Date32, "20240229").contains("DATE"));
    assert_eq!(
        good(DataType::Time64(TimeUnit::Nanosecond), "\"12:34:56.789\""),
        "12:34:56.789"
    );
    assert_eq!(
        good(DataType::Time32(TimeUnit::Second), "\"12:34:56.789\""),
        "12:34:56"
    );
    assert!(bad(DataType::Time64(TimeUnit::Microsecond), "\"25:00\"").contains("TIME"));
}

#[test]
fn timestamps_of_text() {
    let paris = [("timezone", "Europe/Paris")];
    assert_eq!(
        good(timestamp(), "\"2025-09-04T07:00:00+02:00\""),
        "2025-09-04T05:00:00Z"
    );
    assert_eq!(
        good(timestamp(), "\"2025-09-04 07:00:00.25\""),
        "2025-09-04T07:00:00.250Z"
    );
    assert_eq!(
        one(timestamp(), "\"2025-09-04T07:00:00\"", &paris).unwrap(),
        "2025-09-04T05:00:00Z"
    );
    assert_eq!(
        one(timestamp(), "\"2025-09-04T07:00:00Z\"", &paris).unwrap(),
        "2025-09-04T07:00:00Z"
    );
    assert_eq!(
        bad(timestamp(), "\"yesterday\""),
        "column v: \"yesterday\" is not a TIMESTAMP"
    );
    assert!(bad(timestamp(), "\"\"").contains("TIMESTAMP"));
    let naive = DataType::Timestamp(TimeUnit::Millisecond, None);
    assert_eq!(
        one(naive, "\"2025-09-04T07:00:00.1239\"", &paris).unwrap(),
        "2025-09-04T05:00:00.123"
    );
}

#[test]
fn timestamps_of_numbers() {
    let reason = bad(timestamp(), "1756969200");
    assert!(
        reason.contains("'json.timestamp_unit'") && reason.contains("column v"),
        "{reason}"
    );
    for (unit, value) in [
        ("seconds", "1756969200.123456"),
        ("seconds", "1.756969200123456e9"),
        ("milliseconds", "1756969200123.4567"),
        ("microseconds", "1756969200123456"),
        ("nanoseconds", "1756969200123456789"),
    ] {
        let options = [("json.timestamp_unit", unit)];
        let read = one(timestamp(), value, &options).unwrap();
        assert_eq!(read, "2025-09-04T07:00:00.123456Z", "{unit} {value}");
        // Before the epoch a fraction is cut off downwards, as after it.
        assert!(
            one(timestamp(), "-0.5", &options)
                .unwrap()
                .starts_with("1969-12-31T23:59:59")
        );
        assert!(
            one(timestamp(), "1e30", &options)
                .unwrap_err()
                .contains("TIMESTAMP")
        );
    }
    // A quoted number has the same meaning as an unquoted one: many writers quote large numbers.
    let seconds = [("json.timestamp_unit", "seconds")];
    let quoted = one(timestamp(), "\"1756969200\"", &seconds).unwrap();
    assert_eq!(quoted, "2025-09-04T07:00:00Z");
}

pub(super) fn nested_fields() -> Vec<Field> {
    let point = Fields::from(vec![
        Field::new("x", DataType::Int32, false),
        Field::new("at", timestamp(), true),
    ]);
    let entries = Fields::from(vec![
        Field::new("key", DataType::Utf8, false),
        Field::new("value", DataType::new_list(DataType::Int64, true), true),
    ]);
    vec![
        nullable("p", DataType::Struct(point.clone())),
        nullable("l", DataType::new_list(DataType::Struct(point), true)),
        nullable(
            "m",
            DataType::Map(
                Arc::new(Field::new("entries", DataType::Struct(entries), false)),
                false,
            ),
        ),
    ]
}

#[test]
fn nested_values() {
    let format = format(nested_fields(), &[]);
    let decoded = decode(
        &format,
        false,
        &[
            r#"{"p":{"x":1,"at":"2025-01-01"},"l":[{"x":2},null],"m":{"a":[1,null],"b":null}}"#,
            r#"{"p":null,"l":[],"m":{}}"#,
            r#"{}"#,
            r#"{"p":{"at":null}}"#,
            r#"{"l":[{"x":1},{"x":null}]}"#,
            r#"{"l":{"x":1}}"#,
            r#"{"m":[1]}"#,
            r#"{"p":7}"#,
            r#"{"m":{"a":[1],"b":["x"]}}"#,
            r#"{"p":{"x":3,"other":{"x":[[]]}},"p":{"x":4}}"#,
        ],
    );
    assert_eq!(
        cells(decoded.columns.column(0)),
        [
            "{x: 1, at: 2025-01-01T00:00:00Z}",
            "-",
            "-",
            "-",
            "-",
            "-",
            "-",
            "-",
            "-",
            "{x: 4, at: -}"
        ]
    );
    assert_eq!(
        cells(decoded.columns.column(1)),
        [
            "[{x: 2, at: -}, -]",
            "[]",
            "-",
            "-",
            "-",
            "-",
            "-",
            "-",
            "-",
            "-"
        ]
    );
    assert_eq!(
        cells(decoded.columns.column(2)),
        [
            "{a: [1, -], b: -}",
            "{}",
            "-",
            "-",
            "-",
            "-",
            "-",
            "-",
            "-",
            "-"
        ]
    );
    let reasons: Vec<(usize, &str)> = decoded
        .bad
        .iter()
        .map(|bad| (bad.row, bad.reason.as_str()))
        .collect();
    assert_eq!(
        reasons,
        [
            (3, "column p.x is missing but is declared NOT NULL"),
            (4, "column l[].x is NULL but is declared NOT NULL"),
            (5, "column l: an object is not a LIST"),
            (6, "column m: an array is not a MAP"),
            (7, "column p: 7 is not a STRUCT"),
            (8, "column m (value)[]: \"x\" is not a BIGINT"),
        ]
    );
}

#[test]
fn maps_with_other_keys() {
    let entries = Fields::from(vec![
        Field::new("key", DataType::Int32, false),
        Field::new("value", DataType::Boolean, true),
    ]);
    let entries = Arc::new(Field::new("entries", DataType::Struct(entries), false));
    let format = format(vec![nullable("m", DataType::Map(entries, false))], &[]);
    let decoded = decode(
        &format,
        true,
        &[r#"{"m":{"1":true,"-2":null}}"#, r#"{"m":{"x":true}}"#],
    );
    assert_eq!(cells(decoded.columns.column(0)), ["{1: true, -2: -}", "-"]);
    assert_eq!(decoded.bad.len(), 1);
    assert_eq!(
        decoded.bad[0].reason,
        "column m (key) is NULL but is declared NOT NULL"
    );
}

#[test]
fn of_a_key_as_it_was_typed_the_last_value_counts_unless_the_exact_name_occurs() {
    let typed = |name: &str, typed: &str| typed_as(nullable(name, DataType::Int64), typed);
    let inner = DataType::Struct(Fields::from(vec![typed("pageid", "pageId")]));
    let fields = vec![typed("userid", "userId"), nullable("s", inner)];
    let decoded = decode(
        &format(fields, &[]),
        false,
        &[
            r#"{"userId":1,"s":{"pageId":1,"pageId":2},"userId":2}"#,
            r#"{"userId":1,"userid":2,"userId":3,"s":{"pageid":1,"pageId":2}}"#,
            r#"{"userid":1,"s":{"pageId":1,"pageid":2},"userid":2}"#,
            r#"{"userId":"x","userId":2}"#,
            r#"{"userId":4}"#,
        ],
    );
    assert_eq!(cells(decoded.columns.column(0)), ["2", "2", "2", "-", "4"]);
    let expected = ["{pageid: 2}", "{pageid: 1}", "{pageid: 2}", "-", "-"];
    assert_eq!(cells(decoded.columns.column(1)), expected);
    // All values of a key have to be readable.
    let bad = decoded.bad.iter().map(|bad| bad.row);
    assert_eq!(bad.collect::<Vec<_>>(), [3]);
}

#[test]
fn the_last_value_of_a_duplicate_key_counts() {
    let map = |key: DataType| {
        let entries = Fields::from(vec![
            Field::new("key", key, false),
            Field::new("value", DataType::Int64, true),
        ]);
        let entries = Field::new("entries", DataType::Struct(entries), false);
        DataType::Map(Arc::new(entries), false)
    };
    let fields = vec![
        nullable("a", DataType::Int64),
        nullable("m", map(DataType::Utf8)),
        nullable("n", map(DataType::Int32)),
    ];
    let many: Vec<String> = (0..20).map(|n| format!("\"k{}\":{n}", n % 10)).collect();
    let many = format!("{{\"m\":{{{}}}}}", many.join(","));
    let decoded = decode(
        &format(fields, &[]),
        false,
        &[
            r#"{"a":1,"m":{"x":1,"y":2,"x":3},"n":{"1":1,"2":2},"a":2}"#,
            r#"{"m":{"x":1},"n":{"7":1,"7":null,"8":2}}"#,
            &many,
        ],
    );
    assert_eq!(cells(decoded.columns.column(0)), ["2", "-", "-"]);
    let last: Vec<String> = (10..20).map(|n| format!("k{}: {n}", n - 10)).collect();
    assert_eq!(
        cells(decoded.columns.column(1)),
        [
            "{y: 2, x: 3}".to_owned(),
            "{x: 1}".to_owned(),
            format!("{{{}}}", last.join(", "))
        ]
    );
    assert_eq!(
        cells(decoded.columns.column(2)),
        ["{1: 1, 2: 2}", "{7: -, 8: 2}", "-"]
    );
}

#[test]
fn a_message_is_exactly_one_object() {
    let format = format(vec![nullable("a", DataType::Int64)], &[]);
    let messages: &[(&[u8], &str)] = &[
        (b"", "empty"),
        (b" \n", "empty"),
        (b"{\"a\":1}{\"a\":2}", "trailing characters"),
        (b"{\"a\":1} x", "trailing characters"),
        (b"{\"a\":1", "EOF"),
        (b"{\"a\" 1}", "expected `:`"),
        (b"{\"a\":1 \"b\":2}", "expected `,`"),
        (b"{\"a\":1,}", "trailing comma"),
        (b"{,\"a\":1}", "key must be a string"),
        (b"{\"b\":01}", "invalid number"),
        (b"{\"b\":nul}", "expected ident"),
        (b"[1]", "a JSON object was expected, found [1]"),
        (b"null", "a JSON object was expected, found null"),
        (b"12", "a JSON object was expected, found 12"),
        (b"\xef\xbb\xbf{\"a\":1}", "a JSON object was expected"),
        (b"{\"b\":\"\xff\"}", "not valid UTF-8 at byte 6"),
        (b"{\"b\":\"\n\"}", "control character"),
    ];
    for lenient in [false, true] {
        let payloads: Vec<&[u8]> = messages.iter().map(|(message, _)| *message).collect();
        let decoded = decode(&format, lenient, &payloads);
        assert_eq!(decoded.bad.len(), messages.len());
        for (bad, (_, reason)) in decoded.bad.iter().zip(messages) {
            assert!(
                bad.reason.contains(reason),
                "{:?} has not {reason:?}",
                bad.reason
            );
        }
        assert_eq!(decoded.columns.column(0).null_count(), messages.len());
    }
    let decoded = decode(
        &format,
        false,
        &[
            " \t{ \"a\" : 1 }\r\n",
            r#"{"a":1,"a":2}"#,
            r#"{"a":1,"a":null}"#,
        ],
    );
    assert!(decoded.bad.is_empty());
    assert_eq!(cells(decoded.columns.column(0)), ["1", "2", "-"]);
    assert_eq!(decode(&format, false, &[r#"{"a":"x","a":2}"#]).bad.len(), 1);
}

#[test]
fn deep_nesting_does_not_overflow_the_stack() {
    let list = DataType::new_list(DataType::Int64, true);
    let format = format(
        vec![nullable("t", DataType::Utf8), nullable("l", list)],
        &[],
    );
    let deep = format!("{}{}", "[".repeat(500_000), "]".repeat(500_000));
    let open = "[".repeat(500_000);
    let decoded = decode(
        &format,
        false,
        &[
            format!("{{\"other\":{deep}}}"),
            format!("{{\"t\":{deep}}}"),
            format!("{{\"l\":{deep}}}"),
            format!("{{\"l\":{open}"),
            open,
        ],
    );
    let bad: Vec<usize> = decoded.bad.iter().map(|bad| bad.row).collect();
    assert_eq!(bad, [2, 3, 4]);
    assert_eq!(decoded.columns.column(0).as_string::<i32>().value(1), deep);
}

#[test]
fn tombstones_and_missing_fields() {
    let format = format(
        vec![
            Field::new("a", DataType::Int64, false),
            nullable("b", DataType::Utf8),
        ],
        &[],
    );
    let mut decoder = format.decoder(&[0, 1], false).unwrap();
    let payloads: [Option<&[u8]>; 4] = [
        None,
        Some(b"{\"a\":1}"),
        Some(b"{\"b\":\"x\"}"),
        Some(b"{\"a\":null,\"b\":\"x\"}"),
    ];
    let decoded = decoder.decode(&payloads).unwrap();
    assert_eq!(cells(decoded.columns.column(0)), ["-", "1", "-", "-"]);
    assert_eq!(cells(decoded.columns.column(1)), ["-", "-", "-", "-"]);
    let bad: Vec<usize> = decoded.bad.iter().map(|bad| bad.row).collect();
    assert_eq!(bad, [2, 3]);
    assert!(
        decoder
            .schema()
            .fields()
            .iter()
            .all(|field| field.is_nullable())
    );
    // The decoder keeps no state between batches.
    let decoded = decoder.decode(&payloads[1..2]).unwrap();
    assert_eq!((decoded.columns.num_rows(), decoded.bad.len()), (1, 0));
    assert_eq!(decoder.decode(&[]).unwrap().columns.num_rows(), 0);
}

#[test]
fn only_projected_columns_are_read_in_the_order_asked_for() {
    let format = format(
        vec![
            nullable("a", DataType::Int64),
            nullable("b", DataType::Utf8),
            nullable("c", DataType::Int32),
        ],
        &[],
    );
    let payloads: [Option<&[u8]>; 2] = [Some(b"{\"a\":1.5,\"b\":\"x\",\"c\":3}"), Some(b"no json")];
    let decoded = format
        .decoder(&[2, 1], false)
        .unwrap()
        .decode(&payloads)
        .unwrap();
    assert_eq!(decoded.columns.schema().field(0).name(), "c");
    assert_eq!(cells(decoded.columns.column(0)), ["3", "-"]);
    assert_eq!(cells(decoded.columns.column(1)), ["x", "-"]);
    assert_eq!(decoded.bad.len(), 1);
    let none = format
        .decoder(&[], false)
        .unwrap()
        .decode(&payloads)
        .unwrap();
    assert_eq!(
        (none.columns.num_rows(), none.columns.num_columns()),
        (2, 0)
    );
    assert!(none.bad.is_empty());
}

#[test]
fn lenient_reading_nulls_the_field_only() {
    let mut fields = nested_fields();
    fields.push(nullable("n", DataType::Int64));
    let format = format(fields, &[]);
    let decoded = decode(
        &format,
        true,
        &[
            r#"{"p":{"x":1,"at":5},"n":1.5,"l":7,"m":{"a":["x",2],"b":3}}"#,
            r#"{"p":{"x":"y"},"n":1}"#,
            r#"{"n":1"#,
        ],
    );
    assert_eq!(
        cells(decoded.columns.column(0)),
        ["{x: 1, at: -}", "-", "-"]
    );
    assert_eq!(cells(decoded.columns.column(1)), ["-", "-", "-"]);
    assert_eq!(
        cells(decoded.columns.column(2)),
        ["{a: [-, 2], b: -}", "-", "-"]
    );
    assert_eq!(cells(decoded.columns.column(3)), ["-", "-", "-"]);
    let bad: Vec<usize> = decoded.bad.iter().map(|bad| bad.row).collect();
    assert_eq!(bad, [1, 2]);
}

/// A number that no DOUBLE holds is a value of another type than STRUCT, LIST and MAP, as it is for a DOUBLE: the rest of the record
/// is read.
#[test]
fn a_huge_number_in_the_place_of_a_nested_value_is_a_conflict() {
    let mut fields = nested_fields();
    fields.push(nullable("d", DataType::Float64));
    let format = format(fields, &[]);
    let messages = [
        r#"{"p":1e999,"d":1}"#,
        r#"{"d":2,"l":-1e999,"p":{"x":1}}"#,
        r#"{"p":{"x":3},"m":1e999 ,"d":3,"other":1e999}"#,
        r#"{"m":{"a":[1],"b":1e999},"d":4}"#,
        r#"{"d":1e999,"m":1e999,"p":{"x":5}}"#,
    ];
    let decoded = decode(&format, true, &messages);
    assert_eq!(decoded.bad.len(), 0);
    let column = |index: usize| cells(decoded.columns.column(index));
    assert_eq!(
        column(0),
        ["-", "{x: 1, at: -}", "{x: 3, at: -}", "-", "{x: 5, at: -}"]
    );
    assert_eq!(column(1), ["-"; 5]);
    assert_eq!(column(2), ["-", "-", "-", "{a: [1], b: -}", "-"]);
    assert_eq!(column(3), ["1.0", "2.0", "3.0", "4.0", "-"]);

    let strict = decode(&format, false, &messages[..3]);
    let columns = strict.bad.iter().filter_map(|bad| bad.column.as_deref());
    let columns: Vec<&str> = columns.collect();
    assert_eq!(columns, ["p", "l", "m"]);
}

/// A message that ends within a nested value is one bad row: what was read of it is removed.
#[test]
fn a_message_that_is_cut_off_in_a_nested_value_is_one_bad_row() {
    let whole = r#"{"p":{"x":1,"at":5},"l":[{"x":1},{"x":2,"at":6}],"m":{"a":[1,2],"b":[3]}}"#;
    let format = format(nested_fields(), &[("json.timestamp_unit", "seconds")]);
    for end in 1..whole.len() {
        for lenient in [false, true] {
            let decoded = decode(&format, lenient, &[whole, &whole[..end], whole]);
            let bad: Vec<usize> = decoded.bad.iter().map(|bad| bad.row).collect();
            assert_eq!(bad, [1], "{}", &whole[..end]);
            for column in decoded.columns.columns() {
                let cells = cells(column);
                assert_ne!(cells[0], "-");
                assert_eq!(cells[2], cells[0], "{}", &whole[..end]);
                assert_eq!(cells[1], "-", "{}", &whole[..end]);
            }
        }
    }
}

#[test]
fn an_unknown_type_is_refused_by_name() {
    let field = nullable("d", DataType::Duration(TimeUnit::Second));
    let error =
        FormatOptions::from_options([("format", "json")], Arc::new(Schema::new(vec![field])));
    match error {
        Err(error) => assert!(error.message().contains("column d"), "{error}"),
        Ok(_) => panic!("a duration was accepted"),
    }
}

#[test]
fn a_number_in_quotes_is_a_time_if_a_unit_is_said() {
    let field = Field::new(
        "t",
        DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into())),
        true,
    );
    let read = |options: &[(&str, &str)], json: &str| {
        let schema = Arc::new(Schema::new(vec![field.clone()]));
        let format = FormatOptions::from_options(options.iter().copied(), schema).unwrap();
        let mut decoder = format.decoder(&[0], false).unwrap();
        let decoded = decoder.decode(&[Some(json.as_bytes())]).unwrap();
        let times = decoded
            .columns
            .column(0)
            .as_primitive::<TimestampMicrosecondType>();
        let value = times.is_valid(0).then(|| times.value(0));
        (value, decoded.bad.into_iter().next().map(|bad| bad.reason))
    };
    let millis = [("json.timestamp_unit", "milliseconds")];
    for json in [
        "{\"t\":\"1756980000123\"}",
        "{\"t\":1756980000123}",
        "{\"t\":\"2025-09-04T10:00:00.123Z\"}",
    ] {
        assert_eq!(
            read(&millis, json),
            (Some(1_756_980_000_123_000), None),
            "{json}"
        );
    }
    let (none, reason) = read(&[], "{\"t\":\"1756980000123\"}");
    assert_eq!(none, None);
    assert!(reason.unwrap().contains("'json.timestamp_unit'"));
}
