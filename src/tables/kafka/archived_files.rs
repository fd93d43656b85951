//! Offsets of files of an archive of which the log does not say them: a table keeps those that it has read, since files never change.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use crate::core::archive::FileSpans;

/// The most files whose offsets a table keeps; beyond them it forgets all and reads again.
const FILES: usize = 100_000;

/// What files have of the topic's partitions, by path.
#[derive(Debug, Default)]
pub(crate) struct ArchivedFiles {
    by_path: Mutex<HashMap<String, Arc<FileSpans>>>,
}

impl ArchivedFiles {
    /// What the file at this path has, if it was read.
    pub(crate) fn get(&self, path: &str) -> Option<Arc<FileSpans>> {
        let by_path = self.by_path.lock().unwrap_or_else(PoisonError::into_inner);
        by_path.get(path).cloned()
    }

    /// Keeps what a file has.
    pub(crate) fn put(&self, path: String, spans: Arc<FileSpans>) {
        let mut by_path = self.by_path.lock().unwrap_or_else(PoisonError::into_inner);
        if by_path.len() >= FILES {
            by_path.clear();
        }
        by_path.insert(path, spans);
    }
}
