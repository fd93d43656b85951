//! A session as a program would build it, and tables to query.

use std::any::TypeId;
use std::sync::Arc;

use anabranch_udfs::{parse_table_argument, query_planner, register, register_json};
use arrow::array::{Array, ArrayRef, AsArray, Int64Array, RecordBatch, StringArray};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Field, Int64Type, Schema, TimeUnit};
use datafusion::common::Result;
use datafusion::datasource::MemTable;
use datafusion::execution::session_state::SessionStateBuilder;
use datafusion::logical_expr::LogicalPlan;
use datafusion::prelude::{DataFrame, SessionConfig, SessionContext};
use datafusion::sql::parser::{DFParserBuilder, Statement};
use datafusion::sql::sqlparser::ast::Expr;
use datafusion::sql::sqlparser::dialect::{Dialect, GenericDialect};
use datafusion::sql::sqlparser::parser::{Parser, ParserError};

/// The generic dialect with table arguments.
#[derive(Debug, Default)]
pub struct TestDialect(GenericDialect);

impl Dialect for TestDialect {
    fn dialect(&self) -> TypeId {
        TypeId::of::<GenericDialect>()
    }

    fn is_identifier_start(&self, ch: char) -> bool {
        self.0.is_identifier_start(ch)
    }

    fn is_identifier_part(&self, ch: char) -> bool {
        self.0.is_identifier_part(ch)
    }

    fn is_delimited_identifier_start(&self, ch: char) -> bool {
        self.0.is_delimited_identifier_start(ch)
    }

    fn supports_named_fn_args_with_eq_operator(&self) -> bool {
        self.0.supports_named_fn_args_with_eq_operator()
    }

    fn supports_dictionary_syntax(&self) -> bool {
        self.0.supports_dictionary_syntax()
    }

    fn parse_prefix(&self, parser: &mut Parser) -> Option<Result<Expr, ParserError>> {
        parse_table_argument(parser)
    }
}

pub fn context(config: SessionConfig) -> SessionContext {
    context_with(config, |builder| builder)
}

pub fn context_with(
    mut config: SessionConfig,
    adapt: impl FnOnce(SessionStateBuilder) -> SessionStateBuilder,
) -> SessionContext {
    config.options_mut().sql_parser.collect_spans = true;
    let builder = SessionStateBuilder::new()
        .with_config(config)
        .with_default_features()
        .with_query_planner(query_planner());
    let mut state = adapt(register(builder)).build();
    register_json(&mut state).unwrap();
    SessionContext::new_with_state(state)
}

pub async fn plan(context: &SessionContext, sql: &str) -> Result<LogicalPlan> {
    let dialect = TestDialect::default();
    let mut statements = DFParserBuilder::new(sql)
        .with_dialect(&dialect)
        .build()?
        .parse_statements()?;
    let mut statement = statements.pop_front().unwrap();
    match &mut statement {
        Statement::Statement(inner) => {
            anabranch_udfs::rewrite_window_calls(inner.as_mut()).unwrap()
        }
        Statement::Explain(explain) => {
            if let Statement::Statement(inner) = explain.statement.as_mut() {
                anabranch_udfs::rewrite_window_calls(inner.as_mut()).unwrap();
            }
        }
        _ => {}
    }
    context.state().statement_to_plan(statement).await
}

pub async fn query(context: &SessionContext, sql: &str) -> Result<DataFrame> {
    Ok(DataFrame::new(context.state(), plan(context, sql).await?))
}

pub async fn collect(context: &SessionContext, sql: &str) -> Result<Vec<RecordBatch>> {
    query(context, sql).await?.collect().await
}

/// The result as rows of text, NULL as "NULL".
pub async fn rows(context: &SessionContext, sql: &str) -> Result<Vec<Vec<String>>> {
    let mut rows = vec![];
    for batch in collect(context, sql).await? {
        for row in 0..batch.num_rows() {
            rows.push(
                batch
                    .columns()
                    .iter()
                    .map(|column| {
                        if column.is_null(row) {
                            return "NULL".to_owned();
                        }
                        arrow::util::display::array_value_to_string(column, row).unwrap()
                    })
                    .collect(),
            );
        }
    }
    Ok(rows)
}

/// The result's column of whole numbers (or timestamps, as ticks) number `column`.
pub fn numbers(batches: &[RecordBatch], column: usize) -> Vec<Option<i64>> {
    batches
        .iter()
        .flat_map(|batch| {
            let values = cast(batch.column(column), &DataType::Int64).unwrap();
            values
                .as_primitive::<Int64Type>()
                .iter()
                .collect::<Vec<_>>()
        })
        .collect()
}

pub async fn plan_text(context: &SessionContext, sql: &str) -> String {
    let frame = query(context, sql).await.unwrap();
    let physical = frame.create_physical_plan().await.unwrap();
    datafusion::physical_plan::displayable(physical.as_ref())
        .indent(false)
        .to_string()
}

/// The error of a statement that must fail: message, help and the text its span covers.
pub async fn failure(context: &SessionContext, sql: &str) -> (String, String, String) {
    let error = match collect(context, sql).await {
        Ok(_) => panic!("no error from {sql}"),
        Err(error) => error,
    };
    let diagnostic = error.diagnostic().cloned();
    let help = diagnostic
        .as_ref()
        .and_then(|diagnostic| diagnostic.helps.first().cloned());
    let at = diagnostic
        .and_then(|diagnostic| diagnostic.span)
        .map(|span| {
            let line = sql.lines().nth(span.start.line as usize - 1).unwrap();
            let (start, end) = (span.start.column as usize - 1, span.end.column as usize - 1);
            line.chars()
                .skip(start)
                .take(end.saturating_sub(start))
                .collect::<String>()
        });
    (
        error.strip_backtrace(),
        help.map(|help| help.message).unwrap_or_default(),
        at.unwrap_or_default(),
    )
}

pub fn timestamp_type() -> DataType {
    DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into()))
}

pub fn timestamps(values: impl IntoIterator<Item = Option<i64>>) -> ArrayRef {
    let values: Int64Array = values.into_iter().collect();
    cast(&values, &timestamp_type()).unwrap()
}

/// One visit: (site, user, microseconds, page); the number of the row is its id.
pub type Visit = (Option<&'static str>, Option<i64>, Option<i64>);

pub fn visits_schema() -> Arc<Schema> {
    Arc::new(Schema::new(vec![
        Field::new("id", DataType::Int64, false),
        Field::new("site", DataType::Utf8, true),
        Field::new("user_id", DataType::Int64, true),
        Field::new("event_time", timestamp_type(), true),
    ]))
}

pub fn visits_batch(first_id: usize, visits: &[Visit]) -> RecordBatch {
    let ids = Int64Array::from_iter_values((first_id as i64..).take(visits.len()));
    let sites: StringArray = visits.iter().map(|visit| visit.0).collect();
    let users: Int64Array = visits.iter().map(|visit| visit.1).collect();
    let times = timestamps(visits.iter().map(|visit| visit.2));
    let columns: Vec<ArrayRef> = vec![Arc::new(ids), Arc::new(sites), Arc::new(users), times];
    RecordBatch::try_new(visits_schema(), columns).unwrap()
}

/// Registers `visits` cut into batches of `batch` rows over `partitions` partitions.
pub fn register_visits(
    context: &SessionContext,
    visits: &[Visit],
    batch: usize,
    partitions: usize,
) {
    let mut tables = vec![vec![]; partitions];
    for (number, chunk) in visits.chunks(batch).enumerate() {
        tables[number % partitions].push(visits_batch(number * batch, chunk));
    }
    let table = MemTable::try_new(visits_schema(), tables).unwrap();
    context.register_table("visits", Arc::new(table)).unwrap();
}

pub const SECOND: i64 = 1_000_000;
pub const MINUTE: i64 = 60 * SECOND;

/// Records with an id, and partition (INT) and offset (BIGINT), both perhaps NULL.
pub fn offsets_batch(rows: &[(Option<i64>, Option<i64>)]) -> RecordBatch {
    let ids: ArrayRef = Arc::new(Int64Array::from_iter_values((0..).take(rows.len())));
    let partitions: Int64Array = rows.iter().map(|row| row.0).collect();
    let offsets: Int64Array = rows.iter().map(|row| row.1).collect();
    RecordBatch::try_from_iter_with_nullable([
        ("id", ids, false),
        (
            "partition",
            cast(&partitions, &DataType::Int32).unwrap(),
            true,
        ),
        ("offset", Arc::new(offsets) as ArrayRef, true),
    ])
    .unwrap()
}
