//! Scan of a table in the schema `system`: it reads, at execution, the jobs and batches that the statement asks for, and no
//! others.

use std::sync::Arc;

use async_trait::async_trait;
use datafusion::arrow::array::RecordBatch;
use datafusion::arrow::datatypes::SchemaRef;
use datafusion::catalog::{Session as CatalogSession, TableProvider};
use datafusion::datasource::TableType;
use datafusion::datasource::memory::MemorySourceConfig;
use datafusion::error::Result as DataFusionResult;
use datafusion::logical_expr::{Expr, TableProviderFilterPushDown};
use datafusion::physical_plan::ExecutionPlan;
use futures::future::BoxFuture;

use crate::error::Result;
use crate::session::system::scan_filter::ScanFilter;
use crate::session::system::{rows, run_rows};

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
        // The scan leaves out whole jobs and batches only: the filter also stays above it.
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
        _: Option<usize>,
    ) -> DataFusionResult<Arc<dyn ExecutionPlan>> {
        let wanted = ScanFilter::by(filters);
        let rows: BoxFuture<'_, _> = match is_of_runs(self.name) {
            true => Box::pin(run_rows::rows_of(&self.data_dir, self.name, &wanted)),
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
