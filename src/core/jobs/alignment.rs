//! Alignment of partitions in event time: partitions that are far ahead wait, so that a backlog on one partition does not make
//! the state grow without bound.
//!
//! Windows close by the lowest watermark. The rows of a partition that is ahead of it stay in the state until the other
//! partitions have come as far. So beyond a drift its records are better left in the topic.

use super::watermark::{JobTime, Partitions};

/// The partitions that a batch does not read: their watermarks are more than `max_drift` microseconds ahead of the slowest.
///
/// The slowest is the lowest watermark among partitions that had a row and are not idle. It never waits itself, and a partition
/// that is caught up holds others back only until it is idle: all records are read in the end.
pub fn waiting(time: &JobTime, idle: &Partitions, max_drift: i64) -> Partitions {
    let is_idle = |table: &str, partition: i32| {
        idle.get(table)
            .is_some_and(|partitions| partitions.contains(&partition))
    };
    let reached = || {
        time.partitions.iter().flat_map(|(table, partitions)| {
            partitions.iter().filter_map(move |(partition, time)| {
                Some((table.as_str(), *partition, time.watermark?))
            })
        })
    };
    let slowest = reached()
        .filter(|(table, partition, _)| !is_idle(table, *partition))
        .map(|(_, _, watermark)| watermark)
        .min();
    let mut waiting = Partitions::new();
    let Some(slowest) = slowest else {
        return waiting;
    };
    for (table, partition, watermark) in reached() {
        if watermark > slowest.saturating_add(max_drift) {
            waiting
                .entry(table.to_owned())
                .or_default()
                .insert(partition);
        }
    }
    waiting
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::super::ranges::{PartitionFacts, choose};
    use super::super::watermark::{PartitionTime, WatermarkPolicy};
    use super::*;

    const TABLE: &str = "t";

    fn time(watermarks: &[Option<i64>]) -> JobTime {
        let partitions = (0..).zip(watermarks).map(|(partition, watermark)| {
            let time = PartitionTime {
                watermark: *watermark,
                ..PartitionTime::default()
            };
            (partition, time)
        });
        JobTime {
            partitions: [(TABLE.to_owned(), partitions.collect())].into(),
            ..JobTime::default()
        }
    }

    fn set(partitions: &[i32]) -> Partitions {
        match partitions {
            [] => Partitions::new(),
            _ => [(TABLE.to_owned(), partitions.iter().copied().collect())].into(),
        }
    }

    #[test]
    fn partitions_too_far_ahead_of_the_slowest_wait() {
        let three = time(&[Some(100), Some(160), Some(161)]);
        assert_eq!(waiting(&three, &set(&[]), 60), set(&[2]));
        assert_eq!(waiting(&three, &set(&[]), 61), set(&[]));
        // Partitions that are idle, or never had a row, hold no other partition back.
        assert_eq!(waiting(&three, &set(&[0]), 0), set(&[2]));
        assert_eq!(waiting(&three, &set(&[0, 1]), 0), set(&[]));
        let new = time(&[None, Some(160), Some(161)]);
        assert_eq!(waiting(&new, &set(&[]), 0), set(&[2]));
        assert_eq!(waiting(&time(&[None, None]), &set(&[]), 0), set(&[]));
    }

    #[test]
    fn an_idle_partition_that_is_far_ahead_waits_when_it_comes_back() {
        let two = time(&[Some(100), Some(500)]);
        assert_eq!(waiting(&two, &set(&[1]), 60), set(&[1]));
    }

    /// Logs of event times, read batch by batch.
    struct Reader<'a> {
        logs: &'a [Vec<i64>],
        read: Vec<usize>,
        time: JobTime,
        /// For how many rounds a partition had no row to read.
        silent: Vec<u32>,
    }

    impl<'a> Reader<'a> {
        fn new(logs: &'a [Vec<i64>]) -> Self {
            Self {
                logs,
                read: vec![0; logs.len()],
                time: JobTime::default(),
                silent: vec![0; logs.len()],
            }
        }

        fn is_done(&self) -> bool {
            self.logs
                .iter()
                .zip(&self.read)
                .all(|(log, at)| *at == log.len())
        }

        fn watermark(&self, partition: i32) -> Option<i64> {
            self.time.partition(TABLE, partition)?.watermark
        }

        /// One round; after `patience` rounds without a row a partition is idle.
        fn batch(&mut self, max_drift: i64, max_rows: u64, patience: u32) -> Partitions {
            let is_idle = |partition: &i32| {
                let at = *partition as usize;
                self.silent[at] >= patience && self.read[at] == self.logs[at].len()
            };
            let known: Vec<i32> = (0..self.logs.len() as i32).collect();
            let idle: Vec<i32> = known.iter().copied().filter(is_idle).collect();
            let idle = set(&idle);
            let waiting = waiting(&self.time, &idle, max_drift);
            let facts: Vec<PartitionFacts> = known
                .iter()
                .map(|partition| PartitionFacts {
                    partition: *partition,
                    position: Some(self.read[*partition as usize] as i64),
                    low: 0,
                    high: self.logs[*partition as usize].len() as i64,
                    waits: waiting
                        .get(TABLE)
                        .is_some_and(|waiting| waiting.contains(partition)),
                    is_same: true,
                })
                .collect();
            let mut reached = BTreeMap::new();
            for range in choose(&facts, max_rows, &BTreeMap::new()).unwrap() {
                let at = range.partition as usize;
                let rows = &self.logs[at][range.start as usize..range.end as usize];
                self.silent[at] = if rows.is_empty() {
                    self.silent[at] + 1
                } else {
                    0
                };
                self.read[at] = range.end as usize;
                if let Some(highest) = rows.iter().max() {
                    reached.insert(
                        range.partition,
                        Some(*highest).max(self.watermark(range.partition)).into(),
                    );
                }
            }
            let known: Partitions = set(&known);
            let reached = BTreeMap::from([(TABLE.to_owned(), reached)]);
            self.time = self
                .time
                .after(WatermarkPolicy::Lowest, &known, &reached, &idle);
            waiting
        }
    }

    /// Logs whose partitions go forward at different paces from different times.
    fn logs() -> impl Strategy<Value = Vec<Vec<i64>>> {
        let log = (0_i64..500, prop::collection::vec(-3_i64..12, 0..80));
        let log = log.prop_map(|(start, steps)| {
            let mut now = start;
            let forward = steps.into_iter().map(|step| {
                now += step.max(0);
                now + step.min(0)
            });
            forward.collect()
        });
        prop::collection::vec(log, 1..6)
    }

    proptest! {
        #[test]
        fn all_rows_are_read_in_the_end(logs in logs(), max_drift in 0_i64..200, max_rows in 1_u64..20) {
            let mut reader = Reader::new(&logs);
            let rows: usize = logs.iter().map(Vec::len).sum();
            let mut rounds = 0;
            while !reader.is_done() {
                reader.batch(max_drift, max_rows, 3);
                rounds += 1;
                // A row per round at worst, and the rounds until each partition is idle.
                prop_assert!(rounds <= rows + 5 * logs.len() + 5, "it stands still");
            }
        }

        #[test]
        fn no_partition_is_ahead_by_more_than_the_drift_and_a_batch(
            logs in logs(),
            max_drift in 0_i64..200,
            max_rows in 1_u64..20,
        ) {
            let mut reader = Reader::new(&logs);
            while !reader.is_done() {
                let (before, read) = (reader.time.clone(), reader.read.clone());
                let waited = reader.batch(max_drift, max_rows, 3);
                // A partition that was idle one round earlier cannot be recognized any more: so only those with a backlog count
                // here.
                let slowest = (0..)
                    .zip(&logs)
                    .filter(|(partition, log)| read[*partition as usize] < log.len())
                    .filter_map(|(partition, _)| before.partition(TABLE, partition)?.watermark)
                    .min();
                for partition in 0..logs.len() as i32 {
                    let at = partition as usize;
                    let own = before.partition(TABLE, partition).and_then(|time| time.watermark);
                    let waits = waited.get(TABLE).is_some_and(|waited| waited.contains(&partition));
                    if waits {
                        prop_assert_eq!(reader.read[at], read[at], "it waits and was read");
                    } else if let (Some(own), Some(slowest)) = (own, slowest) {
                        let was_read = reader.read[at] > read[at];
                        prop_assert!(!was_read || own <= slowest + max_drift);
                    }
                }
            }
        }
    }
}
