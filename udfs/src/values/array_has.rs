//! `array_has(list, value)` by SQL's rules for NULL: it means `value = ANY (list)`.
//!
//! The library follows them only for a constant list, which it rewrites to `value IN (…)`; for a list from a column that has
//! NULL in it, and not the value, it returns FALSE.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, BooleanArray};
use arrow::datatypes::DataType;
use datafusion::common::{Result, ScalarValue, internal_err};
use datafusion::functions_nested::array_has::array_has_udf;
use datafusion::logical_expr::expr::{InList, ScalarFunction};
use datafusion::logical_expr::simplify::{ExprSimplifyResult, SimplifyContext};
use datafusion::logical_expr::{
    Cast, ColumnarValue, Documentation, Expr, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl,
    Signature, lit,
};

use crate::checked::with_one_zero;
use crate::operands::{are_scalars, scalar_or_array};

/// The function.
#[must_use]
pub(crate) fn array_has() -> ScalarUDF {
    ScalarUDF::from(ArrayHas {
        inner: array_has_udf(),
    })
}

/// The library's function, with other results for NULLs.
#[derive(Debug, PartialEq, Eq, Hash)]
struct ArrayHas {
    inner: Arc<ScalarUDF>,
}

impl ScalarUDFImpl for ArrayHas {
    fn name(&self) -> &str {
        self.inner.name()
    }

    fn aliases(&self) -> &[String] {
        self.inner.aliases()
    }

    fn signature(&self) -> &Signature {
        self.inner.signature()
    }

    fn return_type(&self, _: &[DataType]) -> Result<DataType> {
        Ok(DataType::Boolean)
    }

    fn documentation(&self) -> Option<&Documentation> {
        self.inner.documentation()
    }

    /// A list that is spelled out, or constant, becomes one of IN, which file statistics can prune by.
    fn simplify(&self, mut args: Vec<Expr>, _: &SimplifyContext) -> Result<ExprSimplifyResult> {
        let listed = match args.first().map(written).transpose()?.flatten() {
            Some(listed) if args.len() == 2 => listed,
            _ => return Ok(ExprSimplifyResult::Original(args)),
        };
        let simple = match listed {
            ListFacts::Null => Expr::Literal(ScalarValue::Boolean(None), None),
            ListFacts::Values(values) if values.is_empty() => lit(false),
            ListFacts::Values(values) => {
                let value = Box::new(args.remove(1));
                Expr::InList(InList::new(value, values, false))
            }
        };
        Ok(ExprSimplifyResult::Simplified(simple))
    }

    fn invoke_with_args(&self, mut args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        // The library compares the bits of numbers.
        if args.args.iter().any(|of| of.data_type().is_floating()) {
            for of in &mut args.args {
                *of = with_one_zero(of)?;
            }
        }
        let [list, value] = args.args.as_slice() else {
            return internal_err!("{} takes a list and a value", self.name());
        };
        if list.data_type().is_null() {
            return Ok(ColumnarValue::Scalar(ScalarValue::Boolean(None)));
        }
        let is_scalar = are_scalars([list, value]);
        let rows = if is_scalar { 1 } else { args.number_rows };
        let (list, value) = (list.to_array(rows)?, value.to_array(rows)?);
        let found = self.inner.invoke_with_args(args)?.to_array(rows)?;
        let known = or_unknown(found.as_boolean(), &list, &value)?;
        scalar_or_array(Arc::new(known), is_scalar)
    }
}

/// The facts about a list that planning knows.
enum ListFacts {
    Null,
    Values(Vec<Expr>),
}

/// The values of a list, if the statement spells them out.
fn written(list: &Expr) -> Result<Option<ListFacts>> {
    Ok(match list {
        Expr::Literal(list, _) if list.is_null() => Some(ListFacts::Null),
        Expr::Literal(list @ (ScalarValue::List(_) | ScalarValue::LargeList(_)), _) => {
            let array = list.to_array()?;
            let Some((elements, spans)) = elements_of(&array) else {
                return Ok(None);
            };
            let (start, length) = spans[0];
            let values = (start..start + length).map(|at| {
                Ok(Expr::Literal(
                    ScalarValue::try_from_array(&elements, at)?,
                    None,
                ))
            });
            Some(ListFacts::Values(values.collect::<Result<_>>()?))
        }
        Expr::ScalarFunction(call) => {
            made_of(call).map(|values| ListFacts::Values(values.to_vec()))
        }
        // Values that were cast to another type.
        Expr::Cast(cast) => match (cast.expr.as_ref(), cast.field.data_type()) {
            (
                Expr::ScalarFunction(call),
                DataType::List(element)
                | DataType::LargeList(element)
                | DataType::FixedSizeList(element, _),
            ) => made_of(call).map(|values| {
                let of = |value: &Expr| {
                    let value = Box::new(value.clone());
                    Expr::Cast(Cast::new(value, element.data_type().clone()))
                };
                ListFacts::Values(values.iter().map(of).collect())
            }),
            _ => None,
        },
        _ => None,
    })
}

/// The elements of `[a, b]`.
fn made_of(call: &ScalarFunction) -> Option<&[Expr]> {
    (call.name() == "make_array" && !call.args.is_empty()).then_some(call.args.as_slice())
}

/// Unknown if the value is NULL, or is not found among elements of which one is NULL; an empty list contains no value.
fn or_unknown(found: &BooleanArray, list: &ArrayRef, value: &ArrayRef) -> Result<BooleanArray> {
    let Some((elements, spans)) = elements_of(list) else {
        return internal_err!("{} is not a list", list.data_type());
    };
    let nulls = elements.logical_nulls();
    let is_unknown = |(start, length): (usize, usize)| {
        let nulls = nulls.as_ref();
        nulls.is_some_and(|nulls| nulls.slice(start, length).null_count() > 0)
    };
    let values = value.logical_nulls();
    let rows = spans.into_iter().enumerate().map(|(row, span)| {
        if list.is_null(row) {
            return None;
        }
        if span.1 == 0 {
            return Some(false);
        }
        if values.as_ref().is_some_and(|values| values.is_null(row)) {
            return None;
        }
        let is_found = found.is_valid(row) && found.value(row);
        (is_found || !is_unknown(span)).then_some(is_found)
    });
    Ok(rows.collect())
}

/// The elements of all lists of an array, and the start and length of each list.
pub(super) fn elements_of(list: &ArrayRef) -> Option<(ArrayRef, Vec<(usize, usize)>)> {
    Some(match list.data_type() {
        DataType::List(_) => {
            let lists = list.as_list::<i32>();
            let starts = lists.offsets().iter().map(|at| *at as usize);
            let spans = starts.zip(lists.offsets().lengths()).collect();
            (Arc::clone(lists.values()), spans)
        }
        DataType::LargeList(_) => {
            let lists = list.as_list::<i64>();
            let starts = lists.offsets().iter().map(|at| *at as usize);
            let spans = starts.zip(lists.offsets().lengths()).collect();
            (Arc::clone(lists.values()), spans)
        }
        DataType::FixedSizeList(..) => {
            let lists = list.as_fixed_size_list();
            let length = lists.value_length() as usize;
            let spans = (0..lists.len()).map(|row| (lists.value_offset(row) as usize, length));
            (Arc::clone(lists.values()), spans.collect())
        }
        _ => return None,
    })
}
