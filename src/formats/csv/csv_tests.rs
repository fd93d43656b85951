//! CSV records to columns and back.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use arrow::array::Int64Array;
use arrow::datatypes::{Field, TimeUnit};
use proptest::prelude::*;

use super::super::FormatOptions;
use super::*;
use crate::error::ErrorKind;

fn format(fields: Vec<Field>, options: &[(&str, &str)]) -> Result<FormatOptions> {
    let options = options.iter().copied().chain([("format", "csv")]);
    FormatOptions::from_options(options, Arc::new(Schema::new(fields)))
}

fn columns() -> Vec<Field> {
    vec![
        Field::new("id", DataType::Int64, false),
        Field::new("name", DataType::Utf8View, true),
        Field::new(
            "at",
            DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into())),
            true,
        ),
        Field::new("x", DataType::Float64, true),
    ]
}

#[test]
fn fields_are_matched_by_position_for_any_projection() {
    let format = format(columns(), &[("timezone", "Europe/Paris")]).unwrap();
    let payloads: [Option<&[u8]>; 3] = [
        Some(b"1,\"a,b\",2025-09-04T07:00:00,1.5"),
        None,
        Some(b"2,,2025-09-04 07:00:00Z,-Infinity\r\n"),
    ];
    let decoded = format
        .decoder(&[2, 0], false)
        .unwrap()
        .decode(&payloads)
        .unwrap();
    assert_eq!(decoded.bad, []);
    assert_eq!(decoded.columns.schema().field(0).name(), "at");
    let ids: Vec<Option<i64>> = decoded
        .columns
        .column(1)
        .as_primitive::<Int64Type>()
        .iter()
        .collect();
    assert_eq!(ids, [Some(1), None, Some(2)]);
    let all = format
        .decoder(&[0, 1, 2, 3], false)
        .unwrap()
        .decode(&payloads)
        .unwrap();
    let rows = format
        .encoder()
        .unwrap()
        .encode(&all.columns.slice(0, 1), None)
        .unwrap();
    assert_eq!(
        rows.get(0),
        Some(&b"1,\"a,b\",2025-09-04T07:00:00.000+02:00,1.5"[..])
    );
    let rows = format
        .encoder()
        .unwrap()
        .encode(&all.columns.slice(2, 1), None)
        .unwrap();
    assert_eq!(
        rows.get(0),
        Some(&b"2,,2025-09-04T09:00:00.000+02:00,-Infinity"[..])
    );
}

#[test]
fn bad_records_say_why() {
    let format = format(columns(), &[]).unwrap();
    let messages: [(&[u8], &str); 7] = [
        (b"", "1 fields found, 4 are declared"),
        (b"1,a,2025-01-01", "3 fields found"),
        (b"1,a,2025-01-01,1,2", "5 fields found"),
        (
            b",a,2025-01-01,1",
            "column id is NULL but is declared NOT NULL",
        ),
        (b"1.5,a,2025-01-01,1", "column id: \"1.5\" is not a BIGINT"),
        (b"1,\xff,2025-01-01,1", "not valid UTF-8 at byte 2"),
        (b"1,a,2025-01-01,1\n1,a,2025-01-01,1", "more than one line"),
    ];
    let payloads: Vec<Option<&[u8]>> = messages.iter().map(|(message, _)| Some(*message)).collect();
    let decoded = format
        .decoder(&[0, 1, 2, 3], false)
        .unwrap()
        .decode(&payloads)
        .unwrap();
    assert_eq!(decoded.bad.len(), messages.len());
    for (bad, (_, reason)) in decoded.bad.iter().zip(messages) {
        assert!(
            bad.reason.contains(reason),
            "{:?} has not {reason:?}",
            bad.reason
        );
    }
    let lenient = format
        .decoder(&[0, 2], true)
        .unwrap()
        .decode(&[Some(b"1,a,b,c")])
        .unwrap();
    assert_eq!(lenient.bad, []);
    assert!(lenient.columns.column(1).is_null(0));
}

#[test]
fn options_are_checked() {
    for (name, value) in [
        ("csv.delimiter", ""),
        ("csv.delimiter", ";;"),
        ("csv.quote", "é"),
    ] {
        let error = format(columns(), &[(name, value)]).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Invalid);
        assert!(error.message().contains(name), "{error}");
    }
    assert!(format(columns(), &[("csv.delimiter", "\"")]).is_err());
    let list = Field::new("l", DataType::new_list(DataType::Int64, true), true);
    let error = format(vec![list], &[]).unwrap_err();
    assert_eq!(
        error.message(),
        "format 'csv' has no nested values, column l is a LIST"
    );
    let tab = format(
        vec![Field::new("a", DataType::Int64, true); 2],
        &[("csv.delimiter", "\\t")],
    );
    let decoded = tab
        .unwrap()
        .decoder(&[1], false)
        .unwrap()
        .decode(&[Some(b"1\t2")])
        .unwrap();
    assert_eq!(
        decoded
            .columns
            .column(0)
            .as_primitive::<Int64Type>()
            .value(0),
        2
    );
}

#[test]
fn without_quotes_a_value_that_needs_them_is_refused() {
    let fields = vec![Field::new("a", DataType::Utf8, true)];
    let format = format(fields, &[("csv.quote", ""), ("csv.null", "\\N")]).unwrap();
    let decoded = format
        .decoder(&[0], false)
        .unwrap()
        .decode(&[Some(b"\"x\""), Some(b"\\N")])
        .unwrap();
    assert_eq!(
        decoded.columns.column(0).as_string::<i32>().value(0),
        "\"x\""
    );
    assert!(decoded.columns.column(0).is_null(1));
    let column = Arc::new(StringArray::from(vec!["x", "a,b"])) as ArrayRef;
    let batch = RecordBatch::try_from_iter_with_nullable([("a", column, true)]).unwrap();
    let error = format.encoder().unwrap().encode(&batch, None).unwrap_err();
    assert!(
        error.message().contains("row 1 of the batch, column a"),
        "{error}"
    );
    let withdrawn = BooleanBuffer::from(vec![false, true]);
    let rows = format
        .encoder()
        .unwrap()
        .encode(&batch, Some(&withdrawn))
        .unwrap();
    assert_eq!((rows.get(0), rows.get(1)), (Some(&b"x"[..]), None));
}

proptest! {
    #[test]
    fn rows_read_back(
        ids in prop::collection::vec(any::<i64>(), 1..10),
        names in prop::collection::vec(prop::option::of(".{0,8}"), 10),
        floats in prop::collection::vec(prop::option::of(any::<f64>()), 10),
        times in prop::collection::vec(prop::option::of(-1_000_000_000_000_000_i64..4_000_000_000_000_000), 10),
    ) {
        use arrow::array::{Float64Array, StringViewArray, TimestampMicrosecondArray};
        let rows = ids.len();
        let format = format(columns(), &[("timezone", "America/New_York")]).unwrap();
        let batch = RecordBatch::try_new(
            Arc::clone(format.declared()),
            vec![
                Arc::new(Int64Array::from(ids)),
                Arc::new(StringViewArray::from_iter(names.into_iter().take(rows))),
                Arc::new(TimestampMicrosecondArray::from_iter(times.into_iter().take(rows)).with_timezone("UTC")),
                Arc::new(Float64Array::from_iter(floats.into_iter().take(rows))),
            ],
        ).unwrap();
        let written = format.encoder().unwrap().encode(&batch, None).unwrap();
        let payloads: Vec<Option<&[u8]>> = written.iter().collect();
        let decoded = format.decoder(&[0, 1, 2, 3], false).unwrap().decode(&payloads).unwrap();
        prop_assert_eq!(decoded.bad, vec![]);
        prop_assert_eq!(decoded.columns.columns(), batch.columns());
    }

    #[test]
    fn any_bytes_are_read_or_bad(messages in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..30), 0..20)) {
        let format = format(columns(), &[]).unwrap();
        let payloads: Vec<Option<&[u8]>> = messages.iter().map(|message| Some(message.as_slice())).collect();
        let decoded = format.decoder(&[0, 1, 2, 3], false).unwrap().decode(&payloads).unwrap();
        prop_assert_eq!(decoded.columns.num_rows(), messages.len());
    }
}
