//! Tests of a job's batches with their sources and static tables, without a broker.

use std::collections::BTreeMap;
use std::sync::Arc;

use datafusion::arrow::array::{
    ArrayRef, AsArray as _, Int64Array, RecordBatch, StringArray, new_null_array,
};
use datafusion::arrow::compute::concat_batches;
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

use super::JobQuery;
use crate::core::jobs::{PartitionTimes, PlannedRange};
use crate::error::{Error, ErrorKind};
use crate::planner::ast::{JobStatement, Statement};
use crate::planner::{Parameters, Script, parse_statement};
use crate::session::catalog::TableEntry;
use crate::session::rewrite::arguments::tests::Counted;
use crate::session::{ForkOptions, JobMemory, Session, SessionOptions};
use crate::streaming::batch::PlannedSides;
use crate::streaming::drain::DrainExec;
use crate::streaming::side_output::SplitSideOutputExec;
use crate::streaming::{BatchSides, BatchSource, StreamTable};
use crate::tables::bad_records::BadRecord;
use crate::tables::kafka::{KafkaTable, KafkaTableProvider, OffsetRange};
use crate::tables::side_output::{BatchOutlet, BatchScan, ExpectedReport, ScanProgress};
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
    let (tables, job) = sql.rsplit_once("CREATE JOB").unwrap();
    let session = in_session(tables).await;
    let query = job_in(&session, &format!("CREATE JOB{job}")).await;
    (session, query)
}

/// A session of a server in which these statements have run.
async fn in_session(sql: &str) -> Session {
    let options = SessionOptions {
        job_memory: JobMemory::Half,
        ..SessionOptions::default()
    };
    let session = Session::try_new(&options).unwrap();
    run(&session, sql).await;
    session
}

async fn run(session: &Session, sql: &str) {
    for raw in Script::new("tables", sql).split().unwrap() {
        let mut parsed = parse_statement(&raw).unwrap();
        Parameters::default().bind(&mut parsed).unwrap();
        session.collect(parsed).await.unwrap();
    }
}

/// The query of a CREATE JOB in this session.
async fn job_in(session: &Session, sql: &str) -> JobQuery {
    tried_in(session, sql).await.unwrap()
}

async fn tried_in(session: &Session, sql: &str) -> Result<JobQuery, Error> {
    let raw = Script::new("jobs", sql).split().unwrap().remove(0);
    let mut parsed = parse_statement(&raw).unwrap();
    Parameters::default().bind(&mut parsed).unwrap();
    let Statement::Job(job) = parsed.statement else {
        panic!("no job: {sql}");
    };
    let JobStatement::Create { insert, emit, .. } = *job else {
        panic!("the statement makes no job: {sql}");
    };
    JobQuery::try_new(session, *insert, emit).await
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
        chunk: None,
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
                only: None,
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
                outlet.report(&ScanProgress {
                    partition: 3,
                    stream: 0,
                    start: 10,
                    next: 20,
                    reached: Some(PartitionTimes {
                        watermark,
                        ..PartitionTimes::default()
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
    let expected = ExpectedReport {
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
        chunk: None,
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
        Ok(match plan.is::<DrainExec>() {
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
async fn a_batch_that_is_merged_is_not_spread_over_streams() {
    let folder = tempfile::tempdir().unwrap();
    let session = Session::try_new(&SessionOptions {
        target_partitions: Some(4),
        job_memory: JobMemory::Half,
        ..SessionOptions::default()
    });
    let session = session.unwrap();
    let declared = |name: &str, key: &str| {
        let location = folder.path().join(name);
        format!(
            "CREATE EXTERNAL TABLE {name} (k BIGINT, page VARCHAR{key}) STORED AS DELTA LOCATION '{}';",
            location.display()
        )
    };
    let merged = declared("merged", ", PRIMARY KEY (k) NOT ENFORCED");
    run(
        &session,
        &[TABLES, &declared("appended", ""), &merged].concat(),
    )
    .await;
    for (table, is_spread) in [("appended", true), ("merged", false)] {
        let job =
            format!("CREATE JOB j AS INSERT INTO {table} SELECT k, page FROM visits WHERE k > 5");
        let query = job_in(&session, &job).await;
        let provider = KafkaTableProvider::for_batch(visits(&query), vec![range(10, 20)], None);
        let batch = query.batch(of_visits(provider)).await.unwrap();
        let shown = displayable(batch.plan.as_ref()).indent(false).to_string();
        assert_eq!(shown.contains("RepartitionExec"), is_spread, "{shown}");
    }
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
            chunk: None,
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
            chunk: None,
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
async fn safe_1_jobs_do_not_use_the_file_caches_of_statements() {
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
    let joined = async || rows(&query).await.num_rows();
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

/// A batch of one visit, of key 1.
fn visit(query: &JobQuery) -> BTreeMap<String, BatchSource> {
    let schema = Arc::clone(&visits(query).schema);
    let mut columns: Vec<ArrayRef> = schema
        .fields()
        .iter()
        .map(|field| new_null_array(field.data_type(), 1))
        .collect();
    columns[0] = Arc::new(Int64Array::from(vec![1]));
    let visit = RecordBatch::try_new(Arc::clone(&schema), columns).unwrap();
    let source = BatchSource {
        provider: Arc::new(MemTable::try_new(schema, vec![vec![visit]]).unwrap()),
        ranges: Vec::new(),
        last_records: BTreeMap::new(),
        chunk: None,
    };
    BTreeMap::from([("visits".to_owned(), source)])
}

/// The rows of a batch of one visit.
async fn rows(query: &JobQuery) -> RecordBatch {
    let batch = query.batch(visit(query)).await.unwrap();
    let schema = batch.plan.schema();
    let rows = collect(batch.plan, batch.context).await.unwrap();
    concat_batches(&schema, &rows).unwrap()
}

/// The text in the second column of the only row.
fn page(rows: &RecordBatch) -> &str {
    assert_eq!(rows.num_rows(), 1);
    rows.column(1).as_string::<i32>().value(0)
}

const WINDOWS: &str = "TUMBLE(TABLE visits, DESCRIPTOR(event_time), INTERVAL '10 seconds')";

#[tokio::test]
async fn the_statement_is_planned_once_and_each_batch_has_its_own_time() {
    let job = "CREATE JOB j AS INSERT INTO out SELECT k, CAST(now() AS VARCHAR) FROM visits";
    let (_, query) = planned(&format!("{TABLES}\n{job}")).await;
    let first = query.analyzed();
    let (one, other) = (rows(&query).await, rows(&query).await);
    assert_ne!(page(&one), page(&other));
    assert!(Arc::ptr_eq(&first, &query.analyzed()));
}

#[tokio::test]
async fn other_columns_of_a_static_table_are_planned_once_more() {
    let (_, query) = planned(&format!(
        "{TABLES}
        CREATE TABLE names AS SELECT * FROM (VALUES (1, 'home')) AS t (id, name);
        CREATE JOB j AS INSERT INTO out SELECT k, name FROM visits JOIN names ON k = id"
    ))
    .await;
    let first = query.analyzed();
    assert_eq!(page(&rows(&query).await), "home");
    let columns: [(&str, ArrayRef); 3] = [
        ("more", Arc::new(Int64Array::from(vec![7]))),
        ("name", Arc::new(StringArray::from(vec!["start"]))),
        ("id", Arc::new(Int64Array::from(vec![1]))),
    ];
    let names = RecordBatch::try_from_iter(columns).unwrap();
    let names = MemTable::try_new(names.schema(), vec![vec![names]]).unwrap();
    let names = TableEntry::Provider(Arc::new(names));
    query.session.catalog.put("names", names, String::new());
    assert_eq!(page(&rows(&query).await), "start");
    let second = query.analyzed();
    assert!(!Arc::ptr_eq(&first, &second), "it was planned again");
    assert_eq!(page(&rows(&query).await), "start");
    assert!(
        Arc::ptr_eq(&second, &query.analyzed()),
        "and for this batch not"
    );
}

#[tokio::test]
async fn the_query_in_an_argument_runs_once_in_each_batch_with_state_and_without() {
    let resumed = "offsets_from(0, k, (SELECT next FROM progress))";
    for (is_stateful, select) in [
        (false, format!("SELECT k, page FROM visits WHERE {resumed}")),
        (
            true,
            format!(
                "SELECT count(*), page FROM {WINDOWS} WHERE {resumed} GROUP BY page, window_start"
            ),
        ),
    ] {
        let session = in_session(TABLES).await;
        let progress = Counted::register(&session, "progress", "{\"0\":1}");
        let job = format!("CREATE JOB j AS INSERT INTO out {select}");
        let query = job_in(&session, &job).await;
        assert_eq!(progress.reads(), 0, "{select}");
        for batch in 1..=3 {
            if is_stateful {
                let ranges = vec![range(10, 10)];
                let provider = KafkaTableProvider::for_batch(visits(&query), ranges, None);
                let front = query.front(of_visits(provider.with_time(Arc::default())));
                let emitted = Arc::clone(front.await.unwrap().front.aggregate.output());
                let emitted = RecordBatch::new_empty(emitted);
                query.back(&emitted).await.unwrap();
            } else {
                assert_eq!(rows(&query).await.num_rows(), 1);
            }
            assert_eq!(progress.reads(), batch, "{select}");
        }
        let statics = query.static_tables();
        assert!(
            statics.iter().any(|(name, _)| name == "progress"),
            "{statics:?}"
        );
    }
}

#[tokio::test]
async fn scope_1_a_topic_in_a_query_that_is_an_argument_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let place = folder.path().display();
    let session = in_session(&format!(
        "{TABLES}
        CREATE EXTERNAL TABLE names (id BIGINT, name VARCHAR) STORED AS DELTA LOCATION '{place}';
        INSERT INTO names VALUES (1, 'home');
        CREATE VIEW pages AS SELECT page FROM out;"
    ))
    .await;
    for (rows, table) in [
        (
            "visits WHERE offsets_from(0, k, (SELECT max(page) FROM visits))",
            "visits",
        ),
        (
            "visits WHERE offsets_from(0, k, (SELECT max(page) FROM pages))",
            "out",
        ),
        (
            "visits WHERE offsets_from(0, k, (SELECT max(name) FROM names
              WHERE offsets_from(0, id, (SELECT max(page) FROM out))))",
            "out",
        ),
        (
            "visits JOIN names FOR TIMESTAMP AS OF (SELECT max(event_time) FROM visits) ON k = id",
            "visits",
        ),
    ] {
        let job = format!("CREATE JOB j AS INSERT INTO out SELECT k, page FROM {rows}");
        let error = tried_in(&session, &job).await.err().unwrap();
        assert_eq!(error.kind(), ErrorKind::Unsupported, "{rows}: {error}");
        let begin = format!("Kafka table {table} in a subquery that is an argument");
        assert!(error.message().starts_with(&begin), "{rows}: {error}");
    }
}

#[tokio::test]
async fn a_table_that_only_a_view_may_use_is_read_with_state_and_without() {
    let session = in_session(&format!(
        "{TABLES}
        CREATE TABLE names AS SELECT * FROM (VALUES (1, 'home')) AS t (id, name);
        CREATE VIEW named AS SELECT k, name, event_time FROM visits JOIN names ON k = id;"
    ))
    .await;
    let user = session
        .fork(&ForkOptions {
            may_name: Some(Arc::new(|_: &str, name: &str| name != "names")),
            ..ForkOptions::default()
        })
        .unwrap();
    let job = "CREATE JOB j AS INSERT INTO out SELECT k, name FROM named";
    let query = job_in(&user, job).await;
    assert_eq!(page(&rows(&query).await), "home");
    assert!(query.static_tables().is_empty(), "names is hidden");
    let windows = WINDOWS.replace("visits", "named");
    let job = format!(
        "CREATE JOB j AS INSERT INTO out SELECT count(*), name FROM {windows} GROUP BY name, window_start"
    );
    let query = job_in(&user, &job).await;
    let provider = KafkaTableProvider::for_batch(visits(&query), vec![range(10, 10)], None);
    let front = query.front(of_visits(provider.with_time(Arc::default())));
    front.await.unwrap();
}

#[tokio::test]
async fn a_table_at_the_time_of_a_batch_is_opened_in_each_batch() {
    let folder = tempfile::tempdir().unwrap();
    let place = folder.path().display();
    let session = in_session(&format!(
        "{TABLES}
        CREATE EXTERNAL TABLE names (id BIGINT, name VARCHAR) STORED AS DELTA LOCATION '{place}';
        INSERT INTO names VALUES (1, 'home');"
    ))
    .await;
    for at in ["now()", "(SELECT now())"] {
        let job = format!(
            "CREATE JOB j AS INSERT INTO out SELECT k, count(*)::VARCHAR FROM visits
            JOIN names FOR TIMESTAMP AS OF {at} ON k = id GROUP BY k EMIT PER BATCH"
        );
        let query = job_in(&session, &job).await;
        let first = query.analyzed();
        let before: u64 = page(&rows(&query).await).parse().unwrap();
        run(&session, "INSERT INTO names VALUES (1, 'start')").await;
        let after: u64 = page(&rows(&query).await).parse().unwrap();
        assert_eq!(after, before + 1, "{at}");
        assert!(Arc::ptr_eq(&first, &query.analyzed()), "{at}");
        let statics = query.static_tables();
        let is_of_batch = |(name, when): &(String, String)| name == "names" && when.contains(at);
        assert!(statics.iter().any(is_of_batch), "{statics:?}");
    }
}
