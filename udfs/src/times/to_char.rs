//! `to_char` and `date_format`: DataFusion's, of TIMESTAMP in microseconds, with patterns that say something.

use arrow::array::AsArray;
use arrow::datatypes::{DataType, FieldRef, TimeUnit};
use datafusion::common::{Result, ScalarValue, plan_err};
use datafusion::functions::datetime::to_char::ToCharFunc;
use datafusion::logical_expr::{
    ColumnarValue, Documentation, ReturnFieldArgs, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl,
    Signature, Volatility,
};

use super::{pattern, timestamp};

/// The function `to_char(time, pattern)`.
pub(super) fn to_char() -> ScalarUDF {
    ScalarUDF::from(ToChar {
        inner: ToCharFunc::new(),
        signature: Signature::user_defined(Volatility::Immutable),
    })
}

#[derive(Debug, PartialEq, Eq, Hash)]
struct ToChar {
    inner: ToCharFunc,
    signature: Signature,
}

impl ScalarUDFImpl for ToChar {
    fn name(&self) -> &str {
        self.inner.name()
    }

    fn aliases(&self) -> &[String] {
        self.inner.aliases()
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn coerce_types(&self, types: &[DataType]) -> Result<Vec<DataType>> {
        let [of, _] = types else {
            return plan_err!("to_char takes a time and a pattern, as in to_char(ts, '%Y-%m-%d')");
        };
        let of = match of {
            DataType::Timestamp(TimeUnit::Nanosecond, zone) => {
                DataType::Timestamp(TimeUnit::Microsecond, zone.clone())
            }
            DataType::Timestamp(..)
            | DataType::Date32
            | DataType::Date64
            | DataType::Time32(_)
            | DataType::Time64(_)
            | DataType::Duration(_) => of.clone(),
            DataType::Null | DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View => {
                timestamp()
            }
            other => return plan_err!("to_char takes a time, not {other}"),
        };
        Ok(vec![of, DataType::Utf8])
    }

    fn return_type(&self, types: &[DataType]) -> Result<DataType> {
        self.inner.return_type(types)
    }

    fn return_field_from_args(&self, args: ReturnFieldArgs) -> Result<FieldRef> {
        let is_interval = matches!(args.arg_fields[0].data_type(), DataType::Duration(_));
        if let Some(Some(pattern)) = args.scalar_arguments.get(1)
            && let Some(Some(text)) = pattern.try_as_str()
            && !is_interval
        {
            pattern::check(self.name(), text)?;
        }
        self.inner.return_field_from_args(args)
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let is_interval = matches!(args.args[0].data_type(), DataType::Duration(_));
        match &args.args[1] {
            ColumnarValue::Array(patterns) if !is_interval => {
                for pattern in patterns.as_string::<i32>().iter().flatten() {
                    pattern::check(self.name(), pattern)?;
                }
            }
            ColumnarValue::Scalar(ScalarValue::Utf8(Some(text))) if !is_interval => {
                pattern::check(self.name(), text)?;
            }
            _ => {}
        }
        self.inner.invoke_with_args(args)
    }

    fn documentation(&self) -> Option<&Documentation> {
        self.inner.documentation()
    }
}
