//! Headers as columns: the easy map and the exact list, both ways.

use std::sync::Arc;

use datafusion::arrow::array::{
    Array, ArrayRef, AsArray, BinaryArray, BinaryBuilder, ListArray, MapArray, StringArray,
    StringBuilder, StructArray,
};
use datafusion::arrow::buffer::{NullBuffer, OffsetBuffer};
use datafusion::arrow::datatypes::{DataType, Field, FieldRef, Fields};
use rdkafka::message::{Header, OwnedHeaders};

use crate::error::{Error, Result};
use crate::tables::kafka::fetcher::Record;

/// `MAP<VARCHAR, VARCHAR>`.
pub(crate) fn is_map(data_type: &DataType) -> bool {
    matches!(data_type, DataType::Map(entries, _)
        if matches!(entries.data_type(), DataType::Struct(fields)
            if fields.iter().all(|field| *field.data_type() == DataType::Utf8)))
}

/// `ARRAY<STRUCT<key VARCHAR, value BINARY>>`.
pub(crate) fn is_list(data_type: &DataType) -> bool {
    matches!(data_type, DataType::List(item)
        if matches!(item.data_type(), DataType::Struct(fields)
            if fields.len() == 2
                && *fields[0].data_type() == DataType::Utf8
                && *fields[1].data_type() == DataType::Binary))
}

/// The headers of records as a column of the declared type. A record without headers has NULL.
pub(crate) fn to_array(messages: &[impl Record], data_type: &DataType) -> Result<ArrayRef> {
    match data_type {
        DataType::Map(entries, _) => to_map(messages, entries),
        DataType::List(item) => to_list(messages, item),
        other => Err(Error::internal(format!("headers as {other}"))),
    }
}

/// UTF-8 with replacement; the last value of a key wins and stands where the key came first.
fn to_map(messages: &[impl Record], entries: &FieldRef) -> Result<ArrayRef> {
    let mut keys = StringBuilder::new();
    let mut values = StringBuilder::new();
    let mut lengths = Vec::with_capacity(messages.len());
    let mut valid = Vec::with_capacity(messages.len());
    let mut row: Vec<Header<'_, &[u8]>> = Vec::new();
    let mut headers = Vec::new();
    for message in messages {
        row.clear();
        headers.clear();
        valid.push(message.headers(&mut headers));
        for header in headers.drain(..) {
            match row.iter_mut().find(|known| known.key == header.key) {
                Some(known) => known.value = header.value,
                None => row.push(header),
            }
        }
        for header in &row {
            keys.append_value(header.key);
            values.append_option(header.value.map(String::from_utf8_lossy));
        }
        lengths.push(row.len());
    }
    let fields = struct_fields(entries)?;
    let columns: Vec<ArrayRef> = vec![Arc::new(keys.finish()), Arc::new(values.finish())];
    let entries_array = StructArray::try_new(fields, columns, None).map_err(arrow_error)?;
    let map = MapArray::try_new(
        Arc::clone(entries),
        OffsetBuffer::from_lengths(lengths),
        entries_array,
        Some(NullBuffer::from(valid)),
        false,
    )
    .map_err(arrow_error)?;
    Ok(Arc::new(map))
}

fn to_list(messages: &[impl Record], item: &FieldRef) -> Result<ArrayRef> {
    let mut keys = StringBuilder::new();
    let mut values = BinaryBuilder::new();
    let mut lengths = Vec::with_capacity(messages.len());
    let mut valid = Vec::with_capacity(messages.len());
    let mut headers = Vec::new();
    for message in messages {
        valid.push(message.headers(&mut headers));
        lengths.push(headers.len());
        for header in headers.drain(..) {
            keys.append_value(header.key);
            values.append_option(header.value);
        }
    }
    let fields = struct_fields(item)?;
    let columns: Vec<ArrayRef> = vec![Arc::new(keys.finish()), Arc::new(values.finish())];
    let items = StructArray::try_new(fields, columns, None).map_err(arrow_error)?;
    let list = ListArray::try_new(
        Arc::clone(item),
        OffsetBuffer::from_lengths(lengths),
        Arc::new(items),
        Some(NullBuffer::from(valid)),
    )
    .map_err(arrow_error)?;
    Ok(Arc::new(list))
}

fn struct_fields(field: &Field) -> Result<Fields> {
    match field.data_type() {
        DataType::Struct(fields) => Ok(fields.clone()),
        other => Err(Error::internal(format!("headers of {other}"))),
    }
}

/// Headers that a sink adds to each of its records, also to those of a table that declares none. They replace the headers of the same
/// names that a row has.
#[derive(Debug, Clone, Default)]
pub struct AddedHeaders(Arc<[(String, String)]>);

impl AddedHeaders {
    /// These names and values.
    pub fn new<'a>(headers: impl IntoIterator<Item = (&'a str, String)>) -> Self {
        let headers = headers.into_iter();
        Self(
            headers
                .map(|(name, value)| (name.to_owned(), value))
                .collect(),
        )
    }

    /// The headers of a record whose row has the headers of this row of a column, if the table has one.
    pub(crate) fn of_row(&self, column: Option<&HeaderColumn>, row: usize) -> Option<OwnedHeaders> {
        let own = column.and_then(|column| column.row(row, |name| !self.replaces(name)));
        if self.0.is_empty() {
            return own;
        }
        let none = || OwnedHeaders::new_with_capacity(self.0.len());
        let added = self.0.iter();
        Some(
            added.fold(own.unwrap_or_else(none), |headers, (key, value)| {
                let value = Some(value.as_bytes());
                headers.insert(Header {
                    key: key.as_str(),
                    value,
                })
            }),
        )
    }

    fn replaces(&self, name: &str) -> bool {
        self.0.iter().any(|(added, _)| added == name)
    }
}

/// A headers column about to be written.
pub(crate) struct HeaderColumn {
    keys: StringArray,
    values: HeaderValues,
    offsets: OffsetBuffer<i32>,
    nulls: Option<NullBuffer>,
}

enum HeaderValues {
    Text(StringArray),
    Bytes(BinaryArray),
}

impl HeaderColumn {
    pub(crate) fn try_new(array: &ArrayRef) -> Result<Self> {
        let (offsets, nulls, entries) = match array.data_type() {
            DataType::Map(..) => {
                let map = array.as_map();
                (
                    map.offsets().clone(),
                    map.nulls().cloned(),
                    map.entries().clone(),
                )
            }
            DataType::List(_) => {
                let list = array.as_list::<i32>();
                (
                    list.offsets().clone(),
                    list.nulls().cloned(),
                    list.values().as_struct().clone(),
                )
            }
            other => return Err(Error::internal(format!("headers as {other}"))),
        };
        let values = match entries.column(1).data_type() {
            DataType::Utf8 => HeaderValues::Text(entries.column(1).as_string().clone()),
            _ => HeaderValues::Bytes(entries.column(1).as_binary().clone()),
        };
        Ok(Self {
            keys: entries.column(0).as_string().clone(),
            values,
            offsets,
            nulls,
        })
    }

    /// The headers of one row whose names are wanted; `None` when it has none.
    fn row(&self, row: usize, is_wanted: impl Fn(&str) -> bool) -> Option<OwnedHeaders> {
        if self.nulls.as_ref().is_some_and(|nulls| nulls.is_null(row)) {
            return None;
        }
        let range = self.offsets[row] as usize..self.offsets[row + 1] as usize;
        if range.is_empty() {
            return None;
        }
        let mut headers = OwnedHeaders::new_with_capacity(range.len());
        for entry in range.filter(|entry| is_wanted(self.keys.value(*entry))) {
            let value: Option<&[u8]> = match &self.values {
                HeaderValues::Text(text) => {
                    text.is_valid(entry).then(|| text.value(entry).as_bytes())
                }
                HeaderValues::Bytes(bytes) => bytes.is_valid(entry).then(|| bytes.value(entry)),
            };
            headers = headers.insert(Header {
                key: self.keys.value(entry),
                value,
            });
        }
        Some(headers)
    }
}

fn arrow_error(error: datafusion::arrow::error::ArrowError) -> Error {
    Error::internal(error.to_string())
}

#[cfg(test)]
mod tests {
    use datafusion::arrow::array::{MapBuilder, MapFieldNames};
    use rdkafka::message::Headers as _;

    use super::*;

    fn pairs(headers: Option<OwnedHeaders>) -> Vec<(String, String)> {
        let headers = headers.into_iter();
        let pairs = headers.flat_map(|headers| {
            let pair = |header: Header<'_, &[u8]>| {
                let value = header.value.unwrap_or_default().to_vec();
                (header.key.to_owned(), String::from_utf8(value).unwrap())
            };
            headers.iter().map(pair).collect::<Vec<_>>()
        });
        pairs.collect()
    }

    #[test]
    fn added_headers_come_after_those_of_a_row_and_replace_them() {
        let names = MapFieldNames::default();
        let mut rows = MapBuilder::new(Some(names), StringBuilder::new(), StringBuilder::new());
        for (key, value) in [("source", "live"), ("page", "home")] {
            rows.keys().append_value(key);
            rows.values().append_value(value);
        }
        rows.append(true).unwrap();
        rows.append(false).unwrap();
        let rows: ArrayRef = Arc::new(rows.finish());
        let column = HeaderColumn::try_new(&rows).unwrap();
        let added = AddedHeaders::new([("source", "run".to_owned()), ("run_id", "r".to_owned())]);
        let pair = |name: &str, value: &str| (name.to_owned(), value.to_owned());
        let own = [pair("source", "run"), pair("run_id", "r")];
        let with_page = [&[pair("page", "home")], &own[..]].concat();
        assert_eq!(pairs(added.of_row(Some(&column), 0)), with_page);
        assert_eq!(pairs(added.of_row(Some(&column), 1)), own);
        assert_eq!(pairs(added.of_row(None, 0)), own);
        let none = AddedHeaders::default();
        let as_they_are = [pair("source", "live"), pair("page", "home")];
        assert_eq!(pairs(none.of_row(Some(&column), 0)), as_they_are);
        assert!(none.of_row(Some(&column), 1).is_none());
        assert!(none.of_row(None, 0).is_none());
    }
}
