//! Optimizer rule that finds aggregates by completed session.

use std::sync::Arc;

use datafusion::common::Result;
use datafusion::common::tree_node::Transformed;
use datafusion::logical_expr::{Aggregate, LogicalPlan};
use datafusion::optimizer::{ApplyOrder, OptimizerConfig, OptimizerRule};

use super::node::CompleteSessionsAggregate;
use crate::complete::CompleteSessions;
use crate::session::aggregate::{by_session, replace_aggregate};

/// Replaces `GROUP BY` of exactly the keys and the window columns over COMPLETE_SESSIONS by one operator, if no aggregate
/// reads a window column or needs its rows in order.
#[derive(Debug, Default)]
pub struct AggregateByCompletedSession;

impl OptimizerRule for AggregateByCompletedSession {
    fn name(&self) -> &str {
        "aggregate_by_completed_session"
    }

    fn apply_order(&self) -> Option<ApplyOrder> {
        Some(ApplyOrder::BottomUp)
    }

    fn rewrite(
        &self,
        plan: LogicalPlan,
        _config: &dyn OptimizerConfig,
    ) -> Result<Transformed<LogicalPlan>> {
        replace_aggregate(plan, by_completed_session)
    }
}

fn by_completed_session(aggregate: &Aggregate) -> Result<Option<CompleteSessionsAggregate>> {
    let found = by_session(aggregate, |node| {
        let completion = node.as_any().downcast_ref::<CompleteSessions>()?;
        Some(completion.keys().to_vec())
    })?;
    let found = found.filter(|found| found.others.is_empty());
    Ok(found.and_then(|found| {
        let completion = found.node.as_any().downcast_ref::<CompleteSessions>()?;
        Some(CompleteSessionsAggregate {
            completion: completion.clone(),
            groups: found.groups,
            aggregates: found.aggregates,
            schema: Arc::clone(&aggregate.schema),
        })
    }))
}
