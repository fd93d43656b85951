//! Sources of runs over an embedded broker and a Delta table: which states are pinned, and that the chunks of a run have each record once.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use datafusion::arrow::array::AsArray as _;
use datafusion::arrow::datatypes::{Int64Type, TimestampMicrosecondType};
use datafusion::common::ScalarValue;
use datafusion::logical_expr::{Expr, col, lit};
use datafusion::physical_plan::collect;
use datafusion::prelude::SessionContext;

use super::pins::{PinnedFacts, pin_source, times_of};
use super::reprocessed::ReprocessedSource;
use crate::core::jobs::{
    BatchVersion, Gaps, Identity, PartitionEnds, PlannedRange, SourceProgress,
};
use crate::core::runs::spec::fixture;
use crate::core::runs::{
    Emission, Grouping, OffsetSet, PinnedAt, RunSpec, SourcePin, TIME_AXIS, TimeRange, TimeRanges,
    archive_watermark,
};
use crate::error::{Error, Result};
use crate::planner::ast::{JobStatement, Statement};
use crate::planner::{Parameters, Script, parse_statement};
use crate::runtime::source::{JobSource, Read, SourcePlan, SourcePoll};
use crate::session::{JobMemory, Session, SessionOptions};
use crate::streaming::{BatchSource, JobQuery};
use crate::tables::kafka::embedded_broker::EmbeddedBroker;

/// 2025-09-04T10:00:00Z, in seconds.
const BEGIN: i64 = 1_756_980_000;
const SECOND: i64 = 1_000_000;

const ROW_WISE: &str = "SELECT user_id, event_time FROM visits";
const WINDOWED: &str = "SELECT count(*), window_start
    FROM TUMBLE(TABLE visits, DESCRIPTOR(event_time), INTERVAL '10 seconds') GROUP BY window_start";

/// A topic `visits` of two partitions with an archive, and a job over it.
struct Lake {
    session: Session,
    broker: EmbeddedBroker,
    folder: tempfile::TempDir,
}

/// The record at a place: its user goes by the place, and a record of offset `n` is of second `n`.
fn record((partition, offset): (i32, i64)) -> String {
    let time = chrono::DateTime::from_timestamp(BEGIN + offset, 0).unwrap();
    let time = time.format("%Y-%m-%dT%H:%M:%SZ");
    format!(
        r#"{{"user_id":{},"event_time":"{time}"}}"#,
        user((partition, offset))
    )
}

fn user((partition, offset): (i32, i64)) -> i64 {
    i64::from(partition) * 1_000 + offset
}

fn places(partition: i32, offsets: std::ops::Range<i64>) -> Vec<(i32, i64)> {
    offsets.map(|offset| (partition, offset)).collect()
}

fn seconds(from: i64, to: i64) -> TimeRange {
    let at = |second: i64| (BEGIN + second) * SECOND;
    TimeRange::try_new(at(from), at(to)).unwrap()
}

fn options_of_server() -> SessionOptions {
    SessionOptions {
        job_memory: JobMemory::Half,
        ..SessionOptions::default()
    }
}

impl Lake {
    /// Partition 0 has 40 records, and partition 1 has 30.
    async fn new(options: &str) -> Self {
        let lake = Self {
            session: Session::try_new(&options_of_server()).unwrap(),
            broker: EmbeddedBroker::start().unwrap(),
            folder: tempfile::tempdir().unwrap(),
        };
        lake.broker.create_topic("visits", 2).unwrap();
        lake.send(&[places(0, 0..40), places(1, 0..30)].concat());
        lake.run(&format!(
            "CREATE EXTERNAL TABLE raw (value VARCHAR, partition INT, \"offset\" BIGINT)
               STORED AS DELTA LOCATION '__DIR__/raw';
             CREATE EXTERNAL TABLE visits (user_id BIGINT, event_time TIMESTAMP,
               WATERMARK FOR event_time AS event_time - INTERVAL '5 seconds')
               STORED AS KAFKA LOCATION 'visits'
               OPTIONS ('kafka.bootstrap.servers' '__KAFKA__', 'archive' 'raw' {options});
             CREATE EXTERNAL TABLE plain (user_id BIGINT, event_time TIMESTAMP) STORED AS KAFKA LOCATION 'visits'
               OPTIONS ('kafka.bootstrap.servers' '__KAFKA__');
             CREATE EXTERNAL TABLE out (a BIGINT, b TIMESTAMP) STORED AS KAFKA LOCATION 'out'
               OPTIONS ('kafka.bootstrap.servers' '__KAFKA__');"
        ))
        .await;
        lake
    }

    fn send(&self, places: &[(i32, i64)]) {
        let values = places.iter().map(|place| (place.0, record(*place)));
        self.broker.send("visits", values);
    }

    fn placed(&self, sql: &str) -> String {
        let folder = self.folder.path().display().to_string();
        let servers = self.broker.bootstrap_servers();
        sql.replace("__DIR__", &folder)
            .replace("__KAFKA__", &servers)
    }

    async fn run(&self, sql: &str) {
        let sql = self.placed(sql);
        for raw in Script::new("tables", sql).split().unwrap() {
            let mut parsed = parse_statement(&raw).unwrap();
            Parameters::default().bind(&mut parsed).unwrap();
            self.session.collect(parsed).await.unwrap();
        }
    }

    /// Archives the records at these places.
    async fn archive(&self, places: &[(i32, i64)]) {
        let rows = places
            .iter()
            .map(|place| format!("('{}', {}, {})", record(*place), place.0, place.1));
        let rows: Vec<String> = rows.collect();
        let rows = rows.join(", ");
        self.run(&format!("INSERT INTO raw VALUES {rows};")).await;
    }

    async fn job(&self, insert: &str) -> JobQuery {
        let sql = format!("CREATE JOB j AS INSERT INTO {insert}");
        let raw = Script::new("jobs", sql).split().unwrap().remove(0);
        let mut parsed = parse_statement(&raw).unwrap();
        Parameters::default().bind(&mut parsed).unwrap();
        let Statement::Job(job) = parsed.statement else {
            panic!("no job: {insert}");
        };
        let JobStatement::Create { insert, emit, .. } = *job else {
            panic!("the statement makes no job");
        };
        JobQuery::try_new(&self.session, *insert, emit)
            .await
            .unwrap()
    }
}

fn spec(pin: &SourcePin, grouping: Grouping, emission: Emission) -> Arc<RunSpec> {
    Arc::new(RunSpec {
        grouping,
        emission,
        sources: [("visits".to_owned(), pin.clone())].into(),
        ..fixture::spec("r")
    })
}

fn source(query: &JobQuery, spec: &Arc<RunSpec>) -> Result<ReprocessedSource> {
    ReprocessedSource::new(query, "visits", Arc::clone(spec), &OffsetSet::default())
}

fn look(last: Option<&BatchVersion>, max_rows: u64) -> SourcePoll<'_> {
    SourcePoll {
        table: "visits",
        last,
        max_rows,
        skipping: None,
        began_at: None,
        is_replacement: false,
    }
}

fn batch(plan: &SourcePlan, ranges: &[PlannedRange]) -> Result<BatchSource> {
    plan.reader.batch(Read {
        table: "visits",
        ranges,
        time: None,
        aside: None,
    })
}

/// The version of a batch with these ranges.
fn version(ranges: &[PlannedRange]) -> BatchVersion {
    let progress = ranges.iter().map(|range| {
        let progress = SourceProgress {
            start: range.start,
            end: range.end,
        };
        (range.partition, progress)
    });
    let sources: Gaps = [("visits".to_owned(), progress.collect())].into();
    BatchVersion {
        sources,
        ..BatchVersion::default()
    }
}

fn is_at_end(ends: &[PartitionEnds], version: &BatchVersion) -> bool {
    ends.iter()
        .all(|ends| version.next_offset("visits", ends.partition) == Some(ends.high))
}

/// The users of the rows with an event time in the range, ascending, as a batch reads them.
async fn users(batch: &BatchSource, range: Option<TimeRange>) -> Vec<i64> {
    let context = SessionContext::new();
    let time = |at: i64| {
        lit(ScalarValue::TimestampMicrosecond(
            Some(at),
            Some("UTC".into()),
        ))
    };
    let filters: Vec<Expr> = range
        .iter()
        .flat_map(|range| {
            [
                col("event_time").gt_eq(time(range.from())),
                col("event_time").lt(time(range.to())),
            ]
        })
        .collect();
    let state = context.state();
    let plan = batch.provider.scan(&state, None, &filters, None);
    let mut found = Vec::new();
    for rows in collect(plan.await.unwrap(), context.task_ctx())
        .await
        .unwrap()
    {
        let users = rows.column(0).as_primitive::<Int64Type>().values();
        let times = rows.column(1).as_primitive::<TimestampMicrosecondType>();
        let rows = users.iter().zip(times.values());
        let is_asked = |time: i64| range.is_none_or(|range| range.contains(time));
        found.extend(rows.filter(|row| is_asked(*row.1)).map(|row| *row.0));
    }
    found.sort_unstable();
    found
}

#[tokio::test(flavor = "multi_thread")]
async fn a_source_is_pinned_with_all_that_a_run_rests_on() {
    let lake = Lake::new("").await;
    lake.archive(&places(0, 2..25)).await;
    lake.archive(&places(1, 0..30)).await;
    let query = lake.job(&format!("out {WINDOWED}")).await;
    let facts = pin_source(&query, "visits").await.unwrap();
    assert_eq!(facts.pin.archive.at, PinnedAt::Version(2));
    assert!(matches!(
        &facts.pin.archive.identity,
        Identity::DeltaTable { .. }
    ));
    let tail = facts.pin.tail.as_ref().unwrap();
    assert_eq!(tail.at, PinnedAt::Ends([(0, 40), (1, 30)].into()));
    // The topic has records from before the archive.
    assert_eq!(facts.pin.from, BTreeMap::from([(0, 0), (1, 0)]));
    assert_eq!(facts.ranges, BTreeMap::from([(0, 0..40), (1, 0..30)]));
    assert_eq!(facts.delay, Some(5 * SECOND));
    assert_eq!(facts.warnings, [""; 0]);
    let at = |second: i64| (BEGIN + second) * SECOND;
    let highest: Vec<_> = facts
        .archive
        .iter()
        .map(|of| (of.highest, of.has_all))
        .collect();
    assert_eq!(highest, [(Some(at(39)), false), (Some(at(29)), true)]);
    // The partition that is archived to its end holds no other back.
    let watermark = archive_watermark(facts.archive.iter().copied(), 5 * SECOND);
    assert_eq!(watermark, Some(at(34)));
    let selection = OffsetSet::of([
        ("visits".to_owned(), 0, 24..26),
        ("visits".to_owned(), 1, 24..25),
        ("visits".to_owned(), 1, 3..4),
    ]);
    let pins = BTreeMap::from([("visits".to_owned(), facts.pin)]);
    let pasts = BTreeMap::from([("visits".to_owned(), facts.past)]);
    let found = times_of(&query, &pins, &pasts, &selection).await.unwrap();
    assert_eq!(found.times, [3, 24, 25].map(at));
    assert_eq!(found.rows, selection);
}

#[tokio::test(flavor = "multi_thread")]
async fn event_times_that_are_not_of_this_world_are_named() {
    let lake = Lake::new("").await;
    lake.archive(&places(1, 0..30)).await;
    let far = r#"{"user_id":1,"event_time":"2999-01-01T00:00:00Z"}"#;
    lake.broker.send("visits", [(1, far.to_owned())]);
    lake.run(&format!("INSERT INTO raw VALUES ('{far}', 1, 30);"))
        .await;
    let query = lake.job(&format!("out {WINDOWED}")).await;
    let facts = pin_source(&query, "visits").await.unwrap();
    let highest = facts.archive[1].highest;
    assert_eq!(highest, Some((BEGIN + 29) * SECOND));
    let [warning] = facts.warnings.as_slice() else {
        panic!("{:?}", facts.warnings);
    };
    let says = "visits: the event times at offset 30 of partition 1 are more than ";
    assert!(warning.starts_with(says), "{warning}");
    let says = "archive raw has no timestamps of records";
    assert!(warning.contains(says), "{warning}");
}

#[tokio::test(flavor = "multi_thread")]
async fn sources_without_a_past_are_refused() {
    let lake = Lake::new("").await;
    let refused = async |insert: &str, table: &str| -> Error {
        let query = lake.job(insert).await;
        pin_source(&query, table).await.unwrap_err()
    };
    let error = refused("out SELECT user_id, event_time FROM plain", "plain").await;
    assert!(
        error.message().contains("'plain' has no archive"),
        "{error}"
    );
    let error = refused(&format!("out {ROW_WISE}"), "plain").await;
    assert!(error.message().contains("is not a source"), "{error}");
    let archiving = "raw SELECT CAST(user_id AS VARCHAR), 0, user_id FROM visits";
    let error = refused(archiving, "visits").await;
    let says = "the job writes raw, which is the archive of its own source";
    assert!(error.message().contains(says), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn run_2_chunks_of_any_length_have_each_record_once() {
    let lake = Lake::new("").await;
    lake.archive(&[places(0, 0..10), places(1, 3..30)].concat())
        .await;
    lake.archive(&places(0, 14..25)).await;
    let query = lake.job(&format!("out {ROW_WISE}")).await;
    let pin = pin_source(&query, "visits").await.unwrap().pin;
    // What comes later is no part of the run, in the archive and in the topic.
    lake.send(&places(0, 40..45));
    lake.archive(&places(0, 25..30)).await;
    let emission = TimeRanges::joined(vec![seconds(2, 20), seconds(27, 100)], 0);
    let spec = spec(&pin, Grouping::Rows, Emission::Time(emission));
    let offsets = (2..20).chain(27..40);
    let mut expected: Vec<i64> = offsets.clone().map(|offset| user((0, offset))).collect();
    let second = offsets.filter(|offset| *offset < 30);
    expected.extend(second.map(|offset| user((1, offset))));
    for lengths in [[7, 7], [1_000, 1_000], [3, 50]] {
        let (mut found, mut last) = (Vec::new(), None::<BatchVersion>);
        for attempt in 0.. {
            // Another attempt opens the source again.
            let source = source(&query, &spec).unwrap();
            assert_eq!(source.topic(), None);
            assert_eq!(source.identity().await.unwrap(), pin.archive.identity);
            let length = lengths[attempt % 2] * SECOND as u64;
            let plan = source.plan(look(last.as_ref(), length)).await.unwrap();
            assert_eq!(plan.ends[0].partition, TIME_AXIS);
            let chosen = plan.chosen.clone().unwrap();
            if chosen[0].start == chosen[0].end {
                assert_eq!(plan.ends[0].unread, Some(0));
                assert!(is_at_end(&plan.ends, last.as_ref().unwrap()));
                break;
            }
            if let Some(last) = &last {
                assert_eq!(last.next_offset("visits", TIME_AXIS), Some(chosen[0].start));
            }
            let batch = batch(&plan, &chosen).unwrap();
            assert!(batch.ranges.is_empty() && batch.last_records.is_empty());
            found.extend(users(&batch, batch.chunk.unwrap().reads()).await);
            last = Some(version(&chosen));
        }
        found.sort_unstable();
        assert_eq!(found, expected, "{lengths:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn run_2_chunks_of_offsets_have_the_selected_records_once() {
    let lake = Lake::new("").await;
    lake.archive(&[places(0, 0..20), places(1, 0..30)].concat())
        .await;
    let query = lake.job(&format!("out {ROW_WISE}")).await;
    let pin = pin_source(&query, "visits").await.unwrap().pin;
    let selection = [(0, 1..3), (0, 18..22), (0, 39..40), (1, 7..8)];
    let set = OffsetSet::of(
        selection
            .clone()
            .map(|(partition, offsets)| ("visits".to_owned(), partition, offsets)),
    );
    let late = OffsetSet::of([("visits".to_owned(), 0, 21..22)]);
    let spec = spec(&pin, Grouping::Rows, Emission::Offsets(set));
    let selected = selection
        .into_iter()
        .flat_map(|(partition, offsets)| places(partition, offsets));
    let expected: BTreeSet<i64> = selected
        .filter(|place| *place != (0, 21))
        .map(user)
        .collect();
    for max_rows in [1, 3, 100] {
        let (mut found, mut last) = (Vec::new(), None::<BatchVersion>);
        let source = ReprocessedSource::new(&query, "visits", Arc::clone(&spec), &late).unwrap();
        assert_eq!(source.topic(), Some("visits"));
        loop {
            let plan = source.plan(look(last.as_ref(), max_rows)).await.unwrap();
            let partitions: Vec<i32> = plan.ends.iter().map(|ends| ends.partition).collect();
            assert_eq!(partitions, [0, 1]);
            let chosen = plan.chosen.clone().unwrap();
            if chosen.iter().all(|range| range.start == range.end) {
                assert!(is_at_end(&plan.ends, last.as_ref().unwrap()));
                break;
            }
            let batch = batch(&plan, &chosen).unwrap();
            assert_eq!(batch.chunk, None);
            found.extend(selected_users(&batch).await);
            last = Some(version(&chosen));
        }
        let count = found.len();
        let found: BTreeSet<i64> = found.into_iter().collect();
        assert_eq!(count, found.len(), "{max_rows}");
        assert_eq!(found, expected, "{max_rows}");
    }
}

/// The users of the rows of a batch by offsets, whose scans have side output.
async fn selected_users(batch: &BatchSource) -> Vec<i64> {
    let output: Arc<anabranch_udfs::SideOutput> = Arc::default();
    let config = datafusion::prelude::SessionConfig::new().with_extension(output);
    let context = SessionContext::new_with_config(config);
    let (state, columns) = (context.state(), vec![0]);
    let plan = batch.provider.scan(&state, Some(&columns), &[], None);
    let rows = collect(plan.await.unwrap(), context.task_ctx()).await;
    let rows = rows.unwrap();
    let users = rows
        .iter()
        .flat_map(|rows| rows.column(0).as_primitive::<Int64Type>().values().iter());
    users.copied().collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn offsets_in_neither_half_end_a_run() {
    let lake = Lake::new("").await;
    lake.archive(&places(0, 0..20)).await;
    let query = lake.job(&format!("out {ROW_WISE}")).await;
    let facts = pin_source(&query, "visits").await.unwrap();
    // As if retention had removed the records of both partitions up to these offsets.
    let ends = [(0, 22), (1, 5)].map(|(partition, low)| PartitionEnds {
        partition,
        low,
        high: 40,
        latest: 40,
        unread: None,
        behind_hole: None,
    });
    let run = super::pinned_past::RunSource::of(&query, "visits").unwrap();
    let past = run.past(&facts.pin, false).await.unwrap();
    let lost = super::pinned_past::lost(past.parts(), &ends);
    let shown: Vec<(i32, i64, i64)> = lost
        .iter()
        .map(|(partition, range)| (*partition, range.from, range.to))
        .collect();
    assert_eq!(shown, [(0, 20, 22), (1, 0, 5)]);
    let error = run.in_neither(&lost);
    let says = "neither topic 'visits' nor archive raw has offsets 20 to 21 of partition 0, offsets 0 to 4 of partition 1";
    assert!(error.message().contains(says), "{error}");
    run.check_topic(&facts.pin, &past).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_past_that_was_just_pinned_is_not_opened_again() {
    let lake = Lake::new("").await;
    lake.archive(&places(0, 0..20)).await;
    lake.archive(&places(1, 0..30)).await;
    let query = lake.job(&format!("out {ROW_WISE}")).await;
    let facts = pin_source(&query, "visits").await.unwrap();
    let range = seconds(5, 25);
    let spec = spec(&facts.pin, Grouping::Rows, Emission::Time(range.into()));
    let users_of = async |source: ReprocessedSource| -> Result<Vec<i64>> {
        let plan = source.plan(look(None, 60 * SECOND as u64)).await?;
        let chosen = plan.chosen.clone().unwrap();
        Ok(users(&batch(&plan, &chosen)?, Some(range)).await)
    };
    let mut expected: Vec<i64> = [places(0, 5..25), places(1, 5..25)]
        .concat()
        .into_iter()
        .map(user)
        .collect();
    expected.sort_unstable();
    let opened = source(&query, &spec).unwrap();
    assert_eq!(users_of(opened).await.unwrap(), expected);
    // The table is the same one, but its log can no longer be read from the beginning.
    let log = lake.folder.path().join("raw/_delta_log");
    std::fs::remove_file(log.join("00000000000000000000.json")).unwrap();
    let opened = source(&query, &spec).unwrap();
    users_of(opened).await.unwrap_err();
    let pinned = source(&query, &spec).unwrap().with_past(Some(facts.past));
    assert_eq!(users_of(pinned).await.unwrap(), expected);
}

#[tokio::test(flavor = "multi_thread")]
async fn ident_1_a_run_does_not_read_another_archive() {
    let lake = Lake::new("").await;
    lake.archive(&places(0, 0..20)).await;
    let query = lake.job(&format!("out {ROW_WISE}")).await;
    let PinnedFacts { mut pin, past, .. } = pin_source(&query, "visits").await.unwrap();
    let Identity::DeltaTable { id, .. } = &mut pin.archive.identity else {
        panic!("an archive is a Delta table");
    };
    "another".clone_into(id);
    let spec = spec(&pin, Grouping::Rows, Emission::Time(seconds(0, 9).into()));
    let opens = source(&query, &spec).unwrap();
    let pinned = source(&query, &spec).unwrap().with_past(Some(past));
    for error in [
        opens.identity().await.unwrap_err(),
        opens.plan(look(None, 1)).await.unwrap_err(),
        pinned.plan(look(None, 1)).await.unwrap_err(),
    ] {
        let says = "the run rests on another table than there is now";
        assert!(error.message().contains(says), "{error}");
    }
}
