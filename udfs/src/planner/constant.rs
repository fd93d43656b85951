//! Constant arguments: intervals and points in time.

use std::sync::Arc;

use arrow::datatypes::{DataType, IntervalUnit, TimeUnit};
use datafusion::common::{DFSchema, Result, ScalarValue, Span};
use datafusion::logical_expr::Expr;
use datafusion::logical_expr::planner::RelationPlannerContext;
use datafusion::logical_expr::simplify::SimplifyContext;
use datafusion::optimizer::simplify_expressions::ExprSimplifier;
use datafusion::sql::sqlparser::ast::{self, Spanned};

use crate::diagnostic::plan_error;
use crate::times::{literals_with_seconds, value_with_seconds};

/// A constant argument: its value, and where and how it was written.
pub(super) struct Constant {
    pub(super) value: ScalarValue,
    pub(super) text: String,
    pub(super) span: Option<Span>,
}

/// Evaluates a constant expression; `what` names the argument for messages.
pub(super) fn evaluate(
    context: &mut dyn RelationPlannerContext,
    expr: &ast::Expr,
    what: &str,
) -> Result<Constant> {
    let span = Span::try_from_sqlparser_span(expr.span());
    let text = expr.to_string();
    let schema = Arc::new(DFSchema::empty());
    let not_constant = |reason: String| {
        plan_error(
            format!("{what} must be a constant, got {text}{reason}"),
            span,
            "write a literal, an expression of literals, or a parameter",
        )
    };
    let planned = context
        .sql_to_expr(expr.clone(), &schema)
        .map_err(|error| not_constant(format!(" ({})", error.strip_backtrace())))?;
    let options = Arc::new(context.context_provider().options().clone());
    let simplify = SimplifyContext::builder()
        .with_schema(Arc::clone(&schema))
        .with_config_options(options)
        .with_current_time()
        .build();
    let simplifier = ExprSimplifier::new(simplify);
    let simplified = simplifier
        .coerce(planned, &schema)
        .and_then(literals_with_seconds)
        .and_then(|expr| simplifier.simplify(expr))
        .map_err(|error| not_constant(format!(" ({})", error.strip_backtrace())))?;
    match simplified {
        Expr::Literal(value, _) if !value.is_null() => Ok(Constant { value, text, span }),
        Expr::Literal(..) => Err(not_constant(", which is NULL".to_owned())),
        _ => Err(not_constant(String::new())),
    }
}

/// The interval `constant` in ticks of `unit`: any sign, but exact.
pub(super) fn interval_ticks(constant: &Constant, unit: TimeUnit, what: &str) -> Result<i64> {
    let Constant { value, text, span } = constant;
    let wrong = |message: String, help: &str| plan_error(message, *span, help);
    let wanted = DataType::Interval(IntervalUnit::MonthDayNano);
    let is_interval = matches!(
        value.data_type(),
        DataType::Interval(_)
            | DataType::Duration(_)
            | DataType::Utf8
            | DataType::LargeUtf8
            | DataType::Utf8View
    );
    let interval = if is_interval {
        value.cast_to(&wanted).ok()
    } else {
        None
    };
    let Some(ScalarValue::IntervalMonthDayNano(Some(interval))) = interval else {
        return Err(wrong(
            format!("{what} must be an interval, got {text}"),
            "write it as INTERVAL '10 minutes'",
        ));
    };
    if interval.months != 0 {
        return Err(wrong(
            format!("{what} cannot be measured in months or years, got {text}"),
            "months differ in length: use days or less, or group by date_trunc('month', …)",
        ));
    }
    let nanoseconds =
        i128::from(interval.days) * 86_400_000_000_000 + i128::from(interval.nanoseconds);
    let per_tick = nanoseconds_per_tick(unit);
    if nanoseconds % per_tick != 0 {
        return Err(wrong(
            format!(
                "{what} {text} is finer than the event time, which counts in {}",
                unit_name(unit)
            ),
            "round the interval, or cast the event time to a finer timestamp in a subquery",
        ));
    }
    i64::try_from(nanoseconds / per_tick).map_err(|_| {
        wrong(
            format!("{what} {text} is too long"),
            "write a shorter interval",
        )
    })
}

/// The point in time `constant` as ticks of `data_type`, a timestamp type.
pub(super) fn point_in_time(constant: &Constant, data_type: &DataType, what: &str) -> Result<i64> {
    let Constant { value, text, span } = constant;
    let wrong = |reason: &str| {
        plan_error(
            format!("{what} must be a timestamp, got {text}{reason}"),
            *span,
            "write it as TIMESTAMP '2025-09-04T10:00:00'",
        )
    };
    let is_time = matches!(
        value.data_type(),
        DataType::Timestamp(_, _)
            | DataType::Date32
            | DataType::Date64
            | DataType::Utf8
            | DataType::LargeUtf8
            | DataType::Utf8View
    );
    if !is_time {
        return Err(wrong(""));
    }
    let point = value_with_seconds(value)
        .as_ref()
        .unwrap_or(value)
        .cast_to(data_type)
        .map_err(|_| wrong(", which cannot be read as one"))?;
    let back = point.cast_to(&value.data_type());
    if matches!(value.data_type(), DataType::Timestamp(_, _))
        && back.is_ok_and(|back| back != *value)
    {
        return Err(wrong(", which is finer than the event time"));
    }
    match point.cast_to(&DataType::Int64) {
        Ok(ScalarValue::Int64(Some(tick))) => Ok(tick),
        _ => Err(wrong(", which cannot be read as one")),
    }
}

fn nanoseconds_per_tick(unit: TimeUnit) -> i128 {
    match unit {
        TimeUnit::Second => 1_000_000_000,
        TimeUnit::Millisecond => 1_000_000,
        TimeUnit::Microsecond => 1_000,
        TimeUnit::Nanosecond => 1,
    }
}

fn unit_name(unit: TimeUnit) -> &'static str {
    match unit {
        TimeUnit::Second => "seconds",
        TimeUnit::Millisecond => "milliseconds",
        TimeUnit::Microsecond => "microseconds",
        TimeUnit::Nanosecond => "nanoseconds",
    }
}
