//! `is_final()`: whether a row is the last result of its window.
//!
//! A query reads all rows, so its results are final. A job replaces the call by its own condition before it runs.

use std::sync::Arc;

use arrow::array::ArrayRef;
use arrow::datatypes::{DataType, Field, FieldRef};
use datafusion::common::{Result, ScalarValue};
use datafusion::logical_expr::function::{AccumulatorArgs, StateFieldsArgs};
use datafusion::logical_expr::planner::{ExprPlanner, PlannerResult, RawAggregateExpr};
use datafusion::logical_expr::utils::format_state_name;
use datafusion::logical_expr::{
    Accumulator, AggregateUDF, AggregateUDFImpl, Signature, Volatility, lit,
};

/// The name of the aggregate, for code that searches a plan for it.
pub const IS_FINAL: &str = "is_final";

/// `is_final()`, an aggregate without arguments: true in a query. Needs [`IsFinalPlanner`].
#[must_use]
pub fn is_final() -> AggregateUDF {
    AggregateUDF::from(IsFinal {
        signature: Signature::any(1, Volatility::Immutable),
    })
}

/// Adds to `is_final()` the argument that DataFusion requires of every aggregate.
#[derive(Debug, Default)]
pub struct IsFinalPlanner;

impl ExprPlanner for IsFinalPlanner {
    fn plan_aggregate(
        &self,
        mut expr: RawAggregateExpr,
    ) -> Result<PlannerResult<RawAggregateExpr>> {
        if expr.func.name() == IS_FINAL && expr.args.is_empty() {
            expr.args.push(lit(true));
        }
        Ok(PlannerResult::Original(expr))
    }
}

#[derive(Debug, PartialEq, Eq, Hash)]
struct IsFinal {
    signature: Signature,
}

impl AggregateUDFImpl for IsFinal {
    fn name(&self) -> &str {
        IS_FINAL
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, _: &[DataType]) -> Result<DataType> {
        Ok(DataType::Boolean)
    }

    fn accumulator(&self, _: AccumulatorArgs<'_>) -> Result<Box<dyn Accumulator>> {
        Ok(Box::new(AlwaysFinal))
    }

    fn state_fields(&self, args: StateFieldsArgs<'_>) -> Result<Vec<FieldRef>> {
        let name = format_state_name(args.name, IS_FINAL);
        Ok(vec![Arc::new(Field::new(name, DataType::Boolean, true))])
    }

    fn default_value(&self, _: &DataType) -> Result<ScalarValue> {
        Ok(ScalarValue::Boolean(Some(true)))
    }
}

#[derive(Debug)]
struct AlwaysFinal;

impl Accumulator for AlwaysFinal {
    fn update_batch(&mut self, _: &[ArrayRef]) -> Result<()> {
        Ok(())
    }

    fn merge_batch(&mut self, _: &[ArrayRef]) -> Result<()> {
        Ok(())
    }

    fn evaluate(&mut self) -> Result<ScalarValue> {
        Ok(ScalarValue::Boolean(Some(true)))
    }

    fn state(&mut self) -> Result<Vec<ScalarValue>> {
        Ok(vec![ScalarValue::Boolean(Some(true))])
    }

    fn size(&self) -> usize {
        size_of_val(self)
    }
}
