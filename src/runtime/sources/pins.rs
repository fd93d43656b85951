//! The facts about its sources that a run is made of: which states it reads, which offsets there are, and how far the archives have come
//! in event time.

use std::collections::BTreeMap;
use std::ops::Range;
use std::time::Duration;

use crate::core::archive::{OffsetRanges, first_of_past};
use crate::core::jobs::PartitionEnds;
use crate::core::runs::{OffsetSet, PartitionArchive, Pin, PinnedAt, SourcePin};
use crate::error::Result;
use crate::runtime::owner::now;
use crate::runtime::sources::pinned_past::{RunSource, lost, past_over};
use crate::runtime::sources::pinned_topic::{PinnedTopic, pin_newest};
use crate::streaming::JobQuery;

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

/// Pins a source of a job as it is now.
///
/// # Errors
///
/// It has no archive that is its past; archive or topic cannot be read; neither has offsets that no job has recorded as lost.
pub(in crate::runtime) async fn pin_source(query: &JobQuery, table: &str) -> Result<PinnedFacts> {
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
    let past = past_over(&archive, &pin, keeps_time)?;
    let lost = lost(past.parts(), &ends);
    if !lost.is_empty() {
        return Err(source.in_neither(&lost));
    }
    let event_time = source.topic.table().event_time().cloned();
    let mut reached = Vec::new();
    if let Some(event_time) = event_time.as_ref().filter(|_| keeps_time) {
        // One row of a far future would make everything final: an archive without the records' timestamps does not tell it.
        let ahead = i64::try_from(event_time.max_ahead.as_micros()).unwrap_or(i64::MAX);
        let highest = past
            .highest_times(now().saturating_mul(1_000).saturating_add(ahead))
            .await?;
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

/// The selected rows that can be used and have an event time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::runtime) struct SelectedTimes {
    /// Their event times, ascending, each once.
    pub(in crate::runtime) times: Vec<i64>,
    /// Their offsets.
    pub(in crate::runtime) rows: OffsetSet,
}

/// The event times of the selected rows, of sources that are pinned like this.
///
/// # Errors
///
/// A source without an event time; a state that is gone; too many times.
pub(in crate::runtime) async fn times_of(
    query: &JobQuery,
    pins: &BTreeMap<String, SourcePin>,
    selection: &OffsetSet,
) -> Result<SelectedTimes> {
    let (mut times, mut rows) = (Vec::new(), Vec::new());
    for table in selection.tables() {
        let (Some(pin), Some(offsets)) = (pins.get(table), selection.of_table(table)) else {
            continue;
        };
        let source = RunSource::of(query, table)?;
        let past = source.past(pin, query.stream().is_some()).await?;
        let selected = past.restricted_to(offsets);
        source.check_topic(pin, &selected).await?;
        let timed = selected.event_times().await?;
        times.extend(timed.times);
        for (partition, offsets) in &timed.offsets {
            let ranges = offsets.ranges();
            rows.extend(ranges.map(|range| (table.to_owned(), *partition, range.from..range.to)));
        }
    }
    times.sort_unstable();
    times.dedup();
    Ok(SelectedTimes {
        times,
        rows: OffsetSet::of(rows),
    })
}
