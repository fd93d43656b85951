//! Queries of jobs: what a job may do, how its statement is planned once, and how each batch is planned from that.

mod analyzed;
mod batch;
mod batch_tables;
pub mod drain;
mod fingerprint;
#[cfg(test)]
mod fingerprint_tests;
mod hidden_columns;
#[cfg(test)]
mod laws;
mod lineage;
mod literals;
mod planning;
mod query;
mod reprocess;
mod scope;
#[cfg(test)]
mod scope_tests;
pub mod side_output;
mod sink_table;
mod slices;
mod split;
mod stateful;
mod stream_inputs;
mod terms;
mod windowing;

pub use batch::{BatchPlan, BatchSides, FrontBatch, LastRecords};
pub use query::JobQuery;
pub use reprocess::{RunFacts, StaticPins, TimeColumns};
pub use sink_table::JobSinkTable;
pub(crate) use sink_table::reads_own_sink;
pub use stateful::{FrontPlan, StreamQuery};
pub use stream_inputs::{BatchSource, StreamTable};
