//! Stateful part of a job, with an aggregate over more than one batch: the plan below the aggregate, which is planned for each
//! batch, and the plan above it.

use std::sync::Arc;

use anabranch_udfs::{
    FIRST_WINDOW_END, IncrementalAggregate, LateColumns, LateRowsExec, LateRule, SliceRowsExec,
    SliceRule, StateShape, WINDOW_END, WINDOW_START, guarded,
};
use datafusion::arrow::array::{Array as _, ArrayRef, RecordBatch};
use datafusion::arrow::datatypes::{DataType, TimeUnit};
use datafusion::arrow::util::display::array_value_to_string;
use datafusion::common::DFSchemaRef;
use datafusion::common::tree_node::{Transformed, TreeNode};
use datafusion::execution::SessionState;
use datafusion::functions::core::expr_fn::get_field;
use datafusion::logical_expr::physical_planning_context::PhysicalPlanningContext;
use datafusion::logical_expr::simplify::SimplifyContext;
use datafusion::logical_expr::{Expr, LogicalPlan};
use datafusion::optimizer::simplify_expressions::ExprSimplifier;
use datafusion::physical_expr::aggregate::LoweredAggregateBuilder;
use datafusion::physical_expr::expressions::Column as PhysicalColumn;
use datafusion::physical_plan::{ExecutionPlan, PhysicalExpr};

use crate::core::jobs::WatermarkPolicy;
use crate::error::{Error, Result};
use crate::planner::ast::Emit;
use crate::streaming::batch_tables::BatchInputs;
use crate::streaming::hidden_columns::find;
use crate::streaming::planning::plan_rows;
use crate::streaming::split::QuerySplit;
use crate::streaming::stream_inputs::StreamSources;
use crate::streaming::windowing::Windowing;
use crate::tables::time::{HIDDEN_END, HIDDEN_START, ROW_COLUMN, ROW_WATERMARK};

/// The stateful part of a job.
#[derive(Debug, Clone)]
pub struct StreamQuery {
    pub(super) split: QuerySplit,
    policy: WatermarkPolicy,
}

/// The lower half of a batch: from records to partial states.
#[derive(Debug)]
pub struct FrontPlan {
    /// The aggregate over the rows.
    pub aggregate: IncrementalAggregate,
    /// Gives partial states of the batch's rows; rows that were too late go to the side output of its task.
    pub plan: Arc<dyn ExecutionPlan>,
}

impl StreamQuery {
    /// Cuts a job's analyzed plan at its aggregate.
    ///
    /// # Errors
    ///
    /// An operation that a job does not support, by name.
    pub(crate) fn try_new(plan: LogicalPlan, sources: &StreamSources, emit: Emit) -> Result<Self> {
        let split = QuerySplit::try_new(plan, sources)?;
        let is_keyed = matches!(split.windowing, Windowing::Keys { .. });
        if is_keyed && emit == Emit::OnWindowClose {
            return Err(Error::invalid(
                "EMIT ON WINDOW CLOSE, the default, has no meaning without a window: nothing closes",
            )
            .with_help(
                "use EMIT CHANGES for a row per key that a batch touched, or group by the window_start of TUMBLE, HOP, \
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
        Ok(Self { split, policy })
    }

    /// Which partition holds the job's watermark.
    pub fn policy(&self) -> WatermarkPolicy {
        self.policy
    }

    /// What the state depends on, as it is written into versions: a job whose text gives another one cannot go on from it.
    pub fn fingerprint(&self) -> &str {
        &self.split.fingerprints.now
    }

    /// Whether state that was kept with this fingerprint was made by the same windows, keys and aggregates. Fingerprints of format 1
    /// are compared as they were made then.
    pub fn matches_fingerprint(&self, fingerprint: &str) -> bool {
        self.split.fingerprints.are_of(fingerprint)
    }

    /// Whether this fingerprint is of the same windows with state by window: earlier releases stored state so for windows whose
    /// state is by slice now.
    pub fn matches_window_fingerprint(&self, fingerprint: &str) -> bool {
        self.split.fingerprints.are_by_window(fingerprint)
    }

    /// Whether an emitted row can become invalid later: sessions grow and merge, and a filter may drop a group.
    pub fn withdraws(&self) -> bool {
        matches!(self.split.windowing, Windowing::Session(_)) || self.split.has_filter_above
    }

    /// The group of an emitted row for messages: its columns with their values.
    pub fn group_of(&self, emitted: &RecordBatch, row: usize) -> String {
        let fields = self.split.schema.fields().iter();
        let columns = fields.zip(emitted.columns()).take(self.split.groups);
        let values: Vec<String> = columns
            .map(|(field, column)| format!("{} = {}", field.name(), shown(column, row)))
            .collect();
        match values.is_empty() {
            true => "the one group".to_owned(),
            false => format!("group ({})", values.join(", ")),
        }
    }

    /// Whether it has no window: then keys stay in the state until they expire.
    pub fn is_keyed(&self) -> bool {
        matches!(self.split.windowing, Windowing::Keys { .. })
    }

    /// The analyzed plan of the rows below the aggregate.
    pub(crate) fn rows(&self) -> &LogicalPlan {
        &self.split.front
    }

    /// The window, for messages.
    pub fn window(&self) -> &str {
        &self.split.window
    }

    /// How long a window is, or the gap of sessions, in microseconds; none without a window.
    pub fn window_length(&self) -> Option<i64> {
        self.split.window_length
    }

    /// The unit of a state row of HOP or CUMULATE, for messages; none for other jobs, where it is obvious.
    pub fn state_unit(&self) -> Option<String> {
        if let Windowing::Sliced { slices, .. } = &self.split.windowing {
            let fields = self.split.front.schema().fields();
            let time = fields.iter().find(|field| field.name() == HIDDEN_START);
            let width = match time.map(|time| time.data_type()) {
                Some(DataType::Timestamp(unit, _)) => {
                    let per_second = match unit {
                        TimeUnit::Second => 1.0,
                        TimeUnit::Millisecond => 1e3,
                        TimeUnit::Microsecond => 1e6,
                        TimeUnit::Nanosecond => 1e9,
                    };
                    format!("{} seconds", slices.width() as f64 / per_second)
                }
                _ => format!("{} ticks", slices.width()),
            };
            return Some(format!("by slice of {width}, for any number of windows"));
        }
        let asking = self.split.unsliced.as_ref()?;
        Some(format!(
            "by window, each row once for each: {asking} asks for a row's window"
        ))
    }

    /// The aggregate, over a plan that reads no rows.
    ///
    /// # Errors
    ///
    /// Errors of DataFusion's planner.
    pub(crate) async fn aggregate(&self, state: &SessionState) -> Result<IncrementalAggregate> {
        Ok(self.front(state, &BatchInputs::default()).await?.aggregate)
    }

    /// Plans the lower half over the tables of a batch: streams with the hidden columns, and static tables.
    ///
    /// # Errors
    ///
    /// Errors of DataFusion's planner.
    pub(super) async fn front(
        &self,
        state: &SessionState,
        inputs: &BatchInputs,
    ) -> Result<FrontPlan> {
        let plan = inputs.put_into(self.split.front.clone())?;
        let schema = Arc::clone(plan.schema());
        let rows = plan_rows(state, plan).await?;
        let simplifier = simplifier(state, &schema);
        let physical = |expr: &Expr| -> Result<Arc<dyn PhysicalExpr>> {
            let expr = simplifier.simplify(guarded(expr.clone(), &schema)?)?;
            Ok(state.create_physical_expr(expr, &schema)?)
        };
        let all = |exprs: &[Expr]| exprs.iter().map(physical).collect::<Result<Vec<_>>>();
        let of_row = |name: &str| {
            let row = find(&schema, ROW_COLUMN)
                .ok_or_else(|| Error::internal("no source keeps the time of rows"))?;
            physical(&get_field(Expr::Column(row), name))
        };
        let watermark = || of_row(ROW_WATERMARK);
        let late = || -> Result<LateColumns> {
            let mut columns = Vec::new();
            for name in ["topic", "partition", "offset", "value", ROW_WATERMARK] {
                columns.push((name.to_owned(), of_row(name)?));
            }
            // The window that was missed; of a session it is not known.
            for (hidden, name) in [(HIDDEN_START, WINDOW_START), (HIDDEN_END, WINDOW_END)] {
                if let Some(column) = find(&schema, hidden) {
                    columns.push((name.to_owned(), physical(&Expr::Column(column))?));
                }
            }
            Ok(LateColumns::new(columns))
        };
        let without_late = |rows: Arc<dyn ExecutionPlan>, rule| -> Result<Arc<dyn ExecutionPlan>> {
            Ok(Arc::new(LateRowsExec::new(
                rows,
                rule,
                watermark()?,
                late()?,
            )))
        };
        let (shape, in_time) = match &self.split.windowing {
            Windowing::Keys { groups } => {
                let groups = all(groups)?;
                (StateShape::Keys { groups }, rows)
            }
            Windowing::Sliced {
                keys,
                groups,
                slices,
            } => {
                let place = |name| {
                    find(&schema, name)
                        .and_then(|column| schema.maybe_index_of_column(&column))
                        .ok_or_else(|| Error::internal("no source keeps the slices of rows"))
                };
                let rule = SliceRule {
                    slices: *slices,
                    start: place(HIDDEN_START)?,
                    end: place(HIDDEN_END)?,
                    watermark: watermark()?,
                };
                let column = |name: &str, index| -> Arc<dyn PhysicalExpr> {
                    Arc::new(PhysicalColumn::new(name, index))
                };
                let shape = StateShape::Slices {
                    keys: all(keys)?,
                    slice_start: column(HIDDEN_START, rule.start),
                    first_window_end: column(FIRST_WINDOW_END, schema.fields().len()),
                    slices: *slices,
                    groups: groups.clone(),
                };
                let rows = SliceRowsExec::new(rows, rule, late()?);
                (shape, Arc::new(rows) as Arc<dyn ExecutionPlan>)
            }
            Windowing::Aligned { groups, window_end } => {
                let window_end = physical(window_end)?;
                let shape = StateShape::Windows {
                    groups: all(groups)?,
                    window_end: Arc::clone(&window_end),
                };
                (shape, without_late(rows, LateRule::Window(window_end))?)
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
                (shape, without_late(rows, LateRule::Session(event_time))?)
            }
        };
        let context = PhysicalPlanningContext::default();
        let aggregates = self
            .split
            .aggregates
            .iter()
            .map(|expr| {
                // Only the arguments of the aggregate are simplified, not the aggregate itself, since that determines the
                // state.
                let simplify = |part| simplifier.simplify(part).map(Transformed::yes);
                let expr = guarded(expr.clone(), &schema)?;
                let expr = expr.map_children(|part| match part {
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
        })
    }

    /// Plans the upper half over emitted rows and the static tables of a batch.
    ///
    /// # Errors
    ///
    /// Errors of DataFusion's planner.
    pub(super) async fn back(
        &self,
        state: &SessionState,
        emitted: &RecordBatch,
        inputs: &BatchInputs,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        plan_rows(state, inputs.put_into(self.split.back(emitted)?)?).await
    }
}

/// A value for messages, shortened if it is long.
pub(super) fn shown(column: &ArrayRef, row: usize) -> String {
    const CHARACTERS: usize = 200;
    if column.is_null(row) {
        return "NULL".to_owned();
    }
    let value = array_value_to_string(column, row).unwrap_or_else(|_| "?".to_owned());
    let short: String = value.chars().take(CHARACTERS).collect();
    match short.len() < value.len() {
        true => format!("{short}…"),
        false => short,
    }
}

/// A simplifier for expressions that no optimizer rewrites: some functions, such as `coalesce`, can only run in simplified
/// form.
fn simplifier(state: &SessionState, schema: &DFSchemaRef) -> ExprSimplifier {
    let context = SimplifyContext::builder()
        .with_schema(Arc::clone(schema))
        .with_config_options(Arc::clone(state.config_options()))
        .with_query_execution_start_time(state.execution_props().query_execution_start_time);
    ExprSimplifier::new(context.build())
}
