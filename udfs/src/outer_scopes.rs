//! Refusal of subqueries that name a column of a query further out than the next outer one.
//!
//! DataFusion plans them, and looks for the column in the next outer query: it reports a missing column, or takes another one
//! of that name. This module refuses them by name.

use datafusion::common::tree_node::{TreeNode as _, TreeNodeRecursion};
use datafusion::common::{Column, DFSchemaRef, Result};
use datafusion::config::ConfigOptions;
use datafusion::logical_expr::{Expr, LogicalPlan, Subquery};
use datafusion::optimizer::AnalyzerRule;

use crate::diagnostic::not_supported;
use crate::operands::subquery_of;

/// Refuses such subqueries, before any other rule processes them.
#[derive(Debug)]
pub(crate) struct OuterScopes;

impl AnalyzerRule for OuterScopes {
    fn name(&self) -> &str {
        "outer_scopes"
    }

    fn analyze(&self, plan: LogicalPlan, _: &ConfigOptions) -> Result<LogicalPlan> {
        check(&plan, &mut Vec::new())?;
        Ok(plan)
    }
}

/// The columns that a subquery may use as columns of the outer row.
type Scope = Vec<DFSchemaRef>;

/// Checks the subqueries of a nested plan; `around` has the columns of the outer queries, innermost last.
fn check(plan: &LogicalPlan, around: &mut Vec<Scope>) -> Result<()> {
    plan.apply(|node| {
        node.apply_expressions(|expr| {
            expr.apply(|part| {
                if let Some(query) = subquery_of(part) {
                    let inputs = node.inputs().into_iter();
                    let scope = inputs.map(|input| DFSchemaRef::clone(input.schema()));
                    around.push(scope.collect());
                    let checked = check_query(query, around);
                    around.pop();
                    checked?;
                }
                Ok(TreeNodeRecursion::Continue)
            })
        })
    })?;
    Ok(())
}

fn check_query(query: &Subquery, around: &mut Vec<Scope>) -> Result<()> {
    let mut far = None;
    // A subquery of LATERAL uses the tables beside it.
    query.subquery.apply(|node| {
        if matches!(node, LogicalPlan::Subquery(_)) {
            return Ok(TreeNodeRecursion::Jump);
        }
        node.apply_expressions(|expr| {
            expr.apply(|part| {
                if let Expr::OuterReferenceColumn(_, column) = part
                    && is_far(column, around)
                {
                    far.get_or_insert_with(|| column.clone());
                }
                Ok(TreeNodeRecursion::Continue)
            })
        })
    })?;
    if let Some(column) = far {
        return Err(not_supported(
            format!(
                "a subquery names {column}, which is not a column of the next outer query but of one further out: that is not supported"
            ),
            query.spans.first(),
            "join with that table in the query between the two, and name its column there",
        ));
    }
    check(&query.subquery, around)
}

/// Whether the next outer query lacks the column, and one further out has it.
fn is_far(column: &Column, around: &[Scope]) -> bool {
    let has = |scope: &Scope| {
        let mut schemas = scope.iter();
        schemas.any(|schema| schema.is_column_from_schema(column))
    };
    match around.split_last() {
        Some((nearest, further)) => !has(nearest) && further.iter().any(has),
        None => false,
    }
}
