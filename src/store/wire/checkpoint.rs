//! Checkpoints: what follows from the entries of a log before a number.
//!
//! Format 2 has the id of the last of these entries.

use std::collections::{BTreeMap, BTreeSet};

use serde::de::IgnoredAny;
use serde::{Deserialize, Serialize};

use super::format::{FORMAT, UnreadableFile, opened, parsed};
use super::parts::{AcceptedFile, ByPartition, ProgressFile, ReportedFile, by_key, by_partition};
use super::run_event::RunFile;
use crate::core::jobs::{BatchCommit, JobHistory, JobPhase, ReplacedText, TextHistory};
use crate::error::Result;
use crate::store::checksum::seal;

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct CheckpointFile {
    format: u32,
    history: HistoryFile,
}

/// Members that earlier releases did not have are empty where they lack.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct HistoryFile {
    name: String,
    text: String,
    tables: Vec<String>,
    created_at: i64,
    generation: u64,
    batches: Vec<CommittedFile>,
    abandoned: Vec<String>,
    phase: PhaseFile,
    owner: Option<String>,
    #[serde(default)]
    reported: ReportedFile,
    #[serde(default)]
    skipping: ByPartition<ProgressFile>,
    #[serde(default)]
    accepted: BTreeMap<String, AcceptedFile>,
    assuming: Option<(u64, bool)>,
    assumed_at: u64,
    next: u64,
    known: BTreeSet<String>,
    #[serde(default)]
    settled: u64,
    #[serde(default)]
    packs: Vec<String>,
    /// The id of entry `next - 1`; none if that is of format 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    last_entry: Option<String>,
    /// Of a reprocessing run.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    run: Option<RunFile>,
    /// The statements before `text`; a file that lacks them does not know whether there were any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    texts: Option<TextsFile>,
    /// A member of checkpoints that early releases of format 1 wrote; it is not needed any more.
    #[serde(default, skip_serializing)]
    #[expect(dead_code, reason = "it is read to be known, and left out")]
    skipping_lost: IgnoredAny,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct CommittedFile {
    batch: u64,
    version: String,
    at: i64,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct TextsFile {
    replaced: Vec<ReplacedTextFile>,
    known_from: u64,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct ReplacedTextFile {
    text: String,
    tables: Vec<String>,
    until: u64,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum PhaseFile {
    Active,
    Paused(Option<String>),
    Dropped,
}

/// The file of a checkpoint.
pub(in crate::store) fn checkpoint_bytes(history: &JobHistory) -> Result<Vec<u8>> {
    seal(&CheckpointFile {
        format: FORMAT,
        history: history.clone().into(),
    })
}

/// The history of a checkpoint, which stands at `number`.
pub(in crate::store) fn read_checkpoint(
    bytes: &[u8],
    number: u64,
) -> Result<JobHistory, UnreadableFile> {
    let (json, format) = opened(bytes)?;
    let file: CheckpointFile = parsed(&json, format)?;
    let mut history = JobHistory::from(file.history);
    history.checkpoint = number;
    Ok(history)
}

impl From<JobHistory> for HistoryFile {
    fn from(of: JobHistory) -> Self {
        let committed = |of: BatchCommit| CommittedFile {
            batch: of.batch,
            version: of.version,
            at: of.at,
        };
        Self {
            name: of.name,
            text: of.text,
            tables: of.tables,
            created_at: of.created_at,
            generation: of.generation,
            batches: of.batches.into_iter().map(committed).collect(),
            abandoned: of.abandoned,
            phase: match of.phase {
                JobPhase::Active => PhaseFile::Active,
                JobPhase::Paused(reason) => PhaseFile::Paused(reason),
                JobPhase::Dropped => PhaseFile::Dropped,
            },
            owner: of.owner,
            reported: of.reported.into(),
            skipping: by_partition(of.skipping),
            accepted: by_key(of.accepted),
            assuming: of.assuming,
            assumed_at: of.assumed_at,
            next: of.next,
            known: of.known,
            settled: of.settled,
            packs: of.packs,
            last_entry: of.last_entry,
            run: of.run.map(Into::into),
            texts: texts_file(of.texts, of.next),
            skipping_lost: IgnoredAny,
        }
    }
}

/// None if no statement is known but the one at entry `next`.
fn texts_file(of: TextHistory, next: u64) -> Option<TextsFile> {
    if of.replaced.is_empty() && of.known_from == next {
        return None;
    }
    let replaced = of.replaced.into_iter().map(|of| ReplacedTextFile {
        text: of.text,
        tables: of.tables,
        until: of.until,
    });
    Some(TextsFile {
        replaced: replaced.collect(),
        known_from: of.known_from,
    })
}

fn texts_of(file: Option<TextsFile>, next: u64) -> TextHistory {
    let Some(file) = file else {
        return TextHistory {
            replaced: Vec::new(),
            known_from: next,
        };
    };
    let replaced = file.replaced.into_iter().map(|of| ReplacedText {
        text: of.text,
        tables: of.tables,
        until: of.until,
    });
    TextHistory {
        replaced: replaced.collect(),
        known_from: file.known_from,
    }
}

impl From<HistoryFile> for JobHistory {
    fn from(of: HistoryFile) -> Self {
        let committed = |of: CommittedFile| BatchCommit {
            batch: of.batch,
            version: of.version,
            at: of.at,
        };
        Self {
            name: of.name,
            text: of.text,
            tables: of.tables,
            created_at: of.created_at,
            generation: of.generation,
            batches: of.batches.into_iter().map(committed).collect(),
            abandoned: of.abandoned,
            phase: match of.phase {
                PhaseFile::Active => JobPhase::Active,
                PhaseFile::Paused(reason) => JobPhase::Paused(reason),
                PhaseFile::Dropped => JobPhase::Dropped,
            },
            owner: of.owner,
            reported: of.reported.into(),
            skipping: by_partition(of.skipping),
            accepted: by_key(of.accepted),
            assuming: of.assuming,
            assumed_at: of.assumed_at,
            next: of.next,
            known: of.known,
            settled: of.settled,
            packs: of.packs,
            last_entry: of.last_entry,
            checkpoint: 0,
            run: of.run.map(Into::into),
            texts: texts_of(of.texts, of.next),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::jobs::{
        AcceptedChange, Gaps, Identity, LogEntry, MakingText, ReportedChange, SourceProgress,
    };
    use crate::store::wire::run_event::every_event;

    #[test]
    fn checkpoints_read_back() {
        let gaps: Gaps = [(
            "t".to_owned(),
            [(7, SourceProgress { start: 3, end: 9 })].into(),
        )]
        .into();
        let other = Identity::DeltaTable {
            location: "file:///a/".into(),
            id: "x".into(),
        };
        let accepted = AcceptedChange {
            identity: other.clone(),
            is_moved: false,
        };
        let entries = [
            LogEntry::Created {
                name: "j".into(),
                text: "CREATE JOB …".into(),
                tables: vec!["t".into()],
                at: 1,
            },
            LogEntry::Takeover {
                owner: "me".into(),
                at: 2,
            },
            LogEntry::Committed {
                batch: 1,
                version: "0000000002-a".into(),
                at: 3,
            },
            LogEntry::Committed {
                batch: 2,
                version: "0000000003-b".into(),
                at: 4,
            },
            LogEntry::Rewound { to: 1, at: 5 },
            LogEntry::Resumed {
                skipping_lost: true,
                lost: gaps.clone(),
                accepting: [("u".to_owned(), accepted)].into(),
                assuming: Some((2, false)),
                at: 6,
            },
            LogEntry::Trimmed {
                oldest: 1,
                packs: vec!["0000000006-p".into()],
                at: 7,
            },
            LogEntry::Paused {
                reason: Some("gone".into()),
                reported: Some(ReportedChange {
                    lost: gaps,
                    others: [("u".to_owned(), other)].into(),
                }),
                at: 8,
            },
            LogEntry::Replaced {
                text: "CREATE OR REPLACE JOB …".into(),
                tables: vec!["u".into()],
                at: 9,
            },
        ];
        let mut history = JobHistory::of(&entries).unwrap();
        history.last_entry = Some("id".into());
        history.checkpoint = history.next;
        let bytes = checkpoint_bytes(&history).unwrap();
        assert_eq!(read_checkpoint(&bytes, history.next).unwrap(), history);
        // Format 1 did not have the id, and was the same else.
        let mut first = history.clone();
        first.last_entry = None;
        let file = CheckpointFile {
            format: 1,
            history: first.clone().into(),
        };
        let read = read_checkpoint(&seal(&file).unwrap(), history.next);
        assert_eq!(read.unwrap(), first);
        // The early releases of format 1 wrote a flag instead of what is skipped and accepted.
        let mut early = serde_json::to_value(&file).unwrap();
        let members = early["history"].as_object_mut().unwrap();
        for later in ["reported", "skipping", "accepted", "settled", "packs"] {
            assert!(members.remove(later).is_some(), "{later}");
        }
        members.insert("skipping_lost".to_owned(), true.into());
        let read = read_checkpoint(&seal(&early).unwrap(), history.next).unwrap();
        assert_eq!((&read.name, read.next), (&first.name, first.next));
        assert_eq!(read.batches, first.batches);
        // Earlier releases did not keep the statements before the last one.
        assert_eq!(history.texts.replaced.len(), 1);
        let mut without = serde_json::to_value(&file).unwrap();
        let members = without["history"].as_object_mut().unwrap();
        assert!(members.remove("texts").is_some());
        let read = read_checkpoint(&seal(&without).unwrap(), history.next).unwrap();
        assert_eq!(read.text_of("0000000002-a"), MakingText::Unknown);
        let again = serde_json::to_value(HistoryFile::from(read)).unwrap();
        assert_eq!(again.get("texts"), None);
        let newer = CheckpointFile {
            format: 3,
            history: first.into(),
        };
        let read = read_checkpoint(&seal(&newer).unwrap(), history.next);
        assert_eq!(read, Err(UnreadableFile::Newer(3)));
    }

    #[test]
    fn checkpoints_of_runs_read_back() {
        let created = LogEntry::Created {
            name: "r".into(),
            text: "CREATE JOB …".into(),
            tables: vec![],
            at: 1,
        };
        for event in every_event() {
            let of_run = LogEntry::Run { event, at: 2 };
            let mut history = JobHistory::of(&[created.clone(), of_run]).unwrap();
            history.checkpoint = history.next;
            let bytes = checkpoint_bytes(&history).unwrap();
            assert_eq!(read_checkpoint(&bytes, history.next).unwrap(), history);
        }
    }
}
