//! `(json -> 'n')::DECIMAL`: the number with all its digits.
//!
//! The JSON functions read such a number as a DOUBLE, which has about 15. Here it is read as it is written, where it is a number.

use std::sync::Arc;

use datafusion::common::tree_node::Transformed;
use datafusion::common::{DFSchema, Result};
use datafusion::config::ConfigOptions;
use datafusion::functions::core as functions;
use datafusion::logical_expr::expr::ScalarFunction;
use datafusion::logical_expr::expr_rewriter::FunctionRewrite;
use datafusion::logical_expr::{Cast, Expr, TryCast};
use datafusion_functions_json::udfs::{json_as_text_udf, json_get_float_udf};

/// Reads the numbers of casts to a decimal as text, before the functions' own rule reads them as DOUBLE.
#[derive(Debug)]
pub(crate) struct JsonDecimals;

impl FunctionRewrite for JsonDecimals {
    fn name(&self) -> &str {
        "json_decimals"
    }

    fn rewrite(&self, expr: Expr, _: &DFSchema, _: &ConfigOptions) -> Result<Transformed<Expr>> {
        let (value, field) = match &expr {
            Expr::Cast(cast) => (&cast.expr, &cast.field),
            Expr::TryCast(cast) => (&cast.expr, &cast.field),
            _ => return Ok(Transformed::no(expr)),
        };
        let (Some(get), true) = (json_get(value), field.data_type().is_decimal()) else {
            return Ok(Transformed::no(expr));
        };
        let text = Box::new(json_as_text_udf().call(get.args.clone()));
        let written = Expr::TryCast(TryCast::new_from_field(text, Arc::clone(field)));
        // Of a number with an exponent, and of what is no number, the text is no decimal.
        let double = Box::new(json_get_float_udf().call(get.args.clone()));
        let read = match &expr {
            Expr::TryCast(_) => Expr::TryCast(TryCast::new_from_field(double, Arc::clone(field))),
            _ => Expr::Cast(Cast::new_from_field(double, Arc::clone(field))),
        };
        Ok(Transformed::yes(
            functions::coalesce().call(vec![written, read]),
        ))
    }
}

fn json_get(value: &Expr) -> Option<&ScalarFunction> {
    match value {
        Expr::ScalarFunction(call) if call.name() == "json_get" => Some(call),
        Expr::Alias(alias) => json_get(&alias.expr),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use arrow::datatypes::DataType;
    use datafusion::logical_expr::lit;
    use datafusion_functions_json::udfs::json_get_udf;

    use super::*;

    #[test]
    fn only_decimals_are_read_as_they_are_written() {
        let get = json_get_udf().call(vec![lit("{\"n\": 1.5}"), lit("n")]);
        let rewritten = |to: DataType| {
            let cast = Expr::Cast(Cast::new(Box::new(get.clone().alias("n")), to));
            let config = ConfigOptions::default();
            let rewritten = JsonDecimals.rewrite(cast, &DFSchema::empty(), &config);
            rewritten.unwrap().transformed
        };
        assert!(rewritten(DataType::Decimal128(30, 2)));
        assert!(!rewritten(DataType::Float64));
        assert!(!rewritten(DataType::Utf8));
    }
}
