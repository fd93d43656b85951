//! AVG of decimals: DataFusion's sums, which have enough digits, divided once. The last digit is rounded like that of a
//! quotient, where DataFusion truncates.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, BooleanArray, Decimal128Array};
use arrow::datatypes::{
    ArrowNativeTypeOp, DataType, Decimal128Type, Decimal256Type, DecimalType, UInt64Type, i256,
};
use arrow::error::ArrowError;
use datafusion::common::{Result, ScalarValue, internal_err};
use datafusion::error::DataFusionError;
use datafusion::logical_expr::function::AccumulatorArgs;
use datafusion::logical_expr::{Accumulator, EmitTo, GroupsAccumulator};

use super::division::{rounded, rounded_wide};
use super::overflow::out_of_range;

/// How an average is computed from a sum and a count.
#[derive(Debug, Clone)]
pub(super) struct Rounding {
    /// The function's name, for messages.
    name: String,
    precision: u8,
    scale: i8,
    /// The factor that gives a sum as many digits after the point as its average has.
    factor: i128,
}

impl Rounding {
    /// `None` if the arguments are not decimals.
    pub(super) fn new(args: &AccumulatorArgs) -> Option<Self> {
        let [of] = args.expr_fields else {
            return None;
        };
        match (of.data_type(), args.return_type()) {
            (DataType::Decimal128(_, of), DataType::Decimal128(precision, scale)) => {
                let digits = u32::try_from(i32::from(*scale) - i32::from(*of)).ok()?;
                Some(Self {
                    name: args.name.to_owned(),
                    precision: *precision,
                    scale: *scale,
                    factor: 10_i128.checked_pow(digits)?,
                })
            }
            _ => None,
        }
    }

    fn result(&self) -> DataType {
        DataType::Decimal128(self.precision, self.scale)
    }

    fn average(&self, sum: i256, rows: u64) -> Result<Option<i128>> {
        if rows == 0 {
            return Ok(None);
        }
        let rows = i128::from(rows);
        let small = sum.to_i128().and_then(|sum| sum.checked_mul(self.factor));
        let average = match small {
            Some(sum) => Ok(rounded(sum, rows)),
            None => sum
                .mul_checked(i256::from_i128(self.factor))
                .and_then(|sum| rounded_wide(sum, i256::from_i128(rows))),
        };
        let refused = || out_of_range(&self.name, &self.result());
        match average {
            Ok(average) if Decimal128Type::is_valid_decimal_precision(average, self.precision) => {
                Ok(Some(average))
            }
            Ok(_) | Err(ArrowError::ArithmeticOverflow(_)) => Err(refused()),
            Err(other) => Err(DataFusionError::from(other)),
        }
    }

    fn scalar(&self, average: Option<i128>) -> ScalarValue {
        ScalarValue::Decimal128(average, self.precision, self.scale)
    }
}

/// The average of rows, or of the distinct ones among them.
#[derive(Debug)]
pub(super) struct AverageDecimals {
    sums: Box<dyn Accumulator>,
    rounding: Rounding,
}

impl AverageDecimals {
    /// `sums` is DataFusion's accumulator for decimals or distinct decimals.
    pub(super) fn new(sums: Box<dyn Accumulator>, rounding: Rounding) -> Self {
        Self { sums, rounding }
    }
}

impl Accumulator for AverageDecimals {
    fn update_batch(&mut self, values: &[ArrayRef]) -> Result<()> {
        self.sums.update_batch(values)
    }

    fn merge_batch(&mut self, states: &[ArrayRef]) -> Result<()> {
        self.sums.merge_batch(states)
    }

    fn retract_batch(&mut self, values: &[ArrayRef]) -> Result<()> {
        self.sums.retract_batch(values)
    }

    fn supports_retract_batch(&self) -> bool {
        self.sums.supports_retract_batch()
    }

    fn state(&mut self) -> Result<Vec<ScalarValue>> {
        self.sums.state()
    }

    fn evaluate(&mut self) -> Result<ScalarValue> {
        let (sum, rows) = match self.sums.state()?.as_slice() {
            [ScalarValue::UInt64(rows), sum] => {
                let sum = match sum {
                    ScalarValue::Decimal128(sum, ..) => sum.map(i256::from_i128),
                    ScalarValue::Decimal256(sum, ..) => *sum,
                    other => return internal_err!("{other:?} is not a sum of decimals"),
                };
                (sum.unwrap_or(i256::ZERO), rows.unwrap_or(0))
            }
            [ScalarValue::List(distinct)] => {
                let distinct = distinct.value(0);
                let distinct = distinct.as_primitive::<Decimal128Type>();
                let mut sum = i256::ZERO;
                for value in distinct.iter().flatten() {
                    // The sum of 2^64 values fits.
                    sum = sum.wrapping_add(i256::from_i128(value));
                }
                (sum, (distinct.len() - distinct.null_count()) as u64)
            }
            other => return internal_err!("{other:?} is not a state of an average of decimals"),
        };
        let average = self.rounding.average(sum, rows)?;
        Ok(self.rounding.scalar(average))
    }

    fn size(&self) -> usize {
        size_of_val(self) + self.sums.size()
    }
}

/// Averages by group.
pub(super) struct AverageDecimalGroups {
    sums: Box<dyn GroupsAccumulator>,
    rounding: Rounding,
}

impl AverageDecimalGroups {
    /// `sums` is DataFusion's accumulator.
    pub(super) fn new(sums: Box<dyn GroupsAccumulator>, rounding: Rounding) -> Self {
        Self { sums, rounding }
    }
}

impl GroupsAccumulator for AverageDecimalGroups {
    fn update_batch(
        &mut self,
        values: &[ArrayRef],
        group_indices: &[usize],
        opt_filter: Option<&BooleanArray>,
        total_num_groups: usize,
    ) -> Result<()> {
        let sums = &mut self.sums;
        sums.update_batch(values, group_indices, opt_filter, total_num_groups)
    }

    fn evaluate(&mut self, emit_to: EmitTo) -> Result<ArrayRef> {
        let state = self.sums.state(emit_to)?;
        let [rows, sums] = state.as_slice() else {
            return internal_err!("the state of averages is not a number of rows and sums");
        };
        let rows = rows.as_primitive::<UInt64Type>();
        let wide = sums.as_primitive_opt::<Decimal256Type>();
        let small = sums.as_primitive_opt::<Decimal128Type>();
        let average = |group: usize| {
            if sums.is_null(group) || rows.is_null(group) {
                return Ok(None);
            }
            let sum = match (wide, small) {
                (Some(sums), _) => sums.value(group),
                (_, Some(sums)) => i256::from_i128(sums.value(group)),
                _ => {
                    return internal_err!("{} is not a type of sums of decimals", sums.data_type());
                }
            };
            self.rounding.average(sum, rows.value(group))
        };
        let averages = (0..sums.len()).map(average);
        let averages = averages.collect::<Result<Decimal128Array>>()?;
        Ok(Arc::new(averages.with_data_type(self.rounding.result())))
    }

    fn state(&mut self, emit_to: EmitTo) -> Result<Vec<ArrayRef>> {
        self.sums.state(emit_to)
    }

    fn merge_batch(
        &mut self,
        values: &[ArrayRef],
        group_indices: &[usize],
        total_num_groups: usize,
    ) -> Result<()> {
        let sums = &mut self.sums;
        sums.merge_batch(values, group_indices, total_num_groups)
    }

    fn convert_to_state(
        &self,
        values: &[ArrayRef],
        opt_filter: Option<&BooleanArray>,
    ) -> Result<Vec<ArrayRef>> {
        self.sums.convert_to_state(values, opt_filter)
    }

    fn size(&self) -> usize {
        self.sums.size()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn averages_are_rounded_half_away_from_zero() {
        let rounding = Rounding {
            name: "avg(x)".to_owned(),
            precision: 6,
            scale: 5,
            factor: 10_000,
        };
        let average = |sum: i128, rows| rounding.average(i256::from_i128(sum), rows);
        assert_eq!(average(50, 3).unwrap(), Some(166_667));
        assert_eq!(average(-50, 3).unwrap(), Some(-166_667));
        assert_eq!(average(40, 3).unwrap(), Some(133_333));
        assert_eq!(average(1, 20_000).unwrap(), Some(1));
        assert_eq!(average(-1, 20_001).unwrap(), Some(0));
        assert_eq!(average(0, 0).unwrap(), None);
        let error = average(i128::MAX, 2).unwrap_err().to_string();
        assert!(
            error.contains("avg(x) is out of range of DECIMAL(6, 5)"),
            "{error}"
        );
    }
}
