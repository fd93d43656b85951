//! Declarations of tables: from the syntax tree of CREATE EXTERNAL TABLE to an opened Kafka or Delta table.

use std::sync::Arc;

use anabranch_udfs::expr_text;
use datafusion::arrow::compute::kernels::cast_utils::parse_interval_month_day_nano;
use datafusion::arrow::datatypes::{Field, SchemaRef};
use datafusion::sql::sqlparser::ast::{BinaryOperator, Expr, Ident, Interval};
use datafusion::sql::sqlparser::tokenizer::Span;

use crate::error::{Error, Result, Subject};
use crate::formats::typed_as;
use crate::planner::normalize;
use crate::planner::types::{arrow_type, typed_arrow_type};
use crate::planner::{Column, ColumnKind, CreateTable, TableKind, TextValue};
use crate::tables::delta::{DeltaColumn, DeltaSpec, DeltaTableHandle};
use crate::tables::kafka::{KafkaColumn, KafkaTable, KafkaTableSpec, MetadataKey};
use crate::tables::options::{self, Options};

/// A table that a statement declares, opened.
#[derive(Debug, Clone)]
pub(crate) enum DeclaredTable {
    /// A table over a topic.
    Kafka(Arc<KafkaTable>),
    /// A Delta table, and its columns at the time of declaration.
    Delta {
        /// The table.
        handle: DeltaTableHandle,
        /// Its columns.
        schema: SchemaRef,
    },
}

/// The treatment of a declaration whose Delta table does not exist.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum IfMissing {
    /// Create the table.
    Create,
    /// Return an error: the table existed when it was declared, and an empty one would hide that it is gone, or not mounted.
    Refuse,
}

/// Opens the table that a statement declares.
pub(crate) async fn open_table(
    table: &CreateTable,
    name: &str,
    if_missing: IfMissing,
) -> Result<DeclaredTable> {
    let options = expand_options(table)?;
    let location = expand(&table.location)?;
    match table.kind {
        TableKind::Kafka => {
            let spec = kafka_spec(table, name, location, options)?;
            let opened = place(table, KafkaTable::try_new(spec))?;
            Ok(DeclaredTable::Kafka(Arc::new(opened)))
        }
        TableKind::Delta => {
            let spec = delta_spec(table, location, options)?;
            if if_missing == IfMissing::Refuse && !DeltaTableHandle::is_there(&spec).await? {
                let gone = format!("the Delta table at '{}' no longer exists", spec.location);
                return Err(Error::not_found(gone).about(Subject::location(&spec.location)));
            }
            let opened = DeltaTableHandle::create_or_open(spec).await;
            let handle = place(table, opened)?;
            let schema = handle.schema().await?;
            Ok(DeclaredTable::Delta { handle, schema })
        }
    }
}

/// Adds to an error about an option or a column the place where the user typed it.
pub(crate) fn place<T>(table: &CreateTable, result: Result<T>) -> Result<T> {
    result.map_err(|error| {
        let mut subjects = error.subjects().iter();
        match subjects.find_map(|subject| place_of(table, subject)) {
            Some(span) => error.at(span),
            None => error,
        }
    })
}

/// The place of an error's subject in a declaration: a bad value is marked at the value, an unknown name at the name.
fn place_of(table: &CreateTable, subject: &Subject) -> Option<Span> {
    let option = |name: &str| {
        let mut options = table.options.iter();
        options.find(|option| option.key.eq_ignore_ascii_case(name))
    };
    match subject {
        Subject::Option(name) => option(name).map(|option| option.value.span),
        Subject::UnknownOption(name) => option(name).map(|option| option.key_span),
        Subject::Column(name) => {
            let declared = table.columns.iter().map(|column| &column.name);
            let mut named = declared.chain(&table.primary_key);
            let named = named.find(|column| normalize(column) == *name);
            named.map(|column| column.span)
        }
        Subject::Location(_) => Some(table.location.span),
        _ => None,
    }
}

fn expand(text: &TextValue) -> Result<String> {
    options::expand_environment(&text.value, |name| std::env::var(name).ok())
        .map_err(|error| error.at(text.span))
}

fn expand_options(table: &CreateTable) -> Result<Options> {
    let mut options = Options::new();
    for option in &table.options {
        let key = option.key.to_lowercase();
        if options.insert(key, expand(&option.value)?).is_some() {
            return Err(
                Error::invalid(format!("option '{}' is given twice", option.key))
                    .at(option.key_span),
            );
        }
    }
    Ok(options)
}

fn field(column: &Column) -> Result<Field> {
    let data_type = arrow_type(&column.sql_type).map_err(|error| {
        error
            .context(format!("column {}", column.name))
            .at(column.type_span)
    })?;
    Ok(Field::new(
        normalize(&column.name),
        data_type,
        !column.not_null,
    ))
}

/// The field with its original spelling, and that of STRUCT fields: the fields of a record are found by it as well.
fn typed_field(column: &Column) -> Result<Field> {
    let plain = field(column)?;
    let data_type = typed_arrow_type(&column.sql_type)?;
    let typed = Field::new(plain.name(), data_type, plain.is_nullable());
    Ok(typed_as(typed, &column.name.value))
}

fn kafka_spec(
    table: &CreateTable,
    name: &str,
    topic: String,
    options: Options,
) -> Result<KafkaTableSpec> {
    if let Some(column) = table.partitioned_by.first() {
        return Err(Error::invalid("PARTITIONED BY belongs to Delta tables")
            .with_help("a topic's partitions are set with the option 'topic.partitions'")
            .at(column.span));
    }
    let mut columns = Vec::with_capacity(table.columns.len());
    for column in &table.columns {
        let metadata = match &column.kind {
            ColumnKind::Physical => None,
            ColumnKind::Metadata { key, span } => {
                Some(MetadataKey::parse(key).map_err(|error| error.at(*span))?)
            }
            ColumnKind::Generated { span, .. } => {
                return Err(Error::invalid("generated columns belong to Delta tables")
                    .with_help("compute the column in the query, or in a view over this table")
                    .at(*span));
            }
        };
        columns.push(KafkaColumn {
            field: typed_field(column)?,
            metadata,
        });
    }
    Ok(KafkaTableSpec {
        name: name.to_owned(),
        topic,
        columns,
        primary_key: table.primary_key.iter().map(normalize).collect(),
        watermark: watermark(table)?,
        options,
    })
}

/// The event time column, the expression as SQL, and its delay in microseconds.
fn watermark(table: &CreateTable) -> Result<Option<(String, String, i64)>> {
    let Some((column, expr)) = &table.watermark else {
        return Ok(None);
    };
    let delay = watermark_delay(column, expr)?;
    Ok(Some((normalize(column), expr_text(expr), delay)))
}

/// The delay of `expr` behind the event time `column`, in microseconds.
fn watermark_delay(column: &Ident, expr: &Expr) -> Result<i64> {
    let is_column = |expr: &Expr| matches!(expr, Expr::Identifier(name) if normalize(name) == normalize(column));
    let delay = match expr {
        expr if is_column(expr) => Some(0),
        Expr::BinaryOp {
            left,
            op: BinaryOperator::Minus,
            right,
        } if is_column(left) => match right.as_ref() {
            Expr::Interval(interval) => microseconds(interval),
            _ => None,
        },
        _ => None,
    };
    delay.filter(|delay| *delay >= 0).ok_or_else(|| {
        Error::invalid(format!("'{expr}' is not a valid watermark for {column}"))
            .with_help(format!(
                "a watermark is the event time less a fixed time: WATERMARK FOR {column} AS {column} - INTERVAL '15 minutes'"
            ))
            .at(column.span)
    })
}

/// `None` if the interval has no fixed length.
fn microseconds(interval: &Interval) -> Option<i64> {
    let Expr::Value(value) = interval.value.as_ref() else {
        return None;
    };
    let mut text = value.value.clone().into_string()?;
    if let Some(unit) = &interval.leading_field {
        text = format!("{text} {unit}");
    }
    let parsed = parse_interval_month_day_nano(&text).ok()?;
    (parsed.months == 0).then_some(())?;
    i64::from(parsed.days)
        .checked_mul(86_400_000_000)?
        .checked_add(parsed.nanoseconds / 1_000)
}

fn delta_spec(table: &CreateTable, location: String, options: Options) -> Result<DeltaSpec> {
    let mut columns = Vec::with_capacity(table.columns.len());
    for column in &table.columns {
        let field = field(column)?;
        let generated = match &column.kind {
            ColumnKind::Physical => None,
            ColumnKind::Generated { expr, .. } => Some(expr_text(expr)),
            ColumnKind::Metadata { span, .. } => {
                return Err(Error::invalid("METADATA columns belong to Kafka tables").at(*span));
            }
        };
        columns.push(DeltaColumn {
            name: field.name().clone(),
            data_type: field.data_type().clone(),
            nullable: field.is_nullable(),
            generated,
            comment: column.comment.clone(),
        });
    }
    let names: Vec<String> = columns.iter().map(|column| column.name.clone()).collect();
    for column in &table.partitioned_by {
        if !names.is_empty() && !names.contains(&normalize(column)) {
            return Err(Error::invalid(format!(
                "PARTITIONED BY names {column}, which is not a column"
            ))
            .at(column.span));
        }
    }
    Ok(DeltaSpec {
        location,
        columns: (!columns.is_empty()).then_some(columns),
        partition_by: table.partitioned_by.iter().map(normalize).collect(),
        primary_key: table.primary_key.iter().map(normalize).collect(),
        options,
        watermark: watermark(table)?,
    })
}
