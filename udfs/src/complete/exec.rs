//! Physical operator of COMPLETE_SESSIONS and of aggregates over it: a leaf that plans and runs the slices of its input itself.

use std::fmt;
use std::sync::Arc;

use arrow::datatypes::SchemaRef;
use arrow::record_batch::RecordBatch;
use datafusion::common::tree_node::TreeNodeRecursion;
use datafusion::common::{Result, internal_err};
use datafusion::error::DataFusionError;
use datafusion::execution::{SendableRecordBatchStream, SessionState, TaskContext};
use datafusion::logical_expr::UserDefinedLogicalNodeCore;
use datafusion::physical_expr::aggregate::LoweredAggregate;
use datafusion::physical_expr::{EquivalenceProperties, Partitioning};
use datafusion::physical_plan::execution_plan::{
    Boundedness, EmissionType, ReplaceChildrenOptions, apply_expression_roots,
};
use datafusion::physical_plan::metrics::MetricsSet;
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use datafusion::physical_plan::{
    DisplayAs, DisplayFormatType, ExecutionPlan, PhysicalExpr, PlanProperties,
};
use futures::{TryStreamExt, stream};

use super::aggregate::{AggregateRun, CompleteSessionsAggregate};
use super::node::CompleteSessions;
use super::rows::RowsRun;
use super::run::{ExecutionState, ExplainMetrics};
use super::search::SessionSearch;
use super::slices::SliceReader;
use crate::children::replaces_children;
use crate::session::aggregate::{MergeRule, PartialRule, SessionAggregateExpr};
use crate::window::{column_name, ticks_per_hour};

/// Reads its input slice by slice and returns the rows of the sessions that touch the range, or, if created by
/// [`try_new_aggregate`](Self::try_new_aggregate), one row per such session.
///
/// One partition. Metrics: `slices` planned and run, `rows_read`, `files_read`, `capped_sessions`;
/// once it has run, the plan's text names the capped sessions.
/// The rows of the result's sessions are held until their sessions are known, with their memory
/// reserved.
#[derive(Clone)]
pub struct CompleteSessionsExec {
    node: CompleteSessions,
    reader: SliceReader,
    keys: Vec<Arc<dyn PhysicalExpr>>,
    event_time: Arc<dyn PhysicalExpr>,
    schema: SchemaRef,
    properties: Arc<PlanProperties>,
    aggregate: Option<AggregateRules>,
    shown: ExplainMetrics,
}

/// The aggregation by session.
#[derive(Clone)]
struct AggregateRules {
    partial: PartialRule,
    merge: MergeRule,
}

impl CompleteSessionsExec {
    /// The operator of `node`; `state` plans the slices.
    ///
    /// # Errors
    ///
    /// If the keys or the event time are not expressions over the node's input.
    pub fn try_new(node: &CompleteSessions, state: SessionState) -> Result<Self> {
        Self::over(
            node,
            SliceReader::new(node.clone(), state.clone(), false),
            &state,
        )
    }

    fn over(node: &CompleteSessions, reader: SliceReader, state: &SessionState) -> Result<Self> {
        let input = node.input().schema();
        let keys = node
            .keys()
            .iter()
            .map(|key| state.create_physical_expr(key.clone(), input))
            .collect::<Result<Vec<_>>>()?;
        let event_time = state.create_physical_expr(node.event_time().clone(), input)?;
        let schema = Arc::clone(node.schema().inner());
        Ok(Self {
            node: node.clone(),
            reader,
            keys,
            event_time,
            properties: properties(&schema),
            schema,
            aggregate: None,
            shown: ExplainMetrics::default(),
        })
    }

    /// The operator of an aggregate by completed session; `aggregates` are its own, lowered.
    ///
    /// # Errors
    ///
    /// As [`try_new`](Self::try_new).
    pub fn try_new_aggregate(
        node: &CompleteSessionsAggregate,
        aggregates: Vec<LoweredAggregate>,
        state: SessionState,
    ) -> Result<Self> {
        // The aggregation checks the event time of each row anyway.
        let reader = SliceReader::new(node.completion().clone(), state.clone(), true);
        let rows = Self::over(node.completion(), reader, &state)?;
        let aggregates: Vec<_> = aggregates
            .into_iter()
            .map(SessionAggregateExpr::new)
            .collect();
        let schema = Arc::clone(node.schema().inner());
        let gap = node.completion().gap();
        let rules = AggregateRules {
            merge: MergeRule {
                keys: rows.keys.len(),
                gap,
                aggregates: aggregates.clone(),
                groups: node.groups().to_vec(),
                schema: Arc::clone(&schema),
                event_time: column_name(&rows.event_time.to_string()),
            },
            partial: PartialRule {
                keys: rows.keys.clone(),
                event_time: Arc::clone(&rows.event_time),
                gap,
                aggregates,
            },
        };
        Ok(Self {
            properties: properties(&schema),
            schema,
            aggregate: Some(rules),
            ..rows
        })
    }

    fn run(&self, context: Arc<TaskContext>) -> Result<ExecutionState> {
        let input = Arc::clone(self.node.input().schema().inner());
        let hour = ticks_per_hour(&self.event_time.data_type(&input)?);
        ExecutionState::try_new(
            SessionSearch::new(self.node.gap(), self.node.range(), hour),
            self.reader.clone(),
            self.keys.clone(),
            Arc::clone(&self.event_time),
            &input,
            context,
            &self.shown,
        )
    }
}

fn properties(schema: &SchemaRef) -> Arc<PlanProperties> {
    Arc::new(PlanProperties::new(
        EquivalenceProperties::new(Arc::clone(schema)),
        Partitioning::UnknownPartitioning(1),
        EmissionType::Final,
        Boundedness::Bounded,
    ))
}

impl fmt::Debug for CompleteSessionsExec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CompleteSessionsExec")
            .field("node", &self.node)
            .finish_non_exhaustive()
    }
}

impl DisplayAs for CompleteSessionsExec {
    fn fmt_as(&self, _: DisplayFormatType, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("CompleteSessionsExec: ")?;
        self.node.fmt_for_explain(f)?;
        if let Some(rules) = &self.aggregate {
            let aggregates = rules.merge.aggregates.iter();
            let names: Vec<_> = aggregates
                .map(|aggregate| aggregate.function.name().to_owned())
                .collect();
            write!(f, ", aggr=[{}]", names.join(", "))?;
        }
        match self.shown.capped.get() {
            Some(capped) => write!(f, ", capped=[{}]", capped.names()),
            None => Ok(()),
        }
    }
}

impl ExecutionPlan for CompleteSessionsExec {
    fn name(&self) -> &str {
        "CompleteSessionsExec"
    }

    fn properties(&self) -> &Arc<PlanProperties> {
        &self.properties
    }

    fn children(&self) -> Vec<&Arc<dyn ExecutionPlan>> {
        vec![]
    }

    fn apply_expressions(
        &self,
        f: &mut dyn FnMut(&Arc<dyn PhysicalExpr>) -> Result<TreeNodeRecursion>,
    ) -> Result<TreeNodeRecursion> {
        apply_expression_roots(self.keys.iter().chain([&self.event_time]), f)
    }

    fn replace_children(
        self: Arc<Self>,
        children: Vec<Arc<dyn ExecutionPlan>>,
        _options: ReplaceChildrenOptions,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        if !children.is_empty() {
            return internal_err!("CompleteSessionsExec takes no children");
        }
        Ok(Arc::new(Self {
            shown: ExplainMetrics::default(),
            ..Self::clone(&*self)
        }))
    }

    replaces_children!();

    fn execute(
        &self,
        partition: usize,
        context: Arc<TaskContext>,
    ) -> Result<SendableRecordBatchStream> {
        if partition != 0 {
            return internal_err!("CompleteSessionsExec has one partition");
        }
        let run = self.run(context)?;
        let stages = match &self.aggregate {
            None => ExecutionStage::First(Box::new(RowsRun::new(run, Arc::clone(&self.schema)))),
            Some(AggregateRules { partial, merge }) => ExecutionStage::Aggregate(Box::new(
                AggregateRun::try_new(run, merge.clone(), partial.clone())?,
            )),
        };
        // Rows leave in two parts: those known after the first slice are returned before the search continues.
        let output = stream::try_unfold(stages, |stage| async move {
            let next: Option<(Vec<RecordBatch>, ExecutionStage)> = match stage {
                ExecutionStage::First(mut run) => {
                    let closed = run.first().await?;
                    Some((closed, ExecutionStage::Rest(run)))
                }
                ExecutionStage::Rest(mut run) => Some((run.rest().await?, ExecutionStage::Done)),
                ExecutionStage::Aggregate(run) => Some((run.all().await?, ExecutionStage::Done)),
                ExecutionStage::Done => None,
            };
            Ok::<_, DataFusionError>(next)
        })
        .map_ok(|batches| stream::iter(batches.into_iter().map(Ok)))
        .try_flatten();
        Ok(Box::pin(RecordBatchStreamAdapter::new(
            Arc::clone(&self.schema),
            output,
        )))
    }

    fn metrics(&self) -> Option<MetricsSet> {
        Some(self.shown.metrics.clone_inner())
    }
}

enum ExecutionStage {
    First(Box<RowsRun>),
    Rest(Box<RowsRun>),
    Aggregate(Box<AggregateRun>),
    Done,
}
