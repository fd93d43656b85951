//! Accumulators of sums: integers in 128 bits, so that a sum that fits in the end does not overflow before, for any order of
//! its rows and any split into batches.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, Decimal128Array};
use arrow::compute::{cast, sum_checked};
use arrow::datatypes::{
    DataType, Decimal32Type, Decimal64Type, Decimal128Type, Decimal256Type, Int64Type, UInt64Type,
};
use arrow::error::ArrowError;
use datafusion::common::{Result, ScalarValue};
use datafusion::error::DataFusionError;

use super::overflow::out_of_range;

/// The type in which integers are summed.
pub(super) const WIDE: DataType = DataType::Decimal128(38, 0);

/// A sum's name for messages and its type.
#[derive(Debug, Clone)]
pub(super) struct SumShape {
    name: String,
    result: DataType,
}

impl SumShape {
    pub(super) fn new(name: &str, result: &DataType) -> Self {
        Self {
            name: name.to_owned(),
            result: result.clone(),
        }
    }

    /// The type of partial sums, in which rows are added.
    pub(super) fn state(&self) -> DataType {
        state_type(&self.result)
    }

    /// The error for a partial sum that overflowed.
    pub(super) fn overflow(&self) -> DataFusionError {
        out_of_range(&self.name, &self.result)
    }

    /// Adds to an overflow error of Arrow the sum's name and type.
    pub(super) fn explain(&self, error: ArrowError) -> DataFusionError {
        match error {
            ArrowError::ArithmeticOverflow(_) => self.overflow(),
            other => other.into(),
        }
    }

    /// Converts values, or partial sums, to the type of partial sums.
    pub(super) fn widened(&self, values: &ArrayRef) -> Result<ArrayRef> {
        Ok(match (values.data_type(), &self.result) {
            (DataType::Int64, DataType::Int64) => {
                let values = values.as_primitive::<Int64Type>();
                let wide: Decimal128Array = values.unary::<_, Decimal128Type>(i128::from);
                Arc::new(wide.with_data_type(WIDE))
            }
            (DataType::UInt64, DataType::UInt64) => {
                let values = values.as_primitive::<UInt64Type>();
                let wide: Decimal128Array = values.unary::<_, Decimal128Type>(i128::from);
                Arc::new(wide.with_data_type(WIDE))
            }
            _ => Arc::clone(values),
        })
    }

    /// Converts sums to the result type.
    pub(super) fn results(&self, sums: ArrayRef) -> Result<ArrayRef> {
        let refused =
            |value: String| out_of_range(format!("{} = {value}", self.name), &self.result);
        match &self.result {
            DataType::Int64 => {
                let sums = sums.as_primitive::<Decimal128Type>();
                let narrow = sums.try_unary::<_, Int64Type, DataFusionError>(|sum| {
                    i64::try_from(sum).map_err(|_| refused(sum.to_string()))
                })?;
                Ok(Arc::new(narrow))
            }
            DataType::UInt64 => {
                let sums = sums.as_primitive::<Decimal128Type>();
                let narrow = sums.try_unary::<_, UInt64Type, DataFusionError>(|sum| {
                    u64::try_from(sum).map_err(|_| refused(sum.to_string()))
                })?;
                Ok(Arc::new(narrow))
            }
            DataType::Decimal32(precision, _) => {
                let checked = sums.as_primitive::<Decimal32Type>();
                checked
                    .validate_decimal_precision(*precision)
                    .map(|()| sums.clone())
                    .map_err(|_| self.overflow())
            }
            DataType::Decimal64(precision, _) => {
                let checked = sums.as_primitive::<Decimal64Type>();
                checked
                    .validate_decimal_precision(*precision)
                    .map(|()| sums.clone())
                    .map_err(|_| self.overflow())
            }
            DataType::Decimal128(precision, _) => {
                let checked = sums.as_primitive::<Decimal128Type>();
                checked
                    .validate_decimal_precision(*precision)
                    .map(|()| sums.clone())
                    .map_err(|_| self.overflow())
            }
            DataType::Decimal256(precision, _) => {
                let checked = sums.as_primitive::<Decimal256Type>();
                checked
                    .validate_decimal_precision(*precision)
                    .map(|()| sums.clone())
                    .map_err(|_| self.overflow())
            }
            _ => Ok(sums),
        }
    }

    /// Converts one sum to the result type.
    pub(super) fn result(&self, sum: &ScalarValue) -> Result<ScalarValue> {
        let results = self.results(sum.to_array()?)?;
        ScalarValue::try_from_array(&results, 0)
    }
}

/// The type of partial sums for a result type.
pub(super) fn state_type(result: &DataType) -> DataType {
    match result {
        DataType::Int64 | DataType::UInt64 => WIDE,
        other => other.clone(),
    }
}

/// The sum of integers, exactly; `None` if all are NULL.
pub(super) fn sum_of_integers(values: &ArrayRef) -> Result<Option<i128>> {
    let DataType::Int64 = values.data_type() else {
        let wide = cast(values, &WIDE)?;
        return Ok(sum_checked(wide.as_primitive::<Decimal128Type>())?);
    };
    let values = values.as_primitive::<Int64Type>();
    if values.null_count() == values.len() {
        return Ok(None);
    }
    // Number of bits, without the sign, of the largest value. A batch with few enough rows for the remaining bits cannot
    // overflow.
    let bits = values
        .values()
        .iter()
        .fold(0_u64, |bits, value| bits | (value ^ (value >> 63)) as u64);
    let rows = usize::BITS - values.len().leading_zeros();
    if bits.leading_zeros() > rows + 1 {
        return Ok(arrow::compute::sum(values).map(i128::from));
    }
    Ok(Some(values.iter().flatten().map(i128::from).sum()))
}
