//! `first_not_null(value, other, …)` is `coalesce(value, other, …)`, with each argument evaluated once.
//!
//! The engine makes `CASE WHEN value IS NOT NULL THEN value ELSE other END` of `coalesce`. A value such as `random()` would be another
//! one in each of the two places, and NULL where it was not NULL before.

use std::sync::Arc;

use arrow::array::ArrayRef;
use arrow::compute::is_not_null;
use arrow::compute::kernels::zip::zip;
use arrow::datatypes::{DataType, Field, FieldRef};
use datafusion::common::{Result, internal_err};
use datafusion::logical_expr::{
    ColumnarValue, Expr, ReturnFieldArgs, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature,
    Volatility,
};

use crate::operands::{are_scalars, scalar_or_array};

/// The name of the function.
pub(super) const FIRST_NOT_NULL: &str = "first_not_null";

/// A call of the function over values of one type; a single value stays as it is.
pub(super) fn first_not_null(mut values: Vec<Expr>) -> Expr {
    match values.len() {
        1 => values.remove(0),
        _ => ScalarUDF::from(FirstNotNull::new()).call(values),
    }
}

#[derive(Debug, PartialEq, Eq, Hash)]
struct FirstNotNull {
    signature: Signature,
}

impl FirstNotNull {
    fn new() -> Self {
        Self {
            signature: Signature::variadic_any(Volatility::Immutable),
        }
    }
}

impl ScalarUDFImpl for FirstNotNull {
    fn name(&self) -> &str {
        FIRST_NOT_NULL
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, types: &[DataType]) -> Result<DataType> {
        let known = types.iter().find(|of| !of.is_null());
        Ok(known.cloned().unwrap_or(DataType::Null))
    }

    fn return_field_from_args(&self, args: ReturnFieldArgs) -> Result<FieldRef> {
        let types = args
            .arg_fields
            .iter()
            .map(|field| field.data_type().clone());
        let result = self.return_type(&types.collect::<Vec<_>>())?;
        let is_nullable = args.arg_fields.iter().all(|field| field.is_nullable());
        Ok(Arc::new(Field::new(FIRST_NOT_NULL, result, is_nullable)))
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let is_scalar = are_scalars(&args.args);
        let rows = if is_scalar { 1 } else { args.number_rows };
        let result = args.return_field.data_type();
        let mut chosen: Option<ArrayRef> = None;
        for value in &args.args {
            let value = value.cast_to(result, None)?.to_array(rows)?;
            chosen = Some(match chosen {
                Some(chosen) => zip(&is_not_null(&chosen)?, &chosen, &value)?,
                None => value,
            });
        }
        match chosen {
            Some(chosen) => scalar_or_array(chosen, is_scalar),
            None => internal_err!("{FIRST_NOT_NULL} takes values"),
        }
    }
}

#[cfg(test)]
mod tests {
    use arrow::array::{AsArray, Int64Array};
    use arrow::datatypes::Int64Type;
    use datafusion::common::ScalarValue;
    use datafusion::config::ConfigOptions;

    use super::*;

    fn first(value: ColumnarValue, other: ColumnarValue, rows: usize) -> ColumnarValue {
        let function = FirstNotNull::new();
        let field = |value: &ColumnarValue| Arc::new(Field::new("x", value.data_type(), true));
        let arg_fields = vec![field(&value), field(&other)];
        let types: Vec<DataType> = arg_fields.iter().map(|of| of.data_type().clone()).collect();
        let result = function.return_type(&types).unwrap();
        function
            .invoke_with_args(ScalarFunctionArgs {
                args: vec![value, other],
                arg_fields,
                number_rows: rows,
                return_field: Arc::new(Field::new(FIRST_NOT_NULL, result, true)),
                config_options: Arc::new(ConfigOptions::default()),
            })
            .unwrap()
    }

    #[test]
    fn the_first_value_that_is_not_null_is_chosen() {
        let column = |values: Vec<Option<i64>>| {
            ColumnarValue::Array(Arc::new(Int64Array::from(values)) as ArrayRef)
        };
        let number = |value: Option<i64>| ColumnarValue::Scalar(ScalarValue::Int64(value));
        let values = || column(vec![Some(1), None, None]);
        for (other, expected) in [
            (
                column(vec![Some(7), Some(8), None]),
                [Some(1), Some(8), None],
            ),
            (number(Some(9)), [Some(1), Some(9), Some(9)]),
            (
                ColumnarValue::Scalar(ScalarValue::Null),
                [Some(1), None, None],
            ),
        ] {
            let chosen = first(values(), other, 3).into_array(3).unwrap();
            let chosen: Vec<_> = chosen.as_primitive::<Int64Type>().iter().collect();
            assert_eq!(chosen, expected);
        }
        let chosen = first(number(None), number(Some(5)), 3);
        assert!(matches!(
            chosen,
            ColumnarValue::Scalar(ScalarValue::Int64(Some(5)))
        ));
        let chosen = first(ColumnarValue::Scalar(ScalarValue::Null), values(), 3);
        assert_eq!(
            chosen.into_array(3).unwrap().as_ref(),
            values().into_array(3).unwrap().as_ref()
        );
    }
}
