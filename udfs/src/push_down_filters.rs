//! Conditions that stay above an aggregate which returns a row for empty input: `count(*)` without GROUP BY, and the grand
//! total of a ROLLUP.
//!
//! The engine's rule pushes a condition without columns below: that removes the input rows, and not the aggregate's row.

use datafusion::common::Result;
use datafusion::common::tree_node::Transformed;
use datafusion::logical_expr::utils::split_conjunction;
use datafusion::logical_expr::{Aggregate, Expr, LogicalPlan};
use datafusion::optimizer::push_down_filter::PushDownFilter;
use datafusion::optimizer::{ApplyOrder, OptimizerConfig, OptimizerRule};

/// The engine's rule, except for such conditions.
#[derive(Debug)]
pub struct PushDownFilters {
    inner: PushDownFilter,
}

impl Default for PushDownFilters {
    fn default() -> Self {
        Self {
            inner: PushDownFilter::new(),
        }
    }
}

impl OptimizerRule for PushDownFilters {
    fn name(&self) -> &str {
        self.inner.name()
    }

    fn apply_order(&self) -> Option<ApplyOrder> {
        self.inner.apply_order()
    }

    fn rewrite(
        &self,
        plan: LogicalPlan,
        config: &dyn OptimizerConfig,
    ) -> Result<Transformed<LogicalPlan>> {
        if let LogicalPlan::Filter(filter) = &plan
            && let LogicalPlan::Aggregate(aggregate) = filter.input.as_ref()
            && returns_row_for_empty_input(aggregate)
            && split_conjunction(&filter.predicate)
                .into_iter()
                .any(has_no_columns)
        {
            return Ok(Transformed::no(plan));
        }
        self.inner.rewrite(plan, config)
    }
}

/// Whether it returns a row for empty input.
pub(crate) fn returns_row_for_empty_input(aggregate: &Aggregate) -> bool {
    let mut groups = aggregate.group_expr.iter();
    aggregate.group_expr.is_empty() || groups.any(|group| matches!(group, Expr::GroupingSet(_)))
}

fn has_no_columns(condition: &Expr) -> bool {
    condition.column_refs().is_empty() || condition.is_volatile()
}
