//! Tests of the operators that a job supports and refuses, without a broker.

use crate::planner::ast::{JobStatement, Statement};
use crate::planner::{Parameters, Script, parse_statement};
use crate::session::{Session, SessionOptions};
use crate::streaming::JobQuery;

const TABLES: &str = "
    CREATE EXTERNAL TABLE visits (k BIGINT, page VARCHAR, event_time TIMESTAMP,
      WATERMARK FOR event_time AS event_time - INTERVAL '5 seconds')
    STORED AS KAFKA LOCATION 'visits' OPTIONS ('kafka.bootstrap.servers' '127.0.0.1:1');
    CREATE EXTERNAL TABLE others (k BIGINT, page VARCHAR)
    STORED AS KAFKA LOCATION 'others' OPTIONS ('kafka.bootstrap.servers' '127.0.0.1:1');
    CREATE EXTERNAL TABLE out (k BIGINT, page VARCHAR)
    STORED AS KAFKA LOCATION 'out' OPTIONS ('kafka.bootstrap.servers' '127.0.0.1:1');
    CREATE TABLE names AS SELECT * FROM (VALUES (1, 'home', TIMESTAMP '2025-01-01T00:00:00')) AS t (id, name, at);
    CREATE VIEW newest AS SELECT name, max(id) AS id FROM names GROUP BY name ORDER BY name LIMIT 10;
    CREATE VIEW enriched AS SELECT k, name FROM visits JOIN names ON k = id;";

async fn plan(query: &str) -> crate::error::Result<JobQuery> {
    let session = Session::try_new(&SessionOptions::default())?;
    let sql = format!("{TABLES}; CREATE JOB j AS INSERT INTO out {query}");
    for raw in Script::new("scope", &sql).split()? {
        let mut parsed = parse_statement(&raw)?;
        Parameters::default().bind(&mut parsed)?;
        if let Statement::Job(job) = parsed.statement {
            let JobStatement::Create { insert, emit, .. } = *job else {
                panic!("{query} is no CREATE JOB");
            };
            return JobQuery::try_new(&session, *insert, emit).await;
        }
        session.collect(parsed).await?;
    }
    panic!("no job in the script");
}

const WINDOW: &str = "TUMBLE(TABLE visits, DESCRIPTOR(event_time), INTERVAL '10 seconds')";

#[tokio::test]
async fn scope_1_joins_with_static_tables_are_row_wise() {
    let below =
        format!("FROM {WINDOW} AS v JOIN names ON v.k = names.id GROUP BY name, window_start");
    for query in [
        "SELECT k, name FROM visits JOIN names ON k = id",
        "SELECT k, name FROM visits LEFT JOIN names ON k = id AND page <> name",
        "SELECT k, name FROM names RIGHT JOIN visits ON k = id",
        "SELECT k, name FROM visits CROSS JOIN names",
        "SELECT k, name FROM visits JOIN newest ON k = newest.id",
        "SELECT k, page FROM visits WHERE k IN (SELECT id FROM names)",
        "SELECT k, page FROM visits WHERE k NOT IN (SELECT DISTINCT id FROM names LIMIT 3)",
        "SELECT k, page FROM visits WHERE EXISTS (SELECT 1 FROM names WHERE id = visits.k)",
        "SELECT k, page FROM visits WHERE k > (SELECT avg(id) FROM names)",
        "SELECT k, (SELECT max(name) FROM names WHERE id = visits.k) FROM visits",
        "SELECT k, page FROM visits LEFT SEMI JOIN names ON k = id",
        "SELECT k, page FROM visits LEFT ANTI JOIN names ON k = id",
        "SELECT k, n FROM visits JOIN (VALUES (1, 'a')) AS v (i, n) ON k = i",
        "SELECT k, name FROM enriched",
        &format!("SELECT count(*), name {below}"),
        &format!("SELECT count(*), name {below} EMIT PER BATCH"),
        // Above the aggregate, and an aggregate on the static side.
        &format!(
            "SELECT n, name FROM (SELECT k, count(*) AS n FROM {WINDOW} GROUP BY k, window_start) JOIN newest ON k = id"
        ),
    ] {
        let planned = plan(query).await;
        let planned = planned.unwrap_or_else(|error| panic!("{query}: {error}"));
        let statics = planned.static_tables();
        assert_eq!(
            statics.is_empty(),
            query.contains("VALUES"),
            "{query}: {statics:?}"
        );
        assert_eq!(planned.sources().len(), 1, "{query}");
    }
}

#[tokio::test]
async fn scope_1_keys_may_differ_by_a_cast_alone() {
    for query in [
        format!("SELECT k, CAST(k AS VARCHAR) FROM {WINDOW} GROUP BY k, k::VARCHAR, window_start"),
        format!(
            "SELECT count(*), CAST(event_time AS DATE) FROM {WINDOW} GROUP BY 2, event_time, window_start"
        ),
        "SELECT sum(CAST(k AS INT)), k::TEXT AS p FROM visits GROUP BY k, p EMIT PER BATCH"
            .to_owned(),
    ] {
        let planned = plan(&query).await;
        planned.unwrap_or_else(|error| panic!("{query}: {error}"));
    }
}

#[tokio::test]
async fn scope_1_unsupported_joins_are_refused_by_name() {
    let session =
        "SESSION(TABLE visits PARTITION BY k, DESCRIPTOR(event_time), INTERVAL '10 seconds')";
    for (query, expected) in [
        (
            "SELECT v.k, o.page FROM visits v JOIN others o ON v.k = o.k",
            "a join of two streams",
        ),
        (
            "SELECT v.k, o.page FROM visits v, visits o WHERE v.k = o.k",
            "a join of two streams",
        ),
        (
            "SELECT k, name FROM visits FULL JOIN names ON k = id",
            "a FULL JOIN that keeps rows of a static table",
        ),
        (
            "SELECT k, name FROM names LEFT JOIN visits ON k = id",
            "a LEFT JOIN that keeps rows of a static table",
        ),
        (
            "SELECT k, name FROM visits RIGHT JOIN names ON k = id",
            "a RIGHT JOIN that keeps rows of a static table",
        ),
        (
            "SELECT id, name FROM names LEFT SEMI JOIN visits ON k = id",
            "a LEFT SEMI JOIN that keeps rows of a static table",
        ),
        (
            "SELECT id, name FROM names WHERE id IN (SELECT k FROM visits)",
            "a subquery over a stream",
        ),
        (
            "SELECT k, page FROM visits WHERE k IN (SELECT k FROM others)",
            "a subquery over a stream",
        ),
        (
            "SELECT k, page FROM visits UNION ALL SELECT id, name FROM names",
            "UNION ALL with rows of a static table",
        ),
        (
            "SELECT DISTINCT k, name FROM visits JOIN names ON k = id",
            "DISTINCT does not run",
        ),
        (
            "SELECT k, name FROM visits JOIN names ON k = id LIMIT 3",
            "LIMIT does not run",
        ),
        (
            "SELECT k, name FROM visits JOIN (SELECT name, id + random() AS id FROM names) ON k = id",
            "random()",
        ),
        (
            &format!(
                "SELECT count(*), min(name) FROM {session} AS v JOIN names ON v.k = id GROUP BY v.k, window_start"
            ),
            "a join between SESSION and a job's aggregate",
        ),
        (
            "SELECT count(*), min(page) FROM TUMBLE(TABLE (SELECT page, at FROM visits JOIN names ON k = id), \
             DESCRIPTOR(at), INTERVAL '10 seconds') GROUP BY window_start",
            "a column of a static table",
        ),
        (
            &format!(
                "SELECT count(*), min(page) FROM {WINDOW} AS v JOIN (SELECT id, window_start AS s FROM TUMBLE(TABLE names, \
                 DESCRIPTOR(at), INTERVAL '1 hour')) AS n ON v.k = n.id GROUP BY n.s"
            ),
            "groups by window_start",
        ),
    ] {
        let error = plan(query)
            .await
            .err()
            .unwrap_or_else(|| panic!("{query} was planned"));
        assert!(error.message().contains(expected), "{query}: {error}");
    }
}
