//! The facts about its sources that a run is made of: which states it reads, which offsets there are, and how far the archives have come
//! in event time.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::time::Duration;

use crate::core::archive::{OffsetRange, OffsetRanges, PartitionOffsets, first_of_past};
use crate::core::jobs::PartitionEnds;
use crate::core::runs::{LostTimes, OffsetSet, PartitionArchive, Pin, PinnedAt, SourcePin};
use crate::error::{Error, Result};
use crate::runtime::owner::now;
use crate::runtime::sources::pinned_past::{Pasts, RunSource, lost, offsets_text, past_over};
use crate::runtime::sources::pinned_topic::{PinnedTopic, pin_newest};
use crate::streaming::JobQuery;
use crate::tables::archive::{CoveredArchive, PinnedPast};
use crate::tables::time::EventTime;

/// `VACUUM` may end a run of an archive that keeps its files for a shorter time.
const LEAST_RETENTION: Duration = Duration::from_secs(24 * 60 * 60);

/// The facts about a source that a run pins.
#[derive(Debug, Clone)]
pub(in crate::runtime) struct PinnedFacts {
    /// The states that it reads.
    pub(in crate::runtime) pin: SourcePin,
    /// The offsets that there are in archive and topic together, by partition.
    pub(in crate::runtime) ranges: BTreeMap<i32, Range<i64>>,
    /// Those of them whose records are not gone for good.
    pub(in crate::runtime) there: PartitionOffsets,
    /// How far each partition has come; empty if the job keeps no time.
    pub(in crate::runtime) archive: Vec<PartitionArchive>,
    /// How far the table's watermark is behind, in microseconds; none of a table without one.
    pub(in crate::runtime) delay: Option<i64>,
    /// The first instant of which there are all records, in microseconds since 1970 UTC; none if none is missing.
    pub(in crate::runtime) begins: Option<i64>,
    /// Of which times records are gone, as far as records behind them tell it.
    pub(in crate::runtime) lost: LostTimes,
    /// The partitions that have lost records of which no record that is left tells the times.
    pub(in crate::runtime) untold: BTreeSet<i32>,
    /// What may go wrong.
    pub(in crate::runtime) warnings: Vec<String>,
    /// The source in these states.
    pub(in crate::runtime) past: PinnedPast,
}

/// Pins a source of a job as it is now.
///
/// # Errors
///
/// It has no archive that is its past; archive or topic cannot be read; neither has offsets that no job has recorded as lost.
pub(in crate::runtime) async fn pin_source(query: &JobQuery, table: &str) -> Result<PinnedFacts> {
    let source = RunSource::of(query, table)?;
    let (before, identity) = tokio::join!(source.topic.ends(), source.topic.identity());
    let (before, topic) = (before?, (&source.topic, identity?));
    let PinnedTopic {
        identity,
        ends,
        archive,
    } = pin_newest(topic, &source.archive, table, &before).await?;
    let (of_archive, retention) =
        tokio::join!(source.archive.identity(), source.archive.file_retention());
    let nothing = OffsetRanges::default();
    let from = ends.iter().map(|ends| {
        let covered = archive.covered(ends.partition).unwrap_or(&nothing);
        (ends.partition, first_of_past(covered, ends).min(ends.high))
    });
    let from: BTreeMap<i32, i64> = from.collect();
    let high: BTreeMap<i32, i64> = ends
        .iter()
        .map(|ends| (ends.partition, ends.high))
        .collect();
    let ranges = from.iter().filter_map(|(partition, from)| {
        let high = high.get(partition)?;
        Some((*partition, *from..*high))
    });
    let ranges: BTreeMap<i32, Range<i64>> = ranges.collect();
    let pin = SourcePin {
        archive: Pin {
            identity: of_archive?,
            at: PinnedAt::Version(archive.version()),
        },
        tail: Some(Pin {
            identity,
            at: PinnedAt::Ends(high),
        }),
        from,
    };
    let keeps_time = query.stream().is_some();
    let past = past_over(&archive, &pin, keeps_time)?;
    let lost = lost(past.parts(), &ends);
    if !lost.is_empty() {
        return Err(source.in_neither(&lost));
    }
    let mut warnings = Vec::new();
    let retention = retention?;
    if retention < LEAST_RETENTION {
        warnings.push(format!(
            "VACUUM of archive {} deletes files after {} seconds: a run that takes longer may lose files of its version",
            source.archive.name(),
            retention.as_secs()
        ));
    }
    if !archive.lost().is_empty() {
        warnings.push(format!(
            "{table}: the records at {} are gone for good, as the job that skipped them has recorded: results that had them are not whole",
            ranges_text(archive.lost())
        ));
    }
    let event_time = source.topic.table().event_time().cloned();
    let times = match &event_time {
        Some(event_time) => {
            let look = TimesLook {
                table,
                archive: &archive,
                past: &past,
                from: &pin.from,
                ends: &ends,
            };
            look.times(event_time, keeps_time, &mut warnings).await?
        }
        None => PastTimes::default(),
    };
    Ok(PinnedFacts {
        pin,
        ranges,
        there: past.without(archive.lost()).offsets(),
        archive: times.archive,
        delay: event_time.map(|time| time.delay),
        begins: times.begins,
        lost: times.lost,
        untold: times.untold,
        warnings,
        past,
    })
}

/// A past whose event times are looked at.
struct TimesLook<'a> {
    /// The table's name in the job.
    table: &'a str,
    archive: &'a CoveredArchive,
    past: &'a PinnedPast,
    /// The first offset of each partition.
    from: &'a BTreeMap<i32, i64>,
    ends: &'a [PartitionEnds],
}

/// What the event times of a past say.
#[derive(Debug, Default)]
struct PastTimes {
    archive: Vec<PartitionArchive>,
    begins: Option<i64>,
    lost: LostTimes,
    untold: BTreeSet<i32>,
}

impl TimesLook<'_> {
    /// What they say by the declaration of the event time. `keeps_time` says that the job has windows.
    async fn times(
        &self,
        event_time: &EventTime,
        keeps_time: bool,
        warnings: &mut Vec<String>,
    ) -> Result<PastTimes> {
        let (table, past) = (self.table, self.past);
        // One row of a far future would make everything final, and an archive without the records' timestamps does not show which one.
        let ahead = i64::try_from(event_time.max_ahead.as_micros()).unwrap_or(i64::MAX);
        let latest = now().saturating_mul(1_000).saturating_add(ahead);
        let lacking = self.lacking();
        let first = past.without(self.archive.lost());
        let first = first.first_times(&lacking, latest).await?;
        // Unless the first record was late, none before it is later than it by more than the delay.
        let whole_from = |first: &BTreeMap<i32, i64>| {
            let first = first.values().max()?;
            let last_gone = first.saturating_add(event_time.delay.max(0));
            Some(last_gone.saturating_add(1))
        };
        let begins = whole_from(&first);
        let losses: BTreeSet<i32> = self.archive.lost().keys().copied().collect();
        let behind = past.restricted_to(&self.behind_losses());
        let behind = behind.first_times(&losses, latest).await?;
        let without_times = lacking.iter().filter(|of| !first.contains_key(*of));
        let without_times: Vec<String> = without_times.map(ToString::to_string).collect();
        if !without_times.is_empty() {
            warnings.push(format!(
                "partitions of {table} ({}) have lost their first records, and no later one tells of which times they were: windows and \
                 sessions that had some of them are not whole",
                without_times.join(", ")
            ));
        }
        let mut times = PastTimes {
            archive: Vec::new(),
            begins,
            lost: LostTimes {
                until: begins.max(whole_from(&behind)),
                has_unknown: false,
            },
            untold: lacking
                .iter()
                .filter(|of| !first.contains_key(*of))
                .chain(losses.iter().filter(|of| !behind.contains_key(*of)))
                .copied()
                .collect(),
        };
        if !keeps_time {
            return Ok(times);
        }
        let reached = past.reached_times(latest).await?;
        if !reached.beyond.is_empty() {
            let why = match self.archive.has_timestamps() {
                true => String::new(),
                false => format!(
                    "; archive {} has no timestamps of records, by which a job sets them aside",
                    self.archive.name()
                ),
            };
            warnings.push(format!(
                "{table}: the event times at {} are more than {} seconds from now. They make nothing final, and count in the windows of these times{why}",
                ranges_text(&reached.beyond),
                event_time.max_ahead.as_secs(),
            ));
        }
        let of_partition = |ends: &PartitionEnds| {
            let parts = past.parts().get(&ends.partition);
            let is_archived = parts.is_none_or(|parts| parts.topic.end() != Some(ends.high));
            PartitionArchive {
                highest: reached.highest.get(&ends.partition).copied(),
                has_all: is_archived && ends.high == ends.latest,
            }
        };
        times.archive = self.ends.iter().map(of_partition).collect();
        Ok(times)
    }

    /// The offsets behind the last one that is lost, of each partition that has lost some.
    fn behind_losses(&self) -> PartitionOffsets {
        let lost = self.archive.lost().iter();
        let behind = lost.filter_map(|(partition, lost)| {
            let behind = OffsetRange::new(lost.end()?, i64::MAX);
            let behind: OffsetRanges = [behind].into_iter().collect();
            Some((*partition, behind))
        });
        behind.collect()
    }

    /// The partitions that have had records before the first one that is left.
    fn lacking(&self) -> BTreeSet<i32> {
        let is_lost = |partition: i32, offset: i64| {
            let lost = self.archive.lost().get(&partition);
            lost.is_some_and(|lost| lost.has(offset))
        };
        let from = self.from.iter();
        let lacking = from.filter(|(partition, from)| **from > 0 || is_lost(**partition, **from));
        lacking.map(|(partition, _)| *partition).collect()
    }
}

fn ranges_text(offsets: &PartitionOffsets) -> String {
    let ranges = offsets.iter().flat_map(|(partition, offsets)| {
        let partition = *partition;
        offsets.ranges().map(move |range| (partition, range))
    });
    let ranges: Vec<(i32, OffsetRange)> = ranges.collect();
    offsets_text(&ranges)
}

/// The selected rows that can be used and have an event time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::runtime) struct SelectedTimes {
    /// Their event times, ascending, each once.
    pub(in crate::runtime) times: Vec<i64>,
    /// Their offsets.
    pub(in crate::runtime) rows: OffsetSet,
}

/// The event times of the selected rows, of sources that are pinned like this and were opened so.
///
/// # Errors
///
/// A source without an event time; a state that is gone; too many times.
pub(in crate::runtime) async fn times_of(
    query: &JobQuery,
    pins: &BTreeMap<String, SourcePin>,
    pasts: &Pasts,
    selection: &OffsetSet,
) -> Result<SelectedTimes> {
    let (mut times, mut rows) = (Vec::new(), OffsetSet::default());
    for (table, selected) in selected(pasts, selection) {
        let pin = pins.get(table);
        let pin = pin.ok_or_else(|| Error::internal("a source that the run has not pinned"))?;
        let source = RunSource::of(query, table)?;
        source.check_topic(pin, &selected).await?;
        let timed = selected.event_times().await?;
        times.extend(timed.times);
        rows.extend(table, &timed.offsets);
    }
    times.sort_unstable();
    times.dedup();
    Ok(SelectedTimes { times, rows })
}

/// Of these rows, those that an archive of decoded rows covers and does not have: the job that archives could not decode their records.
///
/// # Errors
///
/// The archive cannot be read.
pub(in crate::runtime) async fn undecoded_of(
    pasts: &Pasts,
    selection: &OffsetSet,
) -> Result<OffsetSet> {
    let mut rows = OffsetSet::default();
    for (table, selected) in selected(pasts, selection) {
        rows.extend(table, &selected.undecoded().await?);
    }
    Ok(rows)
}

/// The selected rows of each past.
fn selected<'a>(
    pasts: &'a Pasts,
    selection: &'a OffsetSet,
) -> impl Iterator<Item = (&'a str, PinnedPast)> {
    pasts.iter().filter_map(|(table, past)| {
        let offsets = selection.of_table(table)?;
        Some((table.as_str(), past.restricted_to(offsets)))
    })
}
