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

/// The operators below a projection, or several in a row, that can fail.
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
        return can_fail(projection) && is_above_filter(projection.input());
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

#[cfg(test)]
mod tests {
    use datafusion::arrow::array::{ArrayRef, Int64Array, RecordBatch};
    use datafusion::arrow::util::pretty::pretty_format_batches;
    use datafusion::datasource::memory::MemorySourceConfig;
    use datafusion::execution::TaskContext;
    use datafusion::logical_expr::Operator;
    use datafusion::physical_expr::PhysicalExpr;
    use datafusion::physical_expr::expressions::{binary, col, lit};
    use datafusion::physical_plan::projection::ProjectionExpr;
    use datafusion::physical_plan::{collect, displayable};

    use super::*;

    /// Rows of three columns whose `b` is not 0.
    fn filtered() -> Arc<dyn ExecutionPlan> {
        let column = |values: [i64; 2]| Arc::new(Int64Array::from(values.to_vec())) as ArrayRef;
        let columns = [
            ("a", column([1, 2])),
            ("b", column([0, 5])),
            ("c", column([3, 4])),
        ];
        let rows = RecordBatch::try_from_iter(columns).unwrap();
        let schema = rows.schema();
        let rows = MemorySourceConfig::try_new_exec(&[vec![rows]], Arc::clone(&schema), None);
        let b = col("b", &schema).unwrap();
        let is_set = binary(b, Operator::NotEq, lit(0_i64), &schema).unwrap();
        Arc::new(FilterExec::try_new(is_set, rows.unwrap()).unwrap())
    }

    /// `b` and a number that is computed from it.
    fn computed(input: Arc<dyn ExecutionPlan>, op: Operator) -> Arc<dyn ExecutionPlan> {
        let columns = input.schema();
        let b = || col("b", &columns).unwrap();
        let number = binary(lit(10_i64), op, b(), &columns).unwrap();
        projected(vec![(b(), "b"), (number, "q")], input)
    }

    fn projected(
        exprs: Vec<(Arc<dyn PhysicalExpr>, &str)>,
        input: Arc<dyn ExecutionPlan>,
    ) -> Arc<dyn ExecutionPlan> {
        let exprs = exprs.into_iter().map(|(expr, alias)| ProjectionExpr {
            expr,
            alias: alias.to_owned(),
        });
        let exprs: Vec<ProjectionExpr> = exprs.collect();
        Arc::new(ProjectionExec::try_new(exprs, input).unwrap())
    }

    fn optimized(
        rule: &dyn PhysicalOptimizerRule,
        plan: Arc<dyn ExecutionPlan>,
    ) -> Arc<dyn ExecutionPlan> {
        rule.optimize(plan, &ConfigOptions::default()).unwrap()
    }

    fn shown(plan: &Arc<dyn ExecutionPlan>) -> String {
        displayable(plan.as_ref()).indent(false).to_string()
    }

    #[tokio::test]
    async fn a_division_stays_above_its_filter() {
        let rule = GuardedProjections::default();
        let quotient = || computed(filtered(), Operator::Divide);
        let several = |plan: Arc<dyn ExecutionPlan>| {
            let q = col("q", &plan.schema()).unwrap();
            projected(vec![(q, "q")], plan)
        };
        for (plan, expected) in [(quotient(), "| 5 | 2 |"), (several(quotient()), "| 2 |")] {
            // The engine's rule runs twice as well.
            let plan = optimized(&rule, optimized(&rule, plan));
            let text = shown(&plan);
            let filter = text.lines().position(|line| line.contains("FilterExec"));
            let division = text.lines().position(|line| line.contains("10 / b"));
            assert!(division.unwrap() < filter.unwrap(), "{text}");
            assert!(text.contains("projection=[b@1]"), "{text}");
            let rows = collect(plan, Arc::new(TaskContext::default()))
                .await
                .unwrap();
            let rows = pretty_format_batches(&rows).unwrap().to_string();
            assert!(rows.contains(expected), "{rows}");
        }
    }

    #[test]
    fn what_cannot_fail_is_moved_as_the_engine_does() {
        let sum = || computed(filtered(), Operator::Plus);
        let moved = optimized(&GuardedProjections::default(), sum());
        let engine = optimized(&ProjectionPushdown::new(), sum());
        assert_eq!(shown(&moved), shown(&engine));
        assert!(shown(&moved).starts_with("FilterExec"), "{}", shown(&moved));
    }
}
