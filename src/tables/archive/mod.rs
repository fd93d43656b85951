//! Archived topics: a Delta table that a Kafka table names is its past (ARCH-1). A record is read from the archive or from the topic,
//! wherever it is.
//!
//! * [`ArchiveMapping`]: which columns of the archive give which parts of the records.
//! * [`PinnedArchive`]: one version of an archive, the offsets that it has, and scans of it.
//! * [`ArchivedTableProvider`]: the table as a query sees it, both halves in one.
//! * [`PinnedPast`]: the table as a run sees it, at one version of the archive and fixed ends of the topic.
//! * `log_scan`: ranges of offsets out of the archive, in the order of the partitions' logs, for a batch of a job.
//! * [`CoverageTable`]: which offsets of the topic the archive has, and which it lacks.
//!
//! It knows the tables of Kafka and Delta, and neither of them knows it.

mod claim;
mod columns;
mod coverage;
mod coverage_table;
mod covered_files;
mod file_spans;
mod filters;
mod first_since;
mod job_archive;
#[cfg(test)]
mod job_archive_tests;
mod log_scan;
#[cfg(test)]
mod log_scan_tests;
mod mapped_column;
mod mapping;
#[cfg(test)]
mod mapping_tests;
mod narrowing;
mod past;
mod pinned_archive;
mod provider;
mod reading;
mod scan;
mod seen_offsets;
mod time_parts;
mod topic_rows;

pub use coverage_table::CoverageTable;
pub use covered_files::CoveredFiles;
pub use job_archive::{CoveredArchive, JobArchive};
pub use mapped_column::MappedColumn;
pub use mapping::{ArchiveContent, ArchiveMapping, EventTimeClaim};
pub(crate) use past::PinnedPast;
pub use pinned_archive::PinnedArchive;
pub use provider::{ArchivedTableProvider, topic_of};
pub use scan::ArchiveScanExec;
pub use time_parts::TimeParts;
