//! The seam between a sink and its client: records that are sent, transactions, and the offsets that a group keeps.
//!
//! librdkafka is behind it in the product, a simulated broker in tests.

use std::time::{Duration, Instant};

use rdkafka::consumer::{BaseConsumer, CommitMode, Consumer};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::producer::{BaseProducer, BaseRecord, Producer, ProducerContext, PurgeConfig};
use rdkafka::{Offset, TopicPartitionList};

use crate::core::jobs::Identity;
use crate::error::Result;
use crate::tables::kafka::blocking::end_apart;
use crate::tables::kafka::client::{ClientFaults, ClientSettings, request_error};
use crate::tables::kafka::identity::identity;
use crate::tables::kafka::sink::Deliveries;
use crate::tables::kafka::topic_rules::TopicRules;

/// A record as a sink sends it.
pub(crate) type SentRecord<'a> = BaseRecord<'a, [u8], [u8]>;

/// Why a call about a transaction failed.
#[derive(Debug)]
pub(crate) struct CallError {
    /// The client's error.
    pub(crate) error: KafkaError,
    /// Whether the client says that the call may be made again: the operation that it has started goes on meanwhile.
    pub(crate) may_repeat: bool,
}

impl From<KafkaError> for CallError {
    fn from(error: KafkaError) -> Self {
        let may_repeat = matches!(&error, KafkaError::Transaction(of) if of.is_retriable());
        Self { error, may_repeat }
    }
}

/// The outcome of a call about a transaction.
pub(crate) type CallOutcome = Result<(), CallError>;

/// The clock by which a client's silence is measured.
pub(crate) trait SilenceClock {
    /// The time.
    fn now(&self) -> Instant {
        Instant::now()
    }

    /// Waits, at least this long.
    #[expect(clippy::disallowed_methods, reason = "the clock of a real client")]
    fn pause(&self, pause: Duration) {
        std::thread::sleep(pause);
    }
}

/// Sends records, alone or in transactions. The outcome of each record is given to its [`Deliveries`] while the
/// publisher is polled.
pub(crate) trait Publisher: SilenceClock + Send + Sync + 'static {
    /// Takes a record to be sent; gives it back if it cannot be taken.
    #[expect(
        clippy::result_large_err,
        reason = "the record is given back as the client takes it"
    )]
    fn send<'a>(&self, record: SentRecord<'a>) -> Result<(), (KafkaError, SentRecord<'a>)>;

    /// Reports the outcome of records; waits at most this long for the first one.
    fn poll(&self, at_most: Duration);

    /// How many records have no outcome yet, and events of the client that wait.
    fn in_flight_count(&self) -> i32;

    /// Drops records that were not delivered: each is reported as failed.
    fn purge(&self);

    /// Takes the transactional id over: the broker fences the producer off that had it, and ends its transaction.
    fn init_transactions(&self, timeout: Duration) -> CallOutcome;

    /// Begins a transaction. No broker is asked.
    fn begin_transaction(&self) -> CallOutcome;

    /// Commits the transaction. After an error that may be repeated it is not known whether it is committed.
    fn commit_transaction(&self, timeout: Duration) -> CallOutcome;

    /// Aborts the transaction, unless a commit of it is under way.
    fn abort_transaction(&self, timeout: Duration) -> CallOutcome;

    /// The error after which the client sends nothing any more.
    fn fatal_error(&self) -> Option<RDKafkaErrorCode>;

    /// The rules of a topic for records, if its brokers answer. Blocks, at most for `connect.timeout`.
    fn rules(&self, settings: &ClientSettings, topic: &str) -> Option<TopicRules>;
}

/// The offsets that a group keeps. The client that asks for them is no member of the group.
pub(crate) trait GroupOffsets: SilenceClock + Send + Sync + 'static {
    /// The producer of the transactions that offsets are part of.
    type Publisher: Publisher;

    /// Makes offsets part of the publisher's transaction.
    fn send_offsets(
        &self,
        publisher: &Self::Publisher,
        offsets: &TopicPartitionList,
        timeout: Duration,
    ) -> CallOutcome;

    /// Keeps offsets at once.
    fn commit_offsets(&self, offsets: &TopicPartitionList) -> Result<(), KafkaError>;

    /// The metadata that the offset of a partition was committed with; none if there is no offset.
    fn committed_metadata(
        &self,
        topic: &str,
        partition: i32,
        timeout: Duration,
    ) -> Result<Option<String>, KafkaError>;

    /// Which topic it is now.
    fn identity(&self, settings: &ClientSettings, topic: &str) -> Result<Identity>;
}

impl SilenceClock for BaseProducer<Deliveries> {}

impl Publisher for BaseProducer<Deliveries> {
    fn send<'a>(&self, record: SentRecord<'a>) -> Result<(), (KafkaError, SentRecord<'a>)> {
        BaseProducer::send(self, record)
    }

    fn poll(&self, at_most: Duration) {
        BaseProducer::poll(self, at_most);
    }

    fn in_flight_count(&self) -> i32 {
        Producer::in_flight_count(self)
    }

    fn purge(&self) {
        Producer::purge(self, PurgeConfig::default().queue().inflight());
    }

    fn init_transactions(&self, timeout: Duration) -> CallOutcome {
        Ok(Producer::init_transactions(self, timeout)?)
    }

    fn begin_transaction(&self) -> CallOutcome {
        Ok(Producer::begin_transaction(self)?)
    }

    fn commit_transaction(&self, timeout: Duration) -> CallOutcome {
        Ok(Producer::commit_transaction(self, timeout)?)
    }

    fn abort_transaction(&self, timeout: Duration) -> CallOutcome {
        Ok(Producer::abort_transaction(self, timeout)?)
    }

    fn fatal_error(&self) -> Option<RDKafkaErrorCode> {
        self.client().fatal_error().map(|(code, _)| code)
    }

    fn rules(&self, settings: &ClientSettings, topic: &str) -> Option<TopicRules> {
        // A client of its own: one that sends records cannot ask for settings.
        futures::executor::block_on(TopicRules::of_topic(settings, topic))
    }
}

/// Connects a new producer before it takes its transactional id over: as long as no broker is connected, the library looks for the
/// coordinator of transactions only each half second. The answer to the first request ends the connection to the address that was given,
/// and the second one waits for a broker that stays. Brokers that are silent are left to the takeover, whose error says more. Blocks.
///
/// A producer that asks for a topic may create it: the topic must be there.
pub(crate) fn connect_before_takeover<C: ProducerContext>(producer: &BaseProducer<C>, topic: &str) {
    const PATIENCE: Duration = Duration::from_millis(500);
    let deadline = Instant::now() + PATIENCE;
    for _ in 0..2 {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() || producer.client().fetch_metadata(Some(topic), left).is_err() {
            return;
        }
    }
}

/// The client of a group. It ends on a thread of its own.
pub(crate) struct GroupClient {
    /// There until the end.
    consumer: Option<BaseConsumer<ClientFaults>>,
}

impl GroupClient {
    pub(crate) fn new(consumer: BaseConsumer<ClientFaults>) -> Self {
        Self {
            consumer: Some(consumer),
        }
    }

    fn consumer(&self) -> Result<&BaseConsumer<ClientFaults>, KafkaError> {
        let ended = KafkaError::Global(RDKafkaErrorCode::BrokerDestroy);
        self.consumer.as_ref().ok_or(ended)
    }
}

impl Drop for GroupClient {
    fn drop(&mut self) {
        end_apart(self.consumer.take());
    }
}

impl SilenceClock for GroupClient {}

impl GroupOffsets for GroupClient {
    type Publisher = BaseProducer<Deliveries>;

    fn send_offsets(
        &self,
        publisher: &Self::Publisher,
        offsets: &TopicPartitionList,
        timeout: Duration,
    ) -> CallOutcome {
        let group = self.consumer()?.group_metadata();
        let group = group.ok_or(KafkaError::Global(RDKafkaErrorCode::UnknownGroup))?;
        Ok(publisher.send_offsets_to_transaction(offsets, &group, timeout)?)
    }

    fn commit_offsets(&self, offsets: &TopicPartitionList) -> Result<(), KafkaError> {
        self.consumer()?.commit(offsets, CommitMode::Sync)
    }

    fn committed_metadata(
        &self,
        topic: &str,
        partition: i32,
        timeout: Duration,
    ) -> Result<Option<String>, KafkaError> {
        let mut wanted = TopicPartitionList::with_capacity(1);
        wanted.add_partition(topic, partition);
        let found = self.consumer()?.committed_offsets(wanted, timeout)?;
        let Some(element) = found.find_partition(topic, partition) else {
            return Ok(None);
        };
        // The answer as a whole may be fine, and that of the partition an error: then it has no offset either.
        element.error()?;
        Ok(match element.offset() {
            Offset::Offset(_) => Some(element.metadata().to_owned()),
            _ => None,
        })
    }

    fn identity(&self, settings: &ClientSettings, topic: &str) -> Result<Identity> {
        let consumer = self.consumer();
        let consumer =
            consumer.map_err(|error| request_error(&error, settings, &ClientFaults::default()))?;
        identity(settings, consumer, topic)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::sync::{Arc, Mutex};

    use rdkafka::client::ClientContext;
    use rdkafka::producer::DeliveryResult;

    use super::*;
    use crate::tables::kafka::embedded_broker::EmbeddedBroker;

    /// Of each statistics of a client, whether it is connected to a broker that it knows by the broker's id.
    #[derive(Clone, Default)]
    struct Connections(Arc<Mutex<Vec<bool>>>);

    impl ClientContext for Connections {
        fn stats_raw(&self, statistics: &[u8]) {
            let statistics: serde_json::Value = serde_json::from_slice(statistics).unwrap();
            let mut brokers = statistics["brokers"].as_object().unwrap().values();
            let is_up = brokers.any(|broker| {
                broker["nodeid"].as_i64().is_some_and(|id| id >= 0) && broker["state"] == "UP"
            });
            self.0.lock().unwrap().push(is_up);
        }
    }

    impl ProducerContext for Connections {
        type DeliveryOpaque = ();

        fn delivery(&self, _: &DeliveryResult<'_>, (): Self::DeliveryOpaque) {}
    }

    #[test]
    fn a_producer_is_connected_before_it_takes_its_transactional_id_over() {
        let broker = EmbeddedBroker::start().unwrap();
        broker.create_topic("t", 1).unwrap();
        let servers = broker.bootstrap_servers();
        let options = BTreeMap::from([("kafka.bootstrap.servers".to_owned(), servers)]);
        let settings = ClientSettings::from_options(&options).unwrap();
        let connections = Connections::default();
        let mut config = settings.producer_config();
        config
            .set("transactional.id", "t")
            .set("statistics.interval.ms", "5");
        let producer: BaseProducer<Connections> =
            config.create_with_context(connections.clone()).unwrap();
        connect_before_takeover(&producer, "t");
        // Left alone, such a client never connects.
        let mut seen = Vec::new();
        while seen.len() < 100 && !seen.contains(&true) {
            producer.poll(Duration::from_millis(50));
            seen.append(&mut connections.0.lock().unwrap());
        }
        assert!(seen.contains(&true), "{seen:?}");
    }

    #[test]
    fn a_client_that_asks_about_a_topic_has_no_group() {
        let broker = EmbeddedBroker::start().unwrap();
        let servers = broker.bootstrap_servers();
        let options = BTreeMap::from([("kafka.bootstrap.servers".to_owned(), servers)]);
        let settings = ClientSettings::from_options(&options).unwrap();
        let asks = settings.consumer(ClientFaults::default()).unwrap();
        assert!(asks.group_metadata().is_none());
        let reads = settings.reading_consumer(ClientFaults::default(), 1);
        assert!(reads.unwrap().group_metadata().is_some());
    }

    #[test]
    fn an_error_of_a_partition_is_not_taken_for_a_partition_without_an_offset() {
        let broker = EmbeddedBroker::start().unwrap();
        broker.create_topic("t", 1).unwrap();
        let servers = broker.bootstrap_servers();
        let options = BTreeMap::from([("kafka.bootstrap.servers".to_owned(), servers)]);
        let settings = ClientSettings::from_options(&options).unwrap();
        let group = settings.group_consumer("g", ClientFaults::default());
        let group = GroupClient::new(group.unwrap());
        let committed = |topic| group.committed_metadata(topic, 0, Duration::from_secs(10));
        assert_eq!(committed("t").unwrap(), None);
        // The broker knows no such topic, and says so of the partition alone.
        let error = committed("missing").unwrap_err();
        let code = RDKafkaErrorCode::UnknownTopicOrPartition;
        assert_eq!(error.rdkafka_error_code(), Some(code), "{error}");
    }
}
