//! The oracle: what a job should have written. It goes through the committed versions and computes each batch in a simple way, row
//! by row.
//!
//! From a version it takes only which topic and which offsets the batch has read, and which partitions were idle.

use std::collections::{BTreeMap, BTreeSet};

use super::jobs::{GAP, IDLE_AFTER, Kind, SOURCE};
use super::sink::OutRow;
use super::source::{DELAY, Partition, Row, SECOND, Topic};
use crate::core::archive::OffsetRange;
use crate::core::jobs::{
    BatchVersion, JobTime, PartitionTimes, Partitions, RunningWatermark, SourceProgress,
    WatermarkPolicy,
};

/// The partition and offset of a row.
pub(super) type RowPosition = (i32, i64);
/// The place of a late row, and the start and end of the window that it was too late for, in microseconds; `None` for a session.
pub(super) type LateRowPosition = (RowPosition, Option<(i64, i64)>);

/// What a batch should have written.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Expected {
    /// The rows in the sink, sorted.
    pub(super) rows: Vec<OutRow>,
    pub(super) late: BTreeSet<LateRowPosition>,
    pub(super) dead: BTreeSet<RowPosition>,
}

/// Where a first batch begins in a partition, behind which it may have skipped lost records.
pub(super) fn begin_of(version: &BatchVersion, partition: i32) -> i64 {
    let skipped = version.skipped.get(SOURCE);
    let gap = skipped.and_then(|of| of.get(&partition));
    gap.map_or(version.sources[SOURCE][&partition].start, |gap| gap.start)
}

/// An open window.
#[derive(Debug, Clone, PartialEq, Eq)]
struct OpenGroup {
    start: i64,
    /// Of a session: the time of its last row, plus the gap.
    end: i64,
    count: i64,
    sum: i64,
    is_touched: bool,
}

/// Where the job stands after the batches that the oracle has gone through.
pub(super) struct Oracle<'t> {
    kind: Kind,
    topic: &'t Topic,
    /// How many topics of this name were deleted before the one that the job reads.
    reads: usize,
    /// The offset that the job reads next, by partition.
    at: BTreeMap<i32, i64>,
    time: JobTime,
    groups: BTreeMap<Option<i64>, Vec<OpenGroup>>,
}

impl<'t> Oracle<'t> {
    pub(super) fn new(kind: Kind, topic: &'t Topic) -> Self {
        Self {
            kind,
            topic,
            reads: 0,
            at: BTreeMap::new(),
            time: JobTime::default(),
            groups: BTreeMap::new(),
        }
    }

    /// Goes through the next batch; gives what it should have written.
    pub(super) fn follow(&mut self, version: &BatchVersion) -> Result<Expected, String> {
        let mut expected = Expected::default();
        let mut reached = BTreeMap::new();
        let sources = &version.sources[SOURCE];
        self.follow_topic(version);
        for (partition, progress) in sources {
            self.goes_on(version, *partition, progress.start)?;
            let before = self.time.partition(SOURCE, *partition);
            let rule = self
                .time
                .row_watermark(WatermarkPolicy::Lowest, SOURCE, *partition);
            let own = before.and_then(|time| time.watermark);
            let mut running = RunningWatermark::new(rule, own, DELAY * SECOND);
            for offset in progress.start..progress.end {
                let row = self.row(*partition, offset)?;
                let place = (*partition, offset);
                if row.is_bad {
                    expected.dead.insert(place);
                    continue;
                }
                let met = running.met();
                running.pass(row.time * SECOND);
                self.take(row, place, met, &mut expected);
            }
            if progress.start < progress.end {
                reached.insert(*partition, running.reached().into());
            }
            self.at.insert(*partition, progress.end);
        }
        if self.kind.is_windowed() {
            self.check_idle(version)?;
            let partitions = sources.keys().copied().collect();
            self.pass_time(version, partitions, reached)?;
        }
        if self.kind.is_stateful() {
            self.close(&mut expected);
        }
        expected.rows.sort_unstable();
        Ok(expected)
    }

    /// The windows that are open now, sorted: key, start, end, count and sum.
    pub(super) fn open(&self) -> Vec<OutRow> {
        let groups = self.groups.iter().flat_map(|(key, groups)| {
            groups.iter().map(|group| {
                let OpenGroup {
                    start,
                    end,
                    count,
                    sum,
                    ..
                } = group;
                vec![*key, Some(*start), Some(*end), Some(*count), Some(*sum)]
            })
        });
        let mut groups: Vec<OutRow> = groups.collect();
        groups.sort_unstable();
        groups
    }

    /// The offset that the job reads next in each partition.
    pub(super) fn positions(&self) -> BTreeMap<i32, i64> {
        self.at.clone()
    }

    /// IDENT-1: if the batch has read another topic than the one before, the offsets of that one mean nothing any more.
    fn follow_topic(&mut self, version: &BatchVersion) {
        let reads = self.topic.read_by(version);
        if reads == self.reads {
            return;
        }
        self.reads = reads;
        self.at.clear();
        // Where brokers give no ids, a topic that is shorter than before may be the same one, whose end was cut off. The job then
        // keeps its watermarks.
        let skipped = version.skipped.get(SOURCE);
        let is_shorter = |gap: &SourceProgress| gap.end < gap.start;
        if !skipped.is_some_and(|of| of.values().any(is_shorter)) {
            self.time.forget_table(SOURCE);
        }
    }

    /// TIME-1: when no records come any more, all partitions are idle, and the job's watermark is the highest of theirs.
    pub(super) fn check_rest(&self) -> Result<(), String> {
        let partitions = self.time.partitions.get(SOURCE).into_iter().flatten();
        let highest = partitions.filter_map(|(_, time)| time.watermark).max();
        if highest > self.time.watermark {
            return Err(format!(
                "nothing comes any more, a partition has reached {highest:?}, and the job stays at {:?}",
                self.time.watermark
            ));
        }
        Ok(())
    }

    /// LOSS-1: a batch begins at the offset where the last one ended, or its version says which offsets it has skipped.
    fn goes_on(
        &mut self,
        version: &BatchVersion,
        partition: i32,
        start: i64,
    ) -> Result<(), String> {
        let skipped = version.skipped.get(SOURCE);
        let gap = skipped.and_then(|of| of.get(&partition));
        if version.parent.is_none() && self.topic.starts_at_end {
            return self.begins(version, partition);
        }
        let Some(at) = self.at.get(&partition).copied() else {
            // The job reads a partition that it has not seen before from the first record on.
            let number = usize::try_from(partition).unwrap();
            let log = self.topic.partitions_of(self.reads).get(number);
            // ARCH-1: the schedule archives a record before retention deletes it, so the job must not leave out the archived ones.
            let leaves_out =
                |log: &Partition| start > 0 && log.archived.contains(OffsetRange::new(0, start));
            return match log {
                Some(log) if start <= log.low && !leaves_out(log) => Ok(()),
                _ => Err(format!(
                    "batch {} begins at {start} of partition {partition}, which is new",
                    version.batch
                )),
            };
        };
        match gap {
            None if at == start => Ok(()),
            Some(gap) if gap.start == at && gap.end == start && gap.end > gap.start => Ok(()),
            _ => Err(format!(
                "batch {} begins at {start} of partition {partition}, and the last one ended at {at} ({gap:?})",
                version.batch
            )),
        }
    }

    /// The first batch of a job that begins at the end of its topic stores where a runner wanted to begin, and reads nothing.
    fn begins(&self, version: &BatchVersion, partition: i32) -> Result<(), String> {
        let wants = |begins: &BTreeMap<i32, i64>| match begins.get(&partition) {
            Some(begin) => *begin == begin_of(version, partition),
            // It was added when the job had begun, before it was rewound.
            None => true,
        };
        let progress = version.sources[SOURCE][&partition];
        if progress.start == progress.end && self.topic.begins.iter().any(wants) {
            return Ok(());
        }
        Err(format!(
            "batch {} begins with {progress:?} of partition {partition}; runners wanted to begin at {:?}",
            version.batch, self.topic.begins
        ))
    }

    fn row(&self, partition: i32, offset: i64) -> Result<Row, String> {
        let partitions = self.topic.partitions_of(self.reads);
        let log = partitions.get(usize::try_from(partition).unwrap());
        let index = usize::try_from(offset).unwrap();
        log.and_then(|log| log.rows.get(index))
            .copied()
            .ok_or_else(|| format!("a batch read {partition}@{offset}, which never was"))
    }

    fn take(&mut self, row: Row, place: RowPosition, met: Option<i64>, expected: &mut Expected) {
        let time = row.time * SECOND;
        match self.kind {
            Kind::Rows => expected.rows.push(vec![
                row.key,
                Some(row.value * 2),
                Some(i64::from(place.0)),
                Some(place.1),
            ]),
            Kind::KeyChanges => self.take_into((0, 0), row, place, None, expected),
            Kind::SessionChanges => {
                if met.is_some_and(|met| time < met) {
                    expected.late.insert((place, None));
                    return;
                }
                let groups = self.groups.entry(row.key).or_default();
                let mut merged = OpenGroup {
                    start: time,
                    end: time + GAP * SECOND,
                    count: 1,
                    sum: row.value,
                    is_touched: true,
                };
                groups.retain(|group| {
                    let joins = group.start <= merged.end && merged.start <= group.end;
                    if joins {
                        merged.start = merged.start.min(group.start);
                        merged.end = merged.end.max(group.end);
                        merged.count += group.count;
                        merged.sum += group.sum;
                    }
                    !joins
                });
                groups.push(merged);
            }
            aligned => {
                for (start, end) in aligned.windows(row.time) {
                    let window = (start * SECOND, end * SECOND);
                    self.take_into(window, row, place, met, expected);
                }
            }
        }
    }

    /// Adds a row to a tumbling or hopping window from `start` to `end`, in microseconds, or to the late rows.
    fn take_into(
        &mut self,
        (start, end): (i64, i64),
        row: Row,
        place: RowPosition,
        met: Option<i64>,
        expected: &mut Expected,
    ) {
        if met.is_some_and(|met| end <= met) {
            expected.late.insert((place, Some((start, end))));
            return;
        }
        let groups = self.groups.entry(row.key).or_default();
        if !groups.iter().any(|group| group.start == start) {
            groups.push(OpenGroup {
                start,
                end,
                count: 0,
                sum: 0,
                is_touched: true,
            });
        }
        let found = groups.iter_mut().find(|group| group.start == start);
        let group = found.unwrap();
        group.count += 1;
        group.sum += row.value;
        group.is_touched = true;
    }

    /// TIME-1: to each partition that the version calls idle, no record had come for long enough by the real time; the wall clock
    /// does not count. A record in a transaction that was still open is one that had come.
    fn check_idle(&self, version: &BatchVersion) -> Result<(), String> {
        let time = version.time.as_ref().ok_or("a version without a time")?;
        let clock = version.clock.as_ref().ok_or("a version without a clock")?;
        let partitions = self.topic.partitions_of(self.reads);
        for (partition, _) in time.partitions[SOURCE].iter().filter(|(_, of)| of.idle) {
            let log = &partitions[usize::try_from(*partition).unwrap()];
            let end = usize::try_from(self.at[partition]).unwrap();
            let last = end.checked_sub(1).and_then(|last| log.rows.get(last));
            let silent = last.map_or(u64::MAX, |row| clock.steady.at.saturating_sub(row.at));
            if silent < IDLE_AFTER {
                return Err(format!(
                    "batch {}: partition {partition} is idle after {silent} ms",
                    version.batch
                ));
            }
            let next = log.rows.get(end);
            if next.is_some_and(|next| next.at < clock.steady.at) {
                return Err(format!(
                    "batch {}: partition {partition} is idle, and {next:?} was written before",
                    version.batch
                ));
            }
        }
        Ok(())
    }

    fn pass_time(
        &mut self,
        version: &BatchVersion,
        partitions: BTreeSet<i32>,
        reached: BTreeMap<i32, PartitionTimes>,
    ) -> Result<(), String> {
        let said = version.time.as_ref().ok_or("a version without a time")?;
        let idle = said.partitions[SOURCE].iter();
        let idle = idle
            .filter(|(_, time)| time.idle)
            .map(|(number, _)| *number);
        // Partitions that the topic no longer has count no more.
        if let Some(of) = self.time.partitions.get_mut(SOURCE) {
            of.retain(|partition, _| partitions.contains(partition));
        }
        let known = Partitions::from([(SOURCE.to_owned(), partitions)]);
        let idle = Partitions::from([(SOURCE.to_owned(), idle.collect())]);
        let reached = BTreeMap::from([(SOURCE.to_owned(), reached)]);
        self.time = self
            .time
            .after(WatermarkPolicy::Lowest, &known, &reached, &idle);
        if self.time != *said {
            return Err(format!(
                "batch {}: its time is {said:?}, and should be {:?}",
                version.batch, self.time
            ));
        }
        Ok(())
    }

    fn close(&mut self, expected: &mut Expected) {
        let changes = self.kind.is_upsert();
        let is_session = self.kind == Kind::SessionChanges;
        let closed_by = self.time.closed_by;
        for (key, groups) in &mut self.groups {
            groups.retain_mut(|group| {
                let is_done =
                    closed_by.is_some_and(|by| group.end < by || (!is_session && group.end == by));
                if is_done || (changes && group.is_touched) {
                    expected.rows.push(vec![
                        *key,
                        Some(group.start),
                        Some(group.end),
                        Some(group.count),
                        Some(group.sum),
                        Some(i64::from(is_done)),
                    ]);
                }
                group.is_touched = false;
                !is_done
            });
        }
    }
}
