//! `per_row(value)` returns its argument, for each row, also for empty batches. The engine evaluates elements of IN on an empty
//! batch to find out whether they are constant, and takes a CASE for a constant.

use arrow::datatypes::DataType;
use datafusion::common::{Result, plan_err};
use datafusion::logical_expr::{
    ColumnarValue, Expr, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature, Volatility,
};

/// The name of the function.
pub(crate) const PER_ROW: &str = "per_row";

/// A call of the function.
pub(crate) fn per_row(value: Expr) -> Expr {
    let function = ScalarUDF::from(PerRow {
        signature: Signature::any(1, Volatility::Immutable),
    });
    function.call(vec![value])
}

#[derive(Debug, PartialEq, Eq, Hash)]
struct PerRow {
    signature: Signature,
}

impl ScalarUDFImpl for PerRow {
    fn name(&self) -> &str {
        PER_ROW
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, types: &[DataType]) -> Result<DataType> {
        match types {
            [of] => Ok(of.clone()),
            _ => plan_err!("per_row takes a value"),
        }
    }

    fn is_strict(&self) -> bool {
        true
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let Some(value) = args.args.first() else {
            return plan_err!("per_row takes a value");
        };
        Ok(ColumnarValue::Array(value.to_array(args.number_rows)?))
    }
}
