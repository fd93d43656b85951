//! Jobs for tests of their store.

use super::JobStore;
use super::paths::{JobId, late_path, state_path};
use crate::core::jobs::{AGGREGATE, BatchVersion, JobHistory, LogEntry, OperatorState, StateFile};
use crate::store::checksum::crc32;
use crate::store::data_dir::DataDir;

pub(super) fn store(dir: &std::path::Path) -> JobStore {
    JobStore::new(DataDir::open(&dir.display().to_string()).unwrap())
}

pub(super) fn created(name: &str) -> LogEntry {
    LogEntry::Created {
        name: name.into(),
        text: "CREATE JOB …".into(),
        tables: vec![],
        at: 0,
    }
}

pub(super) fn takeover(owner: &str) -> LogEntry {
    LogEntry::Takeover {
        owner: owner.into(),
        at: 0,
    }
}

pub(super) fn committed(batch: u64, sequence: u64) -> LogEntry {
    LogEntry::Committed {
        batch,
        version: format!("{sequence:010}-v"),
        at: 0,
    }
}

pub(super) fn files(dir: &std::path::Path, id: JobId, folder: &str) -> Vec<String> {
    let Ok(found) = std::fs::read_dir(dir.join(format!("jobs/{id}/{folder}"))) else {
        return Vec::new();
    };
    let names = found.map(|file| file.unwrap().file_name().into_string().unwrap());
    let mut names: Vec<String> = names.collect();
    names.sort_unstable();
    names
}

/// A version whose state is in these files.
pub(super) fn version_with(sequence: u64, state: &[&str]) -> BatchVersion {
    let file = |name: &&str| StateFile {
        name: (*name).to_owned(),
        is_snapshot: false,
        closed_by: None,
        rows: 0,
        bytes: 1,
        crc32: Some(crc32(b"x")),
    };
    BatchVersion {
        batch: sequence,
        sequence,
        operators: [(
            AGGREGATE.to_owned(),
            OperatorState {
                fingerprint: None,
                files: state.iter().map(file).collect(),
            },
        )]
        .into(),
        ..BatchVersion::default()
    }
}

/// A batch with state, late rows and its entry.
pub(super) async fn commit(store: &JobStore, id: JobId, number: u64, state: &[&str]) {
    let name = format!("{number:010}-v");
    let version = version_with(number, state);
    store.stage(id, &name, &version).await.unwrap();
    for file in [state_path(id, &name), late_path(id, &name)] {
        store.put(&file, b"x".to_vec()).await.unwrap();
    }
    let entry = committed(number, number);
    assert!(store.append(id, number, &entry).await.unwrap());
}

pub(super) async fn trim(store: &JobStore, id: JobId, oldest: u64, packs: &[&str]) -> JobHistory {
    let next = store.history(id).await.unwrap().next;
    let trimmed = LogEntry::Trimmed {
        oldest,
        packs: packs.iter().map(|pack| (*pack).to_owned()).collect(),
        at: 0,
    };
    assert!(store.append(id, next, &trimmed).await.unwrap());
    store.history(id).await.unwrap()
}
