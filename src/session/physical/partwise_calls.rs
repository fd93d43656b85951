//! Function calls on parts of a batch, sized by their arguments (SAFE-1).
//!
//! For a batch with large values a function may produce a much larger result at once, or copy each value that is the same for
//! all rows once per row, to iterate over it. So it is called for a part of the rows, and then for the next; between two parts
//! its statement can be ended, and the result so far is counted.

use std::sync::Arc;

use datafusion::arrow::array::{Array, ArrayRef};
use datafusion::arrow::compute::concat;
use datafusion::arrow::datatypes::{DataType, FieldRef};
use datafusion::common::ScalarValue;
use datafusion::common::config::ConfigOptions;
use datafusion::error::Result;
use datafusion::logical_expr::interval_arithmetic::Interval;
use datafusion::logical_expr::sort_properties::{ExprProperties, SortProperties};
use datafusion::logical_expr::{
    ColumnarValue, Documentation, Expr, ExpressionPlacement, ReturnFieldArgs, ScalarFunctionArgs,
    ScalarUDF, ScalarUDFImpl, Signature, StructFieldMapping,
};

use crate::session::limits::{array_bytes, memory_checks};

/// Bytes of the arguments of one part; values that are the same for all rows count once per row.
const PART: usize = 8 << 20;
/// Rows of one part for a regular expression, or its flags, that differs by row: the function keeps all compiled patterns until
/// the end of the call, and one may take 10 MiB.
const PATTERNS: usize = 32;

/// Wraps a function so that it is called in parts.
pub(crate) fn called_in_parts(inner: Arc<ScalarUDF>) -> Arc<ScalarUDF> {
    match inner.inner().is::<PartwiseFunction>() {
        true => inner,
        false => Arc::new(ScalarUDF::new_from_impl(PartwiseFunction { inner })),
    }
}

/// A wrapped function that is called in parts.
#[derive(Debug, PartialEq, Eq, Hash)]
struct PartwiseFunction {
    inner: Arc<ScalarUDF>,
}

impl PartwiseFunction {
    /// Whether this many rows with these arguments are one part.
    fn is_one(&self, rows: usize, args: &[ColumnarValue]) -> bool {
        rows <= 1 || (rows <= self.most(args) && weight(rows, args) <= PART)
    }

    /// The most rows of one part, for values of any size.
    fn most(&self, args: &[ColumnarValue]) -> usize {
        if !self.name().starts_with("regexp_") {
            return usize::MAX;
        }
        // The third argument of `regexp_replace` is the replacement.
        let is_other = |place: usize| place == 0 || (place == 2 && self.name() == "regexp_replace");
        let mut patterns = args
            .iter()
            .enumerate()
            .filter(|(place, _)| !is_other(*place));
        let is_text = |of: &ColumnarValue| match of {
            ColumnarValue::Array(array) => array.data_type().is_string(),
            ColumnarValue::Scalar(_) => false,
        };
        match patterns.any(|(_, arg)| is_text(arg)) {
            true => PATTERNS,
            false => usize::MAX,
        }
    }

    fn in_parts(&self, args: &ScalarFunctionArgs) -> Result<ColumnarValue> {
        let rows = args.number_rows;
        // Twice the size of the arguments, and one part more, is always allowed.
        let budget = memory_checks::budget(&args.config_options);
        let no_harm = arrays(&args.args).saturating_mul(2).saturating_add(PART);
        let budget = budget.max(no_harm);
        let (mut parts, mut made): (Vec<ArrayRef>, usize) = (Vec::new(), 0);
        // In the order of rows, with the next one at the end.
        let mut left = vec![(0, rows)];
        while let Some((start, count)) = left.pop() {
            let slices = sliced(&args.args, start, count);
            if !self.is_one(count, &slices) {
                let half = count / 2;
                left.push((start + half, count - half));
                left.push((start, half));
                continue;
            }
            let part = ScalarFunctionArgs {
                args: slices,
                arg_fields: args.arg_fields.clone(),
                number_rows: count,
                return_field: Arc::clone(&args.return_field),
                config_options: Arc::clone(&args.config_options),
            };
            let part = match self.inner.invoke_with_args(part)? {
                ColumnarValue::Array(part) => part,
                ColumnarValue::Scalar(value) => {
                    memory_checks::check_spread(self.name(), &value, count, budget)?;
                    value.to_array_of_size(count)?
                }
            };
            made = made.saturating_add(array_bytes::of_array(part.as_ref()));
            memory_checks::check(self.name(), made, rows, budget)?;
            parts.push(part);
        }
        let all: Vec<&dyn Array> = parts.iter().map(|part| part.as_ref()).collect();
        Ok(ColumnarValue::Array(concat(&all)?))
    }
}

/// Bytes of the arguments for this many rows.
fn weight(rows: usize, args: &[ColumnarValue]) -> usize {
    let sizes = args.iter().map(|arg| match arg {
        ColumnarValue::Array(array) => array_bytes::of_array(array.as_ref()),
        ColumnarValue::Scalar(value) => array_bytes::of_value(value).saturating_mul(rows),
    });
    sizes.fold(0, usize::saturating_add)
}

/// Bytes of the arguments that are arrays.
fn arrays(args: &[ColumnarValue]) -> usize {
    let sizes = args.iter().map(|arg| match arg {
        ColumnarValue::Array(array) => array_bytes::of_array(array.as_ref()),
        ColumnarValue::Scalar(_) => 0,
    });
    sizes.fold(0, usize::saturating_add)
}

/// The arguments of some rows.
fn sliced(args: &[ColumnarValue], start: usize, count: usize) -> Vec<ColumnarValue> {
    let slices = args.iter().map(|arg| match arg {
        ColumnarValue::Array(array) => ColumnarValue::Array(array.slice(start, count)),
        ColumnarValue::Scalar(value) => ColumnarValue::Scalar(value.clone()),
    });
    slices.collect()
}

impl ScalarUDFImpl for PartwiseFunction {
    fn name(&self) -> &str {
        self.inner.name()
    }

    fn aliases(&self) -> &[String] {
        self.inner.aliases()
    }

    fn schema_name(&self, args: &[Expr]) -> Result<String> {
        self.inner.schema_name(args)
    }

    fn signature(&self) -> &Signature {
        self.inner.signature()
    }

    fn coerce_types(&self, types: &[DataType]) -> Result<Vec<DataType>> {
        self.inner.coerce_types(types)
    }

    fn return_type(&self, types: &[DataType]) -> Result<DataType> {
        self.inner.return_type(types)
    }

    fn return_field_from_args(&self, args: ReturnFieldArgs) -> Result<FieldRef> {
        self.inner.return_field_from_args(args)
    }

    fn is_strict(&self) -> bool {
        self.inner.is_strict()
    }

    fn short_circuits(&self) -> bool {
        self.inner.short_circuits()
    }

    fn conditional_arguments<'a>(
        &self,
        args: &'a [Expr],
    ) -> Option<(Vec<&'a Expr>, Vec<&'a Expr>)> {
        self.inner.conditional_arguments(args)
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let are_narrow = array_bytes::is_narrow(args.return_field.data_type())
            && args
                .arg_fields
                .iter()
                .all(|field| array_bytes::is_narrow(field.data_type()));
        if are_narrow {
            return self.inner.invoke_with_args(args);
        }
        memory_checks::go_on(0)?;
        let has_rows = args
            .args
            .iter()
            .any(|arg| matches!(arg, ColumnarValue::Array(_)));
        if !has_rows {
            return self.inner.invoke_with_args(args);
        }
        if !self.is_one(args.number_rows, &args.args) {
            return self.in_parts(&args);
        }
        let (rows, budget) = (
            args.number_rows,
            memory_checks::budget(&args.config_options),
        );
        let made = self.inner.invoke_with_args(args)?;
        // The function returns one value for all rows, as `arrow_typeof` does for a long type.
        if let ColumnarValue::Scalar(value) = &made {
            memory_checks::check_spread(self.name(), value, rows, budget)?;
        }
        Ok(made)
    }

    fn evaluate_bounds(&self, input: &[&Interval]) -> Result<Interval> {
        self.inner.evaluate_bounds(input)
    }

    fn propagate_constraints(
        &self,
        interval: &Interval,
        inputs: &[&Interval],
    ) -> Result<Option<Vec<Interval>>> {
        self.inner.propagate_constraints(interval, inputs)
    }

    fn struct_field_mapping(&self, literals: &[Option<ScalarValue>]) -> Option<StructFieldMapping> {
        self.inner.struct_field_mapping(literals)
    }

    fn output_ordering(&self, inputs: &[ExprProperties]) -> Result<SortProperties> {
        self.inner.output_ordering(inputs)
    }

    fn preserves_lex_ordering(&self, inputs: &[ExprProperties]) -> Result<bool> {
        self.inner.preserves_lex_ordering(inputs)
    }

    fn strictly_order_preserving(&self, inputs: &[ExprProperties]) -> Result<bool> {
        self.inner.strictly_order_preserving(inputs)
    }

    fn placement(&self, args: &[ExpressionPlacement]) -> ExpressionPlacement {
        self.inner.placement(args)
    }

    fn documentation(&self) -> Option<&Documentation> {
        self.inner.documentation()
    }

    fn with_updated_config(&self, config: &ConfigOptions) -> Option<ScalarUDF> {
        let inner = self.inner.inner().with_updated_config(config)?;
        Some(ScalarUDF::new_from_impl(Self {
            inner: Arc::new(inner),
        }))
    }
}
