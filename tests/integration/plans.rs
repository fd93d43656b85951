//! Plans as EXPLAIN shows them: filters that are pushed down, files that are pruned, sorts.

use crate::support::Workspace;

const TABLES: &str = "\
CREATE EXTERNAL TABLE archive (user_id BIGINT, event_time TIMESTAMP, page VARCHAR, partition INT, \"offset\" BIGINT,
  day DATE GENERATED ALWAYS AS (CAST(event_time AS DATE)),
  hour INT GENERATED ALWAYS AS (CAST(date_part('hour', event_time) AS INT)))
STORED AS DELTA PARTITIONED BY (day, hour) LOCATION 'archive';
CREATE VIEW rows AS SELECT * FROM (VALUES (1, TIMESTAMP '2025-09-04T10:00:00')) AS t (k, ts);
";

const QUERIES: [&str; 8] = [
    "SELECT window_start, count(*) FROM TUMBLE(TABLE archive, DESCRIPTOR(event_time), INTERVAL '10 minutes') \
     WHERE window_start >= '2025-09-04T10:00:00' AND window_start < '2025-09-04T11:00:00' GROUP BY 1",
    "SELECT count(*) FROM archive WHERE date_trunc('hour', event_time) = '2025-09-04T10:00:00'",
    "SELECT count(*) FROM archive WHERE event_time >= '2025-09-04T10:30:00' AND event_time < '2025-09-04T10:45:00'",
    "SELECT page FROM archive WHERE offsets_in(partition, \"offset\", '{\"0\":2}', '{\"0\":5}')",
    "SELECT user_id, window_start, count(*) FROM SESSION(TABLE archive PARTITION BY user_id, \
     DESCRIPTOR(event_time), INTERVAL '10 minutes') WHERE user_id = 7 AND page = 'x' GROUP BY 1, 2",
    "SELECT user_id, window_start, count(*) FROM COMPLETE_SESSIONS(TABLE archive PARTITION BY user_id, \
     DESCRIPTOR(event_time), INTERVAL '10 minutes', '2025-09-04T10:00:00', '2025-09-04T11:00:00') GROUP BY 1, 2",
    "SELECT * FROM HOP(TABLE rows, DESCRIPTOR(ts), INTERVAL '5 minutes', INTERVAL '10 minutes')",
    "INSERT INTO archive SELECT k, ts, 'x', 0, 1 FROM rows",
];

/// File names and folders differ from run to run.
fn scrub(plan: &str, folder: &str) -> String {
    let plan = plan.replace(folder.trim_start_matches('/'), "DIR");
    let mut out = String::new();
    let mut rest = plan.as_str();
    while let Some(start) = rest.find("part-") {
        let end = rest[start..]
            .find(".parquet")
            .map_or(rest.len(), |at| start + at);
        out.push_str(&rest[..start]);
        out.push_str("FILE");
        rest = &rest[end..];
    }
    out.push_str(rest);
    out
}

/// The tables, with a file of each of five hours.
fn filled() -> Workspace {
    let work = Workspace::new();
    work.file("tables.sql", TABLES);
    let hours =
        (8..13).map(|hour| format!("(1, TIMESTAMP '2025-09-04T{hour:02}:30:00', 'p', 0, {hour})"));
    let fill = format!(
        "INSERT INTO archive VALUES {}",
        hours.collect::<Vec<_>>().join(", ")
    );
    work.sql(&["tables.sql"], &[&fill]).ok();
    work
}

fn explained(work: &Workspace, query: &str) -> String {
    // One stream: the number of processors is not part of a plan's meaning.
    let explain = format!("EXPLAIN FORMAT INDENT {query}");
    let ran = work.anabranch(&[
        "sql",
        "--target-partitions",
        "1",
        "--format",
        "table",
        "-f",
        "tables.sql",
        "-c",
        &explain,
    ]);
    ran.ok().out
}

#[test]
fn plans() {
    let work = filled();
    let folder = work
        .dir
        .path()
        .canonicalize()
        .unwrap()
        .display()
        .to_string();
    let mut seen = String::new();
    for query in QUERIES {
        let plan = explained(&work, query);
        seen.push_str(&format!("{query}\n{}\n", scrub(&plan, &folder)));
    }
    insta::assert_snapshot!("plans", seen);
}

#[test]
fn files_are_left_out_beside_conditions_that_can_fail() {
    let work = filled();
    let within = "event_time >= '2025-09-04T10:30:00' AND event_time < '2025-09-04T10:45:00'";
    for condition in [
        format!("{within} AND CAST(page AS INT) > 1"),
        format!("100 / user_id > 1 AND {within}"),
        format!("{within} AND CASE WHEN user_id <> 0 THEN 100 / user_id > 1 ELSE false END"),
    ] {
        let query = format!("SELECT page FROM archive WHERE {condition}");
        let plan = explained(&work, &query);
        assert!(plan.contains("hour=10/"), "{plan}");
        for hour in [8, 9, 11, 12] {
            assert!(!plan.contains(&format!("hour={hour}/")), "{plan}");
        }
        let guarded = "CASE WHEN event_time@";
        assert!(plan.contains(guarded), "{plan}");
    }
}
