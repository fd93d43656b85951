//! A topic as the source of a job: what is there to read, asked again for every batch with one client.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use rdkafka::consumer::BaseConsumer;

use crate::error::Result;
use crate::tables::kafka::client::{self, Faults};
use crate::tables::kafka::definition::KafkaTable;
use crate::tables::kafka::provider::blocking;

/// The source of a job.
#[derive(Clone)]
pub struct KafkaJobSource {
    table: Arc<KafkaTable>,
    client: Arc<BaseConsumer<Faults>>,
    faults: Faults,
    /// Where partitions began when that was asked last.
    starts: Arc<Mutex<Option<Starts>>>,
}

/// When partitions were asked for, and the first offset of each.
type Starts = (Instant, BTreeMap<i32, i64>);

/// New partitions, and records that were deleted, are noticed after so long; new records at once.
const STARTS_LAST: Duration = Duration::from_secs(1);

/// A partition of a topic and where it starts and ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PartitionEnds {
    /// The partition.
    pub partition: i32,
    /// The first offset kept.
    pub low: i64,
    /// The offset after the last stable one.
    pub high: i64,
    /// Records that are there and to be read, where offsets do not count them.
    pub unread: Option<u64>,
}

impl KafkaJobSource {
    /// A source that reads `table`. Nothing is connected yet.
    ///
    /// # Errors
    ///
    /// Settings that the client refuses.
    pub fn try_new(table: Arc<KafkaTable>) -> Result<Self> {
        let faults = Faults::default();
        let client = table.client.consumer(faults.clone(), true)?;
        Ok(Self {
            table,
            client: Arc::new(client),
            faults,
            starts: Arc::default(),
        })
    }

    /// The table.
    pub fn table(&self) -> &Arc<KafkaTable> {
        &self.table
    }

    /// Where every partition starts and ends now; new ones are there after a second.
    ///
    /// # Errors
    ///
    /// The topic is gone, or the broker does not answer.
    pub async fn ends(&self) -> Result<Vec<PartitionEnds>> {
        let source = self.clone();
        let ask = move || {
            let (settings, topic) = (&source.table.client, &source.table.topic);
            let lows = source.starts()?;
            let ends = client::ends_behind(settings, &source.client, &source.faults, topic, &lows);
            if ends.is_err() {
                *source.lock_starts() = None;
            }
            ends
        };
        let ends = blocking(ask).await?;
        Ok(ends
            .into_iter()
            .map(|(partition, low, high)| PartitionEnds {
                partition,
                low,
                high,
                unread: None,
            })
            .collect())
    }

    fn starts(&self) -> Result<BTreeMap<i32, i64>> {
        if let Some((at, known)) = &*self.lock_starts()
            && at.elapsed() < STARTS_LAST
        {
            return Ok(known.clone());
        }
        let (settings, topic) = (&self.table.client, &self.table.topic);
        let found = client::log_starts(settings, &self.client, &self.faults, topic)?;
        *self.lock_starts() = Some((Instant::now(), found.clone()));
        Ok(found)
    }

    fn lock_starts(&self) -> std::sync::MutexGuard<'_, Option<(Instant, BTreeMap<i32, i64>)>> {
        self.starts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl std::fmt::Debug for KafkaJobSource {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("KafkaJobSource")
            .field("topic", &self.table.topic)
            .finish_non_exhaustive()
    }
}
