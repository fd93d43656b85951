//! Planning of a job's analyzed plan: the optimizer's rules, and the plan of operators.

use std::sync::Arc;

use datafusion::execution::{SessionState, SessionStateBuilder};
use datafusion::logical_expr::LogicalPlan;
use datafusion::physical_plan::ExecutionPlan;

use crate::error::Result;

/// Optimizes and plans an analyzed plan.
///
/// # Errors
///
/// Errors of DataFusion's planner.
pub(super) async fn plan_rows(
    state: &SessionState,
    plan: LogicalPlan,
) -> Result<Arc<dyn ExecutionPlan>> {
    let optimized = state.optimizer().optimize(plan, state, |_, _| {})?;
    Ok(state
        .query_planner()
        .create_physical_plan(&optimized, state)
        .await?)
}

/// A state whose plans leave the rows of each partition of a topic in their order: they do not spread rows over several streams.
pub(super) fn planning_in_order(state: &SessionState) -> SessionState {
    let config = state.config().clone().with_target_partitions(1);
    SessionStateBuilder::new_from_existing(state.clone())
        .with_config(config)
        .build()
}
