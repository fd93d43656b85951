//! `one_zero(x)` is `x`, and `0.0` where that is `-0.0`.
//!
//! The two are equal, and differ in their bits. The engine compares numbers by their value with `=`, in joins and in groups, and by
//! their bits elsewhere: [`super::EqualZeros`] puts this function there.

use std::sync::Arc;

use arrow::array::ArrayRef;
use arrow::datatypes::{DataType, FieldRef};
use datafusion::common::utils::{normalize_float_zero, normalize_float_zero_scalar};
use datafusion::common::{Result, ScalarValue};
use datafusion::logical_expr::sort_properties::{ExprProperties, SortProperties};
use datafusion::logical_expr::{
    ColumnarValue, Expr, ReturnFieldArgs, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature,
    Volatility,
};

use super::nan::mapped_within;
use crate::operands::only_argument;

/// The name of the function.
pub(crate) const ONE_ZERO: &str = "one_zero";

/// Replaces `-0.0` by `0.0`, also within arrays, maps and structs.
///
/// # Errors
///
/// None for values that are valid.
fn array_with_one_zero(values: ArrayRef) -> Result<ArrayRef> {
    mapped_within(values, |numbers| {
        let one = normalize_float_zero(numbers);
        (!Arc::ptr_eq(&one, numbers)).then_some(one)
    })
}

/// The same for an argument of a function.
///
/// # Errors
///
/// None for values that are valid.
pub(crate) fn with_one_zero(value: &ColumnarValue) -> Result<ColumnarValue> {
    Ok(match value {
        ColumnarValue::Array(values) => {
            ColumnarValue::Array(array_with_one_zero(Arc::clone(values))?)
        }
        ColumnarValue::Scalar(value) if value.data_type().is_nested() => {
            let one = array_with_one_zero(value.to_array()?)?;
            ColumnarValue::Scalar(ScalarValue::try_from_array(&one, 0)?)
        }
        ColumnarValue::Scalar(value) => {
            ColumnarValue::Scalar(normalize_float_zero_scalar(value.clone()))
        }
    })
}

/// Replaces an expression by one without `-0.0`; returns whether it has changed.
pub(super) fn wrap(expr: &mut Expr) -> bool {
    match expr {
        Expr::Literal(value, _) if value.data_type().is_floating() => {
            let one = normalize_float_zero_scalar(value.clone());
            let is_changed = one != *value;
            *value = one;
            is_changed
        }
        Expr::ScalarFunction(call) if call.func.inner().is::<OneZero>() => false,
        other => {
            let function = ScalarUDF::from(OneZero {
                signature: Signature::any(1, Volatility::Immutable),
            });
            *other = function.call(vec![std::mem::take(other)]);
            true
        }
    }
}

#[derive(Debug, PartialEq, Eq, Hash)]
struct OneZero {
    signature: Signature,
}

impl ScalarUDFImpl for OneZero {
    fn name(&self) -> &str {
        ONE_ZERO
    }

    /// Expressions keep their names.
    fn schema_name(&self, args: &[Expr]) -> Result<String> {
        let of = only_argument(ONE_ZERO, args)?;
        Ok(of.schema_name().to_string())
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, types: &[DataType]) -> Result<DataType> {
        only_argument(ONE_ZERO, types).cloned()
    }

    fn return_field_from_args(&self, args: ReturnFieldArgs) -> Result<FieldRef> {
        only_argument(ONE_ZERO, args.arg_fields).cloned()
    }

    fn is_strict(&self) -> bool {
        true
    }

    /// `-0.0` is the number below `0.0` in any order.
    fn output_ordering(&self, input: &[ExprProperties]) -> Result<SortProperties> {
        Ok(only_argument(ONE_ZERO, input)?.sort_properties)
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        with_one_zero(only_argument(ONE_ZERO, &args.args)?)
    }
}

#[cfg(test)]
mod tests {
    use arrow::array::{Array, AsArray, Float64Array, ListArray};
    use arrow::datatypes::Float64Type;
    use datafusion::logical_expr::{col, lit};

    use super::*;

    fn bits(values: &ArrayRef) -> Vec<Option<u64>> {
        let numbers = values.as_primitive::<Float64Type>();
        numbers
            .iter()
            .map(|value| value.map(f64::to_bits))
            .collect()
    }

    #[test]
    fn a_zero_has_no_sign_also_within_arrays() {
        let numbers = [Some(-0.0), None, Some(0.0), Some(-1.5), Some(f64::NAN)];
        let expected = [Some(0.0), None, Some(0.0), Some(-1.5), Some(f64::NAN)];
        let expected = expected.map(|value| value.map(f64::to_bits));
        let values: ArrayRef = Arc::new(Float64Array::from(numbers.to_vec()));
        assert_eq!(bits(&array_with_one_zero(values).unwrap()), expected);
        let list = ListArray::from_iter_primitive::<Float64Type, _, _>([Some(numbers.to_vec())]);
        let one = array_with_one_zero(Arc::new(list)).unwrap();
        assert_eq!(bits(&one.as_list::<i32>().value(0)), expected);
        // An array without -0.0 is not copied.
        let again = array_with_one_zero(Arc::clone(&one)).unwrap();
        assert!(again.to_data().ptr_eq(&one.to_data()));
    }

    #[test]
    fn an_expression_is_wrapped_once_and_keeps_its_name() {
        let mut key = col("x");
        assert!(wrap(&mut key));
        assert_eq!(key.schema_name().to_string(), "x");
        assert!(!wrap(&mut key));
        let mut zero = lit(-0.0_f64);
        assert!(wrap(&mut zero));
        assert_eq!(zero, lit(0.0_f64));
        assert!(!wrap(&mut zero));
    }
}
