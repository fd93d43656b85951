//! Side results of a scan: records that a statement or a batch of a job cannot use and sets aside, and the last record
//! read of each partition.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use crate::core::jobs::RecordMark;
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

/// The bad records of one statement, and the last records that it has read.
#[derive(Debug, Default)]
pub struct BadRecords {
    /// Records that are known as bad before they are read.
    aside: Arc<SetAside>,
    state: Mutex<BadState>,
}

#[derive(Debug, Default)]
struct BadState {
    records: Vec<BadRecord>,
    seen: usize,
    bad: usize,
    last: BTreeMap<i32, RecordMark>,
}

impl BadRecords {
    /// At least this many rows are read before a share of bad ones stops a statement.
    const SAMPLE: usize = 100;

    /// None yet, and these are to be set aside when they are read.
    pub(crate) fn with_aside(aside: Arc<SetAside>) -> Self {
        Self {
            aside,
            state: Mutex::default(),
        }
    }

    /// Why the record at this place is to be set aside, if it is.
    pub(crate) fn aside(&self, partition: i32, offset: i64) -> Option<&str> {
        // There are seldom any.
        if self.aside.is_empty() {
            return None;
        }
        self.aside.get(&(partition, offset)).map(String::as_str)
    }

    /// Adds records that were to be set aside: they are no sign of a wrong format.
    pub(crate) fn add_aside(&self, records: Vec<BadRecord>) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.records.extend(records);
    }

    /// Adds bad records, of `seen` records that were read.
    ///
    /// # Errors
    ///
    /// Most of the records are bad.
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
            .with_help("check the table's columns and its 'format'")
            .of_record());
        }
        state.records.extend(records);
        Ok(())
    }

    /// A record was read from a partition; those of one partition come in their order.
    pub(crate) fn reached(&self, partition: i32, mark: RecordMark) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.last.insert(partition, mark);
    }

    /// The last record that was read of each partition so far.
    pub fn last_records(&self) -> BTreeMap<i32, RecordMark> {
        let state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.last.clone()
    }

    /// Takes the records that were set aside so far.
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
