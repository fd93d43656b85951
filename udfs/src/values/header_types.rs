//! View of the two types of message headers as one: keys and values, and the range of each row.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, GenericListArray, OffsetSizeTrait, StringArray};
use arrow::compute::cast;
use arrow::datatypes::{ArrowNativeType, DataType, Field, Fields};
use datafusion::common::{Result, exec_err, plan_err};

/// Whether `data_type` is `MAP<VARCHAR, VARCHAR>` or a list of key and value.
pub(super) fn is_headers(data_type: &DataType) -> bool {
    match data_type {
        DataType::Map(entries, _) | DataType::List(entries) | DataType::LargeList(entries) => {
            matches!(entries.data_type(), DataType::Struct(fields) if is_entry(fields))
        }
        _ => false,
    }
}

fn is_entry(fields: &Fields) -> bool {
    let [key, value] = fields.iter().map(AsRef::as_ref).collect::<Vec<&Field>>()[..] else {
        return false;
    };
    is_text(key.data_type()) && (is_text(value.data_type()) || is_binary(value.data_type()))
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

/// `STRUCT<key VARCHAR, value BINARY>`, an entry of the exact form.
pub(super) fn list_entry_fields() -> Fields {
    Fields::from(vec![
        Field::new("key", DataType::Utf8, false),
        Field::new("value", DataType::Binary, true),
    ])
}

/// `LIST<STRUCT<key VARCHAR, value BINARY>>`, the exact form.
pub(super) fn list_type() -> DataType {
    let entry = DataType::Struct(list_entry_fields());
    DataType::List(Arc::new(Field::new("item", entry, true)))
}

/// `STRUCT<key VARCHAR, value VARCHAR>`, an entry of the easy form.
pub(super) fn map_entry_fields() -> Fields {
    Fields::from(vec![
        Field::new("key", DataType::Utf8, false),
        Field::new("value", DataType::Utf8, true),
    ])
}

/// `MAP<VARCHAR, VARCHAR>`, the easy form.
pub(super) fn map_type() -> DataType {
    let entries = DataType::Struct(map_entry_fields());
    DataType::Map(Arc::new(Field::new("entries", entries, false)), false)
}

/// Headers of many rows.
pub(super) struct HeaderRows {
    keys: StringArray,
    /// Text or binary.
    values: ArrayRef,
    /// The start and end of each row's entries; `None` for NULL headers.
    rows: Vec<Option<(usize, usize)>>,
}

impl HeaderRows {
    pub(super) fn try_new(array: &ArrayRef) -> Result<Self> {
        let (entries, rows) = match array.data_type() {
            DataType::Map(..) => {
                let map = array.as_map();
                let bounds = map.value_offsets().windows(2);
                let rows = bounds
                    .enumerate()
                    .map(|(row, bounds)| {
                        (!map.is_null(row)).then_some((bounds[0].as_usize(), bounds[1].as_usize()))
                    })
                    .collect();
                (map.entries(), rows)
            }
            DataType::List(_) => list_parts(array.as_list::<i32>())?,
            DataType::LargeList(_) => list_parts(array.as_list::<i64>())?,
            other => return exec_err!("headers cannot be of type {other}"),
        };
        let (keys, values) = match entries.columns() {
            [keys, values] => (cast(keys, &DataType::Utf8)?, values),
            _ => return plan_err!("headers have a key and a value"),
        };
        Ok(Self {
            keys: keys.as_string().clone(),
            values: Arc::clone(values),
            rows,
        })
    }

    pub(super) fn keys(&self) -> &StringArray {
        &self.keys
    }

    pub(super) fn values(&self) -> &ArrayRef {
        &self.values
    }

    pub(super) fn rows(&self) -> &[Option<(usize, usize)>] {
        &self.rows
    }
}

type HeaderParts<'a> = (&'a arrow::array::StructArray, Vec<Option<(usize, usize)>>);

fn list_parts<O: OffsetSizeTrait>(list: &GenericListArray<O>) -> Result<HeaderParts<'_>> {
    let Some(entries) = list.values().as_struct_opt() else {
        return plan_err!("headers are a list of key and value");
    };
    let bounds = list.value_offsets().windows(2);
    let rows = bounds
        .enumerate()
        .map(|(row, bounds)| {
            (!list.is_null(row)).then_some((bounds[0].as_usize(), bounds[1].as_usize()))
        })
        .collect();
    Ok((entries, rows))
}
