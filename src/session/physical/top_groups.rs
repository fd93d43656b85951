//! Top groups over floating point: for `GROUP BY d ORDER BY d LIMIT 5` the engine has an operator that keeps the first groups
//! only. It takes each NaN for another group, and fails the query when it evicts one of them. Such queries keep all groups, and
//! sort them afterwards.
//!
//! That operator also allocates room for as many groups as `LIMIT` says before it has read a row (SAFE-1).

use std::sync::Arc;

use datafusion::common::tree_node::{Transformed, TreeNode as _};
use datafusion::config::ConfigOptions;
use datafusion::error::Result;
use datafusion::physical_optimizer::PhysicalOptimizerRule;
use datafusion::physical_plan::ExecutionPlan;
use datafusion::physical_plan::aggregates::AggregateExec;

use crate::tables::parquet::holds_floats;

/// The most groups for which the engine may allocate room in advance.
const MOST: usize = 10_000;

/// Keeps all groups of aggregates with floating point keys or results, and of those with a very large LIMIT. It runs after the
/// engine's rules.
#[derive(Debug)]
pub(crate) struct KeepAllGroups;

impl PhysicalOptimizerRule for KeepAllGroups {
    fn optimize(
        &self,
        plan: Arc<dyn ExecutionPlan>,
        _: &ConfigOptions,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        let kept = plan.transform_up(|plan| {
            let Some(aggregate) = plan.downcast_ref::<AggregateExec>() else {
                return Ok(Transformed::no(plan));
            };
            let limit = aggregate.limit_options();
            let Some(limit) = limit.filter(|limit| limit.descending.is_some()) else {
                return Ok(Transformed::no(plan));
            };
            if limit.limit <= MOST && !has_floats(aggregate)? {
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

#[cfg(test)]
mod tests {
    use crate::planner::{Script, parse_statement};
    use crate::session::{Session, SessionOptions};

    #[tokio::test]
    async fn top_groups_beyond_memory_are_returned() {
        let session = Session::try_new(&SessionOptions::default()).unwrap();
        for limit in ["5", "9223372036854775807", "100000000000"] {
            for of in ["max(value)", "min(value)", "value % 10"] {
                let sql = format!(
                    "SELECT value % 10 AS g, {of} AS v FROM generate_series(1, 100)
                     GROUP BY value % 10 ORDER BY v DESC LIMIT {limit}"
                );
                let raw = Script::new("test", &sql).split().unwrap().remove(0);
                let rows = session.collect(parse_statement(&raw).unwrap()).await;
                let rows: usize = rows.expect(&sql).iter().map(|rows| rows.num_rows()).sum();
                assert_eq!(rows, if limit == "5" { 5 } else { 10 }, "{sql}");
            }
        }
    }
}
