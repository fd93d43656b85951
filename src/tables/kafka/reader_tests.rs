//! Scans over the embedded broker: readers that stand still, wide topics, clients that are kept, damaged records.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::Arc;
use std::time::Duration;

use anabranch_udfs::SideOutput;
use datafusion::arrow::array::{AsArray, RecordBatch};
use datafusion::arrow::datatypes::{DataType, Field, Int32Type, Int64Type};
use datafusion::catalog::TableProvider;
use datafusion::physical_plan::{ExecutionPlan, ExecutionPlanProperties, collect};
use datafusion::prelude::{SessionConfig, SessionContext};
use futures::StreamExt;
use rdkafka::ClientConfig;
use rdkafka::producer::{BaseProducer, BaseRecord, Producer};

use super::definition::{KafkaColumn, KafkaTable, KafkaTableSpec, MetadataKey};
use super::embedded_broker::EmbeddedBroker;
use super::fetcher::Fetcher as _;
use super::pool::ConsumerPool;
use super::provider::KafkaTableProvider;
use super::range::OffsetRange;
use super::reader::TableReader;
use super::scan::KafkaScanExec;
use crate::tables::side_output::{check_reports, reports};

/// The longest time to an answer of a running broker, on any machine.
const LONG: Duration = Duration::from_secs(120);

/// The runtime of a test with two threads.
fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .unwrap()
}

fn table(servers: &str) -> Arc<KafkaTable> {
    patient_table(servers, "60s")
}

fn patient_table(servers: &str, timeout: &str) -> Arc<KafkaTable> {
    table_with(&[
        ("kafka.bootstrap.servers", servers),
        ("connect.timeout", timeout),
    ])
}

fn table_with(options: &[(&str, &str)]) -> Arc<KafkaTable> {
    let column = |name: &str, data_type, metadata| KafkaColumn {
        field: Field::new(name, data_type, true),
        metadata: Some(metadata),
    };
    let spec = KafkaTableSpec {
        name: "t".to_owned(),
        topic: "t".to_owned(),
        columns: vec![
            column("p", DataType::Int32, MetadataKey::Partition),
            column("o", DataType::Int64, MetadataKey::Offset),
        ],
        primary_key: Vec::new(),
        watermark: None,
        options: options
            .iter()
            .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()))
            .collect(),
    };
    Arc::new(KafkaTable::try_new(spec).unwrap())
}

fn produce(servers: &str, partitions: i32, records: usize) {
    produce_values(servers, partitions, records, &"v".repeat(100));
}

fn produce_values(servers: &str, partitions: i32, records: usize, value: &str) {
    let producer: BaseProducer = ClientConfig::new()
        .set("bootstrap.servers", servers)
        .create()
        .unwrap();
    for partition in 0..partitions {
        for _ in 0..records {
            let record = BaseRecord::<(), str>::to("t").partition(partition);
            let mut record = Some(record.payload(value));
            while let Some(sent) = record.take() {
                if let Err((_, back)) = producer.send(sent) {
                    record = Some(back);
                    producer.poll(Duration::from_millis(10));
                }
            }
        }
    }
    producer.flush(LONG).unwrap();
}

fn context() -> SessionContext {
    context_with(100, &Arc::default())
}

/// Tasks with this side output, and batches of so many rows.
fn context_with(batch_size: usize, output: &Arc<SideOutput>) -> SessionContext {
    let config = SessionConfig::new().with_batch_size(batch_size);
    SessionContext::new_with_config(config.with_extension(Arc::clone(output)))
}

/// Whether a scan of a batch has reported what it was to read.
fn check(plan: &Arc<dyn ExecutionPlan>, output: &SideOutput) -> crate::error::Result<()> {
    let scan = plan.downcast_ref::<KafkaScanExec>().unwrap();
    assert!(!scan.expected().is_empty());
    check_reports(&scan.expected(), &reports(&output.take()).unwrap())
}

async fn scan(context: &SessionContext, provider: &KafkaTableProvider) -> Arc<dyn ExecutionPlan> {
    provider
        .scan(&context.state(), None, &[], None)
        .await
        .unwrap()
}

/// Partition and offset of each row, in their order.
async fn rows(context: &SessionContext, plan: Arc<dyn ExecutionPlan>) -> Vec<(i32, i64)> {
    let batches = tokio::time::timeout(LONG, collect(plan, context.task_ctx()));
    let batches = batches.await.expect("the scan ends").unwrap();
    let mut rows: Vec<(i32, i64)> = batches
        .iter()
        .flat_map(|batch| {
            let partitions = batch.column(0).as_primitive::<Int32Type>().values();
            let offsets = batch.column(1).as_primitive::<Int64Type>().values();
            partitions.iter().copied().zip(offsets.iter().copied())
        })
        .collect();
    rows.sort_unstable();
    rows
}

fn expected(partitions: i32, records: i64) -> Vec<(i32, i64)> {
    (0..partitions)
        .flat_map(|partition| (0..records).map(move |offset| (partition, offset)))
        .collect()
}

fn range(partition: i32, start: i64, end: i64) -> OffsetRange {
    OffsetRange {
        partition,
        start,
        end,
    }
}

#[test]
fn stalled_readers_hold_no_threads() {
    let broker = EmbeddedBroker::start().unwrap();
    broker.create_topic("t", 16).unwrap();
    let servers = broker.bootstrap_servers();
    produce(&servers, 16, 1_000);
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .max_blocking_threads(2)
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async {
        let (context, table) = (context(), table(&servers));
        let mut standing = Vec::new();
        for _ in 0..40 {
            let plan = scan(&context, &KafkaTableProvider::new(Arc::clone(&table))).await;
            let streams = (0..plan.output_partitioning().partition_count())
                .map(|stream| plan.execute(stream, context.task_ctx()).unwrap());
            for mut stream in streams.collect::<Vec<_>>() {
                let first = tokio::time::timeout(LONG, stream.next()).await;
                assert_eq!(first.expect("a batch").unwrap().unwrap().num_rows(), 100);
                standing.push(stream);
            }
        }
        // A batch of a job reads on meanwhile.
        let pool = Arc::new(ConsumerPool::default());
        for start in (0..1_000).step_by(250) {
            let ranges = (0..16).map(|partition| range(partition, start, start + 250));
            let batch = KafkaTableProvider::for_batch(
                Arc::clone(&table),
                ranges.collect(),
                Some(Arc::clone(&pool)),
            );
            let plan = scan(&context, &batch).await;
            assert_eq!(rows(&context, plan).await.len(), 16 * 250);
        }
        // Each of those that stood still continues where it was.
        let mut stream = standing.pop().unwrap();
        let mut left = 0;
        while let Some(batch) = stream.next().await {
            left += batch.unwrap().num_rows();
        }
        assert_eq!(left, 900);
    });
}

#[test]
fn a_wide_topic_is_read_by_a_few_streams() {
    let broker = EmbeddedBroker::start().unwrap();
    broker.create_topic("t", 200).unwrap();
    let servers = broker.bootstrap_servers();
    produce(&servers, 200, 20);
    runtime().block_on(async {
        let (context, table) = (context(), table(&servers));
        let plan = scan(&context, &KafkaTableProvider::new(Arc::clone(&table))).await;
        let threads = context.state().config().target_partitions();
        assert_eq!(
            plan.output_partitioning().partition_count(),
            threads.max(16)
        );
        assert_eq!(rows(&context, plan).await, expected(200, 20));
    });
}

#[test]
fn a_job_keeps_the_queues_of_a_wide_topic() {
    const PARTITIONS: i32 = 1_000;
    let broker = EmbeddedBroker::start().unwrap();
    broker.create_topic("t", PARTITIONS).unwrap();
    let servers = broker.bootstrap_servers();
    produce(&servers, PARTITIONS, 8);
    runtime().block_on(async {
        let (context, table) = (context(), table(&servers));
        let threads = context.state().config().target_partitions();
        let pool = Arc::new(ConsumerPool::default());
        let mut found = Vec::new();
        let mut client: Option<Arc<TableReader>> = None;
        // Some batches have no records.
        for (start, end) in [(0, 3), (3, 3), (3, 4), (4, 8)] {
            let ranges: Vec<OffsetRange> = (0..PARTITIONS)
                .map(|partition| range(partition, start, end))
                .collect();
            let reader = pool.reader(&table, &ranges);
            if let Some(before) = client.replace(Arc::clone(&reader)) {
                assert!(Arc::ptr_eq(&before, &reader), "it was kept");
            }
            let batch =
                KafkaTableProvider::for_batch(Arc::clone(&table), ranges, Some(Arc::clone(&pool)));
            let plan = scan(&context, &batch).await;
            let streams = plan.output_partitioning().partition_count();
            assert!(streams <= threads.max(16), "{streams} streams");
            found.extend(rows(&context, plan).await);
            // The next batch finds the records that were fetched of each partition, and fetches none again.
            assert_eq!(reader.kept(), usize::try_from(PARTITIONS).unwrap());
        }
        found.sort_unstable();
        assert_eq!(found, expected(PARTITIONS, 8));
        // A job that was rewound reads with another client.
        let again: Vec<OffsetRange> = (0..PARTITIONS)
            .map(|partition| range(partition, 7, 8))
            .collect();
        let batch =
            KafkaTableProvider::for_batch(Arc::clone(&table), again, Some(Arc::clone(&pool)));
        let again = rows(&context, scan(&context, &batch).await).await;
        let last: Vec<(i32, i64)> = (0..PARTITIONS).map(|partition| (partition, 7)).collect();
        assert_eq!(again, last);
    });
}

#[test]
fn safe_1_a_partition_that_is_read_no_further_holds_no_records() {
    const RECORDS: usize = 1_000;
    let broker = EmbeddedBroker::start().unwrap();
    broker.create_topic("t", 2).unwrap();
    let servers = broker.bootstrap_servers();
    produce(&servers, 2, RECORDS);
    runtime().block_on(async {
        let reader = TableReader::new(table(&servers), 2, false);
        // Another partition keeps the client.
        let (_other, _) = reader.open(1, 0).await.unwrap();
        let (mut cursor, _) = reader.open(0, 0).await.unwrap();
        let fetched = async {
            // All records, and the end of the partition: nothing more comes into the queue.
            while cursor.fetcher.waiting() <= RECORDS {
                cursor.fetcher.arrival(Duration::from_millis(10)).await;
            }
        };
        let fetched = tokio::time::timeout(LONG, fetched).await;
        fetched.expect("all records come");
        cursor.fetcher.take(1, &mut cursor.arrived);
        assert_eq!(cursor.arrived.len(), 1);
        reader.close(0, cursor);
        assert_eq!((reader.kept(), reader.waiting(0)), (0, Some(0)));
        // What was given up is fetched again.
        let (mut cursor, _) = reader.open(0, 990).await.unwrap();
        let read = async {
            while cursor.arrived.len() < 10 {
                cursor.fetcher.take(10, &mut cursor.arrived);
                cursor.fetcher.arrival(Duration::from_millis(10)).await;
            }
        };
        let read = tokio::time::timeout(LONG, read).await;
        read.expect("the records come again");
    });
}

#[test]
fn a_pooled_client_gives_each_record_once_and_can_seek_back() {
    let broker = EmbeddedBroker::start().unwrap();
    broker.create_topic("t", 3).unwrap();
    let servers = broker.bootstrap_servers();
    produce(&servers, 3, 100);
    runtime().block_on(async {
        let (context, table) = (context(), table(&servers));
        let pool = Arc::new(ConsumerPool::default());
        let read = async |ranges: Vec<OffsetRange>| {
            let batch =
                KafkaTableProvider::for_batch(Arc::clone(&table), ranges, Some(Arc::clone(&pool)));
            rows(&context, scan(&context, &batch).await).await
        };
        let of = |partition: i32, offsets: std::ops::Range<i64>| {
            offsets.map(move |offset| (partition, offset))
        };
        let first = read(vec![range(0, 0, 10), range(1, 0, 0), range(2, 0, 100)]).await;
        assert_eq!(first, of(0, 0..10).chain(of(2, 0..100)).collect::<Vec<_>>());
        let client = pool.reader(&table, &[range(0, 10, 20)]);
        let second = read(vec![range(0, 10, 55), range(1, 0, 40), range(2, 100, 100)]).await;
        assert_eq!(
            second,
            of(0, 10..55).chain(of(1, 0..40)).collect::<Vec<_>>()
        );
        assert!(
            Arc::ptr_eq(&client, &pool.reader(&table, &[range(0, 55, 60)])),
            "it was kept"
        );
        // Records that came after the last batch had ended.
        produce(&servers, 3, 5);
        let third = read(vec![range(0, 55, 60), range(1, 40, 40), range(2, 100, 105)]).await;
        assert_eq!(
            third,
            of(0, 55..60).chain(of(2, 100..105)).collect::<Vec<_>>()
        );
        // A job that was rewound.
        let again = read(vec![range(0, 3, 8), range(1, 40, 45), range(2, 0, 2)]).await;
        let expected = of(0, 3..8).chain(of(1, 40..45)).chain(of(2, 0..2));
        assert_eq!(again, expected.collect::<Vec<_>>());
        // The same ranges twice at the same time.
        let batch = KafkaTableProvider::for_batch(
            Arc::clone(&table),
            vec![range(0, 8, 30)],
            Some(Arc::clone(&pool)),
        );
        let (one, other) = (scan(&context, &batch).await, scan(&context, &batch).await);
        let (one, other) = tokio::join!(rows(&context, one), rows(&context, other));
        assert_eq!(one, of(0, 8..30).collect::<Vec<_>>());
        assert_eq!(one, other);
    });
}

/// A leader says that a log goes on to an offset, and the broker that is read ends below it: as with a follower that lags.
#[test]
fn an_end_of_partition_below_the_end_of_a_range_does_not_end_it() {
    let broker = EmbeddedBroker::start().unwrap();
    broker.create_topic("t", 1).unwrap();
    let servers = broker.bootstrap_servers();
    produce(&servers, 1, 60);
    runtime().block_on(async {
        let output = Arc::new(SideOutput::default());
        let context = context_with(100, &output);
        // It never catches up.
        let table = patient_table(&servers, "1s");
        let batch = KafkaTableProvider::for_batch(table, vec![range(0, 0, 100)], None);
        let plan = scan(&context, &batch).await;
        let error = collect(Arc::clone(&plan), context.task_ctx()).await;
        let error = crate::error::Error::from(error.unwrap_err());
        assert_eq!(error.kind(), crate::error::ErrorKind::Unavailable);
        assert!(error.to_string().contains("offset 60"), "{error}");
        assert!(check(&plan, &output).is_err());
        // It catches up when the scan has read what there was.
        let table = super::reader_tests::table(&servers);
        let batch = KafkaTableProvider::for_batch(table, vec![range(0, 0, 100)], None);
        let small = context_with(30, &output);
        let plan = scan(&small, &batch).await;
        let mut stream = plan.execute(0, small.task_ctx()).unwrap();
        for _ in 0..2 {
            assert_eq!(stream.next().await.unwrap().unwrap().num_rows(), 30);
        }
        produce(&servers, 1, 40);
        let mut left = 0;
        while let Some(batch) = stream.next().await {
            left += batch.unwrap().num_rows();
        }
        assert_eq!(left, 40);
        check(&plan, &output).unwrap();
    });
}

/// The checksum of Kafka's record batches: CRC-32C.
fn crc32c(bytes: &[u8]) -> u32 {
    let shift = |crc: u32| (crc >> 1) ^ (0x82f6_3b78 & (crc & 1).wrapping_neg());
    let take = |crc: u32, byte: &u8| (0..8).fold(crc ^ u32::from(*byte), |crc, _| shift(crc));
    !bytes.iter().fold(u32::MAX, take)
}

/// A record batch with one record, of which a bit may have flipped since its checksum was made.
fn record_batch(has_flipped: bool) -> Vec<u8> {
    let mut content: Vec<u8> = Vec::new();
    // No compression and no transaction; the last record is the first one.
    content.extend(0_i16.to_be_bytes());
    content.extend(0_i32.to_be_bytes());
    // The times of the first and the last record.
    content.extend(1_000_i64.to_be_bytes());
    content.extend(1_000_i64.to_be_bytes());
    // No producer id, epoch and sequence.
    content.extend((-1_i64).to_be_bytes());
    content.extend((-1_i16).to_be_bytes());
    content.extend((-1_i32).to_be_bytes());
    // One record of seven bytes: attributes, time, offset, no key, a value of one byte, no headers.
    content.extend(1_i32.to_be_bytes());
    content.extend([14, 0, 0, 0, 1, 2, b'v', 0]);
    let checksum = crc32c(&content);
    if has_flipped {
        let value = content.iter_mut().rfind(|byte| **byte == b'v').unwrap();
        *value ^= 1;
    }
    // The length counts the bytes behind it.
    let length = i32::try_from(content.len() + 4 + 1 + 4).unwrap();
    let mut batch: Vec<u8> = Vec::new();
    batch.extend(0_i64.to_be_bytes());
    batch.extend(length.to_be_bytes());
    // The epoch of the leader, the version of the format.
    batch.extend(0_i32.to_be_bytes());
    batch.push(2);
    batch.extend(checksum.to_be_bytes());
    batch.extend(content);
    batch
}

/// Sends a record batch to a partition of topic `t` as it is: a client would compute the checksum again.
fn append(servers: &str, partition: i32, batch: &[u8]) {
    let mut request: Vec<u8> = Vec::new();
    // Produce, version 3, by a client "t", in no transaction, to be acknowledged by the leader.
    request.extend(0_i16.to_be_bytes());
    request.extend(3_i16.to_be_bytes());
    request.extend(1_i32.to_be_bytes());
    request.extend(1_i16.to_be_bytes());
    request.push(b't');
    request.extend((-1_i16).to_be_bytes());
    request.extend(1_i16.to_be_bytes());
    request.extend(10_000_i32.to_be_bytes());
    // One topic, one partition.
    request.extend(1_i32.to_be_bytes());
    request.extend(1_i16.to_be_bytes());
    request.push(b't');
    request.extend(1_i32.to_be_bytes());
    request.extend(partition.to_be_bytes());
    request.extend(i32::try_from(batch.len()).unwrap().to_be_bytes());
    request.extend(batch);
    let mut broker = TcpStream::connect(servers).unwrap();
    broker.set_read_timeout(Some(LONG)).unwrap();
    let size = i32::try_from(request.len()).unwrap();
    broker.write_all(&size.to_be_bytes()).unwrap();
    broker.write_all(&request).unwrap();
    let mut size = [0; 4];
    broker.read_exact(&mut size).unwrap();
    let mut answer = vec![0; usize::try_from(i32::from_be_bytes(size)).unwrap()];
    broker.read_exact(&mut answer).unwrap();
    // The error code follows the correlation id, the topic and the partition.
    assert_eq!(answer[19..21], [0, 0], "{answer:?}");
}

/// A bit that has flipped in a broker's log, or on the way, is an error of the scan and no row.
#[test]
fn a_record_whose_checksum_is_wrong_is_an_error() {
    let broker = EmbeddedBroker::start().unwrap();
    broker.create_topic("t", 2).unwrap();
    let servers = broker.bootstrap_servers();
    append(&servers, 0, &record_batch(false));
    append(&servers, 1, &record_batch(true));
    runtime().block_on(async {
        let context = context();
        let (checked, unchecked) = (
            table(&servers),
            table_with(&[
                ("kafka.bootstrap.servers", servers.as_str()),
                ("connect.timeout", "60s"),
                ("kafka.check.crcs", "false"),
            ]),
        );
        // As a batch of a job reads.
        let batch = |table: &Arc<KafkaTable>, partition| {
            let pool = Some(Arc::new(ConsumerPool::default()));
            let ranges = vec![range(partition, 0, 1)];
            KafkaTableProvider::for_batch(Arc::clone(table), ranges, pool)
        };
        let plan = scan(&context, &batch(&checked, 0)).await;
        assert_eq!(rows(&context, plan).await, [(0, 0)]);
        let plan = scan(&context, &batch(&checked, 1)).await;
        let answer = tokio::time::timeout(LONG, collect(plan, context.task_ctx()));
        let error = crate::error::Error::from(answer.await.expect("the scan ends").unwrap_err());
        assert_eq!(error.kind(), crate::error::ErrorKind::Data, "{error}");
        // Without the check it is read as if nothing had happened.
        let plan = scan(&context, &batch(&unchecked, 1)).await;
        assert_eq!(rows(&context, plan).await, [(1, 0)]);
    });
}

#[test]
fn a_limit_counts_rows_and_not_the_records_that_are_set_aside() {
    let broker = EmbeddedBroker::start().unwrap();
    broker.create_topic("t", 1).unwrap();
    let servers = broker.bootstrap_servers();
    // No JSON, and 130 objects behind it.
    produce(&servers, 1, 40);
    produce_values(&servers, 1, 130, "{\"v\":7}");
    let spec = KafkaTableSpec {
        name: "t".to_owned(),
        topic: "t".to_owned(),
        columns: vec![KafkaColumn {
            field: Field::new("v", DataType::Int64, true),
            metadata: None,
        }],
        primary_key: Vec::new(),
        watermark: None,
        options: [
            ("kafka.bootstrap.servers", servers.as_str()),
            ("connect.timeout", "60s"),
            ("on_error", "dead_letter"),
            ("dead_letter.table", "dead"),
        ]
        .map(|(key, value)| (key.to_owned(), value.to_owned()))
        .into(),
    };
    let table = Arc::new(KafkaTable::try_new(spec).unwrap());
    runtime().block_on(async {
        let context = context();
        for (limit, least) in [(1, 1), (120, 120), (1_000, 130)] {
            let provider = KafkaTableProvider::new(Arc::clone(&table));
            let state = context.state();
            let plan = provider.scan(&state, None, &[], Some(limit)).await;
            let batches = collect(plan.unwrap(), context.task_ctx());
            let batches = tokio::time::timeout(LONG, batches).await;
            let batches = batches.expect("the scan ends").unwrap();
            let found: usize = batches.iter().map(RecordBatch::num_rows).sum();
            // The plan above cuts off what is more than the limit.
            assert!(found >= least, "{found} rows of {limit}");
        }
    });
}
