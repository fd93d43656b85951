//! Records to batches: metadata columns, decoded value columns, and what becomes of bad records.

use std::sync::Arc;

use datafusion::arrow::array::{ArrayRef, RecordBatch, RecordBatchOptions};
use datafusion::arrow::datatypes::{DataType, SchemaRef};
use rdkafka::message::{BorrowedMessage, Message};

use crate::error::{Error, Result};
use crate::exec::format::{BadRow, RecordDecoder};
use crate::tables::kafka::definition::{KafkaTable, MetadataKey, OnError};
use crate::tables::kafka::metadata;
use crate::tables::kafka::provider::{BadRecord, BadRecords};

/// A column of the output and where it comes from.
enum Slot {
    Decoded(usize),
    Metadata(MetadataKey, DataType),
}

/// Turns records into batches of the projected schema.
pub(crate) struct RecordReader {
    schema: SchemaRef,
    slots: Vec<Slot>,
    decoder: Option<Box<dyn RecordDecoder>>,
    on_error: OnError,
    bad_records: Arc<BadRecords>,
}

impl RecordReader {
    /// `projection` are column indices of the table; `schema` is the table's, projected.
    pub(crate) fn try_new(
        table: &KafkaTable,
        schema: SchemaRef,
        projection: &[usize],
        on_error: OnError,
        bad_records: Arc<BadRecords>,
    ) -> Result<Self> {
        let mut decoded = Vec::new();
        let mut slots = Vec::with_capacity(projection.len());
        for index in projection {
            let column = &table.columns[*index];
            match column.metadata {
                Some(key) => slots.push(Slot::Metadata(key, column.field.data_type().clone())),
                None => {
                    let value = table.value_columns.iter().position(|known| known == index);
                    slots.push(Slot::Decoded(decoded.len()));
                    decoded
                        .push(value.ok_or_else(|| Error::internal("a column without a source"))?);
                }
            }
        }
        // Nothing asked from the value: it is not even parsed.
        let decoder = match decoded.is_empty() {
            true => None,
            false => Some(table.format.decoder(&decoded, on_error == OnError::Null)?),
        };
        Ok(Self {
            schema,
            slots,
            decoder,
            on_error,
            bad_records,
        })
    }

    /// A batch of these records; dead letters are left out of it.
    pub(crate) fn read(&mut self, messages: &[BorrowedMessage<'_>]) -> Result<RecordBatch> {
        let (decoded, bad) = match &mut self.decoder {
            None => (None, Vec::new()),
            Some(decoder) => {
                let payloads: Vec<Option<&[u8]>> =
                    messages.iter().map(|message| message.payload()).collect();
                let decoded = decoder.decode(&payloads)?;
                (Some(decoded.columns), decoded.bad)
            }
        };
        if let (OnError::Fail, Some(first)) = (self.on_error, bad.first()) {
            return Err(cannot_decode(&messages[first.row], &first.reason));
        }
        let columns = self
            .slots
            .iter()
            .map(|slot| match (slot, &decoded) {
                (Slot::Metadata(key, data_type), _) => {
                    metadata::to_array(messages, *key, data_type)
                }
                (Slot::Decoded(index), Some(batch)) => Ok(Arc::clone(batch.column(*index))),
                (Slot::Decoded(_), None) => Err(Error::internal("no decoder for a value column")),
            })
            .collect::<Result<Vec<ArrayRef>>>()?;
        let options = RecordBatchOptions::new().with_row_count(Some(messages.len()));
        let batch = RecordBatch::try_new_with_options(Arc::clone(&self.schema), columns, &options)
            .map_err(|error| Error::internal(error.to_string()))?;
        if self.on_error == OnError::DeadLetter && !bad.is_empty() {
            return self.set_aside(&batch, messages, &bad);
        }
        Ok(batch)
    }

    /// Keeps bad records as dead letters and the other rows as the batch.
    fn set_aside(
        &self,
        batch: &RecordBatch,
        messages: &[BorrowedMessage<'_>],
        bad: &[BadRow],
    ) -> Result<RecordBatch> {
        let mut keep = vec![true; messages.len()];
        for row in bad {
            keep[row.row] = false;
        }
        self.bad_records.add(
            bad.iter()
                .map(|row| bad_record(&messages[row.row], &row.reason))
                .collect(),
            messages.len(),
        )?;
        datafusion::arrow::compute::filter_record_batch(batch, &keep.into())
            .map_err(|error| Error::internal(error.to_string()))
    }
}

fn cannot_decode(message: &BorrowedMessage<'_>, reason: &str) -> Error {
    Error::data(format!(
        "record {}/{}@{} cannot be decoded: {reason}",
        message.topic(),
        message.partition(),
        message.offset()
    ))
    .with_help(
        "option 'on_error' 'null' reads what fits, 'dead_letter' sets such records aside in a table",
    )
}

fn bad_record(message: &BorrowedMessage<'_>, reason: &str) -> BadRecord {
    BadRecord {
        topic: message.topic().to_owned(),
        partition: message.partition(),
        offset: message.offset(),
        timestamp: message.timestamp().to_millis(),
        key: message.key().map(<[u8]>::to_vec),
        value: message.payload().map(<[u8]>::to_vec),
        reason: reason.to_owned(),
    }
}
