//! `n * INTERVAL`, `INTERVAL * n` and `INTERVAL / n`, which DataFusion's operators lack.

use std::sync::Arc;

use arrow::array::{ArrayRef, AsArray, IntervalMonthDayNanoArray};
use arrow::datatypes::{
    DataType, Float64Type, Int64Type, IntervalMonthDayNano, IntervalMonthDayNanoType, IntervalUnit,
};
use datafusion::common::{DFSchema, Result, exec_datafusion_err};
use datafusion::logical_expr::planner::{ExprPlanner, PlannerResult, RawBinaryExpr};
use datafusion::logical_expr::{
    ColumnarValue, ExprSchemable as _, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature,
    Volatility, cast, lit,
};
use datafusion::sql::sqlparser::ast::BinaryOperator;

const INTERVAL: DataType = DataType::Interval(IntervalUnit::MonthDayNano);
const NANOS_PER_DAY: f64 = 86_400e9;
/// A fraction of a month is of one of so many days, as PostgreSQL has it.
const DAYS_PER_MONTH: f64 = 30.0;

/// `interval_times(interval, n)`: as long n times over.
#[must_use]
pub fn interval_times() -> ScalarUDF {
    ScalarUDF::from(IntervalTimes {
        signature: Signature::any(2, Volatility::Immutable),
    })
}

/// Plans the operators as calls of [`interval_times`].
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
        // What has no type yet, such as a parameter, is left to the others.
        let (Ok(left), Ok(right)) = (expr.left.get_type(schema), expr.right.get_type(schema))
        else {
            return Ok(PlannerResult::Original(expr));
        };
        let is_interval = |of: &DataType| matches!(of, DataType::Interval(_));
        let (interval, number, of) = if is_interval(&left) && right.is_numeric() {
            (expr.left, expr.right, right)
        } else if is_interval(&right) && left.is_numeric() && !is_divided {
            (expr.right, expr.left, left)
        } else {
            return Ok(PlannerResult::Original(expr));
        };
        let number = match is_divided {
            true => lit(1.0) / cast(number, DataType::Float64),
            false if of.is_integer() => cast(number, DataType::Int64),
            false => cast(number, DataType::Float64),
        };
        let call = interval_times().call(vec![cast(interval, INTERVAL), number]);
        Ok(PlannerResult::Planned(call))
    }
}

#[derive(Debug, PartialEq, Eq, Hash)]
struct IntervalTimes {
    signature: Signature,
}

impl ScalarUDFImpl for IntervalTimes {
    fn name(&self) -> &str {
        "interval_times"
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, _: &[DataType]) -> Result<DataType> {
        Ok(INTERVAL)
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let [intervals, numbers] = args.args.as_slice() else {
            return Err(exec_datafusion_err!("usage: interval_times(interval, n)"));
        };
        let intervals = intervals.to_array(args.number_rows)?;
        let numbers = numbers.to_array(args.number_rows)?;
        Ok(ColumnarValue::Array(times(&intervals, &numbers)?))
    }
}

fn times(intervals: &ArrayRef, numbers: &ArrayRef) -> Result<ArrayRef> {
    let Some(intervals) = intervals.as_primitive_opt::<IntervalMonthDayNanoType>() else {
        return Err(exec_datafusion_err!(
            "interval_times takes an interval and a number"
        ));
    };
    let product: Result<IntervalMonthDayNanoArray> = match numbers.data_type() {
        DataType::Int64 => {
            let numbers = numbers.as_primitive::<Int64Type>().iter();
            let pairs = intervals.iter().zip(numbers);
            pairs
                .map(|pair| match pair {
                    (Some(interval), Some(number)) => whole(interval, number).map(Some),
                    _ => Ok(None),
                })
                .collect()
        }
        DataType::Float64 => {
            let numbers = numbers.as_primitive::<Float64Type>().iter();
            let pairs = intervals.iter().zip(numbers);
            pairs
                .map(|pair| match pair {
                    (Some(interval), Some(number)) => fraction(interval, number).map(Some),
                    _ => Ok(None),
                })
                .collect()
        }
        other => Err(exec_datafusion_err!("interval_times takes no {other}")),
    };
    Ok(Arc::new(product?))
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
    let months = f64::from(interval.months) * n;
    let days = f64::from(interval.days) * n + months.fract() * DAYS_PER_MONTH;
    // The fraction of a day is exact to the microsecond, as all times here are.
    let nanos = interval.nanoseconds as f64 * n + days.fract() * NANOS_PER_DAY;
    let nanos = (nanos / 1e3).round() * 1e3;
    let (months, days) = (months.trunc(), days.trunc());
    let fits = |value: f64, limit: f64| value.is_finite() && value.abs() < limit;
    let limit = f64::from(i32::MAX);
    if !(fits(months, limit) && fits(days, limit) && fits(nanos, i64::MAX as f64)) {
        return Err(out_of_range(&n));
    }
    Ok(IntervalMonthDayNano::new(
        months as i32,
        days as i32,
        nanos as i64,
    ))
}

fn out_of_range(n: &dyn std::fmt::Display) -> datafusion::error::DataFusionError {
    exec_datafusion_err!("an interval times {n} is out of range")
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
}
