//! Adaptive batch size: fewer records after a transaction has timed out or a batch did not fit into memory, more again when
//! batches are quick.

use std::time::Duration;

/// After a batch did not fit into memory, so many smaller ones are committed before one of that size is tried again: each
/// failed attempt is wasted work.
const BEFORE_MORE: u32 = 64;

/// A limit below the job's own, while batches would take too long or too much.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct AdaptiveBatchSize {
    limit: Option<u64>,
    /// A batch of so many records did not fit into memory.
    too_many: Option<u64>,
    /// Batches committed since then that were as large as the limit allows.
    since: u32,
}

impl AdaptiveBatchSize {
    /// How many records the next batch may have, if the job's options allow `wanted`.
    pub(super) fn rows(&self, wanted: u64) -> u64 {
        self.limit.map_or(wanted, |limit| limit.min(wanted))
    }

    /// A batch of so many records took longer than its transaction may: the next one has half as many. False if it cannot
    /// have fewer.
    pub(super) fn timed_out(&mut self, rows: u64) -> bool {
        self.shrink(rows, 2)
    }

    /// There was not enough memory for a batch of so many records: the next one has a quarter. False if it cannot have fewer.
    pub(super) fn too_large(&mut self, rows: u64) -> bool {
        rows > 0 && self.shrink(rows, 4)
    }

    /// So many records do not fit even when no other job holds memory.
    pub(super) fn does_not_fit(&mut self, rows: u64) {
        (self.too_many, self.since) = (Some(rows), 0);
    }

    fn shrink(&mut self, rows: u64, divisor: u64) -> bool {
        let before = self.limit.replace((rows / divisor).max(1));
        // Every partition gives one record at least.
        rows > 1 && before != Some(1)
    }

    /// A batch of so many records was committed in time: one twice as long must still have half of the time to spare.
    pub(super) fn committed(&mut self, rows: u64, took: Duration, timeout: Option<Duration>) {
        let is_quick = timeout.is_none_or(|timeout| took * 4 <= timeout);
        let Some(limit) = self.limit.filter(|limit| is_quick && rows >= *limit) else {
            return;
        };
        let more = limit.checked_mul(2);
        let did_not_fit = |too_many: u64| more.is_none_or(|more| more >= too_many);
        if self.too_many.is_some_and(did_not_fit) && self.since < BEFORE_MORE {
            self.since += 1;
            return;
        }
        (self.limit, self.since) = (more, 0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_batch_is_halved_until_it_fits_and_grows_when_there_is_time() {
        let seconds = Duration::from_secs;
        let mut pace = AdaptiveBatchSize::default();
        assert_eq!(pace.rows(1_000), 1_000);
        assert!(pace.timed_out(1_000));
        assert!(pace.timed_out(500));
        assert_eq!(pace.rows(1_000), 250);
        // A batch of twice the size would take too long again.
        pace.committed(250, seconds(40), Some(seconds(60)));
        assert_eq!(pace.rows(1_000), 250);
        // A batch that was not full does not show how long a full one takes.
        pace.committed(10, seconds(1), Some(seconds(60)));
        assert_eq!(pace.rows(1_000), 250);
        pace.committed(250, seconds(15), Some(seconds(60)));
        assert_eq!(pace.rows(1_000), 500);
        pace.committed(500, seconds(1), Some(seconds(60)));
        assert_eq!(pace.rows(1_000), 1_000);
        assert_eq!(pace.rows(300), 300);
    }

    #[test]
    fn a_size_that_did_not_fit_is_retried_rarely() {
        let at_once = |pace: &mut AdaptiveBatchSize| {
            let rows = pace.rows(1_000);
            pace.committed(rows, Duration::ZERO, None);
            pace.rows(1_000)
        };
        let mut pace = AdaptiveBatchSize::default();
        for rows in [1_000, 250] {
            assert!(pace.too_large(rows));
            pace.does_not_fit(rows);
        }
        assert_eq!(pace.rows(1_000), 62);
        assert_eq!(at_once(&mut pace), 124);
        // 248 are fewer than did not fit, and 496 are more.
        assert_eq!(at_once(&mut pace), 248);
        for _ in 0..BEFORE_MORE {
            assert_eq!(at_once(&mut pace), 248);
        }
        assert_eq!(at_once(&mut pace), 496);
        // If other jobs held the memory, the same size is tried again soon.
        let mut pace = AdaptiveBatchSize::default();
        assert!(pace.too_large(1_000));
        assert_eq!((at_once(&mut pace), at_once(&mut pace)), (500, 1_000));
    }

    #[test]
    fn the_smallest_batch_is_reported_as_smallest() {
        let mut pace = AdaptiveBatchSize::default();
        assert!(!pace.too_large(0));
        assert_eq!(pace.rows(1_000), 1_000);
        assert!(pace.too_large(3));
        assert!(!pace.too_large(3) && !pace.too_large(1));
        assert_eq!(pace.rows(1_000), 1);
    }

    #[test]
    fn one_record_cannot_be_halved() {
        let mut pace = AdaptiveBatchSize::default();
        assert!(pace.timed_out(3));
        assert!(!pace.timed_out(3), "one of each of three partitions");
        assert!(!pace.timed_out(1));
        assert_eq!(pace.rows(1_000), 1);
    }
}
