//! Limit for delimiters: `string_agg(x, 'long text')` writes the delimiter once for each row of a batch, outside of all memory
//! pools and without a pause (SAFE-1). So it must be short.

use std::sync::Arc;

use datafusion::common::tree_node::{TreeNode as _, TreeNodeRecursion};
use datafusion::config::ConfigOptions;
use datafusion::error::{DataFusionError, Result};
use datafusion::physical_expr::PhysicalExpr;
use datafusion::physical_expr::expressions::Literal;
use datafusion::physical_expr::window::WindowExpr;
use datafusion::physical_optimizer::PhysicalOptimizerRule;
use datafusion::physical_plan::ExecutionPlan;
use datafusion::physical_plan::aggregates::AggregateExec;
use datafusion::physical_plan::windows::{BoundedWindowAggExec, WindowAggExec};

use crate::error::{Error, ErrorKind};

/// Bytes.
const MOST: usize = 64 << 10;

/// Refuses longer delimiters, once their values are known.
#[derive(Debug)]
pub(crate) struct ShortDelimiters;

impl PhysicalOptimizerRule for ShortDelimiters {
    fn optimize(
        &self,
        plan: Arc<dyn ExecutionPlan>,
        _: &ConfigOptions,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        plan.apply(|plan| {
            if let Some(aggregate) = plan.downcast_ref::<AggregateExec>() {
                let calls = aggregate.aggr_expr().iter();
                let mut calls = calls.filter(|call| call.fun().name() == "string_agg");
                calls.try_for_each(|call| check(&call.expressions()))?;
            }
            let windows = match plan.downcast_ref::<WindowAggExec>() {
                Some(windows) => windows.window_expr(),
                None => plan
                    .downcast_ref::<BoundedWindowAggExec>()
                    .map_or(&[] as &[Arc<dyn WindowExpr>], |windows| {
                        windows.window_expr()
                    }),
            };
            let mut windows = windows.iter();
            windows.try_for_each(|window| check(&window.expressions()))?;
            Ok(TreeNodeRecursion::Continue)
        })?;
        Ok(plan)
    }

    fn name(&self) -> &'static str {
        "short_delimiters"
    }

    fn schema_check(&self) -> bool {
        true
    }
}

fn check(arguments: &[Arc<dyn PhysicalExpr>]) -> Result<()> {
    let mut others = arguments.iter().skip(1);
    let is_long = others.any(|argument| {
        let literal = argument.downcast_ref::<Literal>();
        let text = literal.and_then(|literal| literal.value().try_as_str().flatten());
        text.is_some_and(|text| text.len() > MOST)
    });
    match is_long {
        true => Err(DataFusionError::from(
            Error::new(
                ErrorKind::Exhausted,
                format!("the delimiter of string_agg may have up to {MOST} bytes"),
            )
            .with_help("write a shorter delimiter"),
        )),
        false => Ok(()),
    }
}
