//! Runs from a statement to the sink: over an embedded broker, a Delta table that archives its topic, and the jobs beside them.

use datafusion::arrow::util::pretty::pretty_format_batches;

use super::*;
use crate::core::runs::order::{AskedText, GivenRunOptions};
use crate::core::runs::{EmitRows, TimeRange};
use crate::planner::{Parameters, Script, Statement, parse_statement};
use crate::runtime::statements::Jobs;
use crate::session::{Session, SessionOptions};
use crate::store::JobStore;
use crate::tables::kafka::embedded_broker::EmbeddedBroker;

/// 2025-09-04T10:00:00Z, in seconds.
const BEGIN: i64 = 1_756_980_000;
const SECOND: i64 = 1_000_000;

/// The queries of the jobs, by name.
const JOBS: [(&str, &str); 2] = [
    (
        "windows",
        "SELECT k, window_start AS s, window_end AS e, count(*) AS n
         FROM TUMBLE(TABLE visits, DESCRIPTOR(t), INTERVAL '10 seconds') GROUP BY k, window_start, window_end",
    ),
    (
        "sessions",
        "SELECT k, window_start AS s, window_end AS e, count(*) AS n
         FROM SESSION(TABLE visits PARTITION BY k, DESCRIPTOR(t), INTERVAL '3 seconds') GROUP BY k, window_start, window_end",
    ),
];

/// A topic of visits with its archive, and jobs over it that write to topics.
struct Past {
    session: Session,
    jobs: Jobs,
    broker: EmbeddedBroker,
    folder: tempfile::TempDir,
}

impl Past {
    async fn new() -> Self {
        let past = Self {
            session: Session::try_new(&SessionOptions::default()).unwrap(),
            jobs: Jobs::new(JobStore::ephemeral()).allowing_repeats(),
            broker: EmbeddedBroker::start().unwrap(),
            folder: tempfile::tempdir().unwrap(),
        };
        past.broker.create_topic("visits", 2).unwrap();
        past.run(
            "CREATE EXTERNAL TABLE raw (value VARCHAR, partition INT, \"offset\" BIGINT)
               STORED AS DELTA LOCATION '__DIR__/raw';
             CREATE EXTERNAL TABLE visits (k BIGINT, t TIMESTAMP, WATERMARK FOR t AS t - INTERVAL '5 seconds')
               STORED AS KAFKA LOCATION 'visits'
               OPTIONS ('kafka.bootstrap.servers' '__KAFKA__', 'archive' 'raw', 'watermark.idle_after' '1 hour');
             CREATE EXTERNAL TABLE records (value VARCHAR, partition INT METADATA, \"offset\" BIGINT METADATA)
               STORED AS KAFKA LOCATION 'visits'
               OPTIONS ('kafka.bootstrap.servers' '__KAFKA__', 'format' 'raw');",
        )
        .await;
        for (job, query) in JOBS {
            past.broker.create_topic(&format!("{job}_out"), 1).unwrap();
            past.run(&format!(
                "CREATE EXTERNAL TABLE {job}_out (k BIGINT, s TIMESTAMP, e TIMESTAMP, n BIGINT, PRIMARY KEY (k, s) NOT ENFORCED)
                   STORED AS KAFKA LOCATION '{job}_out'
                   OPTIONS ('kafka.bootstrap.servers' '__KAFKA__', 'delivery' 'at_least_once');
                 CREATE EXTERNAL TABLE {job}_seen (k BIGINT, s TIMESTAMP, e TIMESTAMP, n BIGINT,
                   headers MAP<VARCHAR, VARCHAR> METADATA, \"offset\" BIGINT METADATA) STORED AS KAFKA LOCATION '{job}_out'
                   OPTIONS ('kafka.bootstrap.servers' '__KAFKA__');
                 CREATE JOB {job} WITH ('trigger' '1 milliseconds') AS INSERT INTO {job}_out {query};"
            ))
            .await;
        }
        past
    }

    /// Visits at these seconds, each of the key of its parity.
    fn visit(&self, seconds: impl IntoIterator<Item = i64>) {
        let values = seconds.into_iter().map(|second| {
            let time = chrono::DateTime::from_timestamp(BEGIN + second, 0).unwrap();
            let time = time.format("%Y-%m-%dT%H:%M:%SZ");
            let partition = i32::from(second % 3 == 0);
            (partition, format!(r#"{{"k":{},"t":"{time}"}}"#, second % 2))
        });
        self.broker.send("visits", values);
    }

    /// Archives what is not archived yet.
    async fn archive(&self) {
        self.run(
            "INSERT INTO raw SELECT value, partition, \"offset\" FROM records
               WHERE NOT EXISTS (SELECT 1 FROM raw WHERE raw.partition = records.partition AND raw.\"offset\" = records.\"offset\");",
        )
        .await;
    }

    /// Lets the jobs handle all that is there.
    async fn catch_up(&self) {
        let options = RunOptions {
            until_caught_up: true,
            ..RunOptions::default()
        };
        for (job, outcome) in self.jobs.run(&options).await {
            outcome.unwrap_or_else(|error| panic!("{job}: {error}"));
        }
    }

    async fn run(&self, sql: &str) {
        let folder = self.folder.path().display().to_string();
        let sql = sql.replace("__DIR__", &folder);
        let sql = sql.replace("__KAFKA__", &self.broker.bootstrap_servers());
        for raw in Script::new("t", sql).split().unwrap() {
            let mut parsed = parse_statement(&raw).unwrap();
            Parameters::default().bind(&mut parsed).unwrap();
            match parsed.statement {
                Statement::Job(job) => {
                    let made = self.jobs.execute(&self.session, *job, &parsed.text);
                    drop(made.await.unwrap());
                }
                _ => drop(self.session.collect(parsed).await.unwrap()),
            }
        }
    }

    /// The rows of a query, a line each, sorted.
    async fn rows(&self, query: &str) -> Vec<String> {
        let raw = Script::new("t", query).split().unwrap().remove(0);
        let mut parsed = parse_statement(&raw).unwrap();
        Parameters::default().bind(&mut parsed).unwrap();
        let batches = self.session.collect(parsed).await.unwrap();
        let shown = pretty_format_batches(&batches).unwrap().to_string();
        let rows = shown.lines().filter(|line| line.starts_with("| "));
        let mut rows: Vec<String> = rows.skip(1).map(str::to_owned).collect();
        rows.sort_unstable();
        rows
    }

    /// The rows that a run has written, each with its headers.
    async fn written(&self, job: &str, run_id: &str) -> Vec<String> {
        let of_run = format!("FROM {job}_seen WHERE headers['run_id'] = '{run_id}'");
        let marked = format!(
            "SELECT k {of_run} AND headers['source'] = 'reprocessing' AND length(headers['sql_version']) = 12"
        );
        let rows = self.rows(&format!("SELECT k, s, e, n {of_run}")).await;
        assert_eq!(self.rows(&marked).await.len(), rows.len());
        rows
    }

    /// What a reader by key has of the topic of a job.
    async fn by_key(&self, job: &str) -> Vec<String> {
        self.rows(&format!(
            "SELECT k, s, e, n FROM (SELECT *, row_number() OVER (PARTITION BY k, s ORDER BY \"offset\" DESC) AS place
               FROM {job}_seen) WHERE place = 1 AND n IS NOT NULL"
        ))
        .await
    }

    /// The groups of a job with a row from one second to another, over all visits; `last` is the second by which they have to end.
    async fn whole(&self, job: &str, from: i64, to: i64, last: i64) -> Vec<String> {
        let (_, query) = JOBS.iter().find(|(name, _)| *name == job).unwrap();
        let time = |second: i64| {
            let time = chrono::DateTime::from_timestamp(BEGIN + second, 0).unwrap();
            format!("TIMESTAMP '{}'", time.format("%Y-%m-%dT%H:%M:%S"))
        };
        let gap = if job == "sessions" { 3 } else { 1 };
        self.rows(&format!(
            "SELECT k, s, e, n FROM ({query}) WHERE s < {} AND e - INTERVAL '{gap} seconds' >= {} AND e <= {}",
            time(to),
            time(from),
            time(last)
        ))
        .await
    }

    fn host(&self) -> RunHost<'_> {
        RunHost::new(&self.jobs, &self.session)
    }
}

/// Reprocesses these seconds of a job, in chunks of ten seconds.
fn order(job: &str, run_id: &str, emit: EmitRows, (from, to): (i64, i64)) -> RunOrder {
    let at = |second: i64| (BEGIN + second) * SECOND;
    RunOrder {
        job: job.to_owned(),
        asked: AskedText {
            time: TimeRange::try_new(at(from), at(to)),
            ..AskedText::default()
        },
        emit: Some(emit),
        run_id: Some(run_id.to_owned()),
        options: GivenRunOptions {
            chunk: Some(10 * SECOND),
            ..GivenRunOptions::default()
        },
    }
}

/// Seconds with a visit: after every nine there is a pause of four.
fn busy(range: std::ops::Range<i64>) -> impl Iterator<Item = i64> {
    range.filter(|second| second % 13 < 9)
}

#[tokio::test]
async fn run_1_whole_groups_are_written_once_and_marked() {
    let past = Past::new().await;
    past.visit(busy(0..120));
    past.archive().await;
    past.catch_up().await;
    // Late for the jobs, and in the past of their topic.
    past.visit([41, 43, 45, 47]);
    past.visit(busy(120..140));
    for (job, _) in JOBS {
        let host = past.host();
        let order = order(job, job, EmitRows::All, (35, 80));
        let outcome = reprocess(&host, &order).await.unwrap();
        assert_eq!(outcome.run.state, RunState::Complete, "{outcome:?}");
        let expected = past.whole(job, 35, 80, 130).await;
        assert!(expected.len() > 5, "{expected:?}");
        assert_eq!(past.written(job, job).await, expected, "{job}");
        assert_eq!(outcome.run.rows_out, expected.len() as u64);
        assert!(outcome.run.chunks > 3, "{outcome:?}");
        // The same run id is the same run.
        let again = reprocess(&host, &order).await.unwrap();
        assert_eq!(again.run.chunks, outcome.run.chunks);
        assert_eq!(past.written(job, job).await, expected, "{job}");
    }
    let taken = order("sessions", "windows", EmitRows::All, (35, 80));
    let error = reprocess(&past.host(), &taken).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Exists, "{error}");
}

#[tokio::test]
async fn run_5_what_has_changed_is_planned_and_written() {
    let past = Past::new().await;
    past.visit(busy(0..120));
    past.archive().await;
    past.catch_up().await;
    past.visit([41, 43, 45, 47]);
    past.archive().await;
    for (job, _) in JOBS {
        let host = past.host();
        let changed = order(job, &format!("{job}_changed"), EmitRows::Changed, (35, 80));
        let planned = plan(&host, &changed).await.unwrap();
        assert_eq!(planned.run.state, RunState::Planned, "{planned:?}");
        let counts = planned.run.counts;
        let differ = counts.changed + counts.new;
        assert!(differ > 0 && counts.same > 0, "{counts:?}");
        assert_eq!(counts.unknown, 0, "{counts:?}");
        assert_eq!(past.written(job, &changed_id(job)).await, [""; 0]);
        let applied = apply(&host, &changed_id(job)).await.unwrap();
        assert_eq!(applied.run.state, RunState::Complete, "{applied:?}");
        assert_eq!(
            past.written(job, &changed_id(job)).await.len() as u64,
            differ
        );
        let after_changed = past.by_key(job).await;
        let all = order(job, &format!("{job}_all"), EmitRows::All, (35, 80));
        reprocess(&host, &all).await.unwrap();
        assert_eq!(past.by_key(job).await, after_changed, "{job}");
    }
}

fn changed_id(job: &str) -> String {
    format!("{job}_changed")
}

#[tokio::test]
async fn a_plan_is_refused_when_its_job_has_another_text() {
    let past = Past::new().await;
    past.visit(busy(0..60));
    past.archive().await;
    past.catch_up().await;
    let host = past.host();
    let planned = order("windows", "planned", EmitRows::All, (0, 30));
    plan(&host, &planned).await.unwrap();
    let (_, query) = JOBS[0];
    past.run(&format!(
        "CREATE OR REPLACE JOB windows AS INSERT INTO windows_out {query} HAVING count(*) > 1;"
    ))
    .await;
    let refused = apply(&host, "planned").await.unwrap_err();
    assert!(
        refused.message().contains("the text of the job"),
        "{refused}"
    );
    // A run that was made at once keeps the text that it began with.
    let ended = abort(&host, "planned").await.unwrap();
    assert_eq!(ended.run.state, RunState::Aborted);
    let refused = apply(&host, "planned").await.unwrap_err();
    assert!(refused.message().contains("it was aborted"), "{refused}");
    let error = apply(&host, "plannd").await.unwrap_err();
    assert_eq!(error.help(), Some("did you mean 'planned'?"));
}

#[tokio::test]
async fn a_run_goes_on_with_chunks_as_its_last_statement_says() {
    let past = Past::new().await;
    past.visit(busy(0..120));
    past.archive().await;
    past.catch_up().await;
    let host = past.host();
    let mut order = order("windows", "paced", EmitRows::All, (35, 80));
    let planned = plan(&host, &order).await.unwrap();
    assert!(planned.run.chunks_compared > 3, "{planned:?}");
    order.options.chunk = Some(1_000 * SECOND);
    let written = reprocess(&host, &order).await.unwrap();
    assert_eq!(written.run.state, RunState::Complete, "{written:?}");
    assert_eq!(written.run.chunks, 1, "{written:?}");
}

#[tokio::test]
async fn what_a_run_would_do_is_shown_and_nothing_is_kept() {
    let past = Past::new().await;
    past.visit(busy(0..60));
    past.archive().await;
    past.catch_up().await;
    let order = order("sessions", "shown", EmitRows::All, (0, 30));
    let preview = explain(&past.host(), &order).await.unwrap();
    let value = |item: &str| {
        let found = preview.items.iter().find(|(name, _)| *name == item);
        found.map(|(_, value)| value.as_str()).unwrap_or_default()
    };
    assert!(value("emits").starts_with("sessions with a row in 2025-09-04T10:00:00Z"));
    assert!(
        value("archive").starts_with("visits: version "),
        "{preview:?}"
    );
    assert!(past.host().store().all().await.unwrap().is_empty());
}
