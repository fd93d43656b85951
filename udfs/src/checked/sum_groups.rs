//! Sums by group.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use arrow::array::{ArrayRef, ArrowNativeTypeOp, ArrowPrimitiveType, BooleanArray};
use datafusion::common::Result;
use datafusion::logical_expr::{EmitTo, GroupsAccumulator};
use datafusion_functions_aggregate_common::aggregate::groups_accumulator::prim_op::PrimitiveGroupsAccumulator;

use super::wide_sums::SumShape;

/// DataFusion's sums by group, in a wider type, with an error if even that overflowed.
struct SumGroups<T, F>
where
    T: ArrowPrimitiveType + Send,
    F: Fn(&mut T::Native, T::Native) + Send + Sync + 'static,
{
    inner: PrimitiveGroupsAccumulator<T, F>,
    has_overflowed: Arc<AtomicBool>,
    shape: SumShape,
}

/// Sums by group of values of type `T`.
pub(super) fn sum_groups<T>(shape: SumShape) -> Box<dyn GroupsAccumulator>
where
    T: ArrowPrimitiveType + Send,
{
    let has_overflowed = Arc::new(AtomicBool::new(false));
    let overflowed = Arc::clone(&has_overflowed);
    let add = move |sum: &mut T::Native, value: T::Native| match sum.add_checked(value) {
        Ok(added) => *sum = added,
        Err(_) => overflowed.store(true, Ordering::Relaxed),
    };
    Box::new(SumGroups {
        inner: PrimitiveGroupsAccumulator::<T, _>::new(&shape.state(), add),
        has_overflowed,
        shape,
    })
}

impl<T, F> SumGroups<T, F>
where
    T: ArrowPrimitiveType + Send,
    F: Fn(&mut T::Native, T::Native) + Send + Sync + 'static,
{
    fn check(&self) -> Result<()> {
        match self.has_overflowed.load(Ordering::Relaxed) {
            true => Err(self.shape.overflow()),
            false => Ok(()),
        }
    }
}

impl<T, F> GroupsAccumulator for SumGroups<T, F>
where
    T: ArrowPrimitiveType + Send,
    F: Fn(&mut T::Native, T::Native) + Send + Sync + 'static,
{
    fn update_batch(
        &mut self,
        values: &[ArrayRef],
        group_indices: &[usize],
        opt_filter: Option<&BooleanArray>,
        total_num_groups: usize,
    ) -> Result<()> {
        let values = [self.shape.widened(&values[0])?];
        let inner = &mut self.inner;
        inner.update_batch(&values, group_indices, opt_filter, total_num_groups)?;
        self.check()
    }

    fn evaluate(&mut self, emit_to: EmitTo) -> Result<ArrayRef> {
        let sums = self.inner.evaluate(emit_to)?;
        self.shape.results(sums)
    }

    fn state(&mut self, emit_to: EmitTo) -> Result<Vec<ArrayRef>> {
        self.inner.state(emit_to)
    }

    fn merge_batch(
        &mut self,
        values: &[ArrayRef],
        group_indices: &[usize],
        total_num_groups: usize,
    ) -> Result<()> {
        let inner = &mut self.inner;
        inner.merge_batch(values, group_indices, total_num_groups)?;
        self.check()
    }

    fn convert_to_state(
        &self,
        values: &[ArrayRef],
        opt_filter: Option<&BooleanArray>,
    ) -> Result<Vec<ArrayRef>> {
        let values = [self.shape.widened(&values[0])?];
        self.inner.convert_to_state(&values, opt_filter)
    }

    fn size(&self) -> usize {
        self.inner.size()
    }
}
