//! One schedule: several processes run the same job. They take it from each other, die and sleep, in an order that follows from the
//! seed.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use super::jobs::{IDLE_AFTER, Kind, SOURCE};
use super::processes::{Processes, RunningProcess};
use super::random::Random;
use super::sink::Sink;
use super::source::{Partition, Row, Topic};
use super::world::{Observer, Process, Rates, World};
use crate::core::archive::OffsetRange;
use crate::core::jobs::{AcceptedChange, JobHistory, JobPhase, LogEntry};
use crate::error::{Error, ErrorKind, Result};
use crate::runtime::environment::Environment;
use crate::runtime::job::ReadyJob;
use crate::runtime::job_status::RunOptions;
use crate::runtime::options::{JobOptions, StateTtl, Trigger};
use crate::runtime::runner::JobRunner;
use crate::runtime::statements::Jobs;
use crate::runtime::takeover::append_to;
use crate::store::simulated::{Faults, RecordedReads, SimulatedDisk};
use crate::store::{JobId, JobStore};
use crate::streaming::JobQuery;

/// How many processes there may be at the same time.
pub(super) const PROCESSES: usize = 3;
/// How long keys are kept: longer than a schedule lasts.
pub(super) const TTL: Duration = Duration::from_secs(3_600);
/// So many turns a job may take to read everything once nothing fails any more.
const PATIENCE: u64 = 200_000;

/// What a schedule is like: how many turns it has, what its topic and its sink are, and how often each fault happens, as a number of
/// times in a thousand turns.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Hazards {
    turns: u64,
    is_table: bool,
    partitions: usize,
    crashes: u64,
    sleeps: u64,
    fights: u64,
    rewinds: u64,
    pauses: u64,
    retention: u64,
    recreated: u64,
    gives_ids: bool,
    /// How often the wall clock jumps.
    jumps: u64,
    /// How many machines the processes run on.
    machines: usize,
    sink_recreated: u64,
    /// How often a producer begins a transaction, which stays open for a while, or commits it.
    transactions: u64,
    new_partitions: u64,
    /// How often records of the topic are archived; 0 if it has no archive.
    archive: u64,
    /// Whether retention deletes only records that are archived.
    archives_in_time: bool,
    /// How often the brokers forget the offsets of the job's group, and the witness with them.
    expiry: u64,
    /// Whether batches take so long that transactions time out.
    is_slow: bool,
    /// Whether the job begins at the end of its topic.
    starts_at_end: bool,
    rates: Rates,
}

impl Hazards {
    fn new(random: &mut Random, kind: Kind) -> Self {
        // From copies of the random numbers: the other decisions are the same with and without these.
        let transactions = if random.clone().below(3) == 0 { 25 } else { 0 };
        let starts_at_end = random.clone().below(4) == 0;
        let mut other = Random::new(random.clone().below(u64::MAX));
        let (has_archive, archives_in_time) = (other.below(4) == 1, other.below(2) == 0);
        let mut sometimes = |of: u64, per_mille: u64| {
            if random.below(of) == 0 { per_mille } else { 0 }
        };
        let recreated = sometimes(6, 4);
        let gives_ids = sometimes(3, 1) == 0;
        // Where brokers give no ids, a job that went back to an earlier batch could not tell that the topic is another one.
        let rewinds = match recreated == 0 || gives_ids {
            true => sometimes(3, 6),
            false => 0,
        };
        let (jumps, machines) = (sometimes(3, 8), 1 + sometimes(3, 1));
        let sink_recreated = if rewinds == 0 { sometimes(6, 4) } else { 0 };
        Self {
            turns: 150 + sometimes(4, 250),
            is_table: kind.may_write_table() && sometimes(2, 1) == 1,
            partitions: 1 + usize::try_from(sometimes(2, 1) + sometimes(3, 1)).unwrap(),
            crashes: sometimes(2, 12),
            sleeps: sometimes(2, 12),
            fights: sometimes(2, 10),
            rewinds,
            pauses: sometimes(5, 4),
            retention: sometimes(6, 6).max(if has_archive { 12 } else { 0 }),
            recreated,
            gives_ids,
            jumps,
            machines: usize::try_from(machines).unwrap(),
            sink_recreated,
            transactions,
            new_partitions: sometimes(4, 5),
            archive: if has_archive { 40 } else { 0 },
            archives_in_time,
            expiry: sometimes(6, 6),
            is_slow: kind == Kind::Rows && sometimes(4, 1) == 1,
            starts_at_end: starts_at_end && recreated == 0,
            rates: Rates {
                store: sometimes(2, 30),
                source: sometimes(3, 30),
                sink: sometimes(2, 40),
            },
        }
    }
}

/// A schedule under way.
pub(super) struct Schedule<'q> {
    kind: Kind,
    queries: &'q [Arc<JobQuery>],
    pub(super) world: Arc<World>,
    pub(super) disk: SimulatedDisk,
    /// The job's files, read without faults.
    pub(super) store: JobStore,
    pub(super) id: JobId,
    hazards: Hazards,
    processes: Processes,
    started: usize,
    clock: i64,
    /// Records were lost, or the topic was created again: the job may stop and ask the user.
    has_lost: bool,
    /// The witness was lost: the job may stop and ask the user.
    has_expired: bool,
    serial: u64,
    /// Random numbers for the transactions of producers.
    transactions: Random,
    /// Random numbers that choose the records to archive.
    archiving: Random,
}

impl<'q> Schedule<'q> {
    pub(super) async fn new(kind: Kind, queries: &'q [Arc<JobQuery>], seed: u64) -> Self {
        let mut random = Random::new(seed);
        let hazards = Hazards::new(&mut random, kind);
        Self::with(kind, queries, random, hazards).await
    }

    /// A schedule whose topic stays the same one, and whose retention deletes only what the archive has, if there is an archive: so a run
    /// may pin the topic at any time.
    pub(super) async fn over_one_topic(
        kind: Kind,
        queries: &'q [Arc<JobQuery>],
        seed: u64,
    ) -> Self {
        let mut random = Random::new(seed);
        let hazards = Hazards {
            recreated: 0,
            archives_in_time: true,
            ..Hazards::new(&mut random, kind)
        };
        Self::with(kind, queries, random, hazards).await
    }

    /// A schedule in which nothing fails: the job runs in one process, and there are some rows.
    pub(super) async fn quiet(kind: Kind, queries: &'q [Arc<JobQuery>]) -> Self {
        let hazards = Hazards {
            partitions: 1,
            gives_ids: true,
            ..Hazards::default()
        };
        let mut schedule = Self::with(kind, queries, Random::new(0), hazards).await;
        schedule.arrive();
        schedule.start(0, &RunOptions::default());
        schedule
    }

    /// Lets the processes go on for a while, without new records.
    pub(super) async fn idle(&mut self, time: Duration) {
        let step = time / 20;
        for _ in 0..20 {
            self.world.pass(step);
            for _ in 0..100 {
                self.turn().await.unwrap();
            }
        }
    }

    /// Runs the job in a process of its own until it has read all records.
    pub(super) async fn catch_up(&self) -> Result<()> {
        let process = Process::new(&self.world, usize::MAX);
        let store = JobStore::new(self.disk.seen_with(Arc::new(Observer)));
        let job = self.ready(0, process.environment());
        let options = RunOptions {
            until_caught_up: true,
            ..RunOptions::default()
        };
        let runner = JobRunner::try_new(&store, &job, &options)?;
        tokio::select! {
            outcome = runner.run() => outcome.map(|_| ()),
            () = self.let_time_pass() => Ok(()),
        }
    }

    /// Kills all processes and rewinds the job to a batch; gives the files of the data directory that the rewind has read.
    pub(super) async fn rewind_alone(&mut self, to: u64) -> Vec<String> {
        for slot in 0..PROCESSES {
            self.crash(slot);
        }
        let reads = Arc::new(RecordedReads::default());
        let faults = Arc::clone(&reads) as Arc<dyn Faults>;
        let store = JobStore::new(self.disk.seen_with(faults));
        let process = Process::new(&self.world, usize::MAX);
        let jobs = with_ready(store, self.ready(0, process.environment())).await;
        tokio::select! {
            done = jobs.rewind("j", to) => drop(done.unwrap()),
            () = self.let_time_pass() => {}
        }
        reads.take()
    }

    /// Lets time pass, without an end.
    async fn let_time_pass(&self) {
        loop {
            tokio::task::yield_now().await;
            self.world.pass(Duration::from_millis(1));
        }
    }

    async fn with(
        kind: Kind,
        queries: &'q [Arc<JobQuery>],
        random: Random,
        hazards: Hazards,
    ) -> Self {
        let mut other = random.clone();
        let transactions = Random::new(other.below(u64::MAX));
        let archiving = Random::new(other.below(u64::MAX));
        let (row_takes, timeout) = if hazards.is_slow {
            (Duration::from_millis(20), Duration::from_millis(100))
        } else {
            (Duration::ZERO, Duration::ZERO)
        };
        let sink = Sink::new(hazards.is_table, row_takes, timeout);
        let topic = Topic {
            partitions: vec![Partition::default(); hazards.partitions],
            gives_ids: hazards.gives_ids,
            starts_at_end: hazards.starts_at_end,
            ..Topic::default()
        };
        let world = Arc::new(World::new(random, topic, sink, hazards.rates));
        world.lock().note(format_args!("{kind:?}, {hazards:?}"));
        world.lock().machines = hazards.machines;
        let disk = SimulatedDisk::default();
        let store = JobStore::new(disk.seen_with(Arc::new(Observer)));
        let created = LogEntry::Created {
            name: "j".to_owned(),
            text: String::new(),
            tables: vec![],
            at: 0,
        };
        let id = store.create(&created, "j").await.unwrap().unwrap();
        Self {
            processes: Processes::new(&world, PROCESSES),
            kind,
            queries,
            world,
            disk,
            store,
            id,
            hazards,
            started: 0,
            clock: 100,
            has_lost: false,
            has_expired: false,
            serial: 0,
            transactions,
            archiving,
        }
    }

    /// A copy of the data directory as it is now.
    pub(super) async fn backup(&self) -> SimulatedDisk {
        self.disk.copy().await
    }

    /// Kills all processes and puts an earlier data directory back.
    pub(super) fn restore(&mut self, disk: SimulatedDisk) {
        for slot in 0..PROCESSES {
            self.crash(slot);
        }
        self.store = JobStore::new(disk.seen_with(Arc::new(Observer)));
        self.disk = disk;
    }

    /// Kills all processes and deletes the records of a partition from an offset on.
    pub(super) fn cut_off(&mut self, partition: usize, from: usize) {
        for slot in 0..PROCESSES {
            self.crash(slot);
        }
        let mut state = self.world.lock();
        state.topic.partitions[partition].rows.truncate(from);
        self.has_lost = true;
    }

    /// The user resumes the job, if it is paused.
    pub(super) async fn answer_now(&mut self) -> Result<(), String> {
        let history = self.history().await;
        self.answer(&history).await
    }

    pub(super) fn kind(&self) -> Kind {
        self.kind
    }

    /// What has happened, for messages.
    pub(super) fn trace(&self) -> String {
        self.world.trace()
    }

    pub(super) fn is_table(&self) -> bool {
        self.hazards.is_table
    }

    /// Goes through all turns of the schedule, up to its end.
    pub(super) async fn run(&mut self) -> Result<(), String> {
        for _ in 0..self.turns() {
            self.go_on().await?;
        }
        self.finish().await
    }

    pub(super) fn turns(&self) -> u64 {
        self.hazards.turns
    }

    /// One turn, and what happens before it.
    pub(super) async fn go_on(&mut self) -> Result<(), String> {
        self.happen().await?;
        self.turn().await
    }

    /// From here on nothing fails, and the job runs until it has read everything.
    pub(super) async fn finish(&mut self) -> Result<(), String> {
        {
            let mut state = self.world.lock();
            state.note("from here on nothing fails");
            state.rates = Rates::default();
            let partitions = &mut state.topic.partitions;
            partitions.iter_mut().for_each(Partition::commit);
        }
        for slot in 0..PROCESSES {
            self.crash(slot);
        }
        self.come_to_the_end().await?;
        if self.kind.is_windowed() {
            self.come_to_rest().await?;
        }
        Ok(())
    }

    pub(super) fn ready(&self, slot: usize, environment: Environment) -> ReadyJob {
        ReadyJob {
            id: self.id,
            name: "j".to_owned(),
            text: String::new(),
            tables: Vec::new(),
            options: JobOptions {
                trigger: Trigger::Every(Duration::from_millis(5)),
                max_rows: 6,
                state_ttl: Some(StateTtl::After(TTL)),
                ..JobOptions::default()
            },
            query: Arc::clone(&self.queries[slot]),
            environment,
        }
    }

    async fn come_to_the_end(&mut self) -> Result<(), String> {
        let options = RunOptions {
            until_caught_up: true,
            ..RunOptions::default()
        };
        let mut is_started = false;
        for _ in 0..PATIENCE {
            if self.processes.is_free(0) {
                let history = self.history().await;
                if history.phase != JobPhase::Active {
                    self.answer(&history).await?;
                } else if is_started && self.is_caught_up(&history).await {
                    return Ok(());
                }
                self.start(0, &options);
                is_started = true;
            }
            self.turn().await?;
        }
        Err("the job does not come to an end".to_owned())
    }

    /// No records come any more, and the job is run some times until it has caught up. After that no partition holds windows back.
    async fn come_to_rest(&mut self) -> Result<(), String> {
        const RUNS: usize = 4;
        self.world.lock().note("from here on nothing comes");
        for _ in 0..RUNS {
            self.world.pass(Duration::from_millis(2 * IDLE_AFTER));
            self.come_to_the_end().await?;
        }
        Ok(())
    }

    async fn is_caught_up(&self, history: &JobHistory) -> bool {
        let Some(last) = history.last() else {
            let state = self.world.lock();
            return state.topic.partitions.iter().all(|log| log.high() == 0);
        };
        let version = self.store.version(self.id, &last.version).await.unwrap();
        let state = self.world.lock();
        (0..).zip(&state.topic.partitions).all(|(partition, log)| {
            version.next_offset(SOURCE, partition).unwrap_or(0) == log.high()
        })
    }

    pub(super) async fn history(&self) -> JobHistory {
        self.store.history(self.id).await.unwrap()
    }

    fn chance(&self, per_mille: u64) -> bool {
        self.world.lock().random.chance(per_mille)
    }

    fn below(&self, end: u64) -> u64 {
        self.world.lock().random.below(end)
    }

    fn any_slot(&self) -> usize {
        self.world.lock().random.index(PROCESSES)
    }

    /// Before a turn: records may come, processes may start, die or fall asleep, and other faults may happen.
    async fn happen(&mut self) -> Result<(), String> {
        if self.chance(250) {
            self.arrive();
        }
        if self.processes.are_free() || self.chance(self.hazards.fights) {
            let slot = self.any_slot();
            if self.processes.is_free(slot) {
                self.start(slot, &RunOptions::default());
            }
        }
        if self.transactions.chance(self.hazards.transactions) {
            self.begin_or_commit();
        }
        if self.archiving.chance(self.hazards.archive) {
            self.archive_some();
        }
        if self.chance(self.hazards.crashes) {
            let slot = self.any_slot();
            self.crash(slot);
        }
        if self.chance(self.hazards.sleeps) {
            let slot = self.any_slot();
            let sleep = Duration::from_millis(20 + self.below(600));
            let until = self.world.lock().now + sleep;
            self.processes.sleep(slot, until);
        }
        if self.chance(self.hazards.rewinds) {
            self.rewind().await;
        }
        if self.chance(self.hazards.new_partitions) {
            let mut state = self.world.lock();
            if state.topic.partitions.len() < 4 {
                state.note("a new partition");
                state.topic.partitions.push(Partition::default());
            }
        }
        if !self.hazards.is_table && self.chance(self.hazards.expiry) {
            let mut state = self.world.lock();
            state.note("the witness has expired");
            state.sink.witness = None;
            self.has_expired = true;
        }
        if self.chance(self.hazards.retention) {
            self.retain();
        }
        if self.chance(self.hazards.recreated) {
            self.recreate().await;
        }
        if self.chance(self.hazards.jumps) {
            self.jump();
        }
        if self.chance(self.hazards.sink_recreated) {
            self.recreate_sink();
        }
        self.pause_or_answer().await
    }

    /// Now and then the job is paused, or the user answers if it is. Its log is read only if one of them may be.
    async fn pause_or_answer(&mut self) -> Result<(), String> {
        const ANSWERS: u64 = 100;
        let drawn = self.below(1_000);
        if drawn >= ANSWERS.max(self.hazards.pauses) {
            return Ok(());
        }
        let history = self.history().await;
        match &history.phase {
            JobPhase::Active if drawn < self.hazards.pauses => {
                self.world.lock().note("PAUSE JOB");
                self.append(LogEntry::Paused {
                    reason: None,
                    reported: None,
                    at: 0,
                })
                .await;
            }
            JobPhase::Paused(_) if drawn < ANSWERS => self.answer(&history).await?,
            _ => {}
        }
        Ok(())
    }

    pub(super) fn arrive(&mut self) {
        let (index, count) = {
            let mut state = self.world.lock();
            let partitions = state.topic.partitions.len();
            (state.random.index(partitions), 1 + state.random.below(4))
        };
        for _ in 0..count {
            let row = self.next_row();
            let partition = &mut self.world.lock().topic.partitions[index];
            match partition.open.is_empty() {
                true => partition.rows.push(row),
                false => partition.open.push(row),
            }
        }
    }

    /// A record with this key and event time, which can be decoded, comes into a partition.
    pub(super) fn put(&mut self, partition: usize, key: i64, time: i64) {
        let row = Row {
            key: Some(key),
            time,
            is_bad: false,
            ..self.next_row()
        };
        self.world.lock().topic.partitions[partition].rows.push(row);
    }

    /// A record that cannot be decoded comes into a partition.
    pub(super) fn put_bad(&mut self, partition: usize) {
        let row = Row {
            is_bad: true,
            ..self.next_row()
        };
        self.world.lock().topic.partitions[partition].rows.push(row);
    }

    /// An empty partition is added to the topic.
    pub(super) fn add_partition(&self) {
        let partitions = &mut self.world.lock().topic.partitions;
        partitions.push(Partition::default());
    }

    /// Kills all processes, deletes the topic and creates it again with so many empty partitions.
    pub(super) async fn recreate_topic(&mut self, partitions: usize) {
        let next = self.history().await.next;
        for slot in 0..PROCESSES {
            self.crash(slot);
        }
        let mut state = self.world.lock();
        let partitions = vec![Partition::default(); partitions];
        let before = std::mem::replace(&mut state.topic.partitions, partitions);
        state.topic.deleted.push((next, before));
        self.has_lost = true;
    }

    /// Archives some of the committed records of a partition.
    fn archive_some(&mut self) {
        let (index, to) = {
            let state = self.world.lock();
            let index = self.archiving.index(state.topic.partitions.len());
            let partition = &state.topic.partitions[index];
            let from = partition.archived.end().unwrap_or(0).max(partition.low);
            let left = u64::try_from(partition.high() - from).unwrap();
            let count = self.archiving.below(left + 1);
            (index, from + i64::try_from(count).unwrap())
        };
        self.archive(index, to);
    }

    /// Archives the records of a partition before an offset, as far as the topic still has them.
    pub(super) fn archive(&mut self, partition: usize, to: i64) {
        let mut state = self.world.lock();
        state.note(format_args!("partition {partition} is archived up to {to}"));
        let log = &mut state.topic.partitions[partition];
        let from = log.archived.end().unwrap_or(0).max(log.low);
        log.archived.insert(OffsetRange::new(from, to));
    }

    /// Retention deletes the records of a partition before an offset.
    pub(super) fn delete_before(&mut self, partition: usize, low: i64) {
        let mut state = self.world.lock();
        state.note(format_args!("partition {partition} begins at {low}"));
        let log = &mut state.topic.partitions[partition];
        log.low = low;
        self.has_lost |= !log.archived.contains(OffsetRange::new(0, low));
    }

    /// A producer begins a transaction in a partition, or commits the one that is open there.
    fn begin_or_commit(&mut self) {
        let index = {
            let mut state = self.world.lock();
            let index = self.transactions.index(state.topic.partitions.len());
            if !state.topic.partitions[index].open.is_empty() {
                state.note(format_args!("a transaction in {index} is committed"));
                return state.topic.partitions[index].commit();
            }
            index
        };
        let row = self.next_row();
        let mut state = self.world.lock();
        state.note(format_args!("a transaction begins in {index}"));
        state.topic.partitions[index].open.push(row);
    }

    fn next_row(&mut self) -> Row {
        self.clock += 1;
        self.serial += 1;
        let mut state = self.world.lock();
        let at = u64::try_from(state.now.as_millis()).unwrap();
        let random = &mut state.random;
        // Now and then the event time of a row is far before those of the rows around it.
        let behind = if random.chance(60) { 25 } else { 0 };
        let step = i64::try_from(random.below(14)).unwrap() - 8;
        let key = i64::try_from(random.below(4)).unwrap();
        Row {
            serial: self.serial,
            at,
            key: (key > 0 || !self.kind.has_null_keys()).then_some(key),
            time: self.clock + step - behind,
            value: i64::try_from(random.below(100)).unwrap(),
            is_bad: random.chance(40),
        }
    }

    /// Retention deletes old records of a partition, whether the job has read them or not.
    fn retain(&mut self) {
        let mut state = self.world.lock();
        let count = state.topic.partitions.len();
        let index = state.random.index(count);
        let high = state.topic.partitions[index].high();
        let back = i64::try_from(state.random.below(6)).unwrap();
        let log = &state.topic.partitions[index];
        let archived = log.archived.end().unwrap_or(0);
        let most = match self.hazards.archive > 0 && self.hazards.archives_in_time {
            true => archived,
            false => high,
        };
        let low = (high - back).min(most).max(log.low);
        drop(state);
        self.delete_before(index, low);
    }

    /// The topic is deleted and created again, with fewer, as many or more partitions and records. Where brokers give no ids, no
    /// process runs meanwhile: a scan of the old topic could not tell that it reads the new one.
    pub(super) async fn recreate(&mut self) {
        let next = self.history().await.next;
        if !self.hazards.gives_ids || self.chance(500) {
            for slot in 0..PROCESSES {
                self.crash(slot);
            }
        }
        let before = std::mem::take(&mut self.world.lock().topic.partitions);
        let count = 1 + self.below(3);
        let mut partitions = Vec::new();
        for number in 0..count {
            let old = before.get(usize::try_from(number).unwrap());
            let old = old.map_or(0, |log| log.rows.len());
            let rows = match self.below(3) {
                0 => self.below(3),
                1 => old as u64,
                _ => old as u64 + self.below(4),
            };
            let rows = (0..rows).map(|_| self.next_row()).collect();
            partitions.push(Partition {
                rows,
                ..Partition::default()
            });
        }
        let mut state = self.world.lock();
        let highs: Vec<i64> = partitions.iter().map(Partition::high).collect();
        state.note(format_args!("the topic is made anew: {highs:?}"));
        state.topic.deleted.push((next, before));
        state.topic.partitions = partitions;
        self.has_lost = true;
    }

    /// The wall clock jumps ahead or back.
    pub(super) fn jump(&mut self) {
        const JUMPS: [i64; 6] = [0, 0, 5, 3_600, 366 * 24 * 3_600, -24 * 3_600];
        let mut state = self.world.lock();
        let to = JUMPS[state.random.index(JUMPS.len())];
        state.note(format_args!("the wall clock is {to} s ahead"));
        state.wall_is_ahead = to * 1_000;
    }

    /// The sink is deleted and created again.
    fn recreate_sink(&mut self) {
        let mut state = self.world.lock();
        state.note("the sink is made anew");
        state.sink.recreate();
        self.has_expired = true;
    }

    async fn append(&self, entry: LogEntry) {
        let history = self.history().await;
        append_to(&self.store, self.id, history, &entry)
            .await
            .unwrap();
    }

    /// The user reads why the job is paused, and resumes it. It is a fault if the job had no reason to stop.
    async fn answer(&mut self, history: &JobHistory) -> Result<(), String> {
        let JobPhase::Paused(reason) = &history.phase else {
            return Ok(());
        };
        let reason = reason.as_deref().unwrap_or_default();
        let mut skipping_lost = false;
        let mut accepting = BTreeMap::new();
        let mut assuming = None;
        if reason.contains("replaced by another one") {
            let of_sink = reason.contains("the sink of the job");
            for (table, identity) in &history.reported.others {
                let mut state = self.world.lock();
                if of_sink {
                    if !state.sink.is_unexpected && state.sink.recreated == 0 {
                        return Err(format!("the sink is as it was: {reason}"));
                    }
                    state.sink.is_unexpected = false;
                } else if state.topic.deleted.is_empty() {
                    return Err(format!("the topic is as it was: {reason}"));
                }
                let accepted = AcceptedChange {
                    identity: identity.clone(),
                    is_moved: false,
                };
                accepting.insert(table.clone(), accepted);
            }
        } else if reason.contains("is unknown whether") {
            if !self.has_expired {
                return Err(format!("the job asks without need: {reason}"));
            }
            // The user looks into the sink, and says whether it has the batch.
            self.world.lock().sink.is_unexpected = false;
            let staged = self.store.staged(self.id, history).await.unwrap();
            let last = history.last().map(|last| last.version.clone());
            let children = staged.iter().filter(|child| child.parent == last);
            let child = children.max_by_key(|child| child.name.clone());
            let state = self.world.lock();
            let is_there = |name: &str| state.sink.commits.iter().any(|one| one.witness == name);
            let is_committed = child.is_some_and(|child| is_there(&child.name));
            assuming = Some((history.next_batch(), is_committed));
        } else if is_known(reason) {
            if !self.has_lost {
                return Err(format!("the job lacks what is there: {reason}"));
            }
            skipping_lost = true;
        } else if !reason.is_empty() {
            return Err(format!("the job stopped: {reason}"));
        }
        self.world.lock().note(format_args!(
            "RESUME JOB, skipping lost: {skipping_lost}, accepting: {accepting:?}, assuming: {assuming:?}"
        ));
        let lost = match skipping_lost {
            true => history.reported.lost.clone(),
            false => BTreeMap::new(),
        };
        self.append(LogEntry::Resumed {
            skipping_lost,
            lost,
            accepting,
            assuming,
            at: 0,
        })
        .await;
        Ok(())
    }

    fn start(&mut self, slot: usize, options: &RunOptions) {
        self.started += 1;
        let process = Process::new(&self.world, self.started);
        process.note("starts");
        let store = JobStore::new(self.disk.seen_with(Arc::new(process.clone())));
        let job = self.ready(slot, process.environment());
        let options = options.clone();
        let future = async move {
            let runner = JobRunner::try_new(&store, &job, &options)?;
            runner.run().await.map(|_| ())
        };
        self.processes.start(slot, process, future, "a runner");
    }

    async fn rewind(&mut self) {
        let history = self.history().await;
        let slot = self.any_slot();
        let first = history.batches.first().map_or(0, |first| first.batch);
        let to = history.next_batch().saturating_sub(1 + self.below(4));
        if !self.processes.is_free(slot)
            || (to != 0 && to < first)
            || history.phase != JobPhase::Active
        {
            return;
        }
        self.started += 1;
        let process = Process::new(&self.world, self.started);
        process.note(format_args!("REWIND JOB j TO BATCH {to}"));
        let store = JobStore::new(self.disk.seen_with(Arc::new(process.clone())));
        let job = self.ready(slot, process.environment());
        let future = async move {
            let jobs = with_ready(store, job).await;
            jobs.rewind("j", to).await.map(|_| ())
        };
        self.processes.start(slot, process, future, "a statement");
    }

    /// The process dies, wherever it is.
    pub(super) fn crash(&mut self, slot: usize) {
        self.processes.crash(slot);
    }

    /// A process that does not wait for anything runs until it waits again. If all wait, time passes until one does not.
    async fn turn(&mut self) -> Result<(), String> {
        self.world.pass(Duration::from_micros(self.below(3_000)));
        match self.processes.turn().await {
            Some((ended, outcome)) => self.ended(&ended, outcome).await,
            None => Ok(()),
        }
    }

    /// A process has ended by itself. It is a fault if it had no reason to.
    async fn ended(&mut self, running: &RunningProcess, outcome: Result<()>) -> Result<(), String> {
        let Err(error) = outcome else {
            running.process.note("is done");
            return Ok(());
        };
        running.process.note(format_args!("ends: {error}"));
        if running.what == "a statement" {
            // A rewind may fail. What it must not do is to leave the job half rewound, and the oracle finds that.
            return Ok(());
        }
        let is_fair = match error.kind() {
            ErrorKind::Unavailable => error.message().contains("was taken over by"),
            ErrorKind::Invalid => error.message().contains("is paused"),
            // The job's log has the same reason, and `answer` looks whether it is true.
            ErrorKind::Data => is_known(error.message()),
            _ => false,
        };
        if is_fair {
            return Ok(());
        }
        Err(fault(&error))
    }
}

/// Jobs with one that can be run.
async fn with_ready(store: JobStore, job: ReadyJob) -> Jobs {
    let jobs = Jobs::new(store);
    jobs.ready
        .lock()
        .await
        .insert(job.name.clone(), Arc::new(job));
    jobs
}

/// Whether a job may stop for this reason because of what a schedule does.
fn is_known(reason: &str) -> bool {
    [
        "lacks offsets",
        "recreated",
        "replaced by another one",
        "no longer has",
        "is unknown whether",
        "truncated",
    ]
    .iter()
    .any(|known| reason.contains(known))
}

fn fault(error: &Error) -> String {
    format!("a runner ended with {:?}: {error}", error.kind())
}
