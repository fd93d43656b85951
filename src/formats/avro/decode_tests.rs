//! Avro records to columns, the schemas in a stub of a registry.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use arrow::datatypes::{DataType, Fields, TimeUnit};
use arrow::util::display::{ArrayFormatter, FormatOptions as DisplayOptions};
use proptest::prelude::*;

use super::*;
use crate::formats::FormatOptions;
use crate::formats::registry::stub::RegistryStub;

pub(crate) fn nullable(name: &str, data_type: DataType) -> Field {
    Field::new(name, data_type, true)
}

pub(crate) fn micros() -> DataType {
    DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into()))
}

pub(crate) fn format(url: &str, fields: Vec<Field>, more: &[(&str, &str)]) -> FormatOptions {
    let options = [("format", "avro"), ("avro.registry.url", url)];
    let options = options.iter().chain(more).copied();
    FormatOptions::from_options(options, Arc::new(Schema::new(fields)))
        .unwrap()
        .with_topic("visits")
}

pub(crate) fn decode(format: &FormatOptions, lenient: bool, messages: &[Vec<u8>]) -> Decoded {
    let projection: Vec<usize> = (0..format.declared().fields().len()).collect();
    let payloads: Vec<Option<&[u8]>> = messages
        .iter()
        .map(|message| Some(message.as_slice()))
        .collect();
    let decoded = format
        .decoder(&projection, lenient)
        .unwrap()
        .decode(&payloads)
        .unwrap();
    assert_eq!(decoded.columns.num_rows(), messages.len());
    decoded
}

pub(crate) fn cells(column: &ArrayRef) -> Vec<String> {
    let options = DisplayOptions::default().with_null("-");
    let formatter = ArrayFormatter::try_new(column, &options).unwrap();
    (0..column.len())
        .map(|row| formatter.value(row).to_string())
        .collect()
}

fn bad_rows(decoded: &Decoded) -> Vec<(usize, &str)> {
    decoded
        .bad
        .iter()
        .map(|bad| (bad.row, bad.reason.as_str()))
        .collect()
}

/// A message: the header, then the parts of the record.
pub(crate) fn message(id: u32, parts: &[Vec<u8>]) -> Vec<u8> {
    let mut message = vec![0];
    message.extend(id.to_be_bytes());
    message.extend(parts.concat());
    message
}

/// Avro's integers: zigzag, then seven bits a byte, the lowest first.
pub(crate) fn long(value: i64) -> Vec<u8> {
    let mut rest = ((value << 1) ^ (value >> 63)) as u64;
    let mut bytes = Vec::new();
    while rest > 127 {
        bytes.push((rest & 127) as u8 | 128);
        rest >>= 7;
    }
    bytes.push(rest as u8);
    bytes
}

fn text(value: &str) -> Vec<u8> {
    [long(value.len() as i64), value.as_bytes().to_vec()].concat()
}

const FIRST: &str = r#"{"type":"record","name":"Visit","namespace":"shop","fields":[
    {"name":"other","type":{"type":"record","name":"Place","fields":[{"name":"x","type":"int"}]}},
    {"name":"id","type":"int"},
    {"name":"page","type":["null","string"]},
    {"name":"place","type":["null","Place"]}]}"#;

const SECOND: &str = r#"{"type":"record","name":"Visit","fields":[
    {"name":"page","type":"string"},
    {"name":"id","type":"long"},
    {"name":"at","type":{"type":"long","logicalType":"timestamp-millis"}},
    {"name":"place","type":{"type":"record","name":"Place2","fields":[
        {"name":"y","type":"double"},{"name":"x","type":"long"}]}}]}"#;

fn visits() -> Vec<Field> {
    let place = Fields::from(vec![
        Field::new("x", DataType::Int32, false),
        nullable("y", DataType::Float64),
    ]);
    vec![
        Field::new("id", DataType::Int64, false),
        nullable("page", DataType::Utf8View),
        nullable("at", micros()),
        nullable("place", DataType::Struct(place)),
    ]
}

fn first(id: i64, page: Option<&str>, x: Option<i64>) -> Vec<u8> {
    let page = page.map_or(long(0), |page| [long(1), text(page)].concat());
    let place = x.map_or(long(0), |x| [long(1), long(x)].concat());
    message(1, &[long(99), long(id), page, place])
}

fn second(page: &str, id: i64, at: i64, x: i64) -> Vec<u8> {
    message(
        2,
        &[
            text(page),
            long(id),
            long(at),
            1.5_f64.to_le_bytes().to_vec(),
            long(x),
        ],
    )
}

#[test]
fn records_of_several_schemas_in_one_batch() {
    let stub = RegistryStub::start()
        .with_schema(1, FIRST)
        .with_schema(2, SECOND);
    let format = format(&stub.url(), visits(), &[]);
    let messages = [
        first(1, Some("a page that is long enough"), Some(-5)),
        second("b", 2, 1_000, 7),
        first(3, None, None),
        second("d", i64::MAX, -1, 8),
    ];
    let decoded = decode(&format, false, &messages);
    assert_eq!(decoded.bad, []);
    let column = |index: usize| cells(decoded.columns.column(index));
    assert_eq!(column(0), ["1", "2", "3", "9223372036854775807"]);
    assert_eq!(column(1), ["a page that is long enough", "b", "-", "d"]);
    assert_eq!(
        column(2),
        ["-", "1970-01-01T00:00:01Z", "-", "1969-12-31T23:59:59.999Z"]
    );
    assert_eq!(
        column(3),
        ["{x: -5, y: -}", "{x: 7, y: 1.5}", "-", "{x: 8, y: 1.5}"]
    );
    assert_eq!(stub.requests().len(), 2);
}

#[test]
fn bad_records_are_reported_and_their_neighbours_are_read() {
    let stub = RegistryStub::start()
        .with_schema(1, FIRST)
        .with_schema(2, SECOND);
    let format = format(&stub.url(), visits(), &[]);
    let mut long_one = first(2, Some("b"), None);
    long_one.push(7);
    let twice = [first(3, None, None), first(3, None, None)].concat();
    let mut short = first(4, Some("d"), None);
    short.truncate(8);
    let messages = [
        first(1, Some("a"), Some(1)),
        long_one,
        twice,
        short,
        vec![],
        vec![0, 0, 0],
        b"{\"id\":1}".to_vec(),
        message(9, &[long(1)]),
        first(8, Some("h"), Some(2)),
        second("i", 9, 0, i64::from(i32::MAX) + 1),
        message(1, &[long(0), long(1), long(5)]),
        message(
            1,
            &[long(0), long(1), long(1), long(1), vec![0xff], long(0)],
        ),
        first(12, Some("l"), None),
    ];
    let decoded = decode(&format, false, &messages);
    let expected = [
        (1, "schema id 1"),
        (2, "not exactly one Avro record of schema id 1"),
        (3, "schema id 1"),
        (4, "the message is empty"),
        (5, "too short"),
        (6, "does not begin with a zero byte"),
        (7, "schema id 9 is not in the schema registry"),
        (9, "column place.x: the value does not fit a INT"),
        (10, "schema id 1"),
        (11, "schema id 1"),
    ];
    assert_eq!(
        bad_rows(&decoded).len(),
        expected.len(),
        "{:?}",
        decoded.bad
    );
    for ((row, reason), (expected_row, part)) in bad_rows(&decoded).into_iter().zip(expected) {
        assert!(
            row == expected_row && reason.contains(part),
            "{row} {reason:?}, not {part:?}"
        );
    }
    let ids = cells(decoded.columns.column(0));
    assert_eq!(ids.join(" "), "1 - - - - - - - 8 - - - 12");
    assert_eq!(cells(decoded.columns.column(3))[8], "{x: 2, y: -}");
}

#[test]
fn tombstones_and_projections() {
    let stub = RegistryStub::start().with_schema(1, FIRST).with_schema(
        3,
        r#"{"type":"record","name":"E","fields":[{"name":"z","type":"int"}]}"#,
    );
    let format = format(&stub.url(), visits(), &[]);
    let (one, other) = (first(1, Some("a"), Some(3)), message(3, &[long(4)]));
    let payloads: [Option<&[u8]>; 3] = [Some(&one), None, Some(&other)];
    let decoded = format
        .decoder(&[3, 1], false)
        .unwrap()
        .decode(&payloads)
        .unwrap();
    assert_eq!(decoded.bad, []);
    assert_eq!(cells(decoded.columns.column(0)), ["{x: 3, y: -}", "-", "-"]);
    assert_eq!(cells(decoded.columns.column(1)), ["a", "-", "-"]);
    // The identifier is NOT NULL, and the other schema has none.
    let decoded = format
        .decoder(&[0], false)
        .unwrap()
        .decode(&payloads)
        .unwrap();
    assert_eq!(
        bad_rows(&decoded),
        [(2, "column id is NULL but is declared NOT NULL")]
    );
    let none = format
        .decoder(&[], false)
        .unwrap()
        .decode(&[Some(b"garbage"), None])
        .unwrap();
    assert_eq!((none.columns.num_rows(), none.bad.len()), (2, 0));
}

#[test]
fn a_schema_that_cannot_be_read_as_declared_makes_its_records_bad() {
    let stub = RegistryStub::start()
        .with_schema(1, FIRST)
        .with_schema(4, r#"{"type":"record","name":"V","fields":[{"name":"id","type":"string"}]}"#)
        .with_schema(5, "\"string\"")
        .with_schema(6, r#"{"type":"record","name":"V","fields":[{"name":"id","type":["int","string"]}]}"#)
        .with_schema(7, r#"{"type":"record","name":"V","fields":[{"name":"id","type":"unheard-of"}]}"#)
        .with_schema(8, r#"{"type":"record","name":"V","fields":[{"name":"id","type":"int"},{"name":"at","type":"long"}]}"#);
    let format = format(&stub.url(), visits(), &[]);
    let messages = [
        message(4, &[text("x")]),
        message(5, &[text("x")]),
        message(6, &[long(0), long(1)]),
        message(7, &[long(1)]),
        first(1, None, None),
        message(8, &[long(5), long(1)]),
    ];
    let decoded = decode(&format, false, &messages);
    let rows: Vec<usize> = decoded.bad.iter().map(|bad| bad.row).collect();
    assert_eq!(rows, [0, 1, 2, 3, 5], "{:?}", decoded.bad);
    let reason = |index: usize| decoded.bad[index].reason.as_str();
    assert_eq!(
        reason(0),
        "schema id 4: column id: it was written as a VARCHAR, not as a BIGINT"
    );
    assert_eq!(reason(1), "schema id 5: the schema is not one of a record");
    assert_eq!(
        reason(4),
        "schema id 8: column at: it was written as a BIGINT, not as a TIMESTAMP"
    );
    // The lenient policy makes only the column NULL, if that is allowed.
    let decoded = decode(&format, true, &messages[5..]);
    assert_eq!(
        (decoded.bad.len(), cells(decoded.columns.column(0))),
        (0, vec!["5".to_owned()])
    );
}

#[test]
fn a_registry_outage_makes_no_bad_records() {
    let stub = RegistryStub::start().with_answer(1, 500, "{}");
    let format = format(&stub.url(), visits(), &[]);
    let one = first(1, None, None);
    let mut decoder = format.decoder(&[0], false).unwrap();
    let error = decoder.decode(&[Some(&one)]).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable);
    // A later decoder asks the registry again.
    let stub = stub.with_schema(1, FIRST);
    assert_eq!(decoder.decode(&[Some(&one)]).unwrap().bad, []);
    drop(stub);
}

#[test]
fn avro_logical_types_are_read() {
    let schema = r#"{"type":"record","name":"T","fields":[
        {"name":"e","type":{"type":"enum","name":"E","symbols":["A","B"]}},
        {"name":"f","type":{"type":"fixed","name":"F","size":2}},
        {"name":"u","type":{"type":"string","logicalType":"uuid"}},
        {"name":"l","type":{"type":"long","logicalType":"local-timestamp-micros"}},
        {"name":"d","type":{"type":"bytes","logicalType":"decimal","precision":6,"scale":3}},
        {"name":"t","type":{"type":"int","logicalType":"time-millis"}},
        {"name":"b","type":"bytes"}]}"#;
    let stub = RegistryStub::start().with_schema(1, schema);
    let fields = vec![
        nullable("e", DataType::Utf8),
        nullable("f", DataType::Binary),
        nullable("u", DataType::Utf8View),
        nullable("l", micros()),
        nullable("d", DataType::Decimal128(5, 2)),
        nullable("t", DataType::Time64(TimeUnit::Nanosecond)),
        nullable("b", DataType::Utf8),
    ];
    let format = format(&stub.url(), fields, &[("timezone", "Europe/Paris")]);
    let uuid = "0f8fad5b-d9cb-469f-a165-70867728950e";
    let record = |decimal: i16, bytes: &[u8]| {
        let bytes = [long(bytes.len() as i64), bytes.to_vec()].concat();
        let decimal = [long(2), decimal.to_be_bytes().to_vec()].concat();
        message(
            1,
            &[
                long(1),
                vec![1, 2],
                text(uuid),
                long(1_756_969_200_000_000),
                decimal,
                long(1500),
                bytes,
            ],
        )
    };
    let decoded = decode(&format, false, &[record(-1235, b"ok"), record(1, b"\xff")]);
    assert_eq!(
        bad_rows(&decoded),
        [(1, "column b: the value does not fit a VARCHAR")]
    );
    let row: Vec<String> = decoded
        .columns
        .columns()
        .iter()
        .map(|column| cells(column).remove(0))
        .collect();
    let expected = [
        "B",
        "0102",
        uuid,
        "2025-09-04T05:00:00Z",
        "-1.24",
        "00:00:01.500",
        "ok",
    ];
    assert_eq!(row, expected);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn any_bytes_are_read_or_bad(bodies in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..40), 1..10), lenient in any::<bool>()) {
        let stub = RegistryStub::start().with_schema(1, FIRST).with_schema(2, SECOND);
        let format = format(&stub.url(), visits(), &[]);
        let messages: Vec<Vec<u8>> =
            bodies.into_iter().enumerate().map(|(row, body)| message(1 + row as u32 % 2, &[body])).collect();
        decode(&format, lenient, &messages);
    }
}

#[test]
fn options_are_checked() {
    let schema = Arc::new(Schema::new(vec![nullable("a", DataType::Utf8)]));
    let error = FormatOptions::from_options([("format", "avro")], Arc::clone(&schema)).unwrap_err();
    assert_eq!(
        error.message(),
        "format 'avro' needs option 'avro.registry.url'"
    );
    let options = [
        ("format", "avro"),
        ("avro.registry.url", "http://u:topsecret@host"),
    ];
    let format = FormatOptions::from_options(options, schema).unwrap();
    assert!(!format!("{format:?}").contains("topsecret"));
    let error = format.encoder().err().unwrap();
    assert!(error.message().contains("'avro.subject'"), "{error}");
}

#[test]
fn value_1_a_double_that_is_too_large_for_a_real_is_bad() {
    let schema =
        r#"{"type": "record", "name": "r", "fields": [{"name": "v", "type": ["null", "double"]}]}"#;
    let stub = RegistryStub::start().with_schema(7, schema);
    let format = format(&stub.url(), vec![nullable("v", DataType::Float32)], &[]);
    let double = |value: f64| message(7, &[long(1), value.to_le_bytes().to_vec()]);
    let rows = [
        double(1.5),
        double(-1e300),
        double(f64::INFINITY),
        double(f64::NAN),
        message(7, &[long(0)]),
    ];
    let decoded = decode(&format, false, &rows);
    assert_eq!(
        bad_rows(&decoded),
        [(1, "column v: the value does not fit a REAL")]
    );
    let expected = ["1.5", "-", "inf", "NaN", "-"];
    assert_eq!(cells(decoded.columns.column(0)), expected);
    let lenient = decode(&format, true, &rows);
    assert!(lenient.bad.is_empty());
    assert_eq!(cells(lenient.columns.column(0)), expected);
}

#[test]
fn value_1_a_time_that_no_day_has_is_bad() {
    let schema = r#"{"type": "record", "name": "r", "fields": [{"name": "v", "type": {"type": "long", "logicalType": "time-micros"}}]}"#;
    let stub = RegistryStub::start().with_schema(7, schema);
    let time = DataType::Time64(TimeUnit::Nanosecond);
    let format = format(&stub.url(), vec![nullable("v", time)], &[]);
    let times = [0, -1, 86_399_999_999, 86_400_000_000, i64::MAX, i64::MIN];
    let rows = times.map(|micros| message(7, &[long(micros)]));
    let decoded = decode(&format, false, &rows);
    let reason = "column v: the value does not fit a TIME";
    let expected = [1, 3, 4, 5].map(|row| (row, reason));
    assert_eq!(bad_rows(&decoded), expected);
    let expected = ["00:00:00", "-", "23:59:59.999999", "-", "-", "-"];
    assert_eq!(cells(decoded.columns.column(0)), expected);
}

/// A few bytes say that the array has so many items.
#[test]
fn safe_1_a_number_of_items_without_bytes_is_not_counted_to() {
    let schema = r#"{"type": "record", "name": "r", "fields": [{"name": "x", "type": "int"},
        {"name": "v", "type": {"type": "array", "items": "null"}}]}"#;
    let stub = RegistryStub::start().with_schema(7, schema);
    let format = format(&stub.url(), vec![nullable("x", DataType::Int32)], &[]);
    let rows = [message(7, &[long(1), long(1 << 62), long(0)])];
    let decoded = decode(&format, false, &rows);
    let reason = bad_rows(&decoded)[0].1;
    assert!(
        reason.contains("the items of an array have no bytes"),
        "{reason}"
    );
}
