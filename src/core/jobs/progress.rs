//! Ranges of offsets that jobs read or lose.

use std::collections::BTreeMap;

/// Offsets that a batch read from one partition of a topic.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SourceProgress {
    /// The first offset of the batch.
    pub start: i64,
    /// Where the next batch begins.
    pub end: i64,
}

/// One offset by table and partition.
pub type Offsets = BTreeMap<String, BTreeMap<i32, i64>>;

/// Ranges of offsets by table and partition.
pub type Gaps = BTreeMap<String, BTreeMap<i32, SourceProgress>>;
