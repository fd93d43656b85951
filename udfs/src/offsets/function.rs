//! Scalar function `offsets_in`: simplified to plain predicates, so that files and partitions are pruned.

use std::sync::Arc;

use arrow::array::{ArrayRef, BooleanArray, Int64Array, Scalar};
use arrow::compute::kernels::cmp;
use arrow::compute::{and_kleene, cast, or_kleene};
use arrow::datatypes::DataType;
use datafusion::common::{Result, ScalarValue, exec_datafusion_err, plan_err};
use datafusion::logical_expr::simplify::{ExprSimplifyResult, SimplifyContext};
use datafusion::logical_expr::utils::{conjunction, disjunction};
use datafusion::logical_expr::{
    ColumnarValue, Expr, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature, Volatility,
    cast as cast_expr, lit,
};

use super::ranges::{OffsetRange, offset_ranges};

/// `offsets_in(partition, offset, from, to)`: whether a record lies in the given offsets.
///
/// `from` and `to` are constant JSON, `{"topic":{"0":23}}` or `{"0":23}`; `from` is inclusive,
/// `to` exclusive; −2 is the earliest offset, −1 the latest. A partition that is not in both gives
/// no rows, nor does one that starts at the latest. NULL partitions and offsets compare as SQL
/// compares them. Plans as `partition = 0 AND offset >= 23 AND offset < 30 OR …`.
#[must_use]
pub fn offsets_in() -> ScalarUDF {
    ScalarUDF::from(OffsetsIn {
        signature: Signature::user_defined(Volatility::Immutable),
    })
}

#[derive(Debug, PartialEq, Eq, Hash)]
struct OffsetsIn {
    signature: Signature,
}

const USAGE: &str = "offsets_in takes a partition, an offset, and two JSON texts";

impl ScalarUDFImpl for OffsetsIn {
    fn name(&self) -> &str {
        "offsets_in"
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, _: &[DataType]) -> Result<DataType> {
        Ok(DataType::Boolean)
    }

    fn coerce_types(&self, types: &[DataType]) -> Result<Vec<DataType>> {
        let [partition, offset, from, to] = types else {
            return plan_err!("{USAGE}");
        };
        let number = |data_type: &DataType| match data_type {
            DataType::Null => Ok(DataType::Int64),
            other if other.is_integer() => Ok(other.clone()),
            other => plan_err!("{USAGE}: {other} is not an integer"),
        };
        let text = |data_type: &DataType| match data_type {
            DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View | DataType::Null => {
                Ok(DataType::Utf8)
            }
            other => plan_err!("{USAGE}: {other} is not text"),
        };
        Ok(vec![
            number(partition)?,
            number(offset)?,
            text(from)?,
            text(to)?,
        ])
    }

    fn simplify(&self, args: Vec<Expr>, info: &SimplifyContext) -> Result<ExprSimplifyResult> {
        let [
            partition,
            offset,
            Expr::Literal(from, _),
            Expr::Literal(to, _),
        ] = args.as_slice()
        else {
            return Ok(ExprSimplifyResult::Original(args));
        };
        let ranges = offset_ranges(text(from)?, text(to)?)?;
        let predicates = ranges
            .iter()
            .map(|range| predicate(partition, offset, range, info));
        let predicates = predicates.collect::<Result<Vec<_>>>()?;
        Ok(ExprSimplifyResult::Simplified(
            disjunction(predicates).unwrap_or_else(|| lit(false)),
        ))
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let rows = args.number_rows;
        let [
            partition,
            offset,
            ColumnarValue::Scalar(from),
            ColumnarValue::Scalar(to),
        ] = args.args.as_slice()
        else {
            return plan_err!("{USAGE}, which must be constants");
        };
        let number = |value: &ColumnarValue| -> Result<ArrayRef> {
            Ok(cast(&value.to_array(rows)?, &DataType::Int64)?)
        };
        let (partition, offset) = (number(partition)?, number(offset)?);
        let mut within = BooleanArray::from(vec![false; rows]);
        for range in offset_ranges(text(from)?, text(to)?)? {
            let bound = |value: i64| Scalar::new(Int64Array::from(vec![value]));
            let mut matches = cmp::eq(&partition, &bound(range.partition))?;
            if let Some(from) = range.from {
                matches = and_kleene(&matches, &cmp::gt_eq(&offset, &bound(from))?)?;
            }
            if let Some(to) = range.to {
                matches = and_kleene(&matches, &cmp::lt(&offset, &bound(to))?)?;
            }
            within = or_kleene(&within, &matches)?;
        }
        Ok(ColumnarValue::Array(Arc::new(within)))
    }
}

fn text(value: &ScalarValue) -> Result<&str> {
    match value.try_as_str() {
        Some(Some(text)) => Ok(text),
        _ => plan_err!("{USAGE}, not NULL"),
    }
}

fn predicate(
    partition: &Expr,
    offset: &Expr,
    range: &OffsetRange,
    info: &SimplifyContext,
) -> Result<Expr> {
    let (column, value) = comparable(partition, range.partition, info)?;
    let mut conditions = vec![column.eq(value)];
    if let Some(from) = range.from {
        let (column, value) = comparable(offset, from, info)?;
        conditions.push(column.gt_eq(value));
    }
    if let Some(to) = range.to {
        let (column, value) = comparable(offset, to, info)?;
        conditions.push(column.lt(value));
    }
    conjunction(conditions).ok_or_else(|| exec_datafusion_err!("a range has a partition"))
}

/// `expr` and `value` in one type: the type of `expr` if `value` fits, so that nothing is cast and
/// statistics apply.
pub(super) fn comparable(expr: &Expr, value: i64, info: &SimplifyContext) -> Result<(Expr, Expr)> {
    let wide = ScalarValue::Int64(Some(value));
    let data_type = info.get_data_type(expr)?;
    Ok(match wide.cast_to(&data_type) {
        Ok(narrow) if !narrow.is_null() => (expr.clone(), lit(narrow)),
        _ => (cast_expr(expr.clone(), DataType::Int64), lit(wide)),
    })
}
