//! The simulated client of one process. It has the rules of librdkafka: which calls it takes in which phase, after which errors a
//! call may be repeated, and after which it refuses every call.

use std::collections::VecDeque;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use rdkafka::error::{KafkaError, RDKafkaErrorCode as Code};
use rdkafka::{Offset, TopicPartitionList};

use super::Planted;
use super::broker::{Broker, Offsets, Request, Row};
use super::world::{DeadProcess, Process, RequestFault};
use crate::core::jobs::Identity;
use crate::error::Result;
use crate::tables::kafka::client::ClientSettings;
use crate::tables::kafka::publisher::{
    CallError, CallOutcome, GroupOffsets, Publisher, SentRecord, SilenceClock,
};
use crate::tables::kafka::sink::Deliveries;
use crate::tables::kafka::topic_rules::TopicRules;

/// How many records may wait to be sent.
const QUEUE: usize = 4;

/// The phase of the client's transaction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    Begun,
    Ready,
    InTransaction,
    /// The client has asked for the commit, and has no answer yet.
    Committing,
    Aborting,
    /// A record was refused: the transaction can only be aborted.
    Failed,
}

struct Local {
    phase: Phase,
    epoch: i64,
    /// Whether the broker may know of the transaction.
    is_known: bool,
    queue: VecDeque<Row>,
    fatal: Option<Code>,
}

pub(super) struct SimulatedPublisher {
    process: Arc<Process>,
    in_transactions: bool,
    deliveries: Deliveries,
    local: Mutex<Local>,
}

pub(super) struct SimulatedGroup {
    process: Arc<Process>,
}

/// The producer of a process, and the client that asks for the group's offsets.
pub(super) fn connect(
    process: &Arc<Process>,
    in_transactions: bool,
    deliveries: Deliveries,
) -> (SimulatedPublisher, SimulatedGroup) {
    let publisher = SimulatedPublisher {
        process: Arc::clone(process),
        in_transactions,
        deliveries,
        local: Mutex::new(Local {
            phase: Phase::Begun,
            epoch: 0,
            is_known: false,
            queue: VecDeque::new(),
            fatal: None,
        }),
    };
    let group = SimulatedGroup {
        process: Arc::clone(process),
    };
    (publisher, group)
}

impl From<DeadProcess> for CallError {
    fn from(_: DeadProcess) -> Self {
        refused(Code::BrokerDestroy)
    }
}

fn refused(code: Code) -> CallError {
    CallError {
        error: KafkaError::Global(code),
        may_repeat: false,
    }
}

fn not_yet(code: Code) -> CallError {
    CallError {
        error: KafkaError::Global(code),
        may_repeat: true,
    }
}

/// Sends a request, which may get lost: gives the broker's answer, or an error after which the call may be repeated.
fn ask<T>(
    process: &Process,
    timeout: Duration,
    late: Option<Request>,
    request: impl FnOnce(&mut Broker, Duration) -> T,
) -> std::result::Result<T, CallError> {
    process.step()?;
    let answer = {
        let mut state = process.world.lock();
        let mishap = state.mishap();
        if let Some(mishap) = mishap {
            state.note(format_args!("runner {}: {mishap:?}", process.slot));
        }
        let now = state.now;
        // Requests of one client arrive in order: its late ones come before this one.
        if let Some(Request::End { epoch, .. }) = late
            && !matches!(mishap, Some(RequestFault::Lost | RequestFault::Late))
        {
            state.broker.arrive_in_order(epoch);
        }
        match mishap {
            None => Ok(request(&mut state.broker, now)),
            Some(RequestFault::NotNow(code)) => Err(not_yet(code)),
            Some(mishap) => {
                match (mishap, late) {
                    (RequestFault::AnswerLost, _) => drop(request(&mut state.broker, now)),
                    (RequestFault::Late, Some(late)) => state.broker.late.push(late),
                    _ => {}
                }
                state.wait_in_vain(timeout);
                Err(not_yet(Code::OperationTimedOut))
            }
        }
    };
    process.step()?;
    answer
}

impl SimulatedPublisher {
    fn local(&self) -> MutexGuard<'_, Local> {
        self.local.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn planted(&self) -> Planted {
        self.process.world.planted
    }

    /// The broker has refused something of the transaction for good: from now on the client refuses every call.
    fn heard(&self, local: &mut Local, code: Code) -> CallError {
        let code = match code {
            Code::InvalidProducerEpoch => {
                self.process.is_fenced.store(true, Ordering::SeqCst);
                Code::Fenced
            }
            code => code,
        };
        self.process.note(format_args!("hears {code:?}"));
        local.fatal = Some(code);
        refused(code)
    }

    /// Sends the next record of the queue.
    fn deliver(&self, local: &mut Local) {
        let Some(row) = local.queue.pop_front() else {
            return;
        };
        let fault = {
            let mut state = self.process.world.lock();
            let now = state.now;
            let epoch = self.in_transactions.then_some(local.epoch);
            local.is_known = true;
            if state.fails(12) {
                let codes = [
                    (Code::MessageSizeTooLarge, false),
                    (Code::MessageTimedOut, false),
                    // The record is in the log although its delivery timed out.
                    (Code::MessageTimedOut, true),
                ];
                let (code, is_stored) = codes[state.random.index(codes.len())];
                if is_stored {
                    let _ = state.broker.append(epoch, row, now);
                }
                Some(code)
            } else {
                match state.broker.append(epoch, row, now) {
                    Ok((partition, offset)) => {
                        self.deliveries.delivered(partition, offset);
                        None
                    }
                    Err(code) => Some(code),
                }
            }
        };
        match fault {
            None => {}
            Some(Code::InvalidProducerEpoch) => {
                self.heard(local, Code::InvalidProducerEpoch);
                // If the client learned of it before it sent the record, the record is only purged from the queue.
                let says_why = self.process.world.lock().fails(500);
                let code = match says_why {
                    true => Code::InvalidProducerEpoch,
                    false => Code::PurgeQueue,
                };
                self.deliveries
                    .refused(&KafkaError::MessageProduction(code), false);
                self.drop_queue(local);
            }
            Some(_) if self.planted() == Planted::SilentFailures => {}
            Some(code) => {
                self.process
                    .note(format_args!("{row:?} is refused: {code:?}"));
                self.deliveries
                    .refused(&KafkaError::MessageProduction(code), false);
                if self.in_transactions {
                    local.phase = Phase::Failed;
                    self.drop_queue(local);
                }
            }
        }
    }

    fn drop_queue(&self, local: &mut Local) {
        for _ in local.queue.drain(..) {
            let error = KafkaError::MessageProduction(Code::PurgeQueue);
            self.deliveries.refused(&error, false);
        }
    }

    fn end(&self, commits: bool, timeout: Duration) -> CallOutcome {
        let epoch = self.local().epoch;
        let late = Some(Request::End { epoch, commits });
        let answer = ask(&self.process, timeout, late, |broker, _| {
            broker.end(epoch, commits)
        })?;
        let mut local = self.local();
        match answer {
            Ok(()) => {
                local.phase = Phase::Ready;
                local.is_known = false;
                Ok(())
            }
            Err(code) => Err(self.heard(&mut local, code)),
        }
    }
}

impl SilenceClock for SimulatedPublisher {
    fn now(&self) -> Instant {
        self.process.world.instant()
    }

    fn pause(&self, pause: Duration) {
        wait(&self.process, pause);
    }
}

impl SilenceClock for SimulatedGroup {
    fn now(&self) -> Instant {
        self.process.world.instant()
    }

    fn pause(&self, pause: Duration) {
        wait(&self.process, pause);
    }
}

fn wait(process: &Process, pause: Duration) {
    // A dead process ends at its next call.
    let _ = process.step();
    let mut state = process.world.lock();
    let times = 1 + u32::try_from(state.random.below(40)).unwrap();
    state.now += pause * times;
}

impl Publisher for SimulatedPublisher {
    #[expect(
        clippy::result_large_err,
        reason = "the record is given back as the client takes it"
    )]
    fn send<'a>(&self, record: SentRecord<'a>) -> Result<(), (KafkaError, SentRecord<'a>)> {
        let refused = |code, record| Err((KafkaError::MessageProduction(code), record));
        let mut local = self.local();
        if !self.process.is_alive() {
            return refused(Code::BrokerDestroy, record);
        }
        if local.fatal.is_some() {
            return refused(Code::Fatal, record);
        }
        if self.in_transactions && local.phase != Phase::InTransaction {
            return refused(Code::State, record);
        }
        if self.process.world.lock().fails(4) {
            return refused(Code::MessageSizeTooLarge, record);
        }
        if local.queue.len() >= QUEUE {
            return refused(Code::QueueFull, record);
        }
        let attempt = record.payload.map(|value| {
            let value: serde_json::Value = serde_json::from_slice(value).unwrap();
            value["attempt"].as_i64().unwrap()
        });
        let id = std::str::from_utf8(record.key.unwrap()).unwrap();
        local.queue.push_back(Row {
            id: id.parse().unwrap(),
            attempt,
        });
        Ok(())
    }

    fn poll(&self, at_most: Duration) {
        if self.process.step().is_err() {
            return;
        }
        let mut local = self.local();
        let records = {
            let mut state = self.process.world.lock();
            match state.is_away() {
                true => 0,
                false if state.fails(700) => state.random.below(local.queue.len() as u64 + 1),
                false => QUEUE as u64,
            }
        };
        if records == 0 {
            self.process.world.lock().now += at_most;
        }
        for _ in 0..records {
            self.deliver(&mut local);
        }
    }

    fn in_flight_count(&self) -> i32 {
        match self.process.is_alive() {
            true => i32::try_from(self.local().queue.len()).unwrap(),
            false => 0,
        }
    }

    fn purge(&self) {
        self.drop_queue(&mut self.local());
    }

    fn init_transactions(&self, timeout: Duration) -> CallOutcome {
        let late = Some(Request::TakeOver);
        let epoch = ask(&self.process, timeout, late, |broker, _| broker.take_over())?;
        let mut local = self.local();
        local.epoch = epoch;
        local.phase = Phase::Ready;
        self.process.note(format_args!("has epoch {epoch}"));
        Ok(())
    }

    fn begin_transaction(&self) -> CallOutcome {
        let mut local = self.local();
        if let Some(fatal) = local.fatal {
            return Err(refused(fatal));
        }
        if local.phase != Phase::Ready {
            return Err(refused(Code::State));
        }
        local.phase = Phase::InTransaction;
        Ok(())
    }

    fn commit_transaction(&self, timeout: Duration) -> CallOutcome {
        let deadline = self.now() + timeout;
        while self.in_flight_count() > 0 {
            if self.now() > deadline {
                return Err(KafkaError::Flush(Code::OperationTimedOut).into());
            }
            self.poll(Duration::from_millis(100));
        }
        {
            let mut local = self.local();
            if let Some(fatal) = local.fatal {
                return Err(refused(fatal));
            }
            match local.phase {
                Phase::InTransaction | Phase::Committing => local.phase = Phase::Committing,
                Phase::Failed => return Err(refused(Code::Inconsistent)),
                _ => return Err(refused(Code::State)),
            }
            if !local.is_known {
                local.phase = Phase::Ready;
                return Ok(());
            }
        }
        self.end(true, timeout)
    }

    fn abort_transaction(&self, timeout: Duration) -> CallOutcome {
        self.purge();
        {
            let mut local = self.local();
            if let Some(fatal) = local.fatal {
                return Err(refused(fatal));
            }
            match local.phase {
                Phase::InTransaction | Phase::Aborting | Phase::Failed => {
                    local.phase = Phase::Aborting;
                }
                Phase::Committing => return Err(not_yet(Code::Conflict)),
                _ => return Err(refused(Code::State)),
            }
            if !local.is_known {
                local.phase = Phase::Ready;
                return Ok(());
            }
            if self.planted() == Planted::NoWaiting {
                // The planted fault: the client does not wait until the broker has aborted the transaction.
                local.phase = Phase::Ready;
                return Ok(());
            }
        }
        self.end(false, timeout)
    }

    fn fatal_error(&self) -> Option<Code> {
        self.local().fatal
    }

    fn rules(&self, _: &ClientSettings, _: &str) -> Option<TopicRules> {
        None
    }
}

impl GroupOffsets for SimulatedGroup {
    type Publisher = SimulatedPublisher;

    fn send_offsets(
        &self,
        publisher: &SimulatedPublisher,
        offsets: &TopicPartitionList,
        timeout: Duration,
    ) -> CallOutcome {
        let epoch = {
            let mut local = publisher.local();
            if let Some(fatal) = local.fatal {
                return Err(refused(fatal));
            }
            if local.phase != Phase::InTransaction {
                return Err(refused(Code::State));
            }
            local.is_known = true;
            local.epoch
        };
        let offsets = offsets_of(offsets);
        let answer = ask(&self.process, timeout, None, |broker, now| {
            broker.add_offsets(epoch, &offsets, now)
        })?;
        answer.map_err(|code| publisher.heard(&mut publisher.local(), code))
    }

    fn commit_offsets(&self, offsets: &TopicPartitionList) -> Result<(), KafkaError> {
        let offsets = offsets_of(offsets);
        let timeout = Duration::from_millis(100);
        let answer = ask(&self.process, timeout, None, |broker, _| {
            broker.commit_offsets(offsets);
        });
        answer.map_err(|failed| failed.error)
    }

    fn committed_metadata(
        &self,
        topic: &str,
        partition: i32,
        timeout: Duration,
    ) -> Result<Option<String>, KafkaError> {
        let answer = ask(&self.process, timeout, None, |broker, _| {
            broker.committed(topic, partition)
        });
        let found = answer
            .map_err(|failed| failed.error)?
            .map_err(KafkaError::OffsetFetch)?;
        Ok(found.map(|(_, metadata)| metadata))
    }

    fn identity(&self, _: &ClientSettings, topic: &str) -> Result<Identity> {
        Ok(Identity::Topic {
            topic: topic.to_owned(),
            cluster: None,
            id: None,
        })
    }
}

fn offsets_of(list: &TopicPartitionList) -> Offsets {
    let of_partition = |element: &rdkafka::topic_partition_list::TopicPartitionListElem<'_>| {
        let Offset::Offset(offset) = element.offset() else {
            panic!("an offset is a number");
        };
        let key = (element.topic().to_owned(), element.partition());
        (key, (offset, element.metadata().to_owned()))
    };
    list.elements().iter().map(of_partition).collect()
}
