//! Entries of a log.
//!
//! Format 2 has the members `format` and `id` before those of format 1. The id is random: who appends the next entry asks for this
//! one by it, and knows that nothing was deleted meanwhile.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::format::{FORMAT, UnreadableFile, not_of_format, opened, parsed};
use super::parts::{AcceptedFile, GapFile, ReportedFile, by_key, gap_list, gaps_of};
use super::run_event::EventFile;
use crate::core::jobs::LogEntry;
use crate::error::Result;
use crate::store::checksum::seal;

/// An entry that was read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::store) struct StoredEntry {
    pub(in crate::store) entry: LogEntry,
    /// None of format 1.
    pub(in crate::store) id: Option<String>,
}

/// What both formats have; format 1 has nothing else.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(tag = "entry", rename_all = "snake_case", deny_unknown_fields)]
enum EntryFile {
    Created {
        name: String,
        text: String,
        tables: Vec<String>,
        at: i64,
    },
    Takeover {
        owner: String,
        at: i64,
    },
    Committed {
        batch: u64,
        version: String,
        at: i64,
    },
    Rewound {
        to: u64,
        at: i64,
    },
    Paused {
        reason: Option<String>,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        reported: Option<ReportedFile>,
        at: i64,
    },
    Resumed {
        skipping_lost: bool,
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        lost: Vec<GapFile>,
        #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
        accepting: BTreeMap<String, AcceptedFile>,
        assuming: Option<(u64, bool)>,
        at: i64,
    },
    Replaced {
        text: String,
        tables: Vec<String>,
        at: i64,
    },
    Dropped {
        at: i64,
    },
    Trimmed {
        oldest: u64,
        packs: Vec<String>,
        at: i64,
    },
    /// Only logs of runs have it, which programs without runs do not read.
    Run {
        event: EventFile,
        at: i64,
    },
}

#[derive(Debug, Serialize)]
struct WrittenEntry<'a> {
    format: u32,
    id: &'a str,
    #[serde(flatten)]
    entry: EntryFile,
}

/// The file of an entry.
pub(in crate::store) fn entry_bytes(entry: &LogEntry, id: &str) -> Result<Vec<u8>> {
    seal(&WrittenEntry {
        format: FORMAT,
        id,
        entry: entry.clone().into(),
    })
}

/// The entry of a file.
pub(in crate::store) fn read_entry(bytes: &[u8]) -> Result<StoredEntry, UnreadableFile> {
    let (json, format) = opened(bytes)?;
    let mut members: Map<String, Value> = parsed(&json, format)?;
    let mut id = None;
    if format > 1 {
        members.remove("format");
        id = match members.remove("id") {
            Some(Value::String(id)) => Some(id),
            _ => return Err(not_of_format(format, &"it has no id")),
        };
    }
    let entry = EntryFile::deserialize(Value::Object(members));
    let entry = entry.map_err(|error| not_of_format(format, &error))?;
    Ok(StoredEntry {
        entry: entry.into(),
        id,
    })
}

impl From<LogEntry> for EntryFile {
    fn from(of: LogEntry) -> Self {
        match of {
            LogEntry::Created {
                name,
                text,
                tables,
                at,
            } => Self::Created {
                name,
                text,
                tables,
                at,
            },
            LogEntry::Takeover { owner, at } => Self::Takeover { owner, at },
            LogEntry::Committed { batch, version, at } => Self::Committed { batch, version, at },
            LogEntry::Rewound { to, at } => Self::Rewound { to, at },
            LogEntry::Paused {
                reason,
                reported,
                at,
            } => Self::Paused {
                reason,
                reported: reported.map(Into::into),
                at,
            },
            LogEntry::Resumed {
                skipping_lost,
                lost,
                accepting,
                assuming,
                at,
            } => Self::Resumed {
                skipping_lost,
                lost: gap_list(&lost),
                accepting: by_key(accepting),
                assuming,
                at,
            },
            LogEntry::Replaced { text, tables, at } => Self::Replaced { text, tables, at },
            LogEntry::Dropped { at } => Self::Dropped { at },
            LogEntry::Trimmed { oldest, packs, at } => Self::Trimmed { oldest, packs, at },
            LogEntry::Run { event, at } => Self::Run {
                event: event.into(),
                at,
            },
        }
    }
}

impl From<EntryFile> for LogEntry {
    fn from(of: EntryFile) -> Self {
        match of {
            EntryFile::Created {
                name,
                text,
                tables,
                at,
            } => Self::Created {
                name,
                text,
                tables,
                at,
            },
            EntryFile::Takeover { owner, at } => Self::Takeover { owner, at },
            EntryFile::Committed { batch, version, at } => Self::Committed { batch, version, at },
            EntryFile::Rewound { to, at } => Self::Rewound { to, at },
            EntryFile::Paused {
                reason,
                reported,
                at,
            } => Self::Paused {
                reason,
                reported: reported.map(Into::into),
                at,
            },
            EntryFile::Resumed {
                skipping_lost,
                lost,
                accepting,
                assuming,
                at,
            } => Self::Resumed {
                skipping_lost,
                lost: gaps_of(lost),
                accepting: by_key(accepting),
                assuming,
                at,
            },
            EntryFile::Replaced { text, tables, at } => Self::Replaced { text, tables, at },
            EntryFile::Dropped { at } => Self::Dropped { at },
            EntryFile::Trimmed { oldest, packs, at } => Self::Trimmed { oldest, packs, at },
            EntryFile::Run { event, at } => Self::Run {
                event: event.into(),
                at,
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::jobs::{
        AcceptedChange, Gaps, Identity, JobHistory, JobPhase, ReportedChange, SourceProgress,
    };
    use crate::store::wire::run_event::every_event;

    fn every_entry() -> Vec<LogEntry> {
        let other = Identity::Topic {
            topic: "t".into(),
            cluster: Some("c".into()),
            id: None,
        };
        let lost: Gaps = [(
            "t".to_owned(),
            [(7, SourceProgress { start: 3, end: 9 })].into(),
        )]
        .into();
        let accepted = AcceptedChange {
            identity: other.clone(),
            is_moved: true,
        };
        let texts = vec!["CREATE EXTERNAL TABLE …".to_owned()];
        let of_run = every_event().into_iter();
        let of_run = of_run.map(|event| LogEntry::Run { event, at: 11 });
        let of_job = vec![
            LogEntry::Created {
                name: "j".into(),
                text: "CREATE JOB …".into(),
                tables: texts.clone(),
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
            LogEntry::Rewound { to: 0, at: 4 },
            LogEntry::Paused {
                reason: Some("gone".into()),
                reported: Some(ReportedChange {
                    lost: lost.clone(),
                    others: [("u".to_owned(), other)].into(),
                }),
                at: 5,
            },
            LogEntry::Paused {
                reason: None,
                reported: None,
                at: 5,
            },
            LogEntry::Resumed {
                skipping_lost: true,
                lost,
                accepting: [("u".to_owned(), accepted)].into(),
                assuming: Some((4, true)),
                at: 7,
            },
            LogEntry::Replaced {
                text: "CREATE JOB …".into(),
                tables: texts,
                at: 8,
            },
            LogEntry::Dropped { at: 9 },
            LogEntry::Trimmed {
                oldest: 3,
                packs: vec!["p".into()],
                at: 10,
            },
        ];
        of_job.into_iter().chain(of_run).collect()
    }

    #[test]
    fn entries_read_back_in_both_formats() {
        for entry in every_entry() {
            let read = read_entry(&entry_bytes(&entry, "one").unwrap()).unwrap();
            let id = Some("one".to_owned());
            assert_eq!(
                read,
                StoredEntry {
                    entry: entry.clone(),
                    id
                }
            );
            let first = seal(&EntryFile::from(entry.clone())).unwrap();
            assert_eq!(read_entry(&first).unwrap(), StoredEntry { entry, id: None });
        }
    }

    #[test]
    fn entries_of_earlier_releases_are_read() {
        let created = r#"{"entry":"created","name":"j","text":"t","tables":[],"at":0}"#;
        let paused = r#"{"entry":"paused","reason":"gone","at":1}"#;
        let resumed = r#"{"entry":"resumed","skipping_lost":true,"assuming":null,"at":2}"#;
        let entries: Vec<LogEntry> = [created, paused, resumed]
            .into_iter()
            .map(|text| read_entry(text.as_bytes()).unwrap().entry)
            .collect();
        let history = JobHistory::of(&entries).unwrap();
        assert_eq!(history.phase, JobPhase::Active);
        assert_eq!(history.skipping, Gaps::new(), "nothing was reported");
    }

    #[test]
    fn unknown_members_are_refused_with_the_format_number() {
        let newer = r#"{"format":3,"entry":"forked","of":7}"#;
        assert_eq!(read_entry(newer.as_bytes()), Err(UnreadableFile::Newer(3)));
        for text in [
            r#"{"format":2,"id":"x","entry":"dropped","at":1,"by":"me"}"#,
            r#"{"format":2,"id":"x","entry":"forked","at":1}"#,
            r#"{"format":2,"id":"x","entry":"run","event":"forked","at":1}"#,
            r#"{"format":2,"id":"x","entry":"run","event":{"compared":{"extent":{"time":{"from":0,"to":1}},"by":1}},"at":1}"#,
            r#"{"format":2,"entry":"dropped","at":1}"#,
        ] {
            let Err(UnreadableFile::Damaged(reason)) = read_entry(text.as_bytes()) else {
                panic!("{text} is read");
            };
            assert!(reason.contains("format 2"), "{reason}");
        }
    }
}
