//! Tables as Spark leaves them: deletion vectors, mapped columns, features that are unknown.
//!
//! Most fixtures are made here: a table of our own, its log rewritten as another engine would have written it. One was written
//! by Spark 4.0.1 with Delta Lake 4.0.0 (`tests/fixtures/delta-by-spark`):
//!
//! ```sql
//! CREATE TABLE t (user_id BIGINT, `visited page` STRING, event_time TIMESTAMP,
//!                 context STRUCT<browser: STRING, tags: ARRAY<STRING>>, day DATE)
//! USING DELTA PARTITIONED BY (day)
//! TBLPROPERTIES ('delta.enableDeletionVectors' = 'true', 'delta.columnMapping.mode' = 'name');
//! INSERT INTO t VALUES …  -- the users 0 to 11 on 2025-09-04, then user 20 on the day after
//! DELETE FROM t WHERE user_id IN (3, 8);
//! UPDATE t SET `visited page` = 'changed' WHERE user_id = 5;
//! ALTER TABLE t RENAME COLUMN user_id TO visitor;
//! ```

use anabranch::error::ErrorKind;

use super::*;
use crate::support::{copy_folder, repository};

/// One file of six rows with the offsets 0 to 5.
async fn six_rows(folder: &Path) {
    let handle = DeltaTableHandle::create_or_open(archive(folder))
        .await
        .unwrap();
    let times: Vec<_> = (0..6).map(|second| Some(DAY + second)).collect();
    insert(&handle, RECORD, vec![records(0, &times)])
        .await
        .unwrap();
}

fn rewrite(folder: &Path, version: u64, change: impl Fn(&mut serde_json::Value)) {
    let mut actions = log(folder, version);
    actions.iter_mut().for_each(change);
    let lines: Vec<String> = actions.iter().map(ToString::to_string).collect();
    std::fs::write(
        folder.join(format!("_delta_log/{version:020}.json")),
        lines.join("\n"),
    )
    .unwrap();
}

fn require(folder: &Path, reader: &[&str], writer: &[&str]) {
    rewrite(folder, 0, |action| {
        if action.get("protocol").is_some() {
            action["protocol"] = serde_json::json!({
                "minReaderVersion": 3, "minWriterVersion": 7,
                "readerFeatures": reader, "writerFeatures": writer,
            });
        }
    });
}

/// A deletion vector as it stands in the log: a 64-bit roaring bitmap in the portable format, in Z85.
fn inline_deletion_vector(rows: &[u16]) -> serde_json::Value {
    let mut bytes = 1_681_511_377_u32.to_le_bytes().to_vec();
    bytes.extend(1_u64.to_le_bytes()); // one 32-bit bitmap,
    bytes.extend(0_u32.to_le_bytes()); // of the rows below 2^32:
    bytes.extend(12_346_u32.to_le_bytes()); // no run containers,
    bytes.extend(1_u32.to_le_bytes()); // one container,
    bytes.extend(0_u16.to_le_bytes()); // of the rows below 2^16,
    bytes.extend((rows.len() as u16 - 1).to_le_bytes());
    bytes.extend(16_u32.to_le_bytes()); // which begins here:
    rows.iter().for_each(|row| bytes.extend(row.to_le_bytes()));
    let size = bytes.len();
    bytes.resize(size.next_multiple_of(4), 0);
    const LETTERS: &[u8; 85] =
        b"0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ.-:+=^!/*?&<>()[]{}@%$#";
    let text: String = bytes
        .chunks(4)
        .flat_map(|chunk| {
            let value = u32::from_be_bytes(chunk.try_into().unwrap());
            (0..5)
                .rev()
                .map(move |digit| LETTERS[(value / 85_u32.pow(digit) % 85) as usize] as char)
        })
        .collect();
    serde_json::json!({
        "storageType": "i", "pathOrInlineDv": text, "sizeInBytes": size, "cardinality": rows.len(),
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_in_a_deletion_vector_are_not_read() {
    let dir = tempfile::tempdir().unwrap();
    six_rows(dir.path()).await;
    require(
        dir.path(),
        &["deletionVectors"],
        &["deletionVectors", "generatedColumns"],
    );
    rewrite(dir.path(), 1, |action| {
        if action.get("add").is_some() {
            action["add"]["deletionVector"] = inline_deletion_vector(&[1, 4]);
        }
    });
    let handle = DeltaTableHandle::create_or_open(archive(dir.path()))
        .await
        .unwrap();
    let rows = query(&handle, "SELECT \"offset\" FROM t ORDER BY 1").await;
    let offsets: String = rows.chars().filter(char::is_ascii_digit).collect();
    assert_eq!(offsets, "0235");
    assert_eq!(number(&handle, "SELECT count(*) FROM t").await, 4);
    assert_eq!(
        number(&handle, "SELECT count(*) FROM t WHERE \"offset\" IN (1, 2)").await,
        1
    );
    assert_eq!(
        number(&handle, "SELECT sum(\"offset\") FROM t WHERE hour = 0").await,
        10
    );
}

/// Physical names are neither in the query nor in its result.
#[tokio::test(flavor = "multi_thread")]
async fn mapped_columns_are_read_and_written_by_their_logical_names() {
    let dir = tempfile::tempdir().unwrap();
    let spec = DeltaSpec {
        columns: Some(vec![
            column("col-1", DataType::Int64),
            column("col-2", DataType::Utf8),
        ]),
        partition_by: vec!["col-2".into()],
        ..open(dir.path())
    };
    let plain = DeltaTableHandle::create_or_open(spec).await.unwrap();
    run(
        &session(&plain).await,
        "INSERT INTO t VALUES (1, 'a'), (2, 'b'), (3, 'b')",
    )
    .await
    .unwrap();
    rewrite(dir.path(), 0, |action| {
        if action.get("protocol").is_some() {
            action["protocol"] = serde_json::json!({"minReaderVersion": 2, "minWriterVersion": 5});
        }
        if let Some(metadata) = action.get_mut("metaData") {
            let field = |id: i64, name: &str, data_type: &str| {
                serde_json::json!({"name": name, "type": data_type, "nullable": true, "metadata": {
                    "delta.columnMapping.id": id, "delta.columnMapping.physicalName": format!("col-{id}"),
                }})
            };
            let schema = serde_json::json!({
                "type": "struct", "fields": [field(1, "user id", "long"), field(2, "kind", "string")],
            });
            metadata["schemaString"] = schema.to_string().into();
            metadata["partitionColumns"] = serde_json::json!(["kind"]);
            metadata["configuration"] = serde_json::json!({
                "delta.columnMapping.mode": "name", "delta.columnMapping.maxColumnId": "2",
            });
        }
    });
    let handle = DeltaTableHandle::create_or_open(open(dir.path()))
        .await
        .unwrap();
    assert_eq!(handle.schema().await.unwrap().field(0).name(), "user id");
    assert_eq!(
        number(&handle, "SELECT sum(\"user id\") FROM t WHERE kind = 'b'").await,
        5
    );
    assert_eq!(
        scanned(&handle, "SELECT * FROM t WHERE kind = 'a'").await,
        (1, 1)
    );
    assert_eq!(
        scanned(&handle, "SELECT * FROM t WHERE \"user id\" > 2").await,
        (1, 1)
    );

    run(
        &session(&handle).await,
        "INSERT INTO t VALUES (10, 'b'), (11, NULL)",
    )
    .await
    .unwrap();
    assert_eq!(
        number(&handle, "SELECT sum(\"user id\") FROM t WHERE kind = 'b'").await,
        15
    );
    assert_eq!(
        number(&handle, "SELECT \"user id\" FROM t WHERE kind IS NULL").await,
        11
    );
    let commit = log(dir.path(), 2);
    let add = commit.iter().find_map(|action| action.get("add")).unwrap();
    assert!(add["partitionValues"].get("col-2").is_some(), "{add}");
    assert!(
        add["stats"].as_str().unwrap().contains("\"col-1\""),
        "{add}"
    );
}

/// Deletion vectors in files of their own, mapped and renamed columns, nested values, as Spark itself leaves them.
#[tokio::test(flavor = "multi_thread")]
async fn a_table_that_spark_wrote_is_read_and_written() {
    let dir = tempfile::tempdir().unwrap();
    let fixture = repository().join("tests/fixtures/delta-by-spark");
    copy_folder(&fixture, dir.path());
    let handle = DeltaTableHandle::create_or_open(open(dir.path()))
        .await
        .unwrap();
    let visitors = query(&handle, "SELECT visitor FROM t ORDER BY visitor").await;
    let visitors: Vec<&str> = visitors
        .split(|c: char| !c.is_ascii_digit())
        .filter(|number| !number.is_empty())
        .collect();
    assert_eq!(
        visitors,
        ["0", "1", "2", "4", "5", "6", "7", "9", "10", "11", "20"]
    );
    let of_day = "SELECT sum(visitor) FROM t WHERE day = DATE '2025-09-04'";
    assert_eq!(number(&handle, of_day).await, 55);
    let firefox = "SELECT count(*) FROM t WHERE context['browser'] = 'Firefox'";
    assert_eq!(number(&handle, firefox).await, 7);
    let changed = query(
        &handle,
        "SELECT visitor, \"visited page\", context FROM t WHERE visitor = 5",
    )
    .await;
    assert!(
        changed.contains("changed") && changed.contains("[a, t5]"),
        "{changed}"
    );

    let row = "INSERT INTO t VALUES (30, 'ours', TIMESTAMP '2025-09-05T10:00:00', NULL, DATE '2025-09-05')";
    run(&session(&handle).await, row).await.unwrap();
    assert_eq!(number(&handle, "SELECT count(*) FROM t").await, 12);
    let of_day = "SELECT sum(visitor) FROM t WHERE day = DATE '2025-09-05'";
    assert_eq!(number(&handle, of_day).await, 50);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_feature_that_is_unknown_is_named() {
    let dir = tempfile::tempdir().unwrap();
    six_rows(dir.path()).await;
    require(
        dir.path(),
        &["timeMachine"],
        &["timeMachine", "generatedColumns"],
    );
    let error = DeltaTableHandle::create_or_open(open(dir.path()))
        .await
        .unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unsupported, "{error}");
    assert!(error.message().contains("timeMachine"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_feature_only_writers_need_stops_writing_and_not_reading() {
    let dir = tempfile::tempdir().unwrap();
    six_rows(dir.path()).await;
    require(dir.path(), &[], &["timeMachine", "generatedColumns"]);
    let handle = DeltaTableHandle::create_or_open(open(dir.path()))
        .await
        .unwrap();
    assert_eq!(number(&handle, "SELECT count(*) FROM t").await, 6);
    let error = run(
        &session(&handle).await,
        "INSERT INTO t (value) VALUES ('x')",
    )
    .await
    .unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unsupported, "{error}");
    assert_eq!(handle.version().await.unwrap(), 1);
}

/// A generated column whose expression this engine does not have can be read.
#[tokio::test(flavor = "multi_thread")]
async fn an_unknown_generation_expression_stops_writing_and_not_reading() {
    let dir = tempfile::tempdir().unwrap();
    six_rows(dir.path()).await;
    rewrite(dir.path(), 0, |action| {
        if let Some(metadata) = action.get_mut("metaData") {
            let schema = metadata["schemaString"].as_str().unwrap();
            let text = "CAST(date_part('year', event_time) AS INT)";
            assert!(schema.contains(text));
            metadata["schemaString"] = schema.replace(text, "hive_hash(event_time)").into();
        }
    });
    let handle = DeltaTableHandle::create_or_open(open(dir.path()))
        .await
        .unwrap();
    let sql = "SELECT count(*) FROM t WHERE event_time >= '2025-09-04T00:00:00Z'";
    assert_eq!(number(&handle, sql).await, 6);
    let error = run(
        &session(&handle).await,
        "INSERT INTO t (value) VALUES ('x')",
    )
    .await
    .unwrap_err();
    assert!(
        error.message().contains("can be read, but not written"),
        "{error}"
    );
    assert!(error.message().contains("hive_hash"), "{error}");
}
