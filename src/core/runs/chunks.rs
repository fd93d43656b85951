//! Chunks of a run by event time: contiguous cuts of what it emits. How long they are may change from attempt to attempt; the rows of
//! all chunks together do not (RUN-2).
//!
//! A chunk gives the results that belong to its instants ([`Grouping::emission`]). A session may have rows in many chunks: the chunk
//! `a..b` completes the sessions with a row in `a..b`, and drops those that began before `a`, since an earlier chunk has them. That is
//! so if the first chunk of a range is at least a gap long: a session that began before the range and is still there a gap later
//! has a row within that gap. So the first chunk is never cut shorter; a shorter range has one chunk.

use super::grouping::Grouping;
use super::time_range::{TimeRange, TimeRanges};
use crate::error::{Error, Result, Subject};

/// How long a chunk usually is, in microseconds of event time.
const HOUR: i64 = 3_600_000_000;

/// Of a range that has more chunks of an hour than this, they are longer: most of such a range has no rows.
const MOST_CHUNKS: i64 = 10_000;

/// A statement may not ask for more chunks of a range: the log of the run has an entry for each.
const MOST_ASKED: i64 = 100_000;

/// How long chunks of these ranges are if the statement does not say.
pub fn usual_length(emission: &TimeRanges) -> i64 {
    HOUR.max(whole_length(emission) / MOST_CHUNKS)
}

/// Checks the length of chunks that a statement asks for.
///
/// # Errors
///
/// These ranges would have too many of them.
pub fn check_length(grouping: Grouping, emission: &TimeRanges, length: i64) -> Result<()> {
    let whole = whole_length(emission);
    // Chunks of windows end where windows do.
    let shortest = match grouping {
        Grouping::Aligned(windows) => length.max(windows.step()),
        Grouping::Rows | Grouping::Sessions { .. } => length.max(1),
    };
    let chunks = whole / shortest;
    if chunks <= MOST_ASKED {
        return Ok(());
    }
    let second = 1_000_000;
    let least = (whole / MOST_ASKED) / second + 1;
    Err(Error::invalid(format!(
        "chunks of this length would be about {chunks}, and a run has at most {MOST_ASKED} chunks"
    ))
    .about(Subject::option("chunk"))
    .with_help(format!(
        "write 'chunk' '{least} seconds' or more, or leave 'chunk' out; several runs over shorter ranges are as good as one"
    )))
}

/// How long these ranges are together.
fn whole_length(emission: &TimeRanges) -> i64 {
    let lengths = emission.as_slice().iter();
    let lengths = lengths.map(|range| range.to().saturating_sub(range.from()));
    lengths.fold(0, i64::saturating_add)
}

/// One cut of a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Chunk {
    /// The instants whose results it gives; the run stands at their end when it is committed.
    pub range: TimeRange,
    /// Of sessions: those that began earlier are of an earlier chunk.
    pub begun_from: Option<i64>,
    pub(super) grouping: Grouping,
}

impl Chunk {
    /// The event times that it reads; of sessions, first ([`Grouping::read_range`]). None if it is out of range.
    pub fn reads(&self) -> Option<TimeRange> {
        self.grouping.read_range(self.range)
    }

    /// Whether it gives the window or session from `start` to `end`, or the row at `start`. Of sessions: one with a row in
    /// [`Self::range`].
    pub fn gives(&self, start: i64, end: i64) -> bool {
        match self.grouping {
            Grouping::Rows => self.range.contains(start),
            Grouping::Aligned(_) => self.range.from() < end && end <= self.range.to(),
            Grouping::Sessions { .. } => self.begun_from.is_none_or(|from| start >= from),
        }
    }
}

/// The chunks of a run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Chunks {
    grouping: Grouping,
    /// Where results belong that the run gives, with ends at places where chunks may be cut.
    emission: TimeRanges,
}

impl Chunks {
    /// The chunks of what a run emits, as [`Grouping`] gives it.
    pub fn new(grouping: Grouping, emission: TimeRanges) -> Self {
        Self { grouping, emission }
    }

    /// The next chunk of about `length` microseconds. `position` is the end of the last chunk that was committed, in this attempt or
    /// an earlier one; none before the first. None if the run is complete.
    pub fn next(&self, position: Option<i64>, length: i64) -> Option<Chunk> {
        let ranges = self.emission.as_slice();
        let is_passed = |range: &TimeRange| position.is_some_and(|at| range.to() <= at);
        let at = ranges.partition_point(is_passed);
        let range = ranges.get(at)?;
        let from = position.map_or(range.from(), |position| position.max(range.from()));
        let is_first = from == range.from();
        let length = match is_first {
            true => length.max(self.grouping.least_first_chunk()),
            false => length.max(1),
        };
        let to = from.saturating_add(length);
        // Beyond the last boundary the range has ended.
        let to = self.grouping.cut_at_or_after(to).unwrap_or(i64::MAX);
        let begun_from = match (is_first, at.checked_sub(1)) {
            (false, _) => Some(from),
            // The session has a row in the range before if it began before that ended.
            (true, Some(before)) => ranges.get(before).map(TimeRange::to),
            (true, None) => None,
        };
        Some(Chunk {
            range: TimeRange::try_new(from, to.min(range.to()))?,
            begun_from: begun_from.filter(|_| self.grouping.is_sessions()),
            grouping: self.grouping,
        })
    }

    /// Whether a run at `position` has given everything.
    pub fn is_complete(&self, position: Option<i64>) -> bool {
        self.next(position, 1).is_none()
    }
}

#[cfg(test)]
mod tests {
    use anabranch_udfs::{AlignedWindows, WindowKind};

    use super::*;

    fn range(from: i64, to: i64) -> TimeRange {
        TimeRange::try_new(from, to).unwrap()
    }

    fn cuts(chunks: &Chunks, length: i64) -> Vec<(i64, i64, Option<i64>)> {
        let mut found = Vec::new();
        let mut position = None;
        while let Some(chunk) = chunks.next(position, length) {
            found.push((chunk.range.from(), chunk.range.to(), chunk.begun_from));
            position = Some(chunk.range.to());
        }
        assert!(chunks.is_complete(position));
        found
    }

    #[test]
    fn the_first_chunk_of_sessions_is_a_gap_long() {
        let chunks = |to| Chunks::new(Grouping::Sessions { gap: 10 }, range(0, to).into());
        let expected = [(0, 10, None), (10, 14, Some(10)), (14, 15, Some(14))];
        assert_eq!(cuts(&chunks(15), 4), expected);
        assert_eq!(cuts(&chunks(7), 4), [(0, 7, None)]);
        // A resumed run goes on with chunks of another length.
        let next = chunks(15).next(Some(10), 1).unwrap();
        assert_eq!((next.range, next.begun_from), (range(10, 11), Some(10)));
    }

    #[test]
    fn chunks_of_windows_end_at_steps() {
        let windows = AlignedWindows::try_new(WindowKind::Hop, 30, 10, 0).unwrap();
        let grouping = Grouping::Aligned(windows);
        let chunks = Chunks::new(grouping, grouping.emission(range(25, 31)).unwrap().into());
        let expected = [(20, 40, None), (40, 60, None)];
        assert_eq!(cuts(&chunks, 11), expected);
        assert_eq!(cuts(&chunks, 1).len(), 4);
        assert_eq!(cuts(&chunks, i64::MAX), [(20, 60, None)]);
        let chunk = chunks.next(None, 1).unwrap();
        assert_eq!(chunk.reads(), Some(range(0, 30)));
        assert!(chunk.gives(0, 30) && !chunk.gives(10, 40));
    }

    #[test]
    fn chunks_may_not_be_too_many() {
        let second = 1_000_000;
        let day = TimeRanges::from(range(0, 24 * HOUR));
        let decades = TimeRanges::from(range(0, 20 * 365 * 24 * HOUR));
        let check = |of: &TimeRanges, length| check_length(Grouping::Rows, of, length);
        assert!(check(&day, second).is_ok());
        assert!(check(&day, second / 2).is_err());
        let error = check(&decades, second).unwrap_err();
        let said = error.message();
        assert!(said.contains("about 630720000,"), "{said}");
        let help = error.help().unwrap();
        assert!(help.contains("'chunk' '6308 seconds'"), "{help}");
        assert!(check(&decades, 6_308 * second).is_ok());
        assert!(check(&decades, 6_307 * second).is_err());
        // Windows of a day have one chunk a day at most.
        let days = AlignedWindows::try_new(WindowKind::Tumble, 24 * HOUR, 24 * HOUR, 0).unwrap();
        assert!(check_length(Grouping::Aligned(days), &decades, second).is_ok());
        assert!(check_length(Grouping::Sessions { gap: HOUR }, &decades, second).is_err());
        let all = TimeRanges::from(range(i64::MIN, i64::MAX));
        assert!(check(&all, HOUR).is_err());
    }

    #[test]
    fn a_wide_range_has_longer_chunks() {
        let day = 24 * HOUR;
        let length = |ranges: Vec<TimeRange>| usual_length(&TimeRanges::joined(ranges, 0));
        assert_eq!(length(vec![range(0, 300 * day)]), HOUR);
        let century = range(0, 36_500 * day);
        assert_eq!(
            length(vec![century, range(-day, 0)]),
            36_501 * day / MOST_CHUNKS
        );
        assert_eq!(
            length(vec![range(i64::MIN, i64::MAX)]),
            i64::MAX / MOST_CHUNKS
        );
        assert_eq!(length(Vec::new()), HOUR);
    }

    #[test]
    fn a_run_goes_from_range_to_range() {
        let ranges = TimeRanges::joined(vec![range(0, 20), range(100, 130)], 0);
        let chunks = Chunks::new(Grouping::Sessions { gap: 15 }, ranges);
        let expected = [
            (0, 15, None),
            (15, 20, Some(15)),
            (100, 115, Some(20)),
            (115, 125, Some(115)),
            (125, 130, Some(125)),
        ];
        assert_eq!(cuts(&chunks, 10), expected);
        assert!(Chunks::new(Grouping::Rows, TimeRanges::default()).is_complete(None));
    }
}
