//! Connections to Kafka: settings of librdkafka clients, their log in ours, their faults as our errors.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rdkafka::admin::{
    AdminClient, AdminOptions, ConfigResource, NewTopic, ResourceSpecifier, TopicReplication,
};
use rdkafka::client::ClientContext;
use rdkafka::config::{ClientConfig, RDKafkaLogLevel};
use rdkafka::consumer::{BaseConsumer, ConsumerContext};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};

use crate::core::redact::is_secret;
use crate::error::{Error, Result, Subject};
use crate::tables::kafka::blocking::end_apart;
use crate::tables::kafka::error_codes::{ErrorMeaning, meaning};
use crate::tables::kafka::queue_sizes::{ASSIGNED, QueueSizes};
use crate::tables::options::{self, Options};

const DEFAULT_CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// How to reach the brokers.
#[derive(Clone)]
pub(crate) struct ClientSettings {
    /// `kafka.*` options without their prefix.
    properties: Vec<(String, String)>,
    /// The bound on connecting and on silence.
    pub(crate) connect_timeout: Duration,
    /// The bound on one transactional INSERT.
    pub(crate) transaction_timeout: Duration,
}

impl std::fmt::Debug for ClientSettings {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // Values may be secrets.
        let names: Vec<&str> = self
            .properties
            .iter()
            .map(|(name, _)| name.as_str())
            .collect();
        f.debug_struct("ClientSettings")
            .field("properties", &names)
            .finish_non_exhaustive()
    }
}

impl ClientSettings {
    pub(crate) fn from_options(options: &Options) -> Result<Self> {
        let properties: Vec<(String, String)> = options
            .iter()
            .filter_map(|(key, value)| {
                Some((key.strip_prefix("kafka.")?.to_owned(), value.clone()))
            })
            .collect();
        if !properties
            .iter()
            .any(|(name, _)| name == "bootstrap.servers" || name == "metadata.broker.list")
        {
            return Err(
                Error::invalid("option 'kafka.bootstrap.servers' is missing")
                    .about(Subject::option("kafka.bootstrap.servers"))
                    .with_help("add 'kafka.bootstrap.servers' 'host:9092' to OPTIONS"),
            );
        }
        for (name, _) in &properties {
            if OURS.contains(&name.as_str()) {
                return Err(Error::invalid(format!(
                    "option 'kafka.{name}' is set by Anabranch itself"
                ))
                .about(Subject::option(format!("kafka.{name}")))
                .with_help("leave it out"));
            }
        }
        let settings = Self {
            properties,
            connect_timeout: options::duration(
                options,
                "connect.timeout",
                DEFAULT_CONNECT_TIMEOUT,
            )?,
            transaction_timeout: options::duration(
                options,
                "transaction.timeout",
                Duration::from_secs(300),
            )?,
        };
        settings.check()?;
        Ok(settings)
    }

    /// librdkafka knows its own property names and values.
    fn check(&self) -> Result<()> {
        match self.base().create_native_config() {
            Ok(_) => Ok(()),
            Err(KafkaError::ClientConfig(_, description, name, value)) => {
                let shown = if is_secret(&name) {
                    "***"
                } else {
                    value.as_str()
                };
                let description = description.replace(&value, shown);
                Err(Error::invalid(format!(
                    "option 'kafka.{name}' does not accept '{shown}': {description}"
                ))
                .about(Subject::option(format!("kafka.{name}")))
                .with_help("the kafka.* options are those of librdkafka's CONFIGURATION.md"))
            }
            Err(other) => Err(Error::invalid(other.to_string())),
        }
    }

    fn base(&self) -> ClientConfig {
        let mut config = ClientConfig::new();
        config.set("client.id", "anabranch");
        for (name, value) in &self.properties {
            config.set(name, value);
        }
        // For half of this time a new client does not connect to another broker. But its first connection, which is to the address that
        // was given, ends when an answer says which brokers there are.
        self.set_unless_given(&mut config, "reconnect.backoff.ms", "20");
        config.set_log_level(RDKafkaLogLevel::Info);
        config
    }

    /// A client that asks about a topic. It reads nothing, and so it has no group: at the end of a client with one, the binding looks only
    /// each tenth of a second whether the group has ended.
    pub(crate) fn consumer(&self, context: ClientFaults) -> Result<BaseConsumer<ClientFaults>> {
        self.consumer_of(context, None, 1, Duration::ZERO)
    }

    /// A client that reads so many partitions at a time: the bytes that it holds of all of them are bounded.
    pub(crate) fn reading_consumer<C: ConsumerContext>(
        &self,
        context: C,
        partitions: usize,
    ) -> Result<BaseConsumer<C>> {
        // Statistics tell how far a client has fetched: several times within the time that silence may take. And they tell how full
        // many queues are: before they can take much more.
        let longest = match partitions > ASSIGNED {
            true => Duration::from_secs(1),
            false => Duration::from_millis(2_500),
        };
        let statistics = (self.connect_timeout / 4).clamp(Duration::from_millis(100), longest);
        // Without a group, partitions cannot be assigned.
        self.consumer_of(context, Some("anabranch"), partitions, statistics)
    }

    fn consumer_of<C: ConsumerContext>(
        &self,
        context: C,
        group: Option<&str>,
        partitions: usize,
        statistics: Duration,
    ) -> Result<BaseConsumer<C>> {
        let sizes = QueueSizes::of(partitions);
        let mut config = self.base();
        if let Some(group) = group {
            config.set("group.id", group);
        }
        config
            .set("enable.auto.commit", "false")
            .set("enable.auto.offset.store", "false")
            .set("enable.partition.eof", "true")
            .set("auto.offset.reset", "error")
            .set("isolation.level", "read_committed")
            .set("allow.auto.create.topics", "false");
        for (name, value) in [
            // A bounded scan wants bytes at once, in large pieces.
            ("fetch.wait.max.ms", "50"),
            (
                "fetch.message.max.bytes",
                sizes.fetch_bytes.to_string().as_str(),
            ),
            (
                "queued.max.messages.kbytes",
                sizes.kilobytes.to_string().as_str(),
            ),
            ("queued.min.messages", sizes.records.to_string().as_str()),
            // A full queue is checked again soon: the default is a second, in which a fast reader starves.
            ("fetch.queue.backoff.ms", "5"),
            (
                "statistics.interval.ms",
                statistics.as_millis().to_string().as_str(),
            ),
            // A bit that flipped on the way or on a disk is an error of the fetch, not a value.
            ("check.crcs", "true"),
        ] {
            self.set_unless_given(&mut config, name, value);
        }
        config
            .create_with_context(context)
            .map_err(|error| self.creation_error(&error))
    }

    /// Why librdkafka made no client, with the option it is about.
    pub(crate) fn creation_error(&self, error: &KafkaError) -> Error {
        let said = error.to_string();
        let about = self
            .properties
            .iter()
            .filter(|(name, _)| said.contains(name.as_str()))
            .max_by_key(|(name, _)| name.len());
        let Some((name, value)) = about else {
            return client_error(error);
        };
        let file = name.ends_with(".location").then(|| std::fs::read(value));
        match file {
            Some(Err(reason)) => Error::invalid(format!(
                "option 'kafka.{name}': the file '{value}' cannot be read: {reason}"
            ))
            .about(Subject::option(format!("kafka.{name}"))),
            Some(Ok(_)) => Error::invalid(format!(
                "option 'kafka.{name}': the file '{value}' has unexpected content: {said}"
            ))
            .about(Subject::option(format!("kafka.{name}"))),
            None => Error::invalid(format!("option 'kafka.{name}': {said}"))
                .about(Subject::option(format!("kafka.{name}"))),
        }
    }

    /// A client that reads and commits offsets of a group, and is no member of it.
    pub(crate) fn group_consumer(
        &self,
        group: &str,
        context: ClientFaults,
    ) -> Result<BaseConsumer<ClientFaults>> {
        let mut config = self.base();
        config
            .set("group.id", group)
            .set("enable.auto.commit", "false")
            .set("isolation.level", "read_committed");
        config
            .create_with_context(context)
            .map_err(|error| self.creation_error(&error))
    }

    /// Whether another table's brokers are these.
    pub(crate) fn same_cluster(&self, other: &Self) -> bool {
        self.servers() == other.servers()
    }

    pub(crate) fn producer_config(&self) -> ClientConfig {
        let mut config = self.base();
        config.set("enable.idempotence", "true").set("acks", "all");
        for (name, value) in [
            ("partitioner", "murmur2_random"),
            ("linger.ms", "5"),
            ("queue.buffering.max.messages", "500000"),
            ("queue.buffering.max.kbytes", "262144"),
            ("batch.size", "1048576"),
            ("batch.num.messages", "50000"),
        ] {
            self.set_unless_given(&mut config, name, value);
        }
        config
    }

    pub(crate) fn set_unless_given(&self, config: &mut ClientConfig, name: &str, value: &str) {
        if !self.properties.iter().any(|(given, _)| given == name) {
            config.set(name, value);
        }
    }

    fn servers(&self) -> &str {
        self.properties
            .iter()
            .find(|(name, _)| name == "bootstrap.servers" || name == "metadata.broker.list")
            .map_or("", |(_, value)| value)
    }

    /// Bytes that the client takes for one record.
    pub(crate) fn record_bytes(&self) -> usize {
        const DEFAULT: usize = 1_000_000;
        let mut given = self.properties.iter();
        let given = given.rfind(|(name, _)| name == "message.max.bytes");
        given
            .and_then(|(_, value)| value.trim().parse().ok())
            .unwrap_or(DEFAULT)
    }

    /// How long a broker that is sent records may be silent: the time that librdkafka gives a request, or
    /// `connect.timeout` if that is longer, and no longer than a transaction may take.
    pub(crate) fn request_timeout(&self) -> Duration {
        const REQUEST: Duration = Duration::from_secs(30);
        let patience = self.connect_timeout.max(REQUEST);
        patience.min(self.transaction_timeout)
    }

    /// The error for brokers that did not answer, with the cause librdkafka gave.
    pub(crate) fn unavailable(&self, faults: &ClientFaults) -> Error {
        let servers = self.servers();
        let cause = faults.cause();
        let message = match &cause {
            Some(cause) => format!("no connection to Kafka at {servers}: {cause}"),
            None => format!(
                "no answer from Kafka at {servers} within {:?}",
                self.connect_timeout
            ),
        };
        let help = match cause.as_deref() {
            Some(cause) if is_authentication(cause) => {
                "check 'kafka.security.protocol', 'kafka.sasl.mechanism', 'kafka.sasl.username' and 'kafka.sasl.password'"
            }
            Some(cause) if is_tls(cause) => {
                "check 'kafka.security.protocol' and the 'kafka.ssl.*' options against the broker's listener"
            }
            _ => {
                "check that the broker runs and that 'kafka.bootstrap.servers' names it; 'connect.timeout' limits the wait"
            }
        };
        Error::unavailable(message).with_help(help)
    }
}

/// Properties that carry the guarantees: not the user's to change.
const OURS: [&str; 10] = [
    "group.id",
    "enable.auto.commit",
    "enable.auto.offset.store",
    "enable.partition.eof",
    "auto.offset.reset",
    "isolation.level",
    "enable.idempotence",
    "acks",
    "transactional.id",
    "allow.auto.create.topics",
];

/// librdkafka's context: its log goes to ours, its last fault is kept for our errors.
#[derive(Debug, Clone, Default)]
pub(crate) struct ClientFaults {
    last: Arc<Mutex<Option<String>>>,
    describing_broker: Arc<Mutex<Option<i32>>>,
}

impl ClientFaults {
    /// The broker that has described a topic before, if it has answered since: it is asked without a look for one that is there.
    pub(crate) fn describing_broker(&self) -> Option<i32> {
        *self
            .describing_broker
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// Keeps the broker that has described a topic; none after one has not.
    pub(crate) fn keep_describing_broker(&self, broker: Option<i32>) {
        *self
            .describing_broker
            .lock()
            .unwrap_or_else(PoisonError::into_inner) = broker;
    }

    pub(crate) fn cause(&self) -> Option<String> {
        self.last
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// True when waiting longer cannot help.
    pub(crate) fn is_hopeless(&self) -> bool {
        self.cause()
            .is_some_and(|cause| is_authentication(&cause) || is_tls(&cause))
    }

    fn keep(&self, reason: &str) {
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        // The first cause of a kind that explains is worth more than the many that follow.
        let explained = last
            .as_deref()
            .is_some_and(|cause| is_authentication(cause) || is_tls(cause));
        if !explained && !reason.contains("brokers are down") {
            *last = Some(shorten(reason));
        }
    }
}

impl ClientContext for ClientFaults {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        if matches!(facility, "FAIL" | "ERROR") {
            self.keep(message);
        }
        match level {
            RDKafkaLogLevel::Emerg
            | RDKafkaLogLevel::Alert
            | RDKafkaLogLevel::Critical
            | RDKafkaLogLevel::Error => tracing::info!(target: "kafka", facility, "{message}"),
            // Retried inside the library; a fault that it cannot mend becomes an error of the statement.
            RDKafkaLogLevel::Warning | RDKafkaLogLevel::Notice | RDKafkaLogLevel::Info => {
                tracing::debug!(target: "kafka", facility, "{message}");
            }
            RDKafkaLogLevel::Debug => tracing::trace!(target: "kafka", facility, "{message}"),
        }
    }

    fn error(&self, error: KafkaError, reason: &str) {
        self.keep(reason);
        tracing::debug!(target: "kafka", %error, "{reason}");
    }

    fn stats_raw(&self, _: &[u8]) {}
}

impl ConsumerContext for ClientFaults {}
impl rdkafka::producer::ProducerContext for ClientFaults {
    type DeliveryOpaque = ();

    fn delivery(&self, _: &rdkafka::producer::DeliveryResult<'_>, (): Self::DeliveryOpaque) {}
}

impl AsRef<ClientFaults> for ClientFaults {
    fn as_ref(&self) -> &ClientFaults {
        self
    }
}

/// Creates a topic; one that exists already is fine.
pub(crate) async fn create_topic(
    settings: &ClientSettings,
    topic: &str,
    partitions: i32,
    replication: i32,
) -> Result<()> {
    let faults = ClientFaults::default();
    let admin: AdminClient<ClientFaults> = settings
        .base()
        .create_with_context(faults.clone())
        .map_err(|error| settings.creation_error(&error))?;
    let new = NewTopic::new(topic, partitions, TopicReplication::Fixed(replication));
    let options = AdminOptions::new()
        .operation_timeout(Some(settings.connect_timeout))
        .request_timeout(Some(settings.connect_timeout));
    let results = admin.create_topics([&new], &options).await;
    end_apart(admin);
    let results = results.map_err(|error| request_error(&error, settings, &faults))?;
    for result in results {
        if let Err((name, code)) = result
            && code != RDKafkaErrorCode::TopicAlreadyExists
        {
            let said = format!("topic '{name}' could not be created: {code}");
            return Err(code_error(code, said, Some(&name), settings, &faults));
        }
    }
    Ok(())
}

/// A setting of a topic, if the brokers have told it.
pub(crate) fn setting<'s>(described: &'s ConfigResource, name: &str) -> Option<&'s str> {
    described.get(name)?.value.as_deref()
}

/// The settings of a topic, as far as they may be read; none if the brokers do not tell them.
pub(crate) async fn topic_settings(
    settings: &ClientSettings,
    topic: &str,
) -> Option<ConfigResource> {
    let admin = settings
        .base()
        .create_with_context::<_, AdminClient<ClientFaults>>(ClientFaults::default())
        .ok()?;
    let options = AdminOptions::new().request_timeout(Some(settings.connect_timeout));
    let described = admin
        .describe_configs(&[ResourceSpecifier::Topic(topic)], &options)
        .await;
    end_apart(admin);
    described.ok()?.into_iter().flatten().next()
}

pub(crate) fn unknown_topic(topic: &str) -> Error {
    Error::not_found(format!("topic '{topic}' does not exist"))
        .about(Subject::location(topic))
        .with_help("create it, or let an INSERT create it with the option 'topic.partitions'")
}

/// An error of a request to the brokers.
pub(crate) fn request_error(
    error: &KafkaError,
    settings: &ClientSettings,
    faults: &ClientFaults,
) -> Error {
    let code = match error {
        KafkaError::AdminOp(code) => Some(*code),
        error => error.rdkafka_error_code(),
    };
    match code {
        Some(code) => code_error(code, format!("Kafka: {error}"), None, settings, faults),
        None => Error::unavailable(format!("Kafka: {error}")),
    }
}

/// The error of a code, by what it means for the caller; `said` is its message, which is about `topic`, unless there was no
/// answer at all.
pub(crate) fn code_error(
    code: RDKafkaErrorCode,
    said: String,
    topic: Option<&str>,
    settings: &ClientSettings,
    faults: &ClientFaults,
) -> Error {
    let about = |error: Error| match topic {
        Some(topic) => error.about(Subject::location(topic)),
        None => error,
    };
    match meaning(code) {
        ErrorMeaning::NoAnswer => settings.unavailable(faults),
        ErrorMeaning::Transient => about(Error::unavailable(said)),
        ErrorMeaning::Permanent {
            kind,
            help,
            is_of_row,
        } => {
            let error = about(Error::new(kind, said)).with_help(help);
            match is_of_row {
                true => error,
                false => error.without_row(),
            }
        }
    }
}

pub(crate) fn client_error(error: &KafkaError) -> Error {
    Error::invalid(format!("Kafka client: {error}"))
}

fn is_authentication(cause: &str) -> bool {
    let cause = cause.to_lowercase();
    cause.contains("authentication") || cause.contains("sasl")
}

fn is_tls(cause: &str) -> bool {
    let cause = cause.to_lowercase();
    cause.contains("ssl") || cause.contains("certificate") || cause.contains("tls")
}

/// librdkafka's lines start with thread and broker names and end with how long ago: noise here.
fn shorten(reason: &str) -> String {
    let start = reason.find("]: ").map_or(0, |at| at + 3);
    // `sasl_ssl://host:port/bootstrap: ` names the protocol asked for, which is no cause.
    let mut text = &reason[start..];
    if let Some((broker, cause)) = text.split_once(": ")
        && (broker.contains("://") || broker.ends_with("/bootstrap"))
    {
        text = cause;
    }
    let end = text.find(" (after ").unwrap_or(text.len());
    text[..end].trim().to_owned()
}
