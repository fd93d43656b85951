//! Operands of expressions that get one type, for the analyzer rules that choose the type; walks over expressions and plans that
//! rules share; arguments and results of functions.

use std::sync::Arc;

use arrow::array::ArrayRef;
use arrow::datatypes::{DataType, FieldRef};
use datafusion::common::tree_node::{Transformed, TreeNode as _, TreeNodeRecursion};
use datafusion::common::{DFSchema, Result, ScalarValue, internal_err};
use datafusion::logical_expr::expr_rewriter::NamePreserver;
use datafusion::logical_expr::utils::merge_schema;
use datafusion::logical_expr::{ColumnarValue, Expr, LogicalPlan, LogicalPlanBuilder, Subquery};

/// The columns that expressions of a plan may use.
pub(crate) fn inputs(plan: &LogicalPlan) -> Result<DFSchema> {
    let mut schema = merge_schema(&plan.inputs());
    if let LogicalPlan::TableScan(scan) = plan {
        schema.merge(&DFSchema::try_from_qualified_schema(
            scan.table_name.clone(),
            &scan.source.schema(),
        )?);
    }
    Ok(schema)
}

/// The operands of a node that get one type, in groups: both sides of an operator, the operands of BETWEEN and IN, and for CASE
/// the compared values and the results. Empty for any other node.
pub(crate) fn of_one_type(expr: &mut Expr) -> Vec<Vec<&mut Expr>> {
    match expr {
        Expr::BinaryExpr(binary) => vec![vec![&mut *binary.left, &mut *binary.right]],
        Expr::Between(between) => {
            vec![vec![
                &mut *between.expr,
                &mut *between.low,
                &mut *between.high,
            ]]
        }
        Expr::InList(of) => vec![std::iter::once(&mut *of.expr).chain(&mut of.list).collect()],
        Expr::Case(case) => {
            let branches = case.when_then_expr.iter_mut();
            let branches = branches.map(|(when, then)| (&mut **when, &mut **then));
            let (whens, mut results): (Vec<_>, Vec<_>) = branches.unzip();
            results.extend(case.else_expr.iter_mut().map(|expr| &mut **expr));
            // Without an operand they are conditions.
            match &mut case.expr {
                Some(of) => {
                    let compared = std::iter::once(&mut **of).chain(whens);
                    vec![compared.collect(), results]
                }
                None => vec![results],
            }
        }
        _ => Vec::new(),
    }
}

/// Replaces the only column of a subquery by the result of `cast`, if `cast` returns that it changed it.
pub(crate) fn cast_rows(
    subquery: &mut Subquery,
    cast: impl FnOnce(&mut Expr) -> bool,
) -> Result<bool> {
    let rows = Arc::clone(&subquery.subquery);
    let mut column = Expr::Column(rows.schema().columns().remove(0));
    let name = column.schema_name().to_string();
    if !cast(&mut column) {
        return Ok(false);
    }
    let rows = LogicalPlanBuilder::from(rows).project([column.alias(name)])?;
    *subquery = with_rows(subquery, rows.build()?);
    Ok(true)
}

/// A subquery over `plan` that keeps the place of `of` in the text.
pub(crate) fn with_rows(of: &Subquery, plan: impl Into<Arc<LogicalPlan>>) -> Subquery {
    let plan = plan.into();
    Subquery {
        outer_ref_columns: plan.all_out_ref_exprs(),
        subquery: plan,
        spans: of.spans.clone(),
    }
}

/// The subquery of `IN`, `EXISTS`, `ANY` or `ALL`, or a scalar subquery.
pub(crate) fn subquery_of(expr: &Expr) -> Option<&Subquery> {
    match expr {
        Expr::InSubquery(of) => Some(&of.subquery),
        Expr::Exists(of) => Some(&of.subquery),
        Expr::SetComparison(of) => Some(&of.subquery),
        Expr::ScalarSubquery(of) => Some(of),
        _ => None,
    }
}

/// Changes the expressions of one node, and no others; its columns keep their names.
///
/// # Errors
///
/// Those of `change`.
pub fn map_named_expressions(
    plan: LogicalPlan,
    mut change: impl FnMut(Expr) -> Result<Transformed<Expr>>,
) -> Result<Transformed<LogicalPlan>> {
    let names = NamePreserver::new(&plan);
    plan.map_expressions(|expr| {
        let name = names.save(&expr);
        Ok(change(expr)?.update_data(|expr| name.restore(expr)))
    })
}

/// The only argument of a function, or its type or field.
///
/// # Errors
///
/// There are none or several.
pub fn only_argument<'a, T>(function: &str, arguments: &'a [T]) -> Result<&'a T> {
    match arguments {
        [only] => Ok(only),
        _ => internal_err!("{function} takes one value"),
    }
}

/// Whether the values are the same for all rows: a function of them computes one row.
pub(crate) fn are_scalars<'a>(values: impl IntoIterator<Item = &'a ColumnarValue>) -> bool {
    let mut values = values.into_iter();
    values.all(|value| matches!(value, ColumnarValue::Scalar(_)))
}

/// The result of a function that has computed these values: the only one as a scalar, if its arguments are scalars.
pub(crate) fn scalar_or_array(values: ArrayRef, is_scalar: bool) -> Result<ColumnarValue> {
    Ok(match is_scalar {
        true => ColumnarValue::Scalar(ScalarValue::try_from_array(&values, 0)?),
        false => ColumnarValue::Array(values),
    })
}

/// Whether `is_one` is true for an expression of this node; its inputs are not searched.
pub(crate) fn any_expr(plan: &LogicalPlan, is_one: impl Fn(&Expr) -> bool) -> bool {
    let mut is_found = false;
    // The closure returns no error.
    let _ = plan.apply_expressions(|expr| {
        is_found |= is_one(expr);
        Ok(until(is_found))
    });
    is_found
}

/// Whether `is_one` is true for the expression or a part of it; subqueries are not searched.
pub(crate) fn has_part(expr: &Expr, is_one: impl Fn(&Expr) -> bool) -> bool {
    let found = expr.exists(|part| Ok(is_one(part)));
    // The closure returns no error.
    found.unwrap_or(true)
}

/// Whether `is_one` is true for a node of the plan, or of the subqueries in its expressions.
pub(crate) fn any_node(plan: &LogicalPlan, is_one: impl Fn(&LogicalPlan) -> bool) -> Result<bool> {
    let mut is_found = false;
    plan.apply_with_subqueries(|node| {
        is_found |= is_one(node);
        Ok(until(is_found))
    })?;
    Ok(is_found)
}

fn until(is_found: bool) -> TreeNodeRecursion {
    match is_found {
        true => TreeNodeRecursion::Stop,
        false => TreeNodeRecursion::Continue,
    }
}

/// The elements of an array.
pub(crate) fn element_of(array: &DataType) -> Option<&FieldRef> {
    match array {
        DataType::List(field) | DataType::LargeList(field) | DataType::FixedSizeList(field, _) => {
            Some(field)
        }
        _ => None,
    }
}
