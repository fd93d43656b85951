//! Jobs that merge rows into a Delta table by its PRIMARY KEY: each batch once, also if processes die and others write the table.

use std::collections::BTreeMap;

use super::Pipeline;
use crate::support::python;

/// Jobs from numbers to merged tables: counts per rest by three, the last number of each rest by five, and counts that are odd.
fn merging(name: &str) -> Pipeline {
    let pipeline = Pipeline::between_topics(name, 1);
    let (bootstrap, source) = (&pipeline.bootstrap, &pipeline.source);
    pipeline.work.file(
        "tables.sql",
        &format!(
            "CREATE EXTERNAL TABLE numbers (v BIGINT) STORED AS KAFKA LOCATION '{source}' \
             OPTIONS ('kafka.bootstrap.servers' '{bootstrap}');\n\
             CREATE EXTERNAL TABLE counts (k BIGINT NOT NULL, n BIGINT, vs BIGINT[], PRIMARY KEY (k) NOT ENFORCED) \
             STORED AS DELTA LOCATION 'counts';\n\
             CREATE EXTERNAL TABLE latest (v BIGINT, k VARCHAR, PRIMARY KEY (k) NOT ENFORCED) \
             STORED AS DELTA PARTITIONED BY (k) LOCATION 'latest';\n\
             CREATE EXTERNAL TABLE odd (k BIGINT, n BIGINT, PRIMARY KEY (k) NOT ENFORCED) STORED AS DELTA LOCATION 'odd';\n"
        ),
    );
    let options = "'trigger' '10 milliseconds'";
    let job = |file: &str, name: &str, more: &str, insert: &str| {
        let text = format!("CREATE JOB {name} WITH ({options}{more}) AS INSERT INTO {insert};\n");
        pipeline.work.file(file, &text);
    };
    job(
        "counting.sql",
        "counting",
        ", 'batch.max_rows' '3', 'state.ttl' 'none'",
        "counts SELECT v % 3, count(*), array_agg(v ORDER BY v) FROM numbers GROUP BY v % 3 EMIT CHANGES",
    );
    job(
        "latest.sql",
        "keeping",
        // A batch has several rows of a key.
        ", 'batch.max_rows' '13'",
        "latest SELECT v, 'rest ' || v % 5 FROM numbers WHERE v >= 0",
    );
    job(
        "odd.sql",
        "odd_ones",
        ", 'batch.max_rows' '3', 'state.ttl' 'none'",
        "odd SELECT v % 3, count(*) FROM numbers GROUP BY v % 3 HAVING count(*) % 2 = 1 EMIT CHANGES",
    );
    pipeline
}

impl Pipeline {
    fn sql(&self, statement: &str) -> String {
        self.work.sql(&["tables.sql"], &[statement]).ok().out
    }

    /// One row for each key, with all numbers sent so far.
    fn check_counts(&self, sent: u64) {
        let rows = self.sql("SELECT k, n, vs FROM counts ORDER BY k");
        let expected: Vec<String> = (0..sent.min(3))
            .map(|key| {
                let numbers: Vec<u64> = (key..sent).step_by(3).collect();
                let count = numbers.len();
                format!("{{\"k\":{key},\"n\":{count},\"vs\":{numbers:?}}}").replace(' ', "")
            })
            .collect();
        let rows: Vec<&str> = rows.lines().collect();
        assert_eq!(rows, expected);
    }
}

#[test]
fn exact_2_keys_are_merged_once_after_a_crash_at_any_step() {
    let pipeline = merging("merged-crash");
    let mut sent = 0;
    pipeline.crash_at_each_step("counting.sql", 2, || {
        if sent > 0 && sent % 3 == 0 {
            pipeline.sql("OPTIMIZE counts");
        }
        pipeline.send(sent..sent + 7);
        sent += 7;
    });
    pipeline.check_counts(sent);
    // Each batch with rows is one commit, with the job's transaction.
    let batches = pipeline.sql("SELECT rows_out FROM system.batches WHERE rows_out > 0");
    let with_rows = batches.lines().count();
    let commits = pipeline.sql("DESCRIBE HISTORY counts");
    let merges = commits
        .lines()
        .filter(|line| line.contains("\"MERGE\""))
        .count();
    assert_eq!(merges, with_rows, "{commits}");
}

#[test]
fn exact_2_a_killed_job_beside_optimize_and_other_statements() {
    let pipeline = merging("merged-beside");
    let mut sent = 0;
    for round in 0..4 {
        let mut job = pipeline.start("counting.sql");
        for _ in 0..3 {
            pipeline.send(sent..sent + 12);
            sent += 12;
            // The update changes every file, and no value. Either may meet a commit of the job.
            for (statement, conflict) in [
                ("OPTIMIZE counts", "another writer's commit conflicts"),
                (
                    "UPDATE counts SET n = n WHERE k = 1",
                    "another writer has changed rows",
                ),
            ] {
                let ran = pipeline.work.sql(&["tables.sql"], &[statement]);
                assert!(
                    ran.code == Some(0) || ran.err.contains(conflict),
                    "{ran:#?}"
                );
            }
        }
        job.kill().unwrap();
        job.wait().unwrap();
        if round % 2 == 0 {
            pipeline.catch_up("counting.sql").ok();
            pipeline.check_counts(sent);
        }
    }
    pipeline.catch_up("counting.sql").ok();
    pipeline.check_counts(sent);
    let shown = python(
        r#"
import sys
from deltalake import DeltaTable
table = DeltaTable(sys.argv[1]).to_pyarrow_table().sort_by("k")
for row in table.to_pylist():
    print(row["k"], row["n"], sum(row["vs"]))
"#,
        &[pipeline.work.path("counts").to_str().unwrap()],
    );
    let expected = (0..3).map(|key| {
        let numbers: Vec<u64> = (key..sent).step_by(3).collect();
        let sum: u64 = numbers.iter().sum();
        format!("{key} {} {sum}\n", numbers.len())
    });
    assert_eq!(shown.trim(), expected.collect::<String>().trim());
}

#[test]
fn the_last_row_of_a_key_is_kept_and_rewinds_merge_again() {
    let pipeline = merging("merged-latest");
    pipeline.send(0..43);
    pipeline.catch_up("latest.sql").ok();
    let latest = || {
        let rows = pipeline.sql("SELECT k, v FROM latest ORDER BY k, v");
        let rows = rows.lines().map(|line| {
            let row: serde_json::Value = serde_json::from_str(line).unwrap();
            (
                row["k"].as_str().unwrap().to_owned(),
                row["v"].as_u64().unwrap(),
            )
        });
        rows.collect::<Vec<_>>()
    };
    let expected = |sent: u64| -> Vec<(String, u64)> {
        let last = (0..sent).map(|v| (format!("rest {}", v % 5), v));
        last.collect::<BTreeMap<_, _>>().into_iter().collect()
    };
    assert_eq!(latest(), expected(43));
    // A rewind says what it leaves, and the batches that follow merge again.
    let rewound = pipeline
        .work
        .sql(
            &["tables.sql", "latest.sql"],
            &["REWIND JOB keeping TO BATCH 2"],
        )
        .ok();
    let said = rewound.out + &rewound.err;
    assert!(
        said.contains("until a row with the same k takes its place"),
        "{said}"
    );
    pipeline.send(43..47);
    pipeline.catch_up("latest.sql").ok();
    assert_eq!(latest(), expected(47));
    // An INSERT appends: nothing enforces the key. The next batch with that key leaves one row.
    pipeline.sql("INSERT INTO latest (v, k) VALUES (1000, 'rest 2'), (1001, 'rest 2')");
    assert_eq!(latest().len(), 7);
    pipeline.send(47..48);
    pipeline.catch_up("latest.sql").ok();
    assert_eq!(latest(), expected(48));
}

#[test]
fn withdrawn_rows_are_deleted() {
    let pipeline = merging("merged-odd");
    let mut sent = 0;
    for more in [1, 3, 5, 2, 7] {
        pipeline.send(sent..sent + more);
        sent += more;
        pipeline.catch_up("odd.sql").ok();
        let rows = pipeline.sql("SELECT k, n FROM odd ORDER BY k");
        let counts = (0..3).map(|key| (key, (key..sent).step_by(3).count()));
        let odd = counts.filter(|(_, count)| count % 2 == 1);
        let expected: Vec<String> = odd
            .map(|(key, count)| format!("{{\"k\":{key},\"n\":{count}}}"))
            .collect();
        assert_eq!(rows.lines().collect::<Vec<_>>(), expected, "{sent} sent");
    }
}

#[test]
fn jobs_that_cannot_merge_are_refused_or_stop() {
    let pipeline = merging("merged-refused");
    let explained = pipeline.work.sql(
        &["tables.sql"],
        &["EXPLAIN CREATE JOB j WITH ('state.ttl' 'none') AS INSERT INTO odd SELECT v, count(*) FROM numbers GROUP BY v EMIT CHANGES"],
    );
    let said = explained.ok().out;
    assert!(said.contains("odd', merged by k"), "{said}");
    let definition = pipeline.sql("SHOW CREATE TABLE odd");
    assert!(
        definition.contains("PRIMARY KEY (k) NOT ENFORCED"),
        "{definition}"
    );

    pipeline.sql(
        "CREATE EXTERNAL TABLE only (k BIGINT, PRIMARY KEY (k) NOT ENFORCED) STORED AS DELTA LOCATION 'only' \
         OPTIONS ('delta.appendOnly' 'true'); INSERT INTO only VALUES (1)",
    );
    pipeline.work.append(
        "tables.sql",
        "CREATE EXTERNAL TABLE only (PRIMARY KEY (k) NOT ENFORCED) STORED AS DELTA LOCATION 'only';\n",
    );
    let refused = pipeline.work.sql(
        &["tables.sql"],
        &["CREATE JOB j AS INSERT INTO only SELECT v FROM numbers"],
    );
    assert_ne!(refused.code, Some(0));
    assert!(refused.err.contains("is append-only"), "{}", refused.err);

    // A row without a key stops the job, which names the record.
    pipeline.work.file(
        "null.sql",
        "CREATE JOB nothing WITH ('trigger' '10 milliseconds') AS INSERT INTO latest \
         SELECT v, CASE WHEN v <> 3 THEN 'key' END FROM numbers;\n",
    );
    pipeline.send(0..5);
    let stopped = pipeline.catch_up("null.sql");
    assert_ne!(stopped.code, Some(0));
    let jobs = pipeline.work.sql(&[], &["SHOW JOBS"]).ok().out;
    assert!(
        jobs.contains("column 'k' of the PRIMARY KEY is NULL"),
        "{jobs}"
    );
    assert!(jobs.contains("/0@3"), "{jobs}");
    assert_eq!(
        pipeline.sql("SELECT count(*) AS n FROM latest"),
        "{\"n\":0}\n"
    );
}
