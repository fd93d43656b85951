//! A topic as the source of a job: what is there to read, asked again for every batch with one client.

use std::sync::Arc;

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
}

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
        })
    }

    /// The table.
    pub fn table(&self) -> &Arc<KafkaTable> {
        &self.table
    }

    /// Where every partition starts and ends now, new ones included.
    ///
    /// # Errors
    ///
    /// The topic is gone, or the broker does not answer.
    pub async fn ends(&self) -> Result<Vec<PartitionEnds>> {
        let source = self.clone();
        let ask = move || {
            let table = &source.table;
            client::log_ends_with(&table.client, &source.client, &source.faults, &table.topic)
        };
        let ends = blocking(ask).await?;
        Ok(ends
            .partitions
            .into_iter()
            .map(|(partition, low, high)| PartitionEnds {
                partition,
                low,
                high,
                unread: None,
            })
            .collect())
    }
}

impl std::fmt::Debug for KafkaJobSource {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("KafkaJobSource")
            .field("topic", &self.table.topic)
            .finish_non_exhaustive()
    }
}
