//! Normalization of NaN: each NaN that a source returns is replaced by the only NaN that this program computes with.
//!
//! NumPy and others write NaN with a sign: Arrow sorts it below all numbers, and takes it for another value than NaN without a
//! sign. So [`NormalizeNan`] puts a projection on top of each source of rows with floating point, and all comparisons, groups, joins
//! and orders above see one form of NaN. It runs last: the projection then blocks no pushdown to a source. Predicates that a
//! source evaluates itself use [`NormalizedNan`] on its rows.

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
use datafusion::physical_plan::work_table::WorkTableExec;

use crate::session::catalog::view_barrier::BarrierExec;
use crate::tables::parquet::holds_floats;

/// Prefix of the names of the operators in a Delta scan, which depend on the operators below them.
const DELTA_SCAN: &str = "DeltaScan";

/// Puts a projection that normalizes NaN on each source with floating point. It runs after all pushdown rules.
#[derive(Debug)]
pub(crate) struct NormalizeNan;

impl PhysicalOptimizerRule for NormalizeNan {
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

/// Whether the operator is a source, and not a plan that the rule has already processed: that of a view, or of the repeated
/// query.
fn is_source(plan: &Arc<dyn ExecutionPlan>) -> bool {
    let is_leaf = plan.children().is_empty() || plan.name().starts_with(DELTA_SCAN);
    is_leaf && !plan.is::<BarrierExec>() && !plan.is::<WorkTableExec>()
}

/// Normalizes the rows of a source; `None` if they have no floating point.
fn with_one_nan(source: &Arc<dyn ExecutionPlan>) -> Result<Option<Arc<dyn ExecutionPlan>>> {
    let schema = source.schema();
    let mut fields = schema.fields().iter();
    if source.is::<EmptyExec>() || !fields.any(|field| holds_floats(field.data_type())) {
        return Ok(None);
    }
    let columns = schema.fields().iter().enumerate().map(|(place, field)| {
        let column: Arc<dyn PhysicalExpr> = Arc::new(Column::new(field.name(), place));
        let expr = match holds_floats(field.data_type()) {
            true => NormalizedNan::over(column),
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

/// A source's predicate, with normalized NaN in the columns and struct fields that it reads, also in nested values.
pub(crate) fn with_normalized_columns(
    condition: &Arc<dyn PhysicalExpr>,
    schema: &Schema,
) -> Result<Arc<dyn PhysicalExpr>> {
    let asked = Arc::clone(condition).transform_down(|part| {
        if part.is::<NormalizedNan>() {
            return Ok(Transformed::new(part, false, TreeNodeRecursion::Jump));
        }
        if !is_read(&part) {
            return Ok(Transformed::no(part));
        }
        // A column that the file does not have has no type there.
        let has_floats = part.data_type(schema).is_ok_and(|of| holds_floats(&of));
        let part = match has_floats {
            true => NormalizedNan::over(part),
            false => part,
        };
        Ok(Transformed::new(part, has_floats, TreeNodeRecursion::Jump))
    })?;
    Ok(asked.data)
}

/// Whether it is a column, or a field of one: in that case the other fields are not read.
fn is_read(part: &Arc<dyn PhysicalExpr>) -> bool {
    let call = part.downcast_ref::<ScalarFunctionExpr>();
    match call.filter(|call| call.fun().name() == "get_field") {
        Some(field) => field.args().first().is_some_and(is_read),
        None => part.is::<Column>(),
    }
}

/// Normalizes all NaN in its argument to one value.
#[derive(Debug, Eq)]
struct NormalizedNan {
    value: Arc<dyn PhysicalExpr>,
}

impl NormalizedNan {
    fn over(value: Arc<dyn PhysicalExpr>) -> Arc<dyn PhysicalExpr> {
        Arc::new(Self { value })
    }
}

// By hand, as in the engine: https://github.com/rust-lang/rust/issues/78808
impl PartialEq for NormalizedNan {
    fn eq(&self, other: &Self) -> bool {
        self.value.eq(&other.value)
    }
}

impl Hash for NormalizedNan {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.value.hash(state);
    }
}

impl fmt::Display for NormalizedNan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "one_nan({})", self.value)
    }
}

impl PhysicalExpr for NormalizedNan {
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

#[cfg(test)]
mod tests {
    use datafusion::arrow::array::{Array as _, AsArray as _, ListArray};
    use datafusion::arrow::datatypes::{Field, Float64Type};

    use super::*;

    #[test]
    fn lists_in_source_predicates_have_normalized_nan() {
        let negative = f64::from_bits(f64::NAN.to_bits() | (1 << 63));
        let lists = [Some(vec![Some(negative), Some(1.0)])];
        let lists = ListArray::from_iter_primitive::<Float64Type, _, _>(lists);
        let schema = Schema::new(vec![Field::new("l", lists.data_type().clone(), true)]);
        let column: Arc<dyn PhysicalExpr> = Arc::new(Column::new("l", 0));
        let asked = with_normalized_columns(&column, &schema).unwrap();
        let batch = RecordBatch::try_new(Arc::new(schema), vec![Arc::new(lists)]).unwrap();
        let found = asked.evaluate(&batch).unwrap().into_array(1).unwrap();
        let values = found.as_list::<i32>().value(0);
        let first = values.as_primitive::<Float64Type>().value(0);
        assert_eq!(first.to_bits(), f64::NAN.to_bits());
    }

    #[test]
    fn work_tables_of_recursive_queries_are_not_normalized() {
        let schema = Arc::new(Schema::new(vec![Field::new("d", DataType::Float64, true)]));
        let table = WorkTableExec::new("w".to_owned(), schema, None).unwrap();
        let plan: Arc<dyn ExecutionPlan> = Arc::new(table);
        let read = NormalizeNan.optimize(plan, &ConfigOptions::new()).unwrap();
        assert!(read.is::<WorkTableExec>());
    }
}
