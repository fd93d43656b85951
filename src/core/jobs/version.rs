//! Version of a job: the positions of all sources after a batch, and all else that the next batch builds on.

use std::collections::BTreeMap;

use super::progress::SourceProgress;
use crate::core::jobs::clock::ClockReading;
use crate::core::jobs::identity::{Identity, RecordMark};
use crate::core::jobs::left_groups::LeftGroups;
use crate::core::jobs::run_event::ChangeCounts;
use crate::core::jobs::watermark::JobTime;

/// The id of the operator that keeps the aggregate of a job: the one stateful operator that a job has today.
pub const AGGREGATE: &str = "aggregate";

/// A record that could not be decoded.
#[derive(Debug, Clone, PartialEq, Eq)]
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
#[derive(Debug, Clone, PartialEq, Eq)]
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
    /// The checksum of its bytes; none of files that were written without.
    pub crc32: Option<u32>,
}

/// The keyed state of one operator.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct OperatorState {
    /// What the state was made by: an operator with another one cannot go on from it.
    pub fingerprint: Option<String>,
    /// What makes up the state, in the order to read: a snapshot, if there is one, then what changed since.
    pub files: Vec<StateFile>,
}

/// A version: the job as it is after a batch.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct BatchVersion {
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
    /// Offsets that the topics no longer had and that were skipped because the user said so.
    pub skipped: BTreeMap<String, BTreeMap<i32, SourceProgress>>,
    /// Which topic or table each of them was (IDENT-1); versions of earlier releases do not say.
    pub identities: BTreeMap<String, Identity>,
    /// The last record read of each partition, by table.
    pub marks: BTreeMap<String, BTreeMap<i32, RecordMark>>,
    /// Which topic or table the sink was.
    pub sink: Option<Identity>,
    /// Records read.
    pub rows_in: u64,
    /// Bytes of their keys and values.
    pub bytes_in: u64,
    /// Rows that the sink acknowledged.
    pub rows_out: u64,
    /// Where its rows are in the partitions of a topic.
    pub published: BTreeMap<i32, SourceProgress>,
    /// Paths of the files that the batch adds to a Delta table.
    pub files: Vec<String>,
    /// Records that could not be decoded and were set aside, kept in a file of the version's name.
    pub dead_letters: u64,
    /// The checksum of that file.
    pub dead_letters_crc32: Option<u32>,
    /// These records, of a version of format 1: it has them itself, and no file.
    pub inline_dead_letters: Vec<DeadLetter>,
    /// Watermarks, of a job with windows.
    pub time: Option<JobTime>,
    /// The state of each stateful operator, by the id of the operator.
    pub operators: BTreeMap<String, OperatorState>,
    /// Rows that came too late for a window, kept in a file of the version's name.
    pub late_rows: u64,
    /// The checksum of that file; none if it was written without.
    pub late_crc32: Option<u32>,
    /// Of the chunk of a reprocessing run: the windows and sessions that it has left out.
    pub left: LeftGroups,
    /// Its rows by kind, if they were compared with the published ones when it was written.
    pub compared: Option<ChangeCounts>,
    /// The job's clock when the sources were looked at.
    pub clock: Option<ClockReading>,
    /// Of a job with windows: how long each partition had had nothing to read by then, in milliseconds, by table.
    pub silent: BTreeMap<String, BTreeMap<i32, u64>>,
    /// When the batch began by the wall clock, in milliseconds since 1970 UTC.
    pub started_at: i64,
    /// How long it took up to here, in milliseconds.
    pub took: u64,
}

impl BatchVersion {
    /// The state of an operator; `None` if it keeps none.
    pub fn state_of(&self, operator: &str) -> Option<&OperatorState> {
        self.operators.get(operator)
    }

    /// The files of state of all operators.
    pub fn state_files(&self) -> impl Iterator<Item = &StateFile> {
        self.operators.values().flat_map(|state| &state.files)
    }

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
