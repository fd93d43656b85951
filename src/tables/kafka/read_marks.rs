//! Check of read marks: whether the log of a topic still has the last record that was read of each partition (IDENT-1).

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use futures::{StreamExt as _, TryStreamExt as _};
use rdkafka::Timestamp;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};

use crate::core::jobs::RecordMark;
use crate::error::{Error, Result, Subject};
use crate::tables::kafka::client::{ClientFaults, request_error};
use crate::tables::kafka::definition::KafkaTable;
use crate::tables::kafka::fetcher::{Fetcher, PartitionEvent, Record};
use crate::tables::kafka::queue_sizes::ASSIGNED;
use crate::tables::kafka::range_reading::may_pass;
use crate::tables::kafka::reader::TableReader;
use crate::tables::kafka::record::mark_of;

/// The time after which a silent client is checked again.
const POLL: Duration = Duration::from_millis(100);
/// The most records that are taken from the client at once: one is enough to tell.
const TAKEN: usize = 16;

/// For each partition with another record at the mark's offset, gives that record. A partition whose record is gone, by
/// retention or compaction, is left out: it proves nothing.
///
/// # Errors
///
/// The brokers do not answer, or refuse.
pub(crate) async fn other_records(
    table: &Arc<KafkaTable>,
    marks: BTreeMap<i32, RecordMark>,
) -> Result<BTreeMap<i32, RecordMark>> {
    let offsets = marks
        .iter()
        .map(|(partition, mark)| (*partition, mark.offset));
    let found = marks_at(table, offsets.collect(), ComparedParts::ALL).await?;
    let is_other = |(partition, found): &(i32, RecordMark)| {
        marks.get(partition).is_some_and(|mark| mark != found)
    };
    Ok(found.into_iter().filter(is_other).collect())
}

/// The parts of records that are compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct ComparedParts {
    pub(crate) key: bool,
    pub(crate) value: bool,
    pub(crate) timestamp: bool,
}

impl ComparedParts {
    /// The whole record, as a job recognizes it.
    pub(crate) const ALL: Self = Self {
        key: true,
        value: true,
        timestamp: true,
    };

    /// The mark of these parts of a record.
    pub(crate) fn mark(self, record: &impl Record) -> RecordMark {
        let key = record.key().filter(|_| self.key);
        let value = record.payload().filter(|_| self.value);
        let timestamp = match self.timestamp {
            true => record.timestamp(),
            false => Timestamp::NotAvailable,
        };
        mark_of(record.offset(), timestamp, (key, value))
    }
}

/// The mark of the record at an offset of each partition, by these parts. A partition whose record is gone is left out.
///
/// # Errors
///
/// The brokers do not answer, or refuse.
pub(crate) async fn marks_at(
    table: &Arc<KafkaTable>,
    offsets: BTreeMap<i32, i64>,
    parts: ComparedParts,
) -> Result<BTreeMap<i32, RecordMark>> {
    let reader = Arc::new(TableReader::new(Arc::clone(table), offsets.len(), false));
    let looks = offsets.into_iter().map(|(partition, offset)| {
        let (table, reader) = (Arc::clone(table), Arc::clone(&reader));
        async move {
            let (mut cursor, faults) = reader.open(partition, offset).await?;
            let found = record_at(&mut cursor.fetcher, &table, offset, &faults, parts).await?;
            Ok::<_, Error>(found.map(|found| (partition, found)))
        }
    });
    let found: Vec<Option<(i32, RecordMark)>> = futures::stream::iter(looks)
        .buffer_unordered(ASSIGNED)
        .try_collect()
        .await?;
    Ok(found.into_iter().flatten().collect())
}

/// The mark of the record at `offset` by these parts, from which on `fetcher` fetches; none if it is gone.
///
/// Behind it may lie a long stretch of aborted transactions, control records and compacted offsets. Progress of the
/// client's fetching shows that the brokers answer; a record is not needed for that.
///
/// # Errors
///
/// As of [`other_records`].
pub(crate) async fn record_at<F: Fetcher>(
    fetcher: &mut F,
    table: &KafkaTable,
    offset: i64,
    faults: &ClientFaults,
    parts: ComparedParts,
) -> Result<Option<RecordMark>> {
    let settings = &table.client;
    let mut arrived = VecDeque::new();
    let mut fetched = None;
    let mut moved = fetcher.now();
    loop {
        fetcher.take(TAKEN, &mut arrived);
        while let Some(event) = arrived.pop_front() {
            match event {
                // The client may give earlier records of the same batch of the log.
                PartitionEvent::Record(record) if record.offset() < offset => {}
                PartitionEvent::Record(record) => {
                    return Ok((record.offset() == offset).then(|| parts.mark(&record)));
                }
                PartitionEvent::End(end) if end > offset => return Ok(None),
                // The leader says that the log goes on: the broker that is read lags.
                PartitionEvent::End(_) => {}
                PartitionEvent::Failed(
                    RDKafkaErrorCode::AutoOffsetReset | RDKafkaErrorCode::OffsetOutOfRange,
                ) => return Ok(None),
                PartitionEvent::Failed(RDKafkaErrorCode::LogTruncation) => {
                    return Err(Error::unavailable(format!(
                        "the log of topic '{}' was truncated while it was read",
                        table.topic
                    ))
                    .about(Subject::location(&table.topic)));
                }
                PartitionEvent::Failed(code) if may_pass(code) && !faults.is_hopeless() => {}
                PartitionEvent::Failed(code) => {
                    let error = KafkaError::MessageConsumption(code);
                    return Err(request_error(&error, settings, faults));
                }
            }
        }
        // Control records are taken without being given.
        if fetcher.position().is_some_and(|position| position > offset) {
            return Ok(None);
        }
        let seen = fetcher.fetched();
        if seen > fetched {
            fetched = seen;
            moved = fetcher.now();
        }
        if fetcher.now().duration_since(moved) >= settings.connect_timeout {
            return Err(settings.unavailable(faults));
        }
        fetcher.arrival(POLL).await;
    }
}
