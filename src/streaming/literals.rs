//! Constants and types in the stateful part of a job, in a form that no release of the engine changes.

use datafusion::arrow::array::{Array, ArrayRef};
use datafusion::arrow::datatypes::{DataType, IntervalUnit, TimeUnit};
use datafusion::common::ScalarValue;

use crate::core::jobs::fingerprint::Term;

/// The name of a type: of SQL, where it has one there. Types that hold the same values in different layouts have one name:
/// state that was kept in one of them is read into the other.
pub(super) fn type_name(data_type: &DataType) -> String {
    let fraction = |unit: &TimeUnit| match unit {
        TimeUnit::Second => 0,
        TimeUnit::Millisecond => 3,
        TimeUnit::Microsecond => 6,
        TimeUnit::Nanosecond => 9,
    };
    match data_type {
        DataType::Null => "NULL".to_owned(),
        DataType::Boolean => "BOOLEAN".to_owned(),
        DataType::Int8 => "TINYINT".to_owned(),
        DataType::Int16 => "SMALLINT".to_owned(),
        DataType::Int32 => "INTEGER".to_owned(),
        DataType::Int64 => "BIGINT".to_owned(),
        DataType::UInt8 => "TINYINT UNSIGNED".to_owned(),
        DataType::UInt16 => "SMALLINT UNSIGNED".to_owned(),
        DataType::UInt32 => "INTEGER UNSIGNED".to_owned(),
        DataType::UInt64 => "BIGINT UNSIGNED".to_owned(),
        DataType::Float16 => "FLOAT16".to_owned(),
        DataType::Float32 => "REAL".to_owned(),
        DataType::Float64 => "DOUBLE".to_owned(),
        DataType::Decimal32(precision, scale)
        | DataType::Decimal64(precision, scale)
        | DataType::Decimal128(precision, scale)
        | DataType::Decimal256(precision, scale) => format!("DECIMAL({precision}, {scale})"),
        DataType::Date32 => "DATE".to_owned(),
        DataType::Date64 => "DATE64".to_owned(),
        DataType::Time32(unit) | DataType::Time64(unit) => format!("TIME({})", fraction(unit)),
        DataType::Timestamp(unit, None) => format!("TIMESTAMP({})", fraction(unit)),
        DataType::Timestamp(unit, Some(zone)) => {
            let zone = match zone.as_ref() {
                "+00:00" | "Z" | "Etc/UTC" => "UTC",
                zone => zone,
            };
            format!("TIMESTAMP({}) WITH TIME ZONE '{zone}'", fraction(unit))
        }
        DataType::Duration(unit) => format!("DURATION({})", fraction(unit)),
        DataType::Interval(IntervalUnit::YearMonth) => "INTERVAL YEAR TO MONTH".to_owned(),
        DataType::Interval(IntervalUnit::DayTime) => "INTERVAL DAY TO SECOND".to_owned(),
        DataType::Interval(IntervalUnit::MonthDayNano) => "INTERVAL".to_owned(),
        DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View => "VARCHAR".to_owned(),
        DataType::Binary
        | DataType::LargeBinary
        | DataType::BinaryView
        | DataType::FixedSizeBinary(_) => "VARBINARY".to_owned(),
        DataType::List(item)
        | DataType::LargeList(item)
        | DataType::ListView(item)
        | DataType::LargeListView(item)
        | DataType::FixedSizeList(item, _) => format!("ARRAY<{}>", type_name(item.data_type())),
        DataType::Struct(fields) => {
            let fields = fields.iter().map(|field| {
                // Names are quoted: one may have any letters.
                let name = field.name().replace('"', "\"\"");
                format!("\"{name}\" {}", type_name(field.data_type()))
            });
            format!("STRUCT<{}>", fields.collect::<Vec<_>>().join(", "))
        }
        DataType::Map(entries, _) => match entries.data_type() {
            DataType::Struct(fields) if fields.len() == 2 => format!(
                "MAP<{}, {}>",
                type_name(fields[0].data_type()),
                type_name(fields[1].data_type())
            ),
            other => format!("MAP<{}>", type_name(other)),
        },
        DataType::Dictionary(_, value) => type_name(value),
        DataType::RunEndEncoded(_, value) => type_name(value.data_type()),
        DataType::Union(fields, _) => {
            let fields = fields
                .iter()
                .map(|(id, field)| format!("{id} {}", type_name(field.data_type())));
            format!("UNION<{}>", fields.collect::<Vec<_>>().join(", "))
        }
    }
}

pub(super) fn is_integer(data_type: &str) -> bool {
    range_of(data_type).is_some()
}

/// The lowest and the highest number of a type of whole numbers.
fn range_of(data_type: &str) -> Option<(i128, i128)> {
    Some(match data_type {
        "TINYINT" => (i128::from(i8::MIN), i128::from(i8::MAX)),
        "SMALLINT" => (i128::from(i16::MIN), i128::from(i16::MAX)),
        "INTEGER" => (i128::from(i32::MIN), i128::from(i32::MAX)),
        "BIGINT" => (i128::from(i64::MIN), i128::from(i64::MAX)),
        "TINYINT UNSIGNED" => (0, i128::from(u8::MAX)),
        "SMALLINT UNSIGNED" => (0, i128::from(u16::MAX)),
        "INTEGER UNSIGNED" => (0, i128::from(u32::MAX)),
        "BIGINT UNSIGNED" => (0, i128::from(u64::MAX)),
        _ => return None,
    })
}

/// Whether a number in digits has a place in a type of whole numbers.
pub(super) fn fits(digits: &[u8], data_type: &str) -> bool {
    let number = std::str::from_utf8(digits)
        .ok()
        .and_then(|digits| digits.parse::<i128>().ok());
    match (number, range_of(data_type)) {
        (Some(number), Some((lowest, highest))) => (lowest..=highest).contains(&number),
        _ => false,
    }
}

/// A number in digits with the other sign.
pub(super) fn with_other_sign(digits: Vec<u8>) -> Vec<u8> {
    match digits.strip_prefix(b"-") {
        Some(positive) => positive.to_vec(),
        None if digits == b"0" => digits,
        None => [&b"-"[..], &digits].concat(),
    }
}

/// A constant.
pub(super) fn literal(value: &ScalarValue) -> Term {
    if let ScalarValue::Dictionary(_, value) | ScalarValue::RunEndEncoded(_, _, value) = value {
        return literal(value);
    }
    let data_type = type_name(&value.data_type());
    if value.is_null() {
        return Term::Literal {
            data_type,
            value: None,
        };
    }
    let nested = |kind: &str, values: Vec<Term>| Term::Call {
        function: kind.to_owned(),
        parameters: vec![data_type.clone()],
        arguments: values,
    };
    match value {
        ScalarValue::List(list) => return nested("array", values_of(&list.value(0))),
        ScalarValue::LargeList(list) => return nested("array", values_of(&list.value(0))),
        ScalarValue::ListView(list) => return nested("array", values_of(&list.value(0))),
        ScalarValue::LargeListView(list) => return nested("array", values_of(&list.value(0))),
        ScalarValue::FixedSizeList(list) => return nested("array", values_of(&list.value(0))),
        ScalarValue::Struct(fields) => {
            return nested(
                "struct",
                fields.columns().iter().flat_map(values_of).collect(),
            );
        }
        ScalarValue::Map(map) => {
            let entries = map.value(0);
            return nested(
                "map",
                entries.columns().iter().flat_map(values_of).collect(),
            );
        }
        _ => {}
    }
    Term::Literal {
        data_type,
        value: Some(value_bytes(value)),
    }
}

fn values_of(values: &ArrayRef) -> Vec<Term> {
    let value = |row| match ScalarValue::try_from_array(values, row) {
        Ok(value) => literal(&value),
        // Each value of an array is a constant.
        Err(error) => Term::Call {
            function: error.to_string(),
            parameters: Vec::new(),
            arguments: Vec::new(),
        },
    };
    (0..values.len()).map(value).collect()
}

/// A value that is not NULL: numbers in digits, floating ones by their bits, times in ticks.
fn value_bytes(value: &ScalarValue) -> Vec<u8> {
    fn digits<T: ToString>(number: &Option<T>) -> Vec<u8> {
        number
            .as_ref()
            .map(T::to_string)
            .unwrap_or_default()
            .into_bytes()
    }
    match value {
        ScalarValue::Boolean(value) => digits(value),
        ScalarValue::Float16(value) => digits(&value.map(|value| value.to_bits())),
        ScalarValue::Float32(value) => digits(&value.map(f32::to_bits)),
        ScalarValue::Float64(value) => digits(&value.map(f64::to_bits)),
        ScalarValue::Decimal32(value, ..) => digits(value),
        ScalarValue::Decimal64(value, ..) => digits(value),
        ScalarValue::Decimal128(value, ..) => digits(value),
        ScalarValue::Decimal256(value, ..) => digits(value),
        ScalarValue::Int8(value) => digits(value),
        ScalarValue::Int16(value) => digits(value),
        ScalarValue::Int32(value)
        | ScalarValue::Date32(value)
        | ScalarValue::Time32Second(value)
        | ScalarValue::Time32Millisecond(value)
        | ScalarValue::IntervalYearMonth(value) => digits(value),
        ScalarValue::Int64(value)
        | ScalarValue::Date64(value)
        | ScalarValue::Time64Microsecond(value)
        | ScalarValue::Time64Nanosecond(value)
        | ScalarValue::TimestampSecond(value, _)
        | ScalarValue::TimestampMillisecond(value, _)
        | ScalarValue::TimestampMicrosecond(value, _)
        | ScalarValue::TimestampNanosecond(value, _)
        | ScalarValue::DurationSecond(value)
        | ScalarValue::DurationMillisecond(value)
        | ScalarValue::DurationMicrosecond(value)
        | ScalarValue::DurationNanosecond(value) => digits(value),
        ScalarValue::UInt8(value) => digits(value),
        ScalarValue::UInt16(value) => digits(value),
        ScalarValue::UInt32(value) => digits(value),
        ScalarValue::UInt64(value) => digits(value),
        ScalarValue::IntervalDayTime(value) => {
            digits(&value.map(|value| format!("{} {}", value.days, value.milliseconds)))
        }
        ScalarValue::IntervalMonthDayNano(value) => digits(
            &value.map(|value| format!("{} {} {}", value.months, value.days, value.nanoseconds)),
        ),
        ScalarValue::Utf8(value) | ScalarValue::Utf8View(value) | ScalarValue::LargeUtf8(value) => {
            value.clone().unwrap_or_default().into_bytes()
        }
        ScalarValue::Binary(value)
        | ScalarValue::BinaryView(value)
        | ScalarValue::LargeBinary(value)
        | ScalarValue::FixedSizeBinary(_, value) => value.clone().unwrap_or_default(),
        // A constant of a union cannot be written in SQL.
        other => other.to_string().into_bytes(),
    }
}
