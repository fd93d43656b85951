//! Records out of columns: an archive has the parts of records as columns, and a scan of it reads them as it reads those of the topic.

use std::sync::Arc;

use datafusion::arrow::array::{
    Array as _, BinaryArray, Int32Array, Int64Array, StringArray, TimestampMicrosecondArray,
};
use datafusion::arrow::buffer::{NullBuffer, OffsetBuffer};
use datafusion::arrow::datatypes::SchemaRef;
use datafusion::arrow::record_batch::RecordBatch;
use rdkafka::Timestamp;
use rdkafka::message::Header;

use crate::core::jobs::RecordMark;
use crate::error::Result;
use crate::tables::kafka::definition::{KafkaTable, OnError};
use crate::tables::kafka::fetcher::Record;
use crate::tables::kafka::read_marks::ComparedParts;
use crate::tables::kafka::record::RecordReader;
use crate::tables::kafka::time::PartitionTimer;
use crate::tables::side_output::OpenOutlet;
use crate::tables::time::BatchTime;

pub(crate) use crate::tables::kafka::record::{ArchiveReading, TimeCheck};

/// Parts of records as columns of one length. Columns that an archive lacks are none: its records have nothing there.
#[derive(Debug)]
pub(crate) struct RecordColumns {
    /// The topic of records where there is no column of topics.
    pub(crate) topic: Arc<str>,
    pub(crate) topics: Option<StringArray>,
    /// Without NULL.
    pub(crate) partitions: Int32Array,
    /// Without NULL.
    pub(crate) offsets: Int64Array,
    pub(crate) timestamps: Option<TimestampMicrosecondArray>,
    /// `CreateTime` or `LogAppendTime`.
    pub(crate) timestamp_types: Option<StringArray>,
    pub(crate) keys: Option<BinaryArray>,
    pub(crate) values: Option<BinaryArray>,
    pub(crate) headers: Option<HeaderColumns>,
}

/// The headers of records: those of all rows one after the other.
#[derive(Debug)]
pub(crate) struct HeaderColumns {
    pub(crate) offsets: OffsetBuffer<i32>,
    pub(crate) nulls: Option<NullBuffer>,
    pub(crate) keys: StringArray,
    pub(crate) values: BinaryArray,
}

impl RecordColumns {
    /// How many records there are.
    pub(crate) fn len(&self) -> usize {
        self.offsets.len()
    }

    /// The marks of the records by these parts, each with its partition.
    pub(crate) fn marks(&self, parts: ComparedParts) -> Vec<(i32, RecordMark)> {
        let records = self.records();
        records
            .map(|record| (record.partition(), parts.mark(&record)))
            .collect()
    }

    fn records(&self) -> impl Iterator<Item = ArchivedRecord<'_>> {
        (0..self.len()).map(move |row| ArchivedRecord { columns: self, row })
    }

    /// The bytes of keys and values.
    pub(crate) fn bytes(&self) -> usize {
        let columns = [&self.keys, &self.values];
        let bytes = columns.into_iter().flatten().map(|column| {
            let offsets = column.value_offsets();
            let (first, last) = (offsets.first(), offsets.last());
            last.zip(first).map_or(0, |(last, first)| last - first)
        });
        bytes.map(|bytes| usize::try_from(bytes).unwrap_or(0)).sum()
    }
}

/// A record in a row of columns.
struct ArchivedRecord<'a> {
    columns: &'a RecordColumns,
    row: usize,
}

fn bytes(column: Option<&BinaryArray>, row: usize) -> Option<&[u8]> {
    let column = column.filter(|column| column.is_valid(row))?;
    Some(column.value(row))
}

fn text(column: Option<&StringArray>, row: usize) -> Option<&str> {
    let column = column.filter(|column| column.is_valid(row))?;
    Some(column.value(row))
}

impl Record for ArchivedRecord<'_> {
    fn topic(&self) -> &str {
        text(self.columns.topics.as_ref(), self.row).unwrap_or(&self.columns.topic)
    }

    fn partition(&self) -> i32 {
        self.columns.partitions.value(self.row)
    }

    fn offset(&self) -> i64 {
        self.columns.offsets.value(self.row)
    }

    fn timestamp(&self) -> Timestamp {
        let times = self.columns.timestamps.as_ref();
        let Some(times) = times.filter(|times| times.is_valid(self.row)) else {
            return Timestamp::NotAvailable;
        };
        let millis = times.value(self.row).div_euclid(1_000);
        match text(self.columns.timestamp_types.as_ref(), self.row) {
            Some("LogAppendTime") => Timestamp::LogAppendTime(millis),
            _ => Timestamp::CreateTime(millis),
        }
    }

    fn key(&self) -> Option<&[u8]> {
        bytes(self.columns.keys.as_ref(), self.row)
    }

    fn payload(&self) -> Option<&[u8]> {
        bytes(self.columns.values.as_ref(), self.row)
    }

    fn headers<'a>(&'a self, into: &mut Vec<Header<'a, &'a [u8]>>) -> bool {
        let Some(headers) = &self.columns.headers else {
            return false;
        };
        if headers
            .nulls
            .as_ref()
            .is_some_and(|nulls| nulls.is_null(self.row))
        {
            return false;
        }
        let place = |index: usize| usize::try_from(headers.offsets[index]).unwrap_or(0);
        for header in place(self.row)..place(self.row + 1) {
            into.push(Header {
                key: headers.keys.value(header),
                value: bytes(Some(&headers.values), header),
            });
        }
        true
    }
}

/// Where records of an archive come from and go to.
pub(crate) struct ArchiveOutput<'a> {
    /// The table.
    pub(crate) table: &'a KafkaTable,
    /// Its schema, projected.
    pub(crate) schema: SchemaRef,
    /// Indices of its columns; the one after the last is the hidden column.
    pub(crate) projection: &'a [usize],
    pub(crate) on_error: OnError,
    pub(crate) outlet: OpenOutlet,
    pub(crate) reading: ArchiveReading,
}

/// Reads records out of columns as a scan of the topic reads them: decoded, timed, and bad ones set aside.
pub(crate) struct ArchivedReader {
    reader: RecordReader,
}

impl ArchivedReader {
    /// A reader of rows of any partitions, which keeps no time.
    pub(crate) fn of_query(output: ArchiveOutput<'_>) -> Result<Self> {
        // The hidden column alone asks for the partition.
        Self::with_timer(output, 0, None)
    }

    /// A reader of the rows of one partition, in the order of their offsets.
    pub(crate) fn of_partition(
        output: ArchiveOutput<'_>,
        partition: i32,
        time: Option<&BatchTime>,
    ) -> Result<Self> {
        let timer = PartitionTimer::of(output.table, time, partition);
        Self::with_timer(output, partition, timer)
    }

    fn with_timer(
        output: ArchiveOutput<'_>,
        partition: i32,
        timer: Option<PartitionTimer>,
    ) -> Result<Self> {
        let reader = RecordReader::try_new(
            output.table,
            output.schema,
            output.projection,
            output.on_error,
            output.outlet,
            (partition, timer),
            output.reading,
        );
        Ok(Self { reader: reader? })
    }

    /// The value columns that it takes where they come decoded, as their places among all value columns.
    pub(crate) fn values(&self) -> &[usize] {
        self.reader.values()
    }

    /// A batch of these records, without the dead letters.
    ///
    /// # Errors
    ///
    /// Records that cannot be decoded where that fails, and the error of `check`.
    pub(crate) fn read(
        &mut self,
        columns: &RecordColumns,
        values: Option<RecordBatch>,
        check: Option<TimeCheck<'_>>,
    ) -> Result<RecordBatch> {
        let records: Vec<ArchivedRecord<'_>> = columns.records().collect();
        self.reader.read_archived(&records, values, check)
    }

    /// The reader of records, from which that of the topic continues.
    pub(crate) fn into_reader(self) -> RecordReader {
        self.reader
    }
}
