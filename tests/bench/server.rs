//! Benchmarks of the service: rows that a client gets and sends per second, beside the encoder alone and beside another
//! server; and the time of a small statement beside a bare call.

use std::io::{BufRead as _, BufReader};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use arrow_flight::encode::FlightDataEncoderBuilder;
use arrow_flight::flight_service_client::FlightServiceClient;
use arrow_flight::sql::{CommandStatementQuery, ProstMessageExt as _};
use arrow_flight::{Action, CancelFlightInfoRequest, FlightDescriptor};
use datafusion::arrow::array::{ArrayRef, Float64Array, Int64Array, RecordBatch, StringArray};
use futures::{StreamExt as _, TryStreamExt as _};
use prost::Message as _;
use tonic::transport::Channel;
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_client::HealthClient;

use crate::measure::{ComparedFigure, Report, StepCost, best_of, measure, taken};
use crate::{Bench, peers};

/// In the environment of a process that answers bare calls.
pub(crate) const ECHO: &str = "BENCH_ECHO";

/// Rows of a table: 640 MB of four integers, and about as much with texts.
const ROWS: u64 = 20_000_000;
const ROWS_WITH_TEXT: u64 = 16_000_000;
const INGESTED: u64 = 1_000_000;
/// Rows of a batch, as the engine makes them.
const BATCH: usize = 8_192;

/// A process that ends with this.
pub(crate) struct ServerProcess(Child);

impl Drop for ServerProcess {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// The program itself, in a folder.
pub(crate) fn program(folder: &std::path::Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_anabranch"));
    command
        .current_dir(folder)
        .env("XDG_CONFIG_HOME", folder)
        .env_remove("RUST_LOG");
    command
}

/// Starts a program; gives the texts behind each of `before`, which come in this order on lines of its standard error.
pub(crate) fn start<const N: usize>(
    command: &mut Command,
    before: [&str; N],
) -> (ServerProcess, [String; N]) {
    let mut child = command.stderr(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
    let said = before.map(|before| {
        let mut said = lines.by_ref().map_while(Result::ok);
        let found = said.find_map(|line| Some(line.split_once(before)?.1.trim().to_owned()));
        found.unwrap()
    });
    std::thread::spawn(move || lines.for_each(drop));
    (ServerProcess(child), said)
}

/// In a process of its own: answers calls that do nothing.
pub(crate) fn echo(bench: &Bench) {
    bench.runtime.block_on(async {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        eprintln!("echo at {}", listener.local_addr().unwrap());
        let (_reporter, service) = tonic_health::server::health_reporter();
        let mut server = tonic::transport::Server::builder();
        let incoming = tonic::transport::server::TcpIncoming::from(listener);
        let incoming = incoming.with_nodelay(Some(true));
        let served = server.add_service(service).serve_with_incoming(incoming);
        served.await.unwrap();
    });
}

pub(crate) fn server(bench: &Bench, report: &mut Report) {
    let folder = tempfile::tempdir().unwrap();
    let mut command = program(folder.path());
    let command = command.args(["serve", "--listen", "127.0.0.1:0"]);
    let (_served, [address]) = start(command, ["listening at grpc://"]);
    small(bench, &address, report);
    cancel(bench, &address, report);
    let columns = "value + 1 AS b, value + 2 AS c, value + 3 AS d";
    let text = "concat('https://www.example.com/', CAST(value AS VARCHAR)) AS t";
    let peer = Peer::start(folder.path());
    let cases = [
        (
            "4 × Int64",
            columns,
            ROWS,
            integers as fn(i64) -> RecordBatch,
        ),
        ("Int64 and text", text, ROWS_WITH_TEXT, texts),
    ];
    for (what, columns, rows, batch) in cases {
        let encoded = encode(bench, batch, rows);
        let name = format!("arrow-flight's encoder alone into memory, {what}");
        report.add(&name, &encoded, None);
        let query = format!("SELECT value AS a, {columns} FROM generate_series(1, {rows})");
        let fetched = fetch(&address, &query, rows);
        let name = format!("DoGet with ADBC in Python, {what}");
        report.add(
            &name,
            &fetched,
            Some((&encoded, ComparedFigure::Rate, "≥ 0.3")),
        );
        if let Some(peer) = &peer {
            let columns = columns.replace("value", "id").replace("VARCHAR", "STRING");
            let query = format!("SELECT id AS a, {columns} FROM range(1, {})", rows + 1);
            let theirs = fetch(&peer.address, &query, rows);
            report.add(&format!("the same from Sail, {what}"), &theirs, None);
            let name = format!("DoGet beside Sail, {what}");
            report.add(
                &name,
                &fetched,
                Some((&theirs, ComparedFigure::Rate, "≥ 1.5")),
            );
        }
    }
    ingest(bench, &address, folder.path(), report);
}

/// Sail, if a Python with `pysail` is named: only this benchmark needs it.
struct Peer {
    address: String,
    _process: ServerProcess,
}

impl Peer {
    fn start(folder: &std::path::Path) -> Option<Self> {
        let Ok(program) = std::env::var("BENCH_SAIL") else {
            eprintln!(
                "without Sail: BENCH_SAIL names its program, as `pip install pysail` installs it"
            );
            return None;
        };
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        drop(listener);
        let mut command = Command::new(program);
        let command = command
            .args(["flight", "server", "--port", &port.to_string()])
            .current_dir(folder)
            .stderr(Stdio::null());
        let process = ServerProcess(command.spawn().unwrap());
        let address = format!("127.0.0.1:{port}");
        for _ in 0..100 {
            if std::net::TcpStream::connect(&address).is_ok() {
                break;
            }
            std::thread::sleep(std::time::Duration::from_millis(100));
        }
        Some(Self {
            address,
            _process: process,
        })
    }
}

fn integers(first: i64) -> RecordBatch {
    let column = |more: i64| -> ArrayRef {
        let values = (first..first + BATCH as i64).map(|value| value + more);
        Arc::new(Int64Array::from_iter_values(values))
    };
    let columns = [
        ("a", column(0)),
        ("b", column(1)),
        ("c", column(2)),
        ("d", column(3)),
    ];
    RecordBatch::try_from_iter(columns).unwrap()
}

fn texts(first: i64) -> RecordBatch {
    let values = first..first + BATCH as i64;
    let ids: ArrayRef = Arc::new(Int64Array::from_iter_values(values.clone()));
    let texts = values.map(|value| format!("https://www.example.com/{value}"));
    let texts: ArrayRef = Arc::new(StringArray::from_iter_values(texts));
    RecordBatch::try_from_iter([("a", ids), ("t", texts)]).unwrap()
}

/// Encodes so many rows that are there already, into memory.
fn encode(bench: &Bench, batch: fn(i64) -> RecordBatch, rows: u64) -> StepCost {
    let batches: Vec<_> = (0..rows.cast_signed()).step_by(BATCH).map(batch).collect();
    let schema = batches[0].schema();
    let step = || {
        let batches = futures::stream::iter(batches.clone().into_iter().map(Ok));
        let encoded = FlightDataEncoderBuilder::new()
            .with_schema(Arc::clone(&schema))
            .build(batches);
        let encoded: Result<Vec<_>, _> = bench.runtime.block_on(encoded.try_collect());
        std::hint::black_box(encoded.unwrap());
        rows
    };
    best_of((0..3).map(|_| measure(step)))
}

/// The request for the rows of a statement.
pub(crate) fn asking(query: &str) -> FlightDescriptor {
    let command = CommandStatementQuery {
        query: query.to_owned(),
        transaction_id: None,
    };
    FlightDescriptor::new_cmd(command.as_any().encode_to_vec())
}

/// Runs a script with the packages of the tests; its standard output has the seconds.
fn python(script: &str, arguments: &[&str]) -> f64 {
    let said = peers::python("requirements.txt", script, arguments);
    said.trim().parse().unwrap_or_else(|_| panic!("{said}"))
}

/// The best of three times that a client reads a result.
fn fetch(address: &str, query: &str, rows: u64) -> StepCost {
    const SCRIPT: &str = r#"
import sys, time, adbc_driver_flightsql.dbapi as flight
best = 1e9
with flight.connect("grpc://" + sys.argv[1], autocommit=True) as db, db.cursor() as cur:
    for _ in range(3):
        begun = time.time()
        cur.execute(sys.argv[2])
        rows = sum(batch.num_rows for batch in cur.fetch_record_batch())
        assert rows == int(sys.argv[3]), rows
        best = min(best, time.time() - begun)
print(best)
"#;
    let seconds = python(SCRIPT, &[address, query, &rows.to_string()]);
    taken(rows, seconds)
}

/// `SELECT 1`, which the server knows after the first time, and statements that it has never met, beside a call that does
/// nothing; by one client and by 32 at once.
fn small(bench: &Bench, address: &str, report: &mut Report) {
    static ASKED: AtomicU64 = AtomicU64::new(0);
    let mut command = Command::new(std::env::current_exe().unwrap());
    let (_echo, [echo]) = start(command.env(ECHO, "1"), ["echo at "]);
    for (clients, calls) in [(1, 4_000), (32, 400)] {
        let bare = bench.runtime.block_on(latencies(clients, calls, || {
            let channel = channel(&echo);
            async move {
                let client = HealthClient::new(channel.await);
                move || {
                    let mut client = client.clone();
                    async move {
                        let asked = HealthCheckRequest::default();
                        client.check(asked).await.unwrap();
                    }
                }
            }
        }));
        let select = |text: fn(u64) -> String| {
            bench.runtime.block_on(latencies(clients, calls, || {
                let channel = channel(address);
                async move {
                    let client = FlightServiceClient::new(channel.await);
                    move || {
                        let mut client = client.clone();
                        let query = text(ASKED.fetch_add(1, Ordering::Relaxed));
                        async move {
                            let info = client.get_flight_info(asking(&query));
                            let endpoint = info.await.unwrap().into_inner().endpoint.remove(0);
                            let rows = client.do_get(endpoint.ticket.unwrap()).await.unwrap();
                            let messages = rows.into_inner().collect::<Vec<_>>().await;
                            assert_eq!(messages.len(), 2);
                        }
                    }
                }
            }))
        };
        let same = select(|_| "SELECT 1".to_owned());
        let another = select(|number| format!("SELECT {number} + 1"));
        let who = match clients {
            1 => "one client".to_owned(),
            clients => format!("{clients} clients"),
        };
        report.call(&format!("a bare call, {who}"), bare, None);
        let named = format!("SELECT 1, {who}");
        report.call(&named, same, Some((bare, "p50 ≤ 4")));
        let named = format!("SELECT n + 1 of another n each time, {who}");
        report.call(&named, another, Some((bare, "")));
    }
}

/// How long a statement goes on that its client has cancelled.
fn cancel(bench: &Bench, address: &str, report: &mut Report) {
    const SLOW: &str = "SELECT count(*) FROM generate_series(1, 1000000) a, generate_series(1, 1000000) b \
                        WHERE a.value % 7 = b.value % 11";
    let took = bench.runtime.block_on(async {
        let mut client = FlightServiceClient::new(channel(address).await);
        let mut took = Vec::new();
        for _ in 0..20 {
            let info = client.get_flight_info(asking(SLOW));
            let info = info.await.unwrap().into_inner();
            let ticket = info.endpoint[0].ticket.clone().unwrap();
            let rows = client.do_get(ticket).await.unwrap().into_inner();
            let ended = tokio::spawn(rows.collect::<Vec<_>>());
            tokio::time::sleep(std::time::Duration::from_millis(200)).await;
            let begun = Instant::now();
            let request = CancelFlightInfoRequest::new(info);
            let action = Action::new("CancelFlightInfo", request.encode_to_vec());
            client.do_action(action).await.unwrap();
            let last = ended.await.unwrap().pop().unwrap();
            assert_eq!(last.unwrap_err().code(), tonic::Code::Cancelled);
            took.push(begun.elapsed().as_secs_f64() * 1_000.0);
        }
        took.sort_by(f64::total_cmp);
        took
    });
    let took = (took[took.len() / 2], took[took.len() - 1]);
    report.call(
        "a cancelled statement ends (p99: the last of 20)",
        took,
        None,
    );
}

/// A connection to a server.
pub(crate) async fn channel(address: &str) -> Channel {
    let channel = Channel::from_shared(format!("http://{address}")).unwrap();
    channel.tcp_nodelay(true).connect().await.unwrap()
}

/// Median and 99th percentile in milliseconds of calls by clients at the same time, after some that are not counted.
async fn latencies<C, F, D>(clients: usize, calls: usize, connect: impl Fn() -> C) -> (f64, f64)
where
    C: Future<Output = F> + Send,
    F: Fn() -> D + Send + 'static,
    D: Future<Output = ()> + Send,
{
    let mut tasks = tokio::task::JoinSet::new();
    for _ in 0..clients {
        let call = connect().await;
        tasks.spawn(async move {
            for _ in 0..calls / 10 {
                call().await;
            }
            let mut took = Vec::with_capacity(calls);
            for _ in 0..calls {
                let begun = Instant::now();
                call().await;
                took.push(begun.elapsed().as_secs_f64() * 1_000.0);
            }
            took
        });
    }
    let mut took = tasks.join_all().await.concat();
    took.sort_by(f64::total_cmp);
    (took[took.len() / 2], took[took.len() * 99 / 100])
}

/// A million rows of a client into a Delta table, beside the same batches written in this process.
fn ingest(bench: &Bench, address: &str, folder: &std::path::Path, report: &mut Report) {
    const SCRIPT: &str = r#"
import sys, time, adbc_driver_flightsql.dbapi as flight, pyarrow
count = int(sys.argv[2])
table = pyarrow.table({"id": range(count), "name": [f"https://www.example.com/{n}" for n in range(count)],
    "value": [n * 0.5 for n in range(count)]})
reader = lambda: pyarrow.RecordBatchReader.from_batches(table.schema, table.to_batches(max_chunksize=8192))
best = 1e9
with flight.connect("grpc://" + sys.argv[1], autocommit=True) as db, db.cursor() as cur:
    for n in range(3):
        begun = time.time()
        assert cur.adbc_ingest(f"ingested_{n}", reader(), mode="create") == count
        best = min(best, time.time() - begun)
print(best)
"#;
    let batches: Vec<RecordBatch> = (0..INGESTED.div_ceil(BATCH as u64))
        .map(|batch| {
            let first = batch * BATCH as u64;
            let values = first..INGESTED.min(first + BATCH as u64);
            let ids = values.clone().map(|value| value.cast_signed());
            let ids: ArrayRef = Arc::new(Int64Array::from_iter_values(ids));
            let names = values
                .clone()
                .map(|value| format!("https://www.example.com/{value}"));
            let names: ArrayRef = Arc::new(StringArray::from_iter_values(names));
            let numbers: ArrayRef = Arc::new(Float64Array::from_iter_values(
                values.map(|value| value as f64 * 0.5),
            ));
            let columns = [("id", ids), ("name", names), ("value", numbers)];
            RecordBatch::try_from_iter(columns).unwrap()
        })
        .collect();
    let place = folder.display();
    let here = (0..3).map(|run| {
        let schema = batches[0].schema();
        let rows = futures::stream::iter(batches.clone().into_iter().map(Ok));
        let rows = datafusion::physical_plan::stream::RecordBatchStreamAdapter::new(schema, rows);
        let name = format!("rows_{run}");
        bench
            .session
            .register_stream(&name, Box::pin(rows))
            .unwrap();
        measure(|| {
            let make = format!(
                "CREATE EXTERNAL TABLE written_{run} (id BIGINT, name VARCHAR, value DOUBLE) \
                 STORED AS DELTA LOCATION '{place}/written_{run}'"
            );
            bench.run(&make);
            bench.insert(&format!("INSERT INTO written_{run} SELECT * FROM {name}"))
        })
    });
    let here = best_of(here);
    report.add("1 million rows into a Delta table, in process", &here, None);
    let sent = taken(INGESTED, python(SCRIPT, &[address, &INGESTED.to_string()]));
    let name = "the same with ADBC's bulk ingest";
    report.add(name, &sent, Some((&here, ComparedFigure::Rate, "≥ 0.5")));
}
