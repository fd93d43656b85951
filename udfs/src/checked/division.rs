//! Quotients and products of decimals with the requested number of digits after the point, the last of which is rounded.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, Datum, Decimal128Array};
use arrow::compute::kernels::numeric;
use arrow::compute::try_binary;
use arrow::datatypes::{ArrowNativeTypeOp, Decimal128Type, i256};
use arrow::error::ArrowError;

/// Divides decimals; the quotient has `scale` digits after the point, the last of which is rounded half away from zero.
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
    // The dividend is shifted so that the quotient of the two integers is that of the decimals, with the requested digits.
    let shift = i32::from(scale) - scale_of(left) + scale_of(right);
    let shift = u32::try_from(shift).map_err(|_| {
        ArrowError::InvalidArgumentError(format!("a quotient with {scale} digits is too coarse"))
    })?;
    let small = 10_i128.checked_pow(shift);
    let large = i256::from_i128(10).pow_checked(shift)?;
    let values = by_rows(left, right, |dividend, divisor| {
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
    })?;
    Ok(Arc::new(values.with_precision_and_scale(precision, scale)?))
}

/// Multiplies decimals; the product has `scale` digits after the point. It is exact if both factors together have as many, and
/// rounded half away from zero if they have more.
///
/// # Errors
///
/// A product with more digits than a decimal has.
pub(super) fn multiply_decimals(
    left: &dyn Datum,
    right: &dyn Datum,
    precision: u8,
    scale: i8,
) -> Result<ArrayRef, ArrowError> {
    let shift = scale_of(left) + scale_of(right) - i32::from(scale);
    let shift = match u32::try_from(shift) {
        Ok(0) => return numeric::mul(left, right),
        Ok(shift) => shift,
        Err(_) => {
            return Err(ArrowError::InvalidArgumentError(format!(
                "a product has no {scale} digits"
            )));
        }
    };
    let small = 10_i128.checked_pow(shift);
    let large = i256::from_i128(10).pow_checked(shift)?;
    let values = by_rows(left, right, |left, right| {
        if let (Some(product), Some(divisor)) = (left.checked_mul(right), small) {
            return Ok(rounded(product, divisor));
        }
        let product = i256::from_i128(left).mul_checked(i256::from_i128(right))?;
        rounded_wide(product, large)
    })?;
    Ok(Arc::new(values.with_precision_and_scale(precision, scale)?))
}

fn scale_of(values: &dyn Datum) -> i32 {
    i32::from(values.get().0.as_primitive::<Decimal128Type>().scale())
}

/// Applies `one` to each row of decimals.
fn by_rows(
    left: &dyn Datum,
    right: &dyn Datum,
    one: impl Fn(i128, i128) -> Result<i128, ArrowError>,
) -> Result<Decimal128Array, ArrowError> {
    let ((left, left_is_scalar), (right, right_is_scalar)) = (left.get(), right.get());
    let (left, right) = (
        left.as_primitive::<Decimal128Type>(),
        right.as_primitive::<Decimal128Type>(),
    );
    match (left_is_scalar, right_is_scalar) {
        (false, true) if right.null_count() > 0 => Ok(Decimal128Array::new_null(left.len())),
        (false, true) => {
            let right = right.value(0);
            left.try_unary(|left| one(left, right))
        }
        (true, false) if left.null_count() > 0 => Ok(Decimal128Array::new_null(right.len())),
        (true, false) => {
            let left = left.value(0);
            right.try_unary(|right| one(left, right))
        }
        _ => try_binary(left, right, one),
    }
}

/// The quotient, rounded half away from zero.
pub(super) fn rounded(dividend: i128, divisor: i128) -> i128 {
    // Only the least number divided by -1 is out of range. That quotient has more than 38 digits: the check of digits refuses
    // it.
    let quotient = dividend.wrapping_div(divisor);
    let rest = dividend.wrapping_rem(divisor).unsigned_abs();
    let is_half = rest != 0 && rest >= divisor.unsigned_abs() - rest;
    match (is_half, (dividend < 0) == (divisor < 0)) {
        (true, true) => quotient + 1,
        (true, false) => quotient - 1,
        (false, _) => quotient,
    }
}

/// The same for larger numbers.
pub(super) fn rounded_wide(dividend: i256, divisor: i256) -> Result<i128, ArrowError> {
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
    use arrow::datatypes::DataType;
    use datafusion::logical_expr::Operator;

    use super::super::decimals::result;
    use super::*;

    type Decimal = (i128, u8, i8);

    fn computed(op: Operator, left: Decimal, right: Decimal) -> Result<String, ArrowError> {
        let array = |(value, precision, scale)| {
            Decimal128Array::from(vec![value])
                .with_precision_and_scale(precision, scale)
                .unwrap()
        };
        let digits = [(left.1, left.2), (right.1, right.2)];
        let DataType::Decimal128(precision, scale) = result(op, digits) else {
            unreachable!()
        };
        let (left, right) = (array(left), array(right));
        let values = match op {
            Operator::Multiply => multiply_decimals(&left, &right, precision, scale)?,
            _ => divide_decimals(&left, &right, precision, scale)?,
        };
        Ok(values.as_primitive::<Decimal128Type>().value_as_string(0))
    }

    fn divided(left: Decimal, right: Decimal) -> Result<String, ArrowError> {
        computed(Operator::Divide, left, right)
    }

    fn multiplied(left: Decimal, right: Decimal) -> Result<String, ArrowError> {
        computed(Operator::Multiply, left, right)
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
        // The shifted dividend does not fit 128 bits.
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

    #[test]
    fn products_are_rounded_if_they_do_not_fit() {
        assert_eq!(multiplied((150, 3, 2), (-3, 1, 0)).unwrap(), "-4.50");
        // 1.0000000000000003 squared is 1.00000000000000060000000000000009.
        let above = 10_i128.pow(16) + 3;
        assert_eq!(
            multiplied((above, 37, 16), (above, 37, 16)).unwrap(),
            "1.0000000000000006"
        );
        // 0.00000001 by 0.000000005 is half of the last digit.
        let half = 50_000_000;
        assert_eq!(
            multiplied((10_i128.pow(8), 37, 16), (half, 37, 16)).unwrap(),
            "0.0000000000000001"
        );
        assert_eq!(
            multiplied((-10_i128.pow(8), 37, 16), (half, 37, 16)).unwrap(),
            "-0.0000000000000001"
        );
        assert_eq!(
            multiplied((10_i128.pow(8), 37, 16), (half - 1, 37, 16)).unwrap(),
            "0.0000000000000000"
        );
        // The product does not fit 128 bits before it is rounded.
        let third = 33_333_333_333_333_333_333_333_333;
        assert_eq!(
            multiplied((third, 37, 16), (20_000_000_000_000_001, 37, 16)).unwrap(),
            "6666666666.6666669999999999"
        );
        let nines = 10_i128.pow(38) - 1;
        assert!(multiplied((nines, 38, 0), (nines, 38, 38)).is_err());
        assert!(multiplied((nines, 38, 16), (nines, 38, 16)).is_err());
    }
}
