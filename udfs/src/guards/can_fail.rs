//! Which expressions may fail for a value of a row: division, arithmetic that is checked, casts that do not fit all values, and
//! functions that refuse a value.

use std::sync::Arc;

use arrow::datatypes::{DataType, Schema};
use datafusion::common::tree_node::{TreeNode as _, TreeNodeRecursion};
use datafusion::common::{DFSchema, ScalarValue};
use datafusion::logical_expr::{BinaryExpr, Expr, Operator};
use datafusion::physical_expr::expressions::{
    self, CaseExpr, CastExpr, Column, InListExpr, IsNotNullExpr, IsNullExpr, LikeExpr, Literal,
    NegativeExpr, NotExpr, TryCastExpr,
};
use datafusion::physical_expr::{PhysicalExpr, ScalarFunctionExpr};

use super::first_not_null::FIRST_NOT_NULL;
use crate::checked::{ONE_ZERO, cast_differs, type_of};
use crate::operands::has_part;
use crate::times::{INTERVAL_LENGTH, is_point_in_time};
use crate::values::{JSON_BY_PATH, JSON_VALUES, PER_ROW, TYPED_KEY};

/// The checked operators that fail for a divisor of 0. Over DOUBLE they give infinity or NaN, as the other ones do.
const DIVIDING: [&str; 2] = ["divide", "remainder"];

/// Those that fail for nothing but a result out of range.
const GROWING: [&str; 4] = ["add", "subtract", "multiply", "negate"];

/// The checked casts whose failure is NULL have names that begin so.
const TRIED: &str = "try_cast_to_";

/// Functions that have a result for all values of their types, beside those of [`JSON_BY_PATH`]. Any other one may refuse a value.
const TOTAL: [&str; 39] = [
    // Functions that wrap a value.
    "as_typed",
    "for_each_row",
    INTERVAL_LENGTH,
    ONE_ZERO,
    PER_ROW,
    TYPED_KEY,
    // Functions that choose a value.
    "coalesce",
    FIRST_NOT_NULL,
    "get_field",
    "greatest",
    "least",
    "nullif",
    "nvl",
    "nvl2",
    // Texts.
    "ascii",
    "bit_length",
    "btrim",
    "character_length",
    "concat",
    "contains",
    "ends_with",
    "join_texts",
    "lower",
    "ltrim",
    "octet_length",
    "reverse",
    "rtrim",
    "starts_with",
    "strpos",
    "upper",
    // Times, by which files and offsets are left out.
    "date_bin",
    "date_part",
    "date_trunc",
    // Coordinates and headers of records.
    "header",
    "headers_list",
    "headers_map",
    "offsets_from",
    "offsets_in",
    // JSON.
    JSON_VALUES,
];

/// Whether an expression over these columns may fail for a row. A comparison of columns and values cannot. The types of operands must
/// be those that operators require.
///
/// Subqueries do not count: they are evaluated apart.
#[must_use]
pub fn can_fail(expr: &Expr, columns: &DFSchema) -> bool {
    fails_by(expr, columns, |_| true)
}

/// Whether it may fail by another reason than a number that becomes too large.
pub(super) fn can_fail_in_range(expr: &Expr, columns: &DFSchema) -> bool {
    fails_by(expr, columns, |part| match part {
        Expr::ScalarFunction(call) => !GROWING.contains(&call.name()),
        _ => true,
    })
}

fn fails_by(expr: &Expr, columns: &DFSchema, counts: impl Fn(&Expr) -> bool) -> bool {
    let mut fails = false;
    let walked = expr.apply(|part| {
        if !node_can_fail(part, Some(columns)) || !counts(part) {
            return Ok(TreeNodeRecursion::Continue);
        }
        // A constant is evaluated before there are rows; only one without a value stays.
        fails = !is_constant(part) || has_part(part, divides);
        Ok(match fails {
            true => TreeNodeRecursion::Stop,
            false => TreeNodeRecursion::Jump,
        })
    });
    fails || walked.is_err()
}

/// The parts of an expression that may fail by themselves: also if all of their own parts have values.
pub(super) fn failing_parts<'a>(expr: &'a Expr, columns: &DFSchema) -> Vec<&'a Expr> {
    let mut failing = vec![];
    // The closure returns no error.
    let _ = expr.apply(|part| {
        if node_can_fail(part, Some(columns)) {
            failing.push(part);
        }
        Ok(TreeNodeRecursion::Continue)
    });
    failing
}

/// Whether a part of the expression may fail, by its kind alone: false means that [`can_fail`] is false.
pub(super) fn may_fail(expr: &Expr) -> bool {
    has_part(expr, |part| node_can_fail(part, None))
}

/// Whether a part may fail by itself. Where the columns are not known, all types count as those of values that fail.
fn node_can_fail(part: &Expr, columns: Option<&DFSchema>) -> bool {
    let known_type = |expr: &Expr| type_of(expr, columns?).ok();
    match part {
        Expr::Cast(cast) => {
            let from = known_type(&cast.expr);
            from.is_none_or(|from| cast_can_fail(&from, cast.field.data_type()))
        }
        Expr::BinaryExpr(binary) => {
            operator_can_fail(binary.op, is_literal(&binary.right)) && !divides_safely(part)
        }
        Expr::SimilarTo(like) => !is_literal(&like.pattern),
        Expr::ScalarFunction(call) => {
            function_can_fail(call.name(), || known_type(part)) && !divides_safely(part)
        }
        Expr::HigherOrderFunction(_) => true,
        _ => false,
    }
}

fn divisor_of(part: &Expr) -> Option<&Expr> {
    match part {
        Expr::BinaryExpr(BinaryExpr {
            op: Operator::Divide | Operator::Modulo,
            right,
            ..
        }) => Some(right.as_ref()),
        Expr::ScalarFunction(call) if DIVIDING.contains(&call.name()) => call.args.last(),
        _ => None,
    }
}

fn divides(part: &Expr) -> bool {
    divisor_of(part).is_some() && !divides_safely(part)
}

/// Whether it divides by a constant for which each number has a result.
fn divides_safely(part: &Expr) -> bool {
    let Some(mut divisor) = divisor_of(part) else {
        return false;
    };
    while let Expr::Cast(cast) = divisor {
        divisor = cast.expr.as_ref();
    }
    matches!(divisor, Expr::Literal(value, _) if is_safe_divisor(value))
}

/// Whether each integer has a quotient: the smallest one has none by -1.
fn is_safe_divisor(value: &ScalarValue) -> bool {
    if !value.data_type().is_integer() {
        return false;
    }
    match value.cast_to(&DataType::Int64) {
        Ok(ScalarValue::Int64(Some(value))) => !matches!(value, 0 | -1),
        _ => false,
    }
}

fn is_literal(expr: &Expr) -> bool {
    matches!(expr, Expr::Literal(..))
}

/// Whether the expression has one value for all rows, known before the first one.
fn is_constant(expr: &Expr) -> bool {
    !has_part(expr, |part| match part {
        Expr::Column(_)
        | Expr::OuterReferenceColumn(..)
        | Expr::ScalarSubquery(_)
        | Expr::Exists(_)
        | Expr::InSubquery(_)
        | Expr::SetComparison(_)
        | Expr::LambdaVariable(_)
        | Expr::Placeholder(_)
        | Expr::AggregateFunction(_)
        | Expr::WindowFunction(_) => true,
        other => other.is_volatile_node(),
    })
}

/// Whether an operator may fail; a pattern that is no constant may be invalid. Other operators over numbers are functions, and a time
/// less a length of time is a time.
fn operator_can_fail(op: Operator, is_right_constant: bool) -> bool {
    match op {
        Operator::Divide | Operator::Modulo => true,
        Operator::RegexMatch
        | Operator::RegexIMatch
        | Operator::RegexNotMatch
        | Operator::RegexNotIMatch => !is_right_constant,
        _ => false,
    }
}

fn function_can_fail(name: &str, result: impl FnOnce() -> Option<DataType>) -> bool {
    if GROWING.contains(&name) || DIVIDING.contains(&name) {
        return !result().is_some_and(|of| of.is_floating());
    }
    // What a JSON text does not have is NULL.
    !TOTAL.contains(&name) && !JSON_BY_PATH.contains(&name) && !name.starts_with(TRIED)
}

/// Whether the engine's cast refuses some values.
fn cast_can_fail(from: &DataType, to: &DataType) -> bool {
    let is_number = |of: &DataType| of.is_numeric() || *of == DataType::Boolean;
    match (from, to) {
        (from, to) if from == to => false,
        (DataType::Null, _) => false,
        (DataType::Dictionary(_, from), to) => cast_can_fail(from, to),
        (from, DataType::Dictionary(_, to)) => cast_can_fail(from, to),
        (from, to) if to.is_string() => {
            !(from.is_string() || is_number(from) || *from == DataType::Date32)
        }
        (from, to) if is_number(from) && is_number(to) => cast_differs(from, to),
        (from, to) if is_point_in_time(from) && is_point_in_time(to) => cast_differs(from, to),
        _ => true,
    }
}

/// Whether a physical expression over these columns may fail for a row.
#[must_use]
pub fn expr_can_fail(expr: &Arc<dyn PhysicalExpr>, columns: &Schema) -> bool {
    let mut fails = false;
    let walked = expr.apply(|part| {
        fails = physical_node_can_fail(part, columns);
        Ok(match fails {
            true => TreeNodeRecursion::Stop,
            false => TreeNodeRecursion::Continue,
        })
    });
    fails || walked.is_err()
}

fn physical_node_can_fail(part: &Arc<dyn PhysicalExpr>, columns: &Schema) -> bool {
    let constant = |expr: &Arc<dyn PhysicalExpr>| {
        let literal = expr.downcast_ref::<Literal>();
        literal.map(|literal| literal.value().clone())
    };
    let is_safe =
        |expr: &Arc<dyn PhysicalExpr>| constant(expr).is_some_and(|value| is_safe_divisor(&value));
    if let Some(cast) = part.downcast_ref::<CastExpr>() {
        return match cast.expr().data_type(columns) {
            Ok(from) => cast_can_fail(&from, cast.cast_type()),
            Err(_) => true,
        };
    }
    if let Some(binary) = part.downcast_ref::<expressions::BinaryExpr>() {
        let is_division = matches!(binary.op(), Operator::Divide | Operator::Modulo);
        return operator_can_fail(*binary.op(), constant(binary.right()).is_some())
            && !(is_division && is_safe(binary.right()));
    }
    if let Some(call) = part.downcast_ref::<ScalarFunctionExpr>() {
        let name = call.fun().name();
        let is_division = DIVIDING.contains(&name);
        return function_can_fail(name, || Some(call.return_type().clone()))
            && !(is_division && call.args().last().is_some_and(is_safe));
    }
    // An operator of a kind that is not known may do anything.
    !(part.is::<Column>()
        || part.is::<Literal>()
        || part.is::<CaseExpr>()
        || part.is::<InListExpr>()
        || part.is::<IsNotNullExpr>()
        || part.is::<IsNullExpr>()
        || part.is::<LikeExpr>()
        || part.is::<NegativeExpr>()
        || part.is::<NotExpr>()
        || part.is::<TryCastExpr>())
}

#[cfg(test)]
mod tests {
    use arrow::datatypes::{Field, TimeUnit};
    use datafusion::functions::{datetime, string};
    use datafusion::logical_expr::execution_props::ExecutionProps;
    use datafusion::logical_expr::physical_planning_context::PhysicalPlanningContext;
    use datafusion::logical_expr::{binary_expr, cast, col, lit, try_cast, when};
    use datafusion::physical_expr::create_physical_expr;

    use super::*;
    use crate::checked::checked;

    fn columns() -> DFSchema {
        let time = DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into()));
        let columns = [
            ("a", DataType::Int64),
            ("b", DataType::Int64),
            ("f", DataType::Float64),
            ("s", DataType::Utf8),
            ("t", time),
        ];
        let columns = columns.map(|(name, of)| Field::new(name, of, true));
        DFSchema::try_from(Schema::new(columns.to_vec())).unwrap()
    }

    fn one() -> Expr {
        lit(1_i64)
    }

    #[track_caller]
    fn check(expr: &Expr, expected: bool) {
        let columns = columns();
        assert_eq!(can_fail(expr, &columns), expected, "{expr}");
        assert!(may_fail(expr) || !expected, "{expr}");
        let (props, context) = (ExecutionProps::new(), PhysicalPlanningContext::default());
        let physical = create_physical_expr(expr, &columns, &props, &context).unwrap();
        let can_fail = expr_can_fail(&physical, columns.as_arrow());
        assert_eq!(can_fail, expected, "{physical}");
    }

    #[test]
    fn comparisons_cannot_fail() {
        let day = cast(col("t"), DataType::Date32);
        for expr in [
            col("a").gt(one()).and(col("a").eq(col("b"))),
            col("s").like(lit("x%")).or(col("s").is_null()),
            col("a").between(one(), lit(5_i64)),
            col("a").in_list(vec![one(), lit(5_i64)], false),
            cast(col("a"), DataType::Float64).lt(col("f")),
            cast(col("a"), DataType::Utf8).eq(col("s")),
            day.clone().eq(day),
            try_cast(col("s"), DataType::Int64).eq(one()),
            string::lower().call(vec![col("s")]).eq(lit("x")),
            binary_expr(col("a"), Operator::Modulo, lit(2_i64)).eq(one()),
            checked(col("f") / lit(0.0), &columns()).unwrap(),
            checked(col("a") / lit(3_i64), &columns()).unwrap(),
            when(col("a").gt(one()), col("b")).otherwise(one()).unwrap(),
        ] {
            check(&expr, false);
        }
    }

    #[test]
    fn division_arithmetic_casts_and_calls_can_fail() {
        let quotient = || col("a") / col("b");
        for expr in [
            quotient(),
            quotient().gt(one()),
            one() / lit(0_i64),
            binary_expr(col("a"), Operator::Modulo, lit(0_i64)),
            checked(col("a") + one(), &columns()).unwrap(),
            checked(col("a") / lit(-1_i64), &columns()).unwrap(),
            cast(col("s"), DataType::Int64),
            cast(col("a"), DataType::Int32),
            datetime::to_date().call(vec![col("s")]),
            binary_expr(col("s"), Operator::RegexMatch, col("s")),
            when(col("b").not_eq(lit(0_i64)), quotient())
                .otherwise(one())
                .unwrap(),
        ] {
            check(&expr, true);
        }
    }

    #[test]
    fn constants_are_evaluated_before_there_are_rows() {
        let time = DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into()));
        let expr = col("t").gt_eq(cast(lit("2026-01-01"), time));
        assert!(!can_fail(&expr, &columns()));
        let expr = col("a").gt(checked(one() + one(), &columns()).unwrap());
        assert!(!can_fail(&expr, &columns()));
    }
}
