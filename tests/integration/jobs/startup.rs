//! Where a job begins (`'scan.startup'`): the forms, the values that CREATE JOB refuses, and that a job chooses once.

use super::Pipeline;
use crate::support::{numbers_of, topic};
use crate::topics::{create_topic_with, produce_at, widen_topic_on};

/// 2025-09-04T10:00:00Z, in milliseconds since 1970.
const TEN: i64 = 1_756_980_000_000;
const MINUTE: i64 = 60_000;

/// A pipeline whose source keeps records of any age.
fn pipeline(name: &str, partitions: u32) -> Pipeline {
    let mut pipeline = Pipeline::between_topics(name, 1);
    let aged = topic(&format!("{name}-aged"));
    create_topic_with(
        &pipeline.bootstrap,
        &aged,
        partitions,
        &[("retention.ms", "-1")],
    );
    let tables = std::fs::read_to_string(pipeline.work.path("tables.sql")).unwrap();
    pipeline
        .work
        .file("tables.sql", &tables.replace(&pipeline.source, &aged));
    pipeline.source = aged;
    pipeline
}

/// The same with the Delta table `kept` as the archive of the source.
fn archived(name: &str, partitions: u32) -> Pipeline {
    let pipeline = pipeline(name, partitions);
    let tables = std::fs::read_to_string(pipeline.work.path("tables.sql")).unwrap();
    let mut tables: Vec<&str> = tables.split_inclusive(";\n").collect();
    let numbers = tables.remove(0).replace(");\n", ", 'archive' 'kept');\n");
    tables.push(&numbers);
    pipeline.work.file("tables.sql", &tables.concat());
    pipeline
}

impl Pipeline {
    /// Sends `{"v":n}` for each number to one partition.
    fn put(&self, partition: i32, numbers: impl IntoIterator<Item = u64>) {
        let timed = numbers.into_iter().map(|number| (TEN, number));
        self.put_at(partition, &timed.collect::<Vec<_>>());
    }

    /// The same with timestamps in milliseconds.
    fn put_at(&self, partition: i32, numbers: &[(i64, u64)]) {
        let values = numbers
            .iter()
            .map(|(at, number)| (*at, format!("{{\"v\":{number}}}")));
        let values: Vec<(i64, String)> = values.collect();
        produce_at(&self.bootstrap, &self.source, partition, &values);
    }

    /// The text of the job that begins so.
    fn job(&self, startup: &str) -> String {
        format!(
            "CREATE JOB doubling WITH ('trigger' '10 milliseconds', 'batch.max_rows' '3', 'scan.startup' '{startup}') AS\n\
             INSERT INTO doubled SELECT v * 2 FROM numbers;\n"
        )
    }

    /// The job begins so.
    fn begin(&self, startup: &str) {
        self.work.file("job.sql", &self.job(startup));
    }

    /// The job has another text.
    fn replace_job(&self, text: &str) {
        self.work.file(
            "job.sql",
            &text.replace("CREATE JOB", "CREATE OR REPLACE JOB"),
        );
    }

    /// Runs the job, which stops with an error.
    #[track_caller]
    fn stops(&self, expected: &str) {
        let stopped = self.catch_up("job.sql");
        assert_eq!(stopped.code, Some(1), "{stopped:?}");
        assert!(stopped.err.contains(expected), "{}", stopped.err);
        let shown = self.work.sql(&[], &["SHOW JOBS"]).ok().rows();
        let state = shown[0]["state"].as_str();
        assert_eq!(state, Some("FAILED"), "{shown:?}");
        let reason = shown[0]["reason"].as_str().unwrap();
        assert!(reason.contains(expected), "{reason}");
    }

    /// Records read by each batch of the job.
    fn batch_sizes(&self) -> Vec<u64> {
        let shown = self
            .work
            .sql(&[], &["SHOW BATCHES FOR JOB doubling"])
            .ok()
            .rows();
        let sizes = shown.iter().map(|batch| batch["rows_in"].as_u64().unwrap());
        sizes.collect()
    }
}

fn doubles(numbers: impl IntoIterator<Item = u64>) -> Vec<u64> {
    let mut doubles: Vec<u64> = numbers.into_iter().map(|number| number * 2).collect();
    doubles.sort_unstable();
    doubles
}

#[test]
fn a_job_begins_where_it_is_told() {
    // Partition 0 has the numbers 0 to 3 at offsets 0 to 3, partition 1 has 10 to 12 at 0 to 2, and partition 2 has none.
    for (startup, expected) in [
        ("earliest", vec![0, 1, 2, 3, 10, 11, 12]),
        ("latest", vec![]),
        (
            r#"{"numbers":{"0":2,"1":-2,"2":-1}}"#,
            vec![2, 3, 10, 11, 12],
        ),
        (r#"{"numbers":{"0":-1,"1":3,"2":0}}"#, vec![]),
        // By the name of the topic, as Spark writes it.
        (
            r#"{"TOPIC":{"0":0,"1":1,"2":-2}}"#,
            vec![0, 1, 2, 3, 11, 12],
        ),
        ("2025-09-04T09:00:00Z", vec![0, 1, 2, 3, 10, 11, 12]),
        ("2025-09-05", vec![]),
        ("1969-12-31T23:59:59.999Z", vec![0, 1, 2, 3, 10, 11, 12]),
    ] {
        let pipeline = pipeline("begins", 3);
        pipeline.begin(&startup.replace("TOPIC", &pipeline.source));
        pipeline.put(0, 0..4);
        pipeline.put(1, 10..13);
        pipeline.catch_up("job.sql").ok();
        assert_eq!(pipeline.doubled(), doubles(expected.clone()), "{startup}");
        // From there on it reads all.
        pipeline.put(0, [4]);
        pipeline.put(2, [20, 21]);
        pipeline.catch_up("job.sql").ok();
        let all = expected.into_iter().chain([4, 20, 21]);
        assert_eq!(pipeline.doubled(), doubles(all), "{startup}");
    }
}

#[test]
fn a_time_is_found_by_the_timestamps_of_records() {
    for startup in [
        "2025-09-04T10:00:00Z",
        "2025-09-04 10:00:00",
        "2025-09-04T12:00:00+02:00",
        // A millisecond begins with its first microsecond.
        "2025-09-04T09:59:59.999001Z",
    ] {
        let pipeline = pipeline("timed", 3);
        pipeline.begin(startup);
        // Timestamps need not ascend: what follows the first record that is late enough is read.
        pipeline.put_at(
            0,
            &[
                (TEN - 1, 0),
                (TEN, 1),
                (TEN - 60 * MINUTE, 2),
                (TEN + 60 * MINUTE, 3),
            ],
        );
        // No record of partition 1 is late enough: the job begins at the partition's end, and reads the next record, also if its
        // timestamp is early.
        pipeline.put_at(1, &[(TEN - 2, 10), (TEN - 1, 11)]);
        pipeline.catch_up("job.sql").ok();
        assert_eq!(pipeline.doubled(), doubles([1, 2, 3]), "{startup}");
        pipeline.put_at(1, &[(TEN - 60 * MINUTE, 12)]);
        pipeline.put_at(2, &[(TEN - 60 * MINUTE, 20)]);
        pipeline.catch_up("job.sql").ok();
        assert_eq!(pipeline.doubled(), doubles([1, 2, 3, 12, 20]), "{startup}");
    }
}

#[test]
fn a_job_that_is_resumed_does_not_choose_again() {
    let pipeline = pipeline("chosen", 1);
    // It fails at the first record that it reads, the number 1.
    let job = |column: &str, startup: &str| {
        pipeline
            .job(startup)
            .replace("v * 2", &format!("{column} * 2"))
    };
    pipeline
        .work
        .file("job.sql", &job("v / (v - 1)", r#"{"numbers":{"0":1}}"#));
    pipeline.put(0, 0..3);
    pipeline.stops("zero");
    // Where it begins is stored all the same: another place has no effect any more.
    assert_eq!(pipeline.batch_sizes(), [0]);
    pipeline.put(0, 3..5);
    pipeline.replace_job(&job("v", "latest"));
    pipeline
        .work
        .sql(&["tables.sql", "job.sql"], &["RESUME JOB doubling"])
        .ok();
    pipeline.catch_up("job.sql").ok();
    assert_eq!(pipeline.doubled(), doubles(1..5));
    // Retention does not move it either: records that the topic removes before the job has read them are lost.
    pipeline.put(0, 5..8);
    pipeline.delete_before(6);
    pipeline.stops("partition 0 lacks offsets 5 to 5");
}

#[test]
fn exact_3_a_job_that_is_rewound_to_its_beginning_begins_where_it_began() {
    for startup in ["latest", "2025-09-04T11:00:00Z", r#"{"numbers":{"0":2}}"#] {
        let pipeline = pipeline("again", 1);
        pipeline.begin(startup);
        pipeline.put(0, 0..2);
        pipeline.catch_up("job.sql").ok();
        assert_eq!(pipeline.batch_sizes(), [0], "{startup}");
        pipeline.put(0, 2..6);
        pipeline.catch_up("job.sql").ok();
        assert_eq!(pipeline.doubled(), doubles(2..6), "{startup}");
        let rewind = ["REWIND JOB doubling TO BATCH 0"];
        let files = ["tables.sql", "job.sql"];
        pipeline.work.sql(&files, &rewind).ok();
        // Once more before it has run: it has still committed nothing.
        pipeline.work.sql(&files, &rewind).ok();
        pipeline.catch_up("job.sql").ok();
        // Rows that were published stay.
        let twice = (2..6).chain(2..6);
        assert_eq!(pipeline.doubled(), doubles(twice), "{startup}");
        assert_eq!(pipeline.batch_sizes(), [0, 3, 1], "{startup}");
    }
}

#[test]
fn time_1_a_partition_that_is_added_later_is_read_from_its_first_record() {
    for startup in [
        "latest",
        "2025-09-04T11:00:00Z",
        r#"{"numbers":{"0":-1,"1":1}}"#,
    ] {
        let pipeline = pipeline("added", 2);
        pipeline.begin(startup);
        pipeline.put(0, [0]);
        pipeline.put(1, [1]);
        pipeline.catch_up("job.sql").ok();
        widen_topic_on(&pipeline.bootstrap, &pipeline.source, 3);
        pipeline.put(2, [20, 21]);
        pipeline.put(0, [2]);
        pipeline.catch_up("job.sql").ok();
        assert_eq!(pipeline.doubled(), doubles([2, 20, 21]), "{startup}");
    }
}

#[test]
fn offsets_that_the_topic_does_not_have_stop_the_job() {
    let pipeline = pipeline("missing", 2);
    pipeline.put(0, 0..8);
    pipeline.put(1, 10..12);
    pipeline.delete_before(5);
    pipeline.begin(r#"{"numbers":{"0":4,"1":0}}"#);
    pipeline.stops("partition 0 begins with offset 5, and 'scan.startup' says 4: the records before 5 are gone");
    for (startup, expected) in [
        (
            r#"{"numbers":{"0":5,"1":3}}"#,
            "partition 1 ends before offset 2, and 'scan.startup' says 3",
        ),
        (
            r#"{"numbers":{"0":5}}"#,
            "it has partition 1, and 'scan.startup' does not say where to begin there",
        ),
        (
            r#"{"numbers":{"0":5,"1":0,"2":0,"7":-2}}"#,
            "it does not have partitions 2, 7, which 'scan.startup' names",
        ),
    ] {
        pipeline.replace_job(&pipeline.job(startup));
        let files = ["tables.sql", "job.sql"];
        pipeline.work.sql(&files, &["RESUME JOB doubling"]).ok();
        pipeline.stops(expected);
    }
    assert_eq!(pipeline.doubled(), Vec::<u64>::new());
    // A job that has read nothing begins where it is told next.
    pipeline.replace_job(&pipeline.job(r#"{"numbers":{"0":6,"1":2}}"#));
    let files = ["tables.sql", "job.sql"];
    pipeline.work.sql(&files, &["RESUME JOB doubling"]).ok();
    pipeline.catch_up("job.sql").ok();
    assert_eq!(pipeline.doubled(), doubles([6, 7]));
}

/// IDENT-1: offsets are those of the topic that was there when the job began.
#[test]
fn ident_1_offsets_do_not_apply_to_a_topic_in_place_of_another() {
    let pipeline = pipeline("replaced", 1);
    pipeline.begin(r#"{"numbers":{"0":2}}"#);
    pipeline.put(0, 0..4);
    pipeline.catch_up("job.sql").ok();
    assert_eq!(pipeline.doubled(), doubles(2..4));
    let other = topic("replaced-other");
    create_topic_with(&pipeline.bootstrap, &other, 1, &[("retention.ms", "-1")]);
    let tables = std::fs::read_to_string(pipeline.work.path("tables.sql")).unwrap();
    let tables = tables.replace(&pipeline.source, &other);
    pipeline.work.file("tables.sql", &tables);
    let pipeline = Pipeline {
        source: other,
        ..pipeline
    };
    pipeline.put(0, 50..54);
    pipeline.replace_job(&pipeline.job(r#"{"numbers":{"0":2}}"#));
    pipeline.stops("was replaced by another one");
    let resume = ["RESUME JOB doubling ACCEPTING NEW numbers"];
    pipeline.work.sql(&[], &resume).ok();
    pipeline.catch_up("job.sql").ok();
    assert_eq!(pipeline.doubled(), doubles((2..4).chain(50..54)));
}

/// A job that takes over from a one-time INSERT: the archive has each record once.
#[test]
fn arch_1_a_job_begins_behind_what_is_archived() {
    let pipeline = archived("archive-end", 3);
    pipeline.work.file(
        "keep.sql",
        "CREATE JOB keeping WITH ('trigger' '10 milliseconds', 'scan.startup' 'archive end') AS\n\
         INSERT INTO kept SELECT v, p, o FROM numbers;\n",
    );
    pipeline.put(0, 0..4);
    pipeline.put(1, 10..13);
    let archive = "INSERT INTO kept SELECT v, p, o FROM numbers WHERE p = 0 OR o < 2";
    pipeline.work.sql(&["tables.sql"], &[archive]).ok();
    // Partition 2 was not archived: it is read from its first record.
    pipeline.put(0, 4..6);
    pipeline.put(2, [20]);
    pipeline.catch_up("keep.sql").ok();
    let all = [0, 1, 2, 3, 4, 5, 10, 11, 12, 20];
    assert_eq!(pipeline.kept(), all);
    // It does not look at the archive again.
    pipeline.put(2, [21]);
    pipeline.catch_up("keep.sql").ok();
    let all: Vec<u64> = all.into_iter().chain([21]).collect();
    assert_eq!(pipeline.kept(), all);
}

#[test]
fn loss_1_records_that_were_removed_before_they_were_archived_are_reported() {
    let pipeline = archived("archive-hole", 1);
    pipeline.put(0, 0..3);
    let archive = "INSERT INTO kept SELECT v, p, o FROM numbers";
    pipeline.work.sql(&["tables.sql"], &[archive]).ok();
    pipeline.put(0, 3..8);
    pipeline.delete_before(5);
    pipeline.begin("archive end");
    pipeline.stops("partition 0 lacks offsets 3 to 4");
    pipeline
        .work
        .sql(&[], &["RESUME JOB doubling SKIPPING LOST"])
        .ok();
    pipeline.catch_up("job.sql").ok();
    assert_eq!(pipeline.doubled(), doubles(5..8));
}

/// The topic has lost the first records, which the archive has.
#[test]
fn arch_1_a_job_begins_in_the_archive() {
    for (startup, expected) in [
        ("earliest", 0..12),
        (r#"{"numbers":{"0":-2}}"#, 0..12),
        (r#"{"numbers":{"0":3}}"#, 3..12),
        (r#"{"numbers":{"0":6}}"#, 6..12),
        (r#"{"numbers":{"0":-1}}"#, 12..12),
    ] {
        let pipeline = archived("archive-start", 1);
        pipeline.put(0, 0..8);
        let archive = "INSERT INTO kept SELECT v, p, o FROM numbers";
        pipeline.work.sql(&["tables.sql"], &[archive]).ok();
        pipeline.delete_before(5);
        pipeline.put(0, 8..12);
        pipeline.begin(startup);
        pipeline.catch_up("job.sql").ok();
        assert_eq!(pipeline.doubled(), doubles(expected), "{startup}");
    }
}

#[test]
fn loss_1_a_job_does_not_begin_in_a_gap_of_the_archive() {
    let pipeline = archived("archive-gap", 1);
    pipeline.put(0, 0..6);
    let archive = "INSERT INTO kept SELECT v, p, o FROM numbers WHERE o IN (1, 2, 4, 5)";
    pipeline.work.sql(&["tables.sql"], &[archive]).ok();
    pipeline.delete_before(6);
    pipeline.begin(r#"{"numbers":{"0":3}}"#);
    pipeline.stops("neither partition 0 nor its archive has offset 3");
    let files = ["tables.sql", "job.sql"];
    pipeline.replace_job(&pipeline.job(r#"{"numbers":{"0":0}}"#));
    pipeline.work.sql(&files, &["RESUME JOB doubling"]).ok();
    pipeline.stops("partition 0 begins with offset 1, and 'scan.startup' says 0");
    pipeline.replace_job(&pipeline.job(r#"{"numbers":{"0":4}}"#));
    pipeline.work.sql(&files, &["RESUME JOB doubling"]).ok();
    pipeline.catch_up("job.sql").ok();
    assert_eq!(pipeline.doubled(), doubles(4..6));
}

#[test]
fn arch_1_a_time_is_found_in_the_archive() {
    for (has_timestamps, startup, expected) in [
        (true, "2025-09-04T08:00:00Z", Some(vec![0, 1, 2, 3, 4])),
        (true, "2025-09-04T10:01:00Z", Some(vec![1, 2, 3, 4])),
        (true, "2025-09-04T10:02:30Z", Some(vec![4])),
        (true, "2025-09-04T10:30:00Z", Some(vec![])),
        (false, "2025-09-04T08:00:00Z", None),
        // The first record of the topic is too early.
        (false, "2025-09-04T10:01:00Z", Some(vec![4])),
        (false, "2025-09-04T10:30:00Z", Some(vec![])),
    ] {
        let pipeline = archived("archive-time", 1);
        let mut archive = "INSERT INTO kept SELECT v, p, o FROM numbers".to_owned();
        if has_timestamps {
            let tables = std::fs::read_to_string(pipeline.work.path("tables.sql")).unwrap();
            let tables = tables
                .replace(
                    "'offset')",
                    "'offset', at TIMESTAMP METADATA FROM 'timestamp')",
                )
                .replace("o BIGINT)", "o BIGINT, at TIMESTAMP)");
            pipeline.work.file("tables.sql", &tables);
            archive = archive.replace("v, p, o", "v, p, o, at");
        }
        pipeline.put_at(
            0,
            &[
                (TEN, 0),
                (TEN + MINUTE, 1),
                (TEN + 2 * MINUTE, 2),
                (TEN - 60 * MINUTE, 3),
            ],
        );
        pipeline.work.sql(&["tables.sql"], &[&archive]).ok();
        pipeline.delete_before(3);
        pipeline.put_at(0, &[(TEN + 3 * MINUTE, 4)]);
        pipeline.begin(startup);
        match expected {
            Some(expected) => {
                pipeline.catch_up("job.sql").ok();
                assert_eq!(pipeline.doubled(), doubles(expected), "{startup}");
            }
            None => pipeline.stops("it has no timestamps"),
        }
    }
}

#[test]
fn a_wrong_start_is_refused_when_the_job_is_created() {
    let pipeline = pipeline("wrong", 1);
    for (startup, expected) in [
        (
            "yesterday",
            "it takes 'earliest', 'latest', 'archive end', a time",
        ),
        ("archive end", "table numbers names none"),
        ("latst", "did you mean 'latest'"),
        (r#"{"numbers":{"0":-3}}"#, "integer `-3`"),
        (r#"{"numbers":{"0":"1"}}"#, "string \"1\""),
        (r#"{"numbers":{"0":1,"0":2}}"#, "partition 0 is named twice"),
        (r#"{"numbers":"#, "not valid"),
        (r#"{"numbrs":{"0":1}}"#, "did you mean numbers?"),
        (r#"{"kept":{"0":1}}"#, "it reads numbers"),
    ] {
        let refused = pipeline
            .work
            .sql(&["tables.sql"], &[&pipeline.job(startup)]);
        assert_eq!(refused.code, Some(1), "{startup}: {refused:?}");
        assert!(refused.err.contains(expected), "{startup}: {}", refused.err);
        // The place of the value.
        assert!(
            refused.err.contains("<command>:1:93"),
            "{startup}: {}",
            refused.err
        );
    }
}

#[test]
fn where_a_job_begins_is_shown() {
    let pipeline = pipeline("shown", 1);
    let job = pipeline.job(r#"{"numbers":{"0":7}}"#);
    let explain = format!("EXPLAIN {job}");
    let shown = pipeline.work.sql(&["tables.sql"], &[&explain]).ok().rows();
    let row = shown.iter().find(|row| row["item"] == "scan.startup");
    assert_eq!(row.unwrap()["value"], "numbers: partition 0 at offset 7");
    pipeline.begin(r#"{"numbers":{"0":7}}"#);
    let show = ["SHOW CREATE JOB doubling"];
    let shown = pipeline.work.sql(&["tables.sql", "job.sql"], &show).ok();
    assert!(shown.out.contains("'scan.startup'"), "{}", shown.out);
}

#[test]
fn a_subscription_begins_where_it_is_told() {
    let pipeline = pipeline("subscribed-from", 2);
    pipeline.put_at(0, &[(TEN - 1, 0), (TEN, 1), (TEN, 2)]);
    pipeline.put_at(1, &[(TEN - 1, 10), (TEN - 1, 11)]);
    for (startup, expected) in [
        ("earliest", vec![0, 1, 2, 10, 11]),
        ("latest", vec![]),
        (r#"{"numbers":{"0":2,"1":0}}"#, vec![2, 10, 11]),
        ("2025-09-04T10:00:00Z", vec![1, 2]),
    ] {
        let subscribe = format!(
            "SUBSCRIBE WITH ('trigger' 'once', 'scan.startup' '{startup}') SELECT v FROM numbers"
        );
        let rows = pipeline.work.sql(&["tables.sql"], &[&subscribe]).ok();
        let numbers = numbers_of(&rows.out);
        assert_eq!(numbers, expected, "{startup}");
    }
    let beyond =
        "SUBSCRIBE WITH ('scan.startup' '{\"numbers\":{\"0\":2,\"1\":9}}') SELECT v FROM numbers";
    let refused = pipeline.work.sql(&["tables.sql"], &[beyond]);
    assert_eq!(refused.code, Some(1), "{refused:?}");
    let expected = "partition 1 ends before offset 2, and 'scan.startup' says 9";
    assert!(refused.err.contains(expected), "{}", refused.err);
}
