//! Statements about jobs: each reads only what it needs of the job it names, and nothing of other jobs; and what CREATE JOB checks of
//! where the job begins.

use std::collections::BTreeSet;

use super::*;
use crate::core::jobs::{BatchVersion, NamedOffset, SourceStart};
use crate::planner::{Parameters, Script, Statement, parse_statement};
use crate::session::SessionOptions;
use crate::store::simulated::{Faults, RecordedReads, SimulatedDisk};

const JOBS: usize = 5;
const BATCHES: u64 = 4;

/// A job with some batches.
async fn job(store: &JobStore, name: &str) -> JobId {
    let created = LogEntry::Created {
        name: name.to_owned(),
        text: String::new(),
        tables: vec![],
        at: 0,
    };
    let id = store.create(&created, name).await.unwrap().unwrap();
    for number in 1..=BATCHES {
        let version = BatchVersion {
            batch: number,
            sequence: number,
            ..BatchVersion::default()
        };
        let name = format!("{number:010}-v");
        store.stage(id, &name, &version).await.unwrap();
        let committed = LogEntry::Committed {
            batch: number,
            version: name,
            at: 0,
        };
        assert!(store.append(id, number, &committed).await.unwrap());
    }
    id
}

fn statement(text: &str) -> JobStatement {
    let raw = Script::new("job", text).split().unwrap().remove(0);
    match parse_statement(&raw).unwrap().statement {
        Statement::Job(job) => *job,
        _ => panic!("no statement about jobs"),
    }
}

#[tokio::test]
async fn a_statement_reads_only_files_of_its_own_job() {
    let reads = Arc::new(RecordedReads::default());
    let dir = SimulatedDisk::default().seen_with(Arc::clone(&reads) as Arc<dyn Faults>);
    let store = JobStore::new(dir);
    let mut ids = Vec::new();
    for number in 0..JOBS {
        ids.push(job(&store, &format!("j{number}")).await);
    }
    let session = Session::try_new(&SessionOptions::default()).unwrap();
    let jobs = Jobs::new(store.clone());
    let all = usize::try_from(BATCHES).unwrap();
    // The expected reads of the log, and of versions.
    for (text, logs, versions) in [
        ("PAUSE JOB j3", 1, 0),
        ("PAUSE JOB j3", 1, 0),
        ("RESUME JOB j3", 1, 0),
        ("SHOW CREATE JOB j3", 1, 0),
        ("SHOW BATCHES FOR JOB j3", 1, all),
        // Once more when its files are deleted.
        ("DROP JOB j3", 2, 1),
    ] {
        reads.take();
        jobs.execute(&session, statement(text), text).await.unwrap();
        let read = reads.take();
        let of_job = format!("jobs/{}/", ids[3]);
        let is_own = |path: &String| path == "jobs/names/j3" || path.starts_with(&of_job);
        assert!(read.iter().all(is_own), "{text}: {read:?}");
        let first = format!("{of_job}log/0000000000.json");
        let count = read.iter().filter(|path| **path == first).count();
        assert_eq!(count, logs, "{text}: {read:?}");
        let read = read.iter().filter(|path| path.contains("/versions/"));
        let read: Vec<&String> = read.collect();
        assert_eq!(read.len(), versions, "{text}: {read:?}");
        let different: BTreeSet<&String> = read.iter().copied().collect();
        assert_eq!(different.len(), versions, "{text}");
    }
    // Only the entry that it was dropped is left.
    let names = store.names().await.unwrap();
    assert_eq!(names, ["j0", "j1", "j2", "j4"]);
    assert_eq!(
        store.history(ids[3]).await.unwrap().phase,
        JobPhase::Dropped
    );
}

/// Three streams, two of them over one topic; a Delta table is the fourth. No broker is asked.
async fn with_streams(folder: &std::path::Path) -> Session {
    let session = Session::try_new(&SessionOptions::default()).unwrap();
    let mut tables = String::new();
    for (table, topic) in [
        ("visits", "raw"),
        ("clicks", "events"),
        ("views", "events"),
        ("written", "written"),
    ] {
        tables += &format!(
            "CREATE EXTERNAL TABLE {table} (v BIGINT) STORED AS KAFKA LOCATION '{topic}' \
             OPTIONS ('kafka.bootstrap.servers' '127.0.0.1:1');"
        );
    }
    tables += &format!(
        "CREATE EXTERNAL TABLE files (v BIGINT) STORED AS DELTA LOCATION '{}' OPTIONS ('scan.mode' 'stream');",
        folder.join("files").display()
    );
    for raw in Script::new("tables", &tables).split().unwrap() {
        let mut parsed = parse_statement(&raw).unwrap();
        Parameters::default().bind(&mut parsed).unwrap();
        session.execute(parsed).await.unwrap();
    }
    session
}

/// Plans a job that reads these tables.
async fn planned(session: &Session, startup: &str, tables: &[&str]) -> Result<JobOptions> {
    let rows: Vec<String> = tables
        .iter()
        .map(|table| format!("SELECT v FROM {table}"))
        .collect();
    let rows = rows.join(" UNION ALL ");
    let text =
        format!("CREATE JOB j WITH ('scan.startup' '{startup}') AS INSERT INTO written {rows}");
    let JobStatement::Create {
        options,
        insert,
        emit,
        ..
    } = statement(&text)
    else {
        panic!("no CREATE JOB");
    };
    let jobs = Jobs::new(JobStore::ephemeral());
    let planned = jobs.planned(session, &options, *insert, emit).await;
    planned.map(|(options, _)| options)
}

#[tokio::test]
async fn where_a_job_begins_is_said_by_tables_or_topics() {
    let folder = tempfile::tempdir().unwrap();
    let session = with_streams(folder.path()).await;
    let all = ["visits", "clicks", "files"];
    let json = r#"{"raw":{"0":3},"clicks":{"0":-1}}"#;
    let options = planned(&session, json, &all).await.unwrap();
    let startup = options.startup.unwrap();
    let at = |start| Some(SourceStart::Offsets([(0, start)].into()));
    assert_eq!(startup.of("visits"), at(NamedOffset::At(3)));
    assert_eq!(startup.of("clicks"), at(NamedOffset::End));
    // It begins as it is declared.
    assert_eq!(startup.of("files"), None);
    let options = planned(&session, "latest", &all).await.unwrap();
    assert_eq!(options.startup.unwrap().of("files"), Some(SourceStart::End));
    let without_files = planned(&session, "2025-09-04T10:00:00Z", &all[..2]).await;
    let startup = without_files.unwrap().startup.unwrap();
    let ten = Some(SourceStart::Time(1_756_980_000_000));
    assert_eq!(
        (startup.of("visits"), startup.of("clicks")),
        (ten.clone(), ten)
    );
}

#[tokio::test]
async fn a_wrong_start_has_the_place_of_its_value() {
    let folder = tempfile::tempdir().unwrap();
    let session = with_streams(folder.path()).await;
    let all = ["visits", "clicks", "views", "files"];
    for (startup, expected) in [
        (
            "soon",
            "does not accept 'soon'; it takes 'earliest', 'latest'",
        ),
        (r#"{"visits":{"0":-3}}"#, "integer `-3`"),
        (
            r#"{"visit":{"0":1}}"#,
            "names visit, and the job reads no table or topic of this name; did you mean visits?",
        ),
        (r#"{"written":{"0":1}}"#, "it reads clicks, views, visits"),
        (
            r#"{"events":{"0":1}}"#,
            "names topic 'events', which several tables read: clicks, views; name the tables",
        ),
        (
            r#"{"visits":{"0":1},"raw":{"0":1}}"#,
            "names table visits twice: by its name and by that of its topic",
        ),
        (
            r#"{"files":{"0":1}}"#,
            "gives offsets for topics, and files is a Delta table",
        ),
        (
            "2025-09-04T10:00:00Z",
            "gives a time for topics, and files is a Delta table",
        ),
    ] {
        let error = planned(&session, startup, &all).await.unwrap_err();
        let said = error.with_its_help();
        assert!(said.contains(expected), "{startup}: {said}");
        let place = error
            .span()
            .map(|span| (span.start.line, span.start.column));
        assert_eq!(place, Some((1, 35)), "{startup}");
    }
}

#[tokio::test]
async fn another_start_of_a_job_that_has_begun_is_warned_of() {
    let folder = tempfile::tempdir().unwrap();
    let session = with_streams(folder.path()).await;
    let store = JobStore::ephemeral();
    let jobs = Jobs::new(store.clone());
    let text = |options: &str| {
        format!("CREATE OR REPLACE JOB j {options} AS INSERT INTO written SELECT v FROM visits")
    };
    let create = async |options: &str| {
        let text = text(options);
        let done = jobs.execute(&session, statement(&text), &text).await;
        match done.unwrap() {
            PlannedStatement::Done(done) => done,
            _ => panic!("CREATE JOB returns no rows"),
        }
    };
    let latest = "WITH ('scan.startup' 'latest')";
    let named = r#"WITH ('scan.startup' '{"visits":{"0":3}}')"#;
    assert_eq!(create("").await, "job j");
    // It has not begun.
    assert_eq!(create(latest).await, "job j replaced");
    let (id, history) = store.find("j").await.unwrap().unwrap();
    let version = BatchVersion {
        batch: 1,
        sequence: history.next,
        sources: [("visits".to_owned(), Default::default())].into(),
        ..BatchVersion::default()
    };
    store.stage(id, "0000000001-v", &version).await.unwrap();
    let committed = LogEntry::Committed {
        batch: 1,
        version: "0000000001-v".to_owned(),
        at: 0,
    };
    assert!(store.append(id, history.next, &committed).await.unwrap());
    let warned = create(named).await;
    assert!(
        warned.starts_with("job j replaced\nwarning: another 'scan.startup' has no effect: job j"),
        "{warned}"
    );
    assert!(warned.contains("REWIND JOB j TO BATCH 0"), "{warned}");
    // The same offsets, by the name of the topic; and the same statement again.
    let by_topic = r#"WITH ('scan.startup' '{"raw": {"0": 3}}')"#;
    assert_eq!(create(by_topic).await, "job j replaced");
    assert_eq!(create(by_topic).await, "job j");
    assert_eq!(create("").await, "job j replaced");
    assert!(
        create(latest)
            .await
            .contains("warning: another 'scan.startup'")
    );
}
