//! The statements about jobs, and the handling of records that a job cannot use.

use std::time::Instant;

use super::Pipeline;
use crate::support::{create_topic, kafka_tool, produce, signal};
use crate::topics::widen_topic_on;

#[test]
fn a_job_continues_where_it_stopped_and_reports_its_work() {
    let pipeline = Pipeline::between_topics("job", 2);
    pipeline.send(0..5);
    let first = pipeline.catch_up("job.sql").ok();
    assert!(
        first.err.contains("5 records read, 5 rows written"),
        "{}",
        first.err
    );
    pipeline.send(5..8);
    let second = pipeline.catch_up("job.sql").ok();
    assert!(
        second.err.contains("3 records read, 3 rows written"),
        "{}",
        second.err
    );
    let third = pipeline.catch_up("job.sql").ok();
    assert!(third.err.contains("0 batches"), "{}", third.err);
    assert_eq!(pipeline.doubled(), [0, 2, 4, 6, 8, 10, 12, 14]);

    let shown = pipeline
        .work
        .sql(
            &[],
            &[
                "SHOW JOBS",
                "SHOW BATCHES FOR JOB doubling",
                "SHOW CREATE JOB doubling",
            ],
        )
        .ok();
    let rows = shown.rows();
    assert_eq!(
        (rows[0]["job"].as_str(), rows[0]["state"].as_str()),
        (Some("doubling"), Some("ACTIVE"))
    );
    let batches = &rows[1..rows.len() - 1];
    assert_eq!(batches.len() as u64, rows[0]["batch"].as_u64().unwrap());
    let total: u64 = batches
        .iter()
        .map(|batch| batch["rows_in"].as_u64().unwrap())
        .sum();
    assert_eq!(total, 8);
    // A batch has at most three records.
    assert!(
        batches
            .iter()
            .all(|batch| batch["rows_in"].as_u64() <= Some(3))
    );
    let definition = rows[rows.len() - 1]["definition"].as_str().unwrap();
    assert!(
        definition.contains("CREATE EXTERNAL TABLE numbers"),
        "{definition}"
    );
    assert!(definition.contains("CREATE JOB doubling"), "{definition}");
    // Its lag is where any Kafka tool looks for it.
    let groups = kafka_tool(&["kafka-consumer-groups", "--describe", "--all-groups"], "");
    let lags: Vec<&str> = groups
        .lines()
        .filter(|line| line.contains(&pipeline.source))
        .collect();
    assert_eq!(lags.len(), 2, "{groups}");
}

#[test]
fn a_job_runs_until_it_is_interrupted() {
    let pipeline = Pipeline::between_topics("live", 1);
    let mut running = pipeline.start("job.sql");
    let deadline = Instant::now() + crate::support::PATIENCE;
    for round in 1..4 {
        pipeline.send(round * 10..round * 10 + 4);
        while pipeline.doubled().len() < (round as usize) * 4 {
            assert!(Instant::now() < deadline, "the job does not go on");
        }
    }
    signal(&running, "-TERM");
    assert_eq!(running.wait().unwrap().code(), Some(143));
    assert_eq!(pipeline.doubled().len(), 12);
}

#[test]
fn a_job_is_created_once_replaced_and_dropped() {
    let pipeline = Pipeline::between_topics("made", 1);
    let work = &pipeline.work;
    pipeline.send(0..4);
    pipeline.catch_up("job.sql").ok();
    work.file(
        "tripled.sql",
        "CREATE JOB doubling AS INSERT INTO doubled SELECT v * 3 FROM numbers;\n",
    );
    let refused = pipeline.catch_up("tripled.sql");
    assert_eq!(refused.code, Some(1));
    assert!(
        refused
            .err
            .contains("exists already, with another statement"),
        "{}",
        refused.err
    );
    work.file(
        "tripled.sql",
        "CREATE OR REPLACE JOB doubling AS INSERT INTO doubled SELECT v * 3 FROM numbers;\n",
    );
    pipeline.send(4..6);
    pipeline.catch_up("tripled.sql").ok();
    assert_eq!(pipeline.doubled(), [0, 2, 4, 6, 12, 15]);
    // Each batch names the text that made it.
    let versions =
        "SELECT batch, sql_version FROM system.batches WHERE job = 'doubling' ORDER BY batch";
    let versions = work.sql(&[], &[versions]).ok().rows();
    let last = &versions[versions.len() - 1];
    let as_of = |batch: &str| format!("SHOW CREATE JOB doubling AS OF BATCH {batch}");
    let (early, late) = (as_of("1"), as_of(&last["batch"].to_string()));
    let shown = work.sql(&[], &[&early, &late]).ok().rows();
    for (shown, version, text) in [
        (&shown[0], &versions[0], "v * 2"),
        (&shown[1], last, "v * 3"),
    ] {
        assert_eq!(shown["sql_version"], version["sql_version"]);
        assert_eq!(shown["batch"], version["batch"]);
        let definition = shown["definition"].as_str().unwrap();
        assert!(definition.contains(text), "{definition}");
    }
    assert_ne!(shown[0]["sql_version"], shown[1]["sql_version"]);
    let gone = work.sql(&[], &[&as_of("99")]);
    assert!(
        gone.err.contains("job doubling has no batch 99"),
        "{}",
        gone.err
    );
    work.sql(&[], &["DROP JOB doubling", "DROP JOB IF EXISTS doubling"])
        .ok();
    let gone = work.sql(&[], &["SHOW BATCHES FOR JOB doubling"]);
    assert!(
        gone.err.contains("no job is named doubling"),
        "{}",
        gone.err
    );
    // The name is free; a new job of that name begins at the beginning.
    pipeline.catch_up("job.sql").ok();
    assert_eq!(pipeline.doubled().len(), 12);
}

#[test]
fn a_process_with_an_older_statement_of_a_job_ends_when_another_changes_it() {
    let pipeline = Pipeline::between_topics("changed", 1);
    let work = &pipeline.work;
    pipeline.send(0..2);
    pipeline.catch_up("job.sql").ok();
    let older = pipeline
        .command("job.sql")
        .stderr(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    let deadline = std::time::Instant::now() + crate::support::PATIENCE;
    while !work.sql(&[], &["SHOW JOBS"]).ok().out.contains("RUNNING") {
        assert!(std::time::Instant::now() < deadline, "the job does not run");
    }
    let change = "CREATE OR REPLACE JOB doubling AS INSERT INTO doubled SELECT v * 3 FROM numbers";
    work.sql(&["tables.sql"], &[change]).ok();
    let ended = older.wait_with_output().unwrap();
    let said = String::from_utf8(ended.stderr).unwrap();
    assert!(
        said.contains("job doubling has another statement now: another process has changed it"),
        "{said}"
    );
    work.file("tripled.sql", &format!("{change};\n"));
    pipeline.send(2..4);
    pipeline.catch_up("tripled.sql").ok();
    assert_eq!(pipeline.doubled(), [0, 2, 6, 9]);
}

#[test]
fn a_job_with_an_interrupted_drop_is_dropped() {
    let pipeline = Pipeline::between_topics("drop-dies", 1);
    let work = &pipeline.work;
    pipeline.send(0..2);
    for fail_point in ["drop-logged", "dropped"] {
        pipeline.catch_up("job.sql").ok();
        let before = pipeline.id_of("doubling");
        let status = work
            .command()
            .args(["sql", "-c", "DROP JOB doubling"])
            .env("ANABRANCH_FAIL_POINT", fail_point)
            .stderr(std::process::Stdio::null())
            .status()
            .unwrap();
        assert_eq!(status.code(), None, "{fail_point}");
        // The name is free: the same file makes another job, which begins at the beginning.
        pipeline.catch_up("job.sql").ok();
        assert_ne!(pipeline.id_of("doubling"), before, "{fail_point}");
    }
    assert_eq!(pipeline.doubled(), [0, 0, 0, 2, 2, 2]);
}

#[test]
fn a_paused_job_waits_for_resume() {
    let pipeline = Pipeline::between_topics("paused", 1);
    let work = &pipeline.work;
    pipeline.send(0..2);
    pipeline.catch_up("job.sql").ok();
    work.sql(&[], &["PAUSE JOB doubling"]).ok();
    pipeline.send(2..4);
    let paused = pipeline.catch_up("job.sql");
    assert_eq!(paused.code, Some(1));
    assert!(
        paused.err.contains("job doubling is paused") && paused.err.contains("RESUME JOB"),
        "{}",
        paused.err
    );
    work.sql(&[], &["RESUME JOB doubling"]).ok();
    pipeline.catch_up("job.sql").ok();
    assert_eq!(pipeline.doubled(), [0, 2, 4, 6]);
}

#[test]
fn loss_1_missing_offsets_stop_the_job_until_skipped() {
    let pipeline = Pipeline::between_topics("lost", 1);
    let work = &pipeline.work;
    pipeline.send(0..4);
    pipeline.catch_up("job.sql").ok();
    pipeline.send(4..10);
    pipeline.delete_before(7);
    let stopped = pipeline.catch_up("job.sql");
    assert_eq!(stopped.code, Some(1));
    assert!(
        stopped.err.contains("partition 0 lacks offsets 4 to 6"),
        "{}",
        stopped.err
    );
    let shown = work.sql(&[], &["SHOW JOBS"]).ok().out;
    assert!(
        shown.contains("FAILED") && shown.contains("lacks offsets 4 to 6"),
        "{shown}"
    );
    work.sql(&[], &["RESUME JOB doubling SKIPPING LOST"]).ok();
    pipeline.catch_up("job.sql").ok();
    assert_eq!(pipeline.doubled(), [0, 2, 4, 6, 14, 16, 18]);
}

#[test]
fn loss_1_batches_without_their_records_cannot_be_rewound() {
    let pipeline = Pipeline::between_topics("gone", 1);
    pipeline.send(0..8);
    pipeline.catch_up("job.sql").ok();
    pipeline.catch_up("keep.sql").ok();
    pipeline.delete_before(4);
    let rewind = |file: &str, job: &str, to: u64| {
        let statement = format!("REWIND JOB {job} TO BATCH {to}");
        pipeline.work.sql(&["tables.sql", file], &[&statement])
    };
    for (file, job) in [("job.sql", "doubling"), ("keep.sql", "keeping")] {
        for to in [0, 1] {
            let refused = rewind(file, job, to);
            assert_eq!(refused.code, Some(1), "{refused:?}");
            let lacks = format!("partition 0 lacks offsets {} to 3", to * 3);
            assert!(refused.err.contains(&lacks), "{}", refused.err);
        }
    }
    assert_eq!(pipeline.kept(), (0..8).collect::<Vec<_>>());
    // Records that the topic still has can be read again.
    rewind("keep.sql", "keeping", 2).ok();
    assert_eq!(pipeline.kept(), (0..6).collect::<Vec<_>>());
    pipeline.catch_up("keep.sql").ok();
    assert_eq!(pipeline.kept(), (0..8).collect::<Vec<_>>());
}

#[test]
fn exact_3_an_append_only_table_cannot_be_rewound() {
    let pipeline = Pipeline::between_topics("append-only", 1);
    let tables = std::fs::read_to_string(pipeline.work.path("tables.sql")).unwrap();
    let tables = tables.replace(
        "LOCATION 'kept'",
        "LOCATION 'kept' OPTIONS ('delta.appendOnly' 'true')",
    );
    pipeline.work.file("tables.sql", &tables);
    pipeline.send(0..8);
    pipeline.catch_up("keep.sql").ok();
    let statement = "REWIND JOB keeping TO BATCH 1";
    let refused = pipeline.work.sql(&["tables.sql", "keep.sql"], &[statement]);
    assert_eq!(refused.code, Some(1));
    assert!(refused.err.contains("is append-only"), "{}", refused.err);
    pipeline.send(8..9);
    pipeline.catch_up("keep.sql").ok();
    assert_eq!(pipeline.kept(), (0..9).collect::<Vec<_>>());
}

#[test]
fn records_that_cannot_be_decoded_do_not_stop_a_job() {
    let pipeline = Pipeline::between_topics("dead", 1);
    pipeline.send(0..2);
    produce(&pipeline.source, "no number\n{\"v\":2}\n");
    pipeline.catch_up("job.sql").ok();
    assert_eq!(pipeline.doubled(), [0, 2, 4]);
    let shown = pipeline
        .work
        .sql(&[], &["SHOW BATCHES FOR JOB doubling"])
        .ok()
        .out;
    assert!(shown.contains("\"dead_letters\":1"), "{shown}");
}

#[test]
fn a_new_partition_is_read_from_its_beginning() {
    let pipeline = Pipeline::between_topics("wider", 1);
    pipeline.send(0..2);
    pipeline.catch_up("job.sql").ok();
    widen_topic_on(&pipeline.bootstrap, &pipeline.source, 3);
    pipeline.send(2..12);
    pipeline.catch_up("job.sql").ok();
    assert_eq!(
        pipeline.doubled(),
        (0..12).map(|v| v * 2).collect::<Vec<_>>()
    );
}

#[test]
fn unsupported_parts_of_a_job_are_refused_by_name() {
    let pipeline = Pipeline::between_topics("refused", 1);
    create_topic(&pipeline.sink, 1);
    for (query, expected) in [
        ("SELECT DISTINCT v FROM numbers", "DISTINCT"),
        ("SELECT v FROM numbers LIMIT 3", "LIMIT"),
        ("SELECT v FROM numbers ORDER BY v", "ORDER BY"),
        ("SELECT sum(v) OVER () FROM numbers", "OVER"),
        (
            "SELECT count(*) FROM numbers",
            "has no meaning without a window",
        ),
        (
            "SELECT CAST(random() * 10 AS BIGINT) FROM numbers",
            "random()",
        ),
        ("SELECT 1", "reads no Kafka table"),
        ("SELECT v FROM doubled", "reads and writes the topic"),
        ("SELECT w FROM numbers", "no column named w"),
        ("SELECT v FROM nmbers", "did you mean numbers"),
    ] {
        let job = format!("CREATE JOB refused AS INSERT INTO doubled {query}");
        let ran = pipeline.work.sql(&["tables.sql"], &[&job]);
        assert_eq!(ran.code, Some(1), "{job}: {ran:?}");
        assert!(ran.err.contains(expected), "{job}: {}", ran.err);
    }
    for (options, expected) in [
        ("'triger' '1 second'", "did you mean 'trigger'"),
        ("'trigger' 'soon'", "'as fast as possible'"),
        ("'batch.max_rows' '0'", "at least 1"),
        ("'batch.max_bytes' 'much'", "such as '256 MiB'"),
        ("'on_change' 'keep'", "reset"),
    ] {
        let job = format!(
            "CREATE JOB refused WITH ({options}) AS INSERT INTO doubled SELECT v FROM numbers"
        );
        let ran = pipeline.work.sql(&["tables.sql"], &[&job]);
        assert_eq!(ran.code, Some(1), "{job}: {ran:?}");
        assert!(ran.err.contains(expected), "{job}: {}", ran.err);
    }
    let table = format!(
        "CREATE EXTERNAL TABLE repeated (v BIGINT) STORED AS KAFKA LOCATION '{}' \
         OPTIONS ('kafka.bootstrap.servers' '{}', 'delivery' 'at_least_once')",
        pipeline.sink, pipeline.bootstrap
    );
    let job = "CREATE JOB refused AS INSERT INTO repeated SELECT v FROM numbers";
    let ran = pipeline.work.sql(&["tables.sql"], &[&table, job]);
    assert!(ran.err.contains("jobs are exactly once"), "{ran:?}");
}

#[test]
fn per_batch_aggregates_see_one_batch_each() {
    let pipeline = Pipeline::between_topics("per-batch", 1);
    pipeline.work.file(
        "sums.sql",
        "CREATE JOB sums WITH ('batch.max_rows' '3') AS\n\
         INSERT INTO doubled SELECT sum(v) FROM numbers EMIT PER BATCH;\n",
    );
    pipeline.send(1..8);
    pipeline.catch_up("sums.sql").ok();
    assert_eq!(pipeline.doubled(), [6, 7, 15]);
}

#[test]
fn exact_3_a_rewound_job_runs_its_batches_again() {
    let pipeline = Pipeline::between_topics("rewind", 1);
    pipeline.send(0..8);
    pipeline.catch_up("job.sql").ok();
    let rewound = pipeline
        .work
        .sql(
            &["tables.sql", "job.sql"],
            &["REWIND JOB doubling TO BATCH 1"],
        )
        .ok();
    assert!(
        rewound.err.contains("2 batches are abandoned"),
        "{}",
        rewound.err
    );
    // Offsets 0 to 2 are the first batch, 3 the end of its transaction; 4 to 6, 7; 8 to 9.
    assert!(
        rewound.err.contains("partition 0 from 4 to 9"),
        "{}",
        rewound.err
    );
    pipeline.catch_up("job.sql").ok();
    // The first batch once, the others twice: published rows stay.
    assert_eq!(
        pipeline.doubled(),
        [0, 2, 4, 6, 6, 8, 8, 10, 10, 12, 12, 14, 14]
    );
    let shown = pipeline
        .work
        .sql(&[], &["SHOW BATCHES FOR JOB doubling"])
        .ok()
        .out;
    let generations: Vec<u64> = shown
        .lines()
        .map(|line| {
            serde_json::from_str::<serde_json::Value>(line).unwrap()["generation"]
                .as_u64()
                .unwrap()
        })
        .collect();
    assert_eq!(generations, [0, 1, 1]);
    let none = pipeline.work.sql(
        &["tables.sql", "job.sql"],
        &["REWIND JOB doubling TO BATCH 9"],
    );
    assert!(
        none.err.contains("has no batch 9; it has 1 to 3"),
        "{}",
        none.err
    );
}

#[test]
fn exact_3_a_rewound_delta_table_is_that_of_a_job_that_never_went_past() {
    let pipeline = Pipeline::between_topics("rewind-delta", 1);
    let rewind = |to: u64| {
        pipeline.work.sql(
            &["tables.sql", "keep.sql"],
            &[&format!("REWIND JOB keeping TO BATCH {to}")],
        )
    };
    pipeline.send(0..8);
    pipeline.catch_up("keep.sql").ok();
    assert!(rewind(1).ok().err.contains("no longer in the table"));
    assert_eq!(pipeline.kept(), [0, 1, 2]);
    pipeline.catch_up("keep.sql").ok();
    assert_eq!(pipeline.kept(), (0..8).collect::<Vec<_>>());

    // To the beginning, in a process that dies after it has logged the rewind: the next process completes it.
    let status = pipeline
        .work
        .command()
        .args([
            "sql",
            "-f",
            "tables.sql",
            "-f",
            "keep.sql",
            "-c",
            "REWIND JOB keeping TO BATCH 0",
        ])
        .env("ANABRANCH_FAIL_POINT", "rewound")
        .stderr(std::process::Stdio::null())
        .status()
        .unwrap();
    assert_eq!(status.code(), None);
    assert_eq!(pipeline.kept().len(), 8, "not yet");
    pipeline.catch_up("keep.sql").ok();
    assert_eq!(pipeline.kept(), (0..8).collect::<Vec<_>>());

    // Files that were rewritten hold other rows as well.
    pipeline.work.sql(&["tables.sql"], &["OPTIMIZE kept"]).ok();
    let refused = rewind(1);
    assert_eq!(refused.code, Some(1));
    assert!(refused.err.contains("no longer in it"), "{}", refused.err);
    assert_eq!(pipeline.kept(), (0..8).collect::<Vec<_>>());
    pipeline.send(8..9);
    pipeline.catch_up("keep.sql").ok();
    assert_eq!(pipeline.kept(), (0..9).collect::<Vec<_>>());
}

#[test]
fn job_state_of_a_missing_job_is_an_error() {
    let work = crate::support::Workspace::new();
    let told = work.sql(&[], &["SELECT * FROM job_state('nope')"]);
    assert_eq!(told.code, Some(1), "{told:#?}");
    assert!(told.err.contains("no job is named nope"), "{}", told.err);
    assert!(told.err.contains("<command>:1:25"), "{}", told.err);
}
