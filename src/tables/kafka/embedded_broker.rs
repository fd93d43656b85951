//! The embedded broker: librdkafka's in-process mock cluster, for a demo without an installed Kafka.

use rdkafka::mocking::MockCluster;
use rdkafka::producer::DefaultProducerContext;

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
}
