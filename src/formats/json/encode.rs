//! Encoder from rows to compact JSON objects, fields in declared order.
//!
//! Arrow's own encoders write numbers, text, lists and structs. This module replaces those that would lose or change a value:
//! timestamps (format and zone), binary (base64, as the decoder reads it), floats (NaN is refused, not written as `null`), maps
//! (a NULL value keeps its key, and keys may have other types than text), dates and times.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use arrow::array::{Array, ArrayRef, AsArray, MapArray, PrimitiveArray, RecordBatch, StructArray};
use arrow::buffer::{BooleanBuffer, OffsetBuffer, ScalarBuffer};
use arrow::compute::cast;
use arrow::datatypes::{
    ArrowPrimitiveType, DataType, Date32Type, Field, FieldRef, Float32Type, Float64Type, Int64Type,
    SchemaRef, TimeUnit,
};
use arrow::error::ArrowError;
use arrow_json::writer::{NullableEncoder, make_encoder};
use arrow_json::{Encoder, EncoderFactory, EncoderOptions};
use base64::Engine;

use crate::error::{Error, Result, Subject};
use crate::formats::codec::{
    EncodedRows, RecordEncoder, RowsBuilder, check_batch, is_tombstone, not_tombstones,
};
use crate::formats::column_spelling::renamed;
use crate::formats::settings::WriteOptions;
use crate::formats::text::scalar::BASE64;
use crate::formats::text::time::{TimestampWriter, units_per_second, write_date, write_time};

/// Writes each row as one JSON object.
pub(crate) struct JsonEncoder {
    /// The declared columns, with the names used in records.
    declared: SchemaRef,
    options: EncoderOptions,
    fault: Arc<EncodeFault>,
}

impl JsonEncoder {
    pub(crate) fn new(declared: &SchemaRef, options: &WriteOptions) -> Self {
        let fault = Arc::new(EncodeFault::default());
        let factory = JsonEncoderFactory {
            timestamps: TimestampWriter::new(options.timestamp_format, options.zone),
            is_epoch: options.timestamp_format.is_epoch(),
            fault: Arc::clone(&fault),
        };
        let options = EncoderOptions::default()
            .with_explicit_nulls(options.nulls)
            .with_encoder_factory(Arc::new(factory));
        Self {
            declared: Arc::clone(declared),
            options,
            fault,
        }
    }
}

impl RecordEncoder for JsonEncoder {
    fn encode(
        &mut self,
        batch: &RecordBatch,
        tombstones: Option<&BooleanBuffer>,
    ) -> Result<EncodedRows> {
        /// An initial guess, so that the buffer rarely grows.
        const BYTES_PER_FIELD: usize = 24;
        check_batch(batch, &self.declared, tombstones)?;
        self.fault.clear();
        let rows = batch.num_rows();
        let record = record_array(batch, &self.declared).map_err(unwritable)?;
        let field = Arc::new(Field::new("record", record.data_type().clone(), false));
        let mut encoder = make_encoder(&field, &record, &self.options).map_err(unwritable)?;
        let mut out =
            RowsBuilder::with_capacity(rows, rows * batch.num_columns() * BYTES_PER_FIELD);
        for row in 0..rows {
            if !is_tombstone(tombstones, row) {
                encoder.encode(row, out.bytes());
                self.fault.check(row)?;
            }
            out.end_row();
        }
        Ok(out.finish(not_tombstones(tombstones)))
    }
}

/// The batch as one struct with the declared names.
fn record_array(batch: &RecordBatch, declared: &SchemaRef) -> Result<StructArray, ArrowError> {
    let columns = declared
        .fields()
        .iter()
        .zip(batch.columns())
        .map(|(field, column)| renamed(column, field.data_type()))
        .collect::<Result<Vec<_>, _>>()?;
    let fields = declared
        .fields()
        .iter()
        .zip(&columns)
        .map(|(field, column)| Field::new(field.name(), column.data_type().clone(), true))
        .collect();
    StructArray::try_new_with_length(fields, columns, None, batch.num_rows())
}

fn unwritable(error: ArrowError) -> Error {
    Error::unsupported(format!("the rows cannot be written as JSON: {error}"))
}

/// The first error of an encoder: Arrow's encoder trait cannot return one.
#[derive(Debug, Default)]
struct EncodeFault {
    is_set: AtomicBool,
    /// A column, and the reason why its value cannot be written.
    said: Mutex<(String, String)>,
}

impl EncodeFault {
    fn set(&self, column: &str, message: String) {
        let mut said = self.said.lock().unwrap_or_else(PoisonError::into_inner);
        *said = (column.to_owned(), message);
        self.is_set.store(true, Ordering::Relaxed);
    }

    fn clear(&self) {
        self.is_set.store(false, Ordering::Relaxed);
    }

    fn check(&self, row: usize) -> Result<()> {
        if !self.is_set.load(Ordering::Relaxed) {
            return Ok(());
        }
        let said = self.said.lock().unwrap_or_else(PoisonError::into_inner);
        let (column, message) = &*said;
        Err(Error::data(format!("row {row} of the batch, {message}"))
            .about(Subject::column(column)))
    }
}

/// Creates the encoders that differ from Arrow's.
#[derive(Debug)]
struct JsonEncoderFactory {
    timestamps: TimestampWriter,
    is_epoch: bool,
    fault: Arc<EncodeFault>,
}

impl EncoderFactory for JsonEncoderFactory {
    fn make_default_encoder<'a>(
        &self,
        field: &'a FieldRef,
        array: &'a dyn Array,
        options: &'a EncoderOptions,
    ) -> Result<Option<NullableEncoder<'a>>, ArrowError> {
        let encoder: Box<dyn Encoder + 'a> = match array.data_type() {
            DataType::Timestamp(unit, _) => Box::new(TimestampEncoder {
                values: wide_values(array)?,
                unit: *unit,
                writer: self.timestamps.clone(),
                is_epoch: self.is_epoch,
            }),
            DataType::Date32 => Box::new(DateEncoder(array.as_primitive::<Date32Type>())),
            DataType::Time32(unit) | DataType::Time64(unit) => Box::new(TimeEncoder {
                values: wide_values(array)?,
                nanos_per_unit: 1_000_000_000 / units_per_second(*unit),
            }),
            DataType::Float32 => self.float(field, array.as_primitive::<Float32Type>()),
            DataType::Float64 => self.float(field, array.as_primitive::<Float64Type>()),
            DataType::Binary | DataType::LargeBinary | DataType::BinaryView => Box::new(
                BinaryEncoder(cast(&array.slice(0, array.len()), &DataType::LargeBinary)?),
            ),
            DataType::Map(..) => Box::new(MapEncoder::try_new(field, array.as_map(), options)?),
            _ => return Ok(None),
        };
        Ok(Some(NullableEncoder::new(encoder, array.nulls().cloned())))
    }
}

impl JsonEncoderFactory {
    fn float<'a, T>(
        &self,
        field: &'a FieldRef,
        array: &'a PrimitiveArray<T>,
    ) -> Box<dyn Encoder + 'a>
    where
        T: ArrowPrimitiveType,
        T::Native: Into<f64> + serde::Serialize,
    {
        Box::new(FloatEncoder {
            values: array.values(),
            name: field.name(),
            fault: Arc::clone(&self.fault),
        })
    }
}

/// The integers behind a temporal array.
fn wide_values(array: &dyn Array) -> Result<ScalarBuffer<i64>, ArrowError> {
    let array = array.slice(0, array.len());
    let narrow = match array.data_type() {
        DataType::Time32(_) => cast(&array, &DataType::Int32)?,
        _ => array,
    };
    Ok(cast(&narrow, &DataType::Int64)?
        .as_primitive::<Int64Type>()
        .values()
        .clone())
}

struct TimestampEncoder {
    values: ScalarBuffer<i64>,
    unit: TimeUnit,
    writer: TimestampWriter,
    is_epoch: bool,
}

impl Encoder for TimestampEncoder {
    fn encode(&mut self, index: usize, out: &mut Vec<u8>) {
        if self.is_epoch {
            self.writer.write(self.values[index], self.unit, out);
        } else {
            out.push(b'"');
            self.writer.write(self.values[index], self.unit, out);
            out.push(b'"');
        }
    }
}

struct DateEncoder<'a>(&'a PrimitiveArray<Date32Type>);

impl Encoder for DateEncoder<'_> {
    fn encode(&mut self, index: usize, out: &mut Vec<u8>) {
        out.push(b'"');
        write_date(i64::from(self.0.value(index)), out);
        out.push(b'"');
    }
}

struct TimeEncoder {
    values: ScalarBuffer<i64>,
    nanos_per_unit: i64,
}

impl Encoder for TimeEncoder {
    fn encode(&mut self, index: usize, out: &mut Vec<u8>) {
        out.push(b'"');
        write_time(self.values[index] * self.nanos_per_unit, out);
        out.push(b'"');
    }
}

struct FloatEncoder<'a, N: arrow::datatypes::ArrowNativeType> {
    values: &'a ScalarBuffer<N>,
    name: &'a str,
    fault: Arc<EncodeFault>,
}

impl<N> Encoder for FloatEncoder<'_, N>
where
    N: arrow::datatypes::ArrowNativeType + Into<f64> + serde::Serialize,
{
    fn encode(&mut self, index: usize, out: &mut Vec<u8>) {
        let value = self.values[index];
        let wide: f64 = value.into();
        if !wide.is_finite() {
            let name = self.name;
            self.fault.set(
                name,
                format!("column {name}: JSON has no number for {wide}"),
            );
        }
        // A finite number is always written.
        let _ = serde_json::to_writer(out, &value);
    }
}

struct BinaryEncoder(ArrayRef);

impl Encoder for BinaryEncoder {
    fn encode(&mut self, index: usize, out: &mut Vec<u8>) {
        let value = self.0.as_binary::<i64>().value(index);
        out.push(b'"');
        let start = out.len();
        out.resize(start + value.len().div_ceil(3) * 4, 0);
        // The buffer has exactly the length that padded base64 needs.
        let written = BASE64.encode_slice(value, &mut out[start..]).unwrap_or(0);
        out.truncate(start + written);
        out.push(b'"');
    }
}

/// A map as an object. Keys that are not text are written as the text of their value.
struct MapEncoder<'a> {
    offsets: &'a OffsetBuffer<i32>,
    keys: NullableEncoder<'a>,
    values: NullableEncoder<'a>,
}

impl<'a> MapEncoder<'a> {
    fn try_new(
        field: &'a FieldRef,
        array: &'a MapArray,
        options: &'a EncoderOptions,
    ) -> Result<Self, ArrowError> {
        Ok(Self {
            offsets: array.offsets(),
            keys: make_encoder(field, array.keys().as_ref(), options)?,
            values: make_encoder(field, array.values().as_ref(), options)?,
        })
    }
}

impl Encoder for MapEncoder<'_> {
    fn encode(&mut self, index: usize, out: &mut Vec<u8>) {
        out.push(b'{');
        let (start, end) = (
            self.offsets[index] as usize,
            self.offsets[index + 1] as usize,
        );
        for entry in start..end {
            if entry > start {
                out.push(b',');
            }
            let key_start = out.len();
            self.keys.encode(entry, out);
            if out.get(key_start) != Some(&b'"') {
                out.insert(key_start, b'"');
                out.push(b'"');
            }
            out.push(b':');
            if self.values.is_null(entry) {
                out.extend_from_slice(b"null");
            } else {
                self.values.encode(entry, out);
            }
        }
        out.push(b'}');
    }
}

#[cfg(test)]
#[path = "encode_tests.rs"]
mod tests;
