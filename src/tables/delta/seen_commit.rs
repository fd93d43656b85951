//! The commit by which a table is recognized.

/// A commit of the table as the store has it: as long as this commit is there unchanged, the table is the same one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct SeenCommit {
    pub(super) version: u64,
    pub(super) stamp: FileStamp,
    /// The table's id.
    pub(super) id: String,
}

/// Properties that tell a file from a later one of the same name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct FileStamp {
    /// In microseconds since 1970 UTC.
    pub(super) written: i64,
    pub(super) size: u64,
    pub(super) tag: Option<String>,
}
