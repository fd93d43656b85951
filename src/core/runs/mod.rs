//! Reprocessing runs: which part of the past a run reads and emits, in which chunks, what it rests on, how far it has come, and how its
//! rows differ from the published ones.
//!
//! A run is a job that ends: its log is one of [`crate::core::jobs`], and each chunk is a batch.

pub mod asked_range;
pub mod beginning;
pub mod chunks;
pub mod covered_times;
pub mod difference;
pub mod emission;
pub mod finality;
pub mod foundations;
pub mod grouping;
#[cfg(test)]
mod laws;
pub mod offset_chunks;
pub mod offset_set;
pub mod order;
mod pinned_offsets;
pub mod position;
pub mod precedence;
pub mod published;
pub mod published_batches;
pub mod repairs;
pub mod result_columns;
pub mod same_run;
pub mod spec;
pub mod state;
pub mod time_range;

pub use crate::core::jobs::left_groups::{LeftGroups, LeftReason};
pub use asked_range::{AskedRange, OffsetBounds, SelectedRows};
pub use beginning::{LostTimes, Removal, check_beginning};
pub use chunks::{Chunk, Chunks, check_length, usual_length};
pub use covered_times::{CoveredTimes, TimeBounds};
pub use difference::tolerance::FloatTolerance;
pub use difference::{ChangeKind, ComparedRow, Comparison, Difference, EmittedRows};
pub use emission::Emission;
pub use finality::{Finality, PartitionArchive, archive_watermark, run_watermark};
pub use foundations::{ArchiveNow, Foundations, Moved, moved};
pub use grouping::Grouping;
pub use offset_chunks::{advanced, next_offsets};
pub use offset_set::OffsetSet;
pub use order::{AskedText, GivenRunOptions, RunOrder};
pub use position::{
    TIME_AXIS, chunk_extent, chunk_progress, compared_to, extent_text, position_of,
};
pub use precedence::{Precedence, Turn};
pub use published::{ClosedWindows, GivenOut, PublishedIndex, PublishedOffsets};
pub use published_batches::PublishedBatches;
pub use repairs::RepairingRun;
pub use result_columns::{ResultColumns, ResultTimes};
pub use same_run::{RunMatch, RunRequest, same_run};
pub use spec::{EmitRows, LateRows, Pin, PinnedAt, RunOptions, RunSpec, SourcePin, text_version};
pub use state::{AbortDecision, ApplyDecision, RunState, decide_abort, decide_apply, run_state};
pub use time_range::{TimeRange, TimeRanges};
