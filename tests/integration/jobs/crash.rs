//! Processes that die: at every step of a batch, at random, and beside another that runs the same job.

use std::time::{Duration, Instant};

use super::Pipeline;
use crate::support::{TestBroker, kafka_tool};

/// Every step of a runner after which a process may die.
pub(super) const FAIL_POINTS: [&str; 5] =
    ["taken-over", "written", "staged", "committed", "logged"];

#[test]
fn exact_1_a_topic_has_every_row_once_after_a_crash_at_any_step() {
    let pipeline = Pipeline::between_topics("crash", 2);
    let mut sent = 0;
    pipeline.crash_at_each_step("job.sql", 2, || {
        pipeline.send(sent..sent + 7);
        sent += 7;
    });
    let all: Vec<u64> = (0..sent).map(|v| v * 2).collect();
    assert_eq!(pipeline.doubled(), all);
    assert_eq!(pipeline.doubled_for_others(), all);
}

#[test]
fn exact_2_a_delta_table_has_every_row_once_after_a_crash_at_any_step() {
    let pipeline = Pipeline::between_topics("crash-delta", 2);
    let mut sent = 0;
    pipeline.crash_at_each_step("keep.sql", 1, || {
        pipeline.send(sent..sent + 7);
        sent += 7;
    });
    assert_eq!(pipeline.kept(), (0..sent).collect::<Vec<_>>());
}

/// The group's offsets have expired, and a process has died between the sink and the log: only the user can tell
/// whether the batch is in the sink.
#[test]
fn exact_1_a_job_without_its_witness_asks_the_user() {
    let pipeline = Pipeline::between_topics("witness", 1);
    let forget = || {
        let id = pipeline.id_of("doubling");
        let group = format!("anabranch-{id}");
        let arguments = [
            "kafka-consumer-groups",
            "--bootstrap-server",
            &pipeline.bootstrap,
            "--delete",
            "--group",
            &group,
        ];
        kafka_tool(&arguments, "");
    };
    let resume = |assuming: &str| {
        let asked = pipeline.catch_up("job.sql");
        assert_eq!(asked.code, Some(1), "{asked:?}");
        assert!(
            asked.err.contains("it is unknown whether batch"),
            "{}",
            asked.err
        );
        let statement = format!("RESUME JOB doubling ASSUMING {assuming}");
        pipeline.work.sql(&[], &[&statement]).ok();
        pipeline.catch_up("job.sql").ok();
    };
    pipeline.send(0..3);
    pipeline.catch_up("job.sql").ok();
    pipeline.send(3..6);
    pipeline.crash("job.sql", "committed");
    forget();
    resume("BATCH 2 COMMITTED");
    assert_eq!(pipeline.doubled(), [0, 2, 4, 6, 8, 10]);

    pipeline.send(6..9);
    pipeline.crash("job.sql", "staged");
    forget();
    resume("BATCH 3 NOT COMMITTED");
    assert_eq!(
        pipeline.doubled(),
        (0..9).map(|v| v * 2).collect::<Vec<_>>()
    );
}

#[test]
fn exact_1_a_job_whose_log_is_in_an_object_store() {
    let name = "jobs::crash::exact_1_a_job_whose_log_is_in_an_object_store";
    let Some((endpoint, bucket)) = crate::support::s3(name) else {
        return;
    };
    let mut pipeline = Pipeline::between_topics("crash-s3", 2);
    pipeline.variables = vec![
        (
            "ANABRANCH_DATA_DIR",
            format!("s3://{bucket}/{}", pipeline.source),
        ),
        ("AWS_ENDPOINT", endpoint),
        ("AWS_ALLOW_HTTP", "true".into()),
        ("AWS_REGION", "us-east-1".into()),
    ];
    let mut sent = 0;
    pipeline.crash_at_each_step("job.sql", 1, || {
        pipeline.send(sent..sent + 7);
        sent += 7;
    });
    assert_eq!(
        pipeline.doubled(),
        (0..sent).map(|v| v * 2).collect::<Vec<_>>()
    );
    let left = pipeline.work.path("anabranch-data");
    assert!(!left.exists(), "nothing is kept in a folder");
}

#[test]
fn exact_1_processes_are_killed_at_random() {
    let pipeline = Pipeline::between_topics("killed", 2);
    let mut sent = 0;
    // The moments are fixed: a test whose moments differ from run to run could not be repeated.
    for milliseconds in [150, 220, 340, 410, 530, 690] {
        pipeline.send(sent..sent + 20);
        sent += 20;
        let mut running = pipeline.start("job.sql");
        std::thread::sleep(Duration::from_millis(milliseconds));
        running.kill().unwrap();
        running.wait().unwrap();
    }
    pipeline.catch_up("job.sql").ok();
    assert_eq!(
        pipeline.doubled(),
        (0..sent).map(|v| v * 2).collect::<Vec<_>>()
    );
}

#[test]
fn exact_1_one_of_two_runners_of_a_job_gives_way() {
    let pipeline = Pipeline::between_topics("two", 2);
    pipeline.send(0..30);
    let mut first = pipeline.start("job.sql");
    let mut second = pipeline.start("job.sql");
    let deadline = Instant::now() + crate::support::PATIENCE;
    // One of them ends, with an error, since the other has taken the job over.
    let (code, mut other) = loop {
        if let Some(status) = first.try_wait().unwrap() {
            break (status.code(), second);
        }
        if let Some(status) = second.try_wait().unwrap() {
            break (status.code(), first);
        }
        assert!(Instant::now() < deadline, "both go on");
        std::thread::sleep(Duration::from_millis(20));
    };
    assert_eq!(code, Some(2));
    pipeline.send(30..40);
    while pipeline.doubled().len() < 40 {
        assert!(Instant::now() < deadline, "the other does not go on");
    }
    other.kill().unwrap();
    other.wait().unwrap();
    assert_eq!(
        pipeline.doubled(),
        (0..40).map(|v| v * 2).collect::<Vec<_>>()
    );
}

/// Beside the job that doubles numbers one that counts them by the hour they were sent in.
fn count_beside(pipeline: &Pipeline) {
    let (source, bootstrap) = (&pipeline.source, &pipeline.bootstrap);
    let counts = crate::support::topic("broker-counts");
    let kafka = |topic: &str, more: &str| {
        format!(
            "STORED AS KAFKA LOCATION '{topic}' OPTIONS ('kafka.bootstrap.servers' '{bootstrap}', 'connect.timeout' '3 seconds'{more});\n"
        )
    };
    let tables = [
        "CREATE EXTERNAL TABLE timed (v BIGINT, t TIMESTAMP METADATA FROM 'timestamp', WATERMARK FOR t AS t - INTERVAL '5 seconds') ",
        // How long a broker is away decides nothing: no partition is left out.
        &kafka(source, ", 'watermark.idle_after' '1 day'"),
        "CREATE EXTERNAL TABLE counts (s TIMESTAMP, n BIGINT, o BIGINT METADATA FROM 'offset', PRIMARY KEY (s) NOT ENFORCED) ",
        &kafka(&counts, ", 'topic.partitions' '1'"),
    ];
    pipeline.work.append("tables.sql", &tables.concat());
    pipeline.work.append(
        "job.sql",
        "CREATE JOB counting WITH ('trigger' '10 milliseconds', 'batch.max_rows' '3') AS\n\
         INSERT INTO counts SELECT window_start, count(*) FROM TUMBLE(TABLE timed, DESCRIPTOR(t), INTERVAL '1 hour')\n\
         GROUP BY window_start EMIT CHANGES;\n",
    );
}

fn wait_for_state(pipeline: &Pipeline, state: &str) {
    let deadline = Instant::now() + crate::support::PATIENCE;
    loop {
        let shown = pipeline.work.sql(&[], &["SHOW JOBS"]).ok().out;
        if shown.lines().all(|line| line.contains(state)) && shown.lines().count() == 2 {
            return;
        }
        assert!(Instant::now() < deadline, "not {state}: {shown}");
        std::thread::sleep(Duration::from_millis(200));
    }
}

#[test]
fn exact_1_the_broker_is_stopped_killed_and_paused_under_load() {
    let broker = TestBroker::start(&[]);
    let pipeline = Pipeline::on(broker.variable("KAFKA_BOOTSTRAP"), "broker", 2);
    count_beside(&pipeline);
    let mut running = pipeline.start("job.sql");
    let mut sent = 0;
    let mut send = || {
        pipeline.send(sent..sent + 30);
        sent += 30;
        sent
    };
    let counted = || -> Vec<(String, u64)> {
        let query = "SELECT CAST(s AS VARCHAR) AS s, n FROM counts ORDER BY o";
        let rows = pipeline.work.sql(&["tables.sql"], &[query]).ok().out;
        let row = |line: &str| {
            let row: serde_json::Value = serde_json::from_str(line).unwrap();
            (
                row["s"].as_str().unwrap().to_owned(),
                row["n"].as_u64().unwrap(),
            )
        };
        rows.lines().map(row).collect()
    };
    let total = |counted: &[(String, u64)]| -> u64 {
        let last: std::collections::BTreeMap<_, _> = counted.iter().cloned().collect();
        last.values().sum()
    };
    send();
    wait_for_state(&pipeline, "RUNNING");
    for (down, up) in [("stop", "start"), ("kill", "start"), ("pause", "continue")] {
        broker.control(down);
        match down {
            "stop" => wait_for_state(&pipeline, "WAITING"),
            _ => std::thread::sleep(Duration::from_secs(2)),
        }
        broker.control(up);
        send();
    }
    // In the middle of batches, at any of their steps.
    broker.control("pause");
    wait_for_state(&pipeline, "WAITING");
    broker.control("continue");
    let sent = send();
    let deadline = Instant::now() + crate::support::PATIENCE;
    while (pipeline.doubled().len() as u64) < sent || total(&counted()) < sent {
        assert!(Instant::now() < deadline, "the jobs do not go on");
        assert_eq!(running.try_wait().unwrap(), None, "the process has ended");
    }
    wait_for_state(&pipeline, "RUNNING");
    running.kill().unwrap();
    running.wait().unwrap();
    assert_eq!(
        pipeline.doubled(),
        (0..sent).map(|v| v * 2).collect::<Vec<_>>()
    );
    let counted = counted();
    assert_eq!(total(&counted), sent);
    // The counts of a window grow strictly: a batch that was published twice would repeat a count.
    for (hour, counts) in counted.iter().fold(
        std::collections::BTreeMap::<_, Vec<u64>>::new(),
        |mut by_hour, (hour, n)| {
            by_hour.entry(hour).or_default().push(*n);
            by_hour
        },
    ) {
        assert!(counts.is_sorted_by(|a, b| a < b), "{hour}: {counts:?}");
    }
}
