//! `list_compare('< any', list, value)`: the function behind `value < ANY (list)`, and behind `ALL`, by SQL's rules for NULL.
//!
//! The engine's planner duplicates the list several times for each of them, so that nested ones grow exponentially, and returns
//! FALSE where `ANY` is unknown.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, BooleanArray, Datum, Scalar};
use arrow::compute::kernels::cmp;
use arrow::datatypes::{DataType, Field};
use arrow::error::ArrowError;
use datafusion::common::{Result, ScalarValue, plan_err};
use datafusion::functions_nested::array_has::array_has_udf;
use datafusion::logical_expr::type_coercion::functions::fields_with_udf;
use datafusion::logical_expr::{
    ColumnarValue, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature, Volatility,
};

use super::array_has::elements_of;
use crate::doubles::with_one_element;
use crate::operands::{are_scalars, scalar_or_array};

/// The function.
#[must_use]
pub(crate) fn list_compare() -> ScalarUDF {
    ScalarUDF::from(ListCompare {
        signature: Signature::user_defined(Volatility::Immutable),
    })
}

#[derive(Debug, PartialEq, Eq, Hash)]
struct ListCompare {
    signature: Signature,
}

type Comparison = fn(&dyn Datum, &dyn Datum) -> std::result::Result<BooleanArray, ArrowError>;

/// The comparison with each element, and whether it must hold for all of them.
fn parsed(how: &str) -> Option<(Comparison, bool)> {
    let (operator, quantifier) = how.split_once(' ')?;
    let compare: Comparison = match operator {
        "=" => cmp::eq,
        "<>" => cmp::neq,
        "<" => cmp::lt,
        "<=" => cmp::lt_eq,
        ">" => cmp::gt,
        ">=" => cmp::gt_eq,
        _ => return None,
    };
    match quantifier {
        "any" => Some((compare, false)),
        "all" => Some((compare, true)),
        _ => None,
    }
}

impl ScalarUDFImpl for ListCompare {
    fn name(&self) -> &str {
        "list_compare"
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, _: &[DataType]) -> Result<DataType> {
        Ok(DataType::Boolean)
    }

    fn coerce_types(&self, types: &[DataType]) -> Result<Vec<DataType>> {
        let [_, list, value] = types else {
            return plan_err!("list_compare takes a comparison, a list and a value");
        };
        // The types are coerced as for the function that looks up a value.
        let types = [list.clone(), value.clone()];
        let types = with_one_element("array_has", &types).unwrap_or_else(|| types.to_vec());
        let fields = types.into_iter();
        let fields = fields.map(|of| Arc::new(Field::new("", of, true)));
        let fields = fields_with_udf(&fields.collect::<Vec<_>>(), array_has_udf().as_ref())?;
        let types = fields.iter().map(|field| field.data_type().clone());
        Ok(std::iter::once(DataType::Utf8).chain(types).collect())
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let [
            ColumnarValue::Scalar(ScalarValue::Utf8(Some(how))),
            list,
            value,
        ] = args.args.as_slice()
        else {
            return plan_err!("the comparison of list_compare is a text");
        };
        let Some((compare, of_all)) = parsed(how) else {
            return plan_err!(
                "'{how}' is not a comparison with a list, such as '< any' and '>= all'"
            );
        };
        let is_scalar = are_scalars([list, value]);
        let rows = if is_scalar { 1 } else { args.number_rows };
        let (list, value) = (list.to_array(rows)?, value.to_array(rows)?);
        let found = compared(compare, of_all, &list, &value)?;
        scalar_or_array(Arc::new(found), is_scalar)
    }
}

/// Compares row by row: the value is not copied for each element of its list.
fn compared(
    compare: Comparison,
    of_all: bool,
    list: &ArrayRef,
    value: &ArrayRef,
) -> Result<BooleanArray> {
    let Some((elements, spans)) = elements_of(list) else {
        return Ok(BooleanArray::new_null(value.len()));
    };
    let mut found = BooleanArray::builder(spans.len());
    for (row, (start, length)) in spans.into_iter().enumerate() {
        if list.is_null(row) {
            found.append_null();
            continue;
        }
        if length == 0 {
            found.append_value(of_all);
            continue;
        }
        let value = Scalar::new(value.slice(row, 1));
        let each = compare(&value, &elements.slice(start, length))?;
        let decides = match of_all {
            true => each.false_count() > 0,
            false => each.true_count() > 0,
        };
        match (decides, each.null_count()) {
            (true, _) => found.append_value(!of_all),
            (false, 0) => found.append_value(of_all),
            (false, _) => found.append_null(),
        }
    }
    Ok(found.finish())
}
