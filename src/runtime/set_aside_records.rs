//! Records that a job sets aside: they become dead letters in place of rows.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::core::jobs::BatchVersion;
use crate::tables::bad_records::SetAside;

/// Records that the scans set aside as dead letters, by table.
pub(super) type SetAsideRecords = BTreeMap<String, Arc<SetAside>>;

/// Place of a record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct RecordPosition {
    pub(super) table: String,
    pub(super) partition: i32,
    pub(super) offset: i64,
}

/// Forgets the records that a version has set aside: the job has passed them.
pub(super) fn forget(aside: &mut SetAsideRecords, version: &BatchVersion) {
    for (table, aside) in aside.iter_mut() {
        Arc::make_mut(aside).retain(|(partition, offset), _| {
            let next = version.next_offset(table, *partition);
            next.is_none_or(|next| *offset >= next)
        });
    }
    aside.retain(|_, aside| !aside.is_empty());
}
