//! Jobs with an aggregate over more than a batch: the plan below it, planned for each batch, and the one above it.

mod hidden;
mod late;
#[cfg(test)]
mod laws;
#[cfg(test)]
mod laws_keyed;
#[cfg(test)]
mod laws_versions;
mod lineage;
mod sides;
mod split;

use std::sync::Arc;

use anabranch_udfs::{IncrementalAggregate, LateRows, LateRowsExec, LateRule, StateShape};
use datafusion::arrow::array::RecordBatch;
use datafusion::common::tree_node::{Transformed, TreeNode};
use datafusion::common::{DFSchemaRef, TableReference};
use datafusion::execution::SessionState;
use datafusion::functions::core::expr_fn::get_field;
use datafusion::logical_expr::physical_planning_context::PhysicalPlanningContext;
use datafusion::logical_expr::simplify::SimplifyContext;
use datafusion::logical_expr::{Expr, LogicalPlan};
use datafusion::optimizer::simplify_expressions::ExprSimplifier;
use datafusion::physical_expr::aggregate::LoweredAggregateBuilder;
use datafusion::physical_plan::{ExecutionPlan, PhysicalExpr};

use crate::core::jobs::WatermarkPolicy;
use crate::error::{Error, Result};
use crate::planner::ast::Emit;
use crate::session::streaming::hidden::find;
use crate::session::streaming::split::{Split, Windowing};
use crate::tables::time::{ROW_COLUMN, ROW_WATERMARK};

pub use late::late_rows;
pub(super) use late::late_schema;
pub use sides::StreamTable;
pub(super) use sides::{BatchTables, Sources, reads_stream, static_tables, table_of};

/// Whether the rows of streams are aggregated in `plan`.
pub(super) fn has_aggregate(plan: &LogicalPlan, sources: &Sources) -> bool {
    split::aggregate_of(plan, sources).is_some()
}

/// The stateful part of a job.
#[derive(Debug, Clone)]
pub struct StreamQuery {
    split: Split,
    policy: WatermarkPolicy,
    fingerprint: String,
}

/// The lower half of a batch: from records to partial states.
#[derive(Debug)]
pub struct FrontPlan {
    /// What is aggregated.
    pub aggregate: IncrementalAggregate,
    /// Gives partial states of the batch's rows.
    pub plan: Arc<dyn ExecutionPlan>,
    /// Rows that were too late.
    pub late: Arc<LateRows>,
}

impl StreamQuery {
    /// Cuts a job's analyzed plan at its aggregate.
    ///
    /// # Errors
    ///
    /// What a job cannot do, by name.
    pub(super) fn try_new(plan: LogicalPlan, sources: &Sources, emit: Emit) -> Result<Self> {
        let split = Split::try_new(plan, sources)?;
        let is_keyed = matches!(split.windowing, Windowing::Keys { .. });
        if is_keyed && emit == Emit::OnWindowClose {
            return Err(Error::invalid(
                "EMIT ON WINDOW CLOSE, the default, has no meaning without a window: nothing closes",
            )
            .with_help(
                "say EMIT CHANGES for a row per key that a batch touched, or group by the window_start of TUMBLE, HOP, \
                 CUMULATE or SESSION",
            ));
        }
        let policies: Vec<WatermarkPolicy> = sources
            .values()
            .filter_map(|table| Some(table.event_time()?.policy))
            .collect();
        let policy = policies.first().copied().unwrap_or_default();
        if !is_keyed && policies.iter().any(|other| *other != policy) {
            return Err(Error::invalid(
                "the tables of a job have different options 'watermark.partitions'",
            ));
        }
        Ok(Self {
            fingerprint: split.fingerprint()?,
            split,
            policy,
        })
    }

    /// Which partition holds the job's watermark.
    pub fn policy(&self) -> WatermarkPolicy {
        self.policy
    }

    /// What the state depends on: a job whose text gives another one cannot go on from it.
    pub fn fingerprint(&self) -> &str {
        &self.fingerprint
    }

    /// Whether a group that was emitted can stop to be: sessions grow and merge, and a filter may no longer hold.
    pub fn withdraws(&self) -> bool {
        matches!(self.split.windowing, Windowing::Session(_)) || self.split.has_filter_above
    }

    /// Whether it has no window: keys are kept until they are forgotten.
    pub fn is_keyed(&self) -> bool {
        matches!(self.split.windowing, Windowing::Keys { .. })
    }

    /// The window, for people.
    pub fn window(&self) -> &str {
        &self.split.window
    }

    /// What is aggregated, over a plan that reads nothing.
    ///
    /// # Errors
    ///
    /// What the engine says.
    pub(super) async fn aggregate(&self, state: &SessionState) -> Result<IncrementalAggregate> {
        Ok(self.front(state, &BatchTables::default()).await?.aggregate)
    }

    /// The static tables it reads, by their names in its plans.
    pub(super) fn static_tables(&self) -> &[TableReference] {
        &self.split.static_tables
    }

    /// Plans the lower half over these tables: streams with the hidden column, and static tables.
    ///
    /// # Errors
    ///
    /// What the engine says.
    pub(super) async fn front(
        &self,
        state: &SessionState,
        tables: &BatchTables,
    ) -> Result<FrontPlan> {
        let plan = sides::over(self.split.front.clone(), tables)?;
        let schema = Arc::clone(plan.schema());
        let rows = plan_rows(state, plan).await?;
        let simplifier = simplifier(state, &schema);
        let physical = |expr: &Expr| -> Result<Arc<dyn PhysicalExpr>> {
            let expr = simplifier.simplify(expr.clone())?;
            Ok(state.create_physical_expr(expr, &schema)?)
        };
        let all = |exprs: &[Expr]| exprs.iter().map(physical).collect::<Result<Vec<_>>>();
        let (shape, rule) = match &self.split.windowing {
            Windowing::Keys { groups } => {
                let groups = all(groups)?;
                (StateShape::Keys { groups }, None)
            }
            Windowing::Aligned { groups, window_end } => {
                let window_end = physical(window_end)?;
                let shape = StateShape::Windows {
                    groups: all(groups)?,
                    window_end: Arc::clone(&window_end),
                };
                (shape, Some(LateRule::Window(window_end)))
            }
            Windowing::Session(session) => {
                let event_time = physical(session.event_time())?;
                let shape = StateShape::Sessions {
                    keys: all(session.keys())?,
                    event_time: Arc::clone(&event_time),
                    gap: session.gap(),
                    others: all(session.others())?,
                    groups: session.groups().to_vec(),
                };
                (shape, Some(LateRule::Session(event_time)))
            }
        };
        let late: Arc<LateRows> = Arc::default();
        let in_time: Arc<dyn ExecutionPlan> = match rule {
            Some(rule) => {
                let row = find(&schema, ROW_COLUMN)
                    .ok_or_else(|| Error::internal("nobody keeps the time of rows"))?;
                let watermark = physical(&get_field(Expr::Column(row), ROW_WATERMARK))?;
                let late = Arc::clone(&late);
                Arc::new(LateRowsExec::new(rows, rule, watermark, late))
            }
            None => rows,
        };
        let context = PhysicalPlanningContext::default();
        let aggregates = self
            .split
            .aggregates
            .iter()
            .map(|expr| {
                // What it is of, and not what it is: that makes the state.
                let simplify = |part| simplifier.simplify(part).map(Transformed::yes);
                let expr = expr.clone().map_children(|part| match part {
                    Expr::AggregateFunction(_) => part.map_children(simplify),
                    part => simplify(part),
                })?;
                Ok(LoweredAggregateBuilder::new(
                    &expr.data,
                    &schema,
                    in_time.schema().as_ref(),
                    state.execution_props(),
                    &context,
                )
                .build()?)
            })
            .collect::<Result<Vec<_>>>()?;
        let output = self.split.output();
        let aggregate =
            IncrementalAggregate::try_new(shape, aggregates, &in_time.schema(), output)?;
        Ok(FrontPlan {
            plan: aggregate.partial(in_time)?,
            aggregate,
            late,
        })
    }

    /// Plans the upper half over emitted rows and these static tables.
    ///
    /// # Errors
    ///
    /// What the engine says.
    pub(super) async fn back(
        &self,
        state: &SessionState,
        emitted: &RecordBatch,
        tables: &BatchTables,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        plan_rows(state, sides::over(self.split.back(emitted)?, tables)?).await
    }
}

/// Simplifies expressions that no optimizer sees: some functions, such as `coalesce`, are only what they become.
fn simplifier(state: &SessionState, schema: &DFSchemaRef) -> ExprSimplifier {
    let context = SimplifyContext::builder()
        .with_schema(Arc::clone(schema))
        .with_config_options(Arc::clone(state.config_options()))
        .with_query_execution_start_time(state.execution_props().query_execution_start_time);
    ExprSimplifier::new(context.build())
}

/// Optimizes and plans what was analyzed before.
async fn plan_rows(state: &SessionState, plan: LogicalPlan) -> Result<Arc<dyn ExecutionPlan>> {
    let optimized = state.optimizer().optimize(plan, state, |_, _| {})?;
    Ok(state
        .query_planner()
        .create_physical_plan(&optimized, state)
        .await?)
}
