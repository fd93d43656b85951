//! Recovery after a takeover: a pure function of the log, the sink's witness and the staged versions.
//!
//! A batch is staged under a name of its own. Then the sink commits its rows together with that name, the *witness*. Then the
//! log names it. A crash may come between any two of these steps.

use super::log::JobHistory;

/// A version that was written and that the log does not name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StagedVersion {
    /// Its name.
    pub name: String,
    /// Its batch.
    pub batch: u64,
    /// The version it continues from.
    pub parent: Option<String>,
}

/// How the runner goes on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RecoveryDecision {
    /// Sink and log agree: choose the next batch.
    Continue,
    /// The sink has one batch more than the log: append an entry that it is committed.
    AppendCommitted {
        /// The batch.
        batch: u64,
        /// Its version.
        version: String,
    },
    /// It is unknown whether the sink has the rows of this batch: the user must decide.
    Unclear {
        /// The batch.
        batch: u64,
        /// Why.
        reason: String,
    },
    /// The sink has batches that the log does not have: the data directory was restored to an older state.
    OlderLog {
        /// The batch that the log would run next.
        batch: u64,
        /// The witness that the sink committed last.
        witness: String,
    },
}

/// The witness of a job that has committed nothing yet.
pub const BEGINNING: &str = "beginning";

/// Decides how the runner goes on. `witness` is the name that the sink committed last, [`BEGINNING`] before the first batch,
/// none if the sink has no witness of the job; `is_first` is true if no runner had the job before.
pub fn recover(
    history: &JobHistory,
    is_first: bool,
    witness: Option<&str>,
    staged: &[StagedVersion],
) -> RecoveryDecision {
    let last = history.last().map(|committed| committed.version.as_str());
    let children: Vec<&StagedVersion> = staged
        .iter()
        .filter(|staged| staged.parent.as_deref() == last)
        .filter(|staged| !history.was_committed(&staged.name))
        .collect();
    let unclear = |reason: &str| {
        let batch = history.next_batch();
        // The user has checked the rows of the sink; the decision does not cover versions that were staged after it.
        let is_new = |child: &&&StagedVersion| sequence(&child.name) > Some(history.assumed_at);
        if let Some(child) = children.iter().find(is_new) {
            return RecoveryDecision::Unclear {
                batch: child.batch,
                reason: reason.to_owned(),
            };
        }
        match (
            history.assuming,
            children.iter().max_by_key(|child| &child.name),
        ) {
            (Some((assumed, true)), Some(child)) if assumed == batch => {
                RecoveryDecision::AppendCommitted {
                    batch,
                    version: child.name.clone(),
                }
            }
            (Some((assumed, _)), _) if assumed == batch => RecoveryDecision::Continue,
            _ => RecoveryDecision::Unclear {
                batch,
                reason: reason.to_owned(),
            },
        }
    };
    match witness {
        // The log names this witness, perhaps as an abandoned version: the sink has committed no batch after it.
        Some(name) if history.was_committed(name) => RecoveryDecision::Continue,
        Some(BEGINNING) if history.batches.is_empty() || children.is_empty() => {
            RecoveryDecision::Continue
        }
        Some(name) => match children.iter().find(|child| child.name == name) {
            Some(child) => RecoveryDecision::AppendCommitted {
                batch: child.batch,
                version: child.name.clone(),
            },
            // Every version in the sink was staged in the job's folder before: a later batch than the log's last comes from a
            // newer state of the data directory.
            None if sequence(name) > last.map_or(Some(0), sequence) => match history.assuming {
                // The user accepts that the sink gets the later batches twice.
                Some((assumed, false)) if assumed == history.next_batch() => {
                    RecoveryDecision::Continue
                }
                _ => RecoveryDecision::OlderLog {
                    batch: history.next_batch(),
                    witness: name.to_owned(),
                },
            },
            None => unclear("the sink has a batch that is not in the data of this job"),
        },
        None if is_first || children.is_empty() => RecoveryDecision::Continue,
        None => unclear("the sink no longer knows which batch it has"),
    }
}

/// Decides the same for a sink that the user has accepted as new. It has no version that was staged for the sink before it. Of
/// the versions in `staged`, which were staged for this sink, it has the one that the witness names.
pub fn recover_in_new_sink(
    history: &JobHistory,
    witness: Option<&str>,
    staged: &[StagedVersion],
) -> RecoveryDecision {
    let last = history.last().map(|committed| committed.version.as_str());
    let child = staged
        .iter()
        .filter(|staged| staged.parent.as_deref() == last)
        .find(|staged| witness == Some(staged.name.as_str()));
    match child {
        Some(child) => RecoveryDecision::AppendCommitted {
            batch: child.batch,
            version: child.name.clone(),
        },
        None => RecoveryDecision::Continue,
    }
}

/// The batches that the log has and the sink does not, because the sink was restored to an earlier state: those after
/// `witness`. The log names every version that the sink ever got, so an older witness is enough to tell. But a sink that stores
/// no batch without rows does not miss such batches (`keeps_all` is false). `rows` are the row counts of the last batches, the
/// newest first, as far as they were written to this sink.
pub fn missing_in_sink(
    history: &JobHistory,
    witness: &str,
    keeps_all: bool,
    rows: &[u64],
) -> Option<MissingBatches> {
    let known = match witness {
        BEGINNING => Some(0),
        name => sequence(name),
    }?;
    let later = history.batches.iter().rev();
    let later = later.take_while(|batch| sequence(&batch.version) > Some(known));
    let missing: Vec<u64> = later
        .zip(rows)
        .filter(|(_, rows)| keeps_all || **rows > 0)
        .map(|(batch, _)| batch.batch)
        .collect();
    let (newest, oldest) = (*missing.first()?, *missing.last()?);
    Some(MissingBatches {
        first: oldest,
        last: newest,
        known,
    })
}

/// Batches that the log has and the sink does not.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MissingBatches {
    /// The first of them.
    pub first: u64,
    /// The last of them.
    pub last: u64,
    /// Versions with a higher number are not in the sink.
    pub known: u64,
}

/// The number of the log entry that a version was staged for.
fn sequence(name: &str) -> Option<u64> {
    name.split('-').next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::super::log::LogEntry;
    use super::*;

    fn history(committed: &[(u64, &str)], more: &[LogEntry]) -> JobHistory {
        let mut entries = vec![LogEntry::Created {
            name: "j".into(),
            text: String::new(),
            tables: vec![],
            at: 0,
        }];
        entries.extend(
            committed
                .iter()
                .map(|(batch, version)| LogEntry::Committed {
                    batch: *batch,
                    version: (*version).into(),
                    at: 0,
                }),
        );
        entries.extend(more.iter().cloned());
        JobHistory::of(&entries).unwrap()
    }

    fn staged(name: &str, batch: u64, parent: Option<&str>) -> StagedVersion {
        StagedVersion {
            name: name.into(),
            batch,
            parent: parent.map(str::to_owned),
        }
    }

    fn append(batch: u64, version: &str) -> RecoveryDecision {
        RecoveryDecision::AppendCommitted {
            batch,
            version: version.into(),
        }
    }

    #[test]
    fn exact_1_recovery_distinguishes_crashes_between_any_two_steps() {
        let one = history(&[(1, "a")], &[]);
        // Nothing was staged; staged and not committed; committed and not in the log.
        assert_eq!(
            recover(&one, false, Some("a"), &[]),
            RecoveryDecision::Continue
        );
        let b = [staged("b", 2, Some("a"))];
        assert_eq!(
            recover(&one, false, Some("a"), &b),
            RecoveryDecision::Continue
        );
        assert_eq!(recover(&one, false, Some("b"), &b), append(2, "b"));
        // Several attempts at the same batch: the witness says which one.
        let two = [staged("b", 2, Some("a")), staged("c", 2, Some("a"))];
        assert_eq!(recover(&one, false, Some("c"), &two), append(2, "c"));
    }

    #[test]
    fn before_the_first_batch_the_witness_is_the_beginning() {
        let none = history(&[], &[]);
        let first = [staged("a", 1, None)];
        assert_eq!(recover(&none, true, None, &[]), RecoveryDecision::Continue);
        assert_eq!(
            recover(&none, false, Some(BEGINNING), &first),
            RecoveryDecision::Continue
        );
        assert_eq!(recover(&none, false, Some("a"), &first), append(1, "a"));
    }

    #[test]
    fn a_lost_witness_stops_the_job_only_if_a_batch_depends_on_it() {
        let one = history(&[(1, "a")], &[]);
        assert_eq!(recover(&one, false, None, &[]), RecoveryDecision::Continue);
        let b = [staged("b", 2, Some("a"))];
        let lost = recover(&one, false, None, &b);
        assert!(
            matches!(lost, RecoveryDecision::Unclear { batch: 2, .. }),
            "{lost:?}"
        );
        let unknown = recover(&one, false, Some("z"), &b);
        assert!(
            matches!(unknown, RecoveryDecision::Unclear { .. }),
            "{unknown:?}"
        );
    }

    #[test]
    fn exact_1_a_new_sink_is_compared_with_batches_staged_for_it() {
        let one = history(&[(1, "a")], &[]);
        let recovered =
            |witness, staged: &[StagedVersion]| recover_in_new_sink(&one, witness, staged);
        // The witness is one of the sink before it.
        assert_eq!(recovered(Some("a"), &[]), RecoveryDecision::Continue);
        assert_eq!(recovered(None, &[]), RecoveryDecision::Continue);
        let own = [staged("b", 2, Some("a")), staged("c", 2, Some("a"))];
        assert_eq!(recovered(Some("a"), &own), RecoveryDecision::Continue);
        assert_eq!(recovered(Some("c"), &own), append(2, "c"));
    }

    #[test]
    fn the_user_may_assume_whether_a_batch_is_committed() {
        let resumed = |committed| LogEntry::Resumed {
            skipping_lost: false,
            lost: BTreeMap::default(),
            accepting: BTreeMap::default(),
            assuming: Some((2, committed)),
            at: 0,
        };
        let b = [staged("b", 2, Some("a"))];
        let yes = history(&[(1, "a")], &[resumed(true)]);
        assert_eq!(recover(&yes, false, None, &b), append(2, "b"));
        let no = history(&[(1, "a")], &[resumed(false)]);
        assert_eq!(recover(&no, false, None, &b), RecoveryDecision::Continue);
    }

    #[test]
    fn an_assumption_does_not_apply_to_later_batches() {
        let resumed = LogEntry::Resumed {
            skipping_lost: false,
            lost: BTreeMap::default(),
            accepting: BTreeMap::default(),
            assuming: Some((2, false)),
            at: 0,
        };
        let no = history(&[(1, "a")], &[resumed]);
        let meant = [staged("0000000001-b", 2, Some("a"))];
        assert_eq!(
            recover(&no, false, None, &meant),
            RecoveryDecision::Continue
        );
        let later = [staged("0000000004-c", 2, Some("a"))];
        let asked = recover(&no, false, None, &later);
        assert!(
            matches!(asked, RecoveryDecision::Unclear { batch: 2, .. }),
            "{asked:?}"
        );
    }

    #[test]
    fn an_older_data_directory_is_distinguished_from_an_unclear_log() {
        let old = history(&[(1, "0000000002-a")], &[]);
        assert_eq!(old.next, 2);
        let ahead = recover(&old, false, Some("0000000007-f"), &[]);
        let expected = RecoveryDecision::OlderLog {
            batch: 2,
            witness: "0000000007-f".into(),
        };
        assert_eq!(ahead, expected);
        let unclear = recover(&old, false, Some("0000000001-x"), &[]);
        assert!(
            matches!(unclear, RecoveryDecision::Unclear { .. }),
            "{unclear:?}"
        );
        // That it is committed does not help: the log does not have it. That its rows may come twice does.
        let resumed = |committed| LogEntry::Resumed {
            skipping_lost: false,
            lost: BTreeMap::default(),
            accepting: BTreeMap::default(),
            assuming: Some((2, committed)),
            at: 0,
        };
        let no = history(&[(1, "0000000002-a")], &[resumed(false)]);
        assert_eq!(
            recover(&no, false, Some("0000000007-f"), &[]),
            RecoveryDecision::Continue
        );
        let yes = history(&[(1, "0000000002-a")], &[resumed(true)]);
        assert_eq!(recover(&yes, false, Some("0000000007-f"), &[]), expected);
    }

    #[test]
    fn a_sink_that_was_restored_lacks_the_batches_after_its_witness() {
        let all = [
            (1, "0000000002-a"),
            (2, "0000000003-b"),
            (3, "0000000004-c"),
        ];
        let log = history(&all, &[]);
        let missing = |witness, keeps_all, rows: &[u64]| {
            let missing = missing_in_sink(&log, witness, keeps_all, rows);
            missing.map(|missing| (missing.first, missing.last))
        };
        assert_eq!(missing("0000000004-c", true, &[1, 1, 1]), None);
        assert_eq!(missing("0000000002-a", true, &[0, 0, 1]), Some((2, 3)));
        assert_eq!(missing(BEGINNING, true, &[0, 1, 1]), Some((1, 3)));
        // A table keeps none without rows.
        assert_eq!(missing("0000000002-a", false, &[0, 0, 1]), None);
        assert_eq!(missing("0000000002", false, &[0, 7, 1]), Some((2, 2)));
        // Earlier batches were written to another table.
        assert_eq!(missing(BEGINNING, false, &[0]), None);
        // An abandoned batch is newer than all that count.
        assert_eq!(missing("0000000009-x", true, &[1, 1, 1]), None);
    }

    #[test]
    fn exact_3_after_a_rewind_the_abandoned_batch_is_no_witness_of_a_new_one() {
        let rewound = history(
            &[(1, "a"), (2, "b"), (3, "c")],
            &[LogEntry::Rewound { to: 1, at: 0 }],
        );
        let staged_again = [staged("b", 2, Some("a")), staged("d", 2, Some("a"))];
        assert_eq!(
            recover(&rewound, false, Some("c"), &staged_again),
            RecoveryDecision::Continue
        );
        assert_eq!(
            recover(&rewound, false, Some("d"), &staged_again),
            append(2, "d")
        );
    }
}
