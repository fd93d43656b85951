//! `n * INTERVAL`, `INTERVAL * n` and `INTERVAL / n`, which DataFusion's operators lack.

use std::sync::Arc;

use arrow::array::{ArrayRef, AsArray, IntervalMonthDayNanoArray};
use arrow::datatypes::{
    DataType, Float64Type, Int64Type, IntervalMonthDayNano, IntervalMonthDayNanoType, IntervalUnit,
};
use arrow::error::ArrowError;
use datafusion::common::{DFSchema, Result, exec_datafusion_err, plan_err};
use datafusion::logical_expr::planner::{ExprPlanner, PlannerResult, RawBinaryExpr};
use datafusion::logical_expr::{
    ColumnarValue, ExprSchemable as _, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature,
    Volatility,
};
use datafusion::sql::sqlparser::ast::BinaryOperator;

const INTERVAL: DataType = DataType::Interval(IntervalUnit::MonthDayNano);
const NANOS_PER_DAY: i64 = 86_400_000_000_000;
/// The unit of computed intervals is the microsecond.
const NANOS_PER_MICRO: i64 = 1000;
/// Days of a month for its fractions, as in PostgreSQL.
const DAYS_PER_MONTH: i32 = 30;

/// `interval_times(interval, n)`: the interval multiplied by n.
#[must_use]
pub fn interval_times() -> ScalarUDF {
    function(false)
}

/// `interval_times`, or `interval_divided(interval, n)`: the interval divided by n.
fn function(is_divided: bool) -> ScalarUDF {
    ScalarUDF::from(ScaledInterval {
        is_divided,
        signature: Signature::user_defined(Volatility::Immutable),
    })
}

/// Plans the operators as calls of these functions.
#[derive(Debug, Default)]
pub struct IntervalPlanner;

impl ExprPlanner for IntervalPlanner {
    fn plan_binary_op(
        &self,
        expr: RawBinaryExpr,
        schema: &DFSchema,
    ) -> Result<PlannerResult<RawBinaryExpr>> {
        let is_divided = match expr.op {
            BinaryOperator::Multiply => false,
            BinaryOperator::Divide => true,
            _ => return Ok(PlannerResult::Original(expr)),
        };
        // An operand without a type yet, such as a parameter, is left to the other planners.
        let (Ok(left), Ok(right)) = (expr.left.get_type(schema), expr.right.get_type(schema))
        else {
            return Ok(PlannerResult::Original(expr));
        };
        let is_interval =
            |of: &DataType| matches!(of, DataType::Interval(_) | DataType::Duration(_));
        let (interval, number) = if is_interval(&left) && right.is_numeric() {
            (expr.left, expr.right)
        } else if is_interval(&right) && left.is_numeric() && !is_divided {
            (expr.right, expr.left)
        } else {
            return Ok(PlannerResult::Original(expr));
        };
        let call = function(is_divided).call(vec![interval, number]);
        Ok(PlannerResult::Planned(call))
    }
}

#[derive(Debug, PartialEq, Eq, Hash)]
struct ScaledInterval {
    is_divided: bool,
    signature: Signature,
}

impl ScalarUDFImpl for ScaledInterval {
    fn name(&self) -> &str {
        match self.is_divided {
            true => "interval_divided",
            false => "interval_times",
        }
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn coerce_types(&self, types: &[DataType]) -> Result<Vec<DataType>> {
        match types {
            [
                DataType::Interval(_) | DataType::Duration(_) | DataType::Null,
                number,
            ] => match number {
                number if number.is_integer() => Ok(vec![INTERVAL, DataType::Int64]),
                number if number.is_numeric() || number.is_null() => {
                    Ok(vec![INTERVAL, DataType::Float64])
                }
                _ => plan_err!("{} takes an interval and a number", self.name()),
            },
            _ => plan_err!("{} takes an interval and a number", self.name()),
        }
    }

    fn return_type(&self, _: &[DataType]) -> Result<DataType> {
        Ok(INTERVAL)
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let [intervals, numbers] = args.args.as_slice() else {
            return Err(exec_datafusion_err!("usage: {}(interval, n)", self.name()));
        };
        let intervals = intervals.to_array(args.number_rows)?;
        let numbers = numbers.to_array(args.number_rows)?;
        let scaled = match self.is_divided {
            true => scaled(&intervals, &numbers, divided_by_whole, divided),
            false => scaled(&intervals, &numbers, whole, fraction),
        };
        Ok(ColumnarValue::Array(scaled?))
    }
}

/// Applies `by_whole` or `by_fraction` to each interval and number.
fn scaled(
    intervals: &ArrayRef,
    numbers: &ArrayRef,
    by_whole: impl Fn(IntervalMonthDayNano, i64) -> Result<IntervalMonthDayNano>,
    by_fraction: impl Fn(IntervalMonthDayNano, f64) -> Result<IntervalMonthDayNano>,
) -> Result<ArrayRef> {
    let Some(intervals) = intervals.as_primitive_opt::<IntervalMonthDayNanoType>() else {
        return Err(exec_datafusion_err!(
            "{} is not a type of intervals",
            intervals.data_type()
        ));
    };
    let scaled: Result<IntervalMonthDayNanoArray> = match numbers.data_type() {
        DataType::Int64 => {
            let numbers = numbers.as_primitive::<Int64Type>().iter();
            let pairs = intervals.iter().zip(numbers);
            pairs
                .map(|pair| match pair {
                    (Some(interval), Some(number)) => by_whole(interval, number).map(Some),
                    _ => Ok(None),
                })
                .collect()
        }
        DataType::Float64 => {
            let numbers = numbers.as_primitive::<Float64Type>().iter();
            let pairs = intervals.iter().zip(numbers);
            pairs
                .map(|pair| match pair {
                    (Some(interval), Some(number)) => by_fraction(interval, number).map(Some),
                    _ => Ok(None),
                })
                .collect()
        }
        other => Err(exec_datafusion_err!(
            "an interval cannot be scaled by {other}"
        )),
    };
    Ok(Arc::new(scaled?))
}

fn whole(interval: IntervalMonthDayNano, n: i64) -> Result<IntervalMonthDayNano> {
    let product = || {
        let n32 = i32::try_from(n);
        let small = |part: i32| match (part, n32) {
            (0, _) => Some(0),
            (part, Ok(n)) => part.checked_mul(n),
            _ => None,
        };
        let nanoseconds = interval.nanoseconds.checked_mul(n)?;
        let (months, days) = (small(interval.months)?, small(interval.days)?);
        Some(IntervalMonthDayNano::new(months, days, nanoseconds))
    };
    product().ok_or_else(|| out_of_range(&n))
}

fn fraction(interval: IntervalMonthDayNano, n: f64) -> Result<IntervalMonthDayNano> {
    let (months, days) = (f64::from(interval.months), f64::from(interval.days));
    parts(months * n, days * n, interval.nanoseconds as f64 * n).ok_or_else(|| out_of_range(&n))
}

/// Divides each part directly: `1 / n` is not exact.
fn divided(interval: IntervalMonthDayNano, n: f64) -> Result<IntervalMonthDayNano> {
    if n == 0.0 {
        return Err(ArrowError::DivideByZero.into());
    }
    let (months, days) = (f64::from(interval.months), f64::from(interval.days));
    parts(months / n, days / n, interval.nanoseconds as f64 / n)
        .ok_or_else(|| quotient_out_of_range(&n))
}

/// The interval of these parts: fractions of months become days, those of days microseconds.
fn parts(months: f64, days: f64, nanos: f64) -> Option<IntervalMonthDayNano> {
    let days = days + months.fract() * f64::from(DAYS_PER_MONTH);
    let per_micro = NANOS_PER_MICRO as f64;
    let round = |nanos: f64| (nanos / per_micro).round() * per_micro;
    // A value that is a whole day once it is rounded counts as one.
    let per_day = NANOS_PER_DAY as f64;
    let of_day = round(days.fract() * per_day);
    let (days, of_day) = match of_day.abs() < per_day {
        true => (days.trunc(), days.fract() * per_day),
        false => (days.trunc() + days.signum(), 0.0),
    };
    // The result is exact to the microsecond, like all times here.
    let nanos = round(nanos + of_day);
    let months = months.trunc();
    let fits = |value: f64, limit: f64| value.is_finite() && value.abs() < limit;
    let limit = f64::from(i32::MAX);
    if !(fits(months, limit) && fits(days, limit) && fits(nanos, i64::MAX as f64)) {
        return None;
    }
    Some(IntervalMonthDayNano::new(
        months as i32,
        days as i32,
        nanos as i64,
    ))
}

/// The same for an integer.
fn divided_by_whole(interval: IntervalMonthDayNano, n: i64) -> Result<IntervalMonthDayNano> {
    if n == 0 {
        return Err(ArrowError::DivideByZero.into());
    }
    let quotient = || {
        let n = i128::from(n);
        let months = i128::from(interval.months);
        let days = i128::from(interval.days) + months % n * i128::from(DAYS_PER_MONTH);
        let nanos = i128::from(interval.nanoseconds) + days % n * i128::from(NANOS_PER_DAY);
        // To the microsecond, rounded half away from zero.
        let twice = n * i128::from(NANOS_PER_MICRO) * 2;
        let half = twice / 2 * nanos.signum() * n.signum();
        let nanos = (nanos * 2 + half) / twice * i128::from(NANOS_PER_MICRO);
        Some(IntervalMonthDayNano::new(
            i32::try_from(months / n).ok()?,
            i32::try_from(days / n).ok()?,
            i64::try_from(nanos).ok()?,
        ))
    };
    quotient().ok_or_else(|| quotient_out_of_range(&n))
}

fn out_of_range(n: &dyn std::fmt::Display) -> datafusion::error::DataFusionError {
    exec_datafusion_err!("an interval times {n} is out of range")
}

fn quotient_out_of_range(n: &dyn std::fmt::Display) -> datafusion::error::DataFusionError {
    exec_datafusion_err!("an interval divided by {n} is out of range")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_are_multiplied_and_fractions_go_down() {
        let interval = IntervalMonthDayNano::new(1, 1, 1_000_000_000);
        let times = |n| whole(interval, n).ok();
        assert_eq!(
            times(-3),
            Some(IntervalMonthDayNano::new(-3, -3, -3_000_000_000))
        );
        assert_eq!(times(i64::MAX), None);
        // Half a month is 15 days, half a day 12 hours.
        let half = fraction(interval, 0.5).ok();
        let twelve_hours = 43_200_000_000_000 + 500_000_000;
        assert_eq!(half, Some(IntervalMonthDayNano::new(0, 15, twelve_hours)));
        assert!(fraction(interval, f64::INFINITY).is_err());
        assert!(fraction(interval, f64::NAN).is_err());
    }

    #[test]
    fn parts_are_divided_and_rests_go_down() {
        let hour = 3_600_000_000_000;
        let by = |months, days, nanos, n| {
            let interval = IntervalMonthDayNano::new(months, days, nanos);
            let whole = divided_by_whole(interval, n).unwrap();
            assert_eq!(divided(interval, n as f64).unwrap(), whole, "{n}");
            (whole.months, whole.days, whole.nanoseconds)
        };
        assert_eq!(by(49, 0, 0, 49), (1, 0, 0));
        assert_eq!(by(-49, 0, 0, 49), (-1, 0, 0));
        assert_eq!(by(49, 49, 49 * hour, -49), (-1, -1, -hour));
        assert_eq!(by(3, 1, 0, 2), (1, 15, 12 * hour));
        assert_eq!(by(-3, -1, 0, 2), (-1, -15, -12 * hour));
        assert_eq!(by(1, 0, 0, 7), (0, 4, 24_685_714_286_000));
        assert_eq!(by(-1, 0, 0, 7), (0, -4, -24_685_714_286_000));
        assert_eq!(by(1, 0, 0, -7), (0, -4, -24_685_714_286_000));
        assert_eq!(by(0, 0, 1_000, 2), (0, 0, 1_000));
        assert_eq!(by(0, 0, -1_000, 2), (0, 0, -1_000));
        assert_eq!(by(0, 0, 1_000, 3), (0, 0, 0));
        // The remainders of parts with different signs are added.
        assert_eq!(by(1, -1, 0, 2), (0, 14, 12 * hour));
        let interval = IntervalMonthDayNano::new(i32::MIN, 0, 0);
        assert!(divided_by_whole(interval, -1).is_err());
        assert!(divided_by_whole(interval, 0).is_err());
        assert!(divided(interval, 0.0).is_err());
        assert!(divided(interval, f64::NAN).is_err());
    }

    #[test]
    fn a_day_that_is_almost_whole_is_one() {
        let nearly = fraction(IntervalMonthDayNano::new(49, 0, 0), 1.0 / 49.0).unwrap();
        assert_eq!(nearly, IntervalMonthDayNano::new(0, 30, 0));
        let hours = IntervalMonthDayNano::new(0, 0, 2 * NANOS_PER_DAY);
        let half = fraction(hours, 0.5).unwrap();
        assert_eq!(half, IntervalMonthDayNano::new(0, 0, NANOS_PER_DAY));
    }
}
