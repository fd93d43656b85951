//! Tables in a store behind a proxy that hides successes, refuses and delays (EXACT-2).

use std::collections::HashSet;
use std::time::Duration;

use anabranch::error::ErrorKind;
use anabranch::planner::{Script, parse_statement};
use anabranch::session::{Session, SessionOptions};

use super::s3::{BucketStore, store};
use super::*;
use crate::proxy::{Proxy, Request, RequestFate};
use crate::support::{Workspace, numbers_of};

fn plain(store: &BucketStore, endpoint: &str, path: &str) -> DeltaSpec {
    let spec = store.spec(path);
    let mut options = spec.options;
    options.insert("aws.endpoint".into(), endpoint.into());
    DeltaSpec {
        columns: Some(vec![column("v", DataType::Int64)]),
        partition_by: Vec::new(),
        options,
        ..spec
    }
}

/// The first request for each entry of a log has this fate; later ones pass.
fn first_of_each_commit(fate: RequestFate) -> impl FnMut(&Request) -> RequestFate + Send + 'static {
    let mut seen = HashSet::new();
    move |request: &Request| {
        let disturbs = request.commits() && seen.insert(request.target.clone());
        if disturbs { fate } else { RequestFate::Pass }
    }
}

async fn sql(handle: &DeltaTableHandle, text: &str) -> anabranch::error::Result<()> {
    run(&session(handle).await, text).await.map(drop)
}

async fn values(handle: &DeltaTableHandle) -> Vec<i64> {
    let batches = run(&session(handle).await, "SELECT v FROM t ORDER BY v")
        .await
        .unwrap();
    let mut values = Vec::new();
    for batch in &batches {
        let column = batch.column(0).as_any().downcast_ref::<Int64Array>();
        values.extend(column.unwrap().values().iter());
    }
    values
}

#[tokio::test(flavor = "multi_thread")]
async fn exact_2_a_commit_whose_answer_is_lost_is_made_once() {
    let name = "delta::s3_lies::exact_2_a_commit_whose_answer_is_lost_is_made_once";
    let Some(store) = store(name) else { return };
    for (at, fate) in [
        RequestFate::Hide(500),
        RequestFate::Hide(503),
        RequestFate::Cut,
        RequestFate::Hide(412),
    ]
    .into_iter()
    .enumerate()
    {
        let proxy = Proxy::before(&store.endpoint);
        proxy.rule(first_of_each_commit(fate));
        let handle =
            DeltaTableHandle::create_or_open(plain(&store, &proxy.url(), &format!("lost/{at}")))
                .await
                .unwrap();
        assert_eq!(handle.version().await.unwrap(), 0);
        sql(&handle, "INSERT INTO t VALUES (1), (2)").await.unwrap();
        sql(&handle, "INSERT INTO t VALUES (3)").await.unwrap();
        assert_eq!(values(&handle).await, [1, 2, 3], "{fate:?}");
        sql(&handle, "INSERT OVERWRITE t VALUES (4), (5)")
            .await
            .unwrap();
        sql(&handle, "INSERT INTO t VALUES (6)").await.unwrap();
        handle
            .optimize(&anabranch::tables::delta::OptimizeSpec::default(), None)
            .await
            .unwrap();
        // Read past the proxy, as another client sees the table.
        let path = format!("lost/{at}");
        let honest = plain(&store, &store.endpoint, &path);
        let honest = DeltaTableHandle::create_or_open(honest).await.unwrap();
        assert_eq!(values(&honest).await, [4, 5, 6], "{fate:?}");
        assert_eq!(honest.version().await.unwrap(), 5, "{fate:?}");
        assert_eq!(proxy.disturbed().len(), 6, "{fate:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn exact_2_rows_change_once_if_the_answer_is_lost() {
    let name = "delta::s3_lies::exact_2_rows_change_once_if_the_answer_is_lost";
    let Some(store) = store(name) else { return };
    for (at, fate) in [
        RequestFate::Hide(500),
        RequestFate::Hide(503),
        RequestFate::Cut,
        RequestFate::Hide(412),
    ]
    .into_iter()
    .enumerate()
    {
        let proxy = Proxy::before(&store.endpoint);
        proxy.rule(first_of_each_commit(fate));
        let path = format!("changed/{at}");
        let spec = plain(&store, &proxy.url(), &path);
        let options = spec.options.iter();
        let options: Vec<String> = options
            .map(|(key, value)| format!("'{key}' '{value}'"))
            .collect();
        let session = Session::try_new(&SessionOptions::default()).unwrap();
        for text in [
            format!(
                "CREATE EXTERNAL TABLE t (v BIGINT) STORED AS DELTA LOCATION '{}' OPTIONS ({})",
                spec.location,
                options.join(", ")
            ),
            "INSERT INTO t VALUES (1), (2), (3)".to_owned(),
            "UPDATE t SET v = v + 10 WHERE v < 3".to_owned(),
            "DELETE FROM t WHERE v = 3".to_owned(),
            "MERGE INTO t USING (VALUES (11), (20)) AS s (k) ON t.v = s.k \
             WHEN MATCHED THEN UPDATE SET v = 100 WHEN NOT MATCHED THEN INSERT VALUES (s.k)"
                .to_owned(),
        ] {
            let mut statements = Script::new("t", text).split().unwrap();
            let parsed = parse_statement(&statements.remove(0)).unwrap();
            session.collect(parsed).await.unwrap();
        }
        // Read past the proxy, as another client sees the table.
        let honest = plain(&store, &store.endpoint, &path);
        let honest = DeltaTableHandle::create_or_open(honest).await.unwrap();
        assert_eq!(values(&honest).await, [12, 20, 100], "{fate:?}");
        assert_eq!(honest.version().await.unwrap(), 4, "{fate:?}");
        assert_eq!(proxy.disturbed().len(), 5, "{fate:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn exact_2_an_unknown_commit_outcome_is_reported_and_nothing_deleted() {
    let name = "delta::s3_lies::exact_2_an_unknown_commit_outcome_is_reported_and_nothing_deleted";
    let Some(store) = store(name) else { return };
    let proxy = Proxy::before(&store.endpoint);
    let handle = DeltaTableHandle::create_or_open(plain(&store, &proxy.url(), "untold"))
        .await
        .unwrap();
    sql(&handle, "INSERT INTO t VALUES (1)").await.unwrap();
    for statement in ["INSERT INTO t VALUES (2)", "INSERT OVERWRITE t VALUES (3)"] {
        // The entry is written, and all later requests are refused.
        let mut written = false;
        proxy.rule(move |request| {
            if written {
                return RequestFate::Refuse(403);
            }
            written = request.commits();
            if written {
                RequestFate::Hide(403)
            } else {
                RequestFate::Pass
            }
        });
        let error = sql(&handle, statement).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unavailable, "{error}");
        assert!(error.message().contains("is unknown whether"), "{error}");
        assert!(error.help().unwrap().contains("txnId"), "{error:?}");
        proxy.pass();
    }
    assert_eq!(values(&handle).await, [3]);

    // Writes of the log are refused: nothing is in the table. While reads are refused as well, that cannot be told
    // either.
    proxy.rule(
        |request| match request.target.contains("_delta_log") && request.method == "PUT" {
            true => RequestFate::Refuse(403),
            false => RequestFate::Pass,
        },
    );
    let error = sql(&handle, "INSERT INTO t VALUES (4)").await.unwrap_err();
    assert!(error.message().contains("is unknown whether"), "{error}");
    proxy.pass();
    assert_eq!(values(&handle).await, [3]);
}

#[tokio::test(flavor = "multi_thread")]
async fn exact_2_a_commit_that_comes_late_is_made_once() {
    let name = "delta::s3_lies::exact_2_a_commit_that_comes_late_is_made_once";
    let Some(store) = store(name) else { return };
    let proxy = Proxy::before(&store.endpoint);
    let handle = DeltaTableHandle::create_or_open(plain(&store, &proxy.url(), "late"))
        .await
        .unwrap();
    proxy.rule(first_of_each_commit(RequestFate::Late(
        500,
        Duration::from_millis(300),
    )));
    for v in 0..4 {
        sql(&handle, &format!("INSERT INTO t VALUES ({v})"))
            .await
            .unwrap();
    }
    proxy.rule(first_of_each_commit(RequestFate::Delay(
        Duration::from_millis(300),
    )));
    sql(&handle, "INSERT INTO t VALUES (4)").await.unwrap();
    assert_eq!(values(&handle).await, [0, 1, 2, 3, 4]);
    assert_eq!(handle.version().await.unwrap(), 5);
}

#[test]
fn exact_2_a_job_into_a_store_that_hides_successes() {
    let name = "delta::s3_lies::exact_2_a_job_into_a_store_that_hides_successes";
    let Some(store) = store(name) else { return };
    let proxy = Proxy::before(&store.endpoint);
    let mut commits = 0;
    proxy.rule(move |request| {
        if !request.commits() {
            return RequestFate::Pass;
        }
        commits += 1;
        match commits % 4 {
            0 => RequestFate::Hide(500),
            1 => RequestFate::Refuse(503),
            2 => RequestFate::Cut,
            _ => RequestFate::Pass,
        }
    });
    let work = Workspace::new();
    let place = crate::support::topic("lies");
    let (bucket, endpoint) = (&store.bucket, proxy.url());
    work.file(
        "tables.sql",
        &format!(
            "CREATE EXTERNAL TABLE written (v BIGINT) STORED AS DELTA LOCATION 'written';\n\
             CREATE EXTERNAL TABLE numbers STORED AS DELTA LOCATION 'written' OPTIONS ('scan.mode' 'stream');\n\
             CREATE EXTERNAL TABLE kept (v BIGINT) STORED AS DELTA LOCATION 's3://{bucket}/{place}' \
             OPTIONS ('aws.endpoint' '{endpoint}', 'aws.allow_http' 'true', 'aws.region' 'us-east-1', \
             'aws.access_key_id' 'anabranch', 'aws.secret_access_key' 'anabranch-secret');\n"
        ),
    );
    work.file(
        "jobs.sql",
        "CREATE JOB keeping WITH ('batch.max_rows' '2') AS INSERT INTO kept SELECT v FROM numbers;\n",
    );
    for round in 0..3 {
        let inserts: Vec<String> = (0..4)
            .map(|n| {
                format!(
                    "INSERT INTO written VALUES ({}), ({});",
                    8 * round + 2 * n,
                    8 * round + 2 * n + 1
                )
            })
            .collect();
        work.sql(&["tables.sql"], &[&inserts.concat()]).ok();
        let mut command = work.command();
        command.args(["run", "tables.sql", "jobs.sql", "--until-caught-up"]);
        crate::support::ProgramOutput::of(&mut command).ok();
    }
    assert_eq!(kept(&work), (0..24).collect::<Vec<_>>());
    assert!(proxy.disturbed().len() > 6);
}

/// The numbers that a job has copied, sorted.
fn kept(work: &Workspace) -> Vec<u64> {
    let shown = work
        .sql(&["tables.sql"], &["SELECT v FROM kept ORDER BY v"])
        .ok();
    numbers_of(&shown.out)
}

#[test]
fn a_job_waits_for_a_failing_store_within_a_batch() {
    let name = "delta::s3_lies::a_job_waits_for_a_failing_store_within_a_batch";
    let Some(store) = store(name) else { return };
    let proxy = Proxy::before(&store.endpoint);
    let work = Workspace::new();
    let place = crate::support::topic("refuses");
    let (bucket, endpoint) = (&store.bucket, proxy.url());
    let options = format!(
        "'aws.endpoint' '{endpoint}', 'aws.allow_http' 'true', 'aws.region' 'us-east-1', 'aws.access_key_id' 'anabranch', \
         'aws.secret_access_key' 'anabranch-secret'"
    );
    work.file(
        "tables.sql",
        &format!(
            "CREATE EXTERNAL TABLE written (v BIGINT) STORED AS DELTA LOCATION 's3://{bucket}/{place}/written' \
             OPTIONS ({options});\n\
             CREATE EXTERNAL TABLE numbers STORED AS DELTA LOCATION 's3://{bucket}/{place}/written' \
             OPTIONS ('scan.mode' 'stream', {options});\n\
             CREATE EXTERNAL TABLE kept (v BIGINT) STORED AS DELTA LOCATION 's3://{bucket}/{place}/kept' OPTIONS ({options});\n"
        ),
    );
    work.file(
        "jobs.sql",
        "CREATE JOB keeping WITH ('batch.max_rows' '2') AS INSERT INTO kept SELECT v FROM numbers;\n",
    );
    let inserts: Vec<String> = (0..8)
        .map(|n| format!("INSERT INTO written VALUES ({}), ({});", 2 * n, 2 * n + 1))
        .collect();
    work.sql(&["tables.sql"], &[&inserts.concat()]).ok();
    // From the first file of the sink on, requests of every kind are disturbed again and again, at growing distances.
    let (mut begun, mut passes, mut next) = (false, 0, 1);
    proxy.rule(move |request| {
        let is_file = request.method == "PUT" && request.target.contains(".parquet");
        begun |= is_file && request.target.contains("/kept/");
        if !begun {
            return RequestFate::Pass;
        }
        passes += 1;
        if passes < next {
            return RequestFate::Pass;
        }
        if passes == next + 1 {
            next += 23 + next / 2;
        }
        RequestFate::Refuse(403)
    });
    let mut command = work.command();
    command.args(["run", "tables.sql", "jobs.sql", "--until-caught-up"]);
    crate::support::ProgramOutput::of(&mut command).ok();
    let disturbed = proxy.disturbed();
    assert!(disturbed.len() >= 4, "{disturbed:?}");
    proxy.pass();
    assert_eq!(kept(&work), (0..16).collect::<Vec<_>>());
}
