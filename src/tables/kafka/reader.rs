//! One client for all partitions that a statement or a job reads of a table.
//!
//! Each partition has a queue of its own, which bounds the records that are fetched ahead. Nothing blocks: librdkafka's
//! own threads fetch, and wake the task that reads a queue.
//!
//! A scan reads partition after partition, and gives the queue of each up. A job comes back to it in the next batch: it keeps the
//! queues, so that no record is fetched twice.

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use rdkafka::client::ClientContext;
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::consumer::{BaseConsumer, Consumer, ConsumerContext};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::{Offset, TopicPartitionList};
use tokio::sync::OnceCell;

use crate::error::{Error, Result};
use crate::tables::kafka::blocking::{end_apart, on_own_thread};
use crate::tables::kafka::client::{ClientFaults, client_error};
use crate::tables::kafka::definition::KafkaTable;
use crate::tables::kafka::fetcher::{Cursor, Fetcher, PartitionEvent};
use crate::tables::kafka::librdkafka::{NativeRecord, PartitionQueue};
use crate::tables::kafka::queue_sizes::{ASSIGNED, KEPT_BYTES, keeps_queues, queues_at_a_time};
use crate::tables::kafka::queue_statistics::QueueStatistics;
use crate::tables::kafka::range_reading::may_pass;

/// How often events of the client itself (errors, statistics) are read, also when all readers are slow.
const SERVE: Duration = Duration::from_millis(250);
/// The most events that are read at once.
const HEARD: usize = 8;

/// The context of a client that reads.
#[derive(Clone, Default)]
struct ReaderContext {
    faults: ClientFaults,
    queues: Arc<Mutex<QueueStatistics>>,
}

impl ClientContext for ReaderContext {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        self.faults.log(level, facility, message);
    }

    fn error(&self, error: KafkaError, reason: &str) {
        self.faults.error(error, reason);
    }

    fn stats_raw(&self, statistics: &[u8]) {
        lock(&self.queues).read(statistics);
    }
}

impl ConsumerContext for ReaderContext {}

/// The client.
struct ReaderClient {
    /// There until the end.
    consumer: Option<Arc<BaseConsumer<ReaderContext>>>,
    watch: ReaderContext,
    topic: String,
    /// Partitions that are read now.
    active: Mutex<HashSet<i32>>,
    /// Partitions that were ever read.
    known: Mutex<HashSet<i32>>,
    /// The error that made the client useless.
    failed: Mutex<Option<RDKafkaErrorCode>>,
}

impl ReaderClient {
    #[expect(
        clippy::disallowed_methods,
        reason = "a task serves the events of the client while nothing is read"
    )]
    async fn connect(table: Arc<KafkaTable>, queues: usize) -> Result<Arc<Self>> {
        let limit = (queues > ASSIGNED).then_some(KEPT_BYTES);
        let watch = ReaderContext {
            queues: Arc::new(Mutex::new(QueueStatistics::new(limit))),
            ..ReaderContext::default()
        };
        let context = watch.clone();
        let topic = table.topic.clone();
        let consumer =
            on_own_thread(move || table.client.reading_consumer(context, queues)).await?;
        let client = Arc::new(Self {
            consumer: Some(Arc::new(consumer)),
            watch,
            topic,
            active: Mutex::default(),
            known: Mutex::default(),
            failed: Mutex::default(),
        });
        let weak = Arc::downgrade(&client);
        tokio::spawn(async move {
            loop {
                tokio::time::sleep(SERVE).await;
                match weak.upgrade() {
                    Some(client) => client.serve(),
                    None => return,
                }
            }
        });
        Ok(client)
    }

    /// Reads the events of the client beside records.
    fn serve(&self) {
        let Some(consumer) = &self.consumer else {
            return;
        };
        // A poll that reads a line of the log, or statistics, gives nothing: there may be more events behind it.
        for _ in 0..HEARD {
            let Some(event) = consumer.poll(Duration::ZERO) else {
                continue;
            };
            let Err(error) = event else {
                // Records come to the queues of their partitions; one that does not would be lost here.
                *lock(&self.failed) = Some(RDKafkaErrorCode::Fail);
                return;
            };
            // Partitions are read by their offsets: the group is asked for nothing.
            let passes = error.rdkafka_error_code().is_none_or(|code| {
                may_pass(code) || code == RDKafkaErrorCode::GroupAuthorizationFailed
            });
            if !passes || self.watch.faults.is_hopeless() {
                *lock(&self.failed) = error.rdkafka_error_code();
            }
        }
    }

    fn place(&self, partition: i32, offset: i64) -> Result<TopicPartitionList> {
        let mut place = TopicPartitionList::with_capacity(1);
        place
            .add_partition_offset(&self.topic, partition, Offset::Offset(offset))
            .map_err(|error| client_error(&error))?;
        Ok(place)
    }
}

impl Drop for ReaderClient {
    fn drop(&mut self) {
        end_apart(self.consumer.take());
    }
}

/// A partition of the client, as a scan reads it.
pub(crate) struct PartitionFetcher {
    /// Dropped before the client.
    queue: PartitionQueue<ReaderContext>,
    partition: i32,
    /// Whether the client's position is of this assignment, and not of an earlier one.
    is_position_own: bool,
    client: Arc<ReaderClient>,
}

#[cfg(test)]
impl PartitionFetcher {
    /// How many events wait in librdkafka's queue.
    pub(crate) fn waiting(&self) -> usize {
        self.queue.waiting()
    }
}

impl Fetcher for PartitionFetcher {
    type Record = NativeRecord;

    fn take(&mut self, most: usize, into: &mut VecDeque<PartitionEvent<NativeRecord>>) {
        self.queue.take(most, into);
        self.is_position_own |= !into.is_empty();
        if into.is_empty()
            && let Some(code) = *lock(&self.client.failed)
        {
            into.push_back(PartitionEvent::Failed(code));
        }
    }

    fn position(&mut self) -> Option<i64> {
        self.client.serve();
        self.is_position_own
            .then(|| self.queue.position())
            .flatten()
    }

    fn fetched(&mut self) -> Option<i64> {
        lock(&self.client.watch.queues).fetched(self.partition)
    }

    fn now(&self) -> Instant {
        Instant::now()
    }

    async fn arrival(&mut self, at_most: Duration) {
        // Notified or timed out: in both cases the queue is read next.
        let _ = tokio::time::timeout(at_most, self.queue.signal().notified()).await;
    }
}

impl Drop for PartitionFetcher {
    fn drop(&mut self) {
        if let Ok(place) = self.client.place(self.partition, 0) {
            // It fails only if the client is ending.
            let _ = self.queue.consumer().incremental_unassign(&place);
        }
        self.queue.drop_outdated();
        lock(&self.client.active).remove(&self.partition);
    }
}

/// Reads ranges of a table's partitions by one client, which is connected when the first range is read.
pub(crate) struct TableReader {
    table: Arc<KafkaTable>,
    /// Partitions that are read.
    partitions: usize,
    /// Queues that the client has at a time.
    queues: usize,
    client: OnceCell<Arc<ReaderClient>>,
    /// Cursors that wait for their next range, if they are kept.
    idle: Mutex<HashMap<i32, Cursor<PartitionFetcher>>>,
    keeps: bool,
    is_broken: AtomicBool,
}

impl TableReader {
    /// A reader of so many partitions. With `keeps`, the client fetches on past the end of a range, and the records are
    /// kept for the next one.
    pub(crate) fn new(table: Arc<KafkaTable>, partitions: usize, keeps: bool) -> Self {
        Self {
            table,
            partitions,
            queues: queues_at_a_time(partitions, keeps),
            client: OnceCell::new(),
            idle: Mutex::default(),
            keeps: keeps && keeps_queues(partitions),
            is_broken: AtomicBool::new(false),
        }
    }

    /// A cursor over a partition at `start`, and the faults of its client.
    pub(crate) async fn open(
        &self,
        partition: i32,
        start: i64,
    ) -> Result<(Cursor<PartitionFetcher>, ClientFaults)> {
        let kept = lock(&self.idle).remove(&partition);
        if let Some(cursor) = kept.filter(|cursor| cursor.from() == start) {
            let faults = cursor.fetcher.client.watch.faults.clone();
            return Ok((cursor, faults));
        }
        let connect = || ReaderClient::connect(Arc::clone(&self.table), self.queues);
        let mut client = Arc::clone(self.client.get_or_try_init(connect).await?);
        let mut is_first = lock(&client.active).insert(partition);
        if !is_first {
            // It is read twice at the same time: a client has one position in a partition.
            client = ReaderClient::connect(Arc::clone(&self.table), 1).await?;
            is_first = lock(&client.active).insert(partition);
        }
        debug_assert!(is_first);
        let is_position_own = lock(&client.known).insert(partition);
        let queue = client
            .consumer
            .as_ref()
            .and_then(|consumer| PartitionQueue::of_partition(consumer, &client.topic, partition))
            .ok_or_else(|| Error::internal(format!("no queue of partition {partition}")))?;
        queue
            .consumer()
            .incremental_assign(&client.place(partition, start)?)
            .map_err(|error| client_error(&error))?;
        let faults = client.watch.faults.clone();
        let fetcher = PartitionFetcher {
            queue,
            partition,
            is_position_own,
            client,
        };
        Ok((Cursor::new(fetcher, start), faults))
    }

    /// A range was read to its end: the cursor may be used again.
    pub(crate) fn close(&self, partition: i32, cursor: Cursor<PartitionFetcher>) {
        if !self.keeps || self.is_broken() {
            return;
        }
        let is_given_up = lock(&cursor.fetcher.client.watch.queues).give_up(partition);
        if !is_given_up {
            lock(&self.idle).insert(partition, cursor);
        }
    }

    /// Reading failed: records that the client has fetched are not used any more.
    pub(crate) fn discard(&self) {
        self.is_broken.store(true, Ordering::Relaxed);
        lock(&self.idle).clear();
    }

    pub(crate) fn is_broken(&self) -> bool {
        self.is_broken.load(Ordering::Relaxed)
    }

    pub(crate) fn partitions(&self) -> usize {
        self.partitions
    }

    /// How many cursors wait for their next range.
    #[cfg(test)]
    pub(crate) fn kept(&self) -> usize {
        lock(&self.idle).len()
    }

    /// How many events wait in librdkafka's queue of a partition, which is not being read.
    #[cfg(test)]
    pub(crate) fn waiting(&self, partition: i32) -> Option<usize> {
        let client = self.client.get()?;
        let queue =
            PartitionQueue::of_partition(client.consumer.as_ref()?, &client.topic, partition)?;
        Some(queue.waiting())
    }

    /// Whether the cursor that is kept of a partition does not go on at `start`.
    pub(crate) fn is_elsewhere(&self, partition: i32, start: i64) -> bool {
        lock(&self.idle)
            .get(&partition)
            .is_some_and(|cursor| cursor.from() != start)
    }
}

impl Drop for TableReader {
    #[expect(clippy::disallowed_methods, reason = "giving up queues blocks")]
    fn drop(&mut self) {
        let kept = std::mem::take(&mut *lock(&self.idle));
        if kept.is_empty() {
            return;
        }
        // Each waits for the client to unassign its partition.
        let end = move || drop(kept);
        let _ = std::thread::Builder::new()
            .name("kafka-end".into())
            .spawn(end);
    }
}

impl std::fmt::Debug for TableReader {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("TableReader")
            .field("topic", &self.table.topic)
            .field("partitions", &self.partitions)
            .finish_non_exhaustive()
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
