//! Operator that removes late rows and collects them (TIME-2).

use std::fmt;
use std::sync::Arc;

use arrow::array::{Array, AsArray, BooleanArray};
use arrow::compute::{filter_record_batch, not};
use arrow::datatypes::Int64Type;
use arrow::record_batch::RecordBatch;
use datafusion::common::tree_node::TreeNodeRecursion;
use datafusion::common::{Result, exec_datafusion_err};
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::physical_plan::execution_plan::{ReplaceChildrenOptions, apply_expression_roots};
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use datafusion::physical_plan::{
    DisplayAs, DisplayFormatType, ExecutionPlan, PhysicalExpr, PlanProperties,
};
use futures::StreamExt;

use crate::children::{only_child, replaces_children};
use crate::side_output::{LateColumns, SideOutput};
use crate::window::ticks;

/// When a row is late, against the watermark of its own partition.
#[derive(Debug, Clone)]
pub enum LateRule {
    /// Its window ends at or before the watermark; the expression gives the window's end.
    Window(Arc<dyn PhysicalExpr>),
    /// Its event time is before the watermark; the expression gives the event time.
    Session(Arc<dyn PhysicalExpr>),
}

impl LateRule {
    fn time(&self) -> &Arc<dyn PhysicalExpr> {
        match self {
            LateRule::Window(time) | LateRule::Session(time) => time,
        }
    }
}

/// Passes rows on that are in time; the others go to the side output of the task.
#[derive(Debug, Clone)]
pub struct LateRowsExec {
    input: Arc<dyn ExecutionPlan>,
    rule: LateRule,
    /// Computes the watermark that a row met, as BIGINT in the event time's unit; the lowest number means no watermark.
    watermark: Arc<dyn PhysicalExpr>,
    late: LateColumns,
}

impl LateRowsExec {
    /// Rows of `input`; side output has `late` of those that are late.
    pub fn new(
        input: Arc<dyn ExecutionPlan>,
        rule: LateRule,
        watermark: Arc<dyn PhysicalExpr>,
        late: LateColumns,
    ) -> Self {
        Self {
            input,
            rule,
            watermark,
            late,
        }
    }
}

impl DisplayAs for LateRowsExec {
    fn fmt_as(&self, _: DisplayFormatType, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.rule {
            LateRule::Window(end) => write!(f, "LateRowsExec: {end} <= {}", self.watermark),
            LateRule::Session(time) => write!(f, "LateRowsExec: {time} < {}", self.watermark),
        }
    }
}

impl ExecutionPlan for LateRowsExec {
    fn name(&self) -> &str {
        "LateRowsExec"
    }

    fn properties(&self) -> &Arc<PlanProperties> {
        self.input.properties()
    }

    fn children(&self) -> Vec<&Arc<dyn ExecutionPlan>> {
        vec![&self.input]
    }

    fn maintains_input_order(&self) -> Vec<bool> {
        vec![true]
    }

    fn apply_expressions(
        &self,
        f: &mut dyn FnMut(&Arc<dyn PhysicalExpr>) -> Result<TreeNodeRecursion>,
    ) -> Result<TreeNodeRecursion> {
        let rule = [self.rule.time(), &self.watermark];
        apply_expression_roots(rule.into_iter().chain(self.late.exprs()), f)
    }

    fn replace_children(
        self: Arc<Self>,
        children: Vec<Arc<dyn ExecutionPlan>>,
        _options: ReplaceChildrenOptions,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        let input = only_child("LateRowsExec", children)?;
        Ok(Arc::new(Self {
            input,
            ..Self::clone(&*self)
        }))
    }

    replaces_children!();

    fn execute(
        &self,
        partition: usize,
        context: Arc<TaskContext>,
    ) -> Result<SendableRecordBatchStream> {
        let output_of_task = SideOutput::of(&context)?;
        let input = self.input.execute(partition, context)?;
        let (rule, watermark) = (self.rule.clone(), Arc::clone(&self.watermark));
        let late = self.late.clone();
        let schema = self.schema();
        let output = input.map(move |batch| {
            let batch = batch?;
            let Some(mask) = late_mask(&batch, &rule, &watermark)? else {
                return Ok(batch);
            };
            let rows = filter_record_batch(&batch, &mask)?;
            output_of_task.give(late.side_rows(&rows)?)?;
            Ok(filter_record_batch(&batch, &not(&mask)?)?)
        });
        Ok(Box::pin(RecordBatchStreamAdapter::new(schema, output)))
    }
}

/// Which rows are late; `None` if no row is.
fn late_mask(
    batch: &RecordBatch,
    rule: &LateRule,
    watermark: &Arc<dyn PhysicalExpr>,
) -> Result<Option<BooleanArray>> {
    let rows = batch.num_rows();
    let times = rule.time().evaluate(batch)?.into_array(rows)?;
    if times.null_count() > 0 {
        // NULL-1: a source that tracks event time removes such rows before they come here.
        return Err(exec_datafusion_err!("a row without an event time"));
    }
    let times = ticks(&times)?;
    let watermarks = watermark.evaluate(batch)?.into_array(rows)?;
    let watermarks = watermarks.as_primitive::<Int64Type>().values();
    let is_late = |row: usize| match rule {
        LateRule::Window(_) => times[row] <= watermarks[row],
        LateRule::Session(_) => times[row] < watermarks[row],
    };
    if !(0..rows).any(is_late) {
        return Ok(None);
    }
    Ok(Some((0..rows).map(|row| Some(is_late(row))).collect()))
}
