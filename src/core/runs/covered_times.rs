//! What a chunk covers of the results that were given out before: the bounds of their times, by which a sink finds the rows that the
//! chunk's results replace. Times are microseconds since 1970 UTC.

use anabranch_udfs::WindowKind;

use super::chunks::Chunk;
use super::finality::Finality;
use super::grouping::Grouping;

/// Bounds of a time; none on a side means that it is open.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct TimeBounds {
    /// The earliest time.
    pub from: Option<i64>,
    /// The first time behind the latest.
    pub to: Option<i64>,
}

impl TimeBounds {
    /// Whether a time is within.
    pub fn contains(&self, time: i64) -> bool {
        self.from.is_none_or(|from| from <= time) && self.to.is_none_or(|to| time < to)
    }

    /// Whether every time is within.
    pub fn are_open(&self) -> bool {
        self.from.is_none() && self.to.is_none()
    }
}

/// Bounds of the results that a chunk covers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CoveredTimes {
    /// Those of the starts of windows, or of the event times of rows.
    pub starts: TimeBounds,
    /// Those of the ends.
    pub ends: TimeBounds,
}

impl Chunk {
    /// The bounds of the results that it gives: a result is covered if its start and its end are within. Results that are not final
    /// are not covered, since a run leaves them out. None of sessions: a published one may have rows of a session that goes over the edge of
    /// the chunk, or that the chunk leaves out, and only its key tells.
    pub fn covers(&self, finality: Finality) -> Option<CoveredTimes> {
        let (from, to) = (self.range.from(), self.range.to());
        let after = |time: Option<i64>| time.map(|time| time.saturating_add(1));
        // Nothing is final: the bounds are empty.
        let behind_final = after(finality.last_end()).unwrap_or(i64::MIN);
        match self.grouping {
            Grouping::Rows => Some(CoveredTimes {
                starts: bounds(from, to),
                ends: TimeBounds::default(),
            }),
            Grouping::Aligned(windows) => {
                let first = from.saturating_add(1);
                let last = to.saturating_add(1).min(behind_final);
                let size = windows.size();
                // A window is at most its size long, and its start is before its end.
                let latest_start = match windows.kind() {
                    WindowKind::Cumulate => last,
                    WindowKind::Tumble | WindowKind::Hop => last.saturating_sub(size),
                };
                Some(CoveredTimes {
                    starts: bounds(first.saturating_sub(size), latest_start),
                    ends: bounds(first, last),
                })
            }
            Grouping::Sessions { .. } => None,
        }
    }
}

impl Grouping {
    /// Whether these columns of a sink tell which chunk a result belongs to: a column with the start of its window, or with the event time
    /// of its row; and a column with its end. Those of sessions do not ([`Chunk::covers`]).
    pub fn is_told_by(&self, has_start: bool, has_end: bool) -> bool {
        match self {
            Self::Rows => has_start,
            Self::Aligned(windows) => {
                // Windows of several lengths have the same start.
                has_end || (has_start && windows.kind() != WindowKind::Cumulate)
            }
            Self::Sessions { .. } => false,
        }
    }
}

fn bounds(from: i64, to: i64) -> TimeBounds {
    TimeBounds {
        from: Some(from),
        to: Some(to),
    }
}

#[cfg(test)]
mod tests {
    use anabranch_udfs::AlignedWindows;
    use proptest::prelude::*;

    use super::super::chunks::Chunks;
    use super::super::time_range::TimeRange;
    use super::*;

    fn grouping(kind: u8) -> Grouping {
        let windows = |kind, size, step| {
            Grouping::Aligned(AlignedWindows::try_new(kind, size, step, 3).unwrap())
        };
        match kind {
            0 => Grouping::Rows,
            1 => windows(WindowKind::Tumble, 10, 10),
            2 => windows(WindowKind::Hop, 30, 10),
            _ => windows(WindowKind::Cumulate, 30, 10),
        }
    }

    /// The start and the end of each result that a row at this time has.
    fn results(grouping: Grouping, time: i64) -> Vec<(i64, i64)> {
        match grouping {
            Grouping::Aligned(windows) => {
                let (mut starts, mut ends) = (Vec::new(), Vec::new());
                windows.assign(time, &mut starts, &mut ends).unwrap();
                starts.into_iter().zip(ends).collect()
            }
            Grouping::Rows | Grouping::Sessions { .. } => vec![(time, time)],
        }
    }

    proptest! {
        #[test]
        fn a_chunk_covers_what_it_gives_and_is_final(
            kind in 0_u8..4,
            asked in (-50_i64..50, 1_i64..60),
            chunk_length in 1_i64..40,
            watermark in proptest::option::of(-60_i64..90),
            time in -90_i64..120,
        ) {
            let grouping = grouping(kind);
            let asked = TimeRange::try_new(asked.0, asked.0 + asked.1).unwrap();
            let chunks = Chunks::new(grouping, grouping.emission(asked).unwrap().into());
            let finality = Finality::new(grouping, watermark);
            let mut position = None;
            while let Some(chunk) = chunks.next(position, chunk_length) {
                position = Some(chunk.range.to());
                let covered = chunk.covers(finality).unwrap();
                for (start, end) in results(grouping, time) {
                    let is_given = chunk.gives(start, end) && finality.is_final(end);
                    let by_start = covered.starts.contains(start);
                    let by_end = covered.ends.contains(end);
                    prop_assert_eq!(by_start && by_end, is_given, "{:?} {:?}", chunk, (start, end));
                    for (has_start, has_end) in [(true, false), (false, true), (true, true)] {
                        if grouping.is_told_by(has_start, has_end) {
                            let found = (!has_start || by_start) && (!has_end || by_end);
                            prop_assert_eq!(found, is_given, "{} {}", has_start, has_end);
                        }
                    }
                }
            }
        }
    }

    #[test]
    fn sessions_are_not_found_by_their_times() {
        let grouping = Grouping::Sessions { gap: 7 };
        let range = TimeRange::try_new(28, 60).unwrap();
        // A session from 10 to 27 may have become a part of one that goes on to 40.
        let chunk = Chunks::new(grouping, range.into()).next(None, 90).unwrap();
        assert_eq!(chunk.covers(Finality::new(grouping, Some(99))), None);
        for (has_start, has_end) in [(true, false), (false, true), (true, true)] {
            assert!(!grouping.is_told_by(has_start, has_end));
        }
    }

    #[test]
    fn open_bounds_contain_everything() {
        let open = TimeBounds::default();
        assert!(open.are_open() && open.contains(i64::MIN) && open.contains(i64::MAX));
        let half = TimeBounds {
            from: Some(3),
            to: None,
        };
        assert!(!half.are_open() && half.contains(3) && !half.contains(2));
    }
}
