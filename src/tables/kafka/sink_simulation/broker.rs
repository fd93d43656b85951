//! The simulated brokers: one topic, the transactions of one transactional id, and the offsets of one group.

use std::collections::BTreeMap;
use std::time::Duration;

use rdkafka::error::RDKafkaErrorCode as Code;

use super::Planted;

/// The partitions of the topic.
pub(super) const PARTITIONS: i64 = 2;

/// The content of a record.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Row {
    pub(super) id: i64,
    /// The attempt at a batch that wrote it; a tombstone has none.
    pub(super) attempt: Option<i64>,
}

/// A record in the log of a partition.
#[derive(Debug, Clone, Copy)]
pub(super) struct Stored {
    pub(super) row: Row,
    pub(super) partition: i32,
    pub(super) offset: i64,
    /// The transaction that it was written in; `None` if its producer has no transactions.
    transaction: Option<u64>,
}

/// Offsets with their metadata, by topic and partition.
pub(super) type Offsets = BTreeMap<(String, i32), (i64, String)>;

/// A request that arrives late.
#[derive(Debug, Clone, Copy)]
pub(super) enum Request {
    TakeOver,
    End { epoch: i64, commits: bool },
}

#[derive(Debug)]
struct Open {
    number: u64,
    began: Duration,
    offsets: Offsets,
}

#[derive(Debug, Default)]
pub(super) struct Broker {
    planted: Planted,
    /// How long a transaction may be open.
    timeout: Duration,
    /// The epoch of the producer that was the last to take the transactional id over.
    epoch: i64,
    /// Open transactions by epoch. Brokers that fence have one at most.
    open: BTreeMap<i64, Open>,
    /// Whether the last transaction of an epoch was committed: a producer may ask again for the same end.
    last_end: BTreeMap<i64, bool>,
    /// Transactions that have ended, and whether they were committed.
    ends: BTreeMap<u64, bool>,
    transactions: u64,
    log: Vec<Stored>,
    next_offsets: BTreeMap<i32, i64>,
    group: Offsets,
    /// Offsets of transactions that were committed, and that the group has not taken over yet.
    pending: Vec<Offsets>,
    pub(super) late: Vec<Request>,
    /// Whether the offsets of the group have ever expired.
    pub(super) has_expired: bool,
}

impl Broker {
    pub(super) fn new(planted: Planted, timeout: Duration) -> Self {
        Self {
            planted,
            timeout,
            ..Self::default()
        }
    }

    fn check(&self, epoch: i64) -> Result<(), Code> {
        match epoch < self.epoch && self.planted != Planted::NoFencing {
            true => Err(Code::InvalidProducerEpoch),
            false => Ok(()),
        }
    }

    /// Aborts transactions that have been open for too long, and fences off their producers; whether there was one.
    pub(super) fn expire(&mut self, now: Duration) -> bool {
        let timeout = self.timeout;
        let is_over = |open: &Open| now.saturating_sub(open.began) > timeout;
        let over: Vec<i64> = self
            .open
            .iter()
            .filter(|(_, open)| is_over(open))
            .map(|(epoch, _)| *epoch)
            .collect();
        for epoch in &over {
            if let Some(open) = self.open.remove(epoch) {
                self.ends.insert(open.number, false);
                self.epoch = self.epoch.max(epoch + 1);
            }
        }
        !over.is_empty()
    }

    pub(super) fn take_over(&mut self) -> i64 {
        self.epoch += 1;
        if self.planted != Planted::NoFencing {
            for open in std::mem::take(&mut self.open).into_values() {
                self.ends.insert(open.number, false);
            }
        }
        self.epoch
    }

    /// The open transaction of a producer; it begins if there is none.
    fn transaction(&mut self, epoch: i64, now: Duration) -> Result<&mut Open, Code> {
        self.check(epoch)?;
        let transactions = &mut self.transactions;
        let last_end = &mut self.last_end;
        Ok(self.open.entry(epoch).or_insert_with(|| {
            last_end.remove(&epoch);
            *transactions += 1;
            Open {
                number: *transactions,
                began: now,
                offsets: Offsets::new(),
            }
        }))
    }

    /// Appends a record of the producer with this epoch, or of one without transactions.
    pub(super) fn append(
        &mut self,
        epoch: Option<i64>,
        row: Row,
        now: Duration,
    ) -> Result<(i32, i64), Code> {
        let transaction = match epoch {
            Some(epoch) => Some(self.transaction(epoch, now)?.number),
            None => None,
        };
        let partition = i32::try_from(row.id % PARTITIONS).unwrap();
        let next = self.next_offsets.entry(partition).or_default();
        let offset = *next;
        *next += 1;
        self.log.push(Stored {
            row,
            partition,
            offset,
            transaction,
        });
        Ok((partition, offset))
    }

    pub(super) fn add_offsets(
        &mut self,
        epoch: i64,
        offsets: &Offsets,
        now: Duration,
    ) -> Result<(), Code> {
        let at_once = self.planted == Planted::OffsetsAtOnce;
        let open = self.transaction(epoch, now)?;
        open.offsets.extend(offsets.clone());
        if at_once {
            self.group.extend(offsets.clone());
        }
        Ok(())
    }

    pub(super) fn end(&mut self, epoch: i64, commits: bool) -> Result<(), Code> {
        self.check(epoch)?;
        let Some(open) = self.open.remove(&epoch) else {
            return match self.last_end.get(&epoch) {
                Some(last) if *last == commits => Ok(()),
                _ => Err(Code::InvalidTransactionalState),
            };
        };
        // The marker of the transaction takes an offset in each partition.
        for next in self.next_offsets.values_mut() {
            *next += 1;
        }
        self.last_end.insert(epoch, commits);
        self.ends.insert(open.number, commits);
        if commits {
            self.pending.push(open.offsets);
        }
        Ok(())
    }

    /// A late request arrives.
    pub(super) fn arrive(&mut self, request: Request) {
        match request {
            Request::TakeOver => {
                self.take_over();
            }
            Request::End { epoch, commits } => {
                // The client does not wait for the answer any more.
                let _ = self.end(epoch, commits);
            }
        }
    }

    /// The late requests of the producer with this epoch arrive: before a newer one of the same producer.
    pub(super) fn arrive_in_order(&mut self, epoch: i64) {
        let is_own =
            |request: &Request| matches!(request, Request::End { epoch: of, .. } if *of == epoch);
        let (own, others) = std::mem::take(&mut self.late)
            .into_iter()
            .partition::<Vec<_>, _>(is_own);
        self.late = others;
        for request in own {
            self.arrive(request);
        }
    }

    /// The group takes over the offsets of the transactions that were committed.
    pub(super) fn settle(&mut self) {
        for offsets in std::mem::take(&mut self.pending) {
            self.group.extend(offsets);
        }
    }

    pub(super) fn commit_offsets(&mut self, offsets: Offsets) {
        self.group.extend(offsets);
    }

    /// The offset and metadata that the group has of a partition.
    pub(super) fn committed(
        &self,
        topic: &str,
        partition: i32,
    ) -> Result<Option<(i64, String)>, Code> {
        let key = (topic.to_owned(), partition);
        let is_unstable = self
            .pending
            .iter()
            .any(|offsets| offsets.contains_key(&key));
        match self.planted {
            Planted::NoOffset if is_unstable => Ok(None),
            Planted::OldOffsets => Ok(self.group.get(&key).cloned()),
            _ if is_unstable => Err(Code::UnstableOffsetCommit),
            _ => Ok(self.group.get(&key).cloned()),
        }
    }

    /// The offsets of the group expire.
    pub(super) fn forget_group(&mut self) {
        self.settle();
        self.group.clear();
        self.has_expired = true;
    }

    /// The records that a reader of committed records gets, in the order of their offsets.
    pub(super) fn seen(&self) -> Vec<Stored> {
        let is_seen = |stored: &&Stored| match stored.transaction {
            Some(number) => self.ends.get(&number) == Some(&true),
            None => true,
        };
        self.log.iter().filter(is_seen).copied().collect()
    }
}
