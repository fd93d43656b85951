//! A reprocessing run in the simulated world: several processes run it, die, sleep and go on afterwards as if no time had passed, with
//! chunks of other lengths in each attempt, while the store, the sources and the sink fail (RUN-1, RUN-2).

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use datafusion::arrow::array::{
    ArrayRef, Int32Array, Int64Array, RecordBatch, TimestampMicrosecondArray,
};
use datafusion::arrow::datatypes::SchemaRef;
use datafusion::datasource::MemTable;

use super::jobs::{GAP, Kind, SOURCE};
use super::processes::Processes;
use super::random::Random;
use super::sink::{OutRow, SimulatedSink, Sink};
use super::source::{DELAY, Partition, Row, SECOND, Topic};
use super::world::{Observer, Process, Rates, World};
use super::{SEEDS, block_on};
use crate::core::jobs::{Identity, PlannedRange, RecordMark, RunEvent, Startup};
use crate::core::runs::spec::fixture;
use crate::core::runs::{
    AskedRange, Chunk, Emission, EmitRows, Grouping, PartitionArchive, RunOptions as OptionsOfRun,
    RunSpec, RunState, TimeRange, archive_watermark,
};
use crate::core::schedules::{self, Schedules};
use crate::error::{Error, ErrorKind, Result};
use crate::runtime::environment::{Environment, JobTables};
use crate::runtime::job::ReadyJob;
use crate::runtime::job_status::RunOptions;
use crate::runtime::options::JobOptions;
use crate::runtime::runner::JobRunner;
use crate::runtime::runs::ready::options_of;
use crate::runtime::runs::sink::OpenRunSink;
use crate::runtime::sink::OpenSink;
use crate::runtime::source::{JobSource, JobSources, PlanReader, Read, SourcePlan, SourcePoll};
use crate::runtime::sources::reprocessed::chunk_by_time;
use crate::store::simulated::SimulatedDisk;
use crate::store::{JobId, RunCreation, RunStore, StoredRun};
use crate::streaming::{BatchSource, JobQuery, RunFacts};

/// How many processes there may be at the same time.
const PROCESSES: usize = 2;
/// So many turns a run may take to come to its end once nothing fails any more.
const PATIENCE: u64 = 200_000;

/// What a run in a schedule is like.
struct Hazards {
    turns: u64,
    crashes: u64,
    sleeps: u64,
    fights: u64,
    rates: Rates,
}

impl Hazards {
    fn new(random: &mut Random) -> Self {
        let mut sometimes = |of: u64, per_mille: u64| match random.below(of) {
            0 => per_mille,
            _ => 0,
        };
        Self {
            turns: 100 + sometimes(2, 200),
            crashes: sometimes(2, 25),
            sleeps: sometimes(2, 15),
            fights: sometimes(2, 15),
            rates: Rates {
                store: sometimes(2, 30),
                source: sometimes(3, 30),
                sink: sometimes(2, 40),
            },
        }
    }
}

/// A run under way.
struct Schedule {
    world: Arc<World>,
    disk: SimulatedDisk,
    /// The runs, read without faults.
    store: RunStore,
    run: StoredRun,
    queries: Vec<Arc<JobQuery>>,
    hazards: Hazards,
    processes: Processes,
    started: usize,
}

/// The tables of a run as one process sees them.
#[derive(Debug)]
struct TablesOfRun {
    process: Process,
    spec: Arc<RunSpec>,
}

impl JobTables for TablesOfRun {
    fn sources(&self, query: &JobQuery, _: Option<&Startup>) -> Result<JobSources> {
        let open = |name: &String| {
            let source = SimulatedPast {
                process: self.process.clone(),
                spec: Arc::clone(&self.spec),
            };
            (name.clone(), Box::new(source) as Box<dyn JobSource>)
        };
        Ok(query.sources().keys().map(open).collect())
    }

    fn sink(&self, _: &JobQuery, _: JobId, _: &str) -> Result<Box<dyn OpenSink>> {
        Ok(Box::new(OpenRunSink {
            inner: Box::new(SimulatedSink::new(self.process.clone())),
            key: Vec::new(),
            spec: Arc::clone(&self.spec),
            comparison: None,
            clock: Arc::new(self.process.clone()),
        }))
    }
}

/// All records of the topic, by event time.
#[derive(Debug)]
struct SimulatedPast {
    process: Process,
    spec: Arc<RunSpec>,
}

impl SimulatedPast {
    async fn ask(&self, what: &str) -> Result<()> {
        self.process.step().await;
        if self.process.fails(|rates| rates.source) {
            self.process.note(format_args!("{what}: no answer"));
            return Err(Error::unavailable("the simulated archive does not answer"));
        }
        self.process.step().await;
        Ok(())
    }
}

#[async_trait]
impl JobSource for SimulatedPast {
    async fn identity(&self) -> Result<Identity> {
        self.ask("the archive's id").await?;
        Ok(self.spec.sources[SOURCE].archive.identity.clone())
    }

    async fn other_records(&self, _: &BTreeMap<i32, RecordMark>) -> Result<Vec<i32>> {
        Ok(Vec::new())
    }

    async fn plan(&self, look: SourcePoll<'_>) -> Result<SourcePlan> {
        self.ask("the archive").await?;
        let Emission::Time(emission) = &self.spec.emission else {
            return Err(Error::internal("a run by offsets"));
        };
        let process = self.process.clone();
        chunk_by_time(look, self.spec.grouping, emission, |range, chunk| {
            Arc::new(PastReader {
                process,
                range,
                chunk,
            })
        })
    }
}

/// Reads a chunk.
#[derive(Debug)]
struct PastReader {
    process: Process,
    range: PlannedRange,
    chunk: Option<Chunk>,
}

impl PlanReader for PastReader {
    fn batch(&self, read: Read<'_>) -> Result<BatchSource> {
        assert_eq!(read.ranges, [self.range]);
        let rows = good_rows(&self.process.world.lock().topic);
        Ok(BatchSource {
            provider: Arc::new(past_of(&rows)?),
            ranges: Vec::new(),
            last_records: BTreeMap::new(),
            chunk: self.chunk,
        })
    }
}

/// The rows that can be decoded, each with its place.
fn good_rows(topic: &Topic) -> Vec<(i32, i64, Row)> {
    let partitions = (0_i32..).zip(&topic.partitions);
    let rows = partitions.flat_map(|(partition, log)| {
        let rows = (0_i64..).zip(&log.rows);
        rows.map(move |(offset, row)| (partition, offset, *row))
    });
    rows.filter(|(.., row)| !row.is_bad).collect()
}

/// The rows as the columns `k`, `event_time`, `v`, `p`, `o`.
fn past_of(rows: &[(i32, i64, Row)]) -> Result<MemTable> {
    let keys: Int64Array = rows.iter().map(|(.., row)| row.key).collect();
    let times = rows.iter().map(|(.., row)| row.time * SECOND);
    let values = rows.iter().map(|(.., row)| row.value);
    let columns: Vec<(&str, ArrayRef)> = vec![
        ("k", Arc::new(keys)),
        (
            "event_time",
            Arc::new(TimestampMicrosecondArray::from_iter_values(times).with_timezone("UTC")),
        ),
        ("v", Arc::new(Int64Array::from_iter_values(values))),
        (
            "p",
            Arc::new(Int32Array::from_iter_values(rows.iter().map(|row| row.0))),
        ),
        (
            "o",
            Arc::new(Int64Array::from_iter_values(rows.iter().map(|row| row.1))),
        ),
    ];
    let columns = columns
        .into_iter()
        .map(|(name, column)| (name, column, true));
    let batch = RecordBatch::try_from_iter_with_nullable(columns);
    let batch = batch.map_err(|error| Error::internal(error.to_string()))?;
    let schema: SchemaRef = batch.schema();
    Ok(MemTable::try_new(schema, vec![vec![batch]])?)
}

impl Schedule {
    async fn new(kind: Kind, seed: u64) -> Self {
        let mut random = Random::new(seed);
        let hazards = Hazards::new(&mut random);
        let topic = topic_of(&mut random, kind);
        let from = 95 + i64::try_from(random.below(40)).unwrap();
        let to = from + 1 + i64::try_from(random.below(60)).unwrap();
        let partitions = topic.partitions.iter().map(|log| PartitionArchive {
            highest: log
                .rows
                .iter()
                .filter(|row| !row.is_bad)
                .map(|row| row.time * SECOND)
                .max(),
            has_all: true,
        });
        let watermark = archive_watermark(partitions.collect::<Vec<_>>(), DELAY * SECOND);
        let grouping = kind.query().await.grouping().unwrap();
        let spec = spec_of(grouping, (from * SECOND, to * SECOND), watermark);
        let mut queries = Vec::new();
        for _ in 0..PROCESSES {
            queries.push(kind.query_of_run(RunFacts::from(&spec)).await);
        }
        let sink = Sink::new(false, Duration::ZERO, Duration::ZERO);
        let world = Arc::new(World::new(random, topic, sink, hazards.rates));
        let first = format!("{kind:?}, {from} s to {to} s, watermark {watermark:?}");
        world.lock().note(first);
        let disk = SimulatedDisk::default();
        let store = RunStore::new(&disk.seen_with(Arc::new(Observer)));
        let created = store.create(spec, 0).await.unwrap();
        let RunCreation::Created(mut run) = created else {
            panic!("the store is empty");
        };
        store.apply(&mut run, true, 0).await.unwrap();
        Self {
            processes: Processes::new(&world, PROCESSES),
            world,
            disk,
            store,
            run,
            queries,
            hazards,
            started: 0,
        }
    }

    fn chance(&self, per_mille: u64) -> bool {
        self.world.lock().random.chance(per_mille)
    }

    fn any_slot(&self) -> usize {
        self.world.lock().random.index(PROCESSES)
    }

    /// A process takes the run over, with chunks of a length of its own.
    fn start(&mut self, slot: usize) {
        self.started += 1;
        let process = Process::new(&self.world, self.started);
        let length = 1 + i64::try_from(self.world.lock().random.below(25)).unwrap();
        process.note(format_args!("starts, with chunks of {length} s"));
        let store = RunStore::new(&self.disk.seen_with(Arc::new(process.clone())));
        let mut spec = self.run.spec.clone();
        spec.options.chunk = Some(length * SECOND);
        let spec = Arc::new(spec);
        let job = ReadyJob {
            id: self.run.id,
            name: spec.run_id.clone(),
            text: spec.text.clone(),
            tables: spec.tables.clone(),
            options: options_of(&spec, JobOptions::default()),
            query: Arc::clone(&self.queries[slot]),
            environment: Environment {
                clock: Arc::new(process.clone()),
                tables: Arc::new(TablesOfRun {
                    process: process.clone(),
                    spec,
                }),
            },
        };
        let future = async move {
            let options = RunOptions {
                until_caught_up: true,
                ..RunOptions::default()
            };
            let runner = JobRunner::try_new(store.jobs(), &job, &options)?;
            runner.run().await.map(drop)
        };
        self.processes.start(slot, process, future, "a runner");
    }

    async fn turn(&mut self) -> Result<(), String> {
        let passes = self.world.lock().random.below(3_000);
        self.world.pass(Duration::from_micros(passes));
        let Some((ended, outcome)) = self.processes.turn().await else {
            return Ok(());
        };
        match outcome {
            Ok(()) => ended.process.note("is done"),
            Err(error) if error.kind() == ErrorKind::Unavailable => {
                ended.process.note(format_args!("gives way: {error}"));
            }
            Err(error) => return Err(format!("a runner ended: {error}")),
        }
        Ok(())
    }

    async fn run(&mut self) -> Result<(), String> {
        for _ in 0..self.hazards.turns {
            if self.processes.are_free() || self.chance(self.hazards.fights) {
                let slot = self.any_slot();
                if self.processes.is_free(slot) {
                    self.start(slot);
                }
            }
            if self.chance(self.hazards.crashes) {
                let slot = self.any_slot();
                self.processes.crash(slot);
            }
            if self.chance(self.hazards.sleeps) {
                let slot = self.any_slot();
                let sleep = 20 + self.world.lock().random.below(600);
                let until = self.world.lock().now + Duration::from_millis(sleep);
                self.processes.sleep(slot, until);
            }
            self.turn().await?;
        }
        {
            let mut state = self.world.lock();
            state.note("from here on nothing fails");
            state.rates = Rates::default();
        }
        (0..PROCESSES).for_each(|slot| self.processes.crash(slot));
        self.start(0);
        for _ in 0..PATIENCE {
            if self.processes.are_free() {
                return Ok(());
            }
            self.turn().await?;
        }
        Err("the run does not come to an end".to_owned())
    }

    /// The rows of the sink are those of the definition, each once, and the run is complete.
    async fn check(&mut self, kind: Kind) -> Result<(), String> {
        let event = RunEvent::Completed;
        self.run.history = self.store.jobs().history(self.run.id).await.unwrap();
        self.store.append(&mut self.run, event, 0).await.unwrap();
        if self.run.state() != RunState::Complete {
            return Err(format!("it is {}", self.run.state()));
        }
        let chunks = self.store.chunks(&self.run).await.unwrap();
        let extents: Vec<_> = chunks.iter().map(|chunk| &chunk.extent).collect();
        for (index, extent) in extents.iter().enumerate() {
            if !extent.follows(extents[..index].iter().copied()) {
                return Err(format!(
                    "{extent:?} does not follow {:?}",
                    &extents[..index]
                ));
            }
        }
        let state = self.world.lock();
        let commits = state.sink.commits.iter();
        let mut given: Vec<OutRow> = commits.flat_map(|commit| commit.rows.clone()).collect();
        given.sort_unstable();
        let expected = expected(kind, &good_rows(&state.topic), &self.run.spec);
        match given == expected {
            true => Ok(()),
            false => Err(format!(
                "the run has given {given:?}, and should have given {expected:?}"
            )),
        }
    }
}

/// Records of seconds that go forward, some of them far behind.
fn topic_of(random: &mut Random, kind: Kind) -> Topic {
    let mut partitions = vec![Partition::default(); 1 + random.index(3)];
    for serial in 0..30 + random.below(60) {
        let behind = if random.chance(60) { 25 } else { 0 };
        let step = i64::try_from(random.below(14)).unwrap() - 8;
        let key = i64::try_from(random.below(4)).unwrap();
        let row = Row {
            serial,
            at: 0,
            key: (key > 0 || !kind.has_null_keys()).then_some(key),
            time: 100 + i64::try_from(serial).unwrap() + step - behind,
            value: i64::try_from(random.below(100)).unwrap(),
            is_bad: random.chance(40),
        };
        let index = random.index(partitions.len());
        partitions[index].rows.push(row);
    }
    Topic {
        partitions,
        gives_ids: true,
        ..Topic::default()
    }
}

fn spec_of(grouping: Grouping, (from, to): (i64, i64), watermark: Option<i64>) -> RunSpec {
    let range = TimeRange::try_new(from, to).unwrap();
    let spec = fixture::spec("r");
    let asked = AskedRange {
        time: Some(range),
        ..AskedRange::default()
    };
    RunSpec {
        asked,
        emission: Emission::Time(grouping.emission(range).unwrap().into()),
        grouping,
        watermark,
        statics: BTreeMap::new(),
        sink: Identity::Topic {
            topic: "out".to_owned(),
            cluster: Some("world".to_owned()),
            id: Some("0".to_owned()),
        },
        options: OptionsOfRun {
            emit: EmitRows::All,
            withdraw: false,
            ..spec.options
        },
        ..spec
    }
}

/// What the run gives by the definition: of all rows, the final groups that have one in the range.
fn expected(kind: Kind, rows: &[(i32, i64, Row)], spec: &RunSpec) -> Vec<OutRow> {
    let range = spec.asked.time.unwrap();
    let mut expected: Vec<OutRow> = match kind {
        Kind::Rows => rows
            .iter()
            .filter(|(.., row)| range.contains(row.time * SECOND))
            .map(|(partition, offset, row)| {
                let partition = Some(i64::from(*partition));
                vec![row.key, Some(row.value * 2), partition, Some(*offset)]
            })
            .collect(),
        Kind::SessionChanges => sessions(rows, range, spec.watermark),
        _ => windows(kind, rows, range, spec.watermark),
    };
    expected.sort_unstable();
    expected
}

fn windows(
    kind: Kind,
    rows: &[(i32, i64, Row)],
    range: TimeRange,
    watermark: Option<i64>,
) -> Vec<OutRow> {
    let mut groups: BTreeMap<(Option<i64>, i64, i64), (i64, i64)> = BTreeMap::new();
    for (.., row) in rows {
        for (start, end) in kind.windows(row.time) {
            let group = groups.entry((row.key, start, end)).or_default();
            *group = (group.0 + 1, group.1 + row.value);
        }
    }
    let groups = groups.into_iter();
    let given = groups.filter_map(|((key, start, end), (count, sum))| {
        let (start, end) = (start * SECOND, end * SECOND);
        let is_asked = start < range.to() && range.from() < end;
        let is_final = watermark.is_some_and(|watermark| end <= watermark);
        let row = vec![key, Some(start), Some(end), Some(count), Some(sum), Some(1)];
        (is_asked && is_final).then_some(row)
    });
    given.collect()
}

fn sessions(rows: &[(i32, i64, Row)], range: TimeRange, watermark: Option<i64>) -> Vec<OutRow> {
    let mut by_key: BTreeMap<Option<i64>, Vec<(i64, i64)>> = BTreeMap::new();
    for (.., row) in rows {
        by_key
            .entry(row.key)
            .or_default()
            .push((row.time, row.value));
    }
    let mut given = Vec::new();
    for (key, mut rows) in by_key {
        rows.sort_unstable();
        for session in rows.chunk_by(|one, next| next.0 - one.0 <= GAP) {
            let (start, end) = (session[0].0, session[session.len() - 1].0 + GAP);
            let (start, end) = (start * SECOND, end * SECOND);
            let is_asked = session.iter().any(|row| range.contains(row.0 * SECOND));
            if is_asked && watermark.is_some_and(|watermark| end < watermark) {
                let count = i64::try_from(session.len()).unwrap();
                let sum = session.iter().map(|row| row.1).sum();
                given.push(vec![
                    key,
                    Some(start),
                    Some(end),
                    Some(count),
                    Some(sum),
                    Some(1),
                ]);
            }
        }
    }
    given
}

fn simulate(kind: Kind) {
    block_on(async {
        let counted = Schedules::of(format!("runs of {kind:?}"));
        let mut failed = Vec::new();
        for seed in schedules::seeds(SEEDS, &[]) {
            counted.count();
            let mut schedule = Schedule::new(kind, seed).await;
            let outcome = match schedule.run().await {
                Ok(()) => schedule.check(kind).await,
                failed => failed,
            };
            if let Err(fault) = outcome {
                let trace = schedule.world.trace();
                failed.push(format!(
                    "ANABRANCH_SEED={seed} runs it again: {fault}\n{trace}"
                ));
            }
        }
        assert!(failed.is_empty(), "{}", failed.join("\n\n"));
    });
}

#[test]
fn run_1_2_rows_of_a_run_are_written_once() {
    simulate(Kind::Rows);
}

#[test]
fn run_1_2_windows_of_a_run_are_written_once() {
    simulate(Kind::TumbleOnClose);
}

#[test]
fn run_1_2_overlapping_windows_of_a_run_are_written_once() {
    simulate(Kind::HopChanges);
}

#[test]
fn run_1_2_sessions_of_a_run_are_written_once() {
    simulate(Kind::SessionChanges);
}
