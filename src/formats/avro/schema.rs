//! Avro schema of a table's declared columns, for the encoder.

use std::sync::Arc;

use arrow::datatypes::{DataType, Field, FieldRef, Fields, Schema, TimeUnit};
use serde_json::{Value, json};

use crate::error::{Error, Result, Subject};
use crate::formats::type_name::sql_name;

/// The schema of the encoder: as the registry has it, and as the Arrow types that Avro can represent.
#[derive(Debug, Clone)]
pub(crate) struct WriteSchema {
    /// The Avro schema as JSON.
    pub(crate) json: String,
    /// The columns as the Avro encoder gets them: the same names, Avro's own types.
    pub(crate) arrow: Schema,
}

impl WriteSchema {
    /// The schema of `declared` as a record called `name`. A nullable column is a union with null
    /// that defaults to null, so that columns can be added and removed.
    ///
    /// # Errors
    ///
    /// Names the column whose name or type Avro does not have.
    pub(crate) fn try_new(declared: &Schema, name: &str) -> Result<Self> {
        let name = record_name(name);
        let (avro, arrow) = record(declared.fields(), &name, "")?;
        Ok(Self {
            json: avro.to_string(),
            arrow: Schema::new(arrow),
        })
    }
}

fn record(fields: &Fields, name: &str, path: &str) -> Result<(Value, Fields)> {
    let mut avro_fields = Vec::with_capacity(fields.len());
    let mut arrow_fields = Vec::with_capacity(fields.len());
    for field in fields {
        let path = if path.is_empty() {
            field.name().clone()
        } else {
            format!("{path}.{}", field.name())
        };
        if !is_avro_name(field.name()) {
            return Err(
                Error::invalid(format!("column {path}: the name is not valid in Avro"))
                    .about(Subject::column(path))
                    .with_help(
                        "Avro names have ASCII letters, digits and _, and do not begin with a digit",
                    ),
            );
        }
        let (avro, arrow) = optional(field, &format!("{name}_{}", field.name()), &path)?;
        let mut avro_field = json!({ "name": field.name(), "type": avro });
        if field.is_nullable() {
            avro_field["default"] = Value::Null;
        }
        avro_fields.push(avro_field);
        arrow_fields.push(arrow);
    }
    let avro = json!({ "type": "record", "name": name, "fields": avro_fields });
    Ok((avro, Fields::from(arrow_fields)))
}

/// The type of a field, a union with null if it may be NULL.
fn optional(field: &FieldRef, name: &str, path: &str) -> Result<(Value, Field)> {
    let (avro, data_type) = value(field.data_type(), name, path)?;
    let avro = if field.is_nullable() {
        json!(["null", avro])
    } else {
        avro
    };
    Ok((
        avro,
        Field::new(field.name(), data_type, field.is_nullable()),
    ))
}

fn value(data_type: &DataType, name: &str, path: &str) -> Result<(Value, DataType)> {
    let logical = |base: &str, logical: &str| json!({ "type": base, "logicalType": logical });
    let utc = || Some(Arc::from("+00:00"));
    Ok(match data_type {
        DataType::Boolean => (json!("boolean"), DataType::Boolean),
        DataType::Int8 | DataType::Int16 | DataType::Int32 | DataType::UInt8 | DataType::UInt16 => {
            (json!("int"), DataType::Int32)
        }
        DataType::Int64 | DataType::UInt32 => (json!("long"), DataType::Int64),
        DataType::Float32 => (json!("float"), DataType::Float32),
        DataType::Float64 => (json!("double"), DataType::Float64),
        DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View => {
            (json!("string"), DataType::Utf8)
        }
        DataType::Binary | DataType::LargeBinary | DataType::BinaryView => {
            (json!("bytes"), DataType::Binary)
        }
        DataType::Date32 => (logical("int", "date"), DataType::Date32),
        DataType::Time32(_) => (
            logical("int", "time-millis"),
            DataType::Time32(TimeUnit::Millisecond),
        ),
        // Avro has no finer time of day than microseconds.
        DataType::Time64(_) => (
            logical("long", "time-micros"),
            DataType::Time64(TimeUnit::Microsecond),
        ),
        DataType::Timestamp(TimeUnit::Second | TimeUnit::Millisecond, _) => (
            logical("long", "timestamp-millis"),
            DataType::Timestamp(TimeUnit::Millisecond, utc()),
        ),
        DataType::Timestamp(TimeUnit::Microsecond, _) => (
            logical("long", "timestamp-micros"),
            DataType::Timestamp(TimeUnit::Microsecond, utc()),
        ),
        DataType::Timestamp(TimeUnit::Nanosecond, _) => (
            logical("long", "timestamp-nanos"),
            DataType::Timestamp(TimeUnit::Nanosecond, utc()),
        ),
        DataType::Decimal128(precision, scale) | DataType::Decimal256(precision, scale)
            if *scale >= 0 =>
        {
            let avro = json!({
                "type": "bytes", "logicalType": "decimal", "precision": precision, "scale": scale,
            });
            (avro, data_type.clone())
        }
        DataType::List(item) => {
            let (avro, item) = optional(item, &format!("{name}_item"), &format!("{path}[]"))?;
            (
                json!({ "type": "array", "items": avro }),
                DataType::List(Arc::new(item)),
            )
        }
        DataType::Map(entries, sorted) => {
            let DataType::Struct(pair) = entries.data_type() else {
                return Err(unsupported(data_type, path));
            };
            let [key, mapped] = pair.as_ref() else {
                return Err(unsupported(data_type, path));
            };
            if !matches!(
                key.data_type(),
                DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View
            ) {
                return Err(Error::unsupported(format!(
                    "column {path}: the keys of a map are text in Avro, these are a {}",
                    sql_name(key.data_type())
                ))
                .about(Subject::column(path)));
            }
            let (avro, mapped) =
                optional(mapped, &format!("{name}_value"), &format!("{path} (value)"))?;
            let pair = Fields::from(vec![Field::new(key.name(), DataType::Utf8, false), mapped]);
            let entries = Field::new(entries.name(), DataType::Struct(pair), false);
            (
                json!({ "type": "map", "values": avro }),
                DataType::Map(Arc::new(entries), *sorted),
            )
        }
        DataType::Struct(fields) => {
            let (avro, fields) = record(fields, name, path)?;
            (avro, DataType::Struct(fields))
        }
        other => return Err(unsupported(other, path)),
    })
}

fn unsupported(data_type: &DataType, path: &str) -> Error {
    Error::unsupported(format!(
        "column {path}: a {} cannot be written as Avro",
        sql_name(data_type)
    ))
    .about(Subject::column(path))
}

fn is_avro_name(name: &str) -> bool {
    !name.starts_with(|c: char| c.is_ascii_digit())
        && !name.is_empty()
        && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_')
}

/// The record name for a subject: each character that Avro does not allow in a name becomes `_`.
fn record_name(subject: &str) -> String {
    let mut name: String = subject
        .chars()
        .map(|c| if c.is_ascii_alphanumeric() { c } else { '_' })
        .collect();
    if !is_avro_name(&name) {
        name.insert(0, '_');
    }
    name
}
