//! INSERTs over the embedded broker that wait for their rows, records that Kafka has no place for, and commits without an answer.

use std::sync::Arc;
use std::time::Duration;

use datafusion::arrow::array::{ArrayRef, Int64Array, RecordBatch, TimestampMicrosecondArray};
use datafusion::arrow::datatypes::{DataType, Field, TimeUnit};
use datafusion::datasource::sink::DataSink;
use datafusion::error::Result as DataFusionResult;
use datafusion::physical_plan::SendableRecordBatchStream;
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use datafusion::prelude::SessionContext;
use futures::StreamExt;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use tokio::sync::oneshot;

use super::client::ClientSettings;
use super::definition::{KafkaColumn, KafkaTable, KafkaTableSpec, MetadataKey};
use super::embedded_broker::EmbeddedBroker;
use super::headers::AddedHeaders;
use super::publisher::{CallError, CallOutcome, Publisher, SentRecord, SilenceClock};
use super::sink::{Deliveries, KafkaSink, KnownPartitions, ProducerSession, encode_rows};
use super::topic_rules::TopicRules;
use crate::error::{Error, Result};

/// The longest time to an answer of a running broker, on any machine.
const LONG: Duration = Duration::from_secs(120);

fn table(servers: &str) -> Arc<KafkaTable> {
    table_with(Vec::new(), &[("kafka.bootstrap.servers", servers)])
}

/// A table with the column `v`, and these columns of metadata.
fn table_with(
    metadata: Vec<(&str, DataType, MetadataKey)>,
    options: &[(&str, &str)],
) -> Arc<KafkaTable> {
    let value = KafkaColumn {
        field: Field::new("v", DataType::Int64, true),
        metadata: None,
    };
    let metadata = metadata
        .into_iter()
        .map(|(name, data_type, key)| KafkaColumn {
            field: Field::new(name, data_type, true),
            metadata: Some(key),
        });
    let common = [("connect.timeout", "60s"), ("format", "json")];
    let options = common.iter().chain(options);
    let spec = KafkaTableSpec {
        name: "t".to_owned(),
        topic: "t".to_owned(),
        columns: std::iter::once(value).chain(metadata).collect(),
        primary_key: Vec::new(),
        watermark: None,
        options: options
            .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()))
            .collect(),
    };
    Arc::new(KafkaTable::try_new(spec).unwrap())
}

/// A row; a second one once it is let go on. It tells when it is asked for that.
fn rows(
    table: &KafkaTable,
    asked: oneshot::Sender<()>,
    goes_on: oneshot::Receiver<()>,
) -> SendableRecordBatchStream {
    let column: ArrayRef = Arc::new(Int64Array::from(vec![7]));
    let row = RecordBatch::try_new(Arc::clone(&table.schema), vec![column]).unwrap();
    let second = row.clone();
    let later = async move {
        asked.send(()).unwrap();
        goes_on.await.unwrap();
        DataFusionResult::Ok(second)
    };
    let first = futures::stream::iter([DataFusionResult::Ok(row)]);
    let rows = first.chain(futures::stream::once(later));
    Box::pin(RecordBatchStreamAdapter::new(
        Arc::clone(&table.schema),
        rows,
    ))
}

/// With one thread for all that blocks, an INSERT that kept it would keep everything else from it for as long as its rows take.
#[test]
fn inserts_that_wait_for_rows_keep_no_thread_from_others() {
    let broker = EmbeddedBroker::start().unwrap();
    broker.create_topic("t", 1).unwrap();
    let servers = broker.bootstrap_servers();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .max_blocking_threads(1)
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async {
        let context = SessionContext::new().task_ctx();
        let table = table(&servers);
        let mut waiting = Vec::new();
        for _ in 0..8 {
            let (asked, is_asked) = oneshot::channel();
            let (go_on, goes_on) = oneshot::channel();
            let rows = rows(&table, asked, goes_on);
            let sink = KafkaSink::try_new(Arc::clone(&table)).unwrap();
            let context = Arc::clone(&context);
            let written = tokio::spawn(async move { sink.write_all(rows, &context).await });
            let is_asked = tokio::time::timeout(LONG, is_asked).await;
            is_asked.expect("the first row is taken").unwrap();
            waiting.push((go_on, written));
        }
        let other = tokio::time::timeout(LONG, tokio::task::spawn_blocking(|| 42));
        assert_eq!(other.await.expect("others have their turn").unwrap(), 42);
        for (go_on, written) in waiting {
            go_on.send(()).unwrap();
            let written = tokio::time::timeout(LONG, written).await;
            let written = written.expect("the INSERT ends").unwrap();
            assert_eq!(written.unwrap(), 2);
        }
    });
}

#[test]
fn value_1_a_place_or_a_time_that_kafka_does_not_have_is_refused() {
    let time = DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into()));
    let table = table_with(
        vec![
            ("p", DataType::Int64, MetadataKey::Partition),
            ("at", time, MetadataKey::Timestamp),
        ],
        &[("kafka.bootstrap.servers", "localhost:1")],
    );
    let known = KnownPartitions::new_with(Some(Some(vec![0, 1])));
    let write = |partition: Option<i64>, micros: Option<i64>| {
        let times = TimestampMicrosecondArray::from(vec![None, micros]).with_timezone("UTC");
        let columns: Vec<ArrayRef> = vec![
            Arc::new(Int64Array::from(vec![7, 8])),
            Arc::new(Int64Array::from(vec![None, partition])),
            Arc::new(times),
        ];
        let batch = RecordBatch::try_new(Arc::clone(&table.schema), columns).unwrap();
        let rows = futures::stream::iter([DataFusionResult::Ok(batch)]);
        let rows = RecordBatchStreamAdapter::new(Arc::clone(&table.schema), rows);
        let written = encode_rows(&table, &known, Box::pin(rows));
        futures::executor::block_on(written).map_err(|error| error.message().to_owned())
    };
    for partition in [None, Some(0), Some(1)] {
        assert_eq!(write(partition, Some(1_000)), Ok(()));
    }
    // As 32 bits, the third would be partition 0.
    for partition in [2, -7, 1 << 32, i64::MIN] {
        let said = write(Some(partition), None).unwrap_err();
        let expected = format!("topic 't' has no partition {partition}");
        assert_eq!(said, expected);
    }
    for micros in [0, 999, -1, -1_000] {
        let said = write(None, Some(micros)).unwrap_err();
        let expected = "row 1 of the batch, column at: Kafka has no record time";
        assert!(said.starts_with(expected), "{said}");
    }
    for micros in [1_000, -1_001, i64::MAX] {
        assert_eq!(write(None, Some(micros)), Ok(()));
    }
}

/// A producer whose commits have no answer; and whose aborts have one or none.
struct Unheard {
    aborts: bool,
}

fn no_answer() -> CallOutcome {
    Err(CallError {
        error: KafkaError::Global(RDKafkaErrorCode::OperationTimedOut),
        may_repeat: true,
    })
}

impl SilenceClock for Unheard {}

impl Publisher for Unheard {
    fn send<'a>(
        &self,
        record: SentRecord<'a>,
    ) -> std::result::Result<(), (KafkaError, SentRecord<'a>)> {
        let full = KafkaError::MessageProduction(RDKafkaErrorCode::QueueFull);
        Err((full, record))
    }

    fn poll(&self, _: Duration) {}

    fn in_flight_count(&self) -> i32 {
        0
    }

    fn purge(&self) {}

    fn init_transactions(&self, _: Duration) -> CallOutcome {
        Ok(())
    }

    fn begin_transaction(&self) -> CallOutcome {
        Ok(())
    }

    fn commit_transaction(&self, _: Duration) -> CallOutcome {
        no_answer()
    }

    fn abort_transaction(&self, _: Duration) -> CallOutcome {
        match self.aborts {
            true => Ok(()),
            false => no_answer(),
        }
    }

    fn fatal_error(&self) -> Option<RDKafkaErrorCode> {
        None
    }

    fn rules(&self, _: &ClientSettings, _: &str) -> Option<TopicRules> {
        None
    }
}

#[test]
fn exact_1_a_commit_without_an_answer_gives_no_count() {
    let end = |aborts: bool, outcome: Result<bool>| {
        let session = ProducerSession {
            table: table_with(
                Vec::new(),
                &[
                    ("kafka.bootstrap.servers", "localhost:1"),
                    ("delivery", "transactional"),
                ],
            ),
            producer: Unheard { aborts },
            deliveries: Deliveries::default(),
            added: AddedHeaders::default(),
        };
        session.end(outcome).unwrap_err()
    };
    let error = end(false, Ok(true));
    assert_eq!(error.rows_written(), None);
    let said = "it is not known whether the rows were committed";
    assert!(error.message().starts_with(said), "{error}");
    // The transaction was aborted after all.
    assert_eq!(end(true, Ok(true)).rows_written(), Some(0));
    // No commit was asked for: the brokers abort the transaction when it times out.
    let failed = || Err(Error::data("1 / 0"));
    assert_eq!(end(false, failed()).rows_written(), Some(0));
}

#[test]
fn a_record_without_an_offset_is_counted_and_has_no_place() {
    let deliveries = Deliveries::default();
    for (partition, offset) in [(0, 5), (0, -1_001), (1, -1_000), (0, 6)] {
        deliveries.delivered(partition, offset);
    }
    assert_eq!(deliveries.acknowledged(), 4);
    assert_eq!(deliveries.take_published(), [(0, (5, 6))].into());
}
