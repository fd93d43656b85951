//! Refusal of correlated subqueries that DataFusion cannot turn into joins.
//!
//! If DataFusion cannot, it leaves the subquery as it is, and moves its conditions down to its tables. When it then tries
//! again, it looks for the columns of those conditions above an alias that hides them, and reports a missing column. This
//! module refuses such a subquery beforehand, and names the unsupported part.

use std::collections::BTreeSet;

use datafusion::common::tree_node::{Transformed, TreeNode as _, TreeNodeRecursion};
use datafusion::common::{Column, Result, not_impl_err};
use datafusion::error::DataFusionError;
use datafusion::logical_expr::expr::{Exists, InSubquery};
use datafusion::logical_expr::{Expr, LogicalPlan, Subquery};
use datafusion::optimizer::decorrelate::PullUpCorrelatedExpr;

use crate::diagnostic::not_supported;
use crate::top_down::changes_top_down;

/// Alias of the subquery in `(a, b) IN (SELECT …)`, which is planned as EXISTS.
pub const ROWS_OF_QUERY: &str = "__row";

/// Refuses subqueries of IN and EXISTS whose correlated conditions cannot be moved out of them, before the rule that would try
/// it.
#[derive(Debug)]
pub(crate) struct RefuseUnjoinableConditions;

changes_top_down!(
    RefuseUnjoinableConditions,
    "unjoined_conditions",
    refuse_conditions
);

fn refuse_conditions(plan: LogicalPlan) -> Result<Transformed<LogicalPlan>> {
    if let LogicalPlan::Filter(filter) = &plan {
        filter.predicate.apply(|part| {
            let (name, subquery, value) = match part {
                Expr::Exists(Exists { subquery, .. }) => ("EXISTS (SELECT …)", subquery, None),
                Expr::InSubquery(InSubquery { expr, subquery, .. }) => {
                    ("IN (SELECT …)", subquery, Some(expr.as_ref()))
                }
                _ => return Ok(TreeNodeRecursion::Continue),
            };
            match obstacle(subquery, value) {
                None => Ok(TreeNodeRecursion::Continue),
                Some(UnjoinableReason::Hidden) => Err(hidden_columns(name, subquery)),
                Some(UnjoinableReason::Aggregate) => Err(not_supported(
                    format!(
                        "{name} that aggregates may compare with the outer row by = only, and in its own WHERE"
                    ),
                    subquery.spans.first(),
                    "join the two tables by the comparison, and GROUP BY the row's columns",
                )),
            }
        })?;
    }
    Ok(Transformed::no(plan))
}

/// The reason why correlated conditions stay in a subquery.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum UnjoinableReason {
    /// An operator between does not pass on the compared columns.
    Hidden,
    /// An aggregate has different input rows for different outer rows.
    Aggregate,
}

/// The obstacle that keeps the engine from finding the compared columns of the subquery: it moves the conditions out of the
/// subquery, and some operators between may not pass on the columns. `value` is the left side of IN.
fn obstacle(subquery: &Subquery, value: Option<&Expr>) -> Option<UnjoinableReason> {
    if subquery.outer_ref_columns.is_empty() {
        return None;
    }
    let plan = subquery.subquery.as_ref();
    let equality = match (value, plan.head_output_expr()) {
        (None, _) => None,
        (Some(value), Ok(Some(member))) => Some(value.clone().eq(member)),
        // Another check reports it.
        (Some(_), _) => return None,
    };
    let mut pull_up = PullUpCorrelatedExpr::new()
        .with_exists_sub_query(equality.is_none())
        .with_in_predicate_opt(equality);
    let Ok(pulled) = plan.clone().rewrite(&mut pull_up) else {
        return Some(UnjoinableReason::Hidden);
    };
    if !pull_up.can_pull_up {
        // Another check reports all other obstacles.
        return is_only_aggregated(plan).then_some(UnjoinableReason::Aggregate);
    }
    let all = pull_up.correlated_subquery_cols_map.values().flatten();
    let all: BTreeSet<&Column> = all.collect();
    let schema = pulled.data.schema();
    let mut compared = pull_up.join_filters.iter().flat_map(Expr::column_refs);
    let are_found = compared.all(|column| {
        !all.contains(column) || schema.has_column_with_unqualified_name(&column.name)
    });
    (!are_found).then_some(UnjoinableReason::Hidden)
}

/// Whether an aggregate is the only obstacle for correlated conditions.
fn is_only_aggregated(plan: &LogicalPlan) -> bool {
    let is_other = plan.exists(|node| {
        Ok(match node {
            LogicalPlan::Filter(_) => false,
            LogicalPlan::Union(_)
            | LogicalPlan::Sort(_)
            | LogicalPlan::Limit(_)
            | LogicalPlan::Extension(_) => true,
            _ => node.contains_outer_reference(),
        })
    });
    let aggregates = plan.exists(|node| Ok(matches!(node, LogicalPlan::Aggregate(_))));
    matches!((is_other, aggregates), (Ok(false), Ok(true)))
}

fn hidden_columns(name: &str, subquery: &Subquery) -> DataFusionError {
    let is_of_rows = |plan: &LogicalPlan| match plan {
        LogicalPlan::SubqueryAlias(alias) => Ok(alias.alias.table() == ROWS_OF_QUERY),
        _ => Ok(false),
    };
    let span = subquery.spans.first();
    match subquery.subquery.as_ref().exists(is_of_rows) {
        Ok(true) => not_supported(
            "(a, b) IN (SELECT …) with a correlated query is not supported",
            span,
            "write EXISTS (SELECT 1 FROM … WHERE x = t.a AND y = t.b AND …)",
        ),
        _ => not_supported(
            format!(
                "{name} may compare with the outer row in its own WHERE only, and not in a query in FROM or of INTERSECT and EXCEPT"
            ),
            span,
            "compare in WHERE of the subquery itself",
        ),
    }
}

/// Refuses scalar subqueries, and LATERAL, whose correlated conditions cannot be moved out of them, before the rules that would
/// try it.
#[derive(Debug)]
pub(crate) struct RefuseUnjoinableSubqueries;

changes_top_down!(
    RefuseUnjoinableSubqueries,
    "unjoined_subqueries",
    refuse_subqueries
);

fn refuse_subqueries(plan: LogicalPlan) -> Result<Transformed<LogicalPlan>> {
    match &plan {
        LogicalPlan::Filter(_) | LogicalPlan::Projection(_) => {
            plan.apply_expressions(|expr| {
                check_values(expr)?;
                Ok(TreeNodeRecursion::Continue)
            })?;
        }
        LogicalPlan::Join(join) => {
            if let Some(subquery) = lateral(&join.right)
                && !can_be_tried(subquery)
            {
                return not_impl_err!(
                    "LATERAL with an outer join or an aggregate is not supported where its query compares with \
                     the outer row by anything but =, or below a name: join with the table and aggregate around it"
                );
            }
        }
        _ => {}
    }
    Ok(Transformed::no(plan))
}

fn check_values(expr: &Expr) -> Result<()> {
    expr.apply(|part| {
        if let Expr::ScalarSubquery(subquery) = part
            && !subquery.outer_ref_columns.is_empty()
            && !can_be_tried(subquery)
        {
            return Err(not_supported(
                "a correlated (SELECT …) may compare with the outer row by = only, and in its own WHERE",
                subquery.spans.first(),
                "join the two tables by the comparison, and GROUP BY the row's columns",
            ));
        }
        Ok(TreeNodeRecursion::Continue)
    })?;
    Ok(())
}

/// The query of LATERAL.
pub(crate) fn lateral(plan: &LogicalPlan) -> Option<&Subquery> {
    match plan {
        LogicalPlan::Subquery(subquery) => Some(subquery),
        LogicalPlan::SubqueryAlias(alias) => lateral(&alias.input),
        _ => None,
    }
}

/// Whether the engine can try to move the correlated conditions out of the subquery: it may report that it could not, but it
/// must not fail.
fn can_be_tried(subquery: &Subquery) -> bool {
    let mut pull_up = PullUpCorrelatedExpr::new().with_need_handle_count_bug(true);
    let plan = subquery.subquery.as_ref().clone();
    plan.rewrite(&mut pull_up).is_ok()
}
