//! A pinned version of a table, as DataFusion reads and inserts into it.

use std::fmt;
use std::sync::Arc;

use datafusion::arrow::array::{Array, AsArray, RecordBatch};
use datafusion::arrow::datatypes::{Int64Type, Schema, SchemaRef};
use datafusion::catalog::{Session, TableProvider};
use datafusion::datasource::TableType;
use datafusion::error::Result;
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::logical_expr::dml::InsertOp;
use datafusion::logical_expr::{Expr, TableProviderFilterPushDown};
use datafusion::physical_plan::ExecutionPlan;
use deltalake::DeltaTable;
use deltalake::protocol::SaveMode;
use futures::future::BoxFuture;
use futures::{FutureExt as _, TryFutureExt as _};

use super::handle::DeltaTableHandle;
use super::prune::partition_filters;
use super::rules::TableRules;
use super::scan::TableScan;
use super::sink::{WriteStatement, WrittenRows, nullable, sink};
use super::spec::TimeTravel;
use crate::error::Error;
use crate::tables::boxed_methods::{boxed_insert_into, boxed_scan};

/// One version of a table.
#[derive(Debug)]
pub(super) struct DeltaTableProvider {
    scan: TableScan,
    pub(super) table: DeltaTable,
    pub(super) rules: Arc<TableRules>,
    /// The newest version can be inserted into.
    writer: Option<DeltaTableHandle>,
}

impl DeltaTableProvider {
    pub(super) fn new(
        scan: TableScan,
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
    /// The newest registration counts: a table that is declared again, with other credentials,
    /// must not be read with the old ones.
    fn register_store(&self, session: &dyn Session) -> Result<()> {
        register_store(&self.table, session)
    }

    fn scan_boxed<'a>(
        &'a self,
        session: &'a dyn Session,
        projection: Option<&'a Vec<usize>>,
        filters: &'a [Expr],
        limit: Option<usize>,
    ) -> BoxFuture<'a, Result<Arc<dyn ExecutionPlan>>> {
        async move {
            self.register_store(session)?;
            let rules = &self.rules;
            let derived =
                partition_filters(filters, &rules.rows, &rules.partition_by, rules.in_utc)?;
            let filters: Vec<Expr> = filters.iter().cloned().chain(derived).collect();
            self.scan.scan(session, projection, &filters, limit).await
        }
        .boxed()
    }

    fn insert(
        &self,
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
        let insert = Insert {
            writer: writer.clone(),
            table: self.table.clone(),
            rules: Arc::clone(&self.rules),
            mode,
        };
        let schema = Schema::new(nullable(&self.scan.schema()));
        Ok(sink(input, Arc::new(schema), insert))
    }
}

impl DeltaTableHandle {
    /// A provider over one version of the table, which it reads for as long as it lives.
    ///
    /// Only the provider of [`TimeTravel::Latest`] can be inserted into.
    ///
    /// # Errors
    ///
    /// The version does not exist (any more), or the log cannot be read.
    pub async fn snapshot(
        &self,
        at: TimeTravel,
    ) -> std::result::Result<Arc<dyn TableProvider>, Error> {
        let newest = self.refresh().await?;
        let table = match at {
            TimeTravel::Latest => newest,
            TimeTravel::Version(version) => self.at_version(newest, version).await?,
            TimeTravel::Timestamp(time) => {
                let version = self.version_at(&newest, time).await?;
                self.at_version(newest, version).await?
            }
        };
        let rules = self.rules(&table)?;
        let scan = TableScan::of(&table).map_err(|error| self.fail(error))?;
        let writer = (at == TimeTravel::Latest).then(|| self.clone());
        Ok(Arc::new(DeltaTableProvider::new(
            scan, table, rules, writer,
        )))
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

impl TableProvider for DeltaTableProvider {
    fn schema(&self) -> SchemaRef {
        self.scan.schema()
    }

    fn table_type(&self) -> TableType {
        TableType::Base
    }

    boxed_scan!(|table, session, projection, filters, limit| {
        table.scan_boxed(session, projection, filters, limit)
    });

    fn supports_filters_pushdown(
        &self,
        filters: &[&Expr],
    ) -> Result<Vec<TableProviderFilterPushDown>> {
        self.scan.supports_filters_pushdown(filters)
    }

    boxed_insert_into!(|table, _, input, op| std::future::ready(table.insert(input, op)).boxed());
}

/// One INSERT.
struct Insert {
    writer: DeltaTableHandle,
    table: DeltaTable,
    rules: Arc<TableRules>,
    mode: SaveMode,
}

impl fmt::Display for Insert {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (location, mode) = (self.writer.location(), self.mode);
        write!(f, "DeltaSink(location={location}, mode={mode:?})")
    }
}

impl WriteStatement for Insert {
    fn counter(&self) -> &'static str {
        "rows_written"
    }

    fn write<'a>(
        &'a self,
        rows: SendableRecordBatchStream,
        context: &'a Arc<TaskContext>,
    ) -> BoxFuture<'a, crate::error::Result<WrittenRows>> {
        let (table, rules) = (&self.table, &self.rules);
        let write = self
            .writer
            .write(table, rules, rows, context, self.mode, None);
        write.map_ok(WrittenRows::from).boxed()
    }
}
