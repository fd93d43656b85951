//! Incremental aggregates: the partial states of a batch are merged with those of earlier batches.
//!
//! This module is stateless: states come in as rows and go out as rows, and the caller stores them. The operators are
//! DataFusion's own aggregates; every aggregate works whose partial states merge.

mod aggregate;
mod late;
mod sessions;
mod shape;
mod slice_rows;
mod slices;
mod windows;

pub use aggregate::{
    IncrementalAggregate, MergedRows, STATE_CLOSES, STATE_CLOSES_AFTER, STATE_KEYS,
};
pub use late::{LateRowsExec, LateRule};
pub use shape::StateShape;
pub use slice_rows::{FIRST_WINDOW_END, SliceRowsExec, SliceRule};
