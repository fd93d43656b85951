//! Processes that run in turns: which of them goes on next follows from the random numbers of the world.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, Wake, Waker};
use std::time::Duration;

use super::world::{Process, World};
use crate::error::Result;

/// A process at work.
pub(super) struct RunningProcess {
    pub(super) process: Process,
    future: Pin<Box<dyn Future<Output = Result<()>>>>,
    woken: Arc<Flag>,
    sleeps_until: Option<Duration>,
    pub(super) what: &'static str,
}

#[derive(Default)]
struct Flag {
    is_set: AtomicBool,
}

impl Wake for Flag {
    fn wake(self: Arc<Self>) {
        self.is_set.store(true, Ordering::SeqCst);
    }
}

/// The places for processes.
pub(super) struct Processes {
    world: Arc<World>,
    slots: Vec<Option<RunningProcess>>,
}

impl Processes {
    /// So many free places.
    pub(super) fn new(world: &Arc<World>, count: usize) -> Self {
        Self {
            world: Arc::clone(world),
            slots: (0..count).map(|_| None).collect(),
        }
    }

    pub(super) fn is_free(&self, slot: usize) -> bool {
        self.slots[slot].is_none()
    }

    pub(super) fn are_free(&self) -> bool {
        self.slots.iter().all(Option::is_none)
    }

    /// Begins a process in a place.
    pub(super) fn start(
        &mut self,
        slot: usize,
        process: Process,
        future: impl Future<Output = Result<()>> + 'static,
        what: &'static str,
    ) {
        let woken = Arc::new(Flag::default());
        woken.is_set.store(true, Ordering::SeqCst);
        self.slots[slot] = Some(RunningProcess {
            process,
            future: Box::pin(future),
            woken,
            sleeps_until: None,
            what,
        });
    }

    /// The process of a place, if there is one, does nothing until then, and goes on as if no time had passed.
    pub(super) fn sleep(&mut self, slot: usize, until: Duration) {
        if let Some(running) = &mut self.slots[slot] {
            running.process.note("falls asleep");
            running.sleeps_until = Some(until);
        }
    }

    /// The process dies, wherever it is.
    pub(super) fn crash(&mut self, slot: usize) {
        if let Some(running) = self.slots[slot].take() {
            running.process.note("dies");
            running.process.die();
        }
    }

    /// A process that does not wait for anything runs until it waits again. If all wait, time passes until one does not. Gives the
    /// process that has ended, and how.
    pub(super) async fn turn(&mut self) -> Option<(RunningProcess, Result<()>)> {
        let mut idle_turns = 0;
        let slot = loop {
            let now = self.world.lock().now;
            let able: Vec<usize> = (0..self.slots.len())
                .filter(|slot| {
                    let running = self.slots[*slot].as_ref();
                    running.is_some_and(|running| {
                        running.woken.is_set.load(Ordering::SeqCst)
                            && running.sleeps_until.is_none_or(|until| until <= now)
                    })
                })
                .collect();
            if !able.is_empty() {
                break able[self.world.lock().random.index(able.len())];
            }
            // DataFusion runs parts of a plan in tasks of their own: they go on meanwhile.
            if idle_turns < 8 {
                idle_turns += 1;
                tokio::task::yield_now().await;
                continue;
            }
            let sleeping = self.slots.iter().flatten();
            let wakes = sleeping.filter_map(|running| running.sleeps_until);
            let wakes = wakes.filter(|until| *until > now).map(|until| until - now);
            let next = wakes.chain(self.world.until_next()).min()?;
            self.world.pass(next.max(Duration::from_micros(1)));
            idle_turns = 0;
        };
        let running = self.slots[slot].as_mut().unwrap();
        running.woken.is_set.store(false, Ordering::SeqCst);
        let waker = Waker::from(Arc::clone(&running.woken));
        let mut context = Context::from_waker(&waker);
        match running.future.as_mut().poll(&mut context) {
            Poll::Ready(outcome) => Some((self.slots[slot].take().unwrap(), outcome)),
            Poll::Pending => None,
        }
    }
}
