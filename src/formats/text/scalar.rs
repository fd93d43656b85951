//! Conversion of one value from its text: the forms that each SQL type accepts.

use arrow::datatypes::{TimeUnit, i256};
use base64::Engine;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};

use super::number::{ExcessDigits, parse_scaled, parse_scaled_wide};
use super::time::{parse_date, parse_time, to_unit, units_per_second};
use crate::formats::column::{ColumnBuilder, ReadContext, ValueBuilder};
use crate::formats::excerpt::excerpt;

/// The standard alphabet; padding is written, and may be missing where it is read.
pub(crate) const BASE64: GeneralPurpose = GeneralPurpose::new(
    &base64::alphabet::STANDARD,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

impl ColumnBuilder {
    /// Appends the value of a text: a JSON string, a CSV field or the key of a map. A numeric column accepts numbers in such
    /// text.
    pub(crate) fn push_text(&mut self, text: &str, context: &mut ReadContext) {
        let is_read = match &mut self.values {
            ValueBuilder::Text(values) => {
                values.push(text.as_bytes());
                true
            }
            ValueBuilder::Timestamp(unit, values) => {
                let read = context.timestamps.read(text, *unit);
                // A quoted number has the same meaning as an unquoted one.
                let number = || parse_epoch(text, context.number_unit?, *unit);
                let is_number = || text.parse::<f64>().is_ok_and(f64::is_finite);
                if read.is_none() && context.number_unit.is_none() && is_number() {
                    return self.push_unit_conflict(text, context);
                }
                append(values, read.or_else(number))
            }
            ValueBuilder::Binary(values) => match BASE64.decode_vec(text, values.data()) {
                Ok(()) => {
                    values.end_value();
                    true
                }
                Err(_) => {
                    values.discard_value();
                    false
                }
            },
            ValueBuilder::Date(values) => append(values, parse_date(text)),
            ValueBuilder::Time(unit, values) => {
                let per_unit = 1_000_000_000 / units_per_second(*unit);
                append(values, parse_time(text).map(|nanos| nanos / per_unit))
            }
            ValueBuilder::Boolean(values) => match text {
                "true" => {
                    values.append(true);
                    true
                }
                "false" => {
                    values.append(false);
                    true
                }
                _ => false,
            },
            ValueBuilder::Float32(values) => append(values, parse_f32(text)),
            ValueBuilder::Float64(values) => append(values, parse_f64(text)),
            ValueBuilder::List(..) | ValueBuilder::Map(..) | ValueBuilder::Struct(_) => false,
            _ => self.append_number(text),
        };
        if is_read {
            self.validity.append_non_null();
        } else {
            self.push_conflict(context, &format!("\"{text}\""));
        }
    }

    /// Appends the value of a JSON number; `text` is the number as written in the record.
    pub(crate) fn push_number(&mut self, text: &str, context: &mut ReadContext) {
        let is_read = match &mut self.values {
            ValueBuilder::Text(values) => {
                values.push(text.as_bytes());
                true
            }
            ValueBuilder::Timestamp(unit, values) => match context.number_unit {
                Some(number_unit) => append(values, parse_epoch(text, number_unit, *unit)),
                None => return self.push_unit_conflict(text, context),
            },
            ValueBuilder::Boolean(_)
            | ValueBuilder::Date(_)
            | ValueBuilder::Time(..)
            | ValueBuilder::Binary(_) => false,
            ValueBuilder::List(..) | ValueBuilder::Map(..) | ValueBuilder::Struct(_) => false,
            // A number is written as text: NaN and the infinities are only for strings.
            ValueBuilder::Float32(values) => append(values, parse_finite_f32(text)),
            ValueBuilder::Float64(values) => append(values, parse_finite(text)),
            _ => self.append_number(text),
        };
        if is_read {
            self.validity.append_non_null();
        } else {
            self.push_conflict(context, text);
        }
    }

    /// Refuses a number in a TIMESTAMP column if the options give no unit.
    fn push_unit_conflict(&mut self, text: &str, context: &mut ReadContext) {
        self.push_conflict_because(context, |path| {
            format!(
                "column {path}: a number ({}) was found for a TIMESTAMP, set option \
                 'json.timestamp_unit' to read it",
                excerpt(text)
            )
        });
    }

    /// Appends a boolean.
    pub(crate) fn push_bool(&mut self, value: bool, context: &mut ReadContext) {
        let text = if value { "true" } else { "false" };
        match &mut self.values {
            ValueBuilder::Boolean(values) => values.append(value),
            ValueBuilder::Text(values) => values.push(text.as_bytes()),
            _ => return self.push_conflict(context, text),
        }
        self.validity.append_non_null();
    }

    /// Appends the text of a JSON object or array; only a text column accepts it.
    pub(crate) fn push_nested(&mut self, json: &str, context: &mut ReadContext) {
        match &mut self.values {
            ValueBuilder::Text(values) => {
                values.push(json.as_bytes());
                self.validity.append_non_null();
            }
            _ => self.push_conflict(context, json),
        }
    }

    /// Appends an integer or a decimal without its validity. Returns false if the text is not one, or is out of range.
    fn append_number(&mut self, text: &str) -> bool {
        match &mut self.values {
            ValueBuilder::Int8(values) => append(values, parse_integer(text)),
            ValueBuilder::Int16(values) => append(values, parse_integer(text)),
            ValueBuilder::Int32(values) => append(values, parse_integer(text)),
            ValueBuilder::Int64(values) => append(values, parse_integer(text)),
            ValueBuilder::UInt8(values) => append(values, parse_integer(text)),
            ValueBuilder::UInt16(values) => append(values, parse_integer(text)),
            ValueBuilder::UInt32(values) => append(values, parse_integer(text)),
            ValueBuilder::UInt64(values) => append(values, parse_integer(text)),
            ValueBuilder::Decimal128(precision, scale, values) => {
                append(values, parse_decimal(text, *precision, *scale))
            }
            ValueBuilder::Decimal256(precision, scale, values) => {
                append(values, parse_wide_decimal(text, *precision, *scale))
            }
            _ => false,
        }
    }
}

fn append<T>(values: &mut Vec<T>, value: Option<T>) -> bool {
    match value {
        Some(value) => {
            values.push(value);
            true
        }
        None => false,
    }
}

/// An integer in any of JSON's forms (`12`, `12.0`, `1.2e1`); `1.5` is refused.
pub(crate) fn parse_integer<T: std::str::FromStr + TryFrom<i128>>(text: &str) -> Option<T> {
    match text.parse() {
        Ok(value) => Some(value),
        Err(_) => T::try_from(parse_scaled(text, 0, ExcessDigits::Refuse)?).ok(),
    }
}

/// A decimal, rounded half away from zero; `None` if the text is not a number, or does not fit.
pub(crate) fn parse_decimal(text: &str, precision: u8, scale: i8) -> Option<i128> {
    let value = parse_scaled(text, i64::from(scale), ExcessDigits::Round)?;
    let limit = 10_u128
        .checked_pow(u32::from(precision))
        .unwrap_or(u128::MAX);
    (value.unsigned_abs() < limit).then_some(value)
}

/// The same for up to 76 digits.
pub(crate) fn parse_wide_decimal(text: &str, precision: u8, scale: i8) -> Option<i256> {
    let value = parse_scaled_wide(text, i64::from(scale), ExcessDigits::Round)?;
    let limit = i256::from_i128(10).checked_pow(u32::from(precision));
    let has_place = limit.is_none_or(|limit| value < limit && value.wrapping_neg() < limit);
    has_place.then_some(value)
}

fn parse_finite(text: &str) -> Option<f64> {
    text.parse::<f64>().ok().filter(|value| value.is_finite())
}

/// JSON has no literal for NaN and the infinities; as strings they are accepted.
fn parse_f64(text: &str) -> Option<f64> {
    match text {
        "NaN" => Some(f64::NAN),
        "Infinity" | "+Infinity" => Some(f64::INFINITY),
        "-Infinity" => Some(f64::NEG_INFINITY),
        _ => parse_finite(text),
    }
}

/// REAL has fewer digits, which SQL accepts; an infinity from a finite number is refused. The text is rounded once: by way of a
/// DOUBLE it would be rounded twice, which may give a neighbour of the nearest number.
fn parse_finite_f32(text: &str) -> Option<f32> {
    text.parse::<f32>().ok().filter(|value| value.is_finite())
}

/// As [`parse_f64`].
fn parse_f32(text: &str) -> Option<f32> {
    match text {
        "NaN" => Some(f32::NAN),
        "Infinity" | "+Infinity" => Some(f32::INFINITY),
        "-Infinity" => Some(f32::NEG_INFINITY),
        _ => parse_finite_f32(text),
    }
}

/// A number of `from` since the epoch in `to`; digits finer than that are cut off.
fn parse_epoch(text: &str, from: TimeUnit, to: TimeUnit) -> Option<i64> {
    let per_second = units_per_second(from);
    if let Ok(value) = text.parse::<i64>() {
        let nanos = value.rem_euclid(per_second) * (1_000_000_000 / per_second);
        return to_unit(value.div_euclid(per_second), u32::try_from(nanos).ok()?, to);
    }
    // Digits to nanoseconds below `from`, which are then split.
    let places = i64::from(9 - per_second.ilog10());
    let nanos = parse_scaled(text, places, ExcessDigits::Floor)?;
    let seconds = i64::try_from(nanos.div_euclid(1_000_000_000)).ok()?;
    to_unit(
        seconds,
        u32::try_from(nanos.rem_euclid(1_000_000_000)).ok()?,
        to,
    )
}
