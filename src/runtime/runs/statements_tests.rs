//! Statements about runs over a store of runs.

use std::collections::BTreeMap;

use datafusion::arrow::array::{AsArray as _, RecordBatch};

use super::*;
use crate::core::jobs::{LogEntry, RunEvent};
use crate::planner::{Script, Statement, parse_statement};
use crate::session::SessionOptions;
use crate::session::system::run_rows::tests::{commit, compare, created};
use crate::store::JobStore;

const HOUR: i64 = 3_600_000_000;

struct Host {
    jobs: Jobs,
    session: Session,
}

impl Host {
    fn new() -> Self {
        Self {
            jobs: Jobs::new(JobStore::ephemeral()),
            session: Session::try_new(&SessionOptions::default()).unwrap(),
        }
    }

    async fn run(&self, sql: &str) -> Result<StatementOutcome> {
        let parsed = parse_statement(&Script::new("t", sql).split()?.remove(0))?;
        let Statement::Run(run) = parsed.statement else {
            panic!("{sql}")
        };
        let done = self
            .jobs
            .begin_run(&self.session, *run, &parsed.places)
            .await;
        done.map_err(|error| parsed.places.locate(error))
    }

    async fn rows(&self, sql: &str) -> RecordBatch {
        match self.run(sql).await.unwrap() {
            StatementOutcome::Rows(execution) => execution.rows().await.unwrap(),
            StatementOutcome::Insert(_) | StatementOutcome::Done(_) => panic!("{sql}"),
        }
    }

    async fn said(&self, sql: &str) -> String {
        match self.run(sql).await.unwrap() {
            StatementOutcome::Done(said) => said,
            StatementOutcome::Rows(_) | StatementOutcome::Insert(_) => panic!("{sql}"),
        }
    }

    /// Values of DESCRIBE RUN by item.
    async fn described(&self, run_id: &str) -> BTreeMap<String, Vec<String>> {
        let rows = self.rows(&format!("DESCRIBE RUN '{run_id}'")).await;
        let (items, values) = (
            rows.column(0).as_string::<i32>(),
            rows.column(1).as_string::<i32>(),
        );
        let mut described: BTreeMap<String, Vec<String>> = BTreeMap::new();
        for (item, value) in items.iter().zip(values) {
            let of_item = described.entry(item.unwrap().to_owned()).or_default();
            of_item.push(value.unwrap().to_owned());
        }
        described
    }
}

#[tokio::test]
async fn a_run_is_described_and_aborted() {
    let host = Host::new();
    let store = host.jobs.runs();
    let mut run = created(&store, "fix_42").await;
    let many: Vec<String> = (0..7).map(|user| format!("u{user}")).collect();
    let new: Vec<(&str, f64)> = many.iter().map(|user| (user.as_str(), 1.0)).collect();
    compare(
        &store,
        &mut run,
        (0, HOUR / 2),
        &[("x", 1.0), ("y", 2.0)],
        &[("x", 2.0)],
    )
    .await;
    compare(&store, &mut run, (HOUR / 2, HOUR), &[], &new).await;
    assert!(
        store
            .append(&mut run, RunEvent::Planned, 3_000)
            .await
            .unwrap()
    );
    let described = host.described("fix_42").await;
    for (item, expected) in [
        ("run_id", "fix_42"),
        ("job", "sessions"),
        ("state", "PLANNED"),
        (
            "asked",
            "event time 1970-01-01T00:00:00Z to 1970-01-01T01:00:00Z",
        ),
        (
            "read",
            "event time 1969-12-31T23:59:50Z to 1970-01-01T01:00:10Z, and further while a session goes on",
        ),
        (
            "emitted",
            "sessions with a row in 1970-01-01T00:00:00Z to 1970-01-01T01:00:00Z",
        ),
        ("emit", "CHANGED"),
        ("compared", "0 same, 1 changed, 7 new, 1 gone, 0 unknown"),
        (
            "static table",
            "users: version 3 of Delta table 'file:///lake/users/' (id users)",
        ),
        ("sql_version", &run.spec.text_version()),
    ] {
        assert_eq!(described[item], [expected], "{item}");
    }
    assert_eq!(described["source"].len(), 2, "{described:?}");
    assert_eq!(described["new"].len(), 6);
    assert!(described["new"][5].starts_with("2 more: SELECT * FROM system.run_changes"));
    assert!(described["changed"][0].contains(" becomes "));
    assert!(described["gone"][0].contains("\"y\""));
    assert!(described["next"][0].starts_with("APPLY RUN 'fix_42'"));
    assert!(described["definition"][0].contains("CREATE JOB sessions"));
    assert_eq!(described.get("written"), None);
    assert!(
        store
            .append(&mut run, RunEvent::Approved, 4_000)
            .await
            .unwrap()
    );
    commit(&store, &mut run, 1, (0, HOUR / 2)).await;
    let described = host.described("fix_42").await;
    assert_eq!(described["state"], ["RUNNING"]);
    assert_eq!(
        described["written"],
        ["1 chunks, 10 records read, 3 rows written"]
    );
    assert_eq!(described.get("next"), None);
    let said = host.said("ABORT RUN 'fix_42'").await;
    assert_eq!(
        said,
        "run 'fix_42' aborted: the 1 chunks that are written stay"
    );
    assert_eq!(
        host.said("ABORT RUN 'fix_42'").await,
        "run 'fix_42' was aborted before"
    );
    assert_eq!(host.described("fix_42").await["state"], ["ABORTED"]);
    created(&store, "other").await;
    let said = host.said("ABORT RUN 'other'").await;
    assert_eq!(said, "run 'other' aborted: nothing of it was written");
}

#[tokio::test]
async fn runs_are_listed_by_job() {
    let host = Host::new();
    let log = |name: &str| LogEntry::Created {
        name: name.to_owned(),
        text: String::new(),
        tables: vec![],
        at: 0,
    };
    host.jobs.store.create(&log("idle"), "idle").await.unwrap();
    assert_eq!(host.rows("SHOW RUNS").await.num_rows(), 0);
    created(&host.jobs.runs(), "a").await;
    created(&host.jobs.runs(), "b").await;
    // The job of the runs was dropped.
    for (sql, count) in [
        ("SHOW RUNS", 2),
        ("SHOW RUNS FOR JOB Sessions", 2),
        ("SHOW RUNS FOR JOB idle", 0),
    ] {
        assert_eq!(host.rows(sql).await.num_rows(), count, "{sql}");
    }
}

/// A part of the message, the place, and a part of the help.
#[tokio::test]
async fn mistakes_have_a_place_and_help() {
    let host = Host::new();
    for (sql, message, column, help) in [
        (
            "DESCRIBE RUN 'r'",
            "no run has the id 'r'",
            14,
            "has no runs",
        ),
        (
            "SHOW RUNS FOR JOB j",
            "no job is named j",
            19,
            "has no jobs",
        ),
    ] {
        let error = host.run(sql).await.err().unwrap();
        assert_eq!(error.message(), message);
        assert_eq!(
            error.span().map(|span| span.start.column),
            Some(column),
            "{sql}"
        );
        assert!(error.help().unwrap_or_default().contains(help), "{sql}");
    }
    created(&host.jobs.runs(), "fix_42").await;
    for (sql, message, column, help) in [
        (
            "APPLY RUN 'fix_43'",
            "no run has the id 'fix_43'",
            11,
            "did you mean 'fix_42'?",
        ),
        (
            "ABORT RUN 'other'",
            "no run has the id 'other'",
            11,
            "SHOW RUNS lists them",
        ),
        (
            "ABORT RUN ''",
            "'' cannot be the id of a run",
            11,
            "1 to 100",
        ),
        (
            "DESCRIBE RUN 'fix 42'",
            "'fix 42' cannot be the id of a run",
            14,
            "_ - . :",
        ),
        (
            "PLAN REPROCESS JOB sessions FROM '2025-01-02' TO '2025-01-01'",
            "TO (2025-01-01T00:00:00Z) is not after FROM (2025-01-02T00:00:00Z)",
            50,
            "ends before TO",
        ),
        (
            "REPROCESS JOB nope FOR (SELECT 't', 0, 1)",
            "no job is named nope",
            15,
            "has no jobs",
        ),
        (
            "EXPLAIN REPROCESS JOB nope FOR (SELECT 0 AS p, 1 AS o)",
            "the query of FOR gives 2 columns (p, o) in the place of 3",
            32,
            "system.late_rows",
        ),
    ] {
        let error = host.run(sql).await.err().unwrap();
        assert_eq!(error.message(), message, "{sql}");
        assert_eq!(
            error.span().map(|span| span.start.column),
            Some(column),
            "{sql}"
        );
        assert!(
            error.help().unwrap_or_default().contains(help),
            "{sql}: {:?}",
            error.help()
        );
    }
}
