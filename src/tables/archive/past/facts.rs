//! Facts about a past that a run rests on: the highest event times of its partitions, and the event times of some of its records.

use std::collections::{BTreeMap, BTreeSet};

use datafusion::arrow::array::{Array as _, AsArray as _, RecordBatch, TimestampMicrosecondArray};
use datafusion::arrow::datatypes::{DataType, Int32Type, Int64Type};
use datafusion::common::ScalarValue;
use datafusion::logical_expr::{Expr, ident, lit};

use super::PinnedPast;
use super::tail_times::columns;
use crate::core::archive::{OffsetRange, OffsetRanges, PartitionOffsets, add_rows};
use crate::error::{Error, ErrorKind, Result, Subject};
use crate::tables::archive::mapping::{ArchiveContent, EventTimeClaim};

/// So many of the last offsets of each partition are read for its highest event time.
const LAST: i64 = 65_536;

/// So many are enough if the archive says which records are later than these: they are read, too.
const FEW: i64 = 4_096;

/// Of a partition that seems to be so far behind the others, in microseconds, more records are read, since they may be late ones.
const BEHIND: i64 = 3_600_000_000;

/// So many of the first offsets of a partition are looked at for the first event time.
const FIRST: i64 = 1_024;

/// The most different event times that are gathered.
const MOST_TIMES: usize = 4_000_000;

/// How far the partitions of a past have come in event time.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct ReachedTimes {
    /// The highest event time of each partition that has one.
    pub(crate) highest: BTreeMap<i32, i64>,
    /// The offsets of records whose event times are too far ahead. An archive with the records' timestamps gives none of them.
    pub(crate) beyond: PartitionOffsets,
}

impl PinnedPast {
    /// The highest event times of those up to `latest`, and the records that were met with later ones.
    ///
    /// Records come about in the order of their times: the last ones of each partition give a time, and if the archive says where later
    /// ones are, these are read too. If it does not, a partition may have a higher one among older records: then the watermark that
    /// follows is too low, and never too high.
    ///
    /// # Errors
    ///
    /// The past cannot be read.
    pub(crate) async fn reached_times(&self, latest: i64) -> Result<ReachedTimes> {
        let mut reached = ReachedTimes::default();
        let has_claim = *self.pinned.archive.mapping().claim() != EventTimeClaim::None;
        let count = if has_claim { FEW } else { LAST };
        let last = self.last_records(count, |_| true);
        last.add_reached(&[], latest, &mut reached).await?;
        if !has_claim || last.parts == self.parts {
            return Ok(reached);
        }
        let highest = reached.highest.values().max();
        let least = highest.map(|highest| highest.saturating_sub(BEHIND));
        let behind = self.last_records(LAST, |partition| {
            let known = reached.highest.get(&partition).copied();
            known.is_none() || known < least
        });
        behind.add_reached(&[], latest, &mut reached).await?;
        let Some(lowest) = reached.highest.values().min().copied() else {
            return Ok(reached);
        };
        let later: Vec<Expr> = self.later_than(lowest).into_iter().collect();
        self.add_reached(&later, latest, &mut reached).await?;
        Ok(reached)
    }

    /// The records at the last `count` offsets of each of the partitions for which `is_wanted` holds.
    fn last_records(&self, count: i64, is_wanted: impl Fn(i32) -> bool) -> Self {
        let wanted = self.parts.iter();
        let wanted = wanted.filter(|(partition, _)| is_wanted(**partition));
        let last = wanted.filter_map(|(partition, parts)| {
            let end = parts.archive.end().max(parts.topic.end())?;
            let last: OffsetRanges = [OffsetRange::new(end.saturating_sub(count), end)]
                .into_iter()
                .collect();
            Some((*partition, last))
        });
        let last: PartitionOffsets = last.collect();
        self.restricted_to(&last)
    }

    async fn add_reached(
        &self,
        filters: &[Expr],
        latest: i64,
        reached: &mut ReachedTimes,
    ) -> Result<()> {
        self.see_times(filters, |partition, offset, time| {
            if time > latest {
                let beyond = reached.beyond.entry(partition).or_default();
                beyond.insert(OffsetRange::new(offset, offset.saturating_add(1)));
                return;
            }
            let known = reached.highest.entry(partition).or_insert(time);
            *known = time.max(*known);
        })
        .await
    }

    /// The event time of the first record of each of these partitions, as far as one of the first records has a time up to `latest`.
    ///
    /// # Errors
    ///
    /// The past cannot be read.
    pub(crate) async fn first_times(
        &self,
        partitions: &BTreeSet<i32>,
        latest: i64,
    ) -> Result<BTreeMap<i32, i64>> {
        let first = partitions.iter().filter_map(|partition| {
            let parts = self.parts.get(partition)?;
            let firsts = [parts.archive.first(), parts.topic.first()];
            let from = firsts.into_iter().flatten().min()?;
            let first: OffsetRanges = [OffsetRange::new(from, from.saturating_add(FIRST))]
                .into_iter()
                .collect();
            Some((*partition, first))
        });
        let first: PartitionOffsets = first.collect();
        let mut found: BTreeMap<i32, (i64, i64)> = BTreeMap::new();
        let see = |partition: i32, offset: i64, time: i64| {
            if time <= latest {
                let known = found.entry(partition).or_insert((offset, time));
                *known = (offset, time).min(*known);
            }
        };
        self.restricted_to(&first).see_times(&[], see).await?;
        let found = found.into_iter();
        Ok(found
            .map(|(partition, (_, time))| (partition, time))
            .collect())
    }

    /// Reads its records, and gives partition, offset and event time of those that have a time.
    async fn see_times(&self, filters: &[Expr], mut see: impl FnMut(i32, i64, i64)) -> Result<()> {
        self.see_rows(&*self.pinned.session, filters, |rows| {
            let (times, partitions, offsets) = columns(rows)?;
            for row in (0..rows.num_rows()).filter(|row| times.is_valid(*row)) {
                see(partitions.value(row), offsets.value(row), times.value(row));
            }
            Ok(())
        })
        .await
    }

    fn later_than(&self, time: i64) -> Option<Expr> {
        let table = self.pinned.archive.table();
        let column = &table.event_time()?.column;
        let DataType::Timestamp(_, zone) = table.schema().field_with_name(column).ok()?.data_type()
        else {
            return None;
        };
        let time = ScalarValue::TimestampMicrosecond(Some(time), zone.clone());
        Some(ident(column).gt(lit(time)))
    }

    /// The event times of its records, and which records have one.
    ///
    /// # Errors
    ///
    /// The table has no event time; the past cannot be read; there are too many times.
    pub(crate) async fn event_times(&self) -> Result<TimedRows> {
        let table = self.pinned.archive.table();
        if self.time_and_place().is_none() {
            let name = table.name();
            return Err(Error::invalid(format!("{name} has no event time"))
                .about(Subject::table(name))
                .with_help(
                    "declare it: WATERMARK FOR event_time AS event_time - INTERVAL '15 minutes'",
                ));
        }
        let mut distinct = DistinctTimes::default();
        let mut timed = PartitionOffsets::new();
        self.see_rows(&*self.pinned.session, &[], |rows| {
            let (times, partitions, offsets) = columns(rows)?;
            distinct.add(times)?;
            match times.null_count() {
                0 => add_rows(&mut timed, partitions.values(), offsets.values()),
                _ => {
                    let has_time = (0..rows.num_rows()).filter(|row| times.is_valid(*row));
                    let place = |row: usize| (partitions.value(row), offsets.value(row));
                    let (partitions, offsets): (Vec<i32>, Vec<i64>) = has_time.map(place).unzip();
                    add_rows(&mut timed, &partitions, &offsets);
                }
            }
            Ok(())
        })
        .await?;
        Ok(TimedRows {
            times: distinct.distinct(),
            offsets: timed,
        })
    }

    /// The offsets that the archive covers without a row of them, if it has decoded rows: the job that archives could not decode these
    /// records. An archive of records has all that can be read.
    ///
    /// # Errors
    ///
    /// The archive cannot be read.
    pub(crate) async fn undecoded(&self) -> Result<PartitionOffsets> {
        let mapping = self.pinned.archive.mapping();
        if !matches!(mapping.content(), ArchiveContent::Decoded(_)) {
            return Ok(PartitionOffsets::new());
        }
        let parts = self.parts().iter();
        let covered = parts.map(|(partition, parts)| (*partition, parts.archive.clone()));
        let covered: PartitionOffsets = covered.collect();
        let session = &*self.pinned.session;
        let archived = self.restricted_to(&covered);
        let other = || Error::internal("places in other columns");
        let mut there = PartitionOffsets::new();
        let columns = self.coordinates().to_vec();
        let see = |rows: &RecordBatch| {
            let [partitions, offsets] = rows.columns() else {
                return Err(other());
            };
            let partitions = partitions.as_primitive_opt::<Int32Type>();
            let offsets = offsets.as_primitive_opt::<Int64Type>();
            let (partitions, offsets) = partitions.zip(offsets).ok_or_else(other)?;
            add_rows(&mut there, partitions.values(), offsets.values());
            Ok(())
        };
        archived.see_columns(session, columns, &[], see).await?;
        let missing = archived.without(&there).offsets().into_iter();
        Ok(missing.filter(|(_, offsets)| !offsets.is_empty()).collect())
    }
}

/// The records of a past that can be used and have an event time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct TimedRows {
    /// The event times, ascending, each once.
    pub(crate) times: Vec<i64>,
    /// The offsets of the records.
    pub(crate) offsets: PartitionOffsets,
}

/// Times of which equal ones are kept once.
#[derive(Default)]
struct DistinctTimes {
    times: Vec<i64>,
    /// How many of them are known to differ.
    distinct: usize,
}

impl DistinctTimes {
    fn add(&mut self, times: &TimestampMicrosecondArray) -> Result<()> {
        self.times.extend(times.iter().flatten());
        if self.times.len() >= 2 * self.distinct + MOST_TIMES / 4 {
            self.shrink();
        }
        if self.distinct > MOST_TIMES {
            return Err(Error::new(
                ErrorKind::Exhausted,
                format!("the selected rows have more than {MOST_TIMES} different event times"),
            )
            .with_help("give a range of event times, FROM … TO …, instead of OFFSETS or FOR"));
        }
        Ok(())
    }

    fn shrink(&mut self) {
        self.times.sort_unstable();
        self.times.dedup();
        self.distinct = self.times.len();
    }

    fn distinct(mut self) -> Vec<i64> {
        self.shrink();
        self.times
    }
}
