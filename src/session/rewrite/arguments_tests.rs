//! Tests of arguments that are queries: when they run, and with which values.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use async_trait::async_trait;
use datafusion::arrow::array::{AsArray as _, RecordBatch, StringArray};
use datafusion::arrow::datatypes::{Int64Type, SchemaRef};
use datafusion::catalog::{Session as Planning, TableProvider};
use datafusion::datasource::{MemTable, TableType};
use datafusion::error::Result as DataFusionResult;
use datafusion::logical_expr::Expr;
use datafusion::physical_plan::ExecutionPlan;

use super::Purpose;
use crate::error::Result;
use crate::planner::{Parameters, ParsedStatement, Script, parse_statement};
use crate::session::{Session, SessionOptions};

/// A table of one row, `next`, that counts how often it is read.
#[derive(Debug)]
pub(crate) struct Counted {
    table: MemTable,
    reads: AtomicUsize,
}

impl Counted {
    /// Registers the table `name` in a session.
    pub(crate) fn register(session: &Session, name: &str, next: &str) -> Arc<Self> {
        let next = Arc::new(StringArray::from(vec![next]));
        let rows = RecordBatch::try_from_iter([("next", next as _)]).unwrap();
        let counted = Arc::new(Self {
            table: MemTable::try_new(rows.schema(), vec![vec![rows]]).unwrap(),
            reads: AtomicUsize::new(0),
        });
        let table = Arc::clone(&counted) as Arc<dyn TableProvider>;
        session.context.register_table(name, table).unwrap();
        counted
    }

    /// How often it was read.
    pub(crate) fn reads(&self) -> usize {
        self.reads.load(Ordering::Relaxed)
    }
}

#[async_trait]
impl TableProvider for Counted {
    fn schema(&self) -> SchemaRef {
        self.table.schema()
    }

    fn table_type(&self) -> TableType {
        TableType::Base
    }

    async fn scan(
        &self,
        state: &dyn Planning,
        projection: Option<&Vec<usize>>,
        filters: &[Expr],
        limit: Option<usize>,
    ) -> DataFusionResult<Arc<dyn ExecutionPlan>> {
        self.reads.fetch_add(1, Ordering::Relaxed);
        self.table.scan(state, projection, filters, limit).await
    }
}

/// From offset 1 on in partition 0, and all of partition 1.
const RESUMED: &str =
    "SELECT p, o FROM events WHERE offsets_from(p, o, (SELECT next FROM progress)) ORDER BY p, o";

fn parsed(sql: &str) -> ParsedStatement {
    let raw = Script::new("test", sql).split().unwrap().remove(0);
    let mut parsed = parse_statement(&raw).unwrap();
    Parameters::default().bind(&mut parsed).unwrap();
    parsed
}

async fn session() -> (Session, Arc<Counted>) {
    let session = Session::try_new(&SessionOptions::default()).unwrap();
    let events = "CREATE TABLE events AS SELECT * FROM (VALUES (0, 0), (0, 1), (1, 0)) AS t (p, o)";
    session.collect(parsed(events)).await.unwrap();
    let progress = Counted::register(&session, "progress", "{\"0\":1}");
    (session, progress)
}

async fn rows(session: &Session, sql: &str) -> Result<Vec<(i64, i64)>> {
    let mut rows = Vec::new();
    for batch in session.collect(parsed(sql)).await? {
        let column = |index: usize| batch.column(index).as_primitive::<Int64Type>().values();
        rows.extend(column(0).iter().copied().zip(column(1).iter().copied()));
    }
    Ok(rows)
}

#[tokio::test]
async fn the_query_in_an_argument_runs_with_its_statement() {
    let (session, progress) = session().await;
    assert_eq!(rows(&session, RESUMED).await.unwrap(), [(0, 1), (1, 0)]);
    assert_eq!(progress.reads(), 1);
    let analyze = format!("EXPLAIN ANALYZE {RESUMED}");
    session.collect(parsed(&analyze)).await.unwrap();
    assert_eq!(progress.reads(), 2);
}

#[tokio::test]
async fn no_query_runs_for_a_statement_that_is_only_described() {
    let (session, progress) = session().await;
    for sql in [
        format!("EXPLAIN {RESUMED}"),
        format!("DESCRIBE {RESUMED}"),
        format!("CREATE VIEW resumed AS {RESUMED}"),
        "DESCRIBE resumed".to_owned(),
        "EXPLAIN SELECT * FROM resumed".to_owned(),
        "DESCRIBE SELECT * FROM resumed".to_owned(),
        "SELECT column_name FROM information_schema.columns WHERE table_name = 'resumed'"
            .to_owned(),
    ] {
        session.collect(parsed(&sql)).await.unwrap();
        assert_eq!(progress.reads(), 0, "{sql}");
    }
    session.columns_of("public", "resumed").await.unwrap();
    let described = session
        .plan_for(parsed(RESUMED), Purpose::Describe)
        .await
        .unwrap();
    assert_eq!(described.schema().fields().len(), 2);
    assert!(described.is_left_open());
    assert_eq!(progress.reads(), 0);
    // Such a plan never gives rows: some would be those of other arguments.
    assert!(session.begin(described).is_err());
    let plain = session
        .plan_for(parsed("SELECT p FROM events"), Purpose::Describe)
        .await;
    let plain = plain.unwrap();
    assert!(!plain.is_left_open());
    session.begin(plain).unwrap();

    let all = "SELECT * FROM resumed ORDER BY p, o";
    assert_eq!(rows(&session, all).await.unwrap(), [(0, 1), (1, 0)]);
    assert_eq!(progress.reads(), 1);
}

#[tokio::test]
async fn parameters_have_types_and_no_query_runs_for_them() {
    let (session, progress) = session().await;
    let sql = "SELECT o FROM events WHERE o > $1 AND offsets_from(p, o, (SELECT next FROM progress WHERE next <> $2))";
    let raw = Script::new("test", sql).split().unwrap().remove(0);
    let types = session
        .parameter_types(&parse_statement(&raw).unwrap())
        .await;
    assert_eq!(types.len(), 2, "{types:?}");
    assert_eq!(progress.reads(), 0);
}

#[tokio::test]
async fn explain_shows_the_text_of_the_query() {
    let (session, _) = session().await;
    let explain = format!("EXPLAIN FORMAT INDENT {RESUMED}");
    let mut shown = String::new();
    for batch in session.collect(parsed(&explain)).await.unwrap() {
        for text in batch.column(1).as_string::<i32>().iter().flatten() {
            shown.push_str(text);
        }
    }
    assert!(
        shown.contains("offsets_from(") && shown.contains("SELECT next FROM progress"),
        "{shown}"
    );
}

#[tokio::test]
async fn each_query_has_its_own_value_also_one_within_another() {
    let (session, _) = session().await;
    let sql = "SELECT p, o FROM events
        WHERE offsets_from(p, o, (SELECT next_offsets(p, o) FROM events
            WHERE offsets_in(p, o, (SELECT '{\"0\":0}'), '{\"0\":1}')))
          AND offsets_in(p, o, (SELECT '{\"0\":0,\"1\":0}'), (SELECT '{\"0\":-1,\"1\":-1}'))
        ORDER BY p, o";
    assert_eq!(rows(&session, sql).await.unwrap(), [(0, 1), (1, 0)]);
}

#[tokio::test]
async fn a_query_in_an_argument_gives_one_value_by_itself() {
    let (session, _) = session().await;
    for (query, said) in [
        ("SELECT p, o FROM events", "only return one column"),
        ("SELECT CAST(o AS VARCHAR) FROM events", "3 rows"),
        ("SELECT next FROM nowhere", "nowhere"),
    ] {
        let sql = format!("SELECT p, o FROM events WHERE offsets_from(p, o, ({query}))");
        let error = rows(&session, &sql).await.unwrap_err();
        assert!(error.message().contains(said), "{query}: {error}");
    }
    let outer = "SELECT p, o FROM events AS e
        WHERE offsets_from(p, o, (SELECT CAST(e.p AS VARCHAR) FROM progress))";
    rows(&session, outer).await.unwrap_err();
}
