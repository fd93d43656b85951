//! The facts about its sources that a run is made of: which states it reads, which offsets there are, and how far the archives have come
//! in event time.

use std::collections::BTreeMap;
use std::ops::Range;
use std::time::Duration;

use crate::core::archive::{OffsetRanges, PartitionOffsets, PastParts, first_of_past};
use crate::core::jobs::PartitionEnds;
use crate::core::runs::{
    ArchiveNow, Emission, Grouping, OffsetSet, PartitionArchive, Pin, PinnedAt, RunSpec, SourcePin,
    TimeRange,
};
use crate::error::{Error, ErrorKind, Result};
use crate::runtime::sources::pinned_past::{RunSource, lost};
use crate::runtime::sources::pinned_topic::{PinnedTopic, pin_newest};
use crate::streaming::JobQuery;
use crate::tables::archive::PinnedPast;

/// `VACUUM` may end a run of an archive that keeps its files for a shorter time.
const LEAST_RETENTION: Duration = Duration::from_secs(24 * 60 * 60);

/// The facts about a source that a run pins.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::runtime) struct PinnedFacts {
    /// The states that it reads.
    pub(in crate::runtime) pin: SourcePin,
    /// The offsets that there are in archive and topic together, by partition.
    pub(in crate::runtime) ranges: BTreeMap<i32, Range<i64>>,
    /// How far each partition has come; empty if the job keeps no time.
    pub(in crate::runtime) archive: Vec<PartitionArchive>,
    /// How far the table's watermark is behind, in microseconds; none of a table without one.
    pub(in crate::runtime) delay: Option<i64>,
    /// What may go wrong.
    pub(in crate::runtime) warnings: Vec<String>,
}

/// Pins a source of a job as it is now, which is `now` in microseconds since 1970 UTC.
///
/// # Errors
///
/// It has no archive that is its past; archive or topic cannot be read; neither has offsets that no job has recorded as lost.
pub(in crate::runtime) async fn pin_source(
    query: &JobQuery,
    table: &str,
    now: i64,
) -> Result<PinnedFacts> {
    let source = RunSource::of(query, table)?;
    let before = source.topic.ends().await?;
    let PinnedTopic {
        identity,
        ends,
        archive,
    } = pin_newest(&source.topic, &source.archive, table, &before).await?;
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
            identity: source.archive.identity().await?,
            at: PinnedAt::Version(archive.version()),
        },
        tail: Some(Pin {
            identity,
            at: PinnedAt::Ends(high),
        }),
        from,
    };
    let keeps_time = query.stream().is_some();
    let past = source.past(&pin, keeps_time).await?;
    let lost = lost(past.parts(), &ends);
    if !lost.is_empty() {
        return Err(source.in_neither(&lost));
    }
    let event_time = source.topic.table().event_time().cloned();
    let mut reached = Vec::new();
    if let Some(event_time) = event_time.as_ref().filter(|_| keeps_time) {
        // One row of a far future would make everything final: an archive without the records' timestamps does not tell it.
        let ahead = i64::try_from(event_time.max_ahead.as_micros()).unwrap_or(i64::MAX);
        let highest = past.highest_times(now.saturating_add(ahead)).await?;
        let of_partition = |ends: &PartitionEnds| {
            let parts = past.parts().get(&ends.partition);
            let is_archived = parts.is_none_or(|parts| parts.topic.end() != Some(ends.high));
            PartitionArchive {
                highest: highest.get(&ends.partition).copied(),
                has_all: is_archived && ends.high == ends.latest,
            }
        };
        reached = ends.iter().map(of_partition).collect();
    }
    let mut warnings = Vec::new();
    let retention = source.archive.file_retention().await?;
    if retention < LEAST_RETENTION {
        warnings.push(format!(
            "VACUUM of archive {} deletes files after {} seconds: a run that takes longer may lose files of its version",
            source.archive.name(),
            retention.as_secs()
        ));
    }
    Ok(PinnedFacts {
        pin,
        ranges,
        archive: reached,
        delay: event_time.map(|time| time.delay),
        warnings,
    })
}

/// The archive of a source of a run as it is now; none if it is gone.
///
/// It has other rows where the run reads if one that the run reads of it is no longer there, or if one was added since that has an event
/// time of the run. What was only rewritten is the same.
///
/// # Errors
///
/// The state that the run rests on is gone; the archive cannot be read.
pub(in crate::runtime) async fn archive_now(
    query: &JobQuery,
    table: &str,
    spec: &RunSpec,
) -> Result<Option<ArchiveNow>> {
    let pinned = spec.sources.get(table);
    let pinned = pinned.ok_or_else(|| Error::internal("a source that the run has not pinned"))?;
    let source = RunSource::of(query, table)?;
    let identity = match source.archive.identity().await {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        identity => identity?,
    };
    let newest = source.newest(pinned).await?;
    let pin = Pin {
        identity,
        at: PinnedAt::Version(newest.version()),
    };
    if pin == pinned.archive || pin.identity != pinned.archive.identity {
        let has_other_rows = pin != pinned.archive;
        return Ok(Some(ArchiveNow {
            pin,
            has_other_rows,
        }));
    }
    let keeps_time = spec.grouping != Grouping::Rows;
    let past = source.past(pinned, keeps_time).await?;
    let past = match &spec.emission {
        Emission::Time(_) => past,
        Emission::Offsets(selected) => {
            let none = PartitionOffsets::new();
            past.restricted_to(selected.of_table(table).unwrap_or(&none))
        }
    };
    let nothing = OffsetRanges::default();
    let is_there = |(partition, parts): (&i32, &PastParts)| {
        let now = newest.covered(*partition).unwrap_or(&nothing);
        parts.archive.within(now) == parts.archive
    };
    let mut has_other_rows = !past.parts().iter().all(is_there);
    if let (false, Emission::Time(ranges)) = (has_other_rows, &spec.emission) {
        let read = ranges.as_slice().iter();
        let read = read.filter_map(|range| spec.grouping.read_range(*range));
        let read: Vec<TimeRange> = read.collect();
        let added = newest.partitions().iter().map(|(partition, covered)| {
            let mut added = covered.clone();
            let known = past.parts().get(partition).into_iter();
            let known = known.flat_map(|parts| parts.archive.ranges().chain(parts.topic.ranges()));
            known.for_each(|range| added.remove(range));
            let parts = PastParts {
                archive: added,
                ..PastParts::default()
            };
            (*partition, parts)
        });
        let added = PinnedPast::new(&newest, added.collect(), keeps_time);
        has_other_rows = added.has_times_in(&read).await?;
    }
    Ok(Some(ArchiveNow {
        pin,
        has_other_rows,
    }))
}

/// The event times of the selected rows, ascending, each once: of sources that are pinned like this.
///
/// # Errors
///
/// A source without an event time; a state that is gone; too many times.
pub(in crate::runtime) async fn times_of(
    query: &JobQuery,
    pins: &BTreeMap<String, SourcePin>,
    selection: &OffsetSet,
) -> Result<Vec<i64>> {
    let mut times = Vec::new();
    for table in selection.tables() {
        let (Some(pin), Some(offsets)) = (pins.get(table), selection.of_table(table)) else {
            continue;
        };
        let source = RunSource::of(query, table)?;
        let past = source.past(pin, query.stream().is_some()).await?;
        let selected = past.restricted_to(offsets);
        source.check_topic(pin, &selected).await?;
        times.extend(selected.event_times().await?);
    }
    times.sort_unstable();
    times.dedup();
    Ok(times)
}
