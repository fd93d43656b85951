//! Log of a job: its entries in order, and the state of the job that follows from them.
//!
//! Entry `n` is the n-th event of the job; entries are never changed. If two runners write the same number, one of them loses
//! and stops: so the log decides which runner owns a job.

use std::collections::{BTreeMap, BTreeSet};

use super::identity::{AcceptedChange, ReportedChange};
use super::progress::Gaps;
use super::run_event::{RunEvent, RunHistory, RunStage};
use super::text_history::{MakingText, TextHistory};

/// One thing that happened to a job. Times are milliseconds since 1970 UTC.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LogEntry {
    /// The job was created; always the first entry.
    Created {
        /// Its name in SQL.
        name: String,
        /// The statement, without secrets.
        text: String,
        /// The statements of the tables and views it uses, without secrets, in the order to run them.
        tables: Vec<String>,
        /// When.
        at: i64,
    },
    /// A runner took the job over; the runner before it must stop.
    Takeover {
        /// Host, process and a random part.
        owner: String,
        /// When.
        at: i64,
    },
    /// The sink has the rows of a batch.
    Committed {
        /// Its number; after a rewind the numbers are used again.
        batch: u64,
        /// The name of its version.
        version: String,
        /// When.
        at: i64,
    },
    /// The job continues from an earlier batch; later ones are abandoned.
    Rewound {
        /// The batch it continues from; 0 is the beginning.
        to: u64,
        /// When.
        at: i64,
    },
    /// The job does not run until it is resumed.
    Paused {
        /// Why, if not by a statement.
        reason: Option<String>,
        /// What a statement that resumes it may refer to.
        reported: Option<ReportedChange>,
        /// When.
        at: i64,
    },
    /// The job runs again.
    Resumed {
        /// The job skips, once, the offsets of `lost`, which the topic no longer has.
        skipping_lost: bool,
        /// What was reported as lost when this was said.
        lost: Gaps,
        /// What the user says of tables that are others than they were, by table.
        accepting: BTreeMap<String, AcceptedChange>,
        /// The user's decision about a batch whose outcome is unknown: its number, and whether the sink has it.
        assuming: Option<(u64, bool)>,
        /// When.
        at: i64,
    },
    /// The job's statement was replaced by another one that keeps the state.
    Replaced {
        /// The statement, without secrets.
        text: String,
        /// The statements of the tables and views it uses.
        tables: Vec<String>,
        /// When.
        at: i64,
    },
    /// The job was dropped.
    Dropped {
        /// When.
        at: i64,
    },
    /// Earlier batches can no longer be the target of a rewind, and their files may be deleted.
    Trimmed {
        /// The oldest batch that stays.
        oldest: u64,
        /// All packs that hold late rows and dead letters of batches that were trimmed.
        packs: Vec<String>,
        /// When.
        at: i64,
    },
    /// Something that happens to reprocessing runs only.
    Run {
        /// What.
        event: RunEvent,
        /// When.
        at: i64,
    },
}

/// The number of the log entry for which a version was written: names of versions begin with it.
pub fn sequence_of(version: &str) -> Option<u64> {
    version.split('-').next()?.parse().ok()
}

/// Whether a version, or a file of that name, was written for an entry before `number`.
pub fn is_older(name: &str, number: u64) -> bool {
    sequence_of(name).is_some_and(|own| own < number)
}

/// A committed batch that has not been abandoned.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BatchCommit {
    /// Its number.
    pub batch: u64,
    /// The name of its version.
    pub version: String,
    /// When, in milliseconds since 1970 UTC.
    pub at: i64,
}

/// Whether a job is to run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum JobPhase {
    /// It should run, and does if a runner has it.
    Active,
    /// It waits for RESUME JOB; with the reason if the job stopped by itself.
    Paused(Option<String>),
    /// It was dropped.
    Dropped,
}

/// What follows from a log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JobHistory {
    /// The name in SQL.
    pub name: String,
    /// The current statement of the job.
    pub text: String,
    /// The statements of the tables it uses.
    pub tables: Vec<String>,
    /// The statements that it had before.
    pub texts: TextHistory,
    /// When it was created.
    pub created_at: i64,
    /// How often it was rewound.
    pub generation: u64,
    /// The committed batches that were not abandoned, in order.
    pub batches: Vec<BatchCommit>,
    /// Versions that a rewind has abandoned and whose rows a sink may still have, because no batch was committed since.
    pub abandoned: Vec<String>,
    /// Whether it should run.
    pub phase: JobPhase,
    /// The runner that took it over last.
    pub owner: Option<String>,
    /// What the job has reported last, and no batch was committed since.
    pub reported: ReportedChange,
    /// RESUME JOB … SKIPPING LOST was said of these offsets, and no batch was committed since.
    pub skipping: Gaps,
    /// RESUME JOB … ACCEPTING was said of these tables, and no batch was committed since.
    pub accepted: BTreeMap<String, AcceptedChange>,
    /// The batch of the last RESUME JOB … ASSUMING BATCH, if no batch was committed since.
    pub assuming: Option<(u64, bool)>,
    /// The number of that entry: the statement does not apply to versions that were staged later.
    pub assumed_at: u64,
    /// The number of the entry to be written next.
    pub next: u64,
    /// The id of the entry before that one; none if it is not known, or was written without.
    pub last_entry: Option<String>,
    /// Every version that was committed, abandoned ones included, from number [`Self::settled`] on.
    pub(crate) known: BTreeSet<String>,
    /// No version of a lower number will ever be committed: what a sink has of them, it had when the log said so. Their
    /// files may go, but for state that later ones go on from.
    pub settled: u64,
    /// Packs with the late rows and dead letters of batches that are gone.
    pub packs: Vec<String>,
    /// Where the checkpoint stands that this was read from; 0 if from the whole log.
    pub checkpoint: u64,
    /// What only a reprocessing run has; none before its first event, and of a job.
    pub run: Option<RunHistory>,
}

impl JobHistory {
    /// Folds the entries of a log; `None` if it does not begin with [`LogEntry::Created`].
    pub fn of(entries: &[LogEntry]) -> Option<Self> {
        let (first, rest) = entries.split_first()?;
        let LogEntry::Created {
            name,
            text,
            tables,
            at,
        } = first
        else {
            return None;
        };
        let mut history = Self {
            name: name.clone(),
            text: text.clone(),
            tables: tables.clone(),
            texts: TextHistory::default(),
            created_at: *at,
            generation: 0,
            batches: Vec::new(),
            abandoned: Vec::new(),
            phase: JobPhase::Active,
            owner: None,
            reported: ReportedChange::default(),
            skipping: Gaps::new(),
            accepted: BTreeMap::new(),
            assuming: None,
            assumed_at: 0,
            next: 1,
            last_entry: None,
            known: BTreeSet::new(),
            settled: 0,
            packs: Vec::new(),
            checkpoint: 0,
            run: None,
        };
        for entry in rest {
            history.apply(entry);
        }
        Some(history)
    }

    /// Takes in the next entry, whose id is not known.
    pub fn apply(&mut self, entry: &LogEntry) {
        self.next += 1;
        self.last_entry = None;
        match entry {
            // Only the first entry counts.
            LogEntry::Created { .. } => {}
            LogEntry::Takeover { owner, .. } => self.owner = Some(owner.clone()),
            LogEntry::Committed { batch, version, at } => {
                self.known.insert(version.clone());
                self.batches.push(BatchCommit {
                    batch: *batch,
                    version: version.clone(),
                    at: *at,
                });
                self.reported = ReportedChange::default();
                self.skipping.clear();
                self.accepted.clear();
                self.assuming = None;
                self.abandoned.clear();
            }
            LogEntry::Rewound { to, .. } => {
                self.generation += 1;
                let stays = self.batches.partition_point(|batch| batch.batch <= *to);
                let abandoned = self.batches.drain(stays..);
                self.abandoned.extend(abandoned.map(|batch| batch.version));
            }
            // A dropped job stays dropped.
            LogEntry::Paused { .. } | LogEntry::Resumed { .. }
                if self.phase == JobPhase::Dropped => {}
            LogEntry::Paused {
                reason, reported, ..
            } => {
                self.phase = JobPhase::Paused(reason.clone());
                if let Some(reported) = reported {
                    self.reported = reported.clone();
                }
            }
            LogEntry::Resumed {
                skipping_lost,
                lost,
                accepting,
                assuming,
                ..
            } => {
                self.phase = JobPhase::Active;
                // Earlier decisions still apply: the next batch carries out all of them.
                self.accepted.extend(
                    accepting
                        .iter()
                        .map(|(table, what)| (table.clone(), what.clone())),
                );
                if *skipping_lost {
                    for (table, partitions) in lost {
                        self.skipping
                            .entry(table.clone())
                            .or_default()
                            .extend(partitions);
                    }
                }
                self.assuming = *assuming;
                self.assumed_at = self.next - 1;
            }
            LogEntry::Replaced { text, tables, .. } => {
                let before = std::mem::replace(&mut self.text, text.clone());
                let tables = std::mem::replace(&mut self.tables, tables.clone());
                self.texts.replace(before, tables, self.next - 1);
            }
            LogEntry::Dropped { .. } => self.phase = JobPhase::Dropped,
            LogEntry::Trimmed { oldest, packs, .. } => self.trim(*oldest, packs),
            LogEntry::Run { event, at } => self.run.get_or_insert_default().apply(event, *at),
        }
    }

    fn trim(&mut self, oldest: u64, packs: &[String]) {
        let gone = self.batches.partition_point(|batch| batch.batch < oldest);
        self.batches
            .drain(..gone.min(self.batches.len().saturating_sub(1)));
        self.packs = packs.to_vec();
        // Numbers of versions ascend in the order of commits. A runner that takes the job over brings the log up to date before
        // it commits a batch of its own, and it fences the writers of versions that the sink did not have by then.
        let first = self.batches.first();
        if let Some(settled) = first.and_then(|first| sequence_of(&first.version)) {
            self.settled = self.settled.max(settled);
        }
        let settled = self.settled;
        self.texts.trim(settled);
        self.known.retain(|name| !is_older(name, settled));
    }

    /// Whether the log is that of a run which has ended: nothing is written for it any more.
    pub fn is_over(&self) -> bool {
        let stage = self.run.as_ref().map(|run| run.stage);
        matches!(stage, Some(RunStage::Completed | RunStage::Aborted))
    }

    /// The statement that made a version.
    pub fn text_of(&self, version: &str) -> MakingText<'_> {
        match sequence_of(version) {
            Some(sequence) => self.texts.at(sequence),
            None => MakingText::Unknown,
        }
    }

    /// The oldest batch that the job can be rewound to; 0 is its beginning.
    pub fn oldest(&self) -> u64 {
        match self.batches.first() {
            Some(first) if self.settled > 0 => first.batch,
            _ => 0,
        }
    }

    /// The last committed batch that was not abandoned.
    pub fn last(&self) -> Option<&BatchCommit> {
        self.batches.last()
    }

    /// The number of the batch to be run next; the first is 1.
    pub fn next_batch(&self) -> u64 {
        self.last().map_or(1, |committed| committed.batch + 1)
    }

    /// The names of all versions that were committed and may have files.
    pub fn known(&self) -> impl Iterator<Item = &str> {
        self.known.iter().map(String::as_str)
    }

    /// Whether a version was ever committed, even if it was abandoned since.
    pub fn was_committed(&self, version: &str) -> bool {
        self.known.contains(version) || is_older(version, self.settled)
    }
}

#[cfg(test)]
mod tests {
    use super::super::progress::SourceProgress;
    use super::*;

    fn created() -> LogEntry {
        LogEntry::Created {
            name: "j".into(),
            text: "CREATE JOB j …".into(),
            tables: vec![],
            at: 0,
        }
    }

    fn committed(batch: u64, version: &str) -> LogEntry {
        LogEntry::Committed {
            batch,
            version: version.into(),
            at: 0,
        }
    }

    #[test]
    fn a_rewind_reuses_batch_numbers_and_keeps_abandoned_batches() {
        let entries = [
            created(),
            committed(1, "a"),
            committed(2, "b"),
            committed(3, "c"),
            LogEntry::Rewound { to: 1, at: 0 },
            committed(2, "d"),
        ];
        let history = JobHistory::of(&entries).unwrap();
        let batches: Vec<(u64, &str)> = history
            .batches
            .iter()
            .map(|committed| (committed.batch, committed.version.as_str()))
            .collect();
        assert_eq!(batches, [(1, "a"), (2, "d")]);
        assert_eq!((history.generation, history.next_batch()), (1, 3));
        assert_eq!(history.next, 6);
        assert!(history.was_committed("c"));
        assert!(!history.was_committed("e"));
        let before = JobHistory::of(&entries[..5]).unwrap();
        assert_eq!(before.abandoned, ["b", "c"], "until something is committed");
        assert_eq!(history.abandoned, Vec::<String>::new());
    }

    #[test]
    fn pause_and_resume_set_the_phase() {
        let gap = SourceProgress { start: 3, end: 9 };
        let lost: Gaps = [("t".to_owned(), [(0, gap)].into())].into();
        let paused = LogEntry::Paused {
            reason: Some("lost offsets".into()),
            reported: Some(ReportedChange {
                lost: lost.clone(),
                ..ReportedChange::default()
            }),
            at: 0,
        };
        let resumed = LogEntry::Resumed {
            skipping_lost: true,
            lost: lost.clone(),
            accepting: BTreeMap::new(),
            assuming: None,
            at: 0,
        };
        let mut history = JobHistory::of(&[created(), paused]).unwrap();
        assert_eq!(history.phase, JobPhase::Paused(Some("lost offsets".into())));
        assert_eq!(history.reported.lost, lost);
        history.apply(&resumed);
        assert_eq!(history.phase, JobPhase::Active);
        assert_eq!(history.skipping, lost);
        // The decision holds for one batch, also if other entries come before that batch.
        history.apply(&LogEntry::Paused {
            reason: None,
            reported: None,
            at: 0,
        });
        history.apply(&LogEntry::Resumed {
            skipping_lost: false,
            lost: Gaps::new(),
            accepting: BTreeMap::new(),
            assuming: None,
            at: 0,
        });
        assert_eq!((&history.skipping, &history.reported.lost), (&lost, &lost));
        history.apply(&committed(1, "a"));
        assert_eq!(history.skipping, Gaps::new());
        assert_eq!(history.reported, ReportedChange::default());
    }

    #[test]
    fn batches_that_are_trimmed_are_known_by_their_number() {
        let name = |number: u64| format!("{number:010}-v");
        let mut entries = vec![created()];
        entries.extend((1..=5).map(|number| committed(number, &name(number))));
        entries.push(LogEntry::Trimmed {
            oldest: 4,
            packs: vec!["p".into()],
            at: 0,
        });
        let mut history = JobHistory::of(&entries).unwrap();
        let left = |history: &JobHistory| -> Vec<u64> {
            history.batches.iter().map(|batch| batch.batch).collect()
        };
        assert_eq!(left(&history), [4, 5]);
        assert_eq!((history.oldest(), history.settled), (4, 4));
        assert_eq!(history.packs, ["p"]);
        assert_eq!(history.known().collect::<Vec<_>>(), [name(4), name(5)]);
        // A sink without rows since then names an old one, perhaps by its number alone.
        assert!(history.was_committed(&name(2)) && history.was_committed("0000000002"));
        assert!(!history.was_committed(&name(6)));
        // The last batch always stays, and a rewind starts from the remaining batches.
        history.apply(&LogEntry::Trimmed {
            oldest: 9,
            packs: vec![],
            at: 0,
        });
        assert_eq!((left(&history), history.oldest()), (vec![5], 5));
        history.apply(&committed(6, &name(12)));
        history.apply(&LogEntry::Rewound { to: 5, at: 0 });
        assert_eq!((left(&history), history.next_batch()), (vec![5], 6));
        assert_eq!(history.abandoned, [name(12)]);
    }

    #[test]
    fn a_dropped_job_stays_dropped() {
        let mut history = JobHistory::of(&[created(), LogEntry::Dropped { at: 0 }]).unwrap();
        for entry in [
            LogEntry::Paused {
                reason: Some("it was dropped".into()),
                reported: None,
                at: 0,
            },
            LogEntry::Resumed {
                skipping_lost: false,
                lost: Gaps::new(),
                accepting: BTreeMap::new(),
                assuming: None,
                at: 0,
            },
        ] {
            history.apply(&entry);
            assert_eq!(history.phase, JobPhase::Dropped);
        }
    }

    #[test]
    fn a_log_begins_with_a_created_entry() {
        assert_eq!(JobHistory::of(&[]), None);
        assert_eq!(JobHistory::of(&[committed(1, "a")]), None);
    }
}
