//! Identity of the topic with a name (IDENT-1): the ids of the cluster and of the topic.
//!
//! The client library asks for topic ids, its Rust binding does not: this is the only place that calls the library itself.

#![expect(
    clippy::disallowed_methods,
    reason = "blocking calls of the client wait for the next attempt, on threads of their own"
)]
#![expect(
    unsafe_code,
    reason = "the Rust binding of librdkafka has no call that gives a topic's id"
)]

use std::ffi::{CStr, CString, c_char, c_int};
use std::time::{Duration, Instant};

use rdkafka::bindings as native;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::types::RDKafkaRespErr;

use crate::core::jobs::Identity;
use crate::error::{Error, ErrorKind, Result, Subject};
use crate::tables::kafka::client::{ClientFaults, ClientSettings, unknown_topic};
use crate::tables::kafka::partition_ends::may_learn_of_topic;

/// After an answer that may change soon.
const PAUSE: Duration = Duration::from_millis(100);
/// How long a single request may take, within the patience of the table.
const REQUEST: Duration = Duration::from_secs(2);

/// Asks the brokers which topic `topic` is. Blocks, at most for `connect.timeout`.
///
/// # Errors
///
/// There is no such topic, it may not be read, or the brokers do not answer.
pub(crate) fn identity(
    settings: &ClientSettings,
    consumer: &BaseConsumer<ClientFaults>,
    topic: &str,
) -> Result<Identity> {
    let faults: &ClientFaults = consumer.context().as_ref();
    let began = Instant::now();
    let deadline = began + settings.connect_timeout;
    loop {
        // Callbacks with the cause of a failure are served by polling.
        let _ = consumer.poll(Duration::ZERO);
        let left = deadline.saturating_duration_since(Instant::now());
        match describe(consumer, topic, left.clamp(PAUSE, REQUEST)) {
            Ok(id) => {
                return Ok(Identity::Topic {
                    topic: topic.to_owned(),
                    cluster: cluster_id(consumer),
                    id,
                });
            }
            Err(RDKafkaErrorCode::UnknownTopicOrPartition | RDKafkaErrorCode::UnknownTopic) => {
                let known = consumer.fetch_metadata(Some(topic), REQUEST);
                let brokers = known.map_or(0, |known| known.brokers().len());
                if !may_learn_of_topic(brokers, began) || Instant::now() >= deadline {
                    return Err(match brokers {
                        0 => settings.unavailable(faults),
                        _ => unknown_topic(topic),
                    });
                }
                std::thread::sleep(PAUSE);
            }
            Err(RDKafkaErrorCode::TopicAuthorizationFailed) => {
                return Err(Error::new(
                    ErrorKind::Permission,
                    format!("not allowed to read topic '{topic}'"),
                )
                .about(Subject::location(topic)));
            }
            Err(_) if faults.is_hopeless() || Instant::now() >= deadline => {
                return Err(settings.unavailable(faults));
            }
            // Leaders are being elected, or no broker is connected yet.
            Err(_) => std::thread::sleep(PAUSE.min(left)),
        }
    }
}

/// The id of a topic; none if the brokers are too old to give one.
fn describe(
    consumer: &BaseConsumer<ClientFaults>,
    topic: &str,
    timeout: Duration,
) -> std::result::Result<Option<String>, RDKafkaErrorCode> {
    let name = CString::new(topic).map_err(|_| RDKafkaErrorCode::InvalidArgument)?;
    let faults: &ClientFaults = consumer.context().as_ref();
    let broker = match faults.describing_broker() {
        Some(broker) => broker,
        None => answering_broker(consumer, topic, timeout)?,
    };
    let described = describe_at(consumer, &name, broker, timeout);
    faults.keep_describing_broker(described.is_ok().then_some(broker));
    described
}

/// A broker that answers: left alone, the library waits for the controller, which may be away although each broker can answer.
fn answering_broker(
    consumer: &BaseConsumer<ClientFaults>,
    topic: &str,
    timeout: Duration,
) -> std::result::Result<i32, RDKafkaErrorCode> {
    match consumer.fetch_metadata(Some(topic), timeout) {
        // A broker that is known by its address alone has no id yet.
        Ok(metadata) if metadata.orig_broker_id() < 0 => {
            let broker = metadata.brokers().first();
            Ok(broker.ok_or(RDKafkaErrorCode::AllBrokersDown)?.id())
        }
        Ok(metadata) => Ok(metadata.orig_broker_id()),
        Err(KafkaError::MetadataFetch(code)) => Err(code),
        Err(_) => Err(RDKafkaErrorCode::BrokerTransportFailure),
    }
}

/// The same of one broker.
fn describe_at(
    consumer: &BaseConsumer<ClientFaults>,
    name: &CString,
    broker: i32,
    timeout: Duration,
) -> std::result::Result<Option<String>, RDKafkaErrorCode> {
    let timeout = c_int::try_from(timeout.as_millis()).unwrap_or(c_int::MAX);
    let client = consumer.client().native_ptr();
    // SAFETY: the client lives as long as `consumer`, which is borrowed. The library copies the names. Objects that it returns belong
    // to the event, which is destroyed after the last use of it; every other object is destroyed once.
    unsafe {
        let mut names = [name.as_ptr()];
        let topics = native::rd_kafka_TopicCollection_of_topic_names(names.as_mut_ptr(), 1);
        let operation = native::rd_kafka_admin_op_t::RD_KAFKA_ADMIN_OP_DESCRIBETOPICS;
        let options = native::rd_kafka_AdminOptions_new(client, operation);
        let mut reason: [c_char; 256] = [0; 256];
        native::rd_kafka_AdminOptions_set_request_timeout(
            options,
            timeout,
            reason.as_mut_ptr(),
            reason.len(),
        );
        native::rd_kafka_AdminOptions_set_broker(
            options,
            broker,
            reason.as_mut_ptr(),
            reason.len(),
        );
        let queue = native::rd_kafka_queue_new(client);
        native::rd_kafka_DescribeTopics(client, topics, options, queue);
        // The request ends by its own timeout; the queue gets an event in any case.
        let event = native::rd_kafka_queue_poll(queue, timeout.saturating_add(1_000));
        let outcome = if event.is_null() {
            Err(RDKafkaRespErr::RD_KAFKA_RESP_ERR__TIMED_OUT)
        } else {
            topic_id(event)
        };
        if !event.is_null() {
            native::rd_kafka_event_destroy(event);
        }
        native::rd_kafka_queue_destroy(queue);
        native::rd_kafka_AdminOptions_destroy(options);
        native::rd_kafka_TopicCollection_destroy(topics);
        outcome.map_err(RDKafkaErrorCode::from)
    }
}

/// The id in the answer about one topic.
///
/// # Safety
///
/// `event` is an event of the library that was not destroyed.
unsafe fn topic_id(
    event: *mut native::rd_kafka_event_t,
) -> std::result::Result<Option<String>, RDKafkaRespErr> {
    let no_error = RDKafkaRespErr::RD_KAFKA_RESP_ERR_NO_ERROR;
    // SAFETY: the event is one by the contract of this function; the library checks its type and gives NULL for another one.
    unsafe {
        let code = native::rd_kafka_event_error(event);
        if code != no_error {
            return Err(code);
        }
        let missing = RDKafkaRespErr::RD_KAFKA_RESP_ERR__BAD_MSG;
        let result = native::rd_kafka_event_DescribeTopics_result(event);
        if result.is_null() {
            return Err(missing);
        }
        let mut count = 0_usize;
        let topics = native::rd_kafka_DescribeTopics_result_topics(result, &raw mut count);
        if topics.is_null() || count != 1 {
            return Err(missing);
        }
        let described = *topics;
        let error = native::rd_kafka_TopicDescription_error(described);
        if !error.is_null() {
            let code = native::rd_kafka_error_code(error);
            if code != no_error {
                return Err(code);
            }
        }
        let id = native::rd_kafka_TopicDescription_topic_id(described);
        if id.is_null() {
            return Ok(None);
        }
        let is_zero = native::rd_kafka_Uuid_most_significant_bits(id) == 0
            && native::rd_kafka_Uuid_least_significant_bits(id) == 0;
        let text = native::rd_kafka_Uuid_base64str(id);
        if is_zero || text.is_null() {
            return Ok(None);
        }
        Ok(Some(CStr::from_ptr(text).to_string_lossy().into_owned()))
    }
}

/// The id of the cluster as the brokers have told it with their last answer; none if they give none.
fn cluster_id(consumer: &BaseConsumer<ClientFaults>) -> Option<String> {
    let client = consumer.client().native_ptr();
    // SAFETY: the client lives as long as `consumer`, which is borrowed; the text is the caller's, and freed once.
    unsafe {
        let text = native::rd_kafka_clusterid(client, 0);
        if text.is_null() {
            return None;
        }
        let id = CStr::from_ptr(text).to_string_lossy().into_owned();
        native::rd_kafka_mem_free(client, text.cast());
        Some(id).filter(|id| !id.is_empty())
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::identity;
    use crate::core::jobs::Identity;
    use crate::tables::kafka::client::{ClientFaults, ClientSettings};
    use crate::tables::kafka::embedded_broker::EmbeddedBroker;

    #[test]
    fn the_embedded_broker_gives_topic_ids() {
        let broker = EmbeddedBroker::start().unwrap();
        broker.create_topic("t", 1).unwrap();
        let servers = broker.bootstrap_servers();
        let options = BTreeMap::from([("kafka.bootstrap.servers".to_owned(), servers)]);
        let settings = ClientSettings::from_options(&options).unwrap();
        let consumer = settings.consumer(ClientFaults::default()).unwrap();
        let Identity::Topic { topic, .. } = identity(&settings, &consumer, "t").unwrap() else {
            panic!("a topic is a topic");
        };
        assert_eq!(topic, "t");
    }
}
