//! The real sink of a job over simulated brokers and a simulated client. Two runners take the job from each other and die at any
//! call. Answers get lost, requests arrive late, coordinators move, transactions time out, records are refused after others were
//! delivered, and the group learns late of a commit, or its offsets expire.
//!
//! Which batch a runner continues with after a takeover is decided by the program's own code. In the end a reader of committed records
//! gets every batch of the log once (EXACT-1); without transactions, at least once.
//!
//! A test that fails names the seed: `ANABRANCH_SEED=<n>` runs the schedule of this seed alone, and `ANABRANCH_SEEDS=<count>` runs
//! as many schedules as it says.

mod broker;
mod client;
mod runner;
mod world;

use std::collections::BTreeMap;
use std::sync::Arc;

use self::broker::Stored;
use self::runner::{Runner, SOURCE, TOPIC, rows_of, table};
use self::world::World;
use super::definition::{Delivery, KafkaTable};
use crate::core::schedules::{self, Schedules};

/// A planted fault must be found in one of so many schedules.
const ENOUGH: u64 = 400;
/// How many schedules a test runs, unless `ANABRANCH_SEEDS` says another number: so many find each of the planted faults.
const SEEDS: u64 = ENOUGH;
const RUNNERS: usize = 2;
/// How many steps all runners together take in a schedule: a step is a takeover or a batch.
const STEPS: u64 = 30;

/// Faults that are planted in runners, in the client and in brokers, and that the simulation must find.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
enum Planted {
    #[default]
    Nothing,
    /// A runner that takes the job over goes on after the last batch of the log, and does not ask the sink which batch it has.
    NoWitness,
    /// When a commit fails, the runner takes it for aborted and writes the batch again.
    FailureIsAbort,
    /// Brokers do not fence off a producer when another one takes its transactional id over.
    NoFencing,
    /// The client begins the next transaction before the last one is aborted.
    NoWaiting,
    /// The group gives its old offsets while those of a committed transaction are about to replace them.
    OldOffsets,
    /// The group gives no offset while those of a committed transaction are about to be taken over.
    NoOffset,
    /// The client does not tell that a record was refused.
    SilentFailures,
    /// The group takes offsets over at once, and not when their transaction is committed.
    OffsetsAtOnce,
}

/// A running runner. When its thread ends, also by a panic, the other one goes on.
struct Present<'w> {
    world: &'w World,
    slot: usize,
}

impl Drop for Present<'_> {
    fn drop(&mut self) {
        self.world.leave(self.slot);
    }
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread()
        .build()
        .unwrap()
}

fn work(world: &Arc<World>, slot: usize, table: &Arc<KafkaTable>) {
    let _present = Present { world, slot };
    world.wait_for_turn(slot);
    let runtime = runtime();
    let mut runner = Runner::new(world, slot, table);
    while world.goes_on() {
        runtime.block_on(runner.step());
    }
}

fn run(seed: u64, planted: Planted, delivery: Delivery) -> Result<(), String> {
    let world = World::new(seed, planted);
    let outcome = run_in(&world, delivery);
    outcome.map_err(|fault| format!("{fault}\n{}", world.trace()))
}

fn run_in(world: &Arc<World>, delivery: Delivery) -> Result<(), String> {
    let table = table(delivery);
    // Without transactions brokers fence off no producer: so there is only one runner.
    let runners = match delivery {
        Delivery::AtLeastOnce => 1,
        _ => RUNNERS,
    };
    for slot in runners..RUNNERS {
        world.leave(slot);
    }
    std::thread::scope(|scope| {
        for slot in 0..runners {
            let table = &table;
            scope.spawn(move || work(world, slot, table));
        }
    });
    come_to_the_end(world, &table)?;
    check(world, delivery)
}

/// From now on nothing fails: a runner runs the job until it has committed some more batches.
fn come_to_the_end(world: &Arc<World>, table: &Arc<KafkaTable>) -> Result<(), String> {
    const PATIENCE: usize = 100;
    world.become_honest();
    world.note("from here on nothing fails");
    let runtime = runtime();
    let mut runner = Runner::new(world, 0, table);
    let enough = runner.batches() + 3;
    for _ in 0..PATIENCE {
        if let Some(fault) = world.lock().fault.take() {
            return Err(fault);
        }
        if runner.batches() >= enough {
            return Ok(());
        }
        runtime.block_on(runner.step());
    }
    Err("the job does not come to an end".to_owned())
}

/// Compares the records that a reader of committed records gets with the batches of the log.
fn check(world: &World, delivery: Delivery) -> Result<(), String> {
    let mut state = world.lock();
    state.broker.settle();
    let history = state.job.history();
    let mut seen: BTreeMap<_, Vec<Stored>> = BTreeMap::new();
    for stored in state.broker.seen() {
        // Without transactions the topic may have several attempts at a batch.
        let is_tombstone = stored.row.attempt.is_none();
        seen.entry((stored.row.id, is_tombstone))
            .or_default()
            .push(stored);
    }
    for committed in &history.batches {
        let batch = committed.batch;
        let attempt = state.job.attempt(&committed.version);
        let attempt = attempt.ok_or_else(|| format!("what batch {batch} was is gone"))?;
        let mut published: BTreeMap<i32, (i64, i64)> = BTreeMap::new();
        let rows = rows_of(batch, attempt.number);
        for row in &rows {
            let found = seen
                .remove(&(row.id, row.attempt.is_none()))
                .unwrap_or_default();
            let Some(first) = found.iter().find(|stored| stored.row == *row) else {
                return Err(format!("batch {batch} lacks {row:?}"));
            };
            if found.len() > 1 && delivery != Delivery::AtLeastOnce {
                return Err(format!("batch {batch} has {row:?} twice"));
            }
            let (offset, after) = (first.offset, first.offset + 1);
            published
                .entry(first.partition)
                .and_modify(|range| *range = (range.0.min(offset), range.1.max(after)))
                .or_insert((offset, after));
        }
        let told = &attempt.published;
        let is_told = told.rows == rows.len() as u64 && told.offsets == published;
        if !is_told && delivery != Delivery::AtLeastOnce {
            return Err(format!(
                "batch {batch} is told to be at {told:?}, and is at {published:?}"
            ));
        }
    }
    if let Some(row) = seen.keys().next()
        && delivery != Delivery::AtLeastOnce
    {
        return Err(format!(
            "{row:?} is in the topic, and the log has no batch of it"
        ));
    }
    let last = history.last().ok_or("the log has no batch")?;
    let offset = i64::try_from(last.batch).unwrap();
    let found = state.broker.committed(SOURCE, 0);
    if found != Ok(Some((offset, String::new()))) {
        return Err(format!("the group has read up to {found:?} of {offset}"));
    }
    let found = state.broker.committed(TOPIC, 0);
    if found != Ok(Some((offset, last.version.clone()))) {
        return Err(format!(
            "the witness is {found:?}, and not {}",
            last.version
        ));
    }
    Ok(())
}

/// Runs schedules without a planted fault.
fn simulate(delivery: Delivery) {
    let counted = Schedules::of(format!("sinks of topics, {delivery:?}"));
    for seed in schedules::seeds(SEEDS, &[]) {
        counted.count();
        if let Err(fault) = run(seed, Planted::Nothing, delivery) {
            panic!("ANABRANCH_SEED={seed} runs it again: {fault}");
        }
    }
}

#[test]
fn exact_1_every_batch_is_in_the_topic_once_under_broker_faults() {
    simulate(Delivery::Transactional);
}

#[test]
fn without_transactions_every_batch_is_in_the_topic_at_least_once() {
    simulate(Delivery::AtLeastOnce);
}

#[test]
fn the_same_seed_is_the_same_schedule() {
    let trace = |seed| {
        let world = World::new(seed, Planted::Nothing);
        let outcome = run_in(&world, Delivery::Transactional);
        (outcome, world.trace())
    };
    for seed in 0..10 {
        assert_eq!(trace(seed), trace(seed));
    }
}

#[test]
fn planted_faults_are_found() {
    // Each with the seeds that are known to find it, and a text that the first line of the message must contain.
    let planted: [(Planted, &[u64], &str); 8] = [
        (Planted::NoWitness, &[], "twice"),
        (Planted::FailureIsAbort, &[], "twice"),
        (Planted::NoFencing, &[], "twice"),
        (Planted::NoWaiting, &[], "twice"),
        (Planted::OldOffsets, &[], "twice"),
        (Planted::NoOffset, &[], "is unknown whether"),
        (Planted::SilentFailures, &[], "lacks"),
        (Planted::OffsetsAtOnce, &[], "lacks"),
    ];
    for (planted, known, looked_for) in planted {
        let finds = |seed| {
            let fault = run(seed, planted, Delivery::Transactional).err();
            let first = fault.and_then(|fault| fault.lines().next().map(str::to_owned));
            first.is_some_and(|line| line.contains(looked_for))
        };
        let found = schedules::found_by(&format!("{planted:?}"), known, ENOUGH, finds);
        assert!(found.is_some(), "{planted:?} is not found");
    }
}
