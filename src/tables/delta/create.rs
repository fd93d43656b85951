//! Creation and check of declared tables: the schema of a table that is created, the comparison with one that exists.

use std::collections::HashSet;
use std::sync::Arc;

use datafusion::arrow::datatypes::{DataType, Field, Fields, Schema, SchemaRef, TimeUnit};
use deltalake::kernel::engine::arrow_conversion::TryIntoKernel as _;
use deltalake::kernel::{MetadataValue, StructField};

use super::generated::{GeneratedColumn, same_delta_type, same_expression, storable};
use super::spec::{DeltaColumn, DeltaSpec};
use super::upsert_key::UpsertKey;
use crate::error::{Error, Result, Subject};

const GENERATION_EXPRESSION: &str = "delta.generationExpression";

/// The fields of the table that `spec` declares, with generated columns as Delta stores them.
///
/// # Errors
///
/// Names that are doubled or that Delta cannot store, types it does not have, a generated column
/// that cannot be planned, a partition column that is missing or has a type without order.
pub(super) fn new_fields(
    columns: &[DeltaColumn],
    partition_by: &[String],
) -> Result<Vec<StructField>> {
    if columns.is_empty() {
        return Err(Error::invalid("a Delta table needs at least one column"));
    }
    check_names(columns)?;
    let fields = columns
        .iter()
        .map(|column| {
            let data_type = storable_type(&column.data_type).map_err(|error| {
                error
                    .context(format!("column '{}'", column.name))
                    .within(Subject::column(&column.name))
            })?;
            Ok(Field::new(&column.name, data_type, column.nullable))
        })
        .collect::<Result<Vec<_>>>()?;
    let schema: SchemaRef = Arc::new(Schema::new(fields));
    check_partitioning(&schema, partition_by)?;
    let generated: Vec<&str> = columns
        .iter()
        .filter(|column| column.generated.is_some())
        .map(|column| column.name.as_str())
        .collect();
    columns
        .iter()
        .zip(schema.fields())
        .map(|(column, field)| {
            let mut metadata = Vec::new();
            if let Some(text) = &column.generated {
                GeneratedColumn::plan(&column.name, text, &schema, &generated)?;
                metadata.push((GENERATION_EXPRESSION, storable(text)?));
            }
            metadata.extend(column.comment.clone().map(|comment| ("comment", comment)));
            let field: StructField = field.as_ref().try_into_kernel().map_err(|error| {
                Error::unsupported(format!("column '{}': {error}", column.name))
                    .about(Subject::column(&column.name))
            })?;
            Ok(field.with_metadata(
                metadata
                    .into_iter()
                    .map(|(name, text)| (name, MetadataValue::String(text))),
            ))
        })
        .collect()
}

/// Checks the `PRIMARY KEY` of a table that is to be created.
///
/// # Errors
///
/// A column by whose values rows are not found again.
pub(super) fn check_new_key(columns: &[DeltaColumn], key: &[String]) -> Result<()> {
    let fields = columns
        .iter()
        .map(|column| Field::new(&column.name, column.data_type.clone(), column.nullable));
    let schema: SchemaRef = Arc::new(Schema::new(fields.collect::<Vec<_>>()));
    let generated = columns.iter().filter(|column| column.generated.is_some());
    let generated: Vec<&str> = generated.map(|column| column.name.as_str()).collect();
    UpsertKey::of(key, &schema, &generated).map(drop)
}

/// Compares a statement's declaration with the existing table.
///
/// # Errors
///
/// The first difference, by the name of its column.
pub(super) fn check_declared(
    spec: &DeltaSpec,
    schema: &SchemaRef,
    generated: &[GeneratedColumn],
    partition_columns: &[String],
) -> Result<()> {
    let table = &spec.location;
    if !spec.partition_by.is_empty() && spec.partition_by != partition_columns {
        let stored = if partition_columns.is_empty() {
            "not partitioned".to_owned()
        } else {
            format!("partitioned by {}", partition_columns.join(", "))
        };
        return Err(Error::invalid(format!(
            "the Delta table at '{table}' is {stored}, not by {}",
            spec.partition_by.join(", ")
        ))
        .about(Subject::location(table)));
    }
    let Some(columns) = &spec.columns else {
        return Ok(());
    };
    let help = "leave the column list out to open the table as it is";
    for column in columns {
        let Ok(field) = schema.field_with_name(&column.name) else {
            let names = schema.fields().iter().map(|field| field.name().as_str());
            let help = match crate::core::suggest::closest(&column.name, names) {
                Some(name) => format!("did you mean \"{name}\"? {help}"),
                None => help.to_owned(),
            };
            return Err(Error::invalid(format!(
                "the Delta table at '{table}' has no column '{}'",
                column.name
            ))
            .about(Subject::location(table))
            .about(Subject::column(&column.name))
            .with_help(help));
        };
        check_column(column, field, generated).map_err(|error| {
            error
                .context(format!("Delta table at '{table}'"))
                .within(Subject::location(table))
                .with_help(help)
        })?;
    }
    for (at, field) in schema.fields().iter().enumerate() {
        match columns
            .iter()
            .position(|column| column.name == *field.name())
        {
            Some(declared) if declared == at => {}
            Some(_) => {
                return Err(Error::invalid(format!(
                    "column '{}' has another position in the Delta table at '{table}'",
                    field.name()
                ))
                .about(Subject::column(field.name()))
                .about(Subject::location(table))
                .with_help(help));
            }
            None => {
                return Err(Error::invalid(format!(
                    "the Delta table at '{table}' also has a column '{}', which is not declared",
                    field.name()
                ))
                .about(Subject::location(table))
                .about(Subject::column(field.name()))
                .with_help(help));
            }
        }
    }
    Ok(())
}

fn check_column(column: &DeltaColumn, field: &Field, generated: &[GeneratedColumn]) -> Result<()> {
    let name = &column.name;
    if !same_delta_type(&column.data_type, field.data_type()) {
        return Err(Error::invalid(format!(
            "column '{name}' is declared {}, but stored as {}",
            show_type(&column.data_type),
            show_type(field.data_type())
        ))
        .about(Subject::column(name)));
    }
    if !column.nullable && field.is_nullable() {
        return Err(Error::invalid(format!(
            "column '{name}' is declared NOT NULL, but the table allows null in it"
        ))
        .about(Subject::column(name)));
    }
    let stored = generated.iter().find(|generated| generated.name == *name);
    match (&column.generated, stored) {
        (Some(text), None) => Err(Error::invalid(format!(
            "column '{name}' is declared as generated ({text}), but the table stores it as it is given"
        ))
        .about(Subject::column(name))),
        (Some(text), Some(stored)) => {
            let whole: SchemaRef = stored.schema();
            if same_expression(text, &stored.text, &whole) {
                Ok(())
            } else {
                Err(Error::invalid(format!(
                    "column '{name}' is declared as generated by {text}, but stored as generated by {}",
                    stored.text
                ))
                .about(Subject::column(name)))
            }
        }
        (None, _) => Ok(()),
    }
}

fn check_names(columns: &[DeltaColumn]) -> Result<()> {
    let mut seen = HashSet::new();
    for DeltaColumn { name, .. } in columns {
        if !seen.insert(name.to_lowercase()) {
            return Err(Error::invalid(format!("column '{name}' is declared twice"))
                .about(Subject::column(name)));
        }
        if name.is_empty() || name.contains([' ', ',', ';', '{', '}', '(', ')', '\n', '\t', '=']) {
            return Err(
                Error::invalid(format!("Delta cannot store a column named '{name}'"))
                    .about(Subject::column(name))
                    .with_help("use a name without spaces and without any of , ; { } ( ) ="),
            );
        }
    }
    Ok(())
}

fn check_partitioning(schema: &SchemaRef, partition_by: &[String]) -> Result<()> {
    for (at, name) in partition_by.iter().enumerate() {
        let Ok(field) = schema.field_with_name(name) else {
            let known = schema.fields().iter().map(|field| field.name().as_str());
            let error = Error::invalid(format!(
                "partition column '{name}' is not among the columns"
            ))
            .about(Subject::column(name));
            return Err(match crate::core::suggest::closest(name, known) {
                Some(close) => error.with_help(format!("did you mean \"{close}\"?")),
                None => error,
            });
        };
        if partition_by[..at].contains(name) {
            return Err(
                Error::invalid(format!("partition column '{name}' is named twice"))
                    .about(Subject::column(name)),
            );
        }
        if field.data_type().is_nested() || matches!(field.data_type(), DataType::Binary) {
            return Err(Error::unsupported(format!(
                "column '{name}' of type {} cannot partition a table",
                show_type(field.data_type())
            ))
            .about(Subject::column(name)));
        }
    }
    if !partition_by.is_empty() && partition_by.len() == schema.fields().len() {
        return Err(
            Error::invalid("every column is a partition column: files would be empty")
                .with_help("leave at least one column out of PARTITIONED BY"),
        );
    }
    Ok(())
}

/// The Arrow type that the kernel stores without loss as the declared one.
fn storable_type(declared: &DataType) -> Result<DataType> {
    let inner = |field: &Arc<Field>| -> Result<Arc<Field>> {
        Ok(Arc::new(
            field
                .as_ref()
                .clone()
                .with_data_type(storable_type(field.data_type())?),
        ))
    };
    Ok(match declared {
        DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View => DataType::Utf8,
        DataType::Binary
        | DataType::LargeBinary
        | DataType::BinaryView
        | DataType::FixedSizeBinary(_) => DataType::Binary,
        DataType::Dictionary(_, value) => storable_type(value)?,
        DataType::Timestamp(_, Some(_)) => {
            DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into()))
        }
        DataType::Timestamp(_, None) => DataType::Timestamp(TimeUnit::Microsecond, None),
        DataType::Date32 | DataType::Date64 => DataType::Date32,
        DataType::Boolean
        | DataType::Int8
        | DataType::Int16
        | DataType::Int32
        | DataType::Int64
        | DataType::Float32
        | DataType::Float64 => declared.clone(),
        DataType::Decimal128(_, scale) if *scale >= 0 => declared.clone(),
        DataType::List(field) | DataType::LargeList(field) | DataType::ListView(field) => {
            DataType::List(inner(field)?)
        }
        DataType::Struct(fields) => {
            DataType::Struct(fields.iter().map(inner).collect::<Result<Fields>>()?)
        }
        DataType::Map(entries, sorted) => DataType::Map(inner(entries)?, *sorted),
        DataType::UInt8 | DataType::UInt16 | DataType::UInt32 | DataType::UInt64 => {
            return Err(
                Error::unsupported(format!("Delta has no unsigned type {declared}"))
                    .with_help("use BIGINT, or DECIMAL(20, 0) for the whole range"),
            );
        }
        other => return Err(Error::unsupported(format!("Delta has no type {other}"))),
    })
}

/// The type as SQL spells it, for the common ones.
fn show_type(data_type: &DataType) -> String {
    match data_type {
        DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View => "VARCHAR".to_owned(),
        DataType::Binary | DataType::LargeBinary | DataType::BinaryView => "BINARY".to_owned(),
        DataType::Boolean => "BOOLEAN".to_owned(),
        DataType::Int8 => "TINYINT".to_owned(),
        DataType::Int16 => "SMALLINT".to_owned(),
        DataType::Int32 => "INT".to_owned(),
        DataType::Int64 => "BIGINT".to_owned(),
        DataType::Float32 => "REAL".to_owned(),
        DataType::Float64 => "DOUBLE".to_owned(),
        DataType::Date32 => "DATE".to_owned(),
        DataType::Timestamp(_, Some(_)) => "TIMESTAMP".to_owned(),
        DataType::Timestamp(_, None) => "TIMESTAMP WITHOUT TIME ZONE".to_owned(),
        DataType::Decimal128(precision, scale) => format!("DECIMAL({precision}, {scale})"),
        other => other.to_string(),
    }
}
