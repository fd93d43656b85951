//! Ends of the partitions of a source, as of one look.

/// A partition of a source and where it starts and ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PartitionEnds {
    /// The partition.
    pub partition: i32,
    /// The first offset kept.
    pub low: i64,
    /// The last stable offset: where a reader of committed records ends.
    pub high: i64,
    /// The high watermark. Beyond the last stable offset, a transaction is open.
    pub latest: i64,
    /// The number of records to be read, if it is not the difference of offsets.
    pub unread: Option<u64>,
    /// Of a source with a hole at `high`: the first offset behind the hole. The offsets between are lost.
    pub behind_hole: Option<i64>,
}

impl PartitionEnds {
    /// Whether the log has no record at or after `next`, and none that is about to become stable (TIME-1).
    pub fn is_at_end(&self, next: i64) -> bool {
        next == self.high && self.high == self.latest
    }
}
