//! Rows as JSON that a browser reads without losing anything: an array for each row, in the order of the columns.
//!
//! Arrow's own encoders write text, lists and structs. Replaced are those of values that a number in JavaScript cannot hold:
//! large integers, decimals, NaN and the infinities are text.

use std::io::Write as _;
use std::sync::Arc;

use arrow_json::writer::{NullableEncoder, make_encoder};
use arrow_json::{Encoder, EncoderFactory, EncoderOptions};
use bytes::Bytes;
use datafusion::arrow::array::{Array, ArrayRef, AsArray, RecordBatch, StringArray};
use datafusion::arrow::buffer::ScalarBuffer;
use datafusion::arrow::compute::cast;
use datafusion::arrow::datatypes::{
    ArrowNativeType, DataType, Field, FieldRef, Float32Type, Float64Type, Int64Type, Schema,
    SchemaRef, UInt64Type,
};
use datafusion::arrow::error::ArrowError;
use datafusion::arrow::util::display::{ArrayFormatter, FormatOptions};
use serde::Serialize;
use serde_json::json;
use serde_json::value::RawValue;

use crate::error::{Error, ErrorKind, Result};
use crate::planner::types::type_name;
use crate::server::flight::wire::{WireTypes, to_wire, wire_schema};

/// Integers up to here are exact as numbers of JavaScript: 2^53 - 1.
const SAFE: u128 = (1 << 53) - 1;

/// How much of a result is sent.
#[derive(Debug, Clone, Copy)]
pub(super) struct ResultLimits {
    pub(super) rows: usize,
    /// The most bytes of their JSON.
    pub(super) bytes: usize,
}

/// A result, or its beginning.
#[derive(Debug, Serialize)]
pub(super) struct ResultTable {
    columns: Vec<ResultColumn>,
    rows: Box<RawValue>,
    /// Whether there are more rows than these.
    is_cut: bool,
}

#[derive(Debug, Serialize)]
struct ResultColumn {
    name: String,
    #[serde(rename = "type")]
    of: String,
    is_number: bool,
}

impl ResultTable {
    /// The rows as objects, for results whose columns have different names.
    ///
    /// # Errors
    ///
    /// None that a caller could cause.
    pub(super) fn objects(&self) -> Result<Vec<serde_json::Map<String, serde_json::Value>>> {
        let rows: Vec<Vec<serde_json::Value>> =
            serde_json::from_str(self.rows.get()).map_err(internal)?;
        let names = || self.columns.iter().map(|column| column.name.clone());
        Ok(rows
            .into_iter()
            .map(|row| names().zip(row).collect())
            .collect())
    }
}

/// Takes batches until there is enough.
#[derive(Debug)]
pub(super) struct TableBuilder {
    schema: SchemaRef,
    limits: ResultLimits,
    json: Vec<u8>,
    rows: usize,
    is_cut: bool,
}

impl TableBuilder {
    pub(super) fn new(schema: &Schema, limits: ResultLimits) -> Self {
        Self {
            schema: wire_schema(schema, WireTypes::default()),
            limits,
            json: vec![b'['],
            rows: 0,
            is_cut: false,
        }
    }

    /// Adds rows; whether more are wanted.
    ///
    /// # Errors
    ///
    /// One row alone is larger than a result may be.
    pub(super) fn push(&mut self, batch: &RecordBatch) -> Result<bool> {
        let batch = to_wire(batch, &self.schema)?;
        let options = EncoderOptions::default()
            .with_explicit_nulls(true)
            .with_encoder_factory(Arc::new(ExactEncoders));
        let fields = self.schema.fields().iter().zip(batch.columns());
        let columns: Vec<(FieldRef, ArrayRef)> = fields
            .map(|(field, column)| encodable(field, column, &options))
            .collect::<Result<_>>()?;
        let mut encoders = columns
            .iter()
            .map(|(field, column)| make_encoder(field, column.as_ref(), &options).map_err(internal))
            .collect::<Result<Vec<_>>>()?;
        for row in 0..batch.num_rows() {
            if self.rows == self.limits.rows {
                self.is_cut = true;
                return Ok(false);
            }
            let before = self.json.len();
            self.push_row(&mut encoders, row);
            if self.json.len() > self.limits.bytes {
                if self.rows == 0 {
                    return Err(too_large(self.limits.bytes));
                }
                self.json.truncate(before);
                self.is_cut = true;
                return Ok(false);
            }
            self.rows += 1;
        }
        Ok(true)
    }

    /// Ends the result.
    ///
    /// # Errors
    ///
    /// None that a caller could cause.
    pub(super) fn finish(mut self) -> Result<ResultTable> {
        self.json.push(b']');
        let fields = self.schema.fields().iter();
        let json = String::from_utf8(self.json).map_err(internal)?;
        Ok(ResultTable {
            columns: fields
                .map(|field| ResultColumn {
                    name: field.name().clone(),
                    of: type_name(field.data_type()),
                    is_number: field.data_type().is_numeric(),
                })
                .collect(),
            rows: RawValue::from_string(json).map_err(internal)?,
            is_cut: self.is_cut,
        })
    }

    fn push_row(&mut self, encoders: &mut [NullableEncoder<'_>], row: usize) {
        if self.rows > 0 {
            self.json.push(b',');
        }
        self.json.push(b'[');
        for (number, encoder) in encoders.iter_mut().enumerate() {
            if number > 0 {
                self.json.push(b',');
            }
            if encoder.is_null(row) {
                self.json.extend_from_slice(b"null");
            } else {
                encoder.encode(row, &mut self.json);
            }
        }
        self.json.push(b']');
    }
}

/// Rows that are sent as they come: a line of JSON with the columns, then lines with rows, then one that says that these were all.
#[derive(Debug)]
pub(super) struct RowLines {
    schema: SchemaRef,
    /// The most rows of a batch that are sent, and the most bytes of a line.
    limits: ResultLimits,
}

/// The most rows in a line: a page shows the first ones while it reads the next ones.
const LINE_ROWS: usize = 500;

#[derive(Debug, Serialize)]
struct RowsLine {
    rows: Box<RawValue>,
    /// How many rows there were since the line before. Of a large batch only the newest are sent.
    count: usize,
}

impl RowLines {
    pub(super) fn new(schema: SchemaRef, limits: ResultLimits) -> Self {
        Self { schema, limits }
    }

    /// The first line: the columns, and warnings about the statement.
    ///
    /// # Errors
    ///
    /// None that a caller could cause.
    pub(super) fn head(&self, warnings: &[String]) -> Result<Bytes> {
        let table = TableBuilder::new(&self.schema, self.limits).finish()?;
        line(&json!({"columns": table.columns, "warnings": warnings}))
    }

    /// The lines of a batch, in the order of its rows.
    ///
    /// # Errors
    ///
    /// One row alone is larger than a line may be.
    pub(super) fn of_batch(&self, batch: &RecordBatch) -> Result<Vec<Bytes>> {
        let rows = batch.num_rows();
        let sent = rows.min(self.limits.rows);
        let mut left_out = rows - sent;
        let mut lines = Vec::new();
        let mut open = vec![batch.slice(left_out, sent)];
        while let Some(part) = open.pop() {
            let rows = part.num_rows();
            if rows == 0 {
                continue;
            }
            let half = rows / 2;
            let halves = || [part.slice(half, rows - half), part.slice(0, half)];
            if rows > LINE_ROWS {
                open.extend(halves());
                continue;
            }
            let mut table = TableBuilder::new(&self.schema, self.limits);
            if !table.push(&part)? {
                open.extend(halves());
                continue;
            }
            lines.push(line(&RowsLine {
                rows: table.finish()?.rows,
                count: rows + std::mem::take(&mut left_out),
            })?);
        }
        Ok(lines)
    }

    /// The last line, and warnings about the rows.
    ///
    /// # Errors
    ///
    /// None that a caller could cause.
    pub(super) fn last(warnings: &[String]) -> Result<Bytes> {
        line(&json!({"is_complete": true, "warnings": warnings}))
    }
}

fn line(of: &impl Serialize) -> Result<Bytes> {
    let mut text = serde_json::to_vec(of).map_err(internal)?;
    text.push(b'\n');
    Ok(text.into())
}

/// The column, or its values as text if JSON has no such type, such as maps whose keys are numbers.
fn encodable(
    field: &FieldRef,
    column: &ArrayRef,
    options: &EncoderOptions,
) -> Result<(FieldRef, ArrayRef)> {
    if make_encoder(field, column.as_ref(), options).is_ok() {
        return Ok((Arc::clone(field), Arc::clone(column)));
    }
    let shown = FormatOptions::default().with_null("NULL");
    let shown = ArrayFormatter::try_new(column, &shown).map_err(internal)?;
    let text: StringArray = (0..column.len())
        .map(|row| column.is_valid(row).then(|| shown.value(row).to_string()))
        .collect();
    let field = Field::new(field.name(), DataType::Utf8, true);
    Ok((Arc::new(field), Arc::new(text)))
}

fn too_large(bytes: usize) -> Error {
    Error::new(
        ErrorKind::Exhausted,
        format!("one row is larger than {} MiB", bytes >> 20),
    )
    .with_help("select fewer columns, or a part of the text with substr")
}

fn internal(error: impl ToString) -> Error {
    Error::internal(error.to_string())
}

/// Makes the encoders that differ from Arrow's.
#[derive(Debug)]
struct ExactEncoders;

impl EncoderFactory for ExactEncoders {
    fn make_default_encoder<'a>(
        &self,
        _: &'a FieldRef,
        array: &'a dyn Array,
        _: &'a EncoderOptions,
    ) -> Result<Option<NullableEncoder<'a>>, ArrowError> {
        let encoder: Box<dyn Encoder + 'a> = match array.data_type() {
            DataType::Int64 => {
                let values = array.as_primitive::<Int64Type>().values();
                Box::new(ExactIntegers(values.clone()))
            }
            DataType::UInt64 => {
                let values = array.as_primitive::<UInt64Type>().values();
                Box::new(ExactIntegers(values.clone()))
            }
            DataType::Float16 => {
                let wider = cast(array, &DataType::Float32)?;
                let values = wider.as_primitive::<Float32Type>().values();
                Box::new(ExactFloats(values.clone()))
            }
            DataType::Float32 => {
                let values = array.as_primitive::<Float32Type>().values();
                Box::new(ExactFloats(values.clone()))
            }
            DataType::Float64 => {
                let values = array.as_primitive::<Float64Type>().values();
                Box::new(ExactFloats(values.clone()))
            }
            DataType::Decimal32(..)
            | DataType::Decimal64(..)
            | DataType::Decimal128(..)
            | DataType::Decimal256(..) => {
                let options = FormatOptions::new().with_display_error(true);
                Box::new(ExactDecimals(ArrayFormatter::try_new(array, &options)?))
            }
            _ => return Ok(None),
        };
        Ok(Some(NullableEncoder::new(encoder, array.nulls().cloned())))
    }
}

struct ExactIntegers<N: ArrowNativeType>(ScalarBuffer<N>);

impl<N: ArrowNativeType + Into<i128>> Encoder for ExactIntegers<N> {
    fn encode(&mut self, index: usize, out: &mut Vec<u8>) {
        let value: i128 = self.0[index].into();
        let is_safe = value.unsigned_abs() <= SAFE;
        // Writing to a vector does not fail.
        let _ = match is_safe {
            true => write!(out, "{value}"),
            false => write!(out, "\"{value}\""),
        };
    }
}

struct ExactFloats<N: ArrowNativeType>(ScalarBuffer<N>);

impl<N: ArrowNativeType + Into<f64> + Serialize> Encoder for ExactFloats<N> {
    fn encode(&mut self, index: usize, out: &mut Vec<u8>) {
        let value = self.0[index];
        let wide: f64 = value.into();
        // A finite number is always written.
        let _ = match wide {
            _ if wide.is_finite() => serde_json::to_writer(out, &value),
            _ if wide.is_nan() => serde_json::to_writer(out, "NaN"),
            _ if wide > 0.0 => serde_json::to_writer(out, "Infinity"),
            _ => serde_json::to_writer(out, "-Infinity"),
        };
    }
}

struct ExactDecimals<'a>(ArrayFormatter<'a>);

impl Encoder for ExactDecimals<'_> {
    fn encode(&mut self, index: usize, out: &mut Vec<u8>) {
        // Writing to a vector does not fail.
        let _ = write!(out, "\"{}\"", self.0.value(index));
    }
}

#[cfg(test)]
mod tests {
    use datafusion::arrow::array::{
        BinaryArray, BooleanArray, Decimal128Array, Float32Array, Float64Array, Int32Builder,
        Int64Array, ListArray, MapBuilder, NullArray, StringBuilder, StructArray,
        TimestampMicrosecondArray, UInt64Array,
    };

    use super::*;

    const ALL: ResultLimits = ResultLimits {
        rows: 100,
        bytes: 1 << 20,
    };

    fn table(batch: &RecordBatch, limits: ResultLimits) -> ResultTable {
        let mut builder = TableBuilder::new(&batch.schema(), limits);
        builder.push(batch).unwrap();
        builder.finish().unwrap()
    }

    fn json(columns: Vec<(&str, ArrayRef)>) -> String {
        let batch = RecordBatch::try_from_iter(columns).unwrap();
        table(&batch, ALL).rows.get().to_owned()
    }

    #[test]
    fn numbers_beyond_double_precision_are_text() {
        let safe = i64::try_from(SAFE).unwrap();
        let list = ListArray::from_iter_primitive::<Int64Type, _, _>(vec![
            Some(vec![Some(i64::MAX), None]),
            None,
        ]);
        let inner: ArrayRef = Arc::new(Int64Array::from(vec![i64::MIN, 1]));
        let field = Arc::new(Field::new("n", DataType::Int64, true));
        let decimals = Decimal128Array::from(vec![12_345, -5]);
        let decimals = decimals.with_precision_and_scale(20, 3).unwrap();
        let found = json(vec![
            ("i", Arc::new(Int64Array::from(vec![safe, -safe - 1]))),
            ("u", Arc::new(UInt64Array::from(vec![None, Some(u64::MAX)]))),
            (
                "f",
                Arc::new(Float64Array::from(vec![f64::NAN, f64::NEG_INFINITY])),
            ),
            ("s", Arc::new(Float32Array::from(vec![0.1, f32::INFINITY]))),
            ("d", Arc::new(decimals)),
            ("l", Arc::new(list)),
            ("t", Arc::new(StructArray::from(vec![(field, inner)]))),
        ]);
        assert_eq!(
            found,
            concat!(
                r#"[[9007199254740991,null,"NaN",0.1,"12.345",["9223372036854775807",null],{"n":"-9223372036854775808"}],"#,
                r#"["-9007199254740992","18446744073709551615","-Infinity","Infinity","-0.005",null,{"n":1}]]"#
            )
        );
    }

    #[test]
    fn times_bytes_and_null_are_encoded() {
        let at = TimestampMicrosecondArray::from(vec![1]).with_timezone("UTC");
        let mut map = MapBuilder::new(None, Int32Builder::new(), StringBuilder::new());
        map.keys().append_value(7);
        map.values().append_value("seven");
        map.append(true).unwrap();
        let found = json(vec![
            ("at", Arc::new(at)),
            ("b", Arc::new(BinaryArray::from(vec![&[0_u8, 255][..]]))),
            ("x", Arc::new(NullArray::new(1))),
            ("y", Arc::new(BooleanArray::from(vec![true]))),
            ("m", Arc::new(map.finish())),
        ]);
        assert_eq!(
            found,
            r#"[["1970-01-01T00:00:00.000001Z","00ff",null,true,"{7: seven}"]]"#
        );
    }

    #[test]
    fn a_result_is_cut_at_its_limits() {
        let numbers: ArrayRef = Arc::new(Int64Array::from_iter_values(0..10));
        let batch = RecordBatch::try_from_iter([("n", numbers)]).unwrap();
        let cut = |rows, bytes| {
            let table = table(&batch, ResultLimits { rows, bytes });
            (table.rows.get().to_owned(), table.is_cut)
        };
        assert_eq!(cut(2, 100), ("[[0],[1]]".to_owned(), true));
        assert_eq!(cut(100, 10), ("[[0],[1]]".to_owned(), true));
        assert!(!cut(10, 1_000).1);
        let mut builder = TableBuilder::new(&batch.schema(), ResultLimits { rows: 1, bytes: 2 });
        let error = builder.push(&batch).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Exhausted);
    }

    #[test]
    fn rows_that_come_are_lines_in_their_order() {
        let numbers = |rows: i64| {
            let numbers: ArrayRef = Arc::new(Int64Array::from_iter_values(0..rows));
            RecordBatch::try_from_iter([("n", numbers)]).unwrap()
        };
        let limits = |rows, bytes| {
            let lines = RowLines::new(numbers(0).schema(), ResultLimits { rows, bytes });
            move |rows: i64| {
                let lines = lines.of_batch(&numbers(rows)).unwrap();
                lines
                    .iter()
                    .map(|line| {
                        assert_eq!(line.last(), Some(&b'\n'));
                        let line: serde_json::Value = serde_json::from_slice(line).unwrap();
                        let values = line["rows"].as_array().unwrap();
                        let values = values.iter().map(|row| row[0].as_i64().unwrap());
                        (values.collect(), line["count"].as_u64().unwrap())
                    })
                    .collect::<Vec<(Vec<i64>, u64)>>()
            }
        };
        let all = limits(10_000, 1 << 20);
        assert_eq!(all(0), []);
        assert_eq!(all(2), [(vec![0, 1], 2)]);
        let many = all(1_700);
        assert!(many.iter().all(|(rows, _)| rows.len() <= LINE_ROWS));
        let rows: Vec<i64> = many.iter().flat_map(|(rows, _)| rows).copied().collect();
        assert_eq!(rows, (0..1_700).collect::<Vec<i64>>());
        // The newest are sent, and all are counted.
        assert_eq!(limits(2, 1 << 20)(5), [(vec![3, 4], 5)]);
        // A line within its limit: `[[0],[1]]` has nine bytes.
        assert_eq!(limits(5, 9)(3), [(vec![0], 1), (vec![1, 2], 2)]);
        let lines = RowLines::new(numbers(0).schema(), ALL);
        assert_eq!(
            lines.head(&["careful".to_owned()]).unwrap(),
            concat!(
                r#"{"columns":[{"is_number":true,"name":"n","type":"BIGINT"}],"warnings":["careful"]}"#,
                "\n"
            )
        );
    }
}
