//! INSERTs that are under way: a process that ends waits a moment for them, so that their transactions do not stay open.

use std::sync::{Condvar, Mutex, PoisonError};
use std::time::Duration;

/// How many there are.
static COUNT: Mutex<usize> = Mutex::new(0);
static FEWER: Condvar = Condvar::new();

/// One of them, until this is dropped.
pub(super) struct UnderWay(());

impl UnderWay {
    /// There is one more.
    pub(super) fn begin() -> Self {
        *COUNT.lock().unwrap_or_else(PoisonError::into_inner) += 1;
        Self(())
    }
}

impl Drop for UnderWay {
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
