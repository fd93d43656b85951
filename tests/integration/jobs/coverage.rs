//! Coverage of a topic by its archive: what jobs record in each commit, and what rows tell.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use super::Pipeline;
use crate::support::consume_on;

impl Pipeline {
    /// Declares the topic once more, with a Delta table as its archive.
    fn declare_archived(&self, name: &str, archive: &str) {
        let (source, bootstrap) = (&self.source, &self.bootstrap);
        self.work.append(
            "tables.sql",
            &format!(
                "CREATE EXTERNAL TABLE {name} (v BIGINT, p INT METADATA FROM 'partition', o BIGINT METADATA FROM 'offset') \
                 STORED AS KAFKA LOCATION '{source}' \
                 OPTIONS ('kafka.bootstrap.servers' '{bootstrap}', 'archive' '{archive}');\n"
            ),
        );
    }

    /// The coverage of a table: partition, first offset, offset after the last, `covered` or the reason, and whether the topic has
    /// all of it.
    fn coverage(&self, table: &str) -> Vec<(i64, i64, i64, String, bool)> {
        let query =
            format!("SELECT * FROM archive_coverage('{table}') ORDER BY partition, from_offset");
        let ran = self.work.sql(&["tables.sql"], &[&query]).ok();
        let number = |row: &Value, name: &str| row[name].as_i64().unwrap();
        let of_row = |row: &Value| {
            let kind = match row["kind"].as_str().unwrap() {
                "covered" => {
                    assert_eq!(row["reason"], Value::Null, "{row}");
                    "covered"
                }
                "hole" => row["reason"].as_str().unwrap(),
                other => panic!("{other}"),
            };
            (
                number(row, "partition"),
                number(row, "from_offset"),
                number(row, "to_offset"),
                kind.to_owned(),
                row["in_topic"].as_bool().unwrap(),
            )
        };
        ran.rows().iter().map(of_row).collect()
    }

    /// What the entries of a table's log say of the offsets that they cover, in their order.
    fn commit_infos(&self, table: &str) -> Vec<Value> {
        let log = self.work.path(table).join("_delta_log");
        let files = std::fs::read_dir(log).unwrap();
        let mut entries: Vec<_> = files
            .map(|file| file.unwrap().path())
            .filter(|path| path.extension().is_some_and(|of| of == "json"))
            .collect();
        entries.sort();
        let mut found = Vec::new();
        for entry in entries {
            let text = std::fs::read_to_string(entry).unwrap();
            let actions: Vec<Value> = text
                .lines()
                .map(|line| serde_json::from_str(line).unwrap())
                .collect();
            let adds = actions.iter().any(|action| action.get("add").is_some());
            let info = actions.iter().find_map(|action| action.get("commitInfo"));
            let info = info.and_then(|info| info.get("anabranchOffsets"));
            assert!(
                !adds || info.is_some(),
                "a batch that covers nothing: {text}"
            );
            found.extend(info.cloned());
        }
        found
    }

    /// How many rows a table has, and the warnings that the program prints.
    fn count(&self, table: &str) -> (i64, String) {
        let query = format!("SELECT count(*) AS n FROM {table}");
        let ran = self.work.sql(&["tables.sql"], &[&query]).ok();
        (ran.rows()[0]["n"].as_i64().unwrap(), ran.err)
    }

    fn sql_ok(&self, statement: &str) {
        self.work.sql(&["tables.sql"], &[statement]).ok();
    }
}

/// A range that is covered, or a hole with its reason.
fn range(
    partition: i64,
    from: i64,
    to: i64,
    kind: &str,
    in_topic: bool,
) -> (i64, i64, i64, String, bool) {
    (partition, from, to, kind.to_owned(), in_topic)
}

#[test]
fn an_archiving_job_covers_all_it_has_read_after_a_crash_at_any_step() {
    let pipeline = Pipeline::between_topics("covered-crash", 2);
    pipeline.declare_archived("archived", "kept");
    let mut sent = 0;
    pipeline.crash_at_each_step("keep.sql", 1, || {
        pipeline.send(sent..sent + 7);
        sent += 7;
    });
    let covered = pipeline.coverage("archived");
    assert!(
        covered.iter().all(|range| range.3 == "covered" && range.4),
        "{covered:?}"
    );
    // A partition without records has no range.
    let partitions: BTreeSet<i64> = covered.iter().map(|range| range.0).collect();
    assert_eq!(
        partitions.len(),
        covered.len(),
        "one range each: {covered:?}"
    );
    let offsets: i64 = covered.iter().map(|range| range.2 - range.1).sum();
    assert_eq!(offsets, i64::try_from(sent).unwrap());

    // The commits say in words what the ranges add up to.
    let mut told = BTreeSet::new();
    for info in pipeline.commit_infos("kept") {
        assert_eq!(
            (&info["format"], &info["job"]),
            (&json!(1), &json!("keeping"))
        );
        assert_eq!(info["jobId"], json!(pipeline.id_of("keeping")));
        for partition in info["topics"][0]["partitions"].as_array().unwrap() {
            for range in partition["covered"].as_array().unwrap() {
                let (from, to) = (
                    range["from"].as_i64().unwrap(),
                    range["to"].as_i64().unwrap(),
                );
                for offset in from..to {
                    let is_new = told.insert((partition["partition"].as_i64().unwrap(), offset));
                    assert!(is_new, "{offset} is covered twice");
                }
            }
        }
    }
    let expected = covered
        .iter()
        .flat_map(|(partition, from, to, ..)| (*from..*to).map(|offset| (*partition, offset)));
    assert_eq!(told, expected.collect::<BTreeSet<_>>());
}

#[test]
fn control_records_are_no_holes_of_a_job_and_unknown_between_rows() {
    let pipeline = Pipeline::between_topics("covered-transactions", 1);
    let (source, bootstrap) = (&pipeline.source, &pipeline.bootstrap);
    pipeline.work.append(
        "tables.sql",
        &format!(
            "CREATE EXTERNAL TABLE in_transactions (v BIGINT) STORED AS KAFKA LOCATION '{source}' \
             OPTIONS ('kafka.bootstrap.servers' '{bootstrap}', 'delivery' 'transactional');\n\
             CREATE EXTERNAL TABLE copied (v BIGINT, p INT, o BIGINT) STORED AS DELTA LOCATION 'copied';\n"
        ),
    );
    pipeline.declare_archived("archived", "kept");
    pipeline.declare_archived("by_insert", "copied");
    // Each transaction ends with a control record: offsets 0, 1, (2), 3, 4, 5, (6), 7, (8).
    for values in ["(1), (2)", "(3), (4), (5)", "(6)"] {
        pipeline.sql_ok(&format!("INSERT INTO in_transactions VALUES {values}"));
    }
    // A transaction is closed a moment after its commit was answered.
    let wait = || drop(consume_on(bootstrap, source, &[]));
    wait();
    let nothing = [range(0, 0, 9, "not archived yet", true)];
    assert_eq!(pipeline.coverage("by_insert"), nothing);
    pipeline.catch_up("keep.sql").ok();
    assert_eq!(pipeline.kept(), [1, 2, 3, 4, 5, 6]);
    let all = [range(0, 0, 9, "covered", true)];
    assert_eq!(pipeline.coverage("archived"), all);

    pipeline.sql_ok("INSERT INTO copied SELECT v, p, o FROM numbers");
    let by_rows = [
        range(0, 0, 2, "covered", true),
        range(0, 2, 3, "unknown", true),
        range(0, 3, 6, "covered", true),
        range(0, 6, 7, "unknown", true),
        range(0, 7, 8, "covered", true),
        range(0, 8, 9, "not archived yet", true),
    ];
    assert_eq!(pipeline.coverage("by_insert"), by_rows);
    // The same where each file has one row or two, so that statistics tell.
    pipeline.sql_ok("INSERT OVERWRITE copied SELECT v, p, o FROM numbers WHERE o < 2");
    for o in ["o IN (3, 4)", "o = 5", "o >= 7"] {
        pipeline.sql_ok(&format!(
            "INSERT INTO copied SELECT v, p, o FROM numbers WHERE {o}"
        ));
    }
    assert_eq!(pipeline.coverage("by_insert"), by_rows);
    // A job that continues the archive of others claims all that it has read, whether it has rows or not.
    pipeline.work.file(
        "continue.sql",
        "CREATE JOB continuing AS INSERT INTO copied SELECT v, p, o FROM numbers WHERE o > 8;\n",
    );
    pipeline.catch_up("continue.sql").ok();
    assert_eq!(pipeline.coverage("by_insert"), all);
    pipeline.sql_ok("INSERT INTO in_transactions VALUES (7)");
    wait();
    pipeline.catch_up("continue.sql").ok();
    assert_eq!(
        pipeline.coverage("by_insert"),
        [range(0, 0, 11, "covered", true)]
    );
    // Where retention has taken the last control record too, no record is missing.
    pipeline.catch_up("keep.sql").ok();
    pipeline.delete_before(11);
    let (rows, said) = pipeline.count("archived");
    assert_eq!(rows, 7);
    assert!(!said.contains("no longer has"), "{said}");
}

#[test]
fn loss_1_skipped_offsets_are_holes_with_their_job_and_batch() {
    let pipeline = Pipeline::between_topics("covered-lost", 1);
    pipeline.declare_archived("archived", "kept");
    pipeline.send(0..8);
    pipeline.catch_up("keep.sql").ok();
    pipeline.send(8..14);
    pipeline.delete_before(11);
    assert_eq!(pipeline.catch_up("keep.sql").code, Some(1));
    let behind = [
        range(0, 0, 8, "covered", false),
        range(0, 8, 14, "not archived yet", false),
    ];
    assert_eq!(pipeline.coverage("archived"), behind);
    let (rows, said) = pipeline.count("archived");
    assert_eq!(rows, 11);
    assert!(
        said.contains("no longer has offsets 8 to 10 of partition 0"),
        "{said}"
    );
    pipeline
        .work
        .sql(&[], &["RESUME JOB keeping SKIPPING LOST"])
        .ok();
    pipeline.catch_up("keep.sql").ok();
    pipeline.send(14..16);
    let lost = [
        range(0, 0, 8, "covered", false),
        range(0, 8, 11, "skipped as lost by job keeping in batch 4", false),
        range(0, 11, 14, "covered", true),
        range(0, 14, 16, "not archived yet", true),
    ];
    assert_eq!(pipeline.coverage("archived"), lost);
    let infos = pipeline.commit_infos("kept");
    let lost = &infos[3]["topics"][0]["partitions"][0]["lost"];
    assert_eq!(lost, &json!([{"from": 8, "to": 11}]));

    // Nothing is left behind a later gap: the batch without rows is recorded all the same.
    pipeline.delete_before(16);
    assert_eq!(pipeline.catch_up("keep.sql").code, Some(1));
    pipeline
        .work
        .sql(&[], &["RESUME JOB keeping SKIPPING LOST"])
        .ok();
    pipeline.catch_up("keep.sql").ok();
    let ranges = pipeline.coverage("archived");
    let last = range(
        0,
        14,
        16,
        "skipped as lost by job keeping in batch 5",
        false,
    );
    assert_eq!(ranges.last(), Some(&last), "{ranges:?}");

    // A run reads what is left, and says what is gone.
    pipeline.work.append(
        "tables.sql",
        "CREATE EXTERNAL TABLE copied (v BIGINT) STORED AS DELTA LOCATION 'copied';\n",
    );
    let explained = pipeline.work.sql(
        &["tables.sql"],
        &[
            "CREATE JOB copying AS INSERT INTO copied SELECT v FROM archived",
            "EXPLAIN REPROCESS JOB copying OFFSETS FROM '{\"archived\":{\"0\":0}}' TO '{\"archived\":{\"0\":14}}' \
             WITH ('write' 'append')",
        ],
    );
    let said = explained.ok().out;
    let gone = "archived: the records at offsets 8 to 10 of partition 0, offsets 14 to 15 of partition 0 are gone for good";
    assert!(said.contains(gone), "{said}");
}

#[test]
fn exact_3_a_rewind_withdraws_the_coverage_of_abandoned_batches() {
    let pipeline = Pipeline::between_topics("covered-rewind", 1);
    pipeline.declare_archived("archived", "kept");
    pipeline.send(0..8);
    pipeline.catch_up("keep.sql").ok();
    assert_eq!(
        pipeline.coverage("archived"),
        [range(0, 0, 8, "covered", true)]
    );
    let rewind = |to: u64| {
        let statement = format!("REWIND JOB keeping TO BATCH {to}");
        pipeline
            .work
            .sql(&["tables.sql", "keep.sql"], &[&statement])
            .ok();
    };
    rewind(1);
    let rewound = [
        range(0, 0, 3, "covered", true),
        range(0, 3, 8, "not archived yet", true),
    ];
    assert_eq!(pipeline.coverage("archived"), rewound);
    rewind(0);
    assert_eq!(
        pipeline.coverage("archived"),
        [range(0, 0, 8, "not archived yet", true)]
    );
    pipeline.catch_up("keep.sql").ok();
    assert_eq!(
        pipeline.coverage("archived"),
        [range(0, 0, 8, "covered", true)]
    );
}

#[test]
fn coverage_is_asked_of_tables_with_an_archive() {
    let pipeline = Pipeline::between_topics("covered-refused", 1);
    pipeline.declare_archived("archived", "kept");
    for (query, message) in [
        (
            "SELECT * FROM archive_coverage('numbers')",
            "Kafka table numbers names no archive",
        ),
        (
            "SELECT * FROM archive_coverage('kept')",
            "kept is a Delta table, and an archive is the past",
        ),
        (
            "SELECT * FROM archive_coverage('archive')",
            "no table or view is named archive",
        ),
        (
            "SELECT * FROM archive_coverage()",
            "archive_coverage takes the name of a Kafka table",
        ),
        (
            "SELECT * FROM archive_coverage(1 + 1)",
            "archive_coverage takes the name of a Kafka table",
        ),
    ] {
        let refused = pipeline.work.sql(&["tables.sql"], &[query]);
        assert_eq!(refused.code, Some(1), "{query}: {refused:#?}");
        assert!(refused.err.contains(message), "{query}: {}", refused.err);
        assert!(
            refused.err.contains("<command>:1:15"),
            "{query}: {}",
            refused.err
        );
    }
    pipeline.send(0..3);
    // As any table in FROM; the name of the call is its alias.
    let query = "SELECT archive_coverage.kind, c.n FROM archive_coverage('archived') \
                 JOIN (SELECT sum(to_offset - from_offset) AS n FROM archive_coverage('archived')) c ON true";
    let ran = pipeline.work.sql(&["tables.sql"], &[query]).ok();
    assert_eq!(ran.rows(), [json!({"kind": "hole", "n": 3})]);
    let view =
        "CREATE VIEW holes AS SELECT * FROM archive_coverage('archived') WHERE kind = 'hole'";
    let ran = pipeline
        .work
        .sql(&["tables.sql"], &[view, "SELECT to_offset FROM holes"])
        .ok();
    assert_eq!(ran.rows(), [json!({"to_offset": 3})]);
    let described = pipeline
        .work
        .sql(
            &["tables.sql"],
            &["DESCRIBE SELECT * FROM archive_coverage('archived')"],
        )
        .ok();
    let names: Vec<String> = described
        .rows()
        .iter()
        .map(|row| row["column_name"].as_str().unwrap().to_owned())
        .collect();
    assert_eq!(
        names,
        [
            "partition",
            "from_offset",
            "to_offset",
            "kind",
            "reason",
            "in_topic"
        ]
    );
}
