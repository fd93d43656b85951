//! Unions of several types as text: a text stays as it is, any other value becomes its JSON text, as the JSON decoder would
//! read it.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, StringArray, UnionArray, new_null_array};
use arrow::compute::{cast, interleave};
use arrow::datatypes::DataType;
use arrow::error::ArrowError;

use crate::error::Result;
use crate::formats::json::value_text::json_text;

/// Each row's value as text; NULL where the union is. And the rows whose value has no text, for one because a number in it is NaN:
/// these are NULL as well.
///
/// # Errors
///
/// A type that JSON does not have.
pub(crate) fn union_text(union: &UnionArray) -> Result<(ArrayRef, Vec<usize>)> {
    let DataType::Union(fields, _) = union.data_type() else {
        return Ok((Arc::new(StringArray::new_null(union.len())), Vec::new()));
    };
    let mut texts = Vec::with_capacity(fields.len());
    let mut without = Vec::with_capacity(fields.len());
    let mut places = [0_usize; 128];
    for (type_id, _) in fields.iter() {
        if let Ok(id) = usize::try_from(type_id) {
            places[id] = texts.len();
        }
        let (text, rows) = text(union.child(type_id))?;
        texts.push(text);
        without.push(rows);
    }
    let texts: Vec<&dyn Array> = texts.iter().map(AsRef::as_ref).collect();
    let rows: Vec<(usize, usize)> = (0..union.len())
        .map(|row| {
            let id = usize::try_from(union.type_id(row)).unwrap_or(0);
            (places[id], union.value_offset(row))
        })
        .collect();
    let has_none = |(place, at): &(usize, usize)| without[*place].binary_search(at).is_ok();
    let without = rows.iter().enumerate();
    let without = without.filter_map(|(row, at)| has_none(at).then_some(row));
    let without = without.collect();
    Ok((interleave(&texts, &rows).map_err(misfit)?, without))
}

fn misfit(error: ArrowError) -> crate::error::Error {
    crate::error::Error::data(error.to_string())
}

/// The text of each value, and in their order the rows of those that have none.
fn text(values: &ArrayRef) -> Result<(ArrayRef, Vec<usize>)> {
    match values.data_type() {
        DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View | DataType::Dictionary(..) => {
            return Ok((cast(values, &DataType::Utf8).map_err(misfit)?, Vec::new()));
        }
        DataType::Union(..) => return union_text(values.as_union()),
        // Arrow keeps no validity bit for the rows of this type.
        DataType::Null => {
            return Ok((new_null_array(&DataType::Utf8, values.len()), Vec::new()));
        }
        _ => {}
    }
    if let Ok(texts) = json_text(values) {
        return Ok((Arc::new(texts), Vec::new()));
    }
    // One of the values has no text: each is written by itself.
    json_text(&values.slice(0, 0))?;
    let mut without = Vec::new();
    let texts: StringArray = (0..values.len())
        .map(|row| match json_text(&values.slice(row, 1)) {
            Ok(text) => text.is_valid(0).then(|| text.value(0).to_owned()),
            Err(_) => {
                without.push(row);
                None
            }
        })
        .collect();
    Ok((Arc::new(texts), without))
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

    #[test]
    fn a_value_without_a_text_makes_its_own_row_bad() {
        let schema = r#"{"type": "record", "name": "r", "fields": [{"name": "v", "type": ["null", "long", "double",
            {"type": "record", "name": "inner", "fields": [{"name": "x", "type": "double"}]}]}]}"#;
        let stub = RegistryStub::start().with_schema(7, schema);
        let format = format(&stub.url(), vec![nullable("v", DataType::Utf8)], &[]);
        let double = |of: i64, value: f64| vec![long(of), value.to_le_bytes().to_vec()];
        let rows = [
            vec![long(1), long(42)],
            double(2, f64::NAN),
            double(2, 0.5),
            double(3, f64::INFINITY),
            double(3, 1.0),
            vec![long(0)],
        ];
        let rows = rows.map(|parts| message(7, &parts));
        let decoded = decode(&format, false, &rows);
        let bad = decoded.bad.iter().map(|bad| (bad.row, bad.reason.as_str()));
        let reason = "column v: JSON has no text for the value";
        assert_eq!(bad.collect::<Vec<_>>(), [(1, reason), (3, reason)]);
        let expected = ["42", "-", "0.5", "-", "{\"x\":1.0}", "-"];
        assert_eq!(cells(decoded.columns.column(0)), expected);
        let decoded = decode(&format, true, &rows);
        assert_eq!(decoded.bad, vec![]);
        assert_eq!(cells(decoded.columns.column(0)), expected);
    }
}
