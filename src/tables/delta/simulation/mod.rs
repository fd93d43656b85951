//! Simulation of the real commits and files of Delta tables, over a store that lies.
//!
//! Several writers insert, overwrite, optimize, and run a job with takeovers and rewinds. The store answers writes that it has done
//! with errors, does writes late or only in part, says that a writer's own entry exists already, gives old lists, and refuses a
//! writer for a while. In the middle of a commit whole statements of other writers run. In the end the log of the table is read
//! without faults. If a statement has reported success, its rows are in the table once. If it has reported that
//! nothing was written, they are not in it. If it could not tell, they are in it at most once. And all files are there (EXACT-2,
//! EXACT-3).
//!
//! A test that fails names the seed: `ANABRANCH_SEED=<n>` runs the schedule of this seed alone, and `ANABRANCH_SEEDS=<count>` runs
//! as many schedules as it says.

mod job;
mod lying_store;
mod merges;
mod oracle;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use datafusion::arrow::array::{Int64Array, RecordBatch};
use datafusion::arrow::datatypes::{DataType, Field, Schema};
use datafusion::datasource::memory::MemorySourceConfig;
use datafusion::physical_plan::{ExecutionPlan, execute_stream};
use datafusion::prelude::SessionContext;
use deltalake::DeltaTableBuilder;
use deltalake::logstore::ObjectStoreRef;
use deltalake::logstore::object_store::memory::InMemory;
use deltalake::protocol::SaveMode;
use tokio::sync::Mutex as AsyncMutex;
use url::Url;

use self::job::{Job, Runner};
use self::lying_store::{LyingStore, Planted, World};
use super::handle::DeltaTableHandle;
use super::location::Location;
use super::maintain::OptimizeSpec;
use super::options::DeltaOptions;
use super::store::TruthfulStore;
use super::write::RewriteMode;
use super::{Application, DeltaColumn, DeltaSpec};
use crate::core::schedules::{Schedules, found_by, seeds};
use crate::error::{Error, ErrorKind, Result};

/// How many schedules a test runs, unless `ANABRANCH_SEEDS` says another number.
const SEEDS: u64 = 24;
/// A planted fault must be found in one of so many schedules.
const ENOUGH: u64 = 60;
const WRITERS: usize = 3;
const STATEMENTS: u64 = 14;

/// The state of a statement's rows by its answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Outcome {
    /// They are in the table.
    Committed,
    /// They are not in the table.
    Nothing,
    /// The statement cannot tell.
    Open,
}

impl Outcome {
    fn of<T>(result: &Result<T>) -> Self {
        match result {
            Ok(_) => Self::Committed,
            Err(error) if error.message().contains("is unknown whether") => Self::Open,
            Err(_) => Self::Nothing,
        }
    }
}

/// One schedule: the writers, their statements, and the job.
struct Schedule {
    world: Arc<World>,
    handles: Vec<DeltaTableHandle>,
    /// The answer of each INSERT, by the first id of its rows.
    inserted: Mutex<BTreeMap<i64, Outcome>>,
    next: Mutex<i64>,
    job: Arc<Mutex<Job>>,
    runners: Vec<AsyncMutex<Runner>>,
}

/// How many rows an INSERT or a batch has: their ids are `first` and those after it.
const ROWS: i64 = 3;

fn rows(first: i64) -> Arc<dyn ExecutionPlan> {
    let schema = Arc::new(Schema::new(vec![Field::new("id", DataType::Int64, true)]));
    let ids = Int64Array::from_iter_values(first..first + ROWS);
    let batch = RecordBatch::try_new(Arc::clone(&schema), vec![Arc::new(ids)]).unwrap();
    MemorySourceConfig::try_new_exec(&[vec![batch]], schema, None).unwrap()
}

/// Opens the table through a store, or creates it.
async fn open(store: ObjectStoreRef) -> Result<DeltaTableHandle> {
    open_with(store, &["id"]).await
}

/// The same for a table with these columns of numbers.
async fn open_with(store: ObjectStoreRef, columns: &[&str]) -> Result<DeltaTableHandle> {
    let url = Url::parse("memory:///lake/t/").unwrap();
    let log = DeltaTableBuilder::from_url(url.clone())
        .unwrap()
        .with_storage_backend(store, url.clone())
        .build_storage()
        .unwrap();
    let location = Location {
        shown: "memory:///lake/t".into(),
        url,
        folder: None,
    };
    let columns = columns.iter().map(|name| DeltaColumn {
        name: (*name).into(),
        data_type: DataType::Int64,
        nullable: true,
        generated: None,
        comment: None,
    });
    let interval = ("delta.checkpointInterval".to_owned(), "4".to_owned());
    let spec = DeltaSpec {
        location: location.shown.clone(),
        columns: Some(columns.collect()),
        options: BTreeMap::from([interval]),
        ..DeltaSpec::default()
    };
    let options = DeltaOptions::parse(&spec.options)?;
    DeltaTableHandle::over(log, spec, location, options).await
}

/// The table with these columns as each writer opens it.
async fn handles(
    world: &Arc<World>,
    columns: &[&str],
) -> std::result::Result<Vec<DeltaTableHandle>, String> {
    let mut handles = Vec::new();
    for writer in 0..WRITERS {
        let lying: ObjectStoreRef = Arc::new(LyingStore {
            world: Arc::clone(world),
            writer,
        });
        let store = match world.planted {
            Planted::Nothing => TruthfulStore::without_pauses(lying),
            Planted::NoReadingBack | Planted::NoWitness => lying,
        };
        let mut tries = 0;
        let handle = loop {
            match open_with(Arc::clone(&store), columns).await {
                Ok(handle) => break handle,
                Err(error) if tries == 200 => {
                    return Err(format!("the table cannot be opened: {error}"));
                }
                Err(_) => tries += 1,
            }
        };
        handles.push(handle);
    }
    Ok(handles)
}

impl Schedule {
    async fn new(seed: u64, planted: Planted) -> std::result::Result<Arc<Self>, String> {
        let world = World::new(seed, planted);
        let handles = handles(&world, &["id"]).await?;
        let runners = (0..2).map(|_| AsyncMutex::default()).collect();
        let schedule = Arc::new(Self {
            world,
            handles,
            inserted: Mutex::default(),
            next: Mutex::new(0),
            job: Arc::default(),
            runners,
        });
        let others = Arc::downgrade(&schedule);
        schedule.world.interrupt_with(Arc::new(move || {
            let others = others.clone();
            Box::pin(async move {
                if let Some(schedule) = others.upgrade() {
                    schedule.statement().await;
                }
            })
        }));
        Ok(schedule)
    }

    /// Runs a statement of some writer. Nothing happens if it is to be a step of a runner that is in the middle of one.
    async fn statement(&self) {
        let handle = &self.handles[self.world.below(WRITERS as u64) as usize];
        match self.world.below(10) {
            0..=3 => self.insert(handle, SaveMode::Append).await,
            4 => self.insert(handle, SaveMode::Overwrite).await,
            5 => {
                // A rewind that takes files back cannot do so once they are rewritten.
                let rewinds = !self.job.lock().unwrap().take_back.is_empty();
                if !rewinds {
                    drop(handle.optimize(&OptimizeSpec::default(), None).await);
                }
            }
            _ => {
                let at = self.world.below(self.runners.len() as u64) as usize;
                if let Ok(mut runner) = self.runners[at].try_lock() {
                    // Each runner uses the table through a handle of its own.
                    let handle = &self.handles[at];
                    let rewinds = self.world.below(5) == 0;
                    let dies = self.world.below(8) == 0;
                    runner.step(handle, &self.job, rewinds, dies).await;
                }
            }
        }
    }

    async fn insert(&self, handle: &DeltaTableHandle, mode: SaveMode) {
        let first = {
            let mut next = self.next.lock().unwrap();
            *next += ROWS;
            *next - ROWS
        };
        let written = write(handle, first, mode).await;
        let outcome = Outcome::of(&written);
        self.inserted.lock().unwrap().insert(first, outcome);
    }
}

async fn write(handle: &DeltaTableHandle, first: i64, mode: SaveMode) -> Result<()> {
    let context = SessionContext::new().task_ctx();
    let table = handle.refresh().await?;
    let rules = handle.rules(&table)?;
    let input = execute_stream(rows(first), Arc::clone(&context)).map_err(Error::from)?;
    let written = handle
        .write(&table, &rules, input, &context, mode, None)
        .await;
    written.map(drop)
}

/// A MERGE that only inserts: a commit that adds rows, and takes none out.
async fn merge(handle: &DeltaTableHandle, first: i64) -> Result<()> {
    let context = SessionContext::new().task_ctx();
    let table = handle.refresh().await?;
    let rules = handle.rules(&table)?;
    let input = execute_stream(rows(first), Arc::clone(&context)).map_err(Error::from)?;
    let snapshot = table.snapshot().unwrap().snapshot();
    let (target, mut written) = handle.write_rows(&table, &rules, input, &context).await?;
    written.rewrite = Some(RewriteMode::Merge);
    let committed = handle
        .finish(
            &table,
            snapshot,
            &target.store,
            written,
            SaveMode::Append,
            &[],
        )
        .await;
    committed.map(drop)
}

async fn run(seed: u64, planted: Planted) -> std::result::Result<(), String> {
    let schedule = Schedule::new(seed, planted).await?;
    for _ in 0..STATEMENTS {
        schedule.statement().await;
    }
    schedule.world.become_honest();
    oracle::check(&schedule).await
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap()
}

#[test]
fn exact_2_false_store_answers_lose_and_double_no_rows() {
    let runtime = runtime();
    let schedules = Schedules::of("commits to Delta tables");
    for seed in seeds(SEEDS, &[]) {
        schedules.count();
        let outcome = runtime.block_on(run(seed, Planted::Nothing));
        let said = outcome.map_err(|fault| format!("ANABRANCH_SEED={seed} runs it again: {fault}"));
        assert_eq!(said, Ok(()));
    }
}

#[test]
fn planted_faults_are_found() {
    let runtime = runtime();
    // Each with the seeds that are known to find it, and a text that the message must contain.
    let planted: [(Planted, &[u64], &str); 2] = [
        (Planted::NoReadingBack, &[11], "again"),
        (Planted::NoWitness, &[2], "is gone"),
    ];
    for (planted, known, looked_for) in planted {
        let finds = |seed| {
            let outcome = runtime.block_on(run(seed, planted));
            outcome.is_err_and(|fault| fault.contains(looked_for))
        };
        let found = found_by(&format!("{planted:?}"), known, ENOUGH, finds);
        assert!(found.is_some(), "{planted:?} is not found");
    }
}

#[tokio::test]
async fn exact_3_rewritten_rows_are_not_removed_silently() {
    let handle = open(Arc::new(InMemory::new())).await.unwrap();
    let mut application = Application {
        id: "anabranch/job".into(),
        owned: 1,
        version: 2,
        witness: "anabranch/job/rows".into(),
        checked: 0,
    };
    handle.take_over(&application.id, 1).await.unwrap();
    let mut batches = Vec::new();
    for batch in 0..3 {
        let context = SessionContext::new().task_ctx();
        let prepared = handle.prepare(rows(batch * ROWS), context).await.unwrap();
        batches.push(prepared.files());
        application.version = application.owned + 1;
        handle
            .commit_prepared(prepared, &application)
            .await
            .unwrap();
        application.owned = application.version;
    }
    let last = batches.pop().unwrap();
    handle.remove_files(&last, &application).await.unwrap();
    let version = handle.version().await.unwrap();
    // The same again, as a runner does that does not know whether it was done.
    handle.remove_files(&last, &application).await.unwrap();
    assert_eq!(handle.version().await.unwrap(), version);

    handle
        .optimize(&OptimizeSpec::default(), None)
        .await
        .unwrap();
    let both: Vec<String> = last.iter().chain(&batches[1]).cloned().collect();
    let error = handle.remove_files(&both, &application).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Data, "{error}");
    assert!(error.message().contains(&batches[1][0]), "{error}");
    // Files that another statement has removed need not be taken back.
    write(&handle, 90, SaveMode::Overwrite).await.unwrap();
    handle.remove_files(&last, &application).await.unwrap();
}

/// A MERGE that inserts rows has read those that an INSERT OVERWRITE replaces: no order of the two gives what both would leave. An
/// append comes after the INSERT OVERWRITE. OPTIMIZE moves the rows that are replaced to files that it does not know.
#[tokio::test]
async fn exact_2_an_overwrite_does_not_go_past_a_merge_or_optimize() {
    let merged: Vec<i64> = (0..2 * ROWS).chain(30..30 + ROWS).collect();
    let appended: Vec<i64> = (30..30 + ROWS).chain(60..60 + ROWS).collect();
    for (meanwhile, is_refused, expected) in [
        ("MERGE", true, merged),
        ("OPTIMIZE", true, (0..2 * ROWS).collect()),
        ("INSERT", false, appended),
    ] {
        let store: ObjectStoreRef = Arc::new(InMemory::new());
        let one = open(Arc::clone(&store)).await.unwrap();
        let other = open(Arc::clone(&store)).await.unwrap();
        write(&one, 0, SaveMode::Append).await.unwrap();
        write(&one, ROWS, SaveMode::Append).await.unwrap();
        let context = SessionContext::new().task_ctx();
        let table = one.refresh().await.unwrap();
        let rules = one.rules(&table).unwrap();
        match meanwhile {
            "MERGE" => merge(&other, 30).await.unwrap(),
            "OPTIMIZE" => {
                let spec = OptimizeSpec::default();
                other.optimize(&spec, None).await.map(drop).unwrap();
            }
            _ => write(&other, 30, SaveMode::Append).await.unwrap(),
        }
        let input = execute_stream(rows(60), Arc::clone(&context)).unwrap();
        let mode = SaveMode::Overwrite;
        let written = one.write(&table, &rules, input, &context, mode, None).await;
        match written {
            Ok(_) => assert!(!is_refused, "{meanwhile}"),
            Err(error) => {
                assert!(is_refused && error.is_conflict(), "{meanwhile}: {error}");
                assert!(error.message().contains("replaced them"), "{error}");
            }
        }
        let seen = oracle::ids_seen(store).await;
        assert_eq!(seen, Ok(expected), "{meanwhile}");
    }
}
