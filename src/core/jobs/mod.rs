//! Data model of jobs: their log, the versions it names, the offsets of a batch, and recovery after a crash.

pub mod alignment;
pub mod clock;
pub mod ends;
pub mod files;
pub mod fingerprint;
pub mod heartbeat;
pub mod identity;
pub mod left_groups;
pub mod log;
pub mod named_offsets;
pub mod progress;
pub mod ranges;
pub mod recovery;
pub mod retention;
pub mod run_event;
pub mod shortage;
#[cfg(test)]
mod simulation;
pub mod startup;
pub mod table_time;
pub mod text_history;
pub mod version;
pub mod watermark;

pub use alignment::waiting;
pub use clock::{ClockReading, JobClock, SteadyTime, WallClock};
pub use ends::PartitionEnds;
pub use files::{FilePosition, choose_files};
pub use heartbeat::{Heartbeat, ObservedState, observed_state};
pub use identity::{
    AcceptedChange, Identity, IdentityMatch, IdentityStatus, RecordMark, ReportedChange,
    identity_status,
};
pub use left_groups::{LeftGroup, LeftGroups, LeftReason};
pub use log::{BatchCommit, JobHistory, JobPhase, LogEntry, is_older};
pub use named_offsets::{NamedOffset, NamedOffsets, parse_named_offsets};
pub use progress::{Gaps, Offsets, SourceProgress};
pub use ranges::{LostOffsets, PartitionFacts, PlannedRange, choose};
pub use recovery::{
    MissingBatches, RecoveryDecision, StagedVersion, missing_in_sink, recover, recover_in_new_sink,
};
pub use retention::{
    DeletableFiles, PassedCheckpoints, Retention, is_sweep_due, oldest_to_stay, passed_by,
};
pub use run_event::{
    ChangeCounts, ChangesFile, ChunkExtent, ComparedChunk, RunEvent, RunHistory, RunStage,
};
pub use shortage::{MemoryShortage, ShortageRemedy, remedy};
pub use startup::{SourceStart, StartFault, StartNameFault, Startup};
pub use table_time::{PartitionTimes, UnfinishedVersion, through_versions};
pub use text_history::{MakingText, ReplacedText, TextHistory};
pub use version::{AGGREGATE, BatchVersion, DeadLetter, OperatorState, StateFile};
pub use watermark::{
    JobTime, PartitionTime, Partitions, RowWatermark, RunningWatermark, WatermarkPolicy,
};
