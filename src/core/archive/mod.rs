//! The archive of a topic: which offsets it covers and which are missing, and where a read goes over from the archive to the topic.

pub mod claims;
pub mod coverage;
pub mod halves;
pub mod offset_ranges;
pub mod one_log;
pub mod past;

pub use claims::{JobClaims, LostRange, PartitionClaims, PartitionKey, claims_of_topic};
pub use coverage::{
    CoverageFacts, CoverageKind, CoverageRange, HoleReason, coverage, unexplained_holes,
};
pub use halves::{
    ArchiveOffsets, FileSpans, NotThePast, OffsetSpan, PartitionHalves, check_past, divide,
};
pub use offset_ranges::{OffsetRange, OffsetRanges, add_rows};
pub use one_log::{border, needs_archive, with_archive};
pub use past::{PartitionOffsets, PastParts, common_offsets, divide_past, first_of_past};
