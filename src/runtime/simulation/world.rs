//! The simulated world: its clock, its faults, its topic and its sink, and the processes in it.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use async_trait::async_trait;
use futures::future::BoxFuture;

use super::random::Random;
use super::sink::{SimulatedSink, Sink};
use super::source::{SimulatedSource, Topic};
use crate::core::jobs::{BatchVersion, Partitions, Startup, SteadyTime};
use crate::error::{Error, Result};
use crate::runtime::clock::Clock;
use crate::runtime::environment::{Environment, JobTables};
use crate::runtime::sink::OpenSink;
use crate::runtime::source::{JobSource, JobSources};
use crate::store::JobId;
use crate::store::simulated::{CallFate, DelayedWrite, Faults};
use crate::streaming::{JobQuery, StreamTable};

/// The wall clock when a schedule begins, in milliseconds since 1970 UTC.
const BEGINNING: i64 = 1_750_000_000_000;

/// How many of a thousand calls fail: to the store, to the topic that is read, and to the sink.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Rates {
    pub(super) store: u64,
    pub(super) source: u64,
    pub(super) sink: u64,
}

/// Faults that are planted to see that the simulation finds them: what the world hides from runners, so that they do what a runner
/// would do that does not look at it.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct PlantedFaults {
    /// The identity of topics and sinks: one that was deleted and created again looks like the one before.
    pub(super) identities: bool,
    /// The clock that does not jump: runners get the wall clock in its place.
    pub(super) steady_clock: bool,
    /// Records behind the last stable offset: a partition with an open transaction looks as if it were read to its end.
    pub(super) open_transactions: bool,
    /// That the topic has fewer partitions than before: those of the last batch look as if they were there.
    pub(super) gone_partitions: bool,
    /// How long partitions had been silent when the last batch was committed.
    pub(super) silence_before: bool,
    /// What scans have reached: they report nothing.
    pub(super) reports: bool,
    /// The archive of the topic.
    pub(super) archive: bool,
    /// What a run has pinned: it reads the topic as it is now.
    pub(super) pins: bool,
    /// That another process has fenced the sink: the one before it goes on.
    pub(super) fences: bool,
}

impl PlantedFaults {
    /// What is hidden, by name.
    pub(super) fn what(self) -> String {
        let names = [
            ("identities", self.identities),
            ("the steady clock", self.steady_clock),
            ("open transactions", self.open_transactions),
            ("partitions that are gone", self.gone_partitions),
            ("silence before", self.silence_before),
            ("reports", self.reports),
            ("the archive", self.archive),
            ("pins", self.pins),
            ("fences", self.fences),
        ];
        let hidden = names.into_iter().filter(|(_, is_hidden)| *is_hidden);
        let hidden: Vec<&str> = hidden.map(|(name, _)| name).collect();
        format!("hidden: {}", hidden.join(", "))
    }
}

/// All that is still there when a process dies, and the clock.
pub(super) struct World {
    started: tokio::time::Instant,
    state: Mutex<State>,
}

pub(super) struct State {
    pub(super) random: Random,
    pub(super) now: Duration,
    /// How far the wall clock is ahead of the real time, in milliseconds.
    pub(super) wall_is_ahead: i64,
    /// How many machines the processes run on.
    pub(super) machines: usize,
    pub(super) hidden: PlantedFaults,
    pub(super) rates: Rates,
    /// A scan that reads more rows than this runs short of memory when it has given its dead letters.
    pub(super) room: usize,
    pub(super) topic: Topic,
    pub(super) sink: Sink,
    sleepers: Vec<(Duration, Waker)>,
    later: Vec<(Duration, DelayedWrite)>,
    pub(super) trace: Vec<String>,
    /// The folders of the data directory that processes have listed.
    pub(super) listed: Vec<String>,
}

impl World {
    pub(super) fn new(random: Random, topic: Topic, sink: Sink, rates: Rates) -> Self {
        Self {
            started: tokio::time::Instant::now(),
            state: Mutex::new(State {
                random,
                now: Duration::ZERO,
                wall_is_ahead: 0,
                machines: 1,
                hidden: PlantedFaults::default(),
                rates,
                room: usize::MAX,
                topic,
                sink,
                sleepers: Vec::new(),
                later: Vec::new(),
                trace: Vec::new(),
                listed: Vec::new(),
            }),
        }
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    /// The first line of what has happened, and the last lines.
    pub(super) fn trace(&self) -> String {
        const LAST: usize = 150;
        let trace = &self.lock().trace;
        let first = trace.iter().take(1);
        let last = trace.iter().skip(trace.len().saturating_sub(LAST).max(1));
        first.chain(last).cloned().collect::<Vec<_>>().join("\n")
    }

    /// Lets time pass: wakes the processes whose sleep is over, and does the writes that were to be done later.
    pub(super) fn pass(&self, time: Duration) {
        let mut due = Vec::new();
        {
            let mut state = self.lock();
            state.now += time;
            let now = state.now;
            state.sleepers.retain(|(until, waker)| {
                let sleeps = *until > now;
                if !sleeps {
                    waker.wake_by_ref();
                }
                sleeps
            });
            let (ready, waiting) = std::mem::take(&mut state.later)
                .into_iter()
                .partition::<Vec<_>, _>(|(at, _)| *at <= now);
            state.later = waiting;
            due.extend(ready);
        }
        for (_, later) in due {
            later();
        }
    }

    /// How long it is until a process wakes or a late write is done.
    pub(super) fn until_next(&self) -> Option<Duration> {
        let state = self.lock();
        let sleepers = state.sleepers.iter().map(|(until, _)| *until);
        let later = state.later.iter().map(|(at, _)| *at);
        sleepers
            .chain(later)
            .min()
            .map(|at| at.saturating_sub(state.now))
    }
}

impl State {
    pub(super) fn note(&mut self, what: impl fmt::Display) {
        let line = format!("{:>8} ms  {what}", self.now.as_millis());
        self.trace.push(line);
    }
}

/// A process. What is left of a dead one does nothing any more.
#[derive(Clone)]
pub(super) struct Process {
    pub(super) world: Arc<World>,
    pub(super) name: usize,
    alive: Arc<AtomicBool>,
}

impl Process {
    pub(super) fn new(world: &Arc<World>, name: usize) -> Self {
        Self {
            world: Arc::clone(world),
            name,
            alive: Arc::new(AtomicBool::new(true)),
        }
    }

    /// The process dies.
    pub(super) fn die(&self) {
        self.alive.store(false, Ordering::SeqCst);
    }

    pub(super) fn is_alive(&self) -> bool {
        self.alive.load(Ordering::SeqCst)
    }

    pub(super) fn note(&self, what: impl fmt::Display) {
        self.world
            .lock()
            .note(format_args!("process {}: {what}", self.name));
    }

    /// The world as this process sees it.
    pub(super) fn environment(&self) -> Environment {
        Environment {
            clock: Arc::new(self.clone()),
            tables: Arc::new(self.clone()),
        }
    }

    pub(super) async fn sleep(&self, duration: Duration) {
        let until = self.world.lock().now + duration;
        std::future::poll_fn(|context| {
            let mut state = self.world.lock();
            if state.now >= until {
                return Poll::Ready(());
            }
            state.sleepers.push((until, context.waker().clone()));
            Poll::Pending
        })
        .await;
    }

    /// Whether this call fails, by a rate of the world.
    pub(super) fn fails(&self, rate: impl Fn(&Rates) -> u64) -> bool {
        let mut state = self.world.lock();
        let rate = rate(&state.rates);
        state.random.chance(rate)
    }

    /// Gives other processes a chance to run.
    pub(super) async fn step(&self) {
        Step { is_over: false }.await;
    }
}

#[async_trait]
impl Clock for Process {
    /// Milliseconds since 1970 UTC, as the wall clock says.
    fn now(&self) -> i64 {
        let state = self.world.lock();
        BEGINNING + i64::try_from(state.now.as_millis()).unwrap() + state.wall_is_ahead
    }

    /// The clock that does not jump, which each machine has its own of.
    fn steady(&self) -> SteadyTime {
        let state = self.world.lock();
        let machine = match state.machines {
            0 => 0,
            machines => self.name % machines,
        };
        let now = i64::try_from(state.now.as_millis()).unwrap();
        let now = match state.hidden.steady_clock {
            true => now.saturating_add(state.wall_is_ahead).max(0),
            false => now,
        };
        SteadyTime {
            boot: format!("machine {machine}"),
            at: u64::try_from(now).unwrap(),
        }
    }

    fn instant(&self) -> tokio::time::Instant {
        self.world.started + self.world.lock().now
    }

    async fn sleep(&self, duration: Duration) {
        Process::sleep(self, duration).await;
    }
}

impl JobTables for Process {
    fn sources(&self, query: &JobQuery, _: Option<&Startup>) -> Result<JobSources> {
        let of_table = |(name, table): (&String, &StreamTable)| {
            let StreamTable::Kafka(table) = table else {
                return Err(Error::internal("the simulation has topics alone"));
            };
            let source = SimulatedSource::new(self.clone(), Arc::clone(table));
            Ok((name.clone(), Box::new(source) as Box<dyn JobSource>))
        };
        query.sources().iter().map(of_table).collect()
    }

    fn sink(&self, _: &JobQuery, _: JobId, _: &str) -> Result<Box<dyn OpenSink>> {
        Ok(Box::new(SimulatedSink::new(self.clone())))
    }

    /// The partitions that the topic has, as the runner sees them.
    fn partitions(&self, mut there: Partitions, last: Option<&BatchVersion>) -> Partitions {
        let hides = self.world.lock().hidden.gone_partitions;
        let time = last.and_then(|last| last.time.as_ref());
        if let Some(time) = time.filter(|_| hides) {
            for (table, partitions) in &time.partitions {
                let of_table = there.entry(table.clone()).or_default();
                of_table.extend(partitions.keys());
            }
        }
        there
    }

    fn silent_by<'v>(&self, last: Option<&'v BatchVersion>) -> Option<&'v BatchVersion> {
        let hides = self.world.lock().hidden.silence_before;
        last.filter(|_| !hides)
    }
}

impl fmt::Debug for Process {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Process({})", self.name)
    }
}

struct Step {
    is_over: bool,
}

impl Future for Step {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        if self.is_over {
            return Poll::Ready(());
        }
        self.is_over = true;
        context.waker().wake_by_ref();
        Poll::Pending
    }
}

impl Faults for Process {
    fn step(&self) -> BoxFuture<'static, ()> {
        Box::pin(Step { is_over: false })
    }

    fn fate(&self, path: &str, writes: bool) -> CallFate {
        let mut state = self.world.lock();
        let rate = state.rates.store;
        let fate = if !state.random.chance(rate) {
            CallFate::Done
        } else if !writes {
            CallFate::Refused
        } else {
            // An entry of a log is never written in part.
            let fates = if path.contains("/log/") { 3 } else { 4 };
            match state.random.below(fates) {
                0 => CallFate::Refused,
                // From a copy of the random numbers: the other decisions are the same with and without this one.
                1 if state.random.clone().below(2) == 0 => CallFate::Repeated,
                1 => CallFate::AnswerLost,
                2 => CallFate::Late,
                _ => CallFate::Torn,
            }
        };
        if writes || fate != CallFate::Done {
            let name = self.name;
            let verb = if writes { "writes" } else { "reads" };
            let of_job = path.get(42..).unwrap_or(path);
            state.note(format_args!("process {name}: {verb} {of_job}: {fate:?}"));
        }
        fate
    }

    fn later(&self, later: DelayedWrite) {
        let mut state = self.world.lock();
        let at = state.now + Duration::from_millis(state.random.below(400));
        state.later.push((at, later));
    }

    fn listed(&self, folder: &str) {
        self.world.lock().listed.push(folder.to_owned());
    }
}

/// Sees the store without faults.
#[derive(Debug)]
pub(super) struct Observer;

impl Faults for Observer {
    fn step(&self) -> BoxFuture<'static, ()> {
        Box::pin(std::future::ready(()))
    }

    fn fate(&self, _: &str, _: bool) -> CallFate {
        CallFate::Done
    }

    fn later(&self, later: DelayedWrite) {
        later();
    }
}
