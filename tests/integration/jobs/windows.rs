//! Jobs with windows whose processes die: state, time and rows are as if nothing had happened.

use std::collections::BTreeMap;
use std::time::Duration;

use super::Pipeline;
use crate::support::create_topic;

/// Counts per key and ten seconds, each window once; three records a batch.
pub(super) fn counting(name: &str) -> Pipeline {
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
    pub(super) fn tick(&self, seconds: std::ops::Range<u32>) {
        self.produce(&ticks(seconds));
    }

    /// The rows of the sink: how often each window of a key came, and its count.
    pub(super) fn counted(&self, table: &str) -> BTreeMap<(i64, String), Vec<i64>> {
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
pub(super) fn expected(seconds: u32) -> BTreeMap<(i64, String), Vec<i64>> {
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
fn exact_1_windows_are_counted_once_after_a_crash_at_any_step() {
    let pipeline = counting("windows-crash");
    let mut sent = 0;
    pipeline.crash_at_each_step("job.sql", 2, || {
        pipeline.tick(sent..sent + 11);
        sent += 11;
    });
    assert_eq!(pipeline.counted("counts"), expected(sent));
}

#[test]
fn exact_2_windows_in_a_delta_table_after_crashes_and_a_rewind() {
    let pipeline = counting("windows-delta");
    let mut sent = 0;
    pipeline.crash_at_each_step("keep.sql", 1, || {
        pipeline.tick(sent..sent + 13);
        sent += 13;
    });
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

#[test]
fn unsupported_parts_of_a_windowed_job_are_refused_by_name() {
    let pipeline = counting("windows-refused");
    let bootstrap = &pipeline.bootstrap;
    pipeline.work.file(
        "more.sql",
        &format!(
            "CREATE EXTERNAL TABLE timeless (k BIGINT, t TIMESTAMP) STORED AS KAFKA LOCATION '{}' \
             OPTIONS ('kafka.bootstrap.servers' '{bootstrap}');\n",
            pipeline.source
        ),
    );
    let tumble = |table: &str, time: &str| {
        format!("FROM TUMBLE(TABLE {table}, DESCRIPTOR({time}), INTERVAL '10 seconds')")
    };
    for (query, expected) in [
        (
            format!("SELECT k, max(t), count(*) {} GROUP BY k", tumble("ticks", "t")),
            "groups by window_start",
        ),
        (
            format!("SELECT k, window_start, count(*) {} GROUP BY k, window_start", tumble("timeless", "t")),
            "timeless declares no watermark",
        ),
        (
            format!(
                "SELECT k, window_start, count(*) {} GROUP BY k, window_start",
                tumble("(SELECT k, t + INTERVAL '1 hour' AS u FROM ticks)", "u")
            ),
            "its watermark is not known",
        ),
        (
            format!(
                "SELECT k, window_start, cardinality(array_agg(k)) {} GROUP BY k, window_start",
                tumble("ticks", "t")
            ),
            "array_agg() without ORDER BY",
        ),
        (
            "SELECT max(k), window_start, count(*) FROM SESSION(TABLE ticks PARTITION BY k, DESCRIPTOR(t), INTERVAL '5 seconds') \
             GROUP BY t, window_start"
                .to_owned(),
            "groups by all keys of the session and window_start",
        ),
        (
            "SELECT k, window_start, count(*) FROM SESSION(TABLE ticks PARTITION BY k, DESCRIPTOR(t), INTERVAL '5 seconds') \
             GROUP BY k, window_start, date_trunc('hour', window_start)"
                .to_owned(),
            "besides by what the window does not tell",
        ),
        (
            "SELECT k, window_start, 1 FROM SESSION(TABLE ticks PARTITION BY k, DESCRIPTOR(t), INTERVAL '5 seconds')"
                .to_owned(),
            "SESSION without an aggregate",
        ),
        (
            format!(
                "SELECT max(k), window_start, count(*) FROM (SELECT k, window_start, count(*) {} GROUP BY k, window_start) \
                 GROUP BY window_start",
                tumble("ticks", "t")
            ),
            "a second aggregate",
        ),
    ] {
        let job = format!("CREATE JOB refused AS INSERT INTO counts {query}");
        let ran = pipeline.work.sql(&["tables.sql", "more.sql"], &[&job]);
        assert_eq!(ran.code, Some(1), "{job}: {ran:?}");
        assert!(ran.err.contains(expected), "{job}: {}", ran.err);
    }
    for (watermark, expected) in [
        ("t + INTERVAL '1 second'", "is not a valid watermark for t"),
        ("t - INTERVAL '1 month'", "is not a valid watermark for t"),
    ] {
        let table = format!(
            "CREATE EXTERNAL TABLE wrong (t TIMESTAMP, WATERMARK FOR t AS {watermark}) STORED AS KAFKA \
             LOCATION 'x' OPTIONS ('kafka.bootstrap.servers' '{bootstrap}')"
        );
        let ran = pipeline.work.sql(&[], &[&table]);
        assert_eq!(ran.code, Some(1), "{ran:?}");
        assert!(ran.err.contains(expected), "{}", ran.err);
    }
}

#[test]
fn a_query_with_changed_windows_is_refused_or_resets_state() {
    let pipeline = counting("windows-changed");
    let job = |options: &str, select: &str, size: u32| {
        format!(
            "CREATE OR REPLACE JOB to_topic WITH ('trigger' '10 milliseconds'{options}) AS INSERT INTO counts \
             SELECT k, window_start, {select} FROM TUMBLE(TABLE ticks, DESCRIPTOR(t), INTERVAL '{size} seconds') \
             GROUP BY k, window_start;\n"
        )
    };
    pipeline.work.file("job.sql", &job("", "count(*)", 10));
    pipeline.tick(0..14);
    pipeline.catch_up("job.sql").ok();
    // Expressions above the aggregate may change.
    pipeline.work.file("job.sql", &job("", "-count(*)", 10));
    pipeline.tick(14..16);
    pipeline.catch_up("job.sql").ok();
    let first = |key| ((key, "2025-01-01T00:00:00Z".to_owned()), vec![-5]);
    assert_eq!(pipeline.counted("counts"), [first(0), first(1)].into());
    // The state goes with the job: it is asked for, and shown.
    let state = pipeline
        .work
        .sql(&[], &["SELECT * FROM job_state('to_topic') ORDER BY k"])
        .ok();
    let open: Vec<&str> = state.out.lines().collect();
    assert_eq!(open.len(), 2, "{}", state.out);
    assert!(open[0].contains(" state\":3"), "{}", state.out);
    let dropped = pipeline.work.sql(&[], &["DROP JOB to_topic"]);
    assert_eq!(dropped.code, Some(1));
    assert!(
        dropped.err.contains("DROP JOB to_topic CASCADE"),
        "{}",
        dropped.err
    );
    // Another window is another state.
    pipeline.work.file("job.sql", &job("", "count(*)", 20));
    let refused = pipeline.catch_up("job.sql");
    assert_eq!(refused.code, Some(1));
    assert!(
        refused.err.contains("'on_change' 'reset'"),
        "{}",
        refused.err
    );
    pipeline
        .work
        .file("job.sql", &job(", 'on_change' 'reset'", "count(*)", 20));
    pipeline.tick(16..26);
    pipeline.catch_up("job.sql").ok();
    let mut expected: BTreeMap<_, Vec<i64>> = [first(0), first(1)].into();
    for counts in expected.values_mut() {
        // Of the longer window only rows that came after the reset are counted.
        counts.push(2);
    }
    assert_eq!(pipeline.counted("counts"), expected);
}

#[test]
fn a_session_that_grows_or_merges_withdraws_emitted_rows() {
    let pipeline = counting("windows-withdrawn");
    pipeline.work.file(
        "tables.sql",
        &format!(
            "CREATE EXTERNAL TABLE ticks (k BIGINT, t TIMESTAMP, WATERMARK FOR t AS t - INTERVAL '60 seconds') \
             STORED AS KAFKA LOCATION '{}' OPTIONS ('kafka.bootstrap.servers' '{}');\n\
             CREATE EXTERNAL TABLE sessions (s VARCHAR, n BIGINT, PRIMARY KEY (s) NOT ENFORCED) \
             STORED AS KAFKA LOCATION '{}' OPTIONS ('kafka.bootstrap.servers' '{}', 'topic.partitions' '1');\n",
            pipeline.source, pipeline.bootstrap, pipeline.sink, pipeline.bootstrap
        ),
    );
    pipeline.work.file(
        "job.sql",
        "CREATE JOB sessions AS INSERT INTO sessions SELECT to_char(window_start, '%M:%S'), count(*) \
         FROM SESSION(TABLE ticks PARTITION BY k, DESCRIPTOR(t), INTERVAL '5 seconds') \
         GROUP BY k, window_start HAVING count(*) < 4 EMIT CHANGES;\n",
    );
    let tick = |second: u32| {
        pipeline.produce(&format!(
            "{{\"k\":1,\"t\":\"2025-01-01T00:00:{second:02}Z\"}}\n"
        ));
        pipeline.catch_up("job.sql").ok();
    };
    // Two sessions; the first begins earlier; they merge; the whole has too many rows to be shown.
    for second in [10, 20, 6, 15, 21] {
        tick(second);
    }
    let printed = pipeline.printed();
    let session = |start: &str, rows: u32| format!("{start}\t{{\"s\":\"{start}\",\"n\":{rows}}}");
    let gone = |start: &str| format!("{start}\tnull");
    assert_eq!(
        printed.lines().collect::<Vec<_>>(),
        [
            session("00:10", 1),
            session("00:20", 1),
            gone("00:10"),
            session("00:06", 2),
            // The row at 00:15 joins both sessions; the session of four rows is not shown.
            gone("00:06"),
            gone("00:20"),
        ]
    );
}

#[test]
fn a_job_reads_what_another_writes_in_transactions() {
    let pipeline = counting("windows-chain");
    let (bootstrap, sink) = (&pipeline.bootstrap, &pipeline.sink);
    pipeline.work.file(
        "job.sql",
        &format!(
            "CREATE EXTERNAL TABLE again (k BIGINT, s TIMESTAMP, v BIGINT) STORED AS KAFKA LOCATION '{sink}-again' \
             OPTIONS ('kafka.bootstrap.servers' '{bootstrap}', 'topic.partitions' '1');\n\
             CREATE JOB first WITH ('trigger' '10 milliseconds', 'batch.max_rows' '2') AS \
             INSERT INTO counts SELECT k, t, 1 FROM ticks;\n\
             CREATE JOB second WITH ('trigger' '10 milliseconds', 'batch.max_rows' '3') AS \
             INSERT INTO again SELECT k, s, v FROM counts;\n"
        ),
    );
    pipeline.tick(0..20);
    // Two records and the mark of their transaction, over and over: a batch ends at any of them.
    for _ in 0..3 {
        pipeline.catch_up("job.sql").ok();
    }
    let files = ["tables.sql", "job.sql"];
    let count = pipeline
        .work
        .sql(
            &files,
            &["SELECT count(*) AS n, count(DISTINCT s) AS d FROM again"],
        )
        .ok();
    assert!(count.out.contains("{\"n\":20,\"d\":20}"), "{}", count.out);
}

#[test]
fn time_1_a_silent_partition_holds_the_job_until_it_is_idle() {
    let pipeline = counting("windows-idle");
    let source = format!("{}-two", pipeline.source);
    create_topic(&source, 2);
    let idle_after = |time: &str| {
        let tables = format!(
            "CREATE EXTERNAL TABLE ticks (k BIGINT, t TIMESTAMP, p INT METADATA FROM 'partition', \
               WATERMARK FOR t AS t - INTERVAL '5 seconds') STORED AS KAFKA LOCATION '{source}' \
             OPTIONS ('kafka.bootstrap.servers' '{0}', 'watermark.idle_after' '{time}');\n\
             CREATE EXTERNAL TABLE counts (k BIGINT, s TIMESTAMP, v BIGINT) STORED AS KAFKA LOCATION '{1}' \
             OPTIONS ('kafka.bootstrap.servers' '{0}', 'topic.partitions' '1');\n",
            pipeline.bootstrap, pipeline.sink
        );
        pipeline.work.file("tables.sql", &tables);
    };
    let job = std::fs::read_to_string(pipeline.work.path("job.sql")).unwrap();
    let job = job.replace("CREATE JOB", "CREATE OR REPLACE JOB");
    pipeline.work.file("job.sql", &job);
    // However long the first run takes, it does not take the partition for idle.
    idle_after("1 day");
    let send = |partition: u32, second: u32| {
        let insert = format!(
            "INSERT INTO ticks (k, t, p) SELECT 1, to_timestamp({second} + 1735689600), {partition}"
        );
        pipeline.work.sql(&["tables.sql"], &[&insert]).ok();
    };
    send(0, 3);
    send(0, 40);
    // Caught up at once: partition 1 has no rows yet, so no window closes.
    pipeline.catch_up("job.sql").ok();
    assert_eq!(pipeline.counted("counts"), BTreeMap::new());
    idle_after("1 second");
    let mut running = pipeline.start("job.sql");
    let first = || ((1, "2025-01-01T00:00:00Z".to_owned()), vec![1]);
    let deadline = std::time::Instant::now() + crate::support::PATIENCE;
    while pipeline.counted("counts").is_empty() && std::time::Instant::now() < deadline {
        std::thread::sleep(Duration::from_millis(300));
    }
    assert_eq!(pipeline.counted("counts"), [first()].into());
    // Partition 1 comes back with an older time: it is late, and says so; the window is not opened again.
    send(1, 4);
    send(1, 36);
    let late = || {
        let rows = pipeline
            .work
            .sql(&[], &["SELECT count(*) AS n FROM system.late_rows"])
            .ok();
        rows.out
    };
    while !late().contains("{\"n\":1}") && std::time::Instant::now() < deadline {
        std::thread::sleep(Duration::from_millis(300));
    }
    assert!(late().contains("{\"n\":1}"), "{}", late());
    running.kill().unwrap();
    running.wait().unwrap();
    assert_eq!(pipeline.counted("counts"), [first()].into());
}

#[test]
fn time_1_a_partition_with_an_open_transaction_is_not_idle() {
    use rdkafka::ClientConfig;
    use rdkafka::producer::{BaseProducer, BaseRecord, Producer};

    let pipeline = counting("windows-open");
    let source = format!("{}-three", pipeline.source);
    create_topic(&source, 3);
    pipeline.work.file(
        "tables.sql",
        &format!(
            "CREATE EXTERNAL TABLE ticks (k BIGINT, t TIMESTAMP, p INT METADATA FROM 'partition', \
               WATERMARK FOR t AS t - INTERVAL '5 seconds') STORED AS KAFKA LOCATION '{source}' \
             OPTIONS ('kafka.bootstrap.servers' '{0}', 'watermark.idle_after' '1 second');\n\
             CREATE EXTERNAL TABLE counts (k BIGINT, s TIMESTAMP, v BIGINT) STORED AS KAFKA LOCATION '{1}' \
             OPTIONS ('kafka.bootstrap.servers' '{0}', 'topic.partitions' '1');\n",
            pipeline.bootstrap, pipeline.sink
        ),
    );
    let send = |second: u32| {
        let insert =
            format!("INSERT INTO ticks (k, t, p) SELECT 1, to_timestamp({second} + 1735689600), 0");
        pipeline.work.sql(&["tables.sql"], &[&insert]).ok();
    };
    // Partition 1 has records that are not committed yet; partition 2 has none.
    let patience = Duration::from_secs(30);
    let producer: BaseProducer = ClientConfig::new()
        .set("bootstrap.servers", &pipeline.bootstrap)
        .set("transactional.id", &source)
        .set("transaction.timeout.ms", "600000")
        .create()
        .unwrap();
    producer.init_transactions(patience).unwrap();
    producer.begin_transaction().unwrap();
    for second in [4, 36] {
        let value = format!("{{\"k\":1,\"t\":\"2025-01-01T00:00:{second:02}Z\"}}");
        let record = BaseRecord::<(), str>::to(&source).partition(1);
        producer.send(record.payload(&value)).unwrap();
    }
    producer.flush(patience).unwrap();
    send(3);
    send(40);
    let mut running = pipeline.start("job.sql");
    let idle = || {
        let query = "SELECT partition, idle FROM system.partitions WHERE idle ORDER BY partition";
        pipeline.work.sql(&[], &[query]).out
    };
    let deadline = std::time::Instant::now() + Duration::from_secs(180);
    // A partition counts as idle in the batch of a record that comes after it has been silent.
    let mut second = 41;
    while !idle().contains("\"partition\":2") && std::time::Instant::now() < deadline {
        send(second);
        second += 1;
    }
    assert_eq!(idle(), "{\"partition\":2,\"idle\":true}\n");
    assert_eq!(pipeline.counted("counts"), BTreeMap::new());
    producer.commit_transaction(patience).unwrap();
    while pipeline.counted("counts").is_empty() && std::time::Instant::now() < deadline {
        std::thread::sleep(Duration::from_millis(300));
    }
    running.kill().unwrap();
    running.wait().unwrap();
    let first = ((1, "2025-01-01T00:00:00Z".to_owned()), vec![2]);
    assert_eq!(
        pipeline.counted("counts").first_key_value(),
        Some((&first.0, &first.1))
    );
    let late = pipeline
        .work
        .sql(&[], &["SELECT count(*) AS n FROM system.late_rows"])
        .ok();
    assert_eq!(late.out, "{\"n\":0}\n");
}

#[test]
fn time_5_rows_with_an_implausible_time_are_dead_letters() {
    let pipeline = counting("windows-dead");
    let lines = "{\"k\":1,\"t\":null}\n{\"k\":1,\"t\":\"2999-01-01T00:00:00Z\"}\n{\"k\":1,\"t\":\"2025-01-01T00:00:01Z\"}\n";
    pipeline.produce(&format!("{lines}{}", ticks(20..30)));
    pipeline.catch_up("job.sql").ok();
    let one = ((1, "2025-01-01T00:00:00Z".to_owned()), vec![1]);
    assert_eq!(pipeline.counted("counts"), [one].into());
    let dead = pipeline
        .work
        .sql(
            &[],
            &["SELECT \"table\", \"offset\", reason, CAST(value AS VARCHAR) AS value FROM system.dead_letters ORDER BY \"offset\""],
        )
        .ok()
        .rows();
    let told: Vec<&str> = dead
        .iter()
        .map(|row| row["reason"].as_str().unwrap())
        .collect();
    assert_eq!(
        told,
        [
            "the event time t is NULL",
            "the event time t is more than 86400 seconds past the record's timestamp",
        ]
    );
    assert_eq!(dead[0]["value"], "{\"k\":1,\"t\":null}");
    assert_eq!(dead[1]["table"], "ticks");
}

/// Files that an earlier release has left behind are read: state, batches, late rows.
#[test]
fn a_data_directory_of_the_first_format_is_read() {
    check_fixture("jobs-format-1", 1, "");
}

#[test]
fn a_data_directory_of_the_second_format_is_read() {
    check_fixture(
        "jobs-format-2",
        2,
        "{\"offset\":22,\"reason\":\"the value is no JSON\"}\n",
    );
}

/// Reads a data directory of a job whose last batch has read so many rows and has set these dead letters aside.
fn check_fixture(fixture: &str, rows_in: u64, dead_letters: &str) {
    let place = crate::support::repository().join(format!("tests/fixtures/{fixture}"));
    let work = crate::support::Workspace::new();
    let checked = work.anabranch(&["check", "--data-dir", &place.display().to_string()]);
    assert_eq!(checked.code, Some(0), "{checked:#?}");
    let rows = |sql: &str| {
        work.anabranch(&[
            "sql",
            "--format",
            "ndjson",
            "--data-dir",
            &place.display().to_string(),
            "-c",
            sql,
        ])
        .ok()
        .out
    };
    assert_eq!(
        rows(
            "SELECT k, window_start, \"count state\" AS n FROM job_state('counting') ORDER BY k, window_start"
        ),
        "{\"k\":0,\"window_start\":\"2025-01-01T00:00:10Z\",\"n\":5}\n\
         {\"k\":0,\"window_start\":\"2025-01-01T00:00:20Z\",\"n\":1}\n\
         {\"k\":1,\"window_start\":\"2025-01-01T00:00:10Z\",\"n\":5}\n"
    );
    assert_eq!(
        rows("SELECT k, \"count state\" AS n FROM job_state('counting', 2) ORDER BY k"),
        "{\"k\":0,\"n\":3}\n{\"k\":1,\"n\":3}\n"
    );
    assert_eq!(
        rows(
            "SELECT batch, rows_in, rows_out, late_rows, CAST(watermark AS VARCHAR) AS watermark FROM system.batches \
              WHERE batch > 6"
        ),
        format!(
            "{{\"batch\":7,\"rows_in\":3,\"rows_out\":0,\"late_rows\":0,\"watermark\":\"2025-01-01T00:00:15Z\"}}\n\
             {{\"batch\":8,\"rows_in\":{rows_in},\"rows_out\":0,\"late_rows\":1,\"watermark\":\"2025-01-01T00:00:15Z\"}}\n"
        )
    );
    assert_eq!(
        rows("SELECT \"offset\", CAST(value AS VARCHAR) AS value FROM system.late_rows"),
        "{\"offset\":21,\"value\":\"{\\\"k\\\":1,\\\"t\\\":\\\"2025-01-01T00:00:02Z\\\"}\"}\n"
    );
    assert_eq!(
        rows("SELECT \"offset\", reason FROM system.dead_letters"),
        dead_letters
    );
}

#[test]
fn a_job_continues_from_a_state_snapshot() {
    let pipeline = counting("windows-snapshot");
    // More batches than there are changes before the whole state is written.
    pipeline.tick(0..330);
    pipeline.catch_up("job.sql").ok();
    let folder = pipeline.work.path("anabranch-data/jobs");
    let versions = std::fs::read_dir(&folder)
        .unwrap()
        .map(|job| job.unwrap().path().join("versions"))
        .filter(|versions| versions.is_dir())
        .flat_map(|versions| std::fs::read_dir(versions).unwrap())
        .map(|version| std::fs::read_to_string(version.unwrap().path()).unwrap());
    let with_snapshot = versions.filter(|version| version.contains("\"is_snapshot\":true"));
    assert!(with_snapshot.count() > 0);
    pipeline.tick(330..340);
    pipeline.catch_up("job.sql").ok();
    assert_eq!(pipeline.counted("counts"), expected(340));
}
