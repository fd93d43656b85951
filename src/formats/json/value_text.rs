//! Values as JSON text, each by itself.

use std::sync::Arc;

use arrow::array::{Array as _, ArrayRef, RecordBatch, StringArray};
use arrow::datatypes::{Field, Schema};

use crate::error::{Error, Result};
use crate::formats::codec::RecordEncoder as _;
use crate::formats::json::encode::JsonEncoder;
use crate::formats::settings::WriteOptions;
use crate::formats::text::time::TimestampFormat;
use crate::formats::text::zone::Zone;

/// The JSON text of each value, as the JSON decoder would read it; NULL where the value is.
///
/// # Errors
///
/// A type that JSON does not have, or a number that is not finite.
pub(crate) fn json_text(values: &ArrayRef) -> Result<StringArray> {
    /// The JSON text before and after the value in an object of one field.
    const AROUND: (usize, usize) = ("{\"v\":".len(), "}".len());
    let field = Field::new("v", values.data_type().clone(), true);
    let schema = Arc::new(Schema::new(vec![field]));
    let options = WriteOptions {
        zone: Zone::Utc,
        timestamp_format: TimestampFormat::Iso,
        nulls: true,
    };
    let batch = RecordBatch::try_new(Arc::clone(&schema), vec![Arc::clone(values)])
        .map_err(|error| Error::data(error.to_string()))?;
    let rows = JsonEncoder::new(&schema, &options).encode(&batch, None)?;
    Ok((0..values.len())
        .map(|row| {
            let object = rows.get(row).filter(|_| values.is_valid(row))?;
            let value = object.get(AROUND.0..object.len() - AROUND.1)?;
            std::str::from_utf8(value).ok()
        })
        .collect())
}
