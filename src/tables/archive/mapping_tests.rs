//! Mappings of archives: which column a mapping takes for which part of a record, and which archives it refuses.

use std::sync::Arc;

use datafusion::arrow::datatypes::{DataType, Field, Fields, Schema, TimeUnit};

use super::mapping::{ArchiveContent, ArchiveMapping, EventTimeClaim};
use crate::error::Result;
use crate::tables::kafka::{KafkaColumn, KafkaTable, KafkaTableSpec, MetadataKey};

fn micros() -> DataType {
    DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into()))
}

/// A type by a short name.
fn data_type(name: &str) -> DataType {
    match name {
        "int" => DataType::Int32,
        "bigint" => DataType::Int64,
        "text" => DataType::Utf8,
        "view" => DataType::Utf8View,
        "bytes" => DataType::Binary,
        "double" => DataType::Float64,
        "date" => DataType::Date32,
        "time" => micros(),
        "headers" => {
            let pair = Fields::from(vec![
                Field::new("key", DataType::Utf8, true),
                Field::new("value", DataType::Binary, true),
            ]);
            DataType::List(Arc::new(Field::new("item", DataType::Struct(pair), true)))
        }
        other => unreachable!("{other}"),
    }
}

/// Columns as `name type, …`.
fn fields(columns: &str) -> Vec<Field> {
    let columns = columns.split(", ").filter(|column| !column.is_empty());
    let field = |column: &str| {
        let (name, of) = column.split_once(' ').unwrap();
        Field::new(name, data_type(of), true)
    };
    columns.map(field).collect()
}

/// The mapping of an archive with these columns to a table of values `user_id bigint, at time` and the metadata `p, o, ts, k`.
fn map(archive: &str, partition_by: &[&str], options: &[(&str, &str)]) -> Result<ArchiveMapping> {
    let value = |field: Field| KafkaColumn {
        field,
        metadata: None,
    };
    let metadata = |name: &str, of: &str, key| KafkaColumn {
        field: Field::new(name, data_type(of), true),
        metadata: Some(key),
    };
    let mut columns: Vec<KafkaColumn> = fields("user_id bigint, at time")
        .into_iter()
        .map(value)
        .collect();
    columns.extend([
        metadata("p", "int", MetadataKey::Partition),
        metadata("o", "bigint", MetadataKey::Offset),
        metadata("ts", "time", MetadataKey::Timestamp),
        metadata("k", "text", MetadataKey::Key),
    ]);
    let mut all = vec![("kafka.bootstrap.servers", "localhost:1"), ("archive", "a")];
    all.extend(options);
    let spec = KafkaTableSpec {
        name: "t".to_owned(),
        topic: "t".to_owned(),
        columns,
        primary_key: Vec::new(),
        watermark: Some(("at".to_owned(), "at".to_owned(), 0)),
        options: all
            .into_iter()
            .map(|(key, value)| (key.to_owned(), value.to_owned()))
            .collect(),
    };
    let table = KafkaTable::try_new(spec)?;
    let partition_by: Vec<String> = partition_by.iter().map(|name| (*name).to_owned()).collect();
    let options = table.archive().unwrap();
    ArchiveMapping::try_new(
        &table,
        options,
        &Schema::new(fields(archive)),
        &partition_by,
    )
}

/// How EXPLAIN shows a mapping, and its claim.
fn shown(archive: &str, options: &[(&str, &str)]) -> String {
    let mapping = map(archive, &[], options).unwrap();
    let claim = match mapping.claim() {
        EventTimeClaim::None => "none".to_owned(),
        EventTimeClaim::Column(column) => format!("column {}", column.name),
        EventTimeClaim::Own(column) => format!("own {}", column.name),
        EventTimeClaim::Parts(parts) => {
            let names: Vec<&str> = parts.columns().map(|column| column.name.as_str()).collect();
            format!("parts {}", names.join(" "))
        }
    };
    format!("{mapping} {claim}")
}

#[test]
fn columns_are_found_by_name() {
    let raw = "value text, partition int, offset bigint";
    for (archive, options, expected) in [
        (
            raw,
            vec![],
            "raw [value=value, partition=partition, offset=offset] none",
        ),
        // The table's own names go first.
        (
            "p int, partition int, o bigint, offset bigint, value bytes",
            vec![],
            "raw [value=value, partition=p, offset=o] none",
        ),
        (
            "body view, shard bigint, pos int, key bytes, timestamp time, headers headers, topic text",
            vec![
                ("archive.value", "body"),
                ("archive.partition", "shard"),
                ("archive.offset", "pos"),
            ],
            "raw [value=body, topic=topic of 't' alone, partition=shard, offset=pos, timestamp=timestamp, key=key, headers=headers] none",
        ),
        // A column of another type that the table does not read is another column.
        (
            "value text, partition int, offset bigint, headers text, timestamp_type double",
            vec![],
            "raw [value=value, partition=partition, offset=offset] none",
        ),
        (
            "value text, partition int, offset bigint, at time",
            vec![],
            "raw [value=value, partition=partition, offset=offset] column at",
        ),
        (
            "value text, partition int, offset bigint, at time",
            vec![("archive.event_time", "none")],
            "raw [value=value, partition=partition, offset=offset] none",
        ),
        (
            "value text, partition int, offset bigint, seen time",
            vec![("archive.event_time", "seen")],
            "raw [value=value, partition=partition, offset=offset] column seen",
        ),
        // A text of that name says nothing.
        (
            "value text, partition int, offset bigint, at text",
            vec![],
            "raw [value=value, partition=partition, offset=offset] none",
        ),
        (
            "value text, partition int, offset bigint, day date, hour int",
            vec![("archive.event_time", "day, hour")],
            "raw [value=value, partition=partition, offset=offset] parts day hour",
        ),
        (
            "user_id bigint, at time, p int, o bigint",
            vec![],
            "decoded [columns=(user_id, at), partition=p, offset=o] own at",
        ),
        // Both: the value as it came is the record.
        (
            "user_id bigint, at time, p int, o bigint, value text",
            vec![],
            "raw [value=value, partition=p, offset=o] column at",
        ),
        (
            "user_id bigint, at time, p int, o bigint, value text",
            vec![("archive.value", "none"), ("archive.key", "none")],
            "decoded [columns=(user_id, at), partition=p, offset=o, key=NULL, value=NULL] own at",
        ),
        // A number that is named as the value is none.
        (
            "user_id bigint, at time, p int, o bigint, value double",
            vec![],
            "decoded [columns=(user_id, at), partition=p, offset=o] own at",
        ),
    ] {
        assert_eq!(shown(archive, &options), expected, "{archive} {options:?}");
    }
}

#[test]
fn what_is_missing_is_named() {
    for (archive, options, said) in [
        (
            "value text, offset bigint",
            vec![],
            "it has no column 'partition'",
        ),
        ("value text, p int", vec![], "it has no column 'offset'"),
        (
            "partition int, offset bigint",
            vec![],
            "it has no column 'value', and lacks user_id BIGINT, at TIMESTAMP",
        ),
        (
            "partition int, offset bigint, user_id int, at time",
            vec![],
            "it has no column 'value', and lacks user_id BIGINT (it has INT)",
        ),
        (
            "partition int, offset bigint, value double",
            vec![],
            "it has the value in column value of type DOUBLE, which is to be VARCHAR or BINARY",
        ),
        (
            "partition text, offset bigint, value text",
            vec![],
            "it has the partition in column partition of type VARCHAR, which is to be INT or BIGINT",
        ),
        (
            "partition int, offset bigint, value text, k double",
            vec![],
            "it has the key in column k of type DOUBLE",
        ),
        (
            "partition int, offset bigint, value text, h text",
            vec![("archive.headers", "h")],
            "it has the headers in column h of type VARCHAR",
        ),
        (
            "partition int, offset bigint, value text",
            vec![("archive.timestamp", "time")],
            "it has no column 'time'",
        ),
        (
            "partition int, offset bigint, value text, day int",
            vec![("archive.event_time", "day, hour")],
            "it has no column 'hour'",
        ),
    ] {
        let error = map(archive, &[], &options).expect_err(said);
        let error = error.to_string();
        assert!(error.contains(said), "{error}");
        assert!(
            error.contains("Delta table a cannot be the archive of t"),
            "{error}"
        );
    }
}

#[test]
fn parts_of_a_time_are_proposed_where_nothing_was_said() {
    let archive = "value text, partition int, offset bigint, year int, month int";
    let by = ["year", "month"];
    let proposal = |options: &[(&str, &str)]| {
        let mapping = map(archive, &by, options).unwrap();
        mapping.proposal().map(ToOwned::to_owned)
    };
    assert_eq!(proposal(&[]).as_deref(), Some("year, month"));
    assert_eq!(proposal(&[("archive.event_time", "none")]), None);
    assert_eq!(proposal(&[("archive.event_time", "year, month")]), None);
}

#[test]
fn text_is_text_in_any_layout() {
    let mapping = map("value view, partition int, offset bigint", &[], &[]).unwrap();
    let ArchiveContent::Raw(value) = mapping.content() else {
        unreachable!("it has a value");
    };
    assert_eq!((value.index, &value.data_type), (0, &DataType::Utf8View));
    assert!(!mapping.has_whole_records());
    let whole = "value text, partition int, offset bigint, key bytes, timestamp time";
    assert!(map(whole, &[], &[]).unwrap().has_whole_records());
}
