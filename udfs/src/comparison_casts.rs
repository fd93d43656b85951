//! Casts that a subquery with an aggregate compares with the outer row:
//! `(SELECT sum(x) FROM u WHERE CAST(u.t AS DATE) = d.day)`.
//!
//! DataFusion makes a join of such a subquery, and groups its rows by the compared columns. For a cast it groups by the column
//! inside: several times of one day would be several groups, and the outer row would occur once for each of them. This module
//! computes the cast below the condition, so that the rows are grouped by the cast.

use std::sync::Arc;

use datafusion::common::tree_node::{Transformed, TreeNode as _};
use datafusion::common::{Column, DFSchema, Result};
use datafusion::config::ConfigOptions;
use datafusion::logical_expr::utils::{conjunction, split_conjunction, split_conjunction_owned};
use datafusion::logical_expr::{
    Aggregate, BinaryExpr, Expr, ExprSchemable as _, Filter, LogicalPlan, Operator, Projection,
};
use datafusion::optimizer::AnalyzerRule;

use crate::checked::cast_value;
use crate::operands::any_node;

/// Prefix of the name of a computed cast, before its number.
const COMPARED: &str = "__compared";

/// Computes such casts below the conditions. It runs after the rules that give subqueries an aggregate.
#[derive(Debug)]
pub(crate) struct ComparedCasts;

impl AnalyzerRule for ComparedCasts {
    fn name(&self) -> &str {
        "compared_casts"
    }

    fn analyze(&self, plan: LogicalPlan, _: &ConfigOptions) -> Result<LogicalPlan> {
        let has_any = |plan: &LogicalPlan| match plan {
            LogicalPlan::Filter(filter) => compares_casts(filter),
            _ => false,
        };
        if !any_node(&plan, has_any)? {
            return Ok(plan);
        }
        let mut number = 0;
        let changed = plan.transform_up_with_subqueries(|plan| match plan {
            LogicalPlan::Aggregate(aggregate) if !aggregate.aggr_expr.is_empty() => {
                aggregated(aggregate, &mut number)
            }
            other => Ok(Transformed::no(other)),
        })?;
        Ok(changed.data)
    }
}

fn compares_casts(filter: &Filter) -> bool {
    let conditions = split_conjunction(&filter.predicate);
    conditions
        .into_iter()
        .any(|condition| cast_side(condition).is_some())
}

/// A side of an equality.
enum EqualitySide {
    Left,
    Right,
}

/// The side of a condition that is such a cast.
fn cast_side(condition: &Expr) -> Option<EqualitySide> {
    let Expr::BinaryExpr(BinaryExpr {
        left,
        op: Operator::Eq,
        right,
    }) = condition
    else {
        return None;
    };
    if is_compared(left, right) {
        return Some(EqualitySide::Left);
    }
    is_compared(right, left).then_some(EqualitySide::Right)
}

/// Whether one side is the cast of a column, and the other an expression over the outer row.
fn is_compared(side: &Expr, other: &Expr) -> bool {
    let is_cast = matches!(cast_value(side), Some(Expr::Column(_)));
    is_cast && other.contains_outer() && !other.any_column_refs()
}

/// The cast in a condition that is compared with the outer row.
fn cast_in(condition: &mut Expr) -> Option<&mut Expr> {
    let side = cast_side(condition)?;
    let Expr::BinaryExpr(equality) = condition else {
        return None;
    };
    Some(match side {
        EqualitySide::Left => equality.left.as_mut(),
        EqualitySide::Right => equality.right.as_mut(),
    })
}

/// Whether the cast keeps different values different: an integer that does not fit another integer type is an error.
fn is_exact(cast: &Expr, schema: &DFSchema) -> Result<bool> {
    let Expr::Cast(cast) = cast else {
        // A cast by function rounds, or reads several texts as one time.
        return Ok(false);
    };
    Ok(cast.field.data_type().is_integer() && cast.expr.get_type(schema)?.is_integer())
}

/// The aggregate, with such casts computed in its input.
fn aggregated(aggregate: Aggregate, number: &mut usize) -> Result<Transformed<LogicalPlan>> {
    let mut any = false;
    let input = aggregate.input.as_ref().clone();
    let input = input.transform_up(|plan| {
        let changed = match plan {
            LogicalPlan::Filter(filter) => computed(filter, number)?,
            other => Transformed::no(other),
        };
        any |= changed.transformed;
        // The schema has more columns, also for the operators above.
        match any {
            true => changed.map_data(LogicalPlan::recompute_schema),
            false => Ok(changed),
        }
    })?;
    if !input.transformed {
        return Ok(Transformed::no(LogicalPlan::Aggregate(aggregate)));
    }
    let aggregate = Aggregate::try_new_with_schema(
        Arc::new(input.data),
        aggregate.group_expr,
        aggregate.aggr_expr,
        aggregate.schema,
    )?;
    Ok(Transformed::yes(LogicalPlan::Aggregate(aggregate)))
}

/// The filter with columns instead of such casts.
fn computed(filter: Filter, number: &mut usize) -> Result<Transformed<LogicalPlan>> {
    if !compares_casts(&filter) {
        return Ok(Transformed::no(LogicalPlan::Filter(filter)));
    }
    let schema = Arc::clone(filter.input.schema());
    let columns = schema.columns().into_iter().map(Expr::Column);
    let mut below: Vec<Expr> = columns.collect();
    let width = below.len();
    let mut conditions = split_conjunction_owned(filter.predicate.clone());
    for condition in &mut conditions {
        let Some(cast) = cast_in(condition) else {
            continue;
        };
        if is_exact(cast, &schema)? {
            continue;
        }
        let name = format!("{COMPARED}_{number}");
        *number += 1;
        let column = Expr::Column(Column::new_unqualified(name.clone()));
        below.push(std::mem::replace(cast, column).alias(name));
    }
    let predicate = match conjunction(conditions) {
        Some(predicate) if below.len() > width => predicate,
        _ => return Ok(Transformed::no(LogicalPlan::Filter(filter))),
    };
    let below = Projection::try_new(below, filter.input)?;
    let filter = Filter::try_new(predicate, Arc::new(LogicalPlan::Projection(below)))?;
    Ok(Transformed::yes(LogicalPlan::Filter(filter)))
}
