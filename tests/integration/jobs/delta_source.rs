//! Jobs that read a Delta table as a stream of the files that are added to it.

use super::Pipeline;

/// Doubles the numbers of a Delta table, three a batch about: into a topic, and into another Delta table.
fn doubling(name: &str, options: &str) -> Pipeline {
    let pipeline = Pipeline::between_topics(name, 1);
    let (bootstrap, sink) = (&pipeline.bootstrap, &pipeline.sink);
    pipeline.work.file(
        "tables.sql",
        &format!(
            "CREATE EXTERNAL TABLE written (v BIGINT, part INT) STORED AS DELTA PARTITIONED BY (part) LOCATION 'written';\n\
             CREATE EXTERNAL TABLE numbers STORED AS DELTA LOCATION 'written' OPTIONS ('scan.mode' 'stream'{options});\n\
             CREATE EXTERNAL TABLE doubled (v BIGINT) STORED AS KAFKA LOCATION '{sink}' \
             OPTIONS ('kafka.bootstrap.servers' '{bootstrap}', 'topic.partitions' '1');\n\
             CREATE EXTERNAL TABLE kept (v BIGINT, p INT) STORED AS DELTA LOCATION 'kept';\n"
        ),
    );
    pipeline.work.file(
        "job.sql",
        "CREATE JOB doubling WITH ('trigger' '10 milliseconds', 'batch.max_rows' '3') AS\n\
         INSERT INTO doubled SELECT v * 2 FROM numbers;\n",
    );
    pipeline.work.file(
        "keep.sql",
        "CREATE JOB keeping WITH ('trigger' '10 milliseconds', 'batch.max_rows' '3') AS\n\
         INSERT INTO kept SELECT v, part FROM numbers;\n",
    );
    pipeline
}

impl Pipeline {
    /// Adds numbers to the table that is read, in one commit with a file for each of two partitions.
    fn write(&self, numbers: std::ops::Range<u64>) {
        let rows: Vec<String> = numbers.map(|v| format!("({v}, {})", v % 2)).collect();
        self.statement(&format!("INSERT INTO written VALUES {}", rows.join(", ")));
    }

    fn statement(&self, statement: &str) {
        self.work.sql(&["tables.sql"], &[statement]).ok();
    }

    /// The last row of a query, as JSON.
    fn row(&self, query: &str) -> serde_json::Value {
        let rows = self.work.sql(&["tables.sql"], &[query]).ok();
        let line = rows
            .out
            .lines()
            .last()
            .unwrap_or_else(|| panic!("{query}: no rows"));
        serde_json::from_str(line).unwrap()
    }

    /// Runs a job file that stops, and gives the reason.
    pub(super) fn reason(&self, file: &str) -> String {
        let ran = self.catch_up(file);
        assert_eq!(ran.code, Some(1), "{ran:?}");
        let row = self.row("SELECT state, reason FROM system.jobs");
        assert_eq!(row["state"], "FAILED", "{row}");
        row["reason"].as_str().unwrap().to_owned()
    }

    /// Data files of a version of the table, as the log names them.
    fn files_of(&self, version: u64) -> Vec<String> {
        let log = self
            .work
            .path(&format!("written/_delta_log/{version:020}.json"));
        let text = std::fs::read_to_string(log).unwrap();
        let actions = text
            .lines()
            .map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap());
        actions
            .filter_map(|action| action["add"]["path"].as_str().map(str::to_owned))
            .collect()
    }
}

fn doubles(numbers: impl IntoIterator<Item = u64>) -> Vec<u64> {
    numbers.into_iter().map(|v| v * 2).collect()
}

#[test]
fn exact_1_existing_and_added_files_are_read_once() {
    let pipeline = doubling("delta-rows", "");
    pipeline.write(0..10);
    pipeline.write(10..12);
    pipeline.catch_up("job.sql").ok();
    assert_eq!(pipeline.doubled(), doubles(0..12));
    // A file is read whole: the first two have five rows each, the others fit into one batch.
    let batches = pipeline.row("SELECT count(*) AS n, sum(rows_in) AS rows FROM system.batches");
    assert_eq!(
        (batches["n"].as_u64(), batches["rows"].as_u64()),
        (Some(3), Some(12)),
        "{batches}"
    );
    pipeline.write(12..14);
    // A commit that only moves rows adds none.
    pipeline.statement("OPTIMIZE written");
    pipeline.write(14..16);
    pipeline.catch_up("job.sql").ok();
    assert_eq!(pipeline.doubled(), doubles(0..16));
    pipeline.catch_up("job.sql").ok();
    assert_eq!(pipeline.doubled(), doubles(0..16));
    let partition = pipeline.row("SELECT \"table\", partition, \"offset\" FROM system.partitions");
    assert_eq!(partition["table"], "numbers");
    // The next version is the sixth: one that made the table, four INSERTs and OPTIMIZE came before.
    assert_eq!(partition["offset"], 6_000_000_000_u64, "{partition}");

    let explain = "EXPLAIN CREATE JOB j AS INSERT INTO doubled SELECT v FROM numbers";
    let explained = pipeline.work.sql(&["tables.sql"], &[explain]).ok();
    assert!(
        explained
            .out
            .contains("numbers: Delta table 'written', as its files are added"),
        "{explained:?}"
    );
}

#[test]
fn exact_2_from_delta_to_delta_after_a_crash_at_any_step() {
    let pipeline = doubling("delta-crash", "");
    let mut sent = 0;
    pipeline.crash_at_each_step("keep.sql", 1, || {
        pipeline.write(sent..sent + 5);
        pipeline.write(sent + 5..sent + 9);
        sent += 9;
        if sent % 2 == 0 {
            pipeline.statement("OPTIMIZE written");
        }
    });
    assert_eq!(pipeline.kept(), (0..sent).collect::<Vec<_>>());
    // EXACT-3: from an earlier batch on, the same rows come again.
    for batch in [5, 2, 0] {
        let rewind = format!("REWIND JOB keeping TO BATCH {batch}");
        pipeline
            .work
            .sql(&["tables.sql", "keep.sql"], &[&rewind])
            .ok();
        pipeline.catch_up("keep.sql").ok();
        assert_eq!(pipeline.kept(), (0..sent).collect::<Vec<_>>(), "{batch}");
    }
    let odd = pipeline.row("SELECT count(*) AS n FROM kept WHERE p <> v % 2");
    assert_eq!(odd["n"], 0, "partition values belong to their rows");
}

#[test]
fn deleted_or_rewritten_rows_stop_the_job_unless_configured() {
    let pipeline = doubling("delta-changes", "");
    pipeline.write(0..4);
    pipeline.catch_up("job.sql").ok();
    pipeline.write(4..6);
    pipeline.statement("INSERT OVERWRITE written VALUES (100, 0)");
    pipeline.write(6..8);
    let reason = pipeline.reason("job.sql");
    assert!(
        reason.contains("version 3 (WRITE) deletes or rewrites rows"),
        "{reason}"
    );
    // The rows before it were read: their files are no longer in the table, and still in its folder.
    assert_eq!(pipeline.doubled(), doubles(0..6));

    let tables = std::fs::read_to_string(pipeline.work.path("tables.sql")).unwrap();
    pipeline.work.file(
        "tables.sql",
        &tables.replace(
            "'scan.mode' 'stream'",
            "'scan.mode' 'stream', 'scan.on_change' 'skip'",
        ),
    );
    let job = std::fs::read_to_string(pipeline.work.path("job.sql")).unwrap();
    pipeline.work.file(
        "job.sql",
        &job.replace("CREATE JOB", "CREATE OR REPLACE JOB"),
    );
    pipeline.statement("RESUME JOB doubling");
    pipeline.catch_up("job.sql").ok();
    assert_eq!(pipeline.doubled(), doubles(0..8));
}

#[test]
fn loss_1_missing_versions_and_files_stop_the_job_until_skipped() {
    let pipeline = doubling("delta-loss", "");
    let tables = std::fs::read_to_string(pipeline.work.path("tables.sql")).unwrap();
    let written = "LOCATION 'written';";
    let checkpointed = "LOCATION 'written' OPTIONS ('delta.checkpointInterval' '5');";
    pipeline
        .work
        .file("tables.sql", &tables.replacen(written, checkpointed, 1));
    pipeline.write(0..2);
    pipeline.catch_up("job.sql").ok();
    pipeline.write(2..4);
    pipeline.write(4..6);
    for file in pipeline.files_of(2) {
        std::fs::remove_file(pipeline.work.path("written").join(file)).unwrap();
    }
    let reason = pipeline.reason("job.sql");
    assert!(
        reason.contains("2 files that are to be read next are gone"),
        "{reason}"
    );
    pipeline.statement("RESUME JOB doubling SKIPPING LOST");
    pipeline.catch_up("job.sql").ok();
    assert_eq!(pipeline.doubled(), doubles([0, 1, 4, 5]));

    // The cleanup of a log that has a checkpoint of version 4 takes its entry, which the job has not read.
    pipeline.write(6..8);
    pipeline.write(8..10);
    pipeline.write(10..12);
    let log = pipeline.work.path("written/_delta_log");
    assert!(log.join("00000000000000000004.checkpoint.parquet").exists());
    for version in 0..=4 {
        std::fs::remove_file(log.join(format!("{version:020}.json"))).unwrap();
    }
    let reason = pipeline.reason("job.sql");
    assert!(
        reason.contains("its log no longer has versions 4 to 4"),
        "{reason}"
    );
    pipeline.statement("RESUME JOB doubling SKIPPING LOST");
    pipeline.catch_up("job.sql").ok();
    assert_eq!(pipeline.doubled(), doubles([0, 1, 4, 5, 8, 9, 10, 11]));
}

#[test]
fn a_job_may_begin_at_the_end_of_its_source() {
    let pipeline = doubling("delta-latest", ", 'scan.startup' 'latest'");
    pipeline.write(0..4);
    pipeline.catch_up("job.sql").ok();
    assert_eq!(pipeline.doubled(), Vec::<u64>::new());
    pipeline.write(4..6);
    pipeline.catch_up("job.sql").ok();
    assert_eq!(pipeline.doubled(), doubles(4..6));

    let pipeline = Pipeline::between_topics("kafka-latest", 2);
    let tables = std::fs::read_to_string(pipeline.work.path("tables.sql")).unwrap();
    let (numbers, rest) = tables.split_once(");\n").unwrap();
    pipeline.work.file(
        "tables.sql",
        &format!("{numbers}, 'scan.startup' 'latest');\n{rest}"),
    );
    pipeline.send(0..4);
    pipeline.catch_up("job.sql").ok();
    assert_eq!(pipeline.doubled(), Vec::<u64>::new());
    pipeline.send(4..6);
    pipeline.catch_up("job.sql").ok();
    assert_eq!(pipeline.doubled(), doubles(4..6));
}

#[test]
fn a_delta_table_is_a_stream_if_declared_so() {
    let pipeline = doubling("delta-refused", "");
    pipeline.write(0..2);
    for (statement, expected) in [
        (
            "CREATE JOB j AS INSERT INTO doubled SELECT v FROM written",
            "'scan.mode' 'stream'",
        ),
        (
            "CREATE JOB j AS INSERT INTO written SELECT v, part FROM numbers",
            "reads and writes the Delta table",
        ),
        (
            "CREATE JOB j AS INSERT INTO doubled SELECT count(*) FROM TUMBLE(TABLE (SELECT v, to_timestamp(v) AS t \
             FROM numbers), DESCRIPTOR(t), INTERVAL '1 second') GROUP BY window_start",
            "watermark is not known",
        ),
        (
            "CREATE EXTERNAL TABLE t STORED AS DELTA LOCATION 'written' OPTIONS ('scan.mode' 'streem')",
            "it takes 'static' or 'stream'",
        ),
        (
            "CREATE EXTERNAL TABLE t STORED AS DELTA LOCATION 'written' OPTIONS ('scan.startup' 'latest')",
            "set 'scan.mode' 'stream' as well",
        ),
    ] {
        let ran = pipeline.work.sql(&["tables.sql"], &[statement]);
        assert_eq!(ran.code, Some(1), "{statement}: {ran:?}");
        assert!(ran.err.contains(expected), "{statement}: {}", ran.err);
    }
    // Beside a stream it may be joined as the static table that it is under its other name; each batch aggregates alone.
    pipeline.work.file(
        "sums.sql",
        "CREATE JOB sums AS INSERT INTO doubled SELECT sum(n.v) FROM numbers n JOIN written w ON n.v = w.v EMIT PER BATCH;\n",
    );
    pipeline.catch_up("sums.sql").ok();
    let sums = pipeline.row("SELECT count(*) AS n, sum(v) AS v FROM doubled");
    assert_eq!(
        (sums["n"].as_u64(), sums["v"].as_u64()),
        (Some(1), Some(1)),
        "{sums}"
    );
}
