//! Events that only the log of a reprocessing run has, and what follows from them. Everything else in that log is as in the log of
//! a job: the run is created, taken over, paused by a failure and resumed, and each chunk in its sink is a committed batch.

use super::left_groups::LeftGroups;
use super::progress::Gaps;

/// An event of a run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RunEvent {
    /// The rows of a chunk were computed and compared with the published ones. The sink got none of them.
    Compared(ComparedChunk),
    /// All chunks were compared: the plan is complete.
    Planned,
    /// The run may write to its sink: `APPLY RUN`, or `REPROCESS JOB`, which plans and applies at once.
    Approved,
    /// The sink has all chunks.
    Completed,
    /// `ABORT RUN`: the run ends here. Chunks that were committed stay in the sink.
    Aborted,
    /// The run has ended long ago: the rows that differed are no longer kept.
    Swept,
}

/// What a chunk covers, and where the next one begins.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ChunkExtent {
    /// Event times `from..to`, in microseconds since 1970 UTC.
    Time {
        /// The first instant.
        from: i64,
        /// The first instant of the next chunk.
        to: i64,
    },
    /// Offsets of each partition of each table.
    Offsets(Gaps),
}

impl ChunkExtent {
    /// Whether this chunk begins where those of `before`, in order, have ended. Event times may leave out what lies between two ranges of
    /// the run.
    pub fn follows<'a>(
        &self,
        mut before: impl DoubleEndedIterator<Item = &'a Self> + Clone,
    ) -> bool {
        match self {
            Self::Time { from, .. } => before.next_back().is_none_or(|last| match last {
                Self::Time { to, .. } => from >= to,
                Self::Offsets(_) => false,
            }),
            Self::Offsets(own) => own.iter().all(|(table, partitions)| {
                partitions.iter().all(|(partition, own)| {
                    let end = |before: &Self| match before {
                        Self::Time { .. } => None,
                        Self::Offsets(of) => Some(of.get(table)?.get(partition)?.end),
                    };
                    let last = before.clone().rev().find_map(end);
                    last.is_none_or(|last| last == own.start)
                })
            }),
        }
    }
}

/// How many rows are of each kind, compared with the published rows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct ChangeCounts {
    /// Published with the same values.
    pub same: u64,
    /// Published with other values.
    pub changed: u64,
    /// Not published.
    pub new: u64,
    /// Published, and the run has no row of this key.
    pub gone: u64,
    /// Computed, and the sink may have lost the published row of its key.
    pub unknown: u64,
}

impl ChangeCounts {
    /// The counts of both.
    #[must_use]
    pub fn plus(self, other: Self) -> Self {
        Self {
            same: self.same + other.same,
            changed: self.changed + other.changed,
            new: self.new + other.new,
            gone: self.gone + other.gone,
            unknown: self.unknown + other.unknown,
        }
    }
}

/// The file with the rows of a chunk that differ from the published ones.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ChangesFile {
    /// Its name in the run's folder.
    pub name: String,
    /// Its rows.
    pub rows: u64,
    /// The checksum of its bytes.
    pub crc32: u32,
}

/// A chunk whose rows were compared with the published ones.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ComparedChunk {
    /// What it covers.
    pub extent: ChunkExtent,
    /// Its rows by kind.
    pub counts: ChangeCounts,
    /// The rows that differ; none if all are the same, or if they are no longer kept.
    pub changes: Option<ChangesFile>,
    /// The windows and sessions that it has left out.
    pub left: LeftGroups,
}

/// How far a run has come by its own events.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum RunStage {
    /// Its chunks are being compared.
    #[default]
    Planning,
    /// The plan is complete, and the run may not write.
    Planned,
    /// It may write.
    Approved,
    /// The sink has all of it.
    Completed,
    /// It was given up.
    Aborted,
}

/// What follows from the events of a run.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct RunHistory {
    /// How far it has come.
    pub stage: RunStage,
    /// Since when, in milliseconds since 1970 UTC; 0 before its first event.
    pub since: i64,
    /// The chunks that were compared, in order.
    pub compared: Vec<ComparedChunk>,
}

impl RunHistory {
    /// Takes in the next event, of the time `at`. An event that does not fit the stage changes nothing: a run that has ended stays
    /// as it is, and so does a chunk that was compared.
    pub fn apply(&mut self, event: &RunEvent, at: i64) {
        let next = match (event, self.stage) {
            (RunEvent::Compared(chunk), RunStage::Planning) => {
                let before = self.compared.iter().map(|chunk| &chunk.extent);
                if chunk.extent.follows(before) {
                    self.compared.push(chunk.clone());
                }
                return;
            }
            (RunEvent::Swept, RunStage::Completed | RunStage::Aborted) => {
                for chunk in &mut self.compared {
                    chunk.changes = None;
                }
                return;
            }
            (RunEvent::Planned, RunStage::Planning) => RunStage::Planned,
            (RunEvent::Approved, RunStage::Planning | RunStage::Planned) => RunStage::Approved,
            (RunEvent::Completed, RunStage::Approved) => RunStage::Completed,
            (RunEvent::Aborted, stage) if stage != RunStage::Completed => RunStage::Aborted,
            _ => return,
        };
        if next != self.stage {
            self.stage = next;
            self.since = at;
        }
    }

    /// The rows of all compared chunks by kind.
    pub fn counts(&self) -> ChangeCounts {
        let counts = self.compared.iter().map(|chunk| chunk.counts);
        counts.fold(ChangeCounts::default(), ChangeCounts::plus)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::jobs::progress::SourceProgress;

    fn chunk(from: i64, to: i64) -> ComparedChunk {
        ComparedChunk {
            extent: ChunkExtent::Time { from, to },
            counts: ChangeCounts {
                same: 1,
                new: 2,
                ..ChangeCounts::default()
            },
            changes: None,
            left: LeftGroups::default(),
        }
    }

    #[test]
    fn a_chunk_is_compared_once_and_in_order() {
        let mut run = RunHistory::default();
        for of in [chunk(0, 10), chunk(0, 10), chunk(5, 20), chunk(10, 20)] {
            run.apply(&RunEvent::Compared(of), 1);
        }
        assert_eq!(run.compared, [chunk(0, 10), chunk(10, 20)]);
        assert_eq!((run.counts().same, run.counts().new), (2, 4));
        run.apply(&RunEvent::Planned, 2);
        run.apply(&RunEvent::Compared(chunk(20, 30)), 3);
        assert_eq!((run.compared.len(), run.since), (2, 2));
    }

    #[test]
    fn stages_follow_each_other() {
        use RunEvent::{Aborted, Approved, Completed, Planned};
        for (events, stage) in [
            (&[][..], RunStage::Planning),
            (&[Planned], RunStage::Planned),
            (&[Planned, Approved], RunStage::Approved),
            (&[Approved], RunStage::Approved),
            (&[Planned, Completed], RunStage::Planned),
            (&[Planned, Approved, Planned], RunStage::Approved),
            (&[Planned, Approved, Completed], RunStage::Completed),
            (&[Approved, Completed, Aborted], RunStage::Completed),
            (&[Planned, Aborted, Approved], RunStage::Aborted),
            (&[Approved, Aborted, Completed], RunStage::Aborted),
        ] {
            let mut run = RunHistory::default();
            for event in events {
                run.apply(event, 1);
            }
            assert_eq!(run.stage, stage, "{events:?}");
        }
    }

    #[test]
    fn chunks_of_offsets_follow_each_other_in_each_partition() {
        let extent = |table: &str, start, end| {
            let partitions = [(0, SourceProgress { start, end })];
            ChunkExtent::Offsets([(table.to_owned(), partitions.into())].into())
        };
        let follows = |own: &ChunkExtent, before: &[ChunkExtent]| own.follows(before.iter());
        assert!(follows(&extent("t", 5, 9), &[extent("t", 0, 5)]));
        assert!(!follows(&extent("t", 6, 9), &[extent("t", 0, 5)]));
        let before = [extent("t", 0, 5), extent("u", 0, 3)];
        assert!(!follows(&extent("t", 0, 5), &before));
        assert!(follows(&extent("t", 5, 6), &before));
        assert!(follows(&extent("v", 7, 9), &before));
        let time = ChunkExtent::Time { from: 0, to: 5 };
        assert!(!follows(&time, &before));
        assert!(follows(&ChunkExtent::Time { from: 5, to: 6 }, &[time]));
    }
}
