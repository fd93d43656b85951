//! Rows to Avro records, and back.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use arrow::array::{Int32Array, StringArray, new_null_array};
use arrow::datatypes::{DataType, Field, Fields, TimeUnit};
use proptest::prelude::*;
use serde_json::Value;

use super::*;
use crate::formats::FormatOptions;
use crate::formats::avro::decode::tests::{cells, decode, format, long, message, micros, nullable};
use crate::formats::column_spelling::typed_as;
use crate::formats::registry::stub::RegistryStub;

fn all_types() -> Vec<Field> {
    let scalars = vec![
        nullable("a", DataType::Boolean),
        nullable("b", DataType::Int8),
        nullable("c", DataType::UInt32),
        nullable("d", DataType::Int64),
        nullable("e", DataType::Float32),
        nullable("f", DataType::Float64),
        nullable("g", DataType::Utf8View),
        nullable("h", DataType::BinaryView),
        nullable("i", DataType::Date32),
        nullable("j", DataType::Time64(TimeUnit::Microsecond)),
        nullable("k", micros()),
        nullable("l", DataType::Decimal128(20, 4)),
        nullable("m", DataType::Decimal256(50, 10)),
    ];
    let record = DataType::Struct(Fields::from(scalars.clone()));
    let pair = Fields::from(vec![
        Field::new("key", DataType::Utf8, false),
        nullable("value", record.clone()),
    ]);
    let entries = Arc::new(Field::new("entries", DataType::Struct(pair), false));
    let required = Fields::from(vec![Field::new("x", DataType::Int32, false)]);
    let mut fields = scalars;
    fields.push(nullable("list", DataType::new_list(record, true)));
    fields.push(nullable("map", DataType::Map(entries, false)));
    fields.push(nullable("point", DataType::Struct(required)));
    fields.push(Field::new("id", DataType::Int64, false));
    fields
}

/// JSON for rows of [`all_types`], as a source of values.
fn any_row() -> impl Strategy<Value = String> {
    let record = (
        (
            any::<bool>(),
            any::<i8>(),
            any::<u32>(),
            any::<i64>(),
            any::<f32>(),
            any::<f64>(),
        ),
        (
            ".{0,12}",
            prop::collection::vec(any::<u8>(), 0..20),
            0_u32..20,
            0_u32..999_999,
            any::<i32>(),
        ),
        prop::collection::vec(any::<bool>(), 13),
    )
        .prop_map(|((a, b, c, d, e, f), (g, h, i, j, k), present)| {
            use base64::Engine;
            let g = serde_json::to_string(&g).unwrap();
            let h = crate::formats::text::scalar::BASE64.encode(h);
            let fields = [
                format!("\"a\":{a}"),
                format!("\"b\":{b}"),
                format!("\"c\":{c}"),
                format!("\"d\":{d}"),
                format!("\"e\":{e}"),
                format!("\"f\":{f}"),
                format!("\"g\":{g}"),
                format!("\"h\":\"{h}\""),
                format!("\"i\":\"20{:02}-01-01\"", i + 10),
                format!("\"j\":\"12:00:00.{j:06}\""),
                format!("\"k\":\"2025-01-01T00:00:00.{j:06}Z\""),
                format!("\"l\":{k}.25"),
                format!("\"m\":{d}.125"),
            ];
            let fields: Vec<String> = fields
                .into_iter()
                .zip(present)
                .filter_map(|(field, is_present)| is_present.then_some(field))
                .collect();
            fields.join(",")
        });
    let records = prop::collection::vec(record.clone(), 0..3);
    (record, records, any::<i64>(), 0..4_u8).prop_map(|(top, records, id, shape)| {
        let list: Vec<String> = records
            .iter()
            .map(|record| format!("{{{record}}}"))
            .collect();
        let map: Vec<String> = records
            .iter()
            .enumerate()
            .map(|(key, record)| format!("\"{key}\":{{{record}}}"))
            .collect();
        let mut fields = vec![format!("\"id\":{id}")];
        if !top.is_empty() {
            fields.push(top);
        }
        if shape & 1 == 0 {
            fields.push(format!("\"list\":[{}]", list.join(",")));
            fields.push("\"point\":{\"x\":5}".to_owned());
        }
        if shape & 2 == 0 {
            fields.push(format!("\"map\":{{{}}}", map.join(",")));
        }
        format!("{{{}}}", fields.join(","))
    })
}

fn payloads(rows: &EncodedRows) -> Vec<Option<&[u8]>> {
    rows.iter().collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]

    #[test]
    fn every_type_reads_back_what_it_wrote(rows in prop::collection::vec(any_row(), 1..6), withdrawn in any::<u8>()) {
        let stub = RegistryStub::start();
        let avro = format(&stub.url(), all_types(), &[]);
        let json = FormatOptions::from_options([("format", "json")], Arc::clone(avro.declared())).unwrap();
        let projection: Vec<usize> = (0..all_types().len()).collect();
        let rows: Vec<Option<&[u8]>> = rows.iter().map(|row| Some(row.as_bytes())).collect();
        let batch = json.decoder(&projection, false).unwrap().decode(&rows).unwrap();
        prop_assert_eq!(&batch.bad, &vec![]);
        let written = avro.encoder().unwrap().encode(&batch.columns, None).unwrap();
        let mut decoder = avro.decoder(&projection, false).unwrap();
        let read = decoder.decode(&payloads(&written)).unwrap();
        prop_assert_eq!(&read.bad, &vec![]);
        prop_assert_eq!(&read.columns, &batch.columns);
        // Withdrawn rows are tombstones, the others are as before.
        let mask: BooleanBuffer = (0..rows.len()).map(|row| withdrawn >> row & 1 == 1).collect();
        let some = avro.encoder().unwrap().encode(&batch.columns, Some(&mask)).unwrap();
        for row in 0..rows.len() {
            prop_assert_eq!(some.get(row), written.get(row).filter(|_| !mask.value(row)));
        }
    }

    #[test]
    fn damaged_records_are_read_or_bad(rows in prop::collection::vec((any_row(), any::<prop::sample::Index>(), any::<u8>(), any::<bool>()), 1..6)) {
        let stub = RegistryStub::start();
        let avro = format(&stub.url(), all_types(), &[]);
        let json = FormatOptions::from_options([("format", "json")], Arc::clone(avro.declared())).unwrap();
        let projection: Vec<usize> = (0..all_types().len()).collect();
        let texts: Vec<Option<&[u8]>> = rows.iter().map(|row| Some(row.0.as_bytes())).collect();
        let batch = json.decoder(&projection, false).unwrap().decode(&texts).unwrap();
        let written = avro.encoder().unwrap().encode(&batch.columns, None).unwrap();
        let mut messages: Vec<Vec<u8>> = written.iter().map(|row| row.unwrap().to_vec()).collect();
        for (message, (_, at, byte, is_damaged)) in messages.iter_mut().zip(&rows) {
            if *is_damaged {
                let at = at.index(message.len());
                message[at] = *byte;
            }
        }
        let decoded = decode(&avro, false, &messages);
        for (row, (.., is_damaged)) in rows.iter().enumerate() {
            if !is_damaged {
                prop_assert!(decoded.bad.iter().all(|bad| bad.row != row));
                prop_assert_eq!(decoded.columns.slice(row, 1), batch.columns.slice(row, 1));
            }
        }
    }
}

#[test]
fn the_schema_is_registered_once_under_the_subject() {
    let stub = RegistryStub::start();
    let fields = vec![
        Field::new("id", DataType::Int32, false),
        nullable("at", micros()),
        nullable(
            "p",
            DataType::Struct(Fields::from(vec![nullable("x", DataType::Utf8)])),
        ),
    ];
    let columns: Vec<ArrayRef> = vec![
        Arc::new(Int32Array::from(vec![1, 2])),
        new_null_array(&micros(), 2),
        new_null_array(fields[2].data_type(), 2),
    ];
    let batch = RecordBatch::try_new(Arc::new(Schema::new(fields.clone())), columns).unwrap();
    let own = format(&stub.url(), fields.clone(), &[("avro.subject", "own")]);
    for format in [format(&stub.url(), fields, &[]), own] {
        let mut encoder = format.encoder().unwrap();
        assert_eq!(encoder.encode(&batch.slice(0, 0), None).unwrap().len(), 0);
        let rows = encoder.encode(&batch, None).unwrap();
        encoder.encode(&batch, None).unwrap();
        assert_eq!(
            rows.get(1),
            Some(
                message(
                    u32::from_be_bytes(rows.get(0).unwrap()[1..5].try_into().unwrap()),
                    &[long(2), long(0), long(0)]
                )
                .as_slice()
            )
        );
    }
    assert_eq!(
        stub.requests(),
        [
            "POST /subjects/visits-value/versions",
            "POST /subjects/own/versions"
        ]
    );
    let schema: Value = serde_json::from_str(&stub.versions("visits-value")[0].0).unwrap();
    assert_eq!(
        schema,
        serde_json::json!({"type": "record", "name": "visits_value", "fields": [
            {"name": "id", "type": "int"},
            {"name": "at", "type": ["null", {"type": "long", "logicalType": "timestamp-micros"}], "default": null},
            {"name": "p", "default": null, "type": ["null", {"type": "record", "name": "visits_value_p", "fields": [
                {"name": "x", "type": ["null", "string"], "default": null}]}]},
        ]})
    );
}

#[test]
fn types_without_an_avro_form_are_refused() {
    let stub = RegistryStub::start();
    for (field, said) in [
        (
            nullable("user-id", DataType::Int64),
            "column user-id: the name is not valid in Avro",
        ),
        (
            nullable("n", DataType::UInt64),
            "column n: a BIGINT UNSIGNED cannot be written as Avro",
        ),
    ] {
        let error = format(&stub.url(), vec![field], &[])
            .encoder()
            .err()
            .unwrap();
        assert_eq!(error.message(), said);
    }
    let format = format(
        &stub.url(),
        vec![Field::new("a", DataType::Utf8, false)],
        &[],
    );
    let column = Arc::new(StringArray::from(vec![Some("x"), None])) as ArrayRef;
    let batch = RecordBatch::try_from_iter_with_nullable([("a", column, true)]).unwrap();
    let error = format.encoder().unwrap().encode(&batch, None).unwrap_err();
    assert_eq!(error.message(), "column a is NULL but is declared NOT NULL");
    let withdrawn = BooleanBuffer::from(vec![false, true]);
    let rows = format
        .encoder()
        .unwrap()
        .encode(&batch, Some(&withdrawn))
        .unwrap();
    assert!(rows.get(0).is_some() && rows.get(1).is_none());
    assert!(stub.requests().len() == 1);
    let decoded = decode(&format, false, &[rows.get(0).unwrap().to_vec()]);
    assert_eq!(cells(decoded.columns.column(0)), ["x"]);
}

#[test]
fn names_are_written_as_they_were_typed_and_read_by_either_spelling() {
    let stub = RegistryStub::start();
    let user = || nullable("userid", DataType::Int32);
    let page = typed_as(nullable("pageid", DataType::Int32), "pageId");
    let view = DataType::Struct(Fields::from(vec![page]));
    let typed = vec![
        typed_as(user(), "userId"),
        typed_as(nullable("view", view), "View"),
    ];
    let typed = format(&stub.url(), typed, &[]);
    let plain = format(&stub.url(), vec![user()], &[("avro.subject", "plain")]);
    let columns = |format: &FormatOptions| -> Vec<ArrayRef> {
        let mut columns: Vec<ArrayRef> = vec![Arc::new(Int32Array::from(vec![7]))];
        for field in format.declared().fields().iter().skip(1) {
            columns.push(new_null_array(field.data_type(), 1));
        }
        columns
    };
    for format in [&typed, &plain] {
        let batch = RecordBatch::try_new(Arc::clone(format.declared()), columns(format)).unwrap();
        let rows = format.encoder().unwrap().encode(&batch, None).unwrap();
        let decoded = decode(&typed, false, &[rows.get(0).unwrap().to_vec()]);
        assert_eq!(cells(decoded.columns.column(0)), ["7"]);
        assert_eq!(decoded.columns.schema().field(0).name(), "userid");
    }
    let written = &stub.versions("visits-value")[0].0;
    for name in ["\"userId\"", "\"View\"", "\"pageId\""] {
        assert!(written.contains(name), "{written}");
    }
    assert!(stub.versions("plain")[0].0.contains("\"userid\""));
}
