//! The embedded broker: librdkafka's in-process mock cluster, for a demo without an installed Kafka.

#[cfg(test)]
use std::time::Duration;

use rdkafka::mocking::MockCluster;
use rdkafka::producer::DefaultProducerContext;
#[cfg(test)]
use rdkafka::producer::{BaseProducer, BaseRecord, Producer as _};

use crate::error::{Error, Result};

/// A broker on loopback that speaks the real protocol and lives as long as this value.
pub struct EmbeddedBroker {
    cluster: MockCluster<'static, DefaultProducerContext>,
}

impl EmbeddedBroker {
    /// Starts one.
    ///
    /// # Errors
    /// No socket can be opened.
    pub fn start() -> Result<Self> {
        MockCluster::new(1)
            .map(|cluster| Self { cluster })
            .map_err(|error| {
                Error::unavailable(format!("the embedded broker did not start: {error}"))
            })
    }

    /// Its address for `kafka.bootstrap.servers`.
    pub fn bootstrap_servers(&self) -> String {
        self.cluster.bootstrap_servers()
    }

    /// Creates a topic.
    ///
    /// # Errors
    /// When the broker refuses it.
    pub fn create_topic(&self, name: &str, partitions: i32) -> Result<()> {
        self.cluster
            .create_topic(name, partitions, 1)
            .map_err(|error| {
                Error::unavailable(format!("topic '{name}' could not be created: {error}"))
            })
    }

    /// Sends a value to each of these partitions of a topic, in this order.
    #[cfg(test)]
    #[allow(clippy::unwrap_used)]
    pub(crate) fn send(&self, topic: &str, values: impl IntoIterator<Item = (i32, String)>) {
        let producer: BaseProducer = rdkafka::ClientConfig::new()
            .set("bootstrap.servers", self.bootstrap_servers())
            .set("queue.buffering.max.messages", "1000000")
            .create()
            .unwrap();
        for (partition, value) in values {
            let record = BaseRecord::<(), str>::to(topic).partition(partition);
            let sent = producer.send(record.payload(&value));
            sent.map_err(|(error, _)| error).unwrap();
            producer.poll(Duration::ZERO);
        }
        producer.flush(Duration::from_secs(120)).unwrap();
    }
}
