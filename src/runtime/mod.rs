//! Jobs at work: their statements, and the runner that turns a stored INSERT into exactly-once micro-batches.

mod batch;
mod failpoint;
mod options;
mod runner;
mod show;
mod sink;
mod statements;
mod windows;

pub use options::{JobOptions, OPTION_NAMES, Trigger};
pub use runner::{JobStatus, JobStatuses, Report, RunOptions, Stop};
pub use statements::{Jobs, ReadyJob};
