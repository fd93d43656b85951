//! Reprocessing runs into Delta tables: without a key a run replaces the rows of its range, once, also if processes die at any step; with a
//! key it merges its rows, and removes the others of its range if it may overwrite them.

use super::crash::FAIL_POINTS;
use super::reprocessing::{FROM, Past, TO};

/// Counts of ten seconds.
const COUNTS: &str = "SELECT k, window_start AS s, window_end AS e, count(*) AS n \
     FROM TUMBLE(TABLE visits, DESCRIPTOR(t), INTERVAL '10 seconds') GROUP BY k, window_start, window_end";

/// The same of sessions.
const SESSIONS: &str = "SELECT k, window_start, window_end, count(*) \
     FROM SESSION(TABLE visits PARTITION BY k, DESCRIPTOR(t), INTERVAL '3 seconds') GROUP BY k, window_start, window_end";

/// Rows that no job gives: one in the range, and one outside of it.
const OF_OTHERS: &str = "(77, TIMESTAMP '2025-01-01T00:02:20Z', TIMESTAMP '2025-01-01T00:02:30Z', 5), \
     (78, TIMESTAMP '2025-01-01T00:00:20Z', TIMESTAMP '2025-01-01T00:00:30Z', 5)";

/// Archived visits, some of which came late, and what jobs have counted of them: in a table without a key, and in one with a key.
fn counted(name: &str) -> Past {
    const COLUMNS: &str = "k BIGINT, s TIMESTAMP, e TIMESTAMP, n BIGINT";
    let past = Past::new(name, "");
    let work = &past.pipeline.work;
    work.append(
        "tables.sql",
        &format!(
            "CREATE EXTERNAL TABLE plain ({COLUMNS}) STORED AS DELTA LOCATION 'plain';\n\
             CREATE EXTERNAL TABLE sessions_kept ({COLUMNS}) STORED AS DELTA LOCATION 'sessions_kept';\n\
             CREATE EXTERNAL TABLE keyed ({COLUMNS}, PRIMARY KEY (k, s) NOT ENFORCED) STORED AS DELTA LOCATION 'keyed';\n"
        ),
    );
    for (table, query) in [
        ("plain", COUNTS),
        ("keyed", COUNTS),
        ("sessions_kept", SESSIONS),
    ] {
        work.file(
            &format!("{table}.sql"),
            &format!(
                "CREATE JOB to_{table} WITH ('trigger' '10 milliseconds', 'batch.max_rows' '20') AS \
                 INSERT INTO {table} {query};\n"
            ),
        );
    }
    past.visit(0..120, true);
    past.pipeline.catch_up("archive.sql").ok();
    past
}

impl Past {
    /// The counts of a table or query that are in the range, or those that are not, sorted.
    fn counts(&self, of: &str, are_in_range: bool) -> Vec<String> {
        let are = if are_in_range { "" } else { "NOT " };
        self.rows(&format!(
            "SELECT k, date_part('epoch', s) AS s, date_part('epoch', e) AS e, n FROM {of} \
             WHERE {are}(s < TIMESTAMP '{TO}' AND e > TIMESTAMP '{FROM}')"
        ))
    }

    /// The counts of the range that a query over all of the past gives.
    fn expected(&self) -> Vec<String> {
        let expected = self.counts(&format!("({COUNTS})"), true);
        assert!(expected.len() > 8, "{expected:?}");
        expected
    }

    fn refused(&self, statement: &str, why: &str) {
        let refused = self.sql(&[statement]);
        assert_eq!(refused.code, Some(1), "{refused:?}");
        assert!(refused.err.contains(why), "{}", refused.err);
    }
}

/// A run of a job over the range, in chunks of one window.
fn order(job: &str, emit: &str, options: &str) -> String {
    format!(
        "REPROCESS JOB {job} FROM '{FROM}' TO '{TO}' {emit} WITH ('chunk' '10 seconds', {options})"
    )
}

#[test]
fn run_2_a_replacement_that_dies_at_any_step_replaces_its_range_once() {
    let past = counted("run-replaced");
    past.pipeline.catch_up("plain.sql").ok();
    let expected = past.expected();
    // Others may write to the table, and the job.
    let why = "would be taken out as well";
    past.refused(&order("to_plain", "", "'run_id' 'refused'"), why);
    for fail_point in FAIL_POINTS {
        past.sql(&[&format!("INSERT INTO plain VALUES {OF_OTHERS}")])
            .ok();
        let outside = past.counts("plain", false);
        let options = format!("'run_id' '{fail_point}', 'overwrite' 'true'");
        past.die_twice(&order("to_plain", "", &options), fail_point);
        past.sql(&[&format!("APPLY RUN '{fail_point}'")]).ok();
        assert_eq!(past.counts("plain", true), expected, "{fail_point}");
        assert_eq!(past.counts("plain", false), outside, "{fail_point}");
    }
    // The job continues beside it.
    past.visit(120..140, false);
    past.pipeline.catch_up("plain.sql").ok();
    assert_eq!(past.counts("plain", true), expected);
}

#[test]
fn rows_with_a_key_are_merged_and_with_overwrite_take_the_place_of_the_range() {
    let past = counted("run-merged");
    past.pipeline.catch_up("keyed.sql").ok();
    let expected = past.expected();
    past.sql(&[&format!("INSERT INTO keyed VALUES {OF_OTHERS}")])
        .ok();
    let outside = past.counts("keyed", false);
    past.sql(&[&order("to_keyed", "", "'run_id' 'merged'")])
        .ok();
    let merged = past.counts("keyed", true);
    let others: Vec<&String> = merged
        .iter()
        .filter(|row| !expected.contains(row))
        .collect();
    assert_eq!(merged.len(), expected.len() + 1, "{merged:?}");
    assert!(others[0].contains("\"k\":77,"), "{others:?}");
    assert_eq!(past.counts("keyed", false), outside);
    // A row does not say who has written it.
    past.refused(
        &order("to_keyed", "", "'run_id' 'refused', 'withdraw' 'true'"),
        "cannot withdraw rows of Delta table",
    );
    for (run_id, emit) in [("changed", ""), ("all", "EMIT ALL")] {
        let options = format!("'run_id' '{run_id}', 'overwrite' 'true'");
        let order = order("to_keyed", emit, &options);
        past.sql(&[&format!("PLAN {order}")]).ok();
        assert_eq!(past.counts("keyed", true), merged);
        let gone = past.rows(&format!(
            "SELECT key FROM system.run_changes WHERE run_id = '{run_id}' AND kind = 'gone'"
        ));
        assert_eq!(gone.len(), 1, "{gone:?}");
        past.sql(&[&format!("APPLY RUN '{run_id}'")]).ok();
        assert_eq!(past.counts("keyed", true), expected, "{run_id}");
        assert_eq!(past.counts("keyed", false), outside, "{run_id}");
        let of_range = OF_OTHERS.split(", (78").next().unwrap();
        past.sql(&[&format!("INSERT INTO keyed VALUES {of_range}")])
            .ok();
    }
}

#[test]
fn sessions_without_a_key_are_not_replaced() {
    let past = counted("run-sessions-kept");
    past.pipeline.catch_up("sessions_kept.sql").ok();
    for options in [
        "'run_id' 'refused'",
        "'run_id' 'refused', 'overwrite' 'true'",
    ] {
        let order = order("to_sessions_kept", "", options);
        past.refused(&order, "across the edge of its range");
    }
    let before = past.counts("sessions_kept", true);
    let appended = order("to_sessions_kept", "", "'run_id' 'more', 'write' 'append'");
    past.sql(&[&appended]).ok();
    assert!(past.counts("sessions_kept", true).len() > before.len());
}
