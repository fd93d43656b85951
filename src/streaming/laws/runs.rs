//! RUN-1 and RUN-2 for the queries of runs: the rows of all chunks are those of the batch query over everything whose windows are final,
//! late rows included, however the range is cut.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use datafusion::arrow::array::{
    ArrayRef, AsArray as _, Int32Array, Int64Array, RecordBatch, TimestampMicrosecondArray,
};
use datafusion::arrow::compute::concat_batches;
use datafusion::arrow::datatypes::{Int64Type, TimestampMicrosecondType};
use datafusion::datasource::MemTable;
use datafusion::physical_plan::{collect, displayable};
use datafusion::sql::parser::Statement as SqlStatement;
use proptest::prelude::*;

use crate::core::jobs::{RowWatermark, RunningWatermark};
use crate::core::runs::{
    Chunk, Chunks, Finality, Grouping, LeftGroups, OffsetSet, TimeRange, TimeRanges,
};
use crate::core::schedules::{Schedules, cases};
use crate::error::Error;
use crate::planner::ast::{Emit, JobStatement, Statement};
use crate::planner::{Parameters, Script, parse_statement};
use crate::session::{ForkOptions, Session};
use crate::streaming::laws::oracle::{
    CUMULATE, DELAY, GAP, HOP, Joined, Kind, Log, Row, SECOND, TUMBLE, Values, Window, oracle,
};
use crate::streaming::laws::{EMPTY, logs, scanned};
use crate::streaming::{BatchPlan, BatchSource, JobQuery, RunFacts, TimeColumns};
use crate::tables::time::{OFFSET_COLUMN, PARTITION_COLUMN, ROW_COLUMN};

/// A session with the tables of a script, and the job that comes last in it.
struct Scripted {
    session: Session,
    insert: SqlStatement,
    emit: Emit,
}

impl Scripted {
    async fn of(sql: &str) -> Self {
        let session = EMPTY.fork(&ForkOptions::default()).unwrap();
        for raw in Script::new("runs", sql).split().unwrap() {
            let mut parsed = parse_statement(&raw).unwrap();
            Parameters::default().bind(&mut parsed).unwrap();
            if let Statement::Job(job) = parsed.statement {
                let JobStatement::Create { insert, emit, .. } = *job else {
                    panic!("the statement makes no job");
                };
                return Self {
                    session,
                    insert: *insert,
                    emit,
                };
            }
            session.collect(parsed).await.unwrap();
        }
        panic!("no job in the script");
    }

    async fn live(&self) -> Result<JobQuery, Error> {
        JobQuery::try_new(&self.session, self.insert.clone(), self.emit).await
    }

    async fn run(&self, facts: RunFacts) -> JobQuery {
        let insert = self.insert.clone();
        JobQuery::reprocessing(&self.session, insert, self.emit, facts)
            .await
            .unwrap()
    }
}

fn visits() -> String {
    format!(
        "CREATE EXTERNAL TABLE visits (k BIGINT, event_time TIMESTAMP, v BIGINT,
           WATERMARK FOR event_time AS event_time - INTERVAL '{DELAY} seconds')
         STORED AS KAFKA LOCATION 'visits' OPTIONS ('kafka.bootstrap.servers' '127.0.0.1:1');
         CREATE VIEW bonus AS SELECT * FROM (VALUES (0, 1000), (0, 2000), (1, 500)) AS b (bk, w);"
    )
}

fn sink(columns: &str) -> String {
    format!(
        "CREATE EXTERNAL TABLE out ({columns})
         STORED AS KAFKA LOCATION 'out' OPTIONS ('kafka.bootstrap.servers' '127.0.0.1:1');"
    )
}

/// The job of the laws of time, with the rows of its groups as they go to its sink.
fn windowed(kind: Kind, joined: Joined, ends: &str) -> String {
    let (key, end) = match kind {
        Kind::SessionByPart => ("10 * coalesce(k, 9) + v % 3", "window_end"),
        Kind::SessionByPartAndStart => ("10 * coalesce(k, 9) + v % 3", "window_start"),
        _ => ("k", "window_end"),
    };
    format!(
        "{} {}
         CREATE JOB j AS INSERT INTO out
         WITH below AS ({})
         SELECT {key}, window_start AS s, {end} AS e, count(*), sum(v + coalesce(w, 0)), is_final(), array_agg(v ORDER BY event_time)
         FROM {} AS rows {} GROUP BY {} {ends}",
        visits(),
        sink("k BIGINT, s TIMESTAMP, e TIMESTAMP, n BIGINT, total BIGINT, final BOOLEAN, vs BIGINT[]"),
        joined.below(),
        kind.from(),
        joined.above(),
        kind.groups(),
    )
}

fn facts(grouping: Grouping, watermark: Option<i64>) -> RunFacts {
    RunFacts {
        grouping,
        finality: Finality::new(grouping, watermark),
        begins: None,
        now: 0,
        selection: None,
        selected_times: None,
        statics: BTreeMap::new(),
    }
}

/// The rows of all partitions as the sources of a chunk, with the places of rows if `with_places`.
fn sources(logs: &[Log], chunk: Option<Chunk>, with_places: bool) -> BTreeMap<String, BatchSource> {
    let partitions = (0_i32..).zip(logs).map(|(partition, log)| {
        let mut running = RunningWatermark::new(RowWatermark::From(None), None, DELAY * SECOND);
        let rows = scanned(partition, 0, log, &mut running);
        let mut columns: Vec<(String, ArrayRef, bool)> = Vec::new();
        for (index, name) in ["k", "event_time", "v"].into_iter().enumerate() {
            columns.push((name.to_owned(), Arc::clone(rows.column(index)), true));
        }
        let place = rows.column_by_name(ROW_COLUMN).unwrap().as_struct();
        for (name, field) in [(PARTITION_COLUMN, "partition"), (OFFSET_COLUMN, "offset")] {
            let values = Arc::clone(place.column_by_name(field).unwrap());
            columns.extend(with_places.then(|| (name.to_owned(), values, false)));
        }
        vec![RecordBatch::try_from_iter_with_nullable(columns).unwrap()]
    });
    source_of(partitions.collect(), chunk)
}

/// These rows by partition as the sources of a chunk.
fn source_of(
    partitions: Vec<Vec<RecordBatch>>,
    chunk: Option<Chunk>,
) -> BTreeMap<String, BatchSource> {
    let provider = MemTable::try_new(partitions[0][0].schema(), partitions).unwrap();
    let source = BatchSource {
        provider: Arc::new(provider),
        ranges: Vec::new(),
        last_records: BTreeMap::new(),
        chunk,
    };
    BTreeMap::from([("visits".to_owned(), source)])
}

/// The rows of one chunk, and what it leaves out.
async fn chunk_rows(
    query: &JobQuery,
    sources: BTreeMap<String, BatchSource>,
) -> (RecordBatch, LeftGroups) {
    let batch = query.batch(sources).await.unwrap();
    let schema = batch.plan.schema();
    let rows = collect(Arc::clone(&batch.plan), Arc::clone(&batch.context)).await;
    let rows = concat_batches(&schema, &rows.unwrap()).unwrap();
    let left = batch.finish().await.unwrap().left;
    (rows, left)
}

/// The rows of all chunks, and the groups that they leave out. Lengths are in half seconds.
async fn all_rows<T>(
    query: &JobQuery,
    logs: &[Log],
    (chunks, lengths): (&Chunks, &[i64]),
    with_places: bool,
    rows_of: impl Fn(&RecordBatch) -> Vec<T>,
) -> (Vec<T>, LeftGroups) {
    let (mut found, mut left) = (Vec::new(), LeftGroups::default());
    let mut lengths = lengths.iter().cycle();
    let mut position = None;
    while let Some(chunk) = chunks.next(position, lengths.next().unwrap() * SECOND / 2) {
        let sources = sources(logs, Some(chunk), with_places);
        let (rows, left_of_chunk) = chunk_rows(query, sources).await;
        found.extend(rows_of(&rows));
        left.add_all(left_of_chunk);
        position = Some(chunk.range.to());
    }
    (found, left)
}

/// The groups in the columns of the sink.
fn groups_in(rows: &RecordBatch) -> Vec<(Window, Values)> {
    let number = |column: usize| rows.column(column).as_primitive::<Int64Type>();
    let time = |column: usize, row: usize| {
        let times = rows
            .column(column)
            .as_primitive::<TimestampMicrosecondType>();
        times.value(row) / SECOND
    };
    let keys = number(0);
    let group = |row: usize| {
        assert!(
            rows.column(5).as_boolean().value(row),
            "a run gives final rows"
        );
        let key = keys.iter().nth(row).flatten();
        let list = rows.column(6).as_list::<i32>().value(row);
        let list = list.as_primitive::<Int64Type>().values().to_vec();
        let values = (number(3).value(row), number(4).value(row), list);
        ((key, time(1, row), time(2, row)), values)
    };
    (0..rows.num_rows()).map(group).collect()
}

/// All rows in the order of time, so that none is late; ties are in the order of partition and offset.
fn in_order(logs: &[Log]) -> Vec<Log> {
    let mut rows: Log = logs.iter().flatten().copied().collect();
    rows.sort_by_key(|(_, time, _)| *time);
    vec![rows]
}

fn watermark(logs: &[Log]) -> Option<i64> {
    let last = logs.iter().flatten().map(|(_, time, _)| *time).max();
    last.map(|last| (last - DELAY) * SECOND)
}

/// The chunks of a run over all rows.
fn over_all(grouping: Grouping, logs: &[Log]) -> Chunks {
    let times = || logs.iter().flatten().map(|(_, time, _)| *time * SECOND);
    let range = times().min().zip(times().max());
    let range = range.and_then(|(first, last)| TimeRange::try_new(first, last + 1));
    let emission = range.map(|range| grouping.emission(range).unwrap().into());
    Chunks::new(grouping, emission.unwrap_or_default())
}

fn lengths() -> impl Strategy<Value = Vec<i64>> {
    prop::collection::vec(10_i64..120, 1..5)
}

fn on_this_thread() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap()
}

/// The job of a script, and how it puts rows together.
fn grouped(runtime: &tokio::runtime::Runtime, sql: &str) -> (Scripted, Grouping) {
    runtime.block_on(async {
        let scripted = Scripted::of(sql).await;
        let grouping = scripted.live().await.unwrap().grouping().unwrap();
        (scripted, grouping)
    })
}

fn check_run(kind: Kind, joined: Joined, ends: &str, usual: u32) {
    let runtime = on_this_thread();
    let (scripted, grouping) = grouped(&runtime, &windowed(kind, joined, ends));
    let schedules = Schedules::of(format!("a run of {kind:?}, {joined:?} {ends}"));
    proptest!(cases(usual), |(logs in logs(), lengths in lengths())| {
        schedules.count();
        let expected = oracle(kind, joined, &in_order(&logs));
        prop_assert!(expected.late.is_empty());
        let chunks = over_all(grouping, &logs);
        let (found, left) = runtime.block_on(async {
            let query = scripted.run(facts(grouping, watermark(&logs))).await;
            assert!(query.stream().is_none(), "it has no state");
            all_rows(&query, &logs, (&chunks, &lengths), true, groups_in).await
        });
        let given: BTreeMap<Window, Values> = found.iter().cloned().collect();
        prop_assert_eq!(given.len(), found.len(), "a group is given once");
        prop_assert_eq!(given, expected.closed);
        prop_assert_eq!(left.count(), expected.open.len() as u64);
    });
}

#[test]
fn run_1_aligned_windows_are_those_of_the_batch_query() {
    for kind in [TUMBLE, Kind::Tumble(10, 3), HOP, Kind::Hop(3, 15, 7)] {
        check_run(kind, Joined::Not, "", 12);
    }
    check_run(CUMULATE, Joined::Not, "EMIT CHANGES", 12);
    check_run(
        Kind::Cumulate(3, 18, 11),
        Joined::Not,
        "HAVING count(*) > 0 EMIT CHANGES",
        12,
    );
}

#[test]
fn run_1_sessions_are_those_of_the_batch_query() {
    check_run(Kind::Session, Joined::Not, "", 24);
    check_run(
        Kind::Session,
        Joined::Not,
        "HAVING count(*) > 0 EMIT CHANGES",
        12,
    );
    check_run(Kind::SessionByPart, Joined::Not, "", 12);
    check_run(Kind::SessionByPartAndStart, Joined::Not, "", 12);
}

#[test]
fn run_1_joins_with_static_tables_are_those_of_the_batch_query() {
    check_run(TUMBLE, Joined::InnerBelow, "", 8);
    check_run(HOP, Joined::LeftAbove, "", 8);
    check_run(CUMULATE, Joined::InAbove, "", 8);
    check_run(TUMBLE, Joined::ExistsAbove, "EMIT CHANGES", 8);
    check_run(Kind::Session, Joined::RightBelow, "", 8);
    check_run(Kind::Session, Joined::InBelow, "", 8);
    check_run(Kind::SessionByPart, Joined::InnerBelow, "", 8);
}

#[test]
fn run_1_rows_above_the_aggregate_are_those_of_its_final_groups() {
    let runtime = on_this_thread();
    let job = |rows: &str| {
        format!(
            "{} {} CREATE JOB j AS INSERT INTO out
             WITH high AS (SELECT * FROM visits WHERE v > 20)
             SELECT s, n + coalesce(w, 0) FROM (SELECT k, window_start AS s, count(*) AS n FROM {rows}
               GROUP BY k, window_start HAVING count(*) > 1) AS counted LEFT JOIN bonus ON k = bk WHERE k < 2",
            visits(),
            sink("s TIMESTAMP, n BIGINT"),
        )
    };
    let of = "DESCRIPTOR(event_time), INTERVAL";
    let tumble = job(&format!(
        "TUMBLE(TABLE visits, {of} '10 seconds') WHERE v > 20"
    ));
    let session = job(&format!(
        "SESSION(TABLE high PARTITION BY k, {of} '{GAP} seconds')"
    ));
    for (sql, kind) in [(tumble, TUMBLE), (session, Kind::Session)] {
        let (scripted, grouping) = grouped(&runtime, &sql);
        proptest!(cases(12), |(logs in logs(), lengths in lengths())| {
            let mut passed = in_order(&logs);
            passed[0].retain(|(_, _, value)| *value > 20);
            let all = oracle(kind, Joined::Not, &passed);
            // The rows that the filter drops move the watermark all the same.
            let last_end = watermark(&logs).unwrap_or(i64::MIN);
            let is_final = |end: i64| match kind {
                Kind::Session => end * SECOND < last_end,
                _ => end * SECOND <= last_end,
            };
            let mut expected: Vec<(i64, i64)> = Vec::new();
            for ((key, start, end), (count, ..)) in all.closed.into_iter().chain(all.open) {
                let bonuses = match key {
                    Some(0) => vec![1_000, 2_000],
                    Some(1) => vec![500],
                    _ => vec![],
                };
                if count > 1 && is_final(end) {
                    expected.extend(bonuses.into_iter().map(|bonus| (start, count + bonus)));
                }
            }
            let chunks = over_all(grouping, &logs);
            let (mut found, _) = runtime.block_on(async {
                let query = scripted.run(facts(grouping, watermark(&logs))).await;
                let rows_of = |rows: &RecordBatch| -> Vec<(i64, i64)> {
                    let starts = rows.column(0).as_primitive::<TimestampMicrosecondType>();
                    let counts = rows.column(1).as_primitive::<Int64Type>();
                    let starts = starts.values().iter().map(|start| start / SECOND);
                    starts.zip(counts.values().iter().copied()).collect()
                };
                // The rows need not tell their places.
                all_rows(&query, &logs, (&chunks, &lengths), false, rows_of).await
            });
            expected.sort_unstable();
            found.sort_unstable();
            prop_assert_eq!(found, expected);
        });
    }
}

/// Key, time in seconds and value of rows in the columns of a sink.
fn rows_in(rows: &RecordBatch) -> Vec<Row> {
    let keys = rows.column(0).as_primitive::<Int64Type>();
    let times = rows.column(1).as_primitive::<TimestampMicrosecondType>();
    let values = rows.column(2).as_primitive::<Int64Type>();
    let times = times.values().iter().map(|time| time / SECOND);
    let rows = keys.iter().zip(times).zip(values.values());
    rows.map(|((key, time), value)| (key, time, *value))
        .collect()
}

#[test]
fn run_1_rows_of_a_range_are_given_once() {
    let runtime = on_this_thread();
    let sql = format!(
        "{} {} CREATE JOB j AS INSERT INTO out SELECT k, event_time, v FROM visits WHERE v < 60",
        visits(),
        sink("k BIGINT, t TIMESTAMP, v BIGINT"),
    );
    let (scripted, grouping) = grouped(&runtime, &sql);
    assert_eq!(grouping, Grouping::Rows);
    let range = (80_i64..160, 1_i64..60);
    proptest!(cases(16), |(logs in logs(), lengths in lengths(), (from, length) in range)| {
        // Of two offsets in three.
        let places = (0_i32..).zip(&logs).flat_map(|(partition, log)| {
            (0_i64..).zip(log).map(move |(offset, row)| (partition, offset, *row))
        });
        let picked = |offset: i64| offset % 3 > 0;
        let mut expected: Vec<(i64, Row)> = places
            .filter(|(_, _, (_, time, value))| (from..from + length).contains(time) && *value < 60)
            .map(|(_, offset, row)| (offset, row))
            .collect();
        expected.sort_unstable();
        let all: Vec<Row> = expected.iter().map(|(_, row)| *row).collect();
        let some: Vec<Row> = expected.iter().filter(|(offset, _)| picked(*offset)).map(|(_, row)| *row).collect();
        let offsets = (0..3).flat_map(|partition| {
            let offsets = (0_i64..40).filter(|offset| picked(*offset));
            offsets.map(move |offset| ("visits".to_owned(), partition, offset..offset + 1))
        });
        let selection = OffsetSet::of(offsets);
        let range = TimeRange::try_new(from * SECOND, (from + length) * SECOND).unwrap();
        let chunks = Chunks::new(grouping, range.into());
        for (selection, expected) in [(None, all), (Some(selection), some)] {
            let (mut found, left) = runtime.block_on(async {
                let facts = RunFacts { selection, ..facts(grouping, None) };
                let query = scripted.run(facts).await;
                all_rows(&query, &logs, (&chunks, &lengths), true, rows_in).await
            });
            found.sort_unstable();
            let mut expected = expected;
            expected.sort_unstable();
            prop_assert_eq!(found, expected);
            prop_assert_eq!(left.count(), 0);
        }
        // By offsets the source has the rows alone that are asked for.
        let (found, _) = runtime.block_on(async {
            let query = scripted.run(facts(grouping, None)).await;
            chunk_rows(&query, sources(&logs, None, true)).await
        });
        let passed = logs.iter().flatten().filter(|(_, _, value)| *value < 60);
        prop_assert_eq!(found.num_rows(), passed.count());
    });
}

/// Twenty rows of each of two partitions, in the order in which the files of an archive may have them. Their values go by their places.
fn rows_out_of_order(chunk: Option<Chunk>) -> BTreeMap<String, BatchSource> {
    let places: Vec<(i32, i64)> = (0..20)
        .rev()
        .flat_map(|offset| [(1, offset), (0, offset)])
        .collect();
    let number = |of: fn(&(i32, i64)) -> i64| -> ArrayRef {
        Arc::new(Int64Array::from_iter_values(places.iter().map(of)))
    };
    let times = places.iter().map(|(_, offset)| (100 + offset) * SECOND);
    let times = TimestampMicrosecondArray::from_iter_values(times).with_timezone("UTC");
    let partitions = Int32Array::from_iter_values(places.iter().map(|place| place.0));
    let columns: [(&str, ArrayRef, bool); 5] = [
        ("k", number(|place| place.1 % 2), true),
        ("event_time", Arc::new(times), true),
        (
            "v",
            number(|place| i64::from(place.0) * 100 + place.1),
            true,
        ),
        (PARTITION_COLUMN, Arc::new(partitions), false),
        (OFFSET_COLUMN, number(|place| place.1), false),
    ];
    let rows = RecordBatch::try_from_iter_with_nullable(columns).unwrap();
    source_of(vec![vec![rows]], chunk)
}

#[tokio::test]
async fn run_2_the_last_row_of_a_key_is_that_of_its_last_record() {
    let of_key = |key: i64| {
        let offsets = (0..20).filter(move |offset| offset % 2 == key);
        let both = offsets.clone().chain(offsets.map(|offset| 100 + offset));
        both.map(move |value| (key, value))
    };
    let expected: Vec<(i64, i64)> = of_key(0).chain(of_key(1)).collect();
    for query in [
        "SELECT k, v FROM visits",
        "SELECT k, v FROM visits LEFT JOIN bonus ON k = bk AND w > 1000",
        "SELECT k, v FROM visits WHERE v < 110 UNION ALL SELECT k, v FROM visits WHERE v >= 110",
        "SELECT k, unnest([v]) FROM visits",
        "SELECT k, v FROM TUMBLE(TABLE visits, DESCRIPTOR(event_time), INTERVAL '1 minute') WHERE v < 110
         UNION ALL SELECT k, v FROM visits WHERE v >= 110",
    ] {
        let sink = sink("k BIGINT, v BIGINT, PRIMARY KEY (k) NOT ENFORCED");
        let sql = format!(
            "{} {sink} CREATE JOB j AS INSERT INTO out {query}",
            visits()
        );
        let run = Scripted::of(&sql)
            .await
            .run(facts(Grouping::Rows, None))
            .await;
        let range = TimeRange::try_new(0, 1_000 * SECOND).unwrap();
        let whole = Chunks::new(Grouping::Rows, range.into()).next(None, i64::MAX);
        assert!(whole.is_some());
        for chunk in [whole, None] {
            let batch = run.batch(rows_out_of_order(chunk)).await.unwrap();
            // As a run writes them: rows that are in the order of the key stay as they are.
            let rows = batch.sorted_by(&[0]).unwrap().rows().await.unwrap();
            let number = |column: usize| rows.column(column).as_primitive::<Int64Type>().values();
            let found = number(0).iter().copied().zip(number(1).iter().copied());
            assert_eq!(found.collect::<Vec<_>>(), expected, "{query}");
            batch.finish().await.unwrap();
        }
    }
}

fn check_selected(kind: Kind, usual: u32) {
    let runtime = on_this_thread();
    let (scripted, grouping) = grouped(&runtime, &windowed(kind, Joined::Not, ""));
    let picked = prop::collection::vec(any::<prop::sample::Index>(), 0..5);
    let times = prop::option::of((90_i64..140, 1_i64..60));
    proptest!(cases(usual), |(logs in logs(), lengths in lengths(), picked in picked, times in times)| {
        let places: Vec<(i32, i64, Row)> = (0_i32..).zip(&logs).flat_map(|(partition, log)| {
            (0_i64..).zip(log).map(move |(offset, row)| (partition, offset, *row))
        }).collect();
        let picked: Vec<(i32, i64, Row)> = match places.is_empty() {
            true => Vec::new(),
            false => picked.iter().map(|index| *index.get(&places)).collect(),
        };
        // Of these rows, those are asked for that are in a range of time.
        let is_asked = |time: i64| times.is_none_or(|(from, length)| (from..from + length).contains(&time));
        let selected: Vec<_> = picked.iter().filter(|(_, _, (_, time, _))| is_asked(*time)).collect();
        let is_selected = |(key, start, end): &Window| selected.iter().any(|(_, _, (of, time, _))| {
            let last = match kind {
                Kind::Session => end - GAP + 1,
                _ => *end,
            };
            of == key && *start <= *time && *time < last
        });
        let all = oracle(kind, Joined::Not, &in_order(&logs));
        let mut expected = all.closed;
        expected.retain(|group, _| is_selected(group));
        let open = all.open.keys().filter(|group| is_selected(group)).count();
        let asked: Vec<i64> = selected.iter().map(|(_, _, (_, time, _))| time * SECOND).collect();
        let emission: TimeRanges = grouping.emission_of_rows(&asked).unwrap();
        let chunks = Chunks::new(grouping, emission);
        let offsets = picked.iter().map(|(partition, offset, _)| {
            ("visits".to_owned(), *partition, *offset..offset + 1)
        });
        let selected_times = times.and_then(|(from, length)| {
            TimeRange::try_new(from * SECOND, (from + length) * SECOND)
        });
        let selection = Some(OffsetSet::of(offsets));
        let (found, left) = runtime.block_on(async {
            let facts = RunFacts { selection, selected_times, ..facts(grouping, watermark(&logs)) };
            let query = scripted.run(facts).await;
            all_rows(&query, &logs, (&chunks, &lengths), true, groups_in).await
        });
        let given: BTreeMap<Window, Values> = found.iter().cloned().collect();
        prop_assert_eq!(given.len(), found.len(), "a group is given once");
        prop_assert_eq!(given, expected);
        prop_assert_eq!(left.count(), open as u64);
    });
}

#[test]
fn run_2_the_groups_of_selected_rows_are_given_whole() {
    check_selected(TUMBLE, 16);
    check_selected(HOP, 16);
    check_selected(CUMULATE, 16);
    check_selected(Kind::Session, 24);
}

/// Some of the rows of before `begins` are gone: the groups that may have had one of them are left out, and the others are those of all rows.
fn check_beginning(kind: Kind, usual: u32) {
    let runtime = on_this_thread();
    let (scripted, grouping) = grouped(&runtime, &windowed(kind, Joined::Not, ""));
    proptest!(cases(usual), |(logs in logs(), lengths in lengths(), begins in 90_i64..150)| {
        let whole_from = match kind {
            Kind::Session => begins + GAP,
            _ => begins,
        };
        let mut expected = oracle(kind, Joined::Not, &in_order(&logs)).closed;
        expected.retain(|(_, start, _), _| *start >= whole_from);
        let mut left = logs.clone();
        for log in &mut left {
            log.retain(|(_, time, value)| *time >= begins || *value % 2 == 0);
        }
        let chunks = over_all(grouping, &logs);
        let (found, _) = runtime.block_on(async {
            let begins = Some(begins * SECOND);
            let facts = RunFacts { begins, ..facts(grouping, watermark(&logs)) };
            let query = scripted.run(facts).await;
            all_rows(&query, &left, (&chunks, &lengths), true, groups_in).await
        });
        let given: BTreeMap<Window, Values> = found.iter().cloned().collect();
        prop_assert_eq!(given, expected);
    });
}

#[test]
fn run_1_groups_with_rows_of_before_the_past_are_left_out() {
    check_beginning(TUMBLE, 16);
    check_beginning(HOP, 16);
    check_beginning(CUMULATE, 16);
    check_beginning(Kind::Session, 16);
}

#[tokio::test]
async fn run_2_sessions_that_are_too_long_are_left_out_however_the_range_is_cut() {
    const DAY: i64 = 24 * 3_600;
    let sql = windowed(Kind::Session, Joined::Not, "");
    let sql = sql.replace(&format!("INTERVAL '{GAP} seconds'"), "INTERVAL '1 day'");
    let scripted = Scripted::of(&sql).await;
    let grouping = scripted.live().await.unwrap().grouping().unwrap();
    let gap = DAY * SECOND;
    assert_eq!(grouping, Grouping::Sessions { gap });
    // A hundred gaps long, as a session may be at most, and longer.
    let days = |key: i64, days: i64| (0..days).map(move |day| (Some(key), day * DAY, 1));
    let log: Log = days(1, 100).chain(days(2, 101)).collect();
    let logs = [log];
    for lengths in [[2 * 30 * DAY, 2 * 7 * DAY], [2 * 200 * DAY, 1]] {
        let query = scripted.run(facts(grouping, Some(i64::MAX))).await;
        let chunks = over_all(grouping, &logs);
        let (found, left) = all_rows(&query, &logs, (&chunks, &lengths), true, groups_in).await;
        let given: BTreeSet<Window> = found.iter().map(|(window, _)| *window).collect();
        assert_eq!(given, [(Some(1), 0, 100 * DAY)].into());
        let said = left.to_string();
        assert!(
            said.starts_with("1 left out; k = 2 from 1970-01-01T00:00:00Z"),
            "{said}"
        );
        assert!(
            said.ends_with("longer than the search for its rows"),
            "{said}"
        );
    }
}

/// The first chunk of a run from 90 seconds on, of a visit after 100 seconds.
async fn first_chunk(query: &JobQuery, grouping: Grouping) -> BatchPlan {
    let range = TimeRange::try_new(90 * SECOND, 200 * SECOND).unwrap();
    let chunks = Chunks::new(grouping, grouping.emission(range).unwrap().into());
    let chunk = chunks.next(None, 50 * SECOND).unwrap();
    let logs = [vec![(Some(1), 100, 7)]];
    let batch = query.batch(sources(&logs, Some(chunk), true)).await;
    batch.unwrap()
}

#[tokio::test]
async fn a_chunk_is_aggregated_in_one_plan() {
    for (kind, operators) in [
        (HOP, ["EventWindowExec: HOP", ", ends=88000001.."]),
        // Slices are aggregated as they are read, and no row is held.
        (Kind::Session, ["CompleteSessionsExec", ", aggr=[count"]),
        (
            Kind::SessionByPart,
            ["CompleteSessionsExec", "AggregateExec"],
        ),
    ] {
        let scripted = Scripted::of(&windowed(kind, Joined::Not, "")).await;
        let grouping = scripted.live().await.unwrap().grouping().unwrap();
        let query = scripted.run(facts(grouping, Some(500 * SECOND))).await;
        let batch = first_chunk(&query, grouping).await;
        let shown = displayable(batch.plan.as_ref()).indent(false).to_string();
        assert!(shown.contains("FinalGroupsExec: of="), "{shown}");
        for operator in operators {
            assert!(shown.contains(operator), "{shown}");
        }
        let rows = collect(Arc::clone(&batch.plan), Arc::clone(&batch.context));
        let rows = rows.await.unwrap();
        assert!(rows.iter().any(|rows| rows.num_rows() > 0));
        if kind == Kind::Session {
            assert_eq!(batch.read().0, 1, "the rows of its slices are counted");
        }
    }
}

#[tokio::test]
async fn a_run_reads_a_table_that_only_a_view_may_use() {
    let of = "TABLE named, DESCRIPTOR(event_time), INTERVAL '10 seconds'";
    for rows in [
        format!("TUMBLE({of})"),
        format!("SESSION({})", of.replace(", D", " PARTITION BY k, D")),
    ] {
        let sql = format!(
            "{} {}
             CREATE TABLE names AS SELECT * FROM (VALUES (1, 'home')) AS t (id, name);
             CREATE VIEW named AS SELECT k, name, event_time FROM visits JOIN names ON k = id;
             CREATE JOB j AS INSERT INTO out SELECT name, count(*) FROM {rows} GROUP BY k, name, window_start",
            visits(),
            sink("name VARCHAR, n BIGINT"),
        );
        let scripted = Scripted::of(&sql).await;
        let restricted = ForkOptions {
            may_name: Some(Arc::new(|_: &str, name: &str| name != "names")),
            ..ForkOptions::default()
        };
        let scripted = Scripted {
            session: scripted.session.fork(&restricted).unwrap(),
            ..scripted
        };
        let grouping = scripted.live().await.unwrap().grouping().unwrap();
        let query = scripted.run(facts(grouping, Some(500 * SECOND))).await;
        let batch = first_chunk(&query, grouping).await;
        let rows = collect(Arc::clone(&batch.plan), Arc::clone(&batch.context));
        let rows = concat_batches(&batch.plan.schema(), &rows.await.unwrap()).unwrap();
        assert_eq!(rows.num_rows(), 1);
        assert_eq!(rows.column(0).as_string::<i32>().value(0), "home");
    }
}

#[tokio::test]
async fn jobs_that_cannot_be_reprocessed_are_refused_with_the_reason() {
    for (query, says) in [
        (
            "SELECT k, count(*) FROM visits GROUP BY k EMIT PER BATCH",
            "EMIT PER BATCH",
        ),
        (
            "SELECT k, count(*) FROM visits GROUP BY k EMIT CHANGES",
            "by key without a window",
        ),
        (
            "SELECT k, count(*) FROM
               (SELECT k, window_start FROM TUMBLE(TABLE visits, DESCRIPTOR(event_time), INTERVAL '10 seconds')
                UNION ALL SELECT k, window_start FROM TUMBLE(TABLE visits, DESCRIPTOR(event_time), INTERVAL '1 minute'))
             GROUP BY k, window_start",
            "rows of several windows below one aggregate",
        ),
    ] {
        let (tables, sink) = (visits(), sink("k BIGINT, n BIGINT"));
        let sql = format!("{tables} {sink} CREATE JOB j AS INSERT INTO out {query}");
        let live = Scripted::of(&sql).await.live().await.unwrap();
        let error = live.grouping().unwrap_err();
        assert!(error.message().contains(says), "{error}");
    }
}

#[tokio::test]
async fn a_key_tells_windows_apart_if_it_has_one_by_lineage() {
    let tumble = "TUMBLE(TABLE visits, DESCRIPTOR(event_time), INTERVAL '10 seconds')";
    let short = "TUMBLE(TABLE visits, DESCRIPTOR(event_time), INTERVAL '100 milliseconds')";
    let cumulate = "CUMULATE(TABLE visits, DESCRIPTOR(event_time), INTERVAL '5 seconds', INTERVAL '10 seconds')";
    for (window, text, tells) in [
        (tumble, "CAST(k AS VARCHAR)", false),
        (tumble, "CAST(window_start AS VARCHAR)", true),
        (tumble, "concat(k, '/', window_end)", true),
        (
            tumble,
            "CAST(k AS VARCHAR) || '/' || CAST(window_start AS VARCHAR)",
            true,
        ),
        (
            tumble,
            "CAST(window_start + INTERVAL '1 hour' AS VARCHAR)",
            true,
        ),
        (
            tumble,
            "CAST(date_trunc('hour', window_start) AS VARCHAR)",
            false,
        ),
        // Of several days of January it is the last one of February.
        (
            tumble,
            "CAST(window_start + INTERVAL '1 month' AS VARCHAR)",
            false,
        ),
        (tumble, "to_char(window_start, '%%s')", false),
        (tumble, "CAST(max(event_time) AS VARCHAR)", false),
        (
            tumble,
            "to_char(window_start, '%Y%m%d_%H%M%S') || '-' || CAST(k AS VARCHAR)",
            true,
        ),
        (tumble, "to_char(window_start, '%H:%M:%S')", false),
        (tumble, "to_char(window_start, '%F %H:%M')", false),
        (short, "to_char(window_start, '%F %T')", false),
        (cumulate, "concat(k, window_start)", false),
        (cumulate, "concat(k, window_end)", true),
    ] {
        let sql = format!(
            "{} {}
             CREATE VIEW counted AS SELECT {text} AS id, count(*) AS n FROM {window} GROUP BY k, window_start, window_end;
             CREATE JOB j AS INSERT INTO out SELECT id, n FROM counted",
            visits(),
            sink("id VARCHAR, n BIGINT, PRIMARY KEY (id) NOT ENFORCED"),
        );
        let live = Scripted::of(&sql).await.live().await.unwrap();
        match (live.check_key(), tells) {
            (Ok(()), true) => {}
            (Err(error), false) => {
                let says = "PRIMARY KEY (id) of out does not tell windows apart";
                assert!(error.message().contains(says), "{error}");
                assert!(error.help().unwrap().contains("overwrite"), "{error}");
            }
            (found, _) => panic!("{text}: {found:?}"),
        }
    }
}

#[tokio::test]
async fn a_key_of_rows_tells_old_ones_from_newer_ones_if_it_has_their_time() {
    for (key, tells) in [("k", false), ("k, t", true)] {
        let sql = format!(
            "{} {} CREATE JOB j AS INSERT INTO out SELECT k, event_time FROM visits",
            visits(),
            sink(&format!(
                "k BIGINT, t TIMESTAMP, PRIMARY KEY ({key}) NOT ENFORCED"
            )),
        );
        let live = Scripted::of(&sql).await.live().await.unwrap();
        match (live.check_key(), tells) {
            (Ok(()), true) => {}
            (Err(error), false) => {
                let says = "the PRIMARY KEY of out does not have the event time";
                assert!(error.message().contains(says), "{error}");
            }
            (found, _) => panic!("{key}: {found:?}"),
        }
    }
}

#[tokio::test]
async fn a_run_reads_static_tables_and_the_time_of_its_facts() {
    let folder = tempfile::tempdir().unwrap();
    let place = folder.path().display();
    let sql = format!(
        "{} {}
         CREATE EXTERNAL TABLE names (id BIGINT, name VARCHAR) STORED AS DELTA LOCATION '{place}';
         INSERT INTO names VALUES (1, 'home');
         CREATE TABLE kinds AS SELECT * FROM (VALUES (1)) AS t (id);
         CREATE JOB j AS INSERT INTO out SELECT k, CAST(now() AS VARCHAR), CAST(current_date AS VARCHAR)
         FROM visits JOIN names ON k = names.id JOIN kinds ON kinds.id = k",
        visits(),
        sink("k BIGINT, time VARCHAR, day VARCHAR"),
    );
    let scripted = Scripted::of(&sql).await;
    let pins = scripted.live().await.unwrap().static_pins().await.unwrap();
    assert_eq!(pins.unpinned, ["kinds"]);
    assert_eq!(pins.pins.keys().collect::<Vec<_>>(), ["names"]);
    let script = Script::new("more", "INSERT INTO names VALUES (1, 'start')");
    let raw = script.split().unwrap().remove(0);
    let mut insert = parse_statement(&raw).unwrap();
    Parameters::default().bind(&mut insert).unwrap();
    scripted.session.collect(insert).await.unwrap();
    let live = scripted.live().await.unwrap();
    let logs = [vec![(Some(1), 100, 7)]];
    let (rows, _) = chunk_rows(&live, sources(&logs, None, false)).await;
    assert_eq!(rows.num_rows(), 2, "the live job joins the present table");
    let facts = RunFacts {
        now: 86_400 * SECOND,
        statics: pins.pins.clone(),
        ..facts(Grouping::Rows, None)
    };
    let run = scripted.run(facts.clone()).await;
    for _ in 0..2 {
        let (rows, _) = chunk_rows(&run, sources(&logs, None, true)).await;
        assert_eq!(rows.num_rows(), 1);
        let text = |column: usize| rows.column(column).as_string::<i32>().value(0).to_owned();
        assert!(text(1).starts_with("1970-01-02"), "{}", text(1));
        assert_eq!(text(2), "1970-01-02");
    }
    // The table is deleted, and another one created there.
    let mut other = facts;
    for pin in other.statics.values_mut() {
        pin.identity = match &pin.identity {
            crate::core::jobs::Identity::DeltaTable { location, .. } => {
                crate::core::jobs::Identity::DeltaTable {
                    location: location.clone(),
                    id: "another".to_owned(),
                }
            }
            topic => topic.clone(),
        };
    }
    let insert = scripted.insert.clone();
    let refused = JobQuery::reprocessing(&scripted.session, insert, scripted.emit, other).await;
    let error = refused.unwrap_err();
    assert!(
        error
            .message()
            .contains("static table names is another one"),
        "{error}"
    );
}

#[tokio::test]
async fn columns_that_are_times_of_results_are_found_by_lineage() {
    let of = "DESCRIPTOR(event_time), INTERVAL '10 seconds'";
    let tumble = format!("FROM TUMBLE(TABLE visits, {of}) GROUP BY k, window_start, window_end");
    let session = format!(
        "FROM SESSION(TABLE visits PARTITION BY k, {of}) GROUP BY k, window_start, window_end"
    );
    for (query, start, end) in [
        (
            "SELECT k, v + 1, event_time, v FROM visits".to_owned(),
            Some("t"),
            None,
        ),
        (
            "SELECT k, v, event_time + INTERVAL '1 second', v FROM visits".to_owned(),
            None,
            None,
        ),
        (
            "SELECT k, v, event_time, v FROM visits
             UNION ALL SELECT k, v, now(), v FROM visits"
                .to_owned(),
            None,
            None,
        ),
        (
            format!("SELECT k, count(*), window_start, sum(v) {tumble}"),
            Some("t"),
            None,
        ),
        (
            format!("SELECT k, k, e, 1 FROM (SELECT k, window_end AS e {session})"),
            None,
            Some("t"),
        ),
        (
            format!("SELECT k, count(*), max(event_time), sum(v) {tumble}"),
            None,
            None,
        ),
    ] {
        let sink = sink("k BIGINT, n BIGINT, t TIMESTAMP, v BIGINT");
        let sql = format!(
            "{} {sink} CREATE JOB j AS INSERT INTO out {query}",
            visits()
        );
        let live = Scripted::of(&sql).await.live().await.unwrap();
        let expected = TimeColumns {
            start: start.map(str::to_owned),
            end: end.map(str::to_owned),
        };
        assert_eq!(live.time_columns().unwrap(), expected, "{query}");
    }
}
