//! `as_typed('CAST(x AS INT)', CAST(x AS INT))` returns its second argument. The engine's names omit casts, and two aggregates
//! of one value by two types would have one name: with this call they have two. `typed_key('Int32', CAST(x AS INT))` does the
//! same for keys.

use arrow::datatypes::{DataType, FieldRef};
use datafusion::common::{Result, internal_err, plan_err};
use datafusion::logical_expr::simplify::{ExprSimplifyResult, SimplifyContext};
use datafusion::logical_expr::{
    ColumnarValue, Expr, ReturnFieldArgs, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature,
    Volatility,
};

/// The name of the function of keys.
pub(crate) const TYPED_KEY: &str = "typed_key";

/// The functions.
#[must_use]
pub(crate) fn as_typed() -> [ScalarUDF; 2] {
    ["as_typed", TYPED_KEY].map(|name| {
        ScalarUDF::from(AsTyped {
            name,
            signature: Signature::any(2, Volatility::Immutable),
        })
    })
}

#[derive(Debug, PartialEq, Eq, Hash)]
struct AsTyped {
    name: &'static str,
    signature: Signature,
}

impl ScalarUDFImpl for AsTyped {
    fn name(&self) -> &str {
        self.name
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, _: &[DataType]) -> Result<DataType> {
        internal_err!("{} gives what its value is", self.name)
    }

    fn return_field_from_args(&self, args: ReturnFieldArgs) -> Result<FieldRef> {
        match args.arg_fields {
            [_, value] => Ok(FieldRef::clone(value)),
            _ => plan_err!("{} takes a name and a value", self.name),
        }
    }

    fn simplify(&self, mut args: Vec<Expr>, _: &SimplifyContext) -> Result<ExprSimplifyResult> {
        Ok(match args.pop() {
            Some(value) => ExprSimplifyResult::Simplified(value),
            None => ExprSimplifyResult::Original(args),
        })
    }

    fn invoke_with_args(&self, mut args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        match args.args.pop() {
            Some(value) => Ok(value),
            None => plan_err!("{} takes a name and a value", self.name),
        }
    }
}
