//! Coverage of a topic's partition by its archive: which offsets the archive has, and which it lacks, with the reason.
//!
//! Covered is an offset that a job has read and archived, or of which the archive has a row. Not every covered offset is a row:
//! control records and compaction leave gaps, which a job knows and rows alone do not tell.

use std::fmt;

use super::claims::LostRange;
use super::offset_ranges::{OffsetRange, OffsetRanges};

/// Facts about a partition of an archived topic.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct CoverageFacts {
    /// Offsets that jobs have recorded as archived, and those that are in rows of the archive.
    pub covered: OffsetRanges,
    /// Offsets that jobs have skipped since the topic no longer had them, in any order.
    pub lost: Vec<LostRange>,
    /// The offsets that the topic has now, from the first one that retention has left to behind the last stable one; `None` if it
    /// does not have the partition.
    pub topic: Option<OffsetRange>,
}

/// Why an archive lacks offsets.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum HoleReason {
    /// They come after all that the archive has.
    NotArchivedYet,
    /// They come before all that the archive has, and the topic has them.
    BeforeArchive,
    /// The topic had lost them, and `SKIPPING LOST` let the job continue behind them.
    SkippedAsLost {
        /// The name of the job.
        job: String,
        /// The number of its batch.
        batch: u64,
    },
    /// No commit tells it. Between the rows of an archive that no job has written, control records and compaction leave such
    /// holes too.
    Unknown,
}

impl fmt::Display for HoleReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotArchivedYet => f.write_str("not archived yet"),
            Self::BeforeArchive => f.write_str("not archived: before the archive begins"),
            Self::SkippedAsLost { job, batch } => {
                write!(f, "skipped as lost by job {job} in batch {batch}")
            }
            Self::Unknown => f.write_str("unknown"),
        }
    }
}

/// Whether the archive has the offsets of a range.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CoverageKind {
    /// It has them.
    Covered,
    /// It lacks them.
    Hole(HoleReason),
}

/// A range of offsets of one kind.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CoverageRange {
    /// The offsets; at least one.
    pub range: OffsetRange,
    /// Whether the archive has them.
    pub kind: CoverageKind,
}

/// The covered ranges of a partition and the holes between, before and behind them: in order, without gaps, from the first offset that
/// archive or topic have to the last.
pub fn coverage(facts: &CoverageFacts) -> Vec<CoverageRange> {
    let CoverageFacts {
        covered,
        lost,
        topic,
    } = facts;
    let mut lost: Vec<&LostRange> = lost.iter().filter(|lost| !lost.range.is_empty()).collect();
    lost.sort_by_key(|lost| (lost.range, lost.batch));
    let begin = lost.iter().map(|lost| lost.range.from);
    let begin = begin.chain(covered.first()).min();
    let end = lost.iter().map(|lost| lost.range.to);
    let end = end.chain(covered.end()).max();
    let low = topic.map(|topic| topic.from);
    let high = topic.map(|topic| topic.to);
    let (Some(from), Some(to)) = (begin.into_iter().chain(low).min(), end.max(high)) else {
        return Vec::new();
    };
    let reason_of = |hole: OffsetRange| match (begin, end) {
        (Some(begin), _) if hole.to <= begin => HoleReason::BeforeArchive,
        (_, Some(end)) if hole.from < end => HoleReason::Unknown,
        _ => HoleReason::NotArchivedYet,
    };
    let mut found: Vec<CoverageRange> = covered
        .ranges()
        .map(|range| CoverageRange {
            range,
            kind: CoverageKind::Covered,
        })
        .collect();
    for gap in covered.missing_in(OffsetRange::new(from, to)).ranges() {
        let mut rest = gap;
        let mut add = |range: OffsetRange, reason: HoleReason| {
            if !range.is_empty() {
                let kind = CoverageKind::Hole(reason);
                found.push(CoverageRange { range, kind });
            }
        };
        for lost in &lost {
            let part = lost.range.within(rest);
            if part.is_empty() {
                continue;
            }
            let before = OffsetRange::new(rest.from, part.from);
            add(before, reason_of(before));
            let (job, batch) = (lost.job.clone(), lost.batch);
            add(part, HoleReason::SkippedAsLost { job, batch });
            rest.from = part.to;
        }
        add(rest, reason_of(rest));
    }
    found.sort_by_key(|found| found.range);
    found
}

/// Offsets among `asked` that the archive lacks for a reason that no commit tells, and that the topic cannot fill: they are lost, or
/// never were. A query warns of them, and a job does not continue over them.
///
/// Offsets that were skipped as lost are explained. Offsets that are not archived yet are not, once the topic has lost them too: then
/// the archive is behind retention. `facts.covered` may be the span of the archive's rows, if their gaps do not matter.
pub fn unexplained_holes(facts: &CoverageFacts, asked: OffsetRange) -> OffsetRanges {
    let mut holes: OffsetRanges = coverage(facts)
        .into_iter()
        .filter_map(|found| match found.kind {
            CoverageKind::Covered | CoverageKind::Hole(HoleReason::SkippedAsLost { .. }) => None,
            CoverageKind::Hole(
                HoleReason::NotArchivedYet | HoleReason::BeforeArchive | HoleReason::Unknown,
            ) => Some(found.range.within(asked)),
        })
        .collect();
    if let Some(topic) = facts.topic {
        holes.remove(topic);
    }
    holes
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use proptest::prelude::*;

    use super::*;

    fn lost(from: i64, to: i64, batch: u64) -> LostRange {
        LostRange {
            range: OffsetRange::new(from, to),
            job: "j".to_owned(),
            batch,
        }
    }

    fn told(facts: &CoverageFacts) -> Vec<(i64, i64, String)> {
        let found = coverage(facts).into_iter().map(|found| {
            let kind = match found.kind {
                CoverageKind::Covered => "covered".to_owned(),
                CoverageKind::Hole(reason) => reason.to_string(),
            };
            (found.range.from, found.range.to, kind)
        });
        found.collect()
    }

    #[test]
    fn holes_have_their_reasons() {
        let facts = CoverageFacts {
            covered: [(10, 20), (25, 30), (40, 50)]
                .map(|(from, to)| OffsetRange::new(from, to))
                .into_iter()
                .collect(),
            lost: vec![lost(30, 38, 7)],
            topic: Some(OffsetRange::new(5, 60)),
        };
        let expected = [
            (5, 10, "not archived: before the archive begins"),
            (10, 20, "covered"),
            (20, 25, "unknown"),
            (25, 30, "covered"),
            (30, 38, "skipped as lost by job j in batch 7"),
            (38, 40, "unknown"),
            (40, 50, "covered"),
            (50, 60, "not archived yet"),
        ];
        assert_eq!(
            told(&facts),
            expected.map(|(from, to, kind)| (from, to, kind.to_owned()))
        );
        let all = OffsetRange::new(0, i64::MAX);
        assert!(unexplained_holes(&facts, all).is_empty());
        // The topic has lost what the archive lacks: also the records that came after its end.
        let facts = CoverageFacts {
            topic: Some(OffsetRange::new(55, 60)),
            ..facts
        };
        let holes: Vec<(i64, i64)> = unexplained_holes(&facts, all)
            .ranges()
            .map(|range| (range.from, range.to))
            .collect();
        assert_eq!(holes, [(20, 25), (38, 40), (50, 55)]);
        let asked = OffsetRange::new(24, 39);
        let holes: Vec<i64> = unexplained_holes(&facts, asked)
            .ranges()
            .flat_map(|range| range.from..range.to)
            .collect();
        assert_eq!(holes, [24, 38]);
    }

    #[test]
    fn an_archive_without_the_partition_has_all_of_it_to_archive() {
        let mut facts = CoverageFacts {
            topic: Some(OffsetRange::new(3, 9)),
            ..CoverageFacts::default()
        };
        assert_eq!(told(&facts), [(3, 9, "not archived yet".to_owned())]);
        // The topic no longer has the partition, and the archive does.
        facts.topic = None;
        assert_eq!(told(&facts), []);
        facts.covered.insert(OffsetRange::new(1, 2));
        assert_eq!(told(&facts), [(1, 2, "covered".to_owned())]);
    }

    fn ranges(max: usize) -> impl Strategy<Value = Vec<OffsetRange>> {
        let range = (0_i64..60, 1_i64..12).prop_map(|(from, n)| OffsetRange::new(from, from + n));
        prop::collection::vec(range, 0..max)
    }

    proptest! {
        /// Each offset is asked for one by one.
        #[test]
        fn coverage_tells_of_each_offset_once(
            covered in ranges(6),
            skipped in ranges(4),
            topic in prop::option::of((0_i64..80, 0_i64..30)),
            asked in (0_i64..80, 0_i64..80),
        ) {
            let topic = topic.map(|(low, n)| OffsetRange::new(low, low + n));
            let facts = CoverageFacts {
                covered: covered.iter().copied().collect(),
                lost: skipped.iter().zip(1..).map(|(range, batch)| lost(range.from, range.to, batch)).collect(),
                topic,
            };
            let has = |ranges: &[OffsetRange], offset: i64| {
                ranges.iter().any(|range| (range.from..range.to).contains(&offset))
            };
            let in_topic = |offset: i64| topic.is_some_and(|topic| (topic.from..topic.to).contains(&offset));
            let archived: Vec<i64> = (0..120).filter(|o| has(&covered, *o) || has(&skipped, *o)).collect();
            let mut kinds = BTreeMap::new();
            for found in coverage(&facts) {
                for offset in found.range.from..found.range.to {
                    prop_assert!(kinds.insert(offset, found.kind.clone()).is_none());
                }
            }
            let holes = unexplained_holes(&facts, OffsetRange::new(asked.0, asked.1));
            let holes: BTreeSet<i64> = holes.ranges().flat_map(|range| range.from..range.to).collect();
            // From the first offset to the last, without a gap.
            if let (Some((first, _)), Some((last, _))) = (kinds.first_key_value(), kinds.last_key_value()) {
                prop_assert_eq!(kinds.len() as i64, last - first + 1);
            }
            for offset in 0..120 {
                let kind = kinds.get(&offset);
                if has(&covered, offset) {
                    prop_assert_eq!(kind, Some(&CoverageKind::Covered));
                } else if has(&skipped, offset) {
                    let is_lost = matches!(kind, Some(CoverageKind::Hole(HoleReason::SkippedAsLost { .. })));
                    prop_assert!(is_lost, "{offset} is {kind:?}");
                } else if let Some(CoverageKind::Hole(reason)) = kind {
                    let expected = match (archived.first(), archived.last()) {
                        (Some(first), _) if offset < *first => HoleReason::BeforeArchive,
                        (_, Some(last)) if offset < *last => HoleReason::Unknown,
                        _ => HoleReason::NotArchivedYet,
                    };
                    prop_assert_eq!(reason, &expected);
                    let is_unexplained = !in_topic(offset) && (asked.0..asked.1).contains(&offset);
                    prop_assert_eq!(holes.contains(&offset), is_unexplained);
                    continue;
                } else {
                    prop_assert!(kind.is_none());
                    prop_assert!(!in_topic(offset), "{offset} is in the topic");
                }
                prop_assert!(!holes.contains(&offset));
            }
        }
    }
}
