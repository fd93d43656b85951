//! Runs from a statement to the sink: over an embedded broker, a Delta table that archives its topic, and the jobs beside them.

use std::path::Path;

use datafusion::arrow::util::pretty::pretty_format_batches;

use super::*;
use crate::core::jobs::{ChangeCounts, NamedOffset, NamedOffsets};
use crate::core::runs::order::{AskedText, GivenRunOptions};
use crate::core::runs::{EmitRows, OffsetBounds, TimeRange};
use crate::planner::{Parameters, Script, Statement, parse_statement};
use crate::runtime::statements::Jobs;
use crate::session::{Session, SessionOptions};
use crate::store::{DataDir, JobStore};
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
        Self::with(|_| JobStore::ephemeral()).await
    }

    /// With the store that is given for a folder.
    async fn with(store: impl FnOnce(&Path) -> JobStore) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let past = Self {
            session: Session::try_new(&SessionOptions::default()).unwrap(),
            jobs: Jobs::new(store(folder.path())).allowing_repeats(),
            broker: EmbeddedBroker::start().unwrap(),
            folder,
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
async fn time_1_windows_that_the_job_holds_back_are_left_out() {
    let past = Past::new().await;
    // The visits of partition 1 end at second 18: all of them are archived, and its producer is slow.
    past.visit(busy(0..60).filter(|second| second % 3 > 0 || *second < 20));
    past.archive().await;
    past.catch_up().await;
    let order = order("windows", "slow", EmitRows::All, (0, 60));
    let outcome = reprocess(&past.host(), &order).await.unwrap();
    let expected = past.whole("windows", 0, 60, 13).await;
    assert_eq!(expected.len(), 2, "{expected:?}");
    assert_eq!(past.written("windows", "slow").await, expected);
    assert!(outcome.run.left.count() > 4, "{outcome:?}");
}

#[tokio::test]
async fn run_1_the_window_of_an_offset_is_given_whole_without_columns_of_metadata() {
    let past = Past::new().await;
    past.visit(busy(0..60));
    past.archive().await;
    past.catch_up().await;
    let place = |offset| -> NamedOffsets {
        [("visits".to_owned(), [(1, NamedOffset::At(offset))].into())].into()
    };
    let by_time = order("windows", "by_offset", EmitRows::All, (0, 60));
    // The visit of second 0, of key 0.
    let by_offset = RunOrder {
        asked: AskedText {
            offsets: Some(OffsetBounds {
                from: place(0),
                to: place(1),
            }),
            ..AskedText::default()
        },
        ..by_time
    };
    reprocess(&past.host(), &by_offset).await.unwrap();
    let whole = past.whole("windows", 0, 1, 10).await;
    let expected: Vec<String> = whole
        .into_iter()
        .filter(|row| row.starts_with("| 0 "))
        .collect();
    assert_eq!(expected.len(), 1, "{expected:?}");
    assert_eq!(past.written("windows", "by_offset").await, expected);
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

#[tokio::test]
async fn a_run_that_is_written_at_once_counts_its_rows_by_kind() {
    let past = Past::new().await;
    past.visit(busy(0..120));
    past.archive().await;
    past.catch_up().await;
    past.visit([41, 43, 45, 47]);
    past.archive().await;
    for (job, _) in JOBS {
        let host = past.host();
        let order = |what: &str| order(job, &format!("{job}_{what}"), EmitRows::Changed, (35, 80));
        let planned = plan(&host, &order("planned")).await.unwrap().run;
        let written = reprocess(&host, &order("written")).await.unwrap().run;
        assert!(written.chunks > 0, "{written:?}");
        assert_eq!(written.chunks_compared, written.chunks, "{job}");
        assert_eq!(written.counts, planned.counts, "{job}");
        let ChangeCounts { changed, new, .. } = written.counts;
        assert_eq!(written.rows_out, changed + new, "{job}");
        assert!(written.rows_out > 0, "{job}");
        // By now everything is the same.
        let again = reprocess(&host, &order("again")).await.unwrap().run;
        let ChangeCounts { changed, new, .. } = again.counts;
        assert_eq!((changed, new, again.rows_out), (0, 0, 0), "{job}");
        assert!(again.counts.same > 0, "{job}");
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

#[tokio::test]
async fn an_aborted_run_has_every_chunk_of_its_sink_in_its_log() {
    let open = |folder: &Path| {
        let data = folder.join("data").display().to_string();
        JobStore::new(DataDir::open(&data).unwrap())
    };
    let past = Past::with(open).await;
    past.visit(busy(0..120));
    past.archive().await;
    past.catch_up().await;
    let host = past.host();
    let all = order("windows", "cut_off", EmitRows::All, (35, 80));
    let whole = reprocess(&host, &all).await.unwrap().run;
    assert!(whole.chunks > 1, "{whole:?}");
    // The process dies between the sink and the log: the last chunk is in the sink only.
    let run = host.find("cut_off").await.unwrap();
    let log = past
        .folder
        .path()
        .join(format!("data/runs/jobs/{}/log", run.id));
    for number in [run.history.next - 1, run.history.next - 2] {
        std::fs::remove_file(log.join(format!("{number:010}.json"))).unwrap();
    }
    let cut_off = host.find("cut_off").await.unwrap();
    assert_eq!(cut_off.state(), RunState::Running);
    assert_eq!(cut_off.history.batches.len() as u64, whole.chunks - 1);
    let aborted = abort(&host, "cut_off").await.unwrap();
    assert_eq!(aborted.run.state, RunState::Aborted, "{aborted:?}");
    assert_eq!(
        (aborted.run.chunks, aborted.run.rows_out),
        (whole.chunks, whole.rows_out),
        "{aborted:?}"
    );
    assert_eq!(
        past.written("windows", "cut_off").await.len() as u64,
        aborted.run.rows_out
    );
    let again = abort(&host, "cut_off").await.unwrap();
    assert_eq!(again.said, "run 'cut_off' was aborted before");
}

#[tokio::test]
async fn the_plan_of_a_job_that_was_dropped_is_checked() {
    let past = Past::new().await;
    past.visit(busy(0..60));
    past.archive().await;
    past.catch_up().await;
    let host = past.host();
    for run_id in ["dropped", "again"] {
        let all = order("windows", run_id, EmitRows::All, (0, 30));
        plan(&host, &all).await.unwrap();
    }
    past.run("DROP JOB windows CASCADE;").await;
    past.run("DELETE FROM raw WHERE partition = 0 AND \"offset\" < 3;")
        .await;
    let refused = apply(&host, "dropped").await.unwrap_err();
    for moved in ["the archive of 'visits' was", "job windows was dropped"] {
        assert!(refused.message().contains(moved), "{refused}");
    }
    let (_, query) = JOBS[0];
    past.run(&format!(
        "CREATE JOB windows AS INSERT INTO windows_out {query};"
    ))
    .await;
    let refused = apply(&host, "again").await.unwrap_err();
    let moved = "job windows was dropped, and another one has its name";
    assert!(refused.message().contains(moved), "{refused}");
}

/// A run with the name of its job beside it, in one process.
#[tokio::test]
async fn status_and_metrics_of_a_run_are_not_those_of_a_job() {
    let past = Past::new().await;
    past.visit(busy(0..60));
    past.archive().await;
    let metrics = crate::runtime::Metrics::try_new().unwrap();
    let options = RunOptions {
        until_caught_up: true,
        metrics: Some(metrics.clone()),
        ..RunOptions::default()
    };
    for (job, outcome) in past.jobs.run(&options).await {
        outcome.unwrap_or_else(|error| panic!("{job}: {error}"));
    }
    let of_job = || {
        let text = metrics.text(0).unwrap();
        let lines = text.lines().filter(|line| line.contains("job=\"windows\""));
        let lines: Vec<String> = lines.map(str::to_owned).collect();
        (options.statuses.all()["windows"].clone(), lines)
    };
    let before = of_job();
    assert!(before.0.report.batches > 0 && !before.1.is_empty());
    let host = past.host().with_options(options.clone());
    let all = order("windows", "windows", EmitRows::All, (0, 30));
    let outcome = reprocess(&host, &all).await.unwrap();
    assert_eq!(of_job(), before);
    let of_runs = options.statuses.of_runs().all();
    assert_eq!(of_runs["windows"].report.batches, outcome.run.chunks);
}

#[tokio::test]
async fn the_query_of_for_is_read_no_further_than_its_limit() {
    let past = Past::new().await;
    past.visit(busy(0..60));
    past.archive().await;
    // Each second offset of very many.
    let rows = "SELECT 'visits' AS topic, 0 AS partition, value * 2 AS \"offset\" FROM generate_series(1, 1000000000000)";
    let all = order("windows", "many", EmitRows::All, (0, 30));
    let all = RunOrder {
        asked: AskedText {
            rows: Some(rows.to_owned()),
            ..all.asked
        },
        ..all
    };
    let refused = explain(&past.host(), &all).await.unwrap_err();
    assert!(refused.message().contains("ranges of offsets"), "{refused}");
}

#[tokio::test]
async fn what_a_run_leaves_out_is_kept_with_it() {
    let past = Past::new().await;
    past.visit(busy(0..60));
    past.archive().await;
    past.catch_up().await;
    let host = past.host();
    let all = order("windows", "left", EmitRows::All, (0, 60));
    let planned = plan(&host, &all).await.unwrap().run;
    assert!(planned.left.count() > 0, "{planned:?}");
    // Another statement has computed it.
    for run in [
        plan(&host, &all).await.unwrap().run,
        apply(&host, "left").await.unwrap().run,
        apply(&host, "left").await.unwrap().run,
    ] {
        assert_eq!(run.left, planned.left, "{run:?}");
    }
    let at_once = order("windows", "at_once", EmitRows::All, (0, 60));
    for _ in 0..2 {
        let run = reprocess(&host, &at_once).await.unwrap().run;
        assert_eq!(run.left, planned.left, "{run:?}");
    }
}

#[tokio::test]
async fn errors_of_a_run_name_the_run_and_its_statements() {
    let past = Past::new().await;
    past.visit(busy(0..60));
    past.archive().await;
    past.catch_up().await;
    let host = past.host();
    let all = order("windows", "told", EmitRows::All, (0, 30));
    plan(&host, &all).await.unwrap();
    let run = host.find("told").await.unwrap();
    let job = ready(&host, &run, Purpose::Write, Pasts::new()).await;
    let job = job.unwrap().job;
    assert_eq!(job.said(), "run 'told'");
    let of_job = Error::data("offsets are lost").with_help("RESUME JOB … SKIPPING LOST goes on");
    let told = job.told(of_job.clone());
    assert_eq!(told.message(), of_job.message());
    let help = "APPLY RUN 'told' continues it when the cause is gone; ABORT RUN 'told' gives it up";
    assert_eq!(told.help(), Some(help));
    let of_run = Error::data("it is another topic").with_help("ABORT RUN ends it");
    assert_eq!(job.told(of_run).help(), Some("ABORT RUN ends it"));
}
