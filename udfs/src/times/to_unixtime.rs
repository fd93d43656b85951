//! `to_unixtime`: the whole seconds since 1970 of texts and times of all years.

use std::sync::Arc;

use arrow::array::{ArrayRef, AsArray, Int64Array};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Field, FieldRef, Int64Type, TimeUnit};
use datafusion::common::Result;
use datafusion::config::ConfigOptions;
use datafusion::functions::datetime;
use datafusion::logical_expr::{
    ColumnarValue, Documentation, ReturnFieldArgs, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl,
    Signature,
};

use super::pattern;
use super::to_timestamp::ToTimestamp;
use crate::operands::{are_scalars, scalar_or_array};
use crate::window::ticks_per_second;

const NAME: &str = "to_unixtime";
const MICROS_PER_SECOND: i64 = 1_000_000;

/// The function. For numbers and dates it is DataFusion's.
pub(super) fn to_unixtime() -> ScalarUDF {
    ScalarUDF::from(ToUnixtime {
        texts: ToTimestamp::of_seconds(NAME, None),
        inner: datetime::to_unixtime(),
    })
}

#[derive(Debug, PartialEq, Eq, Hash)]
struct ToUnixtime {
    /// Reads the texts.
    texts: ToTimestamp,
    inner: Arc<ScalarUDF>,
}

impl ScalarUDFImpl for ToUnixtime {
    fn name(&self) -> &str {
        NAME
    }

    fn signature(&self) -> &Signature {
        self.inner.signature()
    }

    fn with_updated_config(&self, config: &ConfigOptions) -> Option<ScalarUDF> {
        let zone = config.execution.time_zone.as_deref();
        Some(ScalarUDF::from(Self {
            texts: ToTimestamp::of_seconds(NAME, zone),
            inner: Arc::clone(&self.inner),
        }))
    }

    fn return_type(&self, _: &[DataType]) -> Result<DataType> {
        Ok(DataType::Int64)
    }

    fn return_field_from_args(&self, args: ReturnFieldArgs) -> Result<FieldRef> {
        pattern::check_constants(NAME, &args)?;
        Ok(Arc::new(Field::new(NAME, DataType::Int64, true)))
    }

    fn documentation(&self) -> Option<&Documentation> {
        self.inner.documentation()
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let types = args.args.iter().map(ColumnarValue::data_type);
        let types: Vec<DataType> = types.collect();
        let are_texts = !types.is_empty() && types.iter().all(DataType::is_string);
        let unit = match types.as_slice() {
            [DataType::Timestamp(unit, _)] => Some(*unit),
            _ => None,
        };
        if !are_texts && unit.is_none() {
            return self.inner.invoke_with_args(args);
        }
        let is_scalar = are_scalars(&args.args);
        let rows = if is_scalar { 1 } else { args.number_rows };
        let arrays = args.args.iter().map(|value| value.to_array(rows));
        let arrays = arrays.collect::<Result<Vec<ArrayRef>>>()?;
        let seconds = match unit {
            Some(unit) => seconds_of(&arrays[0], unit)?,
            None => {
                let texts = arrays.iter().map(|array| cast(array, &DataType::Utf8));
                let texts = texts.collect::<std::result::Result<Vec<_>, _>>()?;
                let micros = self.texts.micros(&texts[0], &texts[1..])?;
                micros.unary(|micros| micros.div_euclid(MICROS_PER_SECOND))
            }
        };
        scalar_or_array(Arc::new(seconds), is_scalar)
    }
}

/// Rounds down to a second, also for times before 1970.
fn seconds_of(times: &ArrayRef, unit: TimeUnit) -> Result<Int64Array> {
    let per_second = ticks_per_second(unit);
    let ticks = cast(times, &DataType::Int64)?;
    let ticks = ticks.as_primitive::<Int64Type>();
    Ok(ticks.unary(|tick| tick.div_euclid(per_second)))
}

#[cfg(test)]
mod tests {
    use arrow::array::{StringArray, TimestampMicrosecondArray};

    use super::*;

    fn seconds(values: ArrayRef) -> Int64Array {
        let rows = values.len();
        let field = |of: &DataType| Arc::new(Field::new("", of.clone(), true));
        let args = ScalarFunctionArgs {
            arg_fields: vec![field(values.data_type())],
            args: vec![ColumnarValue::Array(values)],
            number_rows: rows,
            return_field: field(&DataType::Int64),
            config_options: Arc::new(ConfigOptions::default()),
        };
        let seconds = to_unixtime().invoke_with_args(args).unwrap();
        let seconds = seconds.into_array(rows).unwrap();
        seconds.as_primitive::<Int64Type>().clone()
    }

    #[test]
    fn texts_and_times_of_all_years_have_seconds() {
        let texts = StringArray::from(vec![
            Some("9999-12-31T23:59:59Z"),
            Some("0001-01-01"),
            None,
            Some("1969-12-31T23:59:59.5Z"),
        ]);
        let expected = vec![Some(253_402_300_799), Some(-62_135_596_800), None, Some(-1)];
        assert_eq!(seconds(Arc::new(texts)), Int64Array::from(expected));
        let times = TimestampMicrosecondArray::from(vec![1_500_000, -500_000]);
        assert_eq!(seconds(Arc::new(times)), Int64Array::from(vec![1, -1]));
    }
}
