//! Lasting refusals of a broker: they stop a job at once, without a wait, and SHOW JOBS says why.

use std::time::{Duration, Instant};

use super::Pipeline;
use crate::support::{TestBroker, kafka, repository};
use crate::topics::create_topic_with;

/// A job from numbers to a topic with settings and a table with options; `query` fills `v` and `k`, the record's key, and `ts`,
/// its time.
fn pipeline(name: &str, setting: Option<(&str, &str)>, options: &str, query: &str) -> Pipeline {
    pipeline_on(&kafka(), name, setting, options, query)
}

/// The same on another broker.
fn pipeline_on(
    bootstrap: &str,
    name: &str,
    setting: Option<(&str, &str)>,
    options: &str,
    query: &str,
) -> Pipeline {
    let pipeline = Pipeline::on(bootstrap, name, 1);
    let (bootstrap, source, sink) = (&pipeline.bootstrap, &pipeline.source, &pipeline.sink);
    if let Some(setting) = setting {
        create_topic_with(bootstrap, sink, 1, &[setting]);
    }
    pipeline.work.file(
        "tables.sql",
        &format!(
            "CREATE EXTERNAL TABLE numbers (v BIGINT) STORED AS KAFKA LOCATION '{source}' \
               OPTIONS ('kafka.bootstrap.servers' '{bootstrap}');\n\
             CREATE EXTERNAL TABLE out (v BIGINT, k VARCHAR METADATA FROM 'key', ts TIMESTAMP METADATA FROM 'timestamp') \
               STORED AS KAFKA LOCATION '{sink}' OPTIONS ('kafka.bootstrap.servers' '{bootstrap}' {options});\n"
        ),
    );
    pipeline.work.file(
        "job.sql",
        &format!(
            "CREATE JOB refused WITH ('trigger' '10 milliseconds') AS INSERT INTO out (v, k, ts) SELECT {query} FROM numbers;\n"
        ),
    );
    pipeline.send(0..5);
    pipeline
}

/// The job ends by itself, and SHOW JOBS says so with these words.
#[track_caller]
fn fails(pipeline: &Pipeline, expected: &[&str]) {
    // Without a reason to end it would run for ever, as jobs do.
    let mut run = pipeline.start("job.sql");
    let deadline = Instant::now() + crate::support::PATIENCE;
    let status = loop {
        if let Some(status) = run.try_wait().unwrap() {
            break Some(status);
        }
        if Instant::now() > deadline {
            run.kill().unwrap();
            run.wait().unwrap();
            break None;
        }
        std::thread::sleep(Duration::from_millis(20));
    };
    let shown = pipeline.work.sql(&[], &["SHOW JOBS"]).ok();
    let row: serde_json::Value = serde_json::from_str(shown.out.trim()).unwrap();
    assert_eq!(row["state"], "FAILED", "{row}");
    let reason = row["reason"].as_str().unwrap();
    for words in expected {
        assert!(reason.contains(words), "{words}: {reason}");
    }
    assert_eq!(status.and_then(|status| status.code()), Some(1), "{row}");
}

const PLAIN: &str = "v, CAST(v AS VARCHAR), now()";

#[test]
fn a_record_without_a_key_in_a_compacted_topic() {
    let setting = Some(("cleanup.policy", "compact"));
    let query = "v, CASE WHEN v <> 3 THEN 'key' END, now()";
    let job = pipeline("job-compacted", setting, "", query);
    fails(&job, &["refuses a record", "PRIMARY KEY"]);
    // No row of the batch was visible before, and the job's new text is used from now on.
    assert_eq!(job.printed(), "");
    let query = "v, coalesce(CASE WHEN v <> 3 THEN 'key' END, 'none'), now()";
    let text = format!(
        "CREATE OR REPLACE JOB refused WITH ('trigger' '10 milliseconds') AS \
         INSERT INTO out (v, k, ts) SELECT {query} FROM numbers;\nRESUME JOB refused;\n"
    );
    job.work.file("job.sql", &text);
    job.catch_up("job.sql").ok();
    assert_eq!(job.printed().lines().count(), 5);
}

#[test]
fn a_record_of_a_time_that_the_topic_does_not_take() {
    let setting = Some(("message.timestamp.after.max.ms", "60000"));
    for key in ["'key'", "CAST(NULL AS VARCHAR)"] {
        let query = format!("v, {key}, now() + INTERVAL '300 days'");
        let job = pipeline("job-far", setting, "", &query);
        fails(
            &job,
            &[
                "the time of a record is further from the clock",
                "message.timestamp.after.max.ms",
            ],
        );
    }
}

#[test]
fn a_sink_that_cannot_be_created() {
    let options = ", 'topic.partitions' '1', 'topic.replication_factor' '3'";
    let job = pipeline("job-replicas", None, options, PLAIN);
    fails(
        &job,
        &["could not be created", "'topic.replication_factor'"],
    );
}

/// A policy of the cluster is no fault of a connection: the statement is refused at once, with the topic, and
/// statements that the policy allows run.
#[test]
fn a_topic_that_a_policy_of_the_cluster_forbids() {
    let policy = repository().join("tests/jvm/AtMostThreePartitions.java");
    let broker = TestBroker::start(&["--policy", &policy.display().to_string()]);
    let bootstrap = broker.variable("KAFKA_BOOTSTRAP");
    let job = pipeline_on(
        bootstrap,
        "job-policy",
        None,
        ", 'topic.partitions' '4'",
        PLAIN,
    );
    let topic = format!("topic '{}' could not be created", job.sink);
    let expected = [topic.as_str(), "a policy of the cluster forbids it"];
    let insert = "INSERT INTO out (v, k, ts) VALUES (1, 'a', now())";
    let refused = job.work.sql(&["tables.sql"], &[insert]);
    assert_eq!(refused.code, Some(1), "{refused:?}");
    for words in expected {
        assert!(refused.err.contains(words), "{words}: {}", refused.err);
    }
    fails(&job, &expected);
    let few = format!(
        "CREATE EXTERNAL TABLE few (v BIGINT) STORED AS KAFKA LOCATION '{}-few' \
         OPTIONS ('kafka.bootstrap.servers' '{bootstrap}', 'topic.partitions' '3')",
        job.sink
    );
    job.work
        .sql(&[], &[&few, "INSERT INTO few VALUES (1)"])
        .ok();
}

#[test]
fn a_transaction_that_may_take_longer_than_the_broker_allows() {
    let options = ", 'topic.partitions' '1', 'transaction.timeout' '1 day'";
    let job = pipeline("job-timeout", None, options, PLAIN);
    fails(&job, &["lower 'transaction.timeout'"]);
}

#[test]
fn a_source_whose_client_cannot_be_created() {
    let job = pipeline("job-client", None, ", 'topic.partitions' '1'", PLAIN);
    let tables = std::fs::read_to_string(job.work.path("tables.sql")).unwrap();
    let first = format!("'kafka.bootstrap.servers' '{}'", job.bootstrap);
    let bad = format!("{first}, 'kafka.fetch.max.bytes' '600'");
    job.work
        .file("tables.sql", &tables.replacen(&first, &bad, 1));
    fails(&job, &["'kafka.fetch.max.bytes'"]);
}
