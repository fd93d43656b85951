//! Which rows a run has repaired: late rows and dead letters of its job whose results it has written again, by its spec and by the
//! chunks that its sink has.
//!
//! A late row with a window is repaired when the chunk that gives the window is in the sink. Of other rows no event time is known: those
//! of a session, and records that were set aside. They are repaired when the run was asked for them, when all of its chunks are in the
//! sink, and when it has left no group out. A record of a job that groups none is repaired as soon as the run has passed its offset.

use anabranch_udfs::AlignedWindows;

use super::chunks::Chunks;
use super::emission::Emission;
use super::finality::Finality;
use super::grouping::Grouping;
use super::offset_set::OffsetSet;
use super::position::{chunk_extent, position_of};
use super::spec::{PinnedAt, RunSpec};
use crate::core::jobs::identity::Identity;
use crate::core::jobs::version::BatchVersion;

/// A run whose sink has at least one of its chunks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RepairingRun {
    spec: RunSpec,
    /// The version of its last chunk.
    last: BatchVersion,
    /// The records that the run has set aside itself.
    set_aside: OffsetSet,
    /// The instant up to which its chunks are in the sink, of a run by event time.
    position: Option<i64>,
    /// All that a run by event time emits is in the sink, and it has left nothing out.
    is_whole: bool,
}

impl RepairingRun {
    /// A run, the version of its last chunk in the sink, whether it may have left a group out, and the records that it could not use
    /// either, by table.
    pub fn new(spec: RunSpec, last: BatchVersion, has_left: bool, set_aside: OffsetSet) -> Self {
        let (position, is_whole) = match &spec.emission {
            Emission::Offsets(_) => (None, false),
            Emission::Time(ranges) => {
                let position = position_of(chunk_extent(&spec.emission, &last).as_ref());
                let is_complete = position.is_some()
                    && Chunks::new(spec.grouping, ranges.clone()).is_complete(position);
                (position, is_complete && !has_left)
            }
        };
        Self {
            spec,
            last,
            set_aside,
            position,
            is_whole,
        }
    }

    /// Its run id.
    pub fn run_id(&self) -> &str {
        &self.spec.run_id
    }

    /// Whether a row stays repaired by it that its job has set aside in a batch of this time, in milliseconds since 1970 UTC. A job that
    /// groups rows may have given the group after the run, and without the row: it was behind when the run was made, or was rewound
    /// since. One that groups none gives no such row.
    pub fn stays_over(&self, at: i64) -> bool {
        matches!(self.spec.emission, Emission::Offsets(_))
            || at.saturating_mul(1_000) <= self.spec.now
    }

    /// Whether it has repaired a row that its job has recorded as late. `window` has start and end of the window that the row missed; a
    /// session has none. If several tables of the job read the topic, it has to be so for each.
    pub fn has_late_row(
        &self,
        topic: &str,
        partition: i32,
        offset: i64,
        window: Option<(i64, i64)>,
    ) -> bool {
        let mut tables = self.tables_of(topic).peekable();
        tables.peek().is_some()
            && tables.all(|table| match (window, self.spec.grouping) {
                (Some(window), Grouping::Aligned(windows)) if is_window(&windows, window) => {
                    self.has_window_of(table, partition, offset, window)
                }
                _ => self.has_groups_of(table, partition, offset),
            })
    }

    /// Whether it has repaired a record of a table that its job has set aside.
    pub fn has_dead_letter(&self, table: &str, partition: i32, offset: i64) -> bool {
        match &self.spec.emission {
            Emission::Offsets(emitted) => {
                let next = self.last.next_offset(table, partition);
                emitted.contains(table, partition, offset)
                    && next.is_some_and(|next| offset < next)
                    && !self.set_aside.contains(table, partition, offset)
            }
            Emission::Time(_) => self.has_groups_of(table, partition, offset),
        }
    }

    /// The tables of the run that read a topic.
    fn tables_of(&self, topic: &str) -> impl Iterator<Item = &str> {
        let sources = self.spec.sources.iter();
        sources.filter_map(move |(table, pin)| match &pin.tail.as_ref()?.identity {
            Identity::Topic { topic: read, .. } => (read == topic).then_some(table.as_str()),
            Identity::DeltaTable { .. } => None,
        })
    }

    /// Whether its sink has a window of the job with this row.
    fn has_window_of(
        &self,
        table: &str,
        partition: i32,
        offset: i64,
        (start, end): (i64, i64),
    ) -> bool {
        let Emission::Time(ranges) = &self.spec.emission else {
            return false;
        };
        let mut ranges = ranges.as_slice().iter();
        ranges.any(|range| range.from() < end && end <= range.to())
            && self.position.is_some_and(|position| end <= position)
            && Finality::new(self.spec.grouping, self.spec.watermark).is_final(end)
            && self.spec.begins.is_none_or(|begins| begins <= start)
            && self.counts(table, partition, offset)
    }

    /// Whether its sink has all groups of a row for which the statement has asked, whenever it was.
    fn has_groups_of(&self, table: &str, partition: i32, offset: i64) -> bool {
        !matches!(self.spec.grouping, Grouping::Rows)
            && self.spec.selection.is_some()
            && self.spec.asked.time.is_none()
            && self.is_whole
            && self.counts(table, partition, offset)
    }

    /// Whether the row counts in what the run emits: it is selected, or there if all rows are read, and not left out.
    fn counts(&self, table: &str, partition: i32, offset: i64) -> bool {
        let is_read = match &self.spec.selection {
            Some(selection) => selection.contains(table, partition, offset),
            None => self.is_there(table, partition, offset),
        };
        is_read && !self.spec.left_out.contains(table, partition, offset)
    }

    /// Whether the offset is in the past that the run has pinned.
    fn is_there(&self, table: &str, partition: i32, offset: i64) -> bool {
        let Some(pin) = self.spec.sources.get(table) else {
            return false;
        };
        let Some(PinnedAt::Ends(ends)) = pin.tail.as_ref().map(|tail| &tail.at) else {
            return false;
        };
        let is_from = |from: &i64| *from <= offset;
        pin.from.get(&partition).is_some_and(is_from)
            && ends.get(&partition).is_some_and(|end| offset < *end)
    }
}

/// Whether the job of these windows has this one.
fn is_window(windows: &AlignedWindows, (start, end): (i64, i64)) -> bool {
    let (mut starts, mut ends) = (Vec::new(), Vec::new());
    windows.assign(start, &mut starts, &mut ends).is_some()
        && starts.into_iter().zip(ends).any(|of| of == (start, end))
}

#[cfg(test)]
mod tests {
    use anabranch_udfs::WindowKind;

    use super::*;
    use crate::core::jobs::progress::SourceProgress;
    use crate::core::runs::position::TIME_AXIS;
    use crate::core::runs::spec::fixture;
    use crate::core::runs::time_range::{TimeRange, TimeRanges};

    fn set(ranges: &[(i32, i64, i64)]) -> OffsetSet {
        let ranges = ranges.iter().copied();
        OffsetSet::of(
            ranges.map(|(partition, from, to)| ("visits".to_owned(), partition, from..to)),
        )
    }

    fn emission(ranges: &[(i64, i64)]) -> Emission {
        let ranges = ranges.iter().copied();
        let ranges = ranges.filter_map(|(from, to)| TimeRange::try_new(from, to));
        Emission::Time(TimeRanges::joined(ranges.collect(), 0))
    }

    fn version(partition: i32, start: i64, end: i64) -> BatchVersion {
        let progress = SourceProgress { start, end };
        BatchVersion {
            sources: [("visits".to_owned(), [(partition, progress)].into())].into(),
            ..BatchVersion::default()
        }
    }

    fn run(spec: &RunSpec, last: BatchVersion) -> RepairingRun {
        RepairingRun::new(spec.clone(), last, false, OffsetSet::default())
    }

    /// A run over windows of 10 of the rows at the offsets 3 and 4 of partition 0, which are in 20..30 and 50..60.
    fn windows() -> RunSpec {
        let windows = AlignedWindows::try_new(WindowKind::Tumble, 10, 10, 0).unwrap();
        let mut spec = fixture::spec("r");
        spec.grouping = Grouping::Aligned(windows);
        spec.asked.time = None;
        spec.selection = Some(set(&[(0, 3, 5)]));
        spec.emission = emission(&[(20, 30), (50, 60)]);
        spec.watermark = Some(100);
        spec
    }

    #[test]
    fn a_window_is_repaired_when_its_chunk_is_in_the_sink() {
        let spec = windows();
        let first = run(&spec, version(TIME_AXIS, 20, 30));
        assert!(first.has_late_row("visits", 0, 3, Some((20, 30))));
        assert!(!first.has_late_row("visits", 0, 4, Some((50, 60))));
        let both = run(&spec, version(TIME_AXIS, 30, 60));
        assert!(both.has_late_row("visits", 0, 4, Some((50, 60))));
        for (topic, partition, offset, window) in [
            ("other", 0, 3, (20, 30)),
            ("visits", 1, 3, (20, 30)),
            ("visits", 0, 5, (20, 30)),
            ("visits", 0, 3, (30, 40)),
        ] {
            let is_repaired = both.has_late_row(topic, partition, offset, Some(window));
            assert!(!is_repaired, "{topic} {partition} {offset} {window:?}");
        }
        // The archive did not make it final.
        let early = RunSpec {
            watermark: Some(59),
            ..spec.clone()
        };
        let early = run(&early, version(TIME_AXIS, 30, 60));
        assert!(!early.has_late_row("visits", 0, 4, Some((50, 60))));
        assert!(early.has_late_row("visits", 0, 3, Some((20, 30))));
        // Records of the first window may be gone.
        let cut = RunSpec {
            begins: Some(21),
            ..spec.clone()
        };
        let cut = run(&cut, version(TIME_AXIS, 30, 60));
        assert!(!cut.has_late_row("visits", 0, 3, Some((20, 30))));
        assert!(cut.has_late_row("visits", 0, 4, Some((50, 60))));
        let excluding = RunSpec {
            left_out: set(&[(0, 3, 4)]),
            ..spec
        };
        let excluding = run(&excluding, version(TIME_AXIS, 30, 60));
        assert!(!excluding.has_late_row("visits", 0, 3, Some((20, 30))));
    }

    #[test]
    fn what_the_job_gives_out_after_the_run_is_not_repaired() {
        let spec = windows();
        let made_at = spec.now / 1_000;
        let by_time = run(&spec, version(TIME_AXIS, 20, 30));
        assert!(by_time.stays_over(made_at) && !by_time.stays_over(made_at + 1));
        let by_offsets = RunSpec {
            grouping: Grouping::Rows,
            emission: Emission::Offsets(set(&[(0, 3, 9)])),
            ..spec
        };
        let by_offsets = run(&by_offsets, version(0, 3, 7));
        assert!(by_offsets.stays_over(made_at + 1));
    }

    #[test]
    fn a_run_over_a_range_of_time_repairs_the_rows_that_it_has_read() {
        let mut spec = RunSpec {
            selection: None,
            ..windows()
        };
        let source = spec.sources.get_mut("visits").unwrap();
        source.from = [(0, 2), (1, 0)].into();
        let whole = run(&spec, version(TIME_AXIS, 30, 60));
        // The topic ended before offset 99 of partition 0 and offset 5 of partition 1.
        for (partition, offset, expected) in [
            (0, 1, false),
            (0, 2, true),
            (0, 98, true),
            (0, 99, false),
            (1, 4, true),
            (1, 5, false),
            (2, 0, false),
        ] {
            let window = Some((20, 30));
            let found = whole.has_late_row("visits", partition, offset, window);
            assert_eq!(found, expected, "{partition} {offset}");
        }
        // No time is known of a record that was set aside.
        assert!(!whole.has_dead_letter("visits", 0, 3));
    }

    #[test]
    fn overlapping_windows_are_repaired_one_by_one() {
        for kind in [WindowKind::Hop, WindowKind::Cumulate] {
            let windows_of = AlignedWindows::try_new(kind, 30, 10, 0).unwrap();
            let spec = RunSpec {
                grouping: Grouping::Aligned(windows_of),
                emission: emission(&[(20, 60)]),
                ..windows()
            };
            let half = run(&spec, version(TIME_AXIS, 20, 40));
            let first = Some((0, 30));
            assert!(half.has_late_row("visits", 0, 3, first), "{kind:?}");
            let second = Some((30, 60));
            assert!(!half.has_late_row("visits", 0, 3, second), "{kind:?}");
            // The job had other windows before: the run is not done with all of the present ones.
            let other = Some((21, 31));
            assert!(!half.has_late_row("visits", 0, 3, other), "{kind:?}");
        }
    }

    #[test]
    fn rows_of_unknown_time_are_repaired_with_the_last_chunk() {
        let sessions = RunSpec {
            grouping: Grouping::Sessions { gap: 5 },
            emission: emission(&[(20, 26), (50, 56)]),
            ..windows()
        };
        let first = run(&sessions, version(TIME_AXIS, 20, 26));
        let last = version(TIME_AXIS, 26, 56);
        let whole = run(&sessions, last.clone());
        let is_repaired = |run: &RepairingRun| {
            let late = run.has_late_row("visits", 0, 3, None);
            assert_eq!(late, run.has_dead_letter("visits", 0, 3));
            late
        };
        assert!(!is_repaired(&first));
        assert!(is_repaired(&whole));
        assert!(!whole.has_late_row("visits", 0, 5, None));
        // A session of one of the rows may be the one that it has left out.
        let left = RepairingRun::new(sessions.clone(), last.clone(), true, OffsetSet::default());
        assert!(!is_repaired(&left));
        let mut in_range = sessions;
        in_range.asked.time = TimeRange::try_new(0, 30);
        assert!(!is_repaired(&run(&in_range, last)));
    }

    #[test]
    fn records_of_a_job_without_groups_are_repaired_one_by_one() {
        let spec = RunSpec {
            grouping: Grouping::Rows,
            emission: Emission::Offsets(set(&[(0, 3, 9)])),
            selection: Some(set(&[(0, 3, 9)])),
            ..windows()
        };
        let run = RepairingRun::new(spec.clone(), version(0, 3, 7), false, set(&[(0, 4, 5)]));
        let repaired: Vec<i64> = (0..12)
            .filter(|offset| run.has_dead_letter("visits", 0, *offset))
            .collect();
        // It has set offset 4 aside itself, and stands at 7.
        assert_eq!(repaired, [3, 5, 6]);
        assert!(!run.has_dead_letter("clicks", 0, 3));
        let by_time = RunSpec {
            emission: emission(&[(0, 60)]),
            ..spec
        };
        let by_time = self::run(&by_time, version(TIME_AXIS, 0, 60));
        assert!(!by_time.has_dead_letter("visits", 0, 3));
    }
}
