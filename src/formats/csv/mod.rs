//! The `csv` format: one record per message, fields by the position of the declared columns.
//!
//! A field that is unquoted and equal to `csv.null` is NULL. Values are read like the text of a JSON string; timestamps are
//! written as ISO 8601 in the table's zone, binary as base64.

pub(crate) mod text;

use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, AsArray, PrimitiveArray, RecordBatch, StringArray, StringBuilder,
};
use arrow::buffer::BooleanBuffer;
use arrow::compute::cast;
use arrow::datatypes::{DataType, Date32Type, Float64Type, Int64Type, Schema, SchemaRef};
use arrow::error::ArrowError;
use base64::Engine;

use super::column::{ColumnBuilders, ReadContext};
use crate::error::{Error, Result, Subject};
use crate::formats::codec::{
    Decoded, EncodedRows, RecordDecoder, RecordEncoder, RowsBuilder, check_batch, is_tombstone,
    not_tombstones, projected_schema,
};
use crate::formats::csv::text::{CsvDialect, CsvFields, write_field};
use crate::formats::decode_rows::decode_rows;
use crate::formats::settings::{ReadOptions, WriteOptions};
use crate::formats::text::scalar::BASE64;
use crate::formats::text::time::{TimestampWriter, units_per_second, write_date, write_time};
use crate::formats::type_name::sql_name;

/// Refuses nested columns.
///
/// # Errors
///
/// Names the column and its type.
pub(super) fn check_declared(declared: &Schema) -> Result<()> {
    for field in declared.fields() {
        if field.data_type().is_nested() {
            return Err(Error::invalid(format!(
                "format 'csv' has no nested values, column {} is a {}",
                field.name(),
                sql_name(field.data_type())
            ))
            .about(Subject::column(field.name())));
        }
    }
    ColumnBuilders::try_new(declared.fields(), "").map(|_| ())
}

/// Decodes messages that are one CSV record each.
pub(super) struct CsvDecoder {
    schema: SchemaRef,
    columns: ColumnBuilders,
    /// The position of each column in a record.
    positions: Vec<usize>,
    declared_columns: usize,
    context: ReadContext,
    dialect: CsvDialect,
    fields: CsvFields,
}

impl CsvDecoder {
    pub(super) fn try_new(
        declared: &Schema,
        projection: &[usize],
        options: &ReadOptions,
        dialect: &CsvDialect,
        lenient: bool,
    ) -> Result<Self> {
        let schema = projected_schema(declared, projection)?;
        let fields = projection
            .iter()
            .map(|&index| declared.field(index).clone())
            .collect();
        Ok(Self {
            schema,
            columns: ColumnBuilders::try_new(&fields, "")?,
            positions: projection.to_vec(),
            declared_columns: declared.fields().len(),
            context: ReadContext::new(options, lenient),
            dialect: dialect.clone(),
            fields: CsvFields::default(),
        })
    }
}

impl RecordDecoder for CsvDecoder {
    fn schema(&self) -> &SchemaRef {
        &self.schema
    }

    fn decode(&mut self, payloads: &[Option<&[u8]>]) -> Result<Decoded> {
        let (declared, positions) = (self.declared_columns, &self.positions);
        let (fields, dialect) = (&mut self.fields, &self.dialect);
        let read = |columns: &mut ColumnBuilders, context: &mut ReadContext, payload: &[u8], _| {
            let text = std::str::from_utf8(payload)
                .map_err(|error| format!("not valid UTF-8 at byte {}", error.valid_up_to()))?;
            fields.split(text, dialect)?;
            let found = fields.len();
            if found != declared {
                return Err(format!("{found} fields found, {declared} are declared"));
            }
            for (column, &position) in columns.children.iter_mut().zip(positions) {
                match fields.get(position, dialect) {
                    Some(text) => column.push_text(text, context),
                    None => column.push_null(),
                }
            }
            Ok(())
        };
        decode_rows(
            &self.schema,
            &mut self.columns,
            &mut self.context,
            payloads,
            read,
        )
    }
}

/// Writes each row as one CSV record without a line break.
pub(super) struct CsvEncoder {
    declared: SchemaRef,
    dialect: CsvDialect,
    timestamps: TimestampWriter,
}

impl CsvEncoder {
    pub(super) fn new(declared: &SchemaRef, options: &WriteOptions, dialect: &CsvDialect) -> Self {
        Self {
            declared: Arc::clone(declared),
            dialect: dialect.clone(),
            timestamps: TimestampWriter::new(options.timestamp_format, options.zone),
        }
    }
}

impl RecordEncoder for CsvEncoder {
    fn encode(
        &mut self,
        batch: &RecordBatch,
        tombstones: Option<&BooleanBuffer>,
    ) -> Result<EncodedRows> {
        check_batch(batch, &self.declared, tombstones)?;
        let texts = batch
            .columns()
            .iter()
            .map(|column| to_text(column, &mut self.timestamps))
            .collect::<Result<Vec<_>, _>>()
            .map_err(|error| Error::internal(format!("a value column does not fit: {error}")))?;
        let bytes = texts
            .iter()
            .map(|text| text.value_data().len() + text.len())
            .sum();
        let mut rows = RowsBuilder::with_capacity(batch.num_rows(), bytes);
        for row in 0..batch.num_rows() {
            if !is_tombstone(tombstones, row) {
                for (index, text) in texts.iter().enumerate() {
                    if index > 0 {
                        rows.bytes().push(self.dialect.delimiter);
                    }
                    let value = text.is_valid(row).then(|| text.value(row));
                    if !write_field(value, &self.dialect, rows.bytes()) {
                        return Err(Error::data(format!(
                            "row {row} of the batch, column {}: the value needs quotes and \
                             'csv.quote' is empty",
                            self.declared.field(index).name()
                        ))
                        .about(Subject::column(self.declared.field(index).name())));
                    }
                }
            }
            rows.end_row();
        }
        Ok(rows.finish(not_tombstones(tombstones)))
    }
}

/// The text of a column in a CSV record.
fn to_text(column: &ArrayRef, timestamps: &mut TimestampWriter) -> Result<StringArray, ArrowError> {
    match column.data_type() {
        DataType::Timestamp(unit, _) => {
            let values = cast(column, &DataType::Int64)?;
            Ok(write_each(
                values.as_primitive::<Int64Type>(),
                |value, out| {
                    timestamps.write(value, *unit, out);
                },
            ))
        }
        DataType::Date32 => Ok(write_each(
            column.as_primitive::<Date32Type>(),
            |days, out| {
                write_date(i64::from(days), out);
            },
        )),
        DataType::Time32(unit) | DataType::Time64(unit) => {
            let nanos_per_unit = 1_000_000_000 / units_per_second(*unit);
            let narrow = match column.data_type() {
                DataType::Time32(_) => cast(column, &DataType::Int32)?,
                _ => Arc::clone(column),
            };
            let values = cast(&narrow, &DataType::Int64)?;
            Ok(write_each(
                values.as_primitive::<Int64Type>(),
                |value, out| {
                    write_time(value * nanos_per_unit, out);
                },
            ))
        }
        DataType::Float32 | DataType::Float64 => {
            let text = cast(column, &DataType::Utf8)?;
            let wide = cast(column, &DataType::Float64)?;
            let wide = wide.as_primitive::<Float64Type>();
            if wide.values().iter().all(|value| value.is_finite()) {
                return Ok(text.as_string::<i32>().clone());
            }
            let written = text.as_string::<i32>().iter().zip(wide.iter());
            Ok(written
                .map(|(text, value)| match value {
                    Some(f64::INFINITY) => Some("Infinity"),
                    Some(f64::NEG_INFINITY) => Some("-Infinity"),
                    _ => text,
                })
                .collect())
        }
        DataType::Binary | DataType::LargeBinary | DataType::BinaryView => {
            let bytes = cast(column, &DataType::LargeBinary)?;
            Ok(bytes
                .as_binary::<i64>()
                .iter()
                .map(|value| value.map(|v| BASE64.encode(v)))
                .collect())
        }
        _ => Ok(cast(column, &DataType::Utf8)?.as_string::<i32>().clone()),
    }
}

/// The text of each value that is not NULL; `write` appends ASCII.
fn write_each<T: arrow::datatypes::ArrowPrimitiveType>(
    values: &PrimitiveArray<T>,
    mut write: impl FnMut(T::Native, &mut Vec<u8>),
) -> StringArray {
    let mut builder = StringBuilder::with_capacity(values.len(), values.len() * 24);
    let mut text = Vec::with_capacity(40);
    for value in values {
        match value {
            Some(value) => {
                text.clear();
                write(value, &mut text);
                builder.append_value(String::from_utf8_lossy(&text));
            }
            None => builder.append_null(),
        }
    }
    builder.finish()
}

#[cfg(test)]
#[path = "csv_tests.rs"]
mod tests;
