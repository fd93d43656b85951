//! Consumers that a job keeps from batch to batch: they are connected, and have fetched what comes next.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::{Offset, TopicPartitionList};

use crate::error::Result;
use crate::tables::kafka::client::{Faults, client_error};
use crate::tables::kafka::definition::KafkaTable;

/// A consumer of one partition and the offset it gives next.
pub(crate) struct Held {
    pub(crate) consumer: BaseConsumer<Faults>,
    pub(crate) faults: Faults,
    next: i64,
}

impl Held {
    /// A consumer that begins at `start`. With `tells_end` it says when it has reached the end of the log.
    pub(crate) fn open(
        table: &KafkaTable,
        partition: i32,
        start: i64,
        tells_end: bool,
    ) -> Result<Self> {
        let faults = Faults::default();
        let consumer = table.client.consumer(faults.clone(), tells_end)?;
        let mut assignment = TopicPartitionList::with_capacity(1);
        assignment
            .add_partition_offset(&table.topic, partition, Offset::Offset(start))
            .map_err(|error| client_error(&error))?;
        consumer
            .assign(&assignment)
            .map_err(|error| client_error(&error))?;
        Ok(Self {
            consumer,
            faults,
            next: start,
        })
    }
}

/// The consumers of one table that are between two batches, by partition.
#[derive(Default)]
pub struct ConsumerPool {
    idle: Mutex<HashMap<i32, Held>>,
}

impl ConsumerPool {
    /// The consumer of a partition, if it goes on at `start`.
    pub(crate) fn take(&self, partition: i32, start: i64) -> Option<Held> {
        let held = self.lock().remove(&partition)?;
        (held.next == start).then_some(held)
    }

    /// Keeps a consumer that gives `next` next.
    pub(crate) fn put(&self, partition: i32, next: i64, held: Held) {
        self.lock().insert(partition, Held { next, ..held });
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<i32, Held>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl std::fmt::Debug for ConsumerPool {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let partitions: Vec<i32> = self.lock().keys().copied().collect();
        f.debug_struct("ConsumerPool")
            .field("idle", &partitions)
            .finish()
    }
}
