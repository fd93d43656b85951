//! How many partitions a client reads at a time, and how much it fetches ahead of each: less, the more there are.
//!
//! librdkafka has one setting for all partitions of a client. It fetches into a queue that is below two limits, of records and of
//! bytes, and takes all that one fetch brings: so a queue holds up to a limit and a fetch.

/// A scan fetches so many partitions at a time, however many a topic has: so the memory of their queues is bounded.
pub(crate) const ASSIGNED: usize = 64;
/// Up to so many partitions a job keeps their queues from batch to batch. Each one that is assigned costs librdkafka more time, the
/// more there are, so of a topic with more a job fetches [`ASSIGNED`] at a time, as a query does.
const MOST_KEPT: usize = 4_096;
/// The memory of the queues that a job keeps of more than [`ASSIGNED`] partitions. Queues above it are given up, and their
/// records are fetched again.
pub(crate) const KEPT_BYTES: u64 = 128 << 20;

/// Whether a job that reads so many partitions keeps their queues from batch to batch.
pub(crate) fn keeps_queues(partitions: usize) -> bool {
    partitions <= MOST_KEPT
}

/// How many queues a client has at a time that reads so many partitions: all of them if it keeps them.
pub(crate) fn queues_at_a_time(partitions: usize, keeps: bool) -> usize {
    match keeps && keeps_queues(partitions) {
        true => partitions.max(1),
        false => partitions.clamp(1, ASSIGNED),
    }
}

/// The settings of a client for the queue of each partition.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct QueueSizes {
    /// Bytes that a fetch brings of a partition, unless a batch of its log is larger.
    pub(crate) fetch_bytes: usize,
    /// Kilobytes in a queue from which on nothing more is fetched into it.
    pub(crate) kilobytes: usize,
    /// Records in a queue from which on nothing more is fetched into it.
    pub(crate) records: usize,
}

impl QueueSizes {
    /// For a client with so many queues at a time.
    pub(crate) fn of(queues: usize) -> Self {
        const HELD_KILOBYTES: usize = 32 << 10;
        const HELD_RECORDS: usize = 200_000;
        /// Records of a job's batch, unless its options say otherwise.
        const BATCH_RECORDS: usize = 500_000;
        let queues = queues.max(1);
        let share = HELD_KILOBYTES / queues;
        if queues <= ASSIGNED {
            return Self {
                fetch_bytes: (share << 10).min(4 << 20),
                kilobytes: share,
                records: (HELD_RECORDS / queues).clamp(5_000, 100_000),
            };
        }
        // A record of a few bytes takes many times its size in a queue, so a fetch is small. But a queue has room for its part of a
        // batch, which is fetched while the batch before is read.
        Self {
            fetch_bytes: share.max(32) << 10,
            kilobytes: (4 * share).clamp(32, 512),
            records: (BATCH_RECORDS / queues).clamp(100, 5_000),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_scan_has_few_queues_and_a_job_keeps_those_of_wide_topics() {
        for partitions in [0, 1, 64, 65, 1_000, 4_096, 4_097, 100_000] {
            let few = partitions.clamp(1, 64);
            assert_eq!(queues_at_a_time(partitions, false), few);
            let of_job = queues_at_a_time(partitions, true);
            match partitions {
                0..=4_096 => assert_eq!(of_job, partitions.max(1)),
                _ => assert_eq!(of_job, few),
            }
        }
    }

    #[test]
    fn all_queues_of_a_client_together_are_bounded() {
        for queues in 1..=MOST_KEPT {
            let sizes = QueueSizes::of(queues);
            let held = queues * (sizes.kilobytes + sizes.fetch_bytes / 1_024);
            // What the comments and ADR 20 say: 32 MB in queues of few partitions, and a fetch of each beside it.
            let most = if queues <= ASSIGNED { 64 } else { 256 };
            assert!(held <= most << 10, "{queues} queues hold {held} kB");
            assert!(queues * sizes.records <= 500_000, "{queues}: {sizes:?}");
        }
    }

    #[test]
    fn queues_get_smaller_with_their_number() {
        let sizes = |fetch_bytes: usize, kilobytes, records| QueueSizes {
            fetch_bytes: fetch_bytes << 10,
            kilobytes,
            records,
        };
        assert_eq!(QueueSizes::of(0), QueueSizes::of(1));
        assert_eq!(QueueSizes::of(1), sizes(4_096, 32_768, 100_000));
        assert_eq!(QueueSizes::of(4), sizes(4_096, 8_192, 50_000));
        assert_eq!(QueueSizes::of(64), sizes(512, 512, 5_000));
        assert_eq!(QueueSizes::of(1_000), sizes(32, 128, 500));
        assert_eq!(QueueSizes::of(4_096), sizes(32, 32, 122));
    }
}
