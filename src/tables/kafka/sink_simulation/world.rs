//! World of the simulation: the brokers, the job's log and the clock, which survive all processes. One runner at a time
//! goes on, and the seed chooses which.

use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use rdkafka::error::RDKafkaErrorCode as Code;

use super::broker::Broker;
use super::runner::Job;
use super::{Planted, RUNNERS, STEPS};
use crate::core::random::Random;

/// How long a transaction may be open.
pub(super) const TIMEOUT: Duration = Duration::from_secs(1);

/// A fault of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum RequestFault {
    /// The coordinator has moved or is busy, and refuses it for now.
    NotNow(Code),
    /// It does not arrive.
    Lost,
    /// It is done, and the answer gets lost.
    AnswerLost,
    /// It arrives when the client has stopped waiting for the answer.
    Late,
}

pub(super) struct World {
    began: Instant,
    pub(super) planted: Planted,
    state: Mutex<State>,
    turned: Condvar,
}

pub(super) struct State {
    pub(super) random: Random,
    /// Whether nothing fails any more.
    is_honest: bool,
    pub(super) now: Duration,
    /// No broker answers before this time.
    away_until: Duration,
    turn: usize,
    /// The runners that still run.
    present: [bool; RUNNERS],
    steps: u64,
    pub(super) broker: Broker,
    pub(super) job: Job,
    /// The first thing that a runner has met that must not happen.
    pub(super) fault: Option<String>,
    trace: Vec<String>,
}

impl World {
    pub(super) fn new(seed: u64, planted: Planted) -> Arc<Self> {
        Arc::new(Self {
            began: Instant::now(),
            planted,
            state: Mutex::new(State {
                random: Random::new(seed),
                is_honest: false,
                now: Duration::ZERO,
                away_until: Duration::ZERO,
                turn: 0,
                present: [true; RUNNERS],
                steps: 0,
                broker: Broker::new(planted, TIMEOUT),
                job: Job::new(),
                fault: None,
                trace: Vec::new(),
            }),
            turned: Condvar::new(),
        })
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn instant(&self) -> Instant {
        self.began + self.lock().now
    }

    /// Whether there is another step to take; counts it.
    pub(super) fn goes_on(&self) -> bool {
        let mut state = self.lock();
        state.steps += 1;
        state.steps <= STEPS && state.fault.is_none()
    }

    pub(super) fn become_honest(&self) {
        let mut state = self.lock();
        state.is_honest = true;
        for request in std::mem::take(&mut state.broker.late) {
            state.broker.arrive(request);
        }
        state.broker.settle();
    }

    /// Waits until it is this runner's turn.
    pub(super) fn wait_for_turn(&self, slot: usize) {
        let state = self.lock();
        let waits = |state: &mut State| state.turn != slot;
        drop(self.turned.wait_while(state, waits));
    }

    /// Lets something happen, and perhaps makes it another runner's turn; then this one waits for its next turn.
    fn pass(&self, slot: usize) {
        {
            let mut state = self.lock();
            if state.is_honest {
                return;
            }
            state.happen();
            if state.random.chance(150) {
                state.turn_on();
                self.turned.notify_all();
            }
        }
        self.wait_for_turn(slot);
    }

    /// A runner ends: it is another one's turn.
    pub(super) fn leave(&self, slot: usize) {
        let mut state = self.lock();
        state.present[slot] = false;
        state.turn_on();
        self.turned.notify_all();
    }

    pub(super) fn note(&self, what: impl fmt::Display) {
        self.lock().note(what);
    }

    /// The last lines of the trace of events.
    pub(super) fn trace(&self) -> String {
        const LAST: usize = 120;
        let state = self.lock();
        let skipped = state.trace.len().saturating_sub(LAST);
        state.trace[skipped..].join("\n")
    }
}

impl State {
    fn turn_on(&mut self) {
        let present: Vec<usize> = (0..RUNNERS).filter(|slot| self.present[*slot]).collect();
        if !present.is_empty() {
            self.turn = present[self.random.index(present.len())];
        }
    }

    /// Events that do not depend on the runners: time passes, and brokers are away, abort transactions and get late
    /// requests.
    fn happen(&mut self) {
        self.now += Duration::from_micros(self.random.below(2_000));
        if self.random.chance(3) {
            // All machines stop for a while.
            self.now += Duration::from_millis(self.random.below(1_500));
        }
        if self.random.chance(6) {
            let away = Duration::from_millis(self.random.below(300));
            self.away_until = self.now + away;
        }
        if self.broker.expire(self.now) {
            self.note("a transaction has timed out");
        }
        if !self.broker.late.is_empty() && self.random.chance(60) {
            let next = self.random.index(self.broker.late.len());
            let request = self.broker.late.swap_remove(next);
            self.note(format_args!("{request:?} arrives late"));
            self.broker.arrive(request);
        }
        if self.random.chance(80) {
            self.broker.settle();
        }
        if self.random.below(4_000) == 0 {
            self.note("the offsets of the group expire");
            self.broker.forget_group();
        }
    }

    /// Whether something fails now that fails so many times of a thousand; never once nothing fails any more.
    pub(super) fn fails(&mut self, per_mille: u64) -> bool {
        !self.is_honest && self.random.chance(per_mille)
    }

    /// Whether a runner takes the job from another one now.
    pub(super) fn is_due(&mut self) -> bool {
        self.is_honest || self.random.chance(150)
    }

    pub(super) fn is_away(&self) -> bool {
        !self.is_honest && self.now < self.away_until
    }

    /// The fault of the next request, if it has one; most requests have none.
    pub(super) fn mishap(&mut self) -> Option<RequestFault> {
        if self.is_away() {
            return Some(RequestFault::Lost);
        }
        if !self.fails(80) {
            return None;
        }
        Some(match self.random.below(6) {
            0 => RequestFault::NotNow(Code::NotCoordinator),
            1 => RequestFault::NotNow(Code::ConcurrentTransactions),
            2 => RequestFault::Lost,
            3 | 4 => RequestFault::AnswerLost,
            _ => RequestFault::Late,
        })
    }

    /// A call waits for an answer that does not come, for all of its timeout or a part of it.
    pub(super) fn wait_in_vain(&mut self, timeout: Duration) {
        let quarters = 1 + u32::try_from(self.random.below(4)).unwrap();
        self.now += timeout / 4 * quarters;
    }

    pub(super) fn note(&mut self, what: impl fmt::Display) {
        let line = format!("{:>7} ms  {what}", self.now.as_millis());
        self.trace.push(line);
    }
}

/// A process. A dead one does nothing any more.
pub(super) struct Process {
    pub(super) world: Arc<World>,
    pub(super) slot: usize,
    is_alive: AtomicBool,
    /// Whether its client knows that it was fenced off.
    pub(super) is_fenced: AtomicBool,
}

/// The error of a call of a process that is dead.
#[derive(Debug, Clone, Copy)]
pub(super) struct DeadProcess;

impl Process {
    pub(super) fn new(world: &Arc<World>, slot: usize) -> Arc<Self> {
        Arc::new(Self {
            world: Arc::clone(world),
            slot,
            is_alive: AtomicBool::new(true),
            is_fenced: AtomicBool::new(false),
        })
    }

    pub(super) fn is_alive(&self) -> bool {
        self.is_alive.load(Ordering::SeqCst)
    }

    /// Gives other runners a chance to go on. The process may die here.
    pub(super) fn step(&self) -> Result<(), DeadProcess> {
        if !self.is_alive() {
            return Err(DeadProcess);
        }
        self.world.pass(self.slot);
        let mut state = self.world.lock();
        if state.fails(6) {
            state.note(format_args!("runner {}: dies", self.slot));
            self.is_alive.store(false, Ordering::SeqCst);
            return Err(DeadProcess);
        }
        Ok(())
    }

    pub(super) fn note(&self, what: impl fmt::Display) {
        let slot = self.slot;
        self.world.note(format_args!("runner {slot}: {what}"));
    }
}
