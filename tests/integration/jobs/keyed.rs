//! Jobs with an aggregate by key and no window: their keys outlive processes and rewinds, and are forgotten in time.

use std::collections::BTreeMap;
use std::time::Duration;

use super::Pipeline;

/// Counts per rest by three of the numbers sent; three records a batch.
fn counting(name: &str) -> Pipeline {
    let pipeline = Pipeline::between_topics(name, 1);
    let (bootstrap, source, sink) = (&pipeline.bootstrap, &pipeline.source, &pipeline.sink);
    pipeline.work.file(
        "tables.sql",
        &format!(
            "CREATE EXTERNAL TABLE numbers (v BIGINT) STORED AS KAFKA LOCATION '{source}' \
             OPTIONS ('kafka.bootstrap.servers' '{bootstrap}');\n\
             CREATE EXTERNAL TABLE counts (k BIGINT, n BIGINT, vs BIGINT[]) STORED AS KAFKA LOCATION '{sink}' \
             OPTIONS ('kafka.bootstrap.servers' '{bootstrap}', 'topic.partitions' '1');\n\
             CREATE EXTERNAL TABLE kept (k BIGINT, n BIGINT, vs BIGINT[]) STORED AS DELTA LOCATION 'kept';\n\
             CREATE EXTERNAL TABLE many (k BIGINT, n BIGINT, PRIMARY KEY (k) NOT ENFORCED) STORED AS KAFKA LOCATION '{sink}' \
             OPTIONS ('kafka.bootstrap.servers' '{bootstrap}', 'topic.partitions' '1');\n"
        ),
    );
    for (file, job, table) in [
        ("job.sql", "to_topic", "counts"),
        ("keep.sql", "to_delta", "kept"),
    ] {
        pipeline.work.file(
            file,
            &format!(
                "CREATE JOB {job} WITH ('trigger' '10 milliseconds', 'batch.max_rows' '3', 'state.ttl' 'none') AS \
                 INSERT INTO {table} SELECT v % 3, count(*), array_agg(v ORDER BY v % 2) FROM numbers GROUP BY v % 3 EMIT CHANGES;\n"
            ),
        );
    }
    pipeline
}

impl Pipeline {
    /// The output of a job for each key, by count: the values in order.
    fn said(&self, table: &str) -> BTreeMap<(u64, u64), Vec<u64>> {
        let sql = format!("SELECT k, n, vs FROM {table}");
        let rows = self.work.sql(&["tables.sql"], &[&sql]).ok();
        let mut said = BTreeMap::new();
        for line in rows.out.lines() {
            let row: serde_json::Value = serde_json::from_str(line).unwrap();
            let number = |name: &str| row[name].as_u64().unwrap();
            let values = row["vs"].as_array().unwrap();
            let values = values.iter().map(|value| value.as_u64().unwrap()).collect();
            let before = said.insert((number("k"), number("n")), values);
            assert_eq!(before, None, "said twice: {line}");
        }
        said
    }

    /// Every key was counted up to its number of records sent: nothing twice, nothing left out.
    fn check_said(&self, table: &str, sent: u64) {
        let said = self.said(table);
        for key in 0..3 {
            let of_key: Vec<_> = said.iter().filter(|((of, _), _)| *of == key).collect();
            for ((_, count), values) in &of_key {
                // The first so many of the key: even ones first, ties in the order of offsets.
                let mut expected: Vec<u64> = (0..*count).map(|place| place * 3 + key).collect();
                expected.sort_by_key(|value| value % 2);
                assert_eq!(**values, expected);
            }
            let (last, _) = of_key.last().unwrap();
            assert_eq!(last.1, (sent - key).div_ceil(3));
        }
    }
}

#[test]
fn exact_1_keys_are_counted_once_after_a_crash_at_any_step() {
    let pipeline = counting("keyed-crash");
    let mut sent = 0;
    pipeline.crash_at_each_step("job.sql", 2, || {
        pipeline.send(sent..sent + 7);
        sent += 7;
    });
    pipeline.check_said("counts", sent);
}

#[test]
fn exact_3_keys_in_a_delta_table_after_crashes_and_a_rewind() {
    let pipeline = counting("keyed-delta");
    let mut sent = 0;
    pipeline.crash_at_each_step("keep.sql", 1, || {
        pipeline.send(sent..sent + 7);
        sent += 7;
    });
    pipeline.check_said("kept", sent);
    for batch in ["7", "3", "0"] {
        let rewind = format!("REWIND JOB to_delta TO BATCH {batch}");
        let files = ["tables.sql", "keep.sql"];
        pipeline.work.sql(&files, &[&rewind]).ok();
        pipeline.send(sent..sent + 4);
        sent += 4;
        pipeline.catch_up("keep.sql").ok();
        pipeline.check_said("kept", sent);
    }
    let state =
        "SELECT count(*) AS keys, min(touched) <= max(touched) AS timed FROM job_state('to_delta')";
    let shown = pipeline.work.sql(&[], &[state]).ok();
    assert_eq!(shown.out, "{\"keys\":3,\"timed\":true}\n");
}

#[test]
fn a_key_expires_when_no_batch_touches_it() {
    let pipeline = counting("keyed-ttl");
    let job = |ttl: &str| {
        format!(
            "CREATE OR REPLACE JOB to_topic WITH ('state.ttl' '{ttl}') AS \
             INSERT INTO counts SELECT v % 3, count(*), array_agg(v ORDER BY v) FROM numbers GROUP BY v % 3 EMIT CHANGES;\n"
        )
    };
    let keys = || {
        let sql = "SELECT \"count state\" AS n FROM job_state('to_topic')";
        pipeline.work.sql(&[], &[sql]).ok().out
    };
    pipeline.work.file("job.sql", &job("2 seconds"));
    pipeline.send(0..3);
    pipeline.catch_up("job.sql").ok();
    assert_eq!(keys().lines().count(), 3, "{}", keys());
    std::thread::sleep(Duration::from_millis(2_100));
    // Key 0 is counted from the beginning; the other keys are gone, and the job writes nothing about them.
    pipeline.send(3..4);
    pipeline.catch_up("job.sql").ok();
    assert_eq!(keys(), "{\"n\":1}\n");
    // Another `state.ttl` does not change which keys are held or forgotten.
    pipeline.work.file("job.sql", &job("none"));
    std::thread::sleep(Duration::from_millis(2_100));
    pipeline.send(6..8);
    pipeline.catch_up("job.sql").ok();
    assert_eq!(keys().lines().count(), 2, "{}", keys());
    let rows = pipeline
        .work
        .sql(&["tables.sql"], &["SELECT k, n, vs FROM counts"])
        .ok();
    let mut said: Vec<&str> = rows.out.lines().collect();
    said.sort_unstable();
    assert_eq!(
        said,
        [
            r#"{"k":0,"n":1,"vs":[0]}"#,
            r#"{"k":0,"n":1,"vs":[3]}"#,
            r#"{"k":0,"n":2,"vs":[3,6]}"#,
            r#"{"k":1,"n":1,"vs":[1]}"#,
            r#"{"k":1,"n":1,"vs":[7]}"#,
            r#"{"k":2,"n":1,"vs":[2]}"#,
        ]
    );
}

#[test]
fn a_key_that_no_longer_passes_having_is_withdrawn() {
    let pipeline = counting("keyed-having");
    pipeline.work.file(
        "job.sql",
        "CREATE JOB few WITH ('state.ttl' '1 day') AS \
         INSERT INTO many SELECT v, count(*) FROM numbers GROUP BY v HAVING count(*) < 3 EMIT CHANGES;\n",
    );
    for numbers in [[1, 2], [1, 3], [1, 2]] {
        for number in numbers {
            pipeline.send(number..number + 1);
        }
        pipeline.catch_up("job.sql").ok();
    }
    let printed = pipeline.printed();
    let mut lines: Vec<&str> = printed.lines().collect();
    // Batches are in order, the keys of a batch in any.
    for batch in lines.chunks_mut(2) {
        batch.sort_unstable();
    }
    let row = |key: u32, count: u32| format!("{key}\t{{\"k\":{key},\"n\":{count}}}");
    let gone = "1\tnull".to_owned();
    assert_eq!(
        lines,
        [row(1, 1), row(2, 1), row(1, 2), row(3, 1), gone, row(2, 2)]
    );
}

#[test]
fn a_global_group_is_one_key_and_is_emitted_when_touched() {
    let pipeline = counting("keyed-global");
    pipeline.work.file(
        "job.sql",
        "CREATE JOB all_rows WITH ('state.ttl' 'none') AS \
         INSERT INTO many SELECT 1, count(*) FROM numbers WHERE v > 4 EMIT CHANGES;\n",
    );
    // No row passes: there is nothing to say.
    for numbers in [0..3, 3..8, 0..4, 6..7] {
        pipeline.send(numbers);
        pipeline.catch_up("job.sql").ok();
    }
    assert_eq!(
        pipeline.printed().lines().collect::<Vec<_>>(),
        ["1\t{\"k\":1,\"n\":3}", "1\t{\"k\":1,\"n\":4}"]
    );
}

#[test]
fn an_aggregate_without_a_window_requires_a_state_ttl() {
    let pipeline = counting("keyed-refused");
    let timed = format!(
        "CREATE EXTERNAL TABLE timed (v BIGINT, t TIMESTAMP, WATERMARK FOR t AS t) STORED AS KAFKA LOCATION '{}' \
         OPTIONS ('kafka.bootstrap.servers' '{}');\n",
        pipeline.source, pipeline.bootstrap
    );
    pipeline.work.file("timed.sql", &timed);
    let by_key = "SELECT v, count(*) FROM numbers GROUP BY v";
    let ttl = "WITH ('state.ttl' 'none')";
    for (options, query, expected) in [
        ("", format!("{by_key} EMIT CHANGES"), "'state.ttl' '7 days'"),
        (ttl, by_key.to_owned(), "use EMIT CHANGES"),
        (ttl, format!("{by_key} EMIT ON WINDOW CLOSE"), "nothing closes"),
        (
            "WITH ('state.ttl' 'soon')",
            format!("{by_key} EMIT CHANGES"),
            "does not accept 'soon'",
        ),
        (
            "WITH ('state.ttl' '0 seconds')",
            format!("{by_key} EMIT CHANGES"),
            "does not accept '0 seconds'",
        ),
        (
            ttl,
            "SELECT v, count(*) FROM numbers GROUP BY v HAVING is_final() EMIT CHANGES".to_owned(),
            "is_final() has no meaning without a window",
        ),
        (
            ttl,
            "SELECT v, count(*) FROM numbers GROUP BY ROLLUP (v) EMIT CHANGES".to_owned(),
            "ROLLUP",
        ),
        (
            ttl,
            "SELECT v, first_value(v) FROM numbers GROUP BY v EMIT CHANGES".to_owned(),
            "first_value() without ORDER BY",
        ),
        (
            ttl,
            "SELECT v, count(*) FROM TUMBLE(TABLE timed, DESCRIPTOR(t), INTERVAL '1 minute') GROUP BY v, window_start"
                .to_owned(),
            "'state.ttl' applies to the keys",
        ),
        (ttl, "SELECT v, 1 FROM numbers".to_owned(), "the job has none"),
    ] {
        let job = format!("CREATE JOB refused {options} AS INSERT INTO many {query}");
        let ran = pipeline
            .work
            .sql(&["tables.sql", "timed.sql"], &[&job]);
        assert_eq!(ran.code, Some(1), "{job}: {ran:?}");
        assert!(ran.err.contains(expected), "{job}: {}", ran.err);
    }
    let explain = format!(
        "EXPLAIN CREATE JOB j WITH ('state.ttl' '2 hours') AS INSERT INTO many {by_key} HAVING count(*) > 1 EMIT CHANGES"
    );
    let shown = pipeline.work.sql(&["tables.sql"], &[&explain]).ok().out;
    for part in [
        "GROUP BY without a window: keys=[numbers.v]",
        "v Int64, touched Timestamp",
        "CHANGES: a row per group that a batch touched",
        "no batch has touched for 7200 seconds is forgotten",
    ] {
        assert!(shown.contains(part), "{part}: {shown}");
    }
    assert!(!shown.contains("warning"), "{shown}");
    // Without a key to withdraw by, HAVING is warned of; another aggregate is another state.
    let warned = "CREATE JOB j WITH ('state.ttl' 'none') AS INSERT INTO kept \
                  SELECT v, count(*), array_agg(v ORDER BY v) FROM numbers GROUP BY v HAVING count(*) < 9 EMIT CHANGES;\n";
    pipeline.work.file("warned.sql", warned);
    pipeline.send(0..3);
    let ran = pipeline.catch_up("warned.sql").ok();
    assert!(ran.err.contains("no PRIMARY KEY"), "{}", ran.err);
    let changed = warned
        .replace("CREATE JOB", "CREATE OR REPLACE JOB")
        .replace("count(*),", "sum(v),");
    let refused = pipeline.work.sql(&["tables.sql"], &[&changed]);
    assert_eq!(refused.code, Some(1));
    assert!(
        refused.err.contains("'on_change' 'reset'"),
        "{}",
        refused.err
    );
}
