//! Memory bounds for the results of window functions (SAFE-1): `array_agg(x) OVER ()` returns all rows for each row, and
//! `array_agg(x) OVER (ORDER BY x)` all rows before it.
//!
//! An operator calls such a function for all rows of a partition of the window, and concatenates the results into one array. No
//! memory pool counts it. So the function counts itself: the results so far for the rows whose arguments were evaluated last,
//! or, if all rows have the same frame and the function is called once, the size of the repeated result.

use std::cell::Cell;
use std::ops::Range;
use std::sync::Arc;

use anabranch_udfs::only_argument;
use datafusion::arrow::array::ArrayRef;
use datafusion::arrow::compute::SortOptions;
use datafusion::arrow::datatypes::{DataType, FieldRef};
use datafusion::common::{ScalarValue, internal_err};
use datafusion::error::Result;
use datafusion::logical_expr::expr::{
    AggregateFunctionParams, ScalarFunction, WindowFunction, WindowFunctionParams,
};
use datafusion::logical_expr::function::{
    AccumulatorArgs, ExpressionArgs, PartitionEvaluatorArgs, StateFieldsArgs, WindowUDFFieldArgs,
};
use datafusion::logical_expr::utils::AggregateOrderSensitivity;
use datafusion::logical_expr::window_state::WindowAggState;
use datafusion::logical_expr::{
    Accumulator, AggregateUDF, AggregateUDFImpl, ColumnarValue, Documentation, Expr, LimitEffect,
    PartitionEvaluator, ReturnFieldArgs, ReversedUDAF, ReversedUDWF, ScalarFunctionArgs, ScalarUDF,
    ScalarUDFImpl, SetMonotonicity, Signature, Volatility, WindowFrameBound, WindowFrameUnits,
    WindowFunctionDefinition, WindowUDF, WindowUDFImpl,
};
use datafusion::physical_expr::PhysicalExpr;

use crate::session::limits::{array_bytes, memory_checks};

/// The number of rows for which this thread last evaluated the arguments of a window function; the function is called for them
/// before the arguments of the next are evaluated.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct EvaluatedRows {
    /// The number of evaluations so far.
    time: u64,
    count: usize,
}

thread_local! {
    static ROWS: Cell<EvaluatedRows> = const { Cell::new(EvaluatedRows { time: 0, count: 0 }) };
}

/// The window function wrapped so that it counts its results; `of` is their type.
pub(crate) fn counted(mut call: WindowFunction, of: &DataType, budget: usize) -> WindowFunction {
    let is_counted = match &call.fun {
        WindowFunctionDefinition::AggregateUDF(fun) => fun.inner().is::<CountedAggregate>(),
        WindowFunctionDefinition::WindowUDF(fun) => fun.inner().is::<CountedFunction>(),
    };
    if is_counted || array_bytes::is_narrow(of) {
        return call;
    }
    let Some(first) = call.params.args.first_mut() else {
        return call;
    };
    let argument = std::mem::take(first);
    *first = Expr::ScalarFunction(ScalarFunction::new_udf(
        Arc::new(ScalarUDF::new_from_impl(NotedArgument::new())),
        vec![argument],
    ));
    let is_once = is_once(&call.params);
    call.fun = match call.fun {
        WindowFunctionDefinition::AggregateUDF(inner) => {
            let counted = CountedAggregate {
                inner,
                is_once,
                budget,
            };
            WindowFunctionDefinition::AggregateUDF(Arc::new(AggregateUDF::from(counted)))
        }
        WindowFunctionDefinition::WindowUDF(inner) => {
            // The default value of lag and lead for a missing row.
            let otherwise = match call.params.args.get(2) {
                Some(Expr::Literal(value, _)) => array_bytes::of_value(value),
                _ => 0,
            };
            let counted = CountedFunction {
                inner,
                otherwise,
                budget,
            };
            WindowFunctionDefinition::WindowUDF(Arc::new(WindowUDF::from(counted)))
        }
    };
    call
}

/// Whether an aggregate is evaluated once for all rows of a partition: the engine does so if all have the same frame.
fn is_once(params: &WindowFunctionParams) -> bool {
    let frame = &params.window_frame;
    let is_same = |bound: &WindowFrameBound| match bound {
        WindowFrameBound::CurrentRow => {
            frame.units == WindowFrameUnits::Range && params.order_by.is_empty()
        }
        bound => bound.is_unbounded(),
    };
    frame.is_ever_expanding() && is_same(&frame.end_bound)
}

/// Returns its argument, and records the number of rows it was evaluated for.
#[derive(Debug, PartialEq, Eq, Hash)]
struct NotedArgument {
    signature: Signature,
}

impl NotedArgument {
    fn new() -> Self {
        Self {
            signature: Signature::any(1, Volatility::Immutable),
        }
    }
}

impl ScalarUDFImpl for NotedArgument {
    fn name(&self) -> &str {
        "of_window"
    }

    fn schema_name(&self, args: &[Expr]) -> Result<String> {
        let of = only_argument(self.name(), args)?;
        Ok(of.schema_name().to_string())
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, types: &[DataType]) -> Result<DataType> {
        only_argument(self.name(), types).cloned()
    }

    fn return_field_from_args(&self, args: ReturnFieldArgs) -> Result<FieldRef> {
        only_argument(self.name(), args.arg_fields).cloned()
    }

    fn invoke_with_args(&self, mut args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let Some(value) = args.args.pop() else {
            return internal_err!("{} takes one value", self.name());
        };
        let count = args.number_rows;
        if let ColumnarValue::Scalar(of_all) = &value {
            let budget = memory_checks::budget(&args.config_options);
            memory_checks::check_spread("an argument of a window function", of_all, count, budget)?;
        }
        ROWS.with(|rows| {
            let time = rows.get().time.wrapping_add(1);
            rows.set(EvaluatedRows { time, count });
        });
        Ok(value)
    }
}

/// The size of the results so far for the rows that were evaluated last.
#[derive(Debug, Default)]
struct ResultSize {
    time: u64,
    bytes: usize,
}

impl ResultSize {
    /// Counts one more value.
    fn add(&mut self, value: &ScalarValue, budget: usize) -> Result<()> {
        let rows = ROWS.with(Cell::get);
        if self.time != rows.time {
            *self = Self {
                time: rows.time,
                bytes: 0,
            };
        }
        self.bytes = self.bytes.saturating_add(array_bytes::of_value(value));
        memory_checks::check("a window function", self.bytes, rows.count, budget)?;
        // The engine concatenates the values into one array.
        memory_checks::go_on(self.bytes)
    }
}

/// Wraps an aggregate so that it counts its results.
#[derive(Debug, PartialEq, Eq, Hash)]
struct CountedAggregate {
    inner: Arc<AggregateUDF>,
    is_once: bool,
    budget: usize,
}

impl CountedAggregate {
    fn depends_on_order(&self) -> bool {
        self.inner.order_sensitivity() != AggregateOrderSensitivity::Insensitive
    }

    fn counted(&self, inner: Box<dyn Accumulator>) -> Box<dyn Accumulator> {
        Box::new(CountedAccumulator {
            inner,
            is_once: self.is_once,
            budget: self.budget,
            given: ResultSize::default(),
        })
    }

    fn with(&self, inner: Arc<AggregateUDF>) -> Self {
        Self {
            inner,
            is_once: self.is_once,
            budget: self.budget,
        }
    }
}

impl AggregateUDFImpl for CountedAggregate {
    fn name(&self) -> &str {
        self.inner.name()
    }

    fn aliases(&self) -> &[String] {
        self.inner.aliases()
    }

    fn schema_name(&self, params: &AggregateFunctionParams) -> Result<String> {
        self.inner.schema_name(params)
    }

    fn human_display(&self, params: &AggregateFunctionParams) -> Result<String> {
        self.inner.human_display(params)
    }

    fn window_function_schema_name(&self, params: &WindowFunctionParams) -> Result<String> {
        self.inner.window_function_schema_name(params)
    }

    fn display_name(&self, params: &AggregateFunctionParams) -> Result<String> {
        self.inner.display_name(params)
    }

    fn window_function_display_name(&self, params: &WindowFunctionParams) -> Result<String> {
        self.inner.window_function_display_name(params)
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

    fn return_field(&self, fields: &[FieldRef]) -> Result<FieldRef> {
        self.inner.return_field(fields)
    }

    fn is_nullable(&self) -> bool {
        self.inner.is_nullable()
    }

    fn default_value(&self, of: &DataType) -> Result<ScalarValue> {
        self.inner.default_value(of)
    }

    fn state_fields(&self, args: StateFieldsArgs) -> Result<Vec<FieldRef>> {
        self.inner.state_fields(args)
    }

    fn accumulator(&self, args: AccumulatorArgs) -> Result<Box<dyn Accumulator>> {
        Ok(self.counted(self.inner.accumulator(args)?))
    }

    fn create_sliding_accumulator(&self, args: AccumulatorArgs) -> Result<Box<dyn Accumulator>> {
        Ok(self.counted(self.inner.create_sliding_accumulator(args)?))
    }

    fn order_sensitivity(&self) -> AggregateOrderSensitivity {
        self.inner.order_sensitivity()
    }

    fn with_beneficial_ordering(
        self: Arc<Self>,
        beneficial_ordering: bool,
    ) -> Result<Option<Arc<dyn AggregateUDFImpl>>> {
        let inner = AggregateUDF::clone(&self.inner);
        let inner = inner.with_beneficial_ordering(beneficial_ordering)?;
        Ok(inner.map(|inner| Arc::new(self.with(Arc::new(inner))) as Arc<dyn AggregateUDFImpl>))
    }

    fn reverse_expr(&self) -> ReversedUDAF {
        match self.inner.reverse_udf() {
            // DataFusion reads the rows of a window backwards if another window needs that order. `array_agg` and `string_agg`
            // declare themselves as their own reverse, but would return their values in reverse.
            ReversedUDAF::Reversed(same) if same == self.inner && self.depends_on_order() => {
                ReversedUDAF::NotSupported
            }
            ReversedUDAF::Identical if self.depends_on_order() => ReversedUDAF::NotSupported,
            ReversedUDAF::Reversed(inner) => {
                ReversedUDAF::Reversed(Arc::new(AggregateUDF::from(self.with(inner))))
            }
            other => other,
        }
    }

    fn is_descending(&self) -> Option<bool> {
        self.inner.is_descending()
    }

    fn supports_null_handling_clause(&self) -> bool {
        self.inner.supports_null_handling_clause()
    }

    fn supports_within_group_clause(&self) -> bool {
        self.inner.supports_within_group_clause()
    }

    fn set_monotonicity(&self, of: &DataType) -> SetMonotonicity {
        self.inner.inner().set_monotonicity(of)
    }

    fn documentation(&self) -> Option<&Documentation> {
        self.inner.documentation()
    }
}

/// Wraps an accumulator so that it counts its results.
#[derive(Debug)]
struct CountedAccumulator {
    inner: Box<dyn Accumulator>,
    is_once: bool,
    budget: usize,
    given: ResultSize,
}

impl Accumulator for CountedAccumulator {
    fn update_batch(&mut self, values: &[ArrayRef]) -> Result<()> {
        self.inner.update_batch(values)
    }

    fn retract_batch(&mut self, values: &[ArrayRef]) -> Result<()> {
        self.inner.retract_batch(values)
    }

    fn supports_retract_batch(&self) -> bool {
        self.inner.supports_retract_batch()
    }

    fn evaluate(&mut self) -> Result<ScalarValue> {
        memory_checks::go_on(0)?;
        let value = self.inner.evaluate()?;
        self.given.add(&value, self.budget)?;
        if self.is_once {
            let rows = ROWS.with(Cell::get).count;
            memory_checks::check_spread("a window function", &value, rows, self.budget)?;
        }
        Ok(value)
    }

    fn state(&mut self) -> Result<Vec<ScalarValue>> {
        self.inner.state()
    }

    fn merge_batch(&mut self, states: &[ArrayRef]) -> Result<()> {
        self.inner.merge_batch(states)
    }

    fn size(&self) -> usize {
        size_of_val(self).saturating_add(self.inner.size())
    }
}

/// Wraps a window function so that it counts its results.
#[derive(Debug, PartialEq, Eq, Hash)]
struct CountedFunction {
    inner: Arc<WindowUDF>,
    otherwise: usize,
    budget: usize,
}

impl WindowUDFImpl for CountedFunction {
    fn name(&self) -> &str {
        self.inner.name()
    }

    fn aliases(&self) -> &[String] {
        self.inner.aliases()
    }

    fn signature(&self) -> &Signature {
        self.inner.signature()
    }

    fn coerce_types(&self, types: &[DataType]) -> Result<Vec<DataType>> {
        self.inner.coerce_types(types)
    }

    fn expressions(&self, args: ExpressionArgs) -> Vec<Arc<dyn PhysicalExpr>> {
        self.inner.expressions(args)
    }

    fn partition_evaluator(
        &self,
        args: PartitionEvaluatorArgs,
    ) -> Result<Box<dyn PartitionEvaluator>> {
        Ok(Box::new(CountedEvaluator {
            inner: self.inner.partition_evaluator_factory(args)?,
            otherwise: self.otherwise,
            budget: self.budget,
            given: ResultSize::default(),
        }))
    }

    fn field(&self, args: WindowUDFFieldArgs) -> Result<FieldRef> {
        self.inner.field(args)
    }

    fn sort_options(&self) -> Option<SortOptions> {
        self.inner.sort_options()
    }

    fn reverse_expr(&self) -> ReversedUDWF {
        match self.inner.reverse_expr() {
            ReversedUDWF::Reversed(inner) => {
                let reversed = Self {
                    inner,
                    otherwise: self.otherwise,
                    budget: self.budget,
                };
                ReversedUDWF::Reversed(Arc::new(WindowUDF::from(reversed)))
            }
            other => other,
        }
    }

    fn limit_effect(&self, args: &[Arc<dyn PhysicalExpr>]) -> LimitEffect {
        self.inner.inner().limit_effect(args)
    }

    fn documentation(&self) -> Option<&Documentation> {
        self.inner.documentation()
    }
}

/// Wraps an evaluator so that it counts its results.
#[derive(Debug)]
struct CountedEvaluator {
    inner: Box<dyn PartitionEvaluator>,
    otherwise: usize,
    budget: usize,
    given: ResultSize,
}

impl PartitionEvaluator for CountedEvaluator {
    fn memoize(&mut self, state: &mut WindowAggState) -> Result<()> {
        self.inner.memoize(state)
    }

    fn get_range(&self, row: usize, rows: usize) -> Result<Range<usize>> {
        self.inner.get_range(row, rows)
    }

    fn is_causal(&self) -> bool {
        self.inner.is_causal()
    }

    fn evaluate_all(&mut self, values: &[ArrayRef], rows: usize) -> Result<ArrayRef> {
        let otherwise = self.otherwise.saturating_mul(rows);
        memory_checks::check("a window function", otherwise, rows, self.budget)?;
        memory_checks::go_on(otherwise)?;
        self.inner.evaluate_all(values, rows)
    }

    fn evaluate(&mut self, values: &[ArrayRef], range: &Range<usize>) -> Result<ScalarValue> {
        let value = self.inner.evaluate(values, range)?;
        self.given.add(&value, self.budget)?;
        Ok(value)
    }

    fn evaluate_all_with_rank(&self, rows: usize, ranks: &[Range<usize>]) -> Result<ArrayRef> {
        self.inner.evaluate_all_with_rank(rows, ranks)
    }

    fn supports_bounded_execution(&self) -> bool {
        self.inner.supports_bounded_execution()
    }

    fn uses_window_frame(&self) -> bool {
        self.inner.uses_window_frame()
    }

    fn include_rank(&self) -> bool {
        self.inner.include_rank()
    }
}
