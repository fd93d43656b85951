//! `GROUP BY random()`: a key that is another one each time is evaluated once for each row, below the aggregate.
//!
//! A condition on such a key would else be evaluated with values of its own.

use std::sync::Arc;

use datafusion::common::Result;
use datafusion::common::tree_node::Transformed;
use datafusion::config::ConfigOptions;
use datafusion::logical_expr::{Aggregate, Expr, LogicalPlan, LogicalPlanBuilder};
use datafusion::optimizer::AnalyzerRule;

/// Computes volatile keys of an aggregate in a projection below it.
#[derive(Debug)]
pub struct VolatileKeys;

impl AnalyzerRule for VolatileKeys {
    fn name(&self) -> &str {
        "volatile_keys"
    }

    fn analyze(&self, plan: LogicalPlan, _: &ConfigOptions) -> Result<LogicalPlan> {
        let changed = plan.transform_up_with_subqueries(|plan| {
            let LogicalPlan::Aggregate(aggregate) = plan else {
                return Ok(Transformed::no(plan));
            };
            let is_set = |expr: &Expr| matches!(expr, Expr::GroupingSet(_));
            let keys = &aggregate.group_expr;
            if keys.iter().any(is_set) || !keys.iter().any(Expr::is_volatile) {
                return Ok(Transformed::no(LogicalPlan::Aggregate(aggregate)));
            }
            Ok(Transformed::yes(computed_below(aggregate)?))
        })?;
        Ok(changed.data)
    }
}

fn computed_below(aggregate: Aggregate) -> Result<LogicalPlan> {
    let input = &aggregate.input;
    let mut below: Vec<Expr> = input
        .schema()
        .columns()
        .into_iter()
        .map(Expr::Column)
        .collect();
    let mut keys = Vec::with_capacity(aggregate.group_expr.len());
    for (place, key) in aggregate.group_expr.iter().enumerate() {
        if key.is_volatile() {
            let name = format!("__key_{place}");
            below.push(key.clone().unalias().alias(&name));
            keys.push(datafusion::logical_expr::ident(name));
        } else {
            keys.push(key.clone());
        }
    }
    let input = LogicalPlanBuilder::from(input.as_ref().clone())
        .project(below)?
        .build()?;
    let inner = Aggregate::try_new(Arc::new(input), keys, aggregate.aggr_expr.clone())?;
    // Under the names that what is above knows.
    let names = aggregate.schema.iter();
    let above: Vec<Expr> = inner
        .schema
        .columns()
        .into_iter()
        .zip(names)
        .map(|(column, (qualifier, field))| {
            let column = Expr::Column(column);
            column.alias_qualified(qualifier.cloned(), field.name())
        })
        .collect();
    LogicalPlanBuilder::from(LogicalPlan::Aggregate(inner))
        .project(above)?
        .build()
}
