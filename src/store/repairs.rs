//! The runs that have repaired rows of a job, as far as their chunks are in the sink.

use std::cmp::Reverse;
use std::ops::Range;

use futures::StreamExt as _;

use crate::core::jobs::DeadLetter;
use crate::core::runs::{Emission, OffsetSet, RepairingRun};
use crate::error::{ErrorKind, Result};
use crate::store::job_store::JobId;
use crate::store::run_store::{RunStore, StoredRun};

/// All runs that can be read; `system.runs` shows the others. The one that was made last comes first.
///
/// # Errors
///
/// The store does not answer.
pub async fn readable_runs(store: &RunStore) -> Result<Vec<StoredRun>> {
    let runs = store.all().await?.into_iter();
    let mut runs: Vec<StoredRun> = runs.filter_map(|run| run.found.ok()).collect();
    runs.sort_by_key(|run| Reverse((run.history.created_at, run.spec.run_id.clone())));
    Ok(runs)
}

/// Of these runs those of a job of which the sink has a chunk, in the same order. A run of which a file is damaged or lost is left out with a
/// warning: what it has repaired is not known.
///
/// # Errors
///
/// The store does not answer.
pub async fn repairing_runs(
    store: &RunStore,
    runs: &[StoredRun],
    job: JobId,
) -> Result<Vec<RepairingRun>> {
    let job = job.to_string();
    let mut repairing = Vec::new();
    for run in runs.iter().filter(|run| run.spec.job_id == job) {
        match repairing_run(store, run).await {
            Ok(of_run) => repairing.extend(of_run),
            Err(error) if error.kind() == ErrorKind::Data => {
                let run = run.spec.run_id.as_str();
                tracing::warn!(run, %error, "which rows the run has repaired is not known");
            }
            Err(error) => return Err(error),
        }
    }
    Ok(repairing)
}

/// A run, if the sink has a chunk of it.
async fn repairing_run(store: &RunStore, run: &StoredRun) -> Result<Option<RepairingRun>> {
    let Some(last) = run.history.last() else {
        return Ok(None);
    };
    let last = store.jobs().version(run.id, &last.version).await?;
    let (has_left, set_aside) = match run.spec.emission {
        Emission::Offsets(_) => (false, set_aside(store, run).await?),
        // By event time, records that cannot be used are left out.
        Emission::Time(_) => (has_left(store, run).await?, OffsetSet::default()),
    };
    let spec = run.spec.clone();
    Ok(Some(RepairingRun::new(spec, last, has_left, set_aside)))
}

/// Whether a run over selected rows has left a group out, or may have: the versions of its first chunks are gone.
async fn has_left(store: &RunStore, run: &StoredRun) -> Result<bool> {
    if run.spec.selection.is_none() {
        return Ok(true);
    }
    let chunks = store.chunks(run).await?;
    let is_whole = chunks.first().is_some_and(|chunk| chunk.number == 1);
    Ok(!is_whole || chunks.iter().any(|chunk| chunk.left.count() > 0))
}

/// The records that a run has set aside itself.
async fn set_aside(store: &RunStore, run: &StoredRun) -> Result<OffsetSet> {
    let mut places: Vec<(String, i32, Range<i64>)> = Vec::new();
    let mut take = |letters: Vec<DeadLetter>| {
        places.extend(letters.into_iter().map(|letter| {
            let next = letter.offset.saturating_add(1);
            (letter.table, letter.partition, letter.offset..next)
        }));
    };
    for name in &run.history.packs {
        let pack = store.jobs().pack(run.id, name).await?;
        for batch in pack.batches {
            take(batch.dead_letters);
        }
    }
    let batches = &run.history.batches;
    let names = batches.iter().map(|batch| batch.version.clone());
    let versions = store.jobs().versions(run.id, names.collect());
    let mut versions = std::pin::pin!(versions.enumerate());
    while let Some((index, version)) = versions.next().await {
        let version = version?;
        if let Some(batch) = batches.get(index).filter(|_| version.dead_letters > 0) {
            let letters = store.jobs().dead_letters(run.id, &batch.version, &version);
            take(letters.await?);
        }
    }
    Ok(OffsetSet::of(places))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::jobs::{BatchVersion, JobHistory, LogEntry, RunEvent, SourceProgress};
    use crate::core::runs::spec::fixture;
    use crate::core::runs::{Grouping, RunSpec};
    use crate::store::data_dir::DataDir;
    use crate::store::job_store::JobStore;
    use crate::store::run_store::RunCreation;

    fn offsets() -> OffsetSet {
        OffsetSet::of([("visits".to_owned(), 0, 3..9)])
    }

    /// A run over offsets 3 to 8 of a job without groups.
    fn spec(run_id: &str, job: JobId) -> RunSpec {
        let mut spec = RunSpec {
            job_id: job.to_string(),
            grouping: Grouping::Rows,
            emission: Emission::Offsets(offsets()),
            selection: Some(offsets()),
            ..fixture::spec(run_id)
        };
        spec.asked.time = None;
        spec
    }

    async fn created(store: &RunStore, spec: RunSpec, at: i64) -> StoredRun {
        match store.create(spec, at).await.unwrap() {
            RunCreation::Created(run) => run,
            RunCreation::Exists(run) => panic!("{run:?}"),
        }
    }

    /// Commits a chunk that ends before `end` and has set `dead` aside.
    async fn commit(store: &RunStore, run: &mut StoredRun, end: i64, dead: &[i64]) {
        let letter = |offset: &i64| DeadLetter {
            table: "visits".into(),
            topic: "visits".into(),
            partition: 0,
            offset: *offset,
            timestamp: None,
            key: None,
            value: None,
            reason: "no number".into(),
        };
        let letters: Vec<DeadLetter> = dead.iter().map(letter).collect();
        let name = format!("{:010}-v", run.history.next);
        let progress = SourceProgress { start: 3, end };
        let mut version = BatchVersion {
            batch: run.history.next_batch(),
            sequence: run.history.next,
            sources: [("visits".to_owned(), [(0, progress)].into())].into(),
            dead_letters: letters.len() as u64,
            ..BatchVersion::default()
        };
        if !letters.is_empty() {
            let put = store.jobs().put_dead_letters(run.id, &name, &letters);
            version.dead_letters_crc32 = Some(put.await.unwrap());
        }
        store.jobs().stage(run.id, &name, &version).await.unwrap();
        let committed = LogEntry::Committed {
            batch: version.batch,
            version: name,
            at: 1,
        };
        let history: &mut JobHistory = &mut run.history;
        let appended = store.jobs().append_next(run.id, history, &committed);
        assert!(appended.await.unwrap());
    }

    fn repaired(runs: &[RepairingRun]) -> Vec<(i64, &str)> {
        let by = |offset: i64| {
            let run = runs
                .iter()
                .find(|run| run.has_dead_letter("visits", 0, offset))?;
            Some((offset, run.run_id()))
        };
        (0..12).filter_map(by).collect()
    }

    async fn repairing(store: &RunStore, job: JobId) -> Vec<RepairingRun> {
        let runs = readable_runs(store).await.unwrap();
        repairing_runs(store, &runs, job).await.unwrap()
    }

    #[tokio::test]
    async fn a_damaged_run_leaves_only_its_own_rows_unknown() {
        let folder = tempfile::tempdir().unwrap();
        let dir = DataDir::open(&folder.path().display().to_string()).unwrap();
        let jobs = JobStore::new(dir);
        let store = RunStore::beside(&jobs);
        let job = LogEntry::Created {
            name: "j".into(),
            text: String::new(),
            tables: vec![],
            at: 0,
        };
        let id = jobs.create(&job, "j").await.unwrap().unwrap();
        let mut first = created(&store, spec("first", id), 1).await;
        commit(&store, &mut first, 6, &[]).await;
        let mut second = created(&store, spec("second", id), 2).await;
        commit(&store, &mut second, 5, &[]).await;
        let runs = repairing(&store, id).await;
        let expected = [(3, "second"), (4, "second"), (5, "first")];
        assert_eq!(repaired(&runs), expected);
        let version = &second.history.batches[0].version;
        let file = format!("runs/jobs/{}/versions/{version}.json", second.id);
        let file = folder.path().join(file);
        std::fs::write(&file, "{").unwrap();
        let expected = [(3, "first"), (4, "first"), (5, "first")];
        assert_eq!(repaired(&repairing(&store, id).await), expected);
        std::fs::remove_file(&file).unwrap();
        assert_eq!(repaired(&repairing(&store, id).await), expected);
    }

    #[tokio::test]
    async fn a_run_repairs_what_its_committed_chunks_have() {
        let jobs = JobStore::new(DataDir::in_memory());
        let store = RunStore::beside(&jobs);
        let job = LogEntry::Created {
            name: "j".into(),
            text: String::new(),
            tables: vec![],
            at: 0,
        };
        let id = jobs.create(&job, "j").await.unwrap().unwrap();
        let other = jobs.create(&job, "other").await.unwrap().unwrap();
        let mut first = created(&store, spec("first", id), 1).await;
        // A plan alone repairs nothing.
        store
            .append(&mut first, RunEvent::Planned, 1)
            .await
            .unwrap();
        assert!(repairing(&store, id).await.is_empty());
        commit(&store, &mut first, 6, &[4]).await;
        let runs = repairing(&store, id).await;
        assert_eq!(repaired(&runs), [(3, "first"), (5, "first")]);
        assert!(repairing(&store, other).await.is_empty());
        // What was committed before it was aborted counts.
        let aborted = store.append(&mut first, RunEvent::Aborted, 2).await;
        assert!(aborted.unwrap());
        let mut second = created(&store, spec("second", id), 3).await;
        commit(&store, &mut second, 5, &[]).await;
        let runs = repairing(&store, id).await;
        let expected = [(3, "second"), (4, "second"), (5, "first")];
        assert_eq!(repaired(&runs), expected);
        commit(&store, &mut second, 9, &[8]).await;
        let runs = repairing(&store, id).await;
        let expected: Vec<(i64, &str)> = (3..8).map(|offset| (offset, "second")).collect();
        assert_eq!(repaired(&runs), expected);
    }
}
