//! Intervals as keys: for ordering, joins and lookups, and for groups.
//!
//! The engine compares the parts of an interval, months before days before hours. Here ordering and lookup go by the length. A
//! group could contain several intervals of equal length, such as 1 day and 24 hours, and would have to show one: that is
//! refused.

use std::sync::Arc;

use arrow::datatypes::DataType;
use datafusion::common::tree_node::Transformed;
use datafusion::common::{DFSchema, ExprSchema, Result, ScalarValue, not_impl_err};
use datafusion::logical_expr::expr::{Case, ScalarFunction, Sort as SortKey};
use datafusion::logical_expr::{
    Cast, Distinct, Expr, ExprSchemable, LogicalPlan, Subquery, WindowFrame, WindowFrameBound,
    WindowFrameUnits,
};

use super::intervals::{INTERVAL, interval_length};
use crate::operands::{cast_rows, inputs};

/// Functions that compare their arguments, or elements of arrays, as the engine does.
const COMPARING: [&str; 21] = [
    "array_distinct",
    "array_except",
    "array_has",
    "array_has_all",
    "array_has_any",
    "array_intersect",
    "array_max",
    "array_min",
    "array_position",
    "array_positions",
    "array_remove",
    "array_remove_all",
    "array_remove_n",
    "array_replace",
    "array_replace_all",
    "array_replace_n",
    "array_sort",
    "array_union",
    "greatest",
    "least",
    "list_compare",
];

/// Aggregates that compare their arguments.
const COMPARING_AGGREGATES: [&str; 2] = ["max", "min"];

/// Whether these are compared by their length: intervals, and texts that are cast to intervals.
pub(super) fn are_of_length(types: &[DataType]) -> bool {
    let is_span = |of: &DataType| matches!(of, DataType::Interval(_) | DataType::Duration(_));
    let has_interval = types.iter().any(|of| matches!(of, DataType::Interval(_)));
    has_interval
        && types
            .iter()
            .all(|of| is_span(of) || of.is_string() || of.is_null())
}

/// Replaces a value of this type by its length.
pub(super) fn as_length(expr: &mut Expr, of: &DataType) {
    let mut span = std::mem::take(expr);
    if of.is_string() {
        span = Expr::Cast(Cast::new(Box::new(span), INTERVAL));
    }
    *expr = interval_length().call(vec![span]);
}

/// Whether the expression may compare rows, or arguments, by an interval.
pub(super) fn may_compare(expr: &Expr) -> bool {
    match expr {
        Expr::InSubquery(_) | Expr::SetComparison(_) | Expr::WindowFunction(_) => true,
        Expr::Case(case) => case.expr.is_some(),
        Expr::ScalarFunction(call) => call.name() == "nullif" || COMPARING.contains(&call.name()),
        Expr::AggregateFunction(call) => {
            call.params.distinct
                || !call.params.order_by.is_empty()
                || COMPARING_AGGREGATES.contains(&call.func.name())
        }
        _ => false,
    }
}

/// Processes an expression node that is not an operator.
///
/// # Errors
///
/// A comparison of intervals that cannot use their length.
pub(super) fn by_length(expr: &mut Expr, schema: &DFSchema) -> Result<bool> {
    match expr {
        Expr::InSubquery(of) => in_rows(&mut of.expr, &mut of.subquery, schema),
        Expr::SetComparison(of) => in_rows(&mut of.expr, &mut of.subquery, schema),
        Expr::ScalarFunction(call) if call.name() == "nullif" => {
            let Some(case) = null_if(call, schema)? else {
                return Ok(false);
            };
            *expr = case;
            Ok(true)
        }
        Expr::ScalarFunction(call) if COMPARING.contains(&call.name()) => {
            refuse_values(call.name(), &call.args, schema)?;
            Ok(false)
        }
        Expr::AggregateFunction(call) => {
            let name = call.func.name();
            if call.params.distinct || COMPARING_AGGREGATES.contains(&name) {
                refuse_values(name, &call.params.args, schema)?;
            }
            Ok(in_order(&mut call.params.order_by, schema))
        }
        Expr::WindowFunction(call) => {
            let name = call.fun.name().to_owned();
            let params = &mut call.params;
            if params.distinct || COMPARING_AGGREGATES.contains(&name.as_str()) {
                refuse_values(&name, &params.args, schema)?;
            }
            let mut is_changed = in_order(&mut params.order_by, schema);
            if is_changed && !is_by_rows(&params.window_frame) {
                return not_impl_err!(
                    "a frame by RANGE over an INTERVAL is not supported: order by its length, extract(epoch FROM …)"
                );
            }
            for key in &mut params.partition_by {
                is_changed |= key_by_length(key, schema);
            }
            Ok(is_changed)
        }
        _ => Ok(false),
    }
}

/// Processes the keys of a plan that sorts or joins.
///
/// # Errors
///
/// A plan whose columns have no type.
pub(super) fn keys_by_length(plan: LogicalPlan) -> Result<Transformed<LogicalPlan>> {
    let mut is_changed = false;
    let plan = match plan {
        LogicalPlan::Sort(mut sort) => {
            let schema = Arc::clone(sort.input.schema());
            is_changed = in_order(&mut sort.expr, &schema);
            LogicalPlan::Sort(sort)
        }
        LogicalPlan::Join(mut join) => {
            let (left, right) = (join.left.schema(), join.right.schema());
            for (of_left, of_right) in &mut join.on {
                let types = [
                    of_left.get_type(left.as_ref())?,
                    of_right.get_type(right.as_ref())?,
                ];
                if are_of_length(&types) {
                    as_length(of_left, &types[0]);
                    as_length(of_right, &types[1]);
                    is_changed = true;
                }
            }
            LogicalPlan::Join(join)
        }
        other => other,
    };
    Ok(Transformed::new_transformed(plan, is_changed))
}

/// Refuses to group by intervals.
///
/// # Errors
///
/// The plan groups by an interval.
pub(super) fn refuse_groups(plan: &LogicalPlan) -> Result<()> {
    let has_group = match plan {
        LogicalPlan::Aggregate(aggregate) => {
            let schema = inputs(plan)?;
            let keys = aggregate.group_expr.iter();
            let mut keys = keys.flat_map(|key| match key {
                Expr::GroupingSet(sets) => sets.distinct_expr(),
                other => vec![other],
            });
            keys.any(|key| holds_interval(&type_of(key, &schema)))
        }
        LogicalPlan::Distinct(Distinct::All(input)) => has_interval(input),
        LogicalPlan::Distinct(Distinct::On(distinct)) => {
            let schema = distinct.input.schema();
            let keys = &distinct.on_expr;
            keys.iter()
                .any(|key| holds_interval(&type_of(key, schema.as_ref())))
        }
        LogicalPlan::RecursiveQuery(query) => query.is_distinct && has_interval(&query.static_term),
        _ => false,
    };
    match has_group {
        true => not_impl_err!(
            "GROUP BY, DISTINCT and UNION of an INTERVAL are not supported, for 1 day and 24 hours are equal and not the same: \
             take its length, extract(epoch FROM …)"
        ),
        false => Ok(()),
    }
}

fn has_interval(plan: &LogicalPlan) -> bool {
    let mut fields = plan.schema().fields().iter();
    fields.any(|field| holds_interval(field.data_type()))
}

/// Whether a value of this type is an interval, or contains one.
fn holds_interval(of: &DataType) -> bool {
    match of {
        DataType::Interval(_) => true,
        DataType::List(field)
        | DataType::LargeList(field)
        | DataType::FixedSizeList(field, _)
        | DataType::Map(field, _) => holds_interval(field.data_type()),
        DataType::Struct(fields) => fields.iter().any(|field| holds_interval(field.data_type())),
        _ => false,
    }
}

/// The type of an expression; one without a type yet, such as a parameter, is not an interval.
fn type_of(expr: &Expr, schema: &dyn ExprSchema) -> DataType {
    expr.get_type(schema).unwrap_or(DataType::Null)
}

fn in_rows(expr: &mut Expr, subquery: &mut Subquery, schema: &DFSchema) -> Result<bool> {
    let rows = Arc::clone(&subquery.subquery);
    let [field] = rows.schema().fields().as_ref() else {
        return Ok(false);
    };
    let types = [type_of(expr, schema), field.data_type().clone()];
    if !are_of_length(&types) {
        return Ok(false);
    }
    as_length(expr, &types[0]);
    cast_rows(subquery, |column| {
        as_length(column, &types[1]);
        true
    })
}

/// Rewrites `nullif(a, b)` to an explicit comparison.
fn null_if(call: &ScalarFunction, schema: &DFSchema) -> Result<Option<Expr>> {
    let [value, other] = call.args.as_slice() else {
        return Ok(None);
    };
    let types = [type_of(value, schema), type_of(other, schema)];
    if !are_of_length(&types) || types.iter().any(DataType::is_null) {
        return Ok(None);
    }
    let (mut one, mut two) = (value.clone(), other.clone());
    as_length(&mut one, &types[0]);
    as_length(&mut two, &types[1]);
    let nothing = Expr::Literal(ScalarValue::try_from(&types[0])?, None);
    Ok(Some(Expr::Case(Case {
        expr: None,
        when_then_expr: vec![(Box::new(one.eq(two)), Box::new(nothing))],
        else_expr: Some(Box::new(value.clone())),
    })))
}

fn in_order(keys: &mut [SortKey], schema: &DFSchema) -> bool {
    let mut is_changed = false;
    for key in keys {
        is_changed |= key_by_length(&mut key.expr, schema);
    }
    is_changed
}

fn key_by_length(key: &mut Expr, schema: &DFSchema) -> bool {
    let of = type_of(key, schema);
    let is_interval = matches!(of, DataType::Interval(_));
    if is_interval {
        as_length(key, &of);
    }
    is_interval
}

/// Whether the frame has no RANGE bound `n PRECEDING` or `n FOLLOWING`.
fn is_by_rows(frame: &WindowFrame) -> bool {
    let is_by_rows = |bound: &WindowFrameBound| {
        matches!(bound, WindowFrameBound::CurrentRow) || bound.is_unbounded()
    };
    frame.units != WindowFrameUnits::Range
        || (is_by_rows(&frame.start_bound) && is_by_rows(&frame.end_bound))
}

fn refuse_values(function: &str, values: &[Expr], schema: &DFSchema) -> Result<()> {
    match values
        .iter()
        .any(|value| holds_interval(&type_of(value, schema)))
    {
        true => not_impl_err!(
            "{function} of an INTERVAL would compare its parts, and is not supported: take its length, extract(epoch FROM …)"
        ),
        false => Ok(()),
    }
}
