//! Records of a batch that come from elsewhere than the topic: the archive has them, and the topic perhaps no longer does (ARCH-1).
//!
//! A range of a batch may begin with such records and continue in the topic. Both parts are read by one scan, one after the other, so
//! that watermarks, marks and reports are those of one log.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use datafusion::arrow::array::{Int64Array, RecordBatch};
use datafusion::arrow::datatypes::SchemaRef;
use datafusion::catalog::Session;
use datafusion::error::{DataFusionError, Result as DataFusionResult};
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use futures::StreamExt as _;
use futures::future::BoxFuture;

use crate::error::{Error, Result};
use crate::tables::kafka::archived::ArchivedReader;
use crate::tables::kafka::range::OffsetRange;
use crate::tables::kafka::range_reading::{BatchOutput, RangeEnd};
use crate::tables::side_output::OpenOutlet;
use crate::tables::time::BatchTime;

/// Gives the records of ranges of offsets.
pub(crate) trait EarlierRecords: fmt::Debug + Send + Sync {
    /// Plans a scan of a range for these columns of the table; `schema` is the table's, projected.
    fn scan<'a>(
        &'a self,
        session: &'a dyn Session,
        range: OffsetRange,
        projection: &'a [usize],
        schema: &'a SchemaRef,
    ) -> BoxFuture<'a, DataFusionResult<Arc<dyn EarlierScan>>>;
}

/// A scan of a range.
pub(crate) trait EarlierScan: fmt::Debug + Send + Sync {
    /// Gives the rows of the range in the order of their offsets.
    ///
    /// # Errors
    ///
    /// Errors of the engine.
    fn execute(&self, context: Arc<TaskContext>) -> DataFusionResult<SendableRecordBatchStream>;

    /// A reader of its rows.
    ///
    /// # Errors
    ///
    /// A table that cannot be read.
    fn reader(&self, outlet: OpenOutlet, time: Option<&BatchTime>) -> Result<ArchivedReader>;

    /// Turns rows that it has given into rows of the table.
    ///
    /// # Errors
    ///
    /// Rows that are no records; errors of the reader.
    fn read(&self, rows: &RecordBatch, reader: &mut ArchivedReader) -> Result<EarlierRows>;

    /// The error of a scan that failed while it ran.
    fn failed(&self, error: DataFusionError) -> Error;

    /// The error of an offset that it has given twice.
    fn duplicate(&self, offset: i64) -> Error;
}

/// Records that were read.
#[derive(Debug)]
pub(crate) struct EarlierRows {
    /// Their offsets, also of records that are no rows.
    pub(crate) offsets: Int64Array,
    /// Bytes of their keys and values.
    pub(crate) bytes: usize,
    /// The rows, in the columns of the reader.
    pub(crate) rows: RecordBatch,
}

/// What a batch reads from elsewhere.
#[derive(Debug, Clone)]
pub(crate) struct EarlierParts {
    /// Gives the records.
    pub(crate) records: Arc<dyn EarlierRecords>,
    /// By partition, the offset from which on the topic is read. Ranges of other partitions are read from the topic alone.
    pub(crate) borders: BTreeMap<i32, i64>,
}

impl EarlierParts {
    /// The offset from which on the topic gives a range; its start, if the topic gives all of it.
    pub(crate) fn border(&self, range: OffsetRange) -> i64 {
        let border = self.borders.get(&range.partition).copied();
        let border = border.unwrap_or(range.start);
        border.min(range.end).max(range.start)
    }
}

/// The first part of a range, planned.
#[derive(Debug, Clone)]
pub(crate) struct EarlierPart {
    /// The offsets.
    pub(crate) range: OffsetRange,
    pub(crate) scan: Arc<dyn EarlierScan>,
}

impl EarlierPart {
    /// Reads all records of the part.
    ///
    /// # Errors
    ///
    /// Records that cannot be read or decoded; a record that is there twice, or outside of the range.
    pub(crate) async fn read(
        &self,
        reader: &mut ArchivedReader,
        context: Arc<TaskContext>,
        output: &mut BatchOutput,
    ) -> Result<RangeEnd> {
        let mut batches = self
            .scan
            .execute(context)
            .map_err(|error| self.scan.failed(error))?;
        let mut next = self.range.start;
        while let Some(batch) = batches.next().await {
            let batch = batch.map_err(|error| self.scan.failed(error))?;
            if batch.num_rows() == 0 {
                continue;
            }
            let timer = output.decode_time.timer();
            let read = self.scan.read(&batch, reader)?;
            timer.done();
            next = self.check(read.offsets.values(), next)?;
            let records = read.offsets.len();
            if !output.give(read.rows, records, read.bytes).await {
                return Ok(RangeEnd::Stopped);
            }
        }
        Ok(RangeEnd::All)
    }

    /// Checks the order of offsets, of which the first is at least `next`; gives the offset behind the last one.
    fn check(&self, offsets: &[i64], mut next: i64) -> Result<i64> {
        for offset in offsets.iter().copied() {
            if !(self.range.start..self.range.end).contains(&offset) {
                return Err(Error::internal("an offset that was not asked for"));
            }
            if offset < next {
                return Err(self.scan.duplicate(offset));
            }
            next = offset + 1;
        }
        Ok(next)
    }
}
