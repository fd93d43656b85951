//! Simulated job with the table as sink. Its log is in memory and does not fail; its runners take the job over from
//! each other, die, and go back to earlier batches.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use datafusion::prelude::SessionContext;

use super::{ROWS, rows};
use crate::error::Result;
use crate::tables::delta::{Application, DeltaTableHandle};

const ID: &str = "anabranch/simulated";
const WITNESS: &str = "anabranch/simulated/rows";

/// The ids of rows of batches begin here; those of INSERTs are smaller.
pub(super) const BATCHES: i64 = 900_000;

/// A batch that was staged: the first id of its rows, and its files.
#[derive(Debug, Clone)]
pub(super) struct Batch {
    pub(super) first: i64,
    files: Vec<String>,
}

/// The job's log.
#[derive(Debug, Default)]
pub(super) struct Job {
    sequence: i64,
    /// The number of the newest takeover.
    owner: i64,
    staged: BTreeMap<i64, Batch>,
    pub(super) committed: Vec<Batch>,
    /// Batches that a rewind has abandoned.
    pub(super) abandoned: Vec<Batch>,
    /// Files of abandoned batches that are still to be taken out of the table.
    pub(super) take_back: Vec<String>,
}

impl Job {
    fn next(&mut self) -> i64 {
        self.sequence += 1;
        self.sequence
    }

    /// The first id of the rows of the next batch. After a rewind a batch of the same number has other ids.
    fn next_rows(&self) -> i64 {
        let batch = self.committed.len() + 1_000 * self.abandoned.len();
        BATCHES + batch as i64 * ROWS
    }
}

/// A runner of the job. It may have lost the job without knowing.
#[derive(Debug, Default)]
pub(super) struct Runner {
    /// If it has the job: the number of its takeover, the last number that it has written to the table, and the version
    /// up to which it has read the log.
    owns: Option<(i64, i64, u64)>,
}

impl Runner {
    /// Takes the job over; or if it has the job, goes back by a batch or runs one. After an error it takes the job over
    /// again.
    pub(super) async fn step(
        &mut self,
        handle: &DeltaTableHandle,
        job: &Arc<Mutex<Job>>,
        rewinds: bool,
        dies: bool,
    ) {
        let owner = job.lock().unwrap().owner;
        let done = match self.owns {
            Some((number, owned, checked)) if number == owner => {
                if rewinds && !job.lock().unwrap().committed.is_empty() {
                    self.rewind(handle, job, number, owned).await
                } else {
                    let application = application(owned, owned, checked);
                    self.batch(handle, job, number, application, dies).await
                }
            }
            _ => self.take_over(handle, job).await,
        };
        if done.is_err() {
            self.owns = None;
        }
    }

    /// Takes the table over, records a batch that is only in the table in the job's log, and takes back the files that
    /// are to be taken back.
    pub(super) async fn take_over(
        &mut self,
        handle: &DeltaTableHandle,
        job: &Arc<Mutex<Job>>,
    ) -> Result<()> {
        self.owns = None;
        let number = {
            let mut job = job.lock().unwrap();
            job.owner = job.next();
            job.owner
        };
        let checked = handle.take_over(ID, number).await?;
        let witness = handle.transaction_version(WITNESS).await?;
        let take_back = {
            let mut job = job.lock().unwrap();
            if job.owner != number {
                return Ok(());
            }
            let in_table = witness.and_then(|witness| job.staged.remove(&witness));
            job.staged.clear();
            // If the log has the batch already, it is not among those that are staged.
            job.committed.extend(in_table);
            job.take_back.clone()
        };
        if !take_back.is_empty() {
            let application = application(number, number, checked);
            handle.remove_files(&take_back, &application).await?;
            job.lock().unwrap().take_back.clear();
        }
        self.owns = Some((number, number, checked));
        Ok(())
    }

    async fn batch(
        &mut self,
        handle: &DeltaTableHandle,
        job: &Arc<Mutex<Job>>,
        number: i64,
        mut application: Application,
        dies: bool,
    ) -> Result<()> {
        let first = job.lock().unwrap().next_rows();
        let context = SessionContext::new().task_ctx();
        let prepared = handle.prepare(rows(first), context).await?;
        let sequence = {
            let mut job = job.lock().unwrap();
            if job.owner != number {
                self.owns = None;
                return Ok(());
            }
            let files = prepared.files();
            let sequence = job.next();
            job.staged.insert(sequence, Batch { first, files });
            sequence
        };
        application.version = sequence;
        let committed = handle.commit_prepared(prepared, &application).await?;
        let mut job = job.lock().unwrap();
        if dies || job.owner != number {
            // The runner that takes the job over next finds the batch by its witness.
            self.owns = None;
            return Ok(());
        }
        let batch = job.staged.remove(&sequence);
        job.committed.extend(batch);
        self.owns = Some((number, sequence, committed.version));
        Ok(())
    }

    async fn rewind(
        &mut self,
        handle: &DeltaTableHandle,
        job: &Arc<Mutex<Job>>,
        number: i64,
        owned: i64,
    ) -> Result<()> {
        let files = {
            let job = job.lock().unwrap();
            job.committed.last().map(|last| last.files.clone())
        };
        let files = files.unwrap_or_default();
        // Files that other statements have rewritten cannot be taken back: the rewind is given up.
        if !handle.missing_files(&files).await?.is_empty() {
            return Ok(());
        }
        {
            let mut job = job.lock().unwrap();
            if job.owner != number {
                self.owns = None;
                return Ok(());
            }
            let last = job.committed.pop();
            job.abandoned.extend(last);
            job.take_back = files.clone();
        }
        let application = application(owned, owned, 0);
        handle.remove_files(&files, &application).await?;
        let mut job = job.lock().unwrap();
        if job.owner == number {
            job.take_back.clear();
        }
        Ok(())
    }
}

fn application(owned: i64, version: i64, checked: u64) -> Application {
    Application {
        id: ID.into(),
        owned,
        version,
        witness: WITNESS.into(),
        checked,
    }
}
