//! The files that a batch of a job reads of a table, as DataFusion reads them.

use std::fmt;
use std::sync::Arc;

use async_trait::async_trait;
use datafusion::arrow::datatypes::SchemaRef;
use datafusion::catalog::{Session, TableProvider};
use datafusion::common::internal_err;
use datafusion::common::tree_node::TreeNodeRecursion;
use datafusion::datasource::TableType;
use datafusion::error::Result;
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::logical_expr::Expr;
use datafusion::physical_plan::empty::EmptyExec;
use datafusion::physical_plan::metrics::{
    BaselineMetrics, ExecutionPlanMetricsSet, MetricsSet, RecordOutput as _,
};
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use datafusion::physical_plan::union::UnionExec;
use datafusion::physical_plan::{
    DisplayAs, DisplayFormatType, ExecutionPlan, PhysicalExpr, PlanProperties,
};
use deltalake::delta_datafusion::FileSelection;
use deltalake::kernel::Add;
use futures::StreamExt as _;

use super::provider::register_store;
use super::rules::scan_of;
use super::stream::{FileGroup, FileRange};
use crate::error::Error;

/// The rows of a batch's files: no predicate narrows them.
#[derive(Debug)]
pub struct DeltaStreamProvider {
    range: FileRange,
    schema: SchemaRef,
}

impl DeltaStreamProvider {
    /// Over the files of a batch.
    ///
    /// # Errors
    ///
    /// A table that cannot be read.
    pub fn try_new(range: FileRange) -> crate::error::Result<Self> {
        let scan = scan_of(&range.newest).map_err(|error| Error::internal(error.to_string()))?;
        let schema = scan.schema();
        Ok(Self { range, schema })
    }

    async fn scan_group(
        &self,
        group: &FileGroup,
        session: &dyn Session,
        schema: &SchemaRef,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        register_store(&group.table, session)?;
        let adds = group.paths.iter().map(|path| Add {
            path: path.clone(),
            ..Add::default()
        });
        let scan = scan_of(&group.table)?.with_file_selection(FileSelection::from_adds(adds));
        let of_group = scan.schema();
        let columns = schema.fields().iter().map(|field| {
            let found = of_group.column_with_name(field.name());
            let found = found.filter(|(_, found)| found.data_type() == field.data_type());
            let Some((index, _)) = found else {
                return Err(Error::data(format!(
                    "column {} is not in the files of version {} of a table that is read as a stream, or has another type there",
                    field.name(),
                    group.table.version().unwrap_or_default()
                ))
                .with_help("the table's columns were changed since: select those that all versions have")
                .into());
            };
            Ok(index)
        });
        let columns = columns.collect::<Result<Vec<usize>>>()?;
        scan.scan(session, Some(&columns), &[], None).await
    }
}

#[async_trait]
impl TableProvider for DeltaStreamProvider {
    fn schema(&self) -> SchemaRef {
        Arc::clone(&self.schema)
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
        let schema = match projection {
            Some(columns) => Arc::new(self.schema.project(columns)?),
            None => Arc::clone(&self.schema),
        };
        let mut scans = Vec::with_capacity(self.range.groups.len());
        for group in &self.range.groups {
            scans.push(self.scan_group(group, session, &schema).await?);
        }
        let input = match scans.len() {
            0 => return Ok(Arc::new(EmptyExec::new(schema))),
            1 => scans.remove(0),
            _ => UnionExec::try_new(scans)?,
        };
        Ok(Arc::new(DeltaStreamExec {
            input,
            bytes: self.range.bytes,
            metrics: ExecutionPlanMetricsSet::new(),
        }))
    }
}

/// Gives the rows of a batch's files and counts them.
#[derive(Debug)]
pub struct DeltaStreamExec {
    input: Arc<dyn ExecutionPlan>,
    bytes: u64,
    metrics: ExecutionPlanMetricsSet,
}

impl DeltaStreamExec {
    /// How many rows it has read so far.
    pub fn rows_read(&self) -> u64 {
        let rows = self.metrics.clone_inner().output_rows();
        rows.map_or(0, |rows| rows as u64)
    }

    /// Bytes of the files.
    pub fn bytes_read(&self) -> u64 {
        self.bytes
    }
}

impl DisplayAs for DeltaStreamExec {
    fn fmt_as(&self, _: DisplayFormatType, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "DeltaStreamExec")
    }
}

impl ExecutionPlan for DeltaStreamExec {
    fn name(&self) -> &'static str {
        "DeltaStreamExec"
    }

    fn properties(&self) -> &Arc<PlanProperties> {
        self.input.properties()
    }

    fn children(&self) -> Vec<&Arc<dyn ExecutionPlan>> {
        vec![&self.input]
    }

    fn maintains_input_order(&self) -> Vec<bool> {
        vec![true]
    }

    fn apply_expressions(
        &self,
        _: &mut dyn FnMut(&Arc<dyn PhysicalExpr>) -> Result<TreeNodeRecursion>,
    ) -> Result<TreeNodeRecursion> {
        Ok(TreeNodeRecursion::Continue)
    }

    fn with_new_children(
        self: Arc<Self>,
        mut children: Vec<Arc<dyn ExecutionPlan>>,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        let (Some(input), true) = (children.pop(), children.is_empty()) else {
            return internal_err!("DeltaStreamExec takes one child");
        };
        Ok(Arc::new(Self {
            input,
            bytes: self.bytes,
            metrics: ExecutionPlanMetricsSet::new(),
        }))
    }

    fn execute(
        &self,
        partition: usize,
        context: Arc<TaskContext>,
    ) -> Result<SendableRecordBatchStream> {
        let baseline = BaselineMetrics::new(&self.metrics, partition);
        let rows = self.input.execute(partition, context)?;
        let counted = rows.map(move |batch| batch.record_output(&baseline));
        let schema = self.schema();
        Ok(Box::pin(RecordBatchStreamAdapter::new(schema, counted)))
    }

    fn metrics(&self) -> Option<MetricsSet> {
        Some(self.metrics.clone_inner())
    }
}
