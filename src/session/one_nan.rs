//! NaN that is read is the one NaN that this program computes with.
//!
//! NumPy and others write NaN with a sign: Arrow orders it below all numbers, and takes it for another value than NaN without one. So
//! [`OneNan`] puts a projection on top of each source of rows with floating point, and what has one form there has it in
//! comparisons, groups, joins and orders above. It runs last: nothing that was pushed down to a source stops at it. Conditions that a
//! source itself asks of its rows ask them of [`WithOneNan`].

use std::fmt;
use std::hash::{Hash, Hasher};
use std::sync::Arc;

use anabranch_udfs::with_one_nan_within;
use datafusion::arrow::array::RecordBatch;
use datafusion::arrow::datatypes::{DataType, FieldRef, Schema};
use datafusion::common::tree_node::{Transformed, TreeNode as _, TreeNodeRecursion};
use datafusion::config::ConfigOptions;
use datafusion::error::Result;
use datafusion::logical_expr::ColumnarValue;
use datafusion::physical_expr::expressions::Column;
use datafusion::physical_expr::{PhysicalExpr, ScalarFunctionExpr};
use datafusion::physical_optimizer::PhysicalOptimizerRule;
use datafusion::physical_plan::ExecutionPlan;
use datafusion::physical_plan::empty::EmptyExec;
use datafusion::physical_plan::projection::{ProjectionExec, ProjectionExpr};

use crate::tables::parquet::holds_floats;

/// What the names of the operators of a Delta scan begin with, which know what is below them.
const DELTA_SCAN: &str = "DeltaScan";

/// Rows with floating point have one NaN from their source on. It runs after all rules that push something down.
#[derive(Debug)]
pub(super) struct OneNan;

impl PhysicalOptimizerRule for OneNan {
    fn optimize(
        &self,
        plan: Arc<dyn ExecutionPlan>,
        _: &ConfigOptions,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        let read = plan.transform_down(|plan| {
            if !is_source(&plan) {
                return Ok(Transformed::no(plan));
            }
            let (plan, is_changed) = match with_one_nan(&plan)? {
                Some(changed) => (changed, true),
                None => (plan, false),
            };
            Ok(Transformed::new(plan, is_changed, TreeNodeRecursion::Jump))
        })?;
        Ok(read.data)
    }

    fn name(&self) -> &'static str {
        "one_nan"
    }

    fn schema_check(&self) -> bool {
        true
    }
}

/// Whether rows come from there.
fn is_source(plan: &Arc<dyn ExecutionPlan>) -> bool {
    plan.children().is_empty() || plan.name().starts_with(DELTA_SCAN)
}

/// The rows of a source with one NaN; `None` if they have no floating point.
fn with_one_nan(source: &Arc<dyn ExecutionPlan>) -> Result<Option<Arc<dyn ExecutionPlan>>> {
    let schema = source.schema();
    let mut fields = schema.fields().iter();
    if source.is::<EmptyExec>() || !fields.any(|field| holds_floats(field.data_type())) {
        return Ok(None);
    }
    let columns = schema.fields().iter().enumerate().map(|(place, field)| {
        let column: Arc<dyn PhysicalExpr> = Arc::new(Column::new(field.name(), place));
        let expr = match holds_floats(field.data_type()) {
            true => WithOneNan::over(column),
            false => column,
        };
        ProjectionExpr {
            expr,
            alias: field.name().clone(),
        }
    });
    let columns: Vec<ProjectionExpr> = columns.collect();
    let read = ProjectionExec::try_new(columns, Arc::clone(source))?;
    Ok(Some(Arc::new(read)))
}

/// A condition of a source, with one NaN in the columns and fields of structs that it reads.
pub(super) fn asked_of_one_nan(
    condition: &Arc<dyn PhysicalExpr>,
    schema: &Schema,
) -> Result<Arc<dyn PhysicalExpr>> {
    let asked = Arc::clone(condition).transform_down(|part| {
        if part.is::<WithOneNan>() {
            return Ok(Transformed::new(part, false, TreeNodeRecursion::Jump));
        }
        let is_read = part.is::<Column>() || is_field(&part);
        // A column that is not of the file has no type there.
        let is_floating = || part.data_type(schema).is_ok_and(|of| of.is_floating());
        if !is_read || !is_floating() {
            return Ok(Transformed::no(part));
        }
        let part = WithOneNan::over(part);
        Ok(Transformed::new(part, true, TreeNodeRecursion::Jump))
    })?;
    Ok(asked.data)
}

fn is_field(part: &Arc<dyn PhysicalExpr>) -> bool {
    let call = part.downcast_ref::<ScalarFunctionExpr>();
    call.is_some_and(|call| call.fun().name() == "get_field")
}

/// A value whose NaN are all the same.
#[derive(Debug, Eq)]
struct WithOneNan {
    value: Arc<dyn PhysicalExpr>,
}

impl WithOneNan {
    fn over(value: Arc<dyn PhysicalExpr>) -> Arc<dyn PhysicalExpr> {
        Arc::new(Self { value })
    }
}

// By hand, as in the engine: https://github.com/rust-lang/rust/issues/78808
impl PartialEq for WithOneNan {
    fn eq(&self, other: &Self) -> bool {
        self.value.eq(&other.value)
    }
}

impl Hash for WithOneNan {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.value.hash(state);
    }
}

impl fmt::Display for WithOneNan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "one_nan({})", self.value)
    }
}

impl PhysicalExpr for WithOneNan {
    fn data_type(&self, schema: &Schema) -> Result<DataType> {
        self.value.data_type(schema)
    }

    fn nullable(&self, schema: &Schema) -> Result<bool> {
        self.value.nullable(schema)
    }

    fn return_field(&self, schema: &Schema) -> Result<FieldRef> {
        self.value.return_field(schema)
    }

    fn evaluate(&self, batch: &RecordBatch) -> Result<ColumnarValue> {
        let values = self.value.evaluate(batch)?;
        let values = values.into_array(batch.num_rows())?;
        Ok(ColumnarValue::Array(with_one_nan_within(values)?))
    }

    fn children(&self) -> Vec<&Arc<dyn PhysicalExpr>> {
        vec![&self.value]
    }

    fn with_new_children(
        self: Arc<Self>,
        children: Vec<Arc<dyn PhysicalExpr>>,
    ) -> Result<Arc<dyn PhysicalExpr>> {
        let value = children.into_iter().next();
        Ok(Self::over(value.unwrap_or_else(|| Arc::clone(&self.value))))
    }

    fn fmt_sql(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.value.fmt_sql(f)
    }
}
