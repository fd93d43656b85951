//! Delta tables of other writers, read as streams: deletion vectors, mapped columns, an object store.

use crate::support::{Workspace, copy_folder, repository, s3};

fn rows(work: &Workspace, query: &str) -> Vec<String> {
    let rows = work.sql(&["tables.sql"], &[query]).ok();
    rows.out.lines().map(str::to_owned).collect()
}

/// A table that Spark wrote, with a deletion vector, mapped and renamed columns; a copy of its rows, and its visits per hour.
fn by_spark() -> Workspace {
    let work = Workspace::new();
    copy_folder(
        &repository().join("tests/fixtures/delta-by-spark"),
        &work.path("spark"),
    );
    work.file(
        "tables.sql",
        "CREATE EXTERNAL TABLE spark STORED AS DELTA LOCATION 'spark';\n\
         CREATE EXTERNAL TABLE visits (WATERMARK FOR event_time AS event_time - INTERVAL '1 minute') \
         STORED AS DELTA LOCATION 'spark' OPTIONS ('scan.mode' 'stream', 'scan.on_change' 'skip');\n\
         CREATE EXTERNAL TABLE copied (visitor BIGINT, page VARCHAR, browser VARCHAR, day DATE) STORED AS DELTA \
         LOCATION 'copied';\n\
         CREATE EXTERNAL TABLE hours (s TIMESTAMP, n BIGINT, visitors BIGINT[]) STORED AS DELTA LOCATION 'hours';\n",
    );
    work.file(
        "jobs.sql",
        "CREATE JOB copying WITH ('batch.max_rows' '2') AS INSERT INTO copied \
         SELECT visitor, \"visited page\", context['browser'], day FROM visits;\n\
         CREATE JOB counting WITH ('batch.max_rows' '2') AS INSERT INTO hours \
         SELECT window_start, count(*), array_agg(visitor ORDER BY event_time) \
         FROM TUMBLE(TABLE visits, DESCRIPTOR(event_time), INTERVAL '1 hour') GROUP BY window_start;\n",
    );
    work
}

fn catch_up(work: &Workspace) {
    work.anabranch(&["run", "tables.sql", "jobs.sql", "--until-caught-up"])
        .ok();
}

#[test]
fn a_table_that_spark_wrote_is_read_as_a_stream() {
    let work = by_spark();
    catch_up(&work);
    let expected = "SELECT visitor, \"visited page\" AS page, context['browser'] AS browser, day FROM spark ORDER BY visitor";
    let copied = "SELECT visitor, page, browser, day FROM copied ORDER BY visitor";
    assert_eq!(rows(&work, copied), rows(&work, expected));
    assert_eq!(rows(&work, copied).len(), 11);
    // TIME-4: the windows that are closed are those of a query.
    let of_query = "SELECT window_start AS s, count(*) AS n, array_agg(visitor ORDER BY event_time) AS visitors \
                    FROM TUMBLE(TABLE spark, DESCRIPTOR(event_time), INTERVAL '1 hour') \
                    WHERE day = DATE '2025-09-04' GROUP BY window_start ORDER BY s";
    let of_job = "SELECT s, n, visitors FROM hours ORDER BY s";
    assert_eq!(rows(&work, of_job), rows(&work, of_query));
    assert!(!rows(&work, of_job).is_empty());
    assert_eq!(
        rows(&work, "SELECT max(batch) AS n FROM system.batches"),
        ["{\"n\":2}"],
        "the files of one row are read together"
    );

    // Rows that are added by name, and by position of the mapped columns, are read next.
    let insert = "INSERT INTO spark VALUES (30, 'ours', TIMESTAMP '2025-09-05T10:00:00', NULL, DATE '2025-09-05')";
    work.sql(&["tables.sql"], &[insert]).ok();
    catch_up(&work);
    assert_eq!(rows(&work, copied), rows(&work, expected));
    assert_eq!(rows(&work, copied).len(), 12);
}

#[test]
fn later_deletion_vectors_do_not_hide_unread_rows() {
    let work = by_spark();
    // The job began when the table was empty, at version 0: Spark's versions have been added since.
    let log = work.path("spark/_delta_log");
    let later: Vec<_> = (1..=5).map(|n| format!("{n:020}.json")).collect();
    for name in &later {
        std::fs::rename(log.join(name), work.path(name)).unwrap();
    }
    let jobs = "CREATE JOB copying WITH ('batch.max_rows' '2') AS INSERT INTO copied SELECT 1, \"visited page\", \
                context['browser'], day FROM visits;\n";
    work.file("jobs.sql", jobs);
    catch_up(&work);
    for name in &later[..4] {
        std::fs::rename(work.path(name), log.join(name)).unwrap();
    }
    catch_up(&work);
    // Twelve rows and one more: the rows that were deleted or changed later are read as they were added.
    let pages = rows(&work, "SELECT page FROM copied ORDER BY page");
    assert_eq!(pages.len(), 13, "{pages:?}");
    assert!(
        !pages.iter().any(|page| page.contains("changed")),
        "{pages:?}"
    );
}

/// A table that has a column more since: files of versions before it are read as well.
#[test]
fn columns_that_came_later_are_null_in_earlier_files() {
    let work = &Workspace::new();
    work.file(
        "tables.sql",
        "CREATE EXTERNAL TABLE plain (v BIGINT) STORED AS DELTA LOCATION 'plain';\n\
         CREATE EXTERNAL TABLE numbers STORED AS DELTA LOCATION 'plain' OPTIONS ('scan.mode' 'stream');\n\
         CREATE EXTERNAL TABLE kept (v BIGINT, w BIGINT) STORED AS DELTA LOCATION 'kept';\n",
    );
    work.sql(&["tables.sql"], &["INSERT INTO plain VALUES (1), (2)"])
        .ok();
    // As another engine does it: new metadata, and no rows.
    let log = work.path("plain/_delta_log");
    let first = std::fs::read_to_string(log.join("00000000000000000000.json")).unwrap();
    let metadata = first
        .lines()
        .find(|line| line.contains("metaData"))
        .unwrap();
    let mut metadata: serde_json::Value = serde_json::from_str(metadata).unwrap();
    let schema = metadata["metaData"]["schemaString"].as_str().unwrap();
    let mut schema: serde_json::Value = serde_json::from_str(schema).unwrap();
    let field = serde_json::json!({"name": "w", "type": "long", "nullable": true, "metadata": {}});
    schema["fields"].as_array_mut().unwrap().push(field);
    metadata["metaData"]["schemaString"] = schema.to_string().into();
    std::fs::write(log.join("00000000000000000002.json"), metadata.to_string()).unwrap();
    let tables = std::fs::read_to_string(work.path("tables.sql")).unwrap();
    work.file("tables.sql", &tables.replace("(v BIGINT) STORED", "STORED"));
    work.sql(&["tables.sql"], &["INSERT INTO plain VALUES (3, 30)"])
        .ok();
    work.file(
        "jobs.sql",
        "CREATE JOB keeping WITH ('batch.max_rows' '1') AS INSERT INTO kept SELECT v, w FROM numbers;\n",
    );
    catch_up(work);
    assert_eq!(
        rows(work, "SELECT v, w FROM kept ORDER BY v"),
        [
            "{\"v\":1,\"w\":null}",
            "{\"v\":2,\"w\":null}",
            "{\"v\":3,\"w\":30}"
        ]
    );
}

#[test]
fn a_table_in_an_object_store_is_read_as_a_stream() {
    let name = "jobs::delta_foreign::a_table_in_an_object_store_is_read_as_a_stream";
    let Some((endpoint, bucket)) = s3(name) else {
        return;
    };
    let work = Workspace::new();
    let place = crate::support::topic("stream");
    let options = format!(
        "'aws.endpoint' '{endpoint}', 'aws.allow_http' 'true', 'aws.region' 'us-east-1', \
         'aws.access_key_id' 'anabranch', 'aws.secret_access_key' 'anabranch-secret'"
    );
    work.file(
        "tables.sql",
        &format!(
            "CREATE EXTERNAL TABLE written (k VARCHAR, t TIMESTAMP) STORED AS DELTA PARTITIONED BY (k) \
             LOCATION 's3://{bucket}/{place}' OPTIONS ({options});\n\
             CREATE EXTERNAL TABLE ticks (WATERMARK FOR t AS t - INTERVAL '5 seconds') STORED AS DELTA \
             LOCATION 's3://{bucket}/{place}' OPTIONS ('scan.mode' 'stream', {options});\n\
             CREATE EXTERNAL TABLE kept (k VARCHAR, t TIMESTAMP) STORED AS DELTA LOCATION 'kept';\n\
             CREATE EXTERNAL TABLE counts (k VARCHAR, s TIMESTAMP, n BIGINT) STORED AS DELTA LOCATION 'counts';\n"
        ),
    );
    work.file(
        "jobs.sql",
        "CREATE JOB keeping WITH ('batch.max_rows' '2') AS INSERT INTO kept SELECT k, t FROM ticks;\n\
         CREATE JOB counting WITH ('batch.max_rows' '2') AS INSERT INTO counts SELECT k, window_start, count(*) \
         FROM TUMBLE(TABLE ticks, DESCRIPTOR(t), INTERVAL '10 seconds') GROUP BY k, window_start;\n",
    );
    // Values of partitions stand in paths, with characters that a URL writes in another way.
    for minute in 0..3 {
        let rows: Vec<String> = (0..30)
            .map(|n| {
                let key = ["a b", "c=d%", "é"][n % 3];
                format!(
                    "('{key}', TIMESTAMP '2025-01-01T00:{minute:02}:{:02}Z')",
                    2 * n
                )
            })
            .collect();
        let insert = format!("INSERT INTO written VALUES {}", rows.join(", "));
        work.sql(&["tables.sql"], &[&insert]).ok();
        catch_up(&work);
    }
    let in_order = |table: &str| rows(&work, &format!("SELECT k, t FROM {table} ORDER BY t"));
    assert_eq!(in_order("kept"), in_order("written"));
    assert_eq!(in_order("kept").len(), 90);
    let counted = rows(&work, "SELECT k, s, n FROM counts ORDER BY s, k");
    let of_query = "SELECT k, window_start AS s, count(*) AS n FROM TUMBLE(TABLE written, DESCRIPTOR(t), INTERVAL '10 seconds') \
                    WHERE t < TIMESTAMP '2025-01-01T00:02:50Z' GROUP BY k, window_start ORDER BY s, k";
    assert_eq!(counted, rows(&work, of_query));
}
