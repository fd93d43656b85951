//! Scan of explicit offset ranges: a few streams, each of which reads its ranges one after the other.

use std::collections::VecDeque;
use std::fmt;
use std::sync::Arc;

use anabranch_udfs::has_no_children;
use datafusion::arrow::datatypes::SchemaRef;
use datafusion::error::Result as DataFusionResult;
use datafusion::execution::TaskContext;
use datafusion::physical_expr::EquivalenceProperties;
use datafusion::physical_plan::execution_plan::{Boundedness, EmissionType};
use datafusion::physical_plan::metrics::{
    BaselineMetrics, ExecutionPlanMetricsSet, MetricBuilder, MetricsSet,
};
use datafusion::physical_plan::stream::RecordBatchReceiverStreamBuilder;
use datafusion::physical_plan::{
    DisplayAs, DisplayFormatType, ExecutionPlan, Partitioning, PlanProperties,
    SendableRecordBatchStream,
};

use crate::error::{Error, Result};
use crate::tables::kafka::definition::{KafkaTable, OnError};
use crate::tables::kafka::earlier_records::EarlierPlan;
use crate::tables::kafka::progress::ends_range;
use crate::tables::kafka::queue_sizes::ASSIGNED;
use crate::tables::kafka::range::OffsetRange;
use crate::tables::kafka::range_reading::{BatchOutput, RangeEnd, RangeReading};
use crate::tables::kafka::reader::TableReader;
use crate::tables::kafka::record::{ArchiveReading, RecordReader};
use crate::tables::kafka::time::PartitionTimer;
use crate::tables::read_metrics::{BYTES_READ, RECORDS_PLANNED, RECORDS_READ};
use crate::tables::side_output::{ExpectedReport, OpenOutlet, ScanOutlet};
use crate::tables::time::BatchTime;

/// The most streams of a scan, unless there are more threads: each holds a batch and the records fetched ahead.
const STREAMS: usize = 16;

/// Reads fixed offset ranges of a topic as bounded streams.
#[derive(Debug, Clone)]
pub struct KafkaScanExec {
    table: Arc<KafkaTable>,
    ranges: Vec<OffsetRange>,
    /// The records that ranges begin with and that do not come from the topic.
    earlier: Option<Arc<EarlierPlan>>,
    projection: Vec<usize>,
    limit: Option<usize>,
    on_error: OnError,
    outlet: ScanOutlet,
    time: Option<Arc<BatchTime>>,
    /// Whether rows without a time of this world are set aside although no time is kept.
    sets_times_aside: bool,
    client: Arc<TableReader>,
    properties: Arc<PlanProperties>,
    metrics: ExecutionPlanMetricsSet,
}

impl KafkaScanExec {
    pub(crate) fn new(
        table: Arc<KafkaTable>,
        ranges: Vec<OffsetRange>,
        projection: Vec<usize>,
        schema: SchemaRef,
        limit: Option<usize>,
        (on_error, outlet): (OnError, ScanOutlet),
        threads: usize,
    ) -> Self {
        let streams = ranges.len().min(threads.max(STREAMS));
        let properties = PlanProperties::new(
            EquivalenceProperties::new(schema),
            Partitioning::UnknownPartitioning(streams),
            EmissionType::Incremental,
            Boundedness::Bounded,
        );
        let client = TableReader::new(Arc::clone(&table), ranges.len(), false);
        let metrics = ExecutionPlanMetricsSet::new();
        let planned: u64 = ranges.iter().map(OffsetRange::len).sum();
        MetricBuilder::new(&metrics)
            .global_counter(RECORDS_PLANNED)
            .add(usize::try_from(planned).unwrap_or(usize::MAX));
        Self {
            table,
            ranges,
            earlier: None,
            projection,
            limit,
            on_error,
            outlet,
            time: None,
            sets_times_aside: false,
            client: Arc::new(client),
            properties: Arc::new(properties),
            metrics,
        }
    }

    /// As a batch of a job reads: keeping time, and with a client that is kept.
    pub(crate) fn for_batch(
        mut self,
        time: Option<Arc<BatchTime>>,
        client: Option<Arc<TableReader>>,
    ) -> Self {
        self.time = time;
        if let Some(client) = client {
            self.client = client;
        }
        self
    }

    /// As a run reads what a job that keeps time has read: rows without a time of this world are set aside.
    pub(crate) fn without_other_times(mut self) -> Self {
        self.sets_times_aside = true;
        self
    }

    /// As a batch reads some of whose ranges begin with records that do not come from the topic.
    pub(crate) fn with_earlier(mut self, earlier: EarlierPlan) -> Self {
        let streams = Partitioning::UnknownPartitioning(earlier.streams());
        let properties = PlanProperties::clone(&self.properties).with_partitioning(streams);
        self.properties = Arc::new(properties);
        self.earlier = Some(Arc::new(earlier));
        self
    }

    /// Whether records that it cannot decode are set aside.
    pub(crate) fn sets_aside(&self) -> bool {
        self.on_error == OnError::DeadLetter
    }

    /// What it reports when it has run as a part of a batch: each range, read to its end (LOSS-1).
    pub fn expected(&self) -> Vec<ExpectedReport> {
        let ScanOutlet::Batch(scan) = &self.outlet else {
            return Vec::new();
        };
        let of_range = |range: &OffsetRange| ExpectedReport {
            table: Arc::clone(&scan.table),
            scan: scan.scan,
            partition: range.partition,
            stream: 0,
            start: range.start,
            end: range.end,
        };
        self.ranges.iter().map(of_range).collect()
    }
}

impl DisplayAs for KafkaScanExec {
    fn fmt_as(&self, _: DisplayFormatType, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let columns: Vec<&str> = self
            .projection
            .iter()
            .filter_map(|index| self.table.columns.get(*index))
            .map(|column| column.field.name().as_str())
            .collect();
        let ranges: Vec<String> = self.ranges.iter().map(ToString::to_string).collect();
        write!(
            f,
            "KafkaScanExec: topic={}, columns=[{}], offsets=[{}]",
            self.table.topic,
            columns.join(", "),
            ranges.join(", ")
        )?;
        if let Some(earlier) = &self.earlier {
            let parts: Vec<String> = earlier.parts().map(ToString::to_string).collect();
            write!(f, ", of the archive=[{}]", parts.join(", "))?;
        }
        match self.limit {
            Some(limit) => write!(f, ", limit={limit}"),
            None => Ok(()),
        }
    }
}

impl ExecutionPlan for KafkaScanExec {
    has_no_children!("KafkaScanExec");

    fn execute(
        &self,
        partition: usize,
        context: Arc<TaskContext>,
    ) -> DataFusionResult<SendableRecordBatchStream> {
        let streams = self.properties.partitioning.partition_count();
        if partition >= streams {
            return Err(Error::internal(format!("no ranges for stream {partition}")).into());
        }
        let schema = self.schema();
        let ranges: VecDeque<OffsetRange> = match &self.earlier {
            Some(earlier) => earlier.ranges(partition).iter().copied().collect(),
            None => {
                let ranges = self.ranges.iter().skip(partition);
                ranges.step_by(streams).copied().collect()
            }
        };
        let mut builder = RecordBatchReceiverStreamBuilder::new(schema, 2);
        let counter =
            |name: &'static str| MetricBuilder::new(&self.metrics).counter(name, partition);
        let mut output = BatchOutput {
            sender: builder.tx(),
            wanted: self.limit,
            baseline: BaselineMetrics::new(&self.metrics, partition),
            bytes: counter(BYTES_READ),
            records: counter(RECORDS_READ),
            decode_time: MetricBuilder::new(&self.metrics).subset_time("decode_time", partition),
        };
        let scan = self.clone();
        let outlet = self.outlet.open(&context)?;
        let batch_size = context.session_config().batch_size();
        builder.spawn(async move {
            let stream = (partition, context);
            let read = scan.read(ranges, stream, batch_size, &outlet, &mut output);
            let read = read.await;
            if read.is_err() {
                scan.client.discard();
            }
            Ok(read?)
        });
        Ok(builder.build())
    }

    fn metrics(&self) -> Option<MetricsSet> {
        Some(self.metrics.clone_inner())
    }
}

impl KafkaScanExec {
    /// Reads ranges one after the other, while the next ones are being fetched.
    async fn read(
        &self,
        mut ranges: VecDeque<OffsetRange>,
        (stream, context): (usize, Arc<TaskContext>),
        batch_size: usize,
        outlet: &OpenOutlet,
        output: &mut BatchOutput,
    ) -> Result<()> {
        let streams = self.properties.partitioning.partition_count();
        let ahead = (ASSIGNED / streams).max(1);
        let mut opened = VecDeque::with_capacity(ahead);
        let mut earlier = None;
        loop {
            while opened.len() < ahead
                && let Some(range) = ranges.pop_front()
            {
                let of_topic = self.of_topic(range);
                let cursor = match of_topic.is_empty() {
                    true => None,
                    false => Some(self.client.open(range.partition, of_topic.start).await?),
                };
                opened.push_back((range, of_topic, cursor));
            }
            let Some((range, of_topic, cursor)) = opened.pop_front() else {
                return Ok(());
            };
            let mut reader = self.reader(range.partition, outlet.clone())?;
            if let Some((plan, part)) = self.earlier(range.partition) {
                let records = match &mut earlier {
                    Some(begun) => begun,
                    None => earlier.insert(plan.begin(stream, Arc::clone(&context))?),
                };
                let read = records.read(part, outlet.clone(), self.time.as_deref(), output);
                let (end, reached) = read.await?;
                if end == RangeEnd::Stopped {
                    return Ok(());
                }
                reader.follow(reached.into_reader());
            }
            let Some((mut cursor, faults)) = cursor else {
                reader.finish(range, range.end)?;
                continue;
            };
            let reading = RangeReading {
                table: Arc::clone(&self.table),
                range: of_topic,
                begin: range.start,
                batch_size,
                reader,
                faults,
                rule: ends_range,
            };
            if reading.read(&mut cursor, output).await? == RangeEnd::Stopped {
                return Ok(());
            }
            self.client.close(range.partition, cursor);
        }
    }

    /// The part of a partition's range that does not come from the topic, if there is one.
    fn earlier(&self, partition: i32) -> Option<(&EarlierPlan, OffsetRange)> {
        let plan = self.earlier.as_deref()?;
        Some((plan, plan.part(partition)?))
    }

    /// The part of a range that the topic gives.
    fn of_topic(&self, range: OffsetRange) -> OffsetRange {
        let earlier = self.earlier(range.partition);
        OffsetRange {
            start: earlier.map_or(range.start, |(_, part)| part.end),
            ..range
        }
    }

    fn reader(&self, partition: i32, outlet: OpenOutlet) -> Result<RecordReader> {
        let timer = PartitionTimer::of(&self.table, self.time.as_deref(), partition);
        let reading = ArchiveReading {
            sets_times_aside: self.sets_times_aside,
            ..ArchiveReading::default()
        };
        RecordReader::try_new(
            &self.table,
            self.schema(),
            &self.projection,
            self.on_error,
            outlet,
            (partition, timer),
            reading,
        )
    }
}
