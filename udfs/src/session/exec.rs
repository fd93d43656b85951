//! Physical operator of SESSION.
//!
//! All rows of a key come to one partition. If they come in the order of key and event time, the operator cuts them as they
//! pass ([`sorted`](super::sorted)); otherwise it holds and groups them in memory, and sorts them with spilling if memory does
//! not suffice ([`buffered`](super::buffered)).

use std::fmt;
use std::sync::Arc;

use arrow::compute::SortOptions;
use arrow::datatypes::SchemaRef;
use datafusion::common::Result;
use datafusion::common::tree_node::TreeNodeRecursion;
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::physical_expr::{
    Distribution, EquivalenceProperties, LexOrdering, PhysicalSortExpr,
};
use datafusion::physical_plan::execution_plan::{
    EmissionType, ReplaceChildrenOptions, apply_expression_roots,
};
use datafusion::physical_plan::metrics::{
    BaselineMetrics, Count, ExecutionPlanMetricsSet, MetricBuilder, MetricsSet,
};
use datafusion::physical_plan::{
    DisplayAs, DisplayFormatType, ExecutionPlan, ExecutionPlanProperties,
    InputDistributionRequirements, PhysicalExpr, PlanProperties,
};

use super::{buffered, sorted};
use crate::children::{only_child, replaces_children};

/// Appends `window_start` and `window_end` of each row's session.
#[derive(Debug, Clone)]
pub struct SessionExec {
    input: Arc<dyn ExecutionPlan>,
    rule: SessionRule,
    /// Whether the input comes in the order of keys and event time.
    input_is_sorted: bool,
    properties: Arc<PlanProperties>,
    metrics: ExecutionPlanMetricsSet,
}

/// The definition of a session, and the shape of the output.
#[derive(Debug, Clone)]
pub(super) struct SessionRule {
    pub(super) keys: Vec<Arc<dyn PhysicalExpr>>,
    pub(super) event_time: Arc<dyn PhysicalExpr>,
    pub(super) gap: i64,
    pub(super) schema: SchemaRef,
}

impl SessionRule {
    /// The order in which sessions can be cut as rows pass.
    pub(super) fn ordering(&self) -> Option<LexOrdering> {
        // NULL keys are values like any other: their position in the order does not matter, only that they are adjacent.
        let options = SortOptions {
            descending: false,
            nulls_first: true,
        };
        LexOrdering::new(
            self.keys
                .iter()
                .chain([&self.event_time])
                .map(|expr| PhysicalSortExpr::new(Arc::clone(expr), options)),
        )
    }

    /// The event time's name, for messages.
    pub(super) fn event_time_name(&self) -> String {
        crate::window::column_name(&self.event_time.to_string())
    }
}

/// The operator's metrics.
#[derive(Debug)]
pub(super) struct SessionMetrics {
    pub(super) baseline: BaselineMetrics,
    /// Sessions found.
    pub(super) sessions: Count,
    /// Partitions that did not fit in memory and were sorted.
    pub(super) sorted_partitions: Count,
}

impl SessionExec {
    /// An operator with output `schema`: the input's columns and the two window columns. `gap`
    /// counts in the event time's unit.
    ///
    /// # Errors
    ///
    /// If the order of the input cannot be examined.
    pub fn try_new(
        input: Arc<dyn ExecutionPlan>,
        keys: Vec<Arc<dyn PhysicalExpr>>,
        event_time: Arc<dyn PhysicalExpr>,
        gap: i64,
        schema: SchemaRef,
    ) -> Result<Self> {
        let rule = SessionRule {
            keys,
            event_time,
            gap,
            schema,
        };
        let input_properties = input.properties().equivalence_properties();
        let input_is_sorted = match rule.ordering() {
            Some(ordering) => input_properties.ordering_satisfy(ordering)?,
            None => false,
        };
        let orderings: Vec<_> = if input_is_sorted {
            let class = input_properties.oeq_class();
            class
                .iter()
                .map(|ordering| ordering.iter().cloned().collect::<Vec<_>>())
                .collect()
        } else {
            vec![]
        };
        let properties = PlanProperties::new(
            EquivalenceProperties::new_with_orderings(Arc::clone(&rule.schema), orderings),
            input.output_partitioning().clone(),
            if input_is_sorted {
                EmissionType::Incremental
            } else {
                EmissionType::Final
            },
            input.boundedness(),
        );
        Ok(Self {
            input,
            rule,
            input_is_sorted,
            properties: Arc::new(properties),
            metrics: ExecutionPlanMetricsSet::new(),
        })
    }
}

impl DisplayAs for SessionExec {
    fn fmt_as(&self, _: DisplayFormatType, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let keys: Vec<_> = self.rule.keys.iter().map(ToString::to_string).collect();
        write!(
            f,
            "SessionExec: keys=[{}], event_time={}, gap={}, mode={}",
            keys.join(", "),
            self.rule.event_time,
            self.rule.gap,
            if self.input_is_sorted {
                "streaming"
            } else {
                "grouping"
            }
        )
    }
}

impl ExecutionPlan for SessionExec {
    fn name(&self) -> &str {
        "SessionExec"
    }

    fn properties(&self) -> &Arc<PlanProperties> {
        &self.properties
    }

    fn children(&self) -> Vec<&Arc<dyn ExecutionPlan>> {
        vec![&self.input]
    }

    fn input_distribution_requirements(&self) -> InputDistributionRequirements {
        InputDistributionRequirements::new(vec![if self.rule.keys.is_empty() {
            Distribution::SinglePartition
        } else {
            Distribution::KeyPartitioned(self.rule.keys.clone())
        }])
    }

    fn maintains_input_order(&self) -> Vec<bool> {
        vec![self.input_is_sorted]
    }

    fn apply_expressions(
        &self,
        f: &mut dyn FnMut(&Arc<dyn PhysicalExpr>) -> Result<TreeNodeRecursion>,
    ) -> Result<TreeNodeRecursion> {
        apply_expression_roots(self.rule.keys.iter().chain([&self.rule.event_time]), f)
    }

    fn replace_children(
        self: Arc<Self>,
        children: Vec<Arc<dyn ExecutionPlan>>,
        _options: ReplaceChildrenOptions,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        let input = only_child("SessionExec", children)?;
        let SessionRule {
            keys,
            event_time,
            gap,
            schema,
        } = self.rule.clone();
        Ok(Arc::new(Self::try_new(
            input, keys, event_time, gap, schema,
        )?))
    }

    replaces_children!();

    fn execute(
        &self,
        partition: usize,
        context: Arc<TaskContext>,
    ) -> Result<SendableRecordBatchStream> {
        let metrics = SessionMetrics {
            baseline: BaselineMetrics::new(&self.metrics, partition),
            sessions: MetricBuilder::new(&self.metrics).counter("sessions", partition),
            sorted_partitions: MetricBuilder::new(&self.metrics)
                .counter("sorted_partitions", partition),
        };
        let input = self.input.execute(partition, Arc::clone(&context))?;
        if self.input_is_sorted {
            sorted::stream(self.rule.clone(), input, &context, partition, metrics)
        } else {
            buffered::stream(self.rule.clone(), input, context, partition, metrics)
        }
    }

    fn metrics(&self) -> Option<MetricsSet> {
        Some(self.metrics.clone_inner())
    }
}
