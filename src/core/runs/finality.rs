//! Which results of a run are final: the archive has all rows that they are made of, as far as the watermark says (TIME-1, TIME-2).
//! Times are microseconds since 1970 UTC.

use std::fmt;

use super::grouping::Grouping;
use super::time_range::time_text;
use crate::core::jobs::left_groups::LeftGroups;
use crate::core::jobs::watermark::{JobTime, PartitionTime, lowest};

/// What the archive has of one partition.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PartitionArchive {
    /// The highest event time; none if it has no row.
    pub highest: Option<i64>,
    /// It has all records that the topic has.
    pub has_all: bool,
}

/// The watermark of an archive: the lowest over its partitions of the highest event time less `delay`. A partition of which the
/// archive has all is as one that is idle: it holds no other back, and if all are such, the highest counts. None if a partition has no
/// row yet that is not as an idle one: then nothing is final.
pub fn archive_watermark(
    partitions: impl IntoIterator<Item = PartitionArchive>,
    delay: i64,
) -> Option<i64> {
    let times: Vec<PartitionTime> = partitions
        .into_iter()
        .map(|partition| PartitionTime {
            watermark: partition.highest.map(|time| time.saturating_sub(delay)),
            idle: partition.has_all,
            unfinished: None,
        })
        .collect();
    lowest(times.iter())
}

/// The watermark by which a run of a job is final, of partitions with these times, from which delays are taken off. `of_job` is the job's
/// own time after its last batch; none of a job without a batch.
///
/// A partition that is archived to its end holds nothing back, but more of its rows may be on their way: the job, which waits for them,
/// knows. So what the archive would hold back, if no partition were as an idle one, is final by the job's watermark at the latest.
pub fn run_watermark(partitions: &[PartitionArchive], of_job: Option<&JobTime>) -> Option<i64> {
    let by_archive = archive_watermark(partitions.iter().copied(), 0);
    let Some(of_job) = of_job else {
        return by_archive;
    };
    let awake = partitions.iter().map(|partition| PartitionArchive {
        has_all: false,
        ..*partition
    });
    archive_watermark(awake, 0).max(by_archive.min(of_job.watermark))
}

/// Which windows and sessions are final.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Finality {
    /// The latest end of one that is final; none if none is.
    last_end: Option<i64>,
}

impl Finality {
    /// By the watermark of the archives. A window is final if its end is not after the watermark; a session if its last row and the
    /// gap are before it, since a row exactly a gap later still joins (SESS-1). Rows without a group are always final.
    pub fn new(grouping: Grouping, watermark: Option<i64>) -> Self {
        let last_end = match grouping {
            Grouping::Rows => Some(i64::MAX),
            Grouping::Aligned(_) => watermark,
            Grouping::Sessions { .. } => watermark.and_then(|watermark| watermark.checked_sub(1)),
        };
        Self { last_end }
    }

    /// Whether a window or session that ends at `end` is final; the end of a session is a gap after its last row.
    pub fn is_final(&self, end: i64) -> bool {
        self.last_end.is_some_and(|last| end <= last)
    }

    /// The latest end of a window or session that is final, for a condition on the column of ends; none if none is.
    pub fn last_end(&self) -> Option<i64> {
        self.last_end
    }
}

impl fmt::Display for LeftGroups {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} left out", self.count())?;
        for group in self.first() {
            let (start, end) = (time_text(group.start), time_text(group.end));
            write!(f, "; {} from {start} to {end}: {}", group.key, group.reason)?;
        }
        match self.count().saturating_sub(self.first().len() as u64) {
            0 => Ok(()),
            more => write!(f, "; and {more} more"),
        }
    }
}

#[cfg(test)]
mod tests {
    use anabranch_udfs::{AlignedWindows, WindowKind};
    use proptest::prelude::*;

    use super::*;
    use crate::core::jobs::left_groups::LeftReason;

    fn archived(highest: i64, has_all: bool) -> PartitionArchive {
        PartitionArchive {
            highest: Some(highest),
            has_all,
        }
    }

    fn empty(has_all: bool) -> PartitionArchive {
        PartitionArchive {
            highest: None,
            has_all,
        }
    }

    #[test]
    fn time_1_the_lowest_partition_that_is_not_archived_to_its_end_counts() {
        for (partitions, watermark) in [
            (&[archived(100, false), archived(50, false)][..], Some(40)),
            (&[archived(100, false), archived(50, true)], Some(90)),
            (&[archived(100, true), archived(50, true)], Some(90)),
            (&[archived(100, false), empty(false)], None),
            (&[archived(100, false), empty(true)], Some(90)),
            (&[empty(true)], None),
            (&[], None),
        ] {
            let found = archive_watermark(partitions.iter().copied(), 10);
            assert_eq!(found, watermark, "{partitions:?}");
        }
    }

    #[test]
    fn time_1_a_partition_that_the_job_waits_for_holds_a_run_back() {
        let job = |watermark| JobTime {
            watermark,
            ..JobTime::default()
        };
        let slow = [archived(100, true), archived(50, true)];
        for (partitions, of_job, watermark) in [
            (&slow[..], None, Some(100)),
            // The job waits for the second partition.
            (&slow, Some(job(Some(50))), Some(50)),
            // By now it is idle for the job.
            (&slow, Some(job(Some(100))), Some(100)),
            // The job is behind, or has met no row of a partition. What all partitions have passed is final all the same.
            (&slow, Some(job(Some(20))), Some(50)),
            (&slow, Some(job(None)), Some(50)),
            (&[archived(100, true), empty(true)], Some(job(None)), None),
            (
                &[archived(100, true), empty(true)],
                Some(job(Some(70))),
                Some(70),
            ),
            // The job is ahead of the archive.
            (&slow, Some(job(Some(500))), Some(100)),
            (
                &[archived(100, false), archived(50, false)],
                Some(job(Some(500))),
                Some(50),
            ),
        ] {
            let found = run_watermark(partitions, of_job.as_ref());
            assert_eq!(found, watermark, "{partitions:?} {of_job:?}");
        }
    }

    #[test]
    fn time_2_windows_are_final_at_the_watermark_and_sessions_before_it() {
        let windows = AlignedWindows::try_new(WindowKind::Tumble, 10, 10, 0).unwrap();
        let windows = Finality::new(Grouping::Aligned(windows), Some(50));
        assert_eq!(
            [49, 50, 51].map(|end| windows.is_final(end)),
            [true, true, false]
        );
        let sessions = Finality::new(Grouping::Sessions { gap: 5 }, Some(50));
        assert_eq!([49, 50].map(|end| sessions.is_final(end)), [true, false]);
        assert_eq!(sessions.last_end(), Some(49));
        let none = Finality::new(Grouping::Sessions { gap: 5 }, None);
        assert!(!none.is_final(i64::MIN));
        assert!(Finality::new(Grouping::Rows, None).is_final(i64::MAX));
    }

    #[test]
    fn groups_that_are_left_out_are_named() {
        let mut left = LeftGroups::default();
        left.add(0, 1_000_000, "u1", LeftReason::NotFinal);
        let text = "1 left out; u1 from 1970-01-01T00:00:00Z to 1970-01-01T00:00:01Z: not final";
        assert_eq!(left.to_string(), text);
        for start in 1..8 {
            left.add(start, 9, "u", LeftReason::Capped);
        }
        assert!(left.to_string().ends_with("; and 3 more"), "{left}");
    }

    proptest! {
        #[test]
        fn the_groups_named_do_not_depend_on_the_chunks(
            groups in prop::collection::vec((0_i64..9, 0_usize..4), 0..20),
        ) {
            let (mut whole, mut chunks) = (LeftGroups::default(), vec![LeftGroups::default(); 4]);
            for (start, chunk) in &groups {
                whole.add(*start, 10, "k", LeftReason::NotFinal);
                chunks[*chunk].add(*start, 10, "k", LeftReason::NotFinal);
            }
            let mut sum = LeftGroups::default();
            for chunk in chunks {
                sum.add_all(chunk);
            }
            prop_assert_eq!(sum, whole);
        }
    }
}
