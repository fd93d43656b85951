//! `header`, `headers_list`, `headers_map`: functions of message headers.

use std::collections::HashMap;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, ListArray, MapArray, StructArray, UInt32Array};
use arrow::buffer::{NullBuffer, OffsetBuffer};
use arrow::compute::{CastOptions, cast, cast_with_options, take};
use arrow::datatypes::{DataType, Field};
use arrow::util::display::FormatOptions;
use datafusion::common::{Result, ScalarValue, exec_err, plan_err};
use datafusion::logical_expr::{
    ColumnarValue, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature, Volatility,
};

use super::header_types::{
    HeaderRows, is_headers, list_entry_fields, list_type, map_entry_fields, map_type,
};
use crate::diagnostic::data_error;

/// `header(headers, key)`: the last value of `key` as VARCHAR; NULL if there is none.
///
/// `headers` is `MAP<VARCHAR, VARCHAR>` or a list of `STRUCT<key VARCHAR, value BINARY>`. A value
/// that is not UTF-8 is an error.
#[must_use]
pub fn header() -> ScalarUDF {
    ScalarUDF::from(HeaderFunction::new(Kind::Value))
}

/// `headers_list(headers)`: headers of either shape as a list of `STRUCT<key VARCHAR, value
/// BINARY>`, in their order.
#[must_use]
pub fn headers_list() -> ScalarUDF {
    ScalarUDF::from(HeaderFunction::new(Kind::List))
}

/// `headers_map(headers)`: headers of either shape as `MAP<VARCHAR, VARCHAR>`; the last value of a
/// key wins. A value that is not UTF-8 is an error.
#[must_use]
pub fn headers_map() -> ScalarUDF {
    ScalarUDF::from(HeaderFunction::new(Kind::Map))
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Kind {
    Value,
    List,
    Map,
}

#[derive(Debug, PartialEq, Eq, Hash)]
struct HeaderFunction {
    kind: Kind,
    signature: Signature,
}

impl HeaderFunction {
    fn new(kind: Kind) -> Self {
        Self {
            kind,
            signature: Signature::user_defined(Volatility::Immutable),
        }
    }

    fn usage(&self) -> &'static str {
        match self.kind {
            Kind::Value => "usage: header(headers, 'key')",
            Kind::List => "usage: headers_list(headers)",
            Kind::Map => "usage: headers_map(headers)",
        }
    }
}

impl ScalarUDFImpl for HeaderFunction {
    fn name(&self) -> &str {
        match self.kind {
            Kind::Value => "header",
            Kind::List => "headers_list",
            Kind::Map => "headers_map",
        }
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, _: &[DataType]) -> Result<DataType> {
        Ok(match self.kind {
            Kind::Value => DataType::Utf8,
            Kind::List => list_type(),
            Kind::Map => map_type(),
        })
    }

    fn coerce_types(&self, types: &[DataType]) -> Result<Vec<DataType>> {
        let headers = match types.first() {
            Some(headers) if is_headers(headers) => headers.clone(),
            Some(DataType::Null) => map_type(),
            Some(other) => {
                return plan_err!(
                    "{}; headers are MAP<VARCHAR, VARCHAR> or a list of STRUCT<key VARCHAR, \
                     value BINARY>, not {other}",
                    self.usage()
                );
            }
            None => return plan_err!("{}", self.usage()),
        };
        match (self.kind, &types[1..]) {
            (Kind::Value, [key]) if key.is_string() || key.is_null() => {
                Ok(vec![headers, DataType::Utf8])
            }
            (Kind::List | Kind::Map, []) => Ok(vec![headers]),
            _ => plan_err!("{}", self.usage()),
        }
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let rows = args.number_rows;
        let Some(headers) = args.args.first() else {
            return plan_err!("{}", self.usage());
        };
        let headers = HeaderRows::try_new(&headers.to_array(rows)?)?;
        let array: ArrayRef = match (self.kind, args.args.get(1)) {
            (Kind::Value, Some(ColumnarValue::Scalar(key))) => {
                last_values(&headers, |_| text_of(key))?
            }
            (Kind::Value, Some(ColumnarValue::Array(keys))) => {
                let keys = cast(keys, &DataType::Utf8)?;
                let keys = keys.as_string::<i32>();
                last_values(&headers, |row| keys.is_valid(row).then(|| keys.value(row)))?
            }
            (Kind::List, _) => as_list(&headers)?,
            (Kind::Map, _) => as_map(&headers)?,
            _ => return plan_err!("{}", self.usage()),
        };
        Ok(ColumnarValue::Array(array))
    }
}

fn text_of(key: &ScalarValue) -> Option<&str> {
    key.try_as_str().flatten()
}

/// The last value of each row's key.
fn last_values<'a>(
    headers: &HeaderRows,
    key_of: impl Fn(usize) -> Option<&'a str>,
) -> Result<ArrayRef> {
    let keys = headers.keys();
    let picked = headers
        .rows()
        .iter()
        .enumerate()
        .map(|(row, bounds)| {
            let (Some((start, end)), Some(key)) = (*bounds, key_of(row)) else {
                return Ok(None);
            };
            let last = (start..end)
                .rev()
                .find(|entry| keys.is_valid(*entry) && keys.value(*entry) == key);
            last.map(entry_number).transpose()
        })
        .collect::<Result<UInt32Array>>()?;
    as_text(&take(headers.values(), &picked, None)?)
}

fn as_list(headers: &HeaderRows) -> Result<ArrayRef> {
    let entries = headers
        .rows()
        .iter()
        .flatten()
        .flat_map(|(start, end)| *start..*end);
    let entries = entries.map(entry_number).collect::<Result<Vec<_>>>()?;
    let entries = UInt32Array::from(entries);
    let keys = take(headers.keys(), &entries, None)?;
    let values = cast(&take(headers.values(), &entries, None)?, &DataType::Binary)?;
    let fields = list_entry_fields();
    let structs = StructArray::try_new(fields.clone(), vec![keys, values], None)?;
    let lengths = headers
        .rows()
        .iter()
        .map(|row| row.map_or(0, |(start, end)| end - start));
    Ok(Arc::new(ListArray::try_new(
        Arc::new(Field::new("item", DataType::Struct(fields), true)),
        OffsetBuffer::from_lengths(lengths),
        Arc::new(structs),
        nulls(headers),
    )?))
}

fn as_map(headers: &HeaderRows) -> Result<ArrayRef> {
    let keys = headers.keys();
    let mut picked = Vec::new();
    let mut lengths = Vec::with_capacity(headers.rows().len());
    for row in headers.rows() {
        let (start, end) = row.unwrap_or_default();
        // A key keeps the position of its first value, with its last value.
        let mut place: HashMap<&str, usize> = HashMap::new();
        let before = picked.len();
        for entry in start..end {
            let number = entry_number(entry)?;
            let at = *place.entry(keys.value(entry)).or_insert(picked.len());
            if at == picked.len() {
                picked.push(number);
            } else {
                picked[at] = number;
            }
        }
        lengths.push(picked.len() - before);
    }
    let picked = UInt32Array::from(picked);
    let keys = take(keys, &picked, None)?;
    let values = as_text(&take(headers.values(), &picked, None)?)?;
    let fields = map_entry_fields();
    let entries = StructArray::try_new(fields.clone(), vec![keys, values], None)?;
    Ok(Arc::new(MapArray::try_new(
        Arc::new(Field::new("entries", DataType::Struct(fields), false)),
        OffsetBuffer::from_lengths(lengths),
        entries,
        nulls(headers),
        false,
    )?))
}

fn nulls(headers: &HeaderRows) -> Option<NullBuffer> {
    Some(NullBuffer::from_iter(
        headers.rows().iter().map(Option::is_some),
    ))
}

fn entry_number(entry: usize) -> Result<u32> {
    u32::try_from(entry).or_else(|_| exec_err!("too many headers in one batch"))
}

/// Header values as text; bytes that are not UTF-8 are an error.
fn as_text(values: &ArrayRef) -> Result<ArrayRef> {
    let options = CastOptions {
        safe: false,
        format_options: FormatOptions::default(),
    };
    cast_with_options(values, &DataType::Utf8, &options).map_err(|_| {
        data_error(
            "a header's value is not UTF-8 text",
            "declare headers as a list of STRUCT<key VARCHAR, value BINARY> and use the bytes",
        )
    })
}
