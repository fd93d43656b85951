//! Where a column comes from, below projections, aliases and windows.

use anabranch_udfs::{EventWindow, SessionWindow};
use datafusion::common::Column;
use datafusion::logical_expr::{Expr, Extension, LogicalPlan, UserDefinedLogicalNodeCore};

/// Where a column comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Origin {
    /// It is the start of a window.
    WindowStart,
    /// It is the end of a window.
    WindowEnd,
    /// It is a column of a table.
    Table {
        /// The table's name.
        table: String,
        /// The column's.
        column: String,
    },
    /// It is computed.
    Computed,
}

/// All that `expr` over `plan` may come from: several below a UNION.
pub(super) fn origins(plan: &LogicalPlan, expr: &Expr) -> Vec<Origin> {
    match unaliased(expr) {
        Expr::Column(column) => of_column(plan, column),
        _ => vec![Origin::Computed],
    }
}

/// The window of rows of `plan`, if they have one.
pub(super) fn window_below(plan: &LogicalPlan) -> Option<&LogicalPlan> {
    if let LogicalPlan::Extension(Extension { node }) = plan
        && (node.as_any().is::<EventWindow>() || node.as_any().is::<SessionWindow>())
    {
        return Some(plan);
    }
    plan.inputs().into_iter().find_map(window_below)
}

pub(super) fn unaliased(expr: &Expr) -> &Expr {
    match expr {
        Expr::Alias(alias) => unaliased(&alias.expr),
        other => other,
    }
}

fn of_column(plan: &LogicalPlan, column: &Column) -> Vec<Origin> {
    let unknown = || vec![Origin::Computed];
    let Some(index) = plan.schema().maybe_index_of_column(column) else {
        return unknown();
    };
    let at = |input: &LogicalPlan, index: usize| match input.schema().columns().get(index) {
        Some(column) => of_column(input, column),
        None => unknown(),
    };
    match plan {
        LogicalPlan::TableScan(scan) => vec![Origin::Table {
            table: scan.table_name.table().to_owned(),
            column: column.name.clone(),
        }],
        LogicalPlan::SubqueryAlias(alias) => at(&alias.input, index),
        LogicalPlan::Filter(filter) => at(&filter.input, index),
        LogicalPlan::Projection(projection) => origins(&projection.input, &projection.expr[index]),
        LogicalPlan::Union(union) => {
            let arms = union.inputs.iter();
            arms.flat_map(|input| at(input, index)).collect()
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
                2 => vec![Origin::WindowStart],
                1 => vec![Origin::WindowEnd],
                _ => at(input, index),
            }
        }
        _ => unknown(),
    }
}
