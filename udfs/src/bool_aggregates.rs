//! `bool_and` and `bool_or` over sliding window frames: DataFusion's own cannot retract a row.

use std::fmt::Debug;
use std::hash::Hash;

use arrow::array::{ArrayRef, AsArray};
use arrow::datatypes::{DataType, FieldRef};
use datafusion::common::{Result, ScalarValue, internal_err};
use datafusion::functions_aggregate::bool_and_or::{BoolAnd, BoolOr};
use datafusion::logical_expr::function::{AccumulatorArgs, StateFieldsArgs};
use datafusion::logical_expr::utils::AggregateOrderSensitivity;
use datafusion::logical_expr::{
    Accumulator, AggregateUDF, AggregateUDFImpl, Documentation, GroupsAccumulator, ReversedUDAF,
    Signature,
};

/// The aggregate function `bool_and`.
#[must_use]
pub(crate) fn bool_and() -> AggregateUDF {
    AggregateUDF::from(BoolAggregate {
        inner: BoolAnd::default(),
        is_any: false,
    })
}

/// The aggregate function `bool_or`.
#[must_use]
pub(crate) fn bool_or() -> AggregateUDF {
    AggregateUDF::from(BoolAggregate {
        inner: BoolOr::default(),
        is_any: true,
    })
}

/// DataFusion's function, with an accumulator of its own for window frames.
#[derive(Debug, PartialEq, Eq, Hash)]
struct BoolAggregate<F> {
    inner: F,
    is_any: bool,
}

impl<F: AggregateUDFImpl + Debug + Eq + Hash> AggregateUDFImpl for BoolAggregate<F> {
    fn name(&self) -> &str {
        self.inner.name()
    }

    fn signature(&self) -> &Signature {
        self.inner.signature()
    }

    fn return_type(&self, types: &[DataType]) -> Result<DataType> {
        self.inner.return_type(types)
    }

    fn accumulator(&self, args: AccumulatorArgs) -> Result<Box<dyn Accumulator>> {
        self.inner.accumulator(args)
    }

    fn create_sliding_accumulator(&self, _: AccumulatorArgs) -> Result<Box<dyn Accumulator>> {
        // A repeated value changes no result, so DISTINCT has no effect.
        Ok(Box::new(BoolsInFrame {
            is_any: self.is_any,
            ..BoolsInFrame::default()
        }))
    }

    fn state_fields(&self, args: StateFieldsArgs) -> Result<Vec<FieldRef>> {
        self.inner.state_fields(args)
    }

    fn groups_accumulator_supported(&self, args: AccumulatorArgs) -> bool {
        self.inner.groups_accumulator_supported(args)
    }

    fn create_groups_accumulator(
        &self,
        args: AccumulatorArgs,
    ) -> Result<Box<dyn GroupsAccumulator>> {
        self.inner.create_groups_accumulator(args)
    }

    fn order_sensitivity(&self) -> AggregateOrderSensitivity {
        self.inner.order_sensitivity()
    }

    fn reverse_expr(&self) -> ReversedUDAF {
        ReversedUDAF::Identical
    }

    fn documentation(&self) -> Option<&Documentation> {
        self.inner.documentation()
    }
}

/// The number of true and of false rows in a window frame; NULLs do not count.
#[derive(Debug, Default)]
struct BoolsInFrame {
    is_any: bool,
    trues: usize,
    falses: usize,
}

impl Accumulator for BoolsInFrame {
    fn update_batch(&mut self, values: &[ArrayRef]) -> Result<()> {
        let values = values[0].as_boolean();
        self.trues += values.true_count();
        self.falses += values.false_count();
        Ok(())
    }

    fn retract_batch(&mut self, values: &[ArrayRef]) -> Result<()> {
        let values = values[0].as_boolean();
        self.trues = self.trues.saturating_sub(values.true_count());
        self.falses = self.falses.saturating_sub(values.false_count());
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
        let result = match (self.trues, self.falses) {
            (0, 0) => None,
            (trues, _) if self.is_any => Some(trues > 0),
            (_, falses) => Some(falses == 0),
        };
        Ok(ScalarValue::Boolean(result))
    }

    fn size(&self) -> usize {
        size_of_val(self)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow::array::BooleanArray;

    use super::*;

    fn rows(values: &[Option<bool>]) -> [ArrayRef; 1] {
        [Arc::new(BooleanArray::from(values.to_vec()))]
    }

    #[test]
    fn rows_outside_a_frame_do_not_count() {
        for is_any in [false, true] {
            let mut frame = BoolsInFrame {
                is_any,
                ..BoolsInFrame::default()
            };
            let holds = |frame: &mut BoolsInFrame| frame.evaluate().unwrap();
            assert_eq!(holds(&mut frame), ScalarValue::Boolean(None));
            let all = [Some(is_any), None, Some(!is_any)];
            frame.update_batch(&rows(&all)).unwrap();
            assert_eq!(holds(&mut frame), ScalarValue::Boolean(Some(is_any)));
            frame.retract_batch(&rows(&all[..1])).unwrap();
            assert_eq!(holds(&mut frame), ScalarValue::Boolean(Some(!is_any)));
            frame.retract_batch(&rows(&all[1..])).unwrap();
            assert_eq!(holds(&mut frame), ScalarValue::Boolean(None));
        }
    }
}
