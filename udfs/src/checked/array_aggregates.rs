//! `array_sum` and `array_product` of exact numbers: the library's functions convert all numbers to DOUBLE, which changes
//! 9007199254740993.

use std::ops::Range;
use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, AsArray, Decimal128Array, GenericListArray, Int64Array, OffsetSizeTrait,
};
use arrow::datatypes::{DataType, Decimal128Type, DecimalType, Int64Type};
use datafusion::common::{Result, internal_err};
use datafusion::functions_nested::array_product::array_product_udf;
use datafusion::functions_nested::array_sum::array_sum_udf;
use datafusion::logical_expr::{
    ColumnarValue, Documentation, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature,
};

use crate::operands::{element_of, scalar_or_array};

use super::overflow::out_of_range;

/// Digits that the result of `array_sum` has in addition to those of its elements, as for the aggregate `sum`.
const MORE_DIGITS: u8 = 10;

/// The functions. The product of decimals is computed as DOUBLE.
pub(crate) fn array_functions() -> [ScalarUDF; 2] {
    let of = |inner, is_sum| ScalarUDF::from(ArrayAggregate { inner, is_sum });
    [of(array_sum_udf(), true), of(array_product_udf(), false)]
}

#[derive(Debug, PartialEq, Eq, Hash)]
struct ArrayAggregate {
    inner: Arc<ScalarUDF>,
    is_sum: bool,
}

impl ArrayAggregate {
    /// The type for computing with exact elements, and that of the result; `None`: they are converted to DOUBLE.
    fn exact(&self, list: &DataType) -> Option<(DataType, DataType)> {
        let of_decimals = |precision: u8, scale: i8| {
            let digits = (precision + MORE_DIGITS).min(38);
            let element = DataType::Decimal128(precision, scale);
            self.is_sum
                .then_some((element, DataType::Decimal128(digits, scale)))
        };
        match element_of(list)?.data_type() {
            DataType::Int8
            | DataType::Int16
            | DataType::Int32
            | DataType::Int64
            | DataType::UInt8
            | DataType::UInt16
            | DataType::UInt32 => Some((DataType::Int64, DataType::Int64)),
            DataType::Decimal32(precision, scale)
            | DataType::Decimal64(precision, scale)
            | DataType::Decimal128(precision, scale) => of_decimals(*precision, *scale),
            _ => None,
        }
    }

    /// The result for the elements of one array, without NULLs; NULL if there are no other elements.
    fn folded(
        &self,
        numbers: impl Iterator<Item = i128>,
        result: &DataType,
    ) -> Result<Option<i128>> {
        let no_room = || out_of_range(format!("{} of an array", self.name()), result);
        let mut all: Option<i128> = None;
        for number in numbers {
            all = Some(match all {
                None => number,
                Some(before) if self.is_sum => before.checked_add(number).ok_or_else(no_room)?,
                // A product stays 0.
                Some(0) => 0,
                Some(_) if number == 0 => 0,
                Some(before) => before.checked_mul(number).ok_or_else(no_room)?,
            });
        }
        let has_room = |value: i128| match result {
            DataType::Decimal128(precision, _) => {
                Decimal128Type::is_valid_decimal_precision(value, *precision)
            }
            _ => i64::try_from(value).is_ok(),
        };
        match all {
            Some(value) if !has_room(value) => Err(no_room()),
            all => Ok(all),
        }
    }

    fn of_lists(&self, lists: &ArrayRef, result: &DataType) -> Result<Vec<Option<i128>>> {
        match lists.data_type() {
            DataType::List(_) => self.of_rows(lists.as_list::<i32>(), result),
            DataType::LargeList(_) => self.of_rows(lists.as_list::<i64>(), result),
            other => internal_err!("{} is not a type of arrays", other),
        }
    }

    fn of_rows<O: OffsetSizeTrait>(
        &self,
        lists: &GenericListArray<O>,
        result: &DataType,
    ) -> Result<Vec<Option<i128>>> {
        let elements = lists.values();
        let spans = lists.value_offsets().windows(2).enumerate();
        let rows = spans.map(|(row, bounds)| {
            if lists.is_null(row) {
                return Ok(None);
            }
            let span: Range<usize> = bounds[0].as_usize()..bounds[1].as_usize();
            let places = span.filter(|place| elements.is_valid(*place));
            match elements.data_type() {
                DataType::Int64 => {
                    let numbers = elements.as_primitive::<Int64Type>();
                    self.folded(places.map(|place| numbers.value(place).into()), result)
                }
                _ => {
                    let numbers = elements.as_primitive::<Decimal128Type>();
                    self.folded(places.map(|place| numbers.value(place)), result)
                }
            }
        });
        rows.collect()
    }
}

impl ScalarUDFImpl for ArrayAggregate {
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
        let [list] = types else {
            return self.inner.coerce_types(types);
        };
        let Some((element, _)) = self.exact(list) else {
            return self.inner.coerce_types(types);
        };
        Ok(vec![match list {
            DataType::LargeList(_) => DataType::new_large_list(element, true),
            _ => DataType::new_list(element, true),
        }])
    }

    fn return_type(&self, types: &[DataType]) -> Result<DataType> {
        match types.first().and_then(|list| self.exact(list)) {
            Some((_, result)) => Ok(result),
            None => self.inner.return_type(types),
        }
    }

    fn documentation(&self) -> Option<&Documentation> {
        self.inner.documentation()
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let exact = match args.args.as_slice() {
            [lists] => self.exact(&lists.data_type()).map(|exact| (lists, exact)),
            _ => None,
        };
        let Some((lists, (_, result))) = exact else {
            return self.inner.invoke_with_args(args);
        };
        let is_scalar = matches!(lists, ColumnarValue::Scalar(_));
        let lists = lists.to_array(if is_scalar { 1 } else { args.number_rows })?;
        let values = self.of_lists(&lists, &result)?;
        let values: ArrayRef = match result {
            DataType::Decimal128(precision, scale) => {
                let values = Decimal128Array::from(values);
                Arc::new(values.with_precision_and_scale(precision, scale)?)
            }
            _ => {
                // All values fit.
                let values = values
                    .into_iter()
                    .map(|value| value.map(|value| value as i64));
                Arc::new(values.collect::<Int64Array>())
            }
        };
        scalar_or_array(values, is_scalar)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(is_sum: bool) -> ArrayAggregate {
        let inner = match is_sum {
            true => array_sum_udf(),
            false => array_product_udf(),
        };
        ArrayAggregate { inner, is_sum }
    }

    #[test]
    fn sums_and_products_of_exact_numbers_are_exact() {
        let folded = |is_sum, numbers: &[i128], result: &DataType| {
            of(is_sum).folded(numbers.iter().copied(), result).ok()
        };
        let bigint = DataType::Int64;
        let max = i128::from(i64::MAX);
        assert_eq!(folded(true, &[], &bigint), Some(None));
        assert_eq!(folded(true, &[max, 1, -1], &bigint), Some(Some(max)));
        assert_eq!(folded(true, &[max, 1], &bigint), None);
        assert_eq!(folded(false, &[max, 1], &bigint), Some(Some(max)));
        assert_eq!(folded(false, &[max, 2], &bigint), None);
        assert_eq!(folded(false, &[max, max, max, 0, 5], &bigint), None);
        assert_eq!(folded(false, &[max, max, 0, max], &bigint), Some(Some(0)));
        let decimal = DataType::Decimal128(3, 1);
        assert_eq!(folded(true, &[999, -1], &decimal), Some(Some(998)));
        assert_eq!(folded(true, &[999, 1], &decimal), None);
    }

    #[test]
    fn result_types_follow_the_element_types() {
        let list = |of: DataType| DataType::new_list(of, true);
        for (element, is_sum, expected) in [
            (DataType::Int32, true, DataType::Int64),
            (DataType::Int64, false, DataType::Int64),
            (
                DataType::Decimal128(5, 2),
                true,
                DataType::Decimal128(15, 2),
            ),
            (DataType::Decimal128(5, 2), false, DataType::Float64),
            (DataType::Float32, true, DataType::Float64),
        ] {
            let function = of(is_sum);
            let types = function.coerce_types(&[list(element)]).unwrap();
            assert_eq!(function.return_type(&types).unwrap(), expected);
        }
    }
}
