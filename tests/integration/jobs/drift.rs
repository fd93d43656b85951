//! Partitions that wait for each other in event time.

use super::Pipeline;
use crate::support::create_topic;

const SECONDS: u32 = 30 * 60;

/// Seconds between two records of each partition: of partition 1 there are more, and it is the slow one when both get the same
/// share.
const EVERY: [u32; 2] = [20, 6];

/// Where a test is not about idleness, however long it takes: no partition is left out.
const NEVER: &str = "1 day";

/// Records of half an hour on partition 0, and of the same half hour on partition 1, in batches of a few records.
fn two_partitions(name: &str, idle_after: &str, options: &str) -> Pipeline {
    let pipeline = Pipeline::between_topics(name, 2);
    let (bootstrap, source) = (&pipeline.bootstrap, &pipeline.source);
    pipeline.work.file(
        "tables.sql",
        &format!(
            "CREATE EXTERNAL TABLE ticks (k BIGINT, t TIMESTAMP, p INT METADATA FROM 'partition', \
               WATERMARK FOR t AS t - INTERVAL '5 seconds') \
             STORED AS KAFKA LOCATION '{source}' OPTIONS ('kafka.bootstrap.servers' '{bootstrap}', \
               'watermark.idle_after' '{idle_after}', 'watermark.max_ahead' '3650 days');\n\
             CREATE EXTERNAL TABLE kept (k BIGINT, s TIMESTAMP, v BIGINT) STORED AS DELTA LOCATION 'kept';\n"
        ),
    );
    pipeline.work.file(
        "job.sql",
        &format!(
            "CREATE JOB drifting WITH ('trigger' '10 milliseconds', 'batch.max_rows' '10' {options}) AS \
             INSERT INTO kept SELECT k, window_start, count(*) \
             FROM TUMBLE(TABLE ticks, DESCRIPTOR(t), INTERVAL '10 seconds') GROUP BY k, window_start;\n"
        ),
    );
    let times = |partition: usize| -> String {
        (0..SECONDS)
            .step_by(EVERY[partition] as usize)
            .map(|second| {
                format!(
                    "({partition}, TIMESTAMP '2025-01-01T00:{:02}:{:02}Z', {partition}),",
                    second / 60,
                    second % 60
                )
            })
            .collect()
    };
    for partition in [0, 1] {
        let values = times(partition);
        let insert = format!(
            "INSERT INTO ticks (k, t, p) VALUES {}",
            values.trim_end_matches(',')
        );
        pipeline.work.sql(&["tables.sql"], &[&insert]).ok();
    }
    pipeline
}

/// How far the watermarks of the two partitions were apart after each batch, in seconds, while both had records left.
fn drifts(pipeline: &Pipeline) -> Vec<i64> {
    let mut drifts = Vec::new();
    let folder = pipeline.work.path("anabranch-data/jobs");
    let versions = std::fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().path().join("versions"))
        .find(|path| path.exists())
        .unwrap();
    for entry in std::fs::read_dir(versions).unwrap() {
        let text = std::fs::read_to_string(entry.unwrap().path()).unwrap();
        let version: serde_json::Value = serde_json::from_str(&text).unwrap();
        let partitions = &version["time"]["partitions"]["ticks"];
        let watermark = |partition: &str| partitions[partition]["watermark"].as_i64();
        let end = |partition: &str| version["sources"]["ticks"][partition]["end"].as_i64();
        let records = EVERY.map(|every| i64::from(SECONDS / every));
        let has_more = end("0") < Some(records[0]) && end("1") < Some(records[1]);
        if let (Some(first), Some(second), true) = (watermark("0"), watermark("1"), has_more) {
            drifts.push((first - second).abs() / 1_000_000);
        }
    }
    drifts
}

#[test]
fn a_partition_that_is_ahead_waits_and_the_rows_are_the_same() {
    let free = two_partitions("drift-free", NEVER, "");
    free.catch_up("job.sql").ok();
    let bound = two_partitions("drift-bound", NEVER, ", 'watermark.max_drift' '60 seconds'");
    bound.catch_up("job.sql").ok();
    // Without a limit the partitions read the same number of records a batch, and one is soon minutes ahead.
    let ahead = drifts(&free).into_iter().max().unwrap();
    assert!(ahead > 1_000, "{ahead} seconds");
    // With it, at most the limit and the span of one batch of partition 0: 10 records of 20 seconds.
    let held = drifts(&bound);
    assert!(held.len() > 5, "{held:?}");
    assert!(held.iter().all(|drift| *drift <= 60 + 10 * 20), "{held:?}");
    for pipeline in [&free, &bound] {
        // The watermark is five seconds behind the last record of either partition when both are read.
        let counted = pipeline.counted("kept");
        let of = |key: i64| counted.iter().filter(|((k, _), _)| *k == key).count();
        assert!(of(0) > 80 && of(1) > 170, "{} and {}", of(0), of(1));
    }
    assert_eq!(free.counted("kept"), bound.counted("kept"));
}

#[test]
fn a_silent_partition_holds_others_back_until_it_is_idle() {
    let pipeline = two_partitions(
        "drift-silent",
        "2 seconds",
        ", 'watermark.max_drift' '0 seconds'",
    );
    pipeline.catch_up("job.sql").ok();
    // More on partition 1 alone, much later: partition 0 is caught up, and idle after a while.
    let insert = "INSERT INTO ticks (k, t, p) VALUES (1, TIMESTAMP '2025-01-01T01:00:00Z', 1), \
                  (1, TIMESTAMP '2025-01-01T01:10:00Z', 1), (1, TIMESTAMP '2025-01-01T01:20:00Z', 1)";
    pipeline.work.sql(&["tables.sql"], &[insert]).ok();
    pipeline.catch_up("job.sql").ok();
    let query = "SELECT sum(rows_in) AS n FROM system.batches";
    let rows = pipeline.work.sql(&["tables.sql"], &[query]).ok();
    let row: serde_json::Value = serde_json::from_str(rows.out.trim()).unwrap();
    let records: u32 = EVERY.iter().map(|every| SECONDS / every).sum();
    assert_eq!(row["n"], records + 3);
}

#[test]
fn the_drift_of_a_job_without_windows_is_refused() {
    let pipeline = Pipeline::between_topics("drift-refused", 1);
    create_topic(&pipeline.sink, 1);
    for (options, expected) in [
        ("'watermark.max_drift' '1 hour'", "is for jobs with windows"),
        ("'watermark.max_drift' 'far'", "watermark.max_drift"),
        (
            "'watermark.max_drfit' '1 hour'",
            "did you mean 'watermark.max_drift'",
        ),
    ] {
        let job =
            format!("CREATE JOB j WITH ({options}) AS INSERT INTO doubled SELECT v FROM numbers");
        let ran = pipeline.work.sql(&["tables.sql"], &[&job]);
        assert_eq!(ran.code, Some(1), "{job}: {ran:?}");
        assert!(ran.err.contains(expected), "{job}: {}", ran.err);
    }
}
