//! Sink of a statement that writes a Delta table, as a node of its plan: of an INSERT, and of a change of rows.

use std::fmt;
use std::sync::Arc;

use datafusion::arrow::datatypes::{Field, Schema, SchemaRef};
use datafusion::datasource::sink::{DataSink, DataSinkExec};
use datafusion::error::{DataFusionError, Result};
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::physical_plan::metrics::{ExecutionPlanMetricsSet, MetricBuilder, MetricsSet};
use datafusion::physical_plan::{DisplayAs, DisplayFormatType, ExecutionPlan};
use futures::FutureExt as _;
use futures::future::BoxFuture;

use super::spec::Commit;

/// A statement that writes files, then makes one commit. Its text is what EXPLAIN shows.
pub(super) trait WriteStatement: fmt::Display + Send + Sync + 'static {
    /// The name of the metric that counts its rows.
    fn counter(&self) -> &'static str;

    /// Writes the rows and commits them.
    ///
    /// # Errors
    ///
    /// The rows' own error; a row that breaks a rule of the table; a conflict; the store's errors.
    fn write<'a>(
        &'a self,
        rows: SendableRecordBatchStream,
        context: &'a Arc<TaskContext>,
    ) -> BoxFuture<'a, crate::error::Result<WrittenRows>>;
}

/// Files and rows that a statement has written.
#[derive(Debug, Default)]
pub(super) struct WrittenRows {
    files: usize,
    rows: u64,
}

impl From<Commit> for WrittenRows {
    fn from(commit: Commit) -> Self {
        Self {
            files: commit.added.len(),
            rows: commit.rows,
        }
    }
}

/// The node that gives the rows of `input`, with the columns of `schema`, to a statement.
pub(super) fn sink(
    input: Arc<dyn ExecutionPlan>,
    schema: SchemaRef,
    statement: impl WriteStatement,
) -> Arc<dyn ExecutionPlan> {
    let sink = StatementSink {
        statement: Box::new(statement),
        schema,
        metrics: ExecutionPlanMetricsSet::new(),
    };
    Arc::new(DataSinkExec::new(input, Arc::new(sink), None))
}

/// The columns, nullable throughout: a generated column may be left out even if it is NOT NULL, and our own check names the
/// column.
pub(super) fn nullable(schema: &Schema) -> Vec<Field> {
    let fields = schema.fields().iter();
    let nullable = fields.map(|field| field.as_ref().clone().with_nullable(true));
    nullable.collect()
}

struct StatementSink {
    statement: Box<dyn WriteStatement>,
    schema: SchemaRef,
    metrics: ExecutionPlanMetricsSet,
}

impl fmt::Debug for StatementSink {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StatementSink")
            .field("statement", &self.statement.to_string())
            .finish_non_exhaustive()
    }
}

impl DisplayAs for StatementSink {
    fn fmt_as(&self, _: DisplayFormatType, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.statement)
    }
}

impl DataSink for StatementSink {
    fn schema(&self) -> &SchemaRef {
        &self.schema
    }

    fn metrics(&self) -> Option<MetricsSet> {
        Some(self.metrics.clone_inner())
    }

    // Written out instead of `async fn`: see the provider of a version.
    fn write_all<'life0, 'life1, 'async_trait>(
        &'life0 self,
        data: SendableRecordBatchStream,
        context: &'life1 Arc<TaskContext>,
    ) -> BoxFuture<'async_trait, Result<u64>>
    where
        'life0: 'async_trait,
        'life1: 'async_trait,
        Self: 'async_trait,
    {
        async move {
            let written = self.statement.write(data, context).await;
            let written = written.map_err(DataFusionError::from)?;
            let counter = |name| MetricBuilder::new(&self.metrics).global_counter(name);
            counter("files_added").add(written.files);
            let rows = usize::try_from(written.rows).unwrap_or(usize::MAX);
            counter(self.statement.counter()).add(rows);
            Ok(written.rows)
        }
        .boxed()
    }
}
