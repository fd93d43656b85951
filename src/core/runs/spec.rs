//! Everything that a run rests on. It is written once, before the run has a name, and never changed: replacing the job, its tables or
//! the archive between two attempts changes nothing of the run.

use std::collections::BTreeMap;
use std::fmt;

use sha2::{Digest as _, Sha256};

use super::asked_range::AskedRange;
use super::emission::Emission;
use super::grouping::Grouping;
use super::offset_set::OffsetSet;
use crate::core::archive::PartitionOffsets;
use crate::core::jobs::identity::Identity;

/// What a run rests on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RunSpec {
    /// Its name.
    pub run_id: String,
    /// The name of the job.
    pub job: String,
    /// The id of the job: a job that is dropped and created again is another one.
    pub job_id: String,
    /// The statement of the job, without secrets.
    pub text: String,
    /// The statements of the tables and views that it uses, without secrets, in the order to run them.
    pub tables: Vec<String>,
    /// What the statement asked for.
    pub asked: AskedRange,
    /// The offsets to which it is restricted, if it is.
    pub selection: Option<OffsetSet>,
    /// The rows that it leaves out: those that were late for the job, if the statement says so.
    pub left_out: OffsetSet,
    /// The results that the run emits.
    pub emission: Emission,
    /// How the job puts rows together in time.
    pub grouping: Grouping,
    /// The watermark of the archives, in microseconds since 1970 UTC: what ends later is not final. None if nothing is.
    pub watermark: Option<i64>,
    /// The first instant of which the past has all records, in microseconds since 1970 UTC: windows and sessions with earlier rows are not
    /// whole. None if none is missing.
    pub begins: Option<i64>,
    /// The states that the run reads of each source of the job, by table.
    pub sources: BTreeMap<String, SourcePin>,
    /// Which state of each static table is joined, by table.
    pub statics: BTreeMap<String, Pin>,
    /// Which topic or table the sink is.
    pub sink: Identity,
    /// Where in the sink's topic rows are that the run may remove: those that the job and its runs had published, when this one was made,
    /// of records that it reads. Later the log of the job may no longer say it. Empty if the run removes none.
    pub settled: PartitionOffsets,
    /// The value of `now()`, in microseconds since 1970 UTC.
    pub now: i64,
    /// What the statement wants.
    pub options: RunOptions,
}

impl RunSpec {
    /// The version of the text by which rows of this run are marked.
    pub fn text_version(&self) -> String {
        text_version(&self.text, &self.tables)
    }
}

/// A state of a table that does not change.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pin {
    /// Which topic or table it is (IDENT-1).
    pub identity: Identity,
    /// Its state.
    pub at: PinnedAt,
}

/// The state of a table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PinnedAt {
    /// A version of a Delta table.
    Version(u64),
    /// The offsets up to which a topic is read, by partition.
    Ends(BTreeMap<i32, i64>),
}

impl fmt::Display for Pin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.at {
            PinnedAt::Version(version) => write!(f, "version {version} of {}", self.identity),
            PinnedAt::Ends(ends) => {
                let ends: Vec<String> = ends
                    .iter()
                    .map(|(partition, end)| format!("{partition}: {end}"))
                    .collect();
                write!(f, "offsets to {} of {}", ends.join(", "), self.identity)
            }
        }
    }
}

/// What a run reads of a source of its job.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SourcePin {
    /// The archive.
    pub archive: Pin,
    /// The topic, and the offsets up to which it is read where the archive does not have them; none if it is not read.
    pub tail: Option<Pin>,
    /// The first offset that archive or topic had, by partition: offsets from there on that neither has are lost.
    pub from: BTreeMap<i32, i64>,
}

/// Which rows are emitted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EmitRows {
    /// All.
    All,
    /// Those that are not published as they are.
    Changed,
}

/// What becomes of the rows that were late for the job.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum LateRows {
    /// They count.
    #[default]
    Include,
    /// Those that the job has recorded as late are left out.
    Exclude,
}

/// The options of a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RunOptions {
    /// Which rows are emitted.
    pub emit: EmitRows,
    /// What becomes of late rows.
    pub late: LateRows,
    /// Whether rows that are published and that the run does not have are removed.
    pub withdraw: bool,
    /// Whether a key that does not tell windows apart may be written.
    pub overwrite: bool,
    /// Whether rows are appended to a Delta table and replace nothing.
    pub append: bool,
    /// How long a chunk is, in microseconds of event time; none if the program chooses.
    pub chunk: Option<i64>,
    /// How many rows a second may be written.
    pub max_rows_per_second: Option<u64>,
    /// Whether chunks wait while the running job falls behind.
    pub yields: bool,
}

impl RunOptions {
    /// The names of the options by which the results of two runs may differ. How long chunks are and how fast they are written changes
    /// no result.
    pub fn differences(&self, other: &Self) -> Vec<&'static str> {
        let options = [
            ("EMIT", self.emit != other.emit),
            ("'late'", self.late != other.late),
            ("'withdraw'", self.withdraw != other.withdraw),
            ("'overwrite'", self.overwrite != other.overwrite),
            ("'write'", self.append != other.append),
        ];
        let differ = options.into_iter().filter(|(_, differs)| *differs);
        differ.map(|(name, _)| name).collect()
    }
}

/// The version of the text of a job: twelve hexadecimal digits of a hash of its statement and of the statements of its tables
/// (NAME-1). It is written beside rows and must not change.
pub fn text_version(text: &str, tables: &[String]) -> String {
    let mut hash = Sha256::new();
    for part in std::iter::once(text).chain(tables.iter().map(String::as_str)) {
        hash.update((part.len() as u64).to_be_bytes());
        hash.update(part.as_bytes());
    }
    let digest = hash.finalize();
    let digits = digest.iter().take(6).map(|byte| format!("{byte:02x}"));
    digits.collect()
}

/// Specs for tests.
#[cfg(test)]
pub(crate) mod fixture {
    use super::*;
    use crate::core::runs::time_range::TimeRange;

    /// A run over sessions of ten seconds, of the first hour of 1970.
    pub(crate) fn spec(run_id: &str) -> RunSpec {
        let hour = TimeRange::try_new(0, 3_600_000_000).unwrap();
        let topic = Identity::Topic {
            topic: "visits".into(),
            cluster: Some("c".into()),
            id: Some("1".into()),
        };
        let table = |name: &str| Identity::DeltaTable {
            location: format!("file:///lake/{name}/"),
            id: name.into(),
        };
        RunSpec {
            run_id: run_id.into(),
            job: "sessions".into(),
            job_id: "0b7e".into(),
            text: "CREATE JOB sessions AS …".into(),
            tables: vec!["CREATE EXTERNAL TABLE visits …".into()],
            asked: AskedRange {
                time: Some(hour),
                ..AskedRange::default()
            },
            selection: None,
            left_out: OffsetSet::default(),
            emission: Emission::Time(hour.into()),
            grouping: Grouping::Sessions { gap: 10_000_000 },
            watermark: Some(7_200_000_000),
            begins: None,
            sources: [(
                "visits".to_owned(),
                SourcePin {
                    archive: Pin {
                        identity: table("visits_raw"),
                        at: PinnedAt::Version(7),
                    },
                    tail: Some(Pin {
                        identity: topic,
                        at: PinnedAt::Ends([(0, 99), (1, 5)].into()),
                    }),
                    from: BTreeMap::new(),
                },
            )]
            .into(),
            statics: [(
                "users".to_owned(),
                Pin {
                    identity: table("users"),
                    at: PinnedAt::Version(3),
                },
            )]
            .into(),
            sink: Identity::Topic {
                topic: "sessions".into(),
                cluster: Some("c".into()),
                id: Some("2".into()),
            },
            settled: PartitionOffsets::new(),
            now: 8_000_000_000,
            options: RunOptions {
                emit: EmitRows::Changed,
                late: LateRows::Include,
                withdraw: true,
                overwrite: false,
                append: false,
                chunk: Some(600_000_000),
                max_rows_per_second: None,
                yields: true,
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn name_1_a_text_has_a_version_of_its_own() {
        let tables = ["a".to_owned(), "b".to_owned()];
        let version = text_version("SELECT 1", &tables);
        assert_eq!(version, "de7dea4c0190", "it stands beside rows");
        for (text, tables) in [
            ("SELECT 2", &tables[..]),
            ("SELECT 1", &["ab".to_owned()]),
            ("SELECT 1", &["b".to_owned(), "a".to_owned()]),
        ] {
            assert_ne!(version, text_version(text, tables));
        }
    }

    #[test]
    fn pace_is_no_difference() {
        let one = fixture::spec("r").options;
        let other = RunOptions {
            chunk: None,
            max_rows_per_second: Some(5),
            yields: false,
            ..one
        };
        assert_eq!(one.differences(&other), [""; 0]);
        let other = RunOptions {
            withdraw: false,
            emit: EmitRows::All,
            ..one
        };
        assert_eq!(one.differences(&other), ["EMIT", "'withdraw'"]);
    }

    #[test]
    fn a_pin_is_shown_with_its_table() {
        let spec = fixture::spec("r");
        let source = &spec.sources["visits"];
        assert_eq!(
            source.archive.to_string(),
            "version 7 of Delta table 'file:///lake/visits_raw/' (id visits_raw)"
        );
        assert_eq!(
            source.tail.as_ref().unwrap().to_string(),
            "offsets to 0: 99, 1: 5 of topic 'visits' (id 1, cluster c)"
        );
    }
}
