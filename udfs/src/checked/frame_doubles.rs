//! Sums and averages of DOUBLE over window frames, which are never computed by subtraction: a sum would keep the effect of NaN,
//! infinity or a large number after that row has left the frame.

use arrow::array::{Array, ArrayRef, AsArray};
use arrow::datatypes::Float64Type;
use datafusion::common::{Result, ScalarValue, internal_err};
use datafusion::logical_expr::Accumulator;

/// The sum, or the average, of the rows of a window frame.
#[derive(Debug, Default)]
pub(super) struct DoublesInFrame {
    is_average: bool,
    /// Suffix sums of the oldest rows: of the newest of them, of that one and the one before, and so on.
    oldest: Vec<f64>,
    /// All later rows.
    newest: Vec<f64>,
    sum_of_newest: f64,
}

impl DoublesInFrame {
    pub(super) fn sum() -> Self {
        Self::default()
    }

    pub(super) fn average() -> Self {
        Self {
            is_average: true,
            ..Self::default()
        }
    }

    fn add(&mut self, value: f64) {
        self.newest.push(value);
        self.sum_of_newest += value;
    }

    /// Removes the oldest row. Each row is added twice in total.
    fn remove_first(&mut self) {
        if self.oldest.is_empty() {
            let mut sum = 0.0;
            for value in self.newest.drain(..).rev() {
                sum += value;
                self.oldest.push(sum);
            }
            self.sum_of_newest = 0.0;
        }
        self.oldest.pop();
    }
}

impl Accumulator for DoublesInFrame {
    fn update_batch(&mut self, values: &[ArrayRef]) -> Result<()> {
        let values = values[0].as_primitive::<Float64Type>();
        values.iter().flatten().for_each(|value| self.add(value));
        Ok(())
    }

    fn retract_batch(&mut self, values: &[ArrayRef]) -> Result<()> {
        // Rows leave the frame in the order in which they entered.
        for _ in values[0].null_count()..values[0].len() {
            self.remove_first();
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
        let rows = self.oldest.len() + self.newest.len();
        if rows == 0 {
            return Ok(ScalarValue::Float64(None));
        }
        let sum = self.oldest.last().unwrap_or(&0.0) + self.sum_of_newest;
        let result = match self.is_average {
            true => sum / rows as f64,
            false => sum,
        };
        let result = if result.is_nan() { f64::NAN } else { result };
        Ok(ScalarValue::Float64(Some(result)))
    }

    fn size(&self) -> usize {
        size_of_val(self) + (self.oldest.capacity() + self.newest.capacity()) * size_of::<f64>()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow::array::Float64Array;

    use super::*;

    fn rows(values: &[Option<f64>]) -> [ArrayRef; 1] {
        [Arc::new(Float64Array::from(values.to_vec()))]
    }

    #[test]
    fn rows_outside_a_frame_do_not_affect_its_sum() {
        let mut frame = DoublesInFrame::sum();
        let all = [1e300, f64::NAN, f64::INFINITY, 0.1, 0.2];
        frame.update_batch(&rows(&all.map(Some))).unwrap();
        frame.update_batch(&rows(&[None])).unwrap();
        for gone in &all[..3] {
            let ScalarValue::Float64(Some(sum)) = frame.evaluate().unwrap() else {
                panic!("rows have a sum");
            };
            assert!(!sum.is_finite(), "{sum} with {gone}");
            frame.retract_batch(&rows(&[Some(*gone)])).unwrap();
        }
        let sum = ScalarValue::Float64(Some(0.2 + 0.1));
        assert_eq!(frame.evaluate().unwrap(), sum);
        frame.update_batch(&rows(&[Some(4.0)])).unwrap();
        frame
            .retract_batch(&rows(&[Some(0.1), Some(0.2), None]))
            .unwrap();
        assert_eq!(frame.evaluate().unwrap(), ScalarValue::Float64(Some(4.0)));
        frame.retract_batch(&rows(&[Some(4.0)])).unwrap();
        assert_eq!(frame.evaluate().unwrap(), ScalarValue::Float64(None));
    }

    #[test]
    fn averages_use_only_rows_in_the_frame() {
        let mut frame = DoublesInFrame::average();
        frame
            .update_batch(&rows(&[Some(f64::NAN), None, Some(1.0), Some(2.0)]))
            .unwrap();
        frame.retract_batch(&rows(&[Some(f64::NAN), None])).unwrap();
        assert_eq!(frame.evaluate().unwrap(), ScalarValue::Float64(Some(1.5)));
    }
}
