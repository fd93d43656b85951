//! A file of a table as the log describes it.

use deltalake::kernel::Add;

/// A file of the table.
#[derive(Debug, Clone)]
pub(super) struct AddedFile {
    pub(super) path: String,
    /// As far as its statistics say.
    pub(super) rows: Option<u64>,
    pub(super) bytes: u64,
    pub(super) modified_at: i64,
}

impl AddedFile {
    pub(super) fn of(add: Add) -> Self {
        let stats = add.stats.as_deref();
        let stats: Option<serde_json::Value> =
            stats.and_then(|stats| serde_json::from_str(stats).ok());
        Self {
            path: add.path,
            rows: stats.and_then(|stats| stats.get("numRecords")?.as_u64()),
            bytes: add.size.unsigned_abs(),
            modified_at: add.modification_time,
        }
    }
}
