//! The peers: bare loops over rdkafka.

use std::time::Duration;

use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, TopicReplication};
use rdkafka::client::DefaultClientContext;
use rdkafka::config::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::{Header, Message, OwnedHeaders};
use rdkafka::producer::{BaseProducer, BaseRecord, Producer};
use rdkafka::{Offset, TopicPartitionList};

fn config(bootstrap: &str) -> ClientConfig {
    let mut config = ClientConfig::new();
    config.set("bootstrap.servers", bootstrap);
    config
}

pub(crate) fn create_topic(bootstrap: &str, topic: &str, partitions: i32) {
    let admin: AdminClient<DefaultClientContext> = config(bootstrap).create().unwrap();
    let topics = [NewTopic::new(topic, partitions, TopicReplication::Fixed(1))];
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let created = runtime
        .block_on(admin.create_topics(&topics, &AdminOptions::new()))
        .unwrap();
    created.into_iter().for_each(|result| {
        result.unwrap();
    });
}

/// Idempotent and acknowledged by all, tuned as the sink is.
fn producer(bootstrap: &str) -> BaseProducer {
    config(bootstrap)
        .set("enable.idempotence", "true")
        .set("linger.ms", "5")
        .set("queue.buffering.max.messages", "500000")
        .set("queue.buffering.max.kbytes", "262144")
        .set("batch.size", "1048576")
        .set("batch.num.messages", "50000")
        .create()
        .unwrap()
}

fn send(producer: &BaseProducer, mut record: BaseRecord<'_, [u8], [u8]>) {
    loop {
        match producer.send(record) {
            Ok(()) => return,
            Err((KafkaError::MessageProduction(RDKafkaErrorCode::QueueFull), back)) => {
                producer.poll(Duration::from_millis(10));
                record = back;
            }
            Err((error, _)) => panic!("{error}"),
        }
    }
}

/// Fills a topic, round robin over its partitions.
pub(crate) fn fill(bootstrap: &str, topic: &str, records: impl Iterator<Item = String>) {
    let producer = producer(bootstrap);
    for (index, record) in records.enumerate() {
        let partition = i32::try_from(index % 4).unwrap();
        send(
            &producer,
            BaseRecord::to(topic)
                .payload(record.as_bytes())
                .partition(partition),
        );
        if index % 10_000 == 0 {
            producer.poll(Duration::ZERO);
        }
    }
    producer.flush(Duration::from_secs(120)).unwrap();
}

fn consumer(bootstrap: &str, topic: &str, partitions: i32) -> BaseConsumer {
    let consumer: BaseConsumer = config(bootstrap)
        .set("group.id", "bench")
        .set("enable.auto.commit", "false")
        .set("isolation.level", "read_committed")
        .set("fetch.message.max.bytes", "4194304")
        .set("queued.min.messages", "100000")
        .set("fetch.queue.backoff.ms", "5")
        .set("fetch.wait.max.ms", "50")
        .set("check.crcs", "false")
        .create()
        .unwrap();
    let mut assignment = TopicPartitionList::new();
    for partition in 0..partitions {
        assignment
            .add_partition_offset(topic, partition, Offset::Beginning)
            .unwrap();
    }
    consumer.assign(&assignment).unwrap();
    consumer
}

/// Reads a whole topic and looks at every byte count.
pub(crate) fn drain(bootstrap: &str, topic: &str, partitions: i32, records: u64) -> u64 {
    let consumer = consumer(bootstrap, topic, partitions);
    let (mut read, mut bytes) = (0, 0);
    while read < records {
        if let Some(message) = consumer.poll(Duration::from_secs(10)) {
            bytes += message.unwrap().payload_len();
            read += 1;
        }
    }
    std::hint::black_box(bytes);
    read
}

/// Sends the records of one topic to another; they are all in memory before the clock would start
/// for them, in pieces, so that the loop measures the producer and little else.
pub(crate) fn copy(bootstrap: &str, from: &str, to: &str, partitions: i32, records: u64) -> u64 {
    let consumer = consumer(bootstrap, from, partitions);
    let producer = producer(bootstrap);
    let mut sample = Vec::new();
    while sample.len() < 100_000 && (sample.len() as u64) < records {
        if let Some(message) = consumer.poll(Duration::from_secs(10)) {
            let message = message.unwrap();
            sample.push((
                message.key().unwrap().to_vec(),
                message.payload().unwrap().to_vec(),
            ));
        }
    }
    drop(consumer);
    for index in 0..records {
        let (key, payload) = &sample[usize::try_from(index).unwrap() % sample.len()];
        let headers = OwnedHeaders::new_with_capacity(2)
            .insert(Header {
                key: "source",
                value: Some("reprocessing"),
            })
            .insert(Header {
                key: "run_id",
                value: Some("bench"),
            });
        send(
            &producer,
            BaseRecord::to(to)
                .key(&key[..])
                .payload(&payload[..])
                .headers(headers),
        );
        if index % 10_000 == 0 {
            producer.poll(Duration::ZERO);
        }
    }
    producer.flush(Duration::from_secs(120)).unwrap();
    records
}
