//! The operator of COMPLETE_SESSIONS: a leaf that plans and runs the slices of its input itself.

use std::fmt;
use std::sync::Arc;

use arrow::datatypes::SchemaRef;
use arrow::record_batch::RecordBatch;
use datafusion::common::tree_node::TreeNodeRecursion;
use datafusion::common::{Result, internal_err};
use datafusion::error::DataFusionError;
use datafusion::execution::{SendableRecordBatchStream, SessionState, TaskContext};
use datafusion::logical_expr::UserDefinedLogicalNodeCore;
use datafusion::physical_expr::{EquivalenceProperties, Partitioning};
use datafusion::physical_plan::execution_plan::{
    Boundedness, ChildrenPropertiesMode, EmissionType, ReplaceChildrenOptions,
    apply_expression_roots,
};
use datafusion::physical_plan::metrics::MetricsSet;
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use datafusion::physical_plan::{
    DisplayAs, DisplayFormatType, ExecutionPlan, PhysicalExpr, PlanProperties,
};
use futures::{TryStreamExt, stream};

use super::node::CompleteSessions;
use super::run::{Run, Shown};
use super::search::Search;
use super::slices::SliceReader;

/// Reads its input slice by slice and gives the rows of the sessions that touch the range.
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
    shown: Shown,
}

impl CompleteSessionsExec {
    /// The operator of `node`; `state` plans the slices.
    ///
    /// # Errors
    ///
    /// If the keys or the event time are not expressions over the node's input.
    pub fn try_new(node: &CompleteSessions, state: SessionState) -> Result<Self> {
        let input = node.input().schema();
        let keys = node
            .keys()
            .iter()
            .map(|key| state.create_physical_expr(key.clone(), input))
            .collect::<Result<Vec<_>>>()?;
        let event_time = state.create_physical_expr(node.event_time().clone(), input)?;
        let schema = Arc::clone(node.schema().inner());
        let properties = PlanProperties::new(
            EquivalenceProperties::new(Arc::clone(&schema)),
            Partitioning::UnknownPartitioning(1),
            EmissionType::Final,
            Boundedness::Bounded,
        );
        Ok(Self {
            node: node.clone(),
            reader: SliceReader::new(node.clone(), state),
            keys,
            event_time,
            schema,
            properties: Arc::new(properties),
            shown: Shown::default(),
        })
    }
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
            shown: Shown::default(),
            ..Self::clone(&*self)
        }))
    }

    fn with_new_children(
        self: Arc<Self>,
        children: Vec<Arc<dyn ExecutionPlan>>,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        self.replace_children(
            children,
            ReplaceChildrenOptions::new(ChildrenPropertiesMode::Recompute),
        )
    }

    fn execute(
        &self,
        partition: usize,
        context: Arc<TaskContext>,
    ) -> Result<SendableRecordBatchStream> {
        if partition != 0 {
            return internal_err!("CompleteSessionsExec has one partition");
        }
        let run = Run::try_new(
            Search::new(self.node.gap(), self.node.range()),
            self.reader.clone(),
            self.keys.clone(),
            Arc::clone(&self.event_time),
            Arc::clone(&self.schema),
            context,
            &self.shown,
        )?;
        // Two parts: what is known after the first slice leaves before the search goes on.
        let output = stream::try_unfold(Stage::First(Box::new(run)), |stage| async move {
            let next: Option<(Vec<RecordBatch>, Stage)> = match stage {
                Stage::First(mut run) => {
                    let nulls = run.look_for_null_event_times();
                    run.read_first().await?;
                    run.refuse_null_event_times(nulls).await?;
                    let closed = run.emit_closed()?;
                    Some((closed, Stage::Extend(run)))
                }
                Stage::Extend(mut run) => {
                    run.extend().await?;
                    run.report_capped()?;
                    let rest = run.emit_rest()?;
                    Some((rest, Stage::Done))
                }
                Stage::Done => None,
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

enum Stage {
    First(Box<Run>),
    Extend(Box<Run>),
    Done,
}
