//! Sums of all rows, of the rows of a window frame, and of the distinct values among these.

use std::collections::HashMap;
use std::fmt::Debug;

use arrow::array::{Array, ArrayRef, ArrowNativeTypeOp, ArrowNumericType, AsArray};
use arrow::compute::sum_checked;
use arrow::datatypes::{DataType, Decimal128Type};
use datafusion::common::{Result, ScalarValue, internal_err};
use datafusion::logical_expr::Accumulator;

use super::wide_sums::{SumShape, sum_of_integers};

/// The sum of rows that enter and, in a window frame, leave.
#[derive(Debug)]
pub(super) struct SumRows<T: ArrowNumericType> {
    sum: T::Native,
    /// Rows that are not NULL.
    rows: u64,
    shape: SumShape,
}

// Not derived, because Arrow's types do not implement Clone.
impl<T: ArrowNumericType> Clone for SumRows<T> {
    fn clone(&self) -> Self {
        Self {
            sum: self.sum,
            rows: self.rows,
            shape: self.shape.clone(),
        }
    }
}

impl<T: ArrowNumericType> SumRows<T> {
    pub(super) fn new(shape: SumShape) -> Self {
        Self {
            sum: T::default_value(),
            rows: 0,
            shape,
        }
    }

    fn total(&self, values: &ArrayRef) -> Result<Option<T::Native>> {
        let values = self.shape.widened(values)?;
        let total = sum_checked(values.as_primitive::<T>());
        total.map_err(|error| self.shape.explain(error))
    }

    fn add(&mut self, values: &ArrayRef) -> Result<()> {
        if let Some(total) = self.total(values)? {
            let sum = self.sum.add_checked(total);
            self.sum = sum.map_err(|error| self.shape.explain(error))?;
            self.rows += (values.len() - values.null_count()) as u64;
        }
        Ok(())
    }

    fn value(&self) -> Result<ScalarValue> {
        let sum = (self.rows > 0).then_some(self.sum);
        ScalarValue::new_primitive::<T>(sum, &self.shape.state())
    }
}

impl<T: ArrowNumericType + Debug> Accumulator for SumRows<T> {
    fn update_batch(&mut self, values: &[ArrayRef]) -> Result<()> {
        self.add(&values[0])
    }

    fn merge_batch(&mut self, states: &[ArrayRef]) -> Result<()> {
        self.add(&states[0])
    }

    fn retract_batch(&mut self, values: &[ArrayRef]) -> Result<()> {
        if let Some(total) = self.total(&values[0])? {
            let sum = self.sum.sub_checked(total);
            self.sum = sum.map_err(|error| self.shape.explain(error))?;
            self.rows -= (values[0].len() - values[0].null_count()) as u64;
        }
        Ok(())
    }

    fn supports_retract_batch(&self) -> bool {
        true
    }

    fn state(&mut self) -> Result<Vec<ScalarValue>> {
        Ok(vec![self.value()?])
    }

    fn evaluate(&mut self) -> Result<ScalarValue> {
        self.shape.result(&self.value()?)
    }

    fn size(&self) -> usize {
        size_of_val(self)
    }
}

/// The sum of integers, in 128 bits.
#[derive(Debug)]
pub(super) struct SumIntegers(SumRows<Decimal128Type>);

impl SumIntegers {
    pub(super) fn new(shape: SumShape) -> Self {
        Self(SumRows::new(shape))
    }
}

impl Accumulator for SumIntegers {
    fn update_batch(&mut self, values: &[ArrayRef]) -> Result<()> {
        if let Some(total) = sum_of_integers(&values[0])? {
            // The sum of 2^63 rows with the largest value fits.
            self.0.sum += total;
            self.0.rows += (values[0].len() - values[0].null_count()) as u64;
        }
        Ok(())
    }

    fn merge_batch(&mut self, states: &[ArrayRef]) -> Result<()> {
        self.0.merge_batch(states)
    }

    fn retract_batch(&mut self, values: &[ArrayRef]) -> Result<()> {
        if let Some(total) = sum_of_integers(&values[0])? {
            self.0.sum -= total;
            self.0.rows -= (values[0].len() - values[0].null_count()) as u64;
        }
        Ok(())
    }

    fn supports_retract_batch(&self) -> bool {
        true
    }

    fn state(&mut self) -> Result<Vec<ScalarValue>> {
        self.0.state()
    }

    fn evaluate(&mut self) -> Result<ScalarValue> {
        self.0.evaluate()
    }

    fn size(&self) -> usize {
        size_of_val(self)
    }
}

/// The sum of the distinct values of a window frame.
#[derive(Debug)]
pub(super) struct SumDistinctInFrame {
    /// The number of occurrences of each value in the frame.
    counts: HashMap<i128, u64>,
    sum: SumRows<Decimal128Type>,
}

impl SumDistinctInFrame {
    pub(super) fn new(shape: SumShape) -> Self {
        let sum = SumRows::new(shape);
        let counts = HashMap::new();
        Self { counts, sum }
    }
}

impl Accumulator for SumDistinctInFrame {
    fn update_batch(&mut self, values: &[ArrayRef]) -> Result<()> {
        let values = self.sum.shape.widened(&values[0])?;
        for value in values.as_primitive::<Decimal128Type>().iter().flatten() {
            let count = self.counts.entry(value).or_default();
            if *count == 0 {
                let sum = self.sum.sum.add_checked(value);
                self.sum.sum = sum.map_err(|error| self.sum.shape.explain(error))?;
                self.sum.rows += 1;
            }
            *count += 1;
        }
        Ok(())
    }

    fn retract_batch(&mut self, values: &[ArrayRef]) -> Result<()> {
        let values = self.sum.shape.widened(&values[0])?;
        for value in values.as_primitive::<Decimal128Type>().iter().flatten() {
            let Some(count) = self.counts.get_mut(&value) else {
                return internal_err!("a row that leaves a window frame was never in it");
            };
            *count -= 1;
            if *count == 0 {
                self.counts.remove(&value);
                let sum = self.sum.sum.sub_checked(value);
                self.sum.sum = sum.map_err(|error| self.sum.shape.explain(error))?;
                self.sum.rows -= 1;
            }
        }
        Ok(())
    }

    fn supports_retract_batch(&self) -> bool {
        true
    }

    fn merge_batch(&mut self, _: &[ArrayRef]) -> Result<()> {
        internal_err!("a window frame is not merged")
    }

    fn state(&mut self) -> Result<Vec<ScalarValue>> {
        internal_err!("a window frame has no state")
    }

    fn evaluate(&mut self) -> Result<ScalarValue> {
        self.sum.evaluate()
    }

    fn size(&self) -> usize {
        let entry = size_of::<(i128, u64)>() + size_of::<u64>();
        size_of_val(self) + self.counts.capacity() * entry
    }
}

/// Whether [`SumDistinctInFrame`] can sum values of this type.
pub(super) fn is_summed_in_frames(of: &DataType) -> bool {
    matches!(
        of,
        DataType::Int64 | DataType::UInt64 | DataType::Decimal128(..)
    )
}
