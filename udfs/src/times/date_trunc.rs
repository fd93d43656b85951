//! `date_trunc` of TIMESTAMP, in microseconds; for other types it is DataFusion's.

use std::sync::Arc;

use arrow::array::timezone::Tz;
use arrow::array::{Array, AsArray};
use arrow::datatypes::{DataType, FieldRef, TimeUnit, TimestampMicrosecondType};
use chrono::{
    DateTime, Datelike, LocalResult, NaiveDate, NaiveDateTime, Offset, TimeDelta, TimeZone, Utc,
};
use datafusion::common::{Result, ScalarValue, internal_err, plan_err};
use datafusion::functions::datetime::date_trunc::DateTruncFunc;
use datafusion::logical_expr::sort_properties::{ExprProperties, SortProperties};
use datafusion::logical_expr::{
    ColumnarValue, Documentation, ReturnFieldArgs, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl,
    Signature, Volatility,
};

use super::calendar::{civil, days};
use super::timestamp;
use crate::checked::out_of_range;
use crate::operands::scalar_or_array;

/// The function `date_trunc(unit, time)`.
pub(super) fn date_trunc() -> ScalarUDF {
    ScalarUDF::from(DateTrunc {
        inner: DateTruncFunc::new(),
        signature: Signature::user_defined(Volatility::Immutable),
    })
}

#[derive(Debug, PartialEq, Eq, Hash)]
struct DateTrunc {
    inner: DateTruncFunc,
    signature: Signature,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Unit {
    /// A fixed number of microseconds, the same in every zone.
    Micros(i64),
    Hour,
    Day,
    Week,
    Month,
    Quarter,
    Year,
}

const SECOND: i64 = 1_000_000;
const HOUR: i64 = 3600 * SECOND;
const DAY: i64 = 24 * HOUR;

impl Unit {
    /// `None`: DataFusion's error lists the units.
    fn new(name: &str) -> Option<Self> {
        Some(match name.to_ascii_lowercase().as_str() {
            "microsecond" => Unit::Micros(1),
            "millisecond" => Unit::Micros(1000),
            "second" => Unit::Micros(SECOND),
            "minute" => Unit::Micros(60 * SECOND),
            "hour" => Unit::Hour,
            "day" => Unit::Day,
            "week" => Unit::Week,
            "month" => Unit::Month,
            "quarter" => Unit::Quarter,
            "year" => Unit::Year,
            _ => return None,
        })
    }

    /// The start of the unit that contains the time, both in UTC.
    fn start(self, time: i64) -> Option<i64> {
        let day = time.div_euclid(DAY);
        let first = match self {
            Unit::Micros(ticks) => return time.checked_sub(time.rem_euclid(ticks)),
            Unit::Hour => return time.checked_sub(time.rem_euclid(HOUR)),
            Unit::Day => day,
            // 1970-01-01 was a Thursday.
            Unit::Week => day - (day + 3).rem_euclid(7),
            Unit::Month => day - (civil(day).2 - 1),
            Unit::Quarter => {
                let (year, month, _) = civil(day);
                days(year, 1 + 3 * ((month - 1) / 3), 1)
            }
            Unit::Year => days(civil(day).0, 1, 1),
        };
        first.checked_mul(DAY)
    }

    /// The same by the local time of a zone.
    fn start_in(self, time: i64, zone: Tz) -> Option<i64> {
        if let Unit::Micros(_) = self {
            return self.start(time);
        }
        let time = DateTime::<Utc>::from_timestamp_micros(time)?.with_timezone(&zone);
        let local = time.naive_local();
        let date = local.date();
        let first = match self {
            Unit::Hour => {
                let hour = local.and_utc().timestamp_micros();
                let start = self.start(hour)?;
                DateTime::<Utc>::from_timestamp_micros(start)?.naive_utc()
            }
            Unit::Week => {
                let back = TimeDelta::days(i64::from(date.weekday().num_days_from_monday()));
                midnight(date.checked_sub_signed(back)?)?
            }
            Unit::Month => midnight(date.with_day(1)?)?,
            Unit::Quarter => {
                let month = 1 + 3 * (date.month0() / 3);
                midnight(NaiveDate::from_ymd_opt(date.year(), month, 1)?)?
            }
            Unit::Year => midnight(NaiveDate::from_ymd_opt(date.year(), 1, 1)?)?,
            Unit::Micros(_) | Unit::Day => midnight(date)?,
        };
        let start = match zone.from_local_datetime(&first) {
            LocalResult::Single(start) => start,
            // Clocks were set back here: an hour occurs twice, a day or a longer unit only once.
            LocalResult::Ambiguous(earlier, later) => {
                let is_later = later.offset().fix() == time.offset().fix();
                match self == Unit::Hour && is_later {
                    true => later,
                    false => earlier,
                }
            }
            // Clocks were set forward over it: the first moment after the gap.
            LocalResult::None => {
                let before = first.checked_sub_signed(TimeDelta::hours(3))?;
                let before = zone.from_local_datetime(&before).single()?;
                before.checked_add_signed(TimeDelta::hours(3))?
            }
        };
        Some(start.timestamp_micros())
    }
}

fn midnight(date: NaiveDate) -> Option<NaiveDateTime> {
    date.and_hms_opt(0, 0, 0)
}

impl ScalarUDFImpl for DateTrunc {
    fn name(&self) -> &str {
        self.inner.name()
    }

    fn aliases(&self) -> &[String] {
        self.inner.aliases()
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn coerce_types(&self, types: &[DataType]) -> Result<Vec<DataType>> {
        let [_, of] = types else {
            return plan_err!("date_trunc takes a unit and a time, as in date_trunc('day', ts)");
        };
        let of = match of {
            DataType::Timestamp(TimeUnit::Nanosecond, zone) => {
                DataType::Timestamp(TimeUnit::Microsecond, zone.clone())
            }
            DataType::Timestamp(..) | DataType::Time32(_) | DataType::Time64(_) => of.clone(),
            DataType::Null
            | DataType::Utf8
            | DataType::LargeUtf8
            | DataType::Utf8View
            | DataType::Date32
            | DataType::Date64 => timestamp(),
            other => return plan_err!("date_trunc takes a time, not {other}"),
        };
        Ok(vec![DataType::Utf8, of])
    }

    fn return_type(&self, _: &[DataType]) -> Result<DataType> {
        internal_err!("the type of date_trunc goes by its arguments")
    }

    fn return_field_from_args(&self, args: ReturnFieldArgs) -> Result<FieldRef> {
        self.inner.return_field_from_args(args)
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let unit = match &args.args[..] {
            [ColumnarValue::Scalar(ScalarValue::Utf8(Some(unit))), _] => Unit::new(unit),
            _ => None,
        };
        let (Some(unit), DataType::Timestamp(TimeUnit::Microsecond, zone)) =
            (unit, args.args[1].data_type())
        else {
            return self.inner.invoke_with_args(args);
        };
        let is_utc = zone
            .as_deref()
            .is_none_or(|zone| matches!(zone, "UTC" | "+00:00" | "Z"));
        let start: Box<dyn Fn(i64) -> Option<i64>> = match (&zone, is_utc) {
            (Some(zone), false) => {
                let zone: Tz = zone.parse()?;
                Box::new(move |time| unit.start_in(time, zone))
            }
            _ => Box::new(move |time| unit.start(time)),
        };
        let is_scalar = matches!(args.args[1], ColumnarValue::Scalar(_));
        let times = args.args[1].to_array(1)?;
        let times = times.as_primitive::<TimestampMicrosecondType>();
        let starts = times
            .try_unary::<_, TimestampMicrosecondType, datafusion::error::DataFusionError>(
                |time| {
                    start(time)
                        .ok_or_else(|| out_of_range("date_trunc of a time", times.data_type()))
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
