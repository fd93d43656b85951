//! Derived ranges on event times, for predicates on values that are floored from them: `date_trunc`, `date_bin`, a cast to
//! DATE, and the window columns of TUMBLE, HOP and CUMULATE.
//!
//! File statistics hold a column's least and greatest value, not a function's. The rule adds the range that follows from the
//! predicate; the predicate stays.

mod floor;
mod rule;
mod windows;

pub use rule::EventTimeRanges;

use arrow::datatypes::DataType;
use datafusion::common::{Result, ScalarValue};
use datafusion::logical_expr::{BinaryExpr, Expr, Operator, lit};

/// A comparison with a constant, the constant on the right.
struct Comparison<'a> {
    expr: &'a Expr,
    op: Operator,
    value: &'a ScalarValue,
}

impl<'a> Comparison<'a> {
    /// `predicate` as comparisons that must all hold; empty for any other form.
    fn all_of(predicate: &'a Expr) -> Vec<Self> {
        match predicate {
            Expr::BinaryExpr(BinaryExpr { left, op, right }) => {
                match (left.as_ref(), right.as_ref()) {
                    (expr, Expr::Literal(value, _)) => vec![Self {
                        expr,
                        op: *op,
                        value,
                    }],
                    (Expr::Literal(value, _), expr) => op
                        .swap()
                        .map(|op| Self { expr, op, value })
                        .into_iter()
                        .collect(),
                    _ => vec![],
                }
            }
            Expr::Between(between) if !between.negated => {
                let bounds = [
                    (Operator::GtEq, &between.low),
                    (Operator::LtEq, &between.high),
                ];
                bounds
                    .into_iter()
                    .filter_map(|(op, bound)| match bound.as_ref() {
                        Expr::Literal(value, _) => Some(Self {
                            expr: &between.expr,
                            op,
                            value,
                        }),
                        _ => None,
                    })
                    .collect()
            }
            _ => vec![],
        }
    }
}

/// Derived bounds of an expression: `from` inclusive, `to` exclusive, in its type's ticks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
struct DerivedBounds {
    from: Option<i64>,
    to: Option<i64>,
}

impl DerivedBounds {
    /// The intersection of both.
    fn and(self, other: Self) -> Self {
        Self {
            from: self.from.max(other.from),
            to: match (self.to, other.to) {
                (Some(one), Some(two)) => Some(one.min(two)),
                (one, two) => one.or(two),
            },
        }
    }

    /// `from <= expr` and `expr < to`, for each bound that exists; `expr` is of `data_type`.
    fn predicates(self, expr: &Expr, data_type: &DataType) -> Result<Vec<Expr>> {
        let tick = |tick: i64| ScalarValue::Int64(Some(tick)).cast_to(data_type).map(lit);
        let mut predicates = vec![];
        if let Some(from) = self.from {
            predicates.push(expr.clone().gt_eq(tick(from)?));
        }
        if let Some(to) = self.to {
            predicates.push(expr.clone().lt(tick(to)?));
        }
        Ok(predicates)
    }
}

/// The ticks of `value` if it is a timestamp of type `data_type`.
fn tick_of(value: &ScalarValue, data_type: &DataType) -> Option<i64> {
    if value.data_type() != *data_type {
        return None;
    }
    match value.cast_to(&DataType::Int64) {
        Ok(ScalarValue::Int64(tick)) => tick,
        _ => None,
    }
}
