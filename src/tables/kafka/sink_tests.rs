//! INSERTs over the embedded broker that wait for their rows.

use std::sync::Arc;
use std::time::Duration;

use datafusion::arrow::array::{ArrayRef, Int64Array, RecordBatch};
use datafusion::arrow::datatypes::{DataType, Field};
use datafusion::datasource::sink::DataSink;
use datafusion::error::Result as DataFusionResult;
use datafusion::physical_plan::SendableRecordBatchStream;
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use datafusion::prelude::SessionContext;
use futures::StreamExt;
use tokio::sync::oneshot;

use super::definition::{KafkaColumn, KafkaTable, KafkaTableSpec};
use super::mock::EmbeddedBroker;
use super::sink::KafkaSink;

/// The longest time to an answer of a running broker, on any machine.
const LONG: Duration = Duration::from_secs(120);

fn table(servers: &str) -> Arc<KafkaTable> {
    let options = [
        ("kafka.bootstrap.servers", servers),
        ("connect.timeout", "60s"),
        ("format", "json"),
    ];
    let spec = KafkaTableSpec {
        name: "t".to_owned(),
        topic: "t".to_owned(),
        columns: vec![KafkaColumn {
            field: Field::new("v", DataType::Int64, true),
            metadata: None,
        }],
        primary_key: Vec::new(),
        watermark: None,
        options: options
            .map(|(key, value)| (key.to_owned(), value.to_owned()))
            .into(),
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
