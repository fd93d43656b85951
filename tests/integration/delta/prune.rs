//! Pruning: the files that a query reads.

use super::*;

/// A day of 24 hours, three files each; every file holds four records of its hour.
async fn day(folder: &Path, spec: impl Fn(&Path) -> DeltaSpec) -> DeltaTableHandle {
    let handle = DeltaTableHandle::create_or_open(spec(folder))
        .await
        .unwrap();
    for file in 0..3 {
        let times: Vec<_> = (0..24)
            .flat_map(|hour| {
                (0..4).map(move |n| Some(DAY + hour * HOUR + (file * 4 + n) * HOUR / 12 + 123_456))
            })
            .collect();
        insert(&handle, RECORD, vec![records(file * 96, &times)])
            .await
            .unwrap();
    }
    assert_eq!(data_files(folder).len(), 72);
    handle
}

/// The same without statistics: only partition values can prune.
fn without_statistics(folder: &Path) -> DeltaSpec {
    DeltaSpec {
        options: [("delta.dataSkippingNumIndexedCols".into(), "0".into())].into(),
        ..archive(folder)
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn partition_values_prune_without_statistics() {
    let dir = tempfile::tempdir().unwrap();
    let handle = day(dir.path(), without_statistics).await;
    let time = |from: &str, to: &str| {
        format!(
            "SELECT * FROM t WHERE event_time >= '2025-09-04T{from}Z' AND event_time < '2025-09-04T{to}Z'"
        )
    };
    for (sql, rows, files) in [
        ("SELECT * FROM t".to_owned(), 288, 72),
        (time("10:00:00", "11:00:00"), 12, 3),
        (time("10:59:00", "11:01:00"), 1, 6),
        (time("09:30:00", "12:30:00"), 36, 12),
        ("SELECT * FROM t WHERE hour = 10".to_owned(), 12, 3),
        ("SELECT * FROM t WHERE hour <> 10".to_owned(), 276, 69),
        ("SELECT * FROM t WHERE event_time < '2025-09-04T01:00:00Z'".to_owned(), 12, 3),
        ("SELECT * FROM t WHERE event_time > '2025-09-04T23:00:00Z'".to_owned(), 12, 3),
        ("SELECT * FROM t WHERE event_time = '2025-09-04T05:00:00.123456Z'".to_owned(), 1, 3),
        (
            "SELECT * FROM t WHERE event_time BETWEEN '2025-09-04T05:00:00Z' AND '2025-09-04T05:59:00Z' \
             OR event_time IN ('2025-09-04T07:00:00.123456Z')"
                .to_owned(),
            13,
            6,
        ),
        ("SELECT * FROM t WHERE event_time >= '2025-09-05T00:00:00Z'".to_owned(), 0, 0),
        ("SELECT * FROM t WHERE event_time >= '2024-12-31T22:00:00Z' AND event_time < '2026-01-01T01:00:00Z'".to_owned(), 288, 72),
        ("SELECT * FROM t WHERE event_time < '2025-09-04T01:00:00Z' OR value = 'x'".to_owned(), 12, 72),
        ("SELECT * FROM t WHERE NOT (event_time >= '2025-09-04T01:00:00Z')".to_owned(), 12, 3),
    ] {
        assert_eq!(scanned(&handle, &sql).await, (rows, files), "{sql}");
    }
}

/// Statistics prune within a partition, down to the millisecond to which the log keeps them.
#[tokio::test(flavor = "multi_thread")]
async fn statistics_prune_within_a_partition() {
    let dir = tempfile::tempdir().unwrap();
    let handle = day(dir.path(), archive).await;
    for (sql, rows, files) in [
        // Each file of an hour holds a third of it.
        (
            "SELECT * FROM t WHERE event_time >= '2025-09-04T10:00:00Z' AND event_time < '2025-09-04T10:20:00Z'",
            4,
            1,
        ),
        (
            "SELECT * FROM t WHERE event_time = '2025-09-04T10:15:00.123456Z'",
            1,
            1,
        ),
        (
            "SELECT * FROM t WHERE event_time > '2025-09-04T23:55:00.123455Z'",
            1,
            1,
        ),
        (
            "SELECT * FROM t WHERE event_time > '2025-09-04T23:55:00.123456Z'",
            0,
            1,
        ),
        (
            "SELECT * FROM t WHERE event_time > '2025-09-04T23:55:00.124456Z'",
            0,
            0,
        ),
        (
            "SELECT * FROM t WHERE \"offset\" >= 96 AND \"offset\" < 100",
            4,
            1,
        ),
        ("SELECT * FROM t WHERE partition = 7", 0, 0),
    ] {
        assert_eq!(scanned(&handle, sql).await, (rows, files), "{sql}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn other_ways_to_partition_by_time_prune_too() {
    for (parts, files) in [
        (
            vec![
                generated("date", DataType::Date32, "CAST(event_time AS DATE)"),
                generated("hour", DataType::Int32, "HOUR(event_time)"),
            ],
            1,
        ),
        (
            vec![generated(
                "h",
                timestamp(),
                "date_trunc('hour', event_time)",
            )],
            1,
        ),
        (
            vec![generated(
                "h",
                DataType::Utf8,
                "DATE_FORMAT(event_time, 'yyyy-MM-dd-HH')",
            )],
            1,
        ),
        (
            vec![generated(
                "h",
                DataType::Utf8,
                "to_char(event_time, '%Y%m%d%H')",
            )],
            1,
        ),
        (
            vec![generated(
                "m",
                DataType::Int32,
                "EXTRACT(MONTH FROM event_time)",
            )],
            24,
        ),
        // The hour alone says something within one day only.
        (
            vec![generated(
                "hour",
                DataType::Int64,
                "CAST(date_part('hour', event_time) AS BIGINT)",
            )],
            1,
        ),
    ] {
        let dir = tempfile::tempdir().unwrap();
        let mut spec = without_statistics(dir.path());
        let columns = spec.columns.as_mut().unwrap();
        columns.truncate(4);
        columns.extend(parts.clone());
        spec.partition_by = parts.iter().map(|column| column.name.clone()).collect();
        let handle = DeltaTableHandle::create_or_open(spec).await.unwrap();
        // Every hour is a file even where the partition does not say so.
        for hour in 0..24 {
            insert(
                &handle,
                RECORD,
                vec![records(hour, &[Some(DAY + hour * HOUR + 1)])],
            )
            .await
            .unwrap();
        }
        let sql = "SELECT * FROM t WHERE event_time >= '2025-09-04T10:00:00Z' AND event_time < '2025-09-04T11:00:00Z'";
        assert_eq!(scanned(&handle, sql).await, (1, files), "{parts:?}");
        let sql = "SELECT * FROM t WHERE event_time >= '2025-09-03T10:00:00Z' AND event_time < '2025-09-05T11:00:00Z'";
        assert_eq!(scanned(&handle, sql).await, (24, 24), "{parts:?}");
    }
}

/// Rows are never lost to a derived predicate: every range gives the same rows as a filter alone.
#[tokio::test(flavor = "multi_thread")]
async fn a_derived_predicate_loses_no_row() {
    let dir = tempfile::tempdir().unwrap();
    let handle = DeltaTableHandle::create_or_open(without_statistics(dir.path()))
        .await
        .unwrap();
    // Around the ends of hours, days, months, years, before 1970, and none at all.
    let marks = [
        -1,
        0,
        DAY,
        DAY + 24 * HOUR,
        DAY - 96 * HOUR,
        1_767_225_600_000_000,
        -86_400_000_000,
    ];
    let times: Vec<_> = marks
        .iter()
        .flat_map(|mark| [-HOUR, -1, 0, 1, HOUR - 1, HOUR].map(|by| Some(mark + by)))
        .chain([None])
        .collect();
    insert(&handle, RECORD, vec![records(0, &times)])
        .await
        .unwrap();
    let literal = |time: i64| {
        let time = chrono::DateTime::from_timestamp_micros(time).unwrap();
        time.to_rfc3339_opts(chrono::SecondsFormat::Micros, true)
    };
    for low in times.iter().flatten() {
        for high in [low + 1, low + HOUR, low + 30 * 24 * HOUR] {
            let sql = format!(
                "SELECT \"offset\" FROM t WHERE event_time >= '{}' AND event_time < '{}'",
                literal(*low),
                literal(high)
            );
            let expected = times
                .iter()
                .flatten()
                .filter(|time| (*low..high).contains(time))
                .count();
            assert_eq!(scanned(&handle, &sql).await.0, expected, "{sql}");
        }
    }
}

/// Spark computes generated columns in its session's zone: such a table must not lose rows.
#[tokio::test(flavor = "multi_thread")]
async fn a_table_partitioned_in_another_zone_loses_no_row() {
    let dir = tempfile::tempdir().unwrap();
    let handle = DeltaTableHandle::create_or_open(without_statistics(dir.path()))
        .await
        .unwrap();
    insert(&handle, RECORD, vec![records(0, &[Some(DAY + 10 * HOUR)])])
        .await
        .unwrap();
    // As if written in Berlin: 10:00 UTC lies in the partition of 12 o'clock.
    let create = dir.path().join("_delta_log/00000000000000000000.json");
    let text = std::fs::read_to_string(&create).unwrap();
    std::fs::write(
        &create,
        text.replace("anabranch.generatedColumns.timezone", "spark.something"),
    )
    .unwrap();
    let commit = dir.path().join("_delta_log/00000000000000000001.json");
    let text = std::fs::read_to_string(&commit).unwrap();
    assert!(text.contains(r#""hour":"10""#), "{text}");
    std::fs::write(&commit, text.replace(r#""hour":"10""#, r#""hour":"12""#)).unwrap();

    let handle = DeltaTableHandle::create_or_open(open(dir.path()))
        .await
        .unwrap();
    let sql = "SELECT * FROM t WHERE event_time >= '2025-09-04T10:00:00Z' AND event_time < '2025-09-04T11:00:00Z'";
    assert_eq!(scanned(&handle, sql).await, (1, 1));
    let far = "SELECT * FROM t WHERE event_time >= '2025-09-06T10:00:00Z'";
    assert_eq!(
        scanned(&handle, far).await,
        (0, 0),
        "far away is still pruned"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn explain_analyze_counts_the_files() {
    let dir = tempfile::tempdir().unwrap();
    let handle = day(dir.path(), archive).await;
    let shown = query(
        &handle,
        "EXPLAIN ANALYZE SELECT value FROM t WHERE hour = 3",
    )
    .await;
    assert!(shown.contains("count_files_scanned=3"), "{shown}");
}

#[tokio::test(flavor = "multi_thread")]
async fn null_1_statistics_tell_whether_a_column_has_nulls() {
    let dir = tempfile::tempdir().unwrap();
    let knows = async |handle: &DeltaTableHandle| {
        let table = handle.snapshot(TimeTravel::Latest).await.unwrap();
        anabranch::tables::delta::has_no_nulls(table.as_ref(), "event_time")
    };
    let handle = DeltaTableHandle::create_or_open(archive(&dir.path().join("with")))
        .await
        .unwrap();
    assert!(!knows(&handle).await, "of an empty table nothing is known");
    let times = [Some(DAY), Some(DAY + HOUR)];
    insert(&handle, RECORD, vec![records(0, &times)])
        .await
        .unwrap();
    assert!(knows(&handle).await);
    insert(&handle, RECORD, vec![records(2, &[Some(DAY), None])])
        .await
        .unwrap();
    assert!(!knows(&handle).await);
    // Without statistics it cannot be told.
    let handle = DeltaTableHandle::create_or_open(without_statistics(&dir.path().join("without")))
        .await
        .unwrap();
    insert(&handle, RECORD, vec![records(0, &times)])
        .await
        .unwrap();
    assert!(!knows(&handle).await);
}
