//! A table for tests that stands for a topic in a batch: its rows come from another table, and its scan is known for what it is to
//! report.

use std::fmt;
use std::sync::Arc;

use anabranch_udfs::{only_child, passes_rows_on};
use async_trait::async_trait;
use datafusion::arrow::datatypes::SchemaRef;
use datafusion::catalog::{Session, TableProvider};
use datafusion::datasource::TableType;
use datafusion::error::Result;
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::logical_expr::Expr;
use datafusion::physical_plan::{DisplayAs, DisplayFormatType, ExecutionPlan};

use crate::tables::side_output::ExpectedReport;

/// The rows of `rows`, whose scans report what is `expected`.
#[derive(Debug)]
pub(crate) struct TestTable {
    pub(crate) rows: Arc<dyn TableProvider>,
    pub(crate) expected: Vec<ExpectedReport>,
}

#[async_trait]
impl TableProvider for TestTable {
    fn schema(&self) -> SchemaRef {
        self.rows.schema()
    }

    fn table_type(&self) -> TableType {
        TableType::Base
    }

    async fn scan(
        &self,
        session: &dyn Session,
        projection: Option<&Vec<usize>>,
        _: &[Expr],
        _: Option<usize>,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        let input = self.rows.scan(session, projection, &[], None).await?;
        let expected = self.expected.clone();
        Ok(Arc::new(TestScanExec { input, expected }))
    }
}

/// Gives the rows of its input, which reports.
#[derive(Debug)]
pub(crate) struct TestScanExec {
    input: Arc<dyn ExecutionPlan>,
    expected: Vec<ExpectedReport>,
}

impl TestScanExec {
    /// What it reports when it has run.
    pub(crate) fn expected(&self) -> &[ExpectedReport] {
        &self.expected
    }
}

impl DisplayAs for TestScanExec {
    fn fmt_as(&self, _: DisplayFormatType, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "TestScanExec")
    }
}

impl ExecutionPlan for TestScanExec {
    passes_rows_on!("TestScanExec");

    fn with_new_children(
        self: Arc<Self>,
        children: Vec<Arc<dyn ExecutionPlan>>,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        let input = only_child("TestScanExec", children)?;
        let expected = self.expected.clone();
        Ok(Arc::new(Self { input, expected }))
    }

    fn execute(
        &self,
        partition: usize,
        context: Arc<TaskContext>,
    ) -> Result<SendableRecordBatchStream> {
        self.input.execute(partition, context)
    }
}
