//! COMPLETE_SESSIONS: every session with a row in a range, completed in both directions (SESS-2).

mod aggregate;
mod exec;
mod keys;
mod node;
mod notice;
mod null_free;
mod rows;
mod run;
mod scan;
mod search;
#[cfg(test)]
mod search_tests;
mod slices;

pub use aggregate::{AggregateByCompletedSession, CompleteSessionsAggregate};
pub use exec::CompleteSessionsExec;
pub use node::{CompleteSessions, CompletionRange, seal_completions};
pub use notice::{CompletionNotices, SessionsCapped};
pub use null_free::NullFreeColumns;
