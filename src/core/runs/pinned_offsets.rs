//! Whether a run reads all records that a batch of its job, or another run, has read. Only what was published by then may be gone: a later
//! batch may have given out results of records that the run does not read.

use std::collections::BTreeMap;

use super::spec::{PinnedAt, RunSpec};
use crate::core::jobs::identity::{Identity, IdentityMatch};
use crate::core::jobs::progress::SourceProgress;
use crate::core::jobs::version::BatchVersion;

impl RunSpec {
    /// Whether it reads all records that its job had read when it stood at this version.
    pub fn reads_all_of(&self, version: &BatchVersion) -> bool {
        self.reads(version, |at| at.end)
    }

    /// Whether it reads all records that its job had read before the batch of this version.
    pub fn reads_all_before(&self, version: &BatchVersion) -> bool {
        self.reads(version, |at| at.start)
    }

    /// Whether it reads all records that another run reads.
    pub fn reads_all_of_run(&self, other: &Self) -> bool {
        other.sources.keys().all(|table| {
            let (Some((own, own_ends)), Some((others, ends))) =
                (self.tail(table), other.tail(table))
            else {
                return false;
            };
            own.compare(others) != IdentityMatch::Other
                && ends
                    .iter()
                    .all(|(partition, end)| is_read(own_ends, *partition, *end))
        })
    }

    fn reads(&self, version: &BatchVersion, end: impl Fn(&SourceProgress) -> i64) -> bool {
        version.sources.iter().all(|(table, partitions)| {
            let Some((own, ends)) = self.tail(table) else {
                return false;
            };
            let read = version.identities.get(table);
            read.is_none_or(|read| own.compare(read) != IdentityMatch::Other)
                && partitions
                    .iter()
                    .all(|(partition, at)| is_read(ends, *partition, end(at)))
        })
    }

    /// The topic of a source, and the offsets up to which it is read.
    fn tail(&self, table: &str) -> Option<(&Identity, &BTreeMap<i32, i64>)> {
        let tail = self.sources.get(table)?.tail.as_ref()?;
        match &tail.at {
            PinnedAt::Ends(ends) => Some((&tail.identity, ends)),
            PinnedAt::Version(_) => None,
        }
    }
}

/// Whether a partition that is read up to `ends` is read up to `end`. One without a record is read to its end.
fn is_read(ends: &BTreeMap<i32, i64>, partition: i32, end: i64) -> bool {
    end <= ends.get(&partition).copied().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::runs::spec::{Pin, SourcePin, fixture};

    fn topic(id: &str) -> Identity {
        Identity::Topic {
            topic: "visits".into(),
            cluster: None,
            id: Some(id.into()),
        }
    }

    fn spec(ends: &[(i32, i64)], has_tail: bool) -> RunSpec {
        let tail = Pin {
            identity: topic("1"),
            at: PinnedAt::Ends(ends.iter().copied().collect()),
        };
        let source = SourcePin {
            archive: Pin {
                identity: topic("1"),
                at: PinnedAt::Version(3),
            },
            tail: has_tail.then_some(tail),
            from: BTreeMap::new(),
        };
        RunSpec {
            sources: [("visits".to_owned(), source)].into(),
            ..fixture::spec("r")
        }
    }

    fn version(partitions: &[(i32, i64, i64)]) -> BatchVersion {
        let progress = partitions.iter().map(|(partition, start, end)| {
            (
                *partition,
                SourceProgress {
                    start: *start,
                    end: *end,
                },
            )
        });
        BatchVersion {
            sources: [("visits".to_owned(), progress.collect())].into(),
            ..BatchVersion::default()
        }
    }

    #[test]
    fn a_batch_is_read_that_ended_within_the_pinned_offsets() {
        let run = spec(&[(0, 10), (1, 5)], true);
        assert!(run.reads_all_of(&version(&[(0, 7, 10), (1, 0, 5)])));
        let later = version(&[(0, 7, 10), (1, 5, 6)]);
        assert!(!run.reads_all_of(&later) && run.reads_all_before(&later));
        // A partition that was added since has no record that the run reads.
        assert!(run.reads_all_of(&version(&[(2, 0, 0)])));
        assert!(!run.reads_all_of(&version(&[(2, 0, 1)])));
        assert!(!spec(&[], false).reads_all_of(&version(&[(0, 0, 0)])));
        // Offsets of another topic, and of a table that the run does not read, are other offsets.
        let other = BatchVersion {
            identities: [("visits".to_owned(), topic("2"))].into(),
            ..version(&[(0, 0, 1)])
        };
        assert!(!run.reads_all_of(&other));
        let mut elsewhere = version(&[(0, 0, 1)]);
        let progress = elsewhere.sources.remove("visits").unwrap();
        elsewhere.sources.insert("clicks".to_owned(), progress);
        assert!(!run.reads_all_of(&elsewhere));
    }

    #[test]
    fn another_run_is_read_that_was_pinned_before() {
        let run = spec(&[(0, 10), (1, 5)], true);
        assert!(run.reads_all_of_run(&run));
        assert!(run.reads_all_of_run(&spec(&[(0, 9)], true)));
        assert!(!run.reads_all_of_run(&spec(&[(0, 9), (1, 6)], true)));
        assert!(!run.reads_all_of_run(&spec(&[], false)));
    }
}
