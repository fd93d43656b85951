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

pub(crate) use limits::unwanted::{Unwanted, until_unwanted};
pub use options::{
    CATALOG, ForkOptions, IsClosed, JobMemory, MayName, SCHEMA, SessionOptions, TablePlace,
};
pub(crate) use results::Answer;
pub use results::{Execution, Outcome, Planned, Ready};
pub use sessions::Session;
pub use system::rows::{batch_rows, job_rows, versions};
