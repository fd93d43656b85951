//! Jobs with windows and keys over a Delta table that is read as a stream.

use std::collections::BTreeMap;

use super::Pipeline;
use super::windows::expected;

/// Counts per key and ten seconds of a table whose versions have a file for each of two keys; about three rows a batch.
fn counting(name: &str, options: &str) -> Pipeline {
    let pipeline = Pipeline::between_topics(name, 1);
    let (bootstrap, sink) = (&pipeline.bootstrap, &pipeline.sink);
    pipeline.work.file(
        "tables.sql",
        &format!(
            "CREATE EXTERNAL TABLE written (k BIGINT, t TIMESTAMP) STORED AS DELTA PARTITIONED BY (k) LOCATION 'written';\n\
             CREATE EXTERNAL TABLE ticks (WATERMARK FOR t AS t - INTERVAL '5 seconds') STORED AS DELTA LOCATION 'written' \
             OPTIONS ('scan.mode' 'stream'{options});\n\
             CREATE EXTERNAL TABLE counts (k BIGINT, s TIMESTAMP, v BIGINT) STORED AS KAFKA LOCATION '{sink}' \
             OPTIONS ('kafka.bootstrap.servers' '{bootstrap}', 'topic.partitions' '1');\n\
             CREATE EXTERNAL TABLE upserts (s VARCHAR, n BIGINT, final BOOLEAN, PRIMARY KEY (s) NOT ENFORCED) \
             STORED AS KAFKA LOCATION '{sink}' OPTIONS ('kafka.bootstrap.servers' '{bootstrap}', 'topic.partitions' '1');\n\
             CREATE EXTERNAL TABLE kept (k BIGINT, s TIMESTAMP, v BIGINT) STORED AS DELTA LOCATION 'kept';\n"
        ),
    );
    for (file, job, table) in [
        ("job.sql", "to_topic", "counts"),
        ("keep.sql", "to_delta", "kept"),
    ] {
        pipeline.work.file(
            file,
            &format!(
                "CREATE JOB {job} WITH ('trigger' '10 milliseconds', 'batch.max_rows' '3') AS \
                 INSERT INTO {table} SELECT k, window_start, count(*) \
                 FROM TUMBLE(TABLE ticks, DESCRIPTOR(t), INTERVAL '10 seconds') GROUP BY k, window_start;\n"
            ),
        );
    }
    pipeline
}

/// Second `n` of the first hour of 2025.
fn time(second: u32) -> String {
    format!(
        "TIMESTAMP '2025-01-01T00:{:02}:{:02}Z'",
        second / 60,
        second % 60
    )
}

impl Pipeline {
    /// Adds rows to the table that is read, in one commit: keys and times.
    fn add(&self, rows: impl IntoIterator<Item = (u32, String)>) {
        let rows = rows.into_iter().map(|(k, time)| format!("({k}, {time})"));
        let rows: Vec<String> = rows.collect();
        let insert = format!("INSERT INTO written VALUES {}", rows.join(", "));
        self.work.sql(&["tables.sql"], &[&insert]).ok();
    }

    /// A commit with second `n`, of key `n % 2`.
    fn add_seconds(&self, seconds: impl IntoIterator<Item = u32>) {
        self.add(seconds.into_iter().map(|n| (n % 2, time(n))));
    }
}

#[test]
fn exact_1_windows_over_versions_are_counted_once_after_a_crash_at_any_step() {
    let pipeline = counting("versions-crash", "");
    let mut sent = 0;
    pipeline.crash_at_each_step("job.sql", 2, || {
        // Two files of several rows each: a process may die when one of them is read.
        pipeline.add_seconds(sent..sent + 11);
        sent += 11;
    });
    assert_eq!(pipeline.counted("counts"), expected(sent));
    assert_eq!(pipeline.rows("SELECT * FROM system.late_rows").len(), 0);
}

#[test]
fn exact_2_windows_from_delta_to_delta_after_crashes_and_rewinds_into_versions() {
    let pipeline = counting("versions-delta", "");
    let mut sent = 0;
    pipeline.crash_at_each_step("keep.sql", 1, || {
        pipeline.add_seconds(sent..sent + 13);
        sent += 13;
    });
    assert_eq!(pipeline.counted("kept"), expected(sent));
    // Some batches end between the files of a version: the highest event time of that version so far is kept with the
    // job's time.
    let folder = pipeline.work.path("anabranch-data/jobs");
    let id = pipeline.id_of("to_delta");
    let versions = std::fs::read_dir(folder.join(id).join("versions")).unwrap();
    let texts = versions.map(|version| std::fs::read_to_string(version.unwrap().path()).unwrap());
    let unfinished = texts.filter(|text| text.contains("\"unfinished\"")).count();
    assert!(unfinished >= 4, "{unfinished}");
    for batch in 0..6 {
        let rewind = format!("REWIND JOB to_delta TO BATCH {}", 5 - batch);
        pipeline
            .work
            .sql(&["tables.sql", "keep.sql"], &[&rewind])
            .ok();
        if batch % 2 == 0 {
            pipeline.add_seconds(sent..sent + 5);
            sent += 5;
        }
        pipeline.catch_up("keep.sql").ok();
        assert_eq!(pipeline.counted("kept"), expected(sent), "{rewind}");
    }
}

#[test]
fn time_2_rows_are_late_by_earlier_versions_and_not_by_their_own() {
    let pipeline = counting("versions-late", "");
    // All that the table has when the job begins is one version: second 1 is not late.
    pipeline.add_seconds([30, 31]);
    pipeline.add_seconds([1]);
    pipeline.catch_up("job.sql").ok();
    let window = |key: i64, start: &str| (key, format!("2025-01-01T00:00:{start}Z"));
    assert_eq!(
        pipeline.counted("counts"),
        [(window(1, "00"), vec![1])].into()
    );
    // The window of second 12 has not closed at 26; 5 is late; 50 makes no row of its own version late.
    pipeline.add_seconds([12, 50, 5, 27]);
    pipeline.catch_up("job.sql").ok();
    let late = pipeline.rows(
        "SELECT topic, partition, \"offset\", CAST(value AS VARCHAR) AS value, CAST(watermark AS VARCHAR) AS watermark, \
         CAST(window_start AS VARCHAR) AS start FROM system.late_rows ORDER BY value",
    );
    // 12 is late as well: its window has ended at 20, before the watermark of 26.
    let values: Vec<&str> = late
        .iter()
        .map(|row| row["value"].as_str().unwrap())
        .collect();
    assert_eq!(
        values,
        [
            "{\"k\":0,\"t\":\"2025-01-01T00:00:12.000Z\"}",
            "{\"k\":1,\"t\":\"2025-01-01T00:00:05.000Z\"}",
        ]
    );
    for row in &late {
        assert!(row["topic"].as_str().unwrap().ends_with("written"), "{row}");
        assert_eq!(row["partition"], 0);
        assert_eq!(row["offset"].as_i64().unwrap() / 1_000_000_000, 3, "{row}");
        assert_eq!(row["watermark"], "2025-01-01T00:00:26Z");
    }
    assert_eq!(late[1]["start"], "2025-01-01T00:00:00Z");
    let counted = BTreeMap::from([
        (window(0, "30"), vec![1]),
        (window(1, "00"), vec![1]),
        (window(1, "20"), vec![1]),
        (window(1, "30"), vec![1]),
    ]);
    assert_eq!(pipeline.counted("counts"), counted);
    let partition = &pipeline.rows(
        "SELECT \"offset\", CAST(watermark AS VARCHAR) AS watermark, idle FROM system.partitions",
    )[0];
    assert_eq!(partition["offset"], 4_000_000_000_u64, "{partition}");
    assert_eq!(partition["watermark"], "2025-01-01T00:00:45Z");
}

#[test]
fn time_5_rows_with_an_implausible_time_are_dead_letters_of_a_table_too() {
    let pipeline = counting("versions-dead", ", 'watermark.max_ahead' '2 days'");
    let tomorrow = "now() + INTERVAL '1 day'".to_owned();
    pipeline.add([
        (0, "NULL".to_owned()),
        (0, "TIMESTAMP '2999-01-01T00:00:00Z'".to_owned()),
        (0, time(1)),
        (1, time(2)),
    ]);
    pipeline.add_seconds([30]);
    pipeline.catch_up("job.sql").ok();
    let one = |key: i64| ((key, "2025-01-01T00:00:00Z".to_owned()), vec![1]);
    assert_eq!(pipeline.counted("counts"), [one(0), one(1)].into());
    let dead = pipeline.rows(
        "SELECT \"table\", topic, partition, \"offset\", timestamp, CAST(value AS VARCHAR) AS value, reason \
         FROM system.dead_letters ORDER BY reason DESC",
    );
    let told: Vec<(&str, &str)> = dead
        .iter()
        .map(|row| {
            (
                row["reason"].as_str().unwrap(),
                row["value"].as_str().unwrap(),
            )
        })
        .collect();
    assert_eq!(
        told,
        [
            (
                "the event time t is more than 172800 seconds past the time its file was written",
                "{\"k\":0,\"t\":\"2999-01-01T00:00:00.000Z\"}",
            ),
            ("the event time t is NULL", "{\"k\":0,\"t\":null}"),
        ]
    );
    for row in &dead {
        assert_eq!(row["table"], "ticks");
        assert!(row["timestamp"].as_str().unwrap() > "2025", "{row}");
        assert_eq!(row["partition"], 0);
    }
    let batches =
        pipeline.rows("SELECT sum(rows_in) AS n, sum(dead_letters) AS dead FROM system.batches");
    assert_eq!(
        (&batches[0]["n"], &batches[0]["dead"]),
        (&5.into(), &2.into())
    );
    // Tomorrow is within two days.
    pipeline.add([(1, tomorrow)]);
    pipeline.catch_up("job.sql").ok();
    let closed = pipeline.counted("counts");
    assert_eq!(closed.len(), 3, "{closed:?}");
}

#[test]
fn changes_over_versions_reach_a_reader_of_upserts() {
    let pipeline = counting("versions-changes", "");
    pipeline.work.file(
        "sessions.sql",
        "CREATE JOB sessions WITH ('trigger' '10 milliseconds', 'batch.max_rows' '2') AS INSERT INTO upserts \
         SELECT k || '-' || to_char(window_start, '%M:%S'), count(*), is_final() \
         FROM SESSION(TABLE ticks PARTITION BY k, DESCRIPTOR(t), INTERVAL '5 seconds') \
         GROUP BY k, window_start EMIT CHANGES;\n",
    );
    for seconds in [&[10, 12][..], &[20, 6, 11], &[16, 13], &[60]] {
        pipeline.add_seconds(seconds.iter().copied());
        pipeline.catch_up("sessions.sql").ok();
    }
    // 6 and 13 are late: before 7, the watermark that 12 left, and 15, that of 20.
    let late = pipeline.rows("SELECT CAST(value AS VARCHAR) AS v FROM system.late_rows ORDER BY v");
    assert_eq!(late.len(), 2, "{late:?}");
    let mut held: BTreeMap<String, serde_json::Value> = BTreeMap::new();
    for line in pipeline.printed().lines() {
        let (key, value) = line.split_once('\t').unwrap();
        match value {
            "null" => drop(held.remove(key)),
            _ => drop(held.insert(key.to_owned(), serde_json::from_str(value).unwrap())),
        }
    }
    let held: Vec<(&str, i64, bool)> = held
        .iter()
        .map(|(key, row)| {
            let (n, is_final) = (row["n"].as_i64(), row["final"].as_bool());
            (key.as_str(), n.unwrap(), is_final.unwrap())
        })
        .collect();
    assert_eq!(
        held,
        [
            ("0-00:10", 4, true),
            ("0-01:00", 1, false),
            ("1-00:11", 1, true)
        ]
    );
}

#[test]
fn a_table_and_a_topic_are_one_stream_and_wait_for_each_other() {
    let run = |name: &str, options: &str| {
        let pipeline = counting(name, "");
        let tables = std::fs::read_to_string(pipeline.work.path("tables.sql")).unwrap();
        let live = format!(
            "CREATE EXTERNAL TABLE live (k BIGINT, t TIMESTAMP, WATERMARK FOR t AS t - INTERVAL '5 seconds') \
             STORED AS KAFKA LOCATION '{}' OPTIONS ('kafka.bootstrap.servers' '{}');\n\
             CREATE VIEW both AS SELECT k, t FROM ticks UNION ALL SELECT k + 2, t FROM live;\n",
            pipeline.source, pipeline.bootstrap
        );
        pipeline.work.file("tables.sql", &(tables + &live));
        pipeline.work.file(
            "both.sql",
            &format!(
                "CREATE JOB both_streams WITH ('trigger' '10 milliseconds', 'batch.max_rows' '20'{options}) AS \
                 INSERT INTO kept SELECT k, window_start, count(*) \
                 FROM TUMBLE(TABLE both, DESCRIPTOR(t), INTERVAL '10 seconds') GROUP BY k, window_start;\n"
            ),
        );
        for minute in 0..8 {
            pipeline.add_seconds(minute * 60..minute * 60 + 60);
        }
        // The topic has a record for each four of the table: it is far ahead after few batches.
        let records: String = (0..120)
            .map(|n| {
                let second = n * 4;
                let (minute, second) = (second / 60, second % 60);
                format!("{{\"k\":0,\"t\":\"2025-01-01T00:{minute:02}:{second:02}Z\"}}\n")
            })
            .collect();
        pipeline.produce(&records);
        pipeline.catch_up("both.sql").ok();
        let rows = pipeline.rows("SELECT sum(rows_in) AS n FROM system.batches");
        assert_eq!(rows[0]["n"], 480 + 120);
        let late = pipeline.rows("SELECT count(*) AS n FROM system.late_rows");
        assert_eq!(late[0]["n"], 0);
        pipeline.counted("kept")
    };
    let free = run("versions-free", "");
    let bound = run("versions-bound", ", 'watermark.max_drift' '30 seconds'");
    assert_eq!(free, bound);
    // Up to 7:51, five seconds before the last record.
    assert_eq!(free.len(), 3 * 47, "{free:?}");
}

#[test]
fn keys_without_a_window_are_counted_over_versions() {
    let pipeline = counting("versions-keyed", "");
    let tables = std::fs::read_to_string(pipeline.work.path("tables.sql")).unwrap();
    pipeline.work.file(
        "tables.sql",
        &(tables
            + "CREATE EXTERNAL TABLE orders (k BIGINT, n BIGINT, ts TIMESTAMP[]) STORED AS DELTA LOCATION 'orders';\n"),
    );
    pipeline.work.file(
        "keyed.sql",
        "CREATE JOB keyed WITH ('trigger' '10 milliseconds', 'batch.max_rows' '3', 'state.ttl' 'none') AS \
         INSERT INTO orders SELECT k, count(*), array_agg(t ORDER BY k) FROM ticks GROUP BY k EMIT CHANGES;\n",
    );
    // A row without a time is a row like any other, and all rows of a key tie: they are in the order of their files and rows.
    pipeline.add((0..7).map(|n| (n % 2, time(50 - n))));
    pipeline.crash("keyed.sql", "committed");
    pipeline.add([(1, "NULL".to_owned()), (1, time(1)), (1, time(0))]);
    pipeline.crash("keyed.sql", "staged");
    pipeline.catch_up("keyed.sql").ok();
    let rows = pipeline.rows("SELECT k, max(n) AS n FROM orders GROUP BY k ORDER BY k");
    let counts: Vec<_> = rows.iter().map(|row| row["n"].as_i64().unwrap()).collect();
    assert_eq!(counts, [4, 6]);
    let last =
        &pipeline.rows("SELECT CAST(ts AS VARCHAR) AS ts FROM orders WHERE k = 1 AND n = 6")[0];
    let text = last["ts"].as_str().unwrap();
    let seconds: Vec<&str> = text
        .split("00:00:")
        .skip(1)
        .map(|rest| &rest[..2])
        .collect();
    assert_eq!(seconds, ["49", "47", "45", "01", "00"], "{text}");
}

#[test]
fn invalid_watermarks_of_a_table_are_refused() {
    let pipeline = counting("versions-refused", "");
    pipeline.add_seconds([1]);
    let table = |columns: &str, options: &str| {
        format!(
            "CREATE EXTERNAL TABLE t {columns} STORED AS DELTA LOCATION 'written' OPTIONS ({options})"
        )
    };
    let stream = "'scan.mode' 'stream'";
    let watermark = "(WATERMARK FOR t AS t - INTERVAL '5 seconds')";
    for (statement, expected) in [
        (
            table(watermark, "'scan.mode' 'static'"),
            "set 'scan.mode' 'stream' as well",
        ),
        (
            table(
                watermark,
                &format!("{stream}, 'watermark.partitions' 'max'"),
            ),
            "a table that is read as a stream is one partition",
        ),
        (
            table(watermark, &format!("{stream}, 'watermark.max_ahead' 'far'")),
            "watermark.max_ahead",
        ),
        (
            table("", "'watermark.idle_after' '1 minute'"),
            "set 'scan.mode' 'stream' as well",
        ),
        (
            table("(WATERMARK FOR u AS u - INTERVAL '5 seconds')", stream),
            "WATERMARK names u, which is not a column",
        ),
        (
            table("(WATERMARK FOR k AS k - INTERVAL '5 seconds')", stream),
            "WATERMARK needs a TIMESTAMP, and k is none",
        ),
    ] {
        let ran = pipeline.work.sql(&[], &[&statement]);
        assert_eq!(ran.code, Some(1), "{statement}: {ran:?}");
        assert!(ran.err.contains(expected), "{statement}: {}", ran.err);
    }
    let without = "CREATE EXTERNAL TABLE timeless STORED AS DELTA LOCATION 'written' OPTIONS ('scan.mode' 'stream')";
    let job = "CREATE JOB j AS INSERT INTO kept SELECT k, window_start, count(*) \
               FROM TUMBLE(TABLE timeless, DESCRIPTOR(t), INTERVAL '10 seconds') GROUP BY k, window_start";
    let ran = pipeline.work.sql(&["tables.sql"], &[without, job]);
    assert_eq!(ran.code, Some(1), "{ran:?}");
    assert!(
        ran.err.contains("timeless declares no watermark"),
        "{}",
        ran.err
    );

    let job = job.replace("timeless", "ticks");
    let explained = pipeline
        .work
        .sql(&["tables.sql"], &[&format!("EXPLAIN {job}")])
        .ok();
    assert!(
        explained
            .out
            .contains("ticks.t AS t - INTERVAL '5 seconds'"),
        "{explained:?}"
    );
}
