//! Decides whether the state of HOP and CUMULATE is kept by slice: only if no expression below the aggregate reads a row's
//! window.

use anabranch_udfs::{EventWindow, SessionColumn, Slices};
use datafusion::common::tree_node::{Transformed, TreeNode, TreeNodeRecursion};
use datafusion::common::{DFSchema, JoinType};
use datafusion::logical_expr::{Aggregate, Expr, Extension, LogicalPlan};

use crate::error::{Error, Result};
use crate::streaming::lineage::unaliased;
use crate::streaming::stream_inputs::{StreamSources, reads_stream};

/// An aggregate over windows whose state is by slice.
#[derive(Debug, Clone)]
pub(super) struct SlicedAggregate {
    pub(super) slices: Slices,
    /// The keys of GROUP BY other than the window.
    pub(super) keys: Vec<Expr>,
    /// The content of its group columns.
    pub(super) groups: Vec<SessionColumn>,
    /// The rows below it, each once, with their slice instead of their windows.
    pub(super) rows: LogicalPlan,
}

/// Reason why the state of an aggregate is not by slice.
pub(super) enum UnslicedReason {
    /// A row is in one window only.
    OneWindow,
    /// This expression reads the window of each row.
    WindowUsed(String),
}

/// The bound of a row's window that a column holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum WindowBound {
    Start,
    End,
}

/// Plans the aggregate over `window` by slice, or returns the reason why that is not possible.
pub(super) fn sliced(
    aggregate: &Aggregate,
    window: &EventWindow,
    sources: &StreamSources,
) -> Result<std::result::Result<SlicedAggregate, UnslicedReason>> {
    let windows = window.windows();
    let Some((slices, tumbling)) = windows
        .slices()
        .and_then(|slices| Some((slices, slices.tumbling()?)))
    else {
        return Ok(Err(UnslicedReason::OneWindow));
    };
    let parts = match parts(&aggregate.input, sources) {
        Ok(parts) => parts,
        Err(asking) => return Ok(Err(UnslicedReason::WindowUsed(asking))),
    };
    let schema = aggregate.input.schema();
    for expr in &aggregate.aggr_expr {
        if reads_window(expr, schema, &parts) {
            return Ok(Err(UnslicedReason::WindowUsed(unaliased(expr).to_string())));
        }
    }
    let (mut keys, mut groups) = (Vec::new(), Vec::new());
    for expr in &aggregate.group_expr {
        groups.push(match part_of(expr, schema, &parts) {
            Some(WindowBound::Start) => SessionColumn::WindowStart,
            Some(WindowBound::End) => SessionColumn::WindowEnd,
            None if reads_window(expr, schema, &parts) => {
                return Ok(Err(UnslicedReason::WindowUsed(expr.to_string())));
            }
            None => {
                keys.push(expr.clone());
                SessionColumn::Key(keys.len() - 1)
            }
        });
    }
    let rows = aggregate.input.as_ref().clone().transform_down(|plan| {
        if !reads_stream(&plan, sources) {
            return Ok(Transformed::new(plan, false, TreeNodeRecursion::Jump));
        }
        let LogicalPlan::Extension(Extension { node }) = &plan else {
            return Ok(Transformed::no(plan));
        };
        let Some(window) = node.as_any().downcast_ref::<EventWindow>() else {
            return Ok(Transformed::no(plan));
        };
        let node = Extension {
            node: std::sync::Arc::new(window.clone().with_windows(tumbling)),
        };
        let plan = LogicalPlan::Extension(node);
        Ok(Transformed::new(plan, true, TreeNodeRecursion::Jump))
    })?;
    if !rows.transformed {
        return Err(Error::internal("the window is gone"));
    }
    Ok(Ok(SlicedAggregate {
        slices,
        keys,
        groups,
        rows: rows.data,
    }))
}

/// For each column of `plan`, the bound of the window that it holds; or the expression that computes with the window.
fn parts(
    plan: &LogicalPlan,
    sources: &StreamSources,
) -> std::result::Result<Vec<Option<WindowBound>>, String> {
    if !reads_stream(plan, sources) {
        return Ok(vec![None; plan.schema().fields().len()]);
    }
    match plan {
        LogicalPlan::SubqueryAlias(alias) => parts(&alias.input, sources),
        LogicalPlan::Filter(filter) => {
            let parts = parts(&filter.input, sources)?;
            match reads_window(&filter.predicate, filter.input.schema(), &parts) {
                true => Err(filter.predicate.to_string()),
                false => Ok(parts),
            }
        }
        LogicalPlan::Projection(projection) => {
            let (schema, below) = (
                projection.input.schema(),
                parts(&projection.input, sources)?,
            );
            let part = |expr: &Expr| match part_of(expr, schema, &below) {
                None if reads_window(expr, schema, &below) => Err(unaliased(expr).to_string()),
                part => Ok(part),
            };
            projection.expr.iter().map(part).collect()
        }
        LogicalPlan::Join(join) => {
            let left = parts(&join.left, sources)?;
            let right = parts(&join.right, sources)?;
            let asking = join.on.iter().find_map(|(of_left, of_right)| {
                let asks = reads_window(of_left, join.left.schema(), &left)
                    || reads_window(of_right, join.right.schema(), &right);
                asks.then(|| format!("{of_left} = {of_right}"))
            });
            if let Some(asking) = asking {
                return Err(asking);
            }
            let both: Vec<_> = left.iter().chain(&right).copied().collect();
            if let Some(filter) = &join.filter {
                let schema = join.left.schema().join(join.right.schema());
                let schema = schema.map_err(|error| error.to_string())?;
                if reads_window(filter, &schema, &both) {
                    return Err(filter.to_string());
                }
            }
            Ok(match join.join_type {
                JoinType::LeftSemi | JoinType::LeftAnti => left,
                JoinType::RightSemi | JoinType::RightAnti => right,
                JoinType::LeftMark => left.into_iter().chain([None]).collect(),
                JoinType::RightMark => right.into_iter().chain([None]).collect(),
                JoinType::Inner | JoinType::Left | JoinType::Right | JoinType::Full => both,
            })
        }
        LogicalPlan::Extension(Extension { node }) if node.as_any().is::<EventWindow>() => {
            let columns = plan.schema().fields().len();
            let mut parts = vec![None; columns.saturating_sub(2)];
            parts.extend([Some(WindowBound::Start), Some(WindowBound::End)]);
            Ok(parts)
        }
        // The arms may have different windows.
        LogicalPlan::Union(_) => Err("UNION ALL above the window".to_owned()),
        other => Err(other.display().to_string()),
    }
}

/// The bound of the window that a plain column holds.
fn part_of(expr: &Expr, schema: &DFSchema, parts: &[Option<WindowBound>]) -> Option<WindowBound> {
    match unaliased(expr) {
        Expr::Column(column) => parts[schema.maybe_index_of_column(column)?],
        _ => None,
    }
}

/// Whether an expression reads the window; one with unknown columns may do so.
fn reads_window(expr: &Expr, schema: &DFSchema, parts: &[Option<WindowBound>]) -> bool {
    let has_subquery = expr.exists(|expr| {
        Ok(matches!(
            expr,
            Expr::Exists(_)
                | Expr::InSubquery(_)
                | Expr::ScalarSubquery(_)
                | Expr::SetComparison(_)
        ))
    });
    if has_subquery.unwrap_or(true) {
        return true;
    }
    let mut columns = expr.column_refs().into_iter();
    columns.any(|column| match schema.maybe_index_of_column(column) {
        Some(index) => parts[index].is_some(),
        None => true,
    })
}
