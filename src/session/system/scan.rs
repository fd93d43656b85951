//! Scan of a table in the schema `system`: it reads the jobs, batches and runs that the statement asks for, and no others. Changes of
//! runs, which may be many, are read file by file while the statement reads their rows.

use std::sync::Arc;

use async_trait::async_trait;
use datafusion::arrow::array::RecordBatch;
use datafusion::arrow::datatypes::SchemaRef;
use datafusion::catalog::{Session as CatalogSession, TableProvider};
use datafusion::datasource::TableType;
use datafusion::datasource::memory::MemorySourceConfig;
use datafusion::error::{DataFusionError, Result as DataFusionResult};
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::logical_expr::{Expr, TableProviderFilterPushDown};
use datafusion::physical_plan::ExecutionPlan;
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use datafusion::physical_plan::streaming::{PartitionStream, StreamingTableExec};
use futures::TryStreamExt as _;
use futures::future::BoxFuture;

use crate::error::Result;
use crate::session::system::rows;
use crate::session::system::rows::REPAIRED_BY;
use crate::session::system::run_rows;
use crate::session::system::scan_filter::ScanFilter;
use crate::store::RunStore;

/// One of these tables.
#[derive(Debug)]
pub(crate) struct SystemTable {
    name: &'static str,
    data_dir: String,
    schema: SchemaRef,
}

/// Whether a table is about runs; the others are about jobs.
fn is_of_runs(name: &str) -> bool {
    matches!(name, "runs" | "run_changes")
}

/// A table without rows.
fn empty_of(name: &str) -> Result<RecordBatch> {
    match is_of_runs(name) {
        true => run_rows::empty_of(name),
        false => rows::empty_of(name),
    }
}

impl SystemTable {
    pub(crate) fn try_new(name: &'static str, data_dir: &str) -> Result<Self> {
        Ok(Self {
            name,
            data_dir: data_dir.to_owned(),
            schema: empty_of(name)?.schema(),
        })
    }
}

#[async_trait]
impl TableProvider for SystemTable {
    fn schema(&self) -> SchemaRef {
        Arc::clone(&self.schema)
    }

    fn table_type(&self) -> TableType {
        TableType::Base
    }

    fn supports_filters_pushdown(
        &self,
        filters: &[&Expr],
    ) -> DataFusionResult<Vec<TableProviderFilterPushDown>> {
        // The scan leaves out whole jobs, batches, runs and files only: the filter also stays above it.
        let narrows = |filter: &&Expr| match ScanFilter::default().narrow(filter) {
            true => TableProviderFilterPushDown::Inexact,
            false => TableProviderFilterPushDown::Unsupported,
        };
        Ok(filters.iter().map(narrows).collect())
    }

    async fn scan(
        &self,
        _: &dyn CatalogSession,
        projection: Option<&Vec<usize>>,
        filters: &[Expr],
        limit: Option<usize>,
    ) -> DataFusionResult<Arc<dyn ExecutionPlan>> {
        let is_read = |column: usize| projection.is_none_or(|read| read.contains(&column));
        let wanted = ScanFilter {
            repairs: self.schema.index_of(REPAIRED_BY).is_ok_and(is_read),
            ..ScanFilter::by(filters)
        };
        if self.name == "run_changes" {
            let rows = ChangesScan {
                store: run_rows::store_in(&self.data_dir)?,
                wanted,
                schema: Arc::clone(&self.schema),
            };
            return Ok(Arc::new(StreamingTableExec::try_new(
                Arc::clone(&self.schema),
                vec![Arc::new(rows)],
                projection,
                Vec::new(),
                false,
                limit,
            )?));
        }
        let rows: BoxFuture<'_, _> = match is_of_runs(self.name) {
            true => Box::pin(run_rows::rows_of(&self.data_dir, &wanted)),
            false => Box::pin(rows::rows_of(&self.data_dir, self.name, &wanted)),
        };
        let rows = rows.await?;
        let plan = MemorySourceConfig::try_new_exec(
            &[vec![rows]],
            Arc::clone(&self.schema),
            projection.cloned(),
        )?;
        Ok(plan)
    }
}

/// A scan of `system.run_changes`.
#[derive(Debug)]
struct ChangesScan {
    /// None without a data directory.
    store: Option<RunStore>,
    wanted: ScanFilter,
    schema: SchemaRef,
}

impl PartitionStream for ChangesScan {
    fn schema(&self) -> &SchemaRef {
        &self.schema
    }

    fn execute(&self, _: Arc<TaskContext>) -> SendableRecordBatchStream {
        let rows = run_rows::changes(self.store.clone(), self.wanted.clone());
        Box::pin(RecordBatchStreamAdapter::new(
            Arc::clone(&self.schema),
            rows.map_err(DataFusionError::from),
        ))
    }
}
