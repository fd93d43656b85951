//! Facts about a past that a run rests on: the highest event times of its partitions, and the event times of some of its records.

use std::collections::BTreeMap;

use datafusion::arrow::array::{Array as _, TimestampMicrosecondArray};
use datafusion::arrow::datatypes::DataType;
use datafusion::common::ScalarValue;
use datafusion::logical_expr::{Expr, ident, lit};
use datafusion::physical_plan::execute_stream;
use futures::TryStreamExt as _;

use super::PinnedPast;
use super::tail_times::columns;
use crate::core::archive::{OffsetRange, OffsetRanges, PartitionOffsets, add_rows};
use crate::error::{Error, ErrorKind, Result, Subject};
use crate::tables::archive::mapping::EventTimeClaim;

/// So many of the last offsets of each partition are read for its highest event time.
const LAST: i64 = 65_536;

/// The most different event times that are gathered.
const MOST_TIMES: usize = 4_000_000;

impl PinnedPast {
    /// The highest event time of each partition that has one, of those up to `latest`.
    ///
    /// Records come about in the order of their times: the last ones of each partition give a time, and if the archive says where later
    /// ones are, these are read too. If it does not, a partition may have a higher one among older records: then the watermark that
    /// follows is too low, and never too high.
    ///
    /// # Errors
    ///
    /// The past cannot be read.
    pub(crate) async fn highest_times(&self, latest: i64) -> Result<BTreeMap<i32, i64>> {
        let mut highest = BTreeMap::new();
        let Some(projection) = self.time_and_place() else {
            return Ok(highest);
        };
        let last = self.parts.iter().filter_map(|(partition, parts)| {
            let end = parts.archive.end().max(parts.topic.end())?;
            let mut last = OffsetRanges::default();
            last.insert(OffsetRange::new(end.saturating_sub(LAST), end));
            Some((*partition, last))
        });
        let last: PartitionOffsets = last.collect();
        let last = self.restricted_to(&last);
        last.add_highest(&projection, &[], latest, &mut highest)
            .await?;
        let claim = self.pinned.archive.mapping().claim();
        let Some(lowest) = highest.values().min().copied() else {
            return Ok(highest);
        };
        if *claim != EventTimeClaim::None && last.parts != self.parts {
            let later: Vec<Expr> = self.later_than(lowest).into_iter().collect();
            self.add_highest(&projection, &later, latest, &mut highest)
                .await?;
        }
        Ok(highest)
    }

    async fn add_highest(
        &self,
        projection: &[usize],
        filters: &[Expr],
        latest: i64,
        highest: &mut BTreeMap<i32, i64>,
    ) -> Result<()> {
        let session = &*self.pinned.session;
        let plan = self.plan(session, projection.to_vec(), filters).await?;
        let mut rows = execute_stream(plan, session.task_ctx())?;
        while let Some(rows) = rows.try_next().await? {
            let (times, partitions, _) = columns(&rows)?;
            let is_asked = |row: &usize| times.is_valid(*row) && times.value(*row) <= latest;
            for row in (0..rows.num_rows()).filter(is_asked) {
                let time = times.value(row);
                let known = highest.entry(partitions.value(row)).or_insert(time);
                *known = time.max(*known);
            }
        }
        Ok(())
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
        let Some(projection) = self.time_and_place() else {
            let name = table.name();
            return Err(Error::invalid(format!("{name} has no event time"))
                .about(Subject::table(name))
                .with_help(
                    "declare it: WATERMARK FOR event_time AS event_time - INTERVAL '15 minutes'",
                ));
        };
        let session = &*self.pinned.session;
        let plan = self.plan(session, projection, &[]).await?;
        let mut rows = execute_stream(plan, session.task_ctx())?;
        let mut distinct = DistinctTimes::default();
        let mut timed = PartitionOffsets::new();
        while let Some(rows) = rows.try_next().await? {
            let (times, partitions, offsets) = columns(&rows)?;
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
        }
        Ok(TimedRows {
            times: distinct.distinct(),
            offsets: timed,
        })
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
