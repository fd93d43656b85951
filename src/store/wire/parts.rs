//! What entries, versions and checkpoints have in common.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::core::jobs::{
    AcceptedChange, ChangeCounts, ClockReading, DeadLetter, Gaps, Identity, JobTime, LeftGroup,
    LeftGroups, LeftReason, PartitionTime, RecordMark, ReportedChange, SourceProgress, StateFile,
    SteadyTime, UnfinishedVersion,
};

/// Values by table and partition.
pub(super) type ByPartition<T> = BTreeMap<String, BTreeMap<i32, T>>;

pub(super) fn by_key<K: Ord, T, U: From<T>>(of: BTreeMap<K, T>) -> BTreeMap<K, U> {
    of.into_iter()
        .map(|(key, value)| (key, value.into()))
        .collect()
}

pub(super) fn by_partition<T, U: From<T>>(of: ByPartition<T>) -> ByPartition<U> {
    of.into_iter()
        .map(|(table, partitions)| (table, by_key(partitions)))
        .collect()
}

#[expect(
    clippy::trivially_copy_pass_by_ref,
    reason = "serde hands in references"
)]
pub(super) fn is_zero(number: &u64) -> bool {
    *number == 0
}

/// The windows and sessions that a chunk of a run has left out.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct LeftFile {
    count: u64,
    first: Vec<LeftGroupFile>,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct LeftGroupFile {
    start: i64,
    end: i64,
    key: String,
    reason: LeftReasonFile,
}

#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum LeftReasonFile {
    NotFinal,
    NotWhole,
    Capped,
}

impl LeftFile {
    /// None if nothing was left out.
    pub(super) fn of(left: &LeftGroups) -> Option<Self> {
        let first = left.first().iter().map(|group| LeftGroupFile {
            start: group.start,
            end: group.end,
            key: group.key.clone(),
            reason: match group.reason {
                LeftReason::NotFinal => LeftReasonFile::NotFinal,
                LeftReason::NotWhole => LeftReasonFile::NotWhole,
                LeftReason::Capped => LeftReasonFile::Capped,
            },
        });
        let count = left.count();
        (count > 0).then(|| Self {
            count,
            first: first.collect(),
        })
    }
}

impl From<LeftFile> for LeftGroups {
    fn from(of: LeftFile) -> Self {
        let first = of.first.into_iter().map(|group| LeftGroup {
            start: group.start,
            end: group.end,
            key: group.key,
            reason: match group.reason {
                LeftReasonFile::NotFinal => LeftReason::NotFinal,
                LeftReasonFile::NotWhole => LeftReason::NotWhole,
                LeftReasonFile::Capped => LeftReason::Capped,
            },
        });
        Self::of(of.count, first)
    }
}

/// Rows by how they compare with the published ones.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct CountsFile {
    #[serde(default, skip_serializing_if = "is_zero")]
    same: u64,
    #[serde(default, skip_serializing_if = "is_zero")]
    changed: u64,
    #[serde(default, skip_serializing_if = "is_zero")]
    new: u64,
    #[serde(default, skip_serializing_if = "is_zero")]
    gone: u64,
    #[serde(default, skip_serializing_if = "is_zero")]
    unknown: u64,
}

impl From<ChangeCounts> for CountsFile {
    fn from(of: ChangeCounts) -> Self {
        Self {
            same: of.same,
            changed: of.changed,
            new: of.new,
            gone: of.gone,
            unknown: of.unknown,
        }
    }
}

impl From<CountsFile> for ChangeCounts {
    fn from(of: CountsFile) -> Self {
        Self {
            same: of.same,
            changed: of.changed,
            new: of.new,
            gone: of.gone,
            unknown: of.unknown,
        }
    }
}

/// Offsets from `start` on, before `end`.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ProgressFile {
    start: i64,
    end: i64,
}

impl From<SourceProgress> for ProgressFile {
    fn from(SourceProgress { start, end }: SourceProgress) -> Self {
        Self { start, end }
    }
}

impl From<ProgressFile> for SourceProgress {
    fn from(ProgressFile { start, end }: ProgressFile) -> Self {
        Self { start, end }
    }
}

/// Offsets of one partition, in a list: a member that is chosen by a tag cannot have numbers for names.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct GapFile {
    table: String,
    partition: i32,
    start: i64,
    end: i64,
}

pub(super) fn gap_list(gaps: &Gaps) -> Vec<GapFile> {
    let of_table = |(table, partitions): (&String, &BTreeMap<i32, SourceProgress>)| {
        let gap = |(partition, gap): (&i32, &SourceProgress)| GapFile {
            table: table.clone(),
            partition: *partition,
            start: gap.start,
            end: gap.end,
        };
        partitions.iter().map(gap).collect::<Vec<_>>()
    };
    gaps.iter().flat_map(of_table).collect()
}

pub(super) fn gaps_of(list: Vec<GapFile>) -> Gaps {
    let mut gaps = Gaps::new();
    for gap in list {
        let progress = SourceProgress {
            start: gap.start,
            end: gap.end,
        };
        gaps.entry(gap.table)
            .or_default()
            .insert(gap.partition, progress);
    }
    gaps
}

/// Which topic or table a source or a sink is.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
pub(super) enum IdentityFile {
    Topic {
        topic: String,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        cluster: Option<String>,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        id: Option<String>,
    },
    DeltaTable {
        location: String,
        id: String,
    },
}

impl From<Identity> for IdentityFile {
    fn from(of: Identity) -> Self {
        match of {
            Identity::Topic { topic, cluster, id } => Self::Topic { topic, cluster, id },
            Identity::DeltaTable { location, id } => Self::DeltaTable { location, id },
        }
    }
}

impl From<IdentityFile> for Identity {
    fn from(of: IdentityFile) -> Self {
        match of {
            IdentityFile::Topic { topic, cluster, id } => Self::Topic { topic, cluster, id },
            IdentityFile::DeltaTable { location, id } => Self::DeltaTable { location, id },
        }
    }
}

/// The last record read of a partition.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct MarkFile {
    offset: i64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    timestamp: Option<i64>,
    checksum: u64,
}

impl From<RecordMark> for MarkFile {
    fn from(of: RecordMark) -> Self {
        Self {
            offset: of.offset,
            timestamp: of.timestamp,
            checksum: of.checksum,
        }
    }
}

impl From<MarkFile> for RecordMark {
    fn from(of: MarkFile) -> Self {
        Self {
            offset: of.offset,
            timestamp: of.timestamp,
            checksum: of.checksum,
        }
    }
}

/// What a job has reported.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ReportedFile {
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    lost: Vec<GapFile>,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    others: BTreeMap<String, IdentityFile>,
}

impl From<ReportedChange> for ReportedFile {
    fn from(of: ReportedChange) -> Self {
        Self {
            lost: gap_list(&of.lost),
            others: by_key(of.others),
        }
    }
}

impl From<ReportedFile> for ReportedChange {
    fn from(of: ReportedFile) -> Self {
        Self {
            lost: gaps_of(of.lost),
            others: by_key(of.others),
        }
    }
}

/// What the user has said of a table that is another one than it was.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct AcceptedFile {
    identity: IdentityFile,
    is_moved: bool,
}

impl From<AcceptedChange> for AcceptedFile {
    fn from(of: AcceptedChange) -> Self {
        Self {
            identity: of.identity.into(),
            is_moved: of.is_moved,
        }
    }
}

impl From<AcceptedFile> for AcceptedChange {
    fn from(of: AcceptedFile) -> Self {
        Self {
            identity: of.identity.into(),
            is_moved: of.is_moved,
        }
    }
}

/// What one partition has reached.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct PartitionTimeFile {
    watermark: Option<i64>,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    idle: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    unfinished: Option<UnfinishedFile>,
}

/// What the files read so far of a version of a table bring.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct UnfinishedFile {
    version: u64,
    watermark: i64,
}

impl From<PartitionTime> for PartitionTimeFile {
    fn from(of: PartitionTime) -> Self {
        Self {
            watermark: of.watermark,
            idle: of.idle,
            unfinished: of.unfinished.map(|of| UnfinishedFile {
                version: of.version,
                watermark: of.watermark,
            }),
        }
    }
}

impl From<PartitionTimeFile> for PartitionTime {
    fn from(of: PartitionTimeFile) -> Self {
        Self {
            watermark: of.watermark,
            idle: of.idle,
            unfinished: of.unfinished.map(|of| UnfinishedVersion {
                version: of.version,
                watermark: of.watermark,
            }),
        }
    }
}

/// Time as it is after a batch.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct TimeFile {
    partitions: ByPartition<PartitionTimeFile>,
    watermark: Option<i64>,
    closed_by: Option<i64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    clock: Option<i64>,
}

impl From<JobTime> for TimeFile {
    fn from(of: JobTime) -> Self {
        Self {
            partitions: by_partition(of.partitions),
            watermark: of.watermark,
            closed_by: of.closed_by,
            clock: of.clock,
        }
    }
}

impl From<TimeFile> for JobTime {
    fn from(of: TimeFile) -> Self {
        Self {
            partitions: by_partition(of.partitions),
            watermark: of.watermark,
            closed_by: of.closed_by,
            clock: of.clock,
        }
    }
}

/// The job's clock when the sources were looked at.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ClockFile {
    at: i64,
    steady: SteadyFile,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct SteadyFile {
    boot: String,
    at: u64,
}

impl From<ClockReading> for ClockFile {
    fn from(of: ClockReading) -> Self {
        Self {
            at: of.at,
            steady: SteadyFile {
                boot: of.steady.boot,
                at: of.steady.at,
            },
        }
    }
}

impl From<ClockFile> for ClockReading {
    fn from(of: ClockFile) -> Self {
        Self {
            at: of.at,
            steady: SteadyTime {
                boot: of.steady.boot,
                at: of.steady.at,
            },
        }
    }
}

/// A file of keyed state.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct StateFileName {
    name: String,
    is_snapshot: bool,
    closed_by: Option<i64>,
    rows: u64,
    bytes: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    crc32: Option<u32>,
}

impl From<StateFile> for StateFileName {
    fn from(of: StateFile) -> Self {
        Self {
            name: of.name,
            is_snapshot: of.is_snapshot,
            closed_by: of.closed_by,
            rows: of.rows,
            bytes: of.bytes,
            crc32: of.crc32,
        }
    }
}

impl From<StateFileName> for StateFile {
    fn from(of: StateFileName) -> Self {
        Self {
            name: of.name,
            is_snapshot: of.is_snapshot,
            closed_by: of.closed_by,
            rows: of.rows,
            bytes: of.bytes,
            crc32: of.crc32,
        }
    }
}

/// A dead letter as format 1 had it in versions and packs: bytes are lists of numbers.
#[derive(Debug, Clone, Deserialize)]
pub(in crate::store) struct DeadLetterFile {
    table: String,
    topic: String,
    partition: i32,
    offset: i64,
    timestamp: Option<i64>,
    key: Option<Vec<u8>>,
    value: Option<Vec<u8>>,
    reason: String,
}

impl From<DeadLetterFile> for DeadLetter {
    fn from(of: DeadLetterFile) -> Self {
        Self {
            table: of.table,
            topic: of.topic,
            partition: of.partition,
            offset: of.offset,
            timestamp: of.timestamp,
            key: of.key,
            value: of.value,
            reason: of.reason,
        }
    }
}
