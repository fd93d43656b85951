//! The wire schema of a result: types that clients understand, the same in every answer about the result to the same
//! settings.

use std::sync::Arc;

use datafusion::arrow::array::{ArrayRef, RecordBatch, RecordBatchOptions};
use datafusion::arrow::compute::{CastOptions, cast_with_options};
use datafusion::arrow::datatypes::{
    DataType, Field, FieldRef, Fields, Schema, SchemaRef, TimeUnit,
};
use datafusion::arrow::error::ArrowError;

use crate::error::{Error, Result};

/// The types that a client accepts.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct WireTypes {
    /// Text and bytes may be Arrow's views.
    pub(crate) views: bool,
    /// All timestamps are in nanoseconds, not each in its own unit: a coarser unit would truncate values.
    pub(crate) nanoseconds: bool,
    /// Timestamps have no zone; they are those of UTC all the same.
    pub(crate) without_zone: bool,
}

/// The columns as they are sent: views as plain text and bytes unless the client takes them, dictionaries as their
/// values, lists with short offsets. Columns may be null, even if the plan says that they are not.
pub(crate) fn wire_schema(schema: &Schema, types: WireTypes) -> SchemaRef {
    let fields = schema.fields().iter();
    let fields: Fields = fields.map(|field| wire_field(field, true, types)).collect();
    Arc::new(Schema::new(fields))
}

fn wire_field(field: &FieldRef, nullable: bool, types: WireTypes) -> FieldRef {
    let of = wire_type(field.data_type(), types);
    Arc::new(Field::new(
        field.name(),
        of,
        nullable || field.is_nullable(),
    ))
}

fn wire_type(of: &DataType, types: WireTypes) -> DataType {
    let wire_field = |field: &FieldRef| wire_field(field, false, types);
    match of {
        DataType::Utf8View | DataType::BinaryView if types.views => of.clone(),
        DataType::Utf8View | DataType::LargeUtf8 => DataType::Utf8,
        DataType::BinaryView | DataType::LargeBinary => DataType::Binary,
        DataType::Dictionary(_, values) => wire_type(values, types),
        DataType::Timestamp(unit, zone) => {
            let unit = match types.nanoseconds {
                true => TimeUnit::Nanosecond,
                false => *unit,
            };
            let zone = zone.clone().filter(|_| !types.without_zone);
            DataType::Timestamp(unit, zone)
        }
        DataType::List(item) | DataType::LargeList(item) | DataType::ListView(item) => {
            DataType::List(wire_field(item))
        }
        DataType::FixedSizeList(item, size) => DataType::FixedSizeList(wire_field(item), *size),
        DataType::Struct(fields) => DataType::Struct(fields.iter().map(wire_field).collect()),
        DataType::Map(entries, sorted) => DataType::Map(wire_field(entries), *sorted),
        other => other.clone(),
    }
}

/// The batch in the columns of its wire schema.
///
/// # Errors
///
/// Text of more than 2 GiB in one batch; a timestamp that the client's unit, a finer one, cannot hold.
pub(crate) fn to_wire(batch: &RecordBatch, schema: &SchemaRef) -> Result<RecordBatch> {
    let exact = CastOptions {
        safe: false,
        ..CastOptions::default()
    };
    let column =
        |(column, field): (&ArrayRef, &FieldRef)| match column.data_type() == field.data_type() {
            true => Ok(Arc::clone(column)),
            // A value that the wire type cannot hold is an error, and must not become NULL.
            false => cast_with_options(column, field.data_type(), &exact),
        };
    let columns = batch.columns().iter().zip(schema.fields());
    let columns: std::result::Result<Vec<ArrayRef>, _> = columns.map(column).collect();
    let columns = columns.map_err(|error| match error {
        ArrowError::CastError(what) | ArrowError::ArithmeticOverflow(what) => Error::invalid(
            format!("a value does not fit the type that is sent: {what}"),
        )
        .with_help("another timestamp_unit of the session holds it"),
        other => Error::internal(other.to_string()),
    })?;
    let rows = RecordBatchOptions::new().with_row_count(Some(batch.num_rows()));
    RecordBatch::try_new_with_options(Arc::clone(schema), columns, &rows)
        .map_err(|error| Error::internal(error.to_string()))
}

#[cfg(test)]
mod tests {
    use datafusion::arrow::array::{
        AsArray as _, DictionaryArray, Int64Array, StringViewArray, TimestampMicrosecondArray,
    };
    use datafusion::arrow::datatypes::{
        Int32Type, TimestampMicrosecondType, TimestampNanosecondType,
    };

    use super::*;

    #[test]
    fn wire_columns_have_types_that_clients_know() {
        let dictionary: DictionaryArray<Int32Type> = vec!["x", "y"].into_iter().collect();
        let batch = RecordBatch::try_from_iter([
            (
                "a",
                Arc::new(StringViewArray::from(vec!["one", "two"])) as ArrayRef,
            ),
            ("b", Arc::new(dictionary) as ArrayRef),
            ("c", Arc::new(Int64Array::from(vec![1, 2])) as ArrayRef),
        ])
        .unwrap();
        let schema = wire_schema(&batch.schema(), WireTypes::default());
        let types: Vec<&DataType> = schema
            .fields()
            .iter()
            .map(|field| field.data_type())
            .collect();
        assert_eq!(types, [&DataType::Utf8, &DataType::Utf8, &DataType::Int64]);
        let sent = to_wire(&batch, &schema).unwrap();
        assert_eq!(sent.schema(), schema);
        assert_eq!(sent.num_rows(), 2);
        let with_views = WireTypes {
            views: true,
            ..WireTypes::default()
        };
        let views = wire_schema(&batch.schema(), with_views);
        assert_eq!(views.field(0).data_type(), &DataType::Utf8View);
        let none = RecordBatch::new_empty(Arc::new(Schema::empty()));
        assert_eq!(
            to_wire(&none, &wire_schema(&none.schema(), WireTypes::default())).unwrap(),
            none
        );
    }

    #[test]
    fn timestamps_without_zones_keep_their_value() {
        let types = WireTypes {
            without_zone: true,
            ..WireTypes::default()
        };
        let column = |zone: &str| {
            let noon = TimestampMicrosecondArray::from(vec![Some(1_751_364_000_000_000), None]);
            Arc::new(noon.with_timezone(zone)) as ArrayRef
        };
        let columns = [("here", column("UTC")), ("there", column("Europe/Paris"))];
        let batch = RecordBatch::try_from_iter(columns).unwrap();
        let sent = to_wire(&batch, &wire_schema(&batch.schema(), types)).unwrap();
        for column in sent.columns() {
            let none = DataType::Timestamp(TimeUnit::Microsecond, None);
            assert_eq!(column.data_type(), &none);
            let column = column.as_primitive::<TimestampMicrosecondType>();
            assert_eq!(
                column.iter().collect::<Vec<_>>(),
                [Some(1_751_364_000_000_000), None]
            );
        }
    }

    #[test]
    fn timestamps_are_in_the_unit_of_the_client_or_refused() {
        let nanoseconds = WireTypes {
            nanoseconds: true,
            ..WireTypes::default()
        };
        let sent = |micros: i64| {
            let at: ArrayRef = Arc::new(TimestampMicrosecondArray::from(vec![Some(micros), None]));
            let batch = RecordBatch::try_from_iter([("at", at)]).unwrap();
            to_wire(&batch, &wire_schema(&batch.schema(), nanoseconds))
        };
        let batch = sent(7).unwrap();
        let at = batch.column(0).as_primitive::<TimestampNanosecondType>();
        assert_eq!(at.iter().collect::<Vec<_>>(), [Some(7_000), None]);
        let error = sent(i64::MAX / 10).unwrap_err();
        assert_eq!(error.kind(), crate::error::ErrorKind::Invalid);
    }
}
