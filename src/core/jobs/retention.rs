//! Retention of a job: which batches it can be rewound to, and when its log is shortened.
//!
//! Batches leave by an entry of the log ([`Entry::Trimmed`](super::Entry::Trimmed)), so that the log alone says what a rewind
//! may name: files are deleted after it, never before. A *checkpoint* at `n` is what follows from all entries before `n`;
//! a reader that has it needs none of them. Entries are deleted from the first on, and only those that a checkpoint has passed.
//! A writer that stalled meanwhile may find the number free that it had in mind: it reads the entry before after it wrote, and has
//! lost if that is not the one it knows.
//!
//! A sweep may have stalled since it read the log, and another runner may have gone on from there. So a sweep decides which
//! files to delete by the checkpoints that it finds just before it deletes ([`DeletableFiles`]), never by the history that it read
//! earlier.

use std::collections::BTreeSet;

use super::log::{JobHistory, is_older};
use super::version::BatchVersion;

/// How much of its past a job keeps.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Retention {
    /// At most so many batches; one at least.
    pub versions: u64,
    /// No batch that was committed longer ago than so many milliseconds, except the last one.
    pub age: i64,
}

impl Default for Retention {
    fn default() -> Self {
        Self {
            versions: 1_000,
            age: 7 * 24 * 3_600 * 1_000,
        }
    }
}

/// The oldest batch that stays at `now`, in milliseconds since 1970 UTC; none if all of them stay.
pub fn oldest_to_stay(history: &JobHistory, retention: Retention, now: i64) -> Option<u64> {
    let too_many = excess(history, retention);
    let since = now.saturating_sub(retention.age);
    // A batch with a time in the future, from a clock that was wrong once, keeps the batches after it: too many are better than
    // too few.
    let old = history.batches.iter().take_while(|batch| batch.at < since);
    let too_old = old.count();
    let last = history.batches.len().checked_sub(1)?;
    let gone = too_many.max(too_old).min(last);
    (gone > 0).then(|| history.batches[gone].batch)
}

/// Whether enough batches or entries have accumulated to make a sweep worthwhile.
pub fn is_sweep_due(history: &JobHistory, retention: Retention, now: i64) -> bool {
    /// Fewer than these do not start a sweep.
    const BATCHES: u64 = 16;
    const ENTRIES: u64 = 1_000;
    /// Batches that are older by less may wait, in milliseconds.
    const AGE: i64 = 60_000;
    let many = (retention.versions / 4).clamp(BATCHES, ENTRIES);
    if excess(history, retention) as u64 >= many {
        return true;
    }
    let aged = retention.age.saturating_add((retention.age / 16).max(AGE));
    let old = now.saturating_sub(aged);
    if history.batches.len() > 1 && history.batches[0].at < old {
        return true;
    }
    // A checkpoint holds all batches, so one is written only after at least as many new entries.
    let entries = ENTRIES.max(history.batches.len() as u64);
    history.next.saturating_sub(history.checkpoint) >= entries
}

/// The checkpoints that a newer one has passed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PassedCheckpoints<'a> {
    /// The last but one: entries before its number may be deleted. Its history says which files may ([`DeletableFiles`]).
    pub before: u64,
    /// Those before that one, which may be deleted.
    pub older: &'a [u64],
}

/// What the checkpoint `own`, which was just written, has passed; `checkpoints` are the numbers of all that are there, ascending.
/// None if another one is newer: the process that wrote it sweeps. A process that stalled before it wrote its own checkpoint
/// would otherwise take that one for the one that was passed.
pub fn passed_by(own: u64, checkpoints: &[u64]) -> Option<PassedCheckpoints<'_>> {
    match checkpoints {
        [older @ .., before, newest] if *newest == own => Some(PassedCheckpoints {
            before: *before,
            older,
        }),
        _ => None,
    }
}

/// The files of a job that can be deleted, since no reader can need them any more (LOSS-1). All of this follows from one
/// checkpoint, so it stays right for any process that deletes and after any delay.
///
/// Later versions build on the oldest batch of that checkpoint. Of older files they need only those that the version of this
/// batch names; files that they add have a higher number.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeletableFiles {
    settled: u64,
    /// Packs of late rows and dead letters that stay.
    packs: BTreeSet<String>,
    /// State files that stay in spite of their number.
    state: BTreeSet<String>,
}

impl DeletableFiles {
    /// `passed` is the history in a checkpoint that a newer checkpoint has passed; `oldest` is the version of its first batch.
    pub fn by(passed: &JobHistory, oldest: &BatchVersion) -> Self {
        Self {
            settled: passed.settled,
            packs: passed.packs.iter().cloned().collect(),
            state: oldest.state_files().map(|file| file.name.clone()).collect(),
        }
    }

    /// Whether a version, or the late rows of one, may be deleted.
    pub fn has_version(&self, name: &str) -> bool {
        is_older(name, self.settled)
    }

    /// Whether a file of state may be deleted.
    pub fn has_state(&self, name: &str) -> bool {
        is_older(name, self.settled) && !self.state.contains(name)
    }

    /// Whether a pack may be deleted: its rows are in another one.
    pub fn has_pack(&self, name: &str) -> bool {
        is_older(name, self.settled) && !self.packs.contains(name)
    }
}

fn excess(history: &JobHistory, retention: Retention) -> usize {
    let versions = usize::try_from(retention.versions.max(1)).unwrap_or(usize::MAX);
    history.batches.len().saturating_sub(versions)
}

#[cfg(test)]
mod tests {
    use super::super::LogEntry;
    use super::*;

    fn history(batches: u64) -> JobHistory {
        let mut entries = vec![LogEntry::Created {
            name: "j".into(),
            text: String::new(),
            tables: vec![],
            at: 0,
        }];
        entries.extend((1..=batches).map(|batch| LogEntry::Committed {
            batch,
            version: format!("{batch:010}-v"),
            at: i64::try_from(batch).unwrap() * 1_000,
        }));
        JobHistory::of(&entries).unwrap()
    }

    #[test]
    fn a_checkpoint_passes_the_one_before_if_it_is_the_newest() {
        assert_eq!(passed_by(9, &[9]), None);
        let passed = |before, older| Some(PassedCheckpoints { before, older });
        assert_eq!(passed_by(9, &[5, 9]), passed(5, &[]));
        assert_eq!(passed_by(9, &[1, 3, 5, 9]), passed(5, &[1, 3]));
        // It stalled before it wrote its own.
        assert_eq!(passed_by(5, &[5, 9]), None);
        assert_eq!(passed_by(5, &[3, 5, 9]), None);
        assert_eq!(passed_by(3, &[3, 5, 9]), None);
        assert_eq!(passed_by(3, &[5, 9]), None);
    }

    #[test]
    fn batches_are_kept_by_count_and_age_and_the_last_always() {
        let keep = |versions, age| Retention { versions, age };
        let oldest = |batches, retention, now| oldest_to_stay(&history(batches), retention, now);
        assert_eq!(oldest(10, keep(10, i64::MAX), 10_000), None);
        assert_eq!(oldest(10, keep(3, i64::MAX), 10_000), Some(8));
        assert_eq!(oldest(10, keep(1_000, 4_000), 10_000), Some(6));
        assert_eq!(oldest(10, keep(3, 4_000), 10_000), Some(8));
        assert_eq!(oldest(10, keep(1, 0), 99_000), Some(10));
        assert_eq!(oldest(10, keep(0, 0), 99_000), Some(10));
        assert_eq!(oldest(1, keep(1, 0), 99_000), None);
        assert_eq!(oldest(0, keep(1, 0), 99_000), None);
    }

    #[test]
    fn sweeping_starts_when_enough_batches_have_expired() {
        let few = Retention {
            versions: 3,
            age: 1_000_000,
        };
        assert!(!is_sweep_due(&history(18), few, 18_000));
        assert!(is_sweep_due(&history(19), few, 19_000));
        let aged = Retention {
            versions: 1_000,
            age: 1_600_000,
        };
        assert!(!is_sweep_due(&history(2), aged, 1_700_000));
        assert!(is_sweep_due(&history(2), aged, 1_702_000));
        assert!(
            !is_sweep_due(&history(1), aged, i64::MAX),
            "the last one stays"
        );
        let short = Retention {
            versions: 1_000,
            age: 0,
        };
        assert!(
            !is_sweep_due(&history(2), short, 61_000),
            "a minute is nothing"
        );
        assert!(is_sweep_due(&history(2), short, 61_001));
        let many = Retention {
            versions: u64::MAX,
            age: i64::MAX,
        };
        assert!(!is_sweep_due(&history(998), many, 0));
        assert!(is_sweep_due(&history(999), many, 0));
        assert!(
            is_sweep_due(&history(5_000), many, 0),
            "as many entries as batches"
        );
        let mut just_now = history(5_000);
        just_now.checkpoint = 4_000;
        assert!(!is_sweep_due(&just_now, many, 0));
    }
}
