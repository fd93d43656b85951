//! The traits of the codecs, and functions that build batches and payloads.

use std::sync::Arc;

use arrow::array::{ArrayRef, RecordBatch, RecordBatchOptions};
use arrow::buffer::{BooleanBuffer, NullBuffer};
use arrow::datatypes::{Schema, SchemaRef};

use super::column_spelling::plain_field;
use crate::error::{Error, ErrorKind, Result};

/// Reads payloads into columns.
///
/// One decoder serves one scan of one partition or task; it keeps its buffers between calls.
pub trait RecordDecoder: Send {
    /// The schema of every batch that [`decode`](Self::decode) returns: the projected value columns in the requested order, all
    /// of them nullable, even if declared NOT NULL.
    fn schema(&self) -> &SchemaRef;

    /// Decodes `payloads` into exactly as many rows.
    ///
    /// `None` is a tombstone: null in every column and not bad. A payload that cannot be read, or
    /// that breaks a `NOT NULL`, is null in every column and has an entry in [`Decoded::bad`].
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Exhausted`] if the payloads together hold more text than one Arrow array can, [`ErrorKind::Unavailable`] if
    /// a schema registry does not answer. The content of a payload never causes an error.
    fn decode(&mut self, payloads: &[Option<&[u8]>]) -> Result<Decoded>;
}

/// The result of a [`RecordDecoder`] for a batch of payloads.
#[derive(Debug, Clone)]
pub struct Decoded {
    /// One row per payload, the projected value columns in the requested order.
    pub columns: RecordBatch,
    /// The rows that could not be read, by ascending row.
    pub bad: Vec<BadRow>,
}

/// A row that could not be read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BadRow {
    /// The index of the payload in the batch.
    pub row: usize,
    /// The reason for a user; names the column and shows the start of the value.
    pub reason: String,
    /// The column that the reason is about, as a path from the top; `None`: the row as a whole.
    pub column: Option<String>,
}

/// Writes rows as payloads.
pub trait RecordEncoder: Send {
    /// Encodes each row of `batch`, whose columns are the declared value columns in their order.
    ///
    /// Rows set in `tombstones` are not encoded and become `None`: so a sink with a primary key deletes a row. The `raw` format
    /// also returns `None` for NULL.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Data`] for a value the format cannot hold (NaN in JSON), naming the column and
    /// the row; [`ErrorKind::Internal`] if the columns of the batch are not the declared ones;
    /// [`ErrorKind::Unavailable`] if a schema registry does not answer.
    fn encode(
        &mut self,
        batch: &RecordBatch,
        tombstones: Option<&BooleanBuffer>,
    ) -> Result<EncodedRows>;
}

/// Payloads of a batch: one buffer, with the place of each row in it.
#[derive(Debug, Clone)]
pub struct EncodedRows {
    bytes: Vec<u8>,
    /// Has one entry more than rows; row `i` is `bytes[offsets[i]..offsets[i + 1]]`.
    offsets: Vec<usize>,
    nulls: Option<NullBuffer>,
}

impl EncodedRows {
    /// The number of rows.
    pub fn len(&self) -> usize {
        self.offsets.len() - 1
    }

    /// Whether there are no rows.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The payload of `row`; `None` for a tombstone and for a row that does not exist.
    pub fn get(&self, row: usize) -> Option<&[u8]> {
        if self
            .nulls
            .as_ref()
            .is_some_and(|nulls| row < nulls.len() && nulls.is_null(row))
        {
            return None;
        }
        let end = *self.offsets.get(row + 1)?;
        self.bytes.get(*self.offsets.get(row)?..end)
    }

    /// The payloads in row order.
    pub fn iter(&self) -> impl Iterator<Item = Option<&[u8]>> {
        (0..self.len()).map(|row| self.get(row))
    }

    /// The bytes of all payloads together.
    pub fn total_bytes(&self) -> usize {
        self.bytes.len()
    }
}

/// Collects [`EncodedRows`] row by row.
pub(super) struct RowsBuilder {
    bytes: Vec<u8>,
    offsets: Vec<usize>,
}

impl RowsBuilder {
    pub(super) fn with_capacity(rows: usize, bytes: usize) -> Self {
        let mut offsets = Vec::with_capacity(rows + 1);
        offsets.push(0);
        Self {
            bytes: Vec::with_capacity(bytes),
            offsets,
        }
    }

    pub(super) fn bytes(&mut self) -> &mut Vec<u8> {
        &mut self.bytes
    }

    pub(super) fn end_row(&mut self) {
        self.offsets.push(self.bytes.len());
    }

    /// Ends a row whose bytes have been written already.
    pub(super) fn end_row_at(&mut self, end: usize) {
        self.offsets.push(end);
    }

    pub(super) fn finish(self, nulls: Option<NullBuffer>) -> EncodedRows {
        EncodedRows {
            bytes: self.bytes,
            offsets: self.offsets,
            nulls,
        }
    }
}

/// The validity of encoded rows: false for a tombstone.
pub(super) fn not_tombstones(tombstones: Option<&BooleanBuffer>) -> Option<NullBuffer> {
    tombstones.map(|withdrawn| NullBuffer::new(!withdrawn))
}

pub(super) fn is_tombstone(tombstones: Option<&BooleanBuffer>, row: usize) -> bool {
    tombstones.is_some_and(|withdrawn| withdrawn.value(row))
}

/// Returns an error for a batch or a tombstone mask that does not fit the declared columns.
pub(super) fn check_batch(
    batch: &RecordBatch,
    declared: &Schema,
    tombstones: Option<&BooleanBuffer>,
) -> Result<()> {
    if batch.num_columns() != declared.fields().len() {
        return Err(Error::internal(format!(
            "a batch of {} columns was given to an encoder of {}",
            batch.num_columns(),
            declared.fields().len()
        )));
    }
    match tombstones {
        Some(mask) if mask.len() != batch.num_rows() => Err(Error::internal(format!(
            "{} tombstone flags were given for {} rows",
            mask.len(),
            batch.num_rows()
        ))),
        _ => Ok(()),
    }
}

/// The projected columns, all nullable: a tombstone and a bad row are null everywhere.
pub(super) fn projected_schema(declared: &Schema, projection: &[usize]) -> Result<SchemaRef> {
    let mut fields = Vec::with_capacity(projection.len());
    for &index in projection {
        let field = declared.fields().get(index).ok_or_else(|| {
            Error::internal(format!(
                "value column {index} was asked for, the table has {}",
                declared.fields().len()
            ))
        })?;
        fields.push(plain_field(field).with_nullable(true));
    }
    Ok(Arc::new(Schema::new(fields)))
}

/// A batch of `rows` rows; it may have no columns.
pub(super) fn batch_of(
    schema: &SchemaRef,
    columns: Vec<ArrayRef>,
    rows: usize,
) -> Result<RecordBatch> {
    let options = RecordBatchOptions::new().with_row_count(Some(rows));
    RecordBatch::try_new_with_options(Arc::clone(schema), columns, &options)
        .map_err(|error| Error::internal(format!("decoded columns do not fit: {error}")))
}

/// Arrow's offsets are 32 bits: more text than that in one batch is refused before it is read.
pub(super) fn check_total_bytes(payloads: &[Option<&[u8]>]) -> Result<()> {
    let total: usize = payloads.iter().flatten().map(|payload| payload.len()).sum();
    if total >= i32::MAX as usize {
        return Err(Error::new(
            ErrorKind::Exhausted,
            format!("a batch of {total} bytes is too large to decode at once"),
        )
        .with_help("lower 'batch.max_bytes'"));
    }
    Ok(())
}
