//! Unions of several types as text: a text stays as it is, any other value becomes its JSON text, as the JSON decoder would
//! read it.

use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, AsArray, RecordBatch, StringArray, UnionArray, new_null_array,
};
use arrow::compute::{cast, interleave};
use arrow::datatypes::{DataType, Field, Schema};
use arrow::error::ArrowError;

use crate::error::Result;
use crate::formats::codec::RecordEncoder as _;
use crate::formats::json::encode::JsonEncoder;
use crate::formats::settings::WriteOptions;
use crate::formats::text::time::TimestampFormat;
use crate::formats::text::zone::Zone;

/// Each row's value as text; NULL where the union is.
///
/// # Errors
///
/// A value that JSON cannot hold.
pub(crate) fn union_text(union: &UnionArray) -> Result<ArrayRef> {
    let DataType::Union(fields, _) = union.data_type() else {
        return Ok(Arc::new(StringArray::new_null(union.len())));
    };
    let mut texts = Vec::with_capacity(fields.len());
    let mut places = [0_usize; 128];
    for (type_id, _) in fields.iter() {
        if let Ok(id) = usize::try_from(type_id) {
            places[id] = texts.len();
        }
        texts.push(text(union.child(type_id))?);
    }
    let texts: Vec<&dyn Array> = texts.iter().map(AsRef::as_ref).collect();
    let rows: Vec<(usize, usize)> = (0..union.len())
        .map(|row| {
            let id = usize::try_from(union.type_id(row)).unwrap_or(0);
            (places[id], union.value_offset(row))
        })
        .collect();
    interleave(&texts, &rows).map_err(misfit)
}

fn misfit(error: ArrowError) -> crate::error::Error {
    crate::error::Error::data(error.to_string())
}

fn text(values: &ArrayRef) -> Result<ArrayRef> {
    match values.data_type() {
        DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View | DataType::Dictionary(..) => {
            return cast(values, &DataType::Utf8).map_err(misfit);
        }
        DataType::Union(..) => return union_text(values.as_union()),
        // Arrow keeps no validity bit for the rows of this type.
        DataType::Null => return Ok(new_null_array(&DataType::Utf8, values.len())),
        _ => {}
    }
    /// The JSON text before and after the value in an object of one field.
    const AROUND: (usize, usize) = ("{\"v\":".len(), "}".len());
    let field = Field::new("v", values.data_type().clone(), true);
    let schema = Arc::new(Schema::new(vec![field]));
    let options = WriteOptions {
        zone: Zone::Utc,
        timestamp_format: TimestampFormat::Iso,
        nulls: true,
    };
    let batch = RecordBatch::try_new(Arc::clone(&schema), vec![Arc::clone(values)]);
    let rows = JsonEncoder::new(&schema, &options).encode(&batch.map_err(misfit)?, None)?;
    let texts: StringArray = (0..values.len())
        .map(|row| {
            let object = rows.get(row).filter(|_| values.is_valid(row))?;
            let value = object.get(AROUND.0..object.len() - AROUND.1)?;
            std::str::from_utf8(value).ok()
        })
        .collect();
    Ok(Arc::new(texts))
}

/// Whether a type is a union of several types, other than NULL and one.
pub(crate) fn is_union(data_type: &DataType) -> bool {
    matches!(data_type, DataType::Union(..))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::formats::avro::decode::tests::{cells, decode, format, long, message, nullable};
    use crate::formats::registry::stub::RegistryStub;

    #[test]
    fn a_union_of_several_types_is_read_as_text() {
        let schema = r#"{"type": "record", "name": "r", "fields": [{"name": "v", "type": ["null", "long", "string", "boolean",
            {"type": "record", "name": "inner", "fields": [{"name": "x", "type": "int"}]}]}]}"#;
        let stub = RegistryStub::start().with_schema(7, schema);
        let format = format(&stub.url(), vec![nullable("v", DataType::Utf8)], &[]);
        let text = [long(3), b"a,b".to_vec()].concat();
        let rows = [
            vec![long(0)],
            vec![long(1), long(42)],
            vec![long(2), text],
            vec![long(3), vec![1]],
            vec![long(4), long(-5)],
        ];
        let rows = rows.map(|parts| message(7, &parts));
        let decoded = decode(&format, false, &rows);
        assert_eq!(decoded.bad, vec![]);
        let expected = ["-", "42", "a,b", "true", "{\"x\":-5}"];
        assert_eq!(cells(decoded.columns.column(0)), expected);
    }
}
