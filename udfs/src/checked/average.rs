//! AVG of integers from their exact sum, AVG of decimals with rounding, and AVG of intervals between times that refuses a sum
//! out of range. AVG of DOUBLE is DataFusion's, except for window frames.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray};
use arrow::compute::{cast, sum_checked};
use arrow::datatypes::{DataType, Field, FieldRef, Int64Type, UInt64Type};
use datafusion::common::{Result, ScalarValue};
use datafusion::functions_aggregate::average::{Avg, avg_udaf};
use datafusion::logical_expr::function::{AccumulatorArgs, StateFieldsArgs};
use datafusion::logical_expr::utils::{AggregateOrderSensitivity, format_state_name};
use datafusion::logical_expr::{
    Accumulator, AggregateUDF, AggregateUDFImpl, Documentation, GroupsAccumulator, ReversedUDAF,
    Signature, Volatility,
};

use super::average_decimals::{AverageDecimalGroups, AverageDecimals, Rounding};
use super::average_integers::{AverageGroups, AverageRows, average_of_distinct, kept_as};
use super::frame_doubles::DoublesInFrame;
use super::nan::{NormalizedNan, NormalizedNanGroups};
use super::overflow::out_of_range;
use super::sum::with_typed_nulls;
use super::wide_sums::WIDE;

/// The aggregate function `avg`.
#[must_use]
pub(crate) fn avg() -> AggregateUDF {
    AggregateUDF::from(CheckedAverage {
        inner: Avg::new(),
        signature: Signature::user_defined(Volatility::Immutable),
    })
}

/// DataFusion's AVG, with accumulators of its own for integers, intervals, decimals, and window frames of DOUBLE.
#[derive(Debug, PartialEq, Eq, Hash)]
pub(super) struct CheckedAverage {
    inner: Avg,
    signature: Signature,
}

/// Whether it averages integers: they are not converted to DOUBLE before they are summed.
fn is_of_integers(arguments: &[FieldRef]) -> bool {
    matches!(arguments, [of] if of.data_type().is_integer())
}

/// Wraps DataFusion's sums of decimals, so that their average is rounded.
fn rounded(sums: Box<dyn Accumulator>, rounding: Option<Rounding>) -> Box<dyn Accumulator> {
    match rounding {
        Some(rounding) => Box::new(AverageDecimals::new(sums, rounding)),
        None => sums,
    }
}

fn is_of_intervals(args: &AccumulatorArgs) -> bool {
    matches!(args.return_type(), DataType::Duration(_))
}

impl AggregateUDFImpl for CheckedAverage {
    fn name(&self) -> &str {
        self.inner.name()
    }

    fn aliases(&self) -> &[String] {
        self.inner.aliases()
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    /// A column of NULLs only has no type, also before a UNION gives it one.
    fn coerce_types(&self, types: &[DataType]) -> Result<Vec<DataType>> {
        match types {
            [of] if of.is_integer() => Ok(types.to_vec()),
            _ => with_typed_nulls(&avg_udaf(), types, &DataType::Float64),
        }
    }

    fn return_type(&self, types: &[DataType]) -> Result<DataType> {
        self.inner.return_type(types)
    }

    fn accumulator(&self, args: AccumulatorArgs) -> Result<Box<dyn Accumulator>> {
        if is_of_integers(args.expr_fields) {
            return Ok(match (args.is_distinct, args.expr_fields[0].data_type()) {
                (false, _) => Box::new(AverageRows::default()),
                (true, DataType::UInt64) => average_of_distinct::<UInt64Type>(),
                (true, _) => average_of_distinct::<Int64Type>(),
            });
        }
        if is_of_intervals(&args) && !args.is_distinct {
            return Ok(Box::new(AverageInterval {
                sum: 0,
                rows: 0,
                name: args.name.to_owned(),
                result: args.return_type().clone(),
            }));
        }
        let is_of_doubles = *args.return_type() == DataType::Float64;
        let rounding = Rounding::new(&args);
        let sums = self.inner.accumulator(args)?;
        Ok(match is_of_doubles {
            true => Box::new(NormalizedNan::new(sums)),
            false => rounded(sums, rounding),
        })
    }

    fn create_sliding_accumulator(&self, args: AccumulatorArgs) -> Result<Box<dyn Accumulator>> {
        if is_of_intervals(&args) || is_of_integers(args.expr_fields) {
            return self.accumulator(args);
        }
        if *args.return_type() == DataType::Float64 && !args.is_distinct {
            return Ok(Box::new(DoublesInFrame::average()));
        }
        let rounding = Rounding::new(&args);
        let sums = self.inner.create_sliding_accumulator(args)?;
        Ok(rounded(sums, rounding))
    }

    fn state_fields(&self, args: StateFieldsArgs) -> Result<Vec<FieldRef>> {
        if !is_of_integers(args.input_fields) {
            return self.inner.state_fields(args);
        }
        if args.is_distinct {
            let value = kept_as(args.input_fields[0].data_type());
            let value = Field::new_list_field(value, true);
            let name = format_state_name(args.name, "avg distinct");
            return Ok(vec![Arc::new(Field::new_list(name, value, false))]);
        }
        let rows = Field::new(
            format_state_name(args.name, "count"),
            DataType::UInt64,
            true,
        );
        let sum = Field::new(format_state_name(args.name, "sum"), WIDE, true);
        Ok(vec![Arc::new(rows), Arc::new(sum)])
    }

    fn groups_accumulator_supported(&self, args: AccumulatorArgs) -> bool {
        !is_of_intervals(&args) && self.inner.groups_accumulator_supported(args)
    }

    fn create_groups_accumulator(
        &self,
        args: AccumulatorArgs,
    ) -> Result<Box<dyn GroupsAccumulator>> {
        if is_of_integers(args.expr_fields) {
            return Ok(Box::new(AverageGroups::default()));
        }
        let is_of_doubles = *args.return_type() == DataType::Float64;
        let rounding = Rounding::new(&args);
        let sums = self.inner.create_groups_accumulator(args)?;
        Ok(match rounding {
            Some(rounding) => Box::new(AverageDecimalGroups::new(sums, rounding)),
            None if is_of_doubles => Box::new(NormalizedNanGroups::new(sums)),
            None => sums,
        })
    }

    fn reverse_expr(&self) -> ReversedUDAF {
        ReversedUDAF::Identical
    }

    fn order_sensitivity(&self) -> AggregateOrderSensitivity {
        self.inner.order_sensitivity()
    }

    fn documentation(&self) -> Option<&Documentation> {
        self.inner.documentation()
    }
}

/// The average of intervals, in ticks of their unit.
#[derive(Debug)]
struct AverageInterval {
    sum: i128,
    rows: u64,
    name: String,
    result: DataType,
}

impl AverageInterval {
    fn ticks(values: &ArrayRef) -> Result<ArrayRef> {
        Ok(cast(values, &DataType::Int64)?)
    }

    fn scalar(&self, ticks: Option<i64>) -> Result<ScalarValue> {
        ScalarValue::Int64(ticks).cast_to(&self.result)
    }
}

impl Accumulator for AverageInterval {
    fn update_batch(&mut self, values: &[ArrayRef]) -> Result<()> {
        let ticks = Self::ticks(&values[0])?;
        let ticks = ticks.as_primitive::<Int64Type>();
        self.sum += ticks.iter().flatten().map(i128::from).sum::<i128>();
        self.rows += (ticks.len() - ticks.null_count()) as u64;
        Ok(())
    }

    fn retract_batch(&mut self, values: &[ArrayRef]) -> Result<()> {
        let ticks = Self::ticks(&values[0])?;
        let ticks = ticks.as_primitive::<Int64Type>();
        self.sum -= ticks.iter().flatten().map(i128::from).sum::<i128>();
        self.rows -= (ticks.len() - ticks.null_count()) as u64;
        Ok(())
    }

    fn supports_retract_batch(&self) -> bool {
        true
    }

    fn merge_batch(&mut self, states: &[ArrayRef]) -> Result<()> {
        self.rows += sum_checked(states[0].as_primitive::<UInt64Type>())?.unwrap_or(0);
        let ticks = Self::ticks(&states[1])?;
        let ticks = ticks.as_primitive::<Int64Type>().iter().flatten();
        self.sum += ticks.map(i128::from).sum::<i128>();
        Ok(())
    }

    fn state(&mut self) -> Result<Vec<ScalarValue>> {
        let sum = i64::try_from(self.sum);
        let sum = sum.map_err(|_| out_of_range(&self.name, &self.result))?;
        let sum = self.scalar((self.rows > 0).then_some(sum))?;
        Ok(vec![ScalarValue::UInt64(Some(self.rows)), sum])
    }

    fn evaluate(&mut self) -> Result<ScalarValue> {
        if self.rows == 0 {
            return self.scalar(None);
        }
        let average = i64::try_from(self.sum / i128::from(self.rows));
        let average = average.map_err(|_| out_of_range(&self.name, &self.result))?;
        self.scalar(Some(average))
    }

    fn size(&self) -> usize {
        size_of_val(self) + self.name.capacity()
    }
}
