//! Size of an expression after the optimizer has expanded it.
//!
//! The optimizer rewrites `x BETWEEN a AND b` to two comparisons, `coalesce(x, y)` to a CASE that names `x` twice, and a CASE
//! of booleans to an OR with each condition in it several times. A cast of a JSON value expands to several ways of reading it.
//! Each of these doubles with each level of nesting, and no limit is checked meanwhile: so this module counts the size
//! beforehand.

use datafusion::arrow::datatypes::DataType;
use datafusion::common::tree_node::{TreeNode as _, TreeNodeRecursion};
use datafusion::common::{Column, ScalarValue};
use datafusion::logical_expr::expr::Case;
use datafusion::logical_expr::{Expr, Operator};

use anabranch_udfs::times_json_is_read;

/// The definition of a column that an expression uses.
#[derive(Debug, Clone, Copy)]
pub(crate) struct ColumnExpansion {
    /// Parts of the expression that defines it.
    pub(crate) parts: u64,
    /// Whether it is a JSON value.
    pub(crate) is_json: bool,
}

impl ColumnExpansion {
    /// Any column of a table.
    pub(crate) const PLAIN: Self = Self {
        parts: 1,
        is_json: false,
    };
}

/// Parts of an expression after expansion.
pub(crate) fn weight(expr: &Expr, of_column: &impl Fn(&Column) -> ColumnExpansion) -> u64 {
    if let Expr::Column(column) = expr {
        return of_column(column).parts;
    }
    let is_json = |column: &Column| of_column(column).is_json;
    let of_json = times_json_is_read(expr, &is_json);
    let mut sum = 1_u64;
    let mut place = 0;
    let counted = expr.apply_children(|child| {
        let once = weight(child, of_column);
        sum = sum.saturating_add(once.saturating_mul(of_json.saturating_mul(times(expr, place))));
        place += 1;
        Ok(TreeNodeRecursion::Continue)
    });
    match counted {
        Ok(_) => sum,
        Err(_) => u64::MAX,
    }
}

/// How many copies the expansion makes of the part at this position directly below an expression.
fn times(expr: &Expr, place: usize) -> u64 {
    match expr {
        Expr::Between(_) if place == 0 => 2,
        Expr::ScalarFunction(call)
            if matches!(call.name(), "coalesce" | "nvl") && place + 1 < call.args.len() =>
        {
            2
        }
        Expr::Case(case) => times_in_case(case, place),
        _ => 1,
    }
}

/// A condition is copied to its own branch, and to those of later conditions.
fn times_in_case(case: &Case, place: usize) -> u64 {
    let branches = case.when_then_expr.len();
    let is_condition = case.expr.is_none() && place.is_multiple_of(2) && place / 2 < branches;
    match is_condition && is_written_out(case) {
        true => (branches - place / 2 + 1) as u64,
        false => 1,
    }
}

/// Whether the optimizer rewrites it to AND and OR: a CASE of booleans with few branches, or of constants of which few are true
/// or few are false.
fn is_written_out(case: &Case) -> bool {
    let values = || case.when_then_expr.iter().map(|(_, then)| then.as_ref());
    let are_few = |wanted: bool| {
        values()
            .filter(|value| literal(value) == Some(wanted))
            .count()
            < 3
    };
    match case.when_then_expr.len() {
        0 => false,
        1 | 2 => values().all(may_be_boolean),
        _ => values().all(|value| literal(value).is_some()) && (are_few(true) || are_few(false)),
    }
}

fn literal(expr: &Expr) -> Option<bool> {
    match expr {
        Expr::Literal(ScalarValue::Boolean(value), _) => *value,
        _ => None,
    }
}

/// Whether an expression may be boolean, judged by its kind.
fn may_be_boolean(expr: &Expr) -> bool {
    match expr {
        Expr::Literal(value, _) => matches!(value, ScalarValue::Boolean(_) | ScalarValue::Null),
        Expr::Cast(cast) => *cast.field.data_type() == DataType::Boolean,
        Expr::BinaryExpr(of) => !of.op.is_numerical_operators() && of.op != Operator::StringConcat,
        Expr::Negative(_) => false,
        _ => true,
    }
}

#[cfg(test)]
mod tests {
    use datafusion::functions::expr_fn::{abs, coalesce};
    use datafusion::logical_expr::{col, lit, when};

    use super::*;

    fn nested(levels: usize, step: impl Fn(Expr) -> Expr) -> u64 {
        let expr = (0..levels).fold(col("a"), |inner, _| step(inner));
        weight(&expr, &|_| ColumnExpansion::PLAIN)
    }

    #[test]
    fn repeated_parts_are_counted_per_expansion() {
        let doubling: [fn(Expr) -> Expr; 4] = [
            |inner| inner.between(lit(1), lit(2)),
            |inner| coalesce(vec![inner, lit(1)]),
            |inner| when(inner, lit(true)).otherwise(lit(false)).unwrap(),
            |inner| when(inner, col("b")).end().unwrap(),
        ];
        for step in doubling {
            assert!(nested(20, step) > 1_000_000);
            assert_eq!(nested(200, step), u64::MAX);
        }
        let plain: [fn(Expr) -> Expr; 4] = [
            abs,
            |inner| coalesce(vec![lit(1), inner]),
            |inner| when(inner, lit(1)).otherwise(lit(2)).unwrap(),
            |inner| when(col("b"), inner).otherwise(lit(false)).unwrap(),
        ];
        for step in plain {
            assert!(nested(20, step) < 200);
        }
    }

    #[test]
    fn a_case_of_booleans_grows_with_the_square_of_its_branches() {
        let case = |branches: i64, is_true: fn(i64) -> bool| {
            let when_then_expr = (0..branches)
                .map(|n| (Box::new(col("a").eq(lit(n))), Box::new(lit(is_true(n)))))
                .collect();
            let case = Expr::Case(Case::new(None, when_then_expr, None));
            weight(&case, &|_| ColumnExpansion::PLAIN)
        };
        assert!(case(1_000, |_| true) > 1_000_000);
        assert!(case(1_000, |_| false) > 1_000_000);
        assert!(case(1_000, |n| n % 2 == 0) < 10_000);
    }
}
