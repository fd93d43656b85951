//! The laws of time against a naive oracle: random logs, cut into batches at random.

#[cfg(test)]
pub(crate) mod keyed;
#[cfg(test)]
pub(crate) mod oracle;
#[cfg(test)]
pub(crate) mod runs;
#[cfg(test)]
pub(crate) mod slices;
#[cfg(test)]
pub(crate) mod versions;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::{Arc, LazyLock};

use datafusion::arrow::array::{
    Array, ArrayRef, AsArray, BinaryArray, Int32Array, Int64Array, RecordBatch, StringArray,
    StructArray, TimestampMicrosecondArray,
};
use datafusion::arrow::compute::concat_batches;
use datafusion::arrow::datatypes::{
    DataType, Field, Int64Type, Schema, SchemaRef, TimestampMicrosecondType,
};
use datafusion::datasource::MemTable;
use datafusion::physical_plan::collect_partitioned;
use proptest::prelude::*;

use crate::core::jobs::{JobTime, RowWatermark, RunningWatermark, WatermarkPolicy};
use crate::core::schedules::{Schedules, cases};
use crate::planner::ast::{Emit, JobStatement, Statement};
use crate::planner::{Parameters, Script, parse_statement};
use crate::session::{ForkOptions, Session, SessionOptions};
use crate::state::{StateTable, StepRule, encode_states, read_states, step};
use crate::streaming::laws::oracle::{
    CUMULATE, DELAY, HOP, Joined, Kind, LateRows, Log, Row, SECOND, TUMBLE, Values, Window,
    numbered, oracle,
};
use crate::streaming::{BatchSource, JobQuery};

/// The session that the sessions of all jobs are forked from. No table is ever defined in it, and all functions are registered
/// in it once.
static EMPTY: LazyLock<Session> =
    LazyLock::new(|| Session::try_new(&SessionOptions::default()).unwrap());

/// The FILTER of the job's aggregate: none.
pub(super) const PLAIN: &str = "";
/// The aggregate asks each row for its window; all rows pass.
pub(super) const ASKED: &str = "FILTER (WHERE event_time < window_end)";

pub(super) async fn job(kind: Kind, joined: Joined, asking: &str, emit: &str) -> JobQuery {
    let query = insert(kind, joined, asking, "is_final()", emit);
    planned(&query).await
}

/// The job without `is_final()`; in its place stands a condition that is false for all rows.
pub(super) async fn job_without_final(kind: Kind, emit: &str) -> JobQuery {
    planned(&insert(kind, Joined::Not, PLAIN, "bool_or(v < 0)", emit)).await
}

fn insert(kind: Kind, joined: Joined, asking: &str, is_final: &str, emit: &str) -> String {
    format!(
        "CREATE EXTERNAL TABLE visits (k BIGINT, event_time TIMESTAMP, v BIGINT,
           WATERMARK FOR event_time AS event_time - INTERVAL '{DELAY} seconds')
         STORED AS KAFKA LOCATION 'visits' OPTIONS ('kafka.bootstrap.servers' '127.0.0.1:1');
         CREATE EXTERNAL TABLE out (k BIGINT, s TIMESTAMP, e TIMESTAMP, n BIGINT, total BIGINT, final BOOLEAN, vs BIGINT[])
         STORED AS KAFKA LOCATION 'out' OPTIONS ('kafka.bootstrap.servers' '127.0.0.1:1');
         CREATE VIEW bonus AS SELECT * FROM (VALUES (0, 1000), (0, 2000), (1, 500)) AS b (bk, w);
         CREATE JOB j AS INSERT INTO out
         WITH below AS ({})
         SELECT k, window_start AS s, window_start AS e, count(*) {asking}, sum(v + coalesce(w, 0)), {is_final}, array_agg(v ORDER BY event_time)
         FROM {} AS rows {} GROUP BY {} {emit}",
        joined.below(),
        kind.from(),
        joined.above(),
        kind.groups(),
    )
}

/// The job of a script that defines its tables first.
pub(super) async fn planned(sql: &str) -> JobQuery {
    let session = EMPTY.fork(&ForkOptions::default()).unwrap();
    for raw in Script::new("laws", sql).split().unwrap() {
        let mut parsed = parse_statement(&raw).unwrap();
        Parameters::default().bind(&mut parsed).unwrap();
        let is_job = matches!(parsed.statement, Statement::Job(_));
        if !is_job {
            session.execute(parsed).await.unwrap();
            continue;
        }
        if let Statement::Job(job) = parsed.statement
            && let JobStatement::Create { insert, emit, .. } = *job
        {
            return JobQuery::try_new(&session, *insert, emit).await.unwrap();
        }
    }
    panic!("no job in the script");
}

/// Rows of one partition as a scan returns them, with the hidden column.
pub(super) fn scanned(
    partition: i32,
    first: usize,
    rows: &[Row],
    running: &mut RunningWatermark,
) -> RecordBatch {
    let met: Vec<i64> = rows
        .iter()
        .map(|(_, time, _)| {
            let met = running.met().unwrap_or(i64::MIN);
            running.pass(time * SECOND);
            met
        })
        .collect();
    let count = rows.len();
    let offsets = (first..).take(count).map(|offset| offset as i64);
    let fields = [
        Arc::new(Field::new("watermark", DataType::Int64, false)),
        Arc::new(Field::new("partition", DataType::Int32, false)),
        Arc::new(Field::new("offset", DataType::Int64, false)),
        Arc::new(Field::new("row", DataType::Int64, false)),
        Arc::new(Field::new("topic", DataType::Utf8, true)),
        Arc::new(Field::new("value", DataType::Binary, true)),
    ];
    let columns: [ArrayRef; 6] = [
        Arc::new(Int64Array::from(met)),
        Arc::new(Int32Array::from(vec![partition; count])),
        Arc::new(Int64Array::from_iter_values(offsets)),
        Arc::new(Int64Array::from(vec![0; count])),
        Arc::new(StringArray::from(vec![Some("visits"); count])),
        Arc::new(BinaryArray::from(vec![Some(&b"raw"[..]); count])),
    ];
    let hidden: StructArray = fields.into_iter().zip(columns).collect::<Vec<_>>().into();
    let times = rows.iter().map(|(_, time, _)| time * SECOND);
    let keys: Int64Array = rows.iter().map(|(key, _, _)| *key).collect();
    let values = rows.iter().map(|(_, _, value)| *value);
    let columns: Vec<ArrayRef> = vec![
        Arc::new(keys),
        Arc::new(TimestampMicrosecondArray::from_iter_values(times).with_timezone("UTC")),
        Arc::new(Int64Array::from_iter_values(values)),
        Arc::new(hidden),
    ];
    let nullable = ["k", "event_time", "v"];
    let fields: Vec<Field> = columns
        .iter()
        .enumerate()
        .map(|(index, column)| {
            let name = nullable.get(index).copied().unwrap_or("__row");
            Field::new(name, column.data_type().clone(), index < 3)
        })
        .collect();
    RecordBatch::try_new(Arc::new(Schema::new(fields)), columns).unwrap()
}

/// The groups of emitted rows, and whether each row is final.
pub(super) fn groups_of(rows: &RecordBatch) -> Vec<(Window, Values, bool)> {
    let of_name = |name: &str| {
        let schema = rows.schema();
        let found = schema
            .fields()
            .iter()
            .position(|field| field.name().contains(name));
        found.map(|index| rows.column(index))
    };
    let keys = of_name("k").unwrap().as_primitive::<Int64Type>();
    let parts = of_name("%").map(|parts| parts.as_primitive::<Int64Type>());
    let starts = of_name("window_start").unwrap();
    let ends = of_name("window_end").unwrap_or(starts);
    let time = |times: &ArrayRef, row: usize| {
        times.as_primitive::<TimestampMicrosecondType>().value(row) / SECOND
    };
    let aggregates = &rows.columns()[rows.num_columns() - 4..];
    let number =
        |column: usize, row: usize| aggregates[column].as_primitive::<Int64Type>().value(row);
    (0..rows.num_rows())
        .map(|row| {
            let key = keys.is_valid(row).then(|| keys.value(row));
            let key = match parts {
                Some(parts) => Some(numbered(key, parts.value(row))),
                None => key,
            };
            let list = aggregates[3].as_list::<i32>().value(row);
            let in_order = list.as_primitive::<Int64Type>().values().to_vec();
            let values = (number(0, row), number(1, row), in_order);
            let is_final = aggregates[2].as_boolean().value(row);
            ((key, time(starts, row), time(ends, row)), values, is_final)
        })
        .collect()
}

/// A run of a job over logs, cut as `cuts` says: how many rows of each partition a batch reads.
pub(super) struct JobRun {
    pub(super) emitted: Vec<(Window, Values, bool)>,
    /// The rows that a reader of the upserts has in the end.
    pub(super) held: HashMap<Window, Values>,
    pub(super) open: BTreeMap<Window, Values>,
    pub(super) late: LateRows,
    /// The most rows that the state had.
    pub(super) most_rows: usize,
}

pub(super) async fn run(query: &JobQuery, logs: &[Log], cuts: &[Vec<usize>]) -> JobRun {
    let stream = query.stream().unwrap();
    let aggregate = query.aggregate().await.unwrap();
    let new_table = || {
        StateTable::try_new(
            SchemaRef::clone(aggregate.state_schema()),
            aggregate.key_columns(),
        )
        .unwrap()
    };
    let mut table = new_table();
    let mut logged: Vec<(Vec<u8>, Option<i64>)> = Vec::new();
    let mut time = JobTime::default();
    let known = BTreeMap::from([(
        "visits".to_owned(),
        (0..i32::try_from(logs.len()).unwrap()).collect::<BTreeSet<_>>(),
    )]);
    let mut read = vec![0; logs.len()];
    let mut ran = JobRun {
        emitted: Vec::new(),
        held: HashMap::new(),
        open: BTreeMap::new(),
        late: LateRows::new(),
        most_rows: 0,
    };
    let restored = |logged: &[(Vec<u8>, Option<i64>)]| {
        let mut table = new_table();
        for (bytes, closed_by) in logged {
            let closes_at = |rows: &RecordBatch| aggregate.closes_at(rows);
            read_states(&mut table, bytes, *closed_by, closes_at).unwrap();
        }
        table
    };
    // The last batch reads all rows that no cut has read.
    let rest: Vec<usize> = logs.iter().map(Vec::len).collect();
    for (batch, cut) in cuts.iter().chain([&rest]).enumerate() {
        // Now and then the process dies, and another one goes on.
        if batch % 3 == 2 {
            table = restored(&logged);
        }
        let mut partitions = Vec::new();
        let mut reached = BTreeMap::new();
        for (partition, log) in (0_i32..).zip(logs) {
            let at = &mut read[partition as usize];
            let take = cut[partition as usize].min(log.len() - *at);
            if take == 0 {
                continue;
            }
            let rule = time.row_watermark(WatermarkPolicy::Lowest, "visits", partition);
            assert!(matches!(rule, RowWatermark::From(_)));
            let before = time
                .partition("visits", partition)
                .and_then(|time| time.watermark);
            let mut running = RunningWatermark::new(rule, before, DELAY * SECOND);
            let rows = &log[*at..*at + take];
            partitions.push(vec![scanned(partition, *at, rows, &mut running)]);
            reached.insert(partition, running.reached().into());
            *at += take;
        }
        if partitions.is_empty() {
            continue;
        }
        let schema = partitions[0][0].schema();
        let provider = MemTable::try_new(schema, partitions).unwrap();
        let source = BatchSource {
            provider: Arc::new(provider),
            ranges: Vec::new(),
            last_records: BTreeMap::new(),
            chunk: None,
        };
        let sources = BTreeMap::from([("visits".to_owned(), source)]);
        let batch = query.front(sources).await.unwrap();
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
        let reached = BTreeMap::from([("visits".to_owned(), reached)]);
        let closed_before = time.closed_by;
        time = time.after(WatermarkPolicy::Lowest, &known, &reached, &BTreeMap::new());
        let rule = StepRule {
            changes: query.emit() == Emit::Changes,
            withdraws: stream.withdraws(),
            closed_before,
            closed_by: time.closed_by,
        };
        let done = step(&table, &aggregate, &partials, rule).unwrap();
        let mut said = ran.held.clone();
        for (group, values, is_final) in groups_of(&done.before) {
            assert_eq!(
                ran.held.remove(&group),
                Some(values),
                "what was said before"
            );
            assert!(!is_final);
        }
        for (group, values, is_final) in groups_of(&done.emitted) {
            let before = said.remove(&group);
            let is_new = before.as_ref() != Some(&values);
            assert!(is_new || is_final, "{group:?} was not touched");
            if stream.withdraws() && is_new && before.is_some() {
                assert_eq!(ran.held.get(&group), None, "{group:?} is not withdrawn");
            }
            ran.held.insert(group, values.clone());
            ran.emitted.push((group, values, is_final));
        }
        if let Some(late) = sides.late {
            note_late(&late, &mut ran.late);
        }
        logged.push((
            encode_states(aggregate.state_schema(), std::slice::from_ref(&done.log)).unwrap(),
            time.closed_by,
        ));
        let (count_after, rows_after) = (done.rows_after, table.rows_after(&done.change).unwrap());
        table.apply(done.change).unwrap();
        assert_eq!(table.len(), count_after);
        ran.most_rows = ran.most_rows.max(count_after);
        let in_order = |batches: &[RecordBatch]| {
            let mut groups = Vec::new();
            let rows = concat_batches(aggregate.state_schema(), batches).unwrap();
            groups.extend(groups_of(
                &aggregate.evaluate_open(&rows, time.closed_by).unwrap(),
            ));
            groups.sort();
            groups
        };
        assert_eq!(in_order(&rows_after), in_order(&[table.rows().unwrap()]));
    }
    // The state restored from the written files equals the state in memory.
    let restored = restored(&logged);
    let evaluated = |table: &StateTable| {
        let rows = table.rows().unwrap();
        let rows = aggregate.evaluate_open(&rows, time.closed_by).unwrap();
        groups_of(&rows)
            .into_iter()
            .map(|(group, values, _)| (group, values))
            .collect()
    };
    ran.open = evaluated(&table);
    let again: BTreeMap<_, _> = evaluated(&restored);
    assert_eq!(ran.open, again, "the state after a restart");
    ran
}

fn note_late(late: &RecordBatch, found: &mut LateRows) {
    use datafusion::arrow::datatypes::Int32Type;
    let partitions = late.column(1).as_primitive::<Int32Type>();
    let offsets = late.column(2).as_primitive::<Int64Type>();
    let starts = late.column(5).as_primitive::<TimestampMicrosecondType>();
    let ends = late.column(6).as_primitive::<TimestampMicrosecondType>();
    for row in 0..late.num_rows() {
        assert_eq!(late.column(3).as_binary::<i32>().value(row), b"raw");
        let window = starts
            .is_valid(row)
            .then(|| (starts.value(row) / SECOND, ends.value(row) / SECOND));
        let late = (partitions.value(row), offsets.value(row), window);
        *found.entry(late).or_default() += 1;
    }
}

/// Logs that go forward, with rows out of order, ties, NULL keys and rows far behind.
fn logs() -> impl Strategy<Value = Vec<Log>> {
    let row = (
        prop_oneof![Just(None), (0..3_i64).prop_map(Some)],
        -9..6_i64,
        0..100_i64,
    );
    let log = prop::collection::vec(row, 0..40).prop_map(|rows| {
        let mut now = 100;
        rows.into_iter()
            .map(|(key, step, value)| {
                now += 2;
                // Now and then a row is far behind its neighbours.
                let behind = if step == -9 { 25 } else { 0 };
                (key, now + step - behind, value)
            })
            .collect()
    });
    prop::collection::vec(log, 1..4)
}

fn cuts() -> impl Strategy<Value = Vec<Vec<usize>>> {
    prop::collection::vec(prop::collection::vec(0..9_usize, 3), 0..8)
}

fn check(kind: Kind) {
    check_job(kind, Joined::Not, PLAIN, "", 64);
}

fn check_joined(kind: Kind, joined: Joined, cases: u32) {
    check_job(kind, joined, PLAIN, "", cases);
}

fn check_job(kind: Kind, joined: Joined, asking: &str, having: &str, usual: u32) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    let planned = |emit: &str| {
        let query = runtime.block_on(job(kind, joined, asking, &format!("{having} EMIT {emit}")));
        let aggregate = runtime.block_on(query.aggregate()).unwrap();
        let overlaps = matches!(kind, Kind::Hop(..) | Kind::Cumulate(..));
        assert_eq!(aggregate.slices().is_some(), overlaps && asking.is_empty());
        query
    };
    let (on_close, changes) = (planned("ON WINDOW CLOSE"), planned("CHANGES"));
    let schedules = Schedules::of(format!("{kind:?}, {joined:?} {asking} {having}"));
    proptest!(cases(usual), |(logs in logs(), cuts in cuts())| {
        schedules.count();
        let expected = oracle(kind, joined, &logs);
        let ran = runtime.block_on(run(&on_close, &logs, &cuts));
        let mut emitted = BTreeMap::new();
        for (group, values, is_final) in ran.emitted {
            prop_assert!(is_final);
            prop_assert!(emitted.insert(group, values).is_none(), "a window closes once");
        }
        prop_assert_eq!(&emitted, &expected.closed);
        prop_assert_eq!(&ran.open, &expected.open);
        prop_assert_eq!(&ran.late, &expected.late);

        let ran = runtime.block_on(run(&changes, &logs, &cuts));
        let finals: BTreeMap<_, _> = ran
            .emitted
            .iter()
            .filter(|(_, _, is_final)| *is_final)
            .map(|(group, values, _)| (*group, values.clone()))
            .collect();
        prop_assert_eq!(&finals, &expected.closed);
        prop_assert_eq!(&ran.open, &expected.open);
        prop_assert_eq!(&ran.late, &expected.late);
        // Rows that a reader of the upserts has in the end.
        let mut all = expected.closed;
        all.extend(expected.open);
        let held: BTreeMap<_, _> = ran.held.into_iter().collect();
        prop_assert_eq!(held, all);
    });
}

#[test]
fn time_1_2_3_tumbling_windows_do_not_depend_on_the_cut() {
    check(TUMBLE);
    check_job(
        Kind::Tumble(10, 3),
        Joined::Not,
        PLAIN,
        "HAVING count(*) > 0",
        24,
    );
}

#[test]
fn time_1_2_3_hopping_windows_do_not_depend_on_the_cut() {
    check(HOP);
    check_job(Kind::Hop(3, 15, 7), Joined::Not, PLAIN, "", 32);
    check_job(
        Kind::Hop(2, 20, -1),
        Joined::Not,
        PLAIN,
        "HAVING count(*) > 0",
        32,
    );
}

#[test]
fn time_1_2_3_cumulating_windows_do_not_depend_on_the_cut() {
    check(CUMULATE);
    check_job(Kind::Cumulate(3, 18, 11), Joined::Not, PLAIN, "", 32);
    check_job(
        Kind::Cumulate(2, 20, -3),
        Joined::Not,
        PLAIN,
        "HAVING count(*) > 0",
        32,
    );
}

/// So many windows that slices are merged before windows are made from them.
#[test]
fn time_1_2_3_windows_of_many_slices_do_not_depend_on_the_cut() {
    check_job(
        Kind::Hop(1, 120, 17),
        Joined::Not,
        PLAIN,
        "HAVING count(*) > 0",
        6,
    );
    check_job(Kind::Cumulate(1, 90, 50), Joined::Not, PLAIN, "", 6);
}

#[test]
fn time_1_2_3_windows_read_by_rows_do_not_depend_on_the_cut() {
    check_job(HOP, Joined::Not, ASKED, "", 24);
    let having = format!("HAVING count(*) {ASKED} > 0");
    check_job(CUMULATE, Joined::Not, ASKED, &having, 24);
}

#[test]
fn a_closed_window_is_not_emitted_again_without_is_final() {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    for kind in [TUMBLE, HOP, CUMULATE, Kind::Session] {
        for emit in ["EMIT CHANGES", "HAVING count(*) > 0 EMIT CHANGES"] {
            let query = runtime.block_on(job_without_final(kind, emit));
            let schedules =
                Schedules::of(format!("{kind:?}, {emit}, nothing said of what is final"));
            proptest!(cases(16), |(logs in logs(), cuts in cuts())| {
                schedules.count();
                let mut expected = oracle(kind, Joined::Not, &logs);
                // `run` asserts that each emitted row was touched by its batch.
                let ran = runtime.block_on(run(&query, &logs, &cuts));
                prop_assert_eq!(&ran.open, &expected.open);
                expected.closed.extend(expected.open);
                let held: BTreeMap<_, _> = ran.held.into_iter().collect();
                prop_assert_eq!(held, expected.closed);
            });
        }
    }
}

#[test]
fn time_1_2_3_sessions_do_not_depend_on_the_cut() {
    check(Kind::Session);
}

#[test]
fn time_1_2_3_finer_groups_of_sessions_do_not_depend_on_the_cut() {
    check(Kind::SessionByPart);
    check(Kind::SessionByPartAndStart);
    check_joined(Kind::SessionByPart, Joined::InnerBelow, 24);
}

#[test]
fn time_1_2_3_joins_with_static_tables_below_a_window_do_not_depend_on_the_cut() {
    check_joined(TUMBLE, Joined::InnerBelow, 24);
    check_joined(Kind::Session, Joined::InnerBelow, 24);
    check_joined(Kind::Session, Joined::RightBelow, 24);
    check_joined(Kind::Session, Joined::InBelow, 24);
}

#[test]
fn time_1_2_3_joins_with_static_tables_above_a_window_do_not_depend_on_the_cut() {
    check_joined(TUMBLE, Joined::InnerAbove, 24);
    check_joined(HOP, Joined::LeftAbove, 24);
    check_joined(TUMBLE, Joined::CrossAbove, 24);
    check_joined(CUMULATE, Joined::InAbove, 24);
    check_joined(TUMBLE, Joined::NotInAbove, 24);
    check_joined(HOP, Joined::ExistsAbove, 24);
}
