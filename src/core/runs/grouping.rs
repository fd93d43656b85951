//! How the rows of a job are put together in time, and what that means for a range of event time: which part of the axis of time
//! holds the results that have a row in it, and what they are made of.

use anabranch_udfs::AlignedWindows;

use super::time_range::{TimeRange, TimeRanges};

/// How a job puts rows together in time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Grouping {
    /// It does not: a row of input gives its rows of output.
    Rows,
    /// In windows aligned to the epoch, in microseconds.
    Aligned(AlignedWindows),
    /// In sessions.
    Sessions {
        /// How far apart neighbours may be, in microseconds.
        gap: i64,
    },
}

impl Grouping {
    /// The instants to which the results with a row in `range` belong.
    ///
    /// A row belongs to its event time. A window belongs to its last instant, so that each window belongs to one place, and
    /// overlapping windows are cut at any boundary of their steps. A session belongs to the first of its rows that is in the range:
    /// the range stays as it is. None if a window is out of range.
    pub fn emission(&self, range: TimeRange) -> Option<TimeRange> {
        match self {
            Self::Rows | Self::Sessions { .. } => Some(range),
            Self::Aligned(windows) => {
                let (from, to) = windows.last_ticks_of(range.from(), range.to())?;
                TimeRange::try_new(from, to)
            }
        }
    }

    /// The instants to which the results belong that have a row at one of `times`. None if a window is out of range.
    ///
    /// Of sessions, each range is longer than the gap and more than the gap from the next: so a session that goes from one to the
    /// next has a row in both ([`super::chunks`]).
    pub fn emission_of_rows(&self, times: &[i64]) -> Option<TimeRanges> {
        let range_of = |time: i64| match self {
            Self::Sessions { gap } => {
                TimeRange::try_new(time, time.checked_add(*gap)?.checked_add(1)?)
            }
            Self::Rows | Self::Aligned(_) => {
                self.emission(TimeRange::try_new(time, time.checked_add(1)?)?)
            }
        };
        let ranges: Option<Vec<TimeRange>> = times.iter().map(|time| range_of(*time)).collect();
        let distance = match self {
            Self::Sessions { gap } => *gap,
            Self::Rows | Self::Aligned(_) => 0,
        };
        Some(TimeRanges::joined(ranges?, distance))
    }

    /// The event times of all rows of the results that belong to `part`, whose ends are on the grid. Of sessions these are the first
    /// ones to read: `COMPLETE_SESSIONS` reads on, slice by slice, while a session is open at an edge. None if it is out of range.
    pub fn read_range(&self, part: TimeRange) -> Option<TimeRange> {
        match self {
            Self::Rows => Some(part),
            Self::Aligned(windows) => {
                TimeRange::try_new(windows.first_tick_of(part.from())?, part.to())
            }
            Self::Sessions { gap } => {
                TimeRange::try_new(part.from().checked_sub(*gap)?, part.to().checked_add(*gap)?)
            }
        }
    }

    /// The first place at or after `time` where chunks may be cut: the boundaries of the windows' steps. None if it is out of range.
    pub(super) fn cut_at_or_after(&self, time: i64) -> Option<i64> {
        match self {
            Self::Rows | Self::Sessions { .. } => Some(time),
            Self::Aligned(windows) => {
                let step = windows.step();
                let before = windows.boundary_at_or_before(time, step)?;
                match before == time {
                    true => Some(time),
                    false => before.checked_add(step),
                }
            }
        }
    }

    /// Whether it puts rows together in sessions.
    pub(super) fn is_sessions(&self) -> bool {
        matches!(self, Self::Sessions { .. })
    }

    /// How long the first chunk of a range must be.
    pub(super) fn least_first_chunk(&self) -> i64 {
        match self {
            Self::Rows | Self::Aligned(_) => 1,
            Self::Sessions { gap } => (*gap).max(1),
        }
    }
}

#[cfg(test)]
mod tests {
    use anabranch_udfs::WindowKind;

    use super::*;

    fn range(from: i64, to: i64) -> TimeRange {
        TimeRange::try_new(from, to).unwrap()
    }

    fn windows(kind: WindowKind, size: i64, step: i64) -> Grouping {
        Grouping::Aligned(AlignedWindows::try_new(kind, size, step, 0).unwrap())
    }

    #[test]
    fn a_range_is_widened_to_whole_windows() {
        let asked = range(25, 31);
        for (grouping, emitted, read) in [
            (Grouping::Rows, range(25, 31), range(25, 31)),
            (
                windows(WindowKind::Tumble, 10, 10),
                range(20, 40),
                range(20, 40),
            ),
            // Windows that end after 20 and by 60, the first of which starts at 0.
            (
                windows(WindowKind::Hop, 30, 10),
                range(20, 60),
                range(0, 60),
            ),
            // Those of 0 to 30 that end at 30, and all of 30 to 60.
            (
                windows(WindowKind::Cumulate, 30, 10),
                range(20, 60),
                range(0, 60),
            ),
            (Grouping::Sessions { gap: 7 }, range(25, 31), range(18, 38)),
        ] {
            assert_eq!(grouping.emission(asked), Some(emitted), "{grouping:?}");
            assert_eq!(grouping.read_range(emitted), Some(read), "{grouping:?}");
        }
        let far = range(i64::MAX - 1, i64::MAX);
        assert_eq!(windows(WindowKind::Tumble, 10, 10).emission(far), None);
    }

    #[test]
    fn rows_far_apart_are_reached_without_what_lies_between() {
        let times = [5, 1_000, 12, 1_005];
        let ranges = |grouping: Grouping| grouping.emission_of_rows(&times).unwrap();
        let of = |pairs: &[(i64, i64)]| {
            let pairs = pairs.iter().map(|(from, to)| range(*from, *to));
            TimeRanges::joined(pairs.collect(), 0)
        };
        let tumble = windows(WindowKind::Tumble, 10, 10);
        assert_eq!(ranges(tumble), of(&[(0, 20), (1_000, 1_010)]));
        let sessions = Grouping::Sessions { gap: 5 };
        assert_eq!(ranges(sessions), of(&[(5, 18), (1_000, 1_011)]));
    }

    #[test]
    fn windows_are_cut_at_their_steps() {
        let hop = windows(WindowKind::Hop, 30, 10);
        let cuts = [-1, 0, 1, 10].map(|time| hop.cut_at_or_after(time));
        assert_eq!(cuts, [Some(0), Some(0), Some(10), Some(10)]);
        assert_eq!(Grouping::Rows.cut_at_or_after(7), Some(7));
    }
}
