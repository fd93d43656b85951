//! `date_bin` of TIMESTAMP, in microseconds; for TIME it is DataFusion's.

use std::sync::Arc;

use arrow::array::AsArray;
use arrow::datatypes::{DataType, IntervalUnit, TimeUnit, TimestampMicrosecondType};
use datafusion::common::{Result, ScalarValue, exec_err, plan_err};
use datafusion::functions::datetime::date_bin::DateBinFunc;
use datafusion::logical_expr::sort_properties::{ExprProperties, SortProperties};
use datafusion::logical_expr::{
    ColumnarValue, Documentation, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature,
    Volatility,
};

use super::calendar::{civil, days, days_in_month};
use super::timestamp;
use crate::checked::out_of_range;
use crate::operands::scalar_or_array;

/// The function `date_bin(width, time [, origin])`.
pub(super) fn date_bin() -> ScalarUDF {
    ScalarUDF::from(DateBin {
        inner: DateBinFunc::new(),
        signature: Signature::user_defined(Volatility::Immutable),
    })
}

#[derive(Debug, PartialEq, Eq, Hash)]
struct DateBin {
    inner: DateBinFunc,
    signature: Signature,
}

const DAY: i64 = 86_400_000_000;

#[derive(Debug, Clone, Copy)]
enum Width {
    Micros(i128),
    Months(i64),
}

impl Width {
    /// # Errors
    ///
    /// A width that mixes months and days, is zero, or has parts of a microsecond.
    fn new(months: i32, days: i32, nanos: i64) -> Result<Self> {
        if months != 0 {
            return match (days, nanos) {
                (0, 0) => Ok(Width::Months(i64::from(months))),
                _ => plan_err!("the width of date_bin is of months, or of days and less, not both"),
            };
        }
        let nanos = i128::from(days) * i128::from(DAY) * 1000 + i128::from(nanos);
        match (nanos, nanos % 1000) {
            (0, _) => plan_err!("the width of date_bin is zero"),
            (_, 0) => Ok(Width::Micros(nanos / 1000)),
            _ => plan_err!("the width of date_bin is of whole microseconds"),
        }
    }

    /// The start of the bin that contains the time.
    fn start(self, time: i64, origin: i64) -> Option<i64> {
        match self {
            Width::Micros(width) => {
                let distance = i128::from(time) - i128::from(origin);
                let start = i128::from(origin) + distance.div_euclid(width.abs()) * width.abs();
                i64::try_from(start).ok()
            }
            Width::Months(width) => {
                let (year, month, _) = civil(time.div_euclid(DAY));
                let (from_year, from_month, _) = civil(origin.div_euclid(DAY));
                let width = width.abs();
                let distance = (year - from_year) * 12 + month - from_month;
                let bins = distance.div_euclid(width) * width;
                let start = add_months(origin, bins)?;
                match start > time {
                    true => add_months(origin, bins - width),
                    false => Some(start),
                }
            }
        }
    }
}

/// The same day of another month, or its last day.
fn add_months(time: i64, months: i64) -> Option<i64> {
    let (year, month, day) = civil(time.div_euclid(DAY));
    let months = year * 12 + month - 1 + months;
    let (year, month) = (months.div_euclid(12), months.rem_euclid(12) + 1);
    let day = day.min(days_in_month(year, month));
    days(year, month, day)
        .checked_mul(DAY)?
        .checked_add(time.rem_euclid(DAY))
}

impl ScalarUDFImpl for DateBin {
    fn name(&self) -> &str {
        self.inner.name()
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn coerce_types(&self, types: &[DataType]) -> Result<Vec<DataType>> {
        let (width, of, origin) = match types {
            [width, of] => (width, of, None),
            [width, of, origin] => (width, of, Some(origin)),
            _ => {
                return plan_err!(
                    "date_bin takes a width, a time and perhaps an origin, as in date_bin(INTERVAL '5 minutes', ts)"
                );
            }
        };
        let width = match width {
            DataType::Interval(IntervalUnit::DayTime | IntervalUnit::MonthDayNano) => width.clone(),
            _ => DataType::Interval(IntervalUnit::MonthDayNano),
        };
        let of = match of {
            DataType::Time32(_) | DataType::Time64(_) => of.clone(),
            DataType::Timestamp(_, zone) => {
                DataType::Timestamp(TimeUnit::Microsecond, zone.clone())
            }
            DataType::Null
            | DataType::Utf8
            | DataType::LargeUtf8
            | DataType::Utf8View
            | DataType::Date32
            | DataType::Date64 => timestamp(),
            other => return plan_err!("date_bin takes a time, not {other}"),
        };
        let origin = origin.map(|_| of.clone());
        Ok([Some(width), Some(of), origin]
            .into_iter()
            .flatten()
            .collect())
    }

    fn return_type(&self, types: &[DataType]) -> Result<DataType> {
        self.inner.return_type(types)
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let DataType::Timestamp(TimeUnit::Microsecond, zone) = args.args[1].data_type() else {
            return self.inner.invoke_with_args(args);
        };
        let result = DataType::Timestamp(TimeUnit::Microsecond, zone.clone());
        let width = match &args.args[0] {
            ColumnarValue::Scalar(width) if width.is_null() => {
                return Ok(ColumnarValue::Scalar(ScalarValue::try_from(&result)?));
            }
            ColumnarValue::Scalar(ScalarValue::IntervalDayTime(Some(width))) => {
                Width::new(0, width.days, i64::from(width.milliseconds) * 1_000_000)?
            }
            ColumnarValue::Scalar(ScalarValue::IntervalMonthDayNano(Some(width))) => {
                Width::new(width.months, width.days, width.nanoseconds)?
            }
            _ => return exec_err!("the width of date_bin is one interval for all rows"),
        };
        let origin = match args.args.get(2) {
            None => 0,
            Some(ColumnarValue::Scalar(ScalarValue::TimestampMicrosecond(Some(origin), _))) => {
                *origin
            }
            Some(ColumnarValue::Scalar(origin)) if origin.is_null() => {
                return Ok(ColumnarValue::Scalar(ScalarValue::try_from(&result)?));
            }
            Some(_) => return exec_err!("the origin of date_bin is one time for all rows"),
        };
        let is_scalar = matches!(args.args[1], ColumnarValue::Scalar(_));
        let times = args.args[1].to_array(1)?;
        let times = times.as_primitive::<TimestampMicrosecondType>();
        let starts = times
            .try_unary::<_, TimestampMicrosecondType, datafusion::error::DataFusionError>(
                |time| {
                    let start = width.start(time, origin);
                    start.ok_or_else(|| out_of_range("date_bin of a time", &result))
                },
            )?;
        let starts = starts.with_timezone_opt(zone);
        scalar_or_array(Arc::new(starts), is_scalar)
    }

    fn output_ordering(&self, input: &[ExprProperties]) -> Result<SortProperties> {
        self.inner.output_ordering(input)
    }

    fn documentation(&self) -> Option<&Documentation> {
        self.inner.documentation()
    }
}
