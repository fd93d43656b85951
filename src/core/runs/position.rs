//! Where a run stands, by the versions of its chunks.
//!
//! A version says what each source has read of each partition. A source that is read by offsets has its partitions there. One that is
//! read by event time has a single one, [`TIME_AXIS`], whose offsets are instants: all sources of a run share the axis of its chunks.

use super::emission::Emission;
use super::offset_chunks::advanced;
use super::offset_set::OffsetSet;
use super::time_range::{TimeRange, time_text};
use crate::core::jobs::log::JobHistory;
use crate::core::jobs::progress::{Gaps, SourceProgress};
use crate::core::jobs::run_event::ChunkExtent;
use crate::core::jobs::version::BatchVersion;

/// The partition of a source that is read by event time.
pub const TIME_AXIS: i32 = 0;

/// What the version of a chunk by event time says about each source, for a run that stands at `position`. A chunk that begins another
/// range covers what lies between the two as well, and reads nothing there: so each chunk begins where the one before has ended, and
/// nothing counts as skipped.
pub fn chunk_progress(position: Option<i64>, range: TimeRange) -> SourceProgress {
    SourceProgress {
        start: position.unwrap_or(range.from()),
        end: range.to(),
    }
}

/// What the chunk of a version covers. None if the version is not one of such a run.
pub fn chunk_extent(emission: &Emission, version: &BatchVersion) -> Option<ChunkExtent> {
    match emission {
        Emission::Offsets(_) => Some(ChunkExtent::Offsets(version.sources.clone())),
        Emission::Time(_) => {
            let mut sources = version.sources.values();
            let SourceProgress { start, end } = *sources.next()?.get(&TIME_AXIS)?;
            let is_same = sources
                .all(|source| source.get(&TIME_AXIS) == Some(&SourceProgress { start, end }));
            is_same.then_some(ChunkExtent::Time {
                from: start,
                to: end,
            })
        }
    }
}

/// The instant where a run by event time stands after a chunk.
pub fn position_of(last: Option<&ChunkExtent>) -> Option<i64> {
    match last? {
        ChunkExtent::Time { to, .. } => Some(*to),
        ChunkExtent::Offsets(_) => None,
    }
}

/// What a chunk covers, for the user.
pub fn extent_text(extent: &ChunkExtent) -> String {
    match extent {
        ChunkExtent::Time { from, to } => format!("{} to {}", time_text(*from), time_text(*to)),
        ChunkExtent::Offsets(tables) => OffsetSet::read_by(tables).to_string(),
    }
}

/// Where the comparison of a run with the published rows stands: the last chunk that was compared, and of a run by offsets the
/// position in each partition.
pub fn compared_to(history: &JobHistory) -> (Option<&ChunkExtent>, Gaps) {
    let chunks = history.run.iter().flat_map(|run| &run.compared);
    let mut position = Gaps::new();
    let mut last = None;
    for chunk in chunks {
        if let ChunkExtent::Offsets(of) = &chunk.extent {
            position = advanced(position, of);
        }
        last = Some(&chunk.extent);
    }
    (last, position)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::jobs::{ChangeCounts, ComparedChunk, LogEntry, RunEvent};

    #[test]
    fn a_chunk_is_shown_by_its_range() {
        let hour = ChunkExtent::Time {
            from: 0,
            to: 3_600_000_000,
        };
        let text = "1970-01-01T00:00:00Z to 1970-01-01T01:00:00Z";
        assert_eq!(extent_text(&hour), text);
        let read = |start, end| SourceProgress { start, end };
        let offsets = Gaps::from([(
            "t".to_owned(),
            [(0, read(3, 9)), (1, read(4, 4)), (2, read(1, 2))].into(),
        )]);
        let text = extent_text(&ChunkExtent::Offsets(offsets));
        assert_eq!(text, "t 0: 3 to 9, t 2: 1 to 2");
    }

    fn version(progress: &[(&str, i32, i64, i64)]) -> BatchVersion {
        let mut sources = Gaps::new();
        for (table, partition, start, end) in progress {
            let of_table = sources.entry((*table).to_owned()).or_default();
            let progress = SourceProgress {
                start: *start,
                end: *end,
            };
            of_table.insert(*partition, progress);
        }
        BatchVersion {
            sources,
            ..BatchVersion::default()
        }
    }

    #[test]
    fn a_version_says_what_its_chunk_covers() {
        let range = TimeRange::try_new(5, 9).unwrap();
        let own = SourceProgress { start: 5, end: 9 };
        assert_eq!(chunk_progress(None, range), own);
        assert_eq!(chunk_progress(Some(5), range), own);
        let beyond = SourceProgress { start: 2, end: 9 };
        assert_eq!(chunk_progress(Some(2), range), beyond);
        let by_time = Emission::Time(range.into());
        let extent = chunk_extent(&by_time, &version(&[("t", 0, 5, 9), ("u", 0, 5, 9)]));
        assert_eq!(extent, Some(ChunkExtent::Time { from: 5, to: 9 }));
        assert_eq!(position_of(extent.as_ref()), Some(9));
        for other in [
            version(&[]),
            version(&[("t", 1, 5, 9)]),
            version(&[("t", 0, 5, 9), ("u", 0, 5, 8)]),
        ] {
            assert_eq!(chunk_extent(&by_time, &other), None);
        }
        let by_offsets = Emission::Offsets(OffsetSet::default());
        let read = version(&[("t", 3, 5, 9)]);
        let extent = chunk_extent(&by_offsets, &read);
        assert_eq!(extent, Some(ChunkExtent::Offsets(read.sources)));
        assert_eq!(position_of(extent.as_ref()), None);
    }

    #[test]
    fn the_comparison_goes_on_where_it_stands() {
        let compared = |extent| LogEntry::Run {
            event: RunEvent::Compared(ComparedChunk {
                extent,
                counts: ChangeCounts::default(),
                changes: None,
                left: Default::default(),
            }),
            at: 1,
        };
        let created = LogEntry::Created {
            name: "r".into(),
            text: String::new(),
            tables: vec![],
            at: 0,
        };
        let of = |table, partition, start, end| {
            ChunkExtent::Offsets(version(&[(table, partition, start, end)]).sources)
        };
        let log = [
            created,
            compared(of("t", 0, 1, 5)),
            compared(of("t", 1, 0, 2)),
            compared(of("t", 0, 5, 7)),
        ];
        let history = JobHistory::of(&log).unwrap();
        let (last, position) = compared_to(&history);
        assert_eq!(last, Some(&of("t", 0, 5, 7)));
        let end = |partition| position["t"][&partition].end;
        assert_eq!((end(0), end(1)), (7, 2));
        let none = JobHistory::of(&log[..1]).unwrap();
        assert_eq!(compared_to(&none), (None, Gaps::new()));
    }
}
