//! Normalization of NaN to one value, above all numbers.
//!
//! Arrow sorts NaN with a sign below all numbers, and distinguishes NaN by its bits. Processors give results the sign: infinity
//! minus itself, zero by zero, the root of a negative number. Sums of infinities have it as well, and so have files of other
//! writers: [`with_one_nan_within`] normalizes data that is read.

use std::sync::Arc;

use arrow::array::{
    Array, ArrayData, ArrayRef, ArrowPrimitiveType, AsArray, BooleanArray, make_array,
};
use arrow::datatypes::{DataType, FieldRef, Float16Type, Float32Type, Float64Type};
use datafusion::common::{Result, ScalarValue};
use datafusion::functions::math;
use datafusion::logical_expr::interval_arithmetic::Interval;
use datafusion::logical_expr::simplify::{ExprSimplifyResult, SimplifyContext};
use datafusion::logical_expr::sort_properties::{ExprProperties, SortProperties};
use datafusion::logical_expr::{
    Accumulator, ColumnarValue, Documentation, EmitTo, Expr, GroupsAccumulator, ReturnFieldArgs,
    ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature,
};

type AccumulatorHalf = <Float16Type as ArrowPrimitiveType>::Native;

/// The numbers of a block: whether one of them is another NaN is checked after each block.
const BLOCK: usize = 1024;

/// Normalizes all NaN of floating point numbers to the same bits, also within arrays, maps and structs; other values stay
/// unchanged.
///
/// # Errors
///
/// None for values that are valid.
pub fn with_one_nan_within(values: ArrayRef) -> Result<ArrayRef> {
    mapped_within(values, one)
}

/// Replaces arrays of floating point numbers, also within arrays, maps and structs. `map` gives `None` for an array that stays.
pub(super) fn mapped_within(
    values: ArrayRef,
    map: fn(&ArrayRef) -> Option<ArrayRef>,
) -> Result<ArrayRef> {
    if values.data_type().is_floating() {
        return Ok(map(&values).unwrap_or(values));
    }
    Ok(match within(&values.to_data(), map)? {
        Some(data) => make_array(data),
        None => values,
    })
}

/// The values with replaced numbers; `None` if all of them stay.
fn within(data: &ArrayData, map: fn(&ArrayRef) -> Option<ArrayRef>) -> Result<Option<ArrayData>> {
    if data.data_type().is_floating() {
        let mapped = map(&make_array(data.clone()));
        return Ok(mapped.map(|mapped| mapped.to_data()));
    }
    let mut is_changed = false;
    let mut children = Vec::with_capacity(data.child_data().len());
    for child in data.child_data() {
        let mapped = within(child, map)?;
        is_changed |= mapped.is_some();
        children.push(mapped.unwrap_or_else(|| child.clone()));
    }
    if !is_changed {
        return Ok(None);
    }
    let data = data.clone().into_builder().child_data(children).build()?;
    Ok(Some(data))
}

/// The same for an array of numbers.
pub(super) fn with_one_nan(values: ArrayRef) -> ArrayRef {
    one(&values).unwrap_or(values)
}

/// The numbers with normalized NaN; `None` if they contain no other NaN.
fn one(values: &ArrayRef) -> Option<ArrayRef> {
    match values.data_type() {
        DataType::Float16 => {
            let is_other = |value: AccumulatorHalf| {
                value.is_nan() && value.to_bits() != AccumulatorHalf::NAN.to_bits()
            };
            replaced::<Float16Type>(values, is_other, AccumulatorHalf::NAN)
        }
        DataType::Float32 => {
            let is_other = |value: f32| value.is_nan() && value.to_bits() != f32::NAN.to_bits();
            replaced::<Float32Type>(values, is_other, f32::NAN)
        }
        DataType::Float64 => {
            let is_other = |value: f64| value.is_nan() && value.to_bits() != f64::NAN.to_bits();
            replaced::<Float64Type>(values, is_other, f64::NAN)
        }
        _ => None,
    }
}

fn replaced<T: ArrowPrimitiveType>(
    values: &ArrayRef,
    is_other: impl Fn(T::Native) -> bool,
    nan: T::Native,
) -> Option<ArrayRef> {
    let numbers = values.as_primitive::<T>();
    // No early exit within a block, so that the compiler can vectorize the loop.
    let has_other = numbers.values().chunks(BLOCK).any(|block| {
        let numbers = block.iter();
        numbers.fold(false, |found, number| found | is_other(*number))
    });
    if !has_other {
        return None;
    }
    let one = |value| if is_other(value) { nan } else { value };
    Some(Arc::new(numbers.unary::<_, T>(one)))
}

/// The functions whose result for numbers may be NaN.
pub(crate) fn functions() -> [ScalarUDF; 13] {
    let functions = [
        math::acos(),
        math::acosh(),
        math::asin(),
        math::atanh(),
        math::cos(),
        math::cot(),
        math::ln(),
        math::log(),
        math::log10(),
        math::log2(),
        math::power(),
        math::sin(),
        math::tan(),
    ];
    functions.map(|inner| ScalarUDF::from(NormalizedNanFunction { inner }))
}

/// The library's function with normalized NaN in its result.
#[derive(Debug, PartialEq, Eq, Hash)]
struct NormalizedNanFunction {
    inner: Arc<ScalarUDF>,
}

impl ScalarUDFImpl for NormalizedNanFunction {
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
        self.inner.coerce_types(types)
    }

    fn return_type(&self, types: &[DataType]) -> Result<DataType> {
        self.inner.return_type(types)
    }

    fn return_field_from_args(&self, args: ReturnFieldArgs) -> Result<FieldRef> {
        self.inner.return_field_from_args(args)
    }

    fn is_strict(&self) -> bool {
        self.inner.is_strict()
    }

    fn simplify(&self, args: Vec<Expr>, context: &SimplifyContext) -> Result<ExprSimplifyResult> {
        self.inner.simplify(args, context)
    }

    fn output_ordering(&self, input: &[ExprProperties]) -> Result<SortProperties> {
        self.inner.inner().output_ordering(input)
    }

    fn evaluate_bounds(&self, input: &[&Interval]) -> Result<Interval> {
        self.inner.evaluate_bounds(input)
    }

    fn documentation(&self) -> Option<&Documentation> {
        self.inner.documentation()
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        Ok(match self.inner.invoke_with_args(args)? {
            ColumnarValue::Array(values) => ColumnarValue::Array(with_one_nan(values)),
            ColumnarValue::Scalar(value) => ColumnarValue::Scalar(scalar_with_one_nan(value)),
        })
    }
}

/// A scalar value with its NaN normalized as in [`with_one_nan`].
fn scalar_with_one_nan(value: ScalarValue) -> ScalarValue {
    match value {
        ScalarValue::Float16(Some(of)) if of.is_nan() => {
            ScalarValue::Float16(Some(AccumulatorHalf::NAN))
        }
        ScalarValue::Float32(Some(of)) if of.is_nan() => ScalarValue::Float32(Some(f32::NAN)),
        ScalarValue::Float64(Some(of)) if of.is_nan() => ScalarValue::Float64(Some(f64::NAN)),
        other => other,
    }
}

fn one_nan(values: &[ArrayRef]) -> Vec<ArrayRef> {
    values.iter().map(Arc::clone).map(with_one_nan).collect()
}

/// An accumulator that normalizes NaN in its input and its result.
#[derive(Debug)]
pub(super) struct NormalizedNan {
    inner: Box<dyn Accumulator>,
}

impl NormalizedNan {
    pub(super) fn new(inner: Box<dyn Accumulator>) -> Self {
        Self { inner }
    }
}

impl Accumulator for NormalizedNan {
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

/// A groups accumulator that normalizes NaN in its input and its result.
pub(super) struct NormalizedNanGroups {
    inner: Box<dyn GroupsAccumulator>,
}

impl NormalizedNanGroups {
    pub(super) fn new(inner: Box<dyn GroupsAccumulator>) -> Self {
        Self { inner }
    }
}

impl GroupsAccumulator for NormalizedNanGroups {
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
    use arrow::array::{Float32Array, Float64Array, ListArray, StructArray};
    use arrow::datatypes::Field;

    use super::*;

    #[test]
    fn nan_is_normalized_and_other_values_are_kept() {
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
    #[test]
    fn nan_within_arrays_and_structs_has_one_form() {
        let list = ListArray::from_iter_primitive::<Float64Type, _, _>(vec![
            Some(vec![Some(1.0), Some(-f64::NAN), None]),
            None,
            Some(vec![Some(-f64::NAN)]),
        ]);
        // The child data of a sliced array has the elements of all rows.
        let list: ArrayRef = Arc::new(list.slice(1, 2));
        let field = Arc::new(Field::new("d", list.data_type().clone(), true));
        let all: ArrayRef = Arc::new(StructArray::from(vec![(field, list)]));
        let one = with_one_nan_within(Arc::clone(&all)).unwrap();
        assert_eq!(one.data_type(), all.data_type());
        let lists = one.as_struct().column(0).as_list::<i32>();
        assert!(lists.is_null(0));
        let last = lists.value(1);
        let last = last.as_primitive::<Float64Type>();
        assert_eq!(last.value(0).to_bits(), f64::NAN.to_bits());
        // An array without NaN is not copied.
        let again = with_one_nan_within(Arc::clone(&one)).unwrap();
        assert_eq!(again.to_data().child_data(), one.to_data().child_data());
        assert!(within(&one.to_data(), super::one).unwrap().is_none());
    }

    #[test]
    fn functions_give_one_nan() {
        let [acos, ..] = functions();
        let values: ArrayRef = Arc::new(Float64Array::from(vec![2.0, 1.0]));
        let field = Arc::new(Field::new("", DataType::Float64, true));
        let args = ScalarFunctionArgs {
            args: vec![ColumnarValue::Array(values)],
            arg_fields: vec![Arc::clone(&field)],
            number_rows: 2,
            return_field: field,
            config_options: Arc::new(datafusion::config::ConfigOptions::default()),
        };
        let angles = acos.invoke_with_args(args).unwrap().into_array(2).unwrap();
        let angles = angles.as_primitive::<Float64Type>();
        assert_eq!(angles.value(0).to_bits(), f64::NAN.to_bits());
        assert_eq!(angles.value(1), 0.0);
    }
}
