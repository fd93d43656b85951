//! Rows to JSON: every type as written, and read back.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::sync::Arc;

use arrow::array::{
    BinaryArray, BinaryViewArray, Decimal128Array, Float64Array, Int64Array, LargeBinaryArray,
    StringArray, StringViewArray, Time64NanosecondArray, TimestampMicrosecondArray, new_null_array,
};
use arrow::datatypes::{Fields, Schema};
use proptest::prelude::*;

use super::*;
use crate::error::ErrorKind;
use crate::formats::FormatOptions;
use crate::formats::codec::RecordEncoder;

fn nullable(name: &str, data_type: DataType) -> Field {
    Field::new(name, data_type, true)
}

fn batch(columns: Vec<(&str, ArrayRef)>) -> RecordBatch {
    RecordBatch::try_from_iter_with_nullable(
        columns.into_iter().map(|(name, array)| (name, array, true)),
    )
    .unwrap()
}

fn format(schema: SchemaRef, options: &[(&str, &str)]) -> FormatOptions {
    FormatOptions::from_options(options.iter().copied(), schema).unwrap()
}

fn encoder(batch: &RecordBatch, options: &[(&str, &str)]) -> Box<dyn RecordEncoder> {
    format(batch.schema(), options).encoder().unwrap()
}

fn encode(batch: &RecordBatch, options: &[(&str, &str)]) -> Vec<String> {
    let rows = encoder(batch, options).encode(batch, None).unwrap();
    assert_eq!(rows.len(), batch.num_rows());
    rows.iter()
        .map(|row| String::from_utf8(row.unwrap().to_vec()).unwrap())
        .collect()
}

#[test]
fn fields_in_order_and_nulls_left_out_or_written() {
    let batch = batch(vec![
        ("b", Arc::new(Int64Array::from(vec![Some(1), None])) as _),
        (
            "a",
            Arc::new(StringArray::from(vec![None, Some("q\"\\\n\u{1}é\u{2028}")])) as _,
        ),
    ]);
    assert_eq!(
        encode(&batch, &[]),
        ["{\"b\":1}", "{\"a\":\"q\\\"\\\\\\n\\u0001é\u{2028}\"}"]
    );
    assert_eq!(
        encode(&batch, &[("json.nulls", "write")]),
        [
            "{\"b\":1,\"a\":null}",
            "{\"b\":null,\"a\":\"q\\\"\\\\\\n\\u0001é\u{2028}\"}"
        ]
    );
}

#[test]
fn timestamps_in_every_format() {
    let micros = 1_756_969_200_000_000_i64;
    let times = TimestampMicrosecondArray::from(vec![micros, micros + 1]).with_timezone("UTC");
    let batch = batch(vec![("t", Arc::new(times) as _)]);
    let paris = ("timezone", "Europe/Paris");
    for (format, expected) in [
        (
            "iso",
            [
                "\"2025-09-04T09:00:00.000+02:00\"",
                "\"2025-09-04T09:00:00.000001+02:00\"",
            ],
        ),
        (
            "iso_millis",
            [
                "\"2025-09-04T09:00:00.000+02:00\"",
                "\"2025-09-04T09:00:00.000+02:00\"",
            ],
        ),
        (
            "iso_micros",
            [
                "\"2025-09-04T09:00:00.000000+02:00\"",
                "\"2025-09-04T09:00:00.000001+02:00\"",
            ],
        ),
        (
            "sql",
            [
                "\"2025-09-04 09:00:00.000000\"",
                "\"2025-09-04 09:00:00.000001\"",
            ],
        ),
        ("epoch_seconds", ["1756969200", "1756969200"]),
        ("epoch_millis", ["1756969200000", "1756969200000"]),
        ("epoch_micros", ["1756969200000000", "1756969200000001"]),
    ] {
        let written = encode(&batch, &[paris, ("json.timestamp_format", format)]);
        assert_eq!(
            written,
            expected.map(|value| format!("{{\"t\":{value}}}")),
            "{format}"
        );
    }
    assert_eq!(
        encode(&batch, &[])[0],
        "{\"t\":\"2025-09-04T07:00:00.000Z\"}"
    );
}

#[test]
fn other_types_are_encoded() {
    let decimal = Decimal128Array::from(vec![-5, 12345])
        .with_precision_and_scale(10, 3)
        .unwrap();
    let batch = batch(vec![
        ("d", Arc::new(decimal) as _),
        (
            "x",
            Arc::new(BinaryArray::from(vec![&b"\x00\xff\x80"[..], b""])) as _,
        ),
        (
            "v",
            Arc::new(BinaryViewArray::from(vec![&b"\x00"[..], b"\x01\x02"])) as _,
        ),
        (
            "w",
            Arc::new(LargeBinaryArray::from(vec![&b"\x00"[..], b"\x01\x02"])) as _,
        ),
        (
            "s",
            Arc::new(StringViewArray::from(vec![
                "short",
                "longer than twelve bytes",
            ])) as _,
        ),
        ("f", Arc::new(Float64Array::from(vec![1.0, 1e300])) as _),
        (
            "t",
            Arc::new(Time64NanosecondArray::from(vec![0, 3_723_500_000_000])) as _,
        ),
    ]);
    assert_eq!(
        encode(&batch, &[]),
        [
            r#"{"d":-0.005,"x":"AP+A","v":"AA==","w":"AA==","s":"short","f":1.0,"t":"00:00:00"}"#,
            r#"{"d":12.345,"x":"","v":"AQI=","w":"AQI=","s":"longer than twelve bytes","f":1e300,"t":"01:02:03.500"}"#,
        ]
        .map(|row| row.replace("1e300", &serde_json::to_string(&1e300).unwrap()))
    );
}

#[test]
fn nan_and_infinity_are_errors_except_in_tombstones() {
    for value in [f64::NAN, f64::INFINITY, f64::NEG_INFINITY] {
        let batch = batch(vec![(
            "f",
            Arc::new(Float64Array::from(vec![1.0, value, 2.0])) as _,
        )]);
        let mut encoder = encoder(&batch, &[]);
        let error = encoder.encode(&batch, None).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Data);
        let expected = format!("row 1 of the batch, column f: JSON has no number for {value}");
        assert_eq!(error.message(), expected);
        // The encoder can be used for the next batch, and does not encode deleted rows.
        assert!(encoder.encode(&batch.slice(2, 1), None).is_ok());
        let withdrawn = BooleanBuffer::from(vec![false, true, false]);
        let rows = encoder.encode(&batch, Some(&withdrawn)).unwrap();
        let rows: Vec<Option<&[u8]>> = rows.iter().collect();
        assert_eq!(
            rows,
            [Some(&b"{\"f\":1.0}"[..]), None, Some(&b"{\"f\":2.0}"[..])]
        );
    }
}

#[test]
fn a_null_in_a_map_keeps_its_key_and_keys_are_quoted() {
    let entries = Fields::from(vec![
        Field::new("key", DataType::Int32, false),
        Field::new("value", DataType::Utf8, true),
    ]);
    let entries = Arc::new(Field::new("entries", DataType::Struct(entries), false));
    let schema = Arc::new(Schema::new(vec![nullable(
        "m",
        DataType::Map(entries, false),
    )]));
    let format = format(schema, &[]);
    let message = br#"{"m":{"1":"a","-2":null}}"#;
    let decoded = format
        .decoder(&[0], false)
        .unwrap()
        .decode(&[Some(message)])
        .unwrap();
    assert_eq!(
        encode(&decoded.columns, &[]),
        [r#"{"m":{"1":"a","-2":null}}"#]
    );
}

#[test]
fn a_batch_that_does_not_fit_is_refused() {
    let batch = batch(vec![("a", new_null_array(&DataType::Int64, 2))]);
    let mut encoder = encoder(&batch, &[]);
    assert!(
        encoder
            .encode(&RecordBatch::new_empty(Arc::new(Schema::empty())), None)
            .is_err()
    );
    assert!(
        encoder
            .encode(&batch, Some(&BooleanBuffer::new_set(1)))
            .is_err()
    );
    assert_eq!(encoder.encode(&batch.slice(0, 0), None).unwrap().len(), 0);
}

/// A column of every type; nested ones hold all of the others.
fn every_type() -> Fields {
    let scalars = vec![
        nullable("boolean", DataType::Boolean),
        nullable("tiny", DataType::Int8),
        nullable("small", DataType::Int16),
        nullable("int", DataType::Int32),
        nullable("big", DataType::Int64),
        nullable("utiny", DataType::UInt8),
        nullable("usmall", DataType::UInt16),
        nullable("uint", DataType::UInt32),
        nullable("ubig", DataType::UInt64),
        nullable("real", DataType::Float32),
        nullable("double", DataType::Float64),
        nullable("date", DataType::Date32),
        nullable("seconds", DataType::Time32(TimeUnit::Second)),
        nullable("time", DataType::Time64(TimeUnit::Nanosecond)),
        nullable(
            "timestamp",
            DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into())),
        ),
        nullable("nanos", DataType::Timestamp(TimeUnit::Nanosecond, None)),
        nullable("decimal", DataType::Decimal128(20, 4)),
        nullable("wide", DataType::Decimal256(60, 10)),
        nullable("text", DataType::Utf8),
        nullable("view \"quoted\"", DataType::Utf8View),
        nullable("large", DataType::LargeUtf8),
        nullable("bytes", DataType::Binary),
        nullable("bytes_view", DataType::BinaryView),
    ];
    let record = DataType::Struct(Fields::from(scalars.clone()));
    let entries = Fields::from(vec![
        Field::new("key", DataType::Utf8, false),
        nullable("value", record.clone()),
    ]);
    let entries = Arc::new(Field::new("entries", DataType::Struct(entries), false));
    let mut all = scalars;
    all.push(nullable("list", DataType::new_list(record.clone(), true)));
    all.push(nullable("map", DataType::Map(entries, false)));
    all.push(nullable("struct", record));
    Fields::from(all)
}

/// JSON for a value of each type, within its range.
fn any_json(data_type: &DataType) -> BoxedStrategy<String> {
    fn shown<T: std::fmt::Display + std::fmt::Debug + Arbitrary + 'static>() -> BoxedStrategy<String>
    {
        any::<T>().prop_map(|value| value.to_string()).boxed()
    }
    let value = match data_type {
        DataType::Boolean => shown::<bool>(),
        DataType::Int8 => shown::<i8>(),
        DataType::Int16 => shown::<i16>(),
        DataType::Int32 => shown::<i32>(),
        DataType::Int64 => shown::<i64>(),
        DataType::UInt8 => shown::<u8>(),
        DataType::UInt16 => shown::<u16>(),
        DataType::UInt32 => shown::<u32>(),
        DataType::UInt64 => shown::<u64>(),
        DataType::Float32 => shown::<f32>(),
        DataType::Float64 => shown::<f64>(),
        DataType::Date32 => "\"20[0-9]{2}-0[1-9]-1[0-9]\"".boxed(),
        DataType::Time32(_) => "\"1[0-9]:[0-5][0-9]:[0-5][0-9]\"".boxed(),
        DataType::Time64(_) => "\"1[0-9]:[0-5][0-9]:[0-5][0-9]\\.[0-9]{9}\"".boxed(),
        DataType::Timestamp(..) => {
            "\"20[0-9]{2}-0[1-9]-1[0-9]T0[0-9]:[0-5][0-9]:[0-5][0-9]\\.[0-9]{1,9}Z\"".boxed()
        }
        DataType::Decimal128(..) | DataType::Decimal256(..) => {
            "-?[1-9][0-9]{0,14}\\.[0-9]{1,4}".boxed()
        }
        DataType::Utf8 | DataType::Utf8View | DataType::LargeUtf8 => ".{0,20}"
            .prop_map(|text| serde_json::to_string(&text).unwrap())
            .boxed(),
        DataType::Binary | DataType::BinaryView => prop::collection::vec(any::<u8>(), 0..20)
            .prop_map(|bytes| format!("\"{}\"", BASE64.encode(bytes)))
            .boxed(),
        DataType::List(item) => prop::collection::vec(any_json(item.data_type()), 0..3)
            .prop_map(|items| format!("[{}]", items.join(",")))
            .boxed(),
        DataType::Map(entries, _) => {
            let DataType::Struct(fields) = entries.data_type() else {
                unreachable!()
            };
            prop::collection::btree_map(".{0,5}", any_json(fields[1].data_type()), 0..3)
                .prop_map(|map| {
                    let entries: Vec<String> = map
                        .iter()
                        .map(|(key, value)| {
                            format!("{}:{value}", serde_json::to_string(key).unwrap())
                        })
                        .collect();
                    format!("{{{}}}", entries.join(","))
                })
                .boxed()
        }
        DataType::Struct(fields) => {
            let names: Vec<String> = fields
                .iter()
                .map(|field| serde_json::to_string(field.name()).unwrap())
                .collect();
            let values: Vec<BoxedStrategy<String>> = fields
                .iter()
                .map(|field| any_json(field.data_type()))
                .collect();
            values
                .prop_map(move |values| {
                    let fields: Vec<String> = names
                        .iter()
                        .zip(values)
                        .map(|(name, value)| format!("{name}:{value}"))
                        .collect();
                    format!("{{{}}}", fields.join(","))
                })
                .boxed()
        }
        other => unreachable!("{other}"),
    };
    prop_oneof![5 => value, 1 => Just("null".to_owned())].boxed()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn every_type_reads_back_what_it_wrote(
        rows in prop::collection::vec(any_json(&DataType::Struct(every_type())), 1..5),
        zone in prop::sample::select(vec!["UTC", "Europe/Paris", "-03:30"]),
        nulls in prop::sample::select(vec!["omit", "write"]),
    ) {
        let rows: Vec<&String> = rows.iter().filter(|row| *row != "null").collect();
        let fields = every_type();
        let projection: Vec<usize> = (0..fields.len()).collect();
        let options = [("timezone", zone), ("json.nulls", nulls)];
        let format = format(Arc::new(Schema::new(fields)), &options);
        let mut decoder = format.decoder(&projection, false).unwrap();
        let payloads: Vec<Option<&[u8]>> = rows.iter().map(|row| Some(row.as_bytes())).collect();
        let first = decoder.decode(&payloads).unwrap();
        prop_assert_eq!(&first.bad, &vec![]);
        let written = format.encoder().unwrap().encode(&first.columns, None).unwrap();
        let payloads: Vec<Option<&[u8]>> = written.iter().collect();
        let second = decoder.decode(&payloads).unwrap();
        prop_assert_eq!(&second.bad, &vec![]);
        prop_assert_eq!(&first.columns, &second.columns);
        // serde_json reads the message as JSON too, with the same values.
        for (row, message) in rows.iter().zip(written.iter()) {
            let theirs: serde_json::Value = serde_json::from_slice(message.unwrap()).unwrap();
            let ours: serde_json::Value = serde_json::from_str(row).unwrap();
            for name in ["boolean", "big", "ubig", "text", "view \"quoted\"", "bytes"] {
                prop_assert_eq!(&theirs[name], &ours[name]);
                prop_assert_eq!(&theirs["struct"][name], &ours["struct"][name]);
            }
        }
    }

    #[test]
    fn any_row_of_a_slice_is_written(values in prop::collection::vec(any::<Option<i64>>(), 1..20), start in any::<prop::sample::Index>()) {
        let start = start.index(values.len());
        let whole = batch(vec![("v", Arc::new(Int64Array::from(values.clone())) as ArrayRef)]);
        let rows = encode(&whole.slice(start, values.len() - start), &[("json.nulls", "write")]);
        let expected: Vec<String> = values[start..]
            .iter()
            .map(|value| format!("{{\"v\":{}}}", value.map_or("null".to_owned(), |value| value.to_string())))
            .collect();
        prop_assert_eq!(rows, expected);
    }
}
