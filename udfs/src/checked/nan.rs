//! NaN is one value, and above all numbers.
//!
//! Arrow orders NaN with a sign below all numbers, and tells apart NaN with different bits. Processors give results the sign:
//! infinity minus itself, zero by zero.

use std::sync::Arc;

use arrow::array::{ArrayRef, ArrowPrimitiveType, AsArray};
use arrow::datatypes::{DataType, Float16Type, Float32Type, Float64Type};

type Half = <Float16Type as ArrowPrimitiveType>::Native;

/// Numbers with a floating point whose NaN all have the same bits; other values as they are.
pub(super) fn with_one_nan(values: ArrayRef) -> ArrayRef {
    match values.data_type() {
        DataType::Float16 => {
            let is_other = |value: Half| value.is_nan() && value.to_bits() != Half::NAN.to_bits();
            replaced::<Float16Type>(values, is_other, Half::NAN)
        }
        DataType::Float32 => {
            let is_other = |value: f32| value.is_nan() && value.to_bits() != f32::NAN.to_bits();
            replaced::<Float32Type>(values, is_other, f32::NAN)
        }
        DataType::Float64 => {
            let is_other = |value: f64| value.is_nan() && value.to_bits() != f64::NAN.to_bits();
            replaced::<Float64Type>(values, is_other, f64::NAN)
        }
        _ => values,
    }
}

fn replaced<T: ArrowPrimitiveType>(
    values: ArrayRef,
    is_other: impl Fn(T::Native) -> bool,
    nan: T::Native,
) -> ArrayRef {
    let numbers = values.as_primitive::<T>();
    if !numbers.values().iter().any(|value| is_other(*value)) {
        return values;
    }
    let one = |value| if is_other(value) { nan } else { value };
    Arc::new(numbers.unary::<_, T>(one))
}
