//! Silence of partitions: how long each has had no record to read, by which partitions are idle (TIME-1).

use std::collections::BTreeMap;
use std::time::Duration;

use tokio::time::Instant;

use crate::core::jobs::{BatchVersion, Partitions, SteadyTime};
use crate::runtime::source_ends::SourceEnds;

/// Tracks how long each partition has been silent.
///
/// The observations of earlier processes count: a version stores how long each partition had had no record to read. If the
/// job's position is still at the end of the partition, no record has come since.
#[derive(Debug, Default)]
pub(super) struct IdleTracker {
    since: BTreeMap<(String, i32), PartitionIdleTime>,
    /// Silence by the last version, for partitions that were not checked since.
    before: BTreeMap<(String, i32), Duration>,
    /// The time since that version is unknown: another machine wrote it.
    is_gap_unknown: bool,
    /// The sources did not answer meanwhile: the silence in the version does not extend to the present.
    is_interrupted: bool,
}

/// One partition.
#[derive(Debug, Clone, Copy)]
struct PartitionIdleTime {
    since: Instant,
    /// Silence before that, as far as it is known.
    before: Duration,
    /// The version says that it was silent; it may have been silent for longer since than is known.
    is_unsure: bool,
}

impl PartitionIdleTime {
    fn lasts(&self, now: Instant) -> Duration {
        now.duration_since(self.since).saturating_add(self.before)
    }
}

impl IdleTracker {
    /// Continues from a version, unless partitions were checked already; `now` is a reading of the monotonic clock.
    pub(super) fn go_on(&mut self, version: Option<&BatchVersion>, now: &SteadyTime) {
        let is_first = self.since.is_empty() && !self.is_interrupted;
        let Some(version) = version.filter(|_| is_first) else {
            return;
        };
        let clock = version.clock.as_ref();
        let passed = clock.and_then(|clock| now.since(&clock.steady));
        self.is_gap_unknown = passed.is_none();
        let passed = passed.unwrap_or(0);
        self.before = version
            .silent
            .iter()
            .flat_map(|(table, partitions)| {
                partitions.iter().map(move |(partition, silent)| {
                    let lasts = Duration::from_millis(silent.saturating_add(passed));
                    ((table.clone(), *partition), lasts)
                })
            })
            .collect();
    }

    /// Restarts the count after brokers did not answer: producers may have waited as well, so the time until now does not count
    /// as silence.
    pub(super) fn interrupt(&mut self, now: Instant) {
        self.is_interrupted = true;
        self.before.clear();
        for silent in self.since.values_mut() {
            *silent = PartitionIdleTime {
                since: now,
                before: Duration::ZERO,
                is_unsure: false,
            };
        }
    }

    /// Forgets a table that has another identity now: its observed silence no longer applies.
    pub(super) fn forget_table(&mut self, table: &str) {
        self.since.retain(|(of, _), _| of != table);
        self.before.retain(|(of, _), _| of != table);
    }

    /// The partitions that had no record to read and no open transaction for the time that their table's options set (TIME-1).
    /// They end at `ends` now, and `version` is the job's last version.
    pub(super) fn idle(
        &mut self,
        version: Option<&BatchVersion>,
        ends: &SourceEnds,
        idle_after: &BTreeMap<String, Duration>,
        now: Instant,
    ) -> Partitions {
        let mut idle = Partitions::new();
        self.since.retain(|(table, partition), _| {
            let ends = ends.get(table).into_iter().flatten();
            ends.map(|ends| ends.partition).any(|one| one == *partition)
        });
        for (table, partitions) in ends {
            for end in partitions {
                let key = (table.clone(), end.partition);
                let next = version.and_then(|version| version.next_offset(table, end.partition));
                let is_at_end = end.is_at_end(next.unwrap_or(end.low));
                let before = self.before.remove(&key);
                let silent = self.since.entry(key).or_insert(PartitionIdleTime {
                    since: now,
                    before: before.unwrap_or_default(),
                    is_unsure: before.is_some() && self.is_gap_unknown,
                });
                if !is_at_end {
                    *silent = PartitionIdleTime {
                        since: now,
                        before: Duration::ZERO,
                        is_unsure: false,
                    };
                }
                let patience = idle_after.get(table).copied().unwrap_or(Duration::MAX);
                if is_at_end && silent.lasts(now) >= patience {
                    idle.entry(table.clone()).or_default().insert(end.partition);
                }
            }
        }
        idle
    }

    /// How long each partition has had no record to read, in milliseconds.
    pub(super) fn lasts(&self, now: Instant) -> BTreeMap<String, BTreeMap<i32, u64>> {
        let mut lasts: BTreeMap<String, BTreeMap<i32, u64>> = BTreeMap::new();
        for ((table, partition), silent) in &self.since {
            let milliseconds = u64::try_from(silent.lasts(now).as_millis()).unwrap_or(u64::MAX);
            let of_table = lasts.entry(table.clone()).or_default();
            of_table.insert(*partition, milliseconds);
        }
        lasts
    }

    /// The idle partitions, and those that were silent on another machine: these may be idle, but that is known only when they
    /// have been silent for long enough here.
    pub(super) fn maybe_idle(&self, idle: &Partitions) -> Partitions {
        let mut perhaps = idle.clone();
        for ((table, partition), silent) in &self.since {
            if silent.is_unsure {
                let of_table = perhaps.entry(table.clone()).or_default();
                of_table.insert(*partition);
            }
        }
        perhaps
    }

    /// The idle partitions, and those that came after the last batch: a process that continues from that version would start to
    /// count from zero for them.
    pub(super) fn with_new(&self, version: Option<&BatchVersion>, idle: &Partitions) -> Partitions {
        let mut with_new = idle.clone();
        for (table, partition) in self.since.keys() {
            if version.is_some_and(|version| !stores_idle_time(version, table, *partition)) {
                let of_table = with_new.entry(table.clone()).or_default();
                of_table.insert(*partition);
            }
        }
        with_new
    }
}

/// Whether a version stores how long a partition had been silent. A version of an earlier release stores it for none, and then
/// nothing has to be added.
fn stores_idle_time(version: &BatchVersion, table: &str, partition: i32) -> bool {
    let of_table = version.silent.get(table);
    version.silent.is_empty() || of_table.is_some_and(|of| of.contains_key(&partition))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::jobs::PartitionEnds;

    #[test]
    fn time_1_an_open_transaction_is_not_idle_time() {
        let start = Instant::now();
        let after = Duration::from_secs(10);
        let patience = BTreeMap::from([("t".to_owned(), after)]);
        let mut silence = IdleTracker::default();
        let mut idle = |high, latest, seconds| {
            let ends = PartitionEnds {
                partition: 0,
                low: 0,
                high,
                latest,
                unread: None,
                behind_hole: None,
            };
            let ends = BTreeMap::from([("t".to_owned(), vec![ends])]);
            let now = start + Duration::from_secs(seconds);
            !silence.idle(None, &ends, &patience, now).is_empty()
        };
        assert!(!idle(0, 0, 0));
        assert!(idle(0, 0, 10));
        // Records of an open transaction: they cannot be read yet, and must not be ignored.
        assert!(!idle(0, 21, 30));
        assert!(!idle(0, 21, 60));
        // It was aborted, and retention has deleted it all: the silence begins now.
        assert!(!idle(0, 0, 61));
        assert!(idle(0, 0, 71));
    }

    #[test]
    fn time_1_a_broker_outage_is_not_idle_time() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let patience = BTreeMap::from([("t".to_owned(), Duration::from_secs(10))]);
        let ends = PartitionEnds {
            partition: 0,
            low: 0,
            high: 0,
            latest: 0,
            unread: None,
            behind_hole: None,
        };
        let ends = BTreeMap::from([("t".to_owned(), vec![ends])]);
        let mut silence = IdleTracker::default();
        assert!(silence.idle(None, &ends, &patience, at(0)).is_empty());
        silence.interrupt(at(30));
        assert!(silence.idle(None, &ends, &patience, at(31)).is_empty());
        assert!(silence.idle(None, &ends, &patience, at(39)).is_empty());
        assert!(!silence.idle(None, &ends, &patience, at(40)).is_empty());
    }

    #[test]
    fn time_1_a_partition_added_after_the_last_batch_is_new() {
        let start = Instant::now();
        let patience = BTreeMap::from([("t".to_owned(), Duration::from_secs(10))]);
        let ends = [0, 1].map(|partition| PartitionEnds {
            partition,
            low: 0,
            high: 0,
            latest: 0,
            unread: None,
            behind_hole: None,
        });
        let ends = BTreeMap::from([("t".to_owned(), ends.to_vec())]);
        let silent = BTreeMap::from([("t".to_owned(), BTreeMap::from([(0, 3_000)]))]);
        let version = BatchVersion {
            silent,
            ..BatchVersion::default()
        };
        let mut silence = IdleTracker::default();
        let idle = silence.idle(Some(&version), &ends, &patience, start);
        assert!(idle.is_empty());
        let new = Partitions::from([("t".to_owned(), [1].into())]);
        assert_eq!(silence.with_new(Some(&version), &idle), new);
        // A version of an earlier release stores silence for no partition.
        let earlier = BatchVersion::default();
        assert_eq!(silence.with_new(Some(&earlier), &idle), idle);
        assert_eq!(silence.with_new(None, &idle), idle);
    }
}
