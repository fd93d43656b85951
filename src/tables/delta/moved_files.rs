//! A commit that moves rows to other files: each file is taken out once.
//!
//! The library compares the files that a commit removes with those of other commits only if these have changed rows. So of two
//! OPTIMIZE at the same time, both would add the rows of the files that they have put together.

use std::collections::HashSet;
use std::sync::atomic::AtomicU64;

use deltalake::DeltaResult;
use deltalake::logstore::LogStoreRef;
use serde_json::Value;

use super::lineage::{decoded, first_version};

/// The check of one commit.
pub(super) struct MovedFiles {
    /// Up to this version no other commit has removed files of this one.
    checked: AtomicU64,
}

impl MovedFiles {
    /// For a commit of files that version `read` has.
    pub(super) fn since(read: u64) -> Self {
        Self {
            checked: AtomicU64::new(read),
        }
    }

    /// Whether another commit before `version` has removed a file that `entry` removes.
    ///
    /// # Errors
    ///
    /// An entry before it cannot be read.
    pub(super) async fn are_taken(
        &self,
        log: &LogStoreRef,
        version: u64,
        entry: &[u8],
    ) -> DeltaResult<bool> {
        let files = removed(entry);
        let takes = |other: &[u8]| !files.is_disjoint(&removed(other));
        let taken = first_version(log, &self.checked, version, &takes).await?;
        Ok(taken.is_some())
    }
}

/// The paths of the files that an entry removes.
fn removed(entry: &[u8]) -> HashSet<String> {
    let lines = entry.split(|byte| *byte == b'\n');
    let actions = lines.filter_map(|line| serde_json::from_slice::<Value>(line).ok());
    let paths = actions.filter_map(|action| {
        let path = action.pointer("/remove/path")?.as_str()?;
        Some(decoded(path))
    });
    paths.collect()
}
