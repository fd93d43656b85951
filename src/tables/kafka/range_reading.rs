//! Reading one range of a partition: records become batches, and the range ends when all of it was given (LOSS-1).
//!
//! A task, not a thread: it holds nothing while its reader is slow, and the client stops fetching when its queue is full.

use std::sync::Arc;
use std::time::Duration;

use datafusion::arrow::array::RecordBatch;
use datafusion::error::Result as DataFusionResult;
use datafusion::physical_plan::metrics::{BaselineMetrics, Count, Time};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use tokio::sync::mpsc::Sender;

use crate::error::{Error, Result, Subject};
use crate::tables::kafka::client::{ClientFaults, request_error};
use crate::tables::kafka::definition::KafkaTable;
use crate::tables::kafka::fetcher::{Cursor, Fetcher, PartitionEvent, Record};
use crate::tables::kafka::progress::{EndRule, RangeProgress, RecordPlace};
use crate::tables::kafka::range::OffsetRange;
use crate::tables::kafka::record::RecordReader;

/// Bytes after which a batch is handed on although it has few rows.
const BATCH_BYTES: usize = 8 << 20;
/// The time after which a silent client is checked again.
const POLL: Duration = Duration::from_millis(100);
/// How many records are taken from the client at once.
const TAKEN: usize = 1_024;

/// Where the batches of a stream go, and how many rows it still wants.
pub(crate) struct BatchOutput {
    pub(crate) sender: Sender<DataFusionResult<RecordBatch>>,
    pub(crate) wanted: Option<usize>,
    pub(crate) baseline: BaselineMetrics,
    pub(crate) bytes: Count,
    pub(crate) records: Count,
    pub(crate) decode_time: Time,
}

impl BatchOutput {
    /// Counts and sends a batch of rows of so many records; false when nothing more is wanted.
    pub(crate) async fn give(&mut self, rows: RecordBatch, records: usize, bytes: usize) -> bool {
        self.bytes.add(bytes);
        self.records.add(records);
        self.baseline.record_output(rows.num_rows());
        self.wanted = self
            .wanted
            .map(|wanted| wanted.saturating_sub(rows.num_rows()));
        self.sender.send(Ok(rows)).await.is_ok()
    }
}

/// One range being read.
pub(crate) struct RangeReading {
    pub(crate) table: Arc<KafkaTable>,
    pub(crate) range: OffsetRange,
    /// Where the scan began in the partition: before the range, if it has read earlier records from elsewhere.
    pub(crate) begin: i64,
    pub(crate) batch_size: usize,
    pub(crate) reader: RecordReader,
    pub(crate) faults: ClientFaults,
    pub(crate) rule: EndRule,
}

/// How reading a range ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum RangeEnd {
    /// Every record of the range was given.
    All,
    /// The reader of the batches has stopped.
    Stopped,
}

/// Whether an error of the client may pass by itself, as long as nothing says that connecting is hopeless.
pub(crate) fn may_pass(code: RDKafkaErrorCode) -> bool {
    matches!(
        code,
        RDKafkaErrorCode::BrokerTransportFailure
            | RDKafkaErrorCode::AllBrokersDown
            | RDKafkaErrorCode::OperationTimedOut
            | RDKafkaErrorCode::Resolve
    )
}

impl RangeReading {
    /// Reads the range; the cursor is where the range begins, and afterwards where it ends.
    ///
    /// # Errors
    ///
    /// Records that are gone or cannot be decoded, and brokers that do not give the records their leaders have.
    pub(crate) async fn read<F: Fetcher>(
        mut self,
        cursor: &mut Cursor<F>,
        output: &mut BatchOutput,
    ) -> Result<RangeEnd> {
        let mut progress = RangeProgress::new(self.range, cursor.next(), self.rule);
        let mut pending: Vec<F::Record> = Vec::with_capacity(self.batch_size.min(TAKEN));
        let mut pending_bytes = 0;
        let mut moved = cursor.fetcher.now();
        let mut has_moved = false;
        let mut fetched = None;
        while !progress.is_done() {
            match cursor.arrived.pop_front() {
                Some(PartitionEvent::Record(record)) => match progress.record(record.offset()) {
                    RecordPlace::Within => {
                        has_moved = true;
                        pending_bytes += record.payload().map_or(0, <[u8]>::len);
                        pending_bytes += record.key().map_or(0, <[u8]>::len);
                        pending.push(record);
                    }
                    RecordPlace::Beyond => {
                        cursor.arrived.push_front(PartitionEvent::Record(record))
                    }
                    RecordPlace::Repeated => return Err(self.cut_back(record.offset())),
                },
                Some(PartitionEvent::End(offset)) => has_moved |= progress.end_of_partition(offset),
                Some(PartitionEvent::Failed(code)) => self.check_error(code, progress.next())?,
                None => {
                    let most = self.batch_size.saturating_sub(pending.len());
                    let most = most.min(progress.left()).clamp(1, TAKEN);
                    cursor.fetcher.take(most, &mut cursor.arrived);
                    if !cursor.arrived.is_empty() {
                        continue;
                    }
                    // The last events may be control records, which the client does not give out. The order matters:
                    // the position counts only if no event came after it was read.
                    let position = cursor.fetcher.position();
                    cursor.fetcher.take(most, &mut cursor.arrived);
                    if !cursor.arrived.is_empty() {
                        continue;
                    }
                    has_moved |= position.is_some_and(|position| progress.reach(position));
                    let seen = cursor.fetcher.fetched();
                    has_moved |= seen > fetched;
                    fetched = fetched.max(seen);
                    if std::mem::take(&mut has_moved) {
                        moved = cursor.fetcher.now();
                    }
                    if progress.is_done() {
                        continue;
                    }
                    let silence = cursor.fetcher.now().duration_since(moved);
                    if silence >= self.table.client.connect_timeout {
                        return Err(self.silent(&progress));
                    }
                    tokio::select! {
                        () = output.sender.closed() => return Ok(RangeEnd::Stopped),
                        () = cursor.fetcher.arrival(POLL) => {}
                    }
                    continue;
                }
            }
            let enough = output.wanted.is_some_and(|wanted| pending.len() >= wanted);
            if pending.len() >= self.batch_size || pending_bytes >= BATCH_BYTES || enough {
                let goes_on = self.send_batch(&mut pending, pending_bytes, output).await?;
                // Records that were set aside are no rows: more are read for them.
                if !goes_on || output.wanted == Some(0) {
                    return Ok(RangeEnd::Stopped);
                }
                pending_bytes = 0;
                // Waiting for a slow reader is no silence of the broker.
                moved = cursor.fetcher.now();
            }
        }
        if !pending.is_empty() && !self.send_batch(&mut pending, pending_bytes, output).await? {
            return Ok(RangeEnd::Stopped);
        }
        cursor.finish(self.range.end, progress.next());
        let whole = OffsetRange {
            start: self.begin,
            ..self.range
        };
        self.reader.finish(whole, progress.next())?;
        Ok(RangeEnd::All)
    }

    /// Decodes and sends a batch; false when nothing more is wanted.
    async fn send_batch<R: Record>(
        &mut self,
        pending: &mut Vec<R>,
        bytes: usize,
        output: &mut BatchOutput,
    ) -> Result<bool> {
        let timer = output.decode_time.timer();
        let batch = self.reader.read(&pending[..])?;
        timer.done();
        let records = pending.len();
        // A slow reader must not hold the memory of the client's records.
        pending.clear();
        Ok(output.give(batch, records, bytes).await)
    }

    /// Decides whether an error of the client ends the scan. Some pass by themselves; the wait for that is bounded like
    /// any silence.
    fn check_error(&self, code: RDKafkaErrorCode, next: i64) -> Result<()> {
        let partition = self.range.partition;
        match code {
            RDKafkaErrorCode::AutoOffsetReset | RDKafkaErrorCode::OffsetOutOfRange => {
                // The job asks again where the logs end, and reports the records that are lost.
                Err(Error::unavailable(format!(
                    "topic '{}' no longer has offset {next} of partition {partition}",
                    self.table.topic
                ))
                .about(Subject::location(&self.table.topic))
                .with_help(
                    "retention removed it while the statement ran, or a new leader never had it: run the statement again",
                ))
            }
            RDKafkaErrorCode::LogTruncation => Err(self.cut_back(next)),
            code if may_pass(code) && !self.faults.is_hopeless() => Ok(()),
            code => {
                let error = KafkaError::MessageConsumption(code);
                Err(request_error(&error, &self.table.client, &self.faults))
            }
        }
    }

    fn cut_back(&self, offset: i64) -> Error {
        Error::unavailable(format!(
            "the log of topic '{}', partition {}, was truncated to offset {offset} or below while it was read",
            self.table.topic, self.range.partition
        ))
        .about(Subject::location(&self.table.topic))
        .with_help("a broker that had lost records became the leader: run the statement again")
    }

    fn silent(&self, progress: &RangeProgress) -> Error {
        let Some(short) = progress.short_end() else {
            return self.table.client.unavailable(&self.faults);
        };
        Error::unavailable(format!(
            "topic '{}': the broker that is read has nothing at or after offset {short} of partition {}, and the leader had reported that the log ends at offset {}; waited for {:?}",
            self.table.topic,
            self.range.partition,
            self.range.end,
            self.table.client.connect_timeout
        ))
        .about(Subject::location(&self.table.topic))
        .with_help(
            "a replica is behind, or a new leader has not caught up: run the statement again; 'connect.timeout' limits the wait",
        )
    }
}
