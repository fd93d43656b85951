//! `date_part` and `extract`: DataFusion's functions, with an error instead of NULL for a part that does not fit, and with
//! days, hours, minutes and fractional seconds of intervals.

use std::str::FromStr;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, Float64Array, Int64Array, IntervalMonthDayNanoArray};
use arrow::compute::cast;
use arrow::compute::kernels::cast_utils::IntervalUnit;
use arrow::datatypes::{
    DataType, FieldRef, Float64Type, Int64Type, IntervalMonthDayNano, TimeUnit,
};
use datafusion::common::{Result, internal_err};
use datafusion::functions::datetime::date_part::DatePartFunc;
use datafusion::logical_expr::planner::{ExprPlanner, PlannerResult};
use datafusion::logical_expr::preimage::PreimageResult;
use datafusion::logical_expr::simplify::SimplifyContext;
use datafusion::logical_expr::{
    ColumnarValue, Documentation, Expr, ReturnFieldArgs, ScalarFunctionArgs, ScalarUDF,
    ScalarUDFImpl, Signature,
};

use super::intervals::{INTERVAL, NANOS_PER_DAY};
use crate::checked::out_of_range;
use crate::operands::scalar_or_array;
use crate::window::ticks_per_second;

/// The function `date_part(part, time)`, also for `extract`.
pub(super) fn date_part() -> ScalarUDF {
    ScalarUDF::from(DatePart {
        inner: DatePartFunc::new(),
    })
}

#[derive(Debug, PartialEq, Eq, Hash)]
struct DatePart {
    inner: DatePartFunc,
}

impl ScalarUDFImpl for DatePart {
    fn name(&self) -> &str {
        self.inner.name()
    }

    fn aliases(&self) -> &[String] {
        self.inner.aliases()
    }

    fn signature(&self) -> &Signature {
        self.inner.signature()
    }

    fn return_type(&self, _: &[DataType]) -> Result<DataType> {
        internal_err!("the type of date_part goes by its arguments")
    }

    fn return_field_from_args(&self, args: ReturnFieldArgs) -> Result<FieldRef> {
        self.inner.return_field_from_args(args)
    }

    fn invoke_with_args(&self, mut args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let is_scalar = matches!(args.args[1], ColumnarValue::Scalar(_));
        let times = args.args[1].to_array(1)?;
        let part = match &args.args[0] {
            ColumnarValue::Scalar(part) => part.try_as_str().flatten().unwrap_or_default(),
            ColumnarValue::Array(_) => "",
        };
        let result = args.return_type().clone();
        let what = format!("date_part('{part}', …)");
        let unit = IntervalUnit::from_str(part.trim_matches('\'')).ok();
        let rows = times.len();
        let parts: ArrayRef = match times.data_type() {
            DataType::Duration(of) if part.eq_ignore_ascii_case("epoch") => seconds(&times, *of)?,
            // The duration as days, and a rest of less than a day.
            DataType::Duration(of) => {
                let intervals = in_days(&times, *of)?;
                if intervals.null_count() > times.null_count() {
                    return Err(out_of_range(what, &result));
                }
                match unit.and_then(|unit| of_minute(&intervals, &unit)) {
                    Some(parts) => cast(&parts, &result)?,
                    None => {
                        args.args[1] = ColumnarValue::Array(Arc::new(intervals));
                        self.inner.invoke_with_args(args)?.to_array(rows)?
                    }
                }
            }
            DataType::Interval(_) => {
                let intervals = cast(&times, &INTERVAL)?;
                match unit.and_then(|unit| of_minute(intervals.as_primitive(), &unit)) {
                    Some(parts) => cast(&parts, &result)?,
                    None => self.inner.invoke_with_args(args)?.to_array(rows)?,
                }
            }
            _ => self.inner.invoke_with_args(args)?.to_array(rows)?,
        };
        // Arrow returns NULL for a part that does not fit.
        if parts.null_count() > times.null_count() {
            return Err(out_of_range(what, &result));
        }
        scalar_or_array(parts, is_scalar)
    }

    fn preimage(
        &self,
        args: &[Expr],
        literal: &Expr,
        info: &SimplifyContext,
    ) -> Result<PreimageResult> {
        self.inner.preimage(args, literal, info)
    }

    fn documentation(&self) -> Option<&Documentation> {
        self.inner.documentation()
    }
}

/// Plans `extract(part FROM time)`.
#[derive(Debug)]
pub(crate) struct ExtractPlanner;

impl ExprPlanner for ExtractPlanner {
    fn plan_extract(&self, args: Vec<Expr>) -> Result<PlannerResult<Vec<Expr>>> {
        Ok(PlannerResult::Planned(date_part().call(args)))
    }
}

/// The length of intervals in seconds.
fn seconds(intervals: &ArrayRef, unit: TimeUnit) -> Result<ArrayRef> {
    let ticks = ticks_per_second(unit) as f64;
    let intervals = cast(intervals, &DataType::Int64)?;
    let intervals = intervals.as_primitive::<Int64Type>();
    let seconds: Float64Array =
        intervals.unary::<_, Float64Type>(|interval| interval as f64 / ticks);
    Ok(Arc::new(seconds))
}

/// Lengths in days and the rest of a day. A length that is too large becomes NULL.
fn in_days(lengths: &ArrayRef, unit: TimeUnit) -> Result<IntervalMonthDayNanoArray> {
    let nanos = 1_000_000_000 / ticks_per_second(unit);
    let of_day = NANOS_PER_DAY / nanos;
    let lengths = cast(lengths, &DataType::Int64)?;
    let lengths = lengths.as_primitive::<Int64Type>().iter();
    let in_days = |length: i64| {
        let days = i32::try_from(length / of_day).ok()?;
        Some(IntervalMonthDayNano::new(0, days, length % of_day * nanos))
    };
    Ok(lengths.map(|length| length.and_then(in_days)).collect())
}

/// The part of an interval within a minute in this unit, with the fraction of a second; `None` for any other part. The engine
/// returns whole seconds.
fn of_minute(intervals: &IntervalMonthDayNanoArray, unit: &IntervalUnit) -> Option<Int64Array> {
    let nanos = match unit {
        IntervalUnit::Second => 1_000_000_000,
        IntervalUnit::Millisecond => 1_000_000,
        IntervalUnit::Microsecond => 1_000,
        IntervalUnit::Nanosecond => 1,
        _ => return None,
    };
    let of_minute = 60_000_000_000 / nanos;
    Some(intervals.unary::<_, Int64Type>(|of| of.nanoseconds / nanos % of_minute))
}
