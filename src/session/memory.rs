//! The share of the session's memory that one statement may hold.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use datafusion::error::{DataFusionError, Result};
use datafusion::execution::memory_pool::{
    MemoryConsumer, MemoryLimit, MemoryPool, MemoryReservation,
};

/// Takes from another pool, and no more than a limit.
#[derive(Debug)]
pub(super) struct LimitedPool {
    of: Arc<dyn MemoryPool>,
    limit: usize,
    held: AtomicUsize,
}

impl LimitedPool {
    pub(super) fn new(of: Arc<dyn MemoryPool>, limit: usize) -> Self {
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

#[cfg(test)]
mod tests {
    use datafusion::execution::memory_pool::GreedyMemoryPool;

    use super::*;

    #[test]
    fn a_statement_holds_no_more_than_its_share_and_gives_all_back() {
        let whole: Arc<dyn MemoryPool> = Arc::new(GreedyMemoryPool::new(150));
        let share = || Arc::new(LimitedPool::new(Arc::clone(&whole), 100)) as Arc<dyn MemoryPool>;
        let (one, two) = (share(), share());
        let first = MemoryConsumer::new("first").register(&one);
        first.try_grow(60).unwrap();
        let refused = first.try_grow(41).unwrap_err().to_string();
        assert!(refused.contains("holds 60 bytes, needs 41 more, and may hold 100"));
        let second = MemoryConsumer::new("second").register(&two);
        // Within its own share, beyond what is left of the whole.
        assert!(second.try_grow(91).is_err());
        assert_eq!(two.reserved(), 0);
        second.try_grow(90).unwrap();
        drop((first, second));
        assert_eq!(
            (one.reserved(), two.reserved(), whole.reserved()),
            (0, 0, 0)
        );
    }
}
