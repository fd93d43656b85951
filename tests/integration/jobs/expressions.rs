//! Records for which an expression fails: the job names them, or sets them aside exactly once.

use super::{Pipeline, crash};

/// A job that divides by `v`, and one that counts by a window; records 1 and 2 of a second each, with gaps.
fn dividing(name: &str, on_error: &str) -> Pipeline {
    let pipeline = Pipeline::between_topics(name, 2);
    let (bootstrap, source, sink) = (&pipeline.bootstrap, &pipeline.source, &pipeline.sink);
    pipeline.work.file(
        "tables.sql",
        &format!(
            "CREATE EXTERNAL TABLE numbers (v BIGINT, s VARCHAR, d DOUBLE, t TIMESTAMP, p INT METADATA FROM 'partition', \
               WATERMARK FOR t AS t - INTERVAL '5 seconds') STORED AS KAFKA LOCATION '{source}' \
               OPTIONS ('kafka.bootstrap.servers' '{bootstrap}', 'watermark.idle_after' '1 day');\n\
             CREATE EXTERNAL TABLE out (v BIGINT, d DOUBLE) STORED AS KAFKA LOCATION '{sink}' \
               OPTIONS ('kafka.bootstrap.servers' '{bootstrap}', 'topic.partitions' '1');\n\
             CREATE EXTERNAL TABLE kept (v BIGINT NOT NULL, d DOUBLE) STORED AS DELTA LOCATION 'kept';\n"
        ),
    );
    let job = |job: &str, query: &str| {
        format!(
            "CREATE JOB {job} WITH ('trigger' '10 milliseconds' {on_error}) AS INSERT INTO {query};\n"
        )
    };
    for (file, text) in [
        (
            "job.sql",
            job("dividing", "out SELECT 1000 / v, d FROM numbers"),
        ),
        (
            "keep.sql",
            job("keeping", "kept SELECT 1000 / v, d FROM numbers"),
        ),
        (
            "windows.sql",
            job(
                "counting",
                "out SELECT sum(1000 / v), max(CAST(s AS DOUBLE)) FROM TUMBLE(TABLE numbers, DESCRIPTOR(t), INTERVAL '10 seconds') \
                 GROUP BY window_start EMIT CHANGES",
            ),
        ),
    ] {
        pipeline.work.file(file, &text);
    }
    pipeline
}

impl Pipeline {
    /// Sends these values to partition 0, or 1 for every third of them.
    fn send_values(&self, values: &[i64]) {
        let rows: Vec<String> = values
            .iter()
            .enumerate()
            .map(|(n, v)| {
                let p = i64::from(n % 3 == 2);
                format!("({v}, '{v}', 1.5, TIMESTAMP '2025-01-01T00:00:00', {p})")
            })
            .collect();
        let insert = format!(
            "INSERT INTO numbers (v, s, d, t, p) VALUES {}",
            rows.join(", ")
        );
        self.work.sql(&["tables.sql"], &[&insert]).ok();
    }

    /// Partition, offset and reason of the dead letters, and the value of each record.
    fn dead(&self) -> Vec<(i64, i64, String, String)> {
        let query = "SELECT partition, \"offset\", reason, CAST(value AS VARCHAR) AS value FROM system.dead_letters \
                     ORDER BY partition, \"offset\"";
        let of_row = |row: serde_json::Value| {
            let text = |name: &str| row[name].as_str().unwrap().to_owned();
            let number = |name: &str| row[name].as_i64().unwrap();
            (
                number("partition"),
                number("offset"),
                text("reason"),
                text("value"),
            )
        };
        self.rows(query).into_iter().map(of_row).collect()
    }
}

const VALUES: [i64; 12] = [1, 2, 4, 5, 0, 8, 10, 20, 25, 0, 40, 0];

#[test]
fn a_job_names_the_record_that_fails() {
    let pipeline = dividing("divide-fail", "");
    pipeline.send_values(&VALUES);
    // Values 4, 8, 25, 0 are on partition 1; the third 0 is its fourth record. Either may be met first.
    let places = [
        format!("{}/0@3", pipeline.source),
        format!("{}/1@3", pipeline.source),
    ];
    for (file, job) in [
        ("job.sql", "dividing"),
        ("keep.sql", "keeping"),
        ("windows.sql", "counting"),
    ] {
        let ran = pipeline.catch_up(file);
        assert_eq!(ran.code, Some(1), "{ran:?}");
        let query = format!("SELECT state, reason FROM system.jobs WHERE job = '{job}'");
        let row = &pipeline.rows(&query)[0];
        assert_eq!(row["state"], "FAILED");
        let reason = row["reason"].as_str().unwrap();
        assert!(
            places
                .iter()
                .any(|place| reason.contains(&format!("record {place}: "))),
            "{reason}"
        );
        assert!(reason.to_lowercase().contains("divide by zero"), "{reason}");
        assert!(
            reason.contains("'on_expression_error' 'dead_letter'"),
            "{reason}"
        );
    }
    assert_eq!(pipeline.printed(), "", "nothing was published");
    assert!(pipeline.dead().is_empty());
}

#[test]
fn records_that_fail_are_dead_letters_and_the_rest_is_written() {
    let pipeline = dividing("divide-dead", ", 'on_expression_error' 'dead_letter'");
    pipeline.send_values(&VALUES);
    let zeros: Vec<(i64, i64)> = vec![(0, 3), (0, 6), (1, 3)];
    for (file, job) in [
        ("job.sql", "dividing"),
        ("keep.sql", "keeping"),
        ("windows.sql", "counting"),
    ] {
        pipeline.catch_up(file).ok();
        let dead: Vec<(i64, i64)> = pipeline
            .dead()
            .into_iter()
            .map(|(partition, offset, reason, value)| {
                assert!(reason.to_lowercase().contains("divide by zero"), "{reason}");
                assert!(value.contains("\"v\":0"), "{value}");
                (partition, offset)
            })
            .collect();
        assert_eq!(dead, zeros, "{job}");
        let rewind = format!("REWIND JOB {job} TO BATCH 0");
        // A replay finds the same ones.
        pipeline.work.sql(&["tables.sql", file], &[&rewind]).ok();
        pipeline.catch_up(file).ok();
        let again: Vec<(i64, i64)> = pipeline
            .dead()
            .iter()
            .map(|dead| (dead.0, dead.1))
            .collect();
        assert_eq!(again, zeros, "{job}");
        pipeline
            .work
            .sql(&[], &[&format!("DROP JOB {job} CASCADE")])
            .ok();
    }
    let kept = pipeline.rows("SELECT v FROM kept ORDER BY v");
    let kept: Vec<i64> = kept.iter().map(|row| row["v"].as_i64().unwrap()).collect();
    assert_eq!(kept, [25, 40, 50, 100, 125, 200, 250, 500, 1000]);
    let counted = pipeline.printed();
    // 1000 divided by each of the others.
    assert!(
        counted.trim_end().ends_with("{\"v\":2290,\"d\":40.0}"),
        "{counted}"
    );
}

#[test]
fn conditions_of_a_job_guard() {
    let pipeline = dividing("divide-guarded", "");
    pipeline.work.file(
        "windows.sql",
        "CREATE JOB counting WITH ('trigger' '10 milliseconds') AS INSERT INTO out \
         SELECT CASE WHEN bool_and(1000 / v > 100) FILTER (WHERE v <> 0) THEN 1 ELSE 0 END, \
           CAST(count(*) AS DOUBLE) \
         FROM TUMBLE(TABLE numbers, DESCRIPTOR(t), INTERVAL '10 seconds') GROUP BY window_start EMIT CHANGES;\n",
    );
    pipeline.work.file(
        "job.sql",
        "CREATE JOB dividing AS INSERT INTO out SELECT 1000 / v, d FROM numbers WHERE v <> 0 AND 1000 / v > 200;\n",
    );
    pipeline.send_values(&[1, 0, 2, 4, 5]);
    pipeline.catch_up("windows.sql").ok();
    let counted = pipeline.printed();
    let last = counted.trim_end();
    assert!(last.ends_with("{\"v\":1,\"d\":5.0}"), "{counted}");
    pipeline.catch_up("job.sql").ok();
    let printed = pipeline.printed();
    assert_eq!(printed.matches("\"d\":1.5}").count(), 3, "{printed}");
}

#[test]
fn rows_that_do_not_fit_the_sink_are_dead_letters() {
    let pipeline = dividing("divide-sink", ", 'on_expression_error' 'dead_letter'");
    pipeline.work.file(
        "job.sql",
        "CREATE JOB dividing WITH ('on_expression_error' 'dead_letter') AS \
         INSERT INTO out SELECT v, CASE WHEN v = 5 THEN CAST('NaN' AS DOUBLE) ELSE d END FROM numbers;\n",
    );
    pipeline.work.file(
        "keep.sql",
        "CREATE JOB keeping WITH ('on_expression_error' 'dead_letter') AS \
         INSERT INTO kept SELECT nullif(v, 8), d FROM numbers;\n",
    );
    pipeline.send_values(&[1, 2, 4, 5, 7, 8]);
    pipeline.catch_up("job.sql").ok();
    let dead = pipeline.dead();
    assert!(
        dead.len() == 1 && (dead[0].0, dead[0].1) == (0, 2),
        "{dead:?}"
    );
    assert!(dead[0].2.contains("NaN"), "{dead:?}");
    assert_eq!(pipeline.printed().lines().count(), 5);
    pipeline.catch_up("keep.sql").ok();
    let dead = pipeline.dead();
    assert!(
        dead.len() == 2 && (dead[1].0, dead[1].1) == (1, 1),
        "{dead:?}"
    );
    assert_eq!(pipeline.rows("SELECT * FROM kept").len(), 5);
}

#[test]
fn exact_1_dead_letters_are_kept_once_after_a_crash_at_any_step() {
    let pipeline = dividing(
        "divide-crash",
        ", 'batch.max_rows' 4, 'on_expression_error' 'dead_letter'",
    );
    let mut sent = 0;
    for fail_point in crash::FAIL_POINTS {
        pipeline.send_values(&[1, 0, 2, 4, 0, 5]);
        sent += 1;
        pipeline.crash("windows.sql", fail_point);
    }
    pipeline.catch_up("windows.sql").ok();
    assert_eq!(pipeline.dead().len(), 2 * sent);
    let sum = 1950 * sent;
    let counted = pipeline.printed();
    assert!(
        counted
            .trim_end()
            .ends_with(&format!("{{\"v\":{sum},\"d\":5.0}}")),
        "{counted}"
    );
}

#[test]
fn failures_that_cannot_be_set_aside_fail_the_job() {
    let pipeline = dividing("divide-refused", "");
    pipeline.work.append(
        "tables.sql",
        "CREATE EXTERNAL TABLE files (v BIGINT) STORED AS DELTA LOCATION 'files' OPTIONS ('scan.mode' 'stream');\n",
    );
    let job = |option: &str, query: &str| {
        format!("CREATE JOB j WITH ('on_expression_error' '{option}') AS INSERT INTO out {query}")
    };
    for (sql, expected) in [
        (
            job("skip", "SELECT v, d FROM numbers"),
            "'on_expression_error' does not accept 'skip'",
        ),
        (
            job("dead_letter", "SELECT v, 1.5 FROM files"),
            "files is a Delta table",
        ),
    ] {
        let ran = pipeline.work.sql(&["tables.sql"], &[&sql]);
        assert_eq!(ran.code, Some(1), "{ran:?}");
        assert!(ran.err.contains(expected), "{}", ran.err);
    }
    let explain = format!("EXPLAIN {}", job("dead_letter", "SELECT v, d FROM numbers"));
    let shown = pipeline.work.sql(&["tables.sql"], &[&explain]).ok().out;
    assert!(
        shown.contains("dead_letter: the record goes to system.dead_letters"),
        "{shown}"
    );
    // The expression fails for every record: so many failures stop the job, and no record is set aside.
    pipeline.work.file(
        "job.sql",
        "CREATE JOB dividing WITH ('on_expression_error' 'dead_letter') AS INSERT INTO out SELECT 1 / (v - v), d FROM numbers;\n",
    );
    pipeline.send_values(&(0..120).collect::<Vec<_>>());
    let ran = pipeline.catch_up("job.sql");
    assert_eq!(ran.code, Some(1), "{ran:?}");
    assert!(ran.err.contains("too many records fail"), "{}", ran.err);
    assert!(pipeline.dead().is_empty());
}

/// Records whose rows are too large, for a function, for the client, or name a partition that is not there: the job names the first of
/// them, or sets them aside.
#[test]
fn too_large_or_unplaceable_records_are_dead_letters() {
    for (query, bad, expected) in [
        (
            "sized SELECT length(repeat('x', v)) FROM numbers",
            100_000_000_000,
            "repeat would make 100000000000 bytes of 1 rows",
        ),
        (
            "texts SELECT repeat('x', v) FROM numbers",
            5_000,
            "a record is too large for topic",
        ),
        (
            "placed (v, p) SELECT v, v - 1 FROM numbers",
            8,
            "has no partition 7",
        ),
    ] {
        for sets_aside in [false, true] {
            let on_error = if sets_aside { "dead_letter" } else { "fail" };
            let pipeline = dividing("large", "");
            let (bootstrap, sink) = (&pipeline.bootstrap, &pipeline.sink);
            let table = |name: &str, columns: &str| {
                format!(
                    "CREATE EXTERNAL TABLE {name} ({columns}) STORED AS KAFKA LOCATION '{sink}' OPTIONS \
                     ('kafka.bootstrap.servers' '{bootstrap}', 'topic.partitions' '1', 'kafka.message.max.bytes' '2000');\n"
                )
            };
            for (name, columns) in [
                ("sized", "v BIGINT"),
                ("texts", "t VARCHAR"),
                ("placed", "v BIGINT, p BIGINT METADATA FROM 'partition'"),
            ] {
                pipeline.work.append("tables.sql", &table(name, columns));
            }
            pipeline.work.file(
                "job.sql",
                &format!(
                    "CREATE JOB dividing WITH ('on_expression_error' '{on_error}') AS INSERT INTO {query};\n"
                ),
            );
            // The second of partition 1.
            pipeline.send_values(&[1, 1, 1, 1, 1, bad, 1]);
            let place = format!("record {}/1@1: ", pipeline.source);
            if sets_aside {
                pipeline.catch_up("job.sql").ok();
                let dead = pipeline.dead();
                assert_eq!(dead.len(), 1, "{query}: {dead:?}");
                assert_eq!((dead[0].0, dead[0].1), (1, 1), "{query}: {dead:?}");
                assert!(dead[0].2.contains(expected), "{query}: {dead:?}");
                assert_eq!(pipeline.printed().lines().count(), 6, "{query}");
            } else {
                let reason = pipeline.reason("job.sql");
                assert!(reason.contains(&place), "{query}: {reason}");
                assert!(reason.contains(expected), "{query}: {reason}");
                assert_eq!(pipeline.printed(), "", "{query}");
            }
        }
    }
}

/// Values that are too large only together: no record is to blame, and fewer records at a time make less.
#[test]
fn values_too_large_in_total_are_built_from_fewer_records() {
    let mut pipeline = dividing("together", "");
    pipeline
        .variables
        .push(("ANABRANCH_MEMORY_LIMIT", "64MiB".to_owned()));
    // A call of a function may make 16 MiB; all of these make 50 MB.
    pipeline.work.file(
        "job.sql",
        "CREATE JOB dividing WITH ('on_expression_error' 'dead_letter') AS \
         INSERT INTO out SELECT length(repeat('x', v)), d FROM numbers;\n",
    );
    pipeline.send_values(&[500_000; 100]);
    pipeline.catch_up("job.sql").ok();
    assert_eq!(pipeline.printed().lines().count(), 100);
    assert!(pipeline.dead().is_empty());
}

/// An expression that fails above an aggregate fails for a group.
#[test]
fn a_job_names_the_group_that_fails() {
    let pipeline = dividing("divide-group", "");
    pipeline.work.file(
        "windows.sql",
        "CREATE JOB counting WITH ('trigger' '10 milliseconds', 'on_expression_error' 'dead_letter') AS INSERT INTO out \
         SELECT 1000 / sum(v), max(d) FROM TUMBLE(TABLE numbers, DESCRIPTOR(t), INTERVAL '10 seconds') \
         GROUP BY window_start, s EMIT CHANGES;\n",
    );
    pipeline.send_values(&[1, 2, 0, 4, 5, 7, 8]);
    let reason = pipeline.reason("windows.sql");
    assert!(
        reason.contains("group (window_start = 2025-01-01T00:00:00"),
        "{reason}"
    );
    assert!(reason.contains("s = 0): "), "{reason}");
    assert!(reason.to_lowercase().contains("divide by zero"), "{reason}");
    assert!(pipeline.dead().is_empty());
    assert_eq!(pipeline.printed(), "");
}
