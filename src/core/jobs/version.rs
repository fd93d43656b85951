//! What a batch leaves behind besides its rows: where every source stands after it.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// The format this program writes and the newest it reads.
pub const FORMAT: u32 = 1;

/// Offsets that a batch read from one partition of a topic.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct SourceProgress {
    /// The first offset of the batch.
    pub start: i64,
    /// Where the next batch begins.
    pub end: i64,
}

/// A record that could not be decoded.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeadLetter {
    /// The table that was read.
    pub table: String,
    /// The record's topic.
    pub topic: String,
    /// Its partition.
    pub partition: i32,
    /// Its offset.
    pub offset: i64,
    /// Its timestamp in milliseconds since 1970 UTC.
    pub timestamp: Option<i64>,
    /// Its key.
    pub key: Option<Vec<u8>>,
    /// Its value.
    pub value: Option<Vec<u8>>,
    /// Why it could not be decoded.
    pub reason: String,
}

/// A version: the job as it is after a batch.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BatchVersion {
    /// [`FORMAT`] of the program that wrote it.
    pub format: u32,
    /// The batch's number.
    pub batch: u64,
    /// The generation it was run in.
    pub generation: u64,
    /// The number of the log entry that commits it: unique over generations and runners.
    pub sequence: u64,
    /// The version it goes on from; none is the beginning.
    pub parent: Option<String>,
    /// Per table that is read, per partition: all partitions known so far, moved or not.
    pub sources: BTreeMap<String, BTreeMap<i32, SourceProgress>>,
    /// Offsets that the topics no longer had and that were skipped because the user said so.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub skipped: BTreeMap<String, BTreeMap<i32, SourceProgress>>,
    /// Records read.
    pub rows_in: u64,
    /// Rows that the sink acknowledged.
    pub rows_out: u64,
    /// Paths of the files that the batch adds to a Delta table.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub files: Vec<String>,
    /// Records that could not be decoded and were set aside.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub dead_letters: Vec<DeadLetter>,
    /// When the batch began, in milliseconds since 1970 UTC.
    pub started_at: i64,
    /// How long it took up to here, in milliseconds.
    pub took: u64,
}

impl BatchVersion {
    /// Where the next batch begins in a partition of a table; `None`: it is new.
    pub fn next_offset(&self, table: &str, partition: i32) -> Option<i64> {
        self.sources.get(table)?.get(&partition).map(|at| at.end)
    }
}
