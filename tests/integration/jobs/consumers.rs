//! Consumers of a topic that a job and its reprocessing runs write: the programs of docs/reprocessing.md.

use std::process::Command;

use serde_json::Value;

use super::Pipeline;
use super::reprocessing::archived_visits;
use crate::support::{ProgramOutput, consume_on, python_with, repository};
use crate::topics::produce_in;

/// The sessions over all visits that are closed when the last visit has come.
const SESSIONS: &str = "SELECT k, began, n FROM (\
     SELECT k, window_end AS e, CAST(date_part('second', window_start) AS BIGINT) AS began, count(*) AS n \
     FROM SESSION(TABLE visits PARTITION BY k, DESCRIPTOR(t), INTERVAL '3 seconds') GROUP BY k, window_start, window_end) \
     WHERE e <= TIMESTAMP '2025-01-01T00:00:45'";

/// Archived visits of one partition, and a job that writes their sessions to a topic.
fn sessions() -> Pipeline {
    let pipeline = Pipeline::between_topics("consumers", 1);
    let (bootstrap, sink) = (&pipeline.bootstrap, &pipeline.sink);
    let mut tables = archived_visits(&pipeline);
    tables += &format!(
        "CREATE EXTERNAL TABLE sessions (k BIGINT, s TIMESTAMP, e TIMESTAMP, began BIGINT, n BIGINT, \
         PRIMARY KEY (k, s) NOT ENFORCED) STORED AS KAFKA LOCATION '{sink}' \
         OPTIONS ('kafka.bootstrap.servers' '{bootstrap}', 'topic.partitions' '1');\n"
    );
    pipeline.work.file("tables.sql", &tables);
    pipeline.work.file(
        "sessions.sql",
        "CREATE JOB sessions WITH ('trigger' '10 milliseconds') AS INSERT INTO sessions \
         SELECT k, window_start, window_end, CAST(date_part('second', window_start) AS BIGINT), count(*) \
         FROM SESSION(TABLE visits PARTITION BY k, DESCRIPTOR(t), INTERVAL '3 seconds') GROUP BY k, window_start, window_end;\n",
    );
    pipeline
}

/// Sends visits of these keys at these seconds, and lets the jobs handle them.
fn visit(pipeline: &Pipeline, visits: &[(u32, u32)]) {
    let values: Vec<String> = visits
        .iter()
        .map(|(k, second)| format!("{{\"k\":{k},\"t\":\"2025-01-01T00:00:{second:02}Z\"}}"))
        .collect();
    produce_in(&pipeline.bootstrap, &pipeline.source, 0, &values);
    for job in ["archive.sql", "sessions.sql"] {
        pipeline.catch_up(job).ok();
    }
}

/// Key, start and count of sessions, sorted.
fn sorted(rows: impl IntoIterator<Item = Value>) -> Vec<[u64; 3]> {
    let numbers = |row: Value| ["k", "began", "n"].map(|name| row[name].as_u64().unwrap());
    let mut sessions: Vec<[u64; 3]> = rows.into_iter().map(numbers).collect();
    sessions.sort_unstable();
    sessions
}

/// The newest rows of the topic by key, which both programs print alike.
fn newest_rows(pipeline: &Pipeline) -> Vec<[u64; 3]> {
    let (bootstrap, topic) = (&pipeline.bootstrap, &pipeline.sink);
    // The marks that close a transaction may come a moment after its commit: this waits for them.
    consume_on(bootstrap, topic, &[]);
    let mut python = Command::new(python_with("kafka.txt"));
    python.arg(repository().join("tests/python/newest_rows.py"));
    let mut java = Command::new(repository().join("tests/jvm/run-kafka"));
    java.arg("NewestRows.java");
    let [by_python, by_java] =
        [python, java].map(|mut program| ProgramOutput::of(program.args([bootstrap, topic])).ok());
    assert_eq!(by_python.out, by_java.out);
    let rows = by_python.out.lines().map(|line| {
        let (_, row) = line.split_once('\t').expect(line);
        serde_json::from_str::<Value>(row).unwrap()
    });
    sorted(rows)
}

#[test]
fn consumers_have_the_rows_of_a_query_over_the_past_after_a_run() {
    let pipeline = sessions();
    let sql = |statement: &str| pipeline.work.sql(&["tables.sql"], &[statement]).ok();
    let over_the_past = || sorted(sql(SESSIONS).rows());
    let early = [(3, 2), (1, 10), (2, 10), (1, 11), (1, 12), (2, 14), (2, 15)];
    visit(&pipeline, &early);
    visit(&pipeline, &[(1, 18), (1, 19), (3, 50)]);
    let before = [
        [1_u64, 10, 3],
        [1, 18, 2],
        [2, 10, 1],
        [2, 14, 2],
        [3, 2, 1],
    ];
    assert_eq!(over_the_past(), before);
    assert_eq!(newest_rows(&pipeline), before);

    // As far as the gap from the session before it and from the one behind it: of the two one becomes.
    visit(&pipeline, &[(1, 15)]);
    assert_eq!(newest_rows(&pipeline), before, "the visit was late");
    sql(
        "REPROCESS JOB sessions FROM '2025-01-01T00:00:08' TO '2025-01-01T00:00:25' \
         WITH ('run_id' 'merged', 'withdraw' 'true')",
    );
    let printed = consume_on(&pipeline.bootstrap, &pipeline.sink, &["print.headers=true"]);
    let of_run: Vec<&str> = printed
        .lines()
        .filter(|line| line.contains("run_id:merged"))
        .collect();
    assert_eq!(of_run.len(), 2, "{printed}");
    assert!(
        of_run.iter().any(|line| line.ends_with("\tnull")),
        "{printed}"
    );
    let after = [[1_u64, 10, 6], [2, 10, 1], [2, 14, 2], [3, 2, 1]];
    assert_eq!(over_the_past(), after);
    assert_eq!(newest_rows(&pipeline), after);
}
