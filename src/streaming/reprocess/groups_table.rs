//! The table of a chunk's final groups, while the part of the plan above the aggregate is planned: it stands for operators that are
//! planned already.

use std::fmt;
use std::sync::Arc;

use anabranch_udfs::has_no_children;
use async_trait::async_trait;
use datafusion::arrow::datatypes::SchemaRef;
use datafusion::catalog::{Session, TableProvider};
use datafusion::common::internal_err;
use datafusion::common::tree_node::{Transformed, TreeNode as _};
use datafusion::datasource::TableType;
use datafusion::error::Result as DataFusionResult;
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::logical_expr::Expr;
use datafusion::physical_expr::{EquivalenceProperties, Partitioning};
use datafusion::physical_plan::execution_plan::{Boundedness, EmissionType};
use datafusion::physical_plan::{DisplayAs, DisplayFormatType, ExecutionPlan, PlanProperties};

use crate::error::Result;

/// A table whose scan is a [`GroupsPlaceExec`].
#[derive(Debug)]
pub(super) struct GroupsTable {
    pub(super) schema: SchemaRef,
    /// How many partitions its rows come in.
    pub(super) partitions: usize,
}

#[async_trait]
impl TableProvider for GroupsTable {
    fn schema(&self) -> SchemaRef {
        Arc::clone(&self.schema)
    }

    fn table_type(&self) -> TableType {
        TableType::Temporary
    }

    async fn scan(
        &self,
        _: &dyn Session,
        projection: Option<&Vec<usize>>,
        _: &[Expr],
        _: Option<usize>,
    ) -> DataFusionResult<Arc<dyn ExecutionPlan>> {
        let columns = match projection {
            Some(columns) => columns.clone(),
            None => (0..self.schema.fields().len()).collect(),
        };
        let schema = Arc::new(self.schema.project(&columns)?);
        let properties = properties_of(&schema, self.partitions);
        Ok(Arc::new(GroupsPlaceExec {
            columns,
            properties,
        }))
    }
}

/// The properties of operators that give a chunk's final groups.
pub(super) fn properties_of(schema: &SchemaRef, partitions: usize) -> Arc<PlanProperties> {
    Arc::new(PlanProperties::new(
        EquivalenceProperties::new(Arc::clone(schema)),
        Partitioning::UnknownPartitioning(partitions),
        EmissionType::Incremental,
        Boundedness::Bounded,
    ))
}

/// Puts what `groups` gives for the columns of a scan into its place. A plan that needs no group has no such place.
pub(super) fn put_in_place(
    plan: Arc<dyn ExecutionPlan>,
    mut groups: impl FnMut(&[usize]) -> Result<Arc<dyn ExecutionPlan>>,
) -> Result<Arc<dyn ExecutionPlan>> {
    let plan = plan.transform_up(|plan| {
        Ok(match plan.downcast_ref::<GroupsPlaceExec>() {
            Some(place) => Transformed::yes(groups(&place.columns)?),
            None => Transformed::no(plan),
        })
    })?;
    Ok(plan.data)
}

/// The place of operators in a plan.
#[derive(Debug)]
struct GroupsPlaceExec {
    /// The columns of the table that are read.
    columns: Vec<usize>,
    properties: Arc<PlanProperties>,
}

impl DisplayAs for GroupsPlaceExec {
    fn fmt_as(&self, _: DisplayFormatType, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "GroupsPlaceExec")
    }
}

impl ExecutionPlan for GroupsPlaceExec {
    has_no_children!("GroupsPlaceExec");

    fn execute(
        &self,
        _: usize,
        _: Arc<TaskContext>,
    ) -> DataFusionResult<SendableRecordBatchStream> {
        internal_err!("the groups of a chunk were not put into their place")
    }
}
