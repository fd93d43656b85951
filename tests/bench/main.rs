//! Benchmarks: each figure is a ratio to a peer measured in the same run.
//!
//! `docker/with-kafka cargo bench` prints a Markdown table. `BENCH_RECORDS` (default 5 million)
//! says how many records. `BENCH_ONLY=sessions cargo bench` measures sessions alone, over an archive that is made without
//! Kafka; `BENCH_ONLY=jobs` jobs alone; `BENCH_ONLY=state` their state, `BENCH_ONLY=server` the service and
//! `BENCH_ONLY=formats` the decoders of records, without Kafka.
//! `BENCH_ONLY=wide` measures topics of many partitions, and a job beside clients that stand still, `BENCH_ONLY=archived` topics with
//! an archive, and `BENCH_ONLY=reprocessing` runs over the past of a job: nothing else measures these.

#![expect(
    clippy::unwrap_used,
    clippy::panic,
    clippy::print_stdout,
    clippy::print_stderr,
    clippy::disallowed_methods,
    reason = "a benchmark stops at the first fault, measures real time and prints its figures"
)]

mod archived;
mod archives;
mod formats;
mod jobs;
mod measure;
mod peers;
mod reprocessing;
mod server;
mod state;
mod wide;

use anabranch::cli::visits::{Visit, VisitPlan, Visits};
use anabranch::planner::{Parameters, Script, parse_statement};
use anabranch::session::{Session, SessionOptions};
use std::sync::Arc;

use datafusion::arrow::array::{
    ArrayRef, AsArray, Int64Array, RecordBatch, StringArray, TimestampMicrosecondArray,
};
use datafusion::arrow::datatypes::{Int64Type, UInt64Type};

use measure::{ComparedFigure, Report, best_of, measure};

/// 2025-09-04T00:00:00Z in microseconds.
const DAY: i64 = 1_756_944_000_000_000;
const PARTITIONS: i32 = 4;
const USERS: u32 = 20_000;

/// A visit as the JSON of its record, about 210 bytes.
pub(crate) fn record(visit: &Visit) -> String {
    let time = chrono::DateTime::from_timestamp_micros(visit.event_time).unwrap();
    format!(
        "{{\"event_id\":\"click-{}\",\"user_id\":{},\"event_time\":\"{}\",\"page\":\"page-{}\",\
         \"context\":{{\"browser\":\"{}\",\"referral\":\"https://www.example.com/articles/{}\",\
         \"network\":\"cable-{}\"}}}}",
        visit.number,
        visit.user_id,
        time.format("%Y-%m-%dT%H:%M:%S%.6fZ"),
        visit.page,
        visit.browser,
        visit.number % 9_973,
        visit.user_id % 17,
    )
}

struct Bench {
    runtime: tokio::runtime::Runtime,
    session: Session,
    records: u64,
}

impl Bench {
    fn run(&self, sql: &str) -> Vec<RecordBatch> {
        self.runtime.block_on(async {
            let mut batches = Vec::new();
            for raw in Script::new("bench", sql).split().unwrap() {
                let mut parsed = parse_statement(&raw).unwrap();
                Parameters::default().bind(&mut parsed).unwrap();
                batches = match self.session.collect(parsed).await {
                    Ok(batches) => batches,
                    Err(error) => panic_with(&error.render("bench", sql)),
                };
            }
            batches
        })
    }

    /// Runs an INSERT and gives its count.
    fn insert(&self, sql: &str) -> u64 {
        let batches = self.run(sql);
        batches
            .iter()
            .map(|batch| batch.column(0).as_primitive::<UInt64Type>().value(0))
            .sum()
    }

    /// Runs a query and gives its number of rows.
    fn query(&self, sql: &str) -> u64 {
        self.run(sql)
            .iter()
            .map(|batch| batch.num_rows() as u64)
            .sum()
    }

    fn number(&self, sql: &str) -> u64 {
        let batches = self.run(sql);
        u64::try_from(batches[0].column(0).as_primitive::<Int64Type>().value(0)).unwrap()
    }
}

fn panic_with(message: &str) -> ! {
    eprintln!("{message}");
    std::process::exit(1);
}

fn main() {
    // `cargo test --benches` and `cargo bench -- --list` only ask whether it starts.
    if std::env::args().any(|argument| argument == "--list" || argument == "--test") {
        return;
    }
    let only = |part: &str| std::env::var("BENCH_ONLY").is_ok_and(|only| only == part);
    let (only_sessions, only_state, only_server, only_formats) = (
        only("sessions"),
        only("state"),
        only("server"),
        only("formats"),
    );
    let is_without_kafka = only_sessions || only_state || only_server || only_formats;
    let is_child = std::env::var_os(state::CHILD).is_some();
    let is_echo = std::env::var_os(server::ECHO).is_some();
    let is_drain = std::env::var_os(wide::CHILD).is_some();
    let bootstrap = match std::env::var("KAFKA_BOOTSTRAP") {
        Ok(bootstrap) => bootstrap,
        Err(_) if is_without_kafka || is_child || is_echo => "127.0.0.1:1".to_owned(),
        Err(_) => panic_with("the benchmarks need Kafka: docker/with-kafka cargo bench"),
    };
    let records = std::env::var("BENCH_RECORDS").map_or(5_000_000, |text| text.parse().unwrap());
    let folder = tempfile::tempdir().unwrap();
    let bench = Bench {
        runtime: tokio::runtime::Builder::new_multi_thread()
            .enable_all()
            .build()
            .unwrap(),
        session: Session::try_new(&SessionOptions::default()).unwrap(),
        records,
    };
    if is_child {
        state::child(&bench);
        return;
    }
    if is_echo {
        server::echo(&bench);
        return;
    }
    if is_drain {
        wide::child(&bench, &bootstrap);
        return;
    }
    let mut report = Report::default();
    if only_state {
        state::state(&bench, &mut report);
        print!("{report}");
        return;
    }
    if only_server {
        server::server(&bench, &mut report);
        print!("{report}");
        return;
    }
    if only_formats {
        formats::formats(&bench, &mut report);
        print!("{report}");
        return;
    }
    if only("wide") {
        wide::wide(&bench, &bootstrap, &mut report);
        print!("{report}");
        return;
    }
    if only("archived") {
        archived::archived(&bench, &bootstrap, &mut report);
        print!("{report}");
        return;
    }
    if only("reprocessing") {
        reprocessing::reprocessing(&bench, &bootstrap, &mut report);
        print!("{report}");
        return;
    }
    bench.run(&tables(&bootstrap, &folder.path().display().to_string()));

    eprintln!("generating {records} records");
    let plan = VisitPlan {
        seed: 42,
        users: USERS,
        visits: records,
        start: DAY,
        slots: 48,
    };
    if only_sessions {
        archive_without_kafka(&bench, plan);
        sessions(&bench, &mut report);
        print!("{report}");
        return;
    }
    peers::create_topic(&bootstrap, "bench_visits", PARTITIONS);
    peers::create_topic(&bootstrap, "bench_out", PARTITIONS);
    peers::create_topic(&bootstrap, "bench_bare", PARTITIONS);
    peers::fill(
        &bootstrap,
        "bench_visits",
        PARTITIONS,
        1,
        Visits::new(plan).map(|visit| record(&visit)),
    );

    let place = folder.path().display().to_string();
    if only("jobs") {
        jobs::latency(&bench, &bootstrap, &mut report);
        jobs::backlog(&bench, &bootstrap, &place, &mut report);
        print!("{report}");
        return;
    }
    kafka_to_delta(&bench, &bootstrap, &mut report);
    delta_to_kafka(&bench, &bootstrap, &mut report);
    sessions(&bench, &mut report);
    jobs::latency(&bench, &bootstrap, &mut report);
    jobs::backlog(&bench, &bootstrap, &place, &mut report);
    state::state(&bench, &mut report);
    server::server(&bench, &mut report);
    formats::formats(&bench, &mut report);
    print!("{report}");
}

fn tables(bootstrap: &str, folder: &str) -> String {
    let kafka = format!("OPTIONS ('kafka.bootstrap.servers' '{bootstrap}', 'topic.partitions' '4'");
    let parts = "day DATE GENERATED ALWAYS AS (CAST(event_time AS DATE)), \
                 hour INT GENERATED ALWAYS AS (CAST(date_part('hour', event_time) AS INT))";
    format!(
        "CREATE EXTERNAL TABLE records (value VARCHAR, p INT METADATA FROM 'partition', o BIGINT METADATA FROM 'offset')
         STORED AS KAFKA LOCATION 'bench_visits' {kafka}, 'format' 'raw');
         CREATE EXTERNAL TABLE visits (event_id VARCHAR, user_id BIGINT, event_time TIMESTAMP, page VARCHAR,
           context STRUCT<browser VARCHAR, referral VARCHAR, network VARCHAR>)
         STORED AS KAFKA LOCATION 'bench_visits' {kafka});
         CREATE EXTERNAL TABLE out (visit_id VARCHAR, user_id BIGINT, event_time TIMESTAMP, page VARCHAR,
           headers MAP<VARCHAR, VARCHAR> METADATA, PRIMARY KEY (visit_id) NOT ENFORCED)
         STORED AS KAFKA LOCATION 'bench_out' {kafka});
         CREATE EXTERNAL TABLE raw (value VARCHAR, partition INT, \"offset\" BIGINT, event_time TIMESTAMP, {parts})
         STORED AS DELTA PARTITIONED BY (day, hour) LOCATION '{folder}/raw';
         CREATE EXTERNAL TABLE archive (event_id VARCHAR, user_id BIGINT, event_time TIMESTAMP, page VARCHAR, {parts})
         STORED AS DELTA PARTITIONED BY (day, hour) LOCATION '{folder}/archive';
         CREATE EXTERNAL TABLE archive10 (event_id VARCHAR, user_id BIGINT, event_time TIMESTAMP, page VARCHAR, {parts})
         STORED AS DELTA PARTITIONED BY (day, hour) LOCATION '{folder}/archive10';"
    )
}

/// Fills the archive from the generator, in several commits as a synchronization would.
fn archive_without_kafka(bench: &Bench, plan: VisitPlan) {
    let visits: Vec<Visit> = Visits::new(plan).collect();
    for (index, visits) in visits.chunks(1_000_000).enumerate() {
        let times = visits.iter().map(|visit| visit.event_time);
        let columns: [(&str, ArrayRef); 4] = [
            (
                "event_id",
                Arc::new(StringArray::from_iter_values(
                    visits.iter().map(|visit| format!("click-{}", visit.number)),
                )),
            ),
            (
                "user_id",
                Arc::new(Int64Array::from_iter_values(
                    visits.iter().map(|visit| i64::from(visit.user_id)),
                )),
            ),
            (
                "event_time",
                Arc::new(TimestampMicrosecondArray::from_iter_values(times).with_timezone("UTC")),
            ),
            (
                "page",
                Arc::new(StringArray::from_iter_values(
                    visits.iter().map(|visit| format!("page-{}", visit.page)),
                )),
            ),
        ];
        let batch = RecordBatch::try_from_iter(columns).unwrap();
        let name = format!("generated_{index}");
        bench.session.register_batch(&name, batch).unwrap();
        bench.insert(&format!(
            "INSERT INTO archive SELECT event_id, user_id, event_time, page FROM {name}"
        ));
        bench.run(&format!("DROP TABLE {name}"));
    }
}

fn kafka_to_delta(bench: &Bench, bootstrap: &str, report: &mut Report) {
    let bare = measure(|| peers::drain(bootstrap, "bench_visits", PARTITIONS, bench.records));
    report.add("a bare consumer drains the topic", &bare, None);

    let sync = measure(|| {
        bench.insert(
            "INSERT INTO raw (value, partition, \"offset\", event_time)
             SELECT value, p, o, CAST(json_get_str(value, 'event_time') AS TIMESTAMP) FROM records",
        )
    });
    report.add(
        "INSERT Kafka → partitioned Delta",
        &sync,
        Some((&bare, ComparedFigure::Rate, "≥ 0.3")),
    );

    let scan = measure(|| {
        bench.query(
            "SELECT page, count(*), count(event_id), sum(user_id), max(event_time), count(context.browser),
               count(context.referral), count(context.network) FROM visits GROUP BY page",
        );
        bench.records
    });
    report.add(
        "SELECT with JSON decoding, count by page",
        &scan,
        Some((&bare, ComparedFigure::Rate, "≥ 0.35")),
    );

    let decoded =
        bench.insert("INSERT INTO archive SELECT event_id, user_id, event_time, page FROM visits");
    assert_eq!(decoded, bench.records);
}

fn delta_to_kafka(bench: &Bench, bootstrap: &str, report: &mut Report) {
    let write = measure(|| {
        bench.insert(
            "INSERT INTO out (visit_id, user_id, event_time, page, headers)
             SELECT event_id, user_id, event_time, page, MAP {'source': 'reprocessing', 'run_id': 'bench'} FROM archive",
        )
    });
    let bare = measure(|| {
        peers::copy(
            bootstrap,
            "bench_out",
            "bench_bare",
            PARTITIONS,
            bench.records,
        )
    });
    report.add("a bare producer of the same bytes", &bare, None);
    report.add(
        "INSERT Delta → Kafka, key and headers",
        &write,
        Some((&bare, ComparedFigure::Rate, "≥ 0.5")),
    );
}

fn sessions(bench: &Bench, report: &mut Report) {
    let complete = |table: &str| {
        format!(
            "SELECT user_id, window_start, count(*) FROM COMPLETE_SESSIONS(TABLE {table} PARTITION BY user_id,
               DESCRIPTOR(event_time), INTERVAL '10 minutes', '2025-09-04T10:00:00', '2025-09-04T11:00:00')
             GROUP BY user_id, window_start"
        )
    };
    // The peer reads the same columns of the same files: those of the hours that the completed sessions touch.
    let touched = "SELECT CAST(date_part('hour', min(event_time)) AS BIGINT) FROM COMPLETE_SESSIONS(TABLE archive \
                   PARTITION BY user_id, DESCRIPTOR(event_time), INTERVAL '10 minutes', '2025-09-04T10:00:00', '2025-09-04T11:00:00')";
    let first = bench.number(touched);
    let last = bench.number(&touched.replace("min(", "max("));
    let plain = format!(
        "SELECT user_id, count(event_time) FROM archive WHERE hour BETWEEN {first} AND {last} GROUP BY user_id"
    );
    let rows = bench.number(&format!(
        "SELECT count(*) FROM archive WHERE hour BETWEEN {first} AND {last}"
    ));
    let best = |sql: &str, rows: u64| {
        // Reads of an hour are short: the best of many, for both sides.
        best_of((0..20).map(|_| {
            measure(|| {
                bench.query(sql);
                rows
            })
        }))
    };
    let peer = best(&plain, rows);
    report.add("scan and hash aggregate of the touched files", &peer, None);
    let explained = bench.run(&format!("EXPLAIN ANALYZE {}", complete("archive")));
    let plan = explained[0]
        .column(1)
        .as_string::<i32>()
        .value(0)
        .to_owned();
    let metrics = plan
        .lines()
        .find(|line| line.contains("CompleteSessionsExec"));
    eprintln!("{}", metrics.unwrap_or_default().trim());
    let one_hour = best(&complete("archive"), rows);
    report.add(
        "COMPLETE_SESSIONS of one hour, counted",
        &one_hour,
        Some((&peer, ComparedFigure::Time, "≤ 1.5")),
    );

    for day in 0..10 {
        bench.insert(&format!(
            "INSERT INTO archive10 SELECT event_id, user_id, event_time + INTERVAL '{day} days', page FROM archive"
        ));
    }
    let of_ten = best(&complete("archive10"), rows);
    report.add(
        "the same, ten times the hours archived",
        &of_ten,
        Some((&one_hour, ComparedFigure::Time, "≤ 1.1")),
    );

    let group = best(
        "SELECT user_id, count(event_time) FROM archive GROUP BY user_id",
        bench.records,
    );
    report.add("GROUP BY user over the archive", &group, None);
    let whole = best(
        "SELECT user_id, window_start, count(*) FROM SESSION(TABLE archive PARTITION BY user_id, \
         DESCRIPTOR(event_time), INTERVAL '10 minutes') GROUP BY user_id, window_start",
        bench.records,
    );
    report.add(
        "SESSION and count over the archive",
        &whole,
        Some((&group, ComparedFigure::Time, "≤ 2")),
    );
}
