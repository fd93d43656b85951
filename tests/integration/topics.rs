//! Topics of the tests: made, changed, filled and read by librdkafka, within milliseconds; Kafka's own tools start a
//! Java machine each time. In tests of the records that others see, Kafka's own consumer reads:
//! [`crate::support::read_by_kafka`].

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::time::{Duration, Instant};

use futures::executor::block_on;
use rdkafka::admin::{
    AdminClient, AdminOptions, AlterConfig, NewPartitions, NewTopic, ResourceSpecifier,
    TopicReplication,
};
use rdkafka::client::DefaultClientContext;
use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::error::KafkaError;
use rdkafka::message::{BorrowedMessage, Headers as _, Message as _};
use rdkafka::metadata::Metadata;
use rdkafka::producer::{FutureProducer, FutureRecord};
use rdkafka::{ClientConfig, Offset, TopicPartitionList};

use crate::support::{PATIENCE, kafka};

/// How long a reader waits for a transaction that is open. One that has been committed is closed within milliseconds; one of a
/// process that was killed stays open for long.
const OPEN: Duration = Duration::from_secs(5);

/// Creates a topic.
pub(crate) fn create_topic(topic: &str, partitions: u32) {
    create_topic_on(&kafka(), topic, partitions);
}

/// The same on another broker.
pub(crate) fn create_topic_on(bootstrap: &str, topic: &str, partitions: u32) {
    create_topic_with(bootstrap, topic, partitions, &[]);
}

/// The same with settings of the topic. When this returns, the broker tells its clients of the topic.
pub(crate) fn create_topic_with(
    bootstrap: &str,
    topic: &str,
    partitions: u32,
    settings: &[(&str, &str)],
) {
    let count = partitions.try_into().unwrap();
    let wanted = NewTopic::new(topic, count, TopicReplication::Fixed(1));
    create(bootstrap, wanted, settings);
}

/// The same with so many replicas of each partition.
pub(crate) fn create_topic_of(bootstrap: &str, topic: &str, partitions: u32, replicas: i32) {
    let count = partitions.try_into().unwrap();
    let wanted = NewTopic::new(topic, count, TopicReplication::Fixed(replicas));
    create(bootstrap, wanted, &[]);
}

/// The same with one partition that is on these brokers, of which the first leads.
pub(crate) fn create_replicated(
    bootstrap: &str,
    topic: &str,
    brokers: &[i32],
    settings: &[(&str, &str)],
) {
    let replicas = [brokers];
    let wanted = NewTopic::new(topic, 1, TopicReplication::Variable(&replicas));
    create(bootstrap, wanted, settings);
}

fn create<'a>(bootstrap: &str, mut wanted: NewTopic<'a>, settings: &'a [(&'a str, &'a str)]) {
    for (name, value) in settings {
        wanted = wanted.set(name, value);
    }
    let admin = admin(bootstrap);
    let created = block_on(admin.create_topics([&wanted], &patient())).unwrap();
    for result in created {
        result.unwrap();
    }
    let partitions = wanted.num_partitions.try_into().unwrap();
    wait_for_partitions(&admin, wanted.name, partitions);
}

/// Adds partitions to a topic until it has so many.
pub(crate) fn widen_topic_on(bootstrap: &str, topic: &str, partitions: u32) {
    let wanted = NewPartitions::new(topic, partitions.try_into().unwrap());
    let admin = admin(bootstrap);
    let widened = block_on(admin.create_partitions([&wanted], &patient())).unwrap();
    for result in widened {
        result.unwrap();
    }
    wait_for_partitions(&admin, topic, partitions);
}

/// Gives a topic a setting. When this returns, the broker tells its clients of it.
pub(crate) fn set_topic_on(bootstrap: &str, topic: &str, name: &str, value: &str) {
    let admin = admin(bootstrap);
    let topic = ResourceSpecifier::Topic(topic);
    let change = AlterConfig::new(topic).set(name, value);
    let changed = block_on(admin.alter_configs([&change], &patient())).unwrap();
    for result in changed {
        result.unwrap();
    }
    let began = Instant::now();
    loop {
        let described = block_on(admin.describe_configs([&topic], &patient())).unwrap();
        let described = described.into_iter().next().unwrap().unwrap();
        let told = described.get(name).and_then(|entry| entry.value.as_deref());
        if told == Some(value) {
            return;
        }
        assert!(began.elapsed() < PATIENCE, "{name} is {told:?}");
    }
}

/// Deletes a topic. When this returns, the broker tells its clients that there is none.
pub(crate) fn delete_topic_on(bootstrap: &str, topic: &str) {
    let admin = admin(bootstrap);
    let deleted = block_on(admin.delete_topics(&[topic], &patient())).unwrap();
    for result in deleted {
        result.unwrap();
    }
    wait_for_partitions(&admin, topic, 0);
}

/// Deletes the records of a partition before an offset, as retention does.
pub(crate) fn delete_records_on(bootstrap: &str, topic: &str, partition: i32, before: i64) {
    let mut offsets = TopicPartitionList::new();
    offsets
        .add_partition_offset(topic, partition, Offset::Offset(before))
        .unwrap();
    let admin = admin(bootstrap);
    let deleted = block_on(admin.delete_records(&offsets, &patient())).unwrap();
    for result in deleted.elements() {
        result.error().unwrap();
    }
}

/// How many partitions a topic has; none if there is no such topic.
pub(crate) fn partitions(topic: &str) -> u32 {
    let admin = admin(&kafka());
    partitions_of(&admin, topic)
}

/// The end of each partition of a topic, with the records of transactions that are open.
pub(crate) fn ends(topic: &str) -> Vec<i64> {
    ends_for(&reader(&kafka(), "read_uncommitted"), topic)
}

/// Sends lines as the values of records.
pub(crate) fn produce(topic: &str, lines: &str) {
    produce_on(&kafka(), topic, lines);
}

/// The same to another broker. When this returns, the broker has them all.
pub(crate) fn produce_on(bootstrap: &str, topic: &str, lines: &str) {
    let lines = lines.lines();
    send(
        bootstrap,
        lines.map(|line| FutureRecord::to(topic).payload(line)),
    );
}

/// Sends values to one partition.
pub(crate) fn produce_in(bootstrap: &str, topic: &str, partition: i32, values: &[String]) {
    let record = |value| FutureRecord::to(topic).partition(partition).payload(value);
    send(bootstrap, values.iter().map(|value| record(value.as_str())));
}

/// Sends values, each with its timestamp in milliseconds since 1970 UTC, to one partition, where their offsets ascend in this order.
pub(crate) fn produce_at(bootstrap: &str, topic: &str, partition: i32, values: &[(i64, String)]) {
    let records = values.iter().map(|(timestamp, value)| {
        let record = FutureRecord::to(topic).partition(partition);
        record.timestamp(*timestamp).payload(value.as_str())
    });
    send(bootstrap, records);
}

fn send<'a>(bootstrap: &str, records: impl Iterator<Item = FutureRecord<'a, (), str>>) {
    let producer: FutureProducer = ClientConfig::new()
        .set("bootstrap.servers", bootstrap)
        .set("enable.idempotence", "true")
        // No limit.
        .set("queue.buffering.max.messages", "0")
        .create()
        .unwrap();
    let sent: Vec<_> = records
        .map(|record| {
            producer
                .send_result(record)
                .map_err(|(error, _)| error)
                .unwrap()
        })
        .collect();
    for delivery in sent {
        let delivered = block_on(delivery).unwrap();
        delivered.map_err(|(error, _)| error).unwrap();
    }
}

/// All committed records of a topic, a line each, one partition after the other.
pub(crate) fn consume(topic: &str, properties: &[&str]) -> Vec<String> {
    let printed = consume_on(&kafka(), topic, properties);
    printed.lines().map(str::to_owned).collect()
}

/// The same from another broker, as Kafka's console consumer prints them with these properties: `print.offset=true`,
/// `print.headers=true` and `print.key=true`.
pub(crate) fn consume_on(bootstrap: &str, topic: &str, properties: &[&str]) -> String {
    let written = ends_for(&reader(bootstrap, "read_uncommitted"), topic);
    let committed = reader(bootstrap, "read_committed");
    // The marks that close a transaction are written a moment after its commit was answered.
    let began = Instant::now();
    let is_closed = || {
        let readable = ends_for(&committed, topic);
        readable.iter().zip(&written).all(|(may, is)| may >= is)
    };
    while !is_closed() && began.elapsed() < OPEN {
        std::thread::sleep(Duration::from_millis(10));
    }
    let mut assignment = TopicPartitionList::new();
    let mut printed = vec![String::new(); written.len()];
    let mut unfinished = BTreeSet::new();
    for partition in (0..).take(written.len()) {
        assignment
            .add_partition_offset(topic, partition, Offset::Beginning)
            .unwrap();
        unfinished.insert(partition);
    }
    committed.assign(&assignment).unwrap();
    while !unfinished.is_empty() {
        assert!(
            began.elapsed() < PATIENCE,
            "{topic} is not read to its end: {unfinished:?}"
        );
        match committed.poll(Duration::from_millis(100)) {
            Some(Ok(message)) => {
                let partition = usize::try_from(message.partition()).unwrap();
                writeln!(printed[partition], "{}", line(&message, properties)).unwrap();
            }
            Some(Err(KafkaError::PartitionEOF(partition))) => {
                unfinished.remove(&partition);
            }
            // After an error the library goes on by itself.
            Some(Err(_)) | None => {}
        }
    }
    printed.concat()
}

fn line(message: &BorrowedMessage<'_>, properties: &[&str]) -> String {
    let text = |bytes: Option<&[u8]>| {
        bytes.map_or_else(
            || "null".to_owned(),
            |bytes| String::from_utf8(bytes.to_vec()).unwrap(),
        )
    };
    let mut parts = Vec::new();
    if properties.contains(&"print.offset=true") {
        parts.push(format!("Offset:{}", message.offset()));
    }
    if properties.contains(&"print.headers=true") {
        let headers: Vec<String> = message
            .headers()
            .into_iter()
            .flat_map(|headers| headers.iter())
            .map(|header| format!("{}:{}", header.key, text(header.value)))
            .collect();
        parts.push(match headers.is_empty() {
            true => "NO_HEADERS".to_owned(),
            false => headers.join(","),
        });
    }
    if properties.contains(&"print.key=true") {
        parts.push(text(message.key()));
    }
    parts.push(text(message.payload()));
    parts.join("\t")
}

pub(crate) fn admin(bootstrap: &str) -> AdminClient<DefaultClientContext> {
    ClientConfig::new()
        .set("bootstrap.servers", bootstrap)
        .create()
        .unwrap()
}

fn patient() -> AdminOptions {
    AdminOptions::new().operation_timeout(Some(PATIENCE))
}

fn reader(bootstrap: &str, isolation: &str) -> BaseConsumer {
    ClientConfig::new()
        .set("bootstrap.servers", bootstrap)
        .set("group.id", "tests")
        .set("enable.auto.commit", "false")
        .set("enable.partition.eof", "true")
        .set("isolation.level", isolation)
        .set("fetch.wait.max.ms", "50")
        .create()
        .unwrap()
}

fn ends_for(reader: &BaseConsumer, topic: &str) -> Vec<i64> {
    let metadata = reader.fetch_metadata(Some(topic), PATIENCE).unwrap();
    let end = |partition| {
        let (_, end) = reader.fetch_watermarks(topic, partition, PATIENCE).unwrap();
        end
    };
    (0..)
        .take(counted(&metadata, topic) as usize)
        .map(end)
        .collect()
}

/// A broker tells its clients of a change a moment after it was made.
fn wait_for_partitions(admin: &AdminClient<DefaultClientContext>, topic: &str, wanted: u32) {
    let began = Instant::now();
    while partitions_of(admin, topic) != wanted {
        assert!(
            began.elapsed() < PATIENCE,
            "{topic} has not {wanted} partitions"
        );
        std::thread::sleep(Duration::from_millis(5));
    }
}

fn partitions_of(admin: &AdminClient<DefaultClientContext>, topic: &str) -> u32 {
    let metadata = admin.inner().fetch_metadata(Some(topic), PATIENCE).unwrap();
    counted(&metadata, topic)
}

/// Partitions that have a leader.
fn counted(metadata: &Metadata, topic: &str) -> u32 {
    let found = metadata
        .topics()
        .iter()
        .find(|found| found.name() == topic && found.error().is_none());
    let led = found.map_or(0, |found| {
        let partitions = found.partitions().iter();
        partitions
            .filter(|partition| partition.error().is_none() && partition.leader() >= 0)
            .count()
    });
    u32::try_from(led).unwrap()
}
