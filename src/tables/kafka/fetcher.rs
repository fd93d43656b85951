//! The seam between a scan and its client: records, ends of partition and errors of one partition, in the order of its log.
//!
//! librdkafka is behind it in the product ([`reader`](super::reader)), a simulated broker in tests.

use std::collections::VecDeque;
use std::future::Future;
use std::time::{Duration, Instant};

use rdkafka::Timestamp;
use rdkafka::error::RDKafkaErrorCode;
use rdkafka::message::Header;

/// A record as a scan decodes it.
pub(crate) trait Record: Send {
    /// The topic.
    fn topic(&self) -> &str;
    /// The partition.
    fn partition(&self) -> i32;
    /// The offset.
    fn offset(&self) -> i64;
    /// Its time, and whether the producer or the broker has set it.
    fn timestamp(&self) -> Timestamp;
    /// The bytes of the key.
    fn key(&self) -> Option<&[u8]>;
    /// The bytes of the value.
    fn payload(&self) -> Option<&[u8]>;
    /// Adds its headers in their order; false when it has none at all.
    fn headers<'a>(&'a self, into: &mut Vec<Header<'a, &'a [u8]>>) -> bool;
}

/// An event of a partition, from the client's queue.
#[derive(Debug)]
pub(crate) enum PartitionEvent<R> {
    /// A record.
    Record(R),
    /// The broker that is read has nothing stable at or after this offset *now*: a follower may lag, and a new leader
    /// may not know its last stable offset yet.
    End(i64),
    /// Fetching failed.
    Failed(RDKafkaErrorCode),
}

/// Fetches one partition from an offset on.
pub(crate) trait Fetcher: Send + 'static {
    /// Its records.
    type Record: Record + 'static;

    /// Takes the events that have arrived, at most `most`, in the order of the log, without waiting.
    fn take(&mut self, most: usize, into: &mut VecDeque<PartitionEvent<Self::Record>>);

    /// All records below this offset were taken, if a [`take`](Self::take) that follows gives nothing. Moves with control
    /// records; `None` while it is not known for certain.
    fn position(&mut self) -> Option<i64>;

    /// How far the client has fetched, as far as is known. Only a sign of progress: fetched records may not have been
    /// taken yet, and the number may be old.
    fn fetched(&mut self) -> Option<i64>;

    /// The time, by which silence is measured.
    fn now(&self) -> Instant;

    /// Waits until something may have arrived, at most this long.
    fn arrival(&mut self, at_most: Duration) -> impl Future<Output = ()> + Send;
}

/// Reads ranges of one partition, one after the other: records that were fetched past the end of one range are kept for
/// the next.
pub(crate) struct Cursor<F: Fetcher> {
    /// Dropped before the client.
    pub(crate) arrived: VecDeque<PartitionEvent<F::Record>>,
    /// The next range begins here.
    from: i64,
    /// All records below it were taken out of `arrived`.
    next: i64,
    pub(crate) fetcher: F,
}

impl<F: Fetcher> Cursor<F> {
    /// Over a fetcher that begins at `start`.
    pub(crate) fn new(fetcher: F, start: i64) -> Self {
        Self {
            arrived: VecDeque::new(),
            from: start,
            next: start,
            fetcher,
        }
    }

    /// Where the last range ended: only a range that begins here can be read.
    pub(crate) fn from(&self) -> i64 {
        self.from
    }

    /// All records below this offset were given, as records, ends of the partition and positions of the client have shown.
    pub(crate) fn next(&self) -> i64 {
        self.next
    }

    /// A range up to `end` is over, and all records below `next` were given. `next` is the offset that was really
    /// reached, not the planned end.
    pub(crate) fn finish(&mut self, end: i64, next: i64) {
        self.from = end;
        self.next = next;
    }
}
