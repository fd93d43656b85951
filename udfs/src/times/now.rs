//! The time of the statement, in microseconds, in the session's zone.

use std::sync::Arc;

use arrow::datatypes::{DataType, Field, FieldRef, TimeUnit};
use datafusion::common::{Result, ScalarValue, internal_err};
use datafusion::config::ConfigOptions;
use datafusion::logical_expr::simplify::{ExprSimplifyResult, SimplifyContext};
use datafusion::logical_expr::{
    ColumnarValue, Expr, ReturnFieldArgs, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature,
    Volatility,
};

/// The function `now()`.
pub(super) fn now() -> ScalarUDF {
    ScalarUDF::from(Now::new(None))
}

#[derive(Debug, PartialEq, Eq, Hash)]
struct Now {
    signature: Signature,
    aliases: Vec<String>,
    zone: Arc<str>,
}

impl Now {
    fn new(zone: Option<&str>) -> Self {
        Self {
            signature: Signature::nullary(Volatility::Stable),
            aliases: vec!["current_timestamp".to_owned()],
            zone: zone.unwrap_or("UTC").into(),
        }
    }
}

impl ScalarUDFImpl for Now {
    fn name(&self) -> &str {
        "now"
    }

    fn aliases(&self) -> &[String] {
        &self.aliases
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn with_updated_config(&self, config: &ConfigOptions) -> Option<ScalarUDF> {
        let zone = config.execution.time_zone.as_deref();
        Some(ScalarUDF::from(Self::new(zone)))
    }

    fn return_type(&self, _: &[DataType]) -> Result<DataType> {
        let zone = Some(Arc::clone(&self.zone));
        Ok(DataType::Timestamp(TimeUnit::Microsecond, zone))
    }

    fn return_field_from_args(&self, _: ReturnFieldArgs) -> Result<FieldRef> {
        Ok(Arc::new(Field::new(
            self.name(),
            self.return_type(&[])?,
            false,
        )))
    }

    fn invoke_with_args(&self, _: ScalarFunctionArgs) -> Result<ColumnarValue> {
        internal_err!("now() has its value when it is planned")
    }

    fn simplify(&self, args: Vec<Expr>, info: &SimplifyContext) -> Result<ExprSimplifyResult> {
        let Some(time) = info.query_execution_start_time() else {
            return Ok(ExprSimplifyResult::Original(args));
        };
        let zone = Some(Arc::clone(&self.zone));
        let value = ScalarValue::TimestampMicrosecond(Some(time.timestamp_micros()), zone);
        Ok(ExprSimplifyResult::Simplified(Expr::Literal(value, None)))
    }
}
