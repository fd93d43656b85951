//! Reprocessing runs ([ADR 35](../../../docs/adr/0035-a-run-is-a-job-that-ends.md)): a run is a job that ends. The runner runs it, over
//! sources that are read by event time or by offsets, into the sink of its job, with the log that `store::RunStore` keeps.
//!
//! * `commands`: what statements about runs do; `abort` ends one.
//! * `foundation`: what a new run rests on; `selected_rows`: the rows that it is asked for by their coordinates.
//! * `job_watch`: whether the next chunk waits for the running job.
//! * `planner`: computes the chunks of a plan, and writes none.
//! * `published`, `comparison`, `chunk_comparison`: the rows of a chunk against those of the sink.
//! * `ready`, `tables`, `sink`: a run as the runner runs it.
//! * `sweep`: how long runs are kept.
//! * `statements`: from the parts of a statement to what it does, and from that to its rows; `run_order` and `rows_query` read the parts,
//!   `description` makes the rows.

pub(in crate::runtime) mod abort;
pub mod chunk_comparison;
mod commands;
pub mod comparison;
mod description;
mod foundation;
mod host;
pub(in crate::runtime) mod job_watch;
mod outcome;
mod planner;
pub mod published;
pub(in crate::runtime) mod ready;
mod rows_query;
mod run_order;
mod selected_rows;
pub(in crate::runtime) mod sink;
mod statements;
pub(in crate::runtime) mod sweep;
mod tables;

pub use commands::{abort, apply, explain, plan, reprocess};
pub use host::RunHost;
pub use outcome::{RunOutcome, RunPreview};
