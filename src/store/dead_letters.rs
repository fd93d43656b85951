//! The dead letters of a batch as a file of Arrow IPC: `table`, `topic`, `partition`, `offset`, `timestamp` (milliseconds since 1970
//! UTC), `key`, `value` and `reason`. Many letters are several batches of rows in one file.

use std::io::Cursor;
use std::sync::Arc;

use datafusion::arrow::array::{
    Array as _, ArrayRef, AsArray as _, BinaryArray, Int32Array, Int64Array, RecordBatch,
    StringArray,
};
use datafusion::arrow::datatypes::{DataType, Field, Int32Type, Int64Type, Schema, SchemaRef};
use datafusion::arrow::error::ArrowError;
use datafusion::arrow::ipc::reader::FileReader;
use datafusion::arrow::ipc::writer::FileWriter;

use crate::core::jobs::DeadLetter;
use crate::error::{Error, Result};

/// Most bytes of letters in one batch of rows: the offsets in a column end at two gigabytes.
const BATCH_BYTES: usize = 64 << 20;

fn schema() -> SchemaRef {
    Arc::new(Schema::new(vec![
        Field::new("table", DataType::Utf8, false),
        Field::new("topic", DataType::Utf8, false),
        Field::new("partition", DataType::Int32, false),
        Field::new("offset", DataType::Int64, false),
        Field::new("timestamp", DataType::Int64, true),
        Field::new("key", DataType::Binary, true),
        Field::new("value", DataType::Binary, true),
        Field::new("reason", DataType::Utf8, false),
    ]))
}

/// The file of these letters.
pub(super) fn encode_letters(letters: &[DeadLetter]) -> Result<Vec<u8>> {
    encode(letters, BATCH_BYTES).map_err(|error| Error::internal(error.to_string()))
}

/// The letters of a file, or why there are none.
pub(super) fn decode_letters(bytes: &[u8]) -> Result<Vec<DeadLetter>, String> {
    decode(bytes).map_err(|error| error.to_string())
}

fn encode(letters: &[DeadLetter], batch_bytes: usize) -> Result<Vec<u8>, ArrowError> {
    let mut writer = FileWriter::try_new(Vec::new(), &schema())?;
    let mut rest = letters;
    // A file without letters has a batch as well.
    loop {
        let (next, after) = rest.split_at(count_within(rest, batch_bytes));
        writer.write(&rows(next)?)?;
        rest = after;
        if rest.is_empty() {
            return writer.into_inner();
        }
    }
}

/// How many letters, from the first on, have so many bytes together; at least one if there is one.
fn count_within(letters: &[DeadLetter], most: usize) -> usize {
    let mut bytes = 0_usize;
    let within = letters.iter().take_while(|letter| {
        bytes = bytes.saturating_add(bytes_of(letter));
        bytes <= most
    });
    within.count().max(1).min(letters.len())
}

/// The bytes of its texts, its key and its value.
fn bytes_of(letter: &DeadLetter) -> usize {
    let length = |bytes: &Option<Vec<u8>>| bytes.as_ref().map_or(0, Vec::len);
    letter.table.len()
        + letter.topic.len()
        + length(&letter.key)
        + length(&letter.value)
        + letter.reason.len()
}

/// One batch of rows.
fn rows(letters: &[DeadLetter]) -> Result<RecordBatch, ArrowError> {
    // One that is alone may have more than others together.
    if let [letter] = letters
        && i32::try_from(bytes_of(letter)).is_err()
    {
        return Err(ArrowError::InvalidArgumentError(
            "a dead letter has more than two gigabytes".to_owned(),
        ));
    }
    let texts = |of: fn(&DeadLetter) -> &str| -> ArrayRef {
        Arc::new(StringArray::from_iter_values(letters.iter().map(of)))
    };
    let bytes = |of: fn(&DeadLetter) -> Option<&[u8]>| -> ArrayRef {
        Arc::new(BinaryArray::from_iter(letters.iter().map(of)))
    };
    let columns: Vec<ArrayRef> = vec![
        texts(|letter| &letter.table),
        texts(|letter| &letter.topic),
        Arc::new(Int32Array::from_iter_values(
            letters.iter().map(|letter| letter.partition),
        )),
        Arc::new(Int64Array::from_iter_values(
            letters.iter().map(|letter| letter.offset),
        )),
        Arc::new(
            letters
                .iter()
                .map(|letter| letter.timestamp)
                .collect::<Int64Array>(),
        ),
        bytes(|letter| letter.key.as_deref()),
        bytes(|letter| letter.value.as_deref()),
        texts(|letter| &letter.reason),
    ];
    RecordBatch::try_new(schema(), columns)
}

fn decode(bytes: &[u8]) -> Result<Vec<DeadLetter>, ArrowError> {
    let mut letters = Vec::new();
    for rows in FileReader::try_new(Cursor::new(bytes), None)? {
        let rows = rows?;
        if rows.schema().fields() != schema().fields() {
            return Err(ArrowError::SchemaError(
                "its columns are not those of dead letters".to_owned(),
            ));
        }
        let text = |column: usize, row: usize| {
            rows.column(column).as_string::<i32>().value(row).to_owned()
        };
        let bytes = |column: usize, row: usize| {
            let column = rows.column(column).as_binary::<i32>();
            column.is_valid(row).then(|| column.value(row).to_vec())
        };
        let timestamps = rows.column(4).as_primitive::<Int64Type>();
        for row in 0..rows.num_rows() {
            letters.push(DeadLetter {
                table: text(0, row),
                topic: text(1, row),
                partition: rows.column(2).as_primitive::<Int32Type>().value(row),
                offset: rows.column(3).as_primitive::<Int64Type>().value(row),
                timestamp: timestamps.is_valid(row).then(|| timestamps.value(row)),
                key: bytes(5, row),
                value: bytes(6, row),
                reason: text(7, row),
            });
        }
    }
    Ok(letters)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loss_1_dead_letters_are_read_back_byte_by_byte() {
        let letter = |offset: i64, key: Option<&[u8]>, value: Option<&[u8]>| DeadLetter {
            table: "t".into(),
            topic: "topic".into(),
            partition: 3,
            offset,
            timestamp: (offset > 1).then_some(-7),
            key: key.map(<[u8]>::to_vec),
            value: value.map(<[u8]>::to_vec),
            reason: "a\nb".into(),
        };
        let letters = vec![
            letter(1, None, Some(b"")),
            letter(2, Some(b""), None),
            letter(i64::MAX, Some(&[0, 255]), Some(&[10, 123])),
        ];
        for letters in [letters, Vec::new()] {
            let bytes = encode_letters(&letters).unwrap();
            assert_eq!(decode_letters(&bytes).unwrap(), letters);
            assert!(decode_letters(&bytes[..bytes.len() / 2]).is_err());
        }
    }

    #[test]
    fn loss_1_many_letters_are_several_batches_of_one_file() {
        let letter = |offset: i64| DeadLetter {
            table: "t".into(),
            topic: "t".into(),
            partition: 0,
            offset,
            timestamp: None,
            key: None,
            value: (offset % 3 > 0).then(|| vec![7; 10 * usize::try_from(offset % 3).unwrap()]),
            reason: "no".into(),
        };
        let letters: Vec<DeadLetter> = (0..10).map(letter).collect();
        // In turn a letter has 4, 14 and 24 bytes: together 42.
        for (batch_bytes, batches) in [(usize::MAX, 1), (42, 4), (41, 5), (20, 7), (0, 10)] {
            let bytes = encode(&letters, batch_bytes).unwrap();
            let reader = FileReader::try_new(Cursor::new(&bytes), None).unwrap();
            assert_eq!(reader.num_batches(), batches, "{batch_bytes}");
            assert_eq!(decode_letters(&bytes).unwrap(), letters, "{batch_bytes}");
        }
    }

    #[test]
    fn other_files_are_not_read_as_dead_letters() {
        let fields = vec![Field::new("n", DataType::Int64, false)];
        let schema = Arc::new(Schema::new(fields));
        let rows: ArrayRef = Arc::new(Int64Array::from(vec![1]));
        let rows = RecordBatch::try_new(Arc::clone(&schema), vec![rows]).unwrap();
        let mut writer = FileWriter::try_new(Vec::new(), &schema).unwrap();
        writer.write(&rows).unwrap();
        let error = decode_letters(&writer.into_inner().unwrap()).unwrap_err();
        assert!(error.contains("dead letters"), "{error}");
    }
}
