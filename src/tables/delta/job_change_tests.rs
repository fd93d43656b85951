#![allow(clippy::unwrap_used)]

use std::collections::BTreeSet;
use std::path::Path;

use datafusion::arrow::array::{Int64Array, TimestampMicrosecondArray};
use datafusion::arrow::datatypes::{Field, Int64Type, Schema};
use datafusion::datasource::memory::MemorySourceConfig;
use datafusion::prelude::SessionContext;
use proptest::prelude::*;

use super::*;
use crate::core::archive::JobClaims;
use crate::error::ErrorKind;
use crate::tables::delta::{DeltaColumn, DeltaSpec, OptimizeSpec, TimeTravel};

/// A key, a time and a value. Keys and times together are the key of upserts.
type Row = (i64, i64, i64);

fn of_time() -> DataType {
    DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into()))
}

async fn open(folder: &Path, is_partitioned: bool) -> DeltaTableHandle {
    let column = |name: &str, data_type: DataType| DeltaColumn {
        name: name.into(),
        data_type,
        nullable: true,
        generated: None,
        comment: None,
    };
    let spec = DeltaSpec {
        location: folder.join("t").display().to_string(),
        columns: Some(vec![
            column("k", DataType::Int64),
            column("t", of_time()),
            column("v", DataType::Int64),
        ]),
        partition_by: is_partitioned.then(|| "k".to_owned()).into_iter().collect(),
        primary_key: key(),
        ..DeltaSpec::default()
    };
    DeltaTableHandle::create_or_open(spec).await.unwrap()
}

fn key() -> Vec<String> {
    ["k", "t"].map(str::to_owned).to_vec()
}

fn batch(rows: &[Row]) -> RecordBatch {
    let schema = Schema::new(vec![
        Field::new("k", DataType::Int64, true),
        Field::new("t", of_time(), true),
        Field::new("v", DataType::Int64, true),
    ]);
    let numbers = |of: fn(&Row) -> i64| Int64Array::from_iter_values(rows.iter().map(of));
    let times = TimestampMicrosecondArray::from_iter_values(rows.iter().map(|row| row.1));
    let columns: Vec<ArrayRef> = vec![
        Arc::new(numbers(|row| row.0)),
        Arc::new(times.with_timezone("UTC")),
        Arc::new(numbers(|row| row.2)),
    ];
    RecordBatch::try_new(Arc::new(schema), columns).unwrap()
}

fn plan(rows: &[Row]) -> (Arc<dyn ExecutionPlan>, Arc<TaskContext>) {
    let rows = batch(rows);
    let schema = rows.schema();
    let plan = MemorySourceConfig::try_new_exec(&[vec![rows]], schema, None).unwrap();
    (plan, SessionContext::new().task_ctx())
}

async fn append(handle: &DeltaTableHandle, rows: &[Row]) {
    let (plan, context) = plan(rows);
    handle.append(plan, context, None).await.unwrap();
}

async fn rows_of(handle: &DeltaTableHandle) -> Vec<Row> {
    let table = handle.snapshot(TimeTravel::Latest).await.unwrap();
    let found = SessionContext::new().read_table(table).unwrap();
    let mut rows = Vec::new();
    for batch in found.collect().await.unwrap() {
        let number = |at: usize| {
            batch
                .column(at)
                .as_primitive::<Int64Type>()
                .values()
                .clone()
        };
        let times = batch.column(1).as_primitive::<TimestampMicrosecondType>();
        let (keys, values) = (number(0), number(2));
        rows.extend((0..batch.num_rows()).map(|row| (keys[row], times.value(row), values[row])));
    }
    rows.sort_unstable();
    rows
}

async fn paths_of(handle: &DeltaTableHandle) -> BTreeSet<String> {
    let table = handle.refresh().await.unwrap();
    let files = handle.added_files(&table).await.unwrap();
    files.into_iter().map(|file| file.path).collect()
}

/// How many files are looked through for these rows.
async fn candidates(handle: &DeltaTableHandle, taken: &TakenRows) -> usize {
    let table = handle.refresh().await.unwrap();
    let rules = handle.rules(&table).unwrap();
    let placed = handle.placed_rows(table, &rules).await.unwrap();
    let schema = placed.schema_of(&taken.columns()).unwrap();
    let filters = taken.filters(&schema).unwrap();
    let state = state_of(&SessionContext::new().task_ctx());
    let files = placed.candidates(&state, &filters, TimeFilters::Widened);
    files.unwrap().len()
}

/// A job that has taken the table over.
struct Job {
    handle: DeltaTableHandle,
    application: Application,
}

impl Job {
    async fn new(handle: DeltaTableHandle, name: &str) -> Self {
        let mut application = Application {
            id: format!("anabranch/{name}"),
            owned: 1,
            version: 1,
            witness: format!("anabranch/{name}/rows"),
            checked: 0,
        };
        application.checked = handle.take_over(&application.id, 1).await.unwrap();
        Self {
            handle,
            application,
        }
    }

    async fn upsert(&self, rows: &[Row], withdrawn: &[Row]) -> PreparedChange {
        let withdrawn = (!withdrawn.is_empty()).then(|| batch(withdrawn));
        let (plan, context) = plan(rows);
        let key = key();
        let prepared = self
            .handle
            .prepare_upsert(&key, withdrawn.as_ref(), plan, context);
        prepared.await.unwrap()
    }

    async fn replace(&self, from: i64, to: i64, rows: &[Row]) -> PreparedChange {
        let covered = ColumnBounds {
            column: "t".to_owned(),
            bounds: TimeBounds {
                from: Some(from),
                to: Some(to),
            },
        };
        let (plan, context) = plan(rows);
        let prepared = self
            .handle
            .prepare_replacement(vec![covered], plan, context);
        prepared.await.unwrap()
    }

    async fn commit(&mut self, prepared: PreparedChange) -> Result<Commit> {
        let none = JobClaims::default();
        let change = ClaimChange {
            before: &none,
            now: &none,
            job: "j",
            batch: 1,
        };
        self.application.version = self.application.owned + 1;
        let commit = self
            .handle
            .commit_change(prepared, &self.application, &change);
        let commit = commit.await?;
        self.application.owned = self.application.version;
        self.application.checked = commit.version;
        Ok(commit)
    }
}

/// What another writer does while a batch waits for its commit.
#[derive(Debug, Clone)]
enum Meanwhile {
    Nothing,
    Optimize,
    Append((i64, i64)),
    Upsert(Vec<(i64, i64)>),
}

/// A batch: its rows and those that it withdraws, or the times that it replaces; and what happens meanwhile.
#[derive(Debug, Clone)]
struct Batch {
    rows: Vec<(i64, i64)>,
    withdrawn: Vec<(i64, i64)>,
    replaced: Option<(i64, i64)>,
    meanwhile: Meanwhile,
}

/// Times are no whole milliseconds, on both sides of 1970.
fn row() -> impl Strategy<Value = (i64, i64)> {
    (0_i64..4, -3_i64..4).prop_map(|(key, time)| (key, time * 700))
}

fn some_rows(most: usize) -> impl Strategy<Value = Vec<(i64, i64)>> {
    proptest::collection::vec(row(), 0..=most)
}

fn some_batch() -> impl Strategy<Value = Batch> {
    let meanwhile = prop_oneof![
        3 => Just(Meanwhile::Nothing),
        2 => Just(Meanwhile::Optimize),
        1 => row().prop_map(Meanwhile::Append),
        2 => some_rows(3).prop_map(Meanwhile::Upsert),
    ];
    let replaced = proptest::option::weighted(0.3, (-3_i64..3, 1_i64..4));
    (some_rows(5), some_rows(2), replaced, meanwhile).prop_map(
        |(rows, withdrawn, replaced, meanwhile)| Batch {
            rows,
            withdrawn,
            replaced: replaced.map(|(from, length)| (from * 700, (from + length) * 700)),
            meanwhile,
        },
    )
}

/// The rows of the table, and the value of the next row.
#[derive(Default)]
struct Model {
    rows: Vec<Row>,
    next: i64,
}

impl Model {
    fn valued(&mut self, rows: &[(i64, i64)]) -> Vec<Row> {
        let valued = rows.iter().map(|(key, time)| {
            self.next += 1;
            (*key, *time, self.next)
        });
        valued.collect()
    }

    fn upsert(&mut self, rows: &[Row], withdrawn: &[(i64, i64)]) {
        let is_new = |key: i64, time: i64| rows.iter().any(|row| (row.0, row.1) == (key, time));
        self.rows
            .retain(|row| !is_new(row.0, row.1) && !withdrawn.contains(&(row.0, row.1)));
        for (at, row) in rows.iter().enumerate() {
            let later = &rows[at + 1..];
            if !later
                .iter()
                .any(|other| (other.0, other.1) == (row.0, row.1))
            {
                self.rows.push(*row);
            }
        }
    }

    fn replace(&mut self, from: i64, to: i64, rows: &[Row]) {
        self.rows.retain(|row| row.1 < from || to <= row.1);
        self.rows.extend(rows);
    }

    fn sorted(&self) -> Vec<Row> {
        let mut rows = self.rows.clone();
        rows.sort_unstable();
        rows
    }
}

async fn run(batches: &[Batch], is_partitioned: bool) {
    let folder = tempfile::tempdir().unwrap();
    let handle = open(folder.path(), is_partitioned).await;
    let mut job = Job::new(handle, "one").await;
    let mut other = Job::new(open(folder.path(), is_partitioned).await, "other").await;
    let mut model = Model::default();
    for batch in batches {
        let rows = model.valued(&batch.rows);
        let withdrawn: Vec<Row> = batch
            .withdrawn
            .iter()
            .map(|key| (key.0, key.1, 0))
            .collect();
        let prepared = match batch.replaced {
            Some((from, to)) => job.replace(from, to, &rows).await,
            None => job.upsert(&rows, &withdrawn).await,
        };
        let mut appended = Vec::new();
        match &batch.meanwhile {
            Meanwhile::Nothing => {}
            Meanwhile::Optimize => {
                let spec = OptimizeSpec::default();
                other.handle.optimize(&spec, None).await.map(drop).unwrap();
            }
            Meanwhile::Append(row) => {
                appended = model.valued(&[*row]);
                append(&other.handle, &appended).await;
            }
            Meanwhile::Upsert(rows) => {
                let rows = model.valued(rows);
                let prepared = other.upsert(&rows, &[]).await;
                if !prepared.is_empty() {
                    other.commit(prepared).await.unwrap();
                }
                model.upsert(&rows, &[]);
            }
        }
        if prepared.is_empty() {
            // As the sink does it: what came meanwhile is later.
            prepared.discard().await;
        } else {
            job.commit(prepared).await.unwrap();
            match batch.replaced {
                Some((from, to)) => model.replace(from, to, &rows),
                None => model.upsert(&rows, &batch.withdrawn),
            }
        }
        // It has not read what another writer appends, which comes after it.
        model.rows.extend(appended);
        assert_eq!(rows_of(&job.handle).await, model.sorted(), "{batch:?}");
    }
    // All files of the table are there.
    let mut found = Vec::new();
    let mut folders = vec![folder.path().join("t")];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            match path.is_dir() {
                true => folders.push(path),
                false => found.extend(path.extension().map(|_| path.clone())),
            }
        }
    }
    let paths = paths_of(&job.handle).await;
    for path in paths {
        let path = folder.path().join("t").join(&path);
        assert!(found.contains(&path), "{path:?}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn exact_2_rows_are_replaced_while_others_write(
        batches in proptest::collection::vec(some_batch(), 1..7),
        is_partitioned in any::<bool>(),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        runtime.block_on(run(&batches, is_partitioned));
    }
}

#[tokio::test]
async fn a_file_without_rows_that_give_way_stays() {
    const HOUR: i64 = 3_600_000_000;
    let folder = tempfile::tempdir().unwrap();
    let mut job = Job::new(open(folder.path(), false).await, "one").await;
    append(&job.handle, &[(1, 0, 1), (2, HOUR - 1, 2)]).await;
    append(&job.handle, &[(1, 2 * HOUR, 3), (2, 3 * HOUR, 4)]).await;
    let before = paths_of(&job.handle).await;
    // Its time is in the first file alone.
    let prepared = job.upsert(&[(2, HOUR - 1, 5)], &[]).await;
    assert_eq!(candidates(&job.handle, &prepared.taken).await, 1);
    job.commit(prepared).await.unwrap();
    let after = paths_of(&job.handle).await;
    assert_eq!(before.intersection(&after).count(), 1);
    let expected = [
        (1, 0, 1),
        (1, 2 * HOUR, 3),
        (2, HOUR - 1, 5),
        (2, 3 * HOUR, 4),
    ];
    assert_eq!(rows_of(&job.handle).await, expected);
    // The second file alone has the rows that are replaced, those of the last microsecond too.
    let prepared = job
        .replace(2 * HOUR, 3 * HOUR + 1, &[(7, 2 * HOUR, 6)])
        .await;
    assert_eq!(candidates(&job.handle, &prepared.taken).await, 1);
    job.commit(prepared).await.unwrap();
    let last = paths_of(&job.handle).await;
    assert_eq!(after.intersection(&last).count(), after.len() - 1);
    let expected = [(1, 0, 1), (2, HOUR - 1, 5), (7, 2 * HOUR, 6)];
    assert_eq!(rows_of(&job.handle).await, expected);
}

#[tokio::test]
async fn exact_2_a_runner_that_lost_the_table_writes_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let mut job = Job::new(open(folder.path(), false).await, "one").await;
    let prepared = job.upsert(&[(1, 0, 1)], &[]).await;
    job.commit(prepared).await.unwrap();
    let prepared = job.upsert(&[(1, 0, 2)], &[]).await;
    let other = open(folder.path(), false).await;
    other.take_over(&job.application.id, 9).await.unwrap();
    let error = job.commit(prepared).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Cancelled, "{error}");
    assert_eq!(rows_of(&other).await, [(1, 0, 1)]);
}

#[tokio::test]
async fn a_batch_that_is_given_up_leaves_no_file() {
    let folder = tempfile::tempdir().unwrap();
    let mut job = Job::new(open(folder.path(), false).await, "one").await;
    let prepared = job.upsert(&[(1, 0, 1), (2, 0, 2)], &[]).await;
    job.commit(prepared).await.unwrap();
    let count = || {
        let files = std::fs::read_dir(folder.path().join("t")).unwrap();
        let names = files.map(|file| file.unwrap().path());
        names.filter(|path| path.extension().is_some()).count()
    };
    let before = count();
    let prepared = job.upsert(&[(1, 0, 3)], &[]).await;
    // The new row, and the other row of the file.
    assert_eq!(count(), before + 2);
    prepared.discard().await;
    assert_eq!(count(), before);
    let (plan, context) = plan(&[(1, 0, 3)]);
    let key = key();
    let rehearsed = job.handle.rehearse_upsert(&key, plan, context);
    rehearsed.await.unwrap();
    assert_eq!(count(), before);
    // A withdrawn row alone makes a commit, and leaves no row.
    let prepared = job.upsert(&[], &[(1, 0, 0), (5, 0, 0)]).await;
    assert_eq!((prepared.rows(), prepared.is_empty()), (2, false));
    job.commit(prepared).await.unwrap();
    assert_eq!(rows_of(&job.handle).await, [(2, 0, 2)]);
    let prepared = job.upsert(&[], &[]).await;
    assert!(prepared.is_empty());
    // So does a replacement without rows: the rows that it takes out tell its commit from none.
    let prepared = job.replace(0, 5, &[]).await;
    assert_eq!((prepared.rows(), prepared.is_empty()), (1, false));
    job.commit(prepared).await.unwrap();
    assert!(rows_of(&job.handle).await.is_empty());
    let prepared = job.replace(0, 5, &[]).await;
    assert_eq!((prepared.rows(), prepared.is_empty()), (0, true));
}

#[tokio::test]
async fn only_times_are_replaced() {
    let folder = tempfile::tempdir().unwrap();
    let handle = open(folder.path(), false).await;
    for (column, said) in [("v", "has no times"), ("w", "is no longer in the table")] {
        let covered = ColumnBounds {
            column: column.to_owned(),
            bounds: TimeBounds::default(),
        };
        let (plan, context) = plan(&[]);
        let refused = handle.prepare_replacement(vec![covered], plan, context);
        let error = refused.await.unwrap_err();
        assert!(error.message().contains(said), "{error}");
    }
}
