//! IDENT-1: a position belongs to a topic or a table, never to a name. Sources and sinks that are replaced.

use super::Pipeline;
use crate::support::{create_topic_on, produce_on};
use crate::topics::delete_topic_on;

impl Pipeline {
    /// The job `doubling` reads `numbers`, a stream over the Delta table `lake`.
    pub(super) fn from_lake(name: &str) -> Self {
        let pipeline = Self::between_topics(name, 1);
        pipeline.read_lake();
        pipeline
    }

    /// Makes `numbers` a stream over the Delta table `lake`.
    fn read_lake(&self) {
        let tables = std::fs::read_to_string(self.work.path("tables.sql")).unwrap();
        let (_, rest) = tables.split_once(");\n").unwrap();
        self.work.file(
            "tables.sql",
            &format!(
                "CREATE EXTERNAL TABLE lake (v BIGINT) STORED AS DELTA LOCATION 'lake';\n\
                 CREATE EXTERNAL TABLE numbers (v BIGINT) STORED AS DELTA LOCATION 'lake' OPTIONS ('scan.mode' 'stream');\n{rest}"
            ),
        );
    }

    /// Adds versions to `lake`, of one row each.
    pub(super) fn insert_into_lake(&self, numbers: std::ops::Range<u64>) {
        let insert = |v| format!("INSERT INTO lake VALUES ({v});");
        let inserts: String = numbers.map(insert).collect();
        self.work.sql(&["tables.sql"], &[&inserts]).ok();
    }

    /// Deletes a topic and makes another one of its name.
    fn recreate(&self, topic: &str, partitions: u32) {
        delete_topic_on(&self.bootstrap, topic);
        create_topic_on(&self.bootstrap, topic, partitions);
    }

    /// Runs a job file that stops, and gives the row of SHOW JOBS for it.
    fn stopped(&self, file: &str) -> String {
        let stopped = self.catch_up(file);
        assert_eq!(stopped.code, Some(1), "{stopped:?}");
        let shown = self.work.sql(&[], &["SHOW JOBS"]).ok().out;
        assert!(shown.contains("FAILED"), "{shown}");
        shown
    }

    pub(super) fn resume(&self, statement: &str) {
        self.work.sql(&[], &[statement]).ok();
    }

    /// The one row of a query, as JSON.
    fn only_row(&self, query: &str) -> serde_json::Value {
        let rows = self.work.sql(&[], &[query]).ok().out;
        assert_eq!(rows.lines().count(), 1, "{rows}");
        serde_json::from_str(rows.trim()).unwrap()
    }
}

#[test]
fn ident_1_a_recreated_topic_with_as_many_records_stops_the_job() {
    for (name, count) in [("anew-few", 2), ("anew-same", 4), ("anew-more", 9)] {
        let pipeline = Pipeline::between_topics(name, 1);
        pipeline.send(0..4);
        pipeline.catch_up("job.sql").ok();
        pipeline.recreate(&pipeline.source, 1);
        pipeline.send(100..100 + count);
        let shown = pipeline.stopped("job.sql");
        for says in [
            "was recreated: its id was",
            "RESUME JOB … ACCEPTING NEW numbers",
            "RESUME JOB … ACCEPTING MOVED numbers",
        ] {
            assert!(shown.contains(says), "{shown}");
        }
        // Resuming alone changes nothing, nor does another word.
        pipeline.resume("RESUME JOB doubling SKIPPING LOST");
        pipeline.stopped("job.sql");
        assert_eq!(pipeline.doubled(), [0, 2, 4, 6]);
        // Records that come meanwhile are not skipped.
        pipeline.send(200..202);
        pipeline.resume("RESUME JOB doubling ACCEPTING NEW numbers");
        pipeline.send(202..203);
        pipeline.catch_up("job.sql").ok();
        let all = [0..4, 100..100 + count, 200..203].into_iter().flatten();
        assert_eq!(pipeline.doubled(), all.map(|v| v * 2).collect::<Vec<_>>());
        pipeline.send(300..301);
        pipeline.catch_up("job.sql").ok();
        assert_eq!(pipeline.doubled().last(), Some(&600));
    }
}

#[test]
fn a_job_that_reads_its_own_sink_by_another_address_stops() {
    let pipeline = Pipeline::between_topics("loop", 1);
    pipeline.send(0..4);
    let (host, port) = pipeline.bootstrap.rsplit_once(':').unwrap();
    let other = if host == "localhost" {
        "127.0.0.1"
    } else {
        "localhost"
    };
    let source = &pipeline.source;
    let tables = std::fs::read_to_string(pipeline.work.path("tables.sql")).unwrap();
    let (numbers, _) = tables.split_once("CREATE EXTERNAL TABLE doubled").unwrap();
    pipeline.work.file(
        "tables.sql",
        &format!(
            "{numbers}CREATE EXTERNAL TABLE doubled (v BIGINT) STORED AS KAFKA LOCATION '{source}' \
             OPTIONS ('kafka.bootstrap.servers' '{other}:{port}');\n"
        ),
    );
    let shown = pipeline.stopped("job.sql");
    assert!(
        shown.contains(&format!("the job reads and writes topic '{source}'")),
        "{shown}"
    );
    pipeline.resume("RESUME JOB doubling");
    pipeline.stopped("job.sql");
    let printed = crate::support::consume_on(&pipeline.bootstrap, source, &[]);
    assert_eq!(crate::support::numbers_of(&printed), [0, 1, 2, 3]);
}

#[test]
fn ident_1_a_topic_recreated_while_the_job_runs_stops_it() {
    let pipeline = Pipeline::between_topics("anew-live", 1);
    pipeline.send(0..4);
    let mut child = pipeline.command("job.sql").spawn().unwrap();
    while pipeline.doubled().len() < 4 {
        assert!(child.try_wait().unwrap().is_none(), "it has ended");
    }
    pipeline.recreate(&pipeline.source, 1);
    pipeline.send(100..110);
    // Between the two topics there was none. Whether the job saw no topic or the new one first, it has stopped.
    assert_eq!(child.wait().unwrap().code(), Some(1));
    pipeline.resume("RESUME JOB doubling");
    pipeline.stopped("job.sql");
    pipeline.resume("RESUME JOB doubling ACCEPTING NEW numbers");
    pipeline.catch_up("job.sql").ok();
    let all = (0..4).chain(100..110).map(|v| v * 2);
    assert_eq!(pipeline.doubled(), all.collect::<Vec<_>>());
}

#[test]
fn ident_1_a_table_over_another_topic_stops_the_job_until_accepted() {
    for how in ["NEW", "MOVED"] {
        let pipeline = Pipeline::between_topics(&format!("other-{how}"), 1);
        pipeline.send(0..4);
        pipeline.catch_up("job.sql").ok();
        let other = crate::support::topic("other");
        create_topic_on(&pipeline.bootstrap, &other, 1);
        let tables = std::fs::read_to_string(pipeline.work.path("tables.sql")).unwrap();
        pipeline
            .work
            .file("tables.sql", &tables.replace(&pipeline.source, &other));
        let first = &pipeline.source;
        let lines: Vec<String> = (50..60).map(|v| format!("{{\"v\":{v}}}\n")).collect();
        produce_on(&pipeline.bootstrap, &other, &lines.concat());
        pipeline.work.file(
            "job.sql",
            "CREATE OR REPLACE JOB doubling AS INSERT INTO doubled SELECT v * 2 FROM numbers;\n",
        );
        let shown = pipeline.stopped("job.sql");
        assert!(
            shown.contains(&format!("it was topic '{first}'"))
                && shown.contains(&format!("is topic '{other}'")),
            "{shown}"
        );
        pipeline.resume(&format!("RESUME JOB doubling ACCEPTING {how} numbers"));
        pipeline.catch_up("job.sql").ok();
        let from = if how == "NEW" { 50 } else { 54 };
        let all = (0..4).chain(from..60).map(|v| v * 2);
        assert_eq!(pipeline.doubled(), all.collect::<Vec<_>>(), "{how}");
    }
}

#[test]
fn ident_1_a_topic_replaced_by_a_delta_stream_keeps_no_offset() {
    let pipeline = Pipeline::between_topics("kinds", 1);
    pipeline.send(0..10);
    pipeline.catch_up("job.sql").ok();
    pipeline.read_lake();
    pipeline.insert_into_lake(20..35);
    pipeline.work.file(
        "job.sql",
        "CREATE OR REPLACE JOB doubling AS INSERT INTO doubled SELECT v * 2 FROM numbers;\n",
    );
    let shown = pipeline.stopped("job.sql");
    assert!(shown.contains("and is Delta table"), "{shown}");
    pipeline.resume("RESUME JOB doubling ACCEPTING NEW numbers");
    pipeline.catch_up("job.sql").ok();
    let all = (0..10).chain(20..35).map(|v| v * 2);
    assert_eq!(pipeline.doubled(), all.collect::<Vec<_>>());
}

#[test]
fn ident_1_a_recreated_delta_stream_stops_the_job() {
    let pipeline = Pipeline::from_lake("lake-anew");
    pipeline.insert_into_lake(0..3);
    pipeline.catch_up("job.sql").ok();
    std::fs::remove_dir_all(pipeline.work.path("lake")).unwrap();
    pipeline.insert_into_lake(10..18);
    let shown = pipeline.stopped("job.sql");
    assert!(shown.contains("was recreated: its id was"), "{shown}");
    pipeline.resume("RESUME JOB doubling ACCEPTING NEW numbers");
    pipeline.catch_up("job.sql").ok();
    let all = (0..3).chain(10..18).map(|v| v * 2);
    assert_eq!(pipeline.doubled(), all.collect::<Vec<_>>());
}

#[test]
fn ident_1_a_recreated_sink_stops_the_job() {
    let pipeline = Pipeline::between_topics("sink-anew", 1);
    pipeline.send(0..4);
    for (file, job, table) in [
        ("job.sql", "doubling", "doubled"),
        ("keep.sql", "keeping", "kept"),
    ] {
        pipeline.catch_up(file).ok();
        match job {
            "doubling" => pipeline.recreate(&pipeline.sink, 1),
            _ => std::fs::remove_dir_all(pipeline.work.path("kept")).unwrap(),
        }
        pipeline.send(4..6);
        let stopped = pipeline.catch_up(file);
        assert_eq!(stopped.code, Some(1), "{stopped:?}");
        for says in [
            "the sink of the job was replaced by another one",
            "was recreated",
            &format!("ACCEPTING NEW {table}"),
        ] {
            assert!(stopped.err.contains(says), "{}", stopped.err);
        }
        pipeline.resume(&format!("RESUME JOB {job}"));
        assert_eq!(pipeline.catch_up(file).code, Some(1));
        let rows = match job {
            "doubling" => pipeline.doubled(),
            _ => pipeline.kept(),
        };
        assert_eq!(rows, Vec::<u64>::new());
        pipeline.resume(&format!("RESUME JOB {job} ACCEPTING NEW {table}"));
        pipeline.catch_up(file).ok();
        match job {
            "doubling" => assert_eq!(pipeline.doubled(), [8, 10]),
            _ => assert_eq!(pipeline.kept(), [4, 5]),
        }
        // Once said, it is known.
        pipeline.send(6..8);
        pipeline.catch_up(file).ok();
    }
    assert_eq!(pipeline.kept(), [4, 5, 6, 7]);
}

#[test]
fn ident_1_what_was_not_reported_cannot_be_accepted() {
    let pipeline = Pipeline::between_topics("unreported", 1);
    pipeline.send(0..1);
    pipeline.catch_up("job.sql").ok();
    let refused = pipeline
        .work
        .sql(&[], &["RESUME JOB doubling ACCEPTING NEW numbers"]);
    assert_eq!(refused.code, Some(1));
    assert!(
        refused
            .err
            .contains("has not reported that table numbers was replaced"),
        "{}",
        refused.err
    );
    let said = pipeline
        .work
        .sql(&[], &["RESUME JOB doubling SKIPPING LOST"])
        .ok();
    assert!(
        (said.out + &said.err).contains("it has reported no lost offsets"),
        "a warning"
    );
}

#[test]
fn loss_1_only_what_was_reported_as_lost_is_skipped() {
    let pipeline = Pipeline::between_topics("as-reported", 1);
    pipeline.send(0..4);
    pipeline.catch_up("job.sql").ok();
    pipeline.send(4..12);
    pipeline.delete_before(6);
    let shown = pipeline.stopped("job.sql");
    assert!(shown.contains("lacks offsets 4 to 5"), "{shown}");
    pipeline.resume("RESUME JOB doubling SKIPPING LOST");
    // More is gone by the time the job runs.
    pipeline.delete_before(9);
    let shown = pipeline.stopped("job.sql");
    assert!(shown.contains("lacks offsets 4 to 8"), "{shown}");
    pipeline.resume("RESUME JOB doubling SKIPPING LOST");
    pipeline.catch_up("job.sql").ok();
    assert_eq!(pipeline.doubled(), [0, 2, 4, 6, 18, 20, 22]);
}

/// Counts per minute of a topic whose rows name their partition.
pub(super) fn per_minute(name: &str, partitions: u32, idle_after: &str) -> Pipeline {
    let pipeline = Pipeline::between_topics(name, partitions);
    let (bootstrap, source) = (&pipeline.bootstrap, &pipeline.source);
    pipeline.work.file(
        "tables.sql",
        &format!(
            "CREATE EXTERNAL TABLE ticks (k BIGINT, t TIMESTAMP, p INT METADATA FROM 'partition', \
               WATERMARK FOR t AS t - INTERVAL '0 seconds') \
             STORED AS KAFKA LOCATION '{source}' OPTIONS ('kafka.bootstrap.servers' '{bootstrap}', \
               'watermark.idle_after' '{idle_after}');\n\
             CREATE EXTERNAL TABLE kept (k BIGINT, s TIMESTAMP, v BIGINT) STORED AS DELTA LOCATION 'kept';\n"
        ),
    );
    pipeline.work.file(
        "job.sql",
        "CREATE JOB counting WITH ('trigger' '10 milliseconds') AS \
         INSERT INTO kept SELECT k, window_start, count(*) \
         FROM TUMBLE(TABLE ticks, DESCRIPTOR(t), INTERVAL '1 minute') GROUP BY k, window_start;\n",
    );
    pipeline
}

impl Pipeline {
    /// A row in each of these minutes on each of these partitions.
    pub(super) fn minutes(&self, partitions: std::ops::Range<u32>, minutes: std::ops::Range<u32>) {
        let rows: Vec<String> = partitions
            .flat_map(|partition| minutes.clone().map(move |minute| (partition, minute)))
            .map(|(partition, minute)| {
                format!("(1, TIMESTAMP '2025-01-01T00:{minute:02}:00Z', {partition})")
            })
            .collect();
        let insert = format!("INSERT INTO ticks (k, t, p) VALUES {}", rows.join(", "));
        self.work.sql(&["tables.sql"], &[&insert]).ok();
    }

    /// How many rows each minute's window has that was emitted.
    pub(super) fn windows(&self) -> Vec<i64> {
        let query = "SELECT v FROM kept ORDER BY s";
        let rows = self.work.sql(&["tables.sql"], &[query]).ok().out;
        rows.lines()
            .map(|line| {
                let row: serde_json::Value = serde_json::from_str(line).unwrap();
                row["v"].as_i64().unwrap()
            })
            .collect()
    }
}

#[test]
fn time_1_deleted_partitions_hold_no_window_back() {
    let pipeline = per_minute("fewer", 3, "1 hour");
    pipeline.minutes(0..3, 0..2);
    pipeline.catch_up("job.sql").ok();
    assert_eq!(pipeline.windows(), [3]);
    pipeline.recreate(&pipeline.source, 1);
    pipeline.minutes(0..1, 2..6);
    let shown = pipeline.stopped("job.sql");
    assert!(shown.contains("was recreated"), "{shown}");
    pipeline.resume("RESUME JOB counting ACCEPTING NEW ticks");
    pipeline.catch_up("job.sql").ok();
    let partitions = pipeline.only_row("SELECT partition, holds_back FROM system.partitions");
    assert_eq!(partitions["partition"], 0);
    // All windows but the last are closed, those that partitions that are gone had begun as well.
    assert_eq!(pipeline.windows(), [3, 3, 1, 1, 1]);
}
