//! The JSON decoder compared with serde_json's documents, which it never builds.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use arrow::array::{Array, AsArray, RecordBatch};
use arrow::datatypes::{DataType, Field, Int32Type, Int64Type};
use proptest::prelude::*;
use serde_json::{Map, Value, json};

use super::tests::{decode, format, nested_fields, nullable};

/// The expected values of a message for columns `i BIGINT NOT NULL, s VARCHAR, l LIST<INT>`.
type Values = (i64, Option<String>, Option<Vec<Option<i32>>>);

enum Verdict {
    Good(Values),
    Bad,
    /// serde_json's documents reject some values that are legal in a skipped field, and do not keep the earlier values of a
    /// repeated key.
    Unknown,
}

/// Written against serde_json's documents, which the decoder never builds.
fn oracle(message: &[u8]) -> Verdict {
    let text = String::from_utf8_lossy(message);
    if ["\"i\"", "\"s\"", "\"l\""]
        .iter()
        .any(|key| text.matches(key).count() > 1)
    {
        return Verdict::Unknown;
    }
    // A document has 0 for a number that is too small for a DOUBLE; the decoder sees that it is not 0.
    let is_exponent = |pair: &[u8]| pair[0].is_ascii_digit() && matches!(pair[1], b'e' | b'E');
    if message.windows(2).any(is_exponent) {
        return Verdict::Unknown;
    }
    match serde_json::from_slice(message) {
        // The oracle reads the text as a DOUBLE, which has not all digits.
        Ok(Value::Object(object)) if has_long_number(&object) => Verdict::Unknown,
        Ok(Value::Object(object)) => match object.get("s") {
            // A text column takes the number as written in the message, which a document does not keep.
            Some(Value::Number(number)) if number.is_f64() => Verdict::Unknown,
            _ => values(&object).map_or(Verdict::Bad, Verdict::Good),
        },
        Ok(_) => Verdict::Bad,
        Err(error) => {
            let error = error.to_string();
            let is_limit = error.starts_with("number out of range") || error.contains("hex escape");
            if is_limit {
                Verdict::Unknown
            } else {
                Verdict::Bad
            }
        }
    }
}

/// Whether an integer is in a string, and too long for a DOUBLE, in a form that is not an integer's own, such as with a point.
fn has_long_number(object: &Map<String, Value>) -> bool {
    let items = object.get("l").and_then(Value::as_array);
    let texts = object
        .get("i")
        .into_iter()
        .chain(items.into_iter().flatten());
    texts.filter_map(Value::as_str).any(|text| {
        text.parse::<i64>().is_err() && text.parse().is_ok_and(|float: f64| float.abs() >= 1e15)
    })
}

fn values(object: &Map<String, Value>) -> Option<Values> {
    let whole = |float: f64| (float.fract() == 0.0 && float.abs() < 1e15).then_some(float as i64);
    let integer = |value: &Value| match value {
        Value::Number(number) => number.as_i64().or_else(|| whole(number.as_f64()?)),
        Value::String(text) => text.parse().ok().or_else(|| whole(text.parse().ok()?)),
        _ => None,
    };
    let i = integer(object.get("i")?)?;
    let s = match object.get("s") {
        None | Some(Value::Null) => None,
        Some(Value::String(text)) => Some(text.clone()),
        Some(other) => Some(other.to_string()),
    };
    let l = match object.get("l") {
        None | Some(Value::Null) => None,
        Some(Value::Array(items)) => Some(
            items
                .iter()
                .map(|item| match item {
                    Value::Null => Some(None),
                    item => integer(item)
                        .and_then(|wide| i32::try_from(wide).ok())
                        .map(Some),
                })
                .collect::<Option<Vec<_>>>()?,
        ),
        Some(_) => return None,
    };
    Some((i, s, l))
}

fn actual(batch: &RecordBatch, row: usize) -> Values {
    let (i, s, l) = (batch.column(0), batch.column(1), batch.column(2));
    (
        i.as_primitive::<Int64Type>().value(row),
        s.is_valid(row)
            .then(|| s.as_string::<i32>().value(row).to_owned()),
        l.is_valid(row).then(|| {
            let items = l.as_list::<i32>().value(row);
            items.as_primitive::<Int32Type>().iter().collect()
        }),
    )
}

fn any_integer_value() -> impl Strategy<Value = Value> {
    prop_oneof![
        8 => any::<i64>().prop_map(|value| json!(value)),
        1 => any::<i64>().prop_map(|value| json!(value.to_string())),
        1 => any::<u64>().prop_map(|value| json!(value)),
        1 => (-1000_i32..1000).prop_map(|value| json!(f64::from(value) / 2.0)),
        1 => any::<bool>().prop_map(|value| json!(value)),
        1 => Just(Value::Null),
        1 => "\\PC{0,5}".prop_map(|value| json!(value)),
    ]
}

fn any_message() -> impl Strategy<Value = Vec<u8>> {
    let s = prop_oneof![
        4 => ".{0,20}".prop_map(|value| json!(value)),
        1 => Just(Value::Null),
        1 => any::<i32>().prop_map(|value| json!(value)),
    ];
    let item = prop_oneof![
        20 => any::<i32>().prop_map(|value| json!(value)),
        2 => Just(Value::Null),
        1 => any_integer_value(),
    ];
    let l = prop_oneof![
        8 => prop::collection::vec(item, 0..5).prop_map(Value::Array),
        1 => Just(Value::Null),
        1 => any_integer_value(),
    ];
    let fields = (
        any_integer_value(),
        s,
        l,
        prop::option::of(any_integer_value()),
    );
    let whole = fields.prop_flat_map(|(i, s, l, extra)| {
        let mut object = json!({"i": i, "s": s, "l": l});
        if let Some(extra) = extra {
            object["extra"] = json!({"nested": [extra]});
        }
        prop::sample::subsequence(vec!["i", "s", "l", "extra"], 0..2).prop_map(move |dropped| {
            let mut object = object.clone();
            for name in dropped {
                object.as_object_mut().unwrap().remove(name);
            }
            object.to_string().into_bytes()
        })
    });
    let whole = whole.boxed();
    let damaged = (whole.clone(), any::<prop::sample::Index>(), any::<u8>()).prop_map(
        |(mut message, at, byte)| {
            let at = at.index(message.len());
            message[at] = byte;
            message
        },
    );
    prop_oneof![8 => whole, 2 => damaged, 1 => prop::collection::vec(any::<u8>(), 0..20)]
}

proptest! {
    #[test]
    fn bad_rows_are_exactly_the_oracles(messages in prop::collection::vec(any_message(), 0..40)) {
        let format = format(
            vec![
                Field::new("i", DataType::Int64, false),
                nullable("s", DataType::Utf8),
                nullable("l", DataType::new_list(DataType::Int32, true)),
            ],
            &[],
        );
        let decoded = decode(&format, false, &messages);
        let mut bad = decoded.bad.iter().map(|bad| bad.row).peekable();
        for (row, message) in messages.iter().enumerate() {
            let text = String::from_utf8_lossy(message);
            let is_bad = bad.next_if_eq(&row).is_some();
            match oracle(message) {
                Verdict::Unknown => {}
                Verdict::Good(values) => {
                    prop_assert!(!is_bad, "{}", text);
                    prop_assert_eq!(actual(&decoded.columns, row), values, "{}", text);
                }
                Verdict::Bad => {
                    prop_assert!(is_bad, "{}", text);
                    prop_assert!(decoded.columns.columns().iter().all(|column| column.is_null(row)));
                }
            }
        }
        prop_assert_eq!(bad.next(), None);
    }

    #[test]
    fn any_bytes_are_read_or_bad(
        messages in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..60), 0..20),
        texts in prop::collection::vec("[\\[\\]{}:,\"\\\\a-cu0-9.eE+ -]{0,60}", 0..20),
        lenient in any::<bool>(),
    ) {
        let format = format(nested_fields(), &[]);
        decode(&format, lenient, &messages);
        decode(&format, lenient, &texts);
    }
}
