//! How many records a batch may have: fewer after a transaction has timed out, more again when there is time.

use std::time::Duration;

/// A limit below the job's own, while batches would take too long.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Pace {
    limit: Option<u64>,
}

impl Pace {
    /// How many records the next batch may have, of as many as the job would take.
    pub(super) fn rows(&self, wanted: u64) -> u64 {
        self.limit.map_or(wanted, |limit| limit.min(wanted))
    }

    /// A batch of so many records took longer than its transaction may: the next one has half as many. False if it cannot
    /// have fewer.
    pub(super) fn timed_out(&mut self, rows: u64) -> bool {
        let before = self.limit.replace((rows / 2).max(1));
        // Every partition gives one record at least.
        rows > 1 && before != Some(1)
    }

    /// A batch of so many records was committed in time: one twice as long must still have half of the time to spare.
    pub(super) fn committed(&mut self, rows: u64, took: Duration, timeout: Option<Duration>) {
        let is_quick = timeout.is_none_or(|timeout| took * 4 <= timeout);
        if let Some(limit) = self.limit
            && is_quick
            && rows >= limit
        {
            self.limit = limit.checked_mul(2);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_batch_is_halved_until_it_fits_and_grows_when_there_is_time() {
        let seconds = Duration::from_secs;
        let mut pace = Pace::default();
        assert_eq!(pace.rows(1_000), 1_000);
        assert!(pace.timed_out(1_000));
        assert!(pace.timed_out(500));
        assert_eq!(pace.rows(1_000), 250);
        // It would be too long again.
        pace.committed(250, seconds(40), Some(seconds(60)));
        assert_eq!(pace.rows(1_000), 250);
        // A batch that was not full says nothing about one that is.
        pace.committed(10, seconds(1), Some(seconds(60)));
        assert_eq!(pace.rows(1_000), 250);
        pace.committed(250, seconds(15), Some(seconds(60)));
        assert_eq!(pace.rows(1_000), 500);
        pace.committed(500, seconds(1), Some(seconds(60)));
        assert_eq!(pace.rows(1_000), 1_000);
        assert_eq!(pace.rows(300), 300);
    }

    #[test]
    fn one_record_cannot_be_halved() {
        let mut pace = Pace::default();
        assert!(pace.timed_out(3));
        assert!(!pace.timed_out(3), "one of each of three partitions");
        assert!(!pace.timed_out(1));
        assert_eq!(pace.rows(1_000), 1);
    }
}
