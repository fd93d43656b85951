//! The batches of a job, or the chunks of a run, that an index of published rows has: so that versions can be swept, and later ones be
//! added.

use std::collections::BTreeMap;

use super::published::{GivenOut, PublishedIndex};
use crate::core::jobs::identity::{Identity, IdentityMatch};
use crate::core::jobs::log::sequence_of;
use crate::core::jobs::version::BatchVersion;

/// What a job has published, by the versions that were taken in.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct PublishedBatches {
    /// Where its rows are.
    pub index: PublishedIndex,
    /// The topic that has them.
    pub sink: Option<Identity>,
    /// All versions of lower numbers are in it, or are missing in the index, which says so.
    pub up_to: u64,
    /// By the names of versions that later ones may build on: the watermark by which they have closed windows.
    pub closed_by: BTreeMap<String, Option<i64>>,
}

impl PublishedBatches {
    /// Notes that the versions before `oldest` are gone. Those that it does not have yet are missing in the index. `reach` is that of
    /// [`GivenOut::of_batch`].
    pub fn begin_at(&mut self, (name, oldest): (&str, &BatchVersion), reach: Option<i64>) {
        let begins_at = sequence_of(name).unwrap_or_default();
        // The first version of a job builds on none.
        if begins_at > self.up_to && oldest.parent.is_some() {
            let missing = GivenOut::of_batch(None, oldest.time.as_ref(), reach);
            self.index.miss(missing);
        }
        self.up_to = self.up_to.max(begins_at);
    }

    /// Takes in the next version of a job, by number; also one that a rewind has abandoned. `reach` is that of
    /// [`GivenOut::of_batch`].
    pub fn take_in_batch(&mut self, name: &str, version: &BatchVersion, reach: Option<i64>) {
        let parent = version.parent.as_ref();
        // Of a version that is not known, all that was before may be open.
        let before = parent.and_then(|parent| self.closed_by.get(parent).copied().flatten());
        let time = version.time.as_ref();
        let given_out = GivenOut::of_batch(before, time, reach);
        self.take_in_chunk(name, version, given_out);
        // Of a job by keys alone it is no time of windows.
        let of_windows = time.filter(|time| time.clock.is_none());
        let closed_by = of_windows.and_then(|time| time.closed_by);
        self.closed_by.insert(name.to_owned(), closed_by);
    }

    /// Takes in the next version of a run, by number, whose chunk has given this out.
    pub fn take_in_chunk(&mut self, name: &str, version: &BatchVersion, given_out: GivenOut) {
        let number = sequence_of(name).unwrap_or(u64::MAX);
        if number < self.up_to {
            return;
        }
        self.up_to = number.saturating_add(1);
        let is_replaced = self.are_elsewhere(version.sink.as_ref());
        if is_replaced {
            // Rows in a topic that this one has replaced are not there.
            self.index = PublishedIndex::default();
        }
        if is_replaced || self.sink.is_none() {
            self.sink.clone_from(&version.sink);
        }
        self.index.add(given_out, &version.published);
    }

    /// Whether its rows are in another topic than `sink`, as far as both are known.
    pub fn are_elsewhere(&self, sink: Option<&Identity>) -> bool {
        let sinks = self.sink.as_ref().zip(sink);
        sinks.is_some_and(|(known, sink)| known.compare(sink) == IdentityMatch::Other)
    }

    /// Has all versions before number `up_to`. Those that follow build on `last` or on later ones: the watermarks of others are forgotten.
    pub fn go_on_from(&mut self, last: &str, up_to: u64) {
        self.closed_by.retain(|known, _| known == last);
        self.up_to = self.up_to.max(up_to);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::jobs::progress::SourceProgress;
    use crate::core::jobs::watermark::{JobTime, PartitionTime};

    fn version(parent: Option<&str>, watermark: i64, published: (i64, i64)) -> BatchVersion {
        let time = PartitionTime {
            watermark: Some(watermark),
            ..PartitionTime::default()
        };
        let (start, end) = published;
        BatchVersion {
            parent: parent.map(str::to_owned),
            published: [(0, SourceProgress { start, end })].into(),
            time: Some(JobTime {
                partitions: [("t".to_owned(), [(0, time)].into())].into(),
                watermark: Some(watermark),
                closed_by: Some(watermark),
                clock: None,
            }),
            ..BatchVersion::default()
        }
    }

    fn name(number: u64) -> String {
        format!("{number:010}-v")
    }

    fn found(of: &PublishedBatches, end: i64) -> Vec<(i64, i64)> {
        let offsets = of.index.offsets_of(&(end..=end));
        let ranges = offsets.values().flat_map(|of| of.ranges());
        ranges.map(|range| (range.from, range.to)).collect()
    }

    const HOUR: i64 = 3_600_000_000;
    const NONE: [(i64, i64); 0] = [];

    #[test]
    fn versions_are_taken_in_before_and_after_a_sweep() {
        let mut batches = PublishedBatches::default();
        let first = version(None, HOUR, (0, 5));
        batches.begin_at((&name(2), &first), Some(0));
        batches.take_in_batch(&name(2), &first, Some(0));
        let second = version(Some(&name(2)), 5 * HOUR, (7, 9));
        batches.take_in_batch(&name(3), &second, Some(0));
        assert_eq!((batches.up_to, batches.index.missing()), (4, None));
        assert_eq!(found(&batches, 3 * HOUR), [(7, 9)]);
        assert_eq!(found(&batches, HOUR - 1), [(0, 5)]);
        // The sweep keeps what the next version builds on.
        batches.go_on_from(&name(3), 9);
        let third = version(Some(&name(3)), 9 * HOUR, (20, 21));
        batches.begin_at((&name(9), &third), Some(0));
        batches.take_in_batch(&name(9), &third, Some(0));
        // It has this one already.
        batches.take_in_batch(&name(9), &first, Some(0));
        assert_eq!(batches.index.missing(), None);
        assert_eq!(found(&batches, 3 * HOUR), [(7, 9)]);
        assert_eq!(found(&batches, 8 * HOUR), [(20, 21)]);
        assert_eq!(found(&batches, 10 * HOUR), NONE);
    }

    #[test]
    fn versions_that_were_trimmed_without_an_index_are_missing() {
        let mut batches = PublishedBatches::default();
        let oldest = version(Some(&name(8)), 3 * HOUR, (30, 35));
        batches.begin_at((&name(9), &oldest), Some(HOUR));
        batches.take_in_batch(&name(9), &oldest, Some(HOUR));
        let missing = GivenOut::Closed {
            from: None,
            to: 4 * HOUR,
        };
        assert_eq!(batches.index.missing(), Some(missing));
        assert_eq!(found(&batches, 4 * HOUR), [(30, 35)]);
        let low = [(0, 0)].into();
        let readable = |end: i64| batches.index.is_readable(&(end..=end), &low);
        assert!(!readable(4 * HOUR) && readable(4 * HOUR + 1));
    }

    #[test]
    fn rows_of_a_replaced_topic_do_not_count() {
        let topic = |id: &str| Identity::Topic {
            topic: "t".into(),
            cluster: None,
            id: Some(id.into()),
        };
        let mut batches = PublishedBatches::default();
        let mut batch = |number, id: &str, published| {
            let sink = Some(topic(id));
            let version = version(None, HOUR, published);
            batches.take_in_batch(&name(number), &BatchVersion { sink, ..version }, Some(0));
            found(&batches, HOUR)
        };
        assert_eq!(batch(2, "a", (50, 60)), [(50, 60)]);
        assert_eq!(batch(3, "b", (0, 3)), [(0, 3)]);
    }
}
