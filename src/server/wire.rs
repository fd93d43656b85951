//! The one schema by which a result goes over the wire: types that clients know, the same in every answer about it.

use std::sync::Arc;

use datafusion::arrow::array::{ArrayRef, RecordBatch, RecordBatchOptions};
use datafusion::arrow::compute::cast;
use datafusion::arrow::datatypes::{DataType, Field, FieldRef, Fields, Schema, SchemaRef};

use crate::error::{Error, Result};

/// The columns as they are sent: views as plain text and bytes unless the client takes `views`, dictionaries as their
/// values, lists with short offsets. Columns may be null, whatever the plan believes.
pub(super) fn wire_schema(schema: &Schema, views: bool) -> SchemaRef {
    let fields = schema.fields().iter();
    let fields: Fields = fields.map(|field| wire_field(field, true, views)).collect();
    Arc::new(Schema::new(fields))
}

fn wire_field(field: &FieldRef, nullable: bool, views: bool) -> FieldRef {
    let of = wire_type(field.data_type(), views);
    Arc::new(Field::new(
        field.name(),
        of,
        nullable || field.is_nullable(),
    ))
}

fn wire_type(of: &DataType, views: bool) -> DataType {
    let wire_field = |field: &FieldRef| wire_field(field, false, views);
    match of {
        DataType::Utf8View | DataType::BinaryView if views => of.clone(),
        DataType::Utf8View | DataType::LargeUtf8 => DataType::Utf8,
        DataType::BinaryView | DataType::LargeBinary => DataType::Binary,
        DataType::Dictionary(_, values) => wire_type(values, views),
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
/// Text of more than 2 GiB in one batch.
pub(super) fn to_wire(batch: &RecordBatch, schema: &SchemaRef) -> Result<RecordBatch> {
    let column =
        |(column, field): (&ArrayRef, &FieldRef)| match column.data_type() == field.data_type() {
            true => Ok(Arc::clone(column)),
            false => cast(column, field.data_type()),
        };
    let columns = batch.columns().iter().zip(schema.fields());
    let columns: std::result::Result<Vec<ArrayRef>, _> = columns.map(column).collect();
    let columns = columns.map_err(|error| Error::internal(error.to_string()))?;
    let rows = RecordBatchOptions::new().with_row_count(Some(batch.num_rows()));
    RecordBatch::try_new_with_options(Arc::clone(schema), columns, &rows)
        .map_err(|error| Error::internal(error.to_string()))
}

#[cfg(test)]
mod tests {
    use datafusion::arrow::array::{DictionaryArray, Int64Array, StringViewArray};
    use datafusion::arrow::datatypes::Int32Type;

    use super::*;

    #[test]
    fn columns_are_of_types_that_clients_know() {
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
        let schema = wire_schema(&batch.schema(), false);
        let types: Vec<&DataType> = schema
            .fields()
            .iter()
            .map(|field| field.data_type())
            .collect();
        assert_eq!(types, [&DataType::Utf8, &DataType::Utf8, &DataType::Int64]);
        let sent = to_wire(&batch, &schema).unwrap();
        assert_eq!(sent.schema(), schema);
        assert_eq!(sent.num_rows(), 2);
        let views = wire_schema(&batch.schema(), true);
        assert_eq!(views.field(0).data_type(), &DataType::Utf8View);
        let none = RecordBatch::new_empty(Arc::new(Schema::empty()));
        assert_eq!(
            to_wire(&none, &wire_schema(&none.schema(), false)).unwrap(),
            none
        );
    }
}
