//! The optimizer rule that finds aggregates by completed session.

use std::sync::Arc;

use datafusion::common::Result;
use datafusion::common::tree_node::Transformed;
use datafusion::logical_expr::{Aggregate, Extension, LogicalPlan};
use datafusion::optimizer::{ApplyOrder, OptimizerConfig, OptimizerRule};

use super::node::CompleteSessionsAggregate;
use crate::complete::CompleteSessions;
use crate::session::aggregate::by_session;

/// Replaces `GROUP BY` of exactly the keys and the window columns over COMPLETE_SESSIONS by one operator, if no aggregate
/// reads a window column or asks for an order.
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
        let LogicalPlan::Aggregate(aggregate) = &plan else {
            return Ok(Transformed::no(plan));
        };
        Ok(match by_completed_session(aggregate)? {
            Some(node) => Transformed::yes(LogicalPlan::Extension(Extension {
                node: Arc::new(node),
            })),
            None => Transformed::no(plan),
        })
    }
}

fn by_completed_session(aggregate: &Aggregate) -> Result<Option<CompleteSessionsAggregate>> {
    let found = by_session(aggregate, |node| {
        let completion = node.as_any().downcast_ref::<CompleteSessions>()?;
        Some(completion.keys().to_vec())
    })?;
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
