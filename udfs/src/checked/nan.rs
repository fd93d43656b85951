//! NaN is one value, and above all numbers.
//!
//! Arrow orders NaN with a sign below all numbers, and tells apart NaN with different bits. Processors give results the sign:
//! infinity minus itself, zero by zero. Sums of infinities have it as well.

use std::sync::Arc;

use arrow::array::{ArrayRef, ArrowPrimitiveType, AsArray, BooleanArray};
use arrow::datatypes::{DataType, Float16Type, Float32Type, Float64Type};
use datafusion::common::{Result, ScalarValue};
use datafusion::logical_expr::{Accumulator, EmitTo, GroupsAccumulator};

type Half = <Float16Type as ArrowPrimitiveType>::Native;

/// Numbers with a floating point whose NaN all have the same bits; other values as they are.
pub(super) fn with_one_nan(values: ArrayRef) -> ArrayRef {
    match values.data_type() {
        DataType::Float16 => {
            let is_other = |value: Half| value.is_nan() && value.to_bits() != Half::NAN.to_bits();
            replaced::<Float16Type>(values, is_other, Half::NAN)
        }
        DataType::Float32 => {
            let is_other = |value: f32| value.is_nan() && value.to_bits() != f32::NAN.to_bits();
            replaced::<Float32Type>(values, is_other, f32::NAN)
        }
        DataType::Float64 => {
            let is_other = |value: f64| value.is_nan() && value.to_bits() != f64::NAN.to_bits();
            replaced::<Float64Type>(values, is_other, f64::NAN)
        }
        _ => values,
    }
}

fn replaced<T: ArrowPrimitiveType>(
    values: ArrayRef,
    is_other: impl Fn(T::Native) -> bool,
    nan: T::Native,
) -> ArrayRef {
    let numbers = values.as_primitive::<T>();
    if !numbers.values().iter().any(|value| is_other(*value)) {
        return values;
    }
    let one = |value| if is_other(value) { nan } else { value };
    Arc::new(numbers.unary::<_, T>(one))
}

/// One value, its NaN as [`with_one_nan`] has it.
fn scalar_with_one_nan(value: ScalarValue) -> ScalarValue {
    match value {
        ScalarValue::Float16(Some(of)) if of.is_nan() => ScalarValue::Float16(Some(Half::NAN)),
        ScalarValue::Float32(Some(of)) if of.is_nan() => ScalarValue::Float32(Some(f32::NAN)),
        ScalarValue::Float64(Some(of)) if of.is_nan() => ScalarValue::Float64(Some(f64::NAN)),
        other => other,
    }
}

fn one_nan(values: &[ArrayRef]) -> Vec<ArrayRef> {
    values.iter().map(Arc::clone).map(with_one_nan).collect()
}

/// An accumulator that sees one NaN, and gives it.
#[derive(Debug)]
pub(super) struct OneNan {
    inner: Box<dyn Accumulator>,
}

impl OneNan {
    pub(super) fn new(inner: Box<dyn Accumulator>) -> Self {
        Self { inner }
    }
}

impl Accumulator for OneNan {
    fn update_batch(&mut self, values: &[ArrayRef]) -> Result<()> {
        self.inner.update_batch(&one_nan(values))
    }

    fn merge_batch(&mut self, states: &[ArrayRef]) -> Result<()> {
        self.inner.merge_batch(&one_nan(states))
    }

    fn retract_batch(&mut self, values: &[ArrayRef]) -> Result<()> {
        self.inner.retract_batch(&one_nan(values))
    }

    fn supports_retract_batch(&self) -> bool {
        self.inner.supports_retract_batch()
    }

    fn state(&mut self) -> Result<Vec<ScalarValue>> {
        self.inner.state()
    }

    fn evaluate(&mut self) -> Result<ScalarValue> {
        Ok(scalar_with_one_nan(self.inner.evaluate()?))
    }

    fn size(&self) -> usize {
        size_of_val(self) + self.inner.size()
    }
}

/// An accumulator of groups that sees one NaN, and gives it.
pub(super) struct OneNanGroups {
    inner: Box<dyn GroupsAccumulator>,
}

impl OneNanGroups {
    pub(super) fn new(inner: Box<dyn GroupsAccumulator>) -> Self {
        Self { inner }
    }
}

impl GroupsAccumulator for OneNanGroups {
    fn update_batch(
        &mut self,
        values: &[ArrayRef],
        group_indices: &[usize],
        opt_filter: Option<&BooleanArray>,
        total_num_groups: usize,
    ) -> Result<()> {
        let values = one_nan(values);
        self.inner
            .update_batch(&values, group_indices, opt_filter, total_num_groups)
    }

    fn evaluate(&mut self, emit_to: EmitTo) -> Result<ArrayRef> {
        Ok(with_one_nan(self.inner.evaluate(emit_to)?))
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
        let values = one_nan(values);
        self.inner
            .merge_batch(&values, group_indices, total_num_groups)
    }

    fn convert_to_state(
        &self,
        values: &[ArrayRef],
        opt_filter: Option<&BooleanArray>,
    ) -> Result<Vec<ArrayRef>> {
        self.inner.convert_to_state(&one_nan(values), opt_filter)
    }

    fn size(&self) -> usize {
        size_of_val(self) + self.inner.size()
    }
}

#[cfg(test)]
mod tests {
    use arrow::array::{Float32Array, Float64Array};

    use super::*;

    #[test]
    fn nan_has_one_form_and_all_else_is_kept() {
        let negative = f64::from_bits(f64::NAN.to_bits() | (1 << 63));
        let values: ArrayRef = Arc::new(Float64Array::from(vec![
            Some(negative),
            None,
            Some(-0.0),
            Some(f64::NEG_INFINITY),
        ]));
        let one = with_one_nan(values);
        let one = one.as_primitive::<Float64Type>();
        let bits: Vec<_> = one.iter().map(|value| value.map(f64::to_bits)).collect();
        let expected = [Some(f64::NAN), None, Some(-0.0), Some(f64::NEG_INFINITY)];
        assert_eq!(bits, expected.map(|value| value.map(f64::to_bits)));
        let small: ArrayRef = Arc::new(Float32Array::from(vec![-f32::NAN, 1.5]));
        let small = with_one_nan(small);
        let small = small.as_primitive::<Float32Type>();
        assert_eq!(small.value(0).to_bits(), f32::NAN.to_bits());
        assert_eq!(small.value(1), 1.5);
    }
}
