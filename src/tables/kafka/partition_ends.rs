//! Ends of a topic's logs: where its partitions start and end, asked of their leaders, all partitions in one request.

#![expect(
    clippy::disallowed_methods,
    reason = "blocking calls of the client wait for an election, on threads of their own"
)]

use std::time::{Duration, Instant};

use rdkafka::Offset;
use rdkafka::consumer::{BaseConsumer, Consumer, ConsumerContext};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::types::RDKafkaRespErr;

use crate::core::jobs::PartitionEnds;
use crate::error::{Error, Result, Subject};
use crate::tables::kafka::client::{
    ClientFaults, ClientSettings, client_error, code_error, request_error, unknown_topic,
};
use crate::tables::kafka::error_codes::{ErrorMeaning, meaning};
use crate::tables::kafka::librdkafka::{self, LogEnd};

const PROBE: Duration = Duration::from_millis(500);
/// The most lines of the client's log that are read at each look.
const HEARD: usize = 16;
/// While a leader is elected it is asked for again after this time.
const ELECTION: Duration = Duration::from_millis(100);

/// A broker of a cluster may hear of a new topic later than its peers, but not later than this.
const NEWS: Duration = Duration::from_secs(2);

/// Whether a broker that does not know a topic may only be late to learn of it. `since` is the time of the first
/// request.
pub(crate) fn may_learn_of_topic(brokers: usize, since: Instant) -> bool {
    // A broker that has no metadata yet names no broker at all: its answer says nothing about topics.
    brokers == 0 || (brokers > 1 && since.elapsed() < NEWS)
}

/// Answers where logs end.
pub(crate) trait Leaders {
    /// One end of each of these partitions.
    fn list(&self, partitions: &[i32], end: LogEnd) -> Result<Vec<(i32, i64)>>;
}

/// All ends of these partitions. The latest offset is asked for last: so a log that has just grown is never taken for
/// one that is read to its end, since its high watermark is the newer number.
pub(crate) fn partition_ends(
    leaders: &impl Leaders,
    partitions: &[i32],
) -> Result<Vec<PartitionEnds>> {
    let first = leaders.list(partitions, LogEnd::First)?;
    let stable = leaders.list(partitions, LogEnd::Stable)?;
    let latest = leaders.list(partitions, LogEnd::Latest)?;
    let ends = first.into_iter().zip(stable).zip(latest).map(
        |(((partition, low), (_, high)), (_, latest))| PartitionEnds {
            partition,
            low,
            high,
            latest,
            unread: None,
            behind_hole: None,
        },
    );
    Ok(ends.collect())
}

/// Where a bounded read of these partitions starts and ends: partition, first offset kept, last stable offset.
pub(crate) fn stable_ends(
    leaders: &impl Leaders,
    partitions: &[i32],
) -> Result<Vec<(i32, i64, i64)>> {
    let first = leaders.list(partitions, LogEnd::First)?;
    let stable = leaders.list(partitions, LogEnd::Stable)?;
    let ends = first.into_iter().zip(stable);
    Ok(ends
        .map(|((partition, low), (_, high))| (partition, low, high))
        .collect())
}

/// The leaders of a topic's partitions, asked by a client.
pub(crate) struct ClientLeaders<'a> {
    pub(crate) settings: &'a ClientSettings,
    pub(crate) consumer: &'a BaseConsumer<ClientFaults>,
    pub(crate) topic: &'a str,
}

impl ClientLeaders<'_> {
    /// The partitions of the topic.
    pub(crate) fn partitions(&self) -> Result<Vec<i32>> {
        let mut found = partitions(self.settings, self.consumer, self.topic)?
            .ok_or_else(|| unknown_topic(self.topic))?;
        found.sort_unstable();
        Ok(found)
    }
}

impl Leaders for ClientLeaders<'_> {
    fn list(&self, partitions: &[i32], end: LogEnd) -> Result<Vec<(i32, i64)>> {
        let faults: &ClientFaults = self.consumer.context();
        let failed = |code| {
            let error = KafkaError::MetadataFetch(code);
            request_error(&error, self.settings, faults)
        };
        let deadline = Instant::now() + self.settings.connect_timeout;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let _ = self.consumer.poll(Duration::ZERO);
            let found: std::result::Result<Vec<(i32, i64)>, RDKafkaErrorCode> =
                librdkafka::list_offsets(self.consumer, self.topic, partitions, end, left)
                    .and_then(|found| found.into_iter().map(|(p, o)| Ok((p, o?))).collect());
            let mut found: Vec<(i32, i64)> = match found {
                Ok(found) => found,
                Err(code)
                    if is_leader_change(code)
                        && !faults.is_hopeless()
                        && Instant::now() < deadline =>
                {
                    std::thread::sleep(ELECTION);
                    // The library does not look for the new leader when a broker answers that it does not lead.
                    let _ = self
                        .consumer
                        .fetch_metadata(Some(self.topic), PROBE.min(left));
                    continue;
                }
                Err(code) => return Err(failed(code)),
            };
            found.sort_unstable();
            let is_whole = found.iter().map(|(partition, _)| partition).eq(partitions);
            return match is_whole {
                true => Ok(found),
                false => Err(Error::unavailable(format!(
                    "Kafka returned the ends of some partitions of topic '{}', and not of all",
                    self.topic
                ))
                .about(Subject::location(self.topic))),
            };
        }
    }
}

/// Whether it is an error of a change of leaders.
fn is_leader_change(code: RDKafkaErrorCode) -> bool {
    matches!(
        code,
        RDKafkaErrorCode::LeaderNotAvailable
            | RDKafkaErrorCode::NotLeaderForPartition
            | RDKafkaErrorCode::ReplicaNotAvailable
            | RDKafkaErrorCode::BrokerNotAvailable
            | RDKafkaErrorCode::OffsetNotAvailable
            | RDKafkaErrorCode::FencedLeaderEpoch
            | RDKafkaErrorCode::UnknownLeaderEpoch
            | RDKafkaErrorCode::KafkaStorageError
            | RDKafkaErrorCode::UnknownTopicOrPartition
            | RDKafkaErrorCode::NetworkException
            | RDKafkaErrorCode::BrokerTransportFailure
            | RDKafkaErrorCode::AllBrokersDown
            | RDKafkaErrorCode::WaitingForCoordinator
            | RDKafkaErrorCode::UnknownPartition
            | RDKafkaErrorCode::NoEnt
    )
}

/// The offset of the first record at or after a time, per partition; `None` past the end. Blocks.
pub(crate) fn offsets_for_time(
    settings: &ClientSettings,
    topic: &str,
    partitions: &[i32],
    millis: i64,
) -> Result<Vec<(i32, Option<i64>)>> {
    let faults = ClientFaults::default();
    let consumer = settings.consumer(faults.clone())?;
    let mut wanted = rdkafka::TopicPartitionList::with_capacity(partitions.len());
    for partition in partitions {
        wanted
            .add_partition_offset(topic, *partition, Offset::Offset(millis))
            .map_err(|error| client_error(&error))?;
    }
    let deadline = Instant::now() + settings.connect_timeout;
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        let found = consumer
            .offsets_for_times(wanted.clone(), left)
            .map_err(|error| request_error(&error, settings, &faults))?;
        // A partition of which the library knows no leader is answered with an error of its own, and with the time as its offset.
        let failed = found
            .elements()
            .into_iter()
            .find_map(|one| one.error().err());
        let offsets = found.elements().into_iter().map(|element| {
            offset_from(element.offset()).map(|offset| (element.partition(), offset))
        });
        let error = match (failed, offsets.collect::<Option<Vec<_>>>()) {
            (None, Some(offsets)) => return Ok(offsets),
            (Some(error), _) => error,
            (None, None) => KafkaError::OffsetFetch(RDKafkaErrorCode::OffsetNotAvailable),
        };
        let code = error.rdkafka_error_code();
        if !code.is_some_and(is_leader_change) || faults.is_hopeless() || Instant::now() >= deadline
        {
            return Err(request_error(&error, settings, &faults));
        }
        std::thread::sleep(ELECTION);
        // The library asks for leaders again only with this.
        let _ = consumer.fetch_metadata(Some(topic), PROBE.min(left));
    }
}

/// The offset from which on records are of a time or later, `None` past the end; nothing at all if the answer has no offset, which
/// says nothing of the partition.
fn offset_from(answer: Offset) -> Option<Option<i64>> {
    match answer {
        Offset::Offset(offset) if offset >= 0 => Some(Some(offset)),
        Offset::End => Some(None),
        _ => None,
    }
}

/// The partitions of a topic; `None` when there is no such topic. Blocks, at most `connect.timeout`.
pub(crate) fn partitions<C: ConsumerContext + AsRef<ClientFaults>>(
    settings: &ClientSettings,
    consumer: &BaseConsumer<C>,
    topic: &str,
) -> Result<Option<Vec<i32>>> {
    let faults: ClientFaults = consumer.context().as_ref().as_ref().clone();
    let began = Instant::now();
    let deadline = began + settings.connect_timeout;
    loop {
        let wait = PROBE.min(deadline.saturating_duration_since(Instant::now()));
        // Callbacks with the cause of a failure are served by polling, one at a time.
        for _ in 0..HEARD {
            let _ = consumer.poll(Duration::ZERO);
        }
        match consumer.fetch_metadata(Some(topic), wait.max(Duration::from_millis(1))) {
            Ok(metadata) => {
                let Some(found) = metadata.topics().iter().find(|found| found.name() == topic)
                else {
                    return Ok(None);
                };
                match found.error() {
                    None => {
                        return Ok(Some(
                            found.partitions().iter().map(|part| part.id()).collect(),
                        ));
                    }
                    Some(
                        RDKafkaRespErr::RD_KAFKA_RESP_ERR_UNKNOWN_TOPIC_OR_PART
                        | RDKafkaRespErr::RD_KAFKA_RESP_ERR__UNKNOWN_TOPIC,
                    ) => match may_learn_of_topic(metadata.brokers().len(), began) {
                        true => std::thread::sleep(ELECTION),
                        false => return Ok(None),
                    },
                    Some(RDKafkaRespErr::RD_KAFKA_RESP_ERR_TOPIC_AUTHORIZATION_FAILED) => {
                        let said = format!("not allowed to read topic '{topic}'");
                        let code = RDKafkaErrorCode::TopicAuthorizationFailed;
                        return Err(code_error(code, said, Some(topic), settings, &faults));
                    }
                    Some(code) => {
                        let code = RDKafkaErrorCode::from(code);
                        if matches!(meaning(code), ErrorMeaning::Permanent { .. }) {
                            let said = format!("topic '{topic}': {code}");
                            return Err(code_error(code, said, Some(topic), settings, &faults));
                        }
                        // Leaders are being elected: ask again.
                    }
                }
            }
            Err(_) if faults.is_hopeless() => return Err(settings.unavailable(&faults)),
            Err(_) => {}
        }
        if Instant::now() >= deadline {
            return Err(settings.unavailable(&faults));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use rdkafka::mocking::MockCluster;

    use super::*;

    #[test]
    fn a_response_without_an_offset_is_ignored() {
        assert_eq!(offset_from(Offset::Offset(7)), Some(Some(7)));
        assert_eq!(offset_from(Offset::End), Some(None));
        for other in [Offset::Invalid, Offset::Beginning, Offset::Stored] {
            assert_eq!(offset_from(other), None, "{other:?}");
        }
    }

    #[test]
    fn a_silent_leader_gives_no_offset() {
        let cluster = MockCluster::new(2).unwrap();
        cluster.create_topic("t", 4, 1).unwrap();
        let servers = cluster.bootstrap_servers();
        let options = BTreeMap::from([("kafka.bootstrap.servers".to_owned(), servers)]);
        let settings = ClientSettings::from_options(&options).unwrap();
        let consumer = settings.consumer(ClientFaults::default()).unwrap();
        let partitions = [0, 1, 2, 3];
        let list = || {
            let timeout = Duration::from_secs(2);
            librdkafka::list_offsets(&consumer, "t", &partitions, LogEnd::Latest, timeout)
        };
        let all = list().unwrap();
        assert!(all.iter().all(|(_, end)| *end == Ok(0)), "{all:?}");
        cluster.broker_down(2).unwrap();
        // The first request after it finds the connection closed, later ones no leader, or none in time.
        for _ in 0..3 {
            if let Ok(all) = list() {
                let failed = all.iter().filter(|(_, end)| end.is_err()).count();
                assert!(failed > 0, "{all:?}");
                assert!(
                    all.iter().all(|(_, end)| !matches!(end, Ok(..0))),
                    "{all:?}"
                );
            }
        }
    }
}
