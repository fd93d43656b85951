//! A topic as the sink of a job: one producer over all batches, one transaction for each (EXACT-1).
//!
//! The transaction carries the offsets that the batch has read, where any Kafka tool shows them as lag, and the
//! *witness*: the name of the job's version, as metadata of one fixed coordinate, partition 0 of the sink's topic.
//! After a crash, the rows of the version that the group names there are in the topic.
//!
//! With `'delivery' 'at_least_once'` there is no transaction, and an earlier runner is not fenced off: rows are visible
//! as they arrive, then the group gets the offsets and the witness.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use datafusion::arrow::array::RecordBatch;
use datafusion::physical_plan::SendableRecordBatchStream;
use datafusion::physical_plan::metrics::Time;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::producer::BaseProducer;
use rdkafka::{Offset, TopicPartitionList};

use crate::core::jobs::Identity;
use crate::error::{Error, ErrorKind, Result};
use crate::tables::kafka::blocking::on_own_thread;
use crate::tables::kafka::client::{ClientFaults, request_error};
use crate::tables::kafka::definition::{Delivery, KafkaTable};
use crate::tables::kafka::headers::AddedHeaders;
use crate::tables::kafka::in_flight::InFlight;
use crate::tables::kafka::publisher::{
    CallOutcome, GroupClient, GroupOffsets, Publisher, SilenceClock, connect_before_takeover,
};
use crate::tables::kafka::sink::{
    Deliveries, EncodedBatch, KnownPartitions, ProducerSession, RecordOutlet, encode_rows,
    ensure_topic, send_rows,
};

/// The position of a job in one partition of a topic.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TopicOffset {
    /// The topic.
    pub topic: String,
    /// The partition.
    pub partition: i32,
    /// The offset to be read next.
    pub offset: i64,
}

/// Rows that a job has sent to a topic.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PublishedRows {
    /// Records acknowledged, tombstones included.
    pub rows: u64,
    /// By partition, the first offset and the one after the last. Other writers' records may lie between.
    pub offsets: BTreeMap<i32, (i64, i64)>,
}

/// The sink of a job. The runner that has taken it over last owns it: every call of an earlier owner fails.
pub(crate) type KafkaJobSink = JobTopic<GroupClient>;

/// The sink of a job, over the client of librdkafka or a simulated one.
pub(crate) struct JobTopic<G: GroupOffsets> {
    inner: Arc<SinkState<G>>,
}

struct SinkState<G: GroupOffsets> {
    session: ProducerSession<G::Publisher>,
    /// Asks for committed offsets and names the group; it is no member of it.
    group: G,
    in_transactions: bool,
    /// For rehearsals: the search for a bad record makes many of them.
    partitions: KnownPartitions,
}

impl KafkaJobSink {
    /// Takes the topic over under `id`, the transactional id and the group: fences the previous owner off, and aborts
    /// its open transaction. The topic is created if the table says how. Each record gets the headers `added`.
    ///
    /// # Errors
    ///
    /// The broker does not answer, or refuses.
    pub(crate) async fn take_over(
        table: Arc<KafkaTable>,
        id: &str,
        added: AddedHeaders,
    ) -> Result<Self> {
        ensure_topic(&table).await?;
        let id = id.to_owned();
        Self::own(table, added, move |table, deliveries| {
            connect(table, &id, deliveries)
        })
        .await
    }
}

/// The clients of a job that has this transactional id and this group.
fn connect(
    table: &KafkaTable,
    id: &str,
    deliveries: Deliveries,
) -> Result<(BaseProducer<Deliveries>, GroupClient)> {
    let settings = &table.client;
    let timeout = settings.transaction_timeout.as_millis().to_string();
    let mut config = settings.producer_config();
    config.set("message.timeout.ms", &timeout);
    if table.delivery != Delivery::AtLeastOnce {
        config
            .set("transactional.id", id)
            .set("transaction.timeout.ms", &timeout);
    }
    // After a commit the broker answers "concurrent transactions" for a moment; the default waits 100 ms.
    for (name, value) in [
        ("retry.backoff.ms", "1"),
        ("retry.backoff.max.ms", "2"),
        ("linger.ms", "0"),
    ] {
        settings.set_unless_given(&mut config, name, value);
    }
    let producer: BaseProducer<Deliveries> = config
        .create_with_context(deliveries)
        .map_err(|error| settings.creation_error(&error))?;
    // Connects meanwhile.
    let group = settings.group_consumer(id, ClientFaults::default())?;
    if table.delivery != Delivery::AtLeastOnce {
        connect_before_takeover(&producer, &table.topic);
    }
    Ok((producer, GroupClient::new(group)))
}

impl<G: GroupOffsets> JobTopic<G> {
    /// Takes the topic over with the clients that `connect` makes.
    ///
    /// # Errors
    ///
    /// As of [`KafkaJobSink::take_over`].
    pub(super) async fn own(
        table: Arc<KafkaTable>,
        added: AddedHeaders,
        connect: impl FnOnce(&KafkaTable, Deliveries) -> Result<(G::Publisher, G)> + Send + 'static,
    ) -> Result<Self> {
        on_own_thread(move || {
            let deliveries = Deliveries::default();
            let (producer, group) = connect(&table, deliveries.clone())?;
            let in_transactions = table.delivery != Delivery::AtLeastOnce;
            if in_transactions {
                let settings = &table.client;
                producer
                    .init_transactions(settings.connect_timeout)
                    .map_err(|failed| request_error(&failed.error, settings, &deliveries.faults))?;
            }
            let session = ProducerSession {
                table,
                producer,
                deliveries,
                added,
            };
            Ok(Self {
                inner: Arc::new(SinkState {
                    session,
                    group,
                    in_transactions,
                    partitions: KnownPartitions::default(),
                }),
            })
        })
        .await
    }

    /// The witness of the last transaction that was committed; none if there is none, or it has expired.
    ///
    /// # Errors
    ///
    /// The broker does not answer.
    pub(crate) async fn witness(&self) -> Result<Option<String>> {
        let inner = Arc::clone(&self.inner);
        on_own_thread(move || {
            let found = committed_witness(&inner.group, &inner.session.table);
            found.map_err(|error| inner.failed(&error))
        })
        .await
    }

    /// Begins a transaction and sends all rows, and before them a tombstone for each row that is `withdrawn`; gives the
    /// acknowledged records. They are invisible until [`Self::commit`].
    ///
    /// # Errors
    ///
    /// The rows' own error, a record that is refused, the broker. The transaction is to be aborted then.
    pub(crate) async fn write(
        &self,
        withdrawn: Option<&RecordBatch>,
        rows: SendableRecordBatchStream,
    ) -> Result<PublishedRows> {
        let inner = Arc::clone(&self.inner);
        let session = &self.inner.session;
        let open = move || BatchRows::begin(inner);
        let rows = send_rows(&session.table, withdrawn, rows, &Time::new(), open).await?;
        let published = session.deliveries.take_published().into_iter();
        Ok(PublishedRows {
            rows,
            offsets: published
                .map(|(partition, (first, last))| (partition, (first, last + 1)))
                .collect(),
        })
    }

    /// Makes records of all rows and sends none.
    ///
    /// # Errors
    ///
    /// The rows' own error, a row that cannot be written as a record.
    pub(crate) async fn rehearse(&self, rows: SendableRecordBatchStream) -> Result<()> {
        let inner = &self.inner;
        encode_rows(&inner.session.table, &inner.partitions, rows).await
    }

    /// Begins a transaction without rows.
    ///
    /// # Errors
    ///
    /// The broker refuses.
    pub(crate) async fn begin(&self) -> Result<()> {
        let inner = Arc::clone(&self.inner);
        on_own_thread(move || inner.begin()).await
    }

    /// Commits the transaction with the offsets read so far and the witness.
    ///
    /// # Errors
    ///
    /// Another runner has taken the job over, or the broker does not answer: then the outcome is unknown, and only the
    /// witness tells it after the next takeover.
    pub(crate) async fn commit(
        &self,
        offsets: &[TopicOffset],
        batch: u64,
        witness: &str,
    ) -> Result<()> {
        let mut list = TopicPartitionList::with_capacity(offsets.len() + 1);
        let table = &self.inner.session.table;
        for at in offsets {
            list.add_partition_offset(&at.topic, at.partition, Offset::Offset(at.offset))
                .map_err(|error| self.inner.failed(&error))?;
        }
        let number = i64::try_from(batch).unwrap_or(i64::MAX);
        list.add_partition_offset(&table.topic, 0, Offset::Offset(number))
            .map_err(|error| self.inner.failed(&error))?;
        if let Some(mut element) = list.find_partition(&table.topic, 0) {
            element.set_metadata(witness);
        }
        let inner = Arc::clone(&self.inner);
        on_own_thread(move || {
            if !inner.in_transactions {
                return inner
                    .group
                    .commit_offsets(&list)
                    .map_err(|error| inner.failed(&error));
            }
            inner.add_offsets(list)?;
            let producer = &inner.session.producer;
            let timeout = inner.session.table.client.transaction_timeout;
            again(producer, timeout, || producer.commit_transaction(timeout))
                .map_err(|error| inner.failed(&error))
        })
        .await
    }

    /// Aborts the transaction: none of its rows is ever visible to `read_committed` readers.
    ///
    /// # Errors
    ///
    /// The broker does not answer; it aborts by itself when the transaction times out or the job is taken over.
    pub(crate) async fn abort(&self) -> Result<()> {
        if !self.inner.in_transactions {
            return Ok(());
        }
        let inner = Arc::clone(&self.inner);
        on_own_thread(move || inner.session.abort()).await
    }

    /// The same, without waiting for it; a process that ends waits a moment.
    #[expect(clippy::disallowed_methods, reason = "aborting a transaction blocks")]
    pub(crate) fn abandon(&self) {
        if !self.inner.in_transactions {
            return;
        }
        let (inner, under_way) = (Arc::clone(&self.inner), InFlight::begin());
        let end = move || {
            if let Err(error) = inner.session.abort() {
                tracing::debug!(%error, "the transaction was not aborted; the broker aborts it");
            }
            drop(inner);
            drop(under_way);
        };
        // Without a thread the broker aborts the transaction when it times out.
        let thread = std::thread::Builder::new().name("kafka-end".to_owned());
        let _ = thread.spawn(end);
    }

    /// Which topic it is now (IDENT-1).
    ///
    /// # Errors
    ///
    /// The topic is gone, or the broker does not answer.
    pub(crate) async fn identity(&self) -> Result<Identity> {
        let inner = Arc::clone(&self.inner);
        on_own_thread(move || {
            let table = &inner.session.table;
            inner.group.identity(&table.client, &table.topic)
        })
        .await
    }

    /// How long a transaction may be open.
    pub(crate) fn timeout(&self) -> Duration {
        self.inner.session.table.client.transaction_timeout
    }

    /// The sink's topic.
    pub(crate) fn topic(&self) -> &str {
        &self.inner.session.table.topic
    }
}

impl<G: GroupOffsets> Clone for JobTopic<G> {
    fn clone(&self) -> Self {
        Self {
            inner: Arc::clone(&self.inner),
        }
    }
}

impl<G: GroupOffsets> std::fmt::Debug for JobTopic<G> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("JobTopic")
            .field("topic", &self.topic())
            .finish_non_exhaustive()
    }
}

/// The rows of a batch on their way into the job's transaction.
struct BatchRows<G: GroupOffsets> {
    inner: Arc<SinkState<G>>,
    /// The number of records that were acknowledged before it.
    before: u64,
}

impl<G: GroupOffsets> BatchRows<G> {
    fn begin(inner: Arc<SinkState<G>>) -> Result<Self> {
        let before = inner.session.deliveries.acknowledged();
        inner.session.deliveries.take_published();
        inner.begin()?;
        Ok(Self { inner, before })
    }
}

impl<G: GroupOffsets> RecordOutlet for BatchRows<G> {
    fn send(&mut self, rows: &EncodedBatch) -> Result<()> {
        self.inner.session.send(rows)
    }

    fn end(self, outcome: Result<bool>) -> Result<u64> {
        let session = &self.inner.session;
        let sent = outcome.and_then(|is_whole| {
            if !is_whole {
                return Err(Error::new(ErrorKind::Cancelled, "the batch was cancelled"));
            }
            // The transaction is not committed yet: the job reports that it waits, and tries the batch again.
            session.flush(session.table.client.request_timeout())
        });
        sent.map_err(|error| match self.inner.is_fenced_off() {
            true => fenced(),
            false => error,
        })?;
        Ok(session.deliveries.acknowledged() - self.before)
    }
}

impl<G: GroupOffsets> SinkState<G> {
    /// Makes offsets part of the transaction.
    ///
    /// The client has a timeout for the first of its two requests only: for the second it waits until the group's
    /// coordinator answers. So the call is left alone after a while. Before the commit no outcome is in doubt, and the
    /// runner that takes the job over next fences this producer off.
    #[expect(
        clippy::disallowed_methods,
        reason = "a call that may outlast its time limit has a thread of its own"
    )]
    fn add_offsets(self: &Arc<Self>, list: TopicPartitionList) -> Result<()> {
        /// The client's own time is over by then.
        const LATE: Duration = Duration::from_secs(30);
        let settings = &self.session.table.client;
        let patience = settings.request_timeout();
        let (answer, answered) = std::sync::mpsc::channel();
        let inner = Arc::clone(self);
        let call = move || {
            let producer = &inner.session.producer;
            let added = again(producer, patience, || {
                inner.group.send_offsets(producer, &list, patience)
            });
            // The runner does not wait for a late answer.
            let _ = answer.send(added);
        };
        std::thread::Builder::new()
            .name("kafka-offsets".to_owned())
            .spawn(call)
            .map_err(|error| {
                Error::unavailable(format!(
                    "a thread for a call to Kafka cannot be started: {error}"
                ))
            })?;
        match answered.recv_timeout(patience * 2 + LATE) {
            Ok(added) => added.map_err(|error| self.failed(&error)),
            Err(_) => Err(settings.unavailable(&self.session.deliveries.faults)),
        }
    }

    fn begin(&self) -> Result<()> {
        if !self.in_transactions {
            return Ok(());
        }
        self.session
            .producer
            .begin_transaction()
            .map_err(|failed| self.failed(&failed.error))
    }

    fn failed(&self, error: &KafkaError) -> Error {
        let fatal = self.session.producer.fatal_error();
        let codes = error.rdkafka_error_code().into_iter().chain(fatal);
        if codes.into_iter().any(is_fenced) {
            return fenced();
        }
        let (settings, faults) = (&self.session.table.client, &self.session.deliveries.faults);
        request_error(error, settings, faults)
    }

    /// Whether that is why records were refused. The client says only of some of them why; those that come later it does not take.
    fn is_fenced_off(&self) -> bool {
        let refused = self.session.deliveries.failure();
        let refused = refused.and_then(|error| error.rdkafka_error_code());
        let fatal = self.session.producer.fatal_error();
        refused.into_iter().chain(fatal).any(is_fenced)
    }
}

/// Whether the broker has given the producer's place to a later one.
fn is_fenced(code: RDKafkaErrorCode) -> bool {
    matches!(
        code,
        RDKafkaErrorCode::Fenced
            | RDKafkaErrorCode::ProducerFenced
            | RDKafkaErrorCode::InvalidProducerEpoch
    )
}

fn fenced() -> Error {
    Error::new(
        ErrorKind::Cancelled,
        "another runner has taken the job over, or its transaction timed out",
    )
}

/// Before a call is made again.
const PAUSE: Duration = Duration::from_millis(5);

/// Repeats a call that the client says may be repeated.
fn again(
    clock: &impl SilenceClock,
    patience: Duration,
    mut call: impl FnMut() -> CallOutcome,
) -> Result<(), KafkaError> {
    let start = clock.now();
    loop {
        match call() {
            Err(failed) if failed.may_repeat && clock.now() - start < patience => {
                clock.pause(PAUSE);
            }
            other => return other.map_err(|failed| failed.error),
        }
    }
}

/// The metadata that the group's offset of partition 0 was committed with: the witness.
fn committed_witness(
    group: &impl GroupOffsets,
    table: &KafkaTable,
) -> Result<Option<String>, KafkaError> {
    let patience = table.client.connect_timeout;
    let start = group.now();
    loop {
        let found = group.committed_metadata(&table.topic, 0, patience);
        // A transaction has ended, and its offsets become visible soon: the earlier offset is not the answer, and an
        // error is none either.
        let is_unstable = found.as_ref().is_err_and(|error| {
            error.rdkafka_error_code() == Some(RDKafkaErrorCode::UnstableOffsetCommit)
        });
        if !is_unstable || group.now() - start >= patience {
            return found;
        }
        group.pause(PAUSE);
    }
}

/// The witness of the last transaction that a job committed, asked for without taking the topic over; none if there is none, or
/// it has expired. `id` is the job's group.
///
/// # Errors
///
/// The broker does not answer.
pub async fn job_witness(table: Arc<KafkaTable>, id: &str) -> Result<Option<String>> {
    let id = id.to_owned();
    on_own_thread(move || {
        let faults = ClientFaults::default();
        let group = GroupClient::new(table.client.group_consumer(&id, faults.clone())?);
        let found = committed_witness(&group, &table);
        found.map_err(|error| request_error(&error, &table.client, &faults))
    })
    .await
}
