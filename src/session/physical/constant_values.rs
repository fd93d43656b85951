//! Memory bounds for values that are the same for all rows, as in `SELECT value, range(1, 1000000)`: the value is computed
//! once, and copied for each row where an operator needs an array of it. Before that, its size is counted times the rows
//! (SAFE-1).
//!
//! An operator also builds the arrays of many expressions one after the other, without a pause. Functions check the memory in
//! between; a CASE or a cast of large values does not: so it is wrapped in a function that does.

use std::sync::Arc;

use anabranch_udfs::only_argument;
use datafusion::arrow::datatypes::{DataType, FieldRef};
use datafusion::common::tree_node::{Transformed, TreeNode as _, TreeNodeRecursion};
use datafusion::common::{DFSchemaRef, internal_err};
use datafusion::error::Result;
use datafusion::logical_expr::expr::ScalarFunction;
use datafusion::logical_expr::sort_properties::{ExprProperties, SortProperties};
use datafusion::logical_expr::{
    ColumnarValue, Expr, ExprSchemable as _, LogicalPlan, ReturnFieldArgs, ScalarFunctionArgs,
    ScalarUDF, ScalarUDFImpl, Signature, Volatility,
};

use crate::session::limits::{array_bytes, memory_checks};

/// Smaller values are not counted, for any number of rows in a batch.
const SMALL: usize = 1 << 10;
/// Small values are counted if those of one operator together exceed this size.
const MUCH: usize = 16 << 10;
/// Values up to the size of a number are never counted.
const LEAST: usize = 8;

/// Finds expressions of one operator that are large for each row.
#[derive(Debug)]
pub(crate) struct ConstantValues {
    /// The schemas of the operator's inputs.
    inputs: Vec<DFSchemaRef>,
    /// Bytes of a value for all rows that are accepted without a check.
    small: usize,
}

impl ConstantValues {
    /// For the expressions of this operator.
    pub(crate) fn of(plan: &LogicalPlan) -> Result<Self> {
        let mut literals = 0_usize;
        plan.apply_expressions(|expr| {
            literals = literals.saturating_add(array_bytes::of_literals(expr)?);
            Ok(TreeNodeRecursion::Continue)
        })?;
        let inputs = plan.inputs().into_iter();
        Ok(Self {
            inputs: inputs.map(|input| Arc::clone(input.schema())).collect(),
            small: if literals > MUCH { LEAST } else { SMALL },
        })
    }

    /// Wraps the expression, if its result may be large, in a memory check. Use it where the operator builds an array of the
    /// expression.
    pub(crate) fn counted(&self, expr: Expr) -> Result<Transformed<Expr>> {
        self.counted_with(expr, 0)
    }

    /// The same for an expression that may return a large array; a single value for all rows stays one.
    pub(crate) fn counted_array(&self, expr: Expr) -> Expr {
        match self.makes_much(&expr) {
            true => spread(expr, 0),
            false => expr,
        }
    }

    /// The arguments of one call that builds arrays of them, wrapped likewise. Literals after the first argument are not
    /// wrapped, because functions read their value: they are counted with the first one.
    pub(crate) fn counted_arguments(&self, args: &mut [Expr]) -> Result<bool> {
        let Some((first, others)) = args.split_first_mut() else {
            return Ok(false);
        };
        let mut beside = 0_usize;
        let mut is_changed = false;
        for other in others {
            if matches!(other, Expr::Literal(..)) {
                let size = array_bytes::of_literal(other);
                beside = beside.saturating_add(if size > self.small { size } else { 0 });
                continue;
            }
            let counted = self.counted(std::mem::take(other))?;
            is_changed |= counted.transformed;
            *other = counted.data;
        }
        let counted = self.counted_with(std::mem::take(first), beside)?;
        *first = counted.data;
        Ok(is_changed || counted.transformed)
    }

    fn counted_with(&self, expr: Expr, beside: usize) -> Result<Transformed<Expr>> {
        match expr {
            Expr::Alias(mut alias) => {
                let of = self.counted_with(*alias.expr, beside)?;
                alias.expr = Box::new(of.data);
                Ok(Transformed::new(Expr::Alias(alias), of.transformed, of.tnr))
            }
            expr => Ok(
                match beside > 0 || may_be_large(&expr, self.small)? || self.makes_much(&expr) {
                    true => Transformed::yes(spread(expr, beside)),
                    false => Transformed::no(expr),
                },
            ),
        }
    }

    /// Whether an expression without checks of its own returns values of a type that may be large.
    fn makes_much(&self, expr: &Expr) -> bool {
        if !matches!(expr, Expr::Case(_) | Expr::Cast(_) | Expr::TryCast(_)) {
            return false;
        }
        let mut inputs = self.inputs.iter();
        let of = inputs.find_map(|input| expr.get_type(input.as_ref()).ok());
        of.is_some_and(|of| !array_bytes::is_narrow(&of))
    }
}

/// Wraps the expression in a size check, if it gives one value for all rows which may be large. Use it where an array is built
/// of the expression.
pub(crate) fn counted_for_each_row(expr: Expr) -> Result<Transformed<Expr>> {
    let rows = ConstantValues {
        inputs: Vec::new(),
        small: SMALL,
    };
    rows.counted(expr)
}

fn spread(expr: Expr, beside: usize) -> Expr {
    Expr::ScalarFunction(ScalarFunction::new_udf(
        Arc::new(ScalarUDF::new_from_impl(SizeCheckedValue::new(beside))),
        vec![expr],
    ))
}

/// Whether it gives one value for all rows, and that may be large.
fn may_be_large(expr: &Expr, small: usize) -> Result<bool> {
    if let Expr::Literal(value, _) = expr {
        return Ok(array_bytes::of_value(value) > small);
    }
    let is_counted = |call: &ScalarFunction| call.func.inner().is::<SizeCheckedValue>();
    if matches!(expr, Expr::ScalarFunction(call) if is_counted(call)) || expr.any_column_refs() {
        return Ok(false);
    }
    expr.exists(|part| {
        Ok(match part {
            Expr::Literal(value, _) => array_bytes::of_value(value) > small,
            Expr::ScalarSubquery(_) => true,
            // Constants that could not be evaluated during planning.
            Expr::ScalarFunction(call) => !call.args.is_empty(),
            _ => false,
        })
    })
}

/// Returns its argument under the same name, after a size check.
#[derive(Debug, PartialEq, Eq, Hash)]
struct SizeCheckedValue {
    signature: Signature,
    /// Bytes that are written for each row in addition.
    beside: usize,
}

impl SizeCheckedValue {
    fn new(beside: usize) -> Self {
        Self {
            signature: Signature::any(1, Volatility::Immutable),
            beside,
        }
    }
}

impl ScalarUDFImpl for SizeCheckedValue {
    fn name(&self) -> &str {
        "for_each_row"
    }

    fn schema_name(&self, args: &[Expr]) -> Result<String> {
        let of = only_argument(self.name(), args)?;
        Ok(of.schema_name().to_string())
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, types: &[DataType]) -> Result<DataType> {
        only_argument(self.name(), types).cloned()
    }

    fn return_field_from_args(&self, args: ReturnFieldArgs) -> Result<FieldRef> {
        only_argument(self.name(), args.arg_fields).cloned()
    }

    fn invoke_with_args(&self, mut args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let Some(value) = args.args.pop() else {
            return internal_err!("{} takes one value", self.name());
        };
        let (rows, budget) = (
            args.number_rows,
            memory_checks::budget(&args.config_options),
        );
        let beside = self.beside.saturating_mul(rows);
        memory_checks::check("a value for each row", beside, rows, budget)?;
        match &value {
            ColumnarValue::Scalar(of_all) => {
                memory_checks::check_spread("a value for each row", of_all, rows, budget)?;
            }
            ColumnarValue::Array(_) => memory_checks::go_on(beside)?,
        }
        Ok(value)
    }

    fn output_ordering(&self, inputs: &[ExprProperties]) -> Result<SortProperties> {
        let of = inputs.first().map(|input| input.sort_properties);
        Ok(of.unwrap_or(SortProperties::Unordered))
    }

    fn preserves_lex_ordering(&self, inputs: &[ExprProperties]) -> Result<bool> {
        Ok(inputs
            .first()
            .is_some_and(|input| input.preserves_lex_ordering))
    }

    fn strictly_order_preserving(&self, inputs: &[ExprProperties]) -> Result<bool> {
        Ok(inputs
            .first()
            .is_some_and(|input| input.strictly_order_preserving))
    }
}
