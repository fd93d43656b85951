//! Places in the partitions of topics as a user writes them: Spark's JSON of `startingOffsets`.

pub use anabranch_udfs::{NamedOffset, NamedOffsets, parse_named_offsets};
