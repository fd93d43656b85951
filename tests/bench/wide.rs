//! Benchmarks of topics with many partitions: how fast they are read, with how many threads and how much memory. And
//! the cost of stalled clients for a job of the same server.

use std::io::{Read, Write as _};
use std::net::TcpStream;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use arrow_flight::FlightData;
use arrow_flight::flight_service_client::FlightServiceClient;
use tonic::Streaming;
use tonic::transport::Channel;

use crate::measure::{ComparedFigure, Report, StepCost, cpu_seconds, peak_mib};
use crate::server::{asking, channel, program, start};
use crate::{Bench, panic_with, peers};

/// In the environment of a process that drains the topic with a bare consumer.
pub(crate) const CHILD: &str = "BENCH_WIDE_CHILD";

const TOPIC: &str = "bench_wide";
const PARTITIONS: i32 = 1_000;
/// At most so many follow each other in a partition: a producer that went to another with each record would send them one by one.
const RUN: u64 = 1_000;

const READERS: usize = 64;
/// Records of the topic that they read, each of which becomes a row of 400 bytes: more than connections hold.
const STANDING: u64 = 50_000;
/// How long a job's batches are counted.
const COUNTED: Duration = Duration::from_secs(20);

/// How many records the topic has: they are small.
fn records(bench: &Bench) -> u64 {
    2 * bench.records
}

/// In a process of its own: the peer.
pub(crate) fn child(bench: &Bench, bootstrap: &str) {
    peers::drain(bootstrap, TOPIC, PARTITIONS, records(bench));
}

pub(crate) fn wide(bench: &Bench, bootstrap: &str, report: &mut Report) {
    let folder = tempfile::tempdir().unwrap();
    let records = records(bench);
    eprintln!("generating {records} small records");
    peers::create_topic(bootstrap, TOPIC, PARTITIONS);
    let numbers = (0..records).map(|n| format!("{{\"n\":{n}}}"));
    let each = records / u64::try_from(PARTITIONS).unwrap();
    let run = usize::try_from(each.clamp(1, RUN)).unwrap();
    peers::fill(bootstrap, TOPIC, PARTITIONS, run, numbers);
    read(bootstrap, folder.path(), records, report);
    standing(bench, bootstrap, folder.path(), report);
}

/// The whole topic in processes of their own: neither memory nor threads of the producer count.
fn read(bootstrap: &str, folder: &Path, records: u64, report: &mut Report) {
    let mut drain = Command::new(std::env::current_exe().unwrap());
    let bare = ProcessResult::of(drain.env(CHILD, "1"), records);
    bare.add(report, "a bare consumer drains 1,000 partitions", None);

    let table = format!(
        "CREATE EXTERNAL TABLE wide (n BIGINT, p INT METADATA FROM 'partition', o BIGINT METADATA FROM 'offset') \
         STORED AS KAFKA LOCATION '{TOPIC}' OPTIONS ('kafka.bootstrap.servers' '{bootstrap}');\n"
    );
    let query = "SELECT count(*) AS c, sum(n) AS s FROM wide";
    let mut command = program(folder);
    let command = command.args(["sql", "--format", "ndjson", "-c", &table, "-c", query]);
    let queried = ProcessResult::of(command, records);
    let sum = records * (records - 1) / 2;
    assert_eq!(queried.out, format!("{{\"c\":{records},\"s\":{sum}}}\n"));
    queried.add(
        report,
        "SELECT count(*), sum(n) of 1,000 partitions",
        Some(&bare),
    );

    let copy = "CREATE EXTERNAL TABLE wide_copy (n BIGINT, p INT, o BIGINT) STORED AS DELTA LOCATION 'wide_copy';\n";
    let job = "CREATE JOB wide_sync WITH ('trigger' 'as fast as possible') AS INSERT INTO wide_copy SELECT n, p, o FROM wide;\n";
    std::fs::write(folder.join("wide.sql"), [&table[..], copy, job].concat()).unwrap();
    let mut command = program(folder);
    let command = command.args(["run", "wide.sql", "--until-caught-up"]);
    let synchronized = ProcessResult::of(command, records);
    let said = format!("{records} records read");
    assert!(synchronized.err.contains(&said), "{}", synchronized.err);
    synchronized.add(
        report,
        "job: synchronization of 1,000 partitions Kafka → Delta",
        Some(&bare),
    );
}

/// A process that has ended well.
struct ProcessResult {
    taken: StepCost,
    /// The most that it had at a time, Tokio's aside.
    threads: usize,
    out: String,
    err: String,
}

impl ProcessResult {
    /// Runs it to its end, which handles so many rows, and looks at it all the while.
    fn of(command: &mut Command, rows: u64) -> Self {
        let begun = Instant::now();
        let mut child = command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let out = read_aside(child.stdout.take().unwrap());
        let err = read_aside(child.stderr.take().unwrap());
        let process = child.id().to_string();
        let (mut threads, mut peak, mut core_seconds) = (0, 0, 0.0_f64);
        let status = loop {
            threads = threads.max(threads_beside_tokio(&process));
            peak = peak.max(peak_mib(&process));
            core_seconds = core_seconds.max(cpu_seconds(&process));
            if let Some(status) = child.try_wait().unwrap() {
                break status;
            }
            std::thread::sleep(Duration::from_millis(20));
        };
        let seconds = begun.elapsed().as_secs_f64();
        let (out, err) = (out.join().unwrap(), err.join().unwrap());
        if !status.success() {
            panic_with(&format!("{status}: {err}"));
        }
        Self {
            taken: StepCost {
                rows,
                seconds,
                core_seconds,
                peak_mib: peak,
            },
            threads,
            out,
            err,
        }
    }

    /// Adds its figures beside those of the peer; how much memory and how many threads are to be reached is of ours alone.
    fn add(&self, report: &mut Report, name: &str, peer: Option<&Self>) {
        let compared = peer.map(|peer| (&peer.taken, ComparedFigure::Rate, "≤ 600 MiB"));
        report.add(name, &self.taken, compared);
        let reach = if peer.is_some() { "≤ 40" } else { "" };
        let name = "the same: threads beside Tokio's";
        report.count(name, self.threads, "threads", reach);
    }
}

fn read_aside(mut pipe: impl Read + Send + 'static) -> JoinHandle<String> {
    std::thread::spawn(move || {
        let mut text = String::new();
        pipe.read_to_string(&mut text).unwrap();
        text
    })
}

fn threads_beside_tokio(process: &str) -> usize {
    let tasks = std::fs::read_dir(format!("/proc/{process}/task"));
    let names = tasks
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|task| std::fs::read_to_string(task.path().join("comm")).ok());
    names.filter(|name| !name.starts_with("tokio")).count()
}

/// The batches of a server's job with a steady source, before and while readers stand still.
fn standing(bench: &Bench, bootstrap: &str, folder: &Path, report: &mut Report) {
    const STEADY: &str = "bench_steady";
    peers::create_topic(bootstrap, "bench_standing", 64);
    peers::create_topic(bootstrap, STEADY, 1);
    peers::create_topic(bootstrap, "bench_steady_out", 1);
    let numbers = (0..STANDING).map(|n| format!("{{\"n\":{n}}}"));
    peers::fill(bootstrap, "bench_standing", 64, 100, numbers);
    let kafka = |topic: &str| {
        format!(
            "STORED AS KAFKA LOCATION '{topic}' OPTIONS ('kafka.bootstrap.servers' '{bootstrap}')"
        )
    };
    let tables = format!(
        "CREATE EXTERNAL TABLE standing (n BIGINT) {};\n\
         CREATE EXTERNAL TABLE steady (at BIGINT) {};\n\
         CREATE EXTERNAL TABLE steady_out (at BIGINT) {};\n\
         CREATE JOB copy WITH ('trigger' 'as fast as possible') AS INSERT INTO steady_out SELECT at FROM steady;\n",
        kafka("bench_standing"),
        kafka(STEADY),
        kafka("bench_steady_out"),
    );
    std::fs::write(folder.join("standing.sql"), tables).unwrap();
    let mut command = program(folder);
    let command = command.args([
        "serve",
        "--listen",
        "127.0.0.1:0",
        "--metrics",
        "127.0.0.1:0",
        "--data-dir",
        "standing-data",
        "--max-statements",
        "200",
        "standing.sql",
    ]);
    let (_served, [page, address]) = start(command, ["metrics at http://", "listening at grpc://"]);
    let page = page.trim_end_matches("/metrics");

    let stop = Arc::new(AtomicBool::new(false));
    let goes_on = Arc::clone(&stop);
    let brokers = bootstrap.to_owned();
    let sender = std::thread::spawn(move || {
        peers::send_while(&brokers, STEADY, Instant::now(), |_| {
            !goes_on.load(Ordering::Relaxed)
        });
    });
    let before = batches(page);
    let readers = bench.runtime.block_on(stand_still(&address));
    let during = batches(page);
    let running = metric(page, "anabranch_statements_running");
    // Not `panic_with`, which would leave the server.
    assert!(
        running >= READERS as f64,
        "only {running} readers still stand"
    );
    drop(readers);
    stop.store(true, Ordering::Relaxed);
    sender.join().unwrap();
    report.batches(
        "batches of a job in a server without statements",
        before.0,
        before.1,
        None,
    );
    let name = format!("the same, while {READERS} readers stand still");
    report.batches(&name, during.0, during.1, Some((before.1, "≤ 2")));
}

/// How many batches the job commits in a second, and how many milliseconds each takes.
fn batches(page: &str) -> (f64, f64) {
    const WARM: f64 = 50.0;
    let seen = || {
        (
            metric(page, "anabranch_job_batch_seconds_count"),
            metric(page, "anabranch_job_batch_seconds_sum"),
        )
    };
    let (first, _) = seen();
    let deadline = Instant::now() + Duration::from_secs(120);
    while seen().0 < first + WARM {
        assert!(Instant::now() <= deadline, "the job does not go on");
        std::thread::sleep(Duration::from_millis(50));
    }
    let begun = Instant::now();
    let (count, sum) = seen();
    std::thread::sleep(COUNTED);
    let (counted, summed) = seen();
    let commits = counted - count;
    (
        commits / begun.elapsed().as_secs_f64(),
        (summed - sum) * 1_000.0 / commits,
    )
}

/// A figure of the server's page of metrics; 0 if it is not there yet.
fn metric(page: &str, name: &str) -> f64 {
    let mut server = TcpStream::connect(page).unwrap();
    let asked = format!("GET /metrics HTTP/1.1\r\nhost: {page}\r\nconnection: close\r\n\r\n");
    server.write_all(asked.as_bytes()).unwrap();
    let mut text = String::new();
    server.read_to_string(&mut text).unwrap();
    let line = text.lines().find_map(|line| {
        let rest = line.strip_prefix(name)?;
        rest.starts_with(['{', ' ']).then_some(rest)
    });
    let value = line.and_then(|rest| rest.rsplit(' ').next());
    value.map_or(0.0, |value| value.parse().unwrap())
}

type Reader = (FlightServiceClient<Channel>, Streaming<FlightData>);

/// Clients that have read the beginning of a result and read no further.
async fn stand_still(address: &str) -> Vec<Reader> {
    let query = "SELECT n, repeat('some text ', 40) AS t FROM standing";
    let mut readers = Vec::with_capacity(READERS);
    for _ in 0..READERS {
        let client = FlightServiceClient::new(channel(address).await);
        let mut client = client.max_decoding_message_size(usize::MAX);
        let info = client.get_flight_info(asking(query)).await.unwrap();
        let endpoint = info.into_inner().endpoint.remove(0);
        let rows = client.do_get(endpoint.ticket.unwrap()).await.unwrap();
        let mut rows = rows.into_inner();
        // The schema, and the first rows.
        for _ in 0..2 {
            rows.message().await.unwrap().unwrap();
        }
        readers.push((client, rows));
    }
    readers
}
