//! Hidden columns: they carry each row's place, the watermark that it met and its window from the scan to the aggregate.
//!
//! They are added after the SQL was planned, so that `*` does not show them.

use std::sync::Arc;

use anabranch_udfs::{EventWindow, SessionWindow, WINDOW_END, WINDOW_START};
use datafusion::arrow::datatypes::Schema;
use datafusion::catalog::TableProvider;
use datafusion::common::{Column, DFSchema};
use datafusion::datasource::empty::EmptyTable;
use datafusion::datasource::provider_as_source;
use datafusion::logical_expr::{
    Expr, Extension, Filter, Join, LogicalPlan, LogicalPlanBuilder, Projection, SubqueryAlias,
    TableScan, TableScanBuilder, Union, UserDefinedLogicalNodeCore,
};

use crate::error::{Error, Result};
use crate::streaming::stream_inputs::{StreamSources, StreamTable, reads_stream};
use crate::tables::kafka::KafkaTableProvider;
use crate::tables::time::{BatchTime, HIDDEN_END, HIDDEN_START, ROW_COLUMN, row_field};

/// Whether a row is one of those whose groups a run is restricted to.
pub(super) const HIDDEN_SELECTED: &str = "__row_selected";

const HIDDEN: [&str; 4] = [ROW_COLUMN, HIDDEN_START, HIDDEN_END, HIDDEN_SELECTED];

/// What takes the place of the streams' scans and windows: plans with hidden columns.
pub(super) trait HiddenColumns {
    /// The scan of a stream.
    fn scan(&self, scan: &TableScan) -> Result<LogicalPlan>;

    /// Windows over an input with hidden columns.
    fn windows(&self, window: EventWindow) -> Result<LogicalPlan> {
        with_window_columns(extension(window))
    }

    /// Sessions over an input with hidden columns.
    fn sessions(&self, window: SessionWindow) -> Result<LogicalPlan> {
        Ok(extension(window))
    }

    /// Whether all operators of a job that groups no rows may stand above a stream, also those that do not run below an aggregate.
    fn are_above_rows(&self) -> bool {
        false
    }
}

/// For the state of a job: each row carries its place, the watermark that it met, and its window if that is aligned.
pub(super) struct StateColumns<'a>(pub(super) &'a StreamSources);

impl HiddenColumns for StateColumns<'_> {
    fn scan(&self, scan: &TableScan) -> Result<LogicalPlan> {
        let provider: Arc<dyn TableProvider> = match self.0.get(scan.table_name.table()) {
            Some(StreamTable::Kafka(table)) => {
                let provider = KafkaTableProvider::for_batch(Arc::clone(table), Vec::new(), None);
                Arc::new(provider.with_time(Arc::new(BatchTime::default())))
            }
            Some(StreamTable::Delta(_)) => {
                let columns = scan.source.schema();
                let fields = columns.fields().iter().cloned();
                let fields = fields.chain([Arc::new(row_field())]).collect::<Vec<_>>();
                Arc::new(EmptyTable::new(Arc::new(Schema::new(fields))))
            }
            None => return Err(Error::internal("a stream that is not declared")),
        };
        let source = provider_as_source(provider);
        let scan = TableScanBuilder::new(scan.table_name.clone(), source).build()?;
        Ok(LogicalPlan::TableScan(scan))
    }
}

/// The column of this name in `schema`.
pub(super) fn find(schema: &DFSchema, name: &str) -> Option<Column> {
    schema
        .columns()
        .into_iter()
        .find(|column| column.name == name)
}

/// Adds the hidden columns to `plan`; `sources` are the streams it reads. The other sides of joins stay unchanged.
pub(super) fn with_hidden(
    plan: &LogicalPlan,
    sources: &StreamSources,
    columns: &dyn HiddenColumns,
) -> Result<LogicalPlan> {
    if !reads_stream(plan, sources) {
        return Ok(plan.clone());
    }
    Ok(match plan {
        LogicalPlan::TableScan(scan) => columns.scan(scan)?,
        LogicalPlan::SubqueryAlias(alias) => {
            let input = with_hidden(&alias.input, sources, columns)?;
            LogicalPlan::SubqueryAlias(SubqueryAlias::try_new(
                Arc::new(input),
                alias.alias.clone(),
            )?)
        }
        LogicalPlan::Filter(filter) => {
            let input = with_hidden(&filter.input, sources, columns)?;
            LogicalPlan::Filter(Filter::try_new(filter.predicate.clone(), Arc::new(input))?)
        }
        LogicalPlan::Projection(projection) => {
            let input = with_hidden(&projection.input, sources, columns)?;
            let mut exprs = projection.expr.clone();
            exprs.extend(hidden_of(input.schema()));
            LogicalPlan::Projection(Projection::try_new(exprs, Arc::new(input))?)
        }
        LogicalPlan::Join(join) => {
            let side = |input| Ok::<_, Error>(Arc::new(with_hidden(input, sources, columns)?));
            LogicalPlan::Join(Join::try_new(
                side(&join.left)?,
                side(&join.right)?,
                join.on.clone(),
                join.filter.clone(),
                join.join_type,
                join.join_constraint,
                join.null_equality,
                join.null_aware,
            )?)
        }
        LogicalPlan::Union(union) => {
            let inputs = union
                .inputs
                .iter()
                .map(|input| Ok(Arc::new(with_hidden(input, sources, columns)?)))
                .collect::<Result<Vec<_>>>()?;
            LogicalPlan::Union(Union::try_new_with_loose_types(inputs)?)
        }
        LogicalPlan::Extension(Extension { node }) => {
            let node = node.as_any();
            if let Some(window) = node.downcast_ref::<EventWindow>() {
                let input = with_hidden(window.input(), sources, columns)?;
                let window = window.with_exprs_and_inputs(window.expressions(), vec![input])?;
                return columns.windows(window);
            }
            if let Some(window) = node.downcast_ref::<SessionWindow>() {
                let input = with_hidden(window.input(), sources, columns)?;
                let window = window.with_exprs_and_inputs(window.expressions(), vec![input])?;
                return columns.sessions(window);
            }
            return Err(refused(plan));
        }
        other if columns.are_above_rows() => {
            let inputs = other.inputs().into_iter();
            let inputs = inputs.map(|input| with_hidden(input, sources, columns));
            let inputs = inputs.collect::<Result<Vec<_>>>()?;
            other.with_new_exprs(other.expressions(), inputs)?
        }
        other => return Err(refused(other)),
    })
}

fn hidden_of(schema: &DFSchema) -> Vec<Expr> {
    HIDDEN
        .iter()
        .filter_map(|name| find(schema, name))
        .map(Expr::Column)
        .collect()
}

/// A plan whose last columns are a window's, with the hidden ones of the window.
pub(super) fn with_window_columns(window: LogicalPlan) -> Result<LogicalPlan> {
    let mut exprs: Vec<Expr> = window
        .schema()
        .columns()
        .into_iter()
        .map(Expr::Column)
        .collect();
    for (name, hidden) in [(WINDOW_START, HIDDEN_START), (WINDOW_END, HIDDEN_END)] {
        // Unqualified names mean the last columns: the input may have columns of these names as well, under a qualifier.
        exprs.push(Expr::Column(Column::new_unqualified(name)).alias(hidden));
    }
    Ok(LogicalPlanBuilder::from(window).project(exprs)?.build()?)
}

/// A node of ours as a plan.
pub(super) fn extension(node: impl UserDefinedLogicalNodeCore) -> LogicalPlan {
    LogicalPlan::Extension(Extension {
        node: Arc::new(node),
    })
}

fn refused(plan: &LogicalPlan) -> Error {
    let shown = plan.display().to_string();
    let operator = shown
        .split([':', ' ', '('])
        .next()
        .unwrap_or_default()
        .to_owned();
    Error::unsupported(format!(
        "{operator} below a job's aggregate does not run yet"
    ))
    .with_help("below it there may be projections, filters, joins with static tables, one window and UNION ALL")
}
