//! The peers: bare loops over rdkafka, and DuckDB.

use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

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

/// Removes all records of a topic, as retention does.
pub(crate) fn forget(bootstrap: &str, topic: &str, partitions: i32) {
    let mut ends = TopicPartitionList::new();
    for partition in 0..partitions {
        ends.add_partition_offset(topic, partition, Offset::End)
            .unwrap();
    }
    let admin: AdminClient<DefaultClientContext> = config(bootstrap).create().unwrap();
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let removed = runtime
        .block_on(admin.delete_records(&ends, &AdminOptions::new()))
        .unwrap();
    for of_partition in removed.elements() {
        of_partition.error().unwrap();
    }
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

/// Fills a new topic, round robin over its partitions: `run` records to each at a time.
pub(crate) fn fill(
    bootstrap: &str,
    topic: &str,
    partitions: i32,
    run: usize,
    records: impl Iterator<Item = String>,
) {
    let producer = producer(bootstrap);
    let width = usize::try_from(partitions).unwrap();
    let mut sent = 0;
    for (index, record) in records.enumerate() {
        let partition = i32::try_from(index / run % width).unwrap();
        send(
            &producer,
            BaseRecord::to(topic)
                .payload(record.as_bytes())
                .partition(partition),
        );
        if index % 10_000 == 0 {
            producer.poll(Duration::ZERO);
        }
        sent = index + 1;
    }
    producer.flush(Duration::from_secs(120)).unwrap();
    assert_eq!(count(bootstrap, topic, partitions), sent as u64, "{topic}");
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

/// How many records a topic has.
fn count(bootstrap: &str, topic: &str, partitions: i32) -> u64 {
    let consumer: BaseConsumer = config(bootstrap).create().unwrap();
    let ends = (0..partitions).map(|partition| {
        let ends = consumer.fetch_watermarks(topic, partition, Duration::from_secs(10));
        let (low, high) = ends.unwrap();
        u64::try_from(high - low).unwrap()
    });
    ends.sum()
}

/// Sends a thousand records a second, each with the microseconds since `epoch` at which it was sent.
pub(crate) fn send_steadily(bootstrap: &str, topic: &str, epoch: Instant, seconds: u64) {
    send_while(bootstrap, topic, epoch, |number| number < seconds * 1_000);
}

/// The same for as long as `goes_on` says so of the number of the record that comes next.
pub(crate) fn send_while(
    bootstrap: &str,
    topic: &str,
    epoch: Instant,
    goes_on: impl Fn(u64) -> bool,
) {
    let producer: BaseProducer = config(bootstrap).set("linger.ms", "0").create().unwrap();
    let start = Instant::now();
    for number in (0..).take_while(|number| goes_on(*number)) {
        let due = start + Duration::from_millis(number);
        std::thread::sleep(due.saturating_duration_since(Instant::now()));
        let at = epoch.elapsed().as_micros();
        let time = chrono::Utc::now().format("%Y-%m-%dT%H:%M:%S%.6fZ");
        let value = format!(
            "{{\"at\":{at},\"event_time\":\"{time}\",\"page\":{}}}",
            number % 20
        );
        send(&producer, BaseRecord::to(topic).payload(value.as_bytes()));
        producer.poll(Duration::ZERO);
    }
    producer.flush(Duration::from_secs(10)).unwrap();
}

/// A reader of records committed to the first partition from now on.
fn newest(bootstrap: &str, topic: &str, group: &str) -> BaseConsumer {
    let consumer: BaseConsumer = config(bootstrap)
        .set("group.id", group)
        .set("enable.auto.commit", "false")
        .set("isolation.level", "read_committed")
        .set("fetch.wait.max.ms", "50")
        .create()
        .unwrap();
    let mut assignment = TopicPartitionList::new();
    assignment
        .add_partition_offset(topic, 0, Offset::End)
        .unwrap();
    consumer.assign(&assignment).unwrap();
    consumer
}

/// Reads committed records; gives the milliseconds from the `at` of each.
pub(crate) fn watch(bootstrap: &str, topic: &str, epoch: Instant, stop: &AtomicBool) -> Vec<f64> {
    let consumer = newest(bootstrap, topic, "bench_watch");
    let mut took = Vec::new();
    while !stop.load(Ordering::Relaxed) {
        let Some(message) = consumer.poll(Duration::from_millis(50)) else {
            continue;
        };
        let message = message.unwrap();
        let now = epoch.elapsed().as_micros() as f64;
        let value: serde_json::Value = serde_json::from_slice(message.payload().unwrap()).unwrap();
        let at = value["at"].as_f64().unwrap();
        // Records of another run have another epoch.
        if at <= now {
            took.push((now - at) / 1_000.0);
        }
    }
    took
}

/// Copies records as they come: all records that are there at a time in one transaction with their offsets.
pub(crate) fn copy_in_transactions(bootstrap: &str, from: &str, to: &str, stop: &AtomicBool) {
    let timeout = Duration::from_secs(10);
    let group = newest(bootstrap, from, "bench_bare");
    let producer: BaseProducer = config(bootstrap)
        .set("transactional.id", "bench_bare")
        .set("linger.ms", "0")
        .set("retry.backoff.ms", "1")
        .set("retry.backoff.max.ms", "2")
        .create()
        .unwrap();
    producer.init_transactions(timeout).unwrap();
    while !stop.load(Ordering::Relaxed) {
        let Some(first) = group.poll(Duration::from_millis(50)) else {
            continue;
        };
        producer.begin_transaction().unwrap();
        let mut next = 0;
        let mut message = Some(first);
        while let Some(current) = message {
            let current = current.unwrap();
            next = current.offset() + 1;
            let value = current.payload().unwrap();
            send(&producer, BaseRecord::to(to).payload(value));
            message = group.poll(Duration::ZERO);
        }
        let mut offsets = TopicPartitionList::new();
        offsets
            .add_partition_offset(from, 0, Offset::Offset(next))
            .unwrap();
        // Its own flush waits a tenth of a second each time, and a poll of a millisecond keeps a core busy.
        while producer.in_flight_count() > 0 {
            producer.poll(Duration::ZERO);
            std::thread::sleep(Duration::from_micros(200));
        }
        producer
            .send_offsets_to_transaction(&offsets, &group.group_metadata().unwrap(), timeout)
            .unwrap();
        producer.commit_transaction(timeout).unwrap();
        // The broker answers "concurrent transactions" for a moment, and the library then waits for 20 ms.
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// Runs a script with the Python packages that a file of the tests pins; gives what it prints.
pub(crate) fn python(requirements: &str, script: &str, arguments: &[&str]) -> String {
    const FOLDER: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/python");
    let made = Command::new(format!("{FOLDER}/venv"))
        .arg(format!("{FOLDER}/{requirements}"))
        .output()
        .unwrap();
    assert!(
        made.status.success(),
        "{}",
        String::from_utf8_lossy(&made.stderr)
    );
    let python = String::from_utf8(made.stdout).unwrap();
    let mut command = Command::new(python.trim());
    let ran = command.args(["-c", script]).args(arguments);
    let out = ran.stderr(Stdio::inherit()).output().unwrap();
    String::from_utf8(out.stdout).unwrap()
}

/// What DuckDB has found.
#[derive(Debug, Clone, Copy)]
pub(crate) struct DuckdbAnswer {
    /// The seconds of the fastest of several times.
    pub(crate) seconds: f64,
    /// The rows of the answer.
    pub(crate) rows: u64,
    /// The sum of its column `visits`.
    pub(crate) visits: u64,
}

/// Runs a query with a column `visits` in DuckDB, on all processors; its rows stay in memory.
pub(crate) fn duckdb(sql: &str) -> DuckdbAnswer {
    const SCRIPT: &str = r#"
import duckdb, sys, time
db = duckdb.connect()
db.execute("SET TimeZone = 'UTC'")
best = 1e9
for _ in range(5):
    begun = time.time()
    db.execute("CREATE OR REPLACE TEMP TABLE answer AS " + sys.argv[1])
    best = min(best, time.time() - begun)
print(best, *db.execute("SELECT count(*), sum(visits) FROM answer").fetchone())
"#;
    let said = python("duckdb.txt", SCRIPT, &[sql]);
    let mut numbers = said.split_whitespace();
    let mut next = || numbers.next().unwrap_or_else(|| panic!("{said}"));
    DuckdbAnswer {
        seconds: next().parse().unwrap(),
        rows: next().parse().unwrap(),
        visits: next().parse().unwrap(),
    }
}
