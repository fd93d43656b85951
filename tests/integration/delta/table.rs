//! Creating, opening, inserting, and statements that are refused.

use anabranch::error::ErrorKind;
use datafusion::arrow::array::{BooleanArray, Float64Array};
use datafusion::arrow::datatypes::{Fields, Int64Type};
use futures::future::maybe_done;

use super::*;
use crate::support::PATIENCE;

#[tokio::test(flavor = "multi_thread")]
async fn a_table_is_created_filled_and_opened_again() {
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path().join("some archive");
    let handle = DeltaTableHandle::create_or_open(archive(&folder))
        .await
        .unwrap();
    assert_eq!(handle.version().await.unwrap(), 0);
    assert_eq!(
        handle.partition_columns().await.unwrap(),
        ["year", "month", "day", "hour"]
    );

    let times = [
        Some(DAY),
        Some(DAY + 10 * HOUR + 1),
        None,
        Some(DAY + 10 * HOUR + 999_999),
    ];
    let count = insert(
        &handle,
        RECORD,
        vec![records(0, &times[..3]), records(3, &times[3..])],
    )
    .await;
    assert_eq!(count.unwrap(), 4);
    assert_eq!(handle.version().await.unwrap(), 1);

    let again = DeltaTableHandle::create_or_open(archive(&folder))
        .await
        .unwrap();
    insta::assert_snapshot!(query(&again, r#"SELECT * FROM t ORDER BY "offset""#).await, @r#"
    +---------+-----------+--------+-----------------------------+------+-------+-----+------+
    | value   | partition | offset | event_time                  | year | month | day | hour |
    +---------+-----------+--------+-----------------------------+------+-------+-----+------+
    | {"n":0} | 0         | 0      | 2025-09-04T00:00:00Z        | 2025 | 9     | 4   | 0    |
    | {"n":1} | 1         | 1      | 2025-09-04T10:00:00.000001Z | 2025 | 9     | 4   | 10   |
    | {"n":2} | 2         | 2      |                             |      |       |     |      |
    | {"n":3} | 0         | 3      | 2025-09-04T10:00:00.999999Z | 2025 | 9     | 4   | 10   |
    +---------+-----------+--------+-----------------------------+------+-------+-----+------+
    "#);
    let opened = DeltaTableHandle::create_or_open(open(&folder))
        .await
        .unwrap();
    assert_eq!(opened.generated_columns().await.unwrap()[3].0, "hour");
    assert_eq!(
        number(&opened, "SELECT count(*) FROM t WHERE hour IS NULL").await,
        1
    );
    assert_eq!(
        number(&opened, "SELECT count(*) FROM t WHERE hour <> 10").await,
        1
    );
}

/// The layout is the one that any other engine expects: one file per partition, `__HIVE_DEFAULT_PARTITION__`
/// for null, partition values and statistics in the log, `timestamp` and not `timestamp_ntz`.
#[tokio::test(flavor = "multi_thread")]
async fn the_log_has_the_fields_other_engines_expect() {
    let dir = tempfile::tempdir().unwrap();
    let handle = DeltaTableHandle::create_or_open(archive(dir.path()))
        .await
        .unwrap();
    let times: Vec<_> = (0..1000)
        .map(|i| Some(DAY + (i % 3) * HOUR + i))
        .chain([None])
        .collect();
    insert(&handle, RECORD, vec![records(0, &times)])
        .await
        .unwrap();

    let created = log(dir.path(), 0);
    let protocol = created
        .iter()
        .find_map(|action| action.get("protocol"))
        .unwrap();
    assert_eq!(protocol["minReaderVersion"], 1, "{protocol}");
    assert_eq!(protocol["minWriterVersion"], 4, "{protocol}");
    let metadata = created
        .iter()
        .find_map(|action| action.get("metaData"))
        .unwrap();
    let schema: serde_json::Value =
        serde_json::from_str(metadata["schemaString"].as_str().unwrap()).unwrap();
    assert_eq!(schema["fields"][3]["type"], "timestamp");
    assert_eq!(
        schema["fields"][4]["metadata"]["delta.generationExpression"],
        "CAST(date_part('year', event_time) AS INT)"
    );

    let commit = log(dir.path(), 1);
    let adds: Vec<_> = commit
        .iter()
        .filter_map(|action| action.get("add"))
        .collect();
    assert_eq!(adds.len(), 4);
    let null = adds
        .iter()
        .find(|add| add["partitionValues"]["hour"].is_null())
        .unwrap();
    let path = null["path"].as_str().unwrap();
    assert!(path.contains("hour=__HIVE_DEFAULT_PARTITION__/"), "{path}");
    let second = adds
        .iter()
        .find(|add| add["partitionValues"]["hour"] == "1")
        .unwrap();
    assert_eq!(second["partitionValues"]["year"], "2025");
    let stats: serde_json::Value = serde_json::from_str(second["stats"].as_str().unwrap()).unwrap();
    assert_eq!(stats["numRecords"], 333);
    assert_eq!(stats["nullCount"]["event_time"], 0);
    assert_eq!(stats["minValues"]["offset"], 1);
    assert_eq!(stats["maxValues"]["offset"], 997);
    assert_eq!(stats["minValues"]["event_time"], "2025-09-04T01:00:00.000Z");
    let info = commit
        .iter()
        .find_map(|action| action.get("commitInfo"))
        .unwrap();
    assert_eq!(info["operation"], "WRITE");
    assert_eq!(info["operationMetrics"]["numOutputRows"], "1001");
}

#[tokio::test(flavor = "multi_thread")]
async fn generated_columns_are_computed_and_checked() {
    let dir = tempfile::tempdir().unwrap();
    let spec = DeltaSpec {
        columns: Some(vec![
            column("id", DataType::Int64),
            column("event_time", timestamp()),
            DeltaColumn {
                nullable: false,
                ..generated("date", DataType::Date32, "CAST(event_time AS DATE)")
            },
            generated("y", DataType::Int32, "YEAR(Event_Time)"),
            generated(
                "month",
                DataType::Utf8,
                "DATE_FORMAT(event_time, 'yyyy-MM')",
            ),
            generated("week", DataType::Date32, "TRUNC(event_time, 'WEEK')"),
            generated("half", DataType::Int64, "id / 2"),
        ]),
        ..open(dir.path())
    };
    let handle = DeltaTableHandle::create_or_open(spec).await.unwrap();
    let context = session(&handle).await;
    run(
        &context,
        "INSERT INTO t (id, event_time) VALUES (7, '2025-09-04T10:00:00Z')",
    )
    .await
    .unwrap();
    // Given with the right value, or with none.
    run(
        &context,
        "INSERT INTO t VALUES (8, '2025-09-04T10:00:00Z', '2025-09-04', 2025, '2025-09', NULL, 4)",
    )
    .await
    .unwrap();
    insta::assert_snapshot!(query(&handle, "SELECT * FROM t ORDER BY id").await, @r"
    +----+----------------------+------------+------+---------+------------+------+
    | id | event_time           | date       | y    | month   | week       | half |
    +----+----------------------+------------+------+---------+------------+------+
    | 7  | 2025-09-04T10:00:00Z | 2025-09-04 | 2025 | 2025-09 | 2025-09-01 | 3    |
    | 8  | 2025-09-04T10:00:00Z | 2025-09-04 | 2025 | 2025-09 | 2025-09-01 | 4    |
    +----+----------------------+------------+------+---------+------------+------+
    ");

    let error = run(
        &context,
        "INSERT INTO t (id, event_time, y) VALUES (9, '2025-09-04T10:00:00Z', 2024)",
    )
    .await
    .unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Data);
    assert!(
        error
            .message()
            .contains("column 'y' is generated as YEAR(Event_Time)"),
        "{error}"
    );
    assert!(
        error.message().contains("gives 2024, its expression 2025"),
        "{error}"
    );
    let error = run(&context, "INSERT INTO t (id) VALUES (9)")
        .await
        .unwrap_err();
    assert!(
        error.message().contains("column 'date' is NOT NULL"),
        "{error}"
    );
    assert_eq!(handle.version().await.unwrap(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_invalid_generated_column_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    for (text, part) in [
        ("year(nothing)", "the table has no column 'nothing'"),
        ("id +", "is not an expression"),
        ("id, id", "is left over"),
        ("id || 'x'", "gives Utf8"),
        (
            "CAST(random() * id AS BIGINT)",
            "does not always give the same",
        ),
        ("other + 1", "uses 'other', which is itself generated"),
        ("no_such_function(id)", "no_such_function"),
    ] {
        let spec = DeltaSpec {
            columns: Some(vec![
                column("id", DataType::Int64),
                generated("other", DataType::Int64, "id + 1"),
                generated("broken", DataType::Int64, text),
            ]),
            ..open(&dir.path().join("t"))
        };
        let error = DeltaTableHandle::create_or_open(spec).await.unwrap_err();
        assert!(error.message().contains("'broken'"), "{text}: {error}");
        assert!(error.message().contains(part), "{text}: {error}");
    }
    assert!(
        !dir.path().join("t").exists(),
        "a refused table leaves a folder"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_declaration_that_differs_names_the_column() {
    let dir = tempfile::tempdir().unwrap();
    DeltaTableHandle::create_or_open(archive(dir.path()))
        .await
        .unwrap();
    let change = |change: &dyn Fn(&mut Vec<DeltaColumn>)| {
        let mut spec = archive(dir.path());
        change(spec.columns.as_mut().unwrap());
        spec
    };
    let cases: Vec<(DeltaSpec, &str)> = vec![
        (
            change(&|c| c[0].name = "valeu".into()),
            "has no column 'valeu'",
        ),
        (change(&|c| drop(c.remove(2))), "also has a column 'offset'"),
        (
            change(&|c| c[2].data_type = DataType::Int32),
            "column 'offset' is declared INT, but stored as BIGINT",
        ),
        (
            change(&|c| c[3].data_type = DataType::Timestamp(TimeUnit::Microsecond, None)),
            "column 'event_time'",
        ),
        (
            change(&|c| c[1].nullable = false),
            "column 'partition' is declared NOT NULL",
        ),
        (
            change(&|c| c.swap(0, 1)),
            "column 'value' has another position",
        ),
        (
            change(&|c| c[0].generated = Some("'x'".into())),
            "column 'value' is declared as generated",
        ),
        (
            change(&|c| c[4].generated = Some("CAST(date_part('day', event_time) AS INT)".into())),
            "column 'year' is declared as generated by",
        ),
        (
            DeltaSpec {
                partition_by: vec!["hour".into()],
                ..archive(dir.path())
            },
            "partitioned by year, month, day, hour, not by hour",
        ),
    ];
    for (spec, part) in cases {
        let error = DeltaTableHandle::create_or_open(spec).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Invalid);
        assert!(error.message().contains(part), "{error}");
    }
    // The same in other words is the same.
    let same = change(&|c| {
        c[0].data_type = DataType::Utf8View;
        c[4].generated = Some("CAST( DATE_PART('year', EVENT_TIME) AS int )".into());
    });
    DeltaTableHandle::create_or_open(same).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn an_invalid_table_is_refused_before_anything_is_written() {
    let dir = tempfile::tempdir().unwrap();
    let spec = |columns: Vec<DeltaColumn>, by: &[&str]| DeltaSpec {
        columns: Some(columns),
        partition_by: by.iter().map(|name| (*name).to_owned()).collect(),
        ..open(&dir.path().join("t"))
    };
    let a = || column("a", DataType::Int64);
    for (spec, part) in [
        (spec(vec![], &[]), "at least one column"),
        (
            spec(vec![a(), column("A", DataType::Utf8)], &[]),
            "column 'A' is declared twice",
        ),
        (
            spec(vec![column("a b", DataType::Utf8)], &[]),
            "column named 'a b'",
        ),
        (
            spec(vec![column("u", DataType::UInt64)], &[]),
            "column 'u': Delta has no unsigned type",
        ),
        (
            spec(
                vec![column("t", DataType::Time64(TimeUnit::Microsecond))],
                &[],
            ),
            "column 't': Delta has no type",
        ),
        (
            spec(vec![a()], &["b"]),
            "partition column 'b' is not among the columns",
        ),
        (
            spec(vec![a()], &["a"]),
            "every column is a partition column",
        ),
        (
            spec(
                vec![
                    a(),
                    column(
                        "s",
                        DataType::Struct(Fields::from(vec![Field::new(
                            "x",
                            DataType::Int64,
                            true,
                        )])),
                    ),
                ],
                &["s"],
            ),
            "column 's'",
        ),
    ] {
        let error = DeltaTableHandle::create_or_open(spec).await.unwrap_err();
        assert!(error.message().contains(part), "{error}");
    }
    let error = DeltaTableHandle::create_or_open(open(&dir.path().join("t")))
        .await
        .unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound);
    assert!(!dir.path().join("t").exists());
    let error = DeltaTableHandle::create_or_open(open(dir.path()))
        .await
        .unwrap_err();
    assert_eq!(
        error.kind(),
        ErrorKind::NotFound,
        "an empty folder is no table"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_corrupt_log_is_reported_and_not_overwritten() {
    let dir = tempfile::tempdir().unwrap();
    let handle = DeltaTableHandle::create_or_open(archive(dir.path()))
        .await
        .unwrap();
    insert(&handle, RECORD, vec![records(0, &[Some(DAY)])])
        .await
        .unwrap();
    let first = dir.path().join("_delta_log/00000000000000000000.json");
    std::fs::write(&first, "{\"protocol\":{\"minReaderVersion\":1,").unwrap();
    for spec in [archive(dir.path()), open(dir.path())] {
        let error = DeltaTableHandle::create_or_open(spec).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Data, "{error}");
        assert!(
            error.message().contains("the log cannot be read"),
            "{error}"
        );
        assert!(
            error.message().contains(&dir.path().display().to_string()),
            "{error}"
        );
    }
    assert!(
        std::fs::read_to_string(first)
            .unwrap()
            .starts_with("{\"protocol\"")
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gap_in_the_log_is_reported() {
    let dir = tempfile::tempdir().unwrap();
    let handle = DeltaTableHandle::create_or_open(archive(dir.path()))
        .await
        .unwrap();
    for offset in 0..3 {
        insert(&handle, RECORD, vec![records(offset, &[Some(DAY)])])
            .await
            .unwrap();
    }
    std::fs::remove_file(dir.path().join("_delta_log/00000000000000000002.json")).unwrap();
    let error = DeltaTableHandle::create_or_open(open(dir.path()))
        .await
        .unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Data, "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_missing_data_file_fails_the_query_and_names_the_file() {
    let dir = tempfile::tempdir().unwrap();
    let handle = DeltaTableHandle::create_or_open(archive(dir.path()))
        .await
        .unwrap();
    insert(&handle, RECORD, vec![records(0, &[Some(DAY)])])
        .await
        .unwrap();
    let file = data_files(dir.path()).pop().unwrap();
    std::fs::remove_file(dir.path().join(&file)).unwrap();
    let error = run(&session(&handle).await, "SELECT max(value) FROM t")
        .await
        .unwrap_err();
    let name = file.rsplit('/').next().unwrap();
    assert!(error.message().contains(name), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_insert_of_no_rows_makes_no_commit() {
    let dir = tempfile::tempdir().unwrap();
    let spec = DeltaSpec {
        columns: Some(vec![column("id", DataType::Int64)]),
        ..open(dir.path())
    };
    let handle = DeltaTableHandle::create_or_open(spec).await.unwrap();
    let session = session(&handle).await;
    run(&session, "INSERT INTO t SELECT 1 WHERE false")
        .await
        .unwrap();
    assert_eq!(handle.version().await.unwrap(), 0);
    run(&session, "INSERT INTO t SELECT 1").await.unwrap();
    assert_eq!(handle.version().await.unwrap(), 1);
    // An overwrite with nothing has something to say.
    run(&session, "INSERT OVERWRITE t SELECT 1 WHERE false")
        .await
        .unwrap();
    assert_eq!(handle.version().await.unwrap(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failed_insert_leaves_no_files() {
    let dir = tempfile::tempdir().unwrap();
    let spec = DeltaSpec {
        columns: Some(vec![
            column("id", DataType::Int64),
            DeltaColumn {
                nullable: false,
                ..column("name", DataType::Utf8)
            },
            column("day", DataType::Int32),
        ]),
        partition_by: vec!["day".into()],
        // Files are rolled and finished while the input still runs.
        options: [("delta.target_file_size".into(), "1 KiB".into())].into(),
        ..open(dir.path())
    };
    let handle = DeltaTableHandle::create_or_open(spec).await.unwrap();
    let error = run(
        &session(&handle).await,
        "INSERT INTO t SELECT i, CASE WHEN i < 99000 THEN 'n' || i END, i % 5 FROM \
         (SELECT value AS i FROM generate_series(1, 100000))",
    )
    .await
    .unwrap_err();
    assert!(
        error.message().contains("column 'name' is NOT NULL"),
        "{error}"
    );
    let error = run(
        &session(&handle).await,
        "INSERT INTO t SELECT i, 'n', 10 / (99000 - i) FROM (SELECT value AS i FROM generate_series(1, 100000))",
    )
    .await
    .unwrap_err();
    assert!(
        error.message().to_lowercase().contains("divide by zero"),
        "{error}"
    );
    assert_eq!(handle.version().await.unwrap(), 0);
    assert_eq!(data_files(dir.path()), Vec::<String>::new());
    assert_eq!(number(&handle, "SELECT count(*) FROM t").await, 0);
}

/// Two that read the same version both append.
#[tokio::test(flavor = "multi_thread")]
async fn concurrent_inserts_both_land() {
    let dir = tempfile::tempdir().unwrap();
    let left = DeltaTableHandle::create_or_open(archive(dir.path()))
        .await
        .unwrap();
    let right = DeltaTableHandle::create_or_open(archive(dir.path()))
        .await
        .unwrap();
    let writes = (0..8).map(|i| {
        let handle = if i % 2 == 0 {
            left.clone()
        } else {
            right.clone()
        };
        tokio::spawn(async move {
            let batch = records(i * 10, &[Some(DAY + i * HOUR), Some(DAY)]);
            insert(&handle, RECORD, vec![batch]).await.unwrap()
        })
    });
    for write in writes.collect::<Vec<_>>() {
        assert_eq!(write.await.unwrap(), 2);
    }
    assert_eq!(left.version().await.unwrap(), 8);
    assert_eq!(
        number(&right, "SELECT count(DISTINCT \"offset\") FROM t").await,
        16
    );
}

/// The plan of a statement stops in the middle, where it reads the log: a job over the same table goes on.
#[tokio::test(flavor = "multi_thread")]
async fn a_statement_that_stops_holds_up_no_job() {
    let dir = tempfile::tempdir().unwrap();
    let handle = DeltaTableHandle::create_or_open(archive(dir.path()))
        .await
        .unwrap();
    let mut statements = Vec::new();
    for _ in 0..3 {
        let mut version = Box::pin(maybe_done(handle.version()));
        let _ = futures::poll!(version.as_mut());
        let mut identity = Box::pin(maybe_done(handle.identity()));
        let _ = futures::poll!(identity.as_mut());
        statements.push((version, identity));
    }
    let job = async {
        insert(&handle, RECORD, vec![records(0, &[Some(DAY)])])
            .await
            .unwrap();
        (
            handle.version().await.unwrap(),
            handle.identity().await.unwrap(),
        )
    };
    let (version, identity) = tokio::time::timeout(PATIENCE, job).await.unwrap();
    assert_eq!(version, 1);
    // The statements go on as well.
    for (mut read, mut identified) in statements {
        read.as_mut().await;
        assert!(read.as_mut().take_output().unwrap().unwrap() <= 1);
        identified.as_mut().await;
        let found = identified.as_mut().take_output().unwrap().unwrap();
        assert_eq!(found, identity);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn two_that_create_the_same_table_both_get_it() {
    for _ in 0..10 {
        let dir = tempfile::tempdir().unwrap();
        let create = || tokio::spawn(DeltaTableHandle::create_or_open(archive(dir.path())));
        let (left, right) = (create(), create());
        let (left, right) = (left.await.unwrap().unwrap(), right.await.unwrap().unwrap());
        insert(&left, RECORD, vec![records(0, &[Some(DAY)])])
            .await
            .unwrap();
        assert_eq!(number(&right, "SELECT count(*) FROM t").await, 1);
        let metadata: usize = (0..=right.version().await.unwrap())
            .map(|version| {
                log(dir.path(), version)
                    .iter()
                    .filter(|a| a.get("metaData").is_some())
                    .count()
            })
            .sum();
        assert_eq!(metadata, 1, "the table was created twice");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn overwrite_replaces_all_rows_unless_the_table_is_append_only() {
    let dir = tempfile::tempdir().unwrap();
    let handle = DeltaTableHandle::create_or_open(archive(&dir.path().join("a")))
        .await
        .unwrap();
    insert(
        &handle,
        RECORD,
        vec![records(0, &[Some(DAY), Some(DAY + HOUR)])],
    )
    .await
    .unwrap();
    let overwrite = "INSERT OVERWRITE t (value, event_time) VALUES ('new', '2025-09-04T00:00:00Z')";
    run(&session(&handle).await, overwrite).await.unwrap();
    assert_eq!(
        number(&handle, "SELECT count(*) FROM t WHERE value = 'new'").await,
        1
    );
    assert_eq!(number(&handle, "SELECT count(*) FROM t").await, 1);

    let spec = DeltaSpec {
        options: [("delta.appendOnly".into(), "true".into())].into(),
        ..archive(&dir.path().join("b"))
    };
    let handle = DeltaTableHandle::create_or_open(spec).await.unwrap();
    insert(&handle, RECORD, vec![records(0, &[Some(DAY)])])
        .await
        .unwrap();
    let error = run(&session(&handle).await, overwrite).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unsupported, "{error}");
    assert!(error.message().contains("append-only"), "{error}");
    assert_eq!(data_files(&dir.path().join("b")).len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn values_of_every_type_come_back() {
    let dir = tempfile::tempdir().unwrap();
    let context = Fields::from(vec![
        Field::new("browser", DataType::Utf8, true),
        Field::new(
            "tags",
            DataType::List(Arc::new(Field::new("item", DataType::Utf8, true))),
            true,
        ),
    ]);
    let map = DataType::Map(
        Arc::new(Field::new(
            "entries",
            DataType::Struct(Fields::from(vec![
                Field::new("key", DataType::Utf8, false),
                Field::new("value", DataType::Utf8, true),
            ])),
            false,
        )),
        false,
    );
    let spec = DeltaSpec {
        columns: Some(vec![
            column("i8", DataType::Int8),
            column("f", DataType::Float64),
            column("ok", DataType::Boolean),
            column("d", DataType::Decimal128(20, 4)),
            column("day", DataType::Date32),
            column("local", DataType::Timestamp(TimeUnit::Microsecond, None)),
            column("bytes", DataType::Binary),
            column("context", DataType::Struct(context)),
            column("headers", map),
        ]),
        ..open(dir.path())
    };
    let handle = DeltaTableHandle::create_or_open(spec).await.unwrap();
    let context = session(&handle).await;
    run(
        &context,
        "INSERT INTO t SELECT -5, 1.5e300, true, 1234567890.1234, DATE '1969-12-31', TIMESTAMP '2025-01-01 00:00:00.000001', \
         X'00ff', named_struct('browser', 'x', 'tags', ['a', NULL]), MAP {'k': 'v', 'n': NULL} \
         UNION ALL SELECT NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL",
    )
    .await
    .unwrap();
    insta::assert_snapshot!(query(&handle, "SELECT * FROM t ORDER BY i8").await, @r"
    +----+---------+------+-----------------+------------+----------------------------+-------+---------------------------+-------------+
    | i8 | f       | ok   | d               | day        | local                      | bytes | context                   | headers     |
    +----+---------+------+-----------------+------------+----------------------------+-------+---------------------------+-------------+
    | -5 | 1.5e300 | true | 1234567890.1234 | 1969-12-31 | 2025-01-01T00:00:00.000001 | 00ff  | {browser: x, tags: [a, ]} | {k: v, n: } |
    |    |         |      |                 |            |                            |       |                           |             |
    +----+---------+------+-----------------+------------+----------------------------+-------+---------------------------+-------------+
    ");
    let one = query(
        &handle,
        "SELECT context['browser'] AS b, headers['k'] AS k FROM t WHERE f > 1 AND ok",
    )
    .await;
    assert!(
        one.contains("| x | [v] |") || one.contains("| x | v |"),
        "{one}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn text_partition_values_of_every_kind_come_back() {
    let dir = tempfile::tempdir().unwrap();
    let spec = DeltaSpec {
        columns: Some(vec![
            column("id", DataType::Int64),
            column("name", DataType::Utf8),
        ]),
        partition_by: vec!["name".into()],
        ..open(dir.path())
    };
    let handle = DeltaTableHandle::create_or_open(spec).await.unwrap();
    let names = [
        "plain", "a b", "a/b", "a=b", "100%", "é:ü", "'quoted'", "null", "..",
    ];
    let values: Vec<String> = names
        .iter()
        .enumerate()
        .map(|(i, name)| format!("({i}, '{}')", name.replace('\'', "''")))
        .collect();
    let context = session(&handle).await;
    run(
        &context,
        &format!("INSERT INTO t VALUES {}, (99, NULL)", values.join(", ")),
    )
    .await
    .unwrap();
    let batches = run(
        &session(&handle).await,
        "SELECT name FROM t WHERE name IS NOT NULL ORDER BY id",
    )
    .await
    .unwrap();
    let shown = pretty_format_batches(&batches).unwrap().to_string();
    for name in names {
        assert!(shown.contains(&format!("| {name} ")), "{name} in {shown}");
        let quoted = name.replace('\'', "''");
        let found = number(
            &handle,
            &format!("SELECT count(*) FROM t WHERE name = '{quoted}'"),
        )
        .await;
        assert_eq!(found, 1, "{name}");
    }
    assert_eq!(
        number(&handle, "SELECT id FROM t WHERE name IS NULL").await,
        99
    );
    run(
        &session(&handle).await,
        "INSERT OVERWRITE t VALUES (1, 'a b')",
    )
    .await
    .unwrap();
    assert_eq!(number(&handle, "SELECT count(*) FROM t").await, 1);
}

/// An INSERT of more partitions than its memory has room for still lands whole.
#[tokio::test(flavor = "multi_thread")]
async fn many_partitions_fit_into_little_memory() {
    let dir = tempfile::tempdir().unwrap();
    let spec = DeltaSpec {
        columns: Some(vec![
            column("id", DataType::Int64),
            column("text", DataType::Utf8),
            column("bucket", DataType::Int64),
        ]),
        partition_by: vec!["bucket".into()],
        options: [("write.max_memory".into(), "256 KiB".into())].into(),
        ..open(dir.path())
    };
    let handle = DeltaTableHandle::create_or_open(spec).await.unwrap();
    run(
        &session(&handle).await,
        "INSERT INTO t SELECT i, repeat('x', 100) || i, i % 40 FROM (SELECT value AS i FROM generate_series(1, 40000))",
    )
    .await
    .unwrap();
    assert_eq!(handle.version().await.unwrap(), 1);
    let files = data_files(dir.path()).len();
    assert!(files > 40, "memory never ran short: {files} files");
    let sums = run(
        &session(&handle).await,
        "SELECT sum(id), count(DISTINCT text) FROM t",
    )
    .await
    .unwrap();
    use datafusion::arrow::array::AsArray;
    assert_eq!(
        sums[0].column(0).as_primitive::<Int64Type>().value(0),
        40_000 * 40_001 / 2
    );
    assert_eq!(
        sums[0].column(1).as_primitive::<Int64Type>().value(0),
        40_000
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_plan_is_appended_with_its_transaction() {
    use datafusion::datasource::memory::MemorySourceConfig;
    let dir = tempfile::tempdir().unwrap();
    let spec = DeltaSpec {
        columns: Some(vec![
            column("ok", DataType::Boolean),
            column("f", DataType::Float64),
        ]),
        ..open(dir.path())
    };
    let handle = DeltaTableHandle::create_or_open(spec).await.unwrap();
    assert_eq!(handle.transaction_version("job/1").await.unwrap(), None);
    let schema = Arc::new(Schema::new(vec![
        Field::new("ok", DataType::Boolean, true),
        Field::new("f", DataType::Float64, true),
    ]));
    let batch = RecordBatch::try_new(
        Arc::clone(&schema),
        vec![
            Arc::new(BooleanArray::from(vec![Some(true), None])),
            Arc::new(Float64Array::from(vec![f64::NAN, 1.0])),
        ],
    )
    .unwrap();
    let plan = MemorySourceConfig::try_new_exec(&[vec![batch]], schema, None).unwrap();
    let context = SessionContext::new();
    let commit = handle
        .append(plan, context.task_ctx(), Some(("job/1".into(), 7)))
        .await
        .unwrap();
    assert_eq!(
        (commit.version, commit.rows, commit.added),
        (1, 2, data_files(dir.path()))
    );
    assert_eq!(handle.transaction_version("job/1").await.unwrap(), Some(7));
    assert_eq!(
        number(&handle, "SELECT count(*) FROM t WHERE isnan(f)").await,
        1
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn constraints_of_the_table_are_upheld() {
    let dir = tempfile::tempdir().unwrap();
    let spec = DeltaSpec {
        columns: Some(vec![column("id", DataType::Int64)]),
        options: [("delta.minWriterVersion".into(), "3".into())].into(),
        ..open(dir.path())
    };
    DeltaTableHandle::create_or_open(spec).await.unwrap();
    // As another engine would add it.
    let path = dir.path().join("_delta_log/00000000000000000000.json");
    let text = std::fs::read_to_string(&path).unwrap();
    std::fs::write(
        &path,
        text.replace(
            r#""configuration":{"#,
            r#""configuration":{"delta.constraints.positive":"id > 0","#,
        ),
    )
    .unwrap();
    let handle = DeltaTableHandle::create_or_open(open(dir.path()))
        .await
        .unwrap();
    run(&session(&handle).await, "INSERT INTO t VALUES (1)")
        .await
        .unwrap();
    for bad in ["0", "NULL"] {
        let error = run(
            &session(&handle).await,
            &format!("INSERT INTO t VALUES (2), ({bad})"),
        )
        .await
        .unwrap_err();
        assert!(
            error.message().contains("constraint 'positive' (id > 0)"),
            "{error}"
        );
    }
    assert_eq!(handle.version().await.unwrap(), 1);
}
