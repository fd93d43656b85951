//! When a range of a partition has been read to its end (LOSS-1). Pure decisions.

use crate::tables::kafka::range::OffsetRange;

/// Decides whether an end of partition that a broker reports at the first offset ends a range up to the second.
pub(crate) type EndRule = fn(i64, i64) -> bool;

/// An end of partition ends a range only if everything below the range's end was fetched: the broker that reports it
/// may be a follower that lags, or a new leader that does not know the last stable offset yet.
pub(crate) const fn ends_range(offset: i64, end: i64) -> bool {
    offset >= end
}

/// How far a range has been read.
#[derive(Debug, Clone)]
pub(crate) struct RangeProgress {
    end: i64,
    /// All records below it were given.
    next: i64,
    is_done: bool,
    /// The last end of partition that was reported, if nothing came after it.
    short_end: Option<i64>,
    rule: EndRule,
}

/// Where a record lies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum RecordPlace {
    /// Below the end: it is to be given.
    Within,
    /// At or past the end, so that the range is done.
    Beyond,
    /// At an offset that was passed already: the log was cut back while it was read.
    Repeated,
}

impl RangeProgress {
    /// The progress of a range; all its records below `next` were given.
    pub(crate) fn new(range: OffsetRange, next: i64, rule: EndRule) -> Self {
        let next = next.max(range.start);
        Self {
            end: range.end,
            next,
            is_done: next >= range.end,
            short_end: None,
            rule,
        }
    }

    /// A record came.
    pub(crate) fn record(&mut self, offset: i64) -> RecordPlace {
        if offset < self.next {
            return RecordPlace::Repeated;
        }
        self.short_end = None;
        if offset >= self.end {
            // No record lies between those that were given and this one.
            self.next = self.end;
            self.is_done = true;
            return RecordPlace::Beyond;
        }
        self.reach(offset + 1);
        RecordPlace::Within
    }

    /// The broker reported that there is nothing at or after this offset. True if that is further than was known.
    pub(crate) fn end_of_partition(&mut self, offset: i64) -> bool {
        let moved = self.reach(offset);
        self.is_done |= (self.rule)(offset, self.end);
        self.short_end = (!self.is_done).then_some(offset);
        moved
    }

    /// All records below this offset were given. True if that is further than was known.
    pub(crate) fn reach(&mut self, offset: i64) -> bool {
        let moved = offset > self.next;
        self.next = self.next.max(offset);
        self.is_done |= self.next >= self.end;
        moved
    }

    /// Whether every record of the range was given.
    pub(crate) fn is_done(&self) -> bool {
        self.is_done
    }

    /// All records below it were given.
    pub(crate) fn next(&self) -> i64 {
        self.next
    }

    /// How many offsets are left.
    pub(crate) fn left(&self) -> usize {
        usize::try_from(self.end - self.next).unwrap_or(0)
    }

    /// Where the broker that is read ends, if it ends below the range's end.
    pub(crate) fn short_end(&self) -> Option<i64> {
        self.short_end
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn range(start: i64, end: i64) -> OffsetRange {
        OffsetRange {
            partition: 0,
            start,
            end,
        }
    }

    #[test]
    fn an_end_of_partition_below_the_range_end_is_ignored() {
        let mut progress = RangeProgress::new(range(0, 100), 0, ends_range);
        assert_eq!(progress.record(59), RecordPlace::Within);
        assert!(!progress.end_of_partition(60));
        assert!(!progress.is_done());
        assert_eq!(progress.short_end(), Some(60));
        assert!(progress.end_of_partition(80), "aborted records were passed");
        assert_eq!(progress.record(80), RecordPlace::Within);
        assert_eq!(progress.short_end(), None);
        assert!(progress.end_of_partition(100));
        assert!(progress.is_done());
    }

    #[test]
    fn a_later_record_ends_a_range_and_an_earlier_one_is_refused() {
        let mut progress = RangeProgress::new(range(10, 20), 10, ends_range);
        assert_eq!(progress.record(12), RecordPlace::Within);
        assert_eq!(progress.record(12), RecordPlace::Repeated);
        assert_eq!(progress.record(25), RecordPlace::Beyond);
        assert!(progress.is_done());
        assert_eq!(progress.next(), 20);
    }

    /// A report goes by what has come and not by the rule that ended the range, so that a range that was ended too early is found.
    #[test]
    fn a_range_that_was_ended_early_is_short() {
        // A rule that takes any end of the partition for the end of the range.
        let mut progress = RangeProgress::new(range(50, 100), 60, |_, _| true);
        assert_eq!(progress.record(69), RecordPlace::Within);
        progress.end_of_partition(80);
        assert!(progress.is_done());
        assert_eq!(progress.next(), 80);
        let mut progress = RangeProgress::new(range(50, 100), 80, ends_range);
        progress.end_of_partition(100);
        assert_eq!(progress.next(), 100);
    }

    #[test]
    fn known_empty_ranges_are_done() {
        assert!(RangeProgress::new(range(10, 20), 20, ends_range).is_done());
        assert!(!RangeProgress::new(range(10, 20), 5, ends_range).is_done());
        let mut progress = RangeProgress::new(range(10, 20), 10, ends_range);
        assert!(progress.reach(20));
        assert!(progress.is_done());
    }
}
