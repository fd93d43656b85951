//! The scan of explicit offset ranges: one stream per partition, each on a thread of its own.

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use datafusion::arrow::array::RecordBatch;
use datafusion::arrow::datatypes::SchemaRef;
use datafusion::common::tree_node::TreeNodeRecursion;
use datafusion::error::Result as DataFusionResult;
use datafusion::execution::TaskContext;
use datafusion::physical_expr::EquivalenceProperties;
use datafusion::physical_plan::execution_plan::{Boundedness, EmissionType};
use datafusion::physical_plan::metrics::{
    BaselineMetrics, Count, ExecutionPlanMetricsSet, MetricBuilder, MetricsSet, Time,
};
use datafusion::physical_plan::stream::RecordBatchReceiverStreamBuilder;
use datafusion::physical_plan::{
    DisplayAs, DisplayFormatType, ExecutionPlan, Partitioning, PhysicalExpr, PlanProperties,
    SendableRecordBatchStream,
};
use rdkafka::Offset;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::{BorrowedMessage, Message};
use tokio::sync::mpsc::Sender;

use crate::error::{Error, Result};
use crate::tables::bad_records::BadRecords;
use crate::tables::kafka::client::{Faults, request_error};
use crate::tables::kafka::definition::{KafkaTable, OnError};
use crate::tables::kafka::pool::{ConsumerPool, Held};
use crate::tables::kafka::range::OffsetRange;
use crate::tables::kafka::record::RecordReader;
use crate::tables::kafka::time::PartitionTimer;
use crate::tables::time::BatchTime;

/// Bytes after which a batch is handed on although it has few rows.
const BATCH_BYTES: usize = 8 << 20;
const POLL: Duration = Duration::from_millis(100);
/// A consumer that is kept and gives nothing for so long may have nothing to give: what is left are control records.
const SILENCE: Duration = Duration::from_millis(50);
/// The same for one that connects.
const CONNECTING: Duration = Duration::from_secs(1);

/// Reads fixed offset ranges of a topic as bounded streams, one per range.
#[derive(Debug)]
pub struct KafkaScanExec {
    table: Arc<KafkaTable>,
    ranges: Vec<OffsetRange>,
    projection: Vec<usize>,
    limit: Option<usize>,
    on_error: OnError,
    bad_records: Arc<BadRecords>,
    time: Option<Arc<BatchTime>>,
    pool: Option<Arc<ConsumerPool>>,
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
        on_error: OnError,
        bad_records: Arc<BadRecords>,
    ) -> Self {
        let properties = PlanProperties::new(
            EquivalenceProperties::new(schema),
            Partitioning::UnknownPartitioning(ranges.len()),
            EmissionType::Incremental,
            Boundedness::Bounded,
        );
        Self {
            table,
            ranges,
            projection,
            limit,
            on_error,
            bad_records,
            time: None,
            pool: None,
            properties: Arc::new(properties),
            metrics: ExecutionPlanMetricsSet::new(),
        }
    }

    /// As a batch of a job reads: keeping time, and with consumers that are kept.
    pub(crate) fn for_batch(
        mut self,
        time: Option<Arc<BatchTime>>,
        pool: Option<Arc<ConsumerPool>>,
    ) -> Self {
        self.time = time;
        self.pool = pool;
        self
    }

    /// How many records it has read so far.
    pub fn records_read(&self) -> u64 {
        self.counted("records_scanned")
    }

    /// Bytes of the keys and values of records it has read so far.
    pub fn bytes_read(&self) -> u64 {
        self.counted("bytes_scanned")
    }

    fn counted(&self, name: &str) -> u64 {
        let metrics = self.metrics.clone_inner();
        metrics
            .sum_by_name(name)
            .map_or(0, |count| count.as_usize() as u64)
    }

    /// How many offsets it reads at most.
    pub fn total_offsets(&self) -> u64 {
        self.ranges.iter().map(OffsetRange::len).sum()
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
        let ranges: Vec<String> = self
            .ranges
            .iter()
            .map(|range| format!("{}:[{}, {})", range.partition, range.start, range.end))
            .collect();
        write!(
            f,
            "KafkaScanExec: topic={}, columns=[{}], offsets=[{}]",
            self.table.topic,
            columns.join(", "),
            ranges.join(", ")
        )?;
        match self.limit {
            Some(limit) => write!(f, ", limit={limit}"),
            None => Ok(()),
        }
    }
}

impl ExecutionPlan for KafkaScanExec {
    fn name(&self) -> &'static str {
        "KafkaScanExec"
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
        Ok(self)
    }

    fn execute(
        &self,
        partition: usize,
        context: Arc<TaskContext>,
    ) -> DataFusionResult<SendableRecordBatchStream> {
        let range = *self
            .ranges
            .get(partition)
            .ok_or_else(|| Error::internal(format!("no range for partition {partition}")))?;
        let schema = self.schema();
        let timer = match (&self.time, self.table.event_time()) {
            (Some(time), Some(event_time)) if time.is_kept() => Some(PartitionTimer::new(
                event_time,
                Arc::clone(time),
                range.partition,
            )),
            _ => None,
        };
        let reader = RecordReader::try_new(
            &self.table,
            Arc::clone(&schema),
            &self.projection,
            self.on_error,
            Arc::clone(&self.bad_records),
            (range.partition, timer),
        )?;
        let mut builder = RecordBatchReceiverStreamBuilder::new(schema, 2);
        let scan = RangeScan {
            table: Arc::clone(&self.table),
            pool: self.pool.clone(),
            range,
            limit: self.limit,
            batch_size: context.session_config().batch_size(),
            reader,
            output: builder.tx(),
            baseline: BaselineMetrics::new(&self.metrics, partition),
            bytes: MetricBuilder::new(&self.metrics).counter("bytes_scanned", partition),
            records: MetricBuilder::new(&self.metrics).counter("records_scanned", partition),
            decode_time: MetricBuilder::new(&self.metrics).subset_time("decode_time", partition),
        };
        builder.spawn_blocking(move || scan.run().map_err(Into::into));
        Ok(builder.build())
    }

    fn metrics(&self) -> Option<MetricsSet> {
        Some(self.metrics.clone_inner())
    }
}

/// One range being read.
struct RangeScan {
    table: Arc<KafkaTable>,
    pool: Option<Arc<ConsumerPool>>,
    range: OffsetRange,
    limit: Option<usize>,
    batch_size: usize,
    reader: RecordReader,
    output: Sender<DataFusionResult<RecordBatch>>,
    baseline: BaselineMetrics,
    bytes: Count,
    records: Count,
    decode_time: Time,
}

/// How reading a range ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Read {
    /// With its last record.
    All,
    /// Without a record of its last offset, or because nobody wants more.
    Stopped,
    /// In silence, before its end.
    Silent,
}

/// What one poll brought.
enum Polled<'a> {
    Record(BorrowedMessage<'a>),
    Quiet,
    End,
}

impl RangeScan {
    fn run(mut self) -> Result<()> {
        if let Some(pool) = self.pool.clone() {
            let partition = self.range.partition;
            let kept = pool.take(partition, self.range.start);
            // One that is to be connected first takes longer.
            let patience = if kept.is_some() { SILENCE } else { CONNECTING };
            let held = match kept {
                Some(held) => held,
                None => Held::open(&self.table, partition, self.range.start, false)?,
            };
            match self.read(&held, Some(patience))? {
                Read::All => {
                    pool.put(partition, self.range.end, held);
                    return Ok(());
                }
                Read::Stopped => return Ok(()),
                // What is left may be no records at all: another consumer tells where the log ends.
                Read::Silent => {}
            }
        }
        let held = Held::open(&self.table, self.range.partition, self.range.start, true)?;
        self.read(&held, None)?;
        Ok(())
    }

    /// Reads on from where the range starts; the start moves with what is handed on.
    fn read(&mut self, held: &Held, patience: Option<Duration>) -> Result<Read> {
        let (consumer, faults) = (&held.consumer, &held.faults);
        let mut pending: Vec<BorrowedMessage<'_>> = Vec::with_capacity(self.batch_size.min(1_024));
        let mut pending_bytes = 0;
        let mut sent = 0;
        let mut progress = Instant::now();
        loop {
            let wait = patience.map_or(POLL, |patience| patience.min(POLL));
            let end = match self.poll(consumer, faults, wait)? {
                Polled::Record(message) => {
                    progress = Instant::now();
                    let next = message.offset() + 1;
                    let within = message.offset() < self.range.end;
                    if within {
                        pending_bytes += message.payload_len() + message.key_len();
                        pending.push(message);
                    }
                    !within || next >= self.range.end
                }
                // Control records and compaction may leave the last offsets without a record.
                Polled::End => true,
                Polled::Quiet => {
                    if progress.elapsed() > self.table.client.connect_timeout {
                        return Err(self.table.client.unavailable(faults));
                    }
                    if self.output.is_closed() {
                        return Ok(Read::Stopped);
                    }
                    let is_silent = patience.is_some_and(|patience| progress.elapsed() >= patience);
                    if is_silent {
                        if !pending.is_empty() {
                            self.hand_on(&pending, pending_bytes)?;
                        }
                        return Ok(Read::Silent);
                    }
                    pending.is_empty() && self.position(consumer) >= self.range.end
                }
            };
            let full = pending.len() >= self.batch_size || pending_bytes >= BATCH_BYTES;
            let enough = self
                .limit
                .is_some_and(|limit| sent + pending.len() >= limit);
            if !pending.is_empty() && (full || end || enough) {
                sent += self.hand_on(&pending, pending_bytes)?;
                pending.clear();
                pending_bytes = 0;
                // Waiting for a slow reader is no silence of the broker.
                progress = Instant::now();
            }
            if end {
                self.reader.finish();
                // A consumer that has given a later record cannot give it again.
                let is_exact = self.range.start >= self.range.end;
                return Ok(if is_exact { Read::All } else { Read::Stopped });
            }
            if enough || self.output.is_closed() {
                return Ok(Read::Stopped);
            }
        }
    }

    fn poll<'a>(
        &self,
        consumer: &'a BaseConsumer<Faults>,
        faults: &Faults,
        wait: Duration,
    ) -> Result<Polled<'a>> {
        match consumer.poll(wait) {
            None => Ok(Polled::Quiet),
            Some(Ok(message)) => Ok(Polled::Record(message)),
            Some(Err(KafkaError::PartitionEOF(_))) => Ok(Polled::End),
            Some(Err(error)) => match error.rdkafka_error_code() {
                Some(RDKafkaErrorCode::AutoOffsetReset | RDKafkaErrorCode::OffsetOutOfRange) => {
                    Err(Error::data(format!(
                        "topic '{}' no longer has offset {} of partition {}",
                        self.table.topic, self.range.start, self.range.partition
                    ))
                    .with_help("retention removed it while the statement ran: run it again"))
                }
                // Retried inside librdkafka; the silence is bounded above.
                Some(
                    RDKafkaErrorCode::BrokerTransportFailure
                    | RDKafkaErrorCode::AllBrokersDown
                    | RDKafkaErrorCode::OperationTimedOut
                    | RDKafkaErrorCode::Resolve,
                ) if !faults.is_hopeless() => Ok(Polled::Quiet),
                _ => Err(request_error(&error, &self.table.client, faults)),
            },
        }
    }

    fn position(&self, consumer: &BaseConsumer<Faults>) -> i64 {
        let found = consumer.position().ok().and_then(|list| {
            let element = list.find_partition(&self.table.topic, self.range.partition)?;
            match element.offset() {
                Offset::Offset(offset) => Some(offset),
                _ => None,
            }
        });
        found.unwrap_or(self.range.start)
    }

    /// Decodes and sends a batch; returns how many rows it has.
    fn hand_on(&mut self, messages: &[BorrowedMessage<'_>], bytes: usize) -> Result<usize> {
        let timer = self.decode_time.timer();
        let batch = self.reader.read(messages)?;
        timer.done();
        self.bytes.add(bytes);
        self.records.add(messages.len());
        self.baseline.record_output(batch.num_rows());
        let rows = batch.num_rows();
        if let Some(last) = messages.last() {
            self.range.start = last.offset() + 1;
        }
        // A closed channel means that nobody wants more rows; the caller sees it.
        let _ = self.output.blocking_send(Ok(batch));
        Ok(rows)
    }
}
