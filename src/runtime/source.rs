//! The trait of a source: what a runner asks of a table that its job reads, and the plan of what a batch reads of it.

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::sync::Arc;

use async_trait::async_trait;

use crate::core::jobs::{
    BatchVersion, Identity, PartitionEnds, PlannedRange, RecordMark, SourceProgress,
};
use crate::error::Result;
use crate::streaming::BatchSource;
use crate::tables::bad_records::SetAside;
use crate::tables::time::BatchTime;

/// The sources of a job, by table name.
pub(super) type JobSources = BTreeMap<String, Box<dyn JobSource>>;

/// What a job's sources have for its next batch, by table name.
pub(super) type SourcePlans = BTreeMap<String, SourcePlan>;

/// A table that a job reads batch by batch. A source keeps connections and caches, but not what a batch reads: that is the plan.
#[async_trait]
pub(super) trait JobSource: Debug + Send + Sync {
    /// Identity of the table now (IDENT-1).
    ///
    /// # Errors
    ///
    /// The table is gone, or does not answer.
    async fn identity(&self) -> Result<Identity>;

    /// The partitions that have another record at the place of the one that was read last.
    ///
    /// # Errors
    ///
    /// The table does not answer.
    async fn other_records(&self, marks: &BTreeMap<i32, RecordMark>) -> Result<Vec<i32>>;

    /// Whether a partition with these ends can still show the record at an offset. By default it shows those that it keeps.
    fn still_has_record(&self, offset: i64, ends: &PartitionEnds) -> bool {
        (ends.low..ends.high).contains(&offset)
    }

    /// What the table has for the next batch.
    ///
    /// # Errors
    ///
    /// The table does not answer; LOSS-1: the next records are lost, and the job may not skip them.
    async fn plan(&self, look: SourcePoll<'_>) -> Result<SourcePlan>;

    /// The topic, if each record has an offset of its own by which it can be named and set aside.
    fn topic(&self) -> Option<&str> {
        None
    }
}

/// Input for the plan of a source.
#[derive(Debug, Clone, Copy)]
pub(super) struct SourcePoll<'a> {
    /// The table's name.
    pub(super) table: &'a str,
    /// The last version of the job; none if the job has read nothing from the present source.
    pub(super) last: Option<&'a BatchVersion>,
    /// How many records the next batch may have.
    pub(super) max_rows: u64,
    /// Lost offsets that the job may skip, by partition.
    pub(super) skipping: Option<&'a BTreeMap<i32, SourceProgress>>,
    /// Where the job began in the table, by partition, before it was rewound to its beginning.
    pub(super) began_at: Option<&'a BTreeMap<i32, i64>>,
    /// Whether the source replaces another one, which the job has read: offsets of that one do not apply to it (IDENT-1).
    pub(super) is_replacement: bool,
}

impl SourcePoll<'_> {
    /// Whether the job has read nothing of the table, so that it decides where it begins.
    pub(super) fn is_first(&self) -> bool {
        self.last
            .is_none_or(|last| !last.sources.contains_key(self.table))
    }
}

/// What a source has for the next batch, as of one look. A value: the batch is made of it alone, however often the source is
/// looked at meanwhile.
#[derive(Debug, Clone)]
pub(super) struct SourcePlan {
    /// Where every partition starts and ends, new ones included.
    pub(super) ends: Vec<PartitionEnds>,
    /// The ranges of the next batch, one of each partition, if the source itself chooses them: each is read as a whole, or not at all.
    pub(super) chosen: Option<Vec<PlannedRange>>,
    /// Where a job that never read the table begins, by partition; `None`, and partitions that are not in it: at the first
    /// record.
    pub(super) begins_at: Option<BTreeMap<i32, i64>>,
    /// Whether the record that was read last is checked before this batch too, and not only when a run begins: a table that is
    /// restored and written to again keeps its id.
    pub(super) checks_marks: bool,
    /// Makes the batch.
    pub(super) reader: Arc<dyn PlanReader>,
}

/// What a plan reads with: all that its source has given it for the batch.
pub(super) trait PlanReader: Debug + Send + Sync {
    /// The table as a batch sees it that reads these ranges.
    ///
    /// # Errors
    ///
    /// The table cannot be read; a range that the plan does not have.
    fn batch(&self, read: Read<'_>) -> Result<BatchSource>;
}

/// What a batch reads of a plan.
#[derive(Debug, Clone)]
pub(super) struct Read<'a> {
    /// The table's name in the job.
    pub(super) table: &'a str,
    /// The ranges of its partitions.
    pub(super) ranges: &'a [PlannedRange],
    /// With it, rows carry their time in the hidden column.
    pub(super) time: Option<Arc<BatchTime>>,
    /// Records that become dead letters.
    pub(super) aside: Option<Arc<SetAside>>,
}

impl Read<'_> {
    /// The ranges that the scans report: those that are not empty.
    pub(super) fn reported(&self) -> Vec<PlannedRange> {
        let ranges = self.ranges.iter();
        let reported = ranges.filter(|range| range.end > range.start);
        reported.copied().collect()
    }
}
