//! `now()` and the like with the time of a run: each attempt of a run, and each of its chunks, has the same time.

use std::hash::{Hash, Hasher};
use std::sync::Arc;

use chrono::{DateTime, Utc};
use datafusion::arrow::datatypes::{DataType, FieldRef};
use datafusion::common::internal_err;
use datafusion::error::Result as DataFusionResult;
use datafusion::logical_expr::registry::FunctionRegistry as _;
use datafusion::logical_expr::simplify::{ExprSimplifyResult, SimplifyContext};
use datafusion::logical_expr::{
    ColumnarValue, Expr, ReturnFieldArgs, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature,
};
use datafusion::prelude::SessionContext;

use crate::error::{Error, Result};

/// The functions whose value is the time of a statement. Their aliases have it too.
const OF_TIME: [&str; 3] = ["now", "current_date", "current_time"];

/// Gives the functions of a context that say the time this one, in microseconds since 1970 UTC, for all that it plans.
///
/// # Errors
///
/// A time beyond the calendar.
pub(in crate::streaming) fn fix_time(context: &SessionContext, now: i64) -> Result<()> {
    let time = DateTime::from_timestamp_micros(now).ok_or_else(|| {
        Error::internal(format!(
            "the time of a run is {now} microseconds since 1970"
        ))
    })?;
    let functions = OF_TIME.map(|name| {
        let inner = context.udf(name)?;
        Ok::<_, Error>(FixedTime { inner, time })
    });
    for function in functions {
        context.register_udf(ScalarUDF::new_from_impl(function?));
    }
    Ok(())
}

/// A function that says the time, with a fixed one.
#[derive(Debug)]
struct FixedTime {
    inner: Arc<ScalarUDF>,
    time: DateTime<Utc>,
}

impl PartialEq for FixedTime {
    fn eq(&self, other: &Self) -> bool {
        self.inner == other.inner && self.time == other.time
    }
}

impl Eq for FixedTime {}

impl Hash for FixedTime {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.inner.hash(state);
        self.time.hash(state);
    }
}

impl ScalarUDFImpl for FixedTime {
    fn name(&self) -> &str {
        self.inner.name()
    }

    fn aliases(&self) -> &[String] {
        self.inner.aliases()
    }

    fn signature(&self) -> &Signature {
        self.inner.signature()
    }

    fn return_type(&self, types: &[DataType]) -> DataFusionResult<DataType> {
        self.inner.inner().return_type(types)
    }

    fn return_field_from_args(&self, args: ReturnFieldArgs<'_>) -> DataFusionResult<FieldRef> {
        self.inner.return_field_from_args(args)
    }

    fn invoke_with_args(&self, _: ScalarFunctionArgs) -> DataFusionResult<ColumnarValue> {
        internal_err!("{}() has its value when it is planned", self.name())
    }

    fn simplify(
        &self,
        args: Vec<Expr>,
        context: &SimplifyContext,
    ) -> DataFusionResult<ExprSimplifyResult> {
        let context = SimplifyContext::builder()
            .with_schema(Arc::clone(context.schema()))
            .with_config_options(Arc::clone(context.config_options()))
            .with_query_execution_start_time(Some(self.time))
            .build();
        self.inner.simplify(args, &context)
    }
}
