//! Ranges of offsets out of an archive, in the order of the partitions' logs: as a batch of a job reads them.
//!
//! It gives what a scan of the topic gives for the same ranges: the same columns, the hidden column with the watermark that each row
//! meets, dead letters, and a report of each range.

use std::any::Any as _;
use std::collections::VecDeque;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicI32, Ordering};

use datafusion::arrow::array::{Array as _, ArrayRef, Int64Array, RecordBatch};
use datafusion::arrow::compute::cast;
use datafusion::arrow::datatypes::{Field, Schema, SchemaRef};
use datafusion::catalog::{Session, TableProvider};
use datafusion::common::DFSchema;
use datafusion::common::tree_node::TreeNodeRecursion;
use datafusion::datasource::TableType;
use datafusion::error::Result as DataFusionResult;
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::logical_expr::Expr;
use datafusion::physical_expr::expressions::Column;
use datafusion::physical_expr::{EquivalenceProperties, LexOrdering, PhysicalSortExpr};
use datafusion::physical_plan::empty::EmptyExec;
use datafusion::physical_plan::execution_plan::{
    Boundedness, EmissionType, reset_plan_states,
};
use datafusion::physical_plan::filter::FilterExec;
use datafusion::physical_plan::metrics::{
    ExecutionPlanMetricsSet, MetricBuilder, MetricsSet, Time,
};
use datafusion::physical_plan::repartition::{BatchPartitioner, RepartitionExec};
use datafusion::physical_plan::sorts::sort::SortExec;
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use datafusion::physical_plan::{
    DisplayAs, DisplayFormatType, ExecutionPlan, Partitioning, PhysicalExpr, PlanProperties,
};
use futures::future::BoxFuture;
use futures::{FutureExt as _, StreamExt as _};

use crate::error::{Error, Result};
use crate::tables::archive::filters::in_ranges;
use crate::tables::archive::pinned::PinnedArchive;
use crate::tables::archive::reading::{ArchiveRead, ReadMetrics};
use crate::tables::bad_records::SetAside;
use crate::tables::kafka::{ArchivedReader, OffsetRange, OnError};
use crate::tables::read_metrics::RECORDS_PLANNED;
use crate::tables::side_output::{BatchScan, ExpectedReport, OpenOutlet, ScanOutlet};
use crate::tables::time::{BatchTime, row_field};

const NAME: &str = "ArchiveRangesExec";

/// Ranges of offsets of a pinned archive as a table, for one batch of a job.
///
/// A range lies below the border of its partition ([`PinnedArchive::next_offsets`]): what is beyond is not in the archive, and its
/// absence would be taken for a gap in the log. A batch that reads some partitions from the archive and others from the topic is the union
/// of both; no partition is in both halves of one batch, since a partition's watermark goes through its rows in order.
#[derive(Debug)]
pub struct ArchiveRangesProvider {
    archive: Arc<PinnedArchive>,
    ranges: Vec<OffsetRange>,
    /// What the job calls the table.
    name: Arc<str>,
    aside: Arc<SetAside>,
    time: Option<Arc<BatchTime>>,
    schema: SchemaRef,
    /// How many scans were planned.
    scans: AtomicI32,
}

impl ArchiveRangesProvider {
    /// The records of these ranges, at most one of a partition.
    pub fn new(archive: Arc<PinnedArchive>, ranges: Vec<OffsetRange>) -> Self {
        Self {
            schema: Arc::clone(archive.table().schema()),
            name: archive.table().name().into(),
            archive,
            ranges,
            aside: Arc::default(),
            time: None,
            scans: AtomicI32::new(0),
        }
    }

    /// The same, with place and watermark of every row in the hidden column
    /// [`ROW_COLUMN`](crate::tables::time::ROW_COLUMN).
    #[must_use]
    pub fn with_time(mut self, time: Arc<BatchTime>) -> Self {
        let hidden = Arc::new(row_field());
        let fields = self.archive.table().schema().fields().iter().cloned();
        self.schema = Arc::new(Schema::new(fields.chain([hidden]).collect::<Vec<_>>()));
        self.time = Some(time);
        self
    }

    /// The same, without the records that are to be set aside: they are dead letters.
    #[must_use]
    pub fn without_records(mut self, aside: Arc<SetAside>) -> Self {
        self.aside = aside;
        self
    }

    /// The same, with the name that the job has for the table: its dead letters and reports go by that.
    #[must_use]
    pub fn with_name(mut self, name: &str) -> Self {
        self.name = name.into();
        self
    }

    async fn plan(
        &self,
        session: &dyn Session,
        projection: Option<&Vec<usize>>,
    ) -> DataFusionResult<Arc<dyn ExecutionPlan>> {
        let projection: Vec<usize> = match projection {
            Some(columns) => columns.clone(),
            None => (0..self.schema.fields().len()).collect(),
        };
        let schema = Arc::new(self.schema.project(&projection)?);
        let ranges = self.ranges.iter().filter(|range| !range.is_empty());
        let ranges: Vec<OffsetRange> = ranges.copied().collect();
        if ranges.is_empty() {
            return Ok(Arc::new(EmptyExec::new(schema)));
        }
        let (table, mapping) = (self.archive.table(), self.archive.mapping());
        let read = ArchiveRead::try_new(
            Arc::clone(table),
            mapping.clone(),
            projection,
            schema,
            (true, false),
        )?;
        let filter = in_ranges(mapping, &ranges)?;
        let indices = read.columns.indices().to_vec();
        let filters = std::slice::from_ref(&filter);
        let rows = self.archive.delta().scan(session, Some(&indices), filters, None);
        let rows = rows.await?;
        let by_name = DFSchema::try_from(rows.schema())?;
        let predicate = session.create_physical_expr(filter, &by_name)?;
        let rows: Arc<dyn ExecutionPlan> = Arc::new(FilterExec::try_new(predicate, rows)?);
        let streams = ranges.len().min(session.config().target_partitions().max(1));
        let coordinates = read.columns.coordinates();
        let sorted = sorted(rows, coordinates, streams)?;
        let of_stream = assigned(&sorted.schema(), coordinates.0, &ranges, streams)?;
        let scan = BatchScan {
            table: Arc::clone(&self.name),
            scan: self.scans.fetch_add(1, Ordering::Relaxed),
            aside: Arc::clone(&self.aside),
        };
        let shared = RangesScan {
            read,
            ranges,
            of_stream,
            scan,
            time: self.time.clone(),
            version: self.archive.version(),
        };
        Ok(Arc::new(ArchiveRangesExec::new(Arc::new(shared), sorted)))
    }

    fn scan_boxed<'a>(
        &'a self,
        session: &'a dyn Session,
        projection: Option<&'a Vec<usize>>,
    ) -> BoxFuture<'a, DataFusionResult<Arc<dyn ExecutionPlan>>> {
        self.plan(session, projection).boxed()
    }
}

impl TableProvider for ArchiveRangesProvider {
    fn schema(&self) -> SchemaRef {
        Arc::clone(&self.schema)
    }

    fn table_type(&self) -> TableType {
        TableType::Base
    }

    // Written out instead of `async fn`, as for the table over the topic.
    fn scan<'life0, 'life1, 'life2, 'life3, 'async_trait>(
        &'life0 self,
        session: &'life1 dyn Session,
        projection: Option<&'life2 Vec<usize>>,
        _: &'life3 [Expr],
        _: Option<usize>,
    ) -> BoxFuture<'async_trait, DataFusionResult<Arc<dyn ExecutionPlan>>>
    where
        'life0: 'async_trait,
        'life1: 'async_trait,
        'life2: 'async_trait,
        'life3: 'async_trait,
        Self: 'async_trait,
    {
        self.scan_boxed(session, projection)
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
    let partitioning = match streams {
        1 => Partitioning::RoundRobinBatch(1),
        _ => Partitioning::Hash(vec![column(partition)], streams),
    };
    let apart = RepartitionExec::try_new(rows, partitioning)?;
    let by = [partition, offset].map(|index| PhysicalSortExpr::new_default(column(index)));
    let by = LexOrdering::new(by).ok_or_else(|| Error::internal("rows in no order"))?;
    let sorted = SortExec::new(by, Arc::new(apart)).with_preserve_partitioning(true);
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
    let numbers = Int64Array::from_iter_values(ranges.iter().map(|range| i64::from(range.partition)));
    let numbers: ArrayRef = Arc::new(numbers);
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
        let places = rows.column(1).as_any().downcast_ref::<Int64Array>();
        for place in places.into_iter().flatten().flatten() {
            let range = usize::try_from(place).ok().and_then(|place| ranges.get(place));
            of_stream[stream].extend(range);
        }
        Ok(())
    })?;
    Ok(of_stream)
}

/// What all streams of a scan share.
#[derive(Debug)]
struct RangesScan {
    read: ArchiveRead,
    ranges: Vec<OffsetRange>,
    /// By stream, by partition.
    of_stream: Vec<Vec<OffsetRange>>,
    scan: BatchScan,
    time: Option<Arc<BatchTime>>,
    version: u64,
}

/// Gives the records of ranges in the order of their partitions. A leaf: nothing is to be moved below it.
#[derive(Debug)]
pub(crate) struct ArchiveRangesExec {
    shared: Arc<RangesScan>,
    /// Rows of the ranges alone, by partition and offset, in the streams that `shared` knows.
    rows: Arc<dyn ExecutionPlan>,
    properties: Arc<PlanProperties>,
    metrics: ExecutionPlanMetricsSet,
}

impl ArchiveRangesExec {
    fn new(shared: Arc<RangesScan>, rows: Arc<dyn ExecutionPlan>) -> Self {
        let properties = PlanProperties::new(
            EquivalenceProperties::new(Arc::clone(&shared.read.schema)),
            Partitioning::UnknownPartitioning(shared.of_stream.len()),
            EmissionType::Incremental,
            Boundedness::Bounded,
        );
        let metrics = ExecutionPlanMetricsSet::new();
        let planned: u64 = shared.ranges.iter().map(OffsetRange::len).sum();
        MetricBuilder::new(&metrics)
            .global_counter(RECORDS_PLANNED)
            .add(usize::try_from(planned).unwrap_or(usize::MAX));
        Self {
            shared,
            rows,
            properties: Arc::new(properties),
            metrics,
        }
    }

    /// Whether records that it cannot decode are set aside.
    pub(crate) fn sets_aside(&self) -> bool {
        self.shared.read.on_error == OnError::DeadLetter
    }

    /// What it reports when it has run as a part of a batch: each range, read to its end (LOSS-1).
    pub(crate) fn expected(&self) -> Vec<ExpectedReport> {
        let of_range = |range: &OffsetRange| ExpectedReport {
            table: Arc::clone(&self.shared.scan.table),
            scan: self.shared.scan.scan,
            partition: range.partition,
            stream: 0,
            start: range.start,
            end: range.end,
        };
        self.shared.ranges.iter().map(of_range).collect()
    }
}

impl DisplayAs for ArchiveRangesExec {
    fn fmt_as(&self, _: DisplayFormatType, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let shared = &self.shared;
        let ranges: Vec<String> = shared
            .ranges
            .iter()
            .map(|range| format!("{}:[{}, {})", range.partition, range.start, range.end))
            .collect();
        write!(
            f,
            "{NAME}: archive={}, version={}, mapping={}, offsets=[{}]",
            shared.read.mapping.archive(),
            shared.version,
            shared.read.mapping,
            ranges.join(", ")
        )
    }
}

impl ExecutionPlan for ArchiveRangesExec {
    fn name(&self) -> &'static str {
        NAME
    }

    fn properties(&self) -> &Arc<PlanProperties> {
        &self.properties
    }

    fn children(&self) -> Vec<&Arc<dyn ExecutionPlan>> {
        Vec::new()
    }

    fn apply_expressions(
        &self,
        _: &mut dyn FnMut(&Arc<dyn PhysicalExpr>) -> DataFusionResult<TreeNodeRecursion>,
    ) -> DataFusionResult<TreeNodeRecursion> {
        Ok(TreeNodeRecursion::Continue)
    }

    fn with_new_children(
        self: Arc<Self>,
        _: Vec<Arc<dyn ExecutionPlan>>,
    ) -> DataFusionResult<Arc<dyn ExecutionPlan>> {
        let rows = reset_plan_states(Arc::clone(&self.rows))?;
        Ok(Arc::new(Self::new(Arc::clone(&self.shared), rows)))
    }

    fn execute(
        &self,
        partition: usize,
        context: Arc<TaskContext>,
    ) -> DataFusionResult<SendableRecordBatchStream> {
        let ranges = self.shared.of_stream.get(partition);
        let ranges = ranges.ok_or_else(|| Error::internal(format!("no ranges for stream {partition}")))?;
        let outlet = ScanOutlet::Batch(self.shared.scan.clone()).open(&context)?;
        let reading = Reading {
            shared: Arc::clone(&self.shared),
            ranges: ranges.iter().copied().collect(),
            current: None,
            outlet,
            metrics: ReadMetrics::new(&self.metrics, partition),
            ready: VecDeque::new(),
            is_done: false,
        };
        let rows = self.rows.execute(partition, context)?;
        let batches = futures::stream::try_unfold((rows, reading), |(mut rows, mut reading)| async move {
            loop {
                if let Some(batch) = reading.ready.pop_front() {
                    return Ok(Some((batch, (rows, reading))));
                }
                if reading.is_done {
                    return Ok(None);
                }
                match rows.next().await {
                    Some(batch) => reading.read(&batch?)?,
                    None => reading.end()?,
                }
            }
        });
        Ok(Box::pin(RecordBatchStreamAdapter::new(self.schema(), batches)))
    }

    fn metrics(&self) -> Option<MetricsSet> {
        Some(self.metrics.clone_inner())
    }
}

/// One stream of a scan.
struct Reading {
    shared: Arc<RangesScan>,
    /// Ranges that have not begun.
    ranges: VecDeque<OffsetRange>,
    /// The range whose rows pass, and the last offset of it.
    current: Option<CurrentRange>,
    outlet: OpenOutlet,
    metrics: ReadMetrics,
    ready: VecDeque<RecordBatch>,
    is_done: bool,
}

struct CurrentRange {
    range: OffsetRange,
    reader: ArchivedReader,
    last: Option<i64>,
}

impl Reading {
    /// Rows come by partition and offset.
    fn read(&mut self, rows: &RecordBatch) -> Result<()> {
        let records = self.shared.read.records(rows)?;
        let partitions = records.partitions.values();
        let mut start = 0;
        for run in partitions.chunk_by(|one, next| one == next) {
            self.go_to(run[0])?;
            // The records of a run are made again if there are several runs, which is once for each partition.
            let (rows, records) = match run.len() == rows.num_rows() {
                true => (rows.clone(), Arc::clone(&records)),
                false => {
                    let rows = rows.slice(start, run.len());
                    let records = self.shared.read.records(&rows)?;
                    (rows, records)
                }
            };
            start += run.len();
            let Some(current) = &mut self.current else {
                return Err(Error::internal("rows of no range"));
            };
            for offset in records.offsets.values() {
                if current.last.is_some_and(|last| last >= *offset) {
                    return Err(self.shared.read.duplicate(current.range.partition, *offset));
                }
                current.last = Some(*offset);
            }
            let (read, reader) = (&self.shared.read, &mut current.reader);
            let batch = self
                .metrics
                .counted(&records, || read.read(reader, &rows, &records))?;
            if batch.num_rows() > 0 {
                self.ready.push_back(batch);
            }
        }
        Ok(())
    }

    /// Ends ranges up to that of the partition, which begins if it has not begun.
    fn go_to(&mut self, partition: i32) -> Result<()> {
        loop {
            if let Some(current) = &self.current
                && current.range.partition == partition
            {
                return Ok(());
            }
            if !self.next()? {
                return Err(Error::internal(format!(
                    "rows of partition {partition} in a stream that does not read it"
                )));
            }
        }
    }

    /// Ends the range whose rows pass, and begins the next one; false if there is none.
    fn next(&mut self) -> Result<bool> {
        if let Some(current) = self.current.take() {
            current.reader.finish(current.range)?;
        }
        let Some(range) = self.ranges.pop_front() else {
            return Ok(false);
        };
        let output = self.shared.read.output(self.outlet.clone());
        let time = self.shared.time.as_deref();
        self.current = Some(CurrentRange {
            reader: ArchivedReader::of_partition(output, range.partition, time)?,
            range,
            last: None,
        });
        Ok(true)
    }

    fn end(&mut self) -> Result<()> {
        while self.next()? {}
        self.is_done = true;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use datafusion::arrow::datatypes::DataType;

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
                let mut all: Vec<i32> = of_stream.iter().flatten().map(|range| range.partition).collect();
                for ranges in &of_stream {
                    assert!(ranges.is_sorted_by_key(|range| range.partition));
                }
                all.sort_unstable();
                assert_eq!(all, (0..20).collect::<Vec<_>>());
            }
        }
    }
}
