//! Version of a job: the positions of all sources after a batch, and all else that the next batch builds on.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::core::jobs::clock::ClockReading;
use crate::core::jobs::identity::{Identity, RecordMark};
use crate::core::jobs::watermark::JobTime;

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

/// A file of keyed state.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StateFile {
    /// Its name in the job's folder.
    pub name: String,
    /// True if it holds the whole state; otherwise it holds the state of the keys that a batch touched.
    pub is_snapshot: bool,
    /// The watermark by which the batch closed windows: rows of this and earlier files that were final by then have left the
    /// state.
    pub closed_by: Option<i64>,
    /// Rows in it.
    pub rows: u64,
    /// Its size.
    pub bytes: u64,
    /// The checksum of its bytes; none if the file was written without one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub crc32: Option<u32>,
}

/// A version: the state of the job after a batch.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct BatchVersion {
    /// [`FORMAT`] of the program that wrote it.
    pub format: u32,
    /// The batch's number.
    pub batch: u64,
    /// The generation it was run in.
    pub generation: u64,
    /// The number of the log entry that commits it: unique over generations and runners.
    pub sequence: u64,
    /// The version it builds on; none for the first one.
    pub parent: Option<String>,
    /// Per table that is read, per partition: all partitions known so far, moved or not.
    pub sources: BTreeMap<String, BTreeMap<i32, SourceProgress>>,
    /// Offsets that the topics no longer had and that were skipped with the user's permission.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub skipped: BTreeMap<String, BTreeMap<i32, SourceProgress>>,
    /// Identity of each source (IDENT-1); versions of earlier releases do not store it.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub identities: BTreeMap<String, Identity>,
    /// The last record read of each partition, by table.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub marks: BTreeMap<String, BTreeMap<i32, RecordMark>>,
    /// Identity of the sink.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sink: Option<Identity>,
    /// Records read.
    pub rows_in: u64,
    /// Bytes of their keys and values.
    #[serde(default)]
    pub bytes_in: u64,
    /// Rows that the sink acknowledged.
    pub rows_out: u64,
    /// Where its rows are in the partitions of a topic.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub published: BTreeMap<i32, SourceProgress>,
    /// Paths of the files that the batch adds to a Delta table.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub files: Vec<String>,
    /// Records that could not be decoded and were set aside.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub dead_letters: Vec<DeadLetter>,
    /// Watermarks, of a job with windows.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub time: Option<JobTime>,
    /// Files of the keyed state in the order to read them: a snapshot, if there is one, then the changes since.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub state: Vec<StateFile>,
    /// The fingerprint of the job's stateful part: a job with another one cannot continue from this state.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fingerprint: Option<String>,
    /// Rows that came too late for a window, kept in a file of the version's name.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub late_rows: u64,
    /// The checksum of that file; none if it was written without one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub late_crc32: Option<u32>,
    /// The job's clock when the sources were checked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub clock: Option<ClockReading>,
    /// Of a job with windows: how long each partition had had no record to read by then, in milliseconds, by table.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub silent: BTreeMap<String, BTreeMap<i32, u64>>,
    /// When the batch began by the wall clock, in milliseconds since 1970 UTC.
    pub started_at: i64,
    /// How long it took up to here, in milliseconds.
    pub took: u64,
}

#[expect(
    clippy::trivially_copy_pass_by_ref,
    reason = "serde hands in references"
)]
fn is_zero(number: &u64) -> bool {
    *number == 0
}

impl BatchVersion {
    /// How many records the next batch may have so that they are about `max_bytes`: records are taken to be as large as
    /// those of this batch.
    pub fn rows_within(&self, max_bytes: u64) -> u64 {
        match self.bytes_in.checked_div(self.rows_in) {
            Some(bytes) => (max_bytes / bytes.max(1)).max(1),
            None => u64::MAX,
        }
    }

    /// The offset where the next batch begins in a partition of a table; `None` for a new partition.
    pub fn next_offset(&self, table: &str, partition: i32) -> Option<i64> {
        self.sources.get(table)?.get(&partition).map(|at| at.end)
    }
}
