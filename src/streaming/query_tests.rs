//! Tests of a job's batches with their sources and static tables, without a broker.

use std::collections::BTreeMap;
use std::sync::Arc;

use datafusion::arrow::array::{ArrayRef, Int64Array, RecordBatch, new_null_array};
use datafusion::common::tree_node::{Transformed, TreeNode as _};
use datafusion::datasource::MemTable;
use datafusion::execution::cache::cache_manager::CacheManager;
use datafusion::physical_plan::{ExecutionPlan, collect};

use super::{BatchSides, BatchSource, JobQuery, PlannedSides};
use crate::error::{Error, ErrorKind};
use crate::planner::ast::{JobStatement, Statement};
use crate::planner::{Parameters, Script, parse_statement};
use crate::session::{JobMemory, Session, SessionOptions};
use crate::streaming::StreamTable;
use crate::streaming::drain::WholeExec;
use crate::streaming::side_output::SplitSideOutputExec;
use crate::tables::kafka::{KafkaTable, KafkaTableProvider, OffsetRange};

const TABLES: &str = "
    CREATE EXTERNAL TABLE visits (k BIGINT, page VARCHAR, event_time TIMESTAMP,
      WATERMARK FOR event_time AS event_time - INTERVAL '5 seconds')
    STORED AS KAFKA LOCATION 'visits' OPTIONS ('kafka.bootstrap.servers' '127.0.0.1:1');
    CREATE EXTERNAL TABLE out (k BIGINT, page VARCHAR)
    STORED AS KAFKA LOCATION 'out' OPTIONS ('kafka.bootstrap.servers' '127.0.0.1:1');";

/// A session of a server in which these statements have run, and the job that comes last.
async fn planned(sql: &str) -> (Session, JobQuery) {
    let options = SessionOptions {
        job_memory: JobMemory::Half,
        ..SessionOptions::default()
    };
    let session = Session::try_new(&options).unwrap();
    for raw in Script::new("jobs", sql).split().unwrap() {
        let mut parsed = parse_statement(&raw).unwrap();
        Parameters::default().bind(&mut parsed).unwrap();
        if let Statement::Job(job) = parsed.statement {
            let JobStatement::Create { insert, emit, .. } = *job else {
                panic!("the last statement makes the job");
            };
            let query = JobQuery::try_new(&session, *insert, emit).await.unwrap();
            return (session, query);
        }
        session.collect(parsed).await.unwrap();
    }
    panic!("no job in the script");
}

fn visits(query: &JobQuery) -> Arc<KafkaTable> {
    match &query.sources()["visits"] {
        StreamTable::Kafka(table) => Arc::clone(table),
        StreamTable::Delta(_) => panic!("visits is a topic"),
    }
}

fn of_visits(provider: KafkaTableProvider) -> BTreeMap<String, BatchSource> {
    let source = BatchSource {
        provider: Arc::new(provider),
        last_records: BTreeMap::new(),
    };
    BTreeMap::from([("visits".to_owned(), source)])
}

/// Plans a batch's side output again without what reads scans to their end, and gives the plan. None of it runs: its scan is
/// where its range begins and reports nothing, and what it was to report stays expected.
fn stopped(sides: &mut PlannedSides) -> Arc<dyn ExecutionPlan> {
    let task = Arc::clone(sides.split.children()[0]);
    let rows = Arc::clone(task.children()[0]);
    let mut found = 0;
    let stopped = rows.transform_up(|plan| {
        Ok(match plan.is::<WholeExec>() {
            true => {
                found += 1;
                Transformed::yes(Arc::clone(plan.children()[0]))
            }
            false => Transformed::no(plan),
        })
    });
    assert_eq!(found, 1, "there is one scan");
    sides.split = Arc::new(SplitSideOutputExec::over(stopped.unwrap().data));
    Arc::clone(&sides.split) as _
}

fn is_refused(finished: Result<BatchSides, Error>) {
    let error = finished.expect_err("the batch is not staged");
    assert_eq!(error.kind(), ErrorKind::Unavailable);
    let said =
        "table visits: partition 3 was to be read from offset 10 to 20, and was read up to 10 only";
    assert!(error.message().contains(said), "{error}");
}

fn range(start: i64, end: i64) -> OffsetRange {
    OffsetRange {
        partition: 3,
        start,
        end,
    }
}

#[tokio::test]
async fn loss_1_a_batch_whose_scan_ended_early_is_not_staged() {
    let job = "CREATE JOB j AS INSERT INTO out SELECT k, page FROM visits";
    let (_, query) = planned(&format!("{TABLES}\n{job}")).await;
    let batch = |end: i64| {
        let ranges = vec![range(10, end)];
        let provider = KafkaTableProvider::for_batch(visits(&query), ranges, None);
        query.batch(of_visits(provider))
    };
    let mut short = batch(20).await.unwrap();
    short.plan = stopped(short.sides.as_mut().unwrap());
    is_refused(short.finish().await);
    // Where nothing is to be read, all of it was.
    batch(10).await.unwrap().finish().await.unwrap();
}

#[tokio::test]
async fn loss_1_a_batch_with_windows_whose_scan_ended_early_is_not_staged() {
    let job = "CREATE JOB j AS INSERT INTO out SELECT count(*), page
        FROM TUMBLE(TABLE visits, DESCRIPTOR(event_time), INTERVAL '10 seconds') GROUP BY page, window_start";
    let (_, query) = planned(&format!("{TABLES}\n{job}")).await;
    let front = |end: i64| {
        let ranges = vec![range(10, end)];
        let provider = KafkaTableProvider::for_batch(visits(&query), ranges, None);
        query.front(of_visits(provider.with_time(Arc::default())))
    };
    let mut short = front(20).await.unwrap();
    short.front.plan = stopped(&mut short.sides);
    is_refused(short.finish().await);
    front(10).await.unwrap().finish().await.unwrap();
}

/// How many entries each cache of files has.
fn entries(caches: &CacheManager) -> [usize; 3] {
    [
        caches.get_file_metadata_cache().len(),
        caches.get_file_statistic_cache().unwrap().len(),
        caches.get_list_files_cache().unwrap().len(),
    ]
}

#[tokio::test]
async fn safe_1_a_job_opens_files_without_the_caches_of_statements_and_each_batch_sees_all() {
    let folder = tempfile::tempdir().unwrap();
    let place = folder.path().display();
    let (session, query) = planned(&format!(
        "{TABLES}
        COPY (SELECT 1 AS id, 'home' AS name) TO '{place}/a.parquet' STORED AS PARQUET;
        CREATE EXTERNAL TABLE pages STORED AS PARQUET LOCATION '{place}/';
        CREATE JOB j AS INSERT INTO out SELECT k, name FROM visits JOIN pages ON k = id"
    ))
    .await;
    let caches = Arc::clone(&session.context.runtime_env().cache_manager);
    caches.get_file_metadata_cache().clear();
    caches.get_file_statistic_cache().unwrap().clear();
    caches.get_list_files_cache().unwrap().clear();
    let schema = Arc::clone(&visits(&query).schema);
    let mut columns: Vec<ArrayRef> = schema
        .fields()
        .iter()
        .map(|field| new_null_array(field.data_type(), 1))
        .collect();
    columns[0] = Arc::new(Int64Array::from(vec![1]));
    let visit = RecordBatch::try_new(Arc::clone(&schema), columns).unwrap();
    let joined = async || {
        let visit = vec![vec![visit.clone()]];
        let source = BatchSource {
            provider: Arc::new(MemTable::try_new(Arc::clone(&schema), visit).unwrap()),
            last_records: BTreeMap::new(),
        };
        let sources = BTreeMap::from([("visits".to_owned(), source)]);
        let batch = query.batch(sources).await.unwrap();
        let rows = collect(batch.plan, batch.context).await.unwrap();
        rows.iter().map(RecordBatch::num_rows).sum::<usize>()
    };
    assert_eq!(joined().await, 1);
    // Another process adds a file.
    std::fs::copy(
        folder.path().join("a.parquet"),
        folder.path().join("b.parquet"),
    )
    .unwrap();
    assert_eq!(joined().await, 2);
    assert_eq!(entries(&caches), [0; 3]);
}
