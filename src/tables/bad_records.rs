//! Records that a statement or a batch of a job cannot use, and that it sets aside.

use std::sync::{Mutex, PoisonError};

use crate::error::{Error, Result};

/// A record that could not be decoded.
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
    /// Why it could not be decoded.
    pub reason: String,
}

/// The bad records of one statement.
#[derive(Debug, Default)]
pub struct BadRecords {
    state: Mutex<BadState>,
}

#[derive(Debug, Default)]
struct BadState {
    records: Vec<BadRecord>,
    seen: usize,
    bad: usize,
}

impl BadRecords {
    /// At least this many rows are looked at before a share of bad ones stops a statement.
    const SAMPLE: usize = 100;

    pub(crate) fn add(&self, records: Vec<BadRecord>, seen: usize) -> Result<()> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.seen += seen;
        state.bad += records.len();
        if state.seen >= Self::SAMPLE && state.bad * 2 > state.seen {
            let reason = records.first().map_or("", |record| record.reason.as_str());
            return Err(Error::data(format!(
                "{} of {} records cannot be decoded, the last because: {reason}",
                state.bad, state.seen
            ))
            .with_help("check the table's columns and its 'format'"));
        }
        state.records.extend(records);
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
