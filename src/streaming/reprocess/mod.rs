//! Queries of jobs in runs: the same analyzed plan, aggregated whole over a chunk of event time instead of batch by batch.

mod chunk_columns;
mod chunk_plan;
mod facts;
mod final_groups;
mod fixed_time;
mod grouping;
mod groups_table;
mod key;
mod selected_rows;
mod statics;
mod time_columns;
mod times;

pub use facts::RunFacts;
pub use statics::StaticPins;
pub use time_columns::TimeColumns;

pub(super) use chunk_plan::ChunkPlan;
pub(super) use fixed_time::fix_time;
pub(super) use grouping::grouping_of;
pub(super) use key::check_key;
pub(super) use statics::{PinnedStatics, static_pins};
pub(super) use time_columns::time_columns;
