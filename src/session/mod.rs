//! Session: the only place that builds a DataFusion context, and that runs statements in it.

pub(crate) mod catalog;
pub(crate) mod context;
pub(crate) mod execution;
pub(crate) mod limits;
pub(crate) mod names;
pub(crate) mod objects;
pub(crate) mod options;
pub(crate) mod physical;
pub(crate) mod restoring;
pub(crate) mod results;
pub(crate) mod rewrite;
pub(crate) mod sessions;
pub(crate) mod statements;
pub(crate) mod syntax;
pub(crate) mod system;
pub(crate) mod views;

pub(crate) use limits::cancellation::{CancelFlag, with_cancel_flag};
pub use options::{
    CATALOG, ClosedTables, ForkOptions, JobMemory, SCHEMA, SessionOptions, TableFilter,
    TableLocation,
};
pub(crate) use results::PlannedRows;
pub use results::{Planned, PlannedStatement, StatementExecution, StatementOutcome};
pub use sessions::Session;
pub use system::rows::{batch_rows, job_rows, versions};
pub use system::run_rows::{change_rows, run_rows};
