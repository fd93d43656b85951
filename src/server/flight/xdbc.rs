//! The SQL types as ODBC and JDBC tools ask for them.

use std::sync::OnceLock;

use arrow_flight::sql::metadata::{XdbcTypeInfo, XdbcTypeInfoData, XdbcTypeInfoDataBuilder};
use arrow_flight::sql::{Nullable, Searchable, XdbcDataType, XdbcDatetimeSubcode};

use crate::error::{Error, Result};

/// Name, type, digits or characters or bytes, and the quotes around a literal.
const TYPES: [(&str, XdbcDataType, i32, Option<&str>); 12] = [
    ("BOOLEAN", XdbcDataType::XdbcBit, 1, None),
    ("TINYINT", XdbcDataType::XdbcTinyint, 3, None),
    ("SMALLINT", XdbcDataType::XdbcSmallint, 5, None),
    ("INT", XdbcDataType::XdbcInteger, 10, None),
    ("BIGINT", XdbcDataType::XdbcBigint, 19, None),
    ("FLOAT", XdbcDataType::XdbcReal, 7, None),
    ("DOUBLE", XdbcDataType::XdbcDouble, 15, None),
    ("DECIMAL", XdbcDataType::XdbcDecimal, 38, None),
    ("VARCHAR", XdbcDataType::XdbcVarchar, i32::MAX, Some("'")),
    ("BINARY", XdbcDataType::XdbcVarbinary, i32::MAX, Some("X'")),
    ("DATE", XdbcDataType::XdbcDate, 10, Some("DATE '")),
    (
        "TIMESTAMP",
        XdbcDataType::XdbcTimestamp,
        26,
        Some("TIMESTAMP '"),
    ),
];

/// All types of SQL.
///
/// # Errors
///
/// None that a caller could cause.
pub(crate) fn types() -> Result<&'static XdbcTypeInfoData> {
    static SAID: OnceLock<XdbcTypeInfoData> = OnceLock::new();
    if let Some(said) = SAID.get() {
        return Ok(said);
    }
    let mut builder = XdbcTypeInfoDataBuilder::new();
    for (name, of, size, prefix) in TYPES {
        builder.append(described(name, of, size, prefix));
    }
    let built = builder.build();
    let built = built.map_err(|error| Error::internal(error.to_string()))?;
    Ok(SAID.get_or_init(|| built))
}

fn described(name: &str, of: XdbcDataType, size: i32, prefix: Option<&str>) -> XdbcTypeInfo {
    let is_number = prefix.is_none() && of != XdbcDataType::XdbcBit;
    let is_decimal = of == XdbcDataType::XdbcDecimal;
    let is_time = of == XdbcDataType::XdbcTimestamp;
    XdbcTypeInfo {
        type_name: name.to_owned(),
        data_type: of,
        column_size: Some(size),
        literal_prefix: prefix.map(str::to_owned),
        literal_suffix: prefix.map(|_| "'".to_owned()),
        create_params: is_decimal.then(|| vec!["precision".to_owned(), "scale".to_owned()]),
        nullable: Nullable::NullabilityNullable,
        case_sensitive: of == XdbcDataType::XdbcVarchar,
        searchable: Searchable::Full,
        unsigned_attribute: is_number.then_some(false),
        fixed_prec_scale: false,
        auto_increment: is_number.then_some(false),
        local_type_name: Some(name.to_owned()),
        minimum_scale: (is_decimal || is_time).then_some(if is_time { 6 } else { 0 }),
        maximum_scale: (is_decimal || is_time).then_some(if is_time { 6 } else { 38 }),
        sql_data_type: match of {
            XdbcDataType::XdbcDate | XdbcDataType::XdbcTimestamp => XdbcDataType::XdbcDatetime,
            other => other,
        },
        datetime_subcode: is_time.then_some(XdbcDatetimeSubcode::XdbcSubcodeTimestampWithTimezone),
        num_prec_radix: is_number.then_some(10),
        interval_precision: None,
    }
}
