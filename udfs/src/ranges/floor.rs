//! Functions that floor a timestamp: the result is at most the argument, and less than one width below it.

use std::sync::Arc;

use arrow::datatypes::{DataType, IntervalUnit, TimeUnit};
use datafusion::common::{DFSchema, Result, ScalarValue};
use datafusion::logical_expr::simplify::SimplifyContext;
use datafusion::logical_expr::{Cast, Expr, ExprSchemable, Operator, lit};
use datafusion::optimizer::simplify_expressions::ExprSimplifier;

use super::{Comparison, DerivedBounds, tick_of};
use crate::checked::cast_value;

const SECOND: i64 = 1_000_000_000;
const DAY: i64 = 86_400 * SECOND;

/// The ranges on timestamps that follow from `predicate` over `schema`.
pub(super) fn implied(predicate: &Expr, schema: &DFSchema) -> Result<Vec<Expr>> {
    let mut implied = vec![];
    for comparison in Comparison::all_of(predicate) {
        if let Some(floored) = Floored::recognize(comparison.expr, schema)?
            && let Some(bounds) = floored.bounds(&comparison)?
        {
            let bounds = floored.on_column(bounds);
            implied.extend(bounds.predicates(floored.column, &floored.column_type)?);
        }
    }
    Ok(implied)
}

/// An expression that floors `column`, a timestamp, perhaps cast to a finer one.
struct Floored<'a> {
    call: &'a Expr,
    column: &'a Expr,
    column_type: DataType,
    /// The number of ticks of the argument in a tick of the column.
    ticks_per_column_tick: i64,
    /// The argument's type, which is the column's or a finer one.
    data_type: DataType,
    /// In ticks of the argument, rounded up: no two neighbouring values are further apart.
    width: i64,
}

impl<'a> Floored<'a> {
    fn recognize(call: &'a Expr, schema: &DFSchema) -> Result<Option<Self>> {
        let (argument, width) = match call {
            Expr::ScalarFunction(function) => match (function.name(), function.args.as_slice()) {
                ("date_trunc", [Expr::Literal(unit, _), argument]) => (argument, unit_width(unit)),
                ("date_bin", [Expr::Literal(stride, _), argument]) => {
                    (argument, stride_width(stride))
                }
                ("date_bin", [Expr::Literal(stride, _), argument, Expr::Literal(..)]) => {
                    (argument, stride_width(stride))
                }
                _ => return Ok(None),
            },
            Expr::Cast(Cast { expr, field }) if *field.data_type() == DataType::Date32 => {
                (expr.as_ref(), Some(DAY))
            }
            _ => return Ok(None),
        };
        let Some(width) = width else {
            return Ok(None);
        };
        // Type coercion casts to the type that a function takes: the column's own ticks are below the cast.
        let column = cast_value(argument).unwrap_or(argument);
        let (data_type, column_type) = (argument.get_type(schema)?, column.get_type(schema)?);
        let (Expr::Column(_), Some(per_tick), Some(per_column_tick)) = (
            column,
            nanoseconds_per_tick(&data_type),
            nanoseconds_per_tick(&column_type),
        ) else {
            return Ok(None);
        };
        if per_column_tick < per_tick {
            return Ok(None);
        }
        Ok(Some(Self {
            call,
            column,
            column_type,
            ticks_per_column_tick: per_column_tick / per_tick,
            data_type,
            width: width / per_tick + i64::from(width % per_tick != 0),
        }))
    }

    /// Bounds on the argument as bounds on the column, whose ticks are longer: a tick of the
    /// column at or past a bound is one at or past the bound rounded up.
    fn on_column(&self, bounds: DerivedBounds) -> DerivedBounds {
        let ratio = self.ticks_per_column_tick;
        let rounded_up =
            |tick: i64| tick.div_euclid(ratio) + i64::from(tick.rem_euclid(ratio) != 0);
        DerivedBounds {
            from: bounds.from.map(rounded_up),
            to: bounds.to.map(rounded_up),
        }
    }

    fn bounds(&self, comparison: &Comparison<'_>) -> Result<Option<DerivedBounds>> {
        // A DATE stands for the first instant of its day.
        let point = comparison.value.cast_to(&self.data_type);
        let Some(tick) = point
            .ok()
            .and_then(|point| tick_of(&point, &self.data_type))
        else {
            return Ok(None);
        };
        let floored = self.floor(tick)?;
        let upper = |tick: i64| tick.checked_add(self.width);
        let bounds = match comparison.op {
            Operator::GtEq | Operator::Gt => DerivedBounds {
                from: Some(tick),
                to: None,
            },
            Operator::Lt if floored == Some(tick) => DerivedBounds {
                from: None,
                to: Some(tick),
            },
            Operator::Lt | Operator::LtEq => DerivedBounds {
                from: None,
                to: upper(floored.unwrap_or(tick)),
            },
            Operator::Eq => DerivedBounds {
                from: Some(tick),
                to: upper(tick),
            },
            _ => return Ok(None),
        };
        Ok(Some(bounds))
    }

    /// The result of the call for an argument of `tick`.
    fn floor(&self, tick: i64) -> Result<Option<i64>> {
        let argument = lit(ScalarValue::Int64(Some(tick)).cast_to(&self.data_type)?);
        let call = match self.call.clone() {
            Expr::ScalarFunction(mut function) => {
                if let Some(place) = function.args.get_mut(1) {
                    *place = argument;
                }
                Expr::ScalarFunction(function)
            }
            Expr::Cast(Cast { field, .. }) => Expr::Cast(Cast {
                expr: Box::new(argument),
                field,
            }),
            _ => return Ok(None),
        };
        let schema = Arc::new(DFSchema::empty());
        let context = SimplifyContext::builder().with_schema(schema).build();
        // If a value cannot be computed, the looser bound is used.
        Ok(match ExprSimplifier::new(context).simplify(call) {
            Ok(Expr::Literal(value, _)) => {
                let value = value.cast_to(&self.data_type).ok();
                value.and_then(|value| tick_of(&value, &self.data_type))
            }
            _ => None,
        })
    }
}

/// The longest unit of this name, in nanoseconds.
fn unit_width(unit: &ScalarValue) -> Option<i64> {
    let unit = unit.try_as_str()??.to_lowercase();
    Some(match unit.as_str() {
        "microsecond" => 1_000,
        "millisecond" => 1_000_000,
        "second" => SECOND,
        "minute" => 60 * SECOND,
        "hour" => 3_600 * SECOND,
        "day" => DAY,
        "week" => 7 * DAY,
        "month" => 31 * DAY,
        "quarter" => 92 * DAY,
        "year" => 366 * DAY,
        _ => return None,
    })
}

/// A stride without months, in nanoseconds.
fn stride_width(stride: &ScalarValue) -> Option<i64> {
    let wanted = DataType::Interval(IntervalUnit::MonthDayNano);
    match stride.cast_to(&wanted).ok()? {
        ScalarValue::IntervalMonthDayNano(Some(stride)) if stride.months == 0 => {
            let days = i64::from(stride.days).checked_mul(DAY)?;
            days.checked_add(stride.nanoseconds)
                .filter(|width| *width > 0)
        }
        _ => None,
    }
}

/// `None` unless `data_type` is a timestamp in UTC: in another zone days have 23 to 25 hours, and hours can repeat.
fn nanoseconds_per_tick(data_type: &DataType) -> Option<i64> {
    let DataType::Timestamp(unit, zone) = data_type else {
        return None;
    };
    if zone
        .as_deref()
        .is_some_and(|zone| !crate::window::is_utc(zone))
    {
        return None;
    }
    Some(match unit {
        TimeUnit::Second => SECOND,
        TimeUnit::Millisecond => 1_000_000,
        TimeUnit::Microsecond => 1_000,
        TimeUnit::Nanosecond => 1,
    })
}
