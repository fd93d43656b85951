//! Headers and JSON.

use std::sync::Arc;

use arrow::array::{
    ArrayRef, BinaryBuilder, Int64Array, ListBuilder, MapBuilder, RecordBatch, StringBuilder,
    StructBuilder,
};
use arrow::datatypes::{DataType, Field, Fields};
use datafusion::prelude::{SessionConfig, SessionContext};

use crate::support::{context, failure, rows};

/// Messages with headers in both shapes: several, a repeated key, none, NULL.
fn messages() -> SessionContext {
    let mut map = MapBuilder::new(None, StringBuilder::new(), StringBuilder::new());
    let fields = Fields::from(vec![
        Field::new("key", DataType::Utf8, false),
        Field::new("value", DataType::Binary, true),
    ]);
    let mut list = ListBuilder::new(StructBuilder::from_fields(fields, 0));
    type Message<'a> = Option<&'a [(&'a str, Option<&'a [u8]>)]>;
    let messages: [Message<'_>; 5] = [
        Some(&[("source", Some(b"live")), ("run_id", Some(b"r1"))]),
        Some(&[
            ("source", Some(b"live")),
            ("x", None),
            ("source", Some(b"again")),
        ]),
        Some(&[]),
        None,
        Some(&[("bytes", Some(b"\xff\xfe")), ("source", Some(b"s"))]),
    ];
    for message in messages {
        for (key, value) in message.unwrap_or_default() {
            map.keys().append_value(key);
            map.values()
                .append_option(value.map(|value| String::from_utf8_lossy(value)));
            let entry = list.values();
            entry
                .field_builder::<StringBuilder>(0)
                .unwrap()
                .append_value(key);
            entry
                .field_builder::<BinaryBuilder>(1)
                .unwrap()
                .append_option(*value);
            entry.append(true);
        }
        map.append(message.is_some()).unwrap();
        list.append(message.is_some());
    }
    let columns: [(&str, ArrayRef, bool); 3] = [
        ("id", Arc::new(Int64Array::from_iter_values(0..5)), false),
        ("easy", Arc::new(map.finish()), true),
        ("exact", Arc::new(list.finish()), true),
    ];
    let context = context(SessionConfig::new().with_target_partitions(1));
    let batch = RecordBatch::try_from_iter_with_nullable(columns).unwrap();
    context.register_batch("messages", batch).unwrap();
    context
}

#[tokio::test]
async fn header_gives_the_last_value_in_both_shapes() {
    let context = messages();
    for column in ["easy", "exact"] {
        let sql = format!(
            "SELECT header({column}, 'source'), header({column}, 'x'), header({column}, 'none') FROM messages ORDER BY id"
        );
        let expected = [
            ["live", "NULL", "NULL"],
            ["again", "NULL", "NULL"],
            ["NULL", "NULL", "NULL"],
            ["NULL", "NULL", "NULL"],
            ["s", "NULL", "NULL"],
        ];
        assert_eq!(rows(&context, &sql).await.unwrap(), expected, "{column}");
        let by_row = format!(
            "SELECT header({column}, CASE id WHEN 0 THEN 'run_id' WHEN 1 THEN 'source' END) FROM messages ORDER BY id"
        );
        let expected = [["r1"], ["again"], ["NULL"], ["NULL"], ["NULL"]];
        assert_eq!(rows(&context, &by_row).await.unwrap(), expected, "{column}");
    }
}

#[tokio::test]
async fn header_values_that_are_not_text_are_an_error_only_when_asked_for() {
    let context = messages();
    let sql = "SELECT header(exact, 'bytes') FROM messages";
    let (message, help, _) = failure(&context, sql).await;
    assert!(
        message.contains("not UTF-8") && help.contains("BINARY"),
        "{message} {help}"
    );
    let (message, ..) = failure(&context, "SELECT headers_map(exact) FROM messages").await;
    assert!(message.contains("not UTF-8"), "{message}");
    for (args, expected) in [
        ("id, 'x'", "not Int64"),
        ("easy", "usage: header(headers, 'key')"),
        ("easy, 1", "usage: header(headers, 'key')"),
        ("", "header"),
    ] {
        let (message, ..) =
            failure(&context, &format!("SELECT header({args}) FROM messages")).await;
        assert!(message.contains(expected), "{args}: {message}");
    }
}

#[tokio::test]
async fn headers_change_their_shape() {
    let context = messages();
    let sql = "SELECT headers_list(easy), headers_list(exact) FROM messages WHERE id IN (1, 2, 3) ORDER BY id";
    let found = rows(&context, sql).await.unwrap();
    assert!(found.iter().all(|row| row[0] == row[1]), "{found:?}");
    let again =
        "{key: source, value: 6c697665}, {key: x, value: }, {key: source, value: 616761696e}";
    assert_eq!(found[0][0], format!("[{again}]"));
    assert_eq!((found[1][0].as_str(), found[2][0].as_str()), ("[]", "NULL"));
    let sql = "SELECT headers_map(exact), headers_map(headers_list(easy)) FROM messages WHERE id < 4 ORDER BY id";
    let found = rows(&context, sql).await.unwrap();
    assert!(found.iter().all(|row| row[0] == row[1]), "{found:?}");
    assert_eq!(found[1][0], "{source: again, x: }");
    assert_eq!(found[3][0], "NULL");
}

#[tokio::test]
async fn to_json_writes_every_shape() {
    let context = messages();
    for (expression, expected) in [
        (
            "to_json(named_struct('a', 1, 'b', NULL, 'c', [1, NULL, 3]))",
            r#"{"a":1,"b":null,"c":[1,null,3]}"#,
        ),
        (
            "to_json(arrow_cast('2025-09-04T10:00:00.5', 'Timestamp(µs)'))",
            r#""2025-09-04T10:00:00.500Z""#,
        ),
        (
            "to_json(arrow_cast('2025-09-04T10:00:00Z', 'Timestamp(µs, \"UTC\")'))",
            r#""2025-09-04T10:00:00Z""#,
        ),
        ("to_json('a\"b')", r#""a\"b""#),
        ("to_json(NULL)", "NULL"),
        ("to_json(1.5)", "1.5"),
        ("to_json(DATE '2025-09-04')", r#""2025-09-04""#),
        ("to_json([named_struct('x', true)])", r#"[{"x":true}]"#),
        ("json_get_int('{\"a\": 7}', 'a')", "7"),
    ] {
        let found = rows(&context, &format!("SELECT {expression}"))
            .await
            .unwrap();
        assert_eq!(found, [[expected]], "{expression}");
    }
    let sql = "SELECT to_json(easy) FROM messages WHERE id < 4 ORDER BY id";
    let expected = [
        [r#"{"source":"live","run_id":"r1"}"#],
        [r#"{"source":"live","x":null,"source":"again"}"#],
        ["{}"],
        ["NULL"],
    ];
    assert_eq!(rows(&context, sql).await.unwrap(), expected);
}
