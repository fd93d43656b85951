//! Jobs with windows whose processes die: state, time and rows are as if nothing had happened.

use std::collections::BTreeMap;
use std::time::Duration;

use super::Pipeline;

/// Counts per key and ten seconds, each window once; three records a batch.
fn counting(name: &str) -> Pipeline {
    let pipeline = Pipeline::between_topics(name, 1);
    let (bootstrap, source, sink) = (&pipeline.bootstrap, &pipeline.source, &pipeline.sink);
    pipeline.work.file(
        "tables.sql",
        &format!(
            "CREATE EXTERNAL TABLE ticks (k BIGINT, t TIMESTAMP, WATERMARK FOR t AS t - INTERVAL '5 seconds') \
             STORED AS KAFKA LOCATION '{source}' OPTIONS ('kafka.bootstrap.servers' '{bootstrap}');\n\
             CREATE EXTERNAL TABLE counts (k BIGINT, s TIMESTAMP, v BIGINT) STORED AS KAFKA LOCATION '{sink}' \
             OPTIONS ('kafka.bootstrap.servers' '{bootstrap}', 'topic.partitions' '1');\n\
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

/// Second `n`, of key `n % 2`.
fn ticks(seconds: std::ops::Range<u32>) -> String {
    seconds
        .map(|n| {
            let (minute, second) = (n / 60, n % 60);
            format!(
                "{{\"k\":{},\"t\":\"2025-01-01T00:{minute:02}:{second:02}Z\"}}\n",
                n % 2
            )
        })
        .collect()
}

impl Pipeline {
    fn tick(&self, seconds: std::ops::Range<u32>) {
        crate::support::kafka_tool(
            &[
                "kafka-console-producer",
                "--bootstrap-server",
                &self.bootstrap,
                "--topic",
                &self.source,
            ],
            &ticks(seconds),
        );
    }

    /// The rows of the sink: how often each window of a key came, and its count.
    fn counted(&self, table: &str) -> BTreeMap<(i64, String), Vec<i64>> {
        let rows = self
            .work
            .sql(
                &["tables.sql"],
                &[&format!(
                    "SELECT k, CAST(s AS VARCHAR) AS s, v FROM {table}"
                )],
            )
            .ok();
        let mut counted: BTreeMap<_, Vec<i64>> = BTreeMap::new();
        for line in rows.out.lines() {
            let row: serde_json::Value = serde_json::from_str(line).unwrap();
            let window = (
                row["k"].as_i64().unwrap(),
                row["s"].as_str().unwrap().to_owned(),
            );
            let counts = counted.entry(window).or_default();
            counts.push(row["v"].as_i64().unwrap());
        }
        counted
    }
}

/// Every window of `seconds` that a watermark five seconds behind has passed: once, with five rows of each key.
fn expected(seconds: u32) -> BTreeMap<(i64, String), Vec<i64>> {
    let closed = (seconds - 1 - 5) / 10;
    (0..closed)
        .flat_map(|window| {
            let start = window * 10;
            let start = format!("2025-01-01T00:{:02}:{:02}Z", start / 60, start % 60);
            (0..2).map(move |key| ((key, start.clone()), vec![5]))
        })
        .collect()
}

#[test]
fn exact_1_windows_are_counted_once_whichever_step_a_process_dies_at() {
    let pipeline = counting("windows-crash");
    let mut sent = 0;
    for fail_point in super::crash::FAIL_POINTS {
        for time in 1..=2 {
            pipeline.tick(sent..sent + 11);
            sent += 11;
            let fail_point = match fail_point {
                "taken-over" => fail_point.to_owned(),
                _ => format!("{fail_point}:{time}"),
            };
            pipeline.crash("job.sql", &fail_point);
        }
    }
    pipeline.catch_up("job.sql").ok();
    pipeline.catch_up("job.sql").ok();
    assert_eq!(pipeline.counted("counts"), expected(sent));
}

#[test]
fn exact_2_windows_in_a_delta_table_after_crashes_and_a_rewind() {
    let pipeline = counting("windows-delta");
    let mut sent = 0;
    for fail_point in super::crash::FAIL_POINTS {
        pipeline.tick(sent..sent + 13);
        sent += 13;
        pipeline.crash("keep.sql", fail_point);
    }
    pipeline.catch_up("keep.sql").ok();
    assert_eq!(pipeline.counted("kept"), expected(sent));
    // EXACT-3: the state of an earlier batch counts the same windows again, and none twice.
    for batch in ["9", "4", "0"] {
        let rewind = format!("REWIND JOB to_delta TO BATCH {batch}");
        pipeline
            .work
            .sql(&["tables.sql", "keep.sql"], &[&rewind])
            .ok();
        pipeline.tick(sent..sent + 5);
        sent += 5;
        pipeline.catch_up("keep.sql").ok();
        assert_eq!(pipeline.counted("kept"), expected(sent), "{batch}");
    }
}

#[test]
fn exact_1_windows_while_two_runners_fight_and_are_killed() {
    let pipeline = counting("windows-fight");
    let mut sent = 0;
    for milliseconds in [250, 400, 600] {
        pipeline.tick(sent..sent + 30);
        sent += 30;
        let mut runners = [pipeline.start("job.sql"), pipeline.start("job.sql")];
        std::thread::sleep(Duration::from_millis(milliseconds));
        for runner in &mut runners {
            runner.kill().unwrap();
            runner.wait().unwrap();
        }
    }
    pipeline.catch_up("job.sql").ok();
    assert_eq!(pipeline.counted("counts"), expected(sent));
}
