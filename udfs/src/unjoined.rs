//! Subqueries for a value, and LATERAL, that depend on the row around them in a way that DataFusion makes no join of.
//!
//! Where it cannot, it leaves the subquery as it is, and moves its conditions down to its tables. When it then tries again, it
//! looks for the columns of those conditions above a name that hides them, and says that there is no such column. Here such a
//! subquery is refused before that, by what is not supported of it.

use datafusion::common::tree_node::{Transformed, TreeNode as _, TreeNodeRecursion};
use datafusion::common::{Result, not_impl_err};
use datafusion::logical_expr::{Expr, LogicalPlan, Subquery};
use datafusion::optimizer::decorrelate::PullUpCorrelatedExpr;
use datafusion::optimizer::optimizer::ApplyOrder;
use datafusion::optimizer::{OptimizerConfig, OptimizerRule};

/// Refuses subqueries whose conditions on the row around cannot be taken out of them, before the rules that would do so.
#[derive(Debug)]
pub(crate) struct UnjoinedSubqueries;

impl OptimizerRule for UnjoinedSubqueries {
    fn name(&self) -> &str {
        "unjoined_subqueries"
    }

    fn apply_order(&self) -> Option<ApplyOrder> {
        Some(ApplyOrder::TopDown)
    }

    fn rewrite(
        &self,
        plan: LogicalPlan,
        _: &dyn OptimizerConfig,
    ) -> Result<Transformed<LogicalPlan>> {
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
                        "LATERAL with an outer join or an aggregate is not supported where its query compares with the row \
                         around it by anything but =, or below a name: join with the table and aggregate around it"
                    );
                }
            }
            _ => {}
        }
        Ok(Transformed::no(plan))
    }
}

fn check_values(expr: &Expr) -> Result<()> {
    expr.apply(|part| {
        if let Expr::ScalarSubquery(subquery) = part
            && !subquery.outer_ref_columns.is_empty()
            && !can_be_tried(subquery)
        {
            return not_impl_err!(
                "a subquery that depends on the row around it may compare with that row by = only, and in its own WHERE: \
                 join the two tables by the comparison, and GROUP BY the row's columns"
            );
        }
        Ok(TreeNodeRecursion::Continue)
    })?;
    Ok(())
}

/// The query behind LATERAL.
fn lateral(plan: &LogicalPlan) -> Option<&Subquery> {
    match plan {
        LogicalPlan::Subquery(subquery) => Some(subquery),
        LogicalPlan::SubqueryAlias(alias) => lateral(&alias.input),
        _ => None,
    }
}

/// Whether the engine can try to take the conditions on the row around out of the subquery: it may say that it could not, but
/// not fail.
fn can_be_tried(subquery: &Subquery) -> bool {
    let mut pull_up = PullUpCorrelatedExpr::new().with_need_handle_count_bug(true);
    let plan = subquery.subquery.as_ref().clone();
    plan.rewrite(&mut pull_up).is_ok()
}
