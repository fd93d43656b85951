//! `map_extract(map, key)` with a number of another type than the keys: it finds an entry whose key equals the number. The
//! library casts the number to the type of the keys, and 1.5 would find 1.

use std::sync::Arc;

use arrow::array::ArrayRef;
use arrow::compute::kernels::cmp::neq;
use arrow::compute::{CastOptions, cast_with_options, nullif};
use arrow::datatypes::DataType;
use datafusion::common::{Result, ScalarValue};
use datafusion::functions_nested::map_extract::map_extract_udf;
use datafusion::logical_expr::{
    ColumnarValue, Documentation, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature,
};

/// The function.
pub(crate) fn map_extract() -> ScalarUDF {
    ScalarUDF::from(MapExtract {
        inner: map_extract_udf(),
    })
}

#[derive(Debug, PartialEq, Eq, Hash)]
struct MapExtract {
    inner: Arc<ScalarUDF>,
}

impl ScalarUDFImpl for MapExtract {
    fn name(&self) -> &str {
        self.inner.name()
    }

    fn aliases(&self) -> &[String] {
        self.inner.aliases()
    }

    fn signature(&self) -> &Signature {
        self.inner.signature()
    }

    fn coerce_types(&self, types: &[DataType]) -> Result<Vec<DataType>> {
        let mut coerced = self.inner.coerce_types(types)?;
        if let ([_, of_keys], [_, given]) = (coerced.as_mut_slice(), types)
            && of_keys.is_numeric()
            && given.is_numeric()
        {
            *of_keys = given.clone();
        }
        Ok(coerced)
    }

    fn return_type(&self, types: &[DataType]) -> Result<DataType> {
        self.inner.return_type(types)
    }

    fn documentation(&self) -> Option<&Documentation> {
        self.inner.documentation()
    }

    fn invoke_with_args(&self, mut args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        if let [map, key] = args.args.as_mut_slice()
            && let Some(of_keys) = type_of_keys(&map.data_type())
            && of_keys != key.data_type()
            && key.data_type().is_numeric()
        {
            *key = match key {
                ColumnarValue::Array(numbers) => ColumnarValue::Array(as_keys(numbers, &of_keys)?),
                ColumnarValue::Scalar(number) => {
                    let keys = as_keys(&number.to_array()?, &of_keys)?;
                    ColumnarValue::Scalar(ScalarValue::try_from_array(&keys, 0)?)
                }
            };
        }
        self.inner.invoke_with_args(args)
    }
}

fn type_of_keys(map: &DataType) -> Option<DataType> {
    let DataType::Map(entries, _) = map else {
        return None;
    };
    match entries.data_type() {
        DataType::Struct(fields) => fields.first().map(|field| field.data_type().clone()),
        _ => None,
    }
}

/// The numbers in the type of the keys; NULL, which is never a key, for a number without an equal in that type.
fn as_keys(numbers: &ArrayRef, of_keys: &DataType) -> Result<ArrayRef> {
    let options = CastOptions::default();
    let keys = cast_with_options(numbers, of_keys, &options)?;
    let back = cast_with_options(&keys, numbers.data_type(), &options)?;
    Ok(nullif(&keys, &neq(&back, numbers)?)?)
}

#[cfg(test)]
mod tests {
    use arrow::array::{Array, Decimal128Array, Float64Array, Int32Array, Int64Array};

    use super::*;

    #[test]
    fn numbers_without_an_equal_key_return_null() {
        let decimals = Decimal128Array::from(vec![Some(15), Some(20), None]);
        let decimals = decimals.with_precision_and_scale(3, 1).unwrap();
        let all: [(ArrayRef, [Option<i32>; 3]); 3] = [
            (Arc::new(decimals), [None, Some(2), None]),
            (
                Arc::new(Float64Array::from(vec![1.5, 2.0, 1e300])),
                [None, Some(2), None],
            ),
            (
                Arc::new(Int64Array::from(vec![1, i64::MAX, -3])),
                [Some(1), None, Some(-3)],
            ),
        ];
        for (numbers, expected) in all {
            let keys = as_keys(&numbers, &DataType::Int32).unwrap();
            let expected = Int32Array::from(expected.to_vec());
            assert_eq!(keys.as_ref(), &expected as &dyn Array);
        }
    }
}
