//! MIN and MAX for which NaN is above all numbers, for any order of rows and any grouping.
//!
//! DataFusion's own lose NaN in groups if a number follows it, and initialize groups with the largest finite number, which
//! infinity does not replace.

use std::fmt::Debug;
use std::hash::Hash;

use arrow::array::{ArrowNativeTypeOp, ArrowPrimitiveType};
use arrow::datatypes::{DataType, Float16Type, Float32Type, Float64Type};
use datafusion::common::{Result, ScalarValue};
use datafusion::functions_aggregate::min_max::{Max, Min};
use datafusion::logical_expr::function::AccumulatorArgs;
use datafusion::logical_expr::utils::AggregateOrderSensitivity;
use datafusion::logical_expr::{
    Accumulator, AggregateUDF, AggregateUDFImpl, Documentation, GroupsAccumulator, ReversedUDAF,
    SetMonotonicity, Signature, StatisticsArgs,
};
use datafusion_functions_aggregate_common::aggregate::groups_accumulator::prim_op::PrimitiveGroupsAccumulator;

use super::nan::{NormalizedNan, NormalizedNanGroups};

/// The aggregate function `min`.
#[must_use]
pub(crate) fn min() -> AggregateUDF {
    AggregateUDF::from(MinMax {
        inner: Min::new(),
        is_greatest: false,
    })
}

/// The aggregate function `max`.
#[must_use]
pub(crate) fn max() -> AggregateUDF {
    AggregateUDF::from(MinMax {
        inner: Max::new(),
        is_greatest: true,
    })
}

/// DataFusion's function, with another comparison of floating point numbers.
#[derive(Debug, PartialEq, Eq, Hash)]
struct MinMax<F> {
    inner: F,
    is_greatest: bool,
}

impl<F: AggregateUDFImpl + Debug + Eq + Hash> AggregateUDFImpl for MinMax<F> {
    fn name(&self) -> &str {
        self.inner.name()
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

    fn accumulator(&self, args: AccumulatorArgs) -> Result<Box<dyn Accumulator>> {
        let is_floating = args.return_type().is_floating();
        let inner = self.inner.accumulator(args)?;
        Ok(match is_floating {
            true => Box::new(NormalizedNan::new(inner)),
            false => inner,
        })
    }

    fn create_sliding_accumulator(&self, args: AccumulatorArgs) -> Result<Box<dyn Accumulator>> {
        let is_floating = args.return_type().is_floating();
        let inner = self.inner.create_sliding_accumulator(args)?;
        Ok(match is_floating {
            true => Box::new(NormalizedNan::new(inner)),
            false => inner,
        })
    }

    fn groups_accumulator_supported(&self, args: AccumulatorArgs) -> bool {
        self.inner.groups_accumulator_supported(args)
    }

    fn create_groups_accumulator(
        &self,
        args: AccumulatorArgs,
    ) -> Result<Box<dyn GroupsAccumulator>> {
        let inner = match args.return_type() {
            DataType::Float16 => groups::<Float16Type>(self.is_greatest),
            DataType::Float32 => groups::<Float32Type>(self.is_greatest),
            DataType::Float64 => groups::<Float64Type>(self.is_greatest),
            _ => return self.inner.create_groups_accumulator(args),
        };
        Ok(Box::new(NormalizedNanGroups::new(inner)))
    }

    fn is_descending(&self) -> Option<bool> {
        self.inner.is_descending()
    }

    fn order_sensitivity(&self) -> AggregateOrderSensitivity {
        self.inner.order_sensitivity()
    }

    fn reverse_expr(&self) -> ReversedUDAF {
        ReversedUDAF::Identical
    }

    fn value_from_stats(&self, args: &StatisticsArgs) -> Option<ScalarValue> {
        // Writers of statistics leave NaN out.
        match args.return_type.is_floating() {
            true => None,
            false => self.inner.value_from_stats(args),
        }
    }

    fn set_monotonicity(&self, data_type: &DataType) -> SetMonotonicity {
        self.inner.set_monotonicity(data_type)
    }

    fn documentation(&self) -> Option<&Documentation> {
        self.inner.documentation()
    }
}

/// The extremes of groups, by Arrow's order of all values.
fn groups<T: ArrowPrimitiveType + Send>(is_greatest: bool) -> Box<dyn GroupsAccumulator> {
    if is_greatest {
        let greatest = |kept: &mut T::Native, value: T::Native| {
            if value.is_gt(*kept) {
                *kept = value;
            }
        };
        let groups = PrimitiveGroupsAccumulator::<T, _>::new(&T::DATA_TYPE, greatest);
        return Box::new(groups.with_starting_value(T::Native::MIN_TOTAL_ORDER));
    }
    let least = |kept: &mut T::Native, value: T::Native| {
        if value.is_lt(*kept) {
            *kept = value;
        }
    };
    let groups = PrimitiveGroupsAccumulator::<T, _>::new(&T::DATA_TYPE, least);
    Box::new(groups.with_starting_value(T::Native::MAX_TOTAL_ORDER))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow::array::{ArrayRef, AsArray, Float64Array};
    use datafusion::functions_aggregate::min_max::MaxAccumulator;
    use datafusion::logical_expr::EmitTo;

    use super::*;

    fn negative_nan() -> f64 {
        f64::from_bits(f64::NAN.to_bits() | (1 << 63))
    }

    fn extremes(is_greatest: bool) -> NormalizedNanGroups {
        NormalizedNanGroups::new(groups::<Float64Type>(is_greatest))
    }

    /// The extreme of each of three groups, by every execution path: all rows at once, one by one, and by merged states.
    fn by_all_ways(is_greatest: bool, rows: &[(usize, Option<f64>)]) -> Vec<Option<f64>> {
        let groups: Vec<usize> = rows.iter().map(|row| row.0).collect();
        let values: Float64Array = rows.iter().map(|row| row.1).collect();
        let values: [ArrayRef; 1] = [Arc::new(values)];
        let result = |mut groups: NormalizedNanGroups| {
            let result = groups.evaluate(EmitTo::All).unwrap();
            let bits = result.as_primitive::<Float64Type>().iter();
            bits.map(|value| value.map(f64::to_bits))
                .collect::<Vec<_>>()
        };

        let mut at_once = extremes(is_greatest);
        at_once.update_batch(&values, &groups, None, 3).unwrap();
        let mut one_by_one = extremes(is_greatest);
        for (row, group) in groups.iter().enumerate() {
            let value = [values[0].slice(row, 1)];
            one_by_one.update_batch(&value, &[*group], None, 3).unwrap();
        }
        let mut of_states = extremes(is_greatest);
        let states = extremes(is_greatest)
            .convert_to_state(&values, None)
            .unwrap();
        of_states.merge_batch(&states, &groups, 3).unwrap();
        let state = of_states.state(EmitTo::All).unwrap();
        let mut of_state = extremes(is_greatest);
        of_state.merge_batch(&state, &[0, 1, 2], 3).unwrap();

        let found = result(at_once);
        assert_eq!(found, result(one_by_one));
        assert_eq!(found, result(of_state));
        found
            .into_iter()
            .map(|value| value.map(f64::from_bits))
            .collect()
    }

    #[test]
    fn nan_is_above_all_numbers_in_groups() {
        let nan = Some(f64::NAN);
        let rows = [
            (0, Some(1.0)),
            (0, nan),
            (0, Some(negative_nan())),
            (0, Some(-2.0)),
            (1, Some(negative_nan())),
            (1, None),
            (1, nan),
            (2, Some(f64::INFINITY)),
        ];
        let reversed: Vec<_> = rows.iter().copied().rev().collect();
        for rows in [&rows[..], &reversed] {
            let greatest = by_all_ways(true, rows);
            assert!(greatest[..2].iter().flatten().all(|value| value.is_nan()));
            assert_eq!(greatest[2], Some(f64::INFINITY));
            let least = by_all_ways(false, rows);
            assert_eq!(least[0], Some(-2.0));
            assert!(least[1].is_some_and(f64::is_nan));
            assert_eq!(least[2], Some(f64::INFINITY));
        }
    }

    #[test]
    fn groups_return_only_values_of_their_rows() {
        // NULL comes first: groups without any row are not evaluated.
        let rows = [
            (2, None),
            (0, Some(f64::NEG_INFINITY)),
            (1, Some(f64::INFINITY)),
        ];
        let expected = [Some(f64::NEG_INFINITY), Some(f64::INFINITY), None];
        assert_eq!(by_all_ways(true, &rows), expected);
        assert_eq!(by_all_ways(false, &rows), expected);
    }

    #[test]
    fn rows_that_are_not_grouped_have_one_nan() {
        let greatest = MaxAccumulator::try_new(&DataType::Float64).unwrap();
        let mut greatest = NormalizedNan::new(Box::new(greatest));
        let values: ArrayRef = Arc::new(Float64Array::from(vec![1.0, negative_nan()]));
        greatest.update_batch(&[values]).unwrap();
        let ScalarValue::Float64(Some(value)) = greatest.evaluate().unwrap() else {
            panic!("it has rows");
        };
        assert_eq!(value.to_bits(), f64::NAN.to_bits());
    }
}
