//! Time of the rows of a table that is read as a stream (TIME-1, TIME-5, NULL-1): the scan that fills the hidden column.
//!
//! Rows of a version meet the watermark from earlier versions. A batch may read many versions, so their event times are
//! read first, alone; then the watermark for the rows of each file is known, and files are read in any order. The rows
//! of a file are read in their order, which gives each row its number.

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::sync::Arc;

use anabranch_udfs::has_no_children;
use datafusion::arrow::array::{
    Array, ArrayRef, BinaryArray, BooleanArray, Int64Array, RecordBatch, RecordBatchOptions,
    StringArray, TimestampMicrosecondArray,
};
use datafusion::arrow::compute::{filter_record_batch, max, min, not};
use datafusion::arrow::datatypes::SchemaRef;
use datafusion::error::DataFusionError;
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::physical_expr::EquivalenceProperties;
use datafusion::physical_plan::execution_plan::{Boundedness, EmissionType};
use datafusion::physical_plan::metrics::{
    Count, ExecutionPlanMetricsSet, MetricBuilder, MetricsSet,
};
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use datafusion::physical_plan::{
    DisplayAs, DisplayFormatType, ExecutionPlan, Partitioning, PlanProperties,
};
use futures::{StreamExt as _, TryStreamExt as _};
use tokio::sync::OnceCell;

use super::stream_files::{FILE_COLUMN, FileFacts, FilesOfBatch};
use crate::core::jobs::{PartitionTimes, RowWatermark, through_versions};
use crate::error::{Error, Result};
use crate::formats::FormatOptions;
use crate::tables::bad_records::BadRecord;
use crate::tables::read_metrics::{BYTES_READ, RECORDS_READ};
use crate::tables::side_output::{BatchOutlet, BatchScan, ExpectedReport, ScanProgress};
use crate::tables::time::{
    BatchTime, EventTime, ROW_COLUMN, event_times, far_future, in_time, latest_event_time,
    null_time, row_column,
};

/// A table is one partition.
pub(super) const PARTITION: i32 = 0;

/// Highest event times, or watermarks, by version.
type ByVersion = BTreeMap<u64, Option<i64>>;

/// The times of a batch: its watermarks, and the table that the times come from.
#[derive(Debug, Clone)]
pub(super) struct TimeOfBatch {
    pub(super) time: Arc<BatchTime>,
    /// Without it rows meet no watermark: only where they are is to be known.
    pub(super) event_time: Option<EventTime>,
    /// The location of the table, for people.
    pub(super) location: String,
}

impl TimeOfBatch {
    /// Gives the watermark that the rows of each version meet, and what the table has reached; nothing without an event time.
    fn pass(&self, highest: &ByVersion, end: u64) -> FinishedTimes {
        let Some(event_time) = &self.event_time else {
            return FinishedTimes::default();
        };
        let (rule, before) = self.time.rule(PARTITION);
        let (RowWatermark::From(from) | RowWatermark::Always(from)) = rule;
        let from = from.max(before.watermark);
        let (met, reached) =
            through_versions(from, before.unfinished, event_time.delay, highest, end);
        FinishedTimes {
            met,
            reached: Some(reached),
        }
    }
}

/// What is known once all event times of a batch are.
#[derive(Debug, Default)]
struct FinishedTimes {
    /// What the rows of each version meet.
    met: ByVersion,
    /// What the table has reached; none where no time is kept.
    reached: Option<PartitionTimes>,
}

/// What the streams of a scan report: each of them that it has read its files of the batch.
#[derive(Debug, Clone)]
pub(super) struct StreamReports {
    pub(super) scan: BatchScan,
    /// Where the files of the batch begin and end.
    pub(super) start: i64,
    pub(super) end: i64,
}

impl StreamReports {
    /// Those of a scan with so many streams.
    pub(super) fn expected(&self, streams: usize) -> Vec<ExpectedReport> {
        let of_stream = |stream: usize| ExpectedReport {
            table: Arc::clone(&self.scan.table),
            scan: self.scan.scan,
            partition: PARTITION,
            stream: number(stream),
            start: self.start,
            end: self.end,
        };
        (0..streams).map(of_stream).collect()
    }

    /// A stream has come to its end.
    pub(super) fn report(
        &self,
        outlet: &BatchOutlet,
        stream: usize,
        reached: Option<PartitionTimes>,
    ) -> Result<()> {
        outlet.report(&ScanProgress {
            partition: PARTITION,
            stream: number(stream),
            start: self.start,
            next: self.end,
            reached,
            // Where a batch of a table ends, and what was read last there, is known before it is read.
            last: None,
        })
    }
}

fn number(stream: usize) -> i32 {
    i32::try_from(stream).unwrap_or(i32::MAX)
}

/// Gives the rows of a batch's files with the hidden column. A leaf: nothing is to be moved below it.
pub(super) struct DeltaTimedExec {
    shared: Arc<ScanTimes>,
    /// The table's columns that are asked for, the event time, and the file.
    rows: Arc<dyn ExecutionPlan>,
    bytes: u64,
    reports: StreamReports,
    properties: Arc<PlanProperties>,
    metrics: ExecutionPlanMetricsSet,
}

/// The state that all partitions of a scan share.
struct ScanTimes {
    schema: SchemaRef,
    files: FilesOfBatch,
    time: TimeOfBatch,
    /// Gives the event time and the file alone.
    times: Option<Arc<dyn ExecutionPlan>>,
    /// What comes of the event times, once they were read.
    passed: OnceCell<FinishedTimes>,
}

impl DeltaTimedExec {
    pub(super) fn new(
        schema: SchemaRef,
        rows: Arc<dyn ExecutionPlan>,
        times: Option<Arc<dyn ExecutionPlan>>,
        files: FilesOfBatch,
        time: TimeOfBatch,
        (bytes, reports): (u64, StreamReports),
    ) -> Self {
        let properties = PlanProperties::new(
            EquivalenceProperties::new(Arc::clone(&schema)),
            Partitioning::UnknownPartitioning(partitions(&rows)),
            EmissionType::Incremental,
            Boundedness::Bounded,
        );
        let shared = ScanTimes {
            schema,
            files,
            time,
            times,
            passed: OnceCell::new(),
        };
        Self {
            shared: Arc::new(shared),
            rows,
            bytes,
            reports,
            properties: Arc::new(properties),
            metrics: ExecutionPlanMetricsSet::new(),
        }
    }

    /// What its streams report.
    pub(super) fn expected(&self) -> Vec<ExpectedReport> {
        self.reports.expected(partitions(&self.rows))
    }
}

pub(super) fn partitions(plan: &Arc<dyn ExecutionPlan>) -> usize {
    plan.properties().partitioning.partition_count()
}

impl ScanTimes {
    /// What comes of the event times: reads them all, the first time.
    async fn passed(&self, context: &Arc<TaskContext>) -> Result<&FinishedTimes> {
        let read = async || -> Result<FinishedTimes> {
            let (Some(times), Some(event_time)) = (&self.times, &self.time.event_time) else {
                // A batch without files has read versions to their end as well.
                return Ok(self.time.pass(&ByVersion::new(), self.files.end));
            };
            let streams = (0..partitions(times)).map(|partition| {
                let rows = times.execute(partition, Arc::clone(context));
                async move {
                    let mut highest = ByVersion::new();
                    let mut rows = rows?;
                    while let Some(rows) = rows.next().await {
                        let rows = rows?;
                        // An empty batch does not tell which file it is of.
                        if rows.num_rows() == 0 {
                            continue;
                        }
                        let (version, of_rows) = self.highest(&rows, event_time)?;
                        let of_version = highest.entry(version).or_default();
                        *of_version = (*of_version).max(of_rows);
                    }
                    Ok::<_, Error>(highest)
                }
            });
            let versions = self.files.versions();
            let mut highest: ByVersion = versions.map(|version| (version, None)).collect();
            let at_once = context.session_config().target_partitions();
            let mut read = futures::stream::iter(streams.collect::<Vec<_>>()).buffered(at_once);
            while let Some(of_stream) = read.try_next().await? {
                for (version, of_stream) in of_stream {
                    let of_version = highest.entry(version).or_default();
                    *of_version = (*of_version).max(of_stream);
                }
            }
            Ok(self.time.pass(&highest, self.files.end))
        };
        self.passed.get_or_try_init(read).await
    }

    /// The highest event time of rows of one file, those aside that have none of this world.
    fn highest(&self, rows: &RecordBatch, event_time: &EventTime) -> Result<(u64, Option<i64>)> {
        let file = self.files.of(rows)?;
        let times = times_of(rows, event_time)?;
        let latest = latest_event_time(event_time, file.written).unwrap_or(i64::MAX);
        let highest = match max(times) {
            Some(highest) if highest > latest => {
                let times = times.iter().flatten();
                times.filter(|time| *time <= latest).max()
            }
            highest => highest,
        };
        Ok((file.version, highest))
    }
}

fn times_of<'a>(
    rows: &'a RecordBatch,
    event_time: &EventTime,
) -> Result<&'a TimestampMicrosecondArray> {
    let column = rows.column_by_name(&event_time.column);
    event_times(column.ok_or_else(|| Error::internal("rows without their event time"))?)
}

/// The rows of a stream of files, one file after the other.
struct FileRows {
    shared: Arc<ScanTimes>,
    outlet: BatchOutlet,
    /// Rows so far, by the offset of their file.
    passed: HashMap<i64, i64>,
    read: Count,
}

impl FileRows {
    /// Rows of one file as the scan gives them: with the hidden column, without those that are set aside.
    fn pass(&mut self, rows: &RecordBatch, met: &ByVersion) -> Result<RecordBatch> {
        let count = rows.num_rows();
        if count == 0 {
            return Ok(RecordBatch::new_empty(Arc::clone(&self.shared.schema)));
        }
        self.read.add(count);
        let file = self.shared.files.of(rows)?;
        let passed = self.passed.entry(file.offset).or_default();
        let numbers = Int64Array::from_iter_values((*passed..).take(count));
        *passed += i64::try_from(count).unwrap_or(i64::MAX);
        let met = met.get(&file.version).copied().flatten();
        let mut late = in_time(count);
        let mut bad = None;
        if let Some(event_time) = &self.shared.time.event_time {
            let times = times_of(rows, event_time)?;
            let latest = latest_event_time(event_time, file.written).unwrap_or(i64::MAX);
            let is_behind = |time: i64| met.is_some_and(|met| time < met);
            let is_odd = times.null_count() > 0
                || min(times).is_some_and(is_behind)
                || max(times).is_some_and(|highest| highest > latest);
            if is_odd {
                let reasons: Vec<Option<String>> = times
                    .iter()
                    .map(|time| match time {
                        None => Some(null_time(event_time)),
                        Some(time) if time > latest => {
                            Some(far_future(event_time, "the time its file was written"))
                        }
                        Some(_) => None,
                    })
                    .collect();
                let behind = times.iter().map(|time| time.is_some_and(is_behind));
                let values = self.values(
                    rows,
                    behind
                        .zip(&reasons)
                        .map(|(late, bad)| late || bad.is_some()),
                )?;
                late = self.late(&values, &reasons);
                bad = self.set_aside(file, values, reasons)?;
            }
        }
        let offsets = Int64Array::from(vec![file.offset; count]);
        let watermarks = vec![met.unwrap_or(i64::MIN); count];
        let hidden = row_column(PARTITION, offsets, Some(numbers), watermarks, late)?;
        let rows = self.projected(rows, &hidden)?;
        match bad {
            Some(bad) => {
                filter_record_batch(&rows, &not(&bad).map_err(internal)?).map_err(internal)
            }
            None => Ok(rows),
        }
    }

    /// The columns that are asked for.
    fn projected(&self, rows: &RecordBatch, hidden: &ArrayRef) -> Result<RecordBatch> {
        let schema = &self.shared.schema;
        let columns = schema.fields().iter().map(|field| {
            if field.name() == ROW_COLUMN {
                return Ok(Arc::clone(hidden));
            }
            let column = rows.column_by_name(field.name()).cloned();
            column.ok_or_else(|| Error::internal(format!("rows without {}", field.name())))
        });
        let columns = columns.collect::<Result<Vec<_>>>()?;
        let options = RecordBatchOptions::new().with_row_count(Some(rows.num_rows()));
        RecordBatch::try_new_with_options(Arc::clone(schema), columns, &options).map_err(internal)
    }

    /// The columns of some of the rows as JSON, which are kept; none for values that JSON cannot express.
    fn values(
        &self,
        rows: &RecordBatch,
        is_kept: impl Iterator<Item = bool>,
    ) -> Result<Vec<Option<Vec<u8>>>> {
        let is_kept: BooleanArray = is_kept.map(Some).collect();
        let mut rows = rows.clone();
        rows.remove_column(rows.schema().index_of(FILE_COLUMN).map_err(internal)?);
        let kept = filter_record_batch(&rows, &is_kept).map_err(internal)?;
        let mut kept = json(&kept).into_iter();
        let of_row = |is_kept| if is_kept { kept.next().flatten() } else { None };
        Ok(is_kept.values().iter().map(of_row).collect())
    }

    /// Topic and value of rows that may be late.
    fn late(&self, values: &[Option<Vec<u8>>], reasons: &[Option<String>]) -> [ArrayRef; 2] {
        let in_doubt = || {
            let rows = values.iter().zip(reasons);
            rows.map(|(value, bad)| value.as_deref().filter(|_| bad.is_none()))
        };
        let location = self.shared.time.location.as_str();
        // Rows in time have a topic as well, which is not used.
        let topics = StringArray::from_iter_values(values.iter().map(|_| location));
        [
            Arc::new(topics),
            Arc::new(in_doubt().collect::<BinaryArray>()),
        ]
    }

    /// Keeps rows without a time of this world as dead letters, and says which those are.
    fn set_aside(
        &self,
        file: FileFacts,
        values: Vec<Option<Vec<u8>>>,
        reasons: Vec<Option<String>>,
    ) -> Result<Option<BooleanArray>> {
        let is_bad: BooleanArray = reasons
            .iter()
            .map(|reason| Some(reason.is_some()))
            .collect();
        if is_bad.true_count() == 0 {
            return Ok(None);
        }
        let count = reasons.len();
        let time = &self.shared.time;
        let records = values
            .into_iter()
            .zip(reasons)
            .filter_map(|(value, reason)| {
                Some(BadRecord {
                    topic: time.location.clone(),
                    partition: PARTITION,
                    offset: file.offset,
                    timestamp: Some(file.written),
                    key: None,
                    value,
                    reason: reason?,
                })
            });
        let records: Vec<BadRecord> = records.collect();
        self.outlet.give_bad(&records, count)?;
        Ok(Some(is_bad))
    }
}

/// Each row as JSON; none where a value cannot be written so.
fn json(rows: &RecordBatch) -> Vec<Option<Vec<u8>>> {
    let encode = |rows: &RecordBatch| -> Result<Vec<Option<Vec<u8>>>> {
        let options = [("format", "json"), ("json.nulls", "write")];
        let mut encoder = FormatOptions::from_options(options, rows.schema())?.encoder()?;
        let encoded = encoder.encode(rows, None)?;
        Ok(encoded.iter().map(|row| row.map(<[u8]>::to_vec)).collect())
    };
    encode(rows).unwrap_or_else(|_| {
        let one = |row| encode(&rows.slice(row, 1)).ok()?.pop()?;
        (0..rows.num_rows()).map(one).collect()
    })
}

fn internal(error: datafusion::arrow::error::ArrowError) -> Error {
    Error::internal(error.to_string())
}

impl fmt::Debug for DeltaTimedExec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DeltaTimedExec")
            .field("rows", &self.rows)
            .finish_non_exhaustive()
    }
}

impl DisplayAs for DeltaTimedExec {
    fn fmt_as(&self, _: DisplayFormatType, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "DeltaTimedExec")
    }
}

impl ExecutionPlan for DeltaTimedExec {
    has_no_children!("DeltaTimedExec");

    fn execute(
        &self,
        partition: usize,
        context: Arc<TaskContext>,
    ) -> datafusion::error::Result<SendableRecordBatchStream> {
        let reports = self.reports.clone();
        let outlet = BatchOutlet::open(reports.scan.clone(), &context)?;
        let rows = self.rows.execute(partition, Arc::clone(&context))?;
        let shared = Arc::clone(&self.shared);
        let counter = |name| MetricBuilder::new(&self.metrics).counter(name, partition);
        if partition == 0 {
            counter(BYTES_READ).add(usize::try_from(self.bytes).unwrap_or(usize::MAX));
        }
        let mut of_files = FileRows {
            shared: Arc::clone(&shared),
            outlet: outlet.clone(),
            passed: HashMap::new(),
            read: counter(RECORDS_READ),
        };
        let timed = async move {
            let passed = shared.passed(&context).await?;
            let (met, reached) = (passed.met.clone(), passed.reached);
            let timed = rows.map(move |rows| Ok(of_files.pass(&rows?, &met)?));
            let report = async move {
                reports.report(&outlet, partition, reached)?;
                Ok::<_, DataFusionError>(None)
            };
            let end = futures::stream::once(report)
                .try_filter_map(|none: Option<RecordBatch>| async move { Ok(none) });
            Ok::<_, DataFusionError>(timed.chain(end))
        };
        let timed = futures::stream::once(timed).try_flatten();
        let schema = self.schema();
        Ok(Box::pin(RecordBatchStreamAdapter::new(schema, timed)))
    }

    fn metrics(&self) -> Option<MetricsSet> {
        Some(self.metrics.clone_inner())
    }
}
