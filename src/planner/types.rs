//! Mapping from SQL types to Arrow, the only one for declared columns, casts and literals (TIMEZONE-1).

use std::sync::Arc;

use datafusion::arrow::datatypes::{DataType, Field, FieldRef, Fields, TimeUnit};
use datafusion::error::Result as DataFusionResult;
use datafusion::logical_expr::planner::TypePlanner;
use datafusion::sql::sqlparser::ast::{
    ArrayElemTypeDef, DataType as SqlType, ExactNumberInfo, StructField, TimezoneInfo,
};

use crate::error::{Error, Result};
use crate::formats::typed_as;
use crate::planner::tables::normalize;

/// TIMESTAMP: microseconds in UTC.
pub fn timestamp_type() -> DataType {
    DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into()))
}

/// The Arrow type of a declared column.
///
/// # Errors
/// A type that a table cannot hold, with its name.
pub fn arrow_type(sql_type: &SqlType) -> Result<DataType> {
    to_arrow(sql_type, false)
}

/// The Arrow type of a declared column, where the fields of a STRUCT keep their original spelling.
///
/// # Errors
/// As [`arrow_type`].
pub fn typed_arrow_type(sql_type: &SqlType) -> Result<DataType> {
    to_arrow(sql_type, true)
}

fn to_arrow(sql_type: &SqlType, typed: bool) -> Result<DataType> {
    Ok(match sql_type {
        SqlType::Boolean | SqlType::Bool => DataType::Boolean,
        SqlType::TinyInt(_) => DataType::Int8,
        SqlType::SmallInt(_) | SqlType::Int2(_) => DataType::Int16,
        SqlType::Int(_) | SqlType::Integer(_) | SqlType::Int4(_) => DataType::Int32,
        SqlType::BigInt(_) | SqlType::Int8(_) => DataType::Int64,
        SqlType::Float(_) | SqlType::Real | SqlType::Float4 => DataType::Float32,
        SqlType::Double(_) | SqlType::DoublePrecision | SqlType::Float8 => DataType::Float64,
        SqlType::Varchar(_)
        | SqlType::CharacterVarying(_)
        | SqlType::Char(_)
        | SqlType::Text
        | SqlType::String(_) => DataType::Utf8,
        SqlType::Binary(_) | SqlType::Varbinary(_) | SqlType::Bytea | SqlType::Blob(_) => {
            DataType::Binary
        }
        SqlType::Date => DataType::Date32,
        SqlType::Time(_, TimezoneInfo::None | TimezoneInfo::WithoutTimeZone) => {
            DataType::Time64(TimeUnit::Microsecond)
        }
        SqlType::Timestamp(..) => timestamp_type(),
        SqlType::Decimal(info) | SqlType::Numeric(info) => decimal(info, sql_type)?,
        SqlType::Array(
            ArrayElemTypeDef::AngleBracket(inner)
            | ArrayElemTypeDef::SquareBracket(inner, None)
            | ArrayElemTypeDef::Parenthesis(inner),
        ) => DataType::List(Arc::new(Field::new_list_field(
            to_arrow(inner, typed)?,
            true,
        ))),
        SqlType::Map(key, value) => map_type(to_arrow(key, typed)?, to_arrow(value, typed)?),
        SqlType::Struct(fields, _) => DataType::Struct(struct_fields(fields, typed)?),
        other => {
            return Err(Error::unsupported(format!("columns of type {other} are not supported"))
                .with_help(
                    "the types are BOOLEAN, TINYINT, SMALLINT, INT, BIGINT, FLOAT, DOUBLE, DECIMAL(p, s), \
                     VARCHAR, BINARY, DATE, TIME, TIMESTAMP, ARRAY<t>, MAP<k, v> and STRUCT<name t, …>",
                ));
        }
    })
}

/// The Arrow type of `MAP<key, value>`.
pub fn map_type(key: DataType, value: DataType) -> DataType {
    let entries = Fields::from(vec![
        Field::new("key", key, false),
        Field::new("value", value, true),
    ]);
    DataType::Map(
        Arc::new(Field::new("entries", DataType::Struct(entries), false)),
        false,
    )
}

/// The SQL name of a type.
pub fn type_name(data_type: &DataType) -> String {
    match data_type {
        DataType::Null => "NULL".to_owned(),
        DataType::Boolean => "BOOLEAN".to_owned(),
        DataType::Int8 => "TINYINT".to_owned(),
        DataType::Int16 => "SMALLINT".to_owned(),
        DataType::Int32 => "INT".to_owned(),
        DataType::Int64 => "BIGINT".to_owned(),
        DataType::UInt8 => "TINYINT UNSIGNED".to_owned(),
        DataType::UInt16 => "SMALLINT UNSIGNED".to_owned(),
        DataType::UInt32 => "INT UNSIGNED".to_owned(),
        DataType::UInt64 => "BIGINT UNSIGNED".to_owned(),
        DataType::Float16 | DataType::Float32 => "FLOAT".to_owned(),
        DataType::Float64 => "DOUBLE".to_owned(),
        DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View => "VARCHAR".to_owned(),
        DataType::Binary
        | DataType::LargeBinary
        | DataType::BinaryView
        | DataType::FixedSizeBinary(_) => "BINARY".to_owned(),
        DataType::Date32 | DataType::Date64 => "DATE".to_owned(),
        DataType::Time32(_) | DataType::Time64(_) => "TIME".to_owned(),
        DataType::Timestamp(TimeUnit::Microsecond, _) => "TIMESTAMP".to_owned(),
        DataType::Timestamp(unit, _) => format!("TIMESTAMP({unit:?})"),
        DataType::Interval(_) | DataType::Duration(_) => "INTERVAL".to_owned(),
        DataType::Decimal32(p, s)
        | DataType::Decimal64(p, s)
        | DataType::Decimal128(p, s)
        | DataType::Decimal256(p, s) => format!("DECIMAL({p}, {s})"),
        DataType::List(item)
        | DataType::LargeList(item)
        | DataType::ListView(item)
        | DataType::LargeListView(item)
        | DataType::FixedSizeList(item, _) => format!("ARRAY<{}>", type_name(item.data_type())),
        DataType::Struct(fields) => {
            let fields: Vec<String> = fields
                .iter()
                .map(|field| format!("{} {}", field.name(), type_name(field.data_type())))
                .collect();
            format!("STRUCT<{}>", fields.join(", "))
        }
        DataType::Map(entries, _) => match entries.data_type() {
            DataType::Struct(fields) if fields.len() == 2 => format!(
                "MAP<{}, {}>",
                type_name(fields[0].data_type()),
                type_name(fields[1].data_type())
            ),
            other => format!("MAP<{other}>"),
        },
        // The result of JSON functions: a value of any type.
        DataType::Union(..) => "JSON".to_owned(),
        DataType::Dictionary(_, value) => type_name(value),
        DataType::RunEndEncoded(_, value) => type_name(value.data_type()),
    }
}

/// Gives DataFusion's planner the types that it lacks or reads differently: TIMESTAMP, MAP, STRUCT.
#[derive(Debug)]
pub struct SqlTypes;

impl TypePlanner for SqlTypes {
    fn plan_type_field(&self, sql_type: &SqlType) -> DataFusionResult<Option<FieldRef>> {
        let ours = matches!(
            sql_type,
            SqlType::Timestamp(..) | SqlType::Map(..) | SqlType::Struct(..) | SqlType::Varbinary(_)
        );
        if !ours {
            return Ok(None);
        }
        let data_type = arrow_type(sql_type)?;
        Ok(Some(Arc::new(Field::new("", data_type, true))))
    }
}

fn decimal(info: &ExactNumberInfo, sql_type: &SqlType) -> Result<DataType> {
    let (precision, scale) = match info {
        ExactNumberInfo::None => (38, 10),
        ExactNumberInfo::Precision(precision) => (*precision, 0),
        ExactNumberInfo::PrecisionAndScale(precision, scale) => (*precision, *scale),
    };
    let fits = (1..=38).contains(&precision) && (0..=precision as i64).contains(&scale);
    match (fits, u8::try_from(precision), i8::try_from(scale)) {
        (true, Ok(precision), Ok(scale)) => Ok(DataType::Decimal128(precision, scale)),
        _ => Err(Error::invalid(format!(
            "{sql_type} needs a precision of 1 to 38 and a scale within it"
        ))),
    }
}

fn struct_fields(fields: &[StructField], typed: bool) -> Result<Fields> {
    fields
        .iter()
        .enumerate()
        .map(|(index, field)| {
            let data_type = to_arrow(&field.field_type, typed)?;
            let Some(name) = &field.field_name else {
                return Ok(Field::new(format!("c{index}"), data_type, true));
            };
            let field = Field::new(normalize(name), data_type, true);
            Ok(match typed {
                true => typed_as(field, &name.value),
                false => field,
            })
        })
        .collect()
}
