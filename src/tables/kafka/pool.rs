//! The client that a job keeps from batch to batch: it is connected, and has fetched the next records ahead.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::tables::kafka::definition::KafkaTable;
use crate::tables::kafka::queue_sizes::queues_at_a_time;
use crate::tables::kafka::range::OffsetRange;
use crate::tables::kafka::reader::TableReader;

/// The client of one job for one table.
#[derive(Debug, Default)]
pub struct ConsumerPool {
    reader: Mutex<Option<Arc<TableReader>>>,
}

impl ConsumerPool {
    /// A reader for these ranges of a table: the kept one, unless it failed or stands at other offsets.
    pub(crate) fn reader(
        &self,
        table: &Arc<KafkaTable>,
        ranges: &[OffsetRange],
    ) -> Arc<TableReader> {
        let mut kept = self.lock();
        let fits = |reader: &&Arc<TableReader>| {
            let share = |partitions: usize| queues_at_a_time(partitions, true).next_power_of_two();
            let is_elsewhere =
                |range: &OffsetRange| reader.is_elsewhere(range.partition, range.start);
            !reader.is_broken()
                && !ranges.iter().any(is_elsewhere)
                // With more partitions, the queue of each may hold less.
                && share(ranges.len()) <= share(reader.partitions())
        };
        if let Some(reader) = kept.as_ref().filter(fits) {
            return Arc::clone(reader);
        }
        let reader = Arc::new(TableReader::new(Arc::clone(table), ranges.len(), true));
        *kept = Some(Arc::clone(&reader));
        reader
    }

    /// The log was cut back or replaced: records that were fetched of it are not used any more.
    pub(crate) fn clear(&self) {
        if let Some(reader) = self.lock().take() {
            reader.discard();
        }
    }

    fn lock(&self) -> MutexGuard<'_, Option<Arc<TableReader>>> {
        self.reader.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
