//! Shifts of integers: a left shift is a product by a power of two, a right shift a quotient that is rounded down.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, Datum, PrimitiveArray};
use arrow::compute::try_binary;
use arrow::datatypes::{
    ArrowPrimitiveType, DataType, Int8Type, Int16Type, Int32Type, Int64Type, UInt8Type, UInt16Type,
    UInt32Type, UInt64Type,
};
use arrow::error::ArrowError;

/// Shifts `left` by `right` bits; both are of the same integer type.
///
/// # Errors
///
/// A result that does not fit the type; a negative number of bits.
pub(super) fn shift(
    left: &dyn Datum,
    right: &dyn Datum,
    is_left: bool,
) -> Result<ArrayRef, ArrowError> {
    match left.get().0.data_type() {
        DataType::Int8 => shifted::<Int8Type>(left, right, is_left),
        DataType::Int16 => shifted::<Int16Type>(left, right, is_left),
        DataType::Int32 => shifted::<Int32Type>(left, right, is_left),
        DataType::Int64 => shifted::<Int64Type>(left, right, is_left),
        DataType::UInt8 => shifted::<UInt8Type>(left, right, is_left),
        DataType::UInt16 => shifted::<UInt16Type>(left, right, is_left),
        DataType::UInt32 => shifted::<UInt32Type>(left, right, is_left),
        DataType::UInt64 => shifted::<UInt64Type>(left, right, is_left),
        other => Err(ArrowError::InvalidArgumentError(format!(
            "cannot shift values of type {other}"
        ))),
    }
}

fn shifted<T>(left: &dyn Datum, right: &dyn Datum, is_left: bool) -> Result<ArrayRef, ArrowError>
where
    T: ArrowPrimitiveType,
    T::Native: Into<i128> + TryFrom<i128>,
{
    let ((left, left_is_scalar), (right, right_is_scalar)) = (left.get(), right.get());
    let (left, right) = (left.as_primitive::<T>(), right.as_primitive::<T>());
    let one = |value: T::Native, bits: T::Native| {
        let (value, bits): (i128, i128) = (value.into(), bits.into());
        let result = match (is_left, u32::try_from(bits)) {
            (_, Err(_)) if bits < 0 => None,
            (true, Ok(bits @ 0..64)) => value.checked_mul(1 << bits),
            (true, _) => (value == 0).then_some(0),
            (false, Ok(bits @ 0..64)) => Some(value >> bits),
            (false, _) => Some(value >> 127),
        };
        let result = result.and_then(|result| T::Native::try_from(result).ok());
        let operator = if is_left { "<<" } else { ">>" };
        result.ok_or_else(|| ArrowError::ArithmeticOverflow(format!("{value} {operator} {bits}")))
    };
    let result: PrimitiveArray<T> = match (left_is_scalar, right_is_scalar) {
        (false, true) if right.null_count() > 0 => PrimitiveArray::new_null(left.len()),
        (false, true) => {
            let bits = right.value(0);
            left.try_unary(|value| one(value, bits))?
        }
        (true, false) if left.null_count() > 0 => PrimitiveArray::new_null(right.len()),
        (true, false) => {
            let value = left.value(0);
            right.try_unary(|bits| one(value, bits))?
        }
        _ => try_binary(left, right, one)?,
    };
    Ok(Arc::new(result))
}
