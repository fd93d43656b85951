//! The dead letters of a batch as a file of Arrow IPC: `table`, `topic`, `partition`, `offset`, `timestamp` (milliseconds since 1970
//! UTC), `key`, `value` and `reason`.

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
    encode(letters).map_err(|error| Error::internal(error.to_string()))
}

/// The letters of a file, or why there are none.
pub(super) fn decode_letters(bytes: &[u8]) -> Result<Vec<DeadLetter>, String> {
    decode(bytes).map_err(|error| error.to_string())
}

fn encode(letters: &[DeadLetter]) -> Result<Vec<u8>, ArrowError> {
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
    let rows = RecordBatch::try_new(schema(), columns)?;
    let mut writer = FileWriter::try_new(Vec::new(), &schema())?;
    writer.write(&rows)?;
    writer.into_inner()
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
    fn loss_1_letters_read_back_byte_by_byte() {
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
    fn another_file_holds_no_letters() {
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
