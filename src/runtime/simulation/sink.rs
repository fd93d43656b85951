//! The simulated sink: a topic with transactions whose witness is the name of a version, or a table whose witness is a number.
//!
//! Only the process that was the last to take the sink over can commit. If the answer to a commit gets lost, the commit may be
//! done, or it is done later, before another process takes the sink over, or never.

use std::collections::BTreeMap;
use std::time::Duration;

use async_trait::async_trait;
use datafusion::arrow::array::{Array, AsArray, RecordBatch};
use datafusion::arrow::compute::cast;
use datafusion::arrow::datatypes::{DataType, Int64Type};
use datafusion::physical_plan::collect;

use super::world::Process;
use crate::core::jobs::recovery::BEGINNING;
use crate::core::jobs::{BatchVersion, Identity, JobHistory, SourceProgress};
use crate::error::{Error, ErrorKind, Result};
use crate::runtime::sink::{JobLog, JobSink, OpenSink, PendingRows, SinkReport, Witness, own};
use crate::runtime::sinks::numbered;
use crate::streaming::BatchPlan;

/// A row of the sink, with each column as a number.
pub(super) type OutRow = Vec<Option<i64>>;

/// The rows that a commit has made visible.
#[derive(Debug, Clone, Default)]
pub(super) struct Commit {
    pub(super) witness: String,
    /// Of a table: the file with the rows.
    pub(super) file: String,
    pub(super) rows: Vec<OutRow>,
    pub(super) withdrawn: Vec<OutRow>,
}

/// The sink itself: it outlives processes.
#[derive(Debug, Default)]
pub(super) struct Sink {
    pub(super) is_table: bool,
    /// How long it takes to write a row.
    pub(super) row_takes: Duration,
    /// How long a transaction may be open; no limit if zero.
    pub(super) timeout: Duration,
    pub(super) witness: Option<String>,
    /// All commits there ever were, in order.
    pub(super) commits: Vec<Commit>,
    /// Files that were taken out of the table.
    pub(super) taken_back: Vec<String>,
    /// How often the sink was deleted and created again.
    pub(super) recreated: u64,
    /// It was created again, and the user has not accepted the new one yet.
    pub(super) is_unexpected: bool,
    /// How many of the commits were to sinks that were deleted since.
    pub(super) gone: usize,
    /// A batch was committed to a new sink that the user had not accepted: a fault.
    pub(super) was_filled_on: bool,
    owner: u64,
    files: u64,
    number: Option<i64>,
    in_flight: Option<Commit>,
    failures: u64,
}

impl Sink {
    pub(super) fn new(is_table: bool, row_takes: Duration, timeout: Duration) -> Self {
        Self {
            is_table,
            row_takes,
            timeout,
            ..Self::default()
        }
    }

    /// The sink is deleted and created again.
    pub(super) fn recreate(&mut self) {
        self.recreated += 1;
        self.gone = self.commits.len();
        // A job that has committed nothing cannot tell the new sink from the old one.
        self.is_unexpected = !self.commits.is_empty();
        self.witness = None;
        self.number = None;
        self.in_flight = None;
    }

    fn identity(&self, hides: bool) -> Identity {
        Identity::Topic {
            topic: "out".to_owned(),
            cluster: Some("world".to_owned()),
            id: (!hides).then(|| self.recreated.to_string()),
        }
    }

    fn apply(&mut self, commit: Commit) {
        self.was_filled_on |= self.is_unexpected;
        self.witness = Some(commit.witness.clone());
        self.number = commit.witness.split('-').next().unwrap().parse().ok();
        self.commits.push(commit);
    }
}

/// A process that has taken the sink over.
#[derive(Debug, Clone)]
struct OwnedSink {
    process: Process,
    owner: u64,
    /// The number of the last commit when the sink was taken over.
    number: Option<i64>,
}

/// Rows that are written and not committed: in an open transaction, or in a file that is not in the table yet.
#[derive(Debug, Clone, Default)]
struct UncommittedRows {
    commit: Commit,
    began: Duration,
    /// How often the sink had been deleted when they were written.
    sink: u64,
}

impl PendingRows for UncommittedRows {
    fn written(&self) -> SinkReport {
        // The file that a commit adds to a table; none for a topic.
        let file = &self.commit.file;
        let files = (!file.is_empty()).then(|| file.clone());
        SinkReport {
            rows: self.commit.rows.len() as u64,
            files: files.into_iter().collect(),
            ..SinkReport::default()
        }
    }
}

/// The sink as a process sees it that has not taken it over.
#[derive(Debug, Clone)]
pub(super) struct SimulatedSink {
    process: Process,
}

impl SimulatedSink {
    pub(super) fn new(process: Process) -> Self {
        Self { process }
    }
}

#[async_trait]
impl OpenSink for SimulatedSink {
    async fn identity_before(&self) -> Result<Option<Identity>> {
        Ok(None)
    }

    async fn witness(&self, log: JobLog<'_>) -> Result<Witness> {
        let (is_table, number, version) = {
            let sink = &self.process.world.lock().sink;
            (sink.is_table, sink.number, sink.witness.clone())
        };
        Ok(match is_table {
            true => numbered::witness_of(number, log),
            false => named(version),
        })
    }

    /// From now on no other process can commit.
    async fn take_over(self: Box<Self>, _: u64) -> Result<Box<dyn JobSink>> {
        let process = self.process;
        process.step().await;
        fail(&process, "fence")?;
        let (owner, number) = {
            let mut state = process.world.lock();
            // A commit whose answer got lost is done now, or never.
            if let Some(commit) = state.sink.in_flight.take()
                && state.random.chance(500)
            {
                state.note(format_args!("the sink has committed {}", commit.witness));
                state.sink.apply(commit);
            }
            state.sink.owner += 1;
            let owner = state.sink.owner;
            state.note(format_args!(
                "process {}: has fenced the sink",
                process.name
            ));
            (owner, state.sink.number)
        };
        process.step().await;
        Ok(Box::new(OwnedSink {
            process,
            owner,
            number,
        }))
    }
}

#[async_trait]
impl JobSink for OwnedSink {
    async fn identity(&self) -> Result<Option<Identity>> {
        self.process.step().await;
        fail(&self.process, "the sink's id")?;
        let identity = {
            let state = self.process.world.lock();
            state.sink.identity(state.hidden.identities)
        };
        self.process.step().await;
        Ok(Some(identity))
    }

    async fn witness(&self, log: JobLog<'_>) -> Result<Witness> {
        // As a table does that looks whether it has the files of the version.
        numbered::files_of(self.number, log).await;
        if self.is_table() {
            return Ok(numbered::witness_of(self.number, log));
        }
        self.process.step().await;
        fail(&self.process, "witness")?;
        let witness = self.process.world.lock().sink.witness.clone();
        self.process
            .note(format_args!("the witness is {witness:?}"));
        self.process.step().await;
        Ok(named(witness))
    }

    /// Writes the witness to a topic again.
    async fn mark(&self, history: &JobHistory) -> Result<()> {
        if self.is_table() {
            return Ok(());
        }
        let last = history.last().map(|last| last.version.as_str());
        let witness = last.unwrap_or(BEGINNING);
        self.process.step().await;
        fail(&self.process, "mark")?;
        {
            let mut state = self.process.world.lock();
            self.check(state.sink.owner)?;
            state.sink.witness = Some(witness.to_owned());
        }
        self.process.step().await;
        fail(&self.process, "the answer to mark")
    }

    fn loses_old_witness(&self) -> bool {
        !self.is_table()
    }

    fn timeout(&self) -> Option<Duration> {
        let sink = &self.process.world.lock().sink;
        (!sink.is_table && !sink.timeout.is_zero()).then_some(sink.timeout)
    }

    /// Takes the files of abandoned batches out of a table.
    async fn take_back(&self, files: &[String]) -> Result<()> {
        if !self.is_table() || files.is_empty() {
            return Ok(());
        }
        self.process.step().await;
        fail(&self.process, "take back")?;
        {
            let mut state = self.process.world.lock();
            self.check(state.sink.owner)?;
            state.note(format_args!("the table loses {files:?}"));
            state.sink.taken_back.extend_from_slice(files);
        }
        self.process.step().await;
        fail(&self.process, "the answer to take back")
    }

    fn abandoned_rows(&self, _: &BTreeMap<i32, SourceProgress>) -> String {
        String::new()
    }

    async fn write(
        &self,
        withdrawn: Option<&RecordBatch>,
        batch: &BatchPlan,
    ) -> Result<Box<dyn PendingRows>> {
        let (began, sink) = {
            let state = self.process.world.lock();
            (state.now, state.sink.recreated)
        };
        self.process.step().await;
        fail(&self.process, "write")?;
        let batches = collect(batch.plan.clone(), batch.context.clone()).await?;
        let rows: Vec<OutRow> = batches.iter().flat_map(out_rows).collect();
        let takes = self.process.world.lock().sink.row_takes;
        if !takes.is_zero() && !rows.is_empty() {
            let count = u32::try_from(rows.len()).unwrap();
            self.process.sleep(takes * count).await;
        }
        let file = {
            let sink = &mut self.process.world.lock().sink;
            sink.files += 1;
            let is_file = sink.is_table && !rows.is_empty();
            is_file.then(|| format!("file-{}", sink.files))
        };
        self.process.step().await;
        Ok(Box::new(UncommittedRows {
            commit: Commit {
                witness: String::new(),
                file: file.unwrap_or_default(),
                withdrawn: withdrawn.map(out_rows).unwrap_or_default(),
                rows,
            },
            began,
            sink,
        }))
    }

    async fn commit(
        &mut self,
        pending: Box<dyn PendingRows>,
        witness: &str,
        _: &BatchVersion,
    ) -> Result<()> {
        let open: UncommittedRows = own(pending)?;
        let commit = Commit {
            witness: witness.to_owned(),
            ..open.commit
        };
        // A table gets no commit for a batch without rows.
        if self.is_table() && commit.rows.is_empty() {
            return Ok(());
        }
        self.process.step().await;
        fail(&self.process, "commit")?;
        {
            let mut state = self.process.world.lock();
            let (now, timeout) = (state.now, state.sink.timeout);
            if !state.sink.is_table
                && !timeout.is_zero()
                && now - open.began > timeout
                && state.sink.owner == self.owner
            {
                state.note("the transaction has timed out");
                state.sink.owner += 1;
            }
            if !state.hidden.fences {
                self.check(state.sink.owner)?;
            }
            if state.sink.recreated != open.sink {
                return Err(away());
            }
            let rate = state.rates.sink;
            if state.random.chance(rate) {
                state.note(format_args!("{witness} is being committed, unheard"));
                state.sink.in_flight = Some(commit);
                return Err(away());
            }
            state.note(format_args!(
                "process {}: the sink has committed {witness} with {} rows",
                self.process.name,
                commit.rows.len()
            ));
            state.sink.apply(commit);
        }
        self.process.step().await;
        fail(&self.process, "the answer to commit")
    }

    async fn abort(&self, _: Option<Box<dyn PendingRows>>) {}

    fn abandon(&self, _: Option<Box<dyn PendingRows>>) {}
}

impl OwnedSink {
    fn is_table(&self) -> bool {
        self.process.world.lock().sink.is_table
    }

    fn check(&self, owner: u64) -> Result<()> {
        if owner == self.owner && self.process.is_alive() {
            return Ok(());
        }
        Err(Error::new(
            ErrorKind::Cancelled,
            "another runner has taken the job over, or its transaction timed out",
        ))
    }
}

fn fail(process: &Process, what: &str) -> Result<()> {
    if process.fails(|rates| rates.sink) {
        process.note(format_args!("{what}: no answer"));
        let mut state = process.world.lock();
        state.sink.failures += 1;
        // An object store also answers 403 for a while when its policies are being changed.
        return Err(match state.sink.failures % 3 {
            0 => Error::new(ErrorKind::Permission, "the simulated sink refuses").by_store(),
            _ => away(),
        });
    }
    Ok(())
}

fn away() -> Error {
    Error::unavailable("the simulated sink does not answer")
}

/// The rows of a batch, with each column as a number.
pub(super) fn out_rows(batch: &RecordBatch) -> Vec<OutRow> {
    let columns: Vec<_> = batch
        .columns()
        .iter()
        .map(|column| cast(column, &DataType::Int64).unwrap())
        .collect();
    let value = |column: &dyn Array, row: usize| {
        let numbers = column.as_primitive::<Int64Type>();
        numbers.is_valid(row).then(|| numbers.value(row))
    };
    (0..batch.num_rows())
        .map(|row| columns.iter().map(|column| value(column, row)).collect())
        .collect()
}

/// What a topic tells.
fn named(version: Option<String>) -> Witness {
    Witness {
        version,
        ..Witness::default()
    }
}
