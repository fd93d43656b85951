//! Reader of the input's slices: it plans the input again with a filter for each slice, so that file statistics prune.

use std::collections::HashSet;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef};
use arrow::datatypes::DataType;
use datafusion::common::{Result, ScalarValue};
use datafusion::execution::{SendableRecordBatchStream, SessionState, TaskContext};
use datafusion::logical_expr::expr::InList;
use datafusion::logical_expr::{Expr, LogicalPlan, LogicalPlanBuilder, lit, not};
use datafusion::optimizer::Optimizer;
use datafusion::physical_plan::metrics::{Count, MetricValue};
use datafusion::physical_plan::{ExecutionPlan, execute_stream};

use super::node::CompleteSessions;
use super::null_free::NullFreeColumns;
use super::scan::{self, SliceBounds};
use super::search::TickRange;
use crate::push_down_filters::PushDownFilters;

/// For more open keys than this, an IN list costs more than it saves.
const MAX_LISTED_KEYS: usize = 256;

/// Everything needed to read the input.
#[derive(Debug, Clone)]
pub(super) struct SliceReader {
    node: CompleteSessions,
    state: SessionState,
    /// The input is a table with unchanged columns.
    is_plain: bool,
    /// The reader of a slice drops rows of other event times itself.
    any_rows: bool,
}

impl SliceReader {
    /// A reader for the input of `node`; with `any_rows` a slice's plan may also return other rows.
    pub(super) fn new(node: CompleteSessions, state: SessionState, any_rows: bool) -> Self {
        Self {
            any_rows,
            is_plain: scan::is_plain(&node),
            node,
            state,
        }
    }

    /// The plan of the rows in `slice`; with `keys` (a row per requested key and a column per key column) it may be restricted
    /// to these keys.
    pub(super) async fn plan_slice(
        &self,
        slice: TickRange,
        keys: Option<&[ArrayRef]>,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        let event_time = self.node.event_time();
        let mut filter = event_time
            .clone()
            .gt_eq(self.tick(slice.from)?)
            .and(event_time.clone().lt(self.tick(slice.to)?));
        for (expr, values) in self.node.keys().iter().zip(keys.unwrap_or_default()) {
            if let Some(listed) = key_filter(expr, values)? {
                filter = filter.and(listed);
            }
        }
        let plan = self.plan(self.filtered(filter)?.build()?).await?;
        scan::without_duplicate_filters(plan, &self.bounds(slice)?)
    }

    /// Whether the scans of `plan`, a plan of `slice` for all keys, filter rows by the slice's
    /// bounds alone.
    pub(super) fn is_bounded_only(
        &self,
        plan: &Arc<dyn ExecutionPlan>,
        slice: TickRange,
    ) -> Result<bool> {
        Ok(self.is_plain && scan::is_bounded_only(plan, &self.bounds(slice)?)?)
    }

    /// The cheapest form of such a plan.
    pub(super) fn relaxed(&self, plan: Arc<dyn ExecutionPlan>) -> Result<Arc<dyn ExecutionPlan>> {
        if self.any_rows {
            return scan::without_row_filter(plan);
        }
        Ok(plan)
    }

    /// Turns a plan of `longer`, for all keys, into one of `slice`, for `keys` only; `None` if that requires a new plan.
    pub(super) fn cut_out(
        &self,
        plan: Arc<dyn ExecutionPlan>,
        longer: TickRange,
        slice: TickRange,
        keys: &[ArrayRef],
    ) -> Result<Option<Arc<dyn ExecutionPlan>>> {
        if !self.is_bounded_only(&plan, longer)? {
            return Ok(None);
        }
        let (longer, bounds) = (self.bounds(longer)?, self.bounds(slice)?);
        let Some(plan) = scan::resliced(plan, &longer, &bounds)? else {
            return Ok(None);
        };
        let mut filters = vec![];
        for (expr, values) in self.node.keys().iter().zip(keys) {
            filters.extend(key_filter(expr, values)?);
        }
        match filters.into_iter().reduce(Expr::and) {
            Some(filter) => scan::narrowed(plan, &filter, &self.node, &self.state),
            None => self.relaxed(plan).map(Some),
        }
    }

    fn bounds(&self, slice: TickRange) -> Result<SliceBounds> {
        SliceBounds::try_new(slice, self.node.event_time(), &self.time_type()?)
    }

    /// NULL-1: the plan of at most one row without an event time; `None` if the column cannot have NULLs, or they are passed over.
    pub(super) async fn plan_null_event_times(&self) -> Result<Option<Arc<dyn ExecutionPlan>>> {
        use datafusion::logical_expr::ExprSchemable;
        let event_time = self.node.event_time();
        if self.node.passes_nulls() || !event_time.nullable(self.node.input().schema().as_ref())? {
            return Ok(None);
        }
        let known = self.state.config().get_extension::<NullFreeColumns>();
        if known.is_some_and(|known| known.has(self.node.input(), event_time)) {
            return Ok(None);
        }
        let rows = self
            .filtered(event_time.clone().is_null())?
            .project([event_time.clone()])?
            .limit(0, Some(1))?
            .build()?;
        Ok(Some(self.plan(rows).await?))
    }

    pub(super) fn execute(
        &self,
        plan: Arc<dyn ExecutionPlan>,
        context: &Arc<TaskContext>,
    ) -> Result<SendableRecordBatchStream> {
        execute_stream(plan, Arc::clone(context))
    }

    fn filtered(&self, filter: Expr) -> Result<LogicalPlanBuilder> {
        LogicalPlanBuilder::from(self.node.input().clone()).filter(filter)
    }

    fn tick(&self, tick: i64) -> Result<Expr> {
        Ok(lit(
            ScalarValue::Int64(Some(tick)).cast_to(&self.time_type()?)?
        ))
    }

    fn time_type(&self) -> Result<DataType> {
        use datafusion::logical_expr::ExprSchemable;
        let schema = self.node.input().schema();
        self.node.event_time().get_type(schema.as_ref())
    }

    /// Optimizes and plans. The input was analyzed with the statement: the session's analyzer rules do not run on it again.
    async fn plan(&self, plan: LogicalPlan) -> Result<Arc<dyn ExecutionPlan>> {
        let optimized = if self.is_plain {
            // The input is optimized already; only the filter must be pushed to its scan.
            let push_down = Optimizer::with_rules(vec![Arc::new(PushDownFilters::default())]);
            push_down.optimize(plan, &self.state, |_, _| {})?
        } else {
            let optimizer = self.state.optimizer();
            optimizer.optimize(plan, &self.state, |_, _| {})?
        };
        let planner = self.state.query_planner();
        let plan = planner
            .create_physical_plan(&optimized, &self.state)
            .await?;
        scan::with_whole_files(plan)
    }
}

/// `expr IN (values)`, with NULL among them as a value; None if the values are too many.
fn key_filter(expr: &Expr, values: &ArrayRef) -> Result<Option<Expr>> {
    if values.len() > MAX_LISTED_KEYS {
        return Ok(None);
    }
    let mut distinct = HashSet::new();
    for row in 0..values.len() {
        distinct.insert(ScalarValue::try_from_array(values, row)?);
    }
    let has_null = distinct.iter().any(ScalarValue::is_null);
    let mut list: Vec<Expr> = distinct
        .into_iter()
        .filter(|value| !value.is_null())
        .map(lit)
        .collect();
    list.sort_by_cached_key(ToString::to_string);
    let listed = match list.as_slice() {
        [] => None,
        [only] => Some(expr.clone().eq(only.clone())),
        _ => Some(Expr::InList(InList::new(
            Box::new(expr.clone()),
            list,
            false,
        ))),
    };
    Ok(match (listed, has_null) {
        (Some(listed), true) => Some(listed.or(expr.clone().is_null())),
        (Some(listed), false) => Some(listed),
        (None, true) => Some(expr.clone().is_null()),
        (None, false) => Some(not(lit(true))),
    })
}

/// Adds the files that `plan` and the plans below it opened, less those that statistics ruled out
/// on opening, to `files`.
pub(super) fn count_files(plan: &dyn ExecutionPlan, files: &Count) {
    if let Some(metrics) = plan.metrics() {
        let mut opened = 0_usize;
        let mut pruned = 0_usize;
        for metric in metrics.iter() {
            match metric.value() {
                MetricValue::Count { name, count } if name == "files_opened" => {
                    opened += count.value();
                }
                MetricValue::PruningMetrics {
                    name,
                    pruning_metrics,
                } if name == "files_ranges_pruned_statistics" => {
                    pruned += pruning_metrics.pruned();
                }
                _ => {}
            }
        }
        files.add(opened.saturating_sub(pruned));
    }
    for child in plan.children() {
        count_files(child.as_ref(), files);
    }
}
