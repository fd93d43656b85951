//! Running INSERTs, and transactions of jobs that are being aborted: a process that ends waits a moment for them, so
//! that no transaction stays open.

use std::sync::{Condvar, Mutex, PoisonError};
use std::time::Duration;

/// How many there are.
static COUNT: Mutex<usize> = Mutex::new(0);
static FEWER: Condvar = Condvar::new();

/// One of these INSERTs or transactions, until this is dropped.
pub(super) struct InFlight(());

/// The most INSERTs that run at the same time; cancelled ones count until they have ended.
const MOST: usize = 1_024;

impl InFlight {
    /// There is one more INSERT; none if there are too many.
    pub(super) fn of_insert() -> Option<Self> {
        let mut count = COUNT.lock().unwrap_or_else(PoisonError::into_inner);
        (*count < MOST).then(|| {
            *count += 1;
            Self(())
        })
    }

    /// A transaction of a job is being aborted.
    pub(super) fn begin() -> Self {
        *COUNT.lock().unwrap_or_else(PoisonError::into_inner) += 1;
        Self(())
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        *COUNT.lock().unwrap_or_else(PoisonError::into_inner) -= 1;
        FEWER.notify_all();
    }
}

/// Waits until no INSERT into a topic is under way, at most this long.
pub fn wait_for_inserts(at_most: Duration) {
    let count = COUNT.lock().unwrap_or_else(PoisonError::into_inner);
    drop(FEWER.wait_timeout_while(count, at_most, |count| *count > 0));
}
