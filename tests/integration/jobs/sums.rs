//! Sums that leave their type only with a later batch: the job fails, and nothing of that batch is written (VALUE-1).

use crate::support::Workspace;

/// By the table that a job writes to: its options, its query, and its output in the end.
const JOBS: [(&str, &str, &str, &str); 3] = [
    (
        "totals",
        "WITH ('state.ttl' 'none')",
        "SELECT k, sum(v) FROM numbers GROUP BY k EMIT CHANGES",
        "18000000000000000000 is out of range of BIGINT",
    ),
    (
        "amounts",
        "WITH ('state.ttl' 'none')",
        "SELECT k, sum(d) FROM numbers GROUP BY k EMIT CHANGES",
        "is out of range of DECIMAL(38, 0)",
    ),
    (
        "hours",
        "",
        "SELECT k, sum(v) FROM TUMBLE(TABLE numbers, DESCRIPTOR(t), INTERVAL '1 hour') GROUP BY k, window_start EMIT CHANGES",
        "18000000000000000000 is out of range of BIGINT",
    ),
];

/// A table that is read as a stream, and a job for each of [`JOBS`].
fn summing() -> Workspace {
    let work = Workspace::new();
    work.file(
        "tables.sql",
        "CREATE EXTERNAL TABLE written (k BIGINT, v BIGINT, d DECIMAL(38, 0), t TIMESTAMP) STORED AS DELTA LOCATION 'written';\n\
         CREATE EXTERNAL TABLE numbers (WATERMARK FOR t AS t - INTERVAL '1 minute') STORED AS DELTA LOCATION 'written' \
         OPTIONS ('scan.mode' 'stream');\n\
         CREATE EXTERNAL TABLE totals (k BIGINT, total BIGINT) STORED AS DELTA LOCATION 'totals';\n\
         CREATE EXTERNAL TABLE amounts (k BIGINT, total DECIMAL(38, 0)) STORED AS DELTA LOCATION 'amounts';\n\
         CREATE EXTERNAL TABLE hours (k BIGINT, total BIGINT) STORED AS DELTA LOCATION 'hours';\n",
    );
    for (table, options, query, _) in JOBS {
        let text = format!("CREATE JOB of_{table} {options} AS INSERT INTO {table} {query};\n");
        work.file(&format!("{table}.sql"), &text);
    }
    work
}

/// Adds rows of these keys, with sums that have room in their type once and not twice.
fn add(work: &Workspace, keys: &[u32]) {
    let rows = keys.iter().map(|k| {
        let amount = format!("6{}", "0".repeat(37));
        format!(
            "({k}, 9000000000000000000, CAST('{amount}' AS DECIMAL(38, 0)), TIMESTAMP '2025-01-01T00:00:00Z')"
        )
    });
    let rows: Vec<String> = rows.collect();
    let insert = format!("INSERT INTO written VALUES {}", rows.join(", "));
    work.sql(&["tables.sql"], &[&insert]).ok();
}

fn rows(work: &Workspace, query: &str) -> Vec<serde_json::Value> {
    work.sql(&["tables.sql"], &[query]).ok().rows()
}

#[test]
fn value_1_a_sum_in_the_state_of_a_job_does_not_wrap() {
    let work = summing();
    let run = |table: &str| {
        let file = format!("{table}.sql");
        work.anabranch(&["run", "tables.sql", &file, "--until-caught-up"])
    };
    add(&work, &[1]);
    for (table, ..) in JOBS {
        run(table).ok();
    }
    add(&work, &[1, 2]);
    for (table, _, _, said) in JOBS {
        let ran = run(table);
        assert_eq!(ran.code, Some(1), "{table}: {ran:?}");
        let state = format!("SELECT state, reason FROM system.jobs WHERE job = 'of_{table}'");
        let state = &rows(&work, &state)[0];
        assert_eq!(state["state"], "FAILED", "{table}: {state}");
        let reason = state["reason"].as_str().unwrap();
        assert!(reason.contains(said), "{table}: {reason}");
        // The other key of the batch is not there either.
        let written = rows(&work, &format!("SELECT k, total FROM {table}"));
        assert_eq!(written.len(), 1, "{table}: {written:?}");
        assert_eq!(written[0]["k"], 1, "{table}: {written:?}");
    }
}
