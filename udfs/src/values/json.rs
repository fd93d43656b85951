//! `to_json(value)`: any value as JSON text.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, StringBuilder};
use arrow::datatypes::{DataType, Field, FieldRef};
use arrow::json::writer::{EncoderOptions, make_encoder};
use datafusion::common::{Result, exec_datafusion_err};
use datafusion::logical_expr::{
    ColumnarValue, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature, Volatility,
};

/// `to_json(value)`: VARCHAR; NULL stays NULL.
///
/// Structs and maps are objects, with NULL fields as `null`; lists are arrays; timestamps are ISO
/// 8601 with `Z` (one without zone is in UTC); binary is hexadecimal.
#[must_use]
pub fn to_json() -> ScalarUDF {
    ScalarUDF::from(ToJson {
        signature: Signature::any(1, Volatility::Immutable),
    })
}

#[derive(Debug, PartialEq, Eq, Hash)]
struct ToJson {
    signature: Signature,
}

/// TIMEZONE-1: a timestamp without zone is in UTC.
const TIMESTAMP_FORMAT: &str = "%Y-%m-%dT%H:%M:%S%.fZ";

impl ScalarUDFImpl for ToJson {
    fn name(&self) -> &str {
        "to_json"
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, _: &[DataType]) -> Result<DataType> {
        Ok(DataType::Utf8)
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let [value] = args.args.as_slice() else {
            return Err(exec_datafusion_err!("usage: to_json(value)"));
        };
        Ok(ColumnarValue::Array(encode(
            &value.to_array(args.number_rows)?,
        )?))
    }
}

fn encode(values: &ArrayRef) -> Result<ArrayRef> {
    let mut text = StringBuilder::with_capacity(values.len(), values.len() * 16);
    if *values.data_type() == DataType::Null {
        (0..values.len()).for_each(|_| text.append_null());
        return Ok(Arc::new(text.finish()));
    }
    let options = EncoderOptions::default()
        .with_explicit_nulls(true)
        .with_timestamp_format(TIMESTAMP_FORMAT.to_owned());
    let field: FieldRef = Arc::new(Field::new("value", values.data_type().clone(), true));
    let mut encoder = make_encoder(&field, values.as_ref(), &options)?;
    let mut json = Vec::new();
    for row in 0..values.len() {
        if encoder.is_null(row) {
            text.append_null();
            continue;
        }
        json.clear();
        encoder.encode(row, &mut json);
        let json = std::str::from_utf8(&json).map_err(|error| {
            exec_datafusion_err!("to_json made text that is not UTF-8: {error}")
        })?;
        text.append_value(json);
    }
    Ok(Arc::new(text.finish()))
}
