//! The rows that readers by key have of a part of a topic: the last record of each key in ranges of offsets, without those that a tombstone
//! has removed.
//!
//! Values are decoded only of the records that stay.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use datafusion::arrow::array::{
    AsArray as _, BooleanArray, RecordBatch, TimestampMicrosecondArray, UInt64Array,
};
use datafusion::arrow::compute::{
    cast, concat_batches, filter_record_batch, is_not_null, is_null, not, sort_to_indices,
    take_record_batch,
};
use datafusion::arrow::datatypes::{
    DataType, Int32Type, Int64Type, SchemaRef, TimeUnit, TimestampMicrosecondType,
};
use datafusion::arrow::error::ArrowError;
use datafusion::execution::TaskContext;
use datafusion::execution::memory_pool::{MemoryConsumer, MemoryReservation};
use datafusion::physical_plan::ExecutionPlan as _;
use futures::TryStreamExt as _;

use crate::core::archive::{self, OffsetRanges};
use crate::core::runs::{Difference, FloatTolerance};
use crate::error::{Error, Result, Subject};
use crate::tables::bad_records::BadRecords;
use crate::tables::kafka::archived_records::{
    ArchiveOutput, ArchiveReading, ArchivedReader, RecordColumns,
};
use crate::tables::kafka::definition::{KafkaTable, OnError};
use crate::tables::kafka::provider::KafkaTableProvider;
use crate::tables::kafka::range::OffsetRange;
use crate::tables::kafka::scan::KafkaScanExec;
use crate::tables::side_output::{OpenOutlet, ScanOutlet};

/// Ranges of a partition that are closer to each other are read as one. A range is read by so much on both sides as well: the client does
/// not always know the offset of a record that it has sent.
const NEAR: i64 = 1_000;
/// At most so many ranges of a partition are read one after the other.
const ROUNDS: usize = 8;
/// Between two looks at a topic with an open transaction.
const PAUSE: Duration = Duration::from_millis(100);
/// So many records are collected before those that do not stay are dropped.
const PENDING: usize = 64 << 10;
/// Records that are decoded at once.
const DECODED: usize = 8_192;

/// The parts of a record, by their places among the columns of [`KafkaTable::of_records`].
const PARTITION: usize = 0;
const OFFSET: usize = 1;
const TIMESTAMP: usize = 2;
const KEY: usize = 3;
const VALUE: usize = 4;

/// The rows of a topic by key, as far as they are in some ranges.
#[derive(Debug, Clone)]
pub struct TopicRows {
    /// In the columns of the table, the last row of each key: first those of the own offsets.
    pub rows: RecordBatch,
    /// How many of them are of the own offsets.
    pub own: usize,
    /// The first offset of each partition that has all later ones of the ranges; none if there is nothing to read.
    pub low: BTreeMap<i32, i64>,
}

/// The last records of ranges of a topic, to be read on when there are more ranges behind them.
#[derive(Debug)]
pub struct ReadRecords {
    last: LastRecords,
    /// The ranges.
    ranges: BTreeMap<i32, OffsetRanges>,
    /// What was read for them.
    covered: BTreeMap<i32, OffsetRanges>,
}

impl ReadRecords {
    /// The parts of these ranges that were not read yet; none if they do not all lie behind what was read, or if not all of that is wanted.
    fn missing_in(
        &self,
        ranges: &BTreeMap<i32, OffsetRanges>,
    ) -> Option<BTreeMap<i32, OffsetRanges>> {
        let nothing = OffsetRanges::default();
        for (partition, read) in &self.ranges {
            let wanted = ranges.get(partition).unwrap_or(&nothing);
            if !read.ranges().all(|range| wanted.contains(range)) {
                return None;
            }
        }
        let mut all: BTreeMap<i32, OffsetRanges> = BTreeMap::new();
        for (partition, wanted) in ranges {
            let covered = self.covered.get(partition).unwrap_or(&nothing);
            let mut missing = OffsetRanges::default();
            for range in wanted.ranges() {
                missing.extend(covered.missing_in(range).ranges());
            }
            let is_behind = match (covered.end(), missing.first()) {
                (Some(end), Some(first)) => end <= first,
                _ => true,
            };
            if !is_behind {
                return None;
            }
            all.insert(*partition, missing);
        }
        Some(all)
    }
}

/// Reads the rows that readers by key have of these ranges of a topic; `own` is a part of the ranges whose rows are told from the others,
/// which other writers may have written. What was read `before` is not read again if all that is missing lies behind it. Records without a
/// key have no such readers. A topic of which nothing is read need not be there.
///
/// # Errors
///
/// The topic is gone, or the broker does not answer; a record that a query of the table could not read; too little memory.
pub async fn last_rows(
    table: &Arc<KafkaTable>,
    ranges: &BTreeMap<i32, OffsetRanges>,
    own: &BTreeMap<i32, OffsetRanges>,
    context: &Arc<TaskContext>,
    before: Option<ReadRecords>,
) -> Result<(TopicRows, Option<ReadRecords>)> {
    if ranges.values().all(OffsetRanges::is_empty) {
        let nothing = TopicRows {
            rows: RecordBatch::new_empty(Arc::clone(table.schema())),
            own: 0,
            low: BTreeMap::new(),
        };
        return Ok((nothing, None));
    }
    let records = Arc::new(table.of_records());
    let mut ends = stable_ends(&records, ranges).await?;
    // A log that ends before has lost records.
    let is_whole = |of: &&(i32, i64, i64)| !is_behind(of, ranges);
    let low = ends.iter().filter(is_whole);
    let low = low.map(|(partition, low, _)| (*partition, *low));
    let low: BTreeMap<i32, i64> = low.collect();
    let missing = before.as_ref().and_then(|before| before.missing_in(ranges));
    let (mut read, missing) = match (before, missing) {
        (Some(before), Some(missing)) => (before, missing),
        _ => {
            let read = ReadRecords {
                last: LastRecords::try_new(&records, context)?,
                ranges: BTreeMap::new(),
                covered: BTreeMap::new(),
            };
            (read, ranges.clone())
        }
    };
    // No record is read twice: an earlier one would count as the later one.
    for (partition, low, _) in &mut ends {
        let covered = read.covered.get(&*partition);
        let end = covered.and_then(OffsetRanges::end);
        *low = end.map_or(*low, |end| end.max(*low));
    }
    for ranges in rounds(&missing, &ends) {
        for range in &ranges {
            let covered = read.covered.entry(range.partition).or_default();
            covered.insert(archive::OffsetRange::new(range.start, range.end));
        }
        read_ranges(&records, ranges, context, &mut read.last).await?;
    }
    read.ranges = ranges.clone();
    let records = read.last.rows()?;
    let is_own = within(&records, own);
    let is_other = not(&is_own).map_err(internal)?;
    let [own, others] = [is_own, is_other].map(|of| {
        let records = filter_record_batch(&records, &of).map_err(internal)?;
        decoded(table, &records)
    });
    let (own, others) = (own?, others?);
    let rows = concat_batches(table.schema(), [&own, &others]).map_err(internal)?;
    let rows = TopicRows {
        rows,
        own: own.num_rows(),
        low,
    };
    Ok((rows, Some(read)))
}

/// Which records are at offsets of these ranges.
fn within(records: &RecordBatch, ranges: &BTreeMap<i32, OffsetRanges>) -> BooleanArray {
    let partitions = records.column(PARTITION).as_primitive::<Int32Type>();
    let offsets = records.column(OFFSET).as_primitive::<Int64Type>();
    let places = partitions.values().iter().zip(offsets.values());
    let is_within = places.map(|(partition, offset)| {
        let ranges = ranges.get(partition);
        ranges.is_some_and(|ranges| ranges.has(*offset))
    });
    is_within.collect::<Vec<bool>>().into()
}

/// Partitions with the first offset and the end of the records that readers of committed records see, when these are all in the ranges
/// that the topic has: an open transaction hides committed records behind its first one until it ends.
#[expect(
    clippy::disallowed_methods,
    reason = "transactions of other processes end by themselves, and the wait for them is bounded"
)]
async fn stable_ends(
    records: &Arc<KafkaTable>,
    ranges: &BTreeMap<i32, OffsetRanges>,
) -> Result<Vec<(i32, i64, i64)>> {
    let patience = records.client.connect_timeout;
    let began = Instant::now();
    loop {
        let topic = KafkaTableProvider::new(Arc::clone(records));
        let ends = topic.ends().await?.to_vec();
        if !ends.iter().any(|of| is_behind(of, ranges)) {
            return Ok(ends);
        }
        let latest = topic.latest().await?;
        let is_hidden = |of: &&(i32, i64, i64)| {
            let latest = latest.get(&of.0);
            is_behind(of, ranges) && latest.is_some_and(|latest| *latest > of.2)
        };
        let Some((partition, _, stable)) = ends.iter().find(is_hidden) else {
            return Ok(ends);
        };
        if began.elapsed() >= patience {
            return Err(hidden(records, *partition, *stable, patience));
        }
        tokio::time::sleep(PAUSE).await;
    }
}

/// Whether a partition, with its first offset and its end, ends before the ranges do.
fn is_behind((partition, _, end): &(i32, i64, i64), ranges: &BTreeMap<i32, OffsetRanges>) -> bool {
    let wanted = ranges.get(partition).and_then(OffsetRanges::end);
    wanted.is_some_and(|wanted| wanted > *end)
}

fn hidden(records: &KafkaTable, partition: i32, stable: i64, patience: Duration) -> Error {
    Error::unavailable(format!(
        "topic '{}': an open transaction hides the records of partition {partition} from offset {stable} on; waited for {patience:?}",
        records.topic
    ))
    .about(Subject::location(&records.topic))
    .with_help("run the statement again when the transaction has ended; 'connect.timeout' limits the wait")
}

/// The ranges as far as the topic has them; of each partition at most one in each round, in order.
fn rounds(ranges: &BTreeMap<i32, OffsetRanges>, ends: &[(i32, i64, i64)]) -> Vec<Vec<OffsetRange>> {
    let mut rounds: Vec<Vec<OffsetRange>> = Vec::new();
    for (partition, low, high) in ends {
        let Some(wanted) = ranges.get(partition) else {
            continue;
        };
        let mut of_partition: Vec<OffsetRange> = Vec::new();
        for range in wanted.ranges() {
            let range = OffsetRange {
                partition: *partition,
                start: range.from.saturating_sub(NEAR).max(*low),
                end: range.to.saturating_add(NEAR).min(*high),
            };
            match of_partition.last_mut() {
                _ if range.is_empty() => {}
                Some(last) if range.start <= last.end.saturating_add(NEAR) => {
                    last.end = last.end.max(range.end);
                }
                _ => of_partition.push(range),
            }
        }
        join_nearest(&mut of_partition);
        for (round, range) in of_partition.into_iter().enumerate() {
            match rounds.get_mut(round) {
                Some(ranges) => ranges.push(range),
                None => rounds.push(vec![range]),
            }
        }
    }
    rounds
}

/// Joins the ranges of a partition that are nearest to each other until there are at most [`ROUNDS`].
fn join_nearest(ranges: &mut Vec<OffsetRange>) {
    if ranges.len() <= ROUNDS {
        return;
    }
    let distances = ranges.windows(2).map(|pair| match pair {
        [one, next] => next.start.saturating_sub(one.end),
        _ => 0,
    });
    let mut far: Vec<(i64, usize)> = distances.zip(1..).collect();
    far.sort_unstable();
    // Only before these ranges there is a gap that stays.
    let stays = far.split_off(far.len().saturating_sub(ROUNDS - 1));
    let mut joined: Vec<OffsetRange> = Vec::with_capacity(ROUNDS);
    for (at, range) in ranges.drain(..).enumerate() {
        match joined.last_mut() {
            Some(last) if !stays.iter().any(|(_, gap)| *gap == at) => last.end = range.end,
            _ => joined.push(range),
        }
    }
    *ranges = joined;
}

/// Reads ranges of different partitions.
async fn read_ranges(
    records: &Arc<KafkaTable>,
    ranges: Vec<OffsetRange>,
    context: &Arc<TaskContext>,
    last: &mut LastRecords,
) -> Result<()> {
    let schema = Arc::clone(records.schema());
    let projection = (0..schema.fields().len()).collect();
    let threads = context.session_config().target_partitions();
    let outlet = ScanOutlet::Query(Arc::default());
    let scan = KafkaScanExec::new(
        Arc::clone(records),
        ranges,
        projection,
        schema,
        None,
        (OnError::Fail, outlet),
        threads,
    );
    let streams = 0..scan.properties().partitioning.partition_count();
    let streams = streams.map(|stream| scan.execute(stream, Arc::clone(context)));
    let streams = streams.collect::<datafusion::error::Result<Vec<_>>>()?;
    let mut rows = futures::stream::select_all(streams);
    while let Some(rows) = rows.try_next().await? {
        last.push(rows)?;
    }
    Ok(())
}

/// The last record of each key of each partition so far, tombstones included.
#[derive(Debug)]
struct LastRecords {
    by_key: Difference,
    schema: SchemaRef,
    partitions: BTreeMap<i32, OfPartition>,
    memory: MemoryReservation,
}

#[derive(Debug, Default)]
struct OfPartition {
    batches: Vec<RecordBatch>,
    rows: usize,
    /// How many rows there were after others were dropped.
    stayed: usize,
}

impl LastRecords {
    fn try_new(records: &KafkaTable, context: &TaskContext) -> Result<Self> {
        let schema = Arc::clone(records.schema());
        let tolerance = FloatTolerance::default();
        let by_key = Difference::try_new(Arc::clone(&schema), vec![KEY], Vec::new(), tolerance);
        let consumer = MemoryConsumer::new("published rows");
        Ok(Self {
            by_key: by_key.map_err(internal)?,
            schema,
            partitions: BTreeMap::new(),
            memory: consumer.register(context.memory_pool()),
        })
    }

    /// Adds the next records of a partition.
    fn push(&mut self, rows: RecordBatch) -> Result<()> {
        let partitions = rows.column(PARTITION).as_primitive::<Int32Type>();
        let Some(partition) = partitions.values().first().copied() else {
            return Ok(());
        };
        let has_key = is_not_null(rows.column(KEY)).map_err(internal)?;
        let rows = filter_record_batch(&rows, &has_key).map_err(internal)?;
        self.memory.try_grow(rows.get_array_memory_size())?;
        let of_partition = self.partitions.entry(partition).or_default();
        of_partition.rows += rows.num_rows();
        of_partition.batches.push(rows);
        if of_partition.rows < 2 * of_partition.stayed + PENDING {
            return Ok(());
        }
        let size = |of: &OfPartition| -> usize {
            let sizes = of.batches.iter().map(RecordBatch::get_array_memory_size);
            sizes.sum()
        };
        let before = size(of_partition);
        of_partition.drop_earlier(&self.by_key, &self.schema)?;
        let after = size(of_partition);
        self.memory
            .shrink(before.saturating_sub(after).min(self.memory.size()));
        Ok(())
    }

    /// The records that stay, in the order of their times. A key is in one partition, unless partitions were added: then the time tells
    /// which of its records is the last.
    fn rows(&mut self) -> Result<RecordBatch> {
        let mut batches = Vec::new();
        for of_partition in self.partitions.values_mut() {
            of_partition.drop_earlier(&self.by_key, &self.schema)?;
            batches.extend(of_partition.batches.iter().cloned());
        }
        let sizes = batches.iter().map(RecordBatch::get_array_memory_size);
        self.memory.try_resize(sizes.sum())?;
        let rows = concat_batches(&self.schema, &batches).map_err(internal)?;
        if self.partitions.len() < 2 {
            return self.without_tombstones(&rows);
        }
        let by_time = sort_to_indices(rows.column(TIMESTAMP), None, None).map_err(internal)?;
        self.without_tombstones(&take_record_batch(&rows, &by_time).map_err(internal)?)
    }

    fn without_tombstones(&self, rows: &RecordBatch) -> Result<RecordBatch> {
        let is_tombstone = is_null(rows.column(VALUE)).map_err(internal)?;
        let places = self.by_key.last_rows(rows, &is_tombstone);
        take_record_batch(rows, &places.map_err(internal)?).map_err(internal)
    }
}

impl OfPartition {
    /// Drops all records but the last of each key.
    fn drop_earlier(&mut self, by_key: &Difference, schema: &SchemaRef) -> Result<()> {
        let rows = concat_batches(schema, &self.batches).map_err(internal)?;
        let stay = BooleanArray::from(vec![false; rows.num_rows()]);
        let places: UInt64Array = by_key.last_rows(&rows, &stay).map_err(internal)?;
        let rows = take_record_batch(&rows, &places).map_err(internal)?;
        self.rows = rows.num_rows();
        self.stayed = self.rows;
        self.batches = vec![rows];
        Ok(())
    }
}

/// The rows of records as a query of the table reads them.
fn decoded(table: &Arc<KafkaTable>, records: &RecordBatch) -> Result<RecordBatch> {
    let schema = Arc::clone(table.schema());
    let projection: Vec<usize> = (0..schema.fields().len()).collect();
    let aside = Arc::new(BadRecords::default());
    let mut reader = ArchivedReader::of_query(ArchiveOutput {
        table,
        schema: Arc::clone(&schema),
        projection: &projection,
        on_error: table.on_error(false),
        outlet: OpenOutlet::Query(aside),
        reading: ArchiveReading::default(),
    })?;
    let mut batches = Vec::new();
    for from in (0..records.num_rows()).step_by(DECODED) {
        let part = records.slice(from, DECODED.min(records.num_rows() - from));
        batches.push(reader.read(&columns_of(table, &part)?, None, None)?);
    }
    concat_batches(&schema, &batches).map_err(internal)
}

fn columns_of(table: &KafkaTable, records: &RecordBatch) -> Result<RecordColumns> {
    let plain = DataType::Timestamp(TimeUnit::Microsecond, None);
    let timestamps = cast(records.column(TIMESTAMP), &plain).map_err(internal)?;
    let timestamps: &TimestampMicrosecondArray =
        timestamps.as_primitive::<TimestampMicrosecondType>();
    Ok(RecordColumns {
        topic: table.topic().into(),
        topics: None,
        partitions: records
            .column(PARTITION)
            .as_primitive::<Int32Type>()
            .clone(),
        offsets: records.column(OFFSET).as_primitive::<Int64Type>().clone(),
        timestamps: Some(timestamps.clone()),
        timestamp_types: None,
        keys: Some(records.column(KEY).as_binary::<i32>().clone()),
        values: Some(records.column(VALUE).as_binary::<i32>().clone()),
        headers: None,
    })
}

fn internal(error: ArrowError) -> Error {
    Error::internal(error.to_string())
}

#[cfg(test)]
#[path = "last_records_tests.rs"]
mod tests;
