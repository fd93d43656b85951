//! Aggregates by session, which do not assign each row its session first.
//!
//! `GROUP BY keys, window_start` over SESSION reads each row once: a row is the interval `[t, t]`, and intervals of one key at
//! most the gap apart are one (SESS-1). Each partition of the input aggregates its rows by interval as they come; the
//! intervals, with the aggregates' partial states, are repartitioned by key and merged in the order of their start.

mod accumulators;
mod aggregation;
mod intervals;
mod merge;
mod node;
mod partial;
mod rule;

pub(crate) use accumulators::{Accumulators, SessionAggregateExpr};
pub(crate) use aggregation::{
    AggregatedIntervals, IntervalAggregation, IntervalBounds, PartialRule, key_schema, new_keys,
};
pub(crate) use intervals::merge_intervals;
pub(crate) use merge::{MergeRule, output_batch, session_columns};

pub use merge::SessionMergeExec;
pub use node::{SessionAggregate, SessionColumn};
pub use partial::SessionPartialExec;
pub use rule::{AggregateBySession, session_aggregate_of, session_groups_of};
pub(crate) use rule::{by_session, replace_aggregate};

use std::sync::Arc;

use arrow::datatypes::SchemaRef;
use datafusion::common::Result;
use datafusion::physical_expr::aggregate::LoweredAggregate;
use datafusion::physical_plan::{ExecutionPlan, PhysicalExpr};

/// The two operators of `node` over its planned input.
pub(crate) fn session_aggregate(
    input: Arc<dyn ExecutionPlan>,
    keys: Vec<Arc<dyn PhysicalExpr>>,
    event_time: Arc<dyn PhysicalExpr>,
    aggregates: Vec<LoweredAggregate>,
    node: &SessionAggregate,
    schema: SchemaRef,
) -> Result<Arc<dyn ExecutionPlan>> {
    let aggregates: Vec<_> = aggregates
        .into_iter()
        .map(SessionAggregateExpr::new)
        .collect();
    let merge = MergeRule {
        keys: keys.len(),
        gap: node.gap(),
        aggregates: aggregates.clone(),
        groups: node.groups().to_vec(),
        schema,
        event_time: crate::window::column_name(&event_time.to_string()),
    };
    let rule = PartialRule {
        keys,
        event_time,
        gap: node.gap(),
        aggregates,
    };
    let partial = SessionPartialExec::try_new(input, rule)?;
    Ok(Arc::new(SessionMergeExec::new(Arc::new(partial), merge)))
}
