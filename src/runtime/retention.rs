//! Sweeper of a job: while the job runs, it deletes batches that are no longer needed for a rewind, entries of the log that a checkpoint has
//! passed, and runs that have ended long ago.
//!
//! The work runs beside the batches; only the entry that trims the history is written between two of them. It may stop at any
//! step: the next sweep deletes the rest.

use std::collections::BTreeMap;

use futures::{Stream, StreamExt as _, TryStreamExt as _};
use tokio::task::JoinHandle;

use crate::core::jobs::log::sequence_of;
use crate::core::jobs::{
    BatchCommit, BatchVersion, Identity, JobHistory, LogEntry, Retention, is_older, is_sweep_due,
    oldest_to_stay,
};
use crate::core::runs::{GivenOut, PublishedBatches};
use crate::error::{Error, ErrorKind, Result};
use crate::runtime::failpoint;
use crate::runtime::runs::sweep::sweep_runs;
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
    rule: SweepRule,
    work: SweepWork,
    /// Time of the next attempt, in milliseconds since 1970 UTC.
    rests_until: i64,
}

/// How a job is swept.
#[derive(Debug, Clone, Copy)]
pub(super) struct SweepRule {
    /// How much of its past it keeps.
    pub(super) retention: Retention,
    /// How far behind the highest watermark the windows of its batches may end, of a job with windows ([`GivenOut::of_batch`]).
    pub(super) reach: Option<i64>,
}

/// Work that runs beside the batches.
enum SweepWork {
    None,
    /// Keeps what the batches that will be trimmed have set aside and published; returns the entry that trims the history.
    Packing(JoinHandle<Result<Option<LogEntry>>>),
    /// Writes a checkpoint and deletes files; returns the number of the checkpoint.
    Deleting(JoinHandle<Result<u64>>),
}

impl Sweeper {
    pub(super) fn new(store: &JobStore, id: JobId, job: &str, rule: SweepRule) -> Self {
        Self {
            store: store.clone(),
            id,
            job: job.to_owned(),
            rule,
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
                let work = async move { delete(&store, id, &kept, now).await };
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
        if now < self.rests_until || !is_sweep_due(history, self.rule.retention, now) {
            return;
        }
        let (store, id, rule) = (self.store.clone(), self.id, self.rule);
        let history = history.clone();
        let work = async move { pack(&store, id, &history, rule, now).await };
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

/// Packs the late rows and dead letters of the batches that will be trimmed (LOSS-1), and keeps where their rows are in the topic of
/// the sink. None if no batch is trimmed.
async fn pack(
    store: &JobStore,
    id: JobId,
    history: &JobHistory,
    rule: SweepRule,
    now: i64,
) -> Result<Option<LogEntry>> {
    let Some(oldest) = oldest_to_stay(history, rule.retention, now) else {
        return Ok(None);
    };
    let mut leaving = leaving_versions(store, id, history, oldest);
    let mut published = None;
    let mut packs = history.packs.clone();
    let mut open: Option<Pack> = None;
    while let Some(found) = leaving.try_next().await? {
        let of_job = match &mut published {
            None => published.insert(published_before(store, id, &found, rule).await?),
            Some(published) => published,
        };
        match &found.version {
            Some(version) => of_job.take_in_batch(&found.name, version, rule.reach),
            None => of_job.index.miss(GivenOut::AnyTime),
        }
        let Some(packed) = found.packed else { continue };
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
    if let Some(mut published) = published
        && !matches!(published.sink, Some(Identity::DeltaTable { .. }))
    {
        let last = history.batches.iter().rev().find(|of| of.batch < oldest);
        let last = last.map_or("", |last| last.version.as_str());
        published.go_on_from(last, settled_by(history, oldest));
        store.put_published(id, history.next, &published).await?;
    }
    Ok(Some(LogEntry::Trimmed {
        oldest,
        packs,
        at: now,
    }))
}

/// A version that will be trimmed.
struct LeavingVersion {
    name: String,
    /// None of one that a rewind has abandoned and that cannot be read.
    version: Option<BatchVersion>,
    /// Its late rows and dead letters, if it has any and was not abandoned.
    packed: Option<PackedBatch>,
}

/// The number of the first version that stays when the batches before `oldest` are trimmed.
fn settled_by(history: &JobHistory, oldest: u64) -> u64 {
    let first = history.batches.iter().find(|of| of.batch >= oldest);
    first
        .and_then(|first| sequence_of(&first.version))
        .unwrap_or(0)
}

/// The versions that are trimmed when the batches before `oldest` are, in order.
fn leaving_versions(
    store: &JobStore,
    id: JobId,
    history: &JobHistory,
    oldest: u64,
) -> impl Stream<Item = Result<LeavingVersion>> + Unpin + use<> {
    let batches = history.batches.iter();
    let batches = batches.map(|of| (of.version.as_str(), of));
    let batches: BTreeMap<&str, &BatchCommit> = batches.collect();
    // A subscription ends with its process, so nothing of its batches is kept.
    let settled = match store.is_ephemeral() {
        true => 0,
        false => settled_by(history, oldest),
    };
    let known = history.known().filter(|name| is_older(name, settled));
    let known = known.map(|name| (name.to_owned(), batches.get(name).copied().cloned()));
    let known: Vec<(String, Option<BatchCommit>)> = known.collect();
    let store = store.clone();
    futures::stream::iter(known)
        .map(move |(name, batch)| leaving(store.clone(), id, name, batch))
        .buffered(READS_AT_ONCE)
}

async fn leaving(
    store: JobStore,
    id: JobId,
    name: String,
    batch: Option<BatchCommit>,
) -> Result<LeavingVersion> {
    let version = store.version(id, &name).await;
    let Some(batch) = batch else {
        let version = match version {
            Ok(version) => Some(version),
            // The job does not need it.
            Err(error) if error.kind() == ErrorKind::Data => None,
            Err(error) => return Err(error),
        };
        return Ok(LeavingVersion {
            name,
            version,
            packed: None,
        });
    };
    let version = version?;
    let packed = set_aside(&store, id, &batch, &version).await?;
    Ok(LeavingVersion {
        name,
        version: Some(version),
        packed,
    })
}

/// What was published before the oldest version that there is.
async fn published_before(
    store: &JobStore,
    id: JobId,
    oldest: &LeavingVersion,
    rule: SweepRule,
) -> Result<PublishedBatches> {
    let mut published = store.published(id).await?.unwrap_or_default();
    if let Some(version) = &oldest.version {
        published.begin_at((&oldest.name, version), rule.reach);
    }
    Ok(published)
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

async fn set_aside(
    store: &JobStore,
    id: JobId,
    batch: &BatchCommit,
    version: &BatchVersion,
) -> Result<Option<PackedBatch>> {
    let name = batch.version.as_str();
    let late = match version.late_rows {
        0 => None,
        _ => Some(store.late(id, name, version).await?),
    };
    let dead_letters = store.dead_letters(id, name, version).await?;
    let is_empty = late.is_none() && dead_letters.is_empty();
    Ok((!is_empty).then_some(PackedBatch {
        batch: batch.batch,
        at: Some(batch.at),
        dead_letters,
        late,
    }))
}

/// Writes a checkpoint and deletes the files that the checkpoint before it has passed: so a reader that has just read the log
/// still finds its files.
///
/// This process may have stalled since it read `history`, and another one may have taken the job over, written checkpoints and
/// swept. So the checkpoints that exist now decide which files are deleted.
async fn delete(store: &JobStore, id: JobId, history: &JobHistory, now: i64) -> Result<u64> {
    let passed = store.compact(id, history).await?;
    failpoint::reach("checkpointed");
    if let Some(passed) = passed {
        let files = store.sweep(id, &passed).await?;
        tracing::debug!(%id, files, "old batches swept");
    }
    // Subscriptions and runs themselves have no runs beside them.
    if !store.is_ephemeral() && history.run.is_none() {
        sweep_runs(store, now).await;
    }
    failpoint::reach("swept");
    Ok(history.next)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::archive::OffsetRange;
    use crate::core::jobs::{
        AGGREGATE, DeadLetter, JobTime, OperatorState, SourceProgress, StateFile,
    };
    use crate::store::{DataDir, crc32};

    fn committed_at(batch: u64) -> i64 {
        i64::try_from(10 * batch).unwrap()
    }

    fn name_of(number: u64) -> String {
        format!("{number:010}-v")
    }

    const HOUR: i64 = 3_600_000_000;

    /// The watermark after the batch of a log entry.
    fn watermark_of(sequence: u64) -> i64 {
        i64::try_from(sequence).unwrap() * HOUR
    }

    /// Where its rows are.
    fn published_by(sequence: u64) -> SourceProgress {
        let start = 10 * i64::try_from(sequence).unwrap();
        SourceProgress {
            start,
            end: start + 9,
        }
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
            parent: history.last().map(|last| last.version.clone()),
            published: [(0, published_by(sequence))].into(),
            time: Some(JobTime {
                watermark: Some(watermark_of(sequence)),
                closed_by: Some(watermark_of(sequence)),
                ..JobTime::default()
            }),
            ..BatchVersion::default()
        };
        store.put_state(id, &name, b"x".to_vec()).await.unwrap();
        store.stage(id, &name, &version).await.unwrap();
        let entry = LogEntry::Committed {
            batch,
            version: name,
            at: committed_at(batch),
        };
        assert!(store.append_next(id, history, &entry).await.unwrap());
    }

    async fn trim(store: &JobStore, id: JobId, history: &mut JobHistory, versions: u64) {
        let retention = Retention {
            versions,
            age: i64::MAX,
        };
        let rule = SweepRule {
            retention,
            reach: Some(0),
        };
        let trimmed = pack(store, id, history, rule, 0).await.unwrap();
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
        delete(&store, id, &slept, 0).await.unwrap();
        let after = store.inventory(id).await.unwrap().files();
        assert_eq!(after, before + 1, "its checkpoint");
        assert_eq!(missing(&store, id, &history).await, Vec::<String>::new());
        // The one with the newest checkpoint deletes.
        delete(&store, id, &history, 0).await.unwrap();
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
            delete(&store, id, &history, 0).await.unwrap();
            assert_eq!(missing(&store, id, &read).await, Vec::<String>::new());
            read = history.clone();
        }
        let versions = store.inventory(id).await.unwrap().versions;
        assert!(versions.len() < 16, "{versions:?}");
    }

    #[tokio::test]
    async fn packed_batches_say_when_they_were_committed() {
        let (_dir, store, id, mut history) = job().await;
        for _ in 0..8 {
            commit(&store, id, &mut history, &[]).await;
        }
        trim(&store, id, &mut history, 3).await;
        let pack = store.pack(id, &history.packs[0]).await.unwrap();
        let times: Vec<(u64, Option<i64>)> =
            pack.batches.iter().map(|of| (of.batch, of.at)).collect();
        assert_eq!(times[0], (1, Some(committed_at(1))));
        let is_told = |(batch, at): &(u64, Option<i64>)| *at == Some(committed_at(*batch));
        assert!(times.iter().all(is_told), "{times:?}");
    }

    #[tokio::test]
    async fn what_trimmed_batches_have_published_is_known() {
        let (_dir, store, id, mut history) = job().await;
        let mut committed = Vec::new();
        for round in 0..4 {
            for _ in 0..8 {
                committed.push(history.next);
                commit(&store, id, &mut history, &[]).await;
            }
            if round == 1 {
                // Batches that are abandoned stay in the topic.
                let to = history.next_batch() - 4;
                let rewound = LogEntry::Rewound { to, at: 0 };
                assert!(store.append_next(id, &mut history, &rewound).await.unwrap());
                commit(&store, id, &mut history, &[]).await;
            }
            trim(&store, id, &mut history, 3).await;
            delete(&store, id, &history, 0).await.unwrap();
        }
        let published = store.published(id).await.unwrap().unwrap();
        assert_eq!(
            (published.up_to, published.index.missing()),
            (history.settled, None)
        );
        let trimmed = committed.iter().filter(|of| **of < history.settled);
        for sequence in trimmed {
            let end = watermark_of(*sequence) - 1;
            let offsets = published.index.offsets_of(&(end..=end));
            let SourceProgress { start, end } = published_by(*sequence);
            let own = OffsetRange::new(start, end);
            assert!(offsets[&0].contains(own), "{sequence}: {offsets:?}");
        }
        let names = store.inventory(id).await.unwrap().published;
        assert!((1..=2).contains(&names.len()), "{names:?}");
    }
}
