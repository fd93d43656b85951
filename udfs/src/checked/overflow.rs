//! Error of arithmetic overflow, the only one: the operation, the type, and the type to CAST to.

use arrow::datatypes::DataType;
use datafusion::error::DataFusionError;

use crate::diagnostic::data_error;

/// The error for a value `what` that does not fit `data_type`.
pub(crate) fn out_of_range(what: impl std::fmt::Display, data_type: &DataType) -> DataFusionError {
    data_error(
        format!("{what} is out of range of {}", sql_name(data_type)),
        help(data_type),
    )
}

/// The help text for a type that is too small.
fn help(data_type: &DataType) -> &'static str {
    match data_type {
        DataType::Int8
        | DataType::Int16
        | DataType::Int32
        | DataType::UInt8
        | DataType::UInt16
        | DataType::UInt32 => "compute in a larger type: CAST(… AS BIGINT)",
        DataType::Int64 | DataType::UInt64 => {
            "compute in a larger type: CAST(… AS DECIMAL(38, 0)), or CAST(… AS DOUBLE) if an approximate value is enough"
        }
        DataType::Decimal32(..)
        | DataType::Decimal64(..)
        | DataType::Decimal128(..)
        | DataType::Decimal256(..) => {
            "a DECIMAL has up to 38 digits: CAST what is computed with to a DECIMAL with fewer digits after the point, or to DOUBLE if an approximate value is enough"
        }
        _ => "leave such rows out with WHERE, or CAST to a type that has room",
    }
}

/// The SQL name of a type.
pub(crate) fn sql_name(data_type: &DataType) -> String {
    match data_type {
        DataType::Int8 => "TINYINT".to_owned(),
        DataType::Int16 => "SMALLINT".to_owned(),
        DataType::Int32 => "INT".to_owned(),
        DataType::Int64 => "BIGINT".to_owned(),
        DataType::UInt8 => "TINYINT UNSIGNED".to_owned(),
        DataType::UInt16 => "SMALLINT UNSIGNED".to_owned(),
        DataType::UInt32 => "INT UNSIGNED".to_owned(),
        DataType::UInt64 => "BIGINT UNSIGNED".to_owned(),
        DataType::Decimal32(p, s)
        | DataType::Decimal64(p, s)
        | DataType::Decimal128(p, s)
        | DataType::Decimal256(p, s) => format!("DECIMAL({p}, {s})"),
        DataType::Duration(_) | DataType::Interval(_) => "INTERVAL".to_owned(),
        DataType::Timestamp(..) => "TIMESTAMP".to_owned(),
        DataType::Date32 | DataType::Date64 => "DATE".to_owned(),
        DataType::Boolean => "BOOLEAN".to_owned(),
        DataType::Float32 => "REAL".to_owned(),
        DataType::Float64 => "DOUBLE".to_owned(),
        other => other.to_string(),
    }
}
