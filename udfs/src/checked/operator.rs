//! `+`, `-`, `*`, `/`, `%`, `<<` and `>>` as functions that refuse a result out of range.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, Datum};
use arrow::compute::kernels::numeric;
use arrow::datatypes::{DataType, Decimal128Type, Decimal256Type, Field, FieldRef};
use arrow::error::ArrowError;
use arrow::util::display::{ArrayFormatter, FormatOptions};
use datafusion::common::{Result, internal_err};
use datafusion::error::DataFusionError;
use datafusion::logical_expr::expr::ScalarFunction;
use datafusion::logical_expr::interval_arithmetic::Interval;
use datafusion::logical_expr::{
    BinaryExpr, ColumnarValue, Expr, Operator, ReturnFieldArgs, ScalarFunctionArgs, ScalarUDF,
    ScalarUDFImpl, Signature, Volatility,
};
use datafusion::logical_expr_common::type_coercion::binary::BinaryTypeCoercer;
use datafusion::physical_expr_common::datum::apply;

use super::division::divide_decimals;
use super::nan::with_one_nan;
use super::overflow::out_of_range;
use super::rewrite::plain;
use super::shift::shift;

/// An operator over two numbers of which the result is `result`.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct CheckedOperator {
    op: Operator,
    result: DataType,
    signature: Signature,
}

impl CheckedOperator {
    /// The call of `op`, whose result is `result`.
    pub(super) fn call(left: Expr, op: Operator, right: Expr, result: DataType) -> Expr {
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

    pub(super) fn result(&self) -> &DataType {
        &self.result
    }

    fn compute(&self, left: &dyn Datum, right: &dyn Datum) -> Result<ArrayRef, ArrowError> {
        let values = match self.op {
            Operator::Plus => numeric::add(left, right)?,
            Operator::Minus => numeric::sub(left, right)?,
            Operator::Multiply => numeric::mul(left, right)?,
            Operator::Divide => match &self.result {
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
    fn culprit(&self, left: &ColumnarValue, right: &ColumnarValue) -> Option<String> {
        let rows = [left, right].iter().find_map(|value| match value {
            ColumnarValue::Array(array) => Some(array.len()),
            ColumnarValue::Scalar(_) => None,
        });
        let left = left.to_array(rows.unwrap_or(1)).ok()?;
        let right = right.to_array(rows.unwrap_or(1)).ok()?;
        let row = (0..left.len()).find(|row| {
            let (left, right) = (left.slice(*row, 1), right.slice(*row, 1));
            let both = left.is_valid(0) && right.is_valid(0);
            both && self.compute(&left, &right).is_err()
        })?;
        let options = FormatOptions::default();
        let shown = |array: &ArrayRef| {
            let formatter = ArrayFormatter::try_new(array, &options).ok()?;
            Some(formatter.value(row).to_string())
        };
        Some(format!("{} {} {}", shown(&left)?, self.op, shown(&right)?))
    }
}

/// A decimal whose digits are more than the most a decimal can have: arrays hold such values, and nothing can read them.
fn check_digits(values: &ArrayRef) -> Result<(), ArrowError> {
    let checked = match values.data_type() {
        DataType::Decimal128(38, _) => values
            .as_primitive::<Decimal128Type>()
            .validate_decimal_precision(38),
        DataType::Decimal256(76, _) => values
            .as_primitive::<Decimal256Type>()
            .validate_decimal_precision(76),
        _ => Ok(()),
    };
    checked.map_err(|error| ArrowError::ArithmeticOverflow(error.to_string()))
}

impl ScalarUDFImpl for CheckedOperator {
    fn name(&self) -> &str {
        match self.op {
            Operator::Plus => "add",
            Operator::Minus => "subtract",
            Operator::Multiply => "multiply",
            Operator::Divide => "divide",
            Operator::Modulo => "remainder",
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
        let (left, right) = BinaryTypeCoercer::new(left, &self.op, right).get_input_types()?;
        Ok(vec![left, right])
    }

    fn return_type(&self, _: &[DataType]) -> Result<DataType> {
        Ok(self.result.clone())
    }

    fn return_field_from_args(&self, args: ReturnFieldArgs) -> Result<FieldRef> {
        let is_nullable = args.arg_fields.iter().any(|field| field.is_nullable());
        Ok(Arc::new(Field::new(
            self.name(),
            self.result.clone(),
            is_nullable,
        )))
    }

    fn is_strict(&self) -> bool {
        true
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let [left, right] = args.args.as_slice() else {
            return internal_err!("{} takes two arguments", self.name());
        };
        let computed = apply(left, right, |left, right| self.compute(left, right));
        computed.map_err(|error| match error {
            DataFusionError::ArrowError(inner, _)
                if matches!(*inner, ArrowError::ArithmeticOverflow(_)) =>
            {
                let what = self.culprit(left, right);
                let what = what.unwrap_or_else(|| format!("a result of {}", self.op));
                out_of_range(what, &self.result)
            }
            other => other,
        })
    }

    fn evaluate_bounds(&self, _: &[&Interval]) -> Result<Interval> {
        Interval::make_unbounded(&self.result)
    }
}
