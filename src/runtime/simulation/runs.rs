//! A reprocessing run in the simulated world: several processes run it, die, sleep and go on afterwards as if no time had passed, with
//! chunks of other lengths in each attempt, while the store, the sources and the sink fail (RUN-1, RUN-2). Statements may end it meanwhile.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;

use super::jobs::{GAP, Kind, SOURCE};
use super::past::{PinnedTopic, PlacedRow, SimulatedPast, read_by_run};
use super::processes::{Processes, RunningProcess};
use super::random::Random;
use super::sink::{OutRow, SimulatedSink, Sink};
use super::source::{DELAY, Partition, Row, SECOND, Topic};
use super::world::{Observer, Process, Rates, World};
use super::{ENOUGH, SEEDS, block_on, runtime};
use crate::core::jobs::{Identity, RunEvent, Startup};
use crate::core::runs::spec::fixture;
use crate::core::runs::{
    AskedRange, Emission, EmitRows, Grouping, OffsetSet, PartitionArchive,
    RunOptions as OptionsOfRun, RunSpec, RunState, TimeRange, archive_watermark,
};
use crate::core::schedules::{self, Schedules};
use crate::error::{Error, ErrorKind, Result};
use crate::runtime::environment::{Environment, JobTables};
use crate::runtime::job::ReadyJob;
use crate::runtime::job_status::RunOptions;
use crate::runtime::options::JobOptions;
use crate::runtime::runner::JobRunner;
use crate::runtime::runs::abort::{EndedRun, EndingProcess, end_run};
use crate::runtime::runs::job_watch::JobWatch;
use crate::runtime::runs::ready::options_of;
use crate::runtime::runs::sink::OpenRunSink;
use crate::runtime::sink::OpenSink;
use crate::runtime::source::{JobSource, JobSources};
use crate::store::simulated::SimulatedDisk;
use crate::store::{JobId, JobStore, RunCreation, RunStore, StoredRun};
use crate::streaming::{JobQuery, RunFacts, StreamTable};

/// How many processes may run it at the same time.
const PROCESSES: usize = 2;
/// The place of the process that ends it.
const ENDING: usize = PROCESSES;
/// So many turns a run may take to come to its end once nothing fails any more.
const PATIENCE: u64 = 200_000;

/// What a run in a schedule is like.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Hazards {
    turns: u64,
    crashes: u64,
    sleeps: u64,
    fights: u64,
    /// How often a statement orders the run once more.
    orders: u64,
    /// How often a statement begins to end it.
    aborts: u64,
    pub(super) rates: Rates,
}

impl Hazards {
    pub(super) fn new(random: &mut Random) -> Self {
        let mut sometimes = |of: u64, per_mille: u64| match random.below(of) {
            0 => per_mille,
            _ => 0,
        };
        Self {
            turns: 100 + sometimes(2, 200),
            crashes: sometimes(2, 25),
            sleeps: sometimes(2, 15),
            fights: sometimes(2, 15),
            orders: 10,
            aborts: 0,
            rates: Rates {
                store: sometimes(2, 30),
                source: sometimes(3, 30),
                sink: sometimes(2, 40),
            },
        }
    }

    /// The same with statements that end the run.
    pub(super) fn with_aborts(self, aborts: u64) -> Self {
        Self { aborts, ..self }
    }
}

/// What a run is to do.
pub(super) struct RunPart {
    pub(super) kind: Kind,
    pub(super) run_id: &'static str,
    pub(super) past: PinnedTopic,
    /// From when to when, in seconds; all of it if offsets are selected.
    pub(super) range: (i64, i64),
    /// The offsets that it emits, if it does not go by event time.
    pub(super) selected: Option<OffsetSet>,
    /// By which results are final.
    pub(super) watermark: Option<i64>,
    /// Rows that it leaves out.
    pub(super) left_out: OffsetSet,
    /// The job beside it, to which it gives way.
    pub(super) job: Option<JobId>,
}

impl RunPart {
    /// A run of a job over a pinned topic, of which it emits nothing yet.
    pub(super) fn of(kind: Kind, run_id: &'static str, past: PinnedTopic) -> Self {
        Self {
            kind,
            run_id,
            past,
            range: (0, 0),
            selected: None,
            watermark: None,
            left_out: OffsetSet::default(),
            job: None,
        }
    }
}

/// A run under way.
pub(super) struct RunSchedule {
    pub(super) world: Arc<World>,
    pub(super) run: StoredRun,
    part: RunPart,
    disk: SimulatedDisk,
    /// The runs, read without faults.
    store: RunStore,
    queries: Vec<Arc<JobQuery>>,
    hazards: Hazards,
    processes: Processes,
    started: usize,
    /// Its log says that it has lost what it has pinned.
    has_failed: bool,
    /// A statement was to end it.
    is_to_end: bool,
    /// How many chunks the sink had when a statement had ended it.
    ended_at: Option<usize>,
}

/// A run as one process sees it.
struct SeenRun {
    process: Process,
    store: RunStore,
    id: JobId,
    spec: Arc<RunSpec>,
    query: Arc<JobQuery>,
    past: PinnedTopic,
    /// The most records of a chunk of offsets.
    max_rows: u64,
}

impl SeenRun {
    fn job(&self, watch: Option<JobWatch>) -> ReadyJob {
        let of_job = JobOptions {
            max_rows: self.max_rows,
            ..JobOptions::default()
        };
        ReadyJob {
            id: self.id,
            name: self.spec.run_id.clone(),
            text: self.spec.text.clone(),
            tables: self.spec.tables.clone(),
            options: options_of(&self.spec, of_job),
            query: Arc::clone(&self.query),
            environment: Environment {
                clock: Arc::new(self.process.clone()),
                tables: Arc::new(TablesOfRun {
                    process: self.process.clone(),
                    spec: Arc::clone(&self.spec),
                    past: self.past.clone(),
                    watch,
                }),
            },
        }
    }

    /// ABORT RUN.
    async fn end(&self) -> Result<()> {
        let found = self.store.find(&self.spec.run_id).await?;
        let mut run = found.ok_or_else(|| Error::internal("the run is gone"))?;
        let EndedRun { decision, doubt } = end_run(self, &mut run).await?;
        self.process
            .note(format_args!("has ended the run: {decision:?}"));
        match doubt {
            None => Ok(()),
            Some(doubt) => Err(Error::internal(doubt)),
        }
    }
}

#[async_trait]
impl EndingProcess for SeenRun {
    fn runs(&self) -> &RunStore {
        &self.store
    }

    async fn ready_to_end(&self, _: &StoredRun) -> Result<ReadyJob> {
        Ok(self.job(None))
    }
}

/// The tables of a run as one process sees them.
#[derive(Debug)]
struct TablesOfRun {
    process: Process,
    spec: Arc<RunSpec>,
    past: PinnedTopic,
    watch: Option<JobWatch>,
}

#[async_trait]
impl JobTables for TablesOfRun {
    fn sources(&self, query: &JobQuery, _: Option<&Startup>) -> Result<JobSources> {
        let open = |(name, table): (&String, &StreamTable)| {
            let StreamTable::Kafka(table) = table else {
                return Err(Error::internal("the simulation has topics alone"));
            };
            let source = SimulatedPast {
                process: self.process.clone(),
                spec: Arc::clone(&self.spec),
                past: self.past.clone(),
                schema: Arc::clone(&table.schema),
            };
            Ok((name.clone(), Box::new(source) as Box<dyn JobSource>))
        };
        query.sources().iter().map(open).collect()
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

    async fn wait_reason(&self) -> Option<String> {
        let reason = self.watch.as_ref()?.wait_reason().await?;
        self.process.note(&reason);
        Some(reason)
    }
}

impl RunSchedule {
    /// A run over a topic of its own world, of which nothing changes.
    async fn alone(kind: Kind, seed: u64) -> Self {
        let mut random = Random::new(seed);
        let hazards = Hazards::new(&mut random);
        let topic = topic_of(&mut random, kind);
        let from = 95 + i64::try_from(random.below(40)).unwrap();
        let to = from + 1 + i64::try_from(random.below(60)).unwrap();
        let world = Arc::new(World::new(random, topic, new_sink(), hazards.rates));
        let past = PinnedTopic::of(&world);
        let part = RunPart {
            range: (from, to),
            watermark: watermark_of(&past, |_| true),
            ..RunPart::of(kind, "r", past)
        };
        Self::begin(part, world, SimulatedDisk::default(), hazards).await
    }

    /// The same over some of the offsets of each partition, for a job that groups no rows.
    async fn over_offsets(seed: u64) -> Self {
        let mut random = Random::new(seed);
        let hazards = Hazards::new(&mut random);
        let topic = topic_of(&mut random, Kind::Rows);
        let mut selected = Vec::new();
        for (partition, log) in (0..).zip(&topic.partitions) {
            let high = u64::try_from(log.high()).unwrap();
            for _ in 0..3 {
                let from = random.below(high + 1);
                let to = from + random.below(high - from + 1);
                let range = i64::try_from(from).unwrap()..i64::try_from(to).unwrap();
                if !range.is_empty() {
                    selected.push((SOURCE.to_owned(), partition, range));
                }
            }
        }
        if selected.is_empty() {
            selected.push((SOURCE.to_owned(), 0, 0..1));
        }
        let world = Arc::new(World::new(random, topic, new_sink(), hazards.rates));
        let part = RunPart {
            selected: Some(OffsetSet::of(selected)),
            ..RunPart::of(Kind::Rows, "r", PinnedTopic::of(&world))
        };
        Self::begin(part, world, SimulatedDisk::default(), hazards).await
    }

    /// A run whose processes and sink are in this world.
    pub(super) async fn begin(
        part: RunPart,
        world: Arc<World>,
        disk: SimulatedDisk,
        hazards: Hazards,
    ) -> Self {
        let grouping = part.kind.query().await.grouping().unwrap();
        let spec = spec_of(&part, grouping);
        let mut queries = Vec::new();
        for _ in 0..PROCESSES {
            queries.push(part.kind.query_of_run(RunFacts::from(&spec)).await);
        }
        let RunPart {
            kind,
            run_id,
            range: (from, to),
            watermark,
            ..
        } = &part;
        world.lock().note(format_args!(
            "{kind:?}, run {run_id}, {from} s to {to} s, watermark {watermark:?}, {hazards:?}"
        ));
        let store = RunStore::new(&disk.seen_with(Arc::new(Observer)));
        let created = store.create(spec, 0).await.unwrap();
        let RunCreation::Created(mut run) = created else {
            panic!("there is no other run of this id");
        };
        store.apply(&mut run, true, 0).await.unwrap();
        Self {
            processes: Processes::new(&world, PROCESSES + 1),
            world,
            run,
            part,
            disk,
            store,
            queries,
            hazards,
            started: 0,
            has_failed: false,
            is_to_end: false,
            ended_at: None,
        }
    }

    pub(super) fn turns(&self) -> u64 {
        self.hazards.turns
    }

    /// What has happened, for messages.
    pub(super) fn trace(&self) -> String {
        self.world.trace()
    }

    fn chance(&self, per_mille: u64) -> bool {
        self.world.lock().random.chance(per_mille)
    }

    fn any_slot(&self) -> usize {
        self.world.lock().random.index(PROCESSES)
    }

    /// The place of a process that runs it or, if there are such, of one that ends it.
    fn any_process(&self) -> usize {
        let ending = usize::from(self.hazards.aborts > 0);
        self.world.lock().random.index(PROCESSES + ending)
    }

    /// A process takes the run over, with chunks of a length of its own.
    fn start(&mut self, slot: usize) {
        self.started += 1;
        let process = Process::new(&self.world, self.started);
        let length = 1 + i64::try_from(self.world.lock().random.below(25)).unwrap();
        process.note(format_args!("starts, with chunks of {length} s or offsets"));
        let mut spec = self.run.spec.clone();
        spec.options.chunk = Some(length * SECOND);
        let jobs = JobStore::new(self.disk.seen_with(Arc::new(process.clone())));
        let watch = JobWatch::of_spec(&jobs, &spec, Arc::new(process.clone())).unwrap();
        let max_rows = u64::try_from(length).unwrap();
        let seen = self.seen_by(&process, slot, spec, max_rows);
        let job = seen.job(watch);
        let store = seen.store;
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

    fn seen_by(&self, process: &Process, slot: usize, spec: RunSpec, max_rows: u64) -> SeenRun {
        let dir = self.disk.seen_with(Arc::new(process.clone()));
        SeenRun {
            process: process.clone(),
            store: RunStore::new(&dir),
            id: self.run.id,
            spec: Arc::new(spec),
            query: Arc::clone(&self.queries[slot]),
            past: self.part.past.clone(),
            max_rows,
        }
    }

    /// A process ends the run.
    fn abort(&mut self) {
        self.started += 1;
        let process = Process::new(&self.world, self.started);
        process.note("ends the run");
        let seen = self.seen_by(&process, 0, self.run.spec.clone(), 1);
        let future = async move { seen.end().await };
        self.processes.start(ENDING, process, future, "a statement");
        self.is_to_end = true;
    }

    async fn turn(&mut self) -> Result<(), String> {
        let passes = self.world.lock().random.below(3_000);
        self.world.pass(Duration::from_micros(passes));
        match self.processes.turn().await {
            Some((ended, outcome)) => self.ended(&ended, outcome),
            None => Ok(()),
        }
    }

    /// A process has ended by itself. It is a fault if it had no reason to.
    fn ended(&mut self, ended: &RunningProcess, outcome: Result<()>) -> Result<(), String> {
        let is_statement = ended.what == "a statement";
        let Err(error) = outcome else {
            ended.process.note("is done");
            if is_statement && self.ended_at.is_none() {
                self.ended_at = Some(self.world.lock().sink.commits.len());
            }
            return Ok(());
        };
        ended.process.note(format_args!("ends: {error}"));
        let is_fair = match error.kind() {
            ErrorKind::Unavailable => true,
            // The sink has refused it, or a runner was faster: the user tries again.
            ErrorKind::Permission | ErrorKind::Cancelled => is_statement,
            ErrorKind::Data | ErrorKind::Invalid => {
                self.part.past.is_lost() && error.message().contains("no longer has")
            }
            _ => false,
        };
        self.has_failed |= is_fair && !is_statement && error.kind() != ErrorKind::Unavailable;
        match is_fair {
            true => Ok(()),
            false => Err(format!("{} of the run ended: {error}", ended.what)),
        }
    }

    /// One turn: before it processes may start, die or fall asleep, and a statement may order the run once more or end it.
    pub(super) async fn go_on(&mut self) -> Result<(), String> {
        let has_none = (0..PROCESSES).all(|slot| self.processes.is_free(slot));
        let is_needed = has_none || self.chance(self.hazards.fights);
        if is_needed && !self.has_failed {
            let slot = self.any_slot();
            if self.processes.is_free(slot) {
                self.start(slot);
            }
        }
        if self.hazards.aborts > 0
            && self.processes.is_free(ENDING)
            && self.chance(self.hazards.aborts)
        {
            self.abort();
        }
        if self.chance(self.hazards.crashes) {
            let slot = self.any_process();
            self.processes.crash(slot);
        }
        if self.chance(self.hazards.sleeps) {
            let slot = self.any_process();
            let sleep = 20 + self.world.lock().random.below(600);
            let until = self.world.lock().now + Duration::from_millis(sleep);
            self.processes.sleep(slot, until);
        }
        if self.chance(self.hazards.orders) {
            self.order_again().await?;
        }
        self.turn().await
    }

    /// A statement with the same run id finds the run as it was made, also if it asks for another one.
    async fn order_again(&self) -> Result<(), String> {
        let other = RunSpec {
            now: self.run.spec.now + 1,
            watermark: None,
            ..self.run.spec.clone()
        };
        match self.store.create(other, 7).await {
            Ok(RunCreation::Exists(found))
                if found.id == self.run.id && found.spec == self.run.spec =>
            {
                Ok(())
            }
            other => Err(format!("the run id gives another run: {other:?}")),
        }
    }

    /// From here on nothing fails, and the run comes to its end. If a statement was to end it, one does before.
    pub(super) async fn finish(&mut self) -> Result<(), String> {
        {
            let mut state = self.world.lock();
            state.note("from here on nothing fails");
            state.rates = Rates::default();
        }
        (0..=ENDING).for_each(|slot| self.processes.crash(slot));
        if self.is_to_end && self.ended_at.is_none() {
            self.abort();
            self.until_free().await?;
            if self.ended_at.is_none() {
                return Err("the run was not ended".to_owned());
            }
        }
        if !self.has_failed {
            self.start(0);
        }
        self.until_free().await
    }

    async fn until_free(&mut self) -> Result<(), String> {
        for _ in 0..PATIENCE {
            if self.processes.are_free() {
                return Ok(());
            }
            self.turn().await?;
        }
        Err("the run does not come to an end".to_owned())
    }

    /// Whether a statement has ended it.
    pub(super) fn is_aborted(&self) -> bool {
        self.ended_at.is_some()
    }

    /// The rows that the run has committed, sorted.
    pub(super) fn given(&self) -> Vec<OutRow> {
        let state = self.world.lock();
        let commits = state.sink.commits.iter();
        let mut given: Vec<OutRow> = commits.flat_map(|commit| commit.rows.clone()).collect();
        given.sort_unstable();
        given
    }

    /// The rows of the definition, sorted.
    pub(super) fn expected(&self) -> Vec<OutRow> {
        let (part, spec) = (&self.part, &self.run.spec);
        let rows = read_by_run(part.past.rows(), part.selected.as_ref(), &part.left_out);
        let everything = TimeRange::try_new(0, 10_000 * SECOND).unwrap();
        let range = spec.asked.time.unwrap_or(everything);
        expected(part.kind, &rows, range, part.watermark)
    }

    /// The rows of the sink are those of the definition, each once, and the run is complete. One that has lost what it has pinned has failed,
    /// and has written some of these rows. One that a statement has ended has some of them too: the chunks of its log. What the run rests on
    /// is as it was written.
    pub(super) async fn check(&mut self) -> Result<(), String> {
        let found = self.store.find(&self.run.spec.run_id).await.unwrap();
        let found = found.ok_or("the run is gone")?;
        if (found.id, &found.spec) != (self.run.id, &self.run.spec) {
            return Err(format!("the run rests on something else: {found:?}"));
        }
        self.run.history = found.history;
        let (given, expected) = (self.given(), self.expected());
        if let Some(chunks) = self.ended_at {
            self.check_ended(chunks).await?;
            return match is_part(&given, &expected) {
                true => Ok(()),
                false => Err(format!("{given:?} are not some of {expected:?}")),
            };
        }
        if self.has_failed {
            let state = self.run.state();
            if !matches!(&state, RunState::Failed { reason, .. } if reason.contains("no longer has"))
            {
                return Err(format!("it has lost pinned records, and is {state}"));
            }
            return match is_part(&given, &expected) {
                true => Ok(()),
                false => Err(format!("{given:?} are not some of {expected:?}")),
            };
        }
        let event = RunEvent::Completed;
        self.store.append(&mut self.run, event, 0).await.unwrap();
        if self.run.state() != RunState::Complete {
            return Err(format!("it is {}", self.run.state()));
        }
        self.check_extents().await?;
        match given == expected {
            true => Ok(()),
            false => Err(format!(
                "the run has given {given:?}, and should have given {expected:?}"
            )),
        }
    }

    /// Each chunk follows those before it.
    async fn check_extents(&self) -> Result<(), String> {
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
        Ok(())
    }

    /// A run that a statement has ended, when the sink had so many of its chunks, has written none since; its log has just these.
    async fn check_ended(&self, chunks: usize) -> Result<(), String> {
        let state = self.run.state();
        if state != RunState::Aborted {
            return Err(format!("a statement has ended it, and it is {state}"));
        }
        let of_log = self.run.history.batches.iter();
        let of_log: Vec<String> = of_log.map(|batch| batch.version.clone()).collect();
        let of_sink: Vec<String> = {
            let state = self.world.lock();
            let commits = state.sink.commits.iter();
            commits.map(|commit| commit.witness.clone()).collect()
        };
        if of_sink.len() != chunks {
            return Err(format!(
                "the sink had {chunks} chunks when the run was ended, and has {of_sink:?}"
            ));
        }
        if of_log != of_sink {
            return Err(format!("the log has {of_log:?}, and the sink {of_sink:?}"));
        }
        self.check_extents().await
    }
}

/// Whether each row is one of the others, which are sorted as the rows are: a row that is there twice is two of them.
fn is_part(rows: &[OutRow], of: &[OutRow]) -> bool {
    let mut of = of.iter();
    rows.iter().all(|row| of.any(|other| other == row))
}

/// A topic as the sink of a run.
pub(super) fn new_sink() -> Sink {
    Sink::new(false, Duration::ZERO, Duration::ZERO)
}

/// The watermark of a pinned topic. `has_all` says whether the archive has all records of a partition.
pub(super) fn watermark_of(
    past: &PinnedTopic,
    mut has_all: impl FnMut(i32) -> bool,
) -> Option<i64> {
    let rows = past.rows();
    let partitions = past.partitions().map(|number| {
        let of_partition = rows.iter().filter(|(partition, ..)| *partition == number);
        PartitionArchive {
            highest: of_partition.map(|(.., row)| row.time * SECOND).max(),
            has_all: has_all(number),
        }
    });
    archive_watermark(partitions.collect::<Vec<_>>(), DELAY * SECOND)
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

fn spec_of(part: &RunPart, grouping: Grouping) -> RunSpec {
    let (from, to) = part.range;
    let spec = fixture::spec(part.run_id);
    let asked = AskedRange {
        time: TimeRange::try_new(from * SECOND, to * SECOND),
        ..AskedRange::default()
    };
    let emission = match &part.selected {
        Some(selected) => Emission::Offsets(selected.clone()),
        None => Emission::Time(grouping.emission(asked.time.unwrap()).unwrap().into()),
    };
    RunSpec {
        job_id: part.job.map_or(spec.job_id.clone(), |id| id.to_string()),
        asked,
        selection: part.selected.clone(),
        left_out: part.left_out.clone(),
        emission,
        grouping,
        watermark: part.watermark,
        statics: BTreeMap::new(),
        sink: Identity::Topic {
            topic: "out".to_owned(),
            cluster: Some("world".to_owned()),
            id: Some("0".to_owned()),
        },
        options: OptionsOfRun {
            emit: EmitRows::All,
            withdraw: false,
            yields: part.job.is_some(),
            ..spec.options
        },
        ..spec
    }
}

/// What the run gives by the definition: of all rows, the final groups that have one in the range.
pub(super) fn expected(
    kind: Kind,
    rows: &[PlacedRow],
    range: TimeRange,
    watermark: Option<i64>,
) -> Vec<OutRow> {
    let mut expected: Vec<OutRow> = match kind {
        Kind::Rows => rows
            .iter()
            .filter(|(.., row)| range.contains(row.time * SECOND))
            .map(|(partition, offset, row)| {
                let partition = Some(i64::from(*partition));
                vec![row.key, Some(row.value * 2), partition, Some(*offset)]
            })
            .collect(),
        Kind::SessionChanges => sessions(rows, range, watermark),
        _ => windows(kind, rows, range, watermark),
    };
    expected.sort_unstable();
    expected
}

fn windows(
    kind: Kind,
    rows: &[PlacedRow],
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

fn sessions(rows: &[PlacedRow], range: TimeRange, watermark: Option<i64>) -> Vec<OutRow> {
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

async fn run(schedule: &mut RunSchedule) -> Result<(), String> {
    for _ in 0..schedule.turns() {
        schedule.go_on().await?;
    }
    schedule.finish().await?;
    schedule.check().await
}

fn simulate(kind: Kind, over_offsets: bool) {
    block_on(async {
        let counted = Schedules::of(format!("runs of {kind:?}, over offsets: {over_offsets}"));
        let mut failed = Vec::new();
        for seed in schedules::seeds(SEEDS, &[]) {
            counted.count();
            let mut schedule = match over_offsets {
                true => RunSchedule::over_offsets(seed).await,
                false => RunSchedule::alone(kind, seed).await,
            };
            if let Err(fault) = run(&mut schedule).await {
                let trace = schedule.trace();
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
    simulate(Kind::Rows, false);
}

#[test]
fn run_1_2_selected_rows_of_a_run_are_written_once() {
    simulate(Kind::Rows, true);
}

#[test]
fn run_1_2_windows_of_a_run_are_written_once() {
    simulate(Kind::TumbleOnClose, false);
}

#[test]
fn run_1_2_overlapping_windows_of_a_run_are_written_once() {
    simulate(Kind::HopChanges, false);
}

#[test]
fn run_1_2_sessions_of_a_run_are_written_once() {
    simulate(Kind::SessionChanges, false);
}

/// The first process lives for one turn, the next for two, and so on: each dies at another step.
#[test]
fn run_2_a_run_goes_on_however_long_its_processes_live() {
    block_on(async {
        for kind in [Kind::TumbleOnClose, Kind::SessionChanges] {
            let mut schedule = RunSchedule::alone(kind, 1).await;
            schedule.hazards = Hazards::default();
            schedule.world.lock().rates = Rates::default();
            for turns in 1..100 {
                for _ in 0..turns {
                    schedule.go_on().await.unwrap();
                }
                (0..PROCESSES).for_each(|slot| schedule.processes.crash(slot));
            }
            schedule.finish().await.unwrap();
            if let Err(fault) = schedule.check().await {
                panic!("{kind:?}: {fault}\n{}", schedule.trace());
            }
        }
    });
}

/// The process that writes it dies at many steps, and its sink does not answer the statement.
#[test]
fn a_run_is_not_ended_while_its_sink_does_not_answer() {
    block_on(async {
        let mut seed = 0;
        let mut schedule = loop {
            let schedule = RunSchedule::alone(Kind::Rows, seed).await;
            if schedule.expected().len() > 10 {
                break schedule;
            }
            seed += 1;
        };
        schedule.hazards = Hazards::default();
        schedule.world.lock().rates = Rates::default();
        while schedule.given().is_empty() {
            schedule.go_on().await.unwrap();
        }
        for turns in 1..30 {
            for _ in 0..turns {
                schedule.go_on().await.unwrap();
            }
            (0..PROCESSES).for_each(|slot| schedule.processes.crash(slot));
            schedule.world.lock().rates.sink = 1_000;
            schedule.abort();
            schedule.until_free().await.unwrap();
            assert!(!schedule.is_aborted(), "{}", schedule.trace());
            schedule.world.lock().rates.sink = 0;
        }
        schedule.finish().await.unwrap();
        assert!(schedule.is_aborted());
        if let Err(fault) = schedule.check().await {
            panic!("{fault}\n{}", schedule.trace());
        }
    });
}

#[test]
fn a_run_that_goes_on_after_it_was_ended_is_found() {
    let runtime = runtime();
    let finds = |seed| {
        runtime.block_on(async {
            let mut schedule = RunSchedule::alone(Kind::Rows, seed).await;
            // No other runner fences the sink.
            schedule.hazards.fights = 0;
            schedule.hazards.aborts = 30;
            schedule.world.lock().hidden.fences = true;
            run(&mut schedule).await.is_err()
        })
    };
    let planted = "a run that is ended, hidden: fences";
    assert!(schedules::found_by(planted, &[], ENOUGH, finds).is_some());
}
