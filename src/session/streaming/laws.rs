//! The laws of time against a naive oracle: random logs, cut into batches at random.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use datafusion::arrow::array::{
    Array, ArrayRef, AsArray, BinaryArray, Int32Array, Int64Array, RecordBatch, StringArray,
    StructArray, TimestampMicrosecondArray,
};
use datafusion::arrow::datatypes::{
    DataType, Field, Int64Type, Schema, SchemaRef, TimestampMicrosecondType,
};
use datafusion::datasource::MemTable;
use datafusion::physical_plan::collect_partitioned;
use proptest::prelude::*;

use crate::core::jobs::{JobTime, RowWatermark, RunningWatermark, WatermarkPolicy};
use crate::exec::keyed::{StateTable, StepRule, encode_states, read_states, step};
use crate::planner::ast::{Emit, JobStatement, Statement};
use crate::planner::{Parameters, Script, parse_statement};
use crate::session::{BatchSource, JobQuery, Session, SessionOptions, late_rows};

const SECOND: i64 = 1_000_000;
const DELAY: i64 = 5;

/// A row: key, event time in seconds, value.
pub(super) type Row = (Option<i64>, i64, i64);
/// Key, start and end of a window in seconds.
pub(super) type Window = (Option<i64>, i64, i64);
/// Count, sum, and the values in the order of event time, partition and offset.
pub(super) type Values = (i64, i64, Vec<i64>);

/// A late row: partition, offset, and the window that it missed, unknown of a session.
type Late = (i32, i64, Option<(i64, i64)>);

/// Late rows, and how often each came.
type LateRows = BTreeMap<Late, usize>;

/// One partition's log, and after which rows batches end.
pub(super) type Log = Vec<Row>;

#[derive(Debug, Clone, Copy, PartialEq)]
enum Kind {
    Tumble,
    Hop,
    Cumulate,
    Session,
    /// The groups of a session are finer: by a part of the value as well.
    SessionByPart,
    /// The same without the session's end.
    SessionByPartAndStart,
}

/// What the finer groups of a session are by.
const PARTS: i64 = 3;
const SIZE: i64 = 10;
const STEP: i64 = 4;
const GAP: i64 = 6;

/// How a static table stands in the job: key 0 has two bonuses, key 1 has one, other keys and NULL have none.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Joined {
    Not,
    InnerBelow,
    RightBelow,
    InBelow,
    InnerAbove,
    LeftAbove,
    CrossAbove,
    InAbove,
    NotInAbove,
    ExistsAbove,
}

impl Joined {
    /// The bonus of each row that comes of one row with this key.
    fn bonuses(self, key: Option<i64>) -> Vec<i64> {
        let found = match key {
            Some(0) => vec![1_000, 2_000],
            Some(1) => vec![500],
            _ => vec![],
        };
        match self {
            Joined::Not => vec![0],
            Joined::InnerBelow | Joined::InnerAbove => found,
            Joined::LeftAbove | Joined::RightBelow if found.is_empty() => vec![0],
            Joined::LeftAbove | Joined::RightBelow => found,
            Joined::CrossAbove => vec![500, 1_000, 2_000],
            Joined::InBelow | Joined::InAbove | Joined::ExistsAbove => {
                found.into_iter().take(1).map(|_| 0).collect()
            }
            Joined::NotInAbove if key == Some(2) => vec![0],
            Joined::NotInAbove => vec![],
        }
    }

    /// The rows that the window is over.
    fn below(self) -> &'static str {
        match self {
            Joined::InnerBelow => {
                "SELECT k, event_time, v, w FROM visits JOIN (SELECT bk, w FROM bonus) ON k = bk"
            }
            Joined::RightBelow => {
                "SELECT k, event_time, v, w FROM bonus RIGHT JOIN visits ON bk = k"
            }
            Joined::InBelow => {
                "SELECT k, event_time, v, 0 AS w FROM visits WHERE k IN (SELECT DISTINCT bk FROM bonus)"
            }
            Joined::InnerAbove | Joined::LeftAbove | Joined::CrossAbove => "SELECT * FROM visits",
            _ => "SELECT *, 0 AS w FROM visits",
        }
    }

    /// What stands between the window and the aggregate.
    fn above(self) -> &'static str {
        match self {
            Joined::InnerAbove => "JOIN bonus ON rows.k = bk",
            Joined::LeftAbove => "LEFT JOIN bonus ON rows.k = bk AND w > 0",
            Joined::CrossAbove => "CROSS JOIN bonus",
            Joined::InAbove => "WHERE k IN (SELECT bk FROM bonus)",
            Joined::NotInAbove => "WHERE k NOT IN (SELECT bk FROM bonus)",
            Joined::ExistsAbove => "WHERE EXISTS (SELECT 1 FROM bonus WHERE bk = rows.k)",
            _ => "",
        }
    }
}

impl Kind {
    fn from(self) -> &'static str {
        match self {
            Kind::Tumble => "TUMBLE(TABLE below, DESCRIPTOR(event_time), INTERVAL '10 seconds')",
            Kind::Hop => {
                "HOP(TABLE below, DESCRIPTOR(event_time), INTERVAL '4 seconds', INTERVAL '12 seconds')"
            }
            Kind::Cumulate => {
                "CUMULATE(TABLE below, DESCRIPTOR(event_time), INTERVAL '5 seconds', INTERVAL '10 seconds')"
            }
            Kind::Session | Kind::SessionByPart | Kind::SessionByPartAndStart => {
                "SESSION(TABLE below PARTITION BY k, DESCRIPTOR(event_time), INTERVAL '6 seconds')"
            }
        }
    }

    /// The aligned windows of a time.
    fn windows(self, time: i64) -> Vec<(i64, i64)> {
        match self {
            Kind::Tumble => vec![(
                time.div_euclid(SIZE) * SIZE,
                time.div_euclid(SIZE) * SIZE + SIZE,
            )],
            Kind::Hop => (time - 3 * STEP + 1..=time)
                .filter(|start| start.rem_euclid(STEP) == 0)
                .map(|start| (start, start + 3 * STEP))
                .collect(),
            Kind::Cumulate => {
                let start = time.div_euclid(SIZE) * SIZE;
                [start + 5, start + 10]
                    .into_iter()
                    .filter(|end| time < *end)
                    .map(|end| (start, end))
                    .collect()
            }
            _ => vec![],
        }
    }

    fn is_session(self) -> bool {
        self.windows(0).is_empty()
    }

    /// What is grouped by.
    fn groups(self) -> &'static str {
        match self {
            Kind::SessionByPart => "k, window_start, v % 3, window_end",
            Kind::SessionByPartAndStart => "v % 3, k, window_start",
            _ => "k, window_start, window_end",
        }
    }

    /// What [`groups_of`] calls the group of a value in a window.
    fn group(self, window: Window, value: i64) -> Window {
        let key = Some(numbered(window.0, value % PARTS));
        match self {
            Kind::SessionByPart => (key, window.1, window.2),
            Kind::SessionByPartAndStart => (key, window.1, window.1),
            _ => window,
        }
    }
}

/// What the laws say of a log.
#[derive(Debug, Default, PartialEq)]
struct Oracle {
    /// Groups that are closed, and those that are not.
    closed: BTreeMap<Window, Values>,
    open: BTreeMap<Window, Values>,
    late: LateRows,
}

fn oracle(kind: Kind, joined: Joined, logs: &[Log]) -> Oracle {
    let mut result = Oracle::default();
    // Event time, partition, offset, value and bonus of accepted rows.
    type Accepted = (i64, i32, i64, i64, i64);
    let mut accepted: Vec<(Option<i64>, Accepted)> = Vec::new();
    let mut groups: BTreeMap<Window, Vec<Accepted>> = BTreeMap::new();
    let mut lowest: Option<Option<i64>> = None;
    for (partition, log) in (0_i32..).zip(logs) {
        let mut watermark: Option<i64> = None;
        for (offset, (key, time, value)) in (0_i64..).zip(log) {
            for bonus in joined.bonuses(*key) {
                let row = (*time, partition, offset, *value, bonus);
                let mut note_late = |window| {
                    *result.late.entry((partition, offset, window)).or_default() += 1;
                };
                if kind.is_session() {
                    if watermark.is_some_and(|watermark| *time < watermark) {
                        note_late(None);
                    } else {
                        accepted.push((*key, row));
                    }
                }
                for (start, end) in kind.windows(*time) {
                    if watermark.is_some_and(|watermark| end <= watermark) {
                        note_late(Some((start, end)));
                    } else {
                        groups.entry((*key, start, end)).or_default().push(row);
                    }
                }
            }
            // The watermark sees all rows, whatever becomes of them.
            watermark = watermark.max(Some(time - DELAY));
        }
        lowest = Some(lowest.map_or(watermark, |lowest| lowest.min(watermark)));
    }
    accepted.sort_unstable();
    let mut current: Option<(Window, Vec<Accepted>)> = None;
    for (key, row) in accepted {
        match &mut current {
            Some(((of, _, end), rows)) if *of == key && row.0 <= *end => {
                *end = row.0 + GAP;
                rows.push(row);
            }
            _ => {
                groups.extend(current.take());
                current = Some(((key, row.0, row.0 + GAP), vec![row]));
            }
        }
    }
    groups.extend(current);
    let watermark = lowest.flatten();
    for (group, mut rows) in groups {
        rows.sort_unstable();
        let is_closed = watermark.is_some_and(|watermark| match kind.is_session() {
            true => watermark > group.2,
            false => watermark >= group.2,
        });
        let groups = match is_closed {
            true => &mut result.closed,
            false => &mut result.open,
        };
        for row in rows {
            let (count, sum, in_order) = groups.entry(kind.group(group, row.3)).or_default();
            *count += 1;
            *sum += row.3 + row.4;
            in_order.push(row.3);
        }
    }
    result
}

async fn job(kind: Kind, joined: Joined, emit: &str) -> JobQuery {
    let sql = format!(
        "CREATE EXTERNAL TABLE visits (k BIGINT, event_time TIMESTAMP, v BIGINT,
           WATERMARK FOR event_time AS event_time - INTERVAL '{DELAY} seconds')
         STORED AS KAFKA LOCATION 'visits' OPTIONS ('kafka.bootstrap.servers' '127.0.0.1:1');
         CREATE EXTERNAL TABLE out (k BIGINT, s TIMESTAMP, e TIMESTAMP, n BIGINT, total BIGINT, final BOOLEAN, vs BIGINT[])
         STORED AS KAFKA LOCATION 'out' OPTIONS ('kafka.bootstrap.servers' '127.0.0.1:1');
         CREATE VIEW bonus AS SELECT * FROM (VALUES (0, 1000), (0, 2000), (1, 500)) AS b (bk, w);
         CREATE JOB j AS INSERT INTO out
         WITH below AS ({})
         SELECT k, window_start AS s, window_start AS e, count(*), sum(v + coalesce(w, 0)), is_final(), array_agg(v ORDER BY event_time)
         FROM {} AS rows {} GROUP BY {} {emit}",
        joined.below(),
        kind.from(),
        joined.above(),
        kind.groups(),
    );
    planned(&sql).await
}

/// The job of a script that declares its tables before.
pub(super) async fn planned(sql: &str) -> JobQuery {
    let session = Session::try_new(&SessionOptions::default()).unwrap();
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

/// Rows of one partition as a scan gives them, with the hidden column.
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

/// A number for a key and a part.
fn numbered(key: Option<i64>, part: i64) -> i64 {
    10 * key.unwrap_or(9) + part
}

/// The groups of emitted rows, and whether each is said for the last time.
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
struct Ran {
    emitted: Vec<(Window, Values, bool)>,
    /// What a reader of the upserts holds.
    held: HashMap<Window, Values>,
    open: BTreeMap<Window, Values>,
    late: LateRows,
}

async fn run(query: &JobQuery, logs: &[Log], cuts: &[Vec<usize>]) -> Ran {
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
    let mut ran = Ran {
        emitted: Vec::new(),
        held: HashMap::new(),
        open: BTreeMap::new(),
        late: LateRows::new(),
    };
    // What no cut has read comes at the end.
    let rest: Vec<usize> = logs.iter().map(Vec::len).collect();
    for cut in cuts.iter().chain([&rest]) {
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
            bad_records: Arc::default(),
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
        let reached = BTreeMap::from([("visits".to_owned(), reached)]);
        time = time.after(WatermarkPolicy::Lowest, &known, &reached, &BTreeMap::new());
        let rule = StepRule {
            changes: query.emit() == Emit::Changes,
            withdraws: stream.withdraws(),
            closed_by: time.closed_by,
        };
        let done = step(&table, &aggregate, &partials, rule).unwrap();
        for (group, _, _) in groups_of(&done.before) {
            ran.held.remove(&group);
        }
        for (group, values, is_final) in groups_of(&done.emitted) {
            ran.held.insert(group, values.clone());
            ran.emitted.push((group, values, is_final));
        }
        if let Some(late) = late_rows(&front.late.take()).unwrap() {
            note_late(&late, &mut ran.late);
        }
        logged.push((
            encode_states(aggregate.state_schema(), std::slice::from_ref(&done.log)).unwrap(),
            time.closed_by,
        ));
        let (count_after, rows_after) = (done.rows_after, table.rows_after(&done.change).unwrap());
        table.apply(done.change).unwrap();
        assert_eq!(table.len(), count_after);
        let in_order = |batches: &[RecordBatch]| {
            let mut groups = Vec::new();
            for rows in batches {
                let is_final = vec![false; rows.num_rows()].into();
                groups.extend(groups_of(&aggregate.evaluate(rows, &is_final).unwrap()));
            }
            groups.sort();
            groups
        };
        assert_eq!(in_order(&rows_after), in_order(&[table.rows().unwrap()]));
    }
    // The state restored from what was written is the state.
    let mut restored = new_table();
    for (bytes, closed_by) in &logged {
        let closes_at = |rows: &RecordBatch| aggregate.closes_at(rows);
        read_states(&mut restored, bytes, *closed_by, closes_at).unwrap();
    }
    let evaluated = |table: &StateTable| {
        let rows = table.rows().unwrap();
        let is_final = vec![false; rows.num_rows()].into();
        let rows = aggregate.evaluate(&rows, &is_final).unwrap();
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
    check_joined(kind, Joined::Not, 64);
}

fn check_joined(kind: Kind, joined: Joined, cases: u32) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    let on_close = runtime.block_on(job(kind, joined, "EMIT ON WINDOW CLOSE"));
    let changes = runtime.block_on(job(kind, joined, "EMIT CHANGES"));
    let config = ProptestConfig {
        cases,
        ..ProptestConfig::default()
    };
    proptest!(config, |(logs in logs(), cuts in cuts())| {
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
        // What a reader of the upserts holds in the end.
        let mut all = expected.closed;
        all.extend(expected.open);
        let held: BTreeMap<_, _> = ran.held.into_iter().collect();
        prop_assert_eq!(held, all);
    });
}

#[test]
fn time_1_2_3_tumbling_windows_do_not_depend_on_the_cut() {
    check(Kind::Tumble);
}

#[test]
fn time_1_2_3_hopping_windows_do_not_depend_on_the_cut() {
    check(Kind::Hop);
}

#[test]
fn time_1_2_3_cumulating_windows_do_not_depend_on_the_cut() {
    check(Kind::Cumulate);
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
    check_joined(Kind::Tumble, Joined::InnerBelow, 24);
    check_joined(Kind::Session, Joined::InnerBelow, 24);
    check_joined(Kind::Session, Joined::RightBelow, 24);
    check_joined(Kind::Session, Joined::InBelow, 24);
}

#[test]
fn time_1_2_3_joins_with_static_tables_above_a_window_do_not_depend_on_the_cut() {
    check_joined(Kind::Tumble, Joined::InnerAbove, 24);
    check_joined(Kind::Hop, Joined::LeftAbove, 24);
    check_joined(Kind::Tumble, Joined::CrossAbove, 24);
    check_joined(Kind::Cumulate, Joined::InAbove, 24);
    check_joined(Kind::Tumble, Joined::NotInAbove, 24);
    check_joined(Kind::Hop, Joined::ExistsAbove, 24);
}
