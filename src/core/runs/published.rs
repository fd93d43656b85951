//! Where in a topic the results of a job are: an index by the watermark that closed their windows. It is made of the versions of batches,
//! and is small enough to stay when they are swept.

use std::collections::BTreeMap;
use std::ops::RangeInclusive;

use crate::core::jobs::progress::SourceProgress;

/// Offsets of the sink by partition.
pub type PublishedOffsets = BTreeMap<i32, SourceProgress>;

/// Batches whose watermarks are of the same hour are one entry.
const HOUR: i64 = 3_600_000_000;

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

/// An index of published rows. Ranges of offsets may have other rows as well, and never miss one.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct PublishedIndex {
    /// By the hour of the watermark after the batches.
    closed: BTreeMap<i64, ClosedWindows>,
    any_time: PublishedOffsets,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct ClosedWindows {
    from: Option<i64>,
    to: i64,
    offsets: PublishedOffsets,
}

impl ClosedWindows {
    /// Whether it may have windows or sessions that end in a range. A window ends at the watermark that closes it, or before; a session
    /// before it.
    fn may_end_in(&self, ends: &RangeInclusive<i64>) -> bool {
        self.to >= *ends.start() && self.from.is_none_or(|from| from <= *ends.end())
    }
}

impl PublishedIndex {
    /// Adds a batch, also one that a rewind has abandoned: a topic keeps its rows.
    pub fn add(&mut self, given_out: GivenOut, offsets: &PublishedOffsets) {
        if offsets.values().all(|of| of.start >= of.end) {
            return;
        }
        match given_out {
            GivenOut::AnyTime => extend(&mut self.any_time, offsets),
            GivenOut::Closed { from, to } => {
                let hour =
                    self.closed
                        .entry(to.div_euclid(HOUR))
                        .or_insert_with(|| ClosedWindows {
                            from,
                            to,
                            offsets: PublishedOffsets::new(),
                        });
                // None is the beginning, and the lowest.
                hour.from = hour.from.min(from);
                hour.to = hour.to.max(to);
                extend(&mut hour.offsets, offsets);
            }
        }
    }

    /// The offsets that have all published rows of the windows and sessions with these ends.
    pub fn offsets_of(&self, ends: &RangeInclusive<i64>) -> PublishedOffsets {
        let mut all = self.any_time.clone();
        for hour in self.closed.values().filter(|of| of.may_end_in(ends)) {
            extend(&mut all, &hour.offsets);
        }
        all
    }

    /// Whether the topic still has all that was published of a window or session with this end; `low` are the first offsets that its
    /// partitions have. If it does not, a row without a published one is unknown, and not new.
    pub fn is_readable(&self, end: i64, low: &BTreeMap<i32, i64>) -> bool {
        let has = |(partition, of): (&i32, &SourceProgress)| {
            low.get(partition).is_some_and(|low| *low <= of.start)
        };
        let hours = self.closed.values();
        let hours = hours.filter(|of| of.may_end_in(&(end..=end)));
        hours
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

    #[test]
    fn batches_of_an_hour_are_one_entry() {
        let mut index = PublishedIndex::default();
        for (from, to, start) in [(None, 5, 0), (Some(5), 9, 10), (Some(9), HOUR + 1, 20)] {
            let offsets = [(0, progress(start, start + 10)), (1, progress(3, 3))];
            index.add(GivenOut::Closed { from, to }, &offsets.into());
        }
        assert_eq!(index.closed.len(), 2);
        let first = PublishedOffsets::from([(0, progress(0, 20))]);
        assert_eq!(index.offsets_of(&(2..=3)), first);
        let later = index.offsets_of(&(HOUR..=HOUR));
        assert_eq!(later, PublishedOffsets::from([(0, progress(20, 30))]));
        assert!(index.offsets_of(&(2 * HOUR..=3 * HOUR)).is_empty());
        let low = |offset: i64| BTreeMap::from([(0, offset)]);
        assert!(index.is_readable(2, &low(0)));
        assert!(!index.is_readable(2, &low(1)));
        assert!(index.is_readable(HOUR, &low(20)));
        assert!(
            !index.is_readable(HOUR, &BTreeMap::new()),
            "the partition is gone"
        );
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
                    let of = found[&partition];
                    prop_assert!(of.start <= offset && offset < of.end);
                }
                if low.get(&partition).is_none_or(|low| offset < *low) {
                    prop_assert!(!index.is_readable(end, &low));
                }
            }
        }
    }
}
