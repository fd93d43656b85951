//! The table provider: ranges fixed once per statement, narrowed by predicates; INSERT as a sink.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicI32, Ordering};
use std::sync::{Arc, OnceLock};

use datafusion::arrow::datatypes::{Schema, SchemaRef};
use datafusion::catalog::{Session, TableProvider};
use datafusion::datasource::sink::DataSinkExec;
use datafusion::error::Result as DataFusionResult;
use datafusion::logical_expr::dml::InsertOp;
use datafusion::logical_expr::{Expr, TableProviderFilterPushDown, TableType};
use datafusion::physical_plan::ExecutionPlan;
use datafusion::physical_plan::empty::EmptyExec;
use datafusion::physical_plan::union::UnionExec;
use futures::FutureExt as _;
use futures::future::BoxFuture;
use tokio::sync::OnceCell;

use crate::core::archive::PartitionHalves;
use crate::error::{Error, Result, Subject};
use crate::tables::bad_records::{BadRecords, SetAside};
use crate::tables::boxed_methods::{boxed_insert_into, boxed_scan};
use crate::tables::kafka::blocking::on_own_thread;
use crate::tables::kafka::client::ClientFaults;
use crate::tables::kafka::definition::KafkaTable;
use crate::tables::kafka::earlier_records::{EarlierParts, EarlierPlan};
use crate::tables::kafka::librdkafka::LogEnd;
use crate::tables::kafka::partition_ends::{self, ClientLeaders, Leaders as _};
use crate::tables::kafka::pool::ConsumerPool;
use crate::tables::kafka::range::{NarrowingColumns, OffsetRange, RowBounds, bounds};
use crate::tables::kafka::scan::KafkaScanExec;
use crate::tables::kafka::sink::KafkaSink;
use crate::tables::side_output::{BatchScan, ScanOutlet};
use crate::tables::time::{BatchTime, row_field};

/// A Kafka table as one statement sees it: all its scans read the same ends.
#[derive(Debug)]
pub struct KafkaTableProvider {
    table: Arc<KafkaTable>,
    /// Partition, first offset kept, last stable offset.
    ends: OnceCell<Vec<(i32, i64, i64)>>,
    /// Of a table with an archive: how each partition is read over both.
    halves: OnceLock<BTreeMap<i32, PartitionHalves>>,
    /// The ranges of a job's batch, which no predicate narrows.
    fixed: Option<Vec<OffsetRange>>,
    /// Takes what a plain statement cannot decode.
    bad_records: Arc<BadRecords>,
    /// Of a job's batch: what the job calls the table.
    name: Arc<str>,
    /// Of a job's batch: records that are to be left out.
    aside: Arc<SetAside>,
    /// How many scans were planned.
    scans: AtomicI32,
    /// Of a job's batch that keeps time: the table has the hidden column then.
    time: Option<Arc<BatchTime>>,
    pool: Option<Arc<ConsumerPool>>,
    /// Of a job's batch: what its ranges begin with that does not come from the topic.
    earlier: Option<EarlierParts>,
    schema: SchemaRef,
}

impl KafkaTableProvider {
    /// A provider for one statement.
    pub fn new(table: Arc<KafkaTable>) -> Self {
        Self {
            schema: Arc::clone(&table.schema),
            name: table.name.as_str().into(),
            table,
            ends: OnceCell::new(),
            halves: OnceLock::new(),
            fixed: None,
            bad_records: Arc::default(),
            aside: Arc::default(),
            scans: AtomicI32::new(0),
            time: None,
            pool: None,
            earlier: None,
        }
    }

    /// A provider for one batch of a job: reads just these ranges, with consumers of the pool.
    pub fn for_batch(
        table: Arc<KafkaTable>,
        ranges: Vec<OffsetRange>,
        pool: Option<Arc<ConsumerPool>>,
    ) -> Self {
        Self {
            fixed: Some(ranges),
            pool,
            ..Self::new(table)
        }
    }

    /// The same, with place and watermark of every row in the hidden column
    /// [`ROW_COLUMN`](crate::tables::time::ROW_COLUMN).
    #[must_use]
    pub fn with_time(mut self, time: Arc<BatchTime>) -> Self {
        let hidden = Arc::new(row_field());
        let fields = self.table.schema.fields().iter().cloned().chain([hidden]);
        self.schema = Arc::new(Schema::new(fields.collect::<Vec<_>>()));
        self.time = Some(time);
        self
    }

    /// The same, whose ranges begin with records that do not come from the topic.
    #[must_use]
    pub(crate) fn with_earlier(mut self, earlier: EarlierParts) -> Self {
        self.earlier = Some(earlier);
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

    /// The table.
    pub fn table(&self) -> &Arc<KafkaTable> {
        &self.table
    }

    /// Records that a plain statement set aside; those of a batch go to the side output of its task.
    pub fn bad_records(&self) -> &Arc<BadRecords> {
        &self.bad_records
    }

    /// The ends of the topic's partitions, the same for all scans of the statement: partition, first offset kept, last stable offset.
    ///
    /// # Errors
    ///
    /// The topic is gone, or the broker does not answer.
    pub(crate) async fn ends(&self) -> Result<&[(i32, i64, i64)]> {
        let ends = self.ends.get_or_try_init(|| {
            self.asked(|leaders| partition_ends::stable_ends(leaders, &leaders.partitions()?))
        });
        Ok(ends.await?)
    }

    /// Where the topic's partitions end now, records of open transactions included.
    ///
    /// # Errors
    ///
    /// The topic is gone, or the broker does not answer.
    pub(crate) async fn latest(&self) -> Result<BTreeMap<i32, i64>> {
        let latest = self.asked(|leaders| leaders.list(&leaders.partitions()?, LogEnd::Latest));
        Ok(latest.await?.into_iter().collect())
    }

    /// Asks the leaders of the topic's partitions with a client of its own.
    async fn asked<T: Send + 'static>(
        &self,
        ask: fn(&ClientLeaders<'_>) -> Result<T>,
    ) -> Result<T> {
        let table = Arc::clone(&self.table);
        let answer = on_own_thread(move || {
            let consumer = table.client.consumer(ClientFaults::default())?;
            ask(&ClientLeaders {
                settings: &table.client,
                consumer: &consumer,
                topic: &table.topic,
            })
        });
        answer.await
    }

    /// Leaves the archive's half of each partition to the table's archive; the first call counts.
    pub(crate) fn leave_archived(&self, halves: &[PartitionHalves]) {
        let halves = halves.iter().map(|half| (half.partition, *half));
        let _ = self.halves.set(halves.collect());
    }

    fn half(&self, partition: i32) -> Option<&PartitionHalves> {
        self.halves.get()?.get(&partition)
    }

    /// Whether a range comes before the records of its partition that the archive gives.
    fn is_before_archive(&self, range: &OffsetRange) -> bool {
        let before = self.half(range.partition).and_then(|half| half.before);
        before.is_some_and(|(_, end)| range.start < end)
    }

    /// The columns that narrow a scan.
    pub(crate) fn narrowing(&self) -> NarrowingColumns {
        self.table.narrowing()
    }

    async fn ranges(&self, filters: &[Expr]) -> Result<Vec<OffsetRange>> {
        if let Some(ranges) = &self.fixed {
            return Ok(ranges
                .iter()
                .filter(|range| !range.is_empty())
                .copied()
                .collect());
        }
        let ends = self.ends().await?;
        let columns = self.narrowing();
        let mut ranges = Vec::new();
        let mut starts = Vec::new();
        for (partition, low, high) in ends {
            let Some(bounds) = bounds(filters, &columns, *partition) else {
                continue;
            };
            let (before, behind) = match self.half(*partition) {
                None => (None, (*low, *high)),
                Some(half) => (half.before, half.topic),
            };
            let parts = before.into_iter().chain([behind]);
            let parts = parts.map(|(low, high)| narrow(*partition, low, high, bounds));
            let parts: Vec<OffsetRange> = parts.filter(|range| !range.is_empty()).collect();
            if parts.is_empty() {
                continue;
            }
            let (from, _) = bounds.timestamp;
            if from > 0 {
                starts.push((*partition, from.div_euclid(1_000)));
            }
            ranges.extend(parts);
        }
        // The first record at or after a time is a lower bound, no matter who sets the times. It is no upper bound: earlier times
        // may follow, also where brokers set them. The clock of a new leader may be behind that of the one before, and records
        // that were written before the topic got `LogAppendTime` have the times of their producers.
        for (partition, offset) in self.offsets_at(&starts).await? {
            for range in ranges
                .iter_mut()
                .filter(|range| range.partition == partition)
            {
                range.start = range.start.max(offset.unwrap_or(range.end));
            }
        }
        ranges.retain(|range| !range.is_empty());
        Ok(ranges)
    }

    /// For each partition and time in milliseconds, the first offset at or after it.
    async fn offsets_at(&self, times: &[(i32, i64)]) -> Result<Vec<(i32, Option<i64>)>> {
        let mut distinct: Vec<i64> = times.iter().map(|(_, millis)| *millis).collect();
        distinct.sort_unstable();
        distinct.dedup();
        let mut found = Vec::with_capacity(times.len());
        for millis in distinct {
            let same = times.iter().filter(|time| time.1 == millis);
            let partitions: Vec<i32> = same.map(|time| time.0).collect();
            let table = Arc::clone(&self.table);
            let offsets = on_own_thread(move || {
                partition_ends::offsets_for_time(&table.client, &table.topic, &partitions, millis)
            });
            found.extend(offsets.await?);
        }
        Ok(found)
    }
}

fn narrow(partition: i32, low: i64, high: i64, bounds: RowBounds) -> OffsetRange {
    OffsetRange {
        partition,
        start: low.max(bounds.offset.0),
        end: high.min(bounds.offset.1.saturating_add(1)),
    }
}

impl KafkaTableProvider {
    /// Where one more scan gives what it sets aside.
    fn outlet(&self) -> ScanOutlet {
        if self.fixed.is_none() {
            return ScanOutlet::Query(Arc::clone(&self.bad_records));
        }
        ScanOutlet::Batch(BatchScan {
            table: Arc::clone(&self.name),
            scan: self.scans.fetch_add(1, Ordering::Relaxed),
            aside: Arc::clone(&self.aside),
            only: None,
        })
    }

    /// The ranges of a batch as far as the topic gives them.
    fn of_topic(&self) -> Vec<OffsetRange> {
        let fixed = self.fixed.as_deref().unwrap_or_default();
        let of_topic = fixed.iter().filter_map(|range| {
            let earlier = self.earlier.as_ref();
            let start = earlier.map_or(range.start, |earlier| earlier.earlier(*range).end);
            // A range that does not come to the topic says nothing of where the topic is read.
            let is_read = start < range.end || range.is_empty();
            is_read.then_some(OffsetRange { start, ..*range })
        });
        of_topic.collect()
    }

    /// The plan of these ranges, if some of them begin with records that do not come from the topic.
    async fn earlier(
        &self,
        session: &dyn Session,
        ranges: &[OffsetRange],
        projection: &[usize],
        schema: &SchemaRef,
    ) -> DataFusionResult<Option<EarlierPlan>> {
        let Some(earlier) = &self.earlier else {
            return Ok(None);
        };
        let parts = ranges.iter().map(|range| earlier.earlier(*range));
        let parts: Vec<OffsetRange> = parts.filter(|part| !part.is_empty()).collect();
        if parts.is_empty() {
            return Ok(None);
        }
        let scan = earlier.records.scan(session, &parts, projection, schema);
        Ok(Some(EarlierPlan::new(scan.await?, ranges)))
    }

    fn scan_boxed<'a>(
        &'a self,
        session: &'a dyn Session,
        projection: Option<&'a Vec<usize>>,
        filters: &'a [Expr],
        limit: Option<usize>,
    ) -> BoxFuture<'a, DataFusionResult<Arc<dyn ExecutionPlan>>> {
        async move {
            let threads = session.config().target_partitions();
            let ranges = self.ranges(filters).await?.into_iter();
            let (before, ranges): (Vec<OffsetRange>, Vec<OffsetRange>) =
                ranges.partition(|range| self.is_before_archive(range));
            let projection: Vec<usize> = match projection {
                Some(columns) => columns.clone(),
                None => (0..self.schema.fields().len()).collect(),
            };
            let schema = Arc::new(self.schema.project(&projection)?);
            if ranges.is_empty() && before.is_empty() {
                return Ok(Arc::new(EmptyExec::new(schema)) as Arc<dyn ExecutionPlan>);
            }
            let earlier = self.earlier(session, &ranges, &projection, &schema).await?;
            let scan_of = |ranges: Vec<OffsetRange>| {
                KafkaScanExec::new(
                    Arc::clone(&self.table),
                    ranges,
                    projection.clone(),
                    Arc::clone(&schema),
                    // A filter above may drop rows, so that a limit cannot be met by counting here.
                    limit.filter(|_| filters.is_empty() && self.fixed.is_none()),
                    // Jobs set aside what cannot be decoded, unless the table says otherwise.
                    (self.table.on_error(self.fixed.is_some()), self.outlet()),
                    threads,
                )
            };
            if !before.is_empty() {
                // A consumer reads a partition at one place: each side of the archive has a scan of its own.
                let sides = [before, ranges].into_iter();
                let sides = sides.filter(|ranges| !ranges.is_empty()).map(|ranges| {
                    let scan: Arc<dyn ExecutionPlan> = Arc::new(scan_of(ranges));
                    scan
                });
                return UnionExec::try_new(sides.collect());
            }
            let scan = scan_of(ranges);
            let of_topic = self.of_topic();
            let pool = self.pool.as_ref().filter(|_| !of_topic.is_empty());
            let client = pool.map(|pool| pool.reader(&self.table, &of_topic));
            let scan = match earlier {
                Some(earlier) => scan.with_earlier(earlier),
                None => scan,
            };
            Ok(Arc::new(scan.for_batch(self.time.clone(), client)))
        }
        .boxed()
    }

    fn insert(
        &self,
        input: Arc<dyn ExecutionPlan>,
        op: InsertOp,
    ) -> DataFusionResult<Arc<dyn ExecutionPlan>> {
        if op != InsertOp::Append {
            return Err(Error::unsupported(format!(
                "{} is a topic, which is only appended to: it cannot be overwritten",
                self.table.name
            ))
            .about(Subject::table(&self.table.name))
            .into());
        }
        let sink = KafkaSink::try_new(Arc::clone(&self.table))?;
        Ok(Arc::new(DataSinkExec::new(input, Arc::new(sink), None)))
    }
}

impl TableProvider for KafkaTableProvider {
    fn schema(&self) -> SchemaRef {
        Arc::clone(&self.schema)
    }

    fn table_type(&self) -> TableType {
        TableType::Base
    }

    fn supports_filters_pushdown(
        &self,
        filters: &[&Expr],
    ) -> DataFusionResult<Vec<TableProviderFilterPushDown>> {
        // The ranges contain all matching rows and others: the filter above stays.
        Ok(vec![TableProviderFilterPushDown::Inexact; filters.len()])
    }

    boxed_scan!(|table, session, projection, filters, limit| {
        table.scan_boxed(session, projection, filters, limit)
    });

    boxed_insert_into!(|table, _, input, op| std::future::ready(table.insert(input, op)).boxed());
}
