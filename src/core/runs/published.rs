//! Where in a topic the results of a job are: an index by the watermark that closed their windows. It is made of the versions of batches,
//! and is small enough to stay when they are swept.

use std::collections::BTreeMap;
use std::ops::RangeInclusive;

use super::grouping::Grouping;
use crate::core::archive::offset_ranges::{OffsetRange, OffsetRanges};
use crate::core::jobs::progress::SourceProgress;
use crate::core::jobs::run_event::ChunkExtent;
use crate::core::jobs::watermark::{JobTime, PartitionTime};

/// Offsets of the sink by partition.
pub type PublishedOffsets = BTreeMap<i32, SourceProgress>;

/// Batches whose watermarks are of the same hour are one entry.
const HOUR: i64 = 3_600_000_000;
/// So many of these entries stay; older ones become entries of days.
const HOURS: usize = 1_500;
/// In hours.
const DAY: i64 = 24;

/// Which windows and sessions a batch has given out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GivenOut {
    /// Those that the watermark has closed on its way from `from`, none at the beginning, to `to`, in microseconds since 1970 UTC. They
    /// end in between.
    Closed {
        /// The watermark before the batch.
        from: Option<i64>,
        /// The watermark by which it closed windows.
        to: i64,
    },
    /// Rows of any event time: of a job that groups none, or that gives out windows before they are closed.
    AnyTime,
}

impl GivenOut {
    /// What a batch has given out that ended at `time`; windows that end by `before` were closed earlier. `reach` is the delay of the
    /// watermark and the length of a window, or the gap of sessions: no window that has a row ends later than that after the highest
    /// watermark of a partition. So this holds for a job that gives out open windows as well, and for one that did so earlier.
    pub fn of_batch(before: Option<i64>, time: Option<&JobTime>, reach: Option<i64>) -> Self {
        let (Some(time), Some(reach)) = (time, reach) else {
            return Self::AnyTime;
        };
        let watermark = |of: &PartitionTime| {
            let unfinished = of.unfinished.map(|version| version.watermark);
            of.watermark.max(unfinished)
        };
        let partitions = time.partitions.values().flat_map(BTreeMap::values);
        let highest = partitions.filter_map(watermark).max();
        let highest = highest.max(time.watermark);
        let to = highest.map(|highest| highest.saturating_add(reach));
        match (time.clock, to.max(time.closed_by)) {
            (None, Some(to)) => Self::Closed { from: before, to },
            // Of a job by keys alone; or nothing tells what it was.
            _ => Self::AnyTime,
        }
    }

    /// What a chunk of a run has given out.
    pub fn of_chunk(extent: &ChunkExtent, grouping: Grouping) -> Self {
        match (extent, grouping) {
            (ChunkExtent::Offsets(_), _) => Self::AnyTime,
            (ChunkExtent::Time { from, to }, Grouping::Rows | Grouping::Aligned(_)) => {
                Self::Closed {
                    from: Some(*from),
                    to: *to,
                }
            }
            // A session with a row in the chunk may go on for long. It may have begun long before too, and have the rows of sessions that
            // ended before the chunk: these got tombstones.
            (ChunkExtent::Time { .. }, Grouping::Sessions { .. }) => Self::Closed {
                from: None,
                to: i64::MAX,
            },
        }
    }
}

/// An index of published rows. Ranges of offsets may have other rows as well, and never miss one.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct PublishedIndex {
    /// By the hour of the watermark after the batches.
    closed: BTreeMap<i64, ClosedWindows>,
    any_time: PublishedOffsets,
    /// What was published that is not in the index.
    missing: Option<GivenOut>,
}

/// The windows that batches of one hour of the watermark have given out, and where their rows are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClosedWindows {
    /// The watermark before the first of these batches; none at the beginning.
    pub from: Option<i64>,
    /// The watermark after the last.
    pub to: i64,
    /// Where the rows are.
    pub offsets: PublishedOffsets,
}

impl ClosedWindows {
    /// Whether it may have windows or sessions that end in a range. A window ends at the watermark that closes it, or before; a session
    /// before it.
    fn may_end_in(&self, ends: &RangeInclusive<i64>) -> bool {
        may_end_in(self.from, self.to, ends)
    }

    fn join(&mut self, from: Option<i64>, to: i64, offsets: &PublishedOffsets) {
        // None is the beginning, and the lowest.
        self.from = self.from.min(from);
        self.to = self.to.max(to);
        extend(&mut self.offsets, offsets);
    }
}

fn may_end_in(from: Option<i64>, to: i64, ends: &RangeInclusive<i64>) -> bool {
    to >= *ends.start() && from.is_none_or(|from| from <= *ends.end())
}

impl PublishedIndex {
    /// An index of these entries, as [`Self::closed`], [`Self::any_time`] and [`Self::missing`] gave them.
    pub fn of(
        closed: impl IntoIterator<Item = ClosedWindows>,
        any_time: PublishedOffsets,
        missing: Option<GivenOut>,
    ) -> Self {
        let mut index = Self {
            closed: BTreeMap::new(),
            any_time,
            missing,
        };
        for ClosedWindows { from, to, offsets } in closed {
            index.insert(to.div_euclid(HOUR), from, to, &offsets);
        }
        index
    }

    /// Its entries of windows, in order.
    pub fn closed(&self) -> impl Iterator<Item = &ClosedWindows> {
        self.closed.values()
    }

    /// Where rows of any event time are.
    pub fn any_time(&self) -> &PublishedOffsets {
        &self.any_time
    }

    /// What was published that is not in the index, if anything was.
    pub fn missing(&self) -> Option<GivenOut> {
        self.missing
    }

    /// Adds a batch, also one that a rewind has abandoned: a topic keeps its rows.
    pub fn add(&mut self, given_out: GivenOut, offsets: &PublishedOffsets) {
        if offsets.values().all(|of| of.start >= of.end) {
            return;
        }
        match given_out {
            GivenOut::AnyTime => extend(&mut self.any_time, offsets),
            GivenOut::Closed { from, to } => {
                self.insert(to.div_euclid(HOUR), from, to, offsets);
                self.condense();
            }
        }
    }

    /// Notes that batches have given this out whose offsets are not known any more.
    pub fn miss(&mut self, given_out: GivenOut) {
        self.missing = Some(match (self.missing, given_out) {
            (None, given_out) => given_out,
            (Some(GivenOut::AnyTime), _) | (_, GivenOut::AnyTime) => GivenOut::AnyTime,
            (
                Some(GivenOut::Closed { from, to }),
                GivenOut::Closed {
                    from: other_from,
                    to: other_to,
                },
            ) => GivenOut::Closed {
                from: from.min(other_from),
                to: to.max(other_to),
            },
        });
    }

    fn insert(&mut self, hour: i64, from: Option<i64>, to: i64, offsets: &PublishedOffsets) {
        let entry = self.closed.entry(hour).or_insert_with(|| ClosedWindows {
            from,
            to,
            offsets: PublishedOffsets::new(),
        });
        entry.join(from, to, offsets);
    }

    /// Makes entries of days of the older half, if there are too many entries of hours.
    fn condense(&mut self) {
        if self.closed.len() <= HOURS {
            return;
        }
        let Some(newer) = self.closed.keys().nth(HOURS / 2).copied() else {
            return;
        };
        // A day is not cut.
        let newer = newer.div_euclid(DAY) * DAY;
        let stays = self.closed.split_off(&newer);
        for (hour, of) in std::mem::replace(&mut self.closed, stays) {
            let last_of_day = hour.div_euclid(DAY) * DAY + DAY - 1;
            self.insert(last_of_day, of.from, of.to, &of.offsets);
        }
    }

    /// The offsets that have all published rows of the windows and sessions with these ends.
    pub fn offsets_of(&self, ends: &RangeInclusive<i64>) -> BTreeMap<i32, OffsetRanges> {
        let hours = self.closed.values().filter(|of| of.may_end_in(ends));
        let mut all: BTreeMap<i32, OffsetRanges> = BTreeMap::new();
        for (partition, of) in hours.flat_map(|of| &of.offsets).chain(&self.any_time) {
            let of_partition = all.entry(*partition).or_default();
            of_partition.insert(OffsetRange::new(of.start, of.end));
        }
        all
    }

    /// Whether the topic still has all that was published of windows or sessions with these ends; `low` are the first offsets that its
    /// partitions have. If it does not, a row without a published one is unknown, and not new.
    pub fn is_readable(&self, ends: &RangeInclusive<i64>, low: &BTreeMap<i32, i64>) -> bool {
        let is_missing = match self.missing {
            None => false,
            Some(GivenOut::AnyTime) => true,
            Some(GivenOut::Closed { from, to }) => may_end_in(from, to, ends),
        };
        let has = |(partition, of): (&i32, &SourceProgress)| {
            low.get(partition).is_some_and(|low| *low <= of.start)
        };
        let hours = self.closed.values();
        let hours = hours.filter(|of| of.may_end_in(ends));
        !is_missing
            && hours
                .flat_map(|of| &of.offsets)
                .chain(&self.any_time)
                .all(has)
    }
}

fn extend(all: &mut PublishedOffsets, offsets: &PublishedOffsets) {
    for (partition, of) in offsets.iter().filter(|(_, of)| of.start < of.end) {
        let known = all.entry(*partition).or_insert(*of);
        known.start = known.start.min(of.start);
        known.end = known.end.max(of.end);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn progress(start: i64, end: i64) -> SourceProgress {
        SourceProgress { start, end }
    }

    fn ranges(partition: i32, of: &[(i64, i64)]) -> BTreeMap<i32, OffsetRanges> {
        let of = of.iter().map(|(from, to)| OffsetRange::new(*from, *to));
        BTreeMap::from([(partition, of.collect())])
    }

    fn time(watermarks: &[i64], closed_by: Option<i64>) -> JobTime {
        let partition = |(partition, watermark): (i32, &i64)| {
            let time = PartitionTime {
                watermark: Some(*watermark),
                ..PartitionTime::default()
            };
            (partition, time)
        };
        JobTime {
            partitions: [(
                "t".to_owned(),
                (0..).zip(watermarks).map(partition).collect(),
            )]
            .into(),
            watermark: watermarks.iter().min().copied(),
            closed_by,
            clock: None,
        }
    }

    #[test]
    fn a_batch_may_give_out_windows_that_are_open() {
        let of = |time: &JobTime, reach| GivenOut::of_batch(Some(3), Some(time), reach);
        let open = time(&[5, 20], Some(5));
        let expected = GivenOut::Closed {
            from: Some(3),
            to: 30,
        };
        assert_eq!(of(&open, Some(10)), expected);
        assert_eq!(of(&open, None), GivenOut::AnyTime);
        assert_eq!(of(&JobTime::default(), Some(10)), GivenOut::AnyTime);
        let keyed = JobTime {
            clock: Some(1),
            ..open
        };
        assert_eq!(of(&keyed, Some(10)), GivenOut::AnyTime);
        assert_eq!(GivenOut::of_batch(None, None, Some(1)), GivenOut::AnyTime);
    }

    #[test]
    fn a_chunk_of_sessions_may_have_withdrawn_what_ended_before_it() {
        let extent = ChunkExtent::Time { from: 28, to: 60 };
        let sessions = GivenOut::of_chunk(&extent, Grouping::Sessions { gap: 5 });
        let mut index = PublishedIndex::default();
        index.add(sessions, &[(0, progress(3, 9))].into());
        // The session from 10 to 27 became a part of one that goes on to 60.
        for ends in [10..=27, 28..=60, 90..=99] {
            assert_eq!(index.offsets_of(&ends), ranges(0, &[(3, 9)]), "{ends:?}");
        }
        let rows = GivenOut::of_chunk(&extent, Grouping::Rows);
        let expected = GivenOut::Closed {
            from: Some(28),
            to: 60,
        };
        assert_eq!(rows, expected);
    }

    #[test]
    fn old_hours_become_days() {
        let mut index = PublishedIndex::default();
        let hours = 3 * i64::try_from(HOURS).unwrap();
        for hour in 0..hours {
            let (from, to) = (hour * HOUR, (hour + 1) * HOUR - 1);
            let given_out = GivenOut::Closed {
                from: Some(from),
                to,
            };
            let offsets = [(0, progress(hour * 10, hour * 10 + 10))];
            index.add(given_out, &offsets.into());
        }
        assert!(index.closed.len() <= HOURS, "{}", index.closed.len());
        for hour in 0..hours {
            let end = hour * HOUR + 7;
            let found = index.offsets_of(&(end..=end));
            let own = OffsetRange::new(hour * 10, hour * 10 + 10);
            assert!(found[&0].contains(own), "{hour}");
            assert!(found[&0].count() <= 490, "{hour}: {found:?}");
        }
        let again = PublishedIndex::of(index.closed().cloned(), index.any_time.clone(), None);
        let last = index.closed().last().unwrap().to;
        for end in [5, HOUR, 99 * HOUR, last] {
            let ends = end..=end;
            assert_eq!(again.offsets_of(&ends), index.offsets_of(&ends));
        }
    }

    #[test]
    fn batches_of_an_hour_are_one_entry() {
        let mut index = PublishedIndex::default();
        for (from, to, start) in [(None, 5, 0), (Some(5), 9, 10), (Some(9), HOUR + 1, 20)] {
            let offsets = [(0, progress(start, start + 10)), (1, progress(3, 3))];
            index.add(GivenOut::Closed { from, to }, &offsets.into());
        }
        assert_eq!(index.closed.len(), 2);
        assert_eq!(index.offsets_of(&(2..=3)), ranges(0, &[(0, 20)]));
        assert_eq!(index.offsets_of(&(HOUR..=HOUR)), ranges(0, &[(20, 30)]));
        assert!(index.offsets_of(&(2 * HOUR..=3 * HOUR)).is_empty());
        let low = |offset: i64| BTreeMap::from([(0, offset)]);
        assert!(index.is_readable(&(2..=2), &low(0)));
        assert!(!index.is_readable(&(2..=2), &low(1)));
        assert!(index.is_readable(&(HOUR..=HOUR), &low(20)));
        assert!(
            !index.is_readable(&(HOUR..=HOUR), &BTreeMap::new()),
            "the partition is gone"
        );
        // Versions were trimmed before there was an index.
        let mut later = index.clone();
        later.miss(GivenOut::Closed { from: None, to: 4 });
        assert!(!later.is_readable(&(2..=2), &low(0)));
        assert!(later.is_readable(&(5..=5), &low(0)));
        later.miss(GivenOut::AnyTime);
        assert!(!later.is_readable(&(5..=5), &low(0)));
        index.add(GivenOut::AnyTime, &[(2, progress(7, 8))].into());
        assert_eq!(index.offsets_of(&(2 * HOUR..=2 * HOUR)).len(), 1);
    }

    proptest! {
        /// Each published row is found by the end of its window, and one that the topic has lost is never taken for one that was not
        /// published.
        #[test]
        fn published_rows_are_found(
            batches in prop::collection::vec(
                (0_i64..2 * HOUR, prop::collection::vec((0_i32..3, 0_u8..=255), 0..6)), 1..12,
            ),
            ends in (0_i64..20 * HOUR, 0_i64..3 * HOUR),
            low in prop::collection::btree_map(0_i32..3, 0_i64..20, 0..4),
        ) {
            let (mut index, mut rows, mut next) = (PublishedIndex::default(), Vec::new(), BTreeMap::new());
            let mut watermark: Option<i64> = None;
            for (step, of_batch) in batches {
                let to = watermark.unwrap_or(0) + step;
                let mut offsets = PublishedOffsets::new();
                for (partition, place) in of_batch {
                    // A window that this batch closes: it ends after the watermark before, and by the one now.
                    let from = watermark.map_or(to - HOUR, |from| from + 1).min(to);
                    let end = from + (to - from) * i64::from(place) / 255;
                    let offset = next.entry(partition).or_insert(0_i64);
                    let of = offsets.entry(partition).or_insert(progress(*offset, *offset));
                    rows.push((end, partition, *offset));
                    *offset += 1;
                    of.end = *offset;
                }
                index.add(GivenOut::Closed { from: watermark, to }, &offsets);
                watermark = Some(to);
            }
            let ends = ends.0..=ends.0 + ends.1;
            let found = index.offsets_of(&ends);
            for (end, partition, offset) in rows {
                if ends.contains(&end) {
                    let of = OffsetRange::new(offset, offset + 1);
                    prop_assert!(found[&partition].contains(of));
                }
                if low.get(&partition).is_none_or(|low| offset < *low) {
                    prop_assert!(!index.is_readable(&(end..=end), &low));
                }
            }
        }
    }
}
