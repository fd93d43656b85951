//! `sum(1 / x) FILTER (WHERE x <> 0) OVER (…)`: the argument is not evaluated for rows that FILTER leaves out.

use datafusion::common::Result;
use datafusion::common::tree_node::{Transformed, TreeNode};
use datafusion::config::ConfigOptions;
use datafusion::logical_expr::expr::Case;
use datafusion::logical_expr::expr_rewriter::NamePreserver;
use datafusion::logical_expr::{Expr, LogicalPlan};
use datafusion::optimizer::AnalyzerRule;

/// Puts the condition of FILTER around the arguments of aggregates over windows.
#[derive(Debug)]
pub struct FilteredArguments;

impl AnalyzerRule for FilteredArguments {
    fn name(&self) -> &str {
        "filtered_arguments"
    }

    fn analyze(&self, plan: LogicalPlan, _: &ConfigOptions) -> Result<LogicalPlan> {
        let changed = plan.transform_up_with_subqueries(|plan| {
            if !matches!(plan, LogicalPlan::Window(_)) {
                return Ok(Transformed::no(plan));
            }
            let names = NamePreserver::new(&plan);
            plan.map_expressions(|expr| {
                let name = names.save(&expr);
                let guarded = expr.transform_up(|expr| Ok(guarded(expr)))?;
                Ok(guarded.update_data(|expr| name.restore(expr)))
            })
        })?;
        Ok(changed.data)
    }
}

fn guarded(expr: Expr) -> Transformed<Expr> {
    let Expr::WindowFunction(mut function) = expr else {
        return Transformed::no(expr);
    };
    let Some(filter) = function.params.filter.clone() else {
        return Transformed::no(Expr::WindowFunction(function));
    };
    let mut is_changed = false;
    for argument in &mut function.params.args {
        if is_evaluated(argument) && !is_guarded(argument, &filter) {
            let evaluated = Box::new(argument.clone());
            *argument = Expr::Case(Case {
                expr: None,
                when_then_expr: vec![(filter.clone(), evaluated)],
                else_expr: None,
            });
            is_changed = true;
        }
    }
    match is_changed {
        true => Transformed::yes(Expr::WindowFunction(function)),
        false => Transformed::no(Expr::WindowFunction(function)),
    }
}

/// Whether there is more to it than a column or a literal.
fn is_evaluated(expr: &Expr) -> bool {
    !matches!(expr, Expr::Column(_) | Expr::Literal(..))
}

/// Plans are analyzed more than once.
fn is_guarded(expr: &Expr, filter: &Expr) -> bool {
    match expr {
        Expr::Case(case) => match case.when_then_expr.as_slice() {
            [(when, _)] => when.as_ref() == filter && case.else_expr.is_none(),
            _ => false,
        },
        _ => false,
    }
}
