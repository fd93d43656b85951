//! SESSION: the rows of one key, cut where neighbours are further apart than the gap (SESS-1).

pub(crate) mod aggregate;
mod assign;
mod buffered;
mod exec;
mod node;
mod sorted;

pub use aggregate::{
    AggregateBySession, SessionAggregate, SessionColumn, SessionMergeExec, SessionPartialExec,
    session_aggregate_of, session_groups_of,
};
pub use exec::SessionExec;
pub use node::SessionWindow;

pub(crate) use aggregate::{key_schema, merge_intervals, new_keys};
pub(crate) use assign::{joins, sessionize};
pub(crate) use node::all_but_keys;
