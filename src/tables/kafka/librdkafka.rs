//! Direct calls of librdkafka that its Rust binding does not offer: many records of one partition at once, the offset
//! of an end of partition, a task that is woken when a queue has something, and the ends of many partitions in one
//! request.
#![expect(
    unsafe_code,
    reason = "the binding drops the offset of an end of partition and has no ListOffsets: librdkafka is called directly"
)]

use std::ffi::{CStr, CString, c_void};
use std::os::raw::c_int;
use std::ptr::{self, NonNull};
use std::sync::Arc;
use std::time::Duration;

use rdkafka::bindings as native;
use rdkafka::bindings::rd_kafka_resp_err_t as Code;
use rdkafka::consumer::{BaseConsumer, Consumer, ConsumerContext};
use rdkafka::error::RDKafkaErrorCode;
use rdkafka::message::Header;
use rdkafka::{Offset, Timestamp, TopicPartitionList};
use tokio::sync::Notify;

use crate::tables::kafka::fetcher::{PartitionEvent, Record};

/// A record that librdkafka fetched; its bytes lie where they were received.
pub(crate) struct NativeRecord {
    message: NonNull<native::rd_kafka_message_t>,
}

// SAFETY: a message is owned by this value alone, and librdkafka lets any thread read and destroy it.
unsafe impl Send for NativeRecord {}

impl NativeRecord {
    fn message(&self) -> &native::rd_kafka_message_t {
        // SAFETY: the message is destroyed when this value is dropped, not before.
        unsafe { self.message.as_ref() }
    }
}

impl Drop for NativeRecord {
    fn drop(&mut self) {
        // SAFETY: it was handed over by `rd_kafka_consume_batch_queue` and is destroyed once.
        unsafe { native::rd_kafka_message_destroy(self.message.as_ptr()) }
    }
}

impl Record for NativeRecord {
    fn topic(&self) -> &str {
        // SAFETY: a message holds its topic, whose name is a C string.
        let name = unsafe { CStr::from_ptr(native::rd_kafka_topic_name(self.message().rkt)) };
        name.to_str().unwrap_or_default()
    }

    fn partition(&self) -> i32 {
        self.message().partition
    }

    fn offset(&self) -> i64 {
        self.message().offset
    }

    fn timestamp(&self) -> Timestamp {
        use native::rd_kafka_timestamp_type_t as Type;
        let mut kind = Type::RD_KAFKA_TIMESTAMP_NOT_AVAILABLE;
        // SAFETY: the message lives, and `kind` is written only.
        let millis =
            unsafe { native::rd_kafka_message_timestamp(self.message.as_ptr(), &mut kind) };
        match kind {
            _ if millis == -1 => Timestamp::NotAvailable,
            Type::RD_KAFKA_TIMESTAMP_NOT_AVAILABLE => Timestamp::NotAvailable,
            Type::RD_KAFKA_TIMESTAMP_CREATE_TIME => Timestamp::CreateTime(millis),
            Type::RD_KAFKA_TIMESTAMP_LOG_APPEND_TIME => Timestamp::LogAppendTime(millis),
        }
    }

    fn key(&self) -> Option<&[u8]> {
        let message = self.message();
        // SAFETY: the message owns its key for as long as it lives.
        unsafe { bytes(message.key, message.key_len) }
    }

    fn payload(&self) -> Option<&[u8]> {
        let message = self.message();
        // SAFETY: the message owns its payload for as long as it lives.
        unsafe { bytes(message.payload, message.len) }
    }

    fn headers<'a>(&'a self, into: &mut Vec<Header<'a, &'a [u8]>>) -> bool {
        let mut headers = ptr::null_mut();
        // SAFETY: the message lives; librdkafka parses its headers now, and this value is not shared between threads.
        let code = unsafe { native::rd_kafka_message_headers(self.message.as_ptr(), &mut headers) };
        if code != Code::RD_KAFKA_RESP_ERR_NO_ERROR || headers.is_null() {
            return false;
        }
        for index in 0.. {
            let (mut name, mut value, mut size) = (ptr::null(), ptr::null(), 0);
            // SAFETY: the headers belong to the message and live as long; an index past the last gives an error code.
            let code = unsafe {
                native::rd_kafka_header_get_all(headers, index, &mut name, &mut value, &mut size)
            };
            if code != Code::RD_KAFKA_RESP_ERR_NO_ERROR {
                break;
            }
            // SAFETY: a name is a C string, and a value has `size` bytes; both are the message's.
            let (name, value) = unsafe { (CStr::from_ptr(name), bytes(value, size)) };
            into.push(Header {
                key: name.to_str().unwrap_or_default(),
                value,
            });
        }
        true
    }
}

/// SAFETY: `start` is null or has `size` bytes that live as long as the returned slice.
unsafe fn bytes<'a>(start: *const c_void, size: usize) -> Option<&'a [u8]> {
    if start.is_null() {
        return None;
    }
    // SAFETY: see above.
    Some(unsafe { std::slice::from_raw_parts(start.cast(), size) })
}

/// The queue of one partition of a consumer: records of this partition come here alone.
pub(crate) struct PartitionQueue<C: ConsumerContext> {
    queue: NonNull<native::rd_kafka_queue_t>,
    /// Where librdkafka puts pointers to messages.
    taken: Vec<*mut native::rd_kafka_message_t>,
    /// The partition, as a list of one.
    place: TopicPartitionList,
    /// The last offset at which an end of partition, or an error, was taken.
    ended: Option<i64>,
    /// Notified by librdkafka's threads; they have a pointer to it until the queue is dropped.
    signal: Arc<Notify>,
    /// Must outlive the queue: dropped last.
    consumer: Arc<BaseConsumer<C>>,
}

// SAFETY: librdkafka's queues may be used by any thread, the pointers in `taken` are used within one call.
unsafe impl<C: ConsumerContext> Send for PartitionQueue<C> {}

impl<C: ConsumerContext> PartitionQueue<C> {
    /// The queue of a partition. If it is taken before the partition is assigned, it gets all records of it.
    pub(crate) fn of_partition(
        consumer: &Arc<BaseConsumer<C>>,
        topic: &str,
        partition: i32,
    ) -> Option<Self> {
        let name = CString::new(topic).ok()?;
        let client = consumer.client().native_ptr();
        // SAFETY: the client lives, the name is a C string.
        let queue = NonNull::new(unsafe {
            native::rd_kafka_queue_get_partition(client, name.as_ptr(), partition)
        })?;
        let signal = Arc::new(Notify::new());
        // SAFETY: the queue was just given. The pointer to `signal` is taken back in `drop`, before `signal` goes.
        unsafe {
            native::rd_kafka_queue_forward(queue.as_ptr(), ptr::null_mut());
            native::rd_kafka_queue_cb_event_enable(
                queue.as_ptr(),
                Some(arrived),
                Arc::as_ptr(&signal).cast_mut().cast(),
            );
        }
        let mut place = TopicPartitionList::with_capacity(1);
        place.add_partition(topic, partition);
        Some(Self {
            queue,
            taken: Vec::new(),
            place,
            ended: None,
            signal,
            consumer: Arc::clone(consumer),
        })
    }

    /// Takes the events in the queue, at most `most`, without waiting.
    pub(crate) fn take(
        &mut self,
        most: usize,
        into: &mut impl Extend<PartitionEvent<NativeRecord>>,
    ) {
        self.taken.clear();
        self.taken.resize(most, ptr::null_mut());
        // SAFETY: `taken` has room for `most` pointers; the messages behind them are ours then.
        let count = unsafe {
            native::rd_kafka_consume_batch_queue(
                self.queue.as_ptr(),
                0,
                self.taken.as_mut_ptr(),
                most,
            )
        };
        let count = usize::try_from(count).unwrap_or(0);
        let messages = self.taken.drain(..).take(count).filter_map(NonNull::new);
        let ended = &mut self.ended;
        into.extend(messages.map(|message| {
            let record = NativeRecord { message };
            let code = record.message().err;
            if code != Code::RD_KAFKA_RESP_ERR_NO_ERROR {
                *ended = Some(record.offset()).max(*ended);
            }
            match code {
                Code::RD_KAFKA_RESP_ERR_NO_ERROR => PartitionEvent::Record(record),
                Code::RD_KAFKA_RESP_ERR__PARTITION_EOF => PartitionEvent::End(record.offset()),
                code => PartitionEvent::Failed(RDKafkaErrorCode::from(code)),
            }
        }));
    }

    /// Frees what is left in the queue of an assignment that has ended. librdkafka leaves it there until the partition is assigned
    /// again, and it may be thousands of records.
    pub(crate) fn drop_outdated(&mut self) {
        // Events of an ended assignment are no longer given out: librdkafka frees them while it looks for another one.
        let mut others: Vec<PartitionEvent<NativeRecord>> = Vec::new();
        self.take(1, &mut others);
    }

    /// How many events wait in the queue.
    #[cfg(test)]
    pub(crate) fn waiting(&self) -> usize {
        // SAFETY: the queue lives.
        unsafe { native::rd_kafka_queue_length(self.queue.as_ptr()) }
    }

    /// The offset after the last record, or control record, that was taken.
    ///
    /// librdkafka counts the end of a partition at an offset as if it were a record there. It does not tell whether a
    /// control record was taken at this offset as well: then the offset is not counted.
    pub(crate) fn position(&self) -> Option<i64> {
        let client = self.consumer.client().native_ptr();
        // SAFETY: client and list live; the offset is written into the list, which is not shared.
        let code = unsafe { native::rd_kafka_position(client, self.place.ptr()) };
        if code != Code::RD_KAFKA_RESP_ERR_NO_ERROR {
            return None;
        }
        match self.place.elements().first()?.offset() {
            Offset::Offset(offset) if self.ended == Some(offset - 1) => self.ended,
            Offset::Offset(offset) => Some(offset),
            _ => None,
        }
    }

    /// Notified when an empty queue gets an event.
    pub(crate) fn signal(&self) -> &Notify {
        &self.signal
    }

    pub(crate) fn consumer(&self) -> &Arc<BaseConsumer<C>> {
        &self.consumer
    }
}

impl<C: ConsumerContext> Drop for PartitionQueue<C> {
    fn drop(&mut self) {
        // SAFETY: librdkafka calls `arrived` under the lock that this call takes: afterwards it has no pointer to `signal`.
        unsafe {
            native::rd_kafka_queue_cb_event_enable(self.queue.as_ptr(), None, ptr::null_mut());
            native::rd_kafka_queue_destroy(self.queue.as_ptr());
        }
    }
}

/// SAFETY: `signal` is the `Notify` of a queue that lives, see [`PartitionQueue::of_partition`].
unsafe extern "C" fn arrived(_: *mut native::rd_kafka_t, signal: *mut c_void) {
    // SAFETY: see above.
    let signal: &Notify = unsafe { &*signal.cast_const().cast::<Notify>() };
    signal.notify_one();
}

/// For each partition its offset, or why there is none; or why there is no answer.
type ListedOffsets = Result<Vec<(i32, Result<i64, RDKafkaErrorCode>)>, RDKafkaErrorCode>;

/// An end of a log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum LogEnd {
    /// The first offset kept.
    First,
    /// The last stable offset: no transaction is open below it.
    Stable,
    /// The high watermark.
    Latest,
}

/// Asks the leaders of these partitions for an end of their logs: one request for each broker. Blocks, at most `timeout`.
///
/// # Errors
///
/// No answer; with an answer, each partition has its own error.
pub(crate) fn list_offsets<C: ConsumerContext>(
    consumer: &BaseConsumer<C>,
    topic: &str,
    partitions: &[i32],
    end: LogEnd,
    timeout: Duration,
) -> ListedOffsets {
    use native::rd_kafka_IsolationLevel_t as Isolation;
    let (spec, isolation) = match end {
        LogEnd::First => (-2, Isolation::RD_KAFKA_ISOLATION_LEVEL_READ_COMMITTED),
        LogEnd::Stable => (-1, Isolation::RD_KAFKA_ISOLATION_LEVEL_READ_COMMITTED),
        LogEnd::Latest => (-1, Isolation::RD_KAFKA_ISOLATION_LEVEL_READ_UNCOMMITTED),
    };
    let client = consumer.client().native_ptr();
    let millis = c_int::try_from(timeout.as_millis())
        .unwrap_or(c_int::MAX)
        .max(1);
    let capacity = c_int::try_from(partitions.len()).unwrap_or(c_int::MAX);
    let name = CString::new(topic).map_err(|_| RDKafkaErrorCode::InvalidTopic)?;
    // SAFETY: all objects are made here, used by this thread alone and destroyed once; all values read from the answer
    // are copied before the answer is destroyed.
    unsafe {
        let list = native::rd_kafka_topic_partition_list_new(capacity);
        for partition in partitions {
            let element =
                native::rd_kafka_topic_partition_list_add(list, name.as_ptr(), *partition);
            (*element).offset = spec;
        }
        let options = native::rd_kafka_AdminOptions_new(
            client,
            native::rd_kafka_admin_op_t::RD_KAFKA_ADMIN_OP_LISTOFFSETS,
        );
        let refused = native::rd_kafka_AdminOptions_set_isolation_level(options, isolation);
        if !refused.is_null() {
            native::rd_kafka_error_destroy(refused);
        }
        native::rd_kafka_AdminOptions_set_request_timeout(options, millis, ptr::null_mut(), 0);
        let queue = native::rd_kafka_queue_new(client);
        native::rd_kafka_ListOffsets(client, list, options, queue);
        // The request ends by its own timeout; a moment more, so that its own error is seen.
        let event = native::rd_kafka_queue_poll(queue, millis.saturating_add(500));
        let answer = if event.is_null() {
            Err(RDKafkaErrorCode::OperationTimedOut)
        } else {
            let found = read_offsets(event);
            native::rd_kafka_event_destroy(event);
            found
        };
        native::rd_kafka_queue_destroy(queue);
        native::rd_kafka_AdminOptions_destroy(options);
        native::rd_kafka_topic_partition_list_destroy(list);
        answer
    }
}

/// The offset of one partition in an answer. librdkafka asks one broker after another: where one of them did not answer, its
/// partitions have no error, and no offset.
fn offset_of(offset: i64, code: Code) -> std::result::Result<i64, RDKafkaErrorCode> {
    match code {
        Code::RD_KAFKA_RESP_ERR_NO_ERROR if offset < 0 => Err(RDKafkaErrorCode::OffsetNotAvailable),
        Code::RD_KAFKA_RESP_ERR_NO_ERROR => Ok(offset),
        code => Err(code.into()),
    }
}

/// SAFETY: `event` is an event that lives.
unsafe fn read_offsets(event: *mut native::rd_kafka_event_t) -> ListedOffsets {
    // SAFETY: the event lives, and so does all data that belongs to it.
    unsafe {
        let code = native::rd_kafka_event_error(event);
        if code != Code::RD_KAFKA_RESP_ERR_NO_ERROR {
            return Err(code.into());
        }
        let result = native::rd_kafka_event_ListOffsets_result(event);
        if result.is_null() {
            return Err(RDKafkaErrorCode::BadMessage);
        }
        let mut count = 0;
        let infos = native::rd_kafka_ListOffsets_result_infos(result, &mut count);
        let found = (0..count).map(|index| {
            let place = native::rd_kafka_ListOffsetsResultInfo_topic_partition(*infos.add(index));
            ((*place).partition, offset_of((*place).offset, (*place).err))
        });
        Ok(found.collect())
    }
}
