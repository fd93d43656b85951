//! Event time of a table that is read version by version (TIME-1): the watermarks that its rows meet, and the watermark after
//! them.
//!
//! The files of a version have no order, so rows of one version do not make each other late: their event times count when the
//! whole version has been read. A batch may end between two files of a version. The times read until then are stored, so that
//! the result does not depend on where batches end (TIME-3).

use std::collections::BTreeMap;

/// What the files read so far of a version bring.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct UnfinishedVersion {
    /// The version.
    pub version: u64,
    /// Its highest event time so far less the delay, in microseconds since 1970 UTC.
    pub watermark: i64,
}

/// Time of a partition after a batch has read it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct PartitionTimes {
    /// Its watermark.
    pub watermark: Option<i64>,
    /// Of a table: event time that does not count in the watermark yet.
    pub unfinished: Option<UnfinishedVersion>,
}

impl From<Option<i64>> for PartitionTimes {
    fn from(watermark: Option<i64>) -> Self {
        Self {
            watermark,
            unfinished: None,
        }
    }
}

/// Applies the versions of a batch in their order. `from` is the watermark before, `highest` the highest event time that the
/// batch reads of each version; with this batch, versions before `end` are read completely.
///
/// Returns the watermark that the rows of each version meet, and the time of the table after them.
pub fn through_versions(
    from: Option<i64>,
    unfinished: Option<UnfinishedVersion>,
    delay: i64,
    highest: &BTreeMap<u64, Option<i64>>,
    end: u64,
) -> (BTreeMap<u64, Option<i64>>, PartitionTimes) {
    let mut reached = PartitionTimes {
        watermark: from,
        unfinished,
    };
    let mut met = BTreeMap::new();
    for (version, highest) in highest {
        reached.finish_before(*version);
        met.insert(*version, reached.watermark);
        if let Some(highest) = highest {
            let brought = highest.saturating_sub(delay);
            let before = reached.unfinished.map(|unfinished| unfinished.watermark);
            reached.unfinished = Some(UnfinishedVersion {
                version: *version,
                watermark: before.map_or(brought, |before| before.max(brought)),
            });
        }
    }
    reached.finish_before(end);
    (met, reached)
}

impl PartitionTimes {
    /// Counts the event time of an unfinished version earlier than this one.
    fn finish_before(&mut self, version: u64) {
        if let Some(done) = self.unfinished.take_if(|of| of.version < version) {
            self.watermark = self.watermark.max(Some(done.watermark));
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn time_1_a_version_raises_the_watermark_when_it_is_read_to_its_end() {
        let highest = BTreeMap::from([(3, Some(100)), (4, None), (5, Some(90)), (6, Some(130))]);
        let (met, reached) = through_versions(None, None, 10, &highest, 6);
        assert_eq!(
            met,
            BTreeMap::from([(3, None), (4, Some(90)), (5, Some(90)), (6, Some(90))])
        );
        let open = UnfinishedVersion {
            version: 6,
            watermark: 120,
        };
        assert_eq!(
            (reached.watermark, reached.unfinished),
            (Some(90), Some(open))
        );
        // The rest of the version has lower event times; this is its last batch.
        let rest = BTreeMap::from([(6, Some(50))]);
        let (met, reached) = through_versions(reached.watermark, Some(open), 10, &rest, 7);
        assert_eq!(met, BTreeMap::from([(6, Some(90))]));
        assert_eq!(reached, PartitionTimes::from(Some(120)));
        // The rest of it was deleted, and is skipped.
        let next = BTreeMap::from([(9, Some(20))]);
        let (met, reached) = through_versions(Some(90), Some(open), 10, &next, 10);
        assert_eq!(met, BTreeMap::from([(9, Some(120))]));
        assert_eq!(reached.watermark, Some(120));
    }

    proptest! {
        /// TIME-3: files of event times, by version, cut into batches between any of them.
        #[test]
        fn time_3_row_watermarks_do_not_depend_on_batch_boundaries(
            versions in prop::collection::vec(prop::collection::vec(prop::option::of(0_i64..100), 0..4), 0..8),
            mut cuts in prop::collection::vec(0_usize..32, 0..6),
            delay in 0_i64..20,
        ) {
            let files: Vec<(u64, Option<i64>)> = (0..)
                .zip(&versions)
                .flat_map(|(version, files)| files.iter().map(move |highest| (version, *highest)))
                .collect();
            let last = versions.len() as u64;
            // By the definition: the highest event time of earlier versions, less the delay.
            let expected = |version: u64| {
                let earlier = files.iter().filter(|(of, _)| *of < version);
                earlier.filter_map(|(_, highest)| *highest).max().map(|highest| highest - delay)
            };
            cuts.retain(|cut| *cut < files.len());
            cuts.extend([0, files.len()]);
            cuts.sort_unstable();
            let mut reached = PartitionTimes::default();
            for cut in cuts.windows(2) {
                let mut highest: BTreeMap<u64, Option<i64>> = BTreeMap::new();
                for (version, of_file) in &files[cut[0]..cut[1]] {
                    let of_version = highest.entry(*version).or_default();
                    *of_version = (*of_version).max(*of_file);
                }
                let end = files.get(cut[1]).map_or(last, |(version, _)| *version);
                let met;
                (met, reached) = through_versions(reached.watermark, reached.unfinished, delay, &highest, end);
                for (version, met) in met {
                    prop_assert_eq!(met, expected(version));
                }
                prop_assert_eq!(reached.watermark, expected(end));
            }
            prop_assert_eq!(reached, PartitionTimes::from(expected(last)));
        }
    }
}
