//! Aggregates of distinct values: DataFusion removes the duplicates, and an accumulator gets each value once.

use std::sync::Arc;

use arrow::array::ArrayRef;
use datafusion::common::{Result, ScalarValue, internal_err};
use datafusion::logical_expr::Accumulator;

/// Applies the accumulator `rows` to the distinct values of all rows.
#[derive(Debug)]
pub(super) struct DistinctRows<A> {
    values: Box<dyn Accumulator>,
    /// The accumulator before its first row.
    rows: A,
    /// Converts values to the type in which they are stored.
    kept: fn(&ArrayRef) -> Result<ArrayRef>,
}

impl<A: Accumulator + Clone> DistinctRows<A> {
    /// `values` is DataFusion's accumulator of distinct values, whose state is a list of them; `rows` has received no value
    /// yet.
    pub(super) fn new(values: Box<dyn Accumulator>, rows: A) -> Self {
        Self {
            values,
            rows,
            kept: |values| Ok(Arc::clone(values)),
        }
    }

    /// The same, with values stored in another type.
    pub(super) fn kept_by(self, kept: fn(&ArrayRef) -> Result<ArrayRef>) -> Self {
        Self { kept, ..self }
    }
}

impl<A: Accumulator + Clone> Accumulator for DistinctRows<A> {
    fn update_batch(&mut self, values: &[ArrayRef]) -> Result<()> {
        self.values.update_batch(&[(self.kept)(&values[0])?])
    }

    fn merge_batch(&mut self, states: &[ArrayRef]) -> Result<()> {
        self.values.merge_batch(states)
    }

    fn state(&mut self) -> Result<Vec<ScalarValue>> {
        self.values.state()
    }

    fn evaluate(&mut self) -> Result<ScalarValue> {
        let state = self.values.state()?;
        let [ScalarValue::List(list)] = state.as_slice() else {
            return internal_err!("the state of an aggregate of distinct values is not a list");
        };
        let mut rows = self.rows.clone();
        rows.update_batch(&[list.value(0)])?;
        rows.evaluate()
    }

    fn size(&self) -> usize {
        size_of_val(self) + self.values.size()
    }
}
