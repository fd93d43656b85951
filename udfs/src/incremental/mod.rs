//! Aggregates that go on from batch to batch: the partial states of a batch are merged with those kept from before.
//!
//! Nothing here remembers: states come in as rows and go out as rows, and whoever calls keeps them. The operators are
//! DataFusion's own aggregates; any of them works whose partial states merge.

mod aggregate;
mod late;
mod sessions;

pub use aggregate::{
    IncrementalAggregate, Merged, STATE_CLOSES, STATE_CLOSES_AFTER, STATE_KEYS, StateShape,
};
pub use late::{LateRows, LateRowsExec, LateRule};
