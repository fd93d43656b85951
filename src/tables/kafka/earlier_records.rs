//! Records of a batch that come from elsewhere than the topic: the archive has them, and the topic perhaps no longer does (ARCH-1).
//!
//! A range of a batch may begin with such records and continue in the topic. Both parts are read by one scan, one after the other, so
//! that watermarks, marks and reports are those of one log.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use datafusion::arrow::array::{Int32Array, Int64Array, RecordBatch};
use datafusion::arrow::datatypes::SchemaRef;
use datafusion::catalog::Session;
use datafusion::error::{DataFusionError, Result as DataFusionResult};
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use futures::StreamExt as _;
use futures::future::BoxFuture;

use crate::error::{Error, Result};
use crate::tables::kafka::archived_records::ArchivedReader;
use crate::tables::kafka::range::OffsetRange;
use crate::tables::kafka::range_reading::{BatchOutput, RangeEnd};
use crate::tables::side_output::OpenOutlet;
use crate::tables::time::BatchTime;

/// Gives the records of ranges of offsets.
pub(crate) trait EarlierRecords: fmt::Debug + Send + Sync {
    /// Plans a scan of these ranges, at most one of a partition, for these columns of the table; `schema` is the table's, projected.
    fn scan<'a>(
        &'a self,
        session: &'a dyn Session,
        ranges: &'a [OffsetRange],
        projection: &'a [usize],
        schema: &'a SchemaRef,
    ) -> BoxFuture<'a, DataFusionResult<Arc<dyn EarlierScan>>>;
}

/// A scan of ranges in some streams.
pub(crate) trait EarlierScan: fmt::Debug + Send + Sync {
    /// The ranges of each stream, in the order in which it gives them.
    fn streams(&self) -> &[Vec<OffsetRange>];

    /// Gives the rows of a stream, range by range, each in the order of offsets.
    ///
    /// # Errors
    ///
    /// Errors of the engine.
    fn execute(
        &self,
        stream: usize,
        context: Arc<TaskContext>,
    ) -> DataFusionResult<SendableRecordBatchStream>;

    /// The partitions of rows.
    ///
    /// # Errors
    ///
    /// Rows that are no records.
    fn partitions(&self, rows: &RecordBatch) -> Result<Int32Array>;

    /// A reader of the rows of one partition.
    ///
    /// # Errors
    ///
    /// A table that cannot be read.
    fn reader(
        &self,
        partition: i32,
        outlet: OpenOutlet,
        time: Option<&BatchTime>,
    ) -> Result<ArchivedReader>;

    /// Turns rows of one partition into rows of the table.
    ///
    /// # Errors
    ///
    /// Rows that are no records; errors of the reader.
    fn read(&self, rows: &RecordBatch, reader: &mut ArchivedReader) -> Result<EarlierRows>;

    /// The error of a stream that failed.
    fn failed(&self, error: DataFusionError) -> Error;

    /// The error of an offset that is there twice.
    fn duplicate(&self, partition: i32, offset: i64) -> Error;
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
    /// The part of a range that comes before that of the topic; it may be empty.
    pub(crate) fn earlier(&self, range: OffsetRange) -> OffsetRange {
        let border = self.borders.get(&range.partition).copied();
        let border = border.unwrap_or(range.start);
        let end = border.min(range.end).max(range.start);
        OffsetRange { end, ..range }
    }
}

/// The ranges of a scan with such records, divided into its streams.
#[derive(Debug)]
pub(crate) struct EarlierPlan {
    scan: Arc<dyn EarlierScan>,
    /// The ranges of `scan`, by partition.
    parts: BTreeMap<i32, OffsetRange>,
    of_stream: Vec<Vec<OffsetRange>>,
}

impl EarlierPlan {
    /// Of the ranges of a batch, some of which begin with records of `scan`: they are read in the streams of that scan.
    pub(crate) fn new(scan: Arc<dyn EarlierScan>, ranges: &[OffsetRange]) -> Self {
        let by_partition = |range: &OffsetRange| (range.partition, *range);
        let whole: BTreeMap<i32, OffsetRange> = ranges.iter().map(by_partition).collect();
        let streams = scan.streams();
        let parts: BTreeMap<i32, OffsetRange> =
            streams.iter().flatten().map(by_partition).collect();
        let of_stream = streams.iter().map(|parts| {
            let whole = parts.iter().filter_map(|part| whole.get(&part.partition));
            whole.copied().collect()
        });
        let mut of_stream: Vec<Vec<OffsetRange>> = of_stream.collect();
        let others = ranges
            .iter()
            .filter(|range| !parts.contains_key(&range.partition));
        let count = of_stream.len().max(1);
        for (place, range) in others.enumerate() {
            if let Some(ranges) = of_stream.get_mut(place % count) {
                ranges.push(*range);
            }
        }
        Self {
            scan,
            parts,
            of_stream,
        }
    }

    /// How many streams there are.
    pub(crate) fn streams(&self) -> usize {
        self.of_stream.len()
    }

    /// The ranges of a stream, in the order in which they are to be read.
    pub(crate) fn ranges(&self, stream: usize) -> &[OffsetRange] {
        self.of_stream.get(stream).map_or(&[], Vec::as_slice)
    }

    /// The part of a range that comes before that of the topic, if there is one.
    pub(crate) fn part(&self, partition: i32) -> Option<OffsetRange> {
        self.parts.get(&partition).copied()
    }

    /// Begins to read a stream.
    pub(crate) fn begin(&self, stream: usize, context: Arc<TaskContext>) -> Result<EarlierStream> {
        let rows = self.scan.execute(stream, context);
        Ok(EarlierStream {
            rows: rows.map_err(|error| self.scan.failed(error))?,
            scan: Arc::clone(&self.scan),
            rest: None,
        })
    }

    /// All parts.
    pub(crate) fn parts(&self) -> impl Iterator<Item = &OffsetRange> {
        self.scan.streams().iter().flatten()
    }
}

/// A stream of earlier records that is being read.
pub(crate) struct EarlierStream {
    scan: Arc<dyn EarlierScan>,
    rows: SendableRecordBatchStream,
    /// Rows that were taken and are not read yet, and their partitions.
    rest: Option<(RecordBatch, Int32Array)>,
}

impl EarlierStream {
    /// Reads all records of the next range of the stream. Gives the reader, from which another one goes on.
    ///
    /// # Errors
    ///
    /// Records that cannot be read or decoded; a record that is there twice.
    pub(crate) async fn read(
        &mut self,
        part: OffsetRange,
        outlet: OpenOutlet,
        time: Option<&BatchTime>,
        output: &mut BatchOutput,
    ) -> Result<(RangeEnd, ArchivedReader)> {
        let mut reader = self.scan.reader(part.partition, outlet, time)?;
        let mut next = part.start;
        while let Some(rows) = self.take(part.partition).await? {
            let timer = output.decode_time.timer();
            let read = self.scan.read(&rows, &mut reader)?;
            timer.done();
            for offset in read.offsets.values() {
                if *offset < next {
                    return Err(self.scan.duplicate(part.partition, *offset));
                }
                next = offset + 1;
            }
            let records = read.offsets.len();
            if !output.give(read.rows, records, read.bytes).await {
                return Ok((RangeEnd::Stopped, reader));
            }
        }
        Ok((RangeEnd::All, reader))
    }

    /// The next rows, if they are of this partition.
    async fn take(&mut self, partition: i32) -> Result<Option<RecordBatch>> {
        let (rows, partitions) = match self.rest.take() {
            Some(rest) => rest,
            None => loop {
                let Some(rows) = self.rows.next().await else {
                    return Ok(None);
                };
                let rows = rows.map_err(|error| self.scan.failed(error))?;
                if rows.num_rows() > 0 {
                    let partitions = self.scan.partitions(&rows)?;
                    break (rows, partitions);
                }
            },
        };
        let mut of_others = partitions.values().iter();
        let count = of_others.position(|of| *of != partition);
        let count = count.unwrap_or(rows.num_rows());
        if count < rows.num_rows() {
            let left = rows.num_rows() - count;
            self.rest = Some((rows.slice(count, left), partitions.slice(count, left)));
        }
        Ok((count > 0).then(|| rows.slice(0, count)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Scans whose streams are known, and that are not run.
    #[derive(Debug)]
    struct KnownStreams(Vec<Vec<OffsetRange>>);

    impl EarlierScan for KnownStreams {
        fn streams(&self) -> &[Vec<OffsetRange>] {
            &self.0
        }

        fn execute(
            &self,
            _: usize,
            _: Arc<TaskContext>,
        ) -> DataFusionResult<SendableRecordBatchStream> {
            Err(self.duplicate(0, 0).into())
        }

        fn partitions(&self, _: &RecordBatch) -> Result<Int32Array> {
            Err(self.duplicate(0, 0))
        }

        fn reader(&self, _: i32, _: OpenOutlet, _: Option<&BatchTime>) -> Result<ArchivedReader> {
            Err(self.duplicate(0, 0))
        }

        fn read(&self, _: &RecordBatch, _: &mut ArchivedReader) -> Result<EarlierRows> {
            Err(self.duplicate(0, 0))
        }

        fn failed(&self, error: DataFusionError) -> Error {
            error.into()
        }

        fn duplicate(&self, _: i32, _: i64) -> Error {
            Error::internal("it is not run")
        }
    }

    fn range(partition: i32, start: i64, end: i64) -> OffsetRange {
        OffsetRange {
            partition,
            start,
            end,
        }
    }

    #[test]
    fn each_range_is_read_in_one_stream_and_where_its_earlier_part_is() {
        let ranges: Vec<OffsetRange> = (0..7).map(|partition| range(partition, 3, 9)).collect();
        let parts = vec![vec![range(1, 3, 9), range(4, 3, 5)], vec![range(2, 3, 4)]];
        let plan = EarlierPlan::new(Arc::new(KnownStreams(parts)), &ranges);
        assert_eq!(plan.streams(), 2);
        assert_eq!(plan.ranges(0)[..2], [range(1, 3, 9), range(4, 3, 9)]);
        assert_eq!(plan.ranges(1)[..1], [range(2, 3, 9)]);
        let mut all = [plan.ranges(0), plan.ranges(1)].concat();
        assert!(plan.ranges(0).len() <= 4 && plan.ranges(1).len() <= 4);
        all.sort_by_key(|range| range.partition);
        assert_eq!(all, ranges);
        assert_eq!(plan.part(4), Some(range(4, 3, 5)));
        assert_eq!(plan.part(0), None);
    }
}
