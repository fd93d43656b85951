//! `ceil`, `floor` and `trunc` of exact numbers. Decimals get one more digit before the point: the engine's functions have none
//! for `ceil(9.5)`. A BIGINT is computed as an exact DECIMAL: the engine's functions convert it to DOUBLE, which changes
//! 9007199254740993. Smaller integers become DOUBLE, without a loss.

use std::sync::Arc;

use arrow::datatypes::{DataType, Field};
use datafusion::common::Result;
use datafusion::functions::math;
use datafusion::logical_expr::simplify::{ExprSimplifyResult, SimplifyContext};
use datafusion::logical_expr::sort_properties::{ExprProperties, SortProperties};
use datafusion::logical_expr::type_coercion::functions::fields_with_udf;
use datafusion::logical_expr::{
    ColumnarValue, Documentation, Expr, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature,
};

/// The functions.
pub(crate) fn rounded() -> [ScalarUDF; 3] {
    let functions = [
        (math::ceil(), true),
        (math::floor(), true),
        (math::trunc(), false),
    ];
    functions.map(|(inner, may_grow)| {
        let signature = Signature::user_defined(inner.signature().volatility);
        ScalarUDF::from(Rounded {
            inner,
            may_grow,
            signature,
        })
    })
}

#[derive(Debug, PartialEq, Eq, Hash)]
struct Rounded {
    inner: Arc<ScalarUDF>,
    /// Whether the result may have one more digit before the point.
    may_grow: bool,
    signature: Signature,
}

impl ScalarUDFImpl for Rounded {
    fn name(&self) -> &str {
        self.inner.name()
    }

    fn aliases(&self) -> &[String] {
        self.inner.aliases()
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn coerce_types(&self, types: &[DataType]) -> Result<Vec<DataType>> {
        let types = types.iter().enumerate().map(|(place, of)| match of {
            // The second argument of trunc is the number of digits to keep.
            _ if place > 0 => of.clone(),
            DataType::Decimal128(digits, scale) if self.may_grow && *scale > 0 && *digits < 38 => {
                DataType::Decimal128(digits + 1, *scale)
            }
            DataType::Int64 | DataType::UInt64 => DataType::Decimal128(20, 0),
            other => other.clone(),
        });
        let fields = types.map(|of| Arc::new(Field::new("", of, true)));
        let fields = fields_with_udf(&fields.collect::<Vec<_>>(), self.inner.as_ref())?;
        let types = fields.iter().map(|field| field.data_type().clone());
        Ok(types.collect())
    }

    fn return_type(&self, types: &[DataType]) -> Result<DataType> {
        self.inner.return_type(types)
    }

    fn is_strict(&self) -> bool {
        self.inner.is_strict()
    }

    fn output_ordering(&self, input: &[ExprProperties]) -> Result<SortProperties> {
        self.inner.inner().output_ordering(input)
    }

    fn documentation(&self) -> Option<&Documentation> {
        self.inner.documentation()
    }

    fn simplify(&self, args: Vec<Expr>, context: &SimplifyContext) -> Result<ExprSimplifyResult> {
        self.inner.simplify(args, context)
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        self.inner.invoke_with_args(args)
    }
}

#[cfg(test)]
mod tests {
    use arrow::array::{Array, ArrayRef, Decimal128Array, Int64Array};
    use arrow::compute::cast;

    use super::*;

    #[test]
    fn a_bigint_keeps_its_digits() {
        let values = vec![9_007_199_254_740_993, i64::MIN, -1];
        let expected = values.iter().copied().map(i128::from);
        let expected = Decimal128Array::from_iter_values(expected);
        let expected = expected.with_precision_and_scale(20, 0).unwrap();
        let values: ArrayRef = Arc::new(Int64Array::from(values));
        for function in rounded() {
            let of = function.coerce_types(&[DataType::Int64]).unwrap().remove(0);
            assert_eq!(function.return_type(std::slice::from_ref(&of)).unwrap(), of);
            let field = Arc::new(Field::new("", of.clone(), true));
            let args = ScalarFunctionArgs {
                args: vec![ColumnarValue::Array(cast(&values, &of).unwrap())],
                arg_fields: vec![Arc::clone(&field)],
                number_rows: 3,
                return_field: field,
                config_options: Arc::new(datafusion::config::ConfigOptions::default()),
            };
            let given = function.invoke_with_args(args).unwrap();
            let given = given.into_array(3).unwrap();
            assert_eq!(
                given.as_ref(),
                &expected as &dyn Array,
                "{}",
                function.name()
            );
        }
    }
}
