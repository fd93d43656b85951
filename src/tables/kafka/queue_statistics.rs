//! What librdkafka's statistics say about the partitions of a client that reads one topic: how far each was fetched, and how much
//! memory its queue takes.

use std::collections::HashMap;

use serde::Deserialize;

/// Bytes that librdkafka takes for a record in a queue, beside its key and its value.
const RECORD_BYTES: u64 = 320;

#[derive(Deserialize)]
struct Statistics {
    topics: HashMap<String, TopicStatistics>,
}

#[derive(Deserialize)]
struct TopicStatistics {
    partitions: HashMap<i32, PartitionStatistics>,
}

#[derive(Deserialize)]
struct PartitionStatistics {
    next_offset: i64,
    /// Records in the queue.
    #[serde(default)]
    fetchq_cnt: u64,
    /// The bytes of their keys and values.
    #[serde(default)]
    fetchq_size: u64,
}

#[derive(Debug, Clone, Copy)]
struct QueueState {
    next_offset: i64,
    bytes: u64,
}

/// The queues of a client when statistics came last, and which of them it gives up.
#[derive(Debug, Default)]
pub(crate) struct QueueStatistics {
    partitions: HashMap<i32, QueueState>,
    /// The memory that all queues together may take, if it is bounded.
    limit: Option<u64>,
    /// Bytes above the limit that are still to be given up.
    excess: u64,
}

impl QueueStatistics {
    /// Of a client whose queues may take `limit` bytes, if that is bounded.
    pub(crate) fn new(limit: Option<u64>) -> Self {
        Self {
            limit,
            ..Self::default()
        }
    }

    /// Reads statistics; a text that is something else changes nothing.
    pub(crate) fn read(&mut self, statistics: &[u8]) {
        let Ok(statistics) = serde_json::from_slice::<Statistics>(statistics) else {
            return;
        };
        // A client reads one topic.
        let topics = statistics.topics.into_values();
        let mut bytes = 0;
        for (partition, found) in topics.flat_map(|topic| topic.partitions) {
            let state = QueueState {
                next_offset: found.next_offset,
                bytes: found.fetchq_size + found.fetchq_cnt * RECORD_BYTES,
            };
            bytes += state.bytes;
            self.partitions.insert(partition, state);
        }
        self.excess = self.limit.map_or(0, |limit| bytes.saturating_sub(limit));
    }

    /// How far a partition was fetched.
    pub(crate) fn fetched(&self, partition: i32) -> Option<i64> {
        let state = self.partitions.get(&partition)?;
        Some(state.next_offset)
    }

    /// Whether the queue of a partition is to be given up, because the queues take more than they may. It is counted as given up then.
    pub(crate) fn give_up(&mut self, partition: i32) -> bool {
        if self.excess == 0 {
            return false;
        }
        let state = self.partitions.get_mut(&partition);
        let bytes = state.map_or(0, |state| std::mem::take(&mut state.bytes));
        self.excess = self.excess.saturating_sub(bytes);
        bytes > 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Statistics of a client with queues of so many records and bytes.
    fn statistics(queues: &[(i32, u64, u64)]) -> Vec<u8> {
        let partitions = queues.iter().map(|(partition, records, bytes)| {
            format!(
                r#""{partition}": {{"partition": {partition}, "fetchq_cnt": {records}, "fetchq_size": {bytes}, "next_offset": {}}}"#,
                100 + partition
            )
        });
        let partitions = partitions.collect::<Vec<_>>().join(", ");
        format!(r#"{{"name": "rdkafka#consumer-1", "topics": {{"t": {{"topic": "t", "partitions": {{{partitions}}}}}}}}}"#)
            .into_bytes()
    }

    #[test]
    fn the_last_statistics_count() {
        let mut queues = QueueStatistics::default();
        assert_eq!(queues.fetched(0), None);
        queues.read(&statistics(&[(-1, 0, 0), (0, 5, 50), (7, 0, 0)]));
        queues.read(b"something else");
        assert_eq!(
            (queues.fetched(0), queues.fetched(7)),
            (Some(100), Some(107))
        );
        assert!(!queues.give_up(0), "nothing is bounded");
        // Statistics of other releases may leave out how full queues are.
        queues.read(br#"{"topics": {"t": {"partitions": {"0": {"next_offset": 3}}}}}"#);
        assert_eq!(queues.fetched(0), Some(3));
    }

    #[test]
    fn safe_1_queues_above_the_limit_are_given_up() {
        const QUEUE: u64 = 10 * RECORD_BYTES + 30;
        let mut queues = QueueStatistics::new(Some(3 * QUEUE));
        let full = |partitions: std::ops::Range<i32>| {
            let full = partitions.map(|partition| (partition, 10, 30));
            full.chain([(1_000, 0, 0)])
                .collect::<Vec<(i32, u64, u64)>>()
        };
        queues.read(&statistics(&full(0..3)));
        assert!((0..3).all(|partition| !queues.give_up(partition)));
        queues.read(&statistics(&full(0..5)));
        // An empty queue takes nothing, and one that was given up no more.
        let asked = [1_000, 2_000, 4, 4, 0, 1, 2];
        let given_up = asked.map(|partition| queues.give_up(partition));
        assert_eq!(given_up, [false, false, true, false, true, false, false]);
        queues.read(&statistics(&full(0..3)));
        assert!(!queues.give_up(0), "the others fit");
    }
}
