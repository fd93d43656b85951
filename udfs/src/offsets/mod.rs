//! `offsets_in(partition, offset, from, to)`: Spark's per-partition offsets as range predicates.

mod function;
mod ranges;

pub use function::offsets_in;
