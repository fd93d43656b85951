//! `offsets_in(partition, offset, from, to)`: Spark's per-partition offsets as range predicates.

mod function;
mod json;
mod named;
mod ranges;
mod resume;

pub use function::offsets_in;
pub use json::{NamedOffsets, parse_named_offsets};
pub use named::NamedOffset;
pub use resume::{next_offsets, offsets_from};
