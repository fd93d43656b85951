//! Result types of products and quotients of decimals.
//!
//! They are planned as calls whose type is derived from those of their operands at each request: rules after the planner may
//! still change an operand to another decimal or to DOUBLE.

use arrow::datatypes::DataType;
use datafusion::common::{DFSchema, Result};
use datafusion::logical_expr::Operator;
use datafusion::logical_expr::planner::{ExprPlanner, PlannerResult, RawBinaryExpr};
use datafusion::sql::sqlparser::ast::BinaryOperator;

use super::operator::CheckedOperator;
use super::rewrite::type_of;

/// The most digits of a decimal.
const MOST_DIGITS: i32 = 38;

/// Digits after the point that a quotient has if they fit, as in PostgreSQL, and that a product keeps.
const DIGITS_BEHIND_THE_POINT: i32 = 16;

/// Digits before the point that suffice where types allow for more than values need: those of a BIGINT, and some more.
const DIGITS_BEFORE_THE_POINT: i32 = MOST_DIGITS - DIGITS_BEHIND_THE_POINT;

/// Digits after the point that a quotient has in addition to those of its dividend, if that has fewer than [`ENOUGH_DIGITS`].
const MORE_THAN_THE_DIVIDEND: i32 = 4;

/// Digits after the point that every quotient has.
const LEAST_OF_A_QUOTIENT: i32 = 6;

/// From this many digits after the point on, a quotient gets no more than its dividend has, unless they fit.
const ENOUGH_DIGITS: i32 = 20;

/// Plans `*` and `/` where one side is a decimal and the other a decimal or an integer.
#[derive(Debug)]
pub struct DecimalOperators;

impl ExprPlanner for DecimalOperators {
    fn plan_binary_op(
        &self,
        expr: RawBinaryExpr,
        schema: &DFSchema,
    ) -> Result<PlannerResult<RawBinaryExpr>> {
        let op = match expr.op {
            BinaryOperator::Multiply => Operator::Multiply,
            BinaryOperator::Divide => Operator::Divide,
            _ => return Ok(PlannerResult::Original(expr)),
        };
        // An operand without a type yet, such as a parameter, is left to the other planners.
        let (Ok(left), Ok(right)) = (type_of(&expr.left, schema), type_of(&expr.right, schema))
        else {
            return Ok(PlannerResult::Original(expr));
        };
        if operands(op, &left, &right).is_none() {
            return Ok(PlannerResult::Original(expr));
        }
        let call = CheckedOperator::planned(expr.left, op, expr.right);
        Ok(PlannerResult::Planned(call))
    }
}

/// Precision and scale of two decimals that are multiplied or divided, one of which may be an integer; `None` for other types.
pub(super) fn operands(op: Operator, left: &DataType, right: &DataType) -> Option<[(u8, i8); 2]> {
    let is_decimal = |of: &DataType| matches!(of, DataType::Decimal128(..));
    if !matches!(op, Operator::Multiply | Operator::Divide)
        || !(is_decimal(left) || is_decimal(right))
    {
        return None;
    }
    Some([digits(left)?, digits(right)?])
}

/// Precision and scale of a decimal, or of the decimal for an integer.
pub(super) fn digits(of: &DataType) -> Option<(u8, i8)> {
    match of {
        DataType::Decimal128(precision, scale) => Some((*precision, *scale)),
        DataType::Int8 | DataType::UInt8 => Some((3, 0)),
        DataType::Int16 | DataType::UInt16 => Some((5, 0)),
        DataType::Int32 | DataType::UInt32 => Some((10, 0)),
        DataType::Int64 | DataType::UInt64 => Some((20, 0)),
        _ => None,
    }
}

/// The type of a product or a quotient of two decimals.
pub(super) fn result(op: Operator, [left, right]: [(u8, i8); 2]) -> DataType {
    match op {
        Operator::Multiply => product(left, right),
        _ => quotient(left, right),
    }
}

/// Exact if all possible digits fit; otherwise without the last digits after the point, but with at least as many as each
/// factor has.
fn product((p1, s1): (u8, i8), (p2, s2): (u8, i8)) -> DataType {
    let (s1, s2) = (i32::from(s1), i32::from(s2));
    let exact = s1 + s2;
    let before = i32::from(p1) + i32::from(p2) + 1 - exact;
    let room = MOST_DIGITS - before.min(DIGITS_BEFORE_THE_POINT);
    let scale = exact.min(room.max(s1).max(s2));
    decimal(before + scale, scale)
}

fn quotient((p1, s1): (u8, i8), (_, s2): (u8, i8)) -> DataType {
    let (s1, s2) = (i32::from(s1), i32::from(s2));
    let of_dividend = i32::from(p1) - s1;
    // A very small divisor gives a very large quotient: few divisors are so small.
    let before = (of_dividend + s2).min(DIGITS_BEFORE_THE_POINT);
    let before = before.max(of_dividend).max(1);
    let more = (s1 + MORE_THAN_THE_DIVIDEND).max(LEAST_OF_A_QUOTIENT);
    let least = more.min(s1.max(ENOUGH_DIGITS));
    let wanted = more.max(DIGITS_BEHIND_THE_POINT);
    let scale = wanted.min(MOST_DIGITS - before).max(least);
    decimal(before + scale, scale)
}

fn decimal(precision: i32, scale: i32) -> DataType {
    let precision = precision.clamp(1, MOST_DIGITS);
    DataType::Decimal128(precision as u8, scale as i8)
}

#[cfg(test)]
mod tests {
    use super::*;

    const INT: (u8, i8) = (10, 0);
    const BIGINT: (u8, i8) = (20, 0);

    fn of(result: DataType) -> (u8, i8) {
        let DataType::Decimal128(precision, scale) = result else {
            panic!("{result} is no decimal");
        };
        (precision, scale)
    }

    #[test]
    fn products_are_exact_if_they_fit() {
        let product = |left, right| of(product(left, right));
        assert_eq!(product((3, 2), BIGINT), (24, 2));
        assert_eq!(product((18, 9), (19, 10)), (38, 19));
        // More digits than 38, but few of them after the point.
        assert_eq!(product((33, 2), BIGINT), (38, 2));
        assert_eq!(product((38, 18), BIGINT), (38, 18));
        assert_eq!(product((12, 2), (24, 14)), (37, 16));
        // Of 32 digits after the point the first 16 remain.
        assert_eq!(product((37, 16), (37, 16)), (38, 16));
        assert_eq!(product((38, 10), (38, 10)), (38, 16));
        assert_eq!(product((38, 16), (38, 10)), (38, 16));
        // As many as values need, if there are few before the point; at least as many as a factor has.
        assert_eq!(product((20, 19), (20, 19)), (38, 35));
        assert_eq!(product((38, 36), (38, 36)), (38, 36));
        assert_eq!(product((38, 20), (38, 1)), (38, 20));
    }

    #[test]
    fn quotients_have_sixteen_digits_if_they_fit() {
        let quotient = |left, right| of(quotient(left, right));
        assert_eq!(quotient((2, 1), BIGINT), (17, 16));
        assert_eq!(quotient(INT, (4, 1)), (27, 16));
        assert_eq!(quotient((38, 10), BIGINT), (38, 14));
        assert_eq!(quotient((38, 0), BIGINT), (38, 6));
        // Likewise if the divisor has many.
        assert_eq!(quotient(BIGINT, (38, 20)), (38, 16));
        assert_eq!(quotient(BIGINT, (38, 10)), (38, 16));
        assert_eq!(quotient(BIGINT, (38, 38)), (38, 16));
        // A quotient by one needs enough digits before the point.
        assert_eq!(quotient((38, 36), BIGINT), (38, 36));
        assert_eq!(quotient((32, 30), BIGINT), (36, 34));
    }
}
