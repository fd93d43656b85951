//! Optimizer rule that finds aggregates by session.

use std::collections::HashMap;
use std::sync::Arc;

use datafusion::common::tree_node::{Transformed, TreeNode, TreeNodeRecursion};
use datafusion::common::{Column, Result};
use datafusion::logical_expr::expr::AggregateFunction;
use datafusion::logical_expr::{Aggregate, Expr, Extension, LogicalPlan, UserDefinedLogicalNode};
use datafusion::optimizer::{ApplyOrder, OptimizerConfig, OptimizerRule};

use super::node::{SessionAggregate, SessionColumn};
use crate::session::SessionWindow;

/// Replaces `GROUP BY` of exactly the keys and the window columns over SESSION by one operator, if no aggregate reads a
/// window column or needs its rows in order.
#[derive(Debug, Default)]
pub struct AggregateBySession;

impl OptimizerRule for AggregateBySession {
    fn name(&self) -> &str {
        "aggregate_by_session"
    }

    fn apply_order(&self) -> Option<ApplyOrder> {
        Some(ApplyOrder::BottomUp)
    }

    fn rewrite(
        &self,
        plan: LogicalPlan,
        _config: &dyn OptimizerConfig,
    ) -> Result<Transformed<LogicalPlan>> {
        replace_aggregate(plan, session_aggregate_of)
    }
}

/// Replaces an aggregate by the node that `find` returns for it.
pub(crate) fn replace_aggregate<N: UserDefinedLogicalNode + 'static>(
    plan: LogicalPlan,
    find: impl Fn(&Aggregate) -> Result<Option<N>>,
) -> Result<Transformed<LogicalPlan>> {
    let LogicalPlan::Aggregate(aggregate) = &plan else {
        return Ok(Transformed::no(plan));
    };
    Ok(match find(aggregate)? {
        Some(node) => Transformed::yes(LogicalPlan::Extension(Extension {
            node: Arc::new(node),
        })),
        None => Transformed::no(plan),
    })
}

/// Describes `aggregate` as an aggregation by session, over the input of SESSION; `None` if it is not one, or has other group
/// keys than those of the session and the window.
///
/// # Errors
///
/// Expressions that cannot be rewritten.
pub fn session_aggregate_of(aggregate: &Aggregate) -> Result<Option<SessionAggregate>> {
    let found = session_groups_of(aggregate)?;
    Ok(found.filter(|found| found.others.is_empty()))
}

/// The same for an aggregate that may have further group keys: expressions over a row, not over its window. No operator runs
/// such a node; it only describes the aggregation.
///
/// # Errors
///
/// Expressions that cannot be rewritten.
pub fn session_groups_of(aggregate: &Aggregate) -> Result<Option<SessionAggregate>> {
    let keys_of = |node: &'_ dyn UserDefinedLogicalNode| -> Option<Vec<Expr>> {
        let window = node.as_any().downcast_ref::<SessionWindow>()?;
        Some(window.keys().to_vec())
    };
    let Some(found) = by_session(aggregate, keys_of)? else {
        return Ok(None);
    };
    let Some(window) = found.node.as_any().downcast_ref::<SessionWindow>() else {
        return Ok(None);
    };
    Ok(Some(SessionAggregate {
        input: window.input().clone(),
        keys: window.keys().to_vec(),
        others: found.others,
        event_time: window.event_time().clone(),
        gap: window.gap(),
        groups: found.groups,
        aggregates: found.aggregates,
        schema: Arc::clone(&aggregate.schema),
    }))
}

/// An aggregate by the sessions of a node.
pub(crate) struct BySession<'a> {
    /// The node that gives rows their sessions; its last two columns are the window's.
    pub(crate) node: &'a dyn UserDefinedLogicalNode,
    /// The contents of the group columns.
    pub(crate) groups: Vec<SessionColumn>,
    /// Group columns that are neither keys nor the window's, over the node's input.
    pub(crate) others: Vec<Expr>,
    /// The aggregates, over the node's input.
    pub(crate) aggregates: Vec<Expr>,
}

/// Describes `aggregate` as an aggregation by session; `None` if its group keys lack a session key or the window, include an
/// expression over the window, or if it is not over a node for which `keys_of` returns keys.
pub(crate) fn by_session(
    aggregate: &Aggregate,
    keys_of: impl Fn(&dyn UserDefinedLogicalNode) -> Option<Vec<Expr>>,
) -> Result<Option<BySession<'_>>> {
    let mut groups = aggregate.group_expr.clone();
    let mut aggregates = aggregate.aggr_expr.clone();
    let Some(node) = node_below(&aggregate.input, &mut groups, &mut aggregates)? else {
        return Ok(None);
    };
    let Some(keys) = keys_of(node) else {
        return Ok(None);
    };
    let output = node.schema();
    let width = output.fields().len();
    let is_window = |column: &Column| {
        output
            .maybe_index_of_column(column)
            .is_none_or(|index| index + 2 >= width)
    };
    let mut others: Vec<Expr> = Vec::new();
    // The contents of the session's output columns.
    let column = |expr: &Expr| -> Option<SessionColumn> {
        let expr = unaliased(expr);
        if let Some(key) = keys.iter().position(|key| key == expr) {
            return Some(SessionColumn::Key(key));
        }
        if let Expr::Column(column) = expr {
            match output.maybe_index_of_column(column)? {
                index if index + 2 == width => return Some(SessionColumn::WindowStart),
                index if index + 1 == width => return Some(SessionColumn::WindowEnd),
                _ => {}
            }
        }
        if matches!(expr, Expr::GroupingSet(_)) || expr.column_refs().into_iter().any(is_window) {
            return None;
        }
        let known = others.iter().position(|other| other == expr);
        let other = known.unwrap_or_else(|| {
            others.push(expr.clone());
            others.len() - 1
        });
        Some(SessionColumn::Key(keys.len() + other))
    };
    let Some(groups) = groups.iter().map(column).collect::<Option<Vec<_>>>() else {
        return Ok(None);
    };
    let has_all_keys = (0..keys.len()).all(|key| groups.contains(&SessionColumn::Key(key)));
    if !has_all_keys || !groups.contains(&SessionColumn::WindowStart) {
        return Ok(None);
    }
    for expr in &aggregates {
        let Expr::AggregateFunction(AggregateFunction { func, params }) = unaliased(expr) else {
            return Ok(None);
        };
        let reads_window = expr.column_refs().iter().any(|column| is_window(column));
        // Rows come in any order: a function that sorts by itself accepts that.
        let needs_order = !params.order_by.is_empty() && func.order_sensitivity().hard_requires();
        if reads_window || needs_order {
            return Ok(None);
        }
    }
    Ok(Some(BySession {
        node,
        groups,
        others,
        aggregates,
    }))
}

/// The extension below an aggregate, through aliases and projections, with the aggregate's expressions rewritten to the
/// extension's own columns; `None` if they would be too large, since each projection can double them.
fn node_below<'a>(
    plan: &'a LogicalPlan,
    groups: &mut [Expr],
    aggregates: &mut [Expr],
) -> Result<Option<&'a dyn UserDefinedLogicalNode>> {
    let (steps, node) = match steps_to_node(plan) {
        Some(found) => found,
        None => return Ok(None),
    };
    for step in steps {
        let below: HashMap<Column, Expr> = match step {
            LogicalPlan::SubqueryAlias(alias) => {
                let inputs = alias.input.schema().columns();
                let inputs = inputs.into_iter().map(Expr::Column);
                alias.schema.columns().into_iter().zip(inputs).collect()
            }
            LogicalPlan::Projection(projection) => {
                let exprs = projection.expr.iter().map(|expr| unaliased(expr).clone());
                projection.schema.columns().into_iter().zip(exprs).collect()
            }
            _ => continue,
        };
        if !remain_small(groups.iter().chain(aggregates.iter()), &below)? {
            return Ok(None);
        }
        for expr in groups.iter_mut().chain(aggregates.iter_mut()) {
            let rewritten = std::mem::take(expr).transform_up(|part| {
                Ok(match &part {
                    Expr::Column(column) => match below.get(column) {
                        Some(replacement) => Transformed::yes(replacement.clone()),
                        None => Transformed::no(part),
                    },
                    _ => Transformed::no(part),
                })
            })?;
            // Names do not matter below: the node has the aggregate's schema.
            *expr = rewritten.data;
        }
    }
    Ok(Some(node))
}

/// The extension below, and the aliases and projections above it.
fn steps_to_node(
    mut plan: &LogicalPlan,
) -> Option<(Vec<&LogicalPlan>, &dyn UserDefinedLogicalNode)> {
    let mut steps = Vec::new();
    loop {
        let step = plan;
        plan = match plan {
            LogicalPlan::Extension(Extension { node }) => return Some((steps, node.as_ref())),
            LogicalPlan::SubqueryAlias(alias) => &alias.input,
            LogicalPlan::Projection(projection) => &projection.input,
            _ => return None,
        };
        steps.push(step);
    }
}

/// Whether expressions stay small once columns are replaced by the expressions below.
fn remain_small<'a>(
    exprs: impl Iterator<Item = &'a Expr>,
    below: &HashMap<Column, Expr>,
) -> Result<bool> {
    const MOST: usize = 10_000;
    let mut sizes: HashMap<&Column, usize> = HashMap::with_capacity(below.len());
    for (column, expr) in below {
        sizes.insert(column, parts_of(expr, &HashMap::new())?);
    }
    let mut parts = 0_usize;
    for expr in exprs {
        parts = parts.saturating_add(parts_of(expr, &sizes)?);
    }
    Ok(parts <= MOST)
}

/// The number of parts of an expression; a column counts with its size in `sizes`, or as one.
fn parts_of(expr: &Expr, sizes: &HashMap<&Column, usize>) -> Result<usize> {
    let mut parts = 0_usize;
    expr.apply(|part| {
        let size = match part {
            Expr::Column(column) => sizes.get(column).copied().unwrap_or(1),
            _ => 1,
        };
        parts = parts.saturating_add(size);
        Ok(TreeNodeRecursion::Continue)
    })?;
    Ok(parts)
}

fn unaliased(expr: &Expr) -> &Expr {
    match expr {
        Expr::Alias(alias) => unaliased(&alias.expr),
        other => other,
    }
}
