//! Projections that stay above the filters that guard them: `SELECT 10 / b + c FROM t WHERE b <> 0`.
//!
//! The engine's rule computes a projection with few columns below a filter, and what a join's condition asks of one side below the
//! join: there it is computed for rows that the condition leaves out, and fails for them.

use std::sync::Arc;

use anabranch_udfs::expr_can_fail;
use datafusion::common::tree_node::{Transformed, TreeNode as _, TreeNodeRecursion};
use datafusion::config::ConfigOptions;
use datafusion::error::Result;
use datafusion::physical_expr::expressions::CaseExpr;
use datafusion::physical_optimizer::PhysicalOptimizerRule;
use datafusion::physical_optimizer::projection_pushdown::ProjectionPushdown;
use datafusion::physical_plan::ExecutionPlan;
use datafusion::physical_plan::filter::FilterExec;
use datafusion::physical_plan::joins::NestedLoopJoinExec;
use datafusion::physical_plan::projection::{
    ProjectionExec, remove_unnecessary_projections, try_embed_projection,
};
use datafusion::physical_plan::union::UnionExec;

/// The engine's rule, except for expressions that can fail.
#[derive(Debug, Default)]
pub(crate) struct GuardedProjections {
    inner: ProjectionPushdown,
}

impl PhysicalOptimizerRule for GuardedProjections {
    fn optimize(
        &self,
        plan: Arc<dyn ExecutionPlan>,
        config: &ConfigOptions,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        if !plan.exists(|node| Ok(has_guard(node)))? {
            return self.inner.optimize(plan, config);
        }
        // The engine's rule treats all joins of a plan alike: here the conditions of all of them stay as they are.
        let moved = plan.transform_down(|node| {
            let Some(projection) = node.downcast_ref::<ProjectionExec>() else {
                return Ok(Transformed::no(node));
            };
            match bottom_of(projection) {
                Some(Bottom::Filter(filter)) => {
                    // The filter passes on the columns that the projection needs.
                    let embedded = try_embed_projection(projection, filter)?;
                    let embedded = embedded.filter(|plan| plan.schema() == projection.schema());
                    Ok(embedded.map_or_else(|| Transformed::no(node), Transformed::yes))
                }
                Some(Bottom::Projections) => Ok(Transformed::no(node)),
                None => remove_unnecessary_projections(node),
            }
        })?;
        Ok(moved.data)
    }

    fn name(&self) -> &str {
        self.inner.name()
    }

    fn schema_check(&self) -> bool {
        self.inner.schema_check()
    }
}

/// What is below a projection, or several in a row, that can fail.
enum Bottom<'a> {
    /// A filter, right below the projection.
    Filter(&'a FilterExec),
    /// Other projections, and below them a filter: the engine's rule would make one projection of them.
    Projections,
}

/// `None` if there is no filter right below, or the projections cannot fail.
fn bottom_of(projection: &ProjectionExec) -> Option<Bottom<'_>> {
    if let Some(filter) = projection.input().downcast_ref::<FilterExec>() {
        return can_fail(projection).then_some(Bottom::Filter(filter));
    }
    let mut can_any_fail = can_fail(projection);
    let mut below = projection.input();
    while let Some(next) = below.downcast_ref::<ProjectionExec>() {
        can_any_fail |= can_fail(next);
        below = next.input();
    }
    (can_any_fail && below.is::<FilterExec>()).then_some(Bottom::Projections)
}

/// Whether the engine's rule could move an expression of this operator to where it fails.
fn has_guard(node: &Arc<dyn ExecutionPlan>) -> bool {
    if let Some(projection) = node.downcast_ref::<ProjectionExec>() {
        return is_above_filter(projection.input()) && can_fail(projection);
    }
    let join = node.downcast_ref::<NestedLoopJoinExec>();
    join.and_then(NestedLoopJoinExec::filter)
        .is_some_and(|filter| {
            let guarded = filter
                .expression()
                .exists(|part| Ok(part.is::<CaseExpr>() && expr_can_fail(part, filter.schema())));
            guarded.unwrap_or(true)
        })
}

fn can_fail(projection: &ProjectionExec) -> bool {
    let columns = projection.input().schema();
    let mut exprs = projection.expr().iter();
    exprs.any(|computed| expr_can_fail(&computed.expr, &columns))
}

/// Whether there is a filter below, with operators between that have one input: computed columns are moved below these, and below UNION
/// ALL.
fn is_above_filter(plan: &Arc<dyn ExecutionPlan>) -> bool {
    let mut is_found = false;
    // The closure returns no error.
    let walked = plan.apply(|node| {
        is_found |= node.is::<FilterExec>();
        let is_passed = node.children().len() == 1 || node.is::<UnionExec>();
        Ok(match (is_found, is_passed) {
            (true, _) => TreeNodeRecursion::Stop,
            (false, true) => TreeNodeRecursion::Continue,
            (false, false) => TreeNodeRecursion::Jump,
        })
    });
    is_found || walked.is_err()
}
