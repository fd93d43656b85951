//! Divisions of decimals: with digits enough behind the point, and the last one rounded.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, Datum, Decimal128Array};
use arrow::compute::try_binary;
use arrow::datatypes::{ArrowNativeTypeOp, DataType, Decimal128Type, i256};
use arrow::error::ArrowError;
use datafusion::common::{DFSchema, Result};
use datafusion::logical_expr::planner::{ExprPlanner, PlannerResult, RawBinaryExpr};
use datafusion::logical_expr::{ExprSchemable, Operator};
use datafusion::logical_expr_common::type_coercion::binary::BinaryTypeCoercer;
use datafusion::sql::sqlparser::ast::BinaryOperator;

use super::operator::CheckedOperator;

/// The most digits of a decimal.
const MOST_DIGITS: u8 = 38;

/// Digits behind the point that a quotient has if there is room for them, as in PostgreSQL.
const DIGITS_BEHIND_THE_POINT: i8 = 16;

/// Digits behind the point that a quotient has more than its dividend in any case.
const MORE_THAN_THE_DIVIDEND: i8 = 4;

/// Plans `/` where one side is a decimal and the other a decimal or an integer.
#[derive(Debug)]
pub struct DecimalDivision;

impl ExprPlanner for DecimalDivision {
    fn plan_binary_op(
        &self,
        expr: RawBinaryExpr,
        schema: &DFSchema,
    ) -> Result<PlannerResult<RawBinaryExpr>> {
        if expr.op != BinaryOperator::Divide {
            return Ok(PlannerResult::Original(expr));
        }
        let types = (expr.left.get_type(schema), expr.right.get_type(schema));
        let (Ok(left), Ok(right)) = types else {
            return Ok(PlannerResult::Original(expr));
        };
        let is_decimal = |of: &DataType| matches!(of, DataType::Decimal128(..));
        let is_exact = |of: &DataType| is_decimal(of) || of.is_integer();
        if !is_exact(&left) || !is_exact(&right) || !(is_decimal(&left) || is_decimal(&right)) {
            return Ok(PlannerResult::Original(expr));
        }
        let coerced = BinaryTypeCoercer::new(&left, &Operator::Divide, &right).get_input_types()?;
        let (DataType::Decimal128(p1, s1), DataType::Decimal128(p2, s2)) = coerced else {
            return Ok(PlannerResult::Original(expr));
        };
        let result = quotient(p1, s1, p2, s2);
        Ok(PlannerResult::Planned(CheckedOperator::call(
            expr.left,
            Operator::Divide,
            expr.right,
            result,
        )))
    }
}

/// The type of DECIMAL(p1, s1) / DECIMAL(p2, s2).
fn quotient(p1: u8, s1: i8, _p2: u8, s2: i8) -> DataType {
    let most = MOST_DIGITS as i8;
    let before = (p1 as i8).saturating_sub(s1).saturating_add(s2).max(1);
    let least = s1.saturating_add(MORE_THAN_THE_DIVIDEND).min(most);
    let wanted = least.max(DIGITS_BEHIND_THE_POINT);
    let scale = wanted.min(most.saturating_sub(before)).max(least);
    let precision = before.saturating_add(scale).min(most);
    DataType::Decimal128(precision as u8, scale)
}

/// Divides decimals; the quotient has `scale` digits behind the point, the last of which is rounded half away from zero.
///
/// # Errors
///
/// A zero divisor, or a quotient with more digits than a decimal has.
pub(super) fn divide_decimals(
    left: &dyn Datum,
    right: &dyn Datum,
    precision: u8,
    scale: i8,
) -> Result<ArrayRef, ArrowError> {
    let ((left, left_is_scalar), (right, right_is_scalar)) = (left.get(), right.get());
    let (left, right) = (
        left.as_primitive::<Decimal128Type>(),
        right.as_primitive::<Decimal128Type>(),
    );
    // The dividend is shifted so that the quotient of the two integers is that of the decimals, with the digits wanted.
    let shift = i32::from(scale) - i32::from(left.scale()) + i32::from(right.scale());
    let shift = u32::try_from(shift).map_err(|_| {
        ArrowError::InvalidArgumentError(format!("a quotient with {scale} digits is too coarse"))
    })?;
    let small = 10_i128.checked_pow(shift);
    let large = i256::from_i128(10).pow_checked(shift)?;
    let one = |dividend: i128, divisor: i128| {
        if divisor == 0 {
            return Err(ArrowError::DivideByZero);
        }
        if let Some(dividend) = small.and_then(|factor| dividend.checked_mul(factor)) {
            return Ok(rounded(dividend, divisor));
        }
        rounded_wide(
            i256::from_i128(dividend).mul_checked(large)?,
            i256::from_i128(divisor),
        )
    };
    let values: Decimal128Array = match (left_is_scalar, right_is_scalar) {
        (false, true) if right.null_count() > 0 => Decimal128Array::new_null(left.len()),
        (false, true) => {
            let divisor = right.value(0);
            left.try_unary(|dividend| one(dividend, divisor))?
        }
        (true, false) if left.null_count() > 0 => Decimal128Array::new_null(right.len()),
        (true, false) => {
            let dividend = left.value(0);
            right.try_unary(|divisor| one(dividend, divisor))?
        }
        _ => try_binary(left, right, one)?,
    };
    Ok(Arc::new(values.with_precision_and_scale(precision, scale)?))
}

fn rounded(dividend: i128, divisor: i128) -> i128 {
    // The least number by -1 is the only quotient out of range, and it has more than 38 digits: left to the check of digits.
    let quotient = dividend.wrapping_div(divisor);
    let rest = dividend.wrapping_rem(divisor).unsigned_abs();
    let is_half = rest != 0 && rest >= divisor.unsigned_abs() - rest;
    match (is_half, (dividend < 0) == (divisor < 0)) {
        (true, true) => quotient + 1,
        (true, false) => quotient - 1,
        (false, _) => quotient,
    }
}

fn rounded_wide(dividend: i256, divisor: i256) -> Result<i128, ArrowError> {
    let quotient = dividend.div_checked(divisor)?;
    let rest = dividend.mod_checked(divisor)?;
    let twice = rest.mul_checked(i256::from_i128(2))?;
    let is_half = twice.wrapping_abs() >= divisor.wrapping_abs();
    let one = match (is_half, dividend.is_negative() == divisor.is_negative()) {
        (true, true) => i256::ONE,
        (true, false) => i256::MINUS_ONE,
        (false, _) => i256::ZERO,
    };
    let quotient = quotient.add_checked(one)?;
    quotient.to_i128().ok_or_else(|| {
        ArrowError::ArithmeticOverflow(format!("{dividend} / {divisor} has too many digits"))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn divided(left: (i128, u8, i8), right: (i128, u8, i8)) -> Result<String, ArrowError> {
        let array = |(value, precision, scale)| {
            Decimal128Array::from(vec![value])
                .with_precision_and_scale(precision, scale)
                .unwrap()
        };
        let DataType::Decimal128(precision, scale) = quotient(left.1, left.2, right.1, right.2)
        else {
            unreachable!()
        };
        let (left, right) = (array(left), array(right));
        let values = divide_decimals(&left, &right, precision, scale)?;
        Ok(values.as_primitive::<Decimal128Type>().value_as_string(0))
    }

    #[test]
    fn quotients_have_sixteen_digits_and_are_rounded() {
        assert_eq!(
            divided((10, 2, 1), (3, 1, 0)).unwrap(),
            "0.3333333333333333"
        );
        assert_eq!(
            divided((-20, 2, 1), (3, 1, 0)).unwrap(),
            "-0.6666666666666667"
        );
        assert_eq!(
            divided((1, 20, 0), (20, 2, 1)).unwrap(),
            "0.5000000000000000"
        );
        // The dividend has no place in 128 bits once it is shifted.
        let nines = 10_i128.pow(34) - 1;
        assert_eq!(
            divided((nines, 38, 10), (7_000, 4, 3)).unwrap(),
            "142857142857142857142857.14285714284286"
        );
        let nines = 10_i128.pow(38) - 1;
        assert!(divided((nines, 38, 10), (7, 1, 0)).is_err());
        assert!(divided((nines, 38, 0), (1, 38, 38)).is_err());
        assert!(matches!(
            divided((1, 1, 0), (0, 1, 0)),
            Err(ArrowError::DivideByZero)
        ));
    }
}
