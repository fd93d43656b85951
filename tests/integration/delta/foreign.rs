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

use super::dml::{change, numbers, session_of};
use super::*;
use crate::support::{copy_folder, repository};

/// One file of six rows with the offsets 0 to 5.
pub(super) async fn six_rows(folder: &Path) {
    let handle = DeltaTableHandle::create_or_open(archive(folder))
        .await
        .unwrap();
    let times: Vec<_> = (0..6).map(|second| Some(DAY + second)).collect();
    insert(&handle, RECORD, vec![records(0, &times)])
        .await
        .unwrap();
}

pub(super) fn rewrite(folder: &Path, version: u64, change: impl Fn(&mut serde_json::Value)) {
    let mut actions = log(folder, version);
    actions.iter_mut().for_each(change);
    let lines: Vec<String> = actions.iter().map(ToString::to_string).collect();
    std::fs::write(
        folder.join(format!("_delta_log/{version:020}.json")),
        lines.join("\n"),
    )
    .unwrap();
}

pub(super) fn require(folder: &Path, reader: &[&str], writer: &[&str]) {
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
pub(super) fn inline_deletion_vector(rows: &[u16]) -> serde_json::Value {
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

/// Gives the columns of a table other types, as `ALTER COLUMN … TYPE` does.
fn retype(folder: &Path, types: &[(&str, serde_json::Value)]) {
    rewrite(folder, 0, |action| {
        if let Some(metadata) = action.get_mut("metaData") {
            let text = metadata["schemaString"].as_str().unwrap();
            let mut schema: serde_json::Value = serde_json::from_str(text).unwrap();
            for field in schema["fields"].as_array_mut().unwrap() {
                for (name, data_type) in types {
                    if field["name"] == *name {
                        field["type"] = data_type.clone();
                    }
                }
            }
            metadata["schemaString"] = schema.to_string().into();
        }
    });
}

fn table_of(folder: &Path, columns: Vec<DeltaColumn>) -> DeltaSpec {
    DeltaSpec {
        columns: Some(columns),
        ..open(folder)
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn columns_that_took_a_wider_type_are_read_and_written() {
    let dir = tempfile::tempdir().unwrap();
    let columns = vec![
        column("a", DataType::Int32),
        column("b", DataType::Float32),
        column("c", DataType::Decimal128(5, 2)),
        column("d", DataType::Date32),
        column("e", DataType::Int16),
    ];
    let handle = DeltaTableHandle::create_or_open(table_of(dir.path(), columns));
    let row = "INSERT INTO t VALUES (2147483647, 1.5, 123.45, DATE '2025-09-04', 7), (NULL, NULL, NULL, NULL, NULL)";
    run(&session(&handle.await.unwrap()).await, row)
        .await
        .unwrap();
    for (reader, writer) in [
        (
            &["typeWidening", "timestampNtz"],
            &["typeWidening", "timestampNtz"],
        ),
        (
            &["typeWidening-preview", "timestampNtz"],
            &["typeWidening-preview", "timestampNtz"],
        ),
    ] {
        require(dir.path(), reader, writer);
        retype(
            dir.path(),
            &[
                ("a", "long".into()),
                ("b", "double".into()),
                ("c", "decimal(20,4)".into()),
                ("d", "timestamp_ntz".into()),
                ("e", "double".into()),
            ],
        );
        let handle = DeltaTableHandle::create_or_open(open(dir.path()))
            .await
            .unwrap();
        let rows = query(&handle, "SELECT a + 1, b, c, d, e FROM t WHERE a > 7").await;
        for shown in [
            "2147483648",
            "1.5",
            "123.4500",
            "2025-09-04T00:00:00",
            "7.0",
        ] {
            assert!(rows.contains(shown), "{shown} is not in\n{rows}");
        }
        let none = "SELECT count(*) FROM t WHERE a IS NULL AND c IS NULL";
        assert_eq!(number(&handle, none).await, 1);
        assert_eq!(
            number(&handle, "SELECT count(*) FROM t WHERE e = 7.0").await,
            1
        );
        assert_eq!(
            number(&handle, "SELECT count(*) FROM t WHERE e > 7.0").await,
            0
        );
    }
    let handle = DeltaTableHandle::create_or_open(open(dir.path()))
        .await
        .unwrap();
    let row = "INSERT INTO t VALUES (9000000000, 1e300, 1234567890.1234, TIMESTAMP '2025-09-04T12:00:00', 0.5)";
    run(&session(&handle).await, row).await.unwrap();
    assert_eq!(
        number(&handle, "SELECT count(*) FROM t WHERE a > 2147483647").await,
        1
    );
    assert_eq!(
        number(&handle, "SELECT sum(a) FROM t").await,
        9_000_000_000 + i64::from(i32::MAX)
    );
    // The log keeps its protocol.
    let added = log(dir.path(), 2);
    assert!(
        added.iter().all(|action| action.get("protocol").is_none()),
        "{added:?}"
    );
}

/// Features that require something of each commit, and features that require nothing.
#[tokio::test(flavor = "multi_thread")]
async fn tables_as_managed_services_make_them_are_written() {
    let dir = tempfile::tempdir().unwrap();
    let columns = vec![column("v", DataType::Int64)];
    let handle = DeltaTableHandle::create_or_open(table_of(dir.path(), columns));
    run(
        &session(&handle.await.unwrap()).await,
        "INSERT INTO t VALUES (1), (2)",
    )
    .await
    .unwrap();
    require(
        dir.path(),
        &["vacuumProtocolCheck", "deletionVectors"],
        &[
            "vacuumProtocolCheck",
            "deletionVectors",
            "rowTracking",
            "domainMetadata",
            "clustering",
            "inCommitTimestamp",
            "invariants",
            "appendOnly",
        ],
    );
    rewrite(dir.path(), 0, |action| {
        if let Some(metadata) = action.get_mut("metaData") {
            metadata["configuration"]["delta.enableInCommitTimestamps"] = "true".into();
            metadata["configuration"]["delta.enableRowTracking"] = "true".into();
        }
    });
    // A writer whose clock is ahead.
    let ahead = 4_000_000_000_000_i64;
    rewrite(dir.path(), 1, |action| {
        if action.get("commitInfo").is_some() {
            action["commitInfo"]["inCommitTimestamp"] = ahead.into();
        }
        if action.get("add").is_some() {
            action["add"]["baseRowId"] = 0.into();
            action["add"]["defaultRowCommitVersion"] = 1.into();
        }
    });
    let path = dir.path().join("_delta_log/00000000000000000001.json");
    let domain = r#"{"domainMetadata":{"domain":"delta.rowTracking","configuration":"{\"rowIdHighWaterMark\":1}","removed":false}}"#;
    let text = std::fs::read_to_string(&path).unwrap();
    std::fs::write(&path, format!("{text}\n{domain}")).unwrap();

    let handle = DeltaTableHandle::create_or_open(open(dir.path()))
        .await
        .unwrap();
    assert_eq!(number(&handle, "SELECT sum(v) FROM t").await, 3);
    run(&session(&handle).await, "INSERT INTO t VALUES (3)")
        .await
        .unwrap();
    // The stale session has not seen the other commit: the numbers of its rows are those of the version that its entry
    // gets.
    let stale = session(&handle).await;
    run(&session(&handle).await, "INSERT INTO t VALUES (4), (5)")
        .await
        .unwrap();
    run(&stale, "INSERT INTO t VALUES (6)").await.unwrap();
    assert_eq!(number(&handle, "SELECT sum(v) FROM t").await, 21);
    run(&session(&handle).await, "INSERT OVERWRITE t VALUES (7)")
        .await
        .unwrap();
    assert_eq!(number(&handle, "SELECT sum(v) FROM t").await, 7);

    for (version, first_row, highest) in [(2, 2, 2), (3, 3, 4), (4, 5, 5), (5, 6, 6)] {
        let actions = log(dir.path(), version);
        let info = &actions[0]["commitInfo"];
        assert_eq!(info["inCommitTimestamp"], ahead + version as i64 - 1);
        let add = actions.iter().find_map(|action| action.get("add")).unwrap();
        assert_eq!(add["baseRowId"], first_row, "version {version}");
        assert_eq!(add["defaultRowCommitVersion"], version);
        let domain = actions
            .iter()
            .find_map(|action| action.get("domainMetadata"));
        let told = domain.unwrap()["configuration"].as_str().unwrap();
        assert_eq!(told, format!("{{\"rowIdHighWaterMark\":{highest}}}"));
        assert!(
            actions
                .iter()
                .all(|action| action.get("protocol").is_none())
        );
    }
    let error = handle
        .optimize(&anabranch::tables::delta::OptimizeSpec::default(), None)
        .await
        .unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unsupported, "{error}");
    assert!(error.message().contains("vacuumProtocolCheck"), "{error}");
}

/// Versions 0 to 3, whose entries have the times of the first days of 2020 from version `since` on. Their files are of 2019, a day
/// for each.
async fn with_times_in_entries(folder: &Path, since: u64) -> DeltaTableHandle {
    let columns = vec![column("v", DataType::Int64)];
    let handle = DeltaTableHandle::create_or_open(table_of(folder, columns));
    let handle = handle.await.unwrap();
    for _ in 0..3 {
        run(&session(&handle).await, "INSERT INTO t VALUES (1)")
            .await
            .unwrap();
    }
    require(
        folder,
        &[],
        &["inCommitTimestamp", "invariants", "appendOnly"],
    );
    for version in 0..4_u64 {
        rewrite(folder, version, |action| {
            if let Some(metadata) = action.get_mut("metaData") {
                let configuration = &mut metadata["configuration"];
                configuration["delta.enableInCommitTimestamps"] = "true".into();
                if since > 0 {
                    let enabled = (NEW_YEAR + since as i64 * DAY_OF_TIME) / 1_000;
                    configuration["delta.inCommitTimestampEnablementVersion"] =
                        since.to_string().into();
                    configuration["delta.inCommitTimestampEnablementTimestamp"] =
                        enabled.to_string().into();
                }
            }
            if version >= since && action.get("commitInfo").is_some() {
                let time = (NEW_YEAR + version as i64 * DAY_OF_TIME) / 1_000;
                action["commitInfo"]["inCommitTimestamp"] = time.into();
            }
        });
        let of_file = NEW_YEAR - 365 * DAY_OF_TIME + version as i64 * DAY_OF_TIME;
        let of_file = std::time::UNIX_EPOCH + std::time::Duration::from_micros(of_file as u64);
        let file = folder.join(format!("_delta_log/{version:020}.json"));
        let file = std::fs::File::options().write(true).open(file).unwrap();
        file.set_modified(of_file).unwrap();
    }
    DeltaTableHandle::create_or_open(open(folder))
        .await
        .unwrap()
}

/// 2020-01-01, and a day, in microseconds.
const NEW_YEAR: i64 = 1_577_836_800_000_000;
const DAY_OF_TIME: i64 = 86_400_000_000;

async fn rows_at(handle: &DeltaTableHandle, time: i64) -> anabranch::error::Result<i64> {
    let context = SessionContext::new();
    context.register_table("t", handle.snapshot(TimeTravel::Timestamp(time)).await?)?;
    let batches = run(&context, "SELECT count(*) FROM t").await?;
    let counts = batches[0].column(0).as_any();
    Ok(counts.downcast_ref::<Int64Array>().unwrap().value(0))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_version_is_of_the_time_in_its_entry() {
    let dir = tempfile::tempdir().unwrap();
    let handle = with_times_in_entries(dir.path(), 0).await;
    for (time, rows) in [
        (0, 0),
        (DAY_OF_TIME - 1, 0),
        (DAY_OF_TIME, 1),
        (DAY_OF_TIME + DAY_OF_TIME / 2, 1),
        (2 * DAY_OF_TIME, 2),
        (99 * DAY_OF_TIME, 3),
    ] {
        let found = rows_at(&handle, NEW_YEAR + time).await.unwrap();
        assert_eq!(found, rows, "{time}");
    }
    // The files are a year older.
    let error = rows_at(&handle, NEW_YEAR - 1).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound);
    assert!(
        error
            .message()
            .contains("the oldest is version 0 of 2020-01-01T00:00:00.000000Z"),
        "{error}"
    );
    let history = handle.history().await.unwrap();
    let times = history.column_by_name("timestamp").unwrap();
    let times: Vec<i64> = times
        .as_any()
        .downcast_ref::<TimestampMicrosecondArray>()
        .unwrap()
        .values()
        .to_vec();
    let days = [3, 2, 1, 0].map(|day| NEW_YEAR + day * DAY_OF_TIME);
    assert_eq!(times, days);
}

#[tokio::test(flavor = "multi_thread")]
async fn versions_before_times_in_entries_are_of_the_time_of_their_file() {
    let dir = tempfile::tempdir().unwrap();
    let handle = with_times_in_entries(dir.path(), 2).await;
    let old = NEW_YEAR - 365 * DAY_OF_TIME;
    for (time, rows) in [
        (old, 0),
        (old + DAY_OF_TIME, 1),
        // Its file is older than its entry says.
        (old + 9 * DAY_OF_TIME, 1),
        (NEW_YEAR + 2 * DAY_OF_TIME - 1, 1),
        (NEW_YEAR + 2 * DAY_OF_TIME, 2),
        (NEW_YEAR + 3 * DAY_OF_TIME, 3),
    ] {
        assert_eq!(rows_at(&handle, time).await.unwrap(), rows, "{time}");
    }
    let error = rows_at(&handle, old - 1).await.unwrap_err();
    assert!(
        error.message().contains("the oldest is version 0 of 2019"),
        "{error}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn variants_are_shown_as_json() {
    let dir = tempfile::tempdir().unwrap();
    let part = |name: &str| Field::new(name, DataType::Binary, true);
    let parts = DataType::Struct(vec![part("metadata"), part("value")].into());
    let columns = vec![column("id", DataType::Int64), column("v", parts)];
    let handle = DeltaTableHandle::create_or_open(table_of(dir.path(), columns));
    // 42, "hi" and {"a": true}.
    let values = [
        (1, "010000", "0c2a"),
        (2, "010000", "096869"),
        (3, "0101000161", "020100000104"),
    ];
    let selects = values.map(|(id, metadata, value)| {
        format!("SELECT {id}, named_struct('metadata', decode('{metadata}', 'hex'), 'value', decode('{value}', 'hex'))")
    });
    let rows = format!(
        "INSERT INTO t {} UNION ALL SELECT 4, NULL",
        selects.join(" UNION ALL ")
    );
    run(&session(&handle.await.unwrap()).await, &rows)
        .await
        .unwrap();
    require(dir.path(), &["variantType"], &["variantType"]);
    retype(dir.path(), &[("v", "variant".into())]);
    let handle = DeltaTableHandle::create_or_open(open(dir.path()))
        .await
        .unwrap();
    let rows = query(&handle, "SELECT id, v FROM t ORDER BY id").await;
    for shown in ["| 42 ", "| \"hi\" ", "| {\"a\":true} "] {
        assert!(rows.contains(shown), "{shown} is not in\n{rows}");
    }
    assert_eq!(
        number(&handle, "SELECT count(*) FROM t WHERE v = '42'").await,
        1
    );
    assert_eq!(
        number(&handle, "SELECT count(*) FROM t WHERE v IS NULL").await,
        1
    );
    assert_eq!(number(&handle, "SELECT id FROM t WHERE id = 2").await, 2);
    let error = run(&session(&handle).await, "INSERT INTO t VALUES (5, '1')")
        .await
        .unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unsupported, "{error}");
    assert!(error.message().contains("VARIANT"), "{error}");
}

/// The output of statements in a session of the program.
async fn in_session(statements: &str) -> String {
    use anabranch::planner::{Parameters, Script, parse_statement};
    use anabranch::session::{Session, SessionOptions};
    let session = Session::try_new(&SessionOptions::default()).unwrap();
    let mut rows = Vec::new();
    for raw in Script::new("test", statements).split().unwrap() {
        let mut parsed = parse_statement(&raw).unwrap();
        Parameters::default().bind(&mut parsed).unwrap();
        rows.extend(session.collect(parsed).await.unwrap());
    }
    pretty_format_batches(&rows).unwrap().to_string()
}

/// The numbers of a table that is shown, of one column.
fn ids_of(shown: &str) -> Vec<i64> {
    shown
        .lines()
        .filter_map(|line| line.trim_matches(|c| c == '|' || c == ' ').parse().ok())
        .collect()
}

/// Bytes that partition a table are the text of the log: a predicate leaves no row of them out, and a change keeps their spelling.
#[tokio::test(flavor = "multi_thread")]
async fn rows_are_found_and_changed_in_partitions_of_bytes() {
    let dir = tempfile::tempdir().unwrap();
    let columns = vec![
        column("id", DataType::Int64),
        column("n", DataType::Int64),
        column("p", DataType::Utf8),
    ];
    let spec = DeltaSpec {
        partition_by: vec!["p".to_owned()],
        ..table_of(dir.path(), columns)
    };
    let handle = DeltaTableHandle::create_or_open(spec).await.unwrap();
    let insert = "INSERT INTO t VALUES (1, 0, 'ab'), (2, 0, 'é'), (3, 0, '\\u0061'), (4, 0, NULL)";
    run(&session(&handle).await, insert).await.unwrap();
    retype(dir.path(), &[("p", "binary".into())]);

    let session = session_of(dir.path()).await;
    for (condition, expected) in [
        ("p = X'6162'", vec![1]),
        ("p = X'c3a9'", vec![2]),
        ("p = X'5c7530303631'", vec![3]),
        ("p = X'61'", vec![]),
        ("p IN (X'6162', X'c3a9')", vec![1, 2]),
        ("p <> X'6162'", vec![2, 3]),
        ("p NOT IN (X'c3a9', X'5c7530303631')", vec![1]),
        ("p > X'61'", vec![1, 2]),
        ("p IS NULL", vec![4]),
        ("p IS NOT NULL AND id > 1", vec![2, 3]),
    ] {
        let found = format!("SELECT id FROM t WHERE {condition} ORDER BY id");
        assert_eq!(numbers(&session, &found).await, expected, "{condition}");
        let update = format!("UPDATE t SET n = n + 1 WHERE {condition}");
        let changed = change(&session, &update).await.unwrap();
        assert_eq!(changed, expected.len() as u64, "{condition}");
        let ones = "SELECT id FROM t WHERE n = 1 ORDER BY id";
        assert_eq!(numbers(&session, ones).await, expected, "{condition}");
        change(&session, "UPDATE t SET n = 0").await.unwrap();
    }
    let inserted = change(&session, "INSERT INTO t VALUES (5, 0, X'6162')").await;
    assert_eq!(inserted.unwrap(), 1);
    let error = change(&session, "INSERT INTO t VALUES (6, 0, X'ff')").await;
    let error = error.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Data, "{error}");
    let error = change(&session, "OPTIMIZE t").await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unsupported, "{error}");
    let deleted = change(&session, "DELETE FROM t WHERE p = X'6162'").await;
    assert_eq!(deleted.unwrap(), 2);
    let left = "SELECT id FROM t ORDER BY id";
    assert_eq!(numbers(&session, left).await, [2, 3, 4]);

    // The last UPDATE has written all rows that are left.
    let newest = handle.version().await.unwrap() - 2;
    let actions = log(dir.path(), newest);
    let values = actions.iter().filter_map(|action| action.get("add"));
    let values = values.map(|add| add["partitionValues"]["p"].as_str().map(str::to_owned));
    let mut values: Vec<Option<String>> = values.collect();
    values.sort();
    let expected = [None, Some("\\u0061"), Some("ab"), Some("é")];
    assert_eq!(values, expected.map(|value| value.map(str::to_owned)));
}

/// Other writers leave NaN out of the bounds of a column.
#[tokio::test(flavor = "multi_thread")]
async fn foreign_file_bounds_do_not_exclude_nan() {
    let dir = tempfile::tempdir().unwrap();
    let columns = vec![
        column("id", DataType::Int64),
        column("d", DataType::Float64),
    ];
    let handle = DeltaTableHandle::create_or_open(table_of(dir.path(), columns))
        .await
        .unwrap();
    let row = "INSERT INTO t VALUES (1, 1.0), (2, CAST('NaN' AS DOUBLE)), (3, 1.0)";
    run(&session(&handle).await, row).await.unwrap();
    let stats = |action: &serde_json::Value| -> serde_json::Value {
        serde_json::from_str(action["add"]["stats"].as_str().unwrap()).unwrap()
    };
    // We leave the bounds out.
    let written = log(dir.path(), 1);
    let added = written
        .iter()
        .find(|action| action.get("add").is_some())
        .unwrap();
    assert_eq!(stats(added)["maxValues"], serde_json::json!({"id": 3}));
    assert_eq!(stats(added)["minValues"], serde_json::json!({"id": 1}));
    rewrite(dir.path(), 1, |action| {
        if action.get("add").is_some() {
            let mut told = stats(action);
            told["minValues"]["d"] = 1.0.into();
            told["maxValues"]["d"] = 1.0.into();
            action["add"]["stats"] = told.to_string().into();
        }
    });
    let table = format!(
        "CREATE EXTERNAL TABLE t STORED AS DELTA LOCATION '{}';",
        dir.path().display()
    );
    for (query, ids) in [
        ("SELECT id FROM t WHERE d > 4", vec![2]),
        ("SELECT id FROM t WHERE d = 1.0", vec![1, 3]),
        ("SELECT id FROM t WHERE d * 2 > 20", vec![2]),
        ("SELECT id FROM t WHERE d <> 1.0 AND id > 0", vec![2]),
        ("SELECT id FROM t WHERE id > 0 AND isnan(d)", vec![2]),
        ("SELECT id FROM t ORDER BY d DESC LIMIT 1", vec![2]),
        ("SELECT id FROM t WHERE d = (SELECT max(d) FROM t)", vec![2]),
    ] {
        let shown = in_session(&format!("{table} {query};")).await;
        assert_eq!(ids_of(&shown), ids, "{query}:\n{shown}");
    }
    let shown = in_session(&format!(
        "{table} SELECT d FROM t WHERE id >= 2 ORDER BY id;"
    ))
    .await;
    assert!(shown.contains("NaN"), "{shown}");
}

/// NumPy's NaN has a sign: it is the same NaN as any other, in tables of either kind.
#[tokio::test(flavor = "multi_thread")]
async fn nan_with_a_sign_is_nan() {
    use datafusion::arrow::array::{Float32Array, Float64Array};

    let dir = tempfile::tempdir().unwrap();
    let columns = vec![
        column("id", DataType::Int64),
        column("d", DataType::Float64),
        column("f", DataType::Float32),
    ];
    let handle = DeltaTableHandle::create_or_open(table_of(dir.path(), columns))
        .await
        .unwrap();
    let fields = vec![
        Field::new("id", DataType::Int64, true),
        Field::new("d", DataType::Float64, true),
        Field::new("f", DataType::Float32, true),
    ];
    let rows = RecordBatch::try_new(
        Arc::new(Schema::new(fields)),
        vec![
            Arc::new(Int64Array::from(vec![1, 2, 3, 4])),
            Arc::new(Float64Array::from(vec![1.0, -f64::NAN, f64::NAN, 3.0])),
            Arc::new(Float32Array::from(vec![1.0, -f32::NAN, f32::NAN, 3.0])),
        ],
    )
    .unwrap();
    insert(&handle, "id, d, f", vec![rows]).await.unwrap();
    let files = data_files(dir.path());
    assert_eq!(files.len(), 1, "{files:?}");
    let file = dir.path().join(&files[0]);
    for table in [
        format!("STORED AS DELTA LOCATION '{}'", dir.path().display()),
        format!("STORED AS PARQUET LOCATION '{}'", file.display()),
    ] {
        for (query, ids) in [
            ("SELECT id FROM t WHERE d > 4 ORDER BY id", vec![2, 3]),
            ("SELECT id FROM t WHERE d < 0", vec![]),
            (
                "SELECT id FROM t WHERE id > 0 AND d > 4 ORDER BY id",
                vec![2, 3],
            ),
            (
                "SELECT id FROM t WHERE id > 0 AND f > 4 ORDER BY id",
                vec![2, 3],
            ),
            (
                "SELECT id FROM t WHERE d = CAST('NaN' AS DOUBLE) ORDER BY id",
                vec![2, 3],
            ),
            (
                "SELECT id FROM t WHERE f IN (2, CAST('NaN' AS REAL)) ORDER BY id",
                vec![2, 3],
            ),
            ("SELECT id FROM t WHERE d = (SELECT min(d) FROM t)", vec![1]),
            ("SELECT id FROM t ORDER BY d DESC, id LIMIT 2", vec![2, 3]),
            ("SELECT id FROM t WHERE id > 1 ORDER BY d LIMIT 1", vec![4]),
            (
                "SELECT id FROM t WHERE id < 3 ORDER BY f DESC LIMIT 1",
                vec![2],
            ),
            ("SELECT count(DISTINCT d) FROM t", vec![3]),
            (
                "SELECT count(*) FROM (SELECT f FROM t GROUP BY f) AS g",
                vec![3],
            ),
            (
                "SELECT a.id FROM t AS a JOIN t AS b ON a.d = b.d WHERE b.id = 2 ORDER BY a.id",
                vec![2, 3],
            ),
            (
                "SELECT id FROM (SELECT id, rank() OVER (ORDER BY d DESC) AS r FROM t) AS q WHERE r = 1 ORDER BY id",
                vec![2, 3],
            ),
        ] {
            let shown = in_session(&format!("CREATE EXTERNAL TABLE t {table}; {query};")).await;
            assert_eq!(ids_of(&shown), ids, "{query} {table}:\n{shown}");
        }
    }
}

/// A table with timestamps in INT96 is rewritten as it is read.
#[tokio::test(flavor = "multi_thread")]
async fn old_timestamps_outlast_an_optimize() {
    let dir = tempfile::tempdir().unwrap();
    copy_folder(
        &repository().join("tests/fixtures/int96-by-pyarrow"),
        dir.path(),
    );
    let handle = DeltaTableHandle::create_or_open(open(dir.path()))
        .await
        .unwrap();
    let spec = anabranch::tables::delta::OptimizeSpec {
        zorder_by: vec!["id".into()],
    };
    handle.optimize(&spec, None).await.unwrap();
    assert_eq!(handle.version().await.unwrap(), 1);
    let table = format!(
        "CREATE EXTERNAL TABLE t STORED AS DELTA LOCATION '{}';",
        dir.path().display()
    );
    let shown = in_session(&format!("{table} SELECT t FROM t ORDER BY id;")).await;
    for time in ["9999-12-31T23:59:59.999999Z", "0001-01-01T00:00:00Z"] {
        assert!(shown.contains(time), "{shown}");
    }
}
