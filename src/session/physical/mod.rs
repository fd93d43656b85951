//! Operators and rules over physical plans that bound the memory of a statement, or correct answers of the engine's operators.

pub(crate) mod bounded_plan;
pub(crate) mod constant_copies;
pub(crate) mod constant_values;
pub(crate) mod delimiters;
pub(crate) mod guarded_projections;
pub(crate) mod nan_statistics;
pub(crate) mod normalize_nan;
pub(crate) mod partwise_calls;
pub(crate) mod read_once;
pub(crate) mod small_batches;
pub(crate) mod top_groups;
pub(crate) mod window_results;
