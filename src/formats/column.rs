//! Column builders that append one value at a time and can roll back the last row.
//!
//! A decoder reads a record in one pass, straight into the builders. If the record turns out to be bad, the decoder truncates
//! its values; so one bad record does not cause a second reading of its neighbours.

use std::sync::Arc;

use arrow::array::{
    ArrayRef, BinaryArray, BooleanArray, BooleanBufferBuilder, ListArray, MapArray,
    NullBufferBuilder, PrimitiveArray, StringArray, StructArray,
};
use arrow::buffer::{Buffer, OffsetBuffer, ScalarBuffer};
use arrow::compute::cast;
use arrow::datatypes::{
    ArrowPrimitiveType, DataType, Date32Type, Decimal128Type, Decimal256Type, Field, Fields,
    Float32Type, Float64Type, Int8Type, Int16Type, Int32Type, Int64Type, TimeUnit, UInt8Type,
    UInt16Type, UInt32Type, UInt64Type, i256,
};
use arrow::error::ArrowError;

use super::excerpt::excerpt;
use super::map_keys::last_of_each;
use super::settings::ReadOptions;
use super::type_name::sql_name;
use crate::error::{Error, Result, Subject};
use crate::formats::json::key_index::KeyIndex;
use crate::formats::text::time::TimestampReader;

/// Settings for reading a value, and the state of the row that is being read.
pub(crate) struct ReadContext {
    pub(crate) timestamps: TimestampReader,
    /// The unit of numbers read as timestamps.
    pub(crate) number_unit: Option<TimeUnit>,
    /// A value of the wrong type is NULL and does not make the row bad.
    lenient: bool,
    /// The JSON reader takes the text of a nested value before it reads it: a number in its place may be too large for a DOUBLE.
    pub(crate) takes_texts: bool,
    /// Why the row is bad: the first reason.
    failure: Option<ValueFailure>,
}

impl ReadContext {
    pub(crate) fn new(options: &ReadOptions, lenient: bool) -> Self {
        Self {
            timestamps: TimestampReader::new(options.zone),
            number_unit: options.number_unit,
            lenient,
            takes_texts: false,
            failure: None,
        }
    }

    /// Marks the row as bad, under any error policy.
    pub(crate) fn fail(&mut self, column: &ColumnBuilder, reason: impl FnOnce() -> String) {
        if self.failure.is_none() {
            self.failure = Some(ValueFailure {
                column: column.path.clone(),
                reason: reason(),
            });
        }
    }

    /// Returns why the row is bad, and resets the reason for the next row.
    pub(crate) fn take_failure(&mut self) -> Option<ValueFailure> {
        self.failure.take()
    }
}

/// Why a value makes its row bad.
pub(crate) struct ValueFailure {
    /// The column of the value, as a path from the top.
    pub(crate) column: String,
    /// Why, in a form for people.
    pub(crate) reason: String,
}

/// A column builder.
pub(crate) struct ColumnBuilder {
    /// The name as a path from the top (`context.browser`), for messages.
    pub(crate) path: String,
    pub(crate) data_type: DataType,
    pub(crate) nullable: bool,
    pub(crate) validity: NullBufferBuilder,
    pub(crate) values: ValueBuilder,
}

/// The values of a column builder; null slots hold a default.
pub(crate) enum ValueBuilder {
    Boolean(BooleanBufferBuilder),
    Int8(Vec<i8>),
    Int16(Vec<i16>),
    Int32(Vec<i32>),
    Int64(Vec<i64>),
    UInt8(Vec<u8>),
    UInt16(Vec<u16>),
    UInt32(Vec<u32>),
    UInt64(Vec<u64>),
    Float32(Vec<f32>),
    Float64(Vec<f64>),
    Date(Vec<i32>),
    /// In the unit since midnight; narrowed at the end where Arrow has 32 bits.
    Time(TimeUnit, Vec<i64>),
    Timestamp(TimeUnit, Vec<i64>),
    Decimal128(u8, i8, Vec<i128>),
    Decimal256(u8, i8, Vec<i256>),
    Text(BytesBuilder),
    Binary(BytesBuilder),
    List(Vec<i32>, Box<ColumnBuilder>),
    Map(Vec<i32>, Box<ColumnBuilder>, Box<ColumnBuilder>),
    Struct(ColumnBuilders),
}

/// A builder of text or binary values.
pub(crate) struct BytesBuilder {
    offsets: Vec<i32>,
    data: Vec<u8>,
}

impl BytesBuilder {
    fn new() -> Self {
        Self {
            offsets: vec![0],
            data: Vec::new(),
        }
    }

    pub(crate) fn push(&mut self, value: &[u8]) {
        self.data.extend_from_slice(value);
        self.end_value();
    }

    /// Where the next value is written; [`end_value`](Self::end_value) follows.
    pub(crate) fn data(&mut self) -> &mut Vec<u8> {
        &mut self.data
    }

    pub(crate) fn end_value(&mut self) {
        // A batch of more bytes than this is refused before it is read.
        self.offsets
            .push(i32::try_from(self.data.len()).unwrap_or(i32::MAX));
    }

    /// Truncates the bytes written since the last value.
    pub(crate) fn discard_value(&mut self) {
        self.data
            .truncate(self.offsets.last().map_or(0, |&end| end as usize));
    }

    fn truncate(&mut self, len: usize) {
        self.offsets.truncate(len + 1);
        self.discard_value();
    }

    fn take(&mut self) -> (OffsetBuffer<i32>, Buffer) {
        let taken = std::mem::replace(self, BytesBuilder::new());
        self.offsets.reserve(taken.offsets.len());
        self.data.reserve(taken.data.len());
        (
            OffsetBuffer::new(ScalarBuffer::from(taken.offsets)),
            Buffer::from_vec(taken.data),
        )
    }
}

/// The columns of a record or of a STRUCT.
pub(crate) struct ColumnBuilders {
    pub(crate) fields: Fields,
    pub(crate) children: Vec<ColumnBuilder>,
    pub(crate) keys: KeyIndex,
}

impl ColumnBuilders {
    /// Column builders for `fields`; `path` is the path of the STRUCT they are in, empty at the top.
    ///
    /// # Errors
    ///
    /// Names the column whose type cannot be read from text.
    pub(crate) fn try_new(fields: &Fields, path: &str) -> Result<Self> {
        let children = fields
            .iter()
            .map(|field| {
                let path = if path.is_empty() {
                    field.name().clone()
                } else {
                    format!("{path}.{}", field.name())
                };
                ColumnBuilder::try_new(field, path)
            })
            .collect::<Result<_>>()?;
        Ok(Self {
            fields: fields.clone(),
            children,
            keys: KeyIndex::new(fields),
        })
    }

    /// Ends a row that began when the columns had `start` values: a field that the record did not name becomes NULL, and a NULL
    /// that is not allowed makes the row bad.
    pub(crate) fn end_row(&mut self, start: usize, context: &mut ReadContext) {
        for child in &mut self.children {
            let is_missing = child.len() == start;
            if is_missing {
                child.push_null();
            }
            child.check_not_null(context, is_missing);
        }
    }

    /// A row that is NULL everywhere.
    pub(crate) fn push_null(&mut self) {
        self.children.iter_mut().for_each(ColumnBuilder::push_null);
    }

    /// Truncates all columns to `len` values, and removes what a reader has added to a value that it has not ended.
    pub(crate) fn truncate(&mut self, len: usize) {
        self.children.iter_mut().for_each(|child| child.cut(len));
    }

    /// Whether a column has values within values.
    pub(crate) fn are_nested(&self) -> bool {
        let mut columns = self.children.iter();
        columns.any(|column| column.data_type.is_nested())
    }

    /// Returns the finished columns and empties the builders.
    pub(crate) fn finish(&mut self) -> Result<Vec<ArrayRef>, ArrowError> {
        self.children
            .iter_mut()
            .map(ColumnBuilder::finish)
            .collect()
    }
}

impl ColumnBuilder {
    fn try_new(field: &Field, path: String) -> Result<Self> {
        let values = match field.data_type() {
            DataType::Boolean => ValueBuilder::Boolean(BooleanBufferBuilder::new(0)),
            DataType::Int8 => ValueBuilder::Int8(Vec::new()),
            DataType::Int16 => ValueBuilder::Int16(Vec::new()),
            DataType::Int32 => ValueBuilder::Int32(Vec::new()),
            DataType::Int64 => ValueBuilder::Int64(Vec::new()),
            DataType::UInt8 => ValueBuilder::UInt8(Vec::new()),
            DataType::UInt16 => ValueBuilder::UInt16(Vec::new()),
            DataType::UInt32 => ValueBuilder::UInt32(Vec::new()),
            DataType::UInt64 => ValueBuilder::UInt64(Vec::new()),
            DataType::Float32 => ValueBuilder::Float32(Vec::new()),
            DataType::Float64 => ValueBuilder::Float64(Vec::new()),
            DataType::Date32 => ValueBuilder::Date(Vec::new()),
            DataType::Time32(unit) | DataType::Time64(unit) => {
                ValueBuilder::Time(*unit, Vec::new())
            }
            DataType::Timestamp(unit, _) => ValueBuilder::Timestamp(*unit, Vec::new()),
            DataType::Decimal128(precision, scale) => {
                ValueBuilder::Decimal128(*precision, *scale, Vec::new())
            }
            DataType::Decimal256(precision, scale) => {
                ValueBuilder::Decimal256(*precision, *scale, Vec::new())
            }
            DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View => {
                ValueBuilder::Text(BytesBuilder::new())
            }
            DataType::Binary | DataType::LargeBinary | DataType::BinaryView => {
                ValueBuilder::Binary(BytesBuilder::new())
            }
            DataType::List(item) => {
                let child = ColumnBuilder::try_new(item, format!("{path}[]"))?;
                ValueBuilder::List(vec![0], Box::new(child))
            }
            DataType::Map(entries, _) => {
                let DataType::Struct(fields) = entries.data_type() else {
                    return Err(unsupported(&path, field.data_type()));
                };
                let [key, value] = fields.as_ref() else {
                    return Err(unsupported(&path, field.data_type()));
                };
                if key.data_type().is_nested() {
                    return Err(unsupported(&path, field.data_type()));
                }
                let keys = ColumnBuilder::try_new(key, format!("{path} (key)"))?;
                let values = ColumnBuilder::try_new(value, format!("{path} (value)"))?;
                ValueBuilder::Map(vec![0], Box::new(keys), Box::new(values))
            }
            DataType::Struct(fields) if !fields.is_empty() => {
                ValueBuilder::Struct(ColumnBuilders::try_new(fields, &path)?)
            }
            other => return Err(unsupported(&path, other)),
        };
        Ok(Self {
            path,
            data_type: field.data_type().clone(),
            nullable: field.is_nullable(),
            validity: NullBufferBuilder::new(0),
            values,
        })
    }

    pub(crate) fn len(&self) -> usize {
        self.validity.len()
    }

    pub(crate) fn push_null(&mut self) {
        self.validity.append_null();
        match &mut self.values {
            ValueBuilder::Boolean(values) => values.append(false),
            ValueBuilder::Int8(values) => values.push(0),
            ValueBuilder::Int16(values) => values.push(0),
            ValueBuilder::Int32(values) | ValueBuilder::Date(values) => values.push(0),
            ValueBuilder::Int64(values)
            | ValueBuilder::Time(_, values)
            | ValueBuilder::Timestamp(_, values) => {
                values.push(0);
            }
            ValueBuilder::UInt8(values) => values.push(0),
            ValueBuilder::UInt16(values) => values.push(0),
            ValueBuilder::UInt32(values) => values.push(0),
            ValueBuilder::UInt64(values) => values.push(0),
            ValueBuilder::Float32(values) => values.push(0.0),
            ValueBuilder::Float64(values) => values.push(0.0),
            ValueBuilder::Decimal128(_, _, values) => values.push(0),
            ValueBuilder::Decimal256(_, _, values) => values.push(i256::ZERO),
            ValueBuilder::Text(values) | ValueBuilder::Binary(values) => values.push(&[]),
            ValueBuilder::List(offsets, child) => offsets.push(offset_of(child)),
            ValueBuilder::Map(offsets, keys, _) => offsets.push(offset_of(keys)),
            ValueBuilder::Struct(columns) => columns.push_null(),
        }
    }

    /// Appends NULL instead of a value of another type; the row becomes bad unless the error policy allows it.
    pub(crate) fn push_conflict(&mut self, context: &mut ReadContext, found: &str) {
        let type_name = if context.lenient {
            String::new()
        } else {
            sql_name(&self.data_type)
        };
        self.push_conflict_because(context, |path| {
            format!("column {path}: {} is not a {type_name}", excerpt(found))
        });
    }

    /// As [`push_conflict`](Self::push_conflict), with a reason made from the column's path.
    pub(crate) fn push_conflict_because(
        &mut self,
        context: &mut ReadContext,
        reason: impl FnOnce(&str) -> String,
    ) {
        self.push_null();
        if !context.lenient {
            context.fail(self, || reason(&self.path));
        }
    }

    /// After a value: NULL where it is not allowed makes the row bad.
    pub(crate) fn check_not_null(&self, context: &mut ReadContext, is_missing: bool) {
        if !self.nullable && self.len() > 0 && !self.validity.is_valid(self.len() - 1) {
            let why = if is_missing { "is missing" } else { "is NULL" };
            context.fail(self, || {
                format!("column {} {why} but is declared NOT NULL", self.path)
            });
        }
    }

    /// Truncates to `len` values; the values must be complete.
    pub(crate) fn truncate(&mut self, len: usize) {
        if self.len() > len {
            self.cut(len);
        }
    }

    /// Truncates to `len` values, and removes what a reader has added to a STRUCT, LIST or MAP that it has not ended.
    fn cut(&mut self, len: usize) {
        self.validity.truncate(len);
        match &mut self.values {
            ValueBuilder::Boolean(values) => values.truncate(len),
            ValueBuilder::Int8(values) => values.truncate(len),
            ValueBuilder::Int16(values) => values.truncate(len),
            ValueBuilder::Int32(values) | ValueBuilder::Date(values) => values.truncate(len),
            ValueBuilder::Int64(values)
            | ValueBuilder::Time(_, values)
            | ValueBuilder::Timestamp(_, values) => {
                values.truncate(len);
            }
            ValueBuilder::UInt8(values) => values.truncate(len),
            ValueBuilder::UInt16(values) => values.truncate(len),
            ValueBuilder::UInt32(values) => values.truncate(len),
            ValueBuilder::UInt64(values) => values.truncate(len),
            ValueBuilder::Float32(values) => values.truncate(len),
            ValueBuilder::Float64(values) => values.truncate(len),
            ValueBuilder::Decimal128(_, _, values) => values.truncate(len),
            ValueBuilder::Decimal256(_, _, values) => values.truncate(len),
            ValueBuilder::Text(values) | ValueBuilder::Binary(values) => values.truncate(len),
            ValueBuilder::List(offsets, child) => child.cut(cut_offsets(offsets, len)),
            ValueBuilder::Map(offsets, keys, values) => {
                let entries = cut_offsets(offsets, len);
                keys.cut(entries);
                values.cut(entries);
            }
            ValueBuilder::Struct(columns) => columns.truncate(len),
        }
    }

    /// Returns the finished column and empties the builder.
    fn finish(&mut self) -> Result<ArrayRef, ArrowError> {
        let rows = self.len();
        let nulls = self.validity.finish();
        let data_type = &self.data_type;
        let array: ArrayRef = match &mut self.values {
            ValueBuilder::Boolean(values) => Arc::new(BooleanArray::new(values.finish(), nulls)),
            ValueBuilder::Int8(values) => primitive::<Int8Type>(values, nulls)?,
            ValueBuilder::Int16(values) => primitive::<Int16Type>(values, nulls)?,
            ValueBuilder::Int32(values) => primitive::<Int32Type>(values, nulls)?,
            ValueBuilder::Int64(values) => primitive::<Int64Type>(values, nulls)?,
            ValueBuilder::UInt8(values) => primitive::<UInt8Type>(values, nulls)?,
            ValueBuilder::UInt16(values) => primitive::<UInt16Type>(values, nulls)?,
            ValueBuilder::UInt32(values) => primitive::<UInt32Type>(values, nulls)?,
            ValueBuilder::UInt64(values) => primitive::<UInt64Type>(values, nulls)?,
            ValueBuilder::Float32(values) => primitive::<Float32Type>(values, nulls)?,
            ValueBuilder::Float64(values) => primitive::<Float64Type>(values, nulls)?,
            ValueBuilder::Date(values) => primitive::<Date32Type>(values, nulls)?,
            // The integers are the type's own representation: the cast changes no value.
            ValueBuilder::Timestamp(_, values) => primitive::<Int64Type>(values, nulls)?,
            ValueBuilder::Time(_, values) => {
                let wide = primitive::<Int64Type>(values, nulls)?;
                match data_type {
                    DataType::Time32(_) => cast(&wide, &DataType::Int32)?,
                    _ => wide,
                }
            }
            ValueBuilder::Decimal128(precision, scale, values) => Arc::new(
                PrimitiveArray::<Decimal128Type>::try_new(std::mem::take(values).into(), nulls)?
                    .with_precision_and_scale(*precision, *scale)?,
            ),
            ValueBuilder::Decimal256(precision, scale, values) => Arc::new(
                PrimitiveArray::<Decimal256Type>::try_new(std::mem::take(values).into(), nulls)?
                    .with_precision_and_scale(*precision, *scale)?,
            ),
            ValueBuilder::Text(values) => {
                let (offsets, data) = values.take();
                Arc::new(StringArray::try_new(offsets, data, nulls)?)
            }
            ValueBuilder::Binary(values) => {
                let (offsets, data) = values.take();
                Arc::new(BinaryArray::try_new(offsets, data, nulls)?)
            }
            ValueBuilder::List(offsets, child) => {
                let DataType::List(item) = data_type else {
                    return Err(mismatch(data_type));
                };
                let values = child.finish()?;
                Arc::new(ListArray::try_new(
                    Arc::clone(item),
                    take_offsets(offsets),
                    values,
                    nulls,
                )?)
            }
            ValueBuilder::Map(offsets, keys, values) => {
                let DataType::Map(entries, sorted) = data_type else {
                    return Err(mismatch(data_type));
                };
                let DataType::Struct(fields) = entries.data_type() else {
                    return Err(mismatch(data_type));
                };
                let pairs = vec![keys.finish()?, values.finish()?];
                let pairs = StructArray::try_new(fields.clone(), pairs, None)?;
                let (offsets, pairs) = last_of_each(take_offsets(offsets), pairs)?;
                Arc::new(MapArray::try_new(
                    Arc::clone(entries),
                    offsets,
                    pairs,
                    nulls,
                    *sorted,
                )?)
            }
            ValueBuilder::Struct(columns) => {
                let children = columns.finish()?;
                Arc::new(StructArray::try_new_with_length(
                    columns.fields.clone(),
                    children,
                    nulls,
                    rows,
                )?)
            }
        };
        if array.data_type() == data_type {
            Ok(array)
        } else {
            cast(&array, data_type)
        }
    }
}

/// The end of the last value of a list or map whose items are in `child`.
pub(crate) fn offset_of(child: &ColumnBuilder) -> i32 {
    // A batch has fewer bytes, and so fewer items, than this.
    i32::try_from(child.len()).unwrap_or(i32::MAX)
}

/// Truncates to `len` values; returns how many items they have.
fn cut_offsets(offsets: &mut Vec<i32>, len: usize) -> usize {
    offsets.truncate(len + 1);
    offsets.last().map_or(0, |&end| end as usize)
}

fn take_offsets(offsets: &mut Vec<i32>) -> OffsetBuffer<i32> {
    OffsetBuffer::new(ScalarBuffer::from(std::mem::replace(offsets, vec![0])))
}

fn primitive<T: ArrowPrimitiveType>(
    values: &mut Vec<T::Native>,
    nulls: Option<arrow::buffer::NullBuffer>,
) -> Result<ArrayRef, ArrowError> {
    let taken = std::mem::take(values);
    values.reserve(taken.len());
    Ok(Arc::new(PrimitiveArray::<T>::try_new(
        ScalarBuffer::from(taken),
        nulls,
    )?))
}

fn mismatch(data_type: &DataType) -> ArrowError {
    ArrowError::InvalidArgumentError(format!("a growing column does not fit {data_type}"))
}

fn unsupported(path: &str, data_type: &DataType) -> Error {
    Error::unsupported(format!(
        "column {path}: a {} cannot be read from or written to a record",
        sql_name(data_type)
    ))
    .about(Subject::column(path))
}
