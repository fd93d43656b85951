//! `to_char` and `date_format`: DataFusion's functions for TIMESTAMP in microseconds, with a check that the pattern has a
//! format specifier.

use std::ops::RangeInclusive;

use arrow::array::{Array, ArrayRef, AsArray};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Date32Type, FieldRef, TimeUnit};
use datafusion::common::{Result, ScalarValue, plan_err};
use datafusion::functions::datetime::to_char::ToCharFunc;
use datafusion::logical_expr::{
    ColumnarValue, Documentation, ReturnFieldArgs, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl,
    Signature, Volatility,
};

use super::{is_point_in_time, pattern, timestamp};
use crate::diagnostic::data_error;

/// Days from the year 0 to the end of the year 9999.
const OF_TWO_DIGITS: RangeInclusive<i32> = -719_528..=2_932_896;

/// Refuses centuries without two digits: chrono would write other characters.
fn check_centuries(times: &ArrayRef) -> Result<()> {
    if !is_point_in_time(times.data_type()) {
        return Ok(());
    }
    let days = cast(times, &DataType::Date32)?;
    let mut days = days.as_primitive::<Date32Type>().iter().flatten();
    match days.all(|day| OF_TWO_DIGITS.contains(&day)) {
        true => Ok(()),
        false => Err(data_error(
            "to_char: %C is of the years 0 to 9999",
            "write %Y",
        )),
    }
}

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
        let mut has_century = false;
        match &args.args[1] {
            ColumnarValue::Array(patterns) if !is_interval => {
                for pattern in patterns.as_string::<i32>().iter().flatten() {
                    pattern::check(self.name(), pattern)?;
                    has_century |= pattern::has_century(pattern);
                }
            }
            ColumnarValue::Scalar(ScalarValue::Utf8(Some(text))) if !is_interval => {
                pattern::check(self.name(), text)?;
                has_century = pattern::has_century(text);
            }
            _ => {}
        }
        if has_century {
            check_centuries(&args.args[0].to_array(1)?)?;
        }
        self.inner.invoke_with_args(args)
    }

    fn documentation(&self) -> Option<&Documentation> {
        self.inner.documentation()
    }
}
