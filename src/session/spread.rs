//! `SELECT value, range(1, 1000000)`: a value that is the same for all rows is made once, and written for each of them where an operator
//! needs an array of it. Its size is counted times the rows before that (SAFE-1).

use std::sync::Arc;

use datafusion::arrow::datatypes::{DataType, FieldRef};
use datafusion::common::internal_err;
use datafusion::common::tree_node::{Transformed, TreeNode as _};
use datafusion::error::Result;
use datafusion::logical_expr::expr::ScalarFunction;
use datafusion::logical_expr::{
    ColumnarValue, Expr, ReturnFieldArgs, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature,
    Volatility,
};

use crate::session::{bytes, room};

/// A smaller value is small for as many rows as a batch has.
const SMALL: usize = 1 << 10;

/// The same expression, with a look at its size if it gives one value for all rows which may be large. It stands where its operator
/// makes an array of it.
pub(super) fn counted_for_each_row(expr: Expr) -> Result<Transformed<Expr>> {
    match expr {
        Expr::Alias(mut alias) => {
            let of = counted_for_each_row(*alias.expr)?;
            alias.expr = Box::new(of.data);
            Ok(Transformed::new(Expr::Alias(alias), of.transformed, of.tnr))
        }
        expr => Ok(match may_be_large(&expr)? {
            true => Transformed::yes(Expr::ScalarFunction(ScalarFunction::new_udf(
                Arc::new(ScalarUDF::new_from_impl(Spread::new())),
                vec![expr],
            ))),
            false => Transformed::no(expr),
        }),
    }
}

/// Whether it gives one value for all rows, and that may be a large one.
fn may_be_large(expr: &Expr) -> Result<bool> {
    if let Expr::Literal(value, _) = expr {
        return Ok(bytes::of_value(value) > SMALL);
    }
    let is_counted = |call: &ScalarFunction| call.func.inner().is::<Spread>();
    if matches!(expr, Expr::ScalarFunction(call) if is_counted(call)) || expr.any_column_refs() {
        return Ok(false);
    }
    expr.exists(|part| {
        Ok(match part {
            Expr::Literal(value, _) => bytes::of_value(value) > SMALL,
            Expr::ScalarSubquery(_) => true,
            _ => false,
        })
    })
}

/// Its argument, called as that.
#[derive(Debug, PartialEq, Eq, Hash)]
struct Spread {
    signature: Signature,
}

impl Spread {
    fn new() -> Self {
        Self {
            signature: Signature::any(1, Volatility::Immutable),
        }
    }
}

impl ScalarUDFImpl for Spread {
    fn name(&self) -> &str {
        "for_each_row"
    }

    fn schema_name(&self, args: &[Expr]) -> Result<String> {
        match args {
            [of] => Ok(of.schema_name().to_string()),
            _ => internal_err!("{} takes one value", self.name()),
        }
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, types: &[DataType]) -> Result<DataType> {
        match types {
            [of] => Ok(of.clone()),
            _ => internal_err!("{} takes one value", self.name()),
        }
    }

    fn return_field_from_args(&self, args: ReturnFieldArgs) -> Result<FieldRef> {
        match args.arg_fields {
            [of] => Ok(Arc::clone(of)),
            _ => internal_err!("{} takes one value", self.name()),
        }
    }

    fn invoke_with_args(&self, mut args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let Some(value) = args.args.pop() else {
            return internal_err!("{} takes one value", self.name());
        };
        if let ColumnarValue::Scalar(of_all) = &value {
            let budget = room::budget(&args.config_options);
            room::check_spread("a value for each row", of_all, args.number_rows, budget)?;
        }
        Ok(value)
    }
}
