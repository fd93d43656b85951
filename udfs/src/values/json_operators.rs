//! `->`, `->>`, `?`, `#>` and `#>>` as calls of the JSON functions, with the original text as their name.
//!
//! The planner of `datafusion-functions-json` aliases each link of a chain such as `j -> 'a' ->> 'b'`. The engine derives the
//! type below an alias twice: for a chain of twenty links a million times. Here only the whole chain has an alias.

use std::sync::Arc;

use datafusion::common::tree_node::{Transformed, TreeNode as _};
use datafusion::common::{DFSchema, Result, ScalarValue};
use datafusion::logical_expr::planner::{ExprPlanner, PlannerResult, RawBinaryExpr};
use datafusion::logical_expr::{Expr, ScalarUDF};
use datafusion::sql::sqlparser::ast::BinaryOperator;
use datafusion_functions_json::udfs::{json_as_text_udf, json_contains_udf, json_get_udf};

/// Plans the operators, before the planner of the functions does.
#[derive(Debug)]
pub(crate) struct JsonOperators;

impl ExprPlanner for JsonOperators {
    fn plan_binary_op(
        &self,
        expr: RawBinaryExpr,
        _: &DFSchema,
    ) -> Result<PlannerResult<RawBinaryExpr>> {
        let Some((sign, function)) = operator(&expr.op) else {
            return Ok(PlannerResult::Original(expr));
        };
        let name = format!("{} {sign} {}", typed(&expr.left), typed(&expr.right));
        let args = vec![without_names(expr.left)?, without_names(expr.right)?];
        Ok(PlannerResult::Planned(function.call(args).alias(name)))
    }
}

fn operator(op: &BinaryOperator) -> Option<(&'static str, Arc<ScalarUDF>)> {
    Some(match op {
        BinaryOperator::Arrow => ("->", json_get_udf()),
        BinaryOperator::LongArrow => ("->>", json_as_text_udf()),
        BinaryOperator::Question => ("?", json_contains_udf()),
        // With a path, given as a list.
        BinaryOperator::HashArrow => ("#>", json_get_udf()),
        BinaryOperator::HashLongArrow => ("#>>", json_as_text_udf()),
        _ => return None,
    })
}

/// The approximate original text of an operand.
fn typed(operand: &Expr) -> String {
    match operand {
        Expr::Column(column) => column.name.clone(),
        Expr::Alias(alias) => alias.name.clone(),
        Expr::Cast(cast) => typed(&cast.expr),
        Expr::Literal(
            ScalarValue::Utf8(Some(text))
            | ScalarValue::Utf8View(Some(text))
            | ScalarValue::LargeUtf8(Some(text)),
            _,
        ) => format!("'{text}'"),
        Expr::Literal(value, _) => value.to_string(),
        other => other.to_string(),
    }
}

/// The operand without the aliases that calls of these functions have in it.
fn without_names(operand: Expr) -> Result<Expr> {
    let unnamed = operand.transform_up(|part| {
        Ok(match part {
            Expr::Alias(alias) if alias.relation.is_none() && is_json(&alias.expr) => {
                Transformed::yes(*alias.expr)
            }
            other => Transformed::no(other),
        })
    })?;
    Ok(unnamed.data)
}

fn is_json(expr: &Expr) -> bool {
    match expr {
        Expr::ScalarFunction(call) => {
            matches!(call.name(), "json_get" | "json_as_text" | "json_contains")
        }
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use arrow::datatypes::DataType;
    use datafusion::common::tree_node::TreeNodeRecursion;
    use datafusion::logical_expr::{ExprSchemable as _, col, lit};

    use super::*;

    fn planned(left: Expr, op: BinaryOperator, right: Expr) -> Expr {
        let raw = RawBinaryExpr { op, left, right };
        match JsonOperators.plan_binary_op(raw, &DFSchema::empty()) {
            Ok(PlannerResult::Planned(expr)) => expr,
            other => panic!("{other:?}"),
        }
    }

    fn names(expr: &Expr) -> usize {
        let mut count = 0;
        expr.apply(|part| {
            count += usize::from(matches!(part, Expr::Alias(_)));
            Ok(TreeNodeRecursion::Continue)
        })
        .unwrap();
        count
    }

    #[test]
    fn a_chain_of_json_operators_has_one_name() {
        let mut chain = col("j");
        for key in ["a", "b", "c"] {
            chain = planned(chain, BinaryOperator::Arrow, lit(key));
        }
        let chain = planned(chain, BinaryOperator::LongArrow, lit(1_i64));
        assert_eq!(names(&chain), 1);
        let expected = "j -> 'a' -> 'b' -> 'c' ->> 1";
        assert_eq!(chain.schema_name().to_string(), expected);
    }

    /// With an alias for each link this would take years.
    #[test]
    fn the_type_of_a_long_chain_is_known() {
        let chain = (0..200).fold(lit("{}"), |chain, link| {
            let chain = match link % 5 {
                0 => Expr::Negative(Box::new(chain)),
                _ => chain,
            };
            planned(chain, BinaryOperator::LongArrow, lit("a"))
        });
        assert_eq!(names(&chain), 1);
        let (_, field) = chain.to_field(&DFSchema::empty()).unwrap();
        assert_eq!(field.data_type(), &DataType::Utf8);
    }
}
