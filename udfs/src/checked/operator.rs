//! `+`, `-`, `*`, `/`, `%`, `<<` and `>>` as functions that refuse a result out of range, and `||` as one that refuses a result
//! beyond the budget of its statement.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, Datum};
use arrow::compute::kernels::concat_elements::concat_elements_dyn;
use arrow::compute::kernels::numeric;
use arrow::datatypes::{
    DataType, Decimal32Type, Decimal64Type, Decimal128Type, Decimal256Type, DecimalType, Field,
    FieldRef,
};
use arrow::error::ArrowError;
use arrow::util::display::{ArrayFormatter, FormatOptions};
use datafusion::common::{Result, ScalarValue, internal_err};
use datafusion::error::DataFusionError;
use datafusion::logical_expr::expr::ScalarFunction;
use datafusion::logical_expr::interval_arithmetic::Interval;
use datafusion::logical_expr::{
    BinaryExpr, ColumnarValue, Expr, Operator, ReturnFieldArgs, ScalarFunctionArgs, ScalarUDF,
    ScalarUDFImpl, Signature, Volatility,
};
use datafusion::logical_expr_common::type_coercion::binary::BinaryTypeCoercer;
use datafusion::physical_expr_common::datum::apply;

use crate::budget::check_joined;

use super::decimals;
use super::division::{divide_decimals, multiply_decimals};
use super::nan::with_one_nan;
use super::overflow::out_of_range;
use super::rewrite::plain;
use super::shift::shift;

/// An operator over two numbers, or texts, with result type `result`.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct CheckedOperator {
    op: Operator,
    /// The type of the result, if those of the operands are final; otherwise it is derived from them.
    result: Option<DataType>,
    signature: Signature,
}

impl CheckedOperator {
    /// The call of `op` over operands whose types are final, whose result is `result`.
    pub(super) fn call(left: Expr, op: Operator, right: Expr, result: DataType) -> Expr {
        Self::build(left, op, right, Some(result))
    }

    /// The call of `op` over operands whose types may still change.
    pub(super) fn planned(left: Expr, op: Operator, right: Expr) -> Expr {
        Self::build(left, op, right, None)
    }

    fn build(left: Expr, op: Operator, right: Expr, result: Option<DataType>) -> Expr {
        let function = ScalarUDF::from(Self {
            op,
            result,
            signature: Signature::user_defined(Volatility::Immutable),
        });
        Expr::ScalarFunction(ScalarFunction::new_udf(
            Arc::new(function),
            vec![left, right],
        ))
    }

    pub(super) fn op(&self) -> Operator {
        self.op
    }

    /// The type of the result, if it does not depend on the operands' types.
    pub(super) fn known_result(&self) -> Option<&DataType> {
        self.result.as_ref()
    }

    /// The type of the result over operands of these types.
    pub(super) fn result_of(&self, left: &DataType, right: &DataType) -> Result<DataType> {
        if let Some(result) = &self.result {
            return Ok(result.clone());
        }
        match decimals::operands(self.op, left, right) {
            Some(operands) => Ok(decimals::result(self.op, operands)),
            None => BinaryTypeCoercer::new(left, &self.op, right).get_result_type(),
        }
    }

    fn compute(
        &self,
        left: &dyn Datum,
        right: &dyn Datum,
        result: &DataType,
    ) -> Result<ArrayRef, ArrowError> {
        let values = match self.op {
            Operator::Plus => numeric::add(left, right)?,
            Operator::Minus => numeric::sub(left, right)?,
            Operator::Multiply => match result {
                DataType::Decimal128(precision, scale) => {
                    multiply_decimals(left, right, *precision, *scale)?
                }
                _ => numeric::mul(left, right)?,
            },
            Operator::Divide => match result {
                DataType::Decimal128(precision, scale) => {
                    divide_decimals(left, right, *precision, *scale)?
                }
                _ => numeric::div(left, right)?,
            },
            Operator::Modulo => numeric::rem(left, right)?,
            Operator::BitwiseShiftLeft | Operator::BitwiseShiftRight => {
                shift(left, right, self.op == Operator::BitwiseShiftLeft)?
            }
            other => {
                return Err(ArrowError::NotYetImplemented(format!(
                    "checked operator {other}"
                )));
            }
        };
        check_digits(&values)?;
        Ok(with_one_nan(values))
    }

    /// The first pair of values without a result, for the message.
    fn culprit(
        &self,
        left: &ColumnarValue,
        right: &ColumnarValue,
        result: &DataType,
    ) -> Option<String> {
        let rows = [left, right].iter().find_map(|value| match value {
            ColumnarValue::Array(array) => Some(array.len()),
            ColumnarValue::Scalar(_) => None,
        });
        let left = left.to_array(rows.unwrap_or(1)).ok()?;
        let right = right.to_array(rows.unwrap_or(1)).ok()?;
        let row = (0..left.len()).find(|row| {
            let (left, right) = (left.slice(*row, 1), right.slice(*row, 1));
            let both = left.is_valid(0) && right.is_valid(0);
            both && self.compute(&left, &right, result).is_err()
        })?;
        let options = FormatOptions::default();
        let shown = |array: &ArrayRef| {
            let formatter = ArrayFormatter::try_new(array, &options).ok()?;
            Some(formatter.value(row).to_string())
        };
        Some(format!("{} {} {}", shown(&left)?, self.op, shown(&right)?))
    }
}

/// Concatenates texts.
fn join(left: &ColumnarValue, right: &ColumnarValue, rows: usize) -> Result<ColumnarValue> {
    if let (ColumnarValue::Scalar(_), ColumnarValue::Scalar(_)) = (left, right) {
        let joined = concat_elements_dyn(&left.to_array(1)?, &right.to_array(1)?)?;
        let joined = ScalarValue::try_from_array(&joined, 0)?;
        return Ok(ColumnarValue::Scalar(joined));
    }
    let joined = concat_elements_dyn(&left.to_array(rows)?, &right.to_array(rows)?)?;
    Ok(ColumnarValue::Array(joined))
}

/// Refuses a decimal with more digits than its type has: arrays can hold such values, and readers fail on them.
fn check_digits(values: &ArrayRef) -> Result<(), ArrowError> {
    match values.data_type() {
        DataType::Decimal32(digits, _) => check_digits_of::<Decimal32Type>(values, *digits),
        DataType::Decimal64(digits, _) => check_digits_of::<Decimal64Type>(values, *digits),
        DataType::Decimal128(digits, _) => check_digits_of::<Decimal128Type>(values, *digits),
        DataType::Decimal256(digits, _) => check_digits_of::<Decimal256Type>(values, *digits),
        _ => Ok(()),
    }
}

fn check_digits_of<T: DecimalType>(values: &ArrayRef, digits: u8) -> Result<(), ArrowError> {
    let values = values.as_primitive::<T>();
    let fits = |value: T::Native| T::is_valid_decimal_precision(value, digits);
    let all_fit = match values.null_count() {
        0 => values.values().iter().all(|value| fits(*value)),
        _ => values.iter().flatten().all(fits),
    };
    match all_fit {
        true => Ok(()),
        false => Err(ArrowError::ArithmeticOverflow(format!(
            "a result with more than {digits} digits"
        ))),
    }
}

impl ScalarUDFImpl for CheckedOperator {
    fn name(&self) -> &str {
        match self.op {
            Operator::Plus => "add",
            Operator::Minus => "subtract",
            Operator::Multiply => "multiply",
            Operator::Divide => "divide",
            Operator::Modulo => "remainder",
            Operator::StringConcat => "join_texts",
            Operator::BitwiseShiftLeft => "shift_left",
            _ => "shift_right",
        }
    }

    fn schema_name(&self, args: &[Expr]) -> Result<String> {
        let [left, right] = args else {
            return internal_err!("{} takes two arguments", self.name());
        };
        let left = Box::new(plain(left.clone())?);
        let right = Box::new(plain(right.clone())?);
        let expr = Expr::BinaryExpr(BinaryExpr::new(left, self.op, right));
        Ok(expr.schema_name().to_string())
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn coerce_types(&self, types: &[DataType]) -> Result<Vec<DataType>> {
        let [left, right] = types else {
            return internal_err!("{} takes two arguments", self.name());
        };
        if let Some(operands) = decimals::operands(self.op, left, right) {
            let decimal = |(precision, scale)| DataType::Decimal128(precision, scale);
            return Ok(operands.map(decimal).to_vec());
        }
        let (left, right) = BinaryTypeCoercer::new(left, &self.op, right).get_input_types()?;
        Ok(vec![left, right])
    }

    fn return_type(&self, types: &[DataType]) -> Result<DataType> {
        let [left, right] = types else {
            return internal_err!("{} takes two arguments", self.name());
        };
        self.result_of(left, right)
    }

    fn return_field_from_args(&self, args: ReturnFieldArgs) -> Result<FieldRef> {
        let [left, right] = args.arg_fields else {
            return internal_err!("{} takes two arguments", self.name());
        };
        let is_nullable = left.is_nullable() || right.is_nullable();
        let result = self.result_of(left.data_type(), right.data_type())?;
        Ok(Arc::new(Field::new(self.name(), result, is_nullable)))
    }

    fn is_strict(&self) -> bool {
        true
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let [left, right] = args.args.as_slice() else {
            return internal_err!("{} takes two arguments", self.name());
        };
        let result = self.result_of(&left.data_type(), &right.data_type())?;
        if self.op == Operator::StringConcat {
            check_joined("||", &args, &result)?;
            return join(left, right, args.number_rows);
        }
        let computed = apply(left, right, |left, right| {
            self.compute(left, right, &result)
        });
        computed.map_err(|error| match error {
            DataFusionError::ArrowError(inner, _)
                if matches!(*inner, ArrowError::ArithmeticOverflow(_)) =>
            {
                let what = self.culprit(left, right, &result);
                let what = what.unwrap_or_else(|| format!("a result of {}", self.op));
                out_of_range(what, &result)
            }
            other => other,
        })
    }

    fn evaluate_bounds(&self, input: &[&Interval]) -> Result<Interval> {
        // A bound that is not known has the type of NULL.
        let result = match input {
            [left, right] => self.result_of(&left.data_type(), &right.data_type()).ok(),
            _ => None,
        };
        Interval::make_unbounded(&result.unwrap_or(DataType::Null))
    }
}
