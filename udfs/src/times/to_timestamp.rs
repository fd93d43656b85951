//! `to_timestamp` and its variants: numbers and texts to TIMESTAMP, in microseconds.

use std::borrow::Cow;
use std::sync::Arc;

use arrow::array::timezone::Tz;
use arrow::array::{Array, ArrayRef, AsArray, StringArray, TimestampMicrosecondArray};
use arrow::compute::kernels::cast_utils::string_to_datetime;
use arrow::compute::{CastOptions, cast_with_options};
use arrow::datatypes::{
    DataType, Decimal128Type, DecimalType, Field, FieldRef, Float64Type, Int64Type, TimeUnit,
};
use chrono::format::{Parsed, StrftimeItems, parse};
use chrono::{DateTime, NaiveTime, TimeZone, Utc};
use datafusion::common::{Result, plan_err};
use datafusion::config::ConfigOptions;
use datafusion::error::DataFusionError;
use datafusion::logical_expr::{
    ColumnarValue, ReturnFieldArgs, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature,
    Volatility,
};

use super::pattern;
use super::seconds::with_seconds;
use crate::checked::out_of_range;
use crate::diagnostic::data_error;
use crate::operands::{are_scalars, scalar_or_array};

/// The functions, one for each unit of numbers.
pub(super) fn functions() -> Vec<ScalarUDF> {
    let units = [
        ("to_timestamp", TimeUnit::Second, TimeUnit::Microsecond),
        ("to_timestamp_seconds", TimeUnit::Second, TimeUnit::Second),
        (
            "to_timestamp_millis",
            TimeUnit::Millisecond,
            TimeUnit::Millisecond,
        ),
        (
            "to_timestamp_micros",
            TimeUnit::Microsecond,
            TimeUnit::Microsecond,
        ),
        (
            "to_timestamp_nanos",
            TimeUnit::Nanosecond,
            TimeUnit::Nanosecond,
        ),
    ];
    let function = |(name, numbers, precision)| {
        ScalarUDF::from(ToTimestamp {
            name,
            numbers,
            precision,
            zone: None,
            signature: Signature::user_defined(Volatility::Immutable),
        })
    };
    units.into_iter().map(function).collect()
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct ToTimestamp {
    name: &'static str,
    /// The unit of numbers.
    numbers: TimeUnit,
    /// Times of texts are truncated to this unit.
    precision: TimeUnit,
    /// The zone of texts without an offset, and of the result; UTC if none is set.
    zone: Option<Arc<str>>,
    signature: Signature,
}

impl ToTimestamp {
    /// Reads texts, and numbers of seconds, for another function; times are truncated to the second.
    pub(super) fn of_seconds(name: &'static str, zone: Option<&str>) -> Self {
        Self {
            name,
            numbers: TimeUnit::Second,
            precision: TimeUnit::Second,
            zone: zone.map(Arc::from),
            signature: Signature::user_defined(Volatility::Immutable),
        }
    }

    fn zone(&self) -> Arc<str> {
        self.zone.clone().unwrap_or_else(|| "UTC".into())
    }

    fn result(&self) -> DataType {
        DataType::Timestamp(TimeUnit::Microsecond, Some(self.zone()))
    }

    fn refuse(&self, value: impl std::fmt::Display) -> DataFusionError {
        out_of_range(format!("{}({value})", self.name), &self.result())
    }

    /// The times of numbers, or of texts by the first pattern that matches.
    pub(super) fn micros(
        &self,
        values: &ArrayRef,
        patterns: &[ArrayRef],
    ) -> Result<TimestampMicrosecondArray> {
        let (times, of): (i128, i128) = match self.numbers {
            TimeUnit::Second => (1_000_000, 1),
            TimeUnit::Millisecond => (1000, 1),
            TimeUnit::Microsecond => (1, 1),
            TimeUnit::Nanosecond => (1, 1000),
        };
        match values.data_type() {
            DataType::Null => Ok(TimestampMicrosecondArray::new_null(values.len())),
            DataType::Int64 => values.as_primitive::<Int64Type>().try_unary(|value| {
                let micros = (i128::from(value) * times).div_euclid(of);
                i64::try_from(micros).map_err(|_| self.refuse(value))
            }),
            DataType::Decimal128(_, scale) => {
                let of_unit = match self.numbers {
                    TimeUnit::Second => 6,
                    TimeUnit::Millisecond => 3,
                    TimeUnit::Microsecond => 0,
                    TimeUnit::Nanosecond => -3,
                };
                // The power of ten between the digits of the number and microseconds.
                let shift = of_unit - i32::from(*scale);
                values.as_primitive::<Decimal128Type>().try_unary(|value| {
                    let micros = shifted(value, shift);
                    let micros = micros.and_then(|micros| i64::try_from(micros).ok());
                    micros.ok_or_else(|| {
                        self.refuse(Decimal128Type::format_decimal(value, 38, *scale))
                    })
                })
            }
            DataType::Float64 => values.as_primitive::<Float64Type>().try_unary(|value| {
                let micros = (value * times as f64 / of as f64).round();
                // Values twice as large do not fit; NaN does not either.
                match micros.abs() < 9.223_372_036_854_775e18 {
                    true => Ok(micros as i64),
                    false => Err(self.refuse(value)),
                }
            }),
            _ => {
                let zone: Tz = self.zone().parse()?;
                let texts = values.as_string::<i32>();
                let patterns: Vec<&StringArray> = patterns
                    .iter()
                    .map(|pattern| pattern.as_string::<i32>())
                    .collect();
                let mut times = TimestampMicrosecondArray::builder(texts.len());
                for row in 0..texts.len() {
                    match texts.is_null(row) {
                        true => times.append_null(),
                        false => {
                            times.append_value(self.read(
                                zone,
                                texts.value(row),
                                &patterns,
                                row,
                            )?);
                        }
                    }
                }
                Ok(times.finish())
            }
        }
    }

    /// The time of a text, by the first pattern that matches, if there are any patterns.
    fn read(&self, zone: Tz, text: &str, patterns: &[&StringArray], row: usize) -> Result<i64> {
        let time = match patterns {
            [] => {
                let text = with_seconds(text).map_or(Cow::Borrowed(text), Cow::Owned);
                string_to_datetime(&zone, &text)?.with_timezone(&Utc)
            }
            _ => {
                let mut found = None;
                for pattern in patterns.iter().filter(|pattern| pattern.is_valid(row)) {
                    let pattern = pattern.value(row);
                    pattern::check(self.name, pattern)?;
                    found = found.or_else(|| by_pattern(zone, text, pattern));
                }
                found.ok_or_else(|| {
                    data_error(
                        format!("{}: '{text}' does not match the pattern", self.name),
                        "patterns are like '%Y-%m-%d %H:%M:%S'; several may be given, and the first that fits counts",
                    )
                })?
            }
        };
        let micros = time.timestamp_micros();
        let unit = match self.precision {
            TimeUnit::Second => 1_000_000,
            TimeUnit::Millisecond => 1000,
            _ => 1,
        };
        Ok(micros - micros.rem_euclid(unit))
    }
}

/// `value` times ten to the power of `shift`, rounded down; `None` if the result does not fit.
fn shifted(value: i128, shift: i32) -> Option<i128> {
    let power = 10_i128.checked_pow(shift.unsigned_abs());
    match (power, shift < 0) {
        (Some(power), true) => Some(value.div_euclid(power)),
        (Some(power), false) => value.checked_mul(power),
        // The power is larger than any value.
        (None, true) => Some(if value < 0 { -1 } else { 0 }),
        (None, false) => (value == 0).then_some(0),
    }
}

/// The time of a text, if it matches the pattern. A pattern without a time of day gives the start of the day.
fn by_pattern(zone: Tz, text: &str, pattern: &str) -> Option<DateTime<Utc>> {
    let mut parsed = Parsed::new();
    parse(&mut parsed, text, StrftimeItems::new(pattern)).ok()?;
    if let Ok(time) = parsed.to_datetime() {
        return Some(time.with_timezone(&Utc));
    }
    let time = match parsed.to_naive_datetime_with_offset(0) {
        Ok(time) => time,
        Err(_) => {
            let date = parsed.to_naive_date().ok()?;
            date.and_time(parsed.to_naive_time().unwrap_or(NaiveTime::MIN))
        }
    };
    let time = zone.from_local_datetime(&time).earliest()?;
    Some(time.with_timezone(&Utc))
}

impl ScalarUDFImpl for ToTimestamp {
    fn name(&self) -> &str {
        self.name
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn with_updated_config(&self, config: &ConfigOptions) -> Option<ScalarUDF> {
        let zone = config.execution.time_zone.as_deref();
        Some(ScalarUDF::from(Self {
            zone: zone.map(Arc::from),
            ..self.clone()
        }))
    }

    fn coerce_types(&self, types: &[DataType]) -> Result<Vec<DataType>> {
        let Some((of, patterns)) = types.split_first() else {
            return plan_err!("{} takes a number or a text", self.name);
        };
        let of = match of {
            DataType::Null => DataType::Null,
            of if of.is_integer() => match of {
                DataType::UInt64 => DataType::Decimal128(20, 0),
                _ => DataType::Int64,
            },
            of if of.is_floating() => DataType::Float64,
            DataType::Decimal128(..) => of.clone(),
            DataType::Decimal32(_, scale) | DataType::Decimal64(_, scale) => {
                DataType::Decimal128(38, *scale)
            }
            DataType::Decimal256(_, scale) => DataType::Decimal128(38, (*scale).min(38)),
            DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View => DataType::Utf8,
            DataType::Date32 | DataType::Date64 | DataType::Timestamp(..) => self.result(),
            other => return plan_err!("{} takes a number or a text, not {other}", self.name),
        };
        let patterns = patterns.iter().map(|_| DataType::Utf8);
        Ok(std::iter::once(of).chain(patterns).collect())
    }

    fn return_type(&self, _: &[DataType]) -> Result<DataType> {
        Ok(self.result())
    }

    fn return_field_from_args(&self, args: ReturnFieldArgs) -> Result<FieldRef> {
        pattern::check_constants(self.name, &args)?;
        let is_nullable = args.arg_fields.iter().any(|field| field.is_nullable());
        Ok(Arc::new(Field::new(self.name, self.result(), is_nullable)))
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let is_scalar = are_scalars(&args.args);
        let rows = if is_scalar { 1 } else { args.number_rows };
        let arrays = args.args.iter().map(|argument| argument.to_array(rows));
        let arrays = arrays.collect::<Result<Vec<ArrayRef>>>()?;
        let times: ArrayRef = match arrays[0].data_type() {
            DataType::Timestamp(..) => {
                let strict = CastOptions {
                    safe: false,
                    ..CastOptions::default()
                };
                cast_with_options(&arrays[0], &self.result(), &strict)?
            }
            _ => {
                let times = self.micros(&arrays[0], &arrays[1..])?;
                Arc::new(times.with_timezone(self.zone()))
            }
        };
        scalar_or_array(times, is_scalar)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn decimals_are_shifted_to_microseconds() {
        assert_eq!(shifted(1_234, 3), Some(1_234_000));
        assert_eq!(shifted(-1_234, -3), Some(-2));
        assert_eq!(shifted(10_i128.pow(36), -39), Some(0));
        assert_eq!(shifted(-1, -41), Some(-1));
        assert_eq!(shifted(5, 37), Some(5 * 10_i128.pow(37)));
        assert_eq!(shifted(50, 37), None);
        assert_eq!(shifted(1, 44), None);
        assert_eq!(shifted(0, 44), Some(0));
    }
}
