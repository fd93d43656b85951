//! Subqueries in ON, and correlated conditions in ON of a join within a subquery.
//!
//! DataFusion plans few subqueries in ON, and finds conditions on the outer row only in WHERE; elsewhere it returns duplicate
//! rows. In ON of an inner join they become a filter above it; in ON of an outer join a filter on the side padded with NULLs,
//! if they use no columns of the other side. All others are refused.

use std::sync::Arc;

use datafusion::common::tree_node::{Transformed, TreeNode as _, TreeNodeRecursion};
use datafusion::common::{Column, JoinType, Result, Span};
use datafusion::config::ConfigOptions;
use datafusion::error::DataFusionError;
use datafusion::logical_expr::utils::{conjunction, split_conjunction_owned};
use datafusion::logical_expr::{Expr, Filter, Join, LogicalPlan};
use datafusion::optimizer::AnalyzerRule;

use crate::computed_keys::has_query;
use crate::diagnostic::not_supported;
use crate::operands::{any_node, subquery_of};

/// The help text for a condition that is refused.
const HELP: &str = "compute it as a column of a query in FROM, and name that column in ON";

/// Moves such conditions to filters above and below joins. It runs before the rules for subqueries in filters.
#[derive(Debug)]
pub(crate) struct JoinConditions;

impl AnalyzerRule for JoinConditions {
    fn name(&self) -> &str {
        "join_conditions"
    }

    fn analyze(&self, plan: LogicalPlan, _: &ConfigOptions) -> Result<LogicalPlan> {
        if !any_node(&plan, has_any)? {
            return Ok(plan);
        }
        let changed = plan.transform_up_with_subqueries(|plan| match plan {
            LogicalPlan::Join(join) => moved(join),
            other => Ok(Transformed::no(other)),
        })?;
        Ok(changed.data)
    }
}

/// Whether it is a join with such a condition.
fn has_any(plan: &LogicalPlan) -> bool {
    match plan {
        LogicalPlan::Join(join) => join.filter.as_ref().is_some_and(uses_outer_columns),
        _ => false,
    }
}

/// Whether a condition uses more than the columns of the join.
fn uses_outer_columns(condition: &Expr) -> bool {
    has_query(condition) || condition.contains_outer()
}

fn moved(mut join: Join) -> Result<Transformed<LogicalPlan>> {
    let Some(written) = join.filter.take_if(|written| uses_outer_columns(written)) else {
        return Ok(Transformed::no(LogicalPlan::Join(join)));
    };
    let (mut kept, mut above) = (Vec::new(), Vec::new());
    let (mut left, mut right) = (Vec::new(), Vec::new());
    for condition in split_conjunction_owned(written) {
        if !uses_outer_columns(&condition) {
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
            // SEMI, ANTI and mark joins: `membership` rewrites the subqueries in their ON.
            _ if has_query(&condition) => kept.push(condition),
            of => return Err(refused_of_rows(of)),
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

/// The columns that a condition uses, and those that its subqueries use as outer columns.
fn columns(condition: &Expr) -> Result<Vec<Column>> {
    let mut columns = Vec::new();
    condition.apply(|part| {
        if let Expr::Column(column) = part {
            columns.push(column.clone());
        }
        let outer = subquery_of(part).into_iter();
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

fn refused(condition: &Expr) -> DataFusionError {
    let mut found: (&str, Option<Span>) = ("conditions on the outer row", None);
    // The closure returns no error.
    let _ = condition.apply(|part| {
        let Some(query) = subquery_of(part) else {
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
            "{name} in ON of an outer join may not use columns of the table that keeps all its rows"
        ),
        span,
        HELP,
    )
}

/// The error for a correlated condition in ON of a SEMI, ANTI or mark join.
fn refused_of_rows(of: JoinType) -> DataFusionError {
    let kind = match of {
        JoinType::LeftSemi | JoinType::RightSemi => "a SEMI join",
        JoinType::LeftAnti | JoinType::RightAnti => "an ANTI join",
        _ => "a mark join",
    };
    not_supported(
        format!("conditions on the outer row are not allowed in ON of {kind}"),
        None,
        HELP,
    )
}
