//! The archive of a topic: which offsets it covers, and which are missing.

pub mod claims;
pub mod coverage;
pub mod offset_ranges;

pub use claims::{JobClaims, LostRange, PartitionClaims, PartitionKey, claims_of_topic};
pub use coverage::{
    CoverageFacts, CoverageKind, CoverageRange, HoleReason, TopicBounds, coverage,
    unexplained_holes,
};
pub use offset_ranges::{OffsetRange, OffsetRanges, add_rows};
