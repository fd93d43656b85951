//! Whether the PRIMARY KEY of a job's sink tells windows apart, by the lineage of its columns: else a run would put rows of old windows
//! over those of newer ones.

use anabranch_udfs::{WindowKind, plain};
use datafusion::arrow::datatypes::{DataType, TimeUnit};
use datafusion::common::Column;
use datafusion::logical_expr::{BinaryExpr, Expr, ExprSchemable as _, LogicalPlan, Operator};

use crate::core::runs::Grouping;
use crate::error::{Error, Result, Subject};
use crate::streaming::lineage::{ColumnOrigin, origins, side_of, unaliased};
use crate::streaming::stream_inputs::{StreamSources, reads_stream};

/// Functions whose result tells each of their arguments.
const WITH_ALL_ARGUMENTS: [&str; 6] = [
    "concat",
    "concat_ws",
    "struct",
    "named_struct",
    "make_array",
    "to_json",
];

/// Refuses a run of a job whose sink has a key that does not tell windows apart.
///
/// # Errors
///
/// The refusal, with its reason.
pub(in crate::streaming) fn check_key(
    plan: &LogicalPlan,
    grouping: Grouping,
    sources: &StreamSources,
    key: &[usize],
    sink: &str,
) -> Result<()> {
    let needed = match grouping {
        Grouping::Rows => return Ok(()),
        // Of the windows of one cycle, all have one start.
        Grouping::Aligned(windows) if windows.kind() == WindowKind::Cumulate => {
            &[ColumnOrigin::WindowEnd][..]
        }
        Grouping::Aligned(_) | Grouping::Sessions { .. } => {
            &[ColumnOrigin::WindowStart, ColumnOrigin::WindowEnd]
        }
    };
    if key.is_empty() {
        return Ok(());
    }
    let columns = plan.schema().columns();
    let mut names = Vec::with_capacity(key.len());
    for index in key {
        let column = columns
            .get(*index)
            .ok_or_else(|| Error::internal("a key column that the job does not fill"))?;
        if tells(plan, &Expr::Column(column.clone()), needed, sources)? {
            return Ok(());
        }
        names.push(column.name.clone());
    }
    let (names, needed) = (
        names.join(", "),
        match needed {
            [_] => "window_end",
            _ => "window_start",
        },
    );
    Err(Error::invalid(format!(
        "PRIMARY KEY ({names}) of {sink} does not tell windows apart: a run would put rows of old windows over those of newer ones"
    ))
    .about(Subject::table(sink))
    .with_help(format!(
        "a sink whose key has {needed} keeps a row for each window; WITH ('overwrite' 'true') writes the rows of old windows all the same"
    )))
}

/// Whether the value of `expr` over `plan` tells one of these columns of the window.
fn tells(
    plan: &LogicalPlan,
    expr: &Expr,
    needed: &[ColumnOrigin],
    sources: &StreamSources,
) -> Result<bool> {
    let expr = plain(expr.clone())?;
    let tells_in = |inner: &Expr| tells(plan, inner, needed, sources);
    match unaliased(&expr) {
        Expr::Column(column) => column_tells(plan, column, needed, sources),
        Expr::Cast(cast) => {
            let from = cast.expr.get_type(plan.schema().as_ref())?;
            Ok(keeps_times(&from, cast.field.data_type()) && tells_in(&cast.expr)?)
        }
        Expr::TryCast(cast) => {
            let from = cast.expr.get_type(plan.schema().as_ref())?;
            Ok(keeps_times(&from, cast.field.data_type()) && tells_in(&cast.expr)?)
        }
        Expr::BinaryExpr(BinaryExpr { left, op, right }) => match op {
            Operator::StringConcat => Ok(tells_in(left)? || tells_in(right)?),
            Operator::Plus | Operator::Minus if matches!(**right, Expr::Literal(..)) => {
                tells_in(left)
            }
            Operator::Plus if matches!(**left, Expr::Literal(..)) => tells_in(right),
            _ => Ok(false),
        },
        Expr::ScalarFunction(call) if WITH_ALL_ARGUMENTS.contains(&call.name()) => {
            for argument in &call.args {
                if tells_in(argument)? {
                    return Ok(true);
                }
            }
            Ok(false)
        }
        _ => Ok(false),
    }
}

fn column_tells(
    plan: &LogicalPlan,
    column: &Column,
    needed: &[ColumnOrigin],
    sources: &StreamSources,
) -> Result<bool> {
    let Some(index) = plan.schema().maybe_index_of_column(column) else {
        return Ok(false);
    };
    if !reads_stream(plan, sources) {
        return Ok(false);
    }
    let below = |input: &LogicalPlan, index: usize| match input.schema().columns().get(index) {
        Some(column) => column_tells(input, column, needed, sources),
        None => Ok(false),
    };
    match plan {
        LogicalPlan::SubqueryAlias(alias) => below(&alias.input, index),
        LogicalPlan::Filter(filter) => below(&filter.input, index),
        LogicalPlan::Projection(list) => match list.expr.get(index) {
            Some(expr) => tells(&list.input, expr, needed, sources),
            None => Ok(false),
        },
        LogicalPlan::Join(join) => {
            let (input, index) = side_of(join, index);
            below(input, index)
        }
        LogicalPlan::Union(union) => {
            for input in &union.inputs {
                if !below(input, index)? {
                    return Ok(false);
                }
            }
            Ok(true)
        }
        LogicalPlan::Aggregate(aggregate) => match aggregate.group_expr.get(index) {
            Some(expr) => tells(&aggregate.input, expr, needed, sources),
            None => Ok(false),
        },
        LogicalPlan::Extension(_) => {
            let origins = origins(plan, &Expr::Column(column.clone()), sources);
            Ok(origins.iter().all(|origin| needed.contains(origin)))
        }
        _ => Ok(false),
    }
}

/// Whether different times stay different in a cast.
fn keeps_times(from: &DataType, to: &DataType) -> bool {
    let digits = |unit: &TimeUnit| match unit {
        TimeUnit::Second => 0,
        TimeUnit::Millisecond => 3,
        TimeUnit::Microsecond => 6,
        TimeUnit::Nanosecond => 9,
    };
    match (from, to) {
        (DataType::Timestamp(from, _), DataType::Timestamp(to, _)) => digits(from) <= digits(to),
        (_, DataType::Int64 | DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View) => true,
        (from, to) => from == to,
    }
}
