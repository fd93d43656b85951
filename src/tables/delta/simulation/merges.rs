//! Simulation of a job that merges rows by their key, over the store that lies: runners take the job over from each other and die in the
//! middle of commits, while other writers insert and optimize. In the end the table has what the batches of the job's log give, one
//! after the other, and the rows of the INSERTs (EXACT-2).

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use datafusion::arrow::array::{AsArray, Int64Array, RecordBatch};
use datafusion::arrow::datatypes::{DataType, Field, Int64Type, Schema};
use datafusion::datasource::memory::MemorySourceConfig;
use datafusion::prelude::SessionContext;
use tokio::sync::Mutex as AsyncMutex;

use super::{Outcome, Planted, SEEDS, STATEMENTS, WRITERS, World, handles, open_with, runtime};
use crate::core::archive::JobClaims;
use crate::core::schedules::{Schedules, found_by, seeds};
use crate::error::Result;
use crate::tables::delta::handle::DeltaTableHandle;
use crate::tables::delta::{Application, ClaimChange, OptimizeSpec, TimeTravel};

const ID: &str = "anabranch/merging";
const WITNESS: &str = "anabranch/merging/rows";
const COLUMNS: [&str; 2] = ["id", "v"];
/// The job's rows have keys below; those of INSERTs are above.
const KEYS: i64 = 6;
/// A planted fault must be found in one of so many schedules.
const ENOUGH: u64 = 100;

/// The keys that a batch writes, with its number as their value, and the key that it withdraws.
fn keys_of(batch: i64) -> ([i64; 3], i64) {
    let written = [batch % KEYS, (batch * 3 + 1) % KEYS, (batch * 5 + 2) % KEYS];
    (written, (batch * 2 + 3) % KEYS)
}

fn batch_of(rows: &[(i64, i64)]) -> RecordBatch {
    let fields = COLUMNS.map(|name| Field::new(name, DataType::Int64, true));
    let schema = Arc::new(Schema::new(fields.to_vec()));
    let numbers = |of: fn(&(i64, i64)) -> i64| Int64Array::from_iter_values(rows.iter().map(of));
    let columns = vec![
        Arc::new(numbers(|row| row.0)) as _,
        Arc::new(numbers(|row| row.1)) as _,
    ];
    RecordBatch::try_new(schema, columns).unwrap()
}

/// The job's log: it is in memory and does not fail.
#[derive(Debug, Default)]
struct JobLog {
    sequence: i64,
    owner: i64,
    staged: Vec<i64>,
    /// The numbers of its batches, in order.
    committed: Vec<i64>,
}

impl JobLog {
    fn next(&mut self) -> i64 {
        self.sequence += 1;
        self.sequence
    }

    /// The value of each key after all batches.
    fn expected(&self) -> BTreeMap<i64, i64> {
        let mut expected = BTreeMap::new();
        for batch in &self.committed {
            let (written, withdrawn) = keys_of(*batch);
            expected.remove(&withdrawn);
            expected.extend(written.map(|key| (key, *batch)));
        }
        expected
    }
}

/// A runner: the number of its takeover, the last number that it has written, and the version up to which it has read the table's log,
/// if it has the job.
type Owned = Option<(i64, i64, u64)>;

struct Merges {
    world: Arc<World>,
    handles: Vec<DeltaTableHandle>,
    log: Mutex<JobLog>,
    runners: Vec<AsyncMutex<Owned>>,
    /// The answer of each INSERT, by the key of its row.
    inserted: Mutex<BTreeMap<i64, Outcome>>,
}

impl Merges {
    async fn new(seed: u64, planted: Planted) -> std::result::Result<Arc<Self>, String> {
        let world = World::new(seed, planted);
        let merges = Arc::new(Self {
            handles: handles(&world, &COLUMNS).await?,
            world,
            log: Mutex::default(),
            runners: (0..2).map(|_| AsyncMutex::default()).collect(),
            inserted: Mutex::default(),
        });
        let others = Arc::downgrade(&merges);
        merges.world.interrupt_with(Arc::new(move || {
            let others = others.clone();
            Box::pin(async move {
                if let Some(merges) = others.upgrade() {
                    merges.statement().await;
                }
            })
        }));
        Ok(merges)
    }

    /// Runs a statement of some writer. Nothing happens if it is to be a step of a runner that is in the middle of one.
    async fn statement(&self) {
        let handle = &self.handles[self.world.below(WRITERS as u64) as usize];
        match self.world.below(10) {
            0 | 1 => self.insert(handle).await,
            2 | 3 => drop(handle.optimize(&OptimizeSpec::default(), None).await),
            _ => {
                let at = self.world.below(self.runners.len() as u64) as usize;
                if let Ok(mut owned) = self.runners[at].try_lock() {
                    let dies = self.world.below(8) == 0;
                    self.step(&self.handles[at], &mut owned, dies).await;
                }
            }
        }
    }

    async fn insert(&self, handle: &DeltaTableHandle) {
        let key = {
            let mut inserted = self.inserted.lock().unwrap();
            let key = 1_000 + inserted.len() as i64;
            inserted.insert(key, Outcome::Open);
            key
        };
        let rows = batch_of(&[(key, key)]);
        let schema = rows.schema();
        let plan = MemorySourceConfig::try_new_exec(&[vec![rows]], schema, None).unwrap();
        let written = handle.append(plan, SessionContext::new().task_ctx(), None);
        let outcome = Outcome::of(&written.await);
        self.inserted.lock().unwrap().insert(key, outcome);
    }

    /// Takes the job over, or runs a batch.
    async fn step(&self, handle: &DeltaTableHandle, owned: &mut Owned, dies: bool) {
        let owner = self.log.lock().unwrap().owner;
        let done = match *owned {
            Some(known) if known.0 == owner => self.batch(handle, known, dies).await,
            _ => self.take_over(handle).await,
        };
        *owned = done.unwrap_or_default();
    }

    /// Takes the table over, and records a batch that is only in the table in the job's log.
    async fn take_over(&self, handle: &DeltaTableHandle) -> Result<Owned> {
        let number = {
            let mut log = self.log.lock().unwrap();
            log.owner = log.next();
            log.owner
        };
        let checked = handle.take_over(ID, number).await?;
        let witness = handle.transaction_version(WITNESS).await?;
        let mut log = self.log.lock().unwrap();
        if log.owner != number {
            return Ok(None);
        }
        let staged = std::mem::take(&mut log.staged);
        let in_table = staged.into_iter().filter(|batch| Some(*batch) == witness);
        log.committed.extend(in_table);
        Ok(Some((number, number, checked)))
    }

    async fn batch(
        &self,
        handle: &DeltaTableHandle,
        (number, owned, checked): (i64, i64, u64),
        dies: bool,
    ) -> Result<Owned> {
        let batch = {
            let mut log = self.log.lock().unwrap();
            if log.owner != number {
                return Ok(None);
            }
            log.next()
        };
        let (written, withdrawn) = keys_of(batch);
        let rows = batch_of(&written.map(|key| (key, batch)));
        let withdrawn = batch_of(&[(withdrawn, 0)]);
        let schema = rows.schema();
        let plan = MemorySourceConfig::try_new_exec(&[vec![rows]], schema, None).unwrap();
        let context = SessionContext::new().task_ctx();
        let key = ["id".to_owned()];
        let prepared = handle.prepare_upsert(&key, Some(&withdrawn), plan, context);
        let prepared = prepared.await?;
        {
            let mut log = self.log.lock().unwrap();
            if log.owner != number {
                return Ok(None);
            }
            log.staged.push(batch);
        }
        let application = Application {
            id: ID.into(),
            owned,
            version: batch,
            witness: WITNESS.into(),
            checked,
        };
        let none = JobClaims::default();
        let change = ClaimChange {
            before: &none,
            now: &none,
            job: "merging",
            batch: 1,
        };
        let committed = handle
            .commit_change(prepared, &application, &change)
            .await?;
        let mut log = self.log.lock().unwrap();
        if dies || log.owner != number {
            // The runner that takes the job over next finds the batch by its witness.
            return Ok(None);
        }
        log.staged.retain(|staged| *staged != batch);
        log.committed.push(batch);
        Ok(Some((number, batch, committed.version)))
    }

    async fn check(&self) -> std::result::Result<(), String> {
        let recovered = self.take_over(&self.handles[0]).await;
        recovered.map_err(|error| format!("the job cannot be recovered: {error}"))?;
        let mut found: BTreeMap<i64, Vec<i64>> = BTreeMap::new();
        let rows = rows(Arc::clone(&self.world.objects) as _).await;
        let rows = rows.map_err(|error| format!("the table cannot be read: {error}"))?;
        for (key, value) in rows {
            found.entry(key).or_default().push(value);
        }
        let inserted = self.inserted.lock().unwrap();
        for (key, outcome) in inserted.iter() {
            let times = found.remove(key).map_or(0, |values| values.len());
            let fits = match outcome {
                Outcome::Committed => times == 1,
                Outcome::Nothing => times == 0,
                Outcome::Open => times <= 1,
            };
            if !fits {
                return Err(format!(
                    "an INSERT of {key} ended as {outcome:?} and is in {times} times"
                ));
            }
        }
        let log = self.log.lock().unwrap();
        let expected = log.expected().into_iter().map(|(key, of)| (key, vec![of]));
        let expected: BTreeMap<i64, Vec<i64>> = expected.collect();
        match found == expected {
            true => Ok(()),
            false => Err(format!(
                "the batches {:?} give {expected:?}, and the table has {found:?}",
                log.committed
            )),
        }
    }
}

async fn rows(store: deltalake::logstore::ObjectStoreRef) -> Result<Vec<(i64, i64)>> {
    let handle = open_with(store, &COLUMNS).await?;
    let table = handle.snapshot(TimeTravel::Latest).await?;
    let batches = SessionContext::new().read_table(table)?.collect().await?;
    let numbers = |batch: &RecordBatch, at: usize| {
        let column = batch.column(at).as_primitive::<Int64Type>();
        column.values().to_vec()
    };
    let rows = batches
        .iter()
        .flat_map(|batch| numbers(batch, 0).into_iter().zip(numbers(batch, 1)));
    Ok(rows.collect())
}

async fn run(seed: u64, planted: Planted) -> std::result::Result<usize, String> {
    let merges = Merges::new(seed, planted).await?;
    for _ in 0..2 * STATEMENTS {
        merges.statement().await;
    }
    merges.world.become_honest();
    merges.check().await?;
    let batches = merges.log.lock().unwrap().committed.len();
    Ok(batches)
}

#[test]
fn exact_2_false_store_answers_merge_each_batch_once() {
    let runtime = runtime();
    let schedules = Schedules::of("merges into Delta tables");
    let mut batches = 0;
    for seed in seeds(SEEDS, &[]) {
        schedules.count();
        let outcome = runtime.block_on(run(seed, Planted::Nothing));
        match outcome {
            Ok(of_seed) => batches += of_seed,
            Err(fault) => panic!("ANABRANCH_SEED={seed} runs it again: {fault}"),
        }
    }
    assert!(batches > 0, "no batch was ever committed");
}

#[test]
fn a_batch_that_is_not_recognized_is_found() {
    let runtime = runtime();
    // A table that cannot be opened at the beginning shows nothing.
    let finds = |seed| {
        let outcome = runtime.block_on(run(seed, Planted::NoWitness));
        outcome.is_err_and(|fault| !fault.contains("cannot be opened"))
    };
    let found = found_by("a witness that is not found", &[], ENOUGH, finds);
    assert!(found.is_some(), "it is not found");
}
