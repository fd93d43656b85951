//! Expressions written with brackets or operators that are function calls: `[a, b]`, `{'a': 1}`, `list || list`,
//! `list @> list`.
//!
//! The engine's planners take the functions for these from its library instead of the session: so this module plans them, with
//! the same bounds as for calls by name.

use datafusion::common::{DFSchema, Result};
use datafusion::functions::core::planner::CoreFunctionPlanner;
use datafusion::functions::unicode::planner::UnicodeFunctionPlanner;
use datafusion::functions_nested::planner::NestedFunctionPlanner;
use datafusion::logical_expr::Expr;
use datafusion::logical_expr::planner::{
    ExprPlanner, PlannerResult, RawBinaryExpr, RawDictionaryExpr,
};

use crate::session::limits::cancellation;
use crate::session::limits::function_bounds::bounded;

/// Wraps the engine's planners, and puts bounds around the functions that they call.
#[derive(Debug)]
pub(crate) struct BoundedLiterals;

impl ExprPlanner for BoundedLiterals {
    fn plan_binary_op(
        &self,
        expr: RawBinaryExpr,
        schema: &DFSchema,
    ) -> Result<PlannerResult<RawBinaryExpr>> {
        cancellation::check()?;
        Ok(within(NestedFunctionPlanner.plan_binary_op(expr, schema)?))
    }

    fn plan_array_literal(
        &self,
        exprs: Vec<Expr>,
        schema: &DFSchema,
    ) -> Result<PlannerResult<Vec<Expr>>> {
        cancellation::check()?;
        Ok(within(
            NestedFunctionPlanner.plan_array_literal(exprs, schema)?,
        ))
    }

    fn plan_make_map(&self, args: Vec<Expr>) -> Result<PlannerResult<Vec<Expr>>> {
        Ok(match NestedFunctionPlanner.plan_make_map(args)? {
            PlannerResult::Planned(Expr::ScalarFunction(mut call)) => {
                // The lists of keys and values are new.
                call.args = call.args.into_iter().map(call_within).collect();
                PlannerResult::Planned(call_within(Expr::ScalarFunction(call)))
            }
            other => other,
        })
    }

    fn plan_dictionary_literal(
        &self,
        expr: RawDictionaryExpr,
        schema: &DFSchema,
    ) -> Result<PlannerResult<RawDictionaryExpr>> {
        let planned = CoreFunctionPlanner::default().plan_dictionary_literal(expr, schema)?;
        Ok(within(planned))
    }

    fn plan_struct_literal(
        &self,
        args: Vec<Expr>,
        is_named_struct: bool,
    ) -> Result<PlannerResult<Vec<Expr>>> {
        let planned = CoreFunctionPlanner::default().plan_struct_literal(args, is_named_struct)?;
        Ok(within(planned))
    }

    fn plan_overlay(&self, args: Vec<Expr>) -> Result<PlannerResult<Vec<Expr>>> {
        Ok(within(CoreFunctionPlanner::default().plan_overlay(args)?))
    }

    fn plan_position(&self, args: Vec<Expr>) -> Result<PlannerResult<Vec<Expr>>> {
        Ok(within(UnicodeFunctionPlanner.plan_position(args)?))
    }
}

fn within<T>(planned: PlannerResult<T>) -> PlannerResult<T> {
    match planned {
        PlannerResult::Planned(expr) => PlannerResult::Planned(call_within(expr)),
        original => original,
    }
}

/// The same call, of the function with its bounds.
fn call_within(expr: Expr) -> Expr {
    match expr {
        Expr::ScalarFunction(mut call) => {
            call.func = bounded(call.func);
            Expr::ScalarFunction(call)
        }
        other => other,
    }
}
