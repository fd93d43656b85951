//! AVG of integers: their sum is exact, in any order of rows, and divided once.

use std::fmt::Debug;
use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, ArrowPrimitiveType, AsArray, BooleanArray, Decimal128Array, Float64Array,
    UInt64Array,
};
use arrow::compute::{cast, sum_checked};
use arrow::datatypes::{DataType, Decimal128Type, Int64Type, UInt64Type};
use datafusion::common::{Result, ScalarValue};
use datafusion::logical_expr::{Accumulator, EmitTo, GroupsAccumulator};
use datafusion_functions_aggregate_common::aggregate::groups_accumulator::accumulate::accumulate;
use datafusion_functions_aggregate_common::aggregate::sum_distinct::DistinctSumAccumulator;

use super::distinct::DistinctRows;
use super::wide_sums::{WIDE, sum_of_integers};

/// The type in which distinct integers of a type are stored.
pub(super) fn kept_as(of: &DataType) -> DataType {
    match of {
        DataType::UInt64 => DataType::UInt64,
        _ => DataType::Int64,
    }
}

fn kept(values: &ArrayRef) -> Result<ArrayRef> {
    Ok(cast(values, &kept_as(values.data_type()))?)
}

fn valid(values: &ArrayRef) -> u64 {
    (values.len() - values.null_count()) as u64
}

/// The DOUBLE nearest to the average, or one next to it.
fn average(sum: i128, rows: u64) -> Option<f64> {
    // All integers up to it are exact as DOUBLE.
    const EXACT: u128 = 1 << f64::MANTISSA_DIGITS;
    if rows == 0 {
        return None;
    }
    if sum.unsigned_abs() <= EXACT {
        return Some(sum as f64 / rows as f64);
    }
    let (whole, rest) = (sum / i128::from(rows), sum % i128::from(rows));
    Some(whole as f64 + rest as f64 / rows as f64)
}

/// The average of rows that enter and, in a window frame, leave.
#[derive(Debug, Default, Clone)]
pub(super) struct AverageRows {
    sum: i128,
    /// Rows that are not NULL.
    rows: u64,
}

impl Accumulator for AverageRows {
    fn update_batch(&mut self, values: &[ArrayRef]) -> Result<()> {
        let values = kept(&values[0])?;
        self.sum += sum_of_integers(&values)?.unwrap_or(0);
        self.rows += valid(&values);
        Ok(())
    }

    fn retract_batch(&mut self, values: &[ArrayRef]) -> Result<()> {
        let values = kept(&values[0])?;
        self.sum -= sum_of_integers(&values)?.unwrap_or(0);
        self.rows -= valid(&values);
        Ok(())
    }

    fn supports_retract_batch(&self) -> bool {
        true
    }

    fn merge_batch(&mut self, states: &[ArrayRef]) -> Result<()> {
        self.rows += sum_checked(states[0].as_primitive::<UInt64Type>())?.unwrap_or(0);
        self.sum += sum_checked(states[1].as_primitive::<Decimal128Type>())?.unwrap_or(0);
        Ok(())
    }

    fn state(&mut self) -> Result<Vec<ScalarValue>> {
        let sum = (self.rows > 0).then_some(self.sum);
        let sum = ScalarValue::new_primitive::<Decimal128Type>(sum, &WIDE)?;
        Ok(vec![ScalarValue::UInt64(Some(self.rows)), sum])
    }

    fn evaluate(&mut self) -> Result<ScalarValue> {
        Ok(ScalarValue::Float64(average(self.sum, self.rows)))
    }

    fn size(&self) -> usize {
        size_of_val(self)
    }
}

/// The average of distinct values, which are stored in this type.
pub(super) fn average_of_distinct<T: ArrowPrimitiveType + Debug>() -> Box<dyn Accumulator> {
    let values = DistinctSumAccumulator::<T>::new(&T::DATA_TYPE);
    Box::new(DistinctRows::new(Box::new(values), AverageRows::default()).kept_by(kept))
}

/// Averages by group.
#[derive(Debug, Default)]
pub(super) struct AverageGroups {
    sums: Vec<i128>,
    /// Rows that are not NULL.
    rows: Vec<u64>,
}

impl AverageGroups {
    fn add<T>(
        &mut self,
        values: &ArrayRef,
        group_indices: &[usize],
        opt_filter: Option<&BooleanArray>,
    ) where
        T: ArrowPrimitiveType + Send,
        T::Native: Into<i128>,
    {
        let values = values.as_primitive::<T>();
        accumulate(group_indices, values, opt_filter, |group, value| {
            let value: i128 = value.into();
            self.sums[group] += value;
            self.rows[group] += 1;
        });
    }

    fn resize(&mut self, groups: usize) {
        self.sums.resize(groups, 0);
        self.rows.resize(groups, 0);
    }
}

fn sums(sums: impl IntoIterator<Item = i128>) -> ArrayRef {
    let sums = Decimal128Array::from_iter_values(sums);
    Arc::new(sums.with_data_type(WIDE))
}

impl GroupsAccumulator for AverageGroups {
    fn update_batch(
        &mut self,
        values: &[ArrayRef],
        group_indices: &[usize],
        opt_filter: Option<&BooleanArray>,
        total_num_groups: usize,
    ) -> Result<()> {
        self.resize(total_num_groups);
        let values = kept(&values[0])?;
        match values.data_type() {
            DataType::UInt64 => self.add::<UInt64Type>(&values, group_indices, opt_filter),
            _ => self.add::<Int64Type>(&values, group_indices, opt_filter),
        }
        Ok(())
    }

    fn evaluate(&mut self, emit_to: EmitTo) -> Result<ArrayRef> {
        let sums = emit_to.take_needed(&mut self.sums);
        let rows = emit_to.take_needed(&mut self.rows);
        let averages = sums.into_iter().zip(rows);
        let averages: Float64Array = averages.map(|(sum, rows)| average(sum, rows)).collect();
        Ok(Arc::new(averages))
    }

    fn state(&mut self, emit_to: EmitTo) -> Result<Vec<ArrayRef>> {
        let rows = UInt64Array::from(emit_to.take_needed(&mut self.rows));
        Ok(vec![
            Arc::new(rows),
            sums(emit_to.take_needed(&mut self.sums)),
        ])
    }

    fn merge_batch(
        &mut self,
        values: &[ArrayRef],
        group_indices: &[usize],
        total_num_groups: usize,
    ) -> Result<()> {
        self.resize(total_num_groups);
        let rows = values[0].as_primitive::<UInt64Type>();
        let sums = values[1].as_primitive::<Decimal128Type>();
        for ((group, rows), sum) in group_indices.iter().zip(rows).zip(sums) {
            self.rows[*group] += rows.unwrap_or(0);
            self.sums[*group] += sum.unwrap_or(0);
        }
        Ok(())
    }

    fn convert_to_state(
        &self,
        values: &[ArrayRef],
        opt_filter: Option<&BooleanArray>,
    ) -> Result<Vec<ArrayRef>> {
        let values = cast(&kept(&values[0])?, &WIDE)?;
        let is_counted = |row: usize| {
            let passes = opt_filter.is_none_or(|filter| filter.is_valid(row) && filter.value(row));
            passes && values.is_valid(row)
        };
        let rows = (0..values.len()).map(|row| u64::from(is_counted(row)));
        let rows: ArrayRef = Arc::new(UInt64Array::from_iter_values(rows));
        let values = values.as_primitive::<Decimal128Type>();
        let sum = |row: usize| match is_counted(row) {
            true => values.value(row),
            false => 0,
        };
        Ok(vec![rows, sums((0..values.len()).map(sum))])
    }

    fn size(&self) -> usize {
        self.sums.capacity() * size_of::<i128>() + self.rows.capacity() * size_of::<u64>()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn averages_are_those_of_the_exact_sum() {
        let most = i128::from(i64::MAX);
        let cases = [
            (0, 0, None),
            (7, 2, Some(3.5)),
            (-7, 2, Some(-3.5)),
            (most + 1, 2, Some(4_611_686_018_427_387_904.0)),
            // The sum is not representable as DOUBLE.
            ((1 << 53) + 1, 3, Some(3_002_399_751_580_331.0)),
            (-(1 << 53) - 1, 3, Some(-3_002_399_751_580_331.0)),
            (most * 3, 3, Some(9_223_372_036_854_775_807.0)),
        ];
        for (sum, rows, expected) in cases {
            assert_eq!(average(sum, rows), expected, "{sum} / {rows}");
        }
    }

    #[test]
    fn groups_do_not_depend_on_how_rows_are_merged() {
        let values: ArrayRef = Arc::new(arrow::array::Int64Array::from(vec![
            Some(i64::MAX),
            Some(i64::MAX),
            None,
            Some(5),
            Some(-i64::MAX),
        ]));
        let filter = BooleanArray::from(vec![Some(true), Some(true), Some(true), None, Some(true)]);
        let groups = [0, 0, 1, 1, 0];
        let mut whole = AverageGroups::default();
        let filtered = Some(&filter);
        whole
            .update_batch(&[Arc::clone(&values)], &groups, filtered, 2)
            .unwrap();
        let state = AverageGroups::default()
            .convert_to_state(&[values], filtered)
            .unwrap();
        let mut merged = AverageGroups::default();
        merged.merge_batch(&state, &groups, 2).unwrap();
        let state = merged.state(EmitTo::All).unwrap();
        merged.merge_batch(&state, &[0, 1], 2).unwrap();
        let expected: ArrayRef = Arc::new(Float64Array::from(vec![
            Some(3_074_457_345_618_258_602.3),
            None,
        ]));
        assert_eq!(&whole.evaluate(EmitTo::All).unwrap(), &expected);
        assert_eq!(&merged.evaluate(EmitTo::All).unwrap(), &expected);
    }
}
