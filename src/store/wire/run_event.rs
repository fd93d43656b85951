//! Events of reprocessing runs in entries and checkpoints.

use serde::{Deserialize, Serialize};

use super::parts::{GapFile, LeftFile, gap_list, gaps_of, is_zero};
use crate::core::jobs::{
    ChangeCounts, ChangesFile, ChunkExtent, ComparedChunk, RunEvent, RunHistory, RunStage,
};

/// An event of a run.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum EventFile {
    Compared(ComparedFile),
    Planned,
    Approved,
    Completed,
    Aborted,
    Swept,
}

/// A chunk whose rows were compared with the published ones.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ComparedFile {
    extent: ExtentFile,
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
    #[serde(default, skip_serializing_if = "Option::is_none")]
    changes: Option<ChangesName>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    left: Option<LeftFile>,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
enum ExtentFile {
    Time { from: i64, to: i64 },
    Offsets(Vec<GapFile>),
}

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct ChangesName {
    name: String,
    rows: u64,
    crc32: u32,
}

/// What follows from the events of a run.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RunFile {
    stage: StageFile,
    since: i64,
    compared: Vec<ComparedFile>,
}

#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum StageFile {
    Planning,
    Planned,
    Approved,
    Completed,
    Aborted,
}

impl From<RunEvent> for EventFile {
    fn from(of: RunEvent) -> Self {
        match of {
            RunEvent::Compared(chunk) => Self::Compared(chunk.into()),
            RunEvent::Planned => Self::Planned,
            RunEvent::Approved => Self::Approved,
            RunEvent::Completed => Self::Completed,
            RunEvent::Aborted => Self::Aborted,
            RunEvent::Swept => Self::Swept,
        }
    }
}

impl From<EventFile> for RunEvent {
    fn from(of: EventFile) -> Self {
        match of {
            EventFile::Compared(chunk) => Self::Compared(chunk.into()),
            EventFile::Planned => Self::Planned,
            EventFile::Approved => Self::Approved,
            EventFile::Completed => Self::Completed,
            EventFile::Aborted => Self::Aborted,
            EventFile::Swept => Self::Swept,
        }
    }
}

impl From<ComparedChunk> for ComparedFile {
    fn from(of: ComparedChunk) -> Self {
        let ChangeCounts {
            same,
            changed,
            new,
            gone,
            unknown,
        } = of.counts;
        Self {
            left: LeftFile::of(&of.left),
            extent: match of.extent {
                ChunkExtent::Time { from, to } => ExtentFile::Time { from, to },
                ChunkExtent::Offsets(gaps) => ExtentFile::Offsets(gap_list(&gaps)),
            },
            same,
            changed,
            new,
            gone,
            unknown,
            changes: of.changes.map(|of| ChangesName {
                name: of.name,
                rows: of.rows,
                crc32: of.crc32,
            }),
        }
    }
}

impl From<ComparedFile> for ComparedChunk {
    fn from(of: ComparedFile) -> Self {
        Self {
            extent: match of.extent {
                ExtentFile::Time { from, to } => ChunkExtent::Time { from, to },
                ExtentFile::Offsets(list) => ChunkExtent::Offsets(gaps_of(list)),
            },
            counts: ChangeCounts {
                same: of.same,
                changed: of.changed,
                new: of.new,
                gone: of.gone,
                unknown: of.unknown,
            },
            changes: of.changes.map(|of| ChangesFile {
                name: of.name,
                rows: of.rows,
                crc32: of.crc32,
            }),
            left: of.left.map(Into::into).unwrap_or_default(),
        }
    }
}

impl From<RunHistory> for RunFile {
    fn from(of: RunHistory) -> Self {
        Self {
            stage: match of.stage {
                RunStage::Planning => StageFile::Planning,
                RunStage::Planned => StageFile::Planned,
                RunStage::Approved => StageFile::Approved,
                RunStage::Completed => StageFile::Completed,
                RunStage::Aborted => StageFile::Aborted,
            },
            since: of.since,
            compared: of.compared.into_iter().map(Into::into).collect(),
        }
    }
}

impl From<RunFile> for RunHistory {
    fn from(of: RunFile) -> Self {
        Self {
            stage: match of.stage {
                StageFile::Planning => RunStage::Planning,
                StageFile::Planned => RunStage::Planned,
                StageFile::Approved => RunStage::Approved,
                StageFile::Completed => RunStage::Completed,
                StageFile::Aborted => RunStage::Aborted,
            },
            since: of.since,
            compared: of.compared.into_iter().map(Into::into).collect(),
        }
    }
}

/// Every kind of event.
#[cfg(test)]
pub(super) fn every_event() -> Vec<RunEvent> {
    use crate::core::jobs::{LeftGroup, LeftGroups, LeftReason, SourceProgress};

    let chunk = |extent, changes| {
        RunEvent::Compared(ComparedChunk {
            extent,
            counts: ChangeCounts {
                same: 1,
                changed: 2,
                new: 3,
                gone: 4,
                unknown: 5,
            },
            changes,
            left: LeftGroups::of(
                7,
                [LeftGroup {
                    start: 1,
                    end: 2,
                    key: "k = 1".into(),
                    reason: LeftReason::Capped,
                }],
            ),
        })
    };
    let offsets = [(
        "t".to_owned(),
        [(7, SourceProgress { start: 3, end: 9 })].into(),
    )];
    let changes = ChangesFile {
        name: "0000000001-a".into(),
        rows: 9,
        crc32: 5,
    };
    vec![
        chunk(ChunkExtent::Time { from: -5, to: 9 }, Some(changes)),
        chunk(ChunkExtent::Offsets(offsets.into()), None),
        RunEvent::Planned,
        RunEvent::Approved,
        RunEvent::Completed,
        RunEvent::Aborted,
        RunEvent::Swept,
    ]
}
