//! Tests of the laws of time over a Delta table that is read as a stream, against a naive oracle: random versions of a real
//! table with random files, cut into batches at random.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use datafusion::arrow::array::{
    ArrayRef, AsArray, Int64Array, RecordBatch, TimestampMicrosecondArray,
};
use datafusion::arrow::datatypes::TimestampMicrosecondType;
use datafusion::datasource::memory::MemorySourceConfig;
use datafusion::execution::TaskContext;
use datafusion::physical_plan::collect_partitioned;
use proptest::prelude::*;

use crate::core::jobs::{BatchVersion, FilePosition, JobTime, WatermarkPolicy};
use crate::core::schedules::{Schedules, cases};
use crate::planner::ast::Emit;
use crate::state::{StateTable, StepRule, step};
use crate::store::version_as_stored;
use crate::streaming::laws::oracle::{Values, Window};
use crate::streaming::laws::{groups_of, planned};
use crate::streaming::{BatchSource, JobQuery, StreamTable};
use crate::tables::delta::{
    DeltaColumn, DeltaJobSource, DeltaSpec, DeltaStream, DeltaStreamProvider, DeltaTableHandle,
    StreamPoll,
};
use crate::tables::time::BatchTime;

const SECOND: i64 = 1_000_000;
const DELAY: i64 = 5;
const SIZE: i64 = 10;
const GAP: i64 = 6;
/// Past the time at which any file of these tests is written.
const FAR_FUTURE: i64 = 32_472_144_000;

/// Key, event time in seconds, file of the version. A row's value is its number.
type Row = (i64, Option<i64>, i64);

#[derive(Debug, Clone, Copy, PartialEq)]
enum Kind {
    Tumble,
    Session,
}

/// The results of a job.
#[derive(Debug, Default, PartialEq)]
struct Outcome {
    /// Windows that were closed, with their values in any order.
    closed: BTreeMap<Window, Values>,
    /// Values of late rows, and the windows they missed (none for a session).
    late: BTreeSet<(i64, Option<i64>)>,
    /// Values of rows whose event time is NULL or far outside the valid range.
    dead: BTreeSet<i64>,
}

/// The result by the laws; the first `begin` versions count as one, since the table had them when the job began.
fn oracle(kind: Kind, versions: &[Vec<Row>], begin: usize) -> Outcome {
    let mut outcome = Outcome::default();
    let mut highest: BTreeMap<usize, i64> = BTreeMap::new();
    let mut accepted: Vec<(i64, i64, i64)> = Vec::new();
    let rows = versions.iter().enumerate().flat_map(|(version, rows)| {
        let version = version.max(begin);
        rows.iter().map(move |row| (version, *row))
    });
    let rows: Vec<(i64, usize, Row)> = (0..)
        .zip(rows)
        .map(|(value, (version, row))| (value, version, row))
        .collect();
    for (value, version, (_, time, _)) in &rows {
        match time {
            Some(time) if *time < FAR_FUTURE => {
                let of_version = highest.entry(*version).or_insert(*time);
                *of_version = (*of_version).max(*time);
            }
            _ => _ = outcome.dead.insert(*value),
        }
    }
    for (value, version, (key, time, _)) in rows {
        let Some(time) = time.filter(|_| !outcome.dead.contains(&value)) else {
            continue;
        };
        let met = highest.range(..version).map(|(_, time)| time - DELAY).max();
        let start = time.div_euclid(SIZE) * SIZE;
        match kind {
            Kind::Tumble if met.is_some_and(|met| start + SIZE <= met) => {
                outcome.late.insert((value, Some(start)));
            }
            Kind::Session if met.is_some_and(|met| time < met) => {
                outcome.late.insert((value, None));
            }
            _ => accepted.push((key, time, value)),
        }
    }
    accepted.sort_unstable();
    let mut groups: Vec<(Window, Values)> = Vec::new();
    for (key, time, value) in accepted {
        let start = time.div_euclid(SIZE) * SIZE;
        let window = match kind {
            Kind::Tumble => (Some(key), start, start + SIZE),
            Kind::Session => (Some(key), time, time + GAP),
        };
        let joins = |of: &Window| match kind {
            Kind::Tumble => *of == window,
            Kind::Session => of.0 == window.0 && time <= of.2,
        };
        match groups.last_mut() {
            Some((of, values)) if joins(of) => {
                of.2 = window.2;
                values.0 += 1;
                values.1 += value;
                values.2.push(value);
            }
            _ => groups.push((window, (1, value, vec![value]))),
        }
    }
    let watermark = highest.values().max().map(|time| time - DELAY);
    let is_closed = |window: &Window| {
        watermark.is_some_and(|watermark| match kind {
            Kind::Tumble => window.2 <= watermark,
            Kind::Session => window.2 < watermark,
        })
    };
    outcome.closed = groups
        .into_iter()
        .filter(|(window, _)| is_closed(window))
        .map(|(window, values)| (window, sorted(values)))
        .collect();
    outcome
}

fn sorted((count, sum, mut values): Values) -> Values {
    values.sort_unstable();
    (count, sum, values)
}

/// Creates a table with these versions; a version without rows is not written.
async fn table(folder: &std::path::Path, versions: &[Vec<Row>]) -> Vec<u64> {
    let spec = DeltaSpec {
        location: folder.display().to_string(),
        columns: Some(columns()),
        partition_by: vec!["part".to_owned()],
        ..DeltaSpec::default()
    };
    let handle = DeltaTableHandle::create_or_open(spec).await.unwrap();
    let mut numbers = Vec::new();
    let mut value = 0;
    for rows in versions {
        let values = value..value + rows.len() as i64;
        value = values.end;
        let times = rows
            .iter()
            .map(|(_, time, _)| time.map(|time| time * SECOND));
        let times: TimestampMicrosecondArray = times.collect();
        let of_rows: Vec<(&str, ArrayRef)> = vec![
            (
                "k",
                Arc::new(
                    rows.iter()
                        .map(|(key, ..)| Some(*key))
                        .collect::<Int64Array>(),
                ),
            ),
            ("event_time", Arc::new(times.with_timezone("UTC"))),
            ("v", Arc::new(Int64Array::from_iter_values(values))),
            (
                "part",
                Arc::new(
                    rows.iter()
                        .map(|(.., part)| Some(*part))
                        .collect::<Int64Array>(),
                ),
            ),
        ];
        let batch = of_rows
            .into_iter()
            .map(|(name, column)| (name, column, true));
        let batch = RecordBatch::try_from_iter_with_nullable(batch).unwrap();
        let schema = batch.schema();
        let plan = MemorySourceConfig::try_new_exec(&[vec![batch]], schema, None).unwrap();
        let commit = handle
            .append(plan, Arc::new(TaskContext::default()), None)
            .await;
        numbers.push(commit.unwrap().version);
    }
    numbers
}

fn columns() -> Vec<DeltaColumn> {
    use datafusion::arrow::datatypes::{DataType, TimeUnit};
    let time = DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into()));
    let of = [
        ("k", DataType::Int64),
        ("event_time", time),
        ("v", DataType::Int64),
        ("part", DataType::Int64),
    ];
    of.into_iter()
        .map(|(name, data_type)| DeltaColumn {
            name: name.to_owned(),
            data_type,
            nullable: true,
            generated: None,
            comment: None,
        })
        .collect()
}

async fn job(kind: Kind, folder: &std::path::Path, emit: &str) -> JobQuery {
    let window = match kind {
        Kind::Tumble => "TUMBLE(TABLE visits, DESCRIPTOR(event_time), INTERVAL '10 seconds')",
        Kind::Session => {
            "SESSION(TABLE visits PARTITION BY k, DESCRIPTOR(event_time), INTERVAL '6 seconds')"
        }
    };
    let sql = format!(
        "CREATE EXTERNAL TABLE visits (WATERMARK FOR event_time AS event_time - INTERVAL '{DELAY} seconds')
         STORED AS DELTA LOCATION '{}' OPTIONS ('scan.mode' 'stream');
         CREATE EXTERNAL TABLE out (k BIGINT, s TIMESTAMP, e TIMESTAMP, n BIGINT, total BIGINT, final BOOLEAN, vs BIGINT[])
         STORED AS KAFKA LOCATION 'out' OPTIONS ('kafka.bootstrap.servers' '127.0.0.1:1');
         CREATE JOB j AS INSERT INTO out
         SELECT k, window_start, window_end, count(*), sum(v), is_final(), array_agg(v ORDER BY event_time)
         FROM {window} GROUP BY k, window_start, window_end {emit}",
        folder.display(),
    );
    planned(&sql).await
}

/// The results of a run, and the rows that a reader of its upserts has.
#[derive(Debug, Default)]
struct JobRun {
    outcome: Outcome,
    /// Windows that were closed, with values in the order of time and place.
    in_order: BTreeMap<Window, Values>,
    held: HashMap<Window, Values>,
    batches: usize,
}

/// Runs the job from a place on, with batches of the given `sizes` in rows, and then one with the rest.
async fn run(query: &JobQuery, begin: FilePosition, sizes: &[u64]) -> JobRun {
    let Some(StreamTable::Delta(handle)) = query.sources().get("visits") else {
        panic!("the job reads no Delta table");
    };
    let source = DeltaJobSource::new(handle.clone(), DeltaStream::default());
    let stream = query.stream().unwrap();
    let aggregate = query.aggregate().await.unwrap();
    let schema = Arc::clone(aggregate.state_schema());
    let mut table = StateTable::try_new(schema, aggregate.key_columns()).unwrap();
    let mut ran = JobRun::default();
    let mut time = JobTime::default();
    let known = BTreeMap::from([("visits".to_owned(), BTreeSet::from([0]))]);
    let mut position = begin.offset();
    for size in sizes.iter().copied().chain(std::iter::repeat(u64::MAX)) {
        let look = StreamPoll {
            table: "t",
            position: Some(position),
            max_rows: size,
            skip_to: None,
        };
        let range = source.next(look).await.unwrap();
        if range.start == range.end {
            break;
        }
        position = range.end;
        ran.batches += 1;
        let rule = time.row_watermark(WatermarkPolicy::Lowest, "visits", 0);
        let before = time.partition("visits", 0).copied().unwrap_or_default();
        let of_batch = Arc::new(BatchTime::new([(0, (rule, before))].into()));
        let provider = DeltaStreamProvider::try_new(range, "visits").unwrap();
        let provider = provider.with_time(of_batch, handle);
        let batch = BatchSource {
            provider: Arc::new(provider),
            ranges: Vec::new(),
            last_records: BTreeMap::new(),
            chunk: None,
        };
        let batch = query
            .front([("visits".to_owned(), batch)].into())
            .await
            .unwrap();
        let front = &batch.front;
        let partials: Vec<RecordBatch> =
            collect_partitioned(Arc::clone(&front.plan), Arc::clone(&batch.context))
                .await
                .unwrap()
                .iter()
                .flatten()
                .map(|batch| front.aggregate.as_states(batch, 0).unwrap())
                .collect();
        let sides = batch.finish().await.unwrap();
        let reached = sides.reached();
        let closed_before = time.closed_by;
        time = time.after(WatermarkPolicy::Lowest, &known, &reached, &BTreeMap::new());
        // A process that starts reads it from the version.
        let version = BatchVersion {
            time: Some(time),
            ..BatchVersion::default()
        };
        time = version_as_stored(&version).time.unwrap();
        let rule = StepRule {
            changes: query.emit() == Emit::Changes,
            withdraws: stream.withdraws(),
            closed_before,
            closed_by: time.closed_by,
        };
        let done = step(&table, &aggregate, &partials, rule).unwrap();
        for (group, ..) in groups_of(&done.before) {
            ran.held.remove(&group);
        }
        for (group, values, is_final) in groups_of(&done.emitted) {
            ran.held.insert(group, values.clone());
            if is_final {
                let again = ran.in_order.insert(group, values.clone());
                assert_eq!(again, None, "a window closes once");
                ran.outcome.closed.insert(group, sorted(values));
            }
        }
        if let Some(late) = sides.late {
            let starts = late.column(5).as_primitive::<TimestampMicrosecondType>();
            for (row, start) in starts.iter().enumerate() {
                let value = late.column(3).as_binary::<i32>().value(row);
                let late = (value_of(value), start.map(|start| start / SECOND));
                assert!(ran.outcome.late.insert(late), "a row is late once");
            }
        }
        for (_, record) in sides.dead_letters {
            let value = value_of(&record.value.unwrap());
            assert!(ran.outcome.dead.insert(value), "a row is dead once");
        }
        table.apply(done.change).unwrap();
    }
    ran
}

/// The value of a late row or dead letter that was stored as JSON.
fn value_of(row: &[u8]) -> i64 {
    let row: serde_json::Value = serde_json::from_slice(row).unwrap();
    row["v"].as_i64().unwrap()
}

/// Versions that go forward, with files out of order, ties, and rows without a time of this world.
fn versions() -> impl Strategy<Value = Vec<Vec<Row>>> {
    let row = (0..3_i64, -12..14_i64, 0..3_i64, 0..20_u8);
    let version = prop::collection::vec(row, 1..10);
    prop::collection::vec(version, 1..7).prop_map(|versions| {
        let of_version = |(number, rows): (i64, Vec<(i64, i64, i64, u8)>)| {
            let rows = rows.into_iter().map(|(key, step, part, odd)| {
                let time = match odd {
                    0 => None,
                    1 => Some(FAR_FUTURE + step.abs()),
                    2 => Some(100 + 8 * number - 30),
                    _ => Some(100 + 8 * number + step),
                };
                (key, time, part)
            });
            rows.collect()
        };
        (0..).zip(versions).map(of_version).collect()
    })
}

fn check(kind: Kind) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    let schedules = Schedules::of(format!("{kind:?} over versions of a table"));
    let sizes = prop::collection::vec(1..12_u64, 0..12);
    proptest!(cases(12), |(versions in versions(), begin in 0..4_usize, sizes in sizes)| {
        schedules.count();
        let begin = begin.min(versions.len() - 1);
        let expected = oracle(kind, &versions, begin);
        let folder = tempfile::tempdir().unwrap();
        let (on_close, changes, at) = runtime.block_on(async {
            let numbers = table(folder.path(), &versions).await;
            let at = FilePosition::start_of_all(numbers[begin]);
            let on_close = job(kind, folder.path(), "EMIT ON WINDOW CLOSE").await;
            (on_close, job(kind, folder.path(), "EMIT CHANGES").await, at)
        });
        let whole = runtime.block_on(run(&on_close, at, &[]));
        prop_assert_eq!(whole.batches, 1);
        prop_assert_eq!(&whole.outcome, &expected);
        let cut = runtime.block_on(run(&on_close, at, &sizes));
        prop_assert_eq!(&cut.outcome, &expected);
        prop_assert_eq!(&cut.in_order, &whole.in_order);
        let changed = runtime.block_on(run(&changes, at, &sizes));
        prop_assert_eq!(&changed.outcome, &expected);
        prop_assert_eq!(&changed.in_order, &whole.in_order);
        for (window, values) in &whole.in_order {
            prop_assert_eq!(changed.held.get(window), Some(values));
        }
    });
}

#[test]
fn time_1_2_3_tumbling_windows_over_versions_do_not_depend_on_the_cut() {
    check(Kind::Tumble);
}

#[test]
fn time_1_2_3_sessions_over_versions_do_not_depend_on_the_cut() {
    check(Kind::Session);
}
