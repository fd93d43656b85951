//! SUM that refuses a result which does not fit its type, and returns the same for any order of rows.

use std::sync::Arc;

use arrow::datatypes::{
    DataType, Decimal32Type, Decimal64Type, Decimal128Type, Decimal256Type,
    DurationMicrosecondType, DurationMillisecondType, DurationNanosecondType, DurationSecondType,
    Field, FieldRef, IntervalDayTimeType, IntervalMonthDayNanoType, IntervalUnit,
    IntervalYearMonthType, TimeUnit,
};
use datafusion::common::Result;
use datafusion::functions_aggregate::sum::{Sum, sum_udaf};
use datafusion::logical_expr::function::{AccumulatorArgs, StateFieldsArgs};
use datafusion::logical_expr::type_coercion::functions::fields_with_udf;
use datafusion::logical_expr::utils::{AggregateOrderSensitivity, format_state_name};
use datafusion::logical_expr::{
    Accumulator, AggregateUDF, AggregateUDFImpl, Documentation, GroupsAccumulator, ReversedUDAF,
    SetMonotonicity, Signature,
};

use super::distinct::DistinctRows;
use super::frame_doubles::DoublesInFrame;
use super::nan::{NormalizedNan, NormalizedNanGroups};
use super::sum_groups::sum_groups;
use super::sum_rows::{SumDistinctInFrame, SumIntegers, SumRows, is_summed_in_frames};
use super::wide_sums::{SumShape, state_type};

/// The aggregate function `sum`.
#[must_use]
pub(crate) fn sum() -> AggregateUDF {
    let inner = Sum::new();
    AggregateUDF::from(CheckedSum {
        signature: Signature::user_defined(inner.signature().volatility),
        inner,
    })
}

/// The argument types of a numeric aggregate, with a numeric type instead of that of an untyped NULL.
pub(super) fn with_typed_nulls(
    of: &AggregateUDF,
    types: &[DataType],
    null: &DataType,
) -> Result<Vec<DataType>> {
    let types = types.iter().map(|of| match of {
        DataType::Null => null,
        other => other,
    });
    let fields = types.map(|of| Arc::new(Field::new("", of.clone(), true)));
    let fields = fields_with_udf(&fields.collect::<Vec<FieldRef>>(), of)?;
    let types = fields.iter().map(|field| field.data_type().clone());
    Ok(types.collect())
}

/// DataFusion's SUM with other accumulators.
#[derive(Debug, PartialEq, Eq, Hash)]
struct CheckedSum {
    inner: Sum,
    signature: Signature,
}

/// Calls `$helper!(T)` with the type of the accumulator for sums of type `$result`; `$float` for DOUBLE, which does not
/// overflow.
macro_rules! by_type {
    ($result:expr, $helper:ident, $other:expr) => {
        match $result {
            DataType::Int64 | DataType::UInt64 | DataType::Decimal128(..) => {
                $helper!(Decimal128Type)
            }
            DataType::Decimal32(..) => $helper!(Decimal32Type),
            DataType::Decimal64(..) => $helper!(Decimal64Type),
            DataType::Decimal256(..) => $helper!(Decimal256Type),
            DataType::Duration(TimeUnit::Second) => $helper!(DurationSecondType),
            DataType::Duration(TimeUnit::Millisecond) => $helper!(DurationMillisecondType),
            DataType::Duration(TimeUnit::Microsecond) => $helper!(DurationMicrosecondType),
            DataType::Duration(TimeUnit::Nanosecond) => $helper!(DurationNanosecondType),
            DataType::Interval(IntervalUnit::YearMonth) => $helper!(IntervalYearMonthType),
            DataType::Interval(IntervalUnit::DayTime) => $helper!(IntervalDayTimeType),
            DataType::Interval(IntervalUnit::MonthDayNano) => $helper!(IntervalMonthDayNanoType),
            _ => $other,
        }
    };
}

impl AggregateUDFImpl for CheckedSum {
    fn name(&self) -> &str {
        self.inner.name()
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    /// A column of NULLs only has no type, also before a UNION gives it one.
    fn coerce_types(&self, types: &[DataType]) -> Result<Vec<DataType>> {
        with_typed_nulls(&sum_udaf(), types, &DataType::Int64)
    }

    fn return_type(&self, types: &[DataType]) -> Result<DataType> {
        self.inner.return_type(types)
    }

    fn accumulator(&self, args: AccumulatorArgs) -> Result<Box<dyn Accumulator>> {
        let result = args.return_field.data_type().clone();
        if result == DataType::Float64 {
            return Ok(Box::new(NormalizedNan::new(self.inner.accumulator(args)?)));
        }
        let shape = SumShape::new(args.name, &result);
        if args.is_distinct {
            macro_rules! distinct {
                ($t:ty) => {{
                    let values = self.inner.accumulator(args)?;
                    Ok(Box::new(DistinctRows::new(
                        values,
                        SumRows::<$t>::new(shape),
                    )))
                }};
            }
            return by_type!(&result, distinct, self.inner.accumulator(args));
        }
        if matches!(result, DataType::Int64 | DataType::UInt64) {
            return Ok(Box::new(SumIntegers::new(shape)));
        }
        macro_rules! rows {
            ($t:ty) => {
                Ok(Box::new(SumRows::<$t>::new(shape)))
            };
        }
        by_type!(&result, rows, self.inner.accumulator(args))
    }

    fn create_sliding_accumulator(&self, args: AccumulatorArgs) -> Result<Box<dyn Accumulator>> {
        let result = args.return_field.data_type();
        if args.is_distinct && is_summed_in_frames(result) {
            let shape = SumShape::new(args.name, result);
            return Ok(Box::new(SumDistinctInFrame::new(shape)));
        }
        if args.is_distinct {
            return self.inner.create_sliding_accumulator(args);
        }
        if *result == DataType::Float64 {
            return Ok(Box::new(DoublesInFrame::sum()));
        }
        self.accumulator(args)
    }

    fn state_fields(&self, args: StateFieldsArgs) -> Result<Vec<FieldRef>> {
        if args.is_distinct {
            return self.inner.state_fields(args);
        }
        let name = format_state_name(args.name, "sum");
        let field = Field::new(name, state_type(args.return_type()), true);
        Ok(vec![Arc::new(field)])
    }

    fn groups_accumulator_supported(&self, args: AccumulatorArgs) -> bool {
        self.inner.groups_accumulator_supported(args)
    }

    fn create_groups_accumulator(
        &self,
        args: AccumulatorArgs,
    ) -> Result<Box<dyn GroupsAccumulator>> {
        let result = args.return_field.data_type().clone();
        if result == DataType::Float64 {
            let sums = self.inner.create_groups_accumulator(args)?;
            return Ok(Box::new(NormalizedNanGroups::new(sums)));
        }
        let shape = SumShape::new(args.name, &result);
        macro_rules! groups {
            ($t:ty) => {
                Ok(sum_groups::<$t>(shape))
            };
        }
        by_type!(&result, groups, self.inner.create_groups_accumulator(args))
    }

    fn reverse_expr(&self) -> ReversedUDAF {
        ReversedUDAF::Identical
    }

    fn order_sensitivity(&self) -> AggregateOrderSensitivity {
        self.inner.order_sensitivity()
    }

    fn set_monotonicity(&self, data_type: &DataType) -> SetMonotonicity {
        self.inner.set_monotonicity(data_type)
    }

    fn documentation(&self) -> Option<&Documentation> {
        self.inner.documentation()
    }
}
