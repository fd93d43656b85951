//! Jobs at work: their statements, and the runner that turns a stored INSERT into exactly-once micro-batches.

mod batch;
mod blame;
mod environment;
mod failpoint;
mod heartbeat;
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
mod told;
mod windows;

pub use metrics::{JobState, Metrics};
pub use options::{JobOptions, OPTION_NAMES, Trigger};
pub use statements::{Jobs, ReadyJob};
pub use told::{JobStatus, JobStatuses, Report, RunOptions, Stop};
