//! Jobs whose queries have one column twice, by two names or by one.

use super::Pipeline;

#[test]
fn a_job_writes_a_column_twice() {
    let pipeline = Pipeline::between_topics("columns-twice", 1);
    let (bootstrap, source, sink) = (&pipeline.bootstrap, &pipeline.source, &pipeline.sink);
    pipeline.work.file(
        "tables.sql",
        &format!(
            "CREATE EXTERNAL TABLE s (page VARCHAR, n BIGINT) STORED AS KAFKA LOCATION '{source}' \
               OPTIONS ('kafka.bootstrap.servers' '{bootstrap}');\n\
             CREATE EXTERNAL TABLE out (k VARCHAR, p VARCHAR) STORED AS KAFKA LOCATION '{sink}' \
               OPTIONS ('kafka.bootstrap.servers' '{bootstrap}', 'topic.partitions' '1');\n\
             CREATE EXTERNAL TABLE kept (k VARCHAR, p VARCHAR) STORED AS DELTA LOCATION 'kept';\n"
        ),
    );
    pipeline.produce("{\"page\":\"home\",\"n\":1}\n{\"page\":\"index\",\"n\":2}\n");
    let mut expected = Vec::new();
    for (job, query) in [
        ("named", "SELECT page AS key, page FROM s"),
        ("same", "SELECT page, page FROM s"),
        // By the names of the other columns: rows are written by place.
        ("crossed", "SELECT page AS p, upper(page) AS k FROM s"),
        ("one_name", "SELECT page AS x, upper(page) AS x FROM s"),
    ] {
        let file = format!("{job}.sql");
        let text = |table: &str, job: &str| {
            format!(
                "CREATE JOB {job} WITH ('trigger' '10 milliseconds') AS INSERT INTO {table} (k, p) {query};\n"
            )
        };
        pipeline.work.file(&file, &text("out", job));
        pipeline.catch_up(&file).ok();
        let is_upper = query.contains("upper");
        for page in ["home", "index"] {
            let second = if is_upper {
                page.to_uppercase()
            } else {
                page.to_owned()
            };
            expected.push(serde_json::json!({ "k": page, "p": second }));
        }
        let printed = crate::support::consume_on(&pipeline.bootstrap, &pipeline.sink, &[]);
        let values = printed
            .lines()
            .map(|line| serde_json::from_str(line).unwrap());
        assert_eq!(
            values.collect::<Vec<serde_json::Value>>(),
            expected,
            "{query}"
        );

        // The same into Delta.
        let file = format!("keep_{job}.sql");
        pipeline
            .work
            .file(&file, &text("kept", &format!("keep_{job}")));
        pipeline.catch_up(&file).ok();
    }
    let sorted = |rows: Vec<serde_json::Value>| {
        let mut rows: Vec<String> = rows.iter().map(ToString::to_string).collect();
        rows.sort();
        rows
    };
    assert_eq!(
        sorted(pipeline.rows("SELECT k, p FROM kept")),
        sorted(expected)
    );
}
