//! Memory pools: the share of the session's memory that one statement may hold, and the memory of jobs as one job sees it.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use datafusion::error::{DataFusionError, Result};
use datafusion::execution::memory_pool::{
    MemoryConsumer, MemoryLimit, MemoryPool, MemoryReservation,
};

use crate::core::jobs::MemoryShortage;

/// A memory pool that allocates from another pool, up to a limit.
#[derive(Debug)]
pub(crate) struct LimitedPool {
    of: Arc<dyn MemoryPool>,
    limit: usize,
    held: AtomicUsize,
}

impl LimitedPool {
    pub(crate) fn new(of: Arc<dyn MemoryPool>, limit: usize) -> Self {
        Self {
            of,
            limit,
            held: AtomicUsize::new(0),
        }
    }
}

impl std::fmt::Display for LimitedPool {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} of {}", self.limit, self.of)
    }
}

impl MemoryPool for LimitedPool {
    fn name(&self) -> &str {
        "limited"
    }

    fn register(&self, consumer: &MemoryConsumer) {
        self.of.register(consumer);
    }

    fn unregister(&self, consumer: &MemoryConsumer) {
        self.of.unregister(consumer);
    }

    fn grow(&self, reservation: &MemoryReservation, additional: usize) {
        self.of.grow(reservation, additional);
        self.held.fetch_add(additional, Ordering::Relaxed);
    }

    fn shrink(&self, reservation: &MemoryReservation, shrink: usize) {
        self.of.shrink(reservation, shrink);
        self.held.fetch_sub(shrink, Ordering::Relaxed);
    }

    fn try_grow(&self, reservation: &MemoryReservation, additional: usize) -> Result<()> {
        let within = |held: usize| {
            held.checked_add(additional)
                .filter(|sum| *sum <= self.limit)
        };
        let taken = self
            .held
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, within);
        if let Err(held) = taken {
            return Err(DataFusionError::ResourcesExhausted(format!(
                "the statement holds {held} bytes, needs {additional} more, and may hold {}",
                self.limit
            )));
        }
        let grown = self.of.try_grow(reservation, additional);
        if grown.is_err() {
            self.held.fetch_sub(additional, Ordering::Relaxed);
        }
        grown
    }

    fn reserved(&self) -> usize {
        self.held.load(Ordering::Relaxed)
    }

    fn memory_limit(&self) -> MemoryLimit {
        MemoryLimit::Finite(self.limit)
    }
}

/// A memory pool that allocates from the pool of all jobs; it tracks the reservations of its job and why the last one failed.
#[derive(Debug)]
pub(crate) struct JobPool {
    of: Arc<dyn MemoryPool>,
    held: AtomicUsize,
    /// The last refused reservation.
    shortage: Mutex<Option<MemoryShortage>>,
}

impl JobPool {
    pub(crate) fn new(of: Arc<dyn MemoryPool>) -> Self {
        Self {
            of,
            held: AtomicUsize::new(0),
            shortage: Mutex::default(),
        }
    }

    /// Returns the shortage since the last call, and resets it.
    pub(crate) fn take_shortage(&self) -> Option<MemoryShortage> {
        self.shortage
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take()
    }

    fn lacks(&self, asked: usize) {
        let held = self.held.load(Ordering::Relaxed);
        let shortage = MemoryShortage {
            asked,
            held,
            others: self.of.reserved().saturating_sub(held),
            limit: limit_of(self.of.as_ref()),
        };
        *self.shortage.lock().unwrap_or_else(PoisonError::into_inner) = Some(shortage);
    }
}

/// The capacity of a pool in bytes.
pub(crate) fn limit_of(pool: &dyn MemoryPool) -> usize {
    match pool.memory_limit() {
        MemoryLimit::Finite(limit) => limit,
        _ => usize::MAX,
    }
}

impl std::fmt::Display for JobPool {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}", self.of)
    }
}

impl MemoryPool for JobPool {
    fn name(&self) -> &str {
        "job"
    }

    fn register(&self, consumer: &MemoryConsumer) {
        self.of.register(consumer);
    }

    fn unregister(&self, consumer: &MemoryConsumer) {
        self.of.unregister(consumer);
    }

    fn grow(&self, reservation: &MemoryReservation, additional: usize) {
        self.of.grow(reservation, additional);
        self.held.fetch_add(additional, Ordering::Relaxed);
    }

    fn shrink(&self, reservation: &MemoryReservation, shrink: usize) {
        self.of.shrink(reservation, shrink);
        self.held.fetch_sub(shrink, Ordering::Relaxed);
    }

    fn try_grow(&self, reservation: &MemoryReservation, additional: usize) -> Result<()> {
        let grown = self.of.try_grow(reservation, additional);
        match &grown {
            Ok(()) => {
                self.held.fetch_add(additional, Ordering::Relaxed);
            }
            Err(_) => self.lacks(additional),
        }
        grown
    }

    fn reserved(&self) -> usize {
        self.held.load(Ordering::Relaxed)
    }

    fn memory_limit(&self) -> MemoryLimit {
        self.of.memory_limit()
    }
}

#[cfg(test)]
mod tests {
    use datafusion::execution::memory_pool::GreedyMemoryPool;

    use super::*;

    #[test]
    fn a_statement_is_limited_and_releases_all_memory() {
        let whole: Arc<dyn MemoryPool> = Arc::new(GreedyMemoryPool::new(150));
        let share = || Arc::new(LimitedPool::new(Arc::clone(&whole), 100)) as Arc<dyn MemoryPool>;
        let (one, two) = (share(), share());
        let first = MemoryConsumer::new("first").register(&one);
        first.try_grow(60).unwrap();
        let refused = first.try_grow(41).unwrap_err().to_string();
        assert!(refused.contains("holds 60 bytes, needs 41 more, and may hold 100"));
        let second = MemoryConsumer::new("second").register(&two);
        // Within the statement's own share, beyond the rest of the whole pool.
        assert!(second.try_grow(91).is_err());
        assert_eq!(two.reserved(), 0);
        second.try_grow(90).unwrap();
        drop((first, second));
        assert_eq!(
            (one.reserved(), two.reserved(), whole.reserved()),
            (0, 0, 0)
        );
    }

    #[test]
    fn a_refused_job_knows_the_memory_held_by_others() {
        let whole: Arc<dyn MemoryPool> = Arc::new(GreedyMemoryPool::new(100));
        let pools = [0, 1].map(|_| Arc::new(JobPool::new(Arc::clone(&whole))));
        let [one, two] = &pools;
        let of = |pool: &Arc<JobPool>| {
            let pool: Arc<dyn MemoryPool> = Arc::clone(pool) as _;
            MemoryConsumer::new("of a job").register(&pool)
        };
        let (first, second) = (of(one), of(two));
        first.try_grow(70).unwrap();
        assert_eq!(one.take_shortage(), None);
        second.try_grow(20).unwrap();
        second.try_grow(30).unwrap_err();
        let shortage = MemoryShortage {
            asked: 30,
            held: 20,
            others: 70,
            limit: 100,
        };
        assert_eq!(two.take_shortage(), Some(shortage));
        assert_eq!((one.take_shortage(), two.take_shortage()), (None, None));
        drop((first, second));
        let alone = of(two);
        alone.try_grow(101).unwrap_err();
        let others = two.take_shortage().map(|shortage| shortage.others);
        assert_eq!((others, whole.reserved()), (Some(0), 0));
    }
}
