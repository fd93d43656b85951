//! Aggregates that go on from batch to batch: the partial states of a batch are merged with those kept from before.
//!
//! Nothing here remembers: states come in as rows and go out as rows, and whoever calls keeps them. The operators are
//! DataFusion's own aggregates; any of them works whose partial states merge.

mod aggregate;
mod late;
mod sessions;
mod shape;
mod slice_rows;
mod slices;
mod windows;

pub use aggregate::{IncrementalAggregate, Merged, STATE_CLOSES, STATE_CLOSES_AFTER, STATE_KEYS};
pub use late::{LateRowsExec, LateRule};
pub use shape::StateShape;
pub use slice_rows::{FIRST_WINDOW_END, SliceRowsExec, SliceRule};
