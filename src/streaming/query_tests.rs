//! Tests of a job's batches with their sources and static tables, without a broker.

use std::collections::BTreeMap;
use std::sync::Arc;

use datafusion::arrow::array::{ArrayRef, Int64Array, RecordBatch, new_null_array};
use datafusion::arrow::datatypes::{Schema, SchemaRef};
use datafusion::catalog::streaming::StreamingTable;
use datafusion::common::tree_node::{Transformed, TreeNode as _};
use datafusion::datasource::MemTable;
use datafusion::error::DataFusionError;
use datafusion::execution::cache::cache_manager::CacheManager;
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use datafusion::physical_plan::streaming::PartitionStream;
use datafusion::physical_plan::{ExecutionPlan, collect, displayable};

use super::{BatchSides, BatchSource, JobQuery, PlannedSides};
use crate::core::jobs::{PlannedRange, Reached};
use crate::error::{Error, ErrorKind};
use crate::planner::ast::{JobStatement, Statement};
use crate::planner::{Parameters, Script, parse_statement};
use crate::session::{JobMemory, Session, SessionOptions};
use crate::streaming::StreamTable;
use crate::streaming::drain::WholeExec;
use crate::streaming::side_output::SplitSideOutputExec;
use crate::tables::bad_records::BadRecord;
use crate::tables::kafka::{KafkaTable, KafkaTableProvider, OffsetRange};
use crate::tables::side_output::{BatchOutlet, BatchScan, Expected, Progress};
use crate::tables::test_scan::TestTable;
use crate::tables::time::row_field;

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
        ranges: Vec::new(),
        last_records: BTreeMap::new(),
    };
    BTreeMap::from([("visits".to_owned(), source)])
}

/// The stream of a scan that sets one record aside, gives no row, and `reports` what it has reached.
#[derive(Debug)]
struct Undecodable {
    table: &'static str,
    schema: SchemaRef,
    reports: bool,
}

impl PartitionStream for Undecodable {
    fn schema(&self) -> &SchemaRef {
        &self.schema
    }

    fn execute(&self, context: Arc<TaskContext>) -> SendableRecordBatchStream {
        let (table, schema, reports) = (self.table, Arc::clone(&self.schema), self.reports);
        let read = async move {
            let scan = BatchScan {
                table: table.into(),
                scan: 0,
                aside: Arc::default(),
            };
            let outlet = BatchOutlet::open(scan, &context)?;
            let record = BadRecord {
                topic: table.to_owned(),
                partition: 3,
                offset: 12,
                timestamp: None,
                key: None,
                value: None,
                reason: "it is bad".to_owned(),
            };
            outlet.give_bad(&[record], 10)?;
            if reports {
                let watermark = Some(7);
                outlet.report(&Progress {
                    partition: 3,
                    stream: 0,
                    start: 10,
                    next: 20,
                    reached: Some(Reached {
                        watermark,
                        ..Reached::default()
                    }),
                    last: None,
                })?;
            }
            Ok::<_, DataFusionError>(RecordBatch::new_empty(schema))
        };
        let schema = Arc::clone(&self.schema);
        Box::pin(RecordBatchStreamAdapter::new(
            schema,
            futures::stream::once(read),
        ))
    }
}

/// A source of a batch with a record that cannot be decoded; in its columns there may be hidden ones.
fn undecodable(table: &'static str, schema: SchemaRef, reports: bool) -> BatchSource {
    let rows = Undecodable {
        table,
        schema: Arc::clone(&schema),
        reports,
    };
    let expected = Expected {
        table: table.into(),
        scan: 0,
        partition: 3,
        stream: 0,
        start: 10,
        end: 20,
    };
    let table = TestTable {
        rows: Arc::new(StreamingTable::try_new(schema, vec![Arc::new(rows)]).unwrap()),
        expected: vec![expected],
    };
    BatchSource {
        provider: Arc::new(table),
        ranges: vec![planned_range()],
        last_records: BTreeMap::new(),
    }
}

fn planned_range() -> PlannedRange {
    PlannedRange {
        partition: 3,
        start: 10,
        end: 20,
    }
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

/// Queries of a job that give no row for these records.
const NOTHING: [&str; 6] = [
    "SELECT k, page FROM visits WHERE k > 5",
    "SELECT k, page FROM visits WHERE false",
    "SELECT k, page FROM visits WHERE page = NULL",
    "SELECT visits.k, page FROM visits JOIN (SELECT 1 AS k WHERE false) AS nothing ON visits.k = nothing.k",
    "SELECT k, page FROM visits WHERE false UNION ALL SELECT k, page FROM visits WHERE 1 = 2",
    "SELECT k, page FROM visits WHERE false UNION ALL SELECT k, page FROM visits WHERE k > 5",
];

#[tokio::test]
async fn loss_1_records_below_a_filter_that_no_row_passes_are_dead_letters_once() {
    for select in NOTHING {
        let job = format!("CREATE JOB j AS INSERT INTO out {select}");
        let (_, query) = planned(&format!("{TABLES}\n{job}")).await;
        let run = async |reports| {
            let source = undecodable("visits", Arc::clone(&visits(&query).schema), reports);
            let sources = BTreeMap::from([("visits".to_owned(), source)]);
            let batch = query.batch(sources).await.unwrap();
            let rows = collect(Arc::clone(&batch.plan), Arc::clone(&batch.context));
            let rows = rows.await.unwrap();
            assert_eq!(rows.iter().map(RecordBatch::num_rows).sum::<usize>(), 0);
            batch.finish().await
        };
        let sides = run(true).await.unwrap();
        let dead = sides.dead_letters.iter();
        let dead: Vec<(&str, i64)> = dead
            .map(|(table, record)| (table.as_str(), record.offset))
            .collect();
        assert_eq!(dead, [("visits", 12)], "{select}");
        is_refused(run(false).await);
    }
}

#[tokio::test]
async fn loss_1_records_below_a_window_whose_rows_are_not_needed_move_the_watermark() {
    for filter in ["k > 5", "false", "page = NULL"] {
        let job = format!(
            "CREATE JOB j AS INSERT INTO out SELECT count(*), page
             FROM TUMBLE(TABLE visits, DESCRIPTOR(event_time), INTERVAL '10 seconds')
             WHERE {filter} GROUP BY page, window_start"
        );
        let (_, query) = planned(&format!("{TABLES}\n{job}")).await;
        let fields = visits(&query).schema.fields().to_vec();
        let fields = fields.into_iter().chain([Arc::new(row_field())]);
        let schema = Arc::new(Schema::new(fields.collect::<Vec<_>>()));
        let run = async |reports| {
            let source = undecodable("visits", Arc::clone(&schema), reports);
            let sources = BTreeMap::from([("visits".to_owned(), source)]);
            let batch = query.front(sources).await.unwrap();
            let rows = collect(Arc::clone(&batch.front.plan), Arc::clone(&batch.context));
            let rows = rows.await.unwrap();
            assert_eq!(rows.iter().map(RecordBatch::num_rows).sum::<usize>(), 0);
            batch.finish().await
        };
        let sides = run(true).await.unwrap();
        assert_eq!(sides.dead_letters.len(), 1, "{filter}");
        let reached = sides.reached()["visits"][&3];
        assert_eq!(reached.watermark, Some(7), "{filter}");
        is_refused(run(false).await);
    }
}

#[tokio::test]
async fn dead_letters_are_those_of_the_ranges_of_each_source() {
    const CLICKS: &str = "
        CREATE EXTERNAL TABLE clicks (k BIGINT, page VARCHAR)
        STORED AS KAFKA LOCATION 'clicks' OPTIONS ('kafka.bootstrap.servers' '127.0.0.1:1');";
    for filter in ["k > 5", "false"] {
        let job = format!(
            "CREATE JOB j AS INSERT INTO out
             SELECT k, page FROM visits UNION ALL SELECT k, page FROM clicks WHERE {filter}"
        );
        let (_, query) = planned(&format!("{TABLES}{CLICKS}\n{job}")).await;
        let table = |name: &str| match &query.sources()[name] {
            StreamTable::Kafka(table) => Arc::clone(&table.schema),
            StreamTable::Delta(_) => panic!("{name} is a topic"),
        };
        let run = async |clicks: BatchSource| {
            let visits = undecodable("visits", table("visits"), true);
            let sources = [("visits", visits), ("clicks", clicks)];
            let sources = sources.map(|(name, source)| (name.to_owned(), source));
            let batch = query.batch(BTreeMap::from(sources)).await.unwrap();
            let rows = collect(Arc::clone(&batch.plan), Arc::clone(&batch.context));
            rows.await.unwrap();
            let sides = batch.finish().await?;
            let dead = sides.dead_letters.into_iter();
            Ok::<Vec<String>, Error>(dead.map(|(table, _)| table).collect())
        };
        let both = run(undecodable("clicks", table("clicks"), true)).await;
        assert_eq!(both.unwrap(), ["clicks", "visits"], "{filter}");
        let short = run(undecodable("clicks", table("clicks"), false)).await;
        let says = "table clicks: partition 3 was to be read from offset 10 to 20";
        let error = short.unwrap_err();
        assert!(error.message().contains(says), "{filter}: {error}");
        // Nothing has come to one of them.
        let empty = BatchSource {
            provider: Arc::new(MemTable::try_new(table("clicks"), vec![vec![]]).unwrap()),
            ranges: Vec::new(),
            last_records: BTreeMap::new(),
        };
        assert_eq!(run(empty).await.unwrap(), ["visits"], "{filter}");
    }
}

#[tokio::test]
async fn a_topic_whose_rows_are_not_needed_is_read_with_the_columns_of_the_query() {
    let job = "CREATE JOB j AS INSERT INTO out SELECT 1, page FROM visits WHERE false";
    let (_, query) = planned(&format!("{TABLES}\n{job}")).await;
    let batch = async |ranges: Vec<OffsetRange>| {
        let planned = match ranges.is_empty() {
            true => vec![],
            false => vec![planned_range()],
        };
        let provider = KafkaTableProvider::for_batch(visits(&query), ranges, None);
        let mut sources = of_visits(provider);
        for source in sources.values_mut() {
            source.ranges = planned.clone();
        }
        let batch = query.batch(sources).await.unwrap();
        displayable(batch.plan.as_ref()).indent(false).to_string()
    };
    let shown = batch(vec![range(10, 20)]).await;
    let scan = "KafkaScanExec: topic=visits, columns=[page], offsets=[3:[10, 20)]";
    assert!(shown.contains(scan), "{shown}");
    let shown = batch(vec![]).await;
    assert!(!shown.contains("KafkaScanExec"), "{shown}");
}

#[tokio::test]
async fn loss_1_a_source_with_a_scan_that_is_not_known_is_refused() {
    for select in NOTHING {
        let job = format!("CREATE JOB j AS INSERT INTO out {select}");
        let (_, query) = planned(&format!("{TABLES}\n{job}")).await;
        let schema = Arc::clone(&visits(&query).schema);
        let source = BatchSource {
            provider: Arc::new(MemTable::try_new(schema, vec![vec![]]).unwrap()),
            ranges: vec![planned_range()],
            last_records: BTreeMap::new(),
        };
        let sources = BTreeMap::from([("visits".to_owned(), source)]);
        let error = query.batch(sources).await.unwrap_err();
        let says = "table visits: no scan of the batch reads partition 3 from offset 10 to 20";
        assert!(error.message().contains(says), "{select}: {error}");
    }
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
            ranges: Vec::new(),
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
