//! Jobs that join their stream with tables that change between batches.

use std::collections::BTreeMap;

use super::Pipeline;

/// Clicks and visits by country, and a Delta table of countries.
fn countries(name: &str) -> Pipeline {
    let pipeline = Pipeline::between_topics(name, 1);
    let (bootstrap, source, sink) = (&pipeline.bootstrap, &pipeline.source, &pipeline.sink);
    pipeline.work.file(
        "tables.sql",
        &format!(
            "CREATE EXTERNAL TABLE ticks (k BIGINT, t TIMESTAMP, WATERMARK FOR t AS t - INTERVAL '5 seconds') \
             STORED AS KAFKA LOCATION '{source}' OPTIONS ('kafka.bootstrap.servers' '{bootstrap}');\n\
             CREATE EXTERNAL TABLE countries (id BIGINT, name VARCHAR) STORED AS DELTA LOCATION 'countries';\n\
             CREATE VIEW named AS SELECT id, max(name) AS name FROM countries GROUP BY id;\n\
             CREATE EXTERNAL TABLE counts (name VARCHAR, s TIMESTAMP, v BIGINT) STORED AS KAFKA LOCATION '{sink}' \
             OPTIONS ('kafka.bootstrap.servers' '{bootstrap}', 'topic.partitions' '1');\n\
             CREATE EXTERNAL TABLE kept (name VARCHAR, s TIMESTAMP, v BIGINT) STORED AS DELTA LOCATION 'kept';\n"
        ),
    );
    pipeline
}

impl Pipeline {
    fn insert(&self, countries: &str) {
        let insert = format!("INSERT INTO countries VALUES {countries}");
        self.work.sql(&["tables.sql"], &[&insert]).ok();
    }

    /// The rows of `table` as `name v`, sorted.
    fn named(&self, table: &str) -> Vec<String> {
        let query =
            format!("SELECT coalesce(name, '-') || ' ' || v AS row FROM {table} ORDER BY 1");
        let rows = self.work.sql(&["tables.sql"], &[&query]).ok();
        rows.out
            .lines()
            .map(|line| {
                let row: serde_json::Value = serde_json::from_str(line).unwrap();
                row["row"].as_str().unwrap().to_owned()
            })
            .collect()
    }

    /// The last row of `system.batches` or another table, as JSON.
    fn one(&self, query: &str) -> serde_json::Value {
        let rows = self.work.sql(&["tables.sql"], &[query]).ok();
        let line = rows
            .out
            .lines()
            .last()
            .unwrap_or_else(|| panic!("{query}: no rows"));
        serde_json::from_str(line).unwrap()
    }
}

#[test]
fn each_batch_reads_a_static_table_as_it_is_then() {
    let pipeline = countries("joins-rows");
    pipeline.work.file(
        "job.sql",
        "CREATE JOB enrich AS INSERT INTO counts SELECT name, t, k FROM ticks LEFT JOIN named ON k = id;\n",
    );
    pipeline.insert("(1, 'France')");
    pipeline.produce(
        "{\"k\":1,\"t\":\"2025-01-01T00:00:00Z\"}\n{\"k\":2,\"t\":\"2025-01-01T00:00:01Z\"}\n",
    );
    pipeline.catch_up("job.sql").ok();
    assert_eq!(pipeline.named("counts"), ["- 2", "France 1"]);
    pipeline.insert("(2, 'Spain')");
    pipeline.produce("{\"k\":2,\"t\":\"2025-01-01T00:00:02Z\"}\n");
    pipeline.catch_up("job.sql").ok();
    assert_eq!(pipeline.named("counts"), ["- 2", "France 1", "Spain 2"]);

    let explain = "EXPLAIN CREATE JOB enrich AS INSERT INTO counts SELECT name, t, k FROM ticks LEFT JOIN named ON k = id";
    let explained = pipeline.work.sql(&["tables.sql"], &[explain]).ok();
    let line = explained
        .out
        .lines()
        .find(|line| line.contains("static table"));
    assert!(
        line.is_some_and(|line| line.contains("countries: Delta table, as it is when a batch runs")),
        "{explained:?}"
    );
    // The definitions that the job keeps have the view and its table.
    let shown = pipeline
        .work
        .sql(&["tables.sql"], &["SHOW CREATE JOB enrich"])
        .ok();
    assert!(
        shown.out.contains("STORED AS DELTA") && shown.out.contains("CREATE VIEW"),
        "{shown:?}"
    );
}

#[test]
fn loss_1_records_are_read_where_no_row_can_pass_the_filter() {
    let windows = "SELECT 'x', window_start, count(*) \
         FROM TUMBLE(TABLE ticks, DESCRIPTOR(t), INTERVAL '10 seconds') WHERE k = NULL GROUP BY window_start";
    for (name, select, watermark) in [
        (
            "nothing-rows",
            "SELECT 'x', t, k FROM ticks WHERE false",
            serde_json::Value::Null,
        ),
        ("nothing-windows", windows, "2025-01-01T00:00:14Z".into()),
    ] {
        let pipeline = countries(name);
        let job = format!(
            "CREATE JOB nothing WITH ('trigger' '10 milliseconds') AS INSERT INTO kept {select};\n"
        );
        pipeline.work.file("job.sql", &job);
        pipeline.tick(0..20);
        pipeline.produce("{\"k\":\"no number\"}\n");
        pipeline.catch_up("job.sql").ok();
        let read = pipeline.one("SELECT sum(rows_in) AS n FROM system.batches");
        assert_eq!(read["n"], 21, "{name}");
        let reached = "SELECT CAST(watermark AS VARCHAR) AS w FROM system.batches ORDER BY batch";
        assert_eq!(pipeline.one(reached)["w"], watermark, "{name}");
        let dead = pipeline.one("SELECT count(*) AS n FROM system.dead_letters");
        assert_eq!(dead["n"], 1, "{name}");
        assert_eq!(pipeline.named("kept"), Vec::<String>::new(), "{name}");
    }
}

#[test]
fn windows_count_joined_rows_and_the_watermark_advances_without_any() {
    let pipeline = countries("joins-windows");
    pipeline.work.file(
        "job.sql",
        "CREATE JOB windows WITH ('trigger' '10 milliseconds') AS INSERT INTO kept \
         SELECT n.name, window_start, count(*) \
         FROM TUMBLE(TABLE ticks, DESCRIPTOR(t), INTERVAL '10 seconds') AS v JOIN named AS n ON v.k = n.id \
         GROUP BY n.name, window_start;\n",
    );
    let watermark = "SELECT CAST(watermark AS VARCHAR) AS watermark, rows_in FROM system.batches ORDER BY batch";
    // The table is empty, the join gives nothing and could stop at once: the records are read all the same.
    pipeline.tick(0..20);
    pipeline.produce("{\"k\":\"no number\"}\n");
    pipeline.catch_up("job.sql").ok();
    let last = pipeline.one(watermark);
    assert_eq!(last["watermark"], "2025-01-01T00:00:14Z", "{last}");
    let dead = pipeline.one("SELECT count(*) AS n FROM system.dead_letters");
    assert_eq!(dead["n"], 1);
    assert_eq!(pipeline.named("kept"), Vec::<String>::new());

    pipeline.insert("(0, 'even')");
    pipeline.tick(20..40);
    pipeline.catch_up("job.sql").ok();
    assert_eq!(pipeline.named("kept"), ["even 5"]);
    pipeline.insert("(1, 'odd')");
    pipeline.tick(40..60);
    pipeline.catch_up("job.sql").ok();
    // Windows from 20, 30 and 40 seconds on; the odd ones have a name from the third batch on.
    assert_eq!(
        pipeline.named("kept"),
        ["even 5", "even 5", "even 5", "odd 5"]
    );
}

#[test]
fn emitted_rows_are_joined_as_well() {
    let pipeline = countries("joins-above");
    pipeline.work.file(
        "job.sql",
        "CREATE JOB above AS INSERT INTO counts \
         SELECT name, s, n FROM (SELECT k, window_start AS s, count(*) AS n \
           FROM TUMBLE(TABLE ticks, DESCRIPTOR(t), INTERVAL '10 seconds') GROUP BY k, window_start) \
         LEFT JOIN named ON k = id;\n",
    );
    pipeline.insert("(0, 'even')");
    pipeline.tick(0..20);
    pipeline.catch_up("job.sql").ok();
    assert_eq!(pipeline.named("counts"), ["- 5", "even 5"]);
    pipeline.insert("(1, 'odd')");
    pipeline.tick(20..30);
    pipeline.catch_up("job.sql").ok();
    let rows = pipeline.named("counts");
    let mut counted: BTreeMap<&str, usize> = BTreeMap::new();
    for row in &rows {
        *counted.entry(row).or_default() += 1;
    }
    assert_eq!(
        counted,
        BTreeMap::from([("- 5", 1), ("even 5", 2), ("odd 5", 1)])
    );
}
