//! Records of a batch that come from elsewhere than the topic: the archive has them, and the topic perhaps no longer does (ARCH-1).
//!
//! A range of a batch may begin with such records and continue in the topic. Both parts are read by one scan, one after the other, so
//! that watermarks, marks and reports are those of one log.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use datafusion::arrow::array::PrimitiveArray;
use datafusion::arrow::array::RecordBatch;
use datafusion::arrow::datatypes::Int64Type;
use datafusion::catalog::Session;
use datafusion::error::{DataFusionError, Result as DataFusionResult};
use datafusion::execution::TaskContext;
use datafusion::physical_plan::ExecutionPlan;
use futures::StreamExt as _;
use futures::future::BoxFuture;

use crate::error::{Error, Result, Subject};
use crate::tables::kafka::range::OffsetRange;
use crate::tables::kafka::range_reading::{BatchOutput, RangeEnd};
use crate::tables::kafka::record::RecordReader;

/// Gives the records of ranges of offsets.
pub(crate) trait EarlierRecords: fmt::Debug + Send + Sync {
    /// A plan of one partition that gives the records of a range in the order of their offsets, with all that
    /// [`decode`](Self::decode) needs for these columns of the table.
    fn scan<'a>(
        &'a self,
        session: &'a dyn Session,
        range: OffsetRange,
        projection: &'a [usize],
    ) -> BoxFuture<'a, DataFusionResult<Arc<dyn ExecutionPlan>>>;

    /// Turns rows of that plan into rows of the table.
    ///
    /// # Errors
    ///
    /// Rows that are no records; errors of the reader.
    fn decode(&self, rows: &RecordBatch, reader: &mut RecordReader) -> Result<EarlierRows>;

    /// The error of a plan that failed while it ran.
    fn failed(&self, error: DataFusionError) -> Error;

    /// What gives the records, in messages.
    fn name(&self) -> &str;
}

/// Decoded records.
#[derive(Debug)]
pub(crate) struct EarlierRows {
    /// Their offsets, also of records that are no rows.
    pub(crate) offsets: PrimitiveArray<Int64Type>,
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
    /// Cuts a range in two: what is read from elsewhere, and where the topic's part begins.
    pub(crate) fn border(&self, range: OffsetRange) -> i64 {
        let border = self.borders.get(&range.partition).copied();
        border.unwrap_or(range.start).clamp(range.start, range.end)
    }
}

/// The first part of a range, planned.
#[derive(Debug, Clone)]
pub(crate) struct EarlierPart {
    pub(crate) records: Arc<dyn EarlierRecords>,
    /// The offsets.
    pub(crate) range: OffsetRange,
    /// Gives them in order, in one partition.
    pub(crate) plan: Arc<dyn ExecutionPlan>,
}

impl EarlierPart {
    /// Reads all records of the part.
    ///
    /// # Errors
    ///
    /// Records that cannot be read or decoded; a record that is there twice, or outside of the range.
    pub(crate) async fn read(
        &self,
        reader: &mut RecordReader,
        context: Arc<TaskContext>,
        output: &mut BatchOutput,
    ) -> Result<RangeEnd> {
        let failed = |error| self.records.failed(error);
        let mut batches = self.plan.execute(0, context).map_err(failed)?;
        let mut next = self.range.start;
        while let Some(batch) = batches.next().await {
            let batch = batch.map_err(failed)?;
            let timer = output.decode_time.timer();
            let decoded = self.records.decode(&batch, reader)?;
            timer.done();
            next = self.check(decoded.offsets.values(), next)?;
            if !output
                .give(decoded.rows, decoded.offsets.len(), decoded.bytes)
                .await
            {
                return Ok(RangeEnd::Stopped);
            }
        }
        Ok(RangeEnd::All)
    }

    /// Checks the order of offsets, of which the first is at least `next`; gives the offset behind the last one.
    fn check(&self, offsets: &[i64], mut next: i64) -> Result<i64> {
        let OffsetRange { partition, end, .. } = self.range;
        for offset in offsets {
            if *offset < next || *offset >= end {
                let name = self.records.name();
                let what = match *offset < next && *offset >= self.range.start {
                    true => format!("has offset {offset} of partition {partition} twice"),
                    false => format!(
                        "gave offset {offset} of partition {partition}, which was not asked for"
                    ),
                };
                return Err(Error::data(format!("archive {name} {what}"))
                    .about(Subject::table(name))
                    .with_help("an archive has each record of the topic once: delete the rows that are there again, then RESUME JOB"));
            }
            next = offset + 1;
        }
        Ok(next)
    }
}
