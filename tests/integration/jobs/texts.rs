//! Texts and lists that a job aggregates from the rows of a window with a given order: they are those of a query over
//! the same rows (TIME-4), for every division of the rows into batches and processes.

use crate::support::Workspace;

/// Windows by the table that takes their rows, over `{}`.
const WINDOWS: [(&str, &str); 4] = [
    (
        "tumbled",
        "TUMBLE(TABLE {}, DESCRIPTOR(t), INTERVAL '10 seconds')",
    ),
    (
        "hopped",
        "HOP(TABLE {}, DESCRIPTOR(t), INTERVAL '4 seconds', INTERVAL '20 seconds')",
    ),
    (
        "cumulated",
        "CUMULATE(TABLE {}, DESCRIPTOR(t), INTERVAL '6 seconds', INTERVAL '18 seconds')",
    ),
    (
        "sessions",
        "SESSION(TABLE {} PARTITION BY k, DESCRIPTOR(t), INTERVAL '3 seconds')",
    ),
];

/// Texts of several orders, with rows that are left out, texts that are empty or missing, and groups without any.
const ORDERED: &str = "string_agg(name, ', ' ORDER BY t, id) AS a, \
     string_agg(name, '-' ORDER BY id DESC) FILTER (WHERE id % 4 = 1) AS b, \
     array_agg(id ORDER BY name DESC, id) AS c, array_agg(name ORDER BY t DESC, id) FILTER (WHERE id % 3 > 0) AS d, count(*) AS n";

/// The same aggregates over distinct values.
const DISTINCT: &str = "string_agg(DISTINCT name, ', ' ORDER BY name) AS a, \
     string_agg(DISTINCT name, '-' ORDER BY name DESC) FILTER (WHERE id % 4 = 1) AS b, \
     array_agg(DISTINCT id % 5 ORDER BY id % 5) AS c, array_agg(DISTINCT name ORDER BY name) AS d, count(DISTINCT name) AS n";

fn query(aggregates: &str, windows: &str, table: &str) -> String {
    let windows = windows.replace("{}", table);
    format!(
        "SELECT k, window_start AS s, window_end AS e, {aggregates} FROM {windows} GROUP BY k, window_start, window_end"
    )
}

/// Adds rows to the table that is read, in one commit: numbers and seconds.
fn add(work: &Workspace, rows: impl IntoIterator<Item = (u32, u32)>) {
    let names = [
        "NULL", "'b'", "''", "'é'", "'a'", "'it''s'", "'b'", "'a, b'",
    ];
    let row = |(id, second): (u32, u32)| {
        let key = if id < 1_000 { (id + id / 8) % 3 } else { 9 };
        let (name, minute, second) = (names[(id as usize * 5) % 8], second / 60, second % 60);
        format!("({key}, {id}, TIMESTAMP '2025-01-01T00:{minute:02}:{second:02}Z', {name})")
    };
    let rows: Vec<String> = rows.into_iter().map(row).collect();
    let insert = format!("INSERT INTO written VALUES {}", rows.join(", "));
    work.sql(&["tables.sql"], &[&insert]).ok();
}

fn rows(work: &Workspace, query: &str) -> Vec<String> {
    let rows = work.sql(&["tables.sql"], &[query]).ok();
    rows.out.lines().map(str::to_owned).collect()
}

/// Checks that jobs and queries give the same rows for all windows.
fn check(aggregates: &str) {
    let work = Workspace::new();
    let mut tables = "CREATE EXTERNAL TABLE written (k BIGINT, id BIGINT, t TIMESTAMP, name VARCHAR) STORED AS DELTA \
         PARTITIONED BY (k) LOCATION 'written';\n\
         CREATE EXTERNAL TABLE ticks (WATERMARK FOR t AS t - INTERVAL '5 seconds') STORED AS DELTA LOCATION 'written' \
         OPTIONS ('scan.mode' 'stream');\n\
         CREATE VIEW early AS SELECT * FROM written WHERE id < 1000;\n"
        .to_owned();
    let mut jobs = String::new();
    for (name, windows) in WINDOWS {
        tables += &format!(
            "CREATE EXTERNAL TABLE {name} (k BIGINT, s TIMESTAMP, e TIMESTAMP, a VARCHAR, b VARCHAR, c BIGINT[], d VARCHAR[], n BIGINT) \
             STORED AS DELTA LOCATION '{name}';\n"
        );
        jobs += &format!(
            "CREATE JOB to_{name} WITH ('trigger' '10 milliseconds', 'batch.max_rows' '3') AS INSERT INTO {name} {};\n",
            query(aggregates, windows, "ticks")
        );
    }
    work.file("tables.sql", &tables);
    work.file("jobs.sql", &jobs);
    let catch_up = || {
        work.anabranch(&["run", "tables.sql", "jobs.sql", "--until-caught-up"])
            .ok();
    };
    // Eight rows in eight seconds, disordered by less than the watermark's delay. A version has a file for each key.
    for version in 0..5 {
        let seconds = [3, 0, 4, 1, 6, 2, 7, 5];
        add(
            &work,
            (0..8)
                .zip(seconds)
                .map(|(row, second)| (version * 8 + row, version * 8 + second)),
        );
        if version % 2 == 0 {
            catch_up();
        }
    }
    // Later rows close the windows.
    for (id, second) in [(1_000, 600), (1_001, 700)] {
        add(&work, [(id, second)]);
        catch_up();
    }
    assert_eq!(
        rows(&work, "SELECT count(*) AS late FROM system.late_rows"),
        ["{\"late\":0}"]
    );
    for (name, windows) in WINDOWS {
        let of_job = format!("SELECT * FROM {name} WHERE k < 9 ORDER BY k, s, e");
        let of_query = format!(
            "SELECT * FROM ({}) AS q ORDER BY k, s, e",
            query(aggregates, windows, "early")
        );
        let (of_job, of_query) = (rows(&work, &of_job), rows(&work, &of_query));
        assert!(of_query.len() > 5, "{name}: {of_query:#?}");
        assert_eq!(of_job, of_query, "{name}");
    }
}

#[test]
fn time_4_texts_and_lists_in_an_order_are_those_of_a_query() {
    check(ORDERED);
}

#[test]
fn time_4_texts_and_lists_of_distinct_values_are_those_of_a_query() {
    check(DISTINCT);
}
