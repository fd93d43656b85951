//! A pinned version of a table, as DataFusion reads and inserts into it.

use std::fmt;
use std::sync::Arc;

use async_trait::async_trait;
use datafusion::arrow::array::{Array, AsArray, RecordBatch};
use datafusion::arrow::datatypes::{Int64Type, Schema, SchemaRef};
use datafusion::catalog::{Session, TableProvider};
use datafusion::datasource::TableType;
use datafusion::datasource::sink::{DataSink, DataSinkExec};
use datafusion::error::{DataFusionError, Result};
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::logical_expr::dml::InsertOp;
use datafusion::logical_expr::{Expr, TableProviderFilterPushDown};
use datafusion::physical_plan::metrics::{ExecutionPlanMetricsSet, MetricBuilder, MetricsSet};
use datafusion::physical_plan::{DisplayAs, DisplayFormatType, ExecutionPlan};
use deltalake::DeltaTable;
use deltalake::delta_datafusion::DeltaScanNext;
use deltalake::protocol::SaveMode;

use super::handle::DeltaTableHandle;
use super::prune::partition_filters;
use super::rules::TableRules;
use crate::error::Error;

/// One version of a table.
#[derive(Debug)]
pub(super) struct DeltaTableProvider {
    scan: DeltaScanNext,
    table: DeltaTable,
    rules: Arc<TableRules>,
    /// The newest version can be inserted into.
    writer: Option<DeltaTableHandle>,
}

impl DeltaTableProvider {
    pub(super) fn new(
        scan: DeltaScanNext,
        table: DeltaTable,
        rules: Arc<TableRules>,
        writer: Option<DeltaTableHandle>,
    ) -> Self {
        Self {
            scan,
            table,
            rules,
            writer,
        }
    }

    /// Makes the table's store known to the session, which finds stores by scheme and bucket alone.
    ///
    /// The newest registration counts: a table that is declared anew, with other credentials,
    /// must not be read with the old ones.
    fn register_store(&self, session: &dyn Session) -> Result<()> {
        register_store(&self.table, session)
    }
}

/// See [`DeltaTableProvider::register_store`].
pub(super) fn register_store(table: &DeltaTable, session: &dyn Session) -> Result<()> {
    let log_store = table.log_store();
    let mut root = log_store.root_url().clone();
    if root.scheme() == "file" {
        return Ok(table.update_datafusion_session(session)?);
    }
    root.set_path("/");
    session
        .runtime_env()
        .register_object_store(&root, log_store.root_object_store(None));
    Ok(())
}

/// Whether `table` is a Delta table whose statistics say that no file has a NULL in `column`.
pub fn has_no_nulls(table: &dyn TableProvider, column: &str) -> bool {
    let Some(table) = table.downcast_ref::<DeltaTableProvider>() else {
        return false;
    };
    let Ok(snapshot) = table.table.snapshot() else {
        return false;
    };
    let Ok(files) = snapshot.add_actions_batches(true) else {
        return false;
    };
    let name = format!("null_count.{column}");
    let has_none = |files: &RecordBatch| {
        let counts = files.column_by_name(&name);
        let counts = counts.and_then(|counts| counts.as_primitive_opt::<Int64Type>());
        counts.is_some_and(|counts| {
            counts.null_count() == 0 && counts.values().iter().all(|count| *count == 0)
        })
    };
    // No files: there are none, or they were not loaded.
    files.iter().any(|files| files.num_rows() > 0) && files.iter().all(has_none)
}

#[async_trait]
impl TableProvider for DeltaTableProvider {
    fn schema(&self) -> SchemaRef {
        self.scan.schema()
    }

    fn table_type(&self) -> TableType {
        TableType::Base
    }

    async fn scan(
        &self,
        session: &dyn Session,
        projection: Option<&Vec<usize>>,
        filters: &[Expr],
        limit: Option<usize>,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        self.register_store(session)?;
        let rules = &self.rules;
        let derived = partition_filters(filters, &rules.rows, &rules.partition_by, rules.in_utc)?;
        let filters: Vec<Expr> = filters.iter().cloned().chain(derived).collect();
        self.scan.scan(session, projection, &filters, limit).await
    }

    fn supports_filters_pushdown(
        &self,
        filters: &[&Expr],
    ) -> Result<Vec<TableProviderFilterPushDown>> {
        // The library calls predicates on partition values exact; a filter above the scan costs
        // little and does not rest on how it treats null.
        Ok(self
            .scan
            .supports_filters_pushdown(filters)?
            .into_iter()
            .map(|support| match support {
                TableProviderFilterPushDown::Exact => TableProviderFilterPushDown::Inexact,
                other => other,
            })
            .collect())
    }

    async fn insert_into(
        &self,
        _session: &dyn Session,
        input: Arc<dyn ExecutionPlan>,
        op: InsertOp,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        let Some(writer) = &self.writer else {
            return Err(
                Error::invalid("an earlier version of a Delta table cannot be written").into(),
            );
        };
        let mode = match op {
            InsertOp::Append => SaveMode::Append,
            InsertOp::Overwrite => SaveMode::Overwrite,
            InsertOp::Replace => {
                return Err(
                    Error::unsupported("REPLACE INTO a Delta table is not supported")
                        .with_help("use INSERT INTO or INSERT OVERWRITE")
                        .into(),
                );
            }
        };
        let sink = DeltaSink {
            writer: writer.clone(),
            table: self.table.clone(),
            input_schema: nullable(&self.scan.schema()),
            rules: Arc::clone(&self.rules),
            mode,
            metrics: ExecutionPlanMetricsSet::new(),
        };
        Ok(Arc::new(DataSinkExec::new(input, Arc::new(sink), None)))
    }
}

/// One INSERT: writes files, then makes one commit.
#[derive(Debug)]
struct DeltaSink {
    writer: DeltaTableHandle,
    table: DeltaTable,
    /// Nullable throughout: a generated column may be left out even if it is NOT NULL, and our own
    /// check names the column.
    input_schema: SchemaRef,
    rules: Arc<TableRules>,
    mode: SaveMode,
    metrics: ExecutionPlanMetricsSet,
}

#[async_trait]
impl DataSink for DeltaSink {
    fn schema(&self) -> &SchemaRef {
        &self.input_schema
    }

    fn metrics(&self) -> Option<MetricsSet> {
        Some(self.metrics.clone_inner())
    }

    async fn write_all(
        &self,
        data: SendableRecordBatchStream,
        context: &Arc<TaskContext>,
    ) -> Result<u64> {
        let commit = self
            .writer
            .write(&self.table, &self.rules, data, context, self.mode, None)
            .await
            .map_err(DataFusionError::from)?;
        MetricBuilder::new(&self.metrics)
            .global_counter("files_added")
            .add(commit.added.len());
        MetricBuilder::new(&self.metrics)
            .global_counter("rows_written")
            .add(usize::try_from(commit.rows).unwrap_or(usize::MAX));
        Ok(commit.rows)
    }
}

impl DisplayAs for DeltaSink {
    fn fmt_as(&self, _: DisplayFormatType, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "DeltaSink(location={}, mode={:?})",
            self.writer.location(),
            self.mode
        )
    }
}

fn nullable(schema: &SchemaRef) -> SchemaRef {
    let fields: Vec<_> = schema
        .fields()
        .iter()
        .map(|field| field.as_ref().clone().with_nullable(true))
        .collect();
    Arc::new(Schema::new(fields))
}
