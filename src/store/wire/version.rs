//! Versions.
//!
//! In format 2 state belongs to an operator of the job, by its id, with the fingerprint of that operator; dead letters are in a
//! file of the version's name, of which the version has the checksum, as late rows are. Format 1 had one list of files, one
//! fingerprint, and dead letters in the version itself.
//!
//! No member of format 2 has the name of one of format 1 and another type: a program of format 1 parses a file before it looks at
//! its format, and is to say that the file is of a newer program, and not that it is damaged.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::format::{FORMAT, UnreadableFile, opened, parsed};
use super::parts::{
    ByPartition, ClockFile, CountsFile, DeadLetterFile, IdentityFile, LeftFile, MarkFile,
    ProgressFile, StateFileName, TimeFile, by_key, by_partition, is_zero,
};
use crate::core::jobs::{AGGREGATE, BatchVersion, LeftGroups, OperatorState};
use crate::error::Result;
use crate::store::checksum::seal;

/// Format 2.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct VersionFile {
    format: u32,
    batch: u64,
    generation: u64,
    sequence: u64,
    parent: Option<String>,
    sources: ByPartition<ProgressFile>,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    skipped: ByPartition<ProgressFile>,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    identities: BTreeMap<String, IdentityFile>,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    marks: ByPartition<MarkFile>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    sink: Option<IdentityFile>,
    rows_in: u64,
    #[serde(default, skip_serializing_if = "is_zero")]
    bytes_in: u64,
    rows_out: u64,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    published: BTreeMap<i32, ProgressFile>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    files: Vec<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    time: Option<TimeFile>,
    /// By the id of the operator.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    operators: BTreeMap<String, OperatorFile>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    dead_letters_file: Option<SetAside>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    late_rows_file: Option<SetAside>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    left: Option<LeftFile>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    compared: Option<CountsFile>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    clock: Option<ClockFile>,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    silent: ByPartition<u64>,
    started_at: i64,
    took: u64,
}

/// The state of one operator.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct OperatorFile {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    fingerprint: Option<String>,
    state: Vec<StateFileName>,
}

/// A file of the version's name.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct SetAside {
    rows: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    crc32: Option<u32>,
}

fn set_aside(rows: u64, crc32: Option<u32>) -> Option<SetAside> {
    (rows > 0).then_some(SetAside { rows, crc32 })
}

/// Format 1. Releases gave it more and more members: those that a file lacks are empty.
#[derive(Debug, Deserialize)]
struct FirstVersionFile {
    batch: u64,
    generation: u64,
    sequence: u64,
    parent: Option<String>,
    sources: ByPartition<ProgressFile>,
    #[serde(default)]
    skipped: ByPartition<ProgressFile>,
    #[serde(default)]
    identities: BTreeMap<String, IdentityFile>,
    #[serde(default)]
    marks: ByPartition<MarkFile>,
    #[serde(default)]
    sink: Option<IdentityFile>,
    rows_in: u64,
    #[serde(default)]
    bytes_in: u64,
    rows_out: u64,
    #[serde(default)]
    published: BTreeMap<i32, ProgressFile>,
    #[serde(default)]
    files: Vec<String>,
    #[serde(default)]
    dead_letters: Vec<DeadLetterFile>,
    #[serde(default)]
    time: Option<TimeFile>,
    #[serde(default)]
    state: Vec<StateFileName>,
    #[serde(default)]
    fingerprint: Option<String>,
    #[serde(default)]
    late_rows: u64,
    #[serde(default)]
    late_crc32: Option<u32>,
    #[serde(default)]
    clock: Option<ClockFile>,
    #[serde(default)]
    silent: ByPartition<u64>,
    started_at: i64,
    took: u64,
}

/// The file of a version.
pub(in crate::store) fn version_bytes(version: &BatchVersion) -> Result<Vec<u8>> {
    seal(&VersionFile::from(version.clone()))
}

/// The version of a file.
pub(in crate::store) fn read_version(bytes: &[u8]) -> Result<BatchVersion, UnreadableFile> {
    let (json, format) = opened(bytes)?;
    match format {
        1 => Ok(parsed::<FirstVersionFile>(&json, format)?.into()),
        _ => Ok(parsed::<VersionFile>(&json, format)?.into()),
    }
}

impl From<BatchVersion> for VersionFile {
    fn from(of: BatchVersion) -> Self {
        let operator = |state: OperatorState| OperatorFile {
            fingerprint: state.fingerprint,
            state: state.files.into_iter().map(Into::into).collect(),
        };
        Self {
            format: FORMAT,
            batch: of.batch,
            generation: of.generation,
            sequence: of.sequence,
            parent: of.parent,
            sources: by_partition(of.sources),
            skipped: by_partition(of.skipped),
            identities: by_key(of.identities),
            marks: by_partition(of.marks),
            sink: of.sink.map(Into::into),
            rows_in: of.rows_in,
            bytes_in: of.bytes_in,
            rows_out: of.rows_out,
            published: by_key(of.published),
            files: of.files,
            time: of.time.map(Into::into),
            operators: of
                .operators
                .into_iter()
                .map(|(id, state)| (id, operator(state)))
                .collect(),
            dead_letters_file: set_aside(of.dead_letters, of.dead_letters_crc32),
            late_rows_file: set_aside(of.late_rows, of.late_crc32),
            left: LeftFile::of(&of.left),
            compared: of.compared.map(Into::into),
            clock: of.clock.map(Into::into),
            silent: of.silent,
            started_at: of.started_at,
            took: of.took,
        }
    }
}

impl From<VersionFile> for BatchVersion {
    fn from(of: VersionFile) -> Self {
        let operator = |file: OperatorFile| OperatorState {
            fingerprint: file.fingerprint,
            files: file.state.into_iter().map(Into::into).collect(),
        };
        let rows = |of: Option<&SetAside>| of.map_or(0, |of| of.rows);
        Self {
            batch: of.batch,
            generation: of.generation,
            sequence: of.sequence,
            parent: of.parent,
            sources: by_partition(of.sources),
            skipped: by_partition(of.skipped),
            identities: by_key(of.identities),
            marks: by_partition(of.marks),
            sink: of.sink.map(Into::into),
            rows_in: of.rows_in,
            bytes_in: of.bytes_in,
            rows_out: of.rows_out,
            published: by_key(of.published),
            files: of.files,
            time: of.time.map(Into::into),
            operators: of
                .operators
                .into_iter()
                .map(|(id, file)| (id, operator(file)))
                .collect(),
            dead_letters: rows(of.dead_letters_file.as_ref()),
            dead_letters_crc32: of.dead_letters_file.and_then(|of| of.crc32),
            inline_dead_letters: Vec::new(),
            late_rows: rows(of.late_rows_file.as_ref()),
            late_crc32: of.late_rows_file.and_then(|of| of.crc32),
            left: of.left.map(Into::into).unwrap_or_default(),
            compared: of.compared.map(Into::into),
            clock: of.clock.map(Into::into),
            silent: of.silent,
            started_at: of.started_at,
            took: of.took,
        }
    }
}

impl From<FirstVersionFile> for BatchVersion {
    fn from(of: FirstVersionFile) -> Self {
        let files = of.state.into_iter().map(Into::into).collect();
        let state = OperatorState {
            fingerprint: of.fingerprint,
            files,
        };
        let mut operators = BTreeMap::new();
        if state != OperatorState::default() {
            operators.insert(AGGREGATE.to_owned(), state);
        }
        Self {
            batch: of.batch,
            generation: of.generation,
            sequence: of.sequence,
            parent: of.parent,
            sources: by_partition(of.sources),
            skipped: by_partition(of.skipped),
            identities: by_key(of.identities),
            marks: by_partition(of.marks),
            sink: of.sink.map(Into::into),
            rows_in: of.rows_in,
            bytes_in: of.bytes_in,
            rows_out: of.rows_out,
            published: by_key(of.published),
            files: of.files,
            time: of.time.map(Into::into),
            operators,
            dead_letters: of.dead_letters.len() as u64,
            dead_letters_crc32: None,
            inline_dead_letters: of.dead_letters.into_iter().map(Into::into).collect(),
            late_rows: of.late_rows,
            late_crc32: of.late_crc32,
            left: LeftGroups::default(),
            compared: None,
            clock: of.clock.map(Into::into),
            silent: of.silent,
            started_at: of.started_at,
            took: of.took,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::jobs::{
        ChangeCounts, ClockReading, Identity, JobTime, LeftGroup, LeftReason, PartitionTime,
        RecordMark, SourceProgress, StateFile, SteadyTime, UnfinishedVersion,
    };

    /// A version in which no member is empty.
    fn full() -> BatchVersion {
        let progress = SourceProgress { start: 3, end: 9 };
        let topic = Identity::Topic {
            topic: "t".into(),
            cluster: Some("c".into()),
            id: Some("i".into()),
        };
        let time = PartitionTime {
            watermark: Some(-5),
            idle: true,
            unfinished: Some(UnfinishedVersion {
                version: 4,
                watermark: 6,
            }),
        };
        let file = StateFile {
            name: "0000000002-a".into(),
            is_snapshot: true,
            closed_by: Some(7),
            rows: 2,
            bytes: 100,
            crc32: Some(8),
        };
        let state = |fingerprint: &str| OperatorState {
            fingerprint: Some(fingerprint.to_owned()),
            files: vec![file.clone()],
        };
        BatchVersion {
            batch: 1,
            generation: 2,
            sequence: 3,
            parent: Some("0000000001-z".into()),
            sources: [("t".to_owned(), [(0, progress)].into())].into(),
            skipped: [("t".to_owned(), [(1, progress)].into())].into(),
            identities: [("t".to_owned(), topic)].into(),
            marks: [(
                "t".to_owned(),
                [(
                    0,
                    RecordMark {
                        offset: 8,
                        timestamp: Some(1),
                        checksum: u64::MAX,
                    },
                )]
                .into(),
            )]
            .into(),
            sink: Some(Identity::DeltaTable {
                location: "s3://b/t/".into(),
                id: "x".into(),
            }),
            rows_in: 6,
            bytes_in: 60,
            rows_out: 5,
            published: [(0, progress)].into(),
            files: vec!["part.parquet".into()],
            time: Some(JobTime {
                partitions: [("t".to_owned(), [(0, time)].into())].into(),
                watermark: Some(1),
                closed_by: Some(2),
                clock: Some(3),
            }),
            operators: [
                (AGGREGATE.to_owned(), state("v2:one")),
                ("join".to_owned(), state("v2:other")),
            ]
            .into(),
            dead_letters: 2,
            dead_letters_crc32: Some(9),
            inline_dead_letters: Vec::new(),
            late_rows: 1,
            late_crc32: Some(10),
            left: LeftGroups::of(
                7,
                [LeftGroup {
                    start: 1,
                    end: 2,
                    key: "k = 1".into(),
                    reason: LeftReason::NotFinal,
                }],
            ),
            compared: Some(ChangeCounts {
                same: 14,
                changed: 15,
                new: 16,
                gone: 17,
                unknown: 18,
            }),
            clock: Some(ClockReading {
                at: 4,
                steady: SteadyTime {
                    boot: "b".into(),
                    at: 5,
                },
            }),
            silent: [("t".to_owned(), [(0, 11)].into())].into(),
            started_at: 12,
            took: 13,
        }
    }

    #[test]
    fn versions_read_back() {
        for version in [full(), BatchVersion::default()] {
            assert_eq!(
                read_version(&version_bytes(&version).unwrap()).unwrap(),
                version
            );
        }
    }

    #[test]
    fn a_version_of_the_first_format_is_read() {
        let text = r#"{"format":1,"batch":2,"generation":0,"sequence":3,"parent":null,"sources":{"t":{"0":{"start":0,"end":3}}},
            "rows_in":3,"rows_out":1,"state":[{"name":"a","is_snapshot":false,"closed_by":5,"rows":2,"bytes":10}],
            "fingerprint":"TUMBLE: …","dead_letters":[{"table":"t","topic":"t","partition":0,"offset":1,"timestamp":null,
            "key":null,"value":[123,255],"reason":"bad"}],"late_rows":1,"started_at":1,"took":2}"#;
        let version = read_version(text.as_bytes()).unwrap();
        let state = &version.operators[AGGREGATE];
        assert_eq!(state.fingerprint.as_deref(), Some("TUMBLE: …"));
        assert_eq!(state.files[0].name, "a");
        assert_eq!((version.dead_letters, version.late_rows), (1, 1));
        let letter = &version.inline_dead_letters[0];
        assert_eq!(letter.value.as_deref(), Some(&[123, 255][..]));
    }

    /// A program of format 1 parses a file of format 2 as its own, and then looks at the format.
    #[test]
    fn a_version_can_be_parsed_as_one_of_the_first_format() {
        let bytes = version_bytes(&full()).unwrap();
        let first: FirstVersionFile = serde_json::from_slice(&bytes).unwrap();
        assert_eq!((first.batch, first.dead_letters.len()), (1, 0));
    }

    #[test]
    fn unknown_members_are_refused_with_the_format_number() {
        let newer = br#"{"format":7,"anything":1}"#;
        assert_eq!(read_version(newer), Err(UnreadableFile::Newer(7)));
        assert!(UnreadableFile::Newer(7).to_string().contains("format 7"));
        let bytes = version_bytes(&full()).unwrap();
        let json = String::from_utf8(bytes).unwrap();
        let member = r#""format":2,"#;
        assert!(json.contains(member));
        let plain = json.replace(r#""checked_by":"crc32","#, "");
        let plain = plain[..plain.rfind(r#","crc32":""#).unwrap()].to_owned() + "}";
        assert_eq!(read_version(plain.as_bytes()).unwrap(), full());
        let more = plain.replace(member, r#""format":2,"encrypted_with":"k","#);
        let Err(UnreadableFile::Damaged(reason)) = read_version(more.as_bytes()) else {
            panic!("a member that is not known is ignored");
        };
        assert!(
            reason.contains("format 2") && reason.contains("encrypted_with"),
            "{reason}"
        );
        let inner = plain.replace(r#""boot":"b""#, r#""boot":"b","leap":1"#);
        assert!(read_version(inner.as_bytes()).is_err());
    }
}
