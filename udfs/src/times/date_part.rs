//! `date_part` and `extract`: DataFusion's, which never gives NULL for a part that has no room.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, Float64Array};
use arrow::compute::cast;
use arrow::datatypes::{DataType, FieldRef, Float64Type, Int64Type, TimeUnit};
use datafusion::common::{Result, ScalarValue, internal_err};
use datafusion::functions::datetime::date_part::DatePartFunc;
use datafusion::logical_expr::planner::{ExprPlanner, PlannerResult};
use datafusion::logical_expr::preimage::PreimageResult;
use datafusion::logical_expr::simplify::SimplifyContext;
use datafusion::logical_expr::{
    ColumnarValue, Documentation, Expr, ReturnFieldArgs, ScalarFunctionArgs, ScalarUDF,
    ScalarUDFImpl, Signature,
};

use crate::checked::out_of_range;

/// The function `date_part(part, time)`, which `extract` is as well.
pub(super) fn date_part() -> ScalarUDF {
    ScalarUDF::from(DatePart {
        inner: DatePartFunc::new(),
    })
}

#[derive(Debug, PartialEq, Eq, Hash)]
struct DatePart {
    inner: DatePartFunc,
}

impl ScalarUDFImpl for DatePart {
    fn name(&self) -> &str {
        self.inner.name()
    }

    fn aliases(&self) -> &[String] {
        self.inner.aliases()
    }

    fn signature(&self) -> &Signature {
        self.inner.signature()
    }

    fn return_type(&self, _: &[DataType]) -> Result<DataType> {
        internal_err!("the type of date_part goes by its arguments")
    }

    fn return_field_from_args(&self, args: ReturnFieldArgs) -> Result<FieldRef> {
        self.inner.return_field_from_args(args)
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let is_scalar = matches!(args.args[1], ColumnarValue::Scalar(_));
        let times = args.args[1].to_array(1)?;
        let part = match &args.args[0] {
            ColumnarValue::Scalar(part) => part.try_as_str().flatten().unwrap_or_default(),
            ColumnarValue::Array(_) => "",
        };
        let result = args.return_type().clone();
        let what = format!("date_part('{part}', …)");
        let parts: ArrayRef = match times.data_type() {
            DataType::Duration(unit) if part.eq_ignore_ascii_case("epoch") => {
                seconds(&times, *unit)?
            }
            _ => {
                let rows = times.len();
                self.inner.invoke_with_args(args)?.to_array(rows)?
            }
        };
        // A part that has no room is NULL in Arrow.
        if parts.null_count() > times.null_count() {
            return Err(out_of_range(what, &result));
        }
        match is_scalar {
            true => Ok(ColumnarValue::Scalar(ScalarValue::try_from_array(
                &parts, 0,
            )?)),
            false => Ok(ColumnarValue::Array(parts)),
        }
    }

    fn preimage(
        &self,
        args: &[Expr],
        literal: &Expr,
        info: &SimplifyContext,
    ) -> Result<PreimageResult> {
        self.inner.preimage(args, literal, info)
    }

    fn documentation(&self) -> Option<&Documentation> {
        self.inner.documentation()
    }
}

/// Plans `extract(part FROM time)`.
#[derive(Debug)]
pub(crate) struct ExtractPlanner;

impl ExprPlanner for ExtractPlanner {
    fn plan_extract(&self, args: Vec<Expr>) -> Result<PlannerResult<Vec<Expr>>> {
        Ok(PlannerResult::Planned(date_part().call(args)))
    }
}

/// The length of intervals in seconds.
fn seconds(intervals: &ArrayRef, unit: TimeUnit) -> Result<ArrayRef> {
    let ticks = match unit {
        TimeUnit::Second => 1.0,
        TimeUnit::Millisecond => 1e3,
        TimeUnit::Microsecond => 1e6,
        TimeUnit::Nanosecond => 1e9,
    };
    let intervals = cast(intervals, &DataType::Int64)?;
    let intervals = intervals.as_primitive::<Int64Type>();
    let seconds: Float64Array =
        intervals.unary::<_, Float64Type>(|interval| interval as f64 / ticks);
    Ok(Arc::new(seconds))
}
