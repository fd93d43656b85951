//! Data model of jobs: their log, the versions it names, the offsets of a batch, and recovery after a crash.

pub mod alignment;
pub mod clock;
pub mod ends;
pub mod files;
pub mod fingerprint;
pub mod heartbeat;
pub mod identity;
pub mod log;
pub mod progress;
pub mod ranges;
pub mod recovery;
pub mod retention;
pub mod shortage;
#[cfg(test)]
mod simulation;
pub mod table_time;
pub mod version;
pub mod watermark;

pub use alignment::waiting;
pub use clock::{ClockReading, JobClock, SteadyTime, Wall};
pub use ends::PartitionEnds;
pub use files::{FilePlace, choose_files};
pub use heartbeat::{Heartbeat, SeenState, seen_state};
pub use identity::{Accepted, Identity, RecordMark, Reported, Sameness, Standing, standing};
pub use log::{Committed, Entry, JobHistory, Phase, is_older};
pub use progress::{Gaps, SourceProgress};
pub use ranges::{Lost, PartitionFacts, PlannedRange, choose};
pub use recovery::{Decision, Missing, Staged, missing_in_sink, recover, recover_in_new_sink};
pub use retention::{Deletable, Passed, Retention, is_sweep_due, oldest_to_stay, passed_by};
pub use shortage::{Remedy, Shortage, remedy};
pub use table_time::{Reached, UnfinishedVersion, through_versions};
pub use version::{AGGREGATE, BatchVersion, DeadLetter, OperatorState, StateFile};
pub use watermark::{
    JobTime, PartitionTime, Partitions, RowWatermark, RunningWatermark, WatermarkPolicy,
};
