//! A topic as the source of a job: the ends of its partitions, asked for again before every batch with one client.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use rdkafka::consumer::BaseConsumer;

use crate::core::jobs::{Identity, PartitionEnds, RecordMark};
use crate::error::Result;
use crate::tables::kafka::blocking::on_own_thread;
use crate::tables::kafka::client::ClientFaults;
use crate::tables::kafka::definition::KafkaTable;
use crate::tables::kafka::identity::identity;
use crate::tables::kafka::partition_ends::{ClientLeaders, offsets_for_time, partition_ends};
use crate::tables::kafka::pool::ConsumerPool;
use crate::tables::kafka::read_marks::{ComparedParts, marks_at, other_records};
use crate::tables::kafka::topic_rules::TopicRules;

/// The source of a job.
#[derive(Clone)]
pub struct KafkaJobSource {
    table: Arc<KafkaTable>,
    client: Arc<BaseConsumer<ClientFaults>>,
    pool: Arc<ConsumerPool>,
    /// The ends that were found the last time.
    last: Arc<Mutex<Vec<PartitionEnds>>>,
}

impl KafkaJobSource {
    /// A source that reads `table`. Nothing is connected yet.
    ///
    /// # Errors
    ///
    /// Settings that the client refuses.
    pub fn try_new(table: Arc<KafkaTable>) -> Result<Self> {
        let client = table.client.consumer(ClientFaults::default())?;
        Ok(Self {
            table,
            client: Arc::new(client),
            pool: Arc::default(),
            last: Arc::default(),
        })
    }

    /// The table.
    pub fn table(&self) -> &Arc<KafkaTable> {
        &self.table
    }

    /// The identity of the topic now (IDENT-1).
    ///
    /// # Errors
    ///
    /// The topic is gone, or the broker does not answer.
    pub async fn identity(&self) -> Result<Identity> {
        let source = self.clone();
        on_own_thread(move || {
            let table = &source.table;
            identity(&table.client, &source.client, &table.topic)
        })
        .await
    }

    /// For each partition that has another record at the offset of the last one read: that other record.
    ///
    /// # Errors
    ///
    /// The broker does not answer.
    pub async fn other_records(
        &self,
        marks: BTreeMap<i32, RecordMark>,
    ) -> Result<BTreeMap<i32, RecordMark>> {
        other_records(&self.table, marks).await
    }

    /// The marks of the records at these offsets, by these parts. A partition whose record is gone is left out.
    ///
    /// # Errors
    ///
    /// The broker does not answer.
    pub(crate) async fn marks_at(
        &self,
        offsets: BTreeMap<i32, i64>,
        parts: ComparedParts,
    ) -> Result<BTreeMap<i32, RecordMark>> {
        marks_at(&self.table, offsets, parts).await
    }

    /// Whether compaction removes records of the topic; false if the brokers do not tell.
    pub(crate) async fn is_compacted(&self) -> bool {
        let rules = TopicRules::of_topic(&self.table.client, &self.table.topic).await;
        rules.is_some_and(|rules| rules.is_compacted)
    }

    /// Where every partition starts and ends now, new ones included.
    ///
    /// # Errors
    ///
    /// The topic is gone, or the broker does not answer.
    pub async fn ends(&self) -> Result<Vec<PartitionEnds>> {
        let source = self.clone();
        let ask = move || {
            let asked = ClientLeaders {
                settings: &source.table.client,
                consumer: &source.client,
                topic: &source.table.topic,
            };
            partition_ends(&asked, &asked.partitions()?)
        };
        let ends = on_own_thread(ask).await?;
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        if was_truncated(&last, &ends) {
            self.pool.clear();
        }
        last.clone_from(&ends);
        Ok(ends)
    }

    /// For each of these partitions the offset of the first record with this timestamp or a later one, in milliseconds since 1970
    /// UTC, above 0; `None` if there is no such record that readers of committed records see.
    ///
    /// # Errors
    ///
    /// The broker does not answer.
    pub async fn offsets_at(
        &self,
        partitions: Vec<i32>,
        millis: i64,
    ) -> Result<Vec<(i32, Option<i64>)>> {
        let table = Arc::clone(&self.table);
        on_own_thread(move || offsets_for_time(&table.client, &table.topic, &partitions, millis))
            .await
    }

    /// The client that reads, kept from batch to batch.
    pub fn pool(&self) -> &Arc<ConsumerPool> {
        &self.pool
    }
}

/// Whether a log now ends before its earlier end: records that were fetched ahead may not be those that it has now.
fn was_truncated(before: &[PartitionEnds], now: &[PartitionEnds]) -> bool {
    before.iter().any(|before| {
        let now = now.iter().find(|now| now.partition == before.partition);
        now.is_none_or(|now| now.latest < before.latest || now.high < before.high)
    })
}

impl std::fmt::Debug for KafkaJobSource {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("KafkaJobSource")
            .field("topic", &self.table.topic)
            .finish_non_exhaustive()
    }
}
