//! Unary minus as a function that refuses a result out of range.

use std::sync::Arc;

use arrow::array::Array as _;
use arrow::compute::kernels::numeric;
use arrow::datatypes::{DataType, Field, FieldRef};
use arrow::error::ArrowError;
use datafusion::common::{Result, ScalarValue, internal_err};
use datafusion::logical_expr::expr::ScalarFunction;
use datafusion::logical_expr::interval_arithmetic::Interval;
use datafusion::logical_expr::{
    ColumnarValue, Expr, ReturnFieldArgs, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature,
    Volatility,
};

use super::nan::with_one_nan;
use super::overflow::out_of_range;
use super::rewrite::plain;
use crate::operands::scalar_or_array;

/// `-` before one number.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct CheckedNegation {
    signature: Signature,
}

impl CheckedNegation {
    pub(super) fn call(of: Expr) -> Expr {
        let function = ScalarUDF::from(Self {
            signature: Signature::any(1, Volatility::Immutable),
        });
        Expr::ScalarFunction(ScalarFunction::new_udf(Arc::new(function), vec![of]))
    }
}

impl ScalarUDFImpl for CheckedNegation {
    fn name(&self) -> &str {
        "negate"
    }

    fn schema_name(&self, args: &[Expr]) -> Result<String> {
        let [of] = args else {
            return internal_err!("negate takes one argument");
        };
        let expr = Expr::Negative(Box::new(plain(of.clone())?));
        Ok(expr.schema_name().to_string())
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, types: &[DataType]) -> Result<DataType> {
        let [of] = types else {
            return internal_err!("negate takes one argument");
        };
        Ok(of.clone())
    }

    fn return_field_from_args(&self, args: ReturnFieldArgs) -> Result<FieldRef> {
        let [of] = args.arg_fields else {
            return internal_err!("negate takes one argument");
        };
        let of = (of.data_type().clone(), of.is_nullable());
        Ok(Arc::new(Field::new(self.name(), of.0, of.1)))
    }

    fn is_strict(&self) -> bool {
        true
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let [of] = args.args.as_slice() else {
            return internal_err!("negate takes one argument");
        };
        let is_scalar = matches!(of, ColumnarValue::Scalar(_));
        let values = of.to_array(args.number_rows)?;
        let negated = numeric::neg(&values).map_err(|error| match error {
            ArrowError::ArithmeticOverflow(_) => {
                let least = (0..values.len()).find(|row| {
                    let one = values.slice(*row, 1);
                    one.is_valid(0) && numeric::neg(&one).is_err()
                });
                let shown = least
                    .and_then(|row| ScalarValue::try_from_array(&values, row).ok())
                    .map_or_else(|| "a number".to_owned(), |value| value.to_string());
                out_of_range(format!("-({shown})"), values.data_type())
            }
            other => other.into(),
        })?;
        let negated = with_one_nan(negated);
        scalar_or_array(negated, is_scalar)
    }

    fn evaluate_bounds(&self, input: &[&Interval]) -> Result<Interval> {
        let data_type = input.first().map(|of| of.data_type());
        Interval::make_unbounded(&data_type.unwrap_or(DataType::Null))
    }
}
