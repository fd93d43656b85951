//! Claims of jobs about a table that they archive into: which offsets of a topic they have read for it, and which they have skipped.
//!
//! A job reads each partition from one place on without gaps, so that a batch claims all offsets of its range, also those of control
//! records and of records that compaction has removed. A batch without rows makes no commit: the next commit claims its offsets
//! along with its own.

use std::collections::BTreeMap;

use super::offset_ranges::{OffsetRange, OffsetRanges};
use crate::core::jobs::{BatchVersion, Identity, IdentityMatch, SourceProgress};

/// A partition of a topic.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct PartitionKey {
    /// Which topic it is; always [`Identity::Topic`].
    pub topic: Identity,
    /// The partition.
    pub partition: i32,
}

/// Offsets that a job has skipped since the topic no longer had them.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct LostRange {
    /// The offsets.
    pub range: OffsetRange,
    /// The name of the job.
    pub job: String,
    /// The number of its batch.
    pub batch: u64,
}

/// What jobs claim of one partition.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PartitionClaims {
    /// Offsets that were read and archived.
    pub covered: OffsetRanges,
    /// Offsets that were skipped, in order.
    pub lost: Vec<LostRange>,
}

impl PartitionClaims {
    /// Removes the claims from an offset on.
    fn truncate(&mut self, from: i64) {
        self.covered.truncate(from);
        self.lost.retain(|lost| lost.range.from < from);
    }

    /// The offset up to which the job has read or skipped, if it has.
    fn end(&self) -> Option<i64> {
        let lost = self.lost.iter().map(|lost| lost.range.to);
        lost.chain(self.covered.end()).max()
    }

    fn is_empty(&self) -> bool {
        self.covered.is_empty() && self.lost.is_empty()
    }
}

/// All that one job claims about a table.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct JobClaims {
    /// By partition; none without a claim.
    pub partitions: BTreeMap<PartitionKey, PartitionClaims>,
}

impl JobClaims {
    /// The claims after a batch of the job with this name, which the version describes.
    ///
    /// What a job claims at its position or behind it comes from batches that a rewind has abandoned: it is no longer claimed.
    #[must_use]
    pub fn after(&self, job: &str, version: &BatchVersion) -> Self {
        let mut claims = match version.parent {
            Some(_) => self.clone(),
            // It is the first batch: there may be batches that were abandoned, and none before it.
            None => Self::default(),
        };
        for (table, partitions) in &version.sources {
            let Some(topic @ Identity::Topic { .. }) = version.identities.get(table) else {
                continue;
            };
            let skipped = version.skipped.get(table);
            for (partition, read) in partitions {
                let key = PartitionKey {
                    topic: topic.clone(),
                    partition: *partition,
                };
                let gap = skipped.and_then(|skipped| skipped.get(partition));
                let claimed = claims.partitions.entry(key).or_default();
                claimed.add(job, version.batch, *read, gap.copied());
            }
        }
        claims.partitions.retain(|_, claimed| !claimed.is_empty());
        claims
    }

    /// The claims of the batches up to `last`, the version where the job stands: without those of abandoned batches. None if it has
    /// no batch.
    #[must_use]
    pub fn up_to(&self, last: Option<&BatchVersion>) -> Self {
        let Some(last) = last else {
            return Self::default();
        };
        let mut claims = self.clone();
        for (key, claimed) in &mut claims.partitions {
            let mut tables = last.identities.iter();
            let Some((table, _)) = tables.find(|(_, topic)| **topic == key.topic) else {
                // The job does not read this earlier topic any more: a rewind does not touch the claims about it.
                continue;
            };
            match last.next_offset(table, key.partition) {
                Some(position) => claimed.truncate(position),
                None => *claimed = PartitionClaims::default(),
            }
        }
        claims.partitions.retain(|_, claimed| !claimed.is_empty());
        claims
    }

    /// The claims that `before` does not have.
    #[must_use]
    pub fn since(&self, before: &Self) -> Self {
        let nothing = PartitionClaims::default();
        let mut added = Self::default();
        for (key, claimed) in &self.partitions {
            let known = before.partitions.get(key).unwrap_or(&nothing);
            let mut covered = claimed.covered.clone();
            known
                .covered
                .ranges()
                .for_each(|range| covered.remove(range));
            let lost = claimed.lost.iter();
            let new = PartitionClaims {
                covered,
                lost: lost
                    .filter(|lost| !known.lost.contains(lost))
                    .cloned()
                    .collect(),
            };
            if !new.is_empty() {
                added.partitions.insert(key.clone(), new);
            }
        }
        added
    }

    /// Whether there are partitions of which `before` claims nothing.
    pub fn begins(&self, before: &Self) -> bool {
        let mut keys = self.partitions.keys();
        keys.any(|key| !before.partitions.contains_key(key))
    }

    /// Whether offsets were skipped.
    pub fn has_lost(&self) -> bool {
        self.partitions
            .values()
            .any(|claimed| !claimed.lost.is_empty())
    }
}

impl PartitionClaims {
    /// Adds what a batch has read, behind the gap that it has skipped.
    fn add(&mut self, job: &str, batch: u64, read: SourceProgress, gap: Option<SourceProgress>) {
        let stood = gap.map_or(read.start, |gap| gap.start);
        self.truncate(stood);
        // Batches without rows have come so far.
        if let Some(end) = self.end() {
            self.covered.insert(OffsetRange::new(end, stood));
        }
        let gap = gap.map(|gap| OffsetRange::new(gap.start, gap.end));
        // Where the end of a log was cut off, the job goes back, and skips nothing that it has not read.
        match gap.filter(|gap| !gap.is_empty()) {
            Some(range) => self.lost.push(LostRange {
                range,
                job: job.to_owned(),
                batch,
            }),
            None => self.truncate(read.start),
        }
        self.covered.insert(OffsetRange::new(read.start, read.end));
    }
}

/// What jobs claim of the partitions of a topic, by partition. Claims about another topic of the same name do not count (IDENT-1).
pub fn claims_of_topic<'c>(
    jobs: impl IntoIterator<Item = &'c JobClaims>,
    topic: &Identity,
) -> BTreeMap<i32, PartitionClaims> {
    let mut found: BTreeMap<i32, PartitionClaims> = BTreeMap::new();
    for (key, claimed) in jobs.into_iter().flat_map(|job| &job.partitions) {
        if key.topic.compare(topic) == IdentityMatch::Other {
            continue;
        }
        let all = found.entry(key.partition).or_default();
        all.covered.extend(claimed.covered.ranges());
        all.lost.extend(claimed.lost.iter().cloned());
        all.lost.sort();
    }
    found
}

/// Another topic with the name of this one of which jobs claim offsets: it was deleted and created again, or is that of another
/// cluster.
pub fn other_topic<'c>(
    jobs: impl IntoIterator<Item = &'c JobClaims>,
    topic: &Identity,
) -> Option<&'c Identity> {
    let Identity::Topic { topic: name, .. } = topic else {
        return None;
    };
    let keys = jobs.into_iter().flat_map(|job| job.partitions.keys());
    let mut others = keys.filter(|key| key.topic.compare(topic) == IdentityMatch::Other);
    let found =
        others.find(|key| matches!(&key.topic, Identity::Topic { topic, .. } if topic == name));
    found.map(|key| &key.topic)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn topic(id: &str) -> Identity {
        Identity::Topic {
            topic: "visits".to_owned(),
            cluster: Some("c".to_owned()),
            id: Some(id.to_owned()),
        }
    }

    fn key(id: &str, partition: i32) -> PartitionKey {
        PartitionKey {
            topic: topic(id),
            partition,
        }
    }

    fn progress(start: i64, end: i64) -> SourceProgress {
        SourceProgress { start, end }
    }

    /// A batch that reads partition 0 of the topic, behind another batch.
    fn version(batch: u64, id: &str, start: i64, end: i64) -> BatchVersion {
        BatchVersion {
            batch,
            parent: Some("before".to_owned()),
            sources: [("v".to_owned(), [(0, progress(start, end))].into())].into(),
            identities: [("v".to_owned(), topic(id))].into(),
            ..BatchVersion::default()
        }
    }

    fn covered(claims: &JobClaims, id: &str) -> Vec<(i64, i64)> {
        let claimed = claims.partitions.get(&key(id, 0));
        let ranges = claimed
            .into_iter()
            .flat_map(|claimed| claimed.covered.ranges());
        ranges.map(|range| (range.from, range.to)).collect()
    }

    #[test]
    fn another_topic_of_the_name_is_found_in_claims() {
        let claims = |id: &str| JobClaims {
            partitions: [(key(id, 0), PartitionClaims::default())].into(),
        };
        let (one, other) = (claims("one"), claims("other"));
        assert_eq!(other_topic([&one], &topic("one")), None);
        assert_eq!(
            other_topic([&one, &other], &topic("one")),
            Some(&topic("other"))
        );
        // Brokers that give no ids leave it open.
        let unknown = Identity::Topic {
            topic: "visits".to_owned(),
            cluster: None,
            id: None,
        };
        assert_eq!(other_topic([&one], &unknown), None);
        // An archive may have several topics.
        let clicks = Identity::Topic {
            topic: "clicks".to_owned(),
            cluster: Some("c".to_owned()),
            id: Some("x".to_owned()),
        };
        assert_eq!(other_topic([&one], &clicks), None);
    }

    #[test]
    fn a_batch_without_a_commit_is_covered_by_the_next_one() {
        let first = JobClaims::default().after("j", &version(1, "a", 3, 10));
        assert_eq!(covered(&first, "a"), [(3, 10)]);
        // The batch from 10 to 14 had no rows.
        let third = first.after("j", &version(3, "a", 14, 20));
        assert_eq!(covered(&third, "a"), [(3, 20)]);
        assert_eq!(covered(&third.since(&first), "a"), [(10, 20)]);
        assert!(first.begins(&JobClaims::default()) && !third.begins(&first));
        // Run again after a crash, it claims the same.
        assert_eq!(third.after("j", &version(3, "a", 14, 20)), third);
        assert_eq!(third.since(&third), JobClaims::default());
    }

    #[test]
    fn loss_1_skipped_offsets_are_claimed_as_lost() {
        let first = JobClaims::default().after("j", &version(1, "a", 0, 10));
        let mut skipping = version(2, "a", 15, 20);
        skipping.skipped = [("v".to_owned(), [(0, progress(12, 15))].into())].into();
        let second = first.after("j", &skipping);
        assert_eq!(covered(&second, "a"), [(0, 12), (15, 20)]);
        let lost = LostRange {
            range: OffsetRange::new(12, 15),
            job: "j".to_owned(),
            batch: 2,
        };
        assert_eq!(second.partitions[&key("a", 0)].lost, [lost]);
        assert!(second.since(&first).has_lost() && !first.has_lost());
        // If it reads nothing behind the gap, the next batch does not claim the gap either.
        let mut skipping = version(2, "a", 15, 15);
        skipping.skipped = [("v".to_owned(), [(0, progress(12, 15))].into())].into();
        let third = first
            .after("j", &skipping)
            .after("j", &version(3, "a", 15, 16));
        assert_eq!(covered(&third, "a"), [(0, 12), (15, 16)]);
        // The end of the log was cut off at 4, and records were written since.
        let mut cut = version(2, "a", 4, 6);
        cut.skipped = [("v".to_owned(), [(0, progress(10, 4))].into())].into();
        assert_eq!(covered(&first.after("j", &cut), "a"), [(0, 6)]);
        assert!(!first.after("j", &cut).has_lost());
    }

    #[test]
    fn exact_3_abandoned_batches_claim_nothing() {
        let first = version(1, "a", 0, 10);
        let claims = JobClaims::default()
            .after("j", &first)
            .after("j", &version(2, "a", 10, 20));
        assert_eq!(covered(&claims.up_to(Some(&first)), "a"), [(0, 10)]);
        assert_eq!(claims.up_to(None), JobClaims::default());
        // Without that step the next batch says the same.
        let again = claims.after("j", &version(2, "a", 10, 13));
        assert_eq!(covered(&again, "a"), [(0, 13)]);
        let mut restarted = version(1, "a", 5, 8);
        restarted.parent = None;
        assert_eq!(covered(&claims.after("j", &restarted), "a"), [(5, 8)]);
        // A partition that the job had not read by then is not claimed.
        let mut none = version(1, "a", 0, 0);
        none.sources = [("v".to_owned(), BTreeMap::new())].into();
        assert_eq!(claims.up_to(Some(&none)), JobClaims::default());
    }

    #[test]
    fn ident_1_claims_belong_to_a_topic_and_not_to_a_name() {
        let mut claims = JobClaims::default().after("j", &version(1, "a", 0, 10));
        let of_new = version(2, "b", 0, 4);
        claims = claims.after("j", &of_new);
        assert_eq!(covered(&claims, "a"), [(0, 10)]);
        assert_eq!(covered(&claims, "b"), [(0, 4)]);
        assert_eq!(claims.up_to(Some(&of_new)), claims);
        let found = claims_of_topic([&claims], &topic("b"));
        assert_eq!(found[&0].covered.end(), Some(4));
        assert!(claims_of_topic([&claims], &topic("c")).is_empty());
        // A table that is read as a stream is no topic.
        let mut of_table = version(3, "b", 0, 4);
        let table = Identity::DeltaTable {
            location: "l".to_owned(),
            id: "i".to_owned(),
        };
        of_table.identities.insert("v".to_owned(), table);
        assert_eq!(
            JobClaims::default().after("j", &of_table),
            JobClaims::default()
        );
    }

    proptest! {
        /// Batches with and without commits, losses and rewinds: as soon as the job commits a batch, it claims the offsets that it has
        /// read on its way from the first batch, and no others.
        #[test]
        fn claims_are_the_offsets_on_the_way_of_the_job(
            steps in prop::collection::vec((0_u8..8, 0_i64..9), 1..40),
        ) {
            // The batches of the job: where each began and ended, and what it skipped before.
            let mut batches: Vec<BatchVersion> = Vec::new();
            let mut claims = JobClaims::default();
            for (step, n) in steps {
                if step == 0 {
                    batches.truncate(batches.len().saturating_sub(n as usize));
                    claims = claims.up_to(batches.last());
                    continue;
                }
                let stood = batches.last().map(|last| last.sources["v"][&0].end);
                let from = stood.unwrap_or(5);
                let lost = if step == 1 && stood.is_some() { n } else { 0 };
                let mut next = version(batches.len() as u64 + 1, "a", from + lost, from + lost + n);
                if stood.is_none() {
                    next.parent = None;
                }
                if lost > 0 {
                    next.skipped = [("v".to_owned(), [(0, progress(from, from + lost))].into())].into();
                }
                // A batch without rows makes no commit, unless it has skipped offsets.
                let is_committed = step > 3 || lost > 0;
                if is_committed {
                    claims = claims.after("j", &next);
                }
                batches.push(next);
                if !is_committed {
                    continue;
                }
                // All committed batches, and those without rows that one of them follows.
                let mut oracle = OffsetRanges::default();
                for batch in &batches {
                    let read = batch.sources["v"][&0];
                    oracle.insert(OffsetRange::new(read.start, read.end));
                }
                let mut is_claimed = OffsetRanges::default();
                let mut skipped = Vec::new();
                if let Some(claimed) = claims.partitions.get(&key("a", 0)) {
                    is_claimed = claimed.covered.clone();
                    skipped = claimed.lost.iter().map(|lost| lost.range).collect();
                }
                // Batches before the first commit are not known to the table.
                let first = is_claimed.first().unwrap_or(i64::MAX);
                oracle.remove(OffsetRange::new(i64::MIN, first));
                prop_assert_eq!(is_claimed, oracle);
                let lost = batches.iter().filter_map(|batch| batch.skipped.get("v"));
                let lost: Vec<OffsetRange> = lost
                    .map(|of| OffsetRange::new(of[&0].start, of[&0].end))
                    .collect();
                prop_assert_eq!(skipped, lost);
            }
        }
    }
}
