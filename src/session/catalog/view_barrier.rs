//! Views over tables that their reader may not use: the reader sees the view's rows and columns, and nothing of the tables
//! below.
//!
//! The optimizer moves conditions down to the scan, below the view's own conditions. A condition that fails, such as a cast,
//! would then be evaluated on rows that the view filters out, and its error would reveal them. So such a view is a table of its
//! own: only projections and comparisons with a literal, which cannot fail, are pushed into it; its plan is displayed as one
//! operator; and an error inside it is reported without its details.

use std::fmt;
use std::sync::Arc;

use anabranch_udfs::has_no_children;
use async_trait::async_trait;
use datafusion::arrow::datatypes::SchemaRef;
use datafusion::catalog::{Session, TableProvider};
use datafusion::common::tree_node::{Transformed, TreeNode as _, TreeNodeRecursion};
use datafusion::datasource::{TableType, source_as_provider};
use datafusion::error::{DataFusionError, Result as DataFusionResult};
use datafusion::execution::session_state::{SessionState, SessionStateBuilder};
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::logical_expr::{
    BinaryExpr, Expr, LogicalPlan, LogicalPlanBuilder, Operator, TableProviderFilterPushDown,
};
use datafusion::physical_expr::EquivalenceProperties;
use datafusion::physical_plan::execution_plan::{Boundedness, EmissionType};
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use datafusion::physical_plan::{
    DisplayAs, DisplayFormatType, ExecutionPlan, ExecutionPlanProperties as _, PlanProperties,
};
use futures::StreamExt as _;

use crate::core::stack::with_stack;
use crate::error::{Error, ErrorKind, Subject};

/// The error that the reader sees for an error inside such a view.
pub(crate) fn hidden(view: &str, error: &Error) -> Error {
    tracing::warn!(view, "an error in a view: {}", error.message());
    match error.kind() {
        // These kinds are about the server, or about the reading statement.
        kind @ (ErrorKind::Exhausted
        | ErrorKind::Cancelled
        | ErrorKind::Timeout
        | ErrorKind::Unavailable) => {
            Error::new(kind, format!("view {view} could not be read to its end"))
                .about(Subject::table(view))
        }
        kind => Error::new(kind, format!("an error in view {view}")).about(Subject::table(view)),
    }
    .with_help("the log of the server has the cause")
}

/// A view that hides the tables below it.
#[derive(Debug)]
pub(crate) struct BarrierView {
    name: String,
    plan: LogicalPlan,
    schema: SchemaRef,
}

impl BarrierView {
    pub(crate) fn new(name: &str, plan: LogicalPlan) -> Self {
        Self {
            name: name.to_owned(),
            schema: Arc::new(plan.schema().as_arrow().clone()),
            plan,
        }
    }

    /// Reads the view's rows that pass the reader's comparisons, with the projected columns.
    fn read(
        &self,
        projection: Option<&Vec<usize>>,
        filters: &[Expr],
    ) -> DataFusionResult<LogicalPlan> {
        let columns = self.plan.schema().columns();
        let mut plan = LogicalPlanBuilder::from(self.plan.clone());
        for filter in filters {
            let own = filter.clone().transform(|part| match &part {
                Expr::Column(column) => {
                    let at = self.schema.index_of(&column.name)?;
                    Ok(Transformed::yes(Expr::Column(columns[at].clone())))
                }
                _ => Ok(Transformed::no(part)),
            })?;
            plan = plan.filter(own.data)?;
        }
        if let Some(projection) = projection {
            let wanted = projection
                .iter()
                .map(|at| Expr::Column(columns[*at].clone()));
            plan = plan.project(wanted)?;
        }
        plan.build()
    }
}

/// Replaces the names of such views in a stream's plan by their plans; returns the plan and the name of one of the views, or no
/// name if there is none. Only conditions move below a view, so the view still hides its rows if none of the conditions can
/// fail.
///
/// # Errors
///
/// A condition could fail on rows that the view filters out.
pub(crate) fn opened(plan: LogicalPlan) -> Result<(LogicalPlan, Option<String>), Error> {
    opened_within(plan, None)
}

/// As [`opened`]; `outer` names the view around the plan, if there is one: such a view may be over another one.
fn opened_within(
    plan: LogicalPlan,
    outer: Option<&str>,
) -> Result<(LogicalPlan, Option<String>), Error> {
    let mut view = None;
    let opened = plan.clone().transform_up_with_subqueries(|part| {
        let LogicalPlan::TableScan(scan) = &part else {
            return Ok(Transformed::no(part));
        };
        let provider = source_as_provider(&scan.source).ok();
        let provider = provider.as_ref();
        let Some(barrier) = provider.and_then(|provider| provider.downcast_ref::<BarrierView>())
        else {
            return Ok(Transformed::no(part));
        };
        view = Some(barrier.name.clone());
        let rows = barrier.read(scan.projection.as_ref(), &scan.filters)?;
        let outer = outer.unwrap_or(&barrier.name);
        let (rows, _) = with_stack(|| opened_within(rows, Some(outer)))?;
        let rows = LogicalPlanBuilder::from(rows).alias(scan.table_name.clone())?;
        Ok(Transformed::yes(rows.build()?))
    })?;
    if let Some(view) = &view
        && let Some(condition) = condition_that_can_fail(&plan)?
    {
        if let Some(outer) = outer {
            // The condition belongs to the outer view's definition, which is hidden.
            tracing::warn!(
                view = outer,
                "a condition over view {view} could fail: {condition}"
            );
            return Err(Error::unsupported(format!(
                "view {outer} is not read as a stream: it is over another view, and a condition in it could fail on rows which \
                 that one leaves out"
            ))
            .with_help("the log of the server has the condition"));
        }
        return Err(Error::unsupported(format!(
            "over view {view}, which hides the tables that it reads, a stream only has conditions that compare columns with \
             values: not {condition}"
        ))
        .about(Subject::table(view))
        .with_help("put the condition into the view"));
    }
    Ok((opened.data, view))
}

/// A state that plans a stream over such views. One rule of the engine moves projected expressions below a view's condition,
/// where they could fail on rows that the view filters out: this state omits that rule.
pub(crate) fn planning_above(state: &SessionState) -> SessionState {
    let rules = state.physical_optimizers().iter();
    let rules = rules.filter(|rule| rule.name() != "ProjectionPushdown");
    SessionStateBuilder::new_from_existing(state.clone())
        .with_physical_optimizer_rules(rules.cloned().collect())
        .build()
}

fn condition_that_can_fail(plan: &LogicalPlan) -> DataFusionResult<Option<String>> {
    let mut found = None;
    plan.apply_with_subqueries(|part| {
        let conditions: Vec<&Expr> = match part {
            LogicalPlan::Filter(filter) => vec![&filter.predicate],
            LogicalPlan::Join(join) => {
                let keys = join.on.iter().flat_map(|(left, right)| [left, right]);
                keys.chain(&join.filter).collect()
            }
            _ => Vec::new(),
        };
        let can_fail = |condition: &&Expr| !cannot_fail(condition);
        found = conditions
            .into_iter()
            .find(can_fail)
            .map(ToString::to_string);
        Ok(match found {
            Some(_) => TreeNodeRecursion::Stop,
            None => TreeNodeRecursion::Continue,
        })
    })?;
    Ok(found)
}

#[async_trait]
impl TableProvider for BarrierView {
    fn schema(&self) -> SchemaRef {
        Arc::clone(&self.schema)
    }

    fn table_type(&self) -> TableType {
        TableType::View
    }

    fn supports_filters_pushdown(
        &self,
        filters: &[&Expr],
    ) -> DataFusionResult<Vec<TableProviderFilterPushDown>> {
        let of = |filter: &&Expr| match cannot_fail(filter) {
            true => TableProviderFilterPushDown::Inexact,
            false => TableProviderFilterPushDown::Unsupported,
        };
        Ok(filters.iter().map(of).collect())
    }

    async fn scan(
        &self,
        state: &dyn Session,
        projection: Option<&Vec<usize>>,
        filters: &[Expr],
        _: Option<usize>,
    ) -> DataFusionResult<Arc<dyn ExecutionPlan>> {
        let said =
            |error: DataFusionError| DataFusionError::from(hidden(&self.name, &error.into()));
        let plan = self.read(projection, filters).map_err(said)?;
        let inner = state.create_physical_plan(&plan).await.map_err(said)?;
        Ok(Arc::new(BarrierExec::new(&self.name, inner)))
    }
}

/// Comparisons of columns with literals. Casts, computations and calls can fail, or reveal their arguments.
fn cannot_fail(filter: &Expr) -> bool {
    let plain = |expr: &Expr| matches!(expr, Expr::Column(_) | Expr::Literal(..));
    match filter {
        Expr::BinaryExpr(BinaryExpr {
            left,
            op: Operator::And | Operator::Or,
            right,
        }) => cannot_fail(left) && cannot_fail(right),
        Expr::Not(of) => cannot_fail(of),
        Expr::BinaryExpr(BinaryExpr { left, op, right }) => {
            let compares = matches!(
                op,
                Operator::Eq
                    | Operator::NotEq
                    | Operator::Lt
                    | Operator::LtEq
                    | Operator::Gt
                    | Operator::GtEq
            );
            compares && plain(left) && plain(right)
        }
        Expr::IsNull(of) | Expr::IsNotNull(of) => plain(of),
        Expr::InList(list) => plain(&list.expr) && list.list.iter().all(plain),
        Expr::Column(_) => true,
        _ => false,
    }
}

/// The view's plan as one operator.
#[derive(Debug)]
pub(crate) struct BarrierExec {
    view: Arc<str>,
    inner: Arc<dyn ExecutionPlan>,
    properties: Arc<PlanProperties>,
}

impl BarrierExec {
    fn new(view: &str, inner: Arc<dyn ExecutionPlan>) -> Self {
        let properties = PlanProperties::new(
            EquivalenceProperties::new(inner.schema()),
            inner.output_partitioning().clone(),
            EmissionType::Incremental,
            Boundedness::Bounded,
        );
        Self {
            view: view.into(),
            inner,
            properties: Arc::new(properties),
        }
    }
}

impl DisplayAs for BarrierExec {
    fn fmt_as(&self, _: DisplayFormatType, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ViewExec: view={}", self.view)
    }
}

impl ExecutionPlan for BarrierExec {
    // The plan below was planned and optimized by itself, and is not displayed.
    has_no_children!("ViewExec");

    fn execute(
        &self,
        partition: usize,
        context: Arc<TaskContext>,
    ) -> DataFusionResult<SendableRecordBatchStream> {
        let view = Arc::clone(&self.view);
        let said =
            move |error: DataFusionError| DataFusionError::from(hidden(&view, &error.into()));
        let rows = self.inner.execute(partition, context).map_err(&said)?;
        let rows = rows.map(move |batch| batch.map_err(&said));
        Ok(Box::pin(RecordBatchStreamAdapter::new(
            self.inner.schema(),
            rows,
        )))
    }
}
