//! Jobs with overlapping windows: their state is by slice, also after crashes, and is told from state by window.

use std::collections::BTreeMap;

use super::Pipeline;
use super::windows::counting;
use crate::support::without_checksum;

const STEP: i64 = 5;
const SIZE: i64 = 20;

/// Counts per key and twenty seconds that begin every five, each window once; three records a batch.
fn hopping(name: &str) -> Pipeline {
    let pipeline = counting(name);
    for (file, job, table) in [
        ("job.sql", "to_topic", "counts"),
        ("keep.sql", "to_delta", "kept"),
    ] {
        pipeline
            .work
            .file(file, &format!("{};\n", create(job, "", table)));
    }
    pipeline
}

fn create(job: &str, options: &str, table: &str) -> String {
    format!(
        "CREATE JOB {job} WITH ('trigger' '10 milliseconds', 'batch.max_rows' '3'{options}) AS \
         INSERT INTO {table} SELECT k, window_start, count(*) \
         FROM HOP(TABLE ticks, DESCRIPTOR(t), INTERVAL '{STEP} seconds', INTERVAL '{SIZE} seconds') \
         GROUP BY k, window_start"
    )
}

/// Every window that a watermark five seconds behind has passed, once: second `n` is of key `n % 2`.
fn expected(seconds: u32) -> BTreeMap<(i64, String), Vec<i64>> {
    let first = chrono::DateTime::parse_from_rfc3339("2025-01-01T00:00:00Z").unwrap();
    let seconds = i64::from(seconds);
    let mut expected = BTreeMap::new();
    let mut start = STEP - SIZE;
    while start + SIZE <= seconds - 1 - 5 {
        for key in 0..2 {
            let rows = (start.max(0)..start + SIZE).filter(|second| second % 2 == key);
            let at = first + chrono::TimeDelta::seconds(start);
            let at = at.format("%Y-%m-%dT%H:%M:%SZ").to_string();
            expected.insert((key, at), vec![i64::try_from(rows.count()).unwrap()]);
        }
        start += STEP;
    }
    expected
}

#[test]
fn exact_1_overlapping_windows_are_counted_once_after_a_crash_at_any_step() {
    let pipeline = hopping("slices-crash");
    let mut sent = 0;
    pipeline.crash_at_each_step("job.sql", 1, || {
        pipeline.tick(sent..sent + 11);
        sent += 11;
    });
    assert_eq!(pipeline.counted("counts"), expected(sent));
}

#[test]
fn exact_2_3_overlapping_windows_in_a_delta_table_after_crashes_and_rewinds() {
    let pipeline = hopping("slices-delta");
    let mut sent = 0;
    pipeline.crash_at_each_step("keep.sql", 1, || {
        pipeline.tick(sent..sent + 13);
        sent += 13;
    });
    assert_eq!(pipeline.counted("kept"), expected(sent));
    for batch in ["9", "0"] {
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
fn state_by_slice_is_shown_and_state_by_window_is_refused() {
    let pipeline = hopping("slices-shown");
    pipeline.tick(0..14);
    pipeline.catch_up("job.sql").ok();
    let state = "SELECT k, CAST(slice_start AS VARCHAR) AS a, CAST(slice_end AS VARCHAR) AS b, \
                 CAST(first_window_end AS VARCHAR) AS c, CAST(last_window_end AS VARCHAR) AS d, \
                 \"count state\" AS n FROM job_state('to_topic') ORDER BY k, a";
    let shown = pipeline.work.sql(&[], &[state]).ok();
    let slice = |key: u32, start: u32, count: u32| {
        let at = |second: u32| format!("2025-01-01T00:00:{second:02}Z");
        format!(
            "{{\"k\":{key},\"a\":\"{}\",\"b\":\"{}\",\"c\":\"{}\",\"d\":\"{}\",\"n\":{count}}}",
            at(start),
            at(start + 5),
            at(start + 5),
            at(start + 20)
        )
    };
    assert_eq!(
        shown.out.lines().collect::<Vec<_>>(),
        [
            slice(0, 0, 3),
            slice(0, 5, 2),
            slice(0, 10, 2),
            slice(1, 0, 2),
            slice(1, 5, 3),
            slice(1, 10, 2)
        ]
    );
    let explain = format!("EXPLAIN {}", create("other", "", "counts"));
    let explained = pipeline.work.sql(&["tables.sql"], &[&explain]).ok();
    assert!(
        explained
            .out
            .contains("by slice of 5 seconds, for any number of windows"),
        "{explained:?}"
    );

    // A job with the same windows, keys and aggregates that reads the window of each row keeps its state by window. Its fingerprint
    // in the place of the one of `to_topic` stands for state that an earlier release kept by window.
    let by_window = create("by_window", "", "kept").replace(
        "GROUP BY",
        "WHERE window_start > TIMESTAMP '1970-01-01T00:00:00' GROUP BY",
    );
    pipeline
        .work
        .file("by_window.sql", &format!("{by_window};\n"));
    pipeline.catch_up("by_window.sql").ok();
    let versions = |job: &str| {
        let id = pipeline.id_of(job);
        let folder = pipeline
            .work
            .path(&format!("anabranch-data/jobs/{id}/versions"));
        let files = std::fs::read_dir(folder).unwrap();
        files.map(|file| file.unwrap().path()).collect::<Vec<_>>()
    };
    let fingerprint = |path: &std::path::PathBuf| {
        let text = std::fs::read_to_string(path).unwrap();
        let (_, behind) = text.split_once("\"fingerprint\":\"").unwrap();
        behind.split('"').next().unwrap().to_owned()
    };
    let earlier = fingerprint(&versions("by_window")[0]);
    let mut changed = 0;
    for path in versions("to_topic") {
        let own = fingerprint(&path);
        changed += usize::from(own != earlier);
        let text = std::fs::read_to_string(&path).unwrap();
        std::fs::write(&path, without_checksum(&text).replace(&own, &earlier)).unwrap();
    }
    assert!(changed > 0);
    pipeline.tick(14..16);
    let refused = pipeline.catch_up("job.sql");
    assert_eq!(refused.code, Some(1), "{refused:?}");
    assert!(
        refused.err.contains(
            "is by window, as an earlier release or another query kept it, and not by slice"
        ) && refused.err.contains("'on_change' 'reset'"),
        "{}",
        refused.err
    );
    let reset = create("to_topic", ", 'on_change' 'reset'", "counts")
        .replace("CREATE JOB", "CREATE OR REPLACE JOB");
    let resumed = format!("{reset};\nRESUME JOB to_topic;\n");
    pipeline.work.file("job.sql", &resumed);
    pipeline.tick(16..21);
    pipeline.catch_up("job.sql").ok();
    // One window closed before, that of seconds -15 to 5; of those up to 15 only second 14 was counted after the reset.
    let counted: Vec<i64> = pipeline.counted("counts").into_values().flatten().collect();
    assert_eq!(counted, [3, 1, 2], "of key 0, then of key 1");
}
