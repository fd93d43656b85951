//! Sweeper of a job: while the job runs, it deletes batches that are no longer needed for a rewind, and entries of the log that
//! a checkpoint has passed.
//!
//! The work runs beside the batches; only the entry that trims the history is written between two of them. It may stop at any
//! step: the next sweep deletes the rest.

use futures::{StreamExt as _, TryStreamExt as _};
use tokio::task::JoinHandle;

use crate::core::jobs::{
    BatchCommit, JobHistory, LogEntry, Retention, is_sweep_due, oldest_to_stay,
};
use crate::error::{Error, Result};
use crate::runtime::failpoint;
use crate::store::{JobId, JobStore, Pack, PackedBatch};

/// A pack grows up to about this size; then another one is begun.
const PACK_BYTES: usize = 8 << 20;
/// Versions that are read at the same time.
const READS_AT_ONCE: usize = 8;
/// After a fault of the store the sweeper pauses for so long, in milliseconds.
const PAUSE: i64 = 60_000;

/// The sweeping of one job, as long as its runner owns it.
pub(super) struct Sweeper {
    store: JobStore,
    id: JobId,
    job: String,
    retention: Retention,
    work: SweepWork,
    /// Time of the next attempt, in milliseconds since 1970 UTC.
    rests_until: i64,
}

/// Work that runs beside the batches.
enum SweepWork {
    None,
    /// Packs the late rows and dead letters of the batches that will be trimmed; returns the entry that trims the history.
    Packing(JoinHandle<Result<Option<LogEntry>>>),
    /// Writes a checkpoint and deletes files; returns the number of the checkpoint.
    Deleting(JoinHandle<Result<u64>>),
}

impl Sweeper {
    pub(super) fn new(store: &JobStore, id: JobId, job: &str, retention: Retention) -> Self {
        Self {
            store: store.clone(),
            id,
            job: job.to_owned(),
            retention,
            work: SweepWork::None,
            rests_until: i64::MIN,
        }
    }

    /// Does the work that is due at `now`, in milliseconds since 1970 UTC, without waiting for the tasks it starts.
    ///
    /// # Errors
    ///
    /// The log cannot be written to.
    pub(super) async fn go_on(&mut self, history: &mut JobHistory, now: i64) -> Result<()> {
        let is_done = match &self.work {
            SweepWork::None => true,
            SweepWork::Packing(work) => work.is_finished(),
            SweepWork::Deleting(work) => work.is_finished(),
        };
        if is_done {
            self.step(history, now).await?;
        }
        Ok(())
    }

    /// Does all work that is due when the run ends, since there may be no later run.
    ///
    /// # Errors
    ///
    /// The log cannot be written to.
    pub(super) async fn finish(&mut self, history: &mut JobHistory, now: i64) -> Result<()> {
        loop {
            self.step(history, now).await?;
            if matches!(self.work, SweepWork::None) {
                return Ok(());
            }
        }
    }

    /// Waits for the running task and starts the next one.
    #[expect(
        clippy::disallowed_methods,
        reason = "sweeping runs beside the batches, and the sweep is a decision of its own"
    )]
    async fn step(&mut self, history: &mut JobHistory, now: i64) -> Result<()> {
        match std::mem::replace(&mut self.work, SweepWork::None) {
            SweepWork::None => self.begin(history, now),
            SweepWork::Packing(work) => {
                let Some(packed) = self.outcome(work, now).await else {
                    return Ok(());
                };
                if let Some(trimmed) = packed {
                    if !self.store.append_next(self.id, history, &trimmed).await? {
                        // The entry of another process came first: the batches may be others now.
                        return Ok(());
                    }
                    failpoint::reach("trimmed");
                }
                let (store, id, kept) = (self.store.clone(), self.id, history.clone());
                let work = async move { delete(&store, id, &kept).await };
                self.work = SweepWork::Deleting(tokio::spawn(work));
            }
            SweepWork::Deleting(work) => {
                if let Some(checkpoint) = self.outcome(work, now).await {
                    history.checkpoint = checkpoint;
                }
            }
        }
        Ok(())
    }

    #[expect(
        clippy::disallowed_methods,
        reason = "sweeping runs beside the batches, and the sweep is a decision of its own"
    )]
    fn begin(&mut self, history: &JobHistory, now: i64) {
        if now < self.rests_until || !is_sweep_due(history, self.retention, now) {
            return;
        }
        let (store, id, retention) = (self.store.clone(), self.id, self.retention);
        let history = history.clone();
        let work = async move { pack(&store, id, &history, retention, now).await };
        self.work = SweepWork::Packing(tokio::spawn(work));
    }

    /// Result of a task; after a fault it logs a warning and pauses the sweeper.
    async fn outcome<T>(&mut self, work: JoinHandle<Result<T>>, now: i64) -> Option<T> {
        let done = work.await.unwrap_or_else(|error| {
            Err(Error::internal(format!(
                "sweeping was interrupted: {error}"
            )))
        });
        done.inspect_err(|error| {
            tracing::warn!(job = self.job, %error, "old batches are not swept; trying again later");
            self.rests_until = now.saturating_add(PAUSE);
        })
        .ok()
    }
}

/// Packs the late rows and dead letters of the batches that will be trimmed (LOSS-1). None if no batch is trimmed.
async fn pack(
    store: &JobStore,
    id: JobId,
    history: &JobHistory,
    retention: Retention,
    now: i64,
) -> Result<Option<LogEntry>> {
    let Some(oldest) = oldest_to_stay(history, retention, now) else {
        return Ok(None);
    };
    // A subscription ends with its process, so its late rows and dead letters are not kept.
    let keeps = |of: &BatchCommit| of.batch < oldest && !store.is_ephemeral();
    let leaving: Vec<BatchCommit> = history.batches.iter().cloned().take_while(keeps).collect();
    let mut set_aside = futures::stream::iter(leaving)
        .map(|batch| set_aside(store.clone(), id, batch))
        .buffered(READS_AT_ONCE);
    let mut packs = history.packs.clone();
    let mut open: Option<Pack> = None;
    while let Some(found) = set_aside.try_next().await? {
        let Some(packed) = found else { continue };
        let mut pack = match open.take() {
            Some(pack) => pack,
            None => small_pack(store, id, &mut packs).await?,
        };
        pack.batches.push(packed);
        if pack.size() >= PACK_BYTES {
            packs.push(write(store, id, history, &pack).await?);
            pack = Pack::default();
        }
        open = Some(pack);
    }
    if let Some(pack) = open.filter(|pack| !pack.batches.is_empty()) {
        packs.push(write(store, id, history, &pack).await?);
    }
    failpoint::reach("packed");
    Ok(Some(LogEntry::Trimmed {
        oldest,
        packs,
        at: now,
    }))
}

/// The last pack if it is small, so that it is rewritten with more in it and the number of packs stays low.
async fn small_pack(store: &JobStore, id: JobId, packs: &mut Vec<String>) -> Result<Pack> {
    if let Some(last) = packs.last() {
        let last = store.pack(id, last).await?;
        if last.size() < PACK_BYTES {
            packs.pop();
            return Ok(last);
        }
    }
    Ok(Pack::default())
}

async fn write(store: &JobStore, id: JobId, history: &JobHistory, pack: &Pack) -> Result<String> {
    let name = JobStore::version_name(history.next);
    store.put_pack(id, &name, pack).await?;
    Ok(name)
}

async fn set_aside(store: JobStore, id: JobId, batch: BatchCommit) -> Result<Option<PackedBatch>> {
    let version = store.version(id, &batch.version).await?;
    let late = match version.late_rows {
        0 => None,
        _ => Some(store.late(id, &batch.version, &version).await?),
    };
    let dead_letters = store.dead_letters(id, &batch.version, &version).await?;
    let is_empty = late.is_none() && dead_letters.is_empty();
    Ok((!is_empty).then_some(PackedBatch {
        batch: batch.batch,
        dead_letters,
        late,
    }))
}

/// Writes a checkpoint and deletes the files that the checkpoint before it has passed: so a reader that has just read the log
/// still finds its files.
///
/// This process may have stalled since it read `history`, and another one may have taken the job over, written checkpoints and
/// swept. So the checkpoints that exist now decide which files are deleted.
async fn delete(store: &JobStore, id: JobId, history: &JobHistory) -> Result<u64> {
    let passed = store.compact(id, history).await?;
    failpoint::reach("checkpointed");
    if let Some(passed) = passed {
        let files = store.sweep(id, &passed).await?;
        tracing::debug!(%id, files, "old batches swept");
    }
    failpoint::reach("swept");
    Ok(history.next)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::jobs::{AGGREGATE, BatchVersion, DeadLetter, OperatorState, StateFile};
    use crate::store::{DataDir, crc32};

    fn name_of(number: u64) -> String {
        format!("{number:010}-v")
    }

    /// A batch that writes a state file, builds on others, and sets a record aside.
    async fn commit(store: &JobStore, id: JobId, history: &mut JobHistory, state: &[u64]) {
        let (batch, sequence) = (history.next_batch(), history.next);
        let file = |number: &u64| StateFile {
            name: name_of(*number),
            is_snapshot: false,
            closed_by: None,
            rows: 0,
            bytes: 1,
            crc32: Some(crc32(b"x")),
        };
        let letter = DeadLetter {
            table: "t".into(),
            topic: "t".into(),
            partition: 0,
            offset: i64::try_from(batch).unwrap(),
            timestamp: None,
            key: None,
            value: None,
            reason: "it is bad".into(),
        };
        let name = name_of(sequence);
        let letters = store.put_dead_letters(id, &name, &[letter]).await.unwrap();
        let kept = OperatorState {
            fingerprint: None,
            files: state.iter().chain([&sequence]).map(file).collect(),
        };
        let version = BatchVersion {
            batch,
            sequence,
            operators: [(AGGREGATE.to_owned(), kept)].into(),
            dead_letters: 1,
            dead_letters_crc32: Some(letters),
            ..BatchVersion::default()
        };
        store.put_state(id, &name, b"x".to_vec()).await.unwrap();
        store.stage(id, &name, &version).await.unwrap();
        let entry = LogEntry::Committed {
            batch,
            version: name,
            at: 0,
        };
        assert!(store.append_next(id, history, &entry).await.unwrap());
    }

    async fn trim(store: &JobStore, id: JobId, history: &mut JobHistory, versions: u64) {
        let retention = Retention {
            versions,
            age: i64::MAX,
        };
        let trimmed = pack(store, id, history, retention, 0).await.unwrap();
        let trimmed = trimmed.unwrap();
        assert!(store.append_next(id, history, &trimmed).await.unwrap());
    }

    /// Files that a history names and that the store no longer has.
    async fn missing(store: &JobStore, id: JobId, history: &JobHistory) -> Vec<String> {
        let mut missing = Vec::new();
        for batch in &history.batches {
            match store.version(id, &batch.version).await {
                Err(_) => missing.push(batch.version.clone()),
                Ok(version) => {
                    for file in version.state_files() {
                        if store.state(id, file).await.is_err() {
                            missing.push(file.name.clone());
                        }
                    }
                }
            }
        }
        for pack in &history.packs {
            if store.pack(id, pack).await.is_err() {
                missing.push(pack.clone());
            }
        }
        missing
    }

    async fn job() -> (tempfile::TempDir, JobStore, JobId, JobHistory) {
        let dir = tempfile::tempdir().unwrap();
        let data = DataDir::open(&dir.path().display().to_string()).unwrap();
        let store = JobStore::new(data);
        let created = LogEntry::Created {
            name: "j".into(),
            text: String::new(),
            tables: vec![],
            at: 0,
        };
        let id = store.create(&created, "j").await.unwrap().unwrap();
        let history = store.history(id).await.unwrap();
        (dir, store, id, history)
    }

    /// A job with a runner that stalled before it wrote its checkpoint. Other runners go on from a snapshot of their own, trim
    /// twice, and die before they delete files. Also returns the history of the stalled runner.
    async fn slept() -> (tempfile::TempDir, JobStore, JobId, JobHistory, JobHistory) {
        let (dir, store, id, mut history) = job().await;
        for _ in 0..20 {
            commit(&store, id, &mut history, &[1]).await;
        }
        trim(&store, id, &mut history, 10).await;
        let slept = history.clone();
        let snapshot = history.next;
        commit(&store, id, &mut history, &[]).await;
        for _ in 0..2 {
            for _ in 0..20 {
                commit(&store, id, &mut history, &[snapshot]).await;
            }
            trim(&store, id, &mut history, 5).await;
            store.compact(id, &history).await.unwrap();
        }
        (dir, store, id, slept, history)
    }

    #[tokio::test]
    async fn loss_1_a_runner_that_stalled_before_its_checkpoint_deletes_no_live_files() {
        let (_dir, store, id, slept, history) = slept().await;
        let before = store.inventory(id).await.unwrap().files();
        // Newer checkpoints than its own are there: it deletes nothing.
        delete(&store, id, &slept).await.unwrap();
        let after = store.inventory(id).await.unwrap().files();
        assert_eq!(after, before + 1, "its checkpoint");
        assert_eq!(missing(&store, id, &history).await, Vec::<String>::new());
        // The one with the newest checkpoint deletes.
        delete(&store, id, &history).await.unwrap();
        let after = store.inventory(id).await.unwrap().files();
        assert!(after + 30 < before, "{before} files became {after}");
        assert_eq!(missing(&store, id, &history).await, Vec::<String>::new());
    }

    #[tokio::test]
    async fn a_runner_that_deletes_by_what_it_remembers_is_found() {
        let (_dir, store, id, slept, history) = slept().await;
        assert_eq!(missing(&store, id, &history).await, Vec::<String>::new());
        let mut passed = store.compact(id, &history).await.unwrap().unwrap();
        passed.batches.clone_from(&slept.batches);
        passed.packs.clone_from(&slept.packs);
        store.sweep(id, &passed).await.unwrap();
        assert_ne!(missing(&store, id, &history).await, Vec::<String>::new());
    }

    #[tokio::test]
    async fn readers_from_before_the_last_checkpoint_still_find_their_files() {
        let (_dir, store, id, mut history) = job().await;
        let mut read = history.clone();
        for _ in 0..5 {
            for _ in 0..8 {
                commit(&store, id, &mut history, &[1]).await;
            }
            trim(&store, id, &mut history, 3).await;
            delete(&store, id, &history).await.unwrap();
            assert_eq!(missing(&store, id, &read).await, Vec::<String>::new());
            read = history.clone();
        }
        let versions = store.inventory(id).await.unwrap().versions;
        assert!(versions.len() < 16, "{versions:?}");
    }
}
