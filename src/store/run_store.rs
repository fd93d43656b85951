//! Reprocessing runs in a data directory: a store of jobs of its own, in the folder `runs`. A run is a job by the name of its run id;
//! its log has events of runs besides those of jobs, each of its chunks has a version, and its spec lies beside its log. So takeover,
//! fencing, staging and recovery of runs are those of jobs.

use std::collections::BTreeMap;

use bytes::Bytes;
use futures::{StreamExt as _, TryStreamExt as _};

use crate::core::jobs::{
    BatchCommit, BatchVersion, ChangeCounts, ChangesFile, ChunkExtent, ComparedChunk, JobHistory,
    JobPhase, LeftGroups, LogEntry, RunEvent, SourceProgress,
};
use crate::core::runs::{ApplyDecision, RunSpec, RunState, chunk_extent, decide_apply, run_state};
use crate::error::{Error, Result};
use crate::store::data_dir::DataDir;
use crate::store::job_store::{FoundJob, JobId, JobStore, READS_AT_ONCE};

/// The folder of runs in a data directory.
const FOLDER: &str = "runs";

/// The runs of a data directory.
#[derive(Debug, Clone)]
pub struct RunStore {
    jobs: JobStore,
}

/// A run as it is stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredRun {
    /// Its id in the store.
    pub id: JobId,
    /// What it rests on.
    pub spec: RunSpec,
    /// What its log says.
    pub history: JobHistory,
}

impl StoredRun {
    /// How often an entry of a run is decided again because another process has written one.
    pub const ATTEMPTS: usize = 20;

    /// How far it has come.
    pub fn state(&self) -> RunState {
        run_state(&self.history)
    }

    /// The error after so many attempts.
    pub fn busy(&self) -> Error {
        Error::unavailable(format!(
            "other processes write the log of run '{}' all the time",
            self.spec.run_id
        ))
    }
}

/// Answer to the creation of a run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RunCreation {
    /// It is created.
    Created(StoredRun),
    /// There is a run of its run id: this one. Whether it is the same run, [`crate::core::runs::same_run()`] says.
    Exists(StoredRun),
}

/// A run, or the error if it cannot be read.
#[derive(Debug)]
pub struct FoundRun {
    /// Its run id.
    pub run_id: String,
    /// The run.
    pub found: Result<StoredRun>,
}

/// A chunk that is in the sink.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CommittedChunk {
    /// Its number; the first is 1.
    pub number: u64,
    /// What it covers.
    pub extent: ChunkExtent,
    /// Rows that were read.
    pub rows_in: u64,
    /// Rows that the sink acknowledged.
    pub rows_out: u64,
    /// Where they are in the partitions of a topic.
    pub published: BTreeMap<i32, SourceProgress>,
    /// The windows and sessions that it has left out.
    pub left: LeftGroups,
    /// Its rows by kind, if they were compared with the published ones when it was written.
    pub compared: Option<ChangeCounts>,
    /// When, in milliseconds since 1970 UTC.
    pub at: i64,
}

impl RunStore {
    /// The runs of `dir`.
    pub fn new(dir: &DataDir) -> Self {
        Self {
            jobs: JobStore::new(dir.within(FOLDER)),
        }
    }

    /// The runs of the data directory that has these jobs.
    pub fn beside(jobs: &JobStore) -> Self {
        Self::new(jobs.dir())
    }

    /// Logs, versions and heartbeats of the runs, for the runner: they are those of jobs.
    pub fn jobs(&self) -> &JobStore {
        &self.jobs
    }

    /// Creates a run, unless there is one of its run id: of several processes, one creates it. `at` is the time, in milliseconds
    /// since 1970 UTC.
    ///
    /// # Errors
    ///
    /// The store does not answer: then the run may be there or not, and the same call says which. The run that exists cannot be read.
    pub async fn create(&self, spec: RunSpec, at: i64) -> Result<RunCreation> {
        let created = LogEntry::Created {
            name: spec.run_id.clone(),
            text: spec.text.clone(),
            tables: spec.tables.clone(),
            at,
        };
        match self.jobs.create_run(&created, &spec).await? {
            Some(id) => {
                let history = self.jobs.history(id).await?;
                Ok(RunCreation::Created(StoredRun { id, spec, history }))
            }
            None => match self.find(&spec.run_id).await? {
                Some(run) => Ok(RunCreation::Exists(run)),
                None => Err(Error::unavailable(format!(
                    "run '{}' was there, and is not there any more",
                    spec.run_id
                ))),
            },
        }
    }

    /// The run of a run id; none if there is none.
    ///
    /// # Errors
    ///
    /// The store does not answer, or the run cannot be read.
    pub async fn find(&self, run_id: &str) -> Result<Option<StoredRun>> {
        let Some((id, history)) = self.jobs.find(run_id).await? else {
            return Ok(None);
        };
        let spec = self.jobs.run_spec(id).await?;
        Ok(Some(StoredRun { id, spec, history }))
    }

    /// All runs by run id. A run that cannot be read does not hide the others.
    ///
    /// # Errors
    ///
    /// The store does not answer.
    pub async fn all(&self) -> Result<Vec<FoundRun>> {
        self.found(self.run_ids().await?).await
    }

    /// The ids of all runs.
    ///
    /// # Errors
    ///
    /// The store does not answer.
    pub async fn run_ids(&self) -> Result<Vec<String>> {
        self.jobs.names().await
    }

    /// The runs of these ids; ids without a run are left out.
    ///
    /// # Errors
    ///
    /// The store does not answer.
    pub async fn found(&self, run_ids: Vec<String>) -> Result<Vec<FoundRun>> {
        let found = self.jobs.found(run_ids).await?;
        let runs = futures::stream::iter(found).map(|FoundJob { name, found }| async move {
            let found = match found {
                Ok((id, history)) => {
                    let spec = self.jobs.run_spec(id).await;
                    spec.map(|spec| StoredRun { id, spec, history })
                }
                Err(error) => Err(error),
            };
            match found {
                Err(error) if error.may_pass() => Err(error),
                found => Ok(FoundRun {
                    run_id: name,
                    found,
                }),
            }
        });
        runs.buffered(READS_AT_ONCE).try_collect().await
    }

    /// Writes the next entry of a run and takes it in; false if another process has written one. Then `run` stays as it is.
    ///
    /// # Errors
    ///
    /// The store does not answer: the entry may be there or not.
    pub async fn append(&self, run: &mut StoredRun, event: RunEvent, at: i64) -> Result<bool> {
        let entry = LogEntry::Run { event, at };
        let history = &mut run.history;
        self.jobs.append_next(run.id, history, &entry).await
    }

    /// `APPLY RUN`: writes what it decides by the newest state of the log. `is_at_once`: the run was planned by the same statement.
    ///
    /// # Errors
    ///
    /// The store does not answer.
    pub async fn apply(
        &self,
        run: &mut StoredRun,
        is_at_once: bool,
        at: i64,
    ) -> Result<ApplyDecision> {
        for _ in 0..StoredRun::ATTEMPTS {
            let decision = decide_apply(&run.state(), is_at_once);
            let entry = match decision {
                ApplyDecision::Approve => LogEntry::Run {
                    event: RunEvent::Approved,
                    at,
                },
                ApplyDecision::Resume => LogEntry::Resumed {
                    skipping_lost: false,
                    lost: Default::default(),
                    accepting: Default::default(),
                    assuming: None,
                    at,
                },
                ApplyDecision::Continue | ApplyDecision::Complete | ApplyDecision::Refuse(_) => {
                    return Ok(decision);
                }
            };
            let history = &mut run.history;
            if self.jobs.append_next(run.id, history, &entry).await? {
                return Ok(decision);
            }
            run.history = self.jobs.history(run.id).await?;
        }
        Err(run.busy())
    }

    /// Writes the rows of a chunk that differ from the published ones, before the event that names them.
    ///
    /// # Errors
    ///
    /// The store does not answer.
    pub async fn put_changes(
        &self,
        run: &StoredRun,
        rows: u64,
        bytes: Vec<u8>,
    ) -> Result<ChangesFile> {
        let number = run.history.next;
        self.jobs.put_run_changes(run.id, number, rows, bytes).await
    }

    /// Reads the rows of a chunk that differ from the published ones.
    ///
    /// # Errors
    ///
    /// They are missing or damaged, or the store does not answer.
    pub async fn changes(&self, run: &StoredRun, file: &ChangesFile) -> Result<Bytes> {
        self.jobs.run_changes(run.id, file).await
    }

    /// Whether a sweep has let go the rows of a chunk that differ since the log of `run` was read, which names them.
    ///
    /// # Errors
    ///
    /// The store does not answer, or the log cannot be read.
    pub async fn is_swept(&self, run: &StoredRun, chunk: &ComparedChunk) -> Result<bool> {
        let now = self.jobs.history(run.id).await?;
        let mut compared = now.run.iter().flat_map(|run| &run.compared);
        let is_named = compared.any(|now| now.changes == chunk.changes);
        Ok(now.phase == JobPhase::Dropped || !is_named)
    }

    /// The chunks that are in the sink, in order.
    ///
    /// # Errors
    ///
    /// A version cannot be read, or is not one of such a run.
    pub async fn chunks(&self, run: &StoredRun) -> Result<Vec<CommittedChunk>> {
        let batches = &run.history.batches;
        let names = batches.iter().map(|batch| batch.version.clone()).collect();
        let versions: Vec<BatchVersion> = self.jobs.versions(run.id, names).try_collect().await?;
        let chunk = |(batch, version): (&BatchCommit, BatchVersion)| {
            let extent = chunk_extent(&run.spec.emission, &version).ok_or_else(|| {
                Error::data(format!(
                    "version {} of run '{}' does not say which chunk it is",
                    batch.version, run.spec.run_id
                ))
            })?;
            Ok(CommittedChunk {
                number: batch.batch,
                extent,
                rows_in: version.rows_in,
                rows_out: version.rows_out,
                published: version.published,
                left: version.left,
                compared: version.compared,
                at: batch.at,
            })
        };
        batches.iter().zip(versions).map(chunk).collect()
    }

    /// Lets a run go that has ended: all of it if no chunk of it is in the sink, or if nothing `needs_rows` of it; otherwise only the rows
    /// that differed, since its chunks say which rows of the sink are its own. If this process stops half-way, the next call does the rest.
    ///
    /// # Errors
    ///
    /// The store does not answer.
    pub async fn sweep(&self, run: &mut StoredRun, needs_rows: bool, at: i64) -> Result<()> {
        if !run.history.is_over() {
            return Ok(());
        }
        if !needs_rows || run.history.batches.is_empty() {
            let dropped = LogEntry::Dropped { at };
            let history = &mut run.history;
            if self.jobs.append_next(run.id, history, &dropped).await? {
                self.jobs.forget(&run.spec.run_id, run.id).await?;
                self.jobs.sweep_dropped().await?;
            }
            return Ok(());
        }
        let mut compared = run.history.run.iter().flat_map(|run| &run.compared);
        if compared.any(|chunk| chunk.changes.is_some())
            && !self.append(run, RunEvent::Swept, at).await?
        {
            return Ok(());
        }
        self.jobs.delete_run_changes(run.id).await
    }
}

#[cfg(test)]
#[path = "run_store_tests.rs"]
mod tests;
