//! Original spelling of column names: `userId INT` without quotes is the column `userid`, and the field `userId` of a record.
//!
//! A declared field keeps its original spelling in its metadata if the spelling differs from its name. Only codecs and tables
//! over files read it: the columns of a table, and all arrays, have types without it.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, ListArray, MapArray, StructArray};
use arrow::datatypes::{DataType, Field, FieldRef, Fields, Schema, SchemaRef};
use arrow::error::ArrowError;

/// The metadata key of the spelling of a field that was typed with capitals and without quotes.
const TYPED: &str = "anabranch.typed";

/// The field with its original spelling.
pub fn typed_as(field: Field, typed: &str) -> Field {
    if field.name() == typed {
        return field;
    }
    let mut metadata = field.metadata().clone();
    metadata.insert(TYPED.to_owned(), typed.to_owned());
    field.with_metadata(metadata)
}

/// The original spelling of the field, if it differs from its name.
pub fn typed_name(field: &Field) -> Option<&str> {
    field.metadata().get(TYPED).map(String::as_str)
}

/// The name of the field in records: its original spelling.
pub(crate) fn written_name(field: &Field) -> &str {
    typed_name(field).unwrap_or(field.name())
}

/// The index of the field among the names of a record: by its name, or else by its original spelling.
pub(crate) fn find_field<T>(field: &Field, find: impl Fn(&str) -> Option<T>) -> Option<T> {
    find(field.name()).or_else(|| find(typed_name(field)?))
}

/// The schema without the original spelling.
pub(crate) fn plain_schema(schema: &SchemaRef) -> SchemaRef {
    mapped(schema, &plain_field)
}

/// The field without the original spelling.
pub fn plain_field(field: &Field) -> Field {
    let mut metadata = field.metadata().clone();
    metadata.remove(TYPED);
    let data_type = of_children(field.data_type(), &plain_field);
    let plain = Field::new(field.name(), data_type, field.is_nullable());
    plain.with_metadata(metadata)
}

/// The schema with the names used in records: the original spelling of each.
pub(crate) fn written_schema(schema: &SchemaRef) -> SchemaRef {
    mapped(schema, &written_field)
}

fn written_field(field: &Field) -> Field {
    let data_type = of_children(field.data_type(), &written_field);
    Field::new(written_name(field), data_type, field.is_nullable())
}

fn mapped(schema: &SchemaRef, change: &dyn Fn(&Field) -> Field) -> SchemaRef {
    let fields: Fields = schema.fields().iter().map(|field| change(field)).collect();
    if fields == *schema.fields() {
        return Arc::clone(schema);
    }
    Arc::new(Schema::new(fields))
}

/// The data type with `change` applied to the fields in it.
fn of_children(data_type: &DataType, change: &dyn Fn(&Field) -> Field) -> DataType {
    let changed = |field: &FieldRef| Arc::new(change(field));
    match data_type {
        DataType::Struct(fields) => DataType::Struct(fields.iter().map(changed).collect()),
        DataType::List(item) => DataType::List(changed(item)),
        DataType::Map(entries, sorted) => DataType::Map(changed(entries), *sorted),
        other => other.clone(),
    }
}

/// The same values with other names in their type.
///
/// # Errors
///
/// The types differ in more than names.
pub fn renamed(array: &ArrayRef, to: &DataType) -> Result<ArrayRef, ArrowError> {
    if array.data_type() == to {
        return Ok(Arc::clone(array));
    }
    Ok(match (array.data_type(), to) {
        (DataType::Struct(_), DataType::Struct(fields)) => {
            Arc::new(renamed_struct(array.as_struct(), fields)?)
        }
        (DataType::List(_), DataType::List(item)) => {
            let list = array.as_list::<i32>();
            let values = renamed(list.values(), item.data_type())?;
            let (offsets, nulls) = (list.offsets().clone(), list.nulls().cloned());
            Arc::new(ListArray::try_new(
                Arc::clone(item),
                offsets,
                values,
                nulls,
            )?)
        }
        (DataType::Map(..), DataType::Map(entries, sorted)) => {
            let map = array.as_map();
            let DataType::Struct(fields) = entries.data_type() else {
                return Ok(Arc::clone(array));
            };
            let pairs = renamed_struct(map.entries(), fields)?;
            let (offsets, nulls) = (map.offsets().clone(), map.nulls().cloned());
            let entries = Arc::clone(entries);
            Arc::new(MapArray::try_new(entries, offsets, pairs, nulls, *sorted)?)
        }
        // A type that has no such names stays unchanged: an encoder may get a wider form of a type.
        _ => Arc::clone(array),
    })
}

fn renamed_struct(array: &StructArray, fields: &Fields) -> Result<StructArray, ArrowError> {
    let columns = array.columns().iter().zip(fields);
    let columns = columns
        .map(|(column, field)| renamed(column, field.data_type()))
        .collect::<Result<Vec<_>, _>>()?;
    StructArray::try_new_with_length(fields.clone(), columns, array.nulls().cloned(), array.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn original_spelling_is_kept_at_every_depth() {
        let inner = typed_as(Field::new("pageid", DataType::Int64, true), "pageId");
        let item = Field::new_list_field(DataType::Struct(Fields::from(vec![inner])), true);
        let list = DataType::List(Arc::new(item));
        let field = typed_as(Field::new("visits", list, true), "visits");
        let schema = Arc::new(Schema::new(vec![field]));
        let written = written_schema(&schema);
        assert!(written.field(0).data_type().to_string().contains("pageId"));
        let plain = plain_schema(&schema);
        let shown = plain.field(0).data_type().to_string();
        assert!(
            shown.contains("pageid") && !shown.contains("pageId"),
            "{shown}"
        );
        // No name has another spelling: the schema stays the same.
        assert!(Arc::ptr_eq(&plain_schema(&plain), &plain));
    }
}
