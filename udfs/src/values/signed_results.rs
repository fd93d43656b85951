//! Lengths, positions and dimensions as BIGINT. The library returns unsigned integers: a negative difference of two of them, or
//! a negation, would not fit their type.

use std::sync::Arc;

use arrow::datatypes::{DataType, Field, FieldRef};
use datafusion::common::Result;
use datafusion::functions_nested::cardinality::cardinality_udf;
use datafusion::functions_nested::dimension::{array_dims_udf, array_ndims_udf};
use datafusion::functions_nested::length::array_length_udf;
use datafusion::functions_nested::position::{array_position_udf, array_positions_udf};
use datafusion::logical_expr::{
    ColumnarValue, Documentation, ExpressionPlacement, ReturnFieldArgs, ScalarFunctionArgs,
    ScalarUDF, ScalarUDFImpl, Signature,
};

/// The library's functions that return unsigned integers.
pub(crate) fn signed_functions() -> Vec<Arc<ScalarUDF>> {
    let functions = [
        array_dims_udf(),
        array_length_udf(),
        array_ndims_udf(),
        array_position_udf(),
        array_positions_udf(),
        cardinality_udf(),
    ];
    functions.into_iter().map(signed).collect()
}

/// Wraps the function so that it returns signed integers.
pub(crate) fn signed(inner: Arc<ScalarUDF>) -> Arc<ScalarUDF> {
    Arc::new(ScalarUDF::from(SignedFunction { inner }))
}

/// The library's function with another result type.
#[derive(Debug, PartialEq, Eq, Hash)]
struct SignedFunction {
    inner: Arc<ScalarUDF>,
}

/// The signed type for an unsigned one.
fn with_sign(of: &DataType) -> DataType {
    match of {
        DataType::UInt64 => DataType::Int64,
        DataType::List(field) => {
            let element = with_sign(field.data_type());
            DataType::List(Arc::new(Field::clone(field).with_data_type(element)))
        }
        other => other.clone(),
    }
}

impl ScalarUDFImpl for SignedFunction {
    fn name(&self) -> &str {
        self.inner.name()
    }

    fn aliases(&self) -> &[String] {
        self.inner.aliases()
    }

    fn signature(&self) -> &Signature {
        self.inner.signature()
    }

    fn return_type(&self, types: &[DataType]) -> Result<DataType> {
        Ok(with_sign(&self.inner.return_type(types)?))
    }

    fn return_field_from_args(&self, args: ReturnFieldArgs) -> Result<FieldRef> {
        let field = self.inner.return_field_from_args(args)?;
        let of = with_sign(field.data_type());
        Ok(Arc::new(Field::clone(&field).with_data_type(of)))
    }

    fn coerce_types(&self, types: &[DataType]) -> Result<Vec<DataType>> {
        self.inner.coerce_types(types)
    }

    fn is_strict(&self) -> bool {
        self.inner.is_strict()
    }

    fn documentation(&self) -> Option<&Documentation> {
        self.inner.documentation()
    }

    fn placement(&self, args: &[ExpressionPlacement]) -> ExpressionPlacement {
        self.inner.placement(args)
    }

    fn invoke_with_args(&self, mut args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let types = args.arg_fields.iter();
        let types: Vec<DataType> = types.map(|field| field.data_type().clone()).collect();
        let without_sign = self.inner.return_type(&types)?;
        let of = with_sign(&without_sign);
        let field = Field::clone(&args.return_field).with_data_type(without_sign);
        args.return_field = Arc::new(field);
        self.inner.invoke_with_args(args)?.cast_to(&of, None)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_results_are_signed() {
        let list = DataType::new_list(DataType::Int64, true);
        for function in signed_functions() {
            let types = match function.name() {
                "array_position" | "array_positions" => vec![list.clone(), DataType::Int64],
                _ => vec![list.clone()],
            };
            let expected = match function.name() {
                "array_dims" | "array_positions" => list.clone(),
                _ => DataType::Int64,
            };
            let given = function.return_type(&types).unwrap();
            assert_eq!(given, expected, "{}", function.name());
        }
    }
}
