//! Lineage of columns: the origin of a column below projections, aliases, joins and windows.

use anabranch_udfs::{EventWindow, SessionWindow};
use datafusion::common::{Column, JoinType};
use datafusion::logical_expr::{Expr, Extension, Join, LogicalPlan, UserDefinedLogicalNodeCore};

use crate::streaming::stream_inputs::{StreamSources, reads_stream, stream_inputs};

/// Origin of a column.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum ColumnOrigin {
    /// It is the start of a window.
    WindowStart,
    /// It is the end of a window.
    WindowEnd,
    /// It is a column of a stream.
    Table {
        /// The table's name.
        table: String,
        /// The column's.
        column: String,
    },
    /// It comes from a static table.
    Static,
    /// It is computed.
    Computed,
}

/// All possible origins of `expr` over `plan`: several below a UNION.
pub(super) fn origins(
    plan: &LogicalPlan,
    expr: &Expr,
    sources: &StreamSources,
) -> Vec<ColumnOrigin> {
    match unaliased(expr) {
        Expr::Column(column) => of_column(plan, column, sources),
        _ => vec![ColumnOrigin::Computed],
    }
}

/// The window of the stream's rows in `plan`, if they have one.
pub(super) fn window_below<'a>(
    plan: &'a LogicalPlan,
    sources: &StreamSources,
) -> Option<&'a LogicalPlan> {
    if let LogicalPlan::Extension(Extension { node }) = plan
        && (node.as_any().is::<EventWindow>() || node.as_any().is::<SessionWindow>())
    {
        return Some(plan);
    }
    stream_inputs(plan, sources).find_map(|input| window_below(input, sources))
}

pub(super) fn unaliased(expr: &Expr) -> &Expr {
    match expr {
        Expr::Alias(alias) => unaliased(&alias.expr),
        other => other,
    }
}

fn of_column(plan: &LogicalPlan, column: &Column, sources: &StreamSources) -> Vec<ColumnOrigin> {
    let unknown = || vec![ColumnOrigin::Computed];
    if !reads_stream(plan, sources) {
        return vec![ColumnOrigin::Static];
    }
    let Some(index) = plan.schema().maybe_index_of_column(column) else {
        return unknown();
    };
    let at = |input: &LogicalPlan, index: usize| match input.schema().columns().get(index) {
        Some(column) => of_column(input, column, sources),
        None => unknown(),
    };
    match plan {
        LogicalPlan::TableScan(scan) => vec![ColumnOrigin::Table {
            table: scan.table_name.table().to_owned(),
            column: column.name.clone(),
        }],
        LogicalPlan::SubqueryAlias(alias) => at(&alias.input, index),
        LogicalPlan::Filter(filter) => at(&filter.input, index),
        LogicalPlan::Projection(projection) => {
            origins(&projection.input, &projection.expr[index], sources)
        }
        LogicalPlan::Union(union) => {
            let arms = union.inputs.iter();
            arms.flat_map(|input| at(input, index)).collect()
        }
        LogicalPlan::Join(join) => {
            let (input, index) = side_of(join, index);
            at(input, index)
        }
        LogicalPlan::Extension(Extension { node }) => {
            let node = node.as_any();
            let (input, width) = if let Some(window) = node.downcast_ref::<EventWindow>() {
                (window.input(), window.schema().fields().len())
            } else if let Some(window) = node.downcast_ref::<SessionWindow>() {
                (window.input(), window.schema().fields().len())
            } else {
                return unknown();
            };
            match width - index {
                2 => vec![ColumnOrigin::WindowStart],
                1 => vec![ColumnOrigin::WindowEnd],
                _ => at(input, index),
            }
        }
        _ => unknown(),
    }
}

/// The input of a join that column `index` of its output comes from, and the column's index there.
pub(super) fn side_of(join: &Join, index: usize) -> (&LogicalPlan, usize) {
    let width = join.left.schema().fields().len();
    match join.join_type {
        JoinType::RightSemi | JoinType::RightAnti | JoinType::RightMark => (&join.right, index),
        _ if index < width => (&join.left, index),
        _ => (&join.right, index - width),
    }
}
