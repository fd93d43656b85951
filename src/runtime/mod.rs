//! Runtime of jobs: their statements, and the runner that executes a stored INSERT as exactly-once micro-batches.

mod batch;
mod blame;
mod boot_clock;
mod check;
mod check_sink;
mod environment;
mod failpoint;
mod heartbeat;
pub(crate) mod host;
mod identities;
mod job_status;
mod metrics;
mod options;
mod pace;
mod phases;
mod retention;
mod runner;
mod show;
#[cfg(test)]
mod simulation;
mod sink;
mod source;
mod statements;
mod subscribe;
mod takeover;
mod waiting;
mod windows;

pub use crate::runtime::job_status::{JobStatus, JobStatuses, Report, RunOptions, Stop};
pub use check::{CheckReport, Finding, check};
pub use check_sink::check_sinks;
pub use metrics::{JobState, Metrics};
pub use options::{JobOptions, OPTION_NAMES, Trigger};
pub use statements::{Jobs, ReadyJob, ToDo};
