//! Benchmarks of jobs: the cost of a batch beside a plain scan, and how long a row takes from topic to topic.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anabranch::planner::{Parameters, Script, Statement, parse_statement};
use anabranch::runtime::{JobStatuses, Jobs, RunOptions, StopSignal};
use anabranch::store::{DataDir, JobStore};

use crate::measure::{ComparedFigure, Report, measure};
use crate::{Bench, panic_with, peers};

impl Bench {
    /// The jobs of a new data directory, with the one that `sql` makes.
    pub(crate) fn job(&self, folder: &std::path::Path, sql: &str) -> Jobs {
        let jobs = Jobs::new(JobStore::new(
            DataDir::open(&folder.display().to_string()).unwrap(),
        ));
        for raw in Script::new("bench", sql).split().unwrap() {
            let mut parsed = parse_statement(&raw).unwrap();
            Parameters::default().bind(&mut parsed).unwrap();
            let text = parsed.text.clone();
            let Statement::Job(job) = parsed.statement else {
                panic!("no job: {sql}");
            };
            let made = self
                .runtime
                .block_on(jobs.execute(&self.session, *job, &text));
            if let Err(error) = made {
                panic_with(&error.render("bench", sql));
            }
        }
        jobs
    }

    /// Runs it over all there is; gives how many records it read.
    pub(crate) fn catch_up(&self, jobs: &Jobs) -> u64 {
        let options = RunOptions {
            until_caught_up: true,
            stop: StopSignal::default(),
            statuses: JobStatuses::default(),
            metrics: None,
        };
        let ended = self.runtime.block_on(jobs.run(&options));
        ended
            .into_iter()
            .map(|(_, outcome)| match outcome {
                Ok(report) => report.rows_in,
                Err(error) => panic_with(&error.render("bench", "the job")),
            })
            .sum()
    }
}

fn tables(bootstrap: &str, folder: &str) -> String {
    let kafka = format!("OPTIONS ('kafka.bootstrap.servers' '{bootstrap}', 'topic.partitions' '4'");
    let watermark = "WATERMARK FOR event_time AS event_time - INTERVAL '15 minutes'";
    format!(
        "CREATE EXTERNAL TABLE timed (user_id BIGINT, event_time TIMESTAMP, page VARCHAR, {watermark})
         STORED AS KAFKA LOCATION 'bench_visits' {kafka}, 'watermark.max_ahead' '10000 days');
         CREATE EXTERNAL TABLE per_page (page VARCHAR, window_start TIMESTAMP, visits BIGINT)
         STORED AS KAFKA LOCATION 'bench_per_page' {kafka});
         CREATE EXTERNAL TABLE per_user (user_id BIGINT, window_start TIMESTAMP, visits BIGINT)
         STORED AS KAFKA LOCATION 'bench_per_user' {kafka});
         CREATE EXTERNAL TABLE raw_job (value VARCHAR, partition INT, \"offset\" BIGINT, event_time TIMESTAMP,
           day DATE GENERATED ALWAYS AS (CAST(event_time AS DATE)),
           hour INT GENERATED ALWAYS AS (CAST(date_part('hour', event_time) AS INT)))
         STORED AS DELTA PARTITIONED BY (day, hour) LOCATION '{folder}/raw_job';"
    )
}

/// Jobs over the backlog of the topic, beside the scan of the same columns and the INSERT of the same rows.
pub(crate) fn backlog(bench: &Bench, bootstrap: &str, folder: &str, report: &mut Report) {
    bench.run(&tables(bootstrap, folder));
    let scan = measure(|| {
        bench.query("SELECT count(page), max(event_time) FROM timed");
        bench.records
    });
    report.add("SELECT with JSON decoding of two columns", &scan, None);
    let job = |name: &str, sql: &str| {
        let dir = tempfile::tempdir().unwrap();
        let jobs = bench.job(dir.path(), sql);
        eprintln!("{name}");
        measure(|| bench.catch_up(&jobs))
    };
    let tumbling = job(
        "tumbling",
        "CREATE JOB tumbling WITH ('trigger' 'as fast as possible') AS INSERT INTO per_page
         SELECT page, window_start, count(*) FROM TUMBLE(TABLE timed, DESCRIPTOR(event_time), INTERVAL '10 minutes')
         GROUP BY page, window_start",
    );
    report.add(
        "job: tumbling count per page, Kafka → Kafka",
        &tumbling,
        Some((&scan, ComparedFigure::Rate, "≥ 0.7")),
    );
    let sessions = job(
        "sessions",
        "CREATE JOB sessions WITH ('trigger' 'as fast as possible') AS INSERT INTO per_user
         SELECT user_id, window_start, count(*)
         FROM SESSION(TABLE timed PARTITION BY user_id, DESCRIPTOR(event_time), INTERVAL '10 minutes')
         GROUP BY user_id, window_start",
    );
    report.add(
        "job: session count per user, Kafka → Kafka",
        &sessions,
        Some((&scan, ComparedFigure::Rate, "≥ 0.5")),
    );
    let insert = measure(|| {
        bench.insert(
            "INSERT INTO raw (value, partition, \"offset\", event_time)
             SELECT value, p, o, CAST(json_get_str(value, 'event_time') AS TIMESTAMP) FROM records",
        )
    });
    report.add("INSERT Kafka → partitioned Delta", &insert, None);
    let sync = job(
        "synchronization",
        "CREATE JOB sync WITH ('trigger' 'as fast as possible', 'batch.max_rows' '2000000') AS
         INSERT INTO raw_job (value, partition, \"offset\", event_time)
         SELECT value, p, o, CAST(json_get_str(value, 'event_time') AS TIMESTAMP) FROM records",
    );
    report.add(
        "job: synchronization Kafka → Delta",
        &sync,
        Some((&insert, ComparedFigure::Rate, "≥ 0.9")),
    );
}

/// From topic to topic at a thousand rows a second, beside a bare loop with one transaction for each poll.
pub(crate) fn latency(bench: &Bench, bootstrap: &str, report: &mut Report) {
    for topic in [
        "bench_in",
        "bench_bare_out",
        "bench_job_out",
        "bench_windows_out",
    ] {
        peers::create_topic(bootstrap, topic, 1);
    }
    let kafka = format!("OPTIONS ('kafka.bootstrap.servers' '{bootstrap}')");
    bench.run(&format!(
        "CREATE EXTERNAL TABLE sent (at BIGINT, event_time TIMESTAMP, page BIGINT,
           WATERMARK FOR event_time AS event_time - INTERVAL '1 second') STORED AS KAFKA LOCATION 'bench_in' {kafka};
         CREATE EXTERNAL TABLE copied (at BIGINT) STORED AS KAFKA LOCATION 'bench_job_out' {kafka};
         CREATE EXTERNAL TABLE counted (at BIGINT, page BIGINT, visits BIGINT) STORED AS KAFKA LOCATION 'bench_windows_out' {kafka};"
    ));
    let bare = while_sending(bootstrap, "bench_bare_out", |stop| {
        peers::copy_in_transactions(bootstrap, "bench_in", "bench_bare_out", stop);
    });
    report.latency("a bare loop of transactions", bare, None);
    for (name, out, sql) in [
        (
            "job: row by row",
            "bench_job_out",
            "CREATE JOB copy WITH ('trigger' 'as fast as possible') AS INSERT INTO copied SELECT at FROM sent",
        ),
        (
            "job: tumbling with EMIT CHANGES",
            "bench_windows_out",
            "CREATE JOB windows WITH ('trigger' 'as fast as possible') AS INSERT INTO counted
             SELECT max(at), page, count(*) FROM TUMBLE(TABLE sent, DESCRIPTOR(event_time), INTERVAL '10 seconds')
             GROUP BY page, window_start EMIT CHANGES",
        ),
    ] {
        let dir = tempfile::tempdir().unwrap();
        let jobs = bench.job(dir.path(), sql);
        // Records sent before are no part of the measure.
        bench.catch_up(&jobs);
        let options = RunOptions::default();
        let took = while_sending(bootstrap, out, |stop| {
            bench.runtime.block_on(async {
                let waiting = async {
                    while !stop.load(Ordering::Relaxed) {
                        tokio::time::sleep(Duration::from_millis(50)).await;
                    }
                    options.stop.stop();
                };
                let (ended, ()) = tokio::join!(jobs.run(&options), waiting);
                for (_, outcome) in ended {
                    if let Err(error) = outcome {
                        panic_with(&error.render("bench", sql));
                    }
                }
            });
        });
        report.latency(name, took, Some(bare));
    }
}

/// Runs a loop while a thousand rows a second are sent; gives median and 99th percentile of the milliseconds that the
/// newest row of each record took.
fn while_sending(bootstrap: &str, out: &str, run: impl FnOnce(&AtomicBool) + Send) -> (f64, f64) {
    const WARM: u64 = 2;
    const SECONDS: u64 = 10;
    let stop = AtomicBool::new(false);
    let epoch = Instant::now();
    std::thread::scope(|threads| {
        let runs = threads.spawn(|| run(&stop));
        let seen = threads.spawn(|| peers::watch(bootstrap, out, epoch, &stop));
        // Everybody is connected.
        std::thread::sleep(Duration::from_secs(3));
        peers::send_steadily(bootstrap, "bench_in", epoch, WARM + SECONDS);
        std::thread::sleep(Duration::from_secs(1));
        stop.store(true, Ordering::Relaxed);
        runs.join().unwrap();
        let took = seen.join().unwrap();
        // The first records are left out: broker and job loop are not warmed up.
        let share =
            took.len() * usize::try_from(WARM).unwrap() / usize::try_from(WARM + SECONDS).unwrap();
        let mut took = took[share..].to_vec();
        if took.is_empty() {
            panic_with(&format!("nothing came out of {out}"));
        }
        took.sort_by(f64::total_cmp);
        let at = |share: f64| took[((took.len() - 1) as f64 * share) as usize];
        (at(0.5), at(0.99))
    })
}
