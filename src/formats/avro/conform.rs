//! Conversion of written Avro columns to the declared columns.
//!
//! Fields are matched by name, at every depth: a field that was not written is NULL, a field that is not declared is left out.
//! Numbers may widen, and narrow if the value fits. A value that cannot be read as declared gives a reason for its row, not an
//! error.

use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, AsArray, BooleanArray, FixedSizeBinaryArray, Int64Array, ListArray, MapArray,
    StructArray, new_null_array,
};
use arrow::buffer::{NullBuffer, OffsetBuffer};
use arrow::compute::{CastOptions, cast, cast_with_options, nullif};
use arrow::datatypes::{DataType, Field, FieldRef, Fields, Float64Type, Int64Type, TimeUnit};
use arrow::error::ArrowError;

use crate::formats::avro::union::{is_union, union_text};
use crate::formats::column_spelling::find_field;
use crate::formats::text::time::units_per_second;
use crate::formats::text::zone::ZoneOffsets;
use crate::formats::type_name::sql_name;

/// Why a row cannot be read as declared.
pub(crate) struct ConformError {
    pub(crate) row: usize,
    pub(crate) reason: String,
    /// The column of the value, as a path from the top.
    pub(crate) column: String,
}

/// Conforms written columns to declared ones.
pub(crate) struct Conformer<'a> {
    /// The zone of a local timestamp, which has none of its own.
    pub(crate) offsets: &'a mut ZoneOffsets,
    /// A value that does not fit becomes NULL and gives no reason.
    pub(crate) lenient: bool,
}

/// The column cannot be conformed for any values.
pub(crate) type TypeMismatch = String;

impl Conformer<'_> {
    /// `written` as a column of type `field`, in which everything nested may be NULL; see
    /// [`relaxed`]. Rows that do not fit are added to `misfits`, with an arbitrary value in the column.
    ///
    /// # Errors
    ///
    /// Says how the types differ.
    pub(crate) fn column(
        &mut self,
        written: &ArrayRef,
        written_field: &Field,
        field: &Field,
        path: &str,
        misfits: &mut Vec<ConformError>,
    ) -> Result<ArrayRef, TypeMismatch> {
        let array = match self.value(written, written_field, field.data_type(), path, misfits) {
            Ok(array) => array,
            Err(_) if self.lenient => new_null_array(&relaxed(field.data_type()), written.len()),
            Err(mismatch) => return Err(mismatch),
        };
        if !field.is_nullable() {
            let is_null = |row: &usize| array.is_null(*row);
            misfits.extend((0..array.len()).filter(is_null).map(|row| ConformError {
                row,
                reason: format!("column {path} is NULL but is declared NOT NULL"),
                column: path.to_owned(),
            }));
        }
        Ok(array)
    }

    fn value(
        &mut self,
        written: &ArrayRef,
        written_field: &Field,
        declared: &DataType,
        path: &str,
        misfits: &mut Vec<ConformError>,
    ) -> Result<ArrayRef, TypeMismatch> {
        let mismatch = || {
            format!(
                "column {path}: it was written as a {}, not as a {}",
                written_name(written.data_type()),
                sql_name(declared)
            )
        };
        let internal = |error: ArrowError| format!("column {path}: {error}");
        match (written.data_type(), declared) {
            (DataType::Struct(_), DataType::Struct(fields)) => self
                .record(written.as_struct(), fields, path, misfits)
                .map_err(|error| match error {
                    RecordError::Mismatch(mismatch) => mismatch,
                    RecordError::Arrow(error) => internal(error),
                }),
            (DataType::List(written_item), DataType::List(item)) => {
                let list = written.as_list::<i32>();
                let mut inner = Vec::new();
                let path = format!("{path}[]");
                let values = self.column(list.values(), written_item, item, &path, &mut inner)?;
                lift(inner, list.offsets(), list.nulls(), misfits);
                let item = relaxed_field(item);
                ListArray::try_new(item, list.offsets().clone(), values, list.nulls().cloned())
                    .map(|array| Arc::new(array) as ArrayRef)
                    .map_err(internal)
            }
            (DataType::Map(..), DataType::Map(entries, sorted)) => {
                let map = written.as_map();
                let DataType::Struct(pair) = entries.data_type() else {
                    return Err(mismatch());
                };
                let [key, value] = pair.as_ref() else {
                    return Err(mismatch());
                };
                let written_pair = map.entries().fields();
                let mut inner = Vec::new();
                let (key_path, value_path) = (format!("{path} (key)"), format!("{path} (value)"));
                let keys = self.column(map.keys(), &written_pair[0], key, &key_path, &mut inner)?;
                let values = self.column(
                    map.values(),
                    &written_pair[1],
                    value,
                    &value_path,
                    &mut inner,
                )?;
                lift(inner, map.offsets(), map.nulls(), misfits);
                let pair = relaxed_pair(pair);
                let pairs = StructArray::try_new(pair.clone(), vec![keys, values], None);
                let entries = Field::new(entries.name(), DataType::Struct(pair), false);
                pairs
                    .and_then(|pairs| {
                        let (offsets, nulls) = (map.offsets().clone(), map.nulls().cloned());
                        MapArray::try_new(Arc::new(entries), offsets, pairs, nulls, *sorted)
                    })
                    .map(|array| Arc::new(array) as ArrayRef)
                    .map_err(internal)
            }
            (from, to) if is_union(from) && is_text(to) => {
                let (text, without) = union_text(written.as_union())
                    .map_err(|error| format!("column {path}: {}", error.message()))?;
                if !self.lenient {
                    misfits.extend(without.into_iter().map(|row| ConformError {
                        row,
                        reason: format!("column {path}: JSON has no text for the value"),
                        column: path.to_owned(),
                    }));
                }
                self.scalar(&text, declared, path, misfits)
                    .map_err(internal)
            }
            (from, to) if from.is_nested() || to.is_nested() => Err(mismatch()),
            (from, to) if !is_readable(from, to, written_field) => Err(mismatch()),
            _ => self
                .scalar(written, declared, path, misfits)
                .map_err(internal),
        }
    }

    fn record(
        &mut self,
        written: &StructArray,
        fields: &Fields,
        path: &str,
        misfits: &mut Vec<ConformError>,
    ) -> Result<ArrayRef, RecordError> {
        let mut children = Vec::with_capacity(fields.len());
        for field in fields {
            let path = format!("{path}.{}", field.name());
            let place = find_field(field, |name| {
                let mut others = written.fields().iter();
                others.position(|other| other.name() == name)
            });
            let mut inner = Vec::new();
            let (array, written_field) = match place {
                Some(place) => (Arc::clone(written.column(place)), &written.fields()[place]),
                None => (
                    new_null_array(&relaxed(field.data_type()), written.len()),
                    field,
                ),
            };
            children.push(
                self.column(&array, written_field, field, &path, &mut inner)
                    .map_err(RecordError::Mismatch)?,
            );
            misfits.extend(
                inner
                    .into_iter()
                    .filter(|misfit| written.is_valid(misfit.row)),
            );
        }
        let nulls = written.nulls().cloned();
        StructArray::try_new_with_length(relaxed_fields(fields), children, nulls, written.len())
            .map(|array| Arc::new(array) as ArrayRef)
            .map_err(RecordError::Arrow)
    }

    fn scalar(
        &mut self,
        written: &ArrayRef,
        declared: &DataType,
        path: &str,
        misfits: &mut Vec<ConformError>,
    ) -> Result<ArrayRef, ArrowError> {
        let source = match written.data_type() {
            DataType::Dictionary(_, values) => cast(written, values)?,
            DataType::Timestamp(unit, None) => self.local_timestamps(written, *unit)?,
            DataType::FixedSizeBinary(_) if is_text(declared) => {
                uuid_text(written.as_fixed_size_binary())
            }
            DataType::FixedSizeBinary(_) => cast(written, &DataType::Binary)?,
            DataType::Time32(_) | DataType::Time64(_) => times_of_day(written)?,
            _ => Arc::clone(written),
        };
        let options = CastOptions {
            safe: true,
            ..CastOptions::default()
        };
        let array = match (source.data_type(), declared) {
            // A time of day, like a timestamp, is cut off to its unit and never out of range.
            (DataType::Time32(_), DataType::Time64(TimeUnit::Nanosecond)) => cast(
                &cast(&source, &DataType::Time64(TimeUnit::Microsecond))?,
                declared,
            )?,
            _ => cast_with_options(&source, declared, &options)?,
        };
        let array = match declared.is_floating() {
            true => without_overflow(&source, array)?,
            false => array,
        };
        if !self.lenient && array.null_count() > written.null_count() {
            let is_lost = |row: &usize| array.is_null(*row) && written.is_valid(*row);
            misfits.extend((0..array.len()).filter(is_lost).map(|row| ConformError {
                row,
                reason: format!(
                    "column {path}: the value does not fit a {}",
                    sql_name(declared)
                ),
                column: path.to_owned(),
            }));
        }
        Ok(array)
    }

    /// The instants that local times mean in the table's zone (law TIMEZONE-1).
    fn local_timestamps(
        &mut self,
        written: &ArrayRef,
        unit: TimeUnit,
    ) -> Result<ArrayRef, ArrowError> {
        let per_second = units_per_second(unit);
        let local = cast(written, &DataType::Int64)?;
        let local = local.as_primitive::<Int64Type>();
        let instant = |value: &i64| {
            let offset = self.offsets.of_local(value.div_euclid(per_second));
            value.saturating_sub(i64::from(offset).saturating_mul(per_second))
        };
        let instants = local.values().iter().map(instant).collect();
        let instants = Int64Array::try_new(instants, local.nulls().cloned())?;
        cast(&instants, &DataType::Timestamp(unit, Some("UTC".into())))
    }
}

/// NULL for each time before 00:00 or after 23:59:59.999999, which are none; in nanoseconds some would overflow.
fn times_of_day(times: &ArrayRef) -> Result<ArrayRef, ArrowError> {
    const SECONDS_OF_A_DAY: i64 = 86_400;
    let (unit, integer) = match times.data_type() {
        DataType::Time32(unit) => (*unit, DataType::Int32),
        DataType::Time64(unit) => (*unit, DataType::Int64),
        _ => return Ok(Arc::clone(times)),
    };
    let day = SECONDS_OF_A_DAY * units_per_second(unit);
    let integers = cast(&cast(times, &integer)?, &DataType::Int64)?;
    let integers = integers.as_primitive::<Int64Type>().iter();
    // What lies behind a NULL is cast as well: it is 0.
    let kept: Int64Array = integers
        .map(|time| time.filter(|time| (0..day).contains(time)))
        .collect();
    cast(&cast(&kept, &integer)?, times.data_type())
}

/// NULL for each number that became an infinity because it is too large for the type; `cast_to` is what the source was cast to.
fn without_overflow(source: &ArrayRef, cast_to: ArrayRef) -> Result<ArrayRef, ArrowError> {
    let (wide, narrow) = (
        cast(source, &DataType::Float64)?,
        cast(&cast_to, &DataType::Float64)?,
    );
    let (wide, narrow) = (
        wide.as_primitive::<Float64Type>().values(),
        narrow.as_primitive::<Float64Type>().values(),
    );
    let has_place = |row: usize| narrow[row].is_finite() || !wide[row].is_finite();
    if (0..narrow.len()).all(has_place) {
        return Ok(cast_to);
    }
    let overflowed: BooleanArray = (0..narrow.len()).map(|row| Some(!has_place(row))).collect();
    nullif(&cast_to, &overflowed)
}

enum RecordError {
    Mismatch(TypeMismatch),
    Arrow(ArrowError),
}

/// `data_type` with every nested field nullable: rows that do not fit are still in the column.
pub(crate) fn relaxed(data_type: &DataType) -> DataType {
    match data_type {
        DataType::Struct(fields) => DataType::Struct(relaxed_fields(fields)),
        DataType::List(item) => DataType::List(relaxed_field(item)),
        DataType::Map(entries, sorted) => match entries.data_type() {
            DataType::Struct(pair) => {
                let pair = DataType::Struct(relaxed_pair(pair));
                DataType::Map(Arc::new(Field::new(entries.name(), pair, false)), *sorted)
            }
            _ => data_type.clone(),
        },
        other => other.clone(),
    }
}

fn relaxed_fields(fields: &Fields) -> Fields {
    fields.iter().map(relaxed_field).collect()
}

/// The key of a map is never NULL.
fn relaxed_pair(pair: &Fields) -> Fields {
    let relax = |(place, field)| {
        if place == 0 {
            Arc::clone(field)
        } else {
            relaxed_field(field)
        }
    };
    pair.iter().enumerate().map(relax).collect()
}

fn relaxed_field(field: &FieldRef) -> FieldRef {
    Arc::new(Field::new(field.name(), relaxed(field.data_type()), true))
}

/// Converts reasons of items to reasons of their rows.
fn lift(
    inner: Vec<ConformError>,
    offsets: &OffsetBuffer<i32>,
    nulls: Option<&NullBuffer>,
    misfits: &mut Vec<ConformError>,
) {
    for ConformError {
        row: item,
        reason,
        column,
    } in inner
    {
        // The last row that begins at or before the item is the only one that can hold it.
        let Some(row) = offsets
            .partition_point(|&start| start as usize <= item)
            .checked_sub(1)
        else {
            continue;
        };
        if row + 1 < offsets.len() && nulls.is_none_or(|nulls| nulls.is_valid(row)) {
            misfits.push(ConformError {
                row,
                reason,
                column,
            });
        }
    }
}

/// Whether values of one type can be read as another; whether a value fits is another question.
fn is_readable(from: &DataType, to: &DataType, written_field: &Field) -> bool {
    let is_uuid = || {
        written_field
            .metadata()
            .get("logicalType")
            .is_some_and(|kind| kind == "uuid")
    };
    match from {
        DataType::Null => true,
        DataType::Boolean => matches!(to, DataType::Boolean),
        DataType::Int32 | DataType::Int64 => to.is_numeric(),
        DataType::Float32 | DataType::Float64 => to.is_floating(),
        DataType::Decimal128(..) | DataType::Decimal256(..) => {
            matches!(to, DataType::Decimal128(..) | DataType::Decimal256(..)) || to.is_floating()
        }
        DataType::Utf8 => is_text(to) || is_binary(to),
        DataType::Binary => is_text(to) || is_binary(to),
        DataType::FixedSizeBinary(_) => is_binary(to) || is_text(to) && is_uuid(),
        DataType::Dictionary(..) => is_text(to),
        DataType::Date32 => matches!(to, DataType::Date32),
        DataType::Time32(_) | DataType::Time64(_) => {
            matches!(to, DataType::Time32(_) | DataType::Time64(_))
        }
        DataType::Timestamp(..) => matches!(to, DataType::Timestamp(..)),
        // A field that was not written is NULL of the declared type.
        other => other == to,
    }
}

fn is_text(data_type: &DataType) -> bool {
    matches!(
        data_type,
        DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View
    )
}

fn is_binary(data_type: &DataType) -> bool {
    matches!(
        data_type,
        DataType::Binary | DataType::LargeBinary | DataType::BinaryView
    )
}

/// The name of a written type: Avro's own where SQL has none.
fn written_name(data_type: &DataType) -> String {
    match data_type {
        DataType::Union(..) => "union of several types".to_owned(),
        DataType::Dictionary(..) => "enum".to_owned(),
        DataType::FixedSizeBinary(size) => format!("fixed of {size} bytes"),
        DataType::Interval(_) => "duration".to_owned(),
        other => sql_name(other),
    }
}

fn uuid_text(values: &FixedSizeBinaryArray) -> ArrayRef {
    let text = values.iter().map(|value| {
        let value = value?;
        let mut text = String::with_capacity(36);
        for (index, byte) in value.iter().enumerate() {
            if matches!(index, 4 | 6 | 8 | 10) {
                text.push('-');
            }
            for digit in [byte >> 4, byte & 15] {
                text.push(char::from_digit(u32::from(digit), 16).unwrap_or('0'));
            }
        }
        Some(text)
    });
    Arc::new(text.collect::<arrow::array::StringArray>())
}
