//! A record's coordinates, key, raw value and timestamp as Arrow columns.

use std::sync::Arc;

use datafusion::arrow::array::{
    ArrayRef, BinaryArray, Int32Array, Int64Array, StringArray, TimestampMicrosecondArray,
};
use datafusion::arrow::datatypes::DataType;
use rdkafka::Timestamp;

use crate::error::{Error, Result};
use crate::tables::kafka::definition::MetadataKey;
use crate::tables::kafka::fetcher::Record;
use crate::tables::kafka::headers;

/// One metadata column over these records.
///
/// # Errors
/// A key or value that is not UTF-8 where VARCHAR was declared.
pub(crate) fn to_array(
    messages: &[impl Record],
    key: MetadataKey,
    data_type: &DataType,
) -> Result<ArrayRef> {
    Ok(match key {
        MetadataKey::Topic => Arc::new(StringArray::from_iter_values(
            messages.iter().map(|message| message.topic()),
        )),
        MetadataKey::Partition if *data_type == DataType::Int64 => {
            Arc::new(Int64Array::from_iter_values(
                messages
                    .iter()
                    .map(|message| i64::from(message.partition())),
            ))
        }
        MetadataKey::Partition => Arc::new(Int32Array::from_iter_values(
            messages.iter().map(|message| message.partition()),
        )),
        MetadataKey::Offset => Arc::new(Int64Array::from_iter_values(
            messages.iter().map(|message| message.offset()),
        )),
        MetadataKey::Timestamp => Arc::new(
            messages
                .iter()
                .map(|message| {
                    message
                        .timestamp()
                        .to_millis()
                        .and_then(|millis| millis.checked_mul(1_000))
                })
                .collect::<TimestampMicrosecondArray>()
                .with_timezone("UTC"),
        ),
        MetadataKey::TimestampType => Arc::new(
            messages
                .iter()
                .map(|message| match message.timestamp() {
                    Timestamp::CreateTime(_) => Some("CreateTime"),
                    Timestamp::LogAppendTime(_) => Some("LogAppendTime"),
                    Timestamp::NotAvailable => None,
                })
                .collect::<StringArray>(),
        ),
        MetadataKey::Key => bytes(messages, data_type, "key", |message| message.key())?,
        MetadataKey::Value => bytes(messages, data_type, "value", |message| message.payload())?,
        MetadataKey::Headers => headers::to_array(messages, data_type)?,
    })
}

fn bytes<R: Record>(
    messages: &[R],
    data_type: &DataType,
    what: &str,
    get: impl Fn(&R) -> Option<&[u8]>,
) -> Result<ArrayRef> {
    if *data_type == DataType::Binary {
        return Ok(Arc::new(messages.iter().map(get).collect::<BinaryArray>()));
    }
    let total = messages
        .iter()
        .map(|message| get(message).map_or(0, <[u8]>::len))
        .sum();
    let mut text = datafusion::arrow::array::StringBuilder::with_capacity(messages.len(), total);
    for message in messages {
        match get(message).map(std::str::from_utf8) {
            None => text.append_null(),
            Some(Ok(value)) => text.append_value(value),
            Some(Err(_)) => {
                return Err(Error::data(format!(
                    "the {what} of record {}/{}@{} is not UTF-8",
                    message.topic(),
                    message.partition(),
                    message.offset()
                ))
                .with_help(format!("declare the column of metadata '{what}' as BINARY"))
                .mark_record());
            }
        }
    }
    Ok(Arc::new(text.finish()))
}
