//! What a job leaves behind is swept while it runs: batches that it can no longer go back to, and the entries of its log that
//! a checkpoint has passed.
//!
//! The work is done beside the batches; only the entry that trims the history is written between two of them. It may end at
//! any step: what is left over is swept the next time.

use futures::{StreamExt as _, TryStreamExt as _};
use tokio::task::JoinHandle;

use crate::core::jobs::{Committed, Entry, JobHistory, Retention, is_sweep_due, oldest_to_stay};
use crate::error::{Error, Result};
use crate::runtime::failpoint;
use crate::state::{JobId, JobStore, Pack, Packed};

/// A pack is made larger up to about this size; then another one is begun.
const PACK_BYTES: usize = 8 << 20;
/// Versions that are read at the same time.
const READS_AT_ONCE: usize = 8;
/// After a fault of the store sweeping can wait, in milliseconds.
const PAUSE: i64 = 60_000;

/// The sweeping of one job, as long as its runner owns it.
pub(super) struct Sweeper {
    store: JobStore,
    id: JobId,
    job: String,
    retention: Retention,
    work: Work,
    /// Not before this, in milliseconds since 1970 UTC.
    rests_until: i64,
}

/// What is done beside the batches.
enum Work {
    None,
    /// What the batches that leave have set aside is packed; gives the entry that trims the history.
    Packing(JoinHandle<Result<Option<Entry>>>),
    /// A checkpoint is written and files are deleted; gives where the checkpoint stands.
    Deleting(JoinHandle<Result<u64>>),
}

impl Sweeper {
    pub(super) fn new(store: &JobStore, id: JobId, job: &str, retention: Retention) -> Self {
        Self {
            store: store.clone(),
            id,
            job: job.to_owned(),
            retention,
            work: Work::None,
            rests_until: i64::MIN,
        }
    }

    /// Goes on with what is due at `now`, in milliseconds since 1970 UTC, without waiting for it.
    ///
    /// # Errors
    ///
    /// The log cannot be written to.
    pub(super) async fn go_on(&mut self, history: &mut JobHistory, now: i64) -> Result<()> {
        let is_done = match &self.work {
            Work::None => true,
            Work::Packing(work) => work.is_finished(),
            Work::Deleting(work) => work.is_finished(),
        };
        if is_done {
            self.step(history, now).await?;
        }
        Ok(())
    }

    /// The run ends: what is due is done now, since there may be no later.
    ///
    /// # Errors
    ///
    /// The log cannot be written to.
    pub(super) async fn finish(&mut self, history: &mut JobHistory, now: i64) -> Result<()> {
        loop {
            self.step(history, now).await?;
            if matches!(self.work, Work::None) {
                return Ok(());
            }
        }
    }

    /// Waits for the work in hand and begins the next.
    async fn step(&mut self, history: &mut JobHistory, now: i64) -> Result<()> {
        match std::mem::replace(&mut self.work, Work::None) {
            Work::None => self.begin(history, now),
            Work::Packing(work) => {
                let Some(packed) = self.outcome(work, now).await else {
                    return Ok(());
                };
                if let Some(trimmed) = packed {
                    if !self.store.append(self.id, history.next, &trimmed).await? {
                        // Somebody else's entry came first: the batches may be others now.
                        return Ok(());
                    }
                    history.apply(&trimmed);
                    failpoint::reach("trimmed");
                }
                let (store, id, kept) = (self.store.clone(), self.id, history.clone());
                let work = async move { delete(&store, id, &kept).await };
                self.work = Work::Deleting(tokio::spawn(work));
            }
            Work::Deleting(work) => {
                if let Some(checkpoint) = self.outcome(work, now).await {
                    history.checkpoint = checkpoint;
                }
            }
        }
        Ok(())
    }

    fn begin(&mut self, history: &JobHistory, now: i64) {
        if now < self.rests_until || !is_sweep_due(history, self.retention, now) {
            return;
        }
        let (store, id, retention) = (self.store.clone(), self.id, self.retention);
        let history = history.clone();
        let work = async move { pack(&store, id, &history, retention, now).await };
        self.work = Work::Packing(tokio::spawn(work));
    }

    /// What came of work; a fault is told and sweeping rests.
    async fn outcome<T>(&mut self, work: JoinHandle<Result<T>>, now: i64) -> Option<T> {
        let done = work.await.unwrap_or_else(|error| {
            Err(Error::internal(format!("sweeping was broken off: {error}")))
        });
        done.inspect_err(|error| {
            tracing::warn!(job = self.job, %error, "old batches are not swept; trying again later");
            self.rests_until = now.saturating_add(PAUSE);
        })
        .ok()
    }
}

/// Packs what the batches that leave have set aside (LOSS-1). None if no batch leaves.
async fn pack(
    store: &JobStore,
    id: JobId,
    history: &JobHistory,
    retention: Retention,
    now: i64,
) -> Result<Option<Entry>> {
    let Some(oldest) = oldest_to_stay(history, retention, now) else {
        return Ok(None);
    };
    // Nobody asks for what a job without a tomorrow has set aside.
    let keeps = |of: &Committed| of.batch < oldest && !store.is_fleeting();
    let leaving: Vec<Committed> = history.batches.iter().cloned().take_while(keeps).collect();
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
    Ok(Some(Entry::Trimmed {
        oldest,
        packs,
        at: now,
    }))
}

/// The last pack if it is small, so that there are not many of them: it is written anew with more in it.
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

async fn set_aside(store: JobStore, id: JobId, batch: Committed) -> Result<Option<Packed>> {
    let version = store.version(id, &batch.version).await?;
    let late = match version.late_rows {
        0 => None,
        _ => Some(store.late(id, &batch.version, &version).await?),
    };
    let is_empty = late.is_none() && version.dead_letters.is_empty();
    Ok((!is_empty).then_some(Packed {
        batch: batch.batch,
        dead_letters: version.dead_letters,
        late,
    }))
}

/// Writes a checkpoint and deletes what the one before it has passed: whoever read the log just now still finds its files.
///
/// This process may have slept since it read `history`, and another one may have taken the job over, written checkpoints and
/// swept. So what is deleted follows from the checkpoints that are there now.
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
