//! Simulated job with the topic as sink: its log in memory, and runners that use the log and the sink as the real
//! runner does.

use std::collections::BTreeMap;
use std::sync::atomic::Ordering;
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use datafusion::arrow::array::{Int64Array, RecordBatch};
use datafusion::arrow::datatypes::{DataType, Field, SchemaRef};
use datafusion::error::DataFusionError;
use datafusion::physical_plan::SendableRecordBatchStream;
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;

use super::Planted;
use super::broker::Row;
use super::client::{SimulatedGroup, connect};
use super::world::{DeadProcess, Process, State, World};
use crate::core::jobs::recovery::{BEGINNING, recover};
use crate::core::jobs::{JobHistory, LogEntry, RecoveryDecision, StagedVersion, missing_in_sink};
use crate::error::{Error, ErrorKind};
use crate::tables::kafka::definition::{Delivery, KafkaColumn, KafkaTable, KafkaTableSpec};
use crate::tables::kafka::headers::AddedHeaders;
use crate::tables::kafka::transaction::{JobTopic, PublishedRows, TopicOffset};

/// The topic of the sink.
pub(super) const TOPIC: &str = "out";
/// The topic that is read.
pub(super) const SOURCE: &str = "in";

/// How long a runner waits after an error.
const BACKOFF: Duration = Duration::from_millis(50);

/// A batch that was written and staged under a name of its own.
#[derive(Debug, Clone)]
pub(super) struct Attempt {
    staged: StagedVersion,
    pub(super) number: i64,
    pub(super) published: PublishedRows,
}

/// The log and the staged batches of the job, which survive the runners.
#[derive(Debug)]
pub(super) struct Job {
    entries: Vec<LogEntry>,
    /// Staged batches that were not discarded, by the names of their versions.
    attempts: BTreeMap<String, Attempt>,
    /// The last number that was given to an attempt or a takeover.
    numbers: i64,
}

impl Job {
    pub(super) fn new() -> Self {
        let created = LogEntry::Created {
            name: "j".into(),
            text: String::new(),
            tables: vec![],
            at: 0,
        };
        Self {
            entries: vec![created],
            attempts: BTreeMap::new(),
            numbers: 0,
        }
    }

    fn number(&mut self) -> i64 {
        self.numbers += 1;
        self.numbers
    }

    pub(super) fn history(&self) -> JobHistory {
        JobHistory::of(&self.entries).unwrap()
    }

    /// The attempt of this version.
    pub(super) fn attempt(&self, version: &str) -> Option<&Attempt> {
        self.attempts.get(version)
    }

    /// Writes an entry if its number is the next one: of two runners that write the same number one fails.
    fn append(&mut self, number: u64, entry: LogEntry) -> bool {
        let is_next = number == self.entries.len() as u64;
        if is_next {
            self.entries.push(entry);
        }
        is_next
    }

    fn staged(&self, history: &JobHistory) -> Vec<StagedVersion> {
        let staged = self.attempts.values().map(|attempt| &attempt.staged);
        staged
            .filter(|staged| !history.was_committed(&staged.name))
            .cloned()
            .collect()
    }
}

/// The ids of the rows of a batch, and the ids of the rows that it withdraws.
pub(super) fn ids(batch: u64) -> (Vec<i64>, Vec<i64>) {
    let first = i64::try_from(batch).unwrap() * 10;
    let rows = first..first + first * 7 / 10 % 8;
    let withdrawn = first + 8..first + if batch % 3 == 1 { 10 } else { 8 };
    (rows.collect(), withdrawn.collect())
}

/// Whether a reader of committed records gets all rows of an attempt.
fn is_in_topic(state: &State, attempt: &Attempt) -> bool {
    let seen: Vec<Row> = state
        .broker
        .seen()
        .iter()
        .map(|stored| stored.row)
        .collect();
    let rows = rows_of(attempt.staged.batch, attempt.number);
    !rows.is_empty() && rows.iter().all(|row| seen.contains(row))
}

pub(super) fn table(delivery: Delivery) -> Arc<KafkaTable> {
    let column = |name: &str| KafkaColumn {
        field: Field::new(name, DataType::Int64, false),
        metadata: None,
    };
    let delivery = match delivery {
        Delivery::AtLeastOnce => "at_least_once",
        _ => "transactional",
    };
    let options = [
        ("kafka.bootstrap.servers", "localhost:1"),
        ("connect.timeout", "200 milliseconds"),
        ("transaction.timeout", "1s"),
        ("delivery", delivery),
        ("format", "json"),
    ];
    let spec = KafkaTableSpec {
        name: "t".to_owned(),
        topic: TOPIC.to_owned(),
        columns: vec![column("id"), column("attempt")],
        primary_key: vec!["id".to_owned()],
        watermark: None,
        options: options
            .map(|(key, value)| (key.to_owned(), value.to_owned()))
            .into(),
    };
    Arc::new(KafkaTable::try_new(spec).unwrap())
}

fn schema() -> SchemaRef {
    static TABLE: LazyLock<Arc<KafkaTable>> = LazyLock::new(|| table(Delivery::Transactional));
    Arc::clone(&TABLE.schema)
}

fn batch_of(ids: &[i64], attempt: i64) -> RecordBatch {
    let attempts = vec![attempt; ids.len()];
    let columns: Vec<Arc<dyn datafusion::arrow::array::Array>> = vec![
        Arc::new(Int64Array::from(ids.to_vec())),
        Arc::new(Int64Array::from(attempts)),
    ];
    RecordBatch::try_new(schema(), columns).unwrap()
}

/// Rows with these ids, two in a record batch, and then perhaps an error of the query.
fn stream(ids: &[i64], attempt: i64, fails: bool) -> SendableRecordBatchStream {
    let rows = ids.chunks(2).map(|ids| Ok(batch_of(ids, attempt)));
    let failure = fails.then(|| Err(DataFusionError::Execution("a row of its own".into())));
    let all: Vec<_> = rows.chain(failure).collect();
    let stream = futures::stream::iter(all);
    Box::pin(RecordBatchStreamAdapter::new(schema(), stream))
}

/// Why a runner does not go on with the job.
#[derive(Debug)]
enum Stop {
    /// Its process is dead.
    Dead,
    /// A call failed, or another runner has the job.
    Failed,
    /// It has met something that must not happen: the test fails.
    Fault(String),
}

impl From<DeadProcess> for Stop {
    fn from(_: DeadProcess) -> Self {
        Self::Dead
    }
}

/// The state of a runner that has taken the job over.
struct OwnedJob {
    sink: JobTopic<SimulatedGroup>,
    owner: String,
    history: JobHistory,
}

pub(super) struct Runner {
    world: Arc<World>,
    slot: usize,
    table: Arc<KafkaTable>,
    process: Arc<Process>,
    owned: Option<OwnedJob>,
    /// A fault that may be planted: a commit that failed is taken for an abort.
    takes_for_aborted: bool,
}

impl Runner {
    pub(super) fn new(world: &Arc<World>, slot: usize, table: &Arc<KafkaTable>) -> Self {
        Self {
            world: Arc::clone(world),
            slot,
            table: Arc::clone(table),
            process: Process::new(world, slot),
            owned: None,
            takes_for_aborted: false,
        }
    }

    /// Runs a batch if this runner has the job. If not, it may take the job over.
    pub(super) async fn step(&mut self) {
        if !self.process.is_alive() {
            self.process = Process::new(&self.world, self.slot);
            self.owned = None;
            self.takes_for_aborted = false;
        }
        let done = match self.owned.take() {
            Some(owned) => self.batch(owned).await.map(Some),
            None => self.take_over().await,
        };
        match done {
            Ok(owned) => self.owned = owned,
            Err(Stop::Dead | Stop::Failed) => self.world.lock().now += BACKOFF,
            Err(Stop::Fault(fault)) => {
                self.world.lock().fault.get_or_insert(fault);
            }
        }
    }

    /// Reads or writes the log. The process may die before and after that.
    fn look<T>(&self, at: impl FnOnce(&mut State) -> T) -> Result<T, Stop> {
        self.process.step()?;
        let seen = at(&mut self.world.lock());
        self.process.step()?;
        Ok(seen)
    }

    /// The runner's step after an error of the sink: an error that does not pass is a fault.
    fn failed(&self, what: &str, error: &Error) -> Stop {
        self.failed_or_refused(what, error, false)
    }

    /// The same. If `may_last`, an error that does not pass is no fault either: the rows may be refused.
    fn failed_or_refused(&self, what: &str, error: &Error, may_last: bool) -> Stop {
        if !self.process.is_alive() {
            return Stop::Dead;
        }
        self.process.note(format_args!("{what} fails: {error}"));
        let passes = matches!(error.kind(), ErrorKind::Unavailable | ErrorKind::Cancelled);
        if passes || may_last {
            return Stop::Failed;
        }
        let kind = error.kind();
        Stop::Fault(format!("{what} fails with {kind:?}: {error}"))
    }

    async fn take_over(&mut self) -> Result<Option<OwnedJob>, Stop> {
        let prefix = format!("{}-", self.slot);
        let before = self.look(|state| state.job.history())?;
        let is_mine = before
            .owner
            .as_ref()
            .is_none_or(|owner| owner.starts_with(&prefix));
        if !is_mine && !self.look(|state| state.is_due())? {
            return Ok(None);
        }
        let number = self.look(|state| state.job.number())?;
        let owner = format!("{prefix}{number}");
        self.process.note(format_args!("takes over as {owner}"));
        let entry = LogEntry::Takeover {
            owner: owner.clone(),
            at: 0,
        };
        self.look(|state| {
            let next = state.job.history().next;
            state.job.append(next, entry)
        })?;
        // The new client has not been fenced off.
        self.process.is_fenced.store(false, Ordering::SeqCst);
        let process = Arc::clone(&self.process);
        let sink = JobTopic::<SimulatedGroup>::own(
            Arc::clone(&self.table),
            AddedHeaders::default(),
            move |table, deliveries| {
                let in_transactions = table.delivery() != Delivery::AtLeastOnce;
                Ok(connect(&process, in_transactions, deliveries))
            },
        );
        let sink = sink.await.map_err(|error| self.failed("own", &error))?;
        let mut history = self.look(|state| state.job.history())?;
        if history.owner.as_ref() != Some(&owner) {
            return Err(Stop::Failed);
        }
        sink.identity()
            .await
            .map_err(|error| self.failed("identity", &error))?;
        let staged = self.look(|state| state.job.staged(&history))?;
        let witness = sink
            .witness()
            .await
            .map_err(|error| self.failed("witness", &error))?;
        self.process
            .note(format_args!("finds {witness:?}, and staged is {staged:?}"));
        let assumes_nothing = std::mem::take(&mut self.takes_for_aborted);
        let decision = match self.world.planted {
            Planted::NoWitness => RecoveryDecision::Continue,
            Planted::FailureIsAbort if assumes_nothing => RecoveryDecision::Continue,
            _ => {
                if self.table.delivery() != Delivery::AtLeastOnce {
                    self.check_missing(&history, witness.as_deref())?;
                }
                let is_first = before.owner.is_none();
                recover(&history, is_first, witness.as_deref(), &staged)
            }
        };
        match decision {
            RecoveryDecision::Continue => {}
            RecoveryDecision::AppendCommitted { batch, version } => {
                self.process
                    .note(format_args!("finds that {version} is committed"));
                let entry = LogEntry::Committed {
                    batch,
                    version,
                    at: 0,
                };
                let number = history.next;
                let has_won = self.look(|state| state.job.append(number, entry.clone()))?;
                if !has_won {
                    return Err(Stop::Failed);
                }
                history.apply(&entry);
            }
            unsure => return Err(self.answer(&owner, &staged, &unsure)?),
        }
        let last = history.last();
        let (batch, version) = last.map_or((0, BEGINNING), |last| (last.batch, &*last.version));
        let marked = match sink.begin().await {
            Ok(()) => sink.commit(&[], batch, version).await,
            failed => failed,
        };
        marked.map_err(|error| self.failed("mark", &error))?;
        self.look(|state| {
            for left in &staged {
                if !history.was_committed(&left.name) {
                    state.job.attempts.remove(&left.name);
                }
            }
        })?;
        Ok(Some(OwnedJob {
            sink,
            owner,
            history,
        }))
    }

    /// The sink has all batches that the log has: it was never restored to an earlier state.
    fn check_missing(&self, history: &JobHistory, witness: Option<&str>) -> Result<(), Stop> {
        let Some(witness) = witness else {
            return Ok(());
        };
        let is_last = history.last().is_none_or(|last| last.version == witness);
        let rows = vec![1; history.batches.len()];
        match missing_in_sink(history, witness, true, &rows) {
            Some(missing) if !is_last => {
                let state = self.world.lock();
                let current = state.job.history();
                // A runner that took the job over meanwhile may have committed more.
                match current.owner == history.owner {
                    true => Err(Stop::Fault(format!(
                        "the sink has {witness}, and lacks {missing:?}"
                    ))),
                    false => Err(Stop::Failed),
                }
            }
            _ => Ok(()),
        }
    }

    /// The user looks into the topic, and tells the job whether it has the batch.
    fn answer(
        &self,
        owner: &str,
        staged: &[StagedVersion],
        unsure: &RecoveryDecision,
    ) -> Result<Stop, Stop> {
        let is_once = self.table.delivery() != Delivery::AtLeastOnce;
        let (batch, is_older) = match unsure {
            RecoveryDecision::Unclear { batch, .. } => (*batch, false),
            RecoveryDecision::OlderLog { batch, .. } => (*batch, true),
            RecoveryDecision::Continue | RecoveryDecision::AppendCommitted { .. } => {
                return Ok(Stop::Failed);
            }
        };
        self.look(|state| {
            let history = state.job.history();
            if history.owner.as_deref() != Some(owner) {
                return Stop::Failed;
            }
            // Without transactions a runner that has lost the job may still write its witness.
            if is_once && (is_older || !state.broker.has_expired) {
                return Stop::Fault(format!(
                    "it is unknown whether batch {batch} is in the sink: {unsure:?}"
                ));
            }
            let attempts = staged
                .iter()
                .filter_map(|staged| state.job.attempts.get(&staged.name));
            let attempts: Vec<&Attempt> = attempts
                .filter(|attempt| attempt.staged.batch == batch)
                .collect();
            let newest = attempts.iter().max_by_key(|attempt| &attempt.staged.name);
            // If the log is older than the sink, it has no batch that the user could look for.
            let is_in = !is_older && newest.is_some_and(|newest| is_in_topic(state, newest));
            if is_once && !is_in && attempts.iter().any(|one| is_in_topic(state, one)) {
                return Stop::Fault(format!("the topic has an old attempt at batch {batch}"));
            }
            let resumed = LogEntry::Resumed {
                skipping_lost: false,
                lost: BTreeMap::new(),
                accepting: BTreeMap::new(),
                assuming: Some((batch, is_in)),
                at: 0,
            };
            state.note(format_args!(
                "a user says that batch {batch} is in: {is_in}"
            ));
            state.job.append(history.next, resumed);
            Stop::Failed
        })
    }

    async fn batch(&mut self, mut owned: OwnedJob) -> Result<OwnedJob, Stop> {
        let batch = owned.history.next_batch();
        let sequence = owned.history.next;
        let (rows, withdrawn) = ids(batch);
        let (number, row_fails) = self.look(|state| (state.job.number(), state.fails(20)))?;
        let name = format!("{sequence:010}-{number}");
        self.process
            .note(format_args!("runs batch {batch} as {name}"));
        let withdrawn = (!withdrawn.is_empty()).then(|| batch_of(&withdrawn, number));
        let written = owned
            .sink
            .write(withdrawn.as_ref(), stream(&rows, number, row_fails))
            .await;
        let published = match written {
            Ok(published) => published,
            Err(error) => {
                let is_alive = self.process.is_alive();
                let is_fenced = is_alive && self.process.is_fenced.load(Ordering::SeqCst);
                // The query may fail, and records may be too large.
                let may_last = row_fails || error.kind() == ErrorKind::Data;
                let stop = self.failed_or_refused("write", &error, may_last);
                if is_fenced && !row_fails && error.kind() == ErrorKind::Unavailable {
                    return Err(Stop::Fault(format!(
                        "a runner that is fenced off is told to wait: {error}"
                    )));
                }
                let aborted = owned.sink.abort().await;
                if self.world.planted == Planted::NoWaiting && self.process.is_alive() {
                    self.process.note(format_args!("goes on after {aborted:?}"));
                    return Ok(owned);
                }
                return Err(stop);
            }
        };
        let attempt = Attempt {
            staged: StagedVersion {
                name: name.clone(),
                batch,
                parent: owned.history.last().map(|last| last.version.clone()),
            },
            number,
            published,
        };
        self.look(|state| state.job.attempts.insert(name.clone(), attempt))?;
        let offsets = [TopicOffset {
            topic: SOURCE.to_owned(),
            partition: 0,
            offset: i64::try_from(batch).unwrap(),
        }];
        if let Err(error) = owned.sink.commit(&offsets, batch, &name).await {
            let stop = self.failed("commit", &error);
            self.takes_for_aborted = true;
            let _ = owned.sink.abort().await;
            return Err(stop);
        }
        self.process.note(format_args!("has committed {name}"));
        let parent = owned.history.last().cloned();
        for _ in 0..20 {
            let entry = LogEntry::Committed {
                batch,
                version: name.clone(),
                at: 0,
            };
            let next = owned.history.next;
            let appended = self.look(|state| state.job.append(next, entry.clone()))?;
            if appended {
                owned.history.apply(&entry);
                return Ok(owned);
            }
            owned.history = self.look(|state| state.job.history())?;
            let is_mine = owned.history.owner.as_ref() == Some(&owned.owner);
            if !is_mine || owned.history.last() != parent.as_ref() {
                return Err(Stop::Failed);
            }
        }
        Err(Stop::Failed)
    }

    /// How many batches the log has.
    pub(super) fn batches(&self) -> usize {
        self.world.lock().job.history().batches.len()
    }
}

/// The records that a batch should have in the topic.
pub(super) fn rows_of(batch: u64, attempt: i64) -> Vec<Row> {
    let (rows, withdrawn) = ids(batch);
    let tombstones = withdrawn.into_iter().map(|id| Row { id, attempt: None });
    let rows = rows.into_iter().map(|id| Row {
        id,
        attempt: Some(attempt),
    });
    tombstones.chain(rows).collect()
}
