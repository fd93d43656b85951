//! Reads of statements about jobs: each statement reads only what it needs of the job it names, and nothing of other jobs.

use std::collections::BTreeSet;

use super::*;
use crate::core::jobs::BatchVersion;
use crate::planner::{Script, Statement, parse_statement};
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
