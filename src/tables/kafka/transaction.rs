//! A topic as the sink of a job: one producer over all batches, one transaction for each (EXACT-1).
//!
//! The transaction carries the offsets that the batch has read, where any Kafka tool shows them as lag, and the
//! *witness*: the name of the job's version, as metadata of one fixed coordinate, partition 0 of the sink's topic. What
//! the group has there after a crash is the version whose rows are in the topic.
//!
//! With `'delivery' 'at_least_once'` there is no transaction and nobody is fenced: rows are visible as they arrive, then the
//! group gets the offsets and the witness.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use datafusion::arrow::array::RecordBatch;
use datafusion::physical_plan::SendableRecordBatchStream;
use datafusion::physical_plan::metrics::Time;
use rdkafka::consumer::{BaseConsumer, CommitMode, Consumer};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::producer::{BaseProducer, Producer};
use rdkafka::{Offset, TopicPartitionList};

use crate::core::jobs::Identity;
use crate::error::{Error, ErrorKind, Result};
use crate::tables::kafka::aside::aside;
use crate::tables::kafka::client::{Faults, request_error};
use crate::tables::kafka::definition::{Delivery, KafkaTable};
use crate::tables::kafka::identity::identity;
use crate::tables::kafka::sink::{Deliveries, Session, encode_rows, ensure_topic, send_rows};

/// Where a job stands in one partition of a topic.
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

/// The sink of a job. Whoever has taken it over last owns it: every call of an earlier owner fails.
#[derive(Clone)]
pub struct KafkaJobSink {
    inner: Arc<Inner>,
}

struct Inner {
    session: Session,
    /// Asks for committed offsets and names the group; it is no member of it.
    group: BaseConsumer<Faults>,
    in_transactions: bool,
}

impl KafkaJobSink {
    /// Takes the topic over under `id`, the transactional id and the group: fences off whoever had it, and aborts what they
    /// had not committed. The topic is created if the table says how.
    ///
    /// # Errors
    ///
    /// The broker does not answer, or refuses.
    pub async fn take_over(table: Arc<KafkaTable>, id: &str) -> Result<Self> {
        ensure_topic(&table).await?;
        let id = id.to_owned();
        aside(move || {
            let settings = &table.client;
            let deliveries = Deliveries::default();
            let faults = deliveries.faults.clone();
            let timeout = settings.transaction_timeout.as_millis().to_string();
            let mut config = settings.producer_config();
            config.set("message.timeout.ms", &timeout);
            let in_transactions = table.delivery != Delivery::AtLeastOnce;
            if in_transactions {
                config
                    .set("transactional.id", &id)
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
                .create_with_context(deliveries.clone())
                .map_err(|error| settings.creation_error(&error))?;
            if in_transactions {
                producer
                    .init_transactions(settings.connect_timeout)
                    .map_err(|error| request_error(&error, settings, &faults))?;
            }
            let group = settings.group_consumer(&id, Faults::default())?;
            let session = Session {
                table,
                producer,
                deliveries,
            };
            Ok(Self {
                inner: Arc::new(Inner {
                    session,
                    group,
                    in_transactions,
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
    pub async fn witness(&self) -> Result<Option<String>> {
        let inner = Arc::clone(&self.inner);
        aside(move || {
            let found = committed_witness(&inner.group, &inner.session.table);
            found.map_err(|error| inner.failed(&error))
        })
        .await
    }

    /// Begins a transaction and sends all rows, and before them a tombstone for each row that is `withdrawn`; gives what was
    /// acknowledged. It is invisible until [`Self::commit`].
    ///
    /// # Errors
    ///
    /// The rows' own error, a record that is refused, the broker. The transaction is to be aborted then.
    pub async fn write(
        &self,
        withdrawn: Option<&RecordBatch>,
        rows: SendableRecordBatchStream,
    ) -> Result<PublishedRows> {
        let inner = Arc::clone(&self.inner);
        let table = Arc::clone(&self.inner.session.table);
        let deliveries = self.inner.session.deliveries.clone();
        let produce = move |mut parcels| {
            let session = &inner.session;
            let before = session.deliveries.acknowledged();
            session.deliveries.take_published();
            inner.begin()?;
            let sent = session.send_all(&mut parcels).and_then(|is_whole| {
                if !is_whole {
                    return Err(Error::new(ErrorKind::Cancelled, "the batch was cancelled"));
                }
                // Nothing is in doubt yet: the job says that it waits, and tries the batch again.
                session.flush(session.table.client.patience())
            });
            sent.map_err(|error| {
                let reported = session.deliveries.failure().filter(is_fenced);
                let kept = || session.ended_by().filter(is_fenced);
                match reported.or_else(kept) {
                    Some(_) => fenced(),
                    None => error,
                }
            })?;
            Ok(session.deliveries.acknowledged() - before)
        };
        let rows = send_rows(&table, withdrawn, rows, &Time::new(), produce).await?;
        let published = deliveries.take_published().into_iter();
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
    pub async fn rehearse(&self, rows: SendableRecordBatchStream) -> Result<()> {
        encode_rows(&self.inner.session.table, rows).await
    }

    /// Begins a transaction without rows.
    ///
    /// # Errors
    ///
    /// The broker refuses.
    pub async fn begin(&self) -> Result<()> {
        let inner = Arc::clone(&self.inner);
        aside(move || inner.begin()).await
    }

    /// Commits the transaction with the offsets read so far and the witness.
    ///
    /// # Errors
    ///
    /// Another runner has taken the job over, or the broker does not answer: then it cannot be told whether the
    /// transaction was committed, and only the witness can say after the next takeover.
    pub async fn commit(&self, offsets: &[TopicOffset], batch: u64, witness: &str) -> Result<()> {
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
        aside(move || {
            if !inner.in_transactions {
                return inner
                    .group
                    .commit(&list, CommitMode::Sync)
                    .map_err(|error| inner.failed(&error));
            }
            let producer = &inner.session.producer;
            let timeout = inner.session.table.client.transaction_timeout;
            let group = inner
                .group
                .group_metadata()
                .ok_or_else(|| Error::internal("the client has no group"))?;
            again(timeout, || {
                producer.send_offsets_to_transaction(&list, &group, timeout)
            })
            .and_then(|()| again(timeout, || producer.commit_transaction(timeout)))
            .map_err(|error| inner.failed(&error))
        })
        .await
    }

    /// Aborts the transaction: none of its rows is ever visible to `read_committed` readers.
    ///
    /// # Errors
    ///
    /// The broker does not answer; it aborts by itself when the transaction times out or the job is taken over.
    pub async fn abort(&self) -> Result<()> {
        if !self.inner.in_transactions {
            return Ok(());
        }
        let inner = Arc::clone(&self.inner);
        aside(move || inner.session.abort()).await
    }

    /// Which topic it is now (IDENT-1).
    ///
    /// # Errors
    ///
    /// The topic is gone, or the broker does not answer.
    pub async fn identity(&self) -> Result<Identity> {
        let inner = Arc::clone(&self.inner);
        aside(move || {
            let table = &inner.session.table;
            identity(&table.client, &inner.group, &table.topic)
        })
        .await
    }

    /// How long a transaction may be open.
    pub fn timeout(&self) -> Duration {
        self.inner.session.table.client.transaction_timeout
    }

    /// The sink's topic.
    pub fn topic(&self) -> &str {
        &self.inner.session.table.topic
    }
}

impl std::fmt::Debug for KafkaJobSink {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("KafkaJobSink")
            .field("topic", &self.topic())
            .finish_non_exhaustive()
    }
}

impl Inner {
    fn begin(&self) -> Result<()> {
        if !self.in_transactions {
            return Ok(());
        }
        self.session
            .producer
            .begin_transaction()
            .map_err(|error| self.failed(&error))
    }

    fn failed(&self, error: &KafkaError) -> Error {
        let fatal = self.session.producer.client().fatal_error();
        let fatal = fatal.map(|(code, _)| KafkaError::MessageProduction(code));
        if is_fenced(error) || fatal.as_ref().is_some_and(is_fenced) {
            return fenced();
        }
        let (settings, faults) = (&self.session.table.client, &self.session.deliveries.faults);
        request_error(error, settings, faults)
    }
}

/// Whether the broker has given the producer's place to a later one.
fn is_fenced(error: &KafkaError) -> bool {
    matches!(
        error.rdkafka_error_code(),
        Some(
            RDKafkaErrorCode::Fenced
                | RDKafkaErrorCode::ProducerFenced
                | RDKafkaErrorCode::InvalidProducerEpoch
        )
    )
}

fn fenced() -> Error {
    Error::new(
        ErrorKind::Cancelled,
        "another runner has taken the job over, or its transaction timed out",
    )
}

/// Repeats a call that librdkafka says may be repeated.
fn again(
    patience: Duration,
    mut call: impl FnMut() -> std::result::Result<(), KafkaError>,
) -> std::result::Result<(), KafkaError> {
    let start = std::time::Instant::now();
    loop {
        match call() {
            Err(KafkaError::Transaction(error))
                if error.is_retriable() && start.elapsed() < patience => {}
            other => return other,
        }
    }
}
/// What the group's offset of partition 0 was committed with.
fn committed_witness(
    group: &BaseConsumer<Faults>,
    table: &KafkaTable,
) -> Result<Option<String>, KafkaError> {
    let mut wanted = TopicPartitionList::with_capacity(1);
    wanted.add_partition(&table.topic, 0);
    let found = group.committed_offsets(wanted, table.client.connect_timeout)?;
    let element = found.find_partition(&table.topic, 0);
    Ok(element.and_then(|element| match element.offset() {
        Offset::Offset(_) => Some(element.metadata().to_owned()),
        _ => None,
    }))
}

/// The witness of the last transaction that a job committed, asked for without taking the topic over; none if there is none, or
/// it has expired. `id` is the job's group.
///
/// # Errors
///
/// The broker does not answer.
pub async fn job_witness(table: Arc<KafkaTable>, id: &str) -> Result<Option<String>> {
    let id = id.to_owned();
    aside(move || {
        let faults = Faults::default();
        let group = table.client.group_consumer(&id, faults.clone())?;
        let found = committed_witness(&group, &table);
        found.map_err(|error| request_error(&error, &table.client, &faults))
    })
    .await
}
