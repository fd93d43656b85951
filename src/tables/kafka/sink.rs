//! INSERT into a topic: rows encoded by the statement's task, sent on threads beside it, counted by acknowledgement.
//!
//! No thread is held while an INSERT waits for its rows: many waiting statements do not block other work.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use datafusion::arrow::array::{Array, ArrayRef, AsArray, RecordBatch};
use datafusion::arrow::buffer::BooleanBuffer;
use datafusion::arrow::compute::{cast, max, min};
use datafusion::arrow::datatypes::{
    DataType, Int32Type, Int64Type, SchemaRef, TimestampMicrosecondType,
};
use datafusion::datasource::sink::DataSink;
use datafusion::error::Result as DataFusionResult;
use datafusion::execution::TaskContext;
use datafusion::physical_plan::metrics::{
    ExecutionPlanMetricsSet, MetricBuilder, MetricsSet, Time,
};
use datafusion::physical_plan::{DisplayAs, DisplayFormatType, SendableRecordBatchStream};
use futures::StreamExt;
use futures::future::join;
use rdkafka::client::ClientContext;
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::{Message, OwnedHeaders};
use rdkafka::producer::{BaseProducer, BaseRecord, DeliveryResult, ProducerContext};
use tokio::sync::OnceCell;

use crate::error::{Error, ErrorKind, Result, Subject};
use crate::formats::{EncodedRows, FormatOptions, RecordEncoder};
use crate::tables::kafka::blocking::on_own_thread;
use crate::tables::kafka::client::{self, ClientFaults, ClientSettings, code_error, request_error};
use crate::tables::kafka::definition::{Delivery, KafkaTable, MetadataKey};
use crate::tables::kafka::error_codes::is_consequence;
use crate::tables::kafka::headers::{AddedHeaders, HeaderColumn};
use crate::tables::kafka::in_flight::InFlight;
use crate::tables::kafka::partition_ends;
use crate::tables::kafka::publisher::{CallError, Publisher, SentRecord, connect_before_takeover};
use crate::tables::kafka::topic_rules::BrokenRule;

/// Writes rows to a topic; the count is of rows the broker acknowledged.
pub(crate) struct KafkaSink {
    table: Arc<KafkaTable>,
    metrics: ExecutionPlanMetricsSet,
}

impl KafkaSink {
    pub(crate) fn try_new(table: Arc<KafkaTable>) -> Result<Self> {
        // An encoder that cannot be made is an error of the statement, before anything runs.
        table.format.encoder()?;
        Ok(Self {
            table,
            metrics: ExecutionPlanMetricsSet::new(),
        })
    }

    async fn write(&self, data: SendableRecordBatchStream) -> Result<u64> {
        ensure_topic(&self.table).await?;
        let encode_time = MetricBuilder::new(&self.metrics).subset_time("encode_time", 0);
        let table = Arc::clone(&self.table);
        let open = move || RunningInsert::open(table);
        send_rows(&self.table, None, data, &encode_time, open).await
    }
}

/// The destination of records. Each of its calls may block, and has a thread of its own.
pub(super) trait RecordOutlet: Send + Sized + 'static {
    /// Sends the records of some rows.
    ///
    /// # Errors
    ///
    /// A record is refused, or the broker does not answer.
    fn send(&mut self, rows: &EncodedBatch) -> Result<()>;

    /// Ends the sending; gives how many records were acknowledged. `outcome` is the result of the sending so far:
    /// `Ok(false)` says that rows are missing.
    ///
    /// # Errors
    ///
    /// That of the sending so far, or its end fails.
    fn end(self, outcome: Result<bool>) -> Result<u64>;
}

/// Encodes rows here and sends them through the outlet that `open` opens; gives the outlet's count. Rows that are
/// `withdrawn` go first, as tombstones. The next rows are encoded while those before them are sent.
pub(super) async fn send_rows<O: RecordOutlet>(
    table: &Arc<KafkaTable>,
    withdrawn: Option<&RecordBatch>,
    mut data: SendableRecordBatchStream,
    encode_time: &Time,
    open: impl FnOnce() -> Result<O> + Send + 'static,
) -> Result<u64> {
    let mut rows = RowEncoder::try_new(Arc::clone(table))?;
    let mut ready = match withdrawn {
        Some(withdrawn) => Some(rows.encode(withdrawn, true)?),
        None => None,
    };
    let mut outlet = on_own_thread(open).await?;
    let (outcome, failure) = loop {
        let next = async {
            let Some(batch) = data.next().await else {
                return Ok(None);
            };
            let batch = batch.map_err(Error::from)?;
            let _timer = encode_time.timer();
            rows.encode(&batch, false).map(Some)
        };
        let (sent, next) = join(send(outlet, ready.take()), next).await;
        let (back, sent) = sent?;
        outlet = back;
        match (sent, next) {
            (Err(error), next) => break (Err(error), next.err()),
            (Ok(()), Ok(Some(batch))) => ready = Some(batch),
            (Ok(()), Ok(None)) => break (Ok(true), None),
            (Ok(()), Err(failure)) => break (Ok(false), Some(failure)),
        }
    };
    let written = on_own_thread(move || outlet.end(outcome)).await;
    match (failure, written) {
        (None, written) => written,
        (Some(failure), Ok(written)) => Err(failure.with_rows_written(written)),
        (Some(failure), Err(_)) => Err(failure),
    }
}

/// Sends the records of rows, if there are any; gives the outlet back, and its result.
async fn send<O: RecordOutlet>(
    mut outlet: O,
    rows: Option<EncodedBatch>,
) -> Result<(O, Result<()>)> {
    let Some(rows) = rows else {
        return Ok((outlet, Ok(())));
    };
    on_own_thread(move || {
        let sent = outlet.send(&rows);
        Ok((outlet, sent))
    })
    .await
}

/// The partitions of a topic, once they have been asked for; none if there is no such topic.
pub(super) type KnownPartitions = OnceCell<Option<Vec<i32>>>;

/// Encodes rows as records and drops the records. The brokers are asked for the partitions only if those are not
/// `known`.
///
/// # Errors
///
/// The rows' own error, or that of a record that the client would not take.
pub(super) async fn encode_rows(
    table: &Arc<KafkaTable>,
    known: &KnownPartitions,
    mut data: SendableRecordBatchStream,
) -> Result<()> {
    let mut rows = RowEncoder::try_new(Arc::clone(table))?;
    let bounds = RecordBounds::of(table, known).await?;
    while let Some(batch) = data.next().await {
        bounds.check(&rows.encode(&batch?, false)?)?;
    }
    Ok(())
}

/// The client's limits for a record.
struct RecordBounds<'t> {
    table: &'t KafkaTable,
    /// The partitions that there are, where rows name theirs.
    partitions: Option<&'t [i32]>,
    bytes: usize,
}

impl<'t> RecordBounds<'t> {
    async fn of(table: &'t Arc<KafkaTable>, known: &'t KnownPartitions) -> Result<Self> {
        let names_partitions = table.metadata_column(MetadataKey::Partition).is_some();
        let asked = Arc::clone(table);
        let partitions = match names_partitions {
            true => {
                let ask = move || on_own_thread(move || partitions_of(&asked));
                known.get_or_try_init(ask).await?.as_deref()
            }
            false => None,
        };
        Ok(Self {
            partitions,
            bytes: table.client.record_bytes(),
            table,
        })
    }

    fn check(&self, batch: &EncodedBatch) -> Result<()> {
        /// The partition of a record that leaves the choice to the client.
        const ANY: i32 = -1;
        /// The most bytes that the client adds to the key and the value of a record.
        const FRAME: usize = 36;
        let topic = &self.table.topic;
        let length = |bytes: Option<&[u8]>| bytes.map_or(0, <[u8]>::len);
        for row in 0..batch.rows {
            if let (Some(partition), Some(known)) = (batch.partition(row), self.partitions)
                && partition != ANY
                && !known.contains(&partition)
            {
                return Err(no_partition(topic, &partition.to_string()));
            }
            if FRAME + length(batch.key(row)) + length(batch.values.get(row)) > self.bytes {
                let code = RDKafkaErrorCode::MessageSizeTooLarge;
                let settings = &self.table.client;
                return Err(code_error(
                    code,
                    too_large(topic),
                    Some(topic),
                    settings,
                    &ClientFaults::default(),
                ));
            }
        }
        Ok(())
    }
}

/// The partitions of the table's topic; none if there is no such topic.
fn partitions_of(table: &KafkaTable) -> Result<Option<Vec<i32>>> {
    let consumer = table.client.consumer(ClientFaults::default())?;
    partition_ends::partitions(&table.client, &consumer, &table.topic)
}

/// A missing topic is created only when the table says with how many partitions.
pub(super) async fn ensure_topic(table: &Arc<KafkaTable>) -> Result<()> {
    let asked = Arc::clone(table);
    let found = on_own_thread(move || partitions_of(&asked)).await?;
    match (found, table.topic_partitions) {
        (Some(_), _) => Ok(()),
        (None, None) => Err(client::unknown_topic(&table.topic)),
        (None, Some(partitions)) => {
            client::create_topic(
                &table.client,
                &table.topic,
                partitions,
                table.replication_factor,
            )
            .await
        }
    }
}

impl fmt::Debug for KafkaSink {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KafkaSink")
            .field("topic", &self.table.topic)
            .finish_non_exhaustive()
    }
}

impl DisplayAs for KafkaSink {
    fn fmt_as(&self, _: DisplayFormatType, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let delivery = match self.table.delivery {
            Delivery::Idempotent => "idempotent",
            Delivery::Transactional => "transactional",
            Delivery::AtLeastOnce => "at_least_once",
        };
        write!(
            f,
            "KafkaSink: topic={}, delivery={delivery}",
            self.table.topic
        )
    }
}

#[async_trait]
impl DataSink for KafkaSink {
    fn metrics(&self) -> Option<MetricsSet> {
        Some(self.metrics.clone_inner())
    }

    fn schema(&self) -> &SchemaRef {
        &self.table.schema
    }

    async fn write_all(
        &self,
        data: SendableRecordBatchStream,
        _: &Arc<TaskContext>,
    ) -> DataFusionResult<u64> {
        Ok(self.write(data).await?)
    }
}

/// A batch as the bytes of its records.
pub(super) struct EncodedBatch {
    rows: usize,
    values: EncodedRows,
    key_column: Option<KeyBytes>,
    primary_key: Option<EncodedKeys>,
    headers: Option<HeaderColumn>,
    timestamps: Option<ArrayRef>,
    partitions: Option<ArrayRef>,
}

enum EncodedKeys {
    Plain(KeyBytes),
    Json(EncodedRows),
}

/// A key column: text or bytes.
struct KeyBytes(ArrayRef);

impl KeyBytes {
    fn get(&self, row: usize) -> Option<&[u8]> {
        if self.0.is_null(row) {
            return None;
        }
        match self.0.data_type() {
            DataType::Binary => Some(self.0.as_binary::<i32>().value(row)),
            _ => Some(self.0.as_string::<i32>().value(row).as_bytes()),
        }
    }
}

impl EncodedBatch {
    fn key(&self, row: usize) -> Option<&[u8]> {
        let given = self.key_column.as_ref().and_then(|keys| keys.get(row));
        given.or_else(|| match self.primary_key.as_ref()? {
            EncodedKeys::Plain(keys) => keys.get(row),
            EncodedKeys::Json(keys) => keys.get(row),
        })
    }

    fn headers(&self, row: usize, added: &AddedHeaders) -> Option<OwnedHeaders> {
        added.of_row(self.headers.as_ref(), row)
    }

    /// The first and the last time that its records are given, in milliseconds since 1970 UTC.
    fn times(&self) -> Option<TimeRange> {
        let column = self
            .timestamps
            .as_ref()?
            .as_primitive::<TimestampMicrosecondType>();
        let (first, last) = (min(column)?, max(column)?);
        Some((first.div_euclid(1_000), last.div_euclid(1_000)))
    }

    fn timestamp_millis(&self, row: usize) -> Option<i64> {
        let column = self
            .timestamps
            .as_ref()?
            .as_primitive::<TimestampMicrosecondType>();
        column
            .is_valid(row)
            .then(|| column.value(row).div_euclid(1_000))
    }

    fn partition(&self, row: usize) -> Option<i32> {
        let column = self.partitions.as_ref()?;
        if column.is_null(row) {
            return None;
        }
        match column.data_type() {
            DataType::Int32 => Some(column.as_primitive::<Int32Type>().value(row)),
            _ => i32::try_from(column.as_primitive::<Int64Type>().value(row)).ok(),
        }
    }
}

/// Turns batches of the table's schema into records.
struct RowEncoder {
    table: Arc<KafkaTable>,
    values: Box<dyn RecordEncoder>,
    composite_key: Option<Box<dyn RecordEncoder>>,
}

impl RowEncoder {
    fn try_new(table: Arc<KafkaTable>) -> Result<Self> {
        let composite_key = if table.primary_key.len() > 1 {
            let schema = Arc::new(table.schema.project(&table.primary_key).map_err(internal)?);
            Some(
                FormatOptions::from_options([("format", "json"), ("json.nulls", "write")], schema)?
                    .encoder()?,
            )
        } else {
            None
        };
        let values = table.format.encoder()?;
        Ok(Self {
            table,
            values,
            composite_key,
        })
    }

    fn encode(&mut self, batch: &RecordBatch, are_tombstones: bool) -> Result<EncodedBatch> {
        let tombstones = are_tombstones.then(|| BooleanBuffer::new_set(batch.num_rows()));
        let values = batch.project(&self.table.value_columns).map_err(internal)?;
        let primary_key = match (&mut self.composite_key, self.table.primary_key.first()) {
            (Some(encoder), _) => {
                let keys = batch.project(&self.table.primary_key).map_err(internal)?;
                Some(EncodedKeys::Json(encoder.encode(&keys, None)?))
            }
            (None, Some(index)) => Some(EncodedKeys::Plain(plain_key(batch.column(*index))?)),
            (None, None) => None,
        };
        let column = |key| Some(batch.column(self.table.metadata_column(key)?));
        let headers = column(MetadataKey::Headers)
            .map(HeaderColumn::try_new)
            .transpose()?;
        let key_column = column(MetadataKey::Key).map(|array| KeyBytes(Arc::clone(array)));
        let encoded = EncodedBatch {
            rows: batch.num_rows(),
            key_column,
            headers,
            timestamps: column(MetadataKey::Timestamp).cloned(),
            partitions: column(MetadataKey::Partition).cloned(),
            primary_key,
            values: self.values.encode(&values, tombstones.as_ref())?,
        };
        self.check_places(&encoded)?;
        Ok(encoded)
    }

    /// Refuses what the client would take for something else: a partition beyond its numbers, and times that mean to it, or to
    /// the brokers, that no time is given.
    fn check_places(&self, batch: &EncodedBatch) -> Result<()> {
        /// In milliseconds since 1970 UTC. The client sends its own time in the place of the first; the brokers keep the second
        /// for records without a time.
        const NO_TIME: [i64; 2] = [0, -1];
        if let Some(partitions) = batch
            .partitions
            .as_ref()
            .and_then(|column| column.as_primitive_opt::<Int64Type>())
        {
            let beyond = |partition: &i64| i32::try_from(*partition).is_err();
            if let Some(partition) = partitions.iter().flatten().find(beyond) {
                return Err(no_partition(&self.table.topic, &partition.to_string()));
            }
        }
        if batch.timestamps.is_none() {
            return Ok(());
        }
        let is_none = |row: &usize| {
            let millis = batch.timestamp_millis(*row);
            millis.is_some_and(|millis| NO_TIME.contains(&millis))
        };
        match (0..batch.rows).find(is_none) {
            Some(row) => Err(self.no_time(row)),
            None => Ok(()),
        }
    }

    fn no_time(&self, row: usize) -> Error {
        let name = self
            .table
            .metadata_column(MetadataKey::Timestamp)
            .and_then(|index| self.table.columns.get(index))
            .map_or("", |column| column.field.name().as_str());
        Error::data(format!(
            "row {row} of the batch, column {name}: Kafka has no record time of 1970-01-01 00:00:00, nor of the millisecond before"
        ))
        .about(Subject::column(name))
        .with_help("write NULL for the client's own clock, or another time")
    }
}

/// One plain key column is its text; bytes stay bytes.
fn plain_key(column: &ArrayRef) -> Result<KeyBytes> {
    match column.data_type() {
        DataType::Binary | DataType::Utf8 => Ok(KeyBytes(Arc::clone(column))),
        _ => Ok(KeyBytes(cast(column, &DataType::Utf8).map_err(internal)?)),
    }
}

fn internal(error: datafusion::arrow::error::ArrowError) -> Error {
    Error::internal(error.to_string())
}

/// First and last offset delivered to each partition.
type PublishedOffsets = BTreeMap<i32, (i64, i64)>;

/// A first and a last time, in milliseconds since 1970 UTC.
type TimeRange = (i64, i64);

/// Counts deliveries and keeps the first that failed.
#[derive(Clone, Default)]
pub(crate) struct Deliveries {
    pub(super) faults: ClientFaults,
    acknowledged: Arc<AtomicU64>,
    published: Arc<Mutex<PublishedOffsets>>,
    failed: Arc<AtomicU64>,
    failure: Arc<Mutex<Option<KafkaError>>>,
    /// Whether the record of that failure had no key.
    without_key: Arc<AtomicBool>,
    /// Between which times those are that records were given: the client does not tell that of one that was refused.
    times: Arc<Mutex<Option<TimeRange>>>,
}

impl Deliveries {
    pub(super) fn failure(&self) -> Option<KafkaError> {
        // The counter spares the lock on the hot path.
        if self.failed.load(Ordering::Acquire) == 0 {
            return None;
        }
        lock(&self.failure).clone()
    }

    fn refused_without_key(&self) -> bool {
        self.without_key.load(Ordering::Acquire)
    }

    pub(super) fn acknowledged(&self) -> u64 {
        self.acknowledged.load(Ordering::Acquire)
    }

    /// Where the records are that were delivered since this was asked last.
    pub(super) fn take_published(&self) -> PublishedOffsets {
        *lock(&self.times) = None;
        std::mem::take(&mut *lock(&self.published))
    }

    /// Records of these times are about to be sent.
    fn sends(&self, times: Option<TimeRange>) {
        let Some((first, last)) = times else {
            return;
        };
        let mut all = lock(&self.times);
        let (from, to) = all.unwrap_or((first, last));
        *all = Some((from.min(first), to.max(last)));
    }

    /// A record was delivered. Its offset is negative if the client does not know it: the broker had the record from an earlier try,
    /// whose answer was lost.
    pub(super) fn delivered(&self, partition: i32, offset: i64) {
        self.acknowledged.fetch_add(1, Ordering::AcqRel);
        if offset < 0 {
            return;
        }
        lock(&self.published)
            .entry(partition)
            .and_modify(|range| *range = (range.0.min(offset), range.1.max(offset)))
            .or_insert((offset, offset));
    }

    /// A record was not.
    pub(super) fn refused(&self, error: &KafkaError, without_key: bool) {
        let mut failure = lock(&self.failure);
        // The record that was refused says more than those that were refused with it.
        let explains = failure.as_ref().is_none_or(follows) && !follows(error);
        if failure.is_none() || explains {
            self.without_key.store(without_key, Ordering::Release);
            *failure = Some(error.clone());
        }
        self.failed.fetch_add(1, Ordering::AcqRel);
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl ClientContext for Deliveries {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        self.faults.log(level, facility, message);
    }

    fn error(&self, error: KafkaError, reason: &str) {
        self.faults.error(error, reason);
    }
}

impl ProducerContext for Deliveries {
    type DeliveryOpaque = ();

    fn delivery(&self, result: &DeliveryResult<'_>, (): Self::DeliveryOpaque) {
        match result {
            Ok(record) => self.delivered(record.partition(), record.offset()),
            Err((error, record)) => self.refused(error, record.key().is_none()),
        }
    }
}

fn no_partition(topic: &str, which: &str) -> Error {
    Error::data(format!("topic '{topic}' has no partition {which}"))
        .about(Subject::location(topic))
        .with_help(
            "add partitions to the topic, or write others to the column of metadata 'partition'",
        )
}

fn too_large(topic: &str) -> String {
    format!("a record is too large for topic '{topic}'")
}

fn far_from_clock(topic: &str) -> String {
    format!(
        "the time of a record is further from the clock of the broker than topic '{topic}' allows"
    )
}

fn follows(error: &KafkaError) -> bool {
    error.rdkafka_error_code().is_some_and(is_consequence)
}

/// An INSERT that is under way. One that is left before its end was cancelled, and is ended all the same.
struct RunningInsert {
    opened: Option<OpenedSession>,
}

struct OpenedSession {
    session: ProducerSession<BaseProducer<Deliveries>>,
    /// Dropped after the session.
    _under_way: InFlight,
}

impl OpenedSession {
    fn cancel(self) {
        if let Err(error) = self.session.end(Ok(false)) {
            let topic = &self.session.table.topic;
            tracing::warn!(%error, topic, "a cancelled INSERT has not ended");
        }
    }
}

impl RunningInsert {
    fn open(table: Arc<KafkaTable>) -> Result<Self> {
        let under_way = InFlight::of_insert().ok_or_else(|| {
            let full = "too many INSERTs into topics are running, or were cancelled and have not ended yet";
            Error::new(ErrorKind::Exhausted, full).with_help("try again later")
        })?;
        let deliveries = Deliveries::default();
        let transactional = table.delivery == Delivery::Transactional;
        let producer = connect(
            &table.client,
            &table.topic,
            deliveries.clone(),
            transactional,
        )?;
        let session = ProducerSession {
            table,
            producer,
            deliveries,
            added: AddedHeaders::default(),
        };
        Ok(Self {
            opened: Some(OpenedSession {
                session,
                _under_way: under_way,
            }),
        })
    }
}

impl RecordOutlet for RunningInsert {
    fn send(&mut self, rows: &EncodedBatch) -> Result<()> {
        match &self.opened {
            Some(opened) => opened.session.send(rows),
            None => Ok(()),
        }
    }

    fn end(mut self, outcome: Result<bool>) -> Result<u64> {
        match self.opened.take() {
            Some(opened) => opened.session.end(outcome),
            None => Ok(0),
        }
    }
}

impl Drop for RunningInsert {
    #[expect(clippy::disallowed_methods, reason = "aborting a transaction blocks")]
    fn drop(&mut self) {
        let Some(opened) = self.opened.take() else {
            return;
        };
        // Without a thread the client ends alone, and the broker aborts the transaction when it times out.
        let _ = std::thread::Builder::new()
            .name("kafka-end".into())
            .spawn(move || opened.cancel());
    }
}

#[expect(
    clippy::disallowed_methods,
    reason = "each INSERT has a transactional id of its own"
)]
fn connect(
    settings: &ClientSettings,
    topic: &str,
    deliveries: Deliveries,
    transactional: bool,
) -> Result<BaseProducer<Deliveries>> {
    let mut config = settings.producer_config();
    config.set("message.timeout.ms", "60000");
    if transactional {
        let timeout = settings.transaction_timeout.as_millis().to_string();
        config
            .set(
                "transactional.id",
                format!("anabranch-insert-{}", uuid::Uuid::new_v4()),
            )
            .set("transaction.timeout.ms", &timeout)
            .set("message.timeout.ms", &timeout);
    }
    let faults = deliveries.faults.clone();
    let producer: BaseProducer<Deliveries> = config
        .create_with_context(deliveries)
        .map_err(|error| settings.creation_error(&error))?;
    if transactional {
        connect_before_takeover(&producer, topic);
        let fail = |failed: &CallError| request_error(&failed.error, settings, &faults);
        producer
            .init_transactions(settings.connect_timeout)
            .map_err(|failed| fail(&failed))?;
        producer
            .begin_transaction()
            .map_err(|failed| fail(&failed))?;
    }
    Ok(producer)
}

/// A producer and the outcome of its records.
pub(super) struct ProducerSession<P> {
    pub(super) table: Arc<KafkaTable>,
    pub(super) producer: P,
    pub(super) deliveries: Deliveries,
    /// Headers that each record gets.
    pub(super) added: AddedHeaders,
}

impl<P: Publisher> ProducerSession<P> {
    /// Sends the records of some rows.
    pub(super) fn send(&self, batch: &EncodedBatch) -> Result<()> {
        self.deliveries.sends(batch.times());
        for row in 0..batch.rows {
            let mut record = BaseRecord::<[u8], [u8]>::to(&self.table.topic);
            if let Some(value) = batch.values.get(row) {
                record = record.payload(value);
            }
            if let Some(key) = batch.key(row) {
                record = record.key(key);
            }
            if let Some(headers) = batch.headers(row, &self.added) {
                record = record.headers(headers);
            }
            if let Some(timestamp) = batch.timestamp_millis(row) {
                record = record.timestamp(timestamp);
            }
            if let Some(partition) = batch.partition(row) {
                record = record.partition(partition);
            }
            self.enqueue(record)?;
        }
        self.producer.poll(Duration::ZERO);
        self.check()
    }

    fn enqueue(&self, mut record: SentRecord<'_>) -> Result<()> {
        loop {
            match self.producer.send(record) {
                Ok(()) => return Ok(()),
                Err((KafkaError::MessageProduction(RDKafkaErrorCode::QueueFull), back)) => {
                    self.producer.poll(Duration::from_millis(10));
                    self.check()?;
                    record = back;
                }
                Err((error, record)) => return Err(self.failed(&error, record.partition)),
            }
        }
    }

    /// The error that ended the transaction or made the producer useless, as far as the client keeps it. The client
    /// then gives back the waiting records, without any other reason for them.
    fn ended_by(&self) -> Option<KafkaError> {
        if let Some(code) = self.producer.fatal_error() {
            return Some(KafkaError::MessageProduction(code));
        }
        // One transaction is open: another one does not begin, and the client says why this one has to be aborted, if it has to.
        let error = self.producer.begin_transaction().err()?.error;
        let is_open = matches!(
            error.rdkafka_error_code(),
            Some(RDKafkaErrorCode::State | RDKafkaErrorCode::NotConfigured) | None
        );
        (!is_open).then_some(error)
    }

    /// Why a record was not written. `partition` is the partition that it asked for, if that is known.
    fn refused(&self, error: &KafkaError, partition: Option<i32>) -> Error {
        let topic = &self.table.topic;
        let is_taken_back = matches!(
            error.rdkafka_error_code(),
            Some(
                RDKafkaErrorCode::PurgeQueue
                    | RDKafkaErrorCode::PurgeInflight
                    | RDKafkaErrorCode::State
                    | RDKafkaErrorCode::Fatal
            )
        );
        let cause = is_taken_back.then(|| self.ended_by()).flatten();
        let error = cause.as_ref().unwrap_or(error);
        let code = error.rdkafka_error_code();
        let said = match (code, partition) {
            (Some(RDKafkaErrorCode::UnknownPartition), partition) => {
                let which = match partition {
                    Some(partition) => partition.to_string(),
                    None => "as high as a row asks for".to_owned(),
                };
                return no_partition(topic, &which);
            }
            (Some(RDKafkaErrorCode::MessageSizeTooLarge), _) => too_large(topic),
            (Some(RDKafkaErrorCode::InvalidTimestamp), _) => far_from_clock(topic),
            (
                Some(
                    code @ (RDKafkaErrorCode::InvalidRecord
                    | RDKafkaErrorCode::InvalidDifferentRecord),
                ),
                _,
            ) => return self.invalid(code),
            _ => format!("a record was not written to topic '{topic}': {error}"),
        };
        let (settings, faults) = (&self.table.client, &self.deliveries.faults);
        match code {
            Some(code) => code_error(code, said, Some(topic), settings, faults),
            None => request_error(error, settings, faults),
        }
    }

    /// Why a record was refused as invalid. For records that were sent together the client gives no other reason: the
    /// topic's rules tell it.
    #[expect(
        clippy::disallowed_methods,
        reason = "the brokers compare a record's time with the wall clock"
    )]
    fn invalid(&self, code: RDKafkaErrorCode) -> Error {
        let (settings, topic) = (&self.table.client, &self.table.topic);
        let without_key = self.deliveries.refused_without_key();
        let times = *lock(&self.deliveries.times);
        let now = chrono::Utc::now().timestamp_millis();
        let rules = self.producer.rules(settings, topic);
        let (code, said) = match rules.and_then(|rules| rules.broken(without_key, times, now)) {
            Some(BrokenRule::Key) => (
                code,
                format!("topic '{topic}' refuses a record that has no key"),
            ),
            Some(BrokenRule::Time) => (RDKafkaErrorCode::InvalidTimestamp, far_from_clock(topic)),
            None => (code, format!("topic '{topic}' refuses a record as invalid")),
        };
        code_error(code, said, Some(topic), settings, &self.deliveries.faults)
    }

    /// An error of a call that belongs to the batch. A record that was refused before it is the cause, and gives a
    /// better message; the outcome of the records is reported soon after.
    fn failed(&self, error: &KafkaError, partition: Option<i32>) -> Error {
        let is_consequence = error.rdkafka_error_code().is_some_and(is_consequence);
        let start = self.producer.now();
        while is_consequence
            && self.deliveries.failure().is_none()
            && self.producer.in_flight_count() > 0
            && self.producer.now() - start < self.table.client.connect_timeout
        {
            self.producer.poll(Duration::from_millis(20));
        }
        match self.deliveries.failure() {
            Some(failure) => self.refused(&failure, None),
            None => self.refused(error, partition),
        }
    }

    fn check(&self) -> Result<()> {
        match self.deliveries.failure() {
            Some(error) => Err(self.refused(&error, None)),
            None => Ok(()),
        }
    }

    /// Waits until everything sent is acknowledged or has failed, or nothing was for as long as `patience`.
    pub(super) fn flush(&self, patience: Duration) -> Result<()> {
        /// The pause between two polls. A poll with a timeout takes the whole time, even if events come, and keeps a
        /// processor busy in its last millisecond.
        const LOOK: Duration = Duration::from_micros(200);
        let mut progress = self.producer.now();
        let mut acknowledged = self.deliveries.acknowledged();
        loop {
            self.producer.poll(Duration::ZERO);
            self.check()?;
            if self.producer.in_flight_count() == 0 {
                return Ok(());
            }
            // Not `in_flight_count`: it counts the client's own events as well.
            let now = self.deliveries.acknowledged();
            if now != acknowledged {
                (acknowledged, progress) = (now, self.producer.now());
                continue;
            }
            if self.producer.now() - progress > patience {
                return Err(self.table.client.unavailable(&self.deliveries.faults));
            }
            self.producer.pause(LOOK);
        }
    }

    /// Ends an INSERT; `Ok(false)` says that it was cancelled, or that its rows are missing.
    pub(super) fn end(&self, outcome: Result<bool>) -> Result<u64> {
        match self.table.delivery {
            Delivery::Transactional => self.end_transaction(outcome),
            Delivery::Idempotent | Delivery::AtLeastOnce => self.finish(outcome),
        }
    }

    /// Idempotent delivery: acknowledged records stay in every case.
    fn finish(&self, outcome: Result<bool>) -> Result<u64> {
        let outcome = outcome.and_then(|_| self.flush(self.table.client.transaction_timeout));
        let acknowledged = self.deliveries.acknowledged();
        outcome
            .map(|()| acknowledged)
            .map_err(|error| error.with_rows_written(acknowledged))
    }

    /// Transactional delivery: all rows, or none for `read_committed` readers.
    fn end_transaction(&self, outcome: Result<bool>) -> Result<u64> {
        let settings = &self.table.client;
        let mut is_asked = false;
        let commit = |finished: bool| -> Result<bool> {
            if finished {
                self.flush(settings.transaction_timeout)?;
                is_asked = true;
                self.producer
                    .commit_transaction(settings.transaction_timeout)
                    .map_err(|failed| {
                        request_error(&failed.error, settings, &self.deliveries.faults)
                    })?;
            }
            Ok(finished)
        };
        match outcome.and_then(commit) {
            Ok(true) => Ok(self.deliveries.acknowledged()),
            Ok(false) => self.abort().map(|()| 0),
            Err(error) => match self.abort() {
                Ok(()) => Err(error.with_rows_written(0)),
                // The commit may have reached the brokers: no count is certain.
                Err(_) if is_asked => Err(error.context(
                    "it is not known whether the rows were committed, look for them before you run the statement again",
                )),
                Err(abort) => {
                    tracing::warn!(%abort, "the transaction was not aborted; the broker aborts it when it times out");
                    Err(error.with_rows_written(0))
                }
            },
        }
    }

    pub(super) fn abort(&self) -> Result<()> {
        let settings = &self.table.client;
        // The abort waits until every record has been reported on, and reports are served here.
        self.producer.purge();
        let start = self.producer.now();
        while self.producer.in_flight_count() > 0
            && self.producer.now() - start < settings.connect_timeout
        {
            self.producer.poll(Duration::from_millis(20));
        }
        self.producer
            .abort_transaction(settings.connect_timeout)
            .map_err(|failed| request_error(&failed.error, settings, &self.deliveries.faults))
    }
}
