//! Delta Lake tables: opening and creating them, pinned snapshots to read, appends, maintenance.
//!
//! The only module that names `deltalake`, and with it the object store. It knows nothing of SQL
//! statements: a [`DeltaSpec`] comes in, a [`DeltaTableHandle`] goes out. A handle gives
//! [`TableProvider`](datafusion::catalog::TableProvider)s that are each pinned to one version;
//! take a new one per statement.
//!
//! Additions to the library's reads: predicates on the source of a generated partition column
//! also prune by that partition column ([`prune`]). Additions to its writes: generated columns are
//! computed, `NOT NULL` and the table's constraints are checked ([`check`]), and each batch is
//! split by partition without sorting or repartitioning ([`split`], [`write`]). One INSERT is one
//! commit; an INSERT that fails is none, or says that this cannot be told ([`commit`], [`store`]).
//!
//! Generated columns are evaluated in UTC (TIMEZONE-1).

mod added_file;
mod change;
mod check;
mod claims_wire;
mod commit;
mod commit_attempts;
mod commit_times;
mod create;
mod error;
mod feature_actions;
mod features;
mod file_bounds;
mod generated;
mod handle;
mod identity;
mod job_change;
mod lineage;
mod location;
mod log_scan;
mod maintain;
mod mapping;
mod moved_files;
mod nan_stats;
mod offset_claims;
mod options;
mod own_task;
mod placed_rows;
mod provider;
mod prune;
mod read_claims;
mod revert;
mod row_keys;
mod rules;
mod scan;
mod seen_commit;
#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod simulation;
mod sink;
mod spec;
mod split;
mod store;
mod stream;
mod stream_files;
mod stream_provider;
mod stream_time;
mod time_shape;
mod transactions;
mod upsert_key;
mod variant;
mod write;

pub use change::{ChangeStatement, ChangeTarget, ROW_CHANGE, RowChange};
pub use commit::PreparedWrite;
pub use file_bounds::{
    FileBounds, TextShare, file_bounds, file_rows, files_with, partition_columns, snapshot_version,
    table_key,
};
pub(crate) use generated::same_delta_type;
pub use handle::DeltaTableHandle;
pub use job_change::{ColumnBounds, PreparedChange};
pub use lineage::RowsUpTo;
pub use maintain::{OptimizeSpec, VacuumSpec};
pub use offset_claims::ClaimChange;
pub use options::OPTION_NAMES;
pub use placed_rows::{ROW_FILE, ROW_NUMBER};
pub use provider::has_no_nulls;
pub(crate) use prune::{lexicographic, time_ranges};
pub use read_claims::offset_claims;
pub use revert::RewrittenFile;
pub use spec::{Application, Commit, DeltaColumn, DeltaSpec, DeltaStream, TimeTravel};
pub use stream::{DeltaJobSource, FileRange, StreamPoll};
pub use stream_provider::{DeltaStreamProvider, stream_expected};
