//! The jobs that could not be started so far.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

/// Jobs that are to run and cannot be started, by name, with the reason.
#[derive(Debug, Default)]
pub(crate) struct WaitingJobs(Mutex<BTreeMap<String, String>>);

impl WaitingJobs {
    pub(crate) fn names(&self) -> Vec<String> {
        self.lock().keys().cloned().collect()
    }

    /// Whether that is new.
    pub(super) fn put(&self, name: &str, reason: String) -> bool {
        let before = self.lock().insert(name.to_owned(), reason.clone());
        before != Some(reason)
    }

    pub(super) fn remove(&self, name: &str) {
        self.lock().remove(name);
    }

    pub(super) fn lock(&self) -> std::sync::MutexGuard<'_, BTreeMap<String, String>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
