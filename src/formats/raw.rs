//! The `raw` format: one VARCHAR or BINARY column holds the whole message. It is as fast as Arrow's own builder with one check of all
//! bytes (`BENCH_ONLY=formats`).

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, BinaryBuilder, RecordBatch, StringBuilder};
use arrow::buffer::{BooleanBuffer, NullBuffer};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Schema, SchemaRef};
use arrow::error::ArrowError;

use super::codec::{
    BadRow, Decoded, EncodedRows, RecordDecoder, RecordEncoder, RowsBuilder, batch_of, check_batch,
    check_total_bytes, not_tombstones, projected_schema,
};
use super::type_name::sql_name;
use crate::error::{Error, Result, Subject};

/// Returns an error unless there is exactly one column, of type VARCHAR or BINARY.
///
/// # Errors
///
/// Says how many columns there are, or names the column and its type.
pub(crate) fn check_declared(declared: &Schema) -> Result<()> {
    let [field] = declared.fields().as_ref() else {
        return Err(Error::invalid(format!(
            "format 'raw' takes exactly one value column, {} are declared",
            declared.fields().len()
        ))
        .about(Subject::text("raw"))
        .with_help("declare one VARCHAR or BINARY column, or mark the others METADATA"));
    };
    if is_text(field.data_type()) || is_binary(field.data_type()) {
        return Ok(());
    }
    Err(Error::invalid(format!(
        "format 'raw' takes a VARCHAR or BINARY column, {} is a {}",
        field.name(),
        sql_name(field.data_type())
    ))
    .about(Subject::column(field.name()))
    .about(Subject::text("raw")))
}

/// Returns the message unchanged; one that is not UTF-8 is bad in a VARCHAR.
pub(crate) struct RawDecoder {
    schema: SchemaRef,
}

impl RawDecoder {
    pub(crate) fn try_new(declared: &Schema, projection: &[usize]) -> Result<Self> {
        check_declared(declared)?;
        Ok(Self {
            schema: projected_schema(declared, projection)?,
        })
    }
}

impl RecordDecoder for RawDecoder {
    fn schema(&self) -> &SchemaRef {
        &self.schema
    }

    fn decode(&mut self, payloads: &[Option<&[u8]>]) -> Result<Decoded> {
        check_total_bytes(payloads)?;
        let mut bad = Vec::new();
        let bytes: usize = payloads.iter().flatten().map(|payload| payload.len()).sum();
        let columns = self
            .schema
            .fields()
            .iter()
            .map(|field| {
                let plain: ArrayRef = if is_text(field.data_type()) {
                    let mut builder = StringBuilder::with_capacity(payloads.len(), bytes);
                    bad.clear();
                    for (row, payload) in payloads.iter().enumerate() {
                        match payload.map(std::str::from_utf8) {
                            Some(Ok(text)) => builder.append_value(text),
                            Some(Err(error)) => {
                                builder.append_null();
                                let at = error.valid_up_to();
                                bad.push(BadRow {
                                    row,
                                    reason: format!("not valid UTF-8 at byte {at}"),
                                    column: None,
                                });
                            }
                            None => builder.append_null(),
                        }
                    }
                    Arc::new(builder.finish())
                } else {
                    let mut builder = BinaryBuilder::with_capacity(payloads.len(), bytes);
                    payloads
                        .iter()
                        .for_each(|payload| builder.append_option(*payload));
                    Arc::new(builder.finish())
                };
                cast(&plain, field.data_type())
                    .map_err(|error| Error::internal(format!("decoded values do not fit: {error}")))
            })
            .collect::<Result<Vec<_>>>()?;
        Ok(Decoded {
            columns: batch_of(&self.schema, columns, payloads.len())?,
            bad,
        })
    }
}

/// Writes the column's bytes; NULL is a tombstone.
pub(crate) struct RawEncoder {
    declared: SchemaRef,
}

impl RawEncoder {
    pub(crate) fn try_new(declared: &SchemaRef) -> Result<Self> {
        check_declared(declared)?;
        Ok(Self {
            declared: Arc::clone(declared),
        })
    }
}

impl RecordEncoder for RawEncoder {
    fn encode(
        &mut self,
        batch: &RecordBatch,
        tombstones: Option<&BooleanBuffer>,
    ) -> Result<EncodedRows> {
        check_batch(batch, &self.declared, tombstones)?;
        let column = batch.column(0);
        let binary = to_binary(column)
            .map_err(|error| Error::internal(format!("a value column does not fit: {error}")))?;
        let binary = binary.as_binary::<i64>();
        let nulls = NullBuffer::union(binary.nulls(), not_tombstones(tombstones).as_ref());
        let mut rows = RowsBuilder::with_capacity(binary.len(), binary.value_data().len());
        for row in 0..binary.len() {
            if nulls.as_ref().is_none_or(|nulls| nulls.is_valid(row)) {
                rows.bytes().extend_from_slice(binary.value(row));
            }
            rows.end_row();
        }
        Ok(rows.finish(nulls))
    }
}

/// A text view is first cast to plain text: Arrow has no direct cast from a view to bytes.
fn to_binary(column: &ArrayRef) -> std::result::Result<ArrayRef, ArrowError> {
    if is_text(column.data_type()) {
        cast(&cast(column, &DataType::LargeUtf8)?, &DataType::LargeBinary)
    } else {
        cast(column, &DataType::LargeBinary)
    }
}

fn is_text(data_type: &DataType) -> bool {
    matches!(
        data_type,
        DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View
    )
}

fn is_binary(data_type: &DataType) -> bool {
    matches!(
        data_type,
        DataType::Binary | DataType::LargeBinary | DataType::BinaryView
    )
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use arrow::datatypes::Field;

    use super::*;

    fn schema(data_type: DataType) -> SchemaRef {
        Arc::new(Schema::new(vec![Field::new("v", data_type, true)]))
    }

    #[test]
    fn every_text_and_binary_type_gives_back_its_bytes() {
        let payloads: [Option<&[u8]>; 4] = [
            Some(b"a longer text of many bytes"),
            None,
            Some(b""),
            Some("é".as_bytes()),
        ];
        for data_type in [
            DataType::Utf8,
            DataType::Utf8View,
            DataType::LargeUtf8,
            DataType::Binary,
            DataType::BinaryView,
            DataType::LargeBinary,
        ] {
            let declared = schema(data_type);
            let mut decoder = RawDecoder::try_new(&declared, &[0]).unwrap();
            let decoded = decoder.decode(&payloads).unwrap();
            assert_eq!(decoded.bad, []);
            let mut encoder = RawEncoder::try_new(&declared).unwrap();
            let rows = encoder.encode(&decoded.columns, None).unwrap();
            assert_eq!(rows.iter().collect::<Vec<_>>(), payloads);
            let withdrawn = BooleanBuffer::from(vec![true, false, false, false]);
            let rows = encoder.encode(&decoded.columns, Some(&withdrawn)).unwrap();
            assert_eq!(
                (rows.get(0), rows.get(1), rows.get(2)),
                (None, None, Some(&b""[..]))
            );
            assert_eq!(rows.get(4), None);
            let none = RawDecoder::try_new(&declared, &[])
                .unwrap()
                .decode(&payloads)
                .unwrap();
            assert_eq!(
                (none.columns.num_rows(), none.columns.num_columns()),
                (4, 0)
            );
        }
    }

    #[test]
    fn bytes_that_are_no_text_are_bad_only_in_text() {
        let payloads: [Option<&[u8]>; 2] = [Some(b"ab\xff"), Some(b"ok")];
        let decoded = RawDecoder::try_new(&schema(DataType::Utf8View), &[0])
            .unwrap()
            .decode(&payloads)
            .unwrap();
        let reason = "not valid UTF-8 at byte 2".to_owned();
        let column = None;
        assert_eq!(
            decoded.bad,
            [BadRow {
                row: 0,
                reason,
                column
            }]
        );
        assert_eq!(decoded.columns.column(0).null_count(), 1);
        let decoded = RawDecoder::try_new(&schema(DataType::Binary), &[0])
            .unwrap()
            .decode(&payloads)
            .unwrap();
        assert_eq!(decoded.bad, []);
    }
}
