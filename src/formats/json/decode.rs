//! Decoder from JSON objects to columns, one object per message.
//!
//! serde_json reads the text and calls back into the column builders: no document is built, and the decoder skips fields that
//! are not projected. Accepted values by type:
//!
//! * The message is exactly one object in UTF-8. The decoder compares keys exactly: with the field's name, then with its
//!   original spelling. Of a key that occurs twice in an object the last value counts, also in a MAP, though all must be
//!   readable.
//! * VARCHAR takes a string, and for any other value its JSON text as written in the message.
//! * Integers take any number without a fraction, in range, also inside a string; DECIMAL rounds
//!   half away from zero; DOUBLE and REAL also take `"NaN"`, `"Infinity"` and `"-Infinity"`.
//! * BINARY is base64 in the standard alphabet, with or without padding.
//! * DATE is `YYYY-MM-DD`, TIME `HH:MM[:SS[.f]]`, TIMESTAMP ISO 8601 or SQL text, or a number if `json.timestamp_unit` gives
//!   its unit.
//! * STRUCT takes an object, LIST an array, MAP an object. A missing field is NULL.
//!
//! If no column is projected, the decoder reads no message, and no row is bad.
//!
//! Why not arrow-json: it fails as a whole where one message cannot be read. It is no faster: of messages with seven fields it reads
//! as many rows per second, and with two of them projected 0.8 of ours (`BENCH_ONLY=formats`).

use std::fmt;

use arrow::datatypes::{Schema, SchemaRef};
use serde::de::{DeserializeSeed, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::value::RawValue;

use super::key_index::{FoundField, KeyIndex};
use crate::error::Result;
use crate::formats::codec::{Decoded, RecordDecoder, projected_schema};
use crate::formats::column::{ColumnBuilder, ColumnBuilders, ReadContext, ValueBuilder, offset_of};
use crate::formats::decode_rows::decode_rows;
use crate::formats::excerpt::excerpt;
use crate::formats::settings::ReadOptions;

/// Decodes messages that are one JSON object each.
pub(crate) struct JsonDecoder {
    /// The columns as given: nullable.
    schema: SchemaRef,
    columns: ColumnBuilders,
    context: ReadContext,
}

impl JsonDecoder {
    /// # Errors
    ///
    /// Names the column whose type cannot be read.
    pub(crate) fn try_new(
        declared: &Schema,
        projection: &[usize],
        options: &ReadOptions,
        lenient: bool,
    ) -> Result<Self> {
        let schema = projected_schema(declared, projection)?;
        let fields = projection
            .iter()
            .map(|&index| declared.field(index).clone())
            .collect();
        let columns = ColumnBuilders::try_new(&fields, "")?;
        Ok(Self {
            schema,
            columns,
            context: ReadContext::new(options, lenient),
        })
    }
}

impl RecordDecoder for JsonDecoder {
    fn schema(&self) -> &SchemaRef {
        &self.schema
    }

    fn decode(&mut self, payloads: &[Option<&[u8]>]) -> Result<Decoded> {
        decode_rows(
            &self.schema,
            &mut self.columns,
            &mut self.context,
            payloads,
            read_record,
        )
    }
}

/// Reads one message into `columns`, which have `start` rows.
fn read_record(
    columns: &mut ColumnBuilders,
    context: &mut ReadContext,
    payload: &[u8],
    start: usize,
) -> Result<(), String> {
    let text = std::str::from_utf8(payload)
        .map_err(|error| format!("not valid UTF-8 at byte {}", error.valid_up_to()))?;
    let first = text
        .bytes()
        .find(|b| !matches!(b, b' ' | b'\t' | b'\n' | b'\r'));
    match first {
        Some(b'{') => {}
        None => return Err("the message is empty, a JSON object was expected".to_owned()),
        Some(_) => {
            return Err(format!(
                "a JSON object was expected, found {}",
                excerpt(text)
            ));
        }
    }
    let mut read = read_text(columns, context, text, start);
    // The library reads a number in the place of a nested value as a DOUBLE, and gives up on one that is too large.
    if read.as_ref().is_err_and(serde_json::Error::is_syntax) && columns.are_nested() {
        columns.truncate(start);
        context.take_failure();
        context.takes_texts = true;
        read = read_text(columns, context, text, start);
        context.takes_texts = false;
    }
    read.map_err(|error| format!("not one JSON object: {error}"))
}

fn read_text(
    columns: &mut ColumnBuilders,
    context: &mut ReadContext,
    text: &str,
    start: usize,
) -> Result<(), serde_json::Error> {
    let mut deserializer = serde_json::Deserializer::from_str(text);
    (&mut deserializer).deserialize_map(RecordVisitor {
        columns,
        context,
        start,
    })?;
    deserializer.end()
}

struct RecordVisitor<'a> {
    columns: &'a mut ColumnBuilders,
    context: &'a mut ReadContext,
    start: usize,
}

impl<'de> Visitor<'de> for RecordVisitor<'_> {
    type Value = ();

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, access: A) -> Result<(), A::Error> {
        read_object(self.columns, self.start, self.context, access)
    }
}

/// Reads the fields of an object into columns that have `start` values; the row is not ended.
fn read_object<'de, A: MapAccess<'de>>(
    columns: &mut ColumnBuilders,
    start: usize,
    context: &mut ReadContext,
    mut access: A,
) -> Result<(), A::Error> {
    let mut position = 0;
    // Fields with another spelling whose exact name has occurred in this object.
    let mut named = Vec::new();
    while let Some(field) = access.next_key_seed(FieldKey {
        keys: &mut columns.keys,
        position,
    })? {
        position += 1;
        let column = field.and_then(|found| {
            if found.is_respelled && found.is_exact {
                named.push(found.index);
            }
            // A value under the exact name takes precedence, in either order of the two keys.
            let counts = found.is_exact || !named.contains(&found.index);
            let column = columns.children.get_mut(found.index)?;
            counts.then_some(column)
        });
        match column {
            Some(column) => {
                // The key occurred before in this object: the last one counts.
                column.truncate(start);
                access.next_value_seed(ValueSeed { column, context })?;
            }
            None => {
                access.next_value::<IgnoredAny>()?;
            }
        }
    }
    Ok(())
}

/// Finds the field a key names.
struct FieldKey<'a> {
    keys: &'a mut KeyIndex,
    position: usize,
}

impl<'de> DeserializeSeed<'de> for FieldKey<'_> {
    type Value = Option<FoundField>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_str(self)
    }
}

impl<'de> Visitor<'de> for FieldKey<'_> {
    type Value = Option<FoundField>;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("a key")
    }

    fn visit_str<E>(self, key: &str) -> Result<Self::Value, E> {
        Ok(self.keys.find(self.position, key))
    }
}

/// Appends the key of a map.
struct MapKey<'a> {
    column: &'a mut ColumnBuilder,
    context: &'a mut ReadContext,
}

impl<'de> DeserializeSeed<'de> for MapKey<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_str(self)
    }
}

impl<'de> Visitor<'de> for MapKey<'_> {
    type Value = ();

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("a key")
    }

    fn visit_str<E>(self, key: &str) -> Result<(), E> {
        self.column.push_text(key, self.context);
        self.column.check_not_null(self.context, false);
        Ok(())
    }
}

/// Appends one value to a column.
struct ValueSeed<'a> {
    column: &'a mut ColumnBuilder,
    context: &'a mut ReadContext,
}

impl<'de> DeserializeSeed<'de> for ValueSeed<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        match &self.column.values {
            ValueBuilder::Struct(_) | ValueBuilder::List(..) | ValueBuilder::Map(..) => {
                if !self.context.takes_texts {
                    return deserializer.deserialize_any(self);
                }
                let raw = <&RawValue as serde::Deserialize>::deserialize(deserializer)?;
                self.read_nested(raw.get())
                    .map_err(serde::de::Error::custom)
            }
            _ => {
                let raw = <&RawValue as serde::Deserialize>::deserialize(deserializer)?;
                push_scalar(self.column, raw.get(), self.context).map_err(serde::de::Error::custom)
            }
        }
    }
}

impl ValueSeed<'_> {
    /// Reads the value of a nested column from its JSON text.
    fn read_nested(self, json: &str) -> Result<(), serde_json::Error> {
        match json.as_bytes() {
            [b'-' | b'0'..=b'9', ..] => {
                self.conflict(json);
                Ok(())
            }
            _ => serde_json::Deserializer::from_str(json).deserialize_any(self),
        }
    }

    fn conflict(self, found: &str) {
        self.column.push_conflict(self.context, found);
    }
}

/// The values of nested columns.
impl<'de> Visitor<'de> for ValueSeed<'_> {
    type Value = ();

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("a value")
    }

    fn visit_unit<E>(self) -> Result<(), E> {
        self.column.push_null();
        Ok(())
    }

    fn visit_bool<E>(self, value: bool) -> Result<(), E> {
        self.conflict(if value { "true" } else { "false" });
        Ok(())
    }

    fn visit_i64<E>(self, value: i64) -> Result<(), E> {
        self.conflict(&value.to_string());
        Ok(())
    }

    fn visit_u64<E>(self, value: u64) -> Result<(), E> {
        self.conflict(&value.to_string());
        Ok(())
    }

    fn visit_f64<E>(self, value: f64) -> Result<(), E> {
        self.conflict(&value.to_string());
        Ok(())
    }

    fn visit_str<E>(self, value: &str) -> Result<(), E> {
        self.conflict(&format!("\"{value}\""));
        Ok(())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut access: A) -> Result<(), A::Error> {
        let Self { column, context } = self;
        match &mut column.values {
            ValueBuilder::Struct(columns) => {
                let start = column.validity.len();
                read_object(columns, start, context, access)?;
                columns.end_row(start, context);
            }
            ValueBuilder::Map(offsets, keys, values) => {
                while access
                    .next_key_seed(MapKey {
                        column: keys,
                        context,
                    })?
                    .is_some()
                {
                    access.next_value_seed(ValueSeed {
                        column: values,
                        context,
                    })?;
                    values.check_not_null(context, false);
                }
                offsets.push(offset_of(keys));
            }
            _ => {
                while access.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
                column.push_conflict(context, "an object");
                return Ok(());
            }
        }
        column.validity.append_non_null();
        Ok(())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut access: A) -> Result<(), A::Error> {
        let Self { column, context } = self;
        let ValueBuilder::List(offsets, items) = &mut column.values else {
            while access.next_element::<IgnoredAny>()?.is_some() {}
            column.push_conflict(context, "an array");
            return Ok(());
        };
        while access
            .next_element_seed(ValueSeed {
                column: items,
                context,
            })?
            .is_some()
        {
            items.check_not_null(context, false);
        }
        offsets.push(offset_of(items));
        column.validity.append_non_null();
        Ok(())
    }
}

/// Appends a value that is not nested, from its JSON text.
fn push_scalar(
    column: &mut ColumnBuilder,
    json: &str,
    context: &mut ReadContext,
) -> Result<(), serde_json::Error> {
    match json.as_bytes() {
        [b'"', inner @ .., b'"'] if !inner.contains(&b'\\') => {
            column.push_text(&json[1..json.len() - 1], context);
        }
        [b'"', ..] => column.push_text(&serde_json::from_str::<String>(json)?, context),
        b"null" => column.push_null(),
        b"true" => column.push_bool(true, context),
        b"false" => column.push_bool(false, context),
        [b'{' | b'[', ..] => column.push_nested(json, context),
        _ => column.push_number(json, context),
    }
    Ok(())
}

#[cfg(test)]
#[path = "decode_tests.rs"]
mod tests;

#[cfg(test)]
#[path = "oracle_tests.rs"]
mod oracle_tests;
