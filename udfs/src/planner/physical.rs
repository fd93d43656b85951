//! Extension planner: from the logical nodes of this crate to operators.

use std::sync::Arc;

use arrow::datatypes::{Schema, SchemaRef};
use async_trait::async_trait;
use datafusion::catalog::Session;
use datafusion::common::{DFSchema, Result, internal_err};
use datafusion::execution::SessionState;
use datafusion::logical_expr::physical_planning_context::PhysicalPlanningContext;
use datafusion::logical_expr::{
    Expr, LogicalPlan, UserDefinedLogicalNode, UserDefinedLogicalNodeCore,
};
use datafusion::physical_expr::aggregate::LoweredAggregateBuilder;
use datafusion::physical_plan::{ExecutionPlan, PhysicalExpr};
use datafusion::physical_planner::{ExtensionPlanner, PhysicalPlanner};

use crate::checked::key_with_one_zero;
use crate::complete::{CompleteSessions, CompleteSessionsAggregate, CompleteSessionsExec};
use crate::session::aggregate::{SessionAggregate, session_aggregate};
use crate::session::{SessionExec, SessionWindow};
use crate::window::{EventWindow, EventWindowExec};

/// Plans [`EventWindow`], [`SessionWindow`] and [`CompleteSessions`]; leaves all other nodes to
/// the next planner.
#[derive(Debug, Default)]
pub struct WindowExtensionPlanner;

#[async_trait]
impl ExtensionPlanner for WindowExtensionPlanner {
    async fn plan_extension(
        &self,
        planner: &dyn PhysicalPlanner,
        node: &dyn UserDefinedLogicalNode,
        logical_inputs: &[&LogicalPlan],
        physical_inputs: &[Arc<dyn ExecutionPlan>],
        session: &dyn Session,
        planning: &PhysicalPlanningContext,
    ) -> Result<Option<Arc<dyn ExecutionPlan>>> {
        let lower = |exprs: &[Expr], logical: &DFSchema, physical: &Schema| {
            let lower = |expr: &Expr| {
                let properties = session.execution_props();
                LoweredAggregateBuilder::new(expr, logical, physical, properties, planning).build()
            };
            exprs.iter().map(lower).collect::<Result<Vec<_>>>()
        };
        if let Some(node) = node.as_any().downcast_ref::<CompleteSessions>() {
            let Some(state) = session.as_any().downcast_ref::<SessionState>() else {
                return internal_err!("COMPLETE_SESSIONS plans with DataFusion's session state");
            };
            return Ok(Some(Arc::new(CompleteSessionsExec::try_new(
                node,
                state.clone(),
            )?)));
        }
        if let Some(node) = node.as_any().downcast_ref::<CompleteSessionsAggregate>() {
            let Some(state) = session.as_any().downcast_ref::<SessionState>() else {
                return internal_err!("COMPLETE_SESSIONS plans with DataFusion's session state");
            };
            let input = node.completion().input().schema();
            let aggregates = lower(node.aggregates(), input, input.as_arrow())?;
            return Ok(Some(Arc::new(CompleteSessionsExec::try_new_aggregate(
                node,
                aggregates,
                state.clone(),
            )?)));
        }
        let (Some(logical), Some(physical)) = (logical_inputs.first(), physical_inputs.first())
        else {
            return Ok(None);
        };
        let create = |expr: &Expr| -> Result<Arc<dyn PhysicalExpr>> {
            planner.create_physical_expr(expr, logical.schema(), session, planning)
        };
        let create_keys = |keys: &[Expr]| {
            let one = |key: &Expr| create(&key_with_one_zero(key, logical.schema()));
            keys.iter().map(one).collect::<Result<Vec<_>>>()
        };
        if let Some(node) = node.as_any().downcast_ref::<EventWindow>() {
            let window = EventWindowExec::new(
                Arc::clone(physical),
                create(node.event_time())?,
                *node.windows(),
                output_schema(node),
            );
            return Ok(Some(Arc::new(window.with_ends_in(node.ends()))));
        }
        if let Some(node) = node.as_any().downcast_ref::<SessionAggregate>() {
            let keys = create_keys(node.keys())?;
            let event_time = create(node.event_time())?;
            let aggregates = lower(
                node.aggregates(),
                logical.schema(),
                physical.schema().as_ref(),
            )?;
            return session_aggregate(
                Arc::clone(physical),
                keys,
                event_time,
                aggregates,
                node,
                output_schema(node),
            )
            .map(Some);
        }
        if let Some(node) = node.as_any().downcast_ref::<SessionWindow>() {
            return Ok(Some(Arc::new(SessionExec::try_new(
                Arc::clone(physical),
                create_keys(node.keys())?,
                create(node.event_time())?,
                node.gap(),
                output_schema(node),
            )?)));
        }
        Ok(None)
    }
}

fn output_schema(node: &impl UserDefinedLogicalNodeCore) -> SchemaRef {
    Arc::clone(node.schema().inner())
}
