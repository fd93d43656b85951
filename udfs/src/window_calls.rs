//! Window calls that return more than the engine's functions: ranks and counts as BIGINT, so that they can be subtracted, and
//! `lag` and `lead` with a default from the row itself.

use arrow::datatypes::DataType;
use datafusion::common::{Result, ScalarValue};
use datafusion::logical_expr::expr::{
    AggregateFunction, Case, NullTreatment, WindowFunction, WindowFunctionParams,
};
use datafusion::logical_expr::planner::{
    ExprPlanner, PlannerResult, RawAggregateExpr, RawWindowExpr,
};
use datafusion::logical_expr::{Cast, Expr, lit};

use crate::diagnostic::not_supported;
use crate::operands::has_part;

/// Functions whose results are unsigned in the engine.
const WITHOUT_SIGN: [&str; 5] = [
    "approx_distinct",
    "dense_rank",
    "ntile",
    "rank",
    "row_number",
];

/// Arguments that must be the same in all rows, by function and position.
const CONSTANT: [(&str, usize, &str); 4] = [
    ("lag", 1, "how many rows it goes back"),
    ("lead", 1, "how many rows it goes on"),
    ("nth_value", 1, "the number of the row"),
    ("ntile", 0, "the number of parts"),
];

/// Plans such calls.
#[derive(Debug, Default)]
pub(crate) struct WindowCallPlanner;

impl ExprPlanner for WindowCallPlanner {
    fn plan_aggregate(&self, expr: RawAggregateExpr) -> Result<PlannerResult<RawAggregateExpr>> {
        if !WITHOUT_SIGN.contains(&expr.func.name()) {
            return Ok(PlannerResult::Original(expr));
        }
        let call = AggregateFunction::new_udf(
            expr.func,
            expr.args,
            expr.distinct,
            expr.filter,
            expr.order_by,
            expr.null_treatment,
        );
        let call = Expr::AggregateFunction(call);
        Ok(PlannerResult::Planned(as_bigint(call)))
    }

    fn plan_window(&self, expr: RawWindowExpr) -> Result<PlannerResult<RawWindowExpr>> {
        let name = expr.func_def.name();
        let constant = CONSTANT.iter().find(|(function, ..)| *function == name);
        if let Some((_, place, what)) = constant
            && expr.args.get(*place).is_some_and(is_of_row)
        {
            return Err(not_supported(
                format!("{name} takes a constant for {what}"),
                None,
                "write a number; or number the rows by row_number(), and join them by it",
            ));
        }
        if WITHOUT_SIGN.contains(&name) {
            return Ok(PlannerResult::Planned(as_bigint(call(expr))));
        }
        let has_default = matches!(name, "lag" | "lead")
            && expr.args.len() == 3
            && expr.args.last().is_some_and(|default| !is_plain(default));
        Ok(match has_default {
            true => PlannerResult::Planned(with_default(expr)),
            false => PlannerResult::Original(expr),
        })
    }
}

fn call(raw: RawWindowExpr) -> Expr {
    Expr::from(WindowFunction {
        fun: raw.func_def,
        params: WindowFunctionParams {
            args: raw.args,
            partition_by: raw.partition_by,
            order_by: raw.order_by,
            window_frame: raw.window_frame,
            filter: raw.filter,
            null_treatment: raw.null_treatment,
            distinct: raw.distinct,
        },
    })
}

fn as_bigint(call: Expr) -> Expr {
    Expr::Cast(Cast::new(Box::new(call), DataType::Int64))
}

/// Rewrites `lag(v, n, d)` to `CASE WHEN lag(true, n) IS NULL THEN d ELSE lag(v, n) END`: the first call is NULL if there is no
/// such row.
fn with_default(mut raw: RawWindowExpr) -> Expr {
    let Some(default) = raw.args.pop() else {
        return call(raw);
    };
    let mut found = raw.clone();
    // With IGNORE NULLS the value itself shows whether there is a row.
    let skips_nulls = raw.null_treatment == Some(NullTreatment::IgnoreNulls);
    if !skips_nulls && let Some(value) = found.args.first_mut() {
        *value = lit(true);
    }
    let is_missing = call(found).is_null();
    Expr::Case(Case {
        expr: None,
        when_then_expr: vec![(Box::new(is_missing), Box::new(default))],
        else_expr: Some(Box::new(call(raw))),
    })
}

/// Whether it may differ from row to row, or is known only at execution.
fn is_of_row(expr: &Expr) -> bool {
    has_part(expr, |part| {
        part.is_volatile_node()
            || matches!(
                part,
                Expr::Column(_) | Expr::OuterReferenceColumn(..) | Expr::ScalarSubquery(_)
            )
    })
}

/// Whether the engine's function accepts it as a default without loss: it casts the default to the type of the values.
fn is_plain(default: &Expr) -> bool {
    match default {
        Expr::Negative(inner) => is_plain(inner),
        Expr::Literal(ScalarValue::Decimal128(Some(value), _, scale), _) => {
            let digits = u32::try_from(*scale).unwrap_or(0);
            10_i128
                .checked_pow(digits)
                .is_some_and(|unit| value % unit == 0)
        }
        Expr::Literal(ScalarValue::Float64(Some(value)), _) => value.fract() == 0.0,
        Expr::Literal(..) | Expr::Placeholder(_) => true,
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn defaults_that_would_lose_digits_are_not_plain_literals() {
        let decimal =
            |value, scale| Expr::Literal(ScalarValue::Decimal128(Some(value), 10, scale), None);
        assert!(is_plain(&lit(7)) && is_plain(&lit("x")) && is_plain(&lit(2.0)));
        assert!(is_plain(&decimal(70, 1)) && !is_plain(&decimal(75, 1)));
        assert!(is_plain(&Expr::Negative(Box::new(lit(7)))) && !is_plain(&lit(1.5)));
        assert!(!is_plain(&datafusion::logical_expr::col("a")));
    }
}
