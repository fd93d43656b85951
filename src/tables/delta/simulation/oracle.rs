//! Oracle of the simulation: checks the table after a schedule, and reads the objects themselves, without faults.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use datafusion::arrow::array::AsArray;
use datafusion::arrow::datatypes::Int64Type;
use datafusion::prelude::SessionContext;
use deltalake::logstore::ObjectStoreRef;
use deltalake::logstore::object_store::ObjectStoreExt as _;
use deltalake::logstore::object_store::path::Path;
use deltalake::parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use serde_json::Value;

use super::job::{BATCHES, Job, Runner};
use super::{Outcome, ROWS, Schedule, open};
use crate::tables::delta::TimeTravel;

type CheckResult<T> = Result<T, String>;

/// The contents of the table's log.
#[derive(Default)]
struct LogContents {
    /// How many commits have added the rows of a statement, by their first id.
    added: BTreeMap<i64, usize>,
    /// The files of the newest version.
    active: BTreeSet<String>,
}

pub(super) async fn check(schedule: &Schedule) -> CheckResult<()> {
    // A runner takes the job over, and completes the steps that were interrupted.
    let mut runner = Runner::default();
    let recovered = runner.take_over(&schedule.handles[0], &schedule.job).await;
    recovered.map_err(|error| format!("the job cannot be recovered: {error}"))?;

    let told = read_log(schedule).await?;
    let inserted = schedule.inserted.lock().unwrap().clone();
    for (first, outcome) in &inserted {
        let times = told.added.get(first).copied().unwrap_or(0);
        let fits = match outcome {
            Outcome::Committed => times == 1,
            Outcome::Nothing => times == 0,
            Outcome::Open => times <= 1,
        };
        if !fits {
            return Err(format!(
                "an INSERT of {first} ended as {outcome:?} and is in {times} times"
            ));
        }
    }
    let mut held = Vec::new();
    for path in &told.active {
        held.extend(ids(schedule, path).await?);
    }
    held.sort_unstable();
    let distinct: BTreeSet<i64> = held.iter().copied().collect();
    if distinct.len() != held.len() {
        return Err("rows are in the table twice".into());
    }
    check_job(&schedule.job.lock().unwrap(), &told, &distinct)?;
    let seen = ids_seen(Arc::clone(&schedule.world.objects) as _).await?;
    if seen != held {
        return Err(format!("a query sees {seen:?}, the files have {held:?}"));
    }
    Ok(())
}

/// Each batch of the job's log was added once, and the table has no row of an abandoned one. Rows that an INSERT OVERWRITE has
/// removed may be gone.
fn check_job(job: &Job, told: &LogContents, held: &BTreeSet<i64>) -> CheckResult<()> {
    for (first, times) in told.added.range(BATCHES..) {
        let committed = job.committed.iter().any(|batch| batch.first == *first);
        let abandoned = job.abandoned.iter().any(|batch| batch.first == *first);
        if *times > 1 {
            return Err(format!("the batch of {first} is in {times} times"));
        }
        if !committed && !abandoned {
            return Err(format!(
                "the batch of {first} is in, and the job does not know"
            ));
        }
        if abandoned && (*first..first + ROWS).any(|id| held.contains(&id)) {
            return Err(format!("the abandoned batch of {first} is still in"));
        }
    }
    let missing = job
        .committed
        .iter()
        .find(|batch| !told.added.contains_key(&batch.first));
    match missing {
        Some(batch) => Err(format!(
            "the batch of {} is committed and not in",
            batch.first
        )),
        None => Ok(()),
    }
}

async fn read_log(schedule: &Schedule) -> CheckResult<LogContents> {
    let objects = &schedule.world.objects;
    let mut told = LogContents::default();
    let mut added_paths = BTreeSet::new();
    for version in 0_u64.. {
        let entry = Path::from(format!("lake/t/_delta_log/{version:020}.json"));
        let Ok(found) = objects.get(&entry).await else {
            break;
        };
        let bytes = found.bytes().await.map_err(|error| error.to_string())?;
        let mut removed = BTreeSet::new();
        let mut added = BTreeSet::new();
        for line in bytes
            .split(|byte| *byte == b'\n')
            .filter(|line| !line.is_empty())
        {
            let action: Value = serde_json::from_slice(line)
                .map_err(|error| format!("version {version} cannot be read: {error}"))?;
            let path = |kind: &str| {
                let path = action.pointer(&format!("/{kind}/path"))?;
                path.as_str().map(str::to_owned)
            };
            if let Some(path) = path("remove") {
                removed.insert(path);
            }
            if let Some(path) = path("add") {
                if !added_paths.insert(path.clone()) {
                    return Err(format!("version {version} adds {path} again"));
                }
                if action["add"]["dataChange"] == Value::Bool(true) {
                    let ids = ids(schedule, &path).await?;
                    let statements: BTreeSet<i64> = ids.iter().map(|id| id - id % ROWS).collect();
                    for first in statements {
                        *told.added.entry(first).or_default() += 1;
                    }
                }
                added.insert(path);
            }
        }
        told.active.retain(|path| !removed.contains(path));
        told.active.extend(added);
    }
    Ok(told)
}

async fn ids(schedule: &Schedule, path: &str) -> CheckResult<Vec<i64>> {
    let object = Path::from(format!("lake/t/{path}"));
    let found = schedule.world.objects.get(&object).await;
    let found = found.map_err(|_| format!("the file {path} of a commit is gone"))?;
    let bytes = found.bytes().await.map_err(|error| error.to_string())?;
    let reader = ParquetRecordBatchReaderBuilder::try_new(bytes).and_then(|reader| reader.build());
    let reader = reader.map_err(|error| format!("the file {path} of a commit is torn: {error}"))?;
    let mut ids = Vec::new();
    for batch in reader {
        let batch = batch.map_err(|error| error.to_string())?;
        ids.extend(batch.column(0).as_primitive::<Int64Type>().values().iter());
    }
    Ok(ids)
}

/// The ids that a query gives over a table that was just opened.
pub(super) async fn ids_seen(store: ObjectStoreRef) -> CheckResult<Vec<i64>> {
    let scanned = async {
        let handle = open(store).await?;
        let table = handle.snapshot(TimeTravel::Latest).await?;
        let context = SessionContext::new();
        Ok::<_, crate::error::Error>(context.read_table(table)?.collect().await?)
    };
    let batches = scanned
        .await
        .map_err(|error| format!("the table cannot be read: {error}"))?;
    let mut ids = Vec::new();
    for batch in batches {
        ids.extend(batch.column(0).as_primitive::<Int64Type>().values().iter());
    }
    ids.sort_unstable();
    Ok(ids)
}
