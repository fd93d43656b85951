//! COMPLETE_SESSIONS: every session with a row in a range, completed in both directions (SESS-2).

mod exec;
mod node;
mod notice;
mod run;
mod search;
mod slices;

pub use exec::CompleteSessionsExec;
pub use node::{CompleteSessions, CompletionRange, seal_completions};
pub use notice::{CompletionNotices, SessionsCapped};
