//! Ranges of offsets out of an archive, in the order of the partitions' logs: the archive's part of what a batch of a job reads.
//!
//! It gives what the topic gave for the same ranges. The scan of the batch reads them and goes over to the topic.

use std::fmt;
use std::sync::Arc;

use datafusion::arrow::array::{
    Array as _, ArrayRef, AsArray as _, Int32Array, Int64Array, RecordBatch,
};
use datafusion::arrow::compute::cast;
use datafusion::arrow::datatypes::{DataType, Field, Int32Type, Int64Type, Schema, SchemaRef};
use datafusion::catalog::Session;
use datafusion::common::DFSchema;
use datafusion::error::{DataFusionError, Result as DataFusionResult};
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::logical_expr::utils::conjunction;
use datafusion::logical_expr::{Expr, lit};
use datafusion::physical_expr::expressions::Column;
use datafusion::physical_expr::{LexOrdering, PhysicalSortExpr};
use datafusion::physical_plan::coalesce_partitions::CoalescePartitionsExec;
use datafusion::physical_plan::filter::FilterExec;
use datafusion::physical_plan::metrics::Time;
use datafusion::physical_plan::repartition::{BatchPartitioner, RepartitionExec};
use datafusion::physical_plan::sorts::sort::SortExec;
use datafusion::physical_plan::{ExecutionPlan, Partitioning, PhysicalExpr};
use futures::FutureExt as _;
use futures::future::BoxFuture;

use crate::error::{Error, Result, Subject};
use crate::tables::archive::filters::in_ranges;
use crate::tables::archive::pinned_archive::PinnedArchive;
use crate::tables::archive::reading::{ArchiveRead, ReadFor};
use crate::tables::kafka::{ArchivedReader, EarlierRecords, EarlierRows, EarlierScan, OffsetRange};
use crate::tables::side_output::OpenOutlet;
use crate::tables::time::BatchTime;

impl PinnedArchive {
    /// The rows of these ranges that pass `filters`, in any order. `indices` are those of the columns to read, partition, offset and the
    /// columns of the filters among them.
    ///
    /// # Errors
    ///
    /// Errors of the engine.
    pub(super) async fn rows_in(
        &self,
        session: &dyn Session,
        indices: &[usize],
        ranges: &[OffsetRange],
        mut filters: Vec<Expr>,
    ) -> DataFusionResult<Arc<dyn ExecutionPlan>> {
        filters.push(in_ranges(self.mapping(), ranges)?);
        let rows = self.rows(session, indices, &filters, None).await?;
        let by_name = DFSchema::try_from(rows.schema())?;
        let filter = conjunction(filters).unwrap_or_else(|| lit(true));
        let predicate = session.create_physical_expr(filter, &by_name)?;
        Ok(Arc::new(FilterExec::try_new(predicate, rows)?))
    }

    async fn log_scan(
        &self,
        session: &dyn Session,
        ranges: &[OffsetRange],
        projection: &[usize],
        schema: &SchemaRef,
    ) -> DataFusionResult<LogScan> {
        let read = ArchiveRead::try_new(
            Arc::clone(self.table()),
            self.mapping().clone(),
            projection.to_vec(),
            Arc::clone(schema),
            (ReadFor::Batch, false),
        )?;
        let rows = self.rows_in(session, read.columns.indices(), ranges, Vec::new());
        let rows = rows.await?;
        let streams = ranges
            .len()
            .min(session.config().target_partitions().max(1));
        let coordinates = read.columns.coordinates();
        let sorted = sorted(rows, coordinates, streams)?;
        Ok(LogScan {
            of_stream: assigned(&sorted.schema(), coordinates.0, ranges, streams)?,
            rows: sorted,
            read,
            version: self.version(),
        })
    }
}

/// Ranges of partitions, at most one of each, planned.
struct LogScan {
    read: ArchiveRead,
    /// Rows of the ranges alone, by partition and offset.
    rows: Arc<dyn ExecutionPlan>,
    /// By stream of `rows`, by partition.
    of_stream: Vec<Vec<OffsetRange>>,
    /// The version of the archive.
    version: u64,
}

impl fmt::Debug for LogScan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LogScan")
            .field("of_stream", &self.of_stream)
            .field("version", &self.version)
            .finish_non_exhaustive()
    }
}

impl EarlierRecords for PinnedArchive {
    fn scan<'a>(
        &'a self,
        session: &'a dyn Session,
        ranges: &'a [OffsetRange],
        projection: &'a [usize],
        schema: &'a SchemaRef,
    ) -> BoxFuture<'a, DataFusionResult<Arc<dyn EarlierScan>>> {
        async move {
            let scan = self.log_scan(session, ranges, projection, schema).await?;
            Ok(Arc::new(scan) as Arc<dyn EarlierScan>)
        }
        .boxed()
    }
}

impl EarlierScan for LogScan {
    fn streams(&self) -> &[Vec<OffsetRange>] {
        &self.of_stream
    }

    fn execute(
        &self,
        stream: usize,
        context: Arc<TaskContext>,
    ) -> DataFusionResult<SendableRecordBatchStream> {
        self.rows.execute(stream, context)
    }

    fn partitions(&self, rows: &RecordBatch) -> Result<Int32Array> {
        let (partition, _) = self.read.columns.coordinates();
        let partitions = cast(rows.column(partition), &DataType::Int32);
        let partitions = partitions.map_err(DataFusionError::from)?;
        Ok(partitions.as_primitive::<Int32Type>().clone())
    }

    fn reader(
        &self,
        partition: i32,
        outlet: OpenOutlet,
        time: Option<&BatchTime>,
    ) -> Result<ArchivedReader> {
        ArchivedReader::of_partition(self.read.output(outlet), partition, time)
    }

    fn read(&self, rows: &RecordBatch, reader: &mut ArchivedReader) -> Result<EarlierRows> {
        let records = self.read.records(rows)?;
        Ok(EarlierRows {
            rows: self.read.read(reader, rows, &records)?,
            offsets: records.offsets.clone(),
            bytes: records.bytes(),
        })
    }

    fn failed(&self, error: DataFusionError) -> Error {
        let error = Error::from(error);
        if !error.is_of_missing_file() {
            return error;
        }
        // The next batch is planned over the newest version, which has the same records in other files.
        let archive = self.read.mapping.archive();
        Error::unavailable(format!(
            "a file of version {} of archive {archive} is gone: {}",
            self.version,
            error.message()
        ))
        .about(Subject::table(archive))
        .with_help("VACUUM deleted it while it was read; a file that the newest version needs has to be restored")
    }

    fn duplicate(&self, partition: i32, offset: i64) -> Error {
        self.read.duplicate(partition, offset)
    }
}

/// The rows by partition and offset, all rows of a partition in one of so many streams.
fn sorted(
    rows: Arc<dyn ExecutionPlan>,
    (partition, offset): (usize, usize),
    streams: usize,
) -> DataFusionResult<Arc<dyn ExecutionPlan>> {
    let schema = rows.schema();
    let column = |index: usize| -> Arc<dyn PhysicalExpr> {
        Arc::new(Column::new(schema.field(index).name(), index))
    };
    let apart: Arc<dyn ExecutionPlan> = match streams {
        1 => Arc::new(CoalescePartitionsExec::new(rows)),
        _ => {
            let partitioning = Partitioning::Hash(vec![column(partition)], streams);
            Arc::new(RepartitionExec::try_new(rows, partitioning)?)
        }
    };
    let by = [partition, offset].map(|index| PhysicalSortExpr::new_default(column(index)));
    let by = LexOrdering::new(by).ok_or_else(|| Error::internal("rows in no order"))?;
    let sorted = SortExec::new(by, apart).with_preserve_partitioning(true);
    Ok(Arc::new(sorted))
}

/// For each of so many streams, the ranges whose rows are in it: those of the partitions that the engine sends there.
fn assigned(
    schema: &SchemaRef,
    partition: usize,
    ranges: &[OffsetRange],
    streams: usize,
) -> DataFusionResult<Vec<Vec<OffsetRange>>> {
    let mut ranges = ranges.to_vec();
    ranges.sort_unstable_by_key(|range| range.partition);
    if streams == 1 {
        return Ok(vec![ranges]);
    }
    let field = schema.field(partition);
    let numbers = ranges.iter().map(|range| i64::from(range.partition));
    let numbers: ArrayRef = Arc::new(Int64Array::from_iter_values(numbers));
    let places = Int64Array::from_iter_values((0..).take(ranges.len()));
    let fields = vec![
        Field::new("partition", field.data_type().clone(), false),
        Field::new("place", places.data_type().clone(), false),
    ];
    let columns: Vec<ArrayRef> = vec![cast(&numbers, field.data_type())?, Arc::new(places)];
    let rows = RecordBatch::try_new(Arc::new(Schema::new(fields)), columns)?;
    let by: Arc<dyn PhysicalExpr> = Arc::new(Column::new("partition", 0));
    let mut partitioner = BatchPartitioner::new_hash_partitioner(vec![by], streams, Time::new())?;
    let mut of_stream = vec![Vec::new(); streams];
    partitioner.partition(rows, |stream, rows| {
        let places = rows.column(1).as_primitive::<Int64Type>();
        for place in places.values() {
            let range = usize::try_from(*place).ok();
            of_stream[stream].extend(range.and_then(|place| ranges.get(place)));
        }
        Ok(())
    })?;
    Ok(of_stream)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_range_is_of_the_stream_that_gets_its_rows() {
        for of in [DataType::Int32, DataType::Int64] {
            let schema = Arc::new(Schema::new(vec![Field::new("p", of, true)]));
            let ranges: Vec<OffsetRange> = (0..20)
                .rev()
                .map(|partition| OffsetRange {
                    partition,
                    start: 0,
                    end: 1,
                })
                .collect();
            for streams in 1..5 {
                let of_stream = assigned(&schema, 0, &ranges, streams).unwrap();
                assert_eq!(of_stream.len(), streams);
                let mut all: Vec<i32> = of_stream
                    .iter()
                    .flatten()
                    .map(|range| range.partition)
                    .collect();
                for ranges in &of_stream {
                    assert!(ranges.is_sorted_by_key(|range| range.partition));
                }
                all.sort_unstable();
                assert_eq!(all, (0..20).collect::<Vec<_>>());
            }
        }
    }
}
