//! Statements about runs over a store of runs.

use std::collections::BTreeMap;

use datafusion::arrow::array::{AsArray as _, RecordBatch};

use super::*;
use crate::core::jobs::{BatchVersion, Heartbeat, LogEntry, RunEvent};
use crate::planner::{Script, Statement, parse_statement};
use crate::runtime::owner::now;
use crate::session::system::run_rows::tests::{commit, compare, created};
use crate::session::{SessionOptions, StatementOutcome};
use crate::store::{JobStore, RunStore};

const HOUR: i64 = 3_600_000_000;

struct Process {
    jobs: Jobs,
    session: Session,
}

impl Process {
    fn new() -> Self {
        Self {
            jobs: Jobs::new(JobStore::ephemeral()),
            session: Session::try_new(&SessionOptions::default()).unwrap(),
        }
    }

    fn store(&self) -> RunStore {
        RunStore::beside(&self.jobs.store)
    }

    async fn run(&self, sql: &str) -> Result<StatementOutcome> {
        let parsed = parse_statement(&Script::new("t", sql).split()?.remove(0))?;
        let Statement::Run(run) = parsed.statement else {
            panic!("{sql}")
        };
        let options = RunOptions::default();
        let ready = self
            .jobs
            .execute_run(&self.session, run, &parsed.places, &options)
            .await;
        let begun = ready.and_then(|ready| self.session.begin_ready(ready));
        begun.map_err(|error| parsed.places.locate(error))
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

    /// The values of DESCRIBE RUN by item.
    async fn described(&self, run_id: &str) -> BTreeMap<String, Vec<String>> {
        let rows = self.rows(&format!("DESCRIBE RUN '{run_id}'")).await;
        let column = |at: usize| rows.column(at).as_string::<i32>();
        let mut described: BTreeMap<String, Vec<String>> = BTreeMap::new();
        for (item, value) in column(0).iter().zip(column(1)) {
            let of_item = described.entry(item.unwrap().to_owned()).or_default();
            of_item.push(value.unwrap().to_owned());
        }
        described
    }
}

#[tokio::test]
async fn a_run_is_described_and_aborted() {
    let place = Process::new();
    let store = place.store();
    let mut run = created(&store, "fix_42").await;
    let (published, computed) = ([("x", 1.0), ("y", 2.0)], [("x", 2.0)]);
    compare(&store, &mut run, (0, HOUR / 2), &published, &computed).await;
    let users: Vec<String> = (0..7).map(|user| format!("u{user}")).collect();
    let new: Vec<(&str, f64)> = users.iter().map(|user| (user.as_str(), 1.0)).collect();
    compare(&store, &mut run, (HOUR / 2, HOUR), &[], &new).await;
    let planned = store.append(&mut run, RunEvent::Planned, 3_000).await;
    assert!(planned.unwrap());
    let described = place.described("fix_42").await;
    let hour = "1970-01-01T00:00:00Z to 1970-01-01T01:00:00Z";
    for (item, expected) in [
        ("run_id", "fix_42".to_owned()),
        ("job", "sessions".to_owned()),
        ("state", "PLANNED".to_owned()),
        ("created at", "1970-01-01T00:00:01Z".to_owned()),
        ("asked", format!("event time {hour}")),
        ("emits", format!("sessions with a row in {hour}")),
        ("emit", "CHANGED".to_owned()),
        (
            "compared",
            "2 chunks: 0 same, 1 changed, 7 new, 1 gone, 0 unknown".to_owned(),
        ),
        (
            "last chunk",
            "1970-01-01T00:30:00Z to 1970-01-01T01:00:00Z; 100 % done".to_owned(),
        ),
        ("sql_version", run.spec.text_version()),
    ] {
        assert_eq!(described[item], [expected], "{item}");
    }
    let new = &described["new"];
    assert_eq!(new.len(), 6);
    let more = "2 more: SELECT * FROM system.run_changes WHERE run_id = 'fix_42'";
    assert_eq!(new[5], more);
    let changed = r#"{"user_id":"x","n":1.0,"day":"1970-01-02"} becomes {"user_id":"x","n":2.0,"day":"1970-01-02"}"#;
    assert_eq!(described["changed"], [changed]);
    assert_eq!(
        described["gone"],
        [r#"{"user_id":"y","n":2.0,"day":"1970-01-02"}"#]
    );
    assert!(described["next"][0].starts_with("APPLY RUN 'fix_42'"));
    assert!(described["definition"][0].contains("CREATE JOB sessions"));
    assert_eq!(described.get("written"), None);

    let approved = store.append(&mut run, RunEvent::Approved, 4_000).await;
    assert!(approved.unwrap());
    commit(&store, &mut run, 1, (0, HOUR / 2)).await;
    let described = place.described("fix_42").await;
    for (item, expected) in [
        ("state", "RUNNING"),
        ("written", "1 chunk: 10 records read, 3 rows written"),
        (
            "last chunk",
            "1970-01-01T00:00:00Z to 1970-01-01T00:30:00Z; 50 % done",
        ),
    ] {
        assert_eq!(described[item], [expected], "{item}");
    }
    assert!(described["next"][0].starts_with("APPLY RUN 'fix_42' continues it"));
    let said = place.said("ABORT RUN 'fix_42'").await;
    assert!(
        said.contains("1 chunk with 3 rows stays in the sink"),
        "{said}"
    );
    let said = place.said("ABORT RUN 'fix_42'").await;
    assert_eq!(said, "run 'fix_42' was aborted before");
    let described = place.described("fix_42").await;
    assert_eq!(described["state"], ["ABORTED"]);
    assert_eq!(described.get("next"), None);
    created(&store, "other").await;
    let said = place.said("ABORT RUN 'other'").await;
    assert!(said.contains("it has written nothing"), "{said}");
}

/// A job and a run say in the same words why they wait or have failed, in tables and descriptions.
#[tokio::test]
async fn a_description_has_the_reason_for_which_a_run_waits_or_has_failed() {
    let place = Process::new();
    let store = place.store();
    let mut run = created(&store, "fix_42").await;
    assert_eq!(place.described("fix_42").await.get("reason"), None);
    let takeover = LogEntry::Takeover {
        owner: "p".to_owned(),
        at: 2_000,
    };
    let history = &mut run.history;
    let appended = store.jobs().append_next(run.id, history, &takeover).await;
    assert!(appended.unwrap());
    let beat = Heartbeat {
        owner: "p".to_owned(),
        waiting: Some("job sessions falls behind".to_owned()),
        opening: false,
        backlog: None,
        at: now(),
    };
    store.jobs().put_heartbeat(run.id, &beat).await.unwrap();
    let failed = LogEntry::Paused {
        reason: Some("no disk".to_owned()),
        reported: None,
        at: 3_000,
    };
    for (entry, state, reason) in [
        (None, "PLANNING", "job sessions falls behind"),
        (Some(failed), "FAILED", "no disk"),
    ] {
        if let Some(entry) = entry {
            let history = &mut run.history;
            let appended = store.jobs().append_next(run.id, history, &entry).await;
            assert!(appended.unwrap());
        }
        let described = place.described("fix_42").await;
        assert_eq!(described["state"], [state]);
        assert_eq!(described["reason"], [reason]);
        let rows = place.rows("SHOW RUNS").await;
        let listed = rows.column_by_name("reason").unwrap();
        assert_eq!(listed.as_string::<i32>().value(0), reason);
        let waiting = described.keys().find(|item| item.contains("waiting"));
        assert_eq!(waiting, None);
    }
}

/// A run whose sink cannot be opened any more, and of which a chunk may be there.
#[tokio::test]
async fn a_run_that_cannot_be_taken_over_is_aborted_with_a_warning() {
    let place = Process::new();
    let store = place.store();
    let mut run = created(&store, "fix_42").await;
    let approved = store.append(&mut run, RunEvent::Approved, 4_000).await;
    assert!(approved.unwrap());
    commit(&store, &mut run, 1, (0, HOUR / 2)).await;
    let next = BatchVersion {
        batch: 2,
        sequence: run.history.next,
        parent: run.history.last().map(|last| last.version.clone()),
        ..BatchVersion::default()
    };
    let name = JobStore::version_name(run.history.next);
    store.jobs().stage(run.id, &name, &next).await.unwrap();
    let said = place.said("ABORT RUN 'fix_42'").await;
    let warning = "\nwarning: it is not known whether chunk 2 is in the sink: ";
    assert!(
        said.contains("1 chunk with 3 rows stays in the sink"),
        "{said}"
    );
    assert!(said.contains(warning), "{said}");
    assert_eq!(place.described("fix_42").await["state"], ["ABORTED"]);
}

/// The same of a run that another process writes.
#[tokio::test]
async fn a_run_that_may_go_on_is_aborted_with_a_warning() {
    let place = Process::new();
    let store = place.store();
    let mut run = created(&store, "fix_42").await;
    let approved = store.append(&mut run, RunEvent::Approved, 4_000).await;
    assert!(approved.unwrap());
    commit(&store, &mut run, 1, (0, HOUR / 2)).await;
    let beat = Heartbeat {
        owner: "another process".to_owned(),
        waiting: None,
        opening: false,
        backlog: None,
        at: now(),
    };
    store.jobs().put_heartbeat(run.id, &beat).await.unwrap();
    let said = place.said("ABORT RUN 'fix_42'").await;
    let warning =
        "\nwarning: the process that writes it is not fenced off, and may write one more chunk: ";
    assert!(said.contains(warning), "{said}");
    assert_eq!(place.described("fix_42").await["state"], ["ABORTED"]);
}

#[tokio::test]
async fn runs_are_listed_by_job() {
    let place = Process::new();
    let idle = LogEntry::Created {
        name: "idle".to_owned(),
        text: String::new(),
        tables: vec![],
        at: 0,
    };
    place.jobs.store.create(&idle, "idle").await.unwrap();
    assert_eq!(place.rows("SHOW RUNS").await.num_rows(), 0);
    created(&place.store(), "a").await;
    created(&place.store(), "b").await;
    // The job of these runs was dropped.
    for (sql, count) in [
        ("SHOW RUNS", 2),
        ("SHOW RUNS FOR JOB Sessions", 2),
        ("SHOW RUNS FOR JOB idle", 0),
    ] {
        assert_eq!(place.rows(sql).await.num_rows(), count, "{sql}");
    }
}

#[tokio::test]
async fn a_statement_with_nothing_to_do_succeeds() {
    let session = Process::new().session;
    let nothing = || Error::invalid("there is nothing to reprocess").with_help("look at the query");
    let ready = without_run(&session, nothing().mark_nothing_to_do()).unwrap();
    let StatementOutcome::Rows(rows) = session.begin_ready(ready).unwrap() else {
        panic!("it has rows")
    };
    let rows = rows.rows().await.unwrap();
    let texts = |column: usize| -> Vec<&str> {
        let column = rows.column(column).as_string::<i32>();
        column.iter().flatten().collect()
    };
    assert_eq!(texts(0), ["outcome", "help"]);
    assert_eq!(
        texts(1),
        ["there is nothing to reprocess", "look at the query"]
    );
    assert!(without_run(&session, nothing()).is_err());
}

/// Statement, message, the place, and a part of the help.
#[tokio::test]
async fn mistakes_have_a_place_and_help() {
    let place = Process::new();
    created(&place.store(), "fix_42").await;
    for (sql, message, column, help) in [
        (
            "SHOW RUNS FOR JOB j",
            "no job is named j",
            19,
            "has no jobs",
        ),
        (
            "DESCRIBE RUN 'r'",
            "there is no run 'r'",
            14,
            "SHOW RUNS lists the runs",
        ),
        (
            "APPLY RUN 'fix_43'",
            "there is no run 'fix_43'",
            11,
            "did you mean 'fix_42'?",
        ),
        (
            "ABORT RUN 'other'",
            "there is no run 'other'",
            11,
            "SHOW RUNS lists the runs",
        ),
        (
            "ABORT RUN ''",
            "'' cannot be the id of a run",
            11,
            "1 to 80",
        ),
        (
            "DESCRIBE RUN 'fix 42'",
            "'fix 42' cannot be the id of a run",
            14,
            "_ - . :",
        ),
        (
            "APPLY RUN 'fix_42'",
            "run 'fix_42' cannot be applied: its plan is not complete",
            1,
            "'run_id'",
        ),
        (
            "PLAN REPROCESS JOB sessions FROM '2025-01-02' TO '2025-01-01'",
            "TO (2025-01-01T00:00:00Z) is not after FROM (2025-01-02T00:00:00Z)",
            50,
            "ends before TO",
        ),
        (
            "REPROCESS JOB nope FROM '2025-01-01' TO '2025-01-02'",
            "no job is named nope",
            15,
            "has no jobs",
        ),
        (
            "EXPLAIN REPROCESS JOB nope FOR (SELECT 0 AS partition, 1 AS \"offset\")",
            "the query of FOR has no column topic: it has partition, offset",
            32,
            "system.late_rows",
        ),
        (
            "REPROCESS JOB j FOR (SELECT topic, partition, \"offset\" FROM late)",
            "no table or view is named late",
            61,
            "",
        ),
    ] {
        let error = place.run(sql).await.err().unwrap();
        assert_eq!(error.message(), message, "{sql}");
        let start = error.span().map(|span| span.start.column);
        assert_eq!(start, Some(column), "{sql}");
        let found = error.help().unwrap_or_default();
        assert!(found.contains(help), "{sql}: {found}");
    }
}
