//! Jobs whose groups are finer than sessions: they group by a column of the row as well.

use super::Pipeline;

/// Visits with a page, and their sessions of five seconds by page.
fn by_page(name: &str) -> Pipeline {
    let pipeline = Pipeline::between_topics(name, 1);
    let (bootstrap, source, sink) = (&pipeline.bootstrap, &pipeline.source, &pipeline.sink);
    pipeline.work.file(
        "tables.sql",
        &format!(
            "CREATE EXTERNAL TABLE visits (k BIGINT, page VARCHAR, t TIMESTAMP, WATERMARK FOR t AS t - INTERVAL '60 seconds') \
             STORED AS KAFKA LOCATION '{source}' OPTIONS ('kafka.bootstrap.servers' '{bootstrap}');\n\
             CREATE EXTERNAL TABLE pages (id VARCHAR, n BIGINT, PRIMARY KEY (id) NOT ENFORCED) STORED AS KAFKA \
             LOCATION '{sink}' OPTIONS ('kafka.bootstrap.servers' '{bootstrap}', 'topic.partitions' '1');\n\
             CREATE EXTERNAL TABLE kept (k BIGINT, page VARCHAR, s TIMESTAMP, n BIGINT) STORED AS DELTA LOCATION 'kept';\n"
        ),
    );
    let from = "FROM SESSION(TABLE visits PARTITION BY k, DESCRIPTOR(t), INTERVAL '5 seconds')";
    pipeline.work.file(
        "changes.sql",
        &format!(
            "CREATE JOB changes WITH ('trigger' '10 milliseconds') AS INSERT INTO pages \
             SELECT page || '-' || to_char(window_start, '%M:%S'), count(*) {from} GROUP BY k, window_start, page EMIT CHANGES;\n"
        ),
    );
    pipeline.work.file(
        "keep.sql",
        &format!(
            "CREATE JOB keeping WITH ('trigger' '10 milliseconds', 'batch.max_rows' '7') AS INSERT INTO kept \
             SELECT k, upper(page), window_start, count(*) {from} GROUP BY window_start, upper(page), k;\n"
        ),
    );
    pipeline
}

impl Pipeline {
    fn visit(&self, key: u32, page: &str, second: u32) {
        let (minute, second) = (second / 60, second % 60);
        self.produce(&format!(
            "{{\"k\":{key},\"page\":\"{page}\",\"t\":\"2025-01-01T00:{minute:02}:{second:02}Z\"}}\n"
        ));
    }
}

#[test]
fn all_groups_of_a_moved_session_are_withdrawn_and_emitted_again() {
    let pipeline = by_page("groups-changes");
    let mut said = Vec::new();
    let mut visit = |page: &str, second: u32| {
        pipeline.visit(1, page, second);
        pipeline.catch_up("changes.sql").ok();
        let printed = pipeline.printed();
        let lines: Vec<&str> = printed.lines().skip(said.len()).collect();
        let mut new: Vec<String> = lines.iter().map(|line| (*line).to_owned()).collect();
        said.extend(new.clone());
        new.sort();
        new
    };
    let group = |id: &str, rows: u32| format!("{id}\t{{\"id\":\"{id}\",\"n\":{rows}}}");
    let gone = |id: &str| format!("{id}\tnull");
    assert_eq!(visit("a", 10), [group("a-00:10", 1)]);
    // The session goes on: its other groups do not change.
    assert_eq!(visit("b", 13), [group("b-00:10", 1)]);
    assert_eq!(visit("b", 24), [group("b-00:24", 1)]);
    // It begins earlier: all its groups have another identity.
    assert_eq!(
        visit("c", 6),
        [
            group("a-00:06", 1),
            gone("a-00:10"),
            group("b-00:06", 1),
            gone("b-00:10"),
            group("c-00:06", 1),
        ]
    );
    assert_eq!(visit("a", 18), [group("a-00:06", 2)]);
    // Two sessions become one through a visit to another page: the later session's count of a page is added to the
    // earlier one's.
    assert_eq!(
        visit("a", 20),
        [group("a-00:06", 3), group("b-00:06", 2), gone("b-00:24")]
    );
}

#[test]
fn exact_3_finer_groups_after_crashes_and_rewinds() {
    let pipeline = by_page("groups-crash");
    let mut sent: u32 = 0;
    let mut send = |count: u32| {
        let lines: String = (sent..sent + count)
            .map(|n| {
                // Out of order by some seconds, with a pause now and then.
                let second = n * 2 + (n * 7) % 5 + n / 9 * 6;
                let (key, page) = (n % 2, ["a", "b", "c"][(n * n % 3) as usize]);
                format!(
                    "{{\"k\":{key},\"page\":\"{page}\",\"t\":\"2025-01-01T00:{:02}:{:02}Z\"}}\n",
                    second / 60,
                    second % 60
                )
            })
            .collect();
        pipeline.produce(&lines);
        sent += count;
    };
    // TIME-4: closed windows have the rows that a query gives for them.
    let check = || {
        let kept = "SELECT k, page, s, n FROM kept ORDER BY s, k, page";
        let of_query = "SELECT k, upper(page) AS page, window_start AS s, count(*) AS n \
                        FROM SESSION(TABLE visits PARTITION BY k, DESCRIPTOR(t), INTERVAL '5 seconds') \
                        GROUP BY k, upper(page), window_start, window_end \
                        HAVING window_end < (SELECT max(t) - INTERVAL '60 seconds' FROM visits) ORDER BY s, k, page";
        let (kept, expected) = (pipeline.rows(kept), pipeline.rows(of_query));
        assert_eq!(kept, expected);
        kept.len()
    };
    pipeline.crash_at_each_step("keep.sql", 1, || send(40));
    assert!(check() > 20);
    for batch in [9, 4, 0] {
        let rewind = format!("REWIND JOB keeping TO BATCH {batch}");
        let files = ["tables.sql", "keep.sql"];
        pipeline.work.sql(&files, &[&rewind]).ok();
        send(5);
        pipeline.catch_up("keep.sql").ok();
        check();
    }
    assert_eq!(pipeline.rows("SELECT * FROM system.late_rows").len(), 0);
    let state = pipeline.rows("SELECT * FROM job_state('keeping') LIMIT 1");
    let columns: Vec<&String> = state[0].as_object().unwrap().keys().collect();
    for column in ["k", "interval_start", "interval_last", "upper"] {
        assert!(columns.iter().any(|name| *name == column), "{columns:?}");
    }
}
