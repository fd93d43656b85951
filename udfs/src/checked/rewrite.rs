//! Rewrite of a plan's operators and casts to functions that check and round, and back.

use arrow::datatypes::{DataType, Decimal128Type, Decimal256Type, DecimalType};
use datafusion::common::tree_node::{Transformed, TreeNode};
use datafusion::common::{DFSchema, Result, ScalarValue};
use datafusion::config::ConfigOptions;
use datafusion::logical_expr::{
    BinaryExpr, Cast, Expr, ExprSchemable, LogicalPlan, Operator, TryCast,
};
use datafusion::logical_expr_common::type_coercion::binary::BinaryTypeCoercer;
use datafusion::optimizer::AnalyzerRule;

use crate::filtered_arguments::unguarded;
use crate::operands::{any_expr, has_part, inputs, map_named_expressions};
use crate::times::{INTERVAL_LENGTH, give_seconds};
use crate::values::{PER_ROW, TYPED_KEY, per_row};

use super::average::CheckedAverage;
use super::cast::{RoundedCast, may_differ};
use super::negate::CheckedNegation;
use super::operator::CheckedOperator;
use super::zero::ONE_ZERO;

/// Replaces operators by functions that check, after the rule that makes the types of operands equal.
#[derive(Debug)]
pub struct CheckedArithmetic;

impl AnalyzerRule for CheckedArithmetic {
    fn name(&self) -> &str {
        "checked_arithmetic"
    }

    fn analyze(&self, plan: LogicalPlan, _: &ConfigOptions) -> Result<LogicalPlan> {
        let checked = plan.transform_up_with_subqueries(|plan| {
            if !any_expr(&plan, has_arithmetic) {
                return Ok(Transformed::no(plan));
            }
            let schema = inputs(&plan)?;
            map_named_expressions(plan, |expr| {
                expr.transform_up(|expr| checked_node(expr, &schema, CastRounding::Round))
            })
        })?;
        Ok(checked.data)
    }
}

fn has_arithmetic(expr: &Expr) -> bool {
    has_part(expr, |node| match node {
        Expr::BinaryExpr(binary) => is_arithmetic(binary.op),
        Expr::Negative(_) => true,
        Expr::Cast(cast) => may_differ(cast.field.data_type()) || as_double(cast).is_some(),
        Expr::TryCast(cast) => may_differ(cast.field.data_type()),
        Expr::InList(of) => of.list.iter().any(needs_rows),
        _ => false,
    })
}

fn is_arithmetic(op: Operator) -> bool {
    matches!(
        op,
        Operator::StringConcat
            | Operator::Plus
            | Operator::Minus
            | Operator::Multiply
            | Operator::Divide
            | Operator::Modulo
            | Operator::BitwiseShiftLeft
            | Operator::BitwiseShiftRight
    )
}

/// The treatment of digits after the point in a cast to an integer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum CastRounding {
    /// They are rounded.
    Round,
    /// They are truncated.
    Truncate,
}

/// The expression with checking functions instead of operators, and rounding casts; the types of operands must be those that
/// the operators require.
///
/// # Errors
///
/// A column that `schema` does not have.
pub fn checked(expr: Expr, schema: &DFSchema) -> Result<Expr> {
    let checked = expr.transform_up(|expr| checked_node(expr, schema, CastRounding::Round))?;
    Ok(checked.data)
}

/// The same for a single cast that the optimizer made from a function: its operand stays unchanged.
///
/// # Errors
///
/// A column that `schema` does not have.
pub fn checked_cast(cast: Expr, schema: &DFSchema) -> Result<Expr> {
    match cast {
        Expr::Cast(_) | Expr::TryCast(_) => {
            Ok(checked_node(cast, schema, CastRounding::Round)?.data)
        }
        other => Ok(other),
    }
}

/// The same for an expression that a Delta table stores: there `CAST(2.7 AS INT)` is 2, as for all other writers of the table.
///
/// # Errors
///
/// A column that `schema` does not have.
pub fn checked_of_table(expr: Expr, schema: &DFSchema) -> Result<Expr> {
    let checked = expr.transform_up(|expr| checked_node(expr, schema, CastRounding::Truncate))?;
    Ok(checked.data)
}

/// The expression with plain operators, as before the rewrite: state is identified by this form.
///
/// # Errors
///
/// None in practice.
pub fn plain(expr: Expr) -> Result<Expr> {
    let plain = expr.transform_up(|expr| {
        let mut call = match expr {
            Expr::ScalarFunction(call) => call,
            Expr::AggregateFunction(aggregate) => {
                let written = unguarded(aggregate);
                return Ok(Transformed::yes(Expr::AggregateFunction(written)));
            }
            other => return Ok(Transformed::no(other)),
        };
        if let Some(operator) = call.func.inner().downcast_ref::<CheckedOperator>() {
            let op = operator.op();
            if let (Some(right), Some(left), true) =
                (call.args.pop(), call.args.pop(), call.args.is_empty())
            {
                let binary = BinaryExpr::new(Box::new(left), op, Box::new(right));
                return Ok(Transformed::yes(Expr::BinaryExpr(binary)));
            }
        } else if call
            .func
            .inner()
            .downcast_ref::<CheckedNegation>()
            .is_some()
            && let Some(of) = call.args.pop()
        {
            return Ok(Transformed::yes(Expr::Negative(Box::new(of))));
        } else if let Some(cast) = call.func.inner().downcast_ref::<RoundedCast>()
            && let Some(of) = call.args.pop()
        {
            return Ok(Transformed::yes(cast.plain(of)));
        } else if is_mark(call.name())
            && let Some(of) = call.args.pop()
        {
            return Ok(Transformed::yes(of));
        }
        Ok(Transformed::no(Expr::ScalarFunction(call)))
    })?;
    Ok(plain.data)
}

/// The form by which stored state is identified: with plain operators, and averages of integers as averages of DOUBLE, as
/// earlier versions had them.
///
/// # Errors
///
/// A column that `schema` does not have.
pub fn as_kept(expr: Expr, schema: &DFSchema) -> Result<Expr> {
    let kept = expr.transform_up(|expr| {
        let Expr::AggregateFunction(call) = expr else {
            return Ok(Transformed::no(expr));
        };
        if !call.func.inner().is::<CheckedAverage>() {
            return Ok(Transformed::no(Expr::AggregateFunction(call)));
        }
        let mut call = unguarded(call);
        for argument in &mut call.params.args {
            // The plain operators do not tell: they have other types than the checked ones, or none.
            if type_of(argument, schema)?.is_integer() {
                let integer = Box::new(std::mem::take(argument));
                *argument = Expr::Cast(Cast::new(integer, DataType::Float64));
            }
        }
        Ok(Transformed::yes(Expr::AggregateFunction(call)))
    })?;
    plain(kept.data)
}

/// Functions that wrap a value only for the engine's sake.
fn is_mark(function: &str) -> bool {
    [PER_ROW, INTERVAL_LENGTH, TYPED_KEY, ONE_ZERO].contains(&function)
}

/// Whether the engine may take a non-constant element of IN for a constant.
fn needs_rows(value: &Expr) -> bool {
    match value {
        Expr::Column(_) | Expr::Literal(..) => false,
        Expr::Cast(cast) => needs_rows(&cast.expr),
        Expr::ScalarFunction(call) if call.name() == PER_ROW => false,
        other => other.any_column_refs(),
    }
}

/// Whether the engine's cast from one type to another is done by a function: it rounds, or may refuse a value.
pub(crate) fn cast_differs(from: &DataType, to: &DataType) -> bool {
    RoundedCast::over(from, to, false).is_some()
}

/// The operand of a cast, also of a cast by function.
pub(crate) fn cast_value(expr: &Expr) -> Option<&Expr> {
    match expr {
        Expr::Cast(cast) => Some(&cast.expr),
        Expr::ScalarFunction(call) if call.func.inner().is::<RoundedCast>() => call.args.first(),
        _ => None,
    }
}

fn checked_node(
    mut expr: Expr,
    schema: &DFSchema,
    casts: CastRounding,
) -> Result<Transformed<Expr>> {
    if casts == CastRounding::Round && give_seconds(&mut expr) {
        return Ok(Transformed::yes(expr));
    }
    match expr {
        Expr::BinaryExpr(binary) if is_arithmetic(binary.op) => {
            let right = type_of(&binary.right, schema)?;
            if binary.op == Operator::StringConcat {
                return joined(binary, right, schema);
            }
            // Both sides are of the same kind: in a long chain the shorter side shows which.
            if !is_checked(&right) {
                return Ok(Transformed::no(Expr::BinaryExpr(binary)));
            }
            let left = type_of(&binary.left, schema)?;
            let is_same = match (&left, &right) {
                (left, right) if left.is_integer() || left.is_floating() => left == right,
                (left, right) => left.is_decimal() && right.is_decimal(),
            };
            if !is_same {
                return Ok(Transformed::no(Expr::BinaryExpr(binary)));
            }
            let result = match left.is_decimal() {
                false => left,
                true => BinaryTypeCoercer::new(&left, &binary.op, &right).get_result_type()?,
            };
            Ok(Transformed::yes(CheckedOperator::call(
                *binary.left,
                binary.op,
                *binary.right,
                result,
            )))
        }
        Expr::Negative(of) if is_checked(&type_of(&of, schema)?) => {
            Ok(Transformed::yes(CheckedNegation::call(*of)))
        }
        Expr::InList(mut of) if of.list.iter().any(needs_rows) => {
            for value in of.list.iter_mut().filter(|value| needs_rows(value)) {
                *value = per_row(std::mem::take(value));
            }
            Ok(Transformed::yes(Expr::InList(of)))
        }
        Expr::Cast(cast) => {
            if let Some(value) = as_double(&cast) {
                return Ok(Transformed::yes(Expr::Literal(value, None)));
            }
            let Cast { expr, field } = cast;
            Ok(
                match rounded_cast(&expr, field.data_type(), false, schema, casts)? {
                    Some(rounded) => Transformed::yes(rounded.call(*expr)),
                    None => Transformed::no(Expr::Cast(Cast { expr, field })),
                },
            )
        }
        Expr::TryCast(TryCast { expr, field }) => Ok(
            match rounded_cast(&expr, field.data_type(), true, schema, casts)? {
                Some(rounded) => Transformed::yes(rounded.call(*expr)),
                None => Transformed::no(Expr::TryCast(TryCast { expr, field })),
            },
        ),
        other => Ok(Transformed::no(other)),
    }
}

/// The function for a cast of a value that rounds or may fail; unchanged if the cast can do neither.
fn rounded_cast(
    value: &Expr,
    to: &DataType,
    is_tried: bool,
    schema: &DFSchema,
    casts: CastRounding,
) -> Result<Option<RoundedCast>> {
    if casts == CastRounding::Truncate || !may_differ(to) {
        return Ok(None);
    }
    let from = type_of(value, schema)?;
    // A constant can be checked right away: most of them fit. A text is given its seconds right away.
    if let Expr::Literal(constant, _) = value
        && (from.is_string()
            || ((from.is_integer() || from.is_temporal()) && constant.cast_to(to).is_ok()))
    {
        return Ok(None);
    }
    Ok(RoundedCast::over(&from, to, is_tried))
}

/// Replaces `||` by a checked concatenation, if both sides have the same type or a fixed length.
fn joined(binary: BinaryExpr, right: DataType, schema: &DFSchema) -> Result<Transformed<Expr>> {
    let is_text = matches!(
        right,
        DataType::Utf8
            | DataType::LargeUtf8
            | DataType::Utf8View
            | DataType::Binary
            | DataType::LargeBinary
            | DataType::BinaryView
    );
    let left = type_of(&binary.left, schema)?;
    let result = match (&left, &right) {
        (DataType::FixedSizeBinary(one), DataType::FixedSizeBinary(other)) => {
            one.checked_add(*other).map(DataType::FixedSizeBinary)
        }
        _ => (is_text && left == right).then_some(right),
    };
    let Some(result) = result else {
        return Ok(Transformed::no(Expr::BinaryExpr(binary)));
    };
    let call = CheckedOperator::call(*binary.left, binary.op, *binary.right, result);
    Ok(Transformed::yes(call))
}

/// A number literal with a point in a cast to DOUBLE: the nearest DOUBLE, which rounding twice could miss.
fn as_double(cast: &Cast) -> Option<ScalarValue> {
    let Expr::Literal(value, _) = cast.expr.as_ref() else {
        return None;
    };
    let text = match value {
        ScalarValue::Decimal128(Some(value), precision, scale) => {
            Decimal128Type::format_decimal(*value, *precision, *scale)
        }
        ScalarValue::Decimal256(Some(value), precision, scale) => {
            Decimal256Type::format_decimal(*value, *precision, *scale)
        }
        _ => return None,
    };
    match cast.field.data_type() {
        DataType::Float64 => Some(ScalarValue::Float64(Some(text.parse().ok()?))),
        DataType::Float32 => Some(ScalarValue::Float32(Some(text.parse().ok()?))),
        _ => None,
    }
}

/// For DOUBLE only NaN results are checked.
fn is_checked(of: &DataType) -> bool {
    of.is_integer() || of.is_decimal() || of.is_floating()
}

/// The type of an expression, without a walk of the whole tree if the node itself determines it, and without names.
pub(crate) fn type_of(expr: &Expr, schema: &DFSchema) -> Result<DataType> {
    match expr {
        Expr::ScalarFunction(call) => {
            if let Some(cast) = call.func.inner().downcast_ref::<RoundedCast>() {
                return Ok(cast.target().clone());
            }
            let operator = call.func.inner().downcast_ref::<CheckedOperator>();
            match (operator, call.args.as_slice()) {
                (Some(operator), [left, right]) => match operator.known_result() {
                    Some(result) => Ok(result.clone()),
                    None => operator.result_of(&type_of(left, schema)?, &type_of(right, schema)?),
                },
                _ => expr.get_type(schema),
            }
        }
        Expr::BinaryExpr(binary) if is_arithmetic(binary.op) => {
            let left = type_of(&binary.left, schema)?;
            let right = type_of(&binary.right, schema)?;
            BinaryTypeCoercer::new(&left, &binary.op, &right).get_result_type()
        }
        Expr::Alias(alias) => type_of(&alias.expr, schema),
        _ => expr.get_type(schema),
    }
}
