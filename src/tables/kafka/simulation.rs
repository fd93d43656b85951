//! Simulation of scans, marks and ends of partitions. The real scan of a partition runs over a simulated client: in all
//! events of the brokers, the scan gives each record below the planned end once, or an error (LOSS-1). Records that
//! compaction removes while the scan reads may be missing only if the client had not fetched them yet. The real check
//! of the last record that was read runs over the same client (IDENT-1). And the real search for the ends of partitions
//! runs over simulated leaders: a partition with an open transaction never counts as read to its end (TIME-1).

use std::cell::RefCell;
use std::collections::{BTreeSet, VecDeque};
use std::sync::{Arc, LazyLock, Mutex};
use std::time::{Duration, Instant};

use anabranch_udfs::SideOutput;
use datafusion::arrow::array::AsArray;
use datafusion::arrow::datatypes::{DataType, Field, Int64Type};
use datafusion::execution::TaskContext;
use datafusion::physical_plan::metrics::{BaselineMetrics, Count, ExecutionPlanMetricsSet, Time};
use datafusion::prelude::SessionConfig;
use proptest::prelude::*;
use rdkafka::Timestamp;
use rdkafka::error::RDKafkaErrorCode;
use rdkafka::message::Header;

use super::client::ClientFaults;
use super::definition::{KafkaColumn, KafkaTable, KafkaTableSpec, MetadataKey, OnError};
use super::fetcher::{Cursor, Fetcher, PartitionEvent, Record};
use super::librdkafka::LogEnd;
use super::partition_ends::{Leaders, partition_ends};
use super::progress::{EndRule, ends_range};
use super::range::OffsetRange;
use super::range_reading::{BatchOutput, RangeEnd, RangeReading};
use super::read_marks::{ComparedParts, record_at};
use super::record::{ArchiveReading, RecordReader, mark_of};
use crate::core::jobs::{PartitionEnds, RecordMark};
use crate::core::schedules::{Schedules, cases, found_by, sample};
use crate::error::{Error, ErrorKind, Result};
use crate::tables::side_output::{
    BatchScan, ExpectedReport, ScanOutlet, ScanReport, check_reports, reports,
};

/// A planted fault must be found in one of so many schedules.
pub(super) const ENOUGH: u64 = 4_000;

/// The content of an offset of the partition.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Slot {
    Record,
    /// A record of a transaction that was aborted.
    Aborted,
    /// The marker of a commit or an abort.
    Control,
    /// Nothing: compaction has removed the record.
    Gap,
}

/// An event while the scan waits for its client.
#[derive(Debug, Clone)]
pub(super) enum Event {
    /// The client fetches so many offsets, or as many as there are.
    Fetch(i64),
    /// The last stable offset grows by so many: more records have come, or a transaction has ended.
    Grow(i64),
    /// The client reads from another broker: another leader, or a follower. The log of that one has this end so far.
    Moved(i64),
    /// A broker became the leader that lacks the records from here on; as many others were written since.
    Truncated(i64),
    /// Retention removes the records before this offset.
    Retention(i64),
    /// Compaction removes stable records from the first offset on and before the second.
    Compacted(i64, i64),
    /// Nothing happens for so many seconds.
    Quiet(u64),
    /// A connection breaks: an error that passes.
    Disconnected,
    /// An authorization fails: an error that does not pass.
    Refused,
}

pub(super) struct SimulatedRecord(i64, String);

impl Record for SimulatedRecord {
    fn topic(&self) -> &'static str {
        "simulated"
    }

    fn partition(&self) -> i32 {
        0
    }

    fn offset(&self) -> i64 {
        self.0
    }

    fn timestamp(&self) -> Timestamp {
        Timestamp::CreateTime(self.0)
    }

    fn key(&self) -> Option<&[u8]> {
        None
    }

    fn payload(&self) -> Option<&[u8]> {
        Some(self.1.as_bytes())
    }

    fn headers<'a>(&'a self, _: &mut Vec<Header<'a, &'a [u8]>>) -> bool {
        false
    }
}

/// An entry of librdkafka's queue of a partition.
enum Queued {
    Event(PartitionEvent<SimulatedRecord>),
    /// A control record: librdkafka moves its position past it, and gives nothing.
    Control(i64),
}

/// The offsets of records that compaction has removed before the client fetched them.
pub(super) type CompactedOffsets = Arc<Mutex<BTreeSet<i64>>>;

/// librdkafka and the brokers behind it, for one partition.
pub(super) struct SimulatedClient {
    log: Vec<Slot>,
    pub(super) gone: CompactedOffsets,
    pub(super) first: i64,
    /// The last stable offset of the broker that the client reads from.
    stable: i64,
    /// The client fetches this offset next.
    fetch_position: i64,
    /// The last end of the partition that the client has told.
    told: Option<i64>,
    position: Option<i64>,
    queue: VecDeque<Queued>,
    is_dead: bool,
    /// A fault that may be planted: only records show that the client makes progress.
    shows_records_only: bool,
    events: VecDeque<Event>,
    began: Instant,
    elapsed: Duration,
}

impl SimulatedClient {
    pub(super) fn new(log: Vec<Slot>, start: i64, stable: i64, events: Vec<Event>) -> Self {
        Self {
            log,
            gone: CompactedOffsets::default(),
            first: 0,
            stable,
            fetch_position: start,
            told: None,
            position: None,
            queue: VecDeque::new(),
            is_dead: false,
            shows_records_only: false,
            events: events.into(),
            began: Instant::now(),
            elapsed: Duration::ZERO,
        }
    }

    fn end(&self) -> i64 {
        i64::try_from(self.log.len()).unwrap()
    }

    /// Records that were fetched before stay in the queue of the client.
    fn compact(&mut self, from: i64, until: i64) {
        let mut gone = self.gone.lock().unwrap();
        for offset in from.max(self.first)..until.min(self.stable) {
            let slot = &mut self.log[usize::try_from(offset).unwrap()];
            if *slot == Slot::Record && offset >= self.fetch_position {
                gone.insert(offset);
            }
            *slot = Slot::Gap;
        }
    }

    fn fail(&mut self, code: RDKafkaErrorCode) {
        self.queue
            .push_back(Queued::Event(PartitionEvent::Failed(code)));
    }

    fn fetch(&mut self, most: i64) {
        if self.is_dead {
            return;
        }
        if self.fetch_position < self.first || self.fetch_position > self.end() {
            self.is_dead = true;
            return self.fail(RDKafkaErrorCode::AutoOffsetReset);
        }
        // librdkafka tells the end of the partition when a fetch begins there, and the same end only once.
        if self.fetch_position == self.stable && self.told != Some(self.stable) {
            self.told = Some(self.stable);
            let end = PartitionEvent::End(self.stable);
            self.queue.push_back(Queued::Event(end));
        }
        let until = self.stable.min(self.fetch_position.saturating_add(most));
        while self.fetch_position < until {
            let offset = self.fetch_position;
            match self.log[usize::try_from(offset).unwrap()] {
                Slot::Record => {
                    let record = SimulatedRecord(offset, format!("v{offset}"));
                    self.queue
                        .push_back(Queued::Event(PartitionEvent::Record(record)));
                }
                Slot::Control => self.queue.push_back(Queued::Control(offset)),
                Slot::Aborted | Slot::Gap => {}
            }
            self.fetch_position += 1;
        }
    }

    fn happen(&mut self, event: &Event) {
        match *event {
            Event::Fetch(most) => self.fetch(most),
            Event::Grow(by) => self.stable = self.end().min(self.stable + by),
            Event::Moved(end) => self.stable = self.end().min(end).max(self.first),
            Event::Truncated(at) => {
                // The log is as long as before. The client notices by the epoch of the new leader.
                let at = at.clamp(self.first, self.end());
                if self.fetch_position > at && !self.is_dead {
                    self.is_dead = true;
                    self.fail(RDKafkaErrorCode::LogTruncation);
                }
            }
            Event::Retention(first) => {
                self.first = self.first.max(first.min(self.stable));
            }
            Event::Compacted(from, until) => self.compact(from, until),
            Event::Quiet(seconds) => self.elapsed += Duration::from_secs(seconds),
            Event::Disconnected => self.fail(RDKafkaErrorCode::BrokerTransportFailure),
            Event::Refused => self.fail(RDKafkaErrorCode::TopicAuthorizationFailed),
        }
    }
}

impl Fetcher for SimulatedClient {
    type Record = SimulatedRecord;

    fn take(&mut self, most: usize, into: &mut VecDeque<PartitionEvent<SimulatedRecord>>) {
        let mut taken = 0;
        while taken < most
            && let Some(queued) = self.queue.pop_front()
        {
            match queued {
                Queued::Control(_) if self.shows_records_only => {}
                Queued::Control(offset) => self.position = Some(offset + 1),
                Queued::Event(event) => {
                    if let PartitionEvent::Record(record) = &event {
                        self.position = Some(record.offset() + 1);
                    }
                    into.push_back(event);
                    taken += 1;
                }
            }
        }
    }

    fn position(&mut self) -> Option<i64> {
        self.position
    }

    fn fetched(&mut self) -> Option<i64> {
        (!self.shows_records_only).then_some(self.fetch_position)
    }

    fn now(&self) -> Instant {
        self.began + self.elapsed
    }

    async fn arrival(&mut self, at_most: Duration) {
        self.elapsed += at_most;
        match self.events.pop_front() {
            Some(event) => self.happen(&event),
            // There are no more events: the client fetches the rest up to the last stable offset.
            None => self.fetch(7),
        }
    }
}

/// The table that all schedules read.
static TABLE: LazyLock<Arc<KafkaTable>> = LazyLock::new(table);

fn table() -> Arc<KafkaTable> {
    let column = |name: &str, data_type, metadata| KafkaColumn {
        field: Field::new(name, data_type, true),
        metadata: Some(metadata),
    };
    let options = [
        ("kafka.bootstrap.servers", "localhost:1"),
        ("connect.timeout", "10s"),
    ];
    let spec = KafkaTableSpec {
        name: "t".to_owned(),
        topic: "simulated".to_owned(),
        columns: vec![
            column("o", DataType::Int64, MetadataKey::Offset),
            column("v", DataType::Utf8, MetadataKey::Value),
        ],
        primary_key: Vec::new(),
        watermark: None,
        options: options
            .map(|(key, value)| (key.to_owned(), value.to_owned()))
            .into(),
    };
    Arc::new(KafkaTable::try_new(spec).unwrap())
}

/// What a scan of these ranges is to report.
fn expected(ranges: &[OffsetRange]) -> Vec<ExpectedReport> {
    let of_range = |range: &OffsetRange| ExpectedReport {
        table: "t".into(),
        scan: 0,
        partition: range.partition,
        stream: 0,
        start: range.start,
        end: range.end,
    };
    ranges.iter().map(of_range).collect()
}

/// Reads one range after the other with the same cursor, as the batches of a job do; gives the offsets that came of each range.
pub(super) fn read(
    client: SimulatedClient,
    ranges: &[OffsetRange],
    rule: EndRule,
    limit: Option<usize>,
) -> Answers {
    read_reporting(client, ranges, rule, limit).0
}

/// What the scan has read of each range, with the offsets of its records.
pub(super) type Answers = Vec<Result<(RangeEnd, Vec<i64>)>>;

/// The same, with what the scan reports of its ranges.
fn read_reporting(
    client: SimulatedClient,
    ranges: &[OffsetRange],
    rule: EndRule,
    limit: Option<usize>,
) -> (Answers, Vec<ScanReport>) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .build()
        .unwrap();
    let table = &*TABLE;
    let start = ranges[0].start;
    let output_of_task = Arc::new(SideOutput::default());
    let config = SessionConfig::new().with_extension(Arc::clone(&output_of_task));
    let context = TaskContext::default().with_session_config(config);
    let outlet = ScanOutlet::Batch(BatchScan {
        table: "t".into(),
        scan: 0,
        aside: Arc::default(),
        only: None,
    });
    let mut cursor = Cursor::new(client, start);
    let mut answers = Vec::new();
    for range in ranges {
        let (sender, mut batches) = tokio::sync::mpsc::channel(10_000);
        let schema = Arc::clone(table.schema());
        let reader = RecordReader::try_new(
            table,
            schema,
            &[0, 1],
            OnError::Fail,
            outlet.open(&context).unwrap(),
            (0, None),
            ArchiveReading::default(),
        );
        let reading = RangeReading {
            table: Arc::clone(table),
            range: *range,
            begin: range.start,
            batch_size: 5,
            reader: reader.unwrap(),
            faults: ClientFaults::default(),
            rule,
        };
        let mut output = BatchOutput {
            sender,
            wanted: limit,
            baseline: BaselineMetrics::new(&ExecutionPlanMetricsSet::new(), 0),
            bytes: Count::new(),
            records: Count::new(),
            decode_time: Time::new(),
        };
        let answer = runtime.block_on(reading.read(&mut cursor, &mut output));
        drop(output);
        let mut offsets = Vec::new();
        while let Ok(batch) = batches.try_recv() {
            let batch = batch.unwrap();
            let values = batch.column(1).as_string::<i32>();
            for (offset, value) in batch
                .column(0)
                .as_primitive::<Int64Type>()
                .values()
                .iter()
                .zip(values)
            {
                assert_eq!(value, Some(format!("v{offset}").as_str()));
                offsets.push(*offset);
            }
        }
        let failed = answer.is_err();
        answers.push(answer.map(|read| (read, offsets)));
        if failed {
            break;
        }
    }
    (answers, reports(&output_of_task.take()).unwrap())
}

/// The records of a range, but for those that were gone before the client fetched them.
pub(super) fn records(log: &[Slot], gone: &CompactedOffsets, range: OffsetRange) -> Vec<i64> {
    let gone = gone.lock().unwrap();
    (0..)
        .zip(log)
        .filter(|(offset, slot)| {
            let is_within = (range.start..range.end).contains(offset);
            **slot == Slot::Record && is_within && !gone.contains(offset)
        })
        .map(|(offset, _)| offset)
        .collect()
}

pub(super) fn range(start: i64, end: i64) -> OffsetRange {
    OffsetRange {
        partition: 0,
        start,
        end,
    }
}

/// A log of stretches of the same kind: a long transaction that was aborted, or a stretch that was compacted.
pub(super) fn log() -> impl Strategy<Value = Vec<Slot>> {
    let stretch = (
        prop_oneof![
            4 => Just(Slot::Record),
            1 => Just(Slot::Aborted),
            1 => Just(Slot::Control),
            1 => Just(Slot::Gap),
        ],
        1..12_usize,
    );
    prop::collection::vec(stretch, 1..14).prop_map(|stretches| {
        let slots = stretches
            .into_iter()
            .flat_map(|(slot, length)| std::iter::repeat_n(slot, length));
        slots.collect()
    })
}

pub(super) fn event() -> impl Strategy<Value = Event> {
    prop_oneof![
        12 => (1..30_i64).prop_map(Event::Fetch),
        4 => (1..40_i64).prop_map(Event::Grow),
        2 => (0..120_i64).prop_map(Event::Moved),
        1 => (0..120_i64).prop_map(Event::Truncated),
        1 => (0..60_i64).prop_map(Event::Retention),
        2 => (0..100_i64, 1..40_i64).prop_map(|(from, length)| Event::Compacted(from, from + length)),
        2 => (1..5_u64).prop_map(Event::Quiet),
        2 => Just(Event::Disconnected),
        1 => Just(Event::Refused),
    ]
}

/// A log, the events, the offset where the first batch starts, those where it and the second one end, and the last stable offset.
fn world() -> impl Strategy<Value = (Vec<Slot>, Vec<Event>, i64, i64, i64, i64)> {
    let events = prop::collection::vec(event(), 0..60);
    let part = 0.0..=1.0_f64;
    (
        log(),
        events,
        part.clone(),
        part.clone(),
        part.clone(),
        part,
    )
        .prop_map(|(log, events, start, middle, end, stable)| {
            let length = log.len() as f64;
            let at = |part: f64| (part * length) as i64;
            let mut places = [at(start), at(middle), at(end)];
            places.sort_unstable();
            let [start, middle, end] = places;
            (log, events, start, middle, end, at(stable))
        })
}

/// Whether brokers may make a scan fail so.
pub(super) fn is_expected(error: &Error) -> bool {
    let passes = matches!(error.kind(), ErrorKind::Unavailable);
    let stays = matches!(error.kind(), ErrorKind::Data | ErrorKind::Permission);
    passes || stays
}

/// The first fault in the answers for the ranges, if there is one.
fn wrong(
    log: &[Slot],
    gone: &CompactedOffsets,
    ranges: &[OffsetRange],
    answers: &[Result<(RangeEnd, Vec<i64>)>],
) -> Option<String> {
    for (range, answer) in ranges.iter().zip(answers) {
        match answer {
            Ok((RangeEnd::All, offsets)) if *offsets == records(log, gone, *range) => {}
            Ok(found) => return Some(format!("{range:?} gave {found:?}")),
            Err(error) if is_expected(error) => {}
            Err(error) => return Some(format!("{range:?}: {error}")),
        }
    }
    None
}

#[test]
fn each_record_is_given_once_or_there_is_an_error() {
    let schedules = Schedules::of("scans");
    proptest!(cases(4_000), |((log, events, start, middle, end, stable) in world())| {
        schedules.count();
        let ranges = [range(start, middle), range(middle, end)];
        let client = SimulatedClient::new(log.clone(), start, stable, events);
        let gone = CompactedOffsets::clone(&client.gone);
        let (answers, reports) = read_reporting(client, &ranges, ends_range, None);
        prop_assert_eq!(wrong(&log, &gone, &ranges, &answers), None);
        // The check of reports refuses only what was not read.
        let is_whole = answers.iter().all(Result::is_ok);
        let checked = check_reports(&expected(&ranges), &reports);
        prop_assert_eq!(checked.is_ok(), is_whole, "{:?}", reports);
    });
}

#[test]
fn a_limit_gives_the_first_records() {
    let schedules = Schedules::of("scans with a limit");
    proptest!(cases(4_000), |((log, events, start, _, end, stable) in world(), limit in 1..20_usize)| {
        schedules.count();
        let ranges = [range(start, end)];
        let client = SimulatedClient::new(log.clone(), start, stable, events);
        let gone = CompactedOffsets::clone(&client.gone);
        let answers = read(client, &ranges, ends_range, Some(limit));
        if let Ok((how, offsets)) = &answers[0] {
            let all = records(&log, &gone, ranges[0]);
            // A scan decodes whole batches: it may give more rows than the limit, and the plan above it cuts them off.
            prop_assert!(all.starts_with(offsets));
            prop_assert!(offsets.len() >= limit.min(all.len()));
            prop_assert!(*how == RangeEnd::Stopped || offsets.len() == all.len());
        }
    });
}

#[test]
fn brokers_that_catch_up_give_everything() {
    let schedules = Schedules::of("scans of brokers that catch up");
    proptest!(cases(4_000), |((log, events, start, middle, end, stable) in world())| {
        schedules.count();
        // No record is lost, and no broker is silent for long: then there may be no error.
        let harmless = |event: &Event| matches!(
            event,
            Event::Fetch(_) | Event::Grow(_) | Event::Moved(_) | Event::Compacted(..) | Event::Disconnected
        );
        let mut events: Vec<Event> = events.into_iter().filter(harmless).collect();
        events.push(Event::Grow(1_000));
        let ranges = [range(start, middle), range(middle, end)];
        let client = SimulatedClient::new(log.clone(), start, stable, events);
        let gone = CompactedOffsets::clone(&client.gone);
        let answers = read(client, &ranges, ends_range, None);
        prop_assert!(answers.iter().all(Result::is_ok), "{:?}", answers);
        prop_assert_eq!(wrong(&log, &gone, &ranges, &answers), None);
    });
}

/// The answers of a scan that takes any end of partition for the end of its range, in the schedule of a seed: what is wrong with
/// them, and whether its reports tell.
fn stops_at_any_end(seed: u64) -> (Option<String>, bool) {
    let (log, events, start, middle, end, stable) = sample(&world(), seed);
    let ranges = [range(start, middle), range(middle, end)];
    let client = SimulatedClient::new(log.clone(), start, stable, events);
    let gone = CompactedOffsets::clone(&client.gone);
    let (answers, reports) = read_reporting(client, &ranges, |_, _| true, None);
    let fault = wrong(&log, &gone, &ranges, &answers);
    (fault, check_reports(&expected(&ranges), &reports).is_err())
}

/// The simulation finds a scan that takes any end of partition for the end of its range.
#[test]
fn a_scan_that_stops_at_any_end_of_partition_is_found() {
    let planted = "a scan that stops at any end of a partition";
    let found = found_by(planted, &[], ENOUGH, |seed| {
        stops_at_any_end(seed).0.is_some()
    });
    assert!(found.is_some());
}

/// The reports of a scan that stops at any end of partition tell which records it left out: a batch of it is refused.
#[test]
fn a_range_that_was_ended_early_was_not_reached() {
    let mut found = 0;
    for seed in 0..ENOUGH {
        let (fault, is_short) = stops_at_any_end(seed);
        if let Some(fault) = fault {
            assert!(is_short, "{fault}");
            found += 1;
        }
    }
    assert!(found > 0);
}

/// Compaction removes a stretch while a scan reads: records that the client had fetched are given, the rest of the
/// stretch is not, and the records behind it are. Then it removes all records behind an offset, and the ranges end all
/// the same.
#[test]
fn only_compacted_records_are_missing() {
    let events = vec![
        Event::Fetch(10),
        Event::Compacted(5, 40),
        Event::Fetch(20),
        Event::Compacted(50, 100),
    ];
    let log = vec![Slot::Record; 100];
    let client = SimulatedClient::new(log.clone(), 0, 100, events);
    let gone = CompactedOffsets::clone(&client.gone);
    let ranges = [range(0, 60), range(60, 100)];
    let answers = read(client, &ranges, ends_range, None);
    let first: Vec<i64> = (0..10).chain(40..50).collect();
    assert_eq!(answers[0].as_ref().unwrap(), &(RangeEnd::All, first));
    assert_eq!(answers[1].as_ref().unwrap(), &(RangeEnd::All, vec![]));
    assert_eq!(wrong(&log, &gone, &ranges, &answers), None);
    // Where compaction has not removed it, a record that is missing is a fault.
    gone.lock().unwrap().remove(&15);
    assert!(wrong(&log, &gone, &ranges, &answers).is_some());
}

/// A range up to 100 does not end at a follower that ends at 60: records that it never gives are an error that passes.
#[test]
fn a_follower_that_never_catches_up_is_an_error() {
    let log = vec![Slot::Record; 100];
    let client = SimulatedClient::new(log, 0, 60, Vec::new());
    let answers = read(client, &[range(0, 100)], ends_range, None);
    let error = answers[0].as_ref().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable);
    assert!(error.to_string().contains("offset 60"), "{error}");
}

/// For longer than a scan waits for silent brokers, the client fetches offsets without a record: of aborted transactions, of control
/// records, or of a compacted stretch.
#[test]
fn runs_of_aborted_and_control_records_are_not_silence() {
    for slot in [Slot::Aborted, Slot::Control, Slot::Gap] {
        let mut log = vec![slot; 1_000];
        log.push(Slot::Record);
        let slow = (0..1_001).flat_map(|_| [Event::Fetch(1), Event::Quiet(5)]);
        let client = SimulatedClient::new(log.clone(), 0, 1_001, slow.collect());
        let answers = read(client, &[range(0, 1_001)], ends_range, None);
        assert_eq!(answers[0].as_ref().unwrap(), &(RangeEnd::All, vec![1_000]));
    }
}

/// A log with long stretches of the same kind, and brokers that are slow: they give a few offsets now and then, and are never silent
/// for as long as a scan waits for silent ones. And the ranges of two batches.
fn slow_world() -> impl Strategy<Value = (Vec<Slot>, Vec<Event>, [OffsetRange; 2])> {
    let stretch = (
        prop_oneof![
            2 => Just(Slot::Record),
            1 => Just(Slot::Aborted),
            1 => Just(Slot::Control),
            1 => Just(Slot::Gap),
        ],
        1..60_usize,
    );
    let given = prop::collection::vec((1..4_i64, 1..7_u64), 0..120);
    let part = 0.0..=1.0_f64;
    (
        prop::collection::vec(stretch, 1..8),
        given,
        part.clone(),
        part.clone(),
        part,
    )
        .prop_map(|(stretches, given, start, middle, end)| {
            let slots = stretches
                .into_iter()
                .flat_map(|(slot, length)| std::iter::repeat_n(slot, length));
            let log: Vec<Slot> = slots.collect();
            let events = given
                .into_iter()
                .flat_map(|(most, seconds)| [Event::Fetch(most), Event::Quiet(seconds)]);
            let length = log.len() as f64;
            let mut places = [start, middle, end].map(|part| (part * length) as i64);
            places.sort_unstable();
            let [start, middle, end] = places;
            (
                log,
                events.collect(),
                [range(start, middle), range(middle, end)],
            )
        })
}

/// The first fault in the answers of slow brokers, if there is one: here an error is a fault as well.
fn wrong_of_slow(
    log: Vec<Slot>,
    events: Vec<Event>,
    ranges: &[OffsetRange],
    shows_records_only: bool,
) -> Option<String> {
    let stable = i64::try_from(log.len()).unwrap();
    let mut client = SimulatedClient::new(log.clone(), ranges[0].start, stable, events);
    client.shows_records_only = shows_records_only;
    let gone = CompactedOffsets::clone(&client.gone);
    let answers = read(client, ranges, ends_range, None);
    let failed = answers.iter().find_map(|answer| answer.as_ref().err());
    match failed {
        Some(error) => Some(error.to_string()),
        None => wrong(&log, &gone, ranges, &answers),
    }
}

#[test]
fn slow_brokers_are_not_taken_as_silent() {
    let schedules = Schedules::of("scans of slow brokers");
    proptest!(cases(1_000), |((log, events, ranges) in slow_world())| {
        schedules.count();
        prop_assert_eq!(wrong_of_slow(log, events, &ranges, false), None);
    });
}

/// The simulation finds a scan for which only records are progress: it gives up in a long stretch of aborted or control records.
#[test]
fn a_scan_that_counts_only_records_as_progress_is_found() {
    for slot in [Slot::Aborted, Slot::Control] {
        let planted = format!("a scan that takes {slot:?} records for silence");
        let found = found_by(&planted, &[], ENOUGH, |seed| {
            let (log, events, ranges) = sample(&slow_world(), seed);
            // All offsets without a record are of this kind.
            let of_kind = |one: Slot| match one {
                Slot::Record => Slot::Record,
                _ => slot,
            };
            let log: Vec<Slot> = log.into_iter().map(of_kind).collect();
            wrong_of_slow(log, events, &ranges, true).is_some()
        });
        assert!(found.is_some(), "{slot:?}");
    }
}

/// The record at an offset of the partition, as a runner that starts looks for it.
fn look(mut client: SimulatedClient, offset: i64) -> Result<Option<RecordMark>> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .build()
        .unwrap();
    let faults = ClientFaults::default();
    runtime.block_on(record_at(
        &mut client,
        &TABLE,
        offset,
        &faults,
        ComparedParts::ALL,
    ))
}

/// The mark of the record at an offset of the log, if there is one.
fn mark(log: &[Slot], offset: i64) -> Option<RecordMark> {
    let slot = log.get(usize::try_from(offset).unwrap());
    let value = format!("v{offset}");
    let content = (None, Some(value.as_bytes()));
    (slot == Some(&Slot::Record)).then(|| mark_of(offset, Timestamp::CreateTime(offset), content))
}

#[test]
fn ident_1_a_record_is_found_where_it_is_or_there_is_an_error() {
    let schedules = Schedules::of("looks for the record that was read last");
    proptest!(cases(4_000), |((log, events, offset, _, _, stable) in world())| {
        schedules.count();
        let lasts = !events.iter().any(|event| matches!(event, Event::Retention(_)));
        let client = SimulatedClient::new(log.clone(), offset, stable, events);
        let gone = CompactedOffsets::clone(&client.gone);
        let found = look(client, offset);
        let lasts = lasts && !gone.lock().unwrap().contains(&offset);
        match found {
            Ok(None) => prop_assert!(!lasts || mark(&log, offset).is_none()),
            Ok(found) => prop_assert_eq!(found, mark(&log, offset)),
            Err(error) => {
                let kind = error.kind();
                prop_assert!(matches!(kind, ErrorKind::Unavailable | ErrorKind::Permission));
            }
        }
    });
}

#[test]
fn ident_1_slow_brokers_return_their_records() {
    let schedules = Schedules::of("looks at slow brokers");
    proptest!(cases(4_000), |((log, events, ranges) in slow_world())| {
        let (offset, stable) = (ranges[0].start, i64::try_from(log.len()).unwrap());
        prop_assume!(offset < stable);
        schedules.count();
        let client = SimulatedClient::new(log.clone(), offset, stable, events);
        prop_assert_eq!(look(client, offset).unwrap(), mark(&log, offset));
    });
}

/// The record that was read last was compacted away, and for longer than silent brokers are waited for the client fetches offsets
/// without a record.
#[test]
fn ident_1_a_deleted_record_is_not_silence() {
    for slot in [Slot::Aborted, Slot::Control, Slot::Gap] {
        let client = |shows_records_only| {
            let mut log = vec![slot; 1_000];
            log[0] = Slot::Gap;
            log.push(Slot::Record);
            let slow = (0..1_001).flat_map(|_| [Event::Fetch(1), Event::Quiet(5)]);
            let mut client = SimulatedClient::new(log, 0, 1_001, slow.collect());
            client.shows_records_only = shows_records_only;
            client
        };
        assert_eq!(look(client(false), 0).unwrap(), None, "{slot:?}");
        // Where only records show that something moves, it is silence.
        let error = look(client(true), 0).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unavailable, "{slot:?}");
    }
}

/// A follower that lags has no record at the offset yet: that does not tell that the record is gone.
#[test]
fn ident_1_a_lagging_follower_does_not_report_a_record_as_deleted() {
    let log = vec![Slot::Record; 100];
    let events = vec![Event::Fetch(1), Event::Quiet(1), Event::Grow(100)];
    let client = SimulatedClient::new(log.clone(), 60, 60, events);
    assert_eq!(look(client, 60).unwrap(), mark(&log, 60));
}

/// The leader of a partition that grows while it is asked for its ends, and in which transactions may be open.
struct Growing {
    /// The first, the last stable and the latest offset at each question.
    ends: RefCell<VecDeque<(i64, i64, i64)>>,
}

impl Leaders for Growing {
    fn list(&self, _: &[i32], end: LogEnd) -> Result<Vec<(i32, i64)>> {
        let mut ends = self.ends.borrow_mut();
        let (first, stable, latest) = ends.pop_front().unwrap();
        let offset = match end {
            LogEnd::First => first,
            LogEnd::Stable => stable,
            LogEnd::Latest => latest,
        };
        Ok(vec![(0, offset)])
    }
}

/// The first, the last stable and the latest offset at three questions. They only grow, and the last stable offset is never behind
/// the latest one.
fn growing() -> impl Strategy<Value = Vec<(i64, i64, i64)>> {
    prop::collection::vec((0..3_i64, 0..3_i64, 0..3_i64), 3).prop_map(|steps| {
        let (mut first, mut stable, mut latest) = (0, 0, 0);
        let mut seen = Vec::new();
        for (retention, commits, writes) in steps {
            latest += writes;
            stable = latest.min(stable + commits);
            first = stable.min(first + retention);
            seen.push((first, stable, latest));
        }
        seen
    })
}

/// Whether a partition counts as read to its end although there were records behind the position when its latest offset was asked
/// for.
fn idle_wrongly(
    seen: &[(i64, i64, i64)],
    position: i64,
    is_at_end: fn(&PartitionEnds, i64) -> bool,
) -> bool {
    let leaders = Growing {
        ends: RefCell::new(seen.iter().copied().collect()),
    };
    let ends = partition_ends(&leaders, &[0]).unwrap();
    let (_, _, latest) = seen[2];
    is_at_end(&ends[0], position) && position != latest
}

#[test]
fn a_partition_with_more_to_come_is_not_at_its_end() {
    let schedules = Schedules::of("ends of partitions");
    proptest!(cases(4_000), |(seen in growing(), position in 0..8_i64)| {
        schedules.count();
        prop_assert!(!idle_wrongly(&seen, position, PartitionEnds::is_at_end));
    });
}

/// The simulation finds a rule by which a partition is at its end if the position has reached the last stable offset.
#[test]
fn a_rule_with_only_the_last_stable_offset_is_found() {
    let strategy = (growing(), 0..8_i64);
    let planted = "a rule by the last stable offset alone";
    let found = found_by(planted, &[], ENOUGH, |seed| {
        let (seen, position) = sample(&strategy, seed);
        idle_wrongly(&seen, position, |ends, next| next >= ends.high)
    });
    assert!(found.is_some());
}
