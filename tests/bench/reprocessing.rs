//! Benchmarks of reprocessing runs: the sessions of one hour, from archives of different forms and lengths into a topic.

use anabranch::core::jobs::ChangeCounts;
use anabranch::core::runs::{AskedText, EmitRows, GivenRunOptions, RunOrder, TimeRange};
use anabranch::runtime::Jobs;
use anabranch::runtime::runs::{RunHost, RunOutcome, plan, reprocess};
use datafusion::arrow::array::AsArray as _;

use crate::archives::{Archive, FORGOTTEN, LONG, RAW, TOPIC, TYPED};
use crate::measure::{ComparedFigure, Report, StepCost, best_of, measure, taken};
use crate::{Bench, DAY, PARTITIONS, archives, panic_with, peers};

const HOUR: i64 = 3_600_000_000;
/// The hour whose sessions are computed again.
const ASKED: (i64, i64) = (DAY + 10 * HOUR, DAY + 11 * HOUR);
/// No session reaches further than five hours from it.
const AROUND: (u64, u64) = (5, 15);
/// How often each is measured.
const TIMES: usize = 5;

pub(crate) fn reprocessing(bench: &Bench, bootstrap: &str, report: &mut Report) {
    archives::fill_topic(bench, bootstrap);
    archives::forget_topic(bench, bootstrap);
    for (archive, table, topic) in [
        (RAW, "past", TOPIC),
        (TYPED, "typed_past", TOPIC),
        (LONG, "long_past", FORGOTTEN),
    ] {
        archive.declare(bench);
        archive.past(bench, bootstrap, table, topic);
    }

    let raw = SessionsJob::new(bench, bootstrap, "sessions_of_raw", "past");
    let (peer, sessions) = in_duckdb(bench, &RAW);
    report.add("DuckDB: sessions of one hour, from JSON", &peer, None);
    let of_raw = raw.emit_all(sessions);
    report.add(
        "REPROCESS JOB of one hour, from JSON to Kafka",
        &of_raw,
        Some((&peer, ComparedFigure::Time, "≤ 1.0")),
    );

    let typed = SessionsJob::new(bench, bootstrap, "sessions_of_typed", "typed_past");
    let (peer, of_columns) = in_duckdb(bench, &TYPED);
    assert_eq!(of_columns, sessions);
    report.add("DuckDB: the same from typed columns", &peer, None);
    report.add(
        "REPROCESS JOB of one hour, from typed columns to Kafka",
        &typed.emit_all(sessions),
        Some((&peer, ComparedFigure::Time, "≤ 0.5")),
    );

    let by_hand = by_hand(bench, &raw, sessions);
    report.add(
        "INSERT over COMPLETE_SESSIONS of one hour, from JSON to Kafka",
        &by_hand,
        Some((&of_raw, ComparedFigure::Time, "≤ 1.2")),
    );

    let long = SessionsJob::new(bench, bootstrap, "sessions_of_long", "long_past");
    report.add(
        "REPROCESS JOB of one hour, ten times the hours archived",
        &long.emit_all(sessions),
        Some((&of_raw, ComparedFigure::Time, "≤ 1.1")),
    );
    for (archive, table, name) in [
        (RAW, "past", "files that the search for sessions opens"),
        (LONG, "long_past", "the same, ten times the hours archived"),
    ] {
        let most = archive.files(bench, touched_hours(bench, table));
        let opened = opened_files(bench, table);
        report.count(name, opened, "files", &format!("≤ {most}"));
    }

    // The job has published the sessions of all hours, and no run has.
    let published = SessionsJob::new(bench, bootstrap, "published_sessions", "past");
    assert_eq!(bench.catch_up(&published.jobs), bench.records);
    let compared = published.compare(sessions);
    let written = published.emit_all(sessions);
    report.add(
        "REPROCESS JOB of one hour, beside what the job has published",
        &written,
        None,
    );
    report.add(
        "PLAN of the same, compared with what the job has published",
        &compared,
        Some((&written, ComparedFigure::Time, "≤ 1.5")),
    );
}

/// The sessions of the hour in DuckDB, and how many they are.
fn in_duckdb(bench: &Bench, archive: &Archive) -> (StepCost, u64) {
    let rows = archive.users_and_times(bench, AROUND.0..=AROUND.1);
    let answer = peers::duckdb(&format!(
        "WITH visits AS ({rows}),
         begun AS (
           SELECT user_id, event_time, event_time - lag(event_time) OVER user_visits >= INTERVAL 10 MINUTE AS begins
           FROM visits WINDOW user_visits AS (PARTITION BY user_id ORDER BY event_time)),
         numbered AS (
           SELECT user_id, event_time, count(*) FILTER (WHERE begins) OVER
             (PARTITION BY user_id ORDER BY event_time ROWS UNBOUNDED PRECEDING) AS number
           FROM begun)
         SELECT strftime(min(event_time), '%Y%m%d_%H%M%S') || '-' || user_id AS visit_id, count(*) AS visits
         FROM numbered GROUP BY user_id, number
         HAVING bool_or(event_time >= TIMESTAMPTZ '2025-09-04 10:00:00+00' AND event_time < TIMESTAMPTZ '2025-09-04 11:00:00+00')"
    ));
    (taken(answer.rows, answer.seconds), answer.rows)
}

/// `COMPLETE_SESSIONS` of the hour.
fn complete_sessions(table: &str) -> String {
    format!(
        "COMPLETE_SESSIONS(TABLE {table} PARTITION BY user_id, DESCRIPTOR(event_time), INTERVAL '10 minutes', \
         '2025-09-04T10:00:00', '2025-09-04T11:00:00')"
    )
}

/// The hours in which the sessions of the hour have rows, or in which a row would belong to one of them.
fn touched_hours(bench: &Bench, table: &str) -> std::ops::RangeInclusive<u64> {
    let hour = |time: &str| {
        let sessions = complete_sessions(table);
        bench.number(&format!(
            "SELECT CAST(date_part('hour', {time}) AS BIGINT) FROM {sessions}"
        ))
    };
    let first = hour("min(event_time) - INTERVAL '10 minutes'");
    first..=hour("max(event_time) + INTERVAL '10 minutes'")
}

/// How many files the search for the sessions of the hour opens; one that it opens twice counts twice.
fn opened_files(bench: &Bench, table: &str) -> usize {
    let explained = bench.run(&format!(
        "EXPLAIN ANALYZE SELECT user_id, window_start, count(*) FROM {} GROUP BY user_id, window_start",
        complete_sessions(table)
    ));
    let plans = explained.iter().flat_map(|rows| {
        let plans = rows.column(1).as_string::<i32>();
        plans.iter().flatten().flat_map(str::lines)
    });
    let mut metrics = plans.filter(|line| line.contains("CompleteSessionsExec"));
    let metrics = metrics.next().unwrap();
    eprintln!("{}", metrics.trim());
    let (_, files) = metrics.split_once("files_read=").unwrap();
    let files = files.split([',', ']']).next().unwrap().trim();
    // Counts from a thousand on are shown with three digits.
    match files.strip_suffix(" K") {
        Some(thousands) => (thousands.parse::<f64>().unwrap() * 1_000.0) as usize,
        None => files.parse().unwrap(),
    }
}

/// The statement that a user writes without the job.
fn by_hand(bench: &Bench, job: &SessionsJob<'_>, sessions: u64) -> StepCost {
    let runs = (0..TIMES).map(|time| {
        let insert = format!(
            "INSERT INTO {}_out (visit_id, visited_pages, headers)
             SELECT {VISIT_ID}, count(*), MAP {{'source': 'reprocessing', 'run_id': 'by_hand_{time}'}}
             FROM {} GROUP BY user_id, window_start",
            job.name,
            complete_sessions("past")
        );
        let taken = measure(|| bench.insert(&insert));
        assert_eq!(taken.rows, sessions);
        taken
    });
    best_of(runs)
}

const VISIT_ID: &str = "to_char(window_start, '%Y%m%d_%H%M%S') || '-' || user_id";

/// A job that counts the pages of sessions, whose past is read again.
struct SessionsJob<'a> {
    bench: &'a Bench,
    name: &'static str,
    jobs: Jobs,
    _folder: tempfile::TempDir,
}

impl<'a> SessionsJob<'a> {
    /// The job over a table, with a topic of its own to write to. It does not run.
    fn new(bench: &'a Bench, bootstrap: &str, name: &'static str, table: &str) -> Self {
        let topic = format!("bench_{name}");
        peers::create_topic(bootstrap, &topic, PARTITIONS);
        bench.run(&format!(
            "CREATE EXTERNAL TABLE {name}_out (visit_id VARCHAR, visited_pages BIGINT, headers MAP<VARCHAR, VARCHAR> METADATA,
               PRIMARY KEY (visit_id) NOT ENFORCED)
             STORED AS KAFKA LOCATION '{topic}'
             OPTIONS ('kafka.bootstrap.servers' '{bootstrap}', 'delivery' 'transactional')"
        ));
        let folder = tempfile::tempdir().unwrap();
        let jobs = bench.job(
            folder.path(),
            &format!(
                "CREATE JOB {name} WITH ('trigger' 'as fast as possible') AS INSERT INTO {name}_out (visit_id, visited_pages)
                 SELECT {VISIT_ID}, count(*)
                 FROM SESSION(TABLE {table} PARTITION BY user_id, DESCRIPTOR(event_time), INTERVAL '10 minutes')
                 GROUP BY user_id, window_start"
            ),
        );
        Self {
            bench,
            name,
            jobs,
            _folder: folder,
        }
    }

    /// `REPROCESS JOB … EMIT ALL`: writes all sessions of the hour, each time as another run.
    fn emit_all(&self, sessions: u64) -> StepCost {
        let host = RunHost::new(&self.jobs, &self.bench.session);
        let runs = (0..TIMES).map(|time| {
            let order = self.order(EmitRows::All, format!("{}_{time}", self.name));
            let taken = measure(|| {
                let done = self.bench.runtime.block_on(reprocess(&host, &order));
                outcome(done).run.rows_out
            });
            assert_eq!(taken.rows, sessions);
            taken
        });
        best_of(runs)
    }

    /// `PLAN REPROCESS JOB … EMIT CHANGED`: compares all sessions of the hour with the published ones, each time as another run.
    fn compare(&self, sessions: u64) -> StepCost {
        let host = RunHost::new(&self.jobs, &self.bench.session);
        let all_same = ChangeCounts {
            same: sessions,
            ..ChangeCounts::default()
        };
        let plans = (0..TIMES).map(|time| {
            let order = self.order(EmitRows::Changed, format!("{}_plan_{time}", self.name));
            measure(|| {
                let done = self.bench.runtime.block_on(plan(&host, &order));
                assert_eq!(outcome(done).run.counts, all_same);
                sessions
            })
        });
        best_of(plans)
    }

    fn order(&self, emit: EmitRows, run_id: String) -> RunOrder {
        RunOrder {
            job: self.name.to_owned(),
            asked: AskedText {
                time: TimeRange::try_new(ASKED.0, ASKED.1),
                ..AskedText::default()
            },
            emit: Some(emit),
            run_id: Some(run_id),
            options: GivenRunOptions::default(),
        }
    }
}

fn outcome(done: anabranch::error::Result<RunOutcome>) -> RunOutcome {
    match done {
        Ok(outcome) => outcome,
        Err(error) => panic_with(&error.render("bench", "the run")),
    }
}
