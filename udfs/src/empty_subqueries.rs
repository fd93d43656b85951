//! Scalar subqueries that may return no row: their value is then NULL.
//!
//! DataFusion assumes that such a value is never NULL if the column of the subquery is NOT NULL. So it concludes that
//! `(SELECT a FROM t WHERE a > 5) IS NULL` is false, and refuses rows that have the NULL in them.

use std::sync::Arc;

use datafusion::common::Result;
use datafusion::common::tree_node::{Transformed, TreeNode};
use datafusion::config::ConfigOptions;
use datafusion::logical_expr::{Expr, LogicalPlan, LogicalPlanBuilder, Subquery};
use datafusion::optimizer::AnalyzerRule;

use crate::operands::{any_expr, any_node, has_part, map_named_expressions, with_rows};
use crate::values::per_row;

/// Marks the values of subqueries as nullable.
#[derive(Debug)]
pub(crate) struct EmptySubqueries;

impl AnalyzerRule for EmptySubqueries {
    fn name(&self) -> &str {
        "empty_subqueries"
    }

    fn analyze(&self, plan: LogicalPlan, _: &ConfigOptions) -> Result<LogicalPlan> {
        if !any_node(&plan, has_any)? {
            return Ok(plan);
        }
        let mut any = false;
        let changed = plan.transform_up_with_subqueries(|plan| {
            let changed = match has_any(&plan) {
                true => map_named_expressions(plan, |expr| expr.transform_up(nullable))?,
                false => Transformed::no(plan),
            };
            any |= changed.transformed;
            // The nullability has changed, also for the operators above.
            match any {
                true => changed.map_data(LogicalPlan::recompute_schema),
                false => Ok(changed),
            }
        })?;
        Ok(changed.data)
    }
}

/// Whether an expression of this node has a scalar subquery that may return no row.
fn has_any(plan: &LogicalPlan) -> bool {
    any_expr(plan, |expr| {
        has_part(expr, |part| may_be_empty(part).is_some())
    })
}

fn nullable(expr: Expr) -> Result<Transformed<Expr>> {
    let Some(subquery) = may_be_empty(&expr) else {
        return Ok(Transformed::no(expr));
    };
    let rows = Arc::clone(&subquery.subquery);
    let column = rows.schema().columns().remove(0);
    let name = column.name.clone();
    let value = per_row(Expr::Column(column)).alias(name);
    let rows = LogicalPlanBuilder::from(rows).project([value])?.build()?;
    let subquery = with_rows(subquery, rows);
    Ok(Transformed::yes(Expr::ScalarSubquery(subquery)))
}

/// The subquery, if it may return no row without being nullable. The engine turns correlated subqueries into joins, which are
/// nullable.
fn may_be_empty(expr: &Expr) -> Option<&Subquery> {
    let Expr::ScalarSubquery(subquery) = expr else {
        return None;
    };
    let is_known = match subquery.subquery.schema().fields().as_ref() {
        [field] => field.is_nullable(),
        _ => true,
    };
    let is_joined = !subquery.outer_ref_columns.is_empty();
    (!is_known && !is_joined && !has_a_row(&subquery.subquery)).then_some(subquery)
}

/// Whether a plan returns a row for any input, also for an empty one.
fn has_a_row(plan: &LogicalPlan) -> bool {
    match plan {
        LogicalPlan::Aggregate(aggregate) => aggregate.group_expr.is_empty(),
        LogicalPlan::EmptyRelation(nothing) => nothing.produce_one_row,
        LogicalPlan::Projection(projection) => has_a_row(&projection.input),
        LogicalPlan::SubqueryAlias(alias) => has_a_row(&alias.input),
        _ => false,
    }
}
