//! Ends of a job's sources as of one look: what of them a version has read, and what it has not.

use std::collections::BTreeMap;

use crate::core::jobs::{BatchVersion, PartitionEnds, Partitions};
use crate::runtime::source::SourcePlans;

/// Start and end offsets of the partitions of a job's sources, by table.
pub(super) type SourceEnds = BTreeMap<String, Vec<PartitionEnds>>;

/// The ends that these plans were made of.
pub(super) fn of_plans(plans: &SourcePlans) -> SourceEnds {
    plans
        .iter()
        .map(|(table, plan)| (table.clone(), plan.ends.clone()))
        .collect()
}

/// All partitions that exist.
pub(super) fn known(ends: &SourceEnds) -> Partitions {
    ends.iter()
        .map(|(table, partitions)| {
            let numbers = partitions.iter().map(|ends| ends.partition);
            (table.clone(), numbers.collect())
        })
        .collect()
}

/// Whether the version `last` has read everything up to `ends`.
pub(super) fn is_caught_up(last: Option<&BatchVersion>, ends: &SourceEnds) -> bool {
    ends.iter().all(|(table, partitions)| {
        partitions.iter().all(|ends| {
            let next = last.and_then(|last| last.next_offset(table, ends.partition));
            next.unwrap_or(ends.low) >= ends.high
        })
    })
}

/// Number of offsets up to `ends` that come after the version `last`.
pub(super) fn lag(last: Option<&BatchVersion>, ends: &SourceEnds) -> u64 {
    lags(last, ends).map(|(.., lag)| lag).sum()
}

/// The same for each partition of each table.
pub(super) fn lags<'a>(
    last: Option<&'a BatchVersion>,
    ends: &'a SourceEnds,
) -> impl Iterator<Item = (&'a str, i32, u64)> {
    ends.iter().flat_map(move |(table, partitions)| {
        partitions.iter().map(move |ends| {
            let next = last.and_then(|last| last.next_offset(table, ends.partition));
            let offsets = ends.high - next.unwrap_or(ends.low);
            let lag = match ends.unread {
                Some(unread) => unread,
                None => u64::try_from(offsets).unwrap_or(0),
            };
            (table.as_str(), ends.partition, lag)
        })
    })
}
