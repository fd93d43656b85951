//! Aggregates with FILTER, in groups and over windows: in `sum(1 / x) FILTER (WHERE x <> 0)` the argument and the sort keys are
//! not evaluated for rows that FILTER excludes.

use datafusion::common::Result;
use datafusion::common::tree_node::{Transformed, TreeNode};
use datafusion::config::ConfigOptions;
use datafusion::logical_expr::expr::{AggregateFunction, Case};
use datafusion::logical_expr::{Expr, LogicalPlan};
use datafusion::optimizer::AnalyzerRule;

use crate::operands::{has_part, map_named_expressions};

/// Wraps the arguments of aggregates in the condition of FILTER.
#[derive(Debug)]
pub struct FilteredArguments;

impl AnalyzerRule for FilteredArguments {
    fn name(&self) -> &str {
        "filtered_arguments"
    }

    fn analyze(&self, plan: LogicalPlan, _: &ConfigOptions) -> Result<LogicalPlan> {
        let changed = plan.transform_up_with_subqueries(|plan| {
            if !matches!(plan, LogicalPlan::Window(_) | LogicalPlan::Aggregate(_)) {
                return Ok(Transformed::no(plan));
            }
            let plan =
                map_named_expressions(plan, |expr| expr.transform_up(|expr| Ok(guarded(expr))))?;
            // The nullability has changed.
            plan.map_data(LogicalPlan::recompute_schema)
        })?;
        Ok(changed.data)
    }
}

fn guarded(mut expr: Expr) -> Transformed<Expr> {
    let is_changed = match &mut expr {
        Expr::WindowFunction(function) => {
            let params = &mut function.params;
            // The ORDER BY of the call is that of the window, which has all rows.
            guard(&mut params.args, params.filter.as_deref())
        }
        Expr::AggregateFunction(function) => {
            let params = &mut function.params;
            let keys = params.order_by.iter_mut().map(|key| &mut key.expr);
            let all = params.args.iter_mut().chain(keys);
            guard(all, params.filter.as_deref())
        }
        _ => false,
    };
    Transformed::new_transformed(expr, is_changed)
}

fn guard<'a>(arguments: impl IntoIterator<Item = &'a mut Expr>, filter: Option<&Expr>) -> bool {
    // Two evaluations of `random() < 0.5` have different results.
    let Some(filter) = filter.filter(|filter| !filter.is_volatile()) else {
        return false;
    };
    let mut is_changed = false;
    for argument in arguments {
        if is_evaluated(argument) && !is_guarded(argument, filter) {
            let evaluated = Box::new(argument.clone());
            *argument = Expr::Case(Case {
                expr: None,
                when_then_expr: vec![(Box::new(filter.clone()), evaluated)],
                else_expr: None,
            });
            is_changed = true;
        }
    }
    is_changed
}

/// The aggregate without the wrapped condition.
pub(crate) fn unguarded(mut function: AggregateFunction) -> AggregateFunction {
    if let Some(filter) = function.params.filter.clone() {
        let params = &mut function.params;
        let keys = params.order_by.iter_mut().map(|key| &mut key.expr);
        for argument in params.args.iter_mut().chain(keys) {
            if is_guarded(argument, &filter)
                && let Expr::Case(case) = argument
                && let Some((_, then)) = case.when_then_expr.pop()
            {
                *argument = *then;
            }
        }
    }
    function
}

/// Whether it is more than a column, and not constant: some arguments must be constants.
fn is_evaluated(expr: &Expr) -> bool {
    let is_of_rows = |part: &Expr| {
        matches!(
            part,
            Expr::Column(_) | Expr::OuterReferenceColumn(..) | Expr::ScalarSubquery(_)
        )
    };
    !matches!(expr, Expr::Column(_)) && has_part(expr, is_of_rows)
}

/// Whether it is wrapped already: plans are analyzed more than once.
fn is_guarded(expr: &Expr, filter: &Expr) -> bool {
    match expr {
        Expr::Case(case) => match case.when_then_expr.as_slice() {
            [(when, _)] => when.as_ref() == filter && case.else_expr.is_none(),
            _ => false,
        },
        _ => false,
    }
}
