//! Rows of an archive into rows of the table: what a scan reads, and how a batch of it is turned.

use std::sync::Arc;

use datafusion::arrow::array::{Array as _, RecordBatch, RecordBatchOptions, new_null_array};
use datafusion::arrow::datatypes::SchemaRef;
use datafusion::physical_plan::metrics::{
    BaselineMetrics, Count, ExecutionPlanMetricsSet, MetricBuilder, Time,
};

use crate::error::{Error, Result, Subject};
use crate::tables::archive::claim;
use crate::tables::archive::columns::{InputColumns, Needs};
use crate::tables::archive::mapping::{ArchiveContent, ArchiveMapping};
use crate::tables::kafka::{
    ArchiveOutput, ArchiveReading, ArchivedReader, KafkaTable, OnError, RecordColumns, TimeCheck,
};
use crate::tables::read_metrics::{BYTES_READ, RECORDS_READ};
use crate::tables::side_output::OpenOutlet;

/// Who reads an archive.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ReadFor {
    /// A query.
    Query,
    /// A batch of a job.
    Batch,
    /// A run, which leaves out what its job sets aside: also rows without a time of this world, if the job keeps time.
    Run {
        /// Whether the job keeps time.
        keeps_time: bool,
    },
}

/// What a scan of an archive gives.
#[derive(Debug, Clone)]
pub(super) struct ArchiveRead {
    pub(super) table: Arc<KafkaTable>,
    pub(super) mapping: ArchiveMapping,
    /// Indices of the table's columns; the one after the last is the hidden column.
    pub(super) projection: Vec<usize>,
    /// The table's schema, projected.
    pub(super) schema: SchemaRef,
    pub(super) on_error: OnError,
    pub(super) columns: InputColumns,
    /// Whether the event time of each row is compared with the claim.
    checks_claim: bool,
    sets_times_aside: bool,
    topic: Arc<str>,
}

impl ArchiveRead {
    /// A read of these columns. The claim is compared where it left files out (`is_pruned`), and where the event time is read anyway.
    ///
    /// # Errors
    ///
    /// Metadata that the archive lacks.
    pub(super) fn try_new(
        table: Arc<KafkaTable>,
        mapping: ArchiveMapping,
        projection: Vec<usize>,
        schema: SchemaRef,
        (read_for, is_pruned): (ReadFor, bool),
    ) -> Result<Self> {
        mapping.check_reads(&table, &projection)?;
        let is_batch = read_for == ReadFor::Batch;
        let sets_times_aside = read_for == ReadFor::Run { keeps_time: true };
        let on_error = table.on_error(read_for != ReadFor::Query);
        let claimed = claim::compared(mapping.claim());
        let event_time = table.event_time();
        let event_time = event_time.and_then(|time| table.schema().index_of(&time.column).ok());
        let needs_time = is_batch || sets_times_aside;
        let reads_time = event_time.is_some_and(|index| needs_time || projection.contains(&index));
        let checks_claim = !claimed.is_empty() && event_time.is_some() && (is_pruned || reads_time);
        let needs = Needs {
            whole_records: needs_time || on_error == OnError::DeadLetter,
            event_time: needs_time || checks_claim,
        };
        let claimed = match checks_claim {
            true => claimed,
            false => Vec::new(),
        };
        let columns = InputColumns::new(&mapping, &table, &projection, &claimed, needs);
        Ok(Self {
            topic: table.topic().into(),
            table,
            mapping,
            projection,
            schema,
            on_error,
            columns,
            checks_claim,
            sets_times_aside,
        })
    }

    /// For a reader of its records.
    pub(super) fn output(&self, outlet: OpenOutlet) -> ArchiveOutput<'_> {
        ArchiveOutput {
            table: &self.table,
            schema: Arc::clone(&self.schema),
            projection: &self.projection,
            on_error: self.on_error,
            outlet,
            reading: ArchiveReading {
                is_decoded: matches!(self.mapping.content(), ArchiveContent::Decoded(_)),
                checks_time: self.checks_claim,
                is_partial: !self.mapping.has_whole_records(),
                sets_times_aside: self.sets_times_aside,
            },
        }
    }

    /// The records in rows of the archive.
    ///
    /// # Errors
    ///
    /// Rows that are no records.
    pub(super) fn records(&self, rows: &RecordBatch) -> Result<RecordColumns> {
        self.columns
            .records(rows, &self.topic, self.mapping.archive())
    }

    /// A batch of the table: `records` are those in `rows`.
    ///
    /// # Errors
    ///
    /// As [`ArchivedReader::read`]; an event time that is not the claimed one.
    pub(super) fn read(
        &self,
        reader: &mut ArchivedReader,
        rows: &RecordBatch,
        records: &RecordColumns,
    ) -> Result<RecordBatch> {
        let values = match self.mapping.content() {
            ArchiveContent::Raw(_) => None,
            ArchiveContent::Decoded(_) => {
                Some(self.columns.values(rows, &self.table, reader.values())?)
            }
        };
        let claimed = self.columns.claim(rows);
        let name = self
            .table
            .event_time()
            .map_or("", |time| time.column.as_str());
        let check: TimeCheck<'_> = &|times, left_out| {
            claim::check(&self.mapping, name, records, &claimed, (times, left_out))
        };
        let batch = reader.read(records, values, self.checks_claim.then_some(check))?;
        self.without_nulls(batch)
    }

    /// NULL for metadata that the archive lacks, as it was declared.
    fn without_nulls(&self, batch: RecordBatch) -> Result<RecordBatch> {
        let is_null = |index: &usize| {
            let column = self.table.columns.get(*index);
            let key = column.and_then(|column| column.metadata);
            key.is_some_and(|key| self.mapping.is_null(key))
        };
        if !self.projection.iter().any(is_null) {
            return Ok(batch);
        }
        let columns = self.projection.iter().zip(batch.columns());
        let columns = columns.map(|(index, column)| match is_null(index) {
            true => new_null_array(column.data_type(), column.len()),
            false => Arc::clone(column),
        });
        let options = RecordBatchOptions::new().with_row_count(Some(batch.num_rows()));
        RecordBatch::try_new_with_options(batch.schema(), columns.collect(), &options)
            .map_err(|error| Error::internal(error.to_string()))
    }

    /// The error of a record that is in the archive twice.
    pub(super) fn duplicate(&self, partition: i32, offset: i64) -> Error {
        let archive = self.mapping.archive();
        duplicates(
            archive,
            &format!("has offset {offset} of partition {partition} more than once"),
        )
    }
}

/// The error of an archive with duplicates.
pub(super) fn duplicates(archive: &str, said: &str) -> Error {
    Error::data(format!("archive {archive} {said}"))
        .about(Subject::table(archive))
        .with_help(
            "some rows were written twice: remove them with DELETE FROM, or RESTORE the table to a version before; its rows can be read under its own name",
        )
}

/// What the streams of a scan count.
pub(super) struct ReadMetrics {
    baseline: BaselineMetrics,
    bytes: Count,
    records: Count,
    decode_time: Time,
}

impl ReadMetrics {
    pub(super) fn new(metrics: &ExecutionPlanMetricsSet, partition: usize) -> Self {
        let counter = |name: &'static str| MetricBuilder::new(metrics).counter(name, partition);
        Self {
            baseline: BaselineMetrics::new(metrics, partition),
            bytes: counter(BYTES_READ),
            records: counter(RECORDS_READ),
            decode_time: MetricBuilder::new(metrics).subset_time("decode_time", partition),
        }
    }

    /// Counts records that are read, and the time that it takes.
    pub(super) fn counted(
        &self,
        records: &RecordColumns,
        read: impl FnOnce() -> Result<RecordBatch>,
    ) -> Result<RecordBatch> {
        let timer = self.decode_time.timer();
        let batch = read()?;
        timer.done();
        self.bytes.add(records.bytes());
        self.records.add(records.len());
        self.baseline.record_output(batch.num_rows());
        Ok(batch)
    }
}
