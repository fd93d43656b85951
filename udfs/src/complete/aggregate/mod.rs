//! Aggregates by completed session, which hold no rows.
//!
//! `GROUP BY keys, window_start` over COMPLETE_SESSIONS reads the same slices, but each partition of a slice aggregates its
//! rows by interval of event time, as an aggregate over SESSION does; the search then reads intervals instead of rows.

mod node;
mod rule;
mod run;

pub use node::CompleteSessionsAggregate;
pub use rule::AggregateByCompletedSession;
pub(super) use run::AggregateRun;
