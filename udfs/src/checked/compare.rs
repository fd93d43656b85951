//! Comparisons of decimals for which no decimal of 38 digits can hold both sides.
//!
//! DataFusion casts both sides to one type, with the most digits before and after the point that either has. If those are more
//! than 38, it drops some before the point, and values that have them fail: `d > 0.00001` where `d` is a DECIMAL(38, 4).
//! [`WidenDecimalComparisons`] is an analyzer rule that compares such values with up to 76 digits.

use std::sync::Arc;

use arrow::datatypes::DataType;
use datafusion::common::tree_node::{Transformed, TreeNode};
use datafusion::common::{DFSchema, ExprSchema, Result};
use datafusion::config::ConfigOptions;
use datafusion::logical_expr::{Cast, Expr, ExprSchemable, LogicalPlan, Subquery};
use datafusion::optimizer::AnalyzerRule;

use crate::operands::{any_expr, cast_rows, has_part, inputs, map_named_expressions, of_one_type};

use super::decimals::digits;

/// The most digits of compared values.
const MOST_DIGITS: u8 = 76;

/// Casts compared decimals to a type that can hold both, before the engine makes their types equal.
#[derive(Debug)]
pub struct WidenDecimalComparisons;

impl AnalyzerRule for WidenDecimalComparisons {
    fn name(&self) -> &str {
        "room_to_compare"
    }

    fn analyze(&self, plan: LogicalPlan, _: &ConfigOptions) -> Result<LogicalPlan> {
        let changed = plan.transform_up_with_subqueries(|plan| {
            let mut is_changed = false;
            let plan = match plan {
                LogicalPlan::Join(mut join) => {
                    let (left, right) = (join.left.schema(), join.right.schema());
                    for (of_left, of_right) in &mut join.on {
                        let types = [of_left.get_type(left)?, of_right.get_type(right)?];
                        if let Some(wide) = wide(&types) {
                            widen(of_left, &wide);
                            widen(of_right, &wide);
                            is_changed = true;
                        }
                    }
                    LogicalPlan::Join(join)
                }
                other => other,
            };
            let has_comparisons = any_expr(&plan, |expr| has_part(expr, is_comparison));
            if !has_comparisons {
                return Ok(Transformed::new_transformed(plan, is_changed));
            }
            let schema = inputs(&plan)?;
            map_named_expressions(plan, |expr| {
                expr.transform_up(|expr| with_room(expr, &schema))
            })
        })?;
        Ok(changed.data)
    }
}

/// The same for one expression over these columns.
///
/// # Errors
///
/// The type of the expression cannot be derived.
pub(crate) fn with_room_to_compare(expr: Expr, schema: &DFSchema) -> Result<Expr> {
    Ok(expr.transform_up(|expr| with_room(expr, schema))?.data)
}

fn is_comparison(expr: &Expr) -> bool {
    match expr {
        Expr::BinaryExpr(binary) => binary.op.supports_propagation(),
        Expr::Between(_) | Expr::InList(_) | Expr::InSubquery(_) | Expr::SetComparison(_) => true,
        _ => false,
    }
}

/// One node of an expression.
fn with_room(mut expr: Expr, schema: &DFSchema) -> Result<Transformed<Expr>> {
    let is_changed = match &mut expr {
        Expr::InSubquery(of) => in_rows(&mut of.expr, &mut of.subquery, schema)?,
        Expr::SetComparison(of) => in_rows(&mut of.expr, &mut of.subquery, schema)?,
        compared if is_comparison(compared) => {
            let mut is_changed = false;
            for all in of_one_type(compared) {
                is_changed |= equal(all, schema)?;
            }
            is_changed
        }
        _ => false,
    };
    Ok(Transformed::new_transformed(expr, is_changed))
}

/// For `x IN (SELECT …)`: casts the rows of the query and the value, if needed; returns whether it did.
fn in_rows(expr: &mut Expr, subquery: &mut Subquery, schema: &DFSchema) -> Result<bool> {
    let rows = Arc::clone(&subquery.subquery);
    let [field] = rows.schema().fields().as_ref() else {
        return Ok(false);
    };
    let types = [expr.get_type(schema)?, field.data_type().clone()];
    let Some(wide) = wide(&types) else {
        return Ok(false);
    };
    widen(expr, &wide);
    cast_rows(subquery, |column| {
        widen(column, &wide);
        true
    })
}

/// Casts compared values to a type that can hold all of them, if needed; returns whether it did.
fn equal(all: Vec<&mut Expr>, schema: &dyn ExprSchema) -> Result<bool> {
    let types = all.iter().map(|expr| expr.get_type(schema));
    let types = types.collect::<Result<Vec<DataType>>>()?;
    let Some(wide) = wide(&types) else {
        return Ok(false);
    };
    for expr in all {
        widen(expr, &wide);
    }
    Ok(true)
}

/// The type that holds decimals and integers for which no DECIMAL of 38 digits suffices.
pub(crate) fn wide(types: &[DataType]) -> Option<DataType> {
    if !types
        .iter()
        .any(|of| matches!(of, DataType::Decimal128(..)))
    {
        return None;
    }
    let (mut before, mut behind) = (0, 0);
    for of in types.iter().filter(|of| !of.is_null()) {
        let (precision, scale) = digits(of)?;
        before = before.max(i32::from(precision) - i32::from(scale));
        behind = behind.max(scale);
    }
    let precision = before + i32::from(behind);
    (precision > 38).then(|| {
        let precision = precision.min(i32::from(MOST_DIGITS)) as u8;
        DataType::Decimal256(precision, behind)
    })
}

fn widen(expr: &mut Expr, wide: &DataType) {
    let narrow = Box::new(std::mem::take(expr));
    *expr = Expr::Cast(Cast::new(narrow, wide.clone()));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_comparisons_that_overflow_are_widened() {
        let decimal = DataType::Decimal128;
        assert_eq!(wide(&[decimal(38, 4), decimal(4, 4)]), None);
        assert_eq!(wide(&[decimal(38, 10), DataType::Int64]), None);
        assert_eq!(wide(&[DataType::Int64, DataType::Int32]), None);
        assert_eq!(wide(&[decimal(38, 4), DataType::Utf8]), None);
        assert_eq!(
            wide(&[decimal(38, 4), decimal(5, 5), DataType::Null]),
            Some(DataType::Decimal256(39, 5))
        );
        assert_eq!(
            wide(&[decimal(38, 38), decimal(38, 0)]),
            Some(DataType::Decimal256(76, 38))
        );
        assert_eq!(
            wide(&[decimal(38, 30), DataType::Int64]),
            Some(DataType::Decimal256(50, 30))
        );
    }
}
