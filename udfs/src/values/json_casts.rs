//! Casts of JSON values from their text: `CAST(json -> 'n' AS DECIMAL(30, 2))`.
//!
//! `json -> 'n'` is a union of seven types. For a cast of it the engine picks the one of these types that it casts best: a DATE
//! is in none of them, and all values would be NULL. The JSON functions have a rule for casts to some types; it turns a value
//! of another kind into NULL, and reads decimals as DOUBLE. This module casts the text of the value: a value of another type is
//! an error, and NULL with TRY_CAST. A missing value is NULL, and so is the `null` of JSON.
//!
//! Numbers are read by several attempts, the first of which that gives a value counts. No attempt fails: an expression of
//! constants is evaluated with all of its parts. If all attempts give NULL for a value that exists, [`FailedJsonCast`] raises the
//! error.

use std::sync::Arc;

use arrow::array::{Array as _, AsArray};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Field, FieldRef};
use datafusion::common::tree_node::Transformed;
use datafusion::common::{Column, DFSchema, Result, ScalarValue, internal_err};
use datafusion::config::ConfigOptions;
use datafusion::functions::core as functions;
use datafusion::logical_expr::expr::ScalarFunction;
use datafusion::logical_expr::expr_rewriter::FunctionRewrite;
use datafusion::logical_expr::{
    Cast, ColumnarValue, Expr, ExprSchemable as _, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl,
    Signature, TryCast, Volatility,
};
use datafusion_functions_json::JSON_UNION_DATA_TYPE;
use datafusion_functions_json::udfs::{
    json_as_text_udf, json_get_bool_udf, json_get_float_udf, json_get_int_udf,
    json_union_to_text_udf,
};

use crate::checked::{out_of_range, sql_name};
use crate::diagnostic::{data_error, plan_error};

/// The decimal type for numbers that become integers: it holds all integers, and digits after the point for rounding.
const NUMBER: DataType = DataType::Decimal128(38, 18);

/// Casts JSON values by their text, before the JSON functions' own rule for casts.
#[derive(Debug)]
pub(crate) struct JsonCasts;

impl FunctionRewrite for JsonCasts {
    fn name(&self) -> &str {
        "json_casts"
    }

    fn rewrite(
        &self,
        expr: Expr,
        schema: &DFSchema,
        _: &ConfigOptions,
    ) -> Result<Transformed<Expr>> {
        let Some((value, to)) = cast_of(&expr) else {
            return Ok(Transformed::no(expr));
        };
        let is_text = to.field.data_type().is_string();
        let args = match json_get(value) {
            // The JSON functions' own rule reads it as text.
            Some(_) if is_text => return Ok(Transformed::no(expr)),
            Some(get) => get.args.clone(),
            None if is_json(value, schema) => {
                vec![json_union_to_text_udf().call(vec![value.clone()])]
            }
            None => return Ok(Transformed::no(expr)),
        };
        to.read(&args).map(Transformed::yes)
    }
}

/// One attempt to read a JSON value.
#[derive(Debug, Clone, Copy)]
enum JsonReading {
    Boolean,
    /// As an integer.
    Whole,
    /// As a number with digits for rounding.
    Number,
    /// By its text.
    Text,
    Float,
}

/// The attempts to read a value of this type, in order; empty if casting its text is enough.
fn ways(to: &DataType) -> &'static [JsonReading] {
    // The first attempt is right for almost all values. A text with an exponent is not a decimal.
    match to {
        DataType::Boolean => &[JsonReading::Boolean],
        of if of.is_integer() => &[JsonReading::Whole, JsonReading::Number, JsonReading::Float],
        of if of.is_decimal() => &[JsonReading::Text, JsonReading::Float],
        of if of.is_floating() => &[JsonReading::Float],
        _ => &[],
    }
}

/// Whether a type is that of JSON values, as the result of `json -> 'n'`.
#[must_use]
pub fn is_json_type(of: &DataType) -> bool {
    *of == *JSON_UNION_DATA_TYPE
}

/// The number of copies of a cast's operand after the optimizer has expanded the reading of JSON; 1 for every other expression.
/// `is_json` returns whether a column is a JSON value.
#[must_use]
pub fn times_json_is_read(expr: &Expr, is_json: &impl Fn(&Column) -> bool) -> u64 {
    match cast_of(expr) {
        Some((value, to)) if may_be_json(value, is_json) => {
            times_read(to.field.data_type(), to.is_tried)
        }
        _ => 1,
    }
}

/// `coalesce` of the attempts and of [`FailedJsonCast`] copies each of them twice, except the last. For BOOLEAN this is one more than there
/// are.
fn times_read(to: &DataType, is_tried: bool) -> u64 {
    match ways(to).len() as u64 {
        0 => 1,
        ways => 2 * (ways + u64::from(!is_tried)) - 1,
    }
}

/// Whether an expression may be a JSON value, judged by its parts.
fn may_be_json(value: &Expr, is_json: &impl Fn(&Column) -> bool) -> bool {
    let may_be = |value: &Expr| may_be_json(value, is_json);
    match value {
        Expr::Column(column) => is_json(column),
        Expr::Alias(alias) => may_be(&alias.expr),
        Expr::Case(case) => {
            let mut branches = case.when_then_expr.iter();
            branches.any(|(_, then)| may_be(then))
                || case.else_expr.iter().any(|value| may_be(value))
        }
        Expr::ScalarFunction(call) => match call.name() {
            "json_get" => true,
            "coalesce" | "nvl" | "nvl2" | "nullif" | "greatest" | "least" => {
                call.args.iter().any(may_be)
            }
            _ => false,
        },
        _ => false,
    }
}

/// The target of a cast.
struct CastTarget {
    field: FieldRef,
    is_tried: bool,
}

impl CastTarget {
    /// The JSON value that these arguments of `json_get` lead to.
    fn read(&self, args: &[Expr]) -> Result<Expr> {
        let args = || args.to_vec();
        let text = || json_as_text_udf().call(args());
        let field = || Arc::clone(&self.field);
        let tried = |value: Expr| Expr::TryCast(TryCast::new_from_field(Box::new(value), field()));
        let of = self.field.data_type();
        if of.is_nested() {
            return Err(plan_error(
                format!("a value in JSON is not cast to {of}"),
                None,
                "json_get_array gives the elements of an array as JSON, and -> the fields of an object",
            ));
        }
        let read = |way: &JsonReading| match way {
            JsonReading::Boolean => json_get_bool_udf().call(args()),
            JsonReading::Whole => tried(json_get_int_udf().call(args())),
            JsonReading::Number => tried(Expr::TryCast(TryCast::new(Box::new(text()), NUMBER))),
            JsonReading::Text => tried(text()),
            JsonReading::Float => tried(json_get_float_udf().call(args())),
        };
        // The engine makes AND and OR of a `coalesce` of BOOLEAN, and these evaluate all of their parts for all rows.
        if *of == DataType::Boolean && !self.is_tried {
            let refused = ScalarUDF::from(FailedJsonCast {
                to: of.clone(),
                signature: Signature::any(2, Volatility::Immutable),
            });
            return Ok(refused.call(vec![text(), json_get_bool_udf().call(args())]));
        }
        let mut ways: Vec<Expr> = ways(of).iter().map(read).collect();
        if ways.is_empty() {
            return Ok(match self.is_tried {
                true => tried(text()),
                false => Expr::Cast(Cast::new_from_field(Box::new(text()), field())),
            });
        }
        if !self.is_tried {
            let refused = ScalarUDF::from(FailedJsonCast {
                to: of.clone(),
                signature: Signature::any(1, Volatility::Immutable),
            });
            ways.push(refused.call(vec![text()]));
        }
        Ok(match ways.len() {
            1 => ways.remove(0),
            _ => functions::coalesce().call(ways),
        })
    }
}

/// Gets the text of a value that could not be read as the type, and fails if it is not NULL: NULL fits all types. With a second argument, the
/// value that was read, it gives that, and fails if that is NULL and the text is not.
#[derive(Debug, PartialEq, Eq, Hash)]
struct FailedJsonCast {
    to: DataType,
    signature: Signature,
}

impl ScalarUDFImpl for FailedJsonCast {
    fn name(&self) -> &str {
        "json_refused"
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, _: &[DataType]) -> Result<DataType> {
        Ok(self.to.clone())
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let (texts, read) = match args.args.as_slice() {
            [texts] => (texts, None),
            [texts, read] => (texts, Some(read.to_array(args.number_rows)?)),
            _ => return internal_err!("{} takes a text, and what was read of it", self.name()),
        };
        let texts = cast(&texts.to_array(args.number_rows)?, &DataType::Utf8)?;
        let is_read = |row: usize| read.as_ref().is_some_and(|read| read.is_valid(row));
        let mut texts = texts.as_string::<i32>().iter().enumerate();
        let refused = texts.find_map(|(row, text)| text.filter(|_| !is_read(row)));
        let Some(text) = refused else {
            return Ok(match read {
                Some(read) => ColumnarValue::Array(read),
                None => ColumnarValue::Scalar(ScalarValue::try_from(&self.to)?),
            });
        };
        Err(match text.parse::<f64>() {
            Ok(_) => out_of_range(text, &self.to),
            Err(_) => data_error(
                format!("'{text}' in JSON is not a {}", sql_name(&self.to)),
                "TRY_CAST makes NULL of it, and ->> gives it as text",
            ),
        })
    }
}

/// The operand of a cast, and its target.
fn cast_of(expr: &Expr) -> Option<(&Expr, CastTarget)> {
    let to = |field: &FieldRef, is_tried| CastTarget {
        field: Arc::clone(field),
        is_tried,
    };
    match expr {
        Expr::Cast(cast) => Some((&cast.expr, to(&cast.field, false))),
        Expr::TryCast(cast) => Some((&cast.expr, to(&cast.field, true))),
        Expr::ScalarFunction(call) => {
            let is_tried = match call.name() {
                "arrow_cast" => false,
                "arrow_try_cast" => true,
                _ => return None,
            };
            let [value, Expr::Literal(ScalarValue::Utf8(Some(name)), _)] = call.args.as_slice()
            else {
                return None;
            };
            let field = Field::new("", name.parse::<DataType>().ok()?, true);
            Some((value, to(&Arc::new(field), is_tried)))
        }
        _ => None,
    }
}

/// The call that extracts a value.
fn json_get(value: &Expr) -> Option<&ScalarFunction> {
    match value {
        Expr::ScalarFunction(call) if call.name() == "json_get" => Some(call),
        Expr::Alias(alias) => json_get(&alias.expr),
        _ => None,
    }
}

/// Whether it is a JSON value that was extracted elsewhere, such as a column of a query in FROM.
fn is_json(value: &Expr, schema: &DFSchema) -> bool {
    let may_be = matches!(
        value,
        Expr::Alias(_)
            | Expr::Column(_)
            | Expr::OuterReferenceColumn(..)
            | Expr::Case(_)
            | Expr::ScalarFunction(_)
            | Expr::AggregateFunction(_)
            | Expr::WindowFunction(_)
            | Expr::ScalarSubquery(_)
    );
    may_be && value.get_type(schema).is_ok_and(|of| is_json_type(&of))
}

#[cfg(test)]
mod tests {
    use datafusion::common::Column;
    use datafusion::logical_expr::lit;
    use datafusion_functions_json::udfs::json_get_udf;

    use super::*;

    fn rewritten(expr: Expr) -> Result<Transformed<Expr>> {
        let of = JSON_UNION_DATA_TYPE.clone();
        let fields = vec![
            (None, Arc::new(Field::new("v", of, true))),
            (None, Arc::new(Field::new("n", DataType::Int64, true))),
        ];
        let schema = DFSchema::new_with_metadata(fields, Default::default())?;
        JsonCasts.rewrite(expr, &schema, &ConfigOptions::default())
    }

    fn cast_to(value: Expr, to: DataType) -> Expr {
        Expr::Cast(Cast::new(Box::new(value), to))
    }

    fn get() -> Expr {
        json_get_udf().call(vec![lit("{\"n\": 1.5}"), lit("n")])
    }

    #[test]
    fn casts_read_the_text_of_a_value() {
        for to in [
            DataType::Decimal128(30, 2),
            DataType::Date32,
            DataType::Int8,
            DataType::Int64,
            DataType::Float64,
            DataType::Boolean,
            DataType::Binary,
        ] {
            let read = rewritten(cast_to(get().alias("n"), to.clone())).unwrap();
            assert!(read.transformed, "{to}");
            assert!(read.data.to_string().contains("json_as_text"), "{to}");
        }
        assert!(
            !rewritten(cast_to(get(), DataType::Utf8))
                .unwrap()
                .transformed
        );
        assert!(!rewritten(get()).unwrap().transformed);
        assert!(rewritten(cast_to(get(), DataType::new_list(DataType::Int64, true))).is_err());
    }

    #[test]
    fn each_way_but_the_last_is_written_twice() {
        for (to, read, tried) in [
            (DataType::Int8, 7, 5),
            (DataType::Int64, 7, 5),
            (DataType::Decimal128(30, 2), 5, 3),
            (DataType::Float64, 3, 1),
            (DataType::Boolean, 3, 1),
            (DataType::Date32, 1, 1),
            (DataType::Utf8, 1, 1),
        ] {
            assert_eq!(times_read(&to, false), read, "{to}");
            assert_eq!(times_read(&to, true), tried, "{to}");
        }
    }

    #[test]
    fn values_of_columns_are_read_as_well() {
        let column = |name: &str| Expr::Column(Column::new_unqualified(name));
        for to in [DataType::Date32, DataType::Utf8] {
            let read = rewritten(cast_to(column("v"), to)).unwrap();
            assert!(read.data.to_string().contains("json_union_to_text"));
        }
        let of_number = rewritten(cast_to(column("n"), DataType::Date32)).unwrap();
        assert!(!of_number.transformed);
    }
}
