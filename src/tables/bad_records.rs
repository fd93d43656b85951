//! Records that a statement or a batch of a job cannot use, and that its scans set aside; and where a plain statement keeps them.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

use crate::error::{Error, Result};

/// Records of a table that a batch is to leave out, by partition and offset, with the reason of each.
pub type SetAside = BTreeMap<(i32, i64), String>;

/// A record that could not be used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BadRecord {
    /// Its topic.
    pub topic: String,
    /// Its partition.
    pub partition: i32,
    /// Its offset.
    pub offset: i64,
    /// Its timestamp in milliseconds since the epoch.
    pub timestamp: Option<i64>,
    /// Its key.
    pub key: Option<Vec<u8>>,
    /// Its value.
    pub value: Option<Vec<u8>>,
    /// Why it could not be used.
    pub reason: String,
}

/// At least this many rows are looked at before a share of bad ones stops a statement.
const SAMPLE: usize = 100;

/// Checks how many of the records of a table that were looked at are `bad`; the newest of these are given.
///
/// # Errors
///
/// Most of the records are bad.
pub(crate) fn check_share(bad: usize, seen: usize, newest: &[BadRecord]) -> Result<()> {
    if seen < SAMPLE || bad * 2 <= seen {
        return Ok(());
    }
    let reason = newest.first().map_or("", |record| record.reason.as_str());
    Err(Error::data(format!(
        "{bad} of {seen} records cannot be decoded, the last because: {reason}"
    ))
    .with_help("check the table's columns and its 'format'")
    .mark_record())
}

/// The bad records of one plain statement, in memory that its plan shares with the session: such a plan stays in its process.
/// Batches of jobs give theirs as rows (`tables::side_output`).
#[derive(Debug, Default)]
pub struct BadRecords {
    state: Mutex<BadState>,
    counts_only: bool,
}

#[derive(Debug, Default)]
struct BadState {
    records: Vec<BadRecord>,
    seen: usize,
    bad: usize,
}

impl BadRecords {
    /// Counts bad records and keeps none: a job has set them aside before.
    pub(crate) fn counting() -> Self {
        Self {
            counts_only: true,
            ..Self::default()
        }
    }

    /// Adds records that were found to be bad, of so many that were looked at.
    ///
    /// # Errors
    ///
    /// Most of the records are bad.
    pub(crate) fn add(&self, records: Vec<BadRecord>, seen: usize) -> Result<()> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.seen += seen;
        state.bad += records.len();
        check_share(state.bad, state.seen, &records)?;
        if !self.counts_only {
            state.records.extend(records);
        }
        Ok(())
    }

    /// Takes what was set aside so far.
    pub fn take(&self) -> Vec<BadRecord> {
        std::mem::take(
            &mut self
                .state
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .records,
        )
    }
}
