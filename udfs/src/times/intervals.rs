//! Intervals by their length, and intervals added to days.
//!
//! The engine compares intervals part by part, months before days before hours, so that 36 hours are less than a day. Here a month has
//! 30 days and a day 24 hours, as PostgreSQL compares them.

use std::sync::Arc;

use arrow::array::{Array, AsArray, Int64Array};
use arrow::compute::cast;
use arrow::datatypes::{
    DataType, DurationMicrosecondType, IntervalMonthDayNanoType, IntervalUnit, TimeUnit,
};
use datafusion::common::tree_node::{Transformed, TreeNode};
use datafusion::common::{DFSchema, Result, ScalarValue, plan_err};
use datafusion::config::ConfigOptions;
use datafusion::logical_expr::{
    BinaryExpr, Cast, ColumnarValue, Expr, ExprSchemable, LogicalPlan, Operator,
    ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature, Volatility,
};
use datafusion::optimizer::AnalyzerRule;

use super::{interval_keys, timestamp};
use crate::checked::plain;
use crate::operands::{any_expr, has_part, inputs, map_named_expressions, scalar_or_array};

/// INTERVAL.
pub(super) const INTERVAL: DataType = DataType::Interval(IntervalUnit::MonthDayNano);
const MICROS_PER_DAY: i128 = 86_400_000_000;
const DAYS_PER_MONTH: i128 = 30;
/// Nanoseconds of a day.
pub(super) const NANOS_PER_DAY: i64 = 86_400_000_000_000;

/// Compares intervals by their length, before type coercion; refuses to group by them.
#[derive(Debug)]
pub(crate) struct IntervalsByLength;

impl AnalyzerRule for IntervalsByLength {
    fn name(&self) -> &str {
        "intervals_by_length"
    }

    fn analyze(&self, plan: LogicalPlan, _: &ConfigOptions) -> Result<LogicalPlan> {
        let changed = plan.transform_up_with_subqueries(|plan| {
            interval_keys::refuse_groups(&plan)?;
            interval_keys::keys_by_length(plan)?.transform_data(in_expressions)
        })?;
        Ok(changed.data)
    }
}

fn in_expressions(plan: LogicalPlan) -> Result<Transformed<LogicalPlan>> {
    let has_any = any_expr(&plan, |expr| has_part(expr, may_matter));
    if !has_any {
        return Ok(Transformed::no(plan));
    }
    let schema = inputs(&plan)?;
    map_named_expressions(plan, |expr| {
        expr.transform_up(|expr| by_length(expr, &schema))
    })
}

/// The same for one expression over these columns.
///
/// # Errors
///
/// A date plus or minus a time of day.
pub(crate) fn with_interval_lengths(expr: Expr, schema: &DFSchema) -> Result<Expr> {
    Ok(expr.transform_up(|expr| by_length(expr, schema))?.data)
}

fn is_comparison(op: Operator) -> bool {
    matches!(
        op,
        Operator::Eq
            | Operator::NotEq
            | Operator::Lt
            | Operator::LtEq
            | Operator::Gt
            | Operator::GtEq
            | Operator::IsDistinctFrom
            | Operator::IsNotDistinctFrom
    )
}

fn may_matter(expr: &Expr) -> bool {
    match expr {
        Expr::BinaryExpr(binary) => {
            is_comparison(binary.op) || matches!(binary.op, Operator::Plus | Operator::Minus)
        }
        Expr::Between(_) | Expr::InList(_) => true,
        other => interval_keys::may_compare(other),
    }
}

fn by_length(mut expr: Expr, schema: &DFSchema) -> Result<Transformed<Expr>> {
    let compared: Vec<&mut Expr> = match &mut expr {
        Expr::BinaryExpr(binary) if is_comparison(binary.op) => {
            vec![&mut *binary.left, &mut *binary.right]
        }
        Expr::BinaryExpr(binary) if matches!(binary.op, Operator::Plus | Operator::Minus) => {
            if let Some(between) = between_times(binary, schema) {
                return Ok(Transformed::yes(between));
            }
            let is_changed = in_moments(binary, schema)?;
            return Ok(Transformed::new_transformed(expr, is_changed));
        }
        Expr::Between(of) => vec![&mut *of.expr, &mut *of.low, &mut *of.high],
        Expr::InList(of) => std::iter::once(&mut *of.expr).chain(&mut of.list).collect(),
        Expr::Case(case) => {
            let Some(of) = &mut case.expr else {
                return Ok(Transformed::no(expr));
            };
            let whens = case.when_then_expr.iter_mut().map(|(when, _)| &mut **when);
            std::iter::once(&mut **of).chain(whens).collect()
        }
        other => {
            let is_changed = interval_keys::by_length(other, schema)?;
            return Ok(Transformed::new_transformed(expr, is_changed));
        }
    };
    // A value without a type yet, such as a parameter, gets one later.
    let types = compared.iter().map(|expr| expr.get_type(schema));
    let types: Vec<DataType> = types.map(|of| of.unwrap_or(DataType::Null)).collect();
    if !interval_keys::are_of_length(&types) {
        return Ok(Transformed::no(expr));
    }
    for (expr, of) in compared.into_iter().zip(&types) {
        interval_keys::as_length(expr, of);
    }
    Ok(Transformed::yes(expr))
}

/// The difference of two times of day. The engine takes their microseconds for nanoseconds.
fn between_times(binary: &mut BinaryExpr, schema: &DFSchema) -> Option<Expr> {
    let is_time = |of: &Expr| {
        let of = of.get_type(schema).unwrap_or(DataType::Null);
        matches!(of, DataType::Time32(_) | DataType::Time64(_))
    };
    if binary.op != Operator::Minus || !is_time(&binary.left) || !is_time(&binary.right) {
        return None;
    }
    let micros = |of: &mut Expr| {
        let time = Cast::new(
            Box::new(std::mem::take(of)),
            DataType::Time64(TimeUnit::Microsecond),
        );
        Box::new(Expr::Cast(Cast::new(
            Box::new(Expr::Cast(time)),
            DataType::Int64,
        )))
    };
    let (left, right) = (micros(&mut binary.left), micros(&mut binary.right));
    let between = Expr::BinaryExpr(BinaryExpr::new(left, Operator::Minus, right));
    let length = DataType::Duration(TimeUnit::Microsecond);
    Some(Expr::Cast(Cast::new(Box::new(between), length)))
}

/// A date plus or minus hours becomes a timestamp; a date plus or minus a time of day is refused.
fn in_moments(binary: &mut BinaryExpr, schema: &DFSchema) -> Result<bool> {
    let (Ok(left), Ok(right)) = (binary.left.get_type(schema), binary.right.get_type(schema))
    else {
        return Ok(false);
    };
    let is_time = |of: &DataType| matches!(of, DataType::Time32(_) | DataType::Time64(_));
    let is_day = |of: &DataType| matches!(of, DataType::Date32 | DataType::Date64);
    if (is_day(&left) && is_time(&right)) || (is_time(&left) && is_day(&right)) {
        return plan_err!(
            "DATE and TIME are not added to or taken from each other: CAST the day to TIMESTAMP, and add an INTERVAL"
        );
    }
    let has_hours = |of: &Expr| match of {
        Expr::Literal(ScalarValue::IntervalMonthDayNano(Some(of)), _) => {
            of.nanoseconds % NANOS_PER_DAY != 0
        }
        _ => false,
    };
    let day = match (is_day(&left), is_day(&right)) {
        (true, false) if has_hours(&binary.right) => &mut binary.left,
        (false, true) if has_hours(&binary.left) => &mut binary.right,
        _ => return Ok(false),
    };
    let moment = Cast::new(Box::new(std::mem::take(&mut **day)), timestamp());
    **day = Expr::Cast(moment);
    Ok(true)
}

/// `interval_length(interval)`: its length in microseconds.
#[must_use]
pub(crate) fn interval_length() -> ScalarUDF {
    ScalarUDF::from(IntervalLength {
        signature: Signature::user_defined(Volatility::Immutable),
    })
}

/// The name of the function.
pub(crate) const INTERVAL_LENGTH: &str = "interval_length";

#[derive(Debug, PartialEq, Eq, Hash)]
struct IntervalLength {
    signature: Signature,
}

impl ScalarUDFImpl for IntervalLength {
    fn name(&self) -> &str {
        INTERVAL_LENGTH
    }

    /// Keys keep the name of the original expression.
    fn schema_name(&self, args: &[Expr]) -> Result<String> {
        let [of] = args else {
            return plan_err!("interval_length takes an INTERVAL");
        };
        Ok(plain(of.clone())?.schema_name().to_string())
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn coerce_types(&self, types: &[DataType]) -> Result<Vec<DataType>> {
        match types {
            [DataType::Duration(_)] => Ok(vec![DataType::Duration(TimeUnit::Microsecond)]),
            [DataType::Interval(_) | DataType::Null] => Ok(vec![INTERVAL]),
            _ => plan_err!("interval_length takes an INTERVAL"),
        }
    }

    fn return_type(&self, _: &[DataType]) -> Result<DataType> {
        Ok(DataType::Int64)
    }

    fn is_strict(&self) -> bool {
        true
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let Some(of) = args.args.first() else {
            return plan_err!("interval_length takes an INTERVAL");
        };
        let is_scalar = matches!(of, ColumnarValue::Scalar(_));
        let array = of.to_array(if is_scalar { 1 } else { args.number_rows })?;
        let lengths: Int64Array = match array.data_type() {
            DataType::Interval(_) => {
                let array = cast(&array, &INTERVAL)?;
                let intervals = array.as_primitive::<IntervalMonthDayNanoType>();
                let length = |of: arrow::datatypes::IntervalMonthDayNano| {
                    let days = i128::from(of.months) * DAYS_PER_MONTH + i128::from(of.days);
                    let micros = days * MICROS_PER_DAY + i128::from(of.nanoseconds / 1_000);
                    // Longer intervals are clamped: no time span reaches this many thousand years.
                    micros.clamp(i64::MIN.into(), i64::MAX.into()) as i64
                };
                intervals.iter().map(|of| of.map(length)).collect()
            }
            _ => {
                let array = cast(&array, &DataType::Duration(TimeUnit::Microsecond))?;
                let durations = array.as_primitive::<DurationMicrosecondType>();
                durations.iter().collect()
            }
        };
        scalar_or_array(Arc::new(lengths), is_scalar)
    }
}
