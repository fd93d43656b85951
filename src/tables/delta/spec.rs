//! Declarations of Delta tables by statements and jobs, and the result of a write.

use std::collections::BTreeMap;

use datafusion::arrow::datatypes::DataType;

/// The declaration of a Delta table in a statement.
#[derive(Debug, Clone, Default)]
pub struct DeltaSpec {
    /// A folder (relative to the current directory) or a URL: `file://…`, `s3://bucket/path`.
    pub location: String,
    /// The declared columns; `None` opens a table that exists as it is.
    pub columns: Option<Vec<DeltaColumn>>,
    /// The names after `PARTITIONED BY`, in order; empty if it was left out.
    pub partition_by: Vec<String>,
    /// `PRIMARY KEY (…) NOT ENFORCED`: the columns by which jobs upsert rows; empty if they append them.
    pub primary_key: Vec<String>,
    /// `OPTIONS (…)`; names are compared without regard to case.
    pub options: BTreeMap<String, String>,
    /// `WATERMARK FOR`: the event time column, the watermark's expression as SQL, and how far it is behind, in microseconds.
    pub watermark: Option<(String, String, i64)>,
}

/// One declared column.
#[derive(Debug, Clone)]
pub struct DeltaColumn {
    /// The name as it is stored.
    pub name: String,
    /// The type; strings and binaries may be of any Arrow layout, `Timestamp(µs, "UTC")` is Delta's
    /// `timestamp`, a timestamp without a zone its `timestamp_ntz`.
    pub data_type: DataType,
    /// `false` for `NOT NULL`.
    pub nullable: bool,
    /// The SQL text of `GENERATED ALWAYS AS (…)`.
    pub generated: Option<String>,
    /// `COMMENT '…'`.
    pub comment: Option<String>,
}

/// Which version of a table to read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum TimeTravel {
    /// The newest one there is now.
    #[default]
    Latest,
    /// Exactly this version.
    Version(u64),
    /// The newest version that was committed at or before this time, in microseconds since 1970 UTC.
    Timestamp(i64),
}

/// A writer that owns a table through Delta's application transactions. The writer that recorded the last version under
/// `id` is the owner.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Application {
    /// The application's id.
    pub id: String,
    /// The version that this writer recorded last.
    pub owned: i64,
    /// The version that its next commit records.
    pub version: i64,
    /// Only commits with rows record their version under this id, so a takeover does not overwrite it.
    pub witness: String,
    /// The table's version up to which this writer has read the log. Its rows do not follow a RESTORE that came later.
    pub checked: u64,
}

impl Application {
    pub(super) fn transactions(&self) -> [(String, i64); 2] {
        [
            (self.id.clone(), self.version),
            (self.witness.clone(), self.version),
        ]
    }
}

/// The result of one write.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Commit {
    /// The version it made; with no rows to append, the version there was.
    pub version: u64,
    /// Paths of the files it added, relative to the table's root.
    pub added: Vec<String>,
    /// Rows written.
    pub rows: u64,
}

/// How a job reads the table as a stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct DeltaStream {
    /// It begins with rows that are added later, and not with those that the table has.
    pub starts_at_end: bool,
    /// Versions that delete or rewrite rows are left out; otherwise they stop the job.
    pub skips_changes: bool,
}
