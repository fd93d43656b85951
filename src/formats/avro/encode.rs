//! Encoder from rows to Avro in Confluent's wire format: a zero byte, the schema's number, the record.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, BooleanArray, RecordBatch};
use arrow::buffer::BooleanBuffer;
use arrow::compute::{cast, filter_record_batch};
use arrow::datatypes::{Schema, SchemaRef};
use arrow_avro::schema::{FingerprintStrategy, SCHEMA_METADATA_KEY};
use arrow_avro::writer::format::AvroSoeFormat;
use arrow_avro::writer::{Encoder, WriterBuilder};

use crate::error::{Error, Result, Subject};
use crate::formats::avro::schema::WriteSchema;
use crate::formats::codec::{
    EncodedRows, RecordEncoder, RowsBuilder, check_batch, is_tombstone, not_tombstones,
};
use crate::formats::column_spelling::renamed;
use crate::formats::registry::SchemaRegistry;

/// Writes each row as one Avro record. The schema is registered with the first row.
pub(crate) struct AvroEncoder {
    /// The declared columns, with the names used in records.
    declared: SchemaRef,
    subject: String,
    schema: WriteSchema,
    registry: Arc<dyn SchemaRegistry>,
    encoder: Option<Encoder>,
}

impl AvroEncoder {
    /// # Errors
    ///
    /// Names the column that Avro cannot hold.
    pub(crate) fn try_new(
        declared: &SchemaRef,
        subject: &str,
        registry: &Arc<dyn SchemaRegistry>,
    ) -> Result<Self> {
        Ok(Self {
            declared: Arc::clone(declared),
            subject: subject.to_owned(),
            schema: WriteSchema::try_new(declared, subject)?,
            registry: Arc::clone(registry),
            encoder: None,
        })
    }

    /// The encoder, which knows the schema's number.
    fn encoder(&mut self) -> Result<&mut Encoder> {
        if self.encoder.is_none() {
            let id = self.registry.register(&self.subject, &self.schema.json)?;
            let metadata = [(SCHEMA_METADATA_KEY.to_owned(), self.schema.json.clone())].into();
            let schema = self.schema.arrow.clone().with_metadata(metadata);
            let encoder = WriterBuilder::new(schema)
                .with_fingerprint_strategy(FingerprintStrategy::Id(id))
                .build_encoder::<AvroSoeFormat>()
                .map_err(|error| {
                    Error::internal(format!("the Avro schema is not writable: {error}"))
                })?;
            self.encoder = Some(encoder);
        }
        self.encoder
            .as_mut()
            .ok_or_else(|| Error::internal("the Avro encoder was not made"))
    }

    /// The rows in the types of the Avro schema.
    fn conform(&self, batch: &RecordBatch) -> Result<RecordBatch> {
        let fields = self.schema.arrow.fields();
        let mut columns: Vec<ArrayRef> = Vec::with_capacity(fields.len());
        let declared = self.declared.fields().iter();
        for ((field, column), declared) in fields.iter().zip(batch.columns()).zip(declared) {
            let misfit = |error| {
                Error::data(format!("column {}: {error}", field.name()))
                    .about(Subject::column(field.name()))
            };
            if !field.is_nullable() && column.null_count() > 0 {
                let name = field.name();
                return Err(
                    Error::data(format!("column {name} is NULL but is declared NOT NULL"))
                        .about(Subject::column(name)),
                );
            }
            let column = renamed(column, declared.data_type()).map_err(misfit)?;
            columns.push(cast(&column, field.data_type()).map_err(misfit)?);
        }
        let schema = Arc::new(Schema::new(fields.clone()));
        RecordBatch::try_new(schema, columns)
            .map_err(|error| Error::data(format!("the rows do not fit the Avro schema: {error}")))
    }
}

impl RecordEncoder for AvroEncoder {
    fn encode(
        &mut self,
        batch: &RecordBatch,
        tombstones: Option<&BooleanBuffer>,
    ) -> Result<EncodedRows> {
        check_batch(batch, &self.declared, tombstones)?;
        let kept = match tombstones {
            Some(withdrawn) => filter_record_batch(batch, &BooleanArray::from(!withdrawn))
                .map_err(|error| Error::internal(format!("rows cannot be left out: {error}")))?,
            None => batch.clone(),
        };
        let mut rows = RowsBuilder::with_capacity(batch.num_rows(), 0);
        if kept.num_rows() == 0 {
            (0..batch.num_rows()).for_each(|_| rows.end_row());
            return Ok(rows.finish(not_tombstones(tombstones)));
        }
        let conformed = self.conform(&kept)?;
        let encoder = self.encoder()?;
        if let Err(error) = encoder.encode(&conformed) {
            // Half a batch may be left in the buffer.
            self.encoder = None;
            return Err(Error::data(format!(
                "the rows cannot be written as Avro: {error}"
            )));
        }
        let written = encoder.flush();
        rows.bytes().extend_from_slice(written.bytes());
        let mut ends = written.offsets().iter().skip(1);
        let mut end = 0;
        for row in 0..batch.num_rows() {
            if !is_tombstone(tombstones, row) {
                end = *ends
                    .next()
                    .ok_or_else(|| Error::internal("an Avro row was not written"))?;
            }
            rows.end_row_at(end);
        }
        Ok(rows.finish(not_tombstones(tombstones)))
    }
}

#[cfg(test)]
#[path = "encode_tests.rs"]
mod tests;
