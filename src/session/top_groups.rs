//! `GROUP BY d ORDER BY d LIMIT 5` over floating point: the engine's operator that keeps the first groups only takes each NaN for
//! another group, and ends the query when it throws one of them away. Such groups are all kept, and sorted then.

use std::sync::Arc;

use datafusion::common::tree_node::{Transformed, TreeNode as _};
use datafusion::config::ConfigOptions;
use datafusion::error::Result;
use datafusion::physical_optimizer::PhysicalOptimizerRule;
use datafusion::physical_plan::ExecutionPlan;
use datafusion::physical_plan::aggregates::AggregateExec;

use crate::tables::parquet::holds_floats;

/// Aggregates by floating point, or of it, keep all groups. It runs after the engine's rules.
#[derive(Debug)]
pub(super) struct AllGroups;

impl PhysicalOptimizerRule for AllGroups {
    fn optimize(
        &self,
        plan: Arc<dyn ExecutionPlan>,
        _: &ConfigOptions,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        let kept = plan.transform_up(|plan| {
            let Some(aggregate) = plan.downcast_ref::<AggregateExec>() else {
                return Ok(Transformed::no(plan));
            };
            let is_by_order = aggregate
                .limit_options()
                .is_some_and(|limit| limit.descending.is_some());
            if !is_by_order || !has_floats(aggregate)? {
                return Ok(Transformed::no(plan));
            }
            let all = aggregate.with_new_limit_options(None);
            Ok(Transformed::yes(Arc::new(all) as Arc<dyn ExecutionPlan>))
        })?;
        Ok(kept.data)
    }

    fn name(&self) -> &'static str {
        "all_groups"
    }

    fn schema_check(&self) -> bool {
        true
    }
}

fn has_floats(aggregate: &AggregateExec) -> Result<bool> {
    let input = aggregate.input().schema();
    for (key, _) in aggregate.group_expr().expr() {
        if holds_floats(&key.data_type(&input)?) {
            return Ok(true);
        }
    }
    let mut values = aggregate.aggr_expr().iter();
    Ok(values.any(|value| holds_floats(value.field().data_type())))
}
