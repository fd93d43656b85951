//! `-0.0` and `0.0` as one value, wherever the engine compares the bits of numbers.
//!
//! DataFusion compares them by their value with `=`, in joins and in groups, and by their bits in `CASE x WHEN`, lists of IN, aggregates
//! of distinct values, the PARTITION BY of windows, and functions of arrays. [`EqualZeros`] puts [`one_zero`](super::zero) there. It
//! is an analyzer rule, before constants are evaluated, and an optimizer rule for the lists that the optimizer makes of
//! `x = a OR x = b …`. [`NullIf`] is `nullif`, whose result keeps its sign. [`EqualZeroGroups`] is for groups of rows that come in the
//! order of a part of their keys: there the engine takes a group for complete when the bits of the order's key change.
//!
//! Where no number is floating, nothing is changed. Whole arrays and structs are compared by the bits of their numbers, also with `=`.

use std::sync::Arc;

use arrow::array::{Datum, Scalar};
use arrow::compute::kernels::cmp::eq;
use arrow::compute::nullif;
use arrow::datatypes::DataType;
use datafusion::common::tree_node::{Transformed, TreeNode};
use datafusion::common::{DFSchema, Result, internal_err};
use datafusion::config::ConfigOptions;
use datafusion::functions::core;
use datafusion::logical_expr::expr::InList;
use datafusion::logical_expr::{
    Aggregate, ColumnarValue, Documentation, Expr, LogicalPlan, ScalarFunctionArgs, ScalarUDF,
    ScalarUDFImpl, Signature,
};
use datafusion::optimizer::AnalyzerRule;

use super::rewrite::type_of;
use super::zero::{with_one_zero, wrap};
use crate::operands::{
    any_expr, are_scalars, element_of, has_part, inputs, map_named_expressions, scalar_or_array,
};
use crate::top_down::changes_top_down;

/// Functions that compare the elements of their first argument with their second, or with its elements.
const OF_ELEMENTS: [&str; 10] = [
    "array_has_all",
    "array_has_any",
    "array_position",
    "array_positions",
    "array_remove",
    "array_remove_all",
    "array_remove_n",
    "array_replace",
    "array_replace_all",
    "array_replace_n",
];

/// The longest list of IN over a column that the engine replaces by comparisons.
const SHORT_LIST: usize = 3;

/// Gives numbers one zero where the engine would compare their bits. It runs after the rule that makes types equal, and after the
/// optimizer has simplified expressions.
#[derive(Debug)]
pub(crate) struct EqualZeros;

impl AnalyzerRule for EqualZeros {
    fn name(&self) -> &str {
        "equal_zeros"
    }

    fn analyze(&self, plan: LogicalPlan, _: &ConfigOptions) -> Result<LogicalPlan> {
        let changed =
            plan.transform_up_with_subqueries(|plan| in_expressions(plan, may_compare_bits))?;
        Ok(changed.data)
    }
}

changes_top_down!(EqualZeros, "equal_zeros", in_lists);

fn in_lists(plan: LogicalPlan) -> Result<Transformed<LogicalPlan>> {
    match plan {
        // A table has accepted its conditions as they are.
        LogicalPlan::TableScan(_) => Ok(Transformed::no(plan)),
        _ => in_expressions(plan, |part| matches!(part, Expr::InList(_))),
    }
}

/// Gives the parts of a node's expressions for which `is_one` is true one zero.
fn in_expressions(
    plan: LogicalPlan,
    is_one: fn(&Expr) -> bool,
) -> Result<Transformed<LogicalPlan>> {
    if !any_expr(&plan, |expr| has_part(expr, is_one)) {
        return Ok(Transformed::no(plan));
    }
    let schema = inputs(&plan)?;
    map_named_expressions(plan, |expr| {
        expr.transform_up(|part| {
            Ok(match is_one(&part) {
                true => with_equal_zeros(part, &schema),
                false => Transformed::no(part),
            })
        })
    })
}

/// The expression with one zero where the engine would compare the bits of numbers: for expressions outside of plans. Types must be those
/// that operators require.
///
/// # Errors
///
/// None: walks over expressions give results.
pub fn equal_zeros(expr: Expr, schema: &DFSchema) -> Result<Expr> {
    let changed = expr.transform_up(|part| Ok(with_equal_zeros(part, schema)))?;
    Ok(changed.data)
}

fn may_compare_bits(part: &Expr) -> bool {
    match part {
        Expr::Case(case) => case.expr.is_some(),
        Expr::InList(_) | Expr::WindowFunction(_) => true,
        Expr::AggregateFunction(call) => call.params.distinct,
        Expr::ScalarFunction(call) => OF_ELEMENTS.contains(&call.name()),
        _ => false,
    }
}

/// One node of an expression.
fn with_equal_zeros(mut expr: Expr, schema: &DFSchema) -> Transformed<Expr> {
    let mut is_changed = false;
    match &mut expr {
        Expr::Case(case) => {
            // Without an operand they are conditions.
            if let Some(of) = &mut case.expr {
                is_changed |= wrap_number(of, schema);
                for (when, _) in &mut case.when_then_expr {
                    is_changed |= wrap_number(when, schema);
                }
            }
        }
        Expr::InList(list) if !becomes_comparisons(list) => {
            is_changed |= wrap_number(&mut list.expr, schema);
            for value in &mut list.list {
                is_changed |= wrap_number(value, schema);
            }
        }
        Expr::AggregateFunction(call) if call.params.distinct => {
            for value in &mut call.params.args {
                is_changed |= wrap_number(value, schema);
            }
            // The engine requires that they are arguments.
            for key in &mut call.params.order_by {
                is_changed |= wrap_number(&mut key.expr, schema);
            }
        }
        Expr::WindowFunction(call) => {
            let params = &mut call.params;
            for key in &mut params.partition_by {
                is_changed |= wrap_number(key, schema);
            }
            if params.distinct {
                for value in &mut params.args {
                    is_changed |= wrap_number(value, schema);
                }
            }
        }
        Expr::ScalarFunction(call) if OF_ELEMENTS.contains(&call.name()) => {
            for value in call.args.iter_mut().take(2) {
                is_changed |= has_numbers(value, schema) && wrap(value);
            }
        }
        _ => {}
    }
    Transformed::new_transformed(expr, is_changed)
}

/// The key of an operator that compares bits.
pub(crate) fn key_with_one_zero(key: &Expr, schema: &DFSchema) -> Expr {
    let mut one = key.clone();
    wrap_number(&mut one, schema);
    one
}

fn wrap_number(expr: &mut Expr, schema: &DFSchema) -> bool {
    is_number(expr, schema) && wrap(expr)
}

/// Whether the engine replaces a list of IN by comparisons, which a source can use.
fn becomes_comparisons(list: &InList) -> bool {
    matches!(*list.expr, Expr::Column(_)) && list.list.len() <= SHORT_LIST
}

/// Whether the expression is a floating point number. One without a type yet, such as a parameter, is not.
fn is_number(expr: &Expr, schema: &DFSchema) -> bool {
    type_of(expr, schema).is_ok_and(|of| of.is_floating())
}

/// Whether it is one, or an array of them.
fn has_numbers(expr: &Expr, schema: &DFSchema) -> bool {
    type_of(expr, schema).is_ok_and(|of| {
        let element = element_of(&of).map_or(&of, |field| field.data_type());
        element.is_floating()
    })
}

/// Gives the keys of groups one zero, where there are several keys. It runs after the rules that make groups.
#[derive(Debug)]
pub(crate) struct EqualZeroGroups;

changes_top_down!(EqualZeroGroups, "equal_zero_groups", in_groups);

fn in_groups(plan: LogicalPlan) -> Result<Transformed<LogicalPlan>> {
    let aggregate = match plan {
        LogicalPlan::Aggregate(aggregate) => aggregate,
        other => return Ok(Transformed::no(other)),
    };
    let of_sets = |key: &Expr| matches!(key, Expr::GroupingSet(_));
    if aggregate.group_expr.len() < 2 || aggregate.group_expr.iter().any(of_sets) {
        return Ok(Transformed::no(LogicalPlan::Aggregate(aggregate)));
    }
    let columns = Arc::clone(aggregate.input.schema());
    let mut is_changed = false;
    let mut keys = aggregate.group_expr.clone();
    for key in &mut keys {
        if !is_number(key, &columns) {
            continue;
        }
        let (relation, name) = key.qualified_name();
        let mut one = std::mem::take(key).unalias();
        is_changed |= wrap(&mut one);
        *key = one.alias_qualified(relation, name);
    }
    if !is_changed {
        return Ok(Transformed::no(LogicalPlan::Aggregate(aggregate)));
    }
    let Aggregate {
        input,
        aggr_expr,
        schema,
        ..
    } = aggregate;
    let aggregate = Aggregate::try_new_with_schema(input, keys, aggr_expr, schema)?;
    Ok(Transformed::yes(LogicalPlan::Aggregate(aggregate)))
}

/// `nullif`, by which `-0.0` equals `0.0`.
#[must_use]
pub(crate) fn null_if() -> ScalarUDF {
    ScalarUDF::from(NullIf {
        inner: core::nullif(),
    })
}

/// The library's function, with comparisons of numbers by their value.
#[derive(Debug, PartialEq, Eq, Hash)]
struct NullIf {
    inner: Arc<ScalarUDF>,
}

impl ScalarUDFImpl for NullIf {
    fn name(&self) -> &str {
        self.inner.name()
    }

    fn signature(&self) -> &Signature {
        self.inner.signature()
    }

    fn return_type(&self, types: &[DataType]) -> Result<DataType> {
        self.inner.return_type(types)
    }

    fn documentation(&self) -> Option<&Documentation> {
        self.inner.documentation()
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let [value, other] = args.args.as_slice() else {
            return internal_err!("{} takes two values", self.name());
        };
        if !value.data_type().is_floating() {
            return self.inner.invoke_with_args(args);
        }
        let is_scalar = are_scalars([value, other]);
        let rows = if is_scalar { 1 } else { args.number_rows };
        let other: Box<dyn Datum> = match with_one_zero(other)? {
            ColumnarValue::Array(others) => Box::new(others),
            ColumnarValue::Scalar(other) => Box::new(Scalar::new(other.to_array()?)),
        };
        let compared = with_one_zero(value)?.to_array(rows)?;
        let equal = eq(&compared, other.as_ref())?;
        let result = nullif(&value.to_array(rows)?, &equal)?;
        scalar_or_array(result, is_scalar)
    }
}
