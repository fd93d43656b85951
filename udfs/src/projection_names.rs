//! Nested projections that name a result like its input: `SELECT c + 1 AS c FROM (SELECT c + 1 AS c FROM …)`.
//!
//! DataFusion takes a projection over an equal one for a duplicate and drops it. Here they are equal in text only: each is
//! computed from the result of the one below. This module gives the input of such a step a name of its own, so that no two
//! steps are equal.

use std::collections::HashSet;
use std::sync::Arc;

use datafusion::common::tree_node::{Transformed, TreeNode as _};
use datafusion::common::{Column, Result, TableReference};
use datafusion::config::ConfigOptions;
use datafusion::logical_expr::{Expr, LogicalPlan, Projection, SubqueryAlias};
use datafusion::optimizer::AnalyzerRule;

use crate::operands::{has_part, subquery_of};

/// Renames the inputs of nested projections that name a result like its input.
#[derive(Debug)]
pub(crate) struct DistinctProjectionNames;

impl AnalyzerRule for DistinctProjectionNames {
    fn name(&self) -> &str {
        "names_of_steps"
    }

    fn analyze(&self, plan: LogicalPlan, _: &ConfigOptions) -> Result<LogicalPlan> {
        let mut named = 0;
        let changed = plan.transform_up_with_subqueries(|plan| {
            let LogicalPlan::Projection(step) = plan else {
                return Ok(Transformed::no(plan));
            };
            if !reuses_name(&step) || !is_step_below(&step.input) {
                return Ok(Transformed::no(LogicalPlan::Projection(step)));
            }
            named += 1;
            Ok(match with_named_input(&step, named)? {
                Some(step) => Transformed::yes(LogicalPlan::Projection(step)),
                None => Transformed::no(LogicalPlan::Projection(step)),
            })
        })?;
        Ok(changed.data)
    }
}

/// Whether a result has the name of a column that it is computed from.
fn reuses_name(step: &Projection) -> bool {
    step.expr.iter().any(|expr| {
        let Expr::Alias(alias) = expr else {
            return false;
        };
        let is_computed = !matches!(alias.expr.as_ref(), Expr::Column(_));
        is_computed
            && alias
                .expr
                .column_refs()
                .iter()
                .any(|column| column.name == alias.name)
    })
}

/// Whether there is such a projection below, without an operator between that would keep the two apart.
fn is_step_below(plan: &LogicalPlan) -> bool {
    let mut plan = plan;
    loop {
        match plan {
            LogicalPlan::Projection(step) if reuses_name(step) => return true,
            LogicalPlan::Projection(_)
            | LogicalPlan::Filter(_)
            | LogicalPlan::Sort(_)
            | LogicalPlan::Limit(_)
            | LogicalPlan::Distinct(_)
            | LogicalPlan::Repartition(_) => match plan.inputs().first() {
                Some(input) => plan = input,
                None => return false,
            },
            _ => return false,
        }
    }
}

/// The projection over its input under another name; `None` if the columns of the input are not unique by name alone.
fn with_named_input(step: &Projection, number: usize) -> Result<Option<Projection>> {
    let mut names = HashSet::new();
    let input = step.input.schema();
    let are_unique = input
        .fields()
        .iter()
        .all(|field| names.insert(field.name()));
    if !are_unique || step.expr.iter().any(has_subquery) {
        return Ok(None);
    }
    let name = TableReference::bare(format!("__step_{number}"));
    let mut exprs = Vec::with_capacity(step.expr.len());
    for (expr, (qualifier, field)) in step.expr.iter().zip(step.schema.iter()) {
        let renamed = expr.clone().transform(|part| {
            Ok(match part {
                Expr::Column(column) => {
                    let column = Column::new(Some(name.clone()), column.name);
                    Transformed::yes(Expr::Column(column))
                }
                other => Transformed::no(other),
            })
        })?;
        exprs.push(match renamed.data {
            Expr::Alias(alias) => Expr::Alias(alias),
            other => other.alias_qualified(qualifier.cloned(), field.name()),
        });
    }
    let input = SubqueryAlias::try_new(Arc::clone(&step.input), name)?;
    let input = Arc::new(LogicalPlan::SubqueryAlias(input));
    Projection::try_new(exprs, input).map(Some)
}

fn has_subquery(expr: &Expr) -> bool {
    has_part(expr, |part| {
        subquery_of(part).is_some() || matches!(part, Expr::OuterReferenceColumn(..))
    })
}
