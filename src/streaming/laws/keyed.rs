//! Aggregates without a window against a naive oracle: random logs, cuts, clocks, and restarts.

use std::collections::BTreeMap;
use std::sync::Arc;

use datafusion::arrow::array::{Array, AsArray, RecordBatch};
use datafusion::arrow::datatypes::{Int64Type, SchemaRef};
use datafusion::datasource::MemTable;
use datafusion::physical_plan::collect_partitioned;
use proptest::prelude::*;

use crate::core::jobs::{JobTime, RowWatermark, RunningWatermark};
use crate::core::schedules::{Schedules, cases};
use crate::state::{StateTable, StepRule, encode_states, read_states, replay, step};
use crate::streaming::laws::oracle::Log;
use crate::streaming::laws::{planned, scanned};
use crate::streaming::{BatchSource, JobQuery};

/// Count, sum, distinct values, and the values in the order of their rest by three, partition and offset.
type Values = (i64, i64, i64, Vec<i64>);
/// Rest by three, partition, offset and value of a row.
type TakenRow = (i64, i32, i64, i64);

const AGGREGATES: &str = "count(*), sum(v), count(DISTINCT v), array_agg(v ORDER BY v % 3)";

/// A job over a topic that declares no watermark; its filter drops rows with a value divisible by five.
async fn job(is_global: bool) -> JobQuery {
    let (key, group) = match is_global {
        true => ("CAST(NULL AS BIGINT)", ""),
        false => ("k", "GROUP BY k"),
    };
    planned(&format!(
        "CREATE EXTERNAL TABLE visits (k BIGINT, event_time TIMESTAMP, v BIGINT)
         STORED AS KAFKA LOCATION 'visits' OPTIONS ('kafka.bootstrap.servers' '127.0.0.1:1');
         CREATE EXTERNAL TABLE out (k BIGINT, n BIGINT, total BIGINT, d BIGINT, vs BIGINT[])
         STORED AS KAFKA LOCATION 'out' OPTIONS ('kafka.bootstrap.servers' '127.0.0.1:1');
         CREATE JOB j AS INSERT INTO out SELECT {key}, {AGGREGATES} FROM visits WHERE v % 5 <> 0 {group} EMIT CHANGES"
    ))
    .await
}

/// The input of a batch: how many rows of each partition, its time, and whether the process died before it.
#[derive(Debug, Clone)]
struct Batch {
    rows: Vec<usize>,
    now: i64,
    is_restarted: bool,
}

/// The expected state by definition: all rows of a key since it last expired.
#[derive(Debug, Default, Clone)]
struct Oracle {
    clock: i64,
    keys: BTreeMap<Option<i64>, (i64, Vec<TakenRow>)>,
}

fn values(rows: &[TakenRow]) -> Values {
    let mut rows = rows.to_vec();
    rows.sort_unstable();
    let in_order: Vec<i64> = rows.iter().map(|row| row.3).collect();
    let mut distinct = in_order.clone();
    distinct.sort_unstable();
    distinct.dedup();
    let count = |values: &[i64]| i64::try_from(values.len()).unwrap();
    (
        count(&in_order),
        in_order.iter().sum(),
        count(&distinct),
        in_order,
    )
}

impl Oracle {
    /// Returns the rows that are emitted, and the rows that the same keys gave before.
    fn batch(
        &mut self,
        rows: Vec<(Option<i64>, TakenRow)>,
        now: i64,
        ttl: Option<i64>,
    ) -> (BTreeMap<Option<i64>, Values>, BTreeMap<Option<i64>, Values>) {
        self.clock = self.clock.max(now);
        let clock = self.clock;
        self.keys
            .retain(|_, (touched, _)| ttl.is_none_or(|ttl| clock - *touched < ttl));
        let (mut emitted, mut before) = (BTreeMap::new(), BTreeMap::new());
        for (key, _) in &rows {
            if let Some((_, rows)) = self.keys.get(key) {
                before.insert(*key, values(rows));
            }
        }
        for (key, row) in rows {
            let (touched, rows) = self.keys.entry(key).or_default();
            *touched = clock;
            rows.push(row);
            emitted.insert(key, ());
        }
        let emitted = emitted.into_keys();
        (
            emitted
                .map(|key| (key, values(&self.keys[&key].1)))
                .collect(),
            before,
        )
    }
}

fn groups_of(rows: &RecordBatch) -> BTreeMap<Option<i64>, Values> {
    // A group of all rows has no key column.
    let first = rows.num_columns() - 4;
    let number =
        |column: usize, row: usize| rows.column(column).as_primitive::<Int64Type>().value(row);
    let mut groups = BTreeMap::new();
    for row in 0..rows.num_rows() {
        let key = match first {
            0 => None,
            _ => {
                let keys = rows.column(0).as_primitive::<Int64Type>();
                keys.is_valid(row).then(|| keys.value(row))
            }
        };
        let list = rows.column(first + 3).as_list::<i32>().value(row);
        let in_order = list.as_primitive::<Int64Type>().values().to_vec();
        let values = (
            number(first, row),
            number(first + 1, row),
            number(first + 2, row),
            in_order,
        );
        assert!(groups.insert(key, values).is_none(), "a key comes once");
    }
    groups
}

async fn check(
    query: &JobQuery,
    is_global: bool,
    logs: &[Log],
    batches: &[Batch],
    ttl: Option<i64>,
) {
    let aggregate = query.aggregate().await.unwrap();
    let new_table = || {
        StateTable::try_new(
            SchemaRef::clone(aggregate.state_schema()),
            aggregate.key_columns(),
        )
        .unwrap()
    };
    let evaluated = |table: &StateTable| {
        let rows = table.rows().unwrap();
        let is_final = vec![false; rows.num_rows()].into();
        groups_of(&aggregate.evaluate(&rows, &is_final).unwrap())
    };
    let mut table = new_table();
    let mut files: Vec<(Vec<u8>, Option<i64>)> = Vec::new();
    let (mut time, mut oracle) = (JobTime::default(), Oracle::default());
    let mut read = vec![0; logs.len()];
    for batch in batches {
        if batch.is_restarted {
            table = new_table();
            for (bytes, forgotten_by) in &files {
                let closes_at = |rows: &RecordBatch| aggregate.closes_at(rows);
                read_states(&mut table, bytes, *forgotten_by, closes_at).unwrap();
            }
        }
        let mut partitions = Vec::new();
        let mut taken = Vec::new();
        for (partition, log) in (0_i32..).zip(logs) {
            let at = &mut read[partition as usize];
            let count = batch.rows[partition as usize].min(log.len() - *at);
            let rows = &log[*at..*at + count];
            let mut running = RunningWatermark::new(RowWatermark::From(None), None, 0);
            partitions.push(vec![scanned(partition, *at, rows, &mut running)]);
            for (offset, (key, _, value)) in (*at..).zip(rows) {
                if value % 5 != 0 {
                    let key = key.filter(|_| !is_global);
                    let offset = i64::try_from(offset).unwrap();
                    taken.push((key, (value % 3, partition, offset, *value)));
                }
            }
            *at += count;
        }
        let schema = partitions[0][0].schema();
        let source = BatchSource {
            provider: Arc::new(MemTable::try_new(schema, partitions).unwrap()),
            ranges: Vec::new(),
            last_records: BTreeMap::new(),
            chunk: None,
        };
        let sources = BTreeMap::from([("visits".to_owned(), source)]);
        let front = query.front(sources).await.unwrap();
        time = time.at(batch.now, ttl);
        let clock = time.clock.unwrap();
        let partials: Vec<RecordBatch> =
            collect_partitioned(Arc::clone(&front.front.plan), Arc::clone(&front.context))
                .await
                .unwrap()
                .iter()
                .flatten()
                .map(|rows| front.front.aggregate.as_states(rows, clock).unwrap())
                .collect();
        let rule = StepRule {
            changes: true,
            withdraws: true,
            closed_before: None,
            closed_by: time.closed_by,
        };
        let done = step(&table, &aggregate, &partials, rule).unwrap();
        let (emitted, before) = oracle.batch(taken, batch.now, ttl);
        assert_eq!(groups_of(&done.emitted), emitted);
        assert_eq!(groups_of(&done.before), before);
        files.push((
            encode_states(aggregate.state_schema(), std::slice::from_ref(&done.log)).unwrap(),
            time.closed_by,
        ));
        let rows_after = done.rows_after;
        table.apply(done.change).unwrap();
        assert_eq!(table.len(), rows_after);
        let held: BTreeMap<_, _> = oracle
            .keys
            .iter()
            .map(|(key, (_, rows))| (*key, values(rows)))
            .collect();
        assert_eq!(evaluated(&table), held);
        // The state by the metadata of the files, without the job.
        let shown = replay(&files).unwrap().unwrap();
        assert_eq!(shown.num_rows(), held.len());
    }
}

fn batches() -> impl Strategy<Value = Vec<Batch>> {
    let batch = (
        prop::collection::vec(0..6_usize, 3),
        -3..12_i64,
        prop::bool::weighted(0.2),
    );
    prop::collection::vec(batch, 1..12).prop_map(|batches| {
        let mut now = 1_000;
        batches
            .into_iter()
            .map(|(rows, step, is_restarted)| {
                // A clock may be set back.
                now += step;
                Batch {
                    rows,
                    now,
                    is_restarted,
                }
            })
            .collect()
    })
}

fn logs() -> impl Strategy<Value = Vec<Log>> {
    let row = (
        prop_oneof![Just(None), (0..5_i64).prop_map(Some)],
        Just(0),
        0..30_i64,
    );
    prop::collection::vec(prop::collection::vec(row, 0..40), 1..4)
}

fn check_all(is_global: bool) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    let query = runtime.block_on(job(is_global));
    let schedules = Schedules::of(format!("keys, all rows in one group: {is_global}"));
    proptest!(cases(96), |(logs in logs(), batches in batches(), ttl in prop::option::of(1..20_i64))| {
        schedules.count();
        runtime.block_on(check(&query, is_global, &logs, &batches, ttl));
    });
}

#[test]
fn time_3_keys_do_not_depend_on_batches_unless_they_expire() {
    check_all(false);
}

#[test]
fn time_3_a_global_group_is_emitted_when_a_row_came() {
    check_all(true);
}
