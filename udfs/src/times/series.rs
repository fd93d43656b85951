//! `generate_series` and `range` of TIMESTAMP, in microseconds; for numbers and dates they are DataFusion's, with a check for a
//! step that does not advance, by which DataFusion's would never end.

use std::str::FromStr as _;
use std::sync::Arc;

use arrow::array::timezone::Tz;
use arrow::array::{ArrayRef, AsArray, ListBuilder, TimestampMicrosecondBuilder};
use arrow::compute::cast;
use arrow::datatypes::{
    DataType, Field, IntervalMonthDayNano, IntervalMonthDayNanoType, IntervalUnit, TimeUnit,
    TimestampMicrosecondType,
};
use datafusion::common::{Result, exec_err, plan_err};
use datafusion::functions_nested::range::{gen_series_udf, range_udf};
use datafusion::logical_expr::{
    ColumnarValue, Documentation, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature,
};

/// `generate_series(start, stop, step)`, which includes the stop, and `range(start, stop, step)`, which excludes it.
pub(super) fn functions() -> [ScalarUDF; 2] {
    let of = |inner, has_stop| ScalarUDF::from(Series { inner, has_stop });
    [of(gen_series_udf(), true), of(range_udf(), false)]
}

#[derive(Debug, PartialEq, Eq, Hash)]
struct Series {
    inner: Arc<ScalarUDF>,
    has_stop: bool,
}

impl ScalarUDFImpl for Series {
    fn name(&self) -> &str {
        self.inner.name()
    }

    fn signature(&self) -> &Signature {
        self.inner.signature()
    }

    fn return_type(&self, types: &[DataType]) -> Result<DataType> {
        match types {
            [DataType::Timestamp(_, zone), ..] if !types.iter().any(DataType::is_null) => {
                let of = DataType::Timestamp(TimeUnit::Microsecond, zone.clone());
                Ok(DataType::List(Arc::new(Field::new_list_field(of, true))))
            }
            _ => self.inner.return_type(types),
        }
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let zone = match args.return_type() {
            DataType::List(field) => match field.data_type() {
                DataType::Timestamp(_, zone) => zone.clone(),
                DataType::Date32 => {
                    self.check_steps(&args)?;
                    return self.inner.invoke_with_args(args);
                }
                _ => return self.inner.invoke_with_args(args),
            },
            _ => return self.inner.invoke_with_args(args),
        };
        let is_scalar = args
            .args
            .iter()
            .all(|arg| matches!(arg, ColumnarValue::Scalar(_)));
        let count = if is_scalar { 1 } else { args.number_rows };
        let arrays = args.args.into_iter().map(|arg| arg.into_array(count));
        let arrays = arrays.collect::<Result<Vec<_>>>()?;
        let [start, stop, step] = arrays.as_slice() else {
            return plan_err!(
                "{} of times takes a start, a stop and a step, as in {}(ts, ts + INTERVAL '1 day', INTERVAL '1 hour')",
                self.name(),
                self.name()
            );
        };
        let series = self.series(start, stop, step, zone)?;
        match is_scalar {
            true => Ok(ColumnarValue::Scalar(
                datafusion::common::ScalarValue::try_from_array(&series, 0)?,
            )),
            false => Ok(ColumnarValue::Array(series)),
        }
    }

    fn documentation(&self) -> Option<&Documentation> {
        self.inner.documentation()
    }
}

impl Series {
    /// Refuses steps between dates whose parts have different signs: `1 month -28 days` does not advance in February.
    fn check_steps(&self, args: &ScalarFunctionArgs) -> Result<()> {
        let Some(steps) = args.args.get(2) else {
            return Ok(());
        };
        let steps = match steps {
            ColumnarValue::Array(steps) => Arc::clone(steps),
            ColumnarValue::Scalar(step) => step.to_array()?,
        };
        let steps = cast(&steps, &DataType::Interval(IntervalUnit::MonthDayNano))?;
        let mut steps = steps
            .as_primitive::<IntervalMonthDayNanoType>()
            .iter()
            .flatten();
        let turns_back = |step: IntervalMonthDayNano| {
            let has_forward = step.months > 0 || step.days > 0 || step.nanoseconds > 0;
            let has_back = step.months < 0 || step.days < 0 || step.nanoseconds < 0;
            has_forward && has_back
        };
        match steps.any(turns_back) {
            true => self.turns_back(),
            false => Ok(()),
        }
    }

    fn turns_back(&self) -> Result<()> {
        exec_err!(
            "the step of {} is zero or turns back: use one with parts of one sign",
            self.name()
        )
    }

    fn series(
        &self,
        start: &ArrayRef,
        stop: &ArrayRef,
        step: &ArrayRef,
        zone: Option<Arc<str>>,
    ) -> Result<ArrayRef> {
        let tz = Tz::from_str(zone.as_deref().unwrap_or("+00:00"))?;
        let micros = DataType::Timestamp(TimeUnit::Microsecond, zone);
        let (start, stop) = (cast(start, &micros)?, cast(stop, &micros)?);
        let step = cast(step, &DataType::Interval(IntervalUnit::MonthDayNano))?;
        let starts = start.as_primitive::<TimestampMicrosecondType>();
        let stops = stop.as_primitive::<TimestampMicrosecondType>();
        let steps = step.as_primitive::<IntervalMonthDayNanoType>();
        let values = TimestampMicrosecondBuilder::new().with_data_type(micros);
        let mut lists = ListBuilder::new(values);
        for ((start, stop), step) in starts.iter().zip(stops).zip(steps) {
            let (Some(start), Some(stop), Some(step)) = (start, stop, step) else {
                lists.append_null();
                continue;
            };
            self.one(start, stop, step, tz, lists.values())?;
            lists.append(true);
        }
        Ok(Arc::new(lists.finish()))
    }

    fn one(
        &self,
        start: i64,
        stop: i64,
        step: IntervalMonthDayNano,
        tz: Tz,
        values: &mut TimestampMicrosecondBuilder,
    ) -> Result<()> {
        if step.nanoseconds % 1000 != 0 {
            return exec_err!("the step of {} is of whole microseconds", self.name());
        }
        let next = |time| TimestampMicrosecondType::add_month_day_nano(time, step, tz);
        let Some(second) = next(start) else {
            return exec_err!(
                "{}: its start and one step are out of range of TIMESTAMP",
                self.name()
            );
        };
        if second == start {
            return self.turns_back();
        }
        let is_upwards = second > start;
        let mut time = start;
        loop {
            let is_behind = match is_upwards {
                true => time > stop,
                false => time < stop,
            };
            if is_behind || (time == stop && !self.has_stop) {
                return Ok(());
            }
            values.append_value(time);
            let Some(following) = next(time) else {
                return Ok(());
            };
            if following == time || (following > time) != is_upwards {
                return self.turns_back();
            }
            time = following;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DAY: i64 = 86_400_000_000;

    fn times(
        has_stop: bool,
        start: i64,
        stop: i64,
        step: IntervalMonthDayNano,
    ) -> Result<Vec<i64>> {
        let [generate_series, range] = functions();
        let of = if has_stop { generate_series } else { range };
        let series = Series {
            inner: Arc::new(of),
            has_stop,
        };
        let mut values = TimestampMicrosecondBuilder::new();
        let tz = Tz::from_str("+00:00")?;
        series.one(start, stop, step, tz, &mut values)?;
        Ok(values.finish().values().to_vec())
    }

    #[test]
    fn a_series_goes_up_and_down_to_its_stop() {
        let step = |days| IntervalMonthDayNano::new(0, days, 0);
        assert_eq!(times(true, 0, 2 * DAY, step(1)).unwrap(), [0, DAY, 2 * DAY]);
        assert_eq!(times(false, 0, 2 * DAY, step(1)).unwrap(), [0, DAY]);
        assert_eq!(times(true, 0, -DAY, step(-1)).unwrap(), [0, -DAY]);
        assert_eq!(times(true, 0, -DAY, step(1)).unwrap(), [0_i64; 0]);
    }

    #[test]
    fn a_step_that_does_not_move_is_an_error() {
        for step in [
            IntervalMonthDayNano::new(0, 0, 0),
            IntervalMonthDayNano::new(0, 0, 500),
            IntervalMonthDayNano::new(1, -30, 0),
        ] {
            times(true, 0, 400 * DAY, step).unwrap_err();
        }
    }
}
