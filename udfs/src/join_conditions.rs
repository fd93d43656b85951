//! Subqueries in ON, and conditions on the row around in ON of a join within a subquery.
//!
//! The engine takes few of the first, and looks for the second in WHERE alone: elsewhere it gives a row more than once. ON of an inner
//! join is as good as WHERE; ON of an outer join is one of the table that gives NULLs, if it asks for no other. All else is refused.

use std::sync::Arc;

use datafusion::common::tree_node::{Transformed, TreeNode as _, TreeNodeRecursion};
use datafusion::common::{Column, JoinType, Result, Span};
use datafusion::config::ConfigOptions;
use datafusion::error::DataFusionError;
use datafusion::logical_expr::utils::{conjunction, split_conjunction_owned};
use datafusion::logical_expr::{Expr, Filter, Join, LogicalPlan, Subquery};
use datafusion::optimizer::AnalyzerRule;

use crate::diagnostic::not_supported;
use crate::keys::has_query;

/// Moves such conditions to filters above and below joins. It runs before the rules for subqueries in filters.
#[derive(Debug)]
pub(crate) struct JoinConditions;

impl AnalyzerRule for JoinConditions {
    fn name(&self) -> &str {
        "join_conditions"
    }

    fn analyze(&self, plan: LogicalPlan, _: &ConfigOptions) -> Result<LogicalPlan> {
        let changed = plan.transform_up_with_subqueries(|plan| match plan {
            LogicalPlan::Join(join) => moved(join),
            other => Ok(Transformed::no(other)),
        })?;
        Ok(changed.data)
    }
}

/// Whether a condition asks for more than the columns of the join.
fn asks_for_more(condition: &Expr) -> bool {
    has_query(condition) || condition.contains_outer()
}

fn moved(mut join: Join) -> Result<Transformed<LogicalPlan>> {
    let Some(written) = join.filter.take_if(|written| asks_for_more(written)) else {
        return Ok(Transformed::no(LogicalPlan::Join(join)));
    };
    let (mut kept, mut above) = (Vec::new(), Vec::new());
    let (mut left, mut right) = (Vec::new(), Vec::new());
    for condition in split_conjunction_owned(written) {
        if !asks_for_more(&condition) {
            kept.push(condition);
            continue;
        }
        let columns = columns(&condition)?;
        let asks = |side: &LogicalPlan| {
            let mut columns = columns.iter();
            columns.any(|column| side.schema().is_column_from_schema(column))
        };
        match join.join_type {
            JoinType::Inner => above.push(condition),
            JoinType::Left if !asks(&join.left) => right.push(condition),
            JoinType::Right if !asks(&join.right) => left.push(condition),
            JoinType::Left | JoinType::Right | JoinType::Full => return Err(refused(&condition)),
            // The engine's own, of other names.
            _ if has_query(&condition) => kept.push(condition),
            _ => return Err(refused(&condition)),
        }
    }
    join.filter = conjunction(kept);
    join.left = filtered(join.left, left)?;
    join.right = filtered(join.right, right)?;
    let plan = filtered(Arc::new(LogicalPlan::Join(join)), above)?;
    Ok(Transformed::yes(Arc::unwrap_or_clone(plan)))
}

fn filtered(input: Arc<LogicalPlan>, conditions: Vec<Expr>) -> Result<Arc<LogicalPlan>> {
    Ok(match conjunction(conditions) {
        Some(condition) => Arc::new(LogicalPlan::Filter(Filter::try_new(condition, input)?)),
        None => input,
    })
}

/// The columns that a condition asks for, and those that its subqueries ask of the row around them.
fn columns(condition: &Expr) -> Result<Vec<Column>> {
    let mut columns = Vec::new();
    condition.apply(|part| {
        if let Expr::Column(column) = part {
            columns.push(column.clone());
        }
        let outer = subquery(part).into_iter();
        for outer in outer.flat_map(|of| &of.outer_ref_columns) {
            outer.apply(|part| {
                if let Expr::OuterReferenceColumn(_, column) = part {
                    columns.push(column.clone());
                }
                Ok(TreeNodeRecursion::Continue)
            })?;
        }
        Ok(TreeNodeRecursion::Continue)
    })?;
    Ok(columns)
}

/// The subquery that an expression asks.
pub(crate) fn subquery(expr: &Expr) -> Option<&Subquery> {
    match expr {
        Expr::InSubquery(of) => Some(&of.subquery),
        Expr::Exists(of) => Some(&of.subquery),
        Expr::SetComparison(of) => Some(&of.subquery),
        Expr::ScalarSubquery(of) => Some(of),
        _ => None,
    }
}

fn refused(condition: &Expr) -> DataFusionError {
    let mut found: (&str, Option<Span>) = ("conditions on the row around", None);
    // Nothing in there fails.
    let _ = condition.apply(|part| {
        let Some(query) = subquery(part) else {
            return Ok(TreeNodeRecursion::Continue);
        };
        let name = match part {
            Expr::InSubquery(_) => "IN (SELECT …)",
            Expr::Exists(_) => "EXISTS (SELECT …)",
            Expr::SetComparison(_) => "ANY and ALL of (SELECT …)",
            _ => "values of subqueries",
        };
        found = (name, query.spans.first());
        Ok(TreeNodeRecursion::Stop)
    });
    let (name, span) = found;
    not_supported(
        format!(
            "{name} in ON of an outer join may not ask for columns of the table that keeps all its rows"
        ),
        span,
        "compute it as a column of a query in FROM, and name that column in ON",
    )
}
